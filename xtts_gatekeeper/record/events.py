"""What can happen in a run, one frozen dataclass each; their field names are the keys of the journal's lines.

`step` is the Trainer's GLOBAL_STEP (micro-batches done), `epoch` is the number the Trainer prints (from 0).
Metrics are floats by name: `eval.mel_ce`, `train.mel_ce`, ... (`monitors.losses` says how each is computed).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, TypeVar


def now() -> str:
    """Local time as ISO 8601 with the zone's offset, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the journal."""

    type: ClassVar[str] = "event"
    step: int
    epoch: int
    time: str = field(default_factory=now)

    def to_dict(self) -> dict[str, Any]:
        """The event as its journal line holds it."""
        return {"type": self.type, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Start(Event):
    """A process begins or resumes the run: the checklist's baseline."""

    type: ClassVar[str] = "start"
    device: str
    precision: str
    precision_requested: str
    scheduler: str
    lr: list[float]
    lr_requested: list[float]
    batch_size: int
    grad_accum_steps: int
    epochs_planned: int
    train_clips: int | None
    train_set: str | None
    eval_clips: int | None
    eval_set: str | None
    resumed_from: str | None
    resume_mode: str
    versions: dict[str, str]
    telemetry: dict[str, str]
    objective: str
    policy_hash: str
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PhaseStart(Event):
    """A learning-rate phase begins. `lr` applies to every parameter group."""

    type: ClassVar[str] = "phase"
    name: str
    index: int
    lr: float


@dataclass(frozen=True, kw_only=True)
class LearningRateCheck(Event):
    """The learning rate of every parameter group, read at an optimizer update and compared with the plan."""

    type: ClassVar[str] = "lr_check"
    phase: str
    planned: float
    in_effect: list[float]
    ok: bool


@dataclass(frozen=True, kw_only=True)
class TrainEpoch(Event):
    """The training part of an epoch is over. `seconds` is wall time; `memory_used` a share of the device's memory."""

    type: ClassVar[str] = "train_epoch"
    metrics: dict[str, float]
    batches: int
    samples: int
    skipped_batches: int
    nonfinite_batches: int
    longest_nonfinite_run: int
    lr_end: list[float]
    memory_state: str
    memory_used: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Evaluation(Event):
    """One pass over the eval set; sample-weighted means over all its finite batches."""

    type: ClassVar[str] = "evaluation"
    metrics: dict[str, float]
    batches: int
    samples: int
    skipped_batches: int
    nonfinite_batches: int
    mid_epoch: bool
    eval_set: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Event):
    """A checkpoint file was written and read back.

    `kind` is `latest` or `best`; `path` is relative to the run. `step` counts the micro-batches that the weights hold,
    which is one more than the number in the name where the Trainer saved inside a step. A best file has the `value`
    of a `metric` and the fingerprint of the eval set it was measured on. `bytes` and `mtime_ns` tell whether a file of
    that name is still the one that was written.
    """

    type: ClassVar[str] = "checkpoint"
    kind: str
    path: str
    bytes: int
    intact: bool
    seconds: float
    value: float | None = None
    metric: str | None = None
    eval_set: str | None = None
    mtime_ns: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Pruned(Event):
    """Files that retention removed, after something at least as good was proven restorable."""

    type: ClassVar[str] = "pruned"
    removed: list[str]
    kept: list[str]
    bytes_freed: int


@dataclass(frozen=True, kw_only=True)
class VerdictEvent(Event):
    """What the gates said after the evaluation just before this line."""

    type: ClassVar[str] = "verdict"
    verdict: str
    reasons: list[dict[str, Any]]
    gates: list[str]
    policy_hash: str


@dataclass(frozen=True, kw_only=True)
class Incident(Event):
    """Something went wrong beside the training; training went on unless another event says otherwise."""

    type: ClassVar[str] = "incident"
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class End(Event):
    """The process leaves the run: `finished`, `stopped` (by a verdict), `refused`, `interrupted` or `crashed`."""

    type: ClassVar[str] = "end"
    how: str
    message: str = ""


EVENTS: dict[str, type[Event]] = {
    event.type: event
    for event in (
        Start,
        PhaseStart,
        LearningRateCheck,
        TrainEpoch,
        Evaluation,
        Checkpoint,
        Pruned,
        VerdictEvent,
        Incident,
        End,
    )
}

E = TypeVar("E", bound=Event)


def parse_event(line: Mapping[str, Any]) -> Event | None:
    """The event of one decoded journal line, or None for a type this version does not know.

    Keys that this version does not know are ignored, so that an older version reads a newer journal.

    Raises:
        ValueError: it is no event, or a key that its type needs is missing.
    """
    if not isinstance(line, Mapping) or "type" not in line:
        raise ValueError("no object with a type")
    kind = EVENTS.get(str(line["type"]))
    if kind is None:
        return None
    known = {f.name for f in fields(kind)}
    values = {key: value for key, value in line.items() if key in known}
    if "metrics" in values:
        values["metrics"] = {name: float(value) for name, value in values["metrics"].items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{kind.type} event: {error}") from None
