"""Catch what libtiff prints on standard error while Pillow decodes a TIFF with it.

Pillow has no interface to libtiff's errors. Some of them end the decoding with a number ("decoder
error -2"), others only damage the picture. Therefore the process's standard error is a temporary
file while a compressed TIFF is decoded. Whatever else is printed meanwhile is printed afterwards.
Nothing of raydae starts other processes while it decodes pictures; they would inherit that file.
"""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import IO

from PIL import Image

from raydae.images.depth import PixelsError

_MESSAGE = re.compile(r"[A-Za-z_][\w.]*: .*\.")
"""What libtiff's own handler prints: a function or file, and a sentence."""


@contextlib.contextmanager
def watching(image: Image.Image, decode_again: Callable[[], None]) -> Iterator[None]:
    """Refuse a TIFF if libtiff reports errors while the body decodes it.

    Args:
        image: An image that is open and not decoded yet.
        decode_again: Decode it once more. Called if the messages may be those of another thread.

    Raises:
        PixelsError: There are messages; the first is the reason.
    """
    # Pillow's documentation describes `tile`: the name of a decoder is first.
    if not any(tile[0] == "libtiff" for tile in getattr(image, "tile", ())):
        yield
        return
    problem: Exception | None = None
    with _standard_error.watched(alone=False) as watch:
        try:
            yield
        except Exception as error:
            problem = error
    if watch.messages and watch.overlaps:
        with (
            _standard_error.watched(alone=True) as watch,
            contextlib.suppress(Exception),
        ):
            decode_again()
    if watch.messages:
        more = len(watch.messages) - 1
        reason = watch.messages[0].partition(": ")[2].rstrip(".")
        raise PixelsError(
            f"is damaged: {reason}{f', and {more} more errors' if more else ''}"
        ) from problem
    if problem is not None:
        raise problem


class _Watch:
    """What was printed in a time."""

    messages: tuple[str, ...] = ()
    overlaps: bool = False
    """Whether another thread decoded at the same time."""


class _StandardError:
    """Standard error, which is a temporary file while any thread watches it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watches: list[_Watch] = []
        self._is_exclusive = False
        self._file: IO[bytes] | None = None
        self._original = -1

    @contextlib.contextmanager
    def watched(self, alone: bool) -> Iterator[_Watch]:
        """Collect the messages that are printed in the body.

        Args:
            alone: Let no other thread watch meanwhile; its own decoding waits.
        """
        watch = _Watch()
        start = self._begin(watch, alone)
        try:
            yield watch
        finally:
            self._end(watch, start)

    def _begin(self, watch: _Watch, alone: bool) -> int:
        with self._changed:
            self._changed.wait_for(lambda: not self._is_exclusive and not (alone and self._watches))
            # Without standard error, an open file may have its number.
            if not self._watches and sys.__stderr__ is not None:
                with contextlib.suppress(OSError):  # no room for the file
                    self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
                    self._original = os.dup(2)
                    os.dup2(self._file.fileno(), 2)
            for other in self._watches:
                other.overlaps = watch.overlaps = True
            self._watches.append(watch)
            self._is_exclusive = alone
            return len(self._text())

    def _end(self, watch: _Watch, start: int) -> None:
        with self._changed:
            text = self._text()
            watch.messages = tuple(filter(_MESSAGE.fullmatch, _lines(text[start:])))
            self._watches.remove(watch)
            self._is_exclusive = False
            if not self._watches and self._original >= 0:
                os.dup2(self._original, 2)
                os.close(self._original)
                self._original = -1
                others = [line for line in _lines(text) if not _MESSAGE.fullmatch(line)]
                with contextlib.suppress(OSError):  # nobody reads it
                    os.write(2, "".join(f"{line}\n" for line in others).encode())
            if not self._watches and self._file is not None:
                self._file.close()
                self._file = None
            self._changed.notify_all()

    def _text(self) -> bytes:
        if self._file is None:
            return b""
        # Not `read`: it would move the place where the next message is written.
        return os.pread(self._file.fileno(), os.fstat(self._file.fileno()).st_size, 0)


def _lines(text: bytes) -> list[str]:
    return text.decode(errors="replace").splitlines()


_standard_error = _StandardError()
