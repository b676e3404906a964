"""From measures to marks: the rubric's five rows, 1 to 5 each, and their total of 25, without anybody listening.

What a row can lose is read off measures, in the same way each: nothing as long as a value is no worse than the median
of the speaker's own real clips, everything (5 down to 1) where it is as bad as `_Loss.ruin` says, a straight line in
between. Of the losses of a row the largest counts, as the worst of several flaws is the one that is heard; a fault
takes as many marks off its row as its severity says. So 5 means "as the speaker's own clips" and 1 "of no use".

The marks are continuous: that is what makes a small change visible over few prompts (`comparison`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from xtts_gatekeeper.samples.calibration import GENERAL, Spread
from xtts_gatekeeper.samples.sets import Measured, Sample, SampleSet

#: The rubric's rows, in the checklist's order.
ROWS = ("intelligibility", "prosody", "pronunciation", "stopping", "artifacts")
BEST, WORST = 5.0, 1.0
#: The rows that forgetting spoils first: the words of another language. Whose voice it is has no say there.
FORGOTTEN = ("intelligibility", "pronunciation", "stopping")
#: A row of which fewer prompts than this share were measured tells nothing about the set.
_ENOUGH = 0.5

#: Fault -> the row that it spoils.
ROW_OF: Mapping[str, str] = {
    "mispronounced": "pronunciation",
    "skipped": "pronunciation",
    "repeated": "pronunciation",
    "trailing_noise": "stopping",
    "trailing_silence": "stopping",
    "early_stop": "stopping",
    "late_stop": "stopping",
    "noisy": "artifacts",
    "distorted": "artifacts",
    "clipped": "artifacts",
    "wrong_voice": "prosody",
    "pitch": "prosody",
}


@dataclass(frozen=True)
class _Loss:
    """What one measure takes off a row.

    Nothing up to `free` beyond the speaker's median (in the value's own unit, plus `spreads` robust standard
    deviations of the real clips), all four marks at `ruin` beyond that. `side`: +1 where high is bad, -1 where low is,
    0 where both are.
    """

    row: str
    ruin: float
    side: int = 1
    free: float = 0.0
    spreads: float = 0.0

    def marks(self, value: float, real: Spread) -> float:
        """How many of the four marks a value costs."""
        beyond = value - real.median
        bad = abs(beyond) if self.side == 0 else self.side * beyond
        over = bad - self.free - self.spreads * 1.4826 * real.mad
        return (BEST - WORST) * min(1.0, max(0.0, over / self.ruin))


#: Measure -> what it takes off which row. Half of the words or a third of the letters wrong is of no use, and so is a
#: third of the words left out or said twice. On the two scales of DNSMOS and that of naturalness (1 to 5) the step
#: from clean studio speech to speech in loud noise, or to a robot's, is 1.5 and 2 (STACK.md section 9: real 4.33,
#: espeak 2.43). The length is free within what the speaker's own clips vary; 0.5 is 40 % too short or 65 % too long.
#: A speaker's own clips are 0.3 apart from each other in likeness at most, another speaker is 0.65 away.
LOSSES: Mapping[str, _Loss] = {
    "wer": _Loss("intelligibility", 0.5),
    "cer": _Loss("intelligibility", 0.33),
    "lost_or_repeated": _Loss("pronunciation", 0.33),
    "letters": _Loss("pronunciation", 0.33),
    "duration_ratio": _Loss("stopping", 0.5, side=0, spreads=2.0),
    "trailing_silence_seconds": _Loss("stopping", 2.0, free=0.3),
    "naturalness": _Loss("prosody", 2.0, side=-1),
    "pitch_spread_semitones": _Loss("prosody", 4.0, side=0, spreads=2.0),
    "likeness": _Loss("prosody", 0.5, side=-1, spreads=2.0),
    "dnsmos": _Loss("artifacts", 1.5, side=-1),
    "dnsmos_signal": _Loss("artifacts", 1.5, side=-1),
    "dnsmos_background": _Loss("artifacts", 1.5, side=-1),
    "clipped_runs": _Loss("artifacts", 200.0, free=20.0),
}

#: A row is marked only by one of its main measures; without them all, that no fault was found means nothing.
MAIN: Mapping[str, tuple[str, ...]] = {
    "intelligibility": ("wer", "cer"),
    "prosody": ("naturalness",),
    "pronunciation": ("lost_or_repeated", "letters"),
    "stopping": ("duration_ratio", "trailing_silence_seconds"),
    "artifacts": ("dnsmos", "dnsmos_signal", "dnsmos_background"),
}


def scores(made: SampleSet, spread: Mapping[str, Spread]) -> dict[str, float]:
    """The marks of a set, by the names that they have in a record.

    Args:
        made: samples and what was measured of them.
        spread: where the values of the speaker's own real clips lie, by measure; what is not in it is taken from real
            speech in general (`calibration.GENERAL`), and a measure that is in neither takes nothing off.

    Returns:
        `sample.intelligibility`, `sample.prosody`, `sample.pronunciation`, `sample.stopping`, `sample.artifacts`: means
        over the prompts in the languages that are trained on, of 5. A row is left out where less than half of the
        prompts could be measured for it. `sample.score`: the sum, of 25; only where all five are there.
        `sample.faults`: the share of these samples with a fault, those that could not be spoken included.
        `sample.other_languages`: the mean of the rows `FORGOTTEN` over the prompts in other languages, of 5.
    """
    own = [sample for sample in made.samples if sample.own]
    others = [sample for sample in made.samples if not sample.own]
    found = {f"sample.{row}": mark for row, mark in _marks(by_prompt(made, spread, own)).items()}
    if len(found) == len(ROWS):
        found["sample.score"] = sum(found.values())
    judged = [sample for sample in own if not sample.skipped and (sample.error or made.of(sample) is not None)]
    if judged:
        found["sample.faults"] = sum(faulty(sample, made.of(sample)) for sample in judged) / len(judged)
    elsewhere = _marks(by_prompt(made, spread, others))
    if all(row in elsewhere for row in FORGOTTEN):
        found["sample.other_languages"] = _mean(elsewhere[row] for row in FORGOTTEN)
    return found


def by_prompt(
    made: SampleSet, spread: Mapping[str, Spread], samples: Iterable[Sample] | None = None
) -> dict[str, dict[str, float]]:
    """Prompt -> row -> mark, 1 to 5; what could not be measured is left out, what could not be spoken is 1 throughout.

    Several takes of a prompt are averaged; in `pronunciation`, which the rubric calls consistency, the worst take
    counts once more beside their mean.
    """
    takes: dict[str, list[dict[str, float]]] = {}
    for sample in made.samples if samples is None else samples:
        takes.setdefault(sample.prompt, []).append(rows(sample, made.of(sample), spread))
    return {prompt: _over_takes(marks) for prompt, marks in takes.items()}


def rows(sample: Sample, measured: Measured | None, spread: Mapping[str, Spread]) -> dict[str, float]:
    """Row -> mark of one sample, 1 to 5; rows that could not be measured are left out.

    A sample that could not be spoken, or whose audio is none, has 1 in every row; one that had to be cut, because the
    model found no end, has 1 in stopping. One that was skipped for want of time says nothing.
    """
    if sample.skipped:
        return {}
    if sample.error or (measured is not None and measured.error):
        return dict.fromkeys(ROWS, WORST)
    if measured is None:
        return {"stopping": WORST} if sample.cut else {}
    values = _values(measured)
    lost = dict.fromkeys(ROWS, 0.0)
    for name, loss in LOSSES.items():
        real = _real(name, spread)
        if name in values and real is not None:
            lost[loss.row] = max(lost[loss.row], loss.marks(values[name], real))
    for fault in measured.faults:
        row = ROW_OF.get(fault.kind)
        if row is not None:
            lost[row] = max(lost[row], min(BEST - WORST, fault.severity))
    marked = {row: BEST - lost[row] for row in ROWS if any(name in values for name in MAIN[row])}
    return {**marked, "stopping": WORST} if sample.cut else marked


def faulty(sample: Sample, measured: Measured | None) -> bool:
    """Whether something is wrong with a sample that an ear would object to."""
    if sample.skipped:
        return False
    return bool(sample.error or sample.cut or (measured is not None and (measured.error or measured.faults)))


def kinds_of(sample: Sample, measured: Measured | None) -> set[str]:
    """The kinds of faults of a sample; `not_spoken` where there is none to hear, `late_stop` where it was cut."""
    found = {fault.kind for fault in measured.faults} if measured is not None else set()
    if (sample.error and not sample.skipped) or (measured is not None and measured.error):
        found.add("not_spoken")
    if sample.cut:
        found.add("late_stop")
    return found


def fault_counts(made: SampleSet) -> dict[str, int]:
    """Kind of fault -> how many samples in the languages that are trained on have it, the most frequent first."""
    found = Counter(kind for sample in made.samples if sample.own for kind in kinds_of(sample, made.of(sample)))
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _values(measured: Measured) -> dict[str, float]:
    """The finite values of a sample, and the two that are made of others.

    `lost_or_repeated`: words left out and words too many, as a share of the text's. `letters`: the character error
    rate, for the row `pronunciation`; a letter is as near to a phone as a transcript comes.
    """
    values = {name: value for name, value in measured.values.items() if math.isfinite(value)}
    words = values.get("words", 0.0)
    if words > 0 and "deletions" in values and "insertions" in values:
        values["lost_or_repeated"] = (values["deletions"] + values["insertions"]) / words
    if "cer" in values:
        values["letters"] = values["cer"]
    return values


def _real(name: str, spread: Mapping[str, Spread]) -> Spread | None:
    """Where a measure of real speech lies: of the speaker, else in general; None when it is not known."""
    known = {"letters": "cer"}.get(name, name)
    if name == "lost_or_repeated":
        return Spread(median=0.0, mad=0.0, count=0)
    found = spread.get(known)
    return found if found is not None and found.count else GENERAL.get(known)


def _over_takes(takes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for row in ROWS:
        marks = [take[row] for take in takes if row in take]
        if marks:
            found[row] = _mean([_mean(marks), min(marks)]) if row == "pronunciation" else _mean(marks)
    return found


def _marks(prompts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Row -> mean over prompts, for the rows of which enough prompts have a mark."""
    marks = {row: [marks[row] for marks in prompts.values() if row in marks] for row in ROWS}
    return {row: _mean(found) for row, found in marks.items() if found and len(found) >= _ENOUGH * len(prompts)}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
