"""What watches a training: lines that are printed, early stopping, event files for TensorBoard."""

from __future__ import annotations

import glob
import os
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris

from ckptsurgeon import skflow
from ckptsurgeon.errors import CkptSurgeonError

pytestmark = pytest.mark.tensorflow

IRIS = load_iris()
X, Y = IRIS.data, IRIS.target
TRAIN, HELD_OUT = np.arange(150) % 3 != 0, np.arange(150) % 3 == 0


def classifier(**params: Any) -> Any:
    return skflow.TensorFlowDNNClassifier(**{"hidden_units": [8], "n_classes": 3, "verbose": 0, **params})


def summaries(folder: Any) -> list[dict[str, Any]]:
    """For each event file, oldest first: tag -> its values by step, or the number of values of a histogram."""
    import tensorflow as tf

    found = []
    for path in sorted(glob.glob(os.path.join(folder, "*", "events.*"))):
        values: dict[str, Any] = {}
        for event in tf.compat.v1.train.summary_iterator(path):
            for value in event.summary.value:
                content = value.histo.num if value.HasField("histo") else value.simple_value
                values.setdefault(value.tag, {})[event.step] = content
        found.append(values)
    return found


def test_a_monitor_prints_the_mean_loss_every_so_many_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """The mean over the steps since the last line, the epoch once there is one, and nothing of the default's lines."""
    monitor = skflow.monitors.BaseMonitor(print_steps=4)
    classifier(steps=10, verbose=1, batch_size=75).fit(X, Y, monitor)
    losses = monitor.all_train_loss_buffer
    assert len(losses) == 10
    assert capsys.readouterr().out.splitlines() == [
        f"Step #1, avg. train loss: {losses[0]:.5f}",
        f"Step #5, epoch #2, avg. train loss: {np.mean(losses[1:5]):.5f}",
        f"Step #9, epoch #4, avg. train loss: {np.mean(losses[5:9]):.5f}",
    ]
    classifier(steps=10).fit(X, Y, skflow.monitors.BaseMonitor(verbose=0))
    assert capsys.readouterr().out == ""


def test_the_validation_loss_is_that_of_the_rows_after_each_step(capsys: pytest.CaptureFixture[str]) -> None:
    """It equals the mean cross-entropy of the model's own predictions, labels of any kind, dropout or not."""
    names = IRIS.target_names[Y]
    model = classifier(steps=5, dropout=0.3)
    monitor = skflow.monitors.ValidationMonitor(X[HELD_OUT], names[HELD_OUT], n_classes=3, print_steps=2)
    model.fit(X[TRAIN], names[TRAIN], monitor)
    odds = model.predict_proba(X[HELD_OUT])[np.arange(50), Y[HELD_OUT]]
    assert monitor.all_val_loss_buffer[-1] == pytest.approx(-np.log(odds).mean(), rel=1e-5)
    assert len(monitor.all_val_loss_buffer) == 5
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f", avg. val loss: {np.mean(monitor.all_val_loss_buffer[3:5]):.5f}")
    assert "epoch #1" in last
    trained = classifier(steps=5, dropout=0.3).fit(X[TRAIN], names[TRAIN])
    np.testing.assert_array_equal(trained.weights_[0], model.weights_[0])  # watching changes nothing


def test_a_training_stops_when_the_loss_no_longer_falls(capsys: pytest.CaptureFixture[str]) -> None:
    """So many steps after the best one; the line says which one that was, and the weights are those of the last."""
    model = classifier(hidden_units=[40], steps=2000, optimizer="Adam", learning_rate=0.05)
    monitor = skflow.monitors.ValidationMonitor(X[HELD_OUT], Y[HELD_OUT], early_stopping_rounds=30, print_steps=1000)
    model.fit(X[TRAIN], Y[TRAIN], monitor)
    losses = monitor.all_val_loss_buffer
    best = int(np.argmin(losses))
    assert len(losses) == best + 31 < 2000
    assert (monitor.min_loss_i, monitor.min_loss, monitor.converged) == (best + 1, losses[best], True)
    assert model.get_tensor_value("global_step") == len(losses)
    assert capsys.readouterr().err == f"Stopping. Best step:\n step {best + 1} with loss {losses[best]}\n"


def test_a_monitor_goes_on_over_calls_of_partial_fit_and_begins_anew_with_fit() -> None:
    """Steps without a smaller loss are counted over all calls; `fit` forgets them."""
    monitor = skflow.monitors.BaseMonitor(early_stopping_rounds=5, verbose=0)
    model = classifier(steps=1, learning_rate=1e-9, batch_size=150)
    model.fit(X, Y, monitor)
    model.set_params(learning_rate=0.1)
    calls = 1
    while not monitor.converged:
        model.partial_fit(X, Y + 0 * calls, monitor=monitor)
        calls += 1
        assert calls < 50
    assert calls == monitor.min_loss_i + 5
    assert len(monitor.all_train_loss_buffer) == calls
    model.fit(X, Y, monitor)
    assert (len(monitor.all_train_loss_buffer), monitor.converged) == (1, False)


def test_a_monitor_of_ones_own_may_stop_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    """A class that derives from BaseMonitor as it did in 2016: the placeholders, the session and the loss's tensor."""

    class Mine(skflow.monitors.BaseMonitor):
        def create_val_feed_dict(self, inp: Any, out: Any) -> None:
            self.feed = {inp: X.astype(np.float32), out: np.eye(3, dtype=np.float32)[Y]}

        def _set_last_loss_seen(self) -> None:
            self.last_loss_seen = float(self.sess.run(self.loss_expression_tensor, self.feed))

        def monitor_inducing_stop(self) -> bool:
            return self.steps == 6

    monitor = Mine()
    model = classifier(steps=100).fit(X, Y, monitor)
    assert model.get_tensor_value("global_step") == 7
    odds = model.predict_proba(X)[np.arange(150), Y]
    assert monitor.last_loss_seen == pytest.approx(-np.log(odds).mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: skflow.monitors.BaseMonitor(print_steps=0), "cannot use print_steps; expected a whole number from 1"),
        (lambda: skflow.monitors.BaseMonitor(early_stopping_rounds=0.5), "cannot use early_stopping_rounds"),
        (lambda: classifier().fit(X, Y, "print"), "cannot use the monitor; expected skflow.monitors.BaseMonitor"),
        (
            lambda: classifier().fit(X, Y, skflow.monitors.ValidationMonitor(X, Y, n_classes=2)),
            "n_classes of the monitor does not match; expected 3, found 2",
        ),
        (
            lambda: classifier().fit(X, Y, skflow.monitors.ValidationMonitor(X, Y + 7)),
            "y has an unknown label; expected 0, 1, 2, found 7, 8, 9",
        ),
    ],
)
def test_monitors_that_do_not_fit_are_refused(use: Any, message: str) -> None:
    """One line that says what was expected and what was found."""
    with pytest.raises(skflow.EstimatorError, match=message) as caught:
        use()
    assert "\n" not in str(caught.value)


def test_a_fitted_estimator_with_a_monitor_can_be_copied() -> None:
    """A monitor lets go of the session when the training ends, so both can be pickled."""
    import pickle

    monitor = skflow.monitors.ValidationMonitor(X, Y, print_steps=1000)
    model = classifier(steps=2).fit(X, Y, monitor)
    again, watched = pickle.loads(pickle.dumps((model, monitor)))
    assert watched.all_val_loss_buffer == monitor.all_val_loss_buffer
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


def test_event_files_hold_the_loss_and_the_weights_of_each_step(tmp_path: Any) -> None:
    """TensorFlow's reader finds the loss of every step, a histogram of every weight, and the model's graph."""
    monitor = skflow.monitors.BaseMonitor(verbose=0)
    model = classifier(steps=4).fit(X, Y, monitor, logdir=str(tmp_path / "logs"))
    model.partial_fit(X, Y, monitor=monitor, logdir=tmp_path / "logs")
    first, second = summaries(tmp_path / "logs")
    expected = monitor.all_train_loss_buffer
    assert first["loss"] == pytest.approx(dict(zip(range(1, 5), expected[:4], strict=True)))
    assert second["loss"] == pytest.approx(dict(zip(range(5, 9), expected[4:], strict=True)))
    for name in ("dnn/layer0/Linear/Matrix", "logistic_regression/bias"):
        size = model.get_tensor_value(name).size
        assert first[name] == dict.fromkeys(range(1, 5), size)
    unwatched = classifier(steps=4).fit(X, Y).partial_fit(X, Y)
    np.testing.assert_array_equal(unwatched.weights_[0], model.weights_[0])


def test_summaries_of_a_model_function_are_written_too(tmp_path: Any) -> None:
    """tf.compat.v1.summary inside of model_fn, also of a name that is taken."""
    import tensorflow as tf

    def my_model(rows: Any, target: Any) -> Any:
        predictions, loss = skflow.models.logistic_regression(rows, target)
        tf.compat.v1.summary.scalar("twice", 2 * loss)
        tf.compat.v1.summary.scalar("loss", loss)
        return predictions, loss

    model = skflow.TensorFlowEstimator(my_model, 3, verbose=0, steps=2)
    model.fit(X, Y, logdir=str(tmp_path))
    (found,) = summaries(tmp_path)
    assert found["twice"] == pytest.approx({step: 2 * loss for step, loss in found["loss"].items()})


def test_a_folder_for_events_that_cannot_be_made_is_named(tmp_path: Any) -> None:
    """A file in the way: one line, an error of ours."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CkptSurgeonError, match="file") as caught:
        classifier(steps=1).fit(X, Y, logdir=str(tmp_path / "file"))
    assert "\n" not in str(caught.value)
