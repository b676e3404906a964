"""Whose voice speaks the samples: clips of the speaker that were held out of training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtts_gatekeeper.dataset.selection import EVAL_CLIPS
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.samples.calibration import Reference

#: So many clips make a voice, each of this many seconds.
_MOST = 3
_SECONDS = (3.0, 12.0)
#: Where no clip is that long, the longest are taken until they are so many seconds together.
_TOGETHER_SECONDS = 6.0
#: `Xtts.get_gpt_cond_latents` takes no voice from less.
_SHORTEST_SECONDS = 0.33


@dataclass(frozen=True)
class HeldOut:
    """A clip that is not trained on, and how long it is."""

    path: Path
    seconds: float
    text: str = ""
    language: str = ""
    speaker: str = ""


@dataclass(frozen=True)
class Voice:
    """The clips from which the model takes the voice, their SHA-256 digests, the speaker, and where they are from."""

    files: tuple[Path, ...]
    digests: tuple[str, ...]
    speaker: str = ""
    origin: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As a set of samples tells it."""
        files = [{"path": str(f), "sha256": d} for f, d in zip(self.files, self.digests, strict=True)]
        return {"files": files, "speaker": self.speaker, "origin": self.origin}


def seconds_of(path: Path) -> float:
    """Length of a clip of the voice in seconds.

    Raises:
        UserError: it is no audio that soundfile reads, or too short for XTTS.
    """
    import soundfile

    try:
        seconds = float(soundfile.info(str(path)).duration)
    except Exception as error:  # soundfile's own errors, and OSError
        raise UserError(
            f"the reference {path} cannot be read as audio ({type(error).__name__}); give a WAV file."
        ) from None
    if seconds < _SHORTEST_SECONDS:
        raise UserError(f"the reference {path} has {seconds:.2f} s; XTTS needs {_SHORTEST_SECONDS} s, better 6.")
    return seconds


def usable_seconds(path: Path) -> float | None:
    """Length of a clip in seconds, None where no voice can be taken from it."""
    try:
        return seconds_of(path)
    except UserError:
        return None


def held_out(clips: Iterable[Any]) -> list[HeldOut]:
    """Those of Coqui's samples that a voice can be taken from."""
    found = []
    for clip in clips:
        try:
            path = Path(str(clip["audio_file"]))
        except (KeyError, TypeError):
            continue
        if (seconds := usable_seconds(path)) is not None:
            told = (str(clip.get(key) or "") for key in ("text", "language", "speaker_name"))
            found.append(HeldOut(path, seconds, *told))
    return found


def read_held_out(run: Path) -> list[HeldOut]:
    """The clips that a gatekept run was evaluated with; none where it does not tell."""
    try:
        listed = json.loads((run / FOLDER / EVAL_CLIPS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return held_out(listed) if isinstance(listed, list) else []


def longest_of_a_speaker(clips: Sequence[HeldOut]) -> list[HeldOut]:
    """The three longest clips of 3 to 12 s, all by the speaker of the longest; none where there is no such clip."""
    shortest, longest = _SECONDS
    fitting = sorted(
        (clip for clip in clips if shortest <= clip.seconds <= longest),
        key=lambda clip: (-clip.seconds, str(clip.path)),
    )
    return [clip for clip in fitting if clip.speaker == fitting[0].speaker][:_MOST]


def choose_voice(clips: Sequence[HeldOut], given: Sequence[str] = ()) -> Voice | None:
    """The voice of the samples: the clips `given`, else of the held-out ones; None where there are none.

    Where none of them is of 3 to 12 s, those of the most frequent speaker serve, the longest first, until they are
    6 s together.

    Raises:
        UserError: a clip that was given cannot be used.
    """
    if given:
        files = [Path(name) for name in given]
        for path in files:
            seconds_of(path)
        known = {clip.path.resolve(): clip.speaker for clip in clips}
        return _voice(files, known.get(files[0].resolve(), ""), "given")
    chosen = longest_of_a_speaker(clips)
    if not chosen:
        speakers = [clip.speaker for clip in clips]
        most = max(speakers, key=speakers.count, default="")
        theirs = sorted((clip for clip in clips if clip.speaker == most), key=lambda c: (-c.seconds, str(c.path)))
        theirs = [clip for clip in theirs if clip.seconds <= _SECONDS[1]]
        together = 0.0
        for clip in theirs:
            if together < _TOGETHER_SECONDS:
                chosen.append(clip)
                together += clip.seconds
    return _voice([clip.path for clip in chosen], chosen[0].speaker, "held out of training") if chosen else None


def _voice(files: Sequence[Path], speaker: str, origin: str) -> Voice:
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return Voice(tuple(path.resolve() for path in files), digests, speaker, origin)


def kept_voice(told: Any) -> Voice | None:
    """The voice of a set on disk, where all its clips are still there and the same."""
    try:
        files = [(Path(one["path"]), str(one["sha256"])) for one in told["files"]]
        voice = _voice([path for path, _ in files], str(told.get("speaker") or ""), str(told.get("origin") or ""))
    except (OSError, KeyError, TypeError):
        return None
    return voice if files and list(voice.digests) == [digest for _, digest in files] else None


def references_of(clips: Sequence[HeldOut], voice: Voice) -> list[Reference]:
    """The speaker's held-out clips with their texts: the scale on which samples are measured.

    With a voice from elsewhere, of a speaker that is not known, those of all speakers.
    """
    theirs = [clip for clip in clips if clip.speaker == voice.speaker] or list(clips)
    return [
        Reference(audio_file=str(clip.path), text=clip.text, language=clip.language, speaker=clip.speaker)
        for clip in theirs
    ]
