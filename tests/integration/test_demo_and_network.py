"""The demo as a user starts it, with every connection it attempts on record."""

import json
from pathlib import Path

import pytest

#: Runs the command line with an audit hook that notes every look-up and connection, of TTS and trainer too.
AUDITED = """
import json, socket, sys

notes = open(sys.argv.pop(1), "a", buffering=1)

def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        notes.write(json.dumps([event, [repr(argument) for argument in args]]) + "\\n")

sys.addaudithook(hook)
probe = socket.socket()
probe.connect_ex(("127.0.0.1", 9))  # proves that the hook notes
from xtts_gatekeeper.cli import main
main()
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    import os
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("demo")
    (folder / "audited.py").write_text(AUDITED)
    command = [sys.executable, "audited.py", "connections.jsonl", "demo", "--epochs", "2", "--output", "out"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    return folder, done


def test_the_demo_ends_with_verdict_table_disk_and_places(demo):
    folder, done = demo
    assert done.returncode == 0, done.stderr
    (run,) = (folder / "out" / "runs").iterdir()
    assert "Verdict: " in done.stdout and "freed by pruning" in done.stdout
    assert "Val mel/" in done.stdout and "0.001" in done.stdout and "0.0003" in done.stdout
    assert run.name in done.stdout and "gatekeeper" in done.stdout


def test_progress_is_plain_lines_on_stderr_when_that_is_no_terminal(demo):
    _, done = demo
    lines = [line for line in done.stderr.splitlines() if line.startswith("Training: ")]
    assert len(lines) >= 5 and "\x1b" not in "".join(lines)
    assert "Training" not in done.stdout


def test_nothing_but_loopback_is_looked_up_or_connected_to(demo):
    folder, done = demo
    assert done.returncode == 0
    notes = [json.loads(line) for line in (folder / "connections.jsonl").read_text().splitlines()]
    assert ["socket.connect", notes[0][1]] == notes[0] and "127.0.0.1" in notes[0][1][1]
    elsewhere = [
        note for note in notes if not any(local in str(note[1]) for local in ("127.0.0.1", "::1", "localhost"))
    ]
    assert elsewhere == []


def test_a_demo_on_bad_data_is_refused_and_writes_nothing(tmp_path, python):
    done = python("-m", "xtts_gatekeeper", "demo", "--data", "no/such", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "no/such" in done.stderr
    assert not (tmp_path / "out").exists()
