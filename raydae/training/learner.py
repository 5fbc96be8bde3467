"""One training step: noise, forward pass, loss, backward pass, update.

A worker that trains alone on a GPU captures the step in a CUDA graph and replays it. A step of a
small network consists of hundreds of kernels, which take longer to launch one by one than to run.
The first steps run without a graph and set up what the capture needs. Several workers exchange
gradients in every step, through DDP, and run without a graph.
"""

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raydae.core.errors import UserError
from raydae.models.inference import autocast, channels_last
from raydae.noise.batch import BatchNoise
from raydae.noise.config import NOISES
from raydae.noise.fixed_point import SCALE
from raydae.training.config import Config, OptimConfig
from raydae.training.ema import ema_weight, update_ema
from raydae.training.learning_rate import learning_rate
from raydae.training.losses import LOSSES
from raydae.training.neighbor2neighbor import neighbor_loss
from raydae.training.optimizers import OPTIMIZERS
from raydae.training.schedule import Schedule
from raydae.training.uploads import Uploads

Batch = Mapping[str, NDArray[Any]]
STEPS_BEFORE_CAPTURE = 3  # in which cuDNN chooses its algorithms, and the optimizer its state


def make_optimizer(
    config: OptimConfig, network: nn.Module, capturable: bool = False
) -> torch.optim.Optimizer:
    """Return the optimizer of a configuration.

    Args:
        config: which one, and its options.
        network: whose parameters it updates.
        capturable: whether its steps are captured in a CUDA graph; `graphs_optimizer` says whether
            they can be.

    Raises:
        UserError: it refuses its options, or is not an optimizer.
    """
    target = OPTIMIZERS.load(config.optimizer)
    options = dict(config.optimizer_options)
    if graphs_optimizer(config):
        options["capturable"] = capturable
    try:
        optimizer = target(network, config.lr, **options)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--optim.optimizer {config.optimizer} refuses its arguments: {error}"
        ) from None
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(
            f"--optim.optimizer {config.optimizer} makes a {type(optimizer).__name__}, not a "
            "torch.optim.Optimizer"
        )
    return optimizer


def graphs_optimizer(config: OptimConfig) -> bool:
    """Return whether the optimizer's steps can be captured in a CUDA graph."""
    return "capturable" in inspect.signature(OPTIMIZERS.load(config.optimizer)).parameters


class Learner:
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
        self.noise = NOISES.bind(config.noise.kind, config.noise.options)
        self.loss = LOSSES.bind(config.optim.loss, config.optim.loss_options)
        self.uses_graph = device.type == "cuda" and workers == 1 and graphs_optimizer(config.optim)
        self.optimizer = make_optimizer(config.optim, self.network, self.uses_graph)
        self.forward: Callable[[Tensor], Tensor] = self.network
        if workers > 1:
            self.forward = DistributedDataParallel(self.network, gradient_as_bucket_view=True)
        elif compiled:
            self.forward = torch.compile(self.network, dynamic=False)
        # They change from step to step. A CUDA graph reads their current values from tensors.
        self._lr: float | Tensor = torch.zeros((), device=device) if self.uses_graph else 0.0
        self._ema_weight: float | Tensor = (
            torch.zeros((), device=device) if self.uses_graph else 0.0
        )
        self._neighbor_weight: float | Tensor = (
            torch.zeros((), device=device) if self.uses_graph else 0.0
        )
        self._uploads = Uploads(device) if device.type == "cuda" else None
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

    def train_step(self, batch: Batch, step: int) -> Tensor:
        """Train on this worker's shard of a step.

        Args:
            batch: the rows of the shard, without padding, as `Samples.block` has them.
            step: its number.

        Returns:
            This worker's part of the loss, a tensor of no dimensions on the device; the parts of
            all workers add up to the mean over the batch.
        """
        optim = self.config.optim
        self._set_numbers(
            learning_rate(optim, step, self.schedule.steps),
            ema_weight(optim.ema, step),
            optim.neighbor_weight * step / self.schedule.steps,
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
        """The clean and the noisy patches of a shard: (n, 3, h, w), float32 on [0, 1].

        They are channels_last, as torch calls the order that the bytes have.
        """
        if "noisy" in inputs:
            noisy, clean = inputs["noisy"].float() / SCALE, inputs["clean"].float() / 255
        else:
            assert isinstance(self.noise, BatchNoise)
            noisy, clean = self.noise.on_device(
                inputs["clean"], inputs["parameters"], inputs["index"], self.config.seed
            )
        return clean.permute(0, 3, 1, 2), noisy.permute(0, 3, 1, 2)

    def _set_numbers(self, *values: float) -> None:
        """Set the learning rate, and the weights of EMA and of Neighbor2Neighbor's regulariser."""
        names = ("_lr", "_ema_weight", "_neighbor_weight")
        for name, value in zip(names, values, strict=True):
            if isinstance(tensor := getattr(self, name), Tensor):
                tensor.fill_(value)
            else:
                setattr(self, name, value)

    def _to_device(self, batch: Batch) -> dict[str, Tensor]:
        names = [name for name in ("clean", "noisy", "parameters", "choices") if name in batch]
        if "parameters" in batch:
            names.append("index")
        columns = {name: batch[name] for name in names}
        if self._uploads is not None:
            return self._uploads(columns)
        # Blocks are shared memory, not to be written to.
        return {name: torch.from_numpy(column.copy()) for name, column in columns.items()}

    def _compute_gradients(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Compute this worker's gradients and part of the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        mean = self._loss_of(inputs)
        # Each shard weighs by its rows, and DDP's mean over the workers becomes a sum.
        loss = mean * (len(inputs["clean"]) / self.schedule.batch_size)
        torch.autograd.backward(loss * self.workers)
        return loss.detach()

    def _loss_of(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the mean loss of this worker's patches."""
        mean: Tensor
        if "choices" in inputs:
            noisy = (inputs["clean"].float() / 255).permute(0, 3, 1, 2)
            with autocast(self.device, self.precision):
                mean = neighbor_loss(
                    self.network,
                    self.forward,
                    self.loss,
                    noisy,
                    inputs["choices"],
                    self._neighbor_weight,
                )
            return mean
        clean, noisy = self._patches(inputs)
        with autocast(self.device, self.precision):
            denoised = self.forward(noisy)
        mean = self.loss(denoised.float(), clean, noisy)
        return mean

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
