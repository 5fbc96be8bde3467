"""What a network is, and building one by name."""

from typing import Any

from torch import Tensor, nn

from raydae.core.errors import UserError
from raydae.models.config import NETWORKS, ModelConfig


class Network(nn.Module):
    """What raydae expects of a network. It is documentation: no network has to inherit from it.

    Attributes:
        multiple: pixels that height and width must be a multiple of; 1 if the module has no such
            attribute. Images are padded to it.
        margin: pixels around an output pixel beyond which no input pixel changes it: half of the
            receptive field. Images larger than a tile are cut into tiles that overlap by it; a
            network without this attribute denoises every image whole.
    """

    multiple: int = 1
    margin: int | None = None

    def forward(self, noisy: Tensor) -> Tensor:
        """Return denoised images.

        Args:
            noisy: float32, or a lower precision under autocast, (n, 3, h, w), RGB on [0, 1].

        Returns:
            The same shape, on [0, 1] but not necessarily clamped to it.
        """
        raise NotImplementedError


def build(config: ModelConfig) -> nn.Module:
    """Return a new network with random weights from torch's global generator: seed it first.

    Raises:
        UserError: the network is not an `nn.Module`, or refuses its options.
    """
    target = NETWORKS.load(config.name)
    try:
        network: Any = target(**config.options)
    except (TypeError, ValueError) as error:
        raise UserError(f"--model.name {config.name} refuses its options: {error}") from None
    if not isinstance(network, nn.Module):
        raise UserError(
            f"--model.name {config.name} makes a {type(network).__name__}, not a torch.nn.Module"
        )
    return network
