"""`--resume` and `--exclude` of the recipes: what they go on with, and what they leave out."""

import os
import sys
from pathlib import Path

import pytest
from records import ended, saved, start, write_run

from xtts_gatekeeper.crashes.restart import VARIABLE, Restart
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.recipe import go_on, load_clips, newest_run, parse_flags, recipe_parser
from xtts_gatekeeper.record import journal_path
from xtts_gatekeeper.record.events import Crash, End


@pytest.fixture
def argv(monkeypatch):
    """The command line of a recipe that was given nothing for the Trainer."""
    monkeypatch.delenv(VARIABLE, raising=False)
    arguments = ["recipe.py"]
    monkeypatch.setattr(sys, "argv", arguments)
    return arguments


@pytest.fixture
def make(tmp_path):
    """Make a run folder of `line`: `make("line-a", *events, age=seconds)`."""

    def run(name, *events, age=0, checkpoint=True, config=True, journal=True):
        folder = tmp_path / name
        folder.mkdir()
        if checkpoint:
            (folder / "checkpoint_3.pth").write_bytes(b"PK")
        if config:
            (folder / "config.json").write_text("{}")
        if journal:
            write_run(folder, start(), saved(3), *events)
            os.utime(journal_path(folder), (1e9 - age, 1e9 - age))
        return folder

    return run


def end(how, cause=""):
    return End(step=9, epoch=2, how=how, cause=cause)


CRASH = Crash(step=9, epoch=2, kind="killed", message="m", decision="stop")


# Which run


def test_the_run_that_was_written_to_last_is_the_newest(make, tmp_path):
    make("line-c", age=300)
    newest = make("line-a", age=100)
    make("line-b", age=200)
    assert newest_run(tmp_path, "line") == newest


@pytest.mark.parametrize("lack", ["checkpoint", "config", "journal"])
def test_a_folder_that_nothing_can_be_gone_on_with_is_passed_over(make, tmp_path, lack):
    older = make("line-a", age=100)
    make("line-b", **{lack: False})
    assert newest_run(tmp_path, "line") == older


def test_runs_of_another_recipe_are_passed_over(make, tmp_path):
    make("other-a")
    make("lines-a")
    (tmp_path / "line-file").write_text("no folder")
    assert newest_run(tmp_path, "line") is None
    assert newest_run(tmp_path / "none", "line") is None


# Going on


def test_without_the_flag_a_new_run_begins(argv, make, tmp_path, capsys):
    make("line-a")
    go_on(None, tmp_path, "line")
    assert argv == ["recipe.py"] and capsys.readouterr().err == ""


def test_auto_begins_a_new_run_where_there_is_none(argv, tmp_path, capsys):
    go_on("auto", tmp_path / "runs", "line")
    assert argv == ["recipe.py"]
    assert f"there is no run of line in {tmp_path / 'runs'} to go on with" in capsys.readouterr().err


@pytest.mark.parametrize(
    "events",
    [
        [],
        [CRASH],
        [end("terminated")],
        [end("interrupted")],
        [end("crashed"), CRASH],
        [end("refused")],
        [end("stopped", "nonfinite")],
        [end("stopped", "disk_full")],
        [end("stopped", "out_of_memory")],
        [end("finished"), start(9)],
    ],
    ids=lambda events: " ".join(getattr(event, "how", type(event).__name__) for event in events) or "nothing",
)
@pytest.mark.parametrize("auto", [True, False])
def test_a_run_with_something_left_is_gone_on_with(argv, make, tmp_path, capsys, events, auto):
    run = make("line-a", *events)
    go_on("auto" if auto else str(run), tmp_path, "line")
    assert argv == ["recipe.py", "--continue_path", str(run)]
    assert capsys.readouterr().err == f"going on with {run}\n"


@pytest.mark.parametrize(("how", "cause"), [("finished", ""), ("stopped", "verdict"), ("stopped", "")])
@pytest.mark.parametrize("auto", [True, False])
def test_a_run_that_has_done_its_work_ends_the_recipe_well(argv, make, tmp_path, capsys, how, cause, auto):
    """Whatever starts it again and again is done then."""
    run = make("line-a", end(how, cause))
    with pytest.raises(SystemExit) as left:
        go_on("auto" if auto else str(run), tmp_path, "line")
    assert left.value.code == 0
    said = capsys.readouterr().err
    assert said.startswith(f"{run} has {how}: there is nothing to go on with.")
    assert f"--continue_path {run} --coqpit.epochs N" in said and said.count("\n") == 1


@pytest.mark.parametrize("flag", [["--continue_path", "runs/a"], ["--continue_path=runs/a"]])
def test_the_trainers_own_flag_comes_first(argv, make, tmp_path, flag):
    make("line-a", ended(9))
    argv += flag
    go_on("auto", tmp_path, "line")
    assert argv == ["recipe.py", *flag]


@pytest.mark.parametrize("resume", ["auto", "RUN"])
def test_a_supervisor_that_says_what_to_go_on_with_comes_first(argv, make, tmp_path, monkeypatch, resume):
    run = make("line-a", ended(9))
    monkeypatch.setenv(VARIABLE, Restart(scratch="s", runs=("runs/other",)).environment()[VARIABLE])
    go_on(str(run) if resume == "RUN" else resume, tmp_path, "line")
    assert argv == ["recipe.py"]


def test_under_a_supervisor_the_first_process_goes_on_as_without_one(argv, make, tmp_path, monkeypatch):
    run = make("line-a")
    monkeypatch.setenv(VARIABLE, Restart(scratch="s").environment()[VARIABLE])
    go_on("auto", tmp_path, "line")
    assert argv == ["recipe.py", "--continue_path", str(run)]


def test_what_is_no_supervisors_is_told_at_once(argv, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, "{")
    with pytest.raises(UserError, match="which is not ours; unset it"):
        go_on("auto", tmp_path, "line")


@pytest.mark.parametrize("name", ["none", "file"])
def test_a_run_that_is_not_there_is_one_sentence(argv, tmp_path, name):
    (tmp_path / "file").write_text("no run")
    with pytest.raises(UserError, match=f"{tmp_path / name} is no run folder"):
        go_on(str(tmp_path / name), tmp_path, "line")
    assert argv == ["recipe.py"]


@pytest.mark.parametrize("flags", [[], ["--resume", "auto"]])
def test_phase_2_without_phase_1_is_one_sentence(python, tmp_path, flags):
    done = python("recipes/train_phase2.py", "--data", tmp_path, "--output", tmp_path / "runs", *flags)
    assert done.returncode == 2
    said = "xtts-gatekeeper: phase 2 begins with phase 1's weights: give its run by --phase1 or --resume."
    assert done.stderr.splitlines()[-1] == said
    assert not (tmp_path / "runs").exists()


# Leaving clips out


@pytest.fixture
def speech(tmp_path):
    """Twelve clips of noise in LJSpeech layout."""
    soundfile = pytest.importorskip("soundfile")
    numpy = pytest.importorskip("numpy")
    (tmp_path / "wavs").mkdir()
    for number in range(12):
        noise = numpy.random.default_rng(number).uniform(-0.1, 0.1, 2205)
        soundfile.write(tmp_path / "wavs" / f"clip{number}.wav", noise, 22050)
    (tmp_path / "metadata.csv").write_text("".join(f"clip{number}|text {number}\n" for number in range(12)))
    return tmp_path


def recipe_args(speech, *flags):
    return parse_flags(recipe_parser("What it does.", 1e-6), ["--data", *map(str, (speech, *flags))])


def clips(speech, names=None):
    """What `--exclude` of a list with these names leaves, as ids: those to train with and those to evaluate with."""
    exclude = None
    if names is not None:
        exclude = speech / "exclude.txt"
        exclude.write_text("\n".join(names))
    sides = load_clips(recipe_args(speech, *(["--exclude", exclude] if exclude else []), "--eval-fraction", 0.3))
    return tuple([Path(clip["audio_file"]).stem for clip in side] for side in sides)


def test_clips_that_are_listed_are_left_out_and_no_other_is_moved(speech, capsys):
    train, held_out = clips(speech)
    assert capsys.readouterr().err == ""
    assert len(train) + len(held_out) == 12
    assert clips(speech, [train[0], f"{held_out[0]}.wav"]) == (train[1:], held_out[1:])
    assert capsys.readouterr().err == "2 of 12 clips are left out\n"


def test_a_name_that_no_clip_has_is_told(speech, capsys):
    assert clips(speech, ["# of 2025", "", "clip1", "clip99", "x.wav"]) != clips(speech)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "1 of 12 clips are left out"
    assert said[1] == f"WARNING: {speech / 'exclude.txt'} names clips that are not there: clip99, x.wav"


def test_a_list_that_leaves_nothing_is_one_sentence(speech):
    with pytest.raises(UserError, match=r"0 clip\(s\) cannot be split"):
        clips(speech, [f"clip{number}" for number in range(12)])


def test_a_list_that_is_not_there_is_one_sentence(speech):
    with pytest.raises(UserError, match="the list of clips to leave out cannot be read"):
        load_clips(recipe_args(speech, "--exclude", speech / "none.txt"))


# Held out


def stems(samples):
    return [Path(sample["audio_file"]).stem for sample in samples]


def test_a_list_pins_the_clips_to_evaluate_with(speech, capsys):
    (speech / "dev.txt").write_text("clip3\nclip7.wav\nclip99\n")
    train, held_out = load_clips(recipe_args(speech, "--eval-list", speech / "dev.txt"))
    assert stems(held_out) == ["clip3", "clip7"] and len(train) == 10
    said = capsys.readouterr().err.splitlines()
    assert said == [f"WARNING: {speech / 'dev.txt'} names clips that are not there: clip99"]


def test_a_clip_that_is_left_out_is_not_evaluated_with_either(speech):
    (speech / "dev.txt").write_text("clip3\nclip7\n")
    (speech / "bad.txt").write_text("clip7\n")
    flags = ("--eval-list", speech / "dev.txt", "--exclude", speech / "bad.txt")
    train, held_out = load_clips(recipe_args(speech, *flags))
    assert stems(held_out) == ["clip3"] and "clip7" not in stems(train)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--eval-clips", "9", "--eval-fraction", "0.2"], "9 clips are needed; add clips or use eval_fraction="),
        (["--eval-seconds", "0.6", "--eval-fraction", "0.2"], "2 clips and 0.6 s are needed; add clips or use"),
        (["--eval-seconds", "60"], "2 clips and 60 s are needed; add clips"),
    ],
)
def test_a_floor_of_the_eval_set_that_is_not_met_is_one_sentence(speech, flags, said):
    with pytest.raises(UserError) as refused:
        load_clips(recipe_args(speech, *flags))
    assert said in str(refused.value)


@pytest.mark.parametrize("flag", ["--eval-clips 0", "--eval-seconds -1", "--eval-seconds nan"])
def test_a_floor_that_makes_no_sense_is_refused(speech, flag):
    with pytest.raises(UserError, match=flag.replace(" ", " is ")):
        recipe_args(speech, *flag.split())
