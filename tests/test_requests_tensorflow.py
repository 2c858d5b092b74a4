"""What users ask for most, as they would do it: TensorFlow writes, the program is called, TensorFlow reads.

Each test has the number of its request.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import models
import numpy as np
import pytest
import test_object_graph_tensorflow as graphs
import test_object_verbs_tensorflow as objects
from conftest import ROOT
from models import Arrays

from ckptsurgeon import cli

pytestmark = pytest.mark.tensorflow

CLASSES = 3
LAYER, KERNEL, BIAS, HEAD = "dnn/layer{}/Linear/", "Matrix", "Bias", "logistic_regression/"


class Program:
    """A program of TensorFlow 1: hidden layers and a head, trained for two steps.

    Args:
        tf: TensorFlow.
        seed: of its first values.
        layer: how its hidden layers are called.
        kernel: how their matrices are.
        bias: how their biases are.
        units: of the hidden layers.
        classes: of the head.
        adam: trained by Adam, with slots; else by plain gradients.
        averages: it keeps moving averages of its weights.
        parts: into how many its matrices are partitioned.
    """

    def __init__(
        self,
        tf: Any,
        seed: int,
        *,
        layer: str = LAYER,
        kernel: str = KERNEL,
        bias: str = BIAS,
        units: Sequence[int] = (4, 6),
        classes: int = CLASSES,
        adam: bool = True,
        averages: bool = False,
        parts: int = 1,
    ) -> None:
        v1 = tf.compat.v1
        self.v1 = v1
        with tf.Graph().as_default() as self.graph:
            v1.set_random_seed(seed)
            inputs = outputs = tf.constant(np.random.default_rng(0).normal(size=(8, 4)), tf.float32)
            names = [(layer.format(at) + kernel, layer.format(at) + bias) for at in range(len(units))]
            cut = v1.fixed_size_partitioner(parts) if parts > 1 else None
            for (matrix, offset), size in zip(
                [*names, (HEAD + "weights", HEAD + "bias")], [*units, classes], strict=True
            ):
                weights = v1.get_variable(matrix, (outputs.shape[1], size), partitioner=cut)
                outputs = tf.tanh(tf.matmul(outputs, weights) + v1.get_variable(offset, (size,)))
            optimizer = v1.train.AdamOptimizer() if adam else v1.train.GradientDescentOptimizer(0.1)
            step = v1.train.get_or_create_global_step()
            self.step = optimizer.minimize(tf.reduce_mean(tf.square(outputs - inputs[:, :1])), global_step=step)
            if averages:
                with tf.control_dependencies([self.step]):
                    self.step = tf.train.ExponentialMovingAverage(0.5).apply(v1.trainable_variables())
            self.variables = v1.global_variables()
            self.first = v1.global_variables_initializer()
            self.session = v1.Session()
            inputs = [v1.placeholder(variable.dtype.base_dtype, variable.shape) for variable in self.variables]
            self.setting = [each.assign(value) for each, value in zip(self.variables, inputs, strict=True)]
        self.session.run(self.first)
        for _ in range(2):
            self.session.run(self.step)
        self.trained = dict(zip(inputs, self.session.run(self.variables), strict=True))

    def reset(self) -> None:
        """Bring back the values that it was trained to."""
        self.session.run(self.setting, self.trained)

    def save(self, prefix: Path, version: int = 2) -> str:
        """What its Saver leaves, the state file and the graph's definition too; the prefix."""
        with self.graph.as_default():
            saver = self.v1.train.Saver(write_version=version)
            path: str = saver.save(self.session, str(prefix))
        return path

    def restore(self, prefix: str | Path, *, among: str = "") -> Arrays:
        """All variables, or those whose names have `among` in them, from a checkpoint; what it then holds."""
        with self.graph.as_default():
            chosen = [variable for variable in self.variables if among in variable.op.name]
            self.session.run(self.first)
            self.v1.train.Saver(chosen).restore(self.session, str(prefix))
        return self.values()

    def values(self) -> Arrays:
        """Of all its variables, by name."""
        found: Arrays = self.session.run({variable.op.name: variable for variable in self.variables})
        return {name: np.asarray(values) for name, values in found.items()}


_programs: dict[tuple[Any, ...], Program] = {}


def program_of(tf: Any, seed: int, **options: Any) -> Program:
    """A trained program; tests share those of equal options, as making one takes long."""
    key = (seed, *sorted(options.items()))
    if key not in _programs:
        _programs[key] = Program(tf, seed, **options)
    _programs[key].reset()
    return _programs[key]


def load(tf: Any, prefix: str | Path) -> Arrays:
    """All values of a checkpoint, as TensorFlow reads them."""
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: np.asarray(reader.get_tensor(name)) for name in reader.get_variable_to_shape_map()}


def save(tf: Any, prefix: str | Path, arrays: Arrays) -> str:
    """Let TensorFlow save values in the format V2."""
    names = sorted(arrays)
    tensors = [tf.constant(arrays[name]) for name in names]
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=names, shape_and_slices=[""] * len(names), tensors=tensors)
    return str(prefix)


def run(*arguments: object) -> None:
    """A command that must succeed."""
    assert cli.main([str(argument) for argument in arguments]) == 0


def rows(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> list[dict[str, Any]]:
    """The JSON lines that a command prints."""
    capsys.readouterr()
    assert cli.main([*map(str, arguments), "--json"]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 2) -> str:
    """What a command says that must not be carried out."""
    capsys.readouterr()
    assert cli.main([str(argument) for argument in arguments]) == status
    done = capsys.readouterr()
    assert done.out == ""
    return done.err


def fresh(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python of its own, to which `main` is the program."""
    code = f"import sys\nfrom ckptsurgeon.cli import main\n{code}"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


def is_slot(name: str) -> bool:
    """Whether a program of TensorFlow 1 calls Adam's slots so."""
    return name.rpartition("/")[2] in ("Adam", "Adam_1")


def is_optimizers(name: str) -> bool:
    """Whether it belongs to Adam."""
    return is_slot(name) or name in ("beta1_power", "beta2_power")


def with_layers(
    recipient: Arrays, donor: Arrays, layers: Sequence[int], ends: Sequence[str] = (KERNEL, BIAS)
) -> Arrays:
    """The recipient's values, but the donor's in these layers."""
    names = [LAYER.format(layer) + end for layer in layers for end in ends]
    return recipient | {name: donor[name] for name in names}


# -- 1: names


def test_01_rename_variables_and_scopes(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scope gets another name, slots too; a dry run says which and writes nothing; a Saver finds the new names."""
    program = program_of(tf, 1)
    before, path = program.values(), program.save(tmp_path / "model.ckpt")
    stood = models.snapshot(tmp_path)
    planned = rows(capsys, "rename", path, "dnn/=tower/", "--dry-run")
    assert models.snapshot(tmp_path) == stood
    assert {row["from"]: row["name"] for row in planned} == {
        name: "tower/" + name.removeprefix("dnn/") for name in before if name.startswith("dnn/")
    }
    assert rows(capsys, "rename", path, "dnn/=tower/") == planned
    after = program_of(tf, 2, layer="tower/layer{}/Linear/").restore(path)
    assert models.equal({name.replace("tower/", "dnn/"): values for name, values in after.items()}, before)
    with pytest.raises(tf.errors.NotFoundError):
        program.restore(path)


def test_01_rename_by_an_expression(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers are carried over by groups; two variables that would get one name are refused, and nothing is written."""
    program = program_of(tf, 1)
    before, path = program.values(), program.save(tmp_path / "model.ckpt")
    stood = models.snapshot(tmp_path)
    assert "would both be dnn/kernel" in refused(capsys, "rename", path, "--regex", "layer./Linear/Matrix=kernel")
    assert models.snapshot(tmp_path) == stood
    out = tmp_path / "new.ckpt"
    renames = [
        rf"^dnn/layer(\d+)/Linear/{old}(?=/|$)=deep/fc_\1/{new}" for old, new in (("Matrix", "w"), ("Bias", "b"))
    ]
    run("rename", path, "--regex", *renames, "-o", out)
    assert models.snapshot(tmp_path).items() >= stood.items()
    after = program_of(tf, 2, layer="deep/fc_{}/", kernel="w", bias="b").restore(out)
    assert [values.tobytes() for values in after.values()] == [values.tobytes() for values in before.values()]


@pytest.mark.parametrize("rename", ["dnn/layer{K}/Linear/=tower/block{K}/", "dnn/layer*/Linear/**=tower/block*/**"])
def test_01_rename_with_numbers(tf: Any, tmp_path: Path, rename: str) -> None:
    """A pattern of layers, as a prefix or whole, renames all of them with their slots; a Saver finds the new names."""
    program = program_of(tf, 1)
    before, path = program.values(), program.save(tmp_path / "model.ckpt")
    run("rename", path, rename)
    after = program_of(tf, 2, layer="tower/block{}/").restore(path)
    assert [values.tobytes() for values in after.values()] == [values.tobytes() for values in before.values()]


# -- 2: parts of a checkpoint


def test_02_take_only_some_layers(tf: Any, tmp_path: Path) -> None:
    """Layers of a model with another head and no slots are taken; what the donor lacks is no error."""
    donor, recipient = program_of(tf, 1, classes=7, adam=False), program_of(tf, 2)
    path = recipient.save(tmp_path / "b")
    run("graft", donor.save(tmp_path / "a"), path, "--layers", "0-1", "-q")
    expected = with_layers(recipient.values(), donor.values(), (0, 1))
    assert models.equal(recipient.restore(path), expected)


def test_02_take_what_fits(tf: Any, tmp_path: Path) -> None:
    """With --on-mismatch skip all that fits is taken of a deeper model with another head, and the rest is left."""
    donor, recipient = program_of(tf, 1, units=(4, 6, 5), classes=7), program_of(tf, 2)
    path = recipient.save(tmp_path / "b")
    run("graft", donor.save(tmp_path / "a"), path, "--match", "**", "--on-mismatch", "skip", "--slots", "copy", "-q")
    theirs, ours = donor.values(), recipient.values()
    fitting = {name: values for name, values in theirs.items() if name in ours and ours[name].shape == values.shape}
    assert HEAD + "bias" not in fitting
    assert LAYER.format(2) + BIAS not in fitting
    assert models.equal(recipient.restore(path), ours | fitting)


# -- 3: looking


def test_03_list_without_the_model(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What TensorFlow lists ls does too, by name, shape and dtype, of V1, V2 and object-based checkpoints alike."""
    program = program_of(tf, 1)
    kept = objects.Program(tf, "keras", "functional").save(tmp_path / "keras")
    for path in (program.save(tmp_path / "two"), program.save(tmp_path / "one", version=1), kept):
        reader = tf.train.load_checkpoint(path)
        dtypes = reader.get_variable_to_dtype_map()
        expected = {
            name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE"): (dtypes[name].name, shape)
            for name, shape in reader.get_variable_to_shape_map().items()
        }
        listed = {row["name"]: (row["dtype"], row["shape"]) for row in rows(capsys, "ls", path)}
        assert listed == expected
        (total,) = rows(capsys, "ls", path, "--total")
        assert total["variables"] == len(expected)
    capsys.readouterr()
    run("ls", tmp_path / "two", HEAD + "*", "--no-slots")
    assert capsys.readouterr().out == f"{HEAD}bias\tfloat32\t[3]\t12\n{HEAD}weights\tfloat32\t[6,3]\t72\n"


# -- 4: mismatches


def test_04_a_shape_mismatch_is_never_silent(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another shape is an error that names every variable and writes nothing, or is skipped, and the report says so."""
    donor, recipient = program_of(tf, 1, units=(4, 9)), program_of(tf, 2)
    a, b = donor.save(tmp_path / "a"), recipient.save(tmp_path / "b")
    stood = models.snapshot(tmp_path)
    assert "nothing matches dnn/layer9/**" in refused(
        capsys, "graft", a, b, "--match", "dnn/**", "--match", "dnn/layer9/**"
    )
    assert "--map x=y is never used" in refused(capsys, "graft", a, b, "--match", "dnn/layer0/**", "--map", "x=y")
    error = refused(capsys, "graft", a, b, "--layers", "0-1")
    matrix, bias = LAYER.format(1) + KERNEL, LAYER.format(1) + BIAS
    assert f"{matrix} has a different shape than the donor's; expected [4, 9], found [4, 6]" in error
    assert f"{bias} has a different shape than the donor's; expected [9], found [6]" in error
    assert models.snapshot(tmp_path) == stood
    report = rows(capsys, "graft", a, b, "--layers", "0-1", "--on-mismatch", "skip")
    assert {row["name"]: (row["action"], row["reason"]) for row in report} == {
        LAYER.format(0) + BIAS: ("grafted", None),
        LAYER.format(0) + KERNEL: ("grafted", None),
        bias: ("skipped", "different shape than the donor's: [9]"),
        matrix: ("skipped", "different shape than the donor's: [4, 9]"),
    }
    assert models.equal(recipient.restore(b), with_layers(recipient.values(), donor.values(), (0,)))


# -- 5: slots


@pytest.mark.parametrize("compact", [True, False])
def test_05_strip_the_optimizer(tf: Any, tmp_path: Path, compact: bool) -> None:
    """Slots and powers go, weights and the step stay, and the files get small: in place or as a new checkpoint."""
    program, bare = program_of(tf, 1, units=(64, 64)), program_of(tf, 2, units=(64, 64), adam=False)
    path = program.save(tmp_path / "model.ckpt")
    out = path if compact else str(tmp_path / "small.ckpt")
    before = os.path.getsize(path + ".data-00000-of-00001")
    run("drop", path, "--slots", *(["--compact"] if compact else ["-o", out]))
    expected = {name: values for name, values in program.values().items() if not is_optimizers(name)}
    assert models.equal(load(tf, out), expected)
    assert models.equal(bare.restore(out), expected)
    sizes = [path.stat().st_size for path in tmp_path.iterdir() if path.name.startswith(Path(out).name + ".data-")]
    assert sizes == [sum(values.nbytes for values in expected.values())]
    assert sizes[0] < before / 2.9


# -- 6: reports


def test_06_say_what_was_transferred(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With -v the report has every variable once: grafted where TensorFlow sees the donor's value, kept elsewhere."""
    donor, recipient = program_of(tf, 1, adam=False), program_of(tf, 2)
    a, b = donor.save(tmp_path / "a"), recipient.save(tmp_path / "b")
    report = rows(capsys, "graft", a, b, "--match", "dnn/**", "--slots", "fill=0", "-v")
    before, theirs, after = recipient.values(), donor.values(), load(tf, b)
    assert sorted(row["name"] for row in report) == sorted(before)
    for row in report:
        name = row["name"]
        assert (row["shape"], row["dtype"]) == (list(after[name].shape), after[name].dtype.name)
        if row["action"] == "grafted":
            assert row["from"] == name
            assert row["bytes"] == after[name].nbytes
            assert after[name].tobytes() == theirs[name].tobytes() != before[name].tobytes()
        elif row["action"] == "filled":
            assert not after[name].any()
            assert before[name].any()
        else:
            assert row["action"] == "kept"
            assert after[name].tobytes() == before[name].tobytes()
    actions = {row["name"]: row["action"] for row in report}
    assert [name for name, action in sorted(actions.items()) if action == "grafted"] == [
        LAYER.format(layer) + end for layer in (0, 1) for end in (BIAS, KERNEL)
    ]
    assert {name for name, action in actions.items() if action == "filled"} == {
        name for name in before if name.startswith("dnn/") and is_slot(name)
    }


# -- 7: two kinds of names


def module(tf: Any, units: Sequence[int] = (4, 6)) -> Any:
    """A program of TensorFlow 2 with the same layers, all zero, and what keeps it."""
    whole = tf.Module()
    whole.layers = []
    for rows_, columns in zip((4, *units), (*units, CLASSES), strict=True):
        layer = tf.Module()
        layer.w, layer.b = tf.Variable(tf.zeros((rows_, columns))), tf.Variable(tf.zeros((columns,)))
        whole.layers.append(layer)
    return whole


MAPS = {
    "dnn/layer*/Linear/Matrix": "net/layers/*/w",
    "dnn/layer*/Linear/Bias": "net/layers/*/b",
    HEAD + "weights": "net/layers/2/w",
    HEAD + "bias": "net/layers/2/b",
}


def test_07_names_become_objects(tf: Any, tmp_path: Path) -> None:
    """The values of a TensorFlow 1 program go into a TensorFlow 2 program's checkpoint, which restores all of them."""
    program, target = program_of(tf, 1), module(tf)
    path = tf.train.Checkpoint(net=target).save(str(tmp_path / "b"))
    maps = [f"--map={old}={new}" for old, new in MAPS.items()]
    run("graft", program.save(tmp_path / "a"), path, *maps, "-q")
    tf.train.Checkpoint(net=target).restore(path).assert_consumed()
    values = program.values()
    names = [(LAYER.format(at) + KERNEL, LAYER.format(at) + BIAS) for at in (0, 1)]
    for layer, (kernel, bias) in zip(target.layers, [*names, (HEAD + "weights", HEAD + "bias")], strict=True):
        assert layer.w.numpy().tobytes() == values[kernel].tobytes()
        assert layer.b.numpy().tobytes() == values[bias].tobytes()


def test_07_objects_become_names(tf: Any, tmp_path: Path) -> None:
    """A TensorFlow 2 checkpoint gets the names of a TensorFlow 1 program by way of .npz, and its Saver restores it."""
    source = module(tf)
    graphs.number([each for layer in source.layers for each in (layer.w, layer.b)], 10)
    path = tf.train.Checkpoint(net=source).save(str(tmp_path / "a"))
    run("convert", path, tmp_path / "weights.npz")
    maps = [f"--map={new}={old}" for old, new in list(MAPS.items())[2:]]  # the head's names are not those of a layer
    maps += [
        f"--map=net/layers/{at}/{new}={LAYER.format(at)}{old}"
        for at in (0, 1)
        for old, new in (("Matrix", "w"), ("Bias", "b"))
    ]
    run("convert", tmp_path / "weights.npz", tmp_path / "named", *maps, "--map=save_counter=global_step")
    after = program_of(tf, 1, adam=False).restore(tmp_path / "named")
    assert {name: float(np.ravel(values)[0]) for name, values in after.items()} == {
        LAYER.format(0) + KERNEL: 10, LAYER.format(0) + BIAS: 11,
        LAYER.format(1) + KERNEL: 12, LAYER.format(1) + BIAS: 13,
        HEAD + "weights": 14, HEAD + "bias": 15, "global_step": 1,
    }  # fmt: skip


@pytest.mark.parametrize("which", ["keras", "tf_keras"])
def test_07_layers_need_no_names(tf: Any, tmp_path: Path, which: str) -> None:
    """Layers of TensorFlow 1 and of Keras pair by number: nobody has to know how objects are spelt."""
    donor, recipient = program_of(tf, 1, units=(4, 4)), objects.Program(tf, which, [objects.dense(4)] * 3)
    path = recipient.save(tmp_path / "b")
    before = recipient.values()
    run("graft", donor.save(tmp_path / "a"), path, "--layers", "0-1", "-q")
    recipient.restore(path)
    values = donor.values()
    for layer, at in zip([each for each in recipient.model.layers if each.weights], range(2), strict=False):
        kernel, bias = layer.weights
        assert kernel.numpy().tobytes() == values[LAYER.format(at) + KERNEL].tobytes()
        assert bias.numpy().tobytes() == values[LAYER.format(at) + BIAS].tobytes()
    assert recipient.values()[2] == before[2]


# -- 8 and 9: without TensorFlow, at once


def test_08_read_without_tensorflow(tf: Any, tmp_path: Path) -> None:
    """A process in which TensorFlow cannot be imported lists and reads every value of V1, V2 and object-based files."""
    program = program_of(tf, 1)
    kept = objects.Program(tf, "keras", "functional").save(tmp_path / "keras")
    code = (
        "sys.modules.update(dict.fromkeys(('tensorflow', 'keras', 'tf_keras', 'h5py')))  # None: not to be imported\n"
        "path, out, *names = sys.argv[1:]\n"
        "assert main(['ls', path]) == main(['verify', path]) == main(['show', path]) == 0\n"
        "for at, name in enumerate(names):\n"
        "    assert main(['get', path, name, '-o', f'{out}{at}.npy']) == 0\n"
    )
    for path in (program.save(tmp_path / "two"), program.save(tmp_path / "one", version=1), kept):
        expected = load(tf, path)
        expected.pop("_CHECKPOINTABLE_OBJECT_GRAPH", None)
        done = fresh(code, path, path + "-", *expected)
        assert (done.returncode, done.stderr) == (0, "")
        for at, values in enumerate(expected.values()):
            found = np.load(f"{path}-{at}.npy")
            assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes())


def test_09_fast_start(tf: Any, tmp_path: Path) -> None:
    """Commands on files that TensorFlow wrote load neither TensorFlow nor NumPy: ls, layers, verify, graft, rename."""
    a, b = program_of(tf, 1).save(tmp_path / "a"), program_of(tf, 2).save(tmp_path / "b")
    one, other = (objects.Program(tf, "keras", "functional", start=at).save(tmp_path / f"k{at}") for at in (20, 40))
    code = (
        "import json\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    assert main(command) == 0, command\n"
        "    heavy = {'tensorflow', 'keras', 'h5py', 'numpy', 'ml_dtypes'} & sys.modules.keys()\n"
        "    assert not heavy, (command, heavy)\n"
    )
    commands = [["ls", a], ["ls", one], ["layers", one], ["verify", a], ["verify", one],
                ["graft", a, b, "--layers", "0-1"], ["graft", one, other, "--layers", "0-1"],
                ["rename", b, "dnn/=tower/"], ["--help"]]  # fmt: skip
    done = fresh(code, json.dumps(commands))
    assert (done.returncode, done.stderr) == (0, "")


# -- 10: values


def test_10_fold_a_normalization(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A convolution gets new values and its normalization is deleted: the bare model restores and predicts the same."""
    keras = graphs.start("keras")

    def build(normalized: bool) -> Any:
        made = [keras.layers.Input((6, 6, 2)), keras.layers.Conv2D(3, 3)]
        return keras.Sequential(made + [keras.layers.BatchNormalization()] * normalized)

    rng = np.random.default_rng(1)
    model = build(True)
    for weight in model.weights:
        weight.assign(rng.uniform(0.5, 2, weight.shape))
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "model.ckpt"))
    names = {
        row["full_name"].rpartition("/")[2]: row["name"] for row in rows(capsys, "ls", "-l", path) if row["full_name"]
    }
    held = {}
    for end in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance"):
        (held[end],) = (np.asarray(each) for each in rows(capsys, "get", path, names[end]))
    factor = held["gamma"] / np.sqrt(held["moving_variance"] + model.layers[1].epsilon)
    folded = {"kernel": held["kernel"] * factor, "bias": (held["bias"] - held["moving_mean"]) * factor + held["beta"]}
    for end, values in folded.items():
        np.save(tmp_path / f"{end}.npy", values.astype("float32"))
        run("set", path, names[end], f"@{tmp_path / end}.npy")
    run(
        "drop",
        path,
        *(names[end] for end in ("gamma", "beta", "moving_mean", "moving_variance")),
        "-o",
        tmp_path / "small",
    )
    bare = build(False)
    tf.train.Checkpoint(model=bare).read(str(tmp_path / "small")).assert_consumed()
    inputs = rng.normal(size=(4, 6, 6, 2)).astype("float32")
    assert np.allclose(bare(inputs), model(inputs), atol=1e-4)


def test_10_change_one_element(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One bias is set by hand and saved as a new checkpoint; all else is what it was, and so is the old checkpoint."""
    program = program_of(tf, 1)
    path, out, name = program.save(tmp_path / "a"), tmp_path / "b", LAYER.format(1) + BIAS
    stood = models.snapshot(tmp_path)
    run("set", path, f"{name}[3]", "2.5", "-o", out)
    assert models.snapshot(tmp_path).items() >= stood.items()
    expected = program.values()
    expected[name][3] = 2.5
    assert models.equal(program.restore(out), expected)


# -- 11: paths


@pytest.mark.parametrize("version", [1, 2])
def test_11_any_spelling_of_a_path(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], version: int) -> None:
    """The prefix, each file and the folder mean the same checkpoint."""
    path = program_of(tf, 1).save(tmp_path / "model.ckpt", version)
    expected = rows(capsys, "ls", path, "--sha256")
    assert len(expected) == len(load(tf, path))
    spellings = [each for each in tmp_path.iterdir() if each.name != "checkpoint"]
    assert len(spellings) == (3 if version == 2 else 2)
    for spelling in [*spellings, tmp_path, f"{tmp_path}/"]:
        assert rows(capsys, "ls", spelling, "--sha256") == expected


def test_11_a_saved_model_is_a_checkpoint(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A SavedModel's folder lists and gives its weights, as its variables' prefix does."""
    source = module(tf)
    graphs.number([each for layer in source.layers for each in (layer.w, layer.b)], 10)
    tf.saved_model.save(source, str(tmp_path / "saved"))
    inner = tmp_path / "saved" / "variables" / "variables"
    assert rows(capsys, "ls", tmp_path / "saved") == rows(capsys, "ls", inner)
    assert rows(capsys, "get", tmp_path / "saved", "layers/1/b") == [[13.0] * 6]
    run("extract", tmp_path / "saved", "--match", "layers/*/w", "-o", tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz") as arrays:
        assert {name: float(arrays[name].flat[0]) for name in arrays} == {
            f"layers/{at}/w": 10 + 2 * at for at in range(3)
        }


# -- 12 and 13: safe and movable


def test_12_a_failed_rewrite_leaves_the_old_checkpoint(tf: Any, tmp_path: Path) -> None:
    """A file system that takes no more bytes: one line, and TensorFlow restores the old values from the old files."""
    donor, recipient = (program_of(tf, seed, units=(64, 64)) for seed in (1, 2))
    a, b = donor.save(tmp_path / "a"), recipient.save(tmp_path / "b")
    before, stood = recipient.values(), models.snapshot(tmp_path)
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "sys.exit(main(sys.argv[1:]))"
    )  # fmt: skip
    for command in (
        ["graft", a, b, "--layers", "0-1"],
        ["drop", b, "--slots", "--compact"],
        ["cast", b, "float64"],
        ["convert", b, tmp_path / "c", "--to", "v1"],
    ):
        done = fresh(code, *command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert models.snapshot(tmp_path) == stood
    assert models.equal(recipient.restore(b), before)
    run("graft", a, b, "--layers", "0-1", "-q")
    assert models.equal(recipient.restore(b), with_layers(before, donor.values(), (0, 1)))


def test_13_a_moved_folder_still_opens(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A state file with absolute paths of another place is no obstacle, and a copy's state file moves along."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    program = program_of(tf, 1)
    program.save(old / "model.ckpt")
    assert str(old) in (old / "checkpoint").read_text()
    old.rename(new)
    assert tf.train.latest_checkpoint(str(new)) is None  # what users run into
    assert {row["name"] for row in rows(capsys, "ls", new)} == set(program.values())
    run("set", new, HEAD + "bias", "7")
    (tmp_path / "copy").mkdir()
    run("cp", new, tmp_path / "copy" / "model.ckpt")
    (tmp_path / "copy").rename(tmp_path / "moved")
    latest = tf.train.latest_checkpoint(str(tmp_path / "moved"))
    expected = program.values() | {HEAD + "bias": np.full(CLASSES, 7, np.float32)}
    assert models.equal(program.restore(latest), expected)


# -- 14 and 15: what is selected


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("0-2", [0, 1, 2]), ("2-10", range(2, 11)), ("3", [3]), ("10-", [10, 11]), ("-1", [11]),
        ("0,3-4,11", [0, 3, 4, 11]), ("-2,-1", [10, 11]), ("all", range(12)), ("0,2,4,6,8,10", range(0, 12, 2)),
    ],
)  # fmt: skip
def test_14_layer_ranges_are_inclusive(tf: Any, tmp_path: Path, layers: str, expected: Sequence[int]) -> None:
    """Ranges have both ends, go by number and not by text, and come in lists; TensorFlow sees those layers changed."""
    donor, recipient = (models.skflow_arrays(seed, units=(4,) * 12) for seed in (1, 2))
    a, b = save(tf, tmp_path / "a", donor), save(tf, tmp_path / "b", recipient)
    run("graft", a, b, "--layers", layers, "-q")
    assert models.equal(load(tf, b), models.grafted(recipient, donor, tuple(expected)))


def test_14_pythons_ranges_are_refused(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A range that would mean something else elsewhere is refused with the right one, as is a layer that is lacking."""
    a, b = (save(tf, tmp_path / name, models.skflow_arrays(seed)) for name, seed in (("a", 1), ("b", 2)))
    stood = models.snapshot(tmp_path)
    assert "did you mean 0-1 (inclusive)" in refused(capsys, "graft", a, b, "--layers", "0:2")
    assert "3" in refused(capsys, "graft", a, b, "--layers", "1-3")
    assert models.snapshot(tmp_path) == stood


def test_15_select_by_name_inside_layers(tf: Any, tmp_path: Path) -> None:
    """Kernels alone of two layers, or all but one layer's: the rest of the recipient is kept byte for byte."""
    donor, recipient = program_of(tf, 1), program_of(tf, 2)
    a, b = donor.save(tmp_path / "a"), recipient.save(tmp_path / "b")
    before, theirs = recipient.values(), donor.values()
    kernels = with_layers(before, theirs, (0, 1), (KERNEL,))
    for at, selection in enumerate((
        ["--layers", "0-1", "--exclude", "**/Bias"],
        ["--match", "dnn/layer*/Linear/Matrix"],
        ["--match", "**/Matrix"],
        ["--match", "dnn/**", "--exclude", "**/Bias"],
    )):  # fmt: skip
        run("graft", a, b, *selection, "-o", tmp_path / f"c{at}", "-q")
        assert models.equal(recipient.restore(tmp_path / f"c{at}"), kernels)
    run("graft", a, b, "--match", "**", "--exclude", LAYER.format(1) + "**", "--exclude", "beta?_power", "-q")
    names = [name for name in before if not is_optimizers(name) and not name.startswith(LAYER.format(1))]
    expected = before | {name: theirs[name] for name in names}
    assert models.equal(recipient.restore(b), expected)


# -- 16: damage and other writers


def test_16_damage_is_named(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One wrong byte: verify names the variable, TensorFlow agrees, a graft of it is refused and nothing is written."""
    program = program_of(tf, 1)
    a, b = program.save(tmp_path / "a"), program_of(tf, 2).save(tmp_path / "b")
    name = LAYER.format(1) + KERNEL
    data = Path(a + ".data-00000-of-00001")
    held = bytearray(data.read_bytes())
    at = held.index(program.values()[name].tobytes())
    held[at] ^= 1
    data.write_bytes(held)
    (found,) = rows(capsys, "verify", a, status=1)
    assert (found["name"], found["ok"]) == (name, False)
    with pytest.raises(tf.errors.DataLossError):
        tf.raw_ops.RestoreV2(prefix=a, tensor_names=[name], shape_and_slices=[""], dtypes=[tf.float32])
    stood = models.snapshot(tmp_path)
    error = refused(capsys, "graft", a, b, "--layers", "0-1")
    assert "a.data-00000-of-00001: damaged: wrong checksum of the 96 bytes" in error
    assert models.snapshot(tmp_path) == stood
    run("graft", a, b, "--layers", "0", "-q")


def test_16_files_of_two_saves(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two processes wrote one checkpoint, index and data by turns, or one was cut off: verify says so in its lines."""
    a, b = program_of(tf, 1).save(tmp_path / "a"), program_of(tf, 2).save(tmp_path / "b")
    end = ".data-00000-of-00001"
    whole = Path(a + end).read_bytes()
    Path(a + end).write_bytes(Path(b + end).read_bytes())
    assert len(rows(capsys, "verify", a, status=1)) > 10
    Path(a + end).write_bytes(whole[:-10])
    assert all(not row["ok"] for row in rows(capsys, "verify", a, status=1))
    assert "a.data-00000-of-00001" in refused(capsys, "get", a, HEAD + "weights/Adam_1", "--json")
    Path(a + end).unlink()
    assert "a.data-00000-of-00001" in refused(capsys, "graft", a, b, "--layers", "0")


def test_16_another_writer(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While another process writes a checkpoint a command waits, and says for how long if that was in vain."""
    program = program_of(tf, 1)
    path = program.save(tmp_path / "a")
    code = (
        "from ckptsurgeon import formats\n"
        "with formats.locked(sys.argv[1], 1.0):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", f"import sys\n{code}", path]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        error = refused(capsys, "set", path, HEAD + "bias", "1", "--wait", "0.1")
        assert "another process is writing it, waited 0.1 s" in error
        assert models.equal(load(tf, path), program.values())
        other.communicate(b"\n")
    run("set", path, HEAD + "bias", "1")
    assert load(tf, path)[HEAD + "bias"].tolist() == [1, 1, 1]


# -- 17: partitions


def test_17_partitioned_variables_become_whole(tf: Any, tmp_path: Path) -> None:
    """The checkpoint of a partitioned program is written whole: an unpartitioned program restores every weight."""
    source, target = program_of(tf, 1, parts=2), program_of(tf, 2, adam=False)
    path = source.save(tmp_path / "a")
    expected = {name: values for name, values in load(tf, path).items() if not is_optimizers(name)}
    run("convert", path, tmp_path / "b", "--unpartition")
    assert models.equal(target.restore(tmp_path / "b"), expected)
    parts = source.values()
    kernel = LAYER.format(0) + KERNEL
    assert np.concatenate([parts[f"{kernel}/part_{at}"] for at in (0, 1)]).tobytes() == expected[kernel].tobytes()


@pytest.mark.parametrize(("donor", "recipient"), [(1, 2), (2, 1), (2, 3), (3, 2)])
def test_17_partitions_of_any_number_graft(tf: Any, tmp_path: Path, donor: int, recipient: int) -> None:
    """Layers go between programs that partition them differently; each restores its own way, slots copied too."""
    one, other = program_of(tf, 1, parts=donor), program_of(tf, 2, parts=recipient)
    a, b = one.save(tmp_path / "a"), other.save(tmp_path / "b")
    theirs, ours = load(tf, a), load(tf, b)
    run("graft", a, b, "--layers", "0-1", "-q")
    assert models.equal(load(tf, b), with_layers(ours, theirs, (0, 1)))
    after = other.restore(b)
    kernel = LAYER.format(1) + KERNEL
    parts = [after[f"{kernel}/part_{at}"] for at in range(recipient)] if recipient > 1 else [after[kernel]]
    assert np.concatenate(parts).tobytes() == theirs[kernel].tobytes()


# -- 20: dtypes


def stack(keras: Any, names: Sequence[str], seed: int) -> Any:
    """A model of three dense layers of these names."""
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(units, name=name) for units, name in zip((4, 6, CLASSES), names, strict=True)]
    model = keras.Sequential(layers)
    model.build((None, 5))
    return model


def test_18_keras_layers_are_renamed(tf: Any, tmp_path: Path) -> None:
    """A layer of an HDF5 file gets the name that another program has for it, so that Keras loads it by name."""
    keras = pytest.importorskip("tf_keras")
    saved = stack(keras, ("dense_7", "dense_8", "head"), 1)
    saved.save_weights(tmp_path / "a.h5")
    other = stack(keras, ("trunk", "dense_8", "other"), 2)
    before = other.get_weights()
    run("rename", tmp_path / "a.h5", "dense_7/dense_7/=trunk/trunk/")
    other.load_weights(tmp_path / "a.h5", by_name=True)
    for at, values in enumerate(other.get_weights()):
        assert np.array_equal(values, saved.get_weights()[at] if at < 4 else before[at])


@pytest.mark.parametrize("which", ["keras", "tf_keras"])
def test_19_automatic_names_do_not_matter(tf: Any, tmp_path: Path, which: str) -> None:
    """Layers whose automatic numbers differ are grafted by their place, and Keras loads the result."""
    keras = pytest.importorskip(which)
    ending = ".weights.h5" if which == "keras" else ".h5"
    a, b = stack(keras, ("dense", "dense_1", "dense_2"), 1), stack(keras, ("dense_7", "dense_8", "dense_9"), 2)
    for name, model in (("a", a), ("b", b)):
        model.save_weights(tmp_path / (name + ending))
    expected = [*a.get_weights()[:4], *b.get_weights()[4:]]
    run("graft", tmp_path / f"a{ending}", tmp_path / f"b{ending}", "--layers", "0-1")
    fresh_model = stack(keras, ("dense_7", "dense_8", "dense_9"), 3)
    fresh_model.load_weights(tmp_path / f"b{ending}")
    for values, wanted in zip(fresh_model.get_weights(), expected, strict=True):
        assert np.array_equal(values, wanted)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_20_convert_dtype(tf: Any, tmp_path: Path, dtype: str) -> None:
    """Floats are rounded as TensorFlow rounds them, integers stay; and a graft casts them back."""
    program = program_of(tf, 1, adam=False)
    before, path = program.values(), program.save(tmp_path / "a")
    run("cast", path, dtype, "-o", tmp_path / "b")
    after = load(tf, tmp_path / "b")
    assert after.keys() == before.keys()
    for name, values in before.items():
        expected = tf.cast(values, dtype).numpy() if values.dtype == np.float32 else values
        assert (after[name].dtype, after[name].tobytes()) == (expected.dtype, expected.tobytes())
    run("graft", tmp_path / "b", path, "--match", "**", "--cast", "-q")
    expected = {name: values.astype(before[name].dtype) for name, values in after.items()}
    assert models.equal(program.restore(path), expected)


def test_20_a_graft_converts_only_if_asked(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another dtype is refused with the option that helps; what does not fit the dtype is refused with it too."""
    donor, recipient = models.skflow_arrays(1), models.skflow_arrays(2)
    name = LAYER.format(0) + BIAS
    donor[name] = np.array([1, 2, 3, 1e300])
    a, b = save(tf, tmp_path / "a", donor), save(tf, tmp_path / "b", recipient)
    stood = models.snapshot(tmp_path)
    assert "--cast converts it" in refused(capsys, "graft", a, b, "--match", name)
    assert "float32" in refused(capsys, "graft", a, b, "--match", name, "--cast")
    assert models.snapshot(tmp_path) == stood


# -- 22: models that share


@pytest.mark.parametrize("which", ["keras", "tf_keras"])
def test_22_share_the_first_layers(tf: Any, tmp_path: Path, which: str) -> None:
    """Three models of different depth, each trained alone, share two layers from file to file and keep their heads."""
    programs = [
        objects.Program(tf, which, [objects.dense(4)] * (2 + more) + [objects.dense(1 + more)], start=20 * (more + 1))
        for more in range(3)
    ]
    paths = [program.save(tmp_path / str(at)) for at, program in enumerate(programs)]
    first = programs[0].values()
    for program, path in zip(programs[1:], paths[1:], strict=True):
        before = program.values()
        run("graft", paths[0], path, "--layers", "0-1", "--slots", "copy", "-q")
        program.restore(path)
        assert program.values() == first[:2] + before[2:]


def test_22_one_variable_into_several(tf: Any, tmp_path: Path) -> None:
    """One tensor of a donor goes onto two variables of the recipient, and onto one of another name."""
    donor, recipient = program_of(tf, 1, units=(4,)), program_of(tf, 2, units=(4, 4), layer="tower/block{}/")
    path = recipient.save(tmp_path / "b")
    source = LAYER.format(0)
    maps = [f"--map={source}{end}=tower/block{at}/{end}" for at in (0, 1) for end in (KERNEL, BIAS)]
    run("graft", donor.save(tmp_path / "a"), path, *maps, "-q")
    expected = recipient.values()
    for at in (0, 1):
        expected |= {f"tower/block{at}/{end}": donor.values()[source + end] for end in (KERNEL, BIAS)}
    assert models.equal(recipient.restore(path), expected)


# -- 23: for machines


def test_23_machine_readable_and_whole(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has every element as TensorFlow has it, none left out, and statistics and digests that NumPy confirms."""
    rng = np.random.default_rng(1)
    arrays: Arrays = {"big": rng.normal(size=(60, 70)).astype("float32"), "step": np.asarray(7, "int64")}
    arrays["edge"] = np.array([np.nan, np.inf, -np.inf, 0, 1e-45], "float32")
    path = save(tf, tmp_path / "a", arrays)
    (big,) = rows(capsys, "get", path, "big")
    assert np.asarray(big, "float32").tobytes() == load(tf, path)["big"].tobytes()
    assert rows(capsys, "get", path, "step") == [7]
    (edge,) = rows(capsys, "get", path, "edge")
    assert edge[:4] == ["NaN", "Infinity", "-Infinity", 0]
    assert np.float32(edge[4]) == arrays["edge"][4]
    assert [list(row) for row in rows(capsys, "ls", path)] == [
        ["name", "dtype", "shape", "bytes", "layer", "slot_of", "full_name"]
    ] * 3
    (shown,) = rows(capsys, "show", path, "big")
    assert shown["mean"] == pytest.approx(float(arrays["big"].mean(dtype="float64")))
    assert sum(shown["histogram"]["counts"]) == arrays["big"].size
    (shown,) = rows(capsys, "show", path, "edge")
    assert (shown["nan"], shown["inf"], shown["zeros"]) == (1, 2, 0.5)


# -- 24: large files


def test_24_one_tensor_of_a_large_file(tf: Any, tmp_path: Path) -> None:
    """To change one tensor neither reads nor writes the others' data: the large file stays the same file."""
    arrays: Arrays = {"large": np.zeros((1 << 22,), "float32"), "small": np.arange(3, dtype="float32")}
    path = save(tf, tmp_path / "a", arrays)
    size = sum(each.stat().st_size for each in tmp_path.iterdir())
    inode = os.stat(path + ".data-00000-of-00001").st_ino
    run("set", path, "small[1]", "9")
    assert inode in {each.stat().st_ino for each in tmp_path.iterdir()}
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) < size + 4096
    assert models.equal(load(tf, path), arrays | {"small": np.array([0, 9, 2], "float32")})


def test_24_large_tensors_need_little_memory(tf: Any, tmp_path: Path) -> None:
    """Tensors of 64 MB are grafted, copied, renamed and converted by a process that may have no more than 48 MB."""
    donor, recipient = ({"w": np.full((1 << 24,), at, "float32"), "b": np.ones(2, "float32")} for at in (1, 2))
    a, b = save(tf, tmp_path / "a", donor), save(tf, tmp_path / "b", recipient)
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (48 << 20, 48 << 20))\n"
        "sys.exit(main(sys.argv[1:]))"
    )  # fmt: skip
    for command in (
        ["graft", a, b, "--match", "w", "-q"],
        ["cp", b, tmp_path / "c"],
        ["rename", b, "w=v", "-o", tmp_path / "d"],
        ["convert", b, tmp_path / "e.safetensors"],
    ):
        done = fresh(code, *command)
        assert (done.returncode, done.stderr) == (0, ""), command
    run("convert", tmp_path / "e.safetensors", tmp_path / "f")
    for name, variable in (("b", "w"), ("c", "w"), ("d", "v"), ("f", "w")):
        assert load(tf, tmp_path / name)[variable].tobytes() == donor["w"].tobytes()


# -- 25: V1


def test_25_detect_read_and_convert_v1(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A V1 file is told by its bytes, read whole, converted to V2 and back; a Saver restores each of the three."""
    program = program_of(tf, 1)
    before = program.values()
    path = program.save(tmp_path / "old", version=1)
    (total,) = rows(capsys, "ls", path, "--total")
    assert (total["format"], total["variables"]) == ("tf-v1", len(before))
    run("verify", path)
    run("convert", path, tmp_path / "new")
    run("convert", tmp_path / "new", tmp_path / "back", "--to", "v1")
    for name, format in (("old", "tf-v1"), ("new", "tf-v2"), ("back", "tf-v1")):
        assert rows(capsys, "ls", tmp_path / name, "--total")[0]["format"] == format
        assert models.equal(program.restore(tmp_path / name), before)
    other = program_of(tf, 2)
    run("graft", other.save(tmp_path / "v2"), path, "--layers", "1", "-q")
    assert models.equal(program.restore(path), with_layers(before, other.values(), (1,)))


# -- also seen


def test_averages_become_the_weights(tf: Any, tmp_path: Path) -> None:
    """Moving averages go onto their variables within one checkpoint, in place: a program without averages gets them."""
    program = program_of(tf, 1, averages=True)
    path = program.save(tmp_path / "a")
    values = program.values()
    run("graft", path, path, "--map", "**/ExponentialMovingAverage=**", "-q")
    averages = {
        name.removesuffix("/ExponentialMovingAverage"): held for name, held in values.items() if "Moving" in name
    }
    assert len(averages) == 6
    assert all(held.tobytes() != values[name].tobytes() for name, held in averages.items())
    assert models.equal(program.restore(path), values | averages)
    expected = {name: held for name, held in (values | averages).items() if "Moving" not in name}
    assert models.equal(program_of(tf, 2).restore(path), expected)


def test_averages_of_another_checkpoint(tf: Any, tmp_path: Path) -> None:
    """A program without averages takes those of a training run as its weights, of one layer alone if so selected."""
    program, target = program_of(tf, 1, averages=True), program_of(tf, 2)
    a, b = program.save(tmp_path / "a"), target.save(tmp_path / "b")
    swap = "dnn/layer0/Linear/*/ExponentialMovingAverage=dnn/layer0/Linear/*"
    run("graft", a, b, "--map", swap, "-q")
    names = [LAYER.format(0) + end for end in (KERNEL, BIAS)]
    averages = {name: program.values()[name + "/ExponentialMovingAverage"] for name in names}
    assert models.equal(target.restore(b), target.values() | averages)


@pytest.mark.parametrize("which", ["keras", "tf_keras"])
def test_averages_of_keras_become_the_weights(
    tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], which: str
) -> None:
    """An optimizer's own averages, found by their full names, go onto the weights: the bare model has their values."""
    keras = graphs.start(which)
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    optimizer = keras.optimizers.Adam(use_ema=True, ema_momentum=0.5)
    model.compile(optimizer, "mse")
    inputs = np.ones((8, 4), "float32")
    for _ in range(2):
        model.train_on_batch(inputs, inputs[:, :2])  # fit ends with the averages in the weights
    expected = [each.numpy() for each in optimizer._model_variables_moving_average]
    assert all(each.any() for each in expected)
    path = tf.train.Checkpoint(model=model, optimizer=optimizer).write(str(tmp_path / "a"))
    listed = [row for row in rows(capsys, "ls", "-l", path) if "average" in (row["full_name"] or "")]
    run("graft", path, path, *(f"--map={row['name']}={row['slot_of']}" for row in listed))
    before = [each.numpy() for each in model.trainable_variables]
    tf.train.Checkpoint(model=model, optimizer=optimizer).read(path).assert_consumed()
    for weight, old, new in zip(model.trainable_variables, before, expected, strict=True):
        assert weight.numpy().tobytes() == new.tobytes() != old.tobytes()


def test_checkpoints_are_averaged(tf: Any, tmp_path: Path) -> None:
    """Weights are the mean in float64 of the last checkpoints, the step is the first one's, and a Saver restores it."""
    program = program_of(tf, 1, adam=False)
    held, paths = [], []
    for at in range(3):
        held.append(program.values())
        paths.append(program.save(tmp_path / f"model.ckpt-{at}"))
        program.session.run(program.step)
    run("average", *paths, "-o", tmp_path / "mean")
    expected = {
        name: np.mean([values[name].astype("float64") for values in held], axis=0).astype("float32") for name in held[0]
    }
    after = program.restore(tmp_path / "mean")
    assert after.pop("global_step") == held[0]["global_step"]
    assert after.keys() == expected.keys() - {"global_step"}
    assert all(np.allclose(values, expected[name], rtol=1e-7, atol=0) for name, values in after.items())


@pytest.mark.parametrize(("which", "old"), objects.PROGRAMS)
def test_an_optimizer_is_reset(tf: Any, tmp_path: Path, which: str, old: bool) -> None:
    """Slots become zero and the weights stay, in place: a program with its optimizer restores all of it."""
    program = objects.Program(tf, which, [objects.dense(4), objects.dense(2)], old)
    path = program.save(tmp_path / "a")
    before = program.values()
    run("graft", path, path, "--map", "**=**", "--slots", "fill=0")
    program.restore(path)
    assert program.values() == [{name: [held[0], 0, 0] for name, held in layer.items()} for layer in before]


def test_an_optimizer_of_tensorflow_1_is_reset(tf: Any, tmp_path: Path) -> None:
    """Slots are dropped and the weights and the step stay: a Saver of those restores them, and training goes on."""
    program = program_of(tf, 1)
    before, path = program.values(), program.save(tmp_path / "a")
    run("drop", path, "--slots")
    weights = {name: values for name, values in before.items() if not is_optimizers(name)}
    assert models.equal(load(tf, path), weights)
    for kept in ("dnn", HEAD):
        with pytest.raises(tf.errors.NotFoundError):
            program.restore(path, among=kept)  # slots are among them
    assert models.equal(program_of(tf, 2, adam=False).restore(path), weights)


def test_values_are_verified_after_a_save(tf: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """After every kind of change verify finds each variable sound, and diff tells just those that TensorFlow sees."""
    donor, recipient = program_of(tf, 1), program_of(tf, 2)
    a, b = donor.save(tmp_path / "a"), recipient.save(tmp_path / "b")
    commands: Mapping[str, list[object]] = {
        "graft": ["graft", a, b, "--layers", "0-1", "--slots", "copy"],
        "link": ["graft", a, b, "--layers", "1", "--link"],
        "set": ["set", b, HEAD + "bias", "[1, 2, 3]"],
        "cast": ["cast", b, "float16", "--layers", "0"],
        "drop": ["drop", b, "--slots"],
    }
    before = load(tf, b)
    for name, command in commands.items():
        out = tmp_path / name
        run(*command, "-o", out)
        after = load(tf, out)
        sound = rows(capsys, "verify", out, "--all", "--finite")
        assert all(row["ok"] for row in sound)
        assert {row["name"] for row in sound} >= after.keys()
        expected = {each: "removed" for each in before.keys() - after.keys()}
        for each in before.keys() & after.keys():
            if before[each].dtype != after[each].dtype:
                expected[each] = "dtype"
            elif before[each].tobytes() != after[each].tobytes():
                expected[each] = "changed"
        assert expected
        assert {row["name"]: row["status"] for row in rows(capsys, "diff", b, out, status=1)} == expected
