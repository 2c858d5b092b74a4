"""Writes a Keras model as a file or folder that needs nothing of this package, in one piece.

NAME.keras    Keras's own; the same model gives the same bytes
NAME.onnx     ONNX, converted by tf2onnx
NAME/         TensorFlow's SavedModel, with the endpoint `serve`
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from .. import folders
from ..errors import BusyError, RefusedError, UsageError, files
from ..publish import Staging, held_signals, overtaken, sync_after_commit
from ..source import is_taken

if TYPE_CHECKING:
    import keras

_KERAS, _ONNX, _FOLDER = ".keras", ".onnx", ""
_PATIENCE = 10.0  # seconds to wait for a process that is editing what is replaced
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
    name = os.path.basename(_place(out))
    if kind not in (_KERAS, _ONNX, _FOLDER) or name in ("", _KERAS, _ONNX):  # an ending alone is no NAME
        raise UsageError("cannot export this kind of model", path=out, expected="NAME.keras, NAME.onnx, or a folder")
    missing = [name for name in ("tf2onnx", "onnx") if kind == _ONNX and find_spec(name) is None]
    if missing:
        hint = "pip install 'ckptsurgeon[onnx]'"
        raise UsageError(f"writing ONNX needs the package {' and '.join(missing)}", path=out, hint=hint)
    place = _place(out)
    with files(place):
        if not os.path.isdir(os.path.dirname(place)):
            raise UsageError("no such folder", path=os.path.dirname(place))
        if not is_taken(place):
            return
        if kind == _FOLDER and os.path.isfile(place):
            raise RefusedError("is a file", path=out, expected="the name of a folder", hint="choose another name")
        if kind == _FOLDER and not (os.path.isfile(os.path.join(place, _MARK)) and not os.path.islink(place)):
            raise RefusedError("is not a SavedModel, so it is not replaced", path=out, hint="choose another name")
        if kind != _FOLDER and os.path.isdir(place):
            raise RefusedError("is a folder", path=out, expected="the name of a file")
        if not force:
            raise RefusedError("exists already", path=out, hint="--force replaces it")


def write(model: keras.Model, out: str, force: bool, warnings: list[str]) -> int:
    """Write a model; what is at `out` is replaced as a whole, or not at all.

    Args:
        model: a functional model.
        out: as for `check`, which has accepted it.
        force: whether to replace what is there.
        warnings: gets a line if the model was written, but its name may not survive a power cut.

    Returns:
        The size of the file, or of all files in the folder, in bytes.

    Raises:
        RefusedError: the model has layers that only its own program can load, or something is there that is not
            replaced.
        BusyError: another process is writing it, or has just written it.
        StorageError: the operating system refused.
    """
    kind, place = _kind(out), _place(out)
    if kind == _KERAS:
        _check_loadable(model, out)
    with files(out), ExitStack() as stack:
        with _in_words_of_export(out):
            private = stack.enter_context(folders.private_folder(place, 0.0))
        staged = os.path.join(private, "new" + kind)
        _save(model, staged, kind)
        made = [os.path.join(folder, name) for folder, _, names in os.walk(staged) for name in names] or [staged]
        size = sum(map(os.path.getsize, made))
        if _publish(staged, out, force, warnings):  # otherwise a power cut may bring back what is in there now
            folders.discard(private)
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
    """Refuse what `keras.models.load_model` knows only with the program that defines it, or not at all.

    That may be a layer, or what is in one: a layer of a nested model or a wrapper, an activation, a regularizer.
    """
    from keras.saving import serialize_keras_object

    for layer in model.operations:
        kind = type(layer)
        own = _is_keras(kind.__module__)
        found = _foreign(serialize_keras_object(layer)) if own else f"{kind.__module__}.{kind.__name__}"
        if found is not None:
            what = f"the layer {layer.name} needs the program that defines it, so no other can load it from this file"
            hint = "export a SavedModel: -o NAME/"
            raise RefusedError(what, path=out, expected="layers and functions of Keras", found=found, hint=hint)


def _is_keras(module: str) -> bool:
    return f"{module}.".startswith("keras.")


def _foreign(config: Any) -> str | None:
    """Return what in the config of a layer is not Keras's own; None if all of it is."""
    if isinstance(config, Mapping):
        name, module = config.get("class_name"), config.get("module")
        if name in ("Lambda", "__lambda__") or set(config) == {"value"}:  # the latter is a lambda without its class
            return "a lambda, which contains Python code"
        if name == "function":
            return f"the function {config['config']}"
        if isinstance(name, str) and "module" in config and not _is_keras(str(module)) and module != "builtins":
            return name
        config = list(config.values())
    each = config if isinstance(config, (list, tuple)) else ()
    return next((found for found in map(_foreign, each) if found is not None), None)


@contextlib.contextmanager
def _in_words_of_export(out: str) -> Iterator[None]:
    """Say what is busy in the words of an export, which has no --wait."""
    try:
        yield
    except BusyError:
        raise BusyError("another process is writing this model", path=out, hint="try again") from None


def _publish(staged: str, out: str, force: bool, warnings: list[str]) -> bool:
    """Give what is staged its name; whether the name is on the disk."""
    place = _place(out)
    with ExitStack() as stack:
        with _in_words_of_export(out):
            stack.enter_context(folders.locked(place, _PATIENCE))
        check(out, force)  # making the model has taken a while
        replaces = is_taken(place)
        if replaces:
            folders.keep_permissions(place, staged)
        folders.sync_all(staged)
        if os.path.isdir(staged):
            return folders.publish(staged, place, replaces, True, warnings)
        staging = Staging()
        with held_signals():
            if replaces:
                staging.rename(staged, place)
            else:
                try:
                    staging.put(staged, place)
                except FileExistsError:
                    raise overtaken(place) from None
            return sync_after_commit(staging, place, warnings)
