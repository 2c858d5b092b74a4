"""`ring check`: each way to break the trainer's contract is found, and nothing of the run changes."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ring_support import COMMAND, TIMEOUT, drive, kill, toml, write_ring

from ckptsurgeon import cli
from ckptsurgeon.errors import BusyError, CkptSurgeonError
from ckptsurgeon.ring import checking, driver, start

TRAINERS = Path(__file__).resolve().parent.parent / "scripts" / "trainers"

# Each habit breaks one rule. The checkpoints are .npz, as those of the example.
PROGRAM = f"""
import json, os, signal, sys, time
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np
sys.path.insert(0, {str(TRAINERS)!r})
from numpy_trainer import first_weights, train
habit, kept = sys.argv[1], None
if habit == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin:
    request = json.loads(line)
    if request["op"] == "init":
        seed = 1 if habit == "seedless" else time.time_ns() if habit == "moody" else request["seed"]
        values, loss = first_weights([2, 4, 3, 2], seed), 0.0
    else:
        values, rows = dict(np.load(request["checkpoint"])), np.load(request["data"])
        X, y = rows["X"], rows["y"]
        if habit == "memory":
            values = kept or values
        if habit == "deaf":
            values = first_weights([2, 4, 3, 2], 1)
        if habit == "scribbler":
            np.savez(request["data"], X=X * 0, y=y)
        if habit == "overwriter":
            np.savez(request["checkpoint"], **{{**values, "dnn/layer0/Linear/Bias": np.ones(4, np.float32)}})
        loss = train(values, X, y)
        if habit == "random":
            values["dnn/layer0/Linear/Bias"] = values["dnn/layer0/Linear/Bias"] + np.random.random(4).astype("f4")
        if habit == "process":
            values["dnn/layer1/Linear/Bias"] = values["dnn/layer1/Linear/Bias"] + np.float32(os.getpid())
        if habit == "nan":
            values["logistic_regression/bias"] = values["logistic_regression/bias"] * np.float32(np.nan)
        if habit == "wider":
            values["dnn/layer0/Linear/Bias"] = values["dnn/layer0/Linear/Bias"].astype(np.float64)
        kept = values
    np.savez(request["output"], **values)
    if habit == "talker":
        print("a line of talk")
    step = request["step"] + (habit == "stale" and request["op"] == "train")
    print(json.dumps({{"step": step, "metrics": {{"loss": loss}}}}), flush=True)
if habit == "lingerer":
    time.sleep(3600)
"""

PATIENCE, GRACE = 600.0, 601.0

# What is found out about each habit, by check; all others are fine.
FOUND = {
    "good": {},
    "talker": {},
    "memory": {"repeat": "wrote different bytes for the same request: "},
    "deaf": {"reads": "wrote the same weights for another checkpoint: it ignores the checkpoint that it is given"},
    "random": {
        "repeat": "wrote different bytes for the same request: dnn/layer0/Linear/Bias differ",
        "restart": "wrote different bytes for the same request: dnn/layer0/Linear/Bias differ",
    },
    "process": {"restart": "wrote different bytes for the same request: dnn/layer1/Linear/Bias differ"},
    "scribbler": {"input": "changed batch.npz, which it must only read"},
    "overwriter": {"input": "changed model.ckpt-0.npz, which it must only read"},
    "seedless": {"init": "wrote the same initial weights for another seed"},
    "moody": {"init": "wrote initial weights that differ from those at 'ring init', for the same request"},
    "lingerer": {"end": f"was still running {PATIENCE:g} s after the end of its input"},
    "stubborn": {"sigterm": f"was still running {GRACE:g} s after SIGTERM"},
    "nan": {"train": "wrote a checkpoint with logistic_regression/bias: 2 NaN"},
    "wider": {"train": "dnn/layer0/Linear/Bias was float32 [4], is float64 [4]"},
    "stale": {"train": "answered for another step; expected 1, found 2"},
}
WORKER = ["train", "reads", "repeat", "input", "init", "end", "restart", "sigterm"]


def write_habits(folder: Path, *habits: str) -> None:
    """Write a ring of workers with habits."""
    folder.mkdir(parents=True)
    rows = "".join(f"{math.sin(x)},{math.cos(2 * x)},{'in' if x % 3 else 'out'}\n" for x in range(30))
    (folder / "points.csv").write_text("x,y,kind\n" + rows)
    (folder / "trainer.py").write_text(PROGRAM)
    lines = ['layers = "0-1"', "[data]", 'file = "points.csv"', 'target = "kind"', "batch_size = 8"]
    for habit in habits:
        worker = toml([sys.executable, "trainer.py", habit])
        lines += [
            "[[models]]",
            f'name = "{habit}"',
            f"worker = {worker}",
            'format = "npz"',
            "tries = 1",
            f"timeout = {TIMEOUT}",
        ]
    (folder / "ring.toml").write_text("\n".join(lines))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def wait_only_for_those_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give trainers all the time in the world to end, but none to those that never will."""
    wait_for = checking.wait_for
    never = {("lingerer", PATIENCE), ("stubborn", GRACE)}

    def waited_for(trainers: list[Any], seconds: float) -> bool:
        process = trainers[0].process
        last = process._process.args[-1] if process else ""
        return wait_for(trainers, 0.0 if (last, seconds) in never else seconds)

    monkeypatch.setattr(checking, "_PATIENCE", PATIENCE)
    monkeypatch.setattr(checking, "_GRACE", GRACE)
    monkeypatch.setattr(checking, "wait_for", waited_for)


def test_each_broken_rule_is_found_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check for each, by name; the run stays as it was, byte for byte, and no scratch is left behind."""
    wait_only_for_those_that_end(monkeypatch)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr("tempfile.tempdir", None)
    ring = tmp_path / "ring"
    write_habits(ring, *FOUND)
    start.init(str(ring))
    before = files(ring)
    findings = list(checking.check(str(ring)))
    assert files(ring) == before
    assert list(scratch.iterdir()) == []
    for habit, expected in FOUND.items():
        found = {finding.check: finding.reason for finding in findings if finding.model == habit}
        assert list(found) == (["train"] if "train" in expected else WORKER), habit
        wrong = {check: reason for check, reason in found.items() if reason is not None}
        assert wrong.keys() == expected.keys(), (habit, wrong)
        for check, reason in wrong.items():
            assert expected[check] in reason, habit
    assert all(finding.ok == (finding.reason is None) for finding in findings)


def test_a_command_is_tried_too(tmp_path: Path) -> None:
    """From where the run stands; a command has no input to end, and is not asked for first weights."""
    ring = tmp_path / "ring"
    write_ring(ring)
    start.init(str(ring))
    first = str(ring / "b" / "model.ckpt-0")
    other = tmp_path / "other"
    write_ring(other, 1, b={"command": COMMAND, "init": first})
    start.init(str(other))
    driver.run(str(other))
    found = [(f.model, f.check, f.reason) for f in checking.check(str(other))]
    commands = ["train", "reads", "repeat", "input", "restart", "sigterm"]
    each = {"a": WORKER, "b": commands, "c": WORKER}
    assert found == [(name, check, None) for name, checks in each.items() for check in checks]


def test_what_a_failing_trainer_said_is_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command line has a line for each check, as a table or as JSON, and exits with 1."""
    write_ring(tmp_path, b={"worker": ["--do", "exit", "--at", "1"]})
    start.init(str(tmp_path))
    assert cli.main(["ring", "check", str(tmp_path), "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert list(rows[0]) == ["model", "check", "ok", "reason"]
    assert rows[0] == {"model": "a", "check": "train", "ok": True, "reason": None}
    reason = "model b, step 1: its trainer exited with status 1; last lines of its log: about to misbehave"
    assert [row for row in rows if not row["ok"]] == [{"model": "b", "check": "train", "ok": False, "reason": reason}]
    assert [row["model"] for row in rows] == ["a"] * 8 + ["b"] + ["c"] * 8


def test_sound_trainers_are_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe each check is a line of four fields; the status is 0."""
    write_habits(tmp_path / "ring", "good", "talker")
    start.init(str(tmp_path / "ring"))
    assert cli.main(["ring", "check", str(tmp_path / "ring")]) == 0
    lines = [f"{name}\t{check}\ttrue\t-" for name in ("good", "talker") for check in WORKER]
    assert capsys.readouterr().out.splitlines() == lines


def test_a_run_that_is_driven_is_left_alone(tmp_path: Path) -> None:
    """The driver is named; so is a folder where nothing has been initialised."""
    write_ring(tmp_path, 10_000)
    with pytest.raises(CkptSurgeonError, match="ring init"):
        next(checking.check(str(tmp_path)))
    start.init(str(tmp_path))
    process = drive(tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(BusyError, match=f"process {process.pid} is driving this run"):
        next(checking.check(str(tmp_path)))
    kill(process)


def test_a_predict_program_is_tried(tmp_path: Path) -> None:
    """On rows of the run, where a model has one."""
    good = "import sys, numpy as np; n = len(np.load(sys.argv[1])['X']); np.save(sys.argv[2], np.full((n, 2), 0.5))"
    models = {
        name: {"predict": [sys.executable, "-c", text, "{data}", "{output}", "{checkpoint}"]}
        for name, text in (("a", good), ("b", "import sys; sys.exit('no idea')"))
    }
    write_ring(tmp_path, **models)
    start.init(str(tmp_path))
    found = {(f.model, f.check): f.reason for f in checking.check(str(tmp_path))}
    assert found["a", "predict"] is None
    reason = "model b: its predict program exited with status 1; last lines of its log: no idea"
    assert found["b", "predict"] == reason
    assert ("c", "predict") not in found
    assert os.listdir(tmp_path / "a") == os.listdir(tmp_path / "b")
