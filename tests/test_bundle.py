"""Reading TensorFlow V2 checkpoints: whatever a sound one holds, and however its bytes are laid out."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import HEADER, HandMade, entry, masked, number, slice_proto, snappy, strings, variant_stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Arrays, arrays, checkpoints, same
from test_sstable import EXAMPLE

from ckptsurgeon import formats
from ckptsurgeon.errors import ChangedError, DamagedError, NotFoundError, RefusedError, UnsupportedError
from ckptsurgeon.formats.bundle.reading import Bundle
from ckptsurgeon.formats.bundle.strings import lengths_crc
from ckptsurgeon.formats.tensorflow.tensors import slice_key
from ckptsurgeon.formats.tensorflow.wire import bytes_field, crc32c
from ckptsurgeon.verbs import looking

EXAMPLE_DATA = bytes.fromhex("0000803f 00000040 00004040 00008040 0700000000000000")
MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)

in_one_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_all(prefix: Path) -> Arrays:
    """Every value, under the whole key of its variable."""
    with Bundle(str(prefix)) as bundle:
        return {variable.key.decode(): bundle.read(name) for name, variable in bundle.variables.items()}


def assert_holds(prefix: Path, expected: Arrays) -> None:
    """The checkpoint holds these variables, value by value, and is sound."""
    found = read_all(prefix)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert same(found[name], values), name
    assert all(finding.ok for finding in looking.verify(str(prefix)))


def test_the_worked_example(tmp_path: Path) -> None:
    """TensorFlow's own bytes: names, dtypes, shapes, places, checksums and values."""
    (tmp_path / "m.index").write_bytes(EXAMPLE)
    (tmp_path / "m.data-00000-of-00001").write_bytes(EXAMPLE_DATA)
    assert_holds(tmp_path / "m", {"step": np.asarray(7), "w": np.array([[1, 2], [3, 4]], np.float32)})
    with Bundle(str(tmp_path / "m")) as bundle:
        assert list(bundle) == ["step", "w"]
        step, w = bundle["step"], bundle["w"]
        assert [(v.dtype, v.shape, bundle.nbytes(v)) for v in (step, w)] == [("int64", (), 8), ("float32", (2, 2), 16)]
        [extent] = w.extents
        assert (extent.offset, extent.length, extent.crc) == (0, 16, 0x7498284C)
        [extent] = step.extents
        assert (extent.offset, extent.length, extent.crc) == (16, 8, 0x119FD7BB)
        assert bundle.fingerprint() == hashlib.sha256(EXAMPLE).hexdigest()
        assert bundle.data_files == [str(tmp_path / "m.data-00000-of-00001")]


def test_the_worked_example_is_written(tmp_path: Path) -> None:
    """Its tensors give TensorFlow's header, entries and bytes, in other places: ours are in the order of names."""
    formats.write(str(tmp_path / "m"), {"w": np.array([[1, 2], [3, 4]], np.float32), "step": np.asarray(7)})
    assert (tmp_path / "m.data-00000-of-00001").read_bytes() == EXAMPLE_DATA[16:] + EXAMPLE_DATA[:16]
    with Bundle(str(tmp_path / "m")) as bundle:
        assert bundle.rows == {
            b"": HEADER,
            b"step": bytes.fromhex("0809 1200 2808 35bbd79f11"),
            b"w": bytes.fromhex("0801 120812020802 12020802 2008 2810 354c289874"),
        }


@settings(in_one_folder, max_examples=60)
@given(expected=checkpoints())
def test_what_is_written_is_read(tmp_path: Path, expected: Arrays) -> None:
    """Random checkpoints over all dtypes, shapes and odd names come back bit by bit."""
    formats.write(str(tmp_path / "m"), expected, sync=False)
    assert_holds(tmp_path / "m", expected)
    with formats.open(str(tmp_path / "m")) as checkpoint:
        for name, values in expected.items():
            assert same(checkpoint.read(name), values)  # by its whole key too
            assert checkpoint[name].size == values.size
            stored = sum(map(len, values.ravel())) if values.dtype.kind == "O" else values.nbytes
            assert checkpoint.nbytes(checkpoint[name]) == stored


def test_arrays_of_another_byte_order_are_written_as_their_values(tmp_path: Path) -> None:
    """A big-endian array in memory is no big-endian array on disk."""
    formats.write(str(tmp_path / "m"), {"a": MATRIX.astype(">f4"), "b": np.asarray(258, ">i8")}, sync=False)
    assert_holds(tmp_path / "m", {"a": MATRIX, "b": np.asarray(258)})


@pytest.mark.parametrize("value", ["text", 5, None, bytearray(b"text")])
def test_objects_that_are_no_bytes_are_not_written(tmp_path: Path, value: object) -> None:
    """An object is stored as a string of bytes or not at all: 5 is not five zeros."""
    array = np.empty(2, object)
    array[:] = [b"good", value]
    with pytest.raises(RefusedError, match="stored as bytes"):
        formats.write(str(tmp_path / "m"), {"a": array})
    assert list(tmp_path.iterdir()) == []


@settings(in_one_folder, max_examples=60)
@given(expected=checkpoints(), data=st.data())
def test_any_layout_is_read(tmp_path: Path, expected: Arrays, data: st.DataObject) -> None:
    """Several shards and blocks, either byte order, gaps, unknown fields and compressed blocks: the same values."""
    made = HandMade(data.draw(st.integers(1, 4)), big=data.draw(st.booleans()))
    for name in data.draw(st.permutations(list(expected))):
        shard, gap = data.draw(st.integers(0, len(made.data) - 1)), data.draw(st.integers(0, 3))
        unknown = data.draw(st.sampled_from((b"", number(9, 300) + bytes_field(15, b"later"))))
        made.add(name, expected[name], shard, gap, more=unknown)
    per_block, options = data.draw(st.integers(1, 4)), data.draw(st.sampled_from(({}, {"seal": snappy})))
    made.write(tmp_path / "m", per_block=per_block, interval=data.draw(st.integers(1, 20)), **options)
    assert_holds(tmp_path / "m", expected)
    for path in tmp_path.iterdir():
        path.unlink()


@st.composite
def cuts_of(draw: st.DrawFn, shape: tuple[int, ...]) -> list[tuple[tuple[int, int], ...]]:
    """Slices that cover a shape: cut again and again in any dimension, a whole one spelt out or left open."""
    boxes = [[(0, size) for size in shape]]
    for _ in range(draw(st.integers(0, 4))):
        box = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        dimension = draw(st.integers(0, len(shape) - 1))
        start, length = box[dimension]
        if length < 2:
            boxes.append(box)
            continue
        first = draw(st.integers(1, length - 1))
        boxes.append([*box[:dimension], (start, first), *box[dimension + 1 :]])
        boxes.append([*box[:dimension], (start + first, length - first), *box[dimension + 1 :]])
    is_open = draw(st.booleans())
    return [
        tuple((0, -1) if is_open and part == (0, size) else part for part, size in zip(box, shape, strict=True))
        for box in boxes
    ]


@settings(in_one_folder, max_examples=60)
@given(values=arrays().filter(lambda array: array.ndim > 0 and array.size > 0), data=st.data())
def test_any_partition_is_put_together(tmp_path: Path, values: Any, data: st.DataObject) -> None:
    """Slices cut in any dimensions, in any order, over several shards, of any dtype: the whole tensor."""
    made = HandMade(data.draw(st.integers(1, 3)), big=data.draw(st.booleans()))
    made.add("before", MATRIX)
    made.add_sliced("v/part", values, data.draw(cuts_of(values.shape)))
    made.write(tmp_path / "m", per_block=2)
    with Bundle(str(tmp_path / "m")) as bundle:
        assert list(bundle) == ["before", "v/part"]
        assert same(bundle.read("v/part"), values)
        assert bundle["v/part"].shape == values.shape
        stored = sum(map(len, values.ravel())) if values.dtype.kind == "O" else values.nbytes
        assert bundle.nbytes(bundle["v/part"]) == stored
        assert bundle.stray == []
    assert all(finding.ok for finding in looking.verify(str(tmp_path / "m")))


@pytest.mark.parametrize("cuts", [[((0, 2), (0, -1)), ((2, 2), (0, -1))], [((0, 2), (0, 3)), ((2, 2), (0, 3))]])
def test_slice_keys_are_those_of_formats(tmp_path: Path, cuts: Any) -> None:
    """A whole dimension spelt out has another key than one left open; both are found."""
    made = HandMade()
    made.add_sliced("v", MATRIX, cuts)
    spelling = ("807f", "8083")[cuts[0][1][1] == 3]
    assert sorted(made.rows) == [
        b"",
        bytes.fromhex(f"00760001010280 82{spelling}"),
        bytes.fromhex(f"00760001010282 82{spelling}"),
        b"v",
    ]
    made.write(tmp_path / "m")
    assert_holds(tmp_path / "m", {"v": MATRIX})


def test_two_entries_may_share_bytes(tmp_path: Path) -> None:
    """Nothing is wrong with two variables in one place."""
    made = HandMade()
    made.add("a", MATRIX)
    made.rows[b"b"] = made.rows[b"a"]
    made.write(tmp_path / "m")
    assert_holds(tmp_path / "m", {"a": MATRIX, "b": MATRIX})


def test_fields_that_may_be_absent_are(tmp_path: Path) -> None:
    """A scalar without a shape, a header without a version, and an entry without offset, shard and size."""
    made = HandMade(header=number(1, 1))
    made.add("empty", np.zeros(0, np.float32))
    made.add("scalar", np.asarray(7, np.int8))
    made.rows[b"empty"] = bytes.fromhex("0801 12021200 35d8ea82a2")
    made.rows[b"scalar"] = made.rows[b"scalar"].replace(b"\x12\x00", b"")
    made.write(tmp_path / "m")
    assert_holds(tmp_path / "m", {"empty": np.zeros(0, np.float32), "scalar": np.asarray(7, np.int8)})


@pytest.mark.parametrize("version", ["", "1a00", "1a020809", "1a04080110 01", "1a0408021a00", "1a0608011a020203"])
def test_versions_that_let_us_in(tmp_path: Path, version: str) -> None:
    """A newer producer is fine, and so is a list of bad consumers that we are not in."""
    made = HandMade(header=number(1, 1) + bytes.fromhex(version))
    made.add("a", MATRIX)
    made.write(tmp_path / "m")
    assert_holds(tmp_path / "m", {"a": MATRIX})


def test_dtypes_that_numpy_lacks(tmp_path: Path) -> None:
    """Quantized numbers are read as the integers they are stored as."""
    made = HandMade()
    kinds = {"qint8": "int8", "quint8": "uint8", "qint16": "int16", "quint16": "uint16", "qint32": "int32"}
    for name, kind in kinds.items():
        made.add(name, np.array([1, 2], kind), dtype=name)
    made.write(tmp_path / "m")
    assert_holds(tmp_path / "m", {name: np.array([1, 2], kind) for name, kind in kinds.items()})
    with Bundle(str(tmp_path / "m")) as bundle:
        assert [variable.dtype for variable in bundle.variables.values()] == sorted(kinds)


def test_variants_are_listed_and_checked_but_not_read(tmp_path: Path) -> None:
    """The values of a variant are TensorFlow's own; its bytes are checked all the same."""
    made = HandMade()
    stored, crc = variant_stream([b"", b"proto" * 100, b"x"])
    made.rows[b"it"] = entry("variant", (3,), **{**made.place(stored), "crc": crc})
    made.write(tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        assert (bundle["it"].dtype, bundle["it"].shape) == ("variant", (3,))
        assert bundle.nbytes(bundle["it"]) == len(stored)
        with pytest.raises(UnsupportedError):
            bundle.read("it")
    assert [finding.ok for finding in looking.verify(str(tmp_path / "m"))] == [True]
    for at in range(len(stored)):
        damaged = bytearray(stored)
        damaged[at] ^= 1
        Path(f"{tmp_path / 'm'}.data-00000-of-00001").write_bytes(damaged)
        assert [finding.ok for finding in looking.verify(str(tmp_path / "m"))] == [False]


def test_an_empty_string_tensor_of_no_bytes(tmp_path: Path) -> None:
    """No strings in no bytes, which TensorFlow accepts, beside no strings in the four bytes that it writes."""
    made = HandMade()
    made.add("four", strings())
    made.rows[b"none"] = bytes.fromhex("0807 12021200 35d8ea82a2")
    made.write(tmp_path / "m")
    assert made.data == [bytes.fromhex("d8ea82a2")]
    assert_holds(tmp_path / "m", {"four": strings(), "none": strings()})


@pytest.mark.parametrize(("length", "size"), [(5, 4), ((1 << 32) - 1, 4), (1 << 32, 8), (1 << 40, 8)])
@pytest.mark.parametrize("order", ["little", "big"])
def test_long_strings_count_as_eight_bytes(length: int, size: int, order: Any) -> None:
    """The checksum of lengths runs over four bytes each, from 2^32 on over eight, in the bundle's byte order."""
    assert lengths_crc([length, 1], order) == crc32c(length.to_bytes(size, order) + (1).to_bytes(4, order))


def test_the_size_of_one_string_needs_no_data_file(tmp_path: Path) -> None:
    """The bytes of a scalar string follow from its entry; those of several need the data, or are unknown."""
    made = HandMade()
    for name, length in (("a", 0), ("b", 127), ("c", 128), ("d", 20000)):
        made.add(name, strings(b"x" * length).reshape(()))
    made.add("e", strings(b"one", b"three"))
    made.write(tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        assert [bundle.nbytes(bundle[name]) for name in "abcde"] == [0, 127, 128, 20000, 8]
    (tmp_path / "m.data-00000-of-00001").unlink()
    with Bundle(str(tmp_path / "m")) as bundle:
        assert [bundle.nbytes(bundle[name]) for name in "abcde"] == [0, 127, 128, 20000, None]


# -- names

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def test_object_based_names_are_shown_short(tmp_path: Path) -> None:
    """The tail of an object-based key is left out, unless that would be the name of another variable."""
    keys = [
        "b",
        f"a{VALUE}",
        f"b{VALUE}",
        f"c{VALUE}{VALUE}",
        f"d{VALUE}",
        f"d{VALUE}{VALUE}",
        VALUE,
        f"{VALUE}{VALUE}",
    ]
    made = HandMade(2)
    for at, key in enumerate(keys):
        made.add(key, np.asarray(at), at % 2)
    made.add_sliced(f"p{VALUE}", MATRIX, [((0, 1), (0, -1)), ((1, 3), (0, -1))])
    made.write(tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        shown = {name: variable.key.decode() for name, variable in bundle.variables.items()}
        assert shown == {
            "a": f"a{VALUE}",
            "b": "b",
            f"b{VALUE}": f"b{VALUE}",
            f"c{VALUE}": f"c{VALUE}{VALUE}",
            "d": f"d{VALUE}",
            f"d{VALUE}{VALUE}": f"d{VALUE}{VALUE}",
            VALUE: VALUE,
            f"{VALUE}{VALUE}": f"{VALUE}{VALUE}",
            "p": f"p{VALUE}",
        }
        for at, key in enumerate(keys):
            assert bundle.read(key) == at  # the whole key always works
        assert same(bundle.read("p"), MATRIX)
        assert "p:0" in bundle
        assert "q" not in bundle
        assert f"b:0{VALUE}" not in bundle
    del made.rows[f"b{VALUE}".encode()]
    made.write(tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        assert f"b{VALUE}" not in bundle  # `b` is another variable's whole key


def test_names_that_are_no_utf_8_are_kept(tmp_path: Path) -> None:
    """Any bytes are a name, distinct from all others, and are found under the name that is shown."""
    keys = [b"\xff", b"\xc3\xa9", b"\xc3", b"a\xed\xb2\x80", b"a\nb\tc\x1b[31m", b" ", b"x" * 100_000]
    made = HandMade()
    for at, key in enumerate(keys):
        made.add(key, np.asarray(at))
    made.write(tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        assert len(bundle) == len(keys)
        for name, variable in bundle.variables.items():
            assert bundle.read(name) == keys.index(variable.key)


def test_the_output_name_of_a_graph_finds_its_variable(tmp_path: Path) -> None:
    """`w:0` is `w`, unless there is a variable of that very name; a name that misses by a letter gets a hint."""
    made = HandMade()
    for at, name in enumerate(("weights", "v", "v:0")):
        made.add(name, np.asarray(at))
    made.write(tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        assert [int(bundle.read(name)) for name in ("weights:0", "v", "v:0")] == [0, 1, 2]
        with pytest.raises(NotFoundError, match=r"no variable wieghts.*did you mean weights"):
            bundle.read("wieghts")


# -- files


def test_values_belong_to_the_caller(tmp_path: Path) -> None:
    """An array that was read is writable, native, and no view of anything."""
    made = HandMade(big=True)
    made.add("a", MATRIX)
    made.add("b", np.asarray(1.5, np.complex128))
    made.add_sliced("c", MATRIX, [((0, 1), (0, -1)), ((1, 3), (0, -1))])
    made.write(tmp_path / "m")
    for values in read_all(tmp_path / "m").values():
        assert values.flags.owndata
        assert values.flags.writeable
        assert values.dtype.isnative


def test_a_listing_opens_no_data_file(tmp_path: Path) -> None:
    """Metadata come from the index alone; a missing shard is an error only for the variables in it."""
    made = HandMade(2)
    made.add("a", MATRIX, 0)
    made.add("b", MATRIX, 1)
    made.add_sliced("c", MATRIX, [((0, 1), (0, -1)), ((1, 3), (0, -1))])
    made.write(tmp_path / "m")
    (tmp_path / "m.data-00001-of-00002").unlink()
    with Bundle(str(tmp_path / "m")) as bundle:
        assert [(v.name, v.shape) for v in bundle.variables.values()] == [("a", (4, 3)), ("b", (4, 3)), ("c", (4, 3))]
        assert same(bundle.read("a"), MATRIX)
        for name in ("b", "c"):
            with pytest.raises(NotFoundError, match=r"m\.data-00001-of-00002: no such file"):
                bundle.read(name)


def test_numbers_of_shards_have_five_digits_or_more(tmp_path: Path) -> None:
    """The 70,000th of 100,000 shards, by TensorFlow's rule for names."""
    made = HandMade(header=number(1, 100_000))
    made.add("a", MATRIX, shard=0)
    made.rows[b"a"] = made.rows[b"a"].replace(number(3, 0), number(3, 69_999))
    (tmp_path / "m.index").write_bytes(made.index())
    (tmp_path / "m.data-69999-of-100000").write_bytes(made.data[0])
    assert_holds(tmp_path / "m", {"a": MATRIX})


def test_a_checkpoint_that_is_replaced_while_it_is_open_says_so(tmp_path: Path) -> None:
    """Files that were opened keep their bytes; a shard that was not is another's, and never read as ours."""
    for prefix, value in (("old", 1.0), ("new", 2.0)):
        made = HandMade(2)
        for shard, name in enumerate(("a", "b")):
            made.add(name, np.full(3, value, np.float32), shard)
        made.add("text", strings(*[prefix.encode()] * (2 if prefix == "old" else 500)), 1)
        made.write(tmp_path / prefix)
    with Bundle(str(tmp_path / "old")) as bundle:
        assert bundle.read("a").tolist() == [1, 1, 1]
        for part in ("data-00000-of-00002", "data-00001-of-00002", "index"):
            os.replace(tmp_path / f"new.{part}", tmp_path / f"old.{part}")
        assert bundle.was_replaced()
        assert bundle.read("a").tolist() == [1, 1, 1]
        for name in ("b", "text"):
            with pytest.raises(ChangedError, match="try again"):
                bundle.read(name)
        (tmp_path / "old.data-00001-of-00002").write_bytes(b"")
        with pytest.raises(ChangedError):
            bundle.read("b")
    with Bundle(str(tmp_path / "old")) as bundle:
        (tmp_path / "old.data-00001-of-00002").unlink()
        (tmp_path / "old.index").unlink()
        with pytest.raises(ChangedError):
            bundle.read("b")


def test_metadata_outlive_a_closed_checkpoint(tmp_path: Path) -> None:
    """Closing lets go of all files; a list that was read stays."""
    made = HandMade()
    made.add("a", MATRIX)
    made.write(tmp_path / "m")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    with Bundle(str(tmp_path / "m")) as bundle:
        bundle.read("a")
    (tmp_path / "m.index").write_bytes(b"damaged")
    for _ in range(3):
        with pytest.raises(DamagedError):
            Bundle(str(tmp_path / "m"))
    assert bundle["a"].shape == (4, 3)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before


def test_unknown_fields_stand_in_the_rows(tmp_path: Path) -> None:
    """The index is kept as it stands, for whoever carries it on."""
    made = HandMade(header=HEADER + number(77, 5))
    made.add("a", MATRIX, more=bytes_field(99, b"kept"))
    made.write(tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        assert bundle.rows == made.rows


def test_stray_slices_are_an_oddity(tmp_path: Path) -> None:
    """A slice that no variable lists is told by verify; the variables are read all the same."""
    made = HandMade()
    made.add("a", MATRIX)
    made.add_sliced("v", MATRIX, [((0, 2), (0, -1)), ((2, 2), (0, -1))])
    del made.rows[b"v"]
    made.write(tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        assert list(bundle) == ["a"]
        assert len(bundle.stray) == 2
    assert sum(not finding.ok for finding in looking.verify(str(tmp_path / "m"))) == 2


def test_a_variable_in_thirty_thousand_slices(tmp_path: Path) -> None:
    """Slices side by side in the second dimension, where to compare each with each would take minutes."""
    count = 30_000
    values = np.arange(2 * count, dtype=np.int16).reshape(2, count)
    columns = values.T.tobytes()
    cuts = [((0, -1), (at, 1)) for at in range(count)]
    made = HandMade()
    made.rows[b"v"] = entry("int16", values.shape, slices=map(slice_proto, cuts))
    for at, cut in enumerate(cuts):
        place = {"offset": 4 * at, "size": 4, "crc": masked(columns[4 * at : 4 * at + 4])}
        made.rows[slice_key(b"v", cut)] = entry("int16", (2, 1), **place)
    made.data = [columns]
    made.write(tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        assert len(bundle["v"].extents) == count
        assert same(bundle.read("v"), values)


# -- the samples

SAMPLES = (
    "estimator-linear/model.ckpt-1", "gpt2-toy/model.ckpt", "object-based-two-shards/model.ckpt",
    "savedmodel/variables/variables", "snappy-index-only/minigo",
)  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_what_tensorflow_says(samples: Path, name: str) -> None:
    """Names, shapes, dtypes and values of other people's checkpoints, as TensorFlow read them."""
    expected = json.loads((samples / "expected.json").read_text())[name]["variables"]
    with formats.open(str(samples / name)) as checkpoint:
        found = {v.key.decode(): [list(v.shape), v.dtype] for v in checkpoint.variables.values()}
        assert found == {key: [shape, dtype] for key, (shape, dtype, _) in expected.items()}
        for key, (_, _, digest) in expected.items():
            if digest is None:
                with pytest.raises(NotFoundError):
                    checkpoint.read(key)
                continue
            values = checkpoint.read(key)
            data = b"\x00".join(values.ravel().tolist()) if values.dtype.kind == "O" else values.tobytes()
            assert hashlib.sha256(data).hexdigest()[:16] == digest
