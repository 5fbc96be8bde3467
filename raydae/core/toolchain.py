"""Whether kernels for a GPU can be built on this machine."""

import importlib.util
import os
import shutil


def can_build_kernels() -> bool:
    """Return whether Triton is installed and finds a C compiler: $CC, gcc or clang."""
    if importlib.util.find_spec("triton") is None:
        return False
    compilers = (os.environ.get("CC", "gcc"), "gcc", "clang")
    return any(shutil.which(name) is not None for name in compilers)
