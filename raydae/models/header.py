"""The header of a safetensors file. Needs no torch."""

import json
from typing import Any


def metadata_of(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file.

    Raises:
        ValueError, LookupError, TypeError: it is something else, or has none.
    """
    metadata: dict[str, str] = _header(data)["__metadata__"]
    return metadata


def is_whole(data: bytes) -> bool:
    """Return whether a safetensors file has all bytes that its header names."""
    try:
        header = _header(data)
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name[:2] != "__"]
        return len(data) == 8 + _header_bytes(data) + max(ends, default=0)
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def _header_bytes(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def _header(data: bytes) -> Any:
    return json.loads(data[8 : 8 + _header_bytes(data)])
