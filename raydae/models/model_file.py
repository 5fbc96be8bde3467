"""Weights and optimizer states as bytes, and model files that stand on their own.

All of them are safetensors: numbers and JSON, and nothing that could run when it is read.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from raydae.core.config import Config, ModelConfig, Protocol
from raydae.core.errors import UserError
from raydae.core.storage import first_line, split_path
from raydae.images.image_sets import ImageSets
from raydae.models.networks import build
from raydae.training.runs import RELEASED, Progress

FORMAT = 1  # of model files
# What reading a file of anything else may raise.
BAD_CONTENT = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError)
Weights = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What a model file says beside its weights."""

    model: ModelConfig
    config: dict[str, Any]
    """The configuration it was trained with."""
    source: str
    """The images it was trained on, in words."""
    train_hashes: tuple[str, ...]
    """Of the images it was trained on: evaluating on one of them says nothing."""
    val_hashes: tuple[str, ...]
    """Of the images that chose it."""
    epoch: int
    """Epochs it was trained for."""
    val_psnr: float | None
    """On the validation images, dB."""

    @property
    def protocol(self) -> Protocol:
        """The protocol of BSDS500 that it was trained by."""
        cbsd68 = self.config["data"].get("protocol") == "cbsd68"
        return "cbsd68" if cbsd68 else "bsds500"


def pack(weights: Weights, metadata: dict[str, str] | None = None) -> bytes:
    """Weights as safetensors."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return safetensors.torch.save(contiguous, metadata)


def unpack(data: bytes) -> Weights:
    """Weights from safetensors."""
    return safetensors.torch.load(data)


def pack_optimizer(state: dict[str, Any]) -> bytes:
    """An optimizer's `state_dict`, its tensors in the memory format that they have."""
    tensors: Weights = {}
    numbers: dict[str, float] = {}
    turned: list[str] = []  # those in channels_last, which safetensors does not know
    for parameter, values in state["state"].items():
        for key, value in values.items():
            name = f"{parameter}.{key}"
            if not isinstance(value, Tensor):
                numbers[name] = value
            elif value.ndim == 4 and not value.is_contiguous():
                tensors[name] = value.permute(0, 2, 3, 1)
                turned.append(name)
            else:
                tensors[name] = value
    groups = [  # a learning rate that a CUDA graph reads is a tensor
        {key: value.item() if isinstance(value, Tensor) else value for key, value in group.items()}
        for group in state["param_groups"]
    ]
    rest = {"groups": groups, "numbers": numbers, "channels_last": turned}
    return pack(tensors, {"optimizer": json.dumps(rest)})


def unpack_optimizer(data: bytes) -> dict[str, Any]:
    """An optimizer's `state_dict`, its tensors on the CPU.

    Raises:
        ValueError, LookupError, TypeError, SafetensorError: it is something else.
    """
    rest = json.loads(_header(data)["optimizer"])
    turned = set(rest["channels_last"])
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**unpack(data), **rest["numbers"]}.items():
        parameter, key = name.split(".")
        state.setdefault(int(parameter), {})[key] = (
            value.permute(0, 3, 1, 2) if name in turned else value
        )
    return {"state": state, "param_groups": rest["groups"]}


def _header(data: bytes) -> dict[str, str]:
    """What a safetensors file says beside its tensors."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, str] = header["__metadata__"]
    return metadata


def pack_model(weights: Weights, info: ModelInfo) -> bytes:
    """A model file: safetensors, with all that is needed to rebuild the network in its header."""
    return pack(weights, {"raydae": json.dumps({"format": FORMAT, **dataclasses.asdict(info)})})


def model_of(progress: Progress, sets: ImageSets, weights: Weights, epoch: int) -> bytes:
    """The model file of a run's weights after an epoch; the run has saved a checkpoint since."""
    trained = (*(file.sha256 for file in sets.train), *progress.inherited)
    config = Config.from_dict(progress.config)
    info = ModelInfo(
        model=config.model,
        config=progress.config,
        source=sets.source,
        train_hashes=tuple(dict.fromkeys(trained)),
        val_hashes=tuple(file.sha256 for file in sets.val),
        epoch=epoch,
        val_psnr=progress.history[epoch - 1]["val_psnr"],
    )
    return pack_model(weights, info)


def load_model(path: str | Path) -> tuple[nn.Module, ModelInfo]:
    """Rebuilds the network of a model file with its weights, on the CPU, ready to denoise.

    Args:
        path: a local path or a URI; `released` or `large`: a model that comes with raydae.

    Raises:
        UserError: there is no such file, or it is not a model of raydae.
    """
    path = RELEASED.get(str(path), path)
    folder, name = split_path(path)
    try:
        data = folder.read(name)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from None
    try:
        values = json.loads(_header(data)["raydae"])
        if values.pop("format") != FORMAT:
            raise UserError(f"{path} was written by another version of raydae")
        if not isinstance(values["config"].get("data"), dict):
            raise TypeError("its configuration is none")
        values["model"] = ModelConfig(**values["model"])
        for hashes in ("train_hashes", "val_hashes"):
            values[hashes] = tuple(values[hashes])
        info = ModelInfo(**values)
        network = build(info.model)
        network.load_state_dict(unpack(data))
    except UserError:
        raise
    except BAD_CONTENT as error:
        raise UserError(
            f"{path} is not a model of raydae ({first_line(error)}); "
            "give a model.safetensors that jobs/train.py wrote"
        ) from None
    return network.eval(), info
