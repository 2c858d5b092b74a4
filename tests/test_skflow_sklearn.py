"""The estimators by scikit-learn's conventions: its own suite of checks, its tools, data of all kinds, and learning."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from ckptsurgeon import skflow
from ckptsurgeon.skflow.minibatches import shuffled_batches

pytestmark = pytest.mark.tensorflow

IRIS = load_iris()
X, Y = IRIS.data, IRIS.target


def classifier(**params: Any) -> Any:
    return skflow.TensorFlowDNNClassifier(**{"hidden_units": [8], "verbose": 0, "steps": 20, **params})


def regressor(**params: Any) -> Any:
    return skflow.TensorFlowDNNRegressor(
        **{"hidden_units": [8], "verbose": 0, "steps": 20, "learning_rate": 0.01, **params}
    )


# -- scikit-learn's own checks


@pytest.mark.parametrize(
    "make",
    [
        lambda: skflow.TensorFlowDNNClassifier([10]),
        lambda: skflow.TensorFlowDNNRegressor([10]),
        lambda: skflow.TensorFlowLinearClassifier(),
        lambda: skflow.TensorFlowLinearRegressor(),
        lambda: skflow.TensorFlowEstimator(skflow.models.logistic_regression),
        lambda: skflow.TensorFlowEstimator(skflow.models.linear_regression, n_classes=0),
    ],
    ids=["dnn-classifier", "dnn-regressor", "classifier", "regressor", "estimator-classes", "estimator-values"],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_scikit_learns_own_checks_pass(make: Any) -> None:
    """All checks of check_estimator, none expected to fail; skipped are those that need pandas where there is none."""
    results = check_estimator(make(), on_fail=None)
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert failed == {}
    skipped = {result["check_name"] for result in results if result["status"] == "skipped"}
    assert skipped <= {
        "check_array_api_input", "check_classifier_data_not_an_array", "check_regressor_data_not_an_array",
        "check_dataframe_column_names_consistency",
    }  # fmt: skip
    assert len(results) > 50


def test_an_estimator_of_any_model_says_what_it_is() -> None:
    """n_classes tells: 0 and 1 make a regressor, anything else a classifier, as scikit-learn's tools ask."""
    for n_classes in (None, 2, 3):
        assert is_classifier(skflow.TensorFlowEstimator(skflow.models.logistic_regression, n_classes))
    for n_classes in (0, 1):
        model = skflow.TensorFlowEstimator(skflow.models.linear_regression, n_classes)
        assert is_regressor(model)
        assert not hasattr(model, "predict_proba")


# -- its tools


def test_a_grid_search_in_a_pipeline_finds_the_larger_model() -> None:
    """GridSearchCV clones, sets nested parameters, fits and scores; the best one predicts."""
    pipeline = make_pipeline(StandardScaler(), classifier(optimizer="Adagrad", steps=60))
    grid = {"tensorflowdnnclassifier__hidden_units": [[1], [10, 10]], "tensorflowdnnclassifier__steps": [2, 60]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(X, IRIS.target_names[Y])
    assert search.best_params_ == {
        "tensorflowdnnclassifier__hidden_units": [10, 10],
        "tensorflowdnnclassifier__steps": 60,
    }
    assert search.score(X, IRIS.target_names[Y]) > 0.9
    assert "setosa" in search.predict(X[:1])


def test_a_monitor_goes_through_a_pipeline_and_a_vote_takes_estimators() -> None:
    """Parameters of `fit` reach the last step; a voting ensemble clones its members."""
    monitor = skflow.monitors.BaseMonitor(verbose=0)
    make_pipeline(StandardScaler(), classifier(steps=3)).fit(X, Y, tensorflowdnnclassifier__monitor=monitor)
    assert len(monitor.all_train_loss_buffer) == 3
    members = [(str(seed), classifier(tf_random_seed=seed, optimizer="Adagrad", steps=100)) for seed in range(2)]
    assert VotingClassifier(members, voting="soft").fit(X, Y).score(X, Y) > 0.9


def test_parallel_folds_give_the_same_scores() -> None:
    """Threads that fit clones at the same time do not disturb each other, though they share a graph."""
    model = skflow.TensorFlowLinearClassifier(verbose=0, steps=30)
    scores = cross_val_score(model, X, Y, cv=6)
    with parallel_config("threading", n_jobs=4):
        np.testing.assert_array_equal(cross_val_score(model.set_params(num_cores=3), X, Y, cv=6), scores)


# -- data of all kinds


def test_labels_tell_the_number_of_classes() -> None:
    """Without n_classes they are what is in y, names too; one alone is no choice; classes= names those to come."""
    assert classifier().fit(X[:100], Y[:100]).classes_.tolist() == [0, 1]
    assert classifier().fit(X, Y + 5).classes_.tolist() == [5, 6, 7]
    assert classifier().fit(X, Y == 1).classes_.tolist() == [False, True]
    with pytest.raises(skflow.EstimatorError, match="y contains only 1 class, 0; expected 2 or more; n_classes"):
        classifier().fit(X[:50], Y[:50])
    model = classifier().partial_fit(X[:50], Y[:50], classes=[0, 1, 2])
    assert model.partial_fit(X, Y).predict_proba(X).shape == (150, 3)


def test_data_of_any_kind_trains_the_same_model() -> None:
    """Lists, float32, Fortran order, a view: the same weights bit for bit, in `fit` and in `partial_fit`."""
    expected = classifier().fit(X, Y).partial_fit(X, Y).weights_[0]
    wide = np.zeros((150, 8))
    wide[:, ::2] = X
    as_text = IRIS.target_names[Y]
    for rows, target in ((X.tolist(), Y.tolist()), (X.astype(np.float32), Y.astype(np.int8)),
                         (np.asfortranarray(X), Y.astype(float)), (wide[:, ::2], as_text)):  # fmt: skip
        model = classifier().fit(rows, target).partial_fit(rows, target)
        np.testing.assert_array_equal(model.weights_[0], expected)


@pytest.mark.parametrize(
    ("rows", "target"),
    [
        (np.where(np.arange(600).reshape(150, 4) == 7, np.nan, X), Y),
        (np.where(np.arange(600).reshape(150, 4) == 7, 1e300, X), Y),
        (X[:, :3], Y),
        (X[:149], Y),
        (X[:0], Y[:0]),
        (X, np.where(Y == 1, np.nan, Y)),
        (X.astype(complex), Y),
        (X, np.stack([Y, Y], 1)),
    ],
    ids=["nan", "float32 overflow", "features", "rows", "no rows", "nan in y", "complex", "two columns of y"],
)
def test_a_partial_fit_refuses_what_fit_refuses(rows: Any, target: Any) -> None:
    """The short way past scikit-learn's checks, for arrays that are in order, lets nothing else through."""
    model = classifier(n_classes=3).fit(X, Y)
    before = model.weights_[0]
    with pytest.raises(ValueError, match=r"."), np.errstate(all="ignore"):
        model.partial_fit(rows, target)
    np.testing.assert_array_equal(model.weights_[0], before)
    np.testing.assert_array_equal(model.partial_fit(X, Y).predict(X), model.predict(X))


def test_a_row_is_predicted_the_same_alone_and_among_others() -> None:
    """Bit for bit, whatever the size of a batch: no row's result depends on its neighbours."""
    model = regressor(hidden_units=[64, 32]).fit(X, X)
    together = model.predict(X)
    for size in (1, 7, 149):
        np.testing.assert_array_equal(model.predict(X, batch_size=size), together)
    np.testing.assert_array_equal(model.predict(X[5:6]), together[5:6])
    assert together.dtype == np.float64


def test_an_array_on_disk_is_read_a_batch_at_a_time(tmp_path: Any) -> None:
    """The same model as of the array in memory, bit for bit; of 80 MB on disk 8 are in memory at no time."""
    path = str(tmp_path / "X.npy")
    np.save(path, X)
    mapped = np.load(path, mmap_mode="r")
    model, expected = classifier().fit(mapped, Y), classifier().fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(mapped), expected.predict_proba(X))
    big = np.lib.format.open_memmap(str(tmp_path / "big.npy"), "w+", np.float64, (100_000, 100))
    big[::1000] = 1.0
    target = np.lib.format.open_memmap(str(tmp_path / "y.npy"), "w+", np.float64, (100_000,))
    model = regressor(steps=5).fit(big[:100], target[:100])  # so that TensorFlow is warm
    tracemalloc.start()
    model.fit(big, target).predict(big)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


def rows_of(array: Any, order: Any) -> Iterator[Any]:
    return (array[row] for row in order)


def test_iterators_of_rows_train_and_predict() -> None:
    """As in 2016: both are iterators; in skflow's own order of rows they train the same model bit for bit."""
    names = IRIS.target_names[Y]
    order = np.concatenate([rows for rows, _ in zip(shuffled_batches(150, 32), range(4), strict=False)])
    model = classifier(n_classes=3, steps=4).fit(rows_of(X, order), rows_of(Y, order))
    np.testing.assert_array_equal(model.weights_[0], classifier(steps=4).fit(X, Y).weights_[0])
    np.testing.assert_array_equal(model.predict(iter(X)), model.predict(X))
    np.testing.assert_array_equal(model.predict_proba(iter(X), batch_size=40), model.predict_proba(X))
    endless = classifier(n_classes=3, steps=200, optimizer="Adagrad").fit(cycle(X), cycle(Y))
    assert endless.get_tensor_value("global_step") == 200
    assert endless.score(X, Y) > 0.5
    by_name = classifier().partial_fit(iter(X), iter(names), classes=np.unique(names))
    assert by_name.get_tensor_value("global_step") == 5  # the last of 22 rows, then the rows end
    line = regressor(steps=3).fit(iter(X[:, :2]), iter(X[:, 2:]))
    assert line.predict(X[:, :2]).shape == (150, 2)
    assert model.n_features_in_ == 4


@pytest.mark.parametrize(
    ("rows", "target", "message"),
    [
        (lambda: iter(X), lambda: Y, "X is an iterator, but y is not; expected both, found ndarray"),
        (lambda: iter([]), lambda: iter([]), "the iterator X yields no rows"),
        (lambda: iter(X), lambda: iter(Y[:40]), "one iterator ends before the other; expected 32 more of y, found 8"),
        (lambda: iter([X[0], X[0, :2]]), lambda: iter(Y), r"rows of different shapes; found \[2\], \[4\]"),
        (lambda: iter([*X[:40], X[0] * np.nan]), lambda: iter(Y[:41]), "NaN"),
        (lambda: iter(X), lambda: iter(Y + 1), "y has an unknown label; expected 0, 1, 2, found 3"),
    ],
)
def test_iterators_that_do_not_fit_are_refused(rows: Any, target: Any, message: str) -> None:
    """A ValueError as soon as it is seen; the message says what was expected and what was found."""
    with pytest.raises(ValueError, match=message):
        classifier(n_classes=3).fit(rows(), target())


def test_labels_of_an_iterator_must_be_known_before() -> None:
    """Without n_classes and classes= there is no telling how many will come."""
    with pytest.raises(
        skflow.EstimatorError, match="the labels of an iterator are unknown before its end; set n_classes="
    ):
        classifier().fit(iter(X), iter(Y))
    with pytest.raises(skflow.EstimatorError, match="the iterator X yields no rows"):
        classifier(n_classes=3).fit(X, Y).predict(iter([]))


def test_a_clone_trains_to_the_same_bits() -> None:
    """All that a model is follows from its parameters and the data."""
    for model in (classifier(optimizer="Adam"), classifier(optimizer="Momentum"), regressor(dropout=0.2)):
        target = Y if is_classifier(model) else X[:, 0]
        one, two = clone(model).fit(X, target), clone(model).fit(X, target)
        for each, other in zip(one.weights_, two.weights_, strict=True):
            np.testing.assert_array_equal(each, other)


def test_variables_of_the_old_kind_train_too() -> None:
    """In a program that has switched TensorFlow back to its first version, everything works the same."""
    code = """
import tensorflow.compat.v1 as tf
tf.disable_v2_behavior()
import numpy as np
from ckptsurgeon import skflow
from sklearn.datasets import load_iris
X, y = load_iris(return_X_y=True)
def my_model(X, y):
    layer = tf.nn.relu(tf.matmul(X, tf.Variable(np.full((4, 5), 0.1, np.float32), name="mine")))
    return skflow.models.logistic_regression(layer, y)
model = skflow.TensorFlowEstimator(model_fn=my_model, n_classes=3, steps=5, verbose=0).fit(X, y)
print(np.isclose(model.get_tensor_value("mine"), 0.1).all(), model.get_tensor_value("mine").shape)
plain = skflow.TensorFlowDNNClassifier([5], 3, steps=5, verbose=0).fit(X, y)
plain.set_layer_biases(0, np.ones(5))
print(plain.get_layer_biases(0).tolist())
"""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "False (4, 5)\n[1.0, 1.0, 1.0, 1.0, 1.0]\n", done.stderr


# -- learning


def test_they_learn_digits_and_diabetes() -> None:
    """Held-out digits over 0.95 right, held-out progressions of diabetes told better than by the mean."""
    pixels, digits = load_digits(return_X_y=True)
    split = train_test_split(pixels, digits, test_size=0.3, random_state=0, stratify=digits)
    model = make_pipeline(MinMaxScaler(), classifier(hidden_units=[100], optimizer="Adam"))
    model.set_params(tensorflowdnnclassifier__learning_rate=0.003, tensorflowdnnclassifier__steps=800)
    assert model.fit(split[0], split[2]).score(split[1], split[3]) > 0.95
    patients, progress = load_diabetes(return_X_y=True)
    split = train_test_split(patients, progress, test_size=0.3, random_state=0)
    for kind in (regressor(hidden_units=[16], steps=300),
                 skflow.TensorFlowLinearRegressor(learning_rate=0.01, steps=300, verbose=0)):  # fmt: skip
        line = TransformedTargetRegressor(make_pipeline(StandardScaler(), kind), transformer=StandardScaler())
        assert line.fit(split[0], split[2]).score(split[1], split[3]) > 0.2  # the mean has 0
