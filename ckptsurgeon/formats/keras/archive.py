"""Reads Keras's own files, zip files (`.keras`) of the model's config and of its weights in HDF5.

Members that are stored, as Keras does it, are read where they stand; a packed one is unpacked to a nameless file first.
config.json is data here: it tells the order of the layers, and nothing in it is ever made or called. `hdf5_write.py`
is the other half.
"""

from __future__ import annotations

import json
import os

from ... import errors
from ...errors import DamagedError, UnsupportedError
from ...publish import write_all
from ...source import LocalFile, Source, local
from ..files import zipped
from .reading import Hdf5
from .sandbox.pipe import FileRange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Variable
    from ..files.zipped import ZipMember

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_INDEX, _PICKLED = "model.weights.json", "model.weights.npz"
_MOST_CONFIG = 32 << 20  # bytes
# What a packed member may expand to: above this many bytes no more than this many times its size.
_FLOOR = 32 << 20
_RATIO = 100


class KerasZip(Hdf5):
    """A Keras file, open for reading.

    Args:
        path: of the file.
        files: the same alone.

    Raises:
        NotFoundError, DamagedError, UnsupportedError: as `Hdf5`.

    Attributes:
        members: of the zip file.
        weights: those that are HDF5, in order.
        comment: the zip file's.
    """

    format = "keras-zip"

    def _open(self) -> None:
        file = self.main_file
        source = self.watch(file)
        self._sound = False
        self._spooled: dict[str, int] = {}
        with errors.files(file):
            directory = zipped.ZipDirectory(self.bytes_at, source.size)
            self.members, self.comment = directory.members, directory.comment
            known = {member.text: member for member in self.members}
            self.weights = self._weights(known)
            if CONFIG in known:
                self.listing.config = parsed(self._text(known[CONFIG]))
            for member in self.weights:
                self.parts.append(self._part(member))
        self.shards = len(self.parts)

    def _weights(self, known: dict[str, ZipMember]) -> list[ZipMember]:
        if WEIGHTS in known:
            return [known[WEIGHTS]]
        if _INDEX in known:
            names = shard_names(self._text(known[_INDEX]))
            missing = next((name for name in names if name not in known), None)
            if missing is not None:
                raise DamagedError(f"damaged: {missing[:200]}, which its index names, is not in it")
            return [known[name] for name in names]
        if _PICKLED in known:
            what = "a Keras file whose weights are pickled arrays, which are never loaded"
            raise UnsupportedError(what, hint="save it by a recent Keras")
        raise DamagedError("a Keras file without weights", expected=WEIGHTS)

    def _text(self, member: ZipMember) -> bytes:
        """The bytes of a small member."""
        if member.size > _MOST_CONFIG:
            what = f"{member.text[:200]} is far too large"
            raise UnsupportedError(what, expected=f"at most {_MOST_CONFIG} bytes", found=member.size)
        return b"".join(zipped.unpacked(self.bytes_at, member))

    def _part(self, member: ZipMember) -> FileRange:
        if member.method == zipped.STORED:
            return FileRange(self.main_file, local(self.file(self.main_file)).fd, member.data, member.size)
        if member.size > max(_FLOOR, _RATIO * member.packed):
            what = f"{member.text} is packed more than {_RATIO}-fold"
            raise UnsupportedError(what, found=f"{member.size} bytes from {member.packed}")
        import tempfile

        with tempfile.TemporaryFile() as spool:
            for chunk in zipped.unpacked(self.bytes_at, member):
                write_all(spool.fileno(), chunk)
            fd = os.dup(spool.fileno())
        name = f"{self.main_file}/{member.text}"  # no path, but it has a descriptor as if it were one
        self._open_files[name] = LocalFile(name, fd)
        return FileRange(name, fd, 0, member.size)

    def file(self, path: str) -> Source:
        """As `Checkpoint.file`, also of what was unpacked."""
        if path != self.main_file and path not in self._open_files:
            for part, member in zip(self.parts, self.weights, strict=True):
                if part.file == path:
                    part.fd = self._part(member).fd
        return super().file(path)

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Bytes of the zip file, fewer at its end."""
        return self.file(self.main_file).read(offset, length) if length > 0 and offset >= 0 else b""

    def check(self, variable: Variable) -> None:
        """As `Checkpoint.check`: the zip file's checksum of the weights, read once for all of them."""
        if not self._sound:
            with errors.files(self.path):
                for member in self.weights:
                    for _ in zipped.unpacked(self.bytes_at, member):
                        pass
            self._sound = True
        super().check(variable)


def parsed(text: bytes) -> object:
    """A config, as data; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def shard_names(text: bytes) -> list[str]:
    """The files of a set that an index names, in order.

    Raises:
        DamagedError: it is no such index, or names other places than its own folder.
    """
    index = parsed(text)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise DamagedError("damaged: no index of weights", expected="a weight_map")
    found: set[str] = set()
    for each in weights.values():
        for name in each if isinstance(each, list) else [each]:
            if not isinstance(name, str) or not name.endswith(".h5") or "/" in name or "\\" in name or "\0" in name:
                raise DamagedError("damaged: an index that names no file beside it", found=str(name)[:200])
            found.add(name)
    return sorted(found)


def is_keras(names: set[str]) -> bool:
    """Whether a zip file with members of these names is one of Keras's."""
    return CONFIG in names and any(name.startswith("model.weights") for name in names)
