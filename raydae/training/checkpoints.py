"""Checkpoints: folders in a run's folder that are whole or do not count.

A checkpoint is a folder `step-00001234`. Its `checkpoint.json` is written last and holds the
SHA-256 of the other files. If it is missing or a hash differs, the checkpoint does not count, and
the one before it is used. Neither torch nor Ray is imported here.
"""

import dataclasses
import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from raydae.core.errors import UserError
from raydae.core.storage import Folder

FORMAT = 3
KEPT = 2  # checkpoints; the second is for the case that the first is damaged


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
    inherited_hashes: list[str] = field(default_factory=list)
    """Hashes of the images that the weights of `--init` were trained on."""
    config: dict[str, Any] = field(default_factory=dict)
    """The configuration, with precision and threads as they were resolved."""


class Checkpoints:
    """The checkpoints of a run: its state, and named files of bytes."""

    def __init__(self, run: Folder) -> None:
        self.folder = run / "checkpoints"

    def save(self, state: TrainState, files: dict[str, bytes]) -> None:
        """Write a checkpoint, then delete all but the latest `KEPT`.

        Raises:
            OSError: it cannot be written; the checkpoints before it are still there.
        """
        name = f"step-{state.step:08d}"
        hashes = {file: hashlib.sha256(data).hexdigest() for file, data in files.items()}
        info = {"format": FORMAT, "sha256": hashes, "state": dataclasses.asdict(state)}
        try:
            for file, data in files.items():
                (self.folder / name).write(file, data)
            (self.folder / name).write("checkpoint.json", json.dumps(info).encode())
        except OSError:
            self._discard(name)  # half a checkpoint should not keep a full disk full
            raise
        for old in self._names()[:-KEPT]:
            self._discard(old)

    def latest(self) -> tuple[TrainState, dict[str, bytes]] | None:
        """Return the state and files of the newest whole checkpoint; none if there is none.

        Raises:
            OSError: the storage cannot be read.
            UserError: another version of raydae wrote it.
        """
        for name in reversed(self._names()):
            if (found := self._read(name)) is not None:
                return found
        return None

    def _names(self) -> list[str]:
        return [name for name in self.folder.folders() if name.startswith("step-")]

    def _read(self, name: str) -> tuple[TrainState, dict[str, bytes]] | None:
        """Return the content of a checkpoint; none if it is not whole."""
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
        return TrainState(**info["state"]), files

    def _discard(self, name: str) -> None:
        """Delete a checkpoint, its `checkpoint.json` first, so that half of one never counts."""
        # One checkpoint too many does no harm, and training should continue.
        with suppress(OSError):
            (self.folder / name).delete("checkpoint.json")
            self.folder.delete(name)
