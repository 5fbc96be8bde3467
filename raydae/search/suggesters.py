"""Sources of values for a search space: known values, and a quasi-random sequence.

A suggester has the methods that an Optuna trial has, so that Optuna is one more source.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from raydae.core.random_numbers import SEARCH, generator

ATTEMPTS = 100
"""How often values are drawn for a trial, or for a check, until they are valid together."""
Value = str | int | float


class Suggester(Protocol):
    """A source of values; each value is asked for by a name of its own."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number in [low, high], uniform in the number or in its logarithm."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return an integer in [low, high], uniform, both ends included."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """Return one of the choices, each with the same probability."""


class Fixed:
    """A suggester that returns known values."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return the known value of that name."""
        return float(self._values[name])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return the known value of that name."""
        return int(self._values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """Return the known value of that name."""
        value: Value = self._values[name]
        return value


class QuasiRandom:
    """A suggester that returns the coordinates of one point of a scrambled Halton sequence.

    The first points of the sequence (Halton 1960; Owen 2017) leave smaller gaps than independent
    draws: eight of them cover two settings. The seed determines the sequence, and `number` is the
    point's place in it. Where the point's values are not valid together, further attempts are
    independent draws. A point is a pure function of (seed, number, attempt).
    """

    def __init__(self, seed: int, number: int, attempt: int, coordinates: int) -> None:
        if attempt:
            rng = generator(seed, SEARCH, number * ATTEMPTS + attempt)
            self._point = iter(rng.uniform(size=coordinates))
            return
        from scipy.stats import qmc  # takes more than a second to import

        sequence = qmc.Halton(coordinates, rng=np.random.default_rng([seed, SEARCH]))
        self._point = iter(sequence.fast_forward(number).random()[0])

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number in [low, high), from the point's next coordinate."""
        part = float(next(self._point))
        return low * (high / low) ** part if log else low + (high - low) * part

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return an integer in [low, high], from the point's next coordinate."""
        return low + int(next(self._point) * (high - low + 1))

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """Return one of the choices, by the point's next coordinate."""
        return choices[int(next(self._point) * len(choices))]
