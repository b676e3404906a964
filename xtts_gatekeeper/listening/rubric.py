"""The rubric's five rows as they are put to a listener."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RowAsked:
    """A row: its name in a record, in words, what is asked, and what 1 and 5 mean."""

    key: str
    name: str
    question: str
    low: str
    high: str


#: In the checklist's order, which is that of `samples.score.ROWS`.
RUBRIC = (
    RowAsked("intelligibility", "Intelligibility", "Can you follow it without effort?", "hardly a word", "every word"),
    RowAsked("prosody", "Prosody", "Do rhythm, stress and melody sound like a person?", "flat or odd", "natural"),
    RowAsked("pronunciation", "Pronunciation", "Is every word said, and said right?", "many wrong", "all right"),
    RowAsked("stopping", "Stopping", "Does it end where the text ends?", "cut off or runs on", "ends cleanly"),
    RowAsked("artifacts", "Sound", "Is it free of noise, buzz and other artefacts?", "badly spoiled", "clean"),
)
