"""TensorFlow saves over a recipient and reads it while we write: # in processes of their own."""

from __future__ import annotations

from pathlib import Path

import crowds
import pytest


@pytest.mark.tensorflow
def test_tensorflow_in_a_crowd(tmp_path: Path) -> None:
    """TensorFlow's saves, which take no lock, and our writers: every reader gets one version, or an error."""
    told = crowds.play("tensorflow saves", tmp_path, 0, writers=3, readers=2, rounds=5)
    assert told["saved"] == 5
    assert told["read"] + told["told why not"] == 10
    assert told["done"] + told["refused"] == 15
