"""Cast, average, extract, convert, cp and compact: what they write, in every format, and what they refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import models
import numpy as np
import pytest
import strategies
from handmade import HandMade, strings
from models import some
from models import write_as as write
from safetensors.numpy import save_file

from ckptsurgeon import cli, compare, formats
from ckptsurgeon.checkpoint import CHUNK, GRAPH
from ckptsurgeon.errors import CkptSurgeonError, NotFoundError, RefusedError, StorageError, UsageError
from ckptsurgeon.formats import table
from ckptsurgeon.formats.bundle.graph.graph import Graph
from ckptsurgeon.formats.bundle.graph.nodes import ATTRIBUTE, EDGE, HAS_VALUES, new_part
from ckptsurgeon.formats.tensorflow.wire import bytes_field
from ckptsurgeon.names import VALUE_SUFFIX as VALUE
from ckptsurgeon.verbs import changing, producing, reclaiming

FORMATS = ("bundle", "v1", "safetensors", "npz")
ENDINGS = {"bundle": "", "v1": "", "safetensors": ".safetensors", "npz": ".npz"}
MATRIX = "dnn/layer0/Linear/Matrix"
ROWS = [((0, 2), (0, -1)), ((2, 2), (0, -1))]
COLUMNS = [((0, -1), (0, 1)), ((0, -1), (1, 2))]

Arrays = dict[str, Any]


def same(path: Any, expected: Arrays) -> bool:
    """Whether a checkpoint holds just these arrays, bit for bit, and its metadata agree."""
    with formats.open(str(path)) as checkpoint:
        assert checkpoint.oddities() == []
    found = models.read(Path(path))
    return found.keys() == expected.keys() and all(strategies.same(found[name], expected[name]) for name in found)


def partitioned(prefix: Path, values: Any, slices: Any, big: bool = False) -> str:
    """A checkpoint whose only matrix is cut into slices, beside a scalar."""
    made = HandMade(2, big=big)
    made.add("step", np.asarray(7, np.int64))
    made.add_sliced("w", values, slices)
    return str(made.write(prefix))


def set_of_files(folder: Path) -> tuple[str, Arrays]:
    """A safetensors checkpoint of two files and an index; its folder."""
    folder.mkdir()
    arrays = {"v": some(2), "w": some(2, seed=1), "w/Adagrad": some(2, seed=2)}
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    save_file({"w": arrays["w"]}, folder / one)
    save_file({"v": arrays["v"], "w/Adagrad": arrays["w/Adagrad"]}, folder / two)
    index = {"metadata": {}, "weight_map": {"w": one, "v": two, "w/Adagrad": two}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return str(folder), arrays


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of every file: whether anything was written at all."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}


A = models.skflow_arrays(1)
FLOATS = {name for name, values in A.items() if values.dtype == np.float32}
SLOTS = {name for name in A if name.endswith("/Adagrad")}


# -- cast


@pytest.mark.parametrize("dtype", ["float16", "float64", ml_dtypes.bfloat16])
@pytest.mark.parametrize("to", FORMATS)
def test_cast_takes_all_floats(tmp_path: Path, to: str, dtype: Any) -> None:
    """Without a selection every float but slots is rounded as NumPy rounds; integers and slots stay."""
    kind = np.dtype(dtype)
    path = write(tmp_path / "m", A, to)
    if kind.name == "bfloat16" and to in ("v1", "npz"):
        before = models.snapshot(tmp_path)
        with pytest.raises(CkptSurgeonError, match="bfloat16") as raised:
            changing.cast(path, kind.name)
        assert len(raised.value.lines) == len(FLOATS - SLOTS)
        assert models.snapshot(tmp_path) == before
        return
    report = changing.cast(path, kind.name)
    assert same(path, {name: A[name].astype(kind) if name in FLOATS - SLOTS else A[name] for name in A})
    assert {row["name"] for row in report.changed} == FLOATS - SLOTS
    assert {row["cast_from"] for row in report.changed} == {"float32"}
    stood = files(tmp_path)
    assert changing.cast(path, kind.name).changed == []
    assert files(tmp_path) == stood


def test_cast_takes_what_is_selected(tmp_path: Path) -> None:
    """Integers are cast only by name; floats become integers only where nothing is lost, and never all at once."""
    arrays = {"n": np.asarray([1, 2], np.int32), "x": np.asarray([1.0, -2.0], np.float32), "y": some(2)}
    path = write(tmp_path / "m", arrays)
    changing.cast(path, "int64", match=["n"])
    changing.cast(path, "int8", match=["x"])
    assert same(path, {**arrays, "n": arrays["n"].astype(np.int64), "x": arrays["x"].astype(np.int8)})
    before = models.snapshot(tmp_path)
    for dtype, match, error in (("int8", ["y"], RefusedError), ("int8", [], UsageError), ("float31", [], UsageError)):
        with pytest.raises(error):
            changing.cast(path, dtype, match=match)
    assert models.snapshot(tmp_path) == before


@pytest.mark.parametrize("slots", ["keep", "copy", "drop", "fill=0.5"])
@pytest.mark.parametrize("to", FORMATS)
def test_slots_of_cast_variables(tmp_path: Path, to: str, slots: str) -> None:
    """They follow the policy: kept, cast too, dropped or filled, and those of other layers stay."""
    path = write(tmp_path / "m", A, to)
    changing.cast(path, "float64", layers="0", slots=slots)
    layer = {name for name in A if name.startswith("dnn/layer0/")}
    expected = {}
    for name, values in A.items():
        if name in layer & SLOTS and slots == "drop":
            continue
        is_cast = name in layer and (name not in SLOTS or slots == "copy")
        expected[name] = values.astype(np.float64) if is_cast else values
        if name in layer & SLOTS and slots == "fill=0.5":
            expected[name] = np.full_like(values, 0.5)
    assert same(path, expected)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("slices", [ROWS, COLUMNS])
def test_cast_of_a_partitioned_variable(tmp_path: Path, slices: Any, big: bool) -> None:
    """It stays cut as it was, in either byte order, in place and with -o."""
    values = some(4, 3)
    path = partitioned(tmp_path / "m", values, slices, big)
    expected = {"step": np.asarray(7, np.int64), "w": values.astype(np.float64)}
    changing.cast(path, "float64", out=str(tmp_path / "out"))
    changing.cast(path, "float64")
    for each in (path, str(tmp_path / "out")):
        assert same(each, expected)
        with formats.open(each) as checkpoint:
            assert checkpoint["w"].slices == tuple(slices)
            assert checkpoint.byteorder == ("big" if big else "little")


@pytest.mark.parametrize("to", FORMATS)
def test_what_cannot_be_cast(tmp_path: Path, to: str) -> None:
    """A value that does not fit leaves every file as it was and none beside it, however late it is met."""
    far = np.zeros(CHUNK, np.float32)
    far[-1] = 1e30
    path = write(tmp_path / "m", {"far": far, "x": some(2)}, to)
    before = models.snapshot(tmp_path)
    for out in (None, str(tmp_path / "out")):
        with pytest.raises(RefusedError, match=r"far is float16: the value 1\.\S*e\+30 does not fit"):
            changing.cast(path, "float16", out=out)
        assert models.snapshot(tmp_path) == before


def test_all_strings_are_refused_at_once(tmp_path: Path) -> None:
    """Each string is a line; without a selection they are none of cast's business."""
    arrays = {"s": strings(b"a"), "t": strings(b"b"), "x": some(2)}
    path = write(tmp_path / "m", arrays)
    with pytest.raises(CkptSurgeonError) as raised:
        changing.cast(path, "float64", match=["*"])
    assert [line.split(": ")[1].split()[0] for line in raised.value.lines] == ["s", "t"]
    changing.cast(path, "float64")
    assert same(path, {**arrays, "x": arrays["x"].astype(np.float64)})


def test_cast_in_a_set_of_files(tmp_path: Path) -> None:
    """One file of a safetensors set can change; a cast that would touch two is refused and loses nothing."""
    folder, arrays = set_of_files(tmp_path / "set")
    before = models.snapshot(tmp_path)
    for options in ({}, {"match": ["w"], "slots": "fill=0"}):
        with pytest.raises(RefusedError, match="2 files of a set"):
            changing.cast(folder, "float64", **options)  # type: ignore[arg-type]
        assert models.snapshot(tmp_path) == before
    changing.cast(folder, "float64", match=["v"])
    assert same(folder, {**arrays, "v": arrays["v"].astype(np.float64)})


# -- average


def members(tmp_path: Path, kinds: tuple[str, ...]) -> tuple[list[str], list[Arrays]]:
    """Checkpoints of the same names in these formats."""
    arrays = [models.skflow_arrays(seed) for seed in range(len(kinds))]
    return [write(tmp_path / f"m{at}", each, kinds[at]) for at, each in enumerate(arrays)], arrays


def mean(arrays: list[Arrays], name: str, weights: list[float] | None = None) -> Any:
    """What NumPy says."""
    return np.average([each[name].astype(np.float64) for each in arrays], axis=0, weights=weights)


@pytest.mark.parametrize("weights", [None, [3.0, 1.0, 1.0], [0.5, 0.25, 0.25], [2.0, -1.0, 1.0]])
@pytest.mark.parametrize("kinds", [("bundle",) * 3, ("npz", "bundle", "v1"), ("v1", "safetensors", "npz"),
                                   ("safetensors", "v1", "bundle")])  # fmt: skip
def test_average(tmp_path: Path, kinds: tuple[str, ...], weights: list[float] | None) -> None:
    """As NumPy averages in float64, rounded once; integers and slots are the first one's; members of any format."""
    paths, arrays = members(tmp_path, kinds)
    before = models.snapshot(tmp_path)
    report = producing.average(paths, str(tmp_path / "out"), weights=weights or ())
    after = models.read(tmp_path / "out")
    for name, values in arrays[0].items():
        if name in FLOATS - SLOTS:
            np.testing.assert_allclose(after[name], mean(arrays, name, weights).astype(np.float32), rtol=3e-7)
            assert (after[name].dtype, after[name].shape) == (values.dtype, values.shape)
        else:
            assert after[name].tobytes() == values.tobytes()
    assert {row["name"] for row in report.changed} == FLOATS - SLOTS
    with formats.open(str(tmp_path / "out")) as checkpoint:
        assert checkpoint.format == table.written()[kinds[0]]
    now = models.snapshot(tmp_path)
    assert {name: now[name] for name in before} == before


def test_the_average_is_accumulated_in_float64(tmp_path: Path) -> None:
    """Small parts of many members are not lost, as they would be in the variables' own dtype."""
    for kind in ("float16", "float32", ml_dtypes.bfloat16):
        values = [np.asarray([each], kind) for each in (1.0, *[2.0**-12] * 7)]
        paths = [write(tmp_path / f"m{np.dtype(kind).name}{at}", {"x": each}) for at, each in enumerate(values)]
        producing.average(paths, str(tmp_path / f"o{np.dtype(kind).name}"))
        expected = np.mean([float(each[0]) for each in values])
        assert models.read(tmp_path / f"o{np.dtype(kind).name}")["x"] == np.asarray([expected]).astype(kind)


@pytest.mark.parametrize("other", ["bundle", "npz", "v1", "safetensors"])
def test_long_variables_are_averaged_piece_by_piece(tmp_path: Path, other: str) -> None:
    """The pieces of several files need not end together; every element is averaged with its own."""
    size = CHUNK // 4 * 3 + 5
    arrays = [{"a": some(3, seed=s), "x": some(size, seed=s)} for s in (1, 2)]
    arrays[1]["x"] = arrays[1]["x"].astype(np.float64)
    paths = [write(tmp_path / "a", arrays[0]), write(tmp_path / "b", arrays[1], other)]
    producing.average(paths, str(tmp_path / "o"))
    expected = (arrays[0]["x"].astype(np.float64) * 0.5 + arrays[1]["x"] * 0.5).astype(np.float32)
    assert models.read(tmp_path / "o")["x"].tobytes() == expected.tobytes()


@pytest.mark.parametrize("slices", [(ROWS, COLUMNS), (COLUMNS, ROWS), (ROWS, ROWS)])
@pytest.mark.parametrize("big", [False, True])
def test_partitioned_members(tmp_path: Path, slices: Any, big: bool) -> None:
    """Members may be cut differently and be of another byte order; the result is cut as the first."""
    paths = [
        partitioned(tmp_path / f"m{at}", some(4, 3, seed=at), cut, big and at == 0) for at, cut in enumerate(slices)
    ]
    producing.average(paths, str(tmp_path / "o"))
    expected = (some(4, 3).astype(np.float64) * 0.5 + some(4, 3, seed=1).astype(np.float64) * 0.5).astype(np.float32)
    assert same(tmp_path / "o", {"step": np.asarray(7, np.int64), "w": expected})
    with formats.open(str(tmp_path / "o")) as checkpoint:
        assert checkpoint["w"].slices == tuple(slices[0])


def test_strings_integers_and_complex_numbers(tmp_path: Path) -> None:
    """Strings and integers are the first one's, whatever the others hold; complex numbers are averaged."""
    one = {"s": strings(b"one"), "n": np.asarray([1, 2], np.int64), "c": np.asarray([1 + 2j], np.complex64)}
    two = {"s": strings(b"two", b"three"), "n": np.asarray([9], np.int8), "c": np.asarray([3 - 2j], np.complex128)}
    paths = [write(tmp_path / "a", one), write(tmp_path / "b", two)]
    producing.average(paths, str(tmp_path / "o"))
    assert same(tmp_path / "o", {**one, "c": np.asarray([2 + 0j], np.complex64)})


@pytest.mark.parametrize("slots", ["keep", "copy", "drop", "fill=0.5"])
def test_slots_of_averaged_variables(tmp_path: Path, slots: str) -> None:
    """They are the first one's, averaged too, dropped or filled; of the selected layers alone."""
    paths, arrays = members(tmp_path, ("bundle", "npz"))
    producing.average(paths, str(tmp_path / "o"), layers="0", slots=slots)
    expected = {}
    for name, values in arrays[0].items():
        chosen = name.startswith("dnn/layer0/")
        if chosen and name in SLOTS and slots == "drop":
            continue
        is_averaged = chosen and (name not in SLOTS or slots == "copy")
        expected[name] = mean(arrays, name).astype(np.float32) if is_averaged else values
        if chosen and name in SLOTS and slots == "fill=0.5":
            expected[name] = np.full_like(values, 0.5)
    assert same(tmp_path / "o", expected)


def test_all_that_differs_is_told_at_once(tmp_path: Path) -> None:
    """A line for each variable and member that is missing, or of another shape or kind; nothing is written."""
    one = {"x": some(2), "y": some(2), "z": some(2), "c": some(2)}
    two = {"x": some(3), "z": np.zeros(2, np.int32), "c": np.zeros(2, np.complex64)}
    paths = [write(tmp_path / "a", one), write(tmp_path / "b", two), write(tmp_path / "c", {**one, "x": some(2, 1)})]
    before = models.snapshot(tmp_path)
    with pytest.raises(CkptSurgeonError) as raised:
        producing.average(paths, str(tmp_path / "o"))
    assert len(raised.value.lines) == 5
    for part in (
        "no variable y",
        "expected float32 [2], found int32 [2]",
        "found complex64 [2]",
        "found float32 [2, 1]",
    ):
        assert part in "\n".join(raised.value.lines)
    assert models.snapshot(tmp_path) == before
    producing.average(paths[::2], str(tmp_path / "o"), exclude=["x"])
    assert same(tmp_path / "o", one)


@pytest.mark.parametrize("to", FORMATS)
def test_an_average_onto_an_input_is_refused(tmp_path: Path, to: str) -> None:
    """-o names none of the inputs, the first neither, under no spelling, --force or not."""
    paths, _ = members(tmp_path, (to, to))
    os.symlink(tmp_path, tmp_path / "link")
    before = models.snapshot(tmp_path)
    for out in (*paths, str(tmp_path / "link" / "m0"), str(tmp_path / "." / "m1")):
        for force in (True, False):
            with pytest.raises(RefusedError, match="names the donor" if force else "exists already"):
                producing.average(paths, out, force=force)
    assert models.snapshot(tmp_path) == before


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [float("nan"), 1.0], [float("inf"), 1.0], [1.0, 1.0, 1.0]])
def test_weights_that_are_none(tmp_path: Path, weights: list[float]) -> None:
    """As many finite numbers as checkpoints, of a sum that is not 0."""
    paths, _ = members(tmp_path, ("bundle", "bundle"))
    with pytest.raises(UsageError, match="invalid --weights; expected 2 finite numbers"):
        producing.average(paths, str(tmp_path / "o"), weights=weights)
    with pytest.raises(UsageError, match="two or more"):
        producing.average(paths[:1], str(tmp_path / "o"))


# -- extract


@pytest.mark.parametrize("slots", [False, True])
@pytest.mark.parametrize("ending", ["", ".safetensors", ".npz"])
@pytest.mark.parametrize("source", FORMATS)
def test_extract(tmp_path: Path, source: str, ending: str, slots: bool) -> None:
    """The selected variables alone, with their slots if asked for, in the format of the ending or the input's."""
    path, out = write(tmp_path / "m", A, source), str(tmp_path / f"out{ending}")
    before = models.snapshot(tmp_path)
    report = producing.extract(path, out, layers="0", match=["global_step"], slots=slots)
    chosen = {name for name in A if name.startswith("dnn/layer0/") and (slots or name not in SLOTS)} | {"global_step"}
    assert same(out, {name: A[name] for name in chosen})
    with formats.open(out) as checkpoint:
        assert checkpoint.format == table.written()[ending[1:] or source]
    assert {row["name"] for row in report.rows if row["action"] == "extracted"} == chosen
    now = models.snapshot(tmp_path)
    assert {name: now[name] for name in before} == before
    with pytest.raises(RefusedError, match="exists already"):
        producing.extract(path, out, layers="0")


def test_extract_into_npy(tmp_path: Path) -> None:
    """One variable fits an npy file, two do not."""
    path = write(tmp_path / "m", A)
    producing.extract(path, str(tmp_path / "x.npy"), match=[MATRIX])
    assert np.load(tmp_path / "x.npy").tobytes() == A[MATRIX].tobytes()
    with pytest.raises(RefusedError, match="one variable, not 6"):
        producing.extract(path, str(tmp_path / "y.npy"), layers="all")
    assert not (tmp_path / "y.npy").exists()


def test_what_cannot_be_extracted(tmp_path: Path) -> None:
    """Nothing selected, slots alone, another tool's ending, a missing folder: refused, and nothing is written."""
    path = write(tmp_path / "m", A)
    before = models.snapshot(tmp_path)
    out = str(tmp_path / "o")
    with pytest.raises(UsageError, match="nothing is selected"):
        producing.extract(path, out)
    with pytest.raises(UsageError, match="only slots"):
        producing.extract(path, out, match=["**/Adagrad"])
    with pytest.raises(UsageError, match="nothing matches"):
        producing.extract(path, out, match=["nothing"])
    with pytest.raises(RefusedError, match=r"never written; name it .*o\.safetensors"):
        producing.extract(path, f"{out}.pt", layers="0")
    with pytest.raises(UsageError, match="use convert"):
        producing.extract(path, f"{out}.onnx", layers="0")
    with pytest.raises(NotFoundError, match="no such folder"):
        producing.extract(path, str(tmp_path / "no" / "o"), layers="0")
    assert models.snapshot(tmp_path) == before


def object_based(prefix: Path) -> str:
    """A small object-based checkpoint: two layers of one weight each, and a slot."""

    def node(*parts: bytes, **edges: int) -> bytes:
        said = b"".join(new_part(EDGE, number, name.replace("__", "-")) for name, number in edges.items())
        return said + b"".join(parts) + bytes_field(HAS_VALUES, b"\x08\x01")

    def row(key: str) -> bytes:
        return new_part(ATTRIBUTE, "VARIABLE_VALUE", key, key + VALUE)

    keys = ["model/layer_with_weights-0/kernel", "model/layer_with_weights-1/kernel"]
    nodes = [
        node(model=1),
        node(layer_with_weights__0=2, layer_with_weights__1=3),
        node(kernel=4),
        node(kernel=5),
        node(row(keys[0])),
        node(row(keys[1])),
    ]
    graph = strings(b"".join(bytes_field(1, each) for each in nodes)).reshape(1)[0]
    made = HandMade()
    scalar = np.empty((), object)
    scalar[()] = graph
    made.add(GRAPH, scalar)
    for at, key in enumerate(keys):
        made.add(key + VALUE, some(2, 2, seed=at))
    return str(made.write(prefix))


def test_the_object_graph_stays_true(tmp_path: Path) -> None:
    """An extracted part of an object-based checkpoint has a graph of just what it holds."""
    path = object_based(tmp_path / "m")
    name = "model/layer_with_weights-0/kernel"
    producing.extract(path, str(tmp_path / "o"), match=[name])
    after = models.read(tmp_path / "o")
    assert set(after) == {name, GRAPH}
    assert after[name].tobytes() == some(2, 2).tobytes()
    assert list(Graph(after[GRAPH].item()).objects.keys) == [name + VALUE]
    with formats.open(str(tmp_path / "o")) as checkpoint:
        assert checkpoint.oddities() == []


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_the_object_graph_means_nothing_elsewhere(tmp_path: Path, ending: str) -> None:
    """Formats without an object graph take the weights alone, under the names that `ls` shows, as convert does."""
    path, name = object_based(tmp_path / "m"), "model/layer_with_weights-0/kernel"
    producing.extract(path, str(tmp_path / f"o{ending}"), match=[name])
    assert same(tmp_path / f"o{ending}", {name: some(2, 2)})
    producing.extract(path, str(tmp_path / f"glob{ending}"), match=["**"])
    assert set(models.read(tmp_path / f"glob{ending}")) == {name, name.replace("-0", "-1")}
    producing.convert(path, str(tmp_path / f"all{ending}"))
    assert set(models.read(tmp_path / f"all{ending}")) == {name, name.replace("-0", "-1")}


def test_an_object_based_checkpoint_is_streamed(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Its graph is no reason to refuse the stream."""
    from safetensors.numpy import load

    path = object_based(tmp_path / "m")
    assert cli.main(["extract", path, "--layers", "1", "-o", "-"]) == 0
    found = load(capsysbinary.readouterr().out)
    assert list(found) == ["model/layer_with_weights-1/kernel"]


def test_all_of_an_object_based_checkpoint_is_cast(tmp_path: Path) -> None:
    """A glob that matches everything does not mean the object graph, which stays; its own name does, and is refused."""
    path = object_based(tmp_path / "m")
    before = models.read(tmp_path / "m")
    with pytest.raises(RefusedError, match="holds no numbers"):
        changing.cast(path, "float64", match=[GRAPH])
    changing.cast(path, "float64", match=["**"])
    expected = {name: values if name == GRAPH else values.astype(np.float64) for name, values in before.items()}
    assert same(path, expected)


def test_what_a_stream_cannot_hold(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Strings are refused with another way, and not a byte is sent."""
    path = write(tmp_path / "m", {"s": strings(b"text"), "x": some(2)})
    assert cli.main(["extract", path, "--match", "*", "-o", "-"]) == 2
    said = capsysbinary.readouterr()
    assert said.out == b""
    assert b"s: safetensors files cannot store string" in said.err
    assert b"use -o FILE" in said.err


# -- convert


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_convert_between_all_formats(tmp_path: Path, source: str, target: str) -> None:
    """Values are the same bits, there and back; the input is untouched."""
    path = write(tmp_path / "m", A, source)
    before = models.snapshot(tmp_path)
    out = str(tmp_path / f"out{ENDINGS[target]}")
    producing.convert(path, out, to=None if ENDINGS[target] else target)
    assert same(out, A)
    producing.convert(out, str(tmp_path / "back"), to=source)
    assert same(tmp_path / "back", A)
    now = models.snapshot(tmp_path)
    assert {name: now[name] for name in before} == before
    again = str(tmp_path / f"again{ENDINGS[target]}")
    producing.convert(str(tmp_path / "back"), again, to=target)
    for file in tmp_path.glob("out*"):
        assert file.read_bytes() == (tmp_path / file.name.replace("out", "again", 1)).read_bytes()


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", FORMATS)
def test_convert_with_maps(tmp_path: Path, source: str, target: str) -> None:
    """New names, transposed where asked for; a variable's slots go along, in the new layout too."""
    path, out = write(tmp_path / "m", A, source), tmp_path / "out"
    maps = ["dnn/layer{K}/Linear/Matrix=layers.{K}.weight.T", "dnn/layer*/Linear/Bias=layers.*.bias", "global_step=n"]
    producing.convert(path, str(out), to=target, maps=maps)
    expected = {}
    for name, values in A.items():
        new = name.replace("dnn/layer", "layers.").replace("/Linear/Matrix", ".weight").replace("/Linear/Bias", ".bias")
        new = new.replace("global_step", "n")
        expected[new] = np.ascontiguousarray(values.T) if "Matrix" in name else values
    assert same(out, expected)


def test_a_conversion_that_cannot_be(tmp_path: Path) -> None:
    """Vectors have no transposition, all of them told at once; maps that are never used and collisions are refused."""
    path = write(tmp_path / "m", A)
    before = models.snapshot(tmp_path)
    out = str(tmp_path / "o")
    with pytest.raises(CkptSurgeonError) as raised:
        producing.convert(path, out, maps=["dnn/layer*/Linear/Bias=b*.T"])
    assert len(raised.value.lines) == 6  # three, and their slots
    for maps, error in ((["nothing=x"], UsageError), (["global_step=learning_rate"], RefusedError)):
        with pytest.raises(error):
            producing.convert(path, out, maps=maps)
    with pytest.raises(UsageError, match="invalid --to"):
        producing.convert(path, out, to="pickle")
    with pytest.raises(UsageError, match="name of another format"):
        producing.convert(path, f"{out}.npz", to="safetensors")
    assert models.snapshot(tmp_path) == before


@pytest.mark.parametrize("target", FORMATS)
def test_partitions_and_byte_orders_are_converted(tmp_path: Path, target: str) -> None:
    """A big-endian, partitioned checkpoint comes out with the same values in every format."""
    values = some(4, 3)
    path = partitioned(tmp_path / "m", values, COLUMNS, big=True)
    out = tmp_path / "out"
    producing.convert(path, str(out), to=target)
    assert same(out, {"step": np.asarray(7, np.int64), "w": values})


def test_a_set_of_files_becomes_one(tmp_path: Path) -> None:
    """A set is converted to one file of the same format, which cp cannot do and says so."""
    folder, arrays = set_of_files(tmp_path / "set")
    out = tmp_path / "out.safetensors"
    with pytest.raises(RefusedError, match=r"several files.*convert --to safetensors"):
        producing.cp(folder, str(out))
    producing.convert(folder, str(out))
    assert same(out, arrays)


# -- cp


@pytest.mark.parametrize("to", FORMATS)
def test_cp_onto_itself_and_over_another(tmp_path: Path, to: str) -> None:
    """With --force a copy replaces another one; onto itself it changes no value."""
    one, two = models.skflow_arrays(1), models.skflow_arrays(2)
    a, b = write(tmp_path / "a", one, to), write(tmp_path / "b", two, to)
    with pytest.raises(RefusedError, match="exists already"):
        producing.cp(a, b)
    assert same(b, two)
    producing.cp(a, b, force=True)
    producing.cp(a, a, force=True)
    assert same(a, one)
    assert same(b, one)
    assert {path.name[0] for path in tmp_path.iterdir() if path.name != "checkpoint"} == {"a", "b"}
    assert (tmp_path / "checkpoint").exists() == (to in ("bundle", "v1"))


# -- compact


def with_dead_bytes(tmp_path: Path) -> tuple[str, Arrays]:
    """A checkpoint from which a large variable was dropped."""
    arrays = {**A, "large": np.zeros(1000, np.float32)}
    path = write(tmp_path / "m", arrays)
    changing.drop(path, ["large"])
    return path, A


def unreferenced(path: str) -> int | None:
    """Bytes that no variable refers to."""
    with formats.open(path) as checkpoint:
        return compare.unreferenced(checkpoint)


def usual(tmp_path: Path, name: str = "m") -> bool:
    """Whether a checkpoint stands under the usual names, with nothing beside it."""
    return sorted(p.name for p in tmp_path.glob(f"{name}*")) == [f"{name}.data-00000-of-00001", f"{name}.index"]


def test_compact_gives_dead_bytes_back(tmp_path: Path) -> None:
    """As many as it says; the values are the same, and the files have the usual names."""
    path, arrays = with_dead_bytes(tmp_path)
    data = tmp_path / "m.data-00000-of-00001"
    before = data.stat().st_size
    stood = files(tmp_path)
    assert reclaiming.compact(path, dry_run=True).reclaimed == 4000
    assert files(tmp_path) == stood
    assert reclaiming.compact(path).reclaimed == 4000
    assert data.stat().st_size == before - 4000
    assert same(path, arrays)
    assert usual(tmp_path)


def test_compact_of_a_linked_graft(tmp_path: Path) -> None:
    """Shards that are shared with a donor are copied out of: the donor keeps its files, the recipient its values."""
    a, b = write(tmp_path / "a", A), write(tmp_path / "m", models.skflow_arrays(2))
    changing.graft(a, b, layers="all", link=True)
    expected, donor = models.read(tmp_path / "m"), models.snapshot(tmp_path)
    assert not usual(tmp_path)
    assert reclaiming.compact(b).reclaimed > 0
    assert same(b, expected)
    assert usual(tmp_path)
    now = models.snapshot(tmp_path)
    assert {n: now[n][0] for n in now if n[0] == "a"} == {n: donor[n][0] for n in donor if n[0] == "a"}


@pytest.mark.parametrize("to", FORMATS)
def test_where_nothing_is_dead_nothing_is_written(tmp_path: Path, to: str) -> None:
    """Every file stays the very same one, with the same times."""
    path = write(tmp_path / "m", A, to)
    stood = files(tmp_path)
    assert reclaiming.compact(path).reclaimed == 0
    assert files(tmp_path) == stood


@pytest.mark.parametrize("to", FORMATS)
def test_drop_compact(tmp_path: Path, to: str) -> None:
    """One go, in every format: the variable is gone and no byte of it is left."""
    path = write(tmp_path / "m", {**A, "large": np.full(1000, 7.25, np.float32)}, to)
    changing.drop(path, ["large"], compact=True)
    assert same(path, A)
    assert unreferenced(path) == 0
    assert not any(np.full(8, 7.25, np.float32).tobytes() in file.read_bytes() for file in tmp_path.iterdir())
    assert to != "bundle" or usual(tmp_path)


def test_compact_into_another_place(tmp_path: Path) -> None:
    """-o writes the live bytes there and leaves the input as it is."""
    path, arrays = with_dead_bytes(tmp_path)
    before = models.snapshot(tmp_path)
    assert reclaiming.compact(path, out=str(tmp_path / "out")).reclaimed == 4000
    now = models.snapshot(tmp_path)
    assert {name: now[name] for name in before} == before
    assert same(tmp_path / "out", arrays)
    assert unreferenced(str(tmp_path / "out")) == 0


def test_compact_needs_all_data(tmp_path: Path) -> None:
    """A missing data file is told, and nothing is written."""
    path, _ = with_dead_bytes(tmp_path)
    (tmp_path / "m.data-00000-of-00001").unlink()
    before = models.snapshot(tmp_path)
    with pytest.raises(NotFoundError):
        reclaiming.compact(path)
    assert models.snapshot(tmp_path) == before


# -- dry runs


@pytest.mark.parametrize(
    "command",
    [
        ["cast", "m", "float16"],
        ["cast", "m", "float64", "--layers", "0", "--slots", "fill=0"],
        ["cast", "m", "float64", "--match", "global_step", "-o", "out"],
        ["average", "m", "n", "-o", "out", "--slots", "drop"],
        ["average", "n", "m", "-o", "out", "--layers", "1-", "--weights", "3,1"],
        ["extract", "m", "--layers", "0", "--slots", "-o", "out.npz"],
        ["convert", "m", "out.safetensors", "--map", "dnn/layer*/Linear/Matrix=layers.*.weight.T"],
        ["convert", "m", "out"],
        ["drop", "m", "--slots", "--compact"],
        ["compact", "m"],
    ],
)
def test_a_dry_run_prints_what_happens(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The JSON of the dry run is the JSON of the run, and nothing was written before."""
    monkeypatch.chdir(tmp_path)
    with_dead_bytes(tmp_path)
    write(tmp_path / "n", models.skflow_arrays(2))
    before = models.snapshot(tmp_path)
    assert cli.main([*command, "--json", "--dry-run"]) == 0
    planned = capsys.readouterr()
    assert models.snapshot(tmp_path) == before
    assert cli.main([*command, "--json"]) == 0
    done = capsys.readouterr()
    assert done.out == planned.out
    assert bool(planned.out) == (command != ["convert", "m", "out"])
    assert models.snapshot(tmp_path) != before


# -- room on the disk


@pytest.mark.parametrize("to", FORMATS)
def test_not_enough_room(tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever copies asks for room first; one line tells how much there is, and no file is begun."""
    a, b = write(tmp_path / "a", A, to), write(tmp_path / "b", models.skflow_arrays(2), to)
    c = write(tmp_path / "c", {**A, "large": np.zeros(9)})
    changing.drop(c, ["large"])
    real, free = os.statvfs, [0]

    def statvfs(path: Any) -> os.statvfs_result:
        fields = list(real(path))
        fields[1], fields[4] = 1, free[0]  # f_frsize, f_bavail
        return os.statvfs_result(fields)

    monkeypatch.setattr(os, "statvfs", statvfs)
    before, out = files(tmp_path), str(tmp_path / "out")
    operations = {
        "graft": lambda: changing.graft(a, b, layers="0"),
        "graft -o": lambda: changing.graft(a, b, layers="0", out=out),
        "set": lambda: changing.set(b, "learning_rate", 3),
        "cast": lambda: changing.cast(b, "float64"),
        "average": lambda: producing.average([a, b], out),
        "extract": lambda: producing.extract(a, out, layers="0"),
        "convert": lambda: producing.convert(a, out, to="npz" if to != "npz" else "bundle"),
        "convert to the same": lambda: producing.convert(a, out, to=to),
        "cp": lambda: producing.cp(a, out),
        "compact": lambda: reclaiming.compact(c),
    }
    for name, operation in operations.items():
        with pytest.raises(StorageError, match=r"not enough room on the disk; expected \d+ bytes, found 0 free"):
            operation()
        assert files(tmp_path) == before, name
    changing.graft(a, a, maps=[f"{MATRIX}={MATRIX}"])  # equal already: needs none
    free[0] = 1 << 20
    for name, operation in operations.items():
        operation()
        for file in tmp_path.glob("out*"):
            file.unlink()
        assert not list(tmp_path.glob("*tmp*")), name
