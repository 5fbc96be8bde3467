"""A BSDS500 of twelve small files."""

import random
from pathlib import Path

NAMES = [f"{split}/{i}.jpg" for split in ("test", "train", "val") for i in range(4)]
FILES = {name: random.Random(name).randbytes(3000) for name in NAMES}


def make(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder
