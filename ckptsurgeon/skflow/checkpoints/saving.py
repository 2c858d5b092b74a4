"""Save and restore estimators: skflow's folder, with checkpoints in TensorFlow's V2 format.

    model.def                   JSON, see `model_definition`
    endpoints                   the names of four tensors, one per line: input, output, predictions, loss
    checkpoint                  the state file; its paths are relative, so the folder can be moved
    model-<global_step>.index, .data-00000-of-00001

Files are written in this order: the new checkpoint, endpoints, model.def, then the state file that names the
checkpoint. Old checkpoints are removed last. skflow also saved the graph, in `graph.pbtxt` and `saver.pbtxt`; here the
class rebuilds it, or the model_fn that is passed to `restore`. A graph is a program that can read and write any file,
and nothing that a folder contains is executed.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from ... import formats
from ...errors import files
from ...formats import state
from ...formats.bundle import writing as bundle_writing
from ...publish import write_file
from ...schemes.skflow_names import GLOBAL_STEP
from . import model_definition

if TYPE_CHECKING:
    from ..net_estimator import NetEstimator

_ENDPOINTS = "endpoints"


def save(estimator: NetEstimator, folder: str) -> None:
    """Save a fitted estimator into a folder, which is created if missing.

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
    if not limit:  # like TensorFlow's Saver: nothing is deleted, and only the latest is listed
        state.write(folder, prefix, [prefix])
        return
    state.write(folder, prefix, keep[-limit:])
    for old in keep[:-limit]:
        # A state file can name any path, so remove only what `save` could have written here. This also keeps
        # skflow's own checkpoints of 2016, which have another format.
        if re.fullmatch(r"model-[0-9]+", os.path.basename(old)) and _same(os.path.dirname(old), folder):
            bundle_writing.delete(old)


def _same(one: str, other: str) -> bool:
    return os.path.abspath(one) == os.path.abspath(other)
