"""Decode the images of a run with Ray Data, on all nodes, for its record of them."""

import logging
from collections.abc import Iterator

import pyarrow as pa
import ray.data
from ray.data import ExecutionOptions
from ray.exceptions import RayError

from raydae.core.errors import UserError, cause_of, first_line
from raydae.images.decoding import decode
from raydae.images.listed import Listed
from raydae.images.reader import Keep

TASK_BYTES, TASK_IMAGES = 2**24, 256  # of files: enough work to outweigh the cost of a task


def decode_on_ray(listed: Listed, keep: Keep | None) -> Iterator[pa.Table]:
    """Decode images in tasks of Ray, which must be running.

    Args:
        listed: the images, with the sizes of their files.
        keep: called in the tasks with each usable one of split `train`, and its pixels.

    Yields:
        Tables as `decoding.decode` returns them, as tasks end.

    Raises:
        UserError: a data source does not work, or tasks fail for a reason of their own.
    """
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else it logs its execution plan

    def decode_part(part: pa.Table) -> pa.Table:
        return decode(Listed(part), keep)

    parts = [part.table for part in listed.parts(TASK_BYTES, TASK_IMAGES)]
    dataset = ray.data.from_arrow(parts)
    dataset = dataset.map_batches(decode_part, batch_size=None, batch_format="pyarrow")
    context = dataset.context
    context.execution_options = ExecutionOptions(preserve_order=False)
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # otherwise the error of a task is not shown
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    except RayError as error:
        cause = cause_of(error)
        if isinstance(cause, UserError):
            raise cause from None
        raise UserError(f"the images cannot be decoded on Ray ({first_line(error)})") from error
