"""What a run or a search shows while it works: live in a terminal, plain lines in a file."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from raydae.app.tables import spell_number, trial_table
from raydae.training.schedule import Schedule
from raydae.training.status import Status


class TrainingDisplay:
    """A line for each epoch that has ended; in a terminal, a live line below them."""

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
        """Show a new status; showing the same one twice changes nothing."""
        for record in status.history[self._printed :]:
            psnr = spell_number(record["val_psnr"], ".2f")
            self.console.print(
                f"epoch {record['epoch']:>{len(str(self.epochs))}}/{self.epochs}"
                f"  loss {record['loss']:.6f}  val PSNR {psnr} dB"
                f"  SSIM {spell_number(record['val_ssim'], '.4f')}"
                f"  {record['patches_per_s']:.0f} patches/s{_slowdown(record)}"
            )
            self._printed += 1
        words = [f"epoch {status.epoch}/{self.epochs}", f"step {status.step}/{status.steps}"]
        if status.loss is not None:
            words.append(f"loss {status.loss:.5f}")
        if status.history:
            words.append(f"PSNR {spell_number(status.history[-1]['val_psnr'], '.2f')} dB")
        if status.patches_per_s is not None:
            words.append(f"{status.patches_per_s:.0f} patches/s")
        self._progress.update(
            self._task, description="  ".join(words), completed=status.step, total=status.steps
        )


def _slowdown(record: dict[str, Any]) -> str:
    """Return what slowed an epoch down, if anything: waiting for data, or one slow worker."""
    workers = record["by_worker"]
    text = ""
    waited, rank = max((each["waited_for_data_s"], rank) for rank, each in enumerate(workers))
    if waited > 0.1 * record["seconds"]:
        text += f"  waited for data {waited / record['seconds']:.0%}"
        text += f" (worker {rank})" if len(workers) > 1 else ""
    computed = [each["computed_s"] for each in workers]
    if max(computed) > 1.25 * min(computed):
        slowest = computed.index(max(computed))
        text += f"  slowest: worker {slowest} on {workers[slowest]['place']}"
    return text


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
        """Show the trials as they are, each a row as `trial_table` takes it."""
        if self.console.is_terminal:
            limit = max(self.console.height - 5, 3)  # a table higher than the screen is cut off
            # The best trial, then those that run, then those that ended last.
            ranked = [row for row in rows if row["best"]]
            ranked += [row for row in rows if not row["over"] and row not in ranked]
            ranked += [row for row in reversed(rows) if row not in ranked]
            shown = sorted(ranked[:limit], key=lambda row: int(row["trial"]))
            over = sum(row["over"] for row in rows)
            title = f"{self.samples} trials: {over} over, {len(rows) - over} running"
            self._live.update(trial_table(shown, self.epochs, title), refresh=True)
            return
        for row in rows:
            if row["over"] and row["trial"] not in self._ended:
                self._ended.add(row["trial"])
                self.console.print(
                    f"trial {row['trial']:>3} {row['status']:<8}  {row['settings']}  "
                    f"epochs {row['epochs']}/{self.epochs}  "
                    f"val PSNR {spell_number(row['val_psnr'], '.2f')} dB"
                    + (f"  {row['message']}" if row["message"] else ""),
                    soft_wrap=True,
                )
