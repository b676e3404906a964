"""A toy XTTS base: the files that a real GPTTrainer loads, with a GPT of two layers.

The DVAE has its real size, which the stock code fixes, and random weights: its codes are an arbitrary but fixed
function of the audio, which a GPT can learn to predict. It learns at learning rates near 1e-3, and says nothing.
"""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

from xtts_gatekeeper.data import LANGUAGES

TOY_ARGS: dict[str, Any] = {
    "gpt_layers": 2,
    "gpt_n_model_channels": 128,
    "gpt_n_heads": 4,
    "decoder_input_dim": 128,
    "gpt_num_audio_tokens": 1026,
    "gpt_start_audio_token": 1024,
    "gpt_stop_audio_token": 1025,
    "gpt_use_perceiver_resampler": True,
    "gpt_use_masking_gt_prompt_approach": True,
    "max_conditioning_length": 66150,
    "min_conditioning_length": 22050,
}
#: Learning rates at which the toy learns; the recipes' defaults are those of real fine-tuning.
TOY_LRS = (1e-3, 3e-4)

_LATIN = "".join(chr(c) for c in (*range(0xDF, 0xF7), *range(0xF8, 0x180)) if chr(c).islower())
_CYRILLIC = "".join(chr(c) for c in range(0x430, 0x460))
_CHARACTERS = string.ascii_lowercase + string.digits + string.punctuation + "¿¡«»„“”‘’…–—№°" + _LATIN + _CYRILLIC


def build_toy_base(folder: Path) -> Path:
    """Make vocab.json, dvae.pth (206 MB), mel_stats.pth and config.json in `folder`; a complete one is kept.

    The same on every machine: the weights come from a fixed seed. The tokenizer knows single characters of Latin and
    Cyrillic scripts.
    """
    if (folder / "config.json").is_file():
        return folder
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from TTS.tts.layers.xtts.dvae import DiscreteVAE

    folder.mkdir(parents=True, exist_ok=True)
    specials = ["[STOP]", "[UNK]", "[SPACE]", *(f"[{language}]" for language in LANGUAGES)]
    tokens = [*specials, *_CHARACTERS, "[START]"]
    tokenizer = Tokenizer(BPE({token: index for index, token in enumerate(tokens)}, [], unk_token="[UNK]"))
    tokenizer.add_special_tokens([*specials, "[START]"])
    tokenizer.save(str(folder / "vocab.json"))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dvae = DiscreteVAE(
            channels=80,
            normalization=None,
            positional_dims=1,
            num_tokens=TOY_ARGS["gpt_num_audio_tokens"] - 2,
            codebook_dim=512,
            hidden_dim=512,
            num_resnet_blocks=3,
            kernel_size=3,
            num_layers=2,
            use_transposed_convs=False,
        )
    torch.save(dvae.state_dict(), folder / "dvae.pth")
    torch.save(torch.ones(80), folder / "mel_stats.pth")

    # Last and in one step: it is what says that the rest is complete.
    partial = folder / "config.json.partial"
    partial.write_text(json.dumps({"model_args": TOY_ARGS}, indent=4), encoding="utf-8")
    partial.replace(folder / "config.json")
    return folder
