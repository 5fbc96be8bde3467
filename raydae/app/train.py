"""Train a denoiser.

    raydae train --num-workers 1

Finds or downloads BSDS500 (or takes --data), trains on this machine or on the cluster that
RAY_ADDRESS names, tests, and leaves everything in runs/NAME. The same command with the same --name
resumes a run. A name has letters of any script, digits, spaces and . _ -

Exit codes: 0 when the run has finished, or --max-minutes have stopped it with a checkpoint; 130
after Ctrl-C, 143 after SIGTERM, 129 when the terminal was closed; 2 when something failed; 1 when
the loss diverged.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from raydae.app.console import make_console
from raydae.app.displays import TrainingDisplay
from raydae.app.invocation import command_to_continue
from raydae.app.parsing import parse_with_config
from raydae.app.process import BAD_INPUT, DIVERGED, exit_code_of, print_error, stop_requests
from raydae.app.run_images import images_of_run, print_notes
from raydae.app.run_test import RunTest, show_results
from raydae.core.components import label_of
from raydae.core.errors import UserError
from raydae.core.lock import lock
from raydae.core.storage import Folder
from raydae.images.image_sets import ImageSets
from raydae.training.config import Config, check_workers, parse_workers
from raydae.training.run_folder import Run, open_run, read_history
from raydae.training.run_names import check_name, default_storage, new_name
from raydae.training.status import Outcome, Status
from raydae.training.tensorboard import TensorBoardWriter

if TYPE_CHECKING:
    from raydae.distributed.resources import Workers

STARTED = time.monotonic()  # --max-minutes counts from here: start-up is part of a lease


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where and how a run is launched, in addition to what it computes."""

    config: str | None = None
    """A config.json, or quick, unet, large; flags win."""
    name: str | None = None
    """Name of the run; resumed if there; none: new."""
    storage: str = default_storage()
    """Folder or URI for runs."""
    restart: bool = False
    """Move the run of that name aside."""
    num_workers: str | None = None
    """4, or elastic 2:8; none: every GPU, or 1 on the CPU."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """Train on GPUs."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints at most."""
    max_minutes: float | None = None
    """Stop with a checkpoint after these; none: no limit."""
    verbose: bool = False
    """Show Ray's messages."""


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    config, launch = parse_with_config(Launch, __doc__ or "", argv)
    check_launch(launch, config)
    name = name_of_run(config, launch)
    return start_or_resume(
        config, launch, name, command_to_continue("train", argv, name), make_console()
    )


def name_of_run(config: Config, launch: Launch) -> str:
    """Return the name of the run: the given one, or a new one.

    Raises:
        UserError: the given one is not valid.
    """
    return check_name(launch.name or new_name(label_of(config.model.name)))


def start_or_resume(
    config: Config, launch: Launch, name: str, command: str, screen: Console
) -> int:
    """Start a run or resume it, and test it at its end.

    Args:
        config: what to train.
        launch: where and how.
        name: the run's name.
        command: the command line that continues the run, if it stops.
        screen: where to print.

    Returns:
        The exit code.

    Raises:
        UserError: the run cannot start or continue as asked.
    """
    folder = Folder.of(launch.storage) / name
    with lock(folder):
        run = open_run(folder, config, launch.restart)
        if run.results is not None:
            screen.print(f"{name} is finished; --restart would train it again")
            show_results(folder, screen)
            return 0
        return train_and_test(run, launch, command, screen)


def check_launch(launch: Launch, config: Config) -> None:
    """Check the launch settings, as far as that needs no Ray.

    Raises:
        UserError: a value is out of range.
    """
    check_workers(parse_workers(launch.num_workers), config)
    if not launch.checkpoint_minutes >= 0:
        raise UserError(
            f"--checkpoint-minutes must be 0 or more, not {launch.checkpoint_minutes:g}"
        )
    if launch.max_minutes is not None and not launch.max_minutes > 0:
        raise UserError(f"--max-minutes must be more than 0, not {launch.max_minutes:g}")


def train_and_test(run: Run, launch: Launch, command: str, screen: Console) -> int:
    """Train a run from where it is, test it, and report.

    Args:
        run: a new one, or one that resumes.
        launch: where and how.
        command: the command line that continues the run, if it stops.
        screen: where to print.

    Returns:
        The exit code.
    """
    print_notes(run, screen)

    def start_ray() -> None:
        from raydae.distributed.start import start_ray  # takes a second: bad input comes first

        start_ray(parse_workers(launch.num_workers), run.config.threads, launch.verbose)

    run, sets = images_of_run(run, "train", screen, start_ray)
    start_ray()
    from raydae.distributed import logs

    workers = choose_workers(run, sets, launch, screen)
    if run.sets is None:  # only once nothing can be refused: it moves what --restart replaces
        run = run.begin(sets)
        print_notes(run, screen)
    try:
        with RunTest(run, workers) as test:
            outcome, stop_code = train(run, workers, launch, screen, test)
            if outcome.status != "finished":
                return report(outcome, stop_code, command, screen)
            test.run(screen)
            return 0
    except UserError as error:
        print_error(error)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:  # in the test; training has its own way to stop
        screen.print(f"interrupted; to resume: {command}", soft_wrap=True)
        return exit_code_of(interrupt)
    finally:
        logs.keep(run.folder)  # after the error, so that the log has it


def choose_workers(run: Run, sets: ImageSets, launch: Launch, screen: Console) -> "Workers":
    """Choose the workers, with Ray running; print what will be trained on what.

    Raises:
        UserError: the cluster lacks what was asked for, or its nodes see other files.
    """
    from raydae.distributed import resources, shared_storage, waiting

    asked = parse_workers(launch.num_workers)
    waiting.wait_for_node(screen.print)
    workers, word = resources.choose_workers(asked, launch.use_gpu, run.config)
    waiting.wait_for_workers(workers, screen.print)
    shared_storage.check_shared(run.folder.path_of(".lock"), "--storage")
    shared_storage.check_shared(sets.train[0].uri, "--data")
    for line in (word, resources.describe_crowding(workers, 1, run.config)):
        if line:
            screen.print(line, style="yellow")
    screen.print(
        f"{run.folder.name}: {run.config.model.name} on {len(sets.train)} images of {sets.source}, "
        f"{run.config.noise_description}, {workers}",
        soft_wrap=True,
    )
    return workers


def train(
    run: Run, workers: "Workers", launch: Launch, screen: Console, test: RunTest
) -> tuple[Outcome, int]:
    """Train a run from where it is, and show how far it is; prepare its test in time.

    Returns:
        How the run ended; and if it was stopped, the exit code: 0 after --max-minutes.
    """
    from raydae.distributed import trainer

    if run.state.step:
        screen.print(f"resumes after step {run.state.step} of {run.schedule.steps}")
    deadline = math.inf if launch.max_minutes is None else STARTED + 60 * launch.max_minutes
    with (
        stop_requests(screen) as stop_requested,
        TensorBoardWriter(run.folder) as events,
        TrainingDisplay(screen, run.schedule, run.state.history) as display,
    ):
        # After a fall-back to an older checkpoint, the file has more epochs.
        events.write(max(run.state.history, read_history(run.folder), key=len))

        def on_status(status: Status) -> None:
            test.prepare_in_time(status)
            display.show(status)
            events.write(status.history)

        outcome = trainer.train_on_ray(
            run,
            workers,
            on_status,
            lambda: stop_requested() > 0 or time.monotonic() > deadline,
            launch.checkpoint_minutes,
            screen.print,
            until_gone=False,  # the test can begin
        )
        if outcome.status == "stopped" and not stop_requested():
            minutes = f"{launch.max_minutes:g} minute{'' if launch.max_minutes == 1 else 's'}"
            outcome = replace(outcome, message=f"stopped after {minutes}")
        return outcome, stop_requested()


def report(outcome: Outcome, stop_code: int, command: str, screen: Console) -> int:
    """Print why a run has not finished, and the command that continues it; return the exit code."""
    if outcome.status == "stopped":
        screen.print(f"{outcome.message or 'stopped'}; to resume: {command}", soft_wrap=True)
        return stop_code
    print_error("; ".join(filter(None, [outcome.message, outcome.advice])))
    if outcome.status == "diverged":
        return DIVERGED
    screen.print(f"to resume: {command}", soft_wrap=True)
    return BAD_INPUT
