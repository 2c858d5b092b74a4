"""Every call of the operating system may fail: a checkpoint is the old or the new one, and the next run tidies up.

`scripts/torture breaking faults` is the long form: every call, every error, and the real commands under strace.
"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import attempts
import faults
import models
import pytest

from ckptsurgeon import writing
from ckptsurgeon.formats.bundle import publishing
from ckptsurgeon.verbs import changing, looking, producing, reclaiming

SLOW = ("h5", "legacy", "weights", "weights-set", "keras")  # each opening starts a process
PAIRS = [
    (form, verb)
    for form in attempts.FORMS
    for verb in attempts.VERBS
    if (form, verb) not in attempts.NOT and (form not in SLOW or verb in ("set", "rename", "average", "copy"))
]
# A file that is one of many sorts, and a bundle, at more calls; the others share what is tried there.
MORE = {"bundle": 12, "npz": 4, "saved-model": 4, "safetensors-set": 6}
PROGRAM = [sys.executable, "-m", "ckptsurgeon"]


@pytest.mark.parametrize("form", attempts.FORMS)
def test_every_call_may_fail(tmp_path: Path, form: str) -> None:
    """One failing call, or all of its kind from then on: old or new, one line, and nothing that the next run leaves."""
    troubles, seen = [], set()
    for number, (_, verb) in enumerate(pair for pair in PAIRS if pair[0] == form):
        attempt = attempts.Attempt(tmp_path / str(number), form, verb)
        assert attempt.clean == (0, attempt.clean[1]), attempt.clean
        for turn, at in enumerate(faults.sampled(len(attempt.calls), MORE.get(form, 1), number)):
            kind = faults.KINDS[(number + turn) % len(faults.KINDS)]
            fault = faults.Faults(attempt.folder, at, kind, forever=(number + turn) % 3 == 2)
            attempt.restart()
            with fault:
                outcome = faults.run(*attempt.command)
            seen.add(fault.failed)
            troubles += [
                f"{verb}, {kind} at call {at} ({fault.failed}): {each}" for each in attempt.trouble(fault, outcome)
            ]
    assert not troubles
    assert None not in seen  # each fault was met


@pytest.mark.parametrize("form", attempts.FORMS)
def test_reads_and_writes_may_take_less(tmp_path: Path, form: str) -> None:
    """Calls that read or write at most seven bytes: every result is what it would be otherwise."""
    for verb in ("graft", "extract") if form not in attempts.SETS else ("graft",):
        attempt = attempts.Attempt(tmp_path / verb, form, verb)
        attempt.restart()
        with faults.Faults(attempt.folder, short=7) as fault:
            outcome = faults.run(*attempt.command)
        assert (outcome.status, list(attempt.trouble(fault, outcome))) == (0, [])


def test_libhdf5_may_write_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libhdf5 does not look at how much a call wrote; what it is given to write to writes all."""
    from ckptsurgeon.formats.keras.sandbox.reading import View

    path = tmp_path / "f"
    path.touch()
    fd = os.open(path, os.O_RDWR)
    with faults.Faults(tmp_path, short=7) as short:
        short._fds.add(fd)
        view = View(fd, 0, 0)
        assert view.write(bytes(range(100))) == 100
        view.seek(0)
        buffer = bytearray(100)
        assert view.readinto(buffer) == 100
    os.close(fd)
    assert bytes(buffer) == path.read_bytes() == bytes(range(100))
    assert short.names.count("pwrite") == short.names.count("preadv") == 15


@pytest.mark.parametrize("form", ["npz", "safetensors", "v1", "h5", "keras", "bundle"])
def test_a_result_that_is_not_the_plan_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """A disk that keeps other bytes, or fewer, without an error: refused in one line, and the old file stays."""
    attempt = attempts.Attempt(tmp_path, form, "set")
    for keeps, what in (
        (lambda data: bytes(len(data)), "nothing was changed"),
        (lambda data: data[1:], "did not keep"),
    ):
        attempt.restart()
        with monkeypatch.context() as patch:
            patch.setattr(writing, "write_all", lambda fd, data, keeps=keeps: os.write(fd, keeps(data)))
            patch.setattr(publishing, "write_all", lambda fd, data: os.write(fd, bytes(len(data))))
            done = faults.run(*attempt.command)
        assert (done.status, len(done.lines)) == (2, 1), done.lines
        assert what in done.lines[0] or form == "bundle"
        assert faults.files_of(attempt.folder) == attempt.before


def test_stdout_that_takes_nothing(tmp_path: Path) -> None:
    """A full or closed stdout is exit status 2 and one line, which says what was done nevertheless."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    old = models.read(tmp_path / "b")
    graft = ["graft", str(tmp_path / "a"), str(tmp_path / "b"), "--layers", "0"]
    for shell, reason in ((">/dev/full", "no space left on device"), (">&-", "bad file descriptor")):
        for command in (["ls", str(tmp_path / "a")], graft):
            line = ["sh", "-c", f'"$@" {shell}', "sh", *PROGRAM, *command]
            done = subprocess.run(line, capture_output=True, text=True)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)
            assert reason in done.stderr
            assert ("is written" in done.stderr) == (command is graft)
    assert models.equal(models.read(tmp_path / "b"), models.grafted(old, models.read(tmp_path / "a"), (0,)))
    done = subprocess.run(["sh", "-c", '"$@" 2>/dev/full', "sh", *PROGRAM, "ls", str(tmp_path / "c")])
    assert done.returncode == 2


def test_compact_heals_what_a_killed_compact_left(tmp_path: Path) -> None:
    """Between its two commits a bundle has another number of shards: compact run again finishes the work."""
    models.write(tmp_path / "m", 1)
    usual = sorted(path.name for path in tmp_path.iterdir())
    changing.drop(str(tmp_path / "m"), ["learning_rate"])
    os.rename(tmp_path / "m.data-00000-of-00001", tmp_path / "x")
    changing_to_two = tmp_path / "m.data-00000-of-00002"
    os.rename(tmp_path / "x", tmp_path / "m.data-00000-of-00001")
    from ckptsurgeon.formats.bundle import writing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "use_usual_names", lambda *args: None)  # killed just before the second commit
        reclaiming.compact(str(tmp_path / "m"))
    assert changing_to_two.exists()
    (tmp_path / "m.ckptsurgeon-tmp.data").write_bytes(b"left")
    (tmp_path / "m.ckptsurgeon-tmp.index").write_bytes(b"left")
    report = reclaiming.compact(str(tmp_path / "m"))
    assert (report.reclaimed, report.warnings) == (0, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == usual
    assert all(finding.ok for finding in looking.verify(str(tmp_path / "m")))


def test_an_operation_with_nothing_to_do_heals(tmp_path: Path) -> None:
    """What a crash left is removed by whoever comes next, also by a set to the value that is there."""
    models.write(tmp_path / "m", 1)
    path = models.write_as(tmp_path / "n.npz", attempts.ARRAYS[1], "npz")
    usual = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / "m.ckptsurgeon-tmp.index").write_bytes(b"left")
    os.link(tmp_path / "m.data-00000-of-00001", tmp_path / "m.data-00000-of-00002")
    (tmp_path / "n.npz.ckptsurgeon-tmp").write_bytes(b"left")
    for name in (str(tmp_path / "m"), path):
        changing.set(name, "global_step", "1")
    assert sorted(path.name for path in tmp_path.iterdir()) == usual


# -- permissions, and names that somebody planted


def modes_of(folder: Path) -> dict[str, int]:
    """The permissions of all files of a folder."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@pytest.mark.parametrize("form", ["bundle", "v1", "npz", "safetensors", "h5", "keras"])
def test_permissions_are_kept(tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What replaces a file has its permissions, owner and attributes, and is never more readable on the way."""
    attempt = attempts.Attempt(tmp_path, form, "set")
    attempt.restart()
    files = [path for path in attempt.folder.iterdir() if path.name.startswith("b")]
    for path in files:
        path.chmod(0o640)
    owned = os.getuid() == 0
    for path in files:
        if owned:
            os.chown(path, 12345, 23456)
    try:
        os.setxattr(files[0], "user.note", b"kept")
        files[0].chmod(0o640)
        noted = files[0].name.endswith((".index", ".npz", ".safetensors", ".h5", ".keras")) or form == "v1"
    except OSError:
        noted = False  # no extended attributes here
    seen: list[int] = []
    fsync = os.fsync

    def look(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", look)
    assert faults.run(*attempt.command).status == 0
    assert seen
    assert all(mode & ~0o640 == 0 for mode in seen)
    after = [path for path in attempt.folder.iterdir() if path.name.startswith("b")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in after} == {0o640}
    if owned:
        assert {(path.stat().st_uid, path.stat().st_gid) for path in after} == {(12345, 23456)}
    if noted and files[0].exists():
        assert os.getxattr(files[0], "user.note") == b"kept"


@pytest.mark.parametrize("planted", ["link", "pipe", "file", "hard link"])
@pytest.mark.parametrize("form", ["bundle", "npz"])
def test_planted_names_are_not_followed(tmp_path: Path, form: str, planted: str) -> None:
    """A link, a pipe or a file at a temporary name is removed: its target keeps its bytes, and nobody waits for it."""
    attempt = attempts.Attempt(tmp_path / "x", form, "set")
    attempt.restart()
    victim = attempt.folder / "victim"
    victim.write_bytes(b"somebody's")
    names = ["b.ckptsurgeon-tmp.index", "b.ckptsurgeon-tmp.data"] if form == "bundle" else ["b.npz.ckptsurgeon-tmp"]
    for name in names:
        path = attempt.folder / name
        {
            "link": lambda path=path: path.symlink_to(victim),
            "pipe": lambda path=path: os.mkfifo(path),
            "file": lambda path=path: path.write_bytes(b"planted"),
            "hard link": lambda path=path: os.link(victim, path),
        }[planted]()
    assert faults.run(*attempt.command).status == 0
    assert victim.read_bytes() == b"somebody's"
    assert victim.stat().st_nlink == 1
    assert attempt._is(attempt.values(), attempt.new)
    assert not [path for path in attempt.folder.iterdir() if "ckptsurgeon-tmp" in path.name]


def test_a_planted_folder_is_refused(tmp_path: Path) -> None:
    """A folder at a temporary name is named in one line, and not removed."""
    attempt = attempts.Attempt(tmp_path / "x", "npz", "set")
    attempt.restart()
    (attempt.folder / "b.npz.ckptsurgeon-tmp" / "inside").mkdir(parents=True)
    done = faults.run(*attempt.command)
    assert (done.status, len(done.lines)) == (2, 1)
    assert "a folder has the name of a temporary file" in done.lines[0]
    assert attempt._is(attempt.values(), attempt.old)


@pytest.mark.parametrize("name", ["a\nb", "a\x1b[31mb", os.fsdecode(b"a\xffb"), "-a", "x" * 200])
def test_names_of_files(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files with odd names are read and written; whatever is printed of the name cannot control a terminal."""
    monkeypatch.chdir(tmp_path)
    models.write(tmp_path / "b", 2)
    models.write(tmp_path / name, 1)
    given = f"./{name}"
    commands = [
        ("ls", given), ("ls", given, "--json"), ("ls", "."), ("layers", given), ("show", given), ("verify", given),
        ("diff", given, "b"), ("set", given, "global_step", "5"), ("cp", given, f"{given}2"), ("compact", given),
        ("ls", f"{given}-"), ("ls", given, "nothing*"), ("ls", given, "--tree"), ("drop", given, "learning_rate"),
        ("graft", "b", given, "--layers", "9"), ("extract", given, "-o", "b"),
    ]  # fmt: skip
    for command in commands:
        done = faults.run(*command)
        assert done.status in (0, 1, 2), done.lines
        for line in (*done.out.splitlines(), *done.lines):
            assert "\x1b" not in line
            assert "\n" not in line
        if done.status == 2:
            assert len(done.lines) == 1, done.lines
    assert models.read(Path(given))["global_step"] == 5


def test_a_name_of_255_bytes(tmp_path: Path) -> None:
    """A file whose name leaves no room for a temporary one is read; writing it is refused in one line, nothing left."""
    path = models.write_as(tmp_path / "m.npz", attempts.ARRAYS[1], "npz")
    long = tmp_path / ("x" * 251 + ".npz")
    os.rename(path, long)
    assert faults.run("ls", str(long)).status == 0
    done = faults.run("set", str(long), "global_step", "5")
    assert (done.status, len(done.lines)) == (2, 1)
    assert "file name too long" in done.lines[0]
    assert [path.name for path in tmp_path.iterdir()] == [long.name]


def test_copies_of_sets_lock_the_set(tmp_path: Path) -> None:
    """A second copy of a set to the same place waits for the first, and a killed one's files are replaced."""
    from ckptsurgeon.errors import BusyError
    from ckptsurgeon.locking import staging_lock

    attempt = attempts.Attempt(tmp_path, "safetensors-set", "copy")
    attempt.restart()
    with staging_lock(f"{attempt.result}.ckptsurgeon-tmp.set", 0), pytest.raises(BusyError):
        producing.cp(attempt.paths["a"], attempt.result, wait=0)
    first = attempt.folder / "out-00001-of-00002.safetensors"
    first.write_bytes(b"half")
    os.link(first, f"{first}.ckptsurgeon-tmp")
    producing.cp(attempt.paths["a"], attempt.result)
    assert attempt._is(attempt.values(), attempt.new)
    assert faults.files_of(attempt.folder).keys() == attempt.after.keys()
