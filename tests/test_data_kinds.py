"""Tables from parquet files and folders of images, and the words for what is wrong with a csv."""

from __future__ import annotations

import os
import sys
import tracemalloc
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_here import train_here
from ring_support import write_ring

from ckptsurgeon import cli, data
from ckptsurgeon.errors import CkptSurgeonError, DamagedError, RefusedError, UnsupportedError, UsageError
from ckptsurgeon.ring import driver, start
from ckptsurgeon.ring.predicting import ensemble

IRIS = {"sepal": [5.1, 7.0, 6.3], "petal": [0.2, 1.4, 2.5], "species": ["setosa", "virginica", "setosa"]}


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """Trainers without processes: these tests are about what they train on."""
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        yield


def parquet(path: Path, columns: Mapping[str, Any], **options: Any) -> str:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def png(path: Path, values: np.ndarray) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(values).save(path)


# -- parquet


def test_a_parquet_file_is_a_table(tmp_path: Path) -> None:
    """Text is a class, also in a dictionary; the order of the columns is that of the file, whatever its ending."""
    pa = pytest.importorskip("pyarrow")
    for species in (IRIS["species"], pa.array(IRIS["species"]).dictionary_encode()):
        table = data.read(parquet(tmp_path / "iris.data", {**IRIS, "species": species}), "species")
        assert table.classes == ("setosa", "virginica")
        assert table.features == ("sepal", "petal")
        assert table.X.tolist() == np.array([[5.1, 0.2], [7, 1.4], [6.3, 2.5]], np.float32).tolist()
        assert table.y.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("values", "classes"),
    [([1, 2, 1], ("1", "2")), ([True, False, True], ("False", "True")), ([1.0, 2.0, 1.0], None)],
)
def test_the_type_of_a_parquet_column_says_what_the_target_is(
    tmp_path: Path, values: list[Any], classes: tuple[str, ...] | None
) -> None:
    """Integers and booleans are classes, fractions are values even if all are whole."""
    table = data.read(parquet(tmp_path / "t.parquet", {"x": [1, 2, 3], "t": values}), "t")
    assert table.classes == classes
    if classes is None:
        assert (table.y.dtype, table.y.tolist()) == (np.float32, values)


def test_many_rows_of_parquet_come_in_parts(tmp_path: Path) -> None:
    """Row groups and parts do not matter; a mistake is told with its row in the file."""
    x = np.arange(20_000) / 8
    columns = {"x": x, "t": np.arange(20_000) % 3}
    table = data.read(parquet(tmp_path / "t.parquet", columns, row_group_size=700), "t")
    assert np.array_equal(table.X[:, 0], x.astype(np.float32))
    assert np.array_equal(table.y, columns["t"])
    x[17_001] = np.inf
    with pytest.raises(RefusedError, match="row 17001, column 'x' is not finite as float32; found inf"):
        data.read(parquet(tmp_path / "t.parquet", columns, row_group_size=700), "t")


@pytest.mark.parametrize(
    ("columns", "target", "words"),
    [
        ({**IRIS, "city": ["Rome", "Oslo", "Bern"]}, "species", "column 'city' is not numeric; found string; encode"),
        ({**IRIS, "c": ["R", "O", "B"], "l": [[1], [2], [3]]}, "species", "columns 'c', 'l' are not numeric"),
        ({**IRIS, "petal": [1.0, None, 2.0]}, "species", "row 1, column 'petal' is empty"),
        ({**IRIS, "species": ["a", "b", None]}, "species", "row 2, column 'species' is empty"),
        ({"x": [1.0], "t": [float("nan")]}, "t", "row 0, column 't' is not a finite number"),
        (IRIS, "specis", "no column 'specis'; did you mean species"),
        ({"species": ["a"]}, "species", "only column is the target"),
        ({"x": np.zeros(0), "t": np.zeros(0)}, "t", "has no rows"),
    ],
)
def test_what_is_wrong_with_parquet_is_told_in_one_line(
    tmp_path: Path, columns: dict[str, Any], target: str, words: str
) -> None:
    """The file, the row counted from 0, and the column are named."""
    path = parquet(tmp_path / "t.parquet", columns)
    with pytest.raises(CkptSurgeonError, match=words) as caught:
        data.read(path, target)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


def test_the_type_of_a_parquet_target_is_checked_before_its_values(tmp_path: Path) -> None:
    """Dates, times, lists and bytes are refused, even if Python has no such date; dictionaries are as their values."""
    pa = pytest.importorskip("pyarrow")
    decimals = pa.array([Decimal("1.0"), Decimal("2.0")])
    for values in (
        pa.array([2**30, 1], pa.int32()).cast(pa.date32()),
        pa.array([2**62, 2], pa.int64()).cast(pa.time64("us")),
        pa.array([2**62, 2], pa.duration("s")),
        pa.array([1, 2], pa.timestamp("us", tz="Foo/Bar")),
        pa.array([[1], [2]]),
        pa.array([b"a", b"b"]),
        pa.array([b"a", b"b"]).dictionary_encode(),
    ):
        path = parquet(tmp_path / "t.parquet", {"x": [1, 2], "t": values})
        with pytest.raises(RefusedError, match=r"'t' cannot be the target; expected integers, .*; convert it to text"):
            data.read(path, "t")
    for values in (decimals, decimals.dictionary_encode(), pa.array([1.0, 2.0]).dictionary_encode()):
        table = data.read(parquet(tmp_path / "t.parquet", {"x": [1, 2], "t": values}), "t")
        assert (table.classes, table.y.tolist()) == (None, [1, 2])
    for kind in (pa.string(), pa.large_string()):
        values = pa.array(["b", "a"] * 3000 + ["c"], kind)
        table = data.read(parquet(tmp_path / "t.parquet", {"x": range(6001), "t": values}, row_group_size=700), "t")
        assert (table.classes, table.y.tolist()) == (("a", "b", "c"), [1, 0] * 3000 + [2])


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_long_text_in_many_rows_is_in_memory_once(tmp_path: Path, dictionary: bool) -> None:
    """A small file of repeated texts does not become a long list of them."""
    pa = pytest.importorskip("pyarrow")
    text, rows = "a" * (1 << 20), 50
    values = pa.DictionaryArray.from_arrays(pa.array([0] * rows + [1]), pa.array([text, "b"]))
    path = parquet(tmp_path / "t.parquet", {"x": range(rows + 1), "t": values}, use_dictionary=dictionary)
    tracemalloc.start()
    try:
        assert data.read(path, "t").classes == (text, "b")
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_texts_too_long_for_classes_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what the file tells of their size, or, if that is small, by the different texts of a part."""
    words = "column 't' has texts that are too long for classes; expected at most 16777216 characters"
    path = parquet(tmp_path / "t.parquet", {"x": [1, 2], "t": ["a" * 70, "b" * 70]})
    for mean in (0, 256):
        monkeypatch.setattr("ckptsurgeon.data.parquet._BYTES", 140)
        monkeypatch.setattr("ckptsurgeon.data.parquet._MEAN", mean)
        with pytest.raises(RefusedError, match=words):
            data.read(path, "t")


def test_damaged_parquet_is_one_clear_error(tmp_path: Path) -> None:
    """Cut off at any length, there is a CkptSurgeonError and nothing else."""
    whole = Path(parquet(tmp_path / "t.parquet", IRIS)).read_bytes()
    for length in range(6, len(whole), 97):
        (tmp_path / "cut.parquet").write_bytes(whole[:length])
        with pytest.raises(DamagedError, match="not a readable parquet file"):
            data.read(str(tmp_path / "cut.parquet"), "species")


def test_without_the_package_its_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet needs pyarrow, images need Pillow."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "t.parquet").write_bytes(b"PAR1" + bytes(20))
    with pytest.raises(UnsupportedError, match=r"needs pyarrow; pip install 'ckptsurgeon\[data\]'"):
        data.read(str(tmp_path / "t.parquet"), "t")
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").touch()
    (tmp_path / "t.parquet").unlink()
    with pytest.raises(UnsupportedError, match=r"needs Pillow; pip install 'ckptsurgeon\[data\]'"):
        data.read(str(tmp_path))


# -- images


def test_a_folder_of_images_is_a_table(tmp_path: Path) -> None:
    """Subfolders are classes; grey, black and white, 16 bits and colours go from 0 to 1; hidden files do not count."""
    random = np.random.default_rng(1)
    grey = random.integers(0, 256, (2, 5, 4), np.uint8)
    png(tmp_path / "grey" / "cat" / "1.png", grey[0])
    png(tmp_path / "grey" / "dog" / "1.PNG", grey[1])
    png(tmp_path / "grey" / "dog" / "2.png", np.eye(5, 4, dtype=bool))
    png(tmp_path / "grey" / "dog" / "3.png", np.full((5, 4), 65535, np.uint16))
    (tmp_path / "grey" / "dog" / ".DS_Store").touch()
    table = data.read(str(tmp_path / "grey"))
    assert (table.classes, table.y.tolist(), table.features) == (("cat", "dog"), [0, 1, 1, 1], ())
    assert (table.X.dtype, table.X.shape) == (np.float32, (4, 5, 4, 1))
    assert np.array_equal(table.X[:2, :, :, 0], grey.astype(np.float32) / 255)
    assert np.array_equal(table.X[2, :, :, 0], np.eye(5, 4))
    assert (table.X[3] == 1).all()
    for channels in (3, 4):
        png(tmp_path / f"c{channels}" / "a" / "1.png", random.integers(0, 256, (2, 3, channels), np.uint8))
        assert data.read(str(tmp_path / f"c{channels}")).X.shape == (1, 2, 3, channels)


def test_images_that_cannot_be_trained_on_are_named(tmp_path: Path) -> None:
    """Another size, other channels, a damaged image, another file, an empty folder: one line each."""

    def refused(words: str) -> None:
        with pytest.raises(CkptSurgeonError, match=words) as caught:
            data.read(str(tmp_path))
        assert "\n" not in str(caught.value)

    refused(r"contains no subfolders; expected .*/<class>/\*\.png")
    (tmp_path / "cat").mkdir()
    refused("contains no images")
    png(tmp_path / "cat" / "1.png", np.zeros((4, 4), np.uint8))
    odd = tmp_path / "dog" / "1.png"
    png(odd, np.zeros((4, 5), np.uint8))
    refused(r"dog/1.png: differs in size or channels from .*cat/1.png; expected \[4,4,1\], found \[4,5,1\]")
    png(odd, np.zeros((4, 4, 3), np.uint8))
    refused(r"expected \[4,4,1\], found \[4,4,3\]; convert all images")
    odd.write_bytes(odd.read_bytes()[:40])
    refused("dog/1.png: not a readable image")
    odd.write_text("no image at all")
    refused("dog/1.png: not a readable image")
    odd.rename(odd.with_suffix(".txt"))
    refused("dog/1.txt: is not an image; expected only images")
    with pytest.raises(RefusedError, match="is one image; expected a folder with one subfolder of images per class"):
        data.read(str(tmp_path / "cat" / "1.png"))


def test_no_image_or_class_is_skipped(tmp_path: Path) -> None:
    """An empty class, an image of no class and folders in folders are refused, not left out."""
    png(tmp_path / "cat" / "1.png", np.zeros((4, 4), np.uint8))
    empty, stray, nested = tmp_path / "dog", tmp_path / "1.png", tmp_path / "cat" / "more" / "2.png"
    empty.mkdir()
    with pytest.raises(RefusedError, match="dog: contains no images; put some there, or remove the folder"):
        data.read(str(tmp_path))
    empty.rmdir()
    png(stray, np.zeros((4, 4), np.uint8))
    with pytest.raises(RefusedError, match=r"/1\.png: is an image without a class; put the images of each class into"):
        data.read(str(tmp_path))
    stray.unlink()
    png(nested, np.zeros((4, 4), np.uint8))
    with pytest.raises(RefusedError, match="cat/more: is a folder inside a subfolder; move its images up"):
        data.read(str(tmp_path))


def test_an_image_is_no_program_no_pipe_and_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the documented formats are opened, whatever the ending; a pipe does not wait; the size is limited."""
    image = pytest.importorskip("PIL.Image")
    file = tmp_path / "cat" / "1.png"
    png(file, np.zeros((4, 4), np.uint8))
    for pixels in (15, 7):  # Pillow warns above the limit, and raises above twice as many
        monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", pixels)
        with pytest.raises(RefusedError, match=f"png: has too many pixels; expected at most {pixels}; make"):
            data.read(str(tmp_path))
    image.init()
    for name in ("EPS", "TGA"):
        image.fromarray(np.zeros((4, 4), np.uint8)).save(file, name)
        with pytest.raises(DamagedError, match="not a readable image: cannot identify"):
            data.read(str(tmp_path))
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(RefusedError, match=r"1\.png: is not a regular file"):
        data.read(str(tmp_path))


def test_a_ring_trains_on_images_and_predicts_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`[data]` names the folder and no target; a model without subfolders of classes predicts too."""
    random = np.random.default_rng(3)
    for number in range(24):
        dark = random.integers(0, 100, (2, 1), np.uint8)
        png(tmp_path / "images" / "dark" / f"{number:02}.png", dark)
        png(tmp_path / "images" / "light" / f"{number:02}.png", dark + 150)
    ring = tmp_path / "ring"
    write_ring(ring, 60)
    text = (ring / "ring.toml").read_text()
    (ring / "ring.toml").write_text(text.replace("points.csv", "../images").replace('target = "kind"\n', ""))
    start.init(str(ring))
    driver.run(str(ring))
    assert ensemble.evaluate(str(ring))[-1]["accuracy"] > 0.9
    png(tmp_path / "new" / "x.png", np.array([[5], [30]], np.uint8))
    png(tmp_path / "new" / "y.png", np.array([[205], [230]], np.uint8))
    _, *rows = [row for part in ensemble.predict(str(ring), str(tmp_path / "new")) for row in part]
    assert [row[0] for row in rows] == ["dark", "light"]
    png(tmp_path / "new" / "z.png", np.zeros((3, 1), np.uint8))
    with pytest.raises(RefusedError, match=r"z.png: differs .* from the images that the models were trained on"):
        list(ensemble.predict(str(ring), str(tmp_path / "new")))
    arguments = ["ring", "init", str(tmp_path / "cli"), "--data", str(tmp_path / "images")]
    assert cli.main([*arguments, "--hidden", "4,3"]) == 2
    told = capsys.readouterr().err
    assert "--layers" in told
    assert "--target" not in told


def test_a_ring_predicts_from_parquet(tmp_path: Path) -> None:
    """Columns are found by their names; the target may be there; others are told."""
    write_ring(tmp_path / "ring", 2)
    points = np.loadtxt(tmp_path / "ring" / "points.csv", str, delimiter=",", skiprows=1)
    x, y = points[:, 0].astype(float), points[:, 1].astype(float)
    parquet(tmp_path / "points.parquet", {"kind": points[:, 2], "y": y, "id": np.arange(60), "x": x})
    start.init(str(tmp_path / "ring"))
    driver.run(str(tmp_path / "ring"))
    told: list[str] = []
    found, expected = (
        [row for part in ensemble.predict(str(tmp_path / "ring"), str(path), told.append) for row in part]
        for path in (tmp_path / "points.parquet", tmp_path / "ring" / "points.csv")
    )
    assert found == expected
    assert told == [f"{tmp_path / 'points.parquet'}: ignored columns: id"]


# -- csv


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,city,t\n1,Rome,x\n", "line 2, column 'city' is not a number; found 'Rome'; encode text as numbers"),
        (b"a,b,t\n1,,x\n", "line 2, column 'b' is empty; fill it in, or remove the row"),
        (b"a,b,t\n1,NA,x\n", "column 'b' is not a number; found 'NA'; fill in missing values"),
        (b'a,b,t\n"1,5",2,x\n', "found '1,5'; write a point instead of the decimal comma"),
        (b"a,t\n1_000,x\n", "found '1_000'; write it without underscores"),
        (b"a,b,t\n1,2,\n", "line 2, column 't' is empty; the target must be known in every row"),
        (b'a,t\n"1,x\n2,y\n', "line 4 has a different number of fields.*; a quote may not be closed"),
        (b"a;t\n1;x\n", "there is no column 't'; separate the columns with commas, not ';'"),
        ("a,t\n1,x\n".encode("utf-16"), "is UTF-16 text; expected UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_used_says_what_to_do(tmp_path: Path, content: bytes, words: str) -> None:
    """The same words for training and for predictions, where the target does not matter."""
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises((RefusedError, UsageError), match=words):
        data.read(str(path), "t")


def test_line_ends_quotes_and_a_byte_order_mark_do_not_matter(tmp_path: Path) -> None:
    """The same table from Unix, Windows and old Mac text, with a BOM, quoted, without a last newline."""
    rows = [["a", "b", "t"], ["1", "2", "x"], ["3", "4.5", "y, z"]]
    for end in ("\n", "\r\n", "\r"):
        for mark in ("", "\ufeff"):
            text = mark + end.join(",".join(f'"{cell}"' for cell in row) for row in rows)
            (tmp_path / "t.csv").write_bytes(text.encode())
            table = data.read(str(tmp_path / "t.csv"), "t")
            assert (table.features, table.classes) == (("a", "b"), ("x", "y, z"))
            assert table.X.tolist() == [[1, 2], [3, 4.5]]
