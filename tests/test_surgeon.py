"""The surgeon decides from metadata alone, and reports everything that is wrong at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import models
import numpy as np
import pytest

from ckptsurgeon import formats
from ckptsurgeon.errors import CkptSurgeonError, Problems, RefusedError, UsageError
from ckptsurgeon.formats.bundle.reading import Bundle
from ckptsurgeon.plan import Copy, Fill
from ckptsurgeon.surgeon import editing, grafting
from ckptsurgeon.surgeon.options import GraftOptions

Pair = tuple[Bundle, Bundle]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Two models that differ below their trunk: another number of features, so layer 0 does not fit."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2, features=6)
    with formats.open(str(tmp_path / "a")) as donor, formats.open(str(tmp_path / "b")) as recipient:
        yield donor, recipient


def test_a_graft_pairs_variables_by_name(pair: Pair) -> None:
    """The plan has one copy for each variable of the layers, in natural order, and no slot."""
    plan = grafting.graft(*pair, GraftOptions(layers="1-2"))
    assert [(change.action, change.variable.name) for change in plan.changes] == [
        ("grafted", f"dnn/layer{layer}/Linear/{role}") for layer in (1, 2) for role in ("Bias", "Matrix")
    ]
    assert all(isinstance(change.content, Copy) for change in plan.changes)


def test_planning_reads_no_data(pair: Pair, tmp_path: Path) -> None:
    """A plan is made from the indexes: it comes out the same where the data files are gone."""
    for path in tmp_path.glob("*.data-*"):
        path.unlink()
    assert len(grafting.graft(*pair, GraftOptions("copy", layers="1-2")).changes) == 8


def test_every_mismatch_is_reported(pair: Pair) -> None:
    """A shape that differs is refused with both shapes; a missing variable too, in the same go."""
    donor, recipient = pair
    with pytest.raises(
        RefusedError, match=r"layer0/Linear/Matrix has a different shape.*expected \[4, 4\], found \[6, 4\]"
    ):
        grafting.graft(donor, recipient, GraftOptions(layers="0"))
    del recipient.variables["dnn/layer2/Linear/Bias"]
    with pytest.raises(Problems) as caught:
        grafting.graft(donor, recipient, GraftOptions(layers="all"))
    assert [line.split(": ", 1)[1].split(";")[0] for line in caught.value.lines] == [
        "dnn/layer0/Linear/Matrix has a different shape than the donor's",
        "no variable dnn/layer2/Linear/Bias, which the donor has",
    ]


def test_a_dtype_that_differs_is_refused(tmp_path: Path) -> None:
    """Nothing is cast unasked."""
    formats.write(str(tmp_path / "a"), {"x": np.zeros(2, np.float32)}, sync=False)
    formats.write(str(tmp_path / "b"), {"x": np.zeros(2, np.float64)}, sync=False)
    with (
        formats.open(str(tmp_path / "a")) as donor,
        formats.open(str(tmp_path / "b")) as recipient,
        pytest.raises(RefusedError, match="x has a different dtype than the donor's; expected float32, found float64"),
    ):
        grafting.graft(donor, recipient, GraftOptions(match=["x"]))


@pytest.mark.parametrize(
    ("policy", "actions"),
    [
        ("keep", ["grafted", "grafted"]),
        ("copy", ["grafted", "grafted", "grafted", "grafted"]),
        ("drop", ["grafted", "dropped", "grafted", "dropped"]),
        ("fill=0.1", ["grafted", "filled", "grafted", "filled"]),
        ("fill=-1e-3", ["grafted", "filled", "grafted", "filled"]),
    ],
)
def test_slots_follow_their_policy(pair: Pair, policy: str, actions: list[str]) -> None:
    """Slots of grafted variables are kept, copied, dropped or filled, whatever the selection matched."""
    plan = grafting.graft(*pair, GraftOptions(policy, match=["dnn/layer1/**"]))
    assert [change.action for change in plan.changes] == actions
    fills = [change.content.number for change in plan.changes if isinstance(change.content, Fill)]
    assert fills == ([float(policy[5:])] * 2 if policy.startswith("fill") else [])


@pytest.mark.parametrize("policy", ["", "kep", "fill", "fill=x", "keep=1", "fill="])
def test_an_unknown_policy_is_refused(policy: str) -> None:
    """A misspelt policy is an error, not the default."""
    with pytest.raises(UsageError, match="expected keep, copy, drop or fill=NUMBER"):
        editing.SlotPolicy(policy)


def test_copied_slots_must_pair(pair: Pair) -> None:
    """With 'copy', a slot that only one side has is an error that names it."""
    donor, recipient = pair
    del donor.variables["dnn/layer1/Linear/Bias/Adagrad"]
    del recipient.variables["dnn/layer1/Linear/Matrix/Adagrad"]
    with pytest.raises(Problems) as caught:
        grafting.graft(donor, recipient, GraftOptions("copy", layers="1"))
    assert len(caught.value.lines) == 2


def test_a_fill_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    """A number that the slot's dtype cannot hold is found before anything is written."""
    arrays = {"x": np.zeros(2, np.float32), "x/Adagrad": np.zeros(2, np.int8)}
    formats.write(str(tmp_path / "a"), arrays, sync=False)
    formats.write(str(tmp_path / "b"), {**arrays, "x": np.ones(2, np.float32)}, sync=False)
    with (
        formats.open(str(tmp_path / "a")) as donor,
        formats.open(str(tmp_path / "b")) as recipient,
        pytest.raises(CkptSurgeonError, match=r"1000\.0 does not fit"),
    ):
        grafting.graft(donor, recipient, GraftOptions("fill=1000", match=["x"]))


def test_a_selection_of_slots_alone_is_refused(pair: Pair) -> None:
    """Slots follow --slots; a pattern that matched nothing else says so."""
    with pytest.raises(UsageError, match=r"matches only slots.*--slots copy"):
        grafting.graft(*pair, GraftOptions(match=["**/Adagrad"]))


def test_assigning_checks_name_and_shape(pair: Pair) -> None:
    """Values of another shape, or for a variable that is not there, are refused."""
    checkpoint = pair[0]
    with pytest.raises(RefusedError, match=r"expected \[4\], found \[5\]"):
        editing.assign(checkpoint, "dnn/layer0/Linear/Bias", np.zeros(5, np.float32))
    with pytest.raises(CkptSurgeonError, match="did you mean dnn/layer0/Linear/Bias"):
        editing.assign(checkpoint, "dnn/layer0/Linear/Bas", np.zeros(4, np.float32))
