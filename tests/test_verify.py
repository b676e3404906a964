import json
import os
import pickle
import sys
import zipfile

import pytest
from click.testing import CliRunner
from records import saved, start, write_run

from xtts_gatekeeper.checkpoints.integrity import scan
from xtts_gatekeeper.checkpoints.verify import verify_file, verify_paths
from xtts_gatekeeper.cli import cli, main
from xtts_gatekeeper.errors import UserError

torch = pytest.importorskip("torch")
save_model = pytest.importorskip("trainer.io").save_model


def write(path, step=5, optimizer=True, spoil=None, **state):
    """A checkpoint of a small model as the Trainer saves it; `spoil` may change model and optimizer before."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    adam = torch.optim.AdamW(model.parameters())
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    adam.step()
    if spoil is not None:
        with torch.no_grad():
            spoil(model, adam)
    config = {"lr": 5e-6, "audio": {"sample_rate": 22050}}
    scheduler = [torch.optim.lr_scheduler.ConstantLR(adam)]
    given = {"optimizer": [adam], "scheduler": scheduler} if optimizer else {}
    save_model(config, model, path, current_step=step, epoch=1, model_loss={"train_loss": 1.0}, **given, **state)
    return path


def resave(path, **changes):
    """Change the state in a file; `...` removes a key."""
    state = {**torch.load(path, weights_only=True), **changes}
    torch.save({key: value for key, value in state.items() if value is not ...}, path)
    return path


def flip(path, what=b"", place=None):
    data = bytearray(path.read_bytes())
    data[data.index(what) if place is None else place] ^= 1
    path.write_bytes(data)


def flip_weight(path):
    """Flip a bit of a tensor."""
    with zipfile.ZipFile(path) as archive:
        record = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
    flip(path, place=record.header_offset + 130)


# One file


def test_a_checkpoint_of_the_trainer_is_intact_in_every_way(tmp_path):
    path = write(tmp_path / "checkpoint_5.pth")
    report = verify_file(path)
    assert report.to_dict() == {
        "path": str(path),
        "also": [],
        "bytes": path.stat().st_size,
        "intact": True,
        "problems": [],
        "not_checked": [],
        "kind": "resumable",
        "step": 5,
        "epoch": 1,
        "digest": scan(path).digest,
        "digest_known": False,
        "seconds": report.seconds,
    }
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_best_model_without_optimizer_is_weights_and_a_checkpoint_without_one_would_break_a_resume(tmp_path):
    best = verify_file(write(tmp_path / "best_model_5.pth", optimizer=False))
    assert (best.kind, best.problems) == ("weights", [])
    latest = verify_file(write(tmp_path / "checkpoint_5.pth", optimizer=False))
    assert latest.kind == "weights"
    assert latest.problems == ["it has no optimizer: continue_path would choose it and it cannot be resumed"]


@pytest.mark.parametrize("name", ["checkpoint_7.pth", "best_model_7.pth"])
def test_a_name_that_does_not_fit_the_step_is_a_problem(tmp_path, name):
    assert verify_file(write(tmp_path / name)).problems == [f"it is named {name} and holds step 5"]


@pytest.mark.parametrize("name", ["best_model.pth", "my_model.pth", "model.pth", "checkpoint_5_old.pth"])
def test_a_name_without_a_step_promises_none(tmp_path, name):
    assert verify_file(write(tmp_path / name)).intact


@pytest.mark.parametrize("key", ["step", "epoch", "config"])
def test_a_missing_key_is_a_problem_of_a_trainers_checkpoint_alone(tmp_path, key):
    path = resave(write(tmp_path / "checkpoint_5.pth"), **{key: ...})
    assert [f"lacks {key}" in problem for problem in verify_file(path).problems] == [True]
    assert verify_file(path.rename(tmp_path / "model.pth")).intact


def test_what_is_no_checkpoint_is_read_byte_by_byte_and_no_more_is_asked(tmp_path):
    path = tmp_path / "dvae.pth"
    torch.save({"codebook": torch.tensor([float("nan")] * 50)}, path)
    report = verify_file(path)
    assert (report.kind, report.problems, report.step) == ("other", [], None)
    assert report.not_checked == ["its numbers: it is no checkpoint"]
    flip_weight(path)
    assert "CRC" in verify_file(path).problems[0]
    torch.save({"codebook": torch.ones(2)}, tmp_path / "checkpoint_5.pth")
    assert "is no checkpoint" in verify_file(tmp_path / "checkpoint_5.pth").problems[0]


def nan_in_model(model, adam):
    model[0].weight[1, 2] = float("nan")


def inf_in_both(model, adam):
    model[1].bias[0] = float("-inf")
    adam.state[model[0].bias]["exp_avg"][1] = float("inf")


def nan_in_optimizer(model, adam):
    adam.state[model[1].weight]["exp_avg_sq"][0] = float("nan")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (nan_in_model, "model.0.weight has values that are not finite"),
        (inf_in_both, "model.1.bias has values that are not finite, and so have 1 more tensors"),
        (nan_in_optimizer, "optimizer.0.state.2.exp_avg_sq has values that are not finite"),
    ],
)
def test_numbers_that_are_not_finite_are_named(tmp_path, spoil, said):
    assert verify_file(write(tmp_path / "checkpoint_5.pth", spoil=spoil)).problems == [said]


@pytest.mark.parametrize("kind", ["float64", "float16", "bfloat16", "float8_e5m2", "complex64"])
def test_numbers_of_every_type_are_looked_at(tmp_path, kind):
    good, bad = (torch.tensor([1.0, last, 2.0]).to(getattr(torch, kind)) for last in (3.0, float("nan")))
    more = {"none": torch.ones(0), "whole": torch.ones(2, dtype=torch.long), "sparse": torch.eye(3).to_sparse()}
    torch.save({"model": {"a": good, **more}}, tmp_path / "model.pth")
    assert verify_file(tmp_path / "model.pth").intact
    torch.save({"model": {"a": good, **more, "b": bad}}, tmp_path / "model.pth")
    assert verify_file(tmp_path / "model.pth").problems == ["model.b has values that are not finite"]


class Runs:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_hostile_file_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "checkpoint_5.pth", tmp_path / "marker"
    torch.save({"model": {"a": torch.ones(2)}, "config": Runs(f"echo x > {marker}")}, path)
    report = verify_file(path)
    assert report.kind == "unreadable"
    assert f"its pickle is not safe: it wants to run {os.system.__module__}.system" in report.problems[0]
    assert not marker.exists()


def test_two_readers_cannot_be_shown_two_different_pickles(tmp_path):
    """The first record is harmless, and the directory names another one that is not."""
    path, marker = tmp_path / "model.pth", tmp_path / "marker"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"model": {}}, 2))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/data.pkl", pickle.dumps({"model": Runs(f"echo x > {marker}")}, 2))
    assert not verify_file(path).intact
    assert not marker.exists()


def test_a_file_with_coqui_config_objects_is_loaded_without_their_classes(tmp_path):
    name = "TTS.tts.models.xtts"
    had = sys.modules.get(name)
    sys.modules[name] = module = type(sys)(name)
    try:
        module.XttsArgs = type("XttsArgs", (), {"__module__": name})
        args = module.XttsArgs()
        args.gpt_layers = 30
        torch.save({"config": {"model_args": args}, "model": {"a": torch.ones(2)}}, tmp_path / "model.pth")
    finally:
        sys.modules.pop(name)
        if had is not None:
            sys.modules[name] = had
    report = verify_file(tmp_path / "model.pth")
    assert (report.kind, report.problems, report.not_checked) == ("weights", [], [])


def test_the_format_before_torch_1_6_has_no_checksums_and_the_rest_is_checked(tmp_path):
    path = write(tmp_path / "checkpoint_5.pth")
    state = torch.load(path, weights_only=True)
    torch.save(state, path, _use_new_zipfile_serialization=False)
    report = verify_file(path)
    assert (report.kind, report.problems, report.step, report.digest) == ("resumable", [], 5, None)
    assert report.not_checked == ["its checksums: torch's format before 1.6 has none"]
    path.write_bytes(path.read_bytes()[:-40])
    assert "torch cannot load it" in verify_file(path).problems[0]


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"PK\3\4", b"\x80", b"\x80\x02}q\x00."])
def test_what_is_no_file_of_torchs_is_unreadable_with_one_reason(tmp_path, content):
    (tmp_path / "checkpoint_5.pth").write_bytes(content)
    report = verify_file(tmp_path / "checkpoint_5.pth")
    assert (report.kind, report.intact, len(report.problems)) == ("unreadable", False, 1)


def test_a_damaged_file_still_says_what_it_is(tmp_path):
    path = write(tmp_path / "checkpoint_5.pth")
    flip_weight(path)
    report = verify_file(path)
    assert (report.kind, report.step, len(report.problems)) == ("resumable", 5, 1)
    assert report.not_checked == ["its numbers: the file is damaged"]


def test_without_torch_the_rest_is_checked_and_that_is_said(tmp_path, monkeypatch):
    good, bad = write(tmp_path / "checkpoint_5.pth"), write(tmp_path / "checkpoint_7.pth", spoil=nan_in_model)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert verify_file(good).intact
    assert verify_file(good).not_checked == [
        "whether torch loads it, and its numbers: torch cannot be imported (ModuleNotFoundError)"
    ]
    assert verify_file(bad).problems == ["it is named checkpoint_7.pth and holds step 5"]


# With a journal


@pytest.fixture
def run(tmp_path):
    """A run of ours with two checkpoints, whose journal has their digests."""
    folder = tmp_path / "run"
    folder.mkdir()
    files = [write(folder / "checkpoint_5.pth"), write(folder / "best_model_3.pth", step=3, optimizer=False)]
    os.link(files[1], folder / "best_model.pth")
    write_run(folder, start())
    lines = []
    for file in files:
        event = saved(5, path=file.name, bytes=file.stat().st_size).to_dict()
        lines.append(json.dumps({**event, "digest": scan(file).digest}) + "\n")
    with (folder / "gatekeeper" / "journal.jsonl").open("a", encoding="utf-8") as journal:
        journal.writelines(lines)
    return folder


def test_files_of_our_run_are_compared_with_what_was_written(run):
    reports = verify_paths([run])
    assert [(report.digest_known, report.intact) for report in reports] == [(True, True)] * 2
    assert verify_file(run / "best_model.pth").digest_known is False
    write(run / "checkpoint_5.pth")
    report = verify_file(run / "checkpoint_5.pth")
    assert (report.digest_known, len(report.problems)) == (True, 1)
    assert "not the file that was written" in report.problems[0]


def test_a_flip_that_only_the_digest_shows_is_found_in_our_run(run):
    path = run / "checkpoint_5.pth"
    flip(path, place=path.read_bytes().rindex(b"PK\6\6") + 12)
    assert scan(path).problem is None
    assert "not the file that was written" in verify_file(path).problems[0]


def test_a_journal_that_cannot_be_read_is_said_and_the_files_are_checked(run):
    (run / "gatekeeper" / "journal.jsonl").write_text("no journal\n")
    for report in verify_paths([run]):
        assert report.intact
        assert report.not_checked == ["the digest from the time of writing: the run's journal cannot be read"]


def test_names_of_one_file_are_checked_once_and_the_numbered_name_leads(run):
    reports = verify_paths([run, run / "best_model.pth", run / "checkpoint_5.pth"])
    assert [(report.path, report.also) for report in reports] == [
        (str(run / "best_model_3.pth"), [str(run / "best_model.pth")]),
        (str(run / "checkpoint_5.pth"), []),
    ]


def test_every_name_of_a_file_has_to_fit(run):
    os.link(run / "best_model_3.pth", run / "checkpoint_9.pth")
    report = verify_paths([run])[0]
    assert len(report.problems) == 2
    assert "named checkpoint_9.pth and holds step 3" in report.problems[0]


# Folders


def test_in_a_run_the_trainers_files_are_meant_by_number_and_elsewhere_every_pth(tmp_path):
    for name in ("checkpoint_900.pth", "checkpoint_2000.pth", "dvae.pth", "checkpoint_1.pth.partial"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "checkpoint_3.pth").mkdir()
    assert [report.path for report in verify_paths([tmp_path])] == [
        str(tmp_path / name) for name in ("checkpoint_900.pth", "checkpoint_2000.pth")
    ]
    for name in ("checkpoint_900.pth", "checkpoint_2000.pth"):
        (tmp_path / name).unlink()
    assert [report.path for report in verify_paths([tmp_path])] == [str(tmp_path / "dvae.pth")]


def test_a_link_to_nowhere_is_a_broken_file(tmp_path):
    (tmp_path / "best_model.pth").symlink_to(tmp_path / "gone.pth")
    (report,) = verify_paths([tmp_path])
    assert (report.kind, report.intact) == ("unreadable", False)
    assert verify_paths([tmp_path / "best_model.pth"])[0].problems == report.problems


def test_a_file_that_was_pruned_meanwhile_is_not_broken(run):
    def prune(path):
        if path.endswith("best_model_3.pth"):
            (run / "checkpoint_5.pth").unlink()

    (report,) = verify_paths([run], progress=prune)
    assert (report.path, report.intact) == (str(run / "best_model_3.pth"), True)


@pytest.mark.parametrize(("place", "said"), [("missing", "does not exist"), (".", r"holds no \.pth file")])
def test_a_path_with_nothing_to_check_is_bad_input(tmp_path, place, said):
    with pytest.raises(UserError, match=said):
        verify_paths([tmp_path / place])


# The verb


def call(*arguments):
    return CliRunner().invoke(cli, ["verify", *map(str, arguments)])


def test_the_verb_exits_with_0_when_all_is_intact_and_says_it(run):
    done = call(run)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.count("intact") == 2
    assert done.stdout.startswith(f"In {run}:\n")
    assert "best_model_3.pth" in done.stdout


def test_the_verb_exits_with_1_when_a_file_is_broken_and_says_why(run):
    flip_weight(run / "checkpoint_5.pth")
    done = call(run)
    assert done.exit_code == 1
    assert "broken" in done.stdout
    assert "checkpoint_5.pth: the CRC of archive/data/0 does not hold\n" in done.stdout


def test_the_json_of_the_verb_is_one_document_on_stdout(run):
    flip_weight(run / "checkpoint_5.pth")
    done = call(run, "--json", "--threads", 2)
    document = json.loads(done.stdout)
    assert (done.exit_code, done.stderr, document["intact"]) == (1, "", False)
    assert [file["intact"] for file in document["files"]] == [True, False]
    assert document["files"] == [
        {**report.to_dict(), "seconds": file["seconds"]}
        for report, file in zip(verify_paths([run]), document["files"], strict=True)
    ]


def test_files_of_several_folders_are_told_with_their_folders(run, tmp_path):
    torch.save(torch.ones(2), tmp_path / "mel_stats.pth")
    done = call(run, tmp_path / "mel_stats.pth")
    assert done.exit_code == 0
    assert not done.stdout.startswith("In ")
    assert "Not checked in 1 of 3: its numbers: it is no checkpoint" in done.stdout


@pytest.mark.parametrize("arguments", [["missing.pth"], ["."], [], [".", "--threads", "0"]])
def test_bad_input_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["xtts-gatekeeper", "verify", *arguments])
    with pytest.raises(SystemExit) as exit_code:
        main()
    told = capsys.readouterr()
    assert (exit_code.value.code, told.out) == (2, "")
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
