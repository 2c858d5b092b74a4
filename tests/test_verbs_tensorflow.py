"""TensorFlow is the oracle: it reads every checkpoint that we write, value by value, and saves over it in between."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from crash import files_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptsurgeon import formats
from ckptsurgeon.verbs import changing

pytestmark = pytest.mark.tensorflow


def _values(tf: Any, path: Path) -> models.Arrays:
    """All values, as TensorFlow reads them."""
    reader = tf.train.load_checkpoint(str(path))
    return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}


def _save(tf: Any, path: Path, arrays: models.Arrays) -> None:
    """Save as TensorFlow's Saver does: over what stands there."""
    names = sorted(arrays)
    tensors = [tf.constant(arrays[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=str(path), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_tensorflow_reads_any_history_of_operations(tf: Any, tmp_path: Path, data: st.DataObject) -> None:
    """Grafts of every kind, sets, outputs and TensorFlow's own saves in any order: it reads what should be there."""
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    donors = [models.write(tmp_path / f"donor{seed}", seed) for seed in range(2)]
    expected = models.write(tmp_path / "b", 9)
    most = 0
    for turn in range(data.draw(st.integers(1, 6))):
        kind = data.draw(st.sampled_from(["graft", "link", "out", "set", "save"]))
        which = data.draw(st.integers(0, 1))
        layer = data.draw(st.integers(0, 2))
        donor = str(tmp_path / f"donor{which}")
        if kind == "set":
            changing.set(str(tmp_path / "b"), f"dnn/layer{layer}/Linear/Bias[1]", str(turn))
            name = f"dnn/layer{layer}/Linear/Bias"
            expected[name] = expected[name].copy()
            expected[name][1] = turn
        elif kind == "save":
            expected = {name: values + 1 for name, values in expected.items()}
            _save(tf, tmp_path / "b", expected)
        else:
            out = str(tmp_path / "out") if kind == "out" else None
            changing.graft(donor, str(tmp_path / "b"), layers=str(layer), link=kind == "link", out=out, force=True)
            result = models.grafted(expected, donors[which], (layer,))
            if out:
                assert models.equal(_values(tf, tmp_path / "out"), result)
            else:
                expected = result
        assert models.equal(_values(tf, tmp_path / "b"), expected)
        most = max(most, len(files_of(tmp_path / "b")))
    assert most <= 8


def test_saves_in_between_leave_no_growing_heap(tf: Any, tmp_path: Path) -> None:
    """Rounds of grafts with TensorFlow saving over the recipient in between: the files stay few, the values right."""
    donor = models.write(tmp_path / "a", 1)
    expected = models.write(tmp_path / "b", 2)
    counts = []
    for turn in range(12):
        changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers=str(turn % 3), link=turn % 2 == 0)
        expected = models.grafted(expected, donor, (turn % 3,))
        assert models.equal(_values(tf, tmp_path / "b"), expected)
        if turn % 2:
            expected = {name: values + 1 for name, values in expected.items()}
            _save(tf, tmp_path / "b", expected)
            assert models.equal(_values(tf, tmp_path / "b"), expected)
        counts.append(len(files_of(tmp_path / "b")))
    assert max(counts[-6:]) <= max(counts[:6]) <= 6


def test_tensorflows_newest_save_wins_over_older_shards(tf: Any, tmp_path: Path) -> None:
    """A save over a grafted checkpoint, then a graft: the superseded shards are gone and nothing of the save is."""
    donor = models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0")
    fresh = models.skflow_arrays(7)
    _save(tf, tmp_path / "b", fresh)
    report = changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="1")
    assert report.warnings == []
    assert models.equal(_values(tf, tmp_path / "b"), models.grafted(fresh, donor, (1,)))
    with formats.open(str(tmp_path / "b")) as checkpoint:
        assert len(files_of(tmp_path / "b")) == 1 + len(checkpoint.data_files)


def test_what_tensorflow_keeps_that_we_do_not_know_survives(tf: Any, tmp_path: Path) -> None:
    """Strings, partitioned variables and an object graph are carried byte for byte through a graft."""
    arrays = {**models.skflow_arrays(2), "text": np.array([b"one", b"", b"three"], object)}
    names = [*sorted(arrays), "parts", "parts"]
    tensors: list[Any] = [
        tf.constant(arrays[name].tolist() if name == "text" else arrays[name]) for name in sorted(arrays)
    ]
    parts = np.arange(12, dtype=np.float32).reshape(4, 3)
    tensors += [tf.constant(parts[:2]), tf.constant(parts[2:])]
    slices = [""] * len(arrays) + ["4 3 0,2:-", "4 3 2,2:-"]
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "b"), tensor_names=names, shape_and_slices=slices, tensors=tensors)
    donor = models.write(tmp_path / "a", 1)
    for options in ({}, {"link": True}, {"out": str(tmp_path / "out")}):
        changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0-1", **options)  # type: ignore[arg-type]
        path = tmp_path / ("out" if options.get("out") else "b")
        found = _values(tf, path)
        expected = models.grafted(arrays, donor, (0, 1))
        assert found.pop("parts").tolist() == parts.tolist()
        assert found.pop("text").tolist() == expected.pop("text").tolist()
        assert models.equal(found, expected)
        assert models.read(path)["parts"].tolist() == parts.tolist()


def test_an_object_based_checkpoint_is_restored_after_a_set(tf: Any, tmp_path: Path) -> None:
    """A value set by hand in a checkpoint of tf.train.Checkpoint is what restore gives, and everything else too."""
    module = tf.Module()
    module.kernel = tf.Variable(np.arange(6, dtype=np.float32).reshape(2, 3))
    module.count = tf.Variable(3, dtype=tf.int64)
    path = tf.train.Checkpoint(model=module).save(str(tmp_path / "ckpt"))
    with formats.open(path) as checkpoint:
        assert {"model/kernel", "model/count", "save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH"} == set(checkpoint)
    changing.set(str(tmp_path), "model/kernel[1,2]", "50")
    module.kernel.assign(tf.zeros((2, 3)))
    tf.train.Checkpoint(model=module).restore(path).assert_consumed()
    assert module.kernel.numpy().tolist() == [[0, 1, 2], [3, 4, 50]]
    assert module.count.numpy() == 3


def test_tensorflow_finds_the_latest_through_our_state_file(tf: Any, tmp_path: Path) -> None:
    """A state file that we write is TensorFlow's, and the folder may be moved."""
    for step in (1, 2):
        (tmp_path / "run").mkdir(exist_ok=True)
        models.write(tmp_path / "run" / f"model.ckpt-{step}", step)
    kept = [str(tmp_path / "run" / f"model.ckpt-{step}") for step in (1, 2)]
    formats.state.write(str(tmp_path / "run"), kept[-1], kept)
    os.rename(tmp_path / "run", tmp_path / "moved")
    assert tf.train.latest_checkpoint(str(tmp_path / "moved")) == str(tmp_path / "moved" / "model.ckpt-2")
    known = tf.train.get_checkpoint_state(str(tmp_path / "moved"))
    assert len(known.all_model_checkpoint_paths) == 2
    with formats.open(str(tmp_path / "moved")) as checkpoint:
        assert checkpoint.path.endswith("moved/model.ckpt-2")


def test_every_sample_survives_a_rewrite(tf: Any, tmp_path: Path, samples: Path) -> None:
    """A real checkpoint, changed and then grafted back from itself, reads back in TensorFlow as it was."""
    for name in ("estimator-linear/model.ckpt-1", "gpt2-toy/model.ckpt", "savedmodel/variables/variables",
                 "object-based-two-shards/model.ckpt"):  # fmt: skip
        before = _values(tf, samples / name)
        out = tmp_path / name.replace("/", "-")
        with formats.open(str(samples / name)) as checkpoint:
            target = max((v for v in checkpoint.variables.values() if v.dtype == "float32"), key=lambda v: v.size)
            key = target.key.decode()
        changing.set(str(samples / name), target.name, "0.5", out=str(out))
        changing.graft(str(samples / name), str(out), match=[target.name])
        after = _values(tf, out)
        assert key in after
        assert models.equal(after, before)
