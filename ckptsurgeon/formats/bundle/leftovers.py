"""Data files next to a prefix that its index does not name: left by a crash, or superseded by a later save."""

from __future__ import annotations

import os

from ...lean import suppress
from ...publish import remove

_COPY = ".ckptsurgeon-tmp.copy-"


def shard_files(prefix: str) -> list[tuple[str, int, os.stat_result]]:
    """Return the data files next to a prefix, of any index: path, number of shards in the name, status."""
    folder, base = os.path.split(prefix)
    start = f"{base}.data-"
    found = []
    for name in sorted(os.listdir(folder or ".")):
        number, _, count = name[len(start) :].partition("-of-")
        if name.startswith(start) and all(each.isdecimal() and len(each) >= 5 for each in (number, count)):
            path = os.path.join(folder, name)
            try:
                found.append((path, int(count), os.stat(path)))
            except FileNotFoundError:
                continue
    return found


def copy_path(prefix: str, shard: int) -> str:
    """Return the name under which a shard of a copy is staged; all writers of the prefix use it, under one lock."""
    return f"{prefix}{_COPY}{shard:05d}"


def copies(prefix: str) -> list[str]:
    """Return the staged shards of copies next to a prefix."""
    folder, base = os.path.split(prefix)
    names = [name for name in os.listdir(folder or ".") if name.startswith(base + _COPY)]
    return [os.path.join(folder, name) for name in sorted(names)]


def recover(prefix: str, present: int, data_path: str) -> None:
    """Remove what a crashed publication left behind: staged copies, and shards of another number that are our links.

    Those links are recognised by the file that they link to, a live shard or the staged data, whose names are removed
    last. An empty file next to such a link only filled up the number of shards. The caller holds the lock.
    """
    for path in copies(prefix):
        remove(path)
    standing = shard_files(prefix)
    ours = [status for _, number, status in standing if number == present]
    with suppress(FileNotFoundError):
        ours.append(os.lstat(data_path))
    for number in {number for _, number, _ in standing} - {present}:
        group = [(path, status) for path, other, status in standing if other == number]
        if any(is_one_of(status, ours) for _, status in group):
            for path, status in group:
                if is_one_of(status, ours) or status.st_size == 0:
                    remove(path, only=status)


def sweep(prefix: str, count: int, replaced: os.stat_result, ours: list[os.stat_result]) -> list[str]:
    """Remove shards of other numbers: the old names of linked files, and files that a later save superseded.

    A file younger than the replaced index may belong to a save in progress, whatever its number. The caller holds the
    lock.

    Args:
        prefix: of the bundle.
        count: its number of shards.
        replaced: status of the index that was, or is to be, replaced.
        ours: statuses of its shards.

    Returns:
        A warning if a file was left alone.
    """
    warnings: list[str] = []
    for path, number, status in shard_files(prefix):
        if number == count:
            continue
        if is_one_of(status, ours) or status.st_mtime_ns <= replaced.st_mtime_ns:
            remove(path, only=status)
        elif not warnings:
            warnings.append(f"{path}: younger than the checkpoint, perhaps a save under way; left alone")
    return warnings


def is_one_of(status: os.stat_result, others: list[os.stat_result]) -> bool:
    """Whether a status is that of one of several files."""
    return any(os.path.samestat(status, other) for other in others)
