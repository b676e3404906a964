"""What happened along a run, each thing at its step: phases, gates, checkpoints, crashes and the like. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from xtts_gatekeeper.gates import Policy
from xtts_gatekeeper.record import Checkpoint, RunRecord, VerdictEvent
from xtts_gatekeeper.record.events import Action, BadBatch, Crash, End, Incident, PhaseStart, Start

MarkKind = Literal[
    "phase",
    "gate",
    "best",
    "checkpoint",
    "pruned",
    "segment",
    "resume",
    "action",
    "bad_batch",
    "incident",
    "crash",
    "end",
]


@dataclass(frozen=True)
class Mark:
    """One thing that happened at GLOBAL_STEP `step`: `label` in a word or two, `detail` in a sentence, or empty.

    `verdict` is that of a gate, else empty.
    """

    step: int
    kind: MarkKind
    label: str
    detail: str = ""
    verdict: str = ""


def marks(record: RunRecord, policy: Policy, rows: Iterable[Mapping[str, Any]] = ()) -> list[Mark]:
    """The marks of a run, by step.

    Args:
        record: of any source.
        policy: gives the metrics their names.
        rows: of the tracking table (`report.table.tracking_rows`), which tell what the gates would have said of a run
            that had none; where the journal holds verdicts they are taken instead.
    """
    record = record.naming(policy.names)
    found = [*_of_events(record), *_checkpoints(record), *_gates(record, rows)]
    found += [
        Mark(segment.evaluations[0].step, "segment", f"Segment {number}", segment.why)
        for number, segment in enumerate(record.segments, 1)
        if number > 1
    ]
    return sorted(found, key=lambda mark: mark.step)


def _of_events(record: RunRecord) -> Iterator[Mark]:
    starts = 0
    phase = ""
    for event in record.events:
        if isinstance(event, PhaseStart):
            if event.name != phase:  # a resume says again in which it goes on
                yield Mark(
                    event.step, "phase", event.name, f"LR {event.lr:g}" + (f", {event.why}" if event.why else "")
                )
            phase = event.name
        elif isinstance(event, Start):
            starts += 1
            if starts > 1 or event.resume_mode not in ("new", ""):
                file = f" from {event.resumed_from}" if event.resumed_from else ""
                yield Mark(event.step, "resume", "Resume", f"{event.resume_mode}{file}")
        elif isinstance(event, Action):
            yield Mark(event.step, "action", event.name.replace("_", " "), event.message)
        elif isinstance(event, Crash):
            yield Mark(event.step, "crash", f"Crash: {event.kind.replace('_', ' ')}", event.message)
        elif isinstance(event, Incident):
            yield Mark(event.step, "incident", event.code.replace("_", " "), event.message)
        elif isinstance(event, BadBatch):
            value = "" if event.value is None else f"{event.value:.4g}"
            limit = "" if event.limit is None else f", limit {event.limit:.4g}"
            yield Mark(event.step, "bad_batch", event.kind.replace("_", " "), value + limit)
        elif isinstance(event, End):
            yield Mark(event.step, "end", event.how, event.message)


def _checkpoints(record: RunRecord) -> Iterator[Mark]:
    """A mark for each checkpoint file that was written: whether it is still there."""
    there = {file.path for file in record.files}
    written: dict[str, Checkpoint] = {event.path: event for event in record.checkpoints}
    written |= {file.path: file for file in record.files}
    gone = {name for event in record.pruned for name in event.removed}
    best = next((file.path for file in reversed(record.files) if file.kind == "best"), None)
    for path, file in written.items():
        value = "" if file.value is None else f"{file.metric or 'value'} {file.value:.4f}"
        if path in there:
            yield Mark(file.step, "best" if path == best else "checkpoint", path, value)
        elif path in gone:
            yield Mark(file.step, "pruned", path, value)
        elif file.intact is False:
            yield Mark(file.step, "pruned", path, "broken")


def _gates(record: RunRecord, rows: Iterable[Mapping[str, Any]]) -> Iterator[Mark]:
    """When a gate came due and what was said, once as long as nothing changes: it stays due until it is passed."""
    given = [(v.step, v.gates, v.verdict, _first_reason(v)) for v in record.verdicts]
    if not given:
        given = [(row["step"], row["gates"], row["decision"], "") for row in rows if row["decision"]]
    for (gates, verdict), group in groupby(given, key=lambda said: (tuple(said[1]), said[2])):
        if gates:
            step, _, _, reason = next(group)
            yield Mark(step, "gate", f"{' and '.join(gates)}: {verdict}", reason, verdict)


def _first_reason(verdict: VerdictEvent) -> str:
    failed: Sequence[str] = [r.get("message", "") for r in verdict.reasons if r.get("status") == "failed"]
    return failed[0] if failed else ""
