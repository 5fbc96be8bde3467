"""Denoise an image of any size: pad, cut into tiles."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)
TILE = 2560  # pixels a side: 1.0 GiB with the released network, 3.2 GiB with the plain autoencoder


class Denoiser:
    """A network as a function of images.

    An image up to a tile's area is denoised whole, a larger one in tiles. Each sees the network's
    `margin` beyond its edges, so that the result is that of the whole image and there are no seams.
    Memory is that of the image, the result and one tile.
    """

    def __init__(
        self,
        network: nn.Module,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        tile: int = TILE,
        ensemble: bool = False,
    ) -> None:
        """Moves the network to the device.

        Args:
            network: (n, 3, h, w) on [0, 1] to the same.
            device: as torch names it.
            precision: `fp32` or `bf16`.
            tile: pixels a side of a square, whose area is a tile's at most, its margin aside.
            ensemble: average the answers to the eight flips and turns of each tile (Timofte et al.
                2016), in eight times the time.
        """
        self.ensemble = ensemble
        self.network = channels_last(network, torch.device(device))
        self.device = torch.device(device)
        self.precision = precision
        self.multiple = int(getattr(network, "multiple", 1))
        # Rounded up, it keeps a tile on the network's grid.
        self.margin = _round_up(int(getattr(network, "margin", 0)), self.multiple)
        self.tile = tile

    def __call__(self, image: NDArray[Any]) -> NDArray[Any]:
        """Denoises an image.

        Args:
            image: HxWx3 (RGB) or HxW (grey); uint8, or floating point on the [0, 1] scale, which
                noise may leave. Any size from 1x1. Grey is denoised as RGB of three equal channels.

        Returns:
            A new array of the same shape and dtype; floating point clamped to [0, 1].

        Raises:
            ValueError: another shape or dtype, or an empty image.
        """
        kind = image.dtype
        if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or image.size == 0:
            raise ValueError(f"an image is HxWx3 or HxW, not {image.shape}")
        if kind != np.uint8 and not np.issubdtype(kind, np.floating):
            raise ValueError(f"an image is uint8, or floating point on [0, 1], not {kind}")
        result = np.empty_like(image, order="C")
        was_training = self.network.training
        self.network.eval()
        try:
            for y, x in self._tiles(*image.shape[:2]):
                result[y.start : y.stop, x.start : x.stop] = self._forward(image, y, x)
        finally:
            self.network.train(was_training)
        return result

    def _tiles(self, height: int, width: int) -> Iterator[tuple[range, range]]:
        """Rows and columns of each tile: of all even cuts that with the least overlap."""

        def cut(rows: int) -> tuple[int, int]:
            """Height and width of the tiles, cut into so many rows."""
            high = _round_up(-(-height // rows), self.multiple)
            columns = -(-high * width // self.tile**2)
            return high, _round_up(-(-width // columns), self.multiple)

        def cost(size: tuple[int, int]) -> int:
            """Pixels that all tiles see together."""
            down, right = ((n - 1) // part for n, part in zip((height, width), size, strict=True))
            return (height + 2 * self.margin * down) * (width + 2 * self.margin * right)

        high, wide = min(map(cut, range(1, height // self.multiple + 2)), key=cost)
        for y in range(0, height, high):
            for x in range(0, width, wide):
                yield range(y, min(y + high, height)), range(x, min(x + wide, width))

    def _forward(self, image: NDArray[Any], y: range, x: range) -> NDArray[Any]:
        """The answer for a part of the image, uint8 where that is, else float32."""
        top, left = max(y.start - self.margin, 0), max(x.start - self.margin, 0)
        part = image[top : y.stop + self.margin, left : x.stop + self.margin]
        if part.dtype != np.uint8:
            part = part.astype(np.float32, order="C", copy=False)
        missing = [(0, _round_up(n, self.multiple) - n) for n in part.shape[:2]]
        missing += [(0, 0)] * (image.ndim - 2)
        noisy = torch.from_numpy(np.pad(part, missing, mode="reflect")).to(self.device)
        noisy = noisy.float().div_(255) if image.dtype == np.uint8 else noisy.float()
        if image.ndim == 2:
            noisy = noisy[:, :, None].repeat(1, 1, 3)
        with torch.inference_mode(), autocast(self.device, self.precision):
            # Channels come last in the array: seen as NCHW, that is torch's channels_last.
            denoised = self._answer(noisy.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
            rows = slice(y.start - top, y.stop - top)
            columns = slice(x.start - left, x.stop - left)
            values = denoised[rows, columns].float().clamp_(0, 1)
            if image.ndim == 2:
                values = values.mean(2)
            if image.dtype == np.uint8:
                values = values.mul_(255).round_().to(torch.uint8)
        answer: NDArray[Any] = values.cpu().numpy()
        return answer

    def _answer(self, noisy: Tensor) -> Tensor:
        """The network's answer, or the mean of those to all flips and turns; (1, 3, h, w)."""
        if not self.ensemble:
            answer: Tensor = self.network(noisy)
            return answer
        total = torch.zeros_like(noisy)
        for turns in range(4):
            turned = noisy.rot90(turns, (2, 3))
            total += self.network(turned).float().rot90(-turns, (2, 3))
            total += self.network(turned.flip(3)).float().flip(3).rot90(-turns, (2, 3))
        return total / 8


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """The context in which a forward pass runs with a precision, `fp32` or `bf16`."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def channels_last(network: N, device: torch.device) -> N:
    """Moves a network to a device, its weights laid out as convolutions are fastest with."""
    network.to(device)
    # One call for both would do; torch's types know only one at a time.
    network.to(memory_format=torch.channels_last)
    return network


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
