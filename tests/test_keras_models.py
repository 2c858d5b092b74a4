"""Grafts between Keras models of many kinds: whose the values are in the model that Keras loads, slots among them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptsurgeon import formats
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.formats.keras import layers as keras_layers
from ckptsurgeon.verbs import changing

pytestmark = pytest.mark.tensorflow

ENDINGS = (".weights.h5", ".keras", ".h5")
# Of the layers of a model that have weights, those that are grafted; and whether all slots are told by number.
KINDS = {
    "stacked": ("1", True), "bidirectional": ("0-1", True), "cells": ("0", True), "attention": ("1-2", True),
    "nested": ("1-2", True), "shared": ("1", True), "many": ("9-11", True), "branches": ("1", True),
    "wrapped": ("0", True), "frozen": ("1-2", True), "mixed": ("0-1", True), "block": ("1", False),
    "containers": ("1-3", False), "lora": ("1", False), "int8": ("0", False),
}  # fmt: skip
LEGACY = ("stacked", "cells", "attention", "nested", "block", "int8")  # kinds that are tried in legacy files too
CASES = [(kind, ending) for kind in KINDS for ending in ENDINGS if ending != ".h5" or kind in LEGACY]


_classes: dict[tuple[str, str], Any] = {}


def own(keras: Any, name: str) -> Any:
    """A class of one's own: a layer of layers, or a model with its layers in lists and dicts."""
    layers = keras.layers
    if (keras.__name__, name) not in _classes:

        class Block(layers.Layer):  # type: ignore[misc]
            def __init__(self, **more: Any) -> None:
                super().__init__(**more)
                self.wide, self.narrow = layers.Dense(6), layers.Dense(4)
                self.norm = layers.BatchNormalization()

            def build(self, shape: Any) -> None:
                self.scale = self.add_weight(shape=(4,), name="scale")
                self.wide.build(shape)
                self.narrow.build((*shape[:-1], 6))
                self.norm.build((*shape[:-1], 4))
                self.built = True

            def call(self, x: Any) -> Any:
                return self.norm(self.narrow(self.wide(x))) * self.scale

        class Containers(keras.Model):  # type: ignore[misc]
            def __init__(self, **more: Any) -> None:
                super().__init__(**more)
                self.blocks = [layers.Dense(4), layers.Dense(5)]
                self.named = {"first": layers.Dense(3), "second": layers.LayerNormalization()}
                self.lists = [[layers.Dense(2), layers.Dense(3)], [layers.Dense(4)]]
                self.head = layers.Dense(1)

            def call(self, x: Any) -> Any:
                for layer in [*self.blocks, *self.named.values(), *self.lists[0], *self.lists[1], self.head]:
                    x = layer(x)
                return x

        _classes[keras.__name__, "block"], _classes[keras.__name__, "containers"] = Block, Containers
    return _classes[keras.__name__, name]


def built(keras: Any, kind: str) -> Any:
    """A model, its weights as Keras made them."""
    layers, dense = keras.layers, keras.layers.Dense
    x = start = keras.Input((5, 8))
    if kind == "containers":
        return own(keras, kind)()
    if kind == "branches":
        other = keras.Input((5, 8))
        x = layers.Concatenate()([dense(3)(start), layers.BatchNormalization()(dense(4)(other))])
        return keras.Model([start, other], dense(1)(x))
    if kind == "shared":
        twice, inner = dense(8), keras.Sequential([keras.Input((5, 8)), dense(8), dense(8)])
        return keras.Model(start, dense(1)(inner(twice(inner(twice(x))))))
    if kind == "attention":
        x = layers.MultiHeadAttention(2, 4)(dense(8)(x), x)
        x = layers.GroupQueryAttention(4, 4, 2)(x, x) if hasattr(layers, "GroupQueryAttention") else x
        return keras.Model(start, dense(1)(x))
    for layer in {
        "stacked": lambda: [dense(4), layers.RNN([layers.LSTMCell(3), layers.GRUCell(2), layers.SimpleRNNCell(2)])],
        "bidirectional": lambda: [layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
                                  layers.Bidirectional(layers.GRU(3)), layers.BatchNormalization()],
        "cells": lambda: [layers.Bidirectional(layers.RNN([layers.LSTMCell(3), layers.LSTMCell(2)]))],
        "nested": lambda: [dense(8), keras.Sequential([keras.Input((5, 8)), dense(3), layers.BatchNormalization()]),
                           keras.Sequential([dense(3), keras.Sequential([dense(2)])])],
        "many": lambda: [dense(4 + number % 2) for number in range(14)],
        "wrapped": lambda: [layers.TimeDistributed(dense(4)), layers.Dropout(0.5, seed=1),
                            layers.TimeDistributed(dense(3))],
        "frozen": lambda: [dense(4), layers.LayerNormalization(), dense(3), layers.BatchNormalization(scale=False)],
        "mixed": lambda: [dense(4, dtype="mixed_bfloat16"), dense(3, dtype="float16")],
        "block": lambda: [dense(8), own(keras, "block")(), own(keras, "block")()],
        "lora": lambda: [dense(8), dense(4)],
        "int8": lambda: [dense(8), dense(4)],
    }[kind]():  # fmt: skip
        x = layer(x)
    return keras.Model(start, dense(1)(x))


def made(keras: Any, kind: str, seed: int) -> Any:
    """A model, its weights and the variables of its optimizer filled with numbers; the same model each time."""
    model = prepared(keras, kind, seed)
    values = np.random.default_rng(seed)
    for variable in [*model.weights, *slots_of(model)]:
        if "float" in str(variable.dtype) and len(variable.shape):
            variable.assign(values.standard_normal(tuple(variable.shape)).astype(np.float32))
        elif len(variable.shape):
            variable.assign(values.integers(-100, 100, tuple(variable.shape)).astype(np.int8))
    return model


@functools.cache  # building is what takes long
def prepared(keras: Any, kind: str, copy: int) -> Any:
    """A model as it is for its kind; all copies have equal names."""
    keras.backend.clear_session()
    model = built(keras, kind)
    if kind == "containers":
        model(np.zeros((1, 5, 8), np.float32))
    if kind == "lora":
        model.layers[2].enable_lora(2)
    if kind == "frozen":
        model.layers[2].trainable = False
    if kind == "int8":
        model.quantize("int8")
    else:
        model.compile("adam", loss=keras.losses.MeanSquaredError())
        model.optimizer.build(model.trainable_variables)
    return model


def slots_of(model: Any) -> list[Any]:
    """All variables of a model's optimizer."""
    variables = model.optimizer.variables if getattr(model, "optimizer", None) is not None else []
    return list(variables() if callable(variables) else variables)


def saved(model: Any, path: Path) -> str:
    """Where a model was saved, as the ending says."""
    path.parent.mkdir(exist_ok=True)
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(str(path))
    return str(path)


def loaded(keras: Any, path: str, kind: str, seed: int = 99) -> Any:
    """The model that a file holds: whole, or its weights in the model of a seed."""
    if path.endswith(".weights.h5"):
        model = made(keras, kind, seed)
        model.load_weights(path)
        return model
    known = {"Block": own(keras, "block"), "Containers": own(keras, "containers")}
    return (keras.saving if hasattr(keras, "saving") else keras.models).load_model(path, custom_objects=known)


def content(variable: Any) -> tuple[Any, ...]:
    """What a variable holds, as something that can be compared."""
    values = np.asarray(variable)
    return values.shape, str(values.dtype), values.tobytes()


def chosen(kind: str) -> range:
    """The numbers of the layers that are grafted."""
    first, _, last = KINDS[kind][0].partition("-")
    return range(int(first), int(last or first) + 1)


@pytest.mark.parametrize(("kind", "ending"), CASES)
def test_a_graft_takes_the_chosen_layers(keras: Any, tmp_path: Path, kind: str, ending: str) -> None:
    """Keras loads the result: the chosen layers, in its own order, are the donor's, slots too; all else is kept."""
    theirs, ours = (made(keras, kind, seed) for seed in (1, 2))
    donor, recipient = (saved(model, tmp_path / f"{at}" / f"m{ending}") for at, model in enumerate((theirs, ours)))
    if kind == "lora":  # whose parts are one when saved
        theirs, ours = (loaded(keras, path, kind, seed) for seed, path in ((97, donor), (98, recipient)))
    all_told = KINDS[kind][1] or ending == ".h5"
    has_slots = kind != "int8" and not (kind == "lora" and ending == ".h5")
    if has_slots and not all_told:
        with pytest.raises(CkptSurgeonError, match="cannot tell which of the optimizer's variables are slots of"):
            changing.graft(donor, recipient, layers=KINDS[kind][0], slots="copy")
        has_slots = False
    changing.graft(donor, recipient, layers=KINDS[kind][0], slots="copy" if has_slots else "keep")
    found = loaded(keras, recipient, kind)
    if kind == "containers":  # its layers are numbered by the names of its attributes, not as Keras lists them
        layers = [*theirs.blocks, theirs.head, *theirs.named.values(), *theirs.lists[0], *theirs.lists[1]]
    else:
        layers = [layer for layer in theirs.layers if layer.weights]
    grafted = {id(weight) for number in chosen(kind) for weight in layers[number].weights}
    for ours_, theirs_, weight in zip(ours.weights, theirs.weights, found.weights, strict=True):
        assert content(weight) == content(theirs_ if id(theirs_) in grafted else ours_), weight.path
    taken = {id(weight) for weight in theirs.trainable_variables} & grafted if has_slots else set()
    for name in ("_momentums", "_velocities") if ending != ".h5" and kind != "int8" else ():
        sides = [getattr(model.optimizer, name) for model in (found, ours, theirs)]
        for weight, slot, mine, donated in zip(theirs.trainable_variables, *sides, strict=True):
            assert content(slot) == content(donated if id(weight) in taken else mine), weight.path


@pytest.mark.parametrize("optimizer", ["adam", "amsgrad", "centered", "ftrl", "nadam", "ema"])
@pytest.mark.parametrize(("kind", "ending"), [("cells", ".keras"), ("nested", ".weights.h5")])
def test_numbered_slots_have_the_owners_that_keras_gives_them(
    keras: Any, tmp_path: Path, kind: str, ending: str, optimizer: str
) -> None:
    """Whatever an optimizer keeps of each weight, and in whatever order: nothing is told wrongly, and all is told."""
    model, kinds = made(keras, kind, 3), keras.optimizers  # which no other test uses, as it is compiled anew
    model.compile({
        "adam": lambda: kinds.Adam(), "amsgrad": lambda: kinds.Adam(amsgrad=True), "ftrl": lambda: kinds.Ftrl(),
        "centered": lambda: kinds.RMSprop(momentum=0.9, centered=True), "nadam": lambda: kinds.Nadam(),
        "ema": lambda: kinds.SGD(momentum=0.9, use_ema=True),
    }[optimizer]())  # fmt: skip
    model.optimizer.build(model.trainable_variables)
    values = np.random.default_rng(3)
    expected: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for each in vars(model.optimizer).values():
        if isinstance(each, list) and len(each) == len(model.trainable_variables):
            for slot, weight in zip(each, model.trainable_variables, strict=True):
                if slot is not weight and len(getattr(slot, "shape", ())):
                    slot.assign(values.standard_normal(tuple(slot.shape)))
                    expected[content(slot)] = content(weight)
    with formats.open(saved(model, tmp_path / f"m{ending}")) as file:
        told = {content(file.read(slot)): content(file.read(owner)) for slot, owner in file.slot_owners().items()}
        assert told == expected
        kinds_told = {(file.full_name(slot) or "").rpartition("_")[2] for slot in file.slot_owners()}
        assert (kinds_told == {"momentum", "velocity"}) == (optimizer in ("adam", "nadam"))


@pytest.mark.parametrize(("kind", "ending"), [("cells", ".weights.h5"), ("attention", ".keras"), ("nested", ".h5"),
                                              ("stacked", ".weights.h5"), ("nested", ".weights.h5")])  # fmt: skip
def test_grafts_between_models_of_keras_2(old: Any, tmp_path: Path, kind: str, ending: str) -> None:
    """Keras 2 loads the result too: the chosen layers are the donor's, the rest is the recipient's."""
    theirs, ours = (made(old, kind, seed) for seed in (1, 2))
    donor, recipient = (saved(model, tmp_path / f"{at}" / f"m{ending}") for at, model in enumerate((theirs, ours)))
    layers = "0-1" if kind == "attention" else KINDS[kind][0]
    numbers = range(2) if kind == "attention" else chosen(kind)
    changing.graft(donor, recipient, layers=layers, slots="copy")
    found = loaded(old, recipient, kind)
    has_weights = [layer for layer in theirs.layers if layer.weights]
    grafted = {id(weight) for number in numbers for weight in has_weights[number].weights}
    for ours_, theirs_, weight in zip(ours.weights, theirs.weights, found.weights, strict=True):
        assert content(weight) == content(theirs_ if id(theirs_) in grafted else ours_), weight.name


def test_the_group_of_tensorflow_2_12(keras: Any, tmp_path: Path) -> None:
    """Layers in `_layer_checkpoint_dependencies`, as TensorFlow 2.12 had it, are the model's, and Keras loads them."""
    models = [made(keras, "branches", seed) for seed in (1, 2)]
    paths = [saved(model, tmp_path / f"{at}" / "m.weights.h5") for at, model in enumerate(models)]
    for path in paths:
        changing.rename(path, ["layers/=_layer_checkpoint_dependencies/"], anyway=True)
    changing.graft(*paths, layers="1")
    found = loaded(keras, paths[1], "branches")
    grafted = {id(weight) for weight in [layer for layer in models[0].layers if layer.weights][1].weights}
    for theirs, ours, weight in zip(models[0].weights, models[1].weights, found.weights, strict=True):
        assert content(weight) == content(theirs if id(theirs) in grafted else ours)


def test_deep_models_are_numbered_in_model_order(keras: Any, tmp_path: Path) -> None:
    """So many layers that headers go into holes of the file: the model's order is told; also anew, if any is told."""
    layers = keras.layers
    sorts = [lambda: layers.Dense(3), lambda: layers.Dense(40), lambda: layers.BatchNormalization(),
             lambda: layers.LayerNormalization(), lambda: layers.ReLU()]  # fmt: skip
    for seed, count in ((1, 90), (2, 250)):
        keras.backend.clear_session()
        choose = np.random.default_rng(seed)
        model = keras.Sequential(
            [keras.Input((3,)), *(sorts[choose.integers(len(sorts))]() for _ in range(count)), layers.Dense(1)]
        )
        path, out = saved(model, tmp_path / f"{seed}.weights.h5"), str(tmp_path / f"{seed}-out.weights.h5")
        changing.cast(path, "float16", match=["layers/dense/vars/0"], out=out)
        expected = [layer.name for layer in model.layers if layer.weights]
        for each in (path, out):
            with formats.open(each) as file:
                table = file.layer_tables().get(keras_layers.BY_PLACE, {})
                names = {number: (file.full_name(name) or "").partition("/")[0] for name, number in table.items()}
            assert [names[number] for number in sorted(names)] == expected


def test_attributes_with_numbers_count_as_people_do(keras: Any, tmp_path: Path) -> None:
    """The layers of a model of its own class: block_2 comes before block_10."""

    class Steps(keras.Model):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            for number in range(12):
                setattr(self, f"block_{number}", keras.layers.Dense(2, name=f"number{number}"))

        def call(self, x: Any) -> Any:
            for number in range(12):
                x = getattr(self, f"block_{number}")(x)
            return x

    model = Steps()
    model(np.zeros((1, 2), np.float32))
    with formats.open(saved(model, tmp_path / "m.weights.h5")) as file:
        [table] = file.layer_tables().values()
        assert {number: file.full_name(name) for name, number in table.items() if name.endswith("0")} == {
            number: f"number{number}/vars/0" for number in range(12)
        }
