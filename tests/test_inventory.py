"""What lies in a run folder, and what the record says of it."""

import os

import pytest
from records import curve, evaluated, judged, saved, scored, start, write_run
from stock_runs import SETTINGS, epoch, restarted, stock_run, write

from xtts_gatekeeper.checkpoints.inventory import candidates, number_in, run_files
from xtts_gatekeeper.checkpoints.resume import record_of
from xtts_gatekeeper.checkpoints.writer import link
from xtts_gatekeeper.record.events import Renamed

F = "/data/runs/voice-1"
LOOKALIKES = ["checkpoint_12.pth.bak", "checkpoint_1e3.pth", "checkpoint_12 (copy).pth", "best_model_١٢.pth"]
LOOKALIKES += [
    "old_checkpoint_5.pth",
    "checkpoint_-5.pth",
    "checkpoint_5.PTH",
    "checkpoint_5.pth.json",
    "checkpoint_.pth",
]


def found(run):
    return candidates(run, record_of(run))


def by_path(run):
    return {file.path: file for file in found(run)}


def journaled(run, *events):
    """A run of ours whose journal has the real sizes of the files that are there."""
    write_run(run, start(), *events)
    return run


def on_disk(run, step, kind="latest", **values):
    """A checkpoint event with the bytes of the file that is written for it."""
    name = f"{'best_model' if kind == 'best' else 'checkpoint'}_{step}.pth"
    path = write(run / name, step, optimizer=kind != "best")
    given = {"bytes": path.stat().st_size, "mtime_ns": path.stat().st_mtime_ns, "resumable": kind != "best", **values}
    return saved(step, kind, **given)


# Runs of ours


def test_a_journaled_file_has_the_metrics_and_gates_of_its_own_evaluation(tmp_path):
    at = evaluated(0, 2.0, step=10)
    verdict = judged(at, "continue")
    object.__setattr__(verdict, "gates", ["A"])
    journaled(tmp_path, at, verdict, scored(0, 20.0), on_disk(tmp_path, 10), on_disk(tmp_path, 20))
    files = by_path(tmp_path)
    assert files["checkpoint_10.pth"].metrics == {"eval.mel_ce": 2.0, "sample.score": 20.0}
    assert files["checkpoint_10.pth"].gates == ("A",)
    assert (files["checkpoint_10.pth"].segment, files["checkpoint_20.pth"].metrics) == ("dev", {})


def test_samples_of_other_prompts_are_not_compared(tmp_path):
    journaled(tmp_path, scored(0, 25.0, prompts="old"), scored(1, 5.0), on_disk(tmp_path, 10), on_disk(tmp_path, 20))
    assert [file.metrics for file in found(tmp_path)] == [{}, {"sample.score": 5.0}]


def test_after_going_back_the_same_step_has_the_newer_evaluation_and_the_last_written_is_last(tmp_path):
    first = [*curve(3.0, 2.0), on_disk(tmp_path, 20)]
    again = [start(10, 1), *curve(9.0, first=1), on_disk(tmp_path, 20), on_disk(tmp_path, 15)]
    journaled(tmp_path, first, again)
    assert [(f.path, f.metrics.get("eval.mel_ce")) for f in found(tmp_path)] == [
        ("checkpoint_20.pth", 9.0),
        ("checkpoint_15.pth", None),
    ]


def test_a_file_that_training_went_on_from_counts_as_just_written(tmp_path):
    events = [on_disk(tmp_path, 10), on_disk(tmp_path, 20)]
    journaled(tmp_path, events, start(10, resumed_from=str(tmp_path / "checkpoint_10.pth")))
    assert [file.step for file in found(tmp_path)] == [20, 10]


def test_orphans_of_a_killed_process_and_files_of_stock_code_are_found_and_older_ones_are_left_alone(tmp_path):
    event = on_disk(tmp_path, 10)
    write(tmp_path / "checkpoint_20.pth")
    write(tmp_path / "best_model_21.pth", loss=(1.0, 2.5))
    write(tmp_path / "best_22.pth", optimizer=False)
    old = write(tmp_path / "checkpoint_99.pth")
    os.utime(old, (1e9, 1e9))
    journaled(tmp_path, event)
    files = by_path(tmp_path)
    assert list(files) == ["checkpoint_10.pth", "checkpoint_20.pth", "best_model_21.pth", "best_22.pth"]
    assert [file.resumable for file in files.values()] == [True, True, True, False]


def test_a_renamed_file_keeps_its_evaluation(tmp_path):
    event = on_disk(tmp_path, 10, "best")
    (tmp_path / "best_model_10.pth").rename(tmp_path / "best_10.pth")
    moved = Renamed(step=10, epoch=0, old="best_model_10.pth", new="best_10.pth", reason="")
    journaled(tmp_path, curve(2.0), event, moved)
    assert by_path(tmp_path)["best_10.pth"].metrics == {"eval.mel_ce": 2.0}


@pytest.mark.parametrize(
    "name", ["../other/checkpoint_5.pth", "/etc/hostname", "..", ".", "", "config.json", "sub/checkpoint_5.pth"]
)
def test_a_journal_that_names_other_files_names_no_candidate(tmp_path, name):
    (tmp_path / "other").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    size = write(tmp_path / "other" / "checkpoint_5.pth").stat().st_size
    sizes = {size, 2}
    for size in sizes:
        journaled(run, saved(5, path=name, bytes=size))
    assert found(run) == []


def test_a_file_of_another_size_than_the_journal_says_is_no_candidate(tmp_path):
    event = on_disk(tmp_path, 10)
    with (tmp_path / "checkpoint_10.pth").open("ab") as file:
        file.write(b"x")
    assert found(journaled(tmp_path, event)) == []


# Stock runs


def test_a_stock_run_with_a_log_has_its_evaluations_and_its_order(tmp_path):
    log = epoch(0, 3.0, F, best=10) + epoch(1, 2.0, F, saved=(15,), best=20) + epoch(2, 2.5, F, saved=(25,))
    run = stock_run(tmp_path / "voice-1", log, "checkpoint_25.pth", "best_model_20.pth", "checkpoint_15.pth")
    assert [(f.path, f.step, f.metrics.get("eval.mel_ce")) for f in found(run)] == [
        ("checkpoint_15.pth", 16, None),
        ("best_model_20.pth", 20, 2.0),
        ("checkpoint_25.pth", 26, None),
    ]


def test_after_a_resume_the_worse_best_of_the_stock_code_has_its_true_loss(tmp_path):
    log = epoch(0, 3.0, F, best=10) + epoch(1, 2.0, F, saved=(15,), best=20) + epoch(2, 2.5, F, saved=(20, 25))
    log += restarted(F, 25) + epoch(2, 9.0, F, base=26, best=36)
    run = stock_run(tmp_path / "voice-1", log, "checkpoint_20.pth", "checkpoint_25.pth", "best_model_36.pth")
    files = by_path(run)
    assert files["best_model_36.pth"].metrics["eval.mel_ce"] == 9.0
    assert files["checkpoint_20.pth"].metrics["eval.mel_ce"] == 2.0
    assert files["checkpoint_25.pth"].metrics == {}


def test_an_evaluation_belongs_to_the_best_model_made_of_it_and_not_to_a_checkpoint_beside_it(tmp_path):
    log = epoch(0, 3.0, F, best=10) + epoch(1, 2.0, F, saved=(10,))
    run = stock_run(tmp_path / "voice-1", log, "best_model_10.pth", "checkpoint_10.pth")
    assert [bool(file.metrics) for file in found(run)] == [True, False]


def test_a_stock_run_without_log_has_the_eval_loss_inside_its_best_models_and_never_a_train_loss(tmp_path):
    losses = {"best_model_20.pth": (0.1, 2.5), "checkpoint_30.pth": (0.2, 1.0), "best_model_40.pth": (0.01, None)}
    run = stock_run(tmp_path / "run", None, *losses, losses=losses)
    assert {f.path: dict(f.metrics) for f in found(run)} == {
        "best_model_20.pth": {"eval.loss": 2.5},
        "checkpoint_30.pth": {},
        "best_model_40.pth": {},
    }


def test_names_that_only_look_like_checkpoints_folders_and_links_are_none(tmp_path):
    run = stock_run(tmp_path / "run", None, "checkpoint_12.pth")
    for name in LOOKALIKES:
        write(run / name, 12)
    (run / "checkpoint_77.pth").mkdir()
    (run / "checkpoint_78.pth").symlink_to(write(tmp_path / "elsewhere.pth", 78))
    (run / "checkpoint_79.pth").symlink_to("nowhere")
    (run / "checkpoint_80.pth").write_bytes(b"PK\3\4 no checkpoint")
    (run / "dvae.pth").write_bytes(b"")
    assert [file.path for file in found(run)] == ["checkpoint_12.pth"]
    assert all(number_in(name) is None for name in LOOKALIKES)


def test_a_best_model_without_number_is_one_where_the_numbered_file_of_its_step_is_gone(tmp_path):
    run = stock_run(tmp_path / "run", None, "checkpoint_30.pth")
    write(run / "best_model.pth", 20, loss=(1.0, 2.5))
    (best, latest) = found(run)
    assert (best.path, best.number, best.metrics) == ("best_model.pth", 20, {"eval.loss": 2.5})
    assert latest.path == "checkpoint_30.pth"
    write(run / "best_model_20.pth")
    assert [file.path for file in found(run)] == ["best_model_20.pth", "checkpoint_30.pth"]


def test_files_of_another_run_are_left_out_whoever_copied_them_in(tmp_path):
    run = stock_run(tmp_path / "run", None, "checkpoint_10.pth")
    write(run / "checkpoint_99.pth", settings={**SETTINGS, "run_name": "other"})
    write(run / "checkpoint_98.pth", settings={**SETTINGS, "output_path": "/elsewhere"})
    assert [file.path for file in found(run)] == ["checkpoint_10.pth"]


def test_names_of_one_file_count_once_on_the_disk(tmp_path):
    size = write(tmp_path / "best_model_5.pth").stat().st_size
    link(tmp_path / "best_model_5.pth", tmp_path / "best_model.pth")
    write(tmp_path / "checkpoint_5.pth")
    (tmp_path / "notes.txt").write_text("x")
    assert sorted(run_files(tmp_path).values()) == [size, size]
