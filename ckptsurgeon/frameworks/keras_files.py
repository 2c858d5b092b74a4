"""Saves and loads Keras models, with their optimizers: the same state gives the same bytes.

    .weights.h5    Keras's own; holds no times
    .keras         Keras's own, with the date and the times of its entries removed
    otherwise      a TensorFlow bundle with an object graph: tf.train.Checkpoint(model=model).read reads it. TensorFlow
                   writes the first; all others are copies with other values, in half the time and the same bytes

Any other file ending is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from .. import formats
from ..checkpoint import Checkpoint
from ..errors import RefusedError, UnsupportedError, UsageError, one_line
from ..formats import table
from ..plan import Change, Values, plan_of

_WEIGHTS, _CONFIG, _METADATA = "model.weights.h5", "config.json", "metadata.json"
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can hold


def save(model: keras.Model, path: str, like: str | None = None) -> None:
    """Write the whole state of a model.

    Args:
        model: a built model.
        path: where to; an existing file is replaced.
        like: an earlier checkpoint of the model, from which everything but the values is taken where that is faster.
    """
    if path.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.endswith(".keras"):
        with tempfile.TemporaryDirectory(prefix="ckptsurgeon-tmp-", dir=os.path.dirname(path)) as scratch:
            if like is None:
                like = os.path.join(scratch, "model.keras")
                model.save(like)
            weights = os.path.join(scratch, _WEIGHTS)
            model.save_weights(weights)
            made = os.path.join(scratch, "made.keras")
            _pack(like, weights, made)
            os.replace(made, path)
    elif like is None or not _copy(model, path, like):
        _tensorflow_checkpoint(model, path).write(path)


def load(model: keras.Model, path: str) -> None:
    """Read the whole state of a model.

    Raises:
        RefusedError: the file does not hold exactly the model's variables.
    """
    with _as_refusal(path):
        if path.endswith((".weights.h5", ".keras")):
            with warnings.catch_warnings():
                # Keras only warns where an optimizer or a layer is left as it was
                warnings.filterwarnings("error", message=".*[Ss]kipping")
                warnings.filterwarnings("error", message=".*could not be loaded")
                model.load_weights(path)
        elif not _read(model, path):
            status = _tensorflow_checkpoint(model, path).read(path)
            status.assert_existing_objects_matched()
            status.assert_consumed()


@contextmanager
def _as_refusal(path: str) -> Iterator[None]:
    """Turn what Keras or TensorFlow raises about a file into one line."""
    try:
        yield
    except (UsageError, UnsupportedError):
        raise
    except Exception as error:
        hint = "the trainer's function must build the same model at each call"
        raise RefusedError(
            f"cannot be loaded into the trainer's model: {one_line(error)}", path=path, hint=hint
        ) from error


def _tensorflow_checkpoint(model: keras.Model, path: str) -> Any:
    ending = table.by_ending(path)
    if ending is not None:
        what = "a Keras model cannot be saved in this format"
        raise UsageError(what, path=path, expected='format = "bundle", "weights.h5" or "keras"')
    if keras.backend.backend() != "tensorflow":
        what = f"Keras on {keras.backend.backend()} cannot write TensorFlow's checkpoints"
        raise UnsupportedError(what, path=path, hint='set format = "weights.h5" in ring.toml')
    import tensorflow as tf

    return tf.train.Checkpoint(model=model)


def _copy(model: keras.Model, path: str, like: str) -> bool:
    """Write a bundle with the object graph of another one; return False if its names do not show what is what."""
    with formats.open(like) as old:
        pairs = _pairs(model, old)
        changes = [Change("set", old[name], Values(np.asarray(variable))) for name, variable in pairs]
        if pairs:
            formats.save(plan_of(old, changes), out=path, format=table.DEFAULT, force=True, sync=False)
    return bool(pairs)


def _read(model: keras.Model, path: str) -> bool:
    """Read a bundle; return False if its names do not show what is what."""
    with formats.open(path) as opened:
        pairs = _pairs(model, opened)
        for name, variable in pairs:
            variable.assign(opened.read(name))
    return bool(pairs)


def _pairs(model: keras.Model, opened: Checkpoint) -> list[tuple[str, Any]]:
    """Return the variables of a bundle with the model's, if their paths pair all of them one to one; else nothing."""
    own = [*model.weights, *model.optimizer.variables]
    by_path = {variable.path: variable for variable in own}
    full = {name: opened.full_name(name) for name in opened.variables}
    found = [(name, by_path[path]) for name, path in full.items() if path in by_path]
    graph = sum(path is None for path in full.values())
    fit = all(opened[name].shape == tuple(variable.shape) for name, variable in found)
    return found if fit and len(by_path) == len(own) == len(found) == len(full) - graph else []


def _pack(like: str, weights: str, path: str) -> None:
    """Write a `.keras` with the entries of `like`, but other weights, and nothing that depends on the time."""
    with zipfile.ZipFile(like) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name) if name != _WEIGHTS else b""
            if name == _METADATA:
                content = _without_date(content)
            elif name == _CONFIG:
                content = _with_small_ids(content)
            elif name == _WEIGHTS:
                with open(weights, "rb") as file:
                    content = file.read()
            new.writestr(zipfile.ZipInfo(name, _DATE), content)


def _without_date(metadata: bytes) -> bytes:
    found = json.loads(metadata)
    found.pop("date_saved", None)
    return json.dumps(found).encode()


def _with_small_ids(config: bytes) -> bytes:
    """Number the objects that a config shares; Keras uses their addresses in memory, which differ between processes."""
    numbers: dict[int, int] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: numbers.setdefault(each, len(numbers) + 1) if key == "shared_object_id" else walk(each)
                for key, each in value.items()
            }
        return [walk(each) for each in value] if isinstance(value, list) else value

    return json.dumps(walk(json.loads(config))).encode()
