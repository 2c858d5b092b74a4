"""Reads NumPy files: npz, a zip file of arrays, and npy, a single array, which is a checkpoint of one variable.

Nothing is ever unpickled: an array of Python objects is listed with the dtype `object`, copied when unchanged, and
never read. The same holds for records and other dtypes that only NumPy has. Strings of fixed length are read as
strings; a member that is not an array is a scalar string of all its bytes. Opening reads the zip file's directory and
the header of each array. `writing` writes these files.
"""

from __future__ import annotations

import os
import sys

from ... import errors
from ...checkpoint import CHUNK, ITEM_SIZE, Checkpoint, Extent, Variable
from ...errors import ChangedError, CkptSurgeonError, DamagedError, NotFoundError, UnsupportedError
from ...plain import MAGIC
from ...source import open_source
from ..files import zipped
from . import header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from ...source import Source
    from ..files.zipped import ZipMember
    from .header import ArrayForm

ENDING = ".npy"
# Limits the size of an unpacked member to the larger of _FLOOR bytes and _RATIO times its packed size.
_FLOOR = 32 << 20
_RATIO = 100
# Memory in bytes: overhead of each string, and what an array's strings may take besides half of that per packed byte.
_PER_STRING = 50
_STRINGS = 48 << 20


def kind_of(path: str) -> str | None:
    """Whether a file is an `npz` or an `npy`, by its content; None if it is something else.

    A zip file is an npz if it holds an array and is not a Keras file; a damaged one if its name ends in `.npz`.
    """
    with open_source(path) as file:
        head = file.read(0, len(MAGIC))
        if head == MAGIC:
            return "npy"
        if not head.startswith((zipped.MAGIC, zipped.EMPTY)):
            return None
        try:
            names = {each.text for each in zipped.ZipDirectory(file.read, file.size).members}
        except CkptSurgeonError:
            return "npz" if path.endswith(".npz") else None
    is_keras = "config.json" in names and any(name.startswith("model.weights") for name in names)
    return "npz" if not is_keras and any(name.endswith(ENDING) for name in names) else None


def _names(members: list[str]) -> dict[str, str]:
    """Map member names to variable names: `.npy` is stripped unless that name is already taken."""
    names = {text: text for text in members if not text.endswith(ENDING)}
    taken = set(names)
    for text in sorted((text for text in members if text.endswith(ENDING)), key=len):
        short = text[: -len(ENDING)]
        names[text] = short if short and short not in taken else text
        taken.add(names[text])
    return names


class Npz(Checkpoint):
    """An npz file, open for reading.

    Args:
        path: of the file.

    Raises:
        NotFoundError: no such file.
        DamagedError: it is cut short, or contradicts itself.
        UnsupportedError: the zip file is encrypted or uses an unsupported compression.

    Attributes:
        forms: variable's name -> how it is stored; None for a member that is not an array.
        members: variable's name -> the zip file's member.
        comment: the zip file's comment.
    """

    format = "npz"

    def __init__(self, path: str) -> None:
        super().__init__(path, path)
        self.forms: dict[str, ArrayForm | None] = {}
        self.members: dict[str, ZipMember] = {}
        self.comment = b""
        try:
            with errors.files(path):
                self._open(self.main.size)
        except BaseException:
            self.close()
            raise

    def _open(self, size: int) -> None:
        directory = zipped.ZipDirectory(self.bytes_at, size)
        self.comment = directory.comment
        names = _names([member.text for member in directory.members])
        for member in directory.members:
            self._add(names[member.text], member)

    def _add(self, name: str, member: ZipMember) -> None:
        try:
            form = header.parse(zipped.head_of(self.bytes_at, member, header.START + header.LONGEST))
            if form is None and member.text.endswith(ENDING):
                raise DamagedError("damaged: not an array")
            if form is not None and form.values is not None and form.start + form.values != member.size:
                expected = f"{form.start + form.values} bytes"
                raise DamagedError("damaged: wrong array size", expected=expected, found=member.size)
        except DamagedError as error:
            error.what += f", in {member.text[:200]}"
            raise
        self.forms[name], self.members[name] = form, member
        start = form.start if form and member.method == zipped.STORED else 0
        extent = Extent(self.main_file, member.data + start, member.packed - start, None)
        dtype, shape = (form.dtype, form.shape) if form else ("string", ())
        self.variables[name] = Variable(name, name.encode(), dtype, shape, (extent,))

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Read bytes of the file, fewer at its end."""
        return self.file(self.main_file).read(offset, length) if length > 0 and offset >= 0 else b""

    # -- Checkpoint

    def file(self, path: str) -> Source:
        """As `Checkpoint.file`; a file that was closed and is opened again must be the same file.

        Raises:
            ChangedError: the file is gone, or was replaced.
        """
        try:
            file = super().file(path)
        except NotFoundError as error:
            if self._main is not None:
                raise ChangedError("was replaced while it was read; try again", path=self.path) from error
            raise
        if self._main is not None and self._main is not file and self._main.identity != file.identity:
            raise ChangedError("was replaced while it was read; try again", path=self.path)
        return file

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """As `Checkpoint.chunks`; for a packed array, its packed bytes."""
        end = extent.offset + extent.length
        for at in range(extent.offset, end, CHUNK):
            with errors.files(extent.file):
                chunk = self.bytes_at(at, min(CHUNK, end - at))
            if len(chunk) < min(CHUNK, end - at):
                raise DamagedError("cut short", path=extent.file, expected=f"at least {end} bytes")
            yield chunk

    def content(self, name: str) -> Iterator[bytes]:
        """All unpacked bytes of a variable's member, including the array header; verified before the last chunk."""
        found = self._stream(self.members[name])
        while True:
            try:
                with errors.files(self.path):
                    chunk = next(found, None)
            except DamagedError as error:
                what = f"{error.what}, of {name[:200]}"
                raise DamagedError(what, path=self.path, expected=error.expected, found=error.found) from error
            if chunk is None:
                return
            yield chunk

    def _stream(self, member: ZipMember) -> Iterator[bytes]:
        return zipped.unpacked(self.bytes_at, member)

    def stored_values(self, variable: Variable) -> Iterator[bytes]:
        """The unpacked values of a variable, in their stored order, in chunks of whole elements.

        Raises:
            DamagedError: as `content`.
            UnsupportedError: the values would be far larger than their packed bytes.
        """
        member = self.members[variable.name]
        if member.size > max(_FLOOR, _RATIO * member.packed):
            what = f"{variable.name} is compressed more than {_RATIO}-fold"
            raise UnsupportedError(what, path=self.path, found=f"{member.size} bytes from {member.packed}")
        return self._payload(variable)

    def _payload(self, variable: Variable) -> Iterator[bytes]:
        form = self.forms[variable.name]
        skipped, item = (form.start, max(form.item, 1)) if form else (0, 1)
        rest = b""
        for chunk in self.content(variable.name):
            cut = min(skipped, len(chunk))
            skipped -= cut
            data = rest + chunk[cut:]
            whole = len(data) // item * item
            rest = data[whole:]
            if whole:
                yield data[:whole]

    def payload(self, variable: Variable) -> tuple[Iterator[bytes], str] | None:
        """As `Checkpoint.payload`: numbers in C order."""
        form = self.forms[variable.name]
        if form is None or form.dtype not in ITEM_SIZE or form.runs_backwards:
            return None
        return self.stored_values(variable), "big" if form.order == ">" else "little"

    def check(self, variable: Variable) -> None:
        """As `Checkpoint.check`: the zip file's checksum of the member."""
        for _ in self.content(variable.name):
            pass

    def read(self, name: str) -> NDArray[Any]:
        """As `Checkpoint.read`; text is returned as UTF-8.

        Raises:
            UnsupportedError: pickled objects, records, or another dtype that only NumPy has.
        """
        variable = self[name]
        form = self.forms[variable.name]
        if form is not None and form.dtype not in ITEM_SIZE and form.dtype != "string":
            what = f"{variable.name} holds values of dtype {form.dtype}, which cannot be read"
            if form.letter == "O":
                what = f"{variable.name} holds pickled Python objects, which are never loaded"
            raise UnsupportedError(what, path=self.path, hint="other operations copy it unchanged; 'drop' removes it")
        with errors.allocating(variable.name, variable.shape, self.path):
            if form is None or form.dtype == "string":
                return self._strings(variable, form)
            return self._numbers(variable, form)

    def _numbers(self, variable: Variable, form: ArrayForm) -> NDArray[Any]:
        stored = self.stored_values(variable)
        import numpy as np

        from ... import numeric

        values = np.empty(form.shape[::-1] if form.runs_backwards else form.shape, numeric.dtype(form.dtype))
        data, at = values.reshape(-1).view(np.uint8), 0
        for chunk in stored:
            data[at : at + len(chunk)] = np.frombuffer(chunk, np.uint8)
            at += len(chunk)
        if form.order != "|" and (form.order == ">") != (sys.byteorder == "big"):
            values.byteswap(inplace=True)
        return np.array(values.T, order="C") if form.runs_backwards else values

    def _strings(self, variable: Variable, form: ArrayForm | None) -> NDArray[Any]:
        stored, packed = self.stored_values(variable), self.members[variable.name].packed
        if variable.size * _PER_STRING > _STRINGS + _PER_STRING * packed // 2:
            what = f"{variable.name}: too many strings for its {packed} bytes"
            raise UnsupportedError(what, path=self.path, found=variable.size)
        import numpy as np

        values = np.empty(variable.shape, object)
        data = b"".join(stored)
        if form is None:
            values[()] = data
            return values
        found: list[Any] = [b""] * variable.size
        if form.item and form.letter == "S":
            found = np.frombuffer(data, f"S{form.item}").tolist()
        elif form.item:
            codec = "utf-32-be" if form.order == ">" else "utf-32-le"
            pieces = (data[at : at + form.item] for at in range(0, len(data), form.item))
            try:  # NumPy itself does not check that the numbers are valid characters
                found = [
                    piece.decode(codec, "surrogatepass").rstrip("\0").encode("utf-8", "surrogatepass")
                    for piece in pieces
                ]
            except UnicodeDecodeError as error:
                raise DamagedError(f"damaged: {variable.name} holds invalid text", path=self.path) from error
        flat = np.empty(len(found), object)
        flat[:] = found
        values[...] = flat.reshape(variable.shape, order="F" if form.runs_backwards else "C")
        return values

    def nbytes(self, variable: Variable) -> int | None:
        """As `Checkpoint.nbytes`; for values that cannot be read, their unpacked size."""
        form = self.forms[variable.name]
        if form is None:
            return self.members[variable.name].size
        if variable.dtype != "string":
            return self.members[variable.name].size - form.start if form.values is None else form.values
        try:
            return sum(map(len, self.read(variable.name).reshape(-1).tolist()))
        except CkptSurgeonError:
            return None

    def fingerprint(self) -> str:
        """SHA-256 of the file, as hexadecimal digits."""
        import hashlib

        digest, at = hashlib.sha256(), 0
        with errors.files(self.path):
            while chunk := self.bytes_at(at, CHUNK):
                digest.update(chunk)
                at += len(chunk)
        return digest.hexdigest()


class Npy(Npz):
    """An npy file, open for reading: one variable, without a checksum, named after the file without `.npy`.

    The variable is named `array` if the file's name is only `.npy` or does not end in it.
    """

    format = "npy"

    def _open(self, size: int) -> None:
        base = os.path.basename(self.path)
        name = base[: -len(ENDING)] if base.endswith(ENDING) and base != ENDING else "array"
        member = zipped.ZipMember("array")
        member.text, member.packed, member.size = name + ENDING, size, size
        self._add(name, member)

    def _stream(self, member: ZipMember) -> Iterator[bytes]:
        return zipped.packed(self.bytes_at, member)
