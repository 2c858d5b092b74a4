"""The values of any result as plain bytes: little-endian, in C order, unsliced, at least one byte per element.

safetensors and NumPy files hold values in this form. Donor values already stored this way are copied in chunks
without decoding.
"""

from __future__ import annotations

from ..checkpoint import CHUNK, ITEM_SIZE
from ..plan import Copy, Elements, Fill, Text, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from ..checkpoint import Variable
    from ..plan import Content, Result


def name_of(result: Result) -> str:
    """The name of a result, as `ls` would print it: its key without the suffix that its container adds to names."""
    key, variable = result.key.decode("utf-8", "surrogateescape"), result.variable
    old = variable.key.decode("utf-8", "surrogateescape")
    added = old[len(variable.name) :] if old.startswith(variable.name) else ""
    return key[: -len(added)] if added and key.endswith(added) and len(key) > len(added) else key


def chunks(content: Content, variable: Variable) -> Iterator[bytes]:
    """The verified values of a numeric variable, at most CHUNK bytes at a time if they can be copied in chunks.

    Args:
        content: where the values come from.
        variable: gives the dtype and shape of the values.

    Raises:
        DamagedError: stored bytes contradict their checksum, if they have one; raised before the last chunk.
        UnsupportedError: the donor's container does not define how to decode its values.
    """
    if isinstance(content, Copy):
        stored = _stored(content)
        if stored is not None:
            yield from stored
            return
        yield from of_array(content.donor.read(content.variable.name))
    elif isinstance(content, Fill):
        from .bundle import arrays as bundle_arrays

        element = bundle_arrays.encode_number(content.number, variable.dtype, "little")
        yield from _repeated(element, variable.size * len(element))
    elif isinstance(content, Elements):
        for some in content.make():
            yield from of_array(some)
    elif isinstance(content, Values):
        yield from of_array(content.values)
    else:
        assert isinstance(content, Text)
        yield content.value


def _stored(content: Copy) -> Iterator[bytes] | None:
    """A donor variable's stored bytes, swapped if big-endian; None if they are not plain."""
    found = content.donor.payload(content.variable)
    if found is None:
        return None
    stored, order = found
    return stored if order == "little" else swapped(stored, content.variable.dtype)


def swapped(stored: Iterator[bytes], dtype: str) -> Iterator[bytes]:
    """Swap the byte order of all numbers, in chunks that hold only complete numbers."""
    component = ITEM_SIZE[dtype] // (2 if dtype.startswith("complex") else 1)
    for chunk in stored:
        if component == 1:
            yield chunk
            continue
        other = bytearray(len(chunk))
        for byte in range(component):
            other[byte::component] = chunk[component - 1 - byte :: component]
        yield bytes(other)


def of_array(values: NDArray[Any]) -> Iterator[bytes]:
    """The plain bytes of an array of numbers, in any byte order."""
    import sys

    import numpy as np

    values = np.ascontiguousarray(values, values.dtype.newbyteorder("="))
    if sys.byteorder != "little" and values.dtype.itemsize > 1:
        values = values.byteswap()
    data = values.reshape(-1).view(np.uint8)
    for at in range(0, data.size, CHUNK):
        yield data[at : at + CHUNK].tobytes()


def _repeated(element: bytes, length: int) -> Iterator[bytes]:
    chunk = element * (CHUNK // len(element))
    for at in range(0, length, len(chunk)):
        yield chunk[: length - at]
