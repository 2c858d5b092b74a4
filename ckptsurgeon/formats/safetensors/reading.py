"""Reads safetensors: a file, or a set of files, with or without an index, as a single checkpoint.

A file is the length of its header (8 bytes, little-endian), the header, which is JSON, and the values without a gap:

    {"__metadata__": {key: text}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, …}

Offsets count from the header's end; numbers are little-endian, in C order. There are no checksums: a flipped bit in
the values cannot be detected. This reader refuses some files that the format allows: those with duplicate names or
metadata keys, with other fields in an entry (a new file would lose them), and with headers whose variables take far
more memory than the size of the file. Opening reads the header. `writing` writes these files.
"""

from __future__ import annotations

import sys

from ... import errors
from ...checkpoint import STORED, Extent, Variable
from ...errors import DamagedError, UnsupportedError
from ..files import sets
from ..files.json_scan import JsonScanner
from ..files.watched import WatchedFiles
from ..tensorflow.tensors import MAX_RANK
from .finding import ENDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

# dtype of the format -> our dtype, and bits per element. The library sorts variables by this order, the last first.
KINDS = {
    "BOOL": ("bool", 8), "F4": ("float4_e2m1fn", 4), "F6_E2M3": ("float6_e2m3fn", 6), "F6_E3M2": ("float6_e3m2fn", 6),
    "U8": ("uint8", 8), "I8": ("int8", 8), "F8_E5M2": ("float8_e5m2", 8), "F8_E4M3": ("float8_e4m3fn", 8),
    "F8_E8M0": ("float8_e8m0fnu", 8), "F8_E4M3FNUZ": ("float8_e4m3fnuz", 8), "F8_E5M2FNUZ": ("float8_e5m2fnuz", 8),
    "I16": ("int16", 16), "U16": ("uint16", 16), "F16": ("float16", 16), "BF16": ("bfloat16", 16), "I32": ("int32", 32),
    "U32": ("uint32", 32), "F32": ("float32", 32), "C64": ("complex64", 64), "F64": ("float64", 64),
    "I64": ("int64", 64), "U64": ("uint64", 64),
}  # fmt: skip
BITS = dict(KINDS.values())
METADATA = "__metadata__"
# The key of the metadata under which a streamed checkpoint keeps its layers: a JSON object, name -> number.
LAYERS = "ckptsurgeon.layers"

MAX_HEADER = 100_000_000  # bytes, the library's limit
_FIELDS = {"dtype", "shape", "data_offsets"}
_LONGEST_ENTRY = 1 << 14  # bytes of JSON
# Memory in bytes: overhead of each variable and metadata pair, and the allowance for all of them besides file sizes.
_PER_VARIABLE = 420
_PER_PAIR = 200
_SPARE = 64 << 20  # legitimate files may have 100,000 variables


class SafeTensors(WatchedFiles):
    """A safetensors checkpoint, open for reading.

    Args:
        path: the name by which the user refers to the checkpoint.
        files: its index, if it has one, then the files with values.

    Raises:
        NotFoundError: a file is missing.
        DamagedError: a header contradicts itself, its file or the index.
        UnsupportedError: a dtype that this version does not know.

    Attributes:
        files: the files with values.
        metadata: file -> the unparsed text of its metadata; None if it has no metadata.
    """

    format = "safetensors"
    has_bare_extents = True

    def __init__(self, path: str, files: list[str]) -> None:
        super().__init__(path, files[0])
        index = files[0] if sets.is_index(files[0], ENDING) else None
        self.files = files[1:] if index else files
        self.shards = len(self.files)
        self.metadata: dict[str, bytes | None] = {}
        self._room = _SPARE
        self._strays: list[str] = []
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {}  # shared, since most shapes occur often
        try:
            for file in self.files:
                with errors.files(file):
                    self._read_header(file)
            if index:
                with errors.files(index):
                    self._strays = sets.strays(self.watch(index), self.files, self.variables, self.path)
        except BaseException:
            self.close()
            raise

    def _read_header(self, file: str) -> None:
        source = self.watch(file)
        size = source.size
        length = int.from_bytes(source.read(0, 8), "little")
        if size < 8:
            raise DamagedError("cut short within the length of the header", expected="at least 8 bytes", found=size)
        if length > MAX_HEADER:
            what = "damaged: impossible length of the header"
            raise DamagedError(what, expected=f"at most {MAX_HEADER} bytes", found=length)
        if length > size - 8:
            raise DamagedError("cut short within the header", expected=f"at least {8 + length} bytes", found=size)
        self._room += size - length
        self.metadata[file] = None
        found = self._entries(file, JsonScanner(source.read(8, length)), 8 + length)
        found.sort(key=lambda variable: (variable.extents[0].offset, variable.extents[0].length))
        end = 8 + length
        for variable in found:
            extent = variable.extents[0]
            if extent.offset != end:
                kind = "overlap" if extent.offset < end else "leave a gap"
                what = f"damaged: the values of {variable.name[:200]} {kind} at byte {min(end, extent.offset)}"
                raise DamagedError(what, expected=f"to begin at byte {end}", found=extent.offset)
            end += extent.length
            self.variables[variable.name] = variable
        if end != size:
            what = "cut short" if size < end else "damaged: bytes that no variable refers to"
            raise DamagedError(what, expected=f"{end} bytes", found=size)

    def _entries(self, file: str, scanner: JsonScanner, start: int) -> list[Variable]:
        """Parse the variables of a header; the values of its file begin at `start`."""
        found: list[Variable] = []
        names: set[str] = set()
        for name in scanner.object_keys():
            if name in names or name in self.variables:
                raise DamagedError("damaged: duplicate name", found=name[:200])
            names.add(name)
            if name == METADATA:
                self._take_metadata(file, scanner)
                continue
            key = name.encode()
            self._spend(_PER_VARIABLE + 5 * len(key))
            try:
                if not name:
                    raise DamagedError("damaged: a variable without a name")
                found.append(self._variable(name, key, file, scanner.flat_object(_LONGEST_ENTRY), start))
            except (DamagedError, UnsupportedError) as error:
                error.what += f", in the entry of {name[:200]}"
                raise
        scanner.end()
        return found

    def _variable(self, name: str, key: bytes, file: str, entry: dict[str, object], start: int) -> Variable:
        if entry.keys() != _FIELDS:
            what = "damaged: wrong fields"
            raise DamagedError(what, expected=", ".join(sorted(_FIELDS)), found=", ".join(sorted(entry))[:200])
        code, offsets = entry["dtype"], _counts(entry["data_offsets"])
        kind = KINDS.get(code) if isinstance(code, str) else None
        if kind is None:
            hint = "a later version may know it" if isinstance(code, str) else None
            raise UnsupportedError("unknown dtype", found=str(code)[:40], hint=hint)
        shape, size = _shape(entry["shape"])
        if offsets is None or len(offsets) != 2 or not offsets[0] <= offsets[1] < 1 << 62:
            raise DamagedError("damaged: invalid data_offsets", found=str(entry["data_offsets"])[:80])
        begin, length = start + offsets[0], offsets[1] - offsets[0]
        if size * kind[1] != length * 8:
            what = "damaged: wrong size"
            raise DamagedError(what, expected=f"{size * kind[1]} bits of {code} {list(shape)}", found=8 * length)
        return Variable(name, key, kind[0], self._shapes.setdefault(shape, shape), (Extent(file, begin, length, None),))

    def _take_metadata(self, file: str, scanner: JsonScanner) -> None:
        """Keep the unparsed text of the metadata."""
        if scanner.peek() == b"n":
            scanner.skip()  # null: no metadata
            return
        begin = scanner.at
        keys: set[str] = set()
        for key in scanner.object_keys():
            if key in keys:
                raise DamagedError("damaged: duplicate key in the metadata", found=key[:200])
            keys.add(key)
            at = scanner.at
            scanner.string(min(len(scanner.data), self._room // 8))
            self._spend(_PER_PAIR + 5 * len(key) + 8 * (scanner.at - at))
        self.metadata[file] = scanner.data[begin : scanner.at]

    def _spend(self, memory: int) -> None:
        self._room -= memory
        if self._room < 0:
            raise DamagedError("damaged: the header has far more entries than the file can hold")

    # -- metadata

    def metadata_items(self) -> dict[str, str]:
        """The metadata of all files; for a key in several files, the value from the first."""
        found: dict[str, str] = {}
        for data in self.metadata.values():
            scanner = JsonScanner(data or b"{}")
            for key in scanner.object_keys():
                found.setdefault(key, scanner.string(len(scanner.data)))
        return found

    def layer_tables(self) -> dict[str, dict[str, int]]:
        """As `Checkpoint.layer_tables`: the table in a streamed checkpoint's metadata."""
        try:
            table = self._layers()
        except DamagedError:
            return {}  # `oddities` reports the damage
        return {STORED: table} if table else {}

    def _layers(self) -> dict[str, int]:
        found: dict[str, int] = {}
        text = self.metadata_items().get(LAYERS)
        if text is not None:
            scanner = JsonScanner(text.encode())
            for name in scanner.object_keys():
                number = scanner.integer()
                if number < 0 or name in found:
                    raise DamagedError("damaged: a negative layer number or a duplicate name", found=name[:200])
                if name in self.variables:
                    found[name] = number
            scanner.end()
        return found

    def oddities(self) -> list[str]:
        """As `Checkpoint.oddities`."""
        found = [f"the index does not list {name[:200]}" for name in self._strays]
        try:
            self._layers()
        except DamagedError as error:
            found.append(f"the layers in the metadata, under {LAYERS}: {error}")
        return found

    # -- Checkpoint

    def payload(self, variable: Variable) -> tuple[Iterator[bytes], str] | None:
        """As `Checkpoint.payload`: dtypes whose elements take at least a byte."""
        if BITS[variable.dtype] == 6:
            what = f"{variable.name}: values of dtype {variable.dtype} cannot be read"
            raise UnsupportedError(what, path=self.path, hint="only safetensors files can hold them")
        return (self.chunks(variable.extents[0]), "little") if BITS[variable.dtype] >= 8 else None

    def check(self, variable: Variable) -> None:
        """As `Checkpoint.check`: only checks that the file is long enough, since the format has no checksums."""
        for extent in variable.extents:
            size = self.file(extent.file).size
            if extent.offset + extent.length > size:
                raise self.cut_short(extent, size)

    def read(self, name: str) -> NDArray[Any]:
        """As `Checkpoint.read`.

        Raises:
            UnsupportedError: six-bit floats, whose packing is not documented.
        """
        variable = self[name]
        if BITS[variable.dtype] == 6:
            what = f"{variable.name}: values of dtype {variable.dtype} cannot be read"
            raise UnsupportedError(what, path=self.path, hint="they are copied as they are")
        self.check(variable)
        import numpy as np

        from ... import numeric

        packed = BITS[variable.dtype] == 4
        kind = np.dtype(np.uint8) if packed else numeric.dtype(variable.dtype)
        with errors.allocating(variable.name, variable.shape, self.path):
            values = np.empty(variable.extents[0].length if packed else variable.shape, kind)
            data, at = values.reshape(-1).view(np.uint8), 0
            for chunk in self.chunks(variable.extents[0]):
                data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
                at += len(chunk)
            if packed:  # the first element of each pair is in the low bits, as in PyTorch
                values = np.stack([data & 15, data >> 4], -1).view(numeric.dtype(variable.dtype))
                return values.reshape(variable.shape)
        if sys.byteorder != "little" and kind.itemsize > 1:
            values.byteswap(inplace=True)
        return values

    def nbytes(self, variable: Variable) -> int | None:
        """As `Checkpoint.nbytes`; for dtypes smaller than a byte, the number of stored bytes."""
        return sum(extent.length for extent in variable.extents)


def _counts(value: object) -> list[int] | None:
    """The value if it is a list of non-negative integers; otherwise None."""
    is_one = isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
    return value if is_one and isinstance(value, list) else None


def _shape(value: object) -> tuple[tuple[int, ...], int]:
    """A shape, and its number of elements.

    Raises:
        DamagedError: not a shape, or too many elements, counted without dimensions of 0.
    """
    dimensions = _counts(value)
    if dimensions is None or len(dimensions) > MAX_RANK:
        raise DamagedError("damaged: impossible shape", found=str(value)[:80])
    size, largest = 1, 1
    for dimension in dimensions:
        size *= dimension
        largest *= dimension or 1
        if largest >> 63:
            raise DamagedError("damaged: impossible shape", found=str(value)[:80])
    return tuple(dimensions), size
