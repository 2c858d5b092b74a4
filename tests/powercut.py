"""Power cuts: what a command writes is recorded, and every state of the disk that POSIX allows afterwards is made.

A file's bytes are on the disk once it was synced; until then it may hold the old bytes, the new ones, a part of them,
or zeros. A folder's entries are on the disk once the folder was synced; until then each of the changes since may be
there or not, in any combination. A rename is one change: it is there as a whole or not at all.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ckptsurgeon import folders

_ALL_SUBSETS = 4  # changes of a folder; of more, the beginnings are tried, and all but one, and one alone


class _Inode:
    """A file: its bytes now, and those that are on the disk."""

    def __init__(self, data: bytes) -> None:
        self.now = bytearray(data)
        self.durable = data
        self.synced = True


class Recorder:
    """A block whose writes below a folder are recorded.

    Args:
        folder: everything in it is on the disk when the block begins.
        chance: with it, only some states are made, at random: many are possible where little is synced.
        share: of the calls after which a state is made then.

    Attributes:
        states: each state that a power cut may leave, as the bytes of all files by name; found while it runs.
        calls: how many calls changed something.
    """

    def __init__(self, folder: Path, chance: random.Random | None = None, share: float = 0.05) -> None:
        self.folder = str(folder)
        self._chance, self._share = chance, share
        self.calls = 0
        self.states: dict[int, dict[str, bytes]] = {}
        self._inodes: dict[int, _Inode] = {}
        self._numbers: dict[str, int] = {}  # name -> number of its file: as the program sees it
        self._durable: dict[str, int] = {}
        self._changes: dict[str, list[tuple[str, ...]]] = {}  # of each folder, since it was synced
        self._fds: dict[int, tuple[str, int]] = {}
        self._originals: dict[str, Any] = {}
        # One call at a time: files are synced in threads, and a number that one thread closes is the next one's file.
        self._calling = threading.RLock()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                status = path.stat()
                self._inodes.setdefault(status.st_ino, _Inode(path.read_bytes()))
                self._numbers[str(path)] = self._durable[str(path)] = status.st_ino
        # Numbers of new files: a disk gives the number of a removed file to the next one, while its name may still be
        # there after a power cut. 0 is no file's: a folder has it.
        self._unused = itertools.count(max(self._inodes, default=0) + 1)

    def __enter__(self) -> Recorder:
        for name in ("open", "write", "pwrite", "ftruncate", "fsync", "link", "replace", "rename", "unlink", "close"):
            self._originals[name] = getattr(os, name)
            setattr(os, name, self._wrapped(name))
        self._renamed = folders._renamed
        folders._renamed = self._noted  # a system call that Python has no function for
        return self

    def __exit__(self, *error: object) -> None:
        for name, original in self._originals.items():
            setattr(os, name, original)
        folders._renamed = self._renamed

    def _noted(self, one: str, other: str, how: int) -> bool:
        assert how == folders._NO_REPLACE, "an exchange is not recorded"
        done = self._renamed(one, other, how)
        if done and self._rename(None, one, other):
            self.calls += 1
            self._collect()
        return done

    def _wrapped(self, name: str) -> Callable[..., Any]:
        original, note = self._originals[name], getattr(self, f"_{name}")

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._calling:
                result = original(*args, **kwargs)
                if note(result, *args):
                    self.calls += 1
                    self._collect()
                return result

        return call

    # -- what each call means; true if the disk may differ now

    def _path(self, path: Any) -> str | None:
        found = os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes) else ""
        return found if found.startswith(self.folder) else None

    def _open(self, fd: int, path: Any, flags: int = 0, *rest: Any) -> bool:
        name = self._path(path)
        if name is None or flags & getattr(os, "O_TMPFILE", 0) == getattr(os, "O_TMPFILE", -1):
            return False
        is_new = flags & os.O_CREAT and name not in self._numbers
        number = next(self._unused) if is_new else self._numbers.get(name, 0)
        self._fds[fd] = name, number
        if not is_new:
            return False
        self._inodes[number] = _Inode(b"")
        return self._add(name, number)

    def _add(self, name: str, number: int) -> bool:
        self._numbers[name] = number
        self._changes.setdefault(os.path.dirname(name), []).append(("add", name, str(number)))
        return True

    def _close(self, result: Any, fd: int) -> bool:
        self._fds.pop(fd, None)
        return False

    def _written(self, fd: int) -> bool:
        found = self._fds.get(fd)
        if found is None or found[1] not in self._inodes:
            return False
        inode, size = self._inodes[found[1]], os.fstat(fd).st_size
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            inode.now = bytearray(file.read(size))
        inode.synced = False
        return True

    def _write(self, count: int, fd: int, data: Any) -> bool:
        return self._written(fd)

    def _pwrite(self, count: int, fd: int, data: Any, at: int) -> bool:
        return self._written(fd)

    def _ftruncate(self, result: Any, fd: int, size: int) -> bool:
        return self._written(fd)

    def _fsync(self, result: Any, fd: int) -> bool:
        found = self._fds.get(fd)
        if found is None:
            return False
        name, number = found
        if number in self._inodes:
            inode = self._inodes[number]
            inode.durable, inode.synced = bytes(inode.now), True
        else:  # a folder
            self._apply(self._durable, self._changes.pop(name, []))
        return True

    def _link(self, result: Any, source: str, path: str, *rest: Any) -> bool:
        name, old = self._path(path), self._path(source)
        return name is not None and old is not None and self._add(name, self._numbers[old])

    def _rename(self, result: Any, source: str, path: str, *rest: Any) -> bool:
        old, name = self._path(source), self._path(path)
        if old is None or name is None:
            return False
        if old in self._numbers:
            number = self._numbers.pop(old)
            self._numbers[name] = number
            self._changes.setdefault(os.path.dirname(name), []).append(("move", name, str(number), old))
        else:  # a folder, with all that is in it
            for each in [each for each in self._numbers if each.startswith(old + os.sep)]:
                self._numbers[name + each[len(old) :]] = self._numbers.pop(each)
            self._changes.setdefault(os.path.dirname(name), []).append(("folder", name, "", old))
        return True

    _replace = _rename

    def _unlink(self, result: Any, path: str, *rest: Any, **more: Any) -> bool:
        name = self._path(path)
        if name is None or name not in self._numbers:
            return False
        del self._numbers[name]
        self._changes.setdefault(os.path.dirname(name), []).append(("remove", name))
        return True

    # -- states

    @staticmethod
    def _apply(entries: dict[str, int], changes: list[tuple[str, ...]]) -> dict[str, int]:
        for kind, name, *rest in changes:
            if kind == "remove":
                entries.pop(name, None)
                continue
            if kind == "folder":
                for each in [each for each in entries if each.startswith(rest[1] + os.sep)]:
                    entries[name + each[len(rest[1]) :]] = entries.pop(each)
                continue
            entries[name] = int(rest[0])
            if kind == "move" and entries.get(rest[1]) == int(rest[0]):
                del entries[rest[1]]
        return entries

    def _collect(self) -> None:
        pending = [(folder, at) for folder, changes in self._changes.items() for at in range(len(changes))]
        if self._chance is not None:
            if self._chance.random() < self._share:
                self._collect_one(pending, self._chance)
            return
        for chosen in _subsets(pending):
            for content in _CONTENTS:
                self._add_state(chosen, lambda content=content: content)

    def _collect_one(self, pending: list[Any], chance: random.Random) -> None:
        likely = chance.random()
        self._add_state({each for each in pending if chance.random() < likely}, lambda: chance.choice(_CONTENTS))

    def _add_state(self, chosen: set[Any], content: Callable[[], Callable[[_Inode], bytes]]) -> None:
        entries = dict(self._durable)
        for folder, changes in self._changes.items():
            self._apply(entries, [change for at, change in enumerate(changes) if (folder, at) in chosen])
        bytes_of = {number: content()(self._inodes[number]) for number in sorted(set(entries.values()))}
        state = {os.path.relpath(name, self.folder): bytes_of[number] for name, number in entries.items()}
        self.states.setdefault(hash(tuple(sorted(state.items()))), state)


def _subsets(pending: list[Any]) -> Iterator[set[Any]]:
    if len(pending) <= _ALL_SUBSETS:
        for count in range(len(pending) + 1):
            yield from map(set, itertools.combinations(pending, count))
        return
    for at in range(len(pending) + 1):
        yield set(pending[:at])
    for each in pending:
        yield set(pending) - {each}
        yield {each}


def _old(inode: _Inode) -> bytes:
    return inode.durable


def _now(inode: _Inode) -> bytes:
    return bytes(inode.now)


def _kept(inode: _Inode) -> int:
    """How many bytes an unsynced write has not touched: what was synced stays where bytes were only appended."""
    return len(inode.durable) if inode.now.startswith(inode.durable) else 0


def _half(inode: _Inode) -> bytes:
    kept = _kept(inode)
    return inode.durable if inode.synced else bytes(inode.now[: kept + (len(inode.now) - kept) // 2])


def _zeros(inode: _Inode) -> bytes:
    kept = _kept(inode)
    return inode.durable if inode.synced else bytes(inode.now[:kept]) + bytes(len(inode.now) - kept)


_CONTENTS = (_old, _now, _half, _zeros)


def make(folder: Path, state: dict[str, bytes]) -> None:
    """Make a folder as a power cut left it."""
    for name, data in state.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
