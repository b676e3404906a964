"""Whether a text is what is spoken: a small model of how the letters of a language sound, learned from the set itself.

No speech recognition and no downloads. A hidden Markov model with two states a letter is aligned to every clip, first
in equal steps, then again and again by what it has learned (Viterbi training). Where letters are spelled as they sound
it soon knows the sounds well enough that a clip fits its own text far better than the texts of other clips of like
length. A clip that does not has the wrong text. How well that tells right from wrong is measured on the set, too: the
texts of other clips are known to be wrong.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from xtts_gatekeeper.dataset.measure import FRAME_DB, MELS

Array: TypeAlias = Any  # of numpy, which mypy does not look into

#: A letter that occurs less often is not learned; it stands for any sound.
_ENOUGH = 30
#: In dB: less than this below the level of the speech is background.
_FLOOR_DB = -50.0
#: Frames on either side that make up the context of one.
_CONTEXT = 3
_DIMENSIONS = 20
_ROUNDS = 2, 6
_BATCH = 128
_NEVER = -1e9
#: Log probability of a step over a state (a mute letter), against that of staying and of going on; and over a pause.
_OVER, _OVER_PAUSE = -8.3, 0.4
ANY, PAUSE = "*", " "


def letters(text: str, language: str) -> str:
    """The text as the units that are learned: small letters, and one blank between words.

    Korean syllables are taken apart. A digit stands for four sounds or so, whichever, when it is read; a letter that is
    spelled out (a word in capitals, single letters in a row) for two.
    """
    form = unicodedata.normalize("NFD" if language == "ko" else "NFC", text)
    words = "".join(c if c.isalnum() or unicodedata.combining(c) else PAUSE for c in form).split()
    single = [len(word) == 1 and word.isalpha() for word in words]
    spelled = []
    for word, one, before, after in zip(words, single, [False, *single], [*single[1:], False], strict=False):
        out = (word.isupper() and len(word) > 1) or (one and (before or after))
        spelled.append("".join(ANY * 4 if c.isdigit() else ANY * 2 if out else c for c in word))
    return PAUSE.join(spelled).lower()


def learnable(letter: str, count: int) -> bool:
    """Whether a letter that occurs so often has a sound that can be learned."""
    return letter != ANY and count >= _ENOUGH


def features(frames: bytes) -> Array:
    """Shape (frames, (2 * context + 1) * `MELS`), from the bytes that `measure` made; without the clip's own mean."""
    level = np.frombuffer(frames, np.int8).reshape(-1, MELS).astype(np.float32) * np.float32(FRAME_DB)
    level = np.maximum(level, _FLOOR_DB)
    level -= level.mean(axis=0)
    padded = np.pad(level, ((_CONTEXT, _CONTEXT), (0, 0)), mode="edge")
    return np.concatenate([padded[at : at + len(level)] for at in range(2 * _CONTEXT + 1)], axis=1)


@dataclass(frozen=True)
class Letters:
    """What was learned: emissions are Gaussian in `_DIMENSIONS` dimensions.

    Attributes:
        units: letter -> its first state; its second is the next. `ANY` and `PAUSE` have one, 0 and 1.
        project: shape (features, dimensions).
        means, precisions: shape (states, dimensions).
        lengths: mean number of frames of a state, shape (states,).
    """

    units: dict[str, int]
    project: Array
    means: Array
    precisions: Array
    lengths: Array

    def emissions(self, x: Array) -> Array:
        """Log likelihood of each frame for each state, shape (frames, states); that of `ANY` is a good one."""
        y = x @ self.project
        found = (
            -0.5 * (y**2 @ self.precisions.T)
            + y @ (self.means * self.precisions).T
            - 0.5 * (self.means**2 * self.precisions).sum(axis=1)
            + 0.5 * np.log(self.precisions).sum(axis=1)
        )
        found[:, 0] = np.partition(found[:, 1:], -4, axis=1)[:, -4]
        return np.asarray(found)

    def states(self, spelled: str) -> Array:
        """The states of a text that `letters` returned, in order."""
        return _states(spelled, self.units)


def learn(clips: Sequence[tuple[str, Array]], folds: int = 4) -> list[Letters]:
    """Learn from clips (letters, features): one model for each fold, number n % folds, that has not learned from it."""
    counts = Counter(c for spelled, _ in clips for c in spelled)
    known = [c for c, count in counts.items() if c != PAUSE and learnable(c, count)]
    units = {ANY: 0, PAUSE: 1} | {letter: 2 * number + 2 for number, letter in enumerate(sorted(known))}
    states = 2 * len(units) - 2
    x = np.concatenate([features for _, features in clips])
    centre = slice(_CONTEXT * MELS, (_CONTEXT + 1) * MELS)
    spread = x.std(axis=0)
    # The first rounds see the frame alone; then the directions that tell the letters apart are known.
    project = np.zeros((x.shape[1], MELS), np.float32)
    project[centre] = np.diag(1 / spread[centre])
    coded = [_states(spelled, units) for spelled, _ in clips]
    lengths = [len(features) for _, features in clips]
    fold: Array = np.repeat(np.arange(len(clips)) % folds, lengths)
    labels = np.concatenate([_even(path, length) for path, length in zip(coded, lengths, strict=True)])
    for number in range(sum(_ROUNDS)):
        if number >= _ROUNDS[0]:
            project = _directions(x, labels, states)
        model = _fit(x, labels, units, project, np.ones(states))
        labels = np.concatenate(align(model, x, lengths, coded))
    project = _directions(x, labels, states)
    lengths_of = (np.bincount(labels, minlength=states) + 3.0) / (
        np.bincount(np.concatenate(coded), minlength=states) + 1.0
    )
    return [_fit(x[fold != one], labels[fold != one], units, project, lengths_of) for one in range(folds)]


def _states(spelled: str, units: dict[str, int]) -> Array:
    found: list[int] = []
    for c in spelled:
        state = units.get(c, 0)
        found += (state, state + 1) if state > 1 else (state,)
    return np.array(found, np.int32)


def _even(states: Array, length: int) -> Array:
    """A first guess: every state takes as long as the others."""
    return states[np.arange(length) * len(states) // length]


def _fit(x: Array, labels: Array, units: dict[str, int], project: Array, lengths: Array) -> Letters:
    y = x @ project
    total, squares = y.mean(axis=0), y.var(axis=0)
    means = np.zeros((len(lengths), y.shape[1]), np.float32)
    variances = np.ones_like(means)
    shrink = 20.0
    for unit in range(len(lengths)):
        of = y[labels == unit]
        means[unit] = (of.sum(axis=0) + shrink * total) / (len(of) + shrink)
        variances[unit] = (((of - means[unit]) ** 2).sum(axis=0) + shrink * squares) / (len(of) + shrink)
    return Letters(units, project, means, 1 / variances, lengths)


def _directions(x: Array, labels: Array, units: int) -> Array:
    """Linear discriminants: the directions in which letters differ most against how each varies."""
    overall = x.mean(axis=0)
    off_mean = x - overall
    within = (off_mean.T @ off_mean).astype(np.float64) / len(x)
    between = np.zeros_like(within)
    for unit in range(1, units):
        of = off_mean[labels == unit]
        if len(of):
            off = of.mean(axis=0, dtype=np.float64)
            between += len(of) / len(x) * np.outer(off, off)
    within += 1e-2 * np.trace(within) / len(within) * np.eye(len(within)) - between
    values, vectors = np.linalg.eigh(within)
    white = vectors / np.sqrt(np.maximum(values, 1e-9))
    _, turned = np.linalg.eigh(white.T @ between @ white)
    return np.asarray(white @ turned[:, -_DIMENSIONS:], np.float32)


def align(model: Letters, x: Array, lengths: Sequence[int], coded: Sequence[Array]) -> list[Array]:
    """The unit of each frame of each clip, by the best path."""
    starts = np.concatenate(([0], np.cumsum(lengths)))
    emissions = model.emissions(x)
    found: list[Array] = [np.empty(0)] * len(lengths)
    for batch in _batches(lengths):
        _, paths, _ = _viterbi(
            [emissions[starts[n] : starts[n + 1]] for n in batch], [coded[n] for n in batch], paths=True
        )
        for n, path in zip(batch, paths, strict=True):
            found[n] = coded[n][path]
    return found


def scores(emissions: Sequence[Array], coded: Sequence[Array]) -> tuple[Array, Array]:
    """Of each pair, the log likelihood of the best path, and how much likelier one is that ends early in the text."""
    best, early = np.empty(len(coded)), np.empty(len(coded))
    for batch in _batches([len(one) for one in emissions]):
        best[batch], _, early[batch] = _viterbi([emissions[n] for n in batch], [coded[n] for n in batch])
    return best, early


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda n: lengths[n])
    return [order[at : at + _BATCH] for at in range(0, len(order), _BATCH)]


def _viterbi(
    emissions: Sequence[Array], coded: Sequence[Array], *, paths: bool = False
) -> tuple[Array, list[Array], Array]:
    """The best paths of several clips at once, from the first letter to the last."""
    count, frames = len(coded), max(len(one) for one in emissions)
    width = max(len(one) for one in coded)
    states: Array = np.zeros((count, width), np.int32)
    for row, one in enumerate(coded):
        states[row, : len(one)] = one
    lengths = np.array([len(one) for one in emissions])
    ends = np.array([len(one) - 1 for one in coded])
    padded = np.zeros((frames, count, emissions[0].shape[1]), np.float32)
    for row, one in enumerate(emissions):
        padded[: len(one), row] = one
    rows = np.arange(count)[:, None]
    pauses = states == 1
    over = np.where(np.roll(pauses, 1, axis=1), np.float32(_OVER_PAUSE), np.float32(_OVER))
    padded = padded.reshape(frames, -1)
    at_states = (rows * emissions[0].shape[1] + states).ravel()
    shape = count, width
    delta: Array = np.full(shape, _NEVER, np.float32)
    delta[:, 0] = padded[0].take(at_states).reshape(shape)[:, 0]
    back: Array = np.zeros((frames, *shape), np.int8) if paths else None
    best, early = np.empty(count), np.empty(count)
    new: Array = np.empty_like(delta)
    two: Array = np.empty((count, max(width - 2, 0)), np.float32)
    now: Array = np.empty(count * width, np.float32)
    for at in range(frames):
        if at:  # to stay and to go on cost the same: nothing
            new[:, 0] = delta[:, 0]
            np.maximum(delta[:, 1:], delta[:, :-1], out=new[:, 1:])
            if width > 2:
                np.add(delta[:, :-2], over[:, 2:], out=two)
            if back is not None:
                back[at, :, 1:] = delta[:, :-1] > delta[:, 1:]
                back[at, :, 2:][two > new[:, 2:]] = 2
            np.maximum(new[:, 2:], two, out=new[:, 2:])
            padded[at].take(at_states, out=now, mode="clip")
            new += now.reshape(shape)
            delta, new = new, delta
        for row in np.flatnonzero(lengths == at + 1).tolist():
            best[row] = delta[row, ends[row]]
            early[row] = delta[row, : ends[row] + 1].max() - best[row]
    found = []
    if back is not None:
        for row in range(count):
            path = np.empty(lengths[row], np.int32)
            state = int(ends[row])
            for step_at in range(int(lengths[row]) - 1, -1, -1):
                path[step_at] = state
                state = max(0, state - int(back[step_at, row, state]))
            found.append(path)
    return best, found, early
