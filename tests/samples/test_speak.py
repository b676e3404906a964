"""A set of samples is whole or not there, the same for the same weights, and speaking leaves no trace in the model."""

import json
import os
import random
import signal
import subprocess
import sys
import wave
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xtts_gatekeeper.samples import speak
from xtts_gatekeeper.samples.prompts import Prompt
from xtts_gatekeeper.samples.sets import read_set
from xtts_gatekeeper.samples.speak import (
    Plan,
    expected_seconds,
    limit_seconds,
    read_wav,
    sets_in,
    speak_set,
    write_wav,
)
from xtts_gatekeeper.trainer_port import speech

ROOT = Path(__file__).parents[2]
PROMPTS = (
    Prompt(id="yes", text="Yes.", language="en", seed=1),
    Prompt(id="si", text="Sí.", language="es", seed=2, own=False),
    Prompt(id="da", text="Да.", language="ru", seed=3),
)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """The toy does not know how to end: half a second is enough of it."""
    monkeypatch.setattr(speak, "_MORE_SECONDS", 0.3)


@pytest.fixture
def plan(voice):
    return Plan(prompts=PROMPTS, voice=voice)


def say(xtts, folder, plan, **more):
    return speak_set(xtts, folder, plan, **{"step": 3, "epoch": 1, "weights": "live", **more})


def audio(made):
    return {sample.prompt: (made.folder / sample.file).read_bytes() for sample in made.samples if sample.file}


def state(xtts):
    """What speaking could leave behind."""
    return {
        "keys": list(xtts.state_dict()),
        "modules": [name for name, _ in xtts.named_modules()],
        "modes": [module.training for module in xtts.modules()],
        "weights": speech.weights_digest(xtts),
        "dtypes": [tensor.dtype for tensor in xtts.state_dict().values()],
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        "hooks": [len(module._forward_hooks) for module in xtts.modules()],
    }


def test_a_set_is_files_that_anybody_opens_and_a_json_that_tells_of_them(xtts, plan, tmp_path):
    said = []
    made = say(xtts, tmp_path / "3", plan, said=said.append)
    assert made == read_set(tmp_path / "3")
    assert (made.step, made.epoch, made.weights, made.rate) == (3, 1, "live", 24000)
    assert sorted(path.name for path in made.folder.iterdir()) == ["da.wav", "samples.json", "si.wav", "yes.wav"]
    assert [sample.prompt for sample in made.samples] == ["yes", "si", "da"]
    assert list(made.samples) == said
    assert [sample.own for sample in made.samples] == [True, False, True]
    for sample in made.samples:
        assert not sample.error and not sample.skipped
        with wave.open(str(made.folder / sample.file)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (24000, 1, 2)
            assert file.getnframes() / 24000 == pytest.approx(sample.seconds, abs=1e-3)
        assert sample.seconds <= limit_seconds(sample.text, sample.language) + 0.1
    assert made.voice["speaker"] == "ljspeech"
    assert [file["path"] for file in made.voice["files"]] == [str(path) for path in plan.voice.files]
    assert not list(tmp_path.glob("*.partial"))


def test_the_same_weights_and_seeds_give_the_same_bytes(xtts, plan, tmp_path):
    first = say(xtts, tmp_path / "a", plan)
    torch.rand(5)
    second = say(xtts, tmp_path / "b", plan)
    assert audio(first) == audio(second)
    other = say(xtts, tmp_path / "c", replace(plan, prompts=(replace(PROMPTS[0], seed=99),)))
    assert audio(other)["yes"] != audio(first)["yes"]
    assert other.prompts != first.prompts
    alone = say(xtts, tmp_path / "d", replace(plan, prompts=PROMPTS[2:]))
    assert audio(alone)["da"] == audio(first)["da"]  # what was spoken before it makes no difference


def test_several_takes_of_a_prompt_are_files_of_their_own(xtts, plan, tmp_path):
    made = say(xtts, tmp_path / "3", replace(plan, prompts=PROMPTS[:2], takes=2))
    assert [(s.prompt, s.take, s.file) for s in made.samples] == [
        ("yes", 0, "yes-1.wav"),
        ("si", 0, "si-1.wav"),
        ("yes", 1, "yes-2.wav"),
        ("si", 1, "si-2.wav"),
    ]
    assert len({(made.folder / s.file).read_bytes() for s in made.samples}) == 4


def test_speaking_leaves_the_model_and_the_process_as_they_were(xtts, plan, tmp_path):
    before = state(xtts)
    say(xtts, tmp_path / "3", plan)
    assert state(xtts) == before


class _Refused(BaseException):
    pass


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), torch.cuda.OutOfMemoryError("out"), KeyboardInterrupt(), _Refused()]
)
@pytest.mark.parametrize("where", ["init_gpt_for_inference", "generate", "get_style_emb", "forward"])
def test_an_error_within_leaves_no_trace_either(xtts, plan, tmp_path, error, where):
    before = state(xtts)

    def fail(*args, **kwargs):
        raise error

    def fail_halfway(**more):
        xtts.gpt.gpt_inference = torch.nn.Identity()
        raise error

    vars(xtts.gpt)[where] = fail_halfway if where == "init_gpt_for_inference" else fail
    made = None
    try:
        made = say(xtts, tmp_path / "3", plan)
    except type(error):
        assert not isinstance(error, Exception) or where == "init_gpt_for_inference"
    finally:
        del vars(xtts.gpt)[where]
    assert state(xtts) == before
    if made is None:
        assert not list(tmp_path.iterdir())
    else:
        assert all(sample.error and not sample.file for sample in made.samples)
        assert all(sample.skipped for sample in made.samples)  # nothing that would speak against the weights
        if isinstance(error, torch.cuda.OutOfMemoryError):
            assert {sample.error for sample in made.samples} == {"out of memory"}


def test_inference_layers_of_somebody_else_stay(xtts, plan, tmp_path):
    xtts.gpt.init_gpt_for_inference()
    try:
        own, embedding = xtts.gpt.gpt_inference, xtts.gpt.gpt.wte
        before = state(xtts)
        say(xtts, tmp_path / "3", plan)
        assert state(xtts) == before
        assert xtts.gpt.gpt_inference is own and xtts.gpt.gpt.wte is embedding
    finally:
        del xtts.gpt.gpt_inference, xtts.gpt.gpt.wte


def test_within_autocast_it_speaks_in_single_precision(xtts, plan, tmp_path):
    plain = say(xtts, tmp_path / "a", plan)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = say(xtts, tmp_path / "b", plan)
        assert torch.is_autocast_enabled("cpu")
    assert audio(plain) == audio(mixed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_weights_speak_and_are_the_same_tensors_afterwards(xtts, plan, tmp_path, dtype):
    kept = {name: tensor.clone() for name, tensor in xtts.state_dict().items()}
    try:
        xtts.to(dtype)
        before, pointers = state(xtts), [parameter.data_ptr() for parameter in xtts.parameters()]
        made = say(xtts, tmp_path / "3", plan)
        assert [sample.error for sample in made.samples] == ["", "", ""]
        assert state(xtts) == before
        assert [parameter.data_ptr() for parameter in xtts.parameters()] == pointers
    finally:
        xtts.float()
        xtts.load_state_dict(kept)


def test_a_prompt_that_cannot_be_spoken_does_not_spoil_the_others(xtts, plan, tmp_path):
    hindi = Prompt(id="hi", text="4", language="hi", seed=1)  # num2words knows no Hindi
    long = Prompt(id="long", text="word " * 200, language="en", seed=1)
    made = say(xtts, tmp_path / "3", replace(plan, prompts=(hindi, long, *PROMPTS[:1])))
    assert [bool(sample.file) for sample in made.samples] == [False, False, True]
    assert made.samples[0].error == "XTTS's tokenizer cannot read the text (NotImplementedError)"
    assert "tokens, and XTTS speaks" in made.samples[1].error
    assert made.samples[0].skipped and made.samples[1].skipped


def test_weights_that_are_no_numbers_are_found_before_a_gpu_would_die_of_them(xtts, plan, tmp_path):
    bias = xtts.gpt.mel_head.bias
    kept = bias.detach().clone()
    try:
        with torch.no_grad():
            bias[3] = float("nan")
        made = say(xtts, tmp_path / "3", plan)
    finally:
        with torch.no_grad():
            bias.copy_(kept)
    assert {sample.error for sample in made.samples} == {"the model answers NaN or Inf"}
    assert not any(sample.skipped for sample in made.samples)  # that is the model's fault


def test_a_decoder_that_makes_no_numbers_and_a_voice_that_is_none(xtts, plan, tmp_path, monkeypatch):
    decoder = xtts.hifigan_decoder
    monkeypatch.setattr(decoder, "forward", lambda latents, g: torch.full((1, 1, 2400), float("nan")))
    made = say(xtts, tmp_path / "3", plan)
    assert {sample.error for sample in made.samples} == {"the audio holds NaN or Inf"}
    monkeypatch.setattr(decoder, "forward", lambda latents, g: torch.zeros(1, 1, 0))
    made = say(xtts, tmp_path / "4", plan)
    assert {sample.error for sample in made.samples} == {"the model spoke nothing"}
    monkeypatch.undo()
    monkeypatch.setattr(xtts.gpt, "get_style_emb", lambda *mel: torch.full((1, 128, 32), float("nan")))
    made = say(xtts, tmp_path / "5", plan)
    assert {sample.error for sample in made.samples} == {"the model makes NaN or Inf of the voice"}


def test_a_generation_that_finds_no_end_is_cut_and_one_that_does_is_not(xtts, plan, tmp_path):
    bias = xtts.gpt.mel_head.bias
    kept = bias.detach().clone()
    made = {}
    try:
        for name, value in (("never", -1e4), ("at once", 1e4)):
            with torch.no_grad():
                bias[xtts.gpt.stop_audio_token] = value
            made[name] = say(xtts, tmp_path / name, plan)
    finally:
        with torch.no_grad():
            bias.copy_(kept)
    assert all(sample.cut for sample in made["never"].samples)
    for sample in made["never"].samples:
        assert sample.seconds == pytest.approx(limit_seconds(sample.text, sample.language), abs=0.1)
    assert not any(sample.cut for sample in made["at once"].samples)
    assert all(sample.file and sample.seconds < 0.2 for sample in made["at once"].samples)


def test_the_models_own_limit_is_one_too(xtts, plan, tmp_path):
    """The toy speaks 87 codes at most, 4 s."""
    bias = xtts.gpt.mel_head.bias
    kept = bias.detach().clone()
    try:
        with torch.no_grad():
            bias[xtts.gpt.stop_audio_token] = -1e4
        long = Prompt(id="long", text="This goes on and on and on and does not come to any end.", language="en", seed=1)
        made = say(xtts, tmp_path / "3", replace(plan, prompts=(long,)))
    finally:
        with torch.no_grad():
            bias.copy_(kept)
    assert made.samples[0].cut and made.samples[0].seconds < limit_seconds(long.text, "en") - 1


def test_what_there_is_no_time_for_is_left_out_and_says_so(xtts, plan, tmp_path):
    made = say(xtts, tmp_path / "3", replace(plan, seconds=1e-9))
    assert [(sample.file, sample.skipped, sample.cut) for sample in made.samples] == [("", True, False)] * 3
    assert made.samples[0].error.startswith("there was no time for it")
    assert not any(path.suffix == ".wav" for path in made.folder.iterdir())


def test_time_that_runs_out_within_a_sample_is_no_runaway(xtts, plan, tmp_path, monkeypatch):
    calls = []

    class Clock:
        def __init__(self, seconds):
            pass

        def __call__(self):
            calls.append(1)
            return len(calls) > 5

    monkeypatch.setattr(speech, "Clock", Clock)
    made = say(xtts, tmp_path / "3", plan)
    assert [sample.skipped for sample in made.samples] == [True] * 3
    assert len(calls) < 12  # the first was ended in its course, the others not begun


def test_who_is_asked_to_leave_writes_nothing(xtts, plan, tmp_path):
    before = state(xtts)
    calls = []

    def asked():
        calls.append(1)
        return len(calls) > 4

    assert say(xtts, tmp_path / "3", plan, asked=asked) is None
    assert not list(tmp_path.iterdir())
    assert state(xtts) == before


def test_a_set_that_is_there_stays_and_one_of_other_weights_or_prompts_is_replaced(xtts, plan, tmp_path):
    first = say(xtts, tmp_path / "3", plan)
    (first.folder / "measures.json").write_text(json.dumps({"measured_as": "x", "scores": {"a": 1.0}, "samples": []}))
    again = say(xtts, tmp_path / "3", plan)
    assert again.scores == {"a": 1.0}
    weight = xtts.gpt.final_norm.bias
    with torch.no_grad():
        weight += 1e-3
    try:
        other = say(xtts, tmp_path / "3", plan)
    finally:
        with torch.no_grad():
            weight -= 1e-3
    assert not other.scores and not (first.folder / "measures.json").exists()
    assert other.digest != first.digest
    assert say(xtts, tmp_path / "3", replace(plan, prompts=PROMPTS[:1])).prompts != first.prompts
    assert sorted(path.name for path in first.folder.iterdir()) == ["samples.json", "yes.wav"]
    (first.folder / "yes.wav").unlink()
    assert (say(xtts, tmp_path / "3", replace(plan, prompts=PROMPTS[:1])).folder / "yes.wav").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_every_update_of_one_tensor_gives_other_weights(xtts):
    first = speech.weights_digest(xtts)
    for parameter in (xtts.gpt.text_embedding.weight, xtts.gpt.gpt.h[1].mlp.c_fc.weight, xtts.gpt.final_norm.bias):
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1 - 1e-4).add_(1e-6)
        assert speech.weights_digest(xtts) != first
        with torch.no_grad():
            parameter.copy_(kept)
    assert speech.weights_digest(xtts) == first


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from xtts_gatekeeper.samples import speak, sets
from xtts_gatekeeper.samples.prompts import Prompt
from xtts_gatekeeper.samples.voice import Voice
from xtts_gatekeeper.base import read_base
from xtts_gatekeeper.checkpoints.source import build_xtts
speak._MORE_SECONDS = 0.3
base = Path({base!r})
xtts = build_xtts({{"model": "xtts", "model_args": read_base(base).model_args()}}, base / "vocab.json")
die = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
when = {when!r}
if when == "json":
    sets.os.fsync = lambda number: die() if list(Path({folder!r}).parent.glob("*/samples.json.partial")) else None
if when == "rename":
    speak._replace = die
plan = speak.Plan(
    prompts=tuple(Prompt(id=name, text="Yes.", language="en", seed=1) for name in "ab"),
    voice=Voice((Path({clip!r}),), ("x",)),
)
said = die if when == "sample" else lambda sample: None
speak.speak_set(xtts, Path({folder!r}), plan, step=3, epoch=1, weights="live", said=said)
"""


@pytest.mark.parametrize("when", ["sample", "json", "rename"])
def test_killed_while_writing_leaves_no_half_set(xtts, plan, speaking_base, tmp_path, when):
    code = KILLED.format(
        tests=str(ROOT), base=str(speaking_base), folder=str(tmp_path / "3"), clip=str(plan.voice.files[0]), when=when
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["3.partial"]
    assert sets_in(tmp_path) == []
    made = say(xtts, tmp_path / "3", plan)
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    assert sets_in(tmp_path) == [made]


def test_a_full_disk_leaves_nothing(xtts, plan, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        say(xtts, tmp_path / "3", plan)
    assert not list(tmp_path.iterdir())


def test_audio_is_written_as_it_is_and_clipped_beyond(tmp_path):
    wave_ = np.array([0.0, 0.5, -0.5, 1.5, -1.5], dtype="float32")
    write_wav(tmp_path / "a.wav", wave_, 24000)
    audio, rate = read_wav(tmp_path / "a.wav")
    assert rate == 24000
    assert audio == pytest.approx([0.0, 0.5, -0.5, 1.0, -1.0], abs=1e-4)
    for bad in (np.array([], dtype="float32"), np.array([0.1, np.nan]), np.array([[0.1]])):
        with pytest.raises(ValueError, match=r"spoke nothing|NaN"):
            write_wav(tmp_path / "b.wav", bad, 24000)


def test_the_limit_is_far_beyond_what_a_text_takes():
    assert 4 < expected_seconds("The morning train was late again, so we walked along the river instead.", "en") < 6
    assert expected_seconds("416", "en") > 3 * expected_seconds("abc", "en")
    assert limit_seconds("早上的火车又晚点了所以我们沿着河边走了过去", "zh-cn") > 10
    assert limit_seconds("Yes.", "en") < 2


def test_a_decoder_from_birth_is_told_from_one_that_was_trained(xtts):
    assert speech.has_decoder_weights(xtts)
    kept = {name: buffer.clone() for name, buffer in xtts.hifigan_decoder.named_buffers()}
    named, xtts.args.xtts_checkpoint = xtts.args.xtts_checkpoint, ""
    try:
        assert speech.has_decoder_weights(xtts)
        for buffer in xtts.hifigan_decoder.buffers():
            buffer.zero_()
        assert not speech.has_decoder_weights(xtts)
    finally:
        xtts.args.xtts_checkpoint = named
        for name, buffer in xtts.hifigan_decoder.named_buffers():
            buffer.copy_(kept[name])


def test_a_copy_elsewhere_holds_whole_sets_only():
    from xtts_gatekeeper.checkpoints.remote_store import is_small

    assert is_small("gatekeeper/samples/4/yes.wav") and is_small("gatekeeper/samples/calibration.json")
    assert not is_small("gatekeeper/samples/4.partial/yes.wav")
