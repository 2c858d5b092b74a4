"""SharedTrunkEnsemble: the same weights as a real ring, scikit-learn's conventions, and what it refuses."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builtin_here import train_here
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from ckptsurgeon import formats, skflow
from ckptsurgeon.ring import driver, start
from ckptsurgeon.ring.journal import load

pytestmark = pytest.mark.tensorflow

X, Y = load_iris(return_X_y=True)
HIDDEN = [6, 5, 4]
NAMES = "abc"


def dnn(hidden_units: Any = HIDDEN, **params: Any) -> Any:
    return skflow.TensorFlowDNNClassifier(hidden_units, **{"optimizer": "Adagrad", "verbose": 0, **params})


def ensemble(estimator: Any = None, **params: Any) -> Any:
    given = {"layers": "0-1", "rounds": 6, "window": 2, "tolerance": None, **params}
    return skflow.SharedTrunkEnsemble(dnn() if estimator is None else estimator, **given)


@pytest.fixture(scope="module")
def fitted() -> Any:
    """One fitted ensemble of three, which no test changes."""
    return ensemble().fit(X, Y)


def variables(member: Any) -> dict[str, bytes]:
    return {name: value.tobytes() for name, value in member._net.values().items()}


def everything(model: Any) -> list[dict[str, bytes]]:
    return [variables(member) for member in model.estimators_]


# -- beside a real ring


def run_ring(folder: Path, monkeypatch: pytest.MonkeyPatch, rounds: int, **options: Any) -> list[dict[str, Any]]:
    """Run a real ring of three nets on iris, none of it held out; return the lines of its journal."""
    train_here(monkeypatch)
    np.savez(folder / "iris.npz", X=X.astype(np.float32), y=Y)
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"layers": "0-1", **options}.items()]
    lines += [f"stop = {{ tolerance = 1e-9, window = 2, rounds = {rounds} }}"]
    lines += ["[data]", 'file = "iris.npz"', 'target = "y"', "batch_size = 32", "holdout = 0"]
    for name in NAMES:
        lines += ["[[models]]", f'name = "{name}"', f"hidden_units = {HIDDEN}"]
    (folder / "ring.toml").write_text("\n".join(lines) + "\n")
    start.init(str(folder))
    driver.run(str(folder))
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()[1:]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"slots": "copy", "seed": 7},
        {"slots": "fill=0.5"},
        {"schedule": "average", "warmup": 1},
    ],
    ids=["ring", "copy", "fill", "average"],
)
def test_its_members_are_the_models_of_a_ring_bit_for_bit(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same settings, same rows: every variable, slots too, and every measured change, as the driver has them."""
    records = run_ring(tmp_path, monkeypatch, 6, **options)
    model = ensemble(n_models=3, **options).fit(X, Y)
    past = load(str(tmp_path / "journal.jsonl")).history
    assert past.round == model.n_rounds_ == 6
    for name, member in zip(NAMES, model.estimators_, strict=True):
        with formats.open(str(tmp_path / name / f"model.ckpt-{past.latest(name)}")) as checkpoint:
            assert set(checkpoint) == set(member._net.variables)
            for variable in checkpoint:
                value = member.get_tensor_value(variable)
                np.testing.assert_array_equal(value, checkpoint.read(variable), err_msg=f"{name}: {variable}")
    changes = [record["change"] for record in records if record["change"]]
    assert len(changes) == (1 if "warmup" in options else 2)
    assert model.change_ == [changes[-1][name] for name in NAMES]


def by_hand(order: Any, members: dict[str, Any], batches: Any, rounds: int) -> None:
    """Train estimators as the question has it: in turns, layer for layer, through skflow's own methods."""
    for number in range(rounds):
        rows = batches.rows(number)
        for one, following in zip(order, [*order[1:], None], strict=True):
            members[one]._net.train(X[rows].astype(np.float32), np.eye(3, dtype=np.float32)[Y[rows]])
            if following:
                for layer in range(2):
                    members[following].set_layer_params(layer, members[one].get_layer_params(layer))
        for other in order[:-1]:
            for layer in range(2):
                members[other].set_layer_params(layer, members[order[-1]].get_layer_params(layer))


def test_it_is_the_loop_of_the_question(fitted: Any) -> None:
    """The same as train, set_layer_params, train, … by hand, from the same first weights."""
    from ckptsurgeon.data import Batches

    begun = ensemble(rounds=1).fit(X, Y)  # gives networks, whose weights are put back to the first ones
    members = dict(zip(NAMES, begun.estimators_, strict=True))
    firsts = first_weights(begun)
    for name, member in members.items():
        member._net.initialize()
        member._net.write(firsts[name])
    by_hand(NAMES, members, Batches(150, 32, 42), 6)
    assert [variables(member) for member in members.values()] == everything(fitted)


def first_weights(begun: Any) -> dict[str, Any]:
    from ckptsurgeon.ring.schedule import step_seed
    from ckptsurgeon.skflow.checkpoints.architecture import Architecture

    net = Architecture(4, tuple(HIDDEN), "logistic_regression", 3, "SGD")
    values = {name: net.initial(step_seed(42, name, 0), 0.1) for name in NAMES}
    return {name: {each: value[each] for each in net.parameters} for name, value in values.items()}


# -- training


def test_members_share_the_trunk_and_nothing_else(fitted: Any) -> None:
    """Layers 0 and 1 are the same in all, the others and the heads are each one's own."""
    for layer in range(2):
        for one, other in zip(fitted.estimators_, fitted.estimators_[1:], strict=False):
            for mine, theirs in zip(one.get_layer_params(layer), other.get_layer_params(layer), strict=True):
                np.testing.assert_array_equal(mine, theirs)
    assert len({member.get_layer_weights(2).tobytes() for member in fitted.estimators_}) == 3
    assert len({member.weights_[-1].tobytes() for member in fitted.estimators_}) == 3


def test_two_calls_do_what_one_would(fitted: Any) -> None:
    """`partial_fit` goes on with rounds, batches and the measure of convergence; `fit` begins anew."""
    model = ensemble(rounds=3).fit(X, Y)
    assert everything(model) != everything(fitted)
    model.partial_fit(X, Y)
    assert everything(model) == everything(fitted)
    assert (model.n_rounds_, model.change_) == (6, fitted.change_)
    assert everything(model.set_params(rounds=6).fit(X, Y)) == everything(fitted)
    assert everything(ensemble(seed=43).fit(X, Y)) != everything(fitted)


def test_it_ends_when_all_members_have_converged(capsys: pytest.CaptureFixture[str]) -> None:
    """The last change is within the tolerance; a further call goes on until the change is measured again."""
    model = ensemble(dnn([10, 20, 10]), rounds=500, window=20, tolerance=0.03, verbose=1).fit(X, Y)
    assert model.converged_
    assert model.n_rounds_ < 500
    assert max(model.change_) <= 0.03
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"Round #{n}" for n in range(40, model.n_rounds_ + 1, 20)]
    assert all(max(map(float, re.findall(r" [abc] ([0-9.]+)", line))) > 0.03 for line in lines[:-1])
    assert len(lines) > 1
    assert model.score(X, Y) > 0.9
    rounds = model.n_rounds_
    assert model.partial_fit(X, Y).n_rounds_ >= rounds + 20
    assert not ensemble(rounds=3, tolerance=1e-9).fit(X, Y).converged_
    by_trunk = ensemble(rounds=9, tolerance=1e-9, trunk_tolerance=10.0).fit(X, Y)
    assert (by_trunk.converged_, by_trunk.n_rounds_) == (True, 4)


def test_members_may_differ_beyond_the_trunk_and_be_set_by_hand() -> None:
    """A list of estimators: other heads and optimizers; what is set in a member counts from then on."""
    given = [dnn([6, 5]), dnn([6, 5, 3], optimizer="Adam", learning_rate=0.01)]
    model = ensemble(given).fit(X, Y)
    assert [member.num_hidden_layers for member in model.estimators_] == [2, 3]
    np.testing.assert_array_equal(*(member.get_layer_weights(1) for member in model.estimators_))
    assert not any(hasattr(each, "classes_") for each in given)
    last = model.estimators_[1]
    last.set_layer_biases(2, [100.0, 100.0, 100.0])
    model.set_params(rounds=1).partial_fit(X, Y)
    assert (last.get_layer_biases(2) > 90).all()


def test_a_regressor_is_one_too() -> None:
    """It predicts the mean of its members' values, better than the mean of the target; several outputs as well."""
    rows, target = load_diabetes(return_X_y=True)
    rows, target = StandardScaler().fit_transform(rows), (target - target.mean()) / target.std()
    member = skflow.TensorFlowDNNRegressor([10, 5], optimizer="Adagrad", learning_rate=0.05, verbose=0)
    model = ensemble(member, layers="0", rounds=150).fit(rows[::2], target[::2])
    assert is_regressor(model)
    assert not is_classifier(model)
    assert not hasattr(model, "predict_proba")
    votes = [each.predict(rows) for each in model.estimators_]
    np.testing.assert_allclose(model.predict(rows), np.mean(votes, axis=0), atol=1e-6)
    assert model.score(rows[1::2], target[1::2]) > 0.3
    both = ensemble(member, layers="0").fit(X[:, :2], X[:, 2:])
    assert both.predict(X[:, :2]).shape == (150, 2)
    with pytest.raises(skflow.EstimatorError, match="y has a different shape than before"):
        both.partial_fit(X[:, :2], X[:, 2])


# -- scikit-learn's conventions


def test_probabilities_are_the_mean_of_the_members(fitted: Any) -> None:
    """And the label is that of the largest mean."""
    odds = np.mean([member.predict_proba(X) for member in fitted.estimators_], axis=0)
    np.testing.assert_allclose(fitted.predict_proba(X), odds, atol=1e-6)
    np.testing.assert_array_equal(fitted.predict(X), odds.argmax(axis=1))
    assert fitted.score(X, Y) == (fitted.predict(X) == Y).mean()


def test_it_is_cloned_pickled_searched_and_piped(fitted: Any) -> None:
    """Names of labels come back, a pickle trains on bit for bit, and parameters of the member can be searched."""
    names = np.array(["setosa", "versicolor", "virginica"])[Y]
    grid = {"sharedtrunkensemble__estimator__learning_rate": [0.001, 0.1]}
    pipe = make_pipeline(StandardScaler(), ensemble(rounds=60, n_models=2))
    search = GridSearchCV(pipe, grid, cv=2).fit(X, names)
    assert search.best_params_ == {"sharedtrunkensemble__estimator__learning_rate": 0.1}
    assert search.score(X, names) > 0.9
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(X), fitted.predict_proba(X))
    one = ensemble(rounds=6).fit(X, Y).partial_fit(X, Y)
    assert everything(again.partial_fit(X, Y)) == everything(one)
    assert not hasattr(clone(fitted), "estimators_")


def test_members_are_estimators_like_others(fitted: Any, tmp_path: Path) -> None:
    """Each is saved and restored by itself, and goes on alone from there."""
    for name, member in zip(NAMES, fitted.estimators_, strict=True):
        member.save(str(tmp_path / name))
        again = skflow.TensorFlowDNNClassifier.restore(str(tmp_path / name), steps=1)
        np.testing.assert_array_equal(again.predict_proba(X), member.predict_proba(X))
        assert again.partial_fit(X, Y).get_tensor_value("global_step") == 7


def test_it_is_not_fitted_before_fit() -> None:
    """NotFittedError, as everywhere."""
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(ensemble(), method)(X)


@pytest.mark.parametrize("kind", ["TensorFlowDNNClassifier", "TensorFlowDNNRegressor"])
def test_scikit_learn_accepts_it(kind: str) -> None:
    """Every check of scikit-learn's own suite passes, for a classifier and for a regressor; none may fail."""
    member = getattr(skflow, kind)([6, 4], optimizer="Adagrad", verbose=0)
    model = skflow.SharedTrunkEnsemble(member, layers="0", n_models=2, rounds=40, tolerance=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(model, on_fail=None, on_skip=None)
    failed = {each["check_name"]: each["exception"] for each in results if each["status"] == "failed"}
    assert failed == {}
    assert len([each for each in results if each["status"] == "passed"]) > 45


# -- what is refused


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"estimator": lambda: StandardScaler()},
            "the parameter estimator; expected one DNN, .* found StandardSc",
        ),
        ({"estimator": lambda: [dnn()]}, "cannot use the parameter estimator"),
        ({"estimator": lambda: []}, "cannot use the parameter estimator; expected .*, found none"),
        ({"estimator": lambda: [dnn(), skflow.TensorFlowDNNRegressor([6, 5])]}, "cannot use the parameter estimator"),
        (
            {"estimator": lambda: [dnn([6, 5]), dnn([6, 4])]},
            r"the trunks \(layers 0-1\) of the members a and b differ",
        ),
        ({"estimator": lambda: [dnn(batch_size=8), dnn()]}, "the members differ in batch_size; found 8 and 32"),
        ({"estimator": lambda: [dnn(), dnn(n_classes=3)]}, "the members differ in n_classes; found None and 3"),
        (
            {"estimator": lambda: [dnn(), dnn(optimizer="Adam")], "slots": "copy"},
            "trunks have different slots; use the same optimizer",
        ),
        (
            {"estimator": lambda: [dnn(), dnn()], "n_models": 3},
            "parameter n_models; expected 2, as there are estimators",
        ),
        ({"estimator": lambda: dnn(steps=0)}, "cannot use the parameter steps"),
        ({"n_models": 1}, "cannot use the parameter n_models; expected a whole number from 2, found 1"),
        ({"n_models": True}, "cannot use the parameter n_models"),
        ({"layers": "3"}, "layers '3' of member a: .*"),
        ({"layers": 0}, "cannot use the parameter layers"),
        ({"schedule": "star"}, 'cannot use the parameter schedule; expected "ring" or "average", found \'star\''),
        ({"slots": "drop"}, "cannot use the parameter slots"),
        ({"slots": "fill=x"}, "cannot use the parameter slots"),
        ({"rounds": 0}, "cannot use the parameter rounds"),
        ({"window": 1.5}, "cannot use the parameter window"),
        ({"tolerance": -1}, "cannot use the parameter tolerance"),
        ({"trunk_tolerance": "1"}, "cannot use the parameter trunk_tolerance"),
        ({"warmup": -1}, "cannot use the parameter warmup"),
        ({"seed": None}, "cannot use the parameter seed"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(params: dict[str, Any], message: str) -> None:
    """The error names the parameter, what it must be and what it is; nothing is fitted."""
    if "estimator" in params:  # made here: TensorFlow is not to be imported while tests are collected
        params = params | {"estimator": params["estimator"]()}
    model = ensemble(**params)
    with pytest.raises(skflow.EstimatorError, match=message) as caught:
        model.fit(X, Y)
    assert "\n" not in str(caught.value)
    assert not hasattr(model, "estimators_")


def test_a_training_that_diverges_ends_with_an_error() -> None:
    """It names the member and the round."""
    member = skflow.TensorFlowDNNRegressor([4], learning_rate=1e10, verbose=0)
    with pytest.raises(skflow.EstimatorError, match=r"member [ab] is (inf|nan) in round \d|weights of"):
        ensemble(member, layers="0", n_models=2).fit(X, X[:, 0] * 1e6)
