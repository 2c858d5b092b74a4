"""The path of every file of a run.

DIR/ring.toml                    what to train (spec.py)
DIR/journal.jsonl                what has been done (journal.py); also the lock of the folder
DIR/status.json                  the driver that is running or ran last (status.py)
DIR/blocks-0.npz, blocks-1.npz   running means of the weights, of even and odd rounds (convergence.py)
DIR/events/                      the curves for TensorBoard (events.py)
DIR/data/X.npy, y.npy            the rows, float32 [rows, features] or with more axes, and their target;
                                 if a Python function returns the batches, only the held-out rows
DIR/data/classes.json            the names of the classes, or null
DIR/data/features.json           the names of the features; an empty list if they have none
DIR/data/source.json             the SHA-256 of batch 0 of a Python function
DIR/data/source.log              what the function printed
DIR/data/batch.npz               the rows of the current mini-batch
DIR/<model>/model.ckpt-<step>    the checkpoint that step <step> wrote; 0 holds the initial weights; the ending
                                 shows the format if it is not TensorFlow's
DIR/trunk/model.ckpt-<step>      the mean of all trunks, in a run whose schedule is "average"
DIR/<model>/checkpoint           the state file that TensorFlow looks for
DIR/<model>/trainer.log          the log of the model's trainer
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from .. import data
from ..errors import CkptSurgeonError, DamagedError, NotFoundError, files
from ..publish import write_file


@dataclass(frozen=True)
class Folder:
    """The folder of a run; its paths are absolute, since trainers may have another working directory.

    Attributes:
        root: the folder.
        suffixes: the ending of each model's checkpoint names, if known (see `toml_keys.SUFFIXES`).
    """

    root: str
    suffixes: Mapping[str, str] | None = None

    @classmethod
    def at(cls, path: str) -> Folder:
        """Return the folder at `path`, which need not exist."""
        return cls(os.path.abspath(path))

    @property
    def spec(self) -> str:
        """ring.toml."""
        return os.path.join(self.root, "ring.toml")

    @property
    def journal(self) -> str:
        """journal.jsonl."""
        return os.path.join(self.root, "journal.jsonl")

    @property
    def status(self) -> str:
        """status.json."""
        return os.path.join(self.root, "status.json")

    @property
    def events(self) -> str:
        """The folder of the curves for TensorBoard."""
        return os.path.join(self.root, "events")

    @property
    def rows(self) -> str:
        """The folder of the rows."""
        return os.path.join(self.root, "data")

    @property
    def batch(self) -> str:
        """The rows of the present mini-batch."""
        return os.path.join(self.root, "data", "batch.npz")

    def resolve(self, path: str) -> str:
        """Return where a path of ring.toml leads: a relative one starts at the run's folder, which need not exist."""
        return os.path.normpath(os.path.join(os.path.realpath(self.root), path))

    def function(self, text: str) -> str:
        """Return a `trainer` of ring.toml with the path of its file, if it names one, resolved."""
        place, _, name = text.rpartition(":")
        return f"{self.resolve(place)}:{name}" if place.endswith(".py") else text

    def blocks(self, round: int) -> str:
        """Return the path of the running means after `round`; the round before it has another one."""
        return os.path.join(self.root, f"blocks-{round % 2}.npz")

    def model(self, name: str) -> str:
        """Return the folder of a model."""
        return os.path.join(self.root, name)

    def storing(self, suffixes: Mapping[str, str]) -> Folder:
        """Return the same folder with the endings of its models' checkpoint names."""
        return replace(self, suffixes=suffixes)

    def relative(self, name: str, step: int) -> str:
        """Return the checkpoint that `step` wrote for a model as the journal names it, relative to the run's folder."""
        assert self.suffixes is not None
        return f"{name}/model.ckpt-{step}{self.suffixes[name]}"

    def checkpoint(self, name: str, step: int) -> str:
        """Return the checkpoint that `step` wrote for a model: the path of its file, or TensorFlow's prefix."""
        return os.path.join(self.root, self.relative(name, step))

    def log(self, name: str) -> str:
        """Return the path of the log of a model's trainer."""
        return os.path.join(self.root, name, "trainer.log")

    def metrics(self, name: str) -> str:
        """Return the path where a command may leave the metrics of its step."""
        return os.path.join(self.root, name, "metrics.json")

    def save_table(self, table: data.Table) -> None:
        """Write the rows that all models train on; classes.json comes last."""
        with files(self.rows):
            os.makedirs(self.rows, exist_ok=True)
        for name, values in (("X.npy", table.X), ("y.npy", table.y)):
            write_file(os.path.join(self.rows, name), data.npy_bytes(values))
        classes = None if table.classes is None else list(table.classes)
        for name, names in (("features.json", list(table.features)), ("classes.json", classes)):
            write_file(os.path.join(self.rows, name), (json.dumps(names) + "\n").encode())

    def open_table(self) -> data.Table:
        """Map the rows into memory."""
        X, y = (data.load_npy(os.path.join(self.rows, name)) for name in ("X.npy", "y.npy"))
        classes = self._names("classes.json")
        features: tuple[str, ...] = ()
        with contextlib.suppress(NotFoundError):  # a run made by an earlier version
            features = self._names("features.json") or ()
        if X.ndim < 2 or X.dtype != np.float32 or len(y) != len(X) or len(features) not in (0, X.shape[1]):
            raise DamagedError("these are not the rows of a run", path=self.rows)
        return data.Table(X, y, classes, features)

    def _names(self, name: str) -> tuple[str, ...] | None:
        """Return the names listed in a file of the data folder, or None if it holds null."""
        path = os.path.join(self.rows, name)
        with files(path), open(path, "rb") as file:
            try:
                names = json.load(file)
            except (ValueError, RecursionError) as error:
                raise DamagedError(f"is not JSON: {error}") from error
            if names is not None and not (isinstance(names, list) and all(isinstance(each, str) for each in names)):
                raise DamagedError("is not a list of names")
        return None if names is None else tuple(names)

    def data_digest(self) -> str | None:
        """Return the SHA-256 of X.npy and y.npy, or None where the run has no rows."""
        digest = sha256()
        for name in ("X.npy", "y.npy"):
            path = os.path.join(self.rows, name)
            if not os.path.exists(path):
                return None
            with files(path), open(path, "rb") as file:
                digest.update(os.fstat(file.fileno()).st_size.to_bytes(8, "little"))
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


@dataclass(frozen=True)
class _LoggingElsewhere(Folder):
    """The folder of a run whose trainers' logs are in another folder."""

    logs: str = ""

    def log(self, name: str) -> str:
        """Return the path of the log of a model's trainer."""
        return os.path.join(self.logs, f"{name}.log")


def logging_to(folder: Folder, logs: str) -> Folder:
    """Return the same folder, for trainers that are not a run's and must not write to its logs."""
    return _LoggingElsewhere(folder.root, folder.suffixes, logs)


def existing(path: str) -> Folder:
    """Return the folder at `path`, which must hold a ring.toml."""
    folder = Folder.at(path)
    if not os.path.isfile(folder.spec):
        hint = f"make one with: ckptsurgeon ring init {path}"
        raise CkptSurgeonError("there is no ring.toml here", path=path, hint=hint)
    return folder
