"""The base class for estimators of skflow's own models, whose head makes them classifiers or regressors."""

from __future__ import annotations

from ..schemes.skflow_names import CLASSIFIER, REGRESSOR
from . import models
from .errors import EstimatorError
from .estimators import TensorFlowEstimator

HEADS: dict[str, models.ModelFunction] = {
    CLASSIFIER: models.logistic_regression,
    REGRESSOR: models.linear_regression,
}


class HeadEstimator(TensorFlowEstimator):
    """An estimator whose model ends in one of skflow's heads."""

    _head: str

    def _check_params(self) -> None:
        super()._check_params()
        if self._classifies != (self.n_classes is None or self.n_classes >= 2):
            expected = "2 or more, or None" if self._classifies else "0 or 1"
            raise EstimatorError("cannot use the parameter n_classes", expected=expected, found=self.n_classes)

    @property
    def _classifies(self) -> bool:
        return self._head == CLASSIFIER
