"""The model files a fine-tuning starts from: the toy, the public XTTS v2, or a folder with files of that layout."""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.integrity import damage
from xtts_gatekeeper.errors import UserError

#: Where the public model's files lie, as in the stock recipe.
XTTS_V2_URL = "https://huggingface.co/coqui/XTTS-v2/resolve/main"
TRAINING_FILES = ("vocab.json", "dvae.pth", "mel_stats.pth")
WEIGHTS = "model.pth"
#: What each JSON file must hold; an error answer can be JSON too.
_JSON_KEYS = {"vocab.json": "model", "config.json": "model_args"}

#: The parts of the public model's architecture that differ from the defaults of `GPTArgs`.
_XTTS_V2 = {
    "gpt_num_audio_tokens": 1026,
    "gpt_start_audio_token": 1024,
    "gpt_stop_audio_token": 1025,
    "gpt_use_masking_gt_prompt_approach": True,
    "gpt_use_perceiver_resampler": True,
}
#: Keys of a base's own config.json that describe its architecture rather than a path or a run.
_ARCHITECTURE = (
    *_XTTS_V2,
    "gpt_layers",
    "gpt_n_model_channels",
    "gpt_n_heads",
    "gpt_max_audio_tokens",
    "gpt_max_text_tokens",
    "gpt_max_prompt_tokens",
    "gpt_code_stride_len",
    "decoder_input_dim",
    "d_vector_dim",
    "min_conditioning_length",
    "max_conditioning_length",
)


@dataclass(frozen=True)
class Base:
    """The files of a base model. `architecture` holds the `GPTArgs` fields that they fix."""

    folder: Path
    architecture: dict[str, Any] = field(default_factory=dict)

    def model_args(self) -> dict[str, Any]:
        """The `GPTArgs` of a fine-tuning from this base. Every path is a local file: nothing is fetched."""
        weights = self.folder / WEIGHTS
        return {
            **self.architecture,
            "tokenizer_file": str(self.folder / "vocab.json"),
            "dvae_checkpoint": str(self.folder / "dvae.pth"),
            "mel_norm_file": str(self.folder / "mel_stats.pth"),
            "xtts_checkpoint": str(weights) if weights.is_file() else "",
        }


def resolve_base(name: str, cache: Path) -> Base:
    """The base meant by `toy`, `xtts-v2` or a folder.

    Args:
        name: `toy` builds the toy in `cache`; `xtts-v2` downloads the public model there unless it is there already;
            anything else is a folder that holds vocab.json, dvae.pth, mel_stats.pth, and usually model.pth and
            config.json.
        cache: where to build or to download to.

    Raises:
        UserError: a file is missing or broken.
    """
    if name == "toy":
        from xtts_gatekeeper.toy.model import build_toy_base

        return read_base(build_toy_base(cache / "toy-base"))
    if name == "xtts-v2":
        folder = cache / "xtts-v2"
        download_xtts_v2(folder)
        return read_base(folder, needs=(*TRAINING_FILES, WEIGHTS))
    return read_base(Path(name))


def read_base(folder: Path, needs: tuple[str, ...] = TRAINING_FILES) -> Base:
    """The base in `folder`, its files checked for being there.

    Raises:
        UserError: naming what is missing or unreadable.
    """
    if not folder.is_dir():
        raise UserError(f"the base {folder} is neither toy nor xtts-v2 nor a folder; give one of the three.")
    missing = [name for name in needs if not (folder / name).is_file()]
    if missing:
        raise UserError(f"the base folder {folder} lacks {', '.join(missing)}; XTTS v2 is published with these files.")
    if not (folder / "config.json").is_file():
        return Base(folder, dict(_XTTS_V2))
    try:
        args = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_args"]
        architecture = {key: args[key] for key in _ARCHITECTURE if args.get(key) is not None}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'} is no XTTS config: {type(error).__name__} {error}.") from None
    return Base(folder, {**_XTTS_V2, **architecture})


def download_xtts_v2(folder: Path) -> None:
    """Download the public XTTS v2 training files that `folder` lacks, with the stack's own `ModelManager`.

    The manager writes whatever the server answers, an error page too, so each file gets its name only once it reads
    back whole.

    Raises:
        UserError: no connection, or an answer that is not the file.
    """
    missing = [name for name in (*TRAINING_FILES, WEIGHTS, "config.json") if not (folder / name).is_file()]
    if not missing:
        return
    import requests
    from TTS.utils.manage import ModelManager

    print(f"downloading XTTS v2 ({', '.join(missing)}) under the Coqui Public Model License", file=sys.stderr)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="arriving-", dir=folder) as name_of_it:
            arriving = Path(name_of_it)  # a folder of its own: two recipes may download at once
            for name in missing:
                ModelManager._download_model_files([f"{XTTS_V2_URL}/{name}"], arriving, progress_bar=True)
                wrong = _not_the_file(arriving / name)
                if wrong:
                    raise UserError(
                        f"{XTTS_V2_URL}/{name} did not arrive: {wrong}; try again or give a folder as the base."
                    )
                (arriving / name).replace(folder / name)
    except requests.RequestException as error:  # before OSError, of which it is one
        raise UserError(
            f"XTTS v2 could not be downloaded ({type(error).__name__}); go online once or give a folder as the base."
        ) from None
    except OSError as error:
        raise UserError(f"XTTS v2 could not be stored in {folder}: {error.strerror or error}.") from None


def _not_the_file(path: Path) -> str | None:
    """Why a downloaded file is not what its name says, or None."""
    if path.suffix == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return "the answer is not JSON"
        key = _JSON_KEYS[path.name]
        return None if isinstance(content, dict) and key in content else f"the answer has no {key!r}"
    return damage(path, legacy=True)
