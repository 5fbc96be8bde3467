"""The schedule: which samples make which step, epoch and shard. Arithmetic, no state."""

from dataclasses import dataclass

from raydae.core.errors import UserError
from raydae.training.config import Config


@dataclass(frozen=True)
class Schedule:
    """The steps and epochs of a run, and the shard of a step that each worker computes.

    A pass visits every image; an epoch ends with the step that consumes the last sample of a pass.
    Where `batch_size` does not divide the pass, epochs differ by a step and nothing drifts.
    """

    pass_samples: int
    batch_size: int
    micro_batch: int
    epochs: int

    def __post_init__(self) -> None:
        if self.batch_size > self.pass_samples:
            raise UserError(
                f"a batch of {self.batch_size} is more than the {self.pass_samples} patches of an "
                "epoch; lower --batch-size or raise --data.patches-per-image"
            )

    @classmethod
    def of(cls, config: Config, images: int) -> "Schedule":
        """Return the schedule of a configuration on that many training images.

        Raises:
            UserError: a batch is larger than an epoch.
        """
        return cls(
            pass_samples=images * config.data.patches_per_image,
            batch_size=config.optim.batch_size,
            micro_batch=config.optim.micro_batch,
            epochs=config.optim.epochs,
        )

    @property
    def steps(self) -> int:
        """Steps in the whole run."""
        return self.end_of_epoch(self.epochs - 1)

    @property
    def micro_blocks(self) -> int:
        """Micro-blocks in a step: the largest number of workers that can share one."""
        return self.batch_size // self.micro_batch

    def end_of_epoch(self, epoch: int) -> int:
        """Return the number of steps done when an epoch (0, 1 ...) ends."""
        return -(-(epoch + 1) * self.pass_samples // self.batch_size)

    def epoch_of(self, step: int) -> int:
        """Return the epoch (0, 1 ...) that a step (0, 1 ...) belongs to."""
        return step * self.batch_size // self.pass_samples

    def ends_epoch(self, steps_done: int) -> bool:
        """Return whether the last of the steps done was the last of its epoch."""
        return steps_done == self.end_of_epoch(self.epoch_of(steps_done - 1))

    def shard_rows(self, workers: int) -> int:
        """Return the rows of every worker's shard, padding included: the largest shard."""
        return -(-self.micro_blocks // workers) * self.micro_batch

    def shard(self, step: int, rank: int, workers: int) -> range:
        """Return the samples that a worker computes in a step.

        The shards of a step differ by a micro-batch at most.
        """
        first = rank * self.micro_blocks // workers * self.micro_batch
        last = (rank + 1) * self.micro_blocks // workers * self.micro_batch
        return range(step * self.batch_size + first, step * self.batch_size + last)
