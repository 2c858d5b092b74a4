"""Keras is the oracle: whatever we write of its files, it loads, weight by weight; today's Keras and the one before."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptsurgeon import formats
from ckptsurgeon.errors import RefusedError
from ckptsurgeon.formats.keras import layers as keras_layers
from ckptsurgeon.verbs import changing

pytestmark = pytest.mark.tensorflow

KINDS = ("dense", "lstm", "gru", "bidirectional", "attention", "normalization", "nested", "subclassed", "bfloat16")
ENDINGS = (".keras", ".weights.h5", ".h5")
# What Keras itself can save: legacy files no models of own classes, and no bfloat16 that it could read.
SAVED = [(kind, ending) for kind in KINDS for ending in ENDINGS
         if ending != ".h5" or kind not in ("subclassed", "bfloat16")]  # fmt: skip
SAVED_BY_2 = [(kind, ending) for kind in KINDS for ending in (".h5", ".weights-only.h5", ".weights.h5", ".keras")
              if kind != "bfloat16" and (kind != "subclassed" or "weights" in ending)]  # fmt: skip


def made(keras: Any, kind: str, seed: int) -> Any:
    """A model, its weights and the variables of its optimizer filled with numbers; the same model each time."""
    model = built(keras, kind, seed)
    values = np.random.default_rng(seed)
    variables = model.optimizer.variables
    for variable in [*model.weights, *(variables() if callable(variables) else variables)]:
        if len(variable.shape):
            variable.assign(values.standard_normal(variable.shape).astype(np.float32))
    return model


@functools.cache  # building is what takes long
def built(keras: Any, kind: str, copy: int) -> Any:
    """A compiled model; all copies have equal names."""
    keras.backend.clear_session()
    layers = keras.layers
    if kind == "subclassed":
        model = subclass(keras)()
    else:
        x = start = keras.Input((5, 8))
        for layer in {
            "dense": lambda: [layers.Dense(4), layers.Dropout(0.1), layers.Dense(3, use_bias=False)],
            "lstm": lambda: [layers.LSTM(4)],
            "gru": lambda: [layers.GRU(3)],
            "bidirectional": lambda: [layers.Bidirectional(layers.LSTM(3))],
            "attention": lambda: [layers.Dense(8)],
            "normalization": lambda: [layers.BatchNormalization(), layers.LayerNormalization()],
            "nested": lambda: [keras.Sequential([keras.Input((5, 8)), layers.Dense(3), layers.BatchNormalization()])],
            "bfloat16": lambda: [layers.Dense(4, dtype="bfloat16"), layers.Dense(3, dtype="float16")],
        }[kind]():
            x = layer(x)
        if kind == "attention":
            x = layers.MultiHeadAttention(2, 4)(x, x)
        model = keras.Model(start, layers.Dense(1)(x))
    model(np.random.default_rng(copy).random((4, 5, 8)).astype(np.float32))
    model.compile("adam", loss=keras.losses.MeanSquaredError())
    model.optimizer.build(model.trainable_variables)
    return model


_classes: dict[str, Any] = {}


def subclass(keras: Any) -> Any:
    """A model that is a class of its own, with layers in attributes and in a list."""
    if keras.__name__ not in _classes:

        class Own(keras.Model):  # type: ignore[misc]
            def __init__(self, **more: Any) -> None:
                super().__init__(**more)
                self.last = keras.layers.Dense(1)
                self.blocks = [keras.layers.Dense(4), keras.layers.LSTM(3, return_sequences=True)]
                self.attention = keras.layers.MultiHeadAttention(2, 2)

            def call(self, x: Any) -> Any:
                for block in self.blocks:
                    x = block(x)
                return self.last(self.attention(x, x))

        _classes[keras.__name__] = Own
    return _classes[keras.__name__]


def saved(model: Any, path: Path) -> str:
    """Where a model was saved, as the ending says."""
    if path.name.endswith(".weights.h5") or "weights-only" in path.name:
        model.save_weights(str(path))
    else:
        model.save(str(path))
    return str(path)


def loaded(keras: Any, path: str, kind: str, seed: int = 99) -> Any:
    """The model that a file holds: whole, or its weights in the model of a seed."""
    if path.endswith(".weights.h5") or "weights-only" in path:
        model = made(keras, kind, seed)
        model.load_weights(path)
        return model
    known = {"Own": subclass(keras)}
    return (keras.saving if hasattr(keras, "saving") else keras.models).load_model(path, custom_objects=known)


def assert_same(found: Any, expected: Any, optimizer: bool = True) -> None:
    """All weights of two models are the same, and all variables of their optimizers."""
    pairs = list(zip(found.weights, expected.weights, strict=True))
    if optimizer:
        variables = [model.optimizer.variables for model in (found, expected)]
        variables = [each() if callable(each) else each for each in variables]
        pairs += list(zip(*variables, strict=True))
    for one, other in pairs:
        ours, theirs = np.asarray(one), np.asarray(other)
        assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


def anew(path: str, out: str) -> None:
    """Write a file anew, twice, by names that change and change back."""
    with formats.open(path) as file:
        name = list(file)[-1] if "optimizer" not in list(file)[-1] else next(iter(file))
    ending = "".join(Path(out).suffixes)
    changing.rename(path, [f"{name}={name}_"], out=f"{out}.between{ending}", anyway=True)
    changing.rename(f"{out}.between{ending}", [f"{name}_={name}"], out=out, anyway=True)


@pytest.mark.parametrize(("kind", "ending"), SAVED)
def test_what_is_written_anew_is_loaded(keras: Any, tmp_path: Path, kind: str, ending: str) -> None:
    """After all of a file was written anew, every weight and the optimizer are as they were, in the same layers."""
    model = made(keras, kind, 1)
    path = saved(model, tmp_path / f"m{ending}")
    out = str(tmp_path / f"out{ending}")
    anew(path, out)
    found = loaded(keras, out, kind)
    assert_same(found, model, optimizer=False)
    assert_same(found, loaded(keras, path, kind, seed=98))
    with formats.open(path) as before, formats.open(out) as after:
        assert before.layer_tables() == after.layer_tables() != {}
        assert list(before) == list(after)


@pytest.mark.parametrize(("kind", "ending"), SAVED)
def test_values_are_set_in_place(keras: Any, tmp_path: Path, kind: str, ending: str) -> None:
    """One weight set, the others stay; and a file of another length it is not."""
    model = made(keras, kind, 1)
    path = saved(model, tmp_path / f"m{ending}")
    size = Path(path).stat().st_size
    with formats.open(path) as file:
        [table] = file.layer_tables().values()
        name = next(name for name in table)
    changing.set(path, name, 0.5)
    assert Path(path).stat().st_size == size
    found = loaded(keras, path, kind)
    changed = [one.path for one, other in zip(found.weights, model.weights, strict=True)
               if np.asarray(one).tobytes() != np.asarray(other).tobytes()]  # fmt: skip
    assert len(changed) == 1
    for weight in found.weights:
        assert weight.path not in changed or (np.asarray(weight, np.float32) == 0.5).all()


def same(one: Any, other: Any) -> bool:
    """Whether two weights hold the same values."""
    return np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.parametrize("ending", [".keras", ".weights.h5", ".h5"])
def test_a_model_without_its_optimizer(keras: Any, tmp_path: Path, ending: str) -> None:
    """`drop --slots` makes a smaller file, of which Keras loads the weights."""
    model = made(keras, "nested", 1)
    path = saved(model, tmp_path / f"m{ending}")
    size = Path(path).stat().st_size
    changing.drop(path, slots=True)
    assert Path(path).stat().st_size < size
    assert_same(loaded(keras, path, "nested"), model, optimizer=False)


def test_layers_stand_in_model_order(keras: Any, tmp_path: Path) -> None:
    """The numbers of layers are the model's order, in any mixture of sizes, and stay so when a file is written anew."""
    layers = keras.layers
    choose = random.Random(1)
    for turn in range(12):
        made = [keras.Input((choose.choice([3, 50, 300]),))]
        for _ in range(choose.randint(2, 30)):
            units = choose.choice([1, 3, 32, 300])
            made.append(choose.choice([layers.Dense(units, use_bias=choose.random() < 0.5),
                                       layers.BatchNormalization(), layers.Dropout(0.5)]))  # fmt: skip
        made.append(layers.Dense(1, use_bias=False))
        model = keras.Sequential(made)
        expected = [layer.name for layer in model.layers if layer.weights]
        path, out = str(tmp_path / f"{turn}.weights.h5"), str(tmp_path / f"{turn}-out.weights.h5")
        model.save_weights(path)
        changing.cast(path, "float16", layers="0", out=out)
        model.save(str(tmp_path / f"{turn}.keras"))
        for each, scheme in ((path, keras_layers.BY_PLACE), (out, keras_layers.BY_PLACE),
                             (str(tmp_path / f"{turn}.keras"), keras_layers.BY_CONFIG)):  # fmt: skip
            with formats.open(each) as file:
                table = file.layer_tables()[scheme]
                names = {number: (file.full_name(name) or "").partition("/")[0] for name, number in table.items()}
            assert [names[number] for number in sorted(names)] == expected


def test_slots_are_told_by_names_and_by_order(keras: Any, tmp_path: Path) -> None:
    """A legacy file names whose slot is whose; of a plain list of layers the order tells it."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    for ending in ENDINGS:
        with formats.open(saved(model, tmp_path / f"m{ending}")) as file:
            owners = file.slot_owners()
            assert len(owners) == 8
            for slot, owner in owners.items():
                assert file[slot].shape == file[owner].shape
            [table] = file.layer_tables().values()
            assert set(table) == set(owners.values())


def test_a_sharded_set(keras: Any, tmp_path: Path) -> None:
    """A set of files is one checkpoint; one of them is replaced in place, more are not; as a new file it is one."""
    model = keras.Sequential([keras.Input((64,)), *(keras.layers.Dense(64) for _ in range(4))])
    index = str(tmp_path / "m.weights.json")
    model.save_weights(index, max_shard_size=0.00002)
    files = sorted(tmp_path.glob("*.weights.h5"))
    assert len(files) > 2
    with formats.open(index) as file:
        assert file.shards == len(files)
        assert len(file) == 8
        assert sorted(set(file.layer_tables()[keras_layers.BY_PLACE].values())) == [0, 1, 2, 3]
    changing.set(index, "layers/dense_2/vars/1[3]", 7)
    with pytest.raises(RefusedError, match="use -o"):
        changing.rename(index, ["layers/dense/vars/0=layers/dense/vars/9"], anyway=True)
    maps = ["layers/dense/=layers/dense_1/", "layers/dense_2/=layers/dense_3/"]
    with pytest.raises(RefusedError, match="files of a set cannot be replaced in place; use -o"):
        changing.graft(index, index, maps=maps)
    fresh = keras.models.clone_model(model)
    fresh.load_weights(index)
    assert fresh.layers[2].bias[3] == 7
    out = str(tmp_path / "x.weights.h5")
    changing.rename(index, ["layers/dense_3/vars/1=layers/dense_3/vars/x"], out=out, anyway=True)
    changing.rename(out, ["layers/dense_3/vars/x=layers/dense_3/vars/1"], anyway=True)
    again = keras.models.clone_model(model)
    again.load_weights(out)
    assert_same(again, fresh, optimizer=False)


@pytest.mark.parametrize("mode", ["int8", "lora"])
def test_other_layouts(keras: Any, tmp_path: Path, mode: str) -> None:
    """Quantized layers and adapted ones go through a file written anew."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(4)])
    if mode == "int8":
        model.quantize("int8")
    else:
        model.layers[0].enable_lora(2)
    path, out = saved(model, tmp_path / "m.keras"), str(tmp_path / "out.keras")
    anew(path, out)
    for one, other in zip(keras.saving.load_model(out).weights, keras.saving.load_model(path).weights, strict=True):
        assert same(one, other)


@pytest.mark.parametrize(("kind", "ending"), SAVED_BY_2)
def test_files_of_keras_2(old: Any, tmp_path: Path, kind: str, ending: str) -> None:
    """Keras 2 loads what was written anew of its files, in all its formats."""
    model = made(old, kind, 1)
    path = saved(model, tmp_path / f"m{ending}")
    out = str(tmp_path / f"out{ending}")
    anew(path, out)
    found = loaded(old, out, kind)
    assert_same(found, model, optimizer=False)
    assert_same(found, loaded(old, path, kind, seed=98), optimizer=ending in (".h5", ".keras"))


def test_lists_that_are_cut_into_several_attributes(old: Any, tmp_path: Path) -> None:
    """Names that fit into no single attribute: one changes, and Keras loads the result."""
    layers = [old.layers.Dense(1, name=f"{number:03}{'x' * 400}") for number in range(200)]
    model = old.Sequential([old.Input((1,)), *layers])
    path = str(tmp_path / "m.h5")
    model.save_weights(path)
    with formats.open(path) as file:
        assert "layer_names0" in file.listing.groups[0][""]  # type: ignore[attr-defined]
        name = next(name for name in file if name.startswith("007"))
    layer = name.partition("/")[0]
    changing.rename(path, [f"{layer}/=other/"], out=str(tmp_path / "out.h5"))
    with formats.open(str(tmp_path / "out.h5")) as file:
        table = file.layer_tables()[keras_layers.BY_NAMES]
        assert table[name.replace(layer, "other", 1)] == 7
        assert len(set(table.values())) == 200
    values = model.get_weights()
    model.set_weights([value + 1 for value in values])
    model.load_weights(str(tmp_path / "out.h5"))
    for one, other in zip(model.get_weights(), values, strict=True):
        assert same(one, other)


def test_json_of_a_config_is_data_alone(keras: Any, tmp_path: Path) -> None:
    """A config that names code which cannot even be imported tells the layers as any other."""
    import zipfile

    model = made(keras, "dense", 1)
    path = saved(model, tmp_path / "m.keras")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "x.keras", "w") as target:
        for member in source.infolist():
            data = source.read(member)
            if member.filename == "config.json":
                config = json.loads(data)
                config["module"], config["class_name"] = "no.such.module", "Nothing"
                data = json.dumps(config).encode()
            target.writestr(member, data)
    with formats.open(str(tmp_path / "x.keras")) as file:
        assert list(file.layer_tables()) == [keras_layers.BY_CONFIG]
