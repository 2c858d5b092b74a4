"""The ring from a shell: the recipe in the docs, run as it stands, and where `train` and `worker` find rows."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from builtin_here import train_here
from conftest import ROOT
from sklearn.datasets import load_iris

from ckptsurgeon import data, formats
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.skflow.trainer.arguments import parse_worker
from ckptsurgeon.skflow.trainer.batch_source import BatchSource
from ckptsurgeon.skflow.trainer.checkpoint_trainer import CheckpointTrainer
from ckptsurgeon.skflow.worker import RequestHandler

pytestmark = pytest.mark.tensorflow

RECIPE = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "docs" / "ring-from-a-shell.md").read_text(), re.M | re.S)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with iris.csv and `shell`, the ring that the recipe begins with."""
    folder = tmp_path_factory.mktemp("shell")
    iris = load_iris()
    names = iris.target_names[iris.target]
    rows = [",".join([*map(str, row), name]) for row, name in zip(iris.data, names, strict=True)]
    (folder / "iris.csv").write_text("\n".join(["a,b,c,d,species", *rows]) + "\n")
    first, *_ = RECIPE
    with pytest.MonkeyPatch.context() as monkeypatch:
        train_here(monkeypatch)
        done = command_line.run(*first.split()[1:], cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(prepared, tmp_path / "work"))


def values(path: Path) -> dict[str, Any]:
    with formats.open(str(path)) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def test_the_recipe_gives_the_weights_of_the_driver(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three rounds by `train`, a warm worker and `graft` equal three of `ring run`, bit for bit."""
    shutil.copytree(folder / "shell", folder / "driven")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = "set -e\n" + "".join(RECIPE[1:])
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=900
    )
    assert (done.returncode, done.stderr) == (0, "")
    train_here(monkeypatch)
    done = command_line.run("ring", "run", "driven", "--until", "rounds=3", cwd=folder)
    assert done.returncode == 0, done.stderr
    for name in "ab":
        mine, driven = values(folder / "shell" / name), values(folder / "driven" / name)
        assert mine.keys() == driven.keys()
        assert mine["global_step"] == 3
        for variable, value in mine.items():
            np.testing.assert_array_equal(value, driven[variable], err_msg=variable)


def ask(worker: RequestHandler, **request: Any) -> dict[str, Any]:
    return worker.answer(json.dumps({"v": 1, "op": "train", "step": 1, "data": None, **request}).encode())


def test_settings_that_are_given_come_before_those_of_the_ring(folder: Path) -> None:
    """Rows, seed, batch size and holdout are the ring's, each unless the worker was started with another."""
    table = data.read(str(folder / "iris.csv"), "species")
    model, out = str(folder / "shell" / "b"), str(folder / "out")
    for given, batches in (
        ([], data.Batches(150, 32, 42, 0.2)),
        (["--seed", "1", "--batch-size", "10", "--holdout", "0"], data.Batches(150, 10, 1, 0)),
    ):
        rows = batches.rows(6)
        expected = CheckpointTrainer(None, 0.1).train(model, str(folder / "wanted"), table.X[rows], table.y[rows])
        reply = ask(RequestHandler(*parse_worker(given)), batch=6, checkpoint=model, output=out)
        assert reply == {"step": 1, "metrics": expected}
    worker = RequestHandler(*parse_worker(["--data", str(folder / "iris.csv"), "--target", "species"]))
    rows = data.Batches(150, 32, 0).rows(6)
    expected = CheckpointTrainer(None, 0.1).train(model, str(folder / "wanted"), table.X[rows], table.y[rows])
    assert ask(worker, batch=6, checkpoint=model, output=out) == {"step": 1, "metrics": expected}


def test_requests_that_find_no_rows_say_where_they_would_be(folder: Path) -> None:
    """Outside a ring, in a ring without [data], without a batch's number, and init without a network: one line each."""
    worker = RequestHandler(*parse_worker([]))
    model, out = str(folder / "shell" / "a"), str(folder / "out")
    assert "the request has no valid batch" in ask(worker, checkpoint=model, output=out)["error"]
    reply = ask(worker, op="init", seed=1, output=out)
    assert reply["error"].startswith("this worker knows no network for init requests; start it with --hidden-units")
    shutil.copytree(folder / "shell" / "a", folder / "alone")
    reply = ask(worker, batch=0, checkpoint=str(folder / "alone"), output=out)
    hint = "--data FILE names the rows, and a ring's folder has its own"
    assert reply["error"] == f"{folder / 'alone'}: there are no rows to train on; {hint}"
    (folder / "ring.toml").write_text('layers = "0"\n[[models]]\nname = "a"\nworker = ["x"]\n'
                                      '[[models]]\nname = "b"\nworker = ["x"]\n')  # fmt: skip
    reply = ask(worker, batch=0, checkpoint=str(folder / "alone"), output=out)
    assert reply["error"] == f"{folder / 'ring.toml'}: has no [data]; --data FILE names the rows"
    assert not list(folder.glob("out*"))


def test_a_network_of_other_classes_is_refused(folder: Path) -> None:
    """A checkpoint in a ring's folder whose head has two outputs is not trained on its three classes."""
    from ckptsurgeon.schemes.skflow_names import CLASSIFIER
    from ckptsurgeon.skflow.checkpoints.architecture import Architecture

    with pytest.raises(CkptSurgeonError, match=r"the target 'species' of the ring does .* found 3 classes"):
        BatchSource().rows(str(folder / "shell" / "x"), Architecture(4, (5,), CLASSIFIER, 2, "SGD"), 0)
