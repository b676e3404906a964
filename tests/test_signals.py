"""SIGTERM and Ctrl-C as requests, in real processes that get real signals."""

import contextlib
import os
import signal
import subprocess
import sys
import threading

import pytest

from xtts_gatekeeper.signals import Requests

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to send")

#: Says what it sees, one line at a time; goes on when it is sent a line.
BEGIN = """
import signal, sys, threading
from xtts_gatekeeper.signals import Requests
def say(*what):
    print(*what, flush=True)
def told():
    return sys.stdin.readline()
t = Requests()
"""


@pytest.fixture
def child():
    """Start a Python program: `process = child(code)`; `process.says()`, `process.go_on()`."""
    started = []

    def start(code):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        process = subprocess.Popen(
            [sys.executable, "-c", BEGIN + code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            # A shell starts background jobs, CI among them, with Ctrl-C switched off, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        process.says = lambda: process.stdout.readline().strip()
        process.go_on = lambda: (process.stdin.write("\n"), process.stdin.flush())
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(30)
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()


def test_the_first_sigterm_asks_and_the_process_goes_on_until_it_obeys_by_that_signal(child):
    process = child("t.watch(); say(t.asked); told(); say(t.asked); told(); say('saved'); t.obey(); say('never')")
    assert process.says() == "None"
    process.send_signal(signal.SIGTERM)
    process.go_on()
    assert process.says() == "15"
    process.go_on()
    assert process.says() == "saved"
    assert process.wait(30) == -signal.SIGTERM
    assert process.says() == ""


def test_a_sigterm_that_comes_twice_at_once_is_one(child):
    process = child("t.watch(); say('watching'); told(); say(t.asked); told(); say(t.asked); t.unwatch()")
    assert process.says() == "watching"
    process.send_signal(signal.SIGTERM)
    process.go_on()
    assert process.says() == "15"
    process.send_signal(signal.SIGTERM)
    process.go_on()
    assert process.says() == "15"
    assert process.wait(30) == 0


def test_the_second_sigterm_ends_the_process_as_ever(child):
    at_once = "from xtts_gatekeeper import signals; signals.SAME_SECONDS = 0.0; "
    process = child(f"{at_once}t.watch(); say('watching'); told(); say(t.asked); told(); say('never')")
    assert process.says() == "watching"
    process.send_signal(signal.SIGTERM)
    process.go_on()
    assert process.says() == "15"
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(BrokenPipeError):
        process.go_on()
    assert process.wait(30) == -signal.SIGTERM
    assert process.says() == ""


def test_the_first_ctrl_c_asks_and_the_second_interrupts(child):
    process = child(
        "try:\n    t.watch(); say('watching'); told(); say(t.asked); told(); say('never')\n"
        "except KeyboardInterrupt:\n    say('interrupted')"
    )
    assert process.says() == "watching"
    process.send_signal(signal.SIGINT)
    process.go_on()
    assert process.says() == "2"
    process.send_signal(signal.SIGINT)
    assert process.says() == "interrupted"
    assert process.wait(30) == 0


def test_after_watching_sigterm_ends_the_process_as_ever(child):
    process = child("t.watch(); t.unwatch(); say(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL); told()")
    assert process.says() == "True"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM


@pytest.mark.parametrize("own", ["lambda number, frame: say('own')", "signal.SIG_IGN"])
def test_a_handler_of_the_programs_own_is_left_alone(child, own):
    process = child(
        f"handler = {own}; signal.signal(signal.SIGTERM, handler); t.watch(); say('watching'); told()\n"
        "say(t.asked); t.unwatch(); say(signal.getsignal(signal.SIGTERM) is handler)"
    )
    assert process.says() == "watching"
    process.send_signal(signal.SIGTERM)
    if "own" in own:
        assert process.says() == "own"
    process.go_on()
    assert process.says() == "None"
    assert process.says() == "True"
    assert process.wait(30) == 0


def test_a_handler_that_the_program_sets_while_we_watch_is_left_alone(child):
    process = child(
        "t.watch(); own = lambda number, frame: None; signal.signal(signal.SIGTERM, own); t.unwatch()\n"
        "say(signal.getsignal(signal.SIGTERM) is own)"
    )
    assert process.says() == "True"


def test_outside_of_the_main_thread_nothing_happens():
    before, errors = signal.getsignal(signal.SIGTERM), []

    def use():
        try:
            termination = Requests()
            termination.watch()
            errors.append(signal.getsignal(signal.SIGTERM) is not before)
            termination.unwatch()
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert errors == [False]
    assert signal.getsignal(signal.SIGTERM) is before
