"""Every command in the README but scripts/test runs, in order, and prints what stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from ckptsurgeon.ring.spec import loading

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.tensorflow  # in processes of their own

BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
IRIS = (
    "from sklearn.datasets import load_iris\nimport csv\niris = load_iris()\n"
    "table = csv.writer(open('iris.csv', 'w', newline=''))\ntable.writerow(['a', 'b', 'c', 'd', 'species'])\n"
    "table.writerows([*row, iris.target_names[kind]] for row, kind in zip(iris.data, iris.target))\n"
)


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def _run_console(block: str, folder: Path) -> int:
    """Run the `$ ` lines of a block; each must print, on either stream, what stands below it ('...': anything)."""
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    for command, expected in commands:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], cwd=folder, env=_environment(), text=True, capture_output=True
        )
        pattern = re.escape(expected).replace(re.escape("..."), ".+")
        assert re.fullmatch(pattern, done.stdout + done.stderr), (command, done.stdout, done.stderr)
        status = 2 if expected.startswith("ckptsurgeon: ") else 1 if command.startswith("ckptsurgeon diff") else 0
        assert done.returncode == status, command
    return len(commands)


def test_what_the_readme_shows_is_what_happens(tmp_path: Path) -> None:
    """Its Python runs, its commands print what it says, its toml is a ring's."""
    subprocess.run([sys.executable, "-c", IRIS], cwd=tmp_path, check=True)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    (tmp_path / "mixed").mkdir()
    commands = scripts = rings = 0
    for language, block in BLOCKS:
        if language == "toml" and "layers = " in block:
            (tmp_path / "mixed" / "ring.toml").write_text(block)
        elif language == "toml":  # more models for it
            loading.parse(tomllib.loads((tmp_path / "mixed" / "ring.toml").read_text() + block))
            rings += 1
        elif language == "console":
            commands += _run_console(block, tmp_path)
        elif language == "python" and block.startswith("# net.py"):
            (tmp_path / "net.py").write_text(block)
        elif language == "python":
            done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, text=True, capture_output=True)
            assert done.returncode == 0, done.stderr
            scripts += 1
    assert commands >= 15
    assert scripts >= 2
    assert rings == 1


def test_the_demo_runs(tmp_path: Path) -> None:
    """scripts/demo, in this environment: the ring converges, and TensorFlow reads what was grafted and set."""
    setup = tmp_path / "scripts"
    setup.mkdir()
    (setup / "setup").write_text("#!/bin/sh\n")  # this environment is set up already
    (setup / "setup").chmod(0o755)
    (setup / "demo").write_text((ROOT / "scripts" / "demo").read_text())
    (setup / "demo").chmod(0o755)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = subprocess.run([setup / "demo", tmp_path / "work"], text=True, capture_output=True, env=_environment())
    assert done.returncode == 0, done.stderr
    for line in ("converged after", "ensemble", "dnn/layer1/Linear/Bias[3] of b = 2.0", "Matrix of b = that of a"):
        assert line in done.stdout
