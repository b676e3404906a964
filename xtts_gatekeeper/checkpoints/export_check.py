"""Whether a written export is the checkpoint that it was made of: loaded as a user loads it, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: How far an output of the half-precision model may be from that of the checkpoint, as a share of its root mean
#: square. Rounding moves a weight by up to 2**-11 of itself, 0.05 %; a hundredfold of that is more than rounding.
HALF_TOLERANCE = 0.05

_RATE = 22050
_SEED = 20231106
_CODES = 40  # codes that the comparison gives to the GPT, 1.9 s of speech
_SPOKEN = 16  # codes that it lets the GPT choose


class ExportFailed(Exception):
    """What was written does not speak as the checkpoint does: one sentence. Nothing is left of it."""


def compare(folder: Path, weights: Mapping[str, Any], model: Any, half: bool, safetensors: bool) -> float:
    """Load `folder` as a user does and compare; the largest difference of an output (see `export.Exported`).

    Raises:
        ExportFailed: naming what differs.
    """
    expected = _outputs(model)
    try:
        reloaded = _reload(folder)
        state = reloaded.state_dict()
        spoken = _outputs(reloaded)
    except Exception as error:  # whatever stops it here would stop the user
        raise ExportFailed(f"what was written does not load: {first_line(error)}; nothing was exported.") from error
    _compare_tensors("model.pth", weights, state)
    if safetensors:
        from safetensors.torch import load_file

        _compare_tensors("model.safetensors", weights, load_file(folder / "model.safetensors"))
    return _compare_outputs(expected, spoken, half)


def _reload(folder: Path) -> Any:
    from TTS.config import load_config
    from TTS.tts.models.xtts import Xtts

    config = load_config(folder / "config.json")
    model = Xtts(config)
    model.load_checkpoint(config, checkpoint_dir=folder, eval=True)
    return model


def _compare_tensors(name: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    import torch

    for key, tensor in expected.items():
        if key not in found:
            raise ExportFailed(f"{name} reads back without {key}; nothing was exported.")
        if not torch.equal(found[key], tensor.to(found[key].dtype)):
            raise ExportFailed(f"{name} reads back with another {key} than was written; nothing was exported.")


def _outputs(model: Any) -> dict[str, Any]:
    """What an XTTS answers to one fixed voice, text and row of codes: every part of it has a share in an output.

    The codes of `spoken` are the GPT's own choice by a fixed seed. The state of torch's generator is put back.
    """
    import torch

    model.eval()
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(_SEED)
        audio = 0.1 * torch.randn(1, 3 * _RATE)
        codes = torch.randint(0, model.args.gpt_start_audio_token, (1, _CODES))
        latents = model.get_gpt_cond_latents(audio, _RATE, length=3, chunk_length=3)
        voice = model.get_speaker_embedding(audio, _RATE)
        text = torch.IntTensor(model.tokenizer.encode("this is a test.", lang="en")).unsqueeze(0)
        rest = (text, torch.tensor([text.shape[-1]]), codes, torch.tensor([_CODES * model.gpt.code_stride_len]))
        # Of cond_mels only the size is looked at where the latents are given.
        text_loss, mel_loss, logits = model.gpt(*rest, cond_mels=latents, cond_latents=latents)
        hidden = model.gpt(*rest, cond_latents=latents, return_latent=True)
        spoken = model.gpt.generate(
            cond_latents=latents, text_inputs=text, do_sample=True, temperature=0.75, top_k=50, max_new_tokens=_SPOKEN
        )
        return {
            "conditioning": latents,
            "speaker embedding": voice,
            "text loss": text_loss,
            "mel loss": mel_loss,
            "logits": logits,
            "GPT latents": hidden,
            "waveform": model.hifigan_decoder(hidden, g=voice),
            "spoken": spoken,
        }


def _compare_outputs(expected: Mapping[str, Any], found: Mapping[str, Any], half: bool) -> float:
    import torch

    largest = 0.0
    for name, answer in expected.items():
        if half and name == "spoken":  # one rounding can turn a choice, and every code after it
            continue
        if not half and not torch.equal(answer, found[name]):
            raise ExportFailed(f"the export's {name} is not that of the checkpoint; nothing was exported.")
        if half:
            size = float(answer.norm())
            difference = float((answer - found[name]).norm()) / (size or 1.0)
            if not difference <= HALF_TOLERANCE:
                raise ExportFailed(
                    f"half precision moves the {name} by {difference:.1%}, more than {HALF_TOLERANCE:.0%}; export "
                    "without --half."
                )
            largest = max(largest, difference)
    return largest


def first_line(error: BaseException) -> str:
    """What an error says first, or its kind; to be put into a sentence."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
