"""Wire primitives: the bytes that TensorFlow writes, and what holds for all numbers, strings and messages."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ckptsurgeon.errors import DamagedError
from ckptsurgeon.formats.tensorflow.wire import (
    BYTES,
    FIXED32,
    VARINT,
    bytes_field,
    crc32c,
    fields,
    fixed32_field,
    mask,
    ordered_signed,
    ordered_string,
    ordered_unsigned,
    read_varint,
    signed64,
    varint,
    varint_field,
)

uint64 = st.one_of(st.integers(0, 300), st.integers(0, (1 << 64) - 1), st.integers(0, 63).map(lambda bit: 1 << bit))
int64 = st.one_of(
    st.integers(-300, 300),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, 62).flatmap(lambda bit: st.integers(-(1 << bit) - 1, -(1 << bit) + 1)),
    st.integers(0, 62).flatmap(lambda bit: st.integers((1 << bit) - 1, (1 << bit) + 1)),
)


def _slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_the_check_value_of_crc32c() -> None:
    """The checksum of the digits 1 to 9 is the one that defines the polynomial."""
    assert crc32c(b"123456789") == 0xE3069283


@given(st.binary(max_size=60), st.integers(0, 60))
def test_crc32c_agrees_with_its_definition_and_can_be_continued(data: bytes, cut: int) -> None:
    """Bit by bit, in one call, or in two: the same checksum."""
    assert crc32c(data) == _slow_crc32c(data)
    assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


@pytest.mark.parametrize(
    ("crc", "masked"), [(0, 0xA282EAD8), (0x9EBA690A, 0x7498284C), (0x7671B78E, 0x119FD7BB), (0xFFFFFFFF, 0xA282EAD7)]
)
def test_known_masks(crc: int, masked: int) -> None:
    """Of nothing, and of two tensors that TensorFlow wrote."""
    assert mask(crc) == masked


@given(st.integers(0, 0xFFFFFFFF))
def test_a_mask_can_be_taken_off(crc: int) -> None:
    """Every checksum comes back, and its masked form fits 32 bits."""
    rotated = (mask(crc) - 0xA282EAD8) & 0xFFFFFFFF
    assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == crc
    assert mask(crc) >> 32 == 0


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        ((1 << 64) - 1, "ffffffffffffffffff01"),
        (-1, "ffffffffffffffffff01"),
        (-2, "feffffffffffffffff01"),
    ],
)
def test_known_varints(value: int, encoded: str) -> None:
    """The examples of protobuf's encoding guide; a negative number takes ten bytes."""
    assert varint(value).hex() == encoded


@given(uint64, st.binary(max_size=3))
def test_varints_come_back(value: int, after: bytes) -> None:
    """A varint is read up to its end, whatever follows it."""
    encoded = varint(value)
    assert read_varint(encoded + after, 0, len(encoded + after)) == (value, len(encoded))
    assert len(encoded) == max(1, -(-value.bit_length() // 7))


@given(int64)
def test_signed_numbers_come_back(value: int) -> None:
    """An int64 goes through a varint as its two's complement."""
    assert signed64(read_varint(varint(value), 0, 10)[0]) == value


@given(uint64)
def test_a_varint_that_is_cut_is_damaged(value: int) -> None:
    """Neither the end of the data nor the end that the caller sets is passed."""
    encoded = varint(value)
    for end in range(len(encoded)):
        with pytest.raises(DamagedError):
            read_varint(encoded, 0, end)
        with pytest.raises(DamagedError):
            read_varint(encoded[:end], 0, end)


@pytest.mark.parametrize("encoded", [b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01", b"\xff" * 1000])
def test_a_varint_of_more_than_64_bits_is_damaged(encoded: bytes) -> None:
    """Ten bytes, and of the tenth one bit."""
    with pytest.raises(DamagedError):
        read_varint(encoded, 0, len(encoded))


messages = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 1 << 20), st.just(VARINT), uint64),
        st.tuples(st.integers(1, 40), st.just(FIXED32), st.integers(0, 0xFFFFFFFF)),
        st.tuples(st.integers(1, 40), st.just(BYTES), st.binary(max_size=300)),
    )
)


def _encode(field: int, kind: int, value: int | bytes) -> bytes:
    tag = varint(field << 3 | kind)
    if isinstance(value, bytes):
        return tag + varint(len(value)) + value
    return tag + (varint(value) if kind == VARINT else value.to_bytes(4, "little"))


@given(messages)
def test_fields_come_back_with_their_own_bytes(message: list[tuple[int, int, int | bytes]]) -> None:
    """Number, wire type and value of every field, and the bytes that it stood in."""
    encoded = [_encode(*field) for field in message]
    assert list(fields(b"".join(encoded))) == [(*field, raw) for field, raw in zip(message, encoded, strict=True)]


@given(messages)
def test_a_message_that_is_cut_is_damaged_unless_between_fields(message: list[tuple[int, int, int | bytes]]) -> None:
    """A cut within a field is an error; the fields before it are the right ones."""
    encoded = [_encode(*field) for field in message]
    whole = b"".join(encoded)
    ends = {sum(map(len, encoded[:count])): count for count in range(len(encoded) + 1)}
    for length in range(len(whole)):
        if length in ends:
            assert [raw for _, _, _, raw in fields(whole[:length])] == encoded[: ends[length]]
        else:
            with pytest.raises(DamagedError):
                list(fields(whole[:length]))


@given(st.binary(max_size=40))
@example(b"\x0b\x0c")  # a group
@example(b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")  # a length of 2^64 - 1
@example(b"\x00\x00")  # field number 0
@example(b"\x08")  # ends before its value
def test_any_bytes_are_a_message_or_damaged(data: bytes) -> None:
    """Nothing is skipped: the fields' own bytes make up the message, or an error says that it is none."""
    try:
        found = list(fields(data))
    except DamagedError:
        return
    assert b"".join(raw for _, _, _, raw in found) == data


@pytest.mark.parametrize("data", [b"\x0b\x0c", b"\x0f", b"\x02\x00", b"\x08", b"\x0d\x00\x00\x00", b"\x09" + bytes(7)])
def test_damaged_messages(data: bytes) -> None:
    """A group, an unknown wire type, field number 0, and values that are not there."""
    with pytest.raises(DamagedError):
        list(fields(data))


def test_zero_is_left_out_but_an_empty_message_is_not() -> None:
    """As in proto3: a scalar's default is not written; a message may be present and empty."""
    assert varint_field(4, 0) == fixed32_field(6, 0) == b""
    assert bytes_field(2, b"") == b"\x12\x00"
    assert fixed32_field(6, 0x119FD7BB).hex() == "35bbd79f11"
    assert varint_field(5, 8).hex() == "2808"


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "80"), (1, "81"), (63, "bf"), (64, "c040"), (8191, "dfff"), (8192, "e02000"), (100000, "e186a0"),
        (1048576, "f0100000"), (1 << 31, "f880000000"), (-1, "7f"), (-64, "40"), (-65, "3fbf"),
        ((1 << 63) - 1, "ffc07fffffffffffffff"), (-(1 << 63), "003f8000000000000000"),
    ],
)  # fmt: skip
def test_known_ordered_signed_numbers(value: int, encoded: str) -> None:
    """Known encodings, and both ends of int64."""
    assert ordered_signed(value).hex() == encoded


@pytest.mark.parametrize(
    ("value", "encoded"), [(0, "00"), (2, "0102"), (300, "02012c"), ((1 << 64) - 1, "08" + "ff" * 8)]
)
def test_known_ordered_unsigned_numbers(value: int, encoded: str) -> None:
    """A count of bytes, and the bytes."""
    assert ordered_unsigned(value).hex() == encoded


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (b"v", "760001"),
        (b"", "0001"),
        (b"\x00", "00ff0001"),
        (b"\xff", "ff000001"),
        (b"\xff\x00\xff", "ff0000ffff000001"),
    ],
)
def test_known_ordered_strings(value: bytes, encoded: str) -> None:
    """Zeros and 0xff are escaped, and an end is marked."""
    assert ordered_string(value).hex() == encoded


@given(int64, int64)
def test_ordered_signed_numbers_keep_their_order(one: int, other: int) -> None:
    """Encodings compare as the numbers do."""
    assert (ordered_signed(one) < ordered_signed(other)) == (one < other)
    assert (ordered_signed(one) == ordered_signed(other)) == (one == other)


@given(uint64, uint64)
def test_ordered_unsigned_numbers_keep_their_order(one: int, other: int) -> None:
    """Encodings compare as the numbers do."""
    assert (ordered_unsigned(one) < ordered_unsigned(other)) == (one < other)


odd_bytes = st.lists(st.sampled_from((0, 1, 0x61, 0xFE, 0xFF)), max_size=6).map(bytes)


@given(st.lists(odd_bytes, max_size=3), st.lists(odd_bytes, max_size=3))
def test_ordered_strings_keep_the_order_of_lists(one: list[bytes], other: list[bytes]) -> None:
    """Encodings one after another compare as the lists of strings do: no string runs into the next."""
    encoded = [b"".join(map(ordered_string, strings)) for strings in (one, other)]
    assert (encoded[0] < encoded[1]) == (one < other)
    assert (encoded[0] == encoded[1]) == (one == other)
