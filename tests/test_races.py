"""Two writers of one new checkpoint, and donors that are replaced meanwhile: nobody's files are lost or mixed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest

import ckptsurgeon
from ckptsurgeon import formats
from ckptsurgeon.errors import BusyError
from ckptsurgeon.formats.bundle.publishing import Publication
from ckptsurgeon.formats.files.replacing import Output
from ckptsurgeon.locking import staging_lock
from ckptsurgeon.verbs import changing, looking, producing

PLACES = {"bundle": (Publication, "_write_index", ""), "npz": (Output, "flush", ".npz")}


def donors(folder: Path) -> tuple[str, str]:
    """Two checkpoints with the same names."""
    for name, value in (("m1", 1), ("m2", 2)):
        formats.write(str(folder / name), {"a": np.full(1000, value, "f4")})
    return str(folder / "m1"), str(folder / "m2")


def once_before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object]) -> None:
    """Do something just before the first call of a method."""
    method = getattr(owner, name)

    def call(*args: Any) -> Any:
        monkeypatch.setattr(owner, name, method)
        act()
        return method(*args)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize("form", PLACES)
def test_a_save_that_finishes_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Somebody else's checkpoint appears at a new OUT while ours is staged: ours is refused, theirs is untouched."""
    owner, method, ending = PLACES[form]
    one, other = donors(tmp_path)
    theirs = tmp_path / f"theirs{ending}"
    producing.convert(other, str(theirs), force=True)
    out = tmp_path / f"out{ending}"

    def save() -> None:
        for path in tmp_path.glob("theirs*"):
            os.replace(path, tmp_path / path.name.replace("theirs", "out"))

    expected = {path.name.replace("theirs", "out"): path.read_bytes() for path in tmp_path.glob("theirs*")}
    once_before(monkeypatch, owner, method, save)
    with pytest.raises(BusyError, match="another process saved it in the meantime"):
        producing.convert(one, str(out))
    assert {path.name: path.read_bytes() for path in tmp_path.glob("out*")} == expected


def test_data_without_an_index_is_left_alone(tmp_path: Path) -> None:
    """A data file at a new OUT may be half of a save under way: it keeps its bytes, and ours gets other names."""
    one, other = donors(tmp_path)
    half = tmp_path / "out.data-00000-of-00001"
    half.write_bytes(b"half of a save")
    producing.average([one, other], str(tmp_path / "out"))
    assert half.read_bytes() == b"half of a save"
    with ckptsurgeon.open(tmp_path / "out") as checkpoint:
        assert checkpoint.read("a").tolist() == [1.5] * 1000


def test_a_second_writer_of_a_new_file_waits(tmp_path: Path) -> None:
    """Who writes a one-file checkpoint holds its staging file: another one waits, and then gives up."""
    np.savez(tmp_path / "m.npz", a=np.arange(3))
    out = str(tmp_path / "out.npz")
    with staging_lock(f"{out}.ckptsurgeon-tmp", 0), pytest.raises(BusyError, match="another process is writing"):
        producing.cp(str(tmp_path / "m.npz"), out, wait=0)
    assert not os.path.lexists(out)
    producing.cp(str(tmp_path / "m.npz"), out)
    assert all(finding.ok for finding in looking.verify(out))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.npz", "out.npz"]


@pytest.mark.parametrize("ending", ["", ".npz", ".safetensors"])
def test_what_was_checked_is_what_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """A donor that is replaced between the check and the copy: the copy is the old one or the new one, never both."""
    one, other = donors(tmp_path)
    for name in (one, other):
        if ending:
            producing.convert(name, name + ending)
    with ckptsurgeon.open(other + ending) as opened:
        owner = type(opened)

    def replace() -> None:
        for path in tmp_path.glob(f"m2{ending}*"):
            if ending or path.name.startswith(("m2.data", "m2.index")):
                os.replace(path, tmp_path / path.name.replace("m2", "m1"))

    once_before(monkeypatch, owner, "check", replace)
    producing.cp(one + ending, str(tmp_path / f"copy{ending}"))
    assert all(finding.ok for finding in looking.verify(str(tmp_path / f"copy{ending}")))
    with ckptsurgeon.open(str(tmp_path / f"copy{ending}")) as copy:
        assert set(copy.read("a").tolist()) in ({1.0}, {2.0})


def test_a_crash_just_after_the_commit_is_healed(tmp_path: Path) -> None:
    """The staging name of a published index is removed, and never written through."""
    models.write(tmp_path / "m", 1)
    os.link(tmp_path / "m.index", tmp_path / "m.ckptsurgeon-tmp.index")
    before = models.read(tmp_path / "m")
    changing.set(str(tmp_path / "m"), "dnn/layer0/Linear/Bias[0]", "7")
    after = models.read(tmp_path / "m")
    assert after.keys() == before.keys()
    assert after["dnn/layer0/Linear/Bias"][0] == 7
    assert not list(tmp_path.glob("*ckptsurgeon-tmp*"))
