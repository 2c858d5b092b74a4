"""Numbers without NumPy: what `plain` reads, prints and packs is what NumPy makes of it."""

from __future__ import annotations

import io
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from ckptsurgeon import formats, numeric, plain
from ckptsurgeon.cli import main
from ckptsurgeon.errors import RefusedError
from ckptsurgeon.plain import Numbers

DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")
TEXTS = (
    "0", "1", "-1", "2", "0x10", "1_000", " 7 ", "127", "128", "-129", "65536", "4294967296", "18446744073709551615",
    "99999999999999999999", "16777217", "9007199254740993", "2.0", "2.5", "0.1", "-0.0", "1e-50", "3.4028235e38",
    "3.4028235677973366e+38", "1e39", "1e400", "inf", "-Infinity", "nan", "-nan", "1j", "true", "[1]", "x", "",
)  # fmt: skip


def sample(dtype: str) -> np.ndarray:
    """An array of shape [2,3,2]."""
    return (np.arange(12) % 100).astype(dtype).reshape(2, 3, 2)


def numbers(values: np.ndarray) -> Numbers:
    """The same, without NumPy."""
    return Numbers(values.dtype.name, values.shape, values.tobytes())


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_printed_as_numpy_prints_them(dtype: str) -> None:
    """Nested lists and .npy, of several dimensions and of a scalar."""
    for values in (sample(dtype), sample(dtype)[0, 0, 1]):
        file = io.BytesIO()
        np.lib.format.write_array(file, np.asarray(values), allow_pickle=False)
        assert numbers(values).npy() == file.getvalue()
        found = numbers(values).tolist()
        assert found == values.tolist()
        assert type(np.ravel(found)[0]) is type(np.ravel(values.tolist())[0])


@pytest.mark.parametrize(
    "shape", [(1,) * 15, (1,) * 16 + (2,), (1,) * 32, (12345,), (1,) * 20 + (123456,), (0,), (2, 0)]
)
def test_a_header_is_numpys(shape: tuple[int, ...]) -> None:
    """However many axes there are, and however long they are."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    assert plain.header("<f4", shape) == file.getvalue()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_number_is_set_as_numpy_sets_it(dtype: str, text: str) -> None:
    """The same bytes, or left to NumPy; what NumPy refuses is always left to it."""
    values = sample(dtype)
    new = numbers(values).with_number((1, -1), text)
    try:
        values[1, -1] = numeric.from_user(text, dtype, "x")
    except RefusedError:
        assert new is None
    else:
        assert new is None or new.data == values.tobytes()
        assert new is not None or not text.isdecimal() or int(text) > 1


@pytest.mark.parametrize("text", ["0", "-1", "1,2", "1,-3,0", "2", "-3", "0,0,0,0", "0:1", "...", "1,:"])
def test_a_part_is_the_one_that_numpy_selects(text: str) -> None:
    """Integers from the left select a block; all else, and what is out of bounds, is left to NumPy."""
    values, index = sample("int16"), plain.parse_index(text)
    part = numbers(values).at(index)
    if text in ("2", "-3", "0,0,0,0", "0:1", "...", "1,:"):
        assert part is None
    else:
        assert part is not None
        assert np.array_equal(np.reshape(part.tolist(), part.shape), values[index])
        assert part.shape == values[index].shape


def test_what_is_not_plain_is_left_to_numpy(tmp_path: Path) -> None:
    """Small floats, complex numbers, strings, empty and large variables."""
    arrays = {
        "plain": np.ones(3, "f4"),
        "bf": np.ones(3, ml_dtypes.bfloat16),
        "complex": np.ones(3, "c8"),
        "string": np.asarray(b"text", object),
        "empty": np.ones((0, 3), "f4"),
        "large": np.ones(300_000, "f4"),
    }
    formats.write(str(tmp_path / "m"), arrays)
    with formats.open(str(tmp_path / "m")) as checkpoint:
        found = {name for name in arrays if plain.numbers_of(checkpoint, checkpoint[name]) is not None}
    assert found == {"plain"}


def test_more_axes_than_numpy_has_are_left_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It refuses them in one line."""
    head = json.dumps({"w": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "r.safetensors"
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    for command in (["get", str(path), "w", "--json"], ["set", str(path), "w", "3"]):
        assert main(command) == 2
        assert "no NumPy array can have its shape" in capsys.readouterr().err
