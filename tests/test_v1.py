"""TensorFlow V1 checkpoints without TensorFlow: made by hand, written and read back, carried, and crashed."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash import Failing, files_of, survives
from handmade import Extents, HandMade, number, shape_proto, slice_proto, snappy, strings, table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Arrays, checkpoints, same, texts, write_bundle
from strategies import numbers as any_numbers

from ckptsurgeon import formats, numeric
from ckptsurgeon.checkpoint import Checkpoint, Variable
from ckptsurgeon.errors import BusyError, CkptSurgeonError, Problems, RefusedError, StorageError, UnsupportedError
from ckptsurgeon.formats import locating
from ckptsurgeon.formats.bundle.reading import Bundle
from ckptsurgeon.formats.tensorflow.sstable import read_rows
from ckptsurgeon.formats.tensorflow.tensors import NUMBERS, slice_key
from ckptsurgeon.formats.tensorflow.wire import bytes_field, fields, varint
from ckptsurgeon.formats.v1 import writing as v1_writing
from ckptsurgeon.formats.v1.reading import V1
from ckptsurgeon.formats.v1.rows import FIELDS
from ckptsurgeon.plan import Change, Copy, Fill, Plan, Text, Values
from ckptsurgeon.publish import Lock

VERSION = bytes.fromhex("12020801")
FIXED = {"float32": (5, "<f"), "float64": (6, "<d"), "complex64": (9, "<ff"), "complex128": (12, "<dd")}
VARINTS = {"int64": 10, "bool": 11, "float16": 13}  # all other integers: 7
DTYPES = tuple(dtype for dtype in FIELDS if dtype != "string" and not dtype.startswith("q"))
QUANTIZED = ("qint8", "quint8", "quint16", "qint32")
MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)
TEXT = strings(b"one", b"", b"z" * 300)
HALVES: tuple[Extents, ...] = (((0, 2), (0, -1)), ((2, 2), (0, -1)))
SPELT: tuple[Extents, ...] = (((0, 4), (0, 3)),)

a_few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# -- checkpoints made by hand


def tensor(values: NDArray[Any], dtype: str, packed: bool = True) -> bytes:
    """A TensorProto of values, one at a time."""
    flat = values.ravel().tolist()
    if dtype == "string":
        return b"".join(bytes_field(8, value) for value in flat)
    if dtype in FIXED:
        field, form = FIXED[dtype]
        parts = [struct.pack(form, *((v.real, v.imag) if len(form) == 3 else (v,))) for v in flat]
        size = struct.calcsize(form[:2])
        singles = [part[at : at + size] for part in parts for at in range(0, len(part), size)]
        wire = 5 if size == 4 else 1
    else:
        field, wire = VARINTS.get(dtype, 7), 0
        if dtype == "float16":
            flat = np.ascontiguousarray(values).view(np.uint16).ravel().tolist()
        singles = [varint(int(value)) for value in flat]
    if packed:
        return bytes_field(field, b"".join(singles)) if singles else b""
    return b"".join(varint(field << 3 | wire) + single for single in singles)


def meta_of(name: bytes, dtype: str | int, shape: Iterable[int], slices: Iterable[Extents], more: bytes = b"") -> bytes:
    """A SavedSliceMeta, true or not."""
    kind = NUMBERS[dtype] if isinstance(dtype, str) else dtype
    head = bytes_field(1, name) + bytes_field(2, shape_proto(shape)) + number(3, kind)
    return head + b"".join(bytes_field(4, slice_proto(extents)) for extents in slices) + more


def row_of(name: bytes, extents: Extents, proto: bytes, more: bytes = b"") -> bytes:
    """A row of a slice, true or not."""
    saved = bytes_field(1, name) + bytes_field(2, slice_proto(extents)) + bytes_field(3, proto) + more
    return bytes_field(2, saved)


class Made:
    """A V1 file under construction.

    Attributes:
        metas: encoded SavedSliceMetas; change them at will.
        rows: the other rows; change them at will.
        more: what follows the tensors in the meta.
        outside: what follows the meta in its row.
    """

    def __init__(self) -> None:
        self.metas: list[bytes] = []
        self.rows: dict[bytes, bytes] = {}
        self.more = VERSION
        self.outside = b""

    def add(
        self,
        name: str | bytes,
        values: NDArray[Any],
        dtype: str | None = None,
        slices: Sequence[Extents] | None = None,
        packed: bool = True,
        kept: Sequence[int] | None = None,
    ) -> None:
        """Add a tensor, or of its slices those whose numbers are `kept`."""
        key = name if isinstance(name, bytes) else name.encode()
        dtype = dtype or ("string" if values.dtype.kind == "O" else values.dtype.name)
        slices = [((0, -1),) * values.ndim] if slices is None else slices
        slices = [slices[at] for at in (range(len(slices)) if kept is None else kept)]
        self.metas.append(meta_of(key, dtype, values.shape, slices))
        for extents in slices:
            part = values[(*(slice(start, None if n < 0 else start + n) for start, n in extents), ...)]
            proto = tensor(part, dtype, packed)
            self.rows[slice_key(key, extents)] = row_of(key, extents, proto)

    def bytes(self, per_block: int = 1000, **options: Any) -> bytes:
        """The file."""
        meta = b"".join(bytes_field(1, each) for each in self.metas) + self.more
        rows = [(b"", bytes_field(1, meta) + self.outside), *sorted(self.rows.items())]
        return table([rows[at : at + per_block] for at in range(0, len(rows), per_block)], **options)

    def write(self, path: Path, **options: Any) -> Path:
        """Write it."""
        path.write_bytes(self.bytes(**options))
        return path


def make(path: Path, arrays: Arrays, **options: Any) -> Path:
    """Write a checkpoint of these arrays by hand."""
    made = Made()
    for name, values in arrays.items():
        made.add(name, values)
    return made.write(path, **options)


def open_v1(path: Path | str) -> V1:
    """A checkpoint of one file."""
    return V1(str(path), [str(path)])


def read_all(checkpoint: Checkpoint) -> Arrays:
    """All values."""
    return {name: checkpoint.read(name) for name in checkpoint}


def assert_holds(checkpoint: Checkpoint, expected: Arrays) -> None:
    """The very names in order, and all values; nothing is damaged."""
    found = read_all(checkpoint)
    assert set(found) == {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name in expected} or set(found) == set(
        expected
    )
    for name, values in expected.items():
        variable = checkpoint[name]
        array = checkpoint.read(variable.name)
        assert same(array, values), name
        assert array.flags.owndata
        assert array.dtype.isnative
        checkpoint.check(variable)
    assert checkpoint.oddities() == []


def new(path: Path, arrays: Arrays, **options: Any) -> Path:
    """Write arrays by our writer, through a V2 checkpoint."""
    prefix = write_bundle(path.with_name(f"{path.name}-v2"), arrays)
    with Bundle(str(prefix)) as bundle:
        v1_writing.save_as(Plan(bundle, []), str(path), **{"force": False, "sync": False, "wait": 0.0, **options})
    return path


def rows_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """The rows of a file: what was made by hand has other keys in its index than ours."""
    return list(read_rows(lambda offset, length: data[offset : offset + length], len(data)))


def rewrite(path: Path, out: Path, changes: list[Change] | None = None) -> Path:
    """Carry changes of a V1 checkpoint out as a new one."""
    with open_v1(path) as old:
        v1_writing.save_as(Plan(old, changes or []), str(out), True, False, 0.0)
    return out


def edit(path: Path, changes: Any) -> list[str]:
    """Carry changes, a function of the open checkpoint, out in place."""
    with Lock(str(path), 0.0) as lock, open_v1(path) as old:
        return v1_writing.save_in_place(Plan(old, changes(old)), lock, True, 0.0)


def examples() -> Arrays:
    """A tensor of every dtype that NumPy names, with its extremes, and shapes of all kinds."""
    arrays: Arrays = {"text": TEXT, "word": strings(b"w").reshape(()), "none": strings()}
    for dtype in DTYPES:
        kind = numeric.dtype(dtype)
        if kind.kind in "iu":
            limits = np.iinfo(kind)
            values = np.array([limits.min, limits.max, 0, 1, 127, 5], kind).reshape(2, 3)
        elif kind.kind == "b":
            values = np.array([[True, False, True]])
        elif kind.kind == "c":
            values = np.array([1 - 2j, complex(np.nan, np.inf), -0.0], kind)
        else:
            values = np.array([0.1, -0.0, np.nan, np.inf, np.finfo(kind).max], kind)
        arrays[f"{dtype}/a"] = values
        arrays[f"{dtype}/scalar"] = np.ones((), kind)
        arrays[f"{dtype}/empty"] = np.empty((0, 3), kind)
    return arrays


# -- reading


def test_samples_agree_with_what_tensorflow_read(samples: Path) -> None:
    """The checkpoints that other people's programs wrote hold the names, shapes, dtypes and bytes that are expected."""
    expected = json.loads((samples / "expected.json").read_text())
    tried = 0
    for path, content in expected.items():
        if content["format"] != "tf-v1":
            continue
        found = locating.locate(str(samples / path))
        with V1(found.path, found.files) as checkpoint:
            assert checkpoint.format == "tf-v1"
            assert set(checkpoint) == set(content["variables"])
            for name, (shape, dtype, digest) in content["variables"].items():
                values = checkpoint.read(name)
                assert (list(checkpoint[name].shape), checkpoint[name].dtype) == (shape, dtype)
                assert hashlib.sha256(values.tobytes()).hexdigest().startswith(digest)
            assert checkpoint.oddities() == []
        tried += 1
    assert tried == 3


def test_samples_are_rewritten_byte_for_byte(samples: Path, tmp_path: Path) -> None:
    """A plan that changes nothing gives the very bytes of a file that TensorFlow wrote in 2016."""
    for sample in ("skflow-2016/time16/model-200", "v1-sharded-name/export-00000-of-00001"):
        out = rewrite(samples / sample, tmp_path / "out")
        assert out.read_bytes() == (samples / sample).read_bytes()


@pytest.mark.parametrize("packed", [True, False])
def test_values_of_every_dtype(tmp_path: Path, packed: bool) -> None:
    """Every dtype reads, its numbers packed or one by one, extremes, scalars and empty tensors among them."""
    made = Made()
    for name, values in examples().items():
        made.add(name, values, packed=packed)
    with open_v1(made.write(tmp_path / "m")) as checkpoint:
        assert list(checkpoint) == list(examples())
        assert_holds(checkpoint, examples())


@pytest.mark.parametrize("dtype", QUANTIZED)
def test_quantized_numbers_come_as_integers(tmp_path: Path, dtype: str) -> None:
    """Quantized kinds read as the stored integers, and are written back if TensorFlow could read them."""
    values = np.array([0, 1, 127], numeric.dtype(dtype))
    made = Made()
    made.add("q", values, dtype)
    with open_v1(made.write(tmp_path / "m")) as checkpoint:
        assert checkpoint["q"].dtype == dtype
        assert same(checkpoint.read("q"), values)
    if dtype == "quint16":
        with pytest.raises(RefusedError, match="q: a V1 checkpoint cannot hold quint16"):
            edit(tmp_path / "m", lambda old: [Change("set", old["q"], Values(values))])
        return
    edit(tmp_path / "m", lambda old: [Change("set", old["q"], Values(values[::-1].copy()))])
    with open_v1(tmp_path / "m") as checkpoint:
        assert same(checkpoint.read("q"), values[::-1].copy())


def test_packed_and_single_values_may_be_mixed(tmp_path: Path) -> None:
    """Values may stand in several fields, packed and single, between fields that nobody knows, in any order."""
    made = Made()
    made.add("w", np.array([1, 2, 3, 4], np.float32))
    made.add("c", np.array([1 + 2j], np.complex64))
    key = slice_key(b"w", ((0, -1),))
    one = tensor(np.array([1, 2], np.float32), "float32")
    two = tensor(np.array([3], np.float32), "float32", packed=False)
    mixed = number(99, 7) + one + two + tensor(np.array([4], np.float32), "float32") + number(1, 1)
    made.rows[key] = bytes_field(9, b"?") + bytes_field(
        2, number(77, 1) + bytes_field(3, mixed) + bytes_field(2, slice_proto(((0, -1),))) + bytes_field(1, b"w")
    )
    half, other = struct.pack("<f", 1), struct.pack("<f", 2)
    split = bytes_field(9, half) + varint(9 << 3 | 5) + other
    made.rows[slice_key(b"c", ((0, -1),))] = row_of(b"c", ((0, -1),), split)
    with open_v1(made.write(tmp_path / "m")) as checkpoint:
        assert checkpoint.read("w").tolist() == [1, 2, 3, 4]
        assert checkpoint.read("c").tolist() == [1 + 2j]


def test_slices_are_put_together(tmp_path: Path) -> None:
    """A tensor in slices, in any order, reads whole; one slice spelt out stays spelt out."""
    made = Made()
    made.add("a", MATRIX, slices=HALVES[::-1])
    made.add("b", MATRIX, slices=SPELT)
    made.add("c", MATRIX)
    made.add("t", TEXT, slices=[((0, 1),), ((1, 2),)])
    with open_v1(made.write(tmp_path / "m")) as checkpoint:
        assert checkpoint["a"].slices == HALVES[::-1]
        assert checkpoint["b"].slices == SPELT
        assert checkpoint["c"].slices is None
        for name in "abc":
            assert same(checkpoint.read(name), MATRIX)
            assert checkpoint.nbytes(checkpoint[name]) == MATRIX.nbytes
        assert same(checkpoint.read("t"), TEXT)
        assert checkpoint.nbytes(checkpoint["t"]) == 303


def test_a_set_is_the_union_of_its_files(tmp_path: Path) -> None:
    """Each file of a set adds its tensors and slices; the extents say which file."""
    first, second = Made(), Made()
    first.add("a", MATRIX, slices=HALVES, kept=[1])
    first.add("x", TEXT)
    second.add("a", MATRIX, slices=HALVES, kept=[0])
    second.add("y", MATRIX)
    paths = [str(first.write(tmp_path / "m-00000-of-00002")), str(second.write(tmp_path / "m-00001-of-00002"))]
    with V1(str(tmp_path / "m"), paths) as checkpoint:
        assert checkpoint.shards == 2
        assert [extent.file for extent in checkpoint["a"].extents] == paths
        assert_holds(checkpoint, {"a": MATRIX, "x": TEXT, "y": MATRIX})
        v1_writing.save_as(Plan(checkpoint, []), str(tmp_path / "one"), False, False, 0.0)
        with pytest.raises(RefusedError, match="of 2 files cannot be replaced in place; use -o"):
            v1_writing.save_in_place(Plan(checkpoint, []), Lock(paths[0], 0.0), False, 0.0)
        Path(paths[1]).touch()
        assert not checkpoint.was_replaced()
        before = checkpoint.fingerprint()
    os.replace(second.write(tmp_path / "new"), paths[1])
    assert checkpoint.was_replaced()
    with open_v1(tmp_path / "one") as merged:
        assert_holds(merged, {"a": MATRIX, "x": TEXT, "y": MATRIX})
        assert merged["a"].slices == HALVES[::-1]
        assert merged.fingerprint() != before


def test_opening_reads_the_index_and_the_first_block_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing takes three reads however many blocks there are, a value one more."""
    path = make(tmp_path / "m", {f"v{at:03d}": MATRIX + at for at in range(100)}, per_block=10)
    reads = []
    real = os.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        reads.append((offset, length))
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", counted)
    with open_v1(path) as checkpoint:
        assert len(checkpoint) == 100
        assert len(reads) == 3
        checkpoint.read("v050")
        checkpoint.read("v051")
        assert len(reads) == 4
        chunk = b"".join(checkpoint.chunks(checkpoint["v050"].extents[0]))
        assert tensor(MATRIX + 50, "float32") in chunk


def test_names_of_an_object_based_checkpoint_are_short(tmp_path: Path) -> None:
    """The end of a key that all variables of an object-based checkpoint have is left out, unless names would clash."""
    end = "/.ATTRIBUTES/VARIABLE_VALUE"
    path = make(tmp_path / "m", {"a" + end: MATRIX, "b" + end: MATRIX + 1, "b": MATRIX + 2, "c": MATRIX})
    with open_v1(path) as checkpoint:
        assert list(checkpoint) == ["a", "b" + end, "b", "c"]
        assert checkpoint.find("a" + end) is checkpoint["a"]
        assert checkpoint.find("c" + end) is None
        assert same(checkpoint.read("b"), MATRIX + 2)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A name of any bytes lists, reads and is carried."""
    made = Made()
    made.add(b"\xff\x00/\x01", MATRIX)
    path = made.write(tmp_path / "m")
    with open_v1(path) as checkpoint:
        assert list(checkpoint) == ["\udcff\x00/\x01"]
        assert same(checkpoint.read("\udcff\x00/\x01"), MATRIX)
    assert rows_of(rewrite(path, tmp_path / "out").read_bytes()) == rows_of(path.read_bytes())


def test_dtypes_that_tensorflow_does_not_write(tmp_path: Path) -> None:
    """A tensor of a dtype that V1 has no values for lists and is carried, but does not read."""
    made = Made()
    made.metas.append(meta_of(b"b", "bfloat16", (2,), [((0, -1),)]))
    made.rows[slice_key(b"b", ((0, -1),))] = row_of(b"b", ((0, -1),), b"")
    path = made.write(tmp_path / "m")
    with open_v1(path) as checkpoint:
        assert checkpoint["b"].dtype == "bfloat16"
        checkpoint.check(checkpoint["b"])
        with pytest.raises(UnsupportedError, match="bfloat16"):
            checkpoint.read("b")
    assert rows_of(rewrite(path, tmp_path / "out").read_bytes()) == rows_of(path.read_bytes())


def test_many_integers_of_all_lengths(tmp_path: Path) -> None:
    """Integers whose varints take 1 to 10 bytes, more than are decoded at a time, read and are written as they were."""
    powers = np.array([1 << bit for bit in range(63)] + [-(1 << bit) for bit in range(64)], np.int64)
    values = np.tile(powers, 2000)
    path = make(tmp_path / "m", {"v": values})
    with open_v1(path) as checkpoint:
        assert same(checkpoint.read("v"), values)
    assert rows_of(new(tmp_path / "n", {"v": values}).read_bytes()) == rows_of(path.read_bytes())


def test_compressed_blocks(tmp_path: Path) -> None:
    """Blocks may be compressed, as in files from around TensorFlow 1.1."""
    with open_v1(make(tmp_path / "m", {"v": MATRIX, "t": TEXT}, seal=snappy)) as checkpoint:
        assert_holds(checkpoint, {"v": MATRIX, "t": TEXT})


# -- writing


@a_few
@given(checkpoints(DTYPES))
def test_round_trip(tmp_path: Path, arrays: Arrays) -> None:
    """What is written reads back, name by name and bit by bit, and rewriting it changes no byte."""
    path = new(tmp_path / "m", arrays, force=True)
    with open_v1(path) as checkpoint:
        for name, values in arrays.items():
            assert same(checkpoint.read(name), values)
            checkpoint.check(checkpoint[name])
        assert len(checkpoint) == len(arrays)
        assert checkpoint.oddities() == []
    assert rewrite(path, tmp_path / "again").read_bytes() == path.read_bytes()


@a_few
@given(st.one_of(st.sampled_from(DTYPES).flatmap(any_numbers), texts()), st.booleans())
def test_values_made_by_hand_read_as_they_are(tmp_path: Path, values: NDArray[Any], packed: bool) -> None:
    """Any bits of any dtype, in a file that our writer did not make, read as they are."""
    if values.dtype.kind in "fc" and np.isnan(values).any() and not packed:
        values = np.nan_to_num(values)
    made = Made()
    made.add("v", values, packed=packed)
    if values.dtype.kind in "fc" and values.size:  # Python's floats would change the bits of a NaN
        field = FIXED[values.dtype.name][0] if values.dtype != np.float16 else None
        if field is not None:
            extents = ((0, -1),) * values.ndim
            made.rows[slice_key(b"v", extents)] = row_of(b"v", extents, bytes_field(field, values.tobytes()))
    with open_v1(made.write(tmp_path / "m")) as checkpoint:
        assert same(checkpoint.read("v"), values)


def test_several_blocks_are_rewritten_byte_for_byte(tmp_path: Path) -> None:
    """A checkpoint of many blocks, small rows beside rows larger than a block, keeps its cuts."""
    rng = np.random.default_rng(0)
    sizes = [10, 70_000, 3, 200_000, 1, 131_072, 65_536, 20_000, 20_000, 20_000]
    arrays = {f"v{at}": rng.normal(size=size).astype(np.float32) for at, size in enumerate(sizes)}
    path = new(tmp_path / "m", arrays)
    assert rewrite(path, tmp_path / "again").read_bytes() == path.read_bytes()
    with open_v1(path) as checkpoint:
        assert len({extent.offset for v in checkpoint.variables.values() for extent in v.extents}) > 3
        assert_holds(checkpoint, arrays)


def test_all_else_is_carried_byte_for_byte(tmp_path: Path) -> None:
    """Rows of kept variables and fields that nobody knows stay as they are beside one that is set."""
    made = Made()
    made.add("a", MATRIX, slices=HALVES)
    made.add("b", MATRIX)
    made.metas[0] += bytes_field(50, b"unknown")
    made.metas[1] += bytes_field(51, b"unknown")
    made.more += bytes_field(52, b"unknown")
    made.outside = bytes_field(53, b"unknown")
    kept = slice_key(b"a", HALVES[0])
    made.rows[kept] = row_of(b"a", HALVES[0], tensor(MATRIX[:2], "float32", packed=False), bytes_field(54, b"?"))
    path = made.write(tmp_path / "m")
    edit(path, lambda old: [Change("set", old["b"], Values(MATRIX * 2))])
    made.rows[slice_key(b"b", ((0, -1), (0, -1)))] = row_of(b"b", ((0, -1), (0, -1)), tensor(MATRIX * 2, "float32"))
    assert rows_of(path.read_bytes()) == rows_of(made.bytes())


def renamed(variable: Variable, name: str) -> Change:
    """A change of a name."""
    change = Change("renamed", variable, source=variable.name)
    change.key, change.name = name.encode(), name
    return change


def test_drop_rename_fill_text_and_add(tmp_path: Path) -> None:
    """Every kind of change does what it says, in the recipient's slices."""
    made = Made()
    for name in ("dropped", "renamed", "filled"):
        made.add(name, MATRIX, slices=HALVES)
    made.add("word", strings(b"w").reshape(()))
    made.add("kept", TEXT)
    path = made.write(tmp_path / "m")
    added = Variable("added", b"added", "int16", (3,), ())

    def changes(old: V1) -> list[Change]:
        return [
            Change("dropped", old["dropped"]),
            renamed(old["renamed"], "a new name"),
            Change("filled", old["filled"], Fill(0.5)),
            Change("set", old["word"], Text(b"\x00text")),
            Change("added", added, Values(np.array([1, -2, 300], np.int16))),
        ]

    assert edit(path, changes) == []
    with open_v1(path) as checkpoint:
        assert list(checkpoint) == ["a new name", "filled", "word", "kept", "added"]
        assert checkpoint["a new name"].slices == checkpoint["filled"].slices == HALVES
        word = strings(b"\x00text").reshape(())
        full, numbers_ = np.full_like(MATRIX, 0.5), np.array([1, -2, 300], np.int16)
        assert_holds(checkpoint, {"a new name": MATRIX, "filled": full, "word": word, "kept": TEXT, "added": numbers_})


@pytest.mark.parametrize(("here", "there"), [(None, HALVES), (HALVES, None), (SPELT, None), (HALVES, HALVES[::-1])])
@pytest.mark.parametrize("kind", ["tf-v1", "tf-v2"])
def test_a_donor_that_is_cut_otherwise(tmp_path: Path, here: Any, there: Any, kind: str) -> None:
    """Values of a donor, V1 or V2, in whatever slices, go into the recipient's slices."""
    recipient = Made()
    recipient.add("v", MATRIX * 0, slices=here)
    path = recipient.write(tmp_path / "m")
    if kind == "tf-v1":
        made = Made()
        made.add("w", MATRIX, slices=there)
        donor: Checkpoint = open_v1(made.write(tmp_path / "d"))
    else:
        bundle = HandMade(big=True)
        bundle.add_sliced("w", MATRIX, there) if there else bundle.add("w", MATRIX)
        donor = Bundle(str(bundle.write(tmp_path / "d")))
    with donor:
        edit(path, lambda old: [Change("grafted", old["v"], Copy(donor, donor["w"]))])
    recipient = Made()
    recipient.add("v", MATRIX, slices=here)
    assert rows_of(path.read_bytes()) == rows_of(recipient.bytes())


def test_equal_slices_are_copied_undecoded(tmp_path: Path) -> None:
    """A donor's TensorProto in equal slices is carried as it stands, even if TensorFlow would write it otherwise."""
    make(tmp_path / "m", {"v": MATRIX * 0})
    made = Made()
    made.add("w", MATRIX, packed=False)
    with open_v1(made.write(tmp_path / "d")) as donor:
        edit(tmp_path / "m", lambda old: [Change("grafted", old["v"], Copy(donor, donor["w"]))])
    assert tensor(MATRIX, "float32", packed=False) in (tmp_path / "m").read_bytes()


def test_what_a_v1_checkpoint_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    """All variables that cannot be stored are told together, and nothing is written."""
    import ml_dtypes

    arrays: Arrays = {
        "b": np.zeros(2, ml_dtypes.bfloat16), "u": np.zeros(2, np.uint32), "w": np.zeros(2, np.uint64),
        "i": np.zeros(2, ml_dtypes.int4), "f": MATRIX,
    }  # fmt: skip
    bundle = HandMade()
    for name, values in arrays.items():
        bundle.add(name, values)
    bundle.add(b"\xff", MATRIX)
    with Bundle(str(bundle.write(tmp_path / "b"))) as checkpoint, pytest.raises(Problems) as caught:
        v1_writing.save_as(Plan(checkpoint, []), str(tmp_path / "m"), False, False, 0.0)
    assert len(caught.value.problems) == 5
    assert {str(problem).split(": ")[1] for problem in caught.value.problems} == {"b", "u", "w", "i", "\\xff"}
    assert files_of(tmp_path / "m") == {}


@pytest.mark.parametrize(("dtype", "most"), [("int32", 214_748_000), ("float32", 536_870_000), ("bool", 2_147_480_000)])
def test_slices_that_tensorflow_would_not_write_are_refused(tmp_path: Path, dtype: str, most: int) -> None:
    """A slice is refused from TensorFlow's estimate of its row, not from what it would take, before it is made."""
    path = make(tmp_path / "m", {"v": MATRIX})
    variable = Variable("big", b"big", dtype, (most + 5000,), ())
    with pytest.raises(RefusedError, match="big: too large"):
        edit(path, lambda old: [Change("added", variable, Fill(1))])
    half = ((0, most // 2),), ((most // 2, most + 5000 - most // 2),)
    halves = Variable("big", b"big", dtype, (most + 5000,), (), half)
    plan = Plan(open_v1(path), [Change("added", halves, Fill(1))])
    v1_writing._check(plan, plan.results(), str(path))


def test_where_it_may_be_written(tmp_path: Path) -> None:
    """A name that is taken needs force; with it a V1 or a V2 checkpoint is replaced."""
    make(tmp_path / "old", {"v": MATRIX})
    write_bundle(tmp_path / "bundle", {"v": MATRIX})
    for name in ("old", "bundle"):
        with pytest.raises(RefusedError, match="exists already; --force"):
            new(tmp_path / name, {"w": MATRIX})
        new(tmp_path / name, {"w": MATRIX}, force=True)
        assert set(files_of(tmp_path / name)) == {name, f"{name}-v2.index", f"{name}-v2.data-00000-of-00001"}
        with formats.open(str(tmp_path / name)) as checkpoint:
            assert isinstance(checkpoint, V1)
            assert list(checkpoint) == ["w"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(RefusedError, match="no checkpoint can have this name"):
        new(tmp_path / "folder", {"w": MATRIX}, force=True)
    with pytest.raises(CkptSurgeonError):
        rewrite(tmp_path / "old", tmp_path / "missing" / "m")


def test_somebody_saved_meanwhile(tmp_path: Path) -> None:
    """A recipient that was replaced while its lock was held is left alone."""
    path = make(tmp_path / "m", {"v": MATRIX})
    with Lock(str(path), 0.0) as lock, open_v1(path) as old:
        os.replace(make(tmp_path / "n", {"v": MATRIX * 3}), path)
        with pytest.raises(BusyError, match="another process saved it in the meantime"):
            v1_writing.save_in_place(Plan(old, [Change("filled", old["v"], Fill(1))]), lock, True, 0.0)
    with open_v1(path) as checkpoint:
        assert_holds(checkpoint, {"v": MATRIX * 3})
    assert set(files_of(path)) == {"m"}


OPERATIONS = ("in place", "as a new one", "over a V2 one")


def _prepare(folder: Path, name: str) -> tuple[Any, Path]:
    """An operation on a checkpoint of several blocks, and where its result will be."""
    folder.mkdir()
    path = make(folder / "m", {"u": TEXT, "v": MATRIX, "w": MATRIX}, per_block=2)
    if name == "in place":
        return lambda: edit(path, lambda old: [Change("filled", old["v"], Fill(7))]), path
    if name == "over a V2 one":
        write_bundle(folder / "out", {"old": MATRIX})

    def operation() -> None:
        with open_v1(path) as old:
            change = Change("filled", old["v"], Fill(7))
            v1_writing.save_as(Plan(old, [change]), str(folder / "out"), name != "as a new one", True, 0.0)

    return operation, folder / "out"


def _read(path: Path) -> Any:
    try:
        with formats.open(str(path)) as checkpoint:
            assert checkpoint.oddities() == []
            return {name: values.tolist() for name, values in read_all(checkpoint).items()}
    except CkptSurgeonError:
        assert not path.exists()
        return None


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_point_leaves_the_old_or_the_new_checkpoint(tmp_path: Path, name: str) -> None:
    """Kill -9 before every call that changes the disk: old or new, and done again it is the new one, tidily."""
    operation, result = _prepare(tmp_path / "straight", name)
    old = _read(result)
    operation()
    new, tidy = _read(result), files_of(result)
    assert new != old
    outcomes = []
    for calls in range(100):
        operation, result = _prepare(tmp_path / str(calls), name)
        if survives(operation, calls):
            break
        outcomes.append(_read(result))
        assert outcomes[-1] in (old, new)
        if name != "as a new one" or outcomes[-1] is None:
            operation()
            assert _read(result) == new
            if name != "over a V2 one":
                assert files_of(result) == tidy
    assert old in outcomes
    assert new in outcomes


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_full_disk_at_every_point_changes_nothing(tmp_path: Path, name: str) -> None:
    """An error of the operating system at any call: one line, the old checkpoint or the new one, nothing left over."""
    for calls in range(100):
        operation, result = _prepare(tmp_path / str(calls), name)
        old, before = _read(result), files_of(result)
        with Failing(calls) as failing:
            try:
                operation()
                failed = False
            except StorageError:
                failed = True
        if not failing.reached:
            return
        if failed and name != "over a V2 one":
            assert _read(result) == old
            assert files_of(result) == before
        else:
            assert _read(result) is not None
    raise AssertionError("it never came to an end")


def test_a_partition_may_change(tmp_path: Path) -> None:
    """A variable that is to have other slices than it has gets a new meta and new rows, the old rows go."""
    made = Made()
    made.add("v", MATRIX, slices=HALVES)
    path = made.write(tmp_path / "m")

    def changes(old: V1) -> list[Change]:
        whole = Variable("v", b"v", "float32", (4, 3), ())
        return [Change("unpartitioned", whole, Copy(old, old["v"]))]

    edit(path, changes)
    assert rows_of(path.read_bytes()) == rows_of(make(tmp_path / "whole", {"v": MATRIX}).read_bytes())


def test_an_empty_plan_of_a_bundle_is_a_conversion(tmp_path: Path) -> None:
    """All of a V2 checkpoint, big-endian and partitioned, becomes a V1 checkpoint with the same slices and values."""
    made = HandMade(2, big=True)
    made.add("a", MATRIX)
    made.add("t", TEXT, 1)
    made.add_sliced("s", MATRIX, HALVES)
    with Bundle(str(made.write(tmp_path / "b"))) as bundle:
        v1_writing.save_as(Plan(bundle, []), str(tmp_path / "m"), False, False, 0.0)
    with open_v1(tmp_path / "m") as checkpoint:
        assert_holds(checkpoint, {"a": MATRIX, "s": MATRIX, "t": TEXT})
        assert checkpoint["s"].slices == HALVES


def test_meta_is_as_tensorflow_writes_it(tmp_path: Path) -> None:
    """The worked example: a vector of two floats gives the bytes that TensorFlow gives."""
    path = new(tmp_path / "m", {"w": np.array([1, 2], np.float32)})
    data = path.read_bytes()
    assert len(data) == 151
    assert data.startswith(
        bytes.fromhex(
            "000017" "0a150a0f0a0177120412020802180122020a0012020801" "000815" "007700010101807f"
            "12130a0177" "12020a00" "1a0a2a08" "0000803f00000040"
        )
    )  # fmt: skip
    assert [each for each, *_ in fields(data[3:26])] == [1]
