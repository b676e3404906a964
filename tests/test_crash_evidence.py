"""What is kept of a crash: what the process was at, what it printed, why it died; and what `status` makes of it."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from disks import small_disk  # noqa: F401
from hypothesis import given
from hypothesis import strategies as st
from records import TIME, curve, ended, record_of, saved, start, write_run

from xtts_gatekeeper import host_memory
from xtts_gatekeeper.crashes import evidence
from xtts_gatekeeper.crashes.child import Output
from xtts_gatekeeper.crashes.evidence import (
    error_in,
    error_of,
    evidence_of,
    evidence_path,
    gpu_state,
    has_evidence,
    last_steps,
    read_evidence,
    stamp,
    write_evidence,
)
from xtts_gatekeeper.crashes.flight import Flight, FlightRecorder, flight_path, read_flight
from xtts_gatekeeper.crashes.hang import hung
from xtts_gatekeeper.dataset.selection import leave_out, read_names
from xtts_gatekeeper.errors import UserError
from xtts_gatekeeper.record import Journal, journal_path
from xtts_gatekeeper.record.events import Crash
from xtts_gatekeeper.record.steps import StepLog
from xtts_gatekeeper.report.table import crashes, state

posix = pytest.mark.skipif(sys.platform == "win32", reason="a script of a shell, or a signal")


@pytest.fixture
def run(tmp_path):
    """A run folder with our folder in it."""
    folder = tmp_path / "run"
    (folder / "gatekeeper").mkdir(parents=True)
    return folder


def fill(folder):
    """Take all the room that is left on the disk."""
    with (folder / "rest").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(1 << 16))


# The flight recorder


@posix
def test_what_a_process_was_at_outlives_its_kill(run):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from xtts_gatekeeper.crashes.flight import FlightRecorder\n"
        "flight = FlightRecorder(Path(sys.argv[1]))\n"
        "flight.write('training', 7, 1, 3, ['a.wav', 'b.wav'], limit=600.0); os.kill(os.getpid(), 9)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(run)])
    assert process.wait(60) == -signal.SIGKILL
    found = read_flight(run, process.pid)
    assert found == Flight(process.pid, "training", 7, 1, 3, ["a.wav", "b.wav"], 600.0, found.time)


@pytest.mark.parametrize("name", ["{}.wav", "/a/long/folder/" + "x" * 200 + "/{}.wav", "ü" * 100 + "{}.wav"])
def test_of_thousands_of_names_as_many_are_kept_as_there_is_room_for(run, name):
    names = [name.format(number) for number in range(5000)]
    FlightRecorder(run).write("training", 10**12, 10**9, 10**12, names, limit=1e9)
    kept = read_flight(run).files
    assert 5 < len(kept) < 5000
    assert kept == names[: len(kept)]
    assert flight_path(run).stat().st_size == 8192


def test_a_name_that_is_longer_than_all_the_room_is_left_out(run):
    FlightRecorder(run).write("training", 1, 0, 0, ["x" * 10_000])
    assert read_flight(run).files == []


@given(lengths=st.lists(st.integers(0, 300), max_size=200), letter=st.sampled_from('aü"\\\n\U0001f600\udc80'))
def test_whatever_the_names_are_the_file_can_be_read(tmp_path_factory, lengths, letter):
    folder = tmp_path_factory.getbasetemp() / "names"
    (folder / "gatekeeper").mkdir(parents=True, exist_ok=True)
    names = [letter * length for length in lengths]
    FlightRecorder(folder).write("training", 1, 0, 0, names)
    kept = read_flight(folder).files
    assert kept == names[: len(kept)]


def test_nothing_is_left_of_what_was_written_before(run):
    flight = FlightRecorder(run)
    flight.write("training", 1000, 100, 99, ["a_long_name.wav"] * 50)
    flight.write("saving", 1, 0, 0)
    assert (read_flight(run).doing, read_flight(run).step, read_flight(run).files) == ("saving", 1, [])


def test_it_can_be_read_while_it_is_written(run):
    flight, done = FlightRecorder(run), threading.Event()

    def write():
        for step in range(3000):
            flight.write("training", step, 0, step, [f"{step}.wav"] * (step % 400))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    found = []
    while not done.is_set():
        found.append(read_flight(run))
    thread.join()
    assert any(found)
    assert all(one is None or (one.pid == os.getpid() and one.doing == "training") for one in found)
    assert read_flight(run).step == 2999


def test_that_of_another_process_is_not_taken_for_ones_own(run):
    FlightRecorder(run).write("training", 1, 0, 0)
    assert read_flight(run, os.getpid()).pid == read_flight(run).pid == os.getpid()
    assert read_flight(run, os.getpid() + 1) is None


def test_a_new_process_begins_with_nothing(run):
    FlightRecorder(run).write("training", 1, 0, 0)
    FlightRecorder(run)
    assert read_flight(run) is None


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[]", b"7", b"{}", b'{"pid": 1, "doing": "x", "other": 2}'])
def test_one_that_cannot_be_read_is_none(run, content):
    flight_path(run).write_bytes(content)
    assert read_flight(run) is None


def test_where_it_cannot_be_written_training_goes_on(tmp_path):
    flight = FlightRecorder(tmp_path / "no such folder")
    flight.write("training", 1, 0, 0)
    flight.close()
    assert read_flight(tmp_path / "no such folder") is None


def test_on_a_full_disk_training_goes_on(small_disk):  # noqa: F811
    (small_disk / "gatekeeper").mkdir()
    fill(small_disk)
    FlightRecorder(small_disk).write("training", 1, 0, 0)


def test_after_its_end_nothing_is_written(run):
    flight = FlightRecorder(run)
    flight.write("training", 1, 0, 0)
    flight.close()
    flight.close()
    flight.write("training", 2, 0, 0)
    assert read_flight(run).step == 1


# A hang


@pytest.mark.parametrize(
    ("text", "flight", "said"),
    [
        (None, None, False),
        ("", -1, False),
        ("Fatal Python error: Segmentation fault\n", -1, False),
        ("Timeout (0:10:00)!\nThread 0x7f (most recent call first):\n", -1, True),
        ("Timeout (0:10:00)!\n", 0, True),
        ("Fatal Python error: Segmentation fault\n\nTimeout (0:10:00)!\n", -1, True),
        ("Timeout (0:10:00)!\n", 1, False),  # it has come back
    ],
)
def test_a_process_hung_when_that_is_the_last_it_wrote(run, text, flight, said):
    stacks = run / "gatekeeper/crashes/stacks-20260101-000000-7.txt"
    stacks.parent.mkdir()
    if text is not None:
        stacks.write_text(text)
        os.utime(stacks, (1e9, 1e9))
        flight_path(run).write_text("{}")
        os.utime(flight_path(run), (1e9 + flight, 1e9 + flight))
    assert hung(run, 7, "") is said
    assert hung(run, 8, "") is False


# The output


@pytest.fixture
def output(tmp_path):
    kept = Output(tmp_path / "output.txt")
    yield kept
    kept.close()


def moved_while_written(output, target):
    """Move the file while a thread writes to it; what was written."""
    lines = [b"line %d\n" % number for number in range(2000)]
    half = threading.Event()

    def write():
        for number, line in enumerate(lines):
            output.keep(line)
            if number == 1000:
                half.set()

    thread = threading.Thread(target=write)
    thread.start()
    half.wait(60)
    output.move(target)
    thread.join()
    return b"".join(lines)


def test_it_is_moved_while_it_is_written_and_loses_nothing(output, tmp_path):
    target = tmp_path / "run" / "gatekeeper" / "output" / "1.txt"
    content = moved_while_written(output, target)
    assert output.path == target and target.read_bytes() == content
    assert not (tmp_path / "output.txt").exists()


def test_it_is_moved_to_another_disk(output, small_disk, tmp_path):  # noqa: F811
    content = moved_while_written(output, small_disk / "output" / "1.txt")
    assert (small_disk / "output" / "1.txt").read_bytes() == content
    assert not (tmp_path / "output.txt").exists()


def test_where_it_cannot_be_moved_to_it_stays_where_it_is(output, tmp_path):
    (tmp_path / "file").write_text("in the way")
    content = moved_while_written(output, tmp_path / "file" / "1.txt")
    assert output.path == tmp_path / "output.txt" and output.path.read_bytes() == content


def test_moved_onto_a_full_disk_it_stays_where_it_is(output, small_disk, tmp_path):  # noqa: F811
    (small_disk / "output").mkdir()
    fill(small_disk)
    content = moved_while_written(output, small_disk / "output" / "1.txt")
    assert output.path == tmp_path / "output.txt" and output.path.read_bytes() == content


def test_a_full_disk_costs_lines_and_nothing_else(small_disk):  # noqa: F811
    kept = Output(small_disk / "output.txt")
    fill(small_disk)
    kept.keep(b"said\n")
    assert kept.tail == "said\n"
    kept.close()


def test_the_end_of_it_is_at_hand(output):
    for _ in range(10):
        output.keep(b"x" * (1 << 16))
    output.keep("the last wörds\n".encode() + b"\xff")
    assert output.tail.endswith("xthe last wörds\n�")
    assert len(output.tail) < 1 << 19
    output.close()
    output.keep(b"more")
    assert output.tail.endswith("more")


# Evidence


def test_evidence_can_be_completed_and_the_machine_is_asked_once(run, monkeypatch):
    asked = []
    monkeypatch.setattr(evidence, "machine_state", lambda folder: asked.append(1) or {"asked": len(asked)})
    path = evidence_path(run, 7)
    write_evidence(path, {"step": 5, "files": ["a.wav"], "kind": "?"})
    write_evidence(path, {"kind": "exception", "output": ["x"]})
    assert read_evidence(path) == {
        "step": 5,
        "files": ["a.wav"],
        "kind": "exception",
        "output": ["x"],
        "machine": {"asked": 1},
    }
    assert list(path.parent.iterdir()) == [path]


def test_the_facts_are_safe_before_the_machine_is_asked(run, monkeypatch):
    """A process whose GPU is lost may never come back from that."""
    path = evidence_path(run, 7)
    seen = []
    monkeypatch.setattr(evidence, "machine_state", lambda folder: seen.append(read_evidence(path)) or {})
    write_evidence(path, {"step": 5})
    assert seen == [{"step": 5}]


def test_a_reader_finds_the_whole_of_it_or_what_was_there_before(run):
    path = evidence_path(run, 7)
    code = (
        "import sys; from pathlib import Path; from xtts_gatekeeper.crashes.evidence import write_evidence\n"
        "for n in range(300): write_evidence(Path(sys.argv[1]), {'n': n, 'text': str(n % 10) * 50000, 'machine': 1})"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    found = []
    while writer.poll() is None:
        found.append(read_evidence(path))
    assert writer.returncode == 0
    assert all(one == {} or one["text"] == str(one["n"] % 10) * 50000 for one in found)
    assert read_evidence(path)["n"] == 299


def test_on_a_full_disk_what_was_there_stays(small_disk):  # noqa: F811
    path = evidence_path(small_disk, 7)
    write_evidence(path, {"step": 5, "machine": {}})
    fill(small_disk)
    write_evidence(path, {"output": ["x" * 100_000]})
    assert read_evidence(path) == {"step": 5, "machine": {}}


def test_where_it_cannot_be_written_nothing_is_raised(tmp_path):
    (tmp_path / "gatekeeper").write_text("in the way")
    write_evidence(evidence_path(tmp_path, 7), {"step": 5})
    assert evidence_of(tmp_path, 7, "") is None
    assert has_evidence(tmp_path)  # its folder is kept all the same


def test_text_that_is_no_text_and_numbers_that_are_none_are_written_all_the_same(run):
    path = evidence_path(run, 7)
    write_evidence(path, {"file": "\udc80.wav", "loss": float("nan"), "machine": {}})
    assert read_evidence(path)["loss"] == "nan"
    assert read_evidence(path)["file"].endswith(".wav")


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[1]", b'"text"', b"[" * 100_000])
def test_evidence_that_cannot_be_read_is_empty(run, content):
    path = evidence_path(run, 7)
    path.parent.mkdir()
    path.write_bytes(content)
    assert read_evidence(path) == {}
    assert read_evidence(None) == read_evidence(path.with_name("none")) == {}


def test_evidence_is_found_by_the_process_and_only_since_its_start(run):
    folder = run / "gatekeeper/crashes"
    folder.mkdir()
    for name in ("20250101-000000-7", "20250101-000001-7", "20250102-000000-17", "20250103-000000-77"):
        (folder / f"{name}.json").write_text("{}")
    assert evidence_of(run, 7, "").name == "20250101-000001-7.json"
    assert evidence_of(run, 7, "20250101-000001").name == "20250101-000001-7.json"
    assert evidence_of(run, 7, "20250101-000002") is None
    assert evidence_path(run, 7).name >= stamp()[:8]


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no words")


def raised(error):
    try:
        raise error
    except BaseException as caught:
        return error_of(caught)


@pytest.mark.parametrize(
    ("error", "type_", "message"),
    [
        (KeyError("x"), "KeyError", "'x'"),
        (json.JSONDecodeError("bad", "doc", 0), "json.decoder.JSONDecodeError", "bad: line 1 column 1 (char 0)"),
        (Unspeakable(), f"{__name__}.Unspeakable", "<exception str() failed>"),
        (SystemExit(3), "SystemExit", "3"),
    ],
)
def test_an_exception_as_plain_text(error, type_, message):
    found = raised(error)
    assert (found.type, found.message) == (type_, message)
    assert found.where.startswith("test_crash_evidence.py:") and found.where.endswith(" in raised")
    assert found.traceback.startswith("Traceback (most recent call last):") and type_ in found.traceback
    assert error_in({"error": vars(found)}) == found


@pytest.mark.parametrize("known", [{}, {"error": None}, {"error": "text"}, {"error": {"type": "KeyError"}}])
def test_an_exception_that_is_not_told_whole_is_none(known):
    assert error_in(known) is None


# The GPU


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Put a script of that name on the PATH, and nothing else."""

    def make(script):
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        if script is not None:
            (folder / "nvidia-smi").write_text(script)
            (folder / "nvidia-smi").chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    return make


@posix
@pytest.mark.parametrize(
    ("script", "said"),
    [
        (None, "there is no nvidia-smi"),
        ("#!/bin/sh\necho 'name, uuid'; echo 'A100, GPU-1'; echo \"$1 $2\"\n", None),
        (
            "#!/bin/sh\necho 'Unable to determine the device handle: GPU is lost.' >&2; exit 15\n",
            "Unable to determine the device handle: GPU is lost.",
        ),
        ("#!/bin/sh\nprintf 'GPU \\377'\n", "GPU �"),
        ("no program", "nvidia-smi cannot be started: [Errno 8] Exec format error"),
    ],
)
def test_the_gpu_is_as_nvidia_smi_says(nvidia_smi, script, said):
    nvidia_smi(script)
    found = gpu_state()
    if said is None:
        said = f"name, uuid\nA100, GPU-1\n--query-gpu={evidence._GPU_QUERY} --format=csv"
    assert found.split(": '")[0] == said


@posix
def test_an_nvidia_smi_that_hangs_is_not_waited_for(nvidia_smi, monkeypatch):
    monkeypatch.setattr(evidence, "_GPU_SECONDS", 0.1)
    nvidia_smi("#!/bin/sh\nexec /bin/sleep 600\n")
    assert gpu_state() == "nvidia-smi did not answer within 0.1 s"


def test_the_machine_tells_versions_memory_and_disk_without_torch():
    code = "import sys, json; from pathlib import Path; from xtts_gatekeeper.crashes.evidence import machine_state; "
    done = subprocess.run(
        [sys.executable, "-c", code + "print(json.dumps(machine_state(Path()))); assert 'torch' not in sys.modules"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "xtts-gatekeeper" in found["versions"]
    assert found["memory"]["total"] >= found["memory"]["available"] > 0
    assert found["disk_free"] > 0 and found["gpu"] and "out_of_memory_kills" in found


# The last steps


def test_the_last_twenty_steps_are_told(run):
    log = StepLog(run / "gatekeeper/steps.jsonl")
    for step in range(2000):
        log.add({"step": step, "epoch": 0, "loss": 1 / (step + 1), "lr": 1e-6})
    log.flush()
    assert [line["step"] for line in last_steps(run)] == list(range(1980, 2000))


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', "\x00\x00", "ÿ", "\n\n"])
def test_lines_that_are_torn_are_passed_over(run, torn):
    lines = [json.dumps({"step": step, "loss": "x" * 700}) for step in range(40)]
    (run / "gatekeeper/steps.jsonl").write_text("\n".join([*lines[:38], torn, *lines[38:], torn]), encoding="latin-1")
    found = [line["step"] for line in last_steps(run)]
    assert found == list(range(40 - len(found), 40)) and len(found) > 10


@pytest.mark.parametrize("content", [None, "", "{"])
def test_without_steps_there_are_none(run, content):
    if content is not None:
        (run / "gatekeeper/steps.jsonl").write_text(content)
    assert last_steps(run) == []


# The system's count of kills

EVENTS = "low 0\nhigh 0\nmax 4\noom 2\noom_kill 3\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"
VMSTAT = "nr_free_pages 77\noom_kill 9\npgfault 1\n"


@pytest.mark.parametrize(
    ("own", "control", "vmstat", "count"),
    [
        (EVENTS, CONTROL, VMSTAT, 3),
        (None, CONTROL, VMSTAT, 5),
        ("max 4\n", CONTROL, VMSTAT, 5),
        ("oom_kill many\n", "oom_kill_disable 0\n", VMSTAT, 9),
        (None, None, VMSTAT, 9),
        (None, None, "nr_free_pages 77\n", 0),
        ("", "", "", 0),
        (None, None, None, 0),
    ],
)
def test_the_nearest_count_of_kills_for_want_of_memory_is_taken(tmp_path, monkeypatch, own, control, vmstat, count):
    for name, content in (("memory.events", own), ("control", control), ("vmstat", vmstat)):
        if content is not None:
            (tmp_path / name).write_text(content)
    monkeypatch.setattr(host_memory, "_own_cgroups", lambda: [str(tmp_path)])
    files = ((str(tmp_path / "control"), "oom_kill"), (str(tmp_path / "vmstat"), "oom_kill"))
    monkeypatch.setattr(host_memory, "_KILLS", files)
    assert host_memory.kills() == count


def test_here_it_is_counted_too():
    assert host_memory.kills() >= 0


# What status says


def crash(decision, kind="killed"):
    return Crash(step=5, epoch=0, time=TIME, kind=kind, message="m", decision=decision)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "running or killed"),
        ([saved(3)], "running or killed"),
        ([crash("restart")], "crashed, to be started again"),
        ([crash("stop")], "crashed"),
        ([crash("restart"), start(3)], "running or killed"),
        ([crash("restart"), start(3), ended(9)], "finished"),
        ([ended(5, "crashed")], "crashed"),
        ([ended(5, "crashed"), crash("restart")], "crashed, to be started again"),
        ([ended(5, "crashed"), crash("stop")], "crashed"),
        ([ended(5, "stopped"), crash("restart", "disk_full")], "stopped, to be started again"),
        ([ended(5, "stopped"), crash("stop", "nonfinite")], "stopped"),
        ([ended(5, "terminated")], "terminated"),
    ],
)
def test_the_state_of_a_run_says_whether_it_is_started_again(events, said):
    assert state(record_of(start(), events)) == said


def kept(run, name, **facts):
    path = run / "gatekeeper/crashes" / f"{name}.json"
    write_evidence(path, {"machine": {}, **facts})
    return path.relative_to(run).as_posix()


def test_crashes_that_a_supervisor_saw_and_those_without_one_are_told_in_order_of_time(run):
    seen = kept(run, "20250101-000002-8", time="2025-01-01T00:00:02", error=vars(raised(KeyError("seen"))))
    alone = kept(
        run,
        "20250101-000001-7",
        time="2025-01-01T00:00:01",
        error=vars(raised(RuntimeError("CUDA error: an illegal memory access was encountered"))),
        step=9,
        epoch=1,
        files=["a.wav"],
        trained=4,
    )
    supervised = Crash(
        step=5, epoch=0, time="2025-01-01T00:00:03", kind="exception", message="m", decision="restart", evidence=seen
    )
    write_run(run, start(), curve(3.0), supervised)
    record = record_of(Journal(journal_path(run)).events)
    first, second = crashes(run, record)
    assert second == supervised.to_dict()
    assert (first["kind"], first["step"], first["epoch"], first["trained"]) == ("gpu_fault", 9, 1, 4)
    assert (first["files"], first["evidence"], first["decision"]) == (["a.wav"], alone, "")
    assert "an illegal memory access" in first["message"]


def test_evidence_that_tells_of_no_exception_is_no_crash_of_its_own(run):
    kept(run, "20250101-000001-7", kind="killed", step=5)
    kept(run, "20250101-000002-7", error={"type": "KeyError"})
    kept(run, "20250101-000003-7", error="text")
    (run / "gatekeeper/crashes/20250101-000004-7.json").write_text("{")
    (run / "gatekeeper/crashes/stacks-20260101-000000-7.txt").write_text("Timeout (0:00:02)!\n")
    assert crashes(run, record_of(start())) == []


def test_a_run_without_crashes_has_none(tmp_path):
    assert crashes(tmp_path, record_of(start(), ended(9))) == []


# Clips to leave out


def sample(root, clip):
    return {"audio_file": str(root / "wavs" / f"{clip}.wav"), "audio_unique_name": f"ljspeech#wavs/{clip}", "text": "t"}


@pytest.fixture
def samples(tmp_path):
    return [sample(tmp_path, clip) for clip in ("a", "b", "c.d", "more/e")]


def ids(clips):
    return [clip["audio_unique_name"].partition("#wavs/")[2] for clip in clips]


@pytest.mark.parametrize(
    ("name", "left_out"),
    [
        ("{root}/wavs/a.wav", ["a"]),
        ("{root}/wavs/../wavs/a.wav", ["a"]),
        ("wavs/a.wav", ["a"]),
        ("./wavs/a.wav", ["a"]),
        ("a.wav", ["a"]),
        ("a", ["a"]),
        ("c.d", ["c.d"]),
        ("c.d.wav", ["c.d"]),
        ("c", []),
        ("more/e", ["more/e"]),
        ("wavs/more/e.wav", ["more/e"]),
        ("e.wav", ["more/e"]),
        ("e", ["more/e"]),
        ("ljspeech#wavs/b", ["b"]),
        ("ljspeech#wavs/more/e", ["more/e"]),
        ("A", []),
        ("f", []),
        ("{root}/other/a.wav", []),
    ],
)
def test_a_clip_is_left_out_by_its_path_name_or_id(tmp_path, monkeypatch, samples, name, left_out):
    monkeypatch.chdir(tmp_path)
    name = name.format(root=tmp_path)
    kept, unknown = leave_out(samples, [name])
    assert [clip for clip in ids(samples) if clip not in ids(kept)] == left_out
    assert unknown == ([] if left_out else [name])


def test_clips_without_a_unique_name_are_left_out_by_their_file(tmp_path):
    clips = [{"audio_file": "x/a.wav"}, {"audio_file": "x/b.wav"}]
    assert leave_out(clips, ["b", "none"]) == (clips[:1], ["none"])


def test_the_clips_that_stay_are_in_order_and_every_name_that_is_none_is_told(samples):
    kept, unknown = leave_out(samples, ["b", "z", "b.wav", "y"])
    assert ids(kept) == ["a", "c.d", "more/e"]
    assert unknown == ["z", "y"]
    assert leave_out(samples, []) == (samples, [])


@pytest.mark.parametrize(
    "content",
    [
        "a\nb.wav\n",
        "\ufeffa\n\n  b.wav  \n",
        "# of the crash\na\r\n  # at step 7\r\nb.wav",
        "a\n \t \nb.wav\n\n",
    ],
)
def test_a_list_has_comments_blank_lines_and_a_mark_of_its_encoding(tmp_path, content):
    (tmp_path / "list.txt").write_text(content, encoding="utf-8", newline="")
    assert read_names(tmp_path / "list.txt") == ["a", "b.wav"]


@pytest.mark.parametrize("content", [None, b"\xff\xfea\x00", "a folder"])
def test_a_list_that_cannot_be_read_is_one_sentence(tmp_path, content):
    path = tmp_path / "list.txt"
    if content == "a folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"the list of clips to leave out cannot be read: .*list\.txt") as caught:
        read_names(path)
    assert "\n" not in str(caught.value)
