"""A process that measures audio files: one JSON path a line comes in, one line of JSON goes out.

Started as `python -m xtts_gatekeeper.dataset.worker`, and not through `multiprocessing`: that would import the user's
recipe again in every worker, and with it torch and TTS. It ends with its input.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
from dataclasses import asdict
from typing import Any

from xtts_gatekeeper.dataset.clip import Audio

_BINARY = ("spectrum", "print")


def encode(audio: Audio, frames: bytes) -> bytes:
    """One line."""
    found: dict[str, Any] = asdict(audio)
    for name in _BINARY:
        found[name] = base64.b85encode(found[name]).decode()
    return json.dumps([found, base64.b85encode(frames).decode()]).encode() + b"\n"


def decode(line: bytes) -> tuple[Audio, bytes]:
    """What `encode` was given.

    Raises:
        ValueError, TypeError: the line is none of ours, or not whole.
    """
    found, frames = json.loads(line)
    for name in _BINARY:
        found[name] = base64.b85decode(found[name])
    return Audio(**found), base64.b85decode(frames)


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the process that gave the work
    # What a decoder prints must not get between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    from xtts_gatekeeper.dataset.measure import measure

    for line in sys.stdin.buffer:
        answers.write(encode(*measure(json.loads(line))))
        answers.flush()


if __name__ == "__main__":
    main()
