"""Publishing: whatever breaks at whatever moment, a checkpoint is the old one or the new one, and heals."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import models
import numpy as np
import pytest
from crash import CALLS, Failing, files_of, survives

from ckptsurgeon import formats
from ckptsurgeon.errors import BusyError, CkptSurgeonError, RefusedError, StorageError
from ckptsurgeon.plan import Change, Copy, Plan
from ckptsurgeon.publish import Lock, Staging, write_file
from ckptsurgeon.surgeon.grafting import graft as plan_graft
from ckptsurgeon.surgeon.options import GraftOptions
from ckptsurgeon.verbs import changing, looking, reclaiming

Operation = Callable[[], object]


def _graft(tmp_path: Path, **options: object) -> Operation:
    return lambda: changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), **options)  # type: ignore[arg-type]


# name -> options of a graft of a into b, and the checkpoint that it writes
OPERATIONS = {
    "copying": ({"layers": "0-1"}, "b"),
    "linking": ({"layers": "0-1", "link": True}, "b"),
    "whole": ({"match": ["**"], "slots": "copy"}, "b"),
    "slots dropped": ({"layers": "1", "slots": "drop"}, "b"),
    "slots filled": ({"layers": "1", "slots": "fill=0.5"}, "b"),
    "as a new one": ({"layers": "0-1", "out": "OUT"}, "out"),
    "as a new one, linked": ({"layers": "0-1", "out": "OUT", "link": True}, "out"),
    "over an old one": ({"layers": "0-1", "out": "OLD", "force": True}, "old"),
}


def _prepare(tmp_path: Path, name: str) -> tuple[Operation, Path]:
    """Checkpoints a, b and old, with a history of grafts in b, so that it has several shards."""
    tmp_path.mkdir(exist_ok=True)
    for seed, path in enumerate(("a", "b", "old", "c")):
        models.write(tmp_path / path, seed)
    changing.graft(str(tmp_path / "c"), str(tmp_path / "b"), layers="2", sync=False)
    options, result = OPERATIONS[name]
    options = dict(options)
    if "out" in options:
        options["out"] = str(tmp_path / result)
    return _graft(tmp_path, **options), tmp_path / result


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_point_leaves_the_old_or_the_new_checkpoint(tmp_path: Path, name: str) -> None:
    """Kill -9 before every call that changes the disk: old or new, sound, and done again it is the new one."""
    operation, result = _prepare(tmp_path / "straight", name)
    old = models.read(result) if Path(f"{result}.index").exists() else None
    operation()
    new, tidy = models.read(result), files_of(result)
    outcomes = set()
    for calls in range(1000):
        folder = tmp_path / str(calls)
        operation, result = _prepare(folder, name)
        donor = models.snapshot(folder)
        if survives(operation, calls):
            break
        if not Path(f"{result}.index").exists():
            assert old is None
            outcomes.add("none")
        else:
            found = models.read(result)
            assert models.equal(found, new) or (old is not None and models.equal(found, old))
            assert all(finding.ok for finding in looking.verify(str(result)))
            outcomes.add("new" if models.equal(found, new) else "old")
        after = models.snapshot(folder)
        assert {file: after[file] for file in after if file.startswith("a.")} == {
            file: donor[file] for file in donor if file.startswith("a.")
        }
        with contextlib.suppress(RefusedError):  # 'exists already', where it had happened before the kill
            operation()
        assert models.equal(models.read(result), new)
        changing.set(str(result), "global_step", "77", sync=False)  # one more writer tidies up what is left
        changing.set(str(result), "global_step", "78", sync=False)
        standing = files_of(result)
        assert not [file for file in standing if "tmp" in file]
        with formats.open(str(result)) as checkpoint:
            assert len(standing) == 1 + len(checkpoint.data_files), standing
    assert calls > 10
    assert outcomes >= ({"new", "old"} if old is not None else {"none"})
    assert len(tidy) < 10


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_error_at_every_point_leaves_the_old_checkpoint_and_no_file(tmp_path: Path, name: str) -> None:
    """A full disk at any call: one clear error and nothing is left behind, or the work is done."""
    for calls in range(1000):
        operation, result = _prepare(tmp_path / str(calls), name)
        before = {file: data for file, (data, _) in models.snapshot(result.parent).items()}
        error = None
        with Failing(calls) as disk:
            try:
                operation()
            except StorageError as raised:
                error = str(raised)
        if not disk.reached:
            break
        if error is not None:
            assert "no space left" in error
            assert "\n" not in error
            after = {file: data for file, (data, _) in models.snapshot(result.parent).items()}
            assert after == before
    assert calls > 10


def test_what_is_published_has_been_synced(tmp_path: Path) -> None:
    """Before the rename every file that the new index names, the index and the folder were synced; then the folder."""
    operation, result = _prepare(tmp_path / "x", "linking")
    trace: list[tuple[str, object]] = []
    originals = {name: getattr(os, name) for name in CALLS}

    def record(name: str) -> Callable[..., object]:
        def call(*args: object, **kwargs: object) -> object:
            if name == "fsync":
                trace.append((name, os.fstat(args[0]).st_ino))  # type: ignore[arg-type]
            else:
                trace.append((name, args[1] if len(args) > 1 else args[0]))
            return originals[name](*args, **kwargs)

        return call

    try:
        for name in CALLS:
            setattr(os, name, record(name))
        operation()
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
    commit = trace.index(("replace", f"{result}.index"))
    synced = {what for call, what in trace[:commit] if call == "fsync"}
    with formats.open(str(result)) as checkpoint:
        named = [*checkpoint.data_files, f"{result}.index", str(result.parent)]
    assert {os.stat(path).st_ino for path in named} <= synced
    last_link = max(at for at, (call, _) in enumerate(trace[:commit]) if call == "link")
    folder = os.stat(result.parent).st_ino
    assert ("fsync", folder) in trace[last_link:commit]
    assert ("fsync", folder) in trace[commit:]


def test_a_second_writer_waits(tmp_path: Path) -> None:
    """A graft waits for another writer to finish, and gives up after --wait seconds, saying so."""
    operation, result = _prepare(tmp_path, "copying")
    held = Lock(f"{result}.index", 0)
    before = models.snapshot(tmp_path)
    with pytest.raises(BusyError, match=r"b\.index: another process is writing it, waited 0\.05 s"):
        changing.graft(str(tmp_path / "a"), str(result), layers="0", wait=0.05)
    assert models.snapshot(tmp_path) == before
    threading.Timer(0.1, held.release).start()
    operation()
    assert models.equal(models.read(result), models.grafted(models.read(result), models.read(tmp_path / "a"), (0, 1)))


def test_two_grafts_at_once_both_happen(tmp_path: Path) -> None:
    """Processes that graft different layers into one recipient at once: all layers arrive, no file is left over."""
    donors = [models.write(tmp_path / f"donor{layer}", layer) for layer in range(3)]
    recipient = models.write(tmp_path / "b", 9)
    code = "import sys; from ckptsurgeon import graft; graft(sys.argv[1], sys.argv[2], layers=sys.argv[3])"
    for _ in range(3):
        models.write(tmp_path / "b", 9)
        children = [
            subprocess.Popen([sys.executable, "-c", code, tmp_path / f"donor{layer}", tmp_path / "b", str(layer)])
            for layer in range(3)
        ]
        assert [child.wait() for child in children] == [0, 0, 0]
        expected = recipient
        for layer, donor in enumerate(donors):
            expected = models.grafted(expected, donor, (layer,))
        assert models.equal(models.read(tmp_path / "b"), expected)
        with formats.open(str(tmp_path / "b")) as checkpoint:
            assert len(files_of(tmp_path / "b")) == 1 + len(checkpoint.data_files)


def test_a_save_between_plan_and_commit_is_noticed(tmp_path: Path) -> None:
    """Somebody who saves over the recipient meanwhile wins; the graft says so and leaves nothing behind."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    theirs = models.write(tmp_path / "theirs", 3)
    with formats.open(str(tmp_path / "a")) as donor, formats.locked(str(tmp_path / "b"), 1.0) as held:
        plan = plan_graft(donor, held.checkpoint, GraftOptions(layers="0"))
        for ending in (".data-00000-of-00001", ".index"):
            os.replace(f"{tmp_path / 'theirs'}{ending}", f"{tmp_path / 'b'}{ending}")
        with pytest.raises(CkptSurgeonError, match=r"another process saved it in the meantime|was replaced"):
            formats.save(plan, lock=held.lock)
    assert models.equal(models.read(tmp_path / "b"), theirs)
    assert list(files_of(tmp_path / "b")) == ["b.data-00000-of-00001", "b.index"]


def test_a_donor_replaced_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    """A donor that is saved over between opening and copying never gives bytes that its index did not mean."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    fresh = models.write(tmp_path / "fresh", 3)
    original = formats.open
    replaced = []

    def open_then_replace(path: str) -> object:
        checkpoint = original(path)
        if path.endswith("a") and not replaced:
            replaced.append(path)
            for ending in (".data-00000-of-00001", ".index"):
                os.replace(f"{tmp_path / 'fresh'}{ending}", f"{tmp_path / 'a'}{ending}")
        return checkpoint

    for link in (False, True):
        formats.open = open_then_replace  # type: ignore[assignment]
        try:
            changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0", link=link)
        finally:
            formats.open = original
        assert (
            models.read(tmp_path / "b")["dnn/layer0/Linear/Bias"].tobytes() == fresh["dnn/layer0/Linear/Bias"].tobytes()
        )
        replaced.clear()
        models.write(tmp_path / "a", 1)
        fresh = models.write(tmp_path / "fresh", 4)


def test_a_donor_shard_younger_than_its_index_is_checked_before_it_is_linked(tmp_path: Path) -> None:
    """Data of a save whose index is still to come are not linked under the old index."""
    models.write(tmp_path / "a", 1)
    old = models.write(tmp_path / "b", 2)
    models.write(tmp_path / "fresh", 3)
    os.replace(tmp_path / "fresh.data-00000-of-00001", tmp_path / "a.data-00000-of-00001")
    os.utime(tmp_path / "a.data-00000-of-00001")
    with pytest.raises(CkptSurgeonError, match="wrong checksum"):
        changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0", link=True)
    assert models.equal(models.read(tmp_path / "b"), old)


def test_a_younger_file_of_another_save_is_left_alone_with_a_warning(tmp_path: Path) -> None:
    """A shard that may belong to a save under way is never removed; an older one is."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    stale, young = tmp_path / "b.data-00000-of-00007", tmp_path / "b.data-00000-of-00008"
    stale.write_bytes(b"old")
    os.utime(stale, (1, 1))
    young.write_bytes(b"young")
    os.utime(young, (2**32, 2**32))
    report = changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0")
    assert [warning for warning in report.warnings if "00008" in warning]
    assert not stale.exists()
    assert young.read_bytes() == b"young"


def test_the_data_of_a_save_under_way_are_never_removed(tmp_path: Path) -> None:
    """TensorFlow renames its data first and its index last: a graft of everything in between leaves its data alone."""
    arrays = {**models.skflow_arrays(1), "learning_rate": np.asarray(0.2, np.float32)}  # no value is b's already
    formats.write(str(tmp_path / "a"), arrays)
    models.write(tmp_path / "b", 2)
    fresh = models.write(tmp_path / "fresh", 3)
    os.utime(tmp_path / "fresh.data-00000-of-00001", (2**32, 2**32))
    os.replace(tmp_path / "fresh.data-00000-of-00001", tmp_path / "b.data-00000-of-00001")
    report = changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), match=["**"], slots="copy")
    assert [warning for warning in report.warnings if "perhaps a save under way" in warning]
    os.replace(tmp_path / "fresh.index", tmp_path / "b.index")  # the save's last step
    assert models.equal(models.read(tmp_path / "b"), fresh)


def test_hard_links_that_fail_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system without hard links a copying graft works all the same, and --link is refused."""
    donor = models.write(tmp_path / "a", 1)
    old = models.write(tmp_path / "b", 2)

    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(CkptSurgeonError, match="--link"):
        changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0", link=True)
    assert models.equal(models.read(tmp_path / "b"), old)
    for _ in range(3):
        changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0")
        assert models.equal(models.read(tmp_path / "b"), models.grafted(old, donor, (0,)))
        models.write(tmp_path / "b", 2)
    assert len(files_of(tmp_path / "b")) == 2


def test_symbolic_links_are_replaced_and_their_targets_left_alone(tmp_path: Path) -> None:
    """A recipient that is a link becomes a file of its own."""
    donor = models.write(tmp_path / "a", 1)
    (tmp_path / "store").mkdir()
    old = models.write(tmp_path / "store" / "b", 2)
    before = models.snapshot(tmp_path / "store")
    for ending in (".data-00000-of-00001", ".index"):
        (tmp_path / f"b{ending}").symlink_to(tmp_path / "store" / f"b{ending}")
    changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0")
    assert models.equal(models.read(tmp_path / "b"), models.grafted(old, donor, (0,)))
    assert models.snapshot(tmp_path / "store") == before
    assert not (tmp_path / "b.index").is_symlink()


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two runs of one operation write the same files, byte for byte."""
    results = []
    for run in ("one", "other"):
        operation, _ = _prepare(tmp_path / run, "copying")
        operation()
        results.append({file: data for file, (data, _) in models.snapshot(tmp_path / run).items()})
    assert results[0] == results[1]


def test_an_operation_that_changes_nothing_writes_nothing(tmp_path: Path) -> None:
    """A graft or a set that would write the bytes that stand there already leaves the files untouched."""
    operation, _ = _prepare(tmp_path, "copying")
    operation()
    changing.set(str(tmp_path / "b"), "global_step", "5")
    before = models.snapshot(tmp_path)
    operation()
    changing.set(str(tmp_path / "b"), "global_step", "5")
    changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0", link=False)
    assert models.snapshot(tmp_path) == before


def test_repeated_grafts_leave_no_growing_heap(tmp_path: Path) -> None:
    """However often and whichever layers are grafted, the files stay as few as the variables need."""
    for seed in range(3):
        models.write(tmp_path / f"donor{seed}", seed)
    models.write(tmp_path / "b", 9)
    most = 0
    for turn in range(30):
        changing.graft(str(tmp_path / f"donor{turn % 3}"), str(tmp_path / "b"), layers=str(turn * 7 % 3), sync=False)
        most = max(most, len(files_of(tmp_path / "b")))
    assert most <= 6


def test_index_only_operations_keep_the_shards(tmp_path: Path) -> None:
    """Dropping slots alone adds no bytes, so only the index is rewritten."""
    models.write(tmp_path / "b", 2)
    data = tmp_path / "b.data-00000-of-00001"
    before = data.stat()
    with formats.locked(str(tmp_path / "b"), 1.0) as held:
        slot = held.checkpoint["dnn/layer0/Linear/Bias/Adagrad"]
        formats.save(Plan(held.checkpoint, [Change("dropped", slot)]), lock=held.lock)
    assert data.stat().st_ino == before.st_ino
    assert "dnn/layer0/Linear/Bias/Adagrad" not in models.read(tmp_path / "b")


def test_a_disk_that_fails_while_a_large_graft_is_copied_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the write-back that goes on beside the copying stops the graft; otherwise the bytes arrive."""
    large = {"dnn/layer0/w": np.arange(40_000_000, dtype=np.float32)}
    formats.write(str(tmp_path / "a"), large)
    formats.write(str(tmp_path / "b"), {"dnn/layer0/w": np.zeros(40_000_000, np.float32), "x": np.zeros(1)}, sync=False)
    fsync, failures = os.fsync, [1]

    def fail_once(fd: int) -> None:
        if failures and threading.current_thread() is not threading.main_thread():
            failures.pop()
            raise OSError(5, "Input/output error")
        fsync(fd)

    before = files_of(tmp_path / "b")
    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(StorageError, match="input/output error"):
        changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0")
    assert files_of(tmp_path / "b") == before
    assert not looking.get(str(tmp_path / "b"), "dnn/layer0/w").any()
    changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0")
    assert models.equal(models.read(tmp_path / "b"), {**large, "x": np.zeros(1)})


def test_a_damaged_donor_is_refused_and_the_recipient_is_unharmed(tmp_path: Path) -> None:
    """A wrong checksum in the grafted bytes stops the graft; one elsewhere does not."""
    donor = models.write(tmp_path / "a", 1)
    old = models.write(tmp_path / "b", 2)
    with formats.open(str(tmp_path / "a")) as checkpoint:
        extent = checkpoint["dnn/layer1/Linear/Matrix"].extents[0]
    data = bytearray(Path(extent.file).read_bytes())
    data[extent.offset + 3] ^= 1
    Path(extent.file).write_bytes(data)
    before = models.snapshot(tmp_path)
    with pytest.raises(CkptSurgeonError, match="wrong checksum"):
        changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0-1")
    assert models.snapshot(tmp_path) == before
    changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0")
    assert models.equal(models.read(tmp_path / "b"), models.grafted(old, donor, (0,)))


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    """write_file leaves the old bytes or the new ones, at whatever call it is killed or fails."""
    path = tmp_path / "file"
    for calls in range(100):
        path.write_bytes(b"old")
        if survives(lambda: write_file(str(path), [b"n", b"ew"]), calls):
            break
        assert path.read_bytes() in (b"old", b"new")
    assert calls > 4
    assert path.read_bytes() == b"new"
    path.write_bytes(b"old")
    with Failing(1), pytest.raises(StorageError, match="no space left"):
        write_file(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_copy_of_unknown_bytes_is_never_planned(tmp_path: Path) -> None:
    """A plan's copies name the donor's own variable, so that what is copied is what was checked."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    with formats.open(str(tmp_path / "a")) as donor, formats.open(str(tmp_path / "b")) as recipient:
        plan = plan_graft(donor, recipient, GraftOptions(layers="0-1"))
        for change in plan.changes:
            assert isinstance(change.content, Copy)
            assert change.content.variable is donor[change.variable.name]


def test_an_empty_shard_that_a_variable_lies_in_stays(tmp_path: Path) -> None:
    """A set is not renumbered without its last shard if a variable without values names that shard."""
    formats.write(str(tmp_path / "m"), {"a": np.ones(3), "e": np.zeros(0, np.float64)}, sync=False)
    changing.cast(str(tmp_path / "m"), "float32", match=["e"], sync=False)
    reclaiming.compact(str(tmp_path / "m"), sync=False)
    found = models.read(tmp_path / "m")
    assert {name: values.dtype.name for name, values in found.items()} == {"a": "float64", "e": "float32"}


def test_old_shards_stay_where_the_new_index_may_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the folder cannot be synced after the commit, a power cut may bring back the old index: its shards stay."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    before, real = {path.name for path in tmp_path.glob("b.data-*")}, Staging.sync
    committed = []

    def sync(self: Staging, path: str) -> None:
        if committed:
            raise OSError(5, "Input/output error")
        real(self, path)

    def rename(self: Staging, source: str, path: str) -> None:
        move(self, source, path)
        committed.append(path)

    move = Staging.rename
    monkeypatch.setattr(Staging, "sync", sync)
    monkeypatch.setattr(Staging, "rename", rename)
    report = changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="0")
    assert ["a power cut may undo it" in each for each in report.warnings] == [True]
    assert before <= {path.name for path in tmp_path.glob("b.data-*")}
