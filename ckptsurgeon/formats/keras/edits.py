"""Carries out a plan on HDF5 files: replaces values in a copy of the file, or rewrites the file.

If dtype and shape stay the same and the values are stored contiguously, they are replaced while the file is copied,
without libhdf5. Anything else needs a new file, which libhdf5 writes in a child process (`sandbox/rewriting.py`) from
old and new values. The new file has no unused bytes.
"""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import ITEM_SIZE, Extent
from ...errors import CkptSurgeonError, DamagedError, RefusedError, StorageError, UnsupportedError
from ...plan import Copy, Text
from ...publish import nameless_file, write_all
from ...source import local
from .. import payload
from .naming import Arrangement
from .paths import legacy_root
from .reading import Hdf5
from .sandbox.process import Hdf5Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ...plan import Content, Plan, Result
    from .listing import Dataset

    Edit = tuple[int, int, Iterator[bytes]]

_UNKNOWN = {"int4", "uint4", "int2", "uint2", "float4_e2m1fn", "qint8", "quint8", "qint16", "quint16", "qint32"}


class Edits:
    """The changes that a plan makes to the HDF5 files of a checkpoint.

    Args:
        plan: its recipient is an HDF5 checkpoint.

    Raises:
        UnsupportedError, RefusedError, Problems: an HDF5 file cannot hold the result.

    Attributes:
        changed: numbers of the files that change.
        anew: whether a file must be rewritten.
        renames: whether names, dtypes or shapes change.
    """

    def __init__(self, plan: Plan) -> None:
        assert isinstance(plan.recipient, Hdf5)
        self.file = plan.recipient
        self.listing = plan.recipient.listing
        self._size = plan.size(True)
        ranks = next(iter(self.file.layer_tables().values()), {})
        self.results = sorted(plan.results(), key=lambda each: ranks.get(each.variable.name, len(ranks)))
        self._contents: dict[int, Content] = {}
        self._check()
        places = [(dataset.part, dataset.address) for dataset in self.listing.datasets.values()]
        shared = {place for place in places if places.count(place) > 1} if len(set(places)) < len(places) else set()
        self.changed: set[int] = set()
        self.anew = self.renames = len(self.results) != len(self.listing.variables)
        for result in self.results:
            dataset = self._dataset(result)
            if dataset is None or result.key.decode("utf-8", "surrogateescape") != result.variable.name:
                self.anew = self.renames = True
            elif not result.kept:
                self.changed.add(dataset.part)
                same = self._is_same(result)
                self.renames |= not same
                self.anew |= not same or dataset.place < 0 or (dataset.part, dataset.address) in shared

    def _dataset(self, result: Result) -> Dataset | None:
        return self.listing.datasets.get(result.variable.name)

    def _is_same(self, result: Result) -> bool:
        """Return whether a result has its variable's current dtype and shape."""
        old = self.listing.variables.get(result.variable.name)
        return old is not None and (old.dtype, old.shape) == (result.variable.dtype, result.variable.shape)

    def _check(self) -> None:
        problems: list[CkptSurgeonError] = []
        path = self.file.path
        taken: set[str] = set()
        for result in self.results:
            variable = result.variable
            name, dataset = payload.name_of(result), self._dataset(result)
            if name in taken:
                problems.append(RefusedError(f"two variables would have the name {name}", path=path))
            taken.add(name)
            if result.kept:
                continue
            if variable.dtype in _UNKNOWN or (variable.dtype not in ITEM_SIZE and variable.dtype != "string"):
                problems.append(UnsupportedError(f"{name}: HDF5 files cannot store {variable.dtype}", path=path))
            elif variable.dtype == "string" and dataset is not None and dataset.item:
                longest = max(map(len, self._strings(result)), default=0)
                if longest > dataset.item and self._is_same(result):
                    what = f"{name} holds strings of fixed length"
                    problems.append(
                        RefusedError(what, path=path, expected=f"at most {dataset.item} bytes", found=longest)
                    )
        if not self.results:
            problems.append(RefusedError("a checkpoint needs variables", path=path))
        errors.check(problems)

    def _strings(self, result: Result) -> list[bytes]:
        if isinstance(result.content, Text):
            return [result.content.value]
        from ..bundle.arrays import values_of

        values: list[bytes] = values_of(result.content, result.variable).reshape(-1).tolist()  # type: ignore[arg-type]
        return values

    # -- bytes

    def of_part(self, number: int) -> Iterator[bytes]:
        """Yield the bytes of one of the files, with the new values in place."""
        part = self.file.parts[number]
        edits = []
        for result in self.results:
            dataset = self._dataset(result)
            if dataset is not None and dataset.part == number and not result.kept:
                length = result.variable.size * dataset.item
                edits.append((dataset.place, length, self._values(result, dataset)))
        at = 0
        for place, length, chunks in sorted(edits, key=lambda edit: edit[:2]):
            if place < at:
                raise DamagedError("damaged: variables overlap", path=self.file.path)
            yield from self._between(number, at, place)
            done = 0
            for chunk in chunks:
                done += len(chunk)
                yield chunk
            if done != length:
                raise DamagedError("damaged: too few values", path=self.file.path, expected=length, found=done)
            at = place + length
        yield from self._between(number, at, part.size)

    def _between(self, number: int, start: int, end: int) -> Iterator[bytes]:
        part = self.file.parts[number]
        return self.file.chunks(Extent(part.file, part.base + start, end - start, None))

    def _values(self, result: Result, dataset: Dataset | None) -> Iterator[bytes]:
        """Return the values of a result in the byte order of its dataset."""
        found = payload.chunks(result.content, result.variable)
        is_big = dataset is not None and dataset.order == ">" and self._is_same(result)
        return payload.swapped(found, result.variable.dtype) if is_big else found

    def _check_room(self, beside: str) -> None:
        """Check, before anything is written, that the disk has room for both the new file and the result.

        Args:
            beside: a path in the folder where both are created.
        """
        folder, needed = os.path.dirname(beside) or ".", 2 * self._size
        with errors.files(folder):
            disk = os.statvfs(folder)
        free = disk.f_bavail * disk.f_frsize
        if needed > free:
            what = "not enough room on the disk"
            raise StorageError(what, path=folder, expected=f"{needed} bytes", found=f"{free} free")

    def whole(self, beside: str) -> int:
        """Write one new, unnamed file from all parts; return its descriptor, which the caller closes.

        Args:
            beside: a path in the folder where the file is created.
        """
        folder = os.path.dirname(beside) or "."
        self._check_room(beside)
        with errors.files(beside):
            fd = nameless_file(folder)
            try:
                self._write(fd)
            except BaseException:
                os.close(fd)
                raise
        return fd

    def _write(self, fd: int) -> None:
        file = self.file
        needs_order = legacy_root(self.listing.groups[0]) is None
        for part in file.parts:
            part.fd = local(file.file(part.file)).fd
        room = sum(part.size for part in file.parts) + 2 * self._room()
        for strict in (False, True):
            request, sent = self._request(strict)
            os.ftruncate(fd, 0)
            child = Hdf5Process(file.path, file.parts, fd)
            try:
                answer = child.answer(request, room, (chunk for chunks in sent for chunk in chunks))
            finally:
                child.close()
            if answer.get("ordered") is True or not needs_order:
                break
        part = file.parts[0]
        at = 0
        for chunk in file.chunks(Extent(part.file, part.base, self.listing.blocks[0], None)):
            write_all(fd, chunk, at)
            at += len(chunk)

    def _request(self, strict: bool) -> tuple[dict[str, Any], list[Iterator[bytes]]]:
        """Return the request that describes the new file, and the values to send after it."""
        datasets: list[dict[str, Any]] = [
            {"path": path, "source": [number, path], "form": None}
            for number, paths in enumerate(self.listing.types)
            for path in paths
        ]
        sent: list[Iterator[bytes]] = []
        for result in self.results:
            dataset, new = self._dataset(result), payload.name_of(result)
            form = None
            if not result.kept or dataset is None:
                form, chunks = self._form(result, dataset)
                sent.append(chunks)
            source = [0, None] if dataset is None else [dataset.part, dataset.path]
            datasets.append({"path": new, "source": source, "form": form})
        arrangement = self.arrangement()
        lists = {"groups": arrangement.groups, "lists": arrangement.lists}
        return {"do": "write", "strict": strict, "datasets": datasets, **lists}, sent

    def arrangement(self) -> Arrangement:
        """The groups of the new file.

        Raises:
            RefusedError, Problems: a file cannot have these names.
        """
        pairs = [(self._dataset(result), result) for result in self.results]
        moves = [(None if dataset is None else each.variable.name, payload.name_of(each)) for dataset, each in pairs]
        return Arrangement(self.listing, moves, self.file.path)

    def _room(self) -> int:
        return sum(result.variable.size * ITEM_SIZE.get(result.variable.dtype, 1) for result in self.results)

    def _form(self, result: Result, dataset: Dataset | None) -> tuple[dict[str, Any], Iterator[bytes]]:
        """Return how to create a new dataset, and its values."""
        variable = result.variable
        same = dataset is not None and self.listing.variables[variable.name].dtype == variable.dtype
        form: dict[str, Any] = {"dtype": variable.dtype, "shape": variable.shape, "same": same}
        if variable.dtype == "string":
            data = b"".join(len(each).to_bytes(8, "little") + each for each in self._strings(result))
            return {**form, "item": 0, "length": len(data)}, iter([data])
        form["item"] = ITEM_SIZE[variable.dtype]
        if isinstance(result.content, Copy) and result.kept and dataset is None:
            raise UnsupportedError(f"{variable.name} is not a variable of this file", path=self.file.path)
        found = payload.chunks(result.content, variable)
        return form, payload.swapped(found, variable.dtype) if same and dataset and dataset.order == ">" else found
