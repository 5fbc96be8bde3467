"""Metrics: one file for each image quality metric.

Imports `core` only, and neither torch nor Ray. A metric is a function of two images:

    def metric(clean, image):
        \"\"\"Return how close an image is to the clean one, as a float; nan where undefined.

        Both are uint8 HxWx3, RGB on the 0-255 scale.
        \"\"\"

To add one, write its file and a row in `METRICS`. A metric of a user's own is used by its import
path: `--metrics psnr ssim metrics:mine`.
"""

from raydae.core.components import Builtin, Table

METRICS = Table(
    "metric",
    "validation.metrics",
    {
        "psnr": Builtin("raydae.metrics.psnr:psnr"),
        "ssim": Builtin("raydae.metrics.ssim:ssim"),
    },
)
