"""Benchmark: the speed of each part of raydae, beside its limit and beside the alternatives.

    parts.py         the parts by name: train, feed, startup, scaling, denoise
    training.py      train: patches/s in steady state
    feed.py          feed: samples/s, and the cost of each stage of a sample
    startup.py       startup: seconds before the first and after the last step
    scaling.py       scaling: more workers on the same cores
    denoising.py     denoise: megapixels/s and memory, ONNX included
    baselines.py     the training programs to compare with, run as a module
    harness.py       drawn images, configuration, processes, the report
    step_timer.py    the rate of training steps in steady state
    flops.py         model FLOPs utilisation, and a GPU's measured peak

This room imports `distributed` and what that may import, but not ray; only `app` imports it. The
parts and the harness import torch only inside functions, so that each measuring process can set
torch's environment first; baselines.py, step_timer.py and flops.py run in such processes.

To add a training baseline, write a generator in baselines.py that yields after each step, add its
name to the table in `baselines.measure`, and name it in `training.measure`. To add a side of the
feed or a variant of denoising, extend `feed.SIDES` or `denoising.VARIANTS`. To add a part, write a
module with `measure(harness)` and name it in parts.py and in the command's arguments.
"""
