"""Hypothesis strategies: random names, arrays and checkpoints, over everything that a TensorBundle can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from handmade import HandMade
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from numpy.typing import NDArray

from ckptsurgeon import numeric

Arrays = dict[str, NDArray[Any]]

# Smallest and largest value of dtypes not all of whose bit patterns are values.
_LIMITED = {
    "bool": (0, 1),
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int2": (-2, 1),
    "uint2": (0, 3),
    "float4_e2m1fn": (0, 6),
}
DTYPES = (
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16", "float32",
    "float64", "complex64", "complex128", "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz",
    "float8_e5m2fnuz", "int4", "uint4", "int2", "uint2", "float4_e2m1fn",
)  # fmt: skip

# Parts of names: the common, the nearly equal, and what a shell, a glob, a table or a terminal could stumble over.
_PARTS = (
    "dnn", "layer1", "layer10", "layer2", "kernel", "kernel_1", "a", "ab", "Adagrad", "part_0", "[0]", "{1}", "*", "?",
    "a b", " ", "ü", "層", "\U0001f600", "a\nb", "\t", "\x7f", "\xff", "'", '"', "\\", ":0", "x" * 130, "y" * 300,
    ".ATTRIBUTES", "VARIABLE_VALUE", ".OPTIMIZER_SLOT", "-of-", ".data-00000-of-00001",
)  # fmt: skip


def names() -> st.SearchStrategy[str]:
    """Names of variables: paths of odd parts, of an object-based checkpoint at times, or any text at all."""
    paths = st.lists(st.sampled_from(_PARTS), min_size=1, max_size=4).map("/".join)
    anything = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20).filter(
        lambda text: text[0] != "\x00"
    )
    return st.one_of(paths, paths.map(lambda path: f"{path}/.ATTRIBUTES/VARIABLE_VALUE"), anything)


def shapes() -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of a few elements, scalars and empty ones among them."""
    return st.one_of(st.just(()), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


@st.composite
def numbers(draw: st.DrawFn, dtype: str) -> NDArray[Any]:
    """An array of a dtype: any bits that the dtype allows, NaN with odd bits among them."""
    kind, shape = numeric.dtype(dtype), draw(shapes())
    count = int(np.prod(shape, dtype=int))
    if dtype in _LIMITED:
        values = draw(st.lists(st.integers(*_LIMITED[dtype]), min_size=count, max_size=count))
        return np.asarray(values, np.int8).reshape(shape).astype(kind)
    size = count * kind.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8).view(kind).reshape(shape)


@st.composite
def texts(draw: st.DrawFn) -> NDArray[Any]:
    """An array of strings: empty ones, ones with zeros, and ones whose length takes two bytes."""
    array = np.empty(draw(shapes()), object)
    string = st.one_of(st.binary(max_size=8), st.sampled_from((b"", b"\x00", b"a\x00\x00", b"z" * 200)))
    array.reshape(-1)[:] = draw(st.lists(string, min_size=array.size, max_size=array.size))
    return array


def arrays(dtypes: tuple[str, ...] = DTYPES) -> st.SearchStrategy[NDArray[Any]]:
    """An array of one of these dtypes, or of strings."""
    return st.one_of(st.sampled_from(dtypes).flatmap(numbers), texts())


def checkpoints(dtypes: tuple[str, ...] = DTYPES, max_size: int = 8) -> st.SearchStrategy[Arrays]:
    """A whole checkpoint: name -> array."""
    return st.dictionaries(names(), arrays(dtypes), min_size=1, max_size=max_size)


def same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays have the same dtype, shape and bits."""
    if one.dtype.kind == "O" or other.dtype.kind == "O":
        return one.dtype == other.dtype and one.shape == other.shape and one.tolist() == other.tolist()
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def write_bundle(
    prefix: Path, arrays: Arrays, shards: int = 1, byteorder: str = "little", per_block: int = 1000
) -> Path:
    """Write a checkpoint as our writer never does: its tensors in turn over several shards, blocks, and big-endian."""
    made = HandMade(shards, big=byteorder == "big")
    for at, (name, values) in enumerate(arrays.items()):
        made.add(name, values, at % shards)
    return made.write(prefix, per_block=per_block)
