"""What the user points at, a metadata file, a folder of data or a run: the metadata in it, and how XTTS is set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_gatekeeper.data import METADATA, require_language
from xtts_gatekeeper.dataset.clip import Clip, Fault
from xtts_gatekeeper.dataset.formats import COQUI, LJSPEECH, TRAIN_AND_EVAL, Metadata, guess_format, language_beside
from xtts_gatekeeper.dataset.roster import Roster
from xtts_gatekeeper.dataset.selection import EVAL_CLIPS
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.journal import FOLDER

#: Formats that we read ourselves.
OUR_OWN = (LJSPEECH, COQUI)


@dataclass(frozen=True)
class Source:
    """What is audited.

    Args:
        path: as the user gave it.
        parts: its metadata files.
        clips: of a run that names no metadata.
        config: of a run, its config.json; else empty.
        said: how it was taken, one sentence a part.
    """

    path: Path
    parts: tuple[Metadata, ...]
    clips: tuple[Clip, ...]
    config: Mapping[str, Any]
    said: tuple[str, ...]

    def entries(self) -> Iterator[Clip | Fault]:
        """Every clip and every fault of a line, in order.

        Raises:
            UserError: a metadata file cannot be read at all.
        """
        for part in self.parts:
            yield from part.entries()
        yield from self.clips


def open_source(path: Path, formatter: str | None = None, language: str | None = None) -> Source:
    """Find out what `path` is.

    Args:
        path: a metadata file, a folder that holds one, or a run folder.
        formatter: `ljspeech`, `coqui` or another reader of Coqui's; None: by the content of the file.
        language: of all clips; None: what the metadata says, `lang.txt` beside it, or the config of the run.

    Raises:
        UserError: there is nothing of the kind, or nothing says which language it is.
    """
    if language is not None:
        require_language(language)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a metadata file, a folder of data or a run.")
    if formatter is None and (path / "config.json").is_file() and not (path / METADATA).is_file():
        return _of_run(path, language)
    parts = _parts(path, formatter, language)
    return Source(path, parts, (), {}, tuple(_said(part, guessed=formatter is None) for part in parts))


def _parts(path: Path, formatter: str | None, language: str | None) -> tuple[Metadata, ...]:
    if path.is_file():
        return (_metadata(path.parent, path, formatter, language),)
    files = [path / METADATA]
    if not files[0].is_file():
        files = [path / name for name in TRAIN_AND_EVAL if (path / name).is_file()]
    if not files and formatter is not None and formatter.lower() not in OUR_OWN:
        return (Metadata(path.absolute(), None, formatter, _known(language, path)),)
    if not files:
        raise UserError(
            f"{path} holds no {METADATA} and is no run; give the metadata file itself, or name a reader of Coqui's "
            "with --formatter."
        )
    return tuple(_metadata(path, file, formatter, language) for file in files)


def _metadata(root: Path, file: Path, formatter: str | None, language: str | None) -> Metadata:
    root, file = root.absolute(), file.absolute()
    kind = (formatter or guess_format(file)).lower()
    code = language or language_beside(file)
    if not code and not (kind == COQUI and _has_language_column(file)):
        code = _known(None, file)
    return Metadata(root, file, kind, code)


def _known(language: str | None, file: Path) -> str:
    if not language:
        raise UserError(f"{file} does not say which language it is in; give --language, for instance --language en.")
    return language


def _has_language_column(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as stream:
        return "language" in stream.readline(1 << 16).strip().split("|")


def _said(part: Metadata, *, guessed: bool) -> str:
    how = "by its content" if guessed else "as --formatter says"
    return f"{part.file or part.root}: read as {part.format}, {how}, language {part.language or 'by its column'}"


def _of_run(run: Path, language: str | None) -> Source:
    """The data of a run, by its config; of a run of ours that names none there, by the clips that it knows."""
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        named = [one for one in config.get("datasets") or () if isinstance(one, dict) and one.get("path")]
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{run / 'config.json'} cannot be read ({error}); give the metadata file itself.") from None
    parts: list[Metadata] = []
    for entry in named:
        parts += _of_config(entry, language)
    if parts:
        return Source(run, tuple(parts), (), config, tuple(_by_config(part) for part in parts))
    held_out = _held_out(run, language)
    files = [clip.audio_file for clip in held_out] + [clip.name for clip in Roster(run).clips if not clip.run]
    wavs = dict.fromkeys(Path(os.path.abspath(file)).parent for file in files)  # noqa: PTH100
    folders = [folder.parent for folder in wavs if folder.name == "wavs"]
    metadata = [folder / METADATA for folder in folders if (folder / METADATA).is_file()]
    if metadata:
        languages = {clip.language for clip in held_out}
        code = language or (languages.pop() if len(languages) == 1 else None)
        parts = [_metadata(file.parent, file, None, code) for file in metadata]
        said = tuple(f"{_said(part, guessed=True)}, where the run's clips lie" for part in parts)
        return Source(run, tuple(parts), (), config, said)
    if held_out:
        said = (f"{run}: only the {len(held_out)} clips it was evaluated with, for its metadata is not there",)
        return Source(run, (), held_out, config, said)
    raise UserError(f"{run} is a run, and does not say where its data is; give the metadata file itself.")


def _of_config(entry: Mapping[str, Any], language: str | None) -> Iterator[Metadata]:
    """The metadata files of one entry of `datasets`, as `load_tts_samples` finds them."""
    root = Path(os.path.abspath(str(entry["path"])))  # noqa: PTH100
    formatter = str(entry.get("formatter") or LJSPEECH).lower()
    code = language or str(entry.get("language") or "")
    ignored = tuple(str(name) for name in entry.get("ignored_speakers") or ())
    names: Sequence[str] = [str(entry[key]) for key in ("meta_file_train", "meta_file_val") if entry.get(key)]
    for name in names or [""]:
        file = root / name if name else None
        if file is not None and formatter in OUR_OWN and not file.is_file():
            raise UserError(f"the run names {file} as its metadata, which is not there; give the metadata file itself.")
        yield Metadata(root, file, formatter, code, ignored)


def _by_config(part: Metadata) -> str:
    return f"{part.file or part.root}: read as {part.format}, as the run's config says, language {part.language or '?'}"


def _held_out(run: Path, language: str | None) -> tuple[Clip, ...]:
    try:
        listed = json.loads((run / FOLDER / EVAL_CLIPS).read_text(encoding="utf-8"))
        return tuple(
            Clip(
                str(entry["audio_file"]),
                os.path.abspath(str(entry["audio_file"])),  # noqa: PTH100
                str(entry.get("text") or ""),
                language or str(entry.get("language") or ""),
                str(entry.get("speaker_name") or entry.get("speaker") or ""),
                f"{EVAL_CLIPS}, clip {number}",
            )
            for number, entry in enumerate(listed, start=1)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()
