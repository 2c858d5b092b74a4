"""The work on a file grows no faster than the file: counted in steps for inputs of n, 2n and 4n of the worst kinds."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hdf5_files
import numpy as np
import pytest
import torch_files
from fuzz_targets import HEAD, record
from fuzzing import GRAPH, VALUE
from handmade import HandMade, number, strings, table
from steps import growth

from ckptsurgeon import compare, formats, schemes
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.formats import state
from ckptsurgeon.formats.bundle.graph import layers
from ckptsurgeon.formats.keras.sandbox import reading
from ckptsurgeon.formats.tensorflow.wire import bytes_field
from ckptsurgeon.ring import journal
from ckptsurgeon.ring.spec import loading
from ckptsurgeon.ring.trainers.messages import metrics_of_answer
from ckptsurgeon.surgeon.selection import Selection

Write = Callable[[Path, int], None]
ONE = np.zeros(1, "f4")


def look(path: str) -> None:
    """Do with a checkpoint what the verbs that look do, whatever comes of it."""
    try:
        with formats.open(path) as checkpoint:
            checkpoint.fingerprint()
            schemes.slots(checkpoint)
            schemes.optimizer_variables(checkpoint)
            for scheme in [*schemes.fitting(checkpoint), *schemes.inferred(checkpoint)]:
                scheme.layers(checkpoint)
            for name, variable in checkpoint.variables.items():
                checkpoint.full_name(name)
                checkpoint.nbytes(variable)
            Selection(match=["**"], exclude=["no*such/**/name"]).is_empty  # noqa: B018
            Selection(match=["**"]).variables(checkpoint)
            list(compare.verify(checkpoint))
    except CkptSurgeonError:
        pass


def bundle(names: Callable[[int], list[str]]) -> Write:
    """A bundle with so many names."""

    def write(path: Path, size: int) -> None:
        made = HandMade()
        for name in names(size):
            made.add(name, ONE)
        made.write(path)

    return write


def slices(path: Path, size: int) -> None:
    made = HandMade()
    made.add_sliced("w", np.zeros((size, 2), "f4"), [((at, 1), (0, -1)) for at in range(size)])
    made.write(path)


def texts(path: Path, size: int) -> None:
    made = HandMade()
    made.add("text", strings(*[b"a" * 3] * size))
    made.write(path)


def node(edges: list[tuple[int, str]] = [], key: str = "", slots: list[tuple[int, int]] = []) -> bytes:  # noqa: B006
    """A node of an object graph."""
    made = b"".join(bytes_field(1, number(1, at) + bytes_field(2, name.encode())) for at, name in edges)
    if key:
        fields = ("VARIABLE_VALUE", key, key + VALUE)
        made += bytes_field(2, b"".join(bytes_field(at + 1, each.encode()) for at, each in enumerate(fields)))
    for owner, slot in slots:
        made += bytes_field(3, number(1, owner) + bytes_field(2, b"m") + number(3, slot))
    return made


def graph(nodes: Callable[[int], list[bytes]]) -> Write:
    """An object-based checkpoint with such a graph, and a variable for each key."""

    def write(path: Path, size: int) -> None:
        made = HandMade()
        for at in range(size):
            made.add(f"v{at}{VALUE}", ONE)
        made.add(GRAPH, strings(b"".join(bytes_field(1, each) for each in nodes(size))).reshape(()))
        made.write(path)

    return write


def fan(size: int, name: str, first: int) -> list[tuple[int, str]]:
    return [(first + at, f"{name}{at}") for at in range(size)]


def leaves(size: int) -> list[bytes]:
    return [node(key=f"v{at}") for at in range(size)]


GRAPHS: dict[str, Callable[[int], list[bytes]]] = {
    "children": lambda n: [node(fan(n, "c", 1)), *leaves(n)],
    "layers": lambda n: [node(fan(n, "layer_with_weights-", 1)), *[node([(n + 1, "kernel")])] * n, *leaves(1)],
    "a chain": lambda n: [*[node([(at + 1, "n")]) for at in range(n)], *leaves(1)],
    "a chain of models": lambda n: [
        *[node([(at + 1, "model"), (n + at + 1, "layer-0")]) for at in range(n)], node(), *leaves(n)
    ],
    "a circle to the root": lambda n: [node(fan(n, "c", 1)), *[node([(0, "root"), (n + 1, "v")])] * n, *leaves(1)],
    "lists of slots": lambda n: [
        node([(1, "model"), (2, "optimizer")]), node(fan(n, "layer-", 3)),
        node([(n + 3, "_variables"), (n + 3, "_trainable_variables"), (3, "_iterations")]), *leaves(n),
        node(fan(n, "", 3)),
    ],
    "slots of one variable": lambda n: [node([(1, "w")], slots=[(1, 2 + at) for at in range(n - 1)]), *leaves(n)],
    "lists that share their items": lambda n: [
        node(fan(n, "l", 1)), *[node([(n + 1, "layers")])] * n, node(fan(n, "", n + 2)), *leaves(n)
    ],
}  # fmt: skip


def safetensors(header: Callable[[int], bytes]) -> Write:
    """A file with such a header, and values enough."""

    def write(path: Path, size: int) -> None:
        text = header(size)
        path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4 * size))

    return write


def entry(at: int) -> str:
    return f'{{"dtype": "F32", "shape": [1], "data_offsets": [{4 * at}, {4 * at + 4}]}}'


def entries(names: list[str]) -> bytes:
    return ("{" + ", ".join(f'"{name}": {entry(at)}' for at, name in enumerate(names)) + "}").encode()


def npz(path: Path, size: int) -> None:
    np.savez(path, **{f"a{at}": ONE for at in range(size)})  # type: ignore[arg-type]
    path.with_suffix(".npz").rename(path)


def twice(path: Path, size: int) -> None:
    """Members of one name, of which only one is what another reader sees."""
    made = io.BytesIO()
    np.save(made, ONE)
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as file:
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(size):
            file.writestr("a.npy", made.getvalue())


def npy(header: Callable[[int], str]) -> Write:
    """An npz whose member has such a header."""

    def write(path: Path, size: int) -> None:
        text = header(size).encode().ljust(64) + b"\n"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("a.npy", b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text)) + text + bytes(64))

    return write


def torch(value: Callable[[int], Any]) -> Write:
    """A file as `torch.save` writes it."""
    return lambda path, size: path.write_bytes(torch_files.save(value(size))) and None


def hdf5(arrays: Callable[[int], dict[str, Any]], attributes: Callable[[int], dict[str, Any]] = lambda n: {}) -> Write:
    """An HDF5 file with such datasets and attributes of groups."""
    return lambda path, size: hdf5_files.tree(path, arrays(size), attributes(size))


def v1(path: Path, size: int) -> None:
    """A table whose metadata lists so many tensors of so many slices."""
    one = bytes_field(2, b"")
    tensors = [
        bytes_field(1, bytes_field(1, f"t{at}".encode()) + one + number(3, 1) + bytes_field(4, b"") * 3)
        for at in range(size)
    ]
    path.write_bytes(table([[(b"", bytes_field(1, b"".join(tensors)))]]))


FILES: dict[str, Write] = {
    "bundle: names": bundle(lambda n: [f"a{at}" for at in range(n)]),
    "bundle: layers": bundle(lambda n: [f"dnn/layer{at}/{last}" for at in range(n) for last in ("w", "w/Adagrad")]),
    "bundle: slots of one variable": bundle(lambda n: ["w", *(f"w/Adam_{at}" for at in range(1, n))]),
    "bundle: one long name": bundle(lambda n: ["x/" * n, "x/" * n + "Adam", "1" * n, "a" * n]),
    "bundle: parts of slots": bundle(lambda n: [f"{'p/' * 20}{at}/Adam" for at in range(n)]),
    "bundle: counted folders": bundle(lambda n: ["dense/w", *(f"dense_{at}/w" for at in range(1, n))]),
    "bundle: folders of numbers": bundle(lambda n: [f"a{at % 9}/b{at}/c{at % 5}/w" for at in range(n)]),
    "bundle: slices": slices,
    "bundle: strings": texts,
    "v1: tensors": v1,
    **{f"graph: {name}": graph(nodes) for name, nodes in GRAPHS.items()},
    "safetensors: names": safetensors(lambda n: entries([f"a{at}" for at in range(n)])),
    "safetensors: layers": safetensors(lambda n: entries([f"model.layers.{at}.weight" for at in range(n)])),
    "safetensors: escapes": safetensors(lambda n: entries(["\\u0041" * n, "\\\\" * n])),
    "safetensors: one name twice": safetensors(lambda n: entries(["a"] * n)),
    "safetensors: nested": safetensors(lambda n: b'{"a": ' + b"[" * n + b"]" * n + b"}"),
    "safetensors: metadata": safetensors(
        lambda n: b'{"__metadata__": {%s}}' % b", ".join(b'"k%d": "v"' % at for at in range(n))
    ),
    "npz: members": npz,
    "npz: one name twice": twice,
    "npz: a nested header": npy(lambda n: "{'descr': " + "(" * n + ")" * n + "}"),
    "npz: many dimensions": npy(lambda n: f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1, ' * n})}}"),
    "npz: fields": npy(lambda n: f"{{'descr': [{', '.join(str((f'f{at}', '<f4')) for at in range(n))}]}}"),
    "torch: tensors": torch(lambda n: {f"a{at}": torch_files.view(ONE + at) for at in range(n)}),
    "torch: one tensor by many names": torch(lambda n: dict.fromkeys((f"a{at}" for at in range(n)), shared)),
    "torch: nested": torch(lambda n: {"a": nested(n), "b": torch_files.view(ONE)}),
    "hdf5: datasets": hdf5(lambda n: {f"a{at}": ONE for at in range(n)}),
    "hdf5: layers": hdf5(
        lambda n: {f"layers/dense_{at}/vars/0": ONE for at in range(n)},
        lambda n: {f"layers/dense_{at}": {"name": f"d{at}"} for at in range(n)},
    ),
    "hdf5: slots": hdf5(
        lambda n: {f"{place}/vars/{at}": ONE for at in range(n) for place in ("layers/d", "optimizer")}
    ),
    "hdf5: lists": hdf5(
        lambda n: {f"l{at}/l{at}/kernel:0": ONE for at in range(n)},
        lambda n: {
            "/": {"layer_names": [f"l{at}" for at in range(n)]},
            **{f"l{at}": {"weight_names": [f"l{at}/kernel:0"]} for at in range(n)},
        },
    ),
}
shared = torch_files.view(ONE)
SIZES = {"hdf5: lists": 30, "hdf5: slots": 30}  # otherwise 60


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(min(depth, 200)):
        value = (value,)
    return value


@pytest.mark.parametrize("name", FILES)
def test_to_look_at_a_file_is_linear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Opening, names, slots, layers, sizes and checks of a file of the worst kind take steps in proportion to it."""
    # Half a million steps are granted to any graph, however small: without them, small graphs show what large ones do.
    monkeypatch.setattr(layers, "_SPARE_STEPS", 0)
    numbers = itertools.count()

    def prepare(size: int) -> Callable[[], object]:
        path = tmp_path / f"m{next(numbers)}"
        FILES[name](path, size)
        return lambda: look(str(path))

    growth(prepare, SIZES.get(name, 60))


def test_the_walk_of_an_hdf5_file_is_linear(tmp_path: Path) -> None:
    """What the process that runs libhdf5 does itself: groups in groups, datasets, attributes."""
    kinds: dict[str, Callable[[int], dict[str, Any]]] = {
        "wide": lambda n: {f"a{at}": ONE for at in range(n)},
        "deep": lambda n: {"/".join("g" * (at + 1)) + "/d": ONE for at in range(n // 4)},
        "groups": lambda n: {f"g{at}/d": ONE for at in range(n)},
    }
    for name, arrays in kinds.items():

        def prepare(size: int, name: str = name, arrays: Any = arrays) -> Callable[[], object]:
            path = tmp_path / f"{name}{size}"
            hdf5_files.tree(path, arrays(size), {})

            def walk() -> None:
                with h5py.File(path, "r") as file:
                    reading.walk(file.id, path.stat().st_size)

            return walk

        growth(prepare, 80)


def spec(size: int) -> bytes:
    models = "".join(f'[[models]]\nname = "m{at}"\nworker = ["x"]\nmap = ["a=b"]\n' for at in range(size))
    return f'layers = "0"\n{models}'.encode()


TEXTS: dict[str, Callable[[int], Callable[[], object]]] = {
    "a journal's lines": lambda n: (
        lambda: journal.parse(
            io.BytesIO(HEAD.line() + b"".join(record(at + 1, {"loss": 1.0}).line() for at in range(n)))
        )
    ),
    "a journal's metrics": lambda n: (
        lambda: journal.parse(io.BytesIO(HEAD.line() + record(1, dict.fromkeys(map(str, range(n)), 1.5)).line()))
    ),
    "an answer's metrics": lambda n: (
        lambda: metrics_of_answer(json.dumps({"step": 1, "metrics": {str(at): [at] for at in range(n)}}).encode(), 1)
    ),
    "an answer's nesting": lambda n: lambda: metrics_of_answer(b'{"step": 1, "metrics": {"a": %s}}' % (b"[" * n), 1),
    "ring.toml's models": lambda n: lambda: loading.parse(loading.tomllib.loads(spec(n).decode())),
    "ring.toml's wrong keys": lambda n: lambda: loading.parse({f"layer{at}": 1 for at in range(n)}),
}


@pytest.mark.parametrize("name", TEXTS)
def test_to_read_a_text_is_linear(name: str) -> None:
    """The files of a ring, and what trainers say."""

    def prepare(size: int) -> Callable[[], object]:
        work = TEXTS[name](size)

        def run() -> None:
            with contextlib.suppress(CkptSurgeonError):
                work()

        return run

    growth(prepare, 100)


STATES: dict[str, Callable[[int], bytes]] = {
    "paths": lambda n: b'model_checkpoint_path: "a"\n' + b'all_model_checkpoint_paths: "m"\n' * n,
    "escapes": lambda n: b'model_checkpoint_path: "%s"\n' % (b"\\a" * n),
    "an open string": lambda n: b'model_checkpoint_path: "%s' % (b"\\\\" * n),
    "space": lambda n: b" " * n + b"\n" * n + b"#" * n,
    "fields": lambda n: b"x" * n,
}


@pytest.mark.parametrize("name", STATES)
def test_to_read_a_state_file_is_linear(tmp_path: Path, name: str) -> None:
    """The file `checkpoint` in a folder: paths, escapes, strings without an end."""

    def prepare(size: int) -> Callable[[], object]:
        folder = tmp_path / str(size)
        folder.mkdir(exist_ok=True)
        (folder / "checkpoint").write_bytes(STATES[name](size))

        def read() -> None:
            with contextlib.suppress(CkptSurgeonError):
                state.read(str(folder))

        return read

    growth(prepare, 300)
