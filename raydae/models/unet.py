"""The residual U-Net."""

from torch import Tensor, nn
from torch.nn import functional


class UNet(nn.Module):
    """A residual U-Net without batch statistics, small and blind (after DRUNet, Zhang et al. 2021).

    Works at half size and below: pixel-unshuffle, then levels of residual blocks joined by strided
    2x2 convolutions, additive skips (Ronneberger et al. 2015), and back. It predicts the noise and
    subtracts it. 1.05 M parameters by default.
    """

    def __init__(self, width: int = 32, levels: int = 3, blocks: int = 2) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels)]
        self.multiple = 2**levels
        # A 3x3 convolution at scale s reaches s pixels further, a block has two of them; changes of
        # scale reach as far as the coarser grid they meet.
        scales = [2 ** (level + 1) for level in range(levels)]
        ways = [2] * (levels - 1) + [1]
        self.margin = 2 * scales[0] + sum(
            scale * (2 * blocks * way + 1) for scale, way in zip(scales, ways, strict=True)
        )
        self.head = nn.Conv2d(12, width, 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(n, blocks) for n in widths[:-1])
        self.down = nn.ModuleList(nn.Conv2d(n, 2 * n, 2, stride=2) for n in widths[:-1])
        self.bottom = _blocks(widths[-1], blocks)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * n, n, 2, stride=2) for n in widths[:-1])
        self.decoder = nn.ModuleList(_blocks(n, blocks) for n in widths[:-1])
        self.tail = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, noisy: Tensor) -> Tensor:
        """(n, 3, h, w) to the same shape, not clamped; h and w divisible by `multiple`."""
        x = self.head(functional.pixel_unshuffle(noisy, 2))  # (n, width, h/2, w/2)
        skips = []
        for encode, down in zip(self.encoder, self.down, strict=True):
            x = encode(x)
            skips.append(x)
            x = down(x)  # twice the channels, half the size
        x = self.bottom(x)
        for decode, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            x = decode(up(x) + skips.pop())
        noise: Tensor = functional.pixel_shuffle(self.tail(x), 2)
        return noisy - noise


class _ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))); any size."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(functional.relu(self.first(x)))
        return x + change


def _blocks(width: int, number: int) -> nn.Sequential:
    return nn.Sequential(*(_ResidualBlock(width) for _ in range(number)))
