"""The example trainers: what they say at their top works, in rings of several frameworks and formats."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ring_support import PROGRAM
from trainer_support import SIZES, TRAINERS, table, trunks, write_ring

from ckptsurgeon import formats
from ckptsurgeon.ring import checking, driver, start

NAMES = ("keras", "numpy", "pytorch", "tensorflow")


def test_each_example_is_short_and_says_how_it_is_used() -> None:
    """About 40 lines with a framework; NumPy's writes the gradients out, and says more."""
    assert sorted(path.name for path in TRAINERS.glob("*_trainer.py")) == [f"{name}_trainer.py" for name in NAMES]
    for name in NAMES:
        text = (TRAINERS / f"{name}_trainer.py").read_text()
        assert len(text.splitlines()) < (80 if name == "numpy" else 42)
        assert table(name)["worker"][1:] == [str(TRAINERS / f"{name}_trainer.py"), SIZES]


def test_frameworks_share_one_trunk(tmp_path: Path) -> None:
    """Workers and a command, npz, TensorFlow's format and PyTorch (safetensors, transposed); all keep the contract."""
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    ring = tmp_path / "ring"
    command = table("numpy", "command") | {"name": "command", "init": str(tmp_path / "first.npz")}
    request = {"op": "init", "step": 0, "seed": 3, "checkpoint": None, "output": command["init"]}
    given = json.dumps(request).encode()
    subprocess.run(table("numpy")["worker"], input=given, check=True, stdout=subprocess.DEVNULL)
    other = {"name": "bundle", "worker": [*PROGRAM, "worker", "--hidden", "6,5,3"]}
    write_ring(ring, [table("numpy"), command, other, table("pytorch")])
    start.init(str(ring))
    assert driver.run(str(ring)).reason == "limit"
    first_trunk, *others = trunks(ring)
    assert [value.shape for value in first_trunk] == [(2, 6), (6,), (6, 5), (5,)]
    for trunk in others:
        assert all(np.array_equal(value, other) for value, other in zip(first_trunk, trunk, strict=True))

    found = list(checking.check(str(ring)))
    assert [f for f in found if not f.ok] == []
    assert [f.check for f in found if f.model == "pytorch"][-1] == "predict"


def test_the_example_on_numpy_needs_nothing_but_numpy(tmp_path: Path) -> None:
    """It learns, and its checkpoints open; the package is not even importable for it."""
    random = np.random.default_rng(1)
    X = random.normal(size=(32, 2)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=X, y=(X[:, 0] > X[:, 1]).astype(np.int64))
    path = [str(tmp_path / f"{step}.npz") for step in range(201)]
    requests: list[dict[str, object]] = [{"op": "init", "step": 0, "seed": 1, "output": path[0]}]
    for step in range(1, 201):
        given = {"checkpoint": path[step - 1], "data": str(tmp_path / "rows.npz")}
        requests.append({"op": "train", "step": step, "output": path[step], **given})
    program = [sys.executable, "-S", str(TRAINERS / "numpy_trainer.py"), "2,4,2"]
    packages = tmp_path / "packages"
    packages.mkdir()
    for package in (Path(np.__file__).parent, *Path(np.__file__).parent.parent.glob("numpy*.libs")):
        (packages / package.name).symlink_to(package)
    environment = {**os.environ, "PYTHONPATH": str(packages)}
    done = subprocess.run(
        program, input="\n".join(map(json.dumps, requests)), capture_output=True, text=True, env=environment, check=True
    )
    losses = [json.loads(line)["metrics"]["loss"] for line in done.stdout.splitlines()[1:]]
    assert len(losses) == 200
    assert losses[-1] < losses[0] / 4
    with formats.open(path[-1]) as checkpoint:
        assert checkpoint.variables["dnn/layer0/Linear/Matrix/Adagrad"].shape == (2, 4)
