"""Folders on this machine or behind a URI (s3://, gs://). Every write is whole or absent."""

import errno
import functools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

from raydae.core import local_files
from raydae.core.errors import UserError, first_line

BUCKETS = ("s3", "gs", "gcs")


@dataclass(frozen=True)
class Folder:
    """A local folder, or one on any file system that pyarrow supports. Writing creates it.

    A reader never sees half a file. A local file is written under a temporary name, flushed to the
    disk and renamed; an object store shows an object only when it is complete.
    """

    uri: str

    @classmethod
    def of(cls, path: str | Path) -> "Folder":
        """Return the folder at a local path, made absolute, or at a URI; file:// is a local path.

        Raises:
            UserError: the path is empty, or pyarrow does not support the URI.
        """
        path = local_path(path)
        if not str(path):
            raise UserError("a path is empty; give a folder, such as . for the current one")
        if "://" not in str(path):
            return cls(str(Path(path).expanduser().absolute()))
        folder = cls(str(path).rstrip("/"))
        try:
            _located(folder.uri)
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(
                f"{path} is not a URI raydae can use ({first_line(error)}); give a local path, or "
                "one such as s3://BUCKET/FOLDER"
            ) from None
        return folder

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.path_of(name))

    def path_of(self, name: str) -> str:
        """Return the path or URI of a file or folder in it."""
        if "://" not in self.uri:  # a listing asks this a hundred thousand times
            return f"{self.uri}/{name}"
        head, mark, query = self.uri.partition("?")  # s3://bucket/folder?region=…
        return f"{head}/{quote(name)}{mark}{query}"

    def sibling(self, name: str) -> "Folder":
        """Return the folder of another name beside it."""
        head, mark, query = self.uri.partition("?")
        parent = head.rpartition("/")[0]
        return Folder(f"{parent}/{name if self.local is not None else quote(name)}{mark}{query}")

    def __str__(self) -> str:
        return self.uri

    @property
    def local(self) -> Path | None:
        """The folder's path if it is local, else none."""
        return None if "://" in self.uri else Path(self.uri)

    @property
    def name(self) -> str:
        """The last part of the path."""
        name = PurePosixPath(self.uri.partition("?")[0]).name
        return name if self.local is not None else unquote(name)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            OSError: it cannot be written; an earlier file of that name is untouched.
        """
        if self.local is not None:
            local_files.write(self.local / name, data)
            return
        filesystem, path = _located(self.uri)
        with filesystem.open_output_stream(f"{path}/{name}") as stream:
            stream.write(data)

    def read(self, name: str) -> bytes:
        """Return the content of a file.

        Raises:
            OSError: it cannot be read; FileNotFoundError if there is none.
        """
        if self.local is not None:
            local_files.check_regular(self.local / name)
            return (self.local / name).read_bytes()
        filesystem, path = _located(self.uri)
        with filesystem.open_input_stream(f"{path}/{name}", compression=None) as stream:
            data: bytes = stream.read()
        return data

    def written(self, name: str) -> float:
        """Return when a file was written, in seconds since 1970; 0 if there is none.

        Raises:
            OSError: the storage cannot be read.
        """
        try:
            return self.stamp(name)[1]
        except FileNotFoundError:
            return 0.0

    def stamp(self, name: str) -> tuple[int, float]:
        """Return a file's size in bytes, and when it was written, in seconds since 1970.

        Raises:
            OSError: the storage cannot be read; FileNotFoundError if there is no such file.
        """
        if self.local is not None:
            return local_files.stamp(self.local / name)
        filesystem, path = _located(self.uri)
        info = filesystem.get_file_info(f"{path}/{name}")
        if info.type != fs.FileType.File:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.path_of(name))
        return info.size, (info.mtime_ns or 0) / 1e9

    def stamps(self, recursive: bool = False) -> dict[str, tuple[int, float]]:
        """Return `stamp` of each of its files by relative name, a thousand in a request.

        The result is empty if there is no such folder.

        Raises:
            OSError: it cannot be listed.
        """
        if self.local is not None:
            return {name: self.stamp(name) for name in self.files(recursive)}
        return {
            name: (entry.size, (entry.mtime_ns or 0) / 1e9)
            for name, entry in self._entries(recursive)
            if entry.type == fs.FileType.File
        }

    def files(self, recursive: bool = False) -> list[str]:
        """Return the relative names of its files, sorted; none if there is no such folder.

        Links are followed. A local name that is not UTF-8 has surrogates, as `os.fsdecode` does.

        Raises:
            OSError: it cannot be listed.
        """
        return self._list(fs.FileType.File, recursive)

    def folders(self) -> list[str]:
        """Return the names of its folders, sorted; none if there is no such folder.

        Raises:
            OSError: it cannot be listed.
        """
        return self._list(fs.FileType.Directory, recursive=False)

    def _list(self, kind: fs.FileType, recursive: bool) -> list[str]:
        if self.local is not None:
            return local_files.names(self.local, kind == fs.FileType.Directory, recursive)
        return sorted(name for name, entry in self._entries(recursive) if entry.type == kind)

    def _entries(self, recursive: bool) -> Iterator[tuple[str, fs.FileInfo]]:
        """Yield what lies behind a URI, each with its relative name."""
        filesystem, path = _located(self.uri)
        selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        base = path.rstrip("/") + "/"
        for entry in filesystem.get_file_info(selector):
            yield entry.path.removeprefix(base), entry

    def exists(self) -> bool:
        """Return whether there is such a folder, or a file of its name.

        Raises:
            OSError: the storage cannot be read.
        """
        if self.local is not None:
            return local_files.exists(self.local)
        filesystem, path = _located(self.uri)
        return bool(filesystem.get_file_info(path).type != fs.FileType.NotFound)

    def copy_to(self, other: "Folder") -> None:
        """Copy everything in it into another folder of the same storage.

        Raises:
            OSError: a file cannot be copied.
        """
        if self.local is not None and other.local is not None:
            shutil.copytree(self.local, other.local, dirs_exist_ok=True)
            return
        filesystem, path = _located(self.uri)
        _, target = _located(other.uri)
        fs.copy_files(path, target, filesystem, filesystem)

    def delete(self, name: str) -> None:
        """Delete a file, or a folder with everything in it; do nothing if there is none.

        Raises:
            OSError: it cannot be deleted.
        """
        if self.local is not None:
            local_files.delete(self.local / name)
            return
        filesystem, path = _located(self.uri)
        kind = filesystem.get_file_info(f"{path}/{name}").type
        if kind == fs.FileType.Directory:
            filesystem.delete_dir(f"{path}/{name}")
        elif kind == fs.FileType.File:
            filesystem.delete_file(f"{path}/{name}")


def _located(uri: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a URI, and the path there."""
    head, _, query = uri.partition("?")
    scheme, _, place = head.partition("://")
    if scheme not in BUCKETS:
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    bucket, _, path = place.partition("/")
    filesystem, root = _filesystem(f"{scheme}://{bucket}{query and '?'}{query}")
    return filesystem, f"{root}/{unquote(path)}".rstrip("/")


@functools.lru_cache(maxsize=64)
def _filesystem(bucket: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of a bucket's URI, whose connections are kept, and the path there."""
    filesystem, path = fs.FileSystem.from_uri(bucket)
    return filesystem, path


def open_parts(folder: Folder, name: str) -> tuple[int, Callable[[int, int], bytes]]:
    """Return the size of a file behind a URI, and what reads a part of it.

    That takes the first byte and the number of bytes, and is thread-safe.

    Raises:
        OSError: it cannot be opened; FileNotFoundError if there is none.
    """
    filesystem, path = _located(folder.uri)
    file = filesystem.open_input_file(f"{path}/{name}")
    return file.size(), lambda first, number: file.read_at(number, first)


def local_path(path: str | Path) -> str | Path:
    """Return the path of a file:// URI; anything else unchanged."""
    scheme, mark, rest = str(path).partition("://")
    return (
        unquote(rest, errors="surrogateescape")
        if mark and scheme == "file" and rest.startswith("/")
        else path
    )


def split_path(path: str | Path) -> tuple[Folder, str]:
    """Return the folder of a file's path or URI, and the file's name."""
    path = local_path(path)
    if "://" not in str(path):
        local = Path(path).expanduser().absolute()
        return Folder(str(local.parent)), local.name
    head, mark, query = str(path).partition("?")
    parent, _, name = head.rpartition("/")
    return Folder(f"{parent}{mark}{query}"), unquote(name)
