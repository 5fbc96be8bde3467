"""What a run shows on screen: one live line in a terminal, a line an epoch in a file."""

import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from raydae.training.runs import Status
from raydae.training.schedule import Schedule


def make_console() -> Console:
    """For standard output; as wide as the terminal, and wide enough for a table in a file."""
    # No markup: file names may hold what Rich would take for it.
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = max(shutil.get_terminal_size((120, 24)).columns, 120)
    return console


class TrainingDisplay:
    """The loss of each epoch as a line that stays, and under them one live line."""

    def __init__(
        self, console: Console, schedule: Schedule, history: Sequence[dict[str, Any]]
    ) -> None:
        self.console, self.epochs = console, schedule.epochs
        self._printed = len(history)  # epochs whose line was shown when they ended
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting the workers", total=None)

    def __enter__(self) -> "TrainingDisplay":
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, status: Status) -> None:
        """Shows a new status; the same one twice does no harm."""
        for record in status.history[self._printed :]:
            self.console.print(
                f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
                f"  loss {record['loss']:.6f}  val PSNR {_number(record['val_psnr'], '.2f')} dB"
                f"  SSIM {_number(record['val_ssim'], '.4f')}"
                f"  {record['patches_per_s']:.0f} patches/s{_held_up(record)}"
            )
            self._printed += 1
        words = [f"epoch {status.epoch}/{self.epochs}", f"step {status.step}/{status.steps}"]
        if status.loss is not None:
            words.append(f"loss {status.loss:.5f}")
        if status.history:
            words.append(f"PSNR {_number(status.history[-1]['val_psnr'], '.2f')} dB")
        if status.patches_per_s is not None:
            words.append(f"{status.patches_per_s:.0f} patches/s")
        self._progress.update(
            self._task, description="  ".join(words), completed=status.step, total=status.steps
        )


def _held_up(record: dict[str, Any]) -> str:
    """What an epoch was held up by, if by anything: data, or a worker slower than the others."""
    workers = record["by_worker"]
    said = ""
    share, rank = max((each["waited_for_data_s"], rank) for rank, each in enumerate(workers))
    if share > 0.1 * record["seconds"]:
        said += f"  waited for data {share / record['seconds']:.0%}"
        said += f" (worker {rank})" if len(workers) > 1 else ""
    computed = [each["computed_s"] for each in workers]
    if max(computed) > 1.25 * min(computed):
        slowest = computed.index(max(computed))
        said += f"  slowest: worker {slowest} on {workers[slowest]['place']}"
    return said


class SearchDisplay:
    """A live table of a search's trials; in a file, a line for each trial that has ended."""

    def __init__(self, console: Console, samples: int, epochs: int) -> None:
        self.console, self.samples, self.epochs = console, samples, epochs
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._ended: set[int] = set()

    def __enter__(self) -> "SearchDisplay":
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def show(self, rows: Sequence[dict[str, Any]]) -> None:
        """Shows the trials as they are, each a row as `trial_table` takes it."""
        if self.console.is_terminal:
            most = max(self.console.height - 5, 3)  # a table higher than the screen is cut off
            # The best, then the running, then those that ended last.
            ranked = [row for row in rows if row["best"]]
            ranked += [row for row in rows if not row["over"] and row not in ranked]
            ranked += [row for row in reversed(rows) if row not in ranked]
            shown = sorted(ranked[:most], key=lambda row: int(row["trial"]))
            over = sum(row["over"] for row in rows)
            title = f"{self.samples} trials: {over} over, {len(rows) - over} begun"
            self._live.update(trial_table(shown, self.epochs, title), refresh=True)
            return
        for row in rows:
            if row["over"] and row["trial"] not in self._ended:
                self._ended.add(row["trial"])
                self.console.print(
                    f"trial {row['trial']:>3} {row['status']:<8}  {row['settings']}  "
                    f"epochs {row['epochs']}/{self.epochs}  "
                    f"val PSNR {_number(row['val_psnr'], '.2f')} dB"
                    + (f"  {row['message']}" if row["message"] else ""),
                    soft_wrap=True,
                )


def trial_table(rows: Sequence[dict[str, Any]], epochs: int, title: str | None = None) -> Table:
    """The trials of a search.

    Args:
        rows: trial, status, sigma, lr, others (settings beside these, in words), epochs, val_psnr,
            best (whether it is the best).
        epochs: of a trial that is not stopped.
        title: written above.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title)
    for heading in ("trial", "status", "sigma", "lr", "epoch", "PSNR"):
        table.add_column(heading, justify="left" if heading == "status" else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        pale = row["status"] in ("stopped", "failed")
        table.add_row(
            str(row["trial"]),
            row["status"],
            row["sigma"],
            f"{row['lr']:g}",
            f"{row['epochs']}/{epochs}",
            _number(row["val_psnr"], ".2f"),
            row["others"] + ("  best" if row["best"] else ""),
            style="bold" if row["best"] else "dim" if pale else None,
        )
    return table


class Counter:
    """A progress bar for work on a number of things; safe to call from threads."""

    def __init__(self, progress: Progress, task: Any) -> None:
        self._progress, self._task, self._lock = progress, task, threading.Lock()

    def __call__(self, done: int, total: int) -> None:
        """Shows how many of how many are done."""
        with self._lock:
            self._progress.update(self._task, completed=done, total=total)


@contextmanager
def counting(console: Console, what: str) -> Iterator[Counter]:
    """A progress bar that is gone at the end; nothing where the output is a file."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        yield Counter(progress, progress.add_task(what, total=None))


def score_table(scores: Sequence[dict[str, Any]]) -> Table:
    """Image by image."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("image", "method", "sigma", "PSNR noisy", "PSNR", "SSIM noisy", "SSIM"):
        text = heading in ("image", "method")
        table.add_column(heading, justify="left" if text else "right", no_wrap=True)
    for line in scores:
        table.add_row(
            line["image"],
            line["method"],
            f"{line['sigma']:g}",
            f"{line['psnr_noisy']:.2f}",
            f"{line['psnr']:.2f}",
            f"{line['ssim_noisy']:.4f}",
            f"{line['ssim']:.4f}",
        )
    return table


def result_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The test table: means over the images; seconds: an image, on a core or a GPU."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    words = ["set", "method"]
    numbers = ["sigma", "images", "PSNR noisy", "PSNR", "gain", "SSIM noisy", "SSIM", "s/image"]
    for heading in words + numbers:
        table.add_column(heading, justify="left" if heading in words else "right", no_wrap=True)
    for row in rows:
        noisy, denoised = row["psnr_noisy"], row["psnr"]
        gain = None if noisy is None or denoised is None else denoised - noisy
        table.add_row(
            row["set"],
            row["method"],
            f"{row['sigma']:g}",
            str(row["images"]),
            _number(noisy, ".2f"),
            _number(denoised, ".2f"),
            _number(gain, "+.2f"),
            _number(row["ssim_noisy"], ".4f"),
            _number(row["ssim"], ".4f"),
            _number(row["seconds"], ".2f"),
        )
    return table


def benchmark_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What was measured: medians, and how far the measurements lay apart."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("part", "what", "median", "min", "max", "unit"):
        number = heading in ("median", "min", "max")
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        values = [f"{row[key]:,.4g}" for key in ("median", "min", "max")]
        table.add_row(row["part"], row["what"], *values, row["unit"])
    return table


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def print_some(console: Console, what: str, lines: Sequence[str], most: int = 5) -> None:
    """A count and the first few lines of a list; nothing where it is empty."""
    if lines:
        console.print(f"{what}: {len(lines)}", style="yellow")
        for line in lines[:most]:
            console.print(f"  {line}", soft_wrap=True)
        if len(lines) > most:
            console.print(f"  and {len(lines) - most} more")


def notice(console: Console, text: str) -> None:
    """Something that must not be missed."""
    console.print(Panel(Text(text), border_style="bold yellow", title="NOTE", expand=False))
