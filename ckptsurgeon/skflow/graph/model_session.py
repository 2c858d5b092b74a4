"""A model graph with a TensorFlow session, which holds the values; used by estimators and the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ..checkpoints.architecture import Values
from ..models import ModelFunction
from ..ops import Tensor
from .model_graph import ModelGraph
from .quiet_tensorflow import CallableOptions, v1

# The number of threads affects results: on TensorFlow 2.21, sums over wide layers differ in the last bits between 3 and
# 4 threads. So the number is fixed at skflow's num_cores instead of following the machine.
NUM_CORES = 4


class ModelSession:
    """A model, its optimizer and its session.

    Attributes:
        model_graph: the graph and its tensors; may be shared with other sessions.
        graph, X, y, predictions, loss, variables, shapes, trainable: those of `model_graph`.
        session: the TensorFlow session.

    Args:
        model_fn: as for `ModelGraph`; or a ModelGraph, with no other arguments than `num_cores` and `rewrite`.
        arguments: as for `ModelGraph`.
        num_cores: threads inside an op.
        rewrite: whether TensorFlow optimizes the graph. This delays the first step by 50 ms and does not speed up
            steps of small layers.
        options: as for `ModelGraph`.
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
        self.variables, self.shapes, self.trainable = made.variables, made.shapes, made.trainable
        # -1: run a step in the calling thread, which saves a fifth of its time on small networks.
        config = v1.ConfigProto(intra_op_parallelism_threads=num_cores, inter_op_parallelism_threads=-1)
        config.graph_options.rewrite_options.disable_meta_optimizer = not rewrite
        self.session = v1.Session(graph=self.graph, config=config)
        self._keep_all = [np.ones((), np.float32)] * len(made.dropouts)
        self._others: dict[object, Callable[..., list[Any]]] = {}  # created on first use

    # Also created on first use: the graph must be complete before a session runs it.

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
        """Return a function from the values of `feeds`, arrays of exactly their dtypes, to the values of `fetches`.

        The function also runs `targets`. `Session.make_callable` with feeds uses `Session.run`, which takes three times
        as long as a step of a small network.
        """
        options = CallableOptions(
            feed=[tensor.name for tensor in feeds],
            fetch=[tensor.name for tensor in fetches],
            target=[operation.name for operation in targets],
        )
        return cast("Callable[..., list[Any]]", self.session._make_callable_from_options(options))

    def initialize(self) -> None:
        """Set all variables to their initial values; only then is memory allocated for them."""
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
        """Tell whether all weights are finite. The loss is no evidence: TensorFlow's relu turns NaN into 0."""
        return bool(self._is_finite()[0])

    def predict(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the model's predictions, [rows, classes or outputs].

        A row's prediction is the same, bit for bit, whatever the other rows are. A single row is therefore computed
        twice, because TensorFlow 2.21 multiplies one row with different code than several.
        """
        (rows,) = self._predict(np.repeat(X, 2, axis=0) if len(X) == 1 else X, *self._keep_all)
        return cast("NDArray[np.float32]", rows[: len(X)])

    def compute(
        self, tensor: Tensor, X: NDArray[np.float32] | None = None, y: NDArray[np.float32] | None = None
    ) -> NDArray[Any]:
        """Return the value of any tensor of the graph, for these rows if given, without dropout."""
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
        """Close the session and free its memory."""
        self.session.close()
