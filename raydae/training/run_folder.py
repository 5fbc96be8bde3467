"""A run's folder: its configuration, its images, and what it has written.

    config.json         the configuration          history.jsonl   a line for each epoch
    images.json         the images and their use   results.json    the test table
    checkpoints/        see `checkpoints`          .lock           held by the driver while it lives

Neither torch nor Ray is imported here.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raydae.core.errors import UserError, first_line
from raydae.core.lock import LOCK_FILE, unusable
from raydae.core.storage import Folder
from raydae.images.image_sets import ImageSets
from raydae.training.checkpoints import Checkpoints, TrainState
from raydae.training.config import Config, differences
from raydae.training.schedule import Schedule


@dataclass(frozen=True)
class Run:
    """A run that may begin or continue."""

    folder: Folder
    config: Config
    sets: ImageSets | None
    """The images that it began with; none: it is new."""
    state: TrainState
    restarted: bool = False
    """Whether the files of an earlier run are deleted when this one begins."""

    @property
    def schedule(self) -> Schedule:
        """Steps and epochs; only for a run that has its images."""
        assert self.sets is not None
        return Schedule.of(self.config, len(self.sets.train))

    @property
    def trained(self) -> bool:
        """Whether every epoch is done."""
        return self.sets is not None and self.state.step >= self.schedule.steps

    def begin(self, sets: ImageSets, first: Callable[[], None] = lambda: None) -> "Run":
        """Record the configuration and the images; clear the folder of a run that is restarted.

        Args:
            sets: the images.
            first: writes what must be there before the run counts as begun.

        Raises:
            UserError: the folder cannot be written.
        """
        run = dataclasses.replace(self, sets=sets, restarted=False)
        try:
            if self.restarted:
                # These are deleted last: a kill in between leaves a run that can be restarted.
                last = ["config.json", "search.json", "images.json"]
                names = {*self.folder.files(), *self.folder.folders()} - {LOCK_FILE, *last}
                for name in [*sorted(names), *last]:
                    self.folder.delete(name)
            self.folder.write("images.json", _json(sets.to_dict()))
            first()
            self.folder.write("config.json", _json(self.config.to_dict()))
        except OSError as error:
            raise unusable(self.folder, error) from None
        return run


def open_run(folder: Folder, config: Config, restart: bool = False, kind: str = "run") -> Run:
    """Open a run's folder, for a new run or to continue one. Call it under `lock`.

    Args:
        folder: the run's own.
        config: what it is asked to do.
        restart: begin again.
        kind: `run`, or `search`, whose folder holds `search.json` as well.

    Raises:
        UserError: the run there has another configuration, or the folder cannot be used.
    """
    try:
        # A dot: the lock, or half a file that a killed process left.
        files = {name for name in folder.files() if not name.startswith(".")}
        is_run = {"config.json", "images.json"} <= files
        if is_run and ("search.json" in files) != (kind == "search"):
            raise UserError(f"{folder.name} is not a {kind}; choose another --name")
        begun = {"images.json", "search.json"} if kind == "search" else {"images.json"}
        folders = [name for name in folder.folders() if not name.startswith(".")]
        if not is_run and (files - begun or folders):
            raise UserError(f"{folder} holds other files than a run's; choose another --name")
        if restart or not is_run:
            return Run(folder, config, None, TrainState(), restarted=restart)
        old = Config.from_dict(json.loads(folder.read("config.json")))
        sets = ImageSets.from_dict(json.loads(folder.read("images.json")))
        found = Checkpoints(folder).latest()
    except OSError as error:
        raise unusable(folder, error) from None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder} holds no run that can be read ({first_line(error)}); choose another --name"
        ) from None
    state = found[0] if found else TrainState()
    # These may change, as the number of workers may.
    asked: dict[str, Any] = {
        "threads": config.threads,
        "noise.on": config.noise.on,
        "compile": config.compile,
    }
    if old.optim.schedule == "constant":  # another schedule ends with the epochs
        asked["optim.epochs"] = max(old.optim.epochs, config.optim.epochs)
    if changes := differences(old.override(asked), config):
        raise UserError(
            f"{folder.name} was begun with another configuration ({'; '.join(changes)}); leave "
            "these as they were, choose another --name, or begin again with --restart"
        )
    run = Run(folder, config, sets, state)
    if old.optim.epochs < config.optim.epochs:  # it is no longer finished
        try:
            folder.delete("results.json")
        except OSError as error:
            raise unusable(folder, error) from None
    if old != config:
        run = run.begin(sets)
    return run


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
