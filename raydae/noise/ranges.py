"""Options of noise kinds that are numbers or ranges, from which each patch draws its own number."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from raydae.core.errors import UserError
from raydae.noise.levels import parse_range

_STANDARD = NormalDist()
_TAIL = 1e-4  # normal numbers beyond 3.7 are not drawn


@dataclass(frozen=True)
class Uniform:
    """A number, or a range that is drawn from uniformly."""

    low: float
    high: float

    @classmethod
    def of(cls, text: str, name: str, lowest: float, highest: float) -> "Uniform":
        """Return the range that an option says.

        Raises:
            UserError: as `parse_range`.
        """
        return cls(*parse_range(text, name, lowest, highest))

    def __call__(self, uniform: float) -> float:
        """Return the number that a uniform number in [0, 1) stands for."""
        return self.low + (self.high - self.low) * uniform


@dataclass(frozen=True)
class LogUniform:
    """A number, or a range whose logarithm is drawn from uniformly."""

    low: float
    high: float

    @classmethod
    def of(cls, text: str, name: str, lowest: float, highest: float) -> "LogUniform":
        """Return the range that an option says.

        Raises:
            UserError: as `parse_range`, and for a range that begins with 0.
        """
        low, high = parse_range(text, name, lowest, highest)
        if low == 0 < high:
            raise UserError(f"{name} {text} begins with 0, which has no logarithm; begin above it")
        return cls(low, high)

    def __call__(self, uniform: float) -> float:
        """Return the number that a uniform number in [0, 1) stands for."""
        if self.low == self.high:
            return self.low
        return self.low * math.exp(math.log(self.high / self.low) * uniform)


def check_share(share: float, name: str) -> None:
    """Refuse a share of patches that is not between 0 and 1.

    Raises:
        UserError: it is not.
    """
    if not 0 <= share <= 1:
        raise UserError(f"{name} is a share of the patches, from 0 to 1, not {share:g}")


def normal(uniform: float) -> float:
    """Return the standard normal number that a uniform number in [0, 1) stands for."""
    return _STANDARD.inv_cdf(min(max(uniform, _TAIL), 1 - _TAIL))
