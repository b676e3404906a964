"""What the speaker's own real clips measure: the scale by which samples are judged."""

from __future__ import annotations

import hashlib
import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.samples import general
from xtts_gatekeeper.samples.measures.models import imported
from xtts_gatekeeper.samples.measures.spelling import UNSPACED, plain_words
from xtts_gatekeeper.samples.sets import write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = "calibration.json"
VERSION = 1
#: Fewer clips of a value tell where it lies, but not how it scatters.
_ENOUGH = 8
#: What ends a clause, and is heard as a pause.
_PAUSES = frozenset(".,;:!?…。，、！？；：।")  # noqa: RUF001
#: A capital by itself is a letter that is spelled, and takes as long as a syllable of so many.
_SPELLED, _LETTER = re.compile(r"(?<![\w'])[^\W\d_a-z](?![\w'])"), 4


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Where the values of real clips lie: median, median absolute deviation, and of how many clips."""

    median: float
    mad: float
    count: int

    def at(self, deviations: float, least: float = 0.0) -> float:
        """The value so many standard deviations from the median, and at least `least` to the same side.

        1.4826 times the MAD is the standard deviation of normal values.
        """
        return self.median + math.copysign(max(abs(deviations) * 1.4826 * self.mad, least), deviations)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A real clip of the speaker, held out of training, with what is said in it."""

    audio_file: str
    text: str = ""
    language: str = ""
    speaker: str = ""


@dataclass(frozen=True, kw_only=True)
class Duration:
    """How long the speaker takes: `per_character` seconds, `per_pause` for what ends a clause, and `start`.

    `deviation` is the standard deviation of the logarithm of real over expected.
    """

    per_character: float
    per_pause: float
    start: float
    deviation: float

    def expected(self, characters: int, pauses: int) -> float:
        """Seconds of speech for a text."""
        return max(0.1, self.per_character * characters + self.per_pause * pauses + self.start)


#: Seconds a character where no clip of the language is known: five languages were fitted together, the others follow
#: by how many characters their scripts need for a syllable.
_GENERAL_PACE: Mapping[str, float] = {"zh-cn": 0.2, "ja": 0.13, "ko": 0.14, "hi": 0.09, "ar": 0.09}
_GENERAL = Duration(per_character=0.063, per_pause=0.1, start=0.42, deviation=0.2)

#: Real speech in general, for who has no clips of the speaker. Voices differ more in their pace than clips of one do.
GENERAL: Mapping[str, Spread] = {
    **{name: Spread(median=median, mad=mad, count=general.CLIPS) for name, (median, mad) in general.MEASURED.items()},
    "duration_ratio": Spread(median=0.0, mad=_GENERAL.deviation / 1.4826, count=general.CLIPS),
}


@dataclass(frozen=True)
class Calibration:
    """A speaker's scale. The default is that of speech in general.

    `spread` by name of value; `speaker` is the mean voice embedding; `durations` by language, for texts of which the
    clips tell how long the speaker takes; `clips` are the files that it comes from.
    """

    spread: Mapping[str, Spread] = field(default_factory=lambda: dict(GENERAL))
    speaker: tuple[float, ...] = ()
    durations: Mapping[str, Duration] = field(default_factory=dict)
    clips: tuple[str, ...] = ()

    @property
    def own(self) -> bool:
        """Whether it comes from clips of the speaker."""
        return bool(self.clips)

    @property
    def fingerprint(self) -> str:
        """Tells one scale from another: 12 hex digits."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    @property
    def speaker_vector(self) -> NDArray[np.float32] | None:
        """The speaker's mean voice embedding, of length 1."""
        import numpy as np

        return np.asarray(self.speaker, dtype=np.float32) if self.speaker else None

    def duration(self, language: str) -> Duration:
        """How long the speaker takes in a language."""
        if language in self.durations:
            return self.durations[language]
        pace = _GENERAL_PACE.get(language, _GENERAL.per_character)
        return Duration(
            per_character=pace, per_pause=_GENERAL.per_pause, start=_GENERAL.start, deviation=_GENERAL.deviation
        )

    def duration_ratio(self, text: str, language: str, values: Mapping[str, float]) -> float | None:
        """Logarithm of the seconds of speech over those expected; None without text or speech."""
        characters, pauses = _size(text, language)
        seconds = values.get("speech_seconds", 0.0)
        if not characters or seconds <= 0:
            return None
        return math.log(seconds / self.duration(language).expected(characters, pauses))

    def to_dict(self) -> dict[str, Any]:
        """The scale as it is written."""
        return {
            "version": VERSION,
            "values": {name: asdict(spread) for name, spread in self.spread.items()},
            "speaker": [round(number, 5) for number in self.speaker],
            "durations": {language: asdict(model) for language, model in self.durations.items()},
            "clips": list(self.clips),
        }

    def write(self, path: Path) -> None:
        """Write it in one piece."""
        write_json(path, {**self.to_dict(), "fingerprint": self.fingerprint})


def read_calibration(path: Path) -> Calibration:
    """Read a scale.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return Calibration(
            spread={name: Spread(**spread) for name, spread in document["values"].items()},
            speaker=tuple(map(float, document["speaker"])),
            durations={language: Duration(**model) for language, model in document["durations"].items()},
            clips=tuple(document["clips"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"the calibration {path} cannot be read ({type(error).__name__}); remove it.") from None


def calibration_of(
    measured: Sequence[tuple[Reference, Mapping[str, float]]], speaker: NDArray[np.float32] | None
) -> Calibration:
    """The scale of a speaker out of what real clips measure.

    A value's MAD is never below half of that of speech in general, and of fewer than 8 clips only the median is taken:
    a few clips that happen to be alike would make every sample an outlier.
    """
    if not measured:
        return Calibration()
    spread = dict(GENERAL)
    durations = _durations(measured)
    scale = Calibration(durations=durations)
    rows = []
    for reference, values in measured:
        ratio = scale.duration_ratio(reference.text, reference.language, values)
        rows.append({**values, **({"duration_ratio": ratio} if ratio is not None else {})})
    for name in sorted(set().union(*rows)):
        found = [row[name] for row in rows if name in row]
        median = statistics.median(found)
        mad = statistics.median(abs(value - median) for value in found)
        usual = GENERAL.get(name)
        if usual is not None:
            mad = max(mad, usual.mad / 2) if len(found) >= _ENOUGH else max(mad, usual.mad)
        spread[name] = Spread(median=median, mad=mad, count=len(found))
    vector = tuple(float(number) for number in speaker) if speaker is not None else ()
    return Calibration(spread, vector, durations, tuple(Path(reference.audio_file).name for reference, _ in measured))


def _size(text: str, language: str) -> tuple[int, int]:
    """Characters to be spoken, numbers being words, and pauses inside a text."""
    inside = text.strip().rstrip("".join(_PAUSES) + " ")
    characters = sum(map(len, plain_words(text, language)))
    if language not in UNSPACED:
        characters += (_LETTER - 1) * len(_SPELLED.findall(text))
    return characters, sum(character in _PAUSES for character in inside)


def _durations(measured: Sequence[tuple[Reference, Mapping[str, float]]]) -> dict[str, Duration]:
    """Fit one model a language, robustly: a wrong transcript must not bend it."""
    import numpy as np

    least_squares = imported("scipy.optimize").least_squares

    by_language: dict[str, list[tuple[int, int, float]]] = {}
    for reference, values in measured:
        characters, pauses = _size(reference.text, reference.language)
        if characters and values.get("speech_seconds", 0.0) > 0:
            by_language.setdefault(reference.language, []).append((characters, pauses, values["speech_seconds"]))
    models = {}
    for language, rows in by_language.items():
        data = np.array(rows, dtype=np.float64)
        base = Calibration().duration(language)
        expected = np.array([base.expected(int(c), int(p)) for c, p, _ in rows])
        factor = float(np.median(data[:, 2] / expected))
        first = np.array([base.per_character, base.per_pause, base.start]) * factor
        if len(rows) >= _ENOUGH:

            def off(parameters: NDArray[np.float64], data: NDArray[np.float64] = data) -> Any:
                seconds = data[:, :2] @ parameters[:2] + parameters[2]
                return np.log(np.maximum(seconds, 0.05) / data[:, 2]) / 0.1

            bounds = (first * 0.4, first * [2.0, 3.0, 4.0])
            first = least_squares(off, first, bounds=bounds, loss="soft_l1").x
        model = Duration(per_character=float(first[0]), per_pause=float(first[1]), start=float(first[2]), deviation=0.0)
        ratio = np.log(data[:, 2] / [model.expected(int(c), int(p)) for c, p, _ in rows])
        mad = float(np.median(np.abs(ratio - np.median(ratio))))
        deviation = max(0.08, 1.4826 * mad) if len(rows) >= _ENOUGH else _GENERAL.deviation
        models[language] = Duration(**{**asdict(model), "deviation": deviation})
    return models
