"""A folder on this machine or behind a URI (s3://, gs://), where every write is whole or absent."""

import errno
import os
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote

import pyarrow as pa
from pyarrow import fs

from raydae.core.errors import UserError


@dataclass(frozen=True)
class Folder:
    """A folder on any file system that pyarrow knows. Missing folders are made on writing.

    A reader never sees half a file: a local file is written under another name, flushed to the
    disk and renamed; an object store shows an object only once it is complete.
    """

    uri: str

    @classmethod
    def of(cls, path: str | Path) -> "Folder":
        """The folder at a local path, made absolute, or at a URI; file:// is a local path.

        Raises:
            UserError: a URI that pyarrow does not understand.
        """
        path = local_path(path)
        if "://" not in str(path):
            return cls(str(Path(path).expanduser().absolute()))
        folder = cls(str(path).rstrip("/"))
        try:
            folder._split()
        except (pa.ArrowInvalid, OSError) as error:
            raise UserError(f"{path} is not a URI raydae can use: {first_line(error)}") from None
        return folder

    def __truediv__(self, name: str) -> "Folder":
        return Folder(self.path_of(name))

    def path_of(self, name: str) -> str:
        """The path or URI of something in it."""
        if self.local is not None:
            return f"{self.uri}/{name}"
        head, mark, query = self.uri.partition("?")  # s3://bucket/folder?region=…
        return f"{head}/{quote(name)}{mark}{query}"

    def __str__(self) -> str:
        return self.uri

    @property
    def local(self) -> Path | None:
        """The folder's path, where it is a local one."""
        return None if "://" in self.uri else Path(self.uri)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return PurePosixPath(self.uri.partition("?")[0]).name

    def _split(self) -> tuple[fs.FileSystem, str]:
        if self.local is not None:
            return fs.LocalFileSystem(), self.uri
        filesystem, path = fs.FileSystem.from_uri(self.uri)
        return filesystem, path

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, whole or not at all.

        Raises:
            OSError: it cannot be written; what was there before still is.
        """
        if self.local is None:
            filesystem, path = self._split()
            with filesystem.open_output_stream(f"{path}/{name}") as stream:
                stream.write(data)
            return
        target = self.local / name
        new = [folder for folder in target.parents if not folder.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            for folder in (target.parent, *(folder.parent for folder in new)):
                _flush(folder)
        finally:
            temporary.unlink(missing_ok=True)

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            OSError: it cannot be read; FileNotFoundError where there is none.
        """
        filesystem, path = self._split()
        with filesystem.open_input_stream(f"{path}/{name}", compression=None) as stream:
            data: bytes = stream.read()
        return data

    def written(self, name: str) -> float:
        """When a file was written, in seconds since 1970; 0 where there is none.

        Raises:
            OSError: it cannot be looked at.
        """
        filesystem, path = self._split()
        when = filesystem.get_file_info(f"{path}/{name}").mtime_ns
        return when / 1e9 if when else 0.0

    def files(self, recursive: bool = False) -> list[str]:
        """Names of the files in it, relative and sorted; empty where there is no such folder.

        Raises:
            OSError: it cannot be listed.
        """
        return self._list(fs.FileType.File, recursive)

    def folders(self) -> list[str]:
        """Names of the folders in it, sorted; empty where there is no such folder.

        Raises:
            OSError: it cannot be listed.
        """
        return self._list(fs.FileType.Directory, recursive=False)

    def _list(self, kind: fs.FileType, recursive: bool) -> list[str]:
        filesystem, path = self._split()
        selector = fs.FileSelector(path, allow_not_found=True, recursive=recursive)
        entries = filesystem.get_file_info(selector)
        base = path.rstrip("/") + "/"
        try:
            return sorted(entry.path.removeprefix(base) for entry in entries if entry.type == kind)
        except UnicodeDecodeError as error:
            raise OSError(f"the name {error.object!r} is not UTF-8; rename it") from None

    def delete(self, name: str) -> None:
        """Deletes a folder in it with all it holds, or a file; nothing where there is none.

        Raises:
            OSError: it cannot be deleted.
        """
        filesystem, path = self._split()
        kind = filesystem.get_file_info(f"{path}/{name}").type
        if kind == fs.FileType.Directory:
            filesystem.delete_dir(f"{path}/{name}")
        elif kind == fs.FileType.File:
            filesystem.delete_file(f"{path}/{name}")


def _flush(folder: Path) -> None:
    """Makes the names in a folder outlast a loss of power, on file systems that can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # where folders cannot be flushed
            raise
    finally:
        os.close(descriptor)


def local_path(path: str | Path) -> str | Path:
    """The path that a file:// URI means; anything else as it is."""
    scheme, mark, rest = str(path).partition("://")
    return unquote(rest) if mark and scheme == "file" and rest.startswith("/") else path


def split_path(path: str | Path) -> tuple[Folder, str]:
    """The folder that a path or URI of a file lies in, and the file's name."""
    path = local_path(path)
    if "://" not in str(path):
        local = Path(path).expanduser().absolute()
        return Folder(str(local.parent)), local.name
    head, mark, query = str(path).partition("?")
    parent, _, name = head.rpartition("/")
    return Folder(f"{parent}{mark}{query}"), unquote(name)


def cause_of(error: BaseException) -> BaseException:
    """What was raised in another of Ray's processes, where that is what an error tells of."""
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def first_line(error: BaseException) -> str:
    """An error as one line for the user."""
    error = cause_of(error)
    return (str(error).strip() or type(error).__name__).splitlines()[0]
