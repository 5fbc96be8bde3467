"""What a noise kind is.

A kind of one's own needs only to be called; this one is complete:

    class Speckle:
        \"\"\"Multiplicative noise; strength is a fraction of each pixel's value.\"\"\"

        def __init__(self, strength: float = 0.1) -> None:
            self.strength = strength

        def __call__(self, rng, clean):
            return clean / 255 * (1 + self.strength * rng.standard_normal(clean.shape))

`--noise.kind noises:Speckle --noise.options.strength 0.2` trains with it, if it is in `noises.py`.
"""

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


class Noise(Protocol):
    """Adds noise to training patches.

    An instance is made once in each process from its options, and must not change: the result
    depends on the generator's state, the patch and the options alone. Then a run resumes exactly,
    and any number of workers trains on the same samples.
    """

    def __call__(
        self, rng: np.random.Generator, clean: NDArray[np.uint8]
    ) -> NDArray[np.floating[Any]]:
        """Return a noisy copy of a patch.

        Args:
            rng: the sample's own generator; draw every random number from it.
            clean: uint8 (patch, patch, 3), RGB; not to be written to.

        Returns:
            Floating point of the same shape, on the [0, 1] scale but free to leave it; neither
            clipped nor rounded. raydae clips the values of a user's kind to [-8, 8]; a kind of
            raydae's own must stay within them (`fixed_point`).
        """


@runtime_checkable
class DeviceNoise(Noise, Protocol):
    """A noise kind that can also be made on the network's device, with the same values."""

    def level(self, rng: np.random.Generator) -> float:
        """Return a sample's noise level: the first thing that a call draws, 0-255 scale."""

    def on_device(self, clean: "Tensor", level: "Tensor", index: "Tensor", seed: int) -> "Tensor":
        """Return a noisy copy of a batch, equal to what a call returns for each sample.

        Args:
            clean: uint8 (n, h, w, 3), RGB.
            level: float32 (n,), the levels on the same device.
            index: int64 (n,), the samples' numbers, on the same device.
            seed: the run's seed, below 2^32.

        Returns:
            float32 (n, h, w, 3), on the [0, 1] scale but free to leave it.
        """
