import os
from pathlib import Path

import pytest
import ray

from raydae.core.errors import UserError
from raydae.distributed import shared_storage
from raydae.distributed.shared_storage import check_shared

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_one_machine_sees_its_own_files(tmp_path: Path) -> None:
    check_shared(str(tmp_path / "a.png"), "--data")
    check_shared("s3://nowhere/at/all", "--storage")


def test_a_storage_that_other_nodes_do_not_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".lock").write_text("process 1")
    (this,) = ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [this])
    context = ray.get_runtime_context()
    monkeypatch.setattr(type(context), "get_node_id", lambda self: "another")
    here = os.getpid()
    # What runs on the other node looks at a disk of its own.
    elsewhere = lambda file: ("other", "seen" if os.getpid() == here else "")  # noqa: E731
    monkeypatch.setattr(shared_storage, "_look_at", elsewhere)
    with pytest.raises(UserError, match=r"\.lock is not the same on other; give --storage"):
        check_shared(str(tmp_path / ".lock"), "--storage")
