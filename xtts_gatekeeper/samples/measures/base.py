"""What a measure is, and the speech that it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from xtts_gatekeeper.samples.audio import Sound
    from xtts_gatekeeper.samples.measures.activity import Activity
    from xtts_gatekeeper.samples.measures.hearing import Heard
    from xtts_gatekeeper.samples.measures.models import Models


class Unmeasured(Exception):
    """A measure cannot be taken of this speech; the text says why, in a few words."""


@dataclass(frozen=True)
class Value:
    """One number of a measure. `better` is the direction in which a sample improves; `fit`: towards the real clips'."""

    name: str
    unit: str
    better: Literal["higher", "lower", "fit"]


@dataclass(frozen=True)
class Speech:
    """One sample with what is known of it; what several measures need is found once.

    `language` is a code of XTTS; `text` and `language` are empty where unknown.
    """

    sound: Sound
    models: Models
    text: str = ""
    language: str = ""

    @cached_property
    def activity(self) -> Activity:
        """Where there is speech in it."""
        from xtts_gatekeeper.samples.measures.activity import find_activity

        return find_activity(self.sound.mono, self.models)

    @cached_property
    def heard(self) -> Heard:
        """What a recogniser hears, and where it finds each word of the text.

        Raises:
            Unmeasured: the recogniser is not there, or does not know the language.
        """
        return self.models.recogniser.hear(self.sound.mono, self.text, self.language)


class Measure(Protocol):
    """A number or several of one speech. A class a measure; an instance is used for many speeches."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def values(self) -> tuple[Value, ...]:
        """The numbers that it makes."""

    @property
    def needs(self) -> str:
        """What it needs, in words for a table."""

    @property
    def cost(self) -> float:
        """Seconds of one core for a second of audio, about (measured by `benchmarks/measures.py`)."""

    def __call__(self, speech: Speech) -> Mapping[str, float]:
        """Measure.

        Raises:
            Unmeasured: not possible for this speech.
        """
