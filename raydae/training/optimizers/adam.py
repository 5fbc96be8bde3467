"""Adam."""

import torch
from torch import nn


def adam(network: nn.Module, lr: float, *, capturable: bool = False) -> torch.optim.Optimizer:
    """Return Adam (Kingma and Ba 2015) with fused kernels; see `optimizers`."""
    return torch.optim.Adam(network.parameters(), lr=lr, fused=True, capturable=capturable)
