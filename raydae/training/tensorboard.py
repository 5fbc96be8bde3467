"""The history of a run as TensorBoard events."""

import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from raydae.core.storage import Folder

TAGS = {
    "loss": "loss/train",
    "val_psnr": "validation/psnr_db",
    "patches_per_s": "speed/patches_per_s",
    "lr": "optim/lr",
}


class TensorBoardWriter:
    """Writes each epoch's record once, first those of earlier processes.

    The event file of an earlier process is replaced once its records are in the new one: that
    process may have died between a checkpoint and its event. Behind a URI, the file is written
    again with each epoch.
    """

    def __init__(self, run: Folder) -> None:
        self._run, self._written = run, 0
        self._old = [name for name in run.files() if name.startswith("events.out.tfevents.")]
        self._here: Path | None = None if run.local else Path(tempfile.mkdtemp())
        self._writer = EventFileWriter(str(self._here or run.local))

    def __enter__(self) -> "TensorBoardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        if self._here is not None:
            shutil.rmtree(self._here)

    def write(self, history: Sequence[dict[str, Any]]) -> None:
        """Write the records that are new since the last call; the step is the epoch.

        A history that is shorter than before, because epochs are done again, changes nothing.
        """
        if len(history) <= self._written:
            return
        metrics = (key for key in history[-1] if key.startswith("val_") and key not in TAGS)
        tags = TAGS | {key: f"validation/{key.removeprefix('val_')}" for key in metrics}
        for record in history[self._written :]:
            values = [
                Summary.Value(tag=tag, simple_value=record[key])
                for key, tag in tags.items()
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
            for file in self._here.iterdir() if self._here is not None else ():
                self._run.write(file.name, file.read_bytes())
            while self._old:
                self._run.delete(self._old.pop())
