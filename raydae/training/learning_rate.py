"""The learning rate of each step."""

import math

from raydae.training.config import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Return the learning rate of a step: warm-up, then the schedule.

    Args:
        config: the schedule.
        step: 0, 1 ...
        steps: of the whole run.
    """
    rate = config.lr
    if step < config.warmup:
        return rate * (step + 1) / config.warmup
    if config.schedule == "cosine":
        done = (step - config.warmup) / max(steps - config.warmup, 1)
        rate *= (1 + math.cos(math.pi * done)) / 2
    return rate
