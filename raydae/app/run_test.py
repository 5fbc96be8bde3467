"""The test at the end of a run: `results.json`, `samples.png`, and the table on screen."""

import importlib
import json
import shlex
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from raydae.app.console import counting, print_some
from raydae.app.invocation import invocation
from raydae.app.tables import level_of, result_table, undefined_lines
from raydae.core.components import module_of
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images.image_sets import subsample
from raydae.images.image_table import Images
from raydae.noise.evaluation import HiddenPixels
from raydae.training.checkpoints import Checkpoints
from raydae.training.noisy_images import noisy_versions
from raydae.training.run_folder import MODEL, Run, hash_of

if TYPE_CHECKING:
    from raydae.distributed.resources import Workers

SAMPLE_IMAGES = 4  # in samples.png
SMALL_IMAGE = 10**6  # pixels; denoising one takes a quarter of a GiB with unet, a half with dae


def preload() -> None:
    """Import what the test needs: torch and more, which take seconds."""
    importlib.import_module("raydae.evaluation.scoring")
    importlib.import_module("raydae.evaluation.panel")


def run_test(run: Run, workers: "Workers", screen: Console) -> None:
    """Score the best weights on the test images; write the results and show them.

    Raises:
        UserError: no test image can be read, or the results cannot be written.
    """
    assert run.sets is not None
    results, tested = _score(run, workers, screen)
    samples = _draw_samples(run, tested)
    try:
        run.folder.write("samples.png", samples)
        run.folder.write("results.json", json.dumps(results, indent=1).encode())
    except OSError as error:
        raise UserError(
            f"{run.folder} cannot be written ({error}); make room, and run the same command again"
        ) from None
    show_results(run.folder, screen)


def _score(run: Run, workers: "Workers", screen: Console) -> tuple[dict[str, Any], Images]:
    """Return what `results.json` holds, and the test images that could be read."""
    from raydae.evaluation import overlap, scoring, tables
    from raydae.models.model_file import load_model

    assert run.sets is not None
    model, images = run.folder.path_of(MODEL), run.sets.test
    # This process can start at once, but its memory must not run out: it holds the run's lock.
    small = bool((images.areas <= SMALL_IMAGE).all())
    device: Literal["cpu", "cuda"] = "cuda" if workers.gpus else "cpu"
    here = device if workers.dedicated and small else None
    with counting(screen, "testing") as progress:
        scores, failed = scoring.evaluate(
            model,
            images,
            run.config.evaluation_noises,
            progress,
            metrics=run.config.validation.metrics,
            trust=_trust(run),
            local_device=here,
        )
    if not scores:
        raise UserError(
            f"none of the {len(images)} test images could be tested ({failed[0]}); the "
            f"model is in {run.folder}: once they are back, run the same command again"
        )
    latest = Checkpoints(run.folder).latest()
    lost_in_training = latest.state.unreadable if latest else []
    print_some(screen, "unreadable while training", lost_in_training)
    print_some(screen, "not tested", failed)
    _, info = load_model(model, _trust(run))
    remark = overlap.check_overlap(info, images, force=True)
    results = {
        "results": tables.mean_rows("test", scores, remark),
        "epochs": run.config.optim.epochs,
        "model_sha256": hash_of(run.folder.read(MODEL)),
        "source": run.sets.source,
        "left_out": list(run.sets.left_out),
        "unreadable": [*lost_in_training, *failed],
        "images": tables.to_records(scores),
    }
    names = {line.image for line in scores}
    return results, images.where(np.isin(images.names, list(names)))


def _draw_samples(run: Run, tested: Images) -> bytes:
    """Return `samples.png`: a few test images with the middle one of the noises."""
    from raydae.evaluation import panel
    from raydae.models.inference import Denoiser
    from raydae.models.model_file import load_model

    network, info = load_model(run.folder.path_of(MODEL), _trust(run))
    shown = subsample(tested, SAMPLE_IMAGES)
    noises = run.config.evaluation_noises
    noise = noises[len(noises) // 2]
    images: list[tuple[NDArray[np.float32], NDArray[np.uint8] | None]] = [
        (image / np.float32(255), None) if isinstance(noise, HiddenPixels) else (noisy, image)
        for file in shown
        for _, noisy, image in noisy_versions(file, [noise], panel.middle)
    ]
    level = noise.label if noise.sigma is None else f"sigma {noise.label}"
    title = f"{run.folder.name}: {info.model.name} after epoch {info.epoch}, {level}"
    known = "photo" if noise.sigma is None else "gaussian"
    denoisers = [("this model", Denoiser(network)), panel.released_column(known, shown)]
    return panel.panel(images, denoisers, title)


def _trust(run: Run) -> list[str]:
    """Return the module of the run's network, which the user named."""
    return [module_of(run.config.model.name)]


def show_results(folder: Folder, screen: Console) -> None:
    """Print the test table of a run, where its files are, and how to use the model."""
    rows = json.loads(folder.read("results.json"))["results"]
    screen.print(result_table(rows))
    for line in undefined_lines(rows):
        screen.print(line, style="yellow", soft_wrap=True)
    if "remark" in rows[0]:
        screen.print(f"note: {rows[0]['remark']}", style="yellow")
    screen.print(f"files: {folder}", soft_wrap=True)
    worse = [level_of(row) for row in rows if not _helps(row)]
    if worse:
        screen.print(
            f"at {', '.join(worse)} the result is no better than the noisy input; train for "
            "longer, or lower --lr",
            style="yellow",
            soft_wrap=True,
        )
    if len(worse) == len(rows):
        return
    model = shlex.quote(folder.path_of(MODEL))
    screen.print(
        f"denoise: {invocation('denoise')} --model {model} PHOTO.jpg --out denoised",
        soft_wrap=True,
    )


def _helps(row: dict[str, Any]) -> bool:
    """Return whether a result is better than its input; it is perfect if its PSNR is infinite."""
    return row["psnr"] is None or (
        row["psnr_noisy"] is not None and row["psnr"] > row["psnr_noisy"]
    )
