"""`xtts-gatekeeper run` around commands that train nothing: what goes through, what is decided, who is told to go."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import psutil
import pytest
from disks import small_disk  # noqa: F401
from filelock import FileLock

from xtts_gatekeeper import read_run
from xtts_gatekeeper import supervisor as module
from xtts_gatekeeper.crashes.decide import Limits
from xtts_gatekeeper.crashes.evidence import read_evidence
from xtts_gatekeeper.crashes.restart import VARIABLE
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal, journal_path
from xtts_gatekeeper.record.events import BatchParts, Crash
from xtts_gatekeeper.report.table import state
from xtts_gatekeeper.supervisor import Supervisor

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

#: What the children begin with: a run that they can say they train.
BEGIN = """
import os, signal, sys, time
from pathlib import Path
from records import ended, saved, start, write_run
from xtts_gatekeeper.crashes.flight import FlightRecorder
from xtts_gatekeeper.crashes.restart import Restart

def trains(run, *events, newest=None):
    write_run(Path(run), *events)
    Restart.asked().report(Path(run), newest)
"""

#: Says which signals it gets, and how many, when it is sent a line.
COUNTS = """
import signal, sys
seen = []
def take(number, frame):
    seen.append(number)
    print("got", signal.Signals(number).name, flush=True)
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, take)
print("ready", flush=True)
sys.stdin.readline()
print(len(seen), flush=True)
"""


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """Where the supervisor keeps what has no run yet."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    return folder


@pytest.fixture
def supervise(scratch):
    """Run Python code under a `Supervisor` in this process; gives it and its exit code."""

    def run(code, *arguments, restarts=0, **limits):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        supervisor = Supervisor(command, Limits(restarts=restarts, **{"backoff": 0.0, **limits}), disk_wait=0.0)
        return supervisor, supervisor.run()

    return run


@pytest.fixture
def started(scratch):
    """Start `xtts-gatekeeper run` around a command, or Python code; what still runs in the end is killed."""
    running = []

    def end(process):
        for one in (*psutil.Process(process.pid).children(recursive=True), process):
            one.kill()

    def begin(command, *flags, preexec=lambda: None, **options):
        def fresh():
            # A shell starts background jobs, CI among them, with Ctrl-C switched off, and children inherit that.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and under nohup that is
            preexec()

        command = [sys.executable, "-c", command] if isinstance(command, str) else command
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        run = [sys.executable, "-m", "xtts_gatekeeper", "run", "--max-restarts", "0", *flags, "--", *map(str, command)]
        process = subprocess.Popen(run, preexec_fn=fresh, start_new_session=True, **pipes)
        alarm = threading.Timer(60, end, (process,))  # a line that never comes is waited for without a limit
        alarm.start()
        running.append((process, alarm))
        return process

    yield begin
    for process, alarm in running:
        alarm.cancel()
        if process.poll() is None:
            end(process)
        process.communicate(timeout=60)


def says(process):
    """The next line of its stdout."""
    return process.stdout.readline().decode().strip()


def waits_for(stream, text):
    """Read lines until one has the text."""
    for line in stream:
        if text in line.decode():
            return
    raise AssertionError(f"{text!r} never came")


def leaves(process, told=b"\n"):
    """Let it go on and end: exit code, rest of its stdout, rest of its stderr."""
    out, err = process.communicate(told, timeout=60)
    return process.returncode, out.decode() if out else "", err.decode() if err else ""


def kept_in(said):
    """The file that the supervisor names as the one with the output."""
    return Path(re.search(r"its output is kept in (.+)\n", said)[1])


# Exit codes


@pytest.mark.parametrize(
    ("code", "exit_code", "said"),
    [
        ("pass", 0, ""),
        ("sys.exit(2)", 2, "The command was refused."),
        ("sys.exit(3)", 1, "ended without saying why: exit code 3."),
        ("sys.exit(130)", 130, "The training was interrupted: SIGINT."),
        ("sys.exit(143)", 143, "The training was asked to end: SIGTERM."),
        ("raise KeyError('x')", 1, "A Python exception ended the process: KeyError: 'x' (<string>:1 in <module>)."),
        pytest.param("os.kill(os.getpid(), signal.SIGINT)", 130, "interrupted: SIGINT", marks=posix),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", 143, "asked to end: SIGTERM", marks=posix),
        pytest.param("os.kill(os.getpid(), signal.SIGKILL)", 1, "The process was killed: SIGKILL.", marks=posix),
        pytest.param("os.abort()", 1, "crashed in native code: SIGABRT", marks=posix),
    ],
)
def test_an_exit_code_is_passed_on_or_decided(supervise, capfd, code, exit_code, said):
    usual = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # a background job of CI ignores it
    assert supervise(f"import os, signal, sys; {usual}; {code}")[1] == exit_code
    told = capfd.readouterr().err
    assert said in told
    assert ("gatekeeper run:" in told) == (exit_code != 0)


def test_a_program_that_there_is_not_is_one_sentence(started, scratch):
    code, out, err = leaves(started(["no-such-program", "--flag"]))
    assert (code, out) == (2, "")
    assert err == "xtts-gatekeeper: no-such-program cannot be started: No such file or directory.\n"
    assert list(scratch.iterdir()) == []


def test_a_file_that_is_no_program_is_one_sentence(supervise, tmp_path, scratch):
    text = tmp_path / "notes.txt"
    text.write_text("no program")
    with pytest.raises(UserError, match=r"notes\.txt cannot be started"):
        Supervisor([str(text)], Limits(), 0).run()
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--backoff", "inf"], "--backoff and --disk-wait are numbers"),
        (["--max-restarts", "-1"], "-1 is not in the range"),
    ],
)
def test_a_wrong_flag_is_one_sentence(started, flags, said):
    code, _, err = leaves(started(["true"], *flags))
    assert code == 2
    assert said in err and err.count("\n") == 1


@pytest.mark.parametrize("text", ["{", "7", "[]", "{}", '{"scratch": "s", "other": 1}', "\\udc00"])
def test_a_restart_that_is_not_ours_is_one_sentence(text, monkeypatch, capsys):
    from types import SimpleNamespace

    from xtts_gatekeeper import gatekeep
    from xtts_gatekeeper.config import GatekeeperConfig

    monkeypatch.setenv(VARIABLE, text)
    monkeypatch.setattr(sys, "argv", ["recipe.py"])
    with pytest.raises(SystemExit) as left:
        gatekeep(SimpleNamespace(output_path="out", gatekeeper=GatekeeperConfig()))
    assert left.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"xtts-gatekeeper: {VARIABLE} is set to {text!r}, which is not ours; unset it.")
    assert told.count("\n") == 1


# Output

BYTES = {
    "binary": bytes(range(256)) * 3,
    "a progress bar": b"\r 10%\r 50%\x1b[0m\r100%\r\n",
    "no newline": b"half a line",
    "text": "grüße – ü\n".encode(),
    "nothing": b"",
}


@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES)
@pytest.mark.parametrize("to", ["pipes", "files"])
def test_bytes_go_through_unchanged_on_both_streams(started, tmp_path, content, to):
    code = f"import os; os.write(1, {content!r}); os.write(2, {content[::-1]!r})"
    if to == "pipes":
        out, err = started(code).communicate(timeout=60)
    else:
        with (tmp_path / "out").open("wb") as out_file, (tmp_path / "err").open("wb") as err_file:
            started(code, stdout=out_file, stderr=err_file).communicate(timeout=60)
        out, err = (tmp_path / "out").read_bytes(), (tmp_path / "err").read_bytes()
    assert (out, err) == (content, content[::-1])


def test_a_megabyte_on_both_streams_at_once_goes_through(started):
    size = 1 << 20
    code = (
        "import os, threading\n"
        "def write(fd, byte):\n"
        "    for _ in range(1 << 10): os.write(fd, byte * 1024)\n"
        "threading.Thread(target=write, args=(1, b'o')).start(); write(2, b'e')"
    )
    out, err = started(code).communicate(timeout=60)
    assert (out, err) == (b"o" * size, b"e" * size)


def test_lines_come_as_they_are_printed(started):
    process = started("print('asked'); input(); print('answered')")
    assert says(process) == "asked"
    assert leaves(process, b"yes\n")[:2] == (0, "answered\n")


@pytest.mark.parametrize("size", [5, 100_000, 3_000_000])
def test_a_reader_that_has_gone_ends_nothing(started, size):
    read, write = os.pipe()
    os.close(read)
    try:
        process = started(f"import sys; print('x' * {size}); print('to the end', file=sys.stderr)", stdout=write)
    finally:
        os.close(write)
    assert leaves(process) == (0, "", "to the end\n")


@posix
def test_what_was_printed_right_before_a_kill_is_not_lost(supervise, capfdbinary):
    code = "import os; print('last', end=' '); print('words', end=''); os.kill(os.getpid(), 9)"
    supervise(code)
    assert capfdbinary.readouterr().out == b"last words"


def test_the_output_of_a_command_without_a_run_is_kept_in_a_file_that_is_named(supervise, scratch, capfd):
    supervise("import os, sys; os.write(1, b'said\\n'); os.write(2, b'asked\\n'); sys.exit(7)")
    path = kept_in(capfd.readouterr().err)
    assert path.is_relative_to(scratch)
    text = path.read_text()
    assert sorted(text.split(" > gatekeeper run:")[0].split()) == ["asked", "said"]
    assert "exit code 7" in text


def test_of_a_command_that_went_well_nothing_is_kept(supervise, scratch):
    supervise("print('said')")
    assert list(scratch.iterdir()) == []


def test_the_output_of_a_run_is_kept_in_its_folder(supervise, scratch, tmp_path, capfd):
    code = BEGIN + "print('before', flush=True); trains(sys.argv[1], start()); print('after', flush=True); os._exit(7)"
    supervise(code, tmp_path / "run")
    (kept,) = (tmp_path / "run/gatekeeper/output").iterdir()
    assert kept.read_text().startswith("before\nafter\n > gatekeeper run: The process ended")
    assert list(scratch.iterdir()) == []
    assert "its output is kept" not in capfd.readouterr().err


def test_a_run_folder_that_is_gone_is_not_made_anew_and_the_output_is_kept_elsewhere(supervise, tmp_path, capfd):
    code = BEGIN + "import shutil; trains(sys.argv[1]); shutil.rmtree(sys.argv[1], True); print('x'); os._exit(2)"
    assert supervise(code, tmp_path / "run")[1] == 2
    assert not (tmp_path / "run").exists()
    assert kept_in(capfd.readouterr().err).read_text().startswith("x\n")


# Restarts


def times(path):
    return len(path.read_text().splitlines())


@pytest.mark.parametrize(("restarts", "words"), [(0, "not started again"), (1, "1 restart in"), (2, "2 restarts in")])
def test_so_many_restarts_without_progress_and_no_more(supervise, tmp_path, capfd, restarts, words):
    code = "import sys; print('begun', file=open(sys.argv[1], 'a')); sys.exit(7)"
    supervisor, exit_code = supervise(code, tmp_path / "begun", restarts=restarts)
    assert (exit_code, times(tmp_path / "begun")) == (1, 1 + restarts)
    assert [crash.decision for crash in supervisor.crashes] == ["restart"] * restarts + ["stop"]
    assert words in capfd.readouterr().err


def test_the_flags_say_how_often(started, tmp_path):
    code = f"import sys; print('begun', file=open({str(tmp_path / 'begun')!r}, 'a')); sys.exit(7)"
    assert leaves(started(code, "--max-restarts", "2", "--backoff", "0"))[0] == 1
    assert times(tmp_path / "begun") == 3


def test_the_same_exception_twice_in_a_row_is_a_bug(supervise, tmp_path, capfd):
    code = "import sys; print('begun', file=open(sys.argv[1], 'a')); raise KeyError('planted')"
    assert supervise(code, tmp_path / "begun", restarts=5)[1] == 1
    assert times(tmp_path / "begun") == 2
    told = capfd.readouterr().err
    assert "that is a bug, which no restart cures. Its traceback is in what it printed." in told


def test_a_command_that_comes_round_is_a_success(supervise, tmp_path):
    code = (
        "import sys; f = open(sys.argv[1], 'a+'); print('begun', file=f, flush=True); f.seek(0); "
        "sys.exit(7 if len(f.readlines()) < 3 else 0)"
    )
    supervisor, exit_code = supervise(code, tmp_path / "begun", restarts=2)
    assert exit_code == 0
    assert [crash.kind for crash in supervisor.crashes] == ["exit", "exit", "finished"]


def test_restarts_after_progress_are_not_counted_and_each_goes_on_with_the_run(supervise, tmp_path):
    """Every process leaves a newer checkpoint than it began with, and then dies."""
    code = BEGIN + (
        "run = (Restart.asked().runs or (None,))[-1] or str()\n"
        "print('begun', run, file=open(sys.argv[2], 'a'))\n"
        "done = len(open(sys.argv[2]).readlines())\n"
        "trains(sys.argv[1], start(10 * done), newest=10 * (done - 1) or None)\n"
        "write_run(Path(sys.argv[1]), saved(10 * done, resumable=True), *([ended(50)] if done == 5 else []))\n"
        "os._exit(0 if done == 5 else 7)\n"
    )
    supervisor, exit_code = supervise(code, tmp_path / "run", tmp_path / "begun", restarts=1)
    assert exit_code == 0
    run = str((tmp_path / "run").resolve())
    assert (tmp_path / "begun").read_text().splitlines() == ["begun "] + [f"begun {run}"] * 4
    recorded = [e for e in Journal(journal_path(tmp_path / "run")).events if isinstance(e, Crash)]
    assert recorded == supervisor.crashes[:-1]
    assert [(crash.kind, crash.progress, crash.decision) for crash in recorded] == [("exit", True, "restart")] * 4
    assert all((tmp_path / "run" / crash.evidence).is_file() for crash in recorded)


# A full disk

FULL = (
    BEGIN
    + "trains(sys.argv[1], start()); print('begun', file=open(sys.argv[2], 'a')); raise OSError(28, 'No space left')"
)


@pytest.mark.parametrize("room", [True, False])
def test_room_on_a_full_disk_is_waited_for(supervise, small_disk, tmp_path, monkeypatch, capfd, room):  # noqa: F811
    """64 MB are left free for the system: a disk of 8 never has room."""
    if room:
        monkeypatch.setattr(module, "RESERVE_BYTES", 1 << 20)
    assert supervise(FULL, small_disk / "run", tmp_path / "begun", restarts=2)[1] == 1
    assert times(tmp_path / "begun") == (3 if room else 1)
    assert ("The disk is still full: free some" in capfd.readouterr().err) != room


def test_as_soon_as_there_is_room_it_goes_on(scratch, small_disk, tmp_path, monkeypatch, capfd):  # noqa: F811
    monkeypatch.setattr(module, "RESERVE_BYTES", 2 << 20)
    (small_disk / "ballast").write_bytes(bytes(7 << 20))
    stock = Supervisor._asked_within

    def makes_room(self, seconds):
        (small_disk / "ballast").unlink(missing_ok=True)
        return stock(self, seconds)

    monkeypatch.setattr(Supervisor, "_asked_within", makes_room)
    command = [sys.executable, "-c", FULL, str(small_disk / "run"), str(tmp_path / "begun")]
    Supervisor(command, Limits(restarts=1, backoff=0.0), disk_wait=600.0).run()
    assert times(tmp_path / "begun") == 2
    assert "waiting up to 10 minutes for room on the disk: 0.00 GB are needed" in capfd.readouterr().err


@posix
def test_who_waits_for_room_can_be_told_to_leave(started, small_disk, tmp_path):  # noqa: F811
    command = [sys.executable, "-c", FULL, small_disk / "run", tmp_path / "begun"]
    process = started(command, "--max-restarts", "3", "--disk-wait", "60")
    waits_for(process.stderr, "waiting up to 60 minutes for room on the disk")
    process.send_signal(signal.SIGTERM)
    assert leaves(process)[0] == 143
    assert times(tmp_path / "begun") == 1


# Clips


@posix
@pytest.mark.parametrize("checkpoint", [True, False])
def test_suspected_clips_are_listed_for_the_next_process(supervise, tmp_path, capfd, checkpoint):
    """In the run's own list, where it has a checkpoint; else the run that begins anew is given them."""
    events = ", saved(2, resumable=True)" if checkpoint else ""
    code = BEGIN + (
        f"trains(sys.argv[1], start(){events}, newest=2 if Restart.asked().runs else None)\n"
        "print('without', *Restart.asked().exclude, flush=True)\n"
        "FlightRecorder(Path(sys.argv[1])).write('training', 5, 1, 3, ['a.wav', 'b.wav'])\n"
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    supervisor, exit_code = supervise(code, tmp_path / "run", restarts=2, exclude=True)
    listed = tmp_path / "run/gatekeeper/exclude.txt"
    assert exit_code == 1
    assert [crash.decision for crash in supervisor.crashes] == ["restart", "restart", "stop"]
    said = capfd.readouterr()
    assert "a clip of its batch is suspected: a.wav, b.wav." in said.err
    if checkpoint:
        assert listed.read_text().splitlines() == ["a.wav", "b.wav"]
        assert said.out.splitlines() == ["without", "without", "without"]
    else:
        assert not listed.exists()
        assert said.out.splitlines() == ["without", "without", "without a.wav b.wav"]


@posix
def test_a_single_clip_for_which_there_is_no_memory_ends_it(supervise, tmp_path, capfd):
    code = BEGIN + (
        "first = not Restart.asked().runs\n"
        "state = [saved(2, resumable=True)] if first else []\n"
        "trains(sys.argv[1], start(batch_size=2), *state, newest=None if first else 2)\n"
        "FlightRecorder(Path(sys.argv[1])).write('training', 5, 1, 3, ['a.wav', 'b.wav'])\n"
        "raise MemoryError('CUDA out of memory. Tried to allocate 2.00 GiB.')\n"
    )
    supervisor, exit_code = supervise(code, tmp_path / "run", restarts=9)
    assert exit_code == 1
    assert [crash.kind for crash in supervisor.crashes] == ["out_of_memory"] * 2
    events = Journal(journal_path(tmp_path / "run")).events
    assert [event.batch_size for event in events if isinstance(event, BatchParts)] == [1]
    assert "The device runs out of memory with a single clip: use shorter ones" in capfd.readouterr().err


# Signals


@posix
@pytest.mark.parametrize(
    ("sent", "name", "exit_code"),
    [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "SIGINT", 130), (signal.SIGHUP, "SIGTERM", 143)],
)
@pytest.mark.parametrize("to", ["it", "its group"])
def test_a_signal_reaches_the_command_once_and_decides_the_exit_code(started, sent, name, exit_code, to):
    """A terminal sends Ctrl-C to the whole group."""
    process = started(COUNTS, "--max-restarts", "3")
    assert says(process) == "ready"
    (os.kill if to == "it" else os.killpg)(process.pid, sent)
    assert says(process) == f"got {name}"
    code, out, err = leaves(process)
    assert (code, out) == (exit_code, "1\n")
    assert "--resume auto" in err


@posix
def test_each_further_signal_is_handed_on_too(started):
    process = started(COUNTS)
    assert says(process) == "ready"
    for number, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")):
        process.send_signal(number)
        assert says(process) == f"got {name}"
    assert leaves(process)[:2] == (130, "3\n")


@posix
@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_who_waits_for_the_next_start_can_be_told_to_leave(started, sent, exit_code):
    process = started("import sys; sys.exit(7)", "--max-restarts", "3", "--backoff", "300")
    waits_for(process.stderr, "It is started again in 300 s")
    process.send_signal(sent)
    assert leaves(process)[0] == exit_code


@posix
def test_a_command_that_crashes_while_it_leaves_is_not_started_again(started):
    process = started(COUNTS + "sys.exit(7)", "--max-restarts", "3")
    assert says(process) == "ready"
    process.send_signal(signal.SIGTERM)
    assert says(process) == "got SIGTERM"
    assert leaves(process)[0] == 143


@posix
def test_a_hangup_that_is_ignored_stays_ignored(started):
    """As under nohup."""
    code = "import signal; print(signal.getsignal(signal.SIGHUP).name, flush=True); input(); print('done')"
    process = started(code, preexec=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    assert says(process) == "SIG_IGN"
    process.send_signal(signal.SIGHUP)
    assert leaves(process) == (0, "done\n", "")


@posix
@pytest.mark.parametrize(("sent", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("launcher", ["a shell", "one that leaves at once"])
def test_a_recipe_behind_a_launcher_is_asked_and_may_finish_saving(started, tmp_path, launcher, sent, exit_code):
    """A shell dies of SIGTERM at once, and keeps SIGINT to itself until what it has started has ended."""
    recipe = tmp_path / "recipe.py"
    recipe.write_text(BEGIN + "trains(sys.argv[1], start())\n" + COUNTS + "print('saved', flush=True)\n")
    command = [sys.executable, str(recipe), str(tmp_path / "run")]
    if launcher == "a shell":
        process = started(["bash", "-c", f"{' '.join(command)}; true"])
    else:
        process = started(f"import subprocess; subprocess.Popen({command}, start_new_session=True).wait()")
    assert says(process) == "ready"
    process.send_signal(sent)
    assert says(process) == f"got {sent.name}"
    assert leaves(process)[:2] == (exit_code, "1\nsaved\n")


@posix
def test_a_recipe_that_was_told_by_whoever_told_us_is_not_told_twice(started):
    """Slurm and systemd signal every process of a job: two signals would end it without a checkpoint."""
    process = started(
        "import os, time\nfrom xtts_gatekeeper.signals import Requests\nrequests = Requests()\nrequests.watch()\n"
        "print(os.getpid(), flush=True); input(); time.sleep(1); print('saved', flush=True); requests.obey()"
    )
    os.kill(int(says(process)), signal.SIGTERM)
    waits_for(process.stderr, "leaving after this batch")
    process.send_signal(signal.SIGTERM)
    assert leaves(process)[:2] == (143, "saved\n")


@posix
def test_what_a_crashed_command_has_started_is_ended_with_it(supervise, tmp_path):
    holds = (
        "import filelock, sys, time; filelock.FileLock(sys.argv[1]).acquire(); print(1, flush=True); time.sleep(600)"
    )
    code = (
        "import subprocess, sys\n"
        f"worker = subprocess.Popen([sys.executable, '-c', {holds!r}, sys.argv[1]], stdout=subprocess.PIPE)\n"
        "worker.stdout.readline(); sys.exit(7)"
    )
    assert supervise(code, tmp_path / "lock")[1] == 1
    with FileLock(tmp_path / "lock").acquire(timeout=30):
        pass


# A run, and what is known of its end


def test_a_process_that_stands_still_is_ended_and_said_to_have_hung(supervise, tmp_path, monkeypatch):
    """One that can not even write its stacks."""
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.0)
    code = BEGIN + (
        "trains(sys.argv[1], start())\n"
        "FlightRecorder(Path(sys.argv[1])).write('training', 5, 1, 3, ['a.wav'], limit=0.1)\n"
        "print('hangs', flush=True); time.sleep(600)\n"
    )
    supervisor, exit_code = supervise(code, tmp_path / "run")
    (crash,) = supervisor.crashes
    assert (exit_code, crash.kind, crash.step, crash.epoch, crash.files) == (1, "hang", 5, 1, ["a.wav"])
    assert read_evidence(tmp_path / "run" / crash.evidence)["doing"] == "training"


def test_a_process_that_crashed_and_then_hangs_while_it_ends_is_what_it_crashed_of(supervise, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GRACE_SECONDS", 0.0)
    error = {"type": "KeyError", "message": "'planted'", "traceback": "", "where": "recipe.py:1"}
    code = BEGIN + (
        "from xtts_gatekeeper.crashes.evidence import evidence_path\n"
        "run = Path(sys.argv[1]); trains(run, start())\n"
        "path = evidence_path(run, os.getpid()); path.parent.mkdir()\n"
        f"path.write_text({json.dumps({'error': error})!r})\n"
        "FlightRecorder(run).write('training', 5, 1, 3, ['a.wav'], limit=0.1)\n"
        "time.sleep(600)\n"
    )
    supervisor, exit_code = supervise(code, tmp_path / "run")
    (crash,) = supervisor.crashes
    assert (exit_code, crash.kind, crash.step) == (1, "exception", 5)
    assert "KeyError: 'planted'" in crash.message


def test_two_crashes_in_one_second_before_they_say_where_their_run_is_have_evidence_each(supervise, tmp_path):
    code = BEGIN + (
        "first = not Restart.asked().runs\n"
        "if first: trains(sys.argv[1], start(), saved(2, resumable=True))\n"
        "os._exit(7 if first else 8)\n"
    )
    supervisor, _ = supervise(code, tmp_path / "run", restarts=2)
    assert len({crash.evidence for crash in supervisor.crashes}) == 3
    codes = [read_evidence(tmp_path / "run" / crash.evidence)["returncode"] for crash in supervisor.crashes]
    assert codes == [7, 8, 8]


@pytest.mark.parametrize(("code", "kind", "exit_code"), [(2, "refused", 2), (143, "terminated", 143)])
def test_a_run_that_is_not_started_again_after_all_is_not_said_to_be(supervise, tmp_path, code, kind, exit_code):
    """The process after the crash never got as far as its run."""
    script = BEGIN + (
        "if Restart.asked().runs: sys.exit(int(sys.argv[2]))\n"
        "trains(sys.argv[1], start(), saved(2, resumable=True)); os._exit(7)\n"
    )
    assert supervise(script, tmp_path / "run", code, restarts=3)[1] == exit_code
    record = read_run(tmp_path / "run")
    assert [(crash.kind, crash.decision) for crash in record.crashes] == [("exit", "restart"), (kind, "stop")]
    assert state(record) == "crashed"


@posix
def test_a_process_that_somebody_has_halted_does_not_hang(tmp_path, scratch):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        assert not module._is_paused(child.pid)
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        assert module._is_paused(child.pid)
    finally:
        child.kill()
        child.wait()
    assert not module._is_paused(child.pid)


def test_evidence_of_an_earlier_process_of_the_same_number_is_not_taken_for_this_ones(supervise, tmp_path):
    """In a container every process has the number that the one before had."""
    run = tmp_path / "run"
    old = {"error": {"type": "KeyError", "message": "'old'", "traceback": "", "where": "old.py:1"}, "pid": 0}
    code = BEGIN + (
        "trains(sys.argv[1], start())\n"
        f"old = Path(sys.argv[1]) / 'gatekeeper/crashes' / f'20200101-000000-{{os.getpid()}}.json'\n"
        f"old.parent.mkdir(); old.write_text({json.dumps(old)!r})\n"
        "raise ValueError('new')\n"
    )
    supervisor, _ = supervise(code, run)
    (crash,) = supervisor.crashes
    assert "ValueError: new" in crash.message
    (before, after) = sorted((run / "gatekeeper/crashes").iterdir())
    assert read_evidence(before) == old
    assert read_evidence(after)["error"]["type"] == "ValueError"


def test_a_crash_after_the_run_began_is_on_its_record_with_the_command_and_the_output(supervise, tmp_path):
    code = BEGIN + "trains(sys.argv[1], start(7, 2)); print('spoke', flush=True); raise KeyError('planted')"
    supervisor, _ = supervise(code, tmp_path / "run")
    (crash,) = [e for e in Journal(journal_path(tmp_path / "run")).events if isinstance(e, Crash)]
    assert crash == supervisor.crashes[0]
    assert (crash.step, crash.epoch, crash.decision, crash.returncode) == (7, 2, "stop", 1)
    found = read_evidence(tmp_path / "run" / crash.evidence)
    assert found["command"] == supervisor.command
    assert "spoke" in found["output"]  # the two streams have no order
    assert "KeyError: 'planted'" in found["error"]["traceback"]


def test_damaged_evidence_is_no_obstacle(supervise, tmp_path):
    code = BEGIN + (
        "from xtts_gatekeeper.crashes.evidence import evidence_path\n"
        "trains(sys.argv[1], start())\n"
        "path = evidence_path(Path(sys.argv[1]), os.getpid()); path.parent.mkdir()\n"
        'path.write_text(\'{"error": {"type": 7, "of a later version": 1}}\')\n'
        "raise KeyError('planted')\n"
    )
    supervisor, exit_code = supervise(code, tmp_path / "run")
    assert exit_code == 1
    assert "KeyError: 'planted'" in supervisor.crashes[0].message
