"""The M trained models as one: each model's and their common score on rows that they have not seen.

The forward pass of an skflow net is written out in NumPy, so that scores need no TensorFlow: hidden layers
`dnn/layer{K}/Linear/*` with relu between, and the head `logistic_regression/*` (softmax) or
`linear_regression/*`. A model whose checkpoint is no such net has no vote, which is said of it.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import data, formats
from ..checkpoint import Checkpoint
from ..errors import ChangedError, CkptSurgeonError, NotFoundError, UnsupportedError, UsageError
from . import journal, resume
from . import spec as spec_of
from .folder import Folder, existing

Values = NDArray[np.float64]

_TRIES = 20  # a run replaces its checkpoints once a round, which takes longer than to read one


@dataclass(frozen=True)
class Net:
    """The weights of an skflow net.

    Attributes:
        layers: (matrix [in, out], bias [out]) of each hidden layer and, last, of the head; float64.
        classifier: whether the head is a softmax.
    """

    layers: Sequence[tuple[Values, Values]]
    classifier: bool

    def outputs(self, X: NDArray[np.float32]) -> Values:
        """Return the probabilities of the classes, or the values, of each row: [rows, outputs]."""
        values: Values = X.astype(np.float64)
        for number, (matrix, bias) in enumerate(self.layers):
            values = (np.maximum(values, 0) if number else values) @ matrix + bias
        if not self.classifier:
            return values
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        chances: Values = exponentials / exponentials.sum(axis=1, keepdims=True)
        return chances


def load(prefix: str) -> Net:
    """Read the net in a checkpoint.

    Raises:
        UnsupportedError: the checkpoint holds another kind of model.
        CkptSurgeonError: it cannot be read.
    """
    with formats.open(prefix) as checkpoint:
        names = []
        for number in itertools.count():
            if f"dnn/layer{number}/Linear/Matrix" not in checkpoint.variables:
                break
            names.append((f"dnn/layer{number}/Linear/Matrix", f"dnn/layer{number}/Linear/Bias"))
        heads = [h for h in ("logistic_regression", "linear_regression") if f"{h}/weights" in checkpoint.variables]
        if not names or len(heads) != 1:
            raise UnsupportedError("holds no net of dnn/layer{K}/Linear and one head", path=prefix)
        names.append((f"{heads[0]}/weights", f"{heads[0]}/bias"))
        layers = [(_read(checkpoint, matrix), _read(checkpoint, bias)) for matrix, bias in names]
    width = layers[0][0].shape[0] if layers[0][0].ndim == 2 else 0
    for (name, _), (matrix, bias) in zip(names, layers, strict=True):
        if matrix.ndim != 2 or matrix.shape[0] != width or bias.shape != matrix.shape[1:]:
            raise UnsupportedError(f"{name} does not fit the layer before it", path=prefix)
        width = matrix.shape[1]
    return Net(layers, heads[0] == "logistic_regression")


def evaluate(path: str, file: str | None = None) -> list[dict[str, Any]]:
    """Score each model of a run, and all of them together.

    Args:
        path: the folder of the run.
        file: rows with the run's target column; None for the rows that the run has held out.

    Returns:
        For each model, and last for 'ensemble': `model`, `checkpoint`, `rows`, and `accuracy` of a classifier
        or `r2` and `mse` of a regressor; `reason` says why a model has no vote, and is None of all others.

    Raises:
        UsageError: there are no rows to score on.
        CkptSurgeonError: the run or the rows cannot be read, or no model has a vote.
    """
    folder = existing(path)
    table = _rows(folder, file)
    for _ in range(_TRIES - 1):
        with contextlib.suppress(NotFoundError, ChangedError):
            return _evaluate(folder, table)
    return _evaluate(folder, table)


def _evaluate(folder: Folder, table: data.Table) -> list[dict[str, Any]]:
    """Score what the journal names as latest, which may be removed meanwhile if the run goes on."""
    history = journal.load(folder.journal).history
    lines, votes = [], []
    for name in history.models:
        prefix = folder.checkpoint(name, history.latest(name))
        scores: dict[str, Any] = {"model": name, "checkpoint": prefix, "rows": len(table.X)}
        try:
            votes.append(_vote(load(prefix), table, prefix))
        except UnsupportedError as error:
            lines.append({**scores, **_scores(None, table), "reason": f"no vote: {error.what}"})
        else:
            lines.append({**scores, **_scores(votes[-1], table), "reason": None})
    if not votes:
        raise CkptSurgeonError("no model has a vote", path=folder.root, hint=str(lines[0]["reason"]))
    together = _scores(np.mean(votes, axis=0), table)
    ensemble = {"model": "ensemble", "checkpoint": None, "rows": len(table.X)}
    return [*lines, {**ensemble, **together, "reason": None}]


def _rows(folder: Folder, file: str | None) -> data.Table:
    """Return the rows to score on."""
    spec = spec_of.load(folder.spec)
    resume.check_spec(folder, spec, journal.load(folder.journal).head)
    if spec.data is None:
        raise UsageError("there is no [data] to score on", path=folder.spec)
    trained = folder.open_table()
    if file is not None:
        table = data.read(file, spec.data.target, like=trained)
        if table.X.shape[1] != trained.X.shape[1]:
            what = "has other columns than the rows that the models were trained on"
            raise UsageError(what, path=file, expected=trained.X.shape[1], found=table.X.shape[1])
        return table
    if not spec.data.holdout:
        raise UsageError("no rows are held out", path=folder.spec, hint="name a file with --data")
    batches = data.Batches(len(trained.X), spec.data.batch_size, spec.seed, spec.data.holdout)
    rows = batches.held_out()
    return data.Table(trained.X[rows], trained.y[rows], trained.classes)


def _vote(net: Net, table: data.Table, prefix: str) -> Values:
    """Return what a net says of the rows; UnsupportedError if it was made for others."""
    outputs = len(table.classes) if table.classes is not None else table.y[:1].size
    shape = net.layers[0][0].shape[0], net.layers[-1][0].shape[1]
    if shape != (table.X.shape[1], outputs) or net.classifier != (table.classes is not None):
        expected = f"{table.X.shape[1]} features and {outputs} outputs"
        raise UnsupportedError(f"its net is not made for {expected}", path=prefix)
    return net.outputs(table.X)


def _scores(outputs: Values | None, table: data.Table) -> dict[str, float | None]:
    """Return accuracy, or r2 and mse over all outputs together; None each where there are no outputs."""
    if table.classes is not None:
        return {"accuracy": None if outputs is None else float(np.mean(outputs.argmax(axis=1) == table.y))}
    if outputs is None:
        return {"r2": None, "mse": None}
    target = table.y.astype(np.float64).reshape(outputs.shape)
    error = float(np.mean(np.square(outputs - target)))
    spread = float(np.mean(np.square(target - target.mean(axis=0))))
    return {"r2": 1 - error / spread if spread else None, "mse": error}


def _read(checkpoint: Checkpoint, name: str) -> Values:
    return np.asarray(checkpoint.read(name), dtype=np.float64)
