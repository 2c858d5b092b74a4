"""The estimators' error. It is not in `validation`, because that imports scikit-learn, which the worker must not."""

from __future__ import annotations

from ..errors import CkptSurgeonError


class EstimatorError(CkptSurgeonError, ValueError):
    """An estimator cannot do what was requested; also a ValueError, as in skflow and scikit-learn."""
