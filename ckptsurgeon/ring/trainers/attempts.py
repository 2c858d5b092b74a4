"""One request to a trainer, tried until its result stands, or often enough."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ... import compare, formats
from ...errors import CkptSurgeonError, TrainerError
from ..folder import Folder
from ..spec.records import Model
from ..spec.toml_keys import FORMATS
from .stopping import stop
from .trainer import Request, Trainer

GRACE = 2.0  # seconds that a trainer which failed or took too long may take to exit after SIGTERM
_MOST_SHOWN = 5  # differences that a message lists

# What must not change from step to step: the dtype and the shape of each variable.
Signature = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class StepResult:
    """A checkpoint that a trainer wrote.

    Attributes:
        metrics: what it measured.
        sha256: the fingerprint of the checkpoint.
        signature: the variables of the checkpoint.
    """

    metrics: Mapping[str, Any]
    sha256: str
    signature: Signature


def attempt(
    trainer: Trainer,
    request: Request,
    model: Model,
    folder: Folder,
    like: Signature | None,
    warn: Callable[[str], None],
    started: bool = False,
) -> StepResult:
    """Have a request done and check what it wrote.

    Args:
        trainer: of the model.
        request: what is wanted.
        model: says how often to try.
        folder: the run.
        like: the variables that the new checkpoint must hold; None if anything will do.
        warn: is called with a line for the user when a try has failed and another follows.
        started: the trainer has been handed the request already.

    Raises:
        TrainerError: the last try failed too; the trainer's last words are quoted.
    """
    for tried in range(1, model.tries + 1):
        try:
            if not started:
                trainer.start(request)
            metrics = trainer.finish()
            sha256, signature = _inspect(request.output, like, model)
            return StepResult(metrics, sha256, signature)
        except TrainerError as error:
            problem = _problem(error, trainer, request, model, folder, tried)
            stop([trainer], 0.0, GRACE)
            formats.remove(request.output)
            started = False
        if tried < model.tries:
            warn(f"{problem}; trying again")
    raise problem


def _inspect(path: str, like: Signature | None, model: Model) -> tuple[str, Signature]:
    """Return the fingerprint and the variables of a new checkpoint; TrainerError if it is not what it should be."""
    main = path if os.path.lexists(path) else path + ".index"
    if os.path.islink(main):
        raise TrainerError("wrote a link in place of a checkpoint", expected="files of its own", found=main)
    try:
        with formats.open(path) as checkpoint:
            if FORMATS[model.format] != checkpoint.format:
                what = f"wrote another format than ring.toml names, {checkpoint.format}"
                raise TrainerError(what, expected=model.format)
            variables = checkpoint.variables.values()
            signature = {variable.name: (variable.dtype, variable.shape) for variable in variables}
            fingerprint = checkpoint.fingerprint()
            compare.check_bounds(checkpoint)
            if model.hidden_units is None:  # the built-in trainer writes nothing that is not finite
                wrong = [finding for finding in compare.verify(checkpoint, finite=True) if not finding.ok]
                if wrong:
                    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
                    where = wrong[0].name or wrong[0].file
                    raise TrainerError(f"wrote a checkpoint with {where}: {wrong[0].problem}{more}")
    except TrainerError:
        raise
    except CkptSurgeonError as error:
        raise TrainerError(f"wrote no readable checkpoint ({error})") from error
    if like is not None and signature != like:
        raise TrainerError(f"wrote other variables than it was given: {_differences(like, signature)}")
    return fingerprint, signature


def _differences(old: Signature, new: Signature) -> str:
    """Put all differences into words: missing, unexpected and changed variables."""
    changed = [
        f"{name} was {_kind(old[name])}, is {_kind(new[name])}"
        for name in old
        if name in new and old[name] != new[name]
    ]
    missing = [f"{name} is missing" for name in old if name not in new]
    extra = [f"{name} is new" for name in new if name not in old]
    found = missing + changed + extra
    more = [f"and {len(found) - _MOST_SHOWN} more"] if len(found) > _MOST_SHOWN else []
    return ", ".join(found[:_MOST_SHOWN] + more)


def _kind(variable: tuple[str, tuple[int, ...]]) -> str:
    return f"{variable[0]} [{','.join(map(str, variable[1]))}]"


def _problem(
    error: TrainerError, trainer: Trainer, request: Request, model: Model, folder: Folder, tried: int
) -> TrainerError:
    """Tell which model and step failed and how, with the last words of its trainer."""
    where = f"model {model.name}, " + (f"step {request.step}" if request.op == "train" else "first weights")
    times = f" ({tried} tries)" if tried > 1 else ""
    words = trainer.last_words()
    return TrainerError(
        f"{where}: its trainer {error.what}{times}",
        path=folder.log(model.name),
        expected=error.expected,
        found=error.found,
        hint=f"its last words: {words}" if words else None,
    )
