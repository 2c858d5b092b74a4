"""One publication of a TensorBundle: stage new bytes, then switch from the old set of files to the new one.

A rename replaces one file, but a bundle consists of several. The number of shards is part of every shard's name, so a
new version gets shards under another number next to the old ones. Each is a hard link to a file that exists already: a
shard that stays live, a donor's shard, or the staged new bytes. The rename of the index then switches from all old
files to all new ones, and the old names are removed. In order:

    lock the index to be replaced, and the staged one; remove what a crash left behind
    write the new bytes; link every shard of the new set; write the new index; fsync all of them and the folder
    if another process saved in the meantime, undo; otherwise rename the index (the commit), and fsync the folder
    remove each old name if it still is the file that was linked, and the files that a later save superseded
"""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import CHUNK
from ...errors import BusyError, ChangedError, DamagedError, RefusedError
from ...lean import suppress
from ...publish import (
    NO_LINKS,
    Appender,
    Lock,
    Staging,
    check_size,
    held_signals,
    overtaken,
    remove,
    staging_lock,
    sync_after_commit,
    write_all,
)  # fmt: skip
from ...source import is_taken
from ..tensorflow.sstable_building import TableBuilder
from ..tensorflow.wire import crc32c, mask
from .leftovers import recover, shard_files, sweep
from .rows import Place, header_row
from .shards import shard_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import TracebackType


class LinkSource:
    """A file that a shard of the new set links to.

    Attributes:
        path: its name.
        fd: an open descriptor, by which the link is verified; None for our own staged bytes.
        may_copy: whether the file may be copied if linking fails.
    """

    __slots__ = ("fd", "may_copy", "path")

    def __init__(self, path: str, fd: int | None, may_copy: bool) -> None:
        self.path = path
        self.fd = fd
        self.may_copy = may_copy


class Publication:
    """One publication of a bundle at a prefix: stage new bytes, then commit; undone if its block fails.

    Args:
        prefix: where to publish.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer.
        lock: a lock on the index to be replaced; None if there is no index.
        present: number of shards of that index; 0 if there is no index, or it cannot be read.

    Attributes:
        warnings: messages for the user.
        is_durable: False once a commit could not be synced, so that a power cut may bring back what it replaced.
    """

    def __init__(self, prefix: str, sync: bool, wait: float, lock: Lock | None, present: int = 0) -> None:
        self.prefix = prefix
        self.index_path = prefix + ".index"
        self.lock = lock
        self.warnings: list[str] = []
        self.is_durable = True
        self._present = present
        self._folder = os.path.dirname(prefix) or "."
        self._staging = Staging(sync)
        self._data_path = prefix + ".ckptsurgeon-tmp.data"
        self._index_temporary = prefix + ".ckptsurgeon-tmp.index"
        self._data_fd = -1
        self._data: Appender | None = None
        # The staged index is locked too: this excludes a second writer of a prefix that has no index yet and, after the
        # rename, a writer that arrives before the old names are removed.
        with errors.files(self._folder):
            self._own_lock = staging_lock(self._index_temporary, wait, lock.fd if lock else None)
            self._staging.made(self._index_temporary, self._own_lock.status)
            try:
                if lock is None and is_taken(self.index_path):  # published while we waited for the lock
                    raise self._somebody_saved()
                recover(prefix, present, self._data_path)
                remove(self._data_path)
                self._like = _shard_of(prefix, present) or (lock.fd if lock else None)
            except BaseException:
                self.close(failed=True)
                raise

    def stage(self, chunks: Iterable[bytes], crc: int | None, shard: int) -> Place:
        """Append bytes to the new data, which will become shard number `shard`.

        Args:
            chunks: the bytes.
            crc: their masked checksum, if it is not simply that of the bytes; None: computed here.
            shard: number of the shard in the new set.
        """
        if self._data is None:
            self._data_fd = self._staging.create(self._data_path, self._like)
            self._data = Appender(self._data_fd, self._staging.begin_sync)
        start, computed = self._data.size, 0
        for chunk in chunks:
            try:
                self._data.append(chunk)
            except OSError:
                with errors.files(self._data_path):
                    raise
            if crc is None:
                computed = crc32c(chunk, computed)
        return Place(shard, start, self._data.size - start, mask(computed) if crc is None else crc)

    def commit(
        self, rows: Mapping[bytes, bytes], shards: list[LinkSource], exact: bool = False, index: bytes | None = None
    ) -> list[str]:
        """Publish rows and shards.

        Args:
            rows: the rows of the index; the number of shards in the header is set here.
            shards: what each shard of the new set links to; `staged_data` stands for the staged bytes.
            exact: number the set by its size, in names that no index uses; otherwise by the smallest sufficient number
                that is not the present one and has no files.
            index: the index file made of these rows, to be written unchanged if the number of shards stays the same.

        Returns:
            The paths of the new shards.

        Raises:
            BusyError: another process saved in the meantime; nothing was changed.
            ChangedError: a file to be linked was replaced; start over.
        """
        with errors.files(self._data_path):
            if self._data:
                self._data.flush()
                check_size(self._data_fd, self._data.size)
            self._staging.finish_sync()
        count = len(shards)
        standing = {number for _, number, _ in shard_files(self.prefix)}
        if count in standing and self.lock is None:
            exact = False  # files without an index: perhaps a save under way, and in any case not ours
        if not exact:
            taken = standing | {self._present}
            count = max(count, 1)
            while count in taken:
                count += 1
        paths = [shard_path(self.prefix, shard, count) for shard in range(count)]
        with errors.files(self.prefix):
            for path, source in zip(paths, shards, strict=False):
                self._link(source, path)
            for path in paths[len(shards) :]:
                os.close(self._staging.create(path, self._like))
        self._publish(rows, count, paths, index if exact else None)
        return paths

    def commit_index(self, rows: Mapping[bytes, bytes], index: bytes | None = None) -> None:
        """Publish only rows, or the index file made of them; the shards stay as they are."""
        self._publish(rows, self._present, [], index)

    @property
    def staged_data(self) -> LinkSource:
        """The staged new bytes, in the form that `commit` takes."""
        return LinkSource(self._data_path, None, True)

    @property
    def index_lock(self) -> Lock:
        """The lock on the index that was published."""
        return self._own_lock

    def _publish(self, rows: Mapping[bytes, bytes], count: int, paths: list[str], index: bytes | None = None) -> None:
        self._write_index(index or _index_of(rows, count))
        with errors.files(self.prefix):
            statuses = [os.stat(path) for path in paths]
            for path in paths:
                self._staging.sync(path)
            self._staging.sync(self._folder)
            if self.lock:
                self.lock.announce(os.fstat(self._own_lock.fd))
            same = all(os.path.samestat(os.stat(path), status) for path, status in zip(paths, statuses, strict=True))
        if not same or (not self.lock.holds() if self.lock else is_taken(self.index_path)):
            raise self._somebody_saved()
        replaced = os.fstat(self.lock.fd) if self.lock else None
        with held_signals(), errors.files(self.prefix):
            if self.lock:
                self._staging.rename(self._index_temporary, self.index_path)
            else:
                try:
                    self._staging.put(self._index_temporary, self.index_path)
                except FileExistsError:
                    raise self._somebody_saved() from None
            self._own_lock.path = self.index_path
            self._own_lock.before_replace = self.lock.before_replace if self.lock else None
            self.is_durable = sync_after_commit(self._staging, self.prefix, self.warnings)
            try:
                remove(self._data_path)
                if paths and replaced and self.is_durable:  # otherwise the old index may come back
                    self.warnings += sweep(self.prefix, count, replaced, statuses)
            except OSError as error:  # the result is complete; the next writer removes the leftovers
                self.warnings.append(f"{self.prefix}: written, but not tidied up: {(error.strerror or '').lower()}")

    def _somebody_saved(self) -> BusyError:
        return overtaken(self.prefix)

    def close(self, failed: bool) -> None:
        """Release locks and files; a publication that was not committed leaves nothing behind."""
        with suppress(OSError):  # already reported at the commit
            self._staging.finish_sync()
        if failed:
            self._staging.undo()
        if self._data_fd >= 0:
            with suppress(OSError):  # its size was checked, and it was synced
                os.close(self._data_fd)
        self._own_lock.release()

    def __enter__(self) -> Publication:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)
        errors.files(self.prefix).__exit__(kind, error, trace)  # turns an OSError into a one-line error

    def _link(self, source: LinkSource, path: str) -> None:
        with errors.files(source.path):
            try:
                self._staging.link(source.path, path)
            except FileNotFoundError:
                raise ChangedError("was replaced while it was read; try again", path=source.path) from None
            except FileExistsError:
                raise self._somebody_saved() from None
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                if not source.may_copy:
                    what = f"--link cannot share it with {self._folder}: {(error.strerror or '').lower()}"
                    raise RefusedError(what, path=source.path, hint="leave --link out") from None
                if source.fd is None:
                    self._staging.move(source.path, path)
                else:
                    self._copy(source.fd, path)
                return
            if source.fd is not None and not os.path.samestat(os.stat(path), os.fstat(source.fd)):
                raise ChangedError("was replaced while it was read; try again", path=source.path)

    def _copy(self, fd: int, path: str) -> None:
        copy = self._staging.create(path, fd)
        at = 0
        try:
            while chunk := os.pread(fd, CHUNK, at):
                write_all(copy, chunk)
                at += len(chunk)
        finally:
            os.close(copy)

    def _write_index(self, index: bytes) -> None:
        fd = self._own_lock.fd
        with errors.files(self._index_temporary):
            write_all(fd, index)
            if _all_of(fd) != index:
                raise DamagedError("the staged index is not what was written", hint="nothing was changed")
            if self._staging.sync_wanted:
                os.fsync(fd)


def _index_of(rows: Mapping[bytes, bytes], count: int) -> bytes:
    """Return the index file with these rows and this number of shards."""
    parts: list[bytes] = []
    table = TableBuilder(parts.append)
    table.add(b"", header_row(count, rows[b""]))
    for key in sorted(rows):
        if key:
            table.add(key, rows[key])
    table.finish()
    return b"".join(parts)


def _shard_of(prefix: str, count: int) -> str | None:
    """A data file of a set of this number, whose permissions new ones get; None if there is none."""
    return next((path for path, number, _ in shard_files(prefix) if number == count), None)


def _all_of(fd: int) -> bytes:
    """The bytes of an open file."""
    parts, at = [], 0
    while part := os.pread(fd, CHUNK, at):
        parts.append(part)
        at += len(part)
    return b"".join(parts)
