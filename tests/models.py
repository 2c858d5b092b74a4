"""Small checkpoints for the tests of operations: in skflow's names, and in every format under the names that it has."""

from __future__ import annotations

import itertools
import json
import zipfile
from pathlib import Path
from typing import Any

import hdf5_files
import numpy as np
from numpy.typing import NDArray

from ckptsurgeon import formats
from ckptsurgeon.verbs import producing

Arrays = dict[str, NDArray[Any]]


def skflow_arrays(seed: int, units: tuple[int, ...] = (4, 5, 3), features: int = 4) -> Arrays:
    """The variables of a classifier with hidden layers of these sizes, Adagrad slots included."""
    rng = np.random.default_rng(seed)
    arrays: Arrays = {"global_step": np.asarray(seed, np.int32), "learning_rate": np.asarray(0.1, np.float32)}
    sizes = [features, *units]
    names = [f"dnn/layer{layer}/Linear/" for layer in range(len(units))]
    for name, (rows, columns) in zip(names, itertools.pairwise(sizes), strict=True):
        arrays[name + "Matrix"] = rng.normal(size=(rows, columns)).astype(np.float32)
        arrays[name + "Bias"] = rng.normal(size=columns).astype(np.float32)
    arrays["logistic_regression/weights"] = rng.normal(size=(units[-1], 3)).astype(np.float32)
    arrays["logistic_regression/bias"] = rng.normal(size=3).astype(np.float32)
    for name in [name for name in arrays if "/" in name]:
        arrays[name + "/Adagrad"] = np.abs(rng.normal(size=arrays[name].shape)).astype(np.float32)
    return arrays


def write(path: Path, seed: int, **kwargs: Any) -> Arrays:
    """Write such a checkpoint; its arrays."""
    arrays = skflow_arrays(seed, **kwargs)
    formats.write(str(path), arrays, sync=False)
    return arrays


def read(path: Path) -> Arrays:
    """All values of a checkpoint."""
    with formats.open(str(path)) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def equal(one: Arrays, other: Arrays) -> bool:
    """Whether two checkpoints hold the same names, dtypes, shapes and bytes."""
    return one.keys() == other.keys() and all(
        (one[name].dtype, one[name].shape, one[name].tobytes())
        == (other[name].dtype, other[name].shape, other[name].tobytes())
        for name in one
    )


def grafted(recipient: Arrays, donor: Arrays, layers: tuple[int, ...]) -> Arrays:
    """What a graft of whole layers, slots kept, must give."""
    result = dict(recipient)
    for name in recipient:
        if any(name.startswith(f"dnn/layer{layer}/") for layer in layers) and not name.endswith("/Adagrad"):
            result[name] = donor[name]
    return result


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """All files below a folder: bytes and modification time, to prove that nothing was touched."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def some(*shape: int, seed: int = 0, dtype: Any = "float32") -> Any:
    """Random values."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def write_as(path: Path, arrays: Arrays, to: str = "bundle") -> str:
    """Write a checkpoint in a format where none is, or another one; its path."""
    staged = path.parent / "staged"
    formats.write(str(staged), arrays, sync=False)
    producing.convert(str(staged), str(path), to=to, force=True, sync=False)
    for file in path.parent.glob("staged.*"):
        file.unlink()
    return str(path)


# -- every format, and every layout of one


class Form:
    """A way to write a checkpoint of two dense layers with slots of Adagrad, and of anything else.

    Args:
        name: of the form.
        to: the format, as `convert --to` calls it.
        weight: the name of a layer's variable: its pattern, with {layer} and {last}.
        lasts: what Matrix and Bias are called.
        slot: the name of a slot, with {weight}, and what else `weight` may have, and {number} among all slots.
        kin: what the slots are called beside their variables; slots of another kin are not theirs.
        renamed: a new name of the first layer's Matrix that the form can hold.
        other: before the names of all other variables.
        special: those that have names of their own.
        ending: of the name of a set of files: of its index.

    Attributes:
        names: by skflow's name of a variable, the name that it has here.
        follows: whether slots follow their variable to another name.
        files: how many files it is.
        by_order: whether slots are told by their number among all slots alone.
    """

    def __init__(
        self, name: str, to: str, weight: str = "dnn/layer{layer}/Linear/{last}", *,
        lasts: tuple[str, str] = ("Matrix", "Bias"), slot: str = "{weight}/Adagrad", kin: str = "Adagrad",
        renamed: str = "renamed/M", other: str = "", special: dict[str, str] | None = None, ending: str = "",
    ) -> None:  # fmt: skip
        self.name, self.to, self.kin, self.ending, self._other = name, to, kin, ending, other
        self.files = 2 if ending else 1
        self.follows, self.by_order = "{weight}" in slot, "{number}" in slot
        self.names = {"renamed/M": renamed, **(special or {})}
        for layer in range(2):
            for at, (last, here) in enumerate(zip(("Matrix", "Bias"), lasts, strict=True)):
                count = f"_{layer}" if layer else ""
                known = {
                    "layer": layer,
                    "last": here,
                    "count": count,
                    "letter": "ba"[layer],
                    "number": 2 * layer + at + 2,
                }
                found = weight.format(**known)
                old = f"dnn/layer{layer}/Linear/{last}"
                self.names[old] = found
                self.names[f"{old}/Adagrad"] = slot.format(weight=found, **known)
        first = "dnn/layer0/Linear/Matrix/Adagrad"
        self.names["renamed/M/Adagrad"] = slot.format(weight=renamed) if self.follows else self.names[first]

    def __repr__(self) -> str:
        return self.name

    def called(self, name: str) -> str:
        """The name here of a variable."""
        return self.names.get(name, self._other + name)

    def real(self, arrays: Arrays) -> Arrays:
        """A checkpoint under the names that it has here."""
        return {self.called(name): values for name, values in arrays.items()}

    def write(self, path: Path, arrays: Arrays) -> str:
        """Write a checkpoint of skflow's names; what is to be opened."""
        return write_as(path, self.real(arrays), self.to)


class _Hdf5Form(Form):
    """An HDF5 file, several, or a zip file around one."""

    def real(self, arrays: Arrays) -> Arrays:
        """As `Form.real`; no variable can have a name that is a folder's."""
        real = super().real(arrays)
        folders = {name[:at] for name in real for at, each in enumerate(name) if each == "/"}
        return {name: values for name, values in real.items() if name not in folders}

    def write(self, path: Path, arrays: Arrays) -> str:
        """As `Form.write`."""
        real = self.real(arrays)
        if self.name == "legacy":
            hdf5_files.tree(path, real, hdf5_files.lists_of(list(real), "ba"))
        elif self.name == "h5":
            hdf5_files.tree(path, real, {"": {"title": "somebody's"}, "nothing in it": {"why": 1}})
        elif self.files > 1:
            inner = {name: real.pop(name) for name in list(real) if name.startswith("layers/dense/")}
            names = [f"{path.name}_{number:05d}.weights.h5" for number in range(2)]
            for name, each in zip(names, (inner, real), strict=True):
                hdf5_files.tree(path.parent / name, each, hdf5_files.called(list(each)))
            told = {f"/{group}": [name] for name, each in zip(names, (inner, real), strict=True)
                    for group in dict.fromkeys(each.rpartition("/")[0] for each in each)}  # fmt: skip
            path = path.with_name(f"{path.name}{self.ending}")
            path.write_text(json.dumps({"metadata": {"total_size": 1.0}, "weight_map": told}))
        elif self.to == "keras":
            # In the file the layers stand in the other order than in the model, which the config tells.
            backwards = sorted(real, key=lambda name: not name.startswith("layers/dense_1/"))
            config = {"class_name": "Sequential", "config": {"layers": [
                {"class_name": "Dense", "config": {"name": f"dense{count}"}} for count in ("", "_1")]}}  # fmt: skip
            inner_path = path.with_name(f"{path.name}.inner")
            hdf5_files.tree(inner_path, {name: real[name] for name in backwards}, hdf5_files.called(backwards))
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("metadata.json", b"{}")
                file.writestr("config.json", json.dumps(config))
                file.write(inner_path, "model.weights.h5")
            inner_path.unlink()
        else:
            hdf5_files.tree(path, real, hdf5_files.called(list(real)))
        return str(path)


class _HubForm(Form):
    """A set of safetensors files with an index, as Hugging Face's libraries write it: the first layer in the first."""

    def write(self, path: Path, arrays: Arrays) -> str:
        """As `Form.write`."""
        real = self.real(arrays)
        first = {name: real.pop(name) for name in list(real) if name.startswith("dnn/layer0/")}
        where = {}
        for number, each in enumerate((first, real), 1):
            member = write_as(path.with_name(f"{path.name}-{number:05d}-of-00002.safetensors"), each, self.to)
            where.update(dict.fromkeys(each, Path(member).name))
        path = path.with_name(f"{path.name}{self.ending}")
        path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
        return str(path)


_KERAS: dict[str, Any] = {
    "weight": "layers/dense{count}/vars/{last}",
    "lasts": ("0", "1"),
    "slot": "optimizer/vars/{number}",
    "kin": "accumulator",
    "renamed": "layers/renamed/vars/0",
    "other": "metrics/",
    "special": {"iteration": "optimizer/vars/0", "learning_rate": "optimizer/vars/1"},
}
FORMS = {
    form.name: form
    for form in (
        *(Form(name, name) for name in ("bundle", "v1", "safetensors", "npz")),
        _HubForm("safetensors-set", "safetensors", ending=".safetensors.index.json"),
        _Hdf5Form("h5", "hdf5", slot="training/Adagrad/{weight}/accumulator", kin="accumulator"),
        _Hdf5Form(
            "legacy",
            "hdf5",
            "model_weights/{letter}/{letter}/{last}:0",
            lasts=("kernel", "bias"),
            kin="accumulator",
            slot="optimizer_weights/Adagrad/accumulator/{letter}/{last}:0",
            renamed="model_weights/b/renamed/M",
            special={"iteration": "optimizer_weights/Adagrad/iter:0"},
        ),
        _Hdf5Form("weights", "hdf5", **_KERAS),
        _Hdf5Form("weights-set", "hdf5", **_KERAS, ending=".weights.json"),
        _Hdf5Form("keras", "keras", **_KERAS),
    )
}
