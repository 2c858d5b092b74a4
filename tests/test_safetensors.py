"""safetensors: read as the library reads, written as it reads back, and hostile headers."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from crash import Failing, survives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Arrays, names, same, write_bundle
from strategies import numbers as any_numbers

from ckptsurgeon import numeric
from ckptsurgeon.checkpoint import Variable
from ckptsurgeon.errors import (
    BusyError,
    CkptSurgeonError,
    DamagedError,
    NotFoundError,
    Problems,
    RefusedError,
    StorageError,
    UnsupportedError,
)
from ckptsurgeon.formats import locating
from ckptsurgeon.formats.bundle.reading import Bundle
from ckptsurgeon.formats.files import json_scan
from ckptsurgeon.formats.safetensors import finding as safetensors_finding
from ckptsurgeon.formats.safetensors import writing as safetensors_writing
from ckptsurgeon.formats.safetensors.reading import KINDS, LAYERS, STORED, SafeTensors
from ckptsurgeon.plan import Change, Copy, Fill, Plan, Text, Values
from ckptsurgeon.publish import Lock
from ckptsurgeon.verbs import producing

a_few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# dtypes of whole bytes, as the library's own writer calls them.
WHOLE = {dtype: code for code, (dtype, bits) in KINDS.items() if bits >= 8}
MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)
SMALL: Arrays = {"a.weight": MATRIX, "b": np.array([1, -2, 300], np.int64), "c": np.array(True), "e": np.zeros((0, 3))}


# -- help


def entry(dtype: str, shape: Any, begin: Any, end: Any) -> dict[str, Any]:
    """What a header says of a variable."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def made(header: Any, data: bytes = b"") -> bytes:
    """A file of a header, as JSON or as it stands, and these values."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def library(arrays: Arrays, metadata: dict[str, str] | None = None) -> bytes:
    """A file as the library writes it, the small floats among its dtypes."""
    keep = {name: np.ascontiguousarray(values) for name, values in arrays.items()}
    specs = {
        name: safetensors.TensorSpec(
            dtype=values.dtype.name, shape=arrays[name].shape, data_ptr=values.ctypes.data, data_len=values.nbytes
        )
        for name, values in keep.items()
    }
    return bytes(safetensors.serialize(specs, metadata=metadata))


def read_by_library(data: bytes) -> Arrays:
    """All arrays of a file, as the library reads them."""
    kinds = {code: numeric.dtype(dtype) for dtype, code in WHOLE.items()}
    return {
        name: np.frombuffer(view["data"], np.uint8).view(kinds[view["dtype"]]).reshape(view["shape"])
        for name, view in safetensors.deserialize(data)
    }


def opened(path: Path, data: bytes) -> SafeTensors:
    """A checkpoint of these bytes."""
    path.write_bytes(data)
    return SafeTensors(str(path), [str(path)])


def read_all(checkpoint: SafeTensors) -> Arrays:
    """All values."""
    return {name: checkpoint.read(name) for name in checkpoint}


def agree(one: Arrays, other: Arrays) -> bool:
    """Whether two checkpoints hold the same."""
    return one.keys() == other.keys() and all(same(values, other[name]) for name, values in one.items())


def save(plan: Plan, path: Path, force: bool = True) -> list[str]:
    """Carry a plan out as a new file."""
    return safetensors_writing.save_as(plan, str(path), force, False, 0.0)


def in_place(checkpoint: SafeTensors, changes: list[Change]) -> list[str]:
    """Carry changes out in a checkpoint that is locked for it."""
    with Lock(checkpoint.main_file, 0.0) as lock:
        return safetensors_writing.save_in_place(Plan(checkpoint, changes), lock, False, 0.0)


def set_to(checkpoint: SafeTensors, name: str, values: NDArray[Any]) -> Change:
    """The change that gives a variable these values."""
    return Change("set", checkpoint[name], Values(values))


def tree() -> st.SearchStrategy[Arrays]:
    """A whole checkpoint of what safetensors hold."""
    arrays = st.sampled_from(sorted(WHOLE)).flatmap(any_numbers)
    fit = names().filter(lambda name: name != "__metadata__" and not any(0xD800 <= ord(each) < 0xE000 for each in name))
    return st.dictionaries(fit, arrays, min_size=1, max_size=8)


METADATA = st.none() | st.dictionaries(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=8),
    max_size=3,
)


# -- both directions


def test_the_dtypes_are_the_librarys() -> None:
    """The library knows exactly the dtypes that we do, in the order by which it sorts, and no other."""
    with pytest.raises(safetensors.SafetensorError) as caught:
        safetensors.deserialize(made({"a": entry("NONE", [1], 0, 1)}, b"\0"))
    known = str(caught.value).partition("expected one of ")[2].split("`")[1::2]
    assert known == list(KINDS)
    for code, (_, bits) in KINDS.items():
        ((_, view),) = safetensors.deserialize(made({"a": entry(code, [8], 0, bits)}, bytes(bits)))
        assert view["dtype"] == code


@a_few
@given(arrays=tree(), metadata=METADATA)
def test_what_the_library_writes_is_read(tmp_path: Path, arrays: Arrays, metadata: dict[str, str] | None) -> None:
    """Names, dtypes, shapes, bits and metadata of any file that the library writes."""
    with opened(tmp_path / "m", library(arrays, metadata)) as checkpoint:
        assert agree(read_all(checkpoint), arrays)
        assert checkpoint.metadata_items() == (metadata or {})
        for name, variable in checkpoint.variables.items():
            assert checkpoint.nbytes(variable) == arrays[name].nbytes
            assert b"".join(checkpoint.chunks(variable.extents[0])) == arrays[name].tobytes()
            checkpoint.check(variable)
        assert checkpoint.oddities() == []


@a_few
@given(arrays=tree(), metadata=METADATA)
def test_what_is_saved_without_a_change_is_the_same_file(
    tmp_path: Path, arrays: Arrays, metadata: dict[str, str] | None
) -> None:
    """A plan that changes nothing, written elsewhere, gives the library's own bytes."""
    data = library(arrays, metadata)
    with opened(tmp_path / "m", data) as checkpoint:
        assert save(Plan(checkpoint, []), tmp_path / "out") == []
    pairs = max(len(metadata or {}), 1)
    if pairs == 1:  # the library writes several in no fixed order
        assert (tmp_path / "out").read_bytes() == data
    with SafeTensors(str(tmp_path / "out"), [str(tmp_path / "out")]) as copy:
        assert copy.metadata_items() == (metadata or {})
        assert agree(read_all(copy), arrays)


@a_few
@given(arrays=tree(), seed=st.integers(0, 1 << 30))
def test_what_is_changed_is_read_by_the_library(tmp_path: Path, arrays: Arrays, seed: int) -> None:
    """After a set, a fill, a drop, a rename and an addition in place the library reads what there should be."""
    rng = np.random.default_rng(seed)
    expected = dict(arrays)
    with opened(tmp_path / "m", library(arrays, {"k": "v"})) as checkpoint:
        changes = []
        for name in arrays:
            variable = checkpoint[name]
            action = rng.integers(0, 5)
            if action == 0:
                expected[name] = np.ones_like(arrays[name])
                changes.append(set_to(checkpoint, name, expected[name]))
            elif action == 1:
                number = 1
                expected[name] = np.full_like(arrays[name], number)
                changes.append(Change("filled", variable, Fill(number)))
            elif action == 2:
                del expected[name]
                changes.append(Change("dropped", variable))
            elif action == 3:
                change = Change("renamed", variable, source=name)
                change.name = f"{name}/new"
                change.key = change.name.encode()
                if change.name not in expected:
                    expected[change.name] = expected.pop(name)
                    changes.append(change)
        new = Variable("added/one", b"added/one", "float64", (2,), ())
        if "added/one" not in expected:
            changes.append(Change("added", new, Values(np.array([1.0, 2.0]))))
            expected["added/one"] = np.array([1.0, 2.0])
        in_place(checkpoint, changes)
    data = (tmp_path / "m").read_bytes()
    assert agree(read_by_library(data), expected)
    with opened(tmp_path / "m2", data) as again:
        assert again.metadata_items() == {"k": "v"}
        at = 0
        for variable in again.variables.values():  # PyTorch reads no number that is not aligned
            item = numeric.dtype(variable.dtype).itemsize
            assert (variable.extents[0].offset - again[next(iter(again))].extents[0].offset) % item == 0
            at += variable.extents[0].length


def test_the_order_of_the_recipient_is_kept(tmp_path: Path) -> None:
    """A file in an order of its own keeps it, as long as all numbers stay aligned."""
    header = {"z": entry("U8", [8], 0, 8), "a": entry("F64", [1], 8, 16), "m": entry("U8", [4], 16, 20)}
    with opened(tmp_path / "m", made(header, bytes(range(20)))) as checkpoint:
        in_place(checkpoint, [set_to(checkpoint, "a", np.array([1.5]))])
        with SafeTensors(checkpoint.path, [checkpoint.path]) as again:
            assert list(again) == ["z", "a", "m"]
            in_place(again, [Change("dropped", again["z"])])
        with SafeTensors(checkpoint.path, [checkpoint.path]) as again:
            assert list(again) == ["a", "m"]
            new = Variable("q", b"q", "int32", (1,), ())
            in_place(again, [set_to(again, "m", np.zeros(4, np.uint8)), Change("added", new, Values(np.ones(1, "i4")))])
    with SafeTensors(checkpoint.path, [checkpoint.path]) as again:
        assert list(again) == ["a", "m", "q"]
    assert sorted(read_by_library((tmp_path / "m").read_bytes())) == ["a", "m", "q"]


@a_few
@given(arrays=tree(), byteorder=st.sampled_from(["little", "big"]))
def test_a_bundle_becomes_safetensors(tmp_path: Path, arrays: Arrays, byteorder: str) -> None:
    """What a TensorFlow checkpoint of either byte order holds is what the library reads."""
    left_out = {name for name in arrays if arrays[name].dtype.name == "float8_e8m0fnu" or "\0" in name}
    left_out |= {name for name in arrays if ".ATTRIBUTES" in name}
    arrays = {name: values for name, values in arrays.items() if name not in left_out} | {"more": MATRIX}
    write_bundle(tmp_path / "b", arrays, byteorder=byteorder)
    with Bundle(str(tmp_path / "b")) as bundle:
        save(Plan(bundle, []), tmp_path / "out")
    assert agree(read_by_library((tmp_path / "out").read_bytes()), arrays)


def test_a_donors_damage_is_noticed(tmp_path: Path) -> None:
    """A bundle whose checksum is wrong becomes no file."""
    write_bundle(tmp_path / "b", {"a": MATRIX})
    (shard,) = tmp_path.glob("b.data-*")
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x77")
    with Bundle(str(tmp_path / "b")) as bundle, pytest.raises(DamagedError, match="checksum"):
        save(Plan(bundle, []), tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_kinds_of_less_than_a_byte(tmp_path: Path) -> None:
    """Four-bit floats are unpacked and packed, the first in the low bits; six-bit ones are carried and never read."""
    header = {"f4": entry("F4", [2, 2], 0, 2), "f6": entry("F6_E2M3", [4], 2, 5)}
    data = made(header, bytes([0x21, 0x73, 1, 2, 3]))
    with opened(tmp_path / "m", data) as checkpoint:
        assert [(each.dtype, each.shape) for each in checkpoint.variables.values()] == [
            ("float4_e2m1fn", (2, 2)), ("float6_e2m3fn", (4,))
        ]  # fmt: skip
        assert [checkpoint.nbytes(each) for each in checkpoint.variables.values()] == [2, 3]
        values = checkpoint.read("f4")
        assert values.astype(np.float32).tolist() == [[0.5, 1.0], [1.5, 6.0]]
        with pytest.raises(UnsupportedError, match="float6_e2m3fn cannot be read"):
            checkpoint.read("f6")
        in_place(checkpoint, [set_to(checkpoint, "f4", values)])
        assert dict(safetensors.deserialize((tmp_path / "m").read_bytes()))["f4"]["data"] == bytearray([0x21, 0x73])
        assert dict(safetensors.deserialize((tmp_path / "m").read_bytes()))["f6"]["data"] == bytearray([1, 2, 3])
        with opened(tmp_path / "n", data) as other:
            copied = Change("grafted", other["f6"], Copy(checkpoint, checkpoint["f6"]))
            in_place(other, [copied, Change("filled", other["f4"], Fill(6.0))])
            assert other["f6"].extents  # the plan's variables are left alone
    assert dict(safetensors.deserialize((tmp_path / "n").read_bytes()))["f4"]["data"] == bytearray([0x77, 0x77])
    odd = Variable("odd", b"odd", "float4_e2m1fn", (3,), ())
    three = np.zeros(3, ml_dtypes.float4_e2m1fn)
    six = Variable("six", b"six", "float6_e2m3fn", (4,), ())
    with opened(tmp_path / "m", data) as checkpoint, pytest.raises(Problems) as caught:
        in_place(checkpoint, [Change("added", odd, Values(three)), Change("added", six, Values(three))])
    assert "do not fill whole bytes" in str(caught.value)
    assert "can only be copied, not created" in str(caught.value)


def test_a_machine_of_the_other_byte_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numbers are big-endian by nature they are swapped when read and when written."""
    data = library({"a": np.array([1, 256], np.uint16)})
    with opened(tmp_path / "m", data) as checkpoint:
        monkeypatch.setattr(sys, "byteorder", "big")
        swapped = checkpoint.read("a")
        assert swapped.tolist() == [256, 1]
        in_place(checkpoint, [set_to(checkpoint, "a", swapped)])
    assert (tmp_path / "m").read_bytes() == data


def test_what_safetensors_cannot_hold(tmp_path: Path) -> None:
    """Strings, quantized and other kinds are refused by name, all at once, and nothing is written; a stream says -o."""
    text = np.empty((), object)
    text[()] = b"x"
    arrays = {"s": text, "c": np.zeros(2, np.complex128), "i": np.zeros(2, ml_dtypes.int4), "ok": MATRIX}
    write_bundle(tmp_path / "b", arrays)
    sent: list[bytes] = []
    with Bundle(str(tmp_path / "b")) as bundle:
        with pytest.raises(Problems) as caught:
            save(Plan(bundle, []), tmp_path / "out")
        assert [line.partition(": ")[2].split(":")[0] for line in caught.value.lines] == ["c", "i", "s"]
        assert "safetensors files cannot store complex128" in str(caught.value)
        with pytest.raises(Problems, match="use -o FILE"):
            safetensors_writing.stream(Plan(bundle, []), sent.append)
        drops = [Change("dropped", bundle[name]) for name in arrays]
        with pytest.raises(RefusedError, match="needs variables"):
            save(Plan(bundle, drops), tmp_path / "out")
    assert (sent, list(tmp_path.glob("out*"))) == ([], [])


def test_names_that_safetensors_cannot_hold(tmp_path: Path) -> None:
    """The metadata's own key, a name that is no text and two equal ones are refused."""
    with opened(tmp_path / "m", library(SMALL)) as checkpoint:
        for name in ("__metadata__", "\udcff", "", "b"):
            new = Variable(name, name.encode("utf-8", "surrogateescape"), "float32", (4, 3), ())
            with pytest.raises(RefusedError, match=r"can have the name|would have the name"):
                in_place(checkpoint, [Change("added", new, Values(MATRIX))])
        new = Variable("t", b"t", "string", (), ())
        with pytest.raises(UnsupportedError, match="cannot store string"):
            in_place(checkpoint, [Change("added", new, Text(b"x"))])


# -- streams and layers


def test_a_stream_is_a_file_that_knows_its_layers(tmp_path: Path) -> None:
    """What is streamed, the library reads; its metadata say which layer each variable forms, and renames follow."""
    write_bundle(tmp_path / "b", SMALL)
    out = io.BytesIO()
    with Bundle(str(tmp_path / "b")) as bundle:
        safetensors_writing.stream(Plan(bundle, [Change("dropped", bundle["e"])]), out.write, {"a.weight": 3, "b": 11})
    kept = {name: values for name, values in SMALL.items() if name != "e"}
    assert agree(read_by_library(out.getvalue()), kept)
    path = tmp_path / "m"
    path.write_bytes(out.getvalue())
    with safetensors.safe_open(path, "np") as library_file:
        assert json.loads(library_file.metadata()[LAYERS]) == {"a.weight": 3, "b": 11}
    with SafeTensors(str(path), [str(path)]) as checkpoint:
        assert checkpoint.layer_tables() == {STORED: {"a.weight": 3, "b": 11}}
        change = Change("renamed", checkpoint["b"], source="b")
        change.name, change.key = "new", b"new"
        in_place(checkpoint, [change, Change("dropped", checkpoint["a.weight"])])
    with SafeTensors(str(path), [str(path)]) as checkpoint:
        assert checkpoint.layer_tables() == {STORED: {"new": 11}}


def test_a_stream_adds_to_the_metadata(tmp_path: Path) -> None:
    """The recipient's own metadata go along; without layers none are made up."""
    with opened(tmp_path / "m", library(SMALL, {"format": "pt"})) as checkpoint:
        out = io.BytesIO()
        safetensors_writing.stream(Plan(checkpoint, []), out.write, {"b": 0})
        plain = io.BytesIO()
        safetensors_writing.stream(Plan(checkpoint, []), plain.write)
    with opened(tmp_path / "n", out.getvalue()) as streamed:
        assert streamed.metadata_items() == {"format": "pt", LAYERS: '{"b": 0}'}
    assert plain.getvalue() == library(SMALL, {"format": "pt"})


@pytest.mark.parametrize("text", ["[1]", "", '{"b": -1}', '{"b": 1.5}', '{"b": "1"}', '{"b": 1', '{"b": 1, "b": 2}',
                                  "1e9", '{"b": 99999999999999999999999}'])  # fmt: skip
def test_layers_that_make_no_sense(tmp_path: Path, text: str) -> None:
    """Such metadata are an oddity, and nobody's layers; the variables are read all the same."""
    with opened(tmp_path / "m", library(SMALL, {LAYERS: text})) as checkpoint:
        assert checkpoint.layer_tables() == {}
        (oddity,) = checkpoint.oddities()
        assert LAYERS in oddity
        assert agree(read_all(checkpoint), SMALL)


# -- sets


def make_set(folder: Path, parts: list[Arrays], index: bool = True, stem: str = "model") -> Path:
    """A set as Hugging Face's libraries write it; gives the path of its index, or of its first file."""
    where = {}
    for number, arrays in enumerate(parts, 1):
        name = f"{stem}-{number:05d}-of-{len(parts):05d}.safetensors"
        (folder / name).write_bytes(library(arrays, {"format": "pt"}))
        where.update(dict.fromkeys(arrays, name))
    if not index:
        return folder / f"{stem}-00001-of-{len(parts):05d}.safetensors"
    path = folder / f"{stem}.safetensors.index.json"
    total = sum(values.nbytes for arrays in parts for values in arrays.values())
    path.write_text(json.dumps({"metadata": {"total_size": total, "x": [{"y": "}"}, None]}, "weight_map": where}))
    return path


def located(path: Path) -> SafeTensors:
    """The checkpoint that a path means."""
    found = locating.locate(str(path))
    assert found.format == "safetensors", path
    return SafeTensors(str(path), found.files)


PARTS: list[Arrays] = [{"a": MATRIX, "b": np.arange(3)}, {"c": MATRIX + 1}]


@pytest.mark.parametrize("index", [True, False])
def test_a_set_is_one_checkpoint(tmp_path: Path, index: bool) -> None:
    """By its index, any file, its name as one file, or its folder: all variables, as if it were one file."""
    path = make_set(tmp_path, PARTS, index)
    spellings = [path, tmp_path, tmp_path / "model-00002-of-00002.safetensors"]
    for spelling in [*spellings, tmp_path / "model.safetensors"] if index else spellings:
        with located(spelling) as checkpoint:
            assert agree(read_all(checkpoint), PARTS[0] | PARTS[1])
            assert checkpoint.shards == 2
            assert checkpoint.oddities() == []
            assert checkpoint.main_file.endswith(".json") == index
    with located(path) as checkpoint:
        save(Plan(checkpoint, []), tmp_path / "one")
    assert agree(read_by_library((tmp_path / "one").read_bytes()), PARTS[0] | PARTS[1])
    with opened(tmp_path / "two", (tmp_path / "one").read_bytes()) as one:
        assert one.metadata_items() == {"format": "pt"}


@pytest.mark.parametrize("index", [True, False])
def test_one_file_of_a_set_is_replaced_in_place(tmp_path: Path, index: bool) -> None:
    """A change in one file replaces that file alone; changes in two, or of names, are refused with 'use -o'."""
    path = make_set(tmp_path, PARTS, index)
    for name in ("a", "c"):
        with located(path) as checkpoint:
            files = checkpoint.files
            before = [Path(file).read_bytes() for file in files]
            in_place(checkpoint, [set_to(checkpoint, name, MATRIX * 9)])
            after = [Path(file).read_bytes() for file in files]
            assert [one != other for one, other in zip(before, after, strict=True)] == [name == "a", name == "c"]
            assert checkpoint.was_replaced()
        with located(path) as checkpoint:
            assert same(checkpoint.read(name), MATRIX * 9)
            renamed = Change("renamed", checkpoint["a"], source="a")
            renamed.name, renamed.key = "z", b"z"
            for changes in ([set_to(checkpoint, each, MATRIX) for each in ("a", "c")], [renamed],
                            [Change("dropped", checkpoint["a"])]):  # fmt: skip
                with pytest.raises(RefusedError, match=r"cannot be replaced in place; use -o OUT"):
                    in_place(checkpoint, changes)


def test_a_file_of_a_set_that_somebody_else_writes(tmp_path: Path) -> None:
    """The file that changes is locked beside the index."""
    path = make_set(tmp_path, PARTS)
    with located(path) as checkpoint, Lock(checkpoint.files[1], 0.0), pytest.raises(BusyError):
        in_place(checkpoint, [set_to(checkpoint, "c", MATRIX)])


def test_metadata_of_a_set_that_differ(tmp_path: Path) -> None:
    """As one file it has the metadata of all; of a key with two values the first, and a warning."""
    for number, metadata in ((1, {"k": "1", "a": "x"}), (2, {"k": "2", "b": "y"})):
        data = library({f"v{number}": MATRIX}, metadata)
        (tmp_path / f"m-0000{number}-of-00002.safetensors").write_bytes(data)
    with located(tmp_path) as checkpoint:
        (warning,) = save(Plan(checkpoint, []), tmp_path / "out")
    assert "differ in the metadata key k" in warning
    with opened(tmp_path / "out2", (tmp_path / "out").read_bytes()) as one:
        assert one.metadata_items() == {"k": "1", "a": "x", "b": "y"}


def test_sets_that_contradict_themselves(tmp_path: Path) -> None:
    """A missing file, a name in two files, and an index that says otherwise are refused."""
    path = make_set(tmp_path, PARTS)
    text = path.read_text()
    for old, new, message in [
        ('"c"', '"d"', "does not hold d"),
        ('"c": "model-00002', '"c": "model-00001', "does not hold c"),
        ("weight_map", "weights", "without a weight map"),
        ('{"metadata"', '{"weight_map": {}, "metadata"', "two weight maps|no files"),
        ("model-00002-of", "model-00003-of", "is missing"),
        ('"c": "model-', '"c": "../model-', "outside its folder"),
        ('"c": "model-', '"c": "/model-', "outside its folder"),
        ('"c": "model-00002-of-00002.safetensors"', '"c": ".."', "outside its folder"),
        ('"c": "model-00002-of-00002.safetensors"', '"c": 7', "invalid JSON"),
        ('"y"', '"y', "no end|invalid JSON"),
        ("[{", "[" * 99 + "{", "nested too deeply"),
        ('"a"', '"\\ud800"', "is not valid text"),
    ]:
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(DamagedError, match=message):
            located(path)
    path.write_text(text.replace(', "c": "model-00002-of-00002.safetensors"', ""))
    with located(path) as checkpoint:  # which then is a set of one file
        assert sorted(checkpoint) == ["a", "b"]
    path.write_text(text.replace('"b": "model-00001-of-00002.safetensors", ', ""))
    with located(path) as checkpoint:
        assert checkpoint.oddities() == ["the index does not list b"]
    path.unlink()
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(library(PARTS[0]))
    with pytest.raises(DamagedError, match="duplicate"):
        located(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(DamagedError, match=r"a file of the checkpoint is missing.*expected 2 files, found 1"):
        located(tmp_path)


def test_links_of_a_set(tmp_path: Path) -> None:
    """A link out of the folder is refused, but for the cache of Hugging Face's hub, which is made of such links."""
    home = tmp_path / "models--x" / "snapshots" / "abc"
    blobs = tmp_path / "models--x" / "blobs"
    home.mkdir(parents=True)
    blobs.mkdir()
    make_set(home, PARTS)
    for number, file in enumerate(sorted(home.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(Path("../../blobs") / str(number))
    with located(home) as checkpoint:
        assert agree(read_all(checkpoint), PARTS[0] | PARTS[1])
    one = home / "model-00002-of-00002.safetensors"
    (tmp_path / "elsewhere").write_bytes(one.read_bytes())
    one.unlink()
    one.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="a link that leads out of its folder"):
        located(home)


def test_folders(tmp_path: Path) -> None:
    """A folder's one checkpoint is found, the usual name before others; of several none is guessed."""
    assert safetensors_finding.locate(str(tmp_path)) is None
    (tmp_path / "x.safetensors").write_bytes(library({"x": MATRIX}))
    with located(tmp_path) as checkpoint:
        assert list(checkpoint) == ["x"]
    (tmp_path / "y.safetensors").write_bytes(library({"y": MATRIX}))
    with pytest.raises(NotFoundError, match=r"several checkpoints; name one: x.safetensors, y.safetensors"):
        located(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(library({"m": MATRIX}))
    with located(tmp_path) as checkpoint:
        assert list(checkpoint) == ["m"]


def test_other_files_are_not_taken_for_safetensors(tmp_path: Path) -> None:
    """By content, not by name."""
    for data in (b"", b"{}", b"PK\x03\x04" + bytes(30), b"12345678{}", bytes(99), b'\x93NUMPY\x01\x00{"a"'):
        (tmp_path / "m.safetensors").write_bytes(data)
        assert safetensors_finding.locate(str(tmp_path / "m.safetensors")) is None
    assert safetensors_finding.locate(str(tmp_path / "none")) is None
    (tmp_path / "m.bin").write_bytes(library(SMALL))
    assert safetensors_finding.locate(str(tmp_path / "m.bin")) == [str(tmp_path / "m.bin")]


# -- damage


def whole(path: Path, data: bytes) -> tuple[Any, ...] | None:
    """All that these bytes hold as a checkpoint, less the values; None if they are refused."""
    try:
        with opened(path, data) as checkpoint:
            found = [(each.name, each.dtype, each.shape) for each in checkpoint.variables.values()]
            for name in checkpoint:
                with contextlib.suppress(UnsupportedError):
                    checkpoint.check(checkpoint[name])
                    checkpoint.read(name)
            return (*found, tuple(checkpoint.metadata_items().items()))
    except CkptSurgeonError:
        return None


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """A file cut short anywhere cannot be opened, nor can one with a byte too many."""
    data = library(SMALL, {"k": "v"})
    assert whole(tmp_path / "m", data) is not None
    for end in range(len(data)):
        assert whole(tmp_path / "m", data[:end]) is None, end
    assert whole(tmp_path / "m", data + b"\0") is None


def test_every_bit_flip_is_noticed_or_is_one_of_names_or_values(tmp_path: Path) -> None:
    """A flipped bit of the header is refused, or is one that the library takes too: another name, dtype or shape."""
    data = library(SMALL, {"k": "v"})
    start = 8 + int.from_bytes(data[:8], "little")
    accepted = 0
    for bit in range(8 * start):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        if whole(tmp_path / "m", bytes(damaged)) is not None:
            accepted += 1
            safetensors.deserialize(bytes(damaged))
    assert accepted < start  # of eight times as many


def test_a_file_that_shrinks_or_goes(tmp_path: Path) -> None:
    """What was there when the file was opened and is gone is told, as damage or as a replacement."""
    path = tmp_path / "m"
    with opened(path, library(SMALL)) as checkpoint:
        os.truncate(path, path.stat().st_size - 40)
        for act in (checkpoint.check, lambda each: list(checkpoint.chunks(each.extents[0]))):
            with pytest.raises(DamagedError, match="cut short"):
                act(checkpoint["a.weight"])
        other = tmp_path / "other"
        other.write_bytes(library(SMALL))
        os.replace(other, path)
        with pytest.raises(CkptSurgeonError, match="was replaced"):
            checkpoint.read("a.weight")
        checkpoint.close()
        with pytest.raises(CkptSurgeonError, match="was replaced"):
            checkpoint.read("b")
        path.unlink()
        with pytest.raises(CkptSurgeonError, match="was replaced"):
            checkpoint.read("b")


A = entry("U8", [1], 0, 1)
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cut short within the length"),
    "a length alone": (made(b""), "invalid JSON"),
    "a header of 100 MB": ((100_000_000).to_bytes(8, "little") + b"{}", "cut short within the header"),
    "a header of 2^63": ((1 << 63).to_bytes(8, "little") + b"{}", "impossible length"),
    "an overlap": (made({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, bytes(3)), "overlap at byte"),
    "the same twice": (made({"a": A, "b": A}, bytes(1)), "overlap at byte"),
    "a gap": (made({"a": A, "b": entry("U8", [1], 2, 3)}, bytes(3)), "leave a gap at byte"),
    "a gap at the start": (made({"a": entry("U8", [1], 1, 2)}, bytes(2)), "leave a gap"),
    "bytes left over": (made({"a": A}, bytes(2)), "no variable refers to"),
    "an empty one inside another": (
        made({"a": entry("U8", [2], 0, 2), "b": entry("U8", [0], 1, 1)}, bytes(2)), "overlap"
    ),
    "a name twice": (made(b'{"a":%b,"a":%b}' % ((json.dumps(A).encode(),) * 2), bytes(1)), "duplicate"),
    "a name twice, spelt in two ways": (
        made(b'{"a":%b,"\\u0061":%b}' % ((json.dumps(A).encode(),) * 2), bytes(1)), "duplicate"
    ),
    "a field twice": (made(b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}'), "invalid JSON"),
    "another field": (made({"a": A | {"more": 1}}, bytes(1)), "wrong fields"),
    "a field less": (made({"a": {"dtype": "U8", "shape": [1]}}, bytes(1)), "wrong fields"),
    "metadata twice": (made(b'{"__metadata__":{},"__metadata__":{}}'), "duplicate"),
    "a key of the metadata twice": (made(b'{"__metadata__":{"a":"1","a":"2"}}'), "duplicate"),
    "metadata that are a number": (made({"__metadata__": {"a": 1}}), "invalid JSON"),
    "metadata that are a list": (made({"__metadata__": []}), "invalid JSON"),
    "metadata of objects": (made({"__metadata__": {"a": {}}}), "invalid JSON"),
    "no name": (made({"": A}, bytes(1)), "without a name"),
    "half a surrogate pair": (made(b'{"\\ud800":%b}' % json.dumps(A).encode(), bytes(1)), "is not valid text"),
    "no UTF-8": (made(b'{"\xff":%b}' % json.dumps(A).encode(), bytes(1)), "is not valid text"),
    "a zero byte in a name": (made(b'{"\0":%b}' % json.dumps(A).encode(), bytes(1)), "is not valid text"),
    "a name without an end": (made(b'{"aaa'), "no end"),
    "a name of backslashes": (made(b'{"' + b"\\" * 1001), "no end"),
    "a huge name": (made({"x" * 100_000: A}, bytes(1)), "too long"),
    "a zero byte after the header": (made(json.dumps({"a": A}).encode() + b"\0", bytes(1)), "invalid JSON"),
    "two headers": (made(json.dumps({"a": A}).encode() + b"{}", bytes(1)), "invalid JSON"),
    "a list": (made(b"[]"), "invalid JSON"),
    "deep nesting": (made(b'{"a":' * 50_000), "invalid JSON|too long"),
    "a deep list": (made(b'{"a":{"shape":' + b"[" * 8000 + b"}}"), "invalid JSON"),
    "a deep list that is huge": (made(b'{"a":{"shape":' + b"[" * 90_000 + b"}}"), "object is too long"),
    "a huge number": (made({"a": entry("U8", [10**4000], 0, 1)}, bytes(1)), "impossible shape"),
    "a number that takes an age": (made(b'{"a":{"shape":[' + b"9" * 9000 + b"]}}"), "invalid JSON"),
    "a float": (made({"a": entry("U8", [1.0], 0, 1)}, bytes(1)), "invalid JSON"),
    "NaN": (made(b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', bytes(1)), "invalid JSON"),
    "Infinity": (made(b'{"a":{"dtype":"U8","shape":[Infinity],"data_offsets":[0,1]}}', bytes(1)), "invalid JSON"),
    "true": (made({"a": entry("U8", [True], 0, 1)}, bytes(1)), "impossible shape"),
    "a negative dimension": (made({"a": entry("U8", [-1, -1], 0, 1)}, bytes(1)), "impossible shape"),
    "a shape that is text": (made({"a": entry("U8", "1", 0, 1)}, bytes(1)), "impossible shape"),
    "too many elements": (made({"a": entry("U8", [1 << 62, 4, 0], 0, 0)}), "impossible shape"),
    "too many elements after a zero": (made({"a": entry("U8", [0, 1 << 62, 4], 0, 0)}), "impossible shape"),
    "300 dimensions": (made({"a": entry("U8", [1] * 300, 0, 1)}, bytes(1)), "impossible shape"),
    "three offsets": (made({"a": A | {"data_offsets": [0, 1, 1]}}, bytes(1)), "invalid data_offsets"),
    "offsets the wrong way": (made({"a": entry("U8", [0], 1, 0)}, bytes(1)), "invalid data_offsets"),
    "a negative offset": (made({"a": entry("U8", [2], -1, 1)}, bytes(1)), "invalid data_offsets"),
    "a far offset": (made({"a": entry("U8", [1 << 63], 0, 1 << 63)}), "impossible"),
    "past the end": (made({"a": entry("F32", [100], 0, 400)}, bytes(1)), "cut short"),
    "another size": (made({"a": entry("F32", [1], 0, 1)}, bytes(1)), "wrong size"),
    "no whole byte": (made({"a": entry("F4", [3], 0, 1)}, bytes(1)), "wrong size"),
    "an unknown dtype": (made({"a": entry("F128", [1], 0, 16)}, bytes(16)), "unknown dtype, .* a; found F128"),
    "a dtype that is a number": (made({"a": entry(7, [1], 0, 1)}, bytes(1)), "unknown dtype"),  # type: ignore[arg-type]
    "a dtype that is a list": (made({"a": entry([], [1], 0, 1)}, bytes(1)), "unknown dtype"),  # type: ignore[arg-type]
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    """What contradicts itself keeps the file from being opened, with one line that names it."""
    data, message = HOSTILE[case]
    with pytest.raises((DamagedError, UnsupportedError), match=message) as caught:
        opened(tmp_path / "m", data)
    assert str(caught.value).startswith(str(tmp_path / "m"))
    assert len(str(caught.value)) < 1000


def _many(count: int, one: Callable[[int], str]) -> bytes:
    return made(("{" + ",".join(map(one, range(count))) + "}").encode())


@pytest.mark.parametrize(
    "data",
    [
        _many(300_000, lambda n: f'"{n}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        made(b'{"__metadata__":{' + b",".join(b'"%d":""' % n for n in range(800_000)) + b"}}"),
        made(b'{"a":{"shape":[' + b"[],{}," * 2_000_000 + b"]}}"),
        made('{{"__metadata__":{{"a":"\U0001f600{}"}}}}'.format("x" * 12_000_000).encode()),
    ],
    ids=["variables", "metadata", "brackets", "wide text"],
)
def test_memory_is_bounded_by_the_file(tmp_path: Path, data: bytes) -> None:
    """A header whose objects would take far more than its file is refused, within 64 MB beyond the file's size."""
    (tmp_path / "m").write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            SafeTensors(str(tmp_path / "m"), [str(tmp_path / "m")])
        assert tracemalloc.get_traced_memory()[1] < (64 << 20) + len(data)
    finally:
        tracemalloc.stop()


def test_many_variables_with_values_are_read(tmp_path: Path) -> None:
    """A file of as many variables as real models have opens."""
    count = 20_000
    data = _many(
        count, lambda n: f'"layers.{n}.weight":{{"dtype":"F32","shape":[1],"data_offsets":[{4 * n},{4 * n + 4}]}}'
    )
    with opened(tmp_path / "m", data + np.arange(count, dtype=np.float32).tobytes()) as checkpoint:
        assert len(checkpoint) == count
        assert checkpoint.read("layers.777.weight").tolist() == [777.0]


@a_few
@given(value=st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20,
), ascii=st.booleans(), indent=st.sampled_from([None, 1]))  # fmt: skip
def test_a_value_is_skipped_to_its_end(value: Any, ascii: bool, indent: int | None) -> None:
    """Whatever JSON stands there, what follows it is found."""
    text = json.dumps({"k": value, "after": "end"}, ensure_ascii=ascii, indent=indent).encode("utf-8", "surrogatepass")
    scanner = json_scan.JsonScanner(text)
    keys = scanner.object_keys()
    assert next(keys) == "k"
    scanner.skip()
    assert (next(keys), scanner.string(99), next(keys, None)) == ("after", "end", None)
    scanner.end()


# -- writing safely


def test_a_crash_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Killed at any call that changes the disk, the file is the old or the new one, and the next writer goes on."""
    path, old = tmp_path / "m", library(SMALL, {"k": "v"})
    seen = set()
    for calls in range(100):
        path.write_bytes(old)

        def operation() -> None:
            with SafeTensors(str(path), [str(path)]) as checkpoint, Lock(str(path), 0.0) as lock:
                plan = Plan(checkpoint, [set_to(checkpoint, "b", np.array([7, 8, 9]))])
                safetensors_writing.save_in_place(plan, lock, True, 0.0)

        done = survives(operation, calls)
        values = read_by_library(path.read_bytes())["b"].tolist()
        assert values in ([1, -2, 300], [7, 8, 9])
        seen.add(tuple(values))
        if done:
            break
    assert len(seen) == 2
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """An error of the operating system at any call leaves the old file, or the new one with a warning, and no other."""
    path, old = tmp_path / "m", library(SMALL)
    for calls in range(100):
        path.write_bytes(old)
        with SafeTensors(str(path), [str(path)]) as checkpoint:
            with Failing(calls) as failing:
                try:
                    in_place(checkpoint, [set_to(checkpoint, "b", np.array([7, 8, 9]))])
                    changed = True
                except (StorageError, CkptSurgeonError):
                    changed = False
            assert (path.read_bytes() != old) == changed
        if not failing.reached:
            break
    assert changed


def test_a_result_goes_nowhere_by_accident(tmp_path: Path) -> None:
    """What stands there is replaced only with force; a name that a TensorFlow checkpoint has is refused."""
    with opened(tmp_path / "m", library(SMALL)) as checkpoint:
        (tmp_path / "there").write_bytes(b"x")
        with pytest.raises(RefusedError, match="exists already"):
            save(Plan(checkpoint, []), tmp_path / "there", force=False)
        save(Plan(checkpoint, []), tmp_path / "there")
        (tmp_path / "tf.index").write_bytes(b"x")
        with pytest.raises(RefusedError, match="TensorFlow checkpoint has this name"):
            save(Plan(checkpoint, []), tmp_path / "tf")
        with pytest.raises(RefusedError, match="no checkpoint can have this name"):
            save(Plan(checkpoint, []), tmp_path)


def test_somebody_else_saves_meanwhile(tmp_path: Path) -> None:
    """A file that was replaced under the lock is left as it is."""
    path = tmp_path / "m"
    with opened(path, library(SMALL)) as checkpoint, Lock(str(path), 0.0) as lock:
        other = tmp_path / "other"
        other.write_bytes(library({"x": MATRIX}))
        os.replace(other, path)
        with pytest.raises(BusyError, match="another process saved it in the meantime"):
            safetensors_writing.save_in_place(
                Plan(checkpoint, [set_to(checkpoint, "b", np.arange(3))]), lock, False, 0.0
            )
    assert list(read_by_library(path.read_bytes())) == ["x"]


def test_the_sample(samples: Path) -> None:
    """A file of another program: its values are what the library reads, and a change keeps its metadata."""
    data = (samples / "safetensors" / "model.safetensors").read_bytes()
    files = safetensors_finding.locate(str(samples / "safetensors"))
    assert files == [str(samples / "safetensors" / "model.safetensors")]
    with SafeTensors(files[0], files) as checkpoint:
        assert agree(read_all(checkpoint), safetensors.numpy.load(data))
        assert checkpoint.metadata_items()["git_tag"] == "v1.45"
        assert list(checkpoint) == ["fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight"]


# -- sets are copied, and metadata missed


def a_set(folder: Path, index: bool = True) -> str:
    """A checkpoint of two files, with an index or without; what names it."""
    folder.mkdir()
    files = [f"m-0000{at}-of-00002.safetensors" for at in (1, 2)]
    for at, file in enumerate(files):
        (folder / file).write_bytes(library({f"v{at}": np.full(3, at, np.float32)}, {"format": "pt"}))
    told = {"metadata": {"total_size": 24}, "weight_map": {f"v{at}": file for at, file in enumerate(files)}}
    if index:
        (folder / "m.safetensors.index.json").write_text(json.dumps(told))
    return str(folder / ("m.safetensors.index.json" if index else files[0]))


@pytest.mark.parametrize("name", ["m", "other"])
@pytest.mark.parametrize("index", [True, False])
def test_a_set_is_copied(tmp_path: Path, name: str, index: bool) -> None:
    """Under the name of the index, or of the first file where there is none; byte for byte but for names in it."""
    path, folder = a_set(tmp_path / "a", index), tmp_path / "b"
    folder.mkdir()
    out = folder / (f"{name}.safetensors.index.json" if index else f"{name}-00001-of-00002.safetensors")
    assert producing.cp(path, out).warnings == []
    expected = {each.name.replace("m", name, 1): each.read_bytes() for each in (tmp_path / "a").iterdir()}
    found = {each.name: each.read_bytes() for each in folder.iterdir()}
    if index and name != "m":
        told = json.loads(found.pop("other.safetensors.index.json"))
        assert told["metadata"] == {"total_size": 24}
        assert list(told["weight_map"].values()) == [f"other-0000{at}-of-00002.safetensors" for at in (1, 2)]
        del expected["other.safetensors.index.json"]
    assert found == expected
    with SafeTensors(str(out), safetensors_finding.locate(str(out)) or []) as copied:
        assert {each: copied.read(each).tolist() for each in copied} == {"v0": [0] * 3, "v1": [1] * 3}


@pytest.mark.parametrize(
    ("out", "message"),
    [("copy.safetensors", "expected a name like OUT.safetensors.index.json"), ("copy", "a name like OUT"),
     (".safetensors.index.json", "a name like OUT"), ("taken.safetensors.index.json", "exists already")],
)  # fmt: skip
def test_a_set_is_not_copied_onto_anything(tmp_path: Path, out: str, message: str) -> None:
    """Neither under a name that is no set's, nor where one of its files stands, even by force."""
    path = a_set(tmp_path / "a")
    (tmp_path / "taken-00002-of-00002.safetensors").write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RefusedError, match=message):
        producing.cp(path, tmp_path / out, force=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at the last file takes the first ones away again."""
    from ckptsurgeon.formats import copying

    publish, path = copying._publish, a_set(tmp_path / "a")

    def failing(staging: Any, temporary: str, where: str) -> None:
        if where.endswith("json"):
            raise StorageError("no room", path=where)
        publish(staging, temporary, where)

    monkeypatch.setattr(copying, "_publish", failing)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StorageError):
        producing.cp(path, tmp_path / "b.safetensors.index.json")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("name", "is_told"), [("out.npz", True), ("out", True), ("out.safetensors", False)])
def test_metadata_that_cannot_be_kept_are_missed(tmp_path: Path, name: str, is_told: bool) -> None:
    """One warning names them; the numbers of layers, which are our own, are not missed."""
    values = {"w": np.zeros(2, np.float32)}
    (tmp_path / "m.safetensors").write_bytes(library(values, {"author": "me", LAYERS: "{}"}))
    report = producing.convert(str(tmp_path / "m.safetensors"), tmp_path / name)
    said = f"{tmp_path / 'm.safetensors'}: its metadata (author) are left out, which "
    assert [each[: len(said)] for each in report.warnings] == ([said] if is_told else [])
    (tmp_path / "m.safetensors").write_bytes(library(values, {LAYERS: "{}"}))
    assert producing.convert(str(tmp_path / "m.safetensors"), tmp_path / name, force=True).warnings == []
