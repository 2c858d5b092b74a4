"""Small checkpoints in skflow's names for the tests of operations."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

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
