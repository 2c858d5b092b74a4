"""Finds and calls the function that builds a model: `module:function` or `file.py:function`."""

from __future__ import annotations

import functools
import importlib
import os
import random
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from .. import serving
from ..errors import RefusedError, UsageError, did_you_mean, one_line


@functools.cache
def load(text: str) -> Callable[..., Any]:
    """Import the function that `text` names.

    Args:
        text: `module:function`, or the absolute path of a file with `:function`.

    Raises:
        UsageError: there is no such module, file or function.
        RefusedError: the module raises an exception; its traceback is on standard error.
    """
    place, _, name = text.rpartition(":")
    module = _imported(place)
    found = getattr(module, name, None)
    if not callable(found):
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        raise UsageError(f"there is no function {name!r}", path=place, hint=did_you_mean(name, known))
    function: Callable[..., Any] = found
    return function


def build(function: Callable[..., Any], input_shape: tuple[int, ...], classes: int | None, seed: int) -> Any:
    """Call the function, with the generators of Python and NumPy seeded; return what it returns.

    Raises:
        RefusedError: it raises an exception; its traceback is on standard error.
    """
    random.seed(seed)
    np.random.seed(seed)
    try:
        return function(input_shape, classes, seed)
    except Exception as error:
        raise _raised(f"{function.__name__}({input_shape}, {classes}, {seed})", error) from error


def _imported(place: str) -> ModuleType:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is not None and (place + ".").startswith(error.name + "."):
                hint = "a file is written with its ending, as in model.py:function"
                raise UsageError(f"there is no module {place!r}", hint=hint) from None
            raise _raised(f"the module {place}", error) from error
        except Exception as error:
            raise _raised(f"the module {place}", error) from error
    if not os.path.isfile(place):
        raise UsageError("there is no such file", path=place, expected="the file with the trainer's function")
    try:
        return serving.import_file(place, os.path.basename(place)[:-3])
    except Exception as error:
        raise _raised(place, error) from error


def _raised(what: str, error: Exception) -> RefusedError:
    traceback.print_exc()
    return RefusedError(f"{what} raised {type(error).__name__}: {one_line(error)}")
