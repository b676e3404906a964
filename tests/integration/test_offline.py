"""One real run, told by its journal, its console log and its TensorBoard events: the same story, the same verdicts."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xtts_gatekeeper import load_policy, read_run
from xtts_gatekeeper.config import GatekeeperConfig
from xtts_gatekeeper.gates.replay import replay

EPOCHS = 11


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_trainer):
    """The folder of a run long enough for both gates, evaluated clip by clip and printed step by step."""
    trainer = make_trainer(
        tmp_path_factory.mktemp("offline"),
        GatekeeperConfig(),
        epochs=EPOCHS,
        eval_batch_size=1,
        print_step=1,
        plot_step=1,
        save_step=1000,
        lr=2e-3,
        report=True,
    )
    trainer.fit()
    return Path(trainer.output_path)


@pytest.fixture(scope="module")
def alone(run, tmp_path_factory):
    """A function that puts one kind of the run's files into a folder of its own."""

    def copy(pattern):
        folder = tmp_path_factory.mktemp("alone")
        for file in run.glob(pattern):
            shutil.copy(file, folder)
        return folder

    return copy


@pytest.fixture(scope="module")
def told(run, alone):
    """The record by each of its sources."""
    return {
        "journal": read_run(run),
        "console": read_run(alone("trainer_0_log.txt")),
        "tensorboard": read_run(alone("events.out.tfevents.*")),
    }


@pytest.mark.parametrize("source", ["console", "tensorboard"])
def test_every_source_has_the_same_evaluations_at_the_same_steps_and_epochs(told, source):
    journal, other = told["journal"], told[source]
    assert other.source == source
    assert [(e.step, e.epoch, other.epochs_done(e)) for e in other.evaluations] == [
        (e.step, e.epoch, journal.epochs_done(e)) for e in journal.evaluations
    ]
    assert len(journal.evaluations) == EPOCHS
    for exact, printed in zip(journal.evaluations, other.evaluations, strict=True):
        assert exact.metrics.keys() == printed.metrics.keys()
        for name, value in exact.metrics.items():
            assert printed.metrics[name] == pytest.approx(value, rel=0.05)  # the Trainer's averages miss a clip


def test_live_journal_console_and_events_give_the_same_verdict_at_each_evaluation(told):
    policy = load_policy()
    live = [verdict.verdict for verdict in told["journal"].verdicts]
    replayed = {source: [row["verdict"] for row in replay(record, policy)["rows"]] for source, record in told.items()}
    assert replayed == {"journal": live, "console": live, "tensorboard": live}
    assert live[:2] == ["undecided"] * 2
    assert "continue" in live


def test_gates_come_due_at_the_same_evaluation_in_every_source(told):
    policy = load_policy()
    due = {
        source: [(row["epochs_done"], row["gates"]) for row in replay(record, policy)["rows"] if row["gates"]]
        for source, record in told.items()
    }
    assert due["journal"] == due["console"] == due["tensorboard"]
    assert due["journal"] == [(5, ["Gate A"]), (10, ["Gate B"])]


def test_the_best_checkpoint_is_the_same_file_in_journal_and_log(run, alone):
    log = alone("trainer_0_log.txt")
    documents = []
    for path in (run, log):
        done = subprocess.run(
            [sys.executable, "-m", "xtts_gatekeeper", "gate", str(path), "--json"], capture_output=True, text=True
        )
        assert done.returncode in (0, 10, 20), done.stderr
        documents.append(json.loads(done.stdout))
    journal, console = documents
    assert journal["verdict"] == console["verdict"]
    assert journal["best"]["step"] == console["best"]["step"]
    assert (run / journal["best"]["checkpoint"]).is_file()


def test_exact_metrics_and_verdicts_are_on_the_dashboard(run, told):
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    journal = told["journal"]
    for name in ("eval.mel_ce", "eval.text_ce", "eval.loss"):
        assert [(p.step, p.value) for p in events.Scalars(f"Gatekeeper/{name}")] == [
            (e.step, pytest.approx(e.metrics[name], rel=1e-6)) for e in journal.evaluations
        ]
    assert [p.value for p in events.Scalars("Gatekeeper/train.mel_ce")] == [
        pytest.approx(e.metrics["train.mel_ce"], rel=1e-6) for e in journal.train_epochs
    ]
    numbers = {"undecided": -1, "continue": 0, "tune": 1, "stop": 2}
    assert [p.value for p in events.Scalars("Gatekeeper/verdict")] == [numbers[v.verdict] for v in journal.verdicts]
    texts = [t.tensor_proto.string_val[0].decode() for t in events.Tensors("Gatekeeper/verdict/text_summary")]
    assert [text.split("**")[1] for text in texts] == [v.verdict for v in journal.verdicts]


def test_the_run_as_a_picture_is_on_the_dashboard_the_first_and_the_last_at_least(run, told):
    from PIL import Image

    pictures = EventAccumulator(str(run), size_guidance={"images": 0}).Reload().Images("Gatekeeper/run")
    evaluations = told["journal"].evaluations
    assert [pictures[0].step, pictures[-1].step] == [evaluations[0].step, evaluations[-1].step]
    drawn = Image.open(io.BytesIO(pictures[-1].encoded_image_string)).convert("RGB")
    assert drawn.width >= 800
    assert len(drawn.getcolors(1 << 20)) > 50


def test_the_training_has_left_a_page_that_tells_how_it_ended(run, told):
    page = (run / "gatekeeper" / "report.html").read_text(encoding="utf-8")
    assert f"{told['journal'].evaluations[-1].metrics['eval.mel_ce']:.4f}" in page
    assert "finished" in page
    assert "Gate B" in page


def test_a_stock_run_is_judged_by_its_log_alone(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, epochs=3, print_step=1)
    trainer.fit()
    done = subprocess.run(
        [sys.executable, "-m", "xtts_gatekeeper", "gate", str(trainer.output_path), "--json"],
        capture_output=True,
        text=True,
    )
    document = json.loads(done.stdout)
    assert document["source"] == "console"
    assert document["evaluations"] == 3
    assert document["model"] == "XTTS"
    assert document["latest"]["step"] == trainer.total_steps_done
    assert done.returncode == {"continue": 0, "tune": 10, "stop": 20, "undecided": 30}[document["verdict"]]


POLICY = """
version: 1
name: mine
gates:
  - name: Late
    after_epochs: 5
    rules:
      - {rule: improved, metric: eval.objective, on_fail: stop}
"""


def test_a_gate_after_the_last_epoch_of_an_own_policy_is_refused_with_its_line(tmp_path, make_trainer, capfd):
    policy = tmp_path / "mine.yaml"
    policy.write_text(POLICY)
    with pytest.raises(SystemExit) as left:
        make_trainer(tmp_path / "runs", GatekeeperConfig(policy=str(policy)), epochs=2)
    assert left.value.code == 2
    assert f"{policy}:5: Late comes after 5 epochs and the run is planned for 2" in capfd.readouterr().err
    assert not list((tmp_path / "runs").glob("*"))


def test_a_gate_of_the_checklist_after_the_last_epoch_is_only_said(tmp_path, make_trainer):
    trainer = make_trainer(tmp_path, GatekeeperConfig(), epochs=2)
    warnings = read_run(trainer.output_path).start.warnings
    assert any("Gate A comes after 5 epochs" in warning for warning in warnings)
