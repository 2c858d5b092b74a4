"""Variable, Extent and Checkpoint: the small reading interface that all formats provide.

A checkpoint is a mapping of names to variables. Opening one reads only metadata. Its files are a snapshot: TensorFlow
and this package replace files and never edit them, so an open file keeps its bytes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from .errors import NotFoundError, did_you_mean, files, printable
from .source import open_source

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Any, Protocol

    from numpy.typing import NDArray
    from typing_extensions import Self

    from .source import Source

    class Edit(Protocol):
        """What a container needs to know of a change (`plan.Change`) to stay consistent with itself."""

        action: str
        variable: Variable
        key: bytes
        name: str
        source: str | None

        @property
        def donor(self) -> Checkpoint | None:
            """The checkpoint from which the new values are copied, if they are."""


# Bytes of an element, by dtype name: NumPy's names and ml_dtypes', else TensorFlow's. TensorFlow stores the kinds of
# less than a byte (int4, …) in one byte each. Strings and variants have no fixed size and are not listed.
ITEM_SIZE = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "int64": 8, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16,
    "qint8": 1, "quint8": 1, "qint16": 2, "quint16": 2, "qint32": 4,
    "float8_e5m2": 1, "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e4m3b11fnuz": 1, "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1, "float4_e2m1fn": 1, "int4": 1, "uint4": 1, "int2": 1, "uint2": 1,
}  # fmt: skip

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # of an object-based checkpoint: which object holds which variable
STORED = "stored"  # the scheme of a streamed checkpoint, which brings the numbers of its layers along
CHUNK = 1 << 19  # bytes that a copy holds in memory at a time: they stay in the processor's cache from read to write


class Extent:
    """Where bytes lie, and enough to copy them without decoding them.

    Attributes:
        file: path of the file.
        offset: of the first byte, in bytes.
        length: in bytes.
        crc: the masked CRC-32C that the checkpoint stores for these bytes; None if the format has no checksums.
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
        dtype: NumPy's or ml_dtypes' name, else TensorFlow's (`qint8`, `string`, `variant`).
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
        size = 1
        for dimension in self.shape:
            size *= dimension
        return size

    @property
    def is_numeric(self) -> bool:
        """Whether its elements have a fixed size (no string, no variant)."""
        return self.dtype in ITEM_SIZE


class Checkpoint(Mapping[str, Variable]):
    """A set of named variables on disk: a mapping of names to `Variable`s, open until closed, equal only to itself.

    Attributes:
        path: the name that errors and reports use; of a TensorBundle, its prefix.
        format: its name in listings: `tf-v2`, `npz`, ….
        has_bare_extents: extents hold the values themselves, little- or big-endian, with nothing in between.
        has_program_order: variables stand in the order in which the program made them, not by name.
        byteorder: of the stored numbers, "little" or "big".
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

    __eq__ = object.__eq__  # Mapping's would compare all variables
    __hash__ = object.__hash__

    def find(self, name: str) -> Variable | None:
        """The variable of this name, or of this name without a trailing `:0`; None if there is none."""
        variable = self.variables.get(name)
        if variable is None and name.endswith(":0"):
            variable = self.variables.get(name[:-2])
        return variable

    def named(self, text: str) -> Variable | None:
        r"""The variable that a person means: as `find`, or as listings print its name (what does not print as \xHH)."""
        variable = self.find(text)
        if variable is None and "\\" in text:
            shown = printable(text)
            variable = next((each for name, each in self.variables.items() if printable(name) == shown), None)
        return variable

    # -- bytes

    def file(self, path: str) -> Source:
        """One of the checkpoint's files, opened once and kept open until the checkpoint is closed.

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
        """Whether the main file was replaced or removed since it was opened."""
        return not self.main.is_current()

    @property
    def main(self) -> Source:
        """The main file as it was first opened; closed once the checkpoint is."""
        if self._main is None:
            self._main = self.file(self.main_file)
        return self._main

    # -- what the container itself records about its variables

    def oddities(self) -> list[str]:
        """Problems in the metadata that do not prevent reading the checkpoint."""
        return []

    def layer_tables(self) -> dict[str, dict[str, int]]:
        """Layers recorded by the container itself: scheme name -> variable name -> layer number."""
        return {}

    def slot_owners(self) -> dict[str, str]:
        """Slots recorded by the container itself: slot name -> variable name."""
        return {}

    def full_name(self, name: str) -> str | None:
        """The name of the variable in the program that saved it, if the container records it."""
        return None

    def key_of(self, name: str) -> bytes:
        """The key under which the container would store a new variable of this name."""
        return name.encode("utf-8", "surrogateescape")

    def consequences(self, changes: Sequence[Edit]) -> dict[str, bytes]:
        """The new values of the container's own scalar strings, by name, that keep it consistent after the changes.

        Raises:
            RefusedError: the container cannot be kept consistent.
        """
        return {}

    # -- what formats may do without decoding values

    @property
    def container(self) -> str:
        """The name of its row in the table of formats, which says how such a checkpoint is written."""
        return self.format

    def payload(self, variable: Variable) -> tuple[Iterator[bytes], str] | None:
        """The values of a variable as they are stored, if that is whole, in C order, a byte at least for each element.

        Returns:
            Chunks of bytes, checked against their checksum by the last one if they have one, and their byte order,
            "little" or "big"; None if the values must be read.

        Raises:
            UnsupportedError: such values can neither be handed on nor read.
        """
        return None

    def holds_same_rows(self, variable: Variable, donor: Checkpoint, other: Variable) -> bool | None:
        """Whether a variable is stored just as another checkpoint's is; None if that is not known without reading."""
        return None

    # -- bytes of variables

    @abstractmethod
    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """The stored bytes of an extent, at most CHUNK of them at a time, unchecked.

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
        """The values of a variable, its checksum verified.

        Returns:
            An array of the variable's shape and dtype in native byte order, which owns its memory; strings as objects
            of type bytes.

        Raises:
            NotFoundError: no such variable.
            DamagedError: bytes are missing, or their checksum is wrong.
        """

    def elements(self, variable: Variable) -> Iterator[NDArray[Any]]:
        """The values of a variable in C order, some at a time where its format allows it.

        Yields:
            One-dimensional arrays of its dtype in native byte order. The checksum is verified by the last one, so
            call `check` first if work on the earlier ones cannot be undone.

        Raises:
            DamagedError: as `read`.
        """
        yield self.read(variable.name).reshape(-1)

    @abstractmethod
    def nbytes(self, variable: Variable) -> int | None:
        """Bytes of the values: elements times item size; of strings the sum of their lengths.

        None for string variables whose data file is missing.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A digest, as hexadecimal digits, that changes when anything in the checkpoint does."""

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
