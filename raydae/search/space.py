"""What a search may change, and how it draws from that.

    optim.lr=log:1e-4:1e-2          log-uniform between two numbers
    optim.lr=uniform:1e-4:1e-2      uniform
    optim.warmup=int:0:500          a whole number, both ends possible
    optim.batch_size=16,32,64       one of these
    noise.options.sigma=range:0:75          a blind range: its two ends are drawn uniformly

The names are those of the configuration. A number is drawn to four digits, so that what is printed
is what was trained with.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np

from raydae.core.errors import UserError
from raydae.core.random_numbers import SEARCH, generator
from raydae.core.settings import flatten
from raydae.training.config import Config

ATTEMPTS = 100  # to draw values that go together
FIXED = (
    *("optim.epochs", "data.path", "data.protocol", "threads", "init"),
    *("noise.version", "noise.on", "compile", "deterministic"),  # how it is computed, not what
)
Kind = Literal["log", "uniform", "int", "range", "choice"]
Value = str | int | float


class Drawing(Protocol):
    """Something that draws, by the name of what it is drawn for; an Optuna trial is one."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between two others, uniformly, or so in its logarithm."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number, both ends possible."""

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """One of these."""


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched."""

    name: str
    kind: Kind
    low: float = 0
    high: float = 0
    choices: tuple[Value, ...] = ()

    def draw(self, drawing: Drawing) -> Value:
        """A value for the setting."""
        if self.kind == "choice":
            return drawing.suggest_categorical(self.name, self.choices)
        if self.kind == "int":
            return drawing.suggest_int(self.name, int(self.low), int(self.high))
        if self.kind == "range":
            ends = sorted(
                _round(drawing.suggest_float(f"{self.name}.{end}", self.low, self.high))
                for end in ("one", "other")
            )
            return f"{ends[0]:g}:{ends[1]:g}"
        log = self.kind == "log"
        return _round(drawing.suggest_float(self.name, self.low, self.high, log=log))

    def parameters(self, value: Any) -> dict[str, Value] | None:
        """What a value would be drawn from, by the names a drawing knows; none: it lies outside."""
        if self.kind == "choice":
            same = [choice for choice in self.choices if value in (choice, str(choice))]
            return {self.name: same[0]} if same else None
        ends = [] if value is None else [float(end) for end in str(value).split(":")]
        if not ends or not all(self.low <= end <= self.high for end in ends):
            return None
        if self.kind == "range":
            return {f"{self.name}.one": ends[0], f"{self.name}.other": ends[-1]}
        return {self.name: ends[0]} if len(ends) == 1 else None

    @property
    def corners(self) -> tuple[Value, ...]:
        """The values at its ends, or all there are."""
        if self.kind == "choice":
            return self.choices
        if self.kind == "int":
            return int(self.low), int(self.high)
        return (f"{self.low:g}:{self.high:g}",) if self.kind == "range" else (self.low, self.high)


@dataclass(frozen=True)
class Space:
    """The settings that are searched."""

    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(cls, texts: Sequence[str], config: Config) -> "Space":
        """The space that some words such as `optim.lr=log:1e-4:1e-2` describe.

        Args:
            texts: one for each setting.
            config: what is not searched; every end of the space must go with it and some others.

        Raises:
            UserError: a name that does not exist, a range that is none, or a value out of bounds.
        """
        dimensions = tuple(_dimension(text) for text in texts)
        names = [dimension.name for dimension in dimensions]
        if not names:
            raise UserError("--space: name at least one setting, such as optim.lr=log:1e-4:1e-2")
        for dimension in dimensions:
            if names.count(dimension.name) > 1:
                raise UserError(f"--space: {dimension.name} is given twice")
            if dimension.name in FIXED or dimension.name.startswith("validation."):
                raise UserError(f"--space: {dimension.name} must be the same for every trial")
            if config.init is not None and dimension.name.startswith("model."):
                raise UserError(f"--space: {dimension.name} is that of the weights of --init")
        space = cls(dimensions)
        space.corners(config.override)
        return space

    def corners(self, check: Callable[[dict[str, Value]], object]) -> list[dict[str, Value]]:
        """Changes to a configuration that bring in each end of each dimension, alone if that goes.

        Args:
            check: raises UserError where changes do not go with the configuration.

        Raises:
            UserError: an end that goes with none of a hundred draws of the others.
        """
        found = []
        for dimension in self.dimensions:
            for value in dimension.corners:
                changes = {dimension.name: value}
                others = range(ATTEMPTS if len(self.dimensions) > 1 else 0)
                draws = (self.sample(0, number) for number in others)
                problems = []
                for draw in itertools.chain([{}], draws):
                    try:
                        check(draw | changes)
                        found.append(draw | changes)
                        break
                    except UserError as error:
                        problems.append(error)
                else:
                    raise problems[0]
        return found

    def draw(self, drawing: Drawing) -> dict[str, Value]:
        """A value for each setting, by its dotted name."""
        return {dimension.name: dimension.draw(drawing) for dimension in self.dimensions}

    def parameters(self, config: Config) -> dict[str, Value] | None:
        """What a configuration would be drawn from; none: it lies outside the space."""
        values = dict(flatten(config.to_dict()))
        found: dict[str, Value] = {}
        for dimension in self.dimensions:
            parameters = dimension.parameters(values[dimension.name])
            if parameters is None:
                return None
            found |= parameters
        return found

    def sample(self, seed: int, number: int, attempt: int = 0) -> dict[str, Value]:
        """The values of a random search's trial: a pure function of (seed, number, attempt)."""
        coordinates = sum(2 if dimension.kind == "range" else 1 for dimension in self.dimensions)
        return self.draw(_QuasiRandom(seed, number, attempt, coordinates))


@dataclass(frozen=True)
class Fixed:
    """A drawing whose outcome is known."""

    parameters: Mapping[str, Any]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The parameter of that name."""
        return float(self.parameters[name])

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Likewise."""
        return int(self.parameters[name])

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        """Likewise."""
        value: Value = self.parameters[name]
        return value


class _QuasiRandom:
    """A point of the sequence R (Roberts 2018), shifted by the seed.

    Its points leave smaller gaps than independent draws do: eight cover two settings. Further
    attempts at a point, where values do not go together, are independent draws.
    """

    def __init__(self, seed: int, number: int, attempt: int, coordinates: int) -> None:
        if attempt:
            rng = generator(seed, SEARCH, number * ATTEMPTS + attempt)
            self._point = iter(rng.uniform(size=coordinates))
            return
        ratio = 2.0  # the root of x^(d+1) = x + 1: the golden ratio where d = 1
        for _ in range(60):
            ratio = (1 + ratio) ** (1 / (coordinates + 1))
        steps = number * ratio ** -np.arange(1.0, coordinates + 1)
        shifts = generator(seed, SEARCH, 0).uniform(size=coordinates)
        self._point = iter((shifts + steps) % 1)

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        part = float(next(self._point))
        return low * (high / low) ** part if log else low + (high - low) * part

    def suggest_int(self, name: str, low: int, high: int) -> int:
        return low + int(next(self._point) * (high - low + 1))

    def suggest_categorical(self, name: str, choices: Sequence[Value]) -> Value:
        return choices[int(next(self._point) * len(choices))]


def spell(changes: Mapping[str, Any]) -> str:
    """Changed settings as flags of jobs/train.py."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changes.items())


def _dimension(text: str) -> Dimension:
    name, equals, values = text.partition("=")
    word, *ends = values.split(":")
    if not (name and equals and values):
        raise UserError(f"--space {text}: write NAME=RANGE, such as optim.lr=log:1e-4:1e-2")
    if word in get_args(Kind) and word != "choice":
        kind = cast(Kind, word)
        try:
            low, high = (float(end) for end in ends)
        except ValueError:
            raise UserError(f"--space {text}: write {name}={kind}:LOW:HIGH") from None
        if not (low < high and math.isfinite(low) and math.isfinite(high)):
            raise UserError(f"--space {text}: the lower end comes first")
        if kind == "log" and low <= 0:
            raise UserError(f"--space {text}: a logarithmic range begins above 0")
        if kind == "int" and not (low.is_integer() and high.is_integer()):
            raise UserError(f"--space {text}: the ends must be whole numbers")
        if kind == "range" and name != "noise.options.sigma":
            raise UserError(f"--space {text}: only noise.options.sigma can be a range itself")
        return Dimension(name, kind, low, high)
    if not word.replace(".", "", 1).isdigit() and "," not in values and ":" in values:
        raise UserError(
            f"--space {text}: there is no range {word!r}; there are log, uniform, int and range"
        )
    return Dimension(name, "choice", choices=tuple(_number(value) for value in values.split(",")))


def _number(text: str) -> Value:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _round(value: float) -> float:
    return float(f"{value:.4g}")
