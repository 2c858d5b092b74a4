"""Builds the models of a run outside its workers: for export, and for whoever wants a member in Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import UsageError
from ..ring.folder import existing
from ..ring.schedule import step_seed
from ..ring.spec import loading
from . import function, nets
from .net import Net, Problem

if TYPE_CHECKING:
    import keras

    from .keras_net import KerasNet


def net(folder: str, name: str) -> Net:
    """Build a member of a run, with its initial weights.

    Args:
        folder: the run.
        name: one of its models that has a `trainer`.

    Raises:
        UsageError: there is no such model, or it has no `trainer`.
        CkptSurgeonError: its function fails, or what it returns cannot be trained.
    """
    place = existing(folder)
    spec = loading.load(place.spec)
    model = next((each for each in spec.models if each.name == name), None)
    if model is None or model.trainer is None:
        known = ", ".join(each.name for each in spec.models if each.trainer is not None) or "none"
        raise UsageError(f"no model {name!r} with a trainer", path=place.spec, found=f"models with a trainer: {known}")
    table = place.open_table()
    problem = Problem(table.X.shape[1:], table.n_classes, table.outputs)
    return nets.build(function.load(place.function(model.trainer)), problem, step_seed(spec.seed, name, 0))


def keras_net(folder: str, name: str) -> KerasNet:
    """Build a member of a run as a compiled Keras model.

    Args:
        folder: the run.
        name: one of its models, whose `trainer` returns a Keras model.

    Raises:
        UsageError: there is no such model, or its trainer does not return a Keras model.
    """
    from .keras_net import KerasNet

    found = net(folder, name)
    if not isinstance(found, KerasNet):
        raise UsageError(f"the trainer of model {name} does not return a Keras model", path=folder)
    return found


def keras_model(folder: str, name: str, checkpoint: str | None = None) -> keras.Model:
    """Build a member of a run as a compiled Keras model, and load a checkpoint into it.

    Args:
        folder: the run.
        name: one of its models, whose `trainer` returns a Keras model.
        checkpoint: one of the model's checkpoints; None to leave its initial weights.

    Raises:
        UsageError: there is no such model, or its trainer does not return a Keras model.
        RefusedError: the checkpoint does not fit.
    """
    found = keras_net(folder, name)
    if checkpoint is not None:
        found.load(checkpoint)
    return found.model
