"""Graft with every option: what is asked for comes from the donor, and all else stays the same bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from handmade import HandMade
from models import some
from models import write_as as write

from ckptsurgeon import cli, formats
from ckptsurgeon.errors import CkptSurgeonError, RefusedError, UsageError
from ckptsurgeon.verbs import changing

FORMATS = ("bundle", "v1", "safetensors", "npz")
MATRIX, BIAS = "dnn/layer{}/Linear/Matrix", "dnn/layer{}/Linear/Bias"
ONTO_SKFLOW = ("layers.{K}.weight=dnn/layer{K}/Linear/Matrix.T", "layers.{K}.bias=dnn/layer{K}/Linear/Bias")

Arrays = dict[str, Any]


def dotted(seed: int, units: tuple[int, ...] = (4, 4, 5)) -> Arrays:
    """Layers as PyTorch names them, with matrices of [out, in]."""
    arrays: Arrays = {}
    for layer in range(len(units) - 1):
        arrays[f"layers.{layer}.weight"] = some(units[layer + 1], units[layer], seed=seed + layer)
        arrays[f"layers.{layer}.bias"] = some(units[layer + 1], seed=seed + 10 + layer)
    return arrays


def expect(path: str, before: Arrays, changed: Arrays) -> None:
    """The changed variables hold what they must; all others are the same bytes as before."""
    assert models.equal(models.read(Path(path)), {**before, **changed})


def rows(report: Any, *keys: str) -> list[tuple[Any, ...]]:
    """Of each changed variable these keys."""
    return [tuple(row[key] for key in keys) for row in report.changed]


@pytest.fixture
def a(tmp_path: Path) -> str:
    """The donor: a classifier with slots."""
    return write(tmp_path / "a", models.skflow_arrays(1))


@pytest.fixture
def b(tmp_path: Path) -> str:
    """The recipient: another one of the same form."""
    return write(tmp_path / "b", models.skflow_arrays(2))


A, B = models.skflow_arrays(1), models.skflow_arrays(2)


# -- maps


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([f"{BIAS.format(0)}={BIAS.format(0)}"], {BIAS.format(0): BIAS.format(0)}),
        (["logistic_regression/bias=dnn/layer2/Linear/Bias"], {BIAS.format(2): "logistic_regression/bias"}),
        ([f"{BIAS.format(0)}:0={BIAS.format(0)}:0"], {BIAS.format(0): BIAS.format(0)}),
        (["dnn/layer1/=dnn/layer1/"], {n.format(1): n.format(1) for n in (MATRIX, BIAS)}),
        (["dnn/layer*/Linear/Bias=dnn/layer*/Linear/Bias"], {BIAS.format(k): BIAS.format(k) for k in range(3)}),
        (["dnn/layer?/Linear/Bias=dnn/layer?/Linear/Bias"], {BIAS.format(k): BIAS.format(k) for k in range(3)}),
        (["**/Matrix=**/Matrix"], {MATRIX.format(k): MATRIX.format(k) for k in range(3)}),
        (["dnn/layer{K}/**=dnn/layer{K}/**"], {n.format(k): n.format(k) for k in range(3) for n in (MATRIX, BIAS)}),
        (
            [f"{BIAS.format(0)}={BIAS.format(0)}", f"{MATRIX.format(2)}={MATRIX.format(2)}"],
            {BIAS.format(0): BIAS.format(0), MATRIX.format(2): MATRIX.format(2)},
        ),
    ],
)
def test_maps(a: str, b: str, maps: list[str], expected: dict[str, str]) -> None:
    """A map by name, prefix, glob or number writes what it names, slots apart, and nothing else."""
    before = models.snapshot(Path(a).parent)
    changing.graft(a, b, maps=maps)
    expect(b, B, {new: A[old] for new, old in expected.items()})
    after = models.snapshot(Path(a).parent)
    assert {name: at for name, at in after.items() if name[0] == "a"} == {
        name: at for name, at in before.items() if name[0] == "a"
    }


def test_a_selection_limits_what_maps_do(a: str, b: str) -> None:
    """With layers, a map says where a selected variable goes; what it matches besides is left alone."""
    report = changing.graft(a, b, layers="0", maps=["dnn/layer*/Linear/Bias=dnn/layer*/Linear/Bias"])
    expect(b, B, {n.format(0): A[n.format(0)] for n in (MATRIX, BIAS)})
    assert len(report.changed) == 2


def test_the_second_of_two_equal_maps_adds_nothing(a: str, b: str) -> None:
    """Two maps that say the same of a variable write it once; both are used."""
    maps = [f"{BIAS.format(0)}={BIAS.format(0)}", "dnn/layer*/Linear/Bias=dnn/layer*/Linear/Bias"]
    report = changing.graft(a, b, maps=maps)
    assert len(report.changed) == 3
    maps = ["global_step=new", "global_*=new_*", "glob*=ne*", "global_step=new"]
    report = changing.graft(a, b, maps=maps[:1] + maps[3:], add=True)
    assert rows(report, "name", "action") == [("new", "added")]
    assert models.read(Path(b))["new"] == A["global_step"]


@pytest.mark.parametrize(
    ("maps", "error", "message"),
    [
        (["nothing=x"], UsageError, "--map nothing=x is never used"),
        ([f"{BIAS.format(0)}x=y"], UsageError, f"never used; did you mean {BIAS.format(0)}"),
        (["**/Adagrad=**/Adagrad"], UsageError, "only slots"),
        (["**/Bias/*=**/Bias/*", "global_step=global_step"], UsageError, "never used"),
        (["dnn/*/Linear/Bias=b"], UsageError, "different numbers of wildcards"),
        (["no equals sign"], UsageError, "A=B"),
        ([f"{BIAS.format(0)}=nothing"], RefusedError, "no variable nothing; --add adds it"),
        ([f"{BIAS.format(0)}={BIAS.format(0)}.T"], RefusedError, "it is not a matrix; expected two dimensions"),
        (["dnn/layer0/Linear/*=x"], UsageError, "wildcards"),
        ([f"{BIAS.format(0)}=x", f"{BIAS.format(1)}=x"], RefusedError, "no variable x"),
        ([f"{MATRIX.format(0)}={MATRIX.format(1)}"], RefusedError, "different shape"),
    ],
)
def test_a_map_that_cannot_be(a: str, b: str, maps: list[str], error: Any, message: str) -> None:
    """A map that is never used, does not fit or leads nowhere is an error that says so, and nothing is written."""
    before = models.snapshot(Path(a).parent)
    with pytest.raises(error, match=message.replace("(", r"\(")):
        changing.graft(a, b, maps=maps)
    assert models.snapshot(Path(a).parent) == before


def test_a_map_outside_the_selection_is_never_used(a: str, b: str) -> None:
    """A map that matches only what was not selected is an error, for it would be passed over in silence."""
    with pytest.raises(UsageError, match="never used"):
        changing.graft(a, b, layers="1", maps=["dnn/layer0/=dnn/layer1/"])


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("skip", ["error", "skip"])
def test_two_variables_onto_one(tmp_path: Path, add: bool, skip: str) -> None:
    """Two donors' variables that would become one are refused, also where it would be a new one."""
    a = write(tmp_path / "a", {"p": some(2, seed=1), "q": some(2, seed=2)})
    b = write(tmp_path / "b", {"x": some(2, seed=3)})
    target = "new" if add else "x"
    before = models.snapshot(tmp_path)
    with pytest.raises(RefusedError, match=f"p and q would both become {target}"):
        changing.graft(a, b, maps=[f"p={target}", f"q={target}"], add=add, on_mismatch=skip)
    assert models.snapshot(tmp_path) == before


def test_a_matrix_in_two_ways_is_refused(tmp_path: Path) -> None:
    """The same variable transposed and as it is cannot both become one."""
    a = write(tmp_path / "a", {"m": some(2, 2)})
    b = write(tmp_path / "b", {"m": some(2, 2, seed=1)})
    with pytest.raises(RefusedError, match="m and m would both become m"):
        changing.graft(a, b, maps=["m=m", "m=m.T"])


@pytest.mark.parametrize("order", [1, -1])
def test_what_is_skipped_does_not_hide_what_is_grafted(tmp_path: Path, order: int) -> None:
    """Where one of two candidates for a variable does not fit and is skipped, the other one is written."""
    a = write(tmp_path / "a", {"p": some(2, seed=1), "q": some(3, seed=2), "z": some(2, seed=4)})
    for good in ("p", "z"):
        b = write(tmp_path / f"b{good}", {"x": some(2, seed=3)})
        report = changing.graft(a, b, maps=[f"{good}=x", "q=x"][::order], on_mismatch="skip")
        assert set(rows(report, "from", "action")) == {(good, "grafted"), ("q", "skipped")}
        expect(b, {}, {"x": models.read(Path(a))[good]})


@pytest.mark.parametrize("to", FORMATS)
def test_impossible_names_are_not_added(tmp_path: Path, to: str) -> None:
    """A map onto no name at all is refused, in every format."""
    a = write(tmp_path / "a", {"p": some(2)})
    b = write(tmp_path / "b", {"x": some(2)}, to)
    before = models.snapshot(tmp_path)
    for name in ("", "\0x"):
        with pytest.raises(RefusedError, match="no variable can have the name"):
            changing.graft(a, b, maps=[f"p={name}"], add=True)
    assert models.snapshot(tmp_path) == before


def test_one_layer_onto_another_of_the_same_checkpoint(tmp_path: Path) -> None:
    """A checkpoint is its own donor only with maps; an exchange of two layers reads both as they were."""
    arrays = models.skflow_arrays(1, units=(4, 4, 4))
    path = write(tmp_path / "m", arrays)
    with pytest.raises(UsageError, match="one checkpoint"):
        changing.graft(path, f"{path}.index", layers="0")
    changing.graft(path, path, maps=["dnn/layer0/=dnn/layer1/", "dnn/layer1/=dnn/layer0/"])
    exchanged = {n.format(k): arrays[n.format(1 - k)] for k in range(2) for n in (MATRIX, BIAS)}
    expect(path, arrays, exchanged)
    with formats.open(path) as checkpoint:
        assert checkpoint.oddities() == []


@pytest.mark.parametrize("to", FORMATS)
def test_averages_onto_weights(tmp_path: Path, to: str) -> None:
    """In every format moving averages go onto their weights, also those that count as slots by their names."""
    arrays = {"w": some(2), "w/ExponentialMovingAverage": some(2, seed=1), "v": some(3), "averages/v": some(3, seed=2)}
    path = write(tmp_path / "m", arrays, to)
    changing.graft(path, path, maps=["averages/*=*", "*/ExponentialMovingAverage=*"])
    expect(path, arrays, {"w": arrays["w/ExponentialMovingAverage"], "v": arrays["averages/v"]})


# -- transposition


@pytest.mark.parametrize("donor", ["safetensors", "npz", "bundle"])
@pytest.mark.parametrize("recipient", FORMATS)
def test_pytorch_layers_onto_skflow_ones(tmp_path: Path, donor: str, recipient: str) -> None:
    """`.T` turns [out, in] into [in, out], between any formats, square matrices included."""
    source = dotted(5)
    a, b = write(tmp_path / "a", source, donor), write(tmp_path / "b", B, recipient)
    report = changing.graft(a, b, maps=ONTO_SKFLOW)
    changed = {MATRIX.format(k): source[f"layers.{k}.weight"].T for k in range(2)}
    changed |= {BIAS.format(k): source[f"layers.{k}.bias"] for k in range(2)}
    expect(b, B, changed)
    assert {row["from"] for row in report.changed} == set(source)
    assert all(row["cast_from"] is None for row in report.changed)


def test_a_transposed_matrix_comes_back(tmp_path: Path, a: str) -> None:
    """Out into PyTorch's layout and back again gives the first bytes."""
    other = write(tmp_path / "o", dotted(5), "safetensors")
    maps = ["dnn/layer{K}/Linear/Matrix=layers.{K}.weight.T", "dnn/layer{K}/Linear/Bias=layers.{K}.bias"]
    with pytest.raises(RefusedError, match=r"no variable layers\.2"):
        changing.graft(a, other, maps=maps)
    changing.graft(a, other, maps=maps, exclude=["dnn/layer2/**"], layers="all", scheme=None)
    back = write(tmp_path / "back", B)
    changing.graft(other, back, maps=ONTO_SKFLOW)
    expect(back, B, {n.format(k): A[n.format(k)] for k in range(2) for n in (MATRIX, BIAS)})


@pytest.mark.parametrize("add", [False, True])
def test_a_dotted_weight_onto_a_kernel_needs_the_transposition(tmp_path: Path, add: bool) -> None:
    """Even where shapes agree, as for a square matrix, and also where the kernel would be new."""
    a = write(tmp_path / "a", {"h.weight": some(4, 4), "h.bias": some(4)}, "safetensors")
    b = write(tmp_path / "b", {"n/kernel": some(4, 4, seed=1), "n/bias": some(4, seed=1)})
    before = models.snapshot(tmp_path)
    target = "m/kernel" if add else "n/kernel"
    with pytest.raises(RefusedError, match=rf"laid out differently.*--map h\.weight={target}\.T transposes it"):
        changing.graft(a, b, maps=[f"h.weight={target}", "h.bias=n/bias"], add=add)
    with pytest.raises(RefusedError, match="laid out differently"):
        changing.graft(b, a, maps=["n/kernel=h.weight"], on_mismatch="skip")
    assert models.snapshot(tmp_path) == before


def test_a_convolution_is_not_told_to_transpose(tmp_path: Path) -> None:
    """What has four dimensions cannot be transposed by `.T`, so no message says so."""
    a = write(tmp_path / "a", {"c.weight": some(2, 2, 2, 2)})
    b = write(tmp_path / "b", {"c/kernel": some(2, 2, 2, 2)})
    with pytest.raises(RefusedError, match="laid out differently") as raised:
        changing.graft(a, b, maps=["c.weight=c/kernel"])
    assert "transposes" not in str(raised.value)


def test_a_vector_called_weight_is_no_kernel(tmp_path: Path) -> None:
    """A dotted .weight of one dimension, as of a normalisation, goes onto any name."""
    a = write(tmp_path / "a", {"n.weight": some(4)})
    b = write(tmp_path / "b", {"n/gamma": some(4, seed=1)})
    changing.graft(a, b, maps=["n.weight=n/gamma"])
    expect(b, {}, {"n/gamma": some(4)})


# -- cast


@pytest.mark.parametrize("to", FORMATS)
def test_cast(tmp_path: Path, to: str) -> None:
    """Values are rounded to the recipient's dtype; only what was cast says from what."""
    source = {"x": some(3, dtype="float64"), "n": np.asarray([1, 2], np.int32), "same": some(2, seed=1)}
    before = {"x": some(3, seed=2), "n": np.zeros(2, np.float32), "same": some(2, seed=3), "kept": some(2)}
    a, b = write(tmp_path / "a", source), write(tmp_path / "b", before, to)
    with pytest.raises(CkptSurgeonError) as raised:
        changing.graft(a, b, match=["*"])
    assert [": --cast" in line or "--cast converts it" in line for line in raised.value.lines] == [True, True]
    report = changing.graft(a, b, match=["*"], cast=True)
    changed = {"x": source["x"].astype(np.float32), "n": source["n"].astype(np.float32), "same": source["same"]}
    expect(b, before, changed)
    assert dict(rows(report, "name", "cast_from")) == {"x": "float64", "n": "int32", "same": None}
    assert dict(rows(report, "name", "dtype"))["x"] == "float32"


@pytest.mark.parametrize(
    ("value", "dtype"), [(0.5, "int32"), (1e300, "float32"), (300, "int8"), (float("nan"), "int64"), (1e39, "float16")]
)
@pytest.mark.parametrize("to", FORMATS)
def test_a_value_that_does_not_fit_is_refused(tmp_path: Path, value: float, dtype: str, to: str) -> None:
    """A cast that would lose a value leaves the recipient as it was, with nothing beside it."""
    a = write(tmp_path / "a", {"x": np.asarray([1.0, value]), "y": some(2)})
    b = write(tmp_path / "b", {"x": np.zeros(2, dtype), "y": some(2, seed=1)}, to)
    before = models.snapshot(tmp_path)
    with pytest.raises(RefusedError, match="does not fit"):
        changing.graft(a, b, match=["*"], cast=True)
    assert models.snapshot(tmp_path) == before


def test_numbers_are_not_cast_to_strings(tmp_path: Path) -> None:
    """Strings and numbers stay apart, with --cast too, and no message offers it."""
    text = np.empty(2, object)
    text[:] = [b"1", b"2"]
    a, b = write(tmp_path / "a", {"x": text}), write(tmp_path / "b", {"x": some(2)})
    for donor, recipient in ((a, b), (b, a)):
        with pytest.raises(RefusedError, match="different dtype") as raised:
            changing.graft(donor, recipient, match=["x"], cast=True)
        assert "--cast" not in str(raised.value)


def test_cast_and_transposition_at_once(tmp_path: Path) -> None:
    """A matrix is transposed and rounded in one go."""
    source = some(3, 4, dtype="float64")
    a = write(tmp_path / "a", {"h.weight": source}, "npz")
    b = write(tmp_path / "b", {"n/kernel": some(4, 3)})
    report = changing.graft(a, b, maps=["h.weight=n/kernel.T"], cast=True)
    expect(b, {}, {"n/kernel": np.ascontiguousarray(source.T.astype(np.float32))})
    assert rows(report, "cast_from") == [("float64",)]


# -- mismatches


def mismatching(tmp_path: Path, to: str = "bundle") -> tuple[str, str, Arrays]:
    """Two checkpoints whose layers differ in every way that can be skipped."""
    donor = {
        **{f"dnn/layer0/{name}": some(2, seed=at) for at, name in enumerate(("only_a", "shape", "dtype", "good"))},
    }
    before = {
        "dnn/layer0/only_b": some(2, seed=11),
        "dnn/layer0/shape": some(3, seed=12),
        "dnn/layer0/dtype": some(2, seed=13, dtype="float64"),
        "dnn/layer0/good": some(2, seed=14),
        "other": some(2, seed=15),
    }
    return write(tmp_path / "a", donor), write(tmp_path / "b", before, to), before


@pytest.mark.parametrize("to", FORMATS)
def test_mismatches_are_skipped_with_reasons(tmp_path: Path, to: str) -> None:
    """What is missing on either side, or of another shape or dtype, is a row that says why; the rest is grafted."""
    a, b, before = mismatching(tmp_path, to)
    report = changing.graft(a, b, layers="0", on_mismatch="skip")
    found = rows(report, "name", "action", "reason")
    assert {name.rpartition("/")[2]: (action, reason) for name, action, reason in found} == {
        "only_a": ("skipped", "missing in the recipient"),
        "only_b": ("skipped", "missing in the donor"),
        "shape": ("skipped", "different shape than the donor's: [2]"),
        "dtype": ("skipped", "different dtype than the donor's: float32"),
        "good": ("grafted", None),
    }
    assert [row["bytes"] for row in report.changed if row["action"] == "skipped"] == [0] * 4
    expect(b, before, {"dnn/layer0/good": some(2, seed=3)})


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    """A line each, unused maps and mismatches together, and nothing is written."""
    a, b, _ = mismatching(tmp_path)
    before = models.snapshot(tmp_path)
    with pytest.raises(CkptSurgeonError) as raised:
        changing.graft(a, b, layers="0", maps=["nothing=x", "nowhere=y"])
    said = "\n".join(raised.value.lines)
    for part in ("only_a", "different shape", "different dtype", "nothing=x", "nowhere=y"):
        assert part in said
    assert len(raised.value.lines) == 5
    assert models.snapshot(tmp_path) == before


def test_a_variable_of_another_dtype_and_shape_has_two_problems(tmp_path: Path) -> None:
    """Both are told, so that --cast alone is not tried in vain; skipped it is one row."""
    a = write(tmp_path / "a", {"x": some(2), "y": some(2)})
    b = write(tmp_path / "b", {"x": some(3, dtype="float64"), "y": some(2)})
    with pytest.raises(CkptSurgeonError) as raised:
        changing.graft(a, b, match=["x"])
    assert ["dtype" in raised.value.lines[0], "shape" in raised.value.lines[1]] == [True, True]
    report = changing.graft(a, b, match=["x", "y"], on_mismatch="skip")
    assert [row["action"] for row in report.rows if row["name"] == "x"] == ["skipped"]


@pytest.mark.parametrize("to", FORMATS)
def test_where_all_is_skipped_nothing_is_written(tmp_path: Path, to: str) -> None:
    """The rows say so, and every file stays the very same one."""
    a, b, _ = mismatching(tmp_path, to)
    files = {path: path.stat() for path in tmp_path.iterdir()}
    report = changing.graft(a, b, match=["**/shape", "**/dtype"], on_mismatch="skip")
    assert {row["action"] for row in report.changed} == {"skipped"}
    for path, before in files.items():
        now = path.stat()
        assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_an_unknown_policy_is_refused(a: str, b: str) -> None:
    """Neither --on-mismatch nor --slots takes anything else."""
    with pytest.raises(UsageError, match="expected error or skip"):
        changing.graft(a, b, layers="0", on_mismatch="ignore")
    for slots in ("", "copy=1", "fill", "fill=x", "zero"):
        with pytest.raises(UsageError, match="invalid --slots"):
            changing.graft(a, b, layers="0", slots=slots)


# -- add


@pytest.mark.parametrize("to", FORMATS)
def test_add_with_maps(tmp_path: Path, to: str) -> None:
    """New names come from the map, transposed where it says so; an existing one is grafted, all else stays."""
    source = {"h.weight": some(3, 4), "h.bias": some(3, seed=1)}
    before = {"n/bias": some(3, seed=2), "kept": some(2)}
    a, b = write(tmp_path / "a", source, "safetensors"), write(tmp_path / "b", before, to)
    report = changing.graft(a, b, maps=["h.weight=n/kernel.T", "h.bias=n/bias"], add=True)
    assert rows(report, "name", "action", "from", "shape") == [
        ("n/bias", "grafted", "h.bias", [3]),
        ("n/kernel", "added", "h.weight", [4, 3]),
    ]
    expect(b, before, {"n/bias": source["h.bias"], "n/kernel": np.ascontiguousarray(source["h.weight"].T)})


@pytest.mark.parametrize("to", FORMATS)
def test_a_partitioned_variable_is_added_to_any_format(tmp_path: Path, to: str) -> None:
    """Formats that have partitions keep them, the others hold it whole."""
    values = some(4, 3)
    slices = [((0, 2), (0, -1)), ((2, 2), (0, -1))]
    made = HandMade(2)
    made.add_sliced("w", values, slices)
    made.write(tmp_path / "a")
    b = write(tmp_path / "b", {"x": some(2)}, to)
    changing.graft(str(tmp_path / "a"), b, match=["w"], add=True)
    expect(b, {"x": some(2)}, {"w": values})
    with formats.open(b) as checkpoint:
        assert checkpoint["w"].slices == (tuple(slices) if to in ("bundle", "v1") else None)


@pytest.mark.parametrize("slots", ["keep", "copy", "drop", "fill=0"])
def test_slots_of_added_variables(tmp_path: Path, slots: str) -> None:
    """An added variable brings its slots with `copy`, under its new name and in its new layout; else it has none."""
    source = {"d/kernel": some(3, 4), "d/kernel/Adam": some(3, 4, seed=1), "d/kernel/Adam_1": some(3, 4, seed=2)}
    before = {"x": some(2)}
    a, b = write(tmp_path / "a", source), write(tmp_path / "b", before)
    changing.graft(a, b, maps=["d/kernel=e.weight.T"], add=True, slots=slots)
    names = source if slots == "copy" else ["d/kernel"]
    expect(b, before, {name.replace("d/kernel", "e.weight"): np.ascontiguousarray(source[name].T) for name in names})


# -- slots


def slot_values(policy: str, layer: int, transposed: bool) -> Arrays:
    """What a recipient's slots of a layer must hold, where the policy changes them."""
    found: Arrays = {}
    for theirs, ours in ((f"layers.{layer}.weight", MATRIX), (f"layers.{layer}.bias", BIAS)):
        name = f"{ours.format(layer)}/Adagrad"
        if policy == "copy":
            values = DOTTED_SLOTS[f"{theirs}/Adagrad"]
            found[name] = values.T if transposed and theirs.endswith("weight") else values
        elif policy.startswith("fill"):
            found[name] = np.full_like(B[name], float(policy[5:]))
    return found


DOTTED_SLOTS = {**dotted(5), **{f"{name}/Adagrad": np.abs(values) for name, values in dotted(7).items()}}


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("slots", ["keep", "copy", "drop", "fill=0.5"])
def test_slots_through_maps(tmp_path: Path, to: str, slots: str) -> None:
    """Slots follow the policy alone, in every format, and are transposed with their matrix."""
    a, b = write(tmp_path / "a", DOTTED_SLOTS), write(tmp_path / "b", B, to)
    report = changing.graft(a, b, maps=ONTO_SKFLOW, slots=slots)
    changed = {MATRIX.format(k): DOTTED_SLOTS[f"layers.{k}.weight"].T for k in range(2)}
    changed |= {BIAS.format(k): DOTTED_SLOTS[f"layers.{k}.bias"] for k in range(2)}
    gone = {f"{name}/Adagrad" for name in changed} if slots == "drop" else set()
    for layer in range(2):
        changed |= slot_values(slots, layer, True)
    expect(b, {name: values for name, values in B.items() if name not in gone}, changed)
    word = {"keep": set(), "copy": {"grafted"}, "drop": {"dropped"}, "fill=0.5": {"filled"}}[slots]
    assert {row["action"] for row in report.changed if str(row["name"]).endswith("/Adagrad")} == word


def test_a_slot_that_one_side_lacks(tmp_path: Path) -> None:
    """`copy` refuses another optimizer's slots, or skips them with a reason; `keep` takes no notice."""
    x, y = some(2), some(2, seed=1)
    a = write(tmp_path / "a", {"x": x, "x/Momentum": y})
    before = {"x": y, "x/Adagrad": x}
    b = write(tmp_path / "b", before)
    with pytest.raises(CkptSurgeonError) as raised:
        changing.graft(a, b, match=["x"], slots="copy")
    assert ["x/Adagrad" in raised.value.lines[0], "x/Momentum" in raised.value.lines[1]] == [True, True]
    report = changing.graft(a, b, match=["x"], slots="copy", on_mismatch="skip")
    assert ("x/Adagrad", "only the recipient has this slot") in rows(report, "name", "reason")
    assert ("x/Momentum", "only the donor has this slot") in rows(report, "name", "reason")
    expect(b, before, {"x": x})


@pytest.mark.parametrize("policy", ["drop", "fill=0", "copy"])
def test_a_slot_cannot_be_a_map_s_target_and_follow_a_policy(a: str, b: str, policy: str) -> None:
    """Two wishes for one variable are refused, not decided in silence."""
    maps = [f"{MATRIX.format(0)}={MATRIX.format(0)}", f"{MATRIX.format(0)}={MATRIX.format(0)}/Adagrad"]
    before = models.snapshot(Path(a).parent)
    with pytest.raises(CkptSurgeonError, match=r"by --slots|would both become"):
        changing.graft(a, b, maps=maps, slots=policy)
    assert models.snapshot(Path(a).parent) == before


def test_a_number_that_no_slot_can_hold(tmp_path: Path) -> None:
    """`fill` is checked before anything is written."""
    arrays = {"x": some(2), "x/Adagrad": np.zeros(2, np.float16)}
    a, b = write(tmp_path / "a", {"x": some(2, seed=1)}), write(tmp_path / "b", arrays)
    before = models.snapshot(tmp_path)
    with pytest.raises(RefusedError, match="does not fit"):
        changing.graft(a, b, match=["x"], slots="fill=1e9")
    assert models.snapshot(tmp_path) == before


# -- link, dry runs, formats


def test_link_shares_nothing_that_is_computed(tmp_path: Path) -> None:
    """What is cast or transposed cannot be shared; a renamed variable can."""
    a = write(tmp_path / "a", {"x": some(2), "m": some(2, 3)})
    b = write(tmp_path / "b", {"x": some(2, dtype="float64"), "n": some(3, 2), "o": some(2, 3, seed=1)})
    before = models.snapshot(tmp_path)
    with pytest.raises(RefusedError, match="--link cannot share x, which is cast"):
        changing.graft(a, b, match=["x"], cast=True, link=True)
    with pytest.raises(RefusedError, match="--link cannot share n, which is cast or transposed"):
        changing.graft(a, b, maps=["m=n.T"], link=True)
    assert models.snapshot(tmp_path) == before
    report = changing.graft(a, b, maps=["m=o"], link=True)
    assert rows(report, "name", "bytes") == [("o", 0)]
    expect(b, {"x": some(2, dtype="float64"), "n": some(3, 2)}, {"o": some(2, 3)})


@pytest.mark.parametrize(
    "options",
    [
        ["--layers", "0-1"],
        ["--layers", "0", "--slots", "drop"],
        ["--layers", "0", "--slots", "fill=0.25", "-v"],
        ["--layers", "all", "--slots", "copy", "--exclude", "**/Matrix"],
        ["--match", "dnn/layer1/**", "--match", "global_step", "-v"],
        ["--map", "dnn/layer0/Linear/Matrix=new.weight.T", "--add"],
        ["--map", "global_step=learning_rate", "--cast"],
        ["--map", "dnn/layer0/Linear/Bias=dnn/layer1/Linear/Bias", "--on-mismatch", "skip"],
        ["--layers", "0", "--link"],
    ],
)
def test_a_dry_run_prints_what_happens(a: str, b: str, options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON of the dry run is the JSON of the run, line by line, and nothing was written before."""
    before = models.snapshot(Path(a).parent)
    assert cli.main(["graft", a, b, *options, "--json", "--dry-run"]) == 0
    planned = capsys.readouterr().out
    assert models.snapshot(Path(a).parent) == before
    assert cli.main(["graft", a, b, *options, "--json"]) == 0
    assert capsys.readouterr().out == planned
    keys = ["name", "action", "from", "dtype", "shape", "bytes", "cast_from", "reason"]
    lines = [json.loads(line) for line in planned.splitlines()]
    assert lines
    assert all(list(line) == keys for line in lines)
    after = models.read(Path(b))
    for line in lines:
        if line["action"] in ("grafted", "added"):
            assert list(after[line["name"]].shape) == line["shape"]
        assert (line["name"] in after) == (line["action"] != "dropped")


@pytest.mark.parametrize("donor", FORMATS)
@pytest.mark.parametrize("recipient", FORMATS)
def test_graft_between_all_formats(tmp_path: Path, donor: str, recipient: str) -> None:
    """Chosen layers are the donor's, all else the recipient's; a second time nothing is written; the donor never is."""
    a, b = write(tmp_path / "a", A, donor), write(tmp_path / "b", B, recipient)
    before = {name: at for name, at in models.snapshot(tmp_path).items() if name[0] == "a"}
    changing.graft(a, b, layers="0-1", slots="copy")
    changed = {name: A[name] for name in A if name.startswith(("dnn/layer0/", "dnn/layer1/"))}
    expect(b, B, changed)
    stood = models.snapshot(tmp_path)
    changing.graft(a, b, layers="0-1", slots="copy")
    assert models.snapshot(tmp_path) == stood
    assert {name: at for name, at in stood.items() if name[0] == "a"} == before
    with pytest.raises(RefusedError, match=r"-o names the donor|V2 checkpoint has this name"):
        changing.graft(a, b, layers="0", out=a, force=True)
    assert models.snapshot(tmp_path) == stood
