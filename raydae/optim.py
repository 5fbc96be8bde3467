"""What a step does beside the network: loss, optimizer, learning rate, averaged weights.

All of it is a function of the configuration and the step's number, so that a run goes on exactly
where it was.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from raydae.config import OptimConfig

CHARBONNIER_EPSILON = 1e-3  # on the [0, 1] scale; a quarter of a grey level


def loss_of(kind: str, denoised: Tensor, clean: Tensor) -> Tensor:
    """The mean over all values of a loss.

    Args:
        kind: `mse`, `l1`, or `charbonnier`, sqrt(d^2 + epsilon^2) (Charbonnier et al. 1994).
        denoised: float32, any shape.
        clean: the same.
    """
    if kind == "mse":
        return functional.mse_loss(denoised, clean)
    if kind == "l1":
        return functional.l1_loss(denoised, clean)
    difference = denoised - clean
    return torch.sqrt(difference * difference + CHARBONNIER_EPSILON**2).mean()


def make_optimizer(config: OptimConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015) or AdamW (Loshchilov and Hutter 2019)."""
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
        )
    return torch.optim.Adam(network.parameters(), lr=config.lr, fused=True)


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

    The decay grows from 0.18 to its value, so that the random weights of the beginning are soon
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
