"""The Python interface to the commands `train` and `evaluate`. See `raydae.train`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from raydae.app.console import make_console
from raydae.app.evaluate import Arguments, measure
from raydae.app.process import SIGNALS
from raydae.app.train import Launch, check_launch, name_of_run, start_or_resume
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.training.config import Config, load_config
from raydae.training.run_folder import MODEL, read_results


@dataclass(frozen=True)
class TrainResult:
    """A run that has finished, or was stopped with a checkpoint."""

    folder: str
    """Path or URI of the run's folder."""
    finished: bool
    """Whether every epoch is done; if not, the same call resumes the run."""
    results: list[dict[str, Any]]
    """The test table: one row for each noise level; empty if the run is not finished."""

    @property
    def model(self) -> str:
        """Path or URI of the run's model file."""
        return Folder.of(self.folder).path_of(MODEL)


def train(
    config: Config | str | Mapping[str, Any], quiet: bool, settings: dict[str, Any]
) -> TrainResult:
    """Train a denoiser; see `raydae.train`."""
    if isinstance(config, str):
        config = load_config(config)
    elif isinstance(config, Mapping):
        config = Config().override(config)
    for key in ("storage", "num_workers"):
        if settings.get(key) is not None:
            settings[key] = str(settings[key])
    launch = Launch(**{key: value for key, value in settings.items() if value is not None})
    check_launch(launch, config)
    name = name_of_run(config, launch)
    command = f"raydae.train(..., name={name!r})"
    code = start_or_resume(config, launch, name, command, _screen(quiet))
    folder = Folder.of(launch.storage) / name
    finished = read_results(folder, config)
    results = [] if finished is None else finished["results"]
    if code not in (0, *(128 + number for number in SIGNALS)) or (
        code == 0 and not results and launch.max_minutes is None
    ):
        raise UserError(f"the run {name} failed; its messages are above, its files in {folder}")
    return TrainResult(str(folder), bool(results), results)


def evaluate(model: str | Path, quiet: bool, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Measure a model; see `raydae.evaluate`."""
    if settings["sigma"] is not None:
        settings["sigma"] = tuple(f"{sigma:g}" for sigma in settings["sigma"])
    settings["told"] = tuple(f"{sigma:g}" for sigma in settings["told"])
    for key in ("data_options", "noise_options"):
        settings[key] = tuple(
            f"{name}={json.dumps(value)}" for name, value in settings[key].items()
        )
    for key in ("noisy", "clean"):
        settings[key] = None if settings[key] is None else str(settings[key])
    for key in ("metrics", "trust"):
        settings[key] = tuple(settings[key])
    return measure(Arguments(model=str(model), **settings), _screen(quiet)).rows


def _screen(quiet: bool) -> Console:
    return Console(quiet=True) if quiet else make_console()
