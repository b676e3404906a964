"""A trained toy is exported, opened as a user opens it, and speaks; what is written wrongly is never given the name."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from xtts_gatekeeper import read_run
from xtts_gatekeeper.checkpoints import export as exporting
from xtts_gatekeeper.checkpoints.export import export
from xtts_gatekeeper.checkpoints.export_check import HALF_TOLERANCE, ExportFailed
from xtts_gatekeeper.config import GatekeeperConfig
from xtts_gatekeeper.errors import UserError

ROOT = Path(__file__).parent.parent.parent
FILES = {"README.md", "config.json", "mel_stats.pth", "model.pth", "vocab.json"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, make_trainer, clips):
    """A gatekept run of one epoch, with the held-out clips noted as a gatekept run notes them."""
    trainer = make_trainer(tmp_path_factory.mktemp("gatekept"), GatekeeperConfig(), epochs=1)
    trainer.fit()
    folder = Path(trainer.output_path)
    spoken = folder.parent / "held-out"
    spoken.mkdir()
    noted = []
    for number, clip in enumerate(clips[1]):
        audio, rate = soundfile.read(clip["audio_file"])
        path = spoken / f"{number}.wav"  # espeak's clips are short: each is said until it is long enough
        soundfile.write(path, np.tile(audio, 1 + int(3.0 * rate / len(audio))), rate)
        noted.append({"audio_file": str(path), "text": clip["text"], "language": "en", "speaker_name": "espeak"})
    (folder / "gatekeeper" / "eval_clips.json").write_text(json.dumps(noted))
    return folder


@pytest.fixture(scope="module")
def checkpoint(run):
    (best,) = run.glob("best_model_*.pth")
    return best


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """(what `export` returned, what it said)"""
    said = []
    done = export(run, tmp_path_factory.mktemp("exports") / "voice", say=said.append)
    return done, said


def trained_weights(checkpoint):
    """The weights of the XTTS in a checkpoint, found without the code under test."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    return {key[5:]: tensor for key, tensor in state.items() if key.startswith("xtts.")}


def load_as_xtts(folder):
    from TTS.tts.configs.xtts_config import XttsConfig
    from TTS.tts.models.xtts import Xtts

    config = XttsConfig()
    config.load_json(folder / "config.json")
    model = Xtts.init_from_config(config)
    model.load_checkpoint(config, checkpoint_dir=folder, eval=True)
    return model


def run_snippet(folder):
    """The card's program as a user runs it: in another process, in the folder, with no way to a network.

    With a limit to the speech, for the toy does not know how to end.
    """
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code.count("    file_path=") == 1
    code = code.replace("    file_path=", "    max_new_tokens=40,\n    file_path=")
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_export_of_a_run_is_its_best_checkpoint(exported, checkpoint):
    done, said = exported
    assert done.checkpoint == checkpoint
    assert done.step == int(checkpoint.stem.split("_")[-1])
    assert set(done.files) == FILES | set(done.references) == {file.name for file in done.folder.iterdir()}
    assert done.bytes == sum(file.stat().st_size for file in done.folder.iterdir())
    assert done.max_difference == 0
    assert len(said) == 3
    assert not list(done.folder.parent.glob("*.partial"))


def test_the_model_holds_the_xtts_alone(exported, checkpoint):
    stored = torch.load(exported[0].folder / "model.pth", weights_only=True)
    trained = trained_weights(checkpoint)
    assert set(stored) == {"model", "step", "epoch"}
    assert set(stored["model"]) == set(trained)
    assert all(torch.equal(stored["model"][key], tensor) for key, tensor in trained.items())


def test_xtts_loads_the_folder(exported, checkpoint, toy_base):
    model = load_as_xtts(exported[0].folder)
    state = model.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in trained_weights(checkpoint).items())
    assert torch.equal(torch.load(exported[0].folder / "mel_stats.pth"), torch.load(toy_base / "mel_stats.pth"))
    voice = exported[0].folder / exported[0].references[0]
    latents, speaker = model.get_conditioning_latents(str(voice))
    assert len(model.inference("hello there", "en", latents, speaker, max_new_tokens=12)["wav"]) > 1000


def test_the_config_is_that_of_the_run_as_far_as_xtts_speaks_by_it(exported, run):
    from TTS.config import load_config

    config = load_config(exported[0].folder / "config.json")
    trained = json.loads((run / "config.json").read_text())
    for key in ("temperature", "top_k", "top_p", "gpt_cond_len", "max_ref_len", "languages"):
        assert config[key] == trained[key]
    for key in ("gpt_layers", "gpt_n_model_channels", "gpt_num_audio_tokens", "decoder_input_dim"):
        assert config.model_args[key] == trained["model_args"][key]
    assert config.audio.output_sample_rate == trained["audio"]["output_sample_rate"]
    assert not (config.datasets or config.test_sentences)
    assert "gatekeeper" not in (exported[0].folder / "config.json").read_text()


def test_the_cards_program_speaks(exported):
    """`TTS(model_path=..., config_path=...)` with a clip of the voice."""
    folder = exported[0].folder
    done = run_snippet(folder)
    assert done.returncode == 0, done.stderr
    speech = folder / "speech.wav"
    assert soundfile.info(speech).samplerate == 24000
    assert soundfile.info(speech).duration > 0.5
    speech.unlink()


def test_no_text_names_a_folder_of_the_machine_that_trained(exported, run, toy_base, speech):
    for name in ("README.md", "config.json", "vocab.json"):
        text = (exported[0].folder / name).read_text(encoding="utf-8")
        for folder in (run, run.parent, toy_base, speech, Path.home(), exported[0].folder):
            assert str(folder) not in text, (name, folder)
        assert "/tmp" not in text
    weights = (exported[0].folder / "model.pth").read_bytes()
    assert str(run.parent).encode() not in weights


def test_the_card_tells_how_the_training_went(exported, run, checkpoint):
    card = (exported[0].folder / "README.md").read_text(encoding="utf-8")
    record = read_run(run)
    assert f"{record.evaluations[-1].metrics['eval.mel_ce']:.4f}" in card
    assert record.evaluations[-1].eval_set in card
    assert f"{checkpoint.name}, step {exported[0].step}" in card
    assert "Verdict: **undecided**" in card
    assert "too early: " in card
    assert "| Epoch | Step |" in card
    assert "toy" in card
    assert "coqui-public-model-license" not in card


def test_the_longest_held_out_clips_are_the_voice(exported, run):
    spoken = sorted((run.parent / "held-out").iterdir(), key=lambda file: (-soundfile.info(file).duration, str(file)))
    chosen = [exported[0].folder / name for name in exported[0].references]
    assert [file.read_bytes() for file in chosen] == [file.read_bytes() for file in spoken[:3]]


def test_half_precision_is_half_the_size_and_speaks_nearly_the_same(checkpoint, exported, tmp_path):
    done = export(checkpoint, tmp_path / "half", half=True, safetensors=True)
    assert 0 < done.max_difference < HALF_TOLERANCE
    size = (done.folder / "model.pth").stat().st_size
    assert size < 0.51 * (exported[0].folder / "model.pth").stat().st_size
    stored = torch.load(done.folder / "model.pth", weights_only=True)["model"]
    assert stored["gpt.mel_head.weight"].dtype == torch.float16
    assert stored["mel_stats"].dtype == torch.float32
    model = load_as_xtts(done.folder)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    written = load_file(done.folder / "model.safetensors")
    assert set(written) == set(stored)
    assert all(torch.equal(written[key], tensor) for key, tensor in stored.items())


@pytest.fixture(scope="module")
def stock(tmp_path_factory, make_trainer, clips):
    """A stock run with a voice for its test sentences (spoken never: the test run comes after the last epoch)."""
    voice = clips[1][0]["audio_file"]
    sentences = [{"text": "hello there.", "speaker_wav": [voice], "language": "en"}]
    trainer = make_trainer(
        tmp_path_factory.mktemp("stock"), epochs=1, test_sentences=sentences, test_delay_epochs=9, batch_size=6
    )
    trainer.fit()
    return Path(trainer.output_path)


def test_a_full_checkpoint_of_a_stock_run_is_exported_with_the_voice_of_its_test_sentences(stock, clips, tmp_path):
    done = export(stock, tmp_path / "voice")
    full = torch.load(done.checkpoint, map_location="cpu", weights_only=True)
    assert full["optimizer"]
    assert any(key.startswith("dvae.") for key in full["model"])
    stored = torch.load(done.folder / "model.pth", weights_only=True)["model"]
    trained = trained_weights(done.checkpoint)
    assert set(stored) == set(trained)
    assert all(torch.equal(stored[key], tensor) for key, tensor in trained.items())
    assert (done.folder / "model.pth").stat().st_size < done.checkpoint.stat().st_size / 2
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert done.references == ("reference_1.wav",)
    assert (done.folder / "reference_1.wav").read_bytes() == Path(clips[1][0]["audio_file"]).read_bytes()
    assert '"hello there."' in card
    assert "| Epoch | Step |" in card  # from the console log
    assert str(stock.parent) not in card + (done.folder / "config.json").read_text()


@pytest.fixture
def weights_only(checkpoint, tmp_path):
    """A best file without optimizer and DVAE, in a folder of its own."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    content = {key: content[key] for key in ("config", "model", "step", "epoch", "date", "model_loss")}
    content["model"] = {key: tensor for key, tensor in content["model"].items() if key.startswith("xtts.")}
    path = tmp_path / "alone" / "best_model_4.pth"
    path.parent.mkdir()
    torch.save(content, path)
    return path


def test_a_checkpoint_of_weights_alone_is_exported_with_the_clips_that_are_given(
    weights_only, checkpoint, clips, tmp_path
):
    voices = [Path(clip["audio_file"]) for clip in clips[0][:2]]
    done = export(weights_only, tmp_path / "out", references=voices)
    stored = torch.load(done.folder / "model.pth", weights_only=True)["model"]
    assert all(torch.equal(stored[key], tensor) for key, tensor in trained_weights(checkpoint).items())
    assert done.references == ("reference_1.wav", "reference_2.wav")
    card = (done.folder / "README.md").read_text(encoding="utf-8")
    assert "holds no log" in card


def test_studio_speakers_of_the_base_come_along_and_speak(weights_only, exported, tmp_path, toy_base):
    """They are beside vocab.json; without a clip of the voice the card says so."""
    model = load_as_xtts(exported[0].folder)
    voice = exported[0].folder / exported[0].references[0]
    latents, speaker = (tensor.clone() for tensor in model.get_conditioning_latents(str(voice)))
    base = tmp_path / "base"
    base.mkdir()
    (base / "vocab.json").write_bytes((toy_base / "vocab.json").read_bytes())
    voices = {"Ada": {"gpt_cond_latent": latents, "speaker_embedding": speaker}}
    torch.save(voices, base / "speakers_xtts.pth")
    content = torch.load(weights_only, weights_only=True)
    content["config"]["model_args"]["tokenizer_file"] = str(base / "vocab.json")
    torch.save(content, weights_only)
    done = export(weights_only, tmp_path / "out")
    assert set(done.files) == FILES | {"speakers_xtts.pth"}
    assert "No clip of the voice" in (done.folder / "README.md").read_text(encoding="utf-8")
    assert load_as_xtts(done.folder).speaker_manager.speaker_names == ["Ada"]


def tampered(key):
    """A writer of weights after which one tensor of model.pth is another."""
    write = exporting._write_weights

    def writing(folder, *arguments):
        write(folder, *arguments)
        content = torch.load(folder / "model.pth", weights_only=True)
        content["model"][key] = content["model"][key] + 1e-3
        torch.save(content, folder / "model.pth")

    return writing


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("key", ["gpt.final_norm.bias", "hifigan_decoder.waveform_decoder.conv_pre.bias", "mel_stats"])
def test_a_tensor_that_reads_back_otherwise_ends_the_export(weights_only, tmp_path, monkeypatch, key, half):
    monkeypatch.setattr(exporting, "_write_weights", tampered(key))
    with pytest.raises(ExportFailed, match=re.escape(key)):
        export(weights_only, tmp_path / "out", half=half)
    assert [item.name for item in tmp_path.iterdir()] == ["alone"]


def test_a_config_that_speaks_otherwise_ends_the_export(weights_only, tmp_path, monkeypatch):
    """All tensors are the same; only listening tells."""
    write = exporting._export_config

    def another(*arguments):
        config = write(*arguments)
        config["model_args"]["gpt_n_heads"] *= 2
        return config

    monkeypatch.setattr(exporting, "_export_config", another)
    with pytest.raises(ExportFailed, match="not that of the checkpoint"):
        export(weights_only, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_does_not_load_ends_in_one_sentence(weights_only, tmp_path, monkeypatch):
    write = exporting._write_beside

    def without_vocab(folder, *arguments):
        write(folder, *arguments)
        (folder / "vocab.json").unlink()

    monkeypatch.setattr(exporting, "_write_beside", without_vocab)
    with pytest.raises(ExportFailed, match="does not load"):
        export(weights_only, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["alone"]


def without_vocab(content):
    content["config"]["model_args"]["tokenizer_file"] = "/elsewhere/vocab.json"


def of_another_model(content):
    content["config"]["model"] = "vits"


def without_decoder(content):
    content["model"] = {key: tensor for key, tensor in content["model"].items() if "hifigan" not in key}


def of_another_size(content):
    content["config"]["model_args"]["gpt_n_model_channels"] = 64


def with_nan(content):
    content["model"]["xtts.gpt.final_norm.bias"][3] = float("nan")


def without_model(content):
    content["model"] = None


def without_config(content):
    content["config"] = None


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (without_vocab, "tokenizer_file '/elsewhere/vocab.json' is not there; put the vocab.json"),
        (of_another_model, "is of a vits model; give a checkpoint of XTTS"),
        (without_decoder, "does not fit its config and vocab.json: Missing key"),
        (of_another_size, "does not fit its config and vocab.json: size mismatch"),
        (with_nan, "holds NaN or Inf in gpt.final_norm.bias"),
        (without_model, "holds no model"),
        (without_config, "holds no config"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_sentence(weights_only, tmp_path, spoil, sentence):
    content = torch.load(weights_only, weights_only=True)
    spoil(content)
    torch.save(content, weights_only)
    with pytest.raises(UserError, match=re.escape(sentence)):
        export(weights_only, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["alone"]


def test_vocab_and_config_beside_the_checkpoint_serve_where_the_runs_are_gone(weights_only, tmp_path, toy_base):
    content = torch.load(weights_only, weights_only=True)
    config = content.pop("config")
    config["model_args"]["tokenizer_file"] = "/elsewhere/vocab.json"
    torch.save(content, weights_only, _use_new_zipfile_serialization=False)  # as torch wrote before 1.6
    (weights_only.parent / "config.json").write_text(json.dumps(config))
    (weights_only.parent / "vocab.json").write_bytes((toy_base / "vocab.json").read_bytes())
    assert export(weights_only, tmp_path / "out").max_difference == 0


def test_weights_beyond_half_precision_are_refused(weights_only, tmp_path):
    content = torch.load(weights_only, weights_only=True)
    content["model"]["xtts.gpt.final_norm.bias"][3] = 1e6
    torch.save(content, weights_only)
    with pytest.raises(UserError, match="beyond the range of half precision"):
        export(weights_only, tmp_path / "out", half=True)


def test_too_little_room_is_told_before_anything_is_written(weights_only, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 50_000_000}))
    with pytest.raises(UserError, match=r"has 0\.05 GB free and the export takes"):
        export(weights_only, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["alone"]


def test_an_interrupt_leaves_nothing(weights_only, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "compare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(weights_only, tmp_path / "out")
    assert [item.name for item in tmp_path.iterdir()] == ["alone"]


def test_a_folder_that_cannot_be_written_is_told_in_one_sentence(weights_only, tmp_path):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match=r"could not be written: Not a directory\."):
        export(weights_only, tmp_path / "file" / "out")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_disk_that_fills_up_is_told_in_one_sentence(weights_only, tmp_path, python):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000_000, 30_000_000))\n"
        "from xtts_gatekeeper.cli import main; main()"
    )
    done = python("-c", code, "export", weights_only, "-o", tmp_path / "out")
    assert done.returncode == 2, done.stderr
    assert "could not be written" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["alone"]


def test_an_empty_folder_is_filled(weights_only, tmp_path, exported):
    (tmp_path / "out").mkdir()
    assert set(export(weights_only, tmp_path / "out").files) == FILES


def test_the_verb_prints_one_document_and_says_the_rest_elsewhere(weights_only, tmp_path, python):
    done = python("-m", "xtts_gatekeeper", "export", weights_only, "-o", tmp_path / "out", "--safetensors", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {
        *("folder", "checkpoint", "step", "bytes", "files", "half", "safetensors", "max_difference", "references")
    }
    assert document["safetensors"] is True
    assert "model.safetensors" in document["files"]
    assert "comparing" in done.stderr


def test_a_failed_comparison_is_exit_code_1(weights_only, tmp_path, python):
    code = (
        "import sys, xtts_gatekeeper.checkpoints.export_check as e\n"
        "e._compare_outputs = lambda *a: (_ for _ in ()).throw(e.ExportFailed('not the same'))\n"
        "sys.argv[0] = 'x'\n"
        "from xtts_gatekeeper.cli import main; main()"
    )
    done = python("-c", code, "export", weights_only, "-o", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.endswith("xtts-gatekeeper: not the same\n")
    assert not (tmp_path / "out").exists()
