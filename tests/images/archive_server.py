"""A local HTTP server of archives, with some that are faulty."""

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from raydae.images.bsds500_download import Archive

Answer = Callable[[BaseHTTPRequestHandler], object]


class Server:
    """An HTTP server on this machine. A function answers the requests for each path."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.closing = threading.Event()

    def route(self, path: str, answer: Answer) -> Archive:
        self.answers[path] = answer
        return Archive(f"http://127.0.0.1:{self.port}/{path}")

    def add(self, path: str, body: bytes) -> Archive:
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
                with suppress(ConnectionError):  # the client has closed the connection
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


def pack(
    files: dict[str, bytes], root: str = "BSR/BSDS500/data", first: tarfile.TarInfo | None = None
) -> bytes:
    """Return a gzipped tar archive of files, after the member `first` if it is given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        if first:
            tar.addfile(first, io.BytesIO(bytes(first.size)))
        for name, content in files.items():
            member = tarfile.TarInfo(f"{root}/images/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
