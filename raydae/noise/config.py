"""The settings of the training noise, and the noise kinds by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from raydae.core.components import Builtin, Table
from raydae.core.errors import UserError
from raydae.noise.gaussian import VERSION as NOISE_VERSION
from raydae.noise.gaussian import Gaussian
from raydae.noise.levels import parse_sigma

NOISES = Table(
    "noise kind",
    "noise.kind",
    {"gaussian": Builtin("raydae.noise.gaussian:Gaussian", Gaussian)},
)


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The noise that the network is trained to remove."""

    kind: str = "gaussian"
    """gaussian, or MODULE:NAME."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the kind."""
    on: Literal["auto", "cpu", "device"] = "auto"
    """Where it is made; auto: on a GPU."""
    version: int = NOISE_VERSION
    """Version of the noise; a run keeps its own."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", NOISES.check(self.kind, self.options, "noise.options"))
        if self.version != NOISE_VERSION:
            raise UserError(
                f"noise.version is {self.version}, but this raydae makes noise of version "
                f"{NOISE_VERSION}; continue with the raydae that began the run, or begin a new run "
                f"with --noise.version {NOISE_VERSION}"
            )

    @property
    def description(self) -> str:
        """The option `sigma`, or the kind's name if it has none."""
        return str(self.options.get("sigma", self.kind))

    @property
    def sigma_range(self) -> tuple[float, float] | None:
        """Lowest and highest sigma, 0-255 scale; none for a kind without an option `sigma`."""
        if "sigma" not in self.options:
            return None
        return parse_sigma(str(self.options["sigma"]), "noise.options.sigma")
