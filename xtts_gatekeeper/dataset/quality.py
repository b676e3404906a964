"""What is wrong with clips, by what was measured of them: pure functions of clips and numbers.

Some faults are absolute; most are told against the set, by medians, so that a set that is recorded in one peculiar way
is not accused clip by clip. Where there are too few clips to tell what is usual, nothing is said.
"""

from __future__ import annotations

import math
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from xtts_gatekeeper.dataset.clip import Audio, Clip, Fault
from xtts_gatekeeper.dataset.wrong_rate import Voice, wrong_rate

Clips = Callable[[], Iterable[tuple[Clip, Audio]]]

#: What is usual is known from so many clips; fewer accuse nobody.
ENOUGH = 20
#: So many values of one kind are kept for a median: a fair sample, and memory does not grow.
_KEPT = 400
#: Voices that are known each for itself; the rest is one.
_VOICES = 1000

#: Flat tops in a thousandth of the samples are heard (a clip at full scale that was not clipped has none).
_CLIPPED_SHARE, _CLIPPED_SOFT = 0.001, 0.0002
#: 46 dB below full scale: converters stay below -60 dB.
_DC = 0.005
#: XTTS learns to be silent where its clips are. Twice the pause of a sentence, and more than the set mostly does.
_SILENCE_SECONDS = {"leading_seconds": 0.7, "trailing_seconds": 0.9, "pause_seconds": 1.0}
_SILENCE_WORDS = {
    "leading_seconds": "before the speech",
    "trailing_seconds": "after the speech",
    "pause_seconds": "inside",
}
_SILENCE_CODES = {
    "leading_seconds": "leading_silence",
    "trailing_seconds": "trailing_silence",
    "pause_seconds": "long_pause",
}
#: Noise is heard that is less than this below the speech.
_NOISE_DB, _NOISE_SECONDS = -40.0, 0.3
_LEVEL_DB, _FAINT_DBFS = 8.0, -45.0
_SNR_DB = 8.0
_OUTLIER = 5.0
#: A rate or a number of channels is the set's when this share has it.
_COMMON = 0.8
_BANDWIDTH_SHARE = 0.6
_RARE_OF_CLIPS = 100


class Sample:
    """A fair sample of values, of bounded size; the same for the same values in the same order."""

    def __init__(self, most: int = _KEPT) -> None:
        self.values: list[float] = []
        self.count = 0
        self._most = most
        self._usual: tuple[int, tuple[float, float] | None] = (0, None)
        self._chance = random.Random(0)

    def add(self, value: float | None) -> None:
        """Take a value; None is none."""
        if value is None:
            return
        self.count += 1
        if len(self.values) < self._most:
            self.values.append(value)
        elif (at := self._chance.randrange(self.count)) < self._most:
            self.values[at] = value

    def usual(self, least_spread: float) -> tuple[float, float] | None:
        """Median, and the standard deviation by the median of what lies off it; None without enough values."""
        if self.count < ENOUGH:
            return None
        if self._usual[0] != self.count:
            middle = median(self.values)
            self._usual = self.count, (middle, 1.4826 * median(abs(value - middle) for value in self.values))
        assert self._usual[1] is not None
        middle, spread = self._usual[1]
        return middle, max(spread, least_spread)


@dataclass
class Usual:
    """What is usual in a set."""

    clips: int = 0
    rates: Counter[int] = field(default_factory=Counter)
    channels: Counter[int] = field(default_factory=Counter)
    samples: dict[str, Sample] = field(default_factory=dict)
    voices: dict[tuple[str, str], Voice] = field(default_factory=dict)
    letters: dict[str, Counter[str]] = field(default_factory=dict)
    texts: Counter[str] = field(default_factory=Counter)

    def voice(self, clip: Clip) -> Voice:
        """Who speaks in a clip."""
        key = (clip.language, clip.speaker)
        if key not in self.voices:
            if len(self.voices) >= _VOICES:
                key = (clip.language, "")
            self.voices.setdefault(key, Voice(Sample(), Sample(), Sample()))
        return self.voices[key]

    def sample(self, name: str) -> Sample:
        """The values of one measure."""
        return self.samples.setdefault(name, Sample())


def usual(clips: Iterable[tuple[Clip, Audio]]) -> Usual:
    """Read the clips once."""
    found = Usual()
    for clip, audio in clips:
        found.texts[clip.language] += 1
        found.letters.setdefault(clip.language, Counter()).update(_characters(clip.text))
        if not audio.active_seconds or audio.sample_rate is None or audio.channels is None:
            continue
        found.clips += 1
        found.rates[audio.sample_rate] += 1
        found.channels[audio.channels] += 1
        for name in ("leading_seconds", "trailing_seconds", "pause_seconds", "snr_db"):
            found.sample(name).add(getattr(audio, name))
        for name in ("head", "tail"):
            found.sample(name).add(_noise(audio, name))
        found.sample(f"bandwidth {audio.sample_rate}").add(audio.bandwidth_hz)
        found.voice(clip).add(clip, audio)
    return found


def judge(clips: Clips) -> Iterator[Fault]:
    """Yield the faults that the numbers of a clip show against those of the set. The clips are read twice."""
    known = usual(clips())
    for clip, audio in clips():
        for fault in _faults(clip, audio, known):
            yield Fault(clip.name, *fault)


Told = tuple[str, str, str, float]


def _faults(clip: Clip, audio: Audio, known: Usual) -> Iterator[Told]:
    yield from _rare(clip, known)
    if audio.seconds is None:
        return
    if audio.peak is None:
        yield "not_finite", "hard", audio.error, 1.0
    elif audio.error:
        yield "truncated", "hard", audio.error, 1.0
    if not audio.active_seconds:
        if audio.active_seconds is not None:
            yield "silent", "hard", f"no speech was found in its {audio.seconds:.1f} s", 1.0
        return
    yield from _signal(audio)
    yield from _silences(audio, known)
    yield from _noises(audio, known)
    yield from _level(clip, audio, known)
    yield from _format(clip, audio, known)


def _signal(audio: Audio) -> Iterator[Told]:
    share, dc = audio.clipped_share or 0.0, audio.dc or 0.0
    if share >= _CLIPPED_SOFT:
        severity = "hard" if share >= _CLIPPED_SHARE else "soft"
        yield "clipped", severity, f"{share:.2%} of its samples are cut off at its highest or lowest value", share
    if abs(dc) >= _DC:
        yield "dc", "soft", f"its samples are {dc:+.3f} of full scale off zero on average", abs(dc)


def _silences(audio: Audio, known: Usual) -> Iterator[Told]:
    for name, least in _SILENCE_SECONDS.items():
        seconds = getattr(audio, name) or 0.0
        of_set = known.sample(name).usual(0.1)
        limit = max(least, of_set[0] + _OUTLIER * of_set[1]) if of_set else 2 * least
        if seconds > limit:
            usually = f", where {of_set[0]:.1f} s are usual" if of_set else ""
            what = f"{seconds:.1f} s of silence {_SILENCE_WORDS[name]}{usually}"
            yield _SILENCE_CODES[name], "soft", what, seconds


def _noise(audio: Audio, name: str) -> float:
    """Level of the noise at an end against the speech; of a clip without it, the one that does not matter."""
    level = getattr(audio, f"{name}_db")
    seconds = getattr(audio, f"{name}_seconds")
    return level if level is not None and seconds >= _NOISE_SECONDS else -80.0


def _noises(audio: Audio, known: Usual) -> Iterator[Told]:
    for name, where in (("head", "begins"), ("tail", "ends")):
        level, of_set = _noise(audio, name), known.sample(name).usual(2.0)
        limit = max(_NOISE_DB, of_set[0] + _OUTLIER * of_set[1]) if of_set else _NOISE_DB + 10
        if level > limit:
            seconds = getattr(audio, f"{name}_seconds")
            yield (
                f"noise_{name}",
                "soft",
                f"it {where} with {seconds:.1f} s of noise, {level:.0f} dB to its speech",
                level,
            )
    snr, pauses = audio.snr_db, (audio.silence_share or 0.0) * (audio.seconds or 0.0)
    of_set = known.sample("snr_db").usual(3.0)
    if snr is not None and of_set and pauses > 0.3 and snr < min(_SNR_DB, of_set[0] - 2 * of_set[1]):
        yield "noisy", "soft", f"its speech is only {snr:.0f} dB above its background", -snr


def _level(clip: Clip, audio: Audio, known: Usual) -> Iterator[Told]:
    level = audio.level_dbfs
    assert level is not None
    of_voice = known.voice(clip).level.usual(1.0)
    if of_voice and abs(level - of_voice[0]) > max(_LEVEL_DB, _OUTLIER * of_voice[1]):
        code = "quiet" if level < of_voice[0] else "loud"
        what = f"its speech has {level:.0f} dBFS, where {of_voice[0]:.0f} are usual of this voice"
        yield code, "soft", what, abs(level - of_voice[0])
    elif level < _FAINT_DBFS:
        yield "quiet", "soft", f"its speech has only {level:.0f} dBFS", -level


def _format(clip: Clip, audio: Audio, known: Usual) -> Iterator[Told]:
    rate, channels = audio.sample_rate or 0, audio.channels or 0
    if known.clips < ENOUGH:
        return
    common, count = known.rates.most_common(1)[0]
    rates_differ = rate != common and count >= _COMMON * known.clips
    told = wrong_rate(clip, audio, known.voice(clip), common if rates_differ else None)
    if told:
        yield "wrong_rate", "hard", *told
    elif rates_differ:
        yield "sample_rate", "soft", f"it has {rate} Hz, where {common} Hz are usual", abs(math.log(rate / common))
    usual_channels, count = known.channels.most_common(1)[0]
    if channels != usual_channels and count >= _COMMON * known.clips:
        yield "channels", "soft", f"it has {channels} channels, where {usual_channels} are usual", float(channels)
    of_rate = known.sample(f"bandwidth {rate}").usual(0.02 * rate)
    band = audio.bandwidth_hz or 0.0
    if of_rate and not rates_differ and band < min(_BANDWIDTH_SHARE * of_rate[0], of_rate[0] - _OUTLIER * of_rate[1]):
        yield (
            "bandwidth",
            "soft",
            f"there is nothing above {band:.0f} Hz, where {of_rate[0]:.0f} Hz are usual: it was resampled from less",
            of_rate[0] / max(band, 1.0),
        )


def _characters(text: str) -> set[str]:
    return {c for c in text.lower() if not c.isspace() and not unicodedata.combining(c)}


def _rare(clip: Clip, known: Usual) -> Iterator[Told]:
    if known.texts[clip.language] < _RARE_OF_CLIPS:
        return
    counts = known.letters[clip.language]
    rare = sorted(c for c in _characters(clip.text) if counts[c] == 1)
    if rare:
        yield (
            "rare_character",
            "note",
            f"no other text of its language has {' '.join(map(repr, rare))}",
            float(len(rare)),
        )


def outlier(value: float, of: tuple[float, float] | None) -> float:
    """How many standard deviations a value lies off what is usual; 0 where that is not known."""
    return 0.0 if of is None else (value - of[0]) / of[1]


def same_texts(table: Any, clips: Clips) -> Iterator[Fault]:
    """Yield a note for each clip whose text, but for capitals and punctuation, was there before it.

    Args:
        table: a connection to a temporary SQLite file.
    """
    table.execute("CREATE TABLE texts (text TEXT PRIMARY KEY, name TEXT) WITHOUT ROWID")
    for clip, _ in clips():
        words = "".join(c if c.isalnum() or unicodedata.combining(c) else " " for c in clip.text.lower()).split()
        text = f"{clip.language} {' '.join(words)}"
        if not words:
            continue
        row: Sequence[Any] | None = table.execute("SELECT name FROM texts WHERE text = ?", (text,)).fetchone()
        if row is None:
            table.execute("INSERT INTO texts VALUES (?, ?)", (text, clip.name))
        else:
            yield Fault(clip.name, "same_text", "note", f"its text is that of {row[0]!r}", None)
