"""TensorFlow V1 checkpoints that lie or are damaged: one line that says so, never another exception or wrong values."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from handmade import HEADER, Extents, number, shape_proto, slice_proto, strings, table
from test_v1 import HALVES, MATRIX, TEXT, VERSION, Made, make, meta_of, open_v1, read_all, row_of, tensor

from ckptsurgeon import formats
from ckptsurgeon.errors import CkptSurgeonError, DamagedError, UnsupportedError
from ckptsurgeon.formats.tensorflow.tensors import slice_key
from ckptsurgeon.formats.tensorflow.wire import bytes_field, varint
from ckptsurgeon.formats.v1 import writing as v1_writing
from ckptsurgeon.formats.v1.reading import V1
from ckptsurgeon.plan import Change, Copy, Plan

WHOLE: Extents = ((0, -1), (0, -1))
VECTOR: Extents = ((0, -1),)


def opened(path: Path, data: bytes) -> V1:
    """A checkpoint of these bytes."""
    path.write_bytes(data)
    return open_v1(path)


def survey(path: Path, data: bytes) -> list[str]:
    """All that `verify` would find in these bytes; the error that keeps them from being opened counts too."""
    try:
        checkpoint = opened(path, data)
    except CkptSurgeonError as error:
        return [str(error)]
    with checkpoint:
        found = checkpoint.oddities()
        for variable in checkpoint.variables.values():
            try:
                checkpoint.check(variable)
                checkpoint.read(variable.name)
            except CkptSurgeonError as error:
                found.append(str(error))
        return found


def small() -> bytes:
    """A file with all that a V1 file has: slices, strings, varints, two data blocks."""
    made = Made()
    made.add("a", MATRIX, slices=HALVES)
    made.add("i", np.array([1, -2, 300]))
    made.add("t", strings(b"one", b""))
    return made.bytes(per_block=3)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """A file cut short anywhere cannot be opened."""
    data = small()
    for end in range(len(data)):
        with pytest.raises(CkptSurgeonError):
            opened(tmp_path / "m", data[:end])


def test_every_bit_flip_is_noticed(tmp_path: Path) -> None:
    """Any single bit of a file that changes shows, when it is opened or when all of it is looked at."""
    data = small()
    assert survey(tmp_path / "m", data) == []
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        found = survey(tmp_path / "m", bytes(damaged))
        assert found, f"bit {bit}"
        assert not any("\n" in line for line in found)


def test_a_damaged_value_is_never_read(tmp_path: Path) -> None:
    """A bit that changes in a variable's block keeps that variable from being read, and no other."""
    made = Made()
    made.add("a", MATRIX)
    made.add("b", MATRIX)
    data = bytearray(made.bytes(per_block=2))
    at = bytes(data).rindex(tensor(MATRIX, "float32")) + 10
    data[at] ^= 1
    with opened(tmp_path / "m", bytes(data)) as checkpoint:
        assert checkpoint.read("a").tolist() == MATRIX.tolist()
        with pytest.raises(DamagedError, match="wrong checksum"):
            checkpoint.read("b")
        with pytest.raises(DamagedError, match="wrong checksum"):
            v1_writing.save_as(Plan(checkpoint, []), str(tmp_path / "out"), False, False, 0.0)
    assert not (tmp_path / "out").exists()


def _meta(*tensors: bytes, more: bytes = VERSION) -> bytes:
    return bytes_field(1, b"".join(bytes_field(1, each) for each in tensors) + more)


V = meta_of(b"v", "float32", (4, 3), [WHOLE])
END = (b"\x01", b"")  # a row behind all slices, so that their absence is not what is noticed
V_ROW = (slice_key(b"v", WHOLE), row_of(b"v", WHOLE, tensor(MATRIX, "float32")))

UNOPENED: dict[str, tuple[Sequence[tuple[bytes, bytes]], str]] = {
    "no rows": ([], "no meta row"),
    "no meta row": ([V_ROW], "no meta row"),
    "an index of a V2 checkpoint": ([(b"", HEADER), (b"v", b"")], "no meta row"),
    "data in the meta row": ([(b"", _meta(V) + V_ROW[1]), V_ROW], "no meta row"),
    "two metas": ([(b"", _meta(V) + _meta(V)), V_ROW], "no meta row"),
    "a meta that ends within a field": ([(b"", _meta(V)[:-3] + b"\xff"), V_ROW], "ends within|runs past|wire type"),
    "a newer version": ([(b"", _meta(V, more=bytes_field(2, number(1, 2) + number(2, 2))))], "newer reader"),
    "version 1 is bad": ([(b"", _meta(V, more=bytes_field(2, number(3, 1))))], "newer reader"),
    "a version that is no message": ([(b"", _meta(V, more=number(2, 1)))], "wire type"),
    "no name": ([(b"", _meta(meta_of(b"", "float32", (4, 3), [WHOLE]))), V_ROW], "without a name"),
    "a tensor twice": ([(b"", _meta(V, V)), V_ROW], "listed twice"),
    "no slices": ([(b"", _meta(meta_of(b"v", "float32", (4, 3), []))), V_ROW], "without slices"),
    "a slice twice": ([(b"", _meta(meta_of(b"v", "float32", (4, 3), [WHOLE, WHOLE]))), V_ROW], "listed twice"),
    "an empty slice twice": ([(b"", _meta(meta_of(b"v", "float32", (0, 3), [WHOLE, WHOLE]))), V_ROW], "listed twice"),
    "dtype 0": ([(b"", _meta(meta_of(b"v", 0, (4, 3), [WHOLE]))), V_ROW], "unknown dtype"),
    "a reference": ([(b"", _meta(meta_of(b"v", 101, (4, 3), [WHOLE]))), V_ROW], "unknown dtype"),
    "a negative dimension": ([(b"", _meta(meta_of(b"v", 1, (-4, 3), [WHOLE]))), V_ROW], "negative dimension"),
    "too many elements": ([(b"", _meta(meta_of(b"v", 1, (1 << 62, 4, 0), [WHOLE]))), V_ROW], "impossible shape"),
    "too many dimensions": ([(b"", _meta(meta_of(b"v", 1, (1,) * 300, [WHOLE]))), V_ROW], "impossible shape"),
    "another rank": ([(b"", _meta(meta_of(b"v", 1, (4, 3), [VECTOR]))), V_ROW], "rank of a slice is wrong"),
    "a slice outside": ([(b"", _meta(meta_of(b"v", 1, (4, 3), [((3, 2), (0, -1))]))), V_ROW], "outside its tensor"),
    "a negative start": ([(b"", _meta(meta_of(b"v", 1, (4, 3), [((-1, 5), (0, -1))]))), V_ROW], "outside its tensor"),
    "a slice of length 0": ([(b"", _meta(meta_of(b"v", 1, (4, 3), [((0, 0), (0, -1))]))), V_ROW], "is not positive"),
    "a huge length": (
        [(b"", _meta(meta_of(b"v", 1, (4, 3), [((1, (1 << 63) - 1), (0, -1))]))), V_ROW], "outside its tensor"
    ),
    "an overlap": (
        [(b"", _meta(meta_of(b"v", 1, (4, 3), [((0, 3), (0, -1)), ((2, 2), (0, -1))]))), END], "slices of a"
    ),
    "a row beyond the table's end": ([(b"", _meta(meta_of(b"w", 1, (4, 3), [WHOLE]))), V_ROW], "a slice is missing"),
    "a name of another kind": ([(b"", _meta(number(1, 7) + V)), V_ROW], "field 1 of a tensor's meta"),
    "two shapes": ([(b"", _meta(V + bytes_field(2, shape_proto((9,))))), V_ROW], "field 2 of a tensor's meta"),
    "an unknown rank": ([(b"", _meta(bytes_field(1, b"v") + bytes_field(2, number(3, 1)) + number(3, 1)
                                     + bytes_field(4, b""))), V_ROW], "unknown rank"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNOPENED)
def test_a_meta_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    """What contradicts itself in the meta keeps the file from being opened, with a line that names the file."""
    rows, message = UNOPENED[case]
    with pytest.raises(DamagedError, match=message) as caught:
        opened(tmp_path / "m", table([rows] if rows else []))
    assert str(caught.value).startswith(str(tmp_path / "m"))


def _row(*parts: bytes) -> bytes:
    return bytes_field(2, b"".join(parts))


NAME, SLICE, DATA = bytes_field(1, b"v"), bytes_field(2, slice_proto(VECTOR)), 3
PAST = b"\xff" * 9 + b"\x02"  # a varint of 65 bits
UNREAD: dict[str, tuple[str, bytes, str]] = {
    "no data": ("float32", b"", "holds no slice"),
    "a meta in its place": ("float32", _meta(V), "holds no slice"),
    "two data": ("float32", _row() + _row(), "is repeated"),
    "another name": ("float32", row_of(b"w", VECTOR, b""), "belongs to another tensor"),
    "no name": ("float32", _row(SLICE), "belongs to another tensor"),
    "another slice": ("float32", row_of(b"v", ((0, 3),), b""), "belongs to another slice"),
    "a slice outside": ("float32", row_of(b"v", ((1, 3),), b""), "outside its tensor"),
    "no slice": ("float32", _row(NAME), "rank of a slice is wrong"),
    "no values": ("float32", _row(NAME, SLICE), "wrong number of values.* expected 3, found 0"),
    "a name of another kind": ("float32", _row(number(1, 1)), "field 1 of a slice's row"),
    "a name twice": ("float32", _row(NAME, NAME), "is repeated"),
    "too few": ("float32", row_of(b"v", VECTOR, bytes_field(5, bytes(8))), "expected 3, found 2"),
    "too many": ("float32", row_of(b"v", VECTOR, bytes_field(5, bytes(16))), "expected 3, found 4 or more"),
    "half a value": ("float32", row_of(b"v", VECTOR, bytes_field(5, bytes(13))), "end inside a number"),
    "half a complex number": ("complex64", row_of(b"v", VECTOR, bytes_field(9, bytes(20))), "expected 6, found 5"),
    "values of another dtype": ("float32", row_of(b"v", VECTOR, bytes_field(6, bytes(24))), "expected 3, found 0"),
    "another wire type": ("float32", row_of(b"v", VECTOR, number(5, 1)), "are of wire type 0"),
    "too few strings": ("string", row_of(b"v", VECTOR, bytes_field(8, b"a")), "expected 3, found 1"),
    "too many strings": ("string", row_of(b"v", VECTOR, bytes_field(8, b"a") * 9), "expected 3, found 4 or more"),
    "a string that is none": ("string", row_of(b"v", VECTOR, number(8, 1)), "wire type 0"),
    "too few integers": ("int32", row_of(b"v", VECTOR, bytes_field(7, b"\x01\x02")), "expected 3, found 2"),
    "half an integer": ("int32", row_of(b"v", VECTOR, bytes_field(7, b"\x01\x02\x03\x80")), "end inside a number"),
    "more than 64 bits": ("int64", row_of(b"v", VECTOR, bytes_field(10, b"\x01\x02" + PAST)), "more than 64 bits"),
    "11 bytes": ("int64", row_of(b"v", VECTOR, bytes_field(10, b"\x80" * 10 + b"\x00\x01\x02")), "more than 64 bits"),
    "endless": ("int64", row_of(b"v", VECTOR, bytes_field(10, b"\x80" * 200_000 + b"\x00\x01\x02")), "more than 64"),
    "a single one of 65 bits": ("int64", row_of(b"v", VECTOR, varint(10 << 3) + PAST), "runs past the end"),
    "too large for uint8": ("uint8", row_of(b"v", VECTOR, bytes_field(7, b"\x01\x02\xac\x02")), "outside uint8"),
    "too small for int8": ("int8", row_of(b"v", VECTOR, bytes_field(7, b"\x01\x02" + varint(-129))), "outside int8"),
    "negative uint16": ("uint16", row_of(b"v", VECTOR, bytes_field(7, b"\x01\x02" + varint(-1))), "outside uint16"),
    "too large for int32": ("int32", row_of(b"v", VECTOR, bytes_field(7, b"\x01\x02" + varint(1 << 31))), "outside"),
    "a bool of 2": ("bool", row_of(b"v", VECTOR, bytes_field(11, b"\x00\x01\x02")), "outside bool"),
    "a half of 17 bits": ("float16", row_of(b"v", VECTOR, bytes_field(13, b"\x01\x02" + varint(65536))), "outside"),
}  # fmt: skip


def _with_row(dtype: str, row: bytes, shape: tuple[int, ...] = (3,)) -> bytes:
    meta = _meta(meta_of(b"v", dtype, shape, [((0, -1),) * len(shape)]))
    return table([[(b"", meta), (slice_key(b"v", ((0, -1),) * len(shape)), row)]])


@pytest.mark.parametrize("case", UNREAD)
def test_a_row_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    """A slice's row that is not what the meta says opens, but is neither read, nor checked, nor grafted."""
    dtype, row, message = UNREAD[case]
    make(tmp_path / "r", {"v": TEXT if dtype == "string" else np.zeros(3, dtype)})
    with opened(tmp_path / "m", _with_row(dtype, row)) as checkpoint, open_v1(tmp_path / "r") as recipient:
        variable = checkpoint["v"]
        change = Change("grafted", recipient["v"], Copy(checkpoint, variable))
        attempts: list[Callable[[], object]] = [
            lambda: checkpoint.read("v"),
            lambda: checkpoint.check(variable),
            lambda: v1_writing.save_as(Plan(recipient, [change]), str(tmp_path / "out"), False, False, 0.0),
        ]
        for attempt in attempts:
            with pytest.raises(DamagedError, match=message) as caught:
                attempt()
            assert str(caught.value).startswith(str(tmp_path / "m"))
            assert "of v" in str(caught.value)
        assert checkpoint.nbytes(variable) == (None if dtype == "string" else 3 * np.dtype(dtype).itemsize)
    assert [path.name for path in tmp_path.glob("out*")] == []


@pytest.mark.parametrize("dtype", ["float32", "int64", "string", "bool"])
@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 20, 1 << 20)])
def test_a_huge_shape_with_little_data_allocates_nothing(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    """A shape of terabytes over a few bytes is refused before memory is taken for it."""
    row = row_of(b"v", ((0, -1),) * len(shape), tensor(np.ones(3, "S1" if dtype == "string" else dtype), dtype))
    with opened(tmp_path / "m", _with_row(dtype, row, shape)) as checkpoint:
        tracemalloc.start()
        with pytest.raises(DamagedError, match="wrong number of values"):
            checkpoint.read("v")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
        tracemalloc.stop()


def test_one_true_slice_beside_a_huge_one_allocates_nothing(tmp_path: Path) -> None:
    """Where the first slice is true and the second claims terabytes, memory for the whole is not taken either."""
    slices: list[Extents] = [((0, 2),), ((2, 1 << 40),)]
    rows = [(slice_key(b"v", each), row_of(b"v", each, bytes_field(5, bytes(8)))) for each in slices]
    meta = _meta(meta_of(b"v", "float32", (2 + (1 << 40),), slices))
    with opened(tmp_path / "m", table([[(b"", meta), *rows]])) as checkpoint:
        tracemalloc.start()
        with pytest.raises(DamagedError, match="wrong number of values"):
            checkpoint.read("v")
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
        tracemalloc.stop()


@pytest.mark.parametrize(("shape", "values"), [((1,) * 100, bytes(4)), ((1 << 62, 0), b"")])
def test_a_shape_that_numpy_cannot_have(tmp_path: Path, shape: tuple[int, ...], values: bytes) -> None:
    """A shape that TensorFlow allows and NumPy does not is a line too."""
    row = row_of(b"v", ((0, -1),) * len(shape), bytes_field(5, values))
    with opened(tmp_path / "m", _with_row("float32", row, shape)) as checkpoint:
        checkpoint.check(checkpoint["v"])
        with pytest.raises(UnsupportedError, match="no NumPy array can have its shape"):
            checkpoint.read("v")


def test_rows_that_are_missing_or_too_many(tmp_path: Path) -> None:
    """A slice without its row is damage of that variable, a row without a variable is an oddity."""
    made = Made()
    made.add("a", MATRIX)
    made.add("b", MATRIX)
    row = made.rows.pop(slice_key(b"a", WHOLE))
    made.rows[slice_key(b"b", ((0, 4), (0, 3)))] = row
    with open_v1(made.write(tmp_path / "m")) as checkpoint:
        with pytest.raises(DamagedError, match="a slice is missing, of a"):
            checkpoint.check(checkpoint["a"])
        assert list(read_all_but(checkpoint, "a")) == ["b"]
        (oddity,) = checkpoint.oddities()
        assert "a row that belongs to no variable" in oddity


def read_all_but(checkpoint: V1, name: str) -> list[str]:
    """The names of the variables that read, less one."""
    return [each for each in checkpoint if each != name and checkpoint.read(each) is not None]


def test_a_row_in_the_wrong_block_is_not_found(tmp_path: Path) -> None:
    """Rows that the index does not lead to are damage, never silently another's."""
    made = Made()
    for name in "abc":
        made.add(name, MATRIX)
    keys = sorted(made.rows)
    data = made.bytes(per_block=2, separators=[keys[1], keys[2]])
    with opened(tmp_path / "m", data) as checkpoint:
        with pytest.raises(DamagedError, match=r"do not rise|wrong block|missing"):
            read_all(checkpoint)
        assert checkpoint.oddities()


def test_an_incomplete_set(tmp_path: Path) -> None:
    """One file of a set, or one whose other files are of another number, is no checkpoint."""
    first = make(tmp_path / "m-00000-of-00002", {"a": MATRIX})
    with pytest.raises(DamagedError, match="incomplete set; expected 2 files, found 1"):
        open_v1(first)
    second = make(tmp_path / "m-00001-of-00002", {"b": MATRIX})
    with pytest.raises(DamagedError, match="incomplete"):
        V1(str(tmp_path / "m"), [str(second), str(first)])
    with V1(str(tmp_path / "m"), [str(first), str(second)]) as checkpoint:
        assert list(checkpoint) == ["a", "b"]
    second.unlink()
    for path in (tmp_path / "m", first):
        with pytest.raises(DamagedError, match="missing"):
            formats.open(str(path))


def test_files_of_a_set_that_differ(tmp_path: Path) -> None:
    """Two files that give a tensor other dtypes or shapes, or the same slice, are refused."""
    first = Made()
    first.add("v", MATRIX, slices=HALVES, kept=[0])
    others = {"the files of the set differ": Made(), "differ": Made(), "listed twice": first}
    others["the files of the set differ"].add("v", MATRIX.astype(np.float64), slices=HALVES, kept=[1])
    others["differ"].add("v", MATRIX[:3], slices=[((0, 1), (0, -1)), ((1, 2), (0, -1))], kept=[1])
    paths = [str(first.write(tmp_path / "m-00000-of-00002")), str(tmp_path / "m-00001-of-00002")]
    for message, other in others.items():
        other.write(Path(paths[1]))
        with pytest.raises(DamagedError, match=message):
            V1(str(tmp_path / "m"), paths)


def test_many_slices_take_linear_time(tmp_path: Path) -> None:
    """Twenty thousand slices of one tensor, in no order, open and read: no two are compared, no block is read twice."""
    values = np.arange(20_000, dtype=np.int64)
    made = Made()
    made.add("v", values, slices=[((int(at), 1),) for at in np.random.default_rng(0).permutation(20_000)])
    with open_v1(made.write(tmp_path / "m", per_block=2000)) as checkpoint:
        assert checkpoint.read("v").tolist() == values.tolist()
