"""The stream as Ray Train's workers get it, for several numbers of them."""

import collections
import dataclasses
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from raydae.core.errors import first_line
from raydae.core.storage import Folder
from raydae.distributed.stream import (
    BLOCK_BYTES,
    BLOCK_ROWS,
    _limits,
    _steps_per_block,
    stream_shards,
)
from raydae.images.image_sets import ImageSets
from raydae.images.image_table import Images
from raydae.training.checkpoints import Checkpoints, TrainState
from raydae.training.config import Config
from raydae.training.samples import Samples
from raydae.training.schedule import Schedule
from tests.app.test_jobs import processes_of

pytestmark = pytest.mark.usefixtures("ray_cluster")


@dataclass(frozen=True)
class Stream:
    """The arguments of a stream."""

    samples: Samples
    schedule: Schedule
    run: Folder

    def shards(self, workers: int) -> list[Any]:
        ranks, samples = range(workers), ray.put(self.samples)
        return [stream_shards(samples, self.schedule, self.run, n, workers) for n in ranks]


def collect(stream: Stream, workers: int) -> list[list[dict[str, np.ndarray]]]:
    """Each worker's shards, step by step."""

    def drain(steps: Any) -> list[dict[str, np.ndarray]]:
        # Blocks live in shared memory as long as the iterator does.
        return [{k: v.copy() for k, v in step.items()} for step in steps]

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(drain, stream.shards(workers)))


@pytest.fixture
def stream(config: Config, sets: ImageSets, tmp_path: Any) -> Stream:
    config = config.override({"optim.epochs": 5})
    schedule = Schedule.of(config, len(sets.train))
    return Stream(Samples.of(config, sets.train), schedule, Folder.of(tmp_path))


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_every_step_has_the_same_samples_for_any_number_of_workers(
    stream: Stream, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Several blocks, the last one short, in segments of two, the last one short as well.
    monkeypatch.setattr("raydae.distributed.stream.BLOCK_ROWS", 24)
    monkeypatch.setattr("raydae.distributed.stream.SEGMENT_BLOCKS", 2)
    monkeypatch.setattr("raydae.distributed.stream.START_NEXT_AT", 1)
    parts = collect(stream, workers)
    assert [len(part) for part in parts] == [stream.schedule.steps] * workers
    for step, shares_of_step in enumerate(zip(*parts, strict=True)):
        indices = [index for share in shares_of_step for index in share["index"] if index >= 0]
        assert indices == list(range(step * 8, step * 8 + 8))
        for share in shares_of_step:
            real = share["index"] >= 0
            first, last = share["index"][real][[0, -1]]
            expected = stream.samples.block([range(first, last + 1)], int(real.sum()))
            for name, column in expected.items():  # made here; the stream's in other processes
                np.testing.assert_array_equal(share[name][real], column)


def test_the_stream_starts_where_the_checkpoint_is(stream: Stream) -> None:
    Checkpoints(stream.run).save(TrainState(step=7), {})
    (part,) = collect(stream, 1)
    assert part[0]["index"].tolist() == list(range(56, 64))
    assert len(part) == stream.schedule.steps - 7


def test_a_worker_takes_its_part_of_the_cpus_that_training_leaves() -> None:
    cpus = int(ray.cluster_resources()["CPU"])
    assert _limits(1, 2).cpu == cpus - 2
    assert _limits(2, 1).cpu == (cpus - 1) // 2
    assert _limits(64, cpus).cpu == 1


@pytest.mark.parametrize("segment_blocks", [1, 3, 4])
def test_segments_join_without_a_gap(
    stream: Stream, segment_blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raydae.distributed.stream.BLOCK_ROWS", 16)
    monkeypatch.setattr("raydae.distributed.stream.SEGMENT_BLOCKS", segment_blocks)
    monkeypatch.setattr("raydae.distributed.stream.START_NEXT_AT", segment_blocks // 2)
    (part,) = collect(stream, 1)
    indices = [index for step in part for index in step["index"]]
    assert indices == list(range(stream.schedule.steps * 8))


def test_larger_patches_make_blocks_of_no_more_bytes(stream: Stream) -> None:
    for size in (16, 64, 128, 256, 512, 1024):
        samples = dataclasses.replace(stream.samples, patch_size=size)
        steps = _steps_per_block(samples, 8)
        assert steps == 1 or steps * 8 * samples.row_bytes <= BLOCK_BYTES
        assert steps * 8 == BLOCK_ROWS or (steps + 1) * 8 * samples.row_bytes > BLOCK_BYTES
    block = stream.samples.block([range(1)], 1)
    assert block["clean"].nbytes + block["noisy"].nbytes == stream.samples.row_bytes


def test_what_goes_wrong_in_a_task_is_told(stream: Stream, tmp_path: Path) -> None:
    gone = Images.of(
        dataclasses.replace(file, uri=str(tmp_path / file.name)) for file in stream.samples.images
    )
    lost = dataclasses.replace(stream, samples=dataclasses.replace(stream.samples, images=gone))
    with pytest.raises(OSError, match="training images") as caught:
        collect(lost, 1)
    assert first_line(caught.value) == "none of the 8 training images can be read"


def test_killed_tasks_are_done_again(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raydae.distributed.stream.BLOCK_ROWS", 8)
    schedule = dataclasses.replace(stream.schedule, epochs=200)  # 800 blocks
    (steps,) = dataclasses.replace(stream, schedule=schedule).shards(1)
    indices, killed = [], 0
    for step in steps:
        indices += step["index"].tolist()
        if killed < 3:  # Ray tries each task again, but not for ever
            tasks = processes_of(os.getpid(), "ray::IDLE", "ray::MapBatches")
            for task in tasks:
                task.kill()
            killed += bool(tasks)
    assert indices == list(range(schedule.steps * 8))
    assert killed == 3


def test_a_stream_that_is_ahead_leaves_the_cores_to_the_training(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Data's loop alone would take a core."""
    monkeypatch.setattr("raydae.distributed.stream.BLOCK_BYTES", 2**18)
    schedule = dataclasses.replace(stream.schedule, epochs=300)
    (shards,) = dataclasses.replace(stream, schedule=schedule).shards(1)
    next(shards)
    time.sleep(4)  # until as many blocks are made as may be
    wall, used = time.monotonic(), time.process_time()
    time.sleep(4)
    assert (time.process_time() - used) / (time.monotonic() - wall) < 0.3
    collections.deque(shards, 0)  # to the end, so that Ray Data's threads end
