"""What became of each word of a text: spoken, lost (left out, or spoken as something else), or said again.

Pure: works on what was heard (`hearing.Heard`). The heard text is aligned with the given one by characters, so that a
word that the recogniser splits, joins or misspells is still found; a word is counted as wrong only where the audio
itself makes it unlikely, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xtts_gatekeeper.samples.measures.hearing import LIKELY, Heard, Word
from xtts_gatekeeper.samples.measures.models import imported
from xtts_gatekeeper.samples.measures.spelling import plain_words

State = Literal["spoken", "lost"]

#: A word is found where at least this share of its characters is.
_FOUND = 0.6
#: Characters that an insertion must have: less is a misspelling.
_SHORTEST_EXTRA = 4
#: How alike an insertion and its neighbourhood must be, of 100, to be a repetition.
_ALIKE = 75


@dataclass(frozen=True)
class Spoken:
    """A word of the text: what became of it, the share of its characters that was heard, its probability, its place."""

    text: str
    state: State
    share: float
    probability: float
    begin: float
    end: float


@dataclass(frozen=True)
class Extra:
    """Something heard that the text does not have, before word `before`; `repeats` what stands beside it."""

    text: str
    before: int
    repeats: bool


@dataclass(frozen=True)
class Reading:
    """`words` and `extras`, and the counts of a word error rate and a character error rate.

    `replaced` and `replaced_end` are the numbers of characters that were heard where words are lost inside the text and
    at its end.
    """

    words: tuple[Spoken, ...]
    replaced: int
    replaced_end: int
    extras: tuple[Extra, ...]
    insertions: int
    deletions: int
    substitutions: int
    cer: float

    @property
    def wer(self) -> float:
        """Word errors by words of the text."""
        return (self.insertions + self.deletions + self.substitutions) / max(1, len(self.words))


def read(text: str, heard: Heard, language: str) -> Reading:
    """Find out what became of each word of `text`; it must have one."""
    expected, said = plain_words(text, language), plain_words(heard.text, language)
    counts = _word_errors(expected, said)
    reference, hypothesis = "".join(expected), "".join(said)
    blocks = _matching(reference, hypothesis)
    matched = [_matched(len(reference), blocks)]
    for other in heard.others:
        spelling = "".join(plain_words(other, language))
        matched.append(_matched(len(reference), _matching(reference, spelling)))
    sure = _likelihoods(expected, heard.words, language)
    words, at, first = [], 0, []
    for word, (probability, begin, end) in zip(expected, sure, strict=True):
        first.append(at)
        share = max(sum(found[at : at + len(word)]) for found in matched) / len(word)
        at += len(word)
        words.append(Spoken(word, _state(share, probability), share, probability, begin, end))
    extras = tuple(_extras(reference, hypothesis, blocks, first))
    end = len(words)
    while end and words[end - 1].state == "lost":
        end -= 1
    places = [(start, start + len(word.text)) for start, word in zip(first, words, strict=True) if word.state == "lost"]
    inside = [place for place in places if end == len(words) or place[0] < first[end]]
    replaced = _heard_in(reference, hypothesis, inside)
    replaced_end = _heard_in(reference, hypothesis, places[len(inside) :])
    return Reading(tuple(words), replaced, replaced_end, extras, *counts, _character_errors(reference, hypothesis))


def _state(share: float, probability: float) -> State:
    if share >= _FOUND or probability >= LIKELY:
        return "spoken"
    return "lost"


def _word_errors(expected: Sequence[str], said: Sequence[str]) -> tuple[int, int, int]:
    """Insertions, deletions and substitutions."""
    found = imported("jiwer").process_words(" ".join(expected), " ".join(said))
    return found.insertions, found.deletions, found.substitutions


def _character_errors(reference: str, hypothesis: str) -> float:
    distance = imported("rapidfuzz.distance").Levenshtein.distance(reference, hypothesis)
    return float(distance) / max(1, len(reference))


def _matching(reference: str, hypothesis: str) -> list[tuple[int, int, int]]:
    """Stretches that both have: (place in the reference, place in the hypothesis, length), single characters left out.

    A character by itself matches by chance.
    """
    blocks = imported("rapidfuzz.distance").Levenshtein.opcodes(reference, hypothesis)
    return [
        (block.src_start, block.dest_start, block.src_end - block.src_start)
        for block in blocks
        if block.tag == "equal" and (block.src_end - block.src_start > 1 or len(reference) < 6)
    ]


def _matched(length: int, blocks: Sequence[tuple[int, int, int]]) -> list[bool]:
    """Which characters of the reference are in a block."""
    matched = [False] * length
    for start, _, size in blocks:
        matched[start : start + size] = [True] * size
    return matched


def _likelihoods(expected: Sequence[str], found: Sequence[Word], language: str) -> list[tuple[float, float, float]]:
    """Probability and place of each expected word, out of those of the recogniser's words, which are cut otherwise."""
    pieces = [(plain, word) for word in found for plain in ["".join(plain_words(word.text, language))] if plain]
    # By characters: both spell the same text, and only numbers and joined words differ in where they are cut.
    total, spelled = sum(map(len, expected)), sum(len(plain) for plain, _ in pieces)
    if not spelled:
        return [(0.0, 0.0, 0.0)] * len(expected)
    scale, result, at = spelled / max(1, total), [], 0.0
    edges, to = [], 0
    for plain, word in pieces:
        edges.append((to, to + len(plain), word))
        to += len(plain)
    for word_text in expected:
        begin, end = at * scale, (at + len(word_text)) * scale
        over = [
            (min(end, last) - max(begin, start), word) for start, last, word in edges if start < end and last > begin
        ]
        weight = sum(share for share, _ in over) or 1.0
        probability = sum(share * word.probability for share, word in over) / weight
        result.append((probability, min(w.begin for _, w in over), max(w.end for _, w in over)))
        at += len(word_text)
    return result


def _heard_in(reference: str, hypothesis: str, places: Sequence[tuple[int, int]]) -> int:
    """Characters heard in places (begin, end) of the reference."""
    codes = imported("rapidfuzz.distance").Levenshtein.opcodes(reference, hypothesis)
    heard = 0.0
    for start, stop in places:
        for code in codes:
            over = min(stop, code.src_end) - max(start, code.src_start)
            if over > 0:
                heard += (code.dest_end - code.dest_start) * over / (code.src_end - code.src_start)
            elif code.src_start == code.src_end and start <= code.src_start <= stop:
                heard += code.dest_end - code.dest_start
    return round(heard)


def _extras(
    reference: str, hypothesis: str, blocks: Sequence[tuple[int, int, int]], first: Sequence[int]
) -> list[Extra]:
    """Insertions long enough to be heard as such."""
    fuzz = imported("rapidfuzz.fuzz")
    extras = []
    ends = [(0, 0), *((start + size, there + size) for start, there, size in blocks)]
    begins = [*((start, there) for start, there, _ in blocks), (len(reference), len(hypothesis))]
    for (left, there), (right, to) in zip(ends, begins, strict=True):
        text = hypothesis[there:to]
        surplus = len(text) - (right - left)
        if surplus < _SHORTEST_EXTRA:
            continue
        before, after = hypothesis[max(0, there - len(text)) : there], hypothesis[to : to + len(text)]
        repeats = any(len(side) >= _SHORTEST_EXTRA and fuzz.ratio(text, side) >= _ALIKE for side in (before, after))
        extras.append(Extra(text, sum(1 for place in first if place < right), repeats))
    return extras
