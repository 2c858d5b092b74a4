"""Where everything of a run lies.

DIR/ring.toml                    what to train (spec.py)
DIR/journal.jsonl                what has been done (journal.py); also the lock of the folder
DIR/status.json                  the driver that runs or ran last (status.py)
DIR/blocks-0.npz, blocks-1.npz   running means of the weights, of even and odd rounds (convergence.py)
DIR/data/X.npy, y.npy            the rows, float32 [rows, features], and their target
DIR/data/classes.json            the names of the classes, or null
DIR/data/batch.npz               the rows of the present mini-batch
DIR/<model>/model.ckpt-<step>    the checkpoint that step <step> wrote; 0 holds the first weights
DIR/<model>/checkpoint           the state file that TensorFlow looks for
DIR/<model>/trainer.log          what the model's trainer said
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import data
from ..errors import CkptSurgeonError, DamagedError, files
from ..publish import write_file


@dataclass(frozen=True)
class Folder:
    """The folder of a run; its paths are absolute, since trainers may work elsewhere."""

    root: str

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

    def blocks(self, round: int) -> str:
        """Return the path of the running means after `round`; the round before it has another one."""
        return os.path.join(self.root, f"blocks-{round % 2}.npz")

    def model(self, name: str) -> str:
        """Return the folder of a model."""
        return os.path.join(self.root, name)

    def checkpoint(self, name: str, step: int) -> str:
        """Return the prefix of the checkpoint that `step` wrote for a model."""
        return os.path.join(self.root, relative_checkpoint(name, step))

    def log(self, name: str) -> str:
        """Return the path of what a model's trainer said."""
        return os.path.join(self.root, name, "trainer.log")

    def metrics(self, name: str) -> str:
        """Return the path where a command may leave the metrics of its step."""
        return os.path.join(self.root, name, "metrics.json")

    def save_table(self, table: data.Table) -> None:
        """Write the rows that all models train on; classes.json comes last."""
        with files(self.rows):
            os.makedirs(self.rows, exist_ok=True)
            for name, values in (("X.npy", table.X), ("y.npy", table.y)):
                _save_npy(os.path.join(self.rows, name), values)
        classes = None if table.classes is None else list(table.classes)
        write_file(os.path.join(self.rows, "classes.json"), (json.dumps(classes) + "\n").encode())

    def open_table(self) -> data.Table:
        """Map the rows into memory."""
        path = os.path.join(self.rows, "classes.json")
        X, y = (data.load_npy(os.path.join(self.rows, name)) for name in ("X.npy", "y.npy"))
        with files(path), open(path, "rb") as file:
            try:
                classes = json.load(file)
            except ValueError as error:
                raise DamagedError(f"is not JSON: {error}") from error
        if X.ndim != 2 or X.dtype != np.float32 or len(y) != len(X):
            raise DamagedError("the rows are not those of a run", path=self.rows)
        return data.Table(X, y, None if classes is None else tuple(map(str, classes)))

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


def relative_checkpoint(name: str, step: int) -> str:
    """Return a checkpoint's prefix as the journal names it, relative to the run's folder."""
    return f"{name}/model.ckpt-{step}"


def existing(path: str) -> Folder:
    """Return the folder at `path`, which must hold a ring.toml."""
    folder = Folder.at(path)
    if not os.path.isfile(folder.spec):
        hint = f"make one with: ckptsurgeon ring init {path}"
        raise CkptSurgeonError("there is no ring.toml here", path=path, hint=hint)
    return folder


def _save_npy(path: str, values: NDArray[Any]) -> None:
    """Write an array without holding it in memory a second time; the old file stays until then."""
    temporary = path + ".ckptsurgeon-tmp"
    with open(temporary, "wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(values), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
