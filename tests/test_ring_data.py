"""Rings on other rows than those of a csv: arrays of any rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ring_support import write_ring

from ckptsurgeon import data
from ckptsurgeon.errors import RefusedError, UsageError
from ckptsurgeon.ring import driver, folder, start
from ckptsurgeon.ring.predicting import ensemble, skflow_net


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
    with pytest.raises(RefusedError, match=r"a csv cannot hold these rows; expected an .npy or .npz of numbers"):
        list(ensemble.predict(str(images), str(tmp_path / "new.csv")))
