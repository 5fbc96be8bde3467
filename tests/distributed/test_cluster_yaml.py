"""The cluster.yaml that is shipped: Ray accepts it, and it is closed to strangers."""

import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
TYPES: dict[str, dict[str, Any]] = CONFIG["available_node_types"]
WORKERS = sorted(TYPES.keys() - {CONFIG["head_node_type"]})

every_type = pytest.mark.parametrize("name", sorted(TYPES))
every_worker = pytest.mark.parametrize("name", WORKERS)
every_start = pytest.mark.parametrize("kind", ["head", "worker"])


def run(command: str, home: Path) -> str:
    """What a command of the file prints on a node, where `ray` only tells how it was called."""
    ray = home / "bin" / "ray"
    ray.parent.mkdir(exist_ok=True)
    ray.write_text(
        '#!/bin/sh\necho "ray $*" at $(pwd) with data=$RAYDAE_DATA storage=$RAYDAE_STORAGE '
        "stop=$RAY_JOB_STOP_WAIT_TIME_S token=$RAY_AUTH_MODE usage=$RAY_USAGE_STATS_ENABLED\n"
    )
    ray.chmod(0o755)
    path = f"{ray.parent}:{os.environ['PATH']}"
    env = {"HOME": str(home), "PATH": path, "RAY_HEAD_IP": "10.0.0.1"}
    done = subprocess.run(
        ["bash", "-c", command], env=env, capture_output=True, text=True, check=True
    )
    return done.stdout


def start(kind: str, home: Path) -> str:
    (home / "raydae").mkdir()
    (command,) = [line for line in CONFIG[f"{kind}_start_ray_commands"] if "ray start" in line]
    return run(command, home)


def test_ray_accepts_it() -> None:
    # Names and types of all but `node_config`, which only EC2 knows; node types and their numbers;
    # container and image. `ray up` goes on with boto3: keys, subnets, what the instance types have.
    validate_config(prepare_config(CONFIG))


def test_the_image_has_the_ray_that_is_pinned() -> None:
    found = re.search(r'"(ray\[.*?)"', (ROOT / "pyproject.toml").read_text())
    assert found is not None
    name, _, tag = CONFIG["docker"]["image"].partition(":")
    assert name == "rayproject/ray"
    assert Requirement(found[1]).specifier.contains(tag.partition("-")[0])


@every_type
def test_every_type_uses_that_image(name: str) -> None:
    assert not {"image", "head_image", "worker_image"} & TYPES[name].get("docker", {}).keys()
    assert not {"head_image", "worker_image"} & CONFIG["docker"].keys()


@every_type
def test_security_groups_are_the_user_s_own(name: str) -> None:
    assert TYPES[name]["node_config"]["SecurityGroupIds"] == ["sg-CHANGE-ME"]


@every_type
def test_every_type_has_an_instance_profile(name: str) -> None:
    assert TYPES[name]["node_config"]["IamInstanceProfile"]["Name"]


@every_worker
def test_workers_have_not_the_head_s_rights(name: str) -> None:
    head = TYPES[CONFIG["head_node_type"]]["node_config"]["IamInstanceProfile"]
    assert TYPES[name]["node_config"]["IamInstanceProfile"] != head


@every_type
def test_credentials_of_a_node_need_a_session(name: str) -> None:
    assert TYPES[name]["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}


@every_type
def test_disks_are_encrypted_and_go_with_their_node(name: str) -> None:
    for disk in TYPES[name]["node_config"]["BlockDeviceMappings"]:
        assert disk["Ebs"]["Encrypted"]
        assert disk["Ebs"]["DeleteOnTermination"]


def test_the_head_takes_no_work(tmp_path: Path) -> None:
    assert TYPES[CONFIG["head_node_type"]]["resources"]["CPU"] == 0
    assert " --num-cpus=0 " in start("head", tmp_path)


def test_only_the_head_is_always_there() -> None:
    assert WORKERS == ["cpu_worker", "gpu_worker"]
    assert [TYPES[name]["min_workers"] for name in WORKERS] == [0, 0]


@every_type
def test_workers_are_spot_and_the_head_is_not(name: str) -> None:
    market = TYPES[name]["node_config"].get("InstanceMarketOptions")
    assert market == ({"MarketType": "spot"} if name in WORKERS else None)


@every_start
def test_ray_asks_for_the_token(kind: str, tmp_path: Path) -> None:
    assert " token=token " in start(kind, tmp_path)


@every_start
def test_ray_reports_no_usage(kind: str, tmp_path: Path) -> None:
    assert start(kind, tmp_path).endswith(" usage=0\n")


@every_start
def test_ray_starts_in_the_project_s_folder(kind: str, tmp_path: Path) -> None:
    assert CONFIG["file_mounts"]["~/raydae"] == "."
    assert f" at {tmp_path}/raydae with " in start(kind, tmp_path)


def test_a_stopped_job_has_a_minute_for_its_checkpoint(tmp_path: Path) -> None:
    assert " stop=60 " in start("head", tmp_path)


def test_jobs_need_name_neither_data_nor_storage(tmp_path: Path) -> None:
    assert " data=s3://CHANGE-ME/BSDS500 storage=s3://CHANGE-ME/runs " in start("head", tmp_path)


def test_the_dashboard_listens_on_loopback(tmp_path: Path) -> None:
    assert " --dashboard-host=127.0.0.1 " in start("head", tmp_path)


def test_a_worker_looks_for_the_head(tmp_path: Path) -> None:
    assert start("worker", tmp_path).startswith("ray start --address=10.0.0.1:6379 ")


def test_a_worker_passes_on_that_it_will_be_taken_away(tmp_path: Path) -> None:
    (tmp_path / "raydae").mkdir()
    (tmp_path / "bin").mkdir()
    told = tmp_path / "told"
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\necho "$PWD $@ $RAY_AUTH_MODE" > {told}\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    run(f"{CONFIG['worker_start_ray_commands'][-1]} wait", tmp_path)
    assert told.read_text() == f"{tmp_path}/raydae -m raydae.distributed.spot token\n"


def test_the_token_is_for_its_owner_s_eyes(tmp_path: Path) -> None:
    assert CONFIG["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.touch(0o644)
    run(CONFIG["setup_commands"][0], tmp_path)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_the_project_is_installed_on_every_node() -> None:
    assert "pip install --no-cache-dir -e ~/raydae" in CONFIG["setup_commands"]
    assert not any("worker_setup_commands" in kind for kind in TYPES.values())


@pytest.mark.parametrize("folder", ["/data", "/runs", "/.git", ".venv"])
def test_what_stays_at_home(folder: str) -> None:
    assert folder in CONFIG["rsync_exclude"]
