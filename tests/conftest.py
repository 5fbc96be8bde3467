"""Small images of our own, and the real BSDS500 where a checkout has it beside itself."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from raydae.config import Config
from raydae.images import ImageSets, find_images

BSDS500 = Path(__file__).parents[2] / "shared" / "data" / "BSDS500"
SMALL = {
    "data.patch_size": 16,
    "data.patches_per_image": 4,
    "optim.batch_size": 8,
    "optim.micro_batch": 2,
    "optim.epochs": 2,
    "validation.images": 2,
}


def draw(seed: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """A picture that can be learnt: a few smooth waves of colour."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        np.sin(y * rng.uniform(0.02, 0.2) + x * rng.uniform(0.02, 0.2) + rng.uniform(0, 6))
        for _ in range(3)
    ]
    return (127 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def draw_folder(folder: Path, number: int = 10, height: int = 48, width: int = 64) -> Path:
    """A folder with train, val and test: 80, 10 and 10 % of the pictures, at least one each."""
    for i in range(number):
        split = ("val", "test", *["train"] * 8)[i % 10]
        (folder / split).mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(i, height, width)).save(folder / split / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of 64x48: eight to train on, one to choose by, one to test with."""
    return draw_folder(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def config(pictures: Path) -> Config:
    """A run of 2 epochs of 4 steps."""
    return Config().override({**SMALL, "data.path": str(pictures), "precision": "fp32"})


@pytest.fixture
def sets(config: Config) -> ImageSets:
    return find_images(config.data)


@pytest.fixture(scope="session")
def bsds500() -> Path:
    """The real data set; tests that need it run only where the checkout has it beside itself."""
    if not BSDS500.is_dir():
        pytest.skip("needs BSDS500 in ../shared/data/BSDS500")
    return BSDS500


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Ray in this process, with CPUs enough for four workers."""
    import ray

    from raydae.cluster import start_ray

    start_ray((4, 4), threads=1)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3() -> Iterator[Callable[[str], str]]:
    """The URI of a path in a bucket of a real S3 server on this machine."""
    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        place = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        filesystem, _ = fs.FileSystem.from_uri(f"s3://bucket?{place}&allow_bucket_creation=true")
        filesystem.create_dir("bucket")
        yield lambda path: f"s3://bucket/{path}?{place}"
    server.stop()
