"""The record of a kept version: what replaced it, and how to recognise the file that took its place."""

from __future__ import annotations

import json
import os
import stat

from ...errors import DamagedError, NotFoundError, RefusedError, files
from ...publish import write_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

RECORD = ".json"  # ending of a record's name, after the name of the version's folder
_LARGEST = 1 << 28  # bytes of a record, which names every changed variable


def identity(status: os.stat_result) -> list[int]:
    """What is compared to tell whether a file is still the same one, unedited: inode, size, time of modification."""
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def is_real_folder(path: str) -> bool:
    """Whether a path is a folder and not a symbolic link, which could lead to files of others."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False


class Version:
    """A version of a checkpoint that an operation replaced.

    Args:
        folder: of the links.
        time: when it was replaced, in UTC, as ISO 8601.
        verb: the operation that replaced it.
        donor: path of that operation's donor, or None.
        sha256: the donor's fingerprint, or None.
        changes: the action on each variable, its name, and the name of its source or None.

    Attributes:
        file: name of the file over which the operation's result was renamed.
        before: identities of this version's `file`.
        after: identities of the files that took its place.
        sizes: size and time of modification of each kept file, by its name.
    """

    __slots__ = ("after", "before", "changes", "donor", "file", "folder", "sha256", "sizes", "time", "verb")

    def __init__(
        self,
        folder: str,
        time: str,
        verb: str,
        donor: str | None,
        sha256: str | None,
        changes: Sequence[tuple[str, str, str | None]],
    ) -> None:
        self.folder = folder
        self.time = time
        self.verb = verb
        self.donor = donor
        self.sha256 = sha256
        self.changes = changes
        self.file = ""
        self.before: list[list[int]] = []
        self.after: list[list[int]] = []
        self.sizes: dict[str, list[int]] = {}

    @property
    def record(self) -> str:
        """Path of the record."""
        return self.folder + RECORD

    @property
    def kept_file(self) -> str:
        """Path of the kept link to `file`."""
        return os.path.join(self.folder, self.file)

    def write(self, sync: bool) -> None:
        """Write or replace the record.

        Raises:
            StorageError: the operating system refused.
        """
        entry = {name: getattr(self, name) for name in self.__slots__ if name != "folder"}
        write_file(self.record, json.dumps({"v": 1, **entry}, sort_keys=True).encode() + b"\n", sync)

    def check(self, force: bool) -> None:
        """Check that the kept files are still those that were kept.

        Args:
            force: accept files that were edited, but not missing ones.

        Raises:
            NotFoundError, RefusedError: they are not.
        """
        if not is_real_folder(self.folder):
            raise NotFoundError(
                "the kept version is missing", path=self.folder, hint="'undo --forget' removes its record"
            )
        for name, expected in self.sizes.items():
            path = os.path.join(self.folder, name)
            with files(path):
                status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode) or (identity(status)[1:] != expected and not force):
                hint = "--force brings it back as it is"
                raise RefusedError("this kept file was edited after it was kept", path=path, hint=hint)


def read(folder: str) -> Version:
    """Read the record of a version.

    Raises:
        DamagedError: it is not what we write.
    """
    path = folder + RECORD
    with files(path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        with open(fd, "rb") as file:
            data = file.read(_LARGEST + 1)
        try:
            if len(data) > _LARGEST:
                raise ValueError
            return _parsed(folder, json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            hint = "'undo --forget' removes all records"
            raise DamagedError("damaged: not the record of a kept version", hint=hint) from error


def _parsed(folder: str, entry: dict[str, object]) -> Version:
    """A version from its record; ValueError, TypeError or KeyError if it is not what we write."""
    if entry.pop("v") != 1 or entry.keys() != set(Version.__slots__) - {"folder"}:
        raise ValueError
    changes, sizes = entry["changes"], entry["sizes"]
    version = Version(folder, "", "", None, None, [])
    for name in ("time", "verb", "file", "donor", "sha256"):
        value = entry[name]
        if not isinstance(value, str) and (value is not None or name not in ("donor", "sha256")):
            raise TypeError
        setattr(version, name, value)
    if not isinstance(changes, list) or not isinstance(sizes, dict):
        raise TypeError
    for action, name, source in changes:
        if not isinstance(action, str) or not isinstance(name, str) or not isinstance(source, str | None):
            raise TypeError
    version.changes = [(action, name, source) for action, name, source in changes]
    version.before, version.after = (_numbers(entry[name], 3) for name in ("before", "after"))
    version.sizes = dict(zip(sizes, _numbers(list(sizes.values()), 2), strict=True))
    for name in (version.file, *sizes):
        if os.path.basename(name) != name or name in ("", os.curdir, os.pardir) or "\0" in name:
            raise ValueError
    if version.file not in sizes:
        raise ValueError
    return version


def _numbers(rows: object, width: int) -> list[list[int]]:
    if not isinstance(rows, list):
        raise TypeError
    for row in rows:
        if not isinstance(row, list) or len(row) != width or not all(type(number) is int for number in row):
            raise TypeError
    return rows
