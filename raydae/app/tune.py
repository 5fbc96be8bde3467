"""Search noise level, learning rate and more.

    raydae tune --num-samples 8 --max-epochs 8

Each trial is a run of the ordinary loop. All are validated on the same images at the same noise
levels, --eval-sigma, whatever they are trained with; those that fall behind are stopped. Leaves
best.json, to train with by --config. The same command with the same --name resumes a search.
"""

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from raydae.app.console import make_console
from raydae.app.displays import SearchDisplay
from raydae.app.invocation import command_to_continue, invocation
from raydae.app.parsing import parse_with_config
from raydae.app.process import DIVERGED, exit_code_of, print_error, stop_requests
from raydae.app.run_images import images_of_run, print_notes
from raydae.app.tables import trial_table
from raydae.core.errors import UserError
from raydae.core.lock import lock
from raydae.core.storage import Folder
from raydae.images.image_sets import ImageSets
from raydae.noise.evaluation import WHITE
from raydae.search.space import LEARNING_RATE, NOISE_LEVEL, Space, format_flags
from raydae.training.config import Config, check_workers
from raydae.training.run_folder import Run, open_run
from raydae.training.run_names import check_name, default_storage, new_name

if TYPE_CHECKING:
    from raydae.search.search import Search
    from raydae.search.settings import Settings
    from raydae.search.trials import Trial


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What is searched, and where and how, in addition to what all trials share."""

    space: tuple[str, ...] = ()
    """NAME=log:LOW:HIGH or NAME=A,B,C; none: sigma, lr."""
    num_samples: int = 16
    """Trials."""
    max_epochs: int | None = None
    """Epochs of a whole trial; none: --epochs."""
    eval_sigma: tuple[str, ...] = ()
    """Validated at these levels; none: --val-sigma, or 25."""
    search: Literal["random", "optuna"] = "random"
    """How settings are drawn."""
    early_stopping: Literal["asha", "none"] = "asha"
    """When a trial is stopped."""
    max_concurrent: int | None = None
    """Trials at once; none: as many as fit."""
    config: str | None = None
    """A config.json, or quick, unet, large; flags win."""
    name: str | None = None
    """Name of the search; resumed if there; none: new."""
    storage: str = default_storage()
    """Folder or URI for searches."""
    restart: bool = False
    """Move the search of that name aside."""
    num_workers: int = 1
    """Workers of a trial."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, such as 0.25; none: 1 a worker."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """Train on GPUs."""
    verbose: bool = False
    """Show Ray's messages."""


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit code."""
    config, launch = parse_with_config(Launch, __doc__ or "", argv)
    epochs = config.optim.epochs if launch.max_epochs is None else launch.max_epochs
    config = config.override({"optim.epochs": epochs, **_validation(config, launch.eval_sigma)})
    check_launch(launch, config)
    screen = make_console()
    name = check_name(launch.name or new_name("search"))
    folder = Folder.of(launch.storage) / name
    with lock(folder):
        try:
            return search(folder, config, launch, screen)
        except KeyboardInterrupt as interrupt:
            command = command_to_continue("tune", argv, name)
            screen.print(f"stopped; to resume: {command}", soft_wrap=True)
            return exit_code_of(interrupt)


def _validation(config: Config, levels: Sequence[str]) -> dict[str, Any]:
    """Return the settings by which all trials are validated with the same noise."""
    if levels:
        return {"validation.sigma": ",".join(levels), "validation.noise": None}
    given = (config.validation.sigma, config.validation.noise, config.data.pairs)
    if any(value is not None for value in given) or config.learn != "clean":
        return {}
    if config.noise.kind == WHITE:
        return {"validation.sigma": "25"}
    options = {f"validation.noise_options.{key}": v for key, v in config.noise.options.items()}
    return {"validation.noise": config.noise.kind, **options}


def check_launch(launch: Launch, config: Config) -> None:
    """Check the launch settings, as far as that needs no Ray.

    Raises:
        UserError: a value is out of range.
    """
    for name in ("num_samples", "num_workers", "max_concurrent"):
        if (value := getattr(launch, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    check_workers((launch.num_workers, launch.num_workers), config)
    _check_gpus(launch.gpus_per_trial, launch.num_workers)
    Space.parse(launch.space or default_space(config), config)


def _check_gpus(gpus: float | None, workers: int) -> None:
    """Refuse GPUs that the workers of a trial cannot share."""
    if gpus is None:
        return
    if not (0 < gpus < 1 or (gpus >= 1 and gpus % 1 == 0)):
        raise UserError(f"--gpus-per-trial must be a part of 1, such as 0.25, or whole, not {gpus}")
    if gpus > workers:
        raise UserError(
            f"--gpus-per-trial {gpus:g} is more than --num-workers {workers} can use; a worker "
            "uses one GPU at most"
        )


def default_space(config: Config) -> tuple[str, ...]:
    """Return the space without --space: the learning rate, and sigma if the noise has one."""
    learning_rate = f"{LEARNING_RATE}=log:1e-4:1e-2"
    only_pairs = config.data.pairs is not None and config.data.pairs_share == 1
    if config.noise.sigma_range is None or only_pairs:
        return (learning_rate,)
    return f"{NOISE_LEVEL}=log:5:75", learning_rate


def search(folder: Folder, config: Config, launch: Launch, screen: Console) -> int:
    """Run a search from where it is, and show what it found; return the exit code."""
    from raydae.search.search import Search  # with Ray: seconds
    from raydae.search.settings import Settings, check_settings

    settings = Settings(
        space=launch.space or default_space(config),
        method=launch.search,
        early_stopping=launch.early_stopping == "asha",
    )
    if not launch.restart:
        check_settings(folder, config, settings)
    run = open_run(folder, config, launch.restart, kind="search")
    run, sets = images_of_run(run, "tune", screen, lambda: _start_ray(config, launch))
    workers, samples = launch.num_workers, launch.num_samples
    found = Search(folder, config, sets, settings, samples, workers, restart=run.sets is None)
    over = sum(trial.over for trial in found.trials)
    if found.trials:
        screen.print(f"resumes: {over} of {samples} trials are over and kept")
    try:
        if over < max(samples, len(found.trials)):
            run_trials(found, run, sets, settings, launch, screen)
        if found.diverged:
            print_error(
                f"every trial of {folder.name} diverged ({found.trials[0].message}); search lower "
                "learning rates with --restart, or under another --name"
            )
            return DIVERGED
        best = found.write_best()
        write_figure(found, best)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error}); make room, and run the same command again"
        ) from None
    show(found, best, screen)
    return 0


def run_trials(
    found: "Search",
    run: Run,
    sets: ImageSets,
    settings: "Settings",
    launch: Launch,
    screen: Console,
) -> None:
    """Run the trials that are not over, on this machine or on the cluster.

    Args:
        found: the search.
        run: the folder of the search as a run; it begins here if it is new.
        sets: the images.
        settings: of the search.
        launch: where and how.
        screen: where to print.
    """
    from raydae.distributed import resources, shared_storage, waiting
    from raydae.search.settings import write_settings

    config, workers = found.config, launch.num_workers
    _start_ray(config, launch)
    waiting.wait_for_node(screen.print)
    shared_storage.check_shared(found.folder.path_of(".lock"), "--storage")
    shared_storage.check_shared(sets.train[0].uri, "--data")
    each, concurrent = resources.choose_trials(
        workers,
        launch.use_gpu,
        config,
        max(launch.num_samples - sum(trial.over for trial in found.trials), 1),
        launch.max_concurrent,
        launch.gpus_per_trial,
    )
    if run.sets is None:  # only once nothing can be refused: it moves what --restart replaces
        print_notes(run.begin(sets, lambda: write_settings(found.folder, config, settings)), screen)
    if line := resources.describe_crowding(each, concurrent, config):
        screen.print(line, style="yellow")
    screen.print(
        f"{found.folder.name}: {config.model.name} on {len(sets.train)} images of {sets.source}, "
        f"validated at {config.validation.description}; {concurrent} at once, {each} each",
        soft_wrap=True,
    )
    with (
        stop_requests(screen) as stop_requested,
        SearchDisplay(screen, launch.num_samples, config.optim.epochs) as display,
    ):
        found.run(each, concurrent, lambda trials: display.show(rows(found)), stop_requested)
    if stop_requested() and not found.complete:
        raise KeyboardInterrupt(stop_requested() - 128)


def _start_ray(config: Config, launch: Launch) -> None:
    from raydae.distributed.start import start_ray

    start_ray((launch.num_workers, launch.num_workers), config.threads, launch.verbose)


def show(found: "Search", best: "Trial", screen: Console) -> None:
    """Print the table of all trials, where the files are, and how to train with the best."""
    epochs = found.config.optim.epochs
    screen.print(trial_table(rows(found), epochs))
    for trial in found.trials:
        if trial.message:
            screen.print(f"trial {trial.number}: {trial.message}", style="yellow", soft_wrap=True)
    screen.print(f"files: {found.folder}", soft_wrap=True)
    screen.print(f"the best, trial {best.number}: {format_flags(best.changes)}", soft_wrap=True)
    config = shlex.quote(found.folder.path_of("best.json"))
    threads = json.loads(found.folder.read("best.json"))["threads"]
    screen.print(f"train with it: {invocation('train')} --config {config}", soft_wrap=True)
    screen.print(
        f"it has the trial's --epochs {epochs} and --threads {threads}; give others to change them",
        soft_wrap=True,
    )


def rows(found: "Search") -> list[dict[str, Any]]:
    """Return the trials of a search as `trial_table` and `SearchDisplay` take them."""
    lines, best = [], found.best
    for trial in found.trials:
        config = found.config_of(trial)
        others = {
            name: value
            for name, value in trial.changes.items()
            if name not in (NOISE_LEVEL, LEARNING_RATE)
        }
        lines.append(
            {
                "trial": trial.number,
                "status": trial.status,
                "over": trial.over,
                "sigma": config.noise.description,
                "lr": config.optim.lr,
                "others": format_flags(others),
                "settings": format_flags(trial.changes),
                "epochs": len(trial.history),
                "val_psnr": trial.best["val_psnr"] if trial.best else None,
                "best": trial is best,
                "message": trial.message,
            }
        )
    return lines


def write_figure(found: "Search", best: "Trial") -> None:
    """Write `search.png`: a curve for each trial, and its settings."""
    from raydae.evaluation import figures

    marks: Sequence[figures.TrialMark] = [
        figures.TrialMark(
            number=trial.number,
            status=trial.status,
            sigma=found.config_of(trial).noise.sigma_range or (math.nan, math.nan),
            lr=found.config_of(trial).optim.lr,
            curve=[
                (record["epoch"], record["val_psnr"])
                for record in trial.history
                if record["val_psnr"] is not None
            ],
        )
        for trial in found.trials
        if trial.best is not None
    ]
    levels = found.config.validation.description
    title = f"{found.folder.name}: {len(found.trials)} trials of {found.config.model.name}"
    found.folder.write("search.png", figures.search_figure(marks, best.number, levels, title))
