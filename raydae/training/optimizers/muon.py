"""Muon, for networks of convolutions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for the weights of convolutions, Adam for biases and scales.

    A convolution's weight is a matrix, filters by values; its update is the momentum's with all
    singular values made about equal, so that no direction of the filters is left behind. Updates
    have the size that Adam's have (Liu et al. 2025, equation 4): one learning rate serves both.
    """

    momentum = 0.95
    betas = (0.9, 0.999)  # Adam's
    epsilon = 1e-8

    def __init__(self, network: nn.Module, lr: float, *, capturable: bool = False) -> None:
        # Graphs need nothing: its step counts are on the device in any case.
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
