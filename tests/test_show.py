"""The verb show: its columns and keys, and what a terminal draws."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ckptsurgeon import cli, formats
from ckptsurgeon.cli.verbs import show

KEYS = ["name", "dtype", "shape", "min", "max", "mean", "std", "zeros", "nan", "inf", "histogram"]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint of several dtypes, and the verb registered."""
    monkeypatch.setitem(cli.VERBS, "show", "print statistics of variables")
    arrays = {
        "b": np.asarray([1, 2], ml_dtypes.bfloat16),
        "e": np.zeros((0, 2), np.float32),
        "n": np.asarray(7, np.int64),
        "s": np.asarray([b"setosa\x1b", b"\xff"], object),
        "w": np.asarray([[0, 1], [np.nan, -np.inf]], np.float32),
    }
    formats.write(str(tmp_path / "m"), arrays, sync=False)
    return str(tmp_path / "m")


def test_plain_columns(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Tab-separated lines, - where there is no such number."""
    assert cli.main(["show", path]) == 0
    assert [line.split("\t") for line in capsys.readouterr().out.splitlines()] == [
        ["b", "bfloat16", "[2]", "1", "2", "1.5", "0.5", "0", "0", "0"],
        ["e", "float32", "[0,2]", "-", "-", "-", "-", "-", "0", "0"],
        ["n", "int64", "[]", "7", "7", "7", "0", "0", "0", "0"],
        ["s", "string", "[2]", "-", "-", "-", "-", "-", "-", "-"],
        ["w", "float32", "[2,2]", "0", "1", "0.5", "0.5", "0.5", "1", "1"],
    ]


def test_json_keys(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The contract's keys in their order; strings have nulls; a glob narrows the list."""
    assert cli.main(["show", path, "[sw]", "--json"]) == 2
    assert "nothing matches [sw]" in capsys.readouterr().err
    assert cli.main(["show", path, "s", "w", "--json"]) == 0
    text, numbers = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(text) == list(numbers) == KEYS
    assert {text[key] for key in KEYS[3:]} == {None}
    assert sum(numbers["histogram"]["counts"]) == 2


def test_a_terminal_draws(path: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of blocks and the beginning of strings, without control characters; one variable alone gets bars."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert cli.main(["show", path]) == 0
    out = capsys.readouterr().out
    assert "█" + " " * 18 + "█" in out
    assert r"setosa\x1b \xff" in out
    assert cli.main(["show", path, "w"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("█ 1")


def test_blocks_and_beginnings() -> None:
    """Only an empty bin is blank, the fullest is a whole block; long strings are cut."""
    assert show.sparkline([0, 1, 100]) == " ▁█"
    assert show.bars({"edges": [0.0, 0.5, 1.0], "counts": [1, 0]}) == ["  0  " + "█" * 50 + " 1", "0.5   0"]
    assert show.beginning([b"x" * 100]) == "x" * 40 + "…"
