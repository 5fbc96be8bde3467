"""Camera noise: what a sensor's noise becomes on its way to a JPEG file.

A patch is taken back to the linear light of a camera, its mosaic is made noisy, and camera and
converter do their usual work on it. The network learns the result of the same work without noise
and without JPEG, so it learns to remove noise, and not to demosaic or to sharpen.

    1  soft detail     at times, the middle of the patch is enlarged: full-size photographs are
                       softer at the pixel than the small ones that networks are trained on
    2  linear light    the inverse of a random tone curve; a random camera's colour matrix, white
                       balance and exposure (Brooks et al., CVPR 2019)
    3  sensor          a Bayer mosaic of random phase; noise of variance shot * x + read, where read
                       lies along the line that Brooks et al. fitted to measured cameras
    4  converter       demosaicing, colour, tone curve
    5  camera JPEG     noise reduction, which smooths the noise alone: a little in luma, much in
                       chroma; sharpening; 8 bits; JPEG
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from array_api_compat import array_namespace
from numpy.typing import NDArray

from raydae.noise.array_math import (
    Array,
    blur,
    column,
    constant,
    images_of,
    mixed,
    planes_of,
    separable,
    zoom_matrix,
)
from raydae.noise.batch import BatchNoise
from raydae.noise.demosaicing import bayer_masks, demosaic, mosaic
from raydae.noise.jpeg_codec import MCU, TO_RGB, TO_YCC, compress
from raydae.noise.ranges import LogUniform, Uniform, check_share, normal

# From XYZ to the sensors of four cameras, and from linear sRGB to XYZ (Brooks et al., 2019).
_SENSORS = np.array(
    [
        [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
        [[0.4913, -0.0541, -0.0202], [-0.6130, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
        [[0.8380, -0.2630, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
        [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.0970, 0.1581, 0.5181]],
    ]
)
_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
     [0.0193339, 0.1191920, 0.9503041]]
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Camera(BatchNoise):
    """Noise of a camera's sensor, after demosaicing, tone curve, noise reduction and JPEG."""

    shot: str = "0.0001:0.02"
    """Shot noise: variance at white, log-uniform."""
    mosaic: float = 0.7
    """Share of patches that a Bayer filter sees."""
    upscale: float = 0.5
    """Share of patches with soft detail."""
    smooth: float = 0.85
    """Share with the camera's noise reduction."""
    sharpen: float = 0.5
    """Share with sharpening."""
    jpeg: float = 0.7
    """Share with JPEG."""
    quality: str = "70:99"
    """Quality of JPEG, as libjpeg counts it."""

    draws: ClassVar[int] = 27

    def __post_init__(self) -> None:
        for name in ("mosaic", "upscale", "smooth", "sharpen", "jpeg"):
            check_share(getattr(self, name), f"noise.options.{name}")
        _ = self._ranges

    @functools.cached_property
    def _ranges(self) -> tuple[LogUniform, Uniform]:
        return (
            LogUniform.of(self.shot, "noise.options.shot", 1e-6, 1),
            Uniform.of(self.quality, "noise.options.quality", 1, 100),
        )

    def parameters(self, uniform: Sequence[float]) -> Sequence[float]:
        """Return the numbers that `degrade` unpacks, by the order of `_Names`."""
        u = iter(uniform)
        upscaled, zoom = next(u) < self.upscale, 1 + 1.5 * next(u)
        shots, qualities = self._ranges
        shot = shots(next(u))
        read = math.exp(2.18 * math.log(shot) + 1.20 + 0.26 * normal(next(u)))
        gamma, toe, contrast = 1.8 + 0.7 * next(u), LogUniform(0.002, 0.02)(next(u)), next(u)
        mosaicked, phase = next(u) < self.mosaic, int(4 * next(u))
        smooth, luma_blur, chroma_blur = (
            next(u) < self.smooth,
            0.3 + 0.8 * next(u),
            1.2 + 2.8 * next(u),
        )
        coarse = 1.5 * next(u)
        sharpen, amount, radius = next(u) < self.sharpen, 1.0 * next(u), 0.6 + 0.8 * next(u)
        jpeg, quality, subsampled = next(u) < self.jpeg, next(u), next(u) < 0.5
        place = int(MCU**2 * next(u))
        gains = (1.9 + 0.5 * next(u), 1.0, 1.5 + 0.4 * next(u))
        exposure = 0.8 + 0.1 * normal(next(u))
        to_sensor = _sensor(next(u), next(u), next(u)) * (exposure / np.array(gains))[:, np.newaxis]
        return [
            zoom if upscaled else 1,
            *(gamma, toe, contrast, shot, read, phase // 2, phase % 2),
            luma_blur if smooth else 0,
            chroma_blur if smooth else 0,
            amount if sharpen else 0,
            radius,
            *(jpeg, round(qualities(quality)), subsampled, place // MCU, place % MCU),
            *to_sensor.ravel(),
            *np.linalg.inv(to_sensor).ravel(),
            mosaicked,
            coarse if smooth else 0,
        ]

    def degrade(self, clean: Array, parameters: Array, normals: Array) -> tuple[Array, Array]:
        """Return what a camera makes of patches, with noise and without; see `BatchNoise`."""
        xp = array_namespace(clean)
        p = parameters
        n, height, width, _ = clean.shape
        x = xp.astype(planes_of(clean), xp.float32) / 255
        rows = zoom_matrix(height, p[:, 0])
        x = separable(x, rows, rows if height == width else zoom_matrix(width, p[:, 0]))
        gamma, toe, contrast = (column(p, i, 4) for i in (1, 2, 3))
        linear = _linear(xp.clip(x, 0, 1), gamma, toe, contrast)
        to_sensor, to_rgb = p[:, 17:26].reshape(n, 3, 3), p[:, 26:35].reshape(n, 3, 3)
        sensor = mixed(to_sensor, linear)
        masks = bayer_masks(height, width, p[:, 6], p[:, 7])
        signal = xp.clip(sensor, 0, 1)
        variance = column(p, 4, 4) * signal + column(p, 5, 4)
        noisy = xp.clip(signal + xp.sqrt(variance) * planes_of(normals), None, 1)
        both = xp.concat([signal, noisy], axis=0)
        red, green, blue = (xp.concat([mask, mask], axis=0) for mask in masks)
        double = red, green, blue
        mosaicked = xp.concat([p[:, 35], p[:, 35]], axis=0)
        colour = xp.where(
            column(mosaicked[:, None], 0, 4) > 0, demosaic(mosaic(both, double), double), both
        )
        to_rgb = xp.concat([to_rgb, to_rgb], axis=0)
        linear = mixed(to_rgb, colour)
        gamma, toe, contrast = (xp.concat([v, v], axis=0) for v in (gamma, toe, contrast))
        shown = _shown(xp.clip(linear, 0, 1), gamma, toe, contrast)
        target, noisy = _developed(shown[:n], shown[n:], p)
        target, noisy = (xp.clip(xp.round(255 * v), 0, 255) for v in (target, noisy))
        compressed = compress(noisy, p[:, 13], p[:, 14], p[:, 15], p[:, 16])
        noisy = xp.where(column(p, 12, 4) > 0, compressed, noisy)
        return images_of(noisy) / 255, images_of(target) / 255


def _linear(shown: Array, gamma: Array, toe: Array, contrast: Array) -> Array:
    """Return about the light that a tone curve shows so; `_shown` is not exactly its inverse."""
    straight = shown - contrast * shown * (1 - shown) * (2 * shown - 1)
    low = toe ** (1 / gamma)
    high = (1 + toe) ** (1 / gamma)
    return (straight * (high - low) + low) ** gamma - toe


def _shown(light: Array, gamma: Array, toe: Array, contrast: Array) -> Array:
    """Return what a tone curve makes of light, both on [0, 1].

    A power with a finite slope at black, then an S-curve.
    """
    low = toe ** (1 / gamma)
    high = (1 + toe) ** (1 / gamma)
    straight = ((light + toe) ** (1 / gamma) - low) / (high - low)
    return straight + contrast * straight * (1 - straight) * (2 * straight - 1)


def _developed(clean: Array, noisy: Array, p: Array) -> tuple[Array, Array]:
    """Reduce the noise as cameras do, and sharpen both; (n, 3, h, w) on [0, 1]."""
    xp = array_namespace(clean)
    ycc = mixed(constant(TO_YCC, clean), noisy - clean)
    fine = xp.concat([blur(ycc[:, :1], p[:, 8]), blur(ycc[:, 1:], p[:, 9])], axis=1)
    rough = xp.concat([blur(ycc[:, :1], 4 * p[:, 8]), blur(ycc[:, 1:], 3 * p[:, 9])], axis=1)
    ycc = fine + column(p, 36, 4) * rough
    noisy = clean + mixed(constant(TO_RGB, clean), ycc)
    results = []
    for image in (clean, noisy):
        luma = mixed(constant(TO_YCC[:1], clean), image)
        results.append(image + column(p, 10, 4) * (luma - blur(luma, p[:, 11])))
    return results[0], results[1]


def _sensor(first: float, second: float, third: float) -> NDArray[np.float64]:
    """Return a random mean of the cameras' matrices from linear sRGB to their sensor: (3, 3)."""
    cuts = sorted((first, second, third))
    weights = np.diff([0, *cuts, 1])
    matrix: NDArray[np.float64] = np.tensordot(weights, _SENSORS, 1) @ _XYZ
    balanced: NDArray[np.float64] = matrix / matrix.sum(1, keepdims=True)
    return balanced
