"""Many writers and readers of one checkpoint, shortly; `scripts/torture crowds` plays the same scenes for longer."""

from __future__ import annotations

from pathlib import Path

import crowds
import pytest

from ckptsurgeon import formats

SHORT = [name for name in crowds.SCENES if name != "tensorflow saves"]


@pytest.mark.parametrize("name", SHORT)
def test_nothing_is_lost_or_mixed_in_a_crowd(tmp_path: Path, name: str) -> None:
    """Several writers and a reader do a few things each, at once, to one recipient or one new OUT."""
    told = crowds.play(name, tmp_path, 0, writers=4, readers=1, rounds=3)
    assert told["read"] + told["told why not"] == 3
    assert told["done"] + told["refused"] == (4 if name.startswith("new") else 12)
    if name.startswith("new"):
        assert told["done"] == 1
    if name == "edits":
        assert told["done"] == 12


def test_a_mixture_is_noticed(tmp_path: Path) -> None:
    """The check of a crowd can fail: two versions in one checkpoint are told apart."""
    made = crowds.arrays(1) | {"all/w1": crowds.arrays(2)["all/w1"]}
    crowds.make(str(tmp_path / "m"), made)
    with pytest.raises(AssertionError, match=r"a mixture of the versions \[1.0, 2.0\]"):
        crowds.ours(str(tmp_path / "m"))


def test_a_lost_update_is_noticed(tmp_path: Path) -> None:
    """The check of a crowd can fail: a counter that is behind what its writer was told is told."""
    path = str(tmp_path / "m")
    crowds.make(path, crowds.arrays(1, 2))
    with pytest.raises(AssertionError, match=r"writer 1 made .*, and 0 is there"):
        crowds.check("edits", path, ["graft", "edit"], [crowds.Counts(done=1), crowds.Counts(done=1)])
    with formats.open(path) as checkpoint:
        assert checkpoint.read("own/c1") == 0
