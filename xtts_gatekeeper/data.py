"""Speech data in LJSpeech layout, as the stock Trainer wants it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from pathlib import Path
from types import ModuleType
from typing import Any

from xtts_gatekeeper.dataset.container import cut_off
from xtts_gatekeeper.errors import UserError

LANGUAGES = ("en", "es", "fr", "de", "it", "pt", "pl", "tr", "ru", "nl", "cs", "ar", "zh-cn", "hu", "ko", "ja", "hi")
METADATA = "metadata.csv"

_SPEAKER = "ljspeech"


def load_ljspeech(folder: Path | str, language: str = "en") -> list[dict[str, Any]]:
    """Read a folder in LJSpeech layout into samples for the Coqui Trainer, in the order of the file.

    The layout is `metadata.csv` with lines `id|text` or `id|raw text|normalised text` (the last text that is not
    empty is used; UTF-8, blank lines ignored) beside `wavs/<id>.wav`. Each sample has `text`, `audio_file`,
    `speaker_name`, `root_path`, `language` and `audio_unique_name`. The header of every clip is read, not its audio.

    Raises `UserError` for the first thing that the Trainer could not use, with file and line.
    """
    require_language(language)
    root = Path(folder)
    samples: dict[str, dict[str, Any]] = {}
    for number, line in _metadata_lines(root):
        where = f"{root / METADATA}:{number}"
        clip, text = _parse_line(line, where)
        if clip in samples:
            raise UserError(f"{where}: the id {clip!r} was already used further up; give every clip its own id")
        audio = root / "wavs" / f"{clip}.wav"
        _check_audio(audio, where)
        samples[clip] = {
            "text": text,
            "audio_file": str(audio),
            "speaker_name": _SPEAKER,
            "root_path": str(root),
            "language": language,
            "audio_unique_name": f"{_SPEAKER}#wavs/{clip}",
        }
    if not samples:
        raise UserError(f"{root / METADATA} lists no clip; write one line 'id|text' for each file in {root / 'wavs'}")
    return list(samples.values())


def write_metadata(folder: Path, texts: Mapping[str, str]) -> None:
    """Write `metadata.csv` for clips `{id: text}` in one step: a reader finds the whole file or none."""
    unfinished = folder / f".{METADATA}.tmp"
    unfinished.write_text(metadata_text(texts), encoding="utf-8", newline="\n")
    unfinished.replace(folder / METADATA)


def metadata_text(texts: Mapping[str, str]) -> str:
    """Return the content of a `metadata.csv` for clips `{id: text}`, three columns a line as stock Coqui wants it."""
    return "".join(f"{clip}|{text}|{text}\n" for clip, text in texts.items())


def require_language(language: str) -> None:
    """Raise `UserError` unless XTTS has `language`, naming the nearest one that it has."""
    if language in LANGUAGES:
        return
    wanted = language.lower()
    nearest = max(
        LANGUAGES,
        key=lambda known: (known[:2] == wanted[:2], SequenceMatcher(None, known, wanted).ratio()),
    )
    raise UserError(f"XTTS has no language {language!r}; the nearest is {nearest!r} (it has {' '.join(LANGUAGES)})")


def import_extra(module: str, extra: str = "train") -> ModuleType:
    """Import a module of an extra; raise `UserError` with the command that installs it when it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"the Python package {module!r} is missing; run: pip install 'xtts-gatekeeper[{extra}]'"
        ) from None


def _metadata_lines(root: Path) -> list[tuple[int, str]]:
    if not root.exists():
        raise UserError(f"the data folder {root} does not exist; check the path")
    if not root.is_dir():
        raise UserError(f"{root} is a file; give the folder that holds {METADATA} and wavs")
    path = root / METADATA
    if not path.is_file():
        raise UserError(f"{root} has no {METADATA}; write one with a line 'id|text' for each clip in wavs")
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}:{number} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); check its permissions") from None
    # Not splitlines(): it would also break at rare characters that may stand inside a text.
    return [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]


def _parse_line(line: str, where: str) -> tuple[str, str]:
    clip, *texts = (column.strip() for column in line.split("|"))
    if len(texts) not in (1, 2):
        raise UserError(
            f"{where}: {len(texts) + 1} column(s) where 'id|text' or 'id|text|normalised text' is expected; "
            "separate the columns with '|' and remove any '|' from the text"
        )
    if not clip:
        raise UserError(f"{where}: the id before the first '|' is missing; write the file name without .wav there")
    if not any(texts):
        raise UserError(f"{where}: clip {clip!r} has no text; write what is spoken or remove the line")
    if any(part in ("", ".", "..") for part in re.split(r"[/\\]", clip)):
        raise UserError(f"{where}: the id {clip!r} is not a plain path inside wavs; name a file in that folder")
    return clip, next(text for text in reversed(texts) if text)


def _check_audio(path: Path, where: str) -> None:
    if not path.is_file():
        raise UserError(f"{where}: the audio {path} does not exist; add the file or remove the line")
    soundfile = import_extra("soundfile")
    try:
        frames = soundfile.info(str(path)).frames
        whole = not cut_off(path)
    except (OSError, soundfile.SoundFileError):
        raise UserError(f"{where}: {path} is not readable as audio; record or convert it again") from None
    if frames == 0 or not whole:
        raise UserError(f"{where}: {path} is empty or ends before the length in its header; copy or record it again")
