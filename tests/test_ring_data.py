"""Rings on other rows than those of a csv: arrays of any rank, and batches that a Python function returns."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_here import train_here
from ring_support import history, promised, write_ring

from ckptsurgeon import data
from ckptsurgeon.data import source
from ckptsurgeon.errors import CkptSurgeonError, RefusedError, TrainerError, UsageError
from ckptsurgeon.ring import checking, driver, folder, rows, start
from ckptsurgeon.ring.predicting import ensemble, skflow_net
from ckptsurgeon.ring.spec import loading, template
from ckptsurgeon.schemes.skflow_names import CLASSIFIER, REGRESSOR
from ckptsurgeon.skflow.checkpoints.architecture import Architecture
from ckptsurgeon.skflow.trainer.batch_source import BatchSource

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """Trainers without processes: these tests are about what they train on."""
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        yield


def points(count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return points inside and outside of a circle, as images of one column."""
    X = np.random.default_rng(5).normal(size=(count, 2, 1))
    return X, np.where(np.square(X).sum(axis=(1, 2)) < 1, "in", "out")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ring on images, after 12 rounds."""
    ring = tmp_path_factory.mktemp("images")
    write_ring(ring, 12)
    X, y = points()
    np.savez(ring / "points.npz", X=X, kind=y)
    text = (ring / "ring.toml").read_text().replace("points.csv", "points.npz")
    (ring / "ring.toml").write_text(text)
    start.init(str(ring))
    driver.run(str(ring))
    return ring


def test_a_batch_keeps_the_axes_of_its_rows(images: Path) -> None:
    """Trainers get images as images; dense nets flatten them and have a vote."""
    X, _ = points()
    batch = data.load_npz(folder.existing(str(images)).batch)
    rows = data.Batches(60, 16, 42, 0.2).rows(11)
    assert np.array_equal(batch["X"], X[rows].astype(np.float32))
    scores = ensemble.evaluate(str(images))
    assert [line["rows"] for line in scores] == [12] * 4
    assert all(line["reason"] is None for line in scores)
    net = skflow_net.load(scores[0]["checkpoint"])
    assert np.array_equal(net.outputs(X.astype(np.float32)), net.outputs(X.astype(np.float32).reshape(60, 2)))


def test_other_rows_need_the_same_axes(images: Path, tmp_path: Path) -> None:
    """Images are scored and predicted from .npz and .npy; a table, or images of another size, are refused."""
    X, y = points(7)
    np.savez(tmp_path / "new.npz", X=X, kind=y)
    np.save(tmp_path / "new.npy", X)
    assert ensemble.evaluate(str(images), str(tmp_path / "new.npz"))[-1]["rows"] == 7
    by_npy, by_npz = (
        [row for part in ensemble.predict(str(images), str(tmp_path / name)) for row in part]
        for name in ("new.npy", "new.npz")
    )
    assert len(by_npy) == 8
    assert by_npy == by_npz
    np.savez(tmp_path / "flat.npz", X=X.reshape(7, 2), kind=y)
    with pytest.raises(UsageError, match=r"expected \[rows,2,1\], found \[rows,2\]"):
        ensemble.evaluate(str(images), str(tmp_path / "flat.npz"))
    with pytest.raises(RefusedError, match=r"expected numbers \[rows,2,1\], found float64 \[7,2\]"):
        list(ensemble.predict(str(images), str(tmp_path / "flat.npz")))
    (tmp_path / "new.csv").write_text("x,y\n1,2\n")
    with pytest.raises(RefusedError, match=r"a csv file cannot hold these rows; expected an .npy or .npz of numbers"):
        list(ensemble.predict(str(images), str(tmp_path / "new.csv")))


SOURCE = """
import numpy as np

def rows(seed, count=16):
    X = np.random.default_rng(seed).normal(size=(count, 2))
    return X, (np.square(X).sum(axis=1) >= 1).astype(int)

def batches(b):
    print("batch", b)
    return rows(b)

def held_out():
    return rows(10**6, 40)

def flowing(b):
    while True:
        yield rows(b)
        b += 1

asked = 0

def counting(b):
    global asked
    asked += 1
    return rows(asked)

def failing(b):
    with open(__file__ + ".calls", "a") as calls:
        calls.write(f"{b} ")
    return rows(b) if b < 2 else 1 / 0

def short(b):
    yield from [rows(0), rows(1)][b:]

def odd(b):
    return {"X": [[1, 2]], "y": [0]}
"""


def sourced(ring: Path, function: str = "batches", rounds: int = 3, more: str = "classes = 2", **options: Any) -> Path:
    """Write a ring whose batches a function of SOURCE returns."""
    write_ring(ring, rounds, **options)
    text = (ring / "ring.toml").read_text()
    old = 'file = "points.csv"\ntarget = "kind"\nbatch_size = 16'
    assert old in text
    (ring / "ring.toml").write_text(text.replace(old, f'file = "batches.py:{function}"\n{more}'))
    (ring / "batches.py").write_text(SOURCE)
    return ring


@pytest.fixture(scope="module")
def flowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ring on a function with held-out rows, after 3 rounds."""
    ring = sourced(tmp_path_factory.mktemp("source"), more='classes = ["in", "out"]\nheld_out = "held_out"')
    start.init(str(ring))
    driver.run(str(ring))
    return ring


def test_a_function_returns_the_batches(flowing: Path) -> None:
    """Every model trains on what it returned; its prints go to a log; held-out rows are scored; classes have names."""
    run = folder.existing(str(flowing))
    batch = data.load_npz(run.batch)
    X = np.random.default_rng(2).normal(size=(16, 2))
    assert np.array_equal(batch["X"], X.astype(np.float32))
    assert (batch["y"].dtype, batch["y"].tolist()) == (np.int64, (np.square(X).sum(axis=1) >= 1).astype(int).tolist())
    assert (flowing / "data" / "source.log").read_text().splitlines()[-1] == "batch 2"
    assert [line["rows"] for line in ensemble.evaluate(str(flowing))] == [40] * 4
    (flowing / "new.csv").write_text("x,y\n0,0\n")
    header, *_ = [row for part in ensemble.predict(str(flowing), str(flowing / "new.csv")) for row in part]
    assert header == ["prediction", "in", "out"]
    assert run.open_table().X.shape == (40, 2)


def test_one_step_by_hand_takes_its_batch_from_the_function(flowing: Path) -> None:
    """`train` in the ring's folder asks for the same rows; sizes and shares have no meaning there."""
    net, checkpoint = Architecture(2, (4,), CLASSIFIER, 2, "SGD"), str(flowing / "a" / "next")
    by_hand = BatchSource()
    for batch in (7, 3):
        X, y = by_hand.rows(checkpoint, net, batch)
        expected = np.random.default_rng(batch).normal(size=(16, 2))
        assert np.array_equal(X, expected.astype(np.float32))
        assert y.tolist() == (np.square(expected).sum(axis=1) >= 1).astype(int).tolist()
    with pytest.raises(UsageError, match="--batch-size: the ring's batches come from a Python function"):
        BatchSource(batch_size=3).rows(checkpoint, net, 0)


def test_another_network_ends_the_process_of_the_one_before(flowing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose network changes opens the rows again, and leaves no process behind."""
    started: list[rows.RunningProgram] = []

    class Recorded(rows.RunningProgram):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(rows, "RunningProgram", Recorded)
    source, checkpoint = BatchSource(), str(flowing / "a" / "next")
    for head, outputs in ((CLASSIFIER, 2), (CLASSIFIER, 2), (REGRESSOR, 1)):
        source.rows(checkpoint, Architecture(2, (4,), head, outputs, "SGD"), 0)
    first, second = started
    with pytest.raises(ProcessLookupError):
        os.kill(first.pid, 0)
    os.kill(second.pid, 0)
    with pytest.raises(RefusedError, match="expected 3 classes"):
        source.rows(checkpoint, Architecture(2, (4,), CLASSIFIER, 3, "SGD"), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(second.pid, 0)


def test_a_run_on_a_function_resumes_to_the_same_bytes(flowing: Path, tmp_path: Path) -> None:
    """Stopped after each round, and by an iterator in place of a function; without held-out rows, --data is needed."""
    for function in ("batches", "flowing"):
        ring = sourced(tmp_path / function, function)
        start.init(str(ring))
        for rounds in (1, 2, 3):
            driver.run(str(ring), rounds=rounds)
        assert promised(ring) == promised(flowing)
    with pytest.raises(UsageError, match="no rows are held out; name a file with --data"):
        ensemble.evaluate(str(ring))
    run = folder.existing(str(ring))
    assert len(run.open_table().X) == 0
    assert np.array_equal(rows.examples(run, run.open_table(), 5), data.load_npz(run.batch)["X"][:5])
    (ring / "new.csv").write_text("x,y,kind\n0,0,0\n3,3,1\n")
    assert ensemble.evaluate(str(ring), str(ring / "new.csv"), "kind")[-1]["rows"] == 2


def test_another_function_than_at_the_start_is_refused(flowing: Path, tmp_path: Path) -> None:
    """A run would continue on other rows; a change that returns the same rows does not matter."""
    ring = Path(shutil.copytree(flowing, tmp_path / "ring"))
    (ring / "batches.py").write_text("# a comment" + SOURCE)
    driver.run(str(ring), rounds=4)
    (ring / "batches.py").write_text(SOURCE.replace("rows(b)", "rows(b + 1)"))
    with pytest.raises(RefusedError, match="returns another batch 0 than when the run began; restore the function"):
        driver.run(str(ring), rounds=5)
    (ring / "batches.py").unlink()
    with pytest.raises(CkptSurgeonError, match=r"batches\.py: no such file"):
        driver.run(str(ring), rounds=5)


def test_a_function_must_depend_on_the_batch_alone(flowing: Path, tmp_path: Path) -> None:
    """`ring check` asks twice, in another order, and by another process."""
    assert rows.impurity(folder.existing(str(flowing)), loading.load(str(flowing / "ring.toml"))) is None
    ring = sourced(tmp_path / "ring", "counting")
    reason = rows.impurity(folder.existing(str(ring)), loading.load(str(ring / "ring.toml")))
    assert reason is not None
    assert reason.startswith("returned other rows for batch 3 when asked in another order")
    start.init(str(ring))
    found = next(checking.check(str(ring)))
    assert (found.model, found.check, found.ok, found.reason) == ("data", "source", False, reason)


@pytest.mark.parametrize(
    ("function", "more", "words"),
    [
        ("nothing", "classes = 2", r"nothing\(0\) said: has no function 'nothing'"),
        ("odd", "classes = 2", r"odd\(0\) said: odd does not return rows; expected \(X, y\), found dict"),
        ("batches", "", r"y cannot be used; expected floats .*; for classes, write classes = NUMBER under \[data\]"),
        ("batches", 'classes = 2\nheld_out = "odd"', r"odd\(\) said: TypeError"),
    ],
)
def test_what_is_wrong_with_a_function_is_told_at_the_start(
    tmp_path: Path, function: str, more: str, words: str
) -> None:
    """The file, the call and the reason stand in one line, and nothing was made."""
    ring = sourced(tmp_path, function, more=more)
    with pytest.raises(CkptSurgeonError, match=words) as caught:
        start.init(str(ring))
    assert "batches.py" in str(caught.value)
    assert not (ring / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("failing", "failing.2. said: ZeroDivisionError: division by zero"),
        ("short", "short has no batch 2; a source has"),
    ],
)
def test_a_function_that_fails_later_stops_the_run(tmp_path: Path, function: str, words: str) -> None:
    """The run can be resumed when the function is mended."""
    ring = sourced(tmp_path, function)
    start.init(str(ring))
    with pytest.raises(TrainerError, match=words):
        driver.run(str(ring))
    assert history(ring).round == 2  # the batch is asked for before the last step of that round is journalled
    if function == "failing":
        assert (ring / "batches.py.calls").read_text().split().count("2") == 1
    (ring / "batches.py").write_text(SOURCE.replace("1 / 0", "rows(b)").replace("rows(1)]", "rows(1), rows(2)]"))
    assert driver.run(str(ring)).round == 3


@pytest.mark.parametrize(
    ("X", "y", "classes", "words"),
    [
        ([1.0], [0], 2, "X cannot be used; expected numbers .*found float64 .1."),
        ([["a"]], [0], 2, "X cannot be used"),
        ([[float("nan")]], [0], 2, "X contains values that are not finite"),
        ([[1.0]], [0, 1], 2, r"y cannot be used; expected \[1\], found int64 \[2\]"),
        ([[1.0]], [2], 2, "y cannot be used; expected class numbers from 0 to 1, found 2 to 2"),
        ([[1.0]], [0.5], 2, "class numbers from 0 to 1, found float64"),
        ([[1.0]], ["c"], ["a", "b"], "y contains an unknown class; expected a or b, found 'c'"),
        ([[1.0]], [float("inf")], None, "y contains values that are not finite"),
    ],
)
def test_rows_of_a_function_are_checked(X: object, y: object, classes: Any, words: str) -> None:
    """A trainer gets numbers that it can use, or the run stops with one line."""
    with pytest.raises(RefusedError, match=words):
        source.checked(X, y, classes)


def test_names_of_classes_and_values_are_taken_from_a_function() -> None:
    """Names become numbers in the order of ring.toml; values keep their outputs; images keep their axes."""
    assert source.checked([[1.0], [2.0]], ["b", "a"], ["a", "b"])[1].tolist() == [1, 0]
    X, y = source.checked(np.zeros((2, 8, 8, 1), np.uint8), [[0.5, 1.0], [1.0, 2.0]], None)
    assert (X.dtype, X.shape, y.dtype, y.shape) == (np.float32, (2, 8, 8, 1), np.float32, (2, 2))


def test_a_string_is_short_for_a_source() -> None:
    """`data = "file.py:function"`; keys that a function makes meaningless are refused, and others without one."""
    models = [{"name": name, "worker": ["w"]} for name in "ab"]
    read = loading.parse({"layers": "0", "data": "some/b.py:batches", "models": models}).data
    assert read is not None
    assert (read.source, read.holds_out) == (("some/b.py", "batches"), False)
    for table, words in (
        ({"file": "b.py:f", "batch_size": 3}, "data.batch_size: is not valid with a Python source"),
        ({"file": "b.csv", "classes": 3}, "data.classes: is only valid with a Python source"),
        ({"file": "b.py:f", "classes": ["a", "a"]}, "data.classes: wrong value"),
        ({"file": "b.py:f", "held_out": "no name"}, "data.held_out: wrong value"),
    ):
        with pytest.raises(UsageError, match=words):
            loading.parse({"layers": "0", "data": table, "models": models})
    table = {"file": "b.py:f", "classes": ["a", "b"], "held_out": "g"}
    given = loading.parse({"layers": "0", "data": table, "models": models})
    assert loading.parse(tomllib.loads(template.render(given))) == given
