"""What a step does beside the network: loss, optimizer, learning rate, averaged weights.

All of it is a function of the configuration and the step's number, so that a run goes on exactly
where it was.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.adam import adam

from raydae.core.config import OptimConfig

FLOOR = 10 / 255  # on the [0, 1] scale: below it, a smaller sigma weighs little more
CHARBONNIER_EPSILON = 1e-3  # on the [0, 1] scale; a quarter of a grey level


def compute_loss(kind: str, denoised: Tensor, clean: Tensor, noisy: Tensor) -> Tensor:
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


def make_optimizer(
    config: OptimConfig, network: nn.Module, graphs: bool = False
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015), AdamW (Loshchilov and Hutter 2019) or `Muon`.

    Args:
        config: which one, and its settings.
        network: whose parameters it updates.
        graphs: whether its steps are captured in a CUDA graph; the learning rate is then a tensor
            on the parameters' device.
    """
    if config.optimizer == "muon":
        return Muon(network, config.lr)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(
            network.parameters(),
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=graphs,
        )
    return torch.optim.Adam(network.parameters(), lr=config.lr, fused=True, capturable=graphs)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the weights of convolutions, Adam for biases and scales.

    A convolution's weight is a matrix, filters by values; its update is the momentum's with all
    singular values made about equal, so that no direction of the filters is left behind. Updates
    have the size that Adam's have (Liu et al. 2025, equation 4): one learning rate serves both.
    """

    momentum = 0.95
    betas = (0.9, 0.999)  # Adam's
    epsilon = 1e-8

    def __init__(self, network: nn.Module, lr: float) -> None:
        weights = [value for value in network.parameters() if value.ndim == 4]
        rest = [value for value in network.parameters() if value.ndim != 4]
        # `fused` tells torch to keep Adam's step counts on the parameters' device.
        super().__init__([{"params": weights}, {"params": rest}], {"lr": lr, "fused": True})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # torch's is overloaded
        """Update the parameters by their gradients, which every parameter must have."""
        weights, rest = self.param_groups
        by_shape: dict[torch.Size, list[Tensor]] = {}  # orthogonalised at once
        for value in weights["params"]:
            by_shape.setdefault(_as_matrix(value).shape, []).append(value)
        batches = [
            torch.stack([_as_matrix(value) for value in self._nesterov(values)])
            for values in by_shape.values()
        ]
        for values, updates in zip(by_shape.values(), orthogonalise(batches), strict=True):
            size = 0.2 * max(updates.shape[1:]) ** 0.5
            scaled = updates * (size * weights["lr"])
            torch._foreach_sub_(
                values,
                [
                    update.view(value.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
                    for value, update in zip(values, scaled, strict=True)
                ],
            )
        self._adam(rest["params"], rest["lr"])

    def _nesterov(self, values: list[Tensor]) -> list[Tensor]:
        """The momentum of some weights after this step's gradients, looked ahead by one step."""
        for value in values:
            if not self.state[value]:
                self.state[value]["momentum"] = torch.zeros_like(value)
        momenta = [self.state[value]["momentum"] for value in values]
        gradients = _gradients(values)
        torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
        return list(torch._foreach_lerp(gradients, momenta, self.momentum))

    def _adam(self, values: list[Tensor], lr: float | Tensor) -> None:
        for value in values:
            if not self.state[value]:
                self.state[value].update(
                    step=torch.zeros((), device=value.device),
                    mean=torch.zeros_like(value),
                    square=torch.zeros_like(value),
                )
        states = [self.state[value] for value in values]
        adam(
            values,
            _gradients(values),
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=lr,
            weight_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )


def _gradients(values: list[Tensor]) -> list[Tensor]:
    gradients = [value.grad for value in values if value.grad is not None]
    assert len(gradients) == len(values)
    return gradients


def _as_matrix(weight: Tensor) -> Tensor:
    """A convolution's weight as (filters, values); no copy where the weight is channels_last."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def orthogonalise(batches: Sequence[Tensor], steps: int = 5) -> list[Tensor]:
    """Return matrices of the same singular vectors, whose singular values are about 1.

    Newton and Schulz's iteration x <- (a + b xx' + c (xx')^2) x with the coefficients of Jordan et
    al. 2024, after which all but the smallest singular values lie between 0.7 and 1.2. Its factors
    commute, so that only the small xx' is iterated on, for all matrices of the same smaller side
    at once: a GPU is given few and large products.

    Args:
        batches: each (n, rows, columns), float32; bf16 would lose the small singular values, which
            are squared here.
        steps: of the iteration.
    """
    wide = [batch.mT if batch.shape[1] > batch.shape[2] else batch for batch in batches]
    wide = [x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7) for x in wide]
    results: list[Tensor] = list(batches)
    for side in dict.fromkeys(x.shape[1] for x in wide):
        members = [number for number, x in enumerate(wide) if x.shape[1] == side]
        products = _iterate(
            torch.cat([wide[number] @ wide[number].mT for number in members]), steps
        )
        sizes = [len(wide[number]) for number in members]
        for number, product in zip(members, torch.split(products, sizes), strict=True):
            result = product @ wide[number]
            results[number] = result.mT if batches[number].shape[1] > side else result
    return results


def _iterate(gram: Tensor, steps: int) -> Tensor:
    """The product of the iteration's factors for some xx', (n, side, side)."""
    product: Tensor | None = None
    for _ in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)
        factor.diagonal(dim1=1, dim2=2).add_(3.4445)
        product = factor if product is None else factor @ product
        gram = factor @ gram @ factor
    assert product is not None
    return product


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The learning rate of a step (0, 1 …) of a run of that many: warm-up, then the schedule."""
    rate = config.lr
    if step < config.warmup:
        return rate * (step + 1) / config.warmup
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(steps - config.warmup, 1)
        rate *= (1 + math.cos(math.pi * done)) / 2
    return rate


def ema_weight(decay: float, step: int) -> float:
    """How far averaged weights move towards the network's after a step (0, 1 …).

    The decay grows from 0.1 to its value, so that the random weights of the beginning are soon
    forgotten.
    """
    return 1 - min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(averaged: nn.Module, network: nn.Module, weight: float | Tensor) -> None:
    """Move averaged weights (Polyak and Juditsky 1992) towards the network's.

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
