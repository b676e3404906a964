"""How often XTTS draws a clip: by the sampler of `XTTSDataset` (coqui-tts 0.28). Pure.

For each place in a batch a language is drawn, all alike, then a clip of it, all alike. A clip that cannot be used is
replaced by `self[1]`, which does not mean sample 1: it draws language and clip anew. So a clip that can be used, in one
of L languages, of n clips of which u can be used, is drawn with the probability (1 / n) / (sum of u / n over the L).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: A clip of one language is drawn so many times as often as one of another: the smaller one is learned by heart. Twice
#: would be met by any two languages of 1 and 2 hours, and harms neither.
UNEVEN_CLIPS = 4.0
#: The most heard speaker of a language has so many times the share of the least heard one.
UNEVEN_SPEAKERS = 10.0


@dataclass(frozen=True, slots=True)
class Group:
    """The clips of one speaker of one language; `usable` and `usable_seconds` of those that XTTS trains on."""

    language: str
    speaker: str
    clips: int
    usable: int
    seconds: float
    usable_seconds: float


@dataclass(frozen=True, slots=True)
class Draws:
    """How a group fares.

    `clip_probability` is that of one of its usable clips at one draw, `share` that of all of them, `per_epoch` how
    often one of them is drawn on average in an epoch, which has as many draws as there are clips, usable or not.
    `unheard_share`: of its usable clips, how many an epoch passes over.
    """

    group: Group
    clip_probability: float
    share: float
    per_epoch: float
    unheard_share: float

    def to_dict(self) -> dict[str, Any]:
        """As `audit --json` prints it."""
        return {
            **{name: getattr(self.group, name) for name in Group.__slots__},
            "hours": self.group.seconds / 3600,
            "usable_hours": self.group.usable_seconds / 3600,
            "clip_probability": self.clip_probability,
            "share": self.share,
            "draws_per_epoch": self.per_epoch,
            "unheard_share": self.unheard_share,
        }


def draws(groups: Sequence[Group]) -> list[Draws]:
    """What the sampler does with each group, in the order given."""
    clips: dict[str, int] = {}
    usable: dict[str, int] = {}
    for group in groups:
        clips[group.language] = clips.get(group.language, 0) + group.clips
        usable[group.language] = usable.get(group.language, 0) + group.usable
    accepted = sum(usable[language] / count for language, count in clips.items() if count)
    total = sum(clips.values())
    found = []
    for group in groups:
        probability = 1 / clips[group.language] / accepted if accepted and group.usable else 0.0
        unheard = math.exp(total * math.log1p(-probability)) if probability < 1 else 0.0
        found.append(Draws(group, probability, group.usable * probability, total * probability, unheard))
    return found


def warnings(found: Sequence[Draws]) -> list[str]:
    """What is to be said of it: languages of no use, uneven languages, uneven speakers of a language."""
    said = []
    languages: dict[str, list[Draws]] = {}
    for one in found:
        languages.setdefault(one.group.language, []).append(one)
    if found and not any(one.group.usable for one in found):
        return ["XTTS can use none of the clips: training would end with a RecursionError at the first batch"]
    for language, groups in languages.items():
        if not any(one.group.usable for one in groups):
            said.append(f"XTTS can use no clip of {language or 'no language'}: every draw of it is made again")
    used = {
        language: max(one.per_epoch for one in groups)
        for language, groups in languages.items()
        if any(one.group.usable for one in groups)
    }
    often, seldom = max(used, key=used.__getitem__, default=""), min(used, key=used.__getitem__, default="")
    if used and used[often] >= UNEVEN_CLIPS * used[seldom]:
        share = sum(one.share for one in languages[often])
        clips = sum(one.group.clips for one in languages[often])
        said.append(
            f"XTTS draws its languages alike, however many clips they have: {often} with {_clips(clips)} gets "
            f"{share:.0%} of the draws, each clip {used[often]:.1f} times an epoch, "
            f"a clip of {seldom} {used[seldom]:.2g} times"
        )
    for language, groups in languages.items():
        heard = [one for one in groups if one.share > 0]
        if len(heard) < 2:
            continue
        most, least = (pick(heard, key=lambda one: one.share) for pick in (max, min))
        if most.share >= UNEVEN_SPEAKERS * least.share:
            whole = sum(one.share for one in heard)
            said.append(
                f"of the draws of {language}, {most.share / whole:.0%} are of speaker {most.group.speaker or '?'} and "
                f"{least.share / whole:.1%} of {least.group.speaker or '?'}"
            )
    return said


def _clips(count: int) -> str:
    return f"{count} clip" if count == 1 else f"{count} clips"
