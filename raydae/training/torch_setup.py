"""How torch computes in a run: threads, determinism, precision, compilation."""

import os

import torch

from raydae.core.toolchain import can_build_kernels
from raydae.training.config import Config
from raydae.training.context import Context
from raydae.training.schedule import Schedule

COMPILE_STEPS = 20_000  # of a run that is long enough for compilation to pay


def set_up_torch(config: Config, context: Context) -> None:
    """Set the threads and the numerical modes of this process."""
    _set_determinism(config.deterministic)
    # Dead filters leave numbers below 1e-38 in Muon's products, which are slow to multiply: its
    # steps took half of the time, and now a twelfth. Torch's threads, started later, inherit this.
    torch.set_flush_denormal(True)
    if context.threads is not None:
        torch.set_num_threads(context.threads)


def _set_determinism(deterministic: bool) -> None:
    """Make a GPU compute the same bits in every run on the same GPU and software, or be fast.

    cuBLAS reads its variable when it is first used. Torch warns of some operations that add up in
    any order. One of them is the gradient of max pooling, but dae's windows do not overlap: each of
    its sums has one summand.
    """
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    # Nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # torch's
    torch.backends.cudnn.benchmark = not deterministic  # shapes never change: seconds, once


def resolve_precision(asked: str, device: torch.device) -> str:
    """Return `bf16` if asked for, or if left open and fast on the device; else `fp32`.

    Intel's AVX-512 multiplies bf16 no faster than fp32; only its AMX does (unet, two cores of a
    Xeon without AMX: 112 patches/s in bf16, 175 in fp32).
    """
    if asked != "auto":
        return asked
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        intel = str(capabilities.get("cpu_name", "")).startswith("Intel")
        native = any(capabilities.get(name) for name in ("amx_bf16", "bf16")) or (  # Intel, ARM
            bool(capabilities.get("avx512_bf16")) and not intel
        )
    return "bf16" if native else "fp32"


def resolve_compile(config: Config, schedule: Schedule, context: Context) -> bool:
    """Return whether the network is compiled: in a long run of one worker on a GPU.

    Compilation takes up to half a minute and gains 0.5 ms a step and more. It does not promise the
    same kernels in every run, so a deterministic run is not compiled.
    """
    if config.compile == "off" or config.deterministic or schedule.steps < COMPILE_STEPS:
        return False
    return context.device.type == "cuda" and context.workers == 1 and can_build_kernels()
