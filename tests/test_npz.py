"""NumPy's files: read as NumPy reads them, never unpickled, written as it reads them back, and hostile ones."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from crash import survives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Arrays, names, same, shapes, write_bundle
from strategies import numbers as any_numbers

from ckptsurgeon import formats, plain
from ckptsurgeon.checkpoint import Variable
from ckptsurgeon.errors import CkptSurgeonError, DamagedError, Problems, RefusedError, UnsupportedError
from ckptsurgeon.formats.bundle import writing as bundle_writing
from ckptsurgeon.formats.bundle.reading import Bundle
from ckptsurgeon.formats.files import zip_writing, zipped
from ckptsurgeon.formats.npz import header as npz_header
from ckptsurgeon.formats.npz import writing as npz_writing
from ckptsurgeon.formats.npz.reading import Npy, Npz, kind_of
from ckptsurgeon.formats.safetensors import writing as safetensors_writing
from ckptsurgeon.formats.safetensors.reading import SafeTensors
from ckptsurgeon.plan import Change, Copy, Elements, Fill, Plan, Text, Values
from ckptsurgeon.publish import Lock
from ckptsurgeon.verbs import changing, producing

a_few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32",
          "float64", "complex64", "complex128")  # fmt: skip
MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)
SMALL: Arrays = {"a/kernel": MATRIX, "b": np.array([1, -2, 300]), "c": np.array(True), "e": np.zeros((0, 3))}


# -- help


def npz(arrays: dict[str, Any], compressed: bool = False) -> bytes:
    """A file as NumPy writes it."""
    out = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(out, allow_pickle=True, **arrays)
    return out.getvalue()


def npy(values: Any) -> bytes:
    """An array's file as NumPy writes it."""
    out = io.BytesIO()
    np.save(out, values, allow_pickle=True)
    return out.getvalue()


def by_numpy(data: bytes) -> Arrays:
    """What NumPy reads."""
    with np.load(io.BytesIO(data)) as found:
        return {name: found[name] for name in found.files}


def opened(path: Path, data: bytes) -> Npz:
    """A checkpoint of these bytes."""
    path.write_bytes(data)
    return Npz(str(path))


def read_all(checkpoint: Npz) -> Arrays:
    """All values."""
    return {name: checkpoint.read(name) for name in checkpoint}


def agree(one: Arrays, other: Arrays) -> bool:
    """Whether two checkpoints hold the same."""
    return one.keys() == other.keys() and all(same(values, other[name]) for name, values in one.items())


def in_place(checkpoint: Npz, changes: list[Change]) -> list[str]:
    """Carry changes out in a checkpoint that is locked for it."""
    with Lock(checkpoint.main_file, 0.0) as lock:
        return npz_writing.save_in_place(Plan(checkpoint, changes), lock, False, 0.0)


def save(plan: Plan, path: Path, format: str = "npz") -> list[str]:
    """Carry a plan out as a new file."""
    return npz_writing.save_as(plan, str(path), format, True, False, 0.0)


def set_to(checkpoint: Npz, name: str, values: NDArray[Any]) -> Change:
    """The change that gives a variable these values."""
    return Change("set", checkpoint[name], Values(values))


def fits(name: str) -> bool:
    """Whether a member of a zip file, and a keyword of `numpy.savez`, can have a name."""
    with contextlib.suppress(UnicodeEncodeError):
        odd = name.endswith((".npy", "/")) or name in ("file", "allow_pickle") or "\0" in name
        return not odd and bool(name.encode()) and zipped.name_problem(name) is None
    return False


def tree() -> st.SearchStrategy[Arrays]:
    """A whole checkpoint of what NumPy's files hold."""
    arrays = st.sampled_from(DTYPES).flatmap(any_numbers)
    return st.dictionaries(names().filter(fits), arrays, min_size=1, max_size=6)


def zip_of(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip file by Python's own module."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return out.getvalue()


def header(text: str, data: bytes = b"", version: int = 1) -> bytes:
    """An array's file of this header and these values."""
    encoded = text.encode("latin-1" if version < 3 else "utf-8")
    return (
        npz_header.MAGIC
        + bytes([version, 0])
        + len(encoded).to_bytes(2 if version == 1 else 4, "little")
        + encoded
        + data
    )


def array(descr: str, shape: str, data: bytes = b"") -> bytes:
    """An array's file in C order."""
    return header(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}", data)


# -- both directions


@a_few
@given(arrays=tree(), compressed=st.booleans())
def test_what_numpy_writes_is_read(tmp_path: Path, arrays: Arrays, compressed: bool) -> None:
    """Names, dtypes, shapes and bits of any file that NumPy writes, packed or not; checksums are verified."""
    with opened(tmp_path / "m", npz(arrays, compressed)) as checkpoint:
        assert agree(read_all(checkpoint), arrays)
        for name, variable in checkpoint.variables.items():
            checkpoint.check(variable)
            assert checkpoint.nbytes(variable) == arrays[name].nbytes
            stored = b"".join(checkpoint.chunks(variable.extents[0]))
            assert compressed or stored == arrays[name].tobytes()
        assert checkpoint.oddities() == []


@a_few
@given(arrays=tree(), compressed=st.booleans(), seed=st.integers(0, 1 << 30))
def test_what_is_changed_is_read_by_numpy(tmp_path: Path, arrays: Arrays, compressed: bool, seed: int) -> None:
    """After a set, a fill, a drop, a rename and an addition in place NumPy reads what there should be."""
    rng = np.random.default_rng(seed)
    expected = dict(arrays)
    with opened(tmp_path / "m", npz(arrays, compressed)) as checkpoint:
        changes = []
        for name in arrays:
            variable, action = checkpoint[name], rng.integers(0, 5)
            if action == 0:
                expected[name] = np.ones_like(arrays[name])
                changes.append(set_to(checkpoint, name, expected[name]))
            elif action == 1:
                expected[name] = np.full_like(arrays[name], 1)
                changes.append(Change("filled", variable, Fill(1)))
            elif action == 2:
                del expected[name]
                changes.append(Change("dropped", variable))
            elif action == 3 and f"{name}/new" not in expected:
                change = Change("renamed", variable, source=name)
                change.name = f"{name}/new"
                change.key = checkpoint.key_of(change.name)
                expected[change.name] = expected.pop(name)
                changes.append(change)
        if "added/one" not in expected:
            new = Variable("added/one", checkpoint.key_of("added/one"), "float64", (2,), ())
            changes.append(Change("added", new, Values(np.array([1.0, 2.0]))))
            expected["added/one"] = np.array([1.0, 2.0])
        in_place(checkpoint, changes)
    data = (tmp_path / "m").read_bytes()
    assert agree(by_numpy(data), expected)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
    with opened(tmp_path / "again", data) as again:
        assert agree(read_all(again), expected)


@a_few
@given(arrays=tree(), byteorder=st.sampled_from(["little", "big"]))
def test_across_formats(tmp_path: Path, arrays: Arrays, byteorder: str) -> None:
    """A TensorFlow checkpoint becomes npz, which becomes safetensors where they hold it, which become npz again."""
    arrays = {name: values for name, values in arrays.items() if ".ATTRIBUTES" not in name} | {"more": MATRIX}
    write_bundle(tmp_path / "b", arrays, byteorder=byteorder)
    with Bundle(str(tmp_path / "b")) as bundle:
        save(Plan(bundle, []), tmp_path / "m")
    assert agree(by_numpy((tmp_path / "m").read_bytes()), arrays)
    path = str(tmp_path / "s")
    with Npz(str(tmp_path / "m")) as checkpoint:
        unfit = [name for name in arrays if arrays[name].dtype == np.complex128 or name == "__metadata__"]
        plan = Plan(checkpoint, [Change("dropped", checkpoint[name]) for name in unfit])
        safetensors_writing.save_as(plan, path, True, False, 0.0)
    with SafeTensors(path, [path]) as between:
        save(Plan(between, []), tmp_path / "n")
    kept = {name: values for name, values in arrays.items() if name not in unfit}
    assert agree(by_numpy((tmp_path / "n").read_bytes()), kept)
    with Npz(str(tmp_path / "n")) as back:
        bundle_writing.save_as(Plan(back, []), str(tmp_path / "c"), False, True, False, 0.0)
    with Bundle(str(tmp_path / "c")) as bundle:
        assert agree({name: bundle.read(name) for name in bundle}, kept)


@a_few
@given(values=st.sampled_from(DTYPES).flatmap(any_numbers), order=st.sampled_from("<>"), fortran=st.booleans())
def test_byte_orders_and_fortran_order(tmp_path: Path, values: NDArray[Any], order: str, fortran: bool) -> None:
    """Arrays of either byte order and either order of dimensions are read right, and carried as they are."""
    stored = np.array(values, values.dtype.newbyteorder(order), order="F" if fortran else "C")
    data = npz({"a": stored, "b": MATRIX})
    with opened(tmp_path / "m", data) as checkpoint:
        assert checkpoint["a"].dtype == values.dtype.name
        read = checkpoint.read("a")
        assert same(read, values)
        assert read.flags.c_contiguous
        assert read.flags.owndata
        in_place(checkpoint, [Change("dropped", checkpoint["b"])])
        again = by_numpy((tmp_path / "m").read_bytes())["a"]
        assert (again.dtype, again.flags.fnc) == (stored.dtype, stored.flags.fnc)
        assert again.tobytes("A") == stored.tobytes("A")
        donor = tmp_path / "donor"
        with opened(donor, data) as other, opened(tmp_path / "n", npz({"a": values})) as recipient:
            in_place(recipient, [Change("grafted", recipient["a"], Copy(other, other["a"]))])
    assert by_numpy((tmp_path / "n").read_bytes())["a"].tobytes() == stored.tobytes()
    path = str(tmp_path / "s")
    with opened(donor, data) as other:
        plan = Plan(other, [Change("dropped", other["b"])])
        if values.dtype != np.complex128:
            safetensors_writing.save_as(plan, path, True, False, 0.0)
            with SafeTensors(path, [path]) as plain:
                assert same(plain.read("a"), values)


def test_untouched_members_are_carried(tmp_path: Path) -> None:
    """Times, attributes, comments, extra fields and packed bytes of members that no change touches stay."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for at, name in enumerate(("a.npy", "b.npy", "notes.txt")):
            info = zipfile.ZipInfo(name, (2001, 2, 3, 4, 5, 6 + 2 * at))
            info.comment, info.extra = b"comment %d" % at, struct.pack("<2H3s", 0x7777, 3, b"xyz")
            info.external_attr, info.compress_type = 0o644 << 16, 8 * (at % 2)
            file.writestr(info, npy(MATRIX) if name.endswith("npy") else b"some text")
        file.comment = b"of all"
    with opened(tmp_path / "m", out.getvalue()) as checkpoint:
        assert {each.name: each.dtype for each in checkpoint.variables.values()} == {
            "a": "float32", "b": "float32", "notes.txt": "string"
        }  # fmt: skip
        assert checkpoint.read("notes.txt").item() == b"some text"
        renamed = Change("renamed", checkpoint["b"], source="b")
        renamed.name, renamed.key = "é", "é".encode()
        new = Variable("new", b"new", "int64", (1,), ())
        in_place(checkpoint, [renamed, Change("added", new, Values(np.array([1])))])
    with zipfile.ZipFile(out) as before, zipfile.ZipFile(tmp_path / "m") as after:
        assert after.namelist() == ["a.npy", "é.npy", "notes.txt", "new.npy"]
        for one, other in zip(before.infolist(), after.infolist(), strict=False):
            for field in ("date_time", "compress_type", "comment", "extra", "external_attr", "CRC", "compress_size"):
                assert getattr(one, field) == getattr(other, field), field
        assert after.comment == b"of all"
        assert after.getinfo("new.npy").date_time == (1980, 1, 1, 0, 0, 0)
        assert after.testzip() is None
    with Npz(str(tmp_path / "m")) as again:
        renamed = Change("renamed", again["notes.txt"], source="notes.txt")
        renamed.name, renamed.key = "x.npy", b"x.npy"
        with pytest.raises(RefusedError, match=r"x.npy is not an array, so its name cannot end"):
            in_place(again, [renamed])
        renamed.name, renamed.key = "notes.md", b"notes.md"
        in_place(again, [renamed])
    with zipfile.ZipFile(tmp_path / "m") as after:
        assert after.read("notes.md") == b"some text"
    with Npz(str(tmp_path / "m")) as again:
        in_place(again, [Change("set", again["notes.md"], Text(b"other text"))])
    with zipfile.ZipFile(tmp_path / "m") as after:
        assert after.read("notes.md") == b"other text"


def test_members_whose_sizes_follow_them(tmp_path: Path) -> None:
    """A zip file that was written to a pipe is read and carried."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as file:  # type: ignore[arg-type]
        for name, values in SMALL.items():
            file.writestr(f"{name}.npy", npy(values))
    with opened(tmp_path / "m", pipe.data) as checkpoint:
        assert agree(read_all(checkpoint), SMALL)
        in_place(checkpoint, [Change("dropped", checkpoint["b"])])
    assert sorted(by_numpy((tmp_path / "m").read_bytes())) == ["a/kernel", "c", "e"]


def test_strings_of_fixed_length(tmp_path: Path) -> None:
    """Bytes and text come as strings, text as UTF-8; strings are written so that NumPy reads them."""
    arrays = {"s": np.array([[b"one", b""], [b"z" * 20, b"a\0b"]]), "u": np.array(["é", "\U0001f600x", ""]),
              "w": np.array(["big"], ">U5"), "n": np.zeros(3, "S0"),
              "f": np.asfortranarray([[b"a", b"b"], [b"c", b"d"]])}  # fmt: skip
    with opened(tmp_path / "m", npz(arrays)) as checkpoint:
        assert {each.dtype for each in checkpoint.variables.values()} == {"string"}
        assert checkpoint.read("s").tolist() == arrays["s"].tolist()
        assert checkpoint.read("u").tolist() == ["é".encode(), "\U0001f600x".encode(), b""]
        assert checkpoint.read("w").tolist() == [b"big"]
        assert checkpoint.read("n").tolist() == [b""] * 3
        assert checkpoint.read("f").tolist() == arrays["f"].tolist()
        assert checkpoint.nbytes(checkpoint["s"]) == 26
        texts = np.empty(3, object)
        texts[:] = [b"x", b"", b"longer"]
        in_place(checkpoint, [set_to(checkpoint, "u", texts)])
        ends = np.empty(3, object)
        ends[:] = [b"x\0"] * 3
        with pytest.raises(UnsupportedError, match="ends in a zero byte"):
            in_place(checkpoint, [set_to(checkpoint, "u", ends)])
    (tmp_path / "w.npy").write_bytes(array("<U1", "(1,)", b"\xff\xff\xff\xff"))
    with Npy(str(tmp_path / "w.npy")) as checkpoint, pytest.raises(DamagedError, match="w holds invalid text"):
        checkpoint.read("w")
    again = by_numpy((tmp_path / "m").read_bytes())
    assert again["u"].tolist() == [b"x", b"", b"longer"]
    assert same(again["s"], arrays["s"])


def test_what_only_numpy_knows_is_carried(tmp_path: Path) -> None:
    """Records, times and bfloat16 are listed by NumPy's name, refused by theirs when read, and carried."""
    arrays = {"r": np.zeros(2, [("x", "<f4"), ("y", ">i2", (2, 2))]), "t": np.array(["2020-01-01"], "datetime64[D]"),
              "h": np.array([1, 2], ml_dtypes.bfloat16), "l": np.array([1.5], np.longdouble), "ok": MATRIX}  # fmt: skip
    data = npz(arrays)
    with opened(tmp_path / "m", data) as checkpoint:
        assert {each.name: each.dtype for each in checkpoint.variables.values()} == {
            "r": "void96", "t": "datetime64[D]", "h": "void16", "l": arrays["l"].dtype.name, "ok": "float32"
        }  # fmt: skip
        for name in ("r", "t", "h", "l"):
            with pytest.raises(UnsupportedError, match=f"^[^:]*: {name} holds values of dtype"):
                checkpoint.read(name)
            checkpoint.check(checkpoint[name])
            assert checkpoint.nbytes(checkpoint[name]) == arrays[name].nbytes
        with pytest.raises(Problems) as caught:
            safetensors_writing.save_as(Plan(checkpoint, []), str(tmp_path / "s"), True, False, 0.0)
        assert len(caught.value.lines) == 4
        in_place(checkpoint, [Change("filled", checkpoint["ok"], Fill(2.0))])
    again = by_numpy((tmp_path / "m").read_bytes())
    for name in ("r", "t", "l"):
        assert (again[name].dtype, again[name].tobytes()) == (arrays[name].dtype, arrays[name].tobytes())
    assert again["ok"].tolist() == [[2.0] * 3] * 4


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    """An array of Python objects is listed as such, and refused by its name, read or grafted; nothing of it runs."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    objects = np.empty(1, object)
    objects[0] = Evil()
    data = npz({"evil": objects, "ok": MATRIX})
    assert not (tmp_path / "owned").exists()
    with opened(tmp_path / "m", data) as checkpoint, opened(tmp_path / "n", npz({"evil": MATRIX})) as other:
        assert checkpoint["evil"].dtype == "object"
        new = Variable("o", b"o", "object", (1,), ())
        with pytest.raises(UnsupportedError, match="evil holds pickled Python objects, which are never loaded"):
            checkpoint.read("evil")
        checkpoint.check(checkpoint["evil"])
        assert same(checkpoint.read("ok"), MATRIX)
        with pytest.raises(UnsupportedError, match="never copied"):
            in_place(other, [Change("added", new, Copy(checkpoint, checkpoint["evil"]))])
        in_place(checkpoint, [Change("dropped", checkpoint["evil"])])
    assert not (tmp_path / "owned").exists()
    assert list(by_numpy((tmp_path / "m").read_bytes())) == ["ok"]
    (tmp_path / "p.npy").write_bytes(npy(objects))
    with Npy(str(tmp_path / "p.npy")) as single, pytest.raises(UnsupportedError, match="never loaded"):
        single.read("p")
    assert pickle.dumps(Evil())  # which would have made the folder when loaded
    assert not (tmp_path / "owned").exists()


def test_what_numpys_files_cannot_hold(tmp_path: Path) -> None:
    """Dtypes that a file would not name and names that no member may have are refused, all at once."""
    arrays: Arrays = {"h": np.zeros(2, ml_dtypes.bfloat16), "i": np.zeros(2, ml_dtypes.int4), "long" * 17_000: MATRIX}
    write_bundle(tmp_path / "b", arrays)
    with Bundle(str(tmp_path / "b")) as bundle, pytest.raises(Problems) as caught:
        save(Plan(bundle, []), tmp_path / "out")
    text = str(caught.value)
    for part in ("cannot represent bfloat16", "represent int4", "it is too long; found longlong"):
        assert part in text
    assert not list(tmp_path.glob("out*"))
    with opened(tmp_path / "m", npz(SMALL)) as checkpoint:
        with pytest.raises(RefusedError, match="needs variables"):
            in_place(checkpoint, [Change("dropped", each) for each in checkpoint.variables.values()])
        new = Variable("b", b"b", "int64", (1,), ())
        with pytest.raises(RefusedError, match="two variables would have the name"):
            in_place(checkpoint, [Change("added", new, Values(np.array([1])))])


def test_a_machine_of_the_other_byte_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numbers are big-endian by nature, little-endian ones are swapped and others are not."""
    with opened(tmp_path / "m", npz({"l": np.array([1], "<u2"), "b": np.array([1], ">u2")})) as checkpoint:
        monkeypatch.setattr(sys, "byteorder", "big")
        assert [checkpoint.read(name).item() for name in ("l", "b")] == [256, 256]


def test_values_that_are_computed_while_they_are_written(tmp_path: Path) -> None:
    """A cast goes out a part at a time, into NumPy's files and into safetensors."""
    parts = [np.arange(5, dtype=np.float64), np.arange(5, 12, dtype=np.float64)]
    cast = Variable("a/kernel", b"a/kernel", "float64", (4, 3), ())
    with opened(tmp_path / "m", npz(SMALL)) as checkpoint:
        plan = Plan(checkpoint, [Change("cast", cast, Elements(lambda: iter(parts), "float32"))])
        save(plan, tmp_path / "n")
        safetensors_writing.save_as(plan, str(tmp_path / "s"), True, False, 0.0)
    expected = {**SMALL, "a/kernel": MATRIX.astype(np.float64)}
    assert agree(by_numpy((tmp_path / "n").read_bytes()), expected)
    with SafeTensors(str(tmp_path / "s"), [str(tmp_path / "s")]) as other:
        assert agree({name: other.read(name) for name in other}, expected)


def test_files_are_told_by_content(tmp_path: Path) -> None:
    """Zip files with arrays are ours, less Keras's; a damaged one is if it is called so."""
    cases: list[tuple[str, bytes, str | None]] = [
        ("m", npz(SMALL), "npz"), ("m", npz(SMALL, True), "npz"), ("m.npz", npy(MATRIX), "npy"),
        ("m.npz", zip_of({"a.txt": b"x"}), None), ("m.npz", npz(SMALL)[:-5], "npz"), ("m.pt", npz(SMALL)[:-5], None),
        ("m.keras", zip_of({"config.json": b"{}", "model.weights.npz": b"", "a.npy": npy(MATRIX)}), None),
        ("m", b"", None), ("m", b"PK", None), ("m", zip_of({}), None),
    ]  # fmt: skip
    for name, data, kind in cases:
        (tmp_path / name).write_bytes(data)
        assert kind_of(str(tmp_path / name)) == kind, (name, data[:20])


@pytest.mark.skipif(not os.path.exists("/dev/fd"), reason="no /dev/fd here")
def test_a_file_without_a_name(tmp_path: Path) -> None:
    """What was spooled from a pipe is read through its descriptor; a single array is then called `array`."""
    for data, kind, known in ((npz(SMALL), Npz, list(SMALL)), (npy(MATRIX), Npy, ["array"])):
        path = tmp_path / "spooled.npy"
        path.write_bytes(data)
        with path.open("rb") as file:
            path.unlink()
            with kind(f"/dev/fd/{file.fileno()}") as checkpoint:
                checkpoint.path = "stdin"
                assert list(checkpoint) == known
                assert same(checkpoint.read(known[0]), MATRIX)
                assert not checkpoint.was_replaced()


# -- npy


@a_few
@given(values=st.sampled_from(DTYPES).flatmap(any_numbers), order=st.sampled_from("CF"))
def test_one_array(tmp_path: Path, values: NDArray[Any], order: Any) -> None:
    """A single array is a checkpoint of one variable with the file's name, in both directions."""
    path = tmp_path / "weights.npy"
    path.write_bytes(npy(np.array(values, order=order)))
    with Npy(str(path)) as checkpoint:
        assert list(checkpoint) == ["weights"]
        assert same(checkpoint.read("weights"), values)
        in_place(checkpoint, [set_to(checkpoint, "weights", np.ones_like(values))])
        assert same(np.load(path), np.ones_like(values))
        with Npy(str(path)) as again:
            save(Plan(again, []), tmp_path / "m")
    assert agree(by_numpy((tmp_path / "m").read_bytes()), {"weights": np.ones_like(values)})
    with Npz(str(tmp_path / "m")) as back:
        save(Plan(back, []), tmp_path / "back.npy", "npy")
    assert same(np.load(tmp_path / "back.npy"), np.ones_like(values))


def test_one_array_stays_one(tmp_path: Path) -> None:
    """Several variables go into no npy file, and its variable cannot be renamed."""
    with opened(tmp_path / "m", npz(SMALL)) as checkpoint, pytest.raises(RefusedError, match="one variable, not 4"):
        save(Plan(checkpoint, []), tmp_path / "out.npy", "npy")
    (tmp_path / "w.npy").write_bytes(npy(MATRIX))
    with Npy(str(tmp_path / "w.npy")) as single:
        renamed = Change("renamed", single["w"], source="w")
        renamed.name, renamed.key = "x", b"x"
        with pytest.raises(RefusedError, match="named after the file"):
            in_place(single, [renamed])


# -- damage


def whole(path: Path, data: bytes) -> Arrays | None:
    """All that these bytes hold; None if they are refused."""
    try:
        with opened(path, data) as checkpoint:
            for variable in checkpoint.variables.values():
                checkpoint.check(variable)
            return read_all(checkpoint)
    except CkptSurgeonError:
        return None


@pytest.mark.parametrize("compressed", [False, True])
def test_every_truncation_is_noticed(tmp_path: Path, compressed: bool) -> None:
    """A file cut short anywhere cannot be opened, nor can an array's."""
    data = npz(SMALL, compressed)
    for end in range(len(data)):
        assert whole(tmp_path / "m", data[:end]) is None, end
    single = npy(MATRIX)
    for end in range(len(single)):
        (tmp_path / "w.npy").write_bytes(single[:end])
        with pytest.raises(CkptSurgeonError):
            Npy(str(tmp_path / "w.npy"))
    (tmp_path / "w.npy").write_bytes(single + b"x")
    with pytest.raises(DamagedError, match="wrong array size"):
        Npy(str(tmp_path / "w.npy"))


@pytest.mark.parametrize("compressed", [False, True])
def test_every_bit_flip_is_noticed_or_changes_nothing(tmp_path: Path, compressed: bool) -> None:
    """Any single bit that flips keeps the file from being read, or leaves names and values as they are."""
    arrays: Arrays = {"a": MATRIX[:2], "b": np.array([1, -2])}
    data = npz(arrays, compressed)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        found = whole(tmp_path / "m", bytes(damaged))
        assert found is None or agree(found, arrays), f"bit {bit}"


def test_names_that_look_like_paths_are_names(tmp_path: Path) -> None:
    """NumPy writes and reads names with a root or dots, and nothing is extracted: they are read, kept and written."""
    arrays = {"/conv1/kernel": MATRIX, "a/../b": MATRIX + 1, "..\\c": MATRIX + 2, "../../d": MATRIX + 3}
    path = tmp_path / "w.npz"
    np.savez(path, **arrays)
    with formats.open(path) as checkpoint:
        assert agree(read_all(checkpoint), arrays)
    changing.set(path, "/conv1/kernel", 7)
    changing.rename(path, ["a/../b=/e"])
    expected = {"/conv1/kernel": MATRIX * 0 + 7, "/e": MATRIX + 1, "..\\c": MATRIX + 2, "../../d": MATRIX + 3}
    producing.convert(path, tmp_path / "b")
    producing.convert(tmp_path / "b", tmp_path / "again.npz")
    for each in (path, tmp_path / "again.npz"):
        with np.load(each) as found:
            assert sorted(found.files) == sorted(expected)
            assert all(same(found[name], values) for name, values in expected.items())


@pytest.mark.parametrize("rest", [b"x", b"\0" * 512, b"z" * 0xFF00])
def test_bytes_after_the_end(tmp_path: Path, rest: bytes) -> None:
    """Appended bytes are ignored as by zipfile, and kept by an edit; NumPy reads the file before and after."""
    path = tmp_path / "m.npz"
    data = npz({"a": MATRIX, "b": MATRIX + 1})
    path.write_bytes(data + rest)
    assert agree(by_numpy(data + rest), {"a": MATRIX, "b": MATRIX + 1})
    changing.set(path, "a", 5)
    assert path.read_bytes().endswith(rest)
    with formats.open(path) as checkpoint:
        assert agree(read_all(checkpoint), {"a": MATRIX * 0 + 5, "b": MATRIX + 1})
    assert agree(by_numpy(path.read_bytes()), {"a": MATRIX * 0 + 5, "b": MATRIX + 1})


def spoilt(data: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    """Bytes with some replaced."""
    assert old in data
    return data.replace(old, new, count)


def _overlapping() -> bytes:
    """Two entries of the directory for one member's bytes, under two names of which the second one's header has."""
    data = zip_of({"a.npy": npy(MATRIX), "b.npy": npy(MATRIX)})
    at = data.rindex(b"PK\x01\x02")
    return data[: at + 42] + bytes(4) + spoilt(data[at + 46 :], b"b.npy", b"a.npy")


ONE = zip_of({"a.npy": npy(MATRIX)})
HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "without its directory"),
    "the start alone": (b"PK\x03\x04" + bytes(100), "without its directory"),
    "a member twice": (
        spoilt(zip_of({"a.npy": npy(MATRIX), "b.npy": npy(MATRIX)}), b"b.npy", b"a.npy"), "with the same name"
    ),
    "an entry twice": (_overlapping(), "with the same name"),
    "two names": (spoilt(ONE, b"a.npy", b"b.npy", 1), "contradicts the directory"),
    "no array": (zip_of({"a.npy": b"nothing of the kind"}), "not an array, in a.npy"),
    "a pickle": (zip_of({"a.npy": pickle.dumps([1])}), "not an array, in a.npy"),
    "bytes after an array": (zip_of({"a.npy": npy(MATRIX) + b"x"}), "wrong array size, in a.npy"),
    "bytes before": (b"x" + ONE, "not where it should be"),
    "an encrypted member": (spoilt(spoilt(ONE, b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\1"),
                                   b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1"), "encrypted"),
    "another way to pack": (
        zip_of({"a.npy": npy(MATRIX)}, zipfile.ZIP_LZMA),
        "unsupported compression.* method 14 of a.npy",
    ),
    "a huge count": (ONE[:-12] + b"\xff\xff" + ONE[-10:], "several disks"),
    "a huge count twice": (ONE[:-14] + b"\xff\xff\xff\xff" + ONE[-10:], "impossible number of members"),
    "a far directory": (ONE[:-6] + b"\xff\xff\xff\x7f" + ONE[-2:], "not where it should be"),
    "a bomb of a shape": (zip_of({"a.npy": array("<f4", "(1099511627776,)")}), "wrong array size"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_a_zip_file_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    """What contradicts itself keeps the file from being opened, with one line that names it."""
    data, message = HOSTILE[case]
    with pytest.raises((DamagedError, UnsupportedError), match=message) as caught:
        opened(tmp_path / "m", data)
    assert str(caught.value).startswith(str(tmp_path / "m"))


HEADERS: dict[str, tuple[bytes, str]] = {
    "no version": (npz_header.MAGIC, "unknown .npy version"),
    "version 9": (npz_header.MAGIC + b"\x09\0", "unknown .npy version"),
    "too long": (npz_header.MAGIC + b"\x02\0" + (1 << 30).to_bytes(4, "little"), "header is too long"),
    "cut short": (npz_header.MAGIC + b"\x01\0\x50\0{", "cut short"),
    "empty": (header(""), "invalid array header"),
    "a list": (header("[1, 2]"), "three fields"),
    "a field less": (header("{'descr': '<f4', 'shape': ()}"), "three fields"),
    "a field more": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (), 'x': 1}"), "three fields"),
    "a field twice": (header("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': ()}"), "repeats a"),
    "a call": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (print(1),)}"), "invalid array header"),
    "a sum": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1+1,)}"), "invalid array header"),
    "two values": (header("{} {}"), "invalid array header"),
    "an open bracket": (header("{'descr': ("), "invalid array header"),
    "a wrong bracket": (header("{'descr': (]"), "invalid array header"),
    "two commas": (header("{'descr': '<f4',, 'fortran_order': False, 'shape': ()}"), "invalid array header"),
    "a comma for a colon": (header("{'descr', '<f4', 'fortran_order', False, 'shape', ()}"), "invalid array header"),
    "no comma": (header("{'descr': '<f4' 'fortran_order': False, 'shape': ()}"), "invalid array header"),
    "a key that is a list": (header("{[]: 1}"), "invalid array header"),
    "deep nesting": (header("(" * 9000), "invalid array header"),
    "a negative dimension": (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "impossible shape"),
    "a boolean dimension": (array("|u1", "(True,)", b"x"), "impossible shape"),
    "a number for a shape": (array("<f4", "(1)", bytes(4)), "impossible shape"),
    "too many elements": (array("<f4", "(4611686018427387904, 4, 0)"), "impossible shape"),
    "300 dimensions": (array("|u1", f"({'1, ' * 300})", b"x"), "impossible shape"),
    "neither order": (header("{'descr': '<f4', 'fortran_order': 0, 'shape': ()}", bytes(4)), "neither C order"),
    "an unknown dtype": (header("{'descr': '<q9', 'fortran_order': False, 'shape': ()}"), "unknown array dtype"),
    "an odd size": (header("{'descr': '<f3', 'fortran_order': False, 'shape': ()}", bytes(3)), "unknown array dtype"),
    "a record of nothing": (header("{'descr': [], 'fortran_order': False, 'shape': ()}"), "unknown array dtype"),
    "a record of objects": (header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': ()}"), "never loaded"),
    "a record of numbers": (header("{'descr': [1], 'fortran_order': False, 'shape': ()}"), "unknown field"),
    "no text": (npz_header.MAGIC + b"\x03\0\x01\0\0\0\xff", "not valid text"),
}  # fmt: skip


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, case: str) -> None:
    """A header that is no plain description of an array is refused, in a zip file too; nothing in it is evaluated."""
    data, message = HEADERS[case]
    (tmp_path / "w.npy").write_bytes(data)
    for attempt in (lambda: Npy(str(tmp_path / "w.npy")), lambda: opened(tmp_path / "m", zip_of({"a.npy": data}))):
        with pytest.raises(DamagedError, match=message) as caught:
            attempt()
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", [
    "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,), }", '{"shape":(2,),"descr":"<f4","fortran_order":False}',
    " { 'fortran_order' : False , 'shape' : ( 2 , ) , 'descr' : '<f4' } \n",
    "{'descr': 'f4', 'fortran_order': True, 'shape': (2,)}",
])  # fmt: skip
@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_by_others(tmp_path: Path, text: str, version: int) -> None:
    """Any order of fields, quotes and spaces, Python 2's long integers, and all versions are read."""
    (tmp_path / "w.npy").write_bytes(header(text, np.array([1.0, 2.0], "<f4").tobytes(), version))
    with Npy(str(tmp_path / "w.npy")) as checkpoint:
        assert checkpoint.read("w").tolist() == [1.0, 2.0]


@a_few
@given(shape=shapes(), dtype=st.sampled_from(DTYPES))
def test_headers_are_numpys_own(shape: tuple[int, ...], dtype: str) -> None:
    """The header that we write is read by NumPy as what it should be, and is aligned."""
    head = plain.header(plain.descr_of(dtype) or "", shape)
    assert len(head) % 64 == 0
    read = np.lib.format.read_array(io.BytesIO(head + np.zeros(shape, dtype).tobytes()))
    assert same(read, np.zeros(shape, dtype))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """A member that is compressed more than a hundredfold is listed and carried, and not read into memory."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = header("{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,), }")
    crc, zeros = zlib.crc32(head), bytes(1 << 20)
    parts = [packer.compress(head)]
    for _ in range(1 << 10):
        parts.append(packer.compress(zeros))
        crc = zlib.crc32(zeros, crc)
    data = b"".join([*parts, packer.flush()])
    member = zipped.ZipMember("bomb.npy")
    member.method, member.crc, member.packed, member.size = zipped.DEFLATED, crc, len(data), len(head) + (1 << 30)
    local, entry = zip_writing.local_header(member), zip_writing.entry(member, 0)
    bomb = local + data + entry + zip_writing.end(1, len(local) + len(data), len(entry), b"")
    tracemalloc.start()
    try:
        with opened(tmp_path / "m", bomb) as checkpoint:
            assert checkpoint["bomb"].shape == (1 << 30,)
            with pytest.raises(UnsupportedError, match="compressed more than 100-fold"):
                checkpoint.read("bomb")
            new = Variable("n", b"n", "int64", (1,), ())
            in_place(checkpoint, [Change("added", new, Values(np.array([1])))])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "m").stat().st_size < 2 << 20
    for data in (array("|S0", "(1099511627776,)"), array("|S1", "(33554432,)", bytes(1 << 25))):
        with opened(tmp_path / "s", zip_of({"s.npy": data}, zipfile.ZIP_DEFLATED)) as checkpoint:
            with pytest.raises(UnsupportedError, match=r"too many strings for|compressed more than"):
                checkpoint.read("s")
            assert checkpoint.nbytes(checkpoint["s"]) is None


def test_a_member_that_is_larger_than_it_says(tmp_path: Path) -> None:
    """A packed member that goes on after the size in the directory is cut off and told."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(npy(MATRIX) + bytes(1 << 24)) + packer.flush()
    member = zipped.ZipMember("a.npy")
    member.method, member.packed, member.size = zipped.DEFLATED, len(data), len(npy(MATRIX))
    local, entry = zip_writing.local_header(member), zip_writing.entry(member, 0)
    with opened(
        tmp_path / "m", local + data + entry + zip_writing.end(1, len(local) + len(data), len(entry), b"")
    ) as checkpoint:
        for act in (checkpoint.read, lambda name: checkpoint.check(checkpoint[name])):
            with pytest.raises(DamagedError, match="size is wrong"):
                act("a")


def test_memory_is_bounded_by_the_file(tmp_path: Path) -> None:
    """A directory of very many members is refused before they are made."""
    member = zipped.ZipMember("m")
    entries = []
    for number in range(200_000):
        member.name = b"%06d" % number
        entries.append(zip_writing.entry(member, 0))
    directory = b"".join(entries)
    data = directory + zip_writing.end(len(entries), 0, len(directory), b"")
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            opened(tmp_path / "m", data)
        assert tracemalloc.get_traced_memory()[1] < (64 << 20) + len(data)
    finally:
        tracemalloc.stop()


def test_large_files_have_large_fields(tmp_path: Path) -> None:
    """Sizes and offsets of 4 GiB and more are written and read as zip64, as Python reads them."""
    member = zipped.ZipMember("big.npy")
    member.size = member.packed = (5 << 30) + 7
    local, entry = zip_writing.local_header(member), zip_writing.entry(member, 6 << 30)
    end = zip_writing.end(70_000, 9 << 30, len(entry), b"c")
    parsed, offset, after = zipped._entry(entry, 0)
    assert (parsed.size, parsed.packed, offset, after) == (member.size, member.size, 6 << 30, len(entry))
    path = tmp_path / "m"
    with path.open("wb") as file:  # with a hole in it
        file.write(zip_writing.local_header(zipped.ZipMember("a")))
        file.seek(5 << 30)
        file.write(entry_of_small := zip_writing.local_header(zipped.ZipMember("b")))
        directory = zip_writing.entry(zipped.ZipMember("a"), 0) + zip_writing.entry(zipped.ZipMember("b"), 5 << 30)
        start = (5 << 30) + len(entry_of_small)
        file.write(directory + zip_writing.end(2, start, len(directory), b"c"))
    with zipfile.ZipFile(path) as by_python:
        assert [each.header_offset for each in by_python.infolist()] == [0, 5 << 30]
        assert by_python.comment == b"c"
    with Npz(str(path)) as checkpoint:
        assert list(checkpoint) == ["a", "b"]
        assert checkpoint.comment == b"c"
    path.unlink()
    assert local.startswith(b"PK\x03\x04")
    assert end.startswith(b"PK\x06\x06")


def test_a_crash_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    """Killed at any call that changes the disk, the file is the old or the new one, and the next writer goes on."""
    path, old = tmp_path / "m", npz(SMALL)
    seen = set()
    for calls in range(100):
        path.write_bytes(old)

        def operation() -> None:
            with Npz(str(path)) as checkpoint, Lock(str(path), 0.0) as lock:
                plan = Plan(checkpoint, [set_to(checkpoint, "b", np.array([7, 8, 9]))])
                npz_writing.save_in_place(plan, lock, True, 0.0)

        done = survives(operation, calls)
        seen.add(tuple(by_numpy(path.read_bytes())["b"].tolist()))
        if done:
            break
    assert seen == {(1, -2, 300), (7, 8, 9)}
    assert sorted(each.name for each in tmp_path.iterdir()) == ["m"]


def test_a_file_that_was_replaced(tmp_path: Path) -> None:
    """A file that is closed, and another one by the time it is read again, is not mixed up with it."""
    path = tmp_path / "m"
    with opened(path, npz(SMALL)) as checkpoint:
        assert not checkpoint.was_replaced()
        checkpoint.close()
        assert same(checkpoint.read("b"), SMALL["b"])
        (tmp_path / "other").write_bytes(npz({"b": MATRIX}))
        os.replace(tmp_path / "other", path)
        assert same(checkpoint.read("b"), SMALL["b"])
        assert checkpoint.was_replaced()
        checkpoint.close()
        with pytest.raises(CkptSurgeonError, match="was replaced"):
            checkpoint.read("b")


def test_the_sample(samples: Path) -> None:
    """A file of another program: its values are what NumPy reads."""
    path = samples / "npz" / "weights.npz"
    with Npz(str(path)) as checkpoint:
        assert agree(read_all(checkpoint), by_numpy(path.read_bytes()))
        assert list(checkpoint) == ["arr_2", "arr_1", "arr_3", "arr_0"]


@pytest.mark.parametrize(
    ("members", "names"),
    [
        (["x.npy", "x.npy.npy"], ["x", "x.npy"]),
        (["x.npy.npy", "x.npy", "x.npy.npy.npy"], ["x.npy", "x", "x.npy.npy"]),
        (["x", "x.npy", "x.npy.npy"], ["x", "x.npy", "x.npy.npy"]),
        ([".npy", "a.npy"], [".npy", "a"]),
    ],
)
def test_names_that_end_as_members_do(tmp_path: Path, members: list[str], names: list[str]) -> None:
    """A variable called x.npy beside x is what NumPy wrote, and stays so when the file is written anew."""
    out = io.BytesIO()
    np.save(out, np.arange(3))
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as file:
        for name in members:
            file.writestr(name, out.getvalue())
    with formats.open(str(tmp_path / "m.npz")) as checkpoint:
        assert list(checkpoint) == names
    changing.set(str(tmp_path / "m.npz"), names[-1], "7")
    with formats.open(str(tmp_path / "m.npz")) as checkpoint:
        assert list(checkpoint) == names
        assert checkpoint.read(names[-1])[0] == 7


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("z", '[[5, 6], [7, "NaN"]]', [complex(5, 6), complex(7, float("nan"))]),
        ("z", '["1+2j", "3"]', [1 + 2j, 3]),
        ("z", "[1, 2]", [1, 2]),
        ("z[1]", "[3, 4]", [1, 3 + 4j]),
        ("scalar", "[3, 4]", 3 + 4j),
        ("scalar", "2j", 2j),
        ("s", '[["xx", "[y"]]', [[b"xx", b"[y"]]),
        ("s[0]", '["c", "d"]', [[b"c", b"d"]]),
        ("s", "[t", [[b"[t", b"[t"]]),
        ("s[0,1]", '["e"]', [[b"a", b'["e"]']]),
    ],
)
def test_lists_of_strings_and_of_complex_numbers_are_set(tmp_path: Path, name: str, value: str, expected: Any) -> None:
    """As `get --json` writes them; a single string is what was typed, be it JSON or not."""
    path = str(tmp_path / "m.npz")
    np.savez(path, z=np.array([1, 2j]), scalar=np.array(1j), s=np.array([[b"a", b"b"]]))
    changing.set(path, name, value)
    found = np.load(path)[name.partition("[")[0]]
    assert np.array_equal(found, np.asarray(expected), equal_nan=found.dtype.kind == "c")


@pytest.mark.parametrize(
    ("name", "value"), [("s", '["a", 3]'), ("s", '["a", "b", "c"]'), ("z", '["x", "y"]'), ("z", "[[")]
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, name: str, value: str) -> None:
    """Other things than strings, another shape, what is no number, and what is no JSON for numbers."""
    path = tmp_path / "m.npz"
    np.savez(path, z=np.array([1, 2j]), s=np.array([b"a", b"b"]))
    before = path.read_bytes()
    with pytest.raises(RefusedError):
        changing.set(str(path), name, value)
    assert path.read_bytes() == before
