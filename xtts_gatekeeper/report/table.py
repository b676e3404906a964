"""The checklist's tracking table, as data; the verbs and the demo print it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtts_gatekeeper.checkpoints.inventory import candidates, run_files
from xtts_gatekeeper.crashes.evidence import CRASHES, error_in, read_evidence
from xtts_gatekeeper.crashes.kinds import Facts, describe, kind_of
from xtts_gatekeeper.gates import Policy, Verdict, evaluate
from xtts_gatekeeper.gates.analysis import analysis
from xtts_gatekeeper.gates.rules.runtime import Runtime
from xtts_gatekeeper.record import Evaluation, RunRecord, TrainEpoch, VerdictEvent
from xtts_gatekeeper.record.events import Crash, DataCheck
from xtts_gatekeeper.record.journal import FOLDER
from xtts_gatekeeper.report.samples import latest_samples

#: Column -> key of a row, in the checklist's order.
COLUMNS = {
    "Epoch": "label",
    "Step": "step",
    "Train total": "train_total",
    "Train mel": "train_mel",
    "Val mel/objective": "objective",
    "LR (end)": "lr_end",
    "Mem state": "memory_state",
    "Sample score (/25)": "sample_score",
    "Decision": "decision",
}


_UNENDED = {True: "running or killed", False: "running, or its end is not in the log"}


def tracking_rows(record: RunRecord, policy: Policy, judged: int | None = None) -> list[dict[str, Any]]:
    """One row for each evaluation, or for a training epoch that had none, in order of time.

    `epochs_done` counts finished epochs of training, as the checklist does; `epoch` is the Trainer's number. The
    decision is the verdict the live gate gave, or would have given by `policy` where it gave none.

    Args:
        record: of any source.
        policy: the rules to judge by.
        judged: of evaluations that no live gate has judged so many at most are, evenly over the run, the last among
            them. By default all are, which takes time with the square of their number.
    """
    record = record.naming(policy.names)
    given = _live_verdicts(record)
    epochs = {epoch.epoch: epoch for epoch in record.train_epochs}
    every = 1 if judged is None else -(-len(record.evaluations) // max(1, judged))
    rows = []
    for left, evaluation in zip(range(len(record.evaluations) - 1, -1, -1), record.evaluations, strict=True):
        verdict: Verdict | VerdictEvent | None = given.get(id(evaluation))
        if verdict is None and left % every == 0:
            verdict = evaluate(record, policy, evaluation)
        epoch = None if evaluation.mid_epoch else epochs.get(evaluation.epoch)
        rows.append(_row(record, policy, evaluation, epoch, verdict))
    evaluated = {row["epoch"] for row in rows if not row["mid_epoch"]}
    rows += [_row(record, policy, None, epoch, None) for epoch in epochs.values() if epoch.epoch not in evaluated]
    return sorted(rows, key=lambda row: (row["step"], row["epoch"]))


def _live_verdicts(record: RunRecord) -> dict[int, VerdictEvent]:
    """`id` of an evaluation -> the verdict that the live gate gave right after it."""
    given = {}
    latest: Evaluation | None = None
    for event in record.events:
        if isinstance(event, Evaluation):
            latest = event
        elif isinstance(event, VerdictEvent) and latest is not None:
            given[id(latest)] = event
    return given


def _row(
    record: RunRecord,
    policy: Policy,
    evaluation: Evaluation | None,
    epoch: TrainEpoch | None,
    verdict: Verdict | VerdictEvent | None,
) -> dict[str, Any]:
    at = evaluation or epoch
    assert at is not None
    done = record.epochs_done(at)
    gates = verdict.gates if verdict else []
    mid_epoch = evaluation is not None and evaluation.mid_epoch
    train: Mapping[str, float] = epoch.metrics if epoch else {}
    return {
        "label": f"{done}{'+' if mid_epoch else ''}" + (f" ({', '.join(gates)})" if gates else ""),
        "epochs_done": done,
        "epoch": at.epoch,
        "step": at.step,
        "mid_epoch": mid_epoch,
        "train_total": train.get(record.resolve("train.total") or ""),
        "train_mel": train.get(record.resolve("train.mel") or ""),
        "objective": evaluation.metrics.get(record.resolve(policy.objective) or "") if evaluation else None,
        "text_ce": evaluation.metrics.get(record.resolve("eval.text") or "") if evaluation else None,
        "lr_end": epoch.lr_end or None if epoch else None,
        "memory_state": epoch.memory_state if epoch else None,
        "sample_score": _sample_score(record, at),
        "gates": gates,
        "decision": verdict.verdict if verdict else "",
    }


def _sample_score(record: RunRecord, at: Evaluation | TrainEpoch) -> float | None:
    """The rubric's total of the samples made with these weights."""
    scores = (score.metrics.get("sample.score") for score in record.sample_scores if score.step == at.step)
    return next((score for score in scores if score is not None), None)


def status(run: Path, record: RunRecord, policy: Policy, judged: int | None = None) -> dict[str, Any]:
    """Everything `status` prints, as one JSON document; `judged` as for `tracking_rows`."""
    record = record.naming(policy.names)
    start, target = record.start, policy.target_in(record)
    files = run_files(run) if run.is_dir() else {}
    freed = sum(event.bytes_freed for event in record.pruned)
    return {
        "run": str(run),
        "state": state(record),
        "baseline": start.to_dict() if start else None,
        "rows": tracking_rows(record, policy, judged),
        "source": record.source,
        "phases": [{"name": p.name, "lr": p.lr, "step": p.step, "epoch": p.epoch, "why": p.why} for p in record.phases],
        "actions": [action.to_dict() for action in record.actions],
        "health": health(record),
        "samples": latest_samples(record),
        "analysis": analysis(record, policy.objective, target.value if target else None),
        "verdict": evaluate(record, policy).to_dict(),
        "models": models(run, record),
        "data": next((e.to_dict() for e in reversed(record.events) if isinstance(e, DataCheck)), None),
        "files": files,
        "disk_bytes": sum(files.values()),
        "freed_bytes": freed,
        "incidents": [incident.to_dict() for incident in record.incidents],
        "crashes": crashes(run, record),
    }


def models(run: Path, record: RunRecord) -> list[dict[str, Any]]:
    """The checkpoint files in a run folder: step, size, what was measured of their weights, whether one can go on.

    What is not known of a file is None; `best_model.pth` is left out where it is another name of one that is listed.
    """
    if not run.is_dir():
        return []
    known = {file.path: file for file in candidates(run, record)}
    found = []
    for name, size in run_files(run).items():
        file = known.get(name) or next((known[n] for n in known if _same(run / n, run / name)), None)
        found.append(
            {
                "file": file.path if file else name,
                "bytes": size,
                "step": file.step if file else None,
                "resumable": file.resumable if file else None,
                "metrics": dict(file.metrics) if file else {},
            }
        )
    return sorted(found, key=lambda one: (one["step"] is None, one["step"], one["file"]))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def state(record: RunRecord) -> str:
    """Whether the run has ended, and how, in a word or two."""
    crash = record.events[-1] if record.events and isinstance(record.events[-1], Crash) else None
    if record.end is None and crash is None:
        return _UNENDED[record.source == "journal"]
    how = record.end.how if record.end is not None else "crashed"
    return how if crash is None or crash.decision == "stop" else f"{how}, to be started again"


def crashes(run: Path, record: RunRecord) -> list[dict[str, Any]]:
    """The crashes that a supervisor has seen, and those of processes without one that have left evidence."""
    found = [crash.to_dict() for crash in record.crashes]
    told = {crash.evidence for crash in record.crashes}
    for path in sorted((run / FOLDER / CRASHES).glob("*.json")):
        name = path.relative_to(run).as_posix()
        known = read_evidence(path)
        error = error_in(known)
        if name in told or error is None:
            continue
        facts = Facts(returncode=1, error=error)
        kind = kind_of(facts)
        crash = Crash(
            step=known.get("step", 0),
            epoch=known.get("epoch", 0),
            time=known.get("time", ""),
            kind=kind,
            message=describe(kind, facts),
            decision="",
            files=known.get("files", []),
            trained=known.get("trained", 0),
            evidence=name,
        )
        found.append(crash.to_dict())
    return sorted(found, key=lambda crash: crash["time"])


def health(record: RunRecord) -> dict[str, Any]:
    """What the monitors found in the latest epoch of training, and of bad batches in the whole run.

    Returns:
        A dict whose values are None where they are not measured: `grad_norm_median` and `grad_norm_max` (before
        clipping), `updates`, `nonfinite_updates`, `skipped_updates` and `gradient_spikes` of the epoch; `gap` (eval
        above train, by metric); `steps_per_second`, `audio_seconds_per_second`, `data_wait_share`; `memory_bytes` of
        the process at the end of the epoch and at its peak; `hours_left` of the planned epochs; `bad_batches` by kind,
        and the `suspects` among their clips with how often each.
    """
    epoch = record.train_epochs[-1] if record.train_epochs else None
    gradients, memory, speed = (epoch.gradients, epoch.memory, epoch.throughput) if epoch else ({}, {}, {})
    evaluation = record.evaluations[-1] if record.evaluations else None
    planned = record.start.epochs_planned if record.start else None
    time = Runtime(max_hours=math.inf).check(record).evidence if planned else {}
    return {
        "grad_norm_median": gradients.get("norm_median"),
        "grad_norm_max": gradients.get("norm_max"),
        **{key: gradients.get(key) for key in ("updates", "nonfinite_updates", "skipped_updates")},
        "gradient_spikes": gradients.get("spikes"),
        "gap": evaluation.gap if evaluation else {},
        **{key: speed.get(key) for key in ("steps_per_second", "audio_seconds_per_second", "data_wait_share")},
        "memory_bytes": memory.get("own_bytes"),
        "memory_peak_bytes": memory.get("peak_own_bytes"),
        "hours_left": time.get("hours_left"),
        "bad_batches": dict(Counter(batch.kind for batch in record.bad_batches)),
        "suspects": dict(Counter(file for batch in record.bad_batches for file in batch.suspects).most_common()),
    }


def format_cell(key: str, value: Any) -> str:
    """A cell of the table as text; what was not measured is an en dash."""
    if value is None or value == "":
        return "–"
    if key == "lr_end":
        return ", ".join(dict.fromkeys(f"{lr:.3g}" for lr in value))
    if isinstance(value, float):
        return f"{value:.1f}" if key == "sample_score" else f"{value:.4f}"
    return str(value)
