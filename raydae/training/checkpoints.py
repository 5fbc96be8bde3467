"""Checkpoints: folders in a run's folder that are intact or do not count.

A checkpoint is a folder `step-00001234`. Its `checkpoint.json` is written last and holds the
SHA-256 of the other files and of the state. If it is missing or a hash differs, the checkpoint does
not count, and the one before it is used. Neither torch nor Ray is imported here.
"""

import dataclasses
import hashlib
import json
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raydae.core.errors import UserError
from raydae.core.pixel_hashes import PixelHashes
from raydae.core.storage import Folder
from raydae.models.header import is_whole

FORMAT = 5
KEPT = 2  # intact checkpoints; the second is for the case that the first is damaged
DRAFT = ".new-"  # before the name of a checkpoint that is being written
TRACES = ("history.jsonl", "last.safetensors", "model.safetensors", "results.json")
"""Files of a run that are only there after its first checkpoint."""


@dataclass(kw_only=True)
class TrainState:
    """How far a run is: everything but tensors, as plain values that JSON can hold."""

    step: int = 0
    """Steps done."""
    loss_sum: float = 0.0
    """Sum of the losses since the epoch began."""
    loss_steps: int = 0
    """Steps since the epoch began."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A record for each finished epoch."""
    best_psnr: float | None = None
    """Validation PSNR of the best weights, dB; none: no image could be read yet."""
    best_epoch: int = 0
    """The epoch that had the best weights; 0: none yet."""
    unreadable: list[str] = field(default_factory=list)
    """Training and validation images that could not be read so far."""
    inherited_hashes: str = ""
    """The images that the weights of `--init` were trained on, as `PixelHashes.text`."""
    config: dict[str, Any] = field(default_factory=dict)
    """The configuration, with precision and threads as they were resolved."""


class Checkpoint(NamedTuple):
    """An intact checkpoint."""

    state: TrainState
    files: dict[str, bytes]
    """Content by file name."""
    skipped: tuple[str, ...] = ()
    """A line for each damaged checkpoint that is newer."""
    lost_steps: int = 0
    """Steps between this checkpoint and the newest damaged one."""


class Checkpoints:
    """The checkpoints of a run: its state, and named files of bytes."""

    def __init__(self, run: Folder) -> None:
        self.run, self.folder = run, run / "checkpoints"
        self._intact: set[str] = set()  # names of those that were read or written here

    def save(self, state: TrainState, files: dict[str, bytes]) -> None:
        """Write a checkpoint, then delete all intact ones but the newest `KEPT`.

        Damaged ones stay, because something in them may still be of use.

        Raises:
            OSError: it cannot be written; the checkpoints before it are still there.
        """
        name = f"step-{state.step:08d}"
        hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        values = dataclasses.asdict(state)
        info = {
            "format": FORMAT,
            "sha256": hashes,
            "state_sha256": hash_of_values(values),
            "state": values,
        }
        # On an object store, which cannot rename a folder, `checkpoint.json` makes it whole.
        draft = name if self.folder.local is None else f"{DRAFT}{name}"
        try:
            for file, data in files.items():
                (self.folder / draft).write(file, data)
            (self.folder / draft).write("checkpoint.json", json.dumps(info).encode())
            if self.folder.local is not None:
                self._put_aside(name)
                (self.folder.local / draft).rename(self.folder.local / name)
        except OSError:
            self._discard(draft)  # half a checkpoint should not keep a full disk full
            raise
        self._intact.add(name)
        with suppress(OSError):  # a checkpoint too many does no harm
            self._delete_old(name)

    def _put_aside(self, name: str) -> None:
        """Rename a checkpoint that is there already, damaged or of the same bits."""
        assert self.folder.local is not None
        number, present = 1, set(self.folder.folders())
        while f"{name}.{number}" in present:
            number += 1
        if name in present:
            (self.folder.local / name).rename(self.folder.local / f"{name}.{number}")

    def _delete_old(self, written: str) -> None:
        """Delete intact checkpoints but the newest ones, and what kills in mid-write have left."""
        kept = 1
        for name in self.folder.folders():
            if name.startswith(DRAFT):
                self._discard(name)
        for name in self._names():
            if name == written:
                continue
            if self.folder.local is None and not self._is_complete(name):
                self._discard(name)
            elif name in self._intact or not isinstance(self._read(name), str):
                kept += 1
                if kept > KEPT:
                    self._discard(name)

    def _is_complete(self, name: str) -> bool:
        return "checkpoint.json" in (self.folder / name).files()

    def latest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint; none if the run has not come to its first.

        Raises:
            OSError: the storage cannot be read.
            UserError: another version of raydae wrote it; or the run had checkpoints, and all are
                damaged or gone.
        """
        damage: dict[str, str] = {}
        for name in self._names():
            found = self._read(name)
            if isinstance(found, Checkpoint):
                newest = max(map(_step_of, damage), default=0)
                return found._replace(
                    skipped=tuple(f"{name}: {reason}" for name, reason in damage.items()),
                    lost_steps=max(newest - found.state.step, 0),
                )
            damage[name] = found
        present = set(self.run.files())
        begun = present.intersection(TRACES) or any(map(self._is_complete, damage))
        if not begun:  # a kill in the first one leaves a part of it
            return None
        raise UserError(self._refusal(damage, present))

    def _refusal(self, damage: dict[str, str], present: set[str]) -> str:
        """Return why the run cannot be resumed, and what can still be done with it."""
        why = "its checkpoints are gone"
        if damage:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in damage.items())
            why = f"none of its checkpoints is intact ({reasons})"
        what = "restore them"
        for name in ("model.safetensors", "last.safetensors"):
            if name in present and is_whole(self.run.read(name)):
                weights = shlex.quote(self.run.path_of(name))
                what = f"train on from its weights with --init {weights} and another --name"
                break
        return f"{self.run.name} cannot be resumed, because {why}; {what}, or use --restart"

    def _names(self) -> list[str]:
        """Return the names of all checkpoints, intact or not, the newest first.

        The newest one has the most steps. Times of files do not survive a copy.
        """
        names = [name for name in self.folder.folders() if _step_of(name)]
        return sorted(names, key=_step_of, reverse=True)

    def _read(self, name: str) -> Checkpoint | str:
        """Return the content of a checkpoint, or what is wrong with it."""
        folder = self.folder / name
        file = "checkpoint.json"
        try:
            info = json.loads(folder.read(file))
            hashes, version = info["sha256"], info["format"]
            if version not in (4, FORMAT):
                raise UserError(f"{folder} was written by another version of raydae")
            if info["state_sha256"] != hash_of_values(info["state"]):
                return f"{file} is damaged"
            if version == 4:  # a list of hashes
                hashes_of_init = info["state"]["inherited_hashes"]
                info["state"]["inherited_hashes"] = PixelHashes.of(hashes_of_init).text
            state = TrainState(**info["state"])
            files = {}
            for file in hashes:
                files[file] = folder.read(file)
        except FileNotFoundError:
            return f"{file} is missing"
        except (ValueError, LookupError, TypeError):
            return f"{file} is damaged"
        for file, data in files.items():
            if hashlib.sha256(data).hexdigest() != hashes[file]:
                return f"{file} is damaged"
        self._intact.add(name)
        return Checkpoint(state, files)

    def _discard(self, name: str) -> None:
        """Delete a checkpoint, its `checkpoint.json` first, so that half of one never counts."""
        # One checkpoint too many does no harm, and training should continue.
        with suppress(OSError):
            (self.folder / name).delete("checkpoint.json")
            self.folder.delete(name)


def hash_of_values(values: dict[str, Any]) -> str:
    """Return SHA-256 of values that JSON can hold, in hexadecimal."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _step_of(name: str) -> int:
    """Return the step in a checkpoint's name; 0 if it is another name."""
    found = re.fullmatch(r"step-(\d+)", name)
    return int(found[1]) if found else 0
