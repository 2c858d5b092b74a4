"""TensorFlow as the oracle of V1 checkpoints: it reads what we write, we read what it writes, with the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import strings
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from strategies import Arrays, checkpoints, same
from test_v1 import HALVES, MATRIX, SPELT, TEXT, Made, edit, examples, new, open_v1, read_all, rewrite

from ckptsurgeon import formats, numeric
from ckptsurgeon.formats.v1 import writing as v1_writing
from ckptsurgeon.formats.v1.reading import V1
from ckptsurgeon.plan import Change, Fill, Plan, Values

pytestmark = pytest.mark.tensorflow

# What the op Save takes.
SAVED = (
    "float32", "float64", "int32", "uint8", "int16", "int8", "string", "complex64", "int64", "bool", "qint8", "quint8",
    "qint32", "uint16", "complex128", "float16",
)  # fmt: skip
# Kinds of which RestoreSlice reads parts, by trial.
SLICED = ("float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool", "complex64", "complex128")

Saved = tuple[str, NDArray[Any], str, str]  # name, values, dtype, shape and slice


def constant(tf: Any, values: NDArray[Any], dtype: str) -> Any:
    """A tensor."""
    if dtype == "string":
        return tf.constant(values, tf.string)
    plain = tf.constant(values, numeric.dtype(dtype))
    return tf.bitcast(plain, tf.as_dtype(dtype)) if dtype.startswith("q") else plain


def save(tf: Any, path: Path, values: Sequence[Saved]) -> Path:
    """Let TensorFlow save."""
    tf.raw_ops.SaveSlices(
        filename=str(path),
        tensor_names=[name for name, *_ in values],
        shapes_and_slices=[spec for *_, spec in values],
        data=[constant(tf, array, dtype) for _, array, dtype, _ in values],
    )
    return path


def restore(tf: Any, path: Path | str, name: str, dtype: str, spec: str = "") -> NDArray[Any]:
    """What TensorFlow reads of one tensor."""
    found = tf.raw_ops.RestoreSlice(
        file_pattern=str(path), tensor_name=name, shape_and_slice=spec, dt=tf.as_dtype(dtype), preferred_shard=-1
    )
    if dtype.startswith("q"):
        found = tf.bitcast(found, numeric.dtype(dtype))
    values = found.numpy()
    return strings(values).reshape(()) if isinstance(values, bytes) else values


def some(dtype: str) -> NDArray[Any]:
    """Six numbers of a dtype, the least and the greatest among them, or strings."""
    if dtype == "string":
        return strings(b"", b"\x00", b"abc", b"z" * 200, b"\xff", b"1").reshape(2, 3)
    kind = numeric.dtype(dtype)
    if kind.kind in "iu":
        return np.array([np.iinfo(kind).min, np.iinfo(kind).max, 0, 1, 127, 100], kind).reshape(2, 3)
    if kind.kind == "b":
        return np.array([True, False, True, True, False, False]).reshape(2, 3)
    numbers = np.array([0.5, -0.0, np.nan, -np.inf, 1e-7, 1000], kind.type(0).real.dtype)
    return (
        (np.stack([numbers, numbers[::-1]], -1).view(kind) if kind.kind == "c" else numbers).astype(kind).reshape(2, 3)
    )


@pytest.mark.parametrize("dtype", SAVED)
def test_every_dtype_both_ways(tf: Any, tmp_path: Path, dtype: str) -> None:
    """TensorFlow's file reads as its values; ours has its bytes, and TensorFlow reads it."""
    values = some(dtype)
    variants = {"matrix": values, "scalar": values[1, 1:2].reshape(()), "vector": values[0]}
    path = save(tf, tmp_path / "theirs", [(name, array, dtype, "") for name, array in variants.items()])
    with open_v1(path) as checkpoint:
        for name, array in variants.items():
            assert checkpoint[name].dtype == dtype
            assert same(checkpoint.read(name), array)

    def changes(old: V1) -> list[Change]:
        return [Change("set", old[name], Values(array)) for name, array in variants.items()]

    ours = tmp_path / "ours"
    with open_v1(path) as checkpoint:
        v1_writing.save_as(Plan(checkpoint, changes(checkpoint)), str(ours), False, True, 0.0)
    assert ours.read_bytes() == path.read_bytes()
    for name, array in variants.items():
        assert same(restore(tf, ours, name, dtype), array)


def test_empty_tensors(tf: Any, tmp_path: Path) -> None:
    """Tensors without elements, of numbers and of strings, are the same bytes in both directions."""
    empty = np.empty((0, 3), np.float32)
    path = save(tf, tmp_path / "m", [("e", empty, "float32", ""), ("s", strings(), "string", "")])
    with open_v1(path) as checkpoint:
        assert same(checkpoint.read("e"), empty)
        assert same(checkpoint.read("s"), strings())
    assert new(tmp_path / "ours", {"e": empty, "s": strings()}).read_bytes() == path.read_bytes()
    assert same(restore(tf, tmp_path / "ours", "e", "float32"), empty)


@pytest.mark.parametrize("dtype", SAVED)
def test_slices_both_ways(tf: Any, tmp_path: Path, dtype: str) -> None:
    """A tensor in slices, one of them spelt out, keeps its slices; TensorFlow reads them where it reads any."""
    values = some(dtype)
    rows = [("v", values[:1], dtype, "2 3 0,1:-"), ("v", values[1:], dtype, "2 3 1,1:-")]
    path = save(tf, tmp_path / "m", [*rows, ("whole", values, dtype, "2 3 0,2:0,3"), ("open", values, dtype, "")])
    with open_v1(path) as checkpoint:
        assert checkpoint["v"].slices == (((0, 1), (0, -1)), ((1, 1), (0, -1)))
        assert checkpoint["whole"].slices == (((0, 2), (0, 3)),)
        assert checkpoint["open"].slices is None
        assert all(same(found, values) for found in read_all(checkpoint).values())
        assert checkpoint.oddities() == []
        changes = [Change("set", variable, Values(values)) for variable in checkpoint.variables.values()]
        v1_writing.save_as(Plan(checkpoint, changes), str(tmp_path / "ours"), False, True, 0.0)
    assert (tmp_path / "ours").read_bytes() == path.read_bytes()
    assert same(restore(tf, tmp_path / "ours", "v", dtype, "2 3 1,1:-"), values[1:])
    if dtype in SLICED:
        assert same(restore(tf, tmp_path / "ours", "v", dtype), values)
        assert same(restore(tf, tmp_path / "ours", "v", dtype, "2 3 -:1,2"), values[:, 1:])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(checkpoints(tuple(dtype for dtype in SAVED if dtype[0] not in "qs")))
def test_random_checkpoints_have_tensorflows_bytes(tf: Any, tmp_path: Path, arrays: Arrays) -> None:
    """Whatever the names, shapes and values: TensorFlow's file and ours are equal, and each reads in the other."""
    path = new(tmp_path / "ours", arrays, force=True)
    ordered = {name: arrays[name] for name in sorted(arrays, key=str.encode)}
    kinds = {name: "string" if array.dtype.kind == "O" else array.dtype.name for name, array in ordered.items()}
    theirs = save(tf, tmp_path / "theirs", [(name, array, kinds[name], "") for name, array in ordered.items()])
    with open_v1(theirs) as checkpoint:
        for name, array in ordered.items():
            assert same(checkpoint.read(name), array)
    assert path.read_bytes() == theirs.read_bytes()
    for name, array in ordered.items():
        assert same(restore(tf, path, name, kinds[name]), array)


def test_several_blocks_have_tensorflows_bytes(tf: Any, tmp_path: Path) -> None:
    """Blocks are cut where TensorFlow cuts them: many small rows, rows larger than a block, rows larger than two."""
    rng = np.random.default_rng(1)
    sizes = [5] * 40 + [30_000] * 20 + [70_000, 3, 131_072, 200_000, 1, 65_500, 65_536]
    arrays = {f"{at % 7}/v{at:04d}": rng.normal(size=size).astype(np.float32) for at, size in enumerate(sizes)}
    arrays["ints"] = rng.integers(-5, 300, 100_000)
    theirs = save(tf, tmp_path / "m", [(name, array, array.dtype.name, "") for name, array in arrays.items()])
    with open_v1(theirs) as checkpoint:
        assert len({extent.offset for v in checkpoint.variables.values() for extent in v.extents}) > 8
        assert all(same(checkpoint.read(name), array) for name, array in arrays.items())
    assert rewrite(theirs, tmp_path / "again").read_bytes() == theirs.read_bytes()
    ordered = {name: arrays[name] for name in sorted(arrays)}
    assert new(tmp_path / "ours", ordered).read_bytes() == theirs.read_bytes()


def test_a_set_of_files(tf: Any, tmp_path: Path) -> None:
    """A sharded checkpoint, a tensor of which lies in both files, opens as one; merged, TensorFlow reads it."""
    one, two = tmp_path / "m-00000-of-00002", tmp_path / "m-00001-of-00002"
    save(tf, one, [("v", MATRIX[:2], "float32", "4 3 0,2:-"), ("t", TEXT, "string", "")])
    save(tf, two, [("v", MATRIX[2:], "float32", "4 3 2,2:-"), ("n", np.int64(-1), "int64", "")])
    with formats.open(str(tmp_path / "m")) as checkpoint:
        assert isinstance(checkpoint, V1)
        assert same(checkpoint.read("v"), MATRIX)
        assert checkpoint["v"].slices == HALVES
        v1_writing.save_as(Plan(checkpoint, []), str(tmp_path / "one"), False, True, 0.0)
    assert same(restore(tf, tmp_path / "one", "v", "float32"), MATRIX)
    assert same(restore(tf, tmp_path / "one", "n", "int64"), np.array(-1))
    assert same(restore(tf, tmp_path / "one", "t", "string"), TEXT)


def test_tensorflow_reads_every_kind_of_change(tf: Any, tmp_path: Path) -> None:
    """After a rename, a drop and a fill TensorFlow's reader lists and reads what is left."""
    path = tmp_path / "m"
    made = Made()
    made.add("a", MATRIX, slices=HALVES)
    made.add("b", MATRIX, slices=SPELT)
    made.add("c", MATRIX)
    made.write(path)

    def changes(old: V1) -> list[Change]:
        rename = Change("renamed", old["a"], source="a")
        rename.key, rename.name = b"z/new", "z/new"
        return [rename, Change("filled", old["b"], Fill(2)), Change("dropped", old["c"])]

    edit(path, changes)
    assert sorted(tf.train.load_checkpoint(str(path)).get_variable_to_shape_map()) == ["b", "z/new"]
    assert same(restore(tf, path, "z/new", "float32"), MATRIX)
    assert same(restore(tf, path, "b", "float32", "4 3 0,4:0,3"), np.full_like(MATRIX, 2))


def test_a_whole_checkpoint_of_all_dtypes(tf: Any, tmp_path: Path) -> None:
    """Extremes, scalars and empty tensors of all dtypes in one file that we write: TensorFlow reads each."""
    path = new(tmp_path / "m", examples())
    for name, values in examples().items():
        dtype = "string" if values.dtype.kind == "O" else values.dtype.name
        assert same(restore(tf, path, name, dtype), values), name
    listed = {name: tuple(shape) for name, shape in tf.train.list_variables(str(path))}
    assert listed == {name: values.shape for name, values in examples().items()}


def test_a_dtype_that_tensorflow_cannot_read(tf: Any, tmp_path: Path) -> None:
    """The format has a place for quint16, but neither TensorFlow's ops nor its reader take it: so none is written."""
    made = Made()
    made.add("q", np.zeros(3, np.uint16), "quint16")
    path = made.write(tmp_path / "m")
    with pytest.raises(tf.errors.OpError):
        restore(tf, path, "q", "quint16")
    with pytest.raises(tf.errors.OpError):
        save(tf, tmp_path / "n", [("q", np.zeros(3, np.uint16), "quint16", "")])


def test_names_that_tensorflow_cannot_read(tf: Any, tmp_path: Path) -> None:
    """A name that is no UTF-8 makes TensorFlow refuse the file, which is why none is written."""
    made = Made()
    made.add(b"\xff", MATRIX)
    made.add("good", MATRIX)
    with pytest.raises(tf.errors.OpError):
        restore(tf, made.write(tmp_path / "m"), "good", "float32")
