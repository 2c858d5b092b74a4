"""The operations that read values and change nothing, from paths to what is found there: get, show, verify, diff.

Each imports only what it needs: they are run often, on checkpoints that are read in less time than an import takes.
"""

from __future__ import annotations

import os

from .. import formats, plain
from ..errors import DamagedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray

    from ..checkpoint import Checkpoint, Variable
    from ..compare import Finding
    from ..compare.comparison import Difference
    from ..plain import Numbers


def verify(path: str | os.PathLike[str], finite: bool = False) -> list[Finding]:
    """Check the bytes of a checkpoint against its metadata.

    Args:
        path: any spelling of a checkpoint's path.
        finite: report NaN and infinities as damage too.

    Returns:
        One finding for each item checked; those that are not `ok` are damage.

    Raises:
        NotFoundError: there is no such checkpoint.
        UnsupportedError: the file is of another kind.
    """
    from .. import compare

    def attempt() -> list[Finding]:
        try:
            with formats.open(path) as checkpoint:
                findings = list(compare.verify(checkpoint, finite))
        except DamagedError as error:
            return [compare.damage(os.fspath(path), error)]
        for finding in findings:
            finding.file = "stdin" if path == "-" else finding.file
        return findings

    return formats.retry(attempt)


def diff(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    layers: str | None = None,
    match: Sequence[str] = (),
    exclude: Sequence[str] = (),
    scheme: str | None = None,
    exact: bool = False,
    values: bool = False,
    tolerance: float | None = None,
) -> list[Difference]:
    """Which variables of two checkpoints differ.

    Args:
        a: any spelling of a checkpoint's path.
        b: any spelling of a checkpoint's path.
        layers: a range of layers of `a`, inclusive: "0-2", "3,5-", "-1", "all".
        match: globs of names, which select in addition to the layers.
        exclude: globs of names that are taken away again.
        scheme: how layers are named; None: found from the names.
        exact: compare bytes even if checksums agree.
        values: compute how far numbers differ.
        tolerance: numbers are the same if no two elements are further from each other.

    Returns:
        One for each variable, in natural order, those with the status "same" among them.

    Raises:
        CkptSurgeonError: a pattern that matches nothing, a missing data file that is needed, or damaged values.
    """
    from ..compare import differences
    from ..surgeon.selection import Selection

    selection = Selection(layers, match, exclude, scheme)

    def attempt() -> list[Difference]:
        with formats.open(a) as one, formats.open(b) as other:
            return differences.diff(one, other, selection, exact=exact, values=values, tolerance=tolerance)

    return formats.retry(attempt)


def show(path: str | os.PathLike[str], match: Sequence[str] = (), *, strings: int = 0) -> list[dict[str, Any]]:
    """Compute statistics of variables.

    Args:
        path: any spelling of a checkpoint's path.
        match: globs of names; without any, all variables.
        strings: add a key `strings`: up to this many elements of a string variable, None for other variables.

    Returns:
        One row for each variable: `name`, `dtype`, `shape` (a tuple); `min`, `max`, `mean`, `std` and `zeros` (a
        share) over its finite elements, complex numbers by their magnitude; `nan` and `inf` (counts); `histogram`
        (`edges` and `counts` of equally wide bins). What a variable does not have is None.

    Raises:
        CkptSurgeonError: there is no such checkpoint, a glob matches nothing, or values are damaged.
    """
    from ..compare import summary
    from ..surgeon.selection import Selection

    def row(checkpoint: Checkpoint, variable: Variable) -> dict[str, Any]:
        found: dict[str, Any] = {"name": variable.name, "dtype": variable.dtype, "shape": variable.shape}
        found |= summary.summarize(checkpoint.read(variable.name)) if variable.is_numeric else summary.unknown()
        if strings:
            is_string = variable.dtype == "string"
            found["strings"] = checkpoint.read(variable.name).reshape(-1)[:strings].tolist() if is_string else None
        return found

    def attempt() -> list[dict[str, Any]]:
        with formats.open(path) as checkpoint:
            return [row(checkpoint, variable) for variable in Selection(match=match).variables(checkpoint)]

    return formats.retry(attempt)


def get(path: str | os.PathLike[str], target: str) -> NDArray[Any]:
    """The values of one variable.

    Args:
        path: any spelling of a checkpoint's path.
        target: a name, or a name and an index as in `dnn/layer1/Linear/Bias[0:2]`.

    Raises:
        CkptSurgeonError: no such variable, or its bytes are damaged.
    """
    from .. import numeric

    def attempt() -> NDArray[Any]:
        with formats.open(path) as checkpoint:
            name, index = split_index(checkpoint, target)
            return numeric.at_index(checkpoint.read(name), index, name)

    return formats.retry(attempt)


def get_plain(path: str | os.PathLike[str], target: str) -> Numbers | NDArray[Any]:
    """As `get`, without NumPy where the numbers are plain."""

    def attempt() -> Numbers | NDArray[Any]:
        with formats.open(path) as checkpoint:
            name, index = split_index(checkpoint, target)
            numbers = plain.numbers_of(checkpoint, checkpoint[name])
            part = numbers and numbers.at(index)
            if part is not None:
                return part
            from .. import numeric

            return numeric.portable(numeric.at_index(checkpoint.read(name), index, name))

    return formats.retry(attempt)


def is_file_of(path: str, other: str) -> bool:
    """Whether a path names one of a checkpoint's own files, however either is spelled."""
    if path == "-" or not os.path.exists(other):
        return False
    with formats.open(path) as checkpoint:
        extents = [extent.file for variable in checkpoint.variables.values() for extent in variable.extents]
        own = {checkpoint.main_file, *checkpoint.data_files, *extents}
        return any(os.path.exists(each) and os.path.samefile(each, other) for each in own)


def unreferenced(path: str) -> int | None:
    """Bytes in a checkpoint's data files that no variable refers to; None if a data file is missing."""
    from .. import compare

    with formats.open(path) as checkpoint:
        return compare.unreferenced(checkpoint)


def split_index(checkpoint: Checkpoint, target: str) -> tuple[str, tuple[Any, ...] | None]:
    """A name and an index; a variable whose name itself ends in brackets wins."""
    variable = checkpoint.named(target)
    name, bracket, index = target[:-1].rpartition("[")
    if not (name and bracket and target.endswith("]") and "]" not in index) or variable is not None:
        return (variable.name if variable else target), None
    variable = checkpoint.named(name)
    return (variable.name if variable else name), plain.parse_index(index)
