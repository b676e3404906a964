"""The one kind of error that a user can cause, and how it reaches them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
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


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` when one of `known` is close to `name`, else the list of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}."


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a `UserError` of the block into one sentence on stderr and exit code 2."""
    try:
        yield
    except UserError as error:
        raise refuse(error) from None
