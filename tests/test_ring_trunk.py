"""Trunks of models that name, turn and store their variables differently: what answers to what, and how it travels."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_as

from ckptsurgeon import formats
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.ring.schedule import TRUNK
from ckptsurgeon.ring.spec.records import Model, Spec
from ckptsurgeon.ring.weights.trunk import Trunk, TrunkVariable

SIZES = (4, 5, 5, 3)  # layer 1 is square: its shape does not tell how it lies
MAP = ("layers.*.weight=dnn/layer*/Linear/Matrix.T", "layers.*.bias=dnn/layer*/Linear/Bias")
SCHEME = "layers.{K}.**"
TRUNK_NAMES = [f"dnn/layer{k}/Linear/{part}" for k in (0, 1) for part in ("Bias", "Matrix")]


def skflow(seed: int) -> dict[str, Any]:
    """Return a net as skflow names it, with slots."""
    random, values = np.random.default_rng(seed), {}
    for k, shape in enumerate(itertools.pairwise(SIZES)):
        values[f"dnn/layer{k}/Linear/Matrix"] = random.normal(size=shape).astype(np.float32)
        values[f"dnn/layer{k}/Linear/Bias"] = random.normal(size=shape[1]).astype(np.float32)
    return {**values, **{f"{name}/Adagrad": value * 0 + seed for name, value in values.items()}}


def torch(seed: int) -> dict[str, Any]:
    """Return a net as PyTorch names it, with its matrices turned, and a head of its own."""
    random, values = np.random.default_rng(seed), {}
    for k, shape in enumerate(zip(SIZES, (*SIZES[1:-1], 7), strict=False)):
        values[f"layers.{k}.weight"] = random.normal(size=shape[::-1]).astype(np.float32)
        values[f"layers.{k}.bias"] = random.normal(size=shape[1]).astype(np.float32)
    return values


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Trunk, dict[str, str]]:
    """Return a trunk of two layers, shared by a bundle, an npz, and a safetensors file in another layout."""
    paths = {"a": str(tmp_path / "a"), "b": str(tmp_path / "b.safetensors"), "c": str(tmp_path / "c.npz")}
    write_as(Path(paths["a"]), skflow(1))
    write_as(Path(paths["b"]), torch(2), "safetensors")
    write_as(Path(paths["c"]), skflow(3), "npz")
    models = (
        Model("a", worker=("w",)),
        Model("b", worker=("w",), format="safetensors", scheme=SCHEME, map=MAP),
        Model("c", worker=("w",), format="npz"),
    )
    return Trunk(Spec("0-1", models), paths), paths


def read(path: str) -> dict[str, Any]:
    with formats.open(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def test_every_model_says_how_it_calls_a_common_name(mixed: tuple[Trunk, dict[str, str]]) -> None:
    """In one order, with matrices that lie the other way round marked."""
    trunk, _ = mixed
    assert [member.common for member in trunk.members["a"]] == TRUNK_NAMES
    assert trunk.members["b"] == (
        TrunkVariable("dnn/layer0/Linear/Bias", "layers.0.bias", False),
        TrunkVariable("dnn/layer0/Linear/Matrix", "layers.0.weight", True),
        TrunkVariable("dnn/layer1/Linear/Bias", "layers.1.bias", False),
        TrunkVariable("dnn/layer1/Linear/Matrix", "layers.1.weight", True),
    )
    assert [member.own for member in trunk.members["c"]] == [member.own for member in trunk.members[TRUNK]]
    assert trunk.own("b") == {f"layers.{k}.{part}" for k in (0, 1) for part in ("weight", "bias")}


@pytest.mark.parametrize("donor", ["a", "b", "c"])
@pytest.mark.parametrize("recipient", ["a", "b", "c"])
def test_a_trunk_goes_from_any_model_into_any_other(
    mixed: tuple[Trunk, dict[str, str]], tmp_path: Path, donor: str, recipient: str
) -> None:
    """Values are the donor's, turned where need be; head, slots and format are the recipient's."""
    if donor == recipient:
        return
    trunk, paths = mixed
    before, output = read(paths[recipient]), str(tmp_path / "out") + paths[recipient][len(str(tmp_path / "a")) :]
    trunk.graft(donor, paths[donor], recipient, paths[recipient], output)
    assert read(paths[recipient]).keys() == read(output).keys()
    with formats.open(output) as one, formats.open(paths[recipient]) as other:
        assert one.format == other.format
    given, found = read(paths[donor]), read(output)
    for theirs, ours in zip(trunk.members[donor], trunk.members[recipient], strict=True):
        value = given[theirs.own]
        assert np.array_equal(found.pop(ours.own), value.T if theirs.transposed != ours.transposed else value)
    assert all(np.array_equal(value, before[name]) for name, value in found.items())
    assert np.array_equal(trunk_vector(trunk, recipient, output), trunk_vector(trunk, donor, paths[donor]))


def trunk_vector(trunk: Trunk, name: str, path: str) -> Any:
    with formats.open(path) as checkpoint:
        return trunk.vector(name, checkpoint)


def test_the_average_is_the_mean_in_float64_under_the_common_names(
    mixed: tuple[Trunk, dict[str, str]], tmp_path: Path
) -> None:
    """Of all models, in their order; and it goes back into each of them."""
    trunk, paths = mixed
    trunk.average(paths, str(tmp_path / "mean"))
    means, nets = read(str(tmp_path / "mean")), {name: read(path) for name, path in paths.items()}
    assert sorted(means) == TRUNK_NAMES
    for layer in (0, 1):
        turned = nets["b"][f"layers.{layer}.weight"].T.astype(np.float64)
        name = f"dnn/layer{layer}/Linear/Matrix"
        expected = (nets["a"][name].astype(np.float64) + turned + nets["c"][name]) / 3
        assert means[name].tobytes() == expected.astype(np.float32).tobytes()
    trunk.graft(TRUNK, str(tmp_path / "mean"), "b", paths["b"], str(tmp_path / "b2.safetensors"))
    assert np.array_equal(read(str(tmp_path / "b2.safetensors"))["layers.1.weight"], means[name].T)


def test_distances_are_relative_to_the_mean(mixed: tuple[Trunk, dict[str, str]]) -> None:
    """As the definition has it, over all variables of the trunk together."""
    trunk, paths = mixed
    vectors = {name: trunk_vector(trunk, name, path) for name, path in paths.items()}
    mean = sum(vectors.values()) / 3
    for name, distance in trunk.distances(paths).items():
        assert distance == pytest.approx(np.linalg.norm(vectors[name] - mean) / np.linalg.norm(mean))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"map": ()}, "of b do not match those of a"),
        ({"map": (MAP[0],)}, "its map does not name layers.0.bias"),
        ({"map": (MAP[0].removesuffix(".T"), MAP[1])}, "laid out differently"),
        ({"map": (MAP[0].replace("dnn", "net"), MAP[1])}, "b lacks dnn/layer0/Linear/Matrix"),
        ({"scheme": "blocks.{K}.**"}, "blocks.{K}.**"),
    ],
)
def test_what_does_not_answer_is_told_before_a_run(
    mixed: tuple[Trunk, dict[str, str]], change: dict[str, Any], words: str
) -> None:
    """Without a map, with half of one, with one that forgets the .T, or that leads elsewhere."""
    _, paths = mixed
    keys = {"worker": ("w",), "format": "safetensors", "scheme": SCHEME, "map": MAP, **change}
    models = (Model("a", worker=("w",)), Model("b", **keys))

    def plan() -> None:
        trunk = Trunk(Spec("0-1", models), {name: paths[name] for name in "ab"})
        trunk.graft("a", paths["a"], "b", paths["b"], None)

    with pytest.raises(CkptSurgeonError) as caught:
        plan()
    assert all("\n" not in line for line in caught.value.lines)
    assert any(words in line for line in caught.value.lines), caught.value.lines
