"""The protobuf messages that TensorFlow's checkpoint formats share: DataType, shapes, slices, versions.

Sources: `tensorflow/core/framework/types.proto`, `tensor_shape.proto`, `tensor_slice.proto`, `versions.proto`.
"""

from __future__ import annotations

import os

from ...errors import DamagedError, UnsupportedError
from ...lean import prod, remembered
from .wire import (
    BYTES,
    VARINT,
    bytes_field,
    fields,
    ordered_signed,
    ordered_string,
    ordered_unsigned,
    read_varint,
    signed64,
    varint_field,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...checkpoint import Checkpoint, Variable

    Slice = tuple[tuple[int, int], ...]  # (start, length) per dimension; length -1: the whole dimension

# DataType number -> dtype name. 0 is invalid, 20 (resource) cannot be stored, and numbers from 101 are references.
DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 8: "complex64",
    9: "int64", 10: "bool", 11: "qint8", 12: "quint8", 13: "qint32", 14: "bfloat16", 15: "qint16", 16: "quint16",
    17: "uint16", 18: "complex128", 19: "float16", 21: "variant", 22: "uint32", 23: "uint64", 24: "float8_e5m2",
    25: "float8_e4m3fn", 26: "float8_e4m3fnuz", 27: "float8_e4m3b11fnuz", 28: "float8_e5m2fnuz", 29: "int4",
    30: "uint4", 31: "int2", 32: "uint2", 33: "float4_e2m1fn",
}  # fmt: skip
NUMBERS = {name: number for number, name in DTYPES.items()}

MAX_RANK = 254  # the limit of TensorShape
_MAX_ELEMENTS = 1 << 63
_KEY_START = ordered_unsigned(0)  # of a slice's key
_PRIME = (1 << 127) - 1
_MOST_STEPS = 1 << 16


def dtype_name(number: int) -> str:
    """The dtype of a DataType number.

    Raises:
        DamagedError: the number is not a dtype that a checkpoint can hold.
    """
    name = DTYPES.get(number)
    if name is None:
        raise DamagedError("damaged: unknown dtype", expected="a DataType of 1 to 33", found=number)
    return name


def decode_shape(message: bytes) -> tuple[int, ...]:
    """The dimensions of a TensorShapeProto.

    Raises:
        DamagedError: unknown rank, more than 254 dimensions, a negative dimension, or 2^63 elements or more (counted
            without dimensions of 0, which could hide an overflow).
    """
    shape: list[int] = []
    elements = 1
    for number, kind, value, _ in fields(message):
        if number == 2 and kind == BYTES:
            size = 0
            for inner, inner_kind, inner_value, _ in fields(value):
                if inner == 1 and inner_kind == VARINT:
                    size = signed64(inner_value)
            if size < 0:
                raise DamagedError("damaged: negative dimension", found=size)
            shape.append(size)
            elements *= size or 1
        elif number == 3 and value:
            raise DamagedError("damaged: a stored tensor of unknown rank")
        if len(shape) > MAX_RANK or elements >= _MAX_ELEMENTS:
            raise DamagedError("damaged: impossible shape", found=f"{len(shape)} dimensions, {elements} elements")
    return tuple(shape)


def encode_shape(shape: tuple[int, ...]) -> bytes:
    """A TensorShapeProto; a scalar's is empty."""
    return b"".join(bytes_field(2, varint_field(1, size)) for size in shape)


def decode_slice(message: bytes, shape: tuple[int, ...]) -> Slice:
    """The extents of a TensorSliceProto.

    Raises:
        DamagedError: the slice has another rank than `shape`, an invalid length, or is not inside `shape`.
    """
    extents: list[tuple[int, int]] = []
    for number, kind, value, _ in fields(message):
        if number == 1 and kind == BYTES:
            start, length = 0, -1
            for inner, inner_kind, inner_value, _ in fields(value):
                if inner_kind == VARINT and inner == 1:
                    start = signed64(inner_value)
                elif inner_kind == VARINT and inner == 2:
                    length = signed64(inner_value)
                    if length < 1:
                        raise DamagedError("damaged: a slice whose length is not positive", found=length)
            extents.append((start, length))
    if len(extents) != len(shape):
        raise DamagedError("damaged: the rank of a slice is wrong", expected=len(shape), found=len(extents))
    for (start, length), size in zip(extents, shape, strict=True):
        if start < 0 or (start + length > size if length >= 0 else start != 0):
            raise DamagedError("damaged: a slice outside its tensor", expected=list(shape), found=extents)
    return tuple(extents)


def encode_slice(extents: Slice) -> bytes:
    """A TensorSliceProto; the length of a dimension is left out if it is -1."""
    return b"".join(
        bytes_field(1, varint_field(1, start) + (varint_field(2, length) if length >= 0 else b""))
        for start, length in extents
    )


def same_partition(one: tuple[Slice, ...] | None, other: tuple[Slice, ...] | None, shape: tuple[int, ...]) -> bool:
    """Whether two partitions of a tensor of `shape` have the same slices in the same order; None: not partitioned."""
    if one == other:
        return True

    def spelt(slices: tuple[Slice, ...] | None) -> list[list[tuple[int, int]]]:
        return [
            [(start, size if length < 0 else length) for (start, length), size in zip(extents, shape, strict=True)]
            for extents in slices or (((0, -1),) * len(shape),)
        ]

    return spelt(one) == spelt(other)


def slice_shape(extents: Slice, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a slice of a tensor of `shape`."""
    return tuple(size if length < 0 else length for (_, length), size in zip(extents, shape, strict=True))


def are_whole(slices: list[Slice], shape: tuple[int, ...]) -> bool:
    """Return whether slices inside a tensor cover each of its elements; no two may overlap.

    TensorFlow stores, and restores slice by slice, slots that it names after one partition of their variable; they
    lack the other partitions.

    The volume of a slice is a product of differences, end minus start, and the volumes of slices that cover a tensor
    add up to the volume of the tensor. That sum is also right if an overlap and a gap cancel out. But it must be right
    for every measure of lengths, so random numbers replace the coordinates: if the slices do not cover the tensor, the
    sum is right only with a probability of 2^-110 (Schwartz-Zippel). No pairs of slices need to be compared.

    Raises:
        DamagedError: slices overlap, or there are too many to see whether they do.
    """
    marks: list[dict[int, int]] = [{} for _ in shape]

    def mark(dimension: int, at: int) -> int:
        known = marks[dimension].get(at)
        if known is None:
            known = marks[dimension][at] = int.from_bytes(os.urandom(16), "little")
        return known

    def measure(extents: Slice) -> int:
        volume = 1
        for dimension, (start, length) in enumerate(extents):
            end = start + length if length >= 0 else shape[dimension]
            volume = volume * (mark(dimension, end) - mark(dimension, start)) % _PRIME
        return volume

    if sum(map(measure, slices)) % _PRIME == measure(((0, -1),) * len(shape)):
        return True
    if not _are_apart(slices, shape):
        raise DamagedError("damaged: slices of a variable overlap", expected=list(shape))
    return False


def _are_apart(slices: list[Slice], shape: tuple[int, ...]) -> bool:
    """Return whether no two slices overlap; False also if finding out takes too many comparisons."""
    spans = [
        [(start, start + length if length >= 0 else size) for (start, length), size in zip(each, shape, strict=True)]
        for each in slices
    ]
    starts = [len({span[at][0] for span in spans}) for at in range(len(shape))]
    along = starts.index(max(starts)) if starts else 0
    spans.sort(key=lambda span: span[along:])
    steps = 0
    for number, one in enumerate(spans):
        for at in range(number + 1, len(spans)):
            other = spans[at]
            if other[along][0] >= one[along][1]:
                break
            steps += 1
            if steps > _MOST_STEPS or all(x[0] < y[1] and y[0] < x[1] for x, y in zip(one, other, strict=True)):
                return False
    return True


def check_whole(variable: Variable, path: str) -> None:
    """Check that all elements of a variable are stored.

    Raises:
        UnsupportedError: only some of its slices are.
    """
    if not variable.is_whole:
        what = f"{variable.name} cannot be read as a whole: only some of its slices are stored"
        hint = "'drop --slots' removes slots"
        raise UnsupportedError(what, path=path, expected=f"{variable.size} elements",
                               found=sum(extent_sizes(variable)), hint=hint)  # fmt: skip


def incomplete(checkpoint: Checkpoint) -> list[str]:
    """Describe the variables that lack slices, except slots, of which TensorFlow itself stores some so."""
    found = [variable.name for variable in checkpoint.variables.values() if not variable.is_whole]
    if not found:
        return []
    from ... import schemes

    slots = schemes.slots(checkpoint)
    return [f"{name} lacks some of its slices" for name in found if name not in slots]


def slice_key(name: bytes, extents: Slice) -> bytes:
    """The key under which a slice of the tensor `name` is stored (`EncodeTensorNameSlice`).

    The extents are encoded unchanged: the key differs between a length of -1 and the full length of the dimension.
    """
    return _KEY_START + ordered_string(name) + _slice_ending(extents)


def _encoded_ending(extents: Slice) -> bytes:
    ends = (ordered_signed(start) + ordered_signed(length) for start, length in extents)
    return ordered_unsigned(len(extents)) + b"".join(ends)


_slice_ending = remembered(_encoded_ending, 1 << 8)


def check_version(message: bytes) -> None:
    """Raise unless a VersionDef allows readers of version 1.

    Raises:
        DamagedError: the VersionDef requires a newer reader, or lists version 1 as bad.
    """
    producer = min_consumer = 0
    bad: list[int] = []
    for number, kind, value, _ in fields(message):
        if number == 1 and kind == VARINT:
            producer = signed64(value)
        elif number == 2 and kind == VARINT:
            min_consumer = signed64(value)
        elif number == 3 and kind == VARINT:
            bad.append(value)
        elif number == 3 and kind == BYTES:
            at = 0
            while at < len(value):  # packed
                version, at = read_varint(value, at, len(value))
                bad.append(version)
    if producer < 0 or min_consumer > 1 or 1 in bad:
        raise DamagedError(
            "written for a newer reader",
            expected="format version 1",
            found=f"producer {producer}, min_consumer {min_consumer}, bad_consumers {bad}",
        )


def extent_sizes(variable: Variable) -> list[int]:
    """The number of elements in each extent of a variable."""
    if variable.slices is None:
        return [variable.size]
    return [prod(slice_shape(extents, variable.shape)) for extents in variable.slices]
