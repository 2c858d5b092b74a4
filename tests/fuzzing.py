"""A fuzzer of everything that is opened: mutated checkpoints, and what must hold whatever they say.

A *case* is a few files (name -> bytes), a pure function of (seed, target, number) and of the samples that are there, so
that a failure is told by three words.
Its files are made in one of three ways, since a table's checksums would else stop every mutation at the door: bytes of
a file as it stands; bytes of a block, sealed again with a right checksum; rows and their protobuf fields, from which a
sound table is built.

What must hold: only a `CkptSurgeonError` leaves the library, in one line; no call takes long; private memory grows by
less than 64 MB beyond the size of the files. Cases run in batches, each in a forked child. Its memory is the growth of
VmHWM in /proc/self/status, which starts at the resident size that the child was born with; the library maps no file,
so what grows is private (RssAnon, which itself has no high-water mark). A batch that hangs is ended by faulthandler,
whose thread needs no lock of the interpreter.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import mmap
import os
import random
import re
import resource
import shutil
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import hdf5_files
import ml_dtypes  # noqa: F401 -- imported by the parent, so that no child's memory counts it
import numpy as np
import torch_files
from handmade import HandMade, Row, block, number, sealed, snappy, strings, table, with_index
from strategies import _PARTS, DTYPES

from ckptsurgeon import cli, formats, numeric, schemes
from ckptsurgeon.errors import CkptSurgeonError, RefusedError
from ckptsurgeon.formats.tensorflow.sstable import read_rows
from ckptsurgeon.formats.tensorflow.tensors import NUMBERS, slice_key
from ckptsurgeon.formats.tensorflow.wire import BYTES, FIXED32, FIXED64, VARINT, bytes_field, fields, varint
from ckptsurgeon.verbs import changing, looking

Files = dict[str, bytes]
Mutate = Callable[[random.Random, Files], Files]

MEMORY = 64 << 20  # bytes that a call may take beyond the size of the files
SPARE = 1 << 30  # bytes of address space after which a child gets no more, for the sake of the machine
_LARGE = 100_000  # bytes that one change may add
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
SAMPLES = Path(__file__).resolve().parent.parent.parent / "shared" / "samples"

_INTERESTING = (
    0, 1, 2, 3, 7, 8, 13, 20, 21, 99, 101, 127, 128, 254, 255, 256, 300, 4096, 16383, 16384, 65535, 65536, 1 << 20,
    100_000, 100_001, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 61, 1 << 62, (1 << 63) - 1, 1 << 63,
    -1, -2, -(1 << 31), -(1 << 62),
)  # fmt: skip
_TOKENS = tuple(
    part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
    for part in (
        *_PARTS, VALUE, GRAPH, b"\x00", b"\x00\x01", b"\xff" * 10, b"\x80" * 9 + b"\x01", b"\x08\x01", b"\x12\x00",
        b"dnn/layer", b"/Adagrad", b"/.OPTIMIZER_SLOT/optimizer/m", b"layer_with_weights-", b"layer-0", b"kernel",
        b"_trainable_variables", b"_operations", b"9" * 5000, b"dnn/layer" + b"1" * 5000 + b"/a", "٣", "²", b"/", b"..",
        b"\\", b"\\377", b"\\x", b"'", b"\n", b"#", b": ", b"model_checkpoint_path: \"m\"\n", b"../", b"/etc/passwd",
        b"m-?????-of-00001", b"*", bytes.fromhex("57fb808b247547db"),
    )
)  # fmt: skip


# -- mutations of bytes


def mutate_bytes(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Bytes changed in one to four places; `other` is what may be spliced in."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = _mutate_once(rng, data, other)
    return data


def _mutate_once(rng: random.Random, data: bytes, other: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, 64)))
    kind = rng.randrange(12)
    if kind == 0 and end > at:  # a bit
        return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
    if kind == 1:  # a byte
        return data[:at] + bytes((rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))),)) + data[at + 1 :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        return data[at:]
    if kind == 4:
        return data[:at] + data[end:]
    if kind == 5:
        return data[:at] + rng.randbytes(rng.choice((1, 2, 5, 16))) + data[at:]
    if kind == 6:  # again, sometimes often
        times = rng.choice((1, 1, 2, 16, 16, 3000))
        return data[:end] + data[at:end] * min(times, _LARGE // max(1, end - at)) + data[end:]
    if kind == 7 and other:  # splicing
        start = rng.randrange(len(other) + 1)
        return (
            data[:at]
            + other[start : start + rng.choice((4, 32, len(other)))]
            + data[end if rng.random() < 0.5 else at :]
        )
    if kind == 8:
        return data[:at] + varint(rng.choice(_INTERESTING)) + data[rng.choice((at, at + 1, end)) :]
    if kind == 9:
        size = rng.choice((4, 8))
        value = rng.choice(_INTERESTING) & ((1 << 8 * size) - 1)
        return data[:at] + value.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]  # type: ignore[arg-type]
    if kind == 10:
        return data[:at] + rng.choice(_TOKENS) + data[rng.choice((at, end)) :]
    there = rng.randrange(len(data) + 1)  # one piece to another place
    piece = data[at:end]
    return data[:there] + piece + data[there:]


# -- mutations of protobuf messages

Field = tuple[int, int, object]


def decode(message: bytes) -> list[Field] | None:
    """The fields of a message, or None where it is none."""
    try:
        return [(field, kind, value) for field, kind, value, _ in fields(message)]
    except CkptSurgeonError:
        return None


def encode(message: list[Field]) -> bytes:
    """A message of these fields."""
    out = b""
    for field, kind, value in message:
        if isinstance(value, bytes):
            out += bytes_field(field, value)
        else:
            assert isinstance(value, int)
            sizes = {FIXED32: 4, FIXED64: 8}
            body = value.to_bytes(sizes[kind], "little") if kind in sizes else varint(value)
            out += varint(field << 3 | kind) + body
    return out


def _size(value: object) -> int:
    return len(value) if isinstance(value, bytes) else 8


def mutate_message(rng: random.Random, message: bytes, other: bytes = b"", depth: int = 0) -> bytes:
    """A message with one field changed, at any depth; what is no message is changed as bytes."""
    parts = decode(message)
    if parts is None or rng.random() < 0.06:
        return mutate_bytes(rng, message, other)
    if not parts:
        return number(rng.randrange(1, 9), rng.choice(_INTERESTING))
    at = rng.randrange(len(parts))
    field, kind, value = parts[at]
    action = rng.randrange(14)
    if action == 0:
        del parts[at]
    elif action == 1:
        # Many, but not so many that a sound file of their size would need the memory that is the limit.
        times = rng.choice((1, 2, 300)) if rng.random() < 0.95 else 20_000
        parts[at:at] = [parts[at]] * min(times, _LARGE // max(1, _size(value)))
    elif action == 2:
        there = rng.randrange(len(parts))
        parts[at], parts[there] = parts[there], parts[at]
    elif action == 3:
        parts[at] = (rng.randrange(1, 17), kind, value)
    elif action == 4:
        parts[at] = (field, VARINT, rng.choice(_INTERESTING))
    elif action == 5:
        parts[at] = (field, BYTES, rng.choice((b"", b"\x08\x01", rng.choice(_TOKENS))))
    elif action == 6 and kind == BYTES:
        deep = value
        for _ in range(rng.choice((1, 10, 2000))):
            assert isinstance(deep, bytes)
            if len(deep) < _LARGE:
                deep = bytes_field(field, deep)
        parts[at] = (field, BYTES, deep)
    elif action == 7 and other and (more := decode(other)):
        parts.insert(at, rng.choice(more))
    elif isinstance(value, bytes):
        changed = mutate_message if depth < 6 and rng.random() < 0.75 else None
        parts[at] = (field, kind, changed(rng, value, other, depth + 1) if changed else mutate_bytes(rng, value, other))
    else:
        assert isinstance(value, int)
        near = (value + rng.choice((-2, -1, 1, 2, 1 << 32))) & ((1 << 64) - 1)
        new = rng.choice((near, rng.choice(_INTERESTING), rng.getrandbits(rng.randrange(1, 64))))
        parts[at] = (field, kind, new & (0xFFFFFFFF if kind == FIXED32 else (1 << 64) - 1))
    return encode(parts)


# -- mutations of tables


def rows_of(data: bytes) -> list[Row]:
    """The rows of a sound table."""
    return list(read_rows(lambda offset, length: data[offset : offset + length], len(data)))


def mutate_rows(rng: random.Random, rows: list[Row], others: list[Row]) -> list[Row]:
    """Rows of a table, a few of them changed; often still in order."""
    rows = list(rows)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(rows))
        key, value = rows[at]
        other_key, other_value = rng.choice(others)
        action = rng.randrange(10)
        if action == 0 and len(rows) > 1:
            del rows[at]
        elif action == 1:
            rows.append((other_key, other_value))
        elif action == 2:
            rows[at] = (key, other_value)
        elif action == 3:
            rows[at] = (mutate_bytes(rng, key, other_key), value)
        elif action == 4:
            rows.append((mutate_bytes(rng, key, other_key), mutate_message(rng, value, other_value)))
        elif action == 5:
            rows[at] = (rng.choice(_TOKENS) + rng.choice((b"", key)), value)
        else:
            rows[at] = (key, mutate_message(rng, value, other_value))
    return rows if rng.random() < 0.05 else sorted(dict(rows).items())


def mutate_table(rng: random.Random, data: bytes, others: list[Row]) -> bytes:
    """A table changed at its bytes, in one of its blocks, or in its rows."""
    way = rng.random()
    if way < 0.1:
        return mutate_bytes(rng, data)
    rows = rows_of(data)
    interval, size = rng.choice((1, 2, 16)), rng.choice((1, 3, 1000))
    seal = sealed if rng.random() < 0.85 else snappy
    if way < 0.3:  # the bytes of a block, or of the index block, or what Snappy is told to be
        blocks = [block(rows[at : at + size], interval) for at in range(0, len(rows), size)]
        victim = rng.randrange(len(blocks))
        stored = [seal(each) for each in blocks]
        stored[victim] = (
            sealed(mutate_bytes(rng, seal(blocks[victim])[:-5]), rng.choice((0, 1)))
            if rng.random() < 0.3
            else seal(mutate_bytes(rng, blocks[victim]))
        )
        index: list[Row] = []
        body = b""
        for at, each in enumerate(stored):
            handle = varint(len(body)) + varint(len(each) - 5)
            if rng.random() < 0.05:
                handle = mutate_bytes(rng, handle)
            index.append((rows[min(len(rows), (at + 1) * size) - 1][0], handle))
            body += each
        return with_index(body, index, seal)
    rows = mutate_rows(rng, rows, others)
    return table([rows[at : at + size] for at in range(0, len(rows), size)], interval, seal)


# -- sound checkpoints to begin with


def _bundle(made: HandMade) -> Files:
    files = {f"m.data-{at:05d}-of-{len(made.data):05d}": data for at, data in enumerate(made.data)}
    return {"m.index": made.index(), **files}


def _made(big: bool) -> HandMade:
    """A checkpoint with a bit of everything."""
    made = HandMade(2, big)
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    for layer in (0, 1, 10):
        made.add(f"dnn/layer{layer}/Linear/Matrix", matrix)
        made.add(f"dnn/layer{layer}/Linear/Matrix/Adagrad", matrix, 1)
    for at, dtype in enumerate(DTYPES):
        made.add(f"kinds/{dtype}", np.ones((2, at % 3), np.uint8).astype(numeric.dtype(dtype)), at % 2)
    made.add("text", strings(b"one", b"", b"z" * 200))
    made.add_sliced("sliced", matrix, [((0, 2), (0, -1)), ((2, 2), (0, -1))])
    made.add("logistic_regression/bias", np.zeros(3))
    made.add("scalar", np.asarray(7, np.int64))
    return made


def _node(children: dict[str, int], attributes: list[tuple[str, str, str]], slots: list[tuple[int, str, int]]) -> bytes:
    """A TrackableObject of an object graph."""
    message = b"".join(bytes_field(1, number(1, at) + bytes_field(2, name.encode())) for name, at in children.items())
    for parts in attributes:
        message += bytes_field(2, b"".join(bytes_field(at + 1, part.encode()) for at, part in enumerate(parts)))
    for owner, name, slot in slots:
        message += bytes_field(3, number(1, owner) + bytes_field(2, name.encode()) + number(3, slot))
    return message + (bytes_field(5, number(1, 1)) if attributes else b"")


def graph_bundle() -> HandMade:
    """An object-based checkpoint: two layers by two names each, a legacy optimizer with slots, a cycle."""
    made = HandMade()

    def value(key: str, full: str) -> list[tuple[str, str, str]]:
        made.add(key + VALUE, np.zeros((2, 2), np.float32))
        return [("VARIABLE_VALUE", full, key + VALUE)]

    layers = [
        {"layer-0": 2, "layer_with_weights-0": 2, "layer-1": 3, "layer_with_weights-1": 3, "root": 0},
        {"_trainable_variables": 8, "iter": 9},
    ]
    slot = ".OPTIMIZER_SLOT/optimizer/m"
    nodes = [
        _node({"model": 1, "optimizer": 7, "save_counter": 10}, [], []),
        _node(layers[0], [], []),
        _node({"kernel": 4, "bias": 5}, [], []),
        _node({"kernel": 6}, [], []),
        _node({}, value("model/layer_with_weights-0/kernel", "model/dense/kernel"), []),
        _node({}, value("model/layer_with_weights-0/bias", "model/dense/bias"), []),
        _node({}, value("model/layer_with_weights-1/kernel", "model/dense_1/kernel"), []),
        _node(layers[1], [], [(4, "m", 11), (6, "m", 12)]),
        _node({"0": 4, "1": 5, "2": 6}, [], []),
        _node({}, value("optimizer/iter", "Adam/iter"), []),
        _node({}, value("save_counter", "save_counter"), []),
        _node({}, value(f"model/layer_with_weights-0/kernel/{slot}", "Adam/m/dense/kernel"), []),
        _node({}, value(f"model/layer_with_weights-1/kernel/{slot}", "Adam/m/dense_1/kernel"), []),
    ]
    made.add(GRAPH, strings(b"".join(bytes_field(1, node) for node in nodes)).reshape(()))
    return made


def v1_table() -> bytes:
    """A V1 checkpoint: a matrix in two slices, a vector whole, a scalar, strings."""
    open_extent = bytes_field(1, b"")

    def extent(start: int, length: int) -> bytes:
        return bytes_field(1, (number(1, start) if start else b"") + number(2, length))

    floats = np.arange(6, dtype="<f4").tobytes()
    # name, dtype, shape, then (extents, their protos, value field) for each slice
    tensors = [
        (b"dnn/layer0/Linear/Bias", "float32", (6,), [(((0, -1),), open_extent, bytes_field(5, floats))]),
        (b"dnn/layer1/Linear/Matrix", "float32", (4, 3), [
            (((0, 2), (0, -1)), extent(0, 2) + open_extent, bytes_field(5, floats)),
            (((2, 2), (0, -1)), extent(2, 2) + open_extent, bytes_field(5, floats)),
        ]),
        (b"global_step", "int64", (), [((), b"", bytes_field(10, varint(300)))]),
        (b"half", "float16", (2,), [(((0, -1),), open_extent, bytes_field(13, varint(0x3C00) * 2))]),
        (b"text", "string", (2,), [(((0, -1),), open_extent, bytes_field(8, b"one") + bytes_field(8, b""))]),
    ]  # fmt: skip
    rows: dict[bytes, bytes] = {}
    meta = b""
    for name, dtype, shape, slices in tensors:
        dims = b"".join(bytes_field(2, number(1, size)) for size in shape)
        meta += bytes_field(
            1,
            bytes_field(1, name)
            + bytes_field(2, dims)
            + number(3, NUMBERS[dtype])
            + b"".join(bytes_field(4, proto) for _, proto, _ in slices),
        )
        for extents, proto, values in slices:
            saved = bytes_field(1, name) + bytes_field(2, proto) + bytes_field(3, values)
            rows[slice_key(name, extents)] = bytes_field(2, saved)
    rows[b""] = bytes_field(1, meta + bytes_field(2, number(1, 1)))
    return table([sorted(rows.items())])


def _samples(*patterns: str) -> list[Path]:
    """Files of the samples by other people's programs, where they are, that are small enough to be changed often."""
    found = [path for pattern in patterns for path in sorted(SAMPLES.glob(pattern))] if SAMPLES.is_dir() else []
    return [path for path in found if path.stat().st_size < 40_000]


# -- targets


class Target:
    """One kind of input.

    Args:
        name: its name.
        seeds: sound cases, made when they are first needed.
        mutate: changes one.
        path: what is opened, relative to the case's folder.
        more: further calls.
        seconds: that a call may take; libhdf5 may have to be ended in one, after a second of processor time.
    """

    def __init__(
        self,
        name: str,
        seeds: Callable[[], list[Files]],
        mutate: Mutate,
        path: str = "m",
        more: Callable[[Path], Iterator[tuple[str, Callable[[], object]]]] = lambda folder: iter(()),
        seconds: float = 1.0,
    ) -> None:
        self.name = name
        self.seconds = seconds
        self.path = path
        self._more = more
        self._make = seeds
        self.mutate = mutate
        self._seeds: list[Files] | None = None

    @property
    def seeds(self) -> list[Files]:
        """Sound cases."""
        if self._seeds is None:
            self._seeds = self._make()
        return self._seeds

    def case(self, seed: int, count: int) -> Files:
        """The case of this number."""
        rng = random.Random(f"{seed}/{self.name}/{count}")
        return self.mutate(rng, dict(rng.choice(self.seeds)))

    def calls(self, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
        """What is done with a case, as (name, call)."""
        path = str(folder / self.path)
        yield "open and read", lambda: _read(path)
        yield "verify", lambda: looking.verify(path)
        yield "ls -l", lambda: _command("ls", path, "-l", "--json")
        yield "layers", lambda: _command("layers", path)
        yield from self._more(folder)


def _read(path: str) -> None:
    with formats.open(path) as checkpoint:
        checkpoint.fingerprint()
        checkpoint.oddities()
        schemes.slots(checkpoint)
        for name, variable in checkpoint.variables.items():
            checkpoint.full_name(name)
            size = checkpoint.nbytes(variable)
            assert size is None or size >= 0, f"{name!r} has {size} bytes"
            with contextlib.suppress(CkptSurgeonError):
                values = checkpoint.read(name)
                assert values.shape == variable.shape, f"{name!r} is of another shape than it says"


def _command(*arguments: str) -> None:
    """One command of the command line, whose exit status says whether it knew what it met."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as complaints:
        status = cli.main(list(arguments))
    assert status in (0, 1, 2), complaints.getvalue()
    said = complaints.getvalue()
    assert (status == 2) == bool(said), f"exit status {status}, and said {said!r}"


_OTHERS: list[Row] = []


def _other_rows() -> list[Row]:
    """Rows of all kinds of tables, to be put where they do not belong."""
    if not _OTHERS:
        for data in (_made(False).index(), graph_bundle().index(), v1_table()):
            _OTHERS.extend(rows_of(data))
    return _OTHERS


def _index_seeds() -> list[Files]:
    seeds = [_bundle(_made(False)), _bundle(_made(True)), _bundle(graph_bundle())]
    for index in _samples("*/*.index", "savedmodel/variables/*.index"):
        data = [path for path in _samples(f"{index.parent.relative_to(SAMPLES)}/{index.stem}.data-*")]
        seeds.append({"m.index": index.read_bytes(), **{"m" + path.suffix: path.read_bytes() for path in data}})
    return seeds


def _mutate_index(rng: random.Random, files: Files) -> Files:
    if rng.random() < 0.1:  # a data file, which has its checksums in the index
        name = rng.choice(sorted(files))
        files[name] = mutate_bytes(rng, files[name])
    else:
        files["m.index"] = mutate_table(rng, files["m.index"], _other_rows())
    return files


def _state_seeds() -> list[Files]:
    bundle = _bundle(graph_bundle())
    times = b"all_model_checkpoint_timestamps: 1690000000.25\nlast_preserved_timestamp: -1.5e+09\n"
    return [
        {**bundle, "checkpoint": text}
        for text in (
            b'model_checkpoint_path: "m"\nall_model_checkpoint_paths: "m-1"\nall_model_checkpoint_paths: "m"\n' + times,
            b"# by hand\nmodel_checkpoint_path:'/was/here/m'",
            b'model_checkpoint_path: "\\155"\n',
            b'model_checkpoint_path: "../m"\n',
        )
    ]


def _mutate_state(rng: random.Random, files: Files) -> Files:
    files["checkpoint"] = mutate_bytes(rng, files["checkpoint"])
    if rng.random() < 0.02:  # as large as one may be, and more
        part = rng.choice((rng.choice(_TOKENS), files["checkpoint"], rng.randbytes(3)))
        files["checkpoint"] += (part or b" ") * ((1 << 20) // max(1, len(part)) + rng.choice((-4, 4)))
    return files


def _graph_seeds() -> list[Files]:
    seeds = [_bundle(graph_bundle())]
    for index in _samples("object-based-two-shards/*.index", "savedmodel/variables/*.index"):
        made = HandMade()
        with formats.open(str(index)) as sample:
            if GRAPH not in sample.variables:
                continue
            for name, variable in sample.variables.items():
                if variable.size < 100 or name == GRAPH:
                    made.add(variable.key, np.array(sample.read(name)))
        seeds.append(_bundle(made))
    return [{**files, "graph": _graph_of(files)} for files in seeds]


def _mutate_graph(rng: random.Random, files: Files) -> Files:
    made = HandMade()
    made.rows = dict(rows_of(files["m.index"]))
    made.data = [files["m.data-00000-of-00001"]]
    stored = _graph_of(files)
    for _ in range(rng.choice((1, 1, 2, 5))):
        stored = mutate_message(rng, stored)
    made.add(GRAPH, strings(stored).reshape(()))
    return {**_bundle(made), "graph": stored}


def graph_calls(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """What is done with an object graph itself."""
    from ckptsurgeon.formats.bundle.graph.graph import Graph
    from ckptsurgeon.formats.bundle.graph.paths import path_of

    stored = (folder / "graph").read_bytes() if (folder / "graph").exists() else b""

    def look() -> None:
        graph = Graph(stored)
        graph.full_names()
        graph.slot_owners()
        graph.layers(graph.keys())
        assert graph.encode() == stored, "what is not edited is not carried byte for byte"

    def edited(graph: Graph, change: Callable[[], None]) -> Graph | None:
        """A graph, read again after a change; None if that was refused, as it may be."""
        try:
            change()
        except RefusedError as error:
            check_lines("edit", error)
            assert graph.encode() == stored, "a refused edit changed something"
            return None
        return Graph(graph.encode())

    def drop(picked: slice) -> None:
        graph = Graph(stored)
        rows = sorted(graph.keys())[picked]
        after = edited(graph, lambda: graph.drop(rows))
        assert after is None or not set(rows) & after.keys().keys(), "a row that was dropped is still there"

    def rename(picked: slice, new: Callable[[str], str]) -> None:
        graph = Graph(stored)
        before = graph.keys()
        changes = {key: new(key) for key in sorted(before)[picked]}
        after = edited(graph, lambda: graph.rename(changes))
        found = after.keys() if after else {}
        for old, node in before.items() if after else ():
            key = changes.get(old, old)
            path = path_of(key) if key != old else None
            assert found.get(key) == node, f"{key!r} belongs to another object"
            assert not after or path in (None, path_of(old)) or after.at(path or ()) == node, f"{key!r}: no path"

    def add() -> None:
        graph = Graph(stored)
        rows = {f"new/a{VALUE}": "new/a", f"new/b{VALUE}": ""}
        after = edited(graph, lambda: graph.add(rows))
        assert after is None or rows.keys() <= after.keys().keys(), "nothing was added"

    yield "graph", look
    yield "graph: drop some", lambda: drop(slice(2))
    yield "graph: drop every row", lambda: drop(slice(None))
    yield "graph: rename some", lambda: rename(slice(-2, None), lambda key: f"new/{key}")
    yield "graph: rename every row", lambda: rename(slice(None), lambda key: f"new/{key}")
    yield "graph: rename to one place", lambda: rename(slice(None), lambda key: f"new/{key.partition('/')[2]}")
    yield "graph: add", add


def _graph_of(files: Files) -> bytes:
    """The string of the object graph, read by hand: it is the last thing in its file."""
    entry = {field: value for field, _, value in decode(dict(rows_of(files["m.index"]))[GRAPH.encode()]) or ()}
    stored = files["m.data-00000-of-00001"][int(entry.get(4, 0)) :][: int(entry[5])]
    length, digits = 0, 0
    while stored[digits] >= 0x80:
        length |= (stored[digits] & 0x7F) << 7 * digits
        digits += 1
    length |= stored[digits] << 7 * digits
    return stored[digits + 5 :][:length]


def _v1_seeds() -> list[Files]:
    return [{"m": v1_table()}] + [
        {"m": path.read_bytes()} for path in _samples("v1-sharded-name/export-*", "skflow-2016/*/model-200")
    ]


def _mutate_v1(rng: random.Random, files: Files) -> Files:
    return {"m": mutate_table(rng, files["m"], _other_rows())}


def _safetensors_seeds() -> list[Files]:
    header = {
        "__metadata__": {"format": "pt", "ckptsurgeon.layers": '{"l.0.weight": 0, "l.1.bias": 1}'},
        "l.0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "l.1.bias": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "none": {"dtype": "I64", "shape": [0, 5], "data_offsets": [32, 32]},
    }
    made = _with_length(json.dumps(header).encode().ljust(320)) + bytes(32)
    return [{"m": made}] + [{"m": path.read_bytes()} for path in _samples("safetensors/*.safetensors")]


def _with_length(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def _mutate_safetensors(rng: random.Random, files: Files) -> Files:
    data = files["m"]
    if rng.random() < 0.2:
        return {"m": mutate_bytes(rng, data)}
    end = 8 + int.from_bytes(data[:8], "little")
    text = mutate_bytes(rng, data[8:end]) if rng.random() < 0.7 else _other_json(rng, data[8:end])
    return {"m": _with_length(text) + data[end:]}


def _other_json(rng: random.Random, text: bytes) -> bytes:
    """A header of which one entry says something else."""
    header = json.loads(text)
    entry = header[rng.choice(sorted(header))]
    odd = [0, -1, 1 << 63, 1 << 70, 1.5, True, None, "F32", "F4", "", [], [[]], {}, [1 << 40] * 3, [0, 1 << 62], [8, 4]]
    entry[rng.choice([*entry, "more"])] = rng.choice(odd)
    return json.dumps(header).encode()


def _npz_seeds() -> list[Files]:
    seeds = [{"m": path.read_bytes()} for path in _samples("npz/*.npz")]
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, a=np.arange(6, dtype=">f4").reshape(2, 3), b=np.array([b"ab", b"c"]), c=np.asfortranarray(np.eye(3)))
        seeds.append({"m": file.getvalue()})
    return seeds


def _mutate_npz(rng: random.Random, files: Files) -> Files:
    if rng.random() < 0.4:
        return {"m": mutate_bytes(rng, files["m"])}
    made = io.BytesIO()  # what is in the members is changed, and all checksums are right
    with zipfile.ZipFile(io.BytesIO(files["m"])) as old, zipfile.ZipFile(made, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            cut = rng.choice((128, len(data)))
            mutated = mutate_bytes(rng, data[:cut]) + data[cut:] if rng.random() < 0.7 else data
            new.writestr(zipfile.ZipInfo(member.filename), mutated, member.compress_type)
    return {"m": made.getvalue()}


# -- PyTorch's zip files


def _torch_seeds() -> list[Files]:
    views = {
        "0.weight": torch_files.view(np.arange(6, dtype="f4").reshape(2, 3).T),
        "0.bias": torch_files.view(np.eye(2)),
    }
    nested = {"model": views, "opt": {"state": [torch_files.view(np.arange(3, dtype="i8"))]}}
    made = [torch_files.save(value, order) for value in (views, nested) for order in ("little", "big")]
    return [{"m": data} for data in (*made, *(torch_files.real(packed) for packed, _ in torch_files.REAL.values()))]


# -- HDF5, and Keras's zip files around it


def _hdf5_seeds() -> list[Files]:
    """Files of all layouts, with the records of libhdf5 in their old and new forms; small: most of it is structure."""
    made: list[Files] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        for write, how in (
            (hdf5_files.weights, {"layers": 2}),
            (hdf5_files.weights, {"layers": 1, "libver": "latest"}),
            (hdf5_files.legacy, {}),
            (hdf5_files.legacy, {"fixed": True, "root": ""}),
            (hdf5_files.odd, {}),
            (hdf5_files.odd, {"libver": "latest", "track_order": True}),
        ):
            write(path, **how)
            made.append({"m": path.read_bytes()})
    return [{**files, "sound": made[0]["m"]} for files in made]


_HDF5_MARKS = (
    b"\x89HDF", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"BTHD", b"BTLF", b"FADB",
    b"FAHD", b"EAHD",
)  # fmt: skip


def _mutate_hdf5(rng: random.Random, files: Files) -> Files:
    return {**files, "m": mutate_hdf5(rng, files["m"])}


def mutate_hdf5(rng: random.Random, data: bytes) -> bytes:
    """An HDF5 file of which a few bytes say something else, most often where libhdf5 keeps its records.

    Nothing is put in or taken out but at the end, where every address would else be wrong at once.
    """
    if rng.random() < 0.1:
        return mutate_bytes(rng, data)
    starts = [at.start() for mark in _HDF5_MARKS for at in re.finditer(re.escape(mark), data)]
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.choice(starts) + rng.randrange(120) if rng.random() < 0.6 else rng.randrange(min(len(data), 6000))
        at = min(at, len(data) - 1)
        kind = rng.randrange(6)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.choice((0, 1, 2, 3, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:  # another address, of a record, that makes loops
            out[at : at + 8] = rng.choice(starts).to_bytes(8, "little")
        elif kind == 3:
            size = rng.choice((2, 4, 8))
            out[at : at + size] = (rng.choice(_INTERESTING) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        elif kind == 4:  # one record in another's place
            there = rng.choice(starts)
            piece = data[there : there + rng.choice((8, 24, 64, 512))]
            out[at : at + len(piece)] = piece
        else:
            return bytes(out[:at])
    return bytes(out[: len(data)])


def donate(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Grafts of a case into a sound file, and of a sound file into it, both planned alone."""
    path, sound = str(folder / "m"), str(folder / "sound")

    def plan(donor: str, recipient: str) -> None:
        changing.graft(donor, recipient, match=["**"], on_mismatch="skip", dry_run=True)

    yield "graft from it", lambda: plan(path, sound)
    yield "graft into it", lambda: plan(sound, path)


def _keras_seeds() -> list[Files]:
    weights = [files["m"] for files in _hdf5_seeds()[:2]]
    layers = [{"class_name": "Dense", "config": {"name": f"layer{number}"}} for number in (1, 0)]
    config = json.dumps({"class_name": "Functional", "config": {"name": "m", "layers": layers}})
    made = []
    for data, method in ((weights[0], zipfile.ZIP_STORED), (weights[1], zipfile.ZIP_DEFLATED)):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.comment = b"a comment"
            for name, inner in (
                ("metadata.json", b'{"keras_version": "3.15.1"}'),
                ("config.json", config.encode()),
                ("model.weights.h5", data),
                ("assets/words.txt", b"one two"),
            ):
                archive.writestr(zipfile.ZipInfo(name), inner, method)  # which tells no time
        made.append({"m": file.getvalue()})
    made.append({"m": _keras_set(weights[0])})
    return [{**files, "sound": weights[0]} for files in made]


def _keras_set(weights: bytes) -> bytes:
    """A Keras file whose weights are several files with an index."""
    file = io.BytesIO()
    index = {"metadata": {"total_size": 1.0}, "weight_map": {"/layers/dense/vars": ["model_00000.weights.h5"]}}
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("config.json"), b"{}")
        archive.writestr(zipfile.ZipInfo("model.weights.json"), json.dumps(index))
        archive.writestr(zipfile.ZipInfo("model_00000.weights.h5"), weights)
    return file.getvalue()


def _mutate_keras(rng: random.Random, files: Files) -> Files:
    """The zip file itself, or with right checksums what is in it: weights, config or index."""
    data = files["m"]
    way = rng.random()
    if way < 0.25:
        return {**files, "m": mutate_bytes(rng, data)}
    if way < 0.4:  # its directory
        start = data.rindex(b"PK\x01\x02", 0, data.rindex(b"PK\x05\x06")) - rng.choice((0, 60, 120))
        return {**files, "m": data[:start] + mutate_bytes(rng, data[start:])}
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        victim = rng.choice([name for name in old.namelist() if name.endswith((".json", ".h5"))])
        for member in old.infolist():
            inner, name = old.read(member), member.filename
            if name == victim:
                inner = mutate_hdf5(rng, inner) if name.endswith(".h5") else mutate_bytes(rng, inner)
            if rng.random() < 0.03:
                name = rng.choice(("../" + name, "/" + name, "a/../../" + name, name + "x", victim, "\\" + name))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that a name is there twice
                new.writestr(zipfile.ZipInfo(name), inner, member.compress_type)
    return {**files, "m": made.getvalue()}


TARGETS = {
    target.name: target
    for target in (
        Target("index", _index_seeds, _mutate_index),
        Target("state", _state_seeds, _mutate_state, path=""),
        Target("graph", _graph_seeds, _mutate_graph, more=graph_calls),
        Target("v1", _v1_seeds, _mutate_v1),
        Target("safetensors", _safetensors_seeds, _mutate_safetensors),
        Target("npz", _npz_seeds, _mutate_npz),
        Target("torch", _torch_seeds, _mutate_npz),
        Target("hdf5", _hdf5_seeds, _mutate_hdf5, more=donate, seconds=10),
        Target("keras", _keras_seeds, _mutate_keras, more=donate, seconds=10),
    )
}


# -- running them


class Result:
    """What many cases of a target came to.

    Attributes:
        executions: number of cases.
        seconds: the longest call.
        memory: bytes that the hungriest case took beyond the size of its files; None where the system does not tell.
        opened: cases that were opened in spite of all, whatever `verify` then found in them.
        failures: (number of the case, what went wrong).
    """

    def __init__(self) -> None:
        self.executions = self.opened = 0
        self.seconds = 0.0
        self.memory: int | None = None
        self.failures: list[tuple[int, str]] = []

    def add(self, other: Result) -> None:
        """Count another batch in."""
        self.executions += other.executions
        self.opened += other.opened
        self.seconds = max(self.seconds, other.seconds)
        if other.memory is not None:
            self.memory = max(self.memory or 0, other.memory)
        self.failures += other.failures


def run_case(target: Target, folder: Path, limit: float | None = None) -> tuple[bool, float]:
    """Do everything with a case that stands in a folder.

    Args:
        target: of the case.
        folder: where its files are.
        limit: seconds that a call may take; one that took longer is tried again, since noise only adds.

    Returns:
        Whether no call ended in an error of ours, and the seconds of the longest.

    Raises:
        AssertionError: something does not hold.
    """
    longest, opened = 0.0, True
    for name, call in target.calls(folder):
        taken = _attempt(name, call)
        if limit is not None and abs(taken) > limit:
            taken = min(_attempt(name, call), taken, key=abs)
            assert abs(taken) <= limit, f"{name} took {abs(taken):.2f} s"
        opened = opened and taken > 0
        longest = max(longest, abs(taken))
    return opened, longest


def _attempt(name: str, call: Callable[[], object]) -> float:
    """Seconds of a call, negative if it ended in an error of ours."""
    start, sign = time.perf_counter(), 1
    try:
        call()
    except CkptSurgeonError as error:
        sign = -1
        check_lines(name, error)
    except AssertionError as error:
        raise AssertionError(f"{name}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{name}: {type(error).__name__}: {str(error)[:300]}") from error
    return sign * (time.perf_counter() - start)


def check_lines(name: str, error: CkptSurgeonError) -> None:
    """An error of ours is told in lines, none of which is endless."""
    for line in error.lines:
        assert len(line.splitlines()) == 1, f"{name}: not one line: {line!r}"
        assert len(line) < 30_000, f"{name}: a line of {len(line)} characters"


def write_case(files: Files, folder: Path) -> None:
    """Put the files of a case, and nothing else, into a folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def run_batch(
    target: Target, folder: Path, seed: int, first: int, count: int, until: float, limit: float | None, hang: float
) -> Result:
    """Cases one after the other in a child.

    Args:
        target: which.
        folder: for the files of one case at a time.
        seed: of the cases.
        first: number of the first case.
        count: number of cases.
        until: when to stop early, as `time.monotonic` counts.
        limit: seconds that a call may take, or None.
        hang: after how often the seconds of a call a case counts as hung.
    """
    _ = target.seeds, _other_rows()  # made once, before the fork
    with mmap.mmap(-1, 8) as progress:
        reading, writing = os.pipe()
        sys.stdout.flush()
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # that this process has threads, which hold no lock here
            child = os.fork()
        if not child:
            status = 1
            try:
                os.close(reading)
                told = _work(target, folder, seed, first, count, until, limit, hang, progress)
                with os.fdopen(writing, "w") as pipe:
                    json.dump(told, pipe)
                status = 0
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        _, status = os.waitpid(child, 0)
        result = Result()
        if status or not told:
            at = int.from_bytes(progress[:], "little")
            result.executions = at - first + 1
            result.failures = [(at, f"the process ended with {os.waitstatus_to_exitcode(status)}, or hung")]
        else:
            result.__dict__.update(json.loads(told))
        return result


def _work(
    target: Target, folder: Path, seed: int, first: int, count: int, until: float, limit: float | None, hang: float,
    progress: mmap.mmap,
) -> dict[str, object]:  # fmt: skip
    for files in target.seeds:  # whatever is loaded or kept on the first use is no case's own
        write_case(files, folder)
        run_case(target, folder)
    size, peak = _memory("VmSize"), _memory("VmHWM")
    if size is not None:
        resource.setrlimit(resource.RLIMIT_AS, (size + SPARE, size + SPARE))
    result = Result()
    for at in range(first, first + count):
        if time.monotonic() > until:
            break
        progress[:] = at.to_bytes(8, "little")
        files = target.case(seed, at)
        write_case(files, folder)
        before = _memory("VmHWM")
        faulthandler.dump_traceback_later(hang * target.seconds, exit=True, file=2)
        try:
            opened, taken = run_case(target, folder, limit)
            result.opened += opened
            result.seconds = max(result.seconds, taken)
        except AssertionError as error:
            result.failures.append((at, str(error)))
        faulthandler.cancel_dump_traceback_later()
        result.executions += 1
        after = _memory("VmHWM")
        if after is not None and before is not None and peak is not None:
            # What the child takes for keeping is counted from its birth: freed memory that is used again is no gift.
            grown = max(0, after - peak - sum(map(len, files.values()))) if after > before else 0
            result.memory = max(result.memory or 0, grown)
            if grown > MEMORY:
                result.failures.append((at, f"took {grown >> 20} MB of memory"))
                break  # from here on the child's peak says nothing
    return result.__dict__


def _memory(name: str) -> int | None:
    """Bytes in a line of /proc/self/status; None where there is none."""
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith(name + ":"))
    except (OSError, StopIteration):
        return None


def save_failure(target: Target, seed: int, count: int, folder: Path) -> Path:
    """Write the files of a case where they stay; it can be given to `ckptsurgeon` at once."""
    there = folder / f"{target.name}-{seed}-{count}"
    write_case(target.case(seed, count), there)
    return there
