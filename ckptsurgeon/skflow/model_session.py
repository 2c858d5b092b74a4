"""A model with its session: what trains it, step by step; what estimators and worker share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .architecture import Values
from .model_graph import ModelGraph
from .models import ModelFunction
from .ops import Tensor
from .quiet_tensorflow import CallableOptions, v1

# The number of threads is part of the arithmetic: on TensorFlow 2.21 sums over wide layers come out with other last
# bits for 3 threads than for 4. So it is fixed, at skflow's num_cores, and does not follow the machine.
NUM_CORES = 4


class ModelSession:
    """A model, its optimizer and its session.

    Attributes:
        blueprint: the graph, and what its tensors mean; other nets may share it.
        graph, X, y, predictions, loss, variables, trainable: the blueprint's.
        session: the session, which holds the values.

    Args:
        model_fn: as `ModelGraph` takes it; or a blueprint, and no more arguments but `num_cores` and `rewrite`.
        arguments: as `ModelGraph` takes them.
        num_cores: threads inside an op.
        rewrite: whether TensorFlow optimizes the graph. A training then begins 50 ms later; a step takes as long with
            small layers.
        options: as `ModelGraph` takes them.
    """

    def __init__(
        self,
        model_fn: ModelFunction | ModelGraph,
        *arguments: Any,
        num_cores: int = NUM_CORES,
        rewrite: bool = True,
        **options: Any,
    ) -> None:
        made = model_fn if isinstance(model_fn, ModelGraph) else ModelGraph(model_fn, *arguments, **options)
        self.model_graph = made
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
        return self.callable([self.predictions], [self.X, *self.model_graph.dropouts])

    @cached_property
    def _is_finite(self) -> Callable[..., list[Any]]:
        return self.callable([self.model_graph.all_finite], [])

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
        self.session.run(self.model_graph.initializer)

    def train(self, X: NDArray[np.float32], y: NDArray[np.float32]) -> float:
        """Train on one mini-batch and return its mean loss before the update."""
        return float(self._train(X, y)[0])

    def train_summarized(self, X: NDArray[np.float32], y: NDArray[np.float32]) -> tuple[float, list[bytes]]:
        """Train on one mini-batch; return its mean loss and the summaries of the model before the update."""
        if "summarized" not in self._others:
            fetches = [self.loss, *self.model_graph.summaries]
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
        feeds = dict(zip(self.model_graph.dropouts, self._keep_all, strict=True))
        feeds |= {self.X: X} if X is not None else {}
        feeds |= {self.y: y} if y is not None else {}
        return np.array(self.session.run(tensor, feeds))

    def read(self, names: Sequence[str]) -> list[NDArray[Any]]:
        """Return copies of the values of these variables, which the caller may change."""
        key = ("read", *names)
        if key not in self._others:
            self._others[key] = self.callable([self.model_graph.reads[name] for name in names], [])
        return [np.array(value) for value in self._others[key]()]

    def values(self) -> Values:
        """Return copies of all variables' values."""
        return dict(zip(self.variables, self.read(list(self.variables)), strict=True))

    def write(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Set these variables; the values have the variables' shapes."""
        key = ("write", *values)
        if key not in self._others:
            group = [self.model_graph.assigns[name] for name in values]
            self._others[key] = self.callable([], [self.model_graph.inputs[name] for name in values], *group)
        dtypes = [self.model_graph.inputs[name].dtype.as_numpy_dtype for name in values]
        self._others[key](*map(np.asarray, values.values(), dtypes))

    def close(self) -> None:
        """Give the session's memory back."""
        self.session.close()
