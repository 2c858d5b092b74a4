"""How the variables of two checkpoints pair: by name, by layer and rest, by role; and what a rename makes of names."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import models
import numpy as np
import pytest
from handmade import HandMade
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import same

from ckptsurgeon import cli, formats, schemes
from ckptsurgeon.errors import CkptSurgeonError, RefusedError, UsageError
from ckptsurgeon.surgeon.maps import Rename
from ckptsurgeon.surgeon.naming import Pairs
from ckptsurgeon.surgeon.selection import Selection
from ckptsurgeon.verbs import changing

SHAPES = {"kernel": (3, 2), "bias": (2,)}
KERNELS = ("kernel", "_kernel", "Matrix", "weights", "w", "vars/0")
BIASES = ("bias", "Bias", "biases", "b", "vars/1")
SKFLOW = "dnn/layer{K}/Linear/**"


def write(path: Path, names: dict[str, str], seed: int) -> models.Arrays:
    """Write a checkpoint: name -> kind of the variable, a key of SHAPES, or any other word for a vector of four."""
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(size=SHAPES.get(kind, (4,))).astype(np.float32) for name, kind in names.items()}
    formats.write(str(path), arrays, sync=False)
    return arrays


def layers(pattern: str, count: int, kernel: str, bias: str) -> dict[str, str]:
    """The names of layers of a kernel and a bias, beside a step."""
    names = {"step": "other"}
    for number in range(count):
        head = pattern.replace("{_K}", f"_{number}" if number else "").replace("{K}", str(number))
        names |= {f"{head}/{kernel}": "kernel", f"{head}/{bias}": "bias"}
    return names


def check(path: Path, before: models.Arrays, donor: models.Arrays, pairs: dict[str, str]) -> None:
    """Recipient's names -> donor's: these hold the donor's values, and everything else what was there before."""
    assert models.equal(models.read(path), before | {mine: donor[theirs] for mine, theirs in pairs.items()})


@pytest.fixture
def a(tmp_path: Path) -> Path:
    """The donor's prefix."""
    return tmp_path / "a"


@pytest.fixture
def b(tmp_path: Path) -> Path:
    """The recipient's prefix."""
    return tmp_path / "b"


# -- pairs


def test_the_same_name_pairs(a: Path, b: Path) -> None:
    """Without schemes a name means itself, whatever the layers are called."""
    names = {"x/w": "kernel", "y/w": "kernel", "x/free": "other"}
    donor, before = write(a, names, 1), write(b, names, 2)
    changing.graft(str(a), str(b), match=["x/**"])
    check(b, before, donor, {"x/w": "x/w", "x/free": "x/free"})
    assert models.equal(models.read(a), donor)


def test_the_rest_of_a_name_pairs_within_a_layer(a: Path, b: Path) -> None:
    """Layers of other names pair by number, and their variables by what follows the layer, of whatever role."""
    rests = {"attention/w": "kernel", "mlp/w": "kernel", "scale": "other"}
    donor = write(a, {f"x/block{at}/{rest}": kind for at in (0, 1, 2) for rest, kind in rests.items()}, 1)
    before = write(b, {f"deep/y_{at}/{rest}": kind for at in (0, 1, 2) for rest, kind in rests.items()}, 2)
    options = {"donor_scheme": "x/block{K}/**", "recipient_scheme": "deep/y_{K}/**"}
    changing.graft(str(a), str(b), layers="1-", **options)  # type: ignore[arg-type]
    check(b, before, donor, {f"deep/y_{at}/{rest}": f"x/block{at}/{rest}" for at in (1, 2) for rest in rests})


@pytest.mark.parametrize("recipient", ["tower/dense_{K}", "tower/dense{_K}", "dense{_K}", "tower/{K}", "h{K}"])
@pytest.mark.parametrize("number", [0, 1, 11])
def test_roles_pair_between_spellings(a: Path, b: Path, recipient: str, number: int) -> None:
    """A matrix becomes a kernel, and one Bias another, in the layer of the same number alone."""
    donor = write(a, layers("dnn/layer{K}/Linear", 12, "Matrix", "Bias"), 1)
    before = write(b, layers(recipient, 12, "kernel", "bias"), 2)
    scheme = f"{recipient}/*"
    command = ["graft", str(a), str(b), "--donor-scheme", SKFLOW, "--recipient-scheme", scheme, "--layers", str(number)]
    assert cli.main([*command, "-q"]) == 0
    head = recipient.replace("{_K}", f"_{number}" if number else "").replace("{K}", str(number))
    source = f"dnn/layer{number}/Linear"
    check(b, before, donor, {f"{head}/kernel": f"{source}/Matrix", f"{head}/bias": f"{source}/Bias"})


@pytest.mark.parametrize(
    ("kernel", "bias"), [(kernel, "bias") for kernel in KERNELS] + [("w", each) for each in BIASES]
)
def test_every_spelling_of_a_role_pairs(a: Path, b: Path, kernel: str, bias: str) -> None:
    """Each known word for a kernel or a bias finds each, in either direction."""
    mine, theirs = layers("one/{K}", 2, kernel, bias), layers("two/{K}", 2, "Matrix", "b")
    for donor_names, recipient_names in ((mine, theirs), (theirs, mine)):
        donor, before = write(a, donor_names, 1), write(b, recipient_names, 2)
        heads = [next(iter(set(names) - {"step"}))[:4] + "{K}/**" for names in (donor_names, recipient_names)]
        changing.graft(str(a), str(b), layers="1", donor_scheme=heads[0], recipient_scheme=heads[1])
        expected = dict(zip(list(recipient_names)[3:], list(donor_names)[3:], strict=True))
        check(b, before, donor, expected)


def test_the_recipients_scheme_is_found_from_its_names(a: Path, b: Path) -> None:
    """Where each side's names tell their scheme, layers pair without any option."""
    donor = write(a, layers("dnn/layer{K}/Linear", 3, "Matrix", "Bias"), 1)
    before = write(b, layers("dnn/hiddenlayer_{K}", 3, "kernel", "bias"), 2)
    changing.graft(str(a), str(b), layers="2")
    pairs = {"dnn/hiddenlayer_2/kernel": "dnn/layer2/Linear/Matrix", "dnn/hiddenlayer_2/bias": "dnn/layer2/Linear/Bias"}
    check(b, before, donor, pairs)


def test_one_scheme_is_for_both(a: Path, b: Path) -> None:
    """--scheme names the layers of donor and recipient; with one for each side it is refused."""
    donor, before = write(a, layers("t/{K}", 2, "w", "b"), 1), write(b, layers("t/{K}", 2, "kernel", "b"), 2)
    changing.graft(str(a), str(b), layers="0", scheme="t/{K}/**")
    check(b, before, donor, {"t/0/kernel": "t/0/w", "t/0/b": "t/0/b"})
    with pytest.raises(UsageError, match="--scheme applies to both"):
        changing.graft(str(a), str(b), layers="0", scheme="t/{K}/**", recipient_scheme="t/{K}/**")


def test_a_recipients_scheme_decides_over_a_name(a: Path, b: Path) -> None:
    """Whoever says how the recipient names its layers means these, not a variable that happens to be called alike."""
    donor = write(a, layers("x/{K}", 2, "w", "b"), 1)
    before = write(b, layers("x/{K}", 2, "w", "b") | layers("y/{K}", 2, "w", "b"), 2)
    changing.graft(str(a), str(b), layers="0", donor_scheme="x/{K}/**", recipient_scheme="y/{K}/**")
    check(b, before, donor, {"y/0/w": "x/0/w", "y/0/b": "x/0/b"})


def test_schemes_pair_what_is_selected_by_name(a: Path, b: Path) -> None:
    """Schemes hold for --match too; what belongs to no layer pairs by its name."""
    donor = write(a, layers("x/{K}", 2, "w", "b") | {"head/w": "kernel"}, 1)
    before = write(b, layers("y/{K}", 2, "kernel", "bias") | {"head/w": "kernel"}, 2)
    options = {"donor_scheme": "x/{K}/**", "recipient_scheme": "y/{K}/**"}
    changing.graft(str(a), str(b), match=["x/1/w", "head/*"], **options)  # type: ignore[arg-type]
    check(b, before, donor, {"y/1/kernel": "x/1/w", "head/w": "head/w"})
    before = models.read(b)
    changing.graft(str(a), str(b), layers="0", match=["head/*"], **options)  # type: ignore[arg-type]
    check(b, before, donor, {"y/0/kernel": "x/0/w", "y/0/bias": "x/0/b"})


def test_a_wildcard_before_the_number_is_no_part_of_the_rest(a: Path, b: Path) -> None:
    """Layer 0 of {_K} has the same rests as all others, wherever in the name its number would stand."""
    names = {f"{head}/{rest}": "other" for head in ("t/dense", "t/dense_1") for rest in ("scale", "shift")}
    longer = {name.replace("t/", "quite/long/"): kind for name, kind in names.items()}
    donor, before = write(a, names, 1), write(b, longer, 2)
    changing.graft(str(a), str(b), layers="all", donor_scheme="*/dense{_K}/*", recipient_scheme="**/dense{_K}/*")
    check(b, before, donor, {name.replace("t/", "quite/long/"): name for name in names})


def test_slots_are_nobodys_mates(a: Path, b: Path) -> None:
    """Slots neither pair nor stand in the way; --slots copy brings them by their own pairs."""
    donor = write(a, {"x/0/w": "kernel", "x/0/w/Adam": "kernel", "x/0/w/Adam_1": "kernel"}, 1)
    before = write(b, {"y/0/kernel": "kernel", "y/0/kernel/Adam": "kernel", "y/0/kernel/Adam_1": "kernel"}, 2)
    options = {"donor_scheme": "x/{K}/**", "recipient_scheme": "y/{K}/**"}
    changing.graft(str(a), str(b), layers="0", **options)  # type: ignore[arg-type]
    check(b, before, donor, {"y/0/kernel": "x/0/w"})
    changing.graft(str(a), str(b), layers="0", slots="copy", **options)  # type: ignore[arg-type]
    check(b, before, donor, {f"y/0/kernel{end}": f"x/0/w{end}" for end in ("", "/Adam", "/Adam_1")})


def test_a_report_names_both(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json gives the recipient's name and, as `from`, the donor's; a dry run writes nothing."""
    write(a, layers("x/{K}", 1, "w", "b"), 1)
    write(b, layers("y/{K}", 1, "kernel", "bias"), 2)
    before = models.snapshot(a.parent)
    options = ["--donor-scheme", "x/{K}/*", "--recipient-scheme", "y/{K}/*", "--layers", "all", "--dry-run", "--json"]
    assert cli.main(["graft", str(a), str(b), *options]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["name"], row["from"], row["action"]) for row in rows] == [
        ("y/0/bias", "x/0/b", "grafted"),
        ("y/0/kernel", "x/0/w", "grafted"),
    ]
    assert models.snapshot(a.parent) == before


def test_partitions_and_byte_orders_do_not_matter_to_names(a: Path, b: Path) -> None:
    """A partitioned variable of a big-endian checkpoint takes a whole one of another name."""
    donor = write(a, layers("x/{K}", 2, "w", "b"), 1)
    made = HandMade(2, big=True)
    made.add_sliced("y/1/kernel", np.zeros((3, 2), np.float32), [((0, 2), (0, -1)), ((2, 1), (0, -1))])
    made.add("y/1/bias", np.ones(2, np.float32))
    made.write(b)
    before = models.read(b)
    changing.graft(str(a), str(b), layers="1", donor_scheme="x/{K}/*", recipient_scheme="y/{K}/*")
    check(b, before, donor, {"y/1/kernel": "x/1/w", "y/1/bias": "x/1/b"})


def test_layers_and_slots_are_looked_up_once(a: Path, b: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graft of fifty layers asks for slots and layers as often as one of two."""
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        return lambda *arguments: calls.append(name) or function(*arguments)

    slots = counted("slots", schemes.slots)
    monkeypatch.setattr(schemes, "slots", slots)
    monkeypatch.setattr("ckptsurgeon.schemes.optimizers.slots", slots)
    monkeypatch.setattr(schemes.Scheme, "layers", counted("layers", schemes.Scheme.layers))
    counts = []
    for count in (2, 50):
        write(a, layers("x/{K}", count, "w", "b"), 1)
        write(b, layers("y/{K}", count, "kernel", "bias"), 2)
        calls.clear()
        report = changing.graft(str(a), str(b), layers="all", donor_scheme="x/{K}/*", recipient_scheme="y/{K}/*")
        assert len(report.changed) == 2 * count
        counts.append(sorted(calls))
    assert counts[0] == counts[1] != []


quickly = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quickly
@given(data=st.data())
def test_pairs_are_one_to_one(tmp_path: Path, data: st.DataObject) -> None:
    """In any two layers no two variables of the donor get one of the recipient, and equal rests find each other."""
    rests = st.lists(st.sampled_from([*KERNELS, *BIASES, "gamma", "in/kernel", "out/kernel"]), min_size=1, unique=True)
    mine, theirs = data.draw(rests), data.draw(rests)
    write(tmp_path / "a", {f"x/3/{rest}": "other" for rest in mine}, 1)
    write(tmp_path / "b", {f"y/3/{rest}": "other" for rest in theirs}, 2)
    with formats.open(str(tmp_path / "a")) as donor, formats.open(str(tmp_path / "b")) as recipient:
        pairs = Pairs(donor, recipient, Selection(match=["**"], scheme="x/{K}/**"), "y/{K}/**")
        found = {}
        for rest in mine:
            with contextlib.suppress(RefusedError):
                target = pairs.target(donor[f"x/3/{rest}"])
                if target is not None:
                    found[rest] = target.name.removeprefix("y/3/")
    assert len(set(found.values())) == len(found)
    assert {rest: found.get(rest) for rest in mine if rest in theirs} == {rest: rest for rest in mine if rest in theirs}


# -- by place, in containers that number their layers themselves

Shapes = dict[str, tuple[int, ...]]


def numbered(path: Path, weights: Shapes) -> models.Arrays:
    """Write the weights of one layer as Keras 3 does: `<group in the layer>/<number>` -> shape."""
    arrays = {f"layers/own/{name}": np.random.default_rng(1).random(shape) for name, shape in weights.items()}
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file.require_group(name.rpartition("/")[0]).attrs["name"] = name.split("/")[-3]
            file[name] = values
    return arrays


def listed(path: Path, weights: Shapes) -> models.Arrays:
    """Write the weights of one layer as Keras 2 does, in this order."""
    arrays = {f"lstm_7/{name}": np.random.default_rng(2).random(shape) for name, shape in weights.items()}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["lstm_7"]
        file.create_group("lstm_7").attrs["weight_names"] = list(weights)
        for name, values in arrays.items():
            file[name] = values
    return arrays


PLACED: list[tuple[Shapes, list[str]]] = [
    # Three of other names, as an LSTM's: the second is no bias, whatever it is of two.
    ({"z:0": (2, 8), "y:0": (4, 8), "x:0": (8,)}, ["z:0", "y:0", "x:0"]),
    ({"kernel:0": (4, 4), "recurrent_kernel:0": (4, 4), "bias:0": (4,)}, ["kernel:0", "recurrent_kernel:0", "bias:0"]),
    ({"z:0": (4,), "y:0": (4,), "x:0": (4,)}, ["z:0", "y:0", "x:0"]),
    # Two of one shape in another order: roles win where both are told, order where they are not.
    ({"bias:0": (3,), "kernel:0": (3,)}, ["kernel:0", "bias:0"]),
    ({"z:0": (3,), "kernel:0": (3,)}, ["kernel:0", "z:0"]),
    ({"z:0": (3,), "y:0": (3,)}, ["z:0", "y:0"]),
]


@pytest.mark.parametrize(("weights", "order"), PLACED)
def test_what_no_name_tells_pairs_by_place(tmp_path: Path, weights: Shapes, order: list[str]) -> None:
    """The rest of a layer pairs in the containers' order, after roles, in either direction and with values of each."""
    a, b = tmp_path / "a.h5", tmp_path / "b.weights.h5"
    for old, new, is_back in ((a, b, False), (b, a, True)):
        theirs = listed(a, weights)
        mine = numbered(b, {f"vars/{number}": weights[name] for number, name in enumerate(order)})
        changing.graft(str(old), str(new), layers="0")
        with h5py.File(new) as file:
            for number, name in enumerate(order):
                new_name, source = f"layers/own/vars/{number}", theirs[f"lstm_7/{name}"]
                if is_back:
                    new_name, source = f"lstm_7/{name}", mine[new_name]
                assert same(file[new_name][()], source)


@pytest.mark.parametrize(
    ("theirs", "mine"),
    [
        ({"z:0": (3,), "y:0": (3,)}, {"vars/0": (3,)}),
        ({"z:0": (3,), "y:0": (4,)}, {"vars/0": (3,), "vars/1": (4,), "vars/2": (4,)}),
        ({"z:0": (3,), "y:0": (4,)}, {"vars/0": (4,), "vars/1": (3,)}),
        ({"z:0": (2, 3), "y:0": (3, 2)}, {"vars/0": (2, 3), "vars/1": (2, 3)}),
        # Groups of Keras 3 stand by the alphabet, of Keras 2 as they were made: neither order tells of equal shapes.
        ({"new/z:0": (3,), "end/z:0": (3,)}, {"end/vars/0": (3,), "new/vars/0": (3,)}),
    ],
)
def test_what_may_be_another_does_not_pair_by_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], theirs: Shapes, mine: Shapes
) -> None:
    """Other counts, shapes that do not agree one by one, equal shapes in groups of unlike order: refused."""
    listed(tmp_path / "a.h5", theirs)
    numbered(tmp_path / "b.weights.h5", mine)
    refused(tmp_path / "a.h5", tmp_path / "b.weights.h5", "--layers", "0")
    assert "layer 0: the variables of donor and recipient do not pair" in capsys.readouterr().err


def test_words_of_both_sides_tell_parts_of_a_layer(tmp_path: Path) -> None:
    """Of two kernels of one shape the one pairs whose group is called alike, in whatever order they stand."""
    theirs = listed(tmp_path / "a.h5", {f"lstm_7/{way}_lstm_7/lstm_cell/kernel:0": (3, 3) for way in ("for", "back")})
    with h5py.File(tmp_path / "b.weights.h5", "w") as file:
        for way in ("back", "for"):
            group = file.create_group(f"layers/bidirectional/{way}_layer/dense").create_group("vars")
            group["0"] = np.zeros((3, 3))
    changing.graft(str(tmp_path / "a.h5"), str(tmp_path / "b.weights.h5"), layers="0")
    with h5py.File(tmp_path / "b.weights.h5") as file:
        for way in ("back", "for"):
            values = file[f"layers/bidirectional/{way}_layer/dense/vars/0"][()]
            assert same(values, theirs[f"lstm_7/lstm_7/{way}_lstm_7/lstm_cell/kernel:0"])


@pytest.mark.parametrize(("names", "pairs"), [(("dense_2", "dense_3"), True), (("dense_3", "dense_4"), False)])
def test_names_of_parts_pair_if_all_are_alike(tmp_path: Path, names: tuple[str, str], pairs: bool) -> None:
    """Parts of a layer pair by the names that a program gave them; but counters that overlap by chance tell nothing."""
    theirs = listed(tmp_path / "a.h5", {f"m/{name}/kernel:0": (3, 3) for name in ("dense_3", "dense_2")})
    with h5py.File(tmp_path / "b.weights.h5", "w") as file:
        for group, name in zip(("dense", "dense_1"), names, strict=True):
            part = file.create_group(f"layers/sequential/layers/{group}").create_group("vars")
            part.attrs["name"], part["0"] = name, np.zeros((3, 3))
    if not pairs:
        refused(tmp_path / "a.h5", tmp_path / "b.weights.h5", "--layers", "0")
        return
    changing.graft(str(tmp_path / "a.h5"), str(tmp_path / "b.weights.h5"), layers="0")
    with h5py.File(tmp_path / "b.weights.h5") as file:
        for group, name in zip(("dense", "dense_1"), names, strict=True):
            values = file[f"layers/sequential/layers/{group}/vars/0"][()]
            assert same(values, theirs[f"lstm_7/m/{name}/kernel:0"])


def test_a_number_in_vars_tells_a_role(a: Path, tmp_path: Path) -> None:
    """What a container calls vars/0 and vars/1 of two pairs with a kernel and a bias of any container."""
    theirs = numbered(tmp_path / "a.weights.h5", {"vars/0": (3, 2), "vars/1": (2,)})
    before = {"x/0/b": np.zeros(2), "x/0/w": np.zeros((3, 2))}
    formats.write(str(a), before, sync=False)
    changing.graft(str(tmp_path / "a.weights.h5"), str(a), layers="0", recipient_scheme="x/{K}/*")
    roles = {"x/0/w": theirs["layers/own/vars/0"], "x/0/b": theirs["layers/own/vars/1"]}
    assert models.equal(models.read(a), roles)


# -- refusals


def refused(a: Path, b: Path, *options: str) -> None:
    """A graft that must end with 2 and write nothing."""
    before = models.snapshot(a.parent)
    assert cli.main(["graft", str(a), str(b), *options]) == 2
    assert models.snapshot(a.parent) == before


SCHEMES = ("--donor-scheme", "x/{K}/**", "--recipient-scheme", "y/{K}/**", "--layers", "0")


@pytest.mark.parametrize(
    ("donor", "recipient", "shown"),
    [
        ({"w": "kernel", "gain": "other"}, {"kernel": "kernel", "loss": "other"}, ["x/0/gain", "y/0/loss"]),
        ({"one/w": "kernel", "two/w": "kernel"}, {"kernel": "kernel"}, ["x/0/one/w", "x/0/two/w", "y/0/kernel"]),
        ({"w": "kernel"}, {"one/w": "kernel", "two/w": "kernel"}, ["x/0/w", "y/0/one/w", "y/0/two/w"]),
        ({"w": "kernel"}, {"kernel": "kernel", "bias": "bias"}, ["y/0/bias"]),
        ({"w": "kernel", "Matrix": "kernel"}, {"kernel": "kernel", "weights": "kernel"}, ["x/0/w", "y/0/weights"]),
    ],
)
def test_layers_that_do_not_pair_are_refused(
    a: Path, b: Path, capsys: pytest.CaptureFixture[str], donor: Any, recipient: Any, shown: list[str]
) -> None:
    """Other rests without a role, two of one role, one too many on either side: exit 2, and both sides are listed."""
    write(a, {f"x/0/{rest}": kind for rest, kind in donor.items()}, 1)
    write(b, {f"y/0/{rest}": kind for rest, kind in recipient.items()}, 2)
    refused(a, b, *SCHEMES)
    error = capsys.readouterr().err
    assert "layer 0: the variables of donor and recipient do not pair" in error
    assert [name for name in shown if name not in error] == []
    refused(a, b, *SCHEMES, "--add")


def test_a_variable_too_many_in_the_donor_is_refused(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is named, with the way to leave it out, which then works; --add adds it under its own name."""
    donor = write(a, {"x/0/w": "kernel", "x/0/gain": "other"}, 1)
    before = write(b, {"y/0/kernel": "kernel"}, 2)
    refused(a, b, *SCHEMES)
    assert "no variable x/0/gain, which the donor has" in capsys.readouterr().err
    assert cli.main(["graft", str(a), str(b), *SCHEMES, "--exclude", "**/gain", "-q"]) == 0
    check(b, before, donor, {"y/0/kernel": "x/0/w"})
    assert cli.main(["graft", str(a), str(b), *SCHEMES, "--add", "-q"]) == 0
    check(b, before, donor, {"y/0/kernel": "x/0/w", "x/0/gain": "x/0/gain"})


def test_an_excluded_variable_keeps_no_other_from_pairing(a: Path, b: Path) -> None:
    """What does not pair and is not grafted does no harm, on either side; nor does it with --match."""
    donor = write(a, {"x/0/w": "kernel", "x/0/gain": "other"}, 1)
    before = write(b, {"y/0/kernel": "kernel", "y/0/loss": "other"}, 2)
    changing.graft(str(a), str(b), layers="0", exclude=["**/gain"], donor_scheme="x/{K}/*", recipient_scheme="y/{K}/*")
    check(b, before, donor, {"y/0/kernel": "x/0/w"})
    before = write(b, {"y/0/kernel": "kernel", "y/0/loss": "other"}, 2)
    changing.graft(str(a), str(b), match=["x/0/w"], donor_scheme="x/{K}/*", recipient_scheme="y/{K}/*")
    check(b, before, donor, {"y/0/kernel": "x/0/w"})


def test_a_layer_that_the_recipient_lacks_is_refused(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of its variables are named at once."""
    write(a, layers("x/{K}", 3, "w", "b"), 1)
    write(b, layers("y/{K}", 2, "w", "b"), 2)
    refused(a, b, *SCHEMES[:-1], "all")
    error = capsys.readouterr().err.splitlines()
    assert [line.split("no variable ")[1].split(",")[0] for line in error] == ["x/2/b", "x/2/w"]


def test_all_layers_that_do_not_pair_come_at_once(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each layer is a line, beside lines of what pairs and does not fit."""
    write(a, {"x/0/gain": "other", "x/1/gain": "other", "x/1/w": "kernel", "x/2/w": "kernel"}, 1)
    write(b, {"y/0/loss": "other", "y/1/loss": "other", "y/1/w": "kernel", "y/2/w": "bias"}, 2)
    refused(a, b, *SCHEMES[:-1], "all")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ", 2)[2].split(":")[0].split(" than")[0] for line in lines] == [
        "layer 0",
        "layer 1",
        "y/2/w has a different shape",
    ]


def test_an_added_variable_takes_no_name(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What --add would bring under the name of a variable of another layer is refused."""
    write(a, {"x/0/w": "kernel", "x/0/gain": "other"}, 1)
    write(b, {"y/0/w": "kernel", "x/0/gain": "other"}, 2)
    refused(a, b, *SCHEMES, "--add")
    assert "x/0/gain cannot be added: it is the name of another variable here" in capsys.readouterr().err


def test_slots_are_added_with_their_variable(a: Path, b: Path) -> None:
    """--add brings no slots; with --slots copy it does."""
    donor = write(a, {"x/0/w": "kernel", "x/0/w/Adam": "kernel"}, 1)
    for policy, ends in (("keep", [""]), ("drop", [""]), ("copy", ["", "/Adam"])):
        before = write(b, {"z": "other"}, 2)
        changing.graft(str(a), str(b), layers="0", scheme="x/{K}/**", add=True, slots=policy)
        check(b, before, donor, {f"x/0/w{end}": f"x/0/w{end}" for end in ends})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--donor-scheme", "z/{K}/**", "--layers", "0"), "no variable fits --donor-scheme z/{K}/**"),
        (("--recipient-scheme", "z/{K}/**", "--layers", "0"), "no variable fits --recipient-scheme z/{K}/**"),
        (("--recipient-scheme", "z/{K}/**", "--match", "x/0/*"), "no variable fits --recipient-scheme z/{K}/**"),
        (("--recipient-scheme", "skflo", "--layers", "0"), "--recipient-scheme skflo: no such scheme"),
        (("--donor-scheme", "{K}/{K}", "--layers", "0"), "--donor-scheme {K}/{K}: no such scheme"),
        (("--scheme", "z/{K}/*", "--layers", "0"), "no variable fits --scheme z/{K}/*"),
    ],
)
def test_a_scheme_that_fits_nothing_is_refused(
    a: Path, b: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    """A scheme that names no layer, or is none, is an error on either side, whatever is selected."""
    write(a, layers("x/{K}", 2, "w", "b"), 1)
    write(b, layers("x/{K}", 2, "w", "b"), 2)
    refused(a, b, *options)
    assert message in capsys.readouterr().err


def test_shapes_and_dtypes_that_differ_are_refused(a: Path, b: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Variables that pair and do not fit are all named, by the recipient's name and the donor's."""
    write(a, {"x/0/w": "kernel", "x/0/b": "bias"}, 1)
    arrays = {"y/0/kernel": np.zeros((2, 3), np.float32), "y/0/bias": np.zeros(2, np.float64)}
    formats.write(str(b), arrays, sync=False)
    refused(a, b, *SCHEMES)
    lines = capsys.readouterr().err.splitlines()
    assert ["y/0/bias has a different dtype than the donor's x/0/b" in lines[0], len(lines)] == [True, 2]
    assert "y/0/kernel has a different shape than the donor's x/0/w; expected [3, 2], found [2, 3]" in lines[1]


# -- renames


def renamed(text: str, names: list[str], regex: bool = False) -> dict[str, str]:
    """What a rename makes of names."""
    variables = {name: SimpleNamespace(name=name) for name in names}
    checkpoint: Any = SimpleNamespace(variables=variables, named=variables.get)
    return Rename(text, regex).apply(checkpoint)


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("a/b=c", ["a/b", "a/b/c", "xa/b"], {"a/b": "c"}),
        ("a*=c", ["a*", "ab"], {"a*": "c"}),
        ("a=b=c", ["a"], {"a": "b=c"}),
        ("a/=b/", ["a/x", "a/y/z", "ab/x", "x/a/y"], {"a/x": "b/x", "a/y/z": "b/y/z"}),
        ("a/=", ["a/x", "b/x"], {"a/x": "x"}),
        ("a.b/*=c/*", ["a.b/x", "axb/x", "a.b/x/y"], {"a.b/x": "c/x"}),
        ("**/w=top/**/kernel", ["a/b/w", "w", "a/w"], {"a/b/w": "top/a/b/kernel", "a/w": "top/a/kernel"}),
        ("a?/*=*?", ["ab/c", "a/c", "abc/d"], {"ab/c": "bc"}),
        ("l{K}/*=*/h{K}", ["l12/w", "l/w", "lx/w"], {"l12/w": "12/hw"}),
        ("d{_K}/*=h{K}/*", ["d/w", "d_3/w", "d_0/w", "d_03/w"], {"d/w": "h0/w", "d_3/w": "h3/w"}),
        ("h{K}/*=d{_K}/*", ["h0/w", "h3/w", "h10/w"], {"h0/w": "d/w", "h3/w": "d_3/w", "h10/w": "d_10/w"}),
        ("d{_K}=e{_K}", ["d", "d_2"], {"d": "e", "d_2": "e_2"}),
        ("{K}/{K}/x=x/{K}.{K}", ["1/2/x"], {"1/2/x": "x/1.2"}),
        ("a\n*=b*", ["a\nc\nd"], {"a\nc\nd": "bc\nd"}),
        ("a*=b*", ["none"], {}),
    ],
)
def test_what_a_rename_makes_of_names(text: str, names: list[str], expected: dict[str, str]) -> None:
    """A name wins over a glob, a prefix ends in a slash, and the n-th wildcard fills the n-th of the new name."""
    assert renamed(text, names) == expected


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        (r"(\w+)/(\w+)=\2/\1", ["a/b", "ab"], {"a/b": "b/a"}),
        (r"^l(?P<n>\d)=h\g<n>_", ["l1/l2", "xl1"], {"l1/l2": "h1_/l2"}),
        (r"l=m", ["l/l/l", "x"], {"l/l/l": "m/m/m"}),
        (r"/$=", ["a/", "a"], {"a/": "a"}),
    ],
)
def test_what_an_expression_makes_of_names(text: str, names: list[str], expected: dict[str, str]) -> None:
    """An expression may match anywhere, and replaces each of its matches."""
    assert renamed(text, names, regex=True) == expected


@pytest.mark.parametrize("text", ["a*=b", "a=b*", "l{K}=h", "d{_K}=h", "**=*?"])
def test_wildcards_that_do_not_fit_are_refused(text: str) -> None:
    """Each wildcard of the old name needs one in the new, and the reverse."""
    with pytest.raises(UsageError, match="different numbers of wildcards"):
        renamed(text, ["abc", "l1"])


@pytest.mark.parametrize(
    ("names", "renames", "problem"),
    [
        (["l1/w", "m1/w"], ["*1/w=x*"], None),
        (["l1/w", "m1/w"], ["l1/=x/", "m1/=x/"], "l1/w and m1/w would both be x/w"),
        (["a", "b", "c"], ["a=b", "b=c"], "b and c would both be c"),
        (["a", "b", "c"], ["a=b", "b=c", "c=a"], None),
        (["a", "b/x"], ["a=b/x", "b/=c/"], None),
        (["a", "ab"], ["a*=b*", "ab=c"], "ab would get two names: bb and c"),
        (["l1", "l01"], ["l{K}=h{_K}"], None),
        (["l0", "l00"], ["l{K}=h{_K}"], "l0 and l00 would both be h"),
        (["w", "w/Adam", "v/Adam"], ["w=v"], "v/Adam and w/Adam would both be v/Adam"),
    ],
)
def test_collisions(tmp_path: Path, names: list[str], renames: list[str], problem: str | None) -> None:
    """Names may be exchanged in a circle; two variables, slots included, never get one name."""
    before = write(tmp_path / "m", dict.fromkeys(names, "other"), 1)
    stood = models.snapshot(tmp_path)
    if problem is not None:
        with pytest.raises(CkptSurgeonError) as raised:
            changing.rename(str(tmp_path / "m"), renames)
        assert problem in str(raised.value)
        assert models.snapshot(tmp_path) == stood
    else:
        report = changing.rename(str(tmp_path / "m"), renames)
        after = models.read(tmp_path / "m")
        new = {str(row["from"]): str(row["name"]) for row in report.changed}
        assert len(after) == len(before) == len(new | {name: name for name in before})
        assert all(same(after[new.get(name, name)], values) for name, values in before.items())
