"""raydae trains image denoisers on Ray, and denoises images with them.

    import raydae

    denoise = raydae.load()  # the released model; or raydae.load("runs/NAME/model.safetensors")
    result = denoise(image)  # HxWx3 or HxW, uint8 or float on [0, 1]; the same kind comes back

Importing raydae imports neither torch nor Ray; `load` imports torch.
"""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raydae.models.inference import Denoiser

__version__ = "0.1.0"


def load(
    path: str | Path = "released",
    device: str | None = None,
    ensemble: bool = False,
    trust: Collection[str] = (),
) -> "Denoiser":
    """Return a trained model as a function of images.

    Args:
        path: a `model.safetensors` that raydae wrote, a local path or a URI; `released`: the model
            that comes with raydae, for any noise of sigma 0 to 55; `large`: the larger one, slower
            and better, for a GPU.
        device: as torch names it; none: a GPU if there is one, in tiles sized by its memory.
        ensemble: average over the eight flips and rotations, in eight times the time.
        trust: modules that may be imported, if the file names a network of one of them.

    Returns:
        A function from an image, HxWx3 (RGB) or HxW (grey), uint8 or floating point on [0, 1], to
        the denoised image of the same shape and dtype.

    Raises:
        UserError: there is no such file, it is not a model of raydae, or its network is in a
            module that is not trusted.
    """
    import torch

    from raydae.models.inference import Denoiser
    from raydae.models.model_file import load_model

    network, _ = load_model(path, trust)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Denoiser(network, device, ensemble=ensemble)
