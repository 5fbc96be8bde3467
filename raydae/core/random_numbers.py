"""The random numbers of a run: a counter-based generator, the same on the CPU and on a GPU.

Philox4x64-10 (Salmon et al., SC 2011) maps a key of two words and a counter of four words, 64 bits
each, to four random words. It has no other state, so any word can be computed anywhere:

    key      (seed, purpose)             counter   (block, number, 0, 0)

`number` is the number of a sample, pass or trial. numpy draws from block 1 first, because it
increments the counter before it computes; `noise/triton_kernel.py` computes the same words on a
GPU.
"""

import numpy as np

ORDER, SAMPLE, SEARCH, EVALUATION = 0, 1, 2, 3  # purposes, which never share random numbers
FIRST_BLOCK = 1
BLOCK_WORDS = 4


class Generators:
    """The generators of one seed and purpose, one for each number.

    One numpy generator is moved to the start of a number's random words, which takes 2 us; a new
    generator takes 17 us. At most one number's generator can therefore be in use at a time.
    """

    def __init__(self, seed: int, purpose: int) -> None:
        self._bits = np.random.Philox(key=[seed, purpose], counter=0)
        self._generator = np.random.Generator(self._bits)
        self._state = self._bits.state
        self._counter = self._state["state"]["counter"]

    def __getitem__(self, number: int) -> np.random.Generator:
        """Return the generator of a number, at its start; it is valid until the next call."""
        self._counter[1] = number
        self._bits.state = self._state
        return self._generator


def generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """Return a new generator for (seed, purpose, number).

    Args:
        seed: below 2^64.
        purpose: `ORDER`, `SAMPLE`, `SEARCH` or `EVALUATION`.
        number: below 2^64.
    """
    key, counter = (np.array(words, np.uint64) for words in ([seed, purpose], [0, number, 0, 0]))
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
