"""Small images of our own, and the real BSDS500 where a checkout has it beside itself."""

import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray
from PIL import Image

from raydae.images.image_sets import ImageSets
from raydae.images.sources import find_images
from raydae.training.config import Config

BSDS500 = Path(__file__).parents[2] / "shared" / "data" / "BSDS500"
RPCS = (  # one of each of Ray's services
    "CoreWorkerService/GetCoreWorkerStats",
    "JobInfoGcsService/GetAllJobInfo",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Push",
    "RayletDriver/ClusterInfo",
    "ReporterService/GetTraceback",
)
Pixels = NDArray[np.uint8]
SMALL = {
    "data.patch_size": 16,
    "data.patches_per_image": 4,
    "optim.batch_size": 8,
    "optim.micro_batch": 2,
    "optim.epochs": 2,
    "validation.images": 2,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip the tests marked gpu where torch sees no GPU."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs an NVIDIA GPU")


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


def draw_noisy(
    seed: int, height: int = 48, width: int = 64, sigma: float = 12, shot: int = 1
) -> Pixels:
    """The picture of `draw` with noise; each seed and shot has its own."""
    rng = np.random.default_rng([seed, shot])
    noise = rng.normal(0, sigma, (height, width, 3))
    return np.clip(np.rint(draw(seed, height, width) + noise), 0, 255).astype(np.uint8)


def draw_pairs(folder: Path, number: int = 10) -> Path:
    """A folder with noisy/NNN.png and clean/NNN.png."""
    for name, picture in (("noisy", draw_noisy), ("clean", draw)):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            Image.fromarray(picture(i)).save(folder / name / f"{i:03}.png")
    return folder


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let tests leave nothing in the user's folder for caches; pytest's processes share one."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(base / "cache"))
        yield


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

    from raydae.distributed.start import start_ray

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


def ports_for_others(process: psutil.Process) -> set[int]:
    """The ports that a process listens on for other machines too."""
    try:
        connections = process.net_connections("inet")
    except psutil.Error:
        return set()
    loopback = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    return {
        listener.laddr.port
        for listener in connections
        if listener.status == psutil.CONN_LISTEN and listener.laddr.ip not in loopback
    }


def without_token(pid: int, host: str) -> dict[int, str]:
    """What a process and its children do, by port, for those who have no token.

    They are asked from a process of its own; those that end meanwhile are left out.
    """

    def ports() -> list[int]:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        return sorted(port for member in family for port in ports_for_others(member))

    asked = ports()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        answers = list(pool.map(_without_token, [f"{host}:{port}" for port in asked]))
    left = set(ports())
    return {port: said for port, said in zip(asked, answers, strict=True) if port in left}


def _without_token(address: str) -> str:
    """What a service does for those who have no token.

    Args:
        address: host and port.

    Returns:
        `refuses` or `tells its metrics`; else what it answers.
    """
    body = json.dumps({"entrypoint": "true"}).encode()
    headers = {"Content-Type": "application/json"}
    answers = [_http(Request(f"http://{address}/api/job_agent/jobs/", body, headers))]
    if answers == ["401"]:
        return "refuses"
    answers.append(_http(Request(f"http://{address}/metrics")))
    if answers[1].startswith("# HELP") and answers[0] in ("404", "405"):
        return "tells its metrics"
    with grpc.insecure_channel(address) as channel:
        answers += [_rpc(channel, name) for name in RPCS]
    refused = set(answers[2:]) == {"UNAUTHENTICATED", "UNIMPLEMENTED"}
    return "refuses" if refused else f"{answers}"


def _rpc(channel: grpc.Channel, name: str) -> str:
    """What a call with nothing in it is answered."""
    try:
        channel.unary_unary(f"/ray.rpc.{name}")(b"", timeout=5)
    except grpc.RpcError as error:
        return str(error.code().name)
    return f"{name} is done"


def _http(request: Request) -> str:
    """The answer, or its status where that is an error; empty where it is not of the web."""
    try:
        with urlopen(request, timeout=5) as response:
            return str(response.read(1000).decode())
    except HTTPError as error:
        return str(error.code)
    except (OSError, HTTPException):
        return ""
