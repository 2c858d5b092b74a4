"""Rings of three small NumPy models, for the tests of driver, ensemble and command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptsurgeon import formats
from ckptsurgeon.formats import state
from ckptsurgeon.ring import driver, journal
from ckptsurgeon.ring.schedule import Schedule

MODELS = ("a", "b", "c")
HIDDEN = {"a": "4,3,5", "b": "4,3", "c": "4,3,6"}  # the trunk, layers 0-1, is the same
SCHEDULE = Schedule(MODELS)
STEPS = len(SCHEDULE.part(1).steps)
TIMEOUT = 600  # seconds for a step; it passes in no test but where the clock is made to jump
PROGRAM = [sys.executable, str(Path(__file__).with_name("numpy_trainer.py"))]
COMMAND = [*PROGRAM, "command", "{checkpoint}", "{output}", "--data", "{data}", "--step", "{step}"]

# A ring.toml with every key of a run and models of three kinds.
FULL = """
layers = "0-1"
stages = [{ rounds = 5, layers = "0" }]
freeze = 50
learning_rate = { schedule = "step", start = 0.1, every = 50 }
schedule = "ring"
order = ["c", "a", "b"]
warmup = 2
slots = "fill=0.1"
seed = 7
durability = "step"
max_to_keep = 3
stop = { tolerance = 1e-3, window = 10, rounds = 100, trunk_tolerance = 1e-4, patience = 3 }

[data]
file = "iris.csv"
target = "species"
batch_size = 16
holdout = 0.1

[[models]]
name = "a"
hidden_units = [10, 20, 10]
optimizer = "SGD"
learning_rate = 1

[[models]]
name = "b"
command = ["python", "train.py", "{checkpoint}", "{output}", "--data", "{data}"]
init = "first.ckpt"
format = "safetensors"
scheme = "layers.{K}.**"
map = ["layers.*.weight=dnn/layer*/Linear/Matrix.T", "layers.*.bias=dnn/layer*/Linear/Bias"]
predict = ["python", "predict.py", "{checkpoint}", "{data}", "{output}"]
learning_rate = [{ rounds = 5, rate = 0.1 }, { rounds = 1, rate = 0.01 }]
memory = 2000
timeout = 5
tries = 1

[[models]]
name = "c"
worker = ["./my-worker"]
"""


def write_ring(folder: Path, rounds: int = 6, **options: Any) -> None:
    """Write ring.toml and its rows.

    Args:
        folder: where.
        rounds: the limit.
        options: of the run, and of models as `a={...}`: worker options, or whole keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(5)
    rows = [f"{x},{y},{'in' if x * x + y * y < 1 else 'out'}\n" for x, y in random.normal(size=(60, 2))]
    (folder / "points.csv").write_text("x,y,kind\n" + "".join(rows))
    models = [options.pop(name, {}) for name in MODELS]
    stop = {"tolerance": 1e-9, "window": 2, "rounds": rounds, **options.pop("stop", {})}
    lines = ['layers = "0-1"', f"stop = {toml(stop)}", *(f"{key} = {toml(v)}" for key, v in options.items())]
    lines += ["[data]", 'file = "points.csv"', 'target = "kind"', "batch_size = 16"]
    for name, given in zip(MODELS, models, strict=True):
        keys = {"name": name, "tries": 1, "timeout": TIMEOUT, **given}
        if "command" not in keys:
            keys["worker"] = [*PROGRAM, "worker", "--hidden", HIDDEN[name], *given.get("worker", [])]
        lines += ["[[models]]", *(f"{key} = {toml(value)}" for key, value in keys.items())]
    (folder / "ring.toml").write_text("\n".join(lines) + "\n")


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def drive(folder: Path, rounds: int | None = None) -> subprocess.Popen[str]:
    """Start a driver as a process of its own, up to a number of rounds; it prints a line after each."""
    program = (
        "import sys\n"
        "from ckptsurgeon.ring import driver\n"
        "told = lambda text: print(text, file=sys.stderr, flush=True)\n"
        "shown = lambda past: print(past.round, flush=True)\n"
        "rounds = int(sys.argv[2]) if sys.argv[2:] else None\n"
        "print(driver.run(sys.argv[1], rounds=rounds, warn=told, on_round=shown).reason)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder), *([] if rounds is None else [str(rounds)])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def interrupt(folder: Path, after: int) -> None:
    """Drive a ring in this process until its journal has so many more lines, and not beyond."""
    append, left = journal.Journal.append, [after]

    def limited(self: journal.Journal, *arguments: Any, **keywords: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        append(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.Journal, "append", limited)
        with pytest.raises(KeyboardInterrupt):
            driver.run(str(folder))


def kill(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.communicate()


def steps(folder: Path) -> int:
    """Return the number of lines in the journal after its head, without reading more than that."""
    return (folder / "journal.jsonl").read_bytes().count(b"\n") - 1


def history(folder: Path) -> journal.History:
    return journal.load(str(folder / "journal.jsonl")).history


def records(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the journal, one for each step; of a step that was done again, the last."""
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()[1:]]
    by_step = {line["step"]: line for line in lines if line["kind"] not in ("edit", "settings")}
    return [by_step[number] for number in range(1, lines[-1]["step"] + 1)]


def promised(folder: Path) -> dict[str, bytes]:
    """Return all that must be the same after an interruption: the latest checkpoints and the state files."""
    past, files = history(folder), {}
    for name in past.models:
        files[f"{name}/checkpoint"] = (folder / name / "checkpoint").read_bytes()
        for path in sorted((folder / name).glob(f"model.ckpt-{past.latest(name)}.*")):
            files[f"{name}/{path.name}"] = path.read_bytes()
    assert len(files) >= 2 * len(past.models)  # a format may store a checkpoint in a single file
    return files


def checkpoints(folder: Path, name: str) -> set[int]:
    """Return the steps of which a model's folder holds any file."""
    return {int(path.name.split(".")[1].removeprefix("ckpt-")) for path in (folder / name).glob("model.ckpt-*")}


def trunk(folder: Path, name: str, step: int) -> list[bytes]:
    with formats.open(str(folder / name / f"model.ckpt-{step}")) as checkpoint:
        names = [n for n in checkpoint.variables if n.startswith(("dnn/layer0/", "dnn/layer1/"))]
        assert len(names) == 8
        return [checkpoint.read(n).tobytes() for n in sorted(names) if not n.endswith("Adagrad")]


def latest_by_state_file(folder: Path, name: str) -> str:
    found = state.read(str(folder / name))
    assert found is not None
    return found.latest
