"""A model with its session: what trains it, step by step; what estimators and worker share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import TrainerError
from .architecture import Architecture, Values
from .model_graph import Blueprint
from .models import ModelFunction, get_dnn_model, linear_regression, logistic_regression
from .ops import Tensor
from .quiet_tensorflow import CallableOptions, tf, v1
from .variable_names import CLASSIFIER, LEARNING_RATE

# The number of threads is part of the arithmetic: on TensorFlow 2.21 sums over wide layers come out with other last
# bits for 3 threads than for 4. So it is fixed, at skflow's num_cores, and does not follow the machine.
NUM_CORES = 4


class Net:
    """A model, its optimizer and its session.

    Attributes:
        blueprint: the graph, and what its tensors mean; other nets may share it.
        graph, X, y, predictions, loss, variables, trainable: the blueprint's.
        session: the session, which holds the values.

    Args:
        model_fn: as `Blueprint` takes it; or a blueprint, and no more arguments but `num_cores` and `rewrite`.
        arguments: as `Blueprint` takes them.
        num_cores: threads inside an op.
        rewrite: whether TensorFlow optimizes the graph. A training then begins 50 ms later; a step takes as long with
            small layers.
        options: as `Blueprint` takes them.
    """

    def __init__(
        self,
        model_fn: ModelFunction | Blueprint,
        *arguments: Any,
        num_cores: int = NUM_CORES,
        rewrite: bool = True,
        **options: Any,
    ) -> None:
        made = model_fn if isinstance(model_fn, Blueprint) else Blueprint(model_fn, *arguments, **options)
        self.blueprint = made
        self.graph, self.X, self.y = made.graph, made.X, made.y
        self.predictions, self.loss, self.train_op = made.predictions, made.loss, made.train_op
        self.variables, self.trainable = made.variables, made.trainable
        # -1: a step runs in the thread that asks for it, which saves a fifth of its time on small nets.
        config = v1.ConfigProto(intra_op_parallelism_threads=num_cores, inter_op_parallelism_threads=-1)
        config.graph_options.rewrite_options.disable_meta_optimizer = not rewrite
        self.session = v1.Session(graph=self.graph, config=config)
        self._keep_all = [np.ones((), np.float32)] * len(made.dropouts)
        self._others: dict[object, Callable[..., list[Any]]] = {}  # made when they are first needed

    # Made when they are first needed, too: once a session has seen an operation, nothing more may be hung on it.

    @cached_property
    def _train(self) -> Callable[..., list[Any]]:
        return self.callable([self.loss], [self.X, self.y], self.train_op)

    @cached_property
    def _predict(self) -> Callable[..., list[Any]]:
        return self.callable([self.predictions], [self.X, *self.blueprint.dropouts])

    @cached_property
    def _is_finite(self) -> Callable[..., list[Any]]:
        return self.callable([self.blueprint.all_finite], [])

    def callable(self, fetches: Sequence[Tensor], feeds: Sequence[Tensor], *targets: Any) -> Callable[..., list[Any]]:
        """Return a function of the values of `feeds`, arrays of just their dtypes, to the values of `fetches`.

        It runs `targets` too. `Session.make_callable` with feeds goes through `Session.run`, which takes three times
        as long as a step on a small net.
        """
        options = CallableOptions(
            feed=[tensor.name for tensor in feeds],
            fetch=[tensor.name for tensor in fetches],
            target=[operation.name for operation in targets],
        )
        return cast("Callable[..., list[Any]]", self.session._make_callable_from_options(options))

    def initialize(self) -> None:
        """Give all variables their initial values. Before, no memory is taken for them."""
        self.session.run(self.blueprint.initializer)

    def train(self, X: NDArray[np.float32], y: NDArray[np.float32]) -> float:
        """Train on one mini-batch and return its mean loss before the update."""
        return float(self._train(X, y)[0])

    def train_summarized(self, X: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[float, list[bytes]]:
        """Train on one mini-batch; return its mean loss and the summaries of the model before the update."""
        if "summarized" not in self._others:
            fetches = [self.loss, *self.blueprint.summaries]
            self._others["summarized"] = self.callable(fetches, [self.X, self.y], self.train_op)
        loss, *summaries = self._others["summarized"](X, y)
        return float(loss), summaries

    def is_finite(self) -> bool:
        """Tell whether all weights are numbers still. The loss does not tell: TensorFlow's relu makes 0 of NaN."""
        return bool(self._is_finite()[0])

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's predictions, [rows, classes or outputs].

        A row's prediction does not depend on those beside it, bit for bit: a single one is computed twice, since
        TensorFlow 2.21 multiplies a single row otherwise than several.
        """
        (rows,) = self._predict(np.repeat(X, 2, axis=0) if len(X) == 1 else X, *self._keep_all)
        return cast("NDArray[np.float32]", rows[: len(X)])

    def compute(
        self, tensor: Tensor, X: NDArray[np.float32] | None = None, y: NDArray[np.float32] | None = None
    ) -> NDArray[Any]:
        """Return the value of any tensor of the graph, of these rows if they are given; nothing is dropped out."""
        feeds = dict(zip(self.blueprint.dropouts, self._keep_all, strict=True))
        feeds |= {self.X: X} if X is not None else {}
        feeds |= {self.y: y} if y is not None else {}
        return np.array(self.session.run(tensor, feeds))

    def read(self, names: Sequence[str]) -> list[NDArray[Any]]:
        """Return copies of the values of these variables, which the caller may change."""
        key = ("read", *names)
        if key not in self._others:
            self._others[key] = self.callable([self.blueprint.reads[name] for name in names], [])
        return [np.array(value) for value in self._others[key]()]

    def values(self) -> Values:
        """Return copies of all variables' values."""
        return dict(zip(self.variables, self.read(list(self.variables)), strict=True))

    def write(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Set these variables; the values have the variables' shapes."""
        key = ("write", *values)
        if key not in self._others:
            group = [self.blueprint.assigns[name] for name in values]
            self._others[key] = self.callable([], [self.blueprint.inputs[name] for name in values], *group)
        dtypes = [self.blueprint.inputs[name].dtype.as_numpy_dtype for name in values]
        self._others[key](*map(np.asarray, values.values(), dtypes))

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
        variables = [self._net.variables[name] for name in [*self._shapes, LEARNING_RATE]]
        sizes = [variable.shape.num_elements() for variable in variables]
        self._ends = np.cumsum(sizes)[:-2]
        with self._net.graph.as_default():
            vector = v1.placeholder(tf.float32, [sum(sizes)])
            parts = zip(variables, tf.split(vector, sizes), strict=True)
            load = tf.group(*(v.assign(tf.reshape(part, v.shape), read_value=False) for v, part in parts))
            with tf.control_dependencies([self._net.train_op]):
                after = tf.concat([tf.reshape(v.read_value(), [-1]) for v in variables[:-1]], 0)
        self._load = self._net.callable([], [vector], load)
        self._train = self._net.callable([self._net.loss, after], [self._net.X, self._net.y])
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
    order = _first_order(rows)
    random = None
    while True:
        for start in range(0, rows, size):
            yield order[start : start + size]
        if random is None:
            random = np.random.RandomState(42)
            random.permutation(rows)
        order = random.permutation(rows)


@lru_cache
def _first_order_of_few(rows: int) -> NDArray[np.int64]:
    order = np.random.RandomState(42).permutation(rows)
    order.flags.writeable = False
    return order


def _first_order(rows: int) -> NDArray[np.int64]:
    """Return the first permutation, of few rows from memory: seeding the generator takes longer than a step."""
    return _first_order_of_few(rows) if rows <= 1024 else np.random.RandomState(42).permutation(rows)


def one_hot(classes: NDArray[Any], n_classes: int) -> NDArray[np.float32]:
    """Return a row of zeros with a 1 for each class number; float32 [rows, n_classes]."""
    rows = np.zeros((len(classes), n_classes), np.float32)
    rows[np.arange(len(classes)), classes] = 1.0
    return rows
