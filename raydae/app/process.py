"""A command as a process: errors as one line, exit codes, requests to stop."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console

from raydae.core.errors import UserError

BAD_INPUT = 2  # the exit code; also of what failed while working
INTERRUPTED = 130


def run_and_exit(job: Callable[[], int]) -> NoReturn:
    """Run a job, and exit with its code: `BAD_INPUT` after a UserError, `INTERRUPTED` by Ctrl-C."""
    # Libraries warn about themselves; the user can do nothing about it.
    logging.captureWarnings(capture=True)
    try:
        code = job()
    except UserError as error:
        print_error(error)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    _exit(code)


def print_error(error: object) -> None:
    """Print an error in one line on standard error."""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print("error:", style="bold red", end=" ")
    console.print(str(error))


@contextmanager
def stop_requests(screen: Console) -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second one exits at once.

    Yields:
        A function that returns whether a stop has been requested.
    """
    requested = False

    def handle(signum: int, frame: object) -> None:
        nonlocal requested
        if requested:
            screen.show_cursor()
            _exit(INTERRUPTED)
        requested = True
        screen.print("stopping after a checkpoint; once more to stop at once")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(code: int) -> NoReturn:
    """End this process and its Ray at once; Python would take a second to shut torch down."""
    if "raydae.distributed.start" in sys.modules:
        sys.modules["raydae.distributed.start"].leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
