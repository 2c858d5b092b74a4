"""The new bytes of a bundle's variable: copied from a donor, byte-swapped, filled, computed or encoded."""

from __future__ import annotations

import sys

from ...checkpoint import CHUNK, ITEM_SIZE, Extent, Variable
from ...errors import DamagedError
from ...lean import partial
from ...plan import Copy, Elements, Fill, Packed, Result, Text, Values
from ..tensorflow.tensors import extent_sizes, same_partition
from .reading import Bundle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any

    from numpy.typing import NDArray

    Piece = Callable[[], tuple[Iterable[bytes], int | None]]

_LARGE = 1 << 23  # bytes; a reading thread pays off for extents of this size or more


def pieces_of(byteorder: str, result: Result) -> list[Piece]:
    """Return for each extent of a variable its new bytes in chunks, and their masked checksum if it is known."""
    variable, content = result.variable, result.content
    if isinstance(content, Copy) and _is_alike(content, variable, byteorder):
        return [
            partial(_copied, byteorder, content, extent, count)
            for extent, count in zip(content.variable.extents, extent_sizes(content.variable), strict=True)
        ]
    if isinstance(content, Text):
        return [partial(_text, content.value, byteorder)]
    if isinstance(content, Packed) and variable.slices is None and byteorder == sys.byteorder:
        return [lambda: ((content.numbers.data,), None)]
    from . import arrays

    if isinstance(content, Fill):
        element = arrays.encode_number(content.number, variable.dtype, byteorder)
        return [partial(_filled, element, count * len(element)) for count in extent_sizes(variable)]
    if isinstance(content, Elements) and variable.slices is None:
        return [partial(_computed, content, byteorder)]
    parts = _Parts(content, variable)
    return [partial(_encoded, parts, variable.dtype, byteorder) for _ in extent_sizes(variable)]


def _is_alike(content: Copy, variable: Variable, byteorder: str) -> bool:
    """Return whether a donor's stored bytes suit the recipient, apart from the byte order of numbers."""
    return (
        isinstance(content.donor, Bundle)
        and same_partition(content.variable.slices, variable.slices, variable.shape)
        and (variable.is_numeric or content.donor.byteorder == byteorder)
    )


class _Parts:
    """Cuts the values of a variable into its slices; reads them for the first part, releases them after the last.

    Args:
        content: where the values come from.
        variable: the variable whose slices are used.
    """

    def __init__(self, content: Copy | Values | Elements, variable: Variable) -> None:
        self._content = content
        self._variable = variable
        self._left: list[NDArray[Any]] = []

    def next(self) -> NDArray[Any]:
        """Return the next part."""
        from . import arrays

        if not self._left:
            values = arrays.values_of(self._content, self._variable)
            self._left = arrays.split(values, self._variable)[::-1]
        return self._left.pop()


def _copied(byteorder: str, content: Copy, extent: Extent, count: int) -> tuple[Iterable[bytes], int | None]:
    donor, variable = content.donor, content.variable
    assert isinstance(donor, Bundle)
    if not variable.is_numeric:
        from .strings import checked_stream

        return checked_stream(donor.data, extent, variable.dtype, count), extent.crc
    if donor.byteorder == byteorder:
        chunks = _naming(variable, donor.checked_chunks(extent))
        if extent.length >= _LARGE:
            from ...prefetch import prefetched

            chunks = prefetched(chunks)
        return chunks, extent.crc
    component = ITEM_SIZE[variable.dtype] // (2 if variable.dtype.startswith("complex") else 1)
    return (_swapped(chunk, component) for chunk in _naming(variable, donor.checked_chunks(extent))), None


def _naming(variable: Variable, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the chunks of a variable; adds the variable's name to a DamagedError."""
    try:
        yield from chunks
    except DamagedError as error:
        error.what += f", of {variable.name}"
        raise


def _text(value: bytes, byteorder: str) -> tuple[Iterable[bytes], int | None]:
    from .strings import encode_strings

    data, crc = encode_strings([value], byteorder)
    return (data,), crc


def _filled(element: bytes, length: int) -> tuple[Iterable[bytes], int | None]:
    chunk = element * (CHUNK // len(element))
    whole, rest = divmod(length, len(chunk))
    return (chunk if at < whole else chunk[:rest] for at in range(whole + 1)), None


def _encoded(parts: _Parts, dtype: str, byteorder: str) -> tuple[Iterable[bytes], int | None]:
    from . import arrays

    data, crc = arrays.encode(parts.next(), dtype, byteorder)
    return (data,), crc


def _computed(content: Elements, byteorder: str) -> tuple[Iterable[bytes], int | None]:
    from . import arrays

    return (arrays.to_bytes(values, byteorder) for values in content.make()), None


def _swapped(chunk: bytes, component: int) -> bytes:
    swapped = bytearray(len(chunk))
    for byte in range(component):
        swapped[byte::component] = chunk[component - 1 - byte :: component]
    return bytes(swapped)
