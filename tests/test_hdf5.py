"""HDF5 files, Keras's and others', read and written without TensorFlow: h5py is the oracle."""

from __future__ import annotations

import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import h5py
import hdf5_files
import numpy as np
import pytest
from hdf5_files import contents
from test_samples import expected_of
from waiting import wait_until

from ckptsurgeon import cli, formats
from ckptsurgeon.errors import (
    CkptSurgeonError,
    DamagedError,
    NotFoundError,
    Problems,
    RefusedError,
    StorageError,
    UsageError,
)
from ckptsurgeon.formats.keras import layers as keras_layers
from ckptsurgeon.verbs import changing, looking, producing


def same(found: Any, expected: Any) -> bool:
    """Whether two arrays are of one dtype, but for the order of bytes, one shape and the same values."""
    expected = np.asarray(expected)
    if expected.dtype == object:
        return bool(found.shape == expected.shape and found.tolist() == expected.tolist())
    kind = expected.dtype.newbyteorder("=")
    return (found.dtype, found.shape, found.tobytes()) == (kind, expected.shape, expected.astype(kind).tobytes())


def zipped(path: Path, seed: int = 0, method: int = zipfile.ZIP_STORED, layers: int = 3) -> hdf5_files.Arrays:
    """A Keras file, whose config lists the layers backwards."""
    weights = path.with_suffix(".inner.h5")
    found = hdf5_files.weights(weights, seed, layers)
    listed = [{"class_name": "Dense", "config": {"name": f"layer{number}"}} for number in reversed(range(layers))]
    with zipfile.ZipFile(path, "w", method) as file:
        file.comment = b"a comment"
        file.writestr("metadata.json", b"{}")
        file.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": listed}}))
        file.write(weights, "model.weights.h5")
        file.writestr("assets/words.txt", b"one two")
    weights.unlink()
    return found


@pytest.mark.parametrize("name", ["keras-pair/model.h5", "keras-pair/model.keras", "keras3-weights/model.weights.h5"])
def test_samples(samples: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Other people's files are listed with the names, shapes, dtypes and digests that h5py found."""
    assert cli.main(["ls", str(samples / name), "--json", "--sha256"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {row["name"]: [row["shape"], row["dtype"], row["sha256"][:16]] for row in rows}
    assert found == expected_of(samples, name)
    told = json.loads((samples / "expected.json").read_text())[name]["format"]
    with formats.open(str(samples / name)) as file:
        assert file.format == told
        [table] = file.layer_tables().values()
        assert sorted(set(table.values())) == [0, 1, 2]
        assert len(file.slot_owners()) == 12


@pytest.mark.parametrize("how", [{}, {"libver": "latest"}, {"userblock_size": 1024}, {"track_order": True}])
def test_every_dtype_is_read(tmp_path: Path, how: dict[str, Any]) -> None:
    """Numbers of any size and order, packed or not, strings of both kinds; what is neither is listed, not read."""
    expected = hdf5_files.others(tmp_path / "m.h5", **how)
    with formats.open(str(tmp_path / "m.h5")) as file:
        assert set(file) == {*expected, "record", "nothing"}
        for name, values in expected.items():
            assert same(file.read(name), values), name
            parts = [np.asarray(part) for part in file.elements(file[name])]
            joined = np.concatenate([*parts, np.empty(0, parts[0].dtype if parts else np.float32)])
            assert same(joined.reshape(values.shape), values), name
            nbytes = sum(map(len, values.ravel().tolist())) if values.dtype == object else values.nbytes
            assert file.nbytes(file[name]) == nbytes
            for extent in file[name].extents:
                stored = b"".join(file.chunks(extent))
                assert stored == np.ascontiguousarray(values).tobytes()
        bare = {name for name, variable in file.items() if variable.extents}
        assert "plain" in bare
        assert not bare & {"packed/deep", "compact", "text", "record"}
        assert (file["record"].dtype, file["nothing"].dtype) == ("compound", "null")
        for name in ("record", "nothing"):
            with pytest.raises(CkptSurgeonError, match="cannot be read"):
                file.read(name)
    assert [each for each in looking.verify(str(tmp_path / "m.h5")) if not each.ok] == []


@pytest.mark.parametrize("how", [{}, {"libver": "latest"}, {"userblock_size": 1024}, {"track_order": True}])
@pytest.mark.parametrize("name", ["plain", "big", "packed/deep", "pieces", "bfloat", "compact", "flags", "half"])
def test_everything_else_is_carried(tmp_path: Path, name: str, how: dict[str, Any]) -> None:
    """One variable is set, wherever its values stand: all else is as before, and so is how it was made."""
    path = tmp_path / "m.h5"
    expected = hdf5_files.others(path, **how)
    if "userblock_size" in how:
        with path.open("r+b") as file:
            file.write(b"user's own" * 50)
    start, before = path.read_bytes()[: how.get("userblock_size", 0)], contents(path)
    changing.set(str(path), name, 1)
    after = contents(path)
    assert path.read_bytes()[: len(start)] == start
    with formats.open(str(path)) as opened:
        assert (opened.read(name).astype(np.float64) == 1).all()
        for other in expected.keys() - {name}:
            assert same(opened.read(other), expected[other])
    assert {key: each for key, each in after.items() if key != name} == {
        key: each for key, each in before.items() if key != name
    }
    assert before[name][:4] == after[name][:4]
    assert before[name][5] == after[name][5]


def test_strings_are_set(tmp_path: Path) -> None:
    """Text in the kind of string that was there; too long a one for a fixed length is refused."""
    path = tmp_path / "m.h5"
    hdf5_files.others(path)
    before = contents(path)
    changing.set(str(path), "text", "another")
    with h5py.File(path) as file:
        assert file["text"][()] == b"another"
    changing.set(str(path), "fixed[1]", "four")
    with h5py.File(path) as file:
        assert file["fixed"][:].tolist() == [b"ab", b"four"]
    after = contents(path)
    assert {**after, "text": None, "fixed": None} == {**before, "text": None, "fixed": None}
    with pytest.raises(RefusedError, match="strings of fixed length; expected at most 4 bytes, found 5"):
        changing.set(str(path), "fixed[0]", "fiver")


def test_unchanged_is_unwritten(tmp_path: Path) -> None:
    """An operation that changes nothing writes nothing, and a copy is one."""
    hdf5_files.weights(tmp_path / "m.weights.h5")
    before = (tmp_path / "m.weights.h5").stat()
    changing.graft(str(tmp_path / "m.weights.h5"), str(tmp_path / "m.weights.h5"), maps=["layers/=layers/"])
    assert (tmp_path / "m.weights.h5").stat() == before
    producing.cp(str(tmp_path / "m.weights.h5"), str(tmp_path / "c.weights.h5"))
    assert (tmp_path / "c.weights.h5").read_bytes() == (tmp_path / "m.weights.h5").read_bytes()


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_same_input_same_bytes(tmp_path: Path, ending: str) -> None:
    """What is written anew holds no time: two runs, in which clocks tell another second, leave the same bytes."""
    path = tmp_path / f"m{ending}"
    zipped(path) if ending == ".keras" else hdf5_files.weights(path)
    out = []
    for at in range(2):
        out.append(tmp_path / f"{at}{ending}")
        changing.cast(str(path), "float64", layers="1", out=str(out[-1]))
        os.utime(path, (at * 10**8, at * 10**8))
        if not at:
            then = time.time() // 2  # a zip archive counts by two seconds
            wait_until(lambda then=then: time.time() // 2 > then)
    assert out[0].read_bytes() == out[1].read_bytes()


def test_a_graft_into_places(tmp_path: Path) -> None:
    """Values of one dtype and shape are put in their places: the file differs there alone."""
    expected = hdf5_files.weights(tmp_path / "a.weights.h5", 1)
    hdf5_files.weights(tmp_path / "b.weights.h5", 2)
    before = (tmp_path / "b.weights.h5").read_bytes()
    changing.graft(str(tmp_path / "a.weights.h5"), str(tmp_path / "b.weights.h5"), layers="0,2")
    after = (tmp_path / "b.weights.h5").read_bytes()
    assert len(before) == len(after)
    with formats.open(str(tmp_path / "b.weights.h5")) as file:
        places = [extent for variable in file.variables.values() for extent in variable.extents]
        grafted = [name for name in file if name.startswith(("layers/dense/", "layers/dense_2/"))]
        for name in grafted:
            assert same(file.read(name), expected[name])
        inside = {at for name in grafted for each in file[name].extents
                  for at in range(each.offset, each.offset + each.length)}  # fmt: skip
    assert places
    assert {at for at in range(len(before)) if before[at] != after[at]} <= inside


@pytest.mark.parametrize("pair", [("npz", "weights.h5"), ("weights.h5", "npz"), ("weights.h5", "safetensors"),
                                  ("safetensors", "keras"), ("keras", "weights.h5"), ("keras", ""),
                                  ("", "keras")])  # fmt: skip
def test_grafts_across_formats(tmp_path: Path, pair: tuple[str, str]) -> None:
    """Names that agree graft from any format into any other."""
    expected = {}
    for seed, ending in enumerate(pair):
        source, path = tmp_path / f"{seed}.weights.h5", tmp_path / f"x{seed}.{ending}".rstrip(".")
        found = hdf5_files.weights(source, seed, optimizer=False) if ending != "keras" else zipped(path, seed)
        if ending not in ("keras", "weights.h5"):
            producing.convert(str(source), str(path))
        elif ending != "keras":
            source.rename(path)
        expected = expected or found
    donor, recipient = (tmp_path / f"x{seed}.{ending}".rstrip(".") for seed, ending in enumerate(pair))
    changing.graft(str(donor), str(recipient), match=["layers/dense_1/**"])
    with formats.open(str(recipient)) as file:
        for name in ("layers/dense_1/vars/0", "layers/dense_1/vars/1"):
            assert same(file.read(name), expected[name])


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_a_zip_are_carried(tmp_path: Path, method: int) -> None:
    """All but the weights stays as it stands, times too; the weights are stored, and the checksum is right."""
    path = tmp_path / "m.keras"
    expected = zipped(path, method=method)
    with zipfile.ZipFile(path) as file:
        before = {info.filename: (file.read(info), info.date_time, info.compress_type) for info in file.infolist()}
    for turn, change in enumerate(
        [
            lambda: changing.set(str(path), "layers/dense/vars/1[2]", 3),
            lambda: changing.rename(str(path), ["layers/dense/=layers/first/"], anyway=True),
        ]
    ):
        change()
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None
            assert file.comment == b"a comment"
            after = {info.filename: (file.read(info), info.date_time, info.compress_type) for info in file.infolist()}
        assert list(before) == list(after)
        for name in before.keys() - {"model.weights.h5"}:
            assert before[name] == after[name]
        with formats.open(str(path)) as opened:
            first = "layers/first/vars/1" if turn else "layers/dense/vars/1"
            assert opened.read(first)[2] == 3
            assert same(opened.read("layers/dense_2/vars/0"), expected["layers/dense_2/vars/0"])


def test_a_zip_with_a_wrong_checksum_is_told(tmp_path: Path) -> None:
    """A byte of a weight that flipped: `verify` says so, and `cp` does not copy it."""
    path = tmp_path / "m.keras"
    expected = zipped(path)
    data = bytearray(path.read_bytes())
    data[data.index(expected["layers/dense/vars/0"].tobytes())] ^= 1
    path.write_bytes(data)
    assert any("wrong checksum" in (each.problem or "") for each in looking.verify(str(path)))
    with pytest.raises(DamagedError, match="wrong checksum"):
        producing.cp(str(path), str(tmp_path / "x.keras"))


def test_layers_of_a_config(tmp_path: Path) -> None:
    """config.json numbers the layers, where it names them all; else the order in the file does."""
    zipped(tmp_path / "m.keras")
    with formats.open(str(tmp_path / "m.keras")) as file:
        assert file.layer_tables()[keras_layers.BY_CONFIG]["layers/dense_2/vars/0"] == 0
        assert file.full_name("layers/dense_2/vars/1") == "layer2/bias"
    with zipfile.ZipFile(tmp_path / "m.keras") as source, zipfile.ZipFile(tmp_path / "n.keras", "w") as target:
        for info in source.infolist():
            target.writestr(info, b"[" * 100_000 if info.filename == "config.json" else source.read(info))
    with formats.open(str(tmp_path / "n.keras")) as file:
        assert file.layer_tables()[keras_layers.BY_PLACE]["layers/dense_2/vars/0"] == 2


def test_a_folder_with_a_model(tmp_path: Path) -> None:
    """An unzipped Keras file is its weights file."""
    expected = hdf5_files.weights(tmp_path / "model.weights.h5")
    (tmp_path / "config.json").write_text("{}")
    changing.set(str(tmp_path), "layers/dense/vars/0", 4)
    with formats.open(str(tmp_path)) as file:
        assert (file.read("layers/dense/vars/0") == 4).all()
        assert same(file.read("layers/dense_1/vars/0"), expected["layers/dense_1/vars/0"])


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("root", ["model_weights", ""])
class TestLegacy:
    """Lists of layers and weights stay true, whatever becomes of these."""

    def lists(self, path: Path, root: str) -> dict[str, list[str]]:
        """What a file says: of "" its layers, of each layer its weights; all of which are there."""
        with h5py.File(path) as file:
            top = file[root] if root else file
            found = {"": [str(each) for each in np.asarray(top.attrs["layer_names"]).astype(str)]}
            for layer in found[""]:
                found[layer] = [str(each) for each in np.asarray(top[layer].attrs["weight_names"]).astype(str)]
                for each in found[layer]:
                    assert isinstance(top[layer][each], h5py.Dataset)
            return found

    def test_layers(self, tmp_path: Path, root: str, fixed: bool) -> None:
        """The list of layers numbers those that have weights, and slots are told by names."""
        hdf5_files.legacy(tmp_path / "m.h5", 0, root, fixed)
        with formats.open(str(tmp_path / "m.h5")) as file:
            table = file.layer_tables()[keras_layers.BY_NAMES]
            prefix = f"{root}/" if root else ""
            assert table == {f"{prefix}{layer}/{layer}/{last}:0": number for number, layer in enumerate("ba")
                             for last in ("kernel", "bias")}  # fmt: skip
            assert file.full_name(f"{prefix}b/b/kernel:0") == "b/kernel"
            owners = file.slot_owners()
            assert len(owners) == (8 if root else 0)
            for slot, owner in owners.items():
                assert slot.partition("/Adam/")[2][2:] == owner.removeprefix(f"{prefix}{owner[len(prefix)]}/")

    def test_rename(self, tmp_path: Path, root: str, fixed: bool) -> None:
        """A layer and a weight get new names, a third weight becomes a layer of its own."""
        expected = hdf5_files.legacy(tmp_path / "m.h5", 0, root, fixed)
        prefix = f"{root}/" if root else ""
        path = str(tmp_path / "m.h5")
        changing.rename(path, [f"{prefix}a/={prefix}z/"])
        changing.rename(path, [f"{prefix}b/b/bias:0={prefix}b/other/bias"])
        lists = self.lists(tmp_path / "m.h5", root)
        assert lists == {"": ["input", "b", "z"], "input": [], "b": ["b/kernel:0", "other/bias"],
                         "z": ["a/kernel:0", "a/bias:0"]}  # fmt: skip
        changing.rename(path, [f"{prefix}z/a/bias:0={prefix}new/bias"], anyway=True)
        lists = self.lists(tmp_path / "m.h5", root)
        assert (lists[""], lists["z"], lists["new"]) == (["input", "b", "z", "new"], ["a/kernel:0"], ["bias"])
        with formats.open(path) as file:
            assert same(file.read(f"{prefix}new/bias"), expected[f"{prefix}a/a/bias:0"])

    def test_drop(self, tmp_path: Path, root: str, fixed: bool) -> None:
        """A layer that lost its weights leaves the list; an optimizer goes whole."""
        hdf5_files.legacy(tmp_path / "m.h5", 0, root, fixed)
        prefix = f"{root}/" if root else ""
        changing.drop(str(tmp_path / "m.h5"), [f"{prefix}b/**"], anyway=True)
        assert self.lists(tmp_path / "m.h5", root) == {
            "": ["input", "a"], "input": [], "a": ["a/kernel:0", "a/bias:0"]
        }  # fmt: skip
        with h5py.File(tmp_path / "m.h5") as file:
            if root:
                assert "Adam/m/b/kernel:0" not in list(file["optimizer_weights"].attrs["weight_names"].astype(str))
                assert len(file["optimizer_weights"].attrs["weight_names"]) == 5
        if root:
            changing.drop(str(tmp_path / "m.h5"), slots=True)
            with h5py.File(tmp_path / "m.h5") as file:
                assert "optimizer_weights" not in file

    def test_add(self, tmp_path: Path, root: str, fixed: bool) -> None:
        """A layer that a graft adds is listed after the others."""
        hdf5_files.legacy(tmp_path / "m.h5", 0, root, fixed)
        prefix = f"{root}/" if root else ""
        np.savez(tmp_path / "d.npz", **{f"{prefix}c/c/kernel": np.ones((2, 2), np.float32)})
        changing.graft(str(tmp_path / "d.npz"), str(tmp_path / "m.h5"), match=["**"], add=True, anyway=True)
        lists = self.lists(tmp_path / "m.h5", root)
        assert (lists[""], lists["c"]) == (["input", "b", "a", "c"], ["c/kernel"])


def test_drop_leaves_no_dead_bytes(tmp_path: Path) -> None:
    """A file without its optimizer is about as long as one that never had it; empty groups stay."""
    hdf5_files.weights(tmp_path / "m.weights.h5", layers=20)
    hdf5_files.weights(tmp_path / "n.weights.h5", layers=20, optimizer=False)
    changing.drop(str(tmp_path / "m.weights.h5"), slots=True)
    assert (tmp_path / "m.weights.h5").stat().st_size < 1.1 * (tmp_path / "n.weights.h5").stat().st_size
    assert contents(tmp_path / "m.weights.h5") == contents(tmp_path / "n.weights.h5")


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    """A variable where a folder is, an empty component, a point: refused, and nothing is written."""
    hdf5_files.weights(tmp_path / "m.weights.h5")
    before = (tmp_path / "m.weights.h5").read_bytes()
    for name in ("layers/dense_1", "layers//x", "a/./b", "/x", "layers/dense_1/vars/1/x"):
        with pytest.raises((RefusedError, Problems)):
            changing.rename(str(tmp_path / "m.weights.h5"), [f"layers/dense/vars/0={name}"], dry_run=True)
        with pytest.raises((RefusedError, Problems)):
            changing.rename(str(tmp_path / "m.weights.h5"), [f"layers/dense/vars/0={name}"])
    assert (tmp_path / "m.weights.h5").read_bytes() == before


def test_two_names_of_one_dataset(tmp_path: Path) -> None:
    """What two hard links name is two variables; one of them set, the other stays as it is."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3, np.float32)
        file["b"] = file["a"]
    changing.set(str(path), "a", 5)
    with h5py.File(path) as file:
        assert (file["a"][0], file["b"][0]) == (5, 0)


def test_references_are_not_lost(tmp_path: Path) -> None:
    """A file whose attributes refer to its objects is not written anew; values can be set in their places."""
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["a"] = np.zeros(3, np.float32)
        file["b"] = np.zeros(3, np.float32)
        file["a"].attrs["see"] = file["b"].ref
    before = path.read_bytes()
    with pytest.raises(CkptSurgeonError, match=r"refers to other objects; these references would be lost"):
        changing.rename(str(path), ["b=c"])
    assert path.read_bytes() == before
    changing.set(str(path), "b", 1)
    with h5py.File(path) as file:
        assert file[file["a"].attrs["see"]][0] == 1


def test_a_set_of_files(tmp_path: Path) -> None:
    """An index and its files are one checkpoint; a file that is missing, or not beside it, is told."""
    index = tmp_path / "m.weights.json"
    arrays = {}
    for number in range(3):
        with h5py.File(tmp_path / f"m_{number:05}.weights.h5", "w") as file:
            group = file.create_group(f"layers/dense_{number}/vars" if number else "layers/dense/vars")
            group["0"] = arrays[f"{group.name[1:]}/0"] = np.full((2, 2), number, np.float32)
    names = [f"m_{number:05}.weights.h5" for number in range(3)]
    index.write_text(json.dumps({"metadata": {}, "weight_map": {f"/{at}": [name] for at, name in enumerate(names)}}))
    with formats.open(str(index)) as checkpoint:
        assert list(checkpoint) == sorted(arrays)
        assert list(checkpoint.layer_tables()[keras_layers.BY_PLACE].values()) == [0, 1, 2]
    changing.set(str(index), "layers/dense_1/vars/0", 9)
    with formats.open(str(index)) as checkpoint:
        assert (checkpoint.read("layers/dense_1/vars/0") == 9).all()
        assert (checkpoint.read("layers/dense_2/vars/0") == 2).all()
    with pytest.raises(RefusedError, match="use -o OUT"):
        changing.drop(str(index), ["layers/dense/**"], anyway=True)
    changing.drop(str(index), ["layers/dense/**"], out=str(tmp_path / "one.weights.h5"), anyway=True)
    with formats.open(str(tmp_path / "one.weights.h5")) as checkpoint:
        assert list(checkpoint) == ["layers/dense_1/vars/0", "layers/dense_2/vars/0"]
    producing.convert(str(index), str(tmp_path / "all.weights.h5"))
    with formats.open(str(tmp_path / "all.weights.h5")) as checkpoint:
        assert [checkpoint.read(name)[0, 0] for name in checkpoint] == [0, 9, 2]
    (tmp_path / names[1]).unlink()
    with pytest.raises(DamagedError, match="a file of the checkpoint is missing"):
        formats.open(str(index))
    for bad in ("../x.h5", "/etc/x.h5", 7, "x.txt"):
        index.write_text(json.dumps({"weight_map": {"/a": bad}}))
        with pytest.raises(DamagedError, match="names a file outside its folder"):
            formats.open(str(index))


def test_like_a_template(tmp_path: Path) -> None:
    """Values of any format under a template's names come out in its layout; what does not fit is told at once."""
    expected = hdf5_files.weights(tmp_path / "a.weights.h5", 1, optimizer=False)
    zipped(tmp_path / "t.keras", 2)
    producing.convert(str(tmp_path / "a.weights.h5"), str(tmp_path / "a.npz"))
    donor, template, out = (str(tmp_path / name) for name in ("a.npz", "t.keras", "out.keras"))
    report = producing.convert(donor, out, like=template)
    assert report.warnings == [f"{template}: 14 optimizer variables keep the template's values"]
    changing.drop(donor, ["layers/dense/vars/0"], out=str(tmp_path / "less.npz"))
    with pytest.raises(RefusedError, match="no value for layers/dense/vars/0"):
        producing.convert(str(tmp_path / "less.npz"), str(tmp_path / "x.keras"), like=template)
    with pytest.raises(UsageError, match="--like TEMPLATE"):
        producing.convert(donor, str(tmp_path / "x.keras"))
    with pytest.raises(UsageError, match="--like takes a Keras or HDF5 file"):
        producing.convert(donor, str(tmp_path / "x.keras"), like=donor)
    assert not (tmp_path / "x.keras").exists()
    with formats.open(out) as file:
        for name, values in expected.items():
            assert same(file.read(name), values)


def test_what_is_not_there(tmp_path: Path) -> None:
    """A name that misses by a letter is met with the one that was meant."""
    hdf5_files.weights(tmp_path / "m.weights.h5")
    with formats.open(str(tmp_path / "m.weights.h5")) as file, pytest.raises(NotFoundError, match="did you mean"):
        file.read("layers/dense/vars/00")


def test_too_long_a_list_is_cut(tmp_path: Path) -> None:
    """A list of names that grows beyond what an attribute can hold is cut into several, as Keras does it."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["layer_names"] = ["a"]
        group = file.create_group("a")
        names = [f"{number:04}" for number in range(300)]
        group.attrs["weight_names"] = names
        for name in names:
            group[name] = np.float32(1)
    changing.rename(str(tmp_path / "m.h5"), [f"a/*=a/{'long' * 80}*"])
    with h5py.File(tmp_path / "m.h5") as file:
        attributes = file["a"].attrs
        assert "weight_names" not in attributes
        found = [each for number in range(len(attributes)) for each in attributes[f"weight_names{number}"].astype(str)]
        assert found == [f"{'long' * 80}{name}" for name in names]
        assert all(attributes[each].nbytes <= 64512 for each in attributes)
    with formats.open(str(tmp_path / "m.h5")) as opened:
        assert set(opened.layer_tables()[keras_layers.BY_NAMES].values()) == {0}


def test_slots_go_along_between_layouts(tmp_path: Path, samples: Path) -> None:
    """From numbered slots onto named ones: each gets its own kind, of its own weight."""
    path = tmp_path / "model.h5"
    path.write_bytes((samples / "keras-pair" / "model.h5").read_bytes())
    donor = samples / "keras3-weights" / "model.weights.h5"
    changing.graft(str(donor), str(path), layers="0-2", slots="copy")
    with formats.open(str(path)) as file, formats.open(str(donor)) as source:
        numbers = [4, 5, 2, 3]
        for at, last in enumerate(("bias_momentum", "bias_velocity", "kernel_momentum", "kernel_velocity")):
            slot = f"optimizer_weights/adam/sequential_2_dense_6_{last}"
            numbered = f"optimizer/vars/{numbers[at]}"
            assert same(file.read(slot), source.read(numbered))
            assert (source.full_name(numbered) or "").endswith(last)


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_room_for_a_new_file_and_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """What is written anew stands on the disk twice for a while: a disk with room for one is refused beforehand."""
    path = tmp_path / f"m{ending}"
    arrays = zipped(path) if ending == ".keras" else hdf5_files.weights(path)
    size = sum(values.nbytes for values in arrays.values())
    real = os.statvfs(tmp_path)
    room = {"bytes": 2 * size - 1}
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((1, 1, *real[2:4], room["bytes"], *real[5:])))
    before = path.read_bytes()
    message = rf"not enough room on the disk; expected {2 * size} bytes, found {2 * size - 1} free"
    with pytest.raises(StorageError, match=message):
        changing.rename(str(path), ["layers/dense/=layers/first/"], anyway=True)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    changing.set(str(path), "layers/dense/vars/0", 1)  # in its place: written once
    room["bytes"] += 1
    changing.rename(str(path), ["layers/dense/=layers/first/"], anyway=True)
    with formats.open(str(path)) as file:
        assert "layers/first/vars/0" in file
