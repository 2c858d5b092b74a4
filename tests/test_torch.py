"""PyTorch's zip files: read as PyTorch reads them, without executing a pickle; and hostile ones."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch_files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import names, numbers, same
from torch_files import DTYPES, REAL, View, archive, save, view

from ckptsurgeon import compare, formats, numeric
from ckptsurgeon.cli import main
from ckptsurgeon.errors import ChangedError, DamagedError, RefusedError
from ckptsurgeon.formats.safetensors.reading import SafeTensors
from ckptsurgeon.formats.torch.archive import is_archive
from ckptsurgeon.formats.torch.reading import Torch
from ckptsurgeon.verbs import changing, producing

a_few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BASE = np.arange(12, dtype=np.float32)
SMALL = {"layer.0.weight": view(BASE.reshape(3, 4)), "layer.0.bias": view(np.ones(3, np.float32)), "epoch": 3}


def opened(path: Path, data: bytes) -> Torch:
    """A checkpoint of these bytes."""
    path.write_bytes(data)
    return Torch(str(path), [str(path)])


def pickled(body: bytes) -> bytes:
    """The file of a pickle of protocol 2 whose opcodes these are."""
    return archive(b"\x80\x02" + body + b".", {"0": bytes(16)})


@pytest.mark.parametrize("name", REAL)
def test_a_file_of_pytorchs_own(tmp_path: Path, name: str) -> None:
    """Files that PyTorch wrote: the names, dtypes, shapes and values that it read itself; every checksum is right."""
    packed, expected = REAL[name]
    with opened(tmp_path / "m.pt", torch_files.real(packed)) as checkpoint:
        assert is_archive(str(tmp_path / "m.pt"))
        assert list(checkpoint) == list(expected)
        for each, (dtype, values) in expected.items():
            found = checkpoint.read(each)
            assert checkpoint[each].dtype == dtype == found.dtype.name
            assert numeric.portable(found).tolist() == values
            assert found.flags.c_contiguous
            assert found.shape == checkpoint[each].shape
        assert all(finding.ok for finding in compare.verify(checkpoint, finite=True))


@pytest.mark.parametrize("order", ["little", "big", None])
@given(data=st.data())
@a_few
def test_any_arrays(tmp_path: Path, data: st.DataObject, order: str | None) -> None:
    """Arrays of every dtype and shape, in either byte order: read, and converted to safetensors, bit by bit."""
    drawn = st.sampled_from(DTYPES).flatmap(numbers)
    arrays = data.draw(st.dictionaries(names(), drawn, min_size=1, max_size=4))
    tensors = {name: view(each.T if each.ndim == 2 else each) for name, each in arrays.items()}
    with opened(tmp_path / "m.pt", save(dict(tensors), order)) as checkpoint:
        assert list(checkpoint) == list(arrays)
        for name, each in arrays.items():
            expected = each.T if each.ndim == 2 else each
            assert same(checkpoint.read(name), expected)
            payload = checkpoint.payload(checkpoint[name])
            if payload is not None and order != "big":
                assert b"".join(payload[0]) == expected.tobytes()
            assert checkpoint.nbytes(checkpoint[name]) == each.nbytes


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    """A folder with a pytorch_model.bin opens as the file does."""
    (tmp_path / "pytorch_model.bin").write_bytes(save({"w": view(np.arange(3, dtype="f4"))}))
    with formats.open(str(tmp_path)) as checkpoint:
        assert checkpoint.read("w").tolist() == [0, 1, 2]


@given(data=st.data())
@a_few
def test_any_view(tmp_path: Path, data: st.DataObject) -> None:
    """A view with any strides of a shared storage is what NumPy makes of the same strides."""
    shape = tuple(data.draw(st.lists(st.integers(0, 3), max_size=4)))
    strides = tuple(data.draw(st.integers(0, 5)) for _ in shape)
    offset = data.draw(st.integers(0, 5))
    storage = np.arange(60, dtype=np.int16)
    value = {"view": View(storage, shape, strides, offset), "whole": View(storage, (60,), (1,))}
    with opened(tmp_path / "m.pt", save(value)) as checkpoint:
        steps = [2 * step for step in strides]
        expected = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps)
        assert same(checkpoint.read("view"), np.ascontiguousarray(expected).reshape(shape))
        assert same(checkpoint.read("whole"), storage)


def test_names_of_nested_dictionaries(tmp_path: Path) -> None:
    """Keys and indices are joined by slashes; what is not a tensor is left out."""
    one = view(np.ones(1, np.float32), parameter=True)
    state = {"step": view(np.array(1.0)), "exp_avg": one}
    value = {"model": {"layer.0.weight": one}, "optimizer": {"state": {0: state}, "groups": [{"lr": 0.1}]},
             "list": [1, "x", (one, None)], "epoch": 3, "done": True}  # fmt: skip
    with opened(tmp_path / "m.pt", save(value)) as checkpoint:
        assert list(checkpoint) == ["model/layer.0.weight", "optimizer/state/0/step", "optimizer/state/0/exp_avg",
                                    "list/2/0"]  # fmt: skip
        first, last = checkpoint["model/layer.0.weight"].extents[0], checkpoint["list/2/0"].extents[0]
        assert (first.offset, first.length) == (last.offset, last.length)  # one storage
    with opened(tmp_path / "n.pt", save(one)) as checkpoint:
        assert list(checkpoint) == ["tensor"]
    with opened(tmp_path / "o.pt", save({"epoch": 3})) as checkpoint:
        assert list(checkpoint) == []


def test_extents_are_the_values(tmp_path: Path) -> None:
    """What lies in C order has its bytes at its extent, so that they can be copied undecoded."""
    path = tmp_path / "m.pt"
    value = {"a": view(BASE.reshape(3, 4)), "b": View(BASE, (2,), (1,), 5), "t": view(BASE.reshape(3, 4).T)}
    with opened(path, save(value)) as checkpoint:
        data = path.read_bytes()
        for name in ("a", "b"):
            extent = checkpoint[name].extents[0]
            assert data[extent.offset : extent.offset + extent.length] == checkpoint.read(name).tobytes()
            assert checkpoint.is_plain(checkpoint[name])
            assert b"".join(checkpoint.chunks(extent)) == checkpoint.read(name).tobytes()
        assert not checkpoint.is_plain(checkpoint["t"])
        assert checkpoint.payload(checkpoint["t"]) is None


def test_conjugated_and_negated(tmp_path: Path) -> None:
    """PyTorch stores a lazily conjugated tensor unconjugated, with a mark; also of no dimension."""
    values = np.array(1 + 2j, np.complex64)
    conj, neg = view(values), view(np.array([1.0, 2.0]))
    conj.marks, neg.marks = {"conj": True}, {"neg": True}
    with opened(tmp_path / "m.pt", save({"conj": conj, "neg": neg})) as checkpoint:
        assert same(checkpoint.read("conj"), values.conj())
        assert same(checkpoint.read("neg"), np.array([-1.0, -2.0]))


def test_a_wrong_checksum_is_told(tmp_path: Path) -> None:
    """A bit that flips in a storage is found by check, read and a copy, for each tensor that lies in it."""
    data = bytearray(save({"a": View(BASE, (12,), (1,)), "b": View(BASE, (2,), (1,)), "c": view(np.ones(3))}))
    at = bytes(data).index(BASE.tobytes())
    data[at + 40] ^= 1
    with opened(tmp_path / "m.pt", bytes(data)) as checkpoint:
        for name in ("a", "b", "a"):
            with pytest.raises(DamagedError, match="wrong checksum, of storage 0; expected"):
                checkpoint.check(checkpoint[name])
            with pytest.raises(DamagedError, match="wrong checksum"):
                checkpoint.read(name)
        assert same(checkpoint.read("c"), np.ones(3))
        assert [finding.ok for finding in compare.verify(checkpoint)] == [False, False, True]


def test_a_file_without_checksums(tmp_path: Path) -> None:
    """`torch.serialization.set_crc32_options(False)` leaves zeros, which are not compared."""
    data = save({"a": view(BASE)})
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        for member in file.infolist():
            data = data.replace(struct.pack("<I", member.CRC), bytes(4))
    with opened(tmp_path / "m.pt", data) as checkpoint:
        assert same(checkpoint.read("a"), BASE)
        checkpoint.check(checkpoint["a"])


def test_it_notices_that_it_was_replaced(tmp_path: Path) -> None:
    """As other files with bare bytes: another file at its path is not mixed with the old metadata."""
    path = tmp_path / "m.pt"
    checkpoint = opened(path, save(SMALL))
    before = checkpoint.fingerprint()
    checkpoint.close()
    assert same(checkpoint.read("layer.0.bias"), np.ones(3, np.float32))
    checkpoint.close()
    path.rename(tmp_path / "old.pt")
    path.write_bytes(save(SMALL))
    assert checkpoint.was_replaced()
    with pytest.raises(ChangedError):
        checkpoint.read("layer.0.bias")
    with Torch(str(path), [str(path)]) as again:
        assert again.fingerprint() == before


# -- by the verbs


def test_the_verbs_that_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is found by its content; ls, diff, verify, convert, extract and a transposing graft from it work."""
    path, like = str(tmp_path / "unnamed"), str(tmp_path / "m.safetensors")
    Path(path).write_bytes(save(SMALL))
    assert main(["ls", path]) == 0
    assert capsys.readouterr().out == "layer.0.bias\tfloat32\t[3]\t12\nlayer.0.weight\tfloat32\t[3,4]\t48\n"
    producing.convert(path, like)
    with formats.open(like) as found:
        assert isinstance(found, SafeTensors)
        assert same(found.read("layer.0.weight"), BASE.reshape(3, 4))
    assert main(["diff", path, like, "--exact"]) == 0
    assert main(["verify", path]) == 0
    bundle = str(tmp_path / "bundle")
    formats.write(bundle, {"dnn/kernel": np.zeros((4, 3), np.float32)})
    changing.graft(path, bundle, match=["layer.0.weight"], maps=["layer.0.weight=dnn/kernel.T"])
    with formats.open(bundle) as found:
        assert same(found.read("dnn/kernel"), np.ascontiguousarray(BASE.reshape(3, 4).T))
    part = str(tmp_path / "part.npz")
    producing.extract(path, part, match=["**bias"])
    with formats.open(part) as found:
        assert list(found) == ["layer.0.bias"]


@pytest.mark.parametrize(
    "argv",
    [["set", "m.pt", "a", "1"], ["rename", "m.pt", "a=c"], ["drop", "m.pt", "a"], ["cast", "m.pt", "float16"],
     ["graft", "n.pt", "m.pt", "--match", "a"], ["graft", "same.pt", "m.pt", "--match", "a"],
     ["extract", "m.pt", "--match", "a", "-o", "out"]],
)  # fmt: skip
def test_it_is_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    """Every verb that would write one refuses in one line, with the command that converts; nothing is touched."""
    monkeypatch.chdir(tmp_path)
    before = save({"a": view(BASE), "b": view(BASE)})
    Path("m.pt").write_bytes(before)
    Path("n.pt").write_bytes(save({"a": view(BASE + 1)}))
    Path("same.pt").write_bytes(save({"a": view(BASE)}))
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "PyTorch files are read, and never written" in said
    assert "ckptsurgeon convert m.pt m.safetensors" in said
    assert Path("m.pt").read_bytes() == before
    assert sorted(os.listdir()) == ["m.pt", "n.pt", "same.pt"]


@pytest.mark.parametrize("out", ["x.safetensors", "x.npz"])
def test_an_average_in_another_format(tmp_path: Path, out: str) -> None:
    """Files that are never written are averaged into the format of OUT's ending; without one it is refused."""
    for number, name in enumerate(("a.pt", "b.pt")):
        (tmp_path / name).write_bytes(save({"w": view(BASE.astype("f4") + 2 * number), "n": view(np.array([7]))}))
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    producing.average(paths, tmp_path / out)
    with formats.open(tmp_path / out) as found:
        assert same(found.read("w"), BASE.astype("f4") + 1)
        assert found.read("n").tolist() == [7]
    for refused in ("c.pt", "c"):
        with pytest.raises(RefusedError, match="PyTorch files are read, and never written"):
            producing.average(paths, tmp_path / refused)


def test_a_copy_is_the_same_file(tmp_path: Path) -> None:
    """`cp` copies the file, every checksum verified."""
    (tmp_path / "m.pt").write_bytes(save(SMALL))
    producing.cp(str(tmp_path / "m.pt"), str(tmp_path / "n.pt"))
    assert (tmp_path / "n.pt").read_bytes() == (tmp_path / "m.pt").read_bytes()
    with pytest.raises(RefusedError, match="exists"):
        producing.cp(str(tmp_path / "m.pt"), str(tmp_path / "n.pt"))
