"""The stream of training samples: each worker reads its shards of the steps through Ray Data.

A block holds a worker's shards of several consecutive steps, and blocks come in order. The samples
of a shard follow from the step, the rank and the number of workers alone, so every worker runs a
stream of its own and nothing hands samples out.

Ray Data needs about 1.5 ms to plan a block before it makes the first one: 15 s for the 10,000
blocks of a long run. The stream is therefore divided into segments of 256 blocks, and the next
segment is started before the current one ends.

Ray Data's loop runs in a thread of the worker. While the stream is far enough ahead, it has nothing
to wait for, and would take a core from the training; so the time from step to step has a minimum.
"""

import functools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import Any

import ray
import ray.data
from numpy.typing import NDArray
from ray.data import ExecutionOptions, ExecutionResources

from raydae.core.storage import Folder
from raydae.training.checkpoints import Checkpoints
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule

BLOCK_ROWS = 1024  # enough work to outweigh the cost of a task
BLOCK_BYTES = 36 * 2**20  # 1024 patches of 64x64; a block of larger patches has fewer rows
SEGMENT_BLOCKS = 256
AHEAD_BLOCKS = 4  # for each task that makes blocks: more would only take CPU from the training
START_NEXT_AT = 192  # the block of a segment at which the next segment is started
STEP_S = 0.05  # at least, from step to step of Ray Data's loop; a step handles any number of blocks

Columns = dict[str, NDArray[Any]]


def stream_shards(
    samples: "ray.ObjectRef[Samples]",
    schedule: Schedule,
    run: Folder,
    rank: int = 0,
    workers: int = 1,
    train_cpus: int = 0,
) -> Iterator[Columns]:
    """Yield a worker's shard of every step that a run still has to do, without copies.

    Args:
        samples: a reference from `ray.put`, so that each process fetches the list of images only
            once: it is long (20 ms for 5,000 images, when a block takes 150 ms).
        schedule: which samples belong to which step.
        run: the folder of the run; its latest checkpoint says where the stream starts.
        rank: the rank of the worker.
        workers: number of workers that divide each step.
        train_cpus: CPUs that all workers train on.

    Yields:
        Rows as `Samples.block` makes them, padded to the same number in every shard.

    Raises:
        OSError: the storage or the training images cannot be read.
        UserError: no checkpoint of the run is intact.
    """
    found = Checkpoints(run).latest()
    first_step = 0 if found is None else found.state.step
    rows = schedule.shard_rows(workers)
    steps_per_block = _steps_per_block(_fetch(samples), rows)

    def make_block(number: int) -> Columns:
        first = first_step + number * steps_per_block
        steps = range(first, min(first + steps_per_block, schedule.steps))
        return _fetch(samples).block([schedule.shard(step, rank, workers) for step in steps], rows)

    def segments() -> Iterator[ray.data.Dataset]:
        blocks = -(-(schedule.steps - first_step) // steps_per_block)
        for first in range(0, blocks, SEGMENT_BLOCKS):
            numbers = range(first, min(first + SEGMENT_BLOCKS, blocks))
            yield _dataset(numbers, make_block, _limits(workers, train_cpus))

    for block in _read(segments()):
        for first in range(0, len(block["index"]), rows):
            yield {name: column[first : first + rows] for name, column in block.items()}


def _dataset(
    numbers: range, make_block: Callable[[int], Columns], limits: ExecutionResources
) -> ray.data.Dataset:
    """Return a data set of one block for each number, in order."""

    def make(batch: Columns) -> Columns:
        return make_block(numbers[int(batch["id"][0])])

    # One block a task: `batch_size=None` makes a batch of each block.
    dataset = ray.data.range(len(numbers), override_num_blocks=len(numbers))
    dataset = dataset.map_batches(make, batch_size=None, zero_copy_batch=True)
    context = dataset.context
    context.target_max_block_size = None  # never cut or join blocks
    context.execution_options = ExecutionOptions(preserve_order=True, resource_limits=limits)
    context.enable_progress_bars = False
    context.custom_execution_callback_classes = [_SlowLoop]
    context.raise_original_map_exception = True  # otherwise the error of a task is not shown
    return dataset


class _SlowLoop:
    """Gives the steps of Ray Data's loop a minimum of time: an `ExecutionCallback` of Ray Data.

    While the stream is far enough ahead, the loop has nothing to wait for.
    """

    def __init__(self) -> None:
        self._began = 0.0

    def before_execution_starts(self, executor: object) -> None: ...

    def on_execution_step(self, executor: object) -> None:
        time.sleep(max(self._began + STEP_S - time.monotonic(), 0))
        self._began = time.monotonic()

    def after_execution_succeeds(self, executor: object) -> None: ...

    def after_execution_fails(self, executor: object, error: Exception) -> None: ...


def _limits(workers: int, train_cpus: int) -> ExecutionResources:
    """Return the part of the cluster that one worker's stream may use."""
    cluster = ray.cluster_resources()
    cpus = max((cluster.get("CPU", 0) - train_cpus) // workers, 1)
    memory = cluster.get("object_store_memory", 0) / workers
    return ExecutionResources(
        cpu=cpus, object_store_memory=min(memory, AHEAD_BLOCKS * (cpus + 1) * BLOCK_BYTES)
    )


def _read(segments: Iterator[ray.data.Dataset]) -> Iterator[Columns]:
    """Yield the blocks of all segments; start each segment before the one before it ends."""
    starter = ThreadPoolExecutor(1)
    following: Future[Iterator[Columns] | None] | None = starter.submit(_start, segments)
    try:
        while following is not None and (blocks := following.result()) is not None:
            following = None
            for number, block in enumerate(blocks):
                if number == START_NEXT_AT:  # a shorter segment is the last one
                    following = starter.submit(_start, segments)
                yield block
    finally:
        starter.shutdown(wait=False, cancel_futures=True)


def _start(segments: Iterator[ray.data.Dataset]) -> Iterator[Columns] | None:
    """Start the next segment; return its blocks when the first is there, or None at the end."""
    for dataset in segments:
        blocks = dataset.iterator().iter_batches(
            batch_size=None, batch_format="numpy", prefetch_batches=2
        )
        iterator: Iterator[Columns] = iter(blocks)
        return chain(list(islice(iterator, 1)), iterator)
    return None


@functools.lru_cache(maxsize=1)
def _fetch(samples: "ray.ObjectRef[Samples]") -> Samples:
    fetched: Samples = ray.get(samples)
    return fetched


def _steps_per_block(samples: Samples, rows: int) -> int:
    """Return the number of shards, of `rows` rows each, in a block."""
    return max(min(BLOCK_ROWS, BLOCK_BYTES // samples.row_bytes) // rows, 1)
