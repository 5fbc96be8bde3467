"""The training loop. It knows nothing of Ray: its launcher hands it its rank and its samples.

    fit(config, sets, folder, Context(), lambda start: shards(samples, schedule, start))

is a whole run in a plain process; `raydae.distributed` calls the same function in each worker of
Ray Train.
"""

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images.image_file import ImageFile
from raydae.images.image_sets import ImageSets, subsample
from raydae.models.inference import Denoiser
from raydae.models.model_file import load_model
from raydae.models.networks import build
from raydae.training.config import Config
from raydae.training.context import Context
from raydae.training.learner import Batch, Learner
from raydae.training.learning_rate import learning_rate
from raydae.training.recorder import Recorder
from raydae.training.schedule import Schedule
from raydae.training.status import Outcome, Status
from raydae.training.sync_control import SyncControl
from raydae.training.torch_setup import resolve_compile, resolve_precision, set_up_torch
from raydae.training.validation import validate
from raydae.training.worker_times import WorkerTimes


def fit(
    config: Config,
    sets: ImageSets,
    folder: Folder,
    context: Context,
    batches: Callable[[int], Iterator[Batch]],
    checkpoint_minutes: float = 10.0,
) -> Outcome:
    """Train, or continue training, until the last epoch is done; one call in each worker.

    Args:
        config: what to train.
        sets: the images.
        folder: the run's folder, where rank 0 writes `checkpoints/`, `history.jsonl`, and at the
            end `model.safetensors` and `last.safetensors`.
        context: this worker's place.
        batches: gives this worker's shard of every step from a given one on, as `samples.shards`.
        checkpoint_minutes: the longest time between two checkpoints.

    Raises:
        RuntimeError: the stream brought other samples than the step's.
    """
    set_up_torch(config, context)
    try:
        recorder = Recorder(folder, sets, context)
        learner = make_learner(config, sets, recorder, context)
        loop = TrainingLoop(config, sets, context, recorder, learner)
        sync = SyncControl(context, checkpoint_minutes * 60, loop.step)
        stream = batches(loop.step)
        while loop.step < loop.schedule.steps:
            loop.train_step(stream)
            epoch_ends = loop.schedule.ends_epoch(loop.step)
            if not (epoch_ends or sync.due(loop.step)):
                continue
            decision, losses = sync.agree(loop.status(), loop.take_losses())
            if (diverged := loop.add_losses(losses)) is not None:
                return diverged
            if epoch_ends:
                loop.end_epoch()
            if epoch_ends or decision.save or decision.stop:
                if (failed := loop.save()) is not None:
                    return failed
                sync.saved()
            if epoch_ends:
                loop.start_epoch()
            if decision.stop and loop.step < loop.schedule.steps:
                return Outcome("stopped")
            sync.resume(loop.step, decision)
        return loop.finish()
    except UserError as error:  # a retry would not heal it
        return Outcome("failed", str(error))


def make_learner(config: Config, sets: ImageSets, recorder: Recorder, context: Context) -> Learner:
    """Return the network and its optimizer, new or as the latest checkpoint has them.

    Raises:
        UserError: the network or optimizer refuses its options, or the weights are another's.
    """
    schedule = Schedule.of(config, len(sets.train))
    # A run that was begun in bf16 continues in bf16, whatever this machine would choose.
    precision = recorder.state.config.get("precision")
    if precision is None:
        ours = resolve_precision(config.precision, context.device)
        precision = "bf16" if set(context.gather(ours)) == {"bf16"} else "fp32"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build(config.model)
    multiple = int(getattr(network, "multiple", 1))
    if config.data.patch_size % multiple:
        raise UserError(
            f"data.patch_size ({config.data.patch_size}) must be a multiple of {multiple} for "
            f"{config.model.name}; change it"
        )
    if config.init is not None and recorder.is_new:
        # The user has named the network's module already, in model.name.
        module = config.model.name.partition(":")[0]
        network, info = load_model(config.init, trust=[module])
        if info.model != config.model:
            raise UserError(
                f"--init {config.init} holds a {info.model.description}, but this run trains a "
                f"{config.model.description}; change the flags of the network"
            )
        recorder.state.inherited_hashes = info.train_hashes.text
    compiled = resolve_compile(config, schedule, context)
    learner = Learner(
        config, network, schedule, context.device, precision, context.workers, compiled
    )
    if not recorder.is_new:
        recorder.restore(learner)
    return learner


class TrainingLoop:
    """The parts of the loop: a worker's position in the run, and what one step or epoch does.

    Attributes:
        step: steps done, including those since the last synchronisation.
        schedule: the run's steps and epochs.
    """

    def __init__(
        self,
        config: Config,
        sets: ImageSets,
        context: Context,
        recorder: Recorder,
        learner: Learner,
    ) -> None:
        self.config, self.sets, self.context = config, sets, context
        self.recorder, self.learner = recorder, learner
        self.schedule, self.step = learner.schedule, recorder.state.step
        self._losses: list[Tensor] = []  # this worker's parts, since the last synchronisation
        self._times = WorkerTimes(context.device)
        if context.workers > 1:  # the exchange of gradients is not computing
            first = next(learner.network.parameters())  # whose gradient comes last
            first.register_post_accumulate_grad_hook(lambda _: self._times.stop())  # type: ignore[no-untyped-call]  # torch's
            learner.optimizer.register_step_pre_hook(lambda *_: self._times.start())
        self.start_epoch()

    def train_step(self, stream: Iterator[Batch]) -> None:
        """Take this worker's shard of the next step from the stream, and train on it.

        Raises:
            RuntimeError: the stream brought other samples.
        """
        before = time.monotonic()
        batch = next(stream)
        self._times.waiting += time.monotonic() - before

        shard = self.schedule.shard(self.step, self.context.rank, self.context.workers)
        rows = len(shard)
        if not np.array_equal(batch["index"][:rows], shard) or (batch["index"][rows:] >= 0).any():
            raise RuntimeError(f"the stream brought sample {batch['index'][0]}, not {shard[0]}")
        replaced = batch["unreadable"][:rows]
        names = (self.sets.train[number].name for number in replaced[replaced >= 0])
        self.recorder.unreadable.update(names)

        self._times.start()
        columns = {name: column[:rows] for name, column in batch.items()}
        self._losses.append(self.learner.train_step(columns, self.step))
        self._times.stop()
        self.step += 1

    def take_losses(self) -> list[Tensor]:
        """Return this worker's losses since the last synchronisation, and forget them."""
        losses, self._losses = self._losses, []
        return losses

    def add_losses(self, losses: list[float]) -> Outcome | None:
        """Add the losses of all workers to the state; return an outcome if the run diverged."""
        self._times.settle()  # the GPU is done: its losses are here
        state = self.recorder.state
        for step, loss in enumerate(losses, start=state.step + 1):
            if not math.isfinite(loss):
                return self._diverged(step, loss)
            state.loss_sum += loss
        state.loss_steps += len(losses)
        state.step = self.step
        return None

    def start_epoch(self) -> None:
        """Begin to measure an epoch, or the rest of one."""
        self._epoch_started, self._epoch_first_step = time.monotonic(), self.step
        self._times.reset()

    def end_epoch(self) -> None:
        """Validate, and add the epoch to the history."""
        seconds, ended = time.monotonic() - self._epoch_started, time.time()
        patches = (self.step - self._epoch_first_step) * self.schedule.batch_size
        scores = self._validate()
        state = self.recorder.state
        record = {
            "step": self.step,
            "loss": state.loss_sum / state.loss_steps,
            "patches_per_s": round(patches / seconds, 1),
            "lr": learning_rate(self.config.optim, self.step - 1, self.schedule.steps),
            "workers": self.context.workers,
            "seconds": round(seconds, 3),
            "by_worker": self.context.gather(self._times.record(self.context.place)),
            "time": round(ended, 3),  # of the last step
        }
        self.recorder.add_epoch(record, scores, self.learner.ema_model.state_dict())

    def _validate(self) -> dict[str, float]:
        """Return the validation metrics by name, the same on all workers."""
        # Batch statistics differ between the workers until the next step; rank 0's are saved.
        self.context.broadcast_buffers(self.learner.ema_model)
        self._tell()

        def on_image(file: ImageFile, readable: bool) -> None:
            self._tell()  # images may be many, large, or slow to arrive
            if not readable:
                self.recorder.unreadable.add(file.name)

        return validate(
            Denoiser(self.learner.ema_model, self.context.device, self.learner.precision),
            subsample(self.sets.val, self.config.validation.images),
            self.config.evaluation_noises,
            self.config.validation.metrics,
            self.context,
            on_image,
        )

    def save(self) -> Outcome | None:
        """Write a checkpoint; return an outcome if the weights diverged or writing failed."""
        parameters = self.learner.network.parameters()
        if not all(bool(value.isfinite().all()) for value in parameters):
            return self._diverged(self.step, math.nan)
        problem = self.recorder.save(self.learner)
        return None if problem is None else Outcome("failed", problem)

    def finish(self) -> Outcome:
        """Write the models, and report the end of the run."""
        problem = self.recorder.finish(self.learner)
        self._tell()
        return Outcome("finished") if problem is None else Outcome("failed", problem)

    def status(self) -> Status:
        """Return how far the run is."""
        state, seconds = self.recorder.state, time.monotonic() - self._epoch_started
        steps = self.step - self._epoch_first_step
        return Status(
            epoch=min(self.schedule.epoch_of(self.step) + 1, self.schedule.epochs),
            step=self.step,
            steps=self.schedule.steps,
            saved=self.recorder.saved_step,
            loss=state.loss_sum / state.loss_steps if state.loss_steps else None,
            patches_per_s=steps * self.schedule.batch_size / seconds if steps else None,
            history=state.history,
        )

    def _tell(self) -> None:
        """Tell the launcher how far the run is, which also shows that it is alive."""
        if self.context.rank == 0:
            self.context.tell(self.status())

    def _diverged(self, step: int, loss: float) -> Outcome:
        epoch = self.schedule.epoch_of(step - 1) + 1
        return Outcome(
            "diverged",
            f"the loss became {loss} at step {step} (epoch {epoch}) with learning rate "
            f"{self.config.optim.lr:g}",
            "lower --lr and train again with --restart, or under another --name; "
            + (
                f"the checkpoint of step {saved} and its models are kept"
                if (saved := self.recorder.saved_step)
                else "there is no checkpoint yet"
            ),
        )
