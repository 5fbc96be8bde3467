"""Train a denoiser.

    python jobs/train.py --num-workers 1

Finds or downloads BSDS500 (or takes --data), trains on this machine or on the cluster that
RAY_ADDRESS names, tests, and leaves everything in runs/NAME. The same command with the same --name
goes on where a run ended.

Exit codes: 0 when the run has finished, or --max-minutes have stopped it with a checkpoint; 130
after an interrupt; 2 when something failed; 1 when the loss diverged.
"""

import importlib
import json
import math
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from raydae.app import cli, console
from raydae.core.config import check_workers, parse_workers
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images.image_sets import read_image, spread_over
from raydae.training.runs import (
    Checkpoints,
    Outcome,
    Run,
    Status,
    check_name,
    claim,
    default_storage,
    new_name,
    open_run,
)
from raydae.training.tensorboard import Events

if TYPE_CHECKING:
    from raydae.distributed.resources import Workers

STARTED = time.monotonic()  # --max-minutes counts from here: start-up is part of a lease
SAMPLE_IMAGES = 4  # in samples.png
SMALL_IMAGE = 10**6  # pixels: a quarter of a GiB with unet, a half with dae


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where and how a run is launched, beside what it computes."""

    config: str | None = None
    """A config.json, or unet or large; flags change it."""
    name: str | None = None
    """Name of the run, which goes on if there; none: new."""
    storage: str = default_storage()
    """Folder or URI for runs."""
    restart: bool = False
    """Delete the run of that name and begin anew."""
    num_workers: str | None = None
    """4, or elastic 2:8; none: every GPU, or 1 on the CPU."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """Train on GPUs."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints at most."""
    max_minutes: float | None = None
    """Stop with a checkpoint after these; none: no limit."""
    verbose: bool = False
    """Show what Ray has to say."""


def main() -> int:
    """Runs the job; returns its exit code."""
    config, launch = cli.parse_with_config(Launch, __doc__ or "")
    check_workers(parse_workers(launch.num_workers), config)
    if not launch.checkpoint_minutes >= 0:
        raise UserError(
            f"--checkpoint-minutes must be 0 or more, not {launch.checkpoint_minutes:g}"
        )
    if launch.max_minutes is not None and not launch.max_minutes > 0:
        raise UserError(f"--max-minutes must be more than 0, not {launch.max_minutes:g}")
    screen = console.make_console()
    name = check_name(launch.name or new_name(config.model.name))
    folder = Folder.of(launch.storage) / name
    with claim(folder):
        run = open_run(folder, config, launch.restart)
        if run.trained and "results.json" in folder.files():
            screen.print(f"{name} is finished; --restart would begin it anew")
            show_results(folder, screen)
            return 0
        return train_and_test(run, launch, screen)


def train_and_test(run: Run, launch: Launch, screen: Console) -> int:
    """Trains a run from where it is, tests it, and shows what there is."""
    asked = parse_workers(launch.num_workers)
    sets = run.sets or cli.find_images_for(run.config, screen)

    from raydae.distributed import (
        logs,  # with Ray, which takes a second: bad input comes first
        resources,
        shared_storage,
        start,
        waiting,
    )

    start.start_ray(asked, run.config.threads, launch.verbose)
    waiting.wait_for_node(screen.print)
    workers, word = resources.choose_workers(asked, launch.use_gpu, run.config)
    waiting.wait_for_workers(workers, screen.print)
    shared_storage.check_shared(run.folder, sets)
    if run.sets is None:  # not before all is known to be well: it deletes what --restart replaces
        run = run.begin(sets)
    if word:
        screen.print(word)
    screen.print(
        f"{run.folder.name}: {run.config.model.name} on {len(sets.train)} images of {sets.source}, "
        f"sigma {run.config.noise.sigma}, {workers}",
        soft_wrap=True,
    )
    if run.progress.step:
        screen.print(f"goes on after step {run.progress.step} of {run.schedule.steps}")
    try:
        outcome = train(run, workers, launch, screen)
        if outcome.status == "finished":
            test(run, workers, screen)
            return 0
        go_on = f"to go on: {cli.command_to_continue(run.folder.name)}"
        if outcome.status == "stopped":
            screen.print(f"{outcome.message or 'stopped'}; {go_on}", soft_wrap=True)
            return 0 if outcome.message else 130
        failed = outcome.status == "failed"
        cli.print_error("; ".join(filter(None, [outcome.message, outcome.advice])))
        if failed:
            screen.print(go_on, soft_wrap=True)
        return 2 if failed else 1
    except UserError as error:
        cli.print_error(error)
        return 2
    finally:
        logs.keep(run.folder)  # with what was said last


def train(run: Run, workers: "Workers", launch: Launch, screen: Console) -> Outcome:
    """Trains a run from where it is, and shows how far it is.

    Returns:
        How the run ended; if --max-minutes stopped it, the message says so.
    """
    from raydae.distributed import trainer

    deadline = math.inf if launch.max_minutes is None else STARTED + 60 * launch.max_minutes
    with (
        listening(screen) as interrupted,
        Events(run.folder) as events,
        console.TrainingDisplay(screen, run.schedule, run.progress.history) as display,
    ):
        events.write(run.progress.history)

        loading = threading.Thread(target=load_tests)

        def on_status(status: Status) -> None:
            if loading.ident is None:
                loading.start()
            display.show(status)
            events.write(status.history)

        outcome = trainer.train_on_ray(
            run,
            workers,
            on_status,
            lambda: interrupted() or time.monotonic() > deadline,
            launch.checkpoint_minutes,
            screen.print,
            until_gone=False,  # the test can begin
        )
        if outcome.status == "stopped" and not interrupted():
            minutes = f"{launch.max_minutes:g} minute{'' if launch.max_minutes == 1 else 's'}"
            return replace(outcome, message=f"stopped after {minutes}")
        return outcome


def load_tests() -> None:
    """Imports what the test needs: torch and more, which take seconds."""
    importlib.import_module("raydae.evaluation.evaluation")
    importlib.import_module("raydae.evaluation.figures")


def test(run: Run, workers: "Workers", screen: Console) -> None:
    """Scores the best weights on the test images; writes `results.json` and `samples.png`."""
    from raydae.evaluation import evaluation, figures
    from raydae.models.inference import Denoiser
    from raydae.models.model_file import load_model

    assert run.sets is not None
    model, sigmas = run.folder.path_of("model.safetensors"), run.config.evaluation_sigmas
    with console.counting(screen, "testing") as progress:
        # In this process, which is there at once, but for images that might take all its memory.
        small = all(file.height * file.width <= SMALL_IMAGE for file in run.sets.test)
        device: Literal["cpu", "cuda"] = "cuda" if workers.gpus else "cpu"
        here = device if workers.dedicated and small else None
        scores, failed = evaluation.evaluate(model, run.sets.test, sigmas, progress, here=here)
    if not scores:
        raise UserError(
            f"none of the {len(run.sets.test)} test images could be tested ({failed[0]}); the "
            f"model is in {run.folder}: once they are back, run the same command again"
        )
    network, info = load_model(model)
    remark = evaluation.check_overlap(info, run.sets.test, force=True)
    latest = Checkpoints(run.folder).latest()
    on_the_way = latest[0].unreadable if latest else []
    results = {
        "results": evaluation.table("test", scores, remark),
        "source": run.sets.source,
        "left_out": list(run.sets.left_out),
        "unreadable": [*on_the_way, *failed],
        "images": evaluation.records(scores),
    }
    tested = {line.image for line in scores}
    readable = tuple(file for file in run.sets.test if file.name in tested)
    images = [read_image(file.uri) for file in spread_over(readable, SAMPLE_IMAGES)]
    sigma = sigmas[len(sigmas) // 2]
    title = f"{run.folder.name}: {info.model.name} after epoch {info.epoch}, sigma {sigma:g}"
    samples = figures.panel(images, sigma, Denoiser(network), title)
    try:
        run.folder.write("samples.png", samples)
        run.folder.write("results.json", json.dumps(results, indent=1).encode())
    except OSError as error:
        raise UserError(
            f"{run.folder} cannot be written ({error}); make room, and run the same command again"
        ) from None
    console.print_some(screen, "unreadable on the way", on_the_way)
    console.print_some(screen, "not tested", failed)
    show_results(run.folder, screen)


def show_results(folder: Folder, screen: Console) -> None:
    """The test table, where the files are, and what to do with them."""
    rows = json.loads(folder.read("results.json"))["results"]
    screen.print(console.result_table(rows))
    if "remark" in rows[0]:
        screen.print(f"note: {rows[0]['remark']}", style="yellow")
    screen.print(f"files: {folder}", soft_wrap=True)
    model = shlex.quote(folder.path_of("model.safetensors"))
    screen.print(
        f"denoise: python jobs/denoise.py --model {model} PHOTO.jpg --out denoised", soft_wrap=True
    )


@contextmanager
def listening(screen: Console) -> Iterator[Callable[[], bool]]:
    """While training: Ctrl-C or SIGTERM asks for a stop, a second one ends the process at once."""
    from raydae.distributed import start

    asked = False

    def listen(signum: int, frame: object) -> None:
        nonlocal asked
        if asked:
            screen.show_cursor()
            start.leave()
            os._exit(130)
        asked = True
        screen.print("stopping after a checkpoint; once more to stop at once")

    before = {number: signal.signal(number, listen) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    cli.main(main)
