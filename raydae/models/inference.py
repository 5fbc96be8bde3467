"""Denoise an image of any size: pad it, cut it into tiles, size the tiles by the GPU's memory."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from raydae.models import conversion
from raydae.models.tiling import cut_tiles, round_up

ImageT = TypeVar("ImageT")
N = TypeVar("N", bound=nn.Module)
# Sides of square tiles, in pixels.
TILE = 1792  # on the CPU: 0.6 GiB with the released network, 1.7 GiB with the plain autoencoder
PROBE = 1024  # on a GPU: larger images are cut by memory, which a tile of this size measures
MAX_TILE = 4096  # on a GPU: 64 channels stay below 2**31 values, the limit of cuDNN's fast kernels
MIN_TILE = 128  # after running out of memory
WHOLE = 2**20  # larger than any image
LUMA_WEIGHTS = (0.299, 0.587, 0.114)  # of R, G and B: Y of ITU-R BT.601, as in JPEG
MEMORY_FRACTION = 0.5  # of a GPU's free memory: the rest is for fragments and for other processes


class Blend(NamedTuple):
    """How much of the network's change is applied, to the luma and to the rest, each in 0..1."""

    luma: float
    chroma: float

    @classmethod
    def of(
        cls, strength: float, luma: float | None, chroma: float | None, is_grey: bool
    ) -> "Blend":
        """Return the strengths; raise a ValueError if one is not in 0..1."""
        for name, value in (("strength", strength), ("luma", luma), ("chroma", chroma)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is a number from 0 to 1, not {value}")
        luma = strength if luma is None else luma
        return cls(luma, luma if is_grey else strength if chroma is None else chroma)

    def __call__(self, noisy: Tensor, denoised: Tensor) -> Tensor:
        """Return a blend of two tensors, (h, w, 3) RGB or (h, w) grey, float32.

        Values stay in [0, 1], or between there and the noisy value if that lies outside.
        """
        change = denoised - noisy
        if noisy.ndim == 2 or self.luma == self.chroma:
            return noisy + self.luma * change
        # Adding one value to R, G and B changes Y by that value and the colour differences not.
        luma = (change @ change.new_tensor(LUMA_WEIGHTS))[..., None]
        blended = noisy + self.chroma * (change - luma) + self.luma * luma
        return blended.maximum(noisy.clamp(max=0)).minimum(noisy.clamp(min=1))


FULL_STRENGTH = Blend(1.0, 1.0)


class Denoiser:
    """A network as a function of images.

    An image up to a tile's area is denoised whole, a larger one in tiles. Each tile sees the
    network's `margin` beyond its edges, so the result equals that of the whole image, without
    seams. Memory is that of the image, the result and one tile. A network without a `margin`
    denoises every image whole.

    On a GPU the tiles are sized by its free memory, measured at the first image of more than
    PROBE**2 pixels; this resets torch's peak memory statistics. An image that runs out of GPU
    memory is denoised again in tiles of half the area, which later images keep.

    After a call, `removed` is the root mean square of what the network removed, 0-255 scale, before
    any strength or rounding; 0 if the network was not needed.
    """

    def __init__(
        self,
        network: nn.Module,
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        tile: int | None = None,
        ensemble: bool = False,
    ) -> None:
        """Move the network to the device.

        Args:
            network: (n, 3, h, w) on [0, 1] to the same.
            device: as torch names it.
            precision: `fp32`, `bf16` or `fp16`. `fp32` excludes TF32, so that a GPU's results
                equal the CPU's.
            tile: pixels a side of a square whose area is a tile's at most, its margin aside; none:
                by free memory on a GPU, else TILE.
            ensemble: average the results of the eight flips and rotations of each tile (Timofte et
                al. 2016), in eight times the time.

        Raises:
            ValueError: another precision.
        """
        self.device = torch.device(device)
        self.precision = precision
        autocast(self.device, precision)  # raises for an unknown precision
        self.network = channels_last(network, self.device)
        self.ensemble = ensemble
        self.removed = 0.0
        self.multiple = int(getattr(network, "multiple", 1))
        margin = getattr(network, "margin", None)
        # Rounded up, it keeps a tile on the network's grid.
        self.margin = round_up(int(margin or 0), self.multiple)
        self.cuts = margin is not None  # tiles without a margin would leave seams
        self.tile = TILE if tile is None and self.device.type != "cuda" else tile
        if not self.cuts:
            self.tile = WHOLE

    def __call__(
        self,
        image: ImageT,
        strength: float = 1.0,
        luma: float | None = None,
        chroma: float | None = None,
    ) -> ImageT:
        """Denoise an image.

        Args:
            image: HxWx3 (RGB) or HxW (grey); uint8, or floating point on the [0, 1] scale, which
                noise may leave. Any size from 1x1. Grey is denoised as RGB of three equal channels.
                Also uint16 and int16, the ends of whose range are 0 and 1, stacks NxHxWx3, PIL
                images, torch tensors and lists; see `conversion.unpack`.
            strength: the part of the network's change that is applied; 0 returns a copy.
            luma: strength for the luma (Y of BT.601); none: `strength`.
            chroma: strength for the colour differences; none: `strength`. Grey has none.

        Returns:
            A new image of the same type, shape and dtype; floating point clamped to [0, 1]. With
            less than full strength, a value beyond that comes back between it and its clamped one.

        Raises:
            ValueError: another type, shape or dtype, an empty image, values that are not finite,
                floating point on another scale, or a strength that is not in 0..1.
            torch.OutOfMemoryError: the GPU has no memory even for a tile of MIN_TILE a side.
        """
        if conversion.is_plain(image):
            return cast("ImageT", self._denoise(cast("Any", image), strength, luma, chroma))
        arrays, restore = conversion.unpack(image)
        results, squares = [], 0.0
        for array in arrays:
            results.append(
                conversion.apply(lambda a: self._denoise(a, strength, luma, chroma), array)
            )
            squares += self.removed**2 * array.size
        self.removed = math.sqrt(squares / sum(array.size for array in arrays))
        return cast("ImageT", restore(results))

    def _denoise(
        self, image: NDArray[Any], strength: float, luma: float | None, chroma: float | None
    ) -> NDArray[Any]:
        """Denoise an array, uint8 or floating point."""
        conversion.check(image)
        blend = Blend.of(strength, luma, chroma, is_grey=image.ndim == 2)
        self.removed = 0.0
        result = np.array(image, order="C")
        if blend.luma == blend.chroma == 0:
            return result
        exact = self.device.type == "cuda" and self.precision == "fp32"
        was_training = self.network.training
        self.network.eval()
        try:
            with ieee_convolutions() if exact else nullcontext():
                if self.tile is None and image.shape[0] * image.shape[1] > PROBE**2:
                    self._size_tile()
                self._fill(result, image, blend)
        finally:
            self.network.train(was_training)
        self.removed = 255 * math.sqrt(self._squares / image.size)
        return result

    def _size_tile(self) -> None:
        """Size the tiles by the GPU's free memory and the bytes that a pixel takes."""
        probe = np.zeros((PROBE, PROBE, 3), np.float32)
        used = _peak_memory(self.device, lambda: self._fill(np.empty_like(probe), probe))
        if self.tile is None:  # else the probe ran out of memory, which sized them
            pixels = int(MEMORY_FRACTION * _free_memory(self.device) / max(used, 1) * PROBE**2)
            side = math.isqrt(pixels) - 2 * self.margin
            self.tile = min(max(side, MIN_TILE), MAX_TILE)

    def _fill(
        self, result: NDArray[Any], image: NDArray[Any], blend: Blend = FULL_STRENGTH
    ) -> None:
        """Denoise an image into `result`, in smaller tiles after each lack of GPU memory."""
        while (area := self._try_tiles(result, image, blend)) is not None:
            # Here the error is gone, and with it the tensors that its traceback held.
            torch.cuda.empty_cache()
            self.tile = max(math.isqrt(area // 2), MIN_TILE)

    def _try_tiles(self, result: NDArray[Any], image: NDArray[Any], blend: Blend) -> int | None:
        """Denoise an image into `result`, tile by tile.

        Returns:
            None when done; the pixels of the tile that found no GPU memory.

        Raises:
            torch.OutOfMemoryError: the tiles are as small as they get.
        """
        tile = self.tile or PROBE
        height, width = image.shape[:2]
        area, self._squares = 0, 0.0
        try:
            for y, x in cut_tiles(height, width, tile, self.multiple, self.margin):
                area = min(len(y) * len(x), tile**2)  # rounding can make a tile larger than asked
                part = self._denoise_tile(image, y, x, blend)
                result[y.start : y.stop, x.start : x.stop] = part
        except torch.OutOfMemoryError as error:
            if area <= MIN_TILE**2 or not self.cuts:
                raise torch.OutOfMemoryError(
                    f"{self.device} has too little free memory for a tile of {area} pixels; "
                    "end other programs that use it, or denoise on the CPU"
                ) from error
            return area
        return None

    def _denoise_tile(self, image: NDArray[Any], y: range, x: range, blend: Blend) -> NDArray[Any]:
        """Return a part of the image denoised: uint8 where the image is, else float32."""
        top, left = max(y.start - self.margin, 0), max(x.start - self.margin, 0)
        part = image[top : y.stop + self.margin, left : x.stop + self.margin]
        if part.dtype != np.uint8:
            part = part.astype(np.float32, order="C", copy=False)
        missing = [(0, round_up(n, self.multiple) - n) for n in part.shape[:2]]
        missing += [(0, 0)] * (image.ndim - 2)
        noisy = torch.from_numpy(np.pad(part, missing, mode="reflect")).to(self.device)
        noisy = noisy.float().div_(255) if image.dtype == np.uint8 else noisy.float()
        if image.ndim == 2:
            noisy = noisy[:, :, None].repeat(1, 1, 3)
        with torch.inference_mode(), autocast(self.device, self.precision):
            # Channels come last in the array: seen as NCHW, that is torch's channels_last.
            denoised = self._predict(noisy.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
            rows = slice(y.start - top, y.stop - top)
            columns = slice(x.start - left, x.stop - left)
            values = denoised[rows, columns].float().clamp_(0, 1)
            if image.ndim == 2:
                values = values.mean(2)
            before = noisy[rows, columns, 0] if image.ndim == 2 else noisy[rows, columns]
            self._squares += float((values - before).square_().mean()) * values.numel()
            if blend != FULL_STRENGTH:
                values = blend(before, values)
            if image.dtype == np.uint8:
                values = values.mul_(255).round_().to(torch.uint8)
        result: NDArray[Any] = values.cpu().numpy()
        return result

    def _predict(self, noisy: Tensor) -> Tensor:
        """Return the network's output, or its mean over all flips and rotations; (1, 3, h, w)."""
        if not self.ensemble:
            output: Tensor = self.network(noisy)
            return output
        total = torch.zeros_like(noisy)
        for turns in range(4):
            turned = noisy.rot90(turns, (2, 3))
            total += self.network(turned).float().rot90(-turns, (2, 3))
            total += self.network(turned.flip(3)).float().flip(3).rot90(-turns, (2, 3))
        return total / 8


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass runs with a precision.

    Raises:
        ValueError: the precision is none of `fp32`, `bf16` and `fp16`.
    """
    if precision == "fp32":
        return nullcontext()
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    if precision not in kinds:
        raise ValueError(f"precision is fp32, bf16 or fp16, not {precision}")
    return torch.autocast(device.type, dtype=kinds[precision])


@contextmanager
def ieee_convolutions() -> Iterator[None]:
    """Compute float32 convolutions on a GPU in float32: torch's default there is TF32."""
    cudnn: Any = torch.backends.cudnn  # torch's types do not know `conv`
    convolutions = cudnn.conv
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def channels_last(network: N, device: torch.device) -> N:
    """Move a network to a device, its weights laid out as convolutions are fastest with."""
    network.to(device)
    # One call for both would do; torch's types know only one at a time.
    network.to(memory_format=torch.channels_last)
    return network


def _free_memory(device: torch.device) -> int:
    """Return the bytes of GPU memory that this process can still allocate."""
    free, _ = torch.cuda.mem_get_info(device)
    # Memory that torch has reserved and does not use is not free to the device.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def _peak_memory(device: torch.device, work: Callable[[], None]) -> int:
    """Return the bytes of GPU memory that `work` takes at its peak, beyond what is allocated."""
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    return torch.cuda.max_memory_allocated(device) - before
