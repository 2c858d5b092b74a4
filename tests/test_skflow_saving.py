"""What `save` writes and `restore` takes: all classes, functions that no file holds, old folders and hostile ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris

from ckptsurgeon import skflow
from ckptsurgeon.errors import StorageError
from ckptsurgeon.formats import state

pytestmark = pytest.mark.tensorflow

X, Y = load_iris(return_X_y=True)

Values = dict[str, Any]


def classifier(**params: Any) -> Any:
    given = {"hidden_units": [5, 4], "n_classes": 3, "verbose": 0, "steps": 2, **params}
    return skflow.TensorFlowDNNClassifier(**given)


@pytest.fixture(scope="module")
def fitted() -> Any:
    """One fitted classifier, which no test changes."""
    return classifier(optimizer="Adagrad").fit(X, Y)


@pytest.fixture
def folder(fitted: Any, tmp_path: Path) -> Path:
    """Return the folder of a saved classifier."""
    fitted.save(str(tmp_path / "model"))
    return tmp_path / "model"


def edit(folder: Path, **changes: Any) -> None:
    """Change entries of model.def; those that are None are taken out."""
    definition = {**json.loads((folder / "model.def").read_text()), **changes}
    kept = {name: value for name, value in definition.items() if value is not None}
    (folder / "model.def").write_text(json.dumps(kept))


# -- what is written


def test_a_folder_holds_what_skflow_wrote_and_may_lie_anywhere(folder: Path) -> None:
    """model.def, endpoints, a state file whose paths are relative, and a V2 checkpoint named after the step."""
    names = {"checkpoint", "endpoints", "model.def", "model-2.index", "model-2.data-00000-of-00001"}
    assert {path.name for path in folder.iterdir()} == names
    lines = ['model_checkpoint_path: "model-2"', 'all_model_checkpoint_paths: "model-2"']
    assert (folder / "checkpoint").read_text().splitlines() == lines
    definition = json.loads((folder / "model.def").read_text())
    assert definition["class_name"] == "TensorFlowDNNClassifier"
    assert (definition["hidden_units"], definition["optimizer"]) == ([5, 4], "Adagrad")


def test_a_ported_script_that_disables_the_behavior_of_tensorflow_2_restores(folder: Path, fitted: Any) -> None:
    """Shapes whose sizes are Dimension objects, as after tf.compat.v1.disable_v2_behavior(), match the saved ones."""
    import tensorflow as tf

    tf.compat.v1.disable_v2_tensorshape()  # the part of disable_v2_behavior() that matters, and can be undone
    try:
        model = skflow.TensorFlowEstimator.restore(str(folder))
        np.testing.assert_array_equal(model.predict(X), fitted.predict(X))
        model.set_layer_biases(0, model.get_layer_biases(0))
        assert len(model.graft_from(fitted, layers="0").changed) == 2
    finally:
        tf.compat.v1.enable_v2_tensorshape()


def test_the_endpoints_are_tensors_of_the_model(fitted: Any, folder: Path) -> None:
    """Input, output, predictions and loss: fed and fetched by these names, the graph computes what the model says."""
    names = (folder / "endpoints").read_text().split("\n")
    rows, target, predictions, loss = (fitted._net.graph.get_tensor_by_name(name) for name in names)
    odds = fitted.predict_proba(X)
    feed = {rows: X.astype(np.float32), target: np.eye(3)[Y]}
    found, mean = fitted._net.session.run([predictions, loss], feed)
    np.testing.assert_allclose(found, odds, atol=1e-6)
    np.testing.assert_allclose(mean, -np.log(odds[np.arange(len(Y)), Y]).mean(), rtol=1e-5)


@pytest.mark.parametrize(
    "labels",
    [
        np.array([7, 8, 9], np.int16),
        np.array([0.5, 1.0, 2.5]).round(),
        np.array(["a", "bc", "ü"]),
        np.array(["a", "bc", "ü"], object),
    ],
    ids=["int16", "float64", "text", "object"],
)
def test_labels_keep_their_kind(labels: Any, tmp_path: Path) -> None:
    """What a restored classifier predicts has the dtype of the labels that it was trained with."""
    labels = np.unique(labels) if labels.dtype.kind != "f" else np.array([1.0, 2.0, 4.0])
    model = classifier().fit(X, labels[Y])
    model.save(str(tmp_path))
    again = skflow.TensorFlowDNNClassifier.restore(str(tmp_path))
    assert again.classes_.dtype == model.classes_.dtype
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_names_of_features_come_back(tmp_path: Path) -> None:
    """A model that was trained with named columns knows them after `restore` too."""
    model = classifier().fit(X, Y)
    model.feature_names_in_ = np.array(list("abcd"), object)  # as a DataFrame would have set them
    model.save(str(tmp_path))
    again = skflow.TensorFlowDNNClassifier.restore(str(tmp_path))
    assert again.feature_names_in_.tolist() == list("abcd")
    assert again.feature_names_in_.dtype == object


@pytest.mark.parametrize(
    "params",
    [
        {"optimizer": "Momentum", "n_classes": None},
        {"optimizer": "Adam", "dropout": 0.5},
        {"clip_gradients": None, "max_to_keep": None, "learning_rate": 1},
        {"class_weight": [1.0, 2.0, 0.5]},
        {"class_weight": {0: 3.0, 2: 0.5}},
        {"class_weight": {np.int64(1): np.float32(3.0)}, "tf_random_seed": np.int64(7)},
    ],
    ids=["momentum", "dropout", "none", "logits", "rows", "numpy"],
)
def test_whatever_it_was_trained_with_it_goes_on_alike(params: Values, tmp_path: Path) -> None:
    """Parameters are what they were, labels as keys too; predictions and the next steps are those of the original."""
    model = classifier(**params).fit(X, Y)
    model.save(str(tmp_path))
    again = skflow.TensorFlowDNNClassifier.restore(str(tmp_path))
    assert again.get_params() == model.get_params()
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    model.partial_fit(X, Y)
    again.partial_fit(X, Y)
    for name, value in model._net.values().items():
        np.testing.assert_array_equal(again.get_tensor_value(name), value, err_msg=name)


def test_a_save_that_fails_leaves_the_model_that_was_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the state file names the new checkpoint, the old one is restored, whatever was written before."""
    model = skflow.TensorFlowDNNClassifier.restore(str(folder))
    odds = model.predict_proba(X)
    model.partial_fit(X, Y)

    def full(*_: object) -> None:
        raise StorageError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(state, "write", full)
        with pytest.raises(StorageError):
            model.save(str(folder))
    assert (folder / "model-4.index").exists()
    np.testing.assert_array_equal(skflow.TensorFlowEstimator.restore(str(folder)).predict_proba(X), odds)
    model.save(str(folder))
    assert skflow.TensorFlowEstimator.restore(str(folder)).get_tensor_value("global_step") == 4


# -- functions, which no file holds


def test_functions_must_be_given_again(tmp_path: Path) -> None:
    """An optimizer or a rate that was a function is asked for, never replaced by a default; then slots go on."""
    import tensorflow as tf

    def momentum(rate: Any) -> Any:
        return tf.compat.v1.train.MomentumOptimizer(rate, 0.5)

    def decaying(step: Any) -> Any:
        return tf.compat.v1.train.exponential_decay(0.1, step, 10, 0.5)

    model = classifier(optimizer=momentum, learning_rate=decaying).fit(X, Y)
    model.save(str(tmp_path))
    restore = skflow.TensorFlowDNNClassifier.restore
    with pytest.raises(skflow.EstimatorError, match=r"optimizer, learning_rate was not saved; restore\(folder, opt"):
        restore(str(tmp_path))
    with pytest.raises(skflow.EstimatorError, match="learning_rate was not saved"):
        restore(str(tmp_path), optimizer=momentum)
    again = restore(str(tmp_path), optimizer=momentum, learning_rate=decaying)
    model.partial_fit(X, Y)
    again.partial_fit(X, Y)
    for name, value in model._net.values().items():
        np.testing.assert_array_equal(again.get_tensor_value(name), value, err_msg=name)
    with pytest.warns(UserWarning, match="not used by the model: .*Momentum"):
        constant = restore(str(tmp_path), optimizer="SGD", learning_rate=0.25)
    assert constant.get_tensor_value("learning_rate") == 0.25


def test_a_learning_rate_that_is_given_counts(folder: Path) -> None:
    """The saved rate is used, unless `restore` is told another: then training uses that one."""
    kept = skflow.TensorFlowDNNClassifier.restore(str(folder))
    assert kept.get_tensor_value("learning_rate") == np.float32(0.1)
    other = skflow.TensorFlowDNNClassifier.restore(str(folder), learning_rate=0.5)
    assert other.get_tensor_value("learning_rate") == 0.5
    assert other.get_tensor_value("dnn/layer0/Linear/Matrix/Adagrad").tobytes() == (
        kept.get_tensor_value("dnn/layer0/Linear/Matrix/Adagrad").tobytes()
    )


def test_a_custom_model_comes_back_with_its_function(tmp_path: Path) -> None:
    """Weights, slots and step of a model_fn that names no variable are those that were saved; it trains on alike."""
    import tensorflow as tf

    first = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)

    def my_model(rows: Any, target: Any) -> Any:
        hidden = tf.nn.relu(rows @ tf.Variable(first) + tf.Variable(tf.zeros([6])))
        return skflow.models.logistic_regression(hidden, target)

    model = skflow.TensorFlowEstimator(model_fn=my_model, n_classes=3, optimizer="Adagrad", steps=3, verbose=0)
    model.fit(X, Y).save(str(tmp_path))
    again = skflow.TensorFlowEstimator.restore(str(tmp_path), model_fn=my_model)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    again.partial_fit(X, Y)
    model.partial_fit(X, Y)
    for name, value in model._net.values().items():
        np.testing.assert_array_equal(again.get_tensor_value(name), value, err_msg=name)
    with pytest.raises(skflow.EstimatorError, match=r"does not match the model|variables are missing"):
        skflow.TensorFlowEstimator.restore(str(tmp_path), model_fn=skflow.models.get_dnn_model([7], _head))


def _head(rows: Any, target: Any) -> Any:
    return skflow.models.logistic_regression(rows, target)


# -- classes


def test_a_class_of_ones_own_comes_back_as_itself(tmp_path: Path) -> None:
    """Whichever class is asked to restore it, as long as it derives from that one."""

    class Mine(skflow.TensorFlowDNNClassifier):
        """A class of a user's own."""

    Mine([3], 3, verbose=0, steps=1).fit(X, Y).save(str(tmp_path))
    for asked in (skflow.TensorFlowEstimator, skflow.TensorFlowDNNClassifier, Mine):
        assert type(asked.restore(str(tmp_path))) is Mine


@pytest.mark.parametrize(
    ("saved", "kind", "head", "outputs"),
    [
        ("TensorFlowLinearClassifier", "TensorFlowLinearClassifier", "logistic_regression", 3),
        ("TensorFlowClassifier", "TensorFlowLinearClassifier", "logistic_regression", 3),
        ("TensorFlowLinearRegressor", "TensorFlowLinearRegressor", "linear_regression", 1),
        ("TensorFlowRegressor", "TensorFlowLinearRegressor", "linear_regression", 2),
        ("TensorFlowDNNRegressor", "TensorFlowDNNRegressor", "linear_regression", 1),
        ("TensorFlowDNNClassifier", "TensorFlowDNNClassifier", "logistic_regression", 3),
    ],
)
def test_folders_as_skflow_saved_them(saved: str, kind: str, head: str, outputs: int, tmp_path: Path) -> None:
    """A V1 checkpoint of TensorFlow's own Saver and a model.def of 2016, by old and new names of the class."""
    import tensorflow as tf

    random = np.random.default_rng(1)
    hidden = [6, 5] if "DNN" in saved else []
    widths, values = [4, *hidden], {}
    for k, units in enumerate(hidden):
        values[f"dnn/layer{k}/Linear/Matrix"] = random.normal(size=(widths[k], units))
        values[f"dnn/layer{k}/Linear/Bias"] = random.normal(size=units)
    values[f"{head}/weights"] = random.normal(size=(widths[-1], outputs))
    values[f"{head}/bias"] = random.normal(size=outputs)
    values |= {f"{name}/Adagrad": np.abs(random.normal(size=value.shape)) for name, value in values.items()}
    values = {name: value.astype(np.float32) for name, value in values.items()}
    values |= {"learning_rate": np.float32(0.05), "global_step": np.int32(70)}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, value in values.items():
            tf.compat.v1.get_variable(name, initializer=value, use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(write_version=1)
        saver.save(session, str(tmp_path / "model"), global_step=70)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/somewhere/else/model-70"\n')
    definition = {
        "class_name": saved, "n_classes": outputs if head == "logistic_regression" else 0, "tf_master": "",
        "batch_size": 32, "steps": 200, "optimizer": "Adagrad", "learning_rate": 0.05, "tf_random_seed": 42,
        "continue_training": True, "verbose": 0, "max_to_keep": 5, "keep_checkpoint_every_n_hours": 10000,
    }  # fmt: skip
    definition |= {"hidden_units": hidden} if hidden else {}
    (tmp_path / "model.def").write_text(json.dumps(definition))
    model = skflow.TensorFlowEstimator.restore(str(tmp_path))
    assert type(model) is getattr(skflow, kind)
    layer = X.astype(np.float32).astype(np.float64)
    for k in range(len(hidden)):
        layer = layer @ values[f"dnn/layer{k}/Linear/Matrix"] + values[f"dnn/layer{k}/Linear/Bias"]
        layer = np.maximum(layer, 0)
    expected = layer @ values[f"{head}/weights"] + values[f"{head}/bias"]
    if head == "logistic_regression":
        odds = np.exp(expected - expected.max(axis=1, keepdims=True))
        np.testing.assert_allclose(model.predict_proba(X), odds / odds.sum(axis=1, keepdims=True), atol=1e-5)
    else:
        np.testing.assert_allclose(model.predict(X), expected[:, 0] if outputs == 1 else expected, rtol=1e-4, atol=1e-5)
    for name, value in values.items():
        np.testing.assert_array_equal(model.get_tensor_value(name), value, err_msg=name)
    model.save(str(tmp_path / "again"))
    np.testing.assert_array_equal(
        skflow.TensorFlowEstimator.restore(str(tmp_path / "again")).predict(X), model.predict(X)
    )


# -- what is refused


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "there is no model.def"),
        ("empty", "there is no model.def"),
    ],
)
def test_a_missing_folder_is_a_value_error(name: str, message: str, tmp_path: Path) -> None:
    """As in skflow: ValueError, whether the folder is missing or what is in it."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        skflow.TensorFlowEstimator.restore(str(tmp_path / name))


def test_a_missing_checkpoint_is_a_value_error(folder: Path) -> None:
    """The state file names one that is gone, or is gone itself."""
    for path in folder.glob("model-2.*"):
        path.unlink()
    with pytest.raises(ValueError, match="model-2"):
        skflow.TensorFlowEstimator.restore(str(folder))
    (folder / "checkpoint").unlink()
    with pytest.raises(ValueError, match="there is no checkpoint state file"):
        skflow.TensorFlowEstimator.restore(str(folder))


FITTED = {"features": 4, "target": [3], "classes": [0, 1, 2]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_name": ["TensorFlowDNNClassifier"]}, "contains a model of a different class"),
        ({"class_name": "EstimatorError"}, "contains a model of a different class"),
        ({"class_name": "__import__('os')" * 10_000}, "contains a model of a different class"),
        ({"class_name": None}, "contains a model of a different class"),
        ({"hidden_units": "9" * 100_000}, "cannot use the parameter hidden_units"),
        ({"hidden_units": [1] * 300_000}, "does not match the model"),
        ({"hidden_units": [5, 4, *[1] * 300_000]}, "variables are missing: dnn/layer2/Linear/Matrix$"),
        ({"hidden_units": [10**30, 4]}, "does not match the model"),
        ({"hidden_units": [5.0, 4]}, "cannot use the parameter hidden_units"),
        ({"hidden_units": {"5": 4}}, "cannot use the parameter hidden_units"),
        ({"n_classes": 10**12}, "is damaged: 1000000000000 classes, but 3 labels"),
        ({"n_classes": 2}, "is damaged: 2 classes, but 3 labels"),
        ({"batch_size": "32\n" * 1000}, "cannot use the parameter batch_size"),
        ({"optimizer": ["SGD"]}, "cannot use the parameter optimizer"),
        ({"class_weight": {"0": 2.0}}, "cannot use the parameter class_weight"),
        ({"class_weight": {"labels": [[0]], "weights": [1.0]}}, "is damaged: labels is not a list"),
        ({"class_weight": {"labels": [0], "weights": ["1" * 1000]}}, "cannot use the parameter class_weight"),
        ({"optimizer": None}, r"the parameter optimizer was not saved; restore\(folder, optimizer=...\) passes it"),
        ({f"p{number}\n": 1 for number in range(1000)}, "has no parameter p0 , p1 , p10 , p100 , p101 , …$"),
        ({"fitted": [4]}, "is damaged"),
        ({"fitted": {**FITTED, "features": 10**30}}, "is damaged"),
        ({"fitted": {**FITTED, "features": 0}}, "is damaged"),
        ({"fitted": {**FITTED, "features": 5}}, r"expected float32 \[5, 5\], found float32 \[4, 5\]"),
        ({"fitted": {**FITTED, "target": [3, 3]}}, "is damaged"),
        ({"fitted": {**FITTED, "target": "3"}}, "is damaged"),
        ({"fitted": {**FITTED, "classes": {"a": 1}}}, "is damaged"),
        ({"fitted": {**FITTED, "classes": [[0], [1], [2]]}}, "is damaged"),
        ({"fitted": {**FITTED, "classes": [0, 1, None]}}, "is damaged"),
        ({"fitted": {**FITTED, "classes": ["a", "b", "c"], "dtype": "<i8"}}, "is damaged"),
        ({"fitted": {**FITTED, "feature_names": ["a", "b", "c"]}}, "is damaged"),
        ({"fitted": {**FITTED, "feature_names": ["a", "b", "c", 4]}}, "is damaged"),
    ],
)
def test_a_hostile_definition_is_refused_in_one_short_line(changes: Values, message: str, folder: Path) -> None:
    """Wrong kinds, huge numbers and lists: a ValueError of ours, at once, that repeats little of them."""
    edit(folder, **changes)
    with pytest.raises(skflow.EstimatorError, match=message) as caught:
        skflow.TensorFlowDNNClassifier.restore(str(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(folder))


def test_a_definition_of_any_size_takes_no_memory(folder: Path) -> None:
    """It is not read to its end, and `save` would not write it."""
    os.truncate(folder / "model.def", 1 << 40)
    with pytest.raises(skflow.EstimatorError, match=r"model.def: is too large; expected at most"):
        skflow.TensorFlowDNNClassifier.restore(str(folder))


def test_a_state_file_cannot_lead_out_of_the_folder(folder: Path, fitted: Any, tmp_path: Path) -> None:
    """A folder that came from somebody does not choose which file is opened."""
    fitted.save(str(tmp_path / "secret"))
    state.write(str(folder), str(tmp_path / "secret" / "model-2"), [])
    with pytest.raises(skflow.EstimatorError, match="outside its folder"):
        skflow.TensorFlowDNNClassifier.restore(str(folder))
