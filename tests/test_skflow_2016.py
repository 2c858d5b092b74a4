"""Folders that skflow itself saved in 2016: they predict, train on, are saved, grafted, and join a ring."""

from __future__ import annotations

import json
import shutil
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_here import train_here

from ckptsurgeon import formats, graft, skflow
from ckptsurgeon.ring import driver, start

pytestmark = pytest.mark.tensorflow

HIDDEN = [40, 20, 15, 10, 20, 10, 10, 20, 5, 40, 10, 10, 20, 5]
FEATURES = {"time16": 20, "time23": 23}
MODELS = sorted(FEATURES)
HEAD = "logistic_regression"

Values = dict[str, Any]


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(samples: Path, name: str) -> Path:
    return samples / "skflow-2016" / name


@pytest.fixture(scope="module")
def stored(samples: Path, folder: Path, name: str) -> Values:
    """Return what TensorFlow itself reads, checked against the sums that are kept with the samples."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(folder / "model-200"))
    values = {variable: reader.get_tensor(variable) for variable in reader.get_variable_to_shape_map()}
    expected = json.loads((samples / "expected.json").read_text())[f"skflow-2016/{name}/model-200"]["variables"]
    found = {v: [list(a.shape), str(a.dtype), sha256(a.tobytes()).hexdigest()[:16]] for v, a in values.items()}
    assert found == expected
    return values


@pytest.fixture(scope="module")
def rows(name: str) -> Any:
    """Return rows of many scales, so that predictions differ."""
    random = np.random.default_rng(3)
    return random.normal(size=(400, FEATURES[name])) * np.logspace(-2, 3, 400)[:, None]


def restore(folder: Path, **params: Any) -> Any:
    """Restore without a single warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return skflow.TensorFlowDNNClassifier.restore(str(folder), **params)


def forward(values: Values, X: Any) -> tuple[list[Any], Any]:
    """Return the output of each layer and the probabilities, in NumPy and float64."""
    values = {name: value.astype(np.float64) for name, value in values.items()}
    layers = [X.astype(np.float32).astype(np.float64)]
    for k in range(len(HIDDEN)):
        layer = f"dnn/layer{k}/Linear"
        layers.append(np.maximum(layers[-1] @ values[f"{layer}/Matrix"] + values[f"{layer}/Bias"], 0))
    logits = layers[-1] @ values[f"{HEAD}/weights"] + values[f"{HEAD}/bias"]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return layers, odds / odds.sum(axis=1, keepdims=True)


def step(values: Values, X: Any, y: Any, rate: float) -> Values:
    """Return the variables after one step of Adagrad, gradients clipped to a norm of 5, by hand in float64."""
    layers, odds = forward(values, X)
    values = {name: value.astype(np.float64) for name, value in values.items()}
    names = [(f"dnn/layer{k}/Linear/Matrix", f"dnn/layer{k}/Linear/Bias") for k in range(len(HIDDEN))]
    names.append((f"{HEAD}/weights", f"{HEAD}/bias"))
    error, gradients = (odds - np.eye(2)[y]) / len(X), {}
    for (matrix, bias), inputs in zip(reversed(names), reversed(layers), strict=True):
        gradients[matrix], gradients[bias] = inputs.T @ error, error.sum(axis=0)
        error = (error @ values[matrix].T) * (inputs > 0)
    norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
    for name, gradient in gradients.items():
        clipped = gradient * min(1.0, 5.0 / norm)
        values[f"{name}/Adagrad"] = values[f"{name}/Adagrad"] + clipped**2
        values[name] = values[name] - rate * clipped / np.sqrt(values[f"{name}/Adagrad"])
    return values


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


def copy(folder: Path, to: Path) -> Path:
    """Copy a sample to where it may be written to."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def test_it_predicts_what_its_weights_say(folder: Path, stored: Values, rows: Any) -> None:
    """Probabilities are those of a forward pass in NumPy, to 1e-5; the folder, which is read-only, is left alone."""
    before = contents(folder)
    model = restore(folder)
    _, expected = forward(stored, rows)
    assert np.ptp(expected[:, 0]) > 1e-3  # it says different things of different rows
    np.testing.assert_allclose(model.predict_proba(rows), expected, rtol=0, atol=1e-5)
    clear = np.abs(expected[:, 0] - 0.5) > 1e-4
    np.testing.assert_array_equal(model.predict(rows)[clear], expected.argmax(axis=1)[clear])
    assert contents(folder) == before


def test_its_parameters_and_all_its_variables_are_there(folder: Path, stored: Values) -> None:
    """Every variable has its value of 2016, slots and step too; only the average of the loss is no part of a model."""
    model = restore(folder)
    assert type(model) is skflow.TensorFlowDNNClassifier
    assert (model.hidden_units, model.n_classes, model.optimizer, model.steps) == (HIDDEN, 2, "Adagrad", 200)
    values = model._net.values()
    assert set(stored) - set(values) == {f"{HEAD}/softmax_classifier/softmax_loss/avg"}
    for name, value in values.items():
        np.testing.assert_array_equal(value, stored[name], err_msg=name)
    assert model.get_tensor_value("global_step") == 200


def test_it_goes_on_training_with_its_own_slots(folder: Path, stored: Values, rows: Any) -> None:
    """One more step changes every variable as Adagrad does from the accumulators of 2016, not from new ones."""
    X, y = rows[150:250], np.arange(100) % 2
    model = restore(folder, steps=1, batch_size=100, verbose=0)
    model.partial_fit(X, y)
    expected = step(stored, X, y, float(stored["learning_rate"]))
    moved = 0
    for name, value in model._net.values().items():
        if name != "global_step":
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
            moved += not np.array_equal(value, stored[name])
    assert moved >= 2
    assert model.get_tensor_value("global_step") == 201


def test_it_is_saved_again_in_a_format_of_today(folder: Path, rows: Any, tmp_path: Path) -> None:
    """Trained on and saved elsewhere, TensorFlow reads it, and it comes back with the same predictions."""
    import tensorflow as tf

    model = restore(folder, steps=2, verbose=0).partial_fit(rows, np.arange(400) % 2)
    model.save(str(tmp_path / "new"))
    shutil.move(tmp_path / "new", tmp_path / "moved")
    assert tf.train.latest_checkpoint(str(tmp_path / "moved")) == str(tmp_path / "moved" / "model-202")
    reader = tf.train.load_checkpoint(str(tmp_path / "moved"))
    for name, value in model._net.values().items():
        np.testing.assert_array_equal(reader.get_tensor(name), value)
    np.testing.assert_array_equal(restore(tmp_path / "moved").predict_proba(rows), model.predict_proba(rows))


def test_saved_into_its_own_folder_the_new_weights_count(folder: Path, rows: Any, tmp_path: Path) -> None:
    """At the step of 2016 old and new checkpoint share a name; the new one is restored, the old file is never lost."""
    import tensorflow as tf

    own = copy(folder, tmp_path / "own")
    old = (own / "model-200").read_bytes()
    model = restore(own, steps=1, verbose=0)
    biases = model.get_layer_biases(13) + 1
    model.set_layer_biases(13, biases)
    model.save(str(own))
    np.testing.assert_array_equal(restore(own).get_layer_biases(13), biases)
    reader = tf.train.load_checkpoint(str(own))
    np.testing.assert_array_equal(reader.get_tensor("dnn/layer13/Linear/Bias"), biases)
    for _ in range(6):
        model.partial_fit(rows[:10], np.arange(10) % 2).save(str(own))
    names = {f"model-{number}.index" for number in range(202, 207)}
    assert {path.name for path in own.glob("*.index")} == names
    assert (own / "model-200").read_bytes() == old


def test_layers_of_one_go_into_the_other(samples: Path, rows: Any, tmp_path: Path) -> None:
    """After `graft` on the folder of 2016 the model predicts with the layers that it has got."""
    pair = samples / "skflow-2016"
    own = copy(pair / "time16", tmp_path / "own")
    graft(str(pair / "time23"), str(own), layers="1-13")
    model, donor = restore(own), restore(pair / "time23")
    for layer in range(1, 14):
        np.testing.assert_array_equal(model.get_layer_weights(layer), donor.get_layer_weights(layer))
    _, expected = forward(model._net.values(), rows[:, :20])
    np.testing.assert_allclose(model.predict_proba(rows[:, :20]), expected, rtol=0, atol=1e-5)


def test_it_joins_a_ring(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 2016 and one with new weights train in turns; they share the trunk, and its slots go on."""
    random = np.random.default_rng(0)
    X = random.normal(size=(100, 20)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=X, y=(X[:, 0] > 0).astype(np.int64))
    old = samples / "skflow-2016" / "time16"
    lines = ['layers = "0-3"', "stop = { rounds = 3 }", "[data]", 'file = "rows.npz"', 'target = "y"']
    lines += ["[[models]]", 'name = "old"', f"hidden_units = {HIDDEN}", f"init = {json.dumps(str(old))}"]
    lines += ["[[models]]", 'name = "new"', f"hidden_units = {HIDDEN}"]
    (tmp_path / "ring.toml").write_text("\n".join(lines) + "\n")
    train_here(monkeypatch)
    start.init(str(tmp_path))
    with formats.open(str(old)) as before, formats.open(str(tmp_path / "old")) as begun:
        assert set(before) == set(begun)
        for name in before:
            np.testing.assert_array_equal(begun.read(name), before.read(name))
    assert str(driver.run(str(tmp_path))) == "limit of 3 rounds reached"
    with formats.open(str(tmp_path / "old")) as trained, formats.open(str(tmp_path / "new")) as other:
        assert (int(trained.read("global_step")), int(other.read("global_step"))) == (203, 3)
        for k in range(4):
            matrix = trained.read(f"dnn/layer{k}/Linear/Matrix")
            np.testing.assert_array_equal(matrix, other.read(f"dnn/layer{k}/Linear/Matrix"))
        with formats.open(str(old)) as before:
            for name in before:
                if name.endswith("/Adagrad"):
                    assert (trained.read(name) >= before.read(name)).all()
            assert (trained.read(f"{HEAD}/bias/Adagrad") > before.read(f"{HEAD}/bias/Adagrad")).all()
