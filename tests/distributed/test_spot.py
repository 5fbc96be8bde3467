from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from raydae.distributed import spot


class Metadata(ThreadingHTTPServer):
    """What EC2 tells an instance, by version 2 of its protocol."""

    noticed = False


class Handler(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        asked = (
            self.path == "/latest/api/token"
            and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        )
        self.answer(200 if asked else 400, b"secret")

    def do_GET(self) -> None:
        allowed = self.headers["X-aws-ec2-metadata-token"] == "secret"
        known = self.path == "/latest/meta-data/spot/instance-action" and self.server.noticed
        self.answer(401 if not allowed else 200 if known else 404, b'{"action": "terminate"}')

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    with Metadata(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setattr(spot, "METADATA", f"http://127.0.0.1:{server.server_port}/latest")
        yield server
        server.shutdown()
        thread.join()


def test_the_notice_is_seen_when_it_comes(metadata: Metadata) -> None:
    assert not spot.has_notice(spot.METADATA)
    metadata.noticed = True
    assert spot.has_notice(spot.METADATA)


def test_a_machine_that_is_not_of_ec2_gets_no_notice() -> None:
    assert not spot.has_notice("http://127.0.0.1:1/latest")


def test_ray_is_told_until_it_listens(
    metadata: Metadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    (tmp_path / "ray").write_text(
        f'#!/bin/sh\n[ -e {told} ]; no=$?; echo "$@" > {told}; exit $no\n'
    )
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        metadata.noticed = True
        pauses.append(seconds)

    monkeypatch.setattr("raydae.distributed.spot.time.sleep", pause)
    spot.main()
    assert len(pauses) == 2  # once for the notice, once for Ray's first answer
    words = told.read_text()
    assert words.startswith("drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message ")
    assert words.endswith("--deadline-remaining-seconds 120\n")
