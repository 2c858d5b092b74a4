"""Merges the models of a ring into one Keras model that stores what they have in common once.

Two layers are the same if they are of one class, compute the same (initializers, names and the like do not matter),
have the same weights, bit for bit, and get the same inputs. So the models share all layers from the input up to the
first that differs, whatever their checkpoints call them, and the merged model predicts exactly what they do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import keras
import numpy as np

from ..errors import RefusedError
from ..ring.predicting.skflow_net import SkflowNet

Tensor = Any  # Keras comes without types

ENSEMBLE = "ensemble"  # the name of the averaged output
# Keys of a layer's config that say how its weights come about, and not what it computes with them.
_IRRELEVANT = ("_initializer", "_regularizer", "_constraint")
_INTERNAL = ("seed", "trainable", "shared_object_id", "build_config")


@dataclass(frozen=True)
class Member:
    """A model to merge.

    Attributes:
        name: its name in the ring.
        model: the model, with one input and one output.
        logits: whether the outputs of a classifier are logits.
    """

    name: str
    model: keras.Model
    logits: bool = False


@dataclass(frozen=True)
class Merged:
    """The result.

    Attributes:
        model: takes rows and returns the mean of the outputs, or a dict with the outputs of each model.
        shared: the number of parameters that all models have in common.
        separate: the number of parameters of all models together.
    """

    model: keras.Model
    shared: int
    separate: int

    @property
    def parameters(self) -> int:
        """The number of parameters of the merged model."""
        return int(self.model.count_params())


def of_net(net: SkflowNet, name: str, shape: tuple[int, ...]) -> Member:
    """Return a network of the built-in trainer as a Keras model of dense layers.

    Args:
        net: the network.
        name: its name in the ring.
        shape: of one row; rows with more than one axis are flattened.
    """
    values = inputs = keras.Input(shape, name="X")
    if len(shape) > 1:
        values = keras.layers.Flatten(name="flatten")(values)
    last = len(net.layers) - 1
    for number, (kernel, bias) in enumerate(net.layers):
        activation = "relu" if number < last else "softmax" if net.classifier else None
        layer = keras.layers.Dense(
            kernel.shape[1], activation=activation, name=f"layer{number}" if number < last else "head"
        )
        values = layer(values)
        layer.set_weights([kernel, bias])
    return Member(name, keras.Model(inputs, values))


def merge(members: Sequence[Member], classes: int | None, heads: bool) -> Merged:
    """Merge models.

    Args:
        members: one or more; they are not usable afterwards.
        classes: the number of classes; None for values.
        heads: return the outputs of each model instead of their mean.

    Raises:
        RefusedError: a model has no graph of layers.
    """
    for member in members:
        if not getattr(member.model, "inputs", None) or not getattr(member.model, "outputs", None):
            what = f"model {member.name} is a subclass of keras.Model, whose layers are unknown"
            raise RefusedError(what, expected="a Sequential or functional model")
    (first, *_) = members[0].model.inputs
    inputs = keras.Input(first.shape[1:], dtype=first.dtype, name="X")
    graph = _Graph(len(members))
    added = [(member, graph.add(member, inputs)) for member in members]
    taken = graph.name_layers({inputs.name, ENSEMBLE})
    outputs = {member.name: _chances(output, member, classes, taken) for member, output in added}
    result: Tensor = outputs
    if not heads:
        several = list(outputs.values())
        result = keras.layers.Average(name=ENSEMBLE)(several) if len(several) > 1 else several[0]
    separate = sum(member.model.count_params() for member in members)
    return Merged(keras.Model(inputs, result, name=ENSEMBLE), graph.shared_parameters(), int(separate))


class _Graph:
    """The layers of all models, each stored once.

    Args:
        count: the number of models.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._outputs: dict[object, Tensor] = {}  # the key of a call -> its output
        self._users: dict[object, set[str]] = {}  # the key of a call -> the models that make it
        self._layers: dict[object, Any] = {}  # the key of a call -> the layer that is called
        self._names: dict[int, tuple[str, str]] = {}  # id of a layer -> its model, and its own name

    def add(self, member: Member, inputs: Tensor) -> Tensor:
        """Call the layers of a model on `inputs`, but for those that an earlier model has called; return its output."""
        flat = keras.Model(member.model.inputs, member.model.outputs[0])  # a Sequential becomes functional
        for layer in flat.operations:
            layer.name, own = f"{len(self._names)}_{layer.name}", layer.name  # unique, until `name_layers`
            self._names[id(layer)] = member.name, own
        prints: dict[int, str] = {}

        def call(layer: Any, *args: Any, **kwargs: Any) -> Tensor:
            if id(layer) not in prints:
                prints[id(layer)] = _fingerprint(layer)
            leaves = keras.tree.flatten((args, kwargs))
            key = (
                prints[id(layer)],
                *(id(leaf) if keras.utils.is_keras_tensor(leaf) else _text(leaf) for leaf in leaves),
            )
            if key not in self._outputs:
                self._outputs[key], self._layers[key] = layer(*args, **kwargs), layer
            self._users.setdefault(key, set()).add(member.name)
            return self._outputs[key]

        called = keras.models.clone_model(flat, [inputs], clone_function=lambda layer: layer, call_function=call)
        return called.outputs[0]

    def name_layers(self, taken: set[str]) -> set[str]:
        """Give the layers that all models share their own names back; all others get the name of their model too.

        Args:
            taken: names that no layer may have.

        Returns:
            These names and those of all layers.
        """
        shared = self._shared()
        theirs = {id(layer) for layer in shared}
        others = {id(layer): layer for layer in self._layers.values() if id(layer) not in theirs}
        taken = set(taken)
        for layer in (*shared, *others.values()):
            model, own = self._names[id(layer)]
            layer.name = _unique(own if id(layer) in theirs else f"{model}_{own}", taken)
        return taken

    def shared_parameters(self) -> int:
        """Return the number of parameters of the layers that all models share."""
        return sum(int(layer.count_params()) for layer in self._shared() if isinstance(layer, keras.Layer))

    def _shared(self) -> list[Any]:
        found = {
            id(self._layers[key]): self._layers[key] for key, users in self._users.items() if len(users) == self._count
        }
        return list(found.values())


def _unique(name: str, taken: set[str]) -> str:
    """Return a name with a number, if need be, that makes it a new one; take note of it."""
    found = next(
        each for each in (name, *(f"{name}_{number}" for number in range(2, len(taken) + 3))) if each not in taken
    )
    taken.add(found)
    return found


def _fingerprint(layer: Any) -> str:
    """Return a digest of what a layer computes."""
    config = keras.saving.serialize_keras_object(layer)
    config["config"].pop("name", None)  # an operation has one too
    digest = sha256(json.dumps(_relevant(config), sort_keys=True, default=_text).encode())
    for variable in getattr(layer, "weights", ()):
        digest.update(_text(variable).encode())
    return digest.hexdigest()


def _text(value: Any) -> str:
    """Return a text that only equal values have; `repr` leaves out most of a large array."""
    if not hasattr(value, "__array__"):
        return repr(value)
    values = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    content = repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
    return f"{values.dtype} {values.shape} {sha256(content).hexdigest()}"


def _relevant(config: Any) -> Any:
    if isinstance(config, Mapping):
        # The name of a layer does not matter, but that of a dtype policy, for one, says what it is.
        dropped = _INTERNAL if not config.keys() & {"trainable", "class_name"} else (*_INTERNAL, "name")
        kept = [key for key in config if key not in dropped and not str(key).endswith(_IRRELEVANT)]
        return {key: _relevant(config[key]) for key in kept}
    return [_relevant(each) for each in config] if isinstance(config, (list, tuple)) else config


def _chances(outputs: Tensor, member: Member, classes: int | None, taken: set[str]) -> Tensor:
    """Return probabilities of all classes, whatever form a classifier's outputs have; as `net.chances` does."""
    if classes is None:
        return outputs
    layers = keras.layers

    def name(what: str) -> str:
        return _unique(f"{member.name}_{what}", taken)

    if classes == 2 and outputs.shape[1:] in ((), (1,)):
        outputs = layers.Reshape((1,), name=name("column"))(outputs) if len(outputs.shape) == 1 else outputs
        if member.logits:
            outputs = layers.Activation("sigmoid", name=name("sigmoid"))(outputs)
        other = layers.Rescaling(-1.0, 1.0, name=name("other"))(outputs)
        return layers.Concatenate(name=name("chances"))([other, outputs])
    return layers.Activation("softmax", name=name("softmax"))(outputs) if member.logits else outputs
