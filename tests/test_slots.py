"""Slots by name: which variables they belong to, what is only likely, and what the verbs do about each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
from handmade import HandMade
from models import some
from models import write_as as write

from ckptsurgeon import formats, schemes
from ckptsurgeon.checkpoint import Variable
from ckptsurgeon.errors import RefusedError, UnsupportedError
from ckptsurgeon.formats.tensorflow import tensors
from ckptsurgeon.schemes.slot_names import NamedSlots, renamed_slot
from ckptsurgeon.verbs import changing, producing

KERNEL, BIAS = "net/dense/kernel", "net/dense/bias"
NET = {KERNEL: (4, 3), BIAS: (3,)}


def named(shapes: dict[str, tuple[int, ...]]) -> NamedSlots:
    """The slots among variables of these shapes."""
    return NamedSlots({name: Variable(name, name.encode(), "float32", shape, ()) for name, shape in shapes.items()})


def beside(pattern: str) -> dict[str, str]:
    """Slots with names of this form: slot -> variable."""
    return {pattern.replace("V", owner): owner for owner in NET}


@pytest.mark.parametrize(
    "pattern",
    [
        "V/Adam", "V/Adam_1", "V/RMSProp_2", "V/ExponentialMovingAverage", "V/LARSOptimizer", "V/AdaMax_1", "V/adam_m",
        "training/V/Adam_1", "OptimizeLoss/V/Momentum", "net/V/Adagrad", "a/b/c/V/Ftrl_1", "V/own", "x/V/own_1",
        "V_slot_v", "V_momentum_v", "x/V_slot_m", "training/Adam/V/m", "x/Nadam_2/V/v", "V/.OPTIMIZER_SLOT/opt/m",
        "V/t_0/Adam", "V/part_0/Adam", "V//part_1/Adam", "V/ing/V/part_0/Adam",
    ],
)  # fmt: skip
def test_slots_are_named_after_their_variables(pattern: str) -> None:
    """An optimizer's name, or any other below kernels and biases, in any scope, and where a partition cut it."""
    expected = beside(pattern)
    found = named({**NET, **{slot: NET[owner] for slot, owner in expected.items()}})
    assert (found.owners, found.candidates) == (expected, {})
    for slot, owner in expected.items():
        at = slot.index(owner)
        assert schemes.renamed_slot(slot, owner, f"new/{owner}").startswith(f"{slot[:at]}new/{owner}")


@pytest.mark.parametrize("scope", ["s", "training", "a/scope/longer/than/all"])
def test_a_partition_cuts_the_name_of_a_user_s_own_optimizer(scope: str) -> None:
    """TensorFlow keeps as many characters before the label as the scope has, and one."""
    whole = {owner: f"{scope}/{owner}/part_1/own"[len(f"{owner}/part_1/") :] for owner in NET}
    expected = {f"{owner}/{label}": owner for owner, label in whole.items()}
    found = named({**NET, **{slot: NET[owner] for slot, owner in expected.items()}})
    assert (found.owners, found.candidates) == (expected, {})


@pytest.mark.parametrize(
    ("pattern", "shape"), [("V_slot_vr", (4,)), ("V_slot_vc", (3,)), ("t/V/Adafactor", (4,)), ("V/Adafactor_1", (3,)),
                           ("V/Shampoo_1", (4, 4))]
)  # fmt: skip
def test_slots_of_other_shapes(pattern: str, shape: tuple[int, ...]) -> None:
    """Adafactor keeps one dimension less, Shampoo a matrix for each; no other optimizer keeps such."""
    slot = pattern.replace("V", KERNEL)
    assert named({**NET, slot: shape}).owners == {slot: KERNEL}
    assert not named({**NET, slot: (7,)}).owners
    assert not named({**NET, f"{KERNEL}/Adam": shape}).owners


def test_a_scope_is_told_from_a_path() -> None:
    """Of two readings of a name, that with the scope which explains most slots counts."""
    weights = {"w": (2,), "a/w": (2,)}
    assert named({**weights, "w/Adam": (2,), "a/w/Adam": (2,)}).owners == {"w/Adam": "w", "a/w/Adam": "a/w"}
    scoped = {"a/w/Adam": "w", "a/a/w/Adam": "a/w"}
    assert named({**weights, **dict.fromkeys(scoped, (2,)), "a/beta1_power": ()}).owners == scoped


def test_what_belongs_to_a_slot_follows_it() -> None:
    """An average without bias has two variables below it, which go where the average goes."""
    average = f"{KERNEL}/ExponentialMovingAverage"
    shapes = {**NET, average: (4, 3), f"{average}/biased": (4, 3), f"{average}/local_step": (), f"{BIAS}/biased": (3,)}
    found = named(shapes)
    assert found.owners == dict.fromkeys([average, f"{average}/biased", f"{average}/local_step"], KERNEL)
    assert not found.candidates


def test_unknown_names_below_one_kind_of_weights_are_not_proven() -> None:
    """A thing that kernels alone have may be a slot or not; masks, and names that weights have too, are none."""
    assert named({**NET, f"{KERNEL}/u": (4, 3)}).candidates == {f"{KERNEL}/u": KERNEL}
    assert named({**NET, "gone/Adam": (4, 3)}).candidates == {"gone/Adam": ""}
    for more in ({f"{KERNEL}/mask": (4, 3)}, {f"{KERNEL}/bias": (4, 3)}, {f"{KERNEL}/u": (9,)}):
        found = named({**NET, **more})
        assert (found.owners, found.candidates) == ({}, {})


def test_an_optimizer_s_scalars_stand_in_its_scope(tmp_path: Path) -> None:
    """`drop --slots` leaves nothing of an optimizer in a scope, and nothing of the model goes."""
    arrays = {name: some(*shape) for name, shape in NET.items()}
    own = {f"train/{name}/Adam{n}": some(*NET[name]) for name in NET for n in ("", "_1")}
    own |= {f"train/{name}": some() for name in ("beta1_power", "beta2_power", "learning_rate")}
    kept = {"train/global_step": some(), "train/temperature": some(), "learning_rate": some()}
    path = write(tmp_path / "m", {**arrays, **own, **kept})
    changing.drop(path, slots=True)
    assert models.read(Path(path)).keys() == {*arrays, *kept}


def test_scoped_slots_follow_their_variables(tmp_path: Path) -> None:
    """Rename takes them along, also where a partition cut the name; fill changes them."""
    cut = f"{KERNEL}/ernel/part_0/Adam"
    arrays = {KERNEL: some(4, 3), f"train/{KERNEL}/Adam": some(4, 3), cut: some(4, 3)}
    path = write(tmp_path / "m", arrays)
    changing.rename(path, ["net/dense/kernel=model/weights"])
    names = {"model/weights", "train/model/weights/Adam", "model/weights/ights/part_0/Adam"}
    assert models.read(Path(path)).keys() == names
    donor = write(tmp_path / "d", {"model/weights": some(4, 3, seed=2)})
    changing.graft(donor, path, match=["**"], slots="fill=0.5")
    assert all((models.read(Path(path))[name] == 0.5).all() for name in names - {"model/weights"})


@pytest.mark.parametrize("slots", ["copy", "drop", "fill=0"])
def test_likely_slots_are_refused_by_name(tmp_path: Path, slots: str) -> None:
    """Where evidence is missing, slots are not touched, and the candidates are listed in one line."""
    a, b = (write(tmp_path / name, {KERNEL: some(4, 3, seed=n), BIAS: some(3), f"{KERNEL}/u": some(4, 3, seed=n)})
            for n, name in enumerate("ab"))  # fmt: skip
    before = models.snapshot(tmp_path)
    with pytest.raises(RefusedError) as raised:
        changing.graft(a, b, match=[KERNEL], slots=slots)
    hint = "--slots keep leaves them unchanged"
    line = f"cannot tell which of the optimizer's variables are slots of {KERNEL}; found {KERNEL}/u; {hint}"
    assert raised.value.lines == [f"{path}: {line}" for path in (b, a)[: 1 + (slots == "copy")]]
    with pytest.raises(RefusedError, match=f"whether these variables are slots; found {KERNEL}/u; drop"):
        changing.drop(b, slots=True)
    assert models.snapshot(tmp_path) == before
    assert [row["name"] for row in changing.drop(b, [f"{KERNEL}/u"], slots=True).changed] == [f"{KERNEL}/u"]


def test_a_graft_that_overwrites_a_likely_slot_says_so(tmp_path: Path) -> None:
    """By layers or a glob it is written like a weight, with a warning; a map that names it is enough."""
    kernel = "dnn/layer0/kernel"
    a, b = (write(tmp_path / name, {kernel: some(4, 3, seed=n), f"{kernel}/u": some(4, 3, seed=n)})
            for n, name in enumerate("ab"))  # fmt: skip
    [warning] = changing.graft(a, b, layers="0", dry_run=True).warnings
    assert warning.startswith(f"{b}: {kernel}/u: grafted like weights, although")
    assert not changing.graft(a, b, layers="0", exclude=[f"{kernel}/u"], dry_run=True).warnings
    assert not changing.graft(a, b, maps=[f"{kernel}/u={kernel}/u"]).warnings


# -- a cast


@pytest.mark.parametrize("match", [[], ["**"], [f"{KERNEL}", "train/**"]])
def test_a_cast_leaves_hyper_parameters_and_slots(tmp_path: Path, match: list[str]) -> None:
    """Learning rates, powers, counters and slots keep their dtype; a pattern that means them alone casts them."""
    arrays = {KERNEL: some(4, 3), f"train/{KERNEL}/Adam": some(4, 3), "train/beta1_power": some(),
              "train/learning_rate": some(), "global_step": np.int64(70_000)}  # fmt: skip
    path = write(tmp_path / "m", arrays)
    changing.cast(path, "float16", match=match)
    dtypes = {name: values.dtype.name for name, values in models.read(Path(path)).items()}
    scalars = "float16" if len(match) > 1 else "float32"
    assert dtypes == {KERNEL: "float16", f"train/{KERNEL}/Adam": "float32", "train/beta1_power": scalars,
                      "train/learning_rate": scalars, "global_step": "int64"}  # fmt: skip


# -- slots of one partition


def partial(path: Path) -> tuple[str, Any]:
    """A bundle with a whole weight, and a slot of which one half is stored."""
    made, values = HandMade(), some(4, 3)
    made.add(KERNEL, values)
    made.add_sliced(f"{KERNEL}/ernel/part_0/Adam", values, [((0, 2), (0, -1))])
    return str(made.write(path)), values


def test_a_slot_of_one_partition_is_carried(tmp_path: Path) -> None:
    """It is listed, belongs to its weight, and stays the same bytes; what would need all of it is refused."""
    path, values = partial(tmp_path / "m")
    slot = f"{KERNEL}/ernel/part_0/Adam"
    with formats.open(path) as file:
        assert (file.nbytes(file[slot]), file[slot].is_whole, file[KERNEL].is_whole) == (24, False, True)
        assert schemes.slots(file) == {slot: KERNEL}
        assert file.oddities() == []
        with pytest.raises(UnsupportedError, match="only some of its slices are stored; expected 12 elements, found 6"):
            file.read(slot)
    before = models.snapshot(tmp_path)
    for refused in (
        lambda: producing.convert(path, str(tmp_path / "m.npz")),
        lambda: producing.convert(path, str(tmp_path / "m.safetensors"), dry_run=True),
        lambda: changing.cast(path, "float16", slots="copy"),
    ):
        with pytest.raises(RefusedError, match=f"only some slices of {slot} are stored"):
            refused()
    assert models.snapshot(tmp_path) == before
    copy = str(tmp_path / "copy")
    changing.set(path, KERNEL, 7, out=copy)
    changing.graft(copy, path, match=["**"], slots="copy")
    with formats.open(path) as file:
        [extent] = file[slot].extents
        assert b"".join(file.chunks(extent)) == values[:2].tobytes()
        assert (file.read(KERNEL) == 7).all()
    changing.drop(path, slots=True)
    assert models.read(Path(path)).keys() == {KERNEL}


def test_a_weight_that_lacks_a_slice_is_odd(tmp_path: Path) -> None:
    """Only slots are stored in part: for anything else `verify` tells it."""
    made = HandMade()
    made.add_sliced(KERNEL, some(4, 3), [((0, 2), (0, -1)), ((3, 1), (0, -1))])
    with formats.open(str(made.write(tmp_path / "m"))) as file:
        assert file.oddities() == [f"{KERNEL} lacks some of its slices"]


def test_slices_are_apart() -> None:
    """Rows and columns may be missing, in any order of the slices; overlaps and too many comparisons are damage."""
    rows = [((at, 1), (0, -1)) for at in range(0, 2000, 2)]
    assert not tensors.are_whole(rows[::-1], (2000, 3))
    assert not tensors.are_whole([((0, 2), (0, 1)), ((0, 2), (2, 1)), ((2, 1), (0, 3))], (4, 3))
    crowd = [((at % 2, 1), (at // 2, 1)) for at in range(2000)]
    for slices, shape in (([*rows, rows[7]], (2000, 3)), ([((0, 2), (0, 2)), ((1, 2), (1, 2))], (4, 3)),
                          ([*crowd, crowd[0]], (3, 1000))):  # fmt: skip
        with pytest.raises(tensors.DamagedError, match="slices of a variable overlap"):
            tensors.are_whole(slices, shape)


@pytest.mark.parametrize(
    ("slot", "owner", "new", "expected"),
    [
        ("w/Adam", "w", "v", "v/Adam"),
        ("w_train/w/Adam", "w", "v", "w_train/v/Adam"),
        ("w/w/Adam", "w", "v", "w/v/Adam"),
        ("training/w/Adam_1", "w", "a/b", "training/a/b/Adam_1"),
        ("q_slot_vr", "q", "k", "k_slot_vr"),
        ("other/Adam", "w", "v", "other/Adam"),
    ],
)
def test_a_slot_is_renamed_where_it_names_its_variable(slot: str, owner: str, new: str, expected: str) -> None:
    """Not where its scope begins with the same letters."""
    assert renamed_slot(slot, owner, new) == expected
