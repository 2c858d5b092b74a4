"""Writes the table that `sstable` reads and describes. Independent of tensors."""

from __future__ import annotations

from .sstable import BLOCK_SIZE, MAGIC, RAW, RESTART_INTERVAL
from .wire import crc32c, mask, varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class TableBuilder:
    """Writes a table with the same blocks as TensorFlow, so that equal rows give equal bytes.

    Args:
        write: called with the bytes, in order.
    """

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._offset = 0
        self._block = _BlockBuilder(RESTART_INTERVAL)
        self._index = _BlockBuilder(1)
        self._last_key = b""
        self._pending: bytes | None = None  # handle of the last data block, until the next key is known

    def add(self, key: bytes, value: bytes) -> None:
        """Add a row.

        Args:
            key: greater than all earlier keys, compared as unsigned bytes; the first may be empty.
            value: any bytes.
        """
        if self._block.rows and len(key) + len(value) >= 2 * BLOCK_SIZE:
            self._flush()
        if self._pending is not None:
            self._index.add(_separator(self._last_key, key), self._pending)
            self._pending = None
        self._block.add(key, value)
        self._last_key = key
        if self._block.size >= BLOCK_SIZE:
            self._flush()

    def finish(self) -> None:
        """Write the rest of the table: the last data block, metaindex, index and footer."""
        if self._block.rows:
            self._flush()
        metaindex = self._write_block(_BlockBuilder(RESTART_INTERVAL))
        if self._pending is not None:
            self._index.add(_successor(self._last_key), self._pending)
        index = self._write_block(self._index)
        self._write((metaindex + index).ljust(40, b"\x00") + MAGIC)

    def _flush(self) -> None:
        self._pending = self._write_block(self._block)
        self._block = _BlockBuilder(RESTART_INTERVAL)

    def _write_block(self, block: _BlockBuilder) -> bytes:
        parts = [*block.finish(), bytes((RAW,))]
        if block.size < 2 * BLOCK_SIZE:  # a larger block holds a huge row, which joining would copy
            parts = [b"".join(parts)]
        length = crc = 0
        for part in parts:
            crc = crc32c(part, crc)
            length += len(part)
        parts.append(mask(crc).to_bytes(4, "little"))
        for part in parts if len(parts) > 2 else (b"".join(parts),):
            self._write(part)
        handle = varint(self._offset) + varint(length - 1)
        self._offset += length + 4
        return handle


class _BlockBuilder:
    def __init__(self, interval: int) -> None:
        self.rows = 0
        self._interval = interval
        self._parts: list[bytes] = []
        self._length = 0
        self._restarts = [0]
        self._since_restart = 0
        self._last_key = b""

    @property
    def size(self) -> int:
        return self._length + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._since_restart < self._interval:
            shared = _shared_length(self._last_key, key)
        else:
            self._restarts.append(self._length)
            self._since_restart = 0
        head = varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:]
        self._parts += (head, value)
        self._length += len(head) + len(value)
        self._since_restart += 1
        self._last_key = key
        self.rows += 1

    def finish(self) -> list[bytes]:
        numbers = [*self._restarts, len(self._restarts)]
        return [*self._parts, *(number.to_bytes(4, "little") for number in numbers)]


def _shared_length(one: bytes, other: bytes) -> int:
    limit = min(len(one), len(other))
    if one[:limit] == other[:limit]:
        return limit
    shared = 0
    while one[shared] == other[shared]:
        shared += 1
    return shared


def _separator(last: bytes, following: bytes) -> bytes:
    """A short key k with last <= k < following, chosen like LevelDB does."""
    at = _shared_length(last, following)
    if at < min(len(last), len(following)) and last[at] < 0xFF and last[at] + 1 < following[at]:
        return last[:at] + bytes((last[at] + 1,))
    return last


def _successor(last: bytes) -> bytes:
    """A short key k >= last, chosen like LevelDB does."""
    for at, byte in enumerate(last):
        if byte != 0xFF:
            return last[:at] + bytes((byte + 1,))
    return last
