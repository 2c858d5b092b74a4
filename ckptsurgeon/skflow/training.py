"""A model in a TensorFlow graph of its own, with the session that trains it; what estimators and worker share.

The graph holds skflow's variables: `global_step` (int32), the model's, `learning_rate` (float32) and the optimizer's
slots. Nothing here touches TensorFlow's global state but one switch: op determinism, without which the same seed need
not give the same weights. It holds for the whole process: there, random ops then want a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import TrainerError
from .architecture import CLASSIFIER, Architecture, Values
from .models import ModelFunction, Tensor, get_dnn_model, linear_regression, logistic_regression
from .runtime import quiet, tf, v1

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "SGD": v1.train.GradientDescentOptimizer,
    "Adagrad": v1.train.AdagradOptimizer,
    "Adam": v1.train.AdamOptimizer,
}
CLIP_GRADIENTS = 5.0  # global norm, always on in skflow
# The number of threads is part of the arithmetic: on TensorFlow 2.21 sums over wide layers come out with other last
# bits for 3 threads than for 4. So it is fixed, at skflow's num_cores, and does not follow the machine.
NUM_CORES = 4


class Net:
    """A model, its optimizer and its session.

    Attributes:
        variables: name -> TensorFlow variable, in the order of their creation.
        trainable: the names of those that the optimizer changes through gradients.

    Args:
        model_fn: makes (predictions, loss) of X and y.
        features: columns of X.
        target: the shape of y beyond the rows: (classes,) for one-hot classes, () or (outputs,) for values.
        optimizer: a key of OPTIMIZERS, or a function from a learning rate to a tf.compat.v1.train.Optimizer.
        learning_rate: a number, kept in the variable `learning_rate`, or a function of the global_step's tensor.
        clip_gradients: the largest global norm of the gradients; 0 for no limit.
        seed: of the random ops in the graph.
        num_cores: threads inside an op.
    """

    def __init__(
        self,
        model_fn: ModelFunction,
        features: int,
        target: tuple[int, ...],
        *,
        optimizer: str | Callable[..., Any] = "SGD",
        learning_rate: float | Callable[[Tensor], Tensor] = 0.1,
        clip_gradients: float = CLIP_GRADIENTS,
        seed: int = 42,
        num_cores: int = NUM_CORES,
    ) -> None:
        tf.config.experimental.enable_op_determinism()
        self.graph = tf.Graph()
        with self.graph.as_default(), quiet():
            v1.set_random_seed(seed)
            v1.get_variable_scope().set_use_resource(True)
            step = v1.get_variable("global_step", [], tf.int32, initializer=v1.zeros_initializer(), trainable=False)
            self.X = v1.placeholder(tf.float32, [None, features], "input")
            self.y = v1.placeholder(tf.float32, [None, *target], "output")
            self.predictions, self.loss = model_fn(self.X, self.y)
            rate: Any = learning_rate(step) if callable(learning_rate) else _learning_rate(learning_rate)
            self.train_op = _train_op(self.loss, rate, optimizer, clip_gradients, step)
            self.variables = {variable.op.name: variable for variable in v1.global_variables()}
            self.trainable = [variable.op.name for variable in v1.trainable_variables()]
            self._inputs = {name: v1.placeholder(v.dtype, v.shape) for name, v in self.variables.items()}
            self._assigns = {n: v.assign(self._inputs[n], read_value=False) for n, v in self.variables.items()}
            self._reads = {name: tf.identity(v) for name, v in self.variables.items()}
            finite = [tf.reduce_all(tf.math.is_finite(self.variables[name])) for name in self.trainable]
            all_finite = tf.reduce_all(tf.stack(finite))
            self._initializer = v1.global_variables_initializer()
        # -1: a step runs in the thread that asks for it, which saves a fifth of its time on small nets.
        config = v1.ConfigProto(intra_op_parallelism_threads=num_cores, inter_op_parallelism_threads=-1)
        self.session = v1.Session(graph=self.graph, config=config)
        self._train = self.session.make_callable([self.loss, self.train_op], feed_list=[self.X, self.y])
        self._predict = self.session.make_callable(self.predictions, feed_list=[self.X])
        self._is_finite = self.session.make_callable(all_finite)
        self._readers: dict[tuple[str, ...], Callable[..., list[NDArray[Any]]]] = {}
        self._writers: dict[tuple[str, ...], Callable[..., object]] = {}

    def initialize(self) -> None:
        """Give all variables their initial values. Before, no memory is taken for them."""
        self.session.run(self._initializer)

    def train(self, X: NDArray[np.float32], y: NDArray[np.float32]) -> float:
        """Train on one mini-batch and return its mean loss before the update."""
        return float(self._train(X, y)[0])

    def is_finite(self) -> bool:
        """Tell whether all weights are numbers still. The loss does not tell: TensorFlow's relu makes 0 of NaN."""
        return bool(self._is_finite())

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's predictions, [rows, classes or outputs]."""
        return cast("NDArray[np.float32]", self._predict(X))

    def read(self, names: Sequence[str]) -> list[NDArray[Any]]:
        """Return copies of the values of these variables, which the caller may change."""
        key = tuple(names)
        if key not in self._readers:
            self._readers[key] = self.session.make_callable([self._reads[name] for name in key])
        return [np.array(value) for value in self._readers[key]()]

    def values(self) -> Values:
        """Return copies of all variables' values."""
        return dict(zip(self.variables, self.read(list(self.variables)), strict=True))

    def write(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Set these variables; the values have the variables' shapes."""
        key = tuple(values)
        if key not in self._writers:
            group = [self._assigns[name] for name in key]
            self._writers[key] = self.session.make_callable(group, feed_list=[self._inputs[name] for name in key])
        self._writers[key](*values.values())

    def close(self) -> None:
        """Give the session's memory back."""
        self.session.close()


class Step:
    """One training step as a pure function: variables and a mini-batch in, variables and loss out.

    All float32 variables travel as one vector each way: feeding and fetching them one by one takes twice as long as
    the step itself (0.35 instead of 0.75 ms on three hidden layers).

    Args:
        architecture: of the network.
    """

    def __init__(self, architecture: Architecture) -> None:
        classifier = architecture.head == CLASSIFIER
        head = logistic_regression if classifier else linear_regression
        self._net = Net(
            get_dnn_model(architecture.hidden_units, head),
            architecture.features,
            (architecture.outputs,),
            optimizer=architecture.optimizer,
        )
        self._shapes = architecture.trained
        variables = [self._net.variables[name] for name in [*self._shapes, "learning_rate"]]
        sizes = [variable.shape.num_elements() for variable in variables]
        self._ends = np.cumsum(sizes)[:-2]
        with self._net.graph.as_default():
            vector = v1.placeholder(tf.float32, [sum(sizes)])
            parts = zip(variables, tf.split(vector, sizes), strict=True)
            load = tf.group(*(v.assign(tf.reshape(part, v.shape), read_value=False) for v, part in parts))
            with tf.control_dependencies([self._net.train_op]):
                after = tf.concat([tf.reshape(v.read_value(), [-1]) for v in variables[:-1]], 0)
        self._load = self._net.session.make_callable(load, feed_list=[vector])
        self._train = self._net.session.make_callable([self._net.loss, after], feed_list=[self._net.X, self._net.y])
        self._net.initialize()  # for global_step, which does not travel

    def __call__(
        self, values: Values, learning_rate: float, X: NDArray[np.float32], y: NDArray[np.float32]
    ) -> tuple[float, Values]:
        """Train one step.

        Args:
            values: at least the variables of the architecture, with its shapes, float32.
            learning_rate: of this step.
            X: float32 [rows, features].
            y: float32 [rows, outputs], one-hot for a classifier.

        Returns:
            The mean loss before the update, and the variables that the step has changed.

        Raises:
            TrainerError: the loss, or a variable after the step, is not finite.
        """
        parts = [values[name].ravel() for name in self._shapes]
        self._load(np.concatenate([*parts, np.array([learning_rate], np.float32)]))
        loss, vector = self._train(X, y)
        if not np.isfinite(loss) or not np.isfinite(vector).all():
            what = f"the loss is {loss}" if not np.isfinite(loss) else "weights are no longer finite after the step"
            raise TrainerError(what, hint="a smaller learning rate or scaled features may help")
        changed = zip(self._shapes.items(), np.split(vector, self._ends), strict=True)
        return float(loss), {name: part.reshape(shape) for (name, shape), part in changed}


def batches(rows: int, size: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of mini-batch after mini-batch without end, in the order of skflow's DataFeeder.

    A permutation by RandomState(42) is cut into consecutive slices, the last one short; each epoch has a new one.
    """
    random = np.random.RandomState(42)
    while True:
        order = random.permutation(rows)
        for start in range(0, rows, size):
            yield order[start : start + size]


def one_hot(classes: NDArray[Any], n_classes: int) -> NDArray[np.float32]:
    """Return a row of zeros with a 1 for each class number; float32 [rows, n_classes]."""
    rows = np.zeros((len(classes), n_classes), np.float32)
    rows[np.arange(len(classes)), classes] = 1.0
    return rows


def _learning_rate(value: float) -> Any:
    return v1.get_variable("learning_rate", [], initializer=v1.constant_initializer(value), trainable=False)


def _train_op(loss: Tensor, rate: Any, optimizer: str | Callable[..., Any], clip: float, step: Any) -> Any:
    """Apply the clipped gradients of the loss; variables that it does not depend on are left alone."""
    variables = v1.trainable_variables()
    gradients = v1.gradients(loss, variables)
    if clip:
        gradients, _ = tf.clip_by_global_norm(gradients, clip)  # which hands on a gradient of None
    make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    return make(rate).apply_gradients(list(zip(gradients, variables, strict=True)), global_step=step, name="train")
