"""A ring that is operated on while processes are killed ends the same; `scripts/torture surgery` is the long form."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from numpy_here import train_here
from ring_support import promised
from surgery import Tormented, make, operate

from ckptsurgeon.ring import driver

ROUNDS = 4


def test_kills_among_edits_stages_and_settings_change_no_byte(tmp_path: Path) -> None:
    """Edited heads, an undone edit, a stage, a frozen trunk, another learning rate and a model that joins survive."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    make(whole, ROUNDS, "ring")
    shutil.copytree(whole, killed)
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        operate(whole, ROUNDS, lambda folder, rounds: driver.run(str(folder), rounds=rounds), at_once=4)
    tormented = Tormented(2, random.Random(3))
    operate(killed, ROUNDS, tormented, at_once=4)
    assert tormented.kills.total() == 4
    assert promised(killed) == promised(whole)
    kinds = [json.loads(line)["kind"] for line in (killed / "journal.jsonl").read_text().splitlines()[1:]]
    assert (kinds.count("edit"), kinds.count("settings")) == (2, 1)
    assert {"train", "graft", "freeze"} < {*kinds}
