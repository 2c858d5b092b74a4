"""The ring with the built-in trainer: what is promised of bytes is promised of this one, and TensorFlow agrees."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ring_support import MODELS, history, promised, records, trunk
from torture import torment

from ckptsurgeon import formats
from ckptsurgeon.ring.journal import load

pytestmark = pytest.mark.tensorflow  # in processes of their own

ROUNDS = 20
KILLS = 6
OPTIONS = "--target species --models 3 --hidden 10,20,10 --layers 0-1 --window 3"


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a verb of the ring."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "ckptsurgeon", "ring", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ring(*arguments: object) -> str:
    """Run a verb of the ring to its end; return what it printed."""
    process = start(*arguments)
    output, errors = process.communicate(timeout=1800)
    assert process.returncode == 0, output + errors
    return output


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two runs of three nets on iris: one without interruption, one whose processes were killed."""
    from sklearn import datasets

    folder = tmp_path_factory.mktemp("builtin")
    iris = datasets.load_iris()
    rows = [
        ",".join(map(str, [*row, iris.target_names[kind]])) for row, kind in zip(iris.data, iris.target, strict=True)
    ]
    (folder / "iris.csv").write_text("\n".join(["a,b,c,d,species", *rows]) + "\n")
    whole, killed = folder / "whole", folder / "killed"
    ring("init", whole, "--data", folder / "iris.csv", *OPTIONS.split())
    shutil.copytree(whole, killed)
    ring("run", whole, "--until", f"rounds={ROUNDS}")
    text = (killed / "ring.toml").read_text()
    (killed / "ring.toml").write_text(text.replace("learning_rate = 0.1\n", "learning_rate = 0.1\ntries = 20\n"))
    run = ("run", killed, "--until", f"rounds={ROUNDS}", "-q")
    kills = torment(killed, lambda: start(*run), KILLS, random.Random(4), every=ROUNDS * 7 // KILLS, patience=120)
    assert kills.total() == KILLS
    return whole, killed


def test_killed_and_run_again_it_ends_with_the_same_bytes(runs: tuple[Path, Path]) -> None:
    """Every file of each model's latest checkpoint, and the state files."""
    whole, killed = runs
    assert promised(whole) == promised(killed)
    one, other = records(whole), records(killed)
    for line in (*one, *other):
        del line["seconds"]
    assert one == other


def test_all_models_hold_the_same_trunk_and_have_learnt(runs: tuple[Path, Path]) -> None:
    """Their heads are their own, and so were their first weights."""
    whole, _ = runs
    past = history(whole)
    trunks = [trunk(whole, name, past.latest(name)) for name in MODELS]
    assert trunks[0] == trunks[1] == trunks[2]
    heads = []
    for name in MODELS:
        with formats.open(str(whole / name / f"model.ckpt-{past.latest(name)}")) as checkpoint:
            heads.append(checkpoint.read("logistic_regression/weights").tobytes())
            assert checkpoint.read("global_step") == ROUNDS
        losses = [line["metrics"]["loss"] for line in records(whole) if line["model"] == name and line["metrics"]]
        assert len(losses) == ROUNDS
        assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert len(set(heads)) == 3


def test_tensorflow_finds_and_reads_the_latest_checkpoints(runs: tuple[Path, Path]) -> None:
    """A model's folder is a TensorFlow model folder; every value is the one that we read."""
    import tensorflow as tf

    whole, _ = runs
    past = load(str(whole / "journal.jsonl")).history
    for name in MODELS:
        latest = tf.train.latest_checkpoint(str(whole / name))
        assert latest == str(whole / name / f"model.ckpt-{past.latest(name)}")
        reader = tf.train.load_checkpoint(latest)
        with formats.open(latest) as checkpoint:
            assert set(reader.get_variable_to_shape_map()) == set(checkpoint.variables)
            for variable in checkpoint.variables:
                assert np.array_equal(reader.get_tensor(variable), checkpoint.read(variable))


def test_the_scores_are_those_of_tensorflows_own_forward_pass(runs: tuple[Path, Path]) -> None:
    """Our ensemble in NumPy, against the same nets in TensorFlow."""
    import tensorflow as tf

    from ckptsurgeon.ring.predicting import skflow_net

    whole, _ = runs
    past = history(whole)
    X = np.load(whole / "data" / "X.npy")
    for name in MODELS:
        prefix = str(whole / name / f"model.ckpt-{past.latest(name)}")
        reader, values = tf.train.load_checkpoint(prefix), tf.constant(X)
        for k in range(3):
            layer = f"dnn/layer{k}/Linear"
            values = tf.nn.relu(values @ reader.get_tensor(f"{layer}/Matrix") + reader.get_tensor(f"{layer}/Bias"))
        head = "logistic_regression"
        values = tf.nn.softmax(values @ reader.get_tensor(f"{head}/weights") + reader.get_tensor(f"{head}/bias"))
        assert np.allclose(values.numpy(), skflow_net.load(prefix).outputs(X), atol=1e-5)
    scores = [json.loads(line) for line in ring("evaluate", whole, "--json").splitlines()]
    assert [score["model"] for score in scores] == [*MODELS, "ensemble"]
    assert all(score["rows"] == 30 and score["accuracy"] > 0.5 for score in scores)
