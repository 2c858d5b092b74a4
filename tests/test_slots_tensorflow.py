"""Whose slots are whose, compared with what TensorFlow 1, Keras 3 and tf_keras themselves say of each optimizer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptsurgeon import formats, schemes
from ckptsurgeon.checkpoint import Checkpoint
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.verbs import changing

pytestmark = pytest.mark.tensorflow

# Of each optimizer: in which scope it is applied, and whether under a name of the user's own and onto partitions.
PLACES = [("", False, False), ("training", True, False), ("net", False, True), ("", True, True), ("s", True, True),
          ("a/long/scope/of/its/own", False, True), ("a/scope", True, False)]  # fmt: skip


def of_tensorflow_1(train: Any, step: Any) -> dict[str, Any]:
    """All optimizers of TensorFlow 1 that keep slots: name -> how one with any name is made."""
    return {
        "Momentum": lambda name: train.MomentumOptimizer(0.1, 0.9, name=name),
        "Adagrad": lambda name: train.AdagradOptimizer(0.1, name=name),
        "ProximalAdagrad": lambda name: train.ProximalAdagradOptimizer(0.1, name=name),
        "AdagradDA": lambda name: train.AdagradDAOptimizer(0.1, step, name=name),
        "Adam": lambda name: train.AdamOptimizer(0.1, name=name),
        "RMSProp": lambda name: train.RMSPropOptimizer(0.1, momentum=0.9, centered=True, name=name),
        "Adadelta": lambda name: train.AdadeltaOptimizer(0.1, name=name),
        "Ftrl": lambda name: train.FtrlOptimizer(0.1, name=name),
    }


def stored(variable: Any) -> str:
    """The name under which a Saver stores a variable of TensorFlow 1."""
    cut = variable._save_slice_info
    return str(cut.full_name if cut else variable.op.name)


def test_slots_of_tensorflow_1(tmp_path: Path) -> None:
    """Each optimizer's slots and averages are their variables', by any name, in any scope, also of partitions."""
    tf = pytest.importorskip("tensorflow")
    v1 = tf.compat.v1
    truths: list[tuple[str, dict[str, str], set[str]]] = []
    with tf.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(1)  # needed once skflow has asked for deterministic operations
        savers = []
        step = v1.train.get_or_create_global_step()
        for number, (kind, make) in enumerate(of_tensorflow_1(v1.train, step).items()):
            for at in (number, number + 3) if kind in ("Adam", "RMSProp") else (number,):
                scope, own_name, parts = PLACES[at % len(PLACES)]
                before = set(v1.global_variables())
                partitioner = v1.fixed_size_partitioner(2) if parts else None
                with v1.variable_scope(f"net{number}_{at}", partitioner=partitioner) as net:
                    v1.get_variable("layer/kernel", [4, 4])
                    v1.get_variable("layer/bias", [4])
                weights = [each for each in v1.trainable_variables() if each not in before]
                frozen = v1.get_variable(f"{net.name}/frozen", [4, 4], trainable=False)
                optimizer, average = make(f"own{at}" if own_name else kind), v1.train.ExponentialMovingAverage(0.9)
                with v1.variable_scope(f"{scope}{at}") if scope else contextlib.nullcontext():
                    average.apply(weights)
                    optimizer.apply_gradients((v1.zeros_like(each), each) for each in weights)
                truth = {stored(average.average(each)): stored(each) for each in weights}
                for each in weights:
                    slots = (optimizer.get_slot(each, name) for name in optimizer.get_slot_names())
                    truth.update((stored(slot), stored(each)) for slot in slots)
                path = str(tmp_path / f"{kind}-{at}")
                saver = v1.train.Saver([each for each in v1.global_variables() if each not in before])
                savers.append((saver, path))
                truths.append((path, truth, {stored(each) for each in [*weights, frozen]}))
        session.run(v1.global_variables_initializer())
        for saver, path in savers:
            saver.save(session, path, write_meta_graph=False)
    for path, truth, weights_ in truths:
        with formats.open(path) as file:
            assert schemes.slots(file) == truth, path
            assert not schemes.candidates(file)
            assert file.keys() - schemes.optimizer_variables(file) == weights_, path


# -- Keras


def made(which: Any) -> Any:
    """A model with an embedding, matrices of one shape, and a frozen layer."""
    layers = which.layers
    model = which.Sequential(
        [which.Input((3,)), layers.Embedding(4, 4, name="words"), layers.Dense(4, name="a"),
         layers.Dense(4, name="frozen"), layers.Dense(4, name="b", use_bias=False), layers.Dense(2, name="head")]
    )  # fmt: skip
    model.get_layer("frozen").trainable = False
    return model


def of_keras_3(keras: Any) -> dict[str, Any]:
    """All optimizers of Keras 3, with their options; averages, accumulated gradients, and names of a user's own."""
    kinds = keras.optimizers
    found: dict[str, Any] = {
        name: getattr(kinds, name)
        for name in ("Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Ftrl", "Lamb", "Lion", "Muon",
                     "Nadam", "RMSprop", "ScheduleFreeAdamW", "SGD")
        if hasattr(kinds, name)
    }  # fmt: skip
    cases = {name: lambda make=make, **more: make(0.1, **more) for name, make in found.items()}
    cases["Adam, amsgrad"] = lambda **more: kinds.Adam(0.1, amsgrad=True, **more)
    cases["SGD, momentum"] = lambda **more: kinds.SGD(0.1, momentum=0.9, **more)
    cases["RMSprop, all"] = lambda **more: kinds.RMSprop(0.1, momentum=0.9, centered=True, **more)
    cases["RMSprop, centered"] = lambda **more: kinds.RMSprop(0.1, centered=True, **more)
    cases["LossScale"] = lambda **more: kinds.LossScaleOptimizer(kinds.Adam(0.1, **more))
    schedule = kinds.schedules.ExponentialDecay(0.1, 10, 0.9)
    cases["a schedule"] = lambda **more: kinds.SGD(schedule, momentum=0.9, **more)
    return cases


OPTIONS: dict[str, dict[str, Any]] = {
    "": {}, "averages": {"use_ema": True},
    "both": {"use_ema": True, "gradient_accumulation_steps": 2, "name": "mine"},
}  # fmt: skip
FEW = ("Adafactor", "Muon", "Nadam", "Adam, amsgrad", "RMSprop, all", "SGD", "LossScale")  # tried with other options


def content(values: Any) -> bytes:
    """What a variable holds, unlike any other's."""
    return np.asarray(values).tobytes()


def owners_by_keras(model: Any) -> dict[bytes, tuple[bytes, str]]:
    """What Keras's optimizer says of its slots: content -> its weight's content, and the kind."""
    values = np.random.default_rng(5)
    own = model.optimizer.variables
    own = own() if callable(own) else own
    for variable in [*model.weights, *own]:
        if len(variable.shape):
            variable.assign(values.standard_normal(tuple(variable.shape)).astype(np.float32))
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    known = {content(each) for each in own if len(each.shape)}
    found = {}
    for each in vars(optimizer).values():
        if isinstance(each, list) and len(each) == len(model.trainable_variables):
            for slot, weight in zip(each, model.trainable_variables, strict=True):
                if slot is not None and content(slot) in known and slot is not weight:
                    path = getattr(slot, "path", None) or slot.name
                    found[content(slot)] = content(weight), path.rpartition("/")[2]
    assert len(found) == len(known)
    return found


def claims(file: Checkpoint, owners: dict[str, str]) -> dict[bytes, bytes]:
    """The slots of a checkpoint, by content."""
    return {content(file.read(slot)): content(file.read(owner)) for slot, owner in owners.items()}


@pytest.mark.parametrize("options", OPTIONS)
def test_numbered_slots_of_keras_3(keras: Any, tmp_path: Path, options: str) -> None:
    """A .keras file tells all slots of each optimizer, and their kinds; without its config nothing is told wrongly."""
    told_by_shapes = 0
    cases = of_keras_3(keras)
    for name in FEW if options else cases:
        make = cases[name]
        keras.backend.clear_session()
        model = made(keras)
        model.compile(make(**OPTIONS[options]))
        model.optimizer.build(model.trainable_variables)
        if not any(len(each.shape) for each in model.optimizer.variables):
            continue  # plain SGD
        truth = owners_by_keras(model)
        model.save(str(tmp_path / "m.keras"))
        model.save_weights(str(tmp_path / "m.weights.h5"))
        expected = {slot: weight for slot, (weight, _) in truth.items()}
        with formats.open(str(tmp_path / "m.keras")) as file:
            assert claims(file, file.slot_owners()) == expected, name
            assert not file.vague_slots()
            for slot in file.slot_owners():
                kind = truth[content(file.read(slot))][1]
                if kind not in ("embeddings", "kernel", "bias"):  # which Keras calls Adafactor's means
                    told = (file.full_name(slot) or "").rpartition("/")[2]
                    ends = [told[at + 1 :] for at, letter in enumerate(told) if letter == "_"]
                    assert any(kind.endswith(f"_{end}") for end in ends), (name, kind, told)
        with formats.open(str(tmp_path / "m.weights.h5")) as file:
            found = claims(file, file.slot_owners())
            assert found.items() <= expected.items(), name
            told_by_shapes += len(found)
    assert told_by_shapes


def test_kinds_that_nothing_tells_are_not_mixed(keras: Any, tmp_path: Path) -> None:
    """Of SGD without its config, momentum and averages look alike: they are filled, but not copied onto each other."""
    paths = []
    for name, more in (("a", {"momentum": 0.9}), ("b", {"use_ema": True})):
        keras.backend.clear_session()
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(0.1, **more))
        model.optimizer.build(model.trainable_variables)
        paths.append(str(tmp_path / f"{name}.weights.h5"))
        model.save_weights(paths[-1])
    with pytest.raises(CkptSurgeonError, match="cannot tell what slots hold"):
        changing.graft(*paths, layers="0", slots="copy")
    filled = changing.graft(*paths, layers="0", slots="fill=2").changed
    assert [row["name"] for row in filled if row["action"] == "filled"] == ["optimizer/vars/2", "optimizer/vars/3"]


@pytest.mark.parametrize("which", ["keras", "tf_keras", "legacy"])
def test_slots_in_object_graphs(request: Any, tmp_path: Path, which: str) -> None:
    """tf.train.Checkpoint: each slot is its weight's, or is refused; none is another's, none is left as a weight."""
    tf = pytest.importorskip("tensorflow")
    module = request.getfixturevalue("keras" if which == "keras" else "old")
    if which == "keras":
        cases, options = of_keras_3(module), OPTIONS["both"]
        cases = {name: cases[name] for name in FEW}
    else:
        kinds = module.optimizers if which == "tf_keras" else module.optimizers.legacy
        names = ("Adam", "Adamax", "Nadam", "Adagrad", "Adadelta", "Ftrl", "SGD", "RMSprop", "Lion", "AdamW")
        options = {"name": "mine", **({"use_ema": True} if which == "tf_keras" else {})}
        own: dict[str, Any] = {"SGD": {"momentum": 0.9}, "RMSprop": {"momentum": 0.9, "centered": True},
                               "Adam": {"amsgrad": True}}  # fmt: skip
        cases = {name: lambda kind=name, **more: getattr(kinds, kind)(0.1, **own.get(kind, {}), **more)
                 for name in names if hasattr(kinds, name)}  # fmt: skip
    for name, make in cases.items():
        module.backend.clear_session()
        model = made(module)
        optimizer = make(**({} if name == "LossScale" else options))
        if which == "legacy":
            optimizer.apply_gradients((tf.zeros_like(each), each) for each in model.trainable_variables)
            known = [(optimizer.get_slot(each, slot), each) for slot in optimizer.get_slot_names()
                     for each in model.trainable_variables]  # fmt: skip
            values = np.random.default_rng(7)
            for variable in [*model.weights, *(slot for slot, _ in known)]:
                variable.assign(values.standard_normal(tuple(variable.shape)))
            expected = {content(slot): content(weight) for slot, weight in known}
        else:
            model.compile(optimizer)
            optimizer.build(model.trainable_variables)
            expected = (
                {slot: weight for slot, (weight, _) in owners_by_keras(model).items()} if which == "keras" else {}
            )
        path = tf.train.Checkpoint(model=model, optimizer=optimizer).save(str(tmp_path / "m"))
        with formats.open(path) as file:
            slots = schemes.slots(file)
            if which == "tf_keras":
                pairs = [(file.full_name(slot) or "", file.full_name(owner) or "?") for slot, owner in slots.items()]
                assert [pair for pair in pairs if not pair[0].endswith(f"/{pair[1]}")] == [], name
                expected = claims(file, slots)
                count = sum(1 for each in optimizer.variables if len(each.shape))
                assert len(slots) == count, name
            found = claims(file, slots)
            own_ = schemes.optimizer_variables(file)
            assert found.items() <= expected.items(), name
            weights = {content(each) for each in model.weights}
            [kernel] = (each for each in file if content(file.read(each)) == content(model.get_layer("a").kernel)
                        and each not in own_)  # fmt: skip
            assert all(content(file.read(each)) in weights for each in file if file[each].shape and each not in own_)
            if found != expected:
                assert name in ("Muon", "Adafactor"), name  # which list no slots of theirs
        if name in ("Muon", "Adafactor"):
            with pytest.raises(CkptSurgeonError, match="cannot tell which of the optimizer's variables are slots"):
                changing.graft(path, path, maps=[f"{kernel}={kernel}"], slots="fill=0")
