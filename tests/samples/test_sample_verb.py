"""The verb `sample` speaks with any weights of a run by the run's own plan, and never says twice what is there."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from xtts_gatekeeper.base import read_base
from xtts_gatekeeper.cli import cli
from xtts_gatekeeper.data import load_ljspeech
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.samples import speak
from xtts_gatekeeper.samples.sample_verb import Wish, sample
from xtts_gatekeeper.samples.sets import Measured, read_set, write_measured
from xtts_gatekeeper.trainer_port import speech

SAY = "- {id: aye, text: Aye.}\n- {id: nay, text: Nay.}\n"


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The toy does not know how to end: a quarter of a second is enough of it."""
    monkeypatch.setattr(speak, "_PATIENCE", 0.02)
    monkeypatch.setattr(speak, "_MORE_SECONDS", 0.2)


@pytest.fixture(scope="session")
def pristine(xtts, speaking_base, speech, tmp_path_factory):
    """A run folder with two checkpoints, as the Trainer and we leave one: bests at steps 4 and 8."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    (folder / "gatekeeper").mkdir(parents=True)
    config = {"model": "xtts", "model_args": read_base(speaking_base).model_args(), "target_loss": "loss"}
    (folder / "config.json").write_text(json.dumps(config))
    clips = load_ljspeech(speech)[:4]
    (folder / "gatekeeper" / "eval_clips.json").write_text(json.dumps(clips))
    state = {f"xtts.{name}": tensor.clone() for name, tensor in xtts.state_dict().items()}
    for step in (4, 8):
        state["xtts.gpt.final_norm.bias"] = state["xtts.gpt.final_norm.bias"] + 0.1
        content = {"config": config, "model": state, "step": step, "epoch": step // 4}
        torch.save(content, folder / f"best_model_{step}.pth")
    return folder


@pytest.fixture
def run(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "run", copy_function=lambda a, b: Path(b).hardlink_to(a))
    return tmp_path / "run"


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.yaml"
    path.write_text(SAY)
    return path


def say(*paths, **wish):
    return sample([Path(path) for path in paths], Wish(**{"measure": False, "device": "cpu", **wish}))


def samples_of(run):
    return sorted(path.name for path in (run / "gatekeeper" / "samples").iterdir())


def test_the_best_of_a_run_is_spoken_into_its_folder(run, prompts):
    done = say(run, prompts=prompts)
    (made,) = done.sets
    assert made == read_set(run / "gatekeeper" / "samples" / "8")
    assert (made.step, made.epoch, made.weights) == (8, 2, "best_model_8.pth")
    assert [s.prompt for s in made.samples] == ["aye", "nay", "es-plain", "de-plain"]
    assert [s.own for s in made.samples] == [True, True, False, False]
    assert all(s.file for s in made.samples)
    assert done.notes == ("there are no earlier samples of the same prompts to compare with",)
    assert done.spoke
    assert not (run / "gatekeeper" / "journal.jsonl").exists()


def test_what_is_there_is_not_spoken_again(run, prompts, monkeypatch):
    first = say(run, prompts=prompts)
    monkeypatch.setattr(speech, "speak", lambda *args, **more: pytest.fail("spoken again"))
    assert say(run, prompts=prompts).sets == first.sets


def test_the_samples_of_the_training_are_the_plan_of_those_made_later(run, prompts):
    trained = say(run, prompts=prompts, checkpoints=("best_model_4.pth",)).sets[0]
    told = json.loads((trained.folder / "samples.json").read_text())
    (trained.folder / "samples.json").write_text(json.dumps({**told, "weights": "live"}))
    done = say(run)
    assert [made.step for made in done.sets] == [4, 8]
    assert done.sets[0].weights == "live" and done.sets[1].weights == "best_model_8.pth"
    assert done.sets[0].prompts == done.sets[1].prompts
    assert [s.text for s in done.sets[1].samples][:2] == ["Aye.", "Nay."]
    takes = say(run, takes=2, checkpoints=("best",)).sets[0]  # the run's prompts, said twice
    assert [(s.prompt, s.take) for s in takes.samples][:4] == [("aye", 0), ("nay", 0), ("es-plain", 0), ("de-plain", 0)]
    assert len(takes.samples) == 8
    assert len(samples_of(run)) == 3  # a set of its own beside that of step 8


def test_the_base_speaks_with_its_own_weights(run, prompts, xtts):
    base, best = say(run, prompts=prompts, checkpoints=("base", "best")).sets
    assert (base.weights, base.step, base.epoch, base.folder.name) == ("base", 0, None, "base")
    assert base.digest == speech.weights_digest(xtts)
    assert best.digest != base.digest and best.prompts == base.prompts


def test_the_same_weights_under_two_names_are_one_set(run, prompts):
    done = say(run, prompts=prompts, checkpoints=("best", "best_model_8.pth"))
    assert len(done.sets) == 1
    assert done.notes == ("some of what was asked for has the same weights; it is listed once",)


def test_a_set_of_other_prompts_at_the_same_step_stays(run, prompts, tmp_path):
    first = say(run, prompts=prompts).sets[0]
    other = tmp_path / "other.txt"
    other.write_text("Something else.")
    second = say(run, prompts=other).sets[0]
    assert second.folder.name.startswith("8-") and second.folder != first.folder
    assert read_set(first.folder) == first
    assert say(run, prompts=other).sets[0] == second


def test_a_file_that_lies_alone_needs_a_folder_and_a_voice(run, prompts, tmp_path):
    alone = tmp_path / "alone" / "best_model_8.pth"
    alone.parent.mkdir()
    alone.hardlink_to(run / "best_model_8.pth")
    with pytest.raises(UserError, match="say where the samples go to with -o DIR"):
        say(alone, prompts=prompts)
    with pytest.raises(UserError, match="there is no clip of the voice"):
        say(alone, prompts=prompts, output=tmp_path / "out")
    voice = Path(json.loads((run / "gatekeeper" / "eval_clips.json").read_text())[0]["audio_file"])
    with pytest.raises(UserError, match="names no language"):
        say(alone, prompts=prompts, output=tmp_path / "out", voice=(voice,))
    prompts.write_text("- {text: Aye., language: en}\n")
    (made,) = say(alone, prompts=prompts, output=tmp_path / "out", voice=(voice,)).sets
    assert made.folder == tmp_path / "out" / "8"
    assert made.voice["origin"] == "given"
    assert all(s.own for s in made.samples if s.language == "en")


def test_two_files_are_spoken_by_the_plan_of_the_first(run, prompts):
    done = say(run / "best_model_4.pth", run / "best_model_8.pth", prompts=prompts)
    assert [made.step for made in done.sets] == [4, 8]
    assert len({made.prompts for made in done.sets}) == 1


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"checkpoints": ("bst",)}, "has no checkpoint 'bst', did you mean 'best'"),
        ({"checkpoints": ("best_model_9.pth",)}, "has no checkpoint 'best_model_9.pth', did you mean 'best_model"),
        ({"checkpoints": ("previous",)}, "holds no earlier samples"),
        ({"prompts": Path("/nowhere.txt")}, "cannot be read"),
        ({"voice": (Path("/nowhere.wav"),)}, "cannot be read as audio"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(run, wish, sentence):
    with pytest.raises(UserError, match=sentence):
        say(run, **wish)


def test_a_run_that_is_not_there_or_holds_no_weights(tmp_path, run):
    with pytest.raises(UserError, match="does not exist"):
        say(tmp_path / "none")
    for path in run.glob("*.pth"):
        path.unlink()
    with pytest.raises(UserError, match="holds no best checkpoint"):
        say(run)
    with pytest.raises(UserError, match="chooses among a run's"):
        file = tmp_path / "x.pth"
        file.write_bytes(b"x")
        say(file, checkpoints=("best",))
    with pytest.raises(UserError, match="no whole zip archive"):
        say(file)


def test_a_gpu_that_is_not_there(run):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="torch finds no CUDA device"):
        say(run, device="cuda")


def test_a_voice_that_has_changed_is_not_taken_for_the_same(run, prompts):
    made = say(run, prompts=prompts).sets[0]
    told = json.loads((made.folder / "samples.json").read_text())
    told["voice"]["files"][0]["sha256"] = "another"
    (made.folder / "samples.json").write_text(json.dumps({**told, "weights": "live"}))
    with pytest.raises(UserError, match=r"the voice of .* is not there any more, or another"):
        say(run)


class Ears:
    """Measures at once; what the process beside training would write. The higher the step, the better."""

    def __init__(self, models, threads, download, whisper):
        self.folders = []

    def submit(self, folder, calibration, references):
        assert calibration == folder.parent / "calibration.json"
        assert references
        self.folders.append(folder)

    def wait(self, seconds):
        for folder in self.folders:
            made = read_set(folder)
            better = {"wer": 0.5 / (1 + made.step), "naturalness": 3.0 + made.step / 10, "dnsmos": 3.0}
            measured = [Measured(file=s.file, values=better) for s in made.samples if s.file]
            write_measured(folder, measured, "ears", {"sample.score": 10.0 + made.step})
        return True

    def finished(self):
        return []

    def close(self, seconds=0.0):
        pass


def test_measured_sets_are_compared_and_printed(run, prompts, monkeypatch):
    import xtts_gatekeeper.samples.worker as module

    monkeypatch.setattr(module, "Worker", Ears)
    arguments = ["sample", str(run), "--prompts", str(prompts), "--device", "cpu"]
    arguments += ["--checkpoint", "best_model_4.pth", "--checkpoint", "best"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "best_model_8.pth" in done.stdout and "18.0 of 25" in done.stdout and "14.0 of 25" in done.stdout
    assert "aye.wav" in done.stdout
    assert "against" in done.stdout  # the comparison
    done = CliRunner().invoke(cli, [*arguments, "--json"])
    document = json.loads(done.stdout)
    assert [made["step"] for made in document["sets"]] == [4, 8]
    assert document["sets"][1]["scores"] == {"sample.score": 18.0}
    (comparison,) = document["comparisons"]
    assert comparison["verdict"] in ("improved", "same")
    assert document["notes"] == []


def test_nothing_that_could_be_spoken_is_exit_code_1(run, prompts, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(speech, "voice_latents", fail)
    arguments = ["sample", str(run), "--prompts", str(prompts), "--device", "cpu", "--no-measure"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 1
    assert "RuntimeError: no" in done.output


def test_without_the_stack_one_sentence_names_the_extra(run, python):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from xtts_gatekeeper.cli import main\n"
        f"sys.argv = ['x', 'sample', {str(run)!r}]\n"
        "main()"
    )
    began = time.monotonic()
    done = python("-c", code)
    assert done.returncode == 2
    assert 'sample needs the extra: pip install "xtts-gatekeeper[train]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - began < 30
