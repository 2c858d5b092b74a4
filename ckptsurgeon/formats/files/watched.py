"""Checkpoints of files with bare bytes at known places and no checksums: what is read was there when it was opened.

Whoever replaces such a file while it is read would else mix the old metadata with new values.
"""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import CHUNK, Checkpoint, Extent
from ...errors import ChangedError, CkptSurgeonError, DamagedError, NotFoundError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class WatchedFiles(Checkpoint):
    """A checkpoint that notices when one of its files is replaced."""

    def __init__(self, path: str, main_file: str) -> None:
        super().__init__(path, main_file)
        self._statuses: dict[str, os.stat_result] = {}  # of the files, when they were opened first

    def was_replaced(self) -> bool:
        """As `Checkpoint.was_replaced`, of any of the files."""
        try:
            return not all(os.path.samestat(os.stat(file), status) for file, status in self._statuses.items())
        except OSError:
            return True

    def file(self, path: str) -> int:
        """As `Checkpoint.file`; of a file that was opened before and closed since, the same one.

        Raises:
            ChangedError: it is gone, or another one.
        """
        try:
            fd = super().file(path)
        except NotFoundError as error:
            if path in self._statuses:
                raise ChangedError("was replaced while it was read; try again", path=self.path) from error
            raise
        known = self._statuses.get(path)
        if known is not None and not os.path.samestat(known, os.fstat(fd)):
            raise ChangedError("was replaced while it was read; try again", path=self.path)
        return fd

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """As `Checkpoint.chunks`."""
        fd, at, end = self.file(extent.file), extent.offset, extent.offset + extent.length
        with errors.files(extent.file):
            while at < end:
                chunk = os.pread(fd, min(CHUNK, end - at), at)
                if not chunk:
                    raise self.cut_short(extent, at)
                at += len(chunk)
                yield chunk

    def cut_short(self, extent: Extent, size: int) -> CkptSurgeonError:
        """The error that a file ends before an extent does: because it was replaced, or damaged."""
        if self.was_replaced():
            return ChangedError("was replaced while it was read; try again", path=self.path)
        expected = f"at least {extent.offset + extent.length} bytes"
        return DamagedError("cut short", path=extent.file, expected=expected, found=size)

    def fingerprint(self) -> str:
        """SHA-256 of all files, one after the other, as hexadecimal digits."""
        import hashlib

        digest = hashlib.sha256()
        for file in self._statuses:
            fd, at = self.file(file), 0
            with errors.files(file):
                while chunk := os.pread(fd, CHUNK, at):
                    digest.update(chunk)
                    at += len(chunk)
        return digest.hexdigest()
