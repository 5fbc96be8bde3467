"""Search noise level, learning rate and more.

    python jobs/tune.py --num-samples 8 --max-epochs 8

Each trial is a run of the ordinary loop. All are judged on the same images at the same noise
levels, --eval-sigma, whatever they are trained with; those that fall behind are stopped. Leaves
best.json, which jobs/train.py --config takes. The same command with the same --name goes on with
a search.
"""

import json
import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from raydae.app import cli, console
from raydae.core.config import Config, check_workers
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.search.space import Space, spell
from raydae.training.runs import check_name, claim, default_storage, new_name, open_run

if TYPE_CHECKING:
    from raydae.search.search import Search, Trial


SPACE = ("noise.sigma=log:5:75", "optim.lr=log:1e-4:1e-2")


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What is searched, and where and how, beside what all trials share."""

    space: tuple[str, ...] = ()
    """NAME=log:LOW:HIGH or NAME=A,B,C; none: sigma, lr."""
    num_samples: int = 16
    """Trials."""
    max_epochs: int | None = None
    """Epochs of a whole trial; none: --epochs."""
    eval_sigma: tuple[str, ...] = ()
    """Judged at these levels; none: --val-sigma, or 25."""
    search: Literal["random", "optuna"] = "random"
    """How settings are drawn."""
    early_stopping: Literal["asha", "none"] = "asha"
    """When a trial is stopped."""
    max_concurrent: int | None = None
    """Trials at once; none: as many as fit."""
    config: str | None = None
    """A config.json, or unet or large; flags change it."""
    name: str | None = None
    """Name of the search, which goes on if there; none: new."""
    storage: str = default_storage()
    """Folder or URI for searches."""
    restart: bool = False
    """Delete the search of that name and begin anew."""
    num_workers: int = 1
    """Workers of a trial."""
    gpus_per_trial: float | None = None
    """GPUs of a trial, such as 0.25; none: 1 a worker."""
    use_gpu: Literal["auto", "yes", "no"] = "auto"
    """Train on GPUs."""
    verbose: bool = False
    """Show what Ray has to say."""


def main() -> int:
    """Runs the job; returns its exit code."""
    config, launch = cli.parse_with_config(Launch, __doc__ or "")
    epochs = config.optim.epochs if launch.max_epochs is None else launch.max_epochs
    levels = ",".join(launch.eval_sigma) or config.validation.sigma or "25"
    config = config.override({"optim.epochs": epochs, "validation.sigma": levels})
    for name in ("num_samples", "num_workers", "max_concurrent"):
        if (value := getattr(launch, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    check_workers((launch.num_workers, launch.num_workers), config)
    check_gpus(launch.gpus_per_trial, launch.num_workers)
    Space.parse(launch.space or SPACE, config)
    screen = console.make_console()
    name = check_name(launch.name or new_name("search"))
    folder = Folder.of(launch.storage) / name
    with claim(folder):
        try:
            return search(folder, config, launch, screen)
        except KeyboardInterrupt:
            command = cli.command_to_continue(name)
            screen.print(f"stopped; to go on: {command}", soft_wrap=True)
            return 130


def check_gpus(gpus: float | None, workers: int) -> None:
    """Refuse GPUs that the workers of a trial cannot share.

    Raises:
        UserError: they are none, one and a part, or more than the workers.
    """
    if gpus is None:
        return
    if not (0 < gpus < 1 or (gpus >= 1 and gpus % 1 == 0)):
        raise UserError(f"--gpus-per-trial must be a part of 1, such as 0.25, or whole, not {gpus}")
    if gpus > workers:
        raise UserError(
            f"--gpus-per-trial {gpus:g} is more than --num-workers {workers} can use; a worker "
            "uses one GPU at most"
        )


def search(folder: Folder, config: Config, launch: Launch, screen: Console) -> int:
    """Runs a search from where it is, and shows what it found."""
    from raydae.search.search import (  # with Ray: seconds
        Search,
        Settings,
        check_settings,
        write_settings,
    )

    settings = Settings(
        space=launch.space or SPACE,
        method=launch.search,
        early_stopping=launch.early_stopping == "asha",
    )
    if not launch.restart:
        check_settings(folder, config, settings)
    run = open_run(folder, config, launch.restart, kind="search")
    sets = run.sets or cli.find_images_for(config, screen)
    workers = launch.num_workers
    samples = launch.num_samples
    found = Search(folder, config, sets, settings, samples, workers, restart=run.sets is None)

    from raydae.distributed import resources, shared_storage, start, waiting

    over = sum(trial.over for trial in found.trials)
    if found.trials:
        screen.print(f"goes on: {over} of {samples} trials are over and kept")
    try:
        if over < max(samples, len(found.trials)):
            start.start_ray((workers, workers), config.threads, launch.verbose)
            # As Ctrl-C: `ray job stop`. Ray has just set a handler of its own.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            waiting.wait_for_node(screen.print)
            shared_storage.check_shared(folder, sets)
            each, concurrent = resources.choose_trials(
                workers,
                launch.use_gpu,
                config,
                max(samples - over, 1),
                launch.max_concurrent,
                launch.gpus_per_trial,
            )
            # Not before all is known to be well: it deletes what --restart replaces.
            if run.sets is None:
                run.begin(sets, lambda: write_settings(folder, config, settings))
            screen.print(
                f"{folder.name}: {config.model.name} on {len(sets.train)} images of {sets.source}, "
                f"judged at sigma {config.validation.sigma}; {concurrent} at once, {each} each",
                soft_wrap=True,
            )
            with console.SearchDisplay(screen, samples, config.optim.epochs) as display:
                found.run(each, concurrent, lambda trials: display.show(rows(found)))
        best = found.write_best()
        write_figure(found, best, folder)
        threads = json.loads(folder.read("best.json"))["threads"]
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error}); make room, and run the same command again"
        ) from None
    show(found, best, threads, screen)
    return 0


def show(found: "Search", best: "Trial", threads: int, screen: Console) -> None:
    """The table of all trials, where the files are, and what to do with the best."""
    screen.print(console.trial_table(rows(found), found.config.optim.epochs))
    for trial in found.trials:
        if trial.message:
            screen.print(f"trial {trial.number}: {trial.message}", style="yellow", soft_wrap=True)
    screen.print(f"files: {found.folder}", soft_wrap=True)
    config = shlex.quote(found.folder.path_of("best.json"))
    screen.print(f"the best, trial {best.number}: {spell(best.changes)}", soft_wrap=True)
    screen.print(f"train with it: python jobs/train.py --config {config}", soft_wrap=True)
    screen.print(
        f"it has the trial's --epochs {found.config.optim.epochs} and --threads {threads}; give "
        "others to change them",
        soft_wrap=True,
    )


def rows(found: "Search") -> list[dict[str, Any]]:
    """The trials of a search as rows for the screen."""
    lines, best = [], found.best
    for trial in found.trials:
        config = found.config_of(trial)
        others = {
            name: value
            for name, value in trial.changes.items()
            if name not in ("noise.sigma", "optim.lr")
        }
        lines.append(
            {
                "trial": trial.number,
                "status": trial.status,
                "over": trial.over,
                "sigma": config.noise.sigma,
                "lr": config.optim.lr,
                "others": spell(others),
                "settings": spell(trial.changes),
                "epochs": len(trial.history),
                "val_psnr": trial.best["val_psnr"] if trial.best else None,
                "best": trial is best,
                "message": trial.message,
            }
        )
    return lines


def write_figure(found: "Search", best: "Trial", folder: Folder) -> None:
    """Writes `search.png`."""
    from raydae.evaluation import figures

    marks: Sequence[figures.TrialMark] = [
        figures.TrialMark(
            number=trial.number,
            status=trial.status,
            sigma=found.config_of(trial).noise.range,
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
    levels = (found.config.validation.sigma or "").replace(",", ", ")
    title = f"{folder.name}: {len(found.trials)} trials of {found.config.model.name}"
    folder.write("search.png", figures.search_figure(marks, best.number, levels, title))


if __name__ == "__main__":
    cli.main(main)
