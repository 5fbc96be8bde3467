"""Noise kinds of a user's own: tried out before a run, and kept within what samples can hold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raydae.core.errors import UserError
from raydae.core.random_numbers import SAMPLE, generator
from raydae.noise.batch import BatchNoise
from raydae.noise.fixed_point import MAX, MIN
from raydae.noise.protocol import Noise


@dataclass(frozen=True)
class UserNoise:
    """A user's noise, with values that fixed point can hold."""

    noise: Noise

    def __call__(
        self, rng: np.random.Generator, clean: NDArray[np.uint8]
    ) -> tuple[NDArray[Any], NDArray[np.uint8]]:
        """Return a patch, noisy and to be learned; see `protocol.Noise`."""
        noisy, target = _pair(self.noise(rng, clean), clean)
        return np.clip(noisy, MIN, MAX), target


def try_noise(noise: Noise | BatchNoise, kind: str, size: int) -> None:
    """Try out a user's noise on a grey patch.

    Args:
        noise: the kind with its options.
        kind: its import path, for messages.
        size: height and width of the patch.

    Raises:
        UserError: it fails, returns something of the wrong shape or type, or differs from call to
            call with the same generator.
    """
    clean = np.full((size, size, 3), 128, np.uint8)
    try:
        first, second = (_pair(noise(generator(0, SAMPLE, 0), clean), clean) for _ in range(2))
    except Exception as error:  # whatever a user's code raises
        raise UserError(f"--noise.kind {kind} failed on a grey patch: {error!r}") from None
    noisy, target = first
    if not isinstance(noisy, np.ndarray) or not np.issubdtype(noisy.dtype, np.floating):
        raise UserError(f"--noise.kind {kind} must return a floating-point array on [0, 1]")
    if noisy.shape != clean.shape or not np.isfinite(noisy).all():
        raise UserError(f"--noise.kind {kind} must return finite values of shape {clean.shape}")
    if getattr(target, "shape", None) != clean.shape or target.dtype != np.uint8:
        raise UserError(
            f"--noise.kind {kind} returns two values; the second must be what the network is to "
            f"learn, uint8 of shape {clean.shape}"
        )
    if not (np.array_equal(noisy, second[0]) and np.array_equal(target, second[1])):
        raise UserError(
            f"--noise.kind {kind} gives other noise for the same generator; draw all random "
            "numbers from the generator that it is given"
        )


def _pair(result: Any, clean: NDArray[np.uint8]) -> tuple[Any, Any]:
    """Return what a kind returned as (noisy, what the network is to learn)."""
    if isinstance(result, tuple) and len(result) == 2:
        return result
    return result, clean
