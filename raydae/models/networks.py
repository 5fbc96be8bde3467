"""The networks, each whole and readable. Input and output: (n, 3, h, w), RGB on [0, 1].

Beside being a module, a network says `multiple`, by which height and width must be divisible, and
`margin`, the pixels beyond which no input pixel changes an output pixel.
"""

from torch import nn

from raydae.core.config import ModelConfig
from raydae.models.dae import DenoisingAutoencoder
from raydae.models.unet import UNet


def build(config: ModelConfig) -> nn.Module:
    """A new network with random weights, drawn from torch's global generator: seed it before."""
    if config.name == "unet":
        return UNet(config.width, config.levels, config.blocks)
    return DenoisingAutoencoder()
