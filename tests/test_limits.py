"""What a safe reader must hold to, whatever a file says: sixteen limits, each with the tests that build the file.

    1  footer and handles lie in the file, no block twice     test_sstable: test_damaged_tables, test_every_truncation_…
    2  varints end in time                                    test_wire: test_a_varint_that_is_cut_…, test_a_varint_of_…
    3  blocks: restart points, shared bytes, rising keys      test_sstable: test_damaged_blocks, test_damaged_tables
    4  Snappy's declared length and copies                    test_sstable: test_damaged_tables; hostile: test_bombs_…
    5  every checksum is verified                             hostile: test_every_flipped_bit_of_…
    6  header: first row, shards, byte order, version         hostile: test_an_index_that_lies_…
    7  entry: dtype, rank, dimensions, size, place            hostile: test_an_index_that_lies_…, test_data_that_lie_…
    8  strings add up before memory is taken                  hostile: test_data_that_lie_…, test_bombs_take_no_memory
    9  slices cover once and are of their variable's kind     hostile: test_an_index_that_lies_…
    10 messages: unknown fields, wire types, depth, names     test_wire: test_any_; hostile: test_deep; below: test_10_
    11 V1: counts, meta row, whole sets                       below: test_11_…
    12 state file: size, folder, no patterns                  test_state: test_a_state_file_…; below: test_12_…
    13 object graph: node numbers, cycles                     below: test_13_…
    14 HDF5: nothing of it is followed                        below: test_14_15_16_…
    15 zip: no member is opened                               below: test_14_15_16_…
    16 nothing is unpickled                                   below: test_14_15_16_…

`hostile` is test_bundle_hostile. What TensorFlow itself dies of has a test of its own at the end.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzing
import h5py
import numpy as np
import pytest
from handmade import HandMade, number, strings, table
from test_bundle_hostile import BAD_DATA, BAD_INDEXES, examine, sound

from ckptsurgeon import cli, formats
from ckptsurgeon.errors import DamagedError, NotFoundError, RefusedError
from ckptsurgeon.formats.bundle.graph.graph import Graph
from ckptsurgeon.formats.tensorflow.tensors import slice_key
from ckptsurgeon.formats.tensorflow.wire import bytes_field, varint
from ckptsurgeon.verbs import looking

HERE = Path(__file__).parent


def test_the_table_names_tests_that_exist() -> None:
    """Every test that the table at the top names is there, so that none of the limits loses its test unseen."""
    sources = {path.stem: path.read_text() for path in HERE.glob("test_*.py")}
    sources["hostile"], sources["below"] = sources["test_bundle_hostile"], Path(__file__).read_text()
    lines = [line for line in (__doc__ or "").splitlines() if line[4:6].strip().isdigit()]
    assert [int(line[4:6]) for line in lines] == list(range(1, 17))
    for line in lines:
        for part in line.rpartition("  ")[2].split("; "):
            module, _, tests = part.strip().partition(": ")
            for test in tests.split(", "):
                assert f"def {test.split('…')[0]}" in sources[module], f"{test} of {line}"


# -- 10


def test_10_a_name_that_is_no_utf_8_in_every_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    r"""Bytes of names are kept, and printed as \xHH on one line."""
    made = HandMade()
    made.add(b"a\xff\n\x1b[31m", np.zeros(2, np.float32))
    prefix = str(made.write(tmp_path / "m"))
    for verb in ("ls", "layers", "verify"):
        assert cli.main([verb, prefix]) == 0
    out = capsys.readouterr().out
    assert r"a\xff\n\x1b[31m" in out
    assert "\x1b" not in out


# -- 11


def v1_row(name: bytes, values: bytes, extents: bytes = bytes_field(1, b"")) -> bytes:
    """A SavedTensorSlices with the values of a slice."""
    return bytes_field(2, bytes_field(1, name) + bytes_field(2, extents) + bytes_field(3, values))


def v1(dtype: int, values: bytes, meta: bool = True, size: int = 4) -> bytes:
    """A V1 checkpoint of one vector `v`, true or not."""
    shape = bytes_field(2, bytes_field(2, number(1, size)))
    saved = bytes_field(1, b"v") + shape + number(3, dtype) + bytes_field(4, bytes_field(1, b""))
    head = bytes_field(1, bytes_field(1, saved) + bytes_field(2, number(1, 1)))
    rows = [(b"", head)] if meta else []
    return table([[*rows, (slice_key(b"v", ((0, -1),)), v1_row(b"v", values))]])


def test_11_the_v1_checkpoint_that_the_cases_change_is_sound(tmp_path: Path) -> None:
    """Before anything is done to it, it can be read, its numbers packed or one by one."""
    for at, values in enumerate((bytes_field(7, b"\x01\x02\x03\x04"), b"".join(number(7, n) for n in (1, 2, 3, 4)))):
        (tmp_path / f"m{at}").write_bytes(v1(3, values))
        with formats.open(str(tmp_path / f"m{at}")) as checkpoint:
            assert checkpoint.read("v").tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (3, bytes_field(7, b"\x01\x02\x03")),
        (3, bytes_field(7, b"\x01\x02\x03\x04\x05")),
        (3, bytes_field(7, b"")),
        (3, b""),
        (3, bytes_field(7, b"\x01\x02\x03\x84")),
        (3, bytes_field(7, b"\x01\x02\x03" + b"\xff" * 10 + b"\x01")),
        (3, bytes_field(5, bytes(16))),
        (1, bytes_field(5, bytes(15))),
        (1, bytes_field(5, bytes(20))),
        (1, bytes_field(4, bytes(16))),
        (9, bytes_field(10, b"\x01\x02\x03")),
        (10, bytes_field(11, b"\x01\x00\x02\x01\x01")),
        (18, bytes_field(12, bytes(56))),
        (7, bytes_field(8, b"a") * 3),
        (7, bytes_field(8, b"a") * 5),
        (3, b"\xff"),
    ],
)
def test_11_a_v1_slice_has_as_many_values_as_it_should(tmp_path: Path, dtype: int, values: bytes) -> None:
    """Fewer or more values than the slice has elements, values in another field, or none: damaged, in one line."""
    (tmp_path / "m").write_bytes(v1(dtype, values))
    with formats.open(str(tmp_path / "m")) as checkpoint, pytest.raises(DamagedError) as raised:
        checkpoint.read("v")
    assert len(str(raised.value).splitlines()) == 1
    assert "v" in str(raised.value)
    assert not all(finding.ok for finding in looking.verify(str(tmp_path / "m")))


def test_11_a_v1_slice_that_declares_much_takes_no_memory(tmp_path: Path) -> None:
    """2^40 values that are not there are damage, found before memory is taken."""
    (tmp_path / "m").write_bytes(v1(1, bytes_field(5, bytes(16)), size=1 << 40))
    with formats.open(str(tmp_path / "m")) as checkpoint, pytest.raises(DamagedError):
        checkpoint.read("v")


def test_11_a_v1_file_without_its_meta_row_is_damaged(tmp_path: Path) -> None:
    """The row that names the tensors must be there."""
    (tmp_path / "m").write_bytes(v1(3, bytes_field(7, b"\x01\x02\x03\x04"), meta=False))
    with pytest.raises(DamagedError, match="meta row") as raised:
        formats.open(str(tmp_path / "m"))
    assert str(raised.value).startswith(str(tmp_path / "m"))


@pytest.mark.parametrize("spelling", ["m", "m-00000-of-00003", "m-?????-of-00003"])
def test_11_an_incomplete_v1_set_is_damaged(tmp_path: Path, spelling: str) -> None:
    """Of three files all three must be there, whichever name is opened."""
    for at in (0, 2):
        (tmp_path / f"m-{at:05d}-of-00003").write_bytes(v1(3, bytes_field(7, b"\x01\x02\x03\x04")))
    with pytest.raises(DamagedError, match="missing"):
        formats.open(str(tmp_path / spelling))


# -- 12


def state(folder: Path, path: str) -> str:
    """A folder whose state file names a path; the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
    return str(folder)


def test_12_a_state_file_of_more_than_a_mebibyte_is_refused(tmp_path: Path) -> None:
    """However sound it begins; a state file of just a mebibyte is read."""
    formats.write(str(tmp_path / "m"), {"a": np.zeros(2)}, sync=False)
    folder = state(tmp_path, "m")
    size = (tmp_path / "checkpoint").stat().st_size
    with (tmp_path / "checkpoint").open("ab") as file:
        file.write(b"#" * ((1 << 20) - size))
    assert list(formats.open(folder)) == ["a"]
    with (tmp_path / "checkpoint").open("ab") as file:
        file.write(b"#")
    with pytest.raises(DamagedError, match="too large for a state file"):
        formats.open(folder)


@pytest.mark.parametrize("path", ["{root}/other/m", "../other/m", "link/m"])
def test_12_a_state_file_opens_nothing_outside_its_folder(
    tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that names a checkpoint elsewhere is refused in one line that says what to do; that itself opens."""
    (tmp_path / "other").mkdir()
    other = str(tmp_path / "other" / "m")
    formats.write(other, {"secret": np.zeros(2)}, sync=False)
    folder = state(tmp_path / "run", path.format(root=tmp_path))
    (tmp_path / "run" / "link").symlink_to(tmp_path / "other")
    with pytest.raises(RefusedError, match="name that checkpoint itself"):
        formats.open(folder)
    for verb in ("ls", "verify"):
        assert cli.main([verb, folder]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert len(said.err.splitlines()) == 1
        assert "secret" not in said.err
    assert list(formats.open(other)) == ["secret"]


def test_12_a_state_file_s_paths_are_resolved_against_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not against the working directory; an absolute path into the folder works through a link to it too."""
    for name in ("run", "elsewhere"):
        (tmp_path / name).mkdir()
        formats.write(str(tmp_path / name / "m"), {name: np.zeros(2)}, sync=False)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert list(formats.open(state(tmp_path / "run", "m"))) == ["run"]
    assert list(formats.open(state(tmp_path / "run", "/was/here/m"))) == ["run"]
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert list(formats.open(state(tmp_path / "run", f"{tmp_path}/link/m"))) == ["run"]
    assert list(formats.open(state(tmp_path / "link", f"{tmp_path}/run/m"))) == ["run"]


@pytest.mark.parametrize("name", ["m*", "m?", "[am]b", "m-?", "**"])
def test_12_nothing_in_a_state_file_is_a_pattern(tmp_path: Path, name: str) -> None:
    """A name with characters of a glob means the file of just that name, never another that it would match."""
    for other in ("mx", "ab", "mb", "m-1"):
        formats.write(str(tmp_path / other), {"other": np.zeros(2)}, sync=False)
    folder = state(tmp_path, name)
    with pytest.raises(NotFoundError, match="not there"):
        formats.open(folder)
    formats.write(str(tmp_path / name), {"itself": np.zeros(2)}, sync=False)
    assert list(formats.open(folder)) == ["itself"]


# -- 13


def edge(node: int, name: str = "x") -> bytes:
    """A reference to a child."""
    return bytes_field(1, number(1, node) + bytes_field(2, name.encode()))


def slot(owner: int, node: int) -> bytes:
    """A reference to a slot."""
    return bytes_field(3, number(1, owner) + bytes_field(2, b"m") + number(3, node))


def graph(*nodes: bytes) -> bytes:
    """A TrackableObjectGraph."""
    return b"".join(bytes_field(1, node) for node in nodes)


@pytest.mark.parametrize("node", [2, 1000, (1 << 31) - 1, 1 << 31, 1 << 40, -1, -(1 << 31), -(1 << 63)])
@pytest.mark.parametrize("make", [edge, lambda node: slot(node, 1), lambda node: slot(1, node)])
def test_13_node_numbers_of_an_object_graph_are_in_range(
    tmp_path: Path, node: int, make: Callable[[int], bytes]
) -> None:
    """An edge or slot that leads to no node is damage, in one line; no verb ends in another exception."""
    data = graph(make(node), b"")
    with pytest.raises(DamagedError) as raised:
        Graph(data)
    assert len(str(raised.value).splitlines()) == 1
    made = HandMade()
    made.add("a/.ATTRIBUTES/VARIABLE_VALUE", np.zeros(2, np.float32))
    made.add(fuzzing.GRAPH, strings(data).reshape(()))
    prefix = str(made.write(tmp_path / "m"))
    for arguments in (["ls", prefix], ["ls", "-l", prefix], ["layers", prefix], ["verify", prefix]):
        assert cli.main(arguments) in (0, 1, 2)


@pytest.mark.parametrize(
    "nodes",
    [
        [edge(0)],
        [edge(1), edge(0)],
        [edge(1) + edge(0), edge(1) + edge(0) + slot(0, 1) + slot(1, 1)],
        [edge(at + 1) for at in range(30_000)] + [edge(0)],
        [b"".join(edge(at, f"layer-{at}") for at in range(100))] * 100,
    ],
    ids=["itself", "two", "two by several ways", "a long ring", "everything to everything"],
)
def test_13_an_object_graph_may_have_cycles(tmp_path: Path, nodes: list[bytes]) -> None:
    """Circles, and paths deeper than Python's stack, are walked once; the checkpoint is listed."""
    made = HandMade()
    made.add("a/.ATTRIBUTES/VARIABLE_VALUE", np.zeros(2, np.float32))
    made.add(fuzzing.GRAPH, strings(graph(*nodes)).reshape(()))
    prefix = str(made.write(tmp_path / "m"))
    assert Graph(graph(*nodes)).encode() == graph(*nodes)
    for arguments in (["ls", prefix], ["ls", "-l", prefix], ["layers", prefix], ["verify", prefix]):
        assert cli.main(arguments) == 0


def named(key: str, full_name: str = "a") -> bytes:
    """An attribute: that a node is the variable of a key."""
    key += "/.ATTRIBUTES/VARIABLE_VALUE"
    return bytes_field(
        2, b"".join(bytes_field(at + 1, t.encode()) for at, t in enumerate(("VARIABLE_VALUE", full_name, key)))
    )


def fan(count: int, name: str = "c", first: int = 1) -> bytes:
    """Edges to so many nodes one after the other."""
    return b"".join(edge(first + at, f"{name}{at}") for at in range(count))


def chain(first: int, count: int) -> list[bytes]:
    """Nodes one below the other, from number `first` on; the last one is a variable."""
    return [edge(first + at, "n") for at in range(1, count)] + [named("a")]


BROAD: dict[str, Callable[[], list[bytes]]] = {
    "children that share what is below them": lambda: [fan(3000), *[edge(3001, "n")] * 3000, *chain(3001, 6000)],
    "layers that share what is below them": lambda: [
        fan(6000, "layer_with_weights-"), *[edge(6001, "n")] * 6000, *chain(6001, 12000)
    ],
    "optimizers that share their list": lambda: [
        fan(4000),
        *[b"".join(edge(4001, f"_{name}") for name in ("variables", "momentums", "trainable_variables", "iterations"))]
        * 4000,
        fan(6000, "", 4002),
        *[named(f"a{at}") for at in range(6000)],
    ],
    "a slot with a long name": lambda: [
        edge(1), edge(2, "_variables") + edge(3, "_iterations"), edge(3, "0"), named("a", "x/" * 100_000)
    ],
    "slots whose names have long ends": lambda: [
        edge(1), edge(2, "_variables") + edge(3, "_iterations"), fan(1000, "", 3),
        *[named(f"a{at}", f"{at}/" * 40 + "x" * 1000) for at in range(1000)],
    ],
    "models that share a list of layers": lambda: [
        fan(4000), *[edge(4001, "layers")] * 4000, fan(4000, "", 4002), *[edge(8002)] * 4000, named("a")
    ],
    "models that share a variable with many slots": lambda: [
        fan(4000) + slot(4002, 4003), *[edge(4001, "layer")] * 4000, edge(4002), named("a"),
        b"".join(slot(4002, at) for at in range(4004, 8004)), *[named(f"s{at}") for at in range(4000)],
    ],
    "models that share many layers": lambda: [
        fan(3000) + edge(0, "save_counter"), *[edge(3001, "_operations")] * 3000, fan(3000, "", 3002),
        *[edge(6002 + at, "v") for at in range(3000)], *[named(f"a{at}") for at in range(3000)],
    ],
    "a list by many names": lambda: [
        b"".join(edge(1, f"n{at}") for at in range(8000)), fan(8000, "", 2), *[edge(8002)] * 8000, named("a")
    ],
    "a model in a model in a model": lambda: [
        *[edge(at + 1, "model") + edge(100, "model") for at in range(40)],
        *[edge(41)] * 60, fan(6000, "c", 101), *[edge(6101) + edge(0) + edge(100)] * 6000, edge(6102), named("a"),
    ],
    "lists of slots for each of many lists": lambda: [
        fan(150), *[fan(150, "list", 301) + edge(151 + at, "_trainable_variables") + edge(601, "_iterations")
                    + edge(301, "_variables") for at in range(150)],
        *[fan(150, "", 451)] * 300, *[named(f"a{at}") for at in range(151)],
    ],
    "a row of a table": lambda: [edge(1, "x"), named("a/.ATTRIBUTES/" + "-" * 200_000)],
    "edges of one name": lambda: [
        b"".join(edge(1 + at, "layer-0") for at in range(8000)), *[named(f"layer-0/{at}") for at in range(8000)]
    ],
    "a place for each of many others": lambda: [
        fan(4000, "a"), *[edge(4001, "b")] * 4000, named("a0/b") + named("a1/b") + named("a2/b")
    ],
    "empty nodes": lambda: [b""] * (1 << 19),
    "nodes with little": lambda: [b"\x0a\x00"] * (1 << 18),
    "edges to one node": lambda: [bytes_field(1, b"") * (1 << 19)],
    "edges by many names": lambda: [b"".join(edge(0, chr(at + 256)) for at in range(50_000)) * 2, named("a")],
    "attributes of one node": lambda: [bytes_field(2, b"") * (1 << 19)],
    "attributes of many nodes": lambda: [bytes_field(2, b"")] * (1 << 18),
    "slots of one node": lambda: [bytes_field(3, b"") * (1 << 19)],
    "flags of one node": lambda: [number(5, 1) * (1 << 19)],
    "variables of little": lambda: [bytes_field(2, bytes_field(1, b"VARIABLE_VALUE"))] * (1 << 15),
}  # fmt: skip


@pytest.mark.parametrize("name", BROAD)
def test_13_no_object_graph_keeps_one_waiting(tmp_path: Path, name: str) -> None:
    """Graphs of up to a mebibyte: a walk per child, model or name would take long, an object per part much memory."""
    data = graph(*BROAD[name]())
    small = {"graph": graph(named("a"))}
    target = fuzzing.Target("broad", lambda: [small], lambda rng, files: {"graph": data}, more=fuzzing.graph_calls)
    result = fuzzing.run_batch(target, tmp_path / "case", 0, 0, 1, time.monotonic() + 6000, None, 100.0)
    assert result.failures == []


# -- 14, 15, 16: files of other kinds, of which only the first bytes are looked at

TRAPS: dict[str, Callable[[Path, Path], object]] = {}  # name -> builds a file that would have the secret one read


def trap(ending: str) -> Callable[[Callable[[Path, Path], object]], Callable[[Path, Path], object]]:
    def keep(make: Callable[[Path, Path], object]) -> Callable[[Path, Path], object]:
        TRAPS[make.__name__.strip("_") + ending] = make
        return make

    return keep


@trap(".h5")
def _external_link(path: Path, secret: Path) -> object:
    with h5py.File(path, "w") as file:
        file["weights"] = h5py.ExternalLink(str(secret), "/weights")
    return path


@trap(".h5")
def _soft_link(path: Path, secret: Path) -> object:
    with h5py.File(path, "w") as file:
        file["kernel"] = np.zeros(2)
        file["weights"] = h5py.SoftLink("/kernel")
    return path


@trap(".h5")
def _external_storage(path: Path, secret: Path) -> object:
    with h5py.File(path, "w") as file:
        file.create_dataset("weights", (2,), "f4", external=[(str(secret), 0, 8)])
    return path


@trap(".weights.h5")
def _virtual_dataset(path: Path, secret: Path) -> object:
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "weights", (2,))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("weights", layout)
    return path


@trap(".h5")
def _shape_bomb(path: Path, secret: Path) -> object:
    with h5py.File(path, "w") as file:
        file.create_dataset("weights", (1 << 40,), "f4", chunks=(1024,))
    return path


def _zip(path: Path, members: list[tuple[str, bytes]]) -> object:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        warnings.simplefilter("ignore", UserWarning)  # that a name is there twice, which is what we want
        for name, data in members:
            file.writestr(name, data)
    return path


ENDINGS = (".keras", ".npz")
ZIPS: dict[str, Callable[[Path], list[tuple[str, bytes]]]] = {
    "duplicate": lambda secret: [("model.weights.h5", b"one"), ("model.weights.h5", b"two")],
    "absolute": lambda secret: [(str(secret), b"overwritten"), ("weights.npy", b"")],
    "climbing": lambda secret: [(f"../{secret.name}", b"overwritten"), ("weights.npy", b"")],
    "bomb": lambda secret: [("model.weights.h5", bytes(30 << 20)), ("weights.npy", bytes(30 << 20))],
    "code": lambda secret: [("config.json", json.dumps({"module": "os", "class_name": "abort"}).encode())],
}


class Payload:
    """What creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (f"{self.path}.executed",)


# Told by its own child: for each file exit status, what was said, and which files were opened meanwhile.
CHILD = """
import contextlib, io, json, sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
from ckptsurgeon import cli
told = []
for path in sys.argv[2:]:
    for verb in ("ls", "verify", "layers"):
        opened.clear()
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
            status = cli.main([verb, path])
        ours = [name for name in opened if name.startswith(sys.argv[1])]
        told.append([path, status, out.getvalue(), err.getvalue(), ours])
print(json.dumps([told, sorted({"h5py", "zipfile", "pickle", "numpy"} & set(sys.modules))]))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[Any]]]:
    """What was told of each trap, by its name."""
    folder = tmp_path_factory.mktemp("traps")
    secret = folder / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["weights"] = np.zeros(2, np.float32)
    paths = []
    for name, make in TRAPS.items():
        make(folder / name, secret)
        paths.append(folder / name)
    for name, members in ZIPS.items():
        for ending in ENDINGS:
            _zip(folder / (name + ending), members(secret))
            paths.append(folder / (name + ending))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = folder / f"pickle{protocol}" / "model.ckpt"
        path.parent.mkdir()
        path.write_bytes(pickle.dumps(Payload(path), protocol))
        paths.append(path)
    end = folder / "table" / "model.ckpt"
    end.parent.mkdir()
    end.write_bytes(pickle.dumps(Payload(end)) + bytes(40) + bytes.fromhex("57fb808b247547db"))
    _zip(folder / "torch.ckpt", [("archive/data.pkl", pickle.dumps(Payload(folder / "torch.ckpt")))])
    paths += [end, folder / "torch.ckpt"]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), *map(str, paths)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    told, loaded = json.loads(done.stdout)
    assert loaded == []
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not list(folder.rglob("*.executed"))
    found: dict[str, list[list[Any]]] = {}
    for path, *rest in told:
        found.setdefault(str(Path(path).relative_to(folder)), []).append([path, *rest])
    return found


OTHERS = [
    *TRAPS,
    *(name + ending for name in ZIPS for ending in ENDINGS),
    *(f"pickle{protocol}/model.ckpt" for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    "torch.ckpt",
]


@pytest.mark.parametrize("name", OTHERS)
def test_14_15_16_other_files_are_refused_unread(refusals: dict[str, list[list[Any]]], name: str) -> None:
    """HDF5, zip and pickle: one line that names the file; no other file is opened, nothing executed.

    Exit status 2, or 1 where `verify` says that what seems to be an npz is damaged.
    """
    for path, status, out, err, opened in refusals[name]:
        [line] = (out + err).splitlines()
        assert status == (1 if out and name in {each + ending for each in ZIPS for ending in ENDINGS} else 2)
        assert path in line
        assert set(opened) == {path}


def test_16_a_pickle_that_ends_as_a_table_is_damaged(refusals: dict[str, list[list[Any]]]) -> None:
    """One that was made to look like a V1 checkpoint at its end is a damaged one, and not unpickled either."""
    for path, status, out, err, opened in refusals["table/model.ckpt"]:
        [line] = (out + err).splitlines()
        assert status == (1 if out else 2)
        assert path in line
        assert "damaged" in line
        assert set(opened) == {path}


def test_16_the_pickle_would_have_run(tmp_path: Path) -> None:
    """The payload is one: unpickled, it leaves its mark, so that its absence means something."""
    pickle.loads(pickle.dumps(Payload(tmp_path / "model.ckpt")))
    assert (tmp_path / "model.ckpt.executed").exists()


# -- what TensorFlow 2.21 dies of, while it lists, or when it reads

DEADLY = [
    "an entry that is no message", "an entry that is text", "a slice listed twice", "a dimension of -2",
    "2^62 times 2^62 elements", "2^62 times 2^62 times 0 elements", "rank 300", "dtype 0", "dtype 99", "dtype 101",
    "a slice's row of another dtype", "a slice outside", "a slice of negative length", "slices of lower rank",
]  # fmt: skip


@pytest.mark.parametrize("name", DEADLY)
def test_what_tensorflow_dies_of_is_one_line(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where TensorFlow aborts its process, every verb that looks ends with one line about the file."""
    made = sound()
    BAD_INDEXES[name](made)
    prefix = str(made.write(tmp_path / "m"))
    for arguments, status in (
        (["ls", prefix], 2),
        (["layers", prefix], 2),
        (["get", prefix, "matrix"], 2),
        (["verify", prefix], 1),
    ):
        assert cli.main(arguments) == status
        said = capsys.readouterr()
        [line] = (said.err if status == 2 else said.out).splitlines()
        assert prefix in line
        assert "damaged" in line


def test_a_string_that_tensorflow_dies_of_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where TensorFlow reads a string of 2^40 bytes beyond its memory, `get` ends with one line; the rest is listed."""
    made = sound()
    BAD_DATA["a string of 2^40 bytes"][1](made)
    prefix = made.write(tmp_path / "m")
    assert cli.main(["get", str(prefix), "text"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "strings do not add up" in line
    assert cli.main(["ls", str(prefix)]) == 0
    assert examine(prefix) == ["text"]


def test_a_handle_that_tensorflow_dies_of_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where TensorFlow asks for 2^63 bytes of memory, one line."""
    whole = sound().index()
    for size in (1 << 40, 1 << 63):
        handles = varint(0) + varint(8) + varint(0) + varint(size)
        (tmp_path / "m.index").write_bytes(whole[:-48] + handles.ljust(40, b"\0") + whole[-8:])
        assert cli.main(["ls", str(tmp_path / "m")]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert "names a block beyond its end" in line
