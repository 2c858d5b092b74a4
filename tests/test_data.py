"""Tables from files, and batches as a pure function of (seed, b)."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from ring_support import write_ring

from ckptsurgeon import data
from ckptsurgeon.data import csv_rows, spool, target
from ckptsurgeon.data.columns import check_names
from ckptsurgeon.errors import CkptSurgeonError, DamagedError, RefusedError, files
from ckptsurgeon.ring import start
from ckptsurgeon.ring.folder import Folder

IRIS = "sepal,petal,species\n5.1,0.2,setosa\n7,1.4,versicolor\n6.3,2.5,virginica\n5,.3,setosa\n"


def write(folder: Path, content: str | bytes, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


# -- csv


def test_a_csv_of_classes_has_them_sorted_as_text(tmp_path: Path) -> None:
    """All columns but the target are float32 features; classes become indices."""
    table = data.read(write(tmp_path, IRIS), "species")
    assert table.classes == ("setosa", "versicolor", "virginica")
    assert table.features == ("sepal", "petal")
    assert table.X.dtype == np.float32
    assert table.X.tolist() == np.array([[5.1, 0.2], [7, 1.4], [6.3, 2.5], [5, 0.3]], np.float32).tolist()
    assert table.y.dtype == np.int64
    assert table.y.tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("texts", "classes"),
    [
        (["10", "9", "2", "10"], ("10", "2", "9")),
        (["1.0", "2.0"], ("1.0", "2.0")),
        (["1.5", "2"], None),
        (["1e-3", "-4"], None),
        (["1.5", "two"], ("1.5", "two")),
        (["yes", "no"], ("no", "yes")),
    ],
)
def test_numbers_are_a_regression_target_if_one_of_them_is_no_integer(
    tmp_path: Path, texts: list[str], classes: tuple[str, ...] | None
) -> None:
    """Integers are class labels; a single fraction makes all of them values."""
    table = data.read(write(tmp_path, "x,t\n" + "".join(f"0,{text}\n" for text in texts)), "t")
    assert table.classes == classes
    if classes is None:
        assert table.y.dtype == np.float32
        assert table.y.tolist() == np.array([float(text) for text in texts], np.float32).tolist()


def test_the_target_may_be_any_column_and_quotes_and_blank_lines_are_fine(tmp_path: Path) -> None:
    """A byte order mark, blanks after commas, quoted fields and empty lines do not matter."""
    table = data.read(write(tmp_path, '\ufefft, a\r\n\r\n"b,c", 1\r\nd,"2"\r\n'), "t")
    assert table.classes == ("b,c", "d")
    assert table.X.tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("content", "target", "words"),
    [
        ("", "t", ["empty", "header"]),
        ("\n\n", "t", ["empty", "header"]),
        ("a,t\n", "t", ["no rows"]),
        ("1,2\n3,4\n", "t", ["first line contains numbers"]),
        ("a,species\n1,x\n", "specis", ["no column 'specis'", "did you mean species"]),
        ("a,b\n1,x\n", "zzz", ["no column 'zzz'", "a, b"]),
        ("t\nx\n", "t", ["only column is the target"]),
        ("t,t,a\nx,y,1\n", "t", ["two columns are named 't'"]),
        ("a,a,t\n1,2,x\n", "t", ["two columns are named 'a'"]),
        ("a,t\n1,x\n2,y,z\n", "t", ["line 3", "expected 2", "found 3"]),
        ("a,t\n1,x\n\n2\n", "t", ["line 4", "expected 2", "found 1"]),
        ("a,b,t\n1,2,x\n1,two,y\n", "t", ["line 3", "column 'b'", "'two'"]),
        ("a,b,t\n1,,x\n", "t", ["line 2", "column 'b'", "empty"]),
        ("a,t\n1_000,x\n", "t", ["line 2", "column 'a'", "'1_000'"]),
        ("a,t\n1,x\nnan,y\n", "t", ["line 3", "column 'a'", "nan"]),
        ("a,t\n-inf,y\n", "t", ["line 2", "column 'a'", "-inf"]),
        ("a,t\n1e39,y\n", "t", ["line 2", "column 'a'", "1e+39"]),
        ("a,t\n1, \n", "t", ["line 2", "column 't'", "empty"]),
        ("a,t\n1,1.5\n2,inf\n", "t", ["line 3", "column 't'", "'inf'"]),
        ("a,t\n1,1.5\n2,1e39\n", "t", ["line 3", "column 't'", "'1e39'"]),
        (b"a,t\n1,\xff\xfe\n", "t", ["UTF-8"]),
        ("a,t\n1," + "x" * 200_000 + "\n", "t", ["line 2", "csv"]),
    ],
)
def test_what_is_wrong_with_a_csv_is_told_in_one_line(
    tmp_path: Path, content: str | bytes, target: str, words: list[str]
) -> None:
    """The file, the line and the column are named."""
    path = write(tmp_path, content)
    with pytest.raises(CkptSurgeonError) as caught:
        data.read(path, target)
    message = str(caught.value)
    assert message.startswith(path)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_file_and_a_missing_target_are_told(tmp_path: Path) -> None:
    """Neither ends in a traceback."""
    with pytest.raises(CkptSurgeonError, match="no such file"):
        data.read(str(tmp_path / "none.csv"), "t")
    with pytest.raises(CkptSurgeonError, match="no target was given"):
        data.read(write(tmp_path, IRIS))


def test_rows_are_read_as_those_of_another_table(tmp_path: Path) -> None:
    """The classes and the kind of target of the training rows are kept, whatever the new file holds."""
    trained = data.read(write(tmp_path, IRIS), "species")
    table = data.read(write(tmp_path, "sepal,petal,species\n1,2,virginica\n"), "species", like=trained)
    assert (table.y.tolist(), table.classes) == ([2], trained.classes)
    with pytest.raises(CkptSurgeonError, match=r"line 2.*unknown class; expected setosa.*'rose'"):
        data.read(write(tmp_path, "sepal,petal,species\n1,2,rose\n"), "species", like=trained)
    values = data.Table(trained.X, trained.X[:, 0], None)
    table = data.read(write(tmp_path, "a,t\n1,2\n1,3\n"), "t", like=values)
    assert (table.y.tolist(), table.classes) == ([2.0, 3.0], None)


# -- npy and npz


def test_npz_and_npy_give_the_same_table(tmp_path: Path) -> None:
    """X and y in one archive, or in two files."""
    X, y = np.arange(6.0).reshape(3, 2), np.array([3, 1, 3])
    one = data.read(write(tmp_path, npz(X=X, y=y), "a.npz"))
    target = write(tmp_path, npy(y), "y.npy")
    two = data.read(write(tmp_path, npy(X), "X.npy"), target)
    for table in (one, two):
        assert table.X.dtype == np.float32
        assert table.X.tolist() == X.tolist()
        assert table.classes == ("1", "3")
        assert table.y.tolist() == [1, 0, 1]


def test_an_array_of_floats_is_a_regression_target(tmp_path: Path) -> None:
    """An array's dtype says what it holds, also for several outputs; its name may be another than y."""
    y = np.array([[1.0, 2.0], [3.0, 4.0]])
    table = data.read(write(tmp_path, npz(X=np.ones((2, 3)), both=y), "a.npz"), "both")
    assert table.classes is None
    assert table.y.dtype == np.float32
    assert table.y.tolist() == y.tolist()


@pytest.mark.parametrize("shape", [(3, 8, 8), (3, 4, 4, 3), (3, 2, 2, 2, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, bool])
def test_images_and_sequences_keep_their_axes(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    """X of any rank becomes float32 with the same axes, also from an array in Fortran order."""
    X = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    target = write(tmp_path, npy(np.array([1, 0, 1])), "y.npy")
    for order in (np.asfortranarray, np.ascontiguousarray):
        for table in (
            data.read(write(tmp_path, npz(X=order(X), y=np.array([1, 0, 1])), "a.npz")),
            data.read(write(tmp_path, npy(order(X)), "X.npy"), target),
        ):
            assert (table.X.dtype, table.X.shape, table.features) == (np.float32, shape, ())
            assert np.array_equal(table.X, X.astype(np.float32))
    folder = Folder.at(str(tmp_path / "run"))
    folder.save_table(table)
    assert np.array_equal(folder.open_table().X, table.X)


def test_float32_features_are_mapped_not_loaded(tmp_path: Path) -> None:
    """A file larger than memory can be trained on."""
    path = write(tmp_path, npy(np.ones((4, 2), np.float32)), "X.npy")
    table = data.read(path, write(tmp_path, npy(np.arange(4)), "y.npy"))
    assert isinstance(table.X, np.memmap)


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.ones(3), np.arange(3), r"features cannot be used.*X\[:, None\] makes it one feature per row"),
        (np.ones((3, 0)), np.arange(3), "features cannot be used"),
        (np.ones((3, 2), complex), np.arange(3), "features cannot be used"),
        (np.ones((3, 2)), np.arange(4), r"target cannot be used; expected \[3\]"),
        (np.ones((3, 2)), np.ones((3, 2), int), "target cannot be used"),
        (np.ones((3, 2)), np.ones((3, 0)), "target cannot be used"),
        (np.full((3, 2), np.nan), np.arange(3), "not finite"),
        (np.ones((3, 2)), np.array([1, 2, np.inf]), "not finite"),
        (np.full((3, 2), 1e300), np.arange(3), "not finite"),
    ],
)
def test_arrays_that_cannot_be_trained_on_are_refused(tmp_path: Path, X: np.ndarray, y: np.ndarray, words: str) -> None:
    """One line says what was expected and what was found."""
    with pytest.raises(CkptSurgeonError, match=words):
        data.read(write(tmp_path, npz(X=X, y=y), "a.npz"))


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    """Neither from .npy nor from .npz, whose objects could run any code."""
    objects = np.array([{"a": 1}, None], dtype=object)
    buffer = io.BytesIO()
    np.save(buffer, objects, allow_pickle=True)
    with pytest.raises(CkptSurgeonError, match=r"\.npy"):
        data.read(write(tmp_path, buffer.getvalue(), "X.npy"), write(tmp_path, npy(np.arange(2)), "y.npy"))
    buffer = io.BytesIO()
    np.savez(buffer, X=objects, y=np.arange(2), allow_pickle=True)
    with pytest.raises(CkptSurgeonError, match="pickled"):
        data.read(write(tmp_path, buffer.getvalue(), "a.npz"))


def test_a_claimed_size_is_not_believed(tmp_path: Path) -> None:
    """A header that promises more elements than the file can hold costs no memory."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    huge = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    y = write(tmp_path, npy(np.arange(2)), "y.npy")
    with pytest.raises(CkptSurgeonError, match=r"\.npy"):
        data.read(write(tmp_path, huge, "X.npy"), y)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("X.npy", huge)
        archive.writestr("y.npy", npy(np.arange(2)))
    with pytest.raises(CkptSurgeonError, match="do not fit"):
        data.read(str(tmp_path / "a.npz"))


def test_an_archive_without_the_arrays_says_which_it_has(tmp_path: Path) -> None:
    """The name that is missing, and the one that was meant."""
    path = write(tmp_path, npz(X=np.ones((2, 2)), target=np.arange(2)), "a.npz")
    with pytest.raises(CkptSurgeonError, match="no array 'targets'; did you mean target"):
        data.read(path, "targets")
    with pytest.raises(CkptSurgeonError, match="no array 'y'; the arrays are X, target"):
        data.read(path)


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_a_file_cut_off_anywhere_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    """At every length there is a CkptSurgeonError, and nothing else."""
    X, y = np.ones((3, 2), np.float32), np.arange(3)
    whole = npz(X=X, y=y) if kind == "npz" else npy(X)
    target = write(tmp_path, npy(y), "y.npy") if kind == "npy" else None
    for length in range(6, len(whole)):
        path = write(tmp_path, whole[:length], f"cut.{kind}")
        with pytest.raises(CkptSurgeonError):
            data.read(path, target)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_flipped_bytes_raise_nothing_else(tmp_path_factory: pytest.TempPathFactory, draw: st.DataObject) -> None:
    """A damaged archive is a table or a CkptSurgeonError."""
    whole = bytearray(npz(X=np.ones((3, 2), np.float32), y=np.arange(3)))
    for position in draw.draw(st.lists(st.integers(4, len(whole) - 1), min_size=1, max_size=3)):
        whole[position] = draw.draw(st.integers(0, 255))
    path = write(tmp_path_factory.getbasetemp(), bytes(whole), "flipped.npz")
    with contextlib.suppress(CkptSurgeonError):
        assert data.read(path).X.ndim == 2


# -- many rows


def reading(path: str, at_once: int) -> object:
    """All that reading a csv in parts of so many rows comes to: the table, or the error."""
    try:
        with files(path):
            table = csv_rows.read(path, "t", None, None, at_once)
    except CkptSurgeonError as error:
        return type(error), str(error)
    return table.X.tolist(), table.y.tolist(), table.y.dtype, table.classes, table.features


fields = st.sampled_from(
    ["1", "-2.5", "0.25", "1e3", "7.125", "x", '"q,r"', '"two\nlines"', '"a\r\nb"', " 3 ", "nan", "", "1_0"]
)
numbers = st.sampled_from(["1", "-2.5", "1e3", '"4"', " 3 "])


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(st.one_of(st.tuples(numbers, fields), st.tuples(numbers, numbers), st.just(()), st.tuples(fields))),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    at_once=st.integers(1, 5),
)
def test_a_csv_is_the_same_in_parts_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, ...]], end: str, at_once: int
) -> None:
    """The table, or the error with its line, does not depend on where a part ends; nor on what is spilled to disk."""
    path = write(tmp_path_factory.getbasetemp(), end.join(["a,t", *map(",".join, rows)]) + end, "parts.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, "_FRACTIONS", 2)
        whole = reading(path, 1000)
        patch.setattr(spool, "_MEMORY", 8)
        assert reading(path, at_once) == whole


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["1,x"] * 700 + ["", "two,x"], ["line 703", "column 'a'", "'two'"]),
        (["1,x"] * 511 + ["", '1,"x\ny"', '"1\n", x', "1"], ["line 518", "expected 2, found 1"]),
        (["1,x"] * 600 + ["1,"], ["line 602", "column 't' is empty"]),
        (["1,.5"] * 600 + ["1,inf"], ["line 602", "column 't'", "not a finite number", "'inf'"]),
        (["1,x"] * 600 + ["1," + "y" * 200_000], ["line 602", "not csv"]),
        (["1,x"] * 600 + ["1e39,y", "1"], ["line 602", "column 'a'", "not finite"]),
    ],
)
def test_a_mistake_far_down_is_told_with_its_line(tmp_path: Path, rows: list[str], words: list[str]) -> None:
    """Blank lines and line ends within quotes count, in whichever part of the file they stand."""
    with pytest.raises(CkptSurgeonError) as caught:
        data.read(write(tmp_path, "\n".join(["a,t", *rows])), "t")
    for word in words:
        assert word in str(caught.value)


def test_reading_stops_at_the_first_row_of_another_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such rows may be very long, so they do not collect in memory; blank lines and the rows before do not matter."""
    read: list[int] = []
    judge = csv_rows._Columns.take
    monkeypatch.setattr(
        csv_rows._Columns, "take", lambda self, rows, line: (read.append(len(rows)), judge(self, rows, line))[1]
    )
    path = write(tmp_path, "a,t\n1,x\n\n2,y\n" + ("," * 1000 + "\n") * 100)
    with pytest.raises(CkptSurgeonError, match=r"line 5 has a different number of fields .* found 1001"):
        data.read(path, "t")
    assert read == [4]


def test_names_of_many_columns_are_compared_once() -> None:
    """The work grows with the number of names, not with its square."""

    class Name(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Name.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Name(number) for number in range(2000)]
    check_names(names, "7")
    assert Name.compared < 10 * len(names)
    with pytest.raises(RefusedError, match="two columns are named '1999'"):
        check_names([*names, Name(1999)], "7")
    assert Name.compared < 30 * len(names)


@pytest.mark.parametrize("first", [True, False])
def test_a_word_among_a_thousand_fractions_is_a_mistake_not_a_class(tmp_path: Path, first: bool) -> None:
    """So many different numbers are values, wherever the word stands; with fewer of them all are classes."""
    rows = [f"1,{number}.5" for number in range(1200)]
    rows.insert(0 if first else 1200, "1,NA")
    with pytest.raises(CkptSurgeonError, match=r"line (2|1202), column 't' is not a finite number; found 'NA'"):
        data.read(write(tmp_path, "\n".join(["a,t", *rows])), "t")
    table = data.read(write(tmp_path, "\n".join(["a,t", *rows[:900], "1,NA"])), "t")
    assert table.classes is not None
    assert "NA" in table.classes


def test_more_classes_than_any_table_has_are_refused(tmp_path: Path) -> None:
    """A number for each row, say, is no class: the line is told at which it was noticed, and memory is not filled."""
    rows = "".join(f"1,{number}\n" for number in range(65_537))
    with pytest.raises(CkptSurgeonError, match=r"line 65538, column 't' has too many classes; expected at most 65536"):
        data.read(write(tmp_path, "a,t\n" + rows), "t")
    with pytest.raises(CkptSurgeonError, match=r"row 65536, column 'y' has too many classes"):
        data.read(write(tmp_path, npz(X=np.ones((65_537, 1)), y=np.arange(65_537)), "a.npz"))


def test_many_rows_lie_in_the_folder_without_a_name(tmp_path: Path) -> None:
    """They are what they are in memory, and nothing is left there, after a mistake neither."""
    X, y = np.random.default_rng(3).random((100_000, 2), np.float32), np.arange(100_000) % 7
    (tmp_path / "spool").mkdir()
    rows = "".join(f"{a!r},{b!r},{c}\n" for (a, b), c in zip(X.tolist(), y.tolist(), strict=True))
    paths = [
        write(tmp_path, "a,b,t\n" + rows),
        write(tmp_path, npz(X=X, t=y), "a.npz"),
        write(tmp_path, npz(X=np.asfortranarray(X.astype(np.float64)), t=y), "fortran.npz"),
    ]
    for path in paths:
        table = data.read(path, "t", folder=str(tmp_path / "spool"))
        assert np.array_equal(table.X, X)
        assert np.array_equal(table.y, y)
        assert not list((tmp_path / "spool").iterdir())
    with pytest.raises(CkptSurgeonError, match="line 100002"):
        data.read(write(tmp_path, "a,b,t\n" + rows + "1,x,2\n"), "t", folder=str(tmp_path / "spool"))
    assert not list((tmp_path / "spool").iterdir())
    with pytest.raises(CkptSurgeonError, match="nowhere"):
        data.read(paths[0], "t", folder=str(tmp_path / "nowhere"))


def test_a_damaged_member_is_noticed_though_it_is_streamed(tmp_path: Path) -> None:
    """A flipped bit in the middle of a stored array contradicts the archive's checksum."""
    raw = bytearray(npz(X=np.ones((1000, 2), np.float32), y=np.arange(1000)))
    raw[4000] ^= 1
    with pytest.raises(CkptSurgeonError, match="CRC"):
        data.read(write(tmp_path, bytes(raw), "a.npz"))


MEMORY = """
import resource, sys
from ckptsurgeon import data
from ckptsurgeon.ring.folder import Folder

def use(few):
    for path, target in zip(sys.argv[2::2], sys.argv[3::2]):
        if few == path.rpartition("/")[2].startswith("few"):
            table = data.read(path, target, folder=sys.argv[1])
            folder = Folder(sys.argv[1] + "/run")
            folder.save_table(table)
            table = folder.open_table()
            batches = data.Batches(len(table.X), 32, 0, 0.2)
            held = sum(len(rows) for rows in batches.held_out_parts(1000))
            assert held == round(len(table.X) * 0.2) and table.take(batches.rows(5)).y.shape == (32,), path
            folder.data_digest()

use(True)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = int(status["VmData"].split()[0]) * 1024 + (6 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
use(False)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit holds for what a process allocates on Linux alone")
def test_half_a_million_rows_take_the_memory_of_ten_thousand(tmp_path: Path) -> None:
    """Read, kept for a run and cut into batches within 6 MB more, which is no room for all of them."""
    random = np.random.default_rng(1)
    block = [f"{a:.4f},{b:.4f}" for a, b in random.random((10_000, 2)).tolist()]
    arguments = []
    for name, times in (("few", 1), ("many", 50)):
        classes = "".join(f"{row},{number % 3}\n" for number, row in enumerate(block))
        arguments += [write(tmp_path, "a,b,t\n" + classes * times, f"{name}-classes.csv"), "t"]
        values = "".join(f"{number},{number / 7:.7g}\n" for number in range(10_000 * times))
        arguments += [write(tmp_path, "a,t\n" + values, f"{name}-values.csv"), "t"]
        X, y = np.tile(random.random((10_000, 2)), (times, 1)), np.arange(10_000 * times) % 3
        arguments += [write(tmp_path, npz(X=X, y=y), f"{name}.npz"), "y"]
        np.savez_compressed(tmp_path / f"{name}-deflated.npz", X=np.asfortranarray(X.astype(np.float32)), y=y / 2)
        arguments += [str(tmp_path / f"{name}-deflated.npz"), "y"]
        arguments += [write(tmp_path, npy(X), f"{name}.npy"), write(tmp_path, npy(y), f"y-{name}.npy")]
    command = [sys.executable, "-c", MEMORY, str(tmp_path), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_held_out_rows_come_in_parts(tmp_path: Path) -> None:
    """All of them once, each part ascending and none longer than asked for."""
    batches = data.Batches(1000, 10, 7, 0.25)
    found = [rows.tolist() for rows in batches.held_out_parts(60)]
    assert [len(rows) for rows in found] == [60, 60, 60, 60, 10]
    assert all(rows == sorted(rows) for rows in found)
    assert sorted(row for part in found for row in part) == batches.held_out().tolist()
    assert list(data.Batches(10, 2, 7).held_out_parts(3)) == []


# -- batches


@settings(deadline=None)
@given(st.integers(1, 5000), st.text(max_size=5))
def test_a_keyed_permutation_is_one(n: int, key: str) -> None:
    """Every number occurs once."""
    assert sorted(data.permute(np.arange(n), n, key).tolist()) == list(range(n))


def test_a_permutation_needs_no_memory_of_its_size() -> None:
    """Ten positions of a million million are ten numbers in it, far apart."""
    n = 10**12
    found = data.permute(np.arange(10), n, "key")
    assert len(set(found.tolist())) == 10
    assert (found >= 0).all()
    assert (found < n).all()
    assert np.abs(np.diff(found)).min() > 10**6


def test_a_permutation_is_even() -> None:
    """Over many keys each of 50 numbers comes first about as often as any other (chi-squared, p about 1e-4)."""
    counts = np.bincount([int(data.permute(np.arange(1), 50, str(key))[0]) for key in range(5000)], minlength=50)
    assert ((counts - 100.0) ** 2 / 100).sum() < 95


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 2**63), st.sampled_from([0, 0.1, 0.2, 0.5, 0.9]))
def test_an_epoch_holds_every_row_once_but_those_held_out(n: int, size: int, seed: int, holdout: float) -> None:
    """Slices are consecutive, the last one is short, and no batch holds a held-out row."""
    try:
        batches = data.Batches(n, size, seed, holdout)
    except CkptSurgeonError:
        assert n <= max(1, round(n * holdout))
        return
    held = batches.held_out().tolist()
    assert len(held) == (max(1, round(n * holdout)) if holdout else 0)
    for epoch in range(2):
        parts = [batches.rows(epoch * batches.per_epoch + b) for b in range(batches.per_epoch)]
        assert [len(part) for part in parts[:-1]] == [size] * (batches.per_epoch - 1)
        assert 1 <= len(parts[-1]) <= size
        assert sorted([*np.concatenate(parts).tolist(), *held]) == list(range(n))


def test_batches_are_a_function_of_seed_and_number() -> None:
    """The order of asking does not matter; another seed or epoch gives another order, but the same held-out rows."""
    batches, again = data.Batches(100, 10, 42, 0.2), data.Batches(100, 10, 42, 0.2)
    later = again.rows(11).tolist()
    assert batches.rows(3).tolist() == again.rows(3).tolist()
    assert batches.rows(11).tolist() == later
    assert batches.rows(3).tolist() != later
    assert batches.rows(3).tolist() != data.Batches(100, 10, 43, 0.2).rows(3).tolist()
    assert batches.held_out().tolist() != data.Batches(100, 10, 43, 0.2).held_out().tolist()


def test_the_rows_of_a_batch_never_change() -> None:
    """These numbers stand in every journal ever written: another permutation would break the resume of old runs."""
    batches = data.Batches(20, 6, 42, 0.2)
    assert batches.held_out().tolist() == [1, 4, 10, 13]
    assert batches.rows(0).tolist() == [3, 2, 8, 16, 0, 7]
    assert batches.rows(5).tolist() == [16, 15, 3, 17]


@pytest.mark.parametrize(("rows", "size", "holdout"), [(0, 1, 0), (5, 0, 0), (5, 1, 1.0), (5, 1, -0.1), (1, 1, 0.5)])
def test_senseless_batches_are_refused(rows: int, size: int, holdout: float) -> None:
    """Nothing to train on is an error, not an endless loop."""
    with pytest.raises(CkptSurgeonError):
        data.Batches(rows, size, 42, holdout)


def test_a_batch_file_has_the_same_bytes_for_the_same_rows(tmp_path: Path) -> None:
    """No time stamp stands in it, and NumPy reads it."""
    X, y = np.ones((3, 2), np.float32), np.arange(3)
    for name in ("a.npz", "b.npz"):
        data.write_batch(str(tmp_path / name), X, y)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as loaded:
        assert loaded["X"].dtype == np.float32
        assert loaded["X"].tolist() == X.tolist()
        assert loaded["y"].tolist() == y.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


# -- the rows of a run


def test_a_run_keeps_its_rows_classes_and_the_names_of_its_features(tmp_path: Path) -> None:
    """What is opened is what was saved; a run of an earlier version, which kept no names of features, has none."""
    table = data.read(write(tmp_path, IRIS), "species")
    folder = Folder.at(str(tmp_path / "run"))
    folder.save_table(table)
    opened = folder.open_table()
    assert (opened.features, opened.classes) == (("sepal", "petal"), table.classes)
    assert isinstance(opened.X, np.memmap)
    assert (opened.X.tolist(), opened.y.tolist()) == (table.X.tolist(), table.y.tolist())
    digest = folder.data_digest()
    (tmp_path / "run/data/features.json").unlink()
    assert folder.open_table().features == ()
    folder.save_table(data.Table(np.asfortranarray(table.X), table.y, table.classes))
    assert folder.open_table().features == ()
    assert folder.data_digest() == digest
    assert np.load(tmp_path / "run/data/X.npy").tolist() == table.X.tolist()
    names = {"X.npy", "y.npy", "classes.json", "features.json"}
    assert {path.name for path in (tmp_path / "run/data").iterdir()} == names


@pytest.mark.parametrize("content", ['["a"', '["a"]', "[1, 2]", '{"a": 1}', "[" * 100_000])
def test_damaged_names_of_features_are_told(tmp_path: Path, content: str) -> None:
    """No list of names, or not as many as there are columns."""
    folder = Folder.at(str(tmp_path / "run"))
    folder.save_table(data.read(write(tmp_path, IRIS), "species"))
    write(tmp_path / "run/data", content, "features.json")
    with pytest.raises(DamagedError, match="data"):
        folder.open_table()


def test_rows_that_cannot_be_trained_on_change_nothing(tmp_path: Path) -> None:
    """`ring init` reads all of them before it touches an old run, or makes a folder for a new one."""
    write_ring(tmp_path / "run")
    before = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    with (tmp_path / "run/points.csv").open("a") as file:
        file.write("1,two,in\n")
    with pytest.raises(CkptSurgeonError, match=r"points.csv: line 62, column 'y' is not a number; found 'two'"):
        start.init(str(tmp_path / "run"), force=True)
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == before
