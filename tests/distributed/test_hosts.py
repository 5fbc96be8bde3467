"""cluster.yaml for real: `ray up`, jobs and a lost host, on hosts that this one machine plays.

Each host is a network namespace with an address of its own, behind one switch, with processes, a
home, /tmp and an sshd of its own; nothing of it is reachable from outside. Only the provider,
addresses and credentials of cluster.yaml are replaced. Needs root, openssh-server, iproute2, rsync.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.app.test_jobs import ROOT, finish, wait_for
from tests.conftest import draw_folder
from tests.distributed.test_faults import ANY_NUMBER

NEEDED = ("ip", "unshare", "ssh", "ssh-keygen", "rsync", "mount")
SSHD = "/usr/sbin/sshd"
NETWORK = "10.77.0"
HOSTS = {"user": 1, "head": 2, "one": 3, "two": 4}
EPOCHS = 6
CPUS = 3  # a host's, whatever this machine has: one worker of two threads, and its samples

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, NEEDED)) or not Path(SSHD).exists(),
        reason="needs root, iproute2, util-linux, openssh-server and rsync",
    ),
]


def call(*words: object) -> str:
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass
class Lab:
    """The hosts, and what the user among them does."""

    folder: Path
    env: dict[str, str]

    def address(self, host: str) -> str:
        return f"{NETWORK}.{HOSTS[host]}"

    def popen(self, *words: object, **how: Any) -> subprocess.Popen[str]:
        """Starts a command of the user's, in the root of a clone."""
        return subprocess.Popen(
            ["ip", "netns", "exec", "raydae-user", *map(str, words)],
            cwd=self.folder / "clone",
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **how,
        )

    def run(self, *words: object) -> str:
        return finish(self.popen(*words))

    def link(self, host: str, state: str) -> None:
        """Takes a host's link `down`, or `up`."""
        call("ip", "-n", "raydae-switch", "link", "set", f"to-{host}", state)


def environment(folder: Path, host: str) -> dict[str, str]:
    """What a login on a host finds set: its own Python, and no way to any package index."""
    return {
        **({} if host == "head" else {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": CPUS})}),
        "HOME": str(folder / host),
        "PATH": f"{folder / host}/venv/bin:{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "OMP_WAIT_POLICY": "passive",  # all hosts are on the same two cores
    }


def furnish(folder: Path, host: str) -> None:
    """A home, with an environment that has all that this one has but raydae."""
    home = folder / host
    (home / "ray").mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", home / "venv"], check=True)
    (packages,) = (home / "venv").glob("lib/python3*/site-packages")
    for old in packages.glob("setuptools*"):  # too old in Python 3.10 and 3.11
        shutil.rmtree(old)
    (packages / "more.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    ray = home / "venv" / "bin" / "ray"
    ray.write_text(f"#!{home}/venv/bin/python\nfrom ray.scripts.scripts import main\n\nmain()\n")
    ray.chmod(0o755)
    lines = [f"export {name}='{value}'\n" for name, value in environment(folder, host).items()]
    (home / ".bashrc").write_text("".join(lines))


def wire(host: str, undo: contextlib.ExitStack) -> None:
    """A namespace with an address, on a cable to the switch."""
    space = f"raydae-{host}"
    call("ip", "netns", "add", space)
    undo.callback(call, "ip", "netns", "delete", space)
    call(
        *("ip", "link", "add", f"to-{host}", "netns", "raydae-switch", "type", "veth"),
        *("peer", "name", "eth0", "netns", space),
    )
    switch = ("ip", "-n", "raydae-switch", "link", "set", f"to-{host}")
    call(*switch, "master", "switch", "up")
    call("ip", "-n", space, "address", "add", f"{NETWORK}.{HOSTS[host]}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        call("ip", "-n", space, "link", "set", device, "up")
    # Ray takes the address that leads outside for a host's own; nobody forwards anything there.
    call("ip", "-n", space, "route", "add", "default", "via", f"{NETWORK}.254")


def boot(folder: Path, host: str, undo: contextlib.ExitStack) -> None:
    """Processes, /tmp/ray and shared memory of the host's own, and an sshd among them."""
    home = folder / host
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "host_key")
    (home / "sshd_config").write_text(
        f"ListenAddress {NETWORK}.{HOSTS[host]}\nHostKey {home}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/key.pub\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nPermitRootLogin prohibit-password\nSetEnv HOME={home}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    Path("/tmp/ray").mkdir(exist_ok=True)
    inside = (
        f"mount --bind {home}/ray /tmp/ray && mount -t tmpfs -o size=8g tmpfs /dev/shm && "
        f"mount --bind {folder}/ssh_config /etc/ssh/ssh_config && "
        f"exec {SSHD} -D -e -f {home}/sshd_config"
    )
    with (home / "sshd.log").open("w") as log:
        sshd = subprocess.Popen(
            [
                *("ip", "netns", "exec", f"raydae-{host}"),
                *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                *("sh", "-c", inside),
            ],
            stdout=log,
            stderr=log,
        )
    undo.callback(sshd.wait)
    undo.callback(sshd.kill)  # and all processes of the host with it


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    call("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key")
    # The head has its copy in ~, which ssh takes for the home in the system's list of users.
    (folder / "ssh_config").write_text(f"IdentityFile {folder}/key\n")
    ignored = shutil.ignore_patterns(".git", ".*_cache", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder / "clone", ignore=ignored)
    with contextlib.ExitStack() as undo:
        call("ip", "netns", "add", "raydae-switch")
        undo.callback(call, "ip", "netns", "delete", "raydae-switch")
        call("ip", "-n", "raydae-switch", "link", "add", "switch", "type", "bridge")
        call("ip", "-n", "raydae-switch", "link", "set", "switch", "up")
        for host in HOSTS:
            wire(host, undo)
            furnish(folder, host)
            if host != "user":
                boot(folder, host, undo)
        env = {
            **environment(folder, "user"),
            "RAY_AUTH_MODE": "token",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        env["RAY_API_SERVER_ADDRESS"] = "http://127.0.0.1:8265"
        yield Lab(folder, env)


def configure(lab: Lab, data: Path, runs: Path) -> None:
    """cluster.yaml for these hosts."""
    file = lab.folder / "clone" / "cluster.yaml"
    text = file.read_text().replace("s3://CHANGE-ME/BSDS500", data.as_uri())
    config = yaml.safe_load(text.replace("s3://CHANGE-ME/runs", str(runs)))
    workers = [lab.address("one"), lab.address("two")]
    config["provider"] = {"type": "local", "head_ip": lab.address("head"), "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(lab.folder / "key")}
    config["min_workers"] = config["max_workers"] = len(workers)
    # A host here is a container already.
    for key in ("docker", "initialization_commands", "available_node_types", "head_node_type"):
        del config[key]
    # Of machines that one has, Ray 2.60's newer autoscaler takes the head for one of the workers.
    start = config["head_start_ray_commands"]
    start[-1] = start[-1].replace("export ", "export RAY_enable_autoscaler_v2=0 ", 1)
    file.write_text(yaml.safe_dump(config, sort_keys=False))


def epochs(run: Path) -> list[dict[str, Any]]:
    """The history of a run so far."""
    try:
        return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    except FileNotFoundError:
        return []


def has_ray(host: str) -> bool:
    """Whether a node of Ray runs on a host."""
    found = False
    for pid in call("ip", "netns", "pids", f"raydae-{host}").split():
        with contextlib.suppress(psutil.NoSuchProcess):
            found = found or psutil.Process(int(pid)).name() == "raylet"
    return found


def hosts(run: Path) -> set[str]:
    """The addresses that trained the latest epoch."""
    return {worker["place"].split()[0] for line in epochs(run)[-1:] for worker in line["by_worker"]}


def test_a_cluster_of_hosts_one_of_which_is_cut_off(lab: Lab, tmp_path: Path) -> None:
    data, runs = draw_folder(tmp_path / "images", 10, 80, 96), tmp_path / "runs"
    configure(lab, data, runs)
    lab.run("sh", "-c", "umask 077; ray get-auth-token --generate > /dev/null")
    print(lab.run("ray", "up", "-y", "--no-config-cache", "cluster.yaml"))
    tunnel = lab.popen("ray", "dashboard", "cluster.yaml", start_new_session=True)
    train = ["python", "jobs/train.py", *ANY_NUMBER, "--data.patches-per-image", "400"]
    train += ["--threads", "2", "--epochs", str(EPOCHS)]
    try:
        wait_for(lambda: lab.popen("ray", "job", "list").wait(60) == 0, "the dashboard")
        words = ["ray", "job", "submit", "--", *train, "--name", "calm", "--num-workers", "1"]
        said = lab.run(*words)
        print(said)
        assert "waiting for a node that works" in said
        wait_for(lambda: has_ray("one") and has_ray("two"), "two hosts")
        job = lab.popen("ray", "job", "submit", "--", *train, "--name", "cut", "--num-workers=1:2")
        both = {lab.address("one"), lab.address("two")}
        wait_for(lambda: hosts(runs / "cut") == both or job.poll() is not None, "both hosts")
        lab.link("two", "down")
        said = finish(job, patience_s=600)
        print(said)
        assert "died or hung" in said or "instead of 2" in said
        assert hosts(runs / "cut") == {lab.address("one")}
        lab.run("ray", "rsync-down", "cluster.yaml", f"{runs}/cut/", str(tmp_path / "fetched/"))
        lab.link("two", "up")  # `ray down` would wait two minutes for it
        assert {"head", "one"} <= set(filter(has_ray, HOSTS))
        lab.run("ray", "down", "-y", "cluster.yaml")
        wait_for(lambda: not any(map(has_ray, HOSTS)), "the end of Ray on all hosts")
    finally:
        os.killpg(tunnel.pid, signal.SIGTERM)  # with its ssh
        tunnel.communicate()
    assert (tmp_path / "fetched" / "model.safetensors").exists()
    cut, calm = ([line["loss"] for line in epochs(runs / name)] for name in ("cut", "calm"))
    assert len(cut) == EPOCHS
    assert max(calm) - min(calm) > 1e-3, "other samples would show"
    assert cut == pytest.approx(calm, abs=1e-5)
