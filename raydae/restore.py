"""Denoise an image of any size: pad, cut into tiles, blend."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)
TILE = 512  # pixels a side of what one forward pass is answerable for, beside overlap and margin
OVERLAP = 16  # pixels on each side of a tile's edge over which it fades into its neighbour


class Denoiser:
    """A network as a function of images.

    An image up to a tile's size is denoised whole, a larger one in tiles that reach `overlap`
    pixels into each other, where they are blended, and see the network's `margin` beyond, so that
    the result is that of the whole image. Memory is that of the image, the result and one tile.
    """

    def __init__(
        self,
        network: nn.Module,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        tile: int = TILE,
        overlap: int = OVERLAP,
        ensemble: bool = False,
    ) -> None:
        """Moves the network to the device.

        Args:
            network: (n, 3, h, w) on [0, 1] to the same.
            device: as torch names it.
            precision: `fp32` or `bf16`.
            tile: pixels a side.
            overlap: pixels on each side of a tile's edge.
            ensemble: average the answers to the eight flips and turns of each tile (Timofte et al.
                2016), in eight times the time.
        """
        self.ensemble = ensemble
        self.network = channels_last(network, torch.device(device))
        self.device = torch.device(device)
        self.precision = precision
        self.multiple = int(getattr(network, "multiple", 1))
        self.margin = int(getattr(network, "margin", 0))
        self.tile = _round_up(tile, self.multiple)
        self.overlap = _round_up(overlap, self.multiple)

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
            for top, rows in self._bands(image):
                values = rows if image.ndim == 3 else rows.mean(axis=2)
                if kind == np.uint8:
                    np.rint(np.multiply(values, 255, out=values), out=values)
                result[top : top + len(rows)] = values
        finally:
            self.network.train(was_training)
        return result

    def _bands(self, image: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The finished rows from the top down, as (first row, float32 rows x W x 3 on [0, 1])."""
        height, width = image.shape[:2]
        carry = np.zeros((0, width, 3), np.float32)  # rows that the next band of tiles adds to
        for y in self._tiles(height):
            band = np.zeros((y.stop - y.start, width, 3), np.float32)
            band[: len(carry)] = carry
            for x in self._tiles(width):
                weight = self._weight(y, height)[:, None, None] * self._weight(x, width)[:, None]
                band[:, x.start : x.stop] += self._forward(image, y, x) * weight
            finished = len(band) if y.stop == height else len(band) - 2 * self.overlap
            carry = band[finished:].copy()
            yield y.start, band[:finished]

    def _tiles(self, length: int) -> list[range]:
        """What each tile along an axis contributes to, its overlap with the neighbours included."""
        if length <= self.tile + 2 * self.overlap:
            return [range(length)]
        starts = range(0, length - self.overlap, self.tile)
        ends = [*starts[1:], length]
        return [
            range(max(start - self.overlap, 0), min(end + self.overlap, length))
            for start, end in zip(starts, ends, strict=True)
        ]

    def _weight(self, part: range, length: int) -> NDArray[np.float32]:
        """A tile's share of each pixel: ramps that add up to 1 with the neighbours'."""
        weight = np.ones(len(part), np.float32)
        ramp = ((np.arange(2 * self.overlap) + 0.5) / (2 * self.overlap)).astype(np.float32)
        if part.start > 0:
            weight[: len(ramp)] = ramp
        if part.stop < length:
            weight[len(weight) - len(ramp) :] = ramp[::-1]
        return weight

    def _forward(self, image: NDArray[Any], y: range, x: range) -> NDArray[np.float32]:
        """The network's answer for a part of the image, clamped to [0, 1]."""
        around = _round_up(self.margin, self.multiple)  # keeps a tile on the network's grid
        top, left = max(y.start - around, 0), max(x.start - around, 0)
        part = image[top : y.stop + around, left : x.stop + around]
        if part.dtype == np.uint8:
            part = part * np.float32(1 / 255)
        part = part.astype(np.float32, copy=False)
        if part.ndim == 2:
            part = np.repeat(part[:, :, None], 3, axis=2)
        missing = [(0, _round_up(n, self.multiple) - n) for n in part.shape[:2]]
        part = np.pad(part, [*missing, (0, 0)], mode="reflect")
        noisy = torch.from_numpy(np.ascontiguousarray(part)).to(self.device)
        with torch.inference_mode(), autocast(self.device, self.precision):
            # Channels come last in the array: seen as NCHW, that is torch's channels_last.
            denoised = self._answer(noisy.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
        rows = slice(y.start - top, y.stop - top)
        columns = slice(x.start - left, x.stop - left)
        answer: NDArray[np.float32] = denoised[rows, columns].float().clamp(0, 1).cpu().numpy()
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
