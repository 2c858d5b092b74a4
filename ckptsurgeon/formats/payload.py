"""The values of any result as plain bytes: little-endian, in C order, whole, a byte at least for each element.

That is what safetensors and NumPy's files hold. What a donor stores so is handed on in chunks without being decoded.
"""

from __future__ import annotations

from ..checkpoint import CHUNK, ITEM_SIZE
from ..errors import UnsupportedError
from ..plan import Copy, Elements, Fill, Text, Values
from .bundle.reading import Bundle
from .npz.reading import Npz
from .safetensors.reading import BITS, SafeTensors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from ..checkpoint import Variable
    from ..plan import Content, Result


def name_of(result: Result) -> str:
    """The name of a result, as `ls` would print it: its key less what its own container adds to names."""
    key, variable = result.key.decode("utf-8", "surrogateescape"), result.variable
    old = variable.key.decode("utf-8", "surrogateescape")
    added = old[len(variable.name) :] if old.startswith(variable.name) else ""
    return key[: -len(added)] if added and key.endswith(added) and len(key) > len(added) else key


def chunks(content: Content, variable: Variable) -> Iterator[bytes]:
    """The values of a numeric variable, at most CHUNK bytes at a time where they can be copied so; checked.

    Args:
        content: where they come from.
        variable: what they are to be: dtype and shape.

    Raises:
        DamagedError: stored bytes contradict their checksum, if they have one; told before the last chunk.
        UnsupportedError: the donor's container does not say what its values are.
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
    """The stored bytes of a donor's variable, if they are plain or only of the other byte order."""
    donor, variable = content.donor, content.variable
    if isinstance(donor, SafeTensors):
        if BITS[variable.dtype] == 6:
            what = f"{variable.name}: values of dtype {variable.dtype} cannot be read"
            raise UnsupportedError(what, path=donor.path, hint="safetensors files alone hold them")
        return donor.chunks(variable.extents[0]) if BITS[variable.dtype] >= 8 else None
    if isinstance(donor, Npz):
        stored, form = donor.plain_chunks(variable), donor.forms[variable.name]
        return swapped(stored, variable.dtype) if stored and form and form.order == ">" else stored
    if donor.format in ("hdf5", "keras-zip"):
        from .keras.reading import Hdf5

        assert isinstance(donor, Hdf5)
        if not variable.is_numeric:
            return None
        stored, order = donor.payload(variable), donor.datasets[variable.name].order
        return swapped(stored, variable.dtype) if order == ">" else stored
    if donor.format == "torch":
        from .torch.reading import Torch

        assert isinstance(donor, Torch)
        values = donor.plain_chunks(variable)
        return swapped(values, variable.dtype) if values and donor.byteorder == "big" else values
    if isinstance(donor, Bundle) and variable.slices is None and variable.is_numeric:
        found = donor.checked_chunks(variable.extents[0])
        return found if donor.byteorder == "little" else swapped(found, variable.dtype)
    return None


def swapped(stored: Iterator[bytes], dtype: str) -> Iterator[bytes]:
    """Chunks of whole numbers with the bytes of each in the other order."""
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
