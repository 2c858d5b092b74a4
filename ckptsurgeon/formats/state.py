"""The `checkpoint` state file of a folder: which checkpoint is the latest, and which others are kept.

Text-format protobuf (CheckpointState, `tensorflow/python/training/checkpoint_state.proto`), written by Saver and
CheckpointManager. Relative paths are relative to the folder of the file.
"""

from __future__ import annotations

import os
import re

from .. import errors
from ..errors import DamagedError, RefusedError
from ..source import is_file, open_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SIZE = 1 << 20  # bytes; state files written by TensorFlow hold only a few paths
NAME = "checkpoint"
_MAX_PATH = 4096  # characters of a path: operating systems allow no more, and longer ones are slow to resolve

_FIELD = re.compile(
    rb"""\s*(?:\#[^\n]*|(\w+)\s*:\s*(?:((?:"(?:[^"\\\n]|\\.)*"\s*|'(?:[^'\\\n]|\\.)*'\s*)+)|([-+\w.]+)))[;,]?"""
)
_STRING = re.compile(rb""""((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'""")
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|.)", re.DOTALL)
_SHARDS = re.compile(r"(.+)-\?{5}-of-(\d{5})", re.DOTALL)  # all files of a V1 checkpoint
_LETTERS = {b"n": b"\n", b"t": b"\t", b"r": b"\r", b"a": b"\a", b"b": b"\b", b"f": b"\f", b"v": b"\v"}


class State:
    """The content of a state file.

    Attributes:
        all: prefixes of all kept checkpoints, oldest first.
    """

    __slots__ = ("_folder", "_latest", "all")

    def __init__(self, folder: str, latest: str, kept: list[str]) -> None:
        self._folder = folder
        self._latest = latest
        self.all = kept

    @property
    def latest(self) -> str:
        """Prefix of the latest checkpoint, in the folder or below it.

        Raises:
            RefusedError: the checkpoint lies outside the folder. A folder from an untrusted source must not decide
                which of the user's files is opened.
        """
        if not _leaves(self._folder, self._latest):
            return self._latest
        if not _exists(self._latest):
            return os.path.join(self._folder, _base(self._latest))
        raise RefusedError(
            "names a checkpoint outside its folder",
            path=os.path.join(self._folder, NAME),
            found=self._latest,
            hint="if that is meant, name that checkpoint itself",
        )


def read(folder: str) -> State | None:
    """The state of a folder, its paths joined to the folder; None if it has no state file.

    If a path does not exist because the folder was moved, the same name inside the folder is used instead; this also
    holds for paths that Windows wrote. Paths are never treated as patterns.

    Raises:
        DamagedError: the file is not a state file, is too large, or names no checkpoint.
    """
    path = os.path.join(folder, NAME)
    with errors.files(path):
        if not is_file(path):
            return None
        with open_source(path) as file:
            fields = _parse(file.read(0, MAX_SIZE + 1))
    latest = [value for name, value in fields if name == "model_checkpoint_path"]
    if not latest or not latest[-1]:
        raise DamagedError("names no checkpoint", path=path, expected='model_checkpoint_path: "…"')
    if len(latest[-1]) > _MAX_PATH:
        raise DamagedError("names no checkpoint", path=path, expected="a path", found=f"{len(latest[-1])} characters")
    kept = [value for name, value in fields if name == "all_model_checkpoint_paths"]
    return State(folder, _resolve(folder, latest[-1]), [_resolve(folder, value) for value in kept])


def write(folder: str, latest: str, kept: Iterable[str], sync: bool = True) -> list[str]:
    """Write the state file of a folder, with paths relative to it.

    Args:
        folder: the folder.
        latest: prefix of the latest checkpoint.
        kept: prefixes of all kept checkpoints, oldest first.
        sync: wait until the file is on the disk.

    Returns:
        Warnings.

    Raises:
        StorageError: the operating system refused; the old file is unharmed.
    """
    from ..publish import write_file

    lines = [f"model_checkpoint_path: {_quote(folder, latest)}\n"]
    lines += [f"all_model_checkpoint_paths: {_quote(folder, path)}\n" for path in kept]
    warnings: list[str] = []
    write_file(os.path.join(folder, NAME), "".join(lines).encode("utf-8", "surrogateescape"), sync, warnings)
    return warnings


def _parse(text: bytes) -> list[tuple[str, str]]:
    if len(text) > MAX_SIZE:
        raise DamagedError("too large for a state file", expected=f"at most {MAX_SIZE} bytes")
    fields = []
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _FIELD.match(text, at)
        if match is None:
            line = text.count(b"\n", 0, at) + 1
            raise DamagedError(f"not a checkpoint state file (line {line})", expected='lines like name: "value"')
        at = match.end()
        if match[1]:
            value = match[3] or b"".join(_unescape(one or other) for one, other in _STRING.findall(match[2]))
            fields.append((match[1].decode("ascii", "replace"), value.decode("utf-8", "surrogateescape")))
    return fields


def _unescape(text: bytes) -> bytes:
    def plain(match: re.Match[bytes]) -> bytes:
        escape = match[1]
        if escape[:1] in b"xX" and len(escape) > 1:
            return bytes((int(escape[1:], 16),))
        if escape[0] in b"01234567":
            return bytes((int(escape, 8) & 0xFF,))
        return _LETTERS.get(escape, escape)

    return _ESCAPE.sub(plain, text)


def _resolve(folder: str, path: str) -> str:
    whole = os.path.join(folder, path)  # an absolute path stays as it is
    candidates = [whole, os.path.join(folder, path.replace("\\", "/")), os.path.join(folder, _base(path))]
    return next((each for each in candidates if _exists(each)), whole)


def _base(path: str) -> str:
    """The last component of a path of this system or of Windows."""
    return os.path.basename(path.replace("\\", "/"))


def _exists(prefix: str) -> bool:
    if is_file(prefix + ".index") or is_file(prefix):
        return True
    shards = _SHARDS.fullmatch(prefix)
    return shards is not None and is_file(f"{shards[1]}-00000-of-{shards[2]}")


def _leaves(folder: str, prefix: str) -> bool:
    """Whether a checkpoint lies outside a folder, once symbolic links are resolved.

    Symbolic links among the checkpoint's own files are allowed, as everywhere else in the program.
    """
    try:
        there = os.path.realpath(os.path.dirname(prefix))
        home = os.path.realpath(folder)
    except ValueError:  # no file system can store such a path
        return True
    return not (there + os.sep).startswith(home.rstrip(os.sep) + os.sep)


def _quote(folder: str, path: str) -> str:
    relative = os.path.relpath(path, folder)
    return '"' + relative.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
