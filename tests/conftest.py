"""What all tests share, and in which order they run.

In one process the fast ones come first, and those that start TensorFlow last. In several (pytest-xdist), those that
start TensorFlow share one process, the others go file by file, and what takes longest begins first, so that no process
works on when the others have nothing left to do.
"""

from __future__ import annotations

import functools
import gc
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from ckptsurgeon.formats.keras.sandbox import spawning

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs ignore Ctrl-C, and so would children
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts a time: on a busy machine, an example takes as long as it takes.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

ROOT = Path(__file__).resolve().parent.parent


# Files of more than a few seconds, by processor time, longest first: they start rings, processes, fuzzers, or break
# an operation at each of its calls. --quick leaves them out. Those that fork this process come before those that import
# TensorFlow into it: a large process takes ten times as long to fork.
FORKING = ["test_conformance.py", "test_bundle_publish.py", "test_fuzz.py", "test_hdf5_hostile.py", "test_crowds.py"]
SLOW = [
    *FORKING,
    "test_faults.py",
    "test_ring_driver.py",
    "test_powercut.py",
    "test_cli_ring.py",
    "test_keras_across.py",
    "test_ring_check.py",
    "test_bundle_hostile.py",
    "test_limits.py",
    "test_cli.py",
    "test_pipes.py",
    "test_bundle.py",
    "test_ring_plot.py",
    "test_ring_predict.py",
    "test_hdf5.py",
    "test_ring_local.py",
    "test_ring_live.py",
    "test_v1_hostile.py",
    "test_contract.py",
    "test_ring_ensemble.py",
    "test_safetensors.py",
    "test_npz.py",
    "test_data.py",
    "test_trainers.py",
    "test_ring_convergence.py",
    "test_ring_spec.py",
    "test_ring_journal.py",
    "test_undo.py",
    "test_ring_data.py",
    "test_data_kinds.py",
    "test_ring_patience.py",
]
COLLECTED_TENSORFLOW = pytest.StashKey[bool]()
FIRST = ["tensorflow", *FORKING, "children", *[file for file in SLOW if file not in FORKING]]  # groups


def pytest_configure() -> None:
    """Start the process that forks the readers of HDF5 files while this one is small: forking it takes long later."""
    spawning.spawner()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note, for a test of the house, whether importing the tests imported TensorFlow: each process imports them all."""
    session.config.stash[COLLECTED_TENSORFLOW] = "tensorflow" in sys.modules


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --quick."""
    parser.addoption("--quick", action="store_true", help="leave out tests that start TensorFlow, and slow ones")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out, with --quick, even the imports of files that would have no test."""
    name = collection_path.name
    quick = config.getoption("quick")
    return True if quick and (name in SLOW or name.startswith("test_skflow") or "_tensorflow" in name) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests in order."""
    if config.getoption("quick"):
        left_out = [item for item in items if _starts_tensorflow(item) or item.get_closest_marker("slow")]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
    items.sort(key=_rank if hasattr(config, "workerinput") else _starts_tensorflow)


def _starts_tensorflow(item: pytest.Item) -> bool:
    return item.get_closest_marker("tensorflow") is not None


def _rank(item: pytest.Item) -> int:
    group = _group(item.path.name)
    return FIRST.index(group) if group in FIRST else len(FIRST)


@functools.cache
def _group(file: str) -> str:
    """The tests that one process runs together with those of a file: of all files that start TensorFlow, or its own."""
    text = (ROOT / "tests" / file).read_text()
    if "pytest.mark.tensorflow" not in text:
        return file
    return "children" if "# in processes of their own" in text else "tensorflow"


class ByGroup(LoadScopeScheduling):
    """Hands out the tests of a group together: xdist's own loadgroup does nothing under pytest 9.2."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0].rpartition("/")[2])


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByGroup:
    """Schedule by group."""
    return ByGroup(config, log)


@pytest.fixture(scope="session")
def samples() -> Path:
    """The folder of checkpoints by other people's programs; its tests are skipped where it is absent."""
    folder = ROOT.parent / "shared" / "samples"
    if not folder.is_dir():
        pytest.skip("no ../shared/samples here")
    return folder


@pytest.fixture(scope="session")
def tf() -> Any:
    """TensorFlow, started once, with both Keras.

    Garbage collection leaves out what was imported: TensorFlow has a million objects, and Keras collects often.
    """
    found = pytest.importorskip("tensorflow")
    for name in ("keras", "tf_keras"):
        pytest.importorskip(name)
    gc.collect()
    gc.freeze()
    return found


@pytest.fixture(scope="session")
def keras(tf: Any) -> Any:
    """Keras 3."""
    return importlib.import_module("keras")


@pytest.fixture(scope="session")
def old(tf: Any) -> Any:
    """Keras 2, as tf_keras."""
    return importlib.import_module("tf_keras")
