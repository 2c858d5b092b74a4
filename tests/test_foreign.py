"""Files and folders that are no checkpoint of ours are named for what they are."""

from __future__ import annotations

import io
import os
import pickle
import re
import shlex
import subprocess
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ckptsurgeon.errors import DamagedError, UnsupportedError
from ckptsurgeon.formats import foreign, kinds


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


def piece(tag: int, content: bytes) -> bytes:
    """A protobuf field of bytes."""
    length = len(content)
    return bytes([tag]) + (bytes([length]) if length < 128 else bytes([length & 127 | 128, length >> 7])) + content


def packed_array() -> bytes:
    """A 2 by 2 array as Flax packs it: an extension of msgpack."""
    inner = b"\x93\x92\x02\x02\xa7float32\xc4\x10" + bytes(16)
    return b"\xc7" + bytes([len(inner)]) + b"\x01" + inner


NODE = piece(0x0A, b"layer/w") + piece(0x12, b"Const") + piece(0x2A, b"x" * 300)
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
    "flax_model.msgpack": (
        b"\x81\xa5dense\x81\xa6kernel" + packed_array(),
        "a msgpack file.*; where Flax is installed: python",
    ),
    "long.msgpack": (b"\xde\0\x11\xd9\x30" + b"k" * 48 + b"\x01", "a msgpack file"),
    "frozen.pb": (
        piece(0x0A, NODE) * 2,
        r"a TensorFlow graph \(GraphDef\).*; where TensorFlow is installed: python -c",
    ),
    "m.ckpt.meta": (piece(0x0A, piece(0x12, b"ops")), r"the graph \(.meta\) of a TensorFlow checkpoint"),
    "model.json": (
        b'{"format": "layers-model", "modelTopology": {}}',
        "a TensorFlow.js model; tensorflowjs_converter --in",
    ),
    "graph.json": (b'{\n "format": "graph-model", "modelTopology": {}}', "a TensorFlow.js model; tfjs_graph_converter"),
    "config.json": (b'{"hidden_size": 3}', "a JSON file$"),
    "m.params": (b"\x12\x01" + bytes(6) + bytes(40), "a file of MXNet's parameters; where MXNet is installed: python"),
    "m.pdiparams": (
        bytes(16) + b"\x06\0\0\0\x08\x05\x10\x02\x10\x03" + bytes(24),
        "a file of Paddle's parameters; where",
    ),
    "m.pdparams": (pickle.dumps({"a": 1}), "a pickle, which is never loaded; where Paddle is installed: python"),
    "yolo.weights": (b"\0\0\0\0\x02\0\0\0\x05\0\0\0" + bytes(99), "a file of Darknet's weights; OpenCV"),
    "m.mlmodel": (
        b"\x08\x04" + piece(0x12, piece(0x0A, piece(0x0A, b"image") + b"\x1a\x02ab")),
        "a Core ML model; core",
    ),
    "m.pte": (b"\x1c\0\0\0ET12eh00" + bytes(99), "an ExecuTorch program; its weights are compiled in"),
    "m.ort": (b"\x1c\0\0\0ORTM" + bytes(99), "an ONNX Runtime model"),
    "m.engine": (b"ftrt" + bytes(99), "a TensorRT engine; its weights are compiled in"),
    "m.mat": (b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\x01IM", "a MATLAB 5 file; where SciPy is installed: python"),
    "m.caffemodel": (piece(0x0A, b"CaffeNet") + piece(0x12, b"x"), "a Caffe model; OpenCV"),
    "caffe": (piece(0x0A, b"net") + b"\xa2\x06\x01x", "a Caffe model; OpenCV"),
    "m.t7": (b"\x04\0\0\0\x01\0\0\0\x03\0\0\0V 1\x0d", "a Torch7 file"),
    "m.param": (b"7767517\n75 83\n", "an ncnn model"),
    "m.xml": (b'<?xml version="1.0"?>\n<net name="x" version="11">', "an OpenVINO model; openvino"),
    "denied.h5": (b'<?xml version="1.0"?><Error><Code>AccessDenied', "an HTML page"),
    "m.rar": (b"Rar!\x1a\x07\x01\0" + bytes(9), "a RAR archive; unpack it first"),
    "m.lz4": (b"\x04\x22\x4d\x18" + bytes(9), "an lz4-compressed file; unpack it first"),
    "events.out.tfevents.1.host": (b"\x18\0\0\0" + bytes(30) + b"x", "an event file of TensorBoard"),
    "again.keras": (
        zip_of("m/", "m/config.json", "m/metadata.json", "m/model.weights.h5", "__MACOSX/m/._config.json"),
        "a Keras file that was zipped again, with its folder; found m/config.json; unzip it, and name m$",
    ),
    "policy.zip": (zip_of("data", "policy.pth"), "a zip file; found policy.pth; unpack it first"),
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


def test_a_matlab_file_by_its_line(tmp_path: Path) -> None:
    """The command that the message gives makes an npz of a real file."""
    io_module = pytest.importorskip("scipy.io")
    path = tmp_path / "it's.mat"
    io_module.savemat(path, {"kernel": np.eye(3), "bias": np.arange(2.0)})
    line = str(foreign.explain(str(path))).partition("where SciPy is installed: python ")[2]
    subprocess.run([sys.executable, *shlex.split(line)], check=True)
    with np.load(tmp_path / "it's.npz") as found:
        assert sorted(found.files) == ["bias", "kernel"]
        assert found["kernel"].tolist() == np.eye(3).tolist()


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
        "mp_rank_00_model_states.pt": "a DeepSpeed checkpoint; 'python zero_to_fp32.py",
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
    (tmp_path / "m.mlpackage" / "Data" / "com.apple.CoreML").mkdir(parents=True)
    (tmp_path / "m.mlpackage" / "Manifest.json").write_text("{}")
    assert "a Core ML package" in str(foreign.explain(str(tmp_path / "m.mlpackage")))
    (tmp_path / "other").mkdir()
    assert foreign.explain(str(tmp_path / "other")) is None


def test_the_samples_are_not_taken_for_others(samples: Path) -> None:
    """Checkpoints that we open are not taken for something else, and Keras's files are told."""
    assert foreign.explain(str(samples / "safetensors" / "model.safetensors")) is None
    assert "Keras" in str(foreign.explain(str(samples / "keras-pair" / "model.keras")))
    assert "HDF5" in str(foreign.explain(str(samples / "keras-pair" / "model.h5")))
    for path in (samples / "gpt2-toy").iterdir():
        assert foreign.explain(str(path)) is None, path


def test_no_first_bytes_make_trouble() -> None:
    """Every test of a kind takes any bytes of any length; the files of all kinds, cut short, never raise."""
    for data, _ in FILES.values():
        for length in range(1, min(len(data), 90)):
            for is_one, _, _ in kinds.SHAPES:
                for name in ("x", "x.onnx", "x.weights", "x.caffemodel", "x.meta"):
                    assert is_one(data[:length], name) in (True, False)
