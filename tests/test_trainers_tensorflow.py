"""The example trainers in Keras and in TensorFlow."""

from __future__ import annotations

import contextlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from trainer_support import table, trunks, write_ring

from ckptsurgeon import formats
from ckptsurgeon.ring import checking, driver, journal, start
from ckptsurgeon.ring.predicting import ensemble

pytestmark = pytest.mark.tensorflow  # in processes of their own


# The built-in trainer as a worker like any other: a regressor, of the numbers of the classes, with another optimizer.
REGRESSOR = [sys.executable, "-m", "ckptsurgeon.skflow.worker", "--features", "2", "--outputs", "1"]


def test_trainers_of_many_kinds_share_one_trunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds of Keras, TensorFlow, a built-in net and a regressor, of other depths, formats, optimizers and slots.

    The examples keep the contract, and Keras's has a vote, as the nets of skflow names have.
    """
    monkeypatch.setattr(checking, "_PATIENCE", 60.0)  # TensorFlow takes its time, on a busy machine more than 5 s
    ring = tmp_path / "ring"
    regressor = [*REGRESSOR, "--hidden-units", "6,5", "--optimizer", "SGD", "--learning-rate", "0.01"]
    more = [
        {"name": "net", "hidden_units": [6, 5, 7, 3], "optimizer": "Adam", "learning_rate": 0.01},
        {"name": "regressor", "worker": regressor, "timeout": 1800},
    ]
    write_ring(ring, [table("keras"), table("tensorflow"), *more])
    start.init(str(ring))
    assert driver.run(str(ring)).reason == "limit"
    first, *others = trunks(ring)
    assert len(others) == 3
    for other in others:
        assert all(np.array_equal(value, each) for value, each in zip(first, other, strict=True))
    votes = {row["model"]: row["reason"] for row in ensemble.evaluate(str(ring))}
    assert [name for name, reason in votes.items() if reason is None] == ["keras", "tensorflow", "net", "ensemble"]
    history = journal.load(str(ring / "journal.jsonl")).history
    with formats.open(str(ring / "keras" / f"model.ckpt-{history.latest('keras')}.weights.h5")) as checkpoint:
        assert checkpoint.read("optimizer/vars/0") == 2  # the steps that its optimizer has counted
    with contextlib.closing(checking.check(str(ring))) as checked:
        examples = itertools.takewhile(lambda each: each.model in ("keras", "tensorflow"), checked)
        found = [(each.model, each.check, each.reason) for each in examples]
    checks = ["train", "reads", "repeat", "input", "init", "end", "restart", "sigterm"]
    models = {"keras": [*checks, "predict"], "tensorflow": checks}
    assert found == [(model, check, None) for model, names in models.items() for check in names]
