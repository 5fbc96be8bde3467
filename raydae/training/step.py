"""One training step: noise, forward pass, loss, backward pass, update.

A worker that trains alone on a GPU captures the step in a CUDA graph and replays it: a step of a
small network is some hundreds of kernels, which take longer to launch one by one than to run. The
first steps run without a graph, and set up what the capture needs. Several workers exchange
gradients in every step, by DDP, and run without one.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydae.core.config import Config
from raydae.models.inference import autocast, channels_last
from raydae.noise.gaussian import SCALE
from raydae.noise.on_device import add_noise
from raydae.training.optim import (
    compute_loss,
    ema_weight,
    learning_rate,
    make_optimizer,
    update_ema,
)
from raydae.training.schedule import Schedule

Batch = Mapping[str, NDArray[Any]]
STEPS_BEFORE_CAPTURE = 3  # in which cuDNN chooses its algorithms, and the optimizer its state


class TrainStep:
    """The network with its optimizer and averaged weights, and the step that trains them.

    Attributes:
        network: the network, in training mode, on the device.
        ema_model: the averaged weights; the network itself where `optim.ema` is 0.
        optimizer: of the network.
    """

    def __init__(
        self,
        config: Config,
        network: nn.Module,
        schedule: Schedule,
        device: torch.device,
        precision: str,
        workers: int = 1,
        compiled: bool = False,
    ) -> None:
        """Move the network to the device.

        Args:
            config: of the run.
            network: with its first weights.
            schedule: of the run.
            device: of this worker.
            precision: `fp32` or `bf16`.
            workers: how many share each step; the process group exists where that is above 1.
            compiled: whether torch compiles the network, which joins the small operations between
                convolutions into few kernels; only for one worker.
        """
        self.config, self.schedule, self.device = config, schedule, device
        self.precision, self.workers = precision, workers
        self.network = channels_last(network, device).train()
        self.ema_model = copy.deepcopy(self.network) if config.optim.ema else self.network
        self.uses_graph = device.type == "cuda" and workers == 1
        self.optimizer = make_optimizer(config.optim, self.network, self.uses_graph)
        self.forward: Callable[[Tensor], Tensor] = self.network
        if workers > 1:
            self.forward = DistributedDataParallel(self.network, gradient_as_bucket_view=True)
        elif compiled:
            self.forward = torch.compile(self.network, dynamic=False)
        # What changes from step to step; a graph reads it from the device.
        self._lr: float | Tensor = torch.zeros((), device=device) if self.uses_graph else 0.0
        self._ema_weight: float | Tensor = (
            torch.zeros((), device=device) if self.uses_graph else 0.0
        )
        self._uploads = _Uploads(device) if device.type == "cuda" else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: dict[str, Tensor] = {}  # what the graph reads
        self._loss: Tensor | None = None  # what it writes
        self._steps_done = 0

    def load(self, network: dict[str, Tensor], optimizer: dict[str, Any]) -> None:
        """Take the weights and the optimizer state of a checkpoint; call it before the first step.

        Raises:
            ValueError, LookupError, RuntimeError: they are another network's.
        """
        self.network.load_state_dict(network)
        capturable = [group.get("capturable") for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(optimizer)
        for group, ours in zip(self.optimizer.param_groups, capturable, strict=True):
            if ours is not None:  # the machine's, not the checkpoint's
                group["capturable"] = ours

    def __call__(self, batch: Batch, step: int) -> Tensor:
        """Train on this worker's share of a step.

        Args:
            batch: the rows of the share, without padding, as `Samples.block` has them.
            step: its number.

        Returns:
            This worker's part of the loss, a tensor of no dimensions on the device; the parts of
            all workers add up to the mean over the batch.
        """
        optim = self.config.optim
        self._set_numbers(
            learning_rate(optim, step, self.schedule.steps), ema_weight(optim.ema, step)
        )
        inputs = self._to_device(batch)
        self._steps_done += 1
        if not self.uses_graph or self._steps_done <= STEPS_BEFORE_CAPTURE:
            loss = self._compute_gradients(inputs)
            self._update()
            return loss
        if self._graph is None:
            self._capture(inputs)
        for name, value in self._inputs.items():
            value.copy_(inputs[name])
        assert self._graph is not None
        assert self._loss is not None
        self._graph.replay()
        return self._loss.clone()

    def _patches(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The clean and the noisy patches of a share: (n, 3, h, w), float32 on [0, 1].

        They are channels_last, as torch calls the order that the bytes have.
        """
        clean = inputs["clean"]
        if "noisy" in inputs:
            noisy = inputs["noisy"].float() / SCALE
        else:
            noisy = add_noise(clean, inputs["sigma"], inputs["index"], self.config.seed)
        return (clean.float() / 255).permute(0, 3, 1, 2), noisy.permute(0, 3, 1, 2)

    def _set_numbers(self, lr: float, weight: float) -> None:
        if isinstance(self._lr, Tensor) and isinstance(self._ema_weight, Tensor):
            self._lr.fill_(lr)
            self._ema_weight.fill_(weight)
        else:
            self._lr, self._ema_weight = lr, weight

    def _to_device(self, batch: Batch) -> dict[str, Tensor]:
        names = ("clean", "noisy") if "noisy" in batch else ("clean", "sigma", "index")
        columns = {name: batch[name] for name in names}
        if self._uploads is not None:
            return self._uploads(columns)
        # Blocks are shared memory, not to be written to.
        return {name: torch.from_numpy(column.copy()) for name, column in columns.items()}

    def _compute_gradients(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute this worker's gradients and part of the loss."""
        clean, noisy = self._patches(inputs)
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            denoised = self.forward(noisy)
        # Each share weighs by its rows, and DDP's mean over the workers becomes a sum.
        loss = compute_loss(self.config.optim.loss, denoised.float(), clean, noisy)
        loss = loss * (len(clean) / self.schedule.batch_size)
        torch.autograd.backward(loss * self.workers)
        return loss.detach()

    def _update(self) -> None:
        """Update the network by its gradients, then the averaged weights."""
        optim = self.config.optim
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr
        if optim.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), optim.clip)
        self.optimizer.step()
        if optim.ema:
            update_ema(self.ema_model, self.network, self._ema_weight)

    def _capture(self, inputs: Mapping[str, Tensor]) -> None:
        """Capture the step in a graph, which reads copies of `inputs`; nothing is computed yet."""
        self._inputs = {name: value.clone() for name, value in inputs.items()}
        self.optimizer.zero_grad(set_to_none=True)  # gradients are to lie in the graph's memory
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._loss = self._compute_gradients(self._inputs)
            self._update()
        self._graph = graph


class _Uploads:
    """Copies batches to a GPU while it computes on the one before, through pinned memory.

    Two sets of buffers take turns. A set is written again when the step before the last, which
    read it, is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
        self._sets: list[dict[str, tuple[Tensor, Tensor]]] = [{}, {}]
        self._copied = [torch.cuda.Event(), torch.cuda.Event()]  # type: ignore[no-untyped-call]  # torch's
        self._number = 0
        # Everything that was asked for before the last batch.
        self._before_last = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """The columns on the device, valid until the call after the next."""
        turn = self._number % 2
        buffers, copied = self._sets[turn], self._copied[turn]
        self._number += 1
        copied.synchronize()  # the pinned memory has been read
        current = torch.cuda.current_stream(self._device)
        for name, column in columns.items():
            if name not in buffers or buffers[name][0].shape != column.shape:
                values = torch.from_numpy(column[:0].copy())
                pinned = torch.empty(column.shape, dtype=values.dtype, pin_memory=True)
                buffers[name] = pinned, torch.empty_like(pinned, device=self._device)
                self._stream.wait_stream(current)  # what had this memory before
            np.copyto(buffers[name][0].numpy(), column)
        self._stream.wait_event(self._before_last)
        self._before_last = current.record_event()
        with torch.cuda.stream(self._stream):
            for name in columns:
                pinned, value = buffers[name]
                value.copy_(pinned, non_blocking=True)
            copied.record(self._stream)
        current.wait_event(copied)
        return {name: buffers[name][1] for name in columns}
