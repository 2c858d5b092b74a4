"""What every operation promises in every format: the rest untouched, twice as once, -o as in place, all or nothing.

Random checkpoints go through each operation in each format. What is compared are stored values, bit by bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash import Failing, survives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import write_as as write
from strategies import numbers, same, shapes

from ckptsurgeon import compare, formats
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.verbs import changing, producing

FORMATS = ("bundle", "v1", "safetensors", "npz")
DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64")
NAMES = ("a", "a/b", "w", "w_1", "bias", "step", "ü", "層/x", "a b", "x.y", "dnn/head/kernel", "z" * 150)

Arrays = dict[str, Any]
Operation = Callable[[Any, Path, Any], None]

quickly = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@st.composite
def checkpoints(draw: st.DrawFn) -> Arrays:
    """Two layers with slots, whose values are random, and any other variables that all formats can hold."""
    halves = st.floats(-1000, 1000, width=16)
    found: Arrays = {}
    for layer in range(2):
        for name, shape in ((f"dnn/layer{layer}/Linear/Matrix", (2, 3)), (f"dnn/layer{layer}/Linear/Bias", (3,))):
            for slot in ("", "/Adagrad"):
                count = int(np.prod(shape))
                values = draw(st.lists(halves, min_size=count, max_size=count))
                found[name + slot] = np.asarray(values, np.float32).reshape(shape) + 0  # no -0.0, which sums lose
    anything = st.sampled_from(DTYPES).flatmap(numbers)
    return found | draw(st.dictionaries(st.sampled_from(NAMES), anything, max_size=4))


def read(path: Any) -> Arrays:
    """All values; the metadata must agree with themselves and with every checksum."""
    with formats.open(str(path)) as checkpoint:
        assert checkpoint.oddities() == []
        assert all(finding.ok for finding in compare.verify(checkpoint))
        return {name: checkpoint.read(name) for name in checkpoint}


def equal(one: Arrays, other: Arrays) -> bool:
    """Whether names, dtypes, shapes and bits are the same."""
    return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)


def stored(folder: Path, stem: str) -> dict[str, bytes]:
    """The files of a checkpoint."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.split(".")[0] == stem}


def fails(operation: Callable[[], object]) -> bool:
    """Whether an operation is refused, which it must be in one line."""
    lines = []
    try:
        operation()
    except CkptSurgeonError as error:
        lines = error.lines
    assert len(lines) <= 1
    return bool(lines)


def clear(folder: Path) -> None:
    """Remove all files: hypothesis calls a test again in the same folder."""
    for path in folder.iterdir():
        path.unlink()


MATRIX, BIAS = "dnn/layer0/Linear/Matrix", "dnn/layer0/Linear/Bias"
LAYER = {MATRIX, BIAS}

# Each operation in place or with `out`, of a checkpoint `b` and a donor `a`; and what it makes of their values.
IN_PLACE: dict[str, tuple[Callable[..., object], Callable[[Arrays, Arrays], Arrays]]] = {
    "set": (
        lambda a, b, **to: changing.set(b, f"{BIAS}[1]", 0.5, sync=False, **to),
        lambda a, b: {**b, BIAS: np.asarray([b[BIAS][0], 0.5, b[BIAS][2]], np.float32)},
    ),
    "rename": (
        lambda a, b, **to: changing.rename(b, [f"{MATRIX}=renamed/M"], sync=False, **to),
        lambda a, b: {n.replace(MATRIX, "renamed/M"): values for n, values in b.items()},
    ),
    "drop": (
        lambda a, b, **to: changing.drop(b, [MATRIX], sync=False, **to),
        lambda a, b: {n: values for n, values in b.items() if not n.startswith(MATRIX)},
    ),
    "cast": (
        lambda a, b, **to: changing.cast(b, "float16", layers="0", sync=False, **to),
        lambda a, b: {n: values.astype(np.float16) if n in LAYER else values for n, values in b.items()},
    ),
    "graft": (
        lambda a, b, **to: changing.graft(a, b, layers="0", sync=False, **to),
        lambda a, b: {n: a[n] if n in LAYER else values for n, values in b.items()},
    ),
    "graft with slots": (
        lambda a, b, **to: changing.graft(a, b, layers="0", slots="copy", sync=False, **to),
        lambda a, b: {n: a[n] if n.startswith("dnn/layer0/") else values for n, values in b.items()},
    ),
}
PRODUCING: dict[str, tuple[Callable[..., object], Callable[[Arrays, Arrays], Arrays]]] = {
    "extract": (
        lambda a, b, to, out: producing.extract(b, out, layers="0", sync=False),
        lambda a, b: {n: b[n] for n in LAYER},
    ),
    "extract with slots": (
        lambda a, b, to, out: producing.extract(b, out, layers="0", slots=True, sync=False),
        lambda a, b: {n: values for n, values in b.items() if n.startswith("dnn/layer0/")},
    ),
    "convert": (
        lambda a, b, to, out: producing.convert(b, out, to=to, sync=False),
        lambda a, b: b,
    ),
    "average": (
        lambda a, b, to, out: producing.average([b, a], out, match=[BIAS], weights=[0.0, 1.0], sync=False),
        lambda a, b: {**b, BIAS: a[BIAS] + np.float32(0)},
    ),
    "cp": (
        lambda a, b, to, out: producing.cp(b, out, sync=False),
        lambda a, b: b,
    ),
}
# After these a second time finds nothing to do; rename and drop find nothing to work on, which is an error.
AGAIN = ("set", "cast", "graft", "graft with slots")


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("verb", IN_PLACE)
@quickly
@given(one=checkpoints(), other=checkpoints(), kind=st.sampled_from(FORMATS))
def test_in_place(tmp_path: Path, verb: str, to: str, one: Arrays, other: Arrays, kind: str) -> None:
    """What was not named is the same bits; -o gives what in place does; a second time changes no byte of any file."""
    clear(tmp_path)
    a, b = write(tmp_path / "a", one, kind), write(tmp_path / "b", other, to)
    operation, expected = IN_PLACE[verb]
    donor, before = stored(tmp_path, "a"), stored(tmp_path, "b")
    operation(a, b, out=str(tmp_path / "out"))
    assert stored(tmp_path, "b") == before
    operation(a, b)
    assert stored(tmp_path, "a") == donor
    assert equal(read(b), expected(one, other))
    assert equal(read(tmp_path / "out"), expected(one, other))
    first = stored(tmp_path, "b")
    if verb in AGAIN:
        operation(a, b)
        assert stored(tmp_path, "b") == first
        operation(a, str(tmp_path / "out"), out=str(tmp_path / "twice"))
        once = [data for _, data in sorted(stored(tmp_path, "out").items())]
        assert [data for _, data in sorted(stored(tmp_path, "twice").items())] == once
    else:
        assert fails(lambda: operation(a, b))
        assert stored(tmp_path, "b") == first


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("verb", PRODUCING)
@quickly
@given(one=checkpoints(), other=checkpoints())
def test_producing(tmp_path: Path, verb: str, to: str, one: Arrays, other: Arrays) -> None:
    """A new checkpoint holds what was asked for; the inputs are untouched; the same input gives the same bytes."""
    clear(tmp_path)
    a, b = write(tmp_path / "a", one, to), write(tmp_path / "b", other, to)
    operation, expected = PRODUCING[verb]
    before = stored(tmp_path, "a") | stored(tmp_path, "b")
    for out in ("out", "twice"):
        operation(a, b, to, str(tmp_path / out))
        assert equal(read(tmp_path / out), expected(one, other))
    assert stored(tmp_path, "a") | stored(tmp_path, "b") == before
    once = [data for _, data in sorted(stored(tmp_path, "out").items())]
    assert [data for _, data in sorted(stored(tmp_path, "twice").items())] == once
    if verb in ("cp", "convert"):
        assert [data for _, data in sorted(stored(tmp_path, "b").items())] == once
    for again in ("extract", "extract with slots"):
        if verb == again:
            operation(a, str(tmp_path / "out"), to, str(tmp_path / "third"))
            assert equal(read(tmp_path / "third"), expected(one, other))


def examples() -> tuple[Arrays, Arrays]:
    """Two small checkpoints of one form."""
    made = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        layers = {
            f"dnn/layer{k}/Linear/{name}{slot}": rng.normal(size=shape).astype(np.float32)
            for k in range(2)
            for name, shape in (("Matrix", (2, 3)), ("Bias", (3,)))
            for slot in ("", "/Adagrad")
        }
        made.append({**layers, "step": np.asarray(seed, np.int64)})
    return made[0], made[1]


def remove_result(folder: Path) -> None:
    """Remove what an operation wrote, but not what it left behind under other names."""
    for path in folder.iterdir():
        if path.name.startswith(("out", "checkpoint")) and "tmp" not in path.name:
            path.unlink()


def breakable(verb: str, to: str, a: str, b: str, out: str) -> Callable[[], object]:
    """An operation that writes: in place, or a new checkpoint at `out`."""
    if verb in IN_PLACE:
        return lambda: IN_PLACE[verb][0](a, b)
    return lambda: PRODUCING[verb][0](a, b, to, out)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("verb", ["set", "cast", "drop", "graft", "extract", "convert", "average", "cp"])
def test_a_failing_disk_leaves_old_or_new(tmp_path: Path, verb: str, to: str) -> None:
    """Whichever call of the operating system fails: the checkpoint is whole, old or new, and nothing lies beside it."""
    one, other = examples()
    a = write(tmp_path / "a", one, to)
    expected = {**IN_PLACE, **PRODUCING}[verb][1](one, other)
    for calls in itertools.count():
        b, out = write(tmp_path / "b", other, to), str(tmp_path / "out")
        remove_result(tmp_path)
        before = {name: data for stem in "ab" for name, data in stored(tmp_path, stem).items()}
        operation = breakable(verb, to, a, b, out)
        with Failing(calls) as failing:
            failed = fails(operation)
        if verb in IN_PLACE:
            assert equal(read(b), other if failed else expected)
        else:
            now = {name: data for stem in "ab" for name, data in stored(tmp_path, stem).items()}
            assert now == before
            if (tmp_path / "out").exists() or (tmp_path / "out.index").exists():
                assert equal(read(out), expected)
            else:
                assert failed
        if list(tmp_path.glob("*tmp*")):  # it was the removal that failed: the next writer clears up
            remove_result(tmp_path)
            write(tmp_path / "b", other, to)
            operation()
            assert not list(tmp_path.glob("*tmp*"))
        if not failing.reached:
            break
    assert calls > 2


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("verb", ["cast", "graft", "extract", "cp"])
def test_kill_leaves_old_or_new(tmp_path: Path, verb: str, to: str) -> None:
    """Whichever call kill -9 comes before: the checkpoint is whole, and the next operation clears up and succeeds."""
    one, other = examples()
    a = write(tmp_path / "a", one, to)
    expected = {**IN_PLACE, **PRODUCING}[verb][1](one, other)
    b, out = write(tmp_path / "b", other, to), str(tmp_path / "out")
    for calls in itertools.count():
        write(tmp_path / "b", other, to)
        remove_result(tmp_path)
        done = survives(breakable(verb, to, a, b, out), calls)
        found = read(b)
        assert equal(found, other) or (equal(found, expected) and verb in IN_PLACE)
        if (tmp_path / "out").exists() or (tmp_path / "out.index").exists():
            assert equal(read(out), expected)
        else:
            assert verb in IN_PLACE or not done
        if done:
            break
    assert calls > 2
    assert not list(tmp_path.glob("*tmp*"))


@pytest.mark.parametrize("to", FORMATS)
def test_every_truncation_is_refused(tmp_path: Path, to: str) -> None:
    """Whatever a file is cut to, it is refused in one line, or lists as before and gives no other values."""
    _, arrays = examples()
    path = write(tmp_path / "m", arrays, to)
    listed = {name: (values.dtype.name, values.shape) for name, values in arrays.items()}
    found: list[Arrays] = []

    def use() -> None:
        with formats.open(path) as checkpoint:
            found.append({name: (each.dtype, each.shape) for name, each in checkpoint.variables.items()})
            found.append({name: checkpoint.read(name) for name in checkpoint})

    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for end in range(len(whole)):
            file.write_bytes(whole[:end])
            found.clear()
            assert fails(use), end
            assert not found or (found == [listed] and to != "safetensors"), end
        file.write_bytes(whole)
    use()
    assert found[-2] == listed
    assert equal(found[-1], arrays)


@quickly
@given(data=st.data())
def test_npy(tmp_path: Path, data: st.DataObject) -> None:
    """The one variable of an npy file is copied, converted, cast and set like others; one that was cut is refused."""
    clear(tmp_path)
    array = np.full(data.draw(shapes()), data.draw(st.integers(0, 100)), data.draw(st.sampled_from(DTYPES[1:])))
    path = tmp_path / "m.npy"
    np.save(path, array)
    producing.cp(str(path), str(tmp_path / "cp.npy"), sync=False)
    assert (tmp_path / "cp.npy").read_bytes() == path.read_bytes()
    producing.convert(str(path), str(tmp_path / "z.npz"), sync=False)
    producing.convert(str(tmp_path / "z.npz"), str(tmp_path / "back.npy"), sync=False)
    assert same(np.load(tmp_path / "back.npy"), array)
    changing.cast(str(path), "float64", match=["m"], sync=False)
    assert same(np.load(path), array.astype(np.float64))
    changing.set(str(path), "m", 3, sync=False)
    assert same(np.load(path), np.full(array.shape, 3.0))
    raw = path.read_bytes()
    for end in (0, 5, 20, len(raw) - 1):
        path.write_bytes(raw[:end])
        assert fails(lambda: read(path))
