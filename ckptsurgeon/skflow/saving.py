"""Save and restore estimators: skflow's folder, with checkpoints in TensorFlow's V2 format.

    model.def                   JSON: the parameters that are no functions, `class_name`, and under `fitted` what the
                                variables do not tell (labels, names of the features, shape of the target)
    endpoints                   four names of tensors, a line each: input, output, predictions, loss
    checkpoint                  the state file; its paths are relative, so the folder may be moved
    model-<global_step>.index, .data-00000-of-00001

Order on disk: the new checkpoint, endpoints and model.def, the state file that names the checkpoint, and only then
are old checkpoints removed. skflow's `graph.pbtxt` and `saver.pbtxt` held the graph, which the class rebuilds here.

A folder that skflow itself saved in 2016 has no `fitted`, and its checkpoint is of TensorFlow's first format. What
`fitted` would say is then read off the shapes of the variables.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from .. import formats
from ..errors import files
from ..formats import state
from ..formats.bundle import writing as bundle_writing
from ..publish import write_file
from . import model_definition
from .variable_names import GLOBAL_STEP

if TYPE_CHECKING:
    from .net_estimator import NetEstimator

_ENDPOINTS = "endpoints"


def save(estimator: NetEstimator, folder: str) -> None:
    """Save a fitted estimator into a folder, which is made if need be.

    Raises:
        CkptSurgeonError: the folder cannot be written.
    """
    folder = os.fspath(folder)
    net = estimator._net
    values = net.values()
    definition = model_definition.encode(estimator, folder)
    endpoints = "\n".join(tensor.name for tensor in (net.X, net.y, net.predictions, net.loss))
    prefix = os.path.join(folder, f"model-{int(values[GLOBAL_STEP])}")
    with files(folder):
        os.makedirs(folder, exist_ok=True)
    before = state.read(folder)
    formats.write(prefix, values)
    write_file(os.path.join(folder, _ENDPOINTS), endpoints.encode())
    write_file(os.path.join(folder, model_definition.FILE), definition)
    keep = [path for path in (before.all if before else []) if not _same(path, prefix)] + [prefix]
    limit = estimator.max_to_keep or 0
    if not limit:  # as TensorFlow's Saver: nothing is deleted, the latest alone is listed
        state.write(folder, prefix, [prefix])
        return
    state.write(folder, prefix, keep[-limit:])
    for old in keep[:-limit]:
        # A state file may name anything: only what `save` itself may have written here is removed. That spares the
        # checkpoints of 2016 too, which are of another format.
        if re.fullmatch(r"model-[0-9]+", os.path.basename(old)) and _same(os.path.dirname(old), folder):
            bundle_writing.delete(old)


def _same(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)
