"""Files and folders that are no checkpoint of ours are named for what they are."""

from __future__ import annotations

import io
import os
import pickle
import re
import shlex
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ckptsurgeon.errors import DamagedError, UnsupportedError
from ckptsurgeon.formats import foreign


def zip_of(*names: str) -> bytes:
    """A zip file with members of these names."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name in names:
            file.writestr(name, b"x")
    return out.getvalue()


def tar() -> bytes:
    """A tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        info = tarfile.TarInfo("a")
        info.size = 1
        file.addfile(info, io.BytesIO(b"x"))
    return out.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.1.0:\x00"
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
FILES: dict[str, tuple[bytes, str]] = {
    "m.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "block.h5": (bytes(b"x" * 1024) + b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "m.gguf": (b"GGUF\x03\0\0\0" + bytes(20), "a GGUF file"),
    "ggml.bin": (b"lmgg" + bytes(20), "a GGML file"),
    "m.tflite": (b"\x1c\0\0\0TFL3" + bytes(20), "a TFLite model"),
    "m.onnx": (b"\x08\x07:\x05" + bytes(20), "an ONNX model"),
    "unnamed": (ONNX, "an ONNX model"),
    "m.pkl": (pickle.dumps({"a": 1}), "a pickle, which is never loaded"),
    "m2.pkl": (pickle.dumps([1], 2), "a pickle, which is never loaded"),
    "m3.pkl": (pickle.dumps((1.5, None), 3), "a pickle, which is never loaded"),
    "m0.pkl": (pickle.dumps(np.float32(1), 0), "a pickle, which is never loaded"),
    "d0.pkl": (pickle.dumps({"a": 1}, 0), "a pickle, which is never loaded"),
    "m.pt": (zip_of("archive/data.pkl", "archive/data/0", "archive/version"), "a PyTorch file, which holds a pickle"),
    "script.pt": (zip_of("m/data.pkl", "m/constants.pkl"), "a TorchScript file"),
    "m.pth": (LEGACY, "a PyTorch file from before 1.6"),
    "pytorch_model.bin": (pickle.dumps({"a": 1}), "a pickle, which is never loaded; where PyTorch is"),
    "m.keras": (zip_of("metadata.json", "config.json", "model.weights.h5"), r"a Keras file \(.keras\)"),
    "n.keras": (zip_of("metadata.json", "config.json", "model.weights.npz"), r"a Keras file \(.keras\)"),
    "m.zip": (zip_of("readme.txt"), "an unknown kind of zip file; expected arrays .* found readme.txt"),
    "empty.zip": (zip_of(), "an unknown kind of zip file; .* found nothing"),
    "lfs": (LFS, "a Git LFS pointer: .* 'git lfs pull' fetches it"),
    "page.safetensors": (b"\n<!DOCTYPE html><html>", "an HTML page"),
    "bom.npz": (b"\xef\xbb\xbf<HTML><body>", "an HTML page"),
    "m.gz": (b"\x1f\x8b\x08" + bytes(20), "a gzip-compressed file; unpack it first"),
    "m.tar": (tar(), "a tar archive; unpack it first"),
    "saved_model.pb": (b"\x0a\x03abc", "the graph of a SavedModel; name its folder instead"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_named_for_what_it_is(tmp_path: Path, name: str) -> None:
    """By content: a sound file of another kind, in one line that begins with its path."""
    data, message = FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    error = foreign.explain(str(path))
    assert isinstance(error, UnsupportedError)
    assert re.match(f"{re.escape(str(path))}: {message}", str(error)), error
    assert "\n" not in str(error)


def test_what_is_damaged_is_said_to_be(tmp_path: Path) -> None:
    """Empty files, files of zero bytes, and zip files that are cut short are damaged."""
    for data, message in [(b"", "an empty file"), (bytes(9999), "damaged: starts with nothing but zero bytes"),
                          (zip_of("a.npy")[:40], "a zip file: cut short")]:  # fmt: skip
        (tmp_path / "m").write_bytes(data)
        error = foreign.explain(str(tmp_path / "m"))
        assert isinstance(error, DamagedError)
        assert str(error).startswith(f"{tmp_path / 'm'}: {message}")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """What is no regular file is not opened."""
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in str(foreign.explain(str(tmp_path / "pipe")))


def test_what_nothing_tells(tmp_path: Path) -> None:
    """Text, random bytes and a short file are nothing that is known; no length makes trouble."""
    nothing = [b"x", b"\x80", b"\x80\x04", b"\x80\x02\xff", b"\x08", b"\x08\x08\x12", b"\x08\x08\x12\x03\xff\xfe\xfd:"]
    for data in (*nothing, b"PK", b"<", b"hello world\n" * 99, b"(dp is not a pickle)", b"cat\n", bytes(5)):
        (tmp_path / "m").write_bytes(data)
        assert foreign.explain(str(tmp_path / "m")) is None, data


class Tensor:
    """What the line that converts asks of a tensor."""

    def clone(self) -> Tensor:
        """Itself."""
        return self

    contiguous = clone


@pytest.mark.parametrize(
    ("held", "names"),
    [
        ({"a.weight": Tensor(), "epoch": 3}, ["a.weight"]),
        ({"state_dict": {"a": Tensor()}, "optimizer": {"state": {0: {"m": Tensor()}}}}, ["a"]),
        ({"model": {"a": Tensor()}, "other": Tensor()}, ["a"]),
        ({"a": {"b": {0: Tensor()}}, "c": [Tensor()]}, ["a.b.0"]),
        ({"epoch": 3}, None),
    ],
)
@pytest.mark.parametrize("member", ["data.pkl", "constants.pkl", "trusted"])
def test_the_line_that_converts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: dict[str, object], names: list[str] | None, member: str
) -> None:
    """The hint for PyTorch's files is one shell command whose paths are quoted, and whose Python takes all tensors."""
    path = tmp_path / "it's a model.pt"
    path.write_bytes(zip_of("a/data.pkl", *(["a/constants.pkl"] if member == "constants.pkl" else [])))
    if member == "trusted":
        held = {**held, "module": types.SimpleNamespace(state_dict=lambda: {"w": Tensor()})}
        names = [*names, "module.w"] if names and "state_dict" not in held and "model" not in held else names
        names = names or ["module.w"]
        line = str(foreign.by_pytorch("", str(path), load=foreign.LOAD_TRUSTED)).partition("whose code this runs: ")[2]
    else:
        line = str(foreign.explain(str(path))).partition("where PyTorch is installed: ")[2]
    program, flag, code, source, target = shlex.split(line)
    assert (program, flag, source, target) == ("python", "-c", str(path), str(tmp_path / "it's a model.safetensors"))
    saved: dict[str, object] = {}
    torch, safetensors, inner = (types.ModuleType(name) for name in ("torch", "safetensors", "safetensors.torch"))

    def load(path: str, map_location: str, weights_only: bool) -> object:
        assert weights_only == (member != "trusted")
        return held

    script = types.SimpleNamespace(state_dict=lambda: held)
    vars(torch).update(is_tensor=lambda each: isinstance(each, Tensor))
    vars(torch).update(load=load) if member != "constants.pkl" else vars(torch).update(
        jit=types.SimpleNamespace(load=lambda path, map_location: script)
    )
    vars(inner).update(save_file=lambda tensors, path: saved.update({path: list(tensors)}))
    for module in (torch, safetensors, inner):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "argv", ["-c", source, target])
    if names is None:
        with pytest.raises(SystemExit, match="no tensors"):
            exec(code, {})
    else:
        exec(code, {})
    assert saved == ({} if names is None else {target: names})


def test_a_folder_is_named_for_what_it_is(tmp_path: Path) -> None:
    """Orbax's folders, and those above them, Zarr's and PyTorch's."""
    cases = {
        "_CHECKPOINT_METADATA": "an Orbax checkpoint",
        "manifest.ocdbt": "an Orbax checkpoint",
        "ocdbt.process_0/x": "an Orbax checkpoint",
        "7/_CHECKPOINT_METADATA": "a folder of Orbax checkpoints; found 1, the last 7",
        ".zgroup": "a Zarr folder",
        "__0_0.distcp": "a distributed PyTorch checkpoint",
        "pytorch_model-00001-of-00002.bin": "a folder with a PyTorch file",
    }
    for number, (name, message) in enumerate(cases.items()):
        folder = tmp_path / str(number)
        file = folder / name
        file.parent.mkdir(parents=True)
        file.write_bytes(b"{}")
        error = foreign.explain(str(folder))
        assert isinstance(error, UnsupportedError)
        assert str(error).startswith(f"{folder}: {message}"), error
    (tmp_path / "other").mkdir()
    assert foreign.explain(str(tmp_path / "other")) is None


def test_the_samples_are_not_taken_for_others(samples: Path) -> None:
    """Checkpoints that we open are not taken for something else, and Keras's files are told."""
    assert foreign.explain(str(samples / "safetensors" / "model.safetensors")) is None
    assert "Keras" in str(foreign.explain(str(samples / "keras-pair" / "model.keras")))
    assert "HDF5" in str(foreign.explain(str(samples / "keras-pair" / "model.h5")))
    for path in (samples / "gpt2-toy").iterdir():
        assert foreign.explain(str(path)) is None, path
