"""The operations from paths to report: open, lock, plan, save. What the command line and the Python API both call."""

from __future__ import annotations

import os
import re

from . import compare, formats, surgeon
from .errors import ChangedError, DamagedError, NotFoundError, RefusedError, UsageError
from .plan import Copy, Plan, Report, Values
from .selection import Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from numpy.typing import ArrayLike, NDArray

    from .checkpoint import Checkpoint, Extent
    from .formats.bundle import Bundle

# Endings of OUT that mean another format than a TensorFlow checkpoint's, whose OUT is a prefix without an ending.
_OTHER_ENDINGS = (".h5", ".hdf5", ".keras", ".safetensors", ".npz", ".npy", ".pt", ".pth", ".onnx", ".tflite", ".gguf")


def graft(
    donor: str,
    recipient: str,
    *,
    layers: str | None = None,
    match: Sequence[str] = (),
    exclude: Sequence[str] = (),
    scheme: str | None = None,
    slots: str = "keep",
    out: str | None = None,
    link: bool = False,
    wait: float = 30.0,
    dry_run: bool = False,
    force: bool = False,
    sync: bool = True,
) -> Report:
    """Rewrite chosen variables of the recipient with those of the donor: all of them, or none.

    Args:
        donor: any spelling of a checkpoint's path; it is never modified.
        recipient: any spelling of a checkpoint's path.
        layers: a range of layers, inclusive: "0-2", "3,5-", "-1", "all".
        match: globs of names, which select beside the layers.
        exclude: globs of names that are taken away again.
        scheme: how layers are named; None: found from the names.
        slots: what becomes of the slots of the grafted variables: "keep", "copy", "drop" or "fill=NUMBER".
        out: write the result there, and leave the recipient as it is.
        link: share the donor's data files, unread, instead of copying from them.
        wait: seconds to wait for another writer.
        dry_run: report what would be done, and write nothing.
        force: replace a checkpoint that stands at `out`.
        sync: wait until everything is on the disk. Without it the result is safe against a killed process alone.

    Returns:
        What was done, variable by variable.

    Raises:
        CkptSurgeonError: nothing was written; `lines` says all that is wrong.
    """
    selection = Selection(layers, match, exclude, scheme)
    if selection.is_empty:
        raise UsageError("nothing is selected", expected="--layers or --match")
    surgeon.SlotPolicy(slots)
    if out is not None:
        _check_out(out, donor)

    def make(target: Checkpoint) -> Plan:
        source = formats.open(donor)
        opened.append(source)
        if _is_same_index(source, target):
            raise UsageError("donor and recipient are one checkpoint", path=source.path)
        if link and source.byteorder != target.byteorder:
            raise RefusedError("--link cannot change the byte order", path=source.path, hint="leave --link out")
        plan = surgeon.graft(source, target, selection, slots)
        _leave_equal(plan, link)
        return plan

    opened: list[Bundle] = []
    try:
        return _operate(recipient, make, out, link, wait, dry_run, force, sync)
    finally:
        for source in opened:
            source.close()


def set(
    path: str,
    target: str,
    value: ArrayLike | str,
    *,
    out: str | None = None,
    wait: float = 30.0,
    dry_run: bool = False,
    force: bool = False,
    sync: bool = True,
) -> Report:
    """Set values of one variable by hand.

    Args:
        path: any spelling of a checkpoint's path.
        target: a name, or a name and an index as in `dnn/layer1/Linear/Bias[3]`.
        value: values of the shape of what is set, or one number for all of it; as text, what a person types.
        out: as in `graft`, like all that follow.
        wait: seconds to wait for another writer.
        dry_run: report what would be done, and write nothing.
        force: replace a checkpoint that stands at `out`.
        sync: wait until everything is on the disk.

    Raises:
        CkptSurgeonError: no such variable, or a value that does not fit it; nothing was written.
    """
    from . import numeric

    if out is not None:
        _check_out(out, None)

    def make(checkpoint: Checkpoint) -> Plan:
        name, index = _split_index(checkpoint, target)
        variable = checkpoint[name]
        values = checkpoint.read(variable.name)
        part = numeric.at_index(values, index, name)
        new = numeric.from_user(value, variable.dtype, target)
        if new.ndim and new.shape != part.shape:
            raise RefusedError(
                f"the value for {target} has another shape",
                path=checkpoint.path,
                expected=list(part.shape),
                found=list(new.shape),
            )
        before = values.tobytes() if variable.is_numeric else values.tolist()
        part[...] = new
        plan = surgeon.assign(checkpoint, variable.name, values)
        if before == (values.tobytes() if variable.is_numeric else values.tolist()):
            _mark_equal(plan)
        return plan

    return _operate(path, make, out, False, wait, dry_run, force, sync)


def get(path: str, target: str) -> NDArray[Any]:
    """The values of one variable.

    Args:
        path: any spelling of a checkpoint's path.
        target: a name, or a name and an index as in `dnn/layer1/Linear/Bias[0:2]`.

    Raises:
        CkptSurgeonError: no such variable, or its bytes are damaged.
    """
    from . import numeric

    def attempt() -> NDArray[Any]:
        with formats.open(path) as checkpoint:
            name, index = _split_index(checkpoint, target)
            return numeric.at_index(checkpoint.read(name), index, name)

    return formats.retry(attempt)


def verify(path: str, finite: bool = False) -> list[compare.Finding]:
    """Whether the bytes of a checkpoint are what its metadata say.

    Args:
        path: any spelling of a checkpoint's path.
        finite: look for NaN and infinities too.

    Returns:
        What was looked at; those that are not `ok` are damage.

    Raises:
        NotFoundError: there is no such checkpoint.
        UnsupportedError: something else is there.
    """

    def attempt() -> list[compare.Finding]:
        try:
            with formats.open(path) as checkpoint:
                return list(compare.verify(checkpoint, finite))
        except DamagedError as error:
            return [compare.damage(path, error)]

    return formats.retry(attempt)


def _operate(
    path: str,
    make: Callable[[Checkpoint], Plan],
    out: str | None,
    link: bool,
    wait: float,
    dry_run: bool,
    force: bool,
    sync: bool,
) -> Report:
    """Open and lock, plan, save; again from the start if a checkpoint was replaced meanwhile."""

    def attempt() -> Report:
        if out is None and not dry_run:
            with formats.locked(path, wait) as held:
                plan = make(held.checkpoint)
                report = Report(held.checkpoint.path, plan, link)
                if not plan.changes_nothing:
                    report.warnings = formats.save(plan, lock=held.lock, link=link, sync=sync, wait=wait)
                return report
        with formats.open(path) as checkpoint:
            plan = make(checkpoint)
            report = Report(out or checkpoint.path, plan, link)
            if out is not None and not force and os.path.lexists(out + ".index"):
                raise RefusedError("exists already", path=out, hint="--force replaces it")
            if not dry_run:
                report.warnings = formats.save(plan, out=out, link=link, force=force, sync=sync, wait=wait)
            return report

    return formats.retry(attempt)


def _check_out(out: str, donor: str | None) -> None:
    """Whether OUT is a place where a new TensorFlow checkpoint can stand.

    Raises:
        UsageError, NotFoundError, RefusedError: it is not.
    """
    ending = os.path.splitext(out)[1]
    if ending in _OTHER_ENDINGS:
        raise UsageError(
            f"-o {out} is the name of another format", expected="a prefix, without an ending", hint="use convert"
        )
    if ending in (".index", ".meta") or ".data-" in os.path.basename(out):
        raise UsageError(f"-o {out} names one file of a checkpoint", expected="its prefix")
    if os.path.isdir(out):
        raise UsageError("is a folder", path=out, expected="the prefix of a checkpoint in it")
    if not os.path.basename(out):
        raise UsageError(f"-o {out!r} names no checkpoint", expected="a prefix")
    if not os.path.isdir(os.path.dirname(out) or "."):
        raise NotFoundError("no such folder", path=os.path.dirname(out))
    if donor is not None and os.path.lexists(out + ".index"):
        with formats.open(donor) as source:
            if os.path.realpath(out + ".index") == os.path.realpath(source.main_file):
                raise RefusedError("-o names the donor, which is never modified", path=out)


def _is_same_index(one: Checkpoint, other: Checkpoint) -> bool:
    return os.path.realpath(one.path + ".index") == os.path.realpath(other.path + ".index")


def _split_index(checkpoint: Checkpoint, target: str) -> tuple[str, tuple[Any, ...] | None]:
    """A name and an index; a variable whose name itself ends in brackets wins."""
    bracket = re.fullmatch(r"(.+)\[([^\[\]]*)\]", target, re.DOTALL)
    if bracket is None or checkpoint.find(target) is not None:
        return target, None
    from . import numeric

    return bracket[1], numeric.parse_index(bracket[2])


def _leave_equal(plan: Plan, link: bool) -> None:
    """Take out of a plan what would write the bytes that stand there already."""
    for change in plan.changes:
        if isinstance(change.content, Copy):
            ours, theirs = change.variable.extents, change.content.variable.extents
            pairs = list(zip(ours, theirs, strict=True))
            if all(_is_same_place(one, other) for one, other in pairs) or (
                not link
                and plan.recipient.byteorder == change.content.donor.byteorder
                and all((one.length, one.crc) == (other.length, other.crc) for one, other in pairs)
                and all(_are_equal(plan.recipient, one, change.content.donor, other) for one, other in pairs)
            ):
                change.content = None
                change.reason = "equal already"


def _mark_equal(plan: Plan) -> None:
    for change in plan.changes:
        assert isinstance(change.content, Values)
        change.content = None
        change.reason = "equal already"


def _is_same_place(one: Extent, other: Extent) -> bool:
    """Whether two extents are the same bytes of the same file, under whatever names."""
    if (one.offset, one.length, one.crc) != (other.offset, other.length, other.crc):
        return False
    try:
        return os.path.samefile(one.file, other.file)
    except OSError:
        return False


def _are_equal(ours: Checkpoint, one: Extent, theirs: Checkpoint, other: Extent) -> bool:
    try:
        return all(a == b for a, b in zip(ours.chunks(one), theirs.chunks(other), strict=True))
    except (ChangedError, NotFoundError, DamagedError):
        return False  # whoever writes will say what is wrong
