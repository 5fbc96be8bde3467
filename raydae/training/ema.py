"""Exponential moving average of the weights (Polyak and Juditsky 1992)."""

import torch
from torch import Tensor, nn


def ema_weight(decay: float, step: int) -> float:
    """Return how far the averaged weights move towards the network's after a step (0, 1 ...).

    The decay grows from 0.1 to its value, so that the random weights of the beginning are soon
    forgotten.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(averaged: nn.Module, network: nn.Module, weight: float | Tensor) -> None:
    """Move averaged weights towards the network's.

    Args:
        averaged: a copy of the network; its buffers are averaged too, counts are copied.
        network: the network.
        weight: how far, from 0 to 1: `ema_weight`; a tensor where the call is captured in a graph.
    """
    ours, theirs = ([*module.parameters(), *module.buffers()] for module in (averaged, network))
    pairs = [pair for pair in zip(ours, theirs, strict=True) if pair[0].is_floating_point()]
    floating = [pair[0] for pair in pairs]
    change = torch._foreach_sub([pair[1] for pair in pairs], floating)
    torch._foreach_mul_(change, weight)
    torch._foreach_add_(floating, change)
    for our, their in zip(ours, theirs, strict=True):
        if not our.is_floating_point():  # BatchNorm's count
            our.copy_(their)
