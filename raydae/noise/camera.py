"""Camera noise: what a sensor's noise becomes on its way to a JPEG file.

A patch is taken back to the linear light of a camera, its mosaic is made noisy, and camera and
converter do their usual work on it. The network learns the result of the same work without noise
and without JPEG, so it learns to remove noise, and not to demosaic or to sharpen.

    1  soft detail     mostly, a blur: full-size photographs are softer at the pixel than the small
                       ones that networks are trained on
    2  linear light    the inverse of a random tone curve; at times dim or coloured light, and
                       colours more or less saturated; a random camera's colour matrix, white
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
    constant,
    images_of,
    inverse,
    mixed,
    planes_of,
    where_rows,
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
# The line of log(read noise's variance) over log(shot noise's), and the spread about it (likewise).
READ_SLOPE, READ_OFFSET, READ_SPREAD = 2.18, 1.20, 0.26

# What `Camera.parameters` returns for a sample, and `Camera.degrade` takes.
_PARAMETERS = (
    *("lens_blur", "gamma", "toe", "contrast", "grey", "mosaicked", "top", "left", "shot", "read"),
    *("luma_blur", "chroma_blur", "chroma", "coarse", "sharpening", "radius"),
    *("jpeg", "quality", "subsampled", "grid_top", "grid_left"),
)
# Then two matrices of three rows follow: from linear sRGB to the sensor, and from the scene to it.
_MATRICES = len(_PARAMETERS)


@dataclass(frozen=True, kw_only=True)
class Camera(BatchNoise):
    """Noise of a camera's sensor, after demosaicing, tone curve, noise reduction and JPEG.

    >>> image = np.full((64, 64, 3), 100, np.uint8)
    >>> noisy, learned = Camera(shot="0.004")(generator(0, SAMPLE, 1), image)
    >>> noisy.shape == learned.shape == image.shape
    True
    """

    shot: str = "0.00005:0.004"
    """Shot noise: variance at white, log-uniform."""
    mosaic: float = 0.8
    """Share of colour patches with a Bayer mosaic."""
    clean: float = 0.1
    """Share of patches without noise and JPEG."""
    grey: float = 0.1
    """Share of patches in black and white."""
    tint: float = 0.5
    """Share of patches in dim or coloured light."""
    soft: float = 0.85
    """Share of patches with soft detail."""
    smooth: float = 0.85
    """Share with the camera's noise reduction."""
    sharpen: float = 0.5
    """Share with sharpening."""
    jpeg: float = 0.8
    """Share with JPEG."""
    quality: str = "60:95"
    """Quality of JPEG, as libjpeg counts it."""

    draws: ClassVar[int] = 37

    def __post_init__(self) -> None:
        for name in ("mosaic", "clean", "grey", "tint", "soft", "smooth", "sharpen", "jpeg"):
            check_share(getattr(self, name), f"noise.options.{name}")
        _ = self._ranges

    @functools.cached_property
    def _ranges(self) -> tuple[LogUniform, Uniform]:
        return (
            LogUniform.of(self.shot, "noise.options.shot", 1e-6, 1),
            Uniform.of(self.quality, "noise.options.quality", 1, 100),
        )

    def parameters(self, uniform: Sequence[float]) -> Sequence[float]:
        """Return the numbers that `_PARAMETERS` names, and two matrices, see `_MATRICES`."""
        u = iter(uniform)
        shots, qualities = self._ranges
        shot = shots(next(u))
        is_grey = next(u) < self.grey
        is_soft, is_smooth, is_sharp = (
            next(u) < share for share in (self.soft, self.smooth, self.sharpen)
        )
        phase, place = int(4 * next(u)), int(MCU**2 * next(u))
        values = {
            "shot": shot,
            "read": math.exp(
                READ_SLOPE * math.log(shot) + READ_OFFSET + READ_SPREAD * normal(next(u))
            ),
            "grey": is_grey,
            "mosaicked": next(u) < self.mosaic and not is_grey,
            "top": phase // 2,
            "left": phase % 2,
            "lens_blur": Uniform(0.5, 3)(next(u)) * is_soft,
            "gamma": Uniform(1.8, 2.5)(next(u)),
            "toe": LogUniform(0.002, 0.02)(next(u)),
            "contrast": next(u),
            "luma_blur": Uniform(0.3, 1.1)(next(u)) * is_smooth,
            "chroma_blur": Uniform(1.2, 4)(next(u)) * is_smooth,
            "chroma": Uniform(0.2, 1)(next(u)) if is_smooth else 1,
            "coarse": Uniform(0, 1.5)(next(u)) * is_smooth,
            "sharpening": next(u) * is_sharp,
            "radius": Uniform(0.6, 1.4)(next(u)),
            "jpeg": next(u) < self.jpeg,
            "quality": round(qualities(next(u))),
            "subsampled": next(u) < 0.9,
            "grid_top": place // MCU,
            "grid_left": place % MCU,
        }
        gains = Uniform(1.9, 2.4)(next(u)), 1.0, Uniform(1.5, 1.9)(next(u))
        exposure = 0.8 + 0.1 * normal(next(u))
        sensor = _sensor(next(u), next(u), next(u)) / np.array(gains)[:, np.newaxis]
        matrix = exposure * (np.eye(3) if is_grey else sensor)
        is_tinted = next(u) < self.tint
        light = LogUniform(0.1, 1)(next(u)) * np.array([LogUniform(0.2, 1)(next(u)) for _ in "RGB"])
        saturation = Uniform(0.6, 1.8)(next(u))
        if is_tinted and is_grey:
            matrix_of_scene = matrix * light[0]
        elif is_tinted:
            saturate = saturation * np.eye(3) + (1 - saturation) / 3
            matrix_of_scene = matrix @ (light[:, np.newaxis] * saturate)
        else:
            matrix_of_scene = matrix
        if next(u) < self.clean:  # so that the network leaves alone what has no noise
            values |= dict.fromkeys(("lens_blur", "mosaicked", "shot", "read", "jpeg"), 0)
        matrices = np.stack([matrix, matrix_of_scene])
        return [*(float(values[name]) for name in _PARAMETERS), *matrices.ravel().tolist()]

    def degrade(self, clean: Array, parameters: Array, normals: Array) -> tuple[Array, Array]:
        """Return what a camera makes of patches, with noise and without; see `BatchNoise`."""
        xp = array_namespace(clean)
        n, height, width, _ = clean.shape
        p = {name: parameters[:, number] for number, name in enumerate(_PARAMETERS)}
        wide = {name: values.reshape(n, 1, 1, 1) for name, values in p.items()}
        tone = wide["gamma"], wide["toe"], wide["contrast"]
        matrix, from_scene = (
            parameters[:, first : first + 9].reshape(n, 3, 3)
            for first in (_MATRICES, _MATRICES + 9)
        )

        planes = blur(xp.astype(planes_of(clean), xp.float32) / 255, p["lens_blur"])
        luma = mixed(constant(TO_YCC[:1], planes), planes)
        planes = xp.where(wide["grey"] > 0, luma, planes)
        signal = xp.clip(mixed(from_scene, _linear(xp.clip(planes, 0, 1), *tone)), 0, 1)

        normals = planes_of(normals)
        normals = xp.where(wide["grey"] > 0, normals[:, :1], normals)
        noise = xp.sqrt(wide["shot"] * signal + wide["read"]) * normals
        masks = bayer_masks(height, width, p["top"], p["left"])
        colour = []
        for sensed in (signal, xp.clip(signal + noise, None, 1)):
            whole = demosaic(mosaic(sensed, masks), masks)
            whole = xp.where(wide["mosaicked"] > 0, whole, sensed)
            colour.append(mixed(inverse(matrix), whole))
        light, noise = colour[0], colour[1] - colour[0]
        # With the noise and with its opposite: half their difference has a mean of 0 whatever the
        # tone curve, as noise about the mean of many shots has.
        three = (xp.clip(part, 0, 1) for part in (light, light + noise, light - noise))
        shown = [_shown(part, *tone) for part in three]
        target, noisy = _developed(shown[0], 0.5 * (shown[1] - shown[2]), p)
        target, noisy = (xp.clip(xp.round(255 * image), 0, 255) for image in (target, noisy))
        grid = p["grid_top"], p["grid_left"]
        noisy = where_rows(p["jpeg"] > 0, compress, noisy, p["quality"], p["subsampled"], *grid)
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


def _developed(clean: Array, noise: Array, p: dict[str, Array]) -> tuple[Array, Array]:
    """Reduce the noise as cameras do, and sharpen; return the picture without and with noise.

    Noise reduction is modelled by what it leaves: a fine grain and coarse blotches, of colour more
    than of luma.

    Args:
        clean: (n, 3, h, w), [0, 1] scale.
        noise: likewise, to be added.
        p: the parameters by name, each (n,).
    """
    xp = array_namespace(clean)
    ycc = mixed(constant(TO_YCC, clean), noise)
    luma, chroma = ycc[:, :1], ycc[:, 1:] * p["chroma"].reshape(-1, 1, 1, 1)
    fine = xp.concat([blur(luma, p["luma_blur"]), blur(chroma, p["chroma_blur"])], axis=1)
    rough = xp.concat([blur(luma, 4 * p["luma_blur"]), blur(chroma, 3 * p["chroma_blur"])], axis=1)
    coarse, sharpening = (p[name].reshape(-1, 1, 1, 1) for name in ("coarse", "sharpening"))
    noisy = clean + mixed(constant(TO_RGB, clean), fine + coarse * rough)
    to_luma = constant(TO_YCC[:1], clean)
    lumas = xp.concat([mixed(to_luma, clean), mixed(to_luma, noisy)], axis=1)
    detail = sharpening * (lumas - blur(lumas, p["radius"]))
    return clean + detail[:, :1], noisy + detail[:, 1:]


def _sensor(first: float, second: float, third: float) -> NDArray[np.float64]:
    """Return a random mean of the cameras' matrices from linear sRGB to their sensor: (3, 3)."""
    cuts = sorted((first, second, third))
    weights = np.diff([0, *cuts, 1])
    matrix: NDArray[np.float64] = np.tensordot(weights, _SENSORS, 1) @ _XYZ
    balanced: NDArray[np.float64] = matrix / matrix.sum(1, keepdims=True)
    return balanced
