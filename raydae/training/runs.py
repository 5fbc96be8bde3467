"""A run's folder: what it was asked to do, its images, its checkpoints, and who works on it.

    config.json         the configuration          history.jsonl   a line for each epoch
    images.json         the images and their use   results.json    the test table
    checkpoints/        `Checkpoints`              .claim          held by the driver while it lives

A checkpoint is a folder `step-00001234` whose `checkpoint.json` is written last and holds the
SHA-256 of the other files: without it, or where one does not match, the checkpoint does not exist
and the one before it is used. Neither torch nor Ray is imported here.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raydae.core.config import Config, differences
from raydae.core.errors import UserError
from raydae.core.storage import Folder, first_line
from raydae.images.image_sets import ImageSets
from raydae.training.schedule import Schedule

FORMAT = 2  # of checkpoints
WEIGHTS = Path(__file__).parents[1] / "weights"
RELEASED = {"released": WEIGHTS / "unet.safetensors", "large": WEIGHTS / "large.safetensors"}
"""The models that come with raydae, by the words that name them."""
KEPT = 2  # checkpoints; the second is there for the day the first is damaged


@dataclass(kw_only=True)
class Progress:
    """How far a run has come: everything but tensors, and plain enough for JSON."""

    step: int = 0
    """Steps done."""
    next_index: int = 0
    """The first sample that no step has consumed."""
    loss_sum: float = 0.0
    """Of the losses of the steps since the epoch began."""
    loss_steps: int = 0
    """Steps since the epoch began."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A record for each epoch done."""
    best_psnr: float | None = None
    """Of the best weights on the validation images, dB; none: none were judged yet."""
    best_epoch: int = 0
    """The epoch after which they were the best; 0: none yet."""
    unreadable: list[str] = field(default_factory=list)
    """Training and validation images that could not be read on the way."""
    inherited: list[str] = field(default_factory=list)
    """Hashes of the images that the weights it started from were trained on."""
    config: dict[str, Any] = field(default_factory=dict)
    """The configuration, with precision and threads as they were resolved."""
    workers: int = 1
    """How many shared the last step."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Ray retries what raises, so what cannot heal is an outcome, not an error."""

    status: Literal["finished", "stopped", "diverged", "failed"]
    message: str = ""
    advice: str = ""
    """What someone who trains this one run could do."""


@dataclass(frozen=True)
class Status:
    """Where a run is, told to whoever started it."""

    epoch: int
    """From 1; the one under way."""
    step: int
    steps: int
    saved: int
    """The step of the latest checkpoint."""
    loss: float | None
    """Mean over the epoch so far."""
    patches_per_s: float | None
    history: list[dict[str, Any]]
    """A record for each epoch done."""


class Checkpoints:
    """The checkpoints of a run: how far it was, and named files of bytes."""

    def __init__(self, run: Folder) -> None:
        self.folder = run / "checkpoints"

    def save(self, progress: Progress, files: dict[str, bytes]) -> None:
        """Writes a checkpoint, then deletes all but the latest `KEPT`.

        Raises:
            OSError: it cannot be written; the checkpoints before it still are.
        """
        name = f"step-{progress.step:08d}"
        hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        info = {"format": FORMAT, "sha256": hashes, "progress": dataclasses.asdict(progress)}
        try:
            for file, data in files.items():
                (self.folder / name).write(file, data)
            (self.folder / name).write("checkpoint.json", json.dumps(info).encode())
        except OSError:
            self._discard(name)  # a full disk should not stay full because of us
            raise
        for old in self._names()[:-KEPT]:
            self._discard(old)

    def latest(self) -> tuple[Progress, dict[str, bytes]] | None:
        """The newest checkpoint that is whole, or none where there is none.

        Raises:
            OSError: the storage cannot be read.
            UserError: it is of another version of raydae.
        """
        for name in reversed(self._names()):
            if (found := self._read(name)) is not None:
                return found
        return None

    def _names(self) -> list[str]:
        return [name for name in self.folder.folders() if name.startswith("step-")]

    def _read(self, name: str) -> tuple[Progress, dict[str, bytes]] | None:
        """A checkpoint's content, or none where it is not whole."""
        folder = self.folder / name
        try:
            info = json.loads(folder.read("checkpoint.json"))
            hashes = info["sha256"]
            files = {file: folder.read(file) for file in hashes}
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None
        if any(hashlib.sha256(data).hexdigest() != hashes[file] for file, data in files.items()):
            return None
        if info["format"] != FORMAT:
            raise UserError(f"{folder} was written by another version of raydae")
        return Progress(**info["progress"]), files

    def _discard(self, name: str) -> None:
        """Deletes a checkpoint, its `checkpoint.json` first, so that half of one never counts."""
        # One checkpoint too many does no harm, and training should go on.
        with suppress(OSError):
            (self.folder / name).delete("checkpoint.json")
            self.folder.delete(name)


@dataclass(frozen=True)
class Run:
    """A run that may begin or go on."""

    folder: Folder
    config: Config
    sets: ImageSets | None
    """The images it was begun with; none: it is new."""
    progress: Progress
    restarted: bool = False
    """Whether what an earlier run left there goes when this one begins."""

    @property
    def schedule(self) -> Schedule:
        """Its steps and epochs; only for a run that has its images."""
        assert self.sets is not None
        return Schedule.of(self.config, len(self.sets.train))

    @property
    def trained(self) -> bool:
        """Whether every epoch is done."""
        return self.sets is not None and self.progress.step >= self.schedule.steps

    def begin(self, sets: ImageSets, first: Callable[[], None] = lambda: None) -> "Run":
        """Records the configuration and the images; clears the folder of a run that is restarted.

        Args:
            sets: the images.
            first: writes what must be there before it counts as begun.

        Raises:
            UserError: the folder cannot be written.
        """
        run = dataclasses.replace(self, sets=sets, restarted=False)
        try:
            if self.restarted:
                # What makes it a run goes last: a kill in between leaves one that can be restarted.
                last = ["config.json", "search.json", "images.json"]
                names = {*self.folder.files(), *self.folder.folders()} - {".claim", *last}
                for name in [*sorted(names), *last]:
                    self.folder.delete(name)
            self.folder.write("images.json", _json(sets.to_dict()))
            first()
            self.folder.write("config.json", _json(self.config.to_dict()))
        except OSError as error:
            raise UserError(_unwritable(self.folder, error)) from None
        return run


def open_run(folder: Folder, config: Config, restart: bool = False, kind: str = "run") -> Run:
    """Opens a run's folder: a new run, or one to go on with. Call it under `claim`.

    Args:
        folder: the run's own.
        config: what it is asked to do.
        restart: begin anew.
        kind: `run`, or `search`, whose folder holds `search.json` as well.

    Raises:
        UserError: the run there has another configuration, or the folder cannot be used.
    """
    try:
        # A dot: the claim, or half a file that a killed process left.
        files = {name for name in folder.files() if not name.startswith(".")}
        is_run = {"config.json", "images.json"} <= files
        if is_run and ("search.json" in files) != (kind == "search"):
            raise UserError(f"{folder.name} is not a {kind}; choose another --name")
        begun = {"images.json", "search.json"} if kind == "search" else {"images.json"}
        folders = [name for name in folder.folders() if not name.startswith(".")]
        if not is_run and (files - begun or folders):
            raise UserError(f"{folder} holds other files than a run's; choose another --name")
        if restart or not is_run:
            return Run(folder, config, None, Progress(), restarted=restart)
        old = Config.from_dict(json.loads(folder.read("config.json")))
        sets = ImageSets.from_dict(json.loads(folder.read("images.json")))
        found = Checkpoints(folder).latest()
    except OSError as error:
        raise UserError(_unwritable(folder, error)) from None
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder} holds no run that can be read ({first_line(error)}); choose another --name"
        ) from None
    progress = found[0] if found else Progress()
    # Free, as the number of workers is.
    asked: dict[str, Any] = {
        "threads": config.threads,
        "noise.on": config.noise.on,
        "compile": config.compile,
    }
    if old.optim.schedule == "constant":  # another schedule has come to its end with the epochs
        asked["optim.epochs"] = max(old.optim.epochs, config.optim.epochs)
    if changes := differences(old.override(asked), config):
        raise UserError(
            f"{folder.name} was begun with another configuration ({'; '.join(changes)}); leave "
            "these as they were, choose another --name, or begin anew with --restart"
        )
    run = Run(folder, config, sets, progress)
    if old.optim.epochs < config.optim.epochs:  # what was the end is none now
        try:
            folder.delete("results.json")
        except OSError as error:
            raise UserError(_unwritable(folder, error)) from None
    if old != config:
        run = run.begin(sets)
    return run


@contextmanager
def claim(folder: Folder) -> Iterator[None]:
    """Holds a run's folder, so that no second process works on it; a dead process holds nothing.

    A folder behind a URI cannot be held.

    Raises:
        UserError: a live process holds it, or the folder cannot be written.
    """
    if folder.local is None:
        yield
        return
    try:
        folder.local.mkdir(parents=True, exist_ok=True)
        file = (folder.local / ".claim").open("a+")
    except OSError as error:
        raise UserError(_unwritable(folder, error)) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                raise UserError(
                    f"{folder} cannot be held against other processes ({first_line(error)}); "
                    "choose a --storage whose file system has locks (flock)"
                ) from None
            file.seek(0)
            raise UserError(
                f"{folder.name} is being worked on by {file.read().strip() or 'another process'}; "
                "wait for it, stop it, or choose another --name"
            ) from None
        with suppress(OSError):  # on a full disk the claim holds without its words
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            os.fsync(file.fileno())  # so that other machines read it too, over NFS
        try:
            yield
        finally:
            with suppress(FileNotFoundError):  # someone has deleted it meanwhile
                if [path.name for path in folder.local.iterdir()] == [".claim"]:  # no run was begun
                    (folder.local / ".claim").unlink()
                    folder.local.rmdir()


def claim_of(folder: Folder) -> bytes:
    """What a claim says, by which one knows that two machines see the same local folder."""
    try:
        return b"" if folder.local is None else (folder.local / ".claim").read_bytes()
    except OSError:
        return b""


def check_name(name: str) -> str:
    """A run's name, if it can be one.

    Raises:
        UserError: it is empty, starts with a dot or dash, or holds more than letters, digits, ._-
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
        raise UserError(f"--name {name!r}: a name has letters, digits and ._- only, 100 at most")
    return name


def new_name(kind: str) -> str:
    """A name for a new run, which no other has."""
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def default_storage() -> str:
    """The folder or URI for runs where none is named; a cluster sets one for all its jobs."""
    return os.environ.get("RAYDAE_STORAGE") or "runs"


def find_model(model: str) -> str:
    """The absolute path or URI of a model file; for `last`, of the newest finished run.

    The words of `RELEASED` stay words: the place of the package may differ between nodes.

    Raises:
        UserError: no run has finished.
    """
    if model in RELEASED:
        return model
    if model != "last":
        return model if "://" in model else str(Path(model).expanduser().absolute())
    runs = Folder.of(default_storage())
    try:
        finished = {
            name: when for name in runs.folders() if (when := (runs / name).written("results.json"))
        }
    except OSError as error:
        raise UserError(_unwritable(runs, error)) from None
    if not finished:
        raise UserError(f"no run has finished in {runs}; give --model FILE")
    return (runs / max(finished, key=lambda name: finished[name])).path_of("model.safetensors")


def _json(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, indent=2) + "\n").encode()


def _unwritable(folder: Folder, error: OSError) -> str:
    return f"{folder} cannot be used ({first_line(error)}); choose another --storage"
