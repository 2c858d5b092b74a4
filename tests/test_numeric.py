"""Values as people type them, indexes, and casts that lose nothing unsaid."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, numbers, same

from ckptsurgeon import numeric, plain
from ckptsurgeon.checkpoint import ITEM_SIZE
from ckptsurgeon.errors import CkptSurgeonError, RefusedError, UnsupportedError, UsageError

# -- dtypes


@pytest.mark.parametrize("name", ITEM_SIZE)
def test_every_stored_dtype_has_one_in_numpy(name: str) -> None:
    """Of the size in which TensorFlow stores it, and in native byte order."""
    kind = numeric.dtype(name)
    assert kind.itemsize == ITEM_SIZE[name]
    assert kind.isnative
    assert kind.name == name.replace("qu", "u").replace("qi", "i")


def test_dtypes_without_numbers() -> None:
    """Strings are objects; variants are nothing that NumPy could hold."""
    assert numeric.dtype("string") == np.dtype(object)
    with pytest.raises(UnsupportedError, match="variant"):
        numeric.dtype("variant")


def test_the_small_kinds_are_told_apart() -> None:
    """ml_dtypes' floats and integers, and none of NumPy's own."""
    small_floats = {name for name in DTYPES if numeric.is_small_float(numeric.dtype(name))}
    small_ints = {name for name in DTYPES if numeric.is_small_int(numeric.dtype(name))}
    assert small_floats == {name for name in DTYPES if name.startswith(("bfloat", "float8", "float4"))}
    assert small_ints == {"int4", "uint4", "int2", "uint2"}


@given(st.sampled_from(DTYPES).flatmap(numbers))
def test_portable_values_are_the_same_in_numpys_own_dtypes(values: Any) -> None:
    """Nothing is lost on the way to a dtype that every NumPy knows, and back."""
    portable = numeric.portable(values)
    assert portable.dtype.type.__module__ == "numpy"
    wide = np.complex128 if values.dtype.kind == "c" else np.float64
    with np.errstate(all="ignore"):
        back = portable.astype(values.dtype)
        np.testing.assert_array_equal(portable.astype(wide), values.astype(wide))
        np.testing.assert_array_equal(back.astype(wide), values.astype(wide))


# -- casts

FITS = [
    (1.5, "float32"), (1, "bfloat16"), (0.1, "float16"), (1e-50, "float32"), (float("inf"), "float32"),
    (float("nan"), "float16"), (-float("inf"), "float8_e5m2"), (float("nan"), "float8_e4m3fn"), (65504, "float16"),
    (3.0, "int32"), (-128, "int8"), (255, "uint8"), (True, "bool"), (1, "bool"), (0.0, "bool"), (True, "float32"),
    (7, "int4"), (-8.0, "int4"), (15, "uint4"), (-2, "int2"), (3, "uint2"), (6, "float4_e2m1fn"), (5, "float4_e2m1fn"),
    (448, "float8_e4m3fn"), (57344, "float8_e5m2"), (1 + 2j, "complex64"), (1, "complex128"), ((1 << 63) - 1, "int64"),
    ((1 << 64) - 1, "uint64"), ((1 << 53) + 1, "float64"), (-128, "qint8"), (1e300, "complex128"),
]  # fmt: skip
DOES_NOT_FIT = [
    (1e39, "float32"), (-1e39, "float32"), (65520, "float16"), (1 << 200, "float32"), (1e39, "complex64"),
    (float("inf"), "float8_e4m3fn"), (500, "float8_e4m3fn"), (1e6, "float8_e5m2"), (12, "float4_e2m1fn"),
    (float("nan"), "float4_e2m1fn"), (float("inf"), "float4_e2m1fn"), (0.5, "int32"), (128, "int8"), (-129, "int8"),
    (256, "uint8"), (-1, "uint8"), (-1, "uint64"), (1 << 63, "int64"), (1e19, "int64"), (float("nan"), "int32"),
    (float("inf"), "int64"), (2, "bool"), (0.5, "bool"), (float("nan"), "bool"), (8, "int4"), (-9, "int4"),
    (16, "uint4"), (-1, "uint4"), (2, "int2"), (4, "uint2"), (1e9, "int4"), (1j, "float32"), (1j, "int32"),
    ("1", "float32"), (b"1", "int32"), (None, "float32"), (1, "string"), (1 << 64, "uint64"),
    (np.datetime64("2016-05-01"), "int64"), (np.zeros(1, [("x", "f4")]), "float32"), ([1, 1 << 40], "int32"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "name"), FITS)
def test_what_fits_is_cast(value: Any, name: str) -> None:
    """To the nearest value of the dtype, which for integers is the value."""
    kind = numeric.dtype(name)
    result = numeric.cast_exactly(np.asarray(value), kind, "w")
    assert result.dtype == kind
    wide = numeric.portable(result).astype(np.complex128)
    np.testing.assert_allclose(wide, complex(value), rtol=0.25, atol=1e-40)
    if kind.kind in "iub":
        assert int(result) == value


@pytest.mark.parametrize(("value", "name"), DOES_NOT_FIT)
def test_what_does_not_fit_is_refused(value: Any, name: str) -> None:
    """One line that says what the target is; nothing wraps, saturates or turns into another kind."""
    with pytest.raises(RefusedError, match=r"^w is ") as raised:
        numeric.cast_exactly(np.asarray(value), numeric.dtype(name), "w")
    assert len(str(raised.value).splitlines()) == 1


@given(st.sampled_from(DTYPES).flatmap(numbers), st.sampled_from(DTYPES))
def test_a_cast_is_exact_or_rounded_or_refused(values: Any, name: str) -> None:
    """Between any two dtypes: integers stay equal, floats are the nearest, and what is refused would have changed."""
    kind = numeric.dtype(name)
    try:
        result = numeric.cast_exactly(values, kind, "w")
    except RefusedError:
        assert values.size or values.dtype.kind == "c"
        assert values.dtype != kind
        return
    assert result.dtype == kind
    assert result.shape == values.shape
    wide = np.complex128 if "c" in (values.dtype.kind, kind.kind) else np.float64
    with np.errstate(all="ignore"):  # signalling NaN
        before, after = values.astype(wide), result.astype(wide)
    if kind.kind in "iub" or numeric.is_small_int(kind):
        np.testing.assert_array_equal(after, before)
    else:
        assert np.array_equal(np.isfinite(after), np.isfinite(before))
    if values.dtype == kind:
        assert same(result, values)


@given(st.sampled_from(DTYPES).flatmap(numbers))
def test_a_cast_to_the_own_dtype_keeps_every_bit(values: Any) -> None:
    """NaN with odd bits included."""
    assert same(numeric.cast_exactly(values, values.dtype, "w"), values)


# -- what a person types

TYPED = [
    ("3", 3), ("-3", -3), ("0x10", 16), ("0b11", 3), ("1_000", 1000), (" 7 ", 7), ("2.5", 2.5), ("1e-3", 0.001),
    ("inf", np.inf), ("-Infinity", -np.inf), ("1+2j", 1 + 2j), ("true", True), ("false", False),
    ("[1, 2]", [1, 2]), ("[[1.5], [2]]", [[1.5], [2]]), ("[true, false]", [True, False]), ("[]", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "value"), TYPED)
def test_values_as_they_are_typed(text: str, value: Any) -> None:
    """Numbers in Python's spelling, true and false, and JSON lists."""
    parsed = numeric.parse_value(text)
    np.testing.assert_array_equal(parsed, np.asarray(value))
    assert parsed.dtype.kind == np.asarray(value).dtype.kind


def test_nan_can_be_typed() -> None:
    """It equals nothing, so it has a test of its own."""
    assert np.isnan(numeric.parse_value("nan"))


@pytest.mark.parametrize(
    "text",
    ["", "abc", "None", "True", '"text"', "[1, [2]]", '["a"]', "[null]", "{}", '{"a": 1}', "[1", "1 2", "null", "1e999",
     "9" * 5000, "-" + "9" * 5000, "[" * 100_000, "[" * 70 + "]" * 70, "\x00", "1e400+1j", "[1, 1e400]"],
)  # fmt: skip
def test_what_is_no_value_is_refused(text: str) -> None:
    """Text, ragged or endlessly nested lists, and numbers beyond all floats: one short line."""
    with pytest.raises(RefusedError) as raised:
        numeric.parse_value(text)
    assert len(str(raised.value)) < 400


@given(st.text(max_size=20))
def test_any_text_is_a_value_or_refused(text: str) -> None:
    """Nothing that a person types ends in another exception."""
    try:
        value = numeric.parse_value(text)
    except CkptSurgeonError:
        return
    assert value.dtype.kind in "biufcO"  # an integer of any size is told to be too large where its dtype is known


# -- indexes

INDEXED = ["3", "-1", "0:2", "0:2,:", ":,1", "...", "...,0", "::2", "::-1", "1:,-1", " 1 , 2 ", "2:1", "0:100", "1,2"]
ARRAY = np.arange(20).reshape(4, 5)


@pytest.mark.parametrize("text", INDEXED)
def test_indexes_are_numpys(text: str) -> None:
    """What stands between the brackets means what it means in NumPy, and what it gives is a view."""
    part = numeric.at_index(ARRAY, plain.parse_index(text), "w")
    np.testing.assert_array_equal(part, eval(f"ARRAY[{text}]"))
    assert isinstance(part, np.ndarray)
    assert part.base is not None


def test_no_index_is_everything() -> None:
    """Without an index the values themselves come back."""
    assert numeric.at_index(ARRAY, None, "w") is ARRAY


@pytest.mark.parametrize("text", ["", "a", "1.5", "1:2:3:4", "1,", "None", "newaxis", "1:b", "[0]", "9" * 5000, "0x1"])
def test_what_is_no_index_is_refused(text: str) -> None:
    """One line that shows the index."""
    with pytest.raises(UsageError, match="invalid index"):
        plain.parse_index(text)


@pytest.mark.parametrize("text", ["4", "-5", "0,5", "0,0,0", "...,...", "::0", "9" * 30, "0," * 70 + "0"])
def test_an_index_outside_is_refused(text: str) -> None:
    """One line that names the variable and its shape."""
    with pytest.raises(UsageError, match=r"^w: .*found shape \[4, 5\]"):
        numeric.at_index(ARRAY, plain.parse_index(text), "w")


# -- from user to variable


@pytest.mark.parametrize(
    ("value", "dtype", "result"),
    [
        ("2", "float32", np.float32(2)),
        ("2", "int64", np.int64(2)),
        ([1, 2], "bfloat16", np.array([1, 2], ml_dtypes.bfloat16)),
        (np.float64(0.5), "float16", np.float16(0.5)),
        ("true", "bool", np.True_),
        ("[1,2]", "qint8", np.array([1, 2], np.int8)),
    ],
)
def test_values_take_the_dtype_of_their_variable(value: Any, dtype: str, result: Any) -> None:
    """Text, lists and arrays alike."""
    assert same(numeric.from_user(value, dtype, "w"), np.asarray(result))


@pytest.mark.parametrize("value", ["text", b"text", "2", "", "ü\udcff", b"\x00"])
def test_strings_are_stored_as_they_are(value: str | bytes) -> None:
    """A string variable takes text as UTF-8 and bytes as they are; no number is seen in it."""
    stored = numeric.from_user(value, "string", "w")
    assert stored.dtype == object
    assert stored.item() == (value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value)


@pytest.mark.parametrize(("value", "dtype"), [([5], "string"), (5, "string"), ("abc", "int32"), ("1", "variant")])
def test_what_a_variable_cannot_take_is_refused(value: Any, dtype: str) -> None:
    """Numbers into a string, text into numbers, anything into a variant."""
    with pytest.raises(CkptSurgeonError):
        numeric.from_user(value, dtype, "w")
