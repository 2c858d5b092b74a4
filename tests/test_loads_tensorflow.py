"""Whatever an operation writes, the framework of the model loads, with the right values; the rest is refused."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import loading
import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.filterwarnings("ignore")]


@pytest.mark.usefixtures("tf")
def test_results_load_or_were_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Every operation on every model: its framework loads the result, or the operation was refused with one line."""
    caplog.set_level(logging.ERROR)
    wrong = []
    count: Counter[str] = Counter()
    tried: set[str] = set()
    for name, model in loading.models(tmp_path):
        tried.add(name)
        for operation, expected in loading.operations(model):
            outcome = loading.attempt(model, operation, expected)
            count[outcome] += 1
            if outcome not in (loading.LOADED, loading.REFUSED):
                wrong.append(f"{operation} of {name}: {outcome}")
    assert not wrong
    assert len(tried) >= 15
    assert min(count[loading.LOADED], count[loading.REFUSED]) > 50
