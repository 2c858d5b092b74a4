"""Writes a Keras model as a file or folder that needs nothing of this package, in one piece.

NAME.keras    Keras's own; the same model gives the same bytes
NAME.onnx     ONNX, converted by tf2onnx
NAME/         TensorFlow's SavedModel, with the endpoint `serve`
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import BusyError, RefusedError, UsageError, files
from ..publish import Staging, fsync, held_signals, swap

if TYPE_CHECKING:
    import keras

_KERAS, _ONNX, _FOLDER = ".keras", ".onnx", ""
_MARK = "saved_model.pb"  # the file that makes a folder a SavedModel


def check(out: str, force: bool) -> None:
    """Check that a model can be written, before Keras is imported.

    Args:
        out: its name.
        force: whether it may exist.

    Raises:
        UsageError: the name says nothing that can be written, or a package is missing.
        RefusedError: something is there that is not replaced.
    """
    kind = _kind(out)
    if kind not in (_KERAS, _ONNX, _FOLDER) or not os.path.basename(_place(out)):
        raise UsageError("cannot export this kind of model", path=out, expected="NAME.keras, NAME.onnx, or a folder")
    missing = [name for name in ("tf2onnx", "onnx") if kind == _ONNX and find_spec(name) is None]
    if missing:
        hint = "pip install 'ckptsurgeon[onnx]'"
        raise UsageError(f"writing ONNX needs the package {' and '.join(missing)}", path=out, hint=hint)
    place = _place(out)
    with files(place):
        if not os.path.isdir(os.path.dirname(place)):
            raise UsageError("no such folder", path=os.path.dirname(place))
        if not os.path.lexists(place):
            return
        if not force:
            raise RefusedError("exists already", path=out, hint="--force replaces it")
        if kind == _FOLDER and not (os.path.isfile(os.path.join(place, _MARK)) and not os.path.islink(place)):
            raise RefusedError("is not a SavedModel, so it is not replaced", path=out, hint="choose another name")
        if kind != _FOLDER and os.path.isdir(place):
            raise RefusedError("is a folder", path=out, expected="the name of a file")


def write(model: keras.Model, out: str, force: bool) -> int:
    """Write a model; what is at `out` is replaced as a whole, or not at all.

    Args:
        model: a functional model.
        out: as for `check`, which has accepted it.
        force: whether to replace what is there.

    Returns:
        The size of the file, or of all files in the folder, in bytes.

    Raises:
        RefusedError: the model has layers that only its own program can load.
        StorageError: the operating system refused.
    """
    kind, place = _kind(out), _place(out)
    if kind == _KERAS:
        _check_loadable(model, out)
    with files(out), _staged(place) as scratch:
        staged = os.path.join(scratch, "model" + kind)
        _save(model, staged, kind)
        size = 0
        for folder, _, names in os.walk(staged):
            for name in names:
                fsync(os.path.join(folder, name))
                size += os.path.getsize(os.path.join(folder, name))
            fsync(folder)
        if kind != _FOLDER:
            fsync(staged)
            size = os.path.getsize(staged)
        _publish(staged, place, force)
    return size


def _kind(out: str) -> str:
    return _FOLDER if out.endswith(os.sep) else os.path.splitext(out)[1]


def _place(out: str) -> str:
    return os.path.abspath(out) if out.strip(os.sep) else ""


def _save(model: keras.Model, path: str, kind: str) -> None:
    if kind == _KERAS:
        from . import keras_files

        keras_files.save(model, path)
        return
    import numpy as np

    shape = [1 if size is None else size for size in model.inputs[0].shape]
    model(np.zeros(shape, model.inputs[0].dtype))  # Keras exports only models that have been called
    model.export(path, format="onnx" if kind == _ONNX else "tf_saved_model", verbose=False)


def _check_loadable(model: keras.Model, out: str) -> None:
    """Refuse layers that `keras.models.load_model` knows only with the program that defines them, or not at all."""
    for layer in model.operations:
        kind = type(layer)
        own = kind.__module__.startswith("keras.")
        if not own or kind.__name__ == "Lambda":
            what = f"the layer {layer.name} needs the program that defines it, so no other can load it from this file"
            found = f"{kind.__module__}.{kind.__name__}" if not own else "a Lambda layer, which contains Python code"
            hint = "export a SavedModel: -o NAME/"
            raise RefusedError(what, path=out, expected="a layer of Keras", found=found, hint=hint)


@contextlib.contextmanager
def _staged(place: str) -> Iterator[str]:
    """Make a folder next to `place` for what is not finished; what a crash left in it goes first.

    Raises:
        BusyError: another process is writing the same model.
    """
    scratch = f"{place}.ckptsurgeon-tmp"
    with contextlib.suppress(FileExistsError):
        os.mkdir(scratch)
    lock = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError("another process is writing this model", path=place) from None
        _clear(scratch)
        try:
            yield scratch
        finally:
            with contextlib.suppress(OSError):  # the next writer removes it
                shutil.rmtree(scratch)
    finally:
        os.close(lock)


def _clear(folder: str) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _publish(staged: str, place: str, force: bool) -> None:
    """Give what is staged its name, and wait until the name is on the disk."""
    staging = Staging()
    try:
        with held_signals():
            if os.path.isdir(staged):
                if force and os.path.isdir(place):
                    swap(staged, place)
                else:
                    os.rename(staged, place)
            elif force:
                staging.rename(staged, place)
            else:
                staging.put(staged, place)
            staging.sync(os.path.dirname(place))
    except FileExistsError:
        raise RefusedError("exists already", path=place, hint="--force replaces it") from None
