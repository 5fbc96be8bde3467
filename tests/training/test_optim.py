import math

import pytest
import torch
from torch import nn

from raydae.training.config import OptimConfig
from raydae.training.ema import ema_weight, update_ema
from raydae.training.learner import make_optimizer
from raydae.training.learning_rate import learning_rate
from raydae.training.losses import LOSSES
from raydae.training.optimizers.muon import Muon, orthogonalise


def test_losses_by_hand() -> None:
    denoised, clean = torch.tensor([0.1, 0.5, 0.0]), torch.tensor([0.0, 0.7, 0.0])

    def loss(kind: str) -> float:
        options = LOSSES.check(kind, {}, "")
        return float(LOSSES.bind(kind, options)(denoised, clean, clean))

    assert loss("mse") == pytest.approx(0.05 / 3)
    assert loss("l1") == pytest.approx(0.1)
    by_hand = sum(math.hypot(d, 1e-3) for d in (0.1, 0.2, 0.0)) / 3
    assert loss("charbonnier") == pytest.approx(by_hand)


def test_the_relative_loss_weighs_each_patch_by_its_noise() -> None:
    clean = torch.rand(2, 3, 8, 8)
    sigma = torch.tensor([15.0, 40.0]).view(2, 1, 1, 1)
    noisy = clean + torch.tensor([-1.0, 1.0]).repeat(96).view(1, 3, 8, 8) * sigma / 255
    denoised = clean + torch.tensor([5.0, 10.0]).view(2, 1, 1, 1) / 255
    by_hand = ((5 / (15 + 10)) ** 2 + (10 / (40 + 10)) ** 2) / 2
    loss = LOSSES.bind("relative", {"floor": 10 / 255})
    assert loss(denoised, clean, noisy).item() == pytest.approx(by_hand)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    config = OptimConfig(lr=0.4, warmup=4, schedule="cosine")
    rates = [learning_rate(config, step, 104) for step in range(104)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert rates[54] == pytest.approx(0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0 < rates[-1] < 0.001
    assert {learning_rate(OptimConfig(lr=0.4), step, 100) for step in range(100)} == {0.4}


def test_averaged_weights_are_the_average_and_counts_are_copied() -> None:
    torch.manual_seed(0)
    network, averaged = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    nn.init.normal_(network.weight)
    network(torch.randn(4, 2))
    update_ema(averaged, network, ema_weight(0.9, 1000))
    torch.testing.assert_close(averaged.weight, 0.9 + 0.1 * network.weight)
    assert averaged.num_batches_tracked == network.num_batches_tracked == 1
    for step in range(300):
        update_ema(averaged, network, torch.tensor(ema_weight(0.9, step)))
    torch.testing.assert_close(averaged.weight, network.weight)


def test_weight_decay_is_by_the_learning_rate() -> None:
    network = nn.Linear(1, 1, bias=False)
    weight = network.weight.item()
    config = OptimConfig(optimizer="adamw", lr=0.1, optimizer_options={"weight_decay": 0.5})
    optimizer = make_optimizer(config, network)
    network.weight.grad = torch.zeros_like(network.weight)
    optimizer.step()
    assert network.weight.item() == pytest.approx(weight * (1 - 0.1 * 0.5))


def test_orthogonalised_matrices_have_singular_values_about_one() -> None:
    torch.manual_seed(0)
    batches = [torch.randn(shape) for shape in ((3, 8, 72), (2, 64, 9), (2, 16, 48), (1, 90, 8))]
    for matrices, result in zip(batches, orthogonalise(batches), strict=True):
        assert result.shape == matrices.shape
        values = torch.linalg.svdvals(result)
        assert 0.6 < values.min() <= values.max() < 1.3
        left, _, right = torch.linalg.svd(matrices, full_matrices=False)
        assert (result * (left @ right)).sum() > 0.98 * result.norm() * (left @ right).norm()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_is_torch_s_with_filters_and_adam_with_biases(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(6, 8, 3)
    network.to(memory_format=layout)
    flat = nn.Parameter(network.weight.detach().flatten(1).clone())
    bias = nn.Parameter(network.bias.detach().clone())  # type: ignore[union-attr]
    ours = Muon(network, lr=0.1)
    theirs = [
        torch.optim.Muon([flat], lr=0.1, weight_decay=0, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Adam([bias], lr=0.1),
    ]
    for _ in range(4):
        before, flat_before = network.weight.detach().clone(), flat.detach().clone()
        network.weight.grad = torch.randn_like(network.weight)
        network.bias.grad = torch.randn_like(bias)  # type: ignore[union-attr]
        flat.grad, bias.grad = network.weight.grad.flatten(1), network.bias.grad  # type: ignore[union-attr]
        for optimizer in (ours, *theirs):
            optimizer.step()
        step = (network.weight - before).flatten(1)
        torch.testing.assert_close(step, flat - flat_before, atol=0.003, rtol=0.05)  # torch: bf16
        torch.testing.assert_close(network.bias, bias)
