"""The built-in trainer as a process: the contract on its stdin and stdout, and `--once`, which `train` runs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_iris

from ckptsurgeon import data, formats
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.schemes.skflow_names import CLASSIFIER, REGRESSOR
from ckptsurgeon.skflow.checkpoints import architecture
from ckptsurgeon.skflow.checkpoints.architecture import Architecture
from ckptsurgeon.skflow.trainer.arguments import parse_worker
from ckptsurgeon.skflow.trainer.checkpoint_trainer import CheckpointTrainer, rows_for, write_initial
from ckptsurgeon.skflow.trainer.single_step import train_once

pytestmark = pytest.mark.tensorflow

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT}
COMMAND = [sys.executable, "-m", "ckptsurgeon.skflow.worker"]
NET = ["--hidden-units", "10,20,10", "--features", "4", "--classes", "3"]
IRIS = load_iris()
X, Y = IRIS.data.astype(np.float32), IRIS.target.astype(np.int64)


class Talk:
    """A worker process, and requests to it; with a log, the imports are listed there."""

    def __init__(self, *arguments: str, log: Any = None) -> None:
        self.log = log
        environment = ENVIRONMENT if log is None else {**ENVIRONMENT, "PYTHONPROFILEIMPORTTIME": "1"}
        with contextlib.nullcontext() if log is None else log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
            )

    def line(self, line: bytes) -> Any:
        """Send a line and return the answer to it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def ask(self, op: str, output: Any, checkpoint: Any = None, rows: Any = None, **more: Any) -> Any:
        """Send a request; its step is 5 unless told otherwise."""
        paths = {"output": output, "checkpoint": checkpoint, "data": rows}
        texts = {name: None if path is None else str(path) for name, path in paths.items()}
        request = {"v": 1, "op": op, "step": 5, "round": 1, "batch": 1, "seed": 7, **texts, **more}
        return self.line(json.dumps(request).encode())

    def close(self) -> int:
        """End its input, and return its exit status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        status = self.process.wait(600)
        self.process.stdout.close()
        return status


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Talk]:
    """One worker process for the whole module."""
    talk = Talk(*NET, "--optimizer", "Adagrad", log=tmp_path_factory.mktemp("worker") / "imports")
    yield talk
    assert talk.close() == 0


@pytest.fixture
def start(tmp_path: Any) -> Any:
    """A folder with first weights `start` of the module's network, and a mini-batch `batch.npz`."""
    write_initial(Architecture(4, (10, 20, 10), CLASSIFIER, 3, "Adagrad"), str(tmp_path / "start"), 3, 0.1)
    data.write_batch(str(tmp_path / "batch.npz"), X[::5], Y[::5])
    return tmp_path


def values(path: Any) -> dict[str, Any]:
    with formats.open(str(path)) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint}


def content(path: Any) -> dict[str, bytes]:
    """Return the bytes of all files of a checkpoint."""
    found = sorted(path.parent.glob(f"{path.name}.*"))
    assert found
    return {file.name[len(path.name) :]: file.read_bytes() for file in found}


def table(path: Any, *rows: str) -> str:
    path.write_text("\n".join(["a,b,c,d,species", *rows]) + "\n")
    return str(path)


def iris_csv(path: Any) -> str:
    names = IRIS.target_names[Y]
    return table(path, *(",".join([*map(str, row), name]) for row, name in zip(IRIS.data, names, strict=True)))


# -- the contract


def test_first_weights_come_from_the_seed_alone(worker: Talk, tmp_path: Any) -> None:
    """Twice the same seed, the same bytes; another seed, other weights."""
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert worker.ask("init", tmp_path / name, seed=seed) == {"step": 5, "metrics": {}}
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")


def test_tensorflow_reads_the_first_weights(worker: Talk, tmp_path: Any) -> None:
    """Under skflow's names: weights uniform within sqrt(3 / fan_in), biases of 0, accumulators of 0.1."""
    import tensorflow as tf

    worker.ask("init", tmp_path / "m")
    reader = tf.train.load_checkpoint(str(tmp_path / "m"))
    shapes = reader.get_variable_to_shape_map()
    widths = [4, 10, 20, 10]
    for layer, shape in enumerate(pairwise(widths)):
        name = f"dnn/layer{layer}/Linear"
        weights = reader.get_tensor(f"{name}/Matrix")
        assert (weights.shape, weights.dtype) == (shape, np.float32)
        assert 0.7 < abs(weights).max() / np.sqrt(3 / shape[0]) <= 1
        assert not reader.get_tensor(f"{name}/Bias").any()
        assert (reader.get_tensor(f"{name}/Matrix/Adagrad") == np.float32(0.1)).all()
    assert shapes["logistic_regression/weights"] == [10, 3]
    assert (reader.get_tensor("global_step"), reader.get_tensor("learning_rate")) == (0, np.float32(0.1))
    assert reader.get_variable_to_dtype_map()["global_step"] == tf.int32
    assert len(shapes) == 18


def test_a_learning_rate_of_the_request_counts_and_is_stored(worker: Talk, start: Any) -> None:
    """The step is that of a checkpoint with this learning rate; null and no such key leave it to the checkpoint."""
    lower = {**values(start / "start"), "learning_rate": np.float32(0.02)}
    formats.write(str(start / "lower"), lower)
    outputs = {
        "sent": ("start", {"learning_rate": 0.02}),
        "held": ("lower", {}),
        "null": ("lower", {"learning_rate": None}),
    }
    for output, (checkpoint, keys) in outputs.items():
        answer = worker.ask("train", start / output, start / checkpoint, start / "batch.npz", **keys)
        assert answer["metrics"]["loss"] > 0
    assert content(start / "sent") == content(start / "held") == content(start / "null")
    for wrong in ("0.1", True, -1):
        answer = worker.ask("train", start / "no", start / "start", start / "batch.npz", learning_rate=wrong)
        assert answer["error"].startswith("the request has no valid learning_rate; expected a number or null, found")


def test_it_starts_without_keras(worker: Talk, start: Any) -> None:
    """TensorFlow would import it, and all that Keras can use, in as much time again."""
    worker.ask("train", start / "one", start / "start", start / "batch.npz")
    imported = {line.rpartition("|")[2].strip() for line in worker.log.read_text().splitlines()}
    assert "tensorflow" in imported
    assert not [name for name in imported if name.partition(".")[0] in ("keras", "tf_keras", "matplotlib")]


def test_the_checkpoint_is_the_only_truth(worker: Talk, start: Any) -> None:
    """One step from one checkpoint, with another one between, gives the same bytes; the input is left alone."""
    before = content(start / "start")
    first = worker.ask("train", start / "one", start / "start", start / "batch.npz")
    assert worker.ask("train", start / "two", start / "one", start / "batch.npz")["metrics"] != first["metrics"]
    assert worker.ask("train", start / "again", start / "start", start / "batch.npz", seed=8) == first
    assert content(start / "one") == content(start / "again")
    assert content(start / "start") == before
    old, new = values(start / "start"), values(start / "one")
    assert {n: (v.dtype, v.shape) for n, v in old.items()} == {n: (v.dtype, v.shape) for n, v in new.items()}
    assert new["global_step"] == 1
    assert new["learning_rate"] == old["learning_rate"]
    assert first["step"] == 5
    assert 0 < first["metrics"]["loss"] < 10


def test_steps_lower_the_loss_on_the_rows_that_they_see(worker: Talk, start: Any) -> None:
    """Sixty steps, each from the last one's checkpoint, halve the loss and count themselves."""
    losses = []
    for step in range(60):
        checkpoint = start / ("start" if not step else f"m-{step - 1}")
        answer = worker.ask("train", start / f"m-{step}", checkpoint, start / "batch.npz", step=step)
        assert answer["step"] == step
        losses.append(answer["metrics"]["loss"])
    assert losses[-1] < losses[0] / 2
    assert values(start / "m-59")["global_step"] == 60


def test_a_step_equals_that_of_the_estimator(worker: Talk, start: Any) -> None:
    """The worker trains as skflow's classifier does, bit for bit, from the same weights on the same rows."""
    from ckptsurgeon import skflow

    model = skflow.TensorFlowDNNClassifier([10, 20, 10], 3, optimizer="Adagrad", steps=1, batch_size=999, verbose=0)
    model.fit(X, Y)
    model.save(str(start / "model"))
    order = np.random.RandomState(42).permutation(len(X))
    data.write_batch(str(start / "all.npz"), X[order], Y[order])
    answer = worker.ask("train", start / "next", start / "model", start / "all.npz")
    model.partial_fit(X, Y)
    assert "metrics" in answer
    for name, value in values(start / "next").items():
        np.testing.assert_array_equal(value, model.get_tensor_value(name), err_msg=name)


def test_what_belongs_to_no_network_is_carried_through(worker: Talk, start: Any) -> None:
    """Numbers of any kind and strings that the trainer knows nothing about reach the output unchanged."""
    known = values(start / "start")
    strange = {
        "moving/average": np.linspace(0, 1, 5),
        "names": np.array([b"a", b"", b"\xff"], dtype=object),
        "conv/layer0/prob": np.array(0.5, np.float32),
        "dnn/layer0/Linear/Matrix/Momentum": np.ones((4, 10), np.float32),
    }
    step = {"global_step": np.array(2**40, np.int64)}
    formats.write(str(start / "rich"), {**known, **strange, **step})
    assert "metrics" in worker.ask("train", start / "out", start / "rich", start / "batch.npz")
    assert "metrics" in worker.ask("train", start / "plain", start / "start", start / "batch.npz")
    found, plain = values(start / "out"), values(start / "plain")
    for name, value in strange.items():
        np.testing.assert_array_equal(found.pop(name), value)
    assert found.pop("global_step") == 2**40 + 1
    del plain["global_step"]
    for name, value in plain.items():
        np.testing.assert_array_equal(found.pop(name), value)
    assert not found


def test_learning_rate_and_global_step_are_optional(worker: Talk, start: Any) -> None:
    """A checkpoint without them is trained at the worker's own rate, and gets none."""
    rest = {name: value for name, value in values(start / "start").items() if "/" in name}
    formats.write(str(start / "rest"), rest)
    assert "metrics" in worker.ask("train", start / "out", start / "rest", start / "batch.npz")
    worker.ask("train", start / "plain", start / "start", start / "batch.npz")
    plain = values(start / "plain")
    assert values(start / "out").keys() == rest.keys()
    for name, value in values(start / "out").items():
        np.testing.assert_array_equal(value, plain[name])


def test_the_rate_is_that_of_the_checkpoint(worker: Talk, start: Any) -> None:
    """`ckptsurgeon set` on learning_rate works on a run: a rate that is nearly nothing changes nearly nothing."""
    slow = {**values(start / "start"), "learning_rate": np.array(1e-12, np.float32)}
    formats.write(str(start / "slow"), slow)
    worker.ask("train", start / "out", start / "slow", start / "batch.npz")
    for name, value in values(start / "out").items():
        if name.endswith(("Matrix", "Bias", "weights", "bias")):
            np.testing.assert_allclose(value, slow[name], atol=1e-9)


def test_architectures_may_alternate(worker: Talk, start: Any) -> None:
    """In `train` the network comes from the checkpoint: another depth, a regressor, no hidden layer at all."""
    nets = [
        (Architecture(4, (3,), CLASSIFIER, 3, "Adagrad"), Y),
        (Architecture(4, (), CLASSIFIER, 5, "Adagrad"), Y),
        (Architecture(4, (10, 20, 10), REGRESSOR, 1, "Adagrad"), X[:, 0]),
        (Architecture(4, (6, 6, 6, 6), REGRESSOR, 2, "Adagrad"), X[:, :2]),
    ]
    for number, (net, target) in enumerate(nets):
        write_initial(net, str(start / f"n{number}"), 1, 0.1)
        data.write_batch(str(start / f"{number}.npz"), X, target)
    for turn in range(2):
        for number, (net, _) in enumerate(nets):
            output = start / f"out{number}-{turn}"
            assert "metrics" in worker.ask("train", output, start / f"n{number}", start / f"{number}.npz")
            with formats.open(str(output)) as trained:
                assert architecture.of(trained.variables) == net
    for number in range(len(nets)):
        assert content(start / f"out{number}-0") == content(start / f"out{number}-1")


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"", "the request is not JSON"),
        (b"train!", "the request is not JSON"),
        (b"\xff\x00{", "the request is not JSON"),
        (b"[" * 100_000, "the request is not JSON"),
        (b"[1]", "the request is not a JSON object; found list"),
        (b'{"v": 2, "step": 3}', "expected v 1, found 2"),
        (b'{"v": 1, "step": 3, "op": "fly"}', "expected init or train, found 'fly'"),
        (b'{"v": 1, "step": 3, "op": "init", "output": "x"}', "no valid seed"),
        (b'{"v": 1, "step": 3, "op": "init", "output": "x", "seed": -1}', "no valid seed"),
        (b'{"v": 1, "step": 3, "op": "init", "seed": 1, "output": null}', "no valid output"),
        (b'{"v": 1, "step": 3, "op": "train", "checkpoint": 1, "output": "x"}', "no valid checkpoint"),
        (b'{"v": 1, "step": 3, "op": "train", "checkpoint": "x", "output": "x", "data": 1}', "no valid data"),
        (b'{"v": 1, "step": 3, "op": "train", "checkpoint": "x", "output": "x"}', "no valid batch"),
    ],
)
def test_a_line_that_is_no_request_is_answered_and_survived(
    line: bytes, error: str, worker: Talk, tmp_path: Any
) -> None:
    """The answer has the request's step where it had one, one line of error, and the next request is done."""
    answer = worker.line(line)
    assert answer["step"] == (3 if b'"step": 3' in line else None)
    assert error in answer["error"]
    assert "\n" not in answer["error"]
    assert worker.ask("init", tmp_path / "m") == {"step": 5, "metrics": {}}


def rewrite(path: Any, **changes: Any) -> None:
    """Change variables of a checkpoint; None drops one. `__` stands for a slash."""
    changed = {**values(path), **{name.replace("__", "/"): value for name, value in changes.items()}}
    formats.write(str(path), {name: value for name, value in changed.items() if value is not None})


def batch(folder: Any, rows: Any, target: Any) -> None:
    data.write_batch(str(folder / "batch.npz"), rows, target)


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda f: (f / "start.index").unlink(), "start"),
        (lambda f: os.truncate(f / "start.index", 200), "start.index"),
        (lambda f: os.truncate(f / "start.data-00000-of-00001", 500), "start.data-00000-of-00001"),
        (lambda f: rewrite(f / "start", logistic_regression__weights=None), "does not contain a skflow network"),
        (lambda f: rewrite(f / "start", dnn__layer1__Linear__Matrix=None), "there is no variable dnn/layer1"),
        (lambda f: rewrite(f / "start", dnn__layer1__Linear__Bias=None), "there is no variable dnn/layer1"),
        (
            lambda f: rewrite(f / "start", dnn__layer1__Linear__Bias=np.zeros(19, np.float32)),
            "dnn/layer1/Linear/Bias does not match the network; expected float32 [20], found float32 [19]",
        ),
        (
            lambda f: rewrite(f / "start", dnn__layer1__Linear__Matrix=np.zeros((9, 20), np.float32)),
            "dnn/layer1/Linear/Matrix does not match the network; expected float32 [10,20], found float32 [9,20]",
        ),
        (
            lambda f: rewrite(f / "start", dnn__layer0__Linear__Bias=np.zeros(10)),
            "expected float32 [10], found float64 [10]",
        ),
        (lambda f: rewrite(f / "start", dnn__layer0__prob=np.float32(0.5)), "was trained with dropout"),
        (lambda f: rewrite(f / "start", global_step=np.zeros(1)), "global_step does not match the network"),
        (
            lambda f: rewrite(f / "start", dnn__layer2__Linear__Bias__Adagrad=None),
            "Adagrad needs the variable dnn/layer2/Linear/Bias/Adagrad, which is missing",
        ),
        (lambda f: (f / "batch.npz").unlink(), "batch.npz: no such file"),
        (lambda f: (f / "batch.npz").write_bytes(b"PK\x03\x04junk"), "batch.npz: not a readable .npz"),
        (lambda f: np.savez(f / "batch.npz", X=X), "batch.npz: there is no array y"),
        (lambda f: batch(f, X[:, :3], Y), "expected numbers [rows,4], at least 1 row, found float32 [150,3]"),
        (lambda f: batch(f, X[:0], Y[:0]), "at least 1 row, found float32 [0,4]"),
        (lambda f: batch(f, X[:5], Y[:4]), "X and y have different numbers of rows"),
        (lambda f: batch(f, X, Y + 1), "expected class numbers from 0 to 2, found 3"),
        (lambda f: batch(f, X, Y - 1), "expected class numbers from 0 to 2, found -1"),
        (lambda f: batch(f, X, X[:, 0]), "expected class numbers [150], found float32 [150]"),
        (lambda f: batch(f, np.full_like(X, np.nan), Y), "the array X contains values that are not finite as float32"),
        (lambda f: batch(f, np.full_like(X, 1e38), Y), "the loss is "),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(damage: Any, error: str, worker: Talk, start: Any) -> None:
    """A damaged checkpoint, rows that do not fit, a loss that is not finite: an error that names it, no output."""
    damage(start)
    answer = worker.ask("train", start / "out", start / "start", start / "batch.npz")
    assert error in answer["error"]
    assert "\n" not in answer["error"]
    assert not list(start.glob("out*"))
    assert worker.ask("init", start / "m") == {"step": 5, "metrics": {}}


def test_a_place_that_cannot_be_written_is_an_error(worker: Talk, start: Any) -> None:
    """The operating system's reason comes back as the answer."""
    answer = worker.ask("train", start / "nowhere" / "out", start / "start", start / "batch.npz")
    assert "no such file or directory" in answer["error"]


def test_the_end_of_its_input_ends_it(tmp_path: Any) -> None:
    """What was asked before is still done; then it exits with 0, even while TensorFlow is being imported."""
    talk = Talk(*NET)
    assert talk.ask("init", tmp_path / "m")["metrics"] == {}
    assert talk.close() == 0


def test_standard_output_is_the_protocol_alone() -> None:
    """What Python or a C library prints goes to standard error, so that it cannot corrupt an answer."""
    code = """
import os
from ckptsurgeon import serving
protocol = serving.keep_stdout()
print("from Python", flush=True)
os.system("echo from a child")
os.write(1, b"from C\\n")
os.write(protocol, b"{}\\n")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout == "{}\n"
    assert done.stderr.splitlines() == ["from Python", "from a child", "from C"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (NET[2:], "--hidden-units missing; expected all options of a network, for init, or none"),
        (NET[:2], "--features and --classes or --outputs missing"),
        (["--target", "species"], "--target needs --data"),
        ([*NET, "--outputs", "1"], "not allowed with argument"),
        (["--hidden-units", "10,x", *NET[2:]], "argument --hidden-units: expected a whole number, found 'x'"),
        (["--hidden-units", "10,0", *NET[2:]], "expected a whole number from 1, found '0'"),
        ([*NET[:5], "1"], "argument --classes: expected a whole number from 2, found '1'"),
        ([*NET, "--optimizer", "Adagard"], "there is no optimizer 'Adagard'; did you mean Adagrad"),
        ([*NET, "--learning-rate", "0"], "expected a number above 0, found '0'"),
        ([*NET, "--learn", "1"], "unrecognized arguments: --learn 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: list[str], error: str) -> None:
    """The error names the argument and what it must be."""
    with pytest.raises(CkptSurgeonError) as caught:
        parse_worker(arguments)
    assert error in str(caught.value)


def test_a_usage_error_needs_no_tensorflow() -> None:
    """The process says one line on standard error and exits with 2, without having imported TensorFlow."""
    code = """
import sys
from ckptsurgeon.skflow import worker
status = worker.main(sys.argv[1:])
print("tensorflow" in sys.modules, file=sys.stderr)
sys.exit(status)
"""
    command = [sys.executable, "-c", code, "--once", "nowhere", "-o", "out", "--data", "rows.csv", "--batch", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == ["ckptsurgeon: nowhere: no such checkpoint", "False"]


# -- rows and architectures


def test_rows_are_fed_as_the_network_wants_them() -> None:
    """Class numbers become one-hot rows, values become columns, everything float32."""
    net = Architecture(2, (), CLASSIFIER, 3, "SGD")
    rows, target = rows_for(net, np.array([[1, 2], [3, 4]]), np.array([2, 0], np.uint8))
    assert (rows.dtype, rows.tolist()) == (np.float32, [[1, 2], [3, 4]])
    assert (target.dtype, target.tolist()) == (np.float32, [[0, 0, 1], [1, 0, 0]])
    one = Architecture(2, (), REGRESSOR, 1, "SGD")
    assert rows_for(one, np.ones((2, 2)), np.array([0.5, 1.5]))[1].tolist() == [[0.5], [1.5]]
    images, _ = rows_for(net, np.array([[[1], [2]], [[3], [4]]]), np.array([2, 0]))
    assert images.tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad", "Adam", "Momentum"])
@pytest.mark.parametrize(
    ("hidden", "head", "outputs"), [((), REGRESSOR, 2), ((5,), CLASSIFIER, 3), ((3,) * 12, REGRESSOR, 1)]
)
def test_an_architecture_is_read_off_its_own_first_weights(
    hidden: tuple[int, ...], head: str, outputs: int, optimizer: str
) -> None:
    """Names and shapes tell everything: depth beyond nine layers, head, outputs, and the optimizer by its slots."""
    net = Architecture(4, hidden, head, outputs, optimizer)
    assert architecture.of(net.initial(0, 0.1)) == net
    assert architecture.of(net.initial(0, 0.1), "SGD").optimizer == "SGD"


# -- one step


def test_train_runs_end_to_end(start: Any) -> None:
    """`ckptsurgeon train` becomes the trainer, prints the metrics as one JSON line, and OUT is the next checkpoint."""
    rows = iris_csv(start / "iris.csv")
    arguments = [str(start / "start"), "-o", str(start / "out"), "--data", rows, "--target", "species", "--batch", "3"]
    command = [sys.executable, "-m", "ckptsurgeon", "train", *arguments, "--seed", "-4", "--holdout", "0.2"]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    chosen = data.Batches(150, 32, -4, 0.2).rows(3)
    expected = CheckpointTrainer("Adagrad", 0.1).train(
        str(start / "start"), str(start / "wanted"), X[chosen], Y[chosen]
    )
    assert done.stdout == json.dumps(expected) + "\n"
    assert content(start / "out") == content(start / "wanted")
    again = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"ckptsurgeon: {start / 'out'}: exists already; --force replaces it\n"


def arguments(folder: Any, *more: str) -> list[str]:
    return [f"--once={folder / 'start'}", "-o", str(folder / "out"), "--batch", "0", *more]


def test_an_npz_without_target_holds_class_numbers(start: Any) -> None:
    """The file of a ring's mini-batch is trained as it is, also where it lacks a class."""
    batch(start, X[50:], Y[50:])
    loss = json.loads(train_once(arguments(start, "--data", str(start / "batch.npz"), "--batch-size", "100")))["loss"]
    order = data.Batches(100, 100, 0).rows(0)
    expected = CheckpointTrainer(None, 0.1).train(str(start / "start"), str(start / "o"), X[50:][order], Y[50:][order])
    assert expected == {"loss": loss}
    assert content(start / "out") == content(start / "o")


def test_the_optimizer_is_that_of_the_slots_unless_told(start: Any) -> None:
    """Adagrad's slots make it Adagrad, none make it SGD; SGD leaves the slots of another as they are."""
    more = ["--data", str(start / "batch.npz")]
    train_once(arguments(start, *more))
    old = values(start / "start")
    assert (values(start / "out")["dnn/layer0/Linear/Matrix/Adagrad"] != old["dnn/layer0/Linear/Matrix/Adagrad"]).any()
    train_once(arguments(start, *more, "--optimizer", "SGD", "--force"))
    after = values(start / "out")
    np.testing.assert_array_equal(after["dnn/layer0/Linear/Matrix/Adagrad"], old["dnn/layer0/Linear/Matrix/Adagrad"])
    formats.write(str(start / "start"), {name: v for name, v in old.items() if "Adagrad" not in name})
    train_once(arguments(start, *more, "--force"))
    np.testing.assert_array_equal(values(start / "out")["dnn/layer0/Linear/Matrix"], after["dnn/layer0/Linear/Matrix"])


def test_a_learning_rate_that_is_named_is_used_and_kept(start: Any) -> None:
    """It replaces the checkpoint's, for this step and for those from OUT."""
    train_once(arguments(start, "--data", str(start / "batch.npz"), "--learning-rate", "0.5", "--optimizer", "SGD"))
    changed, old = values(start / "out"), values(start / "start")
    assert changed["learning_rate"] == np.float32(0.5)
    train_once(arguments(start, "--data", str(start / "batch.npz"), "--optimizer", "SGD", "--force"))
    slow = values(start / "out")
    name = "logistic_regression/bias"
    np.testing.assert_allclose(changed[name] - old[name], 5 * (slow[name] - old[name]), rtol=1e-4)


def test_the_output_may_replace_the_input_if_forced(start: Any) -> None:
    """Training in place, one step after the other."""
    more = ["--data", str(start / "batch.npz"), "--force"]
    for _ in range(2):
        train_once([f"--once={start / 'start'}", f"--output={start / 'start'}", "--batch", "0", *more])
    assert values(start / "start")["global_step"] == 2


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--data", "{f}/iris.csv"], "iris.csv: no target was given; --target COLUMN names it"),
        (["--data", "{f}/iris.csv", "--target", "specie"], "did you mean species"),
        (["--data", "{f}/two.csv", "--target", "species"], "expected 3 classes, found 2 classes"),
        (["--data", "{f}/values.csv", "--target", "species"], "expected 3 classes, found numbers with a fraction"),
        (["--data", "{f}/three.csv", "--target", "x"], "expected numbers [rows,4], at least 1 row"),
        (["--data", "{f}/nothing.npz"], "nothing.npz: no such file or directory"),
        (["--data", "{f}/batch.npz", "--batch", "-1"], "argument --batch: expected a whole number from 0"),
        (["--data", "{f}/batch.npz", "--batch-size", "0"], "argument --batch-size: expected a whole number from 1"),
        (["--data", "{f}/batch.npz", "--holdout", "1"], "argument --holdout: expected a share from 0"),
        (["--data", "{f}/batch.npz", "--optimizer", "Adam"], "Adam needs the variable"),
        (["--data", "{f}/batch.npz", "-o", "{f}/nowhere/out"], "nowhere: the output folder does not exist"),
        (["--data", "{f}/batch.npz", "-o", "{f}/start"], "start: exists already; --force replaces it"),
        (["--data", "{f}/batch.npz", "--once={f}/missing"], "missing: no such checkpoint"),
    ],
)
def test_one_step_on_bad_input_is_refused(more: list[str], error: str, start: Any) -> None:
    """One line that names what is wrong, and no output."""
    iris_csv(start / "iris.csv")
    table(start / "two.csv", "1,2,3,4,x", "1,2,3,4,y")
    table(start / "values.csv", "1,2,3,4,0.5", "1,2,3,4,1")
    (start / "three.csv").write_text("a,b,x\n1,2,k\n1,2,l\n1,2,m\n")
    before = content(start / "start")
    with pytest.raises(CkptSurgeonError) as caught:
        train_once(arguments(start, *(text.format(f=start) for text in more)))
    assert error in str(caught.value)
    assert len(caught.value.lines) == 1
    assert not list(start.glob("out*"))
    assert content(start / "start") == before
