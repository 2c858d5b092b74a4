"""Power cuts: whatever of a command's writes is on the disk, a checkpoint is the old one or the new one.

`scripts/torture breaking powercut` is the long form: every verb over every format, and longer rings.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from pathlib import Path

import attempts
import faults
import powercut
import pytest
from numpy_here import train_here
from ring_support import promised, write_ring

from ckptsurgeon.formats import state
from ckptsurgeon.publish import write_file
from ckptsurgeon.ring import driver, start

# Each way to publish, once: the formats of one file share theirs.
PAIRS = [
    ("bundle", "graft"), ("bundle", "rename"), ("bundle", "extract"), ("bundle", "copy over an old one"),
    ("npz", "set"), ("npz", "extract"), ("v1", "set"), ("safetensors", "set"), ("h5", "rename"), ("keras", "set"),
    ("safetensors-set", "set"), ("safetensors-set", "copy"), ("saved-model", "extract"),
]  # fmt: skip


def examined(attempt: attempts.Attempt, states: list[dict[str, bytes]]) -> Counter[str]:
    """Open what each power cut left: how often it was the old, the new, or another state."""
    found: Counter[str] = Counter()
    for each in states:
        shutil.rmtree(attempt.folder)
        attempt.folder.mkdir()
        powercut.make(attempt.folder, each)
        found[attempt.state()] += 1
        assert (attempt.folder / attempts.OTHER).read_text() == "somebody's"
    return found


@pytest.mark.parametrize(("form", "verb"), PAIRS)
def test_old_or_new_after_a_power_cut(tmp_path: Path, form: str, verb: str) -> None:
    """After every call, with every combination of names and bytes that are on the disk or not: never a third state."""
    attempt = attempts.Attempt(tmp_path, form, verb)
    attempt.restart()
    with powercut.Recorder(attempt.folder) as recorder:
        assert faults.run(*attempt.command).status == 0
    states = list(recorder.states.values())
    found = examined(attempt, [states[at] for at in faults.sampled(len(states), 40, 0)] + states[-1:])
    assert set(found) == {"old", "new"}, found


def test_a_recorder_sees_what_was_not_synced(tmp_path: Path) -> None:
    """Without a sync, a renamed file may be empty: the recorder finds that state, and none of them with the sync."""
    (tmp_path / "f").write_bytes(b"old")
    with powercut.Recorder(tmp_path) as recorder:
        write_file(str(tmp_path / "f"), b"new", sync=False)
    assert {each["f"] for each in recorder.states.values()} == {b"old", b"new", b"n", bytes(3), b""}
    (tmp_path / "f").write_bytes(b"old")
    with powercut.Recorder(tmp_path) as recorder:
        write_file(str(tmp_path / "f"), b"new")
    assert {each["f"] for each in recorder.states.values()} == {b"old", b"new"}
    assert recorder.calls == 5


def test_a_state_file_after_a_power_cut(tmp_path: Path) -> None:
    """The `checkpoint` file names the old checkpoint or the new one."""
    for name in ("a", "b"):
        (tmp_path / f"{name}.index").touch()
    state.write(str(tmp_path), str(tmp_path / "a"), [])
    with powercut.Recorder(tmp_path) as recorder:
        state.write(str(tmp_path), str(tmp_path / "b"), [str(tmp_path / "a")])
    seen = set()
    for each in recorder.states.values():
        (tmp_path / "checkpoint").write_bytes(each["checkpoint"])
        found = state.read(str(tmp_path))
        assert found is not None
        seen.add(Path(found.latest).name)
    assert seen == {"a", "b"}


def test_a_ring_after_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring goes on from whatever a power cut left, and ends with the bytes that it would have ended with."""
    train_here(monkeypatch)
    ring, began = tmp_path / "ring", tmp_path / "began"
    write_ring(ring, 2)
    start.init(str(ring))
    shutil.copytree(ring, began)
    with powercut.Recorder(ring, random.Random(3), 0.03) as recorder:
        driver.run(str(ring))
    wanted = promised(ring)
    states = list(recorder.states.values())
    assert len(states) > 5
    for at in faults.sampled(len(states), 8, 1):
        shutil.rmtree(ring)
        powercut.make(ring, states[at])
        driver.run(str(ring))
        assert promised(ring) == wanted
