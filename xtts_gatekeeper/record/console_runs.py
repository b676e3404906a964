"""Which processes of a console log are one run: resumes of it, runs of their own, or runs that go on elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from xtts_gatekeeper.record.build import RunBuilder
from xtts_gatekeeper.record.console_process import Process
from xtts_gatekeeper.record.events import Checkpoint, End, Evaluation, Event, Start, TrainEpoch
from xtts_gatekeeper.record.run import RunRecord


def runs_of(processes: Iterable[Process]) -> list[RunRecord]:
    """The runs that processes make, in their order; put together anew each time, since later lines correct earlier."""
    builder = RunBuilder("console")
    before: Process | None = None
    earlier: list[Event] = []
    eval_set: str | None = None
    for process in processes:
        relation = "new" if before is None else _relation(before, process)
        if relation != "resume":
            builder.new_run(_last_part(process.path), continues=relation == "goes on")
        if relation == "new":
            earlier, eval_set = [], None
        _tell(builder, process, relation, earlier, before, eval_set)
        eval_set = process.eval_set or eval_set
        before = process
    return builder.records()


def _last_part(path: str | None) -> str:
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] if path else ""


def _relation(before: Process, process: Process) -> str:
    """`resume` of the run before, a `new` run, or one that `goes on` where that ended, in a folder of its own."""
    step = process.start_step
    if before.path and process.path and before.path != process.path:
        return "goes on" if step and _leads_to(before, step) else "new"
    if before.path and before.path == process.path:
        return "resume"
    if before.values and process.values and before.values.keys() != process.values.keys():
        return "new"  # another model
    if step is not None:
        return "resume" if step > 0 else "new"
    told = process.resumed_from is not None or process.restored_step is not None or process.first_epoch is None
    plans = process.last_epoch == before.last_epoch and process.last_epoch is not None
    return "resume" if told or (plans and process.first_epoch != 0) else "new"


def _leads_to(before: Process, step: int) -> bool:
    """Whether a process that begins at `step` goes on from the end or from a checkpoint of `before`."""
    ends = {before.position, before.done}
    ends.update(event.step for event in before.events if isinstance(event, Checkpoint))
    return step in ends or step - 1 in ends  # what is saved within a step, is one step ahead of its name


def _tell(
    builder: RunBuilder,
    process: Process,
    relation: str,
    earlier: list[Event],
    before: Process | None,
    eval_set: str | None,
) -> None:
    """Add a process to the current run; `earlier` are the events of that run, and get those of the process."""
    step = process.start_step
    if step is None and process.restored_step is not None and relation == "resume":
        step = process.restored_step + 1
    if step is None:
        step = before.position if before is not None and relation == "resume" else 0
    offset = 0 if relation == "new" else _epoch_offset(process, step, earlier)
    mode = "restore" if process.resumed_from else "new"
    start = Start(
        step=step,
        epoch=(process.first_epoch or 0) + offset,
        time=process.started_at,
        device=process.device,
        precision=process.precision,
        lr=process.lr,
        grad_accum_steps=process.grad_accum_steps,
        epochs_planned=process.epochs_planned,
        eval_clips=process.eval_clips,
        eval_set=process.eval_set,
        resumed_from=process.resumed_from,
        resume_mode=mode if relation == "new" else "continue",
    )
    events: list[Event] = [start]
    for event in process.events:
        moved = replace(event, epoch=event.epoch + offset) if offset else event
        if isinstance(moved, Evaluation) and moved.eval_set is None and eval_set is not None and relation == "resume":
            moved = replace(moved, eval_set=eval_set)
        events.append(moved)
    if process.end is not None:
        how, message = process.end
        number = process.number + offset
        events.append(End(step=process.position, epoch=number, time=process.time, how=how, message=message))
    for event in events:
        builder.add(event)
    earlier.extend(events)
    for indices in process.guesses:
        if any(isinstance(process.events[index], TrainEpoch) for index in indices):
            builder.note("steps_counted", "no line tells GLOBAL_STEP; steps are counted in epochs, or carried on")
    for code, (message,) in process.notes.items():
        for _ in range(process.note_counts[code]):
            builder.note(code, message)


def _epoch_offset(process: Process, step: int, earlier: Sequence[Event]) -> int:
    """What to add to the printed numbers of a resume, so that an epoch is not taken for one that was done before.

    Trainers before 0.3.0 count from 0 again. Later ones repeat the number of the epoch in which the checkpoint was
    saved, and are right to: it was not finished, or its number counts once (`RunRecord.epochs_done`).
    """
    done = [event.epoch for event in earlier if isinstance(event, TrainEpoch) and event.step <= step]
    first = process.first_epoch or 0
    if not done or first > max(done) or (first == max(done) and process.rates_first is not False):
        return 0
    return max(done) + 1 - first
