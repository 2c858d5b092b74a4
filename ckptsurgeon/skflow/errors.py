"""The error of the estimators; apart from `validation`, which needs scikit-learn, as the worker must not."""

from __future__ import annotations

from ..errors import CkptSurgeonError


class EstimatorError(CkptSurgeonError, ValueError):
    """An estimator was asked for what it cannot do; a ValueError too, as in skflow and scikit-learn."""
