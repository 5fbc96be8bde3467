"""Losses: one file each. This file, the table of names, needs no torch.

A loss is a function, whose keyword-only parameters are its options:

    def loss(denoised, clean, noisy, *, option=1.0):
        \"\"\"Return the mean loss over a batch: a tensor of no dimensions.

        All three are float32 (n, 3, h, w), RGB on [0, 1]; `denoised` and `noisy` may leave it. The
        mean over a batch must be the mean over its patches, because workers share the batch out.
        \"\"\"

A class is used likewise: it is made with its options and then called. To add a loss, write its file
and a row in `LOSSES`. A loss of a user's own is used by its import path:
`--optim.loss losses:huber --optim.loss-options.delta 0.1`.
"""

from dataclasses import dataclass

from raydae.core.components import Builtin, Table


@dataclass(frozen=True, kw_only=True)
class CharbonnierOptions:
    """The options of `charbonnier.charbonnier`."""

    epsilon: float = 1e-3
    """Below it the loss is quadratic; [0, 1] scale."""


@dataclass(frozen=True, kw_only=True)
class RelativeOptions:
    """The options of `relative.relative`."""

    floor: float = 10 / 255
    """Added to sigma; [0, 1] scale."""


LOSSES = Table(
    "loss",
    "optim.loss",
    {
        "mse": Builtin("raydae.training.losses.mse:mse"),
        "l1": Builtin("raydae.training.losses.l1:l1"),
        "charbonnier": Builtin(
            "raydae.training.losses.charbonnier:charbonnier", CharbonnierOptions
        ),
        "relative": Builtin("raydae.training.losses.relative:relative", RelativeOptions),
    },
)
