"""Reads HDF5 weight files: all Keras layouts, sets of files with an index (`.weights.json`), and other HDF5 files.

A variable is a dataset; its name is the path without a leading slash. libhdf5 runs only in a child process
(`sandbox/process.py`), and opening a file asks that process for a listing. Contiguous, uncompressed values are read
directly from the file; compressed or chunked values and strings come from the process. Only datasets with the
fletcher32 filter have checksums. `writing.py` is the counterpart.
"""

from __future__ import annotations

import sys

from ... import errors
from ...checkpoint import ITEM_SIZE, Extent, Variable
from ...errors import CkptSurgeonError, DamagedError, UnsupportedError
from ...names import natural_key
from ...source import local
from ..files.watched import WatchedFiles
from . import layers, slots
from .listing import Dataset, Listing
from .sandbox.pipe import FileRange
from .sandbox.process import Hdf5Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from typing import Any

    from numpy.typing import NDArray

MAGIC = b"\x89HDF\r\n\x1a\n"
_MAX_RANK = 32  # limit of libhdf5
_LARGEST = 1 << 62
_MOST_DEATHS = 3  # crashes while reading values, after which reading stops


class Hdf5(WatchedFiles):
    """A checkpoint in HDF5, open for reading.

    Args:
        path: the path that the user gave.
        files: its only file; or the index of a set, followed by the set's files in order.

    Raises:
        NotFoundError: a file is missing.
        DamagedError: a file contradicts itself, or libhdf5 crashes.
        UnsupportedError: a file refers to other files, or uses an unsupported compression.

    Attributes:
        files: the files with values.
        parts: the HDF5 files, each a range of a file.
        listing: the metadata of all parts.
    """

    format = "hdf5"
    has_bare_extents = True
    has_program_order = True

    def __init__(self, path: str, files: list[str]) -> None:
        super().__init__(path, files[0])
        self.files = files[1:] or files
        self.shards = len(self.files)
        self.parts: list[FileRange] = []
        self.listing = Listing()
        self._all = files
        self._process: Hdf5Process | None = None
        self._is_reading = False
        self._deaths = 0
        self._given_up: str | None = None  # why no more values are read
        self._tables: dict[str, dict[str, int]] | None = None
        self._owners: dict[str, tuple[str, str]] | None = None
        self._names: dict[str, str] | None = None
        try:
            self._open()
            self._walk()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        for file in self._all:
            self.watch(file)
        for file in self.files:
            opened = local(self.file(file))
            self.parts.append(FileRange(file, opened.fd, 0, opened.size))

    def _walk(self) -> None:
        found: list[tuple[int, int, list[list[str | int]], str, Variable]] = []
        for number in range(len(self.parts)):
            reply = self._ask_process().answer({"do": "walk", "part": number}, self.parts[number].size)
            with errors.files(self.path):
                try:
                    self.listing.groups.append({str(path): dict(attributes) for path, attributes, _ in reply["groups"]})
                    self.listing.addresses.append({str(path): int(address) for path, _, address in reply["groups"]})
                    self.listing.blocks.append(int(reply["block"]))
                    self.listing.types.append([str(each) for each in reply["types"]])
                    for each in reply["datasets"]:
                        variable, dataset = self._variable(number, each)
                        if variable.name in self.listing.datasets:
                            what = "damaged: two files hold the same variable"
                            raise DamagedError(what, found=variable.name[:200])
                        self.listing.datasets[variable.name] = dataset
                        found.append((number, dataset.address, natural_key(variable.name), variable.name, variable))
                except (KeyError, TypeError, ValueError) as error:
                    raise DamagedError("damaged: libhdf5 returned inconsistent metadata") from error
        found.sort(key=lambda each: each[:4])
        by_place = {each[3]: each[4] for each in found}
        listed = [name for name in layers.listed(self.listing.groups[0]) if name in by_place]
        self.variables = {name: by_place[name] for name in [*listed, *by_place]}
        self.listing.variables = self.variables
        if all(dataset.place >= 0 for dataset in self.listing.datasets.values()):
            self._end_process()

    def _variable(self, number: int, reply: dict[str, Any]) -> tuple[Variable, Dataset]:
        part, dataset, dtype = self.parts[number], Dataset(number, reply), str(reply["dtype"])
        shape, size = tuple(map(int, reply["shape"])), 1
        for dimension in shape:
            size *= dimension
        length = size * dataset.item
        if len(shape) > _MAX_RANK or min(shape, default=0) < 0 or length > _LARGEST or dataset.item < 0:
            raise DamagedError("damaged: impossible shape", found=f"{dataset.path[:200]} {list(shape)[:40]}")
        if ITEM_SIZE.get(dtype, dataset.item) != dataset.item:
            raise ValueError(dtype)
        extents: tuple[Extent, ...] = ()
        if dataset.place >= 0:
            if dataset.place + length > part.size:
                what = "damaged: cut short"
                raise DamagedError(what, expected=f"at least {dataset.place + length} bytes", found=part.size)
            if dataset.order != ">":
                extents = (Extent(part.file, part.base + dataset.place, length, None),)
        key = dataset.path.encode("utf-8", "surrogateescape")
        return Variable(dataset.path, key, dtype, shape, extents), dataset

    # -- the process that runs libhdf5

    def _ask_process(self) -> Hdf5Process:
        if self._process is None:
            for part in self.parts:
                part.fd = local(self.file(part.file)).fd
            self._process = Hdf5Process(self.path, self.parts)
        return self._process

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def close(self) -> None:
        """As `Checkpoint.close`."""
        self._end_process()
        super().close()

    # -- Keras layers and names

    def layer_tables(self) -> dict[str, dict[str, int]]:
        """As `Checkpoint.layer_tables`: layers with weights, in model order."""
        if self._tables is None:
            self._tables = layers.tables(self.listing)
        return self._tables

    def slot_owners(self) -> dict[str, str]:
        """As `Checkpoint.slot_owners`."""
        return {slot: owner for slot, (owner, _) in self._slots().items()}

    def vague_slots(self) -> Collection[str]:
        """As `Checkpoint.vague_slots`."""
        return {slot for slot, (_, kind) in self._slots().items() if kind == slots.VAGUE}

    def _slots(self) -> dict[str, tuple[str, str]]:
        if self._owners is None:
            table = next(iter(self.layer_tables().values()), {})
            self._owners = layers.slot_owners(self.listing, self._full_names(), table)
        return self._owners

    def full_name(self, name: str) -> str | None:
        """As `Checkpoint.full_name`: layer name and role of a weight; for a slot, its optimizer too."""
        found = self._full_names().get(name)
        owner = self._slots().get(name) if found is None else None
        return slots.name_of(self.listing, name, owner, self._full_names()) if owner else found

    def _full_names(self) -> dict[str, str]:
        if self._names is None:
            self._names = layers.full_names(self.listing)
        return self._names

    # -- Checkpoint

    def payload(self, variable: Variable) -> tuple[Iterator[bytes], str] | None:
        """As `Checkpoint.payload`: everything except strings."""
        if not variable.is_numeric:
            return None
        order = self.listing.datasets[variable.name].order
        return self.stored_values(variable), "big" if order == ">" else "little"

    def stored_values(self, variable: Variable) -> Iterator[bytes]:
        """Yield the values of a variable in C order and the file's byte order, in chunks of whole elements."""
        dataset = self.listing.datasets[variable.name]
        length = variable.size * dataset.item
        if dataset.place >= 0:
            part = self.parts[dataset.part]
            yield from self.chunks(Extent(part.file, part.base + dataset.place, length, None))
            return
        done = 0
        for each in self._values(variable, length):
            done += len(each)
            yield each
        if done != length:
            what = f"damaged: too few values for {variable.name[:200]}"
            raise DamagedError(what, path=self.path, expected=length, found=done)

    def _values(self, variable: Variable, room: int) -> Iterator[bytes]:
        if self._given_up is not None:
            raise DamagedError(f"damaged: {self._given_up}; did not read {variable.name[:200]}", path=self.path)
        dataset = self.listing.datasets[variable.name]
        request = {"do": "read", "part": dataset.part, "path": dataset.path}
        own = not self._is_reading  # the process is busy sending other values, so start another
        child = self._ask_process() if own else Hdf5Process(self.path, self.parts)
        self._is_reading = True
        finished = False
        try:
            for each in child.ask(request, room):
                if isinstance(each, bytes):
                    yield each
            finished = True
        except DamagedError as error:
            error.what += f", in {variable.name[:200]}"
            self._deaths += not child.pid
            if child.ran_out_of_time:
                self._given_up = "libhdf5 did not finish reading this file"
            elif self._deaths == _MOST_DEATHS:
                self._given_up = f"libhdf5 crashed {_MOST_DEATHS} times while reading this file"
            raise
        finally:
            if not own:
                child.close()
            else:
                self._is_reading = False
                if not finished and child is self._process:
                    self._end_process()  # the rest of this answer would be taken for the next one

    def check(self, variable: Variable) -> None:
        """As `Checkpoint.check`: checks that the bytes are there and can be unpacked."""
        dataset = self.listing.datasets[variable.name]
        if dataset.place >= 0:
            part, end = self.parts[dataset.part], dataset.place + variable.size * dataset.item
            size = self.file(part.file).size
            if part.base + end > size:
                expected = f"at least {part.base + end} bytes"
                raise DamagedError("cut short", path=part.file, expected=expected, found=size)
        elif variable.dtype == "string":
            self.strings(variable)
        elif variable.is_numeric:
            for _ in self.stored_values(variable):
                pass

    def read(self, name: str) -> NDArray[Any]:
        """As `Checkpoint.read`; text is returned as stored, in UTF-8.

        Raises:
            UnsupportedError: the values are neither numbers nor strings.
        """
        variable = self[name]
        import numpy as np

        from ... import numeric

        if variable.dtype == "string":
            flat = np.empty(variable.size, object)
            flat[:] = self.strings(variable)
            return flat.reshape(variable.shape)
        if not variable.is_numeric:
            what = f"{variable.name} holds values of dtype {variable.dtype}, which cannot be read"
            raise UnsupportedError(what, path=self.path, hint="other operations copy it unchanged; 'drop' removes it")
        with errors.allocating(variable.name, variable.shape, self.path):
            values = np.empty(variable.shape, numeric.dtype(variable.dtype))
        data, at = values.reshape(-1).view(np.uint8), 0
        for chunk in self.stored_values(variable):
            if at + len(chunk) > data.size:
                raise DamagedError(f"damaged: too many values for {variable.name[:200]}", path=self.path)
            data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
            at += len(chunk)
        if self.listing.datasets[variable.name].order != "|" and self._is_foreign(variable):
            values.byteswap(inplace=True)
        return values

    def _is_foreign(self, variable: Variable) -> bool:
        return (self.listing.datasets[variable.name].order == ">") != (sys.byteorder == "big")

    def elements(self, variable: Variable) -> Iterator[NDArray[Any]]:
        """As `Checkpoint.elements`."""
        if not variable.is_numeric:
            yield self.read(variable.name).reshape(-1)
            return
        import numpy as np

        from ... import numeric

        kind = numeric.dtype(variable.dtype)
        for chunk in self.stored_values(variable):
            values = np.frombuffer(chunk, kind)
            swaps = self.listing.datasets[variable.name].order != "|" and self._is_foreign(variable)
            yield values.byteswap() if swaps else values

    def strings(self, variable: Variable) -> list[bytes]:
        """Return the values of a string variable."""
        data = b"".join(self._values(variable, self.parts[self.listing.datasets[variable.name].part].size))
        found: list[bytes] = []
        at = 0
        while at < len(data) and len(found) <= variable.size:
            length = int.from_bytes(data[at : at + 8], "little")
            found.append(data[at + 8 : at + 8 + length])
            at += 8 + length
        if at != len(data) or len(found) != variable.size:
            raise DamagedError(f"damaged: too few strings for {variable.name[:200]}", path=self.path)
        return found

    def nbytes(self, variable: Variable) -> int | None:
        """As `Checkpoint.nbytes`; the stored size if the values cannot be read."""
        if variable.is_numeric:
            return variable.size * self.listing.datasets[variable.name].item
        if variable.dtype != "string":
            return self.listing.datasets[variable.name].stored
        try:
            return sum(map(len, self.strings(variable)))
        except CkptSurgeonError:
            return None
