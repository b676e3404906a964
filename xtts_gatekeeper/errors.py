"""The one kind of error that a user can cause, and how it reaches them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_BAD_INPUT = 2


class UserError(Exception):
    """Something the user gave cannot be used: one sentence that says what is wrong, with the value, and what to do."""


def refuse(error: UserError) -> SystemExit:
    """Print the sentence of `error` on stderr and return the exit (code 2) to raise.

    `SystemExit` rather than a traceback: in a recipe the mistake is in the data or the flags, not in the code.
    """
    print(f"xtts-gatekeeper: {error}", file=sys.stderr, flush=True)
    return SystemExit(EXIT_BAD_INPUT)


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a `UserError` of the block into one sentence on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        raise refuse(error) from None
