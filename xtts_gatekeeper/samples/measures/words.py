"""Words and characters that are wrong, left out or too many."""

from __future__ import annotations

from collections.abc import Mapping

from xtts_gatekeeper.samples.measures.base import Speech, Unmeasured, Value
from xtts_gatekeeper.samples.measures.reading import Reading, Spoken, read
from xtts_gatekeeper.samples.measures.spelling import UNSPACED, plain_words


class Words:
    """Word and character error rate, and what became of the words (see `reading`)."""

    name = "words"
    values = (
        Value("wer", "", "lower"),
        Value("cer", "", "lower"),
        Value("insertions", "words", "lower"),
        Value("deletions", "words", "lower"),
        Value("substitutions", "words", "lower"),
        Value("words", "words of the text", "fit"),
        Value("asr_logprob", "nats a token", "higher"),
        Value("text_probability", "", "higher"),
        Value("lost_characters", "characters", "lower"),
        Value("lost_pace", "", "fit"),
        Value("replaced_characters", "characters", "lower"),
        Value("text_characters", "characters", "fit"),
        Value("text_repetition", "characters", "fit"),
        Value("lost_end_characters", "characters", "lower"),
        Value("replaced_end_characters", "characters", "lower"),
        Value("speech_behind_seconds", "s", "lower"),
        Value("extra_characters", "characters", "lower"),
        Value("extra_end_characters", "characters", "lower"),
        Value("repeated_characters", "characters", "lower"),
    )
    needs = "the text, its language, Whisper"
    cost = 0.15

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure."""
        if not plain_words(speech.text, speech.language):
            raise Unmeasured("its text is not told" if not speech.text.strip() else "its text has no words")
        heard = speech.heard
        found = read(speech.text, heard, speech.language)
        return {
            "wer": found.wer,
            "cer": found.cer,
            "insertions": found.insertions,
            "deletions": found.deletions,
            "substitutions": found.substitutions,
            "words": len(found.words),
            "asr_logprob": heard.logprob,
            "text_probability": _mean(found),
            **states(found, speech.activity.end, speech.language),
        }


def _mean(found: Reading) -> float:
    """How likely the text is, a character."""
    weight = sum(len(word.text) for word in found.words)
    return sum(len(word.text) * word.probability for word in found.words) / max(1, weight)


def states(found: Reading, speech_end: float, language: str = "") -> dict[str, float]:
    """Words that were lost, and speech that the text does not have.

    `lost_pace` is the time a character of the lost words has where the recogniser looks for them, against that of the
    words that were found: near 0 they were left out, near 1 something else was said. Those at the end are not in it:
    whatever comes after them is taken for them. A Chinese or Japanese character counts as two letters.

    Args:
        found: what became of the words.
        speech_end: where the last speech ends, in seconds.
        language: of the text.
    """
    letters = 2 if language in UNSPACED else 1
    words = list(found.words)
    end = len(words)
    while end and words[end - 1].state == "lost":
        end -= 1
    lost = [word for word in words[:end] if word.state == "lost"]
    kept = [word for word in words if word.state == "spoken"]
    last = max((word.end for word in kept), default=0.0)
    at_end = [extra for extra in found.extras if extra.before >= len(words) and not extra.repeats]
    return {
        "text_characters": letters * sum(len(word.text) for word in words),
        "text_repetition": letters * _repeated("".join(word.text for word in words)),
        "lost_characters": letters * sum(len(word.text) for word in lost),
        "replaced_characters": letters * found.replaced,
        "lost_pace": _pace(lost) / max(_pace(kept), 1e-3) if lost and kept else 1.0,
        "lost_end_characters": letters * sum(len(word.text) for word in words[end:]),
        "replaced_end_characters": letters * found.replaced_end,
        "speech_behind_seconds": max(0.0, speech_end - last) if kept and end == len(words) else 0.0,
        "extra_characters": letters * sum(len(extra.text) for extra in found.extras if not extra.repeats),
        "extra_end_characters": letters * sum(len(extra.text) for extra in at_end),
        "repeated_characters": letters * sum(len(extra.text) for extra in found.extras if extra.repeats),
    }


def _pace(words: list[Spoken]) -> float:
    """Seconds a character."""
    return sum(word.end - word.begin for word in words) / max(1, sum(len(word.text) for word in words))


def _repeated(text: str) -> int:
    """Length of the longest piece that the text itself has twice."""
    best = 0
    for start in range(len(text)):
        while text.find(text[start : start + best + 1], start + best + 1) >= 0 and start + best + 1 <= len(text):
            best += 1
    return best
