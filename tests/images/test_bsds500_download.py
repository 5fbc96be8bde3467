"""A download gives the whole BSDS500, or fails with one line and leaves nothing behind."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from rich.console import Console

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images import bsds500, bsds500_download
from raydae.images.bsds500 import locate
from raydae.images.bsds500_download import Archive, DownloadError, download
from tests.images.archive_server import Server, pack, send
from tests.images.small_bsds500 import FILES, NAMES, make

pytestmark = pytest.mark.usefixtures("no_bsds500", "small_bsds500")


@pytest.fixture
def server() -> Iterator[Server]:
    yield from Server().run()


def quiet() -> Console:
    return Console(file=io.StringIO())


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


@pytest.mark.parametrize(
    "root", ["BSR/BSDS500/data", f"BSDS500-{bsds500.MIRROR_COMMIT}/BSDS500/data"]
)
def test_download_makes_the_target(tmp_path: Path, server: Server, root: str) -> None:
    strays = ("train/Thumbs.db", "train/Thumbs.jpg", f"../thumbnails/{NAMES[0]}")
    source = server.add("a.tgz", pack(dict.fromkeys(strays, b"x") | FILES, root))
    target = tmp_path / "new/BSDS500"
    console = quiet()
    assert download(target, [source], console) == target
    assert {name: (target / name).read_bytes() for name in tree(target)} == FILES
    assert tree(tmp_path) == {f"new/BSDS500/{name}" for name in NAMES}
    # No bar, no control characters, and long paths stay on one line.
    lines = [
        bsds500_download.LICENSE_NOTE,
        f"downloading {source.url}",
        f"BSDS500 is in {target}",
        "",
    ]
    assert shown(console) == "\n".join(lines)


def test_download_fills_the_cache_where_locate_finds_it(server: Server) -> None:
    source = server.add("a.tgz", pack(FILES))
    folder = download(None, [source], quiet())
    assert folder == bsds500.cache_folder() / "BSDS500"
    assert locate() == Folder.of(folder)


def test_download_shows_a_bar_on_a_terminal(tmp_path: Path, server: Server) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=100)
    download(tmp_path / "new", [server.add("a.tgz", pack(FILES))], console)
    assert "━━━" in shown(console)


def test_a_copy_is_verified_not_downloaded_again(tmp_path: Path, server: Server) -> None:
    source = server.add("a.tgz", pack(FILES))
    for _ in range(2):
        assert download(tmp_path / "new", [source], quiet()) == tmp_path / "new"
    assert server.asked == ["a.tgz"]
    (tmp_path / "new" / NAMES[0]).write_bytes(b"x")
    with pytest.raises(UserError, match=NAMES[0]):
        download(tmp_path / "new", [source], quiet())


def test_download_leaves_other_data_alone(tmp_path: Path, server: Server) -> None:
    source = server.add("a.tgz", pack(FILES))
    make(tmp_path, ["folder/mine.txt", "file"])
    for target in ("folder", "file"):
        with pytest.raises(UserError, match=rf"{target} is not BSDS500"):
            download(tmp_path / target, [source], quiet())
    with pytest.raises(DownloadError, match="cannot be written to"):
        download(tmp_path / "file/below", [source], quiet())
    assert tree(tmp_path) == {"folder/mine.txt", "file"}


def test_the_next_source_is_tried(tmp_path: Path, server: Server) -> None:
    sources = [
        Archive(f"http://127.0.0.1:{server.port}/missing"),
        server.add("page", b"<html>Please log in to this network</html>"),
        server.add("a.tgz", pack(FILES)),
        server.add("not needed", b""),
    ]
    console = quiet()
    download(tmp_path / "new", sources, console)
    assert server.asked == ["missing", "page", "a.tgz"]
    assert "127.0.0.1: HTTP 404 Not Found\n" in shown(console)
    assert "127.0.0.1: damaged archive: Not a gzipped file" in shown(console)


def refused(tmp_path: Path, source: Archive, reason: str, timeout_s: float = 15) -> None:
    """Assert that a download fails with one line that matches `reason`, and leaves nothing."""
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DownloadError, match=reason) as caught:
        download(tmp_path / "new", [source], quiet(), timeout_s)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.rglob("*")) == before


def test_altered_and_missing_files_are_refused(tmp_path: Path, server: Server) -> None:
    altered = FILES | {NAMES[3]: bytes(3000)}
    lacking = {name: content for name, content in FILES.items() if name != NAMES[5]}
    refused(tmp_path, server.add("a", pack(altered)), f"altered files, {NAMES[3]}\\)")
    refused(tmp_path, server.add("b", pack(lacking)), f"altered files, {NAMES[5]}\\)")
    refused(tmp_path, server.add("c", pack({})), "and 9 more")


def test_broken_transfers_are_refused(tmp_path: Path, server: Server) -> None:
    body = pack(FILES)
    size = len(body)
    cut = server.route("cut", lambda request: send(request, body[:-500], size))
    refused(tmp_path, cut, f"sent {size - 500:,} of {size:,} bytes")
    silent = server.route("silent", lambda request: send(request, body[:-500], None))
    refused(tmp_path, silent, "damaged archive: Compressed file ended")
    fixed = Archive(silent.url, size)
    refused(tmp_path, fixed, f"sent {size - 500:,} of {size:,} bytes")
    replaced = Archive(server.add("a", body).url, size - 1)
    refused(tmp_path, replaced, f"sent more than {size - 1:,} bytes")


def test_endless_answers_are_cut_off(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bsds500_download, "_ARCHIVE_BYTES", 1000)
    unsized = server.route("a", lambda request: send(request, pack(FILES), None))
    refused(tmp_path, unsized, "sent more than 1,000 bytes")
    monkeypatch.setattr(bsds500_download, "_TOTAL_S", 0.1)
    refused(tmp_path, server.route("b", server.drip), "took longer than 0.1 s")


def test_silent_and_absent_servers_fail_soon(tmp_path: Path, server: Server) -> None:
    start = time.monotonic()
    refused(tmp_path, server.route("a", server.stall), "127.0.0.1: timed out", timeout_s=0.1)
    mute = server.route("b", lambda _: server.closing.wait(30))
    refused(tmp_path, mute, "127.0.0.1: timed out", timeout_s=0.1)
    refused(tmp_path, Archive("http://127.0.0.1:1/"), "127.0.0.1: Connection refused")
    assert time.monotonic() - start < 10


def test_hostile_members_are_never_written(tmp_path: Path, server: Server) -> None:
    outside = make(tmp_path, ["outside"]) / "outside"
    for name in ("../evil", f"{tmp_path}/evil", "/evil", f"../images/{NAMES[0]}/../../../evil"):
        evil = tarfile.TarInfo(name)
        evil.size = 10
        download(tmp_path / "new", [server.add("a", pack(FILES, first=evil))], quiet())
        assert tree(tmp_path) == {"outside"} | {f"new/{n}" for n in NAMES}
        shutil.rmtree(tmp_path / "new")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        link = tarfile.TarInfo(f"BSR/images/{NAMES[0]}")
        link.type = kind
        link.linkname = str(outside)
        # The file that follows in the archive is written as a file, not through the link.
        download(tmp_path / "new", [server.add("b", pack(FILES, first=link))], quiet())
        assert not (tmp_path / "new" / NAMES[0]).is_symlink()
        assert outside.read_bytes() == b""
        shutil.rmtree(tmp_path / "new")
        alone = {name: FILES[name] for name in NAMES[1:]}
        refused(tmp_path, server.add("c", pack(alone, first=link)), f"altered files, {NAMES[0]}")


def test_oversize_members_and_bombs_are_not_read(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bsds500_download, "_EXPANDED_BYTES", 100_000)
    large = tarfile.TarInfo(f"BSR/images/{NAMES[0]}")
    large.size = 5_000_000
    refused(tmp_path, server.add("a", pack(FILES, first=large)), f"a {NAMES[0]} that is too large")
    bomb = tarfile.TarInfo("BSR/zeros")
    bomb.size = 5_000_000
    refused(tmp_path, server.add("b", pack(FILES, first=bomb)), "expands to more than 100,000 by")
    named = tarfile.TarInfo("x" * 5_000_000)  # the name alone expands too far
    refused(tmp_path, server.add("c", pack(FILES, first=named)), "expands to more than 100,000 by")


@pytest.mark.parametrize("stage", ["_receive", "_unpack", "differing_files", "_publish"])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    module = bsds500 if stage == "differing_files" else bsds500_download
    original = getattr(module, stage)

    def interrupted(*args: object) -> None:
        if stage != "_publish":
            original(*args)
        assert tree(tmp_path)  # there are files to remove
        raise KeyboardInterrupt

    monkeypatch.setattr(module, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(tmp_path / "new", [server.add("a.tgz", pack(FILES))], quiet())
    assert not list(tmp_path.iterdir())


def test_the_next_download_cleans_up_after_a_killed_one(tmp_path: Path, server: Server) -> None:
    stalled = server.route("stalled", server.stall)
    (tmp_path / "entries.json").write_text(json.dumps(bsds500.manifest()))
    program = """if True:
        import json, pathlib, sys
        from raydae.images import bsds500, bsds500_download
        text = pathlib.Path("entries.json").read_text()
        entries = {name: bsds500.Entry(*entry) for name, entry in json.loads(text).items()}
        bsds500.manifest = lambda: entries
        archive = bsds500_download.Archive(sys.argv[1])
        bsds500_download.download(pathlib.Path("place/new"), [archive])
    """
    root = str(Path(bsds500.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", program, stalled.url],
        stderr=subprocess.DEVNULL,
        env={"PYTHONPATH": root, "no_proxy": "*"},
    ) as process:
        try:
            deadline = time.monotonic() + 30
            while not list(tmp_path.glob("place/.new.part-*/0.tgz")):
                assert process.poll() is None, "the download ended by itself"
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            process.kill()
    (left,) = (tmp_path / "place").iterdir()  # no target, only the killed process's folder
    download(tmp_path / "place/new", [server.add("a.tgz", pack(FILES))], quiet())
    assert not left.exists()
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["new"]


def test_two_downloads_at_once_both_end_well(tmp_path: Path, server: Server) -> None:
    both = threading.Barrier(2)  # no request is answered before both have arrived

    def answer(request: BaseHTTPRequestHandler) -> None:
        both.wait(30)
        send(request, pack(FILES), None)

    source = server.route("a.tgz", answer)
    results: list[Path] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(download(tmp_path / "new", [source], quiet()))
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [tmp_path / "new"] * 2
    assert tree(tmp_path) == {f"new/{name}" for name in NAMES}


def test_cleaning_up_keeps_folders_in_use(tmp_path: Path, server: Server) -> None:
    source = server.add("a.tgz", pack(FILES))
    others = tmp_path / ".new.part-without-lock"  # new, or on a file system without locks
    others.mkdir()
    with bsds500_download._workspace(tmp_path / "new") as work:
        download(tmp_path / "new", [source], quiet())
        assert work.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"new", others.name}
