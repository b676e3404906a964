"""Records of made-up runs, from a few numbers each."""

from collections.abc import Iterable
from pathlib import Path

from xtts_gatekeeper.record import Checkpoint, Evaluation, Incident, Journal, RunRecord, Start, TrainEpoch, journal_path
from xtts_gatekeeper.record.events import End, Event, PhaseStart, Pruned, SampleScore, VerdictEvent

STEPS = 10  # steps of an epoch
TIME = "2025-01-01T00:00:00+0000"


def start(step=0, epoch=0, **values):
    """The process starts, or resumes when `step` is not 0."""
    defaults = {
        "device": "cpu",
        "precision": "float32",
        "precision_requested": "float32",
        "scheduler": "none",
        "lr": [1e-6],
        "lr_requested": [1e-6],
        "batch_size": 3,
        "grad_accum_steps": 1,
        "epochs_planned": 30,
        "train_clips": 100,
        "train_set": "train",
        "eval_clips": 20,
        "eval_set": "dev",
        "resumed_from": None,
        "resume_mode": "continue" if step else "new",
        "versions": {},
        "telemetry": {},
        "objective": "eval.mel_ce",
        "policy_hash": "",
    }
    return Start(step=step, epoch=epoch, time=TIME, **{**defaults, **values})


def trained(epoch, step=None, loss=None, mel=None, **values):
    """The training part of the Trainer's epoch `epoch` is over, by default after `STEPS` steps an epoch."""
    metrics = {"train.loss": loss, "train.mel_ce": mel}
    defaults = {
        "metrics": {name: value for name, value in metrics.items() if value is not None},
        "batches": STEPS,
        "samples": 3 * STEPS,
        "skipped_batches": 0,
        "nonfinite_batches": 0,
        "longest_nonfinite_run": 0,
        "lr_end": [1e-6],
        "memory_state": "low",
        "memory_used": 0.3,
        "seconds": 60.0,
    }
    step = (epoch + 1) * STEPS if step is None else step
    return TrainEpoch(step=step, epoch=epoch, time=TIME, **{**defaults, **values})


def evaluated(epoch, mel=None, step=None, **values):
    """An evaluation in the Trainer's epoch `epoch`; `mel` is `eval.mel_ce`, None leaves it out."""
    defaults = {
        "metrics": {} if mel is None else {"eval.mel_ce": mel},
        "batches": 4,
        "samples": 12,
        "skipped_batches": 0,
        "nonfinite_batches": 0,
        "mid_epoch": False,
        "eval_set": "dev",
        "seconds": 5.0,
    }
    step = (epoch + 1) * STEPS if step is None else step
    return Evaluation(step=step, epoch=epoch, time=TIME, **{**defaults, **values})


def saved(step, kind="latest", intact=True, path=None, reason="", **values):
    """A checkpoint file was written."""
    path = path or f"{'best_model' if kind == 'best' else 'checkpoint'}_{step}.pth"
    given = {"epoch": 0, "time": TIME, "bytes": 1000, "seconds": 1.0, **values}
    return Checkpoint(step=step, kind=kind, path=path, intact=intact, reason=reason, **given)


def phase(name, step, lr=1e-6, index=0):
    """A learning-rate phase begins."""
    return PhaseStart(step=step, epoch=0, time=TIME, name=name, index=index, lr=lr)


def scored(epoch, score=None, step=None, prompts="prompts", **others):
    """The samples of epoch `epoch` were judged; `others` are more of the rubric's rows."""
    metrics = {"sample.score": score, **{f"sample.{name}": value for name, value in others.items()}}
    step = (epoch + 1) * STEPS if step is None else step
    given = {name: value for name, value in metrics.items() if value is not None}
    return SampleScore(step=step, epoch=epoch, time=TIME, metrics=given, prompts=prompts)


def pruned(step, *names):
    """Files were deleted."""
    return Pruned(step=step, epoch=0, time=TIME, removed=list(names), kept=[], bytes_freed=1000 * len(names))


def incident(step, code="something", message="something happened"):
    """Something went wrong beside the training."""
    return Incident(step=step, epoch=0, time=TIME, code=code, message=message)


def judged(at, verdict):
    """The live gate's verdict on the evaluation `at`."""
    return VerdictEvent(
        step=at.step, epoch=at.epoch, time=TIME, verdict=verdict, reasons=[], gates=[], policy_hash="hash"
    )


def ended(step, how="finished"):
    """The process leaves the run."""
    return End(step=step, epoch=0, time=TIME, how=how)


def curve(*mels, first=0, **values):
    """Epochs from the Trainer's number `first` on, each trained and then evaluated with one of `mels`."""
    return [
        event
        for epoch, mel in enumerate(mels, first)
        for event in (trained(epoch, loss=mel, mel=mel), evaluated(epoch, mel, **values))
    ]


def logged(step, metrics, epoch=None):
    """The epoch that ends at `step` and its evaluation, with `metrics` by their full names on either side."""
    epoch = step // STEPS - 1 if epoch is None else epoch
    of = {side: {k: v for k, v in metrics.items() if k.startswith(side)} for side in ("train", "eval")}
    return [trained(epoch, step, metrics=of["train"]), evaluated(epoch, step=step, metrics=of["eval"])]


def record_of(*parts: Event | Iterable[Event], source="journal", **values) -> RunRecord:
    """The record of a run with these events, or lists of events, in order."""
    events = [event for part in parts for event in ([part] if isinstance(part, Event) else part)]
    return RunRecord(tuple(events), source, **values)


def write_run(folder: Path, *parts: Event | Iterable[Event]) -> Path:
    """Write the events to the journal of the run `folder`, as the plug-in does."""
    journal = Journal(journal_path(folder))
    for event in record_of(*parts).events:
        journal.append(event)
    return folder


def flat(parts) -> list[Event]:
    """The events of lists of lists of events, in order."""
    return [parts] if isinstance(parts, Event) else [event for part in parts for event in flat(part)]


def gradients(nonfinite=0, norm=1.0, *, updates=30, scaler_skips=0):
    """What the gradient monitor found in an epoch."""
    return {
        "updates": updates,
        "nonfinite_updates": nonfinite,
        "skipped_updates": nonfinite,
        "scaler_skips": scaler_skips,
        "spikes": 0,
        "norm_median": norm,
        "norm_max": norm,
    }


def memory(own, *, total=32 << 30, used=None):
    """What the memory monitor found in an epoch."""
    used = own + (1 << 30) if used is None else used
    return {
        "device": "cpu",
        "total_bytes": total,
        "used_bytes": used,
        "own_bytes": own,
        "peak_own_bytes": own,
        "peak_share": used / total,
    }
