"""Every format into every other, Keras's among them: by layers and roles, by maps that transpose, by a template."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import models
import numpy as np
import pytest

from ckptsurgeon.errors import CkptSurgeonError, UsageError
from ckptsurgeon.verbs import changing, producing

SKFLOW = ("dnn/layer{}/Linear/Matrix", "dnn/layer{}/Linear/Bias")
TORCH = ("layers.{}.weight", "layers.{}.bias")
NUMBERED = ("layers/dense{_}/vars/0", "layers/dense{_}/vars/1")
# What a layer's kernel and bias are called.
NAMES = {
    "bundle": SKFLOW, "v1": SKFLOW, "npz": SKFLOW, "safetensors": TORCH, "set": TORCH,
    "h5": ("dense{_}/dense{_}/kernel", "dense{_}/dense{_}/bias"), "weights.h5": NUMBERED, "keras": NUMBERED,
}  # fmt: skip
ENDINGS = {"bundle": "", "v1": "", "set": ".safetensors.index.json"}
TO = {"set": "safetensors", "h5": "hdf5", "weights.h5": "hdf5", "keras": "keras"}
INTO_KERAS = ("h5", "weights.h5", "keras")
LAYERS = 3
PAIRS = [(one, other) for one in NAMES for other in NAMES]

Arrays = dict[str, Any]


def names(form: str, layer: int) -> tuple[str, str]:
    """What the kernel and the bias of a layer are called."""
    kernel, bias = (each.replace("{_}", f"_{layer}" if layer else "").replace("{}", str(layer)) for each in NAMES[form])
    return kernel, bias


def arrays(form: str, seed: int, dtype: Any = np.float32) -> Arrays:
    """A model of square matrices, as a program of this kind lays it out."""
    values = np.random.default_rng(seed)
    found: Arrays = {}
    for layer in range(LAYERS):
        kernel, bias = names(form, layer)
        matrix = values.integers(-99, 99, (4, 4)).astype(dtype)
        found[kernel] = np.ascontiguousarray(matrix.T) if kernel.endswith(".weight") else matrix
        found[bias] = values.integers(-99, 99, 4).astype(dtype)
    return found


def path_of(folder: Path, form: str) -> str:
    """Where a checkpoint of a kind stands."""
    return str(folder / f"m{ENDINGS.get(form, f'.{form}')}")


def write(folder: Path, form: str, seed: int, dtype: Any = np.float32) -> str:
    """Write such a model."""
    folder.mkdir(exist_ok=True)
    path, found = Path(path_of(folder, form)), arrays(form, seed, dtype)
    if form in INTO_KERAS:
        weights = path.with_name("model.weights.h5") if form == "keras" else path
        with h5py.File(weights, "w") as file:
            if form == "h5":
                file.attrs["layer_names"] = [f"dense_{layer}" if layer else "dense" for layer in range(LAYERS)]
            for name, values in found.items():
                file[name] = values
            for layer in file if form == "h5" else ():
                file[layer].attrs["weight_names"] = [f"{layer}/kernel", f"{layer}/bias"]
        if form == "keras":
            layers = [{"class_name": "Dense", "config": {"name": name.split("/")[1]}} for name in list(found)[::2]]
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": layers}}))
                file.write(weights, "model.weights.h5")
            weights.unlink()
    elif form == "set":
        parts = [dict(list(found.items())[:4]), dict(list(found.items())[4:])]
        files = [f"m-0000{at}-of-00002.safetensors" for at in (1, 2)]
        for part, file in zip(parts, files, strict=True):
            models.write_as(folder / file, part, "safetensors")
        index = {name: file for part, file in zip(parts, files, strict=True) for name in part}
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": index}))
    else:
        models.write_as(path, found, form)
    return str(path)


def maps(donor: str, recipient: str, layers: range) -> list[str]:
    """Which variable goes onto which, transposed where the two are laid out differently."""
    found = []
    for layer in layers:
        for one, other in zip(names(donor, layer), names(recipient, layer), strict=True):
            turned = one.endswith((".weight", "/kernel", "/Matrix", "/0")) and is_dotted(donor) != is_dotted(recipient)
            found.append(f"{one}={other}{'.T' if turned else ''}")
    return found


@contextlib.contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expects an error, each of whose lines says all that."""
    with pytest.raises(CkptSurgeonError) as caught:
        yield
    assert all(word in line for line in caught.value.lines for word in words)


def is_dotted(form: str) -> bool:
    """Whether its matrices are [out, in]."""
    return NAMES[form] is TORCH


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("donor", "recipient"), PAIRS)
def test_graft_from_every_format_into_every_other(tmp_path: Path, donor: str, recipient: str, dtype: Any) -> None:
    """By layers where both lay matrices out alike, else by maps alone; another dtype needs --cast."""
    one, other = write(tmp_path / "a", donor, 1, dtype), write(tmp_path / "b", recipient, 2)
    before, cast = models.snapshot(tmp_path), dtype != np.float32
    how: dict[str, Any] = {"layers": "0-1"}
    if is_dotted(donor) != is_dotted(recipient):
        with refused("are laid out differently", ".T transposes it"):
            changing.graft(one, other, layers="0-1", cast=True)
        how = {"maps": maps(donor, recipient, range(2))}
    if cast:
        with refused("--cast converts it"):
            changing.graft(one, other, **how)
    assert models.snapshot(tmp_path) == before
    changing.graft(one, other, **how, cast=cast)
    new, old = arrays(recipient, 1), arrays(recipient, 2)
    expected = old | {name: new[name] for layer in range(2) for name in names(recipient, layer)}
    assert models.equal(models.read(Path(other)), expected)
    assert {name: at for name, at in models.snapshot(tmp_path).items() if name[0] == "a"} == {
        name: at for name, at in before.items() if name[0] == "a"
    }


@pytest.mark.parametrize(("donor", "recipient"), PAIRS)
def test_schemes_may_be_said(tmp_path: Path, donor: str, recipient: str) -> None:
    """With both schemes said, the same pairs: a layer onto another program's, and nothing in the wrong layout."""
    patterns = {"h5": "dense{_K}/**", "weights.h5": "layers/dense{_K}/**", "keras": "layers/dense{_K}/**"}
    one, other = write(tmp_path / "a", donor, 1), write(tmp_path / "b", recipient, 2)
    schemes = {
        "donor_scheme": patterns.get(donor, NAMES[donor][0].replace("{}", "{K}").rpartition("Linear/")[0] + "**"),
        "recipient_scheme": patterns.get(
            recipient, NAMES[recipient][0].replace("{}", "{K}").rpartition("Lin")[0] + "**"
        ),
    }
    for side, form in (("donor_scheme", donor), ("recipient_scheme", recipient)):
        if is_dotted(form):
            schemes[side] = "layers.{K}.**"
    if is_dotted(donor) != is_dotted(recipient):
        with refused("laid out differently"):
            changing.graft(one, other, layers="1", **schemes)
        return
    changing.graft(one, other, layers="1", **schemes)
    new, old = arrays(recipient, 1), arrays(recipient, 2)
    assert models.equal(models.read(Path(other)), old | {name: new[name] for name in names(recipient, 1)})


@pytest.mark.parametrize(("source", "target"), [pair for pair in PAIRS if pair[1] != "set"])
def test_convert_from_every_format_into_every_other(tmp_path: Path, source: str, target: str) -> None:
    """All under the target's names, with --map; into Keras's files with --like alone, whose layout stays."""
    one = write(tmp_path / "a", source, 1)
    out, to = path_of(tmp_path, target), TO.get(target, target)
    renames = [] if NAMES[source] == NAMES[target] else maps(source, target, range(LAYERS))
    like = None
    if target in INTO_KERAS:
        like = write(tmp_path / "like", target, 2)
        if source not in INTO_KERAS:
            with pytest.raises(UsageError, match="--like TEMPLATE"):
                producing.convert(one, out, to=to, maps=renames)
    producing.convert(one, out, to=None if like else to, maps=renames, like=like)
    assert models.equal(models.read(Path(out)), arrays(target, 1))


@pytest.mark.parametrize("recipient", ["bundle", "npz", *INTO_KERAS])
def test_a_square_matrix_of_the_other_layout_is_not_let_through(tmp_path: Path, recipient: str) -> None:
    """Neither by a map that does not say .T, nor onto a template, though the shapes agree."""
    one, other = write(tmp_path / "a", "safetensors", 1), write(tmp_path / "b", recipient, 2)
    before = models.snapshot(tmp_path)
    straight = [each.removesuffix(".T") for each in maps("safetensors", recipient, range(LAYERS))]
    with refused("laid out differently"):
        changing.graft(one, other, maps=straight)
    if recipient in INTO_KERAS:
        with refused("laid out differently"):
            producing.convert(one, path_of(tmp_path, recipient), maps=straight, like=other)
    assert models.snapshot(tmp_path) == before
