"""The operations that list, from a path to rows: ls, total, tree, layers, checkpoints.

A row is a dict with the keys of one line of `--json`. These functions read metadata only, and import neither NumPy nor
anything else that takes longer than the listing itself.
"""

from __future__ import annotations

import os

from .. import formats, schemes
from ..errors import UsageError
from ..names import natural_key
from ..surgeon.selection import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, TypedDict

    from typing_extensions import Unpack

    from ..checkpoint import Checkpoint, Variable

    class Selecting(TypedDict, total=False):
        """The keyword arguments that choose variables; without any of them, all variables are listed.

        Attributes:
            layers: a range of layers, inclusive: "0-2", "3,5-", "-1", "all".
            match: globs of names, which select in addition to the layers.
            exclude: globs of names that are removed from the selection.
            scheme: how layers are named; None: found from the names.
            slots: False leaves the optimizer's slots out.
        """

        layers: str | None
        match: Sequence[str]
        exclude: Sequence[str]
        scheme: str | None
        slots: bool


def ls(
    path: str | os.PathLike[str],
    *,
    details: bool = True,
    sort: str = "name",
    sha256: bool = False,
    **selecting: Unpack[Selecting],
) -> list[dict[str, Any]]:
    """List the variables of a checkpoint; no tensor is read, except for digests.

    Args:
        path: any spelling of a checkpoint's path.
        details: add `layer`, `slot_of` and `full_name`, which take longer to find than the rest.
        sort: "name" (natural order: layer2 before layer10) or "size" (largest first).
        sha256: add a digest of the values, which reads them.
        selecting: `layers`, `match`, `exclude`, `scheme`, `slots`: see `Selecting`.

    Returns:
        One row for each variable: `name`, `dtype`, `shape` (a tuple), `bytes`; with details `layer`, `slot_of` and
        `full_name`, each None where there is none; with digests `sha256`.

    Raises:
        CkptSurgeonError: there is no such checkpoint, or a pattern, range or scheme that matches nothing.
    """
    if sort not in ("name", "size"):
        raise UsageError(f"invalid sort order {sort!r}", expected="name or size")

    def attempt() -> list[dict[str, Any]]:
        with formats.open(path) as checkpoint:
            selected = _selected(checkpoint, **selecting)
            slots = schemes.slots(checkpoint) if details else {}
            scheme = _scheme(checkpoint, selecting.get("scheme")) if details else None
            rows = []
            for variable in selected:
                row: dict[str, Any] = {
                    "name": variable.name,
                    "dtype": variable.dtype,
                    "shape": variable.shape,
                    "bytes": checkpoint.nbytes(variable),
                }
                if details:
                    row["layer"] = scheme.number(variable.name) if scheme else None
                    row["slot_of"] = slots.get(variable.name)
                    row["full_name"] = checkpoint.full_name(variable.name)
                if sha256:
                    row["sha256"] = digest(checkpoint, variable)
                rows.append(row)
            return rows

    rows = formats.retry(attempt)
    if sort == "size":
        rows.sort(key=lambda row: -(row["bytes"] or 0))
    return rows


def total(path: str | os.PathLike[str], **selecting: Unpack[Selecting]) -> dict[str, Any]:
    """Count the variables of a checkpoint, or those selected.

    Args:
        path: any spelling of a checkpoint's path.
        selecting: as in `ls`.

    Returns:
        `format`, `variables`, `parameters` (numeric elements outside slots), `bytes`, `unreferenced` (bytes of the
        data files that no variable refers to) and `shards`. Bytes are None if a data file that tells them is missing.

    Raises:
        CkptSurgeonError: as in `ls`.
    """
    from ..compare import unreferenced

    def attempt() -> dict[str, Any]:
        with formats.open(path) as checkpoint:
            selected = _selected(checkpoint, **selecting)
            return {
                "format": checkpoint.format,
                "variables": len(selected),
                "parameters": _parameters(selected, schemes.slots(checkpoint)),
                "bytes": _bytes(checkpoint, selected),
                "unreferenced": unreferenced(checkpoint),
                "shards": checkpoint.shards,
            }

    return formats.retry(attempt)


def checkpoints(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """List the checkpoints in a folder, in natural order.

    Args:
        folder: the folder's path.

    Returns:
        One row for each checkpoint: `checkpoint` (its path), `format`, `bytes` (of its files) and `latest` (whether
        the folder's `checkpoint` file names it).

    Raises:
        CkptSurgeonError: there is no such folder, or it holds no checkpoint.
    """
    return sorted(formats.checkpoints(os.fspath(folder)), key=lambda row: natural_key(str(row["checkpoint"])))


def layers(path: str | os.PathLike[str], scheme: str | None = None) -> list[dict[str, Any]]:
    """List the layers of a checkpoint, by every scheme that fits its names.

    Args:
        path: any spelling of a checkpoint's path.
        scheme: list the layers of this scheme only.

    Returns:
        One row for each layer of each scheme: `layer` (its number), `scheme`, `variables`, `parameters`, `bytes`. The
        last row, with `layer` and `scheme` None, counts the variables outside all layers, if there are any.

    Raises:
        CkptSurgeonError: there is no such checkpoint, or the scheme does not fit it.
    """

    def attempt() -> list[dict[str, Any]]:
        with formats.open(path) as checkpoint:
            if scheme:
                fitting = [schemes.find(checkpoint, scheme)]
            else:
                fitting = schemes.fitting(checkpoint) or schemes.inferred(checkpoint)
            return list(_layer_rows(checkpoint, fitting))

    return formats.retry(attempt)


def tree(path: str | os.PathLike[str], **selecting: Unpack[Selecting]) -> list[dict[str, Any]]:
    """List the variables of a checkpoint as a tree, from the root down.

    A folder that holds nothing but another folder shares one row with it.

    Args:
        path: any spelling of a checkpoint's path.
        selecting: as in `ls`.

    Returns:
        One row for each folder and variable, each folder before its contents: `level` (0 at the root), `name` (a
        folder's ends in its separator), `dtype` and `shape` (None for a folder), `parameters` and `bytes`.

    Raises:
        CkptSurgeonError: as in `ls`.
    """
    from .folders import rows

    def attempt() -> list[dict[str, Any]]:
        with formats.open(path) as checkpoint:
            return list(rows(checkpoint, _selected(checkpoint, **selecting)))

    return formats.retry(attempt)


def digest(checkpoint: Checkpoint, variable: Variable) -> str:
    """SHA-256 of a variable's little-endian bytes; of strings joined by NUL; of a variant's stored bytes."""
    import hashlib

    if variable.dtype == "variant":
        checkpoint.check(variable)
        sha = hashlib.sha256()
        for extent in variable.extents:
            for chunk in checkpoint.chunks(extent):
                sha.update(chunk)
        return sha.hexdigest()
    values = checkpoint.read(variable.name)
    if variable.dtype == "string":
        return hashlib.sha256(b"\0".join(values.ravel().tolist())).hexdigest()
    import sys

    if sys.byteorder == "big":
        values = values.byteswap()
    return hashlib.sha256(values.tobytes()).hexdigest()


def _selected(
    checkpoint: Checkpoint,
    layers: str | None = None,
    match: Sequence[str] = (),
    exclude: Sequence[str] = (),
    scheme: str | None = None,
    slots: bool = True,
) -> list[Variable]:
    """The selected variables, in natural order."""
    selected = Selection(layers, match, exclude, scheme).variables(checkpoint)
    left_out = {} if slots else schemes.slots(checkpoint)
    return [variable for variable in selected if variable.name not in left_out]


def _scheme(checkpoint: Checkpoint, pattern: str | None) -> schemes.Scheme | None:
    """The scheme that numbers the layers; None if no scheme was asked for and not exactly one fits."""
    try:
        return schemes.find(checkpoint, pattern)
    except UsageError:
        if pattern is not None:
            raise
        return None


def _layer_rows(checkpoint: Checkpoint, fitting: list[schemes.Scheme]) -> Iterator[dict[str, Any]]:
    slots = schemes.slots(checkpoint)

    def row(number: int | None, scheme: str | None, variables: list[Variable]) -> dict[str, Any]:
        return {
            "layer": number,
            "scheme": scheme,
            "variables": len(variables),
            "parameters": _parameters(variables, slots),
            "bytes": _bytes(checkpoint, variables),
        }

    rest = dict(checkpoint.variables)
    for scheme in fitting:
        for number, variables in scheme.layers(checkpoint).items():
            yield row(number, scheme.name, variables)
            for variable in variables:
                rest.pop(variable.name, None)  # a layer of another scheme may have it too
    if rest:
        yield row(None, None, list(rest.values()))


def _parameters(variables: list[Variable], slots: dict[str, str]) -> int:
    """The number of numeric elements outside slots."""
    return sum(variable.size for variable in variables if variable.is_numeric and variable.name not in slots)


def _bytes(checkpoint: Checkpoint, variables: list[Variable]) -> int | None:
    """The size of all values; None if that of one is unknown."""
    sizes = [checkpoint.nbytes(variable) for variable in variables]
    return None if None in sizes else sum(size or 0 for size in sizes)
