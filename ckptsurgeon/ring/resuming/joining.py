"""The first checkpoint of each model, and whether the models can share their trunk from there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from ... import formats
from ...errors import CkptSurgeonError, Problems, check
from ...verbs import producing
from .. import retention
from ..folder import Folder
from ..lines import Variables
from ..spec.records import Model, Spec
from ..weights.trunk import Trunk, mismatches


def copy(folder: Folder, model: Model, source: str) -> str:
    """Copy a given checkpoint into the run, in the format of the model; return its fingerprint."""
    target = folder.checkpoint(model.name, 0)
    to = "hdf5" if model.format == "weights.h5" else model.format
    producing.convert(folder.resolve(source), target, to=to, force=True, sync=False)
    return retention.fingerprint(target)


def variables(path: str) -> Variables:
    """Return the dtype and the shape of each variable of a checkpoint."""
    with formats.open(path) as checkpoint:
        return {each.name: (each.dtype, each.shape) for each in checkpoint.variables.values()}


def check_trunks(folder: Folder, spec: Spec, checkpoints: Mapping[str, str]) -> None:
    """Plan every graft of a round, in each stage, so that models which cannot share a trunk are found before it begins.

    Args:
        folder: the run.
        spec: its models.
        checkpoints: model -> one of its checkpoints.

    Raises:
        Problems: they cannot; a single reason is raised directly.
    """
    problems: list[CkptSurgeonError] = []
    for stage in spec.trunks:
        try:
            trunk = Trunk(stage, checkpoints)
        except CkptSurgeonError as error:
            problems += error.problems if isinstance(error, Problems) else [error]
            continue
        pairs = itertools.pairwise(spec.names)  # all others follow from them
        for donor, recipient in [*pairs, (spec.names[-1], spec.names[0])]:
            try:
                trunk.graft(donor, checkpoints[donor], recipient, checkpoints[recipient], None)
            except CkptSurgeonError as error:
                problems += mismatches(f"{stage.selection} of {donor} cannot be grafted into {recipient}", error)
    for problem in problems:
        problem.path = folder.spec
    check(problems)
