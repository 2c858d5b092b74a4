"""Sends one request to a trainer, again and again until it succeeds or the tries are used up."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ... import compare, formats
from ...errors import CkptSurgeonError, TrainerError, shape_text
from ..folder import Folder
from ..spec.records import Model
from ..spec.toml_keys import FORMATS
from .stopping import stop
from .trainer import Request, Trainer

GRACE = 2.0  # seconds that a trainer which failed or took too long may take to exit after SIGTERM
_MOST_SHOWN = 5  # differences that a message lists

# The dtype and the shape of each variable, which must not change from step to step.
Signature = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class StepResult:
    """The result of one step: a new checkpoint.

    Attributes:
        metrics: what the trainer measured; empty for other steps.
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
    """Send a request to a trainer and check the checkpoint that it writes.

    Args:
        trainer: the trainer of the model.
        request: the request.
        model: the model, which sets the number of tries.
        folder: the run.
        like: the variables that the new checkpoint must hold; None to accept any.
        warn: is called with a line for the user whenever a try has failed and another one follows.
        started: whether the request has already been handed to the trainer.

    Raises:
        TrainerError: the last try failed too; the error quotes the end of the trainer's log.
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
    """Return the fingerprint and the variables of a new checkpoint; TrainerError if it is invalid."""
    main = path if os.path.lexists(path) else path + ".index"
    if os.path.islink(main):
        raise TrainerError("wrote a link instead of a checkpoint", expected="regular files", found=main)
    try:
        with formats.open(path) as checkpoint:
            if FORMATS[model.format] != checkpoint.format:
                what = f"wrote a checkpoint in another format than ring.toml says: {checkpoint.format}"
                raise TrainerError(what, expected=model.format)
            variables = checkpoint.variables.values()
            signature = {variable.name: (variable.dtype, variable.shape) for variable in variables}
            fingerprint = checkpoint.fingerprint()
            compare.check_bounds(checkpoint)
            if model.hidden_units is None:  # the built-in trainer checks this itself
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
        raise TrainerError(f"wrote variables that differ from those it was given: {differences(like, signature)}")
    return fingerprint, signature


def differences(old: Signature, new: Signature) -> str:
    """Describe all differences: missing, unexpected and changed variables."""
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
    return f"{variable[0]} {shape_text(*variable[1])}"


def _problem(
    error: TrainerError, trainer: Trainer, request: Request, model: Model, folder: Folder, tried: int
) -> TrainerError:
    """Return the error for a failed try: model, step, cause, and the end of the trainer's log."""
    where = f"model {model.name}, " + (f"step {request.step}" if request.op == "train" else "initial weights")
    times = f" ({tried} tries)" if tried > 1 else ""
    words = trainer.last_words()
    return TrainerError(
        f"{where}: its trainer {error.what}{times}",
        path=folder.log(model.name),
        expected=error.expected,
        found=error.found,
        hint=f"last lines of its log: {words}" if words else None,
    )
