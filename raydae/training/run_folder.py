"""A run's folder: its configuration, its images, and what it has written.

    config.json         the configuration          history.jsonl   a line for each epoch
    images.parquet      the images and their use   results.json    the test table
    left_out.csv        the images that are not used, if there are any
    checkpoints/        see `checkpoints`          .lock           held by the driver while it lives

Nothing that is intact is deleted or replaced by something else: a run that cannot be resumed is
refused, and one that is restarted is moved aside first. Neither torch nor Ray is imported here.
"""

import csv
import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from raydae.core.errors import UserError, first_line
from raydae.core.lock import move_aside, unusable
from raydae.core.storage import Folder
from raydae.images.image_sets import ImageSets
from raydae.training.checkpoints import Checkpoints, TrainState
from raydae.training.config import Config, differences
from raydae.training.schedule import Schedule

MODEL = "model.safetensors"


@dataclass(frozen=True)
class Run:
    """A run that may begin or continue."""

    folder: Folder
    config: Config
    sets: ImageSets | None
    """The images that it began with; none: it is new."""
    state: TrainState
    results: dict[str, Any] | None = None
    """What `results.json` holds; none: the run is not finished."""
    notes: tuple[str, ...] = ()
    """Lines about damaged checkpoints, for the user."""
    restarted: bool = False
    """Whether an earlier run is moved aside when this one begins."""

    @property
    def schedule(self) -> Schedule:
        """Steps and epochs; only for a run that has its images."""
        assert self.sets is not None
        return Schedule.of(self.config, len(self.sets.train))

    @property
    def trained(self) -> bool:
        """Whether every epoch is done."""
        return self.sets is not None and self.state.step >= self.schedule.steps

    def begin(self, sets: ImageSets, write_first: Callable[[], None] = lambda: None) -> "Run":
        """Record the configuration and the images; first move an earlier run aside.

        Args:
            sets: the images.
            write_first: writes what must be there before `config.json`, which marks the run as
                begun.

        Raises:
            UserError: the folder cannot be written.
        """
        notes = self.notes
        try:
            if self.restarted:
                notes = (*notes, f"the earlier run is in {move_aside(self.folder)} now")
            self.folder.write("images.parquet", sets.to_parquet())
            if sets.left_out:
                self.folder.write("left_out.csv", _csv("left out", sets.left_out))
            write_first()
            self.folder.write("config.json", _json(self.config.to_dict()))
        except OSError as error:
            raise unusable(self.folder, error) from None
        return dataclasses.replace(self, sets=sets, restarted=False, notes=notes)


def open_run(folder: Folder, config: Config, restart: bool = False, kind: str = "run") -> Run:
    """Open a run's folder, for a new run or to continue one. Call it under `lock`.

    Args:
        folder: the run's own.
        config: what it is asked to do.
        restart: begin again.
        kind: `run`, or `search`, whose folder holds `search.json` as well.

    Raises:
        UserError: the run there has another configuration or no intact checkpoint, or the folder
            cannot be used.
    """
    try:
        is_run = _holds_run(folder, kind, restart)
        if restart or not is_run:
            return Run(folder, config, None, TrainState(), restarted=restart and is_run)
        old = Config.from_dict(json.loads(folder.read("config.json")))
        sets = ImageSets.from_parquet(folder.read("images.parquet"))
    except OSError as error:
        raise unusable(folder, error) from None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder} holds no run that can be read ({first_line(error)}); choose another "
            "--name, or begin again with --restart"
        ) from None
    # These may change, as the number of workers may.
    asked: dict[str, Any] = {
        "threads": config.threads,
        "noise.on": config.noise.on,
        "compile": config.compile,
        "data.changed": config.data.changed,
        "data.cache": config.data.cache,
        "data.cache_gib": config.data.cache_gib,
    }
    if old.optim.schedule == "constant":  # another schedule ends with the epochs
        asked["optim.epochs"] = max(old.optim.epochs, config.optim.epochs)
    if changes := differences(old.override(asked), config):
        raise UserError(
            f"{folder.name} was begun with another configuration ({'; '.join(changes)}); leave "
            "these as they were, choose another --name, or begin again with --restart"
        )
    try:
        results, notes = _read_results(folder, config)
        has_checkpoints = results is None and kind == "run"
        found = Checkpoints(folder).latest() if has_checkpoints else None
    except OSError as error:
        raise unusable(folder, error) from None
    state = TrainState()
    if found is not None:
        state = found.state
        notes = (*notes, *_notes_on(found.skipped, state.step, found.lost_steps))
    run = Run(folder, config, sets, state, results, notes)
    if old != config:
        run = run.begin(sets)
    return run


def _holds_run(folder: Folder, kind: str, restart: bool) -> bool:
    """Return whether a folder holds a run, rather than nothing.

    Raises:
        OSError: it cannot be read.
        UserError: it holds something else.
    """
    # A dot: the lock, or half a file that a killed process left.
    files = {name for name in folder.files() if not name.startswith(".")}
    missing = {"config.json", "images.parquet"} - files
    if not missing:
        if ("search.json" in files) != (kind == "search"):
            raise UserError(f"{folder.name} is not a {kind}; choose another --name")
        return True
    begun = {"images.parquet", "search.json"} if kind == "search" else {"images.parquet"}
    folders = {name for name in folder.folders() if not name.startswith(".")}
    if not files - begun and not folders:
        return False
    was_run = bool(folders & {"checkpoints", "trials"} or "config.json" in files)
    if was_run and restart:
        return True
    if was_run:
        raise UserError(
            f"{folder} cannot be resumed, because {' and '.join(sorted(missing))} "
            f"{'are' if len(missing) == 2 else 'is'} missing; restore what is missing, choose "
            "another --name, or begin again with --restart"
        )
    raise UserError(
        f"{folder} holds other files ({sorted(files | folders)[0]}) and no run; choose another "
        "--name"
    )


def read_results(folder: Folder, config: Config) -> dict[str, Any] | None:
    """Return what `results.json` holds, if it is of these epochs and the model is intact.

    Raises:
        OSError: the storage cannot be read.
    """
    return _read_results(folder, config)[0]


def _read_results(folder: Folder, config: Config) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """Return the same, and a line for the user if something of a finished run is damaged."""
    try:
        results: dict[str, Any] = json.loads(folder.read("results.json"))
        epochs, model_hash = results["epochs"], results["model_sha256"]
        if not all(isinstance(row, dict) for row in results["results"]):
            raise TypeError("no table")
    except FileNotFoundError:
        return None, ()
    except (ValueError, LookupError, TypeError, AttributeError):
        return None, ("results.json is damaged; the model is tested again",)
    if epochs != config.optim.epochs:
        return None, ()
    try:
        model = folder.read(MODEL)
    except FileNotFoundError:
        return None, (f"{MODEL} is missing; it is written again from the newest checkpoint",)
    if hash_of(model) != model_hash:
        return None, (f"{MODEL} is damaged; it is written again from the newest checkpoint",)
    return results, ()


def read_history(folder: Folder) -> list[dict[str, Any]]:
    """Return the records of `history.jsonl`, up to the first line that is damaged.

    Raises:
        OSError: the storage cannot be read.
    """
    records: list[dict[str, Any]] = []
    try:
        lines = folder.read("history.jsonl").decode(errors="replace").splitlines()
        for line in lines:
            record = json.loads(line)
            if record["epoch"] != len(records) + 1:
                break
            records.append(record)
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        pass
    return records


def hash_of(data: bytes) -> str:
    """Return SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _notes_on(skipped: tuple[str, ...], step: int, lost: int) -> tuple[str, ...]:
    """Return lines that tell the user which checkpoints are damaged, and what that costs."""
    again = f"; {lost} steps after it are done again" if lost else ""
    lines = [f"damaged checkpoint {line}" for line in skipped]
    return (*lines, f"the newest intact checkpoint is of step {step}{again}") if lines else ()


def _csv(header: str, lines: Sequence[str]) -> bytes:
    """Return a table of one column."""
    text = io.StringIO()
    csv.writer(text).writerows([line] for line in (header, *lines))
    return text.getvalue().encode(errors="backslashreplace")


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()
