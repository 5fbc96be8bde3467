"""Training: the sample stream, the training step and loop, losses, optimizers, checkpoints.

Imports `core`, `images`, `noise`, `models` and `metrics`; never Ray. The samples, the schedule and
the run folder do not import torch either.
"""
