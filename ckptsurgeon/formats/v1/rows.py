"""Decodes and encodes rows of a TensorFlow V1 checkpoint's tables. Without NumPy.

The messages, in protobuf's notation; other fields are kept:

    meta row   SavedTensorSlices{1 meta: {1 tensor: SavedSliceMeta{1 name, 2 shape, 3 type, 4 slice}…, 2 versions}}
    slice row  SavedTensorSlices{2 data: SavedSlice{1 name, 2 slice, 3 data: TensorProto}}
"""

from __future__ import annotations

from ...checkpoint import CHUNK, Variable
from ...errors import DamagedError
from ..tensorflow.tensors import (
    NUMBERS,
    decode_shape,
    decode_slice,
    dtype_name,
    encode_shape,
    encode_slice,
    slice_key,
    slice_shape,
)
from ..tensorflow.wire import BYTES, FIXED32, FIXED64, VARINT, bytes_field, fields, varint, varint_field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..tensorflow.tensors import Slice

# dtype -> the field of a TensorProto that holds its values, and the wire type of one value there.
FIELDS = {
    "float32": (5, FIXED32), "complex64": (9, FIXED32), "float64": (6, FIXED64), "complex128": (12, FIXED64),
    "int8": (7, VARINT), "uint8": (7, VARINT), "int16": (7, VARINT), "uint16": (7, VARINT), "int32": (7, VARINT),
    "qint8": (7, VARINT), "quint8": (7, VARINT), "quint16": (7, VARINT), "qint32": (7, VARINT),
    "int64": (10, VARINT), "bool": (11, VARINT), "float16": (13, VARINT), "string": (8, BYTES),
}  # fmt: skip
# The dtypes that TensorFlow writes to and reads from a V1 checkpoint: all but quint16, as tried with its ops.
WRITTEN = frozenset(FIELDS) - {"quint16"}
_NAME = bytes((1 << 3 | BYTES,))  # tag of a SavedSliceMeta's name
_CONTINUED = bytes(range(0x80, 0x100))  # the bytes of a varint except its last
NEW_VERSION = bytes.fromhex("12020801")  # of a meta: VersionDef{producer: 1}


def slices_of(variable: Variable) -> tuple[Slice, ...]:
    """Return the slices of a variable as a V1 checkpoint lists them: an unpartitioned one has all dimensions open."""
    return variable.slices if variable.slices is not None else (((0, -1),) * len(variable.shape),)


def row_keys(key: bytes, variable: Variable) -> list[bytes]:
    """Return the keys of the rows of a variable's slices, in the order of the slices, if it is stored under `key`."""
    return [slice_key(key, extents) for extents in slices_of(variable)]


def count_of(variable: Variable, number: int) -> int:
    """Return the number of elements in one slice of a variable."""
    count = 1
    for size in variable.shape if variable.slices is None else slice_shape(variable.slices[number], variable.shape):
        count *= size
    return count


def in_file_order(variable: Variable) -> list[int]:
    """Return the numbers of a variable's slices in their order on disk, so that each block is read once."""
    extents = variable.extents
    return sorted(range(len(extents)), key=lambda number: (extents[number].file, extents[number].offset))


def split_meta(message: bytes) -> tuple[bytes, bytes]:
    """Split a SavedSliceMeta into the name and all other fields, which many variables share."""
    if message[:1] == _NAME and len(message) > 2 and message[1] < 0x80:  # as TensorFlow writes it
        end = 2 + message[1]
        return message[2:end], message[end:]
    name, rest = b"", []
    for number, kind, value, raw in fields(message):
        if number == 1 and kind == BYTES and not name:
            name = value
        else:
            rest.append(raw)
    return name, b"".join(rest)


def decode_form(message: bytes) -> tuple[str, tuple[int, ...], tuple[Slice, ...]]:
    """Decode a SavedSliceMeta without its name into dtype, shape and slices.

    Raises:
        DamagedError: a field is repeated, has the wrong wire type, or an invalid value.
    """
    shape = b""
    dtype, slices = 0, []
    seen = {1}
    for number, kind, value, _ in fields(message):
        if number > 4:
            continue
        if kind != (VARINT if number == 3 else BYTES) or (number != 4 and number in seen):
            raise DamagedError(f"damaged: the field {number} of a tensor's meta has a wrong wire type or is repeated")
        seen.add(number)
        if number == 2:
            shape = value
        elif number == 3:
            dtype = value
        else:
            slices.append(value)
    if not slices:
        raise DamagedError("damaged: a tensor without slices")
    name, dimensions = dtype_name(dtype), decode_shape(shape)
    return name, dimensions, tuple(decode_slice(each, dimensions) for each in slices)


def _only(message: bytes | memoryview, wanted: tuple[int, ...]) -> dict[int, memoryview]:
    """Return the length-delimited fields with these numbers, each at most once, as views: rows may be huge."""
    found: dict[int, memoryview] = {}
    for number, kind, value, _ in fields(memoryview(message)):
        if number in wanted:
            if kind != BYTES or number in found:
                raise DamagedError(f"damaged: the field {number} of a slice's row has a wrong wire type or is repeated")
            found[number] = value
    return found


def tensor_of(row: bytes, variable: Variable, extents: Slice) -> memoryview:
    """Return the TensorProto in a row, which must belong to this slice of this variable."""
    outer = _only(row, (1, 2))
    if 1 in outer or 2 not in outer:
        raise DamagedError("damaged: the row of a slice holds no slice")
    inner = _only(outer[2], (1, 2, 3))
    if bytes(inner.get(1, b"")) != variable.key:
        raise DamagedError("damaged: a row belongs to another tensor", found=bytes(inner.get(1, b""))[:200])
    if decode_slice(bytes(inner.get(2, b"")), variable.shape) != extents:
        raise DamagedError("damaged: a row belongs to another slice", expected=list(extents))
    return inner.get(3, memoryview(b""))


def value_pieces(tensor: memoryview, dtype: str, count: int) -> list[bytes]:
    """Return the `count` encoded values of a TensorProto in pieces: packed ones as stored, single ones joined.

    Each string is a piece of its own.
    """
    if dtype not in FIELDS:
        return []
    field, wire = FIELDS[dtype]
    item = {FIXED32: 4, FIXED64: 8}.get(wire, 0)
    wanted = count * 2 if dtype.startswith("complex") else count
    pieces: list[bytes] = []
    single = bytearray()
    found = 0
    for number, kind, value, _ in fields(tensor):
        if number != field:
            continue
        if wire == BYTES and kind == BYTES:
            found += 1
            pieces.append(bytes(value))
        elif kind == BYTES:
            if single:
                pieces.append(bytes(single))
                single.clear()
            found += len(value) // item if item else _varints(value)
            if item and len(value) % item:
                raise DamagedError("damaged: the values end inside a number", found=f"{len(value)} bytes")
            pieces.append(value)
        elif kind == wire:
            found += 1
            single += value.to_bytes(item, "little") if item else varint(value)
        else:
            raise DamagedError(f"damaged: values of {dtype} are of wire type {kind}")
        if found > wanted:
            break
    if found != wanted:
        more = " or more" if found > wanted else ""
        raise DamagedError("damaged: wrong number of values", expected=wanted, found=f"{found}{more}")
    return [*pieces, bytes(single)] if single else pieces


def _varints(packed: memoryview) -> int:
    """Count the varints in packed data."""
    count = 0
    for at in range(0, len(packed), CHUNK):
        count += len(bytes(packed[at : at + CHUNK]).translate(None, _CONTINUED))
    if len(packed) and packed[-1] >= 0x80:
        raise DamagedError("damaged: the values end inside a number")
    return count


def new_meta(key: bytes, variable: Variable) -> bytes:
    """Return the SavedSliceMeta of a variable that is stored under `key`."""
    head = bytes_field(1, key) + bytes_field(2, encode_shape(variable.shape)) + varint_field(3, NUMBERS[variable.dtype])
    return head + b"".join(bytes_field(4, encode_slice(extents)) for extents in slices_of(variable))


def carried_meta(key: bytes, messages: list[bytes]) -> bytes:
    """Merge the SavedSliceMetas of one tensor from several files, under a new name; other fields are kept unchanged."""
    parts = [bytes_field(1, key) if number == 1 else raw for number, _, _, raw in fields(messages[0])]
    for message in messages[1:]:
        parts += (raw for number, _, _, raw in fields(message) if number == 4)
    return b"".join(parts)


def new_row(key: bytes, extents: Slice, tensor: bytes | memoryview) -> list[bytes | memoryview]:
    """Return the row of a slice, in parts: a TensorProto may be huge."""
    head = bytes_field(1, key) + bytes_field(2, encode_slice(extents)) + varint(3 << 3 | BYTES) + varint(len(tensor))
    return [varint(2 << 3 | BYTES) + varint(len(head) + len(tensor)) + head, tensor]


def renamed_row(key: bytes, row: bytes) -> bytes:
    """Return the row of a slice under another tensor name; all other bytes are unchanged."""
    outer = []
    for number, _, value, raw in fields(row):
        if number == 2:
            inner = (bytes_field(1, key) if part == 1 else own for part, _, _, own in fields(value))
            raw = bytes_field(2, b"".join(inner))
        outer.append(raw)
    return b"".join(outer)
