"""Texts as they are compared: what two spellings of the same sound have in common."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from xtts_gatekeeper.samples.measures.base import Unmeasured
from xtts_gatekeeper.samples.measures.models import imported

#: Languages written without spaces: a character stands for a word.
UNSPACED = frozenset({"zh", "zh-cn", "ja"})

#: Makes й of и, which is another letter.
_BREVE = "\u0306"
_NUMBER = re.compile(r"\d+")
#: num2words' names for languages of XTTS that it names otherwise; Chinese and Hindi digits stay digits.
_NUM2WORDS = {"cs": "cz"}


def plain_words(text: str, language: str) -> list[str]:
    """The words of a text without case, punctuation and accents, numbers in words.

    Whisper writes "4" or "four" as it likes, and transcripts leave out accents. What is written without spaces comes
    as one word a character.
    """
    text = _NUMBER.sub(lambda found: f" {_spelled(found.group(), language)} ", text)
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    words = unicodedata.normalize("NFC", "".join(_kept(character, language) for character in decomposed)).split()
    return list("".join(words)) if language in UNSPACED else words


def _kept(character: str, language: str) -> str:
    if character.isalnum() or character == _BREVE:
        return character
    if unicodedata.category(character).startswith("M"):
        return character if language == "hi" else ""  # Devanagari writes vowels as marks
    return "" if character in "'’`-" else " "


@lru_cache(maxsize=4096)
def _spelled(digits: str, language: str) -> str:
    """A number in words; digits one by one where there are too many for a number, as they are where nobody knows."""
    try:
        num2words = imported("num2words").num2words
    except Unmeasured:
        return digits
    name = _NUM2WORDS.get(language, language.partition("-")[0])
    try:
        if len(digits) > 6 or (len(digits) > 1 and digits[0] == "0"):
            return " ".join(str(num2words(int(digit), lang=name)) for digit in digits)
        return str(num2words(int(digits), lang=name))
    except (NotImplementedError, ValueError, OverflowError, KeyError):
        return digits
