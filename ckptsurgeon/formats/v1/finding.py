"""Recognises V1 checkpoints: one file, or several whose names share a prefix."""

from __future__ import annotations

import os

from ...errors import DamagedError
from ...source import is_file, is_folder, open_source
from ..tensorflow.sstable import MAGIC

_TAIL = len("-00000-of-00000")


def locate(path: str) -> tuple[str, list[str]] | None:
    """Find the V1 checkpoint with exactly this path, or the set of files with this prefix.

    Returns:
        The checkpoint's path and its files; None if there is no V1 checkpoint.

    Raises:
        DamagedError: some files of a set are missing.
    """
    shard = _shard(path)
    if is_file(path):
        if path.endswith(".index") or not _is_table(path):
            return None
        return _shards(*shard) if shard else (path, [path])
    if shard:
        return _shards(*shard) if "?" in path[-_TAIL:] else None
    return _sharded(path)


def _shard(path: str) -> tuple[str, int] | None:
    """The prefix and the number of files, for one file of a set or, with `?`, the whole set; None for other names."""
    stem, tail = path[:-_TAIL], path[-_TAIL:]
    number, count = tail[1:6], tail[10:]
    if not stem or tail != f"-{number}-of-{count}" or not count.isdecimal():
        return None
    return (stem, int(count)) if number.isdecimal() or number == "?????" else None


def _shards(stem: str, count: int) -> tuple[str, list[str]] | None:
    paths = [f"{stem}-{shard:05d}-of-{count:05d}" for shard in range(count)]
    missing = [path for path in paths if not is_file(path)]
    if not paths or len(missing) == len(paths):
        return None
    if missing:
        raise DamagedError(f"a file of the checkpoint is missing: {missing[0]}", path=stem, expected=f"{count} files")
    return stem, paths


def _sharded(stem: str) -> tuple[str, list[str]] | None:
    """Return the V1 checkpoint whose files have the prefix `stem`, if there is exactly one."""
    folder, base = os.path.split(stem)
    if not base or not is_folder(folder or "."):
        return None
    files = [_shard(name) for name in os.listdir(folder or ".") if name.startswith(base) and "?" not in name[-_TAIL:]]
    counts = {file[1] for file in files if file and file[0] == base}
    return _shards(stem, counts.pop()) if len(counts) == 1 else None


def _is_table(path: str) -> bool:
    with open_source(path) as file:
        return file.read(max(0, file.size - len(MAGIC)), len(MAGIC)) == MAGIC
