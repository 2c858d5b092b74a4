"""Reads TensorFlow V1 checkpoints: tables of saved tensor slices, one file or a set `<prefix>-?????-of-?????`.

The empty key of each file holds its meta (name, shape, dtype and slices of the file's tensors), every other key one
slice: SavedTensorSlices{data: SavedSlice{name, slice, TensorProto}}, where the TensorProto has neither dtype nor shape
but only values, with integers as varints. A set is the union of its files. Opening reads each table's index and first
block. Sources: `tensorflow/core/util/tensor_slice_writer.cc`, `tensor_slice_reader.cc`, `saved_tensor_slice.proto`.
`writing.py` is the counterpart.
"""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import CHUNK, ITEM_SIZE, Checkpoint, Extent, Variable
from ...errors import CkptSurgeonError, DamagedError
from ...names import VALUE_SUFFIX
from ..files.watched import WatchedFiles
from ..tensorflow.sstable import Table
from ..tensorflow.tensors import are_whole, check_version, extent_sizes, incomplete, slice_key
from ..tensorflow.wire import BYTES, VARINT, fields
from .rows import FIELDS, decode_form, in_file_order, row_keys, split_meta
from .slices import Slices, within

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from ..tensorflow.tensors import Slice

    Found = dict[bytes, tuple[str, tuple[int, ...], list[Slice], list[Extent]]]  # key -> dtype, shape, slices, extents

_VALUE_SUFFIX = VALUE_SUFFIX.encode()


def _place_in_set(file: str) -> tuple[int, int] | None:
    """Return number and count from the name of a file of a set, as in `model-00000-of-00003`; None for other names."""
    head, _, count = file.rpartition("-of-")
    number = head.rpartition("-")[2]
    if len(number) == len(count) == 5 and (number + count).isascii() and (number + count).isdigit():
        return int(number), int(count)
    return None


class V1(WatchedFiles):
    """A TensorFlow V1 checkpoint, open for reading.

    Args:
        path: the prefix; for a single file its path.
        files: paths of all its files, in the order of their numbers.

    Raises:
        NotFoundError: a file is missing.
        DamagedError: a file is cut short, has a wrong checksum, or contradicts itself or another; a set is incomplete.

    Attributes:
        files: as given.
        metas: key of a variable -> its encoded SavedSliceMetas: one for each file that has slices of it.
        more: the first file's meta without its tensors: encoded fields, including its VersionDef.
        more_outside: the encoded fields of the first file's first row other than the meta.
        slices: the rows that hold values.
    """

    format = "tf-v1"

    def __init__(self, path: str, files: list[str]) -> None:
        super().__init__(path, files[0])
        self.files = files
        self.shards = len(files)
        self.metas: dict[bytes, list[bytes]] = {}
        self.more: list[bytes] = []
        self.more_outside: list[bytes] = []
        self._tables: dict[str, Table] = {}
        self.slices = Slices(path, self._tables)
        self._forms: dict[bytes, tuple[str, tuple[int, ...], tuple[Slice, ...]]] = {}  # by encoding; most occur often
        self._blocks: dict[tuple[str, tuple[int, int]], Extent] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        found: Found = {}
        for number, file in enumerate(self.files):
            place = _place_in_set(os.path.basename(file))
            if place and place != (number, len(self.files)):
                what = "one file of an incomplete set"
                raise DamagedError(what, path=file, expected=f"{place[1]} files", found=len(self.files))
            with errors.files(file):
                self._tables[file] = table = self._table(file)
                self._read_meta(file, table, found)
        for key, (dtype, shape, slices, extents) in found.items():
            try:
                is_whole = len(slices) == 1 and slices[0] == ((0, -1),) * len(shape)
                if not is_whole:
                    if len(set(slices)) != len(slices):
                        raise DamagedError("damaged: a slice is listed twice")
                    are_whole(slices, shape)
            except DamagedError as error:
                raise within(error, key, self.path) from error
            short = key[: -len(VALUE_SUFFIX)] if key.endswith(_VALUE_SUFFIX) else b""
            name = (short if short and short not in found else key).decode("utf-8", "surrogateescape")
            listed = None if is_whole else tuple(slices)
            self.variables[name] = Variable(name, key, dtype, shape, tuple(extents), listed)

    def _table(self, file: str) -> Table:
        source = self.watch(file)
        return Table(source.read, source.size)

    def _read_meta(self, file: str, table: Table, found: Found) -> None:
        """Add the contents of a file's first row to `found`."""
        first = table.first_row()
        meta: bytes | None = None
        outside: list[bytes] = []
        for number, kind, value, raw in fields(first[1] if first and not first[0] else b""):
            if number == 1 and kind == BYTES and meta is None:
                meta = value
            elif number <= 2:
                meta = None  # the header of a TensorBundle's index, a slice's data, or two metas
                break
            else:
                outside.append(raw)
        if meta is None:
            raise DamagedError("damaged: the table has no meta row, or is not a TensorFlow V1 checkpoint")
        more: list[bytes] = []
        tensors: list[bytes] = []
        for number, kind, value, raw in fields(meta):
            if number == 1 and kind == BYTES:
                tensors.append(value)
                continue
            if number == 2 and kind == BYTES:
                check_version(value)
            elif number <= 2:
                raise DamagedError("damaged: a field of the meta has the wrong wire type")
            more.append(raw)
        here: set[bytes] = set()
        for message in tensors:  # after the version, which decides whether they can be decoded
            self._add(file, table, message, found, here)
        if file == self.files[0]:
            self.more, self.more_outside = more, outside

    def _add(self, file: str, table: Table, message: bytes, found: Found, here: set[bytes]) -> None:
        """Add a SavedSliceMeta."""
        key, rest = split_meta(message)
        try:
            if not key or key in here:
                raise DamagedError("damaged: a tensor without a name, or listed twice")
            here.add(key)
            form = self._forms.get(rest)
            if form is None:
                form = self._forms[rest] = decode_form(rest)
            dtype, shape, slices = form
            known = found.setdefault(key, (dtype, shape, [], []))
            if known[1] != shape or known[0] != dtype:
                raise DamagedError(
                    "damaged: the files of the set differ",
                    expected=f"{known[0]} {list(known[1])}",
                    found=f"{dtype} {list(shape)}",
                )
            for extents in slices:
                block = table.block_of(slice_key(key, extents))
                if block is None:
                    raise DamagedError("damaged: a slice is missing", found=list(extents))
                extent = self._blocks.get((file, block))
                if extent is None:
                    extent = self._blocks[file, block] = Extent(file, *block, None)
                known[2].append(extents)
                known[3].append(extent)
        except DamagedError as error:
            raise within(error, key, file) from error
        self.metas.setdefault(key, []).append(message)

    # -- Checkpoint

    def find(self, name: str) -> Variable | None:
        """As `Checkpoint.find`; the full key of an object-based variable works too."""
        variable = super().find(name)
        full = name.removesuffix(":0")
        if variable is None and full.endswith(VALUE_SUFFIX):
            short = self.variables.get(full[: -len(VALUE_SUFFIX)])
            if short is not None and short.key == self.key_of(full):
                return short
        return variable

    def oddities(self) -> list[str]:
        """As `Checkpoint.oddities`: damaged blocks, and rows that belong to no variable. Reads the whole tables."""
        expected: dict[str, set[bytes]] = {file: {b""} for file in self.files}
        for variable in self.variables.values():
            for extent, key in zip(variable.extents, row_keys(variable.key, variable), strict=True):
                expected[extent.file].add(key)
        found: list[str] = []
        for file, table in self._tables.items():
            try:
                with errors.files(file):
                    for key, _ in table.rows():
                        if key not in expected[file]:
                            found.append(f"a row that belongs to no variable, under the key {key[:200]!r}")
            except DamagedError as error:
                found.append(str(error))
        return found + incomplete(self)

    def holds_same_rows(self, variable: Variable, donor: Checkpoint, other: Variable) -> bool | None:
        """As `Checkpoint.holds_same_rows`, for two V1 checkpoints with the same slices."""
        if not isinstance(donor, V1) or variable.slices != other.slices:
            return None
        try:
            numbers = range(len(variable.extents))
            return all(self.tensor(variable, number) == donor.tensor(other, number) for number in numbers)
        except CkptSurgeonError:
            return False  # the writer will report the error

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """As `Checkpoint.chunks`; yields the stored block that holds the slice."""
        file = self.file(extent.file)
        end = extent.offset + extent.length
        for at in range(extent.offset, end, CHUNK):
            with errors.files(extent.file):
                chunk = file.read(at, min(CHUNK, end - at))
            if len(chunk) < min(CHUNK, end - at):
                raise DamagedError("cut short", path=extent.file, expected=f"at least {end} bytes")
            yield chunk

    def tensor(self, variable: Variable, number: int) -> memoryview:
        """Return the encoded TensorProto of a variable's slice, after checking all of its values."""
        tensor = self.slices.tensor(variable, number)
        values = self.slices.values(variable, number, tensor)
        if variable.dtype in FIELDS and FIELDS[variable.dtype][1] == VARINT:
            from . import arrays

            with self.slices.naming(variable, number):
                arrays.check(values, variable.dtype)
        return tensor

    def check(self, variable: Variable) -> None:
        """As `Checkpoint.check`: the checksums of the blocks, and all values."""
        for number in in_file_order(variable):
            self.tensor(variable, number)

    def read(self, name: str) -> NDArray[Any]:
        """As `Checkpoint.read`."""
        from . import arrays

        return arrays.read(self.slices, self[name])

    def nbytes(self, variable: Variable) -> int | None:
        """As `Checkpoint.nbytes`. None also if the data are damaged, or of a dtype that no V1 checkpoint can hold."""
        item = ITEM_SIZE.get(variable.dtype)
        if item:
            return item * sum(extent_sizes(variable))
        try:
            slices = in_file_order(variable)
            return sum(len(string) for number in slices for string in self.slices.pieces(variable, number))
        except CkptSurgeonError:
            return None
