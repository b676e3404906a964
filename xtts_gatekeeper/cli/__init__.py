"""`xtts-gatekeeper VERB`: each verb is a few lines that call the library.

Heavy imports stand inside the verbs, so that the offline ones start at once. JSON goes to stdout, all else of a
`--json` call to stderr.
"""

from __future__ import annotations

import io
import sys

import click

from xtts_gatekeeper.cli import files, judging, speech, training
from xtts_gatekeeper.cli.common import EXIT_CODES, cli
from xtts_gatekeeper.errors import EXIT_BAD_INPUT, UserError, refuse

__all__ = ["EXIT_CODES", "cli", "files", "judging", "main", "speech", "training"]


def main() -> None:
    """Run the command line. A user's mistake is one sentence on stderr and exit code 2, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that knows no dash must not end the program
    try:
        code = cli(standalone_mode=False)
    except UserError as error:
        raise refuse(error) from None
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = EXIT_BAD_INPUT
    except click.ClickException as error:
        raise refuse(UserError(error.format_message())) from None
    except OSError as error:
        raise refuse(UserError(f"{error.filename or 'a file'}: {error.strerror or error}.")) from None
    except click.Abort:
        code = 130
    sys.exit(code if isinstance(code, int) else 0)
