"""Variable, Extent and Checkpoint: the small reading interface that all formats provide.

A checkpoint is a mapping of names to variables. Opening one reads only metadata. Its files are a snapshot: TensorFlow
and this package replace files and never edit them, so an open file keeps its old bytes.
"""

from __future__ import annotations

from abc import abstractmethod

from .errors import NotFoundError, did_you_mean, files, printable
from .lean import Mapping, prod
from .source import open_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from types import TracebackType
    from typing import Any, Protocol

    from numpy.typing import NDArray
    from typing_extensions import Self

    from .source import Source

    class Edit(Protocol):
        """The parts of a change (`plan.Change`) that a container needs to keep itself consistent."""

        action: str
        variable: Variable
        key: bytes
        name: str
        source: str | None

        @property
        def donor(self) -> Checkpoint | None:
            """The checkpoint from which the new values are copied, or None."""


# Bytes per element, by dtype name: that of NumPy or ml_dtypes, otherwise TensorFlow's. TensorFlow stores dtypes smaller
# than a byte (int4, …) in one byte each. Strings and variants have no fixed size and are not listed.
ITEM_SIZE = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
    "qint8": 1, "quint8": 1, "qint16": 2, "quint16": 2, "qint32": 4,
    "float8_e5m2": 1, "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e4m3b11fnuz": 1, "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1, "float4_e2m1fn": 1, "int4": 1, "uint4": 1, "int2": 1, "uint2": 1,
}  # fmt: skip

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # records which object of an object-based checkpoint holds which variable
STORED = "stored"  # the scheme of a streamed checkpoint, which contains its layer numbers
CHUNK = 1 << 19  # bytes that a copy holds in memory at a time; they stay in the processor's cache until written


class Extent:
    """The place of stored bytes, with all that is needed to copy them without decoding.

    Attributes:
        file: path of the file.
        offset: of the first byte, in bytes.
        length: length in bytes.
        crc: the masked CRC-32C that the checkpoint stores for the bytes; None if the format has no checksums.
    """

    __slots__ = ("crc", "file", "length", "offset")

    def __init__(self, file: str, offset: int, length: int, crc: int | None) -> None:
        self.file = file
        self.offset = offset
        self.length = length
        self.crc = crc


class Variable:
    """One named tensor of a checkpoint; its bytes stay on disk.

    Attributes:
        name: as `ls` prints it.
        key: the name as the file stores it.
        dtype: the name in NumPy or ml_dtypes, otherwise TensorFlow's (`qint8`, `string`, `variant`).
        shape: its dimensions; `()` for a scalar.
        extents: one, or one for each slice of a partitioned variable.
        slices: None, or for each extent the (start, length) in every dimension; length -1 means all of it.
    """

    __slots__ = ("dtype", "extents", "key", "name", "shape", "slices")

    def __init__(
        self,
        name: str,
        key: bytes,
        dtype: str,
        shape: tuple[int, ...],
        extents: tuple[Extent, ...],
        slices: tuple[tuple[tuple[int, int], ...], ...] | None = None,
    ) -> None:
        self.name = name
        self.key = key
        self.dtype = dtype
        self.shape = shape
        self.extents = extents
        self.slices = slices

    def __repr__(self) -> str:
        return f"Variable({self.name!r}, {self.dtype}, {list(self.shape)})"

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def is_whole(self) -> bool:
        """Whether all elements are stored; of a slot, TensorFlow may store the slices of one partition alone."""
        if self.slices is None:
            return True
        pairs = (zip(part, self.shape, strict=True) for part in self.slices)
        parts = (tuple(size if length < 0 else length for (_, length), size in part) for part in pairs)
        return self.size == sum(map(prod, parts))

    @property
    def is_numeric(self) -> bool:
        """Whether the elements have a fixed size (not strings or variants)."""
        return self.dtype in ITEM_SIZE


class Checkpoint(Mapping[str, Variable]):
    """A set of named variables on disk: a mapping of names to `Variable`s, open until closed, equal only to itself.

    Attributes:
        path: the name that errors and reports use; of a TensorBundle, its prefix.
        format: its name in listings: `tf-v2`, `npz`, ….
        has_bare_extents: extents hold only the values, little- or big-endian, without anything in between.
        has_program_order: variables are in the order in which the program created them, not sorted by name.
        byteorder: byte order of the stored numbers, "little" or "big".
        variables: name -> Variable, in the file's order.
        main_file: the file whose replacement replaces the checkpoint: a bundle's index, a V1 checkpoint's only file.
        shards: number of files that hold values.
    """

    format = ""
    has_bare_extents = False
    has_program_order = False

    def __init__(self, path: str, main_file: str) -> None:
        self.path = path
        self.main_file = main_file
        self.byteorder = "little"
        self.variables: dict[str, Variable] = {}
        self.shards = 1
        self._open_files: dict[str, Source] = {}
        self._main: Source | None = None

    # -- a mapping of names to variables

    def __len__(self) -> int:
        return len(self.variables)

    def __iter__(self) -> Iterator[str]:
        return iter(self.variables)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.find(name) is not None

    def __getitem__(self, name: str) -> Variable:
        variable = self.find(name)
        if variable is None:
            hint = did_you_mean(name, self.variables) or f"'ckptsurgeon ls {self.path}' lists them"
            raise NotFoundError(f"no variable {name}", path=self.path, hint=hint)
        return variable

    def get(self, name: str, default: Any = None) -> Any:
        """The variable of this name, or `default`."""
        variable = self.find(name)
        return default if variable is None else variable

    __eq__ = object.__eq__  # Mapping's `__eq__` would compare all variables
    __hash__ = object.__hash__

    def find(self, name: str) -> Variable | None:
        """Return the variable of this name, or of this name without a trailing `:0`; None if there is none."""
        variable = self.variables.get(name)
        if variable is None and name.endswith(":0"):
            variable = self.variables.get(name[:-2])
        return variable

    def named(self, text: str) -> Variable | None:
        r"""Return the variable that a user means: as `find`, or by its name as listings print it (with \xHH)."""
        variable = self.find(text)
        if variable is None and "\\" in text:
            shown = printable(text)
            variable = next((each for name, each in self.variables.items() if printable(name) == shown), None)
        return variable

    # -- bytes

    def file(self, path: str) -> Source:
        """Return one of the checkpoint's files, opened once and kept open until the checkpoint is closed.

        Raises:
            NotFoundError: the file is missing.
            DamagedError: not a regular file (a pipe or device could block forever).
        """
        file = self._open_files.get(path)
        if file is None:
            with files(path):
                file = self._open_files[path] = open_source(path)
        return file

    @property
    def data_files(self) -> list[str]:
        """Paths of all files that hold only bare values, including files whose values are all unused."""
        return []

    def was_replaced(self) -> bool:
        """Return whether the main file was replaced or removed since it was opened."""
        return not self.main.is_current()

    @property
    def main(self) -> Source:
        """The main file as first opened; it is closed with the checkpoint."""
        if self._main is None:
            self._main = self.file(self.main_file)
        return self._main

    # -- metadata that the container itself records about its variables

    def oddities(self) -> list[str]:
        """Problems in the metadata that do not prevent reading the checkpoint."""
        return []

    def layer_tables(self) -> dict[str, dict[str, int]]:
        """Layers recorded by the container itself: scheme name -> variable name -> layer number."""
        return {}

    def slot_owners(self) -> dict[str, str]:
        """Slots recorded by the container itself: slot name -> variable name."""
        return {}

    def vague_slots(self) -> Collection[str]:
        """Slots whose variable is known, but not what they hold of it: momentum, an average, …."""
        return ()

    def full_name(self, name: str) -> str | None:
        """Return the name of the variable in the program that saved it, if the container records it."""
        return None

    def key_of(self, name: str) -> bytes:
        """Return the key under which the container would store a new variable of this name."""
        return name.encode("utf-8", "surrogateescape")

    def consequences(self, changes: Sequence[Edit]) -> dict[str, bytes]:
        """Return new values for the container's own scalar strings, by name, that keep it consistent after the changes.

        Raises:
            RefusedError: the container cannot be kept consistent.
        """
        return {}

    # -- operations that a format may offer without decoding values

    @property
    def container(self) -> str:
        """The name of the format that writes such a checkpoint, as in the table of formats."""
        return self.format

    def payload(self, variable: Variable) -> tuple[Iterator[bytes], str] | None:
        """Return a variable's stored bytes, if they are its whole values in C order, a byte or more per element.

        Returns:
            Chunks of bytes, and their byte order, "little" or "big"; a checksum, if there is one, is verified before
            the last chunk is yielded. None if the values must be read by `read` or `elements`.

        Raises:
            UnsupportedError: the values can neither be copied nor read.
        """
        return None

    def holds_same_rows(self, variable: Variable, donor: Checkpoint, other: Variable) -> bool | None:
        """Return whether two variables are stored identically; None if only comparing values can show it."""
        return None

    # -- bytes of variables

    @abstractmethod
    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """Yield the stored bytes of an extent, unchecked, at most CHUNK of them at a time.

        Raises:
            DamagedError: the file ends before the extent does.
        """

    @abstractmethod
    def check(self, variable: Variable) -> None:
        """Read all bytes of a variable and compare them with the stored checksum.

        Raises:
            DamagedError: the checksum differs, or bytes are missing.
        """

    @abstractmethod
    def read(self, name: str) -> NDArray[Any]:
        """Return the values of a variable, with its checksum verified.

        Returns:
            An array of the variable's shape and dtype in native byte order, which owns its memory; strings as objects
            of type bytes.

        Raises:
            NotFoundError: no such variable.
            DamagedError: bytes are missing, or their checksum is wrong.
        """

    def elements(self, variable: Variable) -> Iterator[NDArray[Any]]:
        """Yield the values of a variable in C order, in portions if its format allows it.

        Yields:
            One-dimensional arrays of its dtype in native byte order. The checksum is verified before the last one is
            yielded, so call `check` first if work on the earlier ones cannot be undone.

        Raises:
            DamagedError: as `read`.
        """
        yield self.read(variable.name).reshape(-1)

    @abstractmethod
    def nbytes(self, variable: Variable) -> int | None:
        """Return the size of the values in bytes: elements times item size; for strings, the sum of their lengths.

        None for string variables whose data file is missing.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hexadecimal digest that changes when anything in the checkpoint does."""

    def close(self) -> None:
        """Close all files; the metadata stays usable."""
        while self._open_files:
            self._open_files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
