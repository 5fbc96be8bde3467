"""The schedule: which samples make which step, epoch and shard."""

from dataclasses import dataclass

from raydae.core.config import Config
from raydae.core.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Which samples make which step, epoch and worker's share: arithmetic, no state.

    An epoch ends with the step that consumes the last sample of a pass, so where batch_size does
    not divide the pass, epochs differ by a step and nothing drifts.
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
        """The schedule of a configuration on that many training images."""
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
        """Micro-blocks in a step: the most workers that can share one."""
        return self.batch_size // self.micro_batch

    def end_of_epoch(self, epoch: int) -> int:
        """The number of steps done when that epoch (0, 1 …) ends."""
        return -(-(epoch + 1) * self.pass_samples // self.batch_size)

    def epoch_of(self, step: int) -> int:
        """The epoch (0, 1 …) that a step (0, 1 …) belongs to."""
        return step * self.batch_size // self.pass_samples

    def share_rows(self, workers: int) -> int:
        """Rows in every worker's share of a step, padding included: the largest share."""
        return -(-self.micro_blocks // workers) * self.micro_batch

    def share(self, step: int, rank: int, workers: int) -> range:
        """The samples that a worker computes in a step; shares differ by a micro-block at most."""
        first = rank * self.micro_blocks // workers * self.micro_batch
        last = (rank + 1) * self.micro_blocks // workers * self.micro_batch
        return range(step * self.batch_size + first, step * self.batch_size + last)
