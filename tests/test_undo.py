"""Undo: what an operation in place replaced is kept by links, comes back bit by bit, and never gets in the way."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import models
import pytest
from crash import Failing, survives
from models import FORMS, Form
from test_conformance import IN_PLACE, REFUSED, examples, forms

import ckptsurgeon
from ckptsurgeon import cli, formats
from ckptsurgeon.errors import BusyError, CkptSurgeonError, NotFoundError, RefusedError, StorageError
from ckptsurgeon.formats.bundle import publishing
from ckptsurgeon.formats.kept import record
from ckptsurgeon.ring.trainers.program import RunningProgram
from ckptsurgeon.verbs import changing, looking, producing, reclaiming, undoing

HIDDEN = ".ckptsurgeon"
BIAS = "dnn/layer1/Linear/Bias"
Snapshot = dict[str, bytes]


def stored(folder: Path) -> Snapshot:
    """The bytes of all files below a folder that are not kept versions."""
    every = models.snapshot(folder)
    return {name: data for name, (data, _) in every.items() if HIDDEN not in Path(name).parts}


def set_bias(path: Path | str, value: object, **how: bool) -> None:
    """One operation in place."""
    changing.set(str(path), f"{BIAS}[0]", str(value), sync=False, **how)


def bias(path: Path | str) -> float:
    """What `set_bias` sets."""
    return float(looking.get(str(path), f"{BIAS}[0]"))


def run(*arguments: str) -> tuple[int, str, str]:
    """Run a command here: its exit status, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(list(arguments))
    return status, out.getvalue(), err.getvalue()


@forms()
def test_every_operation_in_every_form_is_undone(tmp_path: Path, form: Form) -> None:
    """Each operation in place, one after the other, then undone: the same files with the same bytes, and nothing else.

    What a form refuses in place keeps nothing.
    """
    one, other = examples()
    a, b = form.write(tmp_path / "a", one), form.write(tmp_path / "b", other)
    history = []
    for verb in ("graft with slots", "set", "graft", "cast", "rename"):
        before = stored(tmp_path)
        if verb in REFUSED.get(form.name, {}):
            with pytest.raises(RefusedError):
                IN_PLACE[verb][0](a, b, form, backup=True)
            assert stored(tmp_path) == before
            continue
        IN_PLACE[verb][0](a, b, form, backup=True)
        assert stored(tmp_path) != before
        history.append((verb.split()[0], before))
    assert [row["verb"] for row in undoing.log(b)] == [verb for verb, _ in reversed(history)]
    for row, (_, before) in zip(undoing.log(b), reversed(history), strict=True):
        with formats.open(b) as present, formats.open(row["kept"]) as kept:
            assert set(map(form.called, examples()[1])) - set(kept) <= {form.called("dnn/layer0/Linear/Matrix")}
            assert kept.format == present.format
        undoing.undo(b, sync=False)
        assert stored(tmp_path) == before
    assert not (tmp_path / HIDDEN).exists()
    with pytest.raises(NotFoundError, match="nothing to undo; only operations with --backup"):
        undoing.undo(b)


def test_nothing_is_copied(tmp_path: Path) -> None:
    """The kept files are the replaced ones: the same inodes, also after they came back."""
    for ending in ("", ".npz"):
        models.write_as(tmp_path / f"m{ending}", models.skflow_arrays(1), "npz" if ending else "bundle")
    for name, file in (("m", "m.data-00000-of-00001"), ("m.npz", "m.npz")):
        inode = (tmp_path / file).stat().st_ino
        set_bias(tmp_path / name, 7, backup=True)
        kept = Path(undoing.log(tmp_path / name)[0]["kept"]).parent / file
        assert kept.stat().st_ino == inode
        undoing.undo(tmp_path / name, sync=False)
        assert (tmp_path / file).stat().st_ino == inode
    assert not (tmp_path / HIDDEN).exists()


def test_a_saved_model_is_undone_and_copied_without_its_history(tmp_path: Path) -> None:
    """What is kept lies in the folder `variables`, and does not belong to a copy of the model."""
    (tmp_path / "model" / "variables").mkdir(parents=True)
    (tmp_path / "model" / "saved_model.pb").write_bytes(b"graph")
    models.write(tmp_path / "model" / "variables" / "variables", 1)
    before = stored(tmp_path)
    set_bias(tmp_path / "model", 7, backup=True)
    assert (tmp_path / "model" / "variables" / HIDDEN).is_dir()
    producing.cp(str(tmp_path / "model"), str(tmp_path / "copy"), sync=False)
    assert not list((tmp_path / "copy").rglob(HIDDEN))
    undoing.undo(tmp_path / "model", sync=False)
    shutil.rmtree(tmp_path / "copy")
    assert stored(tmp_path) == before
    assert not list(tmp_path.rglob(HIDDEN))


def test_a_kept_version_is_no_checkpoint_of_the_folder(tmp_path: Path) -> None:
    """Neither listings of the folder nor its state file nor a glob see it; named itself, it opens."""
    models.write(tmp_path / "model.ckpt", 1)
    formats.write_state(str(tmp_path / "model.ckpt"), sync=False)
    old, state = bias(tmp_path / "model.ckpt"), (tmp_path / "checkpoint").read_bytes()
    set_bias(tmp_path / "model.ckpt", 7, backup=True)
    assert [row["checkpoint"] for row in ckptsurgeon.checkpoints(tmp_path)] == [str(tmp_path / "model.ckpt")]
    assert (tmp_path / "checkpoint").read_bytes() == state
    assert len(list(tmp_path.glob("model.ckpt*"))) == 3
    assert bias(tmp_path) == 7
    assert bias(tmp_path / HIDDEN / "model.ckpt.index" / "1" / "model.ckpt") == old
    producing.cp(str(tmp_path / "model.ckpt"), str(tmp_path / "copy"), sync=False)
    assert undoing.log(tmp_path / "copy") == []


def test_what_somebody_saved_since_is_not_lost(tmp_path: Path) -> None:
    """After a save by another program, or an edit without --backup, undo is refused unless it is forced."""
    old = models.write(tmp_path / "b", 2)
    set_bias(tmp_path / "b", 7, backup=True)
    models.write(tmp_path / "fresh", 3)
    for file in tmp_path.glob("b.*"):
        file.unlink()
    for file in tmp_path.glob("fresh.*"):
        file.rename(tmp_path / file.name.replace("fresh", "b"))
    before = stored(tmp_path)
    for _ in range(2):
        status, out, err = run("undo", str(tmp_path / "b"))
        assert (status, out) == (2, "")
        assert re.fullmatch(
            r"ckptsurgeon: \S+/b: was changed since the set of \S+Z; undo --force brings back .+\n", err
        )
        assert stored(tmp_path) == before
        set_bias(tmp_path / "b", 8)
        before = stored(tmp_path)
    assert "was changed since" in run("log", str(tmp_path / "b"))[2]
    assert run("undo", str(tmp_path / "b"), "--force")[0] == 0
    assert models.equal(models.read(tmp_path / "b"), old)
    assert not (tmp_path / HIDDEN).exists()


def test_a_save_between_two_operations_is_what_undo_stops_at(tmp_path: Path) -> None:
    """The first undo gives what was saved in between; the next one would lose it, and is refused."""
    models.write(tmp_path / "b", 2)
    set_bias(tmp_path / "b", 7, backup=True)
    saved = models.write(tmp_path / "b", 3)
    set_bias(tmp_path / "b", 8, backup=True)
    undoing.undo(tmp_path / "b", sync=False)
    assert models.equal(models.read(tmp_path / "b"), saved)
    with pytest.raises(RefusedError, match="was changed since"):
        undoing.undo(tmp_path / "b")
    assert models.equal(models.read(tmp_path / "b"), saved)


def test_a_kept_file_that_was_edited_is_not_brought_back(tmp_path: Path) -> None:
    """Writing into a file, as rsync --inplace does, changes its links too: that is noticed, and said."""
    models.write(tmp_path / "b", 2)
    set_bias(tmp_path / "b", 7, backup=True)
    with next(tmp_path.glob("b.data-00000*")).open("r+b") as file:
        file.write(b"?")
    before = stored(tmp_path)
    with pytest.raises(RefusedError, match=r"b\.data-00000-of-00001: this kept file was edited"):
        undoing.undo(tmp_path / "b")
    next((tmp_path / HIDDEN).rglob("b.data*")).unlink()
    with pytest.raises(NotFoundError, match=r"b\.data-00000-of-00001: no such file"):
        undoing.undo(tmp_path / "b", force=True)
    assert stored(tmp_path) == before


def test_a_damaged_checkpoint_can_be_undone(tmp_path: Path) -> None:
    """What somebody left need not open."""
    old = models.write(tmp_path / "b", 2)
    set_bias(tmp_path / "b", 7, backup=True)
    (tmp_path / "b.index").write_bytes(b"nonsense")
    with pytest.raises(RefusedError, match="was changed since"):
        undoing.undo(tmp_path / "b")
    undoing.undo(tmp_path / "b", force=True, sync=False)
    assert models.equal(models.read(tmp_path / "b"), old)


def test_the_folder_can_be_moved(tmp_path: Path) -> None:
    """Records hold no paths but the donor's; in a copy nothing is known to be unchanged, so --force is needed."""
    (tmp_path / "one").mkdir()
    old = models.write(tmp_path / "one" / "b", 2)
    set_bias(tmp_path / "one" / "b", 7, backup=True)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    (tmp_path / "one").rename(tmp_path / "two")
    undoing.undo(tmp_path / "two" / "b", sync=False)
    assert models.equal(models.read(tmp_path / "two" / "b"), old)
    with pytest.raises(RefusedError, match="was changed since"):
        undoing.undo(tmp_path / "copy" / "b")
    undoing.undo(tmp_path / "copy" / "b", force=True, sync=False)
    assert models.equal(models.read(tmp_path / "copy" / "b"), old)


def test_the_log_says_what_was_done(tmp_path: Path) -> None:
    """Verb, time, donor with its digest, what happened to which variable; shortened in a pipe, whole in JSON."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    b = str(tmp_path / "b")
    assert run("log", b) == (0, "", "")
    assert run("graft", str(tmp_path / "a"), b, "--layers", "0-1", "--backup")[0] == 0
    assert run("rename", b, "learning_rate=lr", "--backup")[0] == 0
    digest = hashlib.sha256((tmp_path / "a.index").read_bytes()).hexdigest()
    status, out, err = run("log", b)
    first, second = (line.split("\t") for line in out.splitlines())
    assert (status, err) == (0, "")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first[0])
    assert first[1:] == ["rename", "1", "lr", "-", "-"]
    names = "dnn/layer0/Linear/Bias, dnn/layer0/Linear/Matrix, dnn/layer1/Linear/Bias, 1 more"
    assert second[1:] == ["graft", "4", names, str(tmp_path / "a"), digest[:12]]
    rows = [json.loads(line) for line in run("log", b, "--json")[1].splitlines()]
    assert [list(row) for row in rows] == [["time", "verb", "donor", "sha256", "changes", "kept", "present"]] * 2
    assert rows[0]["changes"] == [{"action": "renamed", "name": "lr", "from": "learning_rate"}]
    assert (len(rows[1]["changes"]), rows[1]["sha256"]) == (4, digest)
    assert [row["present"] for row in rows] == [True, False]
    assert run("undo", b, "--dry-run")[1] == out.splitlines(keepends=True)[0]
    assert run("undo", b)[1] == out.splitlines(keepends=True)[0]
    assert run("log", b)[1] == out.splitlines(keepends=True)[1]


def test_when_something_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By --backup or the environment, on the command line alone; never without, with -o, or where nothing changes."""
    models.write(tmp_path / "b", 2)
    b = str(tmp_path / "b")
    kept = tmp_path / HIDDEN
    assert run("set", b, "global_step", "1")[0] == 0
    assert not kept.exists()
    status, _, err = run("set", b, "global_step", "2", "--backup", "-o", str(tmp_path / "out"))
    assert status == 2
    assert err == "ckptsurgeon: --backup has no effect with -o, which replaces nothing; leave one of them out\n"
    monkeypatch.setenv("CKPTSURGEON_BACKUP", "1")
    assert run("set", b, "global_step", "1")[0] == 0
    assert run("set", b, "global_step", "2", "-o", str(tmp_path / "out"))[0] == 0
    assert run("set", b, "global_step", "2", "--no-backup")[0] == 0
    assert run("set", b, "global_step", "3", "--dry-run")[0] == 0
    set_bias(b, 7)  # the library: as the driver of a ring, which replaces nothing that anybody made
    assert not kept.exists()
    assert run("set", b, "global_step", "3")[0] == 0
    assert kept.is_dir()
    assert run("undo", b)[0] == 0
    monkeypatch.setenv("CKPTSURGEON_BACKUP", "0")
    assert run("set", b, "global_step", "4")[0] == 0
    assert not kept.exists()


def test_a_trainers_edits_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment of a ring's driver says: a ring removes old checkpoints, and would not remove these."""
    monkeypatch.setenv("CKPTSURGEON_BACKUP", "1")
    command = ["sh", "-c", "echo $CKPTSURGEON_BACKUP"]
    program = RunningProgram(command, str(tmp_path), str(tmp_path / "log"))
    assert program.line(time.monotonic() + 60) == b"0"
    assert program.wait(time.monotonic() + 60) == 0
    program.kill()


def test_a_file_system_without_links_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line before anything is written, and nothing left; without --backup the operation works."""
    models.write(tmp_path / "b", 2)
    before = models.snapshot(tmp_path)

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    status, _, err = run("set", str(tmp_path / "b"), "global_step", "7", "--backup")
    assert status == 2
    why = "--backup cannot keep it by a hard link: operation not permitted; leave --backup out, or use -o OUT"
    assert err == f"ckptsurgeon: {tmp_path}/b.index: {why}\n"
    assert models.snapshot(tmp_path) == before
    assert not (tmp_path / HIDDEN).exists()
    assert run("set", str(tmp_path / "b"), "global_step", "7")[0] == 0


def test_compact_and_forget_give_the_bytes_back(tmp_path: Path) -> None:
    """Both remove all that is kept, and count what no other name holds."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "other", 1)
    set_bias(tmp_path / "other", 7, backup=True)
    for forget in (False, True):
        models.write(tmp_path / "b", 2)
        changing.graft(tmp_path / "a", tmp_path / "b", match=["**"], slots="copy", backup=True, sync=False)
        set_bias(tmp_path / "b", 7, backup=True)
        store = tmp_path / HIDDEN / "b.index"
        now = {path.stat().st_ino for path in tmp_path.glob("b.*")}
        files = {path.stat().st_ino: path.stat().st_size for path in store.glob("*/*")}
        alone = sum(size for inode, size in files.items() if inode not in now)
        assert alone > 600
        with formats.open(tmp_path / "b") as checkpoint:
            dead = ckptsurgeon.total(tmp_path / "b")["unreferenced"]
            assert len(checkpoint) == 18
        if forget:
            assert run("undo", str(tmp_path / "b"), "--forget", "--dry-run")[1] == f"{tmp_path}/b\t{alone}\n"
            assert store.exists()
            assert run("undo", str(tmp_path / "b"), "--forget")[1] == f"{tmp_path}/b\t{alone}\n"
        else:
            assert reclaiming.compact(tmp_path / "b", dry_run=True).reclaimed == alone + dead
            assert reclaiming.compact(tmp_path / "b", out=str(tmp_path / "out"), sync=False).reclaimed == dead
            assert store.exists()
            assert reclaiming.compact(tmp_path / "b", sync=False).reclaimed == alone + dead
        assert not store.exists()
        assert bias(tmp_path / "b") == 7
    assert len(undoing.log(tmp_path / "other")) == 1
    assert reclaiming.forget(tmp_path / "b") == 0


def test_drop_that_compacts_can_be_undone(tmp_path: Path) -> None:
    """It commits twice, and is one operation."""
    models.write(tmp_path / "b", 2)
    before = stored(tmp_path)
    changing.drop(tmp_path / "b", ["dnn/**"], compact=True, backup=True, sync=False)
    assert [path.name for path in sorted(tmp_path.glob("b.*"))] == ["b.data-00000-of-00001", "b.index"]
    undoing.undo(tmp_path / "b", sync=False)
    assert stored(tmp_path) == before


@pytest.mark.parametrize("what", ["link", "file"])
def test_what_has_our_folders_name_is_not_followed(tmp_path: Path, what: str) -> None:
    """A planted link would have files put elsewhere: refused in one line, and nothing is touched."""
    models.write(tmp_path / "b", 2)
    (tmp_path / "elsewhere").mkdir()
    if what == "link":
        (tmp_path / HIDDEN).symlink_to("elsewhere")
    else:
        (tmp_path / HIDDEN).write_bytes(b"?")
    before = models.snapshot(tmp_path)
    with pytest.raises(RefusedError, match="is not a folder, so no version can be kept in it"):
        set_bias(tmp_path / "b", 7, backup=True)
    assert models.snapshot(tmp_path) == before
    assert not list((tmp_path / "elsewhere").iterdir())


def test_planted_links_lead_to_no_files_of_others(tmp_path: Path) -> None:
    """What stands behind a link at the place of a kept version is neither removed nor brought back."""
    models.write(tmp_path / "b", 2)
    other = tmp_path / "elsewhere"
    (other / "b.index" / "1").mkdir(parents=True)
    (other / "b.index" / "1" / "b.index").write_bytes(b"precious")
    (other / "b.index" / "2.json.ckptsurgeon-tmp").write_bytes(b"precious")
    before = models.snapshot(other)
    for link, target in (
        (HIDDEN, other),
        (f"{HIDDEN}/b.index", other / "b.index"),
        (f"{HIDDEN}/b.index/1", other / "b.index" / "1"),
    ):
        (tmp_path / link).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / link).symlink_to(target)
        set_bias(tmp_path / "b", len(link))
        assert run("undo", str(tmp_path / "b"))[2].endswith(
            "b: nothing to undo; only operations with --backup can be undone\n"
        )
        assert run("undo", str(tmp_path / "b"), "--forget")[1] == f"{tmp_path}/b\t0\n"
        assert models.snapshot(other) == before
        (tmp_path / link).unlink()
    set_bias(tmp_path / "b", 7, backup=True)
    kept = tmp_path / HIDDEN / "b.index" / "1"
    kept.rename(other / "kept")
    kept.symlink_to(other / "kept")
    before = models.snapshot(other)
    assert run("undo", str(tmp_path / "b"), "--force")[2].endswith(
        "1: the kept version is missing; 'undo --forget' removes its record\n"
    )
    assert run("undo", str(tmp_path / "b"), "--forget")[0] == 0
    assert models.snapshot(other) == before


def test_a_symbolic_link_comes_back_as_the_file_that_it_led_to(tmp_path: Path) -> None:
    """As everywhere the link is replaced and its target left alone; its bytes are what is kept."""
    models.write_as(tmp_path / "m.npz", models.skflow_arrays(1), "npz")
    (tmp_path / "store").mkdir()
    (tmp_path / "m.npz").rename(tmp_path / "store" / "m.npz")
    (tmp_path / "m.npz").symlink_to("store/m.npz")
    before = models.snapshot(tmp_path)
    set_bias(tmp_path / "m.npz", 7, backup=True)
    assert bias(tmp_path / "store" / "m.npz") != 7
    undoing.undo(tmp_path / "m.npz", sync=False)
    assert models.snapshot(tmp_path) == before


# -- hostile records


def broken_records(entry: dict[str, object]) -> dict[str, bytes]:
    """Files that are not the record of a version, by what is wrong."""
    changed = {
        "version": {"v": 2},
        "leads out": {"file": "../b.index"},
        "a key more": {"x": 1},
        "numbers": {"before": [[1, 2]]},
        "floats": {"after": [[1.5, 2, 3]]},
        "names": {"changes": [["set", 7, None]]},
        "pairs": {"changes": 7},
        "sizes": {"sizes": []},
        "a file that is not kept": {"file": "c.index"},
        "verb": {"verb": None},
    }
    files = {what: json.dumps(entry | wrong).encode() for what, wrong in changed.items()}
    deep = b'{"v":' + b"[" * 100_000
    return files | {"empty": b"", "not JSON": b"\xff\xfe", "a list": b"[]", "deep": deep, "digits": b"1" * 5000}


def test_a_broken_record_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo and log refuse it, other operations do not care, and --forget removes it."""
    models.write(tmp_path / "b", 2)
    set_bias(tmp_path / "b", 7, backup=True)
    path = tmp_path / HIDDEN / "b.index" / "1.json"
    entry = json.loads(path.read_bytes())
    monkeypatch.setattr(record, "_LARGEST", 200_000)
    for what, data in {**broken_records(entry), "large": b" " * 300_000}.items():
        path.write_bytes(data)
        for verb in ("undo", "log"):
            status, out, err = run(verb, str(tmp_path / "b"))
            assert (status, out) == (2, ""), what
            assert re.fullmatch(r"ckptsurgeon: \S+/1\.json: damaged: not the record of a kept version; .+\n", err), what
    path.unlink()
    os.mkfifo(path)  # which nobody writes to
    assert run("log", str(tmp_path / "b"))[0] == 2
    set_bias(tmp_path / "b", 8)
    assert bias(tmp_path / "b") == 8
    assert run("undo", str(tmp_path / "b"), "--forget")[0] == 0
    assert not (tmp_path / HIDDEN).exists()


# -- killed, failing, racing

PLACES = {
    "bundle": ("b", lambda b: set_bias(b, 7, backup=True)),
    "names alone": ("b", lambda b: changing.rename(b, ["learning_rate=lr"], sync=False, backup=True)),
    "two commits": ("b", lambda b: changing.drop(b, ["learning_rate"], compact=True, sync=False, backup=True)),
    "one file": ("b.npz", lambda b: set_bias(b, 7, backup=True)),
    "set": ("b.safetensors.index.json", lambda b: set_bias(b, 7, backup=True)),
}


def prepare(tmp_path: Path, place: str) -> tuple[str, Callable[[], None], models.Arrays]:
    """A checkpoint with one kept version already; an operation on it; and its values."""
    name, operation = PLACES[place]
    form = FORMS[{"b": "bundle", "b.npz": "npz"}.get(name, "safetensors-set")]
    path = form.write(tmp_path / name.removesuffix(form.ending), examples()[0])
    set_bias(path, 5, backup=True)
    return path, lambda: operation(path), models.read(Path(path))


def check_history(path: str, versions: list[models.Arrays]) -> None:
    """Undo leads back through these values, the present ones first, and then nothing is left."""
    assert models.equal(models.read(Path(path)), versions[0])
    for values in versions[1:]:
        undoing.undo(path, sync=False)
        assert models.equal(models.read(Path(path)), values)
    with pytest.raises(NotFoundError, match="nothing to undo"):
        undoing.undo(path)
    set_bias(path, 9)  # the next writer removes what a failed removal left
    assert not (Path(path).parent / HIDDEN).exists()
    assert not list(Path(path).parent.glob("*tmp*"))


@pytest.mark.parametrize("place", PLACES)
def test_killed_anywhere_undo_still_works_or_nothing_was_kept(tmp_path: Path, place: str) -> None:
    """An operation with --backup, killed before each call: old or new, and undo leads back from either."""
    first = FORMS["bundle"].real(examples()[0])
    outcomes = set()
    for calls in itertools.count():
        (folder := tmp_path / str(calls)).mkdir()
        path, operation, old = prepare(folder, place)
        done = survives(operation, calls)
        found = models.read(Path(path))
        is_old = models.equal(found, old)
        outcomes.add(is_old)
        check_history(path, [old, first] if is_old else [found, old, first])
        shutil.rmtree(folder)
        if done:
            break
    assert calls > 15
    assert outcomes == {True, False}


@pytest.mark.parametrize("place", ["names alone", "two commits", "set"])
def test_undo_killed_anywhere_is_done_or_not(tmp_path: Path, place: str) -> None:
    """Killed before each call: undone or not, and the history goes on from there."""
    first = FORMS["bundle"].real(examples()[0])
    outcomes = set()
    for calls in itertools.count():
        (folder := tmp_path / str(calls)).mkdir()
        path, operation, old = prepare(folder, place)
        operation()
        new = models.read(Path(path))
        done = survives(lambda: undoing.undo(path, sync=False), calls)  # noqa: B023 -- called at once
        is_new = models.equal(models.read(Path(path)), new)
        outcomes.add(is_new)
        if calls % 2:  # another operation heals it too
            with formats.locked(path, 1):
                pass
        check_history(path, [new, old, first] if is_new else [old, first])
        shutil.rmtree(folder)
        if done:
            break
    assert calls > 5
    assert outcomes == {True, False}


@pytest.mark.parametrize("place", ["bundle", "one file"])
def test_a_failing_disk_keeps_nothing_or_all(tmp_path: Path, place: str) -> None:
    """An error at each call, of an operation and then of undo: one line, and nothing was done or kept; or done."""
    first = FORMS["bundle"].real(examples()[0])
    for undoes in (False, True):
        for calls in itertools.count():
            (folder := tmp_path / f"{calls}").mkdir()
            path, operation, old = prepare(folder, place)
            before = models.snapshot(folder)
            act: Callable[[], object] = operation if not undoes else lambda: undoing.undo(path, sync=False)  # noqa: B023
            error = ""
            with Failing(calls) as disk:
                try:
                    act()
                except (StorageError, RefusedError) as raised:
                    error = str(raised)
            found = models.read(Path(path))
            if error:
                assert len(error.splitlines()) == 1
                assert models.equal(found, old)
                if not undoes:
                    assert {name: data for name, data in models.snapshot(folder).items() if name in before} == before
                check_history(path, [old, first])
            else:
                check_history(path, [first] if undoes else [found, old, first])
            shutil.rmtree(folder)
            if not disk.reached:
                break
        assert calls > 5


def test_a_save_just_before_the_commit_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody saves while the result is staged: refused, theirs is untouched, and no version stays behind."""
    models.write(tmp_path / "b", 2)
    write_index = publishing.Publication._write_index

    def save(self: publishing.Publication, index: bytes) -> None:
        monkeypatch.setattr(publishing.Publication, "_write_index", write_index)
        models.write(tmp_path / "theirs", 3)
        for file in tmp_path.glob("theirs.*"):
            os.replace(file, tmp_path / file.name.replace("theirs", "b"))
        write_index(self, index)

    monkeypatch.setattr(publishing.Publication, "_write_index", save)
    with pytest.raises(BusyError, match="another process saved it in the meantime"):
        set_bias(tmp_path / "b", 7, backup=True)
    assert models.equal(models.read(tmp_path / "b"), models.skflow_arrays(3))
    assert not (tmp_path / HIDDEN).exists()


def test_without_backup_nothing_more_is_loaded(tmp_path: Path) -> None:
    """A graft imports no module of undo, and looks for the hidden folder by one call."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    code = (
        "import sys; from ckptsurgeon.cli import main; status = main(['graft', 'a', 'b', '--layers', '0', '-q'])\n"
        "sys.exit(str([m for m in sys.modules if 'kept' in m or 'undo' in m]) if status == 0 else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == "[]\n"


def test_errors_of_undo_are_those_of_the_library(tmp_path: Path) -> None:
    """No such checkpoint: one line."""
    for verb in ("undo", "log"):
        status, _, err = run(verb, str(tmp_path / "m"))
        assert (status, err) == (2, f"ckptsurgeon: {tmp_path}/m: no such checkpoint\n")
    with pytest.raises(CkptSurgeonError):
        ckptsurgeon.forget(tmp_path / "m")
