"""The estimators, on real TensorFlow: skflow's names and habits, scikit-learn's conventions, exact arithmetic."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

from ckptsurgeon import formats, skflow
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.formats import state

pytestmark = pytest.mark.tensorflow

IRIS = load_iris()
X, Y = IRIS.data, IRIS.target
SAMPLES = os.path.join(os.path.dirname(__file__), "..", "..", "shared", "samples", "skflow-2016")

Values = dict[str, Any]


def classifier(**params: Any) -> Any:
    return skflow.TensorFlowDNNClassifier(**{"hidden_units": [10, 5, 4], "n_classes": 3, "verbose": 0, **params})


def regressor(**params: Any) -> Any:
    return skflow.TensorFlowDNNRegressor(**{"hidden_units": [8], "verbose": 0, "learning_rate": 0.01, **params})


@pytest.fixture(scope="module")
def fitted() -> Any:
    """One fitted classifier, which no test changes."""
    return classifier(optimizer="Adagrad").fit(X, Y)


def parameters(estimator: Any) -> bytes:
    return b"".join(array.tobytes() for array in [*estimator.weights_, *estimator.bias_])


def forward(estimator: Any, rows: Any) -> Any:
    """Compute the network's output before the softmax, in NumPy and float64."""
    *hidden, head = zip(estimator.weights_, estimator.bias_, strict=True)
    for weights, biases in hidden:
        rows = np.maximum(rows @ weights + biases, 0)
    return rows @ head[0] + head[1]


# -- training


def test_the_snippet_of_2016_runs_as_written() -> None:
    """The question that this project answers sets one bias of a trained classifier; its code runs unchanged."""
    iris = IRIS
    classifier = skflow.TensorFlowDNNClassifier(hidden_units=[10, 5, 4], n_classes=3, continue_training=True)
    classifier.fit(iris.data, iris.target)
    l1b = classifier.get_layer_biases(1)
    l1b[3] = 2
    classifier.set_layer_biases(1, l1b)
    assert classifier.get_layer_biases(1)[3] == 2
    assert classifier.get_tensor_value("dnn/layer1/Linear/Bias:0")[3] == 2


@pytest.mark.parametrize(
    ("optimizer", "learning_rate"), [("SGD", 0.1), ("Adagrad", 0.1), ("Adam", 0.01), ("Momentum", 0.01)]
)
def test_it_learns_iris(optimizer: str, learning_rate: float, capsys: pytest.CaptureFixture[str]) -> None:
    """After `fit` the loss has fallen by half and more than nine tenths of the flowers are told right."""
    model = classifier(hidden_units=[10, 20, 10], optimizer=optimizer, learning_rate=learning_rate, verbose=1)
    assert model.fit(X, Y) is model
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"Step #{1 + 20 * i}" for i in range(10)]
    losses = [float(line.split(": ")[1]) for line in lines]
    assert losses[-1] < losses[0] / 2
    assert model.score(X, Y) > 0.9


def test_fit_begins_anew_and_partial_fit_continues() -> None:
    """`fit` forgets, `fit` with continue_training goes on, and `partial_fit` always goes on."""
    model = classifier(steps=3).fit(X, Y)
    once = parameters(model)
    assert parameters(model.fit(X, Y)) == once
    assert model.get_tensor_value("global_step") == 3
    twice = parameters(model.partial_fit(X, Y))
    assert twice != once
    assert model.get_tensor_value("global_step") == 6
    going_on = classifier(steps=3, continue_training=True).fit(X, Y)
    assert parameters(going_on) == once
    assert parameters(going_on.fit(X, Y)) == twice
    assert parameters(classifier(steps=3).partial_fit(X, Y)) == once


def test_the_order_of_the_data_is_that_of_skflow() -> None:
    """Consecutive slices of permutations by RandomState(42), the last one short, a new permutation each epoch."""
    from ckptsurgeon.skflow.minibatches import shuffled_batches

    random = np.random.RandomState(42)
    first, second = random.permutation(10), random.permutation(10)
    expected = [first[:4], first[4:8], first[8:], second[:4], second[4:8], second[8:]]
    for rows, wanted in zip(shuffled_batches(10, 4), expected, strict=False):
        np.testing.assert_array_equal(rows, wanted)


def step_in_numpy(values: Values, optimizer: str, rate: float, rows: Any, target: Any, clip: float = 5.0) -> Values:
    """Take one step in float64: backpropagation by hand, clipping, and the update rules of TensorFlow 1."""
    names = ["dnn/layer0/Linear/Matrix", "dnn/layer0/Linear/Bias", "logistic_regression/weights"]
    names.append("logistic_regression/bias")
    v = {name: value.astype(np.float64) for name, value in values.items()}
    before = rows @ v[names[0]] + v[names[1]]
    hidden = np.maximum(before, 0)
    logits = hidden @ v[names[2]] + v[names[3]]
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = (odds / odds.sum(axis=1, keepdims=True) - np.eye(3)[target]) / len(rows)
    back = (error @ v[names[2]].T) * (before > 0)
    gradients = [rows.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
    norm = math.sqrt(sum((g**2).sum() for g in gradients))
    for name, gradient in zip(names, gradients, strict=True):
        g = gradient * min(1.0, clip / norm)
        if optimizer == "SGD":
            v[name] -= rate * g
        elif optimizer == "Momentum":
            v[name + "/Momentum"] = 0.9 * v[name + "/Momentum"] + g
            v[name] -= rate * v[name + "/Momentum"]
        elif optimizer == "Adagrad":
            v[name + "/Adagrad"] += g**2
            v[name] -= rate * g / np.sqrt(v[name + "/Adagrad"])
        else:
            v[name + "/Adam"] = 0.9 * v[name + "/Adam"] + 0.1 * g
            v[name + "/Adam_1"] = 0.999 * v[name + "/Adam_1"] + 0.001 * g**2
            scaled = rate * math.sqrt(1 - v["beta2_power"]) / (1 - v["beta1_power"])
            v[name] -= scaled * v[name + "/Adam"] / (np.sqrt(v[name + "/Adam_1"]) + 1e-8)
    if optimizer == "Adam":
        v["beta1_power"], v["beta2_power"] = v["beta1_power"] * 0.9, v["beta2_power"] * 0.999
    return v


@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["unclipped", "clipped"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "Adam", "Momentum"])
def test_a_step_is_what_the_papers_say(optimizer: str, scale: float) -> None:
    """Three steps of each optimizer, with and without clipped gradients, equal the same computed by hand in NumPy."""
    model = classifier(hidden_units=[6], optimizer=optimizer, steps=1, batch_size=150, learning_rate=0.05)
    rows = (X * scale).astype(np.float32)
    model.fit(rows, Y)
    for _ in range(3):
        expected = step_in_numpy(model._net.values(), optimizer, 0.05, rows.astype(np.float64), Y)
        model.partial_fit(rows, Y)
        for name, value in model._net.values().items():
            if name != "global_step":
                np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_same_seed_gives_the_same_bytes_in_another_process_and_quietly() -> None:
    """A second process trains to the same weights bit for bit, and TensorFlow's start-up messages are not seen."""
    code = """
from hashlib import sha256
from ckptsurgeon import skflow
from sklearn.datasets import load_iris
X, y = load_iris(return_X_y=True)
for optimizer in "Adagrad", "Adam":
    model = skflow.TensorFlowDNNClassifier([10, 5, 4], 3, optimizer=optimizer, verbose=0).fit(X, y)
    print(sha256(b"".join(a.tobytes() for a in [*model.weights_, *model.bias_])).hexdigest())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    here = [sha256(parameters(classifier(optimizer=name).fit(X, Y))).hexdigest() for name in ("Adagrad", "Adam")]
    assert (done.stdout.split(), done.stderr, done.returncode) == (here, "", 0)
    assert parameters(classifier(tf_random_seed=43).fit(X, Y)) != parameters(classifier().fit(X, Y))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"learning_rate": 1e10}, r"the loss is (inf|nan) in step \d"),
        ({"learning_rate": 1e38, "steps": 1, "clip_gradients": 0}, "the weights are no longer finite"),
    ],
)
def test_a_training_that_diverges_ends_with_an_error(params: Values, message: str) -> None:
    """Neither a loss nor weights that are not finite pass for a trained model."""
    model = regressor(**params)
    with pytest.raises(skflow.EstimatorError, match=message):
        model.fit(X, X[:, 0] * 1e6)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_a_training_that_diverges_leaves_the_model_that_was_there() -> None:
    """With weights, slots and global step; it trains on as if nothing had been."""
    model, other = (classifier(optimizer="Adagrad", steps=20).fit(X, Y) for _ in range(2))
    with pytest.raises(skflow.EstimatorError, match="the loss is"):
        model.partial_fit(X * 1e30, Y)
    assert parameters(model) == parameters(other)
    assert parameters(model.partial_fit(X, Y)) == parameters(other.partial_fit(X, Y))


# -- prediction


@pytest.mark.parametrize("hidden_units", [[], [7], [10, 20, 10]])
def test_probabilities_equal_a_forward_pass_in_numpy(hidden_units: list[int]) -> None:
    """predict_proba is the softmax of the network as its weights_ and bias_ have it; predict takes the largest."""
    model = classifier(hidden_units=hidden_units, steps=20).fit(X, Y)
    odds = np.exp(forward(model, X))
    expected = odds / odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(X, batch_size=40), expected, atol=1e-5)
    assert (model.predict(X) == expected.argmax(axis=1)).mean() > 0.99  # ties may fall either way in float32


def test_a_regressor_predicts_one_value_or_several() -> None:
    """The target's shape comes back: [rows] for one value, even if it was given as a column, or [rows, outputs]."""
    model = regressor().fit(X[:, :3], X[:, 3])
    assert model.predict(X[:, :3]).shape == (150,)
    np.testing.assert_allclose(model.predict(X[:, :3]), forward(model, X[:, :3])[:, 0], atol=1e-5)
    assert model.score(X[:, :3], X[:, 3]) > 0.8
    assert regressor(steps=1).fit(X[:, :3], X[:, 3:]).predict(X[:, :3]).shape == (150,)
    both = regressor().fit(X[:, :2], X[:, 2:])
    assert both.predict(X[:, :2]).shape == (150, 2)
    assert both.score(X[:, :2], X[:, 2:]) > 0.5
    with pytest.raises(skflow.EstimatorError, match="y has a different shape than before"):
        both.partial_fit(X[:, :2], X[:, 2])
    assert not hasattr(model, "predict_proba")


@pytest.mark.parametrize(
    "use",
    [
        lambda model, _: model.predict(X),
        lambda model, _: model.predict_proba(X),
        lambda model, _: model.weights_,
        lambda model, _: model.bias_,
        lambda model, _: model.get_layer_params(0),
        lambda model, _: model.set_layer_params(0, (np.zeros((4, 10)), np.zeros(10))),
        lambda model, _: model.get_tensor_value("global_step"),
        lambda model, folder: model.save(folder),
    ],
)
def test_nothing_works_before_fit(use: Any, tmp_path: Any) -> None:
    """Whatever needs weights raises scikit-learn's NotFittedError before there are some, and writes nothing."""
    with pytest.raises(NotFittedError):
        use(classifier(), str(tmp_path))
    assert os.listdir(tmp_path) == []


# -- labels and parameters


def test_labels_of_any_kind_come_back() -> None:
    """Names are sorted into classes_; class numbers need not all be there; numbers from 1 are labels like others."""
    names = np.array(["setosa", "versicolor", "virginica"])[Y]
    model = classifier(hidden_units=[10, 20, 10]).fit(X, names)
    assert model.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert model.score(X, names) > 0.9
    assert classifier(steps=1).fit(X[:100], Y[:100]).classes_.tolist() == [0, 1, 2]
    assert classifier(steps=1).fit(X, Y + 1).classes_.tolist() == [1, 2, 3]
    by_name = classifier(steps=1).partial_fit(X[:50], names[:50], classes=np.unique(names))
    assert by_name.partial_fit(X[50:], names[50:]).get_tensor_value("global_step") == 2


@pytest.mark.parametrize(
    ("first", "then", "message"),
    [
        (
            np.array(["a", "b"]),
            None,
            "wrong number of labels; expected 3, found a, b; partial_fit",
        ),
        (
            np.array([1, 2, 3, 4]),
            None,
            "wrong number of labels; expected 3, found 1, 2, 3, 4",
        ),
        (np.array(["a", "b", "c"]), np.array(["a", "d", "a"]), "y has an unknown label; expected a, b, c, found d"),
        (np.array([0, 1, 2]), np.array(["0", "1", "2"]), "y has "),
        (np.array([0, 1, 2]), np.array([3, 1, 2]), "y has an unknown label; expected 0, 1, 2, found 3"),
    ],
)
def test_labels_that_do_not_fit_are_refused(first: Any, then: Any, message: str) -> None:
    """The message names the labels that are known and those that were found."""
    model = classifier(steps=1)
    if then is not None:
        model.fit(X[: len(first)], first)
    labels = first if then is None else then
    with pytest.raises(skflow.EstimatorError, match=message) as caught:
        model.partial_fit(X[: len(labels)], labels)
    assert "\n" not in str(caught.value)


def test_other_classes_than_those_of_the_model_are_refused(fitted: Any) -> None:
    """`classes` in a later call is a check, not a change."""
    with pytest.raises(skflow.EstimatorError, match="expected 0, 1, 2, found a, b, c"):
        fitted.partial_fit(X[:3], ["a", "b", "c"], classes=["a", "b", "c"])


@pytest.mark.parametrize(
    ("params", "name"),
    [
        ({"hidden_units": 10}, "hidden_units"),
        ({"hidden_units": [10, 0]}, "hidden_units"),
        ({"n_classes": 1}, "n_classes"),
        ({"n_classes": "3"}, "n_classes"),
        ({"batch_size": 0}, "batch_size"),
        ({"steps": 1.5}, "steps"),
        ({"optimizer": "Adadelta"}, "optimizer"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"clip_gradients": -1}, "clip_gradients"),
        ({"tf_random_seed": None}, "tf_random_seed"),
        ({"max_to_keep": -1}, "max_to_keep"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(params: Values, name: str) -> None:
    """`fit` names the parameter, what it must be and what it is, in one line, and builds nothing."""
    model = classifier(**params)
    with pytest.raises(skflow.EstimatorError, match=f"cannot use the parameter {name}; expected .*, found") as caught:
        model.fit(X, Y)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, CkptSurgeonError)
    assert not hasattr(model, "n_features_in_")


@pytest.mark.parametrize("rows", [X[:, :3], X[0], np.full_like(X, np.nan)])
def test_rows_that_do_not_fit_are_refused(rows: Any, fitted: Any) -> None:
    """Another number of features, no matrix, or NaN: a ValueError, as everywhere in scikit-learn."""
    with pytest.raises(ValueError, match=r"features|2D|NaN"):
        fitted.predict(rows)


def test_it_is_an_estimator_of_scikit_learn(fitted: Any) -> None:
    """get_params and clone give the parameters alone; copies and pickles predict the same and can be trained on."""
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    assert not hasattr(twin, "classes_")
    for other in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        np.testing.assert_array_equal(other.predict_proba(X), fitted.predict_proba(X))
        other.partial_fit(X, Y)
        assert parameters(other) != parameters(fitted)


def test_functions_serve_as_optimizer_and_learning_rate() -> None:
    """An optimizer of TensorFlow's own, and a rate that decays with the global step."""
    import tensorflow as tf

    def decaying(step: Any) -> Any:
        return tf.compat.v1.train.exponential_decay(0.1, step, 10, 0.5)

    model = classifier(optimizer=lambda rate: tf.compat.v1.train.MomentumOptimizer(rate, 0.9), learning_rate=decaying)
    assert model.fit(X, Y).score(X, Y) > 0.5
    assert "dnn/layer0/Linear/Matrix/Momentum" in model._net.variables
    assert "learning_rate" not in model._net.variables
    by_class = classifier(optimizer=tf.compat.v1.train.RMSPropOptimizer, learning_rate=1).fit(X, Y)
    assert by_class.get_tensor_value("learning_rate") == 1
    assert "dnn/layer0/Linear/Matrix/RMSProp" in by_class._net.variables


def test_any_model_function_makes_an_estimator(tmp_path: Any) -> None:
    """TensorFlowEstimator trains what model_fn builds, and restores it when it is given again."""

    def model_fn(rows: Any, target: Any) -> tuple[Any, Any]:
        return skflow.models.logistic_regression(skflow.models.dnn(rows, [6, 6]), target)

    model = skflow.TensorFlowEstimator(model_fn, n_classes=3, verbose=0).fit(X, Y)
    assert (model.predict(X) == Y).mean() > 0.9
    model.save(str(tmp_path))
    with pytest.raises(skflow.EstimatorError, match=r"model_fn was not saved; restore\(folder, model_fn="):
        skflow.TensorFlowEstimator.restore(str(tmp_path))
    again = skflow.TensorFlowEstimator.restore(str(tmp_path), model_fn=model_fn)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


# -- layers and tensors


def test_layers_are_read_as_copies_and_set_on_purpose() -> None:
    """What get_* returns may be changed freely; set_* makes it count, bit for bit, and the predictions follow."""
    model = classifier().fit(X, Y)
    before, predicted = parameters(model), model.predict_proba(X)
    assert model.num_hidden_layers == 3
    assert [w.shape for w in model.weights_] == [(4, 10), (10, 5), (5, 4), (4, 3)]
    assert [b.shape for b in model.bias_] == [(10,), (5,), (4,), (3,)]
    for array in [*model.weights_, *model.bias_, *model.get_layer_params(0), model.get_tensor_value("learning_rate")]:
        array += 1
    assert parameters(model) == before
    random = np.random.default_rng(0)
    weights, biases = random.normal(size=(10, 5)).astype(np.float32), random.normal(size=5).astype(np.float32)
    model.set_layer_params(1, (weights, biases))
    np.testing.assert_array_equal(model.get_layer_weights(1), weights)
    np.testing.assert_array_equal(model.get_layer_biases(1), biases)
    odds = np.exp(forward(model, X))
    np.testing.assert_allclose(model.predict_proba(X), odds / odds.sum(axis=1, keepdims=True), atol=1e-5)
    assert not np.allclose(model.predict_proba(X), predicted)
    model.set_layer_weights(1, weights.tolist())
    model.set_layer_biases(1, [1, 2, 3, 4, 5])
    assert model.get_layer_biases(1).tolist() == [1, 2, 3, 4, 5]


def test_layers_are_shared_between_trainings_and_after_restore(tmp_path: Any) -> None:
    """The ring by hand: train one, hand its layers on, train the next; the other layers and the slots stay."""
    one, two = classifier(optimizer="Adagrad", steps=5), classifier(optimizer="Adagrad", steps=5, tf_random_seed=7)
    one.fit(X, Y)
    two.fit(X, Y)
    head = two.weights_[-1]
    slot = two.get_tensor_value("dnn/layer0/Linear/Matrix/Adagrad")
    for layer in range(2):
        two.set_layer_params(layer, one.get_layer_params(layer))
    np.testing.assert_array_equal(two.weights_[0], one.weights_[0])
    np.testing.assert_array_equal(two.weights_[-1], head)
    np.testing.assert_array_equal(two.get_tensor_value("dnn/layer0/Linear/Matrix/Adagrad"), slot)
    two.save(str(tmp_path))
    again = skflow.TensorFlowDNNClassifier.restore(str(tmp_path))
    again.set_layer_params(2, one.get_layer_params(2))
    two.set_layer_params(2, one.get_layer_params(2))
    assert parameters(again.partial_fit(X, Y)) == parameters(two.partial_fit(X, Y))


def test_the_names_of_the_patch_of_2016_work_as_keywords(fitted: Any) -> None:
    """Layers are read and set by the patch's keywords; parameters are a list; create_updaters warns that it is idle."""
    model = copy.deepcopy(fitted)
    assert model.extract_num_hidden_layers() == 3
    params = model.get_layer_params(layer_num=1)
    assert isinstance(params, list)
    params[0] += 1
    params[1] += 2
    with pytest.warns(UserWarning, match="create_updaters\\(\\) does nothing"):
        model.create_updaters()
    model.set_layer_params(layer_num=1, params_values=params)
    np.testing.assert_array_equal(model.get_layer_weights(layer_num=1), fitted.get_layer_weights(1) + 1)
    np.testing.assert_array_equal(model.get_layer_biases(layer_num=1), fitted.get_layer_biases(1) + 2)
    model.set_layer_weights(layer_num=1, weights_values=fitted.get_layer_weights(1))
    model.set_layer_biases(layer_num=1, biases_values=fitted.get_layer_biases(1))
    assert parameters(model) == parameters(fitted)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda m: m.get_layer_weights(3), "there is no such hidden layer; expected 0 to 2, found 3"),
        (lambda m: m.get_layer_biases(-1), "there is no such hidden layer; expected 0 to 2, found -1"),
        (lambda m: m.get_layer_params("1"), "there is no such hidden layer; expected 0 to 2, found '1'"),
        (
            lambda m: m.set_layer_weights(0, np.zeros((10, 4))),
            r"dnn/layer0/Linear/Matrix cannot be set; expected \[4, 10\], found \[10, 4\]",
        ),
        (
            lambda m: m.set_layer_biases(1, np.zeros((1, 5))),
            r"dnn/layer1/Linear/Bias cannot be set; expected \[5\], found \[1, 5\]",
        ),
        (lambda m: m.set_layer_biases(1, ["a"] * 5), r"Bias cannot be set; expected \[5\], found \[5\] of <U1"),
        (lambda m: m.set_layer_biases(1, [[1], [1, 2]]), r"Bias cannot be set; expected \[5\], found rows"),
        (
            lambda m: m.set_layer_params(0, (np.zeros((4, 10)), np.zeros(9))),
            r"dnn/layer0/Linear/Bias cannot be set; expected \[10\], found \[9\]",
        ),
        (lambda m: m.set_layer_params(0, np.zeros(10)), "layer 0 cannot be set; expected a pair"),
        (lambda m: m.get_tensor_value("dnn/layer0/Linear/Matrx:0"), "did you mean dnn/layer0/Linear/Matrix"),
        (lambda m: m.get_tensor_value("output"), "the tensor 'output' has no value without X and y"),
    ],
)
def test_wrong_layers_and_shapes_are_refused_in_one_line(use: Any, message: str, fitted: Any) -> None:
    """The message says what was expected and what was found, and nothing has changed."""
    before = parameters(fitted)
    with pytest.raises(skflow.EstimatorError, match=message) as caught:
        use(fitted)
    assert "\n" not in str(caught.value)
    assert parameters(fitted) == before


# -- save and restore


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "Adam"])
def test_tensorflow_reads_what_is_saved(optimizer: str, tmp_path: Any) -> None:
    """tf.train.load_checkpoint finds the folder's latest checkpoint under skflow's names, value by value."""
    import tensorflow as tf

    model = classifier(optimizer=optimizer, hidden_units=[6, 5], steps=3).fit(X, Y)
    model.save(str(tmp_path))
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "model-3")
    reader = tf.train.load_checkpoint(str(tmp_path))
    weights = [f"dnn/layer{k}/Linear/{name}" for k in range(2) for name in ("Matrix", "Bias")]
    weights += ["logistic_regression/weights", "logistic_regression/bias"]
    slots = {"SGD": [], "Adagrad": ["Adagrad"], "Adam": ["Adam", "Adam_1"]}[optimizer]
    names = [*weights, *(f"{name}/{slot}" for name in weights for slot in slots), "global_step", "learning_rate"]
    names += ["beta1_power", "beta2_power"] * (optimizer == "Adam")
    assert sorted(reader.get_variable_to_shape_map()) == sorted(names)
    assert reader.get_variable_to_dtype_map()["global_step"] == tf.int32
    assert reader.get_tensor("global_step") == 3
    assert reader.get_tensor("learning_rate") == np.float32(0.1)
    for name in names:
        value = model.get_tensor_value(f"{name}:0")
        assert reader.get_tensor(name).dtype == value.dtype
        np.testing.assert_array_equal(reader.get_tensor(name), value)


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "Adam"])
def test_restore_gives_back_the_model_wherever_its_folder_lies(optimizer: str, tmp_path: Any) -> None:
    """Class, parameters, labels and weights come back after a move, and training goes on bit for bit as it would."""
    names = np.array(["a", "b", "c"])[Y]
    model = classifier(optimizer=optimizer, steps=7).fit(X, names)
    model.save(str(tmp_path / "here"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    again = skflow.TensorFlowEstimator.restore(str(tmp_path / "there"))
    assert type(again) is skflow.TensorFlowDNNClassifier
    assert again.get_params() == model.get_params()
    assert again.n_features_in_ == 4
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    assert parameters(again.partial_fit(X, names)) == parameters(model.partial_fit(X, names))


def test_a_regressor_comes_back_too(tmp_path: Any) -> None:
    """The shape of its predictions is part of what is restored."""
    for name, target in (("one", X[:, 3]), ("two", X[:, 2:])):
        model = regressor(steps=5).fit(X[:, :2], target)
        model.save(str(tmp_path / name))
        again = skflow.TensorFlowDNNRegressor.restore(str(tmp_path / name), steps=9)
        assert again.steps == 9
        np.testing.assert_array_equal(again.predict(X[:, :2]), model.predict(X[:, :2]))


def test_a_folder_keeps_the_last_checkpoints(tmp_path: Any) -> None:
    """max_to_keep bounds the folder, older ones go, those of others stay, and the state file lists what is there."""
    formats.write(str(tmp_path / "other"), {"a": np.zeros(1)})
    state.write(str(tmp_path), str(tmp_path / "other"), [str(tmp_path / "other")])
    model = classifier(hidden_units=[2], steps=1, max_to_keep=2).fit(X, Y)
    for _ in range(4):
        model.partial_fit(X, Y)
        model.save(str(tmp_path))
    model.save(str(tmp_path))
    index_files = sorted(name for name in os.listdir(tmp_path) if name.endswith(".index"))
    assert index_files == ["model-4.index", "model-5.index", "other.index"]
    kept = state.read(str(tmp_path))
    assert kept is not None
    assert [os.path.basename(path) for path in kept.all] == ["model-4", "model-5"]
    assert model.set_params(max_to_keep=None).partial_fit(X, Y).save(str(tmp_path)) is None
    assert os.path.exists(tmp_path / "model-4.index")


def test_a_model_definition_of_2016_is_understood(tmp_path: Any) -> None:
    """What skflow itself wrote has no labels and shapes in model.def: they come from the checkpoint's variables."""
    model = classifier(optimizer="Adagrad", steps=5).fit(X, Y)
    model.save(str(tmp_path))
    definition = {
        "continue_training": False, "class_name": "TensorFlowDNNClassifier", "learning_rate": 0.1,
        "clip_gradients": 5.0, "steps": 200, "verbose": 0, "optimizer": "Adagrad",
        "hidden_units": [10, 5, 4], "batch_size": 32,
        "n_classes": 3, "tf_master": "", "keep_checkpoint_every_n_hours": 10000,
    }  # fmt: skip
    (tmp_path / "model.def").write_text(json.dumps(definition))
    again = skflow.TensorFlowDNNClassifier.restore(str(tmp_path))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.skipif(not os.path.isdir(SAMPLES), reason="the samples are not there")
@pytest.mark.filterwarnings("ignore:.*not used by the model")
def test_a_folder_of_2016_is_restored() -> None:
    """Its model.def is read, and its weights are those of its checkpoint, which is of TensorFlow's first format."""
    folder = os.path.join(SAMPLES, "time16")
    model = skflow.TensorFlowDNNClassifier.restore(folder)
    with formats.open(folder) as checkpoint:
        for layer in (0, 13):
            expected = checkpoint.read(f"dnn/layer{layer}/Linear/Matrix")
            np.testing.assert_array_equal(model.get_layer_weights(layer), expected)


def edit(folder: Any, **changes: Any) -> None:
    definition = json.loads((folder / "model.def").read_text())
    definition.update(changes)
    (folder / "model.def").write_text(json.dumps(definition))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "there is no model.def"),
        (lambda f: (f / "model.def").unlink(), "there is no model.def"),
        (lambda f: (f / "model.def").write_text("{"), "model.def: is not JSON"),
        (lambda f: (f / "model.def").write_text("[" * 100_000), "model.def: is not JSON"),
        (lambda f: (f / "model.def").write_text("[]"), "model.def: is not a JSON object"),
        (lambda f: edit(f, class_name="Nonsense"), "contains a model of a different class"),
        (lambda f: edit(f, class_name="TensorFlowDNNRegressor"), "contains a model of a different class"),
        (lambda f: edit(f, units=[3]), "has no parameter units"),
        (lambda f: edit(f, steps="many"), "cannot use the parameter steps"),
        (lambda f: edit(f, learning_rate=10**400), "cannot use the parameter learning_rate"),
        (lambda f: edit(f, fitted={"features": "x"}), "model.def is damaged"),
        (lambda f: edit(f, fitted={"features": 4, "target": [3], "classes": [0, 1]}), "model.def is damaged"),
        (lambda f: edit(f, hidden_units=[200_000] * 3), r"expected float32 \[4, 200000\], found float32 \[4, 10\]"),
        (lambda f: edit(f, hidden_units=[10, 5, 4, 4]), "variables are missing: dnn/layer3/Linear/Matrix"),
        (lambda f: (f / "checkpoint").unlink(), "there is no checkpoint state file"),
        (lambda f: (f / "checkpoint").write_text("?"), "not a checkpoint state file"),
        (lambda f: (f / "model-1.index").unlink(), "model-1"),
        (lambda f: os.truncate(f / "model-1.index", 100), "model-1"),
        (lambda f: os.truncate(f / "model-1.data-00000-of-00001", 100), "model-1"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(damage: Any, message: str, tmp_path: Any) -> None:
    """Whatever is missing or wrong, the error is a ValueError of ours; sizes in model.def take no memory."""
    folder = tmp_path / "model"
    classifier(steps=1).fit(X, Y).save(str(folder))
    damage(folder)
    with pytest.raises(skflow.EstimatorError, match=message) as caught:
        skflow.TensorFlowDNNClassifier.restore(str(folder))
    assert "\n" not in str(caught.value)


def test_missing_slots_begin_anew_and_strange_variables_are_named(tmp_path: Any) -> None:
    """After surgery a model can be restored without its optimizer's memory; what is not used is not silently so."""
    model = classifier(optimizer="Adagrad", steps=1).fit(X, Y)
    model.save(str(tmp_path))
    with formats.open(str(tmp_path)) as checkpoint:
        values = {name: checkpoint.read(name) for name in checkpoint if not name.endswith("/Adagrad")}
    formats.write(str(tmp_path / "model-1"), {**values, "extra": np.zeros(2, np.float32)})
    with (
        pytest.warns(UserWarning, match="missing, and therefore initialized: dnn/layer0/Linear/Matrix/Adagrad"),
        pytest.warns(UserWarning, match="not used by the model: extra$"),
    ):
        again = skflow.TensorFlowDNNClassifier.restore(str(tmp_path))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert (again.get_tensor_value("dnn/layer0/Linear/Bias/Adagrad") == np.float32(0.1)).all()


def test_saving_into_a_place_that_is_no_folder_is_refused(fitted: Any, tmp_path: Any) -> None:
    """A file in the way is named, and stays."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CkptSurgeonError, match="file exists"):
        fitted.save(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
