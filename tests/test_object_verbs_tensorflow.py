"""The verbs on object-based checkpoints: TensorFlow, Keras 2 and Keras 3 restore what they leave, or rightly do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import test_object_graph_tensorflow as graphs

from ckptsurgeon import cli, formats
from ckptsurgeon.errors import RefusedError
from ckptsurgeon.verbs import changing

pytestmark = pytest.mark.tensorflow

GRAPH = graphs.GRAPH
KINDS = ("sequential", "functional", "subclassed")
# Keras's module, and whether the optimizer is one of Keras 2's old ones.
PROGRAMS = [("keras", False), ("tf_keras", False), ("tf_keras", True)]
Values = dict[str, list[float]]


class Program:
    """A model and its optimizer, with a value of its own in each weight and slot.

    Args:
        tf: TensorFlow.
        which: Keras's module.
        kind: of the model, as `graphs.build` takes it; or what makes its layers, which get an input of 4 before them;
            or the attributes of a class, each a Dense layer.
        old: whether the optimizer is one of the old kind; None: the model has none.
        start: the first weight's value; slots have 100 and 200 more than their variable.
    """

    def __init__(self, tf: Any, which: str, kind: Any, old: bool | None = False, start: int = 1) -> None:
        self.tf = tf
        self.old = old
        keras = graphs.start(which)
        if isinstance(kind, str):
            self.model = graphs.build(keras, kind)
        elif isinstance(kind[0], str):
            self.model = class_model(keras, kind)
        else:
            inputs = outputs = keras.layers.Input((4,))
            for layer in (make(keras) for make in kind):
                outputs = layer(outputs)
            self.model = keras.Model(inputs, outputs)
        self.optimizer = None
        if old is not None:
            self.optimizer = keras.optimizers.legacy.Adam() if old else keras.optimizers.Adam()
            self.model.compile(self.optimizer, "mse")
            build = self.optimizer._create_all_weights if old else self.optimizer.build
            build(self.model.trainable_variables)
        self.fill(start)

    def fill(self, start: int) -> None:
        """Give all weights and slots their values."""
        graphs.number(self.model.weights, start)
        for at, variable in enumerate(self.model.trainable_variables):
            for place, slot in enumerate(self._slots(at, variable), 1):
                slot.assign(np.full(slot.shape, graphs.value(variable) + 100 * place, "float32"))

    def _slots(self, at: int, variable: Any) -> list[Any]:
        if self.old is None:
            return []
        if self.old:
            return [self.optimizer.get_slot(variable, slot) for slot in graphs.OLD_SLOTS["Adam"]]
        return [getattr(self.optimizer, slot)[at] for slot in graphs.SLOTS["Adam"]]

    def checkpoint(self) -> Any:
        """TensorFlow's checkpoint of all that there is."""
        both = {} if self.optimizer is None else {"optimizer": self.optimizer}
        return self.tf.train.Checkpoint(model=self.model, **both)

    def save(self, prefix: Path) -> str:
        """Write a checkpoint; its prefix."""
        path: str = self.checkpoint().write(str(prefix))
        return path

    def restore(self, prefix: str) -> None:
        """Read a checkpoint that must hold all that there is, and nothing besides, after other values."""
        self.fill(400)
        self.checkpoint().read(prefix).assert_consumed()

    def values(self) -> list[Values]:
        """By layer, of each weight by its name: its value, and those of its slots."""
        slots = {id(each): self._slots(at, each) for at, each in enumerate(self.model.trainable_variables)}
        return [
            {
                str(weight.name).removesuffix(":0").rpartition("/")[2]: [
                    graphs.value(each) for each in (weight, *slots.get(id(weight), []))
                ]
                for weight in layer.weights
            }
            for layer in self.model.layers
            if layer.weights
        ]


def class_model(keras: Any, names: tuple[str, ...]) -> Any:
    """A built model with a Dense layer for each attribute."""

    class Model(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            for name in names:
                setattr(self, name, keras.layers.Dense(4))

        def call(self, inputs: Any) -> Any:
            for name in names:
                inputs = getattr(self, name)(inputs)
            return inputs

    model = Model()
    model(np.ones((2, 4), "float32"))
    return model


def dense(units: int, **options: Any) -> Any:
    """What makes a Dense layer of a Keras."""
    return lambda keras: keras.layers.Dense(units, **options)


def norm(keras: Any) -> Any:
    """A BatchNormalization."""
    return keras.layers.BatchNormalization()


def dropout(keras: Any) -> Any:
    """A layer without weights."""
    return keras.layers.Dropout(0.1)


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """The JSON lines that a verb prints."""
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def weights_only(values: list[Values]) -> list[dict[str, float]]:
    """Without slots."""
    return [{name: each[0] for name, each in layer.items()} for layer in values]


# -- looking


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("which", "old"), PROGRAMS)
def test_ls_and_layers_say_what_keras_says(
    tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, which: str, old: bool
) -> None:
    """Layers come in model order with their weights and slots, slots with their variables, full names as Keras's."""
    program = Program(tf, which, kind, old)
    prefix = program.save(tmp_path / "a")
    held = {name: float(np.ravel(values)[0]) for name, values in models.read(Path(prefix)).items() if name != GRAPH}
    names: dict[float, str] = {}
    for weight in program.model.weights:
        path = weight.path if which == "keras" else weight.name.removesuffix(":0")
        # Layers of a class are built under the name of the class; only their last component tells.
        names[graphs.value(weight)] = path.rpartition("/")[2] if kind == "subclassed" else path
    found: list[Values] = [{} for _ in program.values()]
    for row in rows(capsys, "ls", "-l", prefix):
        value = held.get(row["name"], 0.0)
        if row["layer"] is None:
            assert row["slot_of"] is None
            assert row["name"] == GRAPH or row["name"].startswith("optimizer/")
        elif row["slot_of"] is None:
            assert row["full_name"].rpartition("/" if kind == "subclassed" else "\0")[2] == names[value]
            found[row["layer"]].setdefault(row["full_name"].rpartition("/")[2], []).insert(0, value)
        else:
            assert value % 100 == held[row["slot_of"]]
    assert [{name: value[0] for name, value in layer.items()} for layer in found] == weights_only(program.values())
    listed = [row for row in rows(capsys, "layers", prefix) if row["layer"] is not None]
    scheme = "attributes" if kind == "subclassed" else "keras-3" if which == "keras" else "keras-2"
    assert [(row["layer"], row["scheme"], row["variables"]) for row in listed] == [
        (at, scheme, sum(map(len, layer.values()))) for at, layer in enumerate(program.values())
    ]
    assert sum(row["parameters"] for row in listed) == program.model.count_params()


def test_layers_of_saved_weights(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keras 2's save_weights has the same layers, and a graft between two such files restores by load_weights."""
    donor, recipient = (Program(tf, "tf_keras", "sequential", start=start) for start in (20, 40))
    for program, name in ((donor, "a"), (recipient, "b")):
        program.model.save_weights(str(tmp_path / name))
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    assert [row["layer"] for row in rows(capsys, "layers", a)] == [0, 1, 2, None]
    changing.graft(a, b, layers="1-2")
    expected = weights_only(recipient.values()[:1] + donor.values()[1:])
    recipient.fill(400)
    recipient.model.load_weights(b).assert_consumed()
    assert weights_only(recipient.values()) == expected


# -- graft


@pytest.mark.parametrize("slots", ["keep", "copy"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("which", "old"), PROGRAMS)
def test_grafted_layers_restore(tf: Any, tmp_path: Path, which: str, old: bool, kind: str, slots: str) -> None:
    """Layers 0 and 1 are the donor's, all else, its slots included unless copied, the recipient's."""
    donor, recipient = Program(tf, which, kind, old, 20), Program(tf, which, kind, old, 40)
    a, b = donor.save(tmp_path / "a"), recipient.save(tmp_path / "b")
    theirs, ours = donor.values(), recipient.values()
    assert cli.main(["graft", a, b, "--layers", "0-1", "--slots", slots, "-q"]) == 0
    fresh = Program(tf, which, kind, old)
    fresh.restore(b)
    expected = theirs[:2] + ours[2:]
    if slots == "keep":
        expected[:2] = [{name: [theirs[at][name][0], *ours[at][name][1:]] for name in ours[at]} for at in (0, 1)]
    assert fresh.values() == expected
    donor.restore(a)
    assert donor.values() == theirs


@pytest.mark.parametrize(("which", "old"), PROGRAMS)
def test_fitted_models_are_grafted(tf: Any, tmp_path: Path, which: str, old: bool) -> None:
    """After a step of training each, the result has the donor's trunk, the recipient's rest, slots and step."""
    programs = [Program(tf, which, "functional", old) for _ in range(3)]
    for at, program in enumerate(programs):
        for weight in program.model.weights:
            weight.assign(np.random.default_rng(at).normal(size=weight.shape) ** 2)
        inputs = np.random.default_rng(at).normal(size=(8, 3)).astype("float32")
        program.model.fit(inputs, inputs[:, :1], epochs=at + 1, batch_size=8, verbose=0)
    donor, recipient, fresh = programs
    a, b = (program.checkpoint().save(str(tmp_path / name)) for program, name in ((donor, "a"), (recipient, "b")))
    assert cli.main(["graft", a, b, "--layers", "0-1", "-q"]) == 0
    fresh.checkpoint().restore(b).assert_consumed()
    trunk = [weight.numpy() for layer in donor.model.layers[:-1] for weight in layer.weights]
    head = [weight.numpy() for weight in recipient.model.layers[-1].weights]
    for weight, expected in zip(fresh.model.weights, trunk + head, strict=True):
        assert weight.numpy().tolist() == expected.tolist()
    variables = [
        program.optimizer.variables() if old else list(program.optimizer.variables) for program in (recipient, fresh)
    ]
    pairs = [tuple(np.asarray(variable).tolist() for variable in pair) for pair in zip(*variables, strict=True)]
    assert [mine for mine, _ in pairs] == [theirs for _, theirs in pairs]
    assert int(np.asarray(fresh.optimizer.iterations)) == 2


@pytest.mark.parametrize("donor_bare", [True, False])
@pytest.mark.parametrize("recipient_bare", [True, False])
@pytest.mark.parametrize(("donor", "recipient"), [("keras", "keras"), ("keras", "tf_keras"), ("tf_keras", "keras")])
def test_layers_pair_between_programs(
    tf: Any, tmp_path: Path, donor: str, recipient: str, donor_bare: bool, recipient_bare: bool
) -> None:
    """A layer's weights find those of the same layer, whatever their keys: compiled or not, Keras 2 or 3."""
    one = Program(tf, donor, "sequential", None if donor_bare else False, 20)
    a = one.save(tmp_path / "a")
    for kind in ("functional", [dense(4), norm, dropout, dense(1)], ["out", "enc"]):
        other = Program(tf, recipient, kind, None if recipient_bare else False, 40)
        b = other.save(tmp_path / "b")
        before = weights_only(other.values())
        if kind == "functional":
            changing.graft(a, b, layers="0-1")
            expected = weights_only(one.values()[:2]) + before[2:]
        elif kind[0] == "out":
            with pytest.raises(RefusedError, match="different shape"):
                changing.graft(a, b, layers="0")
            expected = before
        else:
            changing.graft(a, b, layers="1-2")
            expected = before[:1] + weights_only(one.values()[1:])
        other.restore(b)
        assert weights_only(other.values()) == expected


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("which", ["keras", "tf_keras"])
def test_a_layers_number_comes_before_its_key(tf: Any, tmp_path: Path, which: str, bare: bool) -> None:
    """Layers without weights, or with fewer, shift the keys that follow; a layer still meets that of its number."""
    old = None if bare else False
    donor = Program(tf, which, [dense(4, use_bias=False), dropout, dense(4), norm, dense(4)], old, 20)
    recipient = Program(tf, which, [dense(4), dense(4), norm, dense(4)], old, 60)
    a, b = donor.save(tmp_path / "a"), recipient.save(tmp_path / "b")
    expected = recipient.values()[:1] + donor.values()[1:]
    stood = models.snapshot(tmp_path)
    with pytest.raises(RefusedError, match="layer 0: the variables of donor and recipient do not pair"):
        changing.graft(a, b, layers="all")
    assert models.snapshot(tmp_path) == stood
    changing.graft(a, b, layers="1-", slots="copy")
    recipient.restore(b)
    assert recipient.values() == expected


@pytest.mark.parametrize(("donor", "recipient"), [(True, False), (False, True)])
def test_slots_pair_between_old_and_new_optimizers(tf: Any, tmp_path: Path, donor: bool, recipient: bool) -> None:
    """Adam's m and v find each other between Keras 2's old and new optimizers, which store them differently."""
    one, other = Program(tf, "tf_keras", "functional", donor, 20), Program(tf, "tf_keras", "functional", recipient, 40)
    b = other.save(tmp_path / "b")
    changing.graft(one.save(tmp_path / "a"), b, layers="0,2", slots="copy")
    expected = [one.values()[0], other.values()[1], one.values()[2]]
    other.restore(b)
    assert other.values() == expected


@pytest.mark.parametrize("which", ["keras", "tf_keras"])
def test_slots_of_another_optimizer_pair_by_name(tf: Any, tmp_path: Path, which: str) -> None:
    """Slots of two optimizers are told by what they are called, never by their order, which differs."""
    source = Program(tf, which, [dense(4)], start=20)
    a = source.save(tmp_path / "a")
    keras = graphs.start(which)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(4)])
    optimizer = keras.optimizers.RMSprop(momentum=0.9)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    b = tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "b"))
    changing.graft(a, b, layers="0", slots="copy")  # Adam's m and v are what others call momentum and velocity
    tf.train.Checkpoint(model=model, optimizer=optimizer).read(b).assert_consumed()
    assert [graphs.value(slot) for slot in optimizer._momentums] == [120, 121]
    assert [graphs.value(slot) for slot in optimizer._velocities] == [220, 221]


def test_a_module_of_another_path_is_grafted(tf: Any, tmp_path: Path) -> None:
    """Objects without full names pair by layer and the last part of their paths."""

    def save(path: str, name: str, start: int) -> tuple[Any, str]:
        layers = {key: graphs.module(tf, w=start + at, b=start + 2 + at) for at, key in enumerate(("enc", "out"))}
        net = graphs.module(tf, **layers)
        return net, tf.train.Checkpoint(**{path: net}).write(str(tmp_path / name))

    _, a = save("net", "a", 10)
    net, b = save("model", "b", 20)
    changing.graft(a, b, layers="1")
    tf.train.Checkpoint(model=net).read(b).assert_consumed()
    assert [graphs.value(each) for each in (net.enc.w, net.enc.b, net.out.w, net.out.b)] == [20, 22, 11, 13]


# -- rename


@pytest.mark.parametrize("rename", ["model/enc/=model/encoder/", "model/enc/*=model/encoder/*"])
@pytest.mark.parametrize(("which", "old"), [*PROGRAMS, ("keras", None), ("tf_keras", None)])
def test_a_renamed_attribute_restores(tf: Any, tmp_path: Path, which: str, old: bool | None, rename: str) -> None:
    """A program with the new name gets all values, slots included; one with the old name fails its assertion.

    The optimizer of Keras 3 tracks the weights too: with it, the old program finds them all the same.
    """
    source = Program(tf, which, ["enc", "out"], old)
    before = source.values()
    prefix = source.save(tmp_path / "a")
    assert cli.main(["rename", prefix, rename]) == 0
    fresh = Program(tf, which, ["encoder", "out"], old, 50)
    fresh.restore(prefix)
    assert fresh.values() == before
    if (which, old) == ("keras", False):
        source.restore(prefix)
        assert source.values() == before
    else:
        with pytest.raises(AssertionError):
            source.restore(prefix)


def test_an_attribute_of_a_module_is_renamed(tf: Any, tmp_path: Path) -> None:
    """One variable by its name, the full key or a trailing :0 as good; the old program's assertion fails."""
    for old, new in (
        ("net/w", "net/kernel"),
        (f"net/w{graphs.VALUE}", f"net/kernel{graphs.VALUE}"),
        ("net/w:0", "net/kernel"),
    ):
        source = graphs.module(tf, w=1, b=2)
        prefix = tf.train.Checkpoint(net=source).save(str(tmp_path / "a"))
        changing.rename(prefix, [f"{old}={new}"])
        target = graphs.module(tf, kernel=0, b=0)
        tf.train.Checkpoint(net=target).restore(prefix).assert_consumed()
        assert [graphs.value(target.kernel), graphs.value(target.b)] == [1, 2]
        with pytest.raises(AssertionError):
            tf.train.Checkpoint(net=source).restore(prefix).assert_consumed()


# -- drop


@pytest.mark.parametrize(("which", "old"), PROGRAMS)
def test_a_dropped_variable_takes_its_slots_along(tf: Any, tmp_path: Path, which: str, old: bool) -> None:
    """The last bias goes with its slots: a program without it passes, one with it fails its assertion."""
    source = Program(tf, which, [dense(4), dense(2)], old)
    prefix = source.save(tmp_path / "a")
    before = models.read(tmp_path / "a")
    (bias,) = (name for name, values in before.items() if name != GRAPH and np.ravel(values)[0] == 4)
    assert cli.main(["drop", prefix, bias]) == 0
    gone = before.keys() - models.read(tmp_path / "a").keys()
    assert sorted(float(np.ravel(before[name])[0]) for name in gone) == [4, 104, 204]
    expected = source.values()
    del expected[1]["bias"]
    bare = Program(tf, which, [dense(4), dense(2, use_bias=False)], old, 50)
    bare.restore(prefix)
    assert bare.values() == expected
    with pytest.raises(AssertionError):
        source.restore(prefix)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("which", "old"), PROGRAMS)
def test_slots_are_dropped(tf: Any, tmp_path: Path, which: str, old: bool, kind: str) -> None:
    """--slots leaves a checkpoint of the bare model; a program with the optimizer fails its assertion."""
    source = Program(tf, which, kind, old)
    prefix = source.save(tmp_path / "a")
    assert cli.main(["drop", prefix, "--slots", "-o", str(tmp_path / "b")]) == 0
    bare = Program(tf, which, kind, None, 50)
    bare.restore(str(tmp_path / "b"))
    assert weights_only(bare.values()) == weights_only(source.values())
    with pytest.raises(AssertionError):
        source.restore(str(tmp_path / "b"))
    source.restore(prefix)


# -- add


@pytest.mark.parametrize(("which", "old"), [*PROGRAMS, ("keras", None), ("tf_keras", None)])
def test_an_added_layer_restores(tf: Any, tmp_path: Path, which: str, old: bool | None) -> None:
    """--add brings the donor's last layer, with --slots copy its slots too: the deeper program finds all it has."""
    donor = Program(tf, which, [dense(4), dense(4), dense(2)], old, 20)
    recipient = Program(tf, which, [dense(4), dense(4)], old, 40)
    a, b = donor.save(tmp_path / "a"), recipient.save(tmp_path / "b")
    command = ["graft", a, b, "--layers", "2", "--slots", "copy"]
    assert cli.main(command) == 2
    assert cli.main([*command, "--add"]) == 0
    expected = recipient.values() + donor.values()[2:]
    fresh = Program(tf, which, [dense(4), dense(4), dense(2)], old, 60)
    fresh.restore(b)
    assert fresh.values() == expected
    with pytest.raises(AssertionError):
        recipient.restore(b)


def test_an_added_variable_restores(tf: Any, tmp_path: Path) -> None:
    """A variable that the donor's object has and the recipient's lacks is added to it, under its full name."""
    a = tf.train.Checkpoint(net=graphs.module(tf, enc=graphs.module(tf, w=1, b=2))).save(str(tmp_path / "a"))
    b = tf.train.Checkpoint(net=graphs.module(tf, enc=graphs.module(tf, w=3))).save(str(tmp_path / "b"))
    changing.graft(a, b, match=["net/enc/**"], add=True)
    target = graphs.module(tf, enc=graphs.module(tf, w=0, b=0))
    tf.train.Checkpoint(net=target).restore(b).assert_consumed()
    assert [graphs.value(target.enc.w), graphs.value(target.enc.b)] == [1, 2]
    with formats.open(b) as checkpoint:
        assert checkpoint.full_name("net/enc/b") == "Variable"


# -- name-based checkpoints


def name_based(tf: Any, prefix: Path, heads: tuple[str, ...], kernel: str, bias: str, start: int) -> dict[str, float]:
    """What a Saver of TensorFlow 1 writes of Dense layers of 4, Adam's slots included; the values by name."""
    held: dict[str, float] = {}
    with tf.Graph().as_default():
        v1 = tf.compat.v1
        for at, head in enumerate(heads):
            for place, (name, shape) in enumerate(((kernel, (4, 4)), (bias, (4,)))):
                for end, more in (("", 0), ("/Adam", 100), ("/Adam_1", 200)):
                    held[f"{head}/{name}{end}"] = start + 2 * at + place + more
                    value = np.full(shape, held[f"{head}/{name}{end}"], "float32")
                    v1.get_variable(f"{head}/{name}{end}", initializer=value)
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(prefix), write_meta_graph=False, write_state=False)
    return held


@pytest.mark.parametrize("which", ["keras", "tf_keras"])
@pytest.mark.parametrize(
    ("heads", "kernel", "bias", "scheme"),
    [
        (("dense", "dense_1"), "kernel", "bias", "dense{_K}/*"),
        (("dnn/layer0/Linear", "dnn/layer1/Linear"), "Matrix", "Bias", None),
        (("dnn/hiddenlayer_0", "dnn/hiddenlayer_1"), "weights", "biases", "estimator"),
    ],
)
def test_names_and_objects_exchange_layers(
    tf: Any, tmp_path: Path, which: str, heads: tuple[str, ...], kernel: str, bias: str, scheme: str | None
) -> None:
    """A layer of TensorFlow 1 goes into a Keras model's checkpoint, and one of Keras's into TensorFlow 1's."""
    program = Program(tf, which, [dense(4), dense(4)])
    named, objects = tmp_path / "a", program.save(tmp_path / "b")
    held = name_based(tf, named, heads, kernel, bias, 30)
    before = program.values()
    options = ["--donor-scheme", scheme] if scheme else []
    assert cli.main(["graft", str(named), objects, "--layers", "1", "-q", *options]) == 0
    program.restore(objects)
    expected = [before[0], {"kernel": [32, *before[1]["kernel"][1:]], "bias": [33, *before[1]["bias"][1:]]}]
    assert program.values() == expected
    options = ["--recipient-scheme", scheme] if scheme else []
    assert cli.main(["graft", objects, str(named), "--layers", "0", "-q", *options]) == 0
    reader = tf.train.load_checkpoint(str(named))
    found = {name: float(np.ravel(reader.get_tensor(name))[0]) for name in reader.get_variable_to_shape_map()}
    assert found == held | {f"{heads[0]}/{kernel}": 1, f"{heads[0]}/{bias}": 2}
