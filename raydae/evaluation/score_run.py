"""The test of a finished run: the scores of its model, and pictures of what it does."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raydae.core.components import module_of
from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.distributed.helper import Progress
from raydae.evaluation import overlap, panel, scoring, tables
from raydae.evaluation.run_scores import RunScores
from raydae.images.image_sets import subsample
from raydae.images.image_table import Images
from raydae.models.inference import Denoiser
from raydae.models.model_file import load_model
from raydae.noise.evaluation import HiddenPixels
from raydae.training.config import Config
from raydae.training.noisy_images import noisy_versions
from raydae.training.run_folder import MODEL

SAMPLE_IMAGES = 4  # in samples.png


def score_run(
    folder: Folder,
    config: Config,
    images: Images,
    local_device: Literal["cpu", "cuda"] | None,
    progress: Progress,
) -> RunScores:
    """Test the best weights of a run.

    Args:
        folder: the run's folder.
        config: its configuration.
        images: its test images.
        local_device: as in `scoring.evaluate`.
        progress: likewise.

    Raises:
        UserError: no test image can be read.
    """
    model, trust = folder.path_of(MODEL), [module_of(config.model.name)]  # which the user named
    scores, failed = scoring.evaluate(
        model,
        images,
        config.evaluation_noises,
        progress,
        metrics=config.validation.metrics,
        trust=trust,
        local_device=local_device,
    )
    if not scores:
        raise UserError(
            f"none of the {len(images)} test images could be tested ({failed[0]}); the "
            f"model is in {folder}: once they are back, run the same command again"
        )
    network, info = load_model(model, trust)
    remark = overlap.check_overlap(info, images, force=True)
    tested = images.where(np.isin(images.names, list({score.image for score in scores})))
    title = f"{folder.name}: {info.model.name} after epoch {info.epoch}"
    return RunScores(
        means=tables.mean_rows("test", scores, remark),
        images=tables.to_records(scores),
        failed=failed,
        samples=_draw_samples(Denoiser(network), config, tested, title),
    )


def _draw_samples(denoiser: Denoiser, config: Config, tested: Images, title: str) -> bytes:
    """Return `RunScores.samples`."""
    shown = subsample(tested, SAMPLE_IMAGES)
    noises = config.evaluation_noises
    noise = noises[len(noises) // 2]
    images: list[tuple[NDArray[np.float32], NDArray[np.uint8] | None]] = [
        (image / np.float32(255), None) if isinstance(noise, HiddenPixels) else (noisy, image)
        for file in shown
        for _, noisy, image in noisy_versions(file, [noise], panel.middle)
    ]
    level = noise.label if noise.sigma is None else f"sigma {noise.label}"
    known = "photo" if noise.sigma is None else "gaussian"
    denoisers = [("this model", denoiser), panel.released_column(known, shown)]
    return panel.panel(images, denoisers, f"{title}, {level}")
