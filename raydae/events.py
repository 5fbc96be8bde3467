"""The history of a run as TensorBoard events."""

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from raydae.storage import Folder

TAGS = {
    "loss": "loss/train",
    "val_psnr": "validation/psnr_db",
    "val_ssim": "validation/ssim",
    "patches_per_s": "speed/patches_per_s",
    "lr": "optim/lr",
}


class Events:
    """Writes each epoch's record once, the epochs before this process first.

    The events of an earlier process are replaced: it may have died between a checkpoint and its
    event, and the history in the checkpoint is the truth. Nothing is written behind a URI.
    """

    def __init__(self, run: Folder) -> None:
        self._writer: EventFileWriter | None = None
        self._written = 0
        if run.local is not None:
            for name in run.files():
                if name.startswith("events.out.tfevents."):
                    run.delete(name)
            self._writer = EventFileWriter(str(run.local))

    def __enter__(self) -> "Events":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, history: Sequence[dict[str, Any]]) -> None:
        """Writes the records that are new since the last call; the step is the epoch."""
        if self._writer is None or len(history) == self._written:
            return
        for record in history[self._written :]:
            values = [
                Summary.Value(tag=tag, simple_value=record[key])
                for key, tag in TAGS.items()
                if record[key] is not None
            ]
            for rank, worker in enumerate(record["by_worker"]):
                for key in ("waited_for_data_s", "computed_s"):
                    tag = f"{key}/worker_{rank}"
                    values.append(Summary.Value(tag=tag, simple_value=worker[key]))
            event = Event(step=record["epoch"], summary=Summary(value=values))
            event.wall_time = record["time"]
            self._writer.add_event(event)
        self._written = len(history)
        with suppress(OSError):  # a full disk shows at the next checkpoint, which matters more
            self._writer.flush()
