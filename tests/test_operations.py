"""Rename, drop, add, convert and cp: on random checkpoints, partitioned ones, both byte orders, both formats."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from handmade import HandMade, strings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Arrays, checkpoints, same

from ckptsurgeon import formats
from ckptsurgeon.errors import CkptSurgeonError, DamagedError, NotFoundError, RefusedError, UsageError
from ckptsurgeon.verbs import changing, producing

MATRIX, BIAS = "dnn/layer0/Linear/Matrix", "dnn/layer0/Linear/Bias"
ROWS = [((0, 2), (0, -1)), ((2, 2), (0, -1))]
COLUMNS = [((0, -1), (0, 1)), ((0, -1), (1, 2))]
EXPLICIT = [((0, 4), (0, 3))]

quickly = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def value(seed: int = 0) -> Any:
    """A matrix of 4 by 3."""
    return np.random.default_rng(seed).normal(size=(4, 3)).astype(np.float32)


def partitioned(prefix: Path, values: Any, slices: Any, big: bool = False, name: str = "w") -> Path:
    """A checkpoint whose only matrix is cut into slices, beside a scalar."""
    made = HandMade(2, big=big)
    made.add("step", np.asarray(7, np.int64))
    made.add_sliced(name, values, slices)
    return made.write(prefix)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small checkpoint in skflow's names."""
    models.write(tmp_path / "m", 1)
    return tmp_path / "m"


# -- rename


@pytest.mark.parametrize(
    ("renames", "regex", "expected"),
    [
        ([f"{MATRIX}=x"], False, {MATRIX: "x", f"{MATRIX}/Adagrad": "x/Adagrad"}),
        (["dnn/layer0/Linear/=l0/"], False, {MATRIX: "l0/Matrix", f"{BIAS}/Adagrad": "l0/Bias/Adagrad"}),
        (["dnn/layer*/Linear/Bias=h*/bias"], False, {BIAS: "h0/bias", f"{BIAS}/Adagrad": "h0/bias/Adagrad"}),
        ([r"layer(\d)=hidden_\1"], True, {MATRIX: "dnn/hidden_0/Linear/Matrix"}),
        (["**/Matrix=**/kernel", f"{BIAS}=b"], False, {MATRIX: "dnn/layer0/Linear/kernel", BIAS: "b"}),
        ([f"{MATRIX}={BIAS}", f"{BIAS}={MATRIX}"], False, {MATRIX: BIAS, BIAS: MATRIX}),
    ],
)
def test_rename(model: Path, renames: list[str], regex: bool, expected: dict[str, str]) -> None:
    """Names, prefixes, globs and expressions; slots follow their variable; no value changes and no data is written."""
    before = models.read(model)
    data = Path(f"{model}.data-00000-of-00001").stat()
    changing.rename(str(model), renames, regex=regex)
    after = models.read(model)
    assert len(after) == len(before)
    for old, new in expected.items():
        assert same(after[new], before[old])
        assert old not in after or old in expected.values()
    assert Path(f"{model}.data-00000-of-00001").stat().st_ino == data.st_ino


@pytest.mark.parametrize(
    ("renames", "error", "message"),
    [
        ([f"{MATRIX}={BIAS}"], RefusedError, "would both be"),
        (["nothing=x"], UsageError, "nothing matches nothing"),
        ([f"{MATRIX}x=y"], UsageError, "did you mean"),
        ([f"{MATRIX}="], RefusedError, "no variable can have the name"),
        (["dnn/*/Linear/Bias=b"], UsageError, "different numbers of wildcards"),
        (["no equals sign"], UsageError, "invalid rename"),
        ([f"{MATRIX}=a", "dnn/layer0/=b/"], UsageError, "would get two names"),
    ],
)
def test_a_rename_that_cannot_be(model: Path, renames: list[str], error: Any, message: str) -> None:
    """Collisions and patterns without a match are refused in one line, and nothing is written."""
    before = models.snapshot(model.parent)
    with pytest.raises(error, match=message):
        changing.rename(str(model), renames)
    assert models.snapshot(model.parent) == before


def test_a_bad_expression_is_refused(model: Path) -> None:
    """Neither the expression nor its replacement may be wrong."""
    for text in ("(=x", r"a=\9"):
        with pytest.raises(UsageError, match="regular expression"):
            changing.rename(str(model), [text], regex=True)


def test_a_partitioned_variable_is_renamed_with_its_slices(tmp_path: Path) -> None:
    """The rows of all slices get the new key."""
    path = partitioned(tmp_path / "m", value(), ROWS)
    changing.rename(str(path), ["w=tower/w"])
    with formats.open(str(path)) as checkpoint:
        assert same(checkpoint.read("tower/w"), value())
        assert checkpoint["tower/w"].slices == tuple(ROWS)
        assert checkpoint.oddities() == []


# -- drop


def test_drop_takes_the_slots_along(model: Path) -> None:
    """A dropped variable's slots go too; all else stays byte for byte."""
    before = models.read(model)
    changing.drop(str(model), [MATRIX])
    after = models.read(model)
    assert before.keys() - after.keys() == {MATRIX, f"{MATRIX}/Adagrad"}
    assert all(same(after[name], before[name]) for name in after)


def test_drop_slots_leaves_the_model(model: Path) -> None:
    """`--slots` takes every slot and no variable, and never the global step."""
    before = models.read(model)
    changing.drop(str(model), slots=True)
    assert set(models.read(model)) == {name for name in before if not name.endswith("/Adagrad")}


def test_what_cannot_be_dropped(model: Path) -> None:
    """Nothing asked for, nothing matched, or nothing left is an error, and nothing is written."""
    before = models.snapshot(model.parent)
    for globs, error in (((), UsageError), (("nope",), UsageError), (("**",), RefusedError)):
        with pytest.raises(error):
            changing.drop(str(model), globs)
    assert models.snapshot(model.parent) == before


def test_a_partitioned_variable_is_dropped_whole(tmp_path: Path) -> None:
    """No row of a slice stays behind."""
    path = partitioned(tmp_path / "m", value(), ROWS)
    changing.drop(str(path), ["w"])
    with formats.open(str(path)) as checkpoint:
        assert list(checkpoint) == ["step"]
        assert len(checkpoint.rows) == 2  # type: ignore[attr-defined]


# -- partitions, byte orders and formats


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("donor", [ROWS, COLUMNS, EXPLICIT, None])
@pytest.mark.parametrize("recipient", [ROWS, COLUMNS, EXPLICIT, None])
def test_graft_between_partitions(tmp_path: Path, donor: Any, recipient: Any, big: bool) -> None:
    """A variable is read whole and written in the recipient's partition, also into another byte order."""
    for name, slices, seed, order in (("a", donor, 1, False), ("b", recipient, 2, big)):
        if slices is None:
            made = HandMade(big=order)
            made.add("w", value(seed))
            made.write(tmp_path / name)
        else:
            partitioned(tmp_path / name, value(seed), slices, order)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    with formats.open(b) as checkpoint:
        cut = checkpoint["w"].slices
    for _ in range(2):
        changing.graft(a, b, match=["w"])
    with formats.open(b) as checkpoint:
        assert same(checkpoint.read("w"), value(1))
        assert checkpoint["w"].slices == cut
    stood = models.snapshot(tmp_path)
    changing.graft(a, b, match=["w"])
    assert models.snapshot(tmp_path) == stood  # equal already: nothing is written


def test_strings_change_their_byte_order(tmp_path: Path) -> None:
    """Strings are decoded and written again, since their lengths and checksums have an order too."""
    for name, big, text in (("a", False, b"new"), ("b", True, b"old text")):
        made = HandMade(big=big)
        made.add("s", strings(text, b""))
        made.write(tmp_path / name)
    changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), match=["s"])
    assert models.read(tmp_path / "b")["s"].tolist() == [b"new", b""]


def test_add(tmp_path: Path) -> None:
    """`--add` brings what the recipient lacks, partitions included; without it that is an error that says so."""
    partitioned(tmp_path / "a", value(), ROWS)
    models.write(tmp_path / "b", 1)
    before = models.read(tmp_path / "b")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    with pytest.raises(RefusedError, match=r"no variable w.*--add"):
        changing.graft(a, b, match=["w"])
    report = changing.graft(a, b, match=["w"], add=True)
    assert [(row["name"], row["action"], row["bytes"]) for row in report.changed] == [("w", "added", 48)]
    after = models.read(tmp_path / "b")
    assert same(after.pop("w"), value())
    assert models.equal(after, before)
    with formats.open(b) as checkpoint:
        assert checkpoint["w"].slices == tuple(ROWS)


@pytest.mark.parametrize("formats_", [("v1", "bundle"), ("bundle", "v1"), ("v1", "v1")])
def test_graft_between_formats(tmp_path: Path, formats_: tuple[str, str]) -> None:
    """V1 into V2 and back: the chosen layers are the donor's, all else stays; a second time nothing is written."""
    arrays = []
    for name, seed, kind in (("a", 1, formats_[0]), ("b", 2, formats_[1])):
        arrays.append(models.write(tmp_path / f"{name}2", seed))
        producing.convert(str(tmp_path / f"{name}2"), str(tmp_path / name), to=kind)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    changing.graft(a, b, layers="0-1")
    assert models.equal(models.read(tmp_path / "b"), models.grafted(arrays[1], arrays[0], (0, 1)))
    stood = models.snapshot(tmp_path)
    changing.graft(a, b, layers="0-1")
    assert models.snapshot(tmp_path) == stood
    with pytest.raises(RefusedError, match="--link needs two TensorFlow V2"):
        changing.graft(a, b, layers="0", link=True)


V1_DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "int64", "float16", "float32", "float64", "complex64",
             "complex128")  # fmt: skip


@quickly
@given(arrays=checkpoints(V1_DTYPES))
def test_convert_there_and_back(tmp_path: Path, arrays: Arrays) -> None:
    """V2 to V1 to V2 gives the first bytes again, whatever the names and values."""
    for name in ("a", "b", "c"):
        for path in tmp_path.glob(f"{name}*"):
            path.unlink()
    formats.write(str(tmp_path / "a"), arrays, sync=False)
    producing.convert(str(tmp_path / "a"), str(tmp_path / "b"), to="v1", sync=False)
    producing.convert(str(tmp_path / "b"), str(tmp_path / "c"), sync=False)
    for end in (".index", ".data-00000-of-00001"):
        assert Path(f"{tmp_path}/a{end}").read_bytes() == Path(f"{tmp_path}/c{end}").read_bytes()
    one, other = models.read(tmp_path / "a"), models.read(tmp_path / "b")
    assert one.keys() == other.keys()
    assert all(same(one[name], other[name]) for name in one)


def test_convert_refuses_what_v1_cannot_hold(tmp_path: Path) -> None:
    """All variables that do not fit are named at once, and nothing is written."""
    import ml_dtypes

    arrays = {"a": np.zeros(2, ml_dtypes.bfloat16), "b": np.zeros(2, np.uint32), "c": np.zeros(2, np.float32)}
    formats.write(str(tmp_path / "m"), arrays)
    with pytest.raises(CkptSurgeonError) as raised:
        producing.convert(str(tmp_path / "m"), str(tmp_path / "out"), to="v1")
    assert ["bfloat16" in line or "uint32" in line for line in raised.value.lines] == [True, True]
    assert not (tmp_path / "out").exists()


def test_unpartition(tmp_path: Path) -> None:
    """`--unpartition` writes whole variables in either format."""
    path = partitioned(tmp_path / "m", value(), COLUMNS)
    for kind in ("bundle", "v1"):
        out = tmp_path / kind
        producing.convert(str(path), str(out), to=kind, unpartition=True)
        with formats.open(str(out)) as checkpoint:
            assert checkpoint["w"].slices is None
            assert same(checkpoint.read("w"), value())


@pytest.mark.parametrize("to", ["bundle", "v1"])
def test_partitions_survive_a_conversion(tmp_path: Path, to: str) -> None:
    """Slices stay as they are cut in both formats."""
    path = partitioned(tmp_path / "m", value(), ROWS)
    producing.convert(str(path), str(tmp_path / "v1"), to="v1")
    producing.convert(str(tmp_path / "v1"), str(tmp_path / "out"), to=to)
    with formats.open(str(tmp_path / "out")) as checkpoint:
        assert checkpoint["w"].slices == tuple(ROWS)
        assert same(checkpoint.read("w"), value())


# -- cp


def test_cp_is_byte_for_byte(tmp_path: Path) -> None:
    """Every file is the same, several shards and the graph file too; the folder gets a relative state file."""
    path = partitioned(tmp_path / "m", value(), ROWS)
    Path(f"{path}.meta").write_bytes(b"graph")
    (tmp_path / "to").mkdir()
    producing.cp(str(path), str(tmp_path / "to" / "n"))
    for file in tmp_path.glob("m.*"):
        assert (tmp_path / "to" / file.name.replace("m.", "n.", 1)).read_bytes() == file.read_bytes()
    assert len(list((tmp_path / "to").iterdir())) == len(list(tmp_path.glob("m.*"))) + 1
    assert (tmp_path / "to" / "checkpoint").read_text().startswith('model_checkpoint_path: "n"\n')
    moved = shutil.move(tmp_path / "to", tmp_path / "elsewhere")
    with formats.open(str(moved)) as checkpoint:
        assert same(checkpoint.read("w"), value())


def test_cp_refuses_damage_and_what_stands_there(model: Path) -> None:
    """A wrong checksum, an existing OUT, a missing folder: refused, and nothing new stands there."""
    out = model.parent / "out"
    models.write(out, 3)
    before = models.snapshot(model.parent)
    with pytest.raises(RefusedError, match="exists already"):
        producing.cp(str(model), str(out))
    with pytest.raises(NotFoundError, match="no such folder"):
        producing.cp(str(model), str(model.parent / "no" / "out"))
    assert models.snapshot(model.parent) == before
    producing.cp(str(model), str(out), force=True)
    assert models.equal(models.read(out), models.read(model))
    data = Path(f"{model}.data-00000-of-00001")
    data.write_bytes(b"\x7f" + data.read_bytes()[1:])
    with pytest.raises(DamagedError, match="wrong checksum"):
        producing.cp(str(model), str(model.parent / "third"))
    assert not list(model.parent.glob("third*"))


def saved_model(folder: Path) -> Path:
    """A folder that looks like a SavedModel."""
    (folder / "variables").mkdir(parents=True)
    (folder / "assets").mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "assets" / "words.txt").write_text("a\n")
    models.write(folder / "variables" / "variables", 1)
    return folder


def test_a_saved_model_is_written_as_a_folder(tmp_path: Path) -> None:
    """-o of a SavedModel is a folder with everything in it; --force exchanges an existing one."""
    source, out = saved_model(tmp_path / "sm"), tmp_path / "out"
    before = models.snapshot(source)
    for number in (1.0, 2.0):
        changing.set(str(source), "learning_rate", number, out=str(out), force=number > 1)
        assert models.read(out)["learning_rate"] == number
        found = models.snapshot(out)
        assert {name for name in found} == {name for name in before}
        for name in ("saved_model.pb", "assets/words.txt"):
            assert found[name][0] == before[name][0]
    assert models.snapshot(source) == before
    with pytest.raises(RefusedError, match="exists already"):
        changing.set(str(source), "learning_rate", 3.0, out=str(out))
    producing.cp(str(source), str(tmp_path / "copy"))
    assert {name: data for name, (data, _) in models.snapshot(tmp_path / "copy").items()} == {
        name: data for name, (data, _) in before.items()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "out", "sm"]


def test_a_saved_model_is_edited_in_place(tmp_path: Path) -> None:
    """Without -o only the variables change; everything else in the folder stays as it is."""
    folder = saved_model(tmp_path / "sm")
    before = models.snapshot(folder)
    changing.rename(str(folder), ["learning_rate=rate"], anyway=True)
    assert "rate" in models.read(folder)
    after = models.snapshot(folder)
    for name in ("saved_model.pb", "assets/words.txt"):
        assert after[name] == before[name]


def by_key(path: Path) -> Arrays:
    """All values by the keys under which they are stored: a name may be a shorter one's, once that is free."""
    with formats.open(str(path)) as checkpoint:
        return {variable.key.decode(): checkpoint.read(name) for name, variable in checkpoint.variables.items()}


@quickly
@given(arrays=checkpoints(), data=st.data())
def test_what_was_not_named_is_untouched(tmp_path: Path, arrays: Arrays, data: Any) -> None:
    """Whatever is renamed or dropped of a random checkpoint, the values of all others are the same bytes."""
    for path in tmp_path.glob("m*"):
        path.unlink()
    formats.write(str(tmp_path / "m"), arrays, sync=False)
    before, stored = models.read(tmp_path / "m"), by_key(tmp_path / "m")
    name = data.draw(st.sampled_from(sorted(before)))
    try:
        changing.rename(str(tmp_path / "m"), [f"{name}=somewhere/else"], sync=False)
    except CkptSurgeonError:
        assert "=" in name or "*" in name or "?" in name
        return
    after = by_key(tmp_path / "m")
    assert all(same(after[key], values) for key, values in stored.items() if key in after)
    assert len(after) == len(before)
    with formats.open(str(tmp_path / "m")) as checkpoint:
        assert checkpoint.oddities() == []
