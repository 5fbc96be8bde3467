"""What a run computes, as frozen dataclasses.

A dotted name such as `optim.lr` is the flag on the command line, the key of an override and the key
of a search space: one vocabulary. Where and how a run is launched (name, storage, workers) is not
part of it: the same `Config` and the same images give the same run anywhere, but for the rounding
of other processors and numbers of workers, and what several workers make of batch statistics.
"""

import dataclasses
import difflib
import json
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from raydae.core.errors import UserError
from raydae.noise.gaussian import VERSION as NOISE_VERSION

Protocol = Literal["bsds500", "cbsd68"]
Precision = Literal["auto", "fp32", "bf16"]
RECIPES = Path(__file__).parents[1] / "recipes"  # configurations by name


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images, and how patches are cut from them."""

    path: str | None = None
    """Folder or URI of images; none: BSDS500."""
    protocol: Protocol = "bsds500"
    """Split of BSDS500, its own or CBSD68's."""
    patch_size: int = 64
    """Height and width of a patch, pixels."""
    patches_per_image: int = 16
    """Patches cut from an image in an epoch."""
    crops_per_visit: int = 2
    """Patches cut each time an image is opened."""
    small_images: Literal["error", "skip"] = "error"
    """Images smaller than a patch."""

    def __post_init__(self) -> None:
        _at_least("data.patch_size", self.patch_size, 16)
        _at_least("data.patches_per_image", self.patches_per_image, 1)
        _at_least("data.crops_per_visit", self.crops_per_visit, 1)
        if self.patches_per_image % self.crops_per_visit:
            raise UserError(
                f"data.patches_per_image ({self.patches_per_image}) must be a multiple of "
                f"data.crops_per_visit ({self.crops_per_visit}); change one of them"
            )


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The noise that is trained on: additive, white, Gaussian, never clipped."""

    sigma: str = "25"
    """Noise on the 0-255 scale: 25, or uniform 5:55."""
    on: Literal["auto", "cpu", "device"] = "auto"
    """Where it is made; auto: on a GPU."""
    version: int = NOISE_VERSION
    """Of how it is made; a run goes on with its own."""

    def __post_init__(self) -> None:
        parse_sigma(self.sigma, "noise.sigma")
        if self.version != NOISE_VERSION:
            raise UserError(
                f"noise.version is {self.version}, and this raydae makes noise of version "
                f"{NOISE_VERSION}: go on with the raydae that began the run, or begin a new one "
                f"with --noise.version {NOISE_VERSION}"
            )

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest sigma, 0-255 scale; equal where the level is fixed."""
        return parse_sigma(self.sigma, "noise.sigma")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network; what follows its name is for unet."""

    name: Literal["dae", "unet"] = "dae"
    """The network."""
    width: int = 32
    """Channels of the first level of unet, doubled at each."""
    levels: int = 3
    """Levels of unet, each at half the size of the last."""
    blocks: int = 2
    """Residual blocks of unet at a level, each way."""

    def __post_init__(self) -> None:
        _between("model.width", self.width, 4, 256)
        _between("model.levels", self.levels, 1, 5)
        _between("model.blocks", self.blocks, 1, 8)
        if (deepest := self.width * 2 ** (self.levels - 1)) > 1024:
            raise UserError(
                f"unet would have {deepest} channels at its deepest level, and 1024 is the limit; "
                "lower --model.width or --model.levels"
            )

    @property
    def multiple(self) -> int:
        """Pixels by which the height and width that the network takes must be divisible."""
        return 2**self.levels if self.name == "unet" else 16


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the network is optimised."""

    loss: Literal["mse", "l1", "charbonnier", "relative"] = "mse"
    """The loss."""
    optimizer: Literal["adam", "adamw", "muon"] = "adam"
    """The optimizer."""
    lr: float = 1e-3
    """Learning rate, the highest of a schedule."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate; cosine: to 0."""
    warmup: int = 0
    """Steps in which the learning rate rises from 0."""
    weight_decay: float = 0.0
    """Of adamw, by the learning rate."""
    clip: float | None = None
    """Largest norm of the gradient; none: no limit."""
    ema: float = 0.0
    """Decay of the averaged weights, which are kept; 0: off."""
    batch_size: int = 32
    """Patches in a step, over all workers."""
    micro_batch: int = 4
    """Patches of a batch that one worker takes at least."""
    epochs: int = 100
    """Passes over the training images."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"optim.lr must be a positive number, not {self.lr}")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise UserError(f"optim.clip must be a positive number, not {self.clip}")
        if not 0 <= self.ema < 1:
            raise UserError(f"optim.ema must be at least 0 and below 1, not {self.ema}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise UserError(f"optim.weight_decay must be at least 0, not {self.weight_decay}")
        if self.weight_decay and self.optimizer != "adamw":
            raise UserError("optim.weight_decay is for --optim.optimizer adamw")
        _at_least("optim.warmup", self.warmup, 0)
        _at_least("optim.batch_size", self.batch_size, 1)
        _at_least("optim.micro_batch", self.micro_batch, 1)
        _at_least("optim.epochs", self.epochs, 1)
        if self.batch_size % self.micro_batch:
            raise UserError(
                f"optim.batch_size ({self.batch_size}) must be a multiple of optim.micro_batch "
                f"({self.micro_batch}); change one of them"
            )


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The fixed images and the fixed noise that every epoch is judged by."""

    images: int = 16
    """Validation images used each epoch; 0: all."""
    sigma: str | None = None
    """Levels judged at, such as 15,25,50; none: as trained."""

    def __post_init__(self) -> None:
        _at_least("validation.images", self.images, 0)
        if self.sigma is not None:
            for level in self.sigma.split(","):
                parse_level(level, "validation.sigma")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run, whole, as the module says."""

    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    init: str | None = None
    """Model file or URI to start from; none: random weights."""
    seed: int = 0
    """Seed of the weights, the patches and the noise."""
    precision: Precision = "auto"
    """Arithmetic; auto: bf16 where faster."""
    compile: Literal["auto", "off"] = "auto"
    """Compile the network; auto: long GPU runs."""
    deterministic: bool = False
    """Same bits in every run on a GPU; slower."""
    threads: int | None = None
    """CPU threads of a worker; none: its share."""

    def __post_init__(self) -> None:
        _at_least("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise UserError(f"seed must be below 2**32, not {self.seed}")
        if self.threads is not None:
            _at_least("threads", self.threads, 1)
        if self.data.patch_size % self.model.multiple:
            raise UserError(
                f"data.patch_size ({self.data.patch_size}) must be a multiple of "
                f"{self.model.multiple} for {self.model.name}; change it"
            )
        if self.optim.micro_batch % self.data.crops_per_visit:
            raise UserError(
                f"optim.micro_batch ({self.optim.micro_batch}) must be a multiple of "
                f"data.crops_per_visit ({self.data.crops_per_visit}); change one of them"
            )

    @property
    def evaluation_sigmas(self) -> tuple[float, ...]:
        """The noise levels, 0-255 scale, that validation and the test table are made at."""
        if self.validation.sigma is not None:
            return tuple(float(level) for level in self.validation.sigma.split(","))
        low, high = self.noise.range
        usual = tuple(sigma for sigma in (15.0, 25.0, 50.0) if low <= sigma <= high)
        return usual if low != high and usual else ((low + high) / 2,)

    def to_dict(self) -> dict[str, Any]:
        """A nested dictionary of plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """The configuration of a dictionary as `to_dict` makes it; what is absent has its default.

        Raises:
            UserError: a key that does not exist, or a value of the wrong type or range.
        """
        config: Config = _from_dict(cls, values, "")
        return config

    def override(self, changes: Mapping[str, Any]) -> "Config":
        """This configuration with dotted names changed: `{"optim.lr": 3e-4}`.

        Raises:
            UserError: a name that does not exist, or a value of the wrong type or range.
        """
        values = self.to_dict()
        known = dict(flatten(values))
        for name, value in changes.items():
            if name not in known:
                raise UserError(_unknown(name, list(known)))
            *parents, leaf = name.split(".")
            node = values
            for parent in parents:
                node = node[parent]
            node[leaf] = value
        return Config.from_dict(values)


def load_config(path: str | Path) -> Config:
    """The configuration in a JSON file, as every run writes it, or a recipe of raydae by its name.

    Raises:
        UserError: no such file or recipe, not JSON, or not a configuration.
    """
    from raydae.core.storage import split_path  # pyarrow, where there may be nothing to read

    recipes = {recipe.stem: recipe for recipe in RECIPES.glob("*.json")}
    try:
        folder, name = split_path(recipes.get(str(path), path))
        values = json.loads(folder.read(name))
    except FileNotFoundError:
        raise UserError(
            f"--config {path}: there is no such file; the recipes are {', '.join(recipes)}"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"--config {path} is not readable JSON: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"--config {path} must hold a JSON object, as a run's config.json does")
    return Config.from_dict(values)


def differences(old: Config, new: Config) -> list[str]:
    """The dotted names in which two configurations differ, each as `name: old, now new`."""
    was, now = dict(flatten(old.to_dict())), dict(flatten(new.to_dict()))
    return [f"{name}: {was[name]}, now {now[name]}" for name in now if was[name] != now[name]]


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested dictionary with their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def parse_sigma(text: str, name: str = "sigma") -> tuple[float, float]:
    """A noise level on the 0-255 scale, `25` or `5:55`, as (lowest, highest).

    Raises:
        UserError: not a number or range, negative, above 255, or the higher end first.
    """
    try:
        ends = [float(end) for end in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or not all(math.isfinite(end) for end in ends):
        raise UserError(f"{name} must be a number such as 25 or a range such as 5:55, not {text!r}")
    low, high = ends[0], ends[-1]
    if low < 0 or high > 255:
        raise UserError(f"{name} is on the 0-255 scale and cannot be {text}")
    if low > high:
        raise UserError(f"{name} {text} has its higher end first; write {ends[1]:g}:{ends[0]:g}")
    return low, high


def parse_level(text: str, name: str) -> float:
    """A single noise level on the 0-255 scale.

    Raises:
        UserError: as `parse_sigma` does, and for a range.
    """
    low, high = parse_sigma(text, name)
    if low != high:
        raise UserError(f"{name} takes single levels such as 25, not the range {text}")
    return low


def parse_workers(text: str | None) -> tuple[int, int] | None:
    """`4`, or elastic `2:8`, as (least, most).

    Raises:
        UserError: neither, or fewer than one worker.
    """
    if text is None:
        return None
    try:
        ends = [int(end) for end in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or ends[0] > ends[-1]:
        raise UserError(f"--num-workers takes a number such as 4, or 2:8, not {text!r}")
    if ends[0] < 1:
        raise UserError(f"--num-workers {text}: at least one worker is needed")
    return ends[0], ends[-1]


def check_workers(asked: tuple[int, int] | None, config: Config) -> None:
    """Refuses more workers than can share a batch; needs no Ray.

    Raises:
        UserError: there are.
    """
    batch, micro_batch = config.optim.batch_size, config.optim.micro_batch
    if asked is not None and asked[1] > batch // micro_batch:
        raise UserError(
            f"--num-workers {asked[1]}: a batch of {batch} can be shared among "
            f"{batch // micro_batch} workers at most, in micro-batches of {micro_batch}; "
            "ask for fewer, raise --batch-size or lower --optim.micro-batch"
        )


def _at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise UserError(f"{name} must be at least {minimum}, not {value}")


def _between(name: str, value: int, minimum: int, maximum: int) -> None:
    if not minimum <= value <= maximum:
        raise UserError(f"{name} must be from {minimum} to {maximum}, not {value}")


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or sorted(known)
    return f"there is no setting {name!r}; did you mean {' or '.join(close)}?"


def _from_dict(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, Mapping):
        raise UserError(
            f"{prefix.rstrip('.') or 'a configuration'} must be a group of settings, not {values!r}"
        )
    hints = get_type_hints(cls)
    for key in values:
        if key not in hints:
            raise UserError(_unknown(f"{prefix}{key}", [f"{prefix}{known}" for known in hints]))
    return cls(
        **{
            key: _from_dict(hints[key], value, f"{prefix}{key}.")
            if dataclasses.is_dataclass(hints[key])
            else _coerce(f"{prefix}{key}", hints[key], value)
            for key, value in values.items()
        }
    )


def _coerce(name: str, kind: Any, value: Any) -> Any:
    """The value as the field's type, where JSON or a search space spell it otherwise."""
    if get_origin(kind) in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        (kind,) = (option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise UserError(f"{name} must be one of {', '.join(get_args(kind))}, not {value!r}")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is str and number:  # sigma as a number
        return format(value, ".12g")
    if kind is float and number:
        return float(value)
    if isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    raise UserError(f"{name} must be {kind.__name__}, not {value!r}")
