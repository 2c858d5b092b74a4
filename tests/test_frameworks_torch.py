"""PyTorch modules from a user's function: the worker that trains them, and their checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nets_here import IMAGES, Here, bytes_of, save_rows

from ckptsurgeon import formats

torch = pytest.importorskip("torch")

FUNCTION = """
import torch
from torch import nn

def images(input_shape, classes, seed):
    body = nn.Sequential(nn.Conv2d(8, 4, (3, 1)), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5))
    module = nn.Sequential(body, nn.LazyLinear(classes))
    module(torch.zeros(1, *input_shape))
    return module, torch.optim.{optimizer}(module.parameters(), {options})
"""


@pytest.mark.parametrize("ending", ["", ".safetensors", ".npz"])
@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "Adagrad"])
def test_a_step_depends_on_its_request_alone(tmp_path: Path, optimizer: str, ending: str) -> None:
    """The optimizer's state is in the checkpoint from the first one on, so another worker writes the same bytes."""
    file = tmp_path / f"model_{optimizer}.py"
    options = "lr=0.05, momentum=0.9" if optimizer == "SGD" else "lr=0.05"
    file.write_text(FUNCTION.format(optimizer=optimizer, options=options))
    rows = save_rows(tmp_path / "rows.npz")
    worker = Here(f"{file}:images", IMAGES, 4)
    path = [tmp_path / f"{step}{ending}" for step in range(5)]
    assert worker.ask("init", path[0], seed=4) == {"step": 1, "metrics": {}}
    losses = [worker.ask("train", path[k + 1], path[k], rows, 8)["metrics"]["loss"] for k in range(4)]
    assert losses[-1] < losses[0]
    with formats.open(str(path[0])) as first, formats.open(str(path[4])) as last:
        assert set(first.variables) == set(last.variables)
        assert last.read("optimizer/steps") == 4
        assert any(name.startswith("optimizer/0.0.weight/") for name in last.variables)
    other = Here(f"{file}:images", IMAGES, 4)
    other.ask("train", tmp_path / f"again{ending}", path[1], rows, 8)
    assert bytes_of(tmp_path / f"again{ending}") == bytes_of(path[2])
    assert other.ask("predict", tmp_path / "out.npy", path[4], rows, 4) == {"step": 1, "metrics": {}}
    assert np.allclose(np.load(tmp_path / "out.npy").sum(axis=1), 1)


def test_the_first_steps_are_those_of_plain_pytorch(tmp_path: Path) -> None:
    """Momentum, averages and counters go on as in a loop without checkpoints."""
    file = tmp_path / "plain.py"
    file.write_text(
        "import torch\n"
        "def build(input_shape, classes, seed):\n"
        "    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))\n"
        "    return module, torch.optim.AdamW(module.parameters(), lr=0.01)\n"
    )
    rows, worker = save_rows(tmp_path / "rows.npz"), Here(f"{file}:build", IMAGES, 4)
    worker.ask("init", tmp_path / "0.safetensors", seed=4)
    for k in range(3):
        worker.ask("train", tmp_path / f"{k + 1}.safetensors", tmp_path / f"{k}.safetensors", rows, 8)
    torch.manual_seed(4)
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    batch = np.load(rows)
    for _ in range(3):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(batch["X"])), torch.from_numpy(batch["y"]))
        loss.backward()
        optimizer.step()
    with formats.open(str(tmp_path / "3.safetensors")) as last:
        assert np.array_equal(last.read("1.weight"), module[1].weight.detach().numpy())


def test_a_keras_format_is_refused(tmp_path: Path) -> None:
    """A module is not saved as a file of Keras."""
    file = tmp_path / "keras_format.py"
    file.write_text("import torch\ndef build(input_shape, classes, seed):\n    return torch.nn.Flatten()\n")
    error = Here(f"{file}:build", IMAGES, 4).ask("init", tmp_path / "0.weights.h5", seed=4)["error"]
    assert 'expected format = "safetensors", "npz" or "bundle"' in error or "empty parameter list" in error


def test_a_rate_of_ring_toml_replaces_the_functions(tmp_path: Path) -> None:
    """A step with a rate moves the weights by as much as that says, and the next one without is the function's own."""
    file = tmp_path / "rates.py"
    file.write_text(
        "import torch\n"
        "def build(input_shape, classes, seed):\n"
        "    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))\n"
        "    return module, torch.optim.SGD(module.parameters(), lr=0.5)\n"
    )
    rows, worker = save_rows(tmp_path / "rows.npz"), Here(f"{file}:build", IMAGES, 4)
    worker.ask("init", tmp_path / "0.npz", seed=4)
    moved = []
    for name, more in (("own", {}), ("half", {"learning_rate": 0.25}), ("again", {})):
        worker.ask("train", tmp_path / f"{name}.npz", tmp_path / "0.npz", rows, 8, **more)
        moved.append(np.load(tmp_path / f"{name}.npz")["1.bias"] - np.load(tmp_path / "0.npz")["1.bias"])
    assert np.allclose(moved[0], 2 * moved[1])
    assert np.array_equal(moved[0], moved[2])
