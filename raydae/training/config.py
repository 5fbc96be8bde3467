"""What a run computes, as frozen dataclasses.

How and where a run is launched (name, storage, workers) is not part of it: the same `Config` and
the same images give the same run anywhere. Only rounding differs, between processors and numbers of
workers, and batch statistics, which each worker computes on its own part of a batch.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from raydae.core.errors import UserError
from raydae.core.settings import check_min, flatten, from_dict, unknown_setting
from raydae.images.config import SOURCES, DataConfig
from raydae.metrics import METRICS
from raydae.models.config import NETWORKS, ModelConfig
from raydae.noise.config import NOISES, NoiseConfig
from raydae.noise.evaluation import EvaluationNoise, HiddenPixels, PairNoise, TestNoise
from raydae.noise.levels import parse_level
from raydae.training.losses import LOSSES
from raydae.training.optimizers import OPTIMIZERS

Precision = Literal["auto", "fp32", "bf16"]
RECIPES = Path(__file__).parents[1] / "recipes"  # configurations by name
# The settings that name a component: where its options are, and the table of names.
COMPONENTS = {
    "data.path": ("data.options", SOURCES),
    "noise.kind": ("noise.options", NOISES),
    "model.name": ("model.options", NETWORKS),
    "optim.loss": ("optim.loss_options", LOSSES),
    "optim.optimizer": ("optim.optimizer_options", OPTIMIZERS),
    "validation.noise": ("validation.noise_options", NOISES),
}
OPTIONS = tuple(options for options, _ in COMPONENTS.values())


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the network is optimised."""

    loss: str = "mse"
    """mse, l1, charbonnier, relative, or MODULE:NAME."""
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the loss."""
    optimizer: str = "adam"
    """adam, adamw, muon, or MODULE:NAME."""
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the optimizer."""
    lr: float = 1e-3
    """Learning rate, the highest of a schedule."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Of the learning rate; cosine: to 0."""
    warmup: int = 0
    """Steps in which the learning rate rises from 0."""
    clip: float | None = None
    """Largest norm of the gradient; none: no limit."""
    ema: float = 0.0
    """Decay of the averaged weights (EMA); 0: off."""
    neighbor_weight: float = 2.0
    """Of Neighbor2Neighbor's regulariser."""
    batch_size: int = 32
    """Patches in a step, over all workers."""
    micro_batch: int = 4
    """Patches that are never divided among workers."""
    epochs: int = 100
    """Passes over the training images."""

    def __post_init__(self) -> None:
        for name, table in (("loss", LOSSES), ("optimizer", OPTIMIZERS)):
            key = f"{name}_options"
            options = table.check(getattr(self, name), getattr(self, key), f"optim.{key}")
            object.__setattr__(self, key, options)
        if not (math.isfinite(self.neighbor_weight) and self.neighbor_weight >= 0):
            raise UserError(f"optim.neighbor_weight must be 0 or more, not {self.neighbor_weight}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise UserError(f"optim.lr must be a positive number, not {self.lr}")
        if self.clip is not None and not (math.isfinite(self.clip) and self.clip > 0):
            raise UserError(f"optim.clip must be a positive number, not {self.clip}")
        if not 0 <= self.ema < 1:
            raise UserError(f"optim.ema must be at least 0 and below 1, not {self.ema}")
        check_min("optim.warmup", self.warmup, 0)
        check_min("optim.batch_size", self.batch_size, 1)
        check_min("optim.micro_batch", self.micro_batch, 1)
        check_min("optim.epochs", self.epochs, 1)
        if self.batch_size % self.micro_batch:
            raise UserError(
                f"optim.batch_size ({self.batch_size}) must be a multiple of optim.micro_batch "
                f"({self.micro_batch}); change one of them"
            )


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """The fixed images and the fixed noise that score the network after every epoch."""

    images: int = 16
    """Validation images used each epoch; 0: all."""
    sigma: str | None = None
    """White noise of levels such as 15,25,50."""
    noise: str | None = None
    """Noise kind; none: --val-sigma, or as trained."""
    noise_options: Mapping[str, Any] = field(default_factory=dict)
    """Options of that kind."""
    metrics: tuple[str, ...] = ("psnr", "ssim")
    """psnr, ssim, MODULE:NAME."""

    def __post_init__(self) -> None:
        check_min("validation.images", self.images, 0)
        if self.sigma is not None:
            for level in self.sigma.split(","):
                parse_level(level, "validation.sigma")
        if self.noise is not None:
            if self.sigma is not None:
                raise UserError("give validation.sigma or validation.noise, not both")
            options = NOISES.check(self.noise, self.noise_options, "validation.noise_options")
            object.__setattr__(self, "noise_options", options)
        elif self.noise_options:
            raise UserError("validation.noise_options are those of validation.noise; give that too")
        for name in self.metrics:
            METRICS.options_class(name)  # raises for an unknown name
        if "psnr" not in self.metrics:
            raise UserError(
                "validation.metrics must contain psnr, by which the best epoch is chosen"
            )
        if len(set(self.metrics)) < len(self.metrics):
            raise UserError("validation.metrics names a metric twice")

    @property
    def description(self) -> str:
        """The noise in words, such as `sigma 15, 25`; `the noise of training` if none is set."""
        if self.sigma is not None:
            return f"sigma {self.sigma.replace(',', ', ')}"
        if self.noise is not None:
            return EvaluationNoise(kind=self.noise, options=self.noise_options).label
        return "the noise of training"


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run, complete."""

    data: DataConfig = field(default_factory=DataConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    learn: Literal["clean", "neighbor2neighbor"] = "clean"
    """What it learns from."""
    init: str | None = None
    """Model file to start from; none: random weights."""
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
        check_min("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise UserError(f"seed must be below 2**32, not {self.seed}")
        if self.threads is not None:
            check_min("threads", self.threads, 1)
        if self.data.pairs is not None and self.noise.on == "device":
            raise UserError("--noise-on device: data.pairs needs the CPU; leave it out")
        self._check_learn()
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

    def _check_learn(self) -> None:
        if self.learn == "clean":
            return
        if self.data.pairs is not None:
            raise UserError(f"--learn {self.learn} has no pairs; leave out one of the two")
        if self.data.patch_size % (2 * self.model.multiple):
            raise UserError(
                f"data.patch_size ({self.data.patch_size}) must be a multiple of "
                f"{2 * self.model.multiple} for {self.model.name} and --learn {self.learn}, which "
                "trains on patches of half the size; change it"
            )

    @property
    def evaluation_noises(self) -> tuple[TestNoise, ...]:
        """The noise of validation and the test table.

        Without `validation.sigma` and `validation.noise`: that of the pairs if there are any, that
        of the images if nothing else is known, else the noise that is trained on. If that is white
        Gaussian noise of a range of levels, those of 15, 25 and 50 that lie in the range.
        """
        if self.validation.sigma is not None:
            levels = [float(level) for level in self.validation.sigma.split(",")]
        elif self.validation.noise is not None:
            options = self.validation.noise_options
            return (EvaluationNoise(kind=self.validation.noise, options=options),)
        elif self.data.pairs is not None:
            return (PairNoise(),)
        elif self.learn == "neighbor2neighbor":
            return (HiddenPixels(),)
        elif self.noise.sigma_range is None:
            return (EvaluationNoise(kind=self.noise.kind, options=self.noise.options),)
        else:
            low, high = self.noise.sigma_range
            levels = [sigma for sigma in (15.0, 25.0, 50.0) if low <= sigma <= high]
            if low == high or not levels:
                levels = [(low + high) / 2]
        return tuple(EvaluationNoise.white(level) for level in levels)

    @property
    def noise_description(self) -> str:
        """The noise that is trained on, in words."""
        if self.learn == "neighbor2neighbor":
            return "the noise of the images (neighbor2neighbor)"
        noise, share = self.noise, self.data.pairs_share
        level = f"sigma {noise.description}" if noise.sigma_range else noise.kind
        if self.data.pairs is None:
            return level
        return "pairs" if share == 1 else f"{share:.0%} pairs, else {level}"

    def to_dict(self) -> dict[str, Any]:
        """Return a nested dictionary of plain values that JSON can hold."""
        values = dataclasses.asdict(self)
        values["validation"]["metrics"] = list(self.validation.metrics)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Return the configuration of a dictionary as `to_dict` makes it.

        Missing keys take their defaults.

        Raises:
            UserError: a key that does not exist, or a value of the wrong type or range.
        """
        return from_dict(cls, values)

    def override(self, changes: Mapping[str, Any]) -> "Config":
        """Return this configuration with dotted names changed: `{"optim.lr": 3e-4}`.

        A component that is replaced by another starts from the defaults of its options.

        Raises:
            UserError: a name that does not exist, or a value of the wrong type or range.
        """
        values = self.to_dict()
        known = dict(flatten(values))
        for setting, (options, _) in COMPONENTS.items():
            if setting in changes and changes[setting] != known[setting]:
                _set(values, options, {})
        for name, value in changes.items():
            if name not in known and name.rpartition(".")[0] not in OPTIONS:
                raise unknown_setting(name, list(known))
            _set(values, name, value)
        return Config.from_dict(values)


def load_config(path: str | Path) -> Config:
    """Return the configuration in a JSON file, as every run writes it, or a recipe by its name.

    Raises:
        UserError: no such file or recipe, not JSON, or not a configuration.
    """
    from raydae.core.storage import split_path  # with pyarrow, which is not needed without a file

    recipes = {recipe.stem: recipe for recipe in sorted(RECIPES.glob("*.json"))}
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
    try:
        return Config.from_dict(values)
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from None


def differences(old: Config, new: Config) -> list[str]:
    """Return the dotted names in which two configurations differ, each as `name: old, now new`."""
    before, now = dict(flatten(old.to_dict())), dict(flatten(new.to_dict()))
    return [
        f"{name}: {before.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in dict.fromkeys([*now, *before])
        if before.get(name) != now.get(name)
    ]


def parse_workers(text: str | None) -> tuple[int, int] | None:
    """Return (min, max) of a number of workers, `4`, or of an elastic one, `2:8`.

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
    """Refuse more workers than can share a batch; needs no Ray.

    Raises:
        UserError: there are more.
    """
    batch, micro_batch = config.optim.batch_size, config.optim.micro_batch
    if asked is not None and asked[1] > batch // micro_batch:
        raise UserError(
            f"--num-workers {asked[1]}: a batch of {batch} can be shared among "
            f"{batch // micro_batch} workers at most, in micro-batches of {micro_batch}; "
            "ask for fewer, raise --batch-size or lower --optim.micro-batch"
        )


def _set(values: dict[str, Any], name: str, value: Any) -> None:
    """Set the value of a dotted name in a nested dictionary."""
    *parents, leaf = name.split(".")
    for parent in parents:
        values = values[parent]
    values[leaf] = value
