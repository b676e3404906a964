"""Recipes as processes of their own, to be waited for, interrupted and killed."""

import signal
import subprocess


def only_run(folder):
    (run,) = (path for path in folder.iterdir() if (path / "gatekeeper").is_dir())
    return run


def wait_for_line(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} never came")


def leaves(process):
    """Wait until the process has ended; one that hangs says where each of its threads stands."""
    try:
        process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        told, _ = process.communicate(timeout=30)
        raise AssertionError(f"it hangs:\n{told[-6000:]}") from None
