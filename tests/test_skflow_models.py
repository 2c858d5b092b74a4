"""Models of one's own and skflow's: what they compute, which variables they make, what is grafted into them."""

from __future__ import annotations

import copy
import importlib
import math
import pickle
from typing import Any

import h5py
import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError

import ckptsurgeon
from ckptsurgeon import formats, skflow
from ckptsurgeon.errors import CkptSurgeonError

pytestmark = pytest.mark.tensorflow

IRIS = load_iris()
X, Y = IRIS.data, IRIS.target
QUIET: dict[str, Any] = {"verbose": 0, "steps": 20}


def classifier(hidden_units: Any = (10, 5, 4), **params: Any) -> Any:
    return skflow.TensorFlowDNNClassifier(**{"hidden_units": list(hidden_units), "n_classes": 3, **QUIET, **params})


def softmax(logits: Any) -> Any:
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def forward(model: Any, rows: Any) -> Any:
    """The output before the softmax, in NumPy and float64."""
    *hidden, head = zip(model.weights_, model.bias_, strict=True)
    for weights, biases in hidden:
        rows = np.maximum(rows @ weights + biases, 0)
    return rows @ head[0] + head[1]


@pytest.fixture(scope="module")
def donor() -> Any:
    """A fitted classifier of three hidden layers, which no test changes."""
    return classifier(optimizer="Adagrad", tf_random_seed=7).fit(X, Y)


# -- model functions


@pytest.mark.parametrize("module", ["tensorflow", "tensorflow.compat.v1"])
def test_weights_of_one_model_begin_the_next(module: str, donor: Any, tmp_path: Any) -> None:
    """tf.Variable(weights) in a model function is a variable with that value: trained, read, saved and restored."""
    tf = importlib.import_module(module)
    weights_0, biases_0 = donor.get_layer_params(0)
    weights_1 = donor.get_tensor_value("dnn/layer1/Linear/Matrix:0")
    biases_1 = donor.get_tensor_value("dnn/layer1/Linear/Bias:0")

    def my_model(X: Any, y: Any) -> Any:
        layer = tf.nn.relu(tf.matmul(X, tf.Variable(weights_0)) + tf.Variable(biases_0))
        layer = tf.nn.relu(tf.matmul(layer, tf.Variable(weights_1)) + tf.Variable(biases_1, name="biases_1"))
        return skflow.models.logistic_regression(layer, y)

    model = skflow.TensorFlowEstimator(model_fn=my_model, n_classes=3, optimizer="SGD", **QUIET)
    model.set_params(steps=1, learning_rate=1e-9).fit(X, Y)
    names = ["Variable", "Variable_1", "Variable_2", "biases_1"]
    for name, value in zip(names, (weights_0, biases_0, weights_1, biases_1), strict=True):
        np.testing.assert_allclose(model.get_tensor_value(name), value, rtol=1e-5)
    model.set_params(steps=500, learning_rate=0.03).fit(X, Y)
    for name, value in zip(names, (weights_0, biases_0, weights_1, biases_1), strict=True):
        assert not np.allclose(model.get_tensor_value(name), value), name
    assert model.score(X, Y) > 0.9
    model.save(str(tmp_path))
    with formats.open(str(tmp_path)) as saved:
        assert {"Variable", "Variable_1", "Variable_2", "biases_1", "logistic_regression/weights"} <= set(saved)
    again = skflow.TensorFlowEstimator.restore(str(tmp_path), model_fn=my_model)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_a_model_function_may_use_what_2016_used() -> None:
    """get_variable in scopes, variables that are not trained, the global step, xw_plus_b, and regression."""
    import tensorflow as tf

    v1 = tf.compat.v1

    def my_model(X: Any, y: Any) -> Any:
        assert v1.train.get_global_step() is not None
        with v1.variable_scope("mine"):
            weights = v1.get_variable("weights", [3, 1], initializer=v1.zeros_initializer())
            fixed = tf.Variable(np.full(1, 0.5, np.float32), trainable=False, name="fixed")
        predictions = v1.nn.xw_plus_b(X, weights, fixed)
        return predictions, tf.reduce_mean(tf.square(predictions[:, 0] - y))

    model = skflow.TensorFlowEstimator(my_model, n_classes=0, learning_rate=0.01, **QUIET).fit(X[:, :3], X[:, 3])
    assert model.get_tensor_value("mine/fixed").tolist() == [0.5]
    expected = X[:, :3] @ model.get_tensor_value("mine/weights")[:, 0] + 0.5
    np.testing.assert_allclose(model.predict(X[:, :3]), expected, rtol=1e-5)
    assert model.score(X[:, :3], X[:, 3]) > 0.5


def test_skflows_own_pieces_make_the_model_of_the_dnn_classifier() -> None:
    """ops.dnn with a head, get_dnn_model and TensorFlowDNNClassifier are one model, bit for bit; it can be pickled."""

    def by_hand(rows: Any, target: Any) -> Any:
        return skflow.models.logistic_regression(skflow.ops.dnn(rows, [6, 4]), target)

    ready = skflow.models.get_dnn_model([6, 4], skflow.models.logistic_regression)
    expected = classifier([6, 4]).fit(X, Y).predict_proba(X)
    for model_fn in (by_hand, ready, skflow.models.DnnModel((6, 4), skflow.models.logistic_regression)):
        model = skflow.TensorFlowEstimator(model_fn, n_classes=3, **QUIET).fit(X, Y)
        np.testing.assert_array_equal(model.predict_proba(X), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rows, target: rows, r"model_fn returned an unexpected value; expected \(predictions, loss\)"),
        (lambda rows, target: (rows, rows), r"the loss of model_fn is not a scalar; expected \[\]"),
        (
            lambda rows, target: (rows, importlib.import_module("tensorflow").reduce_mean(rows)),
            "the loss of model_fn does not depend on any variable; create one with tf.Variable",
        ),
        (None, r"there is no model_fn; pass one: restore\(folder, model_fn=...\)"),
    ],
)
def test_a_model_function_that_makes_no_sense_is_refused(make: Any, message: str) -> None:
    """One line that says what was expected; the estimator stays unfitted."""
    model = skflow.TensorFlowEstimator(make, n_classes=3, **QUIET)
    with pytest.raises(skflow.EstimatorError, match=message) as caught:
        model.fit(X, Y)
    assert "\n" not in str(caught.value)
    with pytest.raises(NotFittedError):
        model.predict(X)


def test_estimators_of_one_shape_share_a_graph_and_nothing_else() -> None:
    """Equal models train apart: what one learns or is set to, the other does not see."""
    one, two = classifier(steps=5).fit(X, Y), classifier(steps=5).fit(X, Y)
    before = two.predict_proba(X)
    assert one._net.graph is two._net.graph
    one.partial_fit(X, Y).set_layer_biases(0, np.ones(10))
    np.testing.assert_array_equal(two.predict_proba(X), before)
    np.testing.assert_array_equal(classifier(steps=5).fit(X, Y).predict_proba(X), before)
    assert classifier(steps=5, tf_random_seed=1).fit(X, Y)._net.graph is not one._net.graph


# -- class weights and dropout


def test_a_list_of_class_weights_multiplies_the_logits() -> None:
    """As in skflow: where it predicts and where it is trained."""
    factors = [0.1, 0.8, 0.5]
    model = skflow.TensorFlowLinearClassifier(3, class_weight=factors, **QUIET).fit(X, Y)
    logits = (X @ model.weights_ + model.bias_) * factors
    np.testing.assert_allclose(model.predict_proba(X), softmax(logits), atol=1e-5)
    loss = model.get_tensor_value(model._net.loss.name, X, Y)
    assert loss == pytest.approx(-np.log(softmax(logits)[np.arange(150), Y]).mean(), rel=1e-4)
    assert model.get_tensor_value("class_weight:0").tolist() == pytest.approx(factors)


def test_a_dict_of_class_weights_multiplies_the_loss_of_rows(tmp_path: Any) -> None:
    """As in scikit-learn, by labels of any kind, also after a restore; predictions are the plain softmax."""
    names = IRIS.target_names[Y]
    weights = {"setosa": 1.0, "virginica": 4.0}
    model = classifier(class_weight=weights).fit(X, names)
    model.save(str(tmp_path))
    for each in (model, skflow.TensorFlowDNNClassifier.restore(str(tmp_path)), copy.deepcopy(model)):
        odds = softmax(forward(each, X))
        np.testing.assert_allclose(each.predict_proba(X), odds, atol=1e-5)
        losses = -np.log(odds[np.arange(150), Y]) * np.array([1, 1, 4])[Y] / 2
        assert each.get_tensor_value(each._net.loss.name, X, names) == pytest.approx(losses.mean(), rel=1e-4)
    numbers = classifier(class_weight={0: 1, 1: 1, 2: 0}, optimizer="Adagrad", steps=200).fit(X, Y)
    assert set(numbers.predict(X)) == {0, 1}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, 2], "class_weight has the wrong length; expected 3, found 2"),
        ({0: 1, 7: 2}, "class_weight has unknown labels; expected 0, 1, 2, found 7"),
        ({0: 0, 1: 0, 2: 0}, "every class_weight is 0"),
        ("balanced", "cannot use the parameter class_weight; expected a list of numbers"),
        ({0: -1}, "cannot use the parameter class_weight"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(weights: Any, message: str) -> None:
    """The message names what was expected and what was found."""
    with pytest.raises(skflow.EstimatorError, match=message):
        classifier(class_weight=weights).fit(X, Y)


def test_dropout_acts_in_training_alone() -> None:
    """`dnn/layerK/prob` holds the share that is kept and is not trained; predictions are those of the whole network."""
    model = classifier([8, 6], dropout=0.25).fit(X, Y)
    for layer in range(2):
        assert model.get_tensor_value(f"dnn/layer{layer}/prob:0") == np.float32(0.75)
        assert f"dnn/layer{layer}/prob" not in model._net.trainable
    np.testing.assert_allclose(model.predict_proba(X), softmax(forward(model, X)), atol=1e-5)
    assert model.num_hidden_layers == 2
    same, other, none = (classifier([8, 6], **params).fit(X, Y) for params in
                         ({"dropout": 0.25}, {"dropout": 0.25, "tf_random_seed": 1}, {}))  # fmt: skip
    np.testing.assert_array_equal(same.weights_[0], model.weights_[0])
    assert (other.weights_[0] != model.weights_[0]).any()
    assert (none.weights_[0] != model.weights_[0]).any()


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    """Of many ones, the share that was asked for is 0 and the others are 1 / share, and each step drops others."""
    import tensorflow as tf

    def my_model(rows: Any, target: Any) -> Any:
        dropped = tf.identity(skflow.ops.dropout(rows, 0.8), "dropped")
        return skflow.models.linear_regression(dropped, target)

    ones, target = np.ones((50, 200)), np.zeros(50)
    model = skflow.TensorFlowEstimator(my_model, 0, verbose=0, steps=1, learning_rate=1e-6).fit(ones, target)
    net = model._net
    first = net.session.run("dropped:0", {net.X: ones})
    assert set(np.unique(first)) == {0.0, np.float32(1.25)}
    assert (first == 0).mean() == pytest.approx(0.2, abs=0.02)
    model.partial_fit(ones, target)
    assert (net.session.run("dropped:0", {net.X: ones}) != first).any()
    assert (model.get_tensor_value("dropped", ones) == 1).all()


def test_a_model_with_dropout_goes_on_after_a_restore_as_it_would_have(tmp_path: Any) -> None:
    """What is dropped follows from the seed and the step, so a saved, a pickled and the living model stay equal."""
    model = classifier(dropout=0.5, steps=7).fit(X, Y)
    model.save(str(tmp_path))
    others = [skflow.TensorFlowDNNClassifier.restore(str(tmp_path)), pickle.loads(pickle.dumps(model))]
    expected = model.partial_fit(X, Y).predict_proba(X)
    for other in others:
        np.testing.assert_array_equal(other.partial_fit(X, Y).predict_proba(X), expected)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan, "half"])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    """Dropout takes numbers from 0 up to but not including 1."""
    with pytest.raises(skflow.EstimatorError, match="cannot use the parameter dropout; expected a number from 0"):
        classifier(dropout=share).fit(X, Y)


def test_linear_models_are_the_softmax_and_the_line() -> None:
    """weights_ and bias_ are the head's arrays, and skflow's older names are the same classes."""
    line = skflow.TensorFlowLinearRegressor(learning_rate=0.01, **QUIET).fit(X[:, :3], X[:, 3])
    assert (line.weights_.shape, line.bias_.shape) == ((3, 1), (1,))
    np.testing.assert_allclose(line.predict(X[:, :3]), (X[:, :3] @ line.weights_ + line.bias_)[:, 0], rtol=1e-5)
    soft = skflow.TensorFlowLinearClassifier(3, **QUIET).fit(X, Y)
    np.testing.assert_allclose(soft.predict_proba(X), softmax(X @ soft.weights_ + soft.bias_), atol=1e-5)
    assert skflow.TensorFlowClassifier is skflow.TensorFlowLinearClassifier
    assert skflow.TensorFlowRegressor is skflow.TensorFlowLinearRegressor
    with pytest.raises(NotFittedError):
        _ = skflow.TensorFlowRegressor().weights_


# -- tensors


def test_any_tensor_has_a_value_for_rows(donor: Any) -> None:
    """Activations, predictions and the loss of the rows that are given; variables need none."""
    hidden = np.maximum(X @ donor.weights_[0] + donor.bias_[0], 0)
    np.testing.assert_allclose(donor.get_tensor_value("dnn/layer0/Relu", X), hidden, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        donor.get_tensor_value(donor._net.predictions.name, X[:40]), donor.predict_proba(X[:40])
    )
    loss = -np.log(softmax(forward(donor, X))[np.arange(150), Y]).mean()
    assert donor.get_tensor_value(donor._net.loss.name, X, Y) == pytest.approx(loss, rel=1e-4)
    assert donor.get_tensor("dnn/layer0/Relu:0").shape.as_list() == [None, 10]
    with pytest.raises(skflow.EstimatorError, match=r"'dnn/layer0/Relu' has no value without X and y"):
        donor.get_tensor_value("dnn/layer0/Relu")
    with pytest.raises(skflow.EstimatorError, match=r"has no value without y"):
        donor.get_tensor_value(donor._net.loss.name, X)
    with pytest.raises(ValueError, match="features"):
        donor.get_tensor_value("dnn/layer0/Relu", X[:, :2])


# -- grafts


def test_layers_are_grafted_from_an_estimator(donor: Any) -> None:
    """The layers that were named become the donor's, all else stays, slots too, and the training goes on."""
    model = classifier(optimizer="Adagrad").fit(X, Y)
    before = model._net.values()
    report = model.graft_from(donor, layers="0-1")
    assert {row["name"] for row in report.changed} == {
        f"dnn/layer{k}/Linear/{part}" for k in (0, 1) for part in ("Matrix", "Bias")
    }
    for name, value in model._net.values().items():
        grafted = name.startswith(("dnn/layer0", "dnn/layer1")) and "Adagrad" not in name
        np.testing.assert_array_equal(value, donor.get_tensor_value(name) if grafted else before[name], err_msg=name)
    model.partial_fit(X, Y).graft_from(donor, layers="2", slots="copy")
    slot = "dnn/layer2/Linear/Matrix/Adagrad"
    np.testing.assert_array_equal(model.get_tensor_value(slot), donor.get_tensor_value(slot))
    model.graft_from(donor, match=["**/Bias"], exclude=["dnn/layer0/**"], slots="fill=0.5")
    assert (model.get_tensor_value("dnn/layer1/Linear/Bias/Adagrad") == 0.5).all()
    model.graft_from(donor, maps=["dnn/layer2/Linear/Bias=dnn/layer2/Linear/Bias"])


@pytest.mark.parametrize("kind", ["folder", "v2", "v1", "safetensors", "npz", "h5"])
def test_layers_are_grafted_from_any_checkpoint(kind: str, donor: Any, tmp_path: Any) -> None:
    """The same values from every format, and the same as `graft` between the two on disk."""
    donor.save(str(tmp_path / "donor"))
    path = str(tmp_path / "donor")
    if kind != "folder":
        path = str(tmp_path / "donor" / "model-20")
    if kind == "h5":
        path = str(tmp_path / "d.h5")
        with h5py.File(path, "w") as file:
            for layer in range(3):
                for part, value in zip(("Matrix", "Bias"), donor.get_layer_params(layer), strict=True):
                    file[f"dnn/layer{layer}/Linear/{part}"] = value
    elif kind not in ("folder", "v2"):
        path = str(tmp_path / ("v1.ckpt" if kind == "v1" else f"d.{kind}"))
        ckptsurgeon.convert(str(tmp_path / "donor"), path, **({"to": "v1"} if kind == "v1" else {}))
    model = classifier(optimizer="Adagrad").fit(X, Y)
    model.save(str(tmp_path / "model"))
    ckptsurgeon.graft(str(tmp_path / "donor"), str(tmp_path / "model"), layers="0-1")
    model.graft_from(path, layers="0-1")
    restored = skflow.TensorFlowDNNClassifier.restore(str(tmp_path / "model"))
    for name, value in restored._net.values().items():
        np.testing.assert_array_equal(model.get_tensor_value(name), value, err_msg=name)


def test_grafts_that_do_not_fit_are_refused_and_change_nothing(donor: Any) -> None:
    """All problems at once, with expected and found, as the surgeon tells them of checkpoints."""
    model = classifier([10, 7]).fit(X, Y)
    before = model._net.values()
    with pytest.raises(CkptSurgeonError) as caught:
        model.graft_from(donor, layers="0-1")
    assert [line.split(";")[1] for line in caught.value.lines] == [
        " expected [5], found [7]",
        " expected [10, 5], found [10, 7]",
    ]
    for layers, match in (("5", "no layer 5"), ("0-x", "0-x"), (None, "nothing is selected")):
        with pytest.raises(CkptSurgeonError, match=match):
            model.graft_from(donor, layers=layers)
    with pytest.raises(CkptSurgeonError, match="a model needs its slots"):
        model.graft_from(donor, layers="0", slots="drop")
    with pytest.raises(CkptSurgeonError, match="no such checkpoint"):
        model.graft_from("/nowhere/model", layers="0")
    with pytest.raises(NotFittedError):
        model.graft_from(classifier(), layers="0")
    with pytest.raises(NotFittedError):
        classifier().graft_from(donor, layers="0")
    assert (
        model.graft_from(donor, layers="1", exclude=["**/Bias"], on_mismatch="skip").changed[0]["action"] == "skipped"
    )
    for name, value in model._net.values().items():
        np.testing.assert_array_equal(value, before[name])


def test_layers_of_a_model_of_ones_own_are_grafted_by_name(donor: Any) -> None:
    """A map says which of the donor's variables goes onto which variable."""

    def my_model(rows: Any, target: Any) -> Any:
        import tensorflow as tf

        first = tf.Variable(np.zeros((4, 10), np.float32), name="first")
        return skflow.models.logistic_regression(tf.matmul(rows, first), target)

    model = skflow.TensorFlowEstimator(my_model, n_classes=3, **QUIET).fit(X, Y)
    model.graft_from(donor, maps=["dnn/layer0/Linear/Matrix=first"])
    np.testing.assert_array_equal(model.get_tensor_value("first"), donor.weights_[0])
