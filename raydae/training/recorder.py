"""What a run writes: checkpoints, its history, its models. Rank 0 writes for all workers."""

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from raydae.core.components import label_of
from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder
from raydae.images.image_sets import ImageSets
from raydae.models.weights import (
    BAD_CONTENT,
    Weights,
    pack,
    pack_optimizer,
    unpack,
    unpack_optimizer,
)
from raydae.training.checkpoints import Checkpoints, TrainState
from raydae.training.config import Config
from raydae.training.context import Context
from raydae.training.learner import Learner
from raydae.training.model_of_run import model_of_run
from raydae.training.run_folder import MODEL, read_history


class Recorder:
    """The state of a run, its best weights, and their files.

    Attributes:
        state: as of the last synchronisation.
        is_new: whether there was no checkpoint to continue from.
        unreadable: images that this worker could not read.
        saved_step: the step of the latest checkpoint; 0: none yet.
    """

    def __init__(self, folder: Folder, sets: ImageSets, context: Context) -> None:
        """Read the latest checkpoint.

        Raises:
            UserError: none is intact, or another version of raydae wrote it.
        """
        self.folder, self.sets, self.context = folder, sets, context
        self._checkpoints = Checkpoints(folder)
        found = self._checkpoints.latest()
        self.is_new = found is None
        self.state = TrainState() if found is None else found.state
        self._files = {} if found is None else found.files
        best = self._files.get("best.safetensors")
        self._written_best: int | None = None  # the epoch of the best weights in the model file
        # Until then, the model files are further than this process.
        self._models_from = self.state.step + (0 if found is None else found.lost_steps)
        # It may have epochs after the checkpoint's; they stay until they are done again.
        self._history = read_history(folder)
        self._best: Weights | None = None if best is None else unpack(best)
        self.unreadable = set(self.state.unreadable)
        self.saved_step = self.state.step

    def restore(self, learner: Learner) -> None:
        """Give the learner the weights and the optimizer state of the checkpoint.

        Raises:
            UserError: they are another network's.
        """
        files, self._files = self._files, {}
        try:
            learner.load(
                unpack(files["model.safetensors"]),
                unpack_optimizer(files["optimizer.safetensors"]),
            )
            if learner.ema_model is not learner.network:
                learner.ema_model.load_state_dict(unpack(files["averaged.safetensors"]))
        except BAD_CONTENT as error:
            raise UserError(
                f"{self._checkpoints.folder} holds checkpoints of another network "
                f"({first_line(error)}); choose another --name, or begin again with --restart"
            ) from None

    def add_epoch(
        self, record: dict[str, Any], scores: dict[str, float], weights: dict[str, Tensor]
    ) -> None:
        """Add an epoch to the history, and keep its weights if they are the best so far.

        Args:
            record: what is known of the epoch besides its scores.
            scores: the validation metrics by name.
            weights: the network's, or the averaged ones.
        """
        state = self.state
        values = {
            f"val_{label_of(name)}": value if math.isfinite(value) else None  # JSON has no infinity
            for name, value in scores.items()
        }
        epoch = len(state.history) + 1
        state.history.append({"epoch": epoch, **record, **values})
        state.loss_sum, state.loss_steps = 0.0, 0
        if state.best_psnr is None or scores["psnr"] > state.best_psnr:
            # None if no image could be read: any number is better.
            state.best_psnr = None if math.isnan(scores["psnr"]) else scores["psnr"]
            state.best_epoch = epoch
            self._best = {name: value.cpu().clone() for name, value in weights.items()}

    def save(self, learner: Learner) -> str | None:
        """Write a checkpoint; return what went wrong with the storage, on every rank."""
        if self.context.workers > 1:
            self.unreadable = set().union(*self.context.gather(self.unreadable))
        problem = self._on_rank_0(lambda: self._save(learner))
        if problem is None:
            self.saved_step = self.state.step
        return problem

    def _save(self, learner: Learner) -> None:
        choices = {"precision": learner.precision, "threads": torch.get_num_threads()}
        self.state.config = _resolved(learner.config, choices)
        self.state.unreadable = sorted(self.unreadable)
        files = {
            "model.safetensors": pack(learner.network.state_dict()),
            "optimizer.safetensors": pack_optimizer(learner.optimizer.state_dict()),
        }
        if learner.ema_model is not learner.network:
            files["averaged.safetensors"] = pack(learner.ema_model.state_dict())
        if self._best is not None:
            files["best.safetensors"] = pack(self._best)
        self._checkpoints.save(self.state, files)
        self._write_models(learner)

    def finish(self, learner: Learner) -> str | None:
        """Write the models once more; return what went wrong with the storage, on every rank.

        The last write may have been cut short.
        """
        self._written_best = None
        return self._on_rank_0(lambda: self._write_models(learner))

    def _write_models(self, learner: Learner) -> None:
        """Write the history, the last weights, and the best: until an epoch is done, the last."""
        state = self.state
        records = [*state.history, *self._history[len(state.history) :]]
        text = "".join(json.dumps(record) + "\n" for record in records)
        self.folder.write("history.jsonl", text.encode())
        if state.step < self._models_from:
            return
        last, epoch = learner.ema_model.state_dict(), len(state.history)
        self.folder.write("last.safetensors", model_of_run(state, self.sets, last, epoch))
        if self._best is None:
            self.folder.write(MODEL, model_of_run(state, self.sets, last, epoch))
        elif self._written_best != state.best_epoch:
            best = model_of_run(state, self.sets, self._best, state.best_epoch)
            self.folder.write(MODEL, best)
            self._written_best = state.best_epoch

    def _on_rank_0(self, write: Callable[[], None]) -> str | None:
        """Write on rank 0; return what went wrong with the storage, on every rank."""
        problem = None
        if self.context.rank == 0:
            try:
                write()
            except OSError as error:
                problem = (
                    f"{self.folder} cannot be written ({first_line(error)}); what was saved before "
                    "is whole: make room or give access, then run the same command again"
                )
        said: str | None = self.context.gather(problem)[0]
        return said


def _resolved(config: Config, choices: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with what was left open as it was resolved here."""
    return config.override(choices).to_dict()
