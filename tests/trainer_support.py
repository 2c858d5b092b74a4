"""Rings of the example trainers, for the tests of each framework."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ring_support import toml

from ckptsurgeon import formats
from ckptsurgeon.ring import journal
from ckptsurgeon.ring.spec import loading

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TRAINERS = Path(__file__).resolve().parent.parent / "scripts" / "trainers"
SIZES = "2,6,5,4,2"  # two features, hidden layers of 6, 5 and 4 units, two classes


def table(name: str, kind: str = "worker") -> dict[str, Any]:
    """Return the [[models]] table that a trainer's first lines show, for this machine and a small net.

    Args:
        name: the framework.
        kind: worker, or command where the lines show that too.
    """
    text = (TRAINERS / f"{name}_trainer.py").read_text()
    shown = ast.get_docstring(ast.parse(text))
    assert shown is not None
    lines = [line for line in shown.splitlines() if re.match(r"\[\[models\]\]|\w+ = ", line)]
    (model,) = tomllib.loads("\n".join(lines))["models"]
    places = {"python": sys.executable, f"/path/to/{name}_trainer.py": str(TRAINERS / f"{name}_trainer.py")}
    for key in {"worker", "command", "init"} - ({"worker"} if kind == "worker" else {"command", "init"}):
        model.pop(key, None)
    for key in (kind, "predict"):
        if key in model:
            model[key] = [places.get(word, SIZES if re.fullmatch(r"[\d,]+", word) else word) for word in model[key]]
    return {**model, "name": name, "timeout": 1800}


def write_ring(folder: Path, models: list[dict[str, Any]], **options: Any) -> None:
    """Write ring.toml, with a trunk of two layers, and its rows."""
    folder.mkdir(parents=True)
    points = np.random.default_rng(5).normal(size=(80, 2)).tolist()
    rows = [f"{x},{y},{'in' if x * x + y * y < 1 else 'out'}\n" for x, y in points]
    (folder / "points.csv").write_text("x,y,kind\n" + "".join(rows))
    values = {"layers": "0-1", "stop": {"rounds": 2, "window": 20}, **options}
    lines = [f"{key} = {toml(value)}" for key, value in values.items()]
    lines += ["[data]", 'file = "points.csv"', 'target = "kind"', "batch_size = 16"]
    for model in models:
        lines += ["[[models]]", *(f"{key} = {toml(value)}" for key, value in model.items())]
    (folder / "ring.toml").write_text("\n".join(lines) + "\n")


def trunks(folder: Path) -> list[list[np.ndarray[Any, Any]]]:
    """Return matrices and biases of the first two layers of each model's latest checkpoint, matrices as [in, out]."""
    spec = loading.load(str(folder / "ring.toml"))
    history = journal.load(str(folder / "journal.jsonl")).history
    found = []
    for name in spec.names:
        path = folder / name / f"model.ckpt-{history.latest(name)}{spec.suffixes[name]}"
        with formats.open(str(path)) as checkpoint:
            values = []
            for names in NAMES:
                (known,) = (each for each in names if each in checkpoint.variables)
                value = np.asarray(checkpoint.read(known))
                values.append(value.T if known.endswith(".weight") else value)
        found.append(values)
    return found


# What the trainers call the variables of the trunk.
NAMES = [
    ("dnn/layer0/Linear/Matrix", "layers.0.weight", "layers/dense/vars/0"),
    ("dnn/layer0/Linear/Bias", "layers.0.bias", "layers/dense/vars/1"),
    ("dnn/layer1/Linear/Matrix", "layers.1.weight", "layers/dense_1/vars/0"),
    ("dnn/layer1/Linear/Bias", "layers.1.bias", "layers/dense_1/vars/1"),
]
