"""What every operation promises in every format: the rest untouched, twice as once, -o as in place, all or nothing.

Random checkpoints go through each operation in each form that a checkpoint may have. What is compared are stored
values, bit by bit. What a form refuses stands in tables, and is refused: nothing is left out because it would fail.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash import Failing, survives
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import FORMS, Form
from strategies import DTYPES as ALL_DTYPES
from strategies import numbers, same, shapes

from ckptsurgeon import cli, compare, formats, numeric
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.formats import table
from ckptsurgeon.formats.keras.sandbox import spawning
from ckptsurgeon.verbs import changing, producing

DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64")
NAMES = ("a", "a/b", "w", "w_1", "bias", "step", "ü", "層/x", "a b", "x.y", "dnn/head/kernel", "z" * 150)

Arrays = dict[str, Any]
Operation = Callable[[Any, Path, Any], None]

quickly = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
# Of HDF5, each of whose files is looked into by a process of its own; the first example is the one of zeros.
hardly = settings(quickly, max_examples=2)
is_hdf5 = {form.name: form.to in ("hdf5", "keras") for form in FORMS.values()}


def forms(*chosen: bool) -> pytest.MarkDecorator:
    """Each form that is HDF5 (True), or is not; without a choice all."""
    names = [name for name in FORMS if is_hdf5[name] in (chosen or (True, False))]
    return pytest.mark.parametrize("form", [FORMS[name] for name in names], ids=names)


@st.composite
def checkpoints(draw: st.DrawFn) -> Arrays:
    """Two layers with slots, whose values are random, and any other variables that all formats can hold."""
    halves = st.floats(-1000, 1000, width=16)
    found: Arrays = {"iteration": np.asarray(draw(st.integers(0, 9))), "learning_rate": np.asarray(0.5, np.float32)}
    for layer in range(2):
        size = (3, 4)[layer]  # two sizes, or numbered slots could be of either layer
        for name, shape in ((f"dnn/layer{layer}/Linear/Matrix", (2, size)), (f"dnn/layer{layer}/Linear/Bias", (size,))):
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


def stored(folder: Path, *stems: str) -> dict[str, bytes]:
    """The files of checkpoints, in the order of their names."""
    paths = sorted(path for path in folder.iterdir() if re.split(r"[.]|[-_]0", path.name)[0] in stems)
    return {path.name: path.read_bytes() for path in paths}


def restore(folder: Path, files: dict[str, bytes]) -> None:
    """Put the files of a and b back where they have changed, but leave what an operation left under other names."""
    for name in stored(folder, "a", "b").keys() - files.keys():
        if "tmp" not in name:
            (folder / name).unlink()
    for name, data in files.items():
        path = folder / name
        if not path.exists() or path.read_bytes() != data:
            path.write_bytes(data)


def fails(operation: Callable[[], object], message: str = "") -> bool:
    """Whether an operation is refused, which it must be in lines; with a message, in one that says so."""
    lines = []
    try:
        operation()
    except CkptSurgeonError as error:
        lines = error.lines
    assert all(len(line.splitlines()) == 1 for line in lines)
    if message:
        assert [line for line in lines if message in line], lines or "not refused"
    else:
        assert len(lines) <= 1
    return bool(lines)


def clear(folder: Path) -> None:
    """Remove all files: hypothesis calls a test again in the same folder."""
    for path in folder.iterdir():
        path.unlink()


MATRIX, BIAS, MOVED = "dnn/layer0/Linear/Matrix", "dnn/layer0/Linear/Bias", "renamed/M"
LAYER = {MATRIX, BIAS}
# Whether Keras could load the result is no question here.
ANYWAY: dict[str, Any] = {"sync": False, "anyway": True}

# Each operation in place or with `out`, of a checkpoint `b` in a form `f` and a donor `a`; and what it makes of their
# values, by skflow's names.
IN_PLACE: dict[str, tuple[Callable[..., object], Callable[[Arrays, Arrays], Arrays]]] = {
    "set": (
        lambda a, b, f, **to: changing.set(b, f"{f.called(BIAS)}[1]", 0.5, sync=False, **to),
        lambda a, b: {**b, BIAS: np.asarray([b[BIAS][0], 0.5, b[BIAS][2]], np.float32)},
    ),
    "rename": (
        lambda a, b, f, **to: changing.rename(b, [f"{f.called(MATRIX)}={f.called(MOVED)}"], **ANYWAY, **to),
        lambda a, b: {n.replace(MATRIX, MOVED): values for n, values in b.items()},
    ),
    "drop": (
        lambda a, b, f, **to: changing.drop(b, [f.called(MATRIX)], **ANYWAY, **to),
        lambda a, b: {n: values for n, values in b.items() if not n.startswith(MATRIX)},
    ),
    "cast": (
        lambda a, b, f, **to: changing.cast(b, "float16", layers="0", sync=False, **to),
        lambda a, b: {n: values.astype(np.float16) if n in LAYER else values for n, values in b.items()},
    ),
    "graft": (
        lambda a, b, f, **to: changing.graft(a, b, layers="0", sync=False, **to),
        lambda a, b: {n: a[n] if n in LAYER else values for n, values in b.items()},
    ),
    "graft with slots": (
        lambda a, b, f, **to: changing.graft(a, b, layers="0", slots="copy", sync=False, **to),
        lambda a, b: {n: a[n] if n.startswith("dnn/layer0/") else values for n, values in b.items()},
    ),
}
PRODUCING: dict[str, tuple[Callable[..., object], Callable[[Arrays, Arrays], Arrays]]] = {
    "extract": (
        lambda a, b, f, out: producing.extract(b, out, layers="0", **ANYWAY),
        lambda a, b: {n: b[n] for n in LAYER},
    ),
    "extract with slots": (
        lambda a, b, f, out: producing.extract(b, out, layers="0", slots=True, **ANYWAY),
        lambda a, b: {n: values for n, values in b.items() if n.startswith("dnn/layer0/")},
    ),
    "convert": (
        lambda a, b, f, out: producing.convert(b, out, to=f.to, sync=False),
        lambda a, b: b,
    ),
    "average": (
        lambda a, b, f, out: producing.average([b, a], out, match=[f.called(BIAS)], weights=[0.0, 1.0], sync=False),
        lambda a, b: {**b, BIAS: a[BIAS] + np.float32(0)},
    ),
    "cp": (
        lambda a, b, f, out: producing.cp(b, out, sync=False),
        lambda a, b: b,
    ),
}
# After these a second time finds nothing to do; rename and drop find nothing to work on, which is an error.
AGAIN = ("set", "cast", "graft", "graft with slots")

# What no single rename can do, in files that are several: refused in these words, and done with -o.
REFUSED = {
    "safetensors-set": {
        "rename": "names, and so the index, of a set cannot be replaced in place",
        "drop": "names, and so the index, of a set cannot be replaced in place",
    },
    "weights-set": {
        "rename": "names or dtypes, and so the index, of a set cannot be replaced in place",
        "drop": "names or dtypes, and so the index, of a set cannot be replaced in place",
        "cast": "names or dtypes, and so the index, of a set cannot be replaced in place",
        "graft with slots": "2 files of a set cannot be replaced in place",  # the slots are in the second
    },
}


@forms(False)
@pytest.mark.parametrize("verb", IN_PLACE)
@quickly
@given(one=checkpoints(), other=checkpoints(), kind=st.sampled_from([*FORMS.values()]))
def test_in_place(tmp_path: Path, verb: str, form: Form, one: Arrays, other: Arrays, kind: Form) -> None:
    """What was not named is the same bits; -o gives what in place does; a second time changes no byte of any file."""
    in_place(tmp_path, verb, form, one, other, kind)


@forms(True)
@pytest.mark.parametrize("verb", IN_PLACE)
@hardly
@given(one=checkpoints(), other=checkpoints(), kind=st.sampled_from([*FORMS.values()]))
def test_in_place_in_hdf5(tmp_path: Path, verb: str, form: Form, one: Arrays, other: Arrays, kind: Form) -> None:
    """The same promises of HDF5 and Keras files."""
    in_place(tmp_path, verb, form, one, other, kind)


def in_place(tmp_path: Path, verb: str, form: Form, one: Arrays, other: Arrays, kind: Form) -> None:
    """An operation in place and with -o, once and twice."""
    clear(tmp_path)
    a, b = kind.write(tmp_path / "a", one), form.write(tmp_path / "b", other)
    out, operation = str(tmp_path / "out"), IN_PLACE[verb][0]
    expected = form.real(IN_PLACE[verb][1](one, other))
    donor, before = stored(tmp_path, "a"), stored(tmp_path, "b")
    if verb == "graft with slots" and kind.kin != form.kin:
        for to in ({}, {"out": out}):
            assert fails(lambda: operation(a, b, form, **to), "no slot ")  # noqa: B023 -- called at once
        assert stored(tmp_path, "a", "b", "out") == donor | before
        return
    operation(a, b, form, out=out)
    assert stored(tmp_path, "b") == before
    assert equal(read(out), expected)
    refusal = REFUSED.get(form.name, {}).get(verb)
    if refusal:
        assert fails(lambda: operation(a, b, form), refusal)
        assert stored(tmp_path, "b") == before
    else:
        operation(a, b, form)
        assert equal(read(b), expected)
    assert stored(tmp_path, "a") == donor
    first, once = stored(tmp_path, "b"), [*stored(tmp_path, "out").values()]
    if verb in AGAIN:
        operation(a, b if not refusal else out, form)
        operation(a, out, form, out=str(tmp_path / "twice"))
        assert [*stored(tmp_path, "twice").values()] == once
    else:
        assert fails(lambda: operation(a, b if not refusal else out, form))
    assert stored(tmp_path, "b") == first
    assert [*stored(tmp_path, "out").values()] == once


@forms(False)
@pytest.mark.parametrize("verb", PRODUCING)
@quickly
@given(one=checkpoints(), other=checkpoints())
def test_producing(tmp_path: Path, verb: str, form: Form, one: Arrays, other: Arrays) -> None:
    """A new checkpoint holds what was asked for; the inputs are untouched; the same input gives the same bytes."""
    produce(tmp_path, verb, form, one, other)


@forms(True)
@pytest.mark.parametrize("verb", PRODUCING)
@hardly
@given(one=checkpoints(), other=checkpoints())
def test_producing_in_hdf5(tmp_path: Path, verb: str, form: Form, one: Arrays, other: Arrays) -> None:
    """The same promises of HDF5 and Keras files."""
    produce(tmp_path, verb, form, one, other)


def produce(tmp_path: Path, verb: str, form: Form, one: Arrays, other: Arrays) -> None:
    """An operation that makes a new checkpoint, twice."""
    clear(tmp_path)
    a, b = form.write(tmp_path / "a", one), form.write(tmp_path / "b", other)
    operation, expected = PRODUCING[verb][0], form.real(PRODUCING[verb][1](one, other))
    before, ending = stored(tmp_path, "a", "b"), form.ending if verb == "cp" else ""
    if ending:  # a copy of a set is a set, and has its name
        assert fails(lambda: operation(a, b, form, str(tmp_path / "out")), ending)
        assert stored(tmp_path, "a", "b", "out") == before
    for out in ("out", "twice"):
        operation(a, b, form, str(tmp_path / f"{out}{ending}"))
        assert equal(read(tmp_path / f"{out}{ending}"), expected)
    assert stored(tmp_path, "a", "b") == before
    # An index names its files, which are called otherwise; all else is the same.
    once, twice, source = (
        [data for name, data in stored(tmp_path, stem).items() if not name.endswith(".json")]
        for stem in ("out", "twice", "b")
    )
    assert twice == once
    if verb == "cp" or (verb == "convert" and form.files == 1):
        assert source == once
    if verb.startswith("extract"):
        operation(a, str(tmp_path / "out"), form, str(tmp_path / "third"))
        if form.by_order:  # nothing tells any more whose slots these are
            expected = {name: values for name, values in expected.items() if name in map(form.called, LAYER)}
        assert equal(read(tmp_path / "third"), expected)


def examples() -> tuple[Arrays, Arrays]:
    """Two small checkpoints of one form."""
    made = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        layers = {
            f"dnn/layer{k}/Linear/{name}{slot}": rng.normal(size=shape).astype(np.float32)
            for k in range(2)
            for name, shape in (("Matrix", (2, 3 + k)), ("Bias", (3 + k,)))
            for slot in ("", "/Adagrad")
        }
        others = {"iteration": np.asarray(1), "learning_rate": np.asarray(0.5, np.float32)}
        made.append({**layers, **others, "step": np.asarray(seed, np.int64)})
    return made[0], made[1]


@forms()
def test_listing(tmp_path: Path, form: Form) -> None:
    """Names, dtypes, shapes and sizes are listed, and so are the two layers, and whose slots are whose."""
    arrays = examples()[0]
    path, printed = form.write(tmp_path / "m", arrays), io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert cli.main(["ls", path, "--json"]) == 0
    keys = ("name", "dtype", "shape", "bytes", "layer", "slot_of")
    listed = [tuple(map(json.loads(line).__getitem__, keys)) for line in printed.getvalue().splitlines()]
    expected = []
    for name, values in arrays.items():
        owner = name.removesuffix("/Adagrad")
        is_in_scope = form.called(name).startswith("training/")  # which no pattern covers
        is_of_layer = name.startswith("dnn/") and not is_in_scope
        layer, slot_of = int(name[9]) if is_of_layer else None, None if owner == name else form.called(owner)
        expected.append((form.called(name), values.dtype.name, [*values.shape], values.nbytes, layer, slot_of))
    assert sorted(listed, key=str) == sorted(expected, key=str)


# What a form cannot hold: dtypes, of all that are known; and names, with why. All others it must hold.
SMALL = {"int4", "uint4", "int2", "uint2", "float4_e2m1fn"}
FLOATS8 = {f"float8_{kind}" for kind in ("e5m2", "e4m3fn", "e4m3fnuz", "e4m3b11fnuz", "e5m2fnuz")}
LACKS = {
    "v1": SMALL | FLOATS8 | {"bfloat16", "uint32", "uint64"},
    "npz": SMALL | FLOATS8 | {"bfloat16"},
    "safetensors": SMALL | {"complex128", "float8_e4m3b11fnuz"},
    "hdf5": SMALL,
    "keras": SMALL,
}
ODD = ("x//y", "x/./y", "/x", "../x", "x/../y", "x\0y", "y.npy", "__metadata__", "{below}")
NEVER = "no variable of an HDF5 file can have the name"
NO_PATH = dict.fromkeys(("x//y", "x/./y", "/x", "x\0y"), NEVER) | {"{below}": "be both a variable and a group"}
FORBIDS = {
    "npz": {"x\0y": "is empty or has a zero byte"},
    "safetensors": {"__metadata__": "no variable of a safetensors file can have the name '__metadata__'"},
    "hdf5": NO_PATH,
    "keras": NO_PATH,
}


@forms()
def test_what_a_form_cannot_hold(tmp_path: Path, form: Form) -> None:
    """Every dtype and odd name is held as it is, or stands in the table and is refused before a byte is written."""
    path, number, out = form.write(tmp_path / "m", examples()[0]), form.called("iteration"), tmp_path / "out"
    refused = {}
    for dtype in ALL_DTYPES:
        refused[dtype] = fails(lambda: changing.cast(path, dtype, match=[number], out=out, **ANYWAY))  # noqa: B023
        assert out.exists() or Path(f"{out}.index").exists() or refused[dtype]
        if not refused[dtype]:
            assert same(read(out)[number], np.asarray(1).astype(numeric.dtype(dtype)))
            remove_result(tmp_path)
    assert {dtype for dtype, is_so in refused.items() if is_so} == LACKS.get(form.to, set())
    for text in ODD:
        new = text.format(below=f"{form.called(MATRIX)}/x")
        why = FORBIDS.get(form.to, {}).get(text, "")
        assert fails(lambda: changing.rename(path, [f"{number}={new}"], out=out, **ANYWAY), why) == bool(why)  # noqa: B023
        assert why or same(read(out)[new], np.asarray(1))
        remove_result(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == stored(tmp_path, "m").keys()


@forms(True)
def test_into_hdf5_by_a_template_alone(tmp_path: Path, form: Form) -> None:
    """Nothing is converted into HDF5 or Keras files by guessing names: a template's are kept, and get the values."""
    one, other = examples()
    a, b, out = FORMS["npz"].write(tmp_path / "a.npz", one), form.write(tmp_path / "b", other), str(tmp_path / "out")
    for like in (None, a):
        assert fails(lambda: producing.convert(a, out, to=form.to, like=like), "--like")  # noqa: B023
        assert not stored(tmp_path, "out")
    maps = [f"{name}={form.called(name)}" for name in one if name != form.called(name)]
    producing.convert(a, out, like=b, maps=maps, sync=False)
    assert equal(read(out), form.real(one))
    with formats.open(out) as checkpoint:
        assert table.written()[form.to] == checkpoint.format


def remove_result(folder: Path) -> None:
    """Remove what an operation wrote, but not what it left behind under other names."""
    for path in folder.iterdir():
        if path.name.startswith(("out", "checkpoint")) and "tmp" not in path.name:
            path.unlink()


def breakable(verb: str, form: Form, a: str, b: str, out: str) -> Callable[[], object]:
    """An operation that writes: in place, or a new checkpoint at `out`."""
    if verb in IN_PLACE:
        return lambda: IN_PLACE[verb][0](a, b, form)
    return lambda: PRODUCING[verb][0](a, b, form, out)


def writing(*verbs: str, also: tuple[str, ...]) -> pytest.MarkDecorator:
    """Each of these operations in each form that does not refuse it; `also` those that HDF5 writes like others."""
    pairs = [
        (form, verb)
        for form in FORMS.values()
        for verb in (*verbs, *(() if is_hdf5[form.name] else also))
        if verb not in REFUSED.get(form.name, {})
    ]
    return pytest.mark.parametrize(("form", "verb"), pairs, ids=[f"{verb}-{form.name}" for form, verb in pairs])


@writing("set", "drop", "graft", "extract", "cp", also=("cast", "convert", "average"))
def test_a_failing_disk_leaves_old_or_new(tmp_path: Path, verb: str, form: Form) -> None:
    """Whichever call of the operating system fails: the checkpoint is whole, old or new, and nothing lies beside it."""
    one, other = examples()
    a, b = form.write(tmp_path / "a", one), form.write(tmp_path / "b", other)
    out = str(tmp_path / f"out{form.ending if verb == 'cp' else ''}")
    expected = form.real({**IN_PLACE, **PRODUCING}[verb][1](one, other))
    files, old = stored(tmp_path, "a", "b"), form.real(other)
    operation = breakable(verb, form, a, b, out)
    for calls in itertools.count():
        restore(tmp_path, files)
        remove_result(tmp_path)
        with Failing(calls) as failing:
            failed = fails(operation)
        if verb in IN_PLACE:
            assert equal(read(b), old if failed else expected)
        else:
            assert stored(tmp_path, "a", "b") == files
            if Path(out).exists() or Path(f"{out}.index").exists():
                assert equal(read(out), expected)
            else:
                assert failed
        if list(tmp_path.glob("*tmp*")):  # it was the removal that failed: the next writer clears up
            remove_result(tmp_path)
            restore(tmp_path, files)
            operation()
            assert not list(tmp_path.glob("*tmp*"))
        if not failing.reached:
            break
    assert calls > 2


@writing("cast", "graft", also=("extract", "cp"))
def test_kill_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, form: Form) -> None:
    """Whichever call kill -9 comes before: the checkpoint is whole, and the next operation clears up and succeeds."""
    one, other = examples()
    a, b = form.write(tmp_path / "a", one), form.write(tmp_path / "b", other)
    out = str(tmp_path / f"out{form.ending if verb == 'cp' else ''}")
    expected = form.real({**IN_PLACE, **PRODUCING}[verb][1](one, other))
    files, old = stored(tmp_path, "a", "b"), form.real(other)
    mine = spawning.spawner()  # of before: it is the operation that is to be killed, not who reads for it
    monkeypatch.setattr(spawning, "spawner", lambda: mine)
    for calls in itertools.count():
        restore(tmp_path, files)
        remove_result(tmp_path)
        done = survives(breakable(verb, form, a, b, out), calls)
        found = read(b)
        assert equal(found, old) or (equal(found, expected) and verb in IN_PLACE)
        if Path(out).exists() or Path(f"{out}.index").exists():
            assert equal(read(out), expected)
        else:
            assert verb in IN_PLACE or not done
        if done:
            break
    assert calls > 2
    assert not list(tmp_path.glob("*tmp*"))


def ends(file: Path) -> list[int]:
    """Lengths to which a file is cut: of one in HDF5, where something begins or ends, and some more; else all."""
    data = file.read_bytes()
    if b"\x89HDF\r\n\x1a\n" not in data:
        return [*range(len(data))]
    found = {*range(0, len(data), len(data) // 20), *range(4), *range(len(data) - 4, len(data))}
    for mark in (b"\x89HDF", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"PK"):
        starts = [match.start() for match in re.finditer(re.escape(mark), data)]
        found.update(start + beside for start in starts for beside in (0, 8))
    with contextlib.suppress(CkptSurgeonError), formats.open(str(file)) as checkpoint:
        for variable in checkpoint.variables.values():
            found.update(end for each in variable.extents for end in (each.offset, each.offset + each.length))
    return sorted(end for end in found if 0 <= end < len(data))


@forms()
def test_every_truncation_is_refused(tmp_path: Path, form: Form) -> None:
    """Whatever a file is cut to, it is refused in one line, or lists as before and gives no other values."""
    arrays = form.real(examples()[1])
    path = form.write(tmp_path / "m", examples()[1])
    listed = {name: (values.dtype.name, values.shape) for name, values in arrays.items()}
    found: list[Arrays] = []

    def use() -> None:
        with formats.open(path) as checkpoint:
            found.append({name: (each.dtype, each.shape) for name, each in checkpoint.variables.items()})
            found.append({name: checkpoint.read(name) for name in checkpoint})

    for file in sorted(tmp_path.iterdir()):
        whole = file.read_bytes()
        for end in ends(file):
            file.write_bytes(whole[:end])
            found.clear()
            assert fails(use), end
            assert not found or (found == [listed] and form.to != "safetensors"), end
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
