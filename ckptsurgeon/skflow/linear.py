"""TensorFlowLinearClassifier and TensorFlowLinearRegressor, also under skflow's older names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted

from ..schemes.skflow_names import CLASSIFIER, REGRESSOR, head_bias, head_weights
from . import models
from .graph.model_graph import CLIP_GRADIENTS
from .graph.model_session import NUM_CORES
from .heads import HEADS, HeadEstimator


class _TensorFlowLinear(HeadEstimator):
    """A head without hidden layers."""

    def _model(self) -> models.ModelFunction:
        return HEADS[self._head]

    @property
    def weights_(self) -> NDArray[np.float32]:
        """The weights, [features, classes or outputs]."""
        check_is_fitted(self)
        return self._net.read([head_weights(self._head)])[0]

    @property
    def bias_(self) -> NDArray[np.float32]:
        """The biases, [classes or outputs]."""
        check_is_fitted(self)
        return self._net.read([head_bias(self._head)])[0]


class TensorFlowLinearClassifier(ClassifierMixin, _TensorFlowLinear):  # type: ignore[misc]
    """A classifier: a softmax of the features, trained on the mean cross-entropy.

    Args:
        n_classes: the number of classes, at least 2; None for the number of labels in y.

    The other parameters are those of TensorFlowEstimator.

    Attributes:
        classes_: the labels, [classes]: 0 … n_classes-1 if `n_classes` is given and y contains only such numbers,
            otherwise the labels in y.
        n_features_in_: columns of X.
    """

    _head = CLASSIFIER

    def __init__(
        self,
        n_classes: int | None = None,
        batch_size: int = 32,
        steps: int = 200,
        optimizer: str | Callable[..., Any] = "SGD",
        learning_rate: float | Callable[[Any], Any] = 0.1,
        clip_gradients: float = CLIP_GRADIENTS,
        class_weight: Sequence[float] | Mapping[Any, float] | None = None,
        tf_random_seed: int = 42,
        continue_training: bool = False,
        num_cores: int = NUM_CORES,
        verbose: int = 1,
        max_to_keep: int | None = 5,
    ) -> None:
        super().__init__(
            None, n_classes, batch_size, steps, optimizer, learning_rate, clip_gradients, class_weight, tf_random_seed,
            continue_training, num_cores, verbose, max_to_keep,
        )  # fmt: skip


class TensorFlowLinearRegressor(RegressorMixin, _TensorFlowLinear):  # type: ignore[misc]
    """A regressor: a linear function of the features, trained on the mean squared error.

    Args:
        n_classes: 0 or 1; exists, as in skflow, because all estimators have it.

    The other parameters are those of TensorFlowEstimator.

    Attributes:
        n_features_in_: columns of X.
    """

    _head = REGRESSOR

    def __init__(
        self,
        n_classes: int = 0,
        batch_size: int = 32,
        steps: int = 200,
        optimizer: str | Callable[..., Any] = "SGD",
        learning_rate: float | Callable[[Any], Any] = 0.1,
        clip_gradients: float = CLIP_GRADIENTS,
        tf_random_seed: int = 42,
        continue_training: bool = False,
        num_cores: int = NUM_CORES,
        verbose: int = 1,
        max_to_keep: int | None = 5,
    ) -> None:
        super().__init__(
            None, n_classes, batch_size, steps, optimizer, learning_rate, clip_gradients, None, tf_random_seed,
            continue_training, num_cores, verbose, max_to_keep,
        )  # fmt: skip


TensorFlowClassifier = TensorFlowLinearClassifier
TensorFlowRegressor = TensorFlowLinearRegressor
