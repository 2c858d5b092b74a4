"""Variables as NumPy arrays: dtypes by name, exact casts, values and indices typed as text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RefusedError, UnsupportedError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# TensorFlow's quantized dtypes, and the integer dtypes in which their stored numbers are read.
_QUANTIZED = {"qint8": "int8", "quint8": "uint8", "qint16": "int16", "quint16": "uint16", "qint32": "int32"}


def dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of a variable's dtype name, in native byte order; of strings, object.

    Raises:
        UnsupportedError: NumPy has no such dtype (`variant`).
    """
    if name == "string":
        return np.dtype(object)
    name = _QUANTIZED.get(name, name)
    try:
        return np.dtype(name)
    except TypeError:
        pass
    import ml_dtypes

    kind = getattr(ml_dtypes, name, None)
    if kind is None:
        raise UnsupportedError(f"values of dtype {name} cannot be read", hint="they are copied as they are")
    small: np.dtype[Any] = np.dtype(kind)
    return small


def is_small_float(kind: np.dtype[Any]) -> bool:
    """Whether it is one of ml_dtypes' floats (bfloat16, float8_…, float4_…)."""
    return str(kind.name).startswith(("bfloat", "float8", "float4"))  # their `kind` is V, but float8_e5m2's is f


def is_small_int(kind: np.dtype[Any]) -> bool:
    """Whether it is one of ml_dtypes' integers (int4, uint4, int2, uint2)."""
    return kind.kind == "V" and kind.name.startswith(("int", "uint"))


def portable(values: NDArray[Any]) -> NDArray[Any]:
    """`values` in a dtype that every NumPy knows, exactly: small floats as float32, small integers as int8 or uint8."""
    if is_small_float(values.dtype):
        return values.astype(np.float32)
    if is_small_int(values.dtype):
        return values.astype(np.uint8 if values.dtype.name.startswith("u") else np.int8)
    return values


def cast_exactly(values: NDArray[Any], kind: np.dtype[Any], name: str) -> NDArray[Any]:
    """`values` in the dtype `kind` of the variable `name`.

    Floats may be rounded to a narrower float, as every assignment does; nothing else may be lost.

    Raises:
        RefusedError: a value does not fit: text into numbers, a fraction or too large a number into integers, a
            finite float that would become infinite, an infinity or NaN into a dtype that has none.
    """
    refusal = f"{name} is {kind.name}"
    if values.dtype == kind and kind.kind != "O":
        return values
    values = portable(values)
    if values.dtype.kind not in "biufc" or kind.kind == "O":
        raise RefusedError(f"{refusal}: no such value can be set", found=values.dtype.name)
    if values.dtype.kind == "c" and kind.kind != "c":
        raise RefusedError(f"{refusal}: a complex value does not fit")
    with np.errstate(all="ignore"):
        result = values.astype(kind)
        if kind.kind in "fc" or is_small_float(kind):
            widest = np.complex128 if kind.kind == "c" else np.float64
            wide, asked = result.astype(widest), values.astype(widest)
            lost = (np.isinf(wide) != np.isinf(asked)) | (np.isnan(wide) != np.isnan(asked))
            # float4 has no infinity and gives its largest number; no rounding takes a fifth from a number above 1.
            lost |= np.isfinite(asked) & (np.abs(asked) > 1) & (np.abs(wide) < 0.8 * np.abs(asked))
        else:
            back = result.astype(np.int64) if is_small_int(kind) else result
            lost = back != values
    if np.any(lost):
        first = np.asarray(values)[np.asarray(lost)].flat[0]
        raise RefusedError(f"{refusal}: the value {first} does not fit")
    return result


def parse_value(text: str) -> NDArray[Any]:
    """The value that a person typed: a number, true or false, or a JSON list of these, nested to any shape.

    Raises:
        RefusedError: the text is neither, the list is ragged, or a float is too large for float64.
    """
    values = _parse(text)
    if values.dtype.kind in "fc" and np.isinf(values).any() and "inf" not in text.lower():
        raise RefusedError(f"a number in {text[:100]!r} is too large")
    return values


def listed(text: str, dtype: str, shape: tuple[int, ...]) -> str | NDArray[Any]:
    """Read a JSON list of strings or complex numbers where the dtype wants these; return all other text unchanged.

    Args:
        text: what was typed; complex numbers in lists are [re, im], as `get --json` has them, or text like "1+2j".
        dtype: the variable's dtype name.
        shape: the shape to set; text for a single string is never read as JSON.
    """
    is_complex = dtype.startswith("complex")
    if not text.startswith("[") or not (is_complex or (dtype == "string" and shape)):
        return text
    import json

    try:
        values = np.asarray(json.loads(text), object)
        if not is_complex:
            if all(isinstance(each, str) for each in values.flat):
                return values
            raise RefusedError(
                f"{text[:100]!r} holds more than strings", expected="a JSON list of strings, or one text"
            )
        if any(isinstance(each, str) and each.rstrip(")").endswith(("j", "J")) for each in values.flat):
            return np.asarray([complex(each) for each in values.flat]).reshape(values.shape)
        numbers = values.astype(float)  # "NaN" and "Infinity" too
    except (ValueError, TypeError, RecursionError):
        return text
    if numbers.shape != (*shape, 2):
        return np.asarray(numbers, complex)
    found = np.empty(shape, complex)
    found.real, found.imag = numbers[..., 0], numbers[..., 1]
    return found


def _parse(text: str) -> NDArray[Any]:
    import json

    try:
        return np.asarray(int(text, 0))
    except (ValueError, OverflowError):
        pass
    for kind in (float, complex):
        try:
            return np.asarray(kind(text))
        except ValueError:
            pass
    try:
        values = np.asarray(_numbers(json.loads(text)))
    except (ValueError, RecursionError):
        values = np.asarray(None)
    if values.dtype.kind not in "biuf":
        raise RefusedError(
            f"cannot parse value {text[:100]!r}",
            expected="a number, true, false or a JSON list of these, @FILE.npy, or -",
        )
    return values


def _numbers(value: Any) -> Any:
    """A value parsed from JSON, with the strings "NaN", "Infinity" and "-Infinity" replaced by numbers."""
    if isinstance(value, list):
        return [_numbers(each) for each in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def at_index(values: NDArray[Any], index: tuple[Any, ...] | None, name: str) -> NDArray[Any]:
    """A view of the part of `values` that an index selects.

    Raises:
        UsageError: the index is out of bounds, or a step is 0.
    """
    if index is None:
        return values
    if Ellipsis not in index:
        index = (*index, Ellipsis)  # so that a single element comes as a view too
    try:
        part: NDArray[Any] = values[index]
    except (IndexError, ValueError) as error:
        raise UsageError(f"{name}: {error}", found=f"shape {list(values.shape)}") from None
    return part


def from_user(value: Any, dtype_name: str, target: str) -> NDArray[Any]:
    """Convert a user's value to the dtype of the variable to be set.

    Args:
        value: anything that NumPy takes as an array, or text as a person types it.
        dtype_name: the variable's dtype.
        target: the variable as the user named it, for messages.

    Raises:
        RefusedError: the value does not fit.
    """
    if dtype_name == "string":
        if not isinstance(value, str | bytes):
            return _strings(np.asarray(value), target)
        return np.asarray(value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value, object)
    if isinstance(value, bytes):
        raise RefusedError(
            "not an array in .npy format", found=f"first bytes {value[:8].hex()}" if value else "nothing"
        )
    values = parse_value(value) if isinstance(value, str) else np.asarray(value)
    return cast_exactly(values, dtype(dtype_name), target)


def _strings(values: NDArray[Any], target: str) -> NDArray[Any]:
    """An array of str or bytes as an array of bytes."""
    flat = values.reshape(-1).tolist()
    if not all(isinstance(each, str | bytes) for each in flat):
        raise RefusedError(f"{target} is a string: no such value can be set", found=values.dtype.name)
    strings = np.empty(values.size, object)
    strings[:] = [each.encode("utf-8", "surrogateescape") if isinstance(each, str) else each for each in flat]
    return strings.reshape(values.shape)


def mean(streams: Sequence[Iterator[NDArray[Any]]], shares: Sequence[float], dtype_name: str) -> Iterator[NDArray[Any]]:
    """The weighted sum of several streams of elements, computed in float64 or complex128.

    Args:
        streams: one-dimensional arrays each; equally many elements in total, however they are split.
        shares: one factor for each stream.
        dtype_name: the dtype to which the result is rounded.
    """
    kind = dtype(dtype_name)
    wide = np.complex128 if kind.kind == "c" else np.float64
    # Equal shares are factored out, unless the sum could overflow.
    factor = shares[0] if kind.itemsize < 8 and len(set(shares)) == 1 else 1.0
    shares = [share / factor for share in shares]
    total, scaled = np.empty(0, wide), np.empty(0, wide)
    for parts in aligned(streams):
        if total.size != parts[0].size:
            total, scaled = np.empty(parts[0].size, wide), np.empty(parts[0].size, wide)
        total[...] = 0
        with np.errstate(all="ignore"):  # infinities and NaN pass through
            for part, share in zip(parts, shares, strict=True):
                if share == 1:
                    total += part
                else:
                    np.copyto(scaled, part)
                    scaled *= share
                    total += scaled
            total *= factor
            yield total.astype(kind)


def same(one: Iterator[NDArray[Any]], other: Iterator[NDArray[Any]]) -> bool:
    """Whether two streams of equally many elements hold the same bytes."""
    return all(a.tobytes() == b.tobytes() for a, b in aligned([one, other]))


def aligned(streams: Sequence[Iterator[NDArray[Any]]]) -> Iterator[list[NDArray[Any]]]:
    """Split streams of equally many elements at the same places; yield lists of equally long parts, one a stream."""
    left = [np.empty(0)] * len(streams)
    while True:
        for at, stream in enumerate(streams):
            while not left[at].size and (part := next(stream, None)) is not None:
                left[at] = part
        count = min(part.size for part in left)
        if not count:
            return
        yield [part[:count] for part in left]
        left = [part[count:] for part in left]
