"""Identifies files of other formats by their first bytes, and folders by their files. Nothing is loaded or run."""

from __future__ import annotations

import os
import re

from ..errors import CkptSurgeonError, DamagedError, NotFoundError, UnsupportedError
from ..source import is_file, is_folder, open_source
from . import kinds
from .files import zipped

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .kinds import Help

_HEAD = 4096  # bytes inspected at the start of a file
_MOST_FILES = 1000  # files of a folder that are inspected
_MOST_MEMBERS = 10_000  # members of a zip file whose names are inspected
_LFS = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<error")
# torch.save before 1.6: begins with a protocol 2 pickle of a magic number.
_LEGACY_TORCH = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_TEXT_PICKLE = re.compile(rb"\([dl]p[0-9]+\n|c[\w.]+\n\w+\n")  # protocol 0: a dict, a list, or a call
_ORBAX = ("_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA", "commit_success.txt")
_NOT_MODELS = (".html", ".htm", ".txt", ".gz", ".tar", ".tgz", ".rar", ".7z")  # which stand in many folders
_WEIGHTS = (".pt", ".pth", ".bin", ".safetensors", ".h5", ".keras", ".index", ".npz", ".ckpt", ".onnx", ".pdiparams")
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
LOAD = "s = torch.load(sys.argv[1], map_location='cpu', weights_only=True)"
# Runs code of the pickle, which may hold whole modules.
LOAD_TRUSTED = (
    "s = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
    "s = {k: v.state_dict() if hasattr(v, 'state_dict') else v "
    "for k, v in (s if isinstance(s, dict) else {'model': s}).items()}"
)
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
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text[:9].lower().startswith(_PAGES):
        if b"<net " in text:
            hint = "openvino.Core().read_model reads it, with its .bin"
            return UnsupportedError("an OpenVINO model", path=path, hint=hint)
        return UnsupportedError("an HTML page, as a failed download leaves it", path=path, hint="download it again")
    if text.startswith(b"{"):
        return _json(text, path)
    if head.startswith((zipped.MAGIC, zipped.EMPTY)):
        return _zip(path)
    if head.startswith(_LEGACY_TORCH):
        return by_pytorch("a PyTorch file from before 1.6, which is a pickle", path)
    if _is_pickle(head):
        if path.endswith((".pt", ".pth", ".bin", ".ckpt")):
            return by_pytorch("a pickle, which is never loaded", path)
        help = kinds.PADDLE_STATE if path.endswith((".pdparams", ".pdopt")) else None
        return _named("a pickle, which is never loaded", help, path, expected)
    for at, magic, kind, help in kinds.MAGIC:
        if head.startswith(magic, at):
            return _named(kind, help, path, expected)
    if _has_user_block(path):
        return UnsupportedError("an HDF5 file", path=path, expected=expected)
    if os.path.basename(path) == "saved_model.pb":
        return UnsupportedError("the graph of a SavedModel", path=path, hint="name its folder instead")
    if os.path.basename(path).startswith("events.out.tfevents"):
        return UnsupportedError("an event file of TensorBoard", path=path, expected=expected)
    for is_one, kind, help in kinds.SHAPES:
        if is_one(head, path):
            return _named(kind, help, path, expected)
    return None


def _named(kind: str, help: Help, path: str, expected: str | None) -> UnsupportedError:
    hint = _line(help, path)
    return UnsupportedError(kind, path=path, expected=expected if hint is None else None, hint=hint)


def _line(help: Help, path: str) -> str | None:
    """A hint: words as they are, of a program the shell command that runs it."""
    if not isinstance(help, tuple):
        return help
    import shlex

    where, code = help
    target = os.path.splitext(path)[0] + (".safetensors" if "save_file" in code else ".npz")
    return f'where {where} is installed: python -c "{code}" {shlex.quote(path)} {shlex.quote(target)}'


def _json(text: bytes, path: str) -> UnsupportedError | None:
    if not any(word in text for word in (b'"modelTopology"', b'"weightsManifest"', b"TensorFlow.js")):
        return UnsupportedError("a JSON file", path=path) if text[1:].lstrip()[:1] in (b'"', b"}") else None
    import shlex

    source, target = shlex.quote(path), shlex.quote(os.path.splitext(path)[0] + ".h5")
    hint = f"tensorflowjs_converter --input_format=tfjs_layers_model --output_format=keras {source} {target}"
    if b'"graph-model"' in text:
        hint = "tfjs_graph_converter makes a frozen graph of it"
    return UnsupportedError("a TensorFlow.js model", path=path, hint=hint)


def content(folder: str) -> CkptSurgeonError | None:
    """The error for a folder without a checkpoint, which names the first file that is a model of another kind."""
    for name in sorted(os.listdir(folder))[:_MOST_FILES]:
        path = os.path.join(folder, name)
        is_model = not name.startswith(".") and not name.endswith(_NOT_MODELS) and is_file(path)
        error = explain(path) if is_model else None
        if error is not None and (error.hint is not None or isinstance(error, DamagedError)):
            what = f"{name}, {error.what}"
            return NotFoundError("a folder without a checkpoint", path=folder, found=what, hint=error.hint)
    return None


def layout(path: str) -> CkptSurgeonError | None:
    """The error for a folder in which another program keeps one checkpoint in files of its own; None for others."""
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
    if any(name.startswith(("mp_rank_", "zero_pp_rank_")) and name.endswith("_states.pt") for name in names):
        hint = "'python zero_to_fp32.py . OUT' in the folder above makes one checkpoint of it"
        return UnsupportedError("a DeepSpeed checkpoint", path=path, hint=hint)
    if "Manifest.json" in names and is_folder(os.path.join(path, "Data", "com.apple.CoreML")):
        return UnsupportedError("a Core ML package", path=path, hint="coremltools reads its weights")
    return None


def _folder(path: str) -> CkptSurgeonError | None:
    error = layout(path)
    if error is not None:
        return error
    for name in sorted(os.listdir(path)):
        if name.startswith("pytorch_model") and name.endswith(".bin"):
            return by_pytorch("a folder with a PyTorch file, which holds a pickle", path, os.path.join(path, name))
    return None


def by_pytorch(what: str, path: str, source: str | None = None, load: str = LOAD) -> UnsupportedError:
    """The error for a PyTorch file, with a command that converts it where PyTorch is installed."""
    import shlex

    source = source or path
    target = os.path.splitext(source)[0] + ".safetensors"
    line = _ONE_LINE.format(load=load, source=shlex.quote(source), target=shlex.quote(target))
    where = "where PyTorch is installed"
    if load == LOAD_TRUSTED:
        where += ", and if you trust the file, whose code this runs"
    return UnsupportedError(what, path=path, hint=f"{where}: {line}")


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
        inner = next(name for name in names if name.rpartition("/")[2] == "config.json").rpartition("/")[0]
        if not inner:
            return UnsupportedError("a Keras file (.keras)", path=path)
        what = "a Keras file that was zipped again, with its folder"
        return UnsupportedError(what, path=path, found=f"{inner}/config.json", hint=f"unzip it, and name {inner}")
    inside = next((name for name in names if name.endswith(_WEIGHTS)), None)
    if inside is not None:
        return UnsupportedError("a zip file", path=path, found=inside, hint=kinds.UNPACK)
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
        return any(file.read(at, 8) == kinds.HDF5 for at in (512, 1024, 2048, 4096))
