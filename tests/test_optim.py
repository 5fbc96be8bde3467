import copy
import math

import pytest
import torch
from torch import nn

from raydae.config import OptimConfig
from raydae.optim import Muon, average, learning_rate, loss_of, make_optimizer, orthogonalise


def test_losses_by_hand() -> None:
    denoised, clean = torch.tensor([0.1, 0.5, 0.0]), torch.tensor([0.0, 0.7, 0.0])
    assert loss_of("mse", denoised, clean).item() == pytest.approx(0.05 / 3)
    assert loss_of("l1", denoised, clean).item() == pytest.approx(0.1)
    by_hand = sum(math.hypot(d, 1e-3) for d in (0.1, 0.2, 0.0)) / 3
    assert loss_of("charbonnier", denoised, clean).item() == pytest.approx(by_hand)


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
    average(averaged, network, 0.9, step=1000)
    torch.testing.assert_close(averaged.weight, 0.9 + 0.1 * network.weight)
    assert averaged.num_batches_tracked == network.num_batches_tracked == 1
    for step in range(300):
        average(averaged, network, 0.9, step)
    torch.testing.assert_close(averaged.weight, network.weight)


def test_weight_decay_is_by_the_learning_rate() -> None:
    network = nn.Linear(1, 1, bias=False)
    weight = network.weight.item()
    optimizer = make_optimizer(OptimConfig(optimizer="adamw", lr=0.1, weight_decay=0.5), network)
    network.weight.grad = torch.zeros_like(network.weight)
    optimizer.step()
    assert network.weight.item() == pytest.approx(weight * (1 - 0.1 * 0.5))


def test_orthogonalised_matrices_have_singular_values_about_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 8, 72), (2, 64, 9), (1, 16, 16)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape), steps=8))
        assert 0.6 < values.min() <= values.max() < 1.3


def test_muon_steps_as_adam_does_with_biases_and_as_large_with_filters() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(3, 8, 3)
    twin = copy.deepcopy(network)
    muon, adam = Muon(network, lr=0.1), torch.optim.Adam(twin.parameters(), lr=0.1)
    before = network.weight.detach().clone()
    for _ in range(3):
        image = torch.rand(1, 3, 8, 8)
        twin.load_state_dict(network.state_dict())
        for net, optimizer in ((network, muon), (twin, adam)):
            optimizer.zero_grad()
            net(image).square().mean().backward()
            optimizer.step()
        torch.testing.assert_close(network.bias, twin.bias)
        step = (network.weight - before).square().mean().sqrt()
        assert step.item() == pytest.approx(0.2 * 0.1, rel=0.5)
        before = network.weight.detach().clone()
