"""From any spelling of a checkpoint to its prefix; and what is said where there is none."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ckptsurgeon import formats
from ckptsurgeon.errors import (
    CkptSurgeonError,
    DamagedError,
    NotFoundError,
    StorageError,
    UnsupportedError,
    printable,
)
from ckptsurgeon.formats import locating


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a checkpoint m-1, its graph beside it, and a state file."""
    formats.write(str(tmp_path / "m-1"), {"a": np.zeros(2, np.float32)}, sync=False)
    (tmp_path / "m-1.meta").write_bytes(b"graph")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "m-1"\n')
    return tmp_path


@pytest.mark.parametrize("spelling", ["m-1", "m-1.index", "m-1.meta", "m-1.data-00000-of-00001", ".", "", "../{name}/"])
def test_spellings(folder: Path, spelling: str) -> None:
    """The prefix, any of its files, or the folder."""
    path = os.path.join(folder, spelling.format(name=folder.name))
    assert os.path.samefile(locating.locate(path).path + ".index", folder / "m-1.index")
    with formats.open(path) as checkpoint:
        assert list(checkpoint) == ["a"]


def test_relative_spellings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name in the working directory, and the working directory itself."""
    monkeypatch.chdir(folder)
    for spelling in ("m-1", "m-1.index", "./m-1", "."):
        assert os.path.samefile(locating.locate(spelling).path + ".index", "m-1.index")


def test_a_saved_model(tmp_path: Path) -> None:
    """The variables of a SavedModel folder, whatever else is in it."""
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    formats.write(str(tmp_path / "variables" / "variables"), {"a": np.zeros(2)}, sync=False)
    assert locating.locate(str(tmp_path)).path == str(tmp_path / "variables" / "variables")


@pytest.mark.parametrize(
    "name", ["m[0]", "m*", "m?", "m {a}", "ü", "m\n1", "-m", "m.index", "a.data-0-of-1", "m\udcff"]
)
def test_odd_prefixes(tmp_path: Path, name: str) -> None:
    """A prefix is taken as it stands; nothing in it is a pattern, and one may end as a file of another."""
    prefix = str(tmp_path / name)
    formats.write(prefix, {"a": np.zeros(2)}, sync=False)
    for spelling in (prefix, prefix + ".index", prefix + ".data-00000-of-00001"):
        assert locating.locate(spelling).path == prefix


def test_the_index_wins_over_whatever_has_the_bare_name(folder: Path) -> None:
    """As in TensorFlow: a file or folder of the prefix' own name is not looked at."""
    (folder / "m-1").mkdir()
    assert locating.locate(str(folder / "m-1")).path == str(folder / "m-1")
    (folder / "m-1").rmdir()
    (folder / "m-1").write_bytes(b"something else")
    assert locating.locate(str(folder / "m-1")).path == str(folder / "m-1")


def test_links_are_followed(folder: Path) -> None:
    """A linked index is an index, a linked folder a folder, and a link to nothing is not there."""
    (folder / "link.index").symlink_to(folder / "m-1.index")
    assert locating.locate(str(folder / "link")).path == str(folder / "link")
    (folder / "again").symlink_to(folder)
    assert locating.locate(str(folder / "again")).path == str(folder / "again" / "m-1")
    (folder / "dangling.index").symlink_to(folder / "nothing")
    with pytest.raises(NotFoundError):
        locating.locate(str(folder / "dangling"))


def test_a_state_file_from_elsewhere(folder: Path) -> None:
    """An absolute path that leads nowhere is the same name in the folder."""
    (folder / "checkpoint").write_text('model_checkpoint_path: "/home/other/m-1"\n')
    assert locating.locate(str(folder)).path == str(folder / "m-1")


OTHERS = [
    (b"PK\x03\x04rest", "a zip file"),
    (b"GGUF\x03", "a GGUF file"),
    (b"\x80\x02}q\x00.", "a pickle"),
    (b"\x80\x04}.", "a pickle"),
    (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    (b"<!DOCTYPE html>", "an HTML page"),
    (b"abc", "not a checkpoint of a known format; found first bytes 616263"),
]


@pytest.mark.parametrize(("content", "kind"), OTHERS)
def test_other_files_are_named(tmp_path: Path, content: bytes, kind: str) -> None:
    """A file of another kind is called by its name, and nothing in it is looked into."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises((UnsupportedError, DamagedError), match=kind) as raised:
        locating.locate(str(tmp_path / "file"))
    assert str(tmp_path / "file") in str(raised.value)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "file"')
    with pytest.raises((UnsupportedError, DamagedError), match=kind):
        locating.locate(str(tmp_path))


def test_an_empty_file_is_damaged(tmp_path: Path) -> None:
    """A file without bytes is what a full disk leaves."""
    (tmp_path / "file").touch()
    with pytest.raises(DamagedError, match="an empty file"):
        locating.locate(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("m-11", "no such checkpoint; did you mean m-1"),
        ("m-2.index", "no such file"),
        ("m-2.data-00000-of-00001", "no such file"),
        ("zzz", "no such checkpoint$"),
        ("nowhere/m-1", "no such checkpoint; there is no folder .*nowhere"),
        ("m-1/x", "no such checkpoint; there is no folder"),
        ("a\x00b", "no such checkpoint"),
        ("x" * 5000, "no such checkpoint|too long"),
        ("nowhere\x00/m-1", "no such checkpoint"),
    ],
)
def test_what_is_not_there(folder: Path, path: str, problem: str) -> None:
    """One line that names the path, with the name that was perhaps meant."""
    with pytest.raises(CkptSurgeonError, match=problem) as raised:
        formats.open(str(folder / path))
    assert isinstance(raised.value, NotFoundError | StorageError)
    assert printable(str(folder / path)) in str(raised.value)


def test_no_path_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The empty path is no checkpoint."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match="no such checkpoint"):
        formats.open("")


def test_folders_without_a_checkpoint(tmp_path: Path) -> None:
    """An empty folder; one with checkpoints and no state file, which are named; one whose state file is stale."""
    with pytest.raises(NotFoundError, match=r"a folder without a checkpoint$"):
        locating.locate(str(tmp_path))
    for name in ("c", "a", "b", "d"):
        (tmp_path / f"{name}.index").touch()
    with pytest.raises(NotFoundError, match=r"a folder with several checkpoints; name one: a, b, c, d$"):
        locating.locate(str(tmp_path))
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "gone"')
    with pytest.raises(NotFoundError, match=r"names a checkpoint that is not there; found .*gone"):
        locating.locate(str(tmp_path))
    (tmp_path / "checkpoint").write_text("damaged")
    with pytest.raises(DamagedError, match="not a checkpoint state file"):
        locating.locate(str(tmp_path))
    (tmp_path / "checkpoint").write_text(r'model_checkpoint_path: "a\000b"')
    with pytest.raises(NotFoundError, match="not there"):
        locating.locate(str(tmp_path))


def test_a_file_beside_a_checkpoint_is_not_the_checkpoint(folder: Path) -> None:
    """Only names that TensorFlow gives to data files lead to their prefix."""
    (folder / "m-1.data-notes").write_bytes(b"text")
    with pytest.raises(CkptSurgeonError, match=r"m-1\.data-notes"):
        locating.locate(str(folder / "m-1.data-notes"))


def test_a_file_whose_checkpoint_is_gone(folder: Path) -> None:
    """A data file without an index beside it says so."""
    (folder / "m-1.index").unlink()
    with pytest.raises(NotFoundError, match="other files are missing"):
        locating.locate(str(folder / "m-1.data-00000-of-00001"))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_that_may_not_be_read(folder: Path) -> None:
    """What the operating system refuses is one error that names the folder."""
    folder.chmod(0o100)
    try:
        with pytest.raises(StorageError, match="permission denied"):
            locating.locate(str(folder))
    finally:
        folder.chmod(0o700)


def test_samples_by_their_folders(samples: Path) -> None:
    """Other people's folders: by state file, as a SavedModel, V1 by a path that went stale, and V1 of several files."""
    assert locating.locate(str(samples / "gpt2-toy")).path == str(samples / "gpt2-toy" / "model.ckpt")
    assert locating.locate(str(samples / "savedmodel")).path == str(samples / "savedmodel" / "variables" / "variables")
    for folder in (samples / "skflow-2016").iterdir():
        found = locating.locate(str(folder))
        assert (found.format, os.path.dirname(found.path)) == ("tf-v1", str(folder))
    stem = samples / "v1-sharded-name" / "export"
    for spelling in (f"{stem}-00000-of-00001", f"{stem}-?????-of-00001", str(stem)):
        found = locating.locate(spelling)
        assert (found.format, found.path, found.files) == ("tf-v1", str(stem), [f"{stem}-00000-of-00001"])
    assert locating.locate(str(samples / "npz" / "weights.npz")).format == "npz"
    assert locating.locate(str(samples / "safetensors")).format == "safetensors"
    for name, kind in (("keras-pair/model.h5", "hdf5"), ("keras-pair/model.keras", "keras-zip")):
        assert locating.locate(str(samples / name)).format == kind


def test_hdf5_by_content(tmp_path: Path) -> None:
    """An HDF5 file whatever its name, at the start or after its user's own bytes; damaged ones too."""
    for at in (0, 512, 4096, 1 << 19):
        (tmp_path / "m.keras").write_bytes(bytes(at) + b"\x89HDF\r\n\x1a\n" + bytes(20))
        assert locating.locate(str(tmp_path / "m.keras")).format == "hdf5"
        with pytest.raises(DamagedError, match=r"m\.keras: damaged"):
            formats.open(str(tmp_path / "m.keras"))
    (tmp_path / "m.keras").write_bytes(bytes(700) + b"\x89HDF\r\n\x1a\n" + bytes(20))
    with pytest.raises(UnsupportedError, match="not a checkpoint"):
        locating.locate(str(tmp_path / "m.keras"))
