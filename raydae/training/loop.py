"""The training loop. It knows nothing of Ray: whoever starts it hands it its rank and its samples.

    train(config, sets, folder, Context(), lambda start: shares(samples, schedule, start))

is a whole run in a plain process; `raydae.distributed` calls the same function in each worker of
Ray Train. Workers agree on what happens next (stop, write a checkpoint, give up) in one small
all-reduce every half second or so, which also carries the losses: between two of these nothing
makes them wait for each other but the gradients.
"""

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from raydae.core.config import Config
from raydae.core.errors import UserError
from raydae.core.storage import Folder, first_line
from raydae.core.toolchain import can_build_kernels
from raydae.images.image_sets import ImageSets, subsample
from raydae.models.inference import Denoiser
from raydae.models.model_file import (
    BAD_CONTENT,
    Weights,
    load_model,
    model_of,
    pack,
    pack_optimizer,
    unpack,
    unpack_optimizer,
)
from raydae.models.networks import build
from raydae.training.optim import learning_rate
from raydae.training.runs import Checkpoints, Outcome, Progress, Status
from raydae.training.schedule import Schedule
from raydae.training.step import Batch, TrainStep
from raydae.training.validation import score_images

AGREE_SECONDS = 0.5  # between two agreements of the workers; a stop waits no longer than that
MOST_STEPS = 64  # likewise
LOOK_SECONDS = 5.0  # between two looks for machines about to go
COMPILE_STEPS = 20_000  # of a run that is long enough for compilation to pay
HASTY_SECONDS = 15.0  # between two checkpoints while one is


@dataclass(frozen=True)
class Context:
    """A worker's place among the others. The defaults are those of a plain process."""

    rank: int = 0
    workers: int = 1
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    threads: int | None = None
    """CPU threads for torch; none: as torch has them."""
    tell: Callable[[Status], bool] = lambda status: False
    """Called on rank 0 at every agreement, where True asks the run to stop, and in validation."""
    preempted: Callable[[], bool] = lambda: False
    """Called on all ranks now and then: whether a machine is about to be taken away."""
    place: str = ""
    """Which machine and process this is, for the history."""

    def total(self, values: Tensor) -> Tensor:
        """The sum over all workers, in place; float64, any shape."""
        if self.workers > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """Every worker's value, in order of rank."""
        if self.workers == 1:
            return [value]
        values: list[Any] = [None] * self.workers
        dist.all_gather_object(values, value)
        return values


def resolve_precision(asked: str, device: torch.device) -> str:
    """`bf16` where that is asked for, or left open and fast on the device; else `fp32`.

    Intel's AVX-512 multiplies bf16 no faster than fp32; only its AMX does (unet, two cores of a
    Xeon without AMX: 112 patches/s in bf16, 175 in fp32).
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        intel = str(capabilities.get("cpu_name", "")).startswith("Intel")
        native = any(capabilities.get(name) for name in ("amx_bf16", "bf16")) or (  # Intel, ARM
            bool(capabilities.get("avx512_bf16")) and not intel
        )
    return "bf16" if native else "fp32"


def resolve_compile(config: Config, schedule: Schedule, context: Context) -> bool:
    """Return whether the network is compiled: in a long run of one worker on a GPU.

    Compilation takes up to half a minute and gains 0.5 ms a step and more. It does not promise the
    same kernels in every run, so that a deterministic run goes without.
    """
    if config.compile == "off" or config.deterministic or schedule.steps < COMPILE_STEPS:
        return False
    return context.device.type == "cuda" and context.workers == 1 and can_build_kernels()


def train(
    config: Config,
    sets: ImageSets,
    folder: Folder,
    context: Context,
    batches: Callable[[int], Iterator[Batch]],
    checkpoint_minutes: float = 10.0,
) -> Outcome:
    """Trains, or goes on training, until the last epoch is done; one call in each worker.

    Args:
        config: what to train.
        sets: the images.
        folder: the run's folder, where rank 0 writes `checkpoints/`, `history.jsonl`, and at the
            end `model.safetensors` and `last.safetensors`.
        context: this worker's place.
        batches: gives this worker's share of every step from a given one on, as `samples.shares`.
        checkpoint_minutes: the longest time between two checkpoints.

    Raises:
        RuntimeError: the stream brought other samples than the step's.
    """
    _set_determinism(config.deterministic)
    # Dead filters leave numbers below 1e-38 in Muon's products, which are slow to multiply: its
    # steps took half of the time, and now a twelfth. Torch's threads, started later, inherit this.
    torch.set_flush_denormal(True)
    if context.threads is not None:
        torch.set_num_threads(context.threads)
    try:
        run = _Run(config, sets, folder, context)
    except UserError as error:
        return Outcome("failed", str(error))
    return run.train(batches, checkpoint_minutes * 60)


def _set_determinism(deterministic: bool) -> None:
    """Let a GPU compute the same bits in every run on the same GPU and software, or be fast.

    cuBLAS reads its variable when it is first used. Some operations that torch warns of add up in
    any order, among them the gradient of max pooling, but dae's windows do not overlap: each of
    its sums has one summand.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch's
    torch.backends.cudnn.benchmark = not deterministic  # shapes never change: seconds, once


class _Seconds:
    """What a worker's time goes into: the slowest worker is the one that computes longest.

    What is neither waiting for data nor computing is waiting for the other workers' gradients. On a
    GPU the time is the GPU's, which the CPU runs ahead of.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.waiting, self.computing = 0.0, 0.0
        self._spans: list[tuple[Any, Any]] = []
        self._began: Any = None

    def start(self, *_: object) -> None:
        """Begin a span of computing."""
        self._began = self._now()

    def stop(self, *_: object) -> None:
        """End the span; without one, do nothing."""
        if self._began is None:
            return
        if self.cuda:
            self._spans.append((self._began, self._now()))
        else:
            self.computing += self._now() - self._began
        self._began = None

    def settle(self) -> None:
        """Count what a GPU has computed; call it where the CPU has waited for it anyway."""
        self.computing += sum(start.elapsed_time(end) / 1000 for start, end in self._spans)
        self._spans = []

    def record(self, place: str) -> dict[str, Any]:
        """For the history."""
        waiting, computing = round(self.waiting, 3), round(self.computing, 3)
        return {"place": place, "waited_for_data_s": waiting, "computed_s": computing}

    def _now(self) -> Any:
        """A moment on the worker's device."""
        if not self.cuda:
            return time.monotonic()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch's
        event.record()
        return event


class _Run:
    """A worker's part of a run: the network, its optimizer, and how far they are."""

    def __init__(self, config: Config, sets: ImageSets, folder: Folder, context: Context) -> None:
        self.config, self.sets, self.folder, self.context = config, sets, folder, context
        self.schedule = Schedule.of(config, len(sets.train))
        self.checkpoints = Checkpoints(folder)
        self.progress, files = self.checkpoints.latest() or (Progress(), {})
        best = files.get("best.safetensors")
        self.best: Weights | None = None if best is None else unpack(best)
        self.step = self.progress.step  # steps done, those not yet agreed on included
        self.saved_step = self.step
        self.saved_at = self.looked_at = time.monotonic()
        self.preempted = False
        self.losses: list[Tensor] = []  # of these; each this worker's part
        self.unreadable = set(self.progress.unreadable)
        self.epoch_started, self.epoch_first_step = time.monotonic(), self.step
        self.seconds = _Seconds(context.device)

        # A run that was begun in bf16 goes on in bf16, whatever this machine would choose.
        self.precision = self.progress.config.get("precision") or self._agree_on_precision()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            network = build(config.model)
        if config.init is not None and not files:
            network, info = load_model(config.init)
            if info.model != config.model:
                raise UserError(f"{config.init} holds {info.model}, not {config.model}")
            self.progress.inherited = list(info.train_hashes)
        self.train_step = TrainStep(
            config,
            network,
            self.schedule,
            context.device,
            self.precision,
            context.workers,
            compiled=resolve_compile(config, self.schedule, context),
        )
        self.network, self.ema_model = self.train_step.network, self.train_step.ema_model
        if files:
            try:
                self.train_step.load(
                    unpack(files["model.safetensors"]),
                    unpack_optimizer(files["optimizer.safetensors"]),
                )
                if config.optim.ema:
                    self.ema_model.load_state_dict(unpack(files["averaged.safetensors"]))
            except BAD_CONTENT as error:
                raise UserError(
                    f"{self.checkpoints.folder} holds checkpoints of another network "
                    f"({first_line(error)}); choose another --name, or begin anew with --restart"
                ) from None
        if context.workers > 1:  # the exchange of gradients is not computing
            first = next(self.network.parameters())  # whose gradient comes last
            first.register_post_accumulate_grad_hook(lambda _: self.seconds.stop())  # type: ignore[no-untyped-call]  # torch's
            self.train_step.optimizer.register_step_pre_hook(lambda *_: self.seconds.start())

    def train(self, batches: Callable[[int], Iterator[Batch]], checkpoint_s: float) -> Outcome:
        """Steps until the run is done, is stopped, or cannot go on."""
        progress, schedule = self.progress, self.schedule
        stream = batches(self.step)
        alone = self.context.workers == 1  # who goes by its own clock; several count steps
        agree_at = self.step + 1  # soon: the first step shows how long the others will take
        agreed = self.saved_at
        while self.step < schedule.steps:
            before = time.monotonic()
            batch = next(stream)
            self.seconds.waiting += time.monotonic() - before
            self._take_step(batch)
            epoch_ends = self.step == schedule.end_of_epoch(schedule.epoch_of(self.step - 1))
            now = time.monotonic()
            later = now < agreed + AGREE_SECONDS if alone else self.step < agree_at
            if later and not epoch_ends:
                continue

            gap = min(max(int(AGREE_SECONDS * len(self.losses) / (now - agreed)), 1), MOST_STEPS)
            stop, save, gap, losses = self._agree(checkpoint_s, gap)
            for step, loss in enumerate(losses, start=progress.step + 1):
                if not math.isfinite(loss):
                    return self._diverged(step, loss)
                progress.loss_sum += loss
            progress.loss_steps += len(losses)
            progress.step, progress.next_index = self.step, self.step * schedule.batch_size
            if epoch_ends:
                self._end_epoch()
            if epoch_ends or save or stop:
                if self.context.workers > 1:
                    self.unreadable = set().union(*self.context.gather(self.unreadable))
                if not all(bool(value.isfinite().all()) for value in self.network.parameters()):
                    return self._diverged(self.step, math.nan)
                if (problem := self._on_rank_0(self._save)) is not None:
                    return Outcome("failed", problem)
                self.saved_at, self.saved_step = time.monotonic(), self.step
            if epoch_ends:
                self.epoch_started, self.epoch_first_step = time.monotonic(), self.step
                self.seconds = _Seconds(self.context.device)
            if stop and self.step < schedule.steps:
                return Outcome("stopped")
            agreed, agree_at = time.monotonic(), self.step + gap
        problem = self._on_rank_0(self._write_results)
        if self.context.rank == 0:
            self.context.tell(self._status())
        return Outcome("finished") if problem is None else Outcome("failed", problem)

    def _take_step(self, batch: Batch) -> None:
        """One optimizer step on this worker's share of the next step."""
        share = self.schedule.share(self.step, self.context.rank, self.context.workers)
        rows = len(share)
        if not np.array_equal(batch["index"][:rows], share) or (batch["index"][rows:] >= 0).any():
            raise RuntimeError(f"the stream brought sample {batch['index'][0]}, not {share[0]}")
        replaced = batch["unreadable"][:rows]
        self.unreadable.update(self.sets.train[number].name for number in replaced[replaced >= 0])
        self.seconds.start()
        loss = self.train_step({name: column[:rows] for name, column in batch.items()}, self.step)
        self.seconds.stop()
        self.losses.append(loss)
        self.step += 1

    def _agree(self, checkpoint_s: float, gap: int) -> tuple[bool, bool, int, list[float]]:
        """What all workers do next, by rank 0's word, and the losses since the last agreement.

        Returns:
            Whether to stop, whether to save a checkpoint, steps until the next agreement, losses.
        """
        word = [0.0] * 4
        if self.context.rank == 0:
            now = time.monotonic()
            due = HASTY_SECONDS if self.preempted else checkpoint_s
            look = now - self.looked_at > LOOK_SECONDS
            self.looked_at = now if look else self.looked_at
            stop = self.context.tell(self._status())
            word = [float(value) for value in (stop, now - self.saved_at > due, look, gap)]
        losses = torch.stack(self.losses).double()
        values = torch.cat([torch.tensor(word, dtype=torch.float64, device=losses.device), losses])
        will_stop, save, will_look, gap_agreed, *agreed = self.context.total(values).tolist()
        self.losses = []
        self.seconds.settle()
        if will_look:
            before, self.preempted = self.preempted, self.context.preempted()
            save = save or (self.preempted and not before)
        return bool(will_stop), bool(save), int(gap_agreed), agreed

    def _on_rank_0(self, write: Callable[[], None]) -> str | None:
        """Writes on rank 0; what went wrong with the storage, on every rank."""
        problem = None
        if self.context.rank == 0:
            try:
                write()
            except OSError as error:
                problem = (
                    f"{self.folder} cannot be written ({first_line(error)}); what was saved before "
                    "is whole: make room or give access, then go on"
                )
        said: str | None = self.context.gather(problem)[0]
        return said

    def _end_epoch(self) -> None:
        """Validates, and adds the epoch's record to the history."""
        progress = self.progress
        seconds, ended = time.monotonic() - self.epoch_started, time.time()
        patches = (self.step - self.epoch_first_step) * self.schedule.batch_size
        val_psnr, val_ssim = self._validate()
        progress.history.append(
            {
                "epoch": len(progress.history) + 1,
                "step": self.step,
                "loss": progress.loss_sum / progress.loss_steps,
                "val_psnr": val_psnr if math.isfinite(val_psnr) else None,  # JSON has no infinity
                "val_ssim": val_ssim if math.isfinite(val_ssim) else None,
                "patches_per_s": round(patches / seconds, 1),
                "lr": learning_rate(self.config.optim, self.step - 1, self.schedule.steps),
                "workers": self.context.workers,
                "seconds": round(seconds, 3),
                "by_worker": self.context.gather(self.seconds.record(self.context.place)),
                "time": round(ended, 3),  # of the last step
            }
        )
        progress.loss_sum, progress.loss_steps = 0.0, 0
        best = progress.best_psnr
        if best is None or val_psnr > best:
            # None where no image could be read: any number is better.
            progress.best_psnr = None if math.isnan(val_psnr) else val_psnr
            progress.best_epoch = progress.history[-1]["epoch"]
            self.best = {
                name: value.cpu().clone() for name, value in self.ema_model.state_dict().items()
            }

    def _validate(self) -> tuple[float, float]:
        """Mean PSNR (dB) and SSIM over the validation images, shared out among the workers."""
        if self.context.workers > 1:
            # Batch statistics differ between the workers until the next step; rank 0's are saved.
            for buffer in self.ema_model.buffers():
                dist.broadcast(buffer, src=0)
        denoise = Denoiser(self.ema_model, self.context.device, self.precision)
        sums = np.zeros(3)
        images = subsample(self.sets.val, self.config.validation.images)
        images = images[self.context.rank :: self.context.workers]
        self._say_alive()
        scored = score_images(denoise, images, self.config.evaluation_sigmas)
        for file, scores in zip(images, scored, strict=True):
            self._say_alive()
            if scores is None:
                self.unreadable.add(file.name)
            else:
                sums += scores
        totals = self.context.total(torch.from_numpy(sums).to(self.context.device))
        total_psnr, total_ssim, count = totals.tolist()
        return (total_psnr / count, total_ssim / count) if count else (math.nan, math.nan)

    def _say_alive(self) -> None:
        """Images may be many, large, or slow to come."""
        if self.context.rank == 0:
            self.context.tell(self._status())

    def _save(self) -> None:
        """Writes a checkpoint, then the history as it is there."""
        self.progress.config = self._resolved()
        self.progress.workers = self.context.workers
        self.progress.unreadable = sorted(self.unreadable)
        files = {
            "model.safetensors": pack(self.network.state_dict()),
            "optimizer.safetensors": pack_optimizer(self.train_step.optimizer.state_dict()),
        }
        if self.config.optim.ema:
            files["averaged.safetensors"] = pack(self.ema_model.state_dict())
        if self.best is not None:
            files["best.safetensors"] = pack(self.best)
        self.checkpoints.save(self.progress, files)
        self._write_history()

    def _write_history(self) -> None:
        lines = [json.dumps(record) + "\n" for record in self.progress.history]
        self.folder.write("history.jsonl", "".join(lines).encode())

    def _write_results(self) -> None:
        """The models, and the history once more: the last write may have been cut short."""
        self._write_history()
        assert self.best is not None  # an epoch was done
        for name, weights, epoch in (
            ("last.safetensors", self.ema_model.state_dict(), len(self.progress.history)),
            ("model.safetensors", self.best, self.progress.best_epoch),
        ):
            self.folder.write(name, model_of(self.progress, self.sets, weights, epoch))

    def _resolved(self) -> dict[str, Any]:
        """The configuration with what was left open resolved as it was here."""
        choices = {"precision": self.precision, "threads": torch.get_num_threads()}
        return self.config.override(choices).to_dict()

    def _agree_on_precision(self) -> str:
        """All workers use bf16, or none does."""
        ours = resolve_precision(self.config.precision, self.context.device)
        return "bf16" if set(self.context.gather(ours)) == {"bf16"} else "fp32"

    def _diverged(self, step: int, loss: float) -> Outcome:
        epoch = self.schedule.epoch_of(step - 1) + 1
        return Outcome(
            "diverged",
            f"the loss became {loss} at step {step} (epoch {epoch}) with learning rate "
            f"{self.config.optim.lr:g}",
            "lower --lr and train again with --restart, or under another --name; the last good "
            "checkpoint is kept",
        )

    def _status(self) -> Status:
        progress, seconds = self.progress, time.monotonic() - self.epoch_started
        steps = self.step - self.epoch_first_step
        return Status(
            epoch=min(self.schedule.epoch_of(self.step) + 1, self.schedule.epochs),
            step=self.step,
            steps=self.schedule.steps,
            saved=self.saved_step,
            loss=progress.loss_sum / progress.loss_steps if progress.loss_steps else None,
            patches_per_s=steps * self.schedule.batch_size / seconds if steps else None,
            history=progress.history,
        )
