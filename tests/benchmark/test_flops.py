import time

import torch
from torch import nn

from raydae.benchmark import flops


def test_flops_of_a_training_patch_are_those_counted_by_hand() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    first, second = 16 * 16 * 8 * 3 * 9, 16 * 16 * 8 * 3  # multiplications, forward
    # Backward: gradients of the weights and of the input, which the first layer does without.
    assert flops.training_flops(network, 16) == 2 * (2 * first + 3 * second)


def test_the_peak_is_that_of_a_matrix_product() -> None:
    began = time.monotonic()
    rate = flops.peak_flops(torch.device("cpu"), size=64)
    assert rate > 20 * 2 * 64**3 / (time.monotonic() - began)
