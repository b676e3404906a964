"""The report's history on the real Trainer: clips that were trained on land in the eval set, and the loss falls."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from xtts_gatekeeper import read_run
from xtts_gatekeeper.config import CheckpointsConfig, DatasetConfig, GatekeeperConfig
from xtts_gatekeeper.data import load_ljspeech
from xtts_gatekeeper.dataset.coverage import coverage_of
from xtts_gatekeeper.dataset.roster import Roster
from xtts_gatekeeper.gates import evaluate, load_policy
from xtts_gatekeeper.record import Start

MEL = "eval.mel_ce"


@pytest.fixture(scope="module")
def sides(speech):
    """(train, eval) of a first set, and of one to which clips were added and which was shuffled anew."""
    clips = load_ljspeech(speech)
    before = clips[:9], clips[9:12]
    after = clips[2:9] + clips[11:14], clips[:2] + clips[9:11] + clips[14:]
    return before, after


def names(samples):
    return {Path(sample["audio_file"]).name for sample in samples}


def told(events):
    return {Path(name).name for name in events}


@pytest.fixture(scope="module")
def first(make_trainer, sides, tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("leaks"), GatekeeperConfig(), samples=sides[0], epochs=3)
    trainer.fit()
    return Path(trainer.output_path)


@pytest.fixture
def run(first, tmp_path):
    """A copy of the first run, to go on with."""
    return Path(shutil.copytree(first, tmp_path / first.name))


def go_on(make_trainer, run, samples, section=None, *, epochs=5, **config):
    flags = ["--coqpit.epochs", epochs, "--coqpit.start_with_eval", "true"]
    return make_trainer(
        run.parent,
        section or GatekeeperConfig(),
        samples=samples,
        args={"continue_path": str(run), "start_with_eval": True},
        flags=map(str, flags),
        **config,
    )


def restore(make_trainer, output, checkpoint, samples, section=None):
    return make_trainer(
        output, section or GatekeeperConfig(), samples=samples, args={"restore_path": str(checkpoint)}, epochs=1
    )


def test_a_run_remembers_every_clip_that_it_was_trained_on(first, sides):
    roster = Roster(first)
    assert told(clip.name for clip in roster.clips) == names(sides[0][0])
    assert all(len(clip.digest) == 32 for clip in roster.clips)
    record = read_run(first)
    assert record.start.eval_clips_trained_on == 0 and record.start.leaked == []
    assert {e.train_set for e in (*record.evaluations, *record.checkpoints)} == {record.start.train_set}
    for file in first.glob("*.pth"):
        carried = torch.load(file, weights_only=True)["gatekeeper"]["trained_on"]
        assert {carried[at : at + 32] for at in range(0, len(carried), 32)} == roster.digests


def test_the_jump_on_resuming_is_a_leak_and_no_best(make_trainer, run, sides):
    before = read_run(run)
    best = [file.path for file in before.files if file.kind == "best"]
    go_on(make_trainer, run, sides[1], epochs=6).fit()
    record = read_run(run)
    leaked = names(sides[0][0]) & names(sides[1][1])
    assert len(leaked) == 2
    assert told(record.start.leaked) == leaked and record.start.eval_clips_trained_on == 2
    assert [e.leaked for e in record.evaluations] == [0, 0, 0, 2, 2, 2]
    assert [segment.leaked for segment in record.segments] == [0, 2]
    verdict = evaluate(record, load_policy("checklist"))
    assert verdict.verdict == "undecided"
    said = [reason.message for reason in verdict.reasons]
    assert any(message.startswith("2 of the eval clips were trained on, so this is not believed") for message in said)
    assert verdict.latest["value"] < verdict.best["value"]
    assert verdict.best["step"] in [e.step for e in before.evaluations]
    assert [file.path for file in record.files if file.kind == "best"] == best
    assert all((run / name).is_file() for name in best)


def test_an_evaluation_made_on_resuming_itself_is_no_best(make_trainer, sides, tmp_path):
    """As the report's run did it: at the same step, with the checkpoints of the stock Trainer."""
    section = GatekeeperConfig(checkpoints=CheckpointsConfig(prune=False))
    first = make_trainer(tmp_path, section, samples=sides[0], epochs=3, save_step=2)
    first.fit()
    run = Path(first.output_path)
    before = read_run(run)
    go_on(make_trainer, run, sides[1], section, epochs=4).fit()
    record = read_run(run)
    resumed = record.evaluations[len([e for e in record.evaluations if not e.leaked])]
    assert resumed.step == record.start.step and resumed.leaked == 2
    assert evaluate(record, load_policy("checklist")).best["value"] in [e.metrics[MEL] for e in before.evaluations]


def test_the_roster_grows_with_the_training_set(make_trainer, run, sides):
    go_on(make_trainer, run, sides[1], epochs=4).fit()
    assert told(clip.name for clip in Roster(run).clips) == names(sides[0][0]) | names(sides[1][0])


def test_a_leak_can_be_left_out_of_the_evaluations(make_trainer, run, sides):
    section = GatekeeperConfig(dataset=DatasetConfig(leaks="exclude"))
    trainer = go_on(make_trainer, run, sides[1], section)
    trainer.fit()
    record = read_run(run)
    assert record.start.eval_clips == 4 and record.start.leaked == []
    assert any("evaluations leave out 2 of 6 eval clips" in warning for warning in record.start.warnings)
    assert [segment.leaked for segment in record.segments] == [0, 0]
    assert evaluate(record, load_policy("checklist")).best["step"] > 0


def test_a_leak_can_be_refused(make_trainer, run, sides, capsys):
    before = (run / "gatekeeper/journal.jsonl").read_bytes()
    with pytest.raises(SystemExit) as left:
        go_on(make_trainer, run, sides[1], GatekeeperConfig(dataset=DatasetConfig(leaks="refuse")))
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert "2 of 6 eval clips are trained on, or were before: " in said
    assert (run / "gatekeeper/journal.jsonl").read_bytes() == before


def test_a_run_from_a_checkpoint_knows_what_that_was_trained_on(make_trainer, first, sides, tmp_path):
    checkpoint = max(first.glob("checkpoint_*.pth"))
    trainer = restore(make_trainer, tmp_path, checkpoint, sides[1])
    record = read_run(trainer.output_path)
    assert told(record.start.leaked) == names(sides[0][0]) & names(sides[1][1])
    trainer.fit()
    roster = Roster(Path(trainer.output_path))
    assert {clip.run for clip in roster.clips} == {"", first.name}
    assert told(clip.name for clip in roster.clips) == names(sides[0][0]) | names(sides[1][0])


@pytest.mark.parametrize("pattern", ["checkpoint_*.pth", "best_model_*.pth"])
def test_a_checkpoint_that_was_moved_away_still_knows(make_trainer, first, sides, tmp_path, pattern):
    moved = tmp_path / "elsewhere" / "model.pth"
    moved.parent.mkdir()
    shutil.copy(max(first.glob(pattern)), moved)
    trainer = restore(make_trainer, tmp_path / "out", moved, sides[1])
    assert told(read_run(trainer.output_path).start.leaked) == names(sides[0][0]) & names(sides[1][1])


def test_a_grandchild_knows_what_its_grandparent_was_trained_on(make_trainer, first, sides, tmp_path):
    child = restore(make_trainer, tmp_path, max(first.glob("checkpoint_*.pth")), (sides[1][0], sides[0][1]))
    child.fit()
    checkpoint = max(Path(child.output_path).glob("checkpoint_*.pth"))
    grandchild = restore(make_trainer, tmp_path / "more", checkpoint, ([*sides[1][0][:4]], sides[0][0][:2]))
    assert told(read_run(grandchild.output_path).start.leaked) == names(sides[0][0][:2])


def test_a_stock_checkpoint_says_nothing_and_that_is_said(make_trainer, sides, tmp_path):
    stock = make_trainer(tmp_path / "stock", None, samples=sides[0], epochs=1)
    stock.fit()
    checkpoint = max(Path(stock.output_path).glob("best_model_*.pth"))
    start = read_run(restore(make_trainer, tmp_path / "out", checkpoint, sides[1]).output_path).start
    assert start.eval_clips_trained_on == 0
    assert any(f"{checkpoint.name} does not say, and it is not known" in warning for warning in start.warnings)


def test_renamed_and_moved_clips_are_recognised(make_trainer, run, sides, tmp_path):
    """A clip is its content."""
    renamed = []
    for number, sample in enumerate(sides[0][0][:2]):
        path = tmp_path / f"other-{number}.wav"
        shutil.copy(sample["audio_file"], path)
        renamed.append({**sample, "audio_file": str(path), "text": "Another transcript."})
    trainer = go_on(make_trainer, run, (sides[0][0], [*sides[0][1], *renamed]))
    assert told(read_run(trainer.output_path).start.leaked) == {"other-0.wav", "other-1.wav"}


def test_the_draws_of_a_run_are_those_of_its_batches(first, make_trainer, sides, tmp_path, python):
    drawn = []
    trainer = make_trainer(tmp_path, GatekeeperConfig(), samples=sides[0], epochs=2)
    stock = trainer.train_step

    def seen(batch, *args, **kwargs):
        drawn.extend(batch["filenames"])
        return stock(batch, *args, **kwargs)

    trainer.train_step = seen
    trainer.fit()
    run = Path(trainer.output_path)
    found = coverage_of(run)
    assert {clip.name: clip.draws for clip in found.clips if clip.draws} == {n: drawn.count(n) for n in set(drawn)}
    assert len(found.clips) == 9 and found.metric == "loss_mel_ce"
    shown = python("-m", "xtts_gatekeeper", "status", run, "--clips", "--json")
    assert json.loads(shown.stdout)["coverage"] == found.to_dict()
    assert "do not learn with the others" in python("-m", "xtts_gatekeeper", "status", run, "--clips").stdout


def test_a_resume_repeats_no_draw(first, make_trainer, run, sides):
    """Three epochs and then two more are five epochs."""
    go_on(make_trainer, run, sides[0], epochs=5).fit()
    steps = [event.step for event in read_run(run).events if isinstance(event, Start)]
    assert len(steps) == 2
    found = coverage_of(run)
    assert sum(clip.draws for clip in found.clips) == 5 * 9
