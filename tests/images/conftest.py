"""Fixtures that hide BSDS500, or replace it by a small one."""

import hashlib
from pathlib import Path

import pytest

from raydae.images import bsds500
from raydae.images.bsds500 import Entry
from tests.images.small_bsds500 import FILES


@pytest.fixture
def no_bsds500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide this machine's data, cache and proxy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("RAYDAE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_bsds500(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the manifest by that of twelve files: the real data set is too large for a test."""
    entries = {name: Entry(len(b), hashlib.sha256(b).hexdigest()) for name, b in FILES.items()}
    monkeypatch.setattr(bsds500, "manifest", lambda: entries)
