"""Make docs/denoised.jpg, the picture in the README: `python docs/make_picture.py`.

The photograph is scikit-image's `chelsea`, which its photographer, Stefan van der Walt, has given
to the public ("No copyright restrictions. CC0 by the photographer").
"""

import io
from pathlib import Path

from PIL import Image
from skimage import data

from raydae.evaluation.panel import middle, panel, released_column
from raydae.noise.evaluation import EvaluationNoise

clean = data.chelsea()[:, 60:420]  # uint8 300x360x3
title = "Gaussian noise of sigma 50 (0-255 scale), removed by the model gaussian"
picture = panel([EvaluationNoise.white(50)(middle(clean))], [released_column("gaussian")], title)
Image.open(io.BytesIO(picture)).save(
    Path(__file__).with_name("denoised.jpg"), quality=92, subsampling=0
)
