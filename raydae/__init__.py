"""raydae trains image denoisers on Ray, and denoises images with them.

    import raydae

    denoise = raydae.load()  # the model photo; or raydae.load("runs/NAME/model.safetensors")
    result = denoise(image)  # an array, a tensor or a PIL image; the same kind comes back

`train` and `evaluate` do what the commands of these names do. Importing raydae imports neither
torch nor Ray.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from raydae.app.api import TrainResult
    from raydae.models.inference import Denoiser
    from raydae.training.config import Config

__version__ = "0.1.0"


def load(
    path: str | Path = "photo",
    device: str | None = None,
    ensemble: bool = False,
    trust: Collection[str] = (),
) -> "Denoiser":
    """Return a trained model as a function of images.

    >>> denoise = raydae.load()
    >>> denoise(np.full((30, 40, 3), 128, np.uint8)).shape
    (30, 40, 3)

    Args:
        path: a `model.safetensors` that raydae wrote, a local path or a URI; or a model that
            comes with raydae: `photo`, for the noise of cameras; `gaussian`, for white Gaussian
            noise of sigma 0 to 55; `large`, likewise, slower and better, for a GPU.
        device: as torch names it; none: a GPU if there is one, in tiles sized by its memory.
        ensemble: average over the eight flips and rotations, in eight times the time.
        trust: modules that may be imported, if the file names a network of one of them.

    Returns:
        A function from an image, HxWx3 (RGB) or HxW (grey), uint8 or floating point on [0, 1], to
        the denoised image of the same shape and dtype. It also takes uint16 and int16 by their
        range, stacks NxHxWx3, PIL images, torch tensors and lists; see `Denoiser.__call__`. Its
        arguments `strength`, `luma` and `chroma`, from 0 to 1, say how much of the change to apply,
        and to brightness and colour.

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


def train(
    config: "Config | str | Mapping[str, Any]",
    *,
    name: str | None = None,
    storage: str | Path | None = None,
    num_workers: int | str | None = None,
    use_gpu: Literal["auto", "yes", "no"] = "auto",
    restart: bool = False,
    max_minutes: float | None = None,
    quiet: bool = False,
) -> "TrainResult":
    """Train a denoiser, as the command `raydae train` does; call it from the main thread.

    >>> settings = {"data.path": "photos", "data.patch_size": 32, "optim.epochs": 1}
    >>> result = raydae.train(settings, name="small", num_workers=1, quiet=True)
    >>> result.finished
    True
    >>> [row["sigma"] for row in result.results]
    [25.0]

    Args:
        config: a `raydae.training.config.Config`; the name of a recipe (`unet`) or the path of a
            config.json; or settings by their dotted names.
        name: the run's name; a run of that name is resumed. None: a new name.
        storage: folder or URI for runs; none: `$RAYDAE_STORAGE`, or `runs`.
        num_workers: a number, or an elastic one such as `2:8`; none: every GPU, or one CPU worker.
        use_gpu: whether to train on GPUs.
        restart: move the run of that name aside, to `NAME.1`, and start again.
        max_minutes: stop with a checkpoint after this time; none: no limit.
        quiet: print nothing.

    Returns:
        Where the run is, and its test table.

    Raises:
        UserError: the settings are wrong, or the run failed.
    """
    from raydae.app import api

    settings = {
        "name": name,
        "storage": storage,
        "num_workers": num_workers,
        "use_gpu": use_gpu,
        "restart": restart,
        "max_minutes": max_minutes,
    }
    return api.train(config, quiet, settings)


def evaluate(
    model: str | Path = "gaussian",
    data: str | None = None,
    *,
    data_options: Mapping[str, Any] | None = None,
    protocol: Literal["bsds500", "cbsd68"] | None = None,
    sigma: Sequence[float] | None = None,
    noise: str | None = None,
    noise_options: Mapping[str, Any] | None = None,
    noisy: str | Path | None = None,
    clean: str | Path | None = None,
    pairs: str | None = None,
    metrics: Sequence[str] = ("psnr", "ssim"),
    ensemble: bool = False,
    compare: bool = False,
    told: Sequence[float] = (),
    trust: Collection[str] = (),
    force: bool = False,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Measure a model by the literature's protocol, as the command `raydae evaluate` does.

    >>> (row,) = raydae.evaluate("gaussian", "photos", sigma=[25], quiet=True)
    >>> row["images"], row["psnr"] > row["psnr_noisy"] + 3
    (10, True)

    Args:
        model: a model file, `last`, `photo`, `gaussian` or `large`.
        data: folder or URI of images, or MODULE:NAME of a data source; none: BSDS500.
        data_options: options of the data source.
        protocol: whose test images of BSDS500; none: as the model was trained.
        sigma: levels of white Gaussian noise, 0-255 scale; none: 15, 25 and 50.
        noise: another noise kind, such as `camera`, or MODULE:NAME.
        noise_options: options of that kind.
        noisy: folder or URI of noisy pictures, measured as they are.
        clean: folder or URI of their clean ones, of the same relative names.
        pairs: pairs in `data` instead: two patterns `NOISY=CLEAN`, or the name of a table.
        metrics: names or import paths.
        ensemble: average over the eight flips and rotations.
        compare: also measure denoisers that need no training.
        told: levels that those are told, 0-255 scale; none: the true one.
        trust: modules that may be imported, if the model file names a network of one of them.
        force: measure on training images too; marks the results.
        quiet: print nothing.

    Returns:
        One row for each noise and method: the means over the images.

    Raises:
        UserError: the arguments are wrong, or the model was trained on these images.
    """
    from raydae.app import api

    settings = {
        "data": data,
        "data_options": data_options or {},
        "protocol": protocol,
        "sigma": sigma,
        "noise": noise,
        "noise_options": noise_options or {},
        "noisy": noisy,
        "clean": clean,
        "pairs": pairs,
        "metrics": metrics,
        "ensemble": ensemble,
        "compare": compare,
        "told": told,
        "trust": trust,
        "force": force,
    }
    return api.evaluate(model, quiet, settings)
