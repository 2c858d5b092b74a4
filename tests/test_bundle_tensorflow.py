"""TensorFlow as the oracle: it reads what we write, we read what it writes, and both write the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import HandMade, strings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import Arrays, arrays, checkpoints, numbers, same
from test_bundle import MATRIX, SAMPLES, VALUE, assert_holds, cuts_of, read_all

from ckptsurgeon import formats
from ckptsurgeon.formats import state
from ckptsurgeon.formats.bundle.reading import Bundle
from ckptsurgeon.formats.tensorflow.sstable import BLOCK_SIZE
from ckptsurgeon.verbs import looking

pytestmark = pytest.mark.tensorflow

TEXT = strings(b"one", b"", b"z" * 300)

a_few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def save(tf: Any, prefix: Path, values: Sequence[tuple[str, NDArray[Any], str]]) -> None:
    """Let TensorFlow save (name, values, shape and slice) in this order."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[name for name, _, _ in values],
        shape_and_slices=[spec for _, _, spec in values],
        tensors=[tf.constant(array, tf.string if array.dtype.kind == "O" else array.dtype) for _, array, _ in values],
    )


def restore(tf: Any, prefix: Path, expected: Arrays) -> Arrays:
    """What TensorFlow reads, under the dtypes that are expected."""
    dtypes = [tf.string if array.dtype.kind == "O" else tf.as_dtype(array.dtype) for array in expected.values()]
    tensors = tf.raw_ops.RestoreV2(
        prefix=str(prefix), tensor_names=list(expected), shape_and_slices=[""] * len(expected), dtypes=dtypes
    )
    found = {}
    for name, tensor in zip(expected, tensors, strict=True):
        values = tensor.numpy()
        if isinstance(values, bytes):  # a scalar string
            values = strings(values).reshape(())
        found[name] = values
    return found


def assert_lists_as_tensorflow(tf: Any, prefix: Path) -> None:
    """Names, shapes and dtypes are those of tf.train.list_variables and of TensorFlow's reader."""
    reader = tf.train.load_checkpoint(str(prefix))
    with Bundle(str(prefix)) as bundle:
        ours = sorted((v.key.decode(), list(v.shape)) for v in bundle.variables.values())
        assert ours == sorted((name, list(shape)) for name, shape in tf.train.list_variables(str(prefix)))
        dtypes = {v.key.decode(): tf.as_dtype(v.dtype) for v in bundle.variables.values()}
        assert dtypes == reader.get_variable_to_dtype_map()


def files(prefix: Path) -> dict[str, bytes]:
    """The bytes of a checkpoint's files, by what follows the prefix."""
    return {path.name.removeprefix(prefix.name): path.read_bytes() for path in prefix.parent.glob(f"{prefix.name}.*")}


@a_few
@given(expected=checkpoints())
def test_tensorflow_reads_what_we_write(tf: Any, tmp_path: Path, expected: Arrays) -> None:
    """Random checkpoints over all dtypes, shapes and odd names: every value, and the list of variables."""
    formats.write(str(tmp_path / "m"), expected, sync=False)
    found = restore(tf, tmp_path / "m", expected)
    for name, values in expected.items():
        assert same(found[name], values), name
    assert_lists_as_tensorflow(tf, tmp_path / "m")


@a_few
@given(expected=checkpoints(), data=st.data())
def test_we_read_what_tensorflow_writes(tf: Any, tmp_path: Path, expected: Arrays, data: st.DataObject) -> None:
    """Random checkpoints, their tensors in any order: every value, all checksums right."""
    names = data.draw(st.permutations(list(expected)))
    save(tf, tmp_path / "m", [(name, expected[name], "") for name in names])
    assert_holds(tmp_path / "m", expected)
    assert_lists_as_tensorflow(tf, tmp_path / "m")


@a_few
@given(expected=checkpoints())
def test_we_write_tensorflow_s_bytes(tf: Any, tmp_path: Path, expected: Arrays) -> None:
    """The same tensors in the same order: index and data are equal, byte for byte."""
    formats.write(str(tmp_path / "ours"), expected, sync=False)
    save(tf, tmp_path / "theirs", [(name, expected[name], "") for name in sorted(expected, key=str.encode)])
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")


@pytest.mark.parametrize("count", [1000, 4000])
def test_an_index_of_several_blocks_is_tensorflow_s(tf: Any, tmp_path: Path, count: int) -> None:
    """Long names that share their beginnings, so that the index has more than one block: equal bytes, equal values."""
    expected = {
        f"{'model/' * (at % 7)}{'n' * (at * 31 % 300)}/layer_{at}": np.asarray(at, np.int32) for at in range(count)
    }
    expected["z" * (2 * BLOCK_SIZE + 7)] = np.asarray(-1, np.int32)
    formats.write(str(tmp_path / "ours"), expected, sync=False)
    save(tf, tmp_path / "theirs", [(name, expected[name], "") for name in sorted(expected, key=str.encode)])
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    assert len(files(tmp_path / "ours")[".index"]) > 2 * BLOCK_SIZE
    assert_holds(tmp_path / "ours", expected)
    assert all(same(values, expected[name]) for name, values in restore(tf, tmp_path / "ours", expected).items())


def _spec(shape: tuple[int, ...], cut: Sequence[tuple[int, int]]) -> str:
    sizes = " ".join(map(str, shape))
    return f"{sizes} " + ":".join("-" if length < 0 else f"{start},{length}" for start, length in cut)


def _part(values: NDArray[Any], cut: Sequence[tuple[int, int]]) -> NDArray[Any]:
    place = tuple(slice(start, None if length < 0 else start + length) for start, length in cut)
    return np.ascontiguousarray(values[place]).reshape(values[place].shape)


@a_few
@given(values=arrays().filter(lambda array: array.ndim > 0 and array.size > 0), data=st.data())
def test_we_read_the_slices_that_tensorflow_writes(
    tf: Any, tmp_path: Path, values: NDArray[Any], data: st.DataObject
) -> None:
    """A partitioned tensor saved as several prefixes and merged into one of several shards."""
    cuts = data.draw(cuts_of(values.shape))
    parts = []
    for at, cut in enumerate(cuts):
        parts.append(tmp_path / f"part-{at}")
        save(tf, parts[-1], [("v", _part(values, cut), _spec(values.shape, cut)), (f"w{at}", MATRIX + at, "")])
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(part) for part in parts], destination_prefix=f"{tmp_path}/m")
    expected = {"v": values, **{f"w{at}": MATRIX + at for at in range(len(cuts))}}
    assert_holds(tmp_path / "m", expected)
    assert_lists_as_tensorflow(tf, tmp_path / "m")
    with Bundle(str(tmp_path / "m")) as bundle:
        assert bundle.shards == len(cuts)
        assert len(bundle["v"].extents) == len(cuts)
    for path in tmp_path.iterdir():
        path.unlink()


@a_few
@given(dtype=st.sampled_from(("float32", "int64", "int8", "bool", "complex64")), data=st.data())
def test_tensorflow_reads_the_slices_that_the_tests_make(
    tf: Any, tmp_path: Path, dtype: str, data: st.DataObject
) -> None:
    """The bundles made by hand for the reader's tests are what TensorFlow takes them for."""
    values = data.draw(numbers(dtype).filter(lambda array: array.ndim > 0 and array.size > 1))
    made = HandMade(2, big=data.draw(st.booleans()))
    made.add("w", MATRIX, 1, gap=3)
    made.add("text", TEXT, 1)
    # TensorFlow takes the row of a variable that is one whole slice for an ordinary row, and does not write such.
    made.add_sliced("v", values, data.draw(cuts_of(values.shape).filter(lambda cuts: len(cuts) > 1)))
    made.write(tmp_path / "m", per_block=2, interval=3)
    expected = {"text": TEXT, "v": values, "w": MATRIX}
    found = restore(tf, tmp_path / "m", expected)
    assert all(same(found[name], expected[name]) for name in expected)
    assert_lists_as_tensorflow(tf, tmp_path / "m")
    assert_holds(tmp_path / "m", expected)


def test_variants_that_tensorflow_writes_are_sound(tf: Any, tmp_path: Path) -> None:
    """Their streams and checksums are understood, though not their values."""
    lists = [tf.raw_ops.TensorListFromTensor(tensor=tf.zeros([n, 2]), element_shape=[2]) for n in (0, 1, 500)]
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "m"),
        tensor_names=["one", "several"],
        shape_and_slices=["", ""],
        tensors=[lists[1], tf.stack(lists)],
    )
    with Bundle(str(tmp_path / "m")) as bundle:
        assert [(v.name, v.dtype, v.shape) for v in bundle.variables.values()] == [
            ("one", "variant", ()),
            ("several", "variant", (3,)),
        ]
    assert [finding.ok for finding in looking.verify(str(tmp_path / "m"))] == [True, True]


def test_object_based_checkpoints(tf: Any, tmp_path: Path) -> None:
    """tf.train.Checkpoint's variables are found by their short and their whole names; the object graph is a string."""
    kernel, bias = tf.Variable(MATRIX), tf.Variable([1, 2, 3])
    prefix = Path(tf.train.Checkpoint(layer=tf.train.Checkpoint(kernel=kernel, bias=bias)).save(str(tmp_path / "m")))
    with formats.open(str(tmp_path)) as checkpoint:
        assert list(checkpoint) == ["_CHECKPOINTABLE_OBJECT_GRAPH", "layer/bias", "layer/kernel", "save_counter"]
        for name in ("layer/kernel", f"layer/kernel{VALUE}"):
            assert same(checkpoint.read(name), MATRIX)
        assert same(checkpoint.read("layer/bias"), np.array([1, 2, 3], np.int32))
        assert b"kernel" in checkpoint.read("_CHECKPOINTABLE_OBJECT_GRAPH").item()
    assert_lists_as_tensorflow(tf, prefix)


def test_shards_of_bounded_size(tf: Any, tmp_path: Path) -> None:
    """TensorFlow's policy that cuts a variable into slices over several shards."""
    policy = tf.train.experimental.MaxShardSizePolicy(max_shard_size=200)
    options = tf.train.CheckpointOptions(experimental_sharding_callback=policy)
    values = np.arange(150, dtype=np.float32).reshape(50, 3)
    tf.train.Checkpoint(v=tf.Variable(values), w=tf.Variable(MATRIX)).write(str(tmp_path / "m"), options)
    with Bundle(str(tmp_path / "m")) as bundle:
        assert bundle.shards > 3
        assert len(bundle["v"].extents) > 1
        assert same(bundle.read("v"), values)
        assert same(bundle.read("w"), MATRIX)
    assert_lists_as_tensorflow(tf, tmp_path / "m")


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_are_listed_as_tensorflow_lists_them(tf: Any, samples: Path, name: str) -> None:
    """Other people's checkpoints: the same names, shapes and dtypes."""
    assert_lists_as_tensorflow(tf, samples / name)


def test_samples_are_read_as_tensorflow_reads_them(tf: Any, samples: Path) -> None:
    """Every value of those whose data are there."""
    for name in SAMPLES[:-1]:
        found = read_all(samples / name)
        for key, values in restore(tf, samples / name, found).items():
            assert same(found[key], values), key


def test_state_files_agree(tf: Any, tmp_path: Path) -> None:
    """TensorFlow reads the state file that we write, and we read the ones that it writes."""
    paths = [str(tmp_path / name) for name in ("m-1", "a b", 'q"u\\o', "ü 層", "it's")]
    for path in paths:
        formats.write(path, {"a": MATRIX}, sync=False)
    state.write(str(tmp_path), paths[-1], paths)
    theirs = tf.train.get_checkpoint_state(str(tmp_path))
    assert theirs.model_checkpoint_path == paths[-1]
    assert list(theirs.all_model_checkpoint_paths) == paths
    assert tf.train.latest_checkpoint(str(tmp_path)) == paths[-1]
    (tmp_path / "checkpoint").unlink()
    tf.compat.v1.train.update_checkpoint_state(str(tmp_path), paths[-1], paths)
    ours = state.read(str(tmp_path))
    assert ours is not None
    assert (ours.latest, ours.all) == (paths[-1], paths)


def test_the_state_file_of_a_manager(tf: Any, tmp_path: Path) -> None:
    """With its timestamps and relative paths, while old checkpoints go."""
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(v=tf.Variable(1.0)), str(tmp_path), max_to_keep=2)
    saved = [manager.save() for _ in range(4)]
    found = state.read(str(tmp_path))
    assert found is not None
    assert (found.latest, found.all) == (saved[-1], saved[-2:])
    with formats.open(str(tmp_path)) as checkpoint:
        assert checkpoint.read("save_counter") == 4
