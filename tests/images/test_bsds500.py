import hashlib
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from raydae.core.errors import UserError
from raydae.core.storage import Folder
from raydae.images import bsds500
from raydae.images.bsds500 import CBSD68, DownloadError, Entry, Source, download, locate, verify

REAL = Path(__file__).parents[3] / "shared/data/BSDS500"
NAMES = [f"{split}/{i}.jpg" for split in ("test", "train", "val") for i in range(4)]
FILES = {name: random.Random(name).randbytes(3000) for name in NAMES}

Answer = Callable[[BaseHTTPRequestHandler], object]


def find(path: Path) -> Path | None:
    found = bsds500.find(Folder.of(path))
    return None if found is None else found.local


class Server:
    """An HTTP server on this machine: each path has a function that answers."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()

    def route(self, path: str, answer: Answer) -> Source:
        self.answers[path] = answer
        return Source(f"http://127.0.0.1:{self.port}/{path}")

    def add(self, path: str, body: bytes) -> Source:
        return self.route(path, lambda request: send(request, body, len(body)))

    def stall(self, request: BaseHTTPRequestHandler) -> None:
        send(request, b"x" * 1000, 10_000)
        self.closing.wait(30)

    def drip(self, request: BaseHTTPRequestHandler) -> None:
        send(request, b"", 10_000)
        while not self.closing.wait(0.02):
            request.wfile.write(b"x")

    def run(self) -> Iterator["Server"]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path[1:])
                with suppress(ConnectionError):  # a client that has had enough
                    if answer := server.answers.get(self.path[1:]):
                        answer(self)
                    else:
                        self.send_error(404)

            def log_message(self, format: str, *args: object) -> None: ...

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
            self.port = http.server_port
            thread = threading.Thread(target=http.serve_forever, args=(0.01,))
            thread.start()
            yield self
            self.closing.set()
            http.shutdown()
            thread.join()


def send(request: BaseHTTPRequestHandler, body: bytes, length: int | None) -> None:
    request.send_response(200)
    if length is not None:
        request.send_header("Content-Length", str(length))
    request.end_headers()
    request.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    yield from Server().run()


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees this machine's data, cache or proxy."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("RAYDAE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A BSDS500 of twelve files, as the published one is too large to serve in tests."""
    entries = {name: Entry(len(b), hashlib.sha256(b).hexdigest()) for name, b in FILES.items()}
    monkeypatch.setattr(bsds500, "manifest", lambda: entries)


def pack(
    files: dict[str, bytes], root: str = "BSR/BSDS500/data", first: tarfile.TarInfo | None = None
) -> bytes:
    """A gzipped tar archive, beginning with a member of its own where one is given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        if first:
            tar.addfile(first, io.BytesIO(bytes(first.size)))
        for name, content in files.items():
            member = tarfile.TarInfo(f"{root}/images/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def quiet() -> Console:
    return Console(file=io.StringIO())


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def tree(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


def make(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


# The manifest, and finding a copy.


def test_manifest_holds_the_splits_in_order() -> None:
    names = list(bsds500.manifest())
    counts = {split: sum(n.startswith(f"{split}/") for n in names) for split in bsds500._SPLITS}
    assert counts == {"train": 200, "val": 100, "test": 200}
    assert names == sorted(names)
    assert len({entry.sha256 for entry in bsds500.manifest().values()}) == 500


def test_cbsd68_is_68_images_of_val() -> None:
    assert len(CBSD68) == 68
    assert {f"val/{stem}.jpg" for stem in CBSD68} <= bsds500.manifest().keys()


@pytest.mark.parametrize(
    ("images", "given"),
    [
        ("BSR/BSDS500/data/images", "."),
        ("BSR/BSDS500/data/images", "BSR"),
        ("BSR/BSDS500/data/images", "BSR/BSDS500"),
        ("BSR/BSDS500/data/images", "BSR/BSDS500/data"),
        ("BSR/BSDS500/data/images", "BSR/BSDS500/data/images"),
        (f"BSDS500-{bsds500._COMMIT}/BSDS500/data/images", "."),
        (f"BSDS500-{bsds500._COMMIT}/BSDS500/data/images", f"BSDS500-{bsds500._COMMIT}"),
        ("BSDS500-master/BSDS500/data/images", "."),
        ("BSDS500", "."),
        ("renamed", "renamed"),
    ],
)
def test_find_knows_the_usual_layouts(tmp_path: Path, images: str, given: str) -> None:
    make(tmp_path / images, [*bsds500.manifest(), "train/Thumbs.db", "val/notes.txt", "test/x.jpg"])
    assert find(Path(given)) == tmp_path / images


def test_find_passes_over_what_is_not_bsds500(tmp_path: Path) -> None:
    make(tmp_path / "mine", [f"train/{i}.png" for i in range(100)])
    flat = [f"{stem}.jpg" for stem in CBSD68]  # a test set of its own, not a broken BSDS500
    make(tmp_path / "CBSD68", flat)
    make(tmp_path / "few", list(bsds500.manifest())[:49])
    for folder in ("mine", "CBSD68", "few", "absent", "mine/train/0.png"):
        assert find(tmp_path / folder) is None


def test_find_refuses_a_copy_with_gaps(tmp_path: Path) -> None:
    names = list(bsds500.manifest())
    images = make(tmp_path / "BSDS500/data/images", [n for n in names if n != "val/3096.jpg"])
    with pytest.raises(UserError, match=r"images holds 499 of the 500 .* lacks val/3096\.jpg:"):
        find(tmp_path / "BSDS500")
    shutil.rmtree(images / "test")
    shutil.rmtree(images / "val")
    with pytest.raises(UserError, match=r"holds 200 of the 500 .* and 297 more: complete"):
        find(tmp_path)
    with pytest.raises(UserError, match="holds 50 of the 500"):
        find(make(tmp_path / "fifty", names[:50]))


def test_locate_asks_the_variable_then_data_then_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(bsds500.manifest())
    assert locate() is None
    cached = make(tmp_path / "cache/raydae/BSDS500", names)
    assert locate() == Folder.of(cached)
    local = make(tmp_path / "data/BSDS500/data/images", names)
    assert locate() == Folder.of(local)
    named = make(tmp_path / "named", names)
    monkeypatch.setenv("RAYDAE_DATA", "named")
    assert locate() == Folder.of(named)


def test_a_wrong_variable_is_never_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "data/BSDS500", list(bsds500.manifest()))
    monkeypatch.setenv("RAYDAE_DATA", "elsewhere")
    with pytest.raises(UserError, match="RAYDAE_DATA is elsewhere, where there is no BSDS500"):
        locate()


def test_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bsds500.cache_folder() == tmp_path / "cache/raydae"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("USERPROFILE", "/home/someone")
    assert bsds500.cache_folder() == Path("/home/someone/.cache/raydae")


@pytest.mark.skipif(not REAL.is_dir(), reason="there is no copy of BSDS500 beside the checkout")
def test_the_published_files_pass() -> None:
    folder = find(REAL)
    assert folder == REAL.absolute() / "data/images"
    verify(folder)


@pytest.mark.usefixtures("small")
def test_verify_names_the_bad_files(tmp_path: Path) -> None:
    for name, content in FILES.items():
        make(tmp_path, [name])
        (tmp_path / name).write_bytes(content)
    verify(tmp_path)
    (tmp_path / NAMES[0]).unlink()
    (tmp_path / NAMES[4]).write_bytes(FILES[NAMES[4]] + b"x")
    (tmp_path / NAMES[8]).write_bytes(FILES[NAMES[8]][::-1])
    with pytest.raises(UserError, match=rf"{NAMES[0]}, {NAMES[4]}, {NAMES[8]}: remove"):
        verify(tmp_path)


# Downloading.

usual = pytest.mark.usefixtures("small")


@usual
@pytest.mark.parametrize("root", ["BSR/BSDS500/data", f"BSDS500-{bsds500._COMMIT}/BSDS500/data"])
def test_download_makes_the_target(tmp_path: Path, server: Server, root: str) -> None:
    strays = ("train/Thumbs.db", "train/Thumbs.jpg", f"../thumbnails/{NAMES[0]}")
    source = server.add("a.tgz", pack(dict.fromkeys(strays, b"x") | FILES, root))
    target = tmp_path / "new/BSDS500"
    console = quiet()
    assert download(target, [source], console) == target
    assert {name: (target / name).read_bytes() for name in tree(target)} == FILES
    assert tree(tmp_path) == {f"new/BSDS500/{name}" for name in NAMES}
    # No bar, no control characters, and long paths stay on one line.
    lines = [bsds500.LICENSE_NOTE, f"downloading {source.url}", f"BSDS500 is in {target}", ""]
    assert shown(console) == "\n".join(lines)


@usual
def test_download_fills_the_cache_where_locate_finds_it(server: Server) -> None:
    source = server.add("a.tgz", pack(FILES))
    folder = download(None, [source], quiet())
    assert folder == bsds500.cache_folder() / "BSDS500"
    assert locate() == Folder.of(folder)


@usual
def test_download_shows_a_bar_on_a_terminal(tmp_path: Path, server: Server) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True, width=100)
    download(tmp_path / "new", [server.add("a.tgz", pack(FILES))], console)
    assert "━━━" in shown(console)


@usual
def test_a_copy_is_verified_not_downloaded_again(tmp_path: Path, server: Server) -> None:
    source = server.add("a.tgz", pack(FILES))
    for _ in range(2):
        assert download(tmp_path / "new", [source], quiet()) == tmp_path / "new"
    assert server.asked == ["a.tgz"]
    (tmp_path / "new" / NAMES[0]).write_bytes(b"x")
    with pytest.raises(UserError, match=NAMES[0]):
        download(tmp_path / "new", [source], quiet())


@usual
def test_download_leaves_other_data_alone(tmp_path: Path, server: Server) -> None:
    source = server.add("a.tgz", pack(FILES))
    make(tmp_path, ["folder/mine.txt", "file"])
    for target in ("folder", "file"):
        with pytest.raises(UserError, match=rf"{target} is not BSDS500"):
            download(tmp_path / target, [source], quiet())
    with pytest.raises(DownloadError, match="cannot be written to"):
        download(tmp_path / "file/below", [source], quiet())
    assert tree(tmp_path) == {"folder/mine.txt", "file"}


@usual
def test_the_next_source_is_tried(tmp_path: Path, server: Server) -> None:
    sources = [
        Source(f"http://127.0.0.1:{server.port}/missing"),
        server.add("page", b"<html>Please log in to this network</html>"),
        server.add("a.tgz", pack(FILES)),
        server.add("not needed", b""),
    ]
    console = quiet()
    download(tmp_path / "new", sources, console)
    assert server.asked == ["missing", "page", "a.tgz"]
    assert "127.0.0.1: HTTP 404 Not Found\n" in shown(console)
    assert "127.0.0.1: damaged archive: Not a gzipped file" in shown(console)


def refused(tmp_path: Path, source: Source, reason: str, timeout_s: float = 15) -> None:
    """Assert that a download fails in one line, for a reason, and leaves nothing."""
    before = set(tmp_path.rglob("*"))
    with pytest.raises(DownloadError, match=reason) as caught:
        download(tmp_path / "new", [source], quiet(), timeout_s)
    assert "\n" not in str(caught.value)
    assert set(tmp_path.rglob("*")) == before


@usual
def test_altered_and_missing_files_are_refused(tmp_path: Path, server: Server) -> None:
    altered = FILES | {NAMES[3]: bytes(3000)}
    lacking = {name: content for name, content in FILES.items() if name != NAMES[5]}
    refused(tmp_path, server.add("a", pack(altered)), f"altered files, {NAMES[3]}\\)")
    refused(tmp_path, server.add("b", pack(lacking)), f"altered files, {NAMES[5]}\\)")
    refused(tmp_path, server.add("c", pack({})), "and 9 more")


@usual
def test_broken_transfers_are_refused(tmp_path: Path, server: Server) -> None:
    body = pack(FILES)
    size = len(body)
    cut = server.route("cut", lambda request: send(request, body[:-500], size))
    refused(tmp_path, cut, f"sent {size - 500:,} of {size:,} bytes")
    silent = server.route("silent", lambda request: send(request, body[:-500], None))
    refused(tmp_path, silent, "damaged archive: Compressed file ended")
    fixed = Source(silent.url, size)
    refused(tmp_path, fixed, f"sent {size - 500:,} of {size:,} bytes")
    replaced = Source(server.add("a", body).url, size - 1)
    refused(tmp_path, replaced, f"sent more than {size - 1:,} bytes")


@usual
def test_endless_answers_are_cut_off(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bsds500, "_ARCHIVE_BYTES", 1000)
    unsized = server.route("a", lambda request: send(request, pack(FILES), None))
    refused(tmp_path, unsized, "sent more than 1,000 bytes")
    monkeypatch.setattr(bsds500, "_TOTAL_S", 0.1)
    refused(tmp_path, server.route("b", server.drip), "took longer than 0.1 s")


@usual
def test_silent_and_absent_servers_fail_soon(tmp_path: Path, server: Server) -> None:
    start = time.monotonic()
    refused(tmp_path, server.route("a", server.stall), "127.0.0.1: timed out", timeout_s=0.1)
    mute = server.route("b", lambda _: server.closing.wait(30))
    refused(tmp_path, mute, "127.0.0.1: timed out", timeout_s=0.1)
    refused(tmp_path, Source("http://127.0.0.1:1/"), "127.0.0.1: Connection refused")
    assert time.monotonic() - start < 10


@usual
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
        # The real file that follows is written as a file, not through the link.
        download(tmp_path / "new", [server.add("b", pack(FILES, first=link))], quiet())
        assert not (tmp_path / "new" / NAMES[0]).is_symlink()
        assert outside.read_bytes() == b""
        shutil.rmtree(tmp_path / "new")
        alone = {name: FILES[name] for name in NAMES[1:]}
        refused(tmp_path, server.add("c", pack(alone, first=link)), f"altered files, {NAMES[0]}")


@usual
def test_oversize_members_and_bombs_are_not_read(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bsds500, "_EXPANDED_BYTES", 100_000)
    large = tarfile.TarInfo(f"BSR/images/{NAMES[0]}")
    large.size = 5_000_000
    refused(tmp_path, server.add("a", pack(FILES, first=large)), f"a {NAMES[0]} that is too large")
    bomb = tarfile.TarInfo("BSR/zeros")
    bomb.size = 5_000_000
    refused(tmp_path, server.add("b", pack(FILES, first=bomb)), "expands to more than 100,000 by")
    named = tarfile.TarInfo("x" * 5_000_000)  # its name alone is the bomb
    refused(tmp_path, server.add("c", pack(FILES, first=named)), "expands to more than 100,000 by")


@usual
@pytest.mark.parametrize("stage", ["_receive", "_unpack", "_differing", "_publish"])
def test_an_interruption_leaves_nothing(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    original = getattr(bsds500, stage)

    def interrupted(*args: object) -> None:
        if stage != "_publish":
            original(*args)
        assert tree(tmp_path)  # there is work to be lost
        raise KeyboardInterrupt

    monkeypatch.setattr(bsds500, stage, interrupted)
    with pytest.raises(KeyboardInterrupt):
        download(tmp_path / "new", [server.add("a.tgz", pack(FILES))], quiet())
    assert not list(tmp_path.iterdir())


@usual
def test_the_next_download_cleans_up_after_a_killed_one(tmp_path: Path, server: Server) -> None:
    stalled = server.route("stalled", server.stall)
    (tmp_path / "entries.json").write_text(json.dumps(bsds500.manifest()))
    program = """if True:
        import json, pathlib, sys
        from raydae.images import bsds500
        text = pathlib.Path("entries.json").read_text()
        entries = {name: bsds500.Entry(*entry) for name, entry in json.loads(text).items()}
        bsds500.manifest = lambda: entries
        bsds500.download(pathlib.Path("place/new"), [bsds500.Source(sys.argv[1])])
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
    (left,) = (tmp_path / "place").iterdir()  # no target, but the dead one's folder
    download(tmp_path / "place/new", [server.add("a.tgz", pack(FILES))], quiet())
    assert not left.exists()
    assert [path.name for path in (tmp_path / "place").iterdir()] == ["new"]


@usual
def test_two_downloads_at_once_both_end_well(tmp_path: Path, server: Server) -> None:
    both = threading.Barrier(2)  # neither is answered before both have asked

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


@usual
def test_cleaning_up_spares_the_living(tmp_path: Path, server: Server) -> None:
    source = server.add("a.tgz", pack(FILES))
    others = tmp_path / ".new.part-without-lock"  # just made, or on a system without locks
    others.mkdir()
    with bsds500._workspace(tmp_path / "new") as work:
        download(tmp_path / "new", [source], quiet())
        assert work.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"new", others.name}
