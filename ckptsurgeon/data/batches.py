"""Mini-batches: the rows of each batch, and the small .npz file that passes it on.

All randomness is a keyed function of (seed, position), never the state of a generator, so batch b always has the same
rows.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RefusedError, UsageError, files
from ..publish import write_file
from .numpy_files import load_npz


def write_batch(path: str, X: NDArray[np.float32], y: NDArray[Any], sync: bool = False) -> None:
    """Write the .npz of one batch atomically, X of any rank; the same rows give the same bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, X=X, y=y)
    write_file(path, buffer.getvalue(), sync=sync)


def read_batch(path: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Read X and y of an .npz as defined by the trainer's contract; y contains class numbers or values.

    Raises:
        UsageError: the file is not an .npz, or lacks one of the arrays.
        DamagedError: the file cannot be read.
    """
    with files(path), open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise UsageError("no target was given", path=path, hint="--target COLUMN names it; an .npz needs none")
    found = load_npz(path)
    missing = [name for name in ("X", "y") if name not in found]
    if missing:
        raise UsageError(f"there is no array {' and no '.join(missing)}", path=path, expected="X and y")
    if found["X"].ndim == 0 or found["y"].ndim == 0 or len(found["X"]) != len(found["y"]):
        shapes = [list(found[name].shape) for name in ("X", "y")]
        raise RefusedError("X and y have different numbers of rows", path=path, found=f"{shapes[0]} and {shapes[1]}")
    return found["X"], found["y"]


class Batches:
    """The rows of batch b, as a pure function of (seed, b) that needs constant memory.

    Each epoch is a keyed permutation of the rows that are not held out, cut into consecutive slices; the last
    slice of an epoch may be short. The held-out rows are the first ones of a separate permutation.

    Attributes:
        per_epoch: number of batches in an epoch.

    Args:
        rows: number of rows of the table.
        batch_size: rows per batch.
        seed: any integer.
        holdout: the share of rows that are never in a batch; at least one row unless it is 0.

    Raises:
        UsageError: a number is invalid, or no rows are left to train on.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, holdout: float = 0.0) -> None:
        if rows < 1 or batch_size < 1 or not 0 <= holdout < 1:
            raise UsageError(
                "cannot form batches",
                expected="rows and batch_size of 1 or more, holdout from 0 up to but not including 1",
                found=f"rows {rows}, batch_size {batch_size}, holdout {holdout}",
            )
        self._rows = rows
        self._batch_size = batch_size
        self._seed = seed
        self._held = max(1, round(rows * holdout)) if holdout else 0
        self._train = rows - self._held
        if self._train < 1:
            raise UsageError(
                f"holding out {holdout} of {rows} rows leaves no rows to train on", hint="holdout = 0 keeps all"
            )
        self.per_epoch = -(-self._train // batch_size)

    def rows(self, batch: int) -> NDArray[np.int64]:
        """Return the row numbers of a batch, counted from 0 over all epochs; int64 [batch_size or fewer]."""
        epoch, number = divmod(batch, self.per_epoch)
        start = number * self._batch_size
        stop = min(start + self._batch_size, self._train)
        shuffled = permute(np.arange(start, stop), self._train, f"{self._seed}/{epoch}")
        return permute(shuffled + self._held, self._rows, f"{self._seed}/holdout") if self._held else shuffled

    def held_out(self) -> NDArray[np.int64]:
        """Return the numbers of the held-out rows, ascending; int64 [held-out rows]."""
        return np.sort(self._held_out(0, self._held))

    def held_out_parts(self, size: int) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of the held-out rows, `size` at a time, each part ascending, to save memory."""
        for start in range(0, self._held, size):
            yield np.sort(self._held_out(start, min(start + size, self._held)))

    def _held_out(self, start: int, stop: int) -> NDArray[np.int64]:
        return permute(np.arange(start, stop), self._rows, f"{self._seed}/holdout")


def permute(positions: NDArray[np.int64], n: int, key: str) -> NDArray[np.int64]:
    """Return where a permutation of 0 … n-1, chosen by `key`, sends the given positions.

    A Feistel network permutes the numbers of `(n-1).bit_length()` bits; a result of n or more goes through it
    again until it is smaller (cycle walking, fewer than 2 passes on average). So no table of size n is
    needed.
    """
    bits = (n - 1).bit_length()
    low = np.uint64(bits - bits // 2)
    high_mask = np.uint64((1 << (bits // 2)) - 1)
    low_mask = np.uint64((1 << int(low)) - 1)
    keys = np.frombuffer(blake2b(key.encode()).digest(), dtype="<u8").astype(np.uint64)

    def network(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        high, rest = numbers >> low, numbers & low_mask
        for even, odd in zip(keys[0::2], keys[1::2], strict=True):
            high = high ^ (_mix(rest ^ even) & high_mask)
            rest = rest ^ (_mix(high ^ odd) & low_mask)
        joined: NDArray[np.uint64] = (high << low) | rest
        return joined

    result = network(np.asarray(positions).astype(np.uint64))
    while (outside := np.flatnonzero(result >= n)).size:
        result[outside] = network(result[outside])
    return result.astype(np.int64)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply splitmix64's finaliser (Steele, Lea, Flood 2014): each output bit depends on each input bit."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed
