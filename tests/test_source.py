"""The seam for opening and reading files: what a local file does, and that nothing reads past the seam."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import ckptsurgeon
from ckptsurgeon import source
from ckptsurgeon.errors import DamagedError, UnsupportedError
from ckptsurgeon.source import LocalFile, Source, open_source

PACKAGE = ROOT / "ckptsurgeon"
# What writes stages, links and locks local files; the sandbox hands descriptors to libhdf5's process.
LOCAL = {
    "formats/copying.py", "formats/files/replacing.py", "formats/bundle/writing.py", "formats/bundle/layout.py",
    "formats/bundle/copying.py",
    "formats/bundle/publishing.py", "formats/bundle/healing.py",
    "formats/bundle/leftovers.py", "formats/safetensors/writing.py", "formats/stdin.py",
    "formats/keras/writing.py", "formats/keras/edits.py",
}  # fmt: skip
CALLS = {"open", "pread", "preadv", "read", "fstat", "stat", "lstat", "fdopen", "getsize", "samestat", "sameopenfile"}


class Memory(Source):
    """A file that exists only in memory, as a remote one might be served."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path = path
        self._data = data

    @property
    def size(self) -> int:
        """As `Source.size`."""
        return len(self._data)

    @property
    def identity(self) -> object:
        """As `Source.identity`."""
        return id(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """As `Source.read`."""
        return self._data[offset : offset + length]

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """As `Source.read_into`."""
        data = self.read(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def is_current(self) -> bool:
        """As `Source.is_current`."""
        return True

    def close(self) -> None:
        """As `Source.close`."""


def test_a_local_file_reads_ranges(tmp_path: Path) -> None:
    """Ranges come whole, and shorter only at the end of the file."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with open_source(str(path)) as file:
        assert (file.path, file.size) == (str(path), 10)
        assert file.read(2, 3) == b"234"
        assert file.read(8, 5) == b"89"
        assert file.read(10, 5) == b""
        assert file.read_ranges([(0, 2), (9, 4)]) == [b"01", b"9"]
        buffer = bytearray(4)
        assert (file.read_into(3, buffer), buffer) == (4, b"3456")
        assert (file.read_into(8, buffer), buffer) == (2, b"8956")


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the operating system returns less than it was asked for, the rest is read too."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    pread, preadv = os.pread, os.preadv
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 3), offset))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, [memoryview(buffers[0])[:3]], offset))
    with open_source(str(path)) as file:
        buffer = bytearray(8)
        assert file.read(1, 8) == b"12345678"
        assert (file.read_into(1, buffer), buffer) == (8, b"12345678")


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    """A source keeps its bytes and says whether the path still leads to them, also after it was closed."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with open_source(str(path)) as file, open_source(str(path)) as again:
        assert file.is_current()
        assert file.identity == again.identity
        os.link(path, tmp_path / "link")
        (tmp_path / "new").write_bytes(b"new")
        (tmp_path / "new").replace(path)
        with open_source(str(path)) as new, open_source(str(tmp_path / "link")) as link:
            assert new.identity != file.identity == link.identity
        assert file.read(0, 3) == b"old"
    assert not file.is_current()
    path.unlink()
    assert not file.is_current()
    file.close()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """A pipe or a folder is refused at once, and nothing stays open."""
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(DamagedError, match="not a regular file"):
            open_source(str(path))
    with pytest.raises(FileNotFoundError):
        open_source(str(tmp_path / "missing"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_only_local_files_have_a_descriptor(tmp_path: Path) -> None:
    """What needs a descriptor refuses other sources by an error of ours."""
    (tmp_path / "file").write_bytes(b"")
    with open_source(str(tmp_path / "file")) as file:
        assert source.local(file) is file
        assert isinstance(file, LocalFile)
    with pytest.raises(UnsupportedError, match="not a local file"):
        source.local(Memory("memory", b""))


@pytest.mark.parametrize("kind", ["npz", "safetensors", "bundle"])
def test_readers_are_content_with_any_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A checkpoint whose files are served from memory is listed, verified and read like one on the disk."""
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    if kind == "bundle":
        import models

        models.write(tmp_path / "a", 1)
        path = tmp_path / "a"
    else:
        path = tmp_path / f"a.{kind}"
        np.savez(tmp_path / "a.npz", w=values)
        if kind == "safetensors":
            from ckptsurgeon.verbs import producing

            producing.convert(str(tmp_path / "a.npz"), str(path), to="safetensors")
    with ckptsurgeon.open(path) as opened:
        expected = {name: opened.read(name) for name in opened}
    served: list[str] = []

    def serve(path: str) -> Source:
        served.append(path)
        return Memory(path, Path(path).read_bytes())

    monkeypatch.setattr(source, "LocalFile", serve)
    with ckptsurgeon.open(path) as opened:
        assert list(opened) == list(expected)
        for name, variable in opened.variables.items():
            opened.check(variable)
            np.testing.assert_array_equal(opened.read(name), expected[name])
        assert opened.fingerprint()
    assert served


def test_readers_open_files_by_the_seam_alone() -> None:
    """No reader calls `open` or os.open, os.pread, os.stat and their kind; only writers, undo and the sandbox do."""
    found = []
    modules = [*(PACKAGE / "formats").rglob("*.py"), *(PACKAGE / "compare").rglob("*.py"), PACKAGE / "checkpoint.py"]
    for path in modules:
        name = path.relative_to(PACKAGE).as_posix()
        if name in LOCAL or name.startswith(("formats/keras/sandbox/", "formats/kept/")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            call = node.func
            is_plain = isinstance(call, ast.Name) and call.id == "open"
            is_os = (
                isinstance(call, ast.Attribute) and call.attr in CALLS and ast.unparse(call.value) in ("os", "os.path")
            )
            if is_plain or is_os:
                found.append(f"{name}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
