"""Format by dtype by partition: TensorFlow writes and we read, we write and TensorFlow reads, value by value."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strategies import same

from ckptsurgeon import formats, numeric
from ckptsurgeon.formats import foreign
from ckptsurgeon.plan import Plan
from ckptsurgeon.verbs import changing, producing

pytestmark = pytest.mark.tensorflow

V1_DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64", "complex64",
             "complex128", "qint8", "quint8", "qint32", "string")  # fmt: skip
V2_DTYPES = (*V1_DTYPES, "qint16", "quint16", "uint32", "uint64", "bfloat16", "float8_e5m2", "float8_e4m3fn", "int4",
             "uint4")  # fmt: skip
# What TensorFlow itself can read of a partitioned variable of a V2 checkpoint.
V2_SLICED = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64", "complex128",
             "qint8", "quint8", "qint32", "bfloat16", "int4", "uint4")  # fmt: skip

WHOLE = [""]
PARTITIONS = {
    "whole": WHOLE,
    "rows": ["4 3 0,2:-", "4 3 2,2:-"],
    "explicit": ["4 3 0,1:0,3", "4 3 1,3:0,3"],
    "blocks": ["4 3 0,2:0,1", "4 3 0,2:1,2", "4 3 2,2:0,1", "4 3 2,2:1,2"],
}
CASES = [
    *(("tf-v1", dtype, cut) for dtype in V1_DTYPES for cut in PARTITIONS),
    *(("tf-v2", dtype, cut) for dtype in V2_DTYPES for cut in PARTITIONS if cut == "whole" or dtype in V2_SLICED),
]


def values_of(dtype: str) -> Any:
    """A matrix of 4 by 3 with all kinds of values of a dtype."""
    rng = np.random.default_rng(1)
    if dtype == "string":
        array = np.empty((4, 3), object)
        array.reshape(-1)[:] = [bytes(rng.integers(0, 256, size=n, dtype=np.uint8)) for n in range(12)]
        return array
    kind = numeric.dtype(dtype)
    if kind.kind == "c":
        return (rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3))).astype(kind)
    if kind.kind in "f" or numeric.is_small_float(kind):
        return rng.normal(size=(4, 3)).astype(np.float32).astype(kind)
    if dtype in ("bool", "int4", "uint4"):
        return rng.integers(0, 2, size=(4, 3)).astype(np.int8).astype(kind)
    info = np.iinfo(kind)
    array = rng.integers(info.min, info.max, size=(4, 3), dtype=kind, endpoint=True)
    array[0, :2] = info.min, info.max
    return array


def part(values: Any, spec: str) -> Any:
    """The part of a matrix that a shape and slice of TensorFlow's means."""
    if not spec:
        return values
    index = []
    for item in spec.split(" ")[-1].split(":"):
        start, _, length = item.partition(",")
        index.append(slice(None) if item == "-" else slice(int(start), int(start) + int(length)))
    return values[tuple(index)]


def tensor(tf: Any, values: Any, dtype: str) -> Any:
    """Values as a tensor; the quantized kinds are integers to NumPy."""
    if dtype == "string":
        return tf.constant(values, tf.string)
    made = tf.constant(values)
    return tf.bitcast(made, tf.as_dtype(dtype)) if dtype.startswith(("qint", "quint")) else made


def tensorflow_writes(tf: Any, path: Path, format: str, values: Any, dtype: str, cut: str) -> None:
    """Let TensorFlow save one variable and a scalar beside it."""
    specs = PARTITIONS[cut]
    tensors = [tensor(tf, part(values, spec), dtype) for spec in specs] + [tf.constant(7, tf.int64)]
    names, slices = ["tower/w"] * len(specs) + ["step"], [*specs, ""]
    if format == "tf-v2":
        tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=slices, tensors=tensors)
    else:
        tf.raw_ops.SaveSlices(filename=str(path), tensor_names=names, shapes_and_slices=slices, data=tensors)


def tensorflow_reads(tf: Any, path: Path, format: str, dtype: str) -> Any:
    """The variable, whole, as TensorFlow reads it."""
    kind = tf.as_dtype(dtype)
    if format == "tf-v2":
        found = tf.raw_ops.RestoreV2(prefix=str(path), tensor_names=["tower/w"], shape_and_slices=[""], dtypes=[kind])[
            0
        ]
    else:
        found = tf.raw_ops.RestoreSlice(file_pattern=str(path), tensor_name="tower/w", shape_and_slice="", dt=kind)
    if dtype.startswith(("qint", "quint")):
        found = tf.bitcast(found, tf.as_dtype(numeric.dtype(dtype)))
    return found.numpy()


@pytest.mark.parametrize(("format", "dtype", "cut"), CASES)
def test_table(tf: Any, tmp_path: Path, format: str, dtype: str, cut: str) -> None:
    """One cell of the table: read, written again, and written in the other format if that has the dtype."""
    values = values_of(dtype)
    tensorflow_writes(tf, tmp_path / "m", format, values, dtype, cut)
    with formats.open(str(tmp_path / "m")) as checkpoint:
        variable = checkpoint["tower/w"]
        assert (checkpoint.format, variable.dtype, variable.shape) == (format, dtype, (4, 3))
        assert len(variable.extents) == len(PARTITIONS[cut])
        assert same(checkpoint.read("tower/w"), values)
        assert checkpoint.read("step") == 7
        for to in ("tf-v1", "tf-v2"):
            readable = V1_DTYPES if to == "tf-v1" else V2_DTYPES if cut == "whole" else V2_SLICED
            if dtype in readable:
                formats.save(Plan(checkpoint, []), out=str(tmp_path / to), format=to)
                assert same(tensorflow_reads(tf, tmp_path / to, to, dtype), values)
    if format == "tf-v1":
        assert (tmp_path / "tf-v1").read_bytes() == (tmp_path / "m").read_bytes()
    elif (tmp_path / "tf-v2.index").exists():
        for end in (".index", ".data-00000-of-00001"):
            assert Path(f"{tmp_path}/tf-v2{end}").read_bytes() == Path(f"{tmp_path}/m{end}").read_bytes()


@pytest.mark.parametrize("donor_format", ["tf-v1", "tf-v2"])
@pytest.mark.parametrize("format", ["tf-v1", "tf-v2"])
@pytest.mark.parametrize("donor_cut", PARTITIONS)
@pytest.mark.parametrize("cut", PARTITIONS)
def test_graft_between_formats_and_partitions(
    tf: Any, tmp_path: Path, donor_format: str, format: str, donor_cut: str, cut: str
) -> None:
    """Whatever the two formats and partitions are, TensorFlow reads the donor's values out of the recipient."""
    donor, old = values_of("float32"), np.zeros((4, 3), np.float32)
    tensorflow_writes(tf, tmp_path / "a", donor_format, donor, "float32", donor_cut)
    tensorflow_writes(tf, tmp_path / "b", format, old, "float32", cut)
    changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), match=["tower/w"])
    assert same(tensorflow_reads(tf, tmp_path / "b", format, "float32"), donor)
    with formats.open(str(tmp_path / "b")) as checkpoint:
        assert len(checkpoint["tower/w"].extents) == len(PARTITIONS[cut])


def test_several_blocks_byte_for_byte(tf: Any, tmp_path: Path) -> None:
    """Many variables and large ones: V1 files and V2 indexes are cut into blocks just as TensorFlow cuts them."""
    rng = np.random.default_rng(3)
    names = [f"tower/layer{number}/{'x' * (number % 50)}" for number in range(9000)]
    tensors = [tf.constant(rng.normal(size=number % 7), tf.float32) for number in range(9000)]
    names.append("large")
    tensors.append(tf.constant(rng.normal(size=300_000), tf.float32))
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "a"), tensor_names=names, shape_and_slices=[""] * 9001, tensors=tensors)
    kept = [at for at in range(9001) if tensors[at].shape[0]]  # V1 has no slice of nothing
    tf.raw_ops.Save(
        filename=str(tmp_path / "b"), tensor_names=[names[at] for at in kept], data=[tensors[at] for at in kept]
    )
    for name in ("a", "b"):
        producing.cp(str(tmp_path / name), str(tmp_path / f"{name}-cp"))
        producing.convert(str(tmp_path / name), str(tmp_path / f"{name}-same"), to="bundle" if name == "a" else "v1")
        with formats.open(str(tmp_path / name)) as checkpoint:
            formats.save(Plan(checkpoint, []), out=str(tmp_path / f"{name}-save"))
        for kind in ("cp", "same", "save"):
            for end in (".index", ".data-00000-of-00001") if name == "a" else ("",):
                written = Path(f"{tmp_path}/{name}-{kind}{end}").read_bytes()
                assert written == Path(f"{tmp_path}/{name}{end}").read_bytes()


def test_a_saved_model_serves_new_values(tf: Any, tmp_path: Path) -> None:
    """A SavedModel is edited in place and as a copy; it loads, serves the new values, and keeps its assets."""

    class Scaled(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.scale = tf.Variable(2.0)
            words = tmp_path / "words.txt"
            words.write_text("a\n")
            self.words = tf.saved_model.Asset(str(words))

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            return x * self.scale

    folder, out = tmp_path / "sm", tmp_path / "out"
    tf.saved_model.save(Scaled(), str(folder))
    before = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    changing.set(str(folder), "scale", 5.0, out=str(out))
    assert tf.saved_model.load(str(folder))(tf.constant(3.0)).numpy() == 6.0
    changing.set(str(folder), "scale", 4.0)
    assert tf.saved_model.load(str(folder))(tf.constant(3.0)).numpy() == 12.0
    assert tf.saved_model.load(str(out))(tf.constant(3.0)).numpy() == 15.0
    for where in (folder, out):
        after = {path.name: path.read_bytes() for path in where.rglob("*") if path.is_file()}
        for name in ("saved_model.pb", "fingerprint.pb", "words.txt"):
            assert after[name] == before[name]


def test_the_line_that_converts_a_frozen_graph(tf: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph with its weights as constants is named, and the command in the message makes an npz of it."""
    path, weights = tmp_path / "frozen.pb", np.arange(6, dtype=np.float32).reshape(2, 3)
    with tf.Graph().as_default() as graph:
        tf.constant(weights, name="dense/kernel")
        tf.compat.v1.placeholder(tf.float32, [1, 2], name="input")
        tf.compat.v1.train.export_meta_graph(str(tmp_path / "m.meta"))
    path.write_bytes(graph.as_graph_def().SerializeToString())
    error = foreign.explain(str(path))
    assert "a TensorFlow graph (GraphDef)" in str(error)
    _, flag, code, source, target = shlex.split(str(error).partition("is installed: ")[2])
    monkeypatch.setattr(sys, "argv", [flag, source, target])
    exec(code, {})
    with np.load(tmp_path / "frozen.npz") as found:
        assert found.files == ["dense/kernel"]
        assert same(found["dense/kernel"], weights)
    assert "the graph (.meta)" in str(foreign.explain(str(tmp_path / "m.meta")))
