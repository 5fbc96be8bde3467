"""--out: a file for a command's results, checked before the work begins."""

import contextlib
import secrets
from dataclasses import dataclass

import pyarrow as pa

from raydae.core.errors import UserError, first_line
from raydae.core.storage import Folder, split_path


@dataclass(frozen=True)
class OutputFile:
    """A file for a command's results."""

    folder: Folder
    name: str

    @classmethod
    def of(cls, path: str, *suffixes: str) -> "OutputFile":
        """Return the file at a path that can be written; write nothing yet.

        Args:
            path: local path or URI.
            suffixes: the name must end in one of these.

        Raises:
            UserError: the name has another suffix, or the file cannot be written.
        """
        folder, name = split_path(path)
        if not name.endswith(suffixes):
            raise UserError(f"--out {path}: the name must end in {' or '.join(suffixes)}")
        if folder.local is not None and (folder.local / name).is_dir():
            raise UserError(f"--out {path} is a folder; give a file")
        check_writable(folder, path)
        return cls(folder, name)

    def write(self, text: str) -> None:
        """Write the file, whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self.folder.write(self.name, text.encode(errors="surrogateescape"))
        except (OSError, pa.ArrowInvalid) as error:
            path = self.folder.path_of(self.name)
            raise UserError(f"--out {path} cannot be written: {first_line(error)}") from None


def check_writable(folder: Folder, path: str) -> None:
    """Check that files can be written to a folder, which need not exist; leave nothing there.

    Args:
        folder: where the files will go.
        path: how the user gave it, for the message.

    Raises:
        UserError: it cannot be written.
    """
    if folder.local is not None:  # missing folders are made in the nearest one that exists
        folder = Folder.of(next(p for p in (folder.local, *folder.local.parents) if p.exists()))
    name = f".raydae-{secrets.token_hex(8)}"
    try:
        folder.write(name, b"")
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"--out {path} cannot be written: {first_line(error)}") from None
    with contextlib.suppress(OSError):  # permission to write may come without that to delete
        folder.delete(name)
