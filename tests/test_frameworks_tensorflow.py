"""Keras models from a user's function: the worker that trains them, their checkpoints, and rings of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nets_here import IMAGES, Here, bytes_of, images, save_rows, train_here

from ckptsurgeon import cli, formats
from ckptsurgeon.frameworks import members
from ckptsurgeon.frameworks.net import Problem
from ckptsurgeon.ring import checking, driver
from ckptsurgeon.ring.predicting import ensemble

pytestmark = pytest.mark.tensorflow

FILE = str(Path(__file__).with_name("keras_functions.py"))
ENDINGS = ("", ".weights.h5", ".keras")


@pytest.fixture(scope="module")
def trained(keras: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the initial weights of a net, `0`, and those after one and two steps, in each format."""
    folder = tmp_path_factory.mktemp("trained")
    rows = save_rows(folder / "rows.npz")
    worker = Here(f"{FILE}:images", IMAGES, 9)
    for ending in ENDINGS:
        assert worker.ask("init", folder / f"0{ending}", seed=9) == {"step": 1, "metrics": {}}
        for step in (1, 2):
            before, after = folder / f"{step - 1}{ending}", folder / f"{step}{ending}"
            reply = worker.ask("train", after, before, rows, seed=100 + step)
            assert reply["metrics"]["loss"] > 0, reply
    return folder


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_step_depends_on_its_request_alone(trained: Path, tmp_path: Path, ending: str) -> None:
    """A worker that has trained something else writes the same bytes, and another seed draws other random numbers."""
    worker, rows = Here(f"{FILE}:images", IMAGES, 9), save_rows(tmp_path / "rows.npz", 7)
    worker.ask("train", tmp_path / f"other{ending}", trained / f"2{ending}", rows)
    worker.ask("train", tmp_path / f"same{ending}", trained / f"1{ending}", trained / "rows.npz", seed=102)
    worker.ask("train", tmp_path / f"seed{ending}", trained / f"1{ending}", trained / "rows.npz", seed=103)
    assert bytes_of(tmp_path / f"same{ending}") == bytes_of(trained / f"2{ending}")
    assert bytes_of(tmp_path / f"seed{ending}") != bytes_of(trained / f"2{ending}")
    worker.ask("init", tmp_path / f"first{ending}", seed=9)
    assert bytes_of(tmp_path / f"first{ending}") == bytes_of(trained / f"0{ending}")
    worker.ask("init", tmp_path / f"seven{ending}", seed=7)
    assert bytes_of(tmp_path / f"seven{ending}") != bytes_of(trained / f"0{ending}")


def test_all_formats_hold_the_same_state(keras: Any, tf: Any, trained: Path) -> None:
    """Keras and TensorFlow read each checkpoint by themselves, the optimizer's state too, and find equal values."""
    models = []
    for ending in ENDINGS:
        path = str(trained / f"2{ending}")
        if ending == ".keras":
            models.append(keras.models.load_model(path))
            continue
        keras.utils.clear_session()
        from keras_functions import images as build

        models.append(build((8, 8, 1), 3, 0))
        models[-1].optimizer.build(models[-1].trainable_variables)
        if ending:
            models[-1].load_weights(path)
        else:
            tf.train.Checkpoint(model=models[-1]).read(path).assert_consumed()
    states = [[np.asarray(each) for each in [*model.weights, *model.optimizer.variables]] for model in models]
    assert states[0][-1].any()
    assert models[0].optimizer.iterations == 2
    for other in states[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(states[0], other, strict=True))


def test_a_fresh_process_writes_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    """It answers what was asked before its input ended, and does not print what the user's file prints."""
    requests = [
        ("init", "0.weights.h5", None, 9),
        ("train", "2.weights.h5", trained / "1.weights.h5", 102),
        ("predict", "out.npy", trained / "2.weights.h5", 9),
    ]
    lines = [
        json.dumps({"v": 1, "op": op, "step": number, "seed": seed, "data": str(trained / "rows.npz"),
                    "checkpoint": checkpoint and str(checkpoint), "output": str(tmp_path / output)})
        for number, (op, output, checkpoint, seed) in enumerate(requests)
    ]  # fmt: skip
    options = ["--input-shape", "8,8,1", "--classes", "3", "--seed", "9"]
    talking = tmp_path / "talking.py"
    talking.write_text(f"print('hello')\nimport sys\nsys.path.insert(0, {str(Path(FILE).parent)!r})\n"
                       "from keras_functions import images\n")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "ckptsurgeon.frameworks.worker", f"{talking}:images", *options],
        input="\n".join(lines) + "\n",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert [json.loads(line)["step"] for line in done.stdout.splitlines()] == [0, 1, 2], done.stderr
    assert bytes_of(tmp_path / "0.weights.h5") == bytes_of(trained / "0.weights.h5")
    assert bytes_of(tmp_path / "2.weights.h5") == bytes_of(trained / "2.weights.h5")
    here = Here(f"{FILE}:images", IMAGES, 9)
    assert (
        here.ask("predict", tmp_path / "here.npy", trained / "2.weights.h5", trained / "rows.npz", 9)["metrics"] == {}
    )
    assert np.allclose(np.load(tmp_path / "out.npy"), np.load(tmp_path / "here.npy"), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "problem", "y"),
    [
        ("words", Problem((6,), 3, 3), np.array([0, 1, 2, 1])),
        ("own", Problem((6,), 3, 3), np.array([0, 1, 2, 1])),
        ("yes_or_no", Problem((6,), 2, 2), np.array([0, 1, 1, 0])),
        ("values", Problem((6,), None, 2), np.array([[0, 1], [1, 2], [2, 3], [3, 4]], np.float32)),
    ],
)
def test_models_of_many_kinds_train_and_predict(
    keras: Any, tmp_path: Path, name: str, problem: Problem, y: np.ndarray[Any, Any]
) -> None:
    """Embeddings, recurrence, logits, one-hot losses, one sigmoid, values: a step repeats, and lowers the loss."""
    worker = Here(f"{FILE}:{name}", problem, 1)
    X = np.random.default_rng(0).integers(0, 5, (4, 6)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    rows = tmp_path / "rows.npz"
    worker.ask("init", tmp_path / "0.weights.h5", seed=1)
    losses = []
    for step in range(12):
        reply = worker.ask("train", tmp_path / f"{step + 1}.weights.h5", tmp_path / f"{step}.weights.h5", rows, 3)
        losses.append(reply["metrics"]["loss"])
    assert min(losses[-3:]) < losses[0]
    worker.ask("train", tmp_path / "again.weights.h5", tmp_path / "4.weights.h5", rows, 3)
    assert bytes_of(tmp_path / "again.weights.h5") == bytes_of(tmp_path / "5.weights.h5")
    assert worker.ask("predict", tmp_path / "out.npy", tmp_path / "9.weights.h5", rows, 1) == {"step": 1, "metrics": {}}
    outputs = np.load(tmp_path / "out.npy")
    assert outputs.shape == (4, problem.outputs)
    assert problem.classes is None or np.allclose(outputs.sum(axis=1), 1)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("two_inputs", "the trainer's model has 2 inputs; expected a model with one of the inputs"),
        ("not_compiled", "the trainer's model is not compiled; expected model.compile(optimizer, loss)"),
        ("other_rows", "the model's input does not fit the rows; expected [rows,8,8,1], found [rows,7]"),
        ("broken", "broken((8, 8, 1), 3, 1) raised ValueError: no such thing"),
        ("nothing", "the trainer's function does not return a model; expected a compiled keras.Model or a "
                    "torch.nn.Module, found builtins.NoneType"),
        ("image", f"{FILE}: there is no function 'image'; did you mean images"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_trained_is_refused_in_one_line(
    keras: Any, tmp_path: Path, name: str, error: str
) -> None:
    """The reply says what is wrong with the model."""
    assert Here(f"{FILE}:{name}", IMAGES, 1).ask("init", tmp_path / "0", seed=1) == {"step": 1, "error": error}


def test_a_step_that_cannot_be_done_writes_nothing(keras: Any, trained: Path, tmp_path: Path) -> None:
    """The checkpoint of another model, a loss that is no number, and outputs that are no chances are refused."""
    own = Here(f"{FILE}:own", IMAGES, 1)
    for ending in ENDINGS:
        error = own.ask("train", tmp_path / f"1{ending}", trained / f"2{ending}", trained / "rows.npz")["error"]
        assert "cannot be loaded into the trainer's model" in error
        assert "the trainer's function must build the same model at each call" in error
    X, y = images()
    np.savez(tmp_path / "wild.npz", X=np.where(X > 0.5, np.float32(np.nan), X), y=y)
    worker = Here(f"{FILE}:images", IMAGES, 9)
    error = worker.ask("train", tmp_path / "1", trained / "2", tmp_path / "wild.npz")["error"]
    assert error.startswith("training on this mini-batch failed: loss is nan")
    assert [path.name for path in tmp_path.iterdir()] == ["wild.npz"]
    careless = Here(f"{FILE}:not_probabilities", IMAGES, 1)
    careless.ask("init", tmp_path / "0", seed=1)
    error = careless.ask("predict", tmp_path / "out.npy", tmp_path / "0", trained / "rows.npz", 1)["error"]
    assert "the model's outputs are not probabilities; expected a softmax at the end" in error


def test_a_ring_from_a_function(keras: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From `ring init --trainer` on: the trunk is shared by its names in Keras, the contract kept, and all predict."""
    train_here(monkeypatch)
    monkeypatch.chdir(tmp_path)
    X, y = images(60)
    np.savez("images.npz", X=X, y=y)
    given = ["--data", "images.npz", "--trainer", os.path.relpath(FILE) + ":images", "--models", "2", "--rounds", "2"]
    chosen = ["--match", "conv_*/**", "--match", "norm_first/*", "--format", "weights.h5"]
    assert cli.main(["ring", "init", "run", *given, *chosen]) == 0
    assert driver.run("run").reason == "limit"
    trunk, others = set(), set()
    with formats.open("run/a/model.ckpt-8.weights.h5") as a, formats.open("run/b/model.ckpt-7.weights.h5") as b:
        for name in a.variables:
            same = np.array_equal(a.read(name), b.read(name))
            full = a.full_name(name) or name
            (trunk if full.startswith(("conv_", "norm_")) else others).add((same, full.partition("/")[0]))
    assert trunk == {(True, "conv_first"), (True, "norm_first"), (True, "conv_second")}
    assert (False, "dense") in others
    failed = [(each.model, each.check, each.reason) for each in checking.check("run") if not each.ok]
    assert failed == []
    lines = ensemble.evaluate("run")
    assert [line["reason"] for line in lines] == [None, None, None]
    _, *parts = ensemble.predict("run", "images.npz")
    both = [members.keras_model("run", name, f"run/{name}/model.ckpt-{step}.weights.h5") for name, step in
            (("a", 8), ("b", 7))]  # fmt: skip
    mean = np.mean([model.predict_on_batch(X) for model in both], axis=0)
    assert np.allclose([row[1:] for part in parts for row in part], mean, atol=1e-6)
