"""Which checkpoints of a run stay on disk, and the state files that list them for TensorFlow.

Both follow from history alone and change with a whole round: a model keeps the newest `max_to_keep` checkpoints that
it had then, and all since. Its state file names those of the whole round, when all models held the same trunk.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from hashlib import sha256

from .. import formats
from ..errors import files
from ..formats import locating, state
from .folder import Folder
from .history import History
from .schedule import TRUNK

_CHECKPOINT = re.compile(r"model\.ckpt-(\d+)(?=[._-]|$)")
_UNFINISHED = re.compile(r"ckptsurgeon-tmp|\.tempstate\d")


def update_state_files(folder: Folder, history: History, max_to_keep: int) -> None:
    """Write the state files: the newest checkpoints of each model as of the last whole round."""
    for model in history.schedule.writers:
        listed = [folder.checkpoint(model, step) for step in history.listed(model, max_to_keep)]
        if model == TRUNK:  # which has no first weights
            listed = [path for path, step in zip(listed, history.listed(model, max_to_keep), strict=True) if step]
        if listed:
            state.write(folder.model(model), listed[-1], listed, sync=False)


def tidy(folder: Folder, history: History, model: str, max_to_keep: int) -> None:
    """Remove the checkpoints of a model that are no longer needed.

    Its trainer may be working on the next step, so checkpoints of later steps are left alone.
    """
    path = folder.model(model)
    kept = history.kept(model, max_to_keep)
    with files(path):
        for name, step in _steps(path):
            if step not in kept and step <= history.step:
                _remove(os.path.join(path, name))


def sweep(path: str, kept: set[int], last: int | None = None) -> list[str]:
    """Remove all unfinished files, and checkpoints except those in `kept`, from a model's folder.

    No trainer may be running. Files left by a crash are removed like old ones.

    Args:
        path: the folder.
        kept: the steps of the checkpoints that stay.
        last: the last step that the run can have begun; None to remove those of all steps.

    Returns:
        The paths of later checkpoints, which somebody else put there, and which stay.
    """
    others = []
    with files(path):
        for name, step in _steps(path):
            if last is not None and step > last:
                others.append(os.path.join(path, name))
            elif step not in kept:
                _remove(os.path.join(path, name))
        for name in os.listdir(path):
            if _UNFINISHED.search(name):
                _remove(os.path.join(path, name))
    return sorted(others)


def foreign(path: str) -> str | None:
    """Return a checkpoint in a model's folder that no unfinished `ring init` can have left there."""
    with files(path):
        return next((os.path.join(path, name) for name, step in sorted(_steps(path)) if step), None)


def fingerprint(path: str) -> str:
    """Return the fingerprint of a checkpoint without parsing it: the same as `Checkpoint.fingerprint`.

    Args:
        path: of a checkpoint that this process has just written: its file, or the prefix of a TensorFlow V2 one, whose
            index holds a checksum of every byte of data.
    """
    digest = sha256()
    with files(path), open(path if os.path.exists(path) else path + ".index", "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def carry(source: str, output: str) -> None:
    """Give a checkpoint a second name, by hard links, or by copies where the file system has none."""
    formats.remove(output)
    for path in locating.files_of(locating.locate(source)):
        with files(path):
            try:
                os.link(path, output + path[len(source) :])
            except OSError:
                shutil.copyfile(path, output + path[len(source) :])


def _steps(path: str) -> Iterator[tuple[str, int]]:
    """Yield the files of a folder that belong to a checkpoint, and the step that wrote it."""
    for name in os.listdir(path):
        match = _CHECKPOINT.match(name)
        if match is not None:
            yield name, int(match[1])


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)
