"""Reads LevelDB tables, in which TensorFlow stores rows of bytes by key. Independent of tensors.

    [data block][trailer] … [metaindex block][trailer] [index block][trailer] [footer]

    block      rows, then restart points, then their number as fixed32
    row        varint shared, varint unshared, varint value length, unshared bytes of the key, value
    trailer    1 byte: 0 = raw, 1 = Snappy; fixed32: masked CRC-32C of the stored block and that byte
    footer     handles (varint offset, varint size) of metaindex and index, zeros up to byte 40, magic

A key begins with the first `shared` bytes of the preceding key; rows at restart points share nothing. For each data
block the index block holds the block's handle and a key not less than the block's last key. Source:
`xla/tsl/lib/io/format.cc`, `table_builder.cc`, `block_builder.cc`. A table's order, checksums and bounds are checked
as it is read; TensorFlow checks only some of them.
"""

from __future__ import annotations

from ...errors import DamagedError
from .wire import crc32c, mask, read_varint, varint

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER_SIZE = 48
TRAILER_SIZE = 5
BLOCK_SIZE = 262144  # TensorFlow's target for a data block, restart points included
RESTART_INTERVAL = 16  # rows of a data block; in the index block every row is a restart point
_MOST_CACHED = 4 * BLOCK_SIZE  # bytes of the largest block whose rows are cached; a larger one holds one huge row
RAW, _SNAPPY = 0, 1
_SNAPPY_RATIO = 22  # Snappy expands 3 bytes to at most 64
_KEYS_RATIO = 32  # largest ratio of a block's keys to its size: at most 16 with the restart points that TensorFlow sets


def read_rows(read: Callable[[int, int], bytes], size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the rows of a table in order, with one block in memory at a time.

    Args:
        read: returns the bytes at (offset, length) of the file.
        size: of the file, in bytes.

    Raises:
        DamagedError: the file is not a table, is cut short, has a wrong checksum, or its rows are out of order.
    """
    yield from Table(read, size).rows()


class Table:
    """A table with its footer and index in memory; its other blocks are read on demand.

    Args:
        read: returns the bytes at (offset, length) of the file.
        size: of the file, in bytes.

    Raises:
        DamagedError: the file is not a table, is cut short, or has a wrong checksum of its index.
    """

    __slots__ = ("_blocks", "_cached", "_metaindex", "_read", "_rows", "_separators")

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        if size < FOOTER_SIZE:
            raise DamagedError("not a table", expected=f"at least {FOOTER_SIZE} bytes", found=size)
        footer = read(size - FOOTER_SIZE, FOOTER_SIZE)
        if footer[40:] != MAGIC:
            raise DamagedError(
                "not a table, or cut short", expected=f"magic {MAGIC.hex()} at its end", found=footer[40:].hex()
            )
        body = size - FOOTER_SIZE
        self._metaindex, at = _read_handle(footer, 0, 40, body)
        index, _ = _read_handle(footer, at, 40, body)
        plain = b"".join(varint(number) for number in (*self._metaindex, *index)).ljust(40, b"\x00")
        if footer[:40] != plain:  # so that no bit of a table can change unnoticed
            raise DamagedError("damaged: invalid footer of the table", expected=plain.hex(), found=footer[:40].hex())
        self._read = read
        self._separators: list[bytes] = []
        self._blocks: list[tuple[int, int]] = []
        self._cached = -1  # number of the block whose rows are cached
        self._rows: dict[bytes, bytes] = {}
        done = 0
        for separator, handle in _block_rows(_read_block(read, *index), None):
            (offset, length), _ = _read_handle(handle, 0, len(handle), body)
            if offset < done:  # also bounds the work: no byte of the file is read twice
                raise DamagedError("damaged: the table's blocks overlap", found=f"block at byte {offset}")
            done = offset + length + TRAILER_SIZE
            self._separators.append(separator)
            self._blocks.append((offset, length))

    def rows(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield all rows in order, with one block in memory at a time.

        Raises:
            DamagedError: a wrong checksum, or rows out of order.
        """
        _read_block(self._read, *self._metaindex)  # always empty, but checked for damage like any other block
        last: bytes | None = None
        for number, separator in enumerate(self._separators):
            for key, value in _block_rows(_read_block(self._read, *self._blocks[number]), last):
                last = key
                yield key, value
            if last is not None and last > separator:  # a lookup would go to the next block
                raise _misplaced(last)
            last = separator

    def first_row(self) -> tuple[bytes, bytes] | None:
        """The first row, or None if the table is empty; only its block is read and checked."""
        return next(iter(self._rows_of(0).items()), None) if self._blocks else None

    def block_of(self, key: bytes) -> tuple[int, int] | None:
        """Offset and length of the only block that can hold a key, by the index; None if no block can hold it."""
        number = self._number_of(key)
        return self._blocks[number] if number < len(self._blocks) else None

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None; reads and checks the only block that can hold the key.

        Raises:
            DamagedError: a wrong checksum, or rows out of order.
        """
        number = self._number_of(key)
        return self._rows_of(number).get(key) if number < len(self._blocks) else None

    def _number_of(self, key: bytes) -> int:
        from bisect import bisect_left

        return bisect_left(self._separators, key)

    def _rows_of(self, number: int) -> dict[bytes, bytes]:
        if number == self._cached:
            return self._rows
        rows = dict(
            _block_rows(
                _read_block(self._read, *self._blocks[number]), self._separators[number - 1] if number else None
            )
        )
        last = next(reversed(rows), b"")
        if last > self._separators[number]:
            raise _misplaced(last)
        if self._blocks[number][1] <= _MOST_CACHED:
            self._cached, self._rows = number, rows
        return rows


def _misplaced(key: bytes) -> DamagedError:
    return DamagedError("damaged: a key of the table in the wrong block", found=_shown(key))


def _read_handle(data: bytes, at: int, end: int, body: int) -> tuple[tuple[int, int], int]:
    offset, at = read_varint(data, at, end)
    length, at = read_varint(data, at, end)
    if offset + length + TRAILER_SIZE > body:
        raise DamagedError(
            "damaged: the table names a block beyond its end",
            expected=f"at most {body} bytes",
            found=f"{length} at byte {offset}",
        )
    return (offset, length), at


def _read_block(read: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    stored = read(offset, length + TRAILER_SIZE)
    if len(stored) != length + TRAILER_SIZE:
        raise DamagedError("damaged: the table ends within a block", found=f"block at byte {offset}")
    block, kind = stored[:length], stored[length]
    expected = int.from_bytes(stored[length + 1 :], "little")
    found = mask(crc32c(stored[: length + 1]))
    if found != expected:
        raise DamagedError(
            f"damaged: wrong checksum of the table's block at byte {offset}",
            expected=f"{expected:08x}",
            found=f"{found:08x}",
        )
    if kind == RAW:
        return block
    if kind == _SNAPPY:
        return _decompress(block)
    raise DamagedError("damaged: a block of unknown type", expected="0 (raw) or 1 (Snappy)", found=kind)


def _decompress(block: bytes) -> bytes:
    import cramjam

    declared, _ = read_varint(block, 0, len(block))
    if declared > _SNAPPY_RATIO * len(block) + 64:
        raise DamagedError("damaged: a Snappy block declares an impossible length", found=declared)
    try:
        return bytes(cramjam.snappy.decompress_raw(block))  # raises if the length is not the declared one
    except cramjam.DecompressionError as error:
        raise DamagedError(f"damaged: invalid Snappy data in a block ({error})") from error


def _block_rows(block: bytes, last: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """The rows of one block; the keys must be greater than `last` and in ascending order."""
    size = len(block)
    restarts = int.from_bytes(block[-4:], "little") if size >= 4 else 0
    end = size - 4 - 4 * restarts
    if restarts < 1 or end < 0:
        raise DamagedError("damaged: impossible number of restart points in a block", found=restarts)
    points = [int.from_bytes(block[at : at + 4], "little") for at in range(end, size - 4, 4)]
    at = reached = 0
    room = _KEYS_RATIO * size  # for keys: with shared bytes a small block could expand to gigabytes of keys
    key = b""
    while at < end:
        start = at
        # Almost all lengths are below 128; a listing spends most of its time in this loop.
        shared, unshared, length = block[at], block[at + 1], block[at + 2]
        if shared < 0x80 and unshared < 0x80 and length < 0x80:
            at += 3
        else:
            shared, at = read_varint(block, at, end)
            unshared, at = read_varint(block, at, end)
            length, at = read_varint(block, at, end)
            room -= shared
        if reached < restarts and points[reached] == start:
            reached += 1
            if shared:
                raise DamagedError("damaged: invalid block restart point", found=f"at byte {start}")
        if shared > len(key) or at + unshared + length > end or room < 0:
            raise DamagedError("damaged: a row of the table runs past its block", found=f"at byte {start}")
        key = key[:shared] + block[at : at + unshared]
        at += unshared + length
        if last is not None and key <= last:
            raise DamagedError("damaged: the table's keys do not ascend", found=f"{_shown(key)} after {_shown(last)}")
        last = key
        yield key, block[at - length : at]
    if points[0] or (reached != restarts and end):
        raise DamagedError("damaged: invalid block restart point")


def _shown(key: bytes) -> str:
    """A key for a message, shortened because a damaged key may be megabytes long."""
    return repr(key) if len(key) <= 200 else f"{key[:200]!r}…"
