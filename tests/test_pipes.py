"""Pipes between real processes: streamed checkpoints, values through other programs, readers that go away."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, save, save_file

from ckptsurgeon import formats
from ckptsurgeon.formats.safetensors.reading import LAYERS
from ckptsurgeon.verbs import producing

ME = [sys.executable, "-m", "ckptsurgeon"]
MATRIX = "dnn/layer0/Linear/Matrix"
A, B = models.skflow_arrays(1), models.skflow_arrays(2)


class Finished:
    """What a pipeline came to: the status and the errors of each command, and what the last one printed."""

    def __init__(self, statuses: list[int], errors: list[str], output: bytes) -> None:
        self.statuses = statuses
        self.errors = errors
        self.output = output


def pipe(*commands: Sequence[str], data: bytes = b"", cwd: Path | None = None, env: Any = None) -> Finished:
    """Run commands, each with its output piped into the next one; the first reads `data`."""
    children: list[subprocess.Popen[bytes]] = []
    for command in commands:
        source = children[-1].stdout if children else subprocess.PIPE
        child = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        if children and children[-1].stdout:
            children[-1].stdout.close()  # so that the writer sees it when the reader goes away
        children.append(child)

    def feed() -> None:
        assert children[0].stdin
        try:
            children[0].stdin.write(data)
            children[0].stdin.close()
        except BrokenPipeError:
            pass

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert children[-1].stdout
    output = children[-1].stdout.read()
    errors = [child.stderr.read().decode() for child in children if child.stderr]
    feeder.join()
    statuses = [child.wait() for child in children]
    for child in children:
        for stream in (child.stdout, child.stderr):
            if stream:
                stream.close()
    return Finished(statuses, errors, output)


def me(*args: str) -> list[str]:
    """The command with these arguments."""
    return [*ME, *args]


def streamed(path: Path, *options: str) -> bytes:
    """What `extract -o -` sends."""
    done = pipe(me("extract", str(path), *options, "-o", "-"))
    assert (done.statuses, done.errors) == ([0], [""])
    return done.output


def write(path: Path, arrays: dict[str, Any]) -> Path:
    """Write a TensorFlow V2 checkpoint."""
    formats.write(str(path), arrays, sync=False)
    return path


def grafted(prefixes: Iterable[str]) -> dict[str, Any]:
    """B with A's variables of these beginnings, slots apart."""
    starts = tuple(prefixes)
    return {n: A[n] if n.startswith(starts) and not n.endswith("/Adagrad") else B[n] for n in B}


def names(folder: Path) -> list[str]:
    """What lies in a folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def a(tmp_path: Path) -> Path:
    """The donor, in a folder of its own."""
    (tmp_path / "here").mkdir()
    return write(tmp_path / "here" / "a", A)


@pytest.fixture
def b(tmp_path: Path) -> Path:
    """The recipient, in a folder of its own."""
    (tmp_path / "there").mkdir()
    return write(tmp_path / "there" / "b", B)


# -- extract | graft


@pytest.mark.parametrize("to", ["bundle", "v1", "safetensors", "npz"])
def test_extract_into_graft(a: Path, b: Path, to: str) -> None:
    """The layers arrive in a recipient of any format, all else stays; nothing is left beside it."""
    target = b.parent / "target"
    producing.convert(str(b), str(target), to=to)
    before = models.snapshot(a.parent)
    stood = names(b.parent)
    done = pipe(me("extract", str(a), "--layers", "0-1", "-o", "-"), me("graft", "-", str(target), "--json"))
    assert (done.statuses, done.errors) == ([0, 0], ["", ""])
    assert models.equal(models.read(target), grafted(("dnn/layer0/", "dnn/layer1/")))
    rows = [json.loads(line) for line in done.output.splitlines()]
    assert {row["action"] for row in rows} == {"grafted"}
    assert len(rows) == 4
    assert models.snapshot(a.parent) == before
    assert names(b.parent) == stood or to == "bundle"
    assert not [name for name in names(b.parent) if "tmp" in name or name.startswith(".")]


def test_through_a_stand_in_for_ssh(tmp_path: Path, a: Path, b: Path) -> None:
    """`extract … -o - | ssh host graft - b` works as on one machine: the stream alone passes between the two."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "ssh").write_text(f'#!/bin/sh\nshift\ncd "{b.parent}" && exec sh -c "$*"\n')
    (bin_ / "graft").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ckptsurgeon graft "$@"\n')
    for script in bin_.iterdir():
        script.chmod(0o755)
    env = {"PATH": f"{bin_}:{os.environ['PATH']}"}
    extract = me("extract", "a", "--layers", "0-2", "-o", "-")
    done = pipe(extract, ["ssh", "host", "graft", "-", "b", "-q"], cwd=a.parent, env=env)
    assert (done.statuses, done.errors, done.output) == ([0, 0], ["", ""], b"")
    assert models.equal(models.read(b), grafted(f"dnn/layer{k}/" for k in range(3)))
    assert names(a.parent) == ["a.data-00000-of-00001", "a.index"]


def test_layers_and_slots_of_a_stream_can_be_chosen(a: Path, b: Path) -> None:
    """The receiving side may take fewer layers than were sent, under other names, and slots that came along."""
    sent = streamed(a, "--layers", "all", "--slots")
    done = pipe(me("graft", "-", str(b), "--layers", "1", "--slots", "copy"), data=sent)
    assert (done.statuses, done.errors) == ([0], [""])
    assert models.equal(models.read(b), {n: A[n] if n.startswith("dnn/layer1/") else B[n] for n in B})
    done = pipe(me("graft", "-", str(b), "--map", "dnn/layer2/Linear/Bias=new", "--add"), data=sent)
    assert done.statuses == [0]
    assert models.read(b)["new"].tobytes() == A["dnn/layer2/Linear/Bias"].tobytes()


def test_the_stream_is_a_safetensors_file(tmp_path: Path, a: Path) -> None:
    """The library reads it, and its metadata say the layer of each variable that was sent, and of no other."""
    sent = streamed(a, "--layers", "0-1", "--match", "global_step")
    expected = {n for n in A if n.startswith(("dnn/layer0/", "dnn/layer1/")) and not n.endswith("/Adagrad")}
    assert models.equal(load(sent), {n: A[n] for n in expected | {"global_step"}})
    (tmp_path / "s").write_bytes(sent)
    with safe_open(tmp_path / "s", "numpy") as file:
        layers = json.loads(file.metadata()[LAYERS])
    assert layers == {n: int(n[len("dnn/layer")]) for n in expected}
    assert streamed(a, "--layers", "0-1", "--match", "global_step") == sent  # the same input, the same bytes


def test_the_numbers_of_layers_survive_a_stream(tmp_path: Path) -> None:
    """Names from which nobody could tell layers come with their numbers, so that the reader needs no scheme."""
    arrays = {f"w/{word}{k}": np.full(3, k, np.float32) for k in range(3) for word in ("p", "q")}
    path = write(tmp_path / "m", {**arrays, "z/other": np.zeros(2, np.float32)})
    options = ["--scheme", "w/?{K}", "--layers", "1-2"]
    done = pipe(me("extract", str(path), *options, "-o", "-"), me("layers", "-", "--json"))
    assert done.statuses == [0, 0]
    rows = [json.loads(line) for line in done.output.splitlines()]
    stored = [row for row in rows if row["layer"] is not None and "{" not in row["scheme"]]
    assert [(row["layer"], row["variables"]) for row in stored] == [(1, 2), (2, 2)]


def test_a_stream_through_two_hands(a: Path, b: Path) -> None:
    """What came through a pipe can be extracted from again and sent on."""
    first = me("extract", str(a), "--layers", "all", "-o", "-")
    done = pipe(first, me("extract", "-", "--layers", "0", "-o", "-"), me("graft", "-", str(b), "-q"))
    assert (done.statuses, done.errors) == ([0, 0, 0], ["", "", ""])
    assert models.equal(models.read(b), grafted(("dnn/layer0/",)))


def test_a_stream_that_is_cut_short(b: Path, a: Path) -> None:
    """Wherever it ends, it is refused in one line, and the recipient and its folder are as they were."""
    sent = streamed(a, "--layers", "all")
    head = 8 + int.from_bytes(sent[:8], "little")
    before = models.snapshot(b.parent)
    for end in (0, 1, 7, 8, 9, head - 1, head, head + 1, len(sent) - 1):
        done = pipe(me("graft", "-", str(b)), data=sent[:end])
        assert done.statuses == [2], end
        assert done.errors[0].startswith("ckptsurgeon: stdin: "), end
        assert done.errors[0].count("\n") == 1, end
        assert done.output == b""
        assert models.snapshot(b.parent) == before
        assert names(b.parent) == sorted(before)


def test_a_damaged_donor_ends_both_sides(a: Path, b: Path) -> None:
    """Where a checksum is wrong the stream is cut, so that nobody takes it for whole; both commands fail."""
    data = Path(f"{a}.data-00000-of-00001")
    raw = bytearray(data.read_bytes())
    with formats.open(str(a)) as checkpoint:
        raw[checkpoint[MATRIX].extents[0].offset] ^= 1
    data.write_bytes(raw)
    before = models.snapshot(b.parent)
    done = pipe(me("extract", str(a), "--layers", "0", "-o", "-"), me("graft", "-", str(b)))
    assert done.statuses == [2, 2]
    assert "wrong checksum" in done.errors[0]
    assert models.snapshot(b.parent) == before


def test_a_reader_that_is_killed_leaves_nothing(b: Path) -> None:
    """After kill -9 in the middle of a stream the recipient is the old one, and its folder holds nothing else."""
    stream = save({"dnn/layer0/Linear/Bias": np.zeros(1 << 20, np.float32)})
    before = models.snapshot(b.parent)
    child = subprocess.Popen(me("graft", "-", str(b)), stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdin
    child.stdin.write(stream[: 3 << 20])  # more than a pipe holds: most of it was read when this returns
    child.stdin.flush()
    assert names(b.parent) == sorted(before)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdin.close()
    assert models.snapshot(b.parent) == before
    assert names(b.parent) == sorted(before)


def test_a_reader_that_refuses(a: Path, b: Path) -> None:
    """The writer of the stream ends quietly when the reader does not want it."""
    big = {**A, MATRIX: np.zeros((1000, 1000), np.float32)}
    write(a, big)
    done = pipe(me("extract", str(a), "--layers", "0", "-o", "-"), me("graft", "-", f"{b}x"))
    assert done.statuses == [0, 2]
    assert done.errors[0] == ""
    assert "no such checkpoint" in done.errors[1]


def test_nothing_binary_goes_to_a_terminal(a: Path) -> None:
    """A stream to a terminal is refused with what to do instead; its plan is shown."""
    for options, status in ((["-o", "-"], 2), (["-o", "-", "--dry-run"], 0)):
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            me("extract", str(a), "--layers", "0", *options), stdout=theirs, stderr=subprocess.PIPE, text=True
        )
        _, errors = child.communicate()
        os.close(theirs)
        shown = b""
        try:
            while some := os.read(ours, 1 << 16):
                shown += some
        except OSError:  # how a terminal ends on Linux
            pass
        os.close(ours)
        assert child.returncode == status
        assert ("a terminal cannot show" in errors) == (status == 2)
        assert (MATRIX.encode() in shown) == (status == 0)


def test_a_terminal_is_no_stream(b: Path) -> None:
    """`graft - b` typed without a pipe says so at once, and waits for nobody."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen(me("graft", "-", str(b)), stdin=theirs, stderr=subprocess.PIPE, text=True)
    _, errors = child.communicate(timeout=600)
    os.close(ours)
    os.close(theirs)
    assert child.returncode == 2
    assert "nothing is piped into it" in errors


def test_a_folder_that_cannot_be_written(tmp_path: Path, a: Path) -> None:
    """Where nothing can be kept beside the recipient, the stream is kept where temporary files are."""
    program = (
        "import sys; from ckptsurgeon import formats; from ckptsurgeon.formats import stdin;"
        " stdin.spool(sys.argv[1]); print(len(formats.open('-')))"
    )
    done = pipe([sys.executable, "-c", program, str(tmp_path / "no" / "folder")], data=streamed(a, "--layers", "0"))
    assert (done.statuses, done.errors, done.output) == ([0], [""], b"2\n")


# -- files by others


def others(folder: Path) -> dict[str, Path]:
    """Files of A's variables as other programs write them."""
    plain = {name: values for name, values in A.items() if not name.endswith("/Adagrad")}
    save_file(plain, folder / "o.safetensors")
    np.savez(folder / "o.npz", **plain)
    np.savez_compressed(folder / "c.npz", **plain)
    producing.convert(str(write(folder / "staged", A)), str(folder / "v1"), to="v1")
    return {path.name: path for path in (folder / "o.safetensors", folder / "o.npz", folder / "c.npz", folder / "v1")}


def test_plain_files_through_a_pipe(tmp_path: Path, b: Path) -> None:
    """safetensors, npz and V1 files as they are can be listed, read and grafted from stdin."""
    for name, path in others(tmp_path).items():
        listed = pipe(me("ls", "-", "--no-slots", "--json"), data=path.read_bytes())
        assert (listed.statuses, listed.errors) == ([0], [""]), name
        rows = {row["name"]: row for row in map(json.loads, listed.output.splitlines())}
        assert set(rows) == {each for each in A if not each.endswith("/Adagrad")}
        assert rows[MATRIX]["shape"] == list(A[MATRIX].shape)
        write(b, B)
        done = pipe(me("graft", "-", str(b), "--layers", "0-1", "-q"), data=path.read_bytes())
        assert (done.statuses, done.errors) == ([0], [""]), name
        assert models.equal(models.read(b), grafted(("dnn/layer0/", "dnn/layer1/"))), name
        got = pipe(me("get", "-", MATRIX, "--json"), data=path.read_bytes())
        assert json.loads(got.output) == A[MATRIX].tolist()


def test_all_of_a_stream_must_find_its_place(tmp_path: Path, b: Path) -> None:
    """Without a selection everything is grafted, so what the recipient lacks is an error that names it."""
    before = models.snapshot(b.parent)
    done = pipe(me("graft", "-", str(b)), data=save({"unknown": np.zeros(2, np.float32), MATRIX: A[MATRIX]}))
    assert done.statuses == [2]
    assert "no variable unknown" in done.errors[0]
    assert models.snapshot(b.parent) == before


def test_what_is_no_checkpoint(b: Path) -> None:
    """Text, a pickle and nothing at all are refused in one line that says stdin."""
    before = models.snapshot(b.parent)
    for data in (b"hello\n", b"\x80\x04K\x01.", b"", b"PK\x05\x06" + bytes(18)):
        for verb in (["graft", "-", str(b)], ["ls", "-"]):
            done = pipe(me(*verb), data=data)
            assert done.statuses == [2], data
            assert done.errors[0].startswith("ckptsurgeon: stdin: "), done.errors
            assert done.errors[0].count("\n") == 1
    assert models.snapshot(b.parent) == before


# -- values through other programs


def test_get_through_python_into_set(b: Path) -> None:
    """`get … | python … | set … -` changes just that variable, and stands NumPy's own files."""
    double = "import io, sys, numpy as np; np.save(sys.stdout.buffer, np.load(io.BytesIO(sys.stdin.buffer.read())) * 2)"
    done = pipe(me("get", str(b), MATRIX), [sys.executable, "-c", double], me("set", str(b), MATRIX, "-"))
    assert (done.statuses, done.errors) == ([0, 0, 0], ["", "", ""])
    assert models.equal(models.read(b), {**B, MATRIX: B[MATRIX] * 2})
    before = models.snapshot(b.parent)
    for program in ("print('text')", "", "import sys, numpy as np; np.save(sys.stdout.buffer, np.zeros(3))"):
        done = pipe(me("get", str(b), MATRIX), [sys.executable, "-c", program], me("set", str(b), MATRIX, "-"))
        assert done.statuses[-1] == 2
        assert done.errors[-1].count("\n") == 1
        assert models.snapshot(b.parent) == before


def test_json_lines_for_other_programs(b: Path) -> None:
    """Every line is an object that Python's json, and jq where it is installed, understands."""
    sizes = "import json, sys; print(sum(json.loads(line)['bytes'] for line in sys.stdin))"
    readers = [[sys.executable, "-c", sizes]]
    if shutil.which("jq"):
        readers.append(["jq", "-s", "map(.bytes) | add"])
    for reader in readers:
        done = pipe(me("ls", str(b), "--json"), reader)
        assert (done.statuses, done.errors) == ([0, 0], ["", ""])
        assert int(done.output) == sum(values.nbytes for values in B.values())


def test_head_ends_a_long_listing_quietly(tmp_path: Path) -> None:
    """Of 100,000 lines one is wanted: status 0, and nothing on stderr, however it is printed."""
    path = write(tmp_path / "m", {f"v{at}": np.float32(at) for at in range(100_000)})
    for options in ([], ["--json"]):
        done = pipe(me("ls", str(path), *options), ["head", "-1"])
        assert (done.statuses, done.errors) == ([0, 0], ["", ""])
        assert b"v0" in done.output
        assert done.output.count(b"\n") == 1


def test_a_slow_stream_is_waited_for(a: Path, b: Path) -> None:
    """A sender that pauses in the middle is no error."""
    sent = streamed(a, "--layers", "0")
    child = subprocess.Popen(me("graft", "-", str(b), "-q"), stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdin
    for at in range(0, len(sent), len(sent) // 3):
        child.stdin.write(sent[at : at + len(sent) // 3])
        child.stdin.flush()
        time.sleep(0.05)
    _, errors = child.communicate()
    assert (child.returncode, errors) == (0, b"")
    assert models.equal(models.read(b), grafted(("dnn/layer0/",)))
