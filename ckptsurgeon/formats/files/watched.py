"""Checkpoints in files without checksums: detects whether a file was replaced since it was opened.

If such a file were replaced during a read, old metadata would be combined with new values.
"""

from __future__ import annotations

from ... import errors
from ...checkpoint import CHUNK, Checkpoint, Extent
from ...errors import ChangedError, CkptSurgeonError, DamagedError, NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...source import Source


class WatchedFiles(Checkpoint):
    """A checkpoint that detects whether one of its files was replaced."""

    def __init__(self, path: str, main_file: str) -> None:
        super().__init__(path, main_file)
        self._watched: dict[str, Source] = {}  # the files as they were first opened

    def was_replaced(self) -> bool:
        """As `Checkpoint.was_replaced`, for any of the files."""
        return not all(file.is_current() for file in self._watched.values())

    def watch(self, path: str) -> Source:
        """Open a file, and detect from now on whether it is replaced."""
        file = self._watched[path] = self.file(path)
        return file

    def file(self, path: str) -> Source:
        """As `Checkpoint.file`; a file that was closed and is opened again must be the same one.

        Raises:
            ChangedError: the file is gone, or was replaced.
        """
        try:
            file = super().file(path)
        except NotFoundError as error:
            if path in self._watched:
                raise ChangedError("was replaced while it was read; try again", path=self.path) from error
            raise
        known = self._watched.get(path)
        if known is not None and known is not file and known.identity != file.identity:
            raise ChangedError("was replaced while it was read; try again", path=self.path)
        return file

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """As `Checkpoint.chunks`."""
        file, at, end = self.file(extent.file), extent.offset, extent.offset + extent.length
        with errors.files(extent.file):
            while at < end:
                chunk = file.read(at, min(CHUNK, end - at))
                if not chunk:
                    raise self.cut_short(extent, at)
                at += len(chunk)
                yield chunk

    def cut_short(self, extent: Extent, size: int) -> CkptSurgeonError:
        """The error for a file that ends inside an extent: ChangedError if it was replaced, otherwise DamagedError."""
        if self.was_replaced():
            return ChangedError("was replaced while it was read; try again", path=self.path)
        expected = f"at least {extent.offset + extent.length} bytes"
        return DamagedError("cut short", path=extent.file, expected=expected, found=size)

    def fingerprint(self) -> str:
        """SHA-256 of all files in sequence, as hexadecimal digits."""
        import hashlib

        digest = hashlib.sha256()
        for path in self._watched:
            file, at = self.file(path), 0
            with errors.files(path):
                while chunk := file.read(at, CHUNK):
                    digest.update(chunk)
                    at += len(chunk)
        return digest.hexdigest()
