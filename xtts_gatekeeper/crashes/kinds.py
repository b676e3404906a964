"""What a training process died of, from what is known about its end. Nothing here looks at a process or a file."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import Literal

from xtts_gatekeeper.crashes.tracebacks import Error, after_tracebacks, clean, last_traceback
from xtts_gatekeeper.record.events import End

__all__ = ["Error", "Facts", "Kind", "describe", "kind_of", "last_traceback"]

Kind = Literal[
    "finished",
    "stopped",
    "refused",
    "interrupted",
    "terminated",
    "nonfinite",
    "disk_full",
    "gpu_fault",
    "gpu_assert",
    "gpu_lost",
    "out_of_memory",
    "host_out_of_memory",
    "hang",
    "segfault",
    "killed",
    "exception",
    "exit",
]

#: So much of the end of the output is looked at for what a native library said when it aborted, in characters.
_LAST_WORDS = 4096
_LONGEST_SENTENCE = 300

#: What an exception or a C++ abort says, as `type: message`; the first that fits counts. The words are those of torch,
#: libcudart, cuBLAS, cuDNN, NCCL, NVML, ROCm and Metal. Mind that every CUDA error of torch ends in "Compile with
#: `TORCH_USE_CUDA_DSA` to enable device-side assertions."
_SIGNS: tuple[tuple[Kind, str], ...] = (
    ("gpu_assert", r"device-side assert triggered|device-side assertion failures were found"),
    (
        "out_of_memory",
        r"^[\w.:]*OutOfMemoryError\b|(CUDA|HIP|XPU|MPS backend) out of memory|(CUDA|HIP) error: out of memory"
        r"|runtime error \(2\) ?: out of memory|Cuda failure (\d+ )?'out of memory'|ERROR_OUT_OF_(DEVICE_)?MEMORY"
        r"|(CUBLAS|HIPBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_ALLOC_FAILED|DEVICE_ALLOCATION_FAILED"
        r"|Unable to find a valid cuDNN algorithm|HSA_STATUS_ERROR_OUT_OF_RESOURCES"
        r"|kIOGPUCommandBufferCallbackErrorOutOfMemory|Invalid buffer size: "
        # Out of memory, the allocator asks NVML who has it all, and fails in that (pytorch issue 112377).
        r"|NVML_SUCCESS == .*INTERNAL ASSERT FAILED at .*CUDACachingAllocator",
    ),
    ("hang", r"collective operation timeout|Timed out waiting \d+ms for (recv|send) operation"),
    (
        "gpu_lost",
        r"uncorrectable (ECC|NVLink) error|GPU is lost|no (CUDA|ROCm)-capable device is detected"
        r"|CUDA-capable device(s are|\(s\) is/are) busy or unavailable|hardware stack error"
        r"|Driver/library version mismatch|unsupported display driver|(fallen|fell) off the bus"
        r"|No (CUDA|HIP) GPUs are available|NVMLError|NVML_ERROR|initialize NVML|nvmlInit|NVML_SUCCESS =="
        r"|CUDA unknown error - |Unexpected error from cudaGetDeviceCount|Found no NVIDIA driver"
        r"|system not yet initialized|over nvlink or a hardware error|GPU requires (reset|restart)",
    ),
    (
        "gpu_fault",
        r"illegal memory access|misaligned address|unspecified launch failure|illegal instruction was encountered"
        r"|the launch timed out|invalid program counter|not supported on global/shared address space"
        r"|(CUDA|HIP) error: (unknown error|unrecognized error code)|runtime error \(\d+\) ?: unknown error"
        r"|(BLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR|MAPPING_ERROR|NOT_INITIALIZED)"
        r"|CUFFT_(EXEC_FAILED|INTERNAL_ERROR)|miopenStatus(Internal|Unknown)Error|unhandled cuda error"
        r"|CUDA_ERROR_(ILLEGAL_|LAUNCH_|MISALIGNED_|UNKNOWN)|Memory access fault by GPU|HW Exception by GPU"
        r"|HSA_STATUS_ERROR|kIOGPUCommandBufferCallbackError|(MPS|MTL|IOGPU|Metal).*failed assertion",
    ),
    (
        "host_out_of_memory",
        r"^[\w.:]*MemoryError\b|DefaultCPUAllocator: (can't allocate|not enough) memory|Cannot allocate memory"
        r"|\[Errno 12\]|\[WinError (8|1455)\]|bad_alloc|bad allocation|HOST_ALLOCATION_FAILED|OUT_OF_HOST_MEMORY"
        r"|memory allocation of \d+ bytes failed"
        # What is in /dev/shm is memory: room on a disk does not help.
        r"|killed by signal: (Killed|Bus error)|file </?torch_[^>]*>: No space left",
    ),
    (
        "disk_full",
        r"No space left on device|\[Errno 28\]|Disk quota exceeded|not enough space on the disk|\[WinError (39|112)\]"
        # A failed write of torch's own file writer, which does not say why, and what closing the file then finds.
        r"|PytorchStreamWriter failed writing file|unexpected pos \d+ vs \d+|database or disk is full",
    ),
    ("segfault", r"killed by signal: (Segmentation fault|Aborted|Illegal instruction|Floating point exception)"),
    ("killed", r"DataLoader worker .*killed by signal: "),
    ("interrupted", r"^KeyboardInterrupt\b"),
)
_COMPILED = [(kind, re.compile(words)) for kind, words in _SIGNS]

_SENTENCES: dict[Kind, str] = {
    "finished": "The training has finished",
    "stopped": "The training has stopped by itself",
    "refused": "The command was refused",
    "interrupted": "The training was interrupted",
    "terminated": "The training was asked to end",
    "nonfinite": "The gradients are no numbers any more",
    "disk_full": "The disk is full",
    "gpu_fault": "The GPU reported a fault",
    "gpu_assert": "A check in a GPU kernel failed",
    "gpu_lost": "The GPU cannot be used any more",
    "out_of_memory": "The device ran out of memory",
    "host_out_of_memory": "The machine ran out of memory",
    "hang": "The training hung",
    "segfault": "The process crashed in native code",
    "killed": "The process was killed",
    "exception": "A Python exception ended the process",
    "exit": "The process ended without saying why",
}
#: Causes of a stop that are kinds of their own.
_CAUSES: dict[str, Kind] = {"nonfinite": "nonfinite", "disk_full": "disk_full", "out_of_memory": "out_of_memory"}

_NATIVE = ("SIGSEGV", "SIGBUS", "SIGILL", "SIGFPE", "SIGABRT", "SIGTRAP", "SIGSYS")
#: Numbers that a process leaves on Windows and that are no crash in native code.
_NTSTATUS: dict[int, Kind] = {
    0x40010004: "terminated",  # the session is closed
    0xC0000017: "host_out_of_memory",
    0xC000012D: "host_out_of_memory",
    0xC000013A: "interrupted",
}
#: abort(), and an exception that nobody caught.
_NT_ABORTS = (0xC0000409, 0xE06D7363)

_THROWN = re.compile(
    r"terminate called after throwing an instance of '(?P<type>[^']+)'"
    r"|libc\+\+abi: terminating .*exception of type (?P<type_>[\w:]+)"
)
#: Aborts of ROCm, of Metal and of Rust.
_ABORTED = re.compile(r".*(?:by GPU node|HSA_STATUS_ERROR|failed assertion|memory allocation of \d+ bytes failed).*")
#: What is printed below the reason of an abort, and may be longer than all of `_LAST_WORDS`.
_DUMP = re.compile(r'frame #|(?:Current t|T)hread 0x|  File ".+", line \d+ in |Extension modules: ')
_REFUSAL = re.compile(r"^(?:xtts-gatekeeper|\S+: error): (?P<said>.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Facts:
    """What is known about the end of a process.

    Args:
        returncode: as `subprocess` gives it: negative for a signal, on Windows a large number for a status.
        end: what this very process wrote into the journal last, when it did.
        error: of the plug-in's evidence, or from the output.
        output: the end of what the process printed.
        oom_killed: whether the system's count of processes killed for want of memory rose meanwhile.
        hung: whether the process was ended because no step came.
        asked: the signal that the supervisor itself passed on.
    """

    returncode: int
    end: End | None = None
    error: Error | None = None
    output: str = ""
    oom_killed: bool = False
    hung: bool = False
    asked: int | None = None


def kind_of(facts: Facts) -> Kind:
    """What the process died of. What was asked for comes first, then what it recorded, then its exit code."""
    return _judge(facts)[0]


def describe(kind: Kind, facts: Facts) -> str:
    """One sentence of what happened, with the first line of the message, the signal or the exit code."""
    detail = " ".join(_judge(facts)[1].split())
    said = f"{_SENTENCES[kind]}{': ' if detail else ''}{detail}"
    if len(said) > _LONGEST_SENTENCE:
        said = f"{said[:_LONGEST_SENTENCE].rstrip()}..."
    return said if said.endswith(".") else f"{said}."


def _judge(facts: Facts) -> tuple[Kind, str]:
    """The kind, and what there is to say about it beyond that."""
    code, end = facts.returncode, facts.end
    how = end.how if end else ""
    name = _signal_name(code)
    if code == 0 and how == "finished":
        return "finished", ""
    # What comes after the training, an export of the user's or the end of the interpreter, does not undo its end.
    if end is not None and (how == "finished" or (how == "stopped" and end.cause not in _CAUSES)):
        return "finished" if how == "finished" else "stopped", end.message
    if facts.asked is not None:
        return ("interrupted" if facts.asked == signal.SIGINT else "terminated"), _signal_name(-facts.asked)
    if facts.hung:
        return "hang", "no step came in time"
    if end and how == "refused":
        return "refused", end.message or _refusal(facts.output)
    if how == "interrupted" or name == "SIGINT":
        return "interrupted", "SIGINT"
    if how == "terminated" or name == "SIGTERM":
        return "terminated", "SIGTERM"
    if code == 0:
        return (_CAUSES.get(end.cause, "stopped"), end.message) if end and how == "stopped" else ("finished", "")
    if name == "SIGKILL":
        return ("host_out_of_memory" if facts.oom_killed else "killed"), name
    status = code & 0xFFFFFFFF
    if not name and status in _NTSTATUS:
        return _NTSTATUS[status], _number(code)
    if name in _NATIVE or (not name and status >> 28 in (0x8, 0xC, 0xE)):
        return _judge_native(facts, name or _number(code), name == "SIGABRT" or status in _NT_ABORTS)
    if code < 0:
        return "killed", name or _number(code)
    error = facts.error or last_traceback(facts.output) or _recorded(end)
    refusal = _refusal(facts.output)
    if code == 2 and (error is None or refusal):
        return "refused", refusal
    if error is not None:
        return _judge_error(error, facts.oom_killed)
    return "exit", _number(code)


def _judge_native(facts: Facts, name: str, aborted: bool) -> tuple[Kind, str]:
    """Of a process that crashed below Python: because of what was said just before, else a segfault."""
    lines = [line for line in clean(facts.output).split("\n") if not _DUMP.match(line)]
    tail = "\n".join(lines)[-_LAST_WORDS:]
    found = [*_THROWN.finditer(tail)] or [*_ABORTED.finditer(tail)]
    if aborted and found:
        said = tail[found[-1].start() :]
        thrown = found[-1].groupdict()
        type_ = thrown.get("type") or thrown.get("type_")
        kind = _sign(f"{type_}: {said}" if type_ else said)
        if kind is not None:
            what = re.search(r"what\(\): +(.+)", said)
            return kind, f"{name}, {what[1] if what else said.splitlines()[0].strip()}"
    # An interpreter that ends because of an exception may crash while it is taken down.
    crashed = facts.end is not None and facts.end.how == "crashed"
    error = (facts.error or _recorded(facts.end) if crashed else None) or last_traceback(tail)
    if error is not None:
        kind, said = _judge_error(error, facts.oom_killed)
        if crashed or kind != "exception":
            return kind, said
    return "segfault", name


def _judge_error(error: Error, oom_killed: bool) -> tuple[Kind, str]:
    """By its own type and message, else by those of the exceptions that it came from."""
    for one in (error, *error.causes()):
        kind = _sign(f"{one.type}: {one.message}")
        if kind is not None and (kind != "interrupted" or one is error):
            return kind, _short(one)
        if oom_killed and "DataLoader worker" in one.message:
            return "host_out_of_memory", _short(one)
    return "exception", _short(error)


def _sign(said: str) -> Kind | None:
    return next((kind for kind, words in _COMPILED if words.search(said)), None)


def _recorded(end: End | None) -> Error | None:
    """The exception as the end of the journal tells it, without a traceback."""
    if end is None or end.how != "crashed" or not end.message:
        return None
    type_, _, message = end.message.partition(": ")
    return Error(type_, message, "")


def _short(error: Error) -> str:
    said = f"{error.type}: {error.first_line}" if error.first_line else error.type
    return f"{said} ({error.where})" if error.where else said


def _number(code: int) -> str:
    return f"exit code {code}" if 0 <= code < 256 else f"exit code 0x{code & 0xFFFFFFFF:08X}"


def _signal_name(code: int) -> str:
    """The name of the signal that ended the process, told by itself (-9) or by a shell (137), or an empty string."""
    number = -code if -64 <= code < 0 else code - 128 if 128 < code < 160 else 0
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}" if code < 0 < number else ""


def _refusal(output: str) -> str:
    """The sentence with which we, or an argument parser, refused to go on; an empty string when there is none."""
    said = [*_REFUSAL.finditer(after_tracebacks(output))]
    return said[-1]["said"] if said else ""
