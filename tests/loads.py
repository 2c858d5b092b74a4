"""Carry out every operation on real models, and load the results with the frameworks that the models come from.

    scripts/torture loads                  all models
    scripts/torture loads keras SavedModel those whose names contain one of these

Prints a table: for each model, how many results its framework loads with the right values, and how many operations
were refused; what is refused is also done with --anyway, and must not load then. Exit status 1 if a result is neither.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greetings


def main(chosen: list[str]) -> None:
    """Try the models and print the table."""
    import loading

    logging.disable(logging.WARNING)  # the frameworks say a lot about optimizers that they start afresh
    warnings.simplefilter("ignore")
    began, total, wrong = time.monotonic(), Counter[str](), 0
    print(f"| model | operations | {loading.LOADED} | {loading.REFUSED} |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="torture-loads-") as folder:
        for name, model in loading.models(Path(folder), chosen):
            count: Counter[str] = Counter()
            for operation, expected in loading.operations(model):
                outcome = loading.attempt(model, operation, expected)
                count[outcome] += 1
                if outcome not in (loading.LOADED, loading.REFUSED):
                    wrong += 1
                    print(f"{operation} of {name}: {outcome}", file=sys.stderr)
            total += count
            print(f"| {name} | {count.total()} | {count[loading.LOADED]} | {count[loading.REFUSED]} |", flush=True)
    print(f"| all | {total.total()} | {total[loading.LOADED]} | {total[loading.REFUSED]} |")
    print(f"{wrong} results were neither; {time.monotonic() - began:.0f} s", file=sys.stderr)
    sys.exit(wrong > 0)
