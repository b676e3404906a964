"""Which clips have the wrong text, or lack a part of what it says: by how it sounds and how long it takes.

Both are told in likelihoods: of a clip with its own text, as the clips of the set show it, against one with the text of
another clip, which can be had from the set, too. So the evidence counts as much as it is worth in this set: a language
whose letters do not tell its sounds is judged by the length alone, and a short clip seldom.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from xtts_gatekeeper.dataset import align
from xtts_gatekeeper.dataset.clip import Audio, Clip, Fault
from xtts_gatekeeper.dataset.measure import HOP_SECONDS, MELS

Array: TypeAlias = Any  # of numpy, which mypy does not look into
Clips = Callable[[], Iterable[tuple[Clip, Audio]]]
Frames = Callable[[Sequence[str]], dict[str, bytes]]

#: A language is learned from so many clips at least, and from so many clips and frames at most: 20 minutes of speech.
_ENOUGH_CLIPS, _MOST_CLIPS, _MOST_FRAMES = 60, 1000, 60_000
_FOLDS = 4
#: More of a text than this in letters that are too rare to be learned, and sounds tell nothing.
_UNKNOWN_SHARE = 0.4
_SHORTEST_FRAMES = 15
#: A clip is held against the texts of so many clips whose texts are of like length, itself among them.
_GROUP = 12
_AT_ONCE = 240
#: A path that cannot be has less than this a frame: a text that is longer than its clip has frames.
_IMPOSSIBLE = -1000.0
#: Natural logarithm of the odds at which a clip is accused; of texts, few are wrong.
_ACCUSED = 2.7
#: That a clip was cut is told by its end and its length, which are less independent than sound and length.
_ACCUSED_CUT = 6.0
#: No single witness counts for more.
_MOST = 15.0
_STOP = re.compile(r"[,.;:!?…–—][\s\"')]|[、。，；：！？،؛]")  # noqa: RUF001
_LEAST_SPREAD = 0.04
_UNSURE = 2.0
#: A clip that was cut lasts half as long as its text would, give or take; a path that ends early is so much likelier.
_CUT_LENGTH, _CUT_SPREAD = -0.6, 0.3
_CUT_EARLY = 45.0
_CUT_EARLY_SHARE = 0.9
#: That share of the right texts takes an unusual time for reasons of its own.
_ODD_SHARE = 0.02


class Item(NamedTuple):
    """A clip that waits: its text in letters, the stops inside that text, and the course of its spectrum."""

    name: str
    spelled: str
    stops: int
    frames: bytes

    @property
    def known(self) -> float:
        """Share of the text whose sounds can be known."""
        return 1 - self.spelled.count(align.ANY) / len(self.spelled)


@dataclass(frozen=True)
class Usual:
    """How right and wrong texts look in one language.

    Attributes:
        models: one for each fold.
        fold: clip -> the model that has not learned from it.
        null: standard deviation of the fit of a wrong text, times the root of the frames; its mean is 0.
        fit: mean of the fit of the right text, a frame.
        fit_spread: its standard deviation beyond that of chance.
        weights: of what the logarithm of the number of frames is expected by, see `_witnesses`.
        length_spread, wrong_spread: standard deviation of that logarithm about the expected one, with the right and
            with a wrong text.
        early: mean of how much likelier a path is that ends early in the text, where there is one; for right texts.
        early_share: share of the right texts where there is one.
    """

    models: list[align.Letters]
    fold: dict[str, int]
    null: float
    fit: float
    fit_spread: float
    weights: Array
    length_spread: float
    wrong_spread: float
    early: float
    early_share: float


def mismatches(clips: Clips, frames: Frames) -> Iterator[Fault]:
    """Yield a fault for each clip whose text is probably not what is spoken. The clips are read twice.

    Args:
        clips: all of the set.
        frames: digest -> the course of the spectrum, as `Store.frames`.
    """
    known = {language: found for language, items in _samples(clips, frames).items() if (found := _learn(items))}
    waiting: dict[str, list[Item]] = {}
    for language, item in _items(clips, frames):
        if language not in known:
            continue
        batch = waiting.setdefault(language, [])
        batch.append(item)
        if len(batch) >= _AT_ONCE:
            yield from _judge(batch, known[language])
            batch.clear()
    for language, batch in waiting.items():
        yield from _judge(batch, known[language])


def _items(clips: Clips, frames: Frames) -> Iterator[tuple[str, Item]]:
    batch: list[tuple[Clip, str]] = []

    def flush() -> Iterator[tuple[str, Item]]:
        courses = frames(sorted({digest for _, digest in batch}))
        for clip, digest in batch:
            course = courses.get(digest, b"")
            spelled = align.letters(clip.text, clip.language)
            if len(course) >= _SHORTEST_FRAMES * MELS and spelled:
                yield clip.language, Item(clip.name, spelled, _stops(clip.text), course)
        batch.clear()

    for clip, audio in clips():
        if audio.active_seconds:
            batch.append((clip, audio.digest))
        if len(batch) >= _AT_ONCE:
            yield from flush()
    yield from flush()


def _samples(clips: Clips, frames: Frames) -> dict[str, list[Item]]:
    """A fair sample of the clips of each language."""
    chance = random.Random(0)
    kept: dict[str, list[Item]] = {}
    seen: dict[str, int] = {}
    for language, item in _items(clips, frames):
        sample = kept.setdefault(language, [])
        seen[language] = seen.get(language, 0) + 1
        if len(sample) < _MOST_CLIPS:
            sample.append(item)
        elif (at := chance.randrange(seen[language])) < _MOST_CLIPS:
            sample[at] = item
    for sample in kept.values():
        chance.shuffle(sample)
        total = 0
        for number, item in enumerate(sample):
            total += len(item.frames) // MELS
            if total > _MOST_FRAMES:
                del sample[number:]
                break
    return kept


def _learn(items: list[Item]) -> Usual | None:
    if len(items) < _ENOUGH_CLIPS:
        return None
    counts = Counter(c for item in items for c in item.spelled)
    if sum(count for c, count in counts.items() if align.learnable(c, count)) < (1 - _UNKNOWN_SHARE) * counts.total():
        return None
    models = align.learn([(item.spelled, align.features(item.frames)) for item in items], _FOLDS)
    fold = {item.name: number % _FOLDS for number, item in enumerate(items)}
    fits, early, frames, wrong = _fits(items, models, fold)
    null = float(np.std(wrong))
    each = fits / np.sqrt(frames)
    fit = float(np.median(each))
    spread = 1.4826 * float(np.median(np.abs(each - fit)))
    weights, length_spread = _regression(np.stack([_witnesses(item, models[0]) for item in items]), np.log(frames))
    ending = early[early > 0]
    usual_early = ending[ending <= np.median(ending) * 4] if len(ending) else np.ones(1)  # without those that are cut
    return Usual(
        models,
        fold,
        null,
        fit,
        math.sqrt(max(spread**2 - null**2 * float(np.mean(1 / frames)), 0.0)),
        weights,
        length_spread,
        math.sqrt(2) * float(np.std(np.log(frames))) + 0.1,
        max(float(usual_early.mean()), 1.0),
        min(max(len(ending) / len(items), 0.02), 0.9),
    )


def _stops(text: str) -> int:
    """How often a reader pauses inside a text."""
    return len(_STOP.findall(text.rstrip(" .!?…。")))


def _witnesses(item: Item, model: align.Letters) -> Array:
    """What the logarithm of a clip's frames depends on: the time its letters take, the ends of a clip, the pauses."""
    expected = float(model.lengths[model.states(item.spelled)].sum())
    return np.array([1.0, math.log(expected), 1 / expected, item.stops / expected])


def _regression(x: Array, y: Array) -> tuple[Array, float]:
    """Least squares without what is far off, and the standard deviation about it."""
    kept: Array = np.ones(len(y), bool)
    for _ in range(6):
        weights = np.linalg.lstsq(x[kept], y[kept], rcond=None)[0]
        off = np.abs(y - x @ weights)
        spread = max(1.4826 * float(np.median(off)), _LEAST_SPREAD)
        kept = off < 3 * spread
    return weights, spread


def _fits(
    items: Sequence[Item], models: list[align.Letters], fold: dict[str, int]
) -> tuple[Array, Array, Array, Array]:
    """How much better each text fits its clip than texts of like length do, and these.

    In a group of clips, each is held against each text. What a clip has with any text, and a text with any clip, is
    taken off; what is left is what they have with each other.

    Returns:
        Of each clip, the log likelihood above the others' over the root of its frames; how much likelier a path is that
        ends early in its text; its frames; and the first number of every wrong pair.
    """
    emissions = [models[fold.get(i.name, 0)].emissions(align.features(i.frames)) for i in items]
    coded = [models[0].states(item.spelled) for item in items]
    order = sorted(range(len(items)), key=lambda n: len(items[n].spelled))
    groups = [order[at : at + _GROUP] for at in range(0, len(order), _GROUP)]
    if len(groups) > 1 and len(groups[-1]) < _GROUP // 2:
        rest = groups.pop()
        groups[-1] = groups[-1] + rest
    pairs = [(clip, text) for group in groups for clip in group for text in group]
    best, ends = align.scores([emissions[clip] for clip, _ in pairs], [coded[text] for _, text in pairs])
    fits, early = np.zeros(len(items)), np.zeros(len(items))
    frames = np.array([len(one) for one in emissions], float)
    wrong, at = [], 0
    for group in groups:
        count = len(group)
        spelled = [items[n].spelled for n in group]
        length = frames[group][:, None]
        score = best[at : at + count * count].reshape(count, count) / length
        early[group] = np.diag(ends[at : at + count * count].reshape(count, count))
        at += count * count
        possible = score > _IMPOSSIBLE
        others = possible & np.array([[one != other for other in spelled] for one in spelled])
        rest = _without_means(np.where(possible, score, score[possible].min() if possible.any() else 0.0), others)
        fits[group] = np.diag(rest * np.sqrt(length))
        wrong.append((rest * np.sqrt(length))[others])
    return fits, early, frames, np.concatenate(wrong) if wrong else np.zeros(0)


def _without_means(score: Array, counted: Array) -> Array:
    """The score without what its row and its column have in common, by the pairs that are counted."""
    weight = counted.astype(float)
    rows, columns = np.zeros(len(score)), np.zeros(len(score))
    for _ in range(10):  # least squares, a row and a column at a time
        rows = (weight * (score - columns)).sum(axis=1) / np.maximum(weight.sum(axis=1), 1)
        columns = (weight * (score - rows[:, None])).sum(axis=0) / np.maximum(weight.sum(axis=0), 1)
        columns -= columns.mean()
    return np.asarray(score - rows[:, None] - columns)


def _judge(items: list[Item], usual: Usual) -> Iterator[Fault]:
    fits, early, frames, _ = _fits(items, usual.models, usual.fold)
    for item, fit, ends, length in zip(items, fits.tolist(), early.tolist(), frames.tolist(), strict=True):
        expected = float(_witnesses(item, usual.models[0]) @ usual.weights)
        off = math.log(length) - expected
        sound = _sound(fit, length, usual) if item.known >= 1 - _UNKNOWN_SHARE else 0.0
        off /= 1 + _UNSURE * (1 - item.known)  # who knows how long a number is when it is read
        time = _time(off, usual)
        cut = _cut_by_time(off, usual) + _cut_by_end(ends, usual) if off < 0 else -_MOST
        if sound + time <= _ACCUSED and cut <= _ACCUSED_CUT:
            continue
        takes = f"{length * HOP_SECONDS:.1f} s of speech, where its text takes {math.exp(expected) * HOP_SECONDS:.1f} s"
        if cut > max(sound + time, _ACCUSED_CUT):
            yield Fault(item.name, "cut_off", "soft", f"it ends before its text does: {takes}", cut)
        elif sound > time:
            heard = f"its text fits it {fit / usual.null:+.1f} standard deviations better than other texts do"
            as_usual = f"{usual.fit * math.sqrt(length) / usual.null:+.1f} are usual"
            yield Fault(item.name, "text_mismatch", "soft", f"{heard}, where {as_usual}; {takes}", sound + time)
        else:
            yield Fault(item.name, "too_fast" if off < 0 else "too_slow", "soft", takes, sound + time)


def _cut_by_time(off: float, usual: Usual) -> float:
    """Log odds that the clip was cut, by the time it takes."""
    right = _log_normal(off, 0.0, usual.length_spread)
    cut = _log_normal(off, _CUT_LENGTH, _CUT_SPREAD)
    return max(-_MOST, min(_MOST, cut - right))


def _cut_by_end(ends: float, usual: Usual) -> float:
    """Log odds that the clip was cut, by where in its text the best path ends."""
    if ends <= 0:
        return math.log((1 - _CUT_EARLY_SHARE) / (1 - usual.early_share))
    right = math.log(usual.early_share / usual.early) - ends / usual.early
    cut = math.log(_CUT_EARLY_SHARE / _CUT_EARLY) - ends / _CUT_EARLY
    return max(-_MOST, min(_MOST, cut - right))


def _sound(fit: float, frames: float, usual: Usual) -> float:
    """Log odds that the text is wrong, by how it sounds."""
    mean = usual.fit * math.sqrt(frames)
    if mean <= 0:
        return 0.0
    spread = math.hypot(usual.null, usual.fit_spread * math.sqrt(frames))
    right = _log_normal(min(fit, mean), mean, spread)
    wrong = _log_normal(min(fit, mean), 0.0, usual.null)
    return max(-_MOST, min(_MOST, wrong - right))


def _time(off: float, usual: Usual) -> float:
    """Log odds that the text is wrong, by the time it takes."""
    right = _log_normal(off, 0.0, usual.length_spread)
    wrong = _log_normal(off, 0.0, usual.wrong_spread)
    return wrong - float(np.logaddexp(math.log(1 - _ODD_SHARE) + right, math.log(_ODD_SHARE) + wrong))


def _log_normal(value: float, mean: float, spread: float) -> float:
    return -(((value - mean) / spread) ** 2) / 2 - math.log(spread)
