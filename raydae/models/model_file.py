"""Model files: safetensors with all that rebuilds the network in their metadata.

A model file names its network. Where that is an import path, such as `nets:Wide`, loading the file
would run the code of that module, so it is loaded only if the caller names the module as trusted.
"""

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from torch import nn

from raydae.core.components import module_of
from raydae.core.errors import UserError, first_line
from raydae.core.pixel_hashes import PixelHashes
from raydae.core.storage import split_path
from raydae.models.config import ModelConfig
from raydae.models.header import metadata_of
from raydae.models.networks import build
from raydae.models.released import RELEASED
from raydae.models.weights import BAD_CONTENT, Weights, pack, unpack

FORMAT = 3
_HASHES = ("train_hashes", "val_hashes")


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a model file holds besides its weights."""

    model: ModelConfig
    config: dict[str, Any]
    """The configuration that it was trained with."""
    source: str
    """The images that it was trained on, in words."""
    train_hashes: PixelHashes
    """Its training images: evaluating on one of them means nothing."""
    val_hashes: PixelHashes
    """The images that chose its epoch."""
    epoch: int
    """Epochs that it was trained for."""
    val_psnr: float | None
    """On the validation images, dB."""

    @property
    def protocol(self) -> Literal["bsds500", "cbsd68"]:
        """The protocol of BSDS500 that it was trained by."""
        cbsd68 = self.config["data"].get("protocol") == "cbsd68"
        return "cbsd68" if cbsd68 else "bsds500"


def pack_model(weights: Weights, info: ModelInfo) -> bytes:
    """Return a model file."""
    values = {"format": FORMAT, **dataclasses.asdict(info)}
    values |= {name: values[name].text for name in _HASHES}
    return pack(weights, {"raydae": json.dumps(values)})


def load_model(path: str | Path, trust: Collection[str] = ()) -> tuple[nn.Module, ModelInfo]:
    """Rebuild the network of a model file with its weights, on the CPU, ready to denoise.

    Args:
        path: a local path or a URI; `photo`, `gaussian` or `large`: a model that comes with raydae.
        trust: modules that may be imported if the file names a network of one of them.

    Raises:
        UserError: there is no such file, it is not a model of raydae, or its network is in a
            module that is not trusted.
    """
    path = RELEASED.get(str(path), path)
    folder, name = split_path(path)
    try:
        data = folder.read(name)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from None
    try:
        info = _read_info(data, path, trust)
        network = build(info.model)
        network.load_state_dict(unpack(data))
    except UserError:
        raise
    except BAD_CONTENT as error:
        raise UserError(
            f"{path} is not a model of raydae ({first_line(error)}); "
            "give a model.safetensors that a training run wrote"
        ) from None
    return network.eval(), info


def _read_info(data: bytes, path: str | Path, trust: Collection[str]) -> ModelInfo:
    """Return what a model file says of itself; import nothing that is not trusted."""
    values = json.loads(metadata_of(data)["raydae"])
    version = values.pop("format")
    if version not in (1, 2, FORMAT):
        raise UserError(f"{path} was written by another version of raydae")
    if version == 1:  # of raydae 0.1
        values["model"] = _upgraded(values["model"])
    if not isinstance(values["config"].get("data"), dict):
        raise TypeError("its configuration is missing")
    module = module_of(values["model"]["name"])
    if module and module not in trust:
        raise UserError(
            f"{path} needs code: its network is {values['model']['name']}. If you trust the module "
            f"{module}, give --trust {module}"
        )
    values["model"] = ModelConfig(**values["model"])
    read = PixelHashes.from_text if version == FORMAT else PixelHashes.of
    values |= {name: read(values[name]) for name in _HASHES}
    return ModelInfo(**values)


def _upgraded(model: dict[str, Any]) -> dict[str, Any]:
    """Return the network's settings of format 1 as those of format 2."""
    options = {name: value for name, value in model.items() if name != "name"}
    return {"name": model["name"], "options": options if model["name"] == "unet" else {}}
