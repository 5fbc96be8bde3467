"""The settings of the network, and the networks by name. Needs no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from raydae.core.components import Builtin, Table
from raydae.core.errors import UserError
from raydae.core.settings import check_between


@dataclass(frozen=True, kw_only=True)
class AutoencoderOptions:
    """The options of `dae.DenoisingAutoencoder`: none."""

    multiple: ClassVar[int] = 16
    """Pixels that the height and width of its input must be a multiple of."""


@dataclass(frozen=True, kw_only=True)
class UNetOptions:
    """The options of `unet.UNet`."""

    width: int = 32
    """Channels of the first level, doubled at each."""
    levels: int = 3
    """Levels, each at half the size of the last."""
    blocks: int = 2
    """Residual blocks of a level, each way."""

    def __post_init__(self) -> None:
        check_between("model.options.width", self.width, 4, 256)
        check_between("model.options.levels", self.levels, 1, 5)
        check_between("model.options.blocks", self.blocks, 1, 8)
        if (deepest := self.width * 2 ** (self.levels - 1)) > 1024:
            raise UserError(
                f"unet would have {deepest} channels at its deepest level, and 1024 is the limit; "
                "lower --model.options.width or --model.options.levels"
            )

    @property
    def multiple(self) -> int:
        """Pixels that the height and width of its input must be a multiple of."""
        return int(2**self.levels)


NETWORKS = Table(
    "network",
    "model.name",
    {
        "dae": Builtin("raydae.models.dae:DenoisingAutoencoder", AutoencoderOptions),
        "unet": Builtin("raydae.models.unet:UNet", UNetOptions),
    },
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: str = "dae"
    """dae, unet, or MODULE:NAME."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the network."""

    def __post_init__(self) -> None:
        options = NETWORKS.check(self.name, self.options, "model.options")
        object.__setattr__(self, "options", options)

    @property
    def multiple(self) -> int:
        """Pixels that the network's input height and width must be a multiple of.

        1 for a user's own network: the training loop checks it once the network is built.
        """
        options = NETWORKS.options_class(self.name)(**self.options)
        return int(getattr(options, "multiple", 1))

    @property
    def description(self) -> str:
        """The name with the options, such as `unet (blocks 2, levels 3, width 32)`."""
        options = ", ".join(f"{key} {value}" for key, value in sorted(self.options.items()))
        return f"{self.name} ({options})" if options else self.name
