"""Copies of batches to a GPU that overlap with its work."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Uploads:
    """Copies batches to a GPU through pinned memory, while it computes on the batch before.

    Two sets of buffers take turns. A set is written again once the step before the last, which
    read it, is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's
        self._sets: list[dict[str, tuple[Tensor, Tensor]]] = [{}, {}]
        self._copied = [torch.cuda.Event(), torch.cuda.Event()]  # type: ignore[no-untyped-call]  # torch's
        self._number = 0
        # Everything that was asked for before the last batch.
        self._before_last = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's

    def __call__(self, columns: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
        """Return the columns on the device; they are valid until the call after the next."""
        turn = self._number % 2
        buffers, copied = self._sets[turn], self._copied[turn]
        self._number += 1
        copied.synchronize()  # the pinned memory has been read
        current = torch.cuda.current_stream(self._device)
        for name, column in columns.items():
            if name not in buffers or buffers[name][0].shape != column.shape:
                values = torch.from_numpy(column[:0].copy())
                pinned = torch.empty(column.shape, dtype=values.dtype, pin_memory=True)
                buffers[name] = pinned, torch.empty_like(pinned, device=self._device)
                self._stream.wait_stream(current)  # what had this memory before
            np.copyto(buffers[name][0].numpy(), column)
        self._stream.wait_event(self._before_last)
        self._before_last = current.record_event()
        with torch.cuda.stream(self._stream):
            for name in columns:
                pinned, value = buffers[name]
                value.copy_(pinned, non_blocking=True)
            copied.record(self._stream)
        current.wait_event(copied)
        return {name: buffers[name][1] for name in columns}
