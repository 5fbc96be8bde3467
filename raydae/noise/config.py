"""The settings of the training noise, and the noise kinds by name."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from raydae.core.components import Builtin, Table
from raydae.core.errors import UserError
from raydae.noise.camera import Camera
from raydae.noise.correlated import Correlated
from raydae.noise.gaussian import Gaussian
from raydae.noise.jpeg import Jpeg
from raydae.noise.levels import parse_sigma
from raydae.noise.poisson_gaussian import PoissonGaussian
from raydae.noise.speckle import Speckle

NOISE_VERSION = 3  # of how noise is made: the same seed and version, the same noise

NOISES = Table(
    "noise kind",
    "noise.kind",
    {
        "gaussian": Builtin("raydae.noise.gaussian:Gaussian", Gaussian),
        "poisson-gaussian": Builtin(
            "raydae.noise.poisson_gaussian:PoissonGaussian", PoissonGaussian
        ),
        "camera": Builtin("raydae.noise.camera:Camera", Camera),
        "jpeg": Builtin("raydae.noise.jpeg:Jpeg", Jpeg),
        "speckle": Builtin("raydae.noise.speckle:Speckle", Speckle),
        "correlated": Builtin("raydae.noise.correlated:Correlated", Correlated),
    },
)


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The noise that the network is trained to remove."""

    kind: str = "gaussian"
    """The kind (docs/noise.md), or MODULE:NAME."""
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
        """The noise in words: sigma of white Gaussian noise, or the kind's name."""
        return str(self.options["sigma"]) if self.kind == "gaussian" else self.kind

    @property
    def sigma_range(self) -> tuple[float, float] | None:
        """Lowest and highest sigma of white Gaussian noise, 0-255 scale; none for other kinds."""
        if self.kind != "gaussian":
            return None
        return parse_sigma(str(self.options["sigma"]), "noise.options.sigma")
