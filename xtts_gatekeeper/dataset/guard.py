"""What a process trains on and evaluates on, by content: for the baseline, for every evaluation, and against leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from xtts_gatekeeper.dataset.identity import audio_digests, fingerprint
from xtts_gatekeeper.dataset.leaks import comparison_set, leaked, trained_on
from xtts_gatekeeper.dataset.roster import Roster, Trained
from xtts_gatekeeper.dataset.store import MISSING
from xtts_gatekeeper.trainer_port import TrainerPort


@dataclass(frozen=True)
class Data:
    """The data of a process; None where it is not known, as with samples that are none of Coqui's dicts.

    `train_set` and `eval_set` are fingerprints, `compared_as` is the name under which evaluations are compared. `leaks`
    are the audio files of the eval clips that are trained on, or were by a run that this one grew out of. `heard` are
    all clips that the model has been trained on once this process trains.
    """

    train_clips: int | None = None
    eval_clips: int | None = None
    train_set: str | None = None
    eval_set: str | None = None
    compared_as: str | None = None
    leaks: tuple[str, ...] | None = None
    heard: tuple[Trained, ...] = ()
    warnings: tuple[str, ...] = ()


def look_at_data(port: TrainerPort, eval_samples: Sequence[Any] | None, roster: Roster) -> Data:
    """Find out what is trained on and evaluated on.

    Args:
        port: the Trainer.
        eval_samples: the clips that the evaluations use; None when they are not known.
        roster: of the run.
    """
    train = port.train_samples
    data = Data(
        train_clips=None if train is None else len(train),
        eval_clips=None if eval_samples is None else len(eval_samples),
    )
    try:
        heard, warnings = _heard(port, roster)
        heard += _trained(train or ())
        train_set = None if train is None else fingerprint(train)
        data = replace(data, train_set=train_set, heard=heard, warnings=warnings)
        if eval_samples is None:
            return data
        eval_set = fingerprint(eval_samples)
        digests = audio_digests(clip["audio_file"] for clip in eval_samples)
        leaks = leaked(eval_samples, digests, {clip.digest for clip in (*roster.clips, *heard)})
    except (TypeError, KeyError):
        return data
    known = train is not None or bool(heard or roster.clips)
    return replace(
        data,
        eval_set=eval_set,
        compared_as=comparison_set(eval_set, leaks, digests),
        leaks=tuple(str(clip["audio_file"]) for clip in leaks) if known else None,
    )


def _heard(port: TrainerPort, roster: Roster) -> tuple[tuple[Trained, ...], tuple[str, ...]]:
    """The clips that the weights this process begins with were trained on, beside those of the run's own roster."""
    if port.resumed_from is None or (port.continued and roster.clips):
        return (), ()
    found = None if "://" in port.resumed_from else trained_on(Path(port.resumed_from))
    if found is not None:
        return found, ()
    said = "it is not known which clips it was trained on before: an eval clip among them would go unnoticed"
    return (), (f"{Path(port.resumed_from).name} does not say, and {said}",)


def _trained(samples: Sequence[Mapping[str, Any]]) -> tuple[Trained, ...]:
    digests = audio_digests(sample["audio_file"] for sample in samples)
    found = ((str(sample["audio_file"]), digests[str(sample["audio_file"])]) for sample in samples)
    return tuple(Trained(name, "" if digest == MISSING else digest) for name, digest in found)
