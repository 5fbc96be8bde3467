"""What commands print on: the console, progress bars, lists and notices."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from raydae.core.errors import one_line


def make_console() -> Console:
    """Return the console of standard output: as wide as the terminal; in a file, 120 at least."""
    escape_unprintable()
    # No markup: file names may hold brackets, which Rich would read as markup.
    console = QuietConsole(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(shutil.get_terminal_size((120, 24)).columns, 120)
    return console


def escape_unprintable() -> None:
    """Let standard output and error print any text: what their encoding lacks, escaped.

    File names may hold any bytes, and an encoding may be ASCII.
    """
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


class QuietConsole(Console):
    """A console that falls silent when nobody reads it any more, as after `| head -1`."""

    def on_broken_pipe(self) -> None:
        """Throw away all further output; Rich would exit, and a run would be lost."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2 if self.stderr else 1)


def forget_terminal(number: int) -> None:
    """Throw away what is printed on a terminal from now on, if a signal says that it is closed."""
    if number == signal.SIGHUP:
        for descriptor in (1, 2):
            if os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


class Counter:
    """A progress bar of a number of items; safe to call from threads."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task, self._lock = progress, task, threading.Lock()

    def __call__(self, done: int, total: int) -> None:
        """Show how many of how many are done."""
        with self._lock:
            self._progress.update(self._task, completed=done, total=total)


class RateColumn(ProgressColumn):
    """Items per second."""

    def render(self, task: Task) -> Text:
        """Return the rate, once it is known."""
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


@contextmanager
def counting(console: Console, what: str) -> Iterator[Counter]:
    """Show a progress bar, and remove it at the end; show nothing where the output is a file."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        yield Counter(progress, progress.add_task(what, total=None))


def print_some(console: Console, what: str, lines: Sequence[str], limit: int = 5) -> None:
    """Print how many lines there are, and the first few; nothing where there are none."""
    if lines:
        console.print(f"{what}: {len(lines)}", style="yellow")
        for line in lines[:limit]:
            console.print(f"  {one_line(line)}", soft_wrap=True)
        if len(lines) > limit:
            console.print(f"  and {len(lines) - limit} more")


def print_lines(console: Console, lines: Sequence[str]) -> None:
    """Print lines that the user should see."""
    for line in lines:
        console.print(one_line(line), style="yellow", soft_wrap=True)


def notice(console: Console, text: str) -> None:
    """Print something that must not be missed."""
    console.print(Panel(Text(text), border_style="bold yellow", title="NOTE", expand=False))
