"""The samples as a Ray Data stream, the same steps for every number of workers.

One execution serves the whole run: epochs are data. A block holds one worker's shares of several
consecutive steps, all blocks of a group have the same rows, and they come in order; so Ray Train's
split, which gives each next block to the worker that has had the fewest rows, deals them out in
turn, and every worker finds its shares of every step.
"""

import time
from collections.abc import Iterator
from typing import Any

import ray
import ray.data
import ray.train
from numpy.typing import NDArray
from ray.data import ExecutionOptions
from ray.data._internal.execution.backpressure_policy import (
    ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY,
    BackpressurePolicy,
)
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators.input_data_buffer import InputDataBuffer

from raydae.runs import Checkpoints, Progress
from raydae.samples import Samples, Schedule
from raydae.storage import Folder

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.005, 0.3
BLOCK_ROWS = 1024  # 38 MB of 64x64 patches: enough work beside the cost of a task
BUFFERED_BLOCKS = 4  # for each worker, made ahead of training
AHEAD = "raydae.blocks_ahead"  # their number, in the settings of Ray Data


class SampleStream(ray.train.DataConfig):  # type: ignore[misc]  # Ray ships no types
    """Gives each worker of Ray Train its shares of the steps that a run still has to do.

    Ray Train calls `configure` at every start of the worker group, in a process of its own, once it
    knows the number of workers. A storage that cannot be read then is a failed start of the group,
    which is tried again.
    """

    def __init__(self, samples: Samples, schedule: Schedule, run: Folder) -> None:
        super().__init__()
        self.samples, self.schedule, self.run = samples, schedule, run

    def configure(
        self,
        datasets: dict[str, ray.data.Dataset],
        world_size: int,
        worker_handles: Any,
        worker_node_ids: Any,
        **kwargs: Any,
    ) -> list[dict[str, ray.data.DataIterator]]:
        """The worker's iterators, by the names of `datasets`, which otherwise play no part."""
        progress, _ = Checkpoints(self.run).latest() or (Progress(), {})
        stream = sample_stream(self.samples, self.schedule, progress.step, world_size)
        splits = stream.streaming_split(world_size, equal=True)
        return [dict.fromkeys(datasets, split) for split in splits]


def sample_stream(
    samples: Samples, schedule: Schedule, start: int, workers: int
) -> ray.data.Dataset:
    """The shares of every step from `start` on, for `workers` workers in turn, a block each.

    Rows are as `Samples.block` makes them, share after share, each padded to the same rows.
    """
    rows = schedule.share_rows(workers)
    steps_per_block = max(BLOCK_ROWS // rows, 1)
    blocks = -(-(schedule.steps - start) // steps_per_block) * workers

    def block(batch: dict[str, NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
        for number in batch["id"].tolist():
            group, rank = divmod(number, workers)
            first = start + group * steps_per_block
            steps = range(first, min(first + steps_per_block, schedule.steps))
            yield samples.block([schedule.share(step, rank, workers) for step in steps], rows)

    # One row a block, and batches of whole blocks: else Ray Data makes two tasks of one.
    stream = ray.data.range(blocks, override_num_blocks=blocks).map_batches(
        block, batch_size=None, zero_copy_batch=True
    )
    context = stream.context
    context.target_max_block_size = None  # a block is a share: never to be cut or joined
    context.execution_options = ExecutionOptions(preserve_order=True)
    context.custom_execution_callback_classes = [_Pause]
    context.set_config(ENABLED_BACKPRESSURE_POLICIES_CONFIG_KEY, [_Ahead])
    context.set_config(AHEAD, BUFFERED_BLOCKS * workers)
    return stream


class _Ahead(BackpressurePolicy):  # type: ignore[misc]  # Ray ships no types
    """Keeps every CPU at work until enough blocks lie ready.

    Ray Data's own policies go by bytes, of which they set aside so much that of 8 blocks allowed
    one or two were in the making.
    """

    def can_add_input(self, op: Any) -> bool:
        """Whether another task may be started."""
        if op.throttling_disabled():  # the split, which only passes blocks on
            return True
        blocks = sum(
            operator.num_active_tasks() + state.total_enqueued_output_blocks()
            for operator, state in self._topology.items()
            if not isinstance(operator, InputDataBuffer)
        )
        cpus = self._resource_manager.get_global_limits().cpu
        return bool(blocks < self._data_context.get_config(AHEAD) + cpus)


class _Pause(ExecutionCallback):  # type: ignore[misc]  # Ray ships no types
    """Lets Ray Data's executor rest between two steps of its loop, longer while nothing is made.

    While finished blocks wait to be taken, which is nearly always, the loop turns without a pause.
    On two cores that took half of one, and training ran at a third of its speed.
    """

    def __init__(self) -> None:
        self._made, self._since = 0, time.monotonic()

    def on_execution_step(self, executor: Any) -> None:
        """Called by the executor after each step."""
        made = sum(operator.metrics.num_task_outputs_generated for operator in executor._topology)
        if made > self._made:
            self._made, self._since = made, time.monotonic()
        idle = time.monotonic() - self._since  # of which to be late by a quarter costs little
        time.sleep(min(max(idle / 4, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))


def shares(iterator: ray.data.DataIterator, rows: int) -> Iterator[dict[str, NDArray[Any]]]:
    """A worker's shares step by step, from its blocks; nothing is copied."""
    for block in iterator.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=2):
        for first in range(0, len(block["index"]), rows):
            yield {name: column[first : first + rows] for name, column in block.items()}
