"""Adam with decoupled weight decay."""

import torch
from torch import nn


def adamw(
    network: nn.Module, lr: float, *, weight_decay: float, capturable: bool = False
) -> torch.optim.Optimizer:
    """Return AdamW (Loshchilov and Hutter 2019) with fused kernels; see `optimizers`."""
    return torch.optim.AdamW(
        network.parameters(), lr=lr, weight_decay=weight_decay, fused=True, capturable=capturable
    )
