"""Tables: byte for byte as TensorFlow writes them, any rows come back, and no damage goes unnoticed."""

from __future__ import annotations

from collections.abc import Sequence

import handmade
import pytest
from handmade import Row, assembled, block, footer, sealed, snappy, table, with_index
from hypothesis import example, given
from hypothesis import strategies as st

from ckptsurgeon.errors import DamagedError
from ckptsurgeon.formats.tensorflow.sstable import BLOCK_SIZE, Table, read_rows
from ckptsurgeon.formats.tensorflow.sstable_building import TableBuilder
from ckptsurgeon.formats.tensorflow.wire import read_varint, varint

# An index of two tensors, as TensorFlow 2.21 wrote it.
STEP = bytes.fromhex("080912002010280835bbd79f11")
W = bytes.fromhex("0801120812020802120208022810354c289874")
EXAMPLE_ROWS = [(b"", handmade.HEADER), (b"step", STEP), (b"w", W)]
EXAMPLE = bytes.fromhex(
    "000006" "08011a020801"
    "00040d" "73746570" "080912002010280835bbd79f11"
    "000113" "77" "080112081202080212020802281035" "4c289874"
    "0000000001000000" "00" "328dbc1f"
    "0000000001000000" "00c0f2a1b0"
    "000102" "78" "003c" "0000000001000000" "00" "e5bd4b49"
    "4108" "4e0e"
) + bytes(36) + bytes.fromhex("57fb808b247547db")  # fmt: skip


def build(rows: Sequence[Row]) -> bytes:
    parts: list[bytes] = []
    builder = TableBuilder(parts.append)
    for key, value in rows:
        builder.add(key, value)
    builder.finish()
    return b"".join(parts)


def read(data: bytes) -> list[Row]:
    """All rows; a table may be read nowhere but inside, and no byte twice but the footer's."""

    def part(offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= len(data)
        return data[offset : offset + length]

    return list(read_rows(part, len(data)))


def blocks_of(data: bytes) -> list[tuple[bytes, int, int]]:
    """What the index of a table says: separator, offset and size of each block."""
    at = len(data) - 48
    for _ in range(2):
        _, at = read_varint(data, at, len(data))
    offset, at = read_varint(data, at, len(data))
    size, _ = read_varint(data, at, len(data))
    rows, found = data[offset : offset + size], []
    at = 0
    while len(found) < int.from_bytes(rows[-4:], "little"):
        _, at = read_varint(rows, at, len(rows))
        key, at = read_varint(rows, at, len(rows))
        _, at = read_varint(rows, at, len(rows))
        start, after = read_varint(rows, at + key, len(rows))
        length, after = read_varint(rows, after, len(rows))
        found.append((rows[at : at + key], start, length))
        at = after
    return found


keys = st.one_of(
    st.binary(max_size=6),
    st.lists(st.sampled_from((b"layer", b"1", b"10", b"/", b"\x00", b"\xff", b"k" * 200)), max_size=5).map(b"".join),
)
tables = st.dictionaries(keys, st.binary(max_size=300)).map(lambda rows: sorted(rows.items()))


def test_the_worked_example() -> None:
    """The rows of that index give TensorFlow's 145 bytes, and these give the rows."""
    assert len(EXAMPLE) == 145
    assert build(EXAMPLE_ROWS) == EXAMPLE
    assert read(EXAMPLE) == EXAMPLE_ROWS


@given(tables)
def test_any_rows_come_back(rows: list[Row]) -> None:
    """Whatever keys and values a table is built of are read from it, in order."""
    assert read(build(rows)) == rows


@given(tables.filter(bool), st.integers(1, 40), st.integers(1, 5), st.sampled_from((sealed, snappy)))
def test_any_cut_can_be_read(rows: list[Row], interval: int, per_block: int, seal: object) -> None:
    """Other restart intervals, small blocks and compressed ones: the same rows."""
    cut = [rows[at : at + per_block] for at in range(0, len(rows), per_block)]
    assert read(table(cut, interval, seal)) == rows


@given(tables, st.integers(1, 5), st.data())
def test_single_rows_are_found(rows: list[Row], per_block: int, data: st.DataObject) -> None:
    """`get` finds every key and no other, in the block that `block_of` names; `first_row` is the first."""
    made = table([rows[at : at + per_block] for at in range(0, len(rows), per_block)], 2)
    found = Table(lambda offset, length: made[offset : offset + length], len(made))
    assert found.first_row() == (rows[0] if rows else None)
    for key, value in rows:
        assert found.get(key) == value
        assert found.block_of(key) is not None
    other = data.draw(st.binary(max_size=6).filter(lambda key: key not in dict(rows)))
    assert found.get(other) is None


def test_a_damaged_block_hides_no_other_row() -> None:
    """A row is found although another block is damaged; one of that block is damage."""
    rows = [(bytes((letter,)), bytes(8)) for letter in b"abcdef"]
    made = bytearray(table([rows[:2], rows[2:4], rows[4:]], 1))
    offset, _ = Table(lambda at, length: bytes(made[at : at + length]), len(made)).block_of(b"c") or (0, 0)
    made[offset] ^= 1
    found = Table(lambda at, length: bytes(made[at : at + length]), len(made))
    assert found.get(b"a") == found.get(b"f") == bytes(8)
    with pytest.raises(DamagedError, match="wrong checksum"):
        found.get(b"d")


def test_a_compressed_index_block_can_be_read() -> None:
    """Snappy may be used for the index of the blocks too."""
    stored = snappy(block(EXAMPLE_ROWS))
    index = [(b"x", varint(0) + varint(len(stored) - 5))]
    assert read(with_index(stored, index, snappy)) == EXAMPLE_ROWS


def test_an_empty_block_and_bytes_between_blocks_are_no_damage() -> None:
    """What TensorFlow never writes but reads: a block without rows, and a gap."""
    first, empty, second = sealed(block([(b"a", b"1")])), sealed(block([])), sealed(block([(b"c", b"2")]))
    assert read(assembled([first, empty, second], [b"a", b"b", b"c"])) == [(b"a", b"1"), (b"c", b"2")]
    at = len(first) + 3
    index = [(b"a", varint(0) + varint(len(first) - 5)), (b"c", varint(at) + varint(len(second) - 5) + b"more")]
    assert read(with_index(first + b"gap" + second, index)) == [(b"a", b"1"), (b"c", b"2")]


def test_blocks_are_cut_where_tensorflow_cuts_them() -> None:
    """A block ends with the row that brings rows and restart points to 262144 bytes, not before."""
    rows = [(b"%06d" % number, bytes(100)) for number in range(10000)]
    data = build(rows)
    blocks = blocks_of(data)
    assert read(data) == rows
    assert len(blocks) > 3
    for _, _, size in blocks[:-1]:
        assert BLOCK_SIZE <= size < BLOCK_SIZE + 110 + 4
    assert blocks[-1][2] < BLOCK_SIZE


@pytest.mark.parametrize(("size", "blocks"), [(BLOCK_SIZE - 15, 1), (BLOCK_SIZE - 14, 2)])
def test_a_block_is_full_at_its_very_size(size: int, blocks: int) -> None:
    """Lengths of 5 bytes, a key of 1, a restart point and their number: 14 bytes, and the value."""
    assert len(blocks_of(build([(b"a", bytes(size)), (b"b", b"")]))) == blocks


@pytest.mark.parametrize(("size", "blocks"), [(2 * BLOCK_SIZE - 2, 2), (2 * BLOCK_SIZE - 1, 3)])
def test_a_large_row_gets_a_block_of_its_own(size: int, blocks: int) -> None:
    """The block before a row is closed if its key and value take two blocks' worth of bytes."""
    rows = [(b"a", b""), (b"b", bytes(size)), (b"c", b"")]
    data = build(rows)
    assert len(blocks_of(data)) == blocks
    assert read(data) == rows


@given(st.lists(keys, min_size=2, unique=True).map(sorted))
@example([b"a", b"a\x00"])
@example([b"a\xff", b"b"])
@example([b"\xff", b"\xff\xff"])
@example([b"step", b"w"])
def test_separators_part_the_blocks(names: list[bytes]) -> None:
    """A block's key in the index is not less than its last key and less than the next block's first."""
    rows = [(key, bytes(2 * BLOCK_SIZE)) for key in names[:4]]
    found = [separator for separator, _, _ in blocks_of(build(rows))]
    assert len(found) == len(rows)
    for at, (key, _) in enumerate(rows):
        assert key <= found[at]
        assert at + 1 == len(rows) or found[at] < rows[at + 1][0]
        assert len(found[at]) <= len(key)


@pytest.mark.parametrize(
    ("last", "following", "separator"),
    [
        (b"step", b"w", b"t"),
        (b"abc1", b"abc9", b"abc2"),
        (b"abc1x", b"abc2x", b"abc1x"),
        (b"abc", b"abcd", b"abc"),
        (b"a\xff", b"b", b"a\xff"),
        (b"w", None, b"x"),
        (b"\xff\xffa9", None, b"\xff\xffb"),
        (b"\xff\xff", None, b"\xff\xff"),
    ],
)
def test_known_separators(last: bytes, following: bytes | None, separator: bytes) -> None:
    """The shortest that LevelDB finds, and the last key itself where it finds none."""
    rows = [(last, bytes(2 * BLOCK_SIZE))] + ([(following, bytes(2 * BLOCK_SIZE))] if following else [])
    assert blocks_of(build(rows))[0][0] == separator


SEVERAL_BLOCKS = table([[(b"", b"head"), (b"a", b"one")], [(b"ab", b"two"), (b"abc", b"")], [(b"b", b"three")]])


@pytest.mark.parametrize("data", [EXAMPLE, SEVERAL_BLOCKS, table([EXAMPLE_ROWS], 16, snappy)])
def test_every_truncation_is_damage(data: bytes) -> None:
    """At no length does a table that was cut short give all its rows, or any error but a DamagedError."""
    read(data)
    for length in range(len(data)):
        with pytest.raises(DamagedError):
            read(data[:length])
        with pytest.raises(DamagedError):
            read(data[length + 1 :])


@pytest.mark.parametrize("data", [EXAMPLE, SEVERAL_BLOCKS, table([EXAMPLE_ROWS], 16, snappy)])
def test_every_flipped_bit_is_damage(data: bytes) -> None:
    """There is no bit in a table that may change unnoticed, the footer's padding and the empty block included."""
    read(data)
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises(DamagedError):
                read(bytes(damaged))


@given(st.binary(max_size=200), st.binary(max_size=39), st.booleans())
def test_any_bytes_are_a_table_or_damaged(body: bytes, handles: bytes, with_magic: bool) -> None:
    """Noise never ends in another exception."""
    data = body + (handles.ljust(40, b"\x00") + handmade.MAGIC if with_magic else handles)
    with pytest.raises(DamagedError):
        read(data)


@given(st.binary(max_size=80), st.integers(0, 1))
@example(b"", 0)
@example(b"\x00\x00\x00\x00\xff\xff\xff\xff", 0)
@example(b"\xff\xff\xff\xff\x7f", 1)
def test_any_bytes_under_a_right_checksum_are_a_block_or_damaged(body: bytes, kind: int) -> None:
    """A block of noise, raw or as Snappy, gives rows that rise or a DamagedError."""
    data = with_index(sealed(body, kind), [(b"\xff" * 100, varint(0) + varint(len(body)))])
    try:
        rows = read(data)
    except DamagedError:
        return
    assert rows == sorted(dict(rows).items())


def _points(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in (*values, len(values)))


ROW = b"\x00\x01\x01av"  # key a, value v
NEXT = b"\x00\x01\x01bv"

DAMAGED_BLOCKS = {
    "less than a number of restart points": b"\x00\x00\x00",
    "no restart point": ROW + b"\x00\x00\x00\x00",
    "more restart points than bytes": ROW + b"\x00\x00\x00\x00" + b"\xff\xff\xff\x3f",
    "2^32 - 1 restart points": ROW + b"\xff\xff\xff\xff",
    "the first restart point is not the first row": ROW + NEXT + _points(5),
    "a restart point in the middle of a row": ROW + NEXT + _points(0, 3),
    "a restart point past the rows": ROW + NEXT + _points(0, 1000),
    "a restart point twice": ROW + NEXT + _points(0, 0),
    "restart points that fall": ROW + NEXT + ROW.replace(b"a", b"c") + _points(0, 10, 5),
    "a restart point at a row that shares bytes": ROW + b"\x01\x01\x01bv" + _points(0, 5),
    "a first row that shares bytes": b"\x01\x01\x01av" + _points(0),
    "a row that shares more than there is": ROW + b"\x02\x01\x01bv" + _points(0),
    "a key that runs past the rows": b"\x00\x7f\x01av" + _points(0),
    "a value that runs past the rows": b"\x00\x01\x7fav" + _points(0),
    "a value into the restart points": b"\x00\x01\x05av" + _points(0),
    "a value length of 2^63": b"\x00\x01" + varint(1 << 63) + b"av" + _points(0),
    "a row that is two bytes": b"\x00\x01" + _points(0),
    "lengths that do not end": b"\xff\xff\xff" + _points(0),
    "keys that fall": NEXT + ROW + _points(0),
    "a key twice": ROW + ROW + _points(0),
}


@pytest.mark.parametrize("name", DAMAGED_BLOCKS)
def test_damaged_blocks(name: str) -> None:
    """A block that contradicts itself under a right checksum, as data and as the index."""
    assert read(with_index(sealed(ROW + NEXT + _points(0, 5)), [(b"b", b"\x00\x16")])) == [(b"a", b"v"), (b"b", b"v")]
    stored = sealed(DAMAGED_BLOCKS[name])
    with pytest.raises(DamagedError):
        read(with_index(stored, [(b"z", varint(0) + varint(len(stored) - 5))]))
    meta = sealed(block([]))
    with pytest.raises(DamagedError):
        read(meta + stored + footer((0, 8), (len(meta), len(stored) - 5)))


GOOD = sealed(block([(b"a", b"1")]))
SECOND = sealed(block([(b"c", b"2")]))
SIZE = varint(len(GOOD) - 5)

DAMAGED_TABLES = {
    "no bytes": b"",
    "47 bytes": EXAMPLE[-47:],
    "only a footer": footer((0, 0), (0, 0)),
    "another magic": EXAMPLE[:-1] + b"\xda",
    "bytes after the footer": EXAMPLE + b"\x00",
    "an index of 2^40 bytes": EXAMPLE[:-48] + footer((65, 8), (78, 1 << 40)),
    "an index of 2^63 bytes": EXAMPLE[:-48] + footer((65, 8), (78, 1 << 63)),
    "an index at 2^64 - 1": EXAMPLE[:-48] + footer((65, 8), ((1 << 64) - 1, 14)),
    "an index that ends in the footer": EXAMPLE[:-48] + footer((65, 8), (78, 15)),
    "a metaindex of 2^40 bytes": EXAMPLE[:-48] + footer((65, 1 << 40), (78, 14)),
    "a metaindex that is none": EXAMPLE[:-48] + footer((64, 8), (78, 14)),
    "a handle that does not end": EXAMPLE[:-48] + b"\xff" * 40 + handmade.MAGIC,
    "footer padding": EXAMPLE[:-48] + footer((65, 8), (78, 14), b"\x00\x01"),
    "block of type 2": with_index(sealed(block([(b"a", b"1")]), 2), [(b"a", b"\x00" + SIZE)]),
    "block handle of 2^40 bytes": with_index(GOOD, [(b"a", b"\x00" + varint(1 << 40))]),
    "block handle at 2^63": with_index(GOOD, [(b"a", varint(1 << 63) + SIZE)]),
    "block handle that is none": with_index(GOOD, [(b"a", b"")]),
    "a block twice": with_index(GOOD, [(b"a", b"\x00" + SIZE), (b"b", b"\x00" + SIZE)]),
    "blocks that overlap": with_index(GOOD + SECOND, [(b"a", b"\x00" + SIZE), (b"c", varint(len(GOOD) - 1) + SIZE)]),
    "blocks in another order": with_index(SECOND + GOOD, [(b"a", varint(len(GOOD)) + SIZE), (b"c", b"\x00" + SIZE)]),
    "keys that fall from block to block": assembled([SECOND, GOOD], [b"c", b"d"]),
    "a key in two blocks": assembled([GOOD, GOOD], [b"a", b"b"]),
    "a separator before its block's last key": assembled([GOOD, SECOND], [b"a", b"b"]),
    "a separator after the next block's first key": assembled([GOOD, SECOND], [b"c", b"d"]),
    "separators that fall": assembled([GOOD, SECOND], [b"d", b"c"]),
    "Snappy that is none": assembled([sealed(b"\x05\xff\xff\xff", 1)], [b"a"]),
    "Snappy without bytes": assembled([sealed(b"", 1)], [b"a"]),
    "Snappy of 2^32 - 1 bytes": assembled([sealed(varint((1 << 32) - 1) + b"\x00a", 1)], [b"a"]),
    "Snappy of 2^60 bytes": assembled([sealed(varint(1 << 60) + b"\x00a", 1)], [b"a"]),
    "Snappy that declares too little": assembled([sealed(b"\x08" + snappy(block([(b"a", b"1")]))[1:-5], 1)], [b"a"]),
    "Snappy that declares too much": assembled([sealed(b"\x28" + snappy(block([(b"a", b"1")]))[1:-5], 1)], [b"a"]),
    "Snappy that copies from before its start": assembled([sealed(b"\x08\x00a\x1d\x10", 1)], [b"a"]),
}


@pytest.mark.parametrize("name", DAMAGED_TABLES)
def test_damaged_tables(name: str) -> None:
    """A table that contradicts itself is damaged; nothing outside the file is asked for."""
    with pytest.raises(DamagedError) as raised:
        read(DAMAGED_TABLES[name])
    assert len(str(raised.value)) < 1000


def test_the_tables_that_are_damaged_one_by_one_are_sound_otherwise() -> None:
    """The blocks of the cases above make a table when nothing is wrong with them."""
    assert read(assembled([GOOD, SECOND], [b"b", b"c"])) == [(b"a", b"1"), (b"c", b"2")]
    assert read(assembled([snappy(block([(b"a", b"1")]))], [b"a"])) == [(b"a", b"1")]


def test_a_small_block_cannot_hold_gigabytes_of_keys() -> None:
    """Keys that share a long beginning are refused before they take many times the file's size in memory."""
    rows = [(b"k" * 5_000 + b"%08d" % number, b"") for number in range(100)]
    assert read(table([rows])) == rows  # with restart points as TensorFlow sets them
    with pytest.raises(DamagedError):
        read(table([rows], interval=1000))


def test_a_message_about_a_long_key_is_short() -> None:
    """A key of a megabyte is not told in full."""
    rows = [(b"b" * 1_000_000, b""), (b"a" * 1_000_000, b"")]
    with pytest.raises(DamagedError) as raised:
        read(table([rows], separators=[b"c"]))
    assert len(str(raised.value)) < 1000
