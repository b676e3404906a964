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
    """A process begins or resumes the run: the checklist's baseline. What a source does not tell is None or empty.

    `epoch_batches`: so many batches of the epoch had been trained before, where it is gone on with. `told`: so many
    events that move the run on (`record.run.moves_on`) were on record at the point from which it goes on; None where
    only the step tells which.
    """

    type: ClassVar[str] = "start"
    device: str | None = None
    precision: str | None = None
    precision_requested: str | None = None
    scheduler: str | None = None
    lr: list[float] = field(default_factory=list)
    lr_requested: list[float] = field(default_factory=list)
    batch_size: int | None = None
    grad_accum_steps: int | None = None
    epochs_planned: int | None = None
    train_clips: int | None = None
    train_set: str | None = None
    eval_clips: int | None = None
    eval_set: str | None = None
    eval_clips_trained_on: int | None = None
    leaked: list[str] = field(default_factory=list)
    resumed_from: str | None = None
    resume_mode: str = "new"
    epoch_batches: int | None = None
    told: int | None = None
    versions: dict[str, str] = field(default_factory=dict)
    telemetry: dict[str, str] = field(default_factory=dict)
    objective: str | None = None
    policy_hash: str | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class PhaseStart(Event):
    """A learning-rate phase begins, or a process goes on in it. `lr` applies to every parameter group.

    `why` says what ended the one before. The plan's step and epoch are the run's plus the offsets, which are not 0
    where `restore_path` went on with the plan of another run; `began_step` and `began_epoch` are the plan's when the
    phase began, None: now. `best` (lower is better), `waited` and `eval_set` are the patience brought along, and
    `lr_factor` what actions have made of the planned rates.
    """

    type: ClassVar[str] = "phase"
    name: str
    index: int
    lr: float
    why: str = ""
    lr_factor: float = 1.0
    step_offset: int = 0
    epoch_offset: int = 0
    began_step: int | None = None
    began_epoch: float | None = None
    best: float | None = None
    waited: int = 0
    eval_set: str | None = None


@dataclass(frozen=True, kw_only=True)
class Action(Event):
    """The gatekeeper did something about a verdict, or about updates that failed.

    `name`: `next_phase`, `lower_lr`, `rewind` or `stop`. `values`: for `lower_lr` and `rewind` the `lr_factor` on all
    planned rates from now on; for `rewind` the `file` that was loaded and the `to_step` whose weights it holds.
    """

    type: ClassVar[str] = "action"
    name: str
    message: str
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BadBatch(Event):
    """A batch that stood out, with its clips.

    `kind`: `nonfinite_loss`, `nonfinite_gradient`, `loss_spike` or `gradient_spike`. `files` are the clips of the
    batch, or of all batches of the update; `suspects` those of them that have the fault when looked at alone: audio
    that holds NaN, a loss that is none, or by far the highest one. `value` is what stood out and `limit` what it went
    beyond.
    """

    type: ClassVar[str] = "bad_batch"
    kind: str
    files: list[str]
    suspects: list[str] = field(default_factory=list)
    losses: dict[str, float] = field(default_factory=dict)
    value: float | None = None
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class BatchParts(Event):
    """From now on every batch is trained in parts of at most `batch_size` clips, for want of memory.

    The update still sees the clips of `whole` batch times accumulation: their product stays.
    """

    type: ClassVar[str] = "batch_parts"
    batch_size: int
    grad_accum_steps: int
    whole: int


@dataclass(frozen=True, kw_only=True)
class LearningRateCheck(Event):
    """The learning rate of every parameter group, read at an optimizer update and compared with the plan.

    `phase` is the phase's name, or that of the config's scheduler where there are no phases. `planned` is that of the
    first group.
    """

    type: ClassVar[str] = "lr_check"
    phase: str
    planned: float
    in_effect: list[float]
    ok: bool


@dataclass(frozen=True, kw_only=True)
class TrainEpoch(Event):
    """The training part of an epoch is over. `seconds` is wall time; `memory_used` a share of the device's memory.

    A source other than our journal knows only the steps that were logged: `nonfinite_batches` and
    `longest_nonfinite_run` count those, and what it does not tell is None. `stock` are the means the Trainer itself
    printed, by the same names. `gradients`, `memory` and `throughput` are what the monitors of these names measured;
    their docstrings say what.
    """

    type: ClassVar[str] = "train_epoch"
    metrics: dict[str, float]
    batches: int | None = None
    samples: int | None = None
    skipped_batches: int = 0
    nonfinite_batches: int = 0
    longest_nonfinite_run: int = 0
    lr_end: list[float] = field(default_factory=list)
    memory_state: str | None = None
    memory_used: float | None = None
    seconds: float | None = None
    stock: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, Any] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)
    throughput: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataCheck(Event):
    """The clips of a training were looked at before it began.

    `seconds` of audio in `clips` clips; `faults` counts them by code, `unusable` names the clips that XTTS will not
    use; `near` are pairs of an eval clip and the training clip of which it is a copy with other bytes.
    """

    type: ClassVar[str] = "data"
    clips: int
    seconds: float | None = None
    faults: dict[str, int] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)
    near: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Evaluation(Event):
    """One pass over the eval set; in our journal sample-weighted means over all its finite batches.

    `eval_set` is the set's fingerprint, or another name by which a source tells one set from another, or None where it
    tells nothing; `leaked` of its clips were trained on, by this run or by one that it grew out of, and such a set is
    another one than before. `train_set` is the fingerprint of what is trained on. `previous` is, by metric, what the
    Trainer itself compared with when it printed a difference. `stock` are the means the Trainer itself printed, and
    `gap` is, by name without its side, how far the evaluation lies above the training since the epoch began.
    """

    type: ClassVar[str] = "evaluation"
    metrics: dict[str, float]
    batches: int | None = None
    samples: int | None = None
    skipped_batches: int = 0
    nonfinite_batches: int = 0
    mid_epoch: bool = False
    eval_set: str | None = None
    leaked: int = 0
    train_set: str | None = None
    seconds: float | None = None
    previous: dict[str, float] = field(default_factory=dict)
    stock: dict[str, float] = field(default_factory=dict)
    gap: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SampleScore(Event):
    """The fixed prompts were spoken and judged: `metrics` by name, `sample.score` being the rubric's total of 25.

    `step` and `epoch` are those of the weights that spoke: judging may take a while. `prompts` is the fingerprint of
    the prompts: scores over different ones are not compared. `by` tells who judged: `measures`, or `listeners`, who
    outrank them. `folder` is where the samples lie, relative to the run; `faults` counts them by kind. Of people,
    `listeners` is how many there were, and `intervals` holds, by metric, the two ends of a 95 % interval.
    """

    type: ClassVar[str] = "sample_score"
    metrics: dict[str, float]
    prompts: str | None = None
    by: str = "measures"
    folder: str = ""
    faults: dict[str, int] = field(default_factory=dict)
    listeners: int = 0
    intervals: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Event):
    """A checkpoint file was written; by us, it was read back, too.

    `kind` is `latest`, `best` or `weights` (what a nearly full disk had room for); `path` is relative to the run.
    `intact` is None where nobody has looked. `step` counts the micro-batches that the weights hold, which is one more
    than the number in the name where the Trainer saved inside a step. A best file has the `value` of a `metric` and the
    fingerprint of the eval set it was measured on. `bytes` and `mtime_ns` tell whether a file of that name is still the
    one that was written, `digest` (`checkpoints.integrity`) whether its content is; `train_set` is the fingerprint of
    what is trained on. `seconds` is the time from the request to the end of the writing, `blocked_seconds` the part of
    it in which training waited.
    """

    type: ClassVar[str] = "checkpoint"
    kind: str
    path: str
    bytes: int | None = None
    intact: bool | None = None
    seconds: float | None = None
    value: float | None = None
    metric: str | None = None
    eval_set: str | None = None
    mtime_ns: int = 0
    reason: str = ""
    resumable: bool | None = None
    digest: str | None = None
    train_set: str | None = None
    blocked_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pruned(Event):
    """Files that retention removed, after something at least as good was proven restorable."""

    type: ClassVar[str] = "pruned"
    removed: list[str]
    kept: list[str]
    bytes_freed: int


@dataclass(frozen=True, kw_only=True)
class Renamed(Event):
    """A checkpoint file got another name: put aside because it is broken, or so that stock code does not resume it."""

    type: ClassVar[str] = "renamed"
    old: str
    new: str
    reason: str


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
    """The process leaves the run.

    `how`: `finished`, `stopped`, `refused`, `interrupted` (Ctrl-C), `terminated` (SIGTERM) or `crashed`. `cause` of a
    stop: `verdict`, `nonfinite` (gradients that stay no numbers), `disk_full` or `out_of_memory`.
    """

    type: ClassVar[str] = "end"
    how: str
    message: str = ""
    cause: str = ""


@dataclass(frozen=True, kw_only=True)
class Crash(Event):
    """A process of this run ended otherwise than well, and what its supervisor made of it.

    `kind` is one of `crashes.kinds`, `message` says what happened and `why` what is done about it: `decision` is
    `restart` or `stop`. `files` are the clips of the batch in hand, `signature` tells one Python exception from
    another, `trained` counts the micro-batches that the process trained, and `progress` says whether it left a newer
    state to go on from than it began with. `evidence` is a file, relative to the run.
    """

    type: ClassVar[str] = "crash"
    kind: str
    message: str
    decision: str
    why: str = ""
    files: list[str] = field(default_factory=list)
    signature: str = ""
    trained: int = 0
    progress: bool = False
    returncode: int | None = None
    evidence: str = ""


EVENTS: dict[str, type[Event]] = {
    event.type: event
    for event in (
        Start,
        PhaseStart,
        Action,
        BadBatch,
        BatchParts,
        LearningRateCheck,
        TrainEpoch,
        DataCheck,
        Evaluation,
        SampleScore,
        Checkpoint,
        Pruned,
        Renamed,
        VerdictEvent,
        Incident,
        End,
        Crash,
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
    for key in ("metrics", "previous", "stock", "gap", "losses"):
        if key in values:
            values[key] = {name: float(value) for name, value in values[key].items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{kind.type} event: {error}") from None
