import itertools

import pytest
import torch
from torch import nn

from raydae.models.config import ModelConfig
from raydae.models.dae import DenoisingAutoencoder
from raydae.models.networks import build
from raydae.models.unet import UNet


def test_the_autoencoder_is_the_one_that_was_asked_for() -> None:
    network = DenoisingAutoencoder()
    convolutions = [
        (type(layer), layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
        for layer in network.layers
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
    ]
    pairs = list(itertools.pairwise([3, 64, 128, 256, 512]))
    assert convolutions == [
        *((nn.Conv2d, a, b, (3, 3), (1, 1)) for a, b in pairs),
        *((nn.ConvTranspose2d, b, a, (3, 3), (2, 2)) for a, b in pairs[::-1]),
    ]
    kinds = [type(layer).__name__ for layer in network.layers]
    assert kinds == [
        *["Conv2d", "BatchNorm2d", "LeakyReLU", "MaxPool2d"] * 4,
        *["ConvTranspose2d", "BatchNorm2d", "LeakyReLU"] * 3,
        *["ConvTranspose2d", "BatchNorm2d", "Sigmoid"],
    ]
    assert sum(p.numel() for p in network.parameters()) == 3_104_265


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (32, 80)])
def test_output_is_of_the_input_s_size_within_0_and_1(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    noisy = torch.randn(2, 3, *size)
    denoised = build(ModelConfig())(noisy)
    assert denoised.shape == noisy.shape
    assert denoised.min() > 0
    assert denoised.max() < 1


@pytest.mark.parametrize(
    "network",
    [DenoisingAutoencoder(), UNet(8, 3, 2), UNet(8, 1, 1), UNet(8, 4, 1)],
    ids=["dae", "unet", "one level", "four levels"],
)
def test_no_pixel_sees_beyond_the_margin(network: DenoisingAutoencoder | UNet) -> None:
    torch.manual_seed(0)
    network = network.eval().double()
    for shift in range(0, network.multiple, 5):
        noisy = torch.rand(1, 3, 256, 256, dtype=torch.float64)
        changed = noisy.clone()
        changed[:, :, 128 + shift, 128 + shift] += 10
        with torch.inference_mode():
            different = (network(noisy) != network(changed)).any(dim=1)[0].nonzero()
        reach = int((different - (128 + shift)).abs().max())
        assert network.margin / 2 < reach <= network.margin


def test_the_unet_is_as_large_as_the_design_says() -> None:
    network = build(ModelConfig(name="unet"))
    assert sum(p.numel() for p in network.parameters()) == 1_048_908
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


@pytest.mark.parametrize(("width", "levels", "blocks"), [(32, 3, 2), (4, 1, 1), (8, 5, 1)])
def test_the_unet_predicts_noise_for_any_size_it_can_halve(
    width: int, levels: int, blocks: int
) -> None:
    torch.manual_seed(0)
    network = UNet(width, levels, blocks)
    noisy = torch.rand(2, 3, network.multiple, 3 * network.multiple)
    assert network(noisy).shape == noisy.shape
    nn.init.zeros_(network.tail.weight)
    assert network.tail.bias is not None
    nn.init.zeros_(network.tail.bias)
    assert torch.equal(network(noisy), noisy)


@pytest.mark.parametrize(
    "config",
    [ModelConfig(), ModelConfig(name="unet"), ModelConfig(name="unet", options={"levels": 2})],
)
def test_a_configuration_knows_what_its_network_takes(config: ModelConfig) -> None:
    assert build(config).multiple == config.multiple
