"""TensorBundles that lie, were cut or damaged: one clear error each, no other exception, no memory, no wrong value."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handmade import (
    HEADER,
    HandMade,
    entry,
    footer,
    masked,
    number,
    sealed,
    shape_proto,
    slice_proto,
    string_stream,
    strings,
    variant_stream,
    with_index,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Arrays, same

from ckptsurgeon import formats
from ckptsurgeon.errors import CkptSurgeonError, DamagedError, UnsupportedError
from ckptsurgeon.formats.bundle.reading import Bundle
from ckptsurgeon.formats.tensorflow.tensors import slice_key
from ckptsurgeon.formats.tensorflow.wire import bytes_field, crc32c, mask, varint
from ckptsurgeon.verbs import looking

MATRIX = np.arange(12, dtype=np.float32).reshape(4, 3)
HALVES = [((0, 2), (0, -1)), ((2, 2), (0, -1))]
TEXT = strings(b"one", b"", b"three")


def sound() -> HandMade:
    """A checkpoint with a bit of everything, in two shards, before something is done to it."""
    made = HandMade(2)
    made.add("flag", np.array([True, False]), 1)
    made.add("matrix", MATRIX)
    made.add_sliced("sliced", MATRIX, HALVES)
    made.add("text", TEXT, 1)
    made.rows[b"variant"] = entry("variant", (2,))
    stored, crc = variant_stream([b"it", b"erator"])
    made.rows[b"variant"] = entry("variant", (2,), **{**made.place(stored), "crc": crc})
    return made


VALUES = {"flag": np.array([True, False]), "matrix": MATRIX, "sliced": MATRIX, "text": TEXT}
NAMES = [*VALUES, "variant"]


def assert_one_line(error: CkptSurgeonError, prefix: Path) -> None:
    """An error is a single line that names a file of the checkpoint, and no endless one."""
    line = str(error)
    assert len(line.splitlines()) == 1, line
    assert str(prefix) in line, line
    assert len(line) < 1500


def examine(prefix: Path, values: Arrays = VALUES) -> list[str]:
    """Open, measure, verify and read.

    Returns:
        What could not be: "open", or the names of variables. There was no error but good ones, `verify` found the same
        as `read`, and the rest has the values that are given.
    """
    failed = []
    try:
        bundle = formats.open(str(prefix))
    except CkptSurgeonError as error:
        assert_one_line(error, prefix)
        findings = looking.verify(str(prefix))
        assert [finding.ok for finding in findings] == [False]
        return ["open"]
    with bundle:
        for name, variable in bundle.variables.items():
            size = bundle.nbytes(variable)
            assert size is None or size >= 0
            try:
                found = bundle.read(name)
            except UnsupportedError:
                continue
            except CkptSurgeonError as error:
                assert_one_line(error, prefix)
                failed.append(name)
            else:
                assert name not in values or same(found, values[name])
    for finding in looking.verify(str(prefix)):
        if finding.ok:
            assert finding.name not in failed
        elif finding.name not in failed:
            failed.append(str(finding.name))
    return failed


def test_the_checkpoint_that_the_cases_change_is_sound(tmp_path: Path) -> None:
    """Before anything is done to it, everything can be read."""
    assert examine(sound().write(tmp_path / "m")) == []


# -- cut and flipped


def test_every_truncation_of_the_index_is_refused(tmp_path: Path) -> None:
    """An index that was cut short at any length does not open."""
    prefix = sound().write(tmp_path / "m", per_block=3)
    whole = (tmp_path / "m.index").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "m.index").write_bytes(whole[:length])
        assert examine(prefix) == ["open"], length


def test_every_flipped_bit_of_the_index_is_refused(tmp_path: Path) -> None:
    """An index with any one bit changed does not open."""
    prefix = sound().write(tmp_path / "m", per_block=3)
    whole = (tmp_path / "m.index").read_bytes()
    for at in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            (tmp_path / "m.index").write_bytes(damaged)
            with pytest.raises(CkptSurgeonError) as raised:
                Bundle(str(prefix))
            assert_one_line(raised.value, prefix)


@pytest.mark.parametrize("shard", [0, 1])
def test_every_truncation_of_a_shard_is_found(tmp_path: Path, shard: int) -> None:
    """Of a data file that was cut short all is read that lies before the cut, and nothing else."""
    prefix = sound().write(tmp_path / "m")
    path = tmp_path / f"m.data-{shard:05d}-of-00002"
    whole = path.read_bytes()
    with Bundle(str(prefix)) as bundle:
        ends = {
            name: max((e.offset + e.length for e in v.extents if e.file == str(path)), default=0)
            for name, v in bundle.variables.items()
        }
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert sorted(examine(prefix)) == [name for name in NAMES if ends[name] > length]


@pytest.mark.parametrize("shard", [0, 1])
def test_every_flipped_bit_of_a_shard_is_found(tmp_path: Path, shard: int) -> None:
    """Any one bit of the data spoils the variable that it belongs to, and no other."""
    prefix = sound().write(tmp_path / "m")
    path = tmp_path / f"m.data-{shard:05d}-of-00002"
    whole = path.read_bytes()
    with Bundle(str(prefix)) as bundle:
        spans = {
            name: [range(e.offset, e.offset + e.length) for e in v.extents if e.file == str(path)]
            for name, v in bundle.variables.items()
        }
    for at in range(len(whole)):
        [owner] = [name for name, ranges in spans.items() if any(at in span for span in ranges)]
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            path.write_bytes(damaged)
            assert examine(prefix) == [owner]


# -- files that lie, under right checksums


def _matrix(**lies: Any) -> Callable[[HandMade], None]:
    """The entry of `matrix` with other fields."""
    return lambda made: made.rows.update({b"matrix": entry(**{"shape": (4, 3), "size": 48, **lies})})


def _row(key: bytes, row: bytes) -> Callable[[HandMade], None]:
    return lambda made: made.rows.update({key: row})


def _header(header: bytes) -> Callable[[HandMade], None]:
    return _row(b"", header)


def _slices(*cuts: tuple[tuple[int, int], ...], **lies: Any) -> Callable[[HandMade], None]:
    """`sliced` with other slices, each of which has a row of the right shape, as far as that can be."""

    def lie(made: HandMade) -> None:
        made.rows = {key: row for key, row in made.rows.items() if not key.startswith(b"\x00")}
        made.rows[b"sliced"] = entry(shape=(4, 3), slices=map(slice_proto, cuts))
        for cut in cuts:
            shape = [length if length >= 0 else (4, 3)[at % 2] for at, (_, length) in enumerate(cut)]
            size = 4 * int(np.prod([max(0, n) for n in shape], dtype=object))
            row = {"shape": shape, "size": size, "crc": masked(bytes(size)) if size < 1000 else 0, **lies}
            made.rows[slice_key(b"sliced", cut)] = entry(**row)

    return lie


def _slice_row(change: Callable[[bytes], bytes | None]) -> Callable[[HandMade], None]:
    """The row of one slice changed, or gone."""

    def lie(made: HandMade) -> None:
        key = slice_key(b"sliced", HALVES[1])
        row = change(made.rows.pop(key))
        if row is not None:
            made.rows[key] = row

    return lie


WHOLE = (0, -1)
BAD_INDEXES: dict[str, Callable[[HandMade], None]] = {
    "no header": lambda made: made.rows.pop(b"") and None,
    "a header that is no message": _header(b"\xff"),
    "an empty header": _header(b"\x08\x00"),
    "no shard": _header(number(1, 0) + bytes.fromhex("1a020801")),
    "-1 shards": _header(number(1, -1)),
    "a million shards": _header(number(1, 1_000_000)),
    "2^40 shards": _header(number(1, 1 << 40)),
    "a number of shards that is a string": _header(bytes_field(1, b"1")),
    "byte order 2": _header(number(1, 2) + number(2, 2)),
    "a newer format": _header(number(1, 2) + bytes_field(3, number(1, 1) + number(2, 2))),
    "a producer below 0": _header(number(1, 2) + bytes_field(3, number(1, -1))),
    "version 1 is bad": _header(number(1, 2) + bytes_field(3, number(1, 1) + number(3, 1))),
    "version 1 is bad, packed": _header(number(1, 2) + bytes_field(3, number(1, 1) + bytes_field(3, b"\xac\x02\x01"))),
    "version 1 is bad, in two bytes": _header(number(1, 2) + bytes_field(3, bytes_field(3, b"\x81\x00"))),
    "a version that is no message": _header(number(1, 2) + bytes_field(3, b"\x08")),
    "bad versions that do not end": _header(number(1, 2) + bytes_field(3, bytes_field(3, b"\xff"))),
    "a header of a V1 checkpoint": _header(bytes.fromhex("0a150a0f0a01771204120208021801 22020a0012020801")),
    "an entry that is no message": _row(b"matrix", b"\xff\xff"),
    "an entry that is cut": lambda made: made.rows.update({b"matrix": made.rows[b"matrix"][:-1]}),
    "an empty entry": _row(b"matrix", b""),
    "an entry that is text": _row(b"matrix", b"matrix = 1\n"),
    "a group": _row(b"matrix", entry(shape=(4, 3), size=48, more=b"\x4b\x4c")),
    "a dtype that is a string": _matrix(more=bytes_field(1, b"\x01")),
    "a shape that is a number": _matrix(more=number(2, 4)),
    "a shard that is a string": _matrix(more=bytes_field(3, b"\x00")),
    "an offset that is a string": _matrix(more=bytes_field(4, b"\x00")),
    "a checksum that is a varint": _matrix(more=number(6, 5)),
    "slices that are a number": _matrix(more=number(7, 5)),
    "two shapes": _matrix(shape=(12,), more=bytes_field(2, shape_proto((4, 3)))),
    **{f"dtype {dtype}": _matrix(dtype=dtype) for dtype in (0, 20, 34, 99, 101, 133, -1, (1 << 32) + 1)},
    "a dimension of -2": _matrix(shape=(-2, -6)),
    "a dimension of -1": _matrix(shape=(-1,), size=-4),
    "a dimension of -2^63": _matrix(shape=(-(1 << 63),)),
    "2^62 times 2^62 elements": _matrix(shape=(1 << 62, 1 << 62)),
    "2^62 times 2^62 times 0 elements": _matrix(shape=(1 << 62, 1 << 62, 0), size=0),
    "0 times 2^62 times 2^62 elements": _matrix(shape=(0, 1 << 62, 1 << 62), size=0),
    "2^63 - 1 elements": _matrix(shape=((1 << 63) - 1,), size=-4),
    "rank 300": _matrix(shape=(1,) * 300, size=4),
    "rank 255": _matrix(shape=(1,) * 255, size=4),
    "unknown rank": lambda made: made.rows.update(
        {b"matrix": number(1, 1) + bytes_field(2, number(3, 1)) + number(5, 48)}
    ),
    "a shape that is no message": lambda made: made.rows.update(
        {b"matrix": number(1, 1) + bytes_field(2, b"\x12\x7f") + number(5, 48)}
    ),
    "a dimension that is no message": lambda made: made.rows.update(
        {b"matrix": number(1, 1) + bytes_field(2, bytes_field(2, b"\x08")) + number(5, 48)}
    ),
    "2^40 elements in 8 bytes": _matrix(shape=(1 << 40,), size=8),
    "a byte too few": _matrix(size=47),
    "a byte too many": _matrix(size=49),
    "no bytes": _matrix(size=0),
    "2^40 strings in 8 bytes": _matrix(dtype="string", shape=(1 << 40,), size=8),
    "2^40 variants in 8 bytes": _matrix(dtype="variant", shape=(1 << 40,), size=8),
    "shard 2 of 2": _matrix(shard=2),
    "shard -1": _matrix(shard=-1),
    "shard 2^32": _matrix(shard=1 << 32),
    "offset -1": _matrix(offset=-1),
    "offset -2^63": _matrix(offset=-(1 << 63)),
    "offset 2^63 - 1": _matrix(offset=(1 << 63) - 1),
    "size -48": _matrix(size=-48),
    "a string of size -1": _matrix(dtype="string", shape=(), size=-1),
    "slices of lower rank": _slices(((0, 2),), ((2, 2),)),
    "slices of higher rank": _slices((*HALVES[0], WHOLE), (*HALVES[1], WHOLE)),
    "a slice of a scalar's rank": _slices(()),
    "a slice outside": _slices(((0, 2), WHOLE), ((2, 3), WHOLE)),
    "a slice that begins outside": _slices(((0, 4), WHOLE), ((4, 1), WHOLE)),
    "a slice that begins before": _slices(((-1, 3), WHOLE), ((2, 2), WHOLE)),
    "a slice of negative length": _slices(((0, 4), WHOLE), ((2, -2), WHOLE)),
    "a slice of length 0": _slices(((0, 4), WHOLE), ((2, 0), WHOLE)),
    "a slice that ends at 2^63": _slices(((0, 4), WHOLE), ((1, (1 << 63) - 1), WHOLE)),
    "a slice that begins at 2^62": _slices(((1 << 62, 1 << 62), WHOLE)),
    "an open slice that begins within": lambda made: made.rows.update(
        {b"sliced": entry(shape=(4, 3), slices=[bytes_field(1, number(1, 2)) + bytes_field(1, b"")])}
    ),
    "slices that overlap": _slices(((0, 3), WHOLE), ((2, 2), WHOLE)),
    "slices that overlap, beside a gap": _slices(((0, 2), WHOLE), ((1, 2), WHOLE)),
    "slices that overlap in a corner, beside a gap": _slices(
        ((0, 2), (0, 2)), ((1, 1), (1, 1)), ((2, 2), (0, 2)), ((0, 3), (2, 1))
    ),
    "a slice in two spellings": _slices(((0, 4), WHOLE), ((0, 4), (0, 3))),
    "a slice listed twice": lambda made: made.rows.update(
        {b"sliced": entry(shape=(4, 3), slices=map(slice_proto, [HALVES[0], HALVES[0]]))}
    ),
    "a slice listed 100,000 times": lambda made: made.rows.update(
        {b"sliced": entry(shape=(4, 3), slices=[slice_proto(HALVES[0])] * 100_000)}
    ),
    "a slice that is no message": lambda made: made.rows.update(
        {b"sliced": entry(shape=(4, 3), slices=[b"\xff", slice_proto(HALVES[0])])}
    ),
    "an extent that is no message": lambda made: made.rows.update(
        {b"sliced": entry(shape=(4, 3), slices=[bytes_field(1, b"\x08") * 2, slice_proto(HALVES[0])])}
    ),
    "two variables with the same slices": lambda made: made.rows.update({b"sliced\x00": made.rows[b"sliced"]}),
    "a slice without a row": _slice_row(lambda row: None),
    "a slice's row that is no message": _slice_row(lambda row: b"\x08"),
    "a slice's row of another dtype": _slice_row(lambda row: row.replace(number(1, 1), number(1, 3), 1)),
    "a slice's row of an unknown dtype": _slice_row(lambda row: row.replace(number(1, 1), number(1, 99), 1)),
    "a slice's row of another shape": _slice_row(lambda row: entry(shape=(3, 2), size=24)),
    "a slice's row of an impossible shape": _slice_row(lambda row: entry(shape=(-2, -3), size=24)),
    "a slice's row that has slices": _slice_row(lambda row: row + bytes_field(7, slice_proto(HALVES[0]))),
    "a stray slice that is no message": _row(b"\x00stray", b"\xff"),
    "a stray slice in no shard": _row(b"\x00stray", entry(shape=(1,), size=4, shard=2)),
    "a stray slice in a shard that is a string": _row(b"\x00stray", entry(size=4, more=bytes_field(3, b""))),
    "a slice's row of another size": _slice_row(lambda row: entry(shape=(2, 3), size=20)),
    "a slice's row in no shard": _slice_row(lambda row: entry(shape=(2, 3), size=24, shard=2)),
    "a slice's row beyond everything": _slice_row(lambda row: entry(shape=(2, 3), size=24, offset=(1 << 63) - 1)),
}


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_an_index_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    """What contradicts itself in the metadata is one DamagedError on opening, before any data file is looked at."""
    made = sound()
    BAD_INDEXES[name](made)
    prefix = tmp_path / "m"
    (tmp_path / "m.index").write_bytes(made.index())
    with pytest.raises(DamagedError):
        formats.open(str(prefix))
    assert examine(prefix) == ["open"]


def _text(stored: bytes, crc: int, count: int = 3) -> Callable[[HandMade], None]:
    def lie(made: HandMade) -> None:
        made.rows[b"text"] = entry("string", (count,), **{**made.place(stored, 1), "crc": crc})

    return lie


def _lengths(*lengths: int, payload: bytes = b"onethree", size: int | None = None) -> Callable[[HandMade], None]:
    """Strings whose lengths lie, with checksums that agree with the lie."""
    crc = 0
    for length in lengths:
        crc = crc32c(length.to_bytes(4 if length < 1 << 32 else 8, "little"), crc)
    check = mask(crc).to_bytes(4, "little")
    crc = mask(crc32c(payload, crc32c(check, crc)))
    return _text(b"".join(map(varint, lengths)) + check + payload, crc)


def _variant(stored: bytes, crc: int, count: int = 2) -> Callable[[HandMade], None]:
    def lie(made: HandMade) -> None:
        made.rows[b"variant"] = entry("variant", (count,), **{**made.place(stored), "crc": crc})

    return lie


def _wrong_lengths_checksum() -> Callable[[HandMade], None]:
    crc = 0
    for length in (3, 0, 5):
        crc = crc32c(length.to_bytes(4, "little"), crc)
    crc = crc32c(b"evil" + b"onethree", crc)
    return _text(b"\x03\x00\x05" + b"evil" + b"onethree", mask(crc))


GOOD_TEXT, GOOD_CRC = string_stream(TEXT.tolist())
GOOD_VARIANT, GOOD_VARIANT_CRC = variant_stream([b"it", b"erator"])
BAD_DATA: dict[str, tuple[str, Callable[[HandMade], None]]] = {
    "an offset past the end": ("matrix", _matrix(offset=1 << 40)),
    "an offset that lets the last byte miss": ("flag", _row(b"flag", entry("bool", (2,), 1, offset=15, size=2))),
    "a place that is another's": ("matrix", _matrix(offset=4, crc=masked(MATRIX.tobytes()))),
    "a checksum of 0": ("matrix", _matrix(crc=0)),
    "a checksum that is not masked": ("matrix", _matrix(crc=0x8A9136AA)),
    "a wrong checksum of no bytes": ("flag", _row(b"flag", entry("bool", (0,), crc=5))),
    "a wrong checksum of no strings": ("text", _row(b"text", entry("string", (0,), crc=5))),
    "a string of 2^40 bytes": ("text", _lengths(3, 0, 1 << 40)),
    "a string of 2^63 bytes": ("text", _lengths(3, 0, 1 << 63)),
    "strings of 2^64 + 8 bytes": ("text", _lengths((1 << 63) + 3, (1 << 63) - 1, 6)),
    "strings that take less": ("text", _lengths(3, 0, 4)),
    "strings that take more": ("text", _lengths(3, 0, 6)),
    "lengths that do not end": ("text", _text(b"\xff" * 20, 0)),
    "no room for the lengths": ("text", _text(b"\x00\x00\x00\x00\x00\x00", 0)),
    "a wrong checksum of lengths alone": ("text", _wrong_lengths_checksum()),
    "a wrong checksum of strings": ("text", _text(GOOD_TEXT, GOOD_CRC ^ 1)),
    "fewer strings than there are": ("text", _text(GOOD_TEXT, GOOD_CRC, 2)),
    "more strings than there are": ("text", _text(GOOD_TEXT, GOOD_CRC, 4)),
    "fewer variants than there are": ("variant", _variant(GOOD_VARIANT, GOOD_VARIANT_CRC, 1)),
    "more variants than there are": ("variant", _variant(GOOD_VARIANT, GOOD_VARIANT_CRC, 3)),
    "a variant of 2^40 bytes": ("variant", _variant(varint(1 << 40) + GOOD_VARIANT[1:], 0)),
    "a variant of 2^64 - 1 bytes": ("variant", _variant(varint(-1) + GOOD_VARIANT[1:], 0)),
    "a variant that is cut": ("variant", _variant(GOOD_VARIANT[:-1], GOOD_VARIANT_CRC)),
    "a variant's length that does not end": ("variant", _variant(b"\xff" * 11, 0)),
    "a wrong checksum of variants": ("variant", _variant(GOOD_VARIANT, GOOD_VARIANT_CRC ^ 1)),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_lie_are_found(tmp_path: Path, name: str) -> None:
    """Where an index agrees with itself but not with the data, the one variable cannot be read; all others can."""
    victim, lie = BAD_DATA[name]
    made = sound()
    lie(made)
    assert victim in examine(made.write(tmp_path / "m"))
    with formats.open(str(tmp_path / "m")) as bundle:
        for other, values in VALUES.items():
            if other != victim:
                assert same(bundle.read(other), values)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_a_row_is_refused_or_makes_another_checkpoint(tmp_path: Path, data: st.DataObject) -> None:
    """Rows changed at random under right checksums: whatever is then measured, verified and read, good errors."""
    made = sound()
    key = data.draw(st.sampled_from(sorted(made.rows)))
    row = bytearray(made.rows[key])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(row)))
        row[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    made.rows[key] = bytes(row)
    examine(made.write(tmp_path / "m"), {})


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stored=st.binary(max_size=30), count=st.integers(0, 8), kind=st.sampled_from(["string", "variant"]))
def test_any_bytes_are_strings_or_damaged(tmp_path: Path, stored: bytes, count: int, kind: str) -> None:
    """Noise in the place of strings and variants is found, by its form or by its checksum."""
    made = HandMade()
    made.rows[b"text"] = entry(kind, (count,), **made.place(stored))
    expected = ["open"] if len(stored) < count else ["text"] if stored else []
    assert examine(made.write(tmp_path / "m"), {}) == expected


@pytest.mark.parametrize(
    ("shape", "dtype"), [((1,) * 65, "float32"), ((1,) * 254, "string"), ((0, 1 << 62), "float64")]
)
def test_shapes_that_numpy_lacks(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """What TensorFlow may hold and NumPy may not is listed and sound; only reading it is refused."""
    made = HandMade()
    stored = string_stream([b"x"])[0] if dtype == "string" else bytes(0 if 0 in shape else 4)
    crc = string_stream([b"x"])[1] if dtype == "string" else masked(stored)
    made.rows[b"odd"] = entry(dtype, shape, **{**made.place(stored), "crc": crc})
    prefix = made.write(tmp_path / "m")
    assert [finding.ok for finding in looking.verify(str(prefix))] == [True]
    with formats.open(str(prefix)) as bundle:
        assert bundle["odd"].shape == shape
        with pytest.raises(UnsupportedError, match="no NumPy array") as raised:
            bundle.read("odd")
        assert str(prefix) in str(raised.value)


def test_deeply_nested_messages_are_no_danger(tmp_path: Path) -> None:
    """A field that nobody knows is not looked into, however deep it goes."""
    deep = b""
    for _ in range(5000):
        deep = bytes_field(9, deep)
    made = sound()
    made.rows[b"flag"] += deep
    assert examine(made.write(tmp_path / "m")) == []


# -- bombs: small files that ask for much memory, in a child that may have little

_BOMBS: dict[str, Callable[[Path], object]] = {}


def bomb(make: Callable[[Path], object]) -> Callable[[Path], object]:
    _BOMBS[make.__name__.removeprefix("_").replace("_", " ")] = make
    return make


@bomb
def _a_matrix_of_4_TiB_in_a_small_file(prefix: Path) -> object:
    made = HandMade()
    made.add("v", MATRIX, shape=(1 << 40,), size=1 << 42)
    return made.write(prefix)


@bomb
def _strings_of_1_TiB_in_a_small_file(prefix: Path) -> object:
    made = HandMade()
    made.add("v", TEXT, shape=(1 << 40,), size=1 << 41)
    return made.write(prefix)


@bomb
def _a_matrix_of_4_TiB_in_a_sparse_file(prefix: Path) -> object:
    _a_matrix_of_4_TiB_in_a_small_file(prefix)
    with open(f"{prefix}.data-00000-of-00001", "r+b") as file:
        return file.truncate(1 << 42)


@bomb
def _strings_in_a_sparse_file(prefix: Path) -> object:
    made = HandMade()
    made.add("v", TEXT, shape=(1 << 30,), size=1 << 34)
    made.write(prefix)
    with open(f"{prefix}.data-00000-of-00001", "r+b") as file:
        return file.truncate(1 << 34)


@bomb
def _a_string_of_1_TiB(prefix: Path) -> object:
    made = HandMade()
    made.rows[b"v"] = entry("string", (1,), **made.place(varint(1 << 40) + bytes(100)))
    return made.write(prefix)


@bomb
def _slices_that_share_their_bytes(prefix: Path) -> object:
    made, size, count = HandMade(), 1 << 20, 1000
    place = made.place(bytes(size))
    cuts = [((at * size, size),) for at in range(count)]
    made.rows[b"v"] = entry("int8", (count * size,), slices=map(slice_proto, cuts))
    for cut in cuts:
        made.rows[slice_key(b"v", cut)] = entry("int8", (size,), **place)
    return made.write(prefix)


@bomb
def _keys_that_share_a_megabyte(prefix: Path) -> object:
    length, value = 1 << 20, entry("int8", (0,), crc=masked(b""))
    body = bytes((0, 0, len(HEADER))) + HEADER
    body += b"\x00" + varint(length) + varint(len(value)) + b"k" * length + value
    for at in range(5000):
        body += varint(length) + bytes((3, len(value))) + at.to_bytes(3, "big") + value
    stored = sealed(body + bytes(4) + b"\x01\x00\x00\x00")
    return Path(f"{prefix}.index").write_bytes(with_index(stored, [(b"z", b"\x00" + varint(len(stored) - 5))]))


@bomb
def _an_entry_of_a_million_fields(prefix: Path) -> object:
    made = HandMade()
    made.rows[b"v"] = entry(shape=(-1,), more=number(9, 0) * 1_000_000)
    return Path(f"{prefix}.index").write_bytes(made.index())


@bomb
def _a_shape_of_a_million_dimensions(prefix: Path) -> object:
    made = HandMade()
    made.rows[b"v"] = number(1, 1) + bytes_field(2, b"\x12\x00" * 1_000_000)
    return Path(f"{prefix}.index").write_bytes(made.index())


@bomb
def _an_index_of_1_TiB(prefix: Path) -> object:
    return Path(f"{prefix}.index").write_bytes(footer((0, 8), (0, 1 << 40)))


@bomb
def _Snappy_of_4_GiB(prefix: Path) -> object:
    stored = sealed(varint((1 << 32) - 1) + b"\x00a" * 1000, 1)
    return Path(f"{prefix}.index").write_bytes(with_index(stored, [(b"z", b"\x00" + varint(len(stored) - 5))]))


CHILD = """
import resource, sys
import numpy, ml_dtypes, cramjam
from ckptsurgeon import formats
from ckptsurgeon.verbs import looking
from ckptsurgeon.errors import CkptSurgeonError
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)
for prefix in sys.argv[1:]:
    try:
        with formats.open(prefix) as checkpoint:
            checkpoint.nbytes(checkpoint["v"])
            checkpoint.read("v")
        print("read")
    except CkptSurgeonError as error:
        print(type(error).__name__, error)
    if "sparse" not in prefix:  # terabytes of zeros take their time, and no memory
        assert not all(finding.ok for finding in looking.verify(prefix)) or "share" in prefix
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the size of a process is told by /proc")
def test_bombs_take_no_memory(tmp_path: Path) -> None:
    """With 200 MiB to spare, files that ask for gigabytes end in one error each."""
    prefixes = []
    for name, make in _BOMBS.items():
        prefixes.append(tmp_path / name.replace(" ", "-"))
        make(prefixes[-1])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, prefixes)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(prefixes)
    for prefix, line in zip(prefixes, lines, strict=True):
        kind, _, text = line.partition(" ")
        assert kind == ("StorageError" if "sparse" in prefix.name else "DamagedError"), line
        assert text.startswith(str(prefix))
