"""The models that measures listen with: loaded when first needed, on the CPU, with one number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.samples.measures.base import Unmeasured

if TYPE_CHECKING:
    from xtts_gatekeeper.samples.measures.hearing import Recogniser

#: Names a folder with the models' files, for machines without a model hub and for users who want no downloads.
FOLDER_VARIABLE = "XTTS_GATEKEEPER_MODELS"

#: Folder in the models' folder -> where the hub has it, and the files that it must hold.
_PUBLISHED = {
    "ecapa": ("speechbrain/spkrec-ecapa-voxceleb", ("embedding_model.ckpt",)),
    "faster-whisper-base": ("Systran/faster-whisper-base", ("config.json", "model.bin", "tokenizer.json")),
    "faster-whisper-small": ("Systran/faster-whisper-small", ("config.json", "model.bin", "tokenizer.json")),
    "faster-whisper-medium": ("Systran/faster-whisper-medium", ("config.json", "model.bin", "tokenizer.json")),
    "faster-whisper-large-v3": (
        "Systran/faster-whisper-large-v3",
        ("config.json", "model.bin", "tokenizer.json", "preprocessor_config.json"),
    ),
}


@dataclass(frozen=True)
class Models:
    """Where models come from.

    Args:
        folder: holds a folder a model; by default the one that `XTTS_GATEKEEPER_MODELS` names.
        download: fetch from the Hugging Face hub what is not there: the user's consent to use the network.
        whisper: size of the recogniser: base, small, medium or large-v3.
        threads: cores that a model may use.
    """

    folder: Path | None = None
    download: bool = False
    whisper: str = "base"
    threads: int = 1

    def find(self, name: str) -> Path:
        """The folder of a model.

        Raises:
            Unmeasured: it is not there and was not to be downloaded, or could not be.
        """
        source, files = _PUBLISHED[name]
        named = self.folder or os.environ.get(FOLDER_VARIABLE)
        if named:
            found = Path(named) / name
            lacking = [file for file in files if not (found / file).is_file()]
            if not lacking:
                return found
        if not self.download:
            raise Unmeasured(
                f"the model {name} is not in {named}: allow its download, or put it there"
                if named
                else f"the model {name} is missing: allow its download, or name a folder with {FOLDER_VARIABLE}"
            )
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(source, allow_patterns=[*files, "*.txt", "*.json"]))
        except Exception as error:  # the hub's own errors, requests', httpx' and OSError
            raise Unmeasured(f"{source} could not be downloaded ({type(error).__name__})") from None

    @cached_property
    def recogniser(self) -> Recogniser:
        """Whisper."""
        from xtts_gatekeeper.samples.measures.hearing import Recogniser

        return Recogniser(self.find(f"faster-whisper-{self.whisper}"), self.threads)

    @cached_property
    def detector(self) -> Callable[..., Any]:
        """Silero VAD, whose weights lie in faster-whisper."""
        return imported("faster_whisper.vad").get_vad_model()  # type: ignore[no-any-return]

    def torch(self) -> Any:
        """The module, kept to `threads`, with the caller's choice of threads left alone in other processes."""
        torch = imported("torch")
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        return torch


def imported(module: str) -> Any:
    """A module of the extra `measures`.

    Raises:
        Unmeasured: it is not installed.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unmeasured(
            f"the package {module.partition('.')[0]} is missing ({error}): pip install 'xtts-gatekeeper[measures]'"
        ) from None
