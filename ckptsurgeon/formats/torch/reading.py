"""Reads PyTorch's zip files (`torch.save` since 1.6: .pt, .pth, .bin) without executing the pickle in them.

    <archive>/data.pkl      a pickle: dictionaries of tensors, each a view of a storage
    <archive>/data/<key>    the bytes of a storage, not packed
    <archive>/byteorder     `little` or `big`; missing from files before 2.1, which are little-endian

Opening reads the zip file's directory and data.pkl, which `unpickling` turns into records. The variables of a flat
state dict are named by its keys; the keys and indices of nested dictionaries and lists are joined by `/`. Values that
are not tensors (an epoch, a learning rate) are left out. The extent of a tensor in C order holds exactly its values;
the extent of a transposed, expanded or lazily conjugated tensor spans its first to its last element, and `read` puts
the values in order. Checksums are the zip file's, one for each storage.
"""

from __future__ import annotations

from ... import errors
from ...checkpoint import ITEM_SIZE, Extent, Variable
from ...errors import CkptSurgeonError, DamagedError, StorageError, UnsupportedError
from ...source import open_source
from ..files import zipped
from ..files.watched import WatchedFiles
from . import unpickling
from .records import Dict, Tensor

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from ..files.zipped import ZipMember

PICKLE = "data.pkl"
ONLY = "tensor"  # the name of a tensor that was saved without a dictionary around it
_NO_CHECKSUM = 0  # stored for all members after torch.serialization.set_crc32_options(False)
_DEEPEST = 64  # levels of nested dictionaries and lists
_LONGEST_NAME = 1 << 16  # bytes
# Memory in bytes: overhead of each variable, and the allowance for all objects besides the file's size.
_PER_VARIABLE = 420
_SPARE = 96 << 20  # legitimate files may have 100,000 tensors
# Limits the size of an expanded tensor to the larger of _FLOOR bytes and _RATIO times its stored size.
_FLOOR = 32 << 20
_RATIO = 100


def is_archive(path: str) -> bool:
    """Whether a file is a zip file that `torch.save` wrote, by its content; TorchScript files are not."""
    with open_source(path) as file:
        if file.read(0, len(zipped.MAGIC)) != zipped.MAGIC:
            return False
        try:
            directory = zipped.ZipDirectory(file.read, file.size)
        except CkptSurgeonError:
            return False
    return _archive([member.text for member in directory.members]) is not None


def _archive(names: list[str]) -> str | None:
    """The prefix of all member names; None if the members are not those of a PyTorch file."""
    found = [name[: -len(PICKLE)] for name in names if name == PICKLE or name.endswith("/" + PICKLE)]
    if len(found) != 1 or found[0].count("/") > 1:
        return None
    scripted = (f"{found[0]}constants.pkl", f"{found[0]}code/")
    return None if any(name.startswith(scripted) for name in names) else found[0]


class Torch(WatchedFiles):
    """A PyTorch file, open for reading.

    Args:
        path: the name by which the user refers to the file.
        files: a list of one file.

    Raises:
        NotFoundError: no such file.
        DamagedError: it is cut short, or contradicts itself.
        UnsupportedError: its pickle uses opcodes or names that tensors do not need, or the zip file is not supported.

    Attributes:
        tensors: variable's name -> its storage, and the location of its values in the storage.
        members: storage's key -> the zip file's member.
    """

    format = "torch"

    def __init__(self, path: str, files: list[str]) -> None:
        super().__init__(path, files[0])
        self.tensors: dict[str, Tensor] = {}
        self.members: dict[str, ZipMember] = {}
        self._checked: dict[str, DamagedError | None] = {}  # storage's key -> the error; None if intact
        try:
            with errors.files(self.main_file):
                self._open(self.watch(self.main_file).size)
        except UnsupportedError as error:
            self.close()
            from .. import foreign

            error.hint = error.hint or foreign.by_pytorch("", self.main_file).hint
            raise
        except BaseException:
            self.close()
            raise

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Read bytes of the file, fewer at its end."""
        return self.file(self.main_file).read(offset, length) if length > 0 and offset >= 0 else b""

    def _open(self, size: int) -> None:
        members = {member.text: member for member in zipped.ZipDirectory(self.bytes_at, size).members}
        archive = _archive(list(members))
        if archive is None:
            raise UnsupportedError("not a PyTorch file", expected=f"one member {PICKLE}")
        folder = archive + "data/"
        self.members = {text[len(folder) :]: member for text, member in members.items() if text.startswith(folder)}
        order = self._content(members[archive + "byteorder"]) if archive + "byteorder" in members else b"little"
        if order not in (b"little", b"big"):
            raise DamagedError("damaged: invalid byte order", expected="little or big", found=order[:20])
        self.byteorder = order.decode()
        data = self._content(members[archive + PICKLE])
        room = _SPARE + size
        for name, tensor in _tensors(unpickling.load(data, room), len(data)):
            room -= _PER_VARIABLE + 4 * len(name)
            if room < 0:
                raise DamagedError("damaged: far more tensors than the file has room for")
            self._add(name, tensor)

    def _content(self, member: ZipMember) -> bytes:
        """Read all bytes of a member, and verify their checksum."""
        _must_be_stored(member)
        try:
            return b"".join(zipped.unpacked(self.bytes_at, member, member.crc != _NO_CHECKSUM))
        except DamagedError as error:
            error.what += f", of {member.text[:200]}"
            raise

    def _add(self, name: str, tensor: Tensor) -> None:
        if name in self.variables:
            raise DamagedError("damaged: two tensors with the same name", found=name[:200])
        member, storage = self.members.get(tensor.storage.key), tensor.storage
        if member is None:
            if storage.length:
                raise DamagedError("damaged: a storage without its member", found=f"data/{storage.key[:80]}")
            member = zipped.ZipMember("data/" + storage.key)  # an empty member
        _must_be_stored(member)
        if storage.length > member.size:
            what = f"damaged: wrong size of storage {storage.key[:80]}"
            raise DamagedError(what, expected=f"{storage.length} bytes", found=member.size)
        item = ITEM_SIZE[tensor.dtype]
        offset = tensor.offset * item if tensor.size else 0
        extent = Extent(self.main_file, member.data + offset, tensor.span * item, None)
        self.members[storage.key], self.tensors[name] = member, tensor
        self.variables[name] = Variable(name, name.encode(), tensor.dtype, tensor.shape, (extent,))

    # -- Checkpoint

    def is_plain(self, variable: Variable) -> bool:
        """Whether the bytes of a variable's extent are its values: in C order, and neither conjugated nor negated."""
        tensor = self.tensors[variable.name]
        return tensor.is_contiguous and not tensor.conjugate and not tensor.negative

    def payload(self, variable: Variable) -> tuple[Iterator[bytes], str] | None:
        """As `Checkpoint.payload`: tensors that lie in C order."""
        return (self._checked_chunks(variable), self.byteorder) if self.is_plain(variable) else None

    def _checked_chunks(self, variable: Variable) -> Iterator[bytes]:
        key, extent = self.tensors[variable.name].storage.key, variable.extents[0]
        member = self.members[key]
        if extent.length == member.size and key not in self._checked:
            yield from self._content_chunks(key)
            return
        self.check(variable)
        yield from self.chunks(extent)

    def _content_chunks(self, key: str) -> Iterator[bytes]:
        """All bytes of a storage; its checksum is verified before the last chunk, and the result is remembered."""
        try:
            with errors.files(self.main_file):
                member = self.members[key]
                yield from zipped.unpacked(self.bytes_at, member, member.crc != _NO_CHECKSUM)
        except DamagedError as error:
            error.what += f", of storage {key[:80]}"
            self._checked[key] = error
            raise
        self._checked[key] = None

    def check(self, variable: Variable) -> None:
        """As `Checkpoint.check`: the zip file's checksum of the storage; a storage shared by tensors is read once."""
        key = self.tensors[variable.name].storage.key
        if key not in self._checked:
            for _ in self._content_chunks(key):
                pass
        error = self._checked[key]
        if error is not None:
            raise error

    def read(self, name: str) -> NDArray[Any]:
        """As `Checkpoint.read`.

        Raises:
            UnsupportedError: an expanded tensor would take far more memory than its stored bytes.
        """
        variable = self[name]
        tensor, extent = self.tensors[variable.name], variable.extents[0]
        needed = tensor.size * ITEM_SIZE[tensor.dtype]
        if needed > max(_FLOOR, _RATIO * extent.length):
            what = f"{variable.name} is expanded more than {_RATIO}-fold"
            raise UnsupportedError(what, path=self.path, found=f"{needed} bytes from {extent.length}")
        try:
            return self._values(variable, tensor)
        except ValueError as error:
            what = f"{variable.name}: no NumPy array can have its shape"
            raise UnsupportedError(what, path=self.path, found=list(variable.shape)) from error
        except MemoryError as error:
            raise StorageError(f"not enough memory for {variable.name}", path=self.path) from error

    def _values(self, variable: Variable, tensor: Tensor) -> NDArray[Any]:
        import sys

        import numpy as np

        from ... import numeric

        item, kind = ITEM_SIZE[tensor.dtype], numeric.dtype(tensor.dtype)
        stored = np.empty(tensor.span, kind)
        data, at = stored.view(np.uint8), 0
        for chunk in self._checked_chunks(variable):
            data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
            at += len(chunk)
        if self.byteorder != sys.byteorder and item > 1:
            stored.byteswap(inplace=True)
        if tensor.is_contiguous:
            values = stored.reshape(tensor.shape)
        else:
            steps = [step * item if size > 1 else 0 for size, step in zip(tensor.shape, tensor.strides, strict=True)]
            values = np.array(np.ndarray(tensor.shape, kind, stored, 0, steps), order="C")
        if tensor.conjugate:
            np.conjugate(values, out=values)
        if tensor.negative:
            np.negative(values, out=values)
        return values

    def nbytes(self, variable: Variable) -> int | None:
        """As `Checkpoint.nbytes`; for an expanded tensor this exceeds the number of stored bytes."""
        return variable.size * ITEM_SIZE[variable.dtype]


def _must_be_stored(member: ZipMember) -> None:
    if member.method != zipped.STORED:
        what = f"{member.text[:200]} is packed, which PyTorch never does"
        raise UnsupportedError(what, hint="unzip it, and zip it again with 'zip -0 -r'")


def _tensors(root: object, most: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors in an object, with their names; a container is visited once for each path that leads to it.

    Args:
        root: the object that `unpickling.load` returned.
        most: limit on visited objects; without it, lists that repeat the same list could take forever.

    Raises:
        DamagedError: more than `most` objects, or containers that contain themselves or are nested too deeply.
        UnsupportedError: the key of a tensor is neither text nor a number.
    """
    if isinstance(root, Tensor):
        yield ONLY, root
    parents: list[tuple[str | None, Iterator[tuple[object, object]]]] = [("", _items(root))]
    left = most
    while parents:
        prefix, items = parents[-1]
        entry = next(items, None)
        if entry is None:
            parents.pop()
            continue
        left -= 1
        if left < 0:
            raise DamagedError("damaged: dictionaries that hold each other too often")
        key, value = entry
        if not isinstance(value, Tensor | Dict | list | tuple):
            continue
        name = _joined(prefix, key)
        if isinstance(value, Tensor):
            if name is None:
                raise UnsupportedError("a tensor whose key is neither text nor a number")
            yield name, value
        elif len(parents) < _DEEPEST:
            parents.append((None if name is None else name + "/", _items(value)))
        else:
            raise DamagedError(f"damaged: more than {_DEEPEST} dictionaries and lists within each other")


def _joined(prefix: str | None, key: object) -> str | None:
    """The name of the value under a key; None if this key or one above it is neither text nor a number."""
    if type(key) in (int, float, bool):
        key = str(key)
    if prefix is None or not isinstance(key, str):
        return None
    if len(prefix) + len(key) > _LONGEST_NAME:
        raise DamagedError("damaged: impossible length of a name", found=len(prefix) + len(key))
    return prefix + key


def _items(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, Dict):
        return iter(value.items)
    return iter(enumerate(value)) if isinstance(value, list | tuple) else iter(())
