"""The search space: which settings a search varies, and over which values.

    optim.lr=log:1e-4:1e-2          log-uniform between two numbers
    optim.lr=uniform:1e-4:1e-2      uniform between two numbers
    optim.warmup=int:0:500          an integer, both ends included
    optim.batch_size=16,32,64       one of these values
    noise.options.sigma=range:0:75  a range of noise levels: both ends are drawn uniformly

The names are the dotted names of the configuration. Numbers are rounded to four digits, so that
the tables print exactly the value that was trained with.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from raydae.core.errors import UserError
from raydae.core.settings import flatten
from raydae.search.suggesters import ATTEMPTS, QuasiRandom, Suggester, Value
from raydae.training.config import Config

NOISE_LEVEL = "noise.options.sigma"
"""The setting in the column `sigma` of tables; the only setting that may itself be a range."""
LEARNING_RATE = "optim.lr"
"""The setting in the column `lr` of tables."""
FIXED = (
    *("optim.epochs", "data.path", "data.protocol", "data.changed", "init"),
    # These change how a trial is computed, not what it computes.
    *("threads", "noise.version", "noise.on", "compile", "deterministic"),
    *("data.cache", "data.cache_gib"),
)
"""Settings that are the same for every trial of a search."""
EXAMPLE = f"{LEARNING_RATE}=log:1e-4:1e-2"

Kind = Literal["log", "uniform", "int", "range", "choice"]


@dataclass(frozen=True)
class Dimension:
    """One setting that is searched."""

    name: str
    """Its dotted name in the configuration."""
    kind: Kind
    low: float = 0
    high: float = 0
    choices: tuple[Value, ...] = ()
    """The values of kind `choice`; the other kinds have `low` and `high`."""

    def draw(self, suggester: Suggester) -> Value:
        """Return a value for the setting."""
        if self.kind == "choice":
            return suggester.suggest_categorical(self.name, self.choices)
        if self.kind == "int":
            return suggester.suggest_int(self.name, int(self.low), int(self.high))
        if self.kind == "range":
            ends = sorted(
                _round(suggester.suggest_float(f"{self.name}.{end}", self.low, self.high))
                for end in ("one", "other")
            )
            return f"{ends[0]:g}:{ends[1]:g}"
        log = self.kind == "log"
        return _round(suggester.suggest_float(self.name, self.low, self.high, log=log))

    def parameters(self, value: Any) -> dict[str, Value] | None:
        """Return the suggester's values that give this value in `draw`; None if there are none."""
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
        """The values at both ends, or all choices."""
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
        """Return the space that texts such as `optim.lr=log:1e-4:1e-2` describe.

        Args:
            texts: one for each setting.
            config: the settings that are not searched. Each end of each dimension must be valid
                with them and with some values of the other dimensions.

        Raises:
            UserError: no text, a name that does not exist, is given twice or cannot be searched,
                a range that cannot be read, or a value that is not valid.
        """
        dimensions = tuple(_parse_dimension(text) for text in texts)
        names = [dimension.name for dimension in dimensions]
        if not names:
            raise UserError(f"--space: name at least one setting, such as {EXAMPLE}")
        for name in names:
            if names.count(name) > 1:
                raise UserError(f"--space: {name} is given twice; give it once")
            if name in FIXED or name.startswith(("validation.", "data.options.")):
                raise UserError(
                    f"--space: {name} must be the same for every trial; give it as a flag"
                )
            if config.init is not None and name.startswith("model."):
                raise UserError(
                    f"--space: {name} is fixed by the weights of --init; leave out one of the two"
                )
        space = cls(dimensions)
        space.corners(config.override)
        return space

    def corners(self, check: Callable[[dict[str, Value]], object]) -> list[dict[str, Value]]:
        """Return changes to the configuration that together contain each end of each dimension.

        An end is combined with values of the other dimensions only where it is not valid alone.

        Args:
            check: raises UserError if changes are not valid with the configuration.

        Raises:
            UserError: an end is not valid, neither alone nor with any of `ATTEMPTS` draws of the
                other dimensions.
        """
        return [
            self._complete({dimension.name: value}, check)
            for dimension in self.dimensions
            for value in dimension.corners
        ]

    def _complete(
        self, changes: dict[str, Value], check: Callable[[dict[str, Value]], object]
    ) -> dict[str, Value]:
        """Return the changes, with values of other dimensions if they are not valid alone."""
        problem = None
        others = range(ATTEMPTS if len(self.dimensions) > 1 else 0)
        for draw in itertools.chain([{}], (self.sample(0, number) for number in others)):
            try:
                check(draw | changes)
            except UserError as error:
                problem = problem or error
                continue
            return draw | changes
        assert problem is not None
        raise problem

    def draw(self, suggester: Suggester) -> dict[str, Value]:
        """Return a value for each setting, by its dotted name."""
        return {dimension.name: dimension.draw(suggester) for dimension in self.dimensions}

    def parameters(self, config: Config) -> dict[str, Value] | None:
        """Return the suggester's values that give a configuration in `draw`; or None."""
        values = dict(flatten(config.to_dict()))
        found: dict[str, Value] = {}
        for dimension in self.dimensions:
            parameters = dimension.parameters(values[dimension.name])
            if parameters is None:
                return None
            found |= parameters
        return found

    def sample(self, seed: int, number: int, attempt: int = 0) -> dict[str, Value]:
        """Return the values of a random search's trial.

        They are a pure function of (seed, number, attempt).
        """
        coordinates = sum(2 if dimension.kind == "range" else 1 for dimension in self.dimensions)
        return self.draw(QuasiRandom(seed, number, attempt, coordinates))


def format_flags(changes: Mapping[str, Any]) -> str:
    """Return changed settings as flags of the train command."""
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in changes.items())


def _parse_dimension(text: str) -> Dimension:
    name, equals, values = text.partition("=")
    word, *ends = values.split(":")
    if not (name and equals and values):
        raise UserError(f"--space {text}: write NAME=RANGE, such as {EXAMPLE}")
    if word in get_args(Kind) and word != "choice":
        kind = cast(Kind, word)
        try:
            low, high = (float(end) for end in ends)
        except ValueError:
            raise UserError(f"--space {text}: write {name}={kind}:LOW:HIGH") from None
        if not (low < high and math.isfinite(low) and math.isfinite(high)):
            raise UserError(f"--space {text}: write two finite numbers, the lower end first")
        if kind == "log" and low <= 0:
            raise UserError(f"--space {text}: a logarithmic range must begin above 0")
        if kind == "int" and not (low.is_integer() and high.is_integer()):
            raise UserError(f"--space {text}: the ends must be whole numbers")
        if kind == "range" and name != NOISE_LEVEL:
            raise UserError(f"--space {text}: only {NOISE_LEVEL} can be a range; use uniform")
        return Dimension(name, kind, low, high)
    if not word.replace(".", "", 1).isdigit() and "," not in values and ":" in values:
        raise UserError(f"--space {text}: {word!r} must be one of log, uniform, int and range")
    return Dimension(name, "choice", choices=tuple(_number(value) for value in values.split(",")))


def _number(text: str) -> Value:
    """Return the number that a text spells, or the text itself."""
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
