"""Identifies files of other formats by their first bytes, and folders by their files. Nothing is loaded or run."""

from __future__ import annotations

import os
import re

from ..errors import CkptSurgeonError, DamagedError, UnsupportedError
from ..source import is_file, is_folder, open_source
from .files import zipped

_TAR = 257  # offset of a tar file's magic
_HEAD = 4096  # bytes inspected at the start of a file
_MOST_MEMBERS = 10_000  # members of a zip file whose names are inspected

# First bytes of a file, what kind of file they identify, and what the user can do with it.
_STARTS = (
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", None),
    (b"\x93NUMPY", "a NumPy array", None),
    (b"GGUF", "a GGUF file", "convert it with llama.cpp's or gguf's tools"),
    (b"FUGG", "a big-endian GGUF file", None),
    (b"lmgg", "a GGML file", None),
    (b"tjgg", "a GGML file", None),
    (b"\x1f\x8b", "a gzip-compressed file", "unpack it first"),
    (b"BZh", "a bzip2-compressed file", "unpack it first"),
    (b"\xfd7zXZ\0", "an xz-compressed file", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd-compressed file", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"\x89PNG", "a picture", None),
    (b"%PDF", "a PDF document", None),
)
_LFS = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")
# torch.save before 1.6: begins with a protocol 2 pickle of a magic number.
_LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_TEXT_PICKLE = re.compile(rb"\([dl]p[0-9]+\n|c[\w.]+\n\w+\n")  # protocol 0: a dict, a list, or a call
_ORBAX = ("_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA", "commit_success.txt")
_ZARR = (".zarray", ".zgroup", "zarr.json")

# Flattens nested dicts into dotted names; converts only the model's part of a training state.
_ONE_LINE = (
    'python -c "import sys, torch; from safetensors.torch import save_file; {load}; '
    "s = next((s[k] for k in ('state_dict', 'model_state_dict', 'model') if isinstance(s.get(k), dict)), s); "
    "f = lambda p, v: [(p[1:], v)] if torch.is_tensor(v) else "
    "[e for k in v for e in f(p + '.' + str(k), v[k])] if isinstance(v, dict) else []; "
    "t = {{k: v.clone().contiguous() for k, v in f('', s)}}; "
    "t or sys.exit('no tensors in it'); save_file(t, sys.argv[2])\" {source} {target}"
)
_LOAD = "s = torch.load(sys.argv[1], map_location='cpu', weights_only=True)"
_LOAD_SCRIPT = "s = torch.jit.load(sys.argv[1], map_location='cpu').state_dict()"


def explain(path: str, expected: str | None = None) -> CkptSurgeonError | None:
    """Identify a file or folder that is not a checkpoint of a known format.

    Args:
        path: of a file or a folder.
        expected: what the caller can open, for the message.

    Returns:
        An error that names the kind of file; None if it is unknown.
    """
    if is_folder(path):
        return _folder(path)
    if not is_file(path):
        return UnsupportedError("not a regular file", path=path, expected=expected)  # a pipe could block forever
    with open_source(path) as file:
        head = file.read(0, _HEAD)
    if not head:
        return DamagedError("an empty file", path=path)
    if not any(head) and len(head) == _HEAD:
        return DamagedError("damaged: starts with nothing but zero bytes", path=path)
    if head.startswith(_LFS):
        what = "a Git LFS pointer: the file itself was not fetched"
        return UnsupportedError(what, path=path, hint="'git lfs pull' fetches it")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].lower().startswith(_PAGES):
        return UnsupportedError("an HTML page, as a failed download leaves it", path=path, hint="download it again")
    if head.startswith((zipped.MAGIC, zipped.EMPTY)):
        return _zip(path)
    if head.startswith(_LEGACY_TORCH):
        return by_pytorch("a PyTorch file from before 1.6, which is a pickle", path)
    if _is_pickle(head):
        if path.endswith((".pt", ".pth", ".bin", ".ckpt")):
            return by_pytorch("a pickle, which is never loaded", path)
        return UnsupportedError("a pickle, which is never loaded", path=path, expected=expected)
    for start, kind, hint in _STARTS:
        if head.startswith(start):
            return UnsupportedError(kind, path=path, expected=expected, hint=hint)
    if _has_user_block(path):
        return UnsupportedError("an HDF5 file", path=path, expected=expected)
    if head[4:8] == b"TFL3":
        return UnsupportedError("a TFLite model", path=path, expected=expected)
    if head[_TAR : _TAR + 5] == b"ustar":
        return UnsupportedError("a tar archive", path=path, hint="unpack it first")
    if _is_onnx(head, path):
        return UnsupportedError("an ONNX model", path=path, expected=expected)
    if os.path.basename(path) == "saved_model.pb":
        return UnsupportedError("the graph of a SavedModel", path=path, hint="name its folder instead")
    return None


def _folder(path: str) -> CkptSurgeonError | None:
    names = set(os.listdir(path))
    if not names.isdisjoint(_ORBAX) or any(name.startswith("ocdbt.process_") for name in names):
        hint = "export it with Orbax, for instance as npz or safetensors"
        return UnsupportedError("an Orbax checkpoint", path=path, hint=hint)
    numbered = [name for name in names if name[-1:].isdigit()]
    steps = [name for name in numbered if is_file(os.path.join(path, name, _ORBAX[0]))]
    if steps:
        last = sorted(steps, key=lambda name: (len(name), name))[-1]
        return UnsupportedError("a folder of Orbax checkpoints", path=path, found=f"{len(steps)}, the last {last}")
    if not names.isdisjoint(_ZARR):
        return UnsupportedError("a Zarr folder", path=path)
    if any(name.endswith(".distcp") for name in names):
        hint = "torch.distributed.checkpoint.format_utils.dcp_to_torch_save converts it to one file"
        return UnsupportedError("a distributed PyTorch checkpoint", path=path, hint=hint)
    for name in sorted(names):
        if name.startswith("pytorch_model") and name.endswith(".bin"):
            return by_pytorch("a folder with a PyTorch file, which holds a pickle", path, os.path.join(path, name))
    return None


def by_pytorch(what: str, path: str, source: str | None = None, load: str = _LOAD) -> UnsupportedError:
    """The error for a PyTorch file, with a command that converts it where PyTorch is installed."""
    import shlex

    source = source or path
    target = os.path.splitext(source)[0] + ".safetensors"
    line = _ONE_LINE.format(load=load, source=shlex.quote(source), target=shlex.quote(target))
    return UnsupportedError(what, path=path, hint=f"where PyTorch is installed: {line}")


def _zip(path: str) -> CkptSurgeonError:
    """The error for a zip file, which is identified by the names of its members."""
    try:
        with open_source(path) as file:
            found = zipped.ZipDirectory(file.read, file.size).members
    except CkptSurgeonError as error:
        error.path = error.path or path
        error.what = f"a zip file: {error.what}"
        return error
    names = [member.text for member in found[:_MOST_MEMBERS]]
    lasts = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in lasts:
        if "constants.pkl" in lasts:
            return by_pytorch("a TorchScript file, which holds a pickle", path, load=_LOAD_SCRIPT)
        return by_pytorch("a PyTorch file, which holds a pickle", path)
    if "config.json" in lasts and any(last.startswith("model.weights") for last in lasts):
        return UnsupportedError("a Keras file (.keras)", path=path)
    shown = ", ".join(names[:3]) or "nothing"
    return UnsupportedError("an unknown kind of zip file", path=path, expected="arrays (.npy)", found=shown[:200])


def _is_pickle(head: bytes) -> bool:
    """Whether a file begins like a pickle: protocol 2 to 5 and a plausible next opcode, or the text protocol 0."""
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return head[2:3] in (
            b"\x95",
            b"}",
            b"]",
            b"(",
            b"c",
            b"K",
            b"\x8a",
            b"X",
            b"\x8c",
            b")",
            b"N",
            b"G",
            b"J",
            b"M",
        )
    return _TEXT_PICKLE.match(head) is not None


def _has_user_block(path: str) -> bool:
    """Whether a file is HDF5 after a user block, whose size is 512 bytes times a power of two."""
    with open_source(path) as file:
        return any(file.read(at, 8) == _STARTS[0][0] for at in (512, 1024, 2048, 4096))


def _is_onnx(head: bytes, path: str) -> bool:
    """Whether a file begins like a ModelProto: ir_version, then the producer's name. ONNX files have no magic bytes."""
    if len(head) < 8 or head[0] != 8 or not 1 <= head[1] <= 32:
        return False
    if path.endswith(".onnx"):
        return True
    length = head[3]
    name, after = head[4 : 4 + length], head[4 + length : 5 + length]
    return (
        head[2:3] == b"\x12"
        and 0 < length < 100
        and name.isascii()
        and name.decode().isprintable()
        and (after in (b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42"))
    )
