"""Ways for a training to end badly, planted in a real recipe: real signals, real errors of the system, real messages.

A plan says at which GLOBAL_STEP what happens and how often: `FAULTS='[{"kind": "segfault", "step": 7, "times": 1}]'`,
and in which run, by its `run_name`, where `run` is given.
What has happened is counted in files beside `FAULTS_FOLDER`, for the process that counts does not live.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

_CUDA_TAIL = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
    "Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.\n"
)


def _cuda(message: str) -> Callable[[Any], None]:
    def fault(trainer: Any) -> None:
        raise torch.AcceleratorError(f"CUDA error: {message}{_CUDA_TAIL}")

    return fault


def _signal(number: int) -> Callable[[Any], None]:
    def fault(trainer: Any) -> None:
        os.kill(os.getpid(), number)
        if number in (signal.SIGKILL, signal.SIGSTOP):
            time.sleep(60)

    return fault


def _segfault(trainer: Any) -> None:
    faulthandler._sigsegv()  # type: ignore[attr-defined]


def _exception(trainer: Any) -> None:
    raise KeyError("planted")


def _other_exception(trainer: Any) -> None:
    raise ValueError(f"planted at {trainer.total_steps_done}, {time.time_ns()}")


def _out_of_memory(trainer: Any) -> None:
    """In the middle of an update, where nothing can be taken back; the message is torch's own."""

    def in_update(optimizer: Any, args: Any, kwargs: Any) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 11.76 GiB of which 1.12 GiB "
            "is free. Process 4711 has 10.62 GiB memory in use."
        )

    trainer.optimizer[0].register_step_pre_hook(in_update)


def _host_memory_in_update(trainer: Any) -> None:
    trainer.optimizer[0].register_step_pre_hook(lambda optimizer, args, kwargs: _host_memory(trainer))


def _host_memory(trainer: Any) -> None:
    """A real limit on the address space, and torch's own allocator that meets it."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    torch.empty(1 << 30, dtype=torch.float32).zero_()


def _disk_full(trainer: Any) -> None:
    """On the disk that `FULL_FILE` lies on, or on Linux's own that always is."""
    with open(os.environ.get("FULL_FILE", "/dev/full"), "wb", buffering=0) as file:  # noqa: PTH123
        file.write(b"a log of the user's own")


def _hang(trainer: Any) -> None:
    while True:
        time.sleep(1)


def _hang_with_gil(trainer: Any) -> None:
    ctypes.PyDLL(None).sleep(1 << 20)


def _exit(trainer: Any) -> None:
    os._exit(7)


FAULTS: dict[str, Callable[[Any], None]] = {
    "illegal access": _cuda("an illegal memory access was encountered"),
    "launch failure": _cuda("unspecified launch failure"),
    "device-side assert": _cuda("device-side assert triggered"),
    "ECC": _cuda("uncorrectable ECC error encountered"),
    "lost device": _cuda("no CUDA-capable device is detected"),
    "out of memory": _out_of_memory,
    "host memory": _host_memory,
    "host memory in the update": _host_memory_in_update,
    "disk full": _disk_full,
    "exception": _exception,
    "other exception": _other_exception,
    "SIGTERM": _signal(signal.SIGTERM),
    "SIGINT": _signal(signal.SIGINT),
    "SIGKILL": _signal(signal.SIGKILL),
    "SIGSEGV": _segfault,
    "SIGBUS": _signal(signal.SIGBUS),
    "SIGABRT": _signal(signal.SIGABRT),
    "hang": _hang,
    "hang with the GIL": _hang_with_gil,
    "exit": _exit,
}


def plant(trainer: Any) -> None:
    """Let the plan in the environment happen to a Trainer. `NaN` makes the loss one from its step on, for good."""
    plan = json.loads(os.environ.get("FAULTS", "[]"))
    folder = Path(os.environ.get("FAULTS_FOLDER", "."))
    stock = trainer.model.train_step
    poisoned = False

    def train_step(*args: Any, **kwargs: Any) -> Any:
        nonlocal poisoned
        if not torch.is_grad_enabled():  # XTTS evaluates by the same method, and calls no part of itself training
            return stock(*args, **kwargs)
        for number, fault in enumerate(plan):
            if fault.get("run", trainer.config.run_name) != trainer.config.run_name:
                continue
            mark = folder / f"fault-{number}"
            done = mark.stat().st_size if mark.exists() else 0
            if trainer.total_steps_done == fault["step"] and done < fault.get("times", 1):
                with mark.open("ab") as file:
                    file.write(b"x")
                if fault["kind"] == "NaN":
                    poisoned = True
                else:
                    FAULTS[fault["kind"]](trainer)
        outputs, losses = stock(*args, **kwargs)
        if poisoned:
            losses = {key: value * float("nan") for key, value in losses.items()}
        return outputs, losses

    trainer.model.train_step = train_step
