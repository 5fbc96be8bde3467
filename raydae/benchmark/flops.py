"""Model FLOPs utilisation (MFU): the operations that training needs, over those a GPU could do.

Only the network's matrix products and convolutions count (Chowdhery et al. 2022, "PaLM", appendix
B), forward and backward; a multiplication and an addition are two operations. The peak is measured,
because data sheets assume clock rates that a card does not sustain.
"""

import time

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from raydae.models.networks import build
from raydae.training.config import Config
from raydae.training.losses import LOSSES

PEAK_SIZE = 8192  # rows and columns of the matrices that measure the peak


def training_flops(network: nn.Module, patch_size: int) -> int:
    """Return the operations of a forward and a backward pass for one patch."""
    compute_loss = LOSSES.bind("mse", {})
    noisy, clean = torch.rand(2, 1, 3, patch_size, patch_size)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.backward(compute_loss(network(noisy), clean, noisy))
    flops: int = counter.get_total_flops()
    return flops


def peak_flops(device: torch.device, size: int = PEAK_SIZE) -> float:
    """Return the operations per second of a large bf16 matrix product, the best of six rounds."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(6):  # the first is the slowest: it chooses an algorithm
        synchronize(device)
        began = time.perf_counter()
        for _ in range(20):
            left @ right
        synchronize(device)
        rates.append(20 * 2 * size**3 / (time.perf_counter() - began))
    return max(rates)


def card(configs: dict[str, Config]) -> tuple[float, dict[str, int]]:
    """Return the GPU's peak in FLOP/s, and the FLOPs of a training patch of each network."""
    flops = {
        name: training_flops(build(config.model).train(), config.data.patch_size)
        for name, config in configs.items()
    }
    return peak_flops(torch.device("cuda")), flops


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its work; the CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
