"""Optimizers: one file each. This file, the table of names, needs no torch.

An optimizer is a function or class, whose options are its further parameters:

    def optimizer(network, lr, *, option=0.9):
        \"\"\"Return a `torch.optim.Optimizer` of the network's parameters.

        lr is the highest learning rate; raydae sets each group's `lr` before every step. The state
        must be tensors and numbers, so that a checkpoint can hold it.
        \"\"\"

One that has a parameter `capturable` (bool) may be captured in a CUDA graph: if it is true, the
learning rate is a tensor on the device. Others train without a graph. To add an optimizer, write
its file and a row in `OPTIMIZERS`. An optimizer of a user's own is used by its import path:
`--optim.optimizer opts:lion --optim.optimizer-options.beta 0.9`.
"""

import math
from dataclasses import dataclass

from raydae.core.components import Builtin, Table
from raydae.core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AdamWOptions:
    """The options of `adamw.adamw`."""

    weight_decay: float = 0.0
    """Weight decay, multiplied by the learning rate."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UserError(
                f"optim.optimizer_options.weight_decay must be at least 0, not {self.weight_decay}"
            )


OPTIMIZERS = Table(
    "optimizer",
    "optim.optimizer",
    {
        "adam": Builtin("raydae.training.optimizers.adam:adam"),
        "adamw": Builtin("raydae.training.optimizers.adamw:adamw", AdamWOptions),
        "muon": Builtin("raydae.training.optimizers.muon:Muon"),
    },
    inputs=("network", "lr", "capturable"),
)
