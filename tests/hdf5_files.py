"""HDF5 files made by hand, with what the tests of their formats look at; TensorFlow has no part in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

Arrays = dict[str, Any]


def weights(path: Path, seed: int = 0, layers: int = 3, optimizer: bool = True, **how: Any) -> Arrays:
    """A file of Keras 3's weights: dense layers of 6x6, and Adam."""
    values = np.random.default_rng(seed)
    found: Arrays = {}
    with h5py.File(path, "w", **how) as file:
        for layer in range(layers):
            group = file.create_group(f"layers/dense{f'_{layer}' if layer else ''}").create_group("vars")
            group.attrs["name"] = f"layer{layer}"
            for number, shape in enumerate([(6, 6), (6,)]):
                group[str(number)] = found[f"{group.name[1:]}/{number}"] = values.random(shape, np.float32)
        file.create_group("vars").attrs["name"] = "model"
        if optimizer:
            group = file.create_group("optimizer").create_group("vars")
            shapes = [(), (), *(shape for _ in range(layers) for shape in [(6, 6)] * 2 + [(6,)] * 2)]
            for number, shape in enumerate(shapes):
                array = np.asarray(values.random(shape, np.float32)) if number else np.asarray(7)
                group[str(number)] = found[f"optimizer/vars/{number}"] = array
    return found


def legacy(path: Path, seed: int = 0, root: str = "model_weights", fixed: bool = False) -> Arrays:
    """A file as Keras 2 made it: lists of names, `:0`, and an optimizer; with fixed strings as Keras 1 made it."""
    values = np.random.default_rng(seed)
    found: Arrays = {}

    def names(group: Any, attribute: str, each: list[str]) -> None:
        group.attrs[attribute] = np.array(each, "S") if fixed else each

    with h5py.File(path, "w") as file:
        top = file.require_group(root) if root else file
        file.attrs["keras_version"] = "2.3.1"
        names(top, "layer_names", ["input", "b", "a"])
        top.create_group("input").attrs["weight_names"] = np.empty(0)
        for layer in ("b", "a"):
            group = top.create_group(layer)
            names(group, "weight_names", [f"{layer}/kernel:0", f"{layer}/bias:0"])
            for last, shape in (("kernel:0", (4, 4)), ("bias:0", (4,))):
                array = values.random(shape, np.float32)
                group[f"{layer}/{last}"] = found[f"{group.name[1:]}/{layer}/{last}"] = array
        if root:
            group = file.create_group("optimizer_weights")
            slots = {f"Adam/{kind}/{layer}/{last}:0": shape for kind in "mv" for layer in "ba"
                     for last, shape in (("kernel", (4, 4)), ("bias", (4,)))}  # fmt: skip
            names(group, "weight_names", ["Adam/iter:0", *slots])
            group["Adam/iter:0"] = found["optimizer_weights/Adam/iter:0"] = np.asarray(3)
            for name, shape in slots.items():
                group[name] = found[f"optimizer_weights/{name}"] = values.random(shape, np.float32)
    return found


def others(path: Path, **how: Any) -> Arrays:
    """A file by somebody else: every dtype, packed and in pieces, both orders of bytes, attributes of all kinds."""
    values = np.random.default_rng(1)
    found: Arrays = {
        "plain": values.random((5, 7)),
        "big": values.random((3, 4)).astype(">f4"),
        "half": values.random(9).astype(np.float16),
        "complex": (values.random(4) + 1j).astype(np.complex64),
        "flags": np.array([[True, False], [False, True]]),
        "counts": np.arange(10, dtype=np.uint16),
        "wide": np.arange(6, dtype=">i8").reshape(2, 3),
        "scalar": np.asarray(1.5),
        "empty": np.empty((0, 3), np.float32),
    }
    with h5py.File(path, "w", **how) as file:
        for name, array in found.items():
            file[name] = array
        packed = found["packed/deep"] = values.integers(0, 9, (300, 40)).astype(np.int32)
        deep = file.create_dataset("packed/deep", data=packed, chunks=(64, 16), compression="gzip", shuffle=True,
                                   fletcher32=True, maxshape=(None, 40))  # fmt: skip
        deep.attrs["note"] = "kept"
        deep.attrs["numbers"] = np.arange(3, dtype=">f8")
        found["pieces"] = values.random((20, 20)).astype(">f8")
        file.create_dataset("pieces", data=found["pieces"], chunks=(7, 7))
        found["bfloat"] = values.random((4, 3)).astype(ml_dtypes.bfloat16)
        file.create_dataset("bfloat", data=found["bfloat"]).attrs["dtype"] = "bfloat16"
        found["compact"] = np.arange(4, dtype=np.float32)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((4,))
        compact = h5py.h5d.create(file.id, b"compact", h5py.h5t.IEEE_F32LE, space, plist)
        compact.write(space, space, found["compact"])
        found["text"] = np.array(b"one \xc3\xa4 text", object)
        file["text"] = "one ä text"
        found["fixed"] = np.array([b"ab", b"c"], object)
        file["fixed"] = np.array([b"ab", b"c"], "S4")
        found["texts"] = np.array([[b"x", b""], [b"yy", b"zzz"]], object)
        file["texts"] = np.array([["x", ""], ["yy", "zzz"]], object)
        file["record"] = np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])
        file["nothing"] = h5py.Empty("f4")
        file.create_group("lonely/inner").attrs["why"] = ["a", "b"]
        file.attrs["title"] = "a file"
        file.attrs["void"] = h5py.Empty("i4")
        file["kind"] = np.dtype("f4")  # a dtype with a name
    return found


def odd(path: Path, **how: Any) -> None:
    """A small file with a bit of everything that libhdf5 decodes: filters, pieces, strings, attributes of all kinds."""
    with h5py.File(path, "w", **how) as file:
        packed = np.arange(60, dtype=np.int32).reshape(6, 10)
        file.create_dataset("packed/deep", data=packed, chunks=(4, 4), compression="gzip", shuffle=True,
                            fletcher32=True, maxshape=(None, 10))  # fmt: skip
        file.create_dataset("pieces", data=packed.astype(">f8"), chunks=(5, 5)).attrs["numbers"] = np.arange(3)
        file["texts"] = np.array([["x", ""], ["yy", "zzz"]], object)
        file["fixed"] = np.array([b"ab", b"c"], "S4")
        file["record"] = np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")])
        file["nothing"] = h5py.Empty("f4")
        file["flags"] = np.array([True, False])
        file["half"] = np.ones(3, ">f2")
        file["kind"] = np.dtype("f4")
        file.create_group("lonely/inner").attrs["weight_names"] = ["a", "b"]


def tree(path: Path, arrays: Arrays, attributes: dict[str, dict[str, Any]], **how: Any) -> None:
    """A file with these datasets in this order, and these attributes of its groups."""
    with h5py.File(path, "w", **how) as file:
        for group, each in attributes.items():
            file.require_group(f"/{group}").attrs.update(each)
        for name, values in arrays.items():
            file[name] = values


def lists_of(names: list[str], layers: str) -> dict[str, dict[str, Any]]:
    """The attributes by which a legacy file lists its layers, called by letters, and their weights."""
    top, optimizer = "model_weights", "optimizer_weights"
    told: dict[str, dict[str, Any]] = {top: {"layer_names": list(layers), "backend": "tensorflow"}}
    for group in (*(f"{top}/{layer}" for layer in layers), optimizer):
        told[group] = {"weight_names": [name[len(group) + 1 :] for name in names if name.startswith(f"{group}/")]}
    return told


def called(names: list[str]) -> dict[str, dict[str, Any]]:
    """The attributes that name the objects of Keras 3 whose variables these are; the optimizer is Adagrad."""
    folders = dict.fromkeys(name.rpartition("/")[0] for name in names)
    owners = {each: each.split("/")[-2] for each in folders if each.endswith("/vars")}
    return {each: {"name": "adagrad" if owner == "optimizer" else owner} for each, owner in owners.items()}


def contents(path: Path) -> dict[str, Any]:
    """All that h5py finds in a file: groups, datasets with how they were created, and attributes."""
    found: dict[str, Any] = {}

    def attributes(each: Any) -> dict[str, Any]:
        told = {}
        for name in each.attrs:
            value = each.attrs[name]
            kind = each.attrs.get_id(name).get_type()
            told[name] = (str(value.dtype), None) if isinstance(value, h5py.Empty) else (
                kind.dtype.str, kind.get_class(), np.asarray(value).tolist())  # fmt: skip
        return told

    def look(name: str, each: Any) -> None:
        if isinstance(each, h5py.Dataset):
            values = each[()]
            data = None if isinstance(values, h5py.Empty) else np.asarray(values).tobytes()
            if data is not None and np.asarray(values).dtype.kind == "O":
                data = np.asarray(values).tolist()
            how = each.chunks, each.compression, each.shuffle, each.fletcher32, each.maxshape
            kind = each.id.get_type()
            found[name] = (kind.dtype.str, kind.get_class(), each.shape, how, data, attributes(each))
        elif isinstance(each, h5py.Group):
            found[name + "/"] = attributes(each)
        else:
            found[name] = str(each.dtype)

    with h5py.File(path) as file:
        file.visititems(look)
        found["/"] = attributes(file)
    return found
