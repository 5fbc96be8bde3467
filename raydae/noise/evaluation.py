"""The noise of evaluations: the literature's white Gaussian noise, a noise kind, or the image's."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import convolve

from raydae.core.components import label_of
from raydae.core.random_numbers import EVALUATION, generator
from raydae.noise.batch import BatchNoise
from raydae.noise.config import NOISES
from raydae.noise.user_noise import UserNoise

WHITE = "gaussian"


@dataclass(frozen=True, kw_only=True)
class EvaluationNoise:
    """One way of making images noisy: a noise kind and its options.

    White Gaussian noise of one level is the literature's, of `evaluation_noise`. Any other noise is
    drawn from a generator for the image's pixels: an image always gets the same noise, whatever its
    name and the other images are.

    >>> image = np.full((64, 64, 3), 128, np.uint8)
    >>> noisy, clean = EvaluationNoise.white(25)(image)
    >>> round(float(np.std(noisy - clean / 255)) * 255)
    25
    >>> EvaluationNoise(kind="speckle", options={"strength": "0.1"}).label
    'speckle strength=0.1'
    """

    kind: str = WHITE
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def white(cls, sigma: float) -> "EvaluationNoise":
        """Return white Gaussian noise of a level on the 0-255 scale."""
        return cls(options={"sigma": f"{sigma:g}"})

    @property
    def sigma(self) -> float | None:
        """The level of white Gaussian noise, 0-255 scale; none for a range or another kind."""
        if self.kind != WHITE:
            return None
        low, high = self._noise.range
        return float(low) if low == high else None

    @property
    def label(self) -> str:
        """The noise in words: `25`, or the kind and its options that are not the defaults."""
        if self.sigma is not None:
            return f"{self.sigma:g}"
        defaults = NOISES.check(self.kind, {}, "options")
        changed = {k: v for k, v in self.options.items() if v != defaults[k]}
        return " ".join([label_of(self.kind), *(f"{k}={v}" for k, v in changed.items())])

    def __call__(self, clean: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return an image, noisy and as a perfect denoiser would return it.

        Args:
            clean: uint8 HxWx3 (RGB).

        Returns:
            float32 HxWx3 on the [0, 1] scale but free to leave it; and uint8 HxWx3: `clean`, unless
            the noise kind changes that too, as `camera` does.
        """
        if self.sigma is not None:
            return evaluation_noise(clean, self.sigma), clean
        noisy, target = self._noise(generator_of(clean), clean)
        return noisy.astype(np.float32, copy=False), target

    def compared(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the part of an image that is scored: all of it."""
        return image

    @functools.cached_property
    def _noise(self) -> Any:
        noise = NOISES.bind(self.kind, self.options)
        return noise if isinstance(noise, BatchNoise) else UserNoise(noise)


@dataclass(frozen=True)
class PairNoise:
    """The noise that an image's own noisy file has; the first of them, if there are several."""

    label = "pairs"
    sigma = None

    def compared(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the part of an image that is scored: all of it."""
        return image


@dataclass(frozen=True)
class HiddenPixels:
    """The noise that an image has itself, where no clean image is known.

    One pixel of each cell of 4x4 is replaced by the mean of its neighbours, so that the denoiser
    does not see it. What it returns there is compared with the pixel (Noise2Self: Batson and Royer,
    ICML 2019). The pixel's noise is independent, so the mean squared error is that of the denoiser
    plus the noise's variance, which is the same for every denoiser.
    """

    label = "hidden-pixels"
    sigma = None

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Return an image, uint8 HxWx3, without the hidden pixels (float32 on [0, 1]), and with."""
        shown = image / np.float32(255)
        means = convolve(shown, _NEIGHBOURS[..., np.newaxis], mode="mirror")
        shown[_HIDDEN] = means[_HIDDEN]
        return shown, image

    def compared(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return the hidden pixels of an image, HxWxC, as a picture of a quarter of its sides."""
        return image[_HIDDEN]


_HIDDEN = np.s_[1::4, 1::4]
_NEIGHBOURS = np.array([[1, 2, 1], [2, 0, 2], [1, 2, 1]], np.float32) / 12

TestNoise = EvaluationNoise | PairNoise | HiddenPixels
"""How an image that scores a denoiser gets its noise."""


def generator_of(image: NDArray[np.uint8]) -> np.random.Generator:
    """Return the generator of evaluations for an image: another one for other pixels."""
    digest = hashlib.sha256(np.ascontiguousarray(image).data).digest()
    return generator(0, EVALUATION, int.from_bytes(digest[:8], "little"))


def evaluation_noise(clean: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    """Return an image with the literature's white Gaussian noise.

    As KAIR and the papers before it (FFDNet, Zhang et al. 2018): `RandomState(0)` is created anew
    for every image, so that an image always has the same noise. The result is neither clipped nor
    rounded; clipping would make the task easier.

    Args:
        clean: uint8 HxWx3 (RGB) or HxW.
        sigma: standard deviation, 0-255 scale.

    Returns:
        float32 of the same shape, on the [0, 1] scale but free to leave it.
    """
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    noisy: NDArray[np.float32] = (clean / 255 + noise).astype(np.float32)
    return noisy
