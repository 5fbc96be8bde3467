"""Metrics: one file for each image quality metric.

`psnr` and `ssim` are raydae's. This room imports `core` only, and neither torch nor Ray. A metric
is a function of two images:

    def metric(clean, image):
        \"\"\"Return how close an image is to the clean one, as a float; nan where undefined.

        The clean image is uint8 HxWx3, RGB. The other is a denoised image, uint8 too, or the noisy
        one: float32 on the 0-255 scale, neither clipped nor rounded.
        \"\"\"

To add one, write its file and a row in `METRICS`. A metric of a user's own is used by its import
path: `--metrics psnr ssim metrics:mine`.
"""

from raydae.core.components import Builtin, Table

SSIM_WINDOW = 11
"""Pixels a side of the Gaussian of Wang et al. 2004. SSIM is nan for smaller images."""

METRICS = Table(
    "metric",
    "validation.metrics",
    {
        "psnr": Builtin("raydae.metrics.psnr:psnr"),
        "ssim": Builtin("raydae.metrics.ssim:ssim"),
    },
)
