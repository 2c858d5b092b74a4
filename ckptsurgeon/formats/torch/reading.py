"""Reads PyTorch's zip files (`torch.save` since 1.6: .pt, .pth, .bin) without executing their pickles.

    <archive>/data.pkl      a pickle: dictionaries of tensors, each a view of a storage
    <archive>/data/<key>    the bytes of a storage, not packed
    <archive>/byteorder     `little` or `big`; missing from files before 2.1, which are little-endian

Opening reads the zip file's directory and data.pkl, which `unpickling` turns into records. The variables of a flat
state dict are named by its keys; the keys and indices of nested dictionaries and lists are joined by `/`. Values that
are not tensors (an epoch, a learning rate) are left out. The extent of a tensor in C order holds exactly its values;
the extent of a transposed, expanded or lazily conjugated tensor spans its first to its last element, and `read` puts
the values in order. Checksums are the zip file's, one for each storage. Several files with an index, as transformers
writes them, are one checkpoint.
"""

from __future__ import annotations

from ... import errors
from ...checkpoint import ITEM_SIZE, Extent, Variable
from ...errors import DamagedError, UnsupportedError
from ..files import sets
from ..files.watched import WatchedFiles
from . import unpickling
from .archive import Archive
from .finding import ENDING
from .records import Dict, Tensor

# Refused here, and loaded by PyTorch with `weights_only=True`: see torch/_weights_only_unpickler.py of PyTorch 2.13.
_PYTORCH_LOADS = (
    "a storage of class torch.", "a tensor of dtype torch.", "torch._utils._rebuild_", "collections.Counter",
    "builtins.set", "builtins.bytearray", "builtins.complex", "_codecs.encode",
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

ONLY = "tensor"  # the name of a tensor that was saved without a dictionary around it
_DEEPEST = 64  # levels of nested dictionaries and lists
_LONGEST_NAME = 1 << 16  # bytes
# Memory in bytes: overhead of each variable, and the allowance for all objects besides the file's size.
_PER_VARIABLE = 420
_SPARE = 96 << 20  # legitimate files may have 100,000 tensors
# Limits the size of an expanded tensor to the larger of _FLOOR bytes and _RATIO times its stored size.
_FLOOR = 32 << 20
_RATIO = 100


class Torch(WatchedFiles):
    """A PyTorch file, or a set of files, open for reading.

    Args:
        path: the name by which the user refers to the checkpoint.
        files: its index, if it has one, then the files with values.

    Raises:
        NotFoundError: a file is missing.
        DamagedError: a file is cut short, or contradicts itself, another file or the index.
        UnsupportedError: a pickle uses opcodes or names that tensors do not need, or a zip file is not supported.

    Attributes:
        files: the files with values.
        tensors: variable's name -> its storage, and the location of its values in the storage.
    """

    format = "torch"

    def __init__(self, path: str, files: list[str]) -> None:
        super().__init__(path, files[0])
        index = files[0] if sets.is_index(files[0], ENDING) else None
        self.files = files[1:] if index else files
        self.shards = len(self.files)
        self.tensors: dict[str, Tensor] = {}
        self._archives: dict[str, Archive] = {}
        self._strays: list[str] = []
        try:
            for file in self.files:
                with errors.files(file):
                    self._open(file)
            if index:
                with errors.files(index):
                    self._strays = sets.strays(self.watch(index), self.files, self.variables, self.path)
        except BaseException:
            self.close()
            raise

    def _open(self, file: str) -> None:
        size = self.watch(file).size

        def read(offset: int, length: int) -> bytes:
            return self.file(file).read(offset, length) if length > 0 and offset >= 0 else b""

        try:
            archive = self._archives[file] = Archive(file, read, size)
            data, room = archive.pickle(), _SPARE + size
            for name, tensor in _tensors(_loaded(data, room, file), len(data)):
                room -= _PER_VARIABLE + 4 * len(name)
                if room < 0:
                    raise DamagedError("damaged: far more tensors than the file has room for")
                self._add(name, tensor, archive)
        except UnsupportedError as error:
            from .. import foreign

            error.hint = error.hint or foreign.by_pytorch("", file).hint
            raise

    def _add(self, name: str, tensor: Tensor, archive: Archive) -> None:
        if name in self.variables:
            raise DamagedError("damaged: two tensors with the same name", found=name[:200])
        item = ITEM_SIZE[tensor.dtype]
        offset = tensor.offset * item if tensor.size else 0
        extent = Extent(archive.path, archive.place(tensor.storage) + offset, tensor.span * item, None)
        self.tensors[name] = tensor
        self.variables[name] = Variable(name, name.encode(), tensor.dtype, tensor.shape, (extent,))

    def oddities(self) -> list[str]:
        """As `Checkpoint.oddities`."""
        return [f"the index does not list {name[:200]}" for name in self._strays]

    def _stored_in(self, variable: Variable) -> tuple[Archive, str]:
        """The archive that holds the values of a variable, and the key of their storage."""
        return self._archives[variable.extents[0].file], self.tensors[variable.name].storage.key

    # -- Checkpoint

    def is_plain(self, variable: Variable) -> bool:
        """Whether the bytes of a variable's extent are its values: in C order, and neither conjugated nor negated."""
        tensor = self.tensors[variable.name]
        return tensor.is_contiguous and not tensor.conjugate and not tensor.negative

    def payload(self, variable: Variable) -> tuple[Iterator[bytes], str] | None:
        """As `Checkpoint.payload`: tensors that lie in C order."""
        if not self.is_plain(variable):
            return None
        return self._checked_chunks(variable), self._stored_in(variable)[0].byteorder

    def _checked_chunks(self, variable: Variable) -> Iterator[bytes]:
        (archive, key), extent = self._stored_in(variable), variable.extents[0]
        if archive.is_whole(key, extent.length):
            yield from archive.content(key)
            return
        archive.check(key)
        yield from self.chunks(extent)

    def check(self, variable: Variable) -> None:
        """As `Checkpoint.check`: the zip file's checksum of the storage; a storage shared by tensors is read once."""
        archive, key = self._stored_in(variable)
        archive.check(key)

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
        with errors.allocating(variable.name, variable.shape, self.path):
            return self._values(variable, tensor)

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
        if self._stored_in(variable)[0].byteorder != sys.byteorder and item > 1:
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


def _loaded(data: bytes, room: int, file: str) -> object:
    """The object that a pickle describes. A refusal's hint runs the code of the pickle only if nothing else helps."""
    try:
        return unpickling.load(data, room)
    except UnsupportedError as error:
        from .. import foreign

        is_safe = any(each in error.what for each in _PYTORCH_LOADS)
        load = foreign.LOAD if is_safe else foreign.LOAD_TRUSTED
        error.hint = foreign.by_pytorch("", file, load=load).hint
        raise


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
