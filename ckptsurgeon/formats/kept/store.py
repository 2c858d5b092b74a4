"""Keeps the versions of a checkpoint that operations in place replace, by hard links, until `undo` brings them back.

    FOLDER/.ckptsurgeon/MAIN/<n>/       links to all files of the checkpoint, under their own names
    FOLDER/.ckptsurgeon/MAIN/<n>.json   the record: what replaced them, and how to recognise what took their place

MAIN is the name of the checkpoint's main file. The versions are a stack; the highest number is the newest.

The record is written last, just before the rename that commits the operation. It holds the identity (inode, size, time
of modification) of the file that is replaced, in `before`, and of the one that takes its place, in `after`. So whatever
a killed process leaves can be identified without a step after the commit:

    links without a record             the operation was not committed: removed
    the file at its place is `before`  not committed, or already brought back: removed
    the file at its place is `after`   committed and not changed since: can be undone
    any other file at its place        another program saved since

All functions that write expect the caller to hold the checkpoint's lock.
"""

from __future__ import annotations

import contextlib
import os

from ...errors import ChangedError, CkptSurgeonError, RefusedError, files
from ...publish import KEPT, NO_LINKS, fsync_all, remove
from .record import RECORD, Version, identity, is_real_folder, read

_TRIES = 10

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from ...publish import Lock


class Store:
    """The kept versions of one checkpoint.

    Args:
        main_file: the checkpoint's main file.
    """

    def __init__(self, main_file: str) -> None:
        self._home, name = os.path.split(main_file)
        self._folders = [os.path.join(self._home, KEPT)]
        self._folders.append(os.path.join(self._folders[0], name))
        self.folder = self._folders[-1]

    def versions(self) -> list[Version]:
        """All kept versions with a record, the oldest first.

        Raises:
            DamagedError: a record is invalid.
        """
        return [read(os.path.join(self.folder, str(number))) for number in self._numbers(RECORD)]

    def present(self, version: Version) -> list[int] | None:
        """Identity of the file that now has the place of a version's `file`; None if there is none."""
        try:
            return identity(os.stat(os.path.join(self._home, version.file)))
        except OSError:
            return None

    def heal(self) -> None:
        """Remove what killed processes left: links without a record, and versions that were never replaced."""
        with contextlib.suppress(OSError, CkptSurgeonError):
            for version in reversed(self.versions()):
                if self.present(version) not in version.before:
                    break
                self.remove(version)
        with contextlib.suppress(OSError):
            for number in set(self._numbers("")) - set(self._numbers(RECORD)):
                _remove_folder(os.path.join(self.folder, str(number)))
            for name in os.listdir(self.folder) if all(map(is_real_folder, self._folders)) else ():
                if name.endswith(".ckptsurgeon-tmp"):
                    remove(os.path.join(self.folder, name))
        self._remove_empty()

    def new_folder(self) -> str:
        """Make the folder for the next version.

        Raises:
            RefusedError: something else has the name of one of our folders.
            StorageError: the operating system refused.
        """
        with files(self.folder):
            for _ in range(_TRIES):  # operations on other checkpoints of the folder remove it when they leave it empty
                try:
                    return self._new_folder()
                except FileNotFoundError:
                    if not is_real_folder(self._home or "."):
                        raise
            return self._new_folder()

    def _new_folder(self) -> str:
        for path in self._folders:
            try:
                os.mkdir(path)
            except FileExistsError:
                if os.path.lexists(path) and not is_real_folder(path):
                    what = "is not a folder, so no version can be kept in it"
                    raise RefusedError(what, path=path, hint="leave --backup out, or remove it") from None
        number = max([0, *self._numbers(""), *self._numbers(RECORD)]) + 1
        path = os.path.join(self.folder, str(number))
        os.mkdir(path)
        return path

    def sync(self, version: Version) -> None:
        """Wait until a version's files, and all folders on the way to them, are on the disk."""
        paths = [os.path.join(version.folder, name) for name in version.sizes]
        with files(version.folder):
            fsync_all([*paths, version.folder, *reversed(self._folders), self._home or "."])

    def size(self) -> int:
        """Bytes that the removal of all versions would give back: those of files that have no other name."""
        names: dict[tuple[int, int], list[int]] = {}  # by device and inode: number of links, size, our names
        for number in self._numbers(""):
            folder = os.path.join(self.folder, str(number))
            for name in os.listdir(folder) if is_real_folder(folder) else ():
                status = os.lstat(os.path.join(folder, name))
                found = names.setdefault((status.st_dev, status.st_ino), [status.st_nlink, status.st_size, 0])
                found[2] += 1
        return sum(size for links, size, ours in names.values() if links == ours)

    def remove(self, version: Version) -> None:
        """Remove a version, its record first.

        Raises:
            OSError: the operating system refused.
        """
        remove(version.record)
        _remove_folder(version.folder)
        self._remove_empty()

    def forget(self) -> None:
        """Remove all versions.

        Raises:
            StorageError: the operating system refused.
        """
        with files(self.folder):
            for number in self._numbers(RECORD):
                remove(os.path.join(self.folder, f"{number}{RECORD}"))
            for number in self._numbers(""):
                _remove_folder(os.path.join(self.folder, str(number)))
        self.heal()

    def _numbers(self, ending: str) -> list[int]:
        """The numbers of the folders (ending "") or records there are, in ascending order."""
        if not all(map(is_real_folder, self._folders)):
            return []
        names = os.listdir(self.folder)
        stems = [name.removesuffix(ending) for name in names if name.endswith(ending)]
        return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit() and len(stem) < 10)

    def _remove_empty(self) -> None:
        with contextlib.suppress(OSError):  # not empty: other versions, or those of other checkpoints
            for path in reversed(self._folders):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(path)


class Keeping:
    """Keeps the present version while a block replaces it; after a block that commits nothing, nothing is kept.

    Args:
        paths: all files of the checkpoint; those that are missing are left out.
        lock: on the main file.
        version: without files yet.
        sync: wait until everything is on the disk.

    Raises:
        RefusedError: the file system has no hard links.
    """

    def __init__(self, store: Store, paths: Iterable[str], lock: Lock, version: Version, sync: bool) -> None:
        self._store = store
        self._version = version
        self._sync = sync
        self._lock = lock
        try:
            for path in paths:
                self._link(path)
            if sync:
                store.sync(version)
        except BaseException:
            self._discard()
            raise

    def _link(self, path: str) -> None:
        name = os.path.basename(path)
        kept = os.path.join(self._version.folder, name)
        with files(path):
            try:
                os.link(os.path.realpath(path), kept)
            except FileNotFoundError:
                if os.path.lexists(path):
                    raise ChangedError("was replaced while it was read; try again", path=path) from None
                return
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                what = f"--backup cannot keep it by a hard link: {(error.strerror or '').lower()}"
                raise RefusedError(what, path=path, hint="leave --backup out, or use -o OUT") from None
            self._version.sizes[name] = identity(os.lstat(kept))[1:]

    def __enter__(self) -> None:
        self._lock.before_replace = self._record

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.before_replace = None
        version = self._version
        if not version.after or (error is not None and self._store.present(version) not in version.after):
            self._discard()

    def _record(self, lock: Lock, successor: os.stat_result) -> None:
        """Write the record, just before a commit; some operations commit twice."""
        version = self._version
        if not version.file:
            version.file = os.path.basename(lock.path)
            version.before = [identity(os.fstat(lock.fd))]
            if not os.path.samestat(os.lstat(version.kept_file), lock.status):
                raise ChangedError("was replaced while it was read; try again", path=lock.path)
        version.after.append(identity(successor))
        version.write(self._sync)

    def _discard(self) -> None:
        """Remove the version, unless its number went to another process, which saved and locked what we had locked."""
        with contextlib.suppress(OSError):  # the next writer removes it
            main = os.path.join(self._version.folder, os.path.basename(self._lock.path))
            if not os.path.lexists(main) or os.path.samestat(os.lstat(main), self._lock.status):
                self._store.remove(self._version)


def _remove_folder(path: str) -> None:
    """Remove a folder of links, which holds no folders; a symbolic link to one is left alone."""
    if is_real_folder(path):
        for name in os.listdir(path):
            remove(os.path.join(path, name))
        os.rmdir(path)
