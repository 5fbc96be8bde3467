"""The test at the end of a run: `results.json`, `samples.png`, and the table on screen."""

import json
import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console

from raydae.app.console import counting, print_some
from raydae.app.invocation import invocation
from raydae.app.tables import level_of, result_table, undefined_lines
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.evaluation.run_scores import RunScores
from raydae.training.checkpoints import Checkpoints
from raydae.training.run_folder import MODEL, Run, hash_of
from raydae.training.status import Status

if TYPE_CHECKING:
    from raydae.distributed.helper import Helper
    from raydae.distributed.resources import Workers

AHEAD_S = 30  # of the end of the training; the imports take 5 s on two busy cores
SMALL_IMAGE = 10**6  # pixels; denoising one takes a quarter of a GiB with unet, a half with dae


class RunTest:
    """The test of a run, in a process of its own: this one holds the run's lock, so it must live.

    Use it in a `with` statement, at whose end the process ends.
    """

    def __init__(self, run: Run, workers: "Workers") -> None:
        """Remember what to test.

        Args:
            run: a run that has its images.
            workers: those that train it.
        """
        self._run, self._workers = run, workers
        self._helper: Helper[RunScores] | None = None
        self._first: tuple[float, int] | None = None  # time and step of the first status

    def __enter__(self) -> "RunTest":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._helper is not None:
            self._helper.stop()

    def prepare_in_time(self, status: Status) -> None:
        """Start the process half a minute before the training will probably end, or later.

        Its imports take seconds, and it has memory that the training may want until then.

        Args:
            status: how far the training is. Call it with each.
        """
        now = time.monotonic()
        if self._first is None:
            self._first = now, status.step
        began, first = self._first
        done, left = status.step - first, status.steps - status.step
        if done and left * (now - began) / done < AHEAD_S:
            self._prepare()

    def _prepare(self) -> None:
        """Start the process, if it has not been started."""
        if self._helper is None:
            from raydae.distributed.helper import Helper

            self._helper = Helper("test", _import)

    def run(self, screen: Console) -> None:
        """Score the best weights on the test images; write the results and show them.

        Raises:
            UserError: no test image can be read, the results cannot be written, or the process was
                killed four times.
        """
        run, sets = self._run, self._run.sets
        assert sets is not None
        self._prepare()
        assert self._helper is not None
        # That process can start at once. Large images could exhaust its memory: each of them is
        # scored in a process that is replaced alone.
        small = bool((sets.test.areas <= SMALL_IMAGE).all())
        device = "cuda" if self._workers.gpus else "cpu"
        here = device if self._workers.dedicated and small else None
        with counting(screen, "testing") as progress:
            scores = self._helper.do(run.folder, run.config, sets.test, here, progress=progress)
        latest = Checkpoints(run.folder).latest()
        lost_in_training = latest.state.unreadable if latest else []
        print_some(screen, "unreadable while training", lost_in_training)
        print_some(screen, "not tested", scores.failed)
        results = {
            "results": scores.means,
            "epochs": run.config.optim.epochs,
            "model_sha256": hash_of(run.folder.read(MODEL)),
            "source": sets.source,
            "left_out": list(sets.left_out),
            "unreadable": [*lost_in_training, *scores.failed],
            "images": scores.images,
        }
        try:
            run.folder.write("samples.png", scores.samples)
            run.folder.write("results.json", json.dumps(results, indent=1).encode())
        except OSError as error:
            raise UserError(
                f"{run.folder} cannot be written ({error}); make room, and run the same command "
                "again"
            ) from None
        show_results(run.folder, screen)


def _import() -> Callable[..., RunScores]:
    """Return what tests a run; torch is imported in that process only."""
    from raydae.evaluation.score_run import score_run

    return score_run


def show_results(folder: Folder, screen: Console) -> None:
    """Print the test table of a run, where its files are, and how to use the model."""
    rows = json.loads(folder.read("results.json"))["results"]
    screen.print(result_table(rows))
    for line in undefined_lines(rows):
        screen.print(line, style="yellow", soft_wrap=True)
    if "remark" in rows[0]:
        screen.print(f"note: {rows[0]['remark']}", style="yellow")
    screen.print(f"files: {folder}", soft_wrap=True)
    worse = [level_of(row) for row in rows if not _helps(row)]
    if worse:
        screen.print(
            f"at {', '.join(worse)} the result is no better than the noisy input; train for "
            "longer, or lower --lr",
            style="yellow",
            soft_wrap=True,
        )
    if len(worse) == len(rows):
        return
    model = shlex.quote(folder.path_of(MODEL))
    screen.print(
        f"denoise: {invocation('denoise')} --model {model} PHOTO.jpg --out denoised",
        soft_wrap=True,
    )


def _helps(row: dict[str, Any]) -> bool:
    """Return whether a result is better than its input; it is perfect if its PSNR is infinite."""
    return row["psnr"] is None or (
        row["psnr_noisy"] is not None and row["psnr"] > row["psnr_noisy"]
    )
