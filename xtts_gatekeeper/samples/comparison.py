"""Whether one set of samples is better than another of the same prompts, and how sure that is.

Everything is paired: a prompt's marks in one set against its marks in the other, takes averaged, so that a hard prompt
is hard for both. Two questions are asked, each about a sum of the rubric's rows: is something else *said* (words lost,
wrong or repeated, the end missed), and does it *sound* otherwise (prosody, artifacts)? They are kept apart because the
first has hardly any noise, and the second has some. Each is answered by a permutation test (`paired.chance`) and not by
whether a bootstrap interval leaves out 0, which with 8 to 12 prompts happens too often; the intervals tell how large a
difference may be.

How often two sets from the same weights are called different, and what is found, is measured by
benchmarks/comparison.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.samples.calibration import Spread
from xtts_gatekeeper.samples.paired import chance, interval
from xtts_gatekeeper.samples.score import ROWS, by_prompt, faulty, kinds_of
from xtts_gatekeeper.samples.sets import Sample, SampleSet

VerdictName = Literal["improved", "regressed", "same"]

#: Rows that are judged together: what is said, and how it sounds.
SIDES: Mapping[str, tuple[str, ...]] = {
    "said": ("intelligibility", "pronunciation", "stopping"),
    "sound": ("prosody", "artifacts"),
}
#: How often chance may have a say in each of them. What is said is in good samples the same at most prompts: the risk
#: is such that four that are worse are enough where no other one is better (1 / 16). Two sets from the same weights are
#: called different less often than that (benchmarks/comparison.py), for at most prompts nothing differs.
RISK = {"said": 1 / 15, "sound": 0.01}
#: Smaller differences of a side are not worth a word, however sure: a tenth of a mark a row. Means of naturalness over
#: 20 prompts differ by as much between two reruns (STACK.md section 9: standard deviation 0.05).
MODEST = 0.2
#: Below so many prompts not even a change in all of them can be told from chance.
FEWEST = math.ceil(math.log2(1 / max(RISK.values())))
#: Measures that are shown beside the marks, where both sets have them; they decide nothing.
SHOWN = ("wer", "cer", "duration_ratio", "dnsmos", "naturalness", "likeness", "pitch_spread_semitones")


@dataclass(frozen=True, kw_only=True)
class Change:
    """How one mark or measure differs: means over the prompts that both sets have it of, and `after` minus `before`.

    `low` and `high` are a 95 % bootstrap interval of the difference over prompts, None below three prompts. `p` is how
    often two sets from the same weights differ as much; None for what is only shown and decides nothing.
    """

    name: str
    before: float
    after: float
    prompts: int
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @property
    def difference(self) -> float:
        """`after` minus `before`."""
        return self.after - self.before

    @property
    def shown(self) -> bool:
        """Whether the difference is more than chance explains, and not too small to mention."""
        return self.p is not None and self.p <= RISK[self.name] and abs(self.difference) >= MODEST


@dataclass(frozen=True, kw_only=True)
class PromptChange:
    """One prompt in both sets: the totals of 25 (None where a row was not measured), marks, and faults.

    `come` and `gone` are the kinds of faults that only the later or only the earlier set has at this prompt.
    """

    prompt: str
    text: str
    language: str
    own: bool
    score_before: float | None
    score_after: float | None
    rows: Mapping[str, tuple[float | None, float | None]]
    come: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    files_before: tuple[str, ...] = ()
    files_after: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two sets of the same prompts against each other.

    `verdict`: `improved` (at least modestly), `regressed`, or `same`: no difference that can be shown. It is about the
    prompts in the languages that are trained on. `come` and `gone` count, by kind of fault, the prompts at which it is
    new or no longer there.
    """

    verdict: VerdictName
    message: str
    before: str
    after: str
    changes: tuple[Change, ...]
    prompts: tuple[PromptChange, ...]
    come: Mapping[str, int] = field(default_factory=dict)
    gone: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The comparison as `--json` prints it."""
        document = asdict(self)
        for change, told in zip(self.changes, document["changes"], strict=True):
            told.update(difference=change.difference, shown=change.shown)
        return document


def compare(
    before: SampleSet,
    after: SampleSet,
    spread: Mapping[str, Spread] | None = None,
    *,
    seed: int = 0,
    resamples: int = 4000,
) -> Comparison:
    """Hold `after` against `before`.

    Args:
        before: a measured set.
        after: another one, of the same prompts, voice and settings, measured in the same way.
        spread: where the speaker's own real clips lie, as for `score.scores`.
        seed: of the bootstrap, and of the test where there are too many prompts to try every way of swapping.
        resamples: so many draws of the bootstrap.

    Raises:
        UserError: the sets are of different prompts, were measured differently, or one was not measured.
    """
    _check(before, after)
    spread = spread or {}
    own = {sample.prompt for sample in before.samples if sample.own}
    rows = by_prompt(before, spread), by_prompt(after, spread)
    enough = max(1, len(own) / 2)
    measured = [row for row in ROWS if len(_pairs(rows[0], rows[1], row, own)) >= enough]
    marks = _with_sums(rows[0], measured), _with_sums(rows[1], measured)
    changes = [
        _change(name, pairs, seed, resamples, decides=name in SIDES)
        for name in ("score", *SIDES, *ROWS)
        if len(pairs := _pairs(marks[0], marks[1], name, own)) >= enough
    ]
    notes = [f"{row} was not measured of enough prompts in both sets" for row in ROWS if row not in measured]
    if max((change.prompts for change in changes), default=0) < FEWEST:
        notes.append(f"with fewer than {FEWEST} prompts no difference can be shown, however large")
    prompts = tuple(_prompt(before, after, prompt, marks) for prompt in dict.fromkeys(s.prompt for s in before.samples))
    changes += _measures(before, after, own, seed, resamples)
    verdict = _verdict(changes)
    come = Counter(kind for prompt in prompts if prompt.own for kind in prompt.come)
    gone = Counter(kind for prompt in prompts if prompt.own for kind in prompt.gone)
    return Comparison(
        verdict=verdict,
        message=_message(verdict, changes, come, gone),
        before=label(before),
        after=label(after),
        changes=tuple(changes),
        prompts=prompts,
        come=dict(come.most_common()),
        gone=dict(gone.most_common()),
        notes=tuple(notes),
    )


def label(made: SampleSet) -> str:
    """A set in a few words: whose weights they are, and of which step."""
    return f"step {made.step}" if made.weights in ("", "live") else f"{made.weights} (step {made.step})"


def _check(before: SampleSet, after: SampleSet) -> None:
    if before.prompts != after.prompts:
        raise UserError(
            f"{before.folder} and {after.folder} are not samples of the same prompts, voice and settings "
            f"({before.prompts} and {after.prompts}): speak one of them again with the prompts of the other."
        )
    for made in (before, after):
        if not made.measured and not all(sample.error for sample in made.samples):
            raise UserError(
                f"The samples in {made.folder} have not been measured: speak them again without --no-measure."
            )
        if not made.samples:
            raise UserError(f"{made.folder} holds no samples to compare.")
    if before.measured and after.measured and before.measured_as != after.measured_as:
        raise UserError(
            f"{before.folder} and {after.folder} were measured differently ({before.measured_as} and "
            f"{after.measured_as}): measure both again."
        )


def _with_sums(prompts: Mapping[str, Mapping[str, float]], measured: Collection[str]) -> dict[str, dict[str, float]]:
    """Prompt -> its rows and their sums: `score` of 25, and the sides, each of those rows of it that are `measured`."""
    sums = {name: [row for row in of if row in measured] for name, of in SIDES.items()}
    sums = {"score": list(ROWS), **{name: of for name, of in sums.items() if of}}
    return {
        prompt: {
            **rows,
            **{name: math.fsum(rows[row] for row in of) for name, of in sums.items() if rows.keys() >= set(of)},
        }
        for prompt, rows in prompts.items()
    }


def _pairs(
    before: Mapping[str, Mapping[str, float]],
    after: Mapping[str, Mapping[str, float]],
    name: str,
    prompts: Collection[str],
) -> list[tuple[float, float]]:
    """A value before and after, of each of `prompts` that has it in both sets."""
    both = [prompt for prompt in before if prompt in prompts and name in before[prompt]]
    return [(before[prompt][name], after[prompt][name]) for prompt in both if name in after.get(prompt, {})]


def _change(name: str, pairs: Sequence[tuple[float, float]], seed: int, resamples: int, *, decides: bool) -> Change:
    differences = [after - before for before, after in pairs]
    low, high = interval(differences, seed, resamples) or (None, None)
    return Change(
        name=name,
        before=math.fsum(before for before, _ in pairs) / len(pairs),
        after=math.fsum(after for _, after in pairs) / len(pairs),
        prompts=len(pairs),
        low=low,
        high=high,
        p=chance(differences, seed) if decides else None,
    )


def _measures(before: SampleSet, after: SampleSet, own: Collection[str], seed: int, resamples: int) -> list[Change]:
    """The share of samples with a fault, and the plain measures, for the reader."""
    before_values, after_values = _values(before, own), _values(after, own)
    return [
        _change(name, pairs, seed, resamples, decides=False)
        for name in ("faults", *SHOWN)
        if (pairs := _pairs(before_values, after_values, name, own))
    ]


def _values(made: SampleSet, own: Collection[str]) -> dict[str, dict[str, float]]:
    """Prompt -> measure -> mean over its takes; `faults` is the share of them that have one."""
    takes: dict[str, dict[str, list[float]]] = {}
    for sample in made.samples:
        measured = made.of(sample)
        if sample.prompt not in own:
            continue
        values = takes.setdefault(sample.prompt, {})
        if not sample.skipped and (measured is not None or sample.error):
            values.setdefault("faults", []).append(float(faulty(sample, measured)))
        for name in SHOWN:
            value = measured.values.get(name, math.nan) if measured is not None else math.nan
            if math.isfinite(value):
                values.setdefault(name, []).append(value)
    return {
        prompt: {name: math.fsum(found) / len(found) for name, found in values.items()}
        for prompt, values in takes.items()
    }


def _prompt(
    before: SampleSet,
    after: SampleSet,
    prompt: str,
    marks: tuple[Mapping[str, Mapping[str, float]], Mapping[str, Mapping[str, float]]],
) -> PromptChange:
    sides = [[sample for sample in made.samples if sample.prompt == prompt] for made in (before, after)]
    kinds = [_kinds(made, side) for made, side in zip((before, after), sides, strict=True)]
    was, now = (side.get(prompt, {}) for side in marks)
    first = sides[0][0]
    return PromptChange(
        prompt=prompt,
        text=first.text,
        language=first.language,
        own=first.own,
        score_before=was.get("score"),
        score_after=now.get("score"),
        rows={row: (was.get(row), now.get(row)) for row in ROWS},
        come=tuple(sorted(kinds[1] - kinds[0])),
        gone=tuple(sorted(kinds[0] - kinds[1])),
        files_before=tuple(sample.file for sample in sides[0] if sample.file),
        files_after=tuple(sample.file for sample in sides[1] if sample.file),
    )


def _kinds(made: SampleSet, samples: Sequence[Sample]) -> set[str]:
    return {kind for sample in samples for kind in kinds_of(sample, made.of(sample))}


def _verdict(changes: Sequence[Change]) -> VerdictName:
    """By the sides that differ; where one is better and the other worse, neither set is."""
    shown = [change.difference for change in changes if change.shown]
    if shown and min(shown) > 0:
        return "improved"
    return "regressed" if shown and max(shown) < 0 else "same"


_IN_WORDS = {"said": "what is said", "sound": "how it sounds"}


def _message(verdict: VerdictName, changes: Sequence[Change], come: Mapping[str, int], gone: Mapping[str, int]) -> str:
    words = {"improved": "improved", "regressed": "regressed", "same": "no difference that can be shown"}
    total = next((change for change in changes if change.name == "score"), None)
    said = [words[verdict]]
    if total is not None:
        said.append(
            f"score {total.before:.1f} to {total.after:.1f} of 25{_between(total)} over {total.prompts} prompts"
        )
    for better, word in ((True, "better"), (False, "worse")):
        sides = [_IN_WORDS[c.name] for c in changes if c.shown and (c.difference > 0) == better]
        if sides:
            said.append(f"{word} in {' and '.join(sides)}")
    for kinds, word in ((come, "new"), (gone, "gone")):
        if kinds:
            said.append(f"{word}: " + ", ".join(f"{kind} at {_prompts(n)}" for kind, n in kinds.items()))
    return "; ".join(said)


def _between(change: Change) -> str:
    if change.low is None or change.high is None:
        return ""
    return f" ({change.difference:+.1f}, 95 % interval {change.low:+.1f} to {change.high:+.1f})"


def _prompts(count: int) -> str:
    return f"{count} prompts" if count > 1 else "one prompt"
