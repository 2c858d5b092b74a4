"""Shards: reads the data files of a TensorBundle, which hold bare values, and checks them against the index."""

from __future__ import annotations

from ... import errors
from ...checkpoint import CHUNK
from ...errors import ChangedError, CkptSurgeonError, DamagedError
from ..tensorflow.wire import crc32c, mask

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ...checkpoint import Extent
    from ...source import Source


def shard_path(prefix: str, shard: int, shards: int) -> str:
    """The file of a data shard (`core/util/tensor_bundle/naming.cc`)."""
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


class Shards:
    """The data files of an open bundle, with everything that helpers need to know of the bundle.

    Attributes:
        path: the bundle's prefix, for error messages.
        byteorder: byte order of the stored numbers, "little" or "big".
        open: opens a data file by its path, once, as `Checkpoint.file` does.
        was_replaced: returns whether the bundle was replaced since it was opened.
    """

    __slots__ = ("byteorder", "open", "path", "was_replaced")

    def __init__(
        self, path: str, byteorder: str, open: Callable[[str], Source], was_replaced: Callable[[], bool]
    ) -> None:
        self.path = path
        self.byteorder = byteorder
        self.open = open
        self.was_replaced = was_replaced

    def chunks(self, extent: Extent) -> Iterator[bytes]:
        """As `Checkpoint.chunks`."""
        file = self.open(extent.file)
        at, end = extent.offset, extent.offset + extent.length
        with errors.files(extent.file):
            size = file.size
            if end > size:
                raise self.damaged(extent, "cut short", f"at least {end} bytes", size)
            while at < end:
                chunk = file.read(at, min(CHUNK, end - at))
                if not chunk:
                    raise self.damaged(extent, "cut short while it was read", f"at least {end} bytes", at)
                at += len(chunk)
                yield chunk

    def checked_chunks(self, extent: Extent) -> Iterator[bytes]:
        """Yield the chunks of a numeric extent; the last one only if the checksum of the whole extent is right.

        Raises:
            DamagedError: the checksum is wrong.
            ChangedError: the checksum is wrong because the checkpoint was replaced since it was opened.
        """
        crc = done = 0
        for chunk in self.chunks(extent):
            crc = crc32c(chunk, crc)
            done += len(chunk)
            if done == extent.length:
                self.compare(mask(crc), extent)
            yield chunk
        if not extent.length:
            self.compare(mask(0), extent)

    def compare(self, found: int, extent: Extent) -> None:
        """Raise DamagedError or ChangedError unless a masked CRC-32C is the one that the index stores."""
        if found != extent.crc:
            what = f"damaged: wrong checksum of the {extent.length} bytes at {extent.offset}"
            raise self.damaged(extent, what, f"{extent.crc:08x}", f"{found:08x}", "restore the file from a copy")

    def damaged(
        self, extent: Extent, what: str, expected: object, found: object, hint: str | None = None
    ) -> CkptSurgeonError:
        """Return the error for wrong bytes in an extent: ChangedError if the checkpoint was replaced since opening."""
        if self.was_replaced():
            return ChangedError("was replaced while it was read; try again", path=self.path)
        return DamagedError(what, path=extent.file, expected=expected, found=found, hint=hint)
