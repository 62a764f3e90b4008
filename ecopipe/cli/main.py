"""``ecopipe``: runs the commands, and tells errors."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from types import FrameType

INTERRUPTED = "ecopipe: interrupted."

try:
    from ecopipe.cli import data_commands, stream_commands
    from ecopipe.cli.app import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_PROBLEMS, app
    from ecopipe.vocabulary.errors import EcopipeError, SampleError
except KeyboardInterrupt:  # they take longer than it takes to think again
    print(INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(130)  # there is nothing to tidy, and nobody above who would not show where it was

__all__ = ["app", "data_commands", "main", "stream_commands"]


def main() -> None:
    """Runs the command line: an error is one message and exit code 2; ``--traceback`` shows where it arose."""
    show_traceback = "--traceback" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--traceback"]
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except SystemExit as left:
        if left.code == EXIT_INTERRUPTED:
            print(INTERRUPTED, file=sys.stderr)
        raise
    except KeyboardInterrupt:  # before or after those that are made into an exit code
        print(INTERRUPTED, file=sys.stderr)
        _leave(EXIT_INTERRUPTED)
    except EcopipeError as error:
        if show_traceback:
            traceback.print_exc()
            if isinstance(error, SampleError) and error.details:
                print(f"\nIn the worker:\n{error.details}", file=sys.stderr)
        else:
            print(f"ecopipe: {error}", file=sys.stderr)
        _leave(EXIT_ERROR)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(EXIT_PROBLEMS)
    except OSError as error:
        if show_traceback:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        remedy = "Check the disk, the paths and where the output goes."
        if isinstance(error, PermissionError):
            remedy = "Give yourself permission to it and the folders above it, or run as their owner."
        print(f"ecopipe: {where}{error.strerror or error}. {remedy}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _leave(EXIT_ERROR)


def _terminated(number: int, _frame: FrameType | None) -> None:
    """Ends as if the program had reached its end, so that nothing half-written is left."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would raise over the workers, which end too
    sys.exit(128 + number)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
