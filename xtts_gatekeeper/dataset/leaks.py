"""Clips that an evaluation hears and that were trained on: the model knows them, and its losses on them say nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.contents import Unreadable, UnsafePickle, peek
from xtts_gatekeeper.dataset.roster import Roster, Trained
from xtts_gatekeeper.dataset.store import MISSING

#: The key under which a checkpoint carries the content of every clip that it was trained on, beside the resume point.
TRAINED_ON = "trained_on"
_DIGITS = 32


def trained_on(checkpoint: Path) -> tuple[Trained, ...] | None:
    """The clips that a checkpoint was trained on, by the roster of its run and by what it carries itself.

    A checkpoint that was moved away from its run still carries the content of its clips, without their names. None
    where nothing tells, as for one of a stock run.
    """
    run = checkpoint.parent
    found = [Trained(clip.name, clip.digest, clip.run or run.name) for clip in Roster(run).clips if clip.digest]
    carried = _carried(checkpoint)
    if not found and carried is None:
        return None
    known = {clip.digest for clip in found}
    return (*found, *(Trained("", digest, run.name) for digest in carried or () if digest not in known))


def carry(digests: Iterable[str]) -> dict[str, str]:
    """What a checkpoint is to carry: the digests one after the other, 32 digits each."""
    return {TRAINED_ON: "".join(sorted(digests))}


def leaked(
    eval_samples: Sequence[Mapping[str, Any]], digests: Mapping[str, str], trained: Iterable[str]
) -> list[Mapping[str, Any]]:
    """The eval clips whose audio is among what was trained on, byte for byte.

    Args:
        eval_samples: Coqui's, with `audio_file`.
        digests: audio file -> digest of its bytes.
        trained: the digests of what was trained on.
    """
    known = frozenset(trained) - {MISSING}
    return [sample for sample in eval_samples if digests[str(sample["audio_file"])] in known]


def comparison_set(fingerprint: str, leaks: Sequence[Mapping[str, Any]], digests: Mapping[str, str]) -> str:
    """By which name evaluations are compared: that of the eval set, and of those clips in it that were trained on.

    The same clips before and after they were trained on are two sets: the loss falls without anything being learned
    that would help with other speech.
    """
    if not leaks:
        return fingerprint
    known = "\n".join(sorted(digests[str(sample["audio_file"])] for sample in leaks))
    return f"{fingerprint}-leak-{hashlib.blake2b(known.encode(), digest_size=4).hexdigest()}"


def _carried(checkpoint: Path) -> list[str] | None:
    try:
        carried = (peek(checkpoint).carried or {}).get(TRAINED_ON)
    except (OSError, Unreadable, UnsafePickle):
        return None
    if not isinstance(carried, str):
        return None
    return [carried[at : at + _DIGITS] for at in range(0, len(carried), _DIGITS)]
