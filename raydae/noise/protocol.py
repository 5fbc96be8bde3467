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

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Noise(Protocol):
    """Adds noise to training patches.

    An instance is made once in each process from its options, and must not change: the result
    depends on the generator's state, the patch and the options alone. Then a run resumes exactly,
    and any number of workers trains on the same samples.

    A kind that a GPU can make too derives from `batch.BatchNoise`.
    """

    def __call__(
        self, rng: np.random.Generator, clean: NDArray[np.uint8]
    ) -> "NDArray[np.floating[Any]] | tuple[NDArray[np.floating[Any]], NDArray[np.uint8]]":
        """Return a noisy copy of a patch, or also what the network is to make of it.

        Args:
            rng: the sample's own generator; draw every random number from it.
            clean: uint8 (patch, patch, 3), RGB; not to be written to.

        Returns:
            Floating point of the same shape, on the [0, 1] scale but free to leave it; neither
            clipped nor rounded. raydae clips the values of a user's kind to [-8, 8]; a kind of
            raydae's own must stay within them (`fixed_point`). Or this and the patch without
            noise, uint8 of the same shape, if that is not `clean`: `camera` returns what the camera
            would have made of the patch.
        """
