"""HDF5 files that are damaged, lead elsewhere or claim too much: one line each, whatever libhdf5 does with them."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import hdf5_files
import numpy as np
import pytest
from waiting import LIMIT, wait_until

from ckptsurgeon import cli, formats
from ckptsurgeon.errors import CkptSurgeonError, DamagedError, StorageError, UnsupportedError
from ckptsurgeon.formats.keras.sandbox import process, reading, rewriting, spawning
from ckptsurgeon.publish import Lock
from ckptsurgeon.verbs import changing

# -- files that lead elsewhere or claim too much

TRAPS: dict[str, tuple[Callable[[Any, str], object], str]] = {
    "external link": (lambda file, secret: file.__setitem__("w", h5py.ExternalLink(secret, "/s")), "w is an external"),
    "deep external link": (lambda file, secret: file.__setitem__("a/b/w", h5py.ExternalLink(secret, "/")), "a/b/w is"),
    "soft link": (lambda file, secret: file.__setitem__("w", h5py.SoftLink("/a")), "w is a soft link, which is never"),
    "soft link to itself": (lambda file, secret: file.__setitem__("w", h5py.SoftLink("w")), "w is a soft link"),
    "external storage": (
        lambda file, secret: file.create_dataset("w", (2,), "f4", external=[(secret, 0, 8)]),
        "w: its values lie in another file, which is never read",
    ),
    "virtual dataset": (lambda file, secret: virtual(file, secret), "w: a virtual dataset, whose values may lie"),
    "shape bomb": (
        lambda file, secret: file.create_dataset("w", (1 << 40,), "f4", chunks=(1024,)),
        "w: claims far more values than are stored",
    ),
    "shape bomb at a fixed place": (
        lambda file, secret: file.create_dataset("w", (1 << 40,), "f4"),
        "w: claims far more values than are stored",
    ),
    "packed bomb": (
        lambda file, secret: file.create_dataset("w", (1 << 40,), "u1", chunks=(1 << 20,), compression="gzip"),
        "w: claims far more values than are stored",
    ),
    "a group in itself": (
        lambda file, secret: file.__setitem__("a/b/c", file),
        "a/b/c: a group with more than one path",
    ),
    "a group in two places": (
        lambda file, secret: file.__setitem__("b", file.create_group("a")),
        "a group with more than one path",
    ),
    "an unknown filter": (lambda file, secret: unknown_filter(file), "w: unsupported compression"),
    "text without end": (
        lambda file, secret: file.create_dataset("w", (1 << 24,), h5py.string_dtype()),
        "w: claims far more values than are stored",
    ),
}


def virtual(file: Any, secret: str) -> None:
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource(secret, "s", (2,))
    file.create_virtual_dataset("w", layout)


def unknown_filter(file: Any) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((4,))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
    h5py.h5d.create(file.id, b"w", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((8,)), plist)


@pytest.mark.parametrize("name", TRAPS)
@pytest.mark.parametrize("ending", [".h5", ".keras"])
def test_traps(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, ending: str) -> None:
    """Every verb ends with one line that says what is wrong, and with status 2; nothing is written."""
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["s"] = np.zeros(2, np.float32)
    path, other = tmp_path / f"trap{ending}", tmp_path / "sound.weights.h5"
    make, message = TRAPS[name]
    with h5py.File(tmp_path / "made", "w") as file:
        make(file, str(secret))
    (tmp_path / "made").rename(path)
    if ending == ".keras":
        with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
            archive.writestr("config.json", "{}")
            archive.write(path, "model.weights.h5")
        (tmp_path / "zip").rename(path)
    hdf5_files.weights(other)
    before = {each: each.read_bytes() for each in (path, other)}
    alone = [["ls", path], ["layers", path], ["verify", path], ["get", path, "w"], ["show", path],
             ["set", path, "w", "1"], ["cp", path, tmp_path / "x"]]  # fmt: skip
    pairs = [["graft", "--match", "**"], ["diff"]]
    both = [[verb, *two, *rest] for verb, *rest in pairs for two in ([path, other], [other, path])]
    for arguments in alone + both:
        assert cli.main([str(each) for each in arguments]) == 2
        said = capsys.readouterr()
        [line] = (said.out + said.err).splitlines()
        assert str(path) in line
        assert message in line
    assert before == {each: each.read_bytes() for each in (path, other)}


# -- zip files that lie, or hold far more than they are


INDEX = b'{"weight_map": {"/layers/dense/vars": "%s"}}'
PACKED = zipfile.ZIP_DEFLATED
ESCAPES = "leads out of its folder"
ZIP_TRAPS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a member twice": (lambda weights: whole_zip(weights, b"bb/x", b"aa/x"), "two zip members with the same name"),
    "a member that escapes": (lambda weights: whole_zip(weights, b"assets/bb", b"../..//bb"), ESCAPES),
    "a member from the root": (lambda weights: whole_zip(weights, b"assets/bb", b"/ssets/bb"), ESCAPES),
    "a member by Windows": (lambda weights: whole_zip(weights, b"assets/b", b"..\\..\\bb"), ESCAPES),
    "a bomb": (
        lambda weights: keras_zip({"model.weights.h5": weights + bytes(48 << 20)}, PACKED),
        "model.weights.h5 is compressed more than 100-fold",
    ),
    "a bomb of a config": (
        lambda weights: keras_zip({"config.json": bytes(33 << 20), "model.weights.h5": weights}, PACKED),
        "config.json is too large",
    ),
    "a bomb of an index": (
        lambda weights: keras_zip({"model.weights.json": bytes(33 << 20)}, PACKED),
        "model.weights.json is too large",
    ),
    "more than it says": (
        lambda weights: keras_zip({"model.weights.h5": weights}, PACKED).replace(
            len(weights).to_bytes(4, "little"), (len(weights) - 1).to_bytes(4, "little")
        ),
        "a zip member's size is wrong",
    ),
    "pickles": (lambda _: keras_zip({"model.weights.npz": b"\x80\x04."}), "pickled arrays, which are never loaded"),
    "no weights": (lambda _: keras_zip({"model.weights.txt": b""}), "a Keras file without weights"),
    "an index of another folder": (
        lambda _: keras_zip({"model.weights.json": INDEX % b"../x.h5"}),
        "the index names a file outside its folder",
    ),
    "an index of what is not there": (
        lambda _: keras_zip({"model.weights.json": INDEX % b"x.h5"}),
        "the index names x.h5, which is not in the file",
    ),
    "an index that is none": (lambda _: keras_zip({"model.weights.json": b"[" * 9000}), "not a weights index"),
    "weights that are none": (lambda _: keras_zip({"model.weights.h5": b"nothing of the kind"}), "damaged"),
}


def keras_zip(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A Keras file of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in {"config.json": b"{}", **members}.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return file.getvalue()


def whole_zip(weights: bytes, old: bytes, new: bytes) -> bytes:
    """A Keras file with two more members, with some of its bytes replaced."""
    made = keras_zip({"model.weights.h5": weights, "assets/aa/x": b"one", "assets/bb/x": b"two"})
    assert old in made
    assert len(old) == len(new)
    return made.replace(old, new)


@pytest.mark.parametrize("name", ZIP_TRAPS)
def test_zip_traps(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Every verb ends with one line that says what is wrong; nothing is unpacked beside it, or anywhere."""
    hdf5_files.weights(tmp_path / "sound.weights.h5")
    make, message = ZIP_TRAPS[name]
    path, other = tmp_path / "trap.keras", tmp_path / "sound.weights.h5"
    path.write_bytes(make(other.read_bytes()))
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    for arguments in (["ls", path], ["layers", path], ["verify", path], ["cp", path, tmp_path / "x"],
                      ["set", path, "layers/dense/vars/0", "1"], ["graft", "--match", "**", path, other],
                      ["graft", "--match", "**", other, path]):  # fmt: skip
        status = cli.main([str(each) for each in arguments])
        said = capsys.readouterr()
        [line] = (said.out + said.err).splitlines()
        assert str(path) in line
        assert message in line
        is_sound = any(each in message for each in ("compressed more than", "too large", "pickled"))  # but not handled
        assert status == (1 if arguments[0] == "verify" and not is_sound else 2)
    assert before == {each: each.read_bytes() for each in tmp_path.iterdir()}


def test_names_that_grow(tmp_path: Path) -> None:
    """Groups in groups with long names, whose paths together are far longer than the file."""
    with h5py.File(tmp_path / "m.h5", "w", libver="latest") as file:
        group = file
        for _ in range(3000):
            group = group.create_group("n" * 1500)
    with pytest.raises(DamagedError, match="invalid names, or too many of them"):
        formats.open(str(tmp_path / "m.h5"))


# -- a library that crashes, hangs, or takes all memory


@pytest.fixture
def fresh() -> Iterator[None]:
    """A spawner that is forked in the test, with what it has patched, and ends with it."""
    before = dict(spawning._spawners)
    spawning._spawners.clear()
    yield
    spawning._spawners.clear()
    spawning._spawners.update(before)


def segfault(*_: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def spin(*_: Any) -> Any:
    while True:
        pass


def take_all(*_: Any) -> Any:
    return [np.zeros(1 << 26, "u1") for _ in range(1 << 10)]


def open_another(*_: Any) -> Any:
    return Path(__file__).read_text()


ENDS: list[tuple[Callable[..., Any], type[CkptSurgeonError], str]] = [
    (segfault, DamagedError, r"libhdf5 crashed while reading this file \(SIGSEGV\)"),
    (lambda *_: os.abort(), DamagedError, r"libhdf5 crashed while reading this file \(SIGABRT\)"),
    (lambda *_: os._exit(0), DamagedError, "libhdf5 crashed while reading this file"),
    (spin, DamagedError, "libhdf5 did not finish reading this file"),
    (take_all, StorageError, "not enough memory for the sizes that the file claims"),
    (open_another, DamagedError, "damaged; found OSError: .*Too many open files"),
    (lambda *_: {"groups": 3}, DamagedError, "damaged: libhdf5 returned inconsistent metadata"),
    (
        lambda *_: {"groups": [], "datasets": [{"path": "a"}], "types": [], "block": 0},
        DamagedError,
        "inconsistent metadata",
    ),
]


@pytest.mark.parametrize("number", range(len(ENDS)))
@pytest.mark.usefixtures("fresh")
def test_whatever_becomes_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Its death, its silence and its nonsense are one error each, and the next file is read."""
    end, kind, message = ENDS[number]
    hdf5_files.weights(tmp_path / "m.weights.h5")
    with monkeypatch.context() as patched:
        patched.setattr(reading, "walk", end)
        with pytest.raises(kind, match=message):
            formats.open(str(tmp_path / "m.weights.h5"))
    spawning._spawners.clear()
    with formats.open(str(tmp_path / "m.weights.h5")) as file:
        assert file


@pytest.mark.usefixtures("fresh")
def test_many_deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of which the library dies again and again, after seconds each time, is soon given up; another is read."""
    for path in (tmp_path / "m.h5", tmp_path / "n.h5"):
        with h5py.File(path, "w") as file:
            for number in range(20):
                file.create_dataset(str(number), data=np.arange(8), chunks=(4,))
    found = []
    with monkeypatch.context() as patched, formats.open(str(tmp_path / "n.h5")) as other:
        patched.setattr(reading, "send_values", segfault)
        spawning._spawners.clear()
        with formats.open(str(tmp_path / "m.h5")) as file:
            for name in file:
                with pytest.raises(DamagedError, match=f"libhdf5 crashed .* {name}$") as caught:
                    file.read(name)
                found.append("did not read" in str(caught.value))
        assert found == [False] * 3 + [True] * 17
        assert other.read("0").tolist() == [*range(8)]


@pytest.mark.usefixtures("fresh")
def test_a_loop_ends_all_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that takes too long once is not asked again: a file with many loops takes the time of one."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for number in range(20):
            file.create_dataset(str(number), data=np.arange(8), chunks=(4,))
    monkeypatch.setattr(process, "_SECONDS", 0.2)
    monkeypatch.setattr(reading, "send_values", spin)
    with formats.open(str(tmp_path / "m.h5")) as file:
        found = []
        for name in file:
            with pytest.raises(DamagedError, match=f"libhdf5 did not finish .* {name}$") as caught:
                file.read(name)
            found.append("did not read" in str(caught.value))
    assert found == [False] + [True] * 19


@pytest.mark.usefixtures("fresh")
def test_time_is_granted_by_bytes_and_not_by_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests do not give a slow file more time than their bytes take: what is granted is little for each."""
    with h5py.File(tmp_path / "m.h5", "w") as file:
        for number in range(50):
            file.create_dataset(str(number), data=np.arange(8), chunks=(4,))
    granted: list[float] = []
    send = process.send

    def record(fd: int, kind: bytes, data: bytes) -> None:
        granted.extend([json.loads(data)["seconds"]] if kind == b"J" else [])
        send(fd, kind, data)

    monkeypatch.setattr(process, "send", record)
    with formats.open(str(tmp_path / "m.h5")) as file:
        assert [file.read(name).tolist() for name in file] == [[*range(8)]] * 50
    size = os.path.getsize(tmp_path / "m.h5") + 50 * 8 * 8
    each = process._SECONDS_EACH
    assert len(granted) == 51
    assert sum(granted) == pytest.approx(process._SECONDS + 51 * each + size / process._SLOWEST)
    assert each < process._SECONDS / 20


@pytest.mark.usefixtures("fresh")
def test_a_death_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipient is unharmed, and nothing is left beside it."""
    path = tmp_path / "m.weights.h5"
    hdf5_files.weights(path)
    before = path.read_bytes()
    monkeypatch.setattr(rewriting, "_copy", segfault)
    with pytest.raises(DamagedError, match="libhdf5 crashed"):
        changing.rename(str(path), ["layers/dense/=layers/first/"], anyway=True)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
@pytest.mark.parametrize("call", ["pwrite", "preadv"])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, ending: str) -> None:
    """Whichever call of a child's the disk refuses, of many: no damage is told, and the recipient is the old one."""
    path = tmp_path / f"m{ending}"
    path.write_bytes(made(path.with_name("made"), "keras" if ending == ".keras" else "weights"))
    for left in tmp_path.glob("made*"):
        left.unlink()
    before, real = path.read_bytes(), getattr(os, call)
    for number in itertools.count(step=3 if ending == ".weights.h5" else 17):
        calls = itertools.count()

        def refuse(*arguments: Any) -> int:
            if next(calls) == number:  # noqa: B023 -- a child counts from 0
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(real(*arguments))

        spawning._spawners.clear()
        monkeypatch.setattr(reading.os, call, refuse)
        said = ""
        try:
            changing.rename(str(path), ["layers/dense/=layers/first/"], anyway=True)
        except StorageError as error:
            said = str(error)
        if not said:
            break
        assert "no space left on device" in said
        assert path.read_bytes() == before
        assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert number > 5
    with formats.open(str(path)) as file:
        assert "layers/first/vars/0" in file


@pytest.mark.usefixtures("fresh")
def test_a_spawner_that_was_killed(tmp_path: Path) -> None:
    """The next file gets another one; what was open is read on by a child that still lives, or by a new one."""
    expected = hdf5_files.others(tmp_path / "m.h5")
    with formats.open(str(tmp_path / "m.h5")) as before:
        first = spawning.spawner().pid
        os.kill(first, signal.SIGKILL)
        with formats.open(str(tmp_path / "m.h5")) as file:
            assert file.read("pieces").tolist() == expected["pieces"].tolist()
        assert spawning.spawner().pid != first
        assert before.read("pieces").tolist() == expected["pieces"].tolist()


@pytest.mark.usefixtures("fresh")
def test_children_hold_no_lock(tmp_path: Path) -> None:
    """A lock that stood when a child was made is free as soon as its owner lets go; children hold no pipe for long."""
    hdf5_files.others(tmp_path / "m.h5")
    with Lock(str(tmp_path / "m.h5"), 0):
        one, two = formats.open(str(tmp_path / "m.h5")), formats.open(str(tmp_path / "m.h5"))
    with Lock(str(tmp_path / "m.h5"), 0):
        assert one.read("packed/deep").tobytes() == two.read("packed/deep").tobytes()
    one.close()
    two.close()


def test_a_reader_that_stops_halfway(tmp_path: Path) -> None:
    """Values that nobody took, or has not taken yet, are not taken for others."""
    expected = hdf5_files.others(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "a") as file:
        file.create_dataset("long", data=np.arange(1 << 18), chunks=(1 << 12,))
    with formats.open(str(tmp_path / "m.h5")) as opened:
        parts = opened.elements(opened["long"])
        assert next(parts)[0] == 0
        assert opened.read("pieces").tolist() == expected["pieces"].tolist()
        assert next(parts)[0] > 0
        parts.close()  # type: ignore[attr-defined]
        assert opened.read("packed/deep").tolist() == expected["packed/deep"].tolist()


def test_several_threads(tmp_path: Path) -> None:
    """Files are opened and read by several threads at once."""
    from concurrent.futures import ThreadPoolExecutor

    expected = hdf5_files.others(tmp_path / "m.h5")["packed/deep"].tolist()

    def look(_: int) -> Any:
        with formats.open(str(tmp_path / "m.h5")) as file:
            return file.read("packed/deep").tolist()

    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(look, range(40)))


def test_nothing_outlives_the_program(tmp_path: Path) -> None:
    """A program that ends with open files leaves no process behind, however it ends."""
    hdf5_files.others(tmp_path / "m.h5")
    for end in ("raise SystemExit", "os.kill(os.getpid(), 9)"):
        code = f"""
import os
from ckptsurgeon import formats
from ckptsurgeon.formats.keras.sandbox import spawning
files = [formats.open({str(tmp_path / "m.h5")!r}) for _ in range(3)]
print(spawning.spawner().pid, *(file._process.pid for file in files), flush=True)
{end}
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT)
        pids = [int(each) for each in done.stdout.split()]
        assert len(pids) == 4, done.stderr
        wait_until(lambda pids=pids: not any(is_alive(pid) for pid in pids), pids)


def is_alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# -- truncations and flipped bits


def made(path: Path, kind: str) -> bytes:
    if kind == "keras":
        hdf5_files.weights(path.with_suffix(".inner"))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
            archive.write(path.with_suffix(".inner"), "model.weights.h5")
    else:
        how = {"libver": "latest"} if kind == "latest" else {}
        {"weights": hdf5_files.weights, "legacy": hdf5_files.legacy}.get(kind, hdf5_files.others)(path, **how)
    return path.read_bytes()


def examine(path: Path) -> bool:
    """Open a file, and look at all that is in it; whether it opened."""
    try:
        with formats.open(str(path)) as file:
            for name, variable in file.variables.items():
                try:
                    file.nbytes(variable)
                    file.check(variable)
                    file.read(name)
                except (DamagedError, UnsupportedError, StorageError) as error:
                    check(error, path)
            file.layer_tables()
            file.slot_owners()
            return True
    except CkptSurgeonError as error:
        check(error, path)
        return False


def check(error: CkptSurgeonError, path: Path) -> None:
    assert str(path) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["weights", "legacy", "others", "latest", "keras"])
def test_truncations(tmp_path: Path, kind: str) -> None:
    """A file cut short anywhere is one line, or reads as far as it is whole; never a signal, never a hang."""
    path = tmp_path / "m.h5"
    data = made(path, kind)
    lengths = {*range(0, len(data), max(1, len(data) // 150)), *range(1, 40), len(data) - 1}
    opened = 0
    for length in sorted(lengths):
        path.write_bytes(data[:length])
        opened += examine(path)
    path.write_bytes(data)
    assert examine(path)
    assert opened < len(lengths) / 4


@pytest.mark.parametrize("kind", ["weights", "legacy", "others", "latest", "keras"])
def test_flipped_bits(tmp_path: Path, kind: str) -> None:
    """Bits that flipped, most of them where the structure is, are one line or other values; never a signal."""
    path = tmp_path / "m.h5"
    data = made(path, kind)
    choose = random.Random(kind)
    opened = 0
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(choose.choice([1, 1, 1, 2, 5])):
            damaged[choose.randrange(len(data) if choose.random() < 0.3 else min(len(data), 6000))] ^= (
                1 << choose.randrange(8)
            )
        path.write_bytes(damaged)
        opened += examine(path)
    assert 0 < opened < 200
