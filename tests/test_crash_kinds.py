"""What a process died of: real messages, exit codes and tracebacks, and a few processes that really die."""

import signal
import subprocess
import sys
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtts_gatekeeper.crashes.kinds import Error, Facts, describe, kind_of, last_traceback
from xtts_gatekeeper.record.events import End

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

DSA = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\nCompile with `TORCH_USE_CUDA_DSA` to enable "
    "device-side assertions.\n"
)
ACCELERATOR = "torch.AcceleratorError"
NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled cuda error (run with "
    "NCCL_DEBUG=INFO for details), NCCL version 2.27.3\nncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\nCuda failure "
)
WATCHDOG = (
    "[PG ID 0 PG GUID 0(default_pg) Rank 0] Process group watchdog thread terminated with exception: [Rank 0] Watchdog "
    "caught collective operation timeout: WorkNCCL(SeqNum=61, OpType=ALLREDUCE) ran for 600026 milliseconds before "
    "timing out."
)
CUDA_COUNT = (
    "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() that "
    "might have already set an error? Error "
)
SHM = "It is possible that dataloader's workers are out of shared memory. Please try to raise your shared memory limit."


def cuda(what):
    return f"CUDA error: {what}{DSA}"


#: Type and message as torch and the libraries below it write them, and the kind.
MESSAGES = [
    # A fault of the GPU
    (ACCELERATOR, cuda("an illegal memory access was encountered"), "gpu_fault"),
    ("RuntimeError", cuda("misaligned address"), "gpu_fault"),
    ("RuntimeError", cuda("unspecified launch failure"), "gpu_fault"),
    ("RuntimeError", cuda("an illegal instruction was encountered"), "gpu_fault"),
    ("RuntimeError", cuda("the launch timed out and was terminated"), "gpu_fault"),
    ("RuntimeError", cuda("invalid program counter"), "gpu_fault"),
    ("RuntimeError", cuda("unknown error"), "gpu_fault"),
    ("RuntimeError", "cuda runtime error (700) : an illegal memory access was encountered at THC.cu:9", "gpu_fault"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle)`", "gpu_fault"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_INTERNAL_ERROR when calling `cublasCreate(handle)`", "gpu_fault"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", "gpu_fault"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "gpu_fault"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART", "gpu_fault"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", "gpu_fault"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_MAPPING_ERROR", "gpu_fault"),
    ("RuntimeError", "Triton Error [CUDA]: an illegal memory access was encountered", "gpu_fault"),
    ("torch.distributed.DistBackendError", NCCL + "700 'an illegal memory access was encountered'", "gpu_fault"),
    ("torch.distributed.DistBackendError", NCCL + "999 'whatever else'", "gpu_fault"),
    ("RuntimeError", "HIP error: unspecified launch failure" + DSA.replace("CUDA", "HIP"), "gpu_fault"),
    # An assert in a kernel
    (ACCELERATOR, cuda("device-side assert triggered"), "gpu_assert"),
    ("RuntimeError", "CUDA error: device-side assert triggered", "gpu_assert"),
    ("RuntimeError", "cuda runtime error (59) : device-side assert triggered at /pytorch/THC.cu:9", "gpu_assert"),
    ("RuntimeError", "cuda error\nCUDA device-side assertion failures were found on GPU #0!", "gpu_assert"),
    # A GPU that is gone
    (ACCELERATOR, cuda("uncorrectable ECC error encountered"), "gpu_lost"),
    ("RuntimeError", cuda("uncorrectable NVLink error detected during the execution"), "gpu_lost"),
    ("RuntimeError", cuda("hardware stack error"), "gpu_lost"),
    ("RuntimeError", cuda("all CUDA-capable devices are busy or unavailable"), "gpu_lost"),
    (ACCELERATOR, cuda("CUDA-capable device(s) is/are busy or unavailable"), "gpu_lost"),
    ("RuntimeError", cuda("no CUDA-capable device is detected"), "gpu_lost"),
    ("RuntimeError", "HIP error: no ROCm-capable device is detected", "gpu_lost"),
    ("RuntimeError", "No CUDA GPUs are available", "gpu_lost"),
    ("RuntimeError", CUDA_COUNT + "802: system not yet initialized", "gpu_lost"),
    ("RuntimeError", CUDA_COUNT + "803: system has unsupported display driver / cuda driver combination", "gpu_lost"),
    (
        "RuntimeError",
        "CUDA unknown error - this may be due to an incorrectly set up environment, e.g. changing env variable "
        "CUDA_VISIBLE_DEVICES after program start. Setting the available devices to be zero.",
        "gpu_lost",
    ),
    ("RuntimeError", "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.", "gpu_lost"),
    ("RuntimeError", "Failed to initialize NVML: Driver/library version mismatch", "gpu_lost"),
    ("RuntimeError", "NVRM: Xid 79, GPU has fallen off the bus.", "gpu_lost"),
    ("pynvml.NVMLError_GpuIsLost", "GPU is lost", "gpu_lost"),
    ("pynvml.NVMLError_Unknown", "Unknown Error", "gpu_lost"),
    ("RuntimeError", 'r.nvmlInit_v2_ INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/driver_api.cpp":38', "gpu_lost"),
    # The device's memory
    ("torch.OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has", "out_of_memory"),
    ("torch.cuda.OutOfMemoryError", "Allocation on device", "out_of_memory"),
    ("RuntimeError", "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 7.79 GiB total)", "out_of_memory"),
    ("RuntimeError", cuda("out of memory"), "out_of_memory"),
    ("RuntimeError", "cuda runtime error (2) : out of memory at THCStorage.cu:58", "out_of_memory"),
    ("RuntimeError", "HIP out of memory. Tried to allocate 1.2 GiB", "out_of_memory"),
    ("RuntimeError", "MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.1 GB)", "out_of_memory"),
    ("RuntimeError", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out_of_memory"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "out_of_memory"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "out_of_memory"),
    ("RuntimeError", "Unable to find a valid cuDNN algorithm to run convolution", "out_of_memory"),
    ("torch.distributed.DistBackendError", NCCL + "2 'out of memory'", "out_of_memory"),
    (
        "RuntimeError",
        'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1131, please report',
        "out_of_memory",
    ),
    # The machine's memory
    ("MemoryError", "", "host_out_of_memory"),
    ("numpy._core._exceptions._ArrayMemoryError", "Unable to allocate 71.1 PiB for an array", "host_out_of_memory"),
    (
        "RuntimeError",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 4000000000000000 bytes. Error code 12 (Cannot allocate memory)",
        "host_out_of_memory",
    ),
    ("RuntimeError", "[enforce fail] data. DefaultCPUAllocator: not enough memory: you tried", "host_out_of_memory"),
    ("OSError", "[Errno 12] Cannot allocate memory", "host_out_of_memory"),
    (
        "RuntimeError",
        "unable to mmap 1024 bytes from file </torch_1_2_3>: Cannot allocate memory (12)",
        "host_out_of_memory",
    ),
    ("RuntimeError", "unable to write to file </torch_13_2746_0>: No space left on device (28)", "host_out_of_memory"),
    ("RuntimeError", "std::bad_alloc", "host_out_of_memory"),
    ("RuntimeError", "bad allocation", "host_out_of_memory"),
    ("OSError", "[WinError 1455] The paging file is too small for this operation to complete", "host_out_of_memory"),
    ("RuntimeError", "DataLoader worker (pid 13106) is killed by signal: Killed. ", "host_out_of_memory"),
    ("RuntimeError", f"DataLoader worker (pid 7579) is killed by signal: Bus error. {SHM}", "host_out_of_memory"),
    # The disk
    ("OSError", "[Errno 28] No space left on device: '/runs/x/checkpoint_10.pth'", "disk_full"),
    ("OSError", "[Errno 28] Auf dem Gerät ist kein Speicherplatz mehr verfügbar", "disk_full"),
    ("OSError", "[WinError 112] There is not enough space on the disk", "disk_full"),
    ("OSError", "[Errno 122] Disk quota exceeded", "disk_full"),
    (
        "RuntimeError",
        "[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0: file write failed",
        "disk_full",
    ),
    ("RuntimeError", "[enforce fail at inline_container.cc:664] . unexpected pos 704 vs 598", "disk_full"),
    ("sqlite3.OperationalError", "database or disk is full", "disk_full"),
    # The rest
    ("RuntimeError", "DataLoader worker (pid 25902) is killed by signal: Segmentation fault. ", "segfault"),
    ("RuntimeError", "DataLoader worker (pid 25902) is killed by signal: Terminated. ", "killed"),
    ("torch.distributed.DistBackendError", WATCHDOG, "hang"),
    ("RuntimeError", "[unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete", "hang"),
    ("KeyboardInterrupt", "", "interrupted"),
    ("RuntimeError", cuda("no kernel image is available for execution on the device"), "exception"),
    ("RuntimeError", cuda("invalid device ordinal"), "exception"),
    ("RuntimeError", "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED", "exception"),
    ("RuntimeError", "mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)", "exception"),
    ("RuntimeError", "DataLoader worker (pid(s) 13106) exited unexpectedly", "exception"),
    ("KeyError", "'x'", "exception"),
    ("AssertionError", "", "exception"),
    ("FileNotFoundError", "[Errno 2] No such file or directory: 'a.wav'", "exception"),
]


def printed(type_, message, frames='  File "/x/train.py", line 3, in main\n    fit()\n'):
    return f"Traceback (most recent call last):\n{frames}{type_}{': ' if message else ''}{message}\n"


@pytest.mark.parametrize(("type_", "message", "kind"), MESSAGES)
def test_an_exception_is_judged_alike_from_the_evidence_and_from_the_output(type_, message, kind):
    output = f" > EPOCH: 0/3\n{printed(type_, message)}"
    assert kind_of(Facts(1, output=output)) == kind
    assert kind_of(Facts(1, error=Error(type_, message, output))) == kind
    assert kind_of(Facts(1, error=Error(type_, message, ""))) == kind
    assert kind_of(Facts(1, end=end("crashed", message=f"{type_}: {message}"))) == kind


def end(how, cause="", message=""):
    return End(step=5, epoch=0, how=how, cause=cause, message=message)


# Exit codes, signals and what was asked for


@pytest.mark.parametrize(
    ("facts", "kind"),
    [
        (Facts(0), "finished"),
        (Facts(0, end("finished")), "finished"),
        (Facts(0, end("stopped", "verdict")), "stopped"),
        (Facts(0, end("stopped")), "stopped"),
        (Facts(0, end("stopped", "nonfinite")), "nonfinite"),
        (Facts(0, end("stopped", "disk_full")), "disk_full"),
        (Facts(0, end("stopped", "out_of_memory")), "out_of_memory"),
        (Facts(0, output=printed("KeyError", "'handled'")), "finished"),
        (Facts(2), "refused"),
        (Facts(2, end("refused")), "refused"),
        (Facts(2, output="usage: train.py [-h]\ntrain.py: error: unrecognized arguments: --x\n"), "refused"),
        (Facts(2, output=printed("KeyError", "'handled'") + "xtts-gatekeeper: lr is 0; give more.\n"), "refused"),
        (Facts(2, output=printed("KeyError", "'x'")), "exception"),
        (Facts(2, output="xtts-gatekeeper: a warning.\n" + printed("KeyError", "'x'")), "exception"),
        (Facts(130), "interrupted"),
        (Facts(-2), "interrupted"),
        (Facts(130, end("interrupted")), "interrupted"),
        (Facts(-11, end("interrupted")), "interrupted"),
        (Facts(0xC000013A), "interrupted"),
        (Facts(-15), "terminated"),
        (Facts(143), "terminated"),
        (Facts(0, end("terminated")), "terminated"),
        (Facts(-9, end("terminated")), "terminated"),
        (Facts(0x40010004), "terminated"),
        (Facts(1), "exit"),
        (Facts(7, output="bye\n"), "exit"),
        (Facts(127, output="python: command not found\n"), "exit"),
        (Facts(0xFFFFFFFF), "exit"),
        (Facts(0xC0000005), "segfault"),
        (Facts(-1073741819), "segfault"),
        (Facts(0xC0000409), "segfault"),
        (Facts(0xC0000374), "segfault"),
        (Facts(0xC000001D), "segfault"),
        (Facts(0xC00000FD), "segfault"),
        (Facts(0x80000003), "segfault"),
        (Facts(0xC0000017), "host_out_of_memory"),
        (Facts(1, error=Error("RuntimeError", "DataLoader worker (pid(s) 7) exited unexpectedly", ""), oom_killed=True),
         "host_out_of_memory"),
        (Facts(1, error=Error("KeyError", "'x'", ""), oom_killed=True), "exception"),
    ],
)  # fmt: skip
def test_exit_codes(facts, kind):
    assert kind_of(facts) == kind


@posix
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("SIGKILL", "killed"),
        ("SIGSEGV", "segfault"),
        ("SIGBUS", "segfault"),
        ("SIGILL", "segfault"),
        ("SIGFPE", "segfault"),
        ("SIGABRT", "segfault"),
        ("SIGINT", "interrupted"),
        ("SIGTERM", "terminated"),
    ],
)
def test_a_signal_is_the_same_told_by_the_system_or_by_a_shell(name, kind):
    number = getattr(signal, name)
    assert kind_of(Facts(-number)) == kind_of(Facts(128 + number)) == kind
    assert name in describe(kind, Facts(-number))


@posix
def test_another_signal_killed_it_and_an_exit_code_that_looks_like_one_did_not():
    assert kind_of(Facts(-signal.SIGHUP)) == kind_of(Facts(-signal.SIGUSR1)) == "killed"
    assert kind_of(Facts(128 + signal.SIGHUP)) == "exit"


@posix
@pytest.mark.parametrize("code", [-9, 137])
def test_a_kill_is_want_of_memory_where_the_systems_counter_says_so(code):
    assert kind_of(Facts(code, oom_killed=True)) == "host_out_of_memory"
    assert kind_of(Facts(-11, oom_killed=True)) == "segfault"


@pytest.mark.parametrize("code", [0, 1, -9, -11, -6, 143, 0xC0000005])
@pytest.mark.parametrize("ended", [None, end("stopped", "nonfinite"), end("crashed"), end("terminated")])
def test_what_was_asked_for_comes_before_all_and_a_hang_before_the_rest(code, ended):
    error = Error("torch.OutOfMemoryError", "CUDA out of memory", "")
    known = {"end": ended, "error": error, "oom_killed": True}
    assert kind_of(Facts(code, asked=int(signal.SIGINT), hung=True, **known)) == "interrupted"
    assert kind_of(Facts(code, asked=int(signal.SIGTERM), hung=True, **known)) == "terminated"
    assert kind_of(Facts(code, hung=True, **known)) == "hang"


def test_a_training_that_was_done_when_it_was_asked_is_finished():
    assert kind_of(Facts(0, end("finished"), asked=int(signal.SIGTERM))) == "finished"
    assert kind_of(Facts(0, asked=int(signal.SIGTERM))) == "terminated"


# Crashes below Python

FRAMES = "".join(
    f"frame #{n}: c10::cuda::raw_delete(void*) + 0x1070 (0x7f00 in /site-packages/torch/lib/c10.so)\n"
    for n in range(99)
)
THREADS = "Fatal Python error: Aborted\n\n" + "".join(
    f'Thread 0x00007f{n:08x} (most recent call first):\n  File "/usr/lib/python3.11/threading.py", line 324 in wait\n\n'
    for n in range(99)
)  # fmt: skip


def thrown(type_, what):
    said = f"terminate called after throwing an instance of '{type_}'\n  what():  {what}\n"
    return f"{said}Exception raised from create at CUDAEvent.h:166 (most recent call first):\n{FRAMES}\n{THREADS}"


@posix
@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (thrown("c10::Error", cuda("an illegal memory access was encountered")), "gpu_fault"),
        (thrown("c10::AcceleratorError", cuda("device-side assert triggered")), "gpu_assert"),
        (thrown("c10::CUDAError", cuda("uncorrectable ECC error encountered")), "gpu_lost"),
        (thrown("c10::DistBackendError", WATCHDOG), "hang"),
        (thrown("std::bad_alloc", "std::bad_alloc"), "host_out_of_memory"),
        (thrown("c10::Error", cuda("driver shutting down")), "segfault"),
        (thrown("std::runtime_error", "no idea"), "segfault"),
        ("libc++abi: terminating due to uncaught exception of type std::bad_alloc: x", "host_out_of_memory"),
        ("memory allocation of 8589934592 bytes failed\n", "host_out_of_memory"),
        ("Memory access fault by GPU node-1 (Agent handle: 0x56) on address 0x7f. Reason: Page not", "gpu_fault"),
        ("HW Exception by GPU node-1 (Agent handle: 0x5899c75e9d60) reason :GPU Hang\n" + THREADS, "gpu_fault"),
        (":0:rocdevice.cpp:3586: Callback: Queue 0x7f aborting with error : HSA_STATUS_ERROR_EXCEPTION", "gpu_fault"),
        ("-[IOGPUMetalCommandBuffer validate]:200: failed assertion `commit an already committed'", "gpu_fault"),
        ("free(): invalid pointer\n", "segfault"),
        ("terminate called without an active exception\n", "segfault"),
        # Said, but not of this crash
        ("UserWarning: CUDA out of memory was seen, trying a smaller one\nfree(): invalid pointer\n", "segfault"),
        (thrown("std::bad_alloc", "std::bad_alloc") + "a step\n" * 1000 + "free(): invalid pointer\n", "segfault"),
        (printed("MemoryError", "") + "a step\n" * 1000, "segfault"),
        (printed("KeyError", "'handled'"), "segfault"),
        (printed("RuntimeError", cuda("misaligned address")), "gpu_fault"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("code", [-6, 134])
def test_an_abort_is_what_was_said_just_before(output, kind, code):
    assert kind_of(Facts(code, output=" > a step\n" * 500 + output)) == kind


@posix
def test_a_segfault_is_not_explained_by_what_only_an_abort_says():
    assert kind_of(Facts(-11, output=thrown("std::bad_alloc", "std::bad_alloc"))) == "segfault"
    assert kind_of(Facts(0xC0000409, output=thrown("std::bad_alloc", "std::bad_alloc"))) == "host_out_of_memory"


@posix
def test_a_process_that_crashes_while_it_is_taken_down_died_of_its_exception():
    error = Error("KeyError", "'x'", "")
    assert kind_of(Facts(-11, end("crashed"), error)) == "exception"
    assert kind_of(Facts(-11, end("crashed", message="RuntimeError: CUDA error: misaligned address"))) == "gpu_fault"
    assert kind_of(Facts(-11, end("crashed"))) == "segfault"
    assert kind_of(Facts(-11, end("finished"), error)) == "finished"
    assert kind_of(Facts(-11, None, error)) == "segfault"


# Words that stand in the output and mean nothing


def test_words_in_the_output_count_only_in_the_last_traceback():
    noise = "UserWarning: CUDA out of memory, No space left on device, an illegal memory access was encountered\n"
    assert kind_of(Facts(1, output=noise + printed("KeyError", "'x'"))) == "exception"
    assert kind_of(Facts(1, output=printed("MemoryError", "") + "a step\n" + printed("KeyError", "'x'"))) == "exception"
    assert kind_of(Facts(1, output=noise)) == "exit"


def test_a_cause_in_the_same_chain_counts_and_the_last_exception_before_it():
    killed = printed("RuntimeError", "DataLoader worker (pid 7) is killed by signal: Killed. ")
    direct = "\nThe above exception was the direct cause of the following exception:\n\n"
    exited = printed("RuntimeError", "DataLoader worker (pid(s) 7) exited unexpectedly")
    chained = Facts(1, output=killed + direct + exited)
    assert kind_of(chained) == "host_out_of_memory"
    assert "killed by signal: Killed." in describe("host_out_of_memory", chained)
    assert kind_of(Facts(1, output=killed + "\n" + exited)) == "exception"
    full = printed("OSError", "[Errno 28] No space left on device")
    assert kind_of(Facts(1, output=full + direct + printed("MemoryError", ""))) == "host_out_of_memory"
    interrupted = printed("KeyboardInterrupt", "")
    assert kind_of(Facts(1, output=interrupted + direct + printed("ValueError", "x"))) == "exception"


# Tracebacks


def of(output):
    """Type, message and place of the last traceback."""
    found = last_traceback(output)
    return found and (found.type, found.message, found.where)


AT = "train.py:3 in main"
X = ("KeyError", "'x'", AT)
KEY_ERROR = printed(*X[:2])


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ("", None),
        ("Epoch 1\nno traceback\n", None),
        ("Traceback (most recent call last):\n", None),
        ('Traceback (most recent call last):\n  File "/x/train.py", line 3, in main\n', None),
        (KEY_ERROR, X),
        (KEY_ERROR.rstrip("\n"), X),
        (printed("ValueError", "first") + KEY_ERROR, X),
        (KEY_ERROR.replace("\n", "\r\n"), X),
        ("\x1b[1m\x1b[31m" + KEY_ERROR.replace("KeyError", "\x1b[1;35mKeyError\x1b[0m"), X),
        ("\x1b]0;title\x07" + KEY_ERROR, X),
        ("\r  0%|   | 0/33 [00:00<?, ?it/s]\r 33%|███  | 1/3 [00:00<00:00, 9.1it/s]" + KEY_ERROR, X),
        (KEY_ERROR + "\r 33%|███  | 1/3 [00:00<00:00, 9.1it/s]\n", X),
        ("".join(f"[rank1]: {line}\n" for line in KEY_ERROR.splitlines()), X),
        (KEY_ERROR + " > gatekeeper: finishing the copy\n", X),
        (KEY_ERROR + "\nwandb: done\n", X),
        (printed("AssertionError", ""), ("AssertionError", "", AT)),
        (printed("a.b.MyError", "one\n  two\nthree") + "\nfour\n", ("a.b.MyError", "one\n  two\nthree", AT)),
        (printed("RuntimeError", "\n\n  An attempt has been made"), ("RuntimeError", "An attempt has been made", AT)),
        (printed("RuntimeError", cuda("unknown error")), ("RuntimeError", cuda("unknown error").strip(), AT)),
        (printed("t.f.<locals>.E", "x"), ("t.f.<locals>.E", "x", AT)),
        (printed("ValueError", "x", '  File "C:\\a b\\t.py", line 7, in f\n'), ("ValueError", "x", "t.py:7 in f")),
        # Not what ended the process
        (KEY_ERROR + "Exception ignored in: <function A.__del__ at 0x7f>\n" + printed("OSError", "x"), X),
        (KEY_ERROR + "Exception ignored in atexit callback: <function z at 0x7f>\n" + printed("OSError", "x"), X),
        (KEY_ERROR + "Exception in thread Thread-1 (g):\n" + printed("OSError", "x"), X),
        ("Exception in thread Thread-1 (g):\n" + printed("OSError", "x"), None),
        # Not whole
        ("kages/a.py\", line 1, in f\n    g()\n" + KEY_ERROR.partition("\n")[2], X),
        ('UserWarning: Traceback of forward call:\n  File "/x/t.py", line 3, in f\n (Triggered internally)\n', None),
    ],
)  # fmt: skip
def test_the_last_traceback_of_an_output(output, found):
    assert of(output) == found


CHAIN = """\
import sys
def inner():
    raise KeyError("x")
try:
    inner()
except KeyError as error:
    raise RuntimeError("outer\\nsecond line") from error
"""
CONTEXT = """\
try:
    1 / 0
except ZeroDivisionError:
    open("/no/such/file")
"""
GROUP = """\
def inner(n):
    raise KeyError(n)
found = []
for n in "ab":
    try:
        inner(n)
    except KeyError as error:
        found.append(error)
raise ExceptionGroup("several", [*found, OSError("no frames")])
"""
RECURSION = "def f():\n    f()\nf()\n"


@pytest.mark.parametrize(
    ("source", "found", "causes"),
    [
        (CHAIN, ("RuntimeError", "outer\nsecond line", "t.py:7 in <module>"), {"KeyError"}),
        (CONTEXT, ("FileNotFoundError", "[Errno 2] No such file or directory: '/no/such/file'", "t.py:4 in <module>"),
         {"ZeroDivisionError"}),
        (RECURSION, ("RecursionError", "maximum recursion depth exceeded", "t.py:2 in f"), set()),
        ("x = = 1", ("SyntaxError", "invalid syntax", "t.py:1"), set()),
        pytest.param(GROUP, ("ExceptionGroup", "several (3 sub-exceptions)", "t.py:9 in <module>"), {"KeyError"},
                     marks=pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")),
    ],
)  # fmt: skip
def test_what_python_itself_prints(source, found, causes):
    try:
        exec(compile(source, "/work/t.py", "exec"), {})
    except Exception as error:
        text = "".join(traceback.format_exception(error))
    assert of(text) == found
    last = last_traceback("noise\n" + text + "more\n\nnoise\n")
    assert {cause.type for cause in last.causes()} == causes | {found[0]}
    assert last.traceback.startswith(text.splitlines()[0].strip(" +"))


def test_a_script_that_is_no_python_has_no_header():
    text = '  File "/x/train.py", line 1\n    x = = 1\n        ^\nSyntaxError: invalid syntax\n'
    assert of(text) == ("SyntaxError", "invalid syntax", "train.py:1")
    assert kind_of(Facts(1, output=text)) == "exception"


def test_a_fault_handlers_dump_is_no_traceback():
    text = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x00 (most recent call first):\n"
    text += '  File "/t.py", line 9 in f\n'
    assert of(text + "\nExtension modules: numpy (total: 1)\n") is None
    assert kind_of(Facts(-11, output=text)) == "segfault"


@given(st.text(max_size=300), st.sampled_from([0, 1, 2, -6, -9, -11, 134, 0xC0000005]))
def test_no_output_whatever_makes_it_fail(noise, code):
    facts = Facts(code, output=noise + KEY_ERROR.replace("\n", "\r\n") + noise)
    assert describe(kind_of(facts), facts).endswith(".")
    assert len(describe(kind_of(facts), facts)) < 310


# Signatures


def in_worker(dataset_line, number):
    """A worker's exception as the main process raises it again."""
    frames = f'  File "/site/fetch.py", line 52, in fetch\n  File "/x/dataset.py", line {dataset_line}, in load\n'
    return f"Caught KeyError in DataLoader worker process {number}.\nOriginal {printed('KeyError', repr('x'), frames)}"


def test_a_workers_exception_is_the_workers_from_the_evidence_and_from_the_output():
    message = in_worker(12, 0)
    evidence = Error("KeyError", message, printed("KeyError", message), "_utils.py:769 in reraise")
    shown = last_traceback(printed("KeyError", message))
    assert (shown.type, shown.message, shown.where) == ("KeyError", "'x'", "dataset.py:12 in load")
    assert shown.traceback.startswith("Traceback") and "Caught KeyError" in shown.traceback
    assert evidence.signature == shown.signature == "KeyError dataset.py:12 in load 'x'"
    assert Error("KeyError", in_worker(12, 3), "").signature == shown.signature
    assert Error("KeyError", in_worker(13, 0), "").signature != shown.signature


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<T object at 0x7fe754e18e00> is bad", "<T object at 0x7f0000000010> is bad"),
        ("shape [3, 80, 117] at step 100", "shape [4, 80, 2] at step 7"),
        ("got -1.5e-05", "got -3e-12"),
        ("no file '/tmp/tmpab3x9/clip_1.wav'", "no file '/tmp/tmpzzzzz/other.wav'"),
        ("no file C:\\Temp\\a1b\\x.wav", "no file D:\\Users\\y.wav"),
        ("key 3f2a9c81d0 is gone", "key aa00bb11cc is gone"),
        ("bad clip\nclip_1", "bad clip\nclip_2"),
        ("out of range" + "!" * 500, "out of range" + "!" * 600),
    ],
)
def test_the_same_bug_has_the_same_signature(one, other):
    assert (
        Error("ValueError", one, "t", "a.py:1 in f").signature
        == Error("ValueError", other, "u", "a.py:1 in f").signature
    )


def test_another_bug_has_another_one_and_all_are_short():
    bug = Error("ValueError", "no file '/a/b.wav'", "", "a.py:1 in f")
    others = [
        Error("OSError", bug.message, "", bug.where),
        Error("ValueError", bug.message, "", "a.py:2 in f"),
        Error("ValueError", "no file '/a/b.pth'", "", bug.where),
        Error("ValueError", "", "", bug.where),
    ]
    assert bug.signature not in [other.signature for other in others]
    assert bug.signature == "ValueError a.py:1 in f no file '*.wav'"
    assert others[3].signature == "ValueError a.py:1 in f"
    assert Error("__main__.MyError", "x", "").signature == Error("MyError", "x", "").signature
    assert len(Error("ValueError", "word " * 999, "", "a.py:1 in f").signature) < 150


# The sentence


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (Facts(0), "The training has finished."),
        (Facts(0, end("stopped", "verdict", "mel rises.")), "The training has stopped by itself: mel rises."),
        (Facts(2, end("refused", message="lr is 0; give more.")), "The command was refused: lr is 0; give more."),
        (Facts(2, output="usage: t.py\nt.py: error: no --x\n"), "The command was refused: no --x."),
        (Facts(2), "The command was refused."),
        (Facts(0, asked=int(signal.SIGINT)), "The training was interrupted: SIGINT."),
        (Facts(1, hung=True), "The training hung: no step came in time."),
        (Facts(7), "The process ended without saying why: exit code 7."),
        (Facts(-1073741819), "The process crashed in native code: exit code 0xC0000005."),
        (Facts(1, output=KEY_ERROR), "A Python exception ended the process: KeyError: 'x' (train.py:3 in main)."),
        (Facts(1, error=Error("MemoryError", "", "")), "The machine ran out of memory: MemoryError."),
        (Facts(1, error=Error("RuntimeError", cuda("misaligned address"), "", AT)),
         "The GPU reported a fault: RuntimeError: CUDA error: misaligned address (train.py:3 in main)."),
    ],
)  # fmt: skip
def test_the_sentence_says_what_happened(facts, sentence):
    assert describe(kind_of(facts), facts) == sentence


@posix
def test_the_sentence_of_an_abort_has_its_reason():
    facts = Facts(-6, output=thrown("c10::Error", cuda("misaligned address")))
    assert describe(kind_of(facts), facts) == "The GPU reported a fault: SIGABRT, CUDA error: misaligned address."
    facts = Facts(-6, output="HW Exception by GPU node-1 reason :GPU Hang\nFatal Python error: Aborted\n")
    assert describe(kind_of(facts), facts).endswith("SIGABRT, HW Exception by GPU node-1 reason :GPU Hang.")


# Processes that really die


@posix
@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed", "SIGKILL"),
        ("import faulthandler, os; faulthandler.enable(); os.abort()", "segfault", "SIGABRT"),
        ("import signal; signal.raise_signal(signal.SIGSEGV)", "segfault", "SIGSEGV"),
        ("import signal; signal.raise_signal(signal.SIGTERM)", "terminated", "SIGTERM"),
        ("import sys; sys.exit(3)", "exit", "exit code 3"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--x'])", "refused", "unrecognized arguments: --x"),
        ("raise SystemExit('a sentence')", "exit", "exit code 1"),
        ("{}['x']", "exception", "KeyError: 'x'"),
        ("bytearray(1 << 62)", "host_out_of_memory", "MemoryError"),
        ("import errno, os; raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))", "disk_full", "[Errno 28]"),
        ("x = = 1", "exception", "SyntaxError: invalid syntax"),
    ],
)
def test_a_process_that_dies(code, kind, said):
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    facts = Facts(done.returncode, output=done.stdout)
    assert kind_of(facts) == kind
    assert said in describe(kind, facts)
