"""What a step does beside the network: loss, optimizer, learning rate, averaged weights.

All of it is a function of the configuration and the step's number, so that a run goes on exactly
where it was.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydae.config import OptimConfig

FLOOR = 10 / 255  # on the [0, 1] scale: below it, a smaller sigma weighs little more
CHARBONNIER_EPSILON = 1e-3  # on the [0, 1] scale; a quarter of a grey level


def loss_of(kind: str, denoised: Tensor, clean: Tensor, noisy: Tensor) -> Tensor:
    """The mean over all values of a loss.

    Args:
        kind: `mse`, `l1`, `charbonnier`, sqrt(d^2 + epsilon^2) (Charbonnier et al. 1994), or
            `relative`, the squared error of each patch by the square of (sigma + `FLOOR`): in `mse`
            strong noise outweighs weak, here all levels gain about the same in dB.
        denoised: float32, (n, 3, h, w).
        clean: the same.
        noisy: the same; what it differs from `clean` by tells sigma.
    """
    if kind == "mse":
        return functional.mse_loss(denoised, clean)
    if kind == "l1":
        return functional.l1_loss(denoised, clean)
    difference = denoised - clean
    if kind == "relative":
        sigma = (noisy - clean).square().mean((1, 2, 3), keepdim=True).sqrt()
        return (difference / (sigma + FLOOR)).square().mean()
    return torch.sqrt(difference * difference + CHARBONNIER_EPSILON**2).mean()


def make_optimizer(config: OptimConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) or `Muon`."""
    if config.optimizer == "muon":
        return Muon(network, config.lr)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
    return torch.optim.Adam(network.parameters(), lr=config.lr, fused=True)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the weights of convolutions, Adam for biases and scales.

    A convolution's weight is a matrix, filters by values; its step is the momentum's with all
    singular values made about equal, so that no direction of the filters is left behind. Steps have
    the size that Adam's have (Liu et al. 2025, equation 4): one learning rate serves both.
    """

    momentum = 0.95
    betas = (0.9, 0.999)  # Adam's
    epsilon = 1e-8

    def __init__(self, network: nn.Module, lr: float) -> None:
        weights = [value for value in network.parameters() if value.ndim == 4]
        rest = [value for value in network.parameters() if value.ndim != 4]
        super().__init__([{"params": weights}, {"params": rest}], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch's is overloaded
        """One step by the gradients, which every parameter must have."""
        weights, rest = self.param_groups
        alike: dict[torch.Size, list[Tensor]] = {}  # made orthogonal at once
        for value in weights["params"]:
            alike.setdefault(_as_matrix(value).shape, []).append(value)
        for (rows, columns), values in alike.items():
            steps = orthogonalise(torch.stack([_as_matrix(self._nesterov(v)) for v in values]))
            size = 0.2 * max(rows, columns) ** 0.5 * weights["lr"]
            updates = [
                step.view(value.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
                for value, step in zip(values, steps, strict=True)
            ]
            torch._foreach_sub_(values, updates, alpha=size)
        for value in rest["params"]:
            self._adam(value, rest["lr"])

    def _nesterov(self, value: Tensor) -> Tensor:
        assert value.grad is not None
        state = self.state[value]
        if not state:
            state["momentum"] = torch.zeros_like(value)
        state["momentum"].lerp_(value.grad, 1 - self.momentum)
        step: Tensor = value.grad.lerp(state["momentum"], self.momentum)
        return step

    def _adam(self, value: Tensor, lr: float) -> None:
        assert value.grad is not None
        state = self.state[value]
        if not state:
            state.update(step=0, mean=torch.zeros_like(value), square=torch.zeros_like(value))
        state["step"] += 1
        state["mean"].lerp_(value.grad, 1 - self.betas[0])
        state["square"].lerp_(value.grad**2, 1 - self.betas[1])
        mean = state["mean"] / (1 - self.betas[0] ** state["step"])
        square = state["square"] / (1 - self.betas[1] ** state["step"])
        value.sub_(mean / (square.sqrt() + self.epsilon), alpha=lr)


def _as_matrix(weight: Tensor) -> Tensor:
    """A convolution's weight as (filters, values); no copy where the weight is channels_last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices of the same singular vectors, whose singular values are about 1.

    Newton and Schulz's iteration x <- (a + b xx' + c (xx')^2) x with the coefficients of Jordan et
    al. 2024, after which all but the smallest singular values lie between 0.7 and 1.2. Its factors
    commute, so that only the small xx' is iterated on.

    Args:
        matrices: (n, rows, columns).
        steps: of the iteration.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    identity = torch.eye(len(gram[0]), device=x.device, dtype=x.dtype)
    product: Tensor = identity
    for _ in range(steps):
        factor = 3.4445 * identity - 4.7750 * gram + 2.0315 * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    result: Tensor = product @ x
    return result.mT if tall else result


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of a step (0, 1 …) of a run of that many: warm-up, then the schedule."""
    rate = config.lr
    if step < config.warmup:
        return rate * (step + 1) / config.warmup
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(steps - config.warmup, 1)
        rate *= (1 + math.cos(math.pi * done)) / 2
    return rate


@torch.no_grad()
def average(averaged: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Moves averaged weights (Polyak and Juditsky 1992) towards the network's after a step.

    The decay grows from 0.1 to its value, so that the random weights of the beginning are soon
    forgotten.
    """
    decay = min(decay, (1 + step) / (10 + step))
    ours, theirs = averaged.state_dict(), network.state_dict()
    floating = [name for name, value in ours.items() if value.is_floating_point()]
    torch._foreach_lerp_(
        [ours[name] for name in floating], [theirs[name] for name in floating], 1 - decay
    )
    for name in ours.keys() - set(floating):  # BatchNorm's count
        ours[name].copy_(theirs[name])
