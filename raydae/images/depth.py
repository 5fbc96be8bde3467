"""Denoise values of any depth: 8, 16 or 32 bits, signed or not, or floating point.

A network takes [0, 1]. This module maps other values there with a linear function, and adds what
the denoiser changed to the values themselves. A value that the denoiser leaves alone therefore
keeps every bit, also in float64.

| values                                         | 0 of the network | 1 of the network            |
|------------------------------------------------|------------------|-----------------------------|
| uint8                                          | 0                | 255; passed on as they are  |
| other integers within 0 … 65535                | 0                | 65535                       |
| floating point within 0 … 1                    | 0                | 1                           |
| the same, but the largest is below a quarter   | low end          | high end                    |
| all others                                     | low end          | high end                    |

The low and high end are the least and the largest value, unless a few outliers lie far from the
rest, such as hot pixels or a lamp. Then they are the 0.1st and the 99.9th percentile and a tenth of
their distance beyond. What lies beyond the ends is not changed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Denoise = Callable[[NDArray[Any]], NDArray[Any]]
"""Maps uint8 or float32 on [0, 1], H×W or H×W×3, to the same shape and dtype."""

_PART_USED = 0.25  # of the range; 12-bit values in 16 bits are stretched, photographs are not
_PERCENTILES = (0.1, 99.9)
_MARGIN = 0.1
_SAMPLE = 10**6  # values that the percentiles are computed of
_STRIP_VALUES = 2**20


class PixelsError(ValueError):
    """A picture's pixels cannot be used; the message is the reason, without the file's name."""


class Scale(NamedTuple):
    """A linear function from values to [0, 1]."""

    low: float
    high: float
    stretched: bool
    """Whether the ends depend on the values."""

    @classmethod
    def of(cls, values: NDArray[Any]) -> "Scale":
        """Return the scale for values, by the table of this module.

        Raises:
            PixelsError: The dtype is not supported, or values are not finite.
        """
        kind = values.dtype
        if kind.kind not in "iuf" or (kind.kind != "f" and kind.itemsize > 4):
            raise PixelsError(f"{kind.name} values cannot be denoised: save them as float32")
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise PixelsError("has infinite values, or values that are no numbers: replace them")
        top = 1.0 if kind.kind == "f" else 65535.0
        if low >= 0 and _PART_USED * top <= high <= top:
            return cls(0.0, top, False)
        step = max(1, round((values.size / _SAMPLE) ** 0.5))
        near, far = (float(end) for end in np.percentile(values[::step, ::step], _PERCENTILES))
        if near < far:
            margin = _MARGIN * (far - near)
            low, high = max(low, near - margin), min(high, far + margin)
        return cls(low, high, True)

    def to_unit(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Return values on [0, 1], those beyond the ends clipped; the same shape."""
        unit = (values.astype(np.float64) - self.low) / (self.high - self.low)
        return np.clip(unit, 0, 1).astype(np.float32)


@dataclass
class Stretches:
    """What was scaled in a file, for one line to the user."""

    low: float = np.inf
    high: float = -np.inf
    outliers: int = 0

    def add(self, scale: Scale, outliers: int) -> None:
        """Note that a scale was used, and how many values lay beyond its ends."""
        if scale.stretched:
            self.low, self.high = min(self.low, scale.low), max(self.high, scale.high)
            self.outliers += outliers

    @property
    def line(self) -> str:
        """The line; empty if nothing was scaled."""
        if self.high < self.low:
            return ""
        text = f"values from {self.low:g} to {self.high:g} were scaled linearly for the network"
        return text + (f"; {self.outliers} beyond were left as they are" if self.outliers else "")


def denoise_values(values: NDArray[Any], denoise: Denoise, stretches: Stretches) -> None:
    """Denoise values in place.

    Args:
        values: H×W or H×W×3, of any layout in memory; integers of up to 32 bits, or floating point.
        denoise: Called once; not called if all values are equal, except with uint8.
        stretches: Is told of the scale.

    Raises:
        PixelsError: As `Scale.of`.
        ValueError: `denoise` returned another shape or dtype.
    """
    if values.dtype == np.uint8:
        values[...] = _checked(denoise, np.ascontiguousarray(values))
        return
    scale = Scale.of(values)
    if scale.low == scale.high:
        return
    rows = max(1, _STRIP_VALUES * len(values) // values.size)
    strips = [slice(top, top + rows) for top in range(0, len(values), rows)]
    denoised = _checked(denoise, _to_unit(values, scale, strips))
    outliers = sum(_apply(values[strip], denoised[strip], scale) for strip in strips)
    stretches.add(scale, outliers)


def to_8_bits(values: NDArray[Any], channels: int) -> NDArray[np.uint8]:
    """Return values scaled to 8 bits and rounded: floating point from 0 … 1, others from 0 … 65535.

    Args:
        values: H×W, or H×W×C of two channels (grey and alpha) or three and more (colour first).
        channels: How many to return; grey is repeated.

    Returns:
        A new array, uint8 H×W×`channels`.

    Raises:
        PixelsError: A value is outside that range, or the dtype is not supported.
    """
    if values.dtype.kind not in "iuf" or values.dtype == np.int8:
        raise PixelsError(f"{values.dtype.name} values are not supported: save them with 16 bits")
    values = values.reshape(*values.shape[:2], -1)
    values = values[..., : channels if values.shape[2] >= channels else 1]
    top = 1 if values.dtype.kind == "f" else 255 if values.dtype == np.uint8 else 65535
    result = np.empty((*values.shape[:2], channels), np.uint8)
    rows = max(1, _STRIP_VALUES * len(values) // values.size)
    for start in range(0, len(values), rows):
        strip = values[start : start + rows]
        if not (strip.min() >= 0 and strip.max() <= top):  # this is also true of nan
            raise PixelsError(f"has values outside 0 to {top}: scale them, or save 8 or 16 bits")
        result[start : start + rows] = np.rint(strip.astype(np.float32) / np.float32(top) * 255)
    return result


def _to_unit(values: NDArray[Any], scale: Scale, strips: list[slice]) -> NDArray[np.float32]:
    """Return values on [0, 1], strip by strip, to limit memory."""
    unit = np.empty(values.shape, np.float32)
    for strip in strips:
        unit[strip] = scale.to_unit(values[strip])
    return unit


def _apply(values: NDArray[Any], denoised: NDArray[np.float32], scale: Scale) -> int:
    """Add the denoiser's change to values, in place; return how many are outliers."""
    change = denoised.astype(np.float64) - scale.to_unit(values)
    change *= scale.high - scale.low
    beyond = (values < scale.low) | (values > scale.high)
    change[beyond] = 0
    exact = values.astype(np.float64) + change
    if values.dtype.kind == "f":
        limits = np.finfo(values.dtype).min, np.finfo(values.dtype).max
    else:
        limits = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
        if not scale.stretched:  # 16-bit values in 32 bits stay so
            limits = max(limits[0], 0), min(limits[1], 65535)
        np.rint(exact, out=exact)
    values[...] = np.where(change == 0, values, np.clip(exact, *limits).astype(values.dtype))
    return int(beyond.sum())


def _checked(denoise: Denoise, array: NDArray[Any]) -> NDArray[Any]:
    """Return what the denoiser makes of an array; raise a ValueError if its kind differs."""
    shape, kind = array.shape, array.dtype
    result = denoise(array)
    if (result.shape, result.dtype) != (shape, kind):
        raise ValueError(
            f"the denoiser was given {kind} {shape} and returned {result.dtype} {result.shape}"
        )
    return result
