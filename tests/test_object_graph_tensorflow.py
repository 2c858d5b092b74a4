"""Object graphs by TensorFlow, Keras 2 and Keras 3: read as they mean them, and restored by them when edited."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ckptsurgeon import formats
from ckptsurgeon.errors import RefusedError
from ckptsurgeon.formats.bundle.graph.graph import Graph
from ckptsurgeon.names import VALUE_SUFFIX as VALUE

pytestmark = pytest.mark.tensorflow

GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
Arrays = dict[str, NDArray[Any]]
KINDS = ("sequential", "functional", "subclassed", "nested")
OPTIMIZERS = {"SGD": {"momentum": 0.9}, "Adam": {}, "Adagrad": {}}
SLOTS = {"SGD": ("momentums",), "Adam": ("_momentums", "_velocities"), "Adagrad": ("_accumulators",)}
OLD_SLOTS = {"SGD": ("momentum",), "Adam": ("m", "v"), "Adagrad": ("accumulator",)}


def start(name: str) -> Any:
    """Keras 3 is `keras`, Keras 2 `tf_keras`; names of layers count from the beginning."""
    module = importlib.import_module(name)
    module.backend.clear_session()
    return module


@pytest.fixture(params=["keras", "tf_keras"])
def keras(request: pytest.FixtureRequest, tf: Any) -> Any:
    """Keras 3, then Keras 2."""
    return start(request.param)


def build(keras: Any, kind: str) -> Any:
    """A built model, each of whose weights holds its own number."""
    dense, norm = keras.layers.Dense, keras.layers.BatchNormalization
    if kind == "sequential":
        model = keras.Sequential([keras.layers.Input((3,)), dense(4), keras.layers.Dropout(0.1), norm(), dense(1)])
    elif kind == "subclassed":

        class Model(keras.Model):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.out = dense(1)
                self.enc = dense(4)
                self.bn = norm()

            def call(self, inputs: Any, training: bool = False) -> Any:
                return self.out(self.bn(self.enc(inputs), training=training))

        model = Model()
        model(np.ones((2, 3), "float32"))
    else:
        inputs = keras.layers.Input((3,))
        first = keras.Sequential([dense(4), dense(2)]) if kind == "nested" else dense(4)
        model = keras.Model(inputs, dense(1)(norm()(first(inputs))))
    number(model.weights)
    return model


def number(variables: Iterable[Any], start: int = 1) -> None:
    """Give each variable its own value, from `start` on."""
    for value, variable in enumerate(variables, start):
        variable.assign(np.full(variable.shape, value, "float32"))


def trained(keras: Any, kind: str, name: str, old: bool = False) -> tuple[Any, Any, dict[int, int]]:
    """A compiled model, its optimizer, and the value of each slot's variable by the slot's value."""
    optimizers = keras.optimizers.legacy if old else keras.optimizers
    optimizer = getattr(optimizers, name)(**OPTIMIZERS[name])
    model = build(keras, kind)
    model.compile(optimizer, "mse")
    if old:
        optimizer._create_all_weights(model.trainable_variables)
    else:
        optimizer.build(model.trainable_variables)
    owners = {}
    for at, variable in enumerate(model.trainable_variables):
        for place, slot_name in enumerate((OLD_SLOTS if old else SLOTS)[name], 1):
            slot = optimizer.get_slot(variable, slot_name) if old else getattr(optimizer, slot_name)[at]
            held = int(value(variable))
            slot.assign(np.full(slot.shape, held + 100 * place, "float32"))
            owners[held + 100 * place] = held
    return model, optimizer, owners


def read(prefix: str | Path) -> tuple[Graph, Arrays]:
    """The graph of a checkpoint, and its other values by key."""
    with formats.open(str(prefix)) as checkpoint:
        arrays = {each.key.decode(): checkpoint.read(each.name) for each in checkpoint.variables.values()}
    data = arrays.pop(GRAPH).item()
    graph = Graph(data)
    assert graph.encode() == data
    return graph, arrays


def write(prefix: Path, graph: Graph, arrays: Mapping[str, NDArray[Any]]) -> str:
    """A checkpoint of a graph and values."""
    data = np.array(graph.encode(), dtype=object)
    formats.write(str(prefix), {**arrays, GRAPH: data})
    return str(prefix)


def renamed(source: str, target: Path, changes: Mapping[str, str]) -> str:
    """A copy of a checkpoint, names (without VALUE) renamed: a whole name, or what it begins with up to a slash."""
    graph, arrays = read(source)
    full = {}
    for key in arrays:
        for old, new in changes.items():
            if key.startswith((old + "/", old + VALUE)):
                full[key] = new + key[len(old) :]
                break
    graph.rename(full)
    assert Graph(graph.encode()).encode() == graph.encode()
    return write(target, graph, {full.get(key, key): array for key, array in arrays.items()})


def dropped(source: str, target: Path, drop: Callable[[str], bool]) -> str:
    """A copy of a checkpoint without the keys that `drop` picks."""
    graph, arrays = read(source)
    keys = [key for key in arrays if drop(key)]
    assert keys
    graph.drop(keys)
    return write(target, graph, {key: array for key, array in arrays.items() if key not in keys})


def value(variable: Any) -> float:
    """The one value that a variable holds."""
    return float(np.ravel(variable.numpy())[0])


def shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """By key."""
    return {key: array.shape for key, array in arrays.items()}


def layer_values(model: Any) -> list[set[int]]:
    """What the weights of each layer hold that has some, in Keras's own order."""
    return [{int(value(weight)) for weight in layer.weights} for layer in model.layers if layer.weights]


def ranked(arrays: Arrays, ranks: Mapping[str, int], below: int = 100) -> list[set[int]]:
    """The same by the graph's word."""
    found: dict[int, set[int]] = {}
    for key, rank in ranks.items():
        held = int(np.ravel(arrays[key])[0])
        found.setdefault(rank, set()).update({held} if held < below else set())
    return [found[rank] for rank in sorted(found)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tracked", ["model", "root"])
def test_layers_are_kerass_own(tf: Any, keras: Any, tmp_path: Path, kind: str, tracked: str) -> None:
    """The layers of a model, and their order, are those of `model.layers`, whatever was built from whatever."""
    model = build(keras, kind)
    checkpoint = tf.train.Checkpoint(model=model) if tracked == "model" else tf.train.Checkpoint(model)
    graph, arrays = read(checkpoint.write(str(tmp_path / "a")))
    ((scheme, ranks),) = graph.layers(arrays).items()
    assert ranked(arrays, ranks) == layer_values(model)
    assert scheme == ("attributes" if kind == "subclassed" else "keras-3" if keras.__name__ == "keras" else "keras-2")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("tracked", ["model", "both"])
def test_layers_and_slots_of_compiled_models(
    tf: Any, keras: Any, tmp_path: Path, kind: str, name: str, tracked: str
) -> None:
    """Layers are found where the weights lie under the optimizer, and every slot's variable with them."""
    model, optimizer, owners = trained(keras, kind, name)
    both = {"model": model, "optimizer": optimizer} if tracked == "both" else {"model": model}
    graph, arrays = read(tf.train.Checkpoint(**both).save(str(tmp_path / "a")))
    (ranks,) = graph.layers(arrays).values()
    assert ranked(arrays, ranks) == layer_values(model)
    found = graph.slot_owners(shapes(arrays))
    held = {int(np.ravel(arrays[slot])[0]): int(np.ravel(arrays[owner])[0]) for slot, owner in found.items()}
    assert held == owners
    assert {key for key in found if key not in ranks} == set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_of_old_optimizers(tf: Any, tmp_path: Path, kind: str, name: str) -> None:
    """The slots of Keras 2's old optimizers belong to the variables that the graph names."""
    model, optimizer, owners = trained(start("tf_keras"), kind, name, old=True)
    graph, arrays = read(tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "a")))
    found = graph.slot_owners(shapes(arrays))
    held = {int(np.ravel(arrays[slot])[0]): int(np.ravel(arrays[owner])[0]) for slot, owner in found.items()}
    assert held == owners
    (ranks,) = graph.layers(arrays).values()
    assert ranked(arrays, ranks) == layer_values(model)


def test_layers_of_saved_weights(tf: Any, tmp_path: Path) -> None:
    """What Keras 2's save_weights and SavedModels hold has the same layers."""
    keras = start("tf_keras")
    model, _, _ = trained(keras, "functional", "Adam")
    model.save_weights(str(tmp_path / "a"))
    model.save(str(tmp_path / "saved"))
    for path in (tmp_path / "a", tmp_path / "saved"):
        graph, arrays = read(path)
        (ranks,) = graph.layers(arrays).values()
        assert ranked(arrays, ranks) == layer_values(model)


def test_layers_of_a_model_that_is_not_tracked(tf: Any, tmp_path: Path) -> None:
    """Full names tell the layers of an exported model, and of one whose optimizer alone is tracked."""
    keras = start("keras")
    model, optimizer, _ = trained(keras, "functional", "SGD")
    model.export(str(tmp_path / "exported"), verbose=False)
    graph, arrays = read(tmp_path / "exported")
    assert ranked(arrays, graph.layers(arrays)["keras-3"]) == layer_values(model)
    graph, arrays = read(tf.train.Checkpoint(optimizer=optimizer).write(str(tmp_path / "a")))
    trainable = {int(value(variable)) for variable in model.trainable_variables}
    assert ranked(arrays, graph.layers(arrays)["keras-3"]) == [held & trainable for held in layer_values(model)]


def test_layers_that_keras_3_loses_are_not_guessed(tf: Any, tmp_path: Path) -> None:
    """Where an optimizer has weights that no edge of the model leads to, and names are not unique, nothing is said."""
    keras = start("keras")

    class Model(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encs = [keras.layers.Dense(4), keras.layers.Dense(2)]
            self.out = keras.layers.Dense(1)

        def call(self, inputs: Any) -> Any:
            return self.out(self.encs[1](self.encs[0](inputs)))

    model = Model()
    model.compile("adam", "mse")
    model.fit(np.ones((2, 3), "float32"), np.ones((2, 1), "float32"), verbose=0)
    graph, arrays = read(tf.train.Checkpoint(model=model).write(str(tmp_path / "a")))
    assert graph.layers(arrays) == {}
    assert len(graph.slot_owners(shapes(arrays))) == 12


@pytest.mark.parametrize("kinds", [("sequential", "functional"), ("functional", "subclassed")])
def test_two_models_are_two_schemes(tf: Any, keras: Any, tmp_path: Path, kinds: tuple[str, str]) -> None:
    """Each of two models has a scheme that its path names."""
    models = {"a": build(keras, kinds[0]), "b": build(keras, kinds[1])}
    graph, arrays = read(tf.train.Checkpoint(**models).save(str(tmp_path / "c")))
    found = {scheme.split(" ")[1]: ranked(arrays, ranks) for scheme, ranks in graph.layers(arrays).items()}
    assert found == {path: layer_values(model) for path, model in models.items()}


def module(tf: Any, **children: Any) -> Any:
    """A tf.Module with these attributes: numbers become variables."""
    made = tf.Module()
    for name, child in children.items():
        setattr(made, name, tf.Variable([float(child)]) if isinstance(child, int) else child)
    return made


def test_a_module_restores_under_new_names(tf: Any, tmp_path: Path) -> None:
    """A variable, and a whole object, that were renamed restore into a program that has these names, and no other."""
    source = module(tf, enc=module(tf, w=1, b=2), dec=module(tf, w=3))
    prefix = tf.train.Checkpoint(net=source).write(str(tmp_path / "a"))
    target = renamed(prefix, tmp_path / "b", {"net/enc": "net/x.Sy/deep", "net/dec/w": "net/dec/kernel"})
    other = module(tf, dec=module(tf, kernel=0))
    inner = module(tf, w=0, b=0)
    other.deep = {"x/y": module(tf, deep=inner)}
    again = renamed(target, tmp_path / "c", {"net/x.Sy": "net/deep/x.Sy"})
    tf.train.Checkpoint(net=other).read(again).assert_consumed()
    assert [value(inner.w), value(inner.b), value(other.dec.kernel)] == [1, 2, 3]
    with pytest.raises(AssertionError):
        tf.train.Checkpoint(net=source).read(again).assert_consumed()


def test_names_are_exchanged(tf: Any, tmp_path: Path) -> None:
    """Two objects can take each other's names, and a row can be moved from one object into another."""
    source = module(tf, a=module(tf, w=1), b=module(tf, w=2, v=3))
    prefix = tf.train.Checkpoint(source).write(str(tmp_path / "a"))
    swapped = renamed(prefix, tmp_path / "b", {"a": "b", "b": "a"})
    target = module(tf, a=module(tf, w=0, v=0), b=module(tf, w=0))
    tf.train.Checkpoint(target).read(swapped).assert_consumed()
    assert [value(target.a.w), value(target.a.v), value(target.b.w)] == [2, 3, 1]
    moved = renamed(prefix, tmp_path / "c", {"b/v": "a/v"})
    target = module(tf, a=module(tf, w=0, v=0), b=module(tf, w=0))
    tf.train.Checkpoint(target).read(moved).assert_consumed()
    assert [value(target.a.w), value(target.a.v), value(target.b.w)] == [1, 3, 2]


def test_a_root_moves_down_and_up(tf: Any, keras: Any, tmp_path: Path) -> None:
    """What was saved as the root restores below a name, and the other way round."""
    model = build(keras, "functional")
    _, arrays = read(tf.train.Checkpoint(model).write(str(tmp_path / "a")))
    heads = {key.split("/")[0] for key in arrays}
    down = renamed(str(tmp_path / "a"), tmp_path / "b", {head: f"model/{head}" for head in heads})
    target = build(keras, "functional")
    number(target.weights, 50)
    tf.train.Checkpoint(model=target).read(down).assert_consumed()
    assert [value(w) for w in target.weights] == [value(w) for w in model.weights]
    up = renamed(down, tmp_path / "c", {f"model/{head}": head for head in heads})
    number(target.weights, 50)
    tf.train.Checkpoint(target).read(up).assert_consumed()
    assert [value(w) for w in target.weights] == [value(w) for w in model.weights]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_keras_2_layers_become_attributes(tf: Any, tmp_path: Path, name: str) -> None:
    """Layers of a Keras 2 Sequential restore into a class of its own, renamed whole, with the slots of the graph."""
    keras = start("tf_keras")
    model, optimizer, _ = trained(keras, "sequential", name, old=True)
    prefix = tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "a"))
    names = {"layer_with_weights-0": "enc", "layer_with_weights-1": "bn", "layer_with_weights-2": "out"}
    target = renamed(prefix, tmp_path / "b", {f"model/{old}": f"model/{new}" for old, new in names.items()})
    other, other_optimizer, _ = trained(keras, "subclassed", name, old=True)
    number(other.weights, 50)
    tf.train.Checkpoint(model=other, optimizer=other_optimizer).read(target).assert_consumed()
    weights = (other.enc.weights, other.bn.weights, other.out.weights)
    assert [[int(value(weight)) for weight in each] for each in weights] == [
        [int(value(weight)) for weight in layer.weights] for layer in model.layers if layer.weights
    ]
    for mine, theirs in ((other.out.bias, model.layers[-1].bias), (other.enc.kernel, model.layers[0].kernel)):
        for slot in OLD_SLOTS[name]:
            assert value(other_optimizer.get_slot(mine, slot)) == value(optimizer.get_slot(theirs, slot))


def test_keras_2_layers_exchange_places(tf: Any, tmp_path: Path) -> None:
    """Both edges of a Keras 2 layer follow a new number, so that no object is restored from two places."""
    keras = start("tf_keras")

    def stack() -> Any:
        model = keras.Sequential([keras.layers.Input((4,)), *(keras.layers.Dense(4) for _ in range(3))])
        number(model.weights)
        return model

    prefix = tf.train.Checkpoint(model=stack()).write(str(tmp_path / "a"))
    layer = "model/layer_with_weights-{}".format
    swapped = renamed(prefix, tmp_path / "b", {layer(0): layer(2), layer(2): layer(0)})
    target = stack()
    tf.train.Checkpoint(model=target).read(swapped).assert_consumed()
    assert [value(weight) for weight in target.weights] == [5, 6, 3, 4, 1, 2]
    shorter = dropped(prefix, tmp_path / "c", lambda key: key.startswith(layer(0)))
    shifted = renamed(shorter, tmp_path / "d", {layer(1): layer(0), layer(2): layer(1)})
    target = stack()
    tf.train.Checkpoint(model=target).read(shifted).expect_partial()
    assert [value(weight) for weight in target.weights] == [3, 4, 5, 6, 5, 6]
    with pytest.raises(AssertionError):
        tf.train.Checkpoint(model=target).read(shifted).assert_consumed()


def test_a_keras_3_class_restores_under_new_names(tf: Any, tmp_path: Path) -> None:
    """A layer of a Keras 3 model, its weights under the optimizer or not, follows a new attribute's name."""
    keras = start("keras")
    model = build(keras, "subclassed")
    prefix = tf.train.Checkpoint(model=model).write(str(tmp_path / "a"))
    target = renamed(prefix, tmp_path / "b", {"model/enc": "model/out", "model/out": "model/enc"})
    copy = module(tf, enc=module(tf, _kernel=0, bias=0), out=module(tf, _kernel=0, bias=0))
    copy.enc._kernel = tf.Variable(np.zeros((4, 1), "float32"))
    copy.out._kernel = tf.Variable(np.zeros((3, 4), "float32"))
    copy.out.bias = tf.Variable(np.zeros(4, "float32"))
    tf.train.Checkpoint(model=copy).read(target).expect_partial()
    assert [value(copy.enc._kernel), value(copy.out._kernel)] == [value(model.out.kernel), value(model.enc.kernel)]


@pytest.mark.parametrize("kind", ["sequential", "functional", "subclassed"])
def test_weights_under_a_keras_3_optimizer_move_out(tf: Any, tmp_path: Path, kind: str) -> None:
    """The weights of a compiled model restore into a program that has nothing but variables."""
    keras = start("keras")
    model, optimizer, _ = trained(keras, kind, "Adam")
    prefix = tf.train.Checkpoint(optimizer=optimizer, model=model).write(str(tmp_path / "a"))
    _, arrays = read(prefix)
    trainable = [int(value(variable)) for variable in model.trainable_variables]
    places = {int(np.ravel(array)[0]): key for key, array in arrays.items() if array.ndim}
    weights = {places[held].removesuffix(VALUE): f"net/w{at}" for at, held in enumerate(trainable)}
    alone = dropped(prefix, tmp_path / "b", lambda key: key.removesuffix(VALUE) not in weights)
    target = renamed(alone, tmp_path / "c", weights)
    net = module(tf)
    for at, variable in enumerate(model.trainable_variables):
        setattr(net, f"w{at}", tf.Variable(np.zeros(variable.shape, "float32")))
    tf.train.Checkpoint(net=net).read(target).assert_consumed()
    assert [int(value(getattr(net, f"w{at}"))) for at in range(len(trainable))] == trainable


def is_optimizers(key: str) -> bool:
    """Whether a key is the optimizer's own."""
    return ".OPTIMIZER_SLOT" in key or (key.startswith("optimizer/") and "/_trainable_variables/" not in key)


@pytest.mark.parametrize("kind", ["sequential", "functional", "subclassed"])
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("which", "old"), [("keras", False), ("tf_keras", False), ("tf_keras", True)])
def test_an_optimizer_is_dropped(tf: Any, tmp_path: Path, kind: str, name: str, which: str, old: bool) -> None:
    """Without the optimizer's rows a bare model restores completely, and a program with an optimizer is told."""
    keras = start(which)
    model, optimizer, _ = trained(keras, kind, name, old)
    prefix = tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "a"))
    target = dropped(prefix, tmp_path / "b", is_optimizers)
    bare = build(keras, kind)
    number(bare.weights, 50)
    tf.train.Checkpoint(model=bare).read(target).assert_consumed()
    assert [value(w) for w in bare.weights] == [value(w) for w in model.weights]
    with pytest.raises(AssertionError):
        tf.train.Checkpoint(model=model, optimizer=optimizer).read(target).assert_consumed()


@pytest.mark.parametrize("kind", ["sequential", "functional", "subclassed"])
@pytest.mark.parametrize(
    ("which", "old"),
    [("keras", None), ("keras", False), ("tf_keras", None), ("tf_keras", False), ("tf_keras", True)],
)
def test_a_layer_is_dropped(tf: Any, tmp_path: Path, kind: str, which: str, old: bool | None) -> None:
    """A layer goes with its slots: its variables keep their values, the rest restores, and an assertion tells."""
    keras = start(which)
    if old is None:
        model, both = build(keras, kind), {}
    else:
        model, optimizer, _ = trained(keras, kind, "Adam", old)
        both = {"optimizer": optimizer}
    prefix = tf.train.Checkpoint(model=model, **both).write(str(tmp_path / "a"))
    graph, arrays = read(prefix)
    (ranks,) = graph.layers(arrays).values()
    target = dropped(prefix, tmp_path / "b", lambda key: ranks.get(key) == 1)
    before = layer_values(model)
    number(model.weights, 50)
    status = tf.train.Checkpoint(model=model, **both).read(target)
    after = layer_values(model)
    assert (after[0], after[2]) == (before[0], before[2])
    assert min(after[1]) >= 50
    with pytest.raises(AssertionError):
        status.assert_consumed()


def test_a_dropped_variable_is_missed(tf: Any, tmp_path: Path) -> None:
    """A program that has the variable fails its assertion, one that has not passes."""
    source = module(tf, a=module(tf, w=1, b=2))
    prefix = tf.train.Checkpoint(source).write(str(tmp_path / "a"))
    target = dropped(prefix, tmp_path / "b", lambda key: "/b/" in key)
    with pytest.raises(AssertionError):
        tf.train.Checkpoint(source).read(target).assert_consumed()
    bare = module(tf, a=module(tf, w=0))
    tf.train.Checkpoint(bare).read(target).assert_consumed()
    assert value(bare.a.w) == 1


def test_variables_are_added(tf: Any, keras: Any, tmp_path: Path) -> None:
    """Added variables restore, also those of objects that are made later, and assertions see them."""
    source = module(tf, a=module(tf, w=1))
    tf.train.Checkpoint(source).write(str(tmp_path / "a"))
    graph, arrays = read(tmp_path / "a")
    new = {f"a/b{VALUE}": np.full(1, 7, "float32"), f"c/x.Sy/w{VALUE}": np.full(1, 8, "float32")}
    graph.add({key: "" for key in new})
    target = write(tmp_path / "b", graph, {**arrays, **new})
    with pytest.raises(AssertionError):
        tf.train.Checkpoint(source).read(target).assert_consumed()
    larger = module(tf, a=module(tf, w=0, b=0))
    status = tf.train.Checkpoint(larger).read(target)
    larger.c = {"x/y": module(tf, w=0)}
    status.assert_consumed()
    assert [value(larger.a.w), value(larger.a.b), value(larger.c["x/y"].w)] == [1, 7, 8]


def test_a_keras_layer_is_added(tf: Any, tmp_path: Path) -> None:
    """A layer that was added, with the slots of an old optimizer, restores into a larger model."""
    keras = start("tf_keras")

    def stack(depth: int) -> tuple[Any, Any]:
        model = keras.Sequential([keras.layers.Input((1,)), *(keras.layers.Dense(1) for _ in range(depth))])
        optimizer = keras.optimizers.legacy.SGD(momentum=0.9)
        model.compile(optimizer, "mse")
        model.fit(np.ones((2, 1), "float32"), np.ones((2, 1), "float32"), verbose=0)
        number(model.weights)
        return model, optimizer

    model, optimizer = stack(1)
    tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "a"))
    graph, arrays = read(tmp_path / "a")
    new = {}
    for name, shape in (("kernel", (1, 1)), ("bias", (1,))):
        path = f"model/layer_with_weights-1/{name}"
        new[path + VALUE] = np.full(shape, 7, "float32")
        new[f"{path}/.OPTIMIZER_SLOT/optimizer/momentum{VALUE}"] = np.full(shape, 9, "float32")
    graph.add({key: f"dense_1/{key.split('/')[2]}" for key in new})
    target = write(tmp_path / "b", graph, {**arrays, **new})
    larger, other = stack(2)
    tf.train.Checkpoint(model=larger, optimizer=other).read(target).assert_consumed()
    assert [value(weight) for weight in larger.weights] == [1, 2, 7, 7]
    assert value(other.get_slot(larger.weights[3], "momentum")) == 9


def test_tables_and_iterators(tf: Any, tmp_path: Path) -> None:
    """The rows of a table are renamed and dropped together, an iterator's by its only row."""

    def table() -> Any:
        return tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)

    source, words = tf.data.Dataset.range(5), table()
    words.insert(tf.constant(["a"]), tf.constant([3], tf.int64))
    iterator = iter(source)
    next(iterator)
    tf.train.Checkpoint(t=words).write(str(tmp_path / "a"))
    target = renamed(str(tmp_path / "a"), tmp_path / "b", {"t": "deep/words"})
    fresh = table()
    tf.train.Checkpoint(deep=module(tf, words=fresh)).read(target).assert_consumed()
    assert fresh.lookup(tf.constant("a")).numpy() == 3
    graph, arrays = read(target)
    rows = sorted(arrays)
    for edit in (lambda: graph.drop(rows[:1]), lambda: graph.rename({rows[0]: rows[0].replace("words", "x")})):
        with pytest.raises(RefusedError, match=f"{rows[0]} and {rows[1]}"):
            edit()
    graph.drop(rows)
    tf.train.Checkpoint().read(write(tmp_path / "c", graph, {"x": np.zeros(1)})).assert_consumed()
    tf.train.Checkpoint(it=iterator).write(str(tmp_path / "d"))
    reader = tf.train.load_checkpoint(str(tmp_path / "d"))
    graph = Graph(reader.get_tensor(GRAPH))
    (row,) = (key for key in reader.get_variable_to_shape_map() if key != GRAPH)
    graph.rename({row: row.replace("it/", "deep/it/")})
    assert list(graph.keys()) == ["deep/it/.ATTRIBUTES/ITERATOR"]
    graph.drop([row.replace("it/", "deep/it/")])
    assert graph.keys() == {}
    assert graph.at(("deep", "it")) is None
