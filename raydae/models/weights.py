"""Weights and optimizer states as safetensors: numbers and JSON, nothing that runs when read."""

import json
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from raydae.models.header import metadata_of

# What reading a file of anything else may raise.
BAD_CONTENT = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError)
Weights = dict[str, Tensor]


def pack(weights: Weights, metadata: dict[str, str] | None = None) -> bytes:
    """Return weights as safetensors."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    return safetensors.torch.save(contiguous, metadata)


def unpack(data: bytes) -> Weights:
    """Return weights from safetensors.

    Raises:
        SafetensorError: the data is something else.
    """
    return safetensors.torch.load(data)


def pack_optimizer(state: dict[str, Any]) -> bytes:
    """Return an optimizer's `state_dict`; its tensors keep their memory format."""
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
    """Return an optimizer's `state_dict`, its tensors on the CPU.

    Raises:
        ValueError, LookupError, TypeError, SafetensorError: the data is something else.
    """
    rest = json.loads(metadata_of(data)["optimizer"])
    turned = set(rest["channels_last"])
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**unpack(data), **rest["numbers"]}.items():
        parameter, key = name.split(".")
        state.setdefault(int(parameter), {})[key] = (
            value.permute(0, 3, 1, 2) if name in turned else value
        )
    return {"state": state, "param_groups": rest["groups"]}
