"""Real models, every operation on each, and what their own frameworks make of the results.

An operation may be refused; what it writes must load, with the right values. `tests/test_loads_tensorflow.py` runs a
short form, `scripts/torture loads` prints the table.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from ckptsurgeon import cli, formats, schemes

Arrays = list[NDArray[Any]]
Names = list[str | None]  # of each weight in the result; None if it is gone
LOADED, REFUSED = "loaded", "refused"


class Model:
    """A model that its framework has saved, twice with different weights.

    Args:
        folder: where it is saved.
        file: the name under which it is saved; results get names with the same ending.
        save: saves it: path, and the number of its weights' seed.
        load: loads a result: path, and the names of its weights; returns those that are there, in the same order.
        layer: from the name of a weight to the prefix of its layer's names.
    """

    def __init__(
        self,
        folder: Path,
        file: str,
        save: Callable[[str, int], None],
        load: Callable[[str, Names], Arrays],
        layer: Callable[[str], str],
    ) -> None:
        self.folder, self.load = folder, load
        self.ending = file[file.index(".") :] if "." in file else ""
        folder.mkdir()
        self.path, self.donor = str(folder / file), str(folder / f"donor{self.ending}")
        for seed, path in enumerate((self.path, self.donor)):
            save(path, seed)
        with formats.open(self.path) as one, formats.open(self.donor) as other:
            slots = set(schemes.optimizer_variables(one)) | set(schemes.slots(one))
            self.has_slots = bool(slots)
            named = {name: one.read(name) for name in one if name not in slots and one[name].is_numeric}
            weights = self.load(self.path, list(named))
            self.names = [
                next(name for name, each in named.items() if each.shape == weight.shape and (each == weight).all())
                for weight in weights
            ]
            self.weights = [one.read(name) for name in self.names]
            self.others = [other.read(name) for name in self.names]
        self.layer = layer(self.names[0])

    def out(self, name: str) -> str:
        """The path of a result."""
        return str(self.folder / f"{name}{self.ending}")


Expected = tuple[list[str], Names, Arrays]  # arguments, names of the weights in the result, their values


def operations(model: Model) -> Iterator[tuple[str, Expected]]:
    """Every operation on a model: its name, and what it must give if it is not refused."""
    path, names, weights = model.path, model.names, model.weights
    first, layer = names[0], model.layer
    same: Names = list(names)
    above, slash, _ = layer[:-1].rpartition("/")
    renamed = f"{above}{slash}backbone{layer[-1]}"
    moved: Names = [renamed + name[len(layer) :] if name.startswith(layer) else name for name in names]
    inside = [name.startswith(layer) for name in names]
    half = [each.astype(np.float16).astype(each.dtype) if each.dtype == np.float32 else each for each in weights]
    mean = [
        ((one.astype(float) + other) / 2).astype(one.dtype) for one, other in zip(weights, model.others, strict=True)
    ]
    yield "set", (["set", path, first, "0.5"], same, [np.full_like(weights[0], 0.5), *weights[1:]])
    yield "rename a weight", (["rename", path, f"{first}={first}_x"], [f"{first}_x", *names[1:]], weights)
    how = f"{layer}={renamed}" if layer.endswith("/") else f"{layer}**={renamed}**"
    yield "rename a layer", (["rename", path, how], moved, weights)
    yield "drop a weight", (["drop", path, first], [None, *names[1:]], weights)
    gone: Names = [None if it_is else name for name, it_is in zip(names, inside, strict=True)]
    yield "drop a layer", (["drop", path, f"{layer}**"], gone, weights)
    if model.has_slots:
        yield "drop --slots", (["drop", path, "--slots"], same, weights)
    yield "cast float16", (["cast", path, "float16"], same, half)
    yield "cast bfloat16", (["cast", path, "bfloat16", "--match", first], same, [_bfloat16(weights[0]), *weights[1:]])
    yield "graft", (["graft", model.donor, path, "--match", f"{layer}**"], same, [
        other if it_is else one for one, other, it_is in zip(weights, model.others, inside, strict=True)
    ])  # fmt: skip
    yield "graft --slots drop", (["graft", model.donor, path, "--match", first, "--slots", "drop"], same, [
        model.others[0], *weights[1:]
    ])  # fmt: skip
    kept: Names = [name if it_is else None for name, it_is in zip(names, inside, strict=True)]
    yield "extract", (["extract", path, "--match", f"{layer}**"], kept, weights)
    yield "average", (["average", path, model.donor], same, mean)
    yield "compact", (["compact", path], same, weights)
    yield "cp", (["cp", path], same, weights)
    yield "convert", (["convert", path], same, weights)


def _bfloat16(values: NDArray[Any]) -> NDArray[Any]:
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16).astype(values.dtype)


def attempt(model: Model, name: str, expected: Expected, strict: bool = True) -> str:
    """Carry an operation out and load the result.

    Args:
        model: a model.
        name: of the operation.
        expected: its arguments and result.
        strict: whether what was refused is done with --anyway, to see that the framework refuses it too.

    Returns:
        LOADED, REFUSED, or a sentence that says what is wrong.
    """
    arguments, names, values = expected
    out = model.out(name.replace(" ", "-"))
    status, said = run(arguments, out)
    if status == 2:
        if len(said) != 1 or Path(out).exists():
            return f"refused with {said}"
        if "--anyway" not in said[0] or not strict:
            return REFUSED
        status, said = run([*arguments, "--anyway"], out)
        if status or not any(line.startswith("ckptsurgeon: warning: ") for line in said):
            return f"--anyway ends with {status} and {said}"
        return REFUSED if problem(model, out, names, values) else "refused, though it loads"
    if status:
        return f"exit status {status}: {said}"
    return problem(model, out, names, values) or LOADED


def run(arguments: list[str], out: str | None = None) -> tuple[int, list[str]]:
    """Run a verb in this process; its exit status, and what it wrote to stderr."""
    where = [] if out is None else [out] if arguments[0] in ("cp", "convert") else ["-o", out]
    quiet = mock.patch("os.fsync")  # a busy disk would take minutes, and no power cut is looked at here
    with quiet, contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        status = cli.main([*arguments, *where])
    return status, errors.getvalue().splitlines()


def problem(model: Model, out: str, names: Names, values: Arrays) -> str | None:
    """Load a result; what is wrong with it, or None."""
    try:
        found = model.load(out, names)
    except Exception as error:  # whatever the framework says
        return f"{type(error).__name__}: {str(error)[:300]}"
    left = [value for name, value in zip(names, values, strict=True) if name is not None]
    if len(found) != len(left):
        return f"{len(found)} weights are loaded, not {len(left)}"
    for number, (one, other) in enumerate(zip(found, left, strict=True)):
        if one.shape != other.shape or not (one.astype(other.dtype) == other).all():
            return f"weight {number} is loaded with other values"
    return None


# -- the models


def values_of(weights: Sequence[Any]) -> Arrays:
    """The values of a framework's variables."""
    return [np.asarray(each) for each in weights]


def fill(variables: Sequence[Any], seed: int) -> None:
    """Give variables random values that are no powers of two, so that a cast changes them."""
    chance = np.random.default_rng(seed)
    for each in variables:
        if each.shape:
            each.assign(chance.random(each.shape).astype("float32"))


def keras_model(keras: Any, kind: str, seed: int) -> Any:
    """A small compiled model with an optimizer that has slots."""
    keras.backend.clear_session()
    layers = keras.layers
    start = keras.Input((3,))
    if kind == "nested":
        inner = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.BatchNormalization()], name="inner")
        model = keras.Model(start, layers.Dense(1)(inner(start)))
    else:
        model = keras.Sequential([start, layers.Dense(4), layers.Dense(2)])
    model.compile(keras.optimizers.Adam(), loss=keras.losses.MeanSquaredError())
    model.optimizer.build(model.trainable_variables)
    fill(model.weights, seed)
    return model


def keras_file(keras: Any, folder: Path, file: str, kind: str = "dense") -> Model:
    """A model in one of Keras's files: of the whole, or of its weights if `file` says so."""
    is_weights = "weights" in file
    empty: list[Any] = []  # the model into which weights are loaded, once it is made

    def save(path: str, seed: int) -> None:
        model = keras_model(keras, kind, seed)
        model.save_weights(path) if is_weights else model.save(path)

    def load(path: str, names: Names) -> Arrays:
        if not is_weights:
            return values_of(keras.models.load_model(path).weights)
        model = empty[0] if empty else keras_model(keras, kind, 99)
        empty[:] = [model]
        fill(model.weights, 99)
        if None not in names:
            model.load_weights(path)
            return values_of(model.weights)
        by_name = {} if path.endswith(".weights.h5") else {"by_name": True}
        model.load_weights(path, **by_name)
        found = values_of(model.weights)
        return [each for each, name in zip(found, names, strict=True) if name is not None]

    def layer(name: str) -> str:
        at = name.find("/vars/")
        return name[: at + 1] if at >= 0 else name[: name.index("/", len("model_weights/")) + 1] if (
            name.startswith("model_weights/")) else name[: name.index("/") + 1]  # fmt: skip

    return Model(folder, file, save, load, layer)


def own_layer(name: str) -> str:
    """The prefix of all names that share the first component, or the parent."""
    return name.rpartition("/")[0] + "/"


def keras_saved_model(keras: Any, folder: Path, export: bool) -> Model:
    """A model as a SavedModel: whole, with its optimizer, or exported to serve."""
    import tensorflow as tf

    exported = [f"_all_variables/{number}" for number in range(4)]

    def save(path: str, seed: int) -> None:
        model = keras_model(keras, "dense", seed)
        if not export:
            model.save(path, save_format="tf")
        elif seed == 0:
            model.export(path, verbose=False)
        else:  # Keras numbers the variables differently each time
            shutil.copytree(folder / "model", path)
            with formats.open(path) as file:
                names = [name for name in file if file[name].is_numeric]
            for number, name in enumerate(names):
                assert run(["set", path, name, str(number + 0.3)]) == (0, [])

    def load(path: str, names: Names) -> Arrays:
        if not Path(path).is_dir():
            return restored(path, names)
        serve(path)
        if not export:
            return values_of(keras.models.load_model(path).weights)
        listed = tf.saved_model.load(path)._all_variables
        return values_of([listed[int(name.rpartition("/")[2])] for name in names if name and name in exported])

    return Model(folder, "model", save, load, own_layer)


def serve(path: str) -> None:
    """Load a SavedModel as TensorFlow Serving does, which restores by name."""
    import tensorflow as tf

    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.compat.v1.saved_model.load(session, ["serve"], path)


def module_saved_model(folder: Path) -> Model:
    """A tf.Module with a variable of its own optimizer."""
    import tensorflow as tf

    class Dense(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.bias = tf.Variable(tf.zeros((3, 2))), tf.Variable(tf.zeros(2))

    class Net(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense, self.optimizer = Dense(), tf.Module()
            self.optimizer.momentum = tf.Variable(tf.ones((3, 2)))
            self.all = [self.dense.kernel, self.dense.bias]

    def save(path: str, seed: int) -> None:
        net = Net()
        fill(net.all, seed)
        tf.saved_model.save(net, path)

    def load(path: str, names: Names) -> Arrays:
        if not Path(path).is_dir():
            return restored(path, names)
        serve(path)
        return values_of(tf.saved_model.load(path).all)

    return Model(folder, "model", save, load, own_layer)


def variables_1(names: Sequence[str], shapes: Sequence[Any], dtypes: Sequence[Any]) -> list[Any]:
    """Variables of TensorFlow 1 in the current graph."""
    import tensorflow as tf

    return [
        tf.compat.v1.get_variable(name, shape, dtype, tf.compat.v1.zeros_initializer())
        for name, shape, dtype in zip(names, shapes, dtypes, strict=True)
    ]


_NAMES_1 = ("dense/kernel", "dense/bias", "head/kernel")
_SHAPES_1 = ((3, 4), (4,), (4, 2))


def build_1(seed: int) -> Any:
    """A graph of TensorFlow 1 with slots of Adagrad; a session in which its variables are filled."""
    import tensorflow as tf

    weights = variables_1(_NAMES_1, _SHAPES_1, [tf.float32] * 3)
    loss = tf.add_n([tf.reduce_sum(each) for each in weights])
    tf.compat.v1.train.AdagradOptimizer(0.1).minimize(loss, tf.compat.v1.train.get_or_create_global_step())
    session = tf.compat.v1.Session()
    session.run(tf.compat.v1.global_variables_initializer())
    chance = np.random.default_rng(seed)
    session.run([tf.compat.v1.assign(each, chance.random(each.shape)) for each in weights])
    return session


def saved_model_1(folder: Path) -> Model:
    """A SavedModel of TensorFlow 1, which restores by name."""
    import tensorflow as tf

    def save(path: str, seed: int) -> None:
        with tf.Graph().as_default(), build_1(seed) as session:
            x = tf.compat.v1.placeholder(tf.float32, (None, 3))
            tf.compat.v1.saved_model.simple_save(session, path, {"x": x}, {"y": x})

    def load(path: str, names: Names) -> Arrays:
        if not Path(path).is_dir():
            return restored_1(path, names)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.compat.v1.saved_model.load(session, ["serve"], path)
            reads = [f"{name}/Read/ReadVariableOp:0" for name in _NAMES_1]
            return [np.asarray(each) for each in session.run(reads)]

    return Model(folder, "model", save, load, own_layer)


def saver_1(folder: Path, version: int) -> Model:
    """A checkpoint of TensorFlow 1's Saver; the program that restores it is written for the names in the result."""
    import tensorflow as tf

    def save(path: str, seed: int) -> None:
        with tf.Graph().as_default(), build_1(seed) as session:
            saver = tf.compat.v1.train.Saver(write_version=version)
            saver.save(session, path, write_meta_graph=False, write_state=False)

    return Model(folder, "model.ckpt", save, restored_1, own_layer)


def restored_1(path: str, names: Names) -> Arrays:
    """Restore a checkpoint into a graph of TensorFlow 1 that has variables of these names."""
    import tensorflow as tf

    left = [name for name in names if name is not None]
    reader = tf.train.load_checkpoint(path)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        weights = variables_1(left, [shapes[name] for name in left], [dtypes[name] for name in left])
        tf.compat.v1.train.Saver(weights).restore(session, path)
        return [np.asarray(each) for each in session.run(weights)]


def object_based(folder: Path, keras: Any) -> Model:
    """An object-based checkpoint of a Keras model and its optimizer; its program has objects for the names in it."""
    import tensorflow as tf

    def save(path: str, seed: int) -> None:
        model = keras_model(keras, "dense", seed)
        tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(path)

    return Model(folder, "ckpt", save, restored, own_layer)


def restored(path: str, names: Names) -> Arrays:
    """Restore an object-based checkpoint into objects that have these names."""
    import tensorflow as tf

    left = [name for name in names if name is not None]
    reader = tf.train.load_checkpoint(path)
    tree: dict[str, Any] = {}
    weights = []
    for name in left:
        value = reader.get_tensor(f"{name}/.ATTRIBUTES/VARIABLE_VALUE")
        weights.append(tf.Variable(np.zeros_like(value)))
        *above, last = name.split("/")
        node = tree
        for part in above:
            node = node.setdefault(part, {})
        node[last] = weights[-1]
    tf.train.Checkpoint(**_objects(tree)).read(path).assert_existing_objects_matched()
    return values_of(weights)


def _objects(tree: dict[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    return {
        name: tf.train.Checkpoint(**_objects(each)) if isinstance(each, dict) else each for name, each in tree.items()
    }


def hugging_face(folder: Path) -> Model:
    """A model as Hugging Face's libraries save it, with its config; they need the key `format` in the metadata."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    shapes = {"encoder.layer.0.weight": (4, 3), "encoder.layer.0.bias": (4,), "classifier.weight": (2, 4)}

    def save(path: str, seed: int) -> None:
        chance = np.random.default_rng(seed)
        arrays = {name: chance.random(shape).astype(np.float32) for name, shape in shapes.items()}
        save_file(arrays, path, {"format": "pt"})
        config = {"architectures": ["BertModel"], "model_type": "bert", "torch_dtype": "float32"}
        Path(path).with_name("config.json").write_text(json.dumps(config))

    def load(path: str, names: Names) -> Arrays:
        with safe_open(path, "np") as file:
            if (file.metadata() or {}).get("format") != "pt":
                raise ValueError("transformers needs to know the format of the tensors")
            left = [name for name in names if name is not None]
            if set(file.keys()) != set(left):
                raise ValueError(f"{sorted(file.keys())} are not {sorted(left)}")
            return [np.asarray(file.get_tensor(name)) for name in left]

    return Model(folder, "model.safetensors", save, load, lambda name: "encoder.")


def models(folder: Path, chosen: Sequence[str] = ()) -> Iterator[tuple[str, Model]]:
    """Build the models, one after another, or those chosen by parts of their names: the name, and the model."""
    import keras
    import tf_keras

    made: dict[str, Callable[[Path], Model]] = {
        "Keras 3 .keras": lambda path: keras_file(keras, path, "model.keras"),
        "Keras 3 .keras, nested": lambda path: keras_file(keras, path, "model.keras", "nested"),
        "Keras 3 .weights.h5": lambda path: keras_file(keras, path, "model.weights.h5"),
        "Keras 3 legacy .h5": lambda path: keras_file(keras, path, "model.h5"),
        "tf_keras .keras": lambda path: keras_file(tf_keras, path, "model.keras"),
        "tf_keras .weights.h5": lambda path: keras_file(tf_keras, path, "model.weights.h5"),
        "tf_keras legacy .h5": lambda path: keras_file(tf_keras, path, "model.h5", "nested"),
        "tf_keras legacy .h5, weights": lambda path: keras_file(tf_keras, path, "weights.only.h5"),
        "SavedModel of a tf.Module": module_saved_model,
        "SavedModel of tf_keras": lambda path: keras_saved_model(tf_keras, path, False),
        "SavedModel exported by Keras 3": lambda path: keras_saved_model(keras, path, True),
        "SavedModel of TensorFlow 1": saved_model_1,
        "tf.train.Checkpoint of Keras 3": lambda path: object_based(path, keras),
        "tf.train.Checkpoint of tf_keras": lambda path: object_based(path, tf_keras),
        "TensorFlow 1 Saver, V2": lambda path: saver_1(path, 2),
        "TensorFlow 1 Saver, V1": lambda path: saver_1(path, 1),
        "safetensors, Hugging Face": hugging_face,
    }
    for number, (name, make) in enumerate(made.items()):
        if not chosen or any(each in name for each in chosen):
            yield name, make(folder / f"model-{number}")
