"""Reads the zip file that `torch.save` writes: its pickle, the bytes of its storages, and their checksums."""

from __future__ import annotations

from ... import errors
from ...errors import CkptSurgeonError, DamagedError, UnsupportedError
from ...source import open_source
from ..files import zipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..files.zipped import Read, ZipMember
    from .records import Storage

PICKLE = "data.pkl"
_NO_CHECKSUM = 0  # stored for all members after torch.serialization.set_crc32_options(False)


def is_archive(path: str) -> bool:
    """Whether a file is a zip file that `torch.save` wrote, by its content; TorchScript files are not."""
    with open_source(path) as file:
        if file.read(0, len(zipped.MAGIC)) != zipped.MAGIC:
            return False
        try:
            directory = zipped.ZipDirectory(file.read, file.size)
        except CkptSurgeonError:
            return False
    return _prefix([member.text for member in directory.members]) is not None


def _prefix(names: list[str]) -> str | None:
    """The prefix of all member names; None if the members are not those of a PyTorch file."""
    found = [name[: -len(PICKLE)] for name in names if name == PICKLE or name.endswith("/" + PICKLE)]
    if len(found) != 1 or found[0].count("/") > 1:
        return None
    scripted = (f"{found[0]}constants.pkl", f"{found[0]}code/")
    return None if any(name.startswith(scripted) for name in names) else found[0]


class Archive:
    """A zip file that `torch.save` wrote.

    Args:
        path: of the file.
        read: reads bytes of the file.
        size: of the file.

    Raises:
        DamagedError: it is cut short, or contradicts itself.
        UnsupportedError: the zip file is not PyTorch's, or not supported.

    Attributes:
        path: of the file.
        byteorder: of the stored numbers, "little" or "big".
    """

    def __init__(self, path: str, read: Read, size: int) -> None:
        self.path = path
        self._read = read
        self._checked: dict[str, DamagedError | None] = {}  # storage's key -> the error; None if intact
        members = {member.text: member for member in zipped.ZipDirectory(read, size).members}
        prefix = _prefix(list(members))
        if prefix is None:
            raise UnsupportedError("not a PyTorch file", expected=f"one member {PICKLE}")
        folder = prefix + "data/"
        self._members = {text[len(folder) :]: member for text, member in members.items() if text.startswith(folder)}
        order = self._content(members[prefix + "byteorder"]) if prefix + "byteorder" in members else b"little"
        if order not in (b"little", b"big"):
            raise DamagedError("damaged: invalid byte order", expected="little or big", found=order[:20])
        self.byteorder = order.decode()
        self._pickle = members[prefix + PICKLE]

    def pickle(self) -> bytes:
        """The bytes of its pickle, verified."""
        return self._content(self._pickle)

    def _content(self, member: ZipMember) -> bytes:
        """Read all bytes of a member, and verify their checksum."""
        _must_be_stored(member)
        try:
            return b"".join(zipped.unpacked(self._read, member, member.crc != _NO_CHECKSUM))
        except DamagedError as error:
            error.what += f", of {member.text[:200]}"
            raise

    def place(self, storage: Storage) -> int:
        """The offset, in the file, of a storage's first byte.

        Raises:
            DamagedError: the file does not hold the storage, or too few of its bytes.
        """
        member = self._members.get(storage.key)
        if member is None:
            if storage.length:
                raise DamagedError("damaged: a storage without its member", found=f"data/{storage.key[:80]}")
            member = self._members[storage.key] = zipped.ZipMember("data/" + storage.key)  # an empty member
        _must_be_stored(member)
        if storage.length > member.size:
            what = f"damaged: wrong size of storage {storage.key[:80]}"
            raise DamagedError(what, expected=f"{storage.length} bytes", found=member.size)
        return member.data

    def is_whole(self, key: str, length: int) -> bool:
        """Whether `length` bytes are all of a storage, and its checksum is not yet known to be right or wrong."""
        return length == self._members[key].size and key not in self._checked

    def content(self, key: str) -> Iterator[bytes]:
        """All bytes of a storage; its checksum is verified before the last chunk, and the result is remembered."""
        try:
            with errors.files(self.path):
                member = self._members[key]
                yield from zipped.unpacked(self._read, member, member.crc != _NO_CHECKSUM)
        except DamagedError as error:
            error.what += f", of storage {key[:80]}"
            self._checked[key] = error
            raise
        self._checked[key] = None

    def check(self, key: str) -> None:
        """Verify the checksum of a storage; one that several tensors share is read once.

        Raises:
            DamagedError: it is wrong.
        """
        if key not in self._checked:
            for _ in self.content(key):
                pass
        error = self._checked[key]
        if error is not None:
            raise error


def _must_be_stored(member: ZipMember) -> None:
    if member.method != zipped.STORED:
        what = f"{member.text[:200]} is packed, which PyTorch never does"
        raise UnsupportedError(what, hint="unzip it, and zip it again with 'zip -0 -r'")
