"""Reads `.keras` files: zip files with the model's config and its weights in HDF5.

Uncompressed members, as Keras writes them, are read in place; a compressed one is first unpacked to an unnamed file.
config.json is only data: it gives the order of the layers, and nothing in it is instantiated or called. `writing.py` is
the counterpart.
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
INDEX, _PICKLED = "model.weights.json", "model.weights.npz"
_MOST_CONFIG = 32 << 20  # bytes
# A compressed member may expand to _FLOOR bytes, or _RATIO times its compressed size if that is more.
_FLOOR = 32 << 20
_RATIO = 100


class KerasZip(Hdf5):
    """A Keras file, open for reading.

    Args:
        path: of the file.
        files: a list of just that path.

    Raises:
        NotFoundError, DamagedError, UnsupportedError: as `Hdf5`.

    Attributes:
        members: of the zip file.
        weights: the HDF5 members, in order.
        comment: of the zip file.
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
            for member in self.members:
                if _escapes(member.text):
                    what = "a zip member whose name leads out of its folder"
                    raise DamagedError(what, found=member.text[:200])
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
        if INDEX in known:
            names = shard_names(self._text(known[INDEX]))
            missing = next((name for name in names if name not in known), None)
            if missing is not None:
                raise DamagedError(f"damaged: the index names {missing[:200]}, which is not in the file")
            return [known[name] for name in names]
        if _PICKLED in known:
            what = "a Keras file whose weights are pickled arrays, which are never loaded"
            raise UnsupportedError(what, hint="save it again with a recent version of Keras")
        raise DamagedError("a Keras file without weights", expected=WEIGHTS)

    def _text(self, member: ZipMember) -> bytes:
        """Return the bytes of a small member."""
        if member.size > _MOST_CONFIG:
            what = f"{member.text[:200]} is too large"
            raise UnsupportedError(what, expected=f"at most {_MOST_CONFIG} bytes", found=member.size)
        return b"".join(zipped.unpacked(self.bytes_at, member))

    def _part(self, member: ZipMember) -> FileRange:
        if member.method == zipped.STORED:
            return FileRange(self.main_file, local(self.file(self.main_file)).fd, member.data, member.size)
        if member.size > max(_FLOOR, _RATIO * member.packed):
            what = f"{member.text} is compressed more than {_RATIO}-fold"
            raise UnsupportedError(what, found=f"{member.size} bytes from {member.packed}")
        import tempfile

        with tempfile.TemporaryFile() as spool:
            for chunk in zipped.unpacked(self.bytes_at, member):
                write_all(spool.fileno(), chunk)
            fd = os.dup(spool.fileno())
        name = f"{self.main_file}/{member.text}"  # not a real path, but a key for the descriptor
        self._open_files[name] = LocalFile(name, fd)
        return FileRange(name, fd, 0, member.size)

    def file(self, path: str) -> Source:
        """As `Checkpoint.file`, also for unpacked members."""
        if path != self.main_file and path not in self._open_files:
            for part, member in zip(self.parts, self.weights, strict=True):
                if part.file == path:
                    part.fd = self._part(member).fd
        return super().file(path)

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Return bytes of the zip file; fewer at its end."""
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
    """Parse a config as JSON; None if it is invalid."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _escapes(name: str) -> bool:
    """Whether a member would be unpacked outside its folder. Keras unpacks assets; here nothing is unpacked."""
    return name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")


def shard_names(text: bytes) -> list[str]:
    """Return the files of a set in order, as listed in its index.

    Raises:
        DamagedError: the text is not such an index, or names files outside its folder.
    """
    index = parsed(text)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise DamagedError("damaged: not a weights index", expected="a weight_map")
    found: set[str] = set()
    for each in weights.values():
        for name in each if isinstance(each, list) else [each]:
            if not isinstance(name, str) or not name.endswith(".h5") or "/" in name or "\\" in name or "\0" in name:
                raise DamagedError("damaged: the index names a file outside its folder", found=str(name)[:200])
            found.add(name)
    return sorted(found)


def is_keras(names: set[str]) -> bool:
    """Return whether a zip file with members of these names is a Keras file."""
    return CONFIG in names and any(name.startswith("model.weights") for name in names)
