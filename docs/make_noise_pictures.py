"""Make docs/noise-*.jpg, the pictures in docs/noise.md: `python docs/make_noise_pictures.py`.

Each shows a part of a photograph by NASA (public domain), which scikit-image brings along, without
noise and at three strengths.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage import data

from raydae.core.pixels import to_uint8
from raydae.core.random_numbers import EVALUATION, generator
from raydae.noise.config import NOISES

ALWAYS: dict[str, float] = {
    "mosaic": 1.0,
    "grey": 0.0,
    "tint": 0.0,
    "clean": 0.0,
    "soft": 0.0,
    "smooth": 1.0,
    "sharpen": 0.0,
    "jpeg": 1.0,
}
STRENGTHS: dict[str, list[dict[str, Any]]] = {
    "gaussian": [{"sigma": level} for level in ("10", "25", "50")],
    "poisson-gaussian": [{"a": a, "b": "0.0002"} for a in ("0.002", "0.01", "0.04")],
    "camera": [{"shot": shot, "quality": "90", **ALWAYS} for shot in ("0.001", "0.004", "0.016")],
    "jpeg": [{"quality": quality} for quality in ("50", "25", "10")],
    "speckle": [{"strength": strength} for strength in ("0.05", "0.15", "0.3")],
    "correlated": [{"sigma": sigma, "radius": "1"} for sigma in ("10", "25", "50")],
}
SHOWN = ("sigma", "a", "shot", "quality", "strength")  # the option that makes the noise stronger
CROP = np.s_[20:180, 150:310]
LABEL, GAP = 20, 6


def main() -> None:
    """Draw a row of four cells for each kind."""
    clean = data.astronaut()
    font = ImageFont.load_default(13)
    for kind, strengths in STRENGTHS.items():
        cells = [("clean", clean[CROP])]
        for options in strengths:
            noise = NOISES.bind(kind, NOISES.check(kind, options, "options"))
            rng = generator(0, EVALUATION, zlib.crc32(kind.encode()))
            noisy, _ = noise(rng, clean)
            name = next(name for name in SHOWN if name in options)
            cells.append((f"{name} {options[name]}", to_uint8(noisy[CROP])))
        height, width = cells[0][1].shape[:2]
        row = Image.new("RGB", (4 * (width + GAP) - GAP, height + LABEL), "white")
        for number, (label, cell) in enumerate(cells):
            row.paste(Image.fromarray(cell), (number * (width + GAP), 0))
            place = number * (width + GAP) + width // 2, height + LABEL // 2
            ImageDraw.Draw(row).text(place, label, "black", font, anchor="mm")
        row = row.resize((2 * row.width, 2 * row.height), Image.Resampling.NEAREST)
        row.save(Path(__file__).with_name(f"noise-{kind}.jpg"), quality=88, subsampling=0)


if __name__ == "__main__":
    main()
