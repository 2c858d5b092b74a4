"""What all tests share. The fast ones come first; those that start TensorFlow come last, in one process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings

ROOT = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks for the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests that start TensorFlow last; where tests run in several processes, these in one, and every file."""

    def starts_tensorflow(item: pytest.Item) -> bool:
        return item.get_closest_marker("tensorflow") is not None

    items.sort(key=starts_tensorflow)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("tensorflow" if starts_tensorflow(item) else item.path.name))


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of checkpoints by other people's programs; its tests are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "samples"
    if not folder.is_dir():
        pytest.skip("no ../shared/samples here")
    return folder


@pytest.fixture(scope="session")
def keras() -> Any:
    """Keras 3."""
    pytest.importorskip("tensorflow")
    return pytest.importorskip("keras")


@pytest.fixture(scope="session")
def old() -> Any:
    """Keras 2, as tf_keras."""
    pytest.importorskip("tensorflow")
    return pytest.importorskip("tf_keras")
