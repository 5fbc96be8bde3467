"""The feed of training without the training, for the benchmark."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from numpy.typing import NDArray

from raydae.core.storage import Folder
from raydae.distributed.start import start_ray
from raydae.distributed.stream import stream_shards
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule


@contextmanager
def bare_feed(samples: Samples, schedule: Schedule) -> Iterator[Iterator[dict[str, NDArray[Any]]]]:
    """Start Ray, and feed one worker as in training; shut Ray down at the end.

    Yields:
        An iterator over the steps' batches, as `Samples.block` makes them.
    """
    start_ray()
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else it logs its execution plan
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield stream_shards(ray.put(samples), schedule, Folder.of(folder))
    finally:
        ray.shutdown()
