"""Trainers of Keras models take the learning rate that a ring sends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptsurgeon import formats
from ckptsurgeon.errors import RefusedError
from ckptsurgeon.frameworks import nets
from ckptsurgeon.frameworks.net import Problem

pytestmark = pytest.mark.tensorflow

X, Y = np.ones((4, 2), np.float32), np.array([0, 1, 2, 0])


def net(rate: Any = None) -> Any:
    import keras

    def made(shape: tuple[int, ...], classes: int, seed: int) -> keras.Model:
        model = keras.Sequential([keras.Input(shape), keras.layers.Dense(classes, "softmax")])
        model.compile(keras.optimizers.SGD(rate or 0.1), "sparse_categorical_crossentropy")
        return model

    return nets.build(made, Problem((2,), 3, 3), 5)


def test_a_keras_model_trains_with_the_learning_rate_of_the_request(tmp_path: Path) -> None:
    """A step is proportional to it, and the checkpoint keeps it for requests without one."""
    model, kernels = net(), {}
    places = {name: str(tmp_path / f"{name}.weights.h5") for name in ("first", "own", "sent", "kept")}
    model.initial(places["first"])
    for name, start, rate in (("own", "first", None), ("sent", "first", 0.2), ("kept", "sent", None)):
        model.train(places[start], places[name], X, Y, 3, rate)
    for name, place in places.items():
        with formats.open(place) as checkpoint:
            kernels[name] = checkpoint.read("layers/dense/vars/0")
            rate = checkpoint.read("optimizer/vars/1")
        assert rate == np.float32(0.1 if name in ("first", "own") else 0.2)
    own, sent = kernels["own"] - kernels["first"], kernels["sent"] - kernels["first"]
    assert np.allclose(sent, 2 * own, atol=1e-6)
    assert not np.allclose(own, 0)


def test_two_schedules_exclude_each_other(tmp_path: Path) -> None:
    """An optimizer with a schedule of Keras's own cannot take the ring's learning rate, and says so."""
    import keras

    model = net(keras.optimizers.schedules.CosineDecay(0.1, 10))
    model.initial(str(tmp_path / "first.weights.h5"))
    with pytest.raises(
        RefusedError, match=r"ring\.toml sets a learning rate, and the trainer's optimizer has a schedule"
    ):
        model.train(str(tmp_path / "first.weights.h5"), str(tmp_path / "second.weights.h5"), X, Y, 3, 0.2)
