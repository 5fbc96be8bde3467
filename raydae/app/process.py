"""A command as a process: errors as one line, exit codes, requests to stop."""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from rich.console import Console

from raydae.app.console import QuietConsole, escape_unprintable, forget_terminal
from raydae.core.errors import UserError

BAD_INPUT = 2  # the exit code; also of what failed while working
DIVERGED = 1
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C; `ray job stop` and most schedulers; a terminal that is closed."""


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """Return 128 + the number of the signal, as shells have it."""
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


def run_and_exit(job: Callable[[], int]) -> NoReturn:
    """Run a job, and exit with its code: `BAD_INPUT` after a UserError, 128 + n by a signal."""
    # Libraries warn about themselves; the user can do nothing about it.
    logging.captureWarnings(capture=True)
    catch_signals()
    escape_unprintable()
    try:
        code = job()
    except UserError as error:
        print_error(error)
        code = BAD_INPUT
    except KeyboardInterrupt as interrupt:
        with suppress(OSError):
            print("interrupted", file=sys.stderr)
        code = exit_code_of(interrupt)
    _exit(code)


def catch_signals() -> None:
    """Let `SIGNALS` raise KeyboardInterrupt with their number; one that is ignored stays so."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> NoReturn:
    forget_terminal(number)
    raise KeyboardInterrupt(number)


def print_error(error: object) -> None:
    """Print an error in one line on standard error."""
    console = QuietConsole(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print("error:", style="bold red", end=" ")
    console.print(str(error))


@contextmanager
def stop_requests(screen: Console) -> Iterator[Callable[[], int]]:
    """Turn the first of `SIGNALS` into a request to stop; a second one exits at once.

    Yields:
        A function that returns the exit code of the stop that was requested; 0: none was.
    """
    code = 0

    def handle(number: int, frame: object) -> None:
        nonlocal code
        if code:
            screen.show_cursor()
            _exit(code)
        code = 128 + number
        forget_terminal(number)
        screen.print("stopping after a checkpoint; once more to stop at once")

    before = {
        number: signal.signal(number, handle)
        for number in SIGNALS
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield lambda: code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit(code: int) -> NoReturn:
    """End this process and its Ray at once; Python would take a second to shut torch down."""
    if "raydae.distributed.start" in sys.modules:
        sys.modules["raydae.distributed.start"].leave()
    with suppress(OSError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
