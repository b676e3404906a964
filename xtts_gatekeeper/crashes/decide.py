"""What follows from a crash: another process, or the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from xtts_gatekeeper.record.events import Crash

#: Seconds before a restart, at most.
LONGEST_WAIT = 300.0

#: Exit codes of the kinds after which nothing is left to do, or nothing should be done.
_EXIT_CODES = {"finished": 0, "stopped": 0, "refused": 2, "interrupted": 130, "terminated": 143}
#: Kinds that a clip may bring about. Out of memory and the rest have answers of their own, and who kills a process does
#: so from outside: that it is twice at the first step after a resume says nothing of its clips.
_OF_A_CLIP = frozenset({"exception", "gpu_fault", "gpu_assert", "segfault", "hang"})
_OF_THE_HARDWARE = frozenset({"gpu_fault", "gpu_lost", "segfault"})
_LIKELY_HARDWARE = 3
_LONGEST_LIST = 8

_GOES_ON = "the same command with --resume auto, or with --continue_path RUN, goes on from what is saved."
_ENDS = {
    "finished": "Nothing is left to do.",
    "stopped": "It is not started again: it ended as it was meant to.",
    "refused": "It is not started again: the command or its settings have to be changed first.",
    "interrupted": f"It is not started again, as you asked; {_GOES_ON}",
    "terminated": f"It is not started again, for it was told to end; {_GOES_ON}",
}
_ASSERT = "A device-side assert is mostly a token or an index out of range; CUDA_LAUNCH_BLOCKING=1 shows where."
_A_BUG = "The same exception came again without progress in between: that is a bug, which no restart cures."
_LEAVE_OUT = (
    "To go on without these clips, give --exclude-suspects to `xtts-gatekeeper run`, or --exclude FILE to the recipe."
)
_HARDWARE = "Crashes at ever other steps speak for the hardware: power, heat, memory or the driver."
_LESS_MEMORY = "Fewer loader workers (num_loader_workers) and a smaller batch_size need less memory."
_REBOOT = "A GPU that a fresh process does not bring back needs a reboot of the machine."
#: What a restart does beyond going on.
_WITH = {
    "nonfinite": "If the gradients fail once more, it stops.",
    "disk_full": "Old checkpoints are pruned and room is waited for first.",
    "out_of_memory": "Batches are taken in smaller parts from now on.",
    "host_out_of_memory": "From now on it saves without a copy in memory.",
    "gpu_assert": _ASSERT,
}
#: What a user can do when restarts do not help.
_ADVICE = {
    "nonfinite": "Lower the learning rate and check the data.",
    "disk_full": "Make room on the disk, or keep fewer checkpoints.",
    "out_of_memory": "Give a smaller batch_size, leave out the longest clips, or see what else uses the device.",
    "host_out_of_memory": _LESS_MEMORY,
    "gpu_fault": _REBOOT,
    "gpu_lost": _REBOOT,
    "gpu_assert": _ASSERT,
    "segfault": "A library crashes: try num_loader_workers 0, and other versions of torch and the driver.",
    "killed": "Something ends it from outside: look into the system's log, and at the limits of a job.",
    "hang": "Look at what the data lies on, and whether it hangs with num_loader_workers 0, too.",
    "exit": "What it printed last may say why.",
}


@dataclass(frozen=True)
class Limits:
    """How much is tried.

    Args:
        restarts: in a row that brought no progress; 0: none at all.
        backoff: seconds before the first such restart, doubled each time, at most `LONGEST_WAIT`.
        exclude: leave out suspected clips instead of stopping.
    """

    restarts: int = 3
    backoff: float = 10.0
    exclude: bool = False


DEFAULTS = Limits()


@dataclass(frozen=True)
class Decision:
    """What to do about a crash.

    `why` says in a few sentences what is done and what the user can do. `exit_code` is that of a stop, `wait` the
    seconds before a restart. `disk`: prune and wait for room first. `smaller`: train batches in smaller parts.
    `spare_memory`: save without a copy in host memory. `exclude`: clips to leave out from now on.
    """

    act: Literal["restart", "stop"]
    why: str
    exit_code: int = 0
    wait: float = 0.0
    disk: bool = False
    smaller: bool = False
    spare_memory: bool = False
    exclude: tuple[str, ...] = ()


def decide(crashes: Sequence[Crash], limits: Limits = DEFAULTS) -> Decision:
    """What to do about the last of the crashes of a run.

    The restarts are counted since the last `stop`, for after one it was a person who started it again. What speaks for
    a bug, a clip or the hardware is looked for in all of them.

    Args:
        crashes: oldest first. `decision` and `why` of the last one mean nothing yet.
        limits: how much is tried.

    Raises:
        ValueError: there is no crash.
    """
    if not crashes:
        raise ValueError("no crash to decide about")
    last, before = crashes[-1], crashes[-2] if len(crashes) > 1 else None
    if last.kind in _EXIT_CODES:
        return Decision("stop", _ENDS[last.kind], _EXIT_CODES[last.kind])
    recent = _since_a_stop(crashes)
    again = len(recent) > 1 and recent[-2].kind == last.kind
    if last.kind == "nonfinite" and again:
        return Decision("stop", f"The gradients fail again after a restart: it stops. {_ADVICE['nonfinite']}", 1)

    idle = _without_progress(recent)
    in_vain = idle - (idle == len(recent))  # the first process was no restart
    spent = in_vain >= limits.restarts
    same_error = before is not None and _same_error(before, last)
    clip = _suspicion(before, last, same_error) if before is not None else ""
    if clip and limits.exclude and not spent:
        return Decision("restart", f"{clip} It is started again without these clips.", exclude=tuple(last.files))
    if clip and not limits.exclude:
        return Decision("stop", _sentences(clip, _LEAVE_OUT, _traceback(last)), 1)
    if same_error and not last.progress:
        return Decision("stop", _sentences(_A_BUG, _traceback(last)), 1)
    if spent:
        tried = (
            f"{_counted(in_vain)} in a row brought no progress: it stops." if in_vain else "It is not started again."
        )
        advice = _ADVICE.get(last.kind, "")
        return Decision("stop", _sentences(tried, clip, advice, _traceback(last), _hardware(crashes)), 1)

    wait = 0.0
    if not last.progress and last.kind != "disk_full":
        wait = min(limits.backoff * 2.0 ** min(idle - 1, 32), LONGEST_WAIT)
    more = _LESS_MEMORY if last.kind == "host_out_of_memory" and again else ""
    return Decision(
        "restart",
        _sentences(_again(wait, in_vain, limits), _WITH.get(last.kind, ""), more, _hardware(crashes)),
        wait=wait,
        disk=last.kind == "disk_full",
        smaller=last.kind == "out_of_memory",
        spare_memory=last.kind == "host_out_of_memory",
    )


def _since_a_stop(crashes: Sequence[Crash]) -> Sequence[Crash]:
    stops = [number for number, crash in enumerate(crashes[:-1]) if crash.decision == "stop"]
    return crashes[stops[-1] + 1 :] if stops else crashes


def _without_progress(crashes: Sequence[Crash]) -> int:
    """How many of the last crashes in a row brought none."""
    return next((number for number, crash in enumerate(reversed(crashes)) if crash.progress), len(crashes))


def _same_error(before: Crash, last: Crash) -> bool:
    return before.kind == last.kind == "exception" and last.signature != "" and before.signature == last.signature


def _suspicion(before: Crash, last: Crash, same_error: bool) -> str:
    """What speaks for a clip of the last batch, or an empty string."""
    same_place = last.step == before.step and not last.progress and {before.kind, last.kind} <= _OF_A_CLIP
    trained = before.trained or last.trained  # a bug shows with the first batch
    if not same_place or not last.files or not trained:
        return ""
    names = ", ".join(last.files[:_LONGEST_LIST])
    more = len(last.files) - _LONGEST_LIST
    return _sentences(
        f"It crashed twice in a row at step {last.step}{', with the same exception' if same_error else ''}: a clip of "
        f"its batch is suspected: {names}{f' and {more} more' if more > 0 else ''}.",
        _ASSERT if last.kind == "gpu_assert" else "",
    )


def _hardware(crashes: Sequence[Crash]) -> str:
    """Faults at many steps have no bug or clip in common."""
    if crashes[-1].kind not in _OF_THE_HARDWARE:
        return ""
    steps = {crash.step for crash in crashes if crash.kind in _OF_THE_HARDWARE}
    return _HARDWARE if len(steps) >= _LIKELY_HARDWARE else ""


def _traceback(crash: Crash) -> str:
    """Where that of an exception is to be found; an empty string for another kind."""
    if crash.kind != "exception":
        return ""
    return f"Its traceback is in {crash.evidence}." if crash.evidence else "Its traceback is in what it printed."


def _again(wait: float, in_vain: int, limits: Limits) -> str:
    when = f" in {wait:g} s" if wait else ""
    used = f"; used up so far: {in_vain} of {_counted(limits.restarts)} without progress" if in_vain else ""
    return f"It is started again{when}{used}."


def _counted(restarts: int) -> str:
    return f"{restarts} restart{'' if restarts == 1 else 's'}"


def _sentences(*parts: str) -> str:
    return " ".join(part for part in parts if part)
