"""From numbers to the checklist's words: what an ear would object to in a sample.

Pure. A limit is so many standard deviations from what the speaker's own real clips measure, at least a margin below
which no ear objects, and where nothing is known of the speaker from what real speech in general measures. The margins
were set on one half of the planted faults of `benchmarks/measures.py`, which counts on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from xtts_gatekeeper.samples.calibration import Calibration
from xtts_gatekeeper.samples.sets import Fault

KINDS = (
    "mispronounced",
    "skipped",
    "repeated",
    "trailing_noise",
    "trailing_silence",
    "early_stop",
    "late_stop",
    "noisy",
    "distorted",
    "clipped",
    "wrong_voice",
    "pitch",
)

#: Letters that must be lost, or too many, for words to be called so: one misheard syllable has two or three.
_LOST = 4


@dataclass(frozen=True)
class _Case:
    """The values of a sample beside the speaker's scale."""

    values: Mapping[str, float]
    calibration: Calibration
    cut: bool

    def get(self, name: str, default: float = 0.0) -> float:
        return self.values.get(name, default)

    def has(self, *names: str) -> bool:
        return all(name in self.values for name in names)

    def limit(self, name: str, deviations: float, least: float) -> float:
        """The value from which on `name` is not as in real clips; `deviations` has the sign of the bad side."""
        return self.calibration.spread[name].at(deviations, least)

    @property
    def deviation(self) -> float:
        """Standard deviation of the logarithm of real clips' length over that expected."""
        spread = self.calibration.spread.get("duration_ratio")
        return spread.mad * 1.4826 if spread is not None else 0.0

    @property
    def noisy(self) -> bool:
        """Whether noise lies under the speech: by the ear of a network, and by what the bands hold in their pauses.

        The background's score alone is as low in some real clips without noise.
        """
        background = self.over("dnsmos_background", -3, 1.0)
        held = max(self.over("noise_db", 2, 5), self.over("hum_db", 2, 10))
        return background >= 1.5 or (background >= 0.8 and held >= 1)

    def over(self, name: str, deviations: float, least: float, most: float | None = None) -> float:
        """How far a value lies beyond its limit: 1 at the limit, 2 at twice the distance from the median; else 0.

        `most` is an absolute bound of the limit: real clips of a bad recording are no reason to allow anything.
        """
        if name not in self.values or name not in self.calibration.spread:
            return 0.0
        median = self.calibration.spread[name].median
        limit = self.limit(name, deviations, least)
        if most is not None:
            limit = min(limit, most) if deviations > 0 else max(limit, most)
        distance = limit - median
        return (self.values[name] - median) / distance if distance * deviations > 0 else 0.0


def find_faults(values: Mapping[str, float], calibration: Calibration, *, cut: bool = False) -> tuple[Fault, ...]:
    """The faults of a sample, the worst first.

    Args:
        values: what was measured, by the names of the measures' values.
        calibration: the speaker's scale.
        cut: the synthesiser was ended from outside.
    """
    case = _Case(values, calibration, cut)
    found = [fault for rule in _RULES for fault in rule(case)]
    return tuple(sorted(found, key=lambda fault: -fault.severity))


def _fault(kind: str, message: str, severity: float, **evidence: float) -> Fault:
    return Fault(
        kind=kind,
        message=message,
        severity=round(max(1.0, severity), 2),
        evidence={name: round(value, 4) for name, value in evidence.items()},
    )


# How it ends


def _stops_early(case: _Case) -> Iterator[Fault]:
    lost, ratio = case.get("lost_end_characters"), case.get("duration_ratio")
    abrupt = case.over("last_db", 4, 15, -12.0)
    short = -ratio / max(0.33, 4 * case.deviation)
    if lost >= _LOST and lost >= case.get("text_characters") and case.get("replaced_end_characters") < _LOST:
        yield _fault("early_stop", "nothing of the text is said", 5.0, lost_end_characters=lost)
    elif lost >= _LOST and not _said_otherwise(case) and (ratio < -0.04 or abrupt >= 1):
        said = f"it ends before the last {lost:.0f} characters of the text"
        yield _fault("early_stop", said, 1 + lost / 8, lost_end_characters=lost, duration_ratio=ratio)
    elif short >= 1 and case.get("lost_characters") < _LOST:
        said = f"it lasts {_percent(ratio)} of what the text takes"
        yield _fault("early_stop", said, short, duration_ratio=ratio)
    elif abrupt >= 1 and ratio < 0.1 and not case.noisy:
        said = f"it breaks off in the middle of a sound, at {case.get('last_db'):.0f} dB of the speech's level"
        yield _fault("early_stop", said, abrupt, last_db=case.get("last_db"), duration_ratio=ratio)


def _said_otherwise(case: _Case) -> bool:
    """Whether the lost end of the text was said as something else: as much was heard, and it took its time."""
    replaced, lost = case.get("replaced_end_characters"), case.get("lost_end_characters")
    share = min(0.9, lost / max(lost, case.get("text_characters"), 1.0))
    half = 0.5 * math.log(1 - share)
    return _vote(replaced / max(1.0, lost), 0.45, 0.35) + _time_vote(case, half) > 0


def _stops_late(case: _Case) -> Iterator[Fault]:
    if case.cut:
        yield _fault("late_stop", "it did not come to an end by itself and was cut", 4.0)
        return
    ratio, behind = case.get("duration_ratio"), case.get("speech_behind_seconds")
    extra = case.get("extra_end_characters")
    long = ratio / max(0.33, 4 * case.deviation)
    if extra >= _LOST and (ratio > 0.05 or behind > 0.4):
        said = f"it goes on behind the text with {extra:.0f} characters of speech"
        yield _fault("late_stop", said, 1 + extra / 8, extra_end_characters=extra, duration_ratio=ratio)
    elif behind >= 0.8:
        said = f"it goes on for {behind:.1f} s behind the last word"
        yield _fault("late_stop", said, behind / 0.8, speech_behind_seconds=behind, duration_ratio=ratio)
    elif long >= 1:
        yield _fault("late_stop", f"it lasts {_percent(ratio)} of what the text takes", long, duration_ratio=ratio)


def _tail(case: _Case) -> Iterator[Fault]:
    silence, level = case.get("trailing_silence_seconds"), case.get("tail_db", -120.0)
    floor = case.calibration.spread.get("floor_db")
    # What the recordings themselves have in their pauses is no noise behind the speech.
    noise = max(-36.0, min(-30.0, floor.median + 4)) if floor is not None else -36.0
    if silence > 0.4 and case.get("tail_seconds") > 0.25 and level > noise:
        said = f"behind the speech there are {silence:.1f} s of noise at {level:.0f} dB of its level"
        yield _fault("trailing_noise", said, 1 + (level - noise) / 10, tail_db=level, trailing_silence_seconds=silence)
    elif "trailing_silence_seconds" in case.values and silence > (
        limit := max(0.6, case.limit("trailing_silence_seconds", 5, 0.4))
    ):
        said = f"behind the speech there are {silence:.1f} s of silence"
        yield _fault("trailing_silence", said, silence / limit, trailing_silence_seconds=silence, limit=limit)


# The words


def _words(case: _Case) -> Iterator[Fault]:
    lost, lost_end = case.get("lost_characters"), case.get("lost_end_characters")
    if lost >= _LOST:
        evidence = {
            "lost_characters": lost,
            "replaced_characters": case.get("replaced_characters"),
            "lost_pace": case.get("lost_pace", 1.0),
            "duration_ratio": case.get("duration_ratio"),
        }
        if _left_out(case, lost):
            yield _fault("skipped", f"words of {lost:.0f} characters are left out", 1 + lost / 8, **evidence)
        else:
            said = f"words of {lost:.0f} characters are not what the text says"
            yield _fault("mispronounced", said, 1 + lost / 8, **evidence)
    if lost_end >= _LOST and _said_otherwise(case):
        said = f"the last {lost_end:.0f} characters are not what the text says"
        yield _fault("mispronounced", said, 1 + lost_end / 8, lost_end_characters=lost_end)


def _left_out(case: _Case, lost: float) -> bool:
    """Whether lost words were left out, rather than something else said: by what was heard, by the time, by the pace.

    Each votes from -1 (left out) to 1 (said as something else): characters heard in their place against their own,
    how much of the time that they would take is missing, and the time that they have where they are looked for.
    """
    share = min(0.9, lost / max(lost, case.get("text_characters"), 1.0))
    half = 0.5 * math.log(1 - share)
    heard = _vote(case.get("replaced_characters") / lost, 0.45, 0.35)
    pace = min(0.0, _vote(case.get("lost_pace", 1.0), 0.5, 0.5))  # one that is long may be a pause
    return heard + _time_vote(case, half) + 0.3 * pace < 0


def _time_vote(case: _Case, half: float) -> float:
    """1 where nothing of the time is missing, -1 where twice `half` of its logarithm is.

    In a long text the speaker's own pace moves the length by more than a word does, and the vote counts less.
    """
    if not case.has("duration_ratio"):
        return 0.0
    return min(1.0, -half / 0.1) * _vote(case.get("duration_ratio"), half, max(0.1, -half))


def _vote(value: float, middle: float, width: float) -> float:
    return max(-1.0, min(1.0, (value - middle) / width))


def _repeats(case: _Case) -> Iterator[Fault]:
    alike, characters = case.get("repetition"), case.get("repeated_characters")
    ratio = case.get("duration_ratio")
    exact = case.over("repetition", 6, 0.2, 0.93)
    # A text that says the same twice sounds so: then it must be longer than it should be, too.
    in_text = case.get("text_repetition") >= 6
    if exact >= 1 and not (in_text and ratio < 0.3 and characters < _LOST):
        said = f"{case.get('repetition_seconds'):.1f} s of it come twice, {alike:.0%} alike"
        yield _fault("repeated", said, 1 + 3 * (exact - 1), repetition=alike)
    elif characters >= _LOST:
        said = f"{characters:.0f} characters are heard twice"
        yield _fault("repeated", said, 1 + characters / 8, repeated_characters=characters, duration_ratio=ratio)


# The sound


def _sound(case: _Case) -> Iterator[Fault]:
    echo = case.over("echo", 5, 2.2)
    if case.noisy and echo < 1:
        background = case.get("dnsmos_background")
        said = f"there is noise under the speech (background {background:.1f} of 5)"
        severity = max(case.over("dnsmos_background", -3, 1.0), case.over("hum_db", 3, 12))
        yield _fault("noisy", said, severity, dnsmos_background=background, noise_db=case.get("noise_db"))
    if (holes := case.get("holes")) >= 2:
        yield _fault("distorted", f"the sound drops out {holes:.0f} times", 2.0, holes=holes)
    elif (pause := case.get("inner_silence_seconds")) > 1.2 and case.over("inner_silence_seconds", 6, 0.8) >= 1:
        # The longest in 126 real clips lasts 0.4 s, and one between two sentences not twice that.
        yield _fault(
            "distorted", f"there are {pause:.1f} s of silence in the middle", pause, inner_silence_seconds=pause
        )
    elif echo >= 1:
        yield _fault("distorted", "it sounds metallic, as if spoken into a tube", echo, echo=case.get("echo"))
    elif (strange := _artificial(case)) >= 1:
        said = f"it sounds artificial (naturalness {case.get('naturalness'):.1f} of 5)"
        yield _fault(
            "distorted", said, strange, naturalness=case.get("naturalness"), dnsmos_signal=case.get("dnsmos_signal")
        )


def _artificial(case: _Case) -> float:
    """Two networks must agree, or one be sure: real clips go 1.5 below their own median by one of them."""
    natural, signal = case.over("naturalness", -3, 0.9), case.over("dnsmos_signal", -3, 0.25)
    overall = case.over("dnsmos", -3, 0.5)
    if case.noisy:  # which explains all three
        return signal / 2
    return max(min(natural, max(signal, overall)), natural / 1.9, signal / 2.4)


def _clips(case: _Case) -> Iterator[Fault]:
    runs, share = case.get("clipped_runs"), case.get("clipped_share")
    if runs > 20:
        said = f"the wave is cut off at its peak in {runs:.0f} places"
        yield _fault("clipped", said, 1 + 30 * share, clipped_runs=runs, clipped_share=share)


# The voice


def _voice(case: _Case) -> Iterator[Fault]:
    strange = case.over("likeness", -4, 0.3)
    if strange >= 1:
        said = f"it is another voice (likeness {case.get('likeness'):.2f}, the speaker's clips "
        said += f"{case.calibration.spread['likeness'].median:.2f})"
        yield _fault("wrong_voice", said, strange, likeness=case.get("likeness"))
    if not case.calibration.own:
        return
    moved = max(case.over("pitch_semitones", 3, 3.5), case.over("pitch_semitones", -3, 3.5))
    # A voice that has another pitch than its own is less like it; one that asks or calls out is not.
    if moved >= (1.0 if case.over("likeness", -2, 0.15) >= 1 else 2.0):
        off = case.get("pitch_semitones") - case.calibration.spread["pitch_semitones"].median
        said = f"the voice is {abs(off):.1f} semitones {'higher' if off > 0 else 'lower'} than the speaker's"
        yield _fault("pitch", said, moved, pitch_semitones=case.get("pitch_semitones"))
    flat = case.over("pitch_spread_semitones", -4, 5.0)
    if flat >= 1 and not case.noisy:
        said = f"the voice hardly moves ({case.get('pitch_spread_semitones'):.1f} semitones)"
        yield _fault("pitch", said, flat, pitch_spread_semitones=case.get("pitch_spread_semitones"))


def _percent(log_ratio: float) -> str:
    return f"{math.exp(log_ratio):.0%}"


_RULES: tuple[Callable[[_Case], Iterator[Fault]], ...] = (
    _stops_early,
    _stops_late,
    _tail,
    _words,
    _repeats,
    _sound,
    _clips,
    _voice,
)
