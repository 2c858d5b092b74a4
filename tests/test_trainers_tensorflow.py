"""The example trainers in Keras and in TensorFlow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trainer_support import table, trunks, write_ring

from ckptsurgeon import formats
from ckptsurgeon.ring import contract, driver, journal, start

pytestmark = pytest.mark.tensorflow


def test_keras_and_tensorflow_share_one_trunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rounds in one ring, each in its own format; both keep the contract, and Keras's has a vote."""
    monkeypatch.setattr(contract, "_PATIENCE", 60.0)  # TensorFlow takes its time, on a busy machine more than 5 s
    ring = tmp_path / "ring"
    write_ring(ring, [table("keras"), table("tensorflow")])
    start.init(str(ring))
    assert driver.run(str(ring)).reason == "limit"
    keras, tensorflow = trunks(ring)
    assert all(np.array_equal(value, other) for value, other in zip(keras, tensorflow, strict=True))
    history = journal.load(str(ring / "journal.jsonl")).history
    with formats.open(str(ring / "keras" / f"model.ckpt-{history.latest('keras')}.weights.h5")) as checkpoint:
        assert checkpoint.read("optimizer/vars/0") == 2  # the steps that its optimizer has counted
    found = [(finding.model, finding.check, finding.reason) for finding in contract.check(str(ring))]
    checks = ["train", "reads", "repeat", "input", "init", "end", "restart", "sigterm"]
    models = {"keras": [*checks, "predict"], "tensorflow": checks}
    assert found == [(model, check, None) for model, names in models.items() for check in names]
