"""The operations whose result is a new checkpoint: average, extract, convert, cp."""

from __future__ import annotations

import os
from contextlib import ExitStack

from .. import formats, names, schemes
from ..errors import UsageError
from ..formats import table
from ..plan import Change, Plan, Report
from ..surgeon import averaging, editing
from ..surgeon.selection import Selection
from . import destination

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Unpack

    from ..checkpoint import Checkpoint
    from .changing import Placing


def average(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    layers: str | None = None,
    match: Sequence[str] = (),
    exclude: Sequence[str] = (),
    scheme: str | None = None,
    weights: Sequence[float] = (),
    slots: str = "keep",
    **placing: Unpack[Placing],
) -> Report:
    """Average floats over checkpoints, in float64; the rest is copied from the first.

    Args:
        paths: any spellings of the checkpoints' paths, two or more.
        out: where, in the format of the first; if that one is only read, in the format of the ending of `out`.
        layers: as in `GraftOptions`, like the three that follow; counted on the first. If nothing is selected,
            everything is.
        match: globs of names.
        exclude: globs of names that are taken away again.
        scheme: how layers are named.
        weights: one for each checkpoint, with a sum other than 0.
        slots: "keep" (the first one's), "copy" (averaged too), "drop" or "fill=NUMBER".
        placing: see `changing.Placing`.

    Raises:
        CkptSurgeonError: the checkpoints differ in what is averaged; nothing was written.
    """
    selection = Selection(layers, match, exclude, scheme)
    out = os.fspath(out)

    def attempt() -> Report:
        with ExitStack() as stack:
            checkpoints = [stack.enter_context(formats.open(path)) for path in paths]
            plan = averaging.average(checkpoints, selection, weights, slots)
            format = None if table.of_checkpoint(checkpoints[0]).is_written else table.by_ending(out)
            return _written(plan, out, format, inputs=checkpoints, **placing)

    return formats.retry(attempt)


def extract(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    layers: str | None = None,
    match: Sequence[str] = (),
    exclude: Sequence[str] = (),
    scheme: str | None = None,
    slots: bool = False,
    **placing: Unpack[Placing],
) -> Report:
    """Write only the selected variables.

    Args:
        path: any spelling of a checkpoint's path.
        out: where to write; its ending sets the format, by default the input's. "-" streams safetensors to stdout.
        layers: as in `GraftOptions`, like the three that follow.
        match: globs of names.
        exclude: globs of names that are taken away again.
        scheme: how layers are named.
        slots: the slots of the selected variables too.
        placing: see `changing.Placing`.

    Raises:
        CkptSurgeonError: nothing is selected, or the format cannot hold it; nothing was written.
    """
    selection = Selection(layers, match, exclude, scheme)
    out = os.fspath(out)

    def attempt() -> Report:
        with formats.open(path) as checkpoint:
            format = table.STREAMED if out == "-" else table.by_ending(out)
            graph = table.of(format or checkpoint.container).is_tensorflow
            plan = editing.extract(checkpoint, selection, slots, graph)
            if out == "-":
                report = Report("stdout", plan)
                if not placing.get("dry_run"):
                    destination.check_data(plan)
                    formats.stream(plan, _layers(plan, selection.scheme))
                return report
            return _written(plan, out, format, **placing)

    return formats.retry(attempt)


def convert(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str | None = None,
    maps: Sequence[str] = (),
    unpartition: bool = False,
    like: str | os.PathLike[str] | None = None,
    **placing: Unpack[Placing],
) -> Report:
    """Write a checkpoint in another format.

    Args:
        path: any spelling of a checkpoint's path.
        out: where; what stands there is replaced only with `force`.
        to: "bundle" (TensorFlow V2), "v1", "safetensors", "npz", …; None: by the ending of `out`, or "bundle".
        maps: `A=B` each: new names, as in `GraftOptions`; `B.T` transposes a matrix.
        unpartition: write partitioned variables whole.
        like: a Keras or HDF5 file whose layout and names the new one gets; required for these formats.
        placing: see `changing.Placing`.

    Raises:
        CkptSurgeonError: the format cannot hold a variable; nothing was written.
    """
    out = os.fspath(out)
    format = table.written().get(to) if to is not None else table.by_ending(out) or table.DEFAULT
    if format is None:
        raise UsageError(f"invalid --to {to!r}", expected=" or ".join(table.written()))

    def attempt() -> Report:
        with ExitStack() as stack:
            checkpoint = stack.enter_context(formats.open(path))
            if like is not None:
                template = stack.enter_context(formats.open(like))
                plan, warnings = formats.like(editing.reshape(checkpoint, maps, unpartition, graph=False), template)
                report = _written(plan, out, template.container, inputs=[checkpoint, template], **placing)
                report.warnings += warnings
                return report
            plan = editing.reshape(checkpoint, maps, unpartition, graph=table.of(format).is_tensorflow)
            alike = format == checkpoint.container and plan.changes_nothing
            is_one = table.of(format).shares_files or checkpoint.shards == 1  # a set of files becomes one
            return _written(plan, out, format, alike and is_one, **placing)

    return formats.retry(attempt)


def cp(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    **placing: Unpack[Placing],
) -> Report:
    """Copy a whole checkpoint, every checksum verified; a folder without a `checkpoint` file gets one.

    Args:
        path: any spelling of a checkpoint's path.
        out: where: a prefix, of a SavedModel a folder.
        placing: see `changing.Placing`.

    Raises:
        CkptSurgeonError: a checksum is wrong, or something stands at `out`; nothing was written.
    """
    out = os.fspath(out)

    def attempt() -> Report:
        with formats.open(path) as checkpoint:
            changes = [Change("copied", variable) for variable in names.natural_order(checkpoint.variables.values())]
            report = _written(Plan(checkpoint, changes), out, None, True, **placing)
            if table.of_checkpoint(checkpoint).has_state and not placing.get("dry_run"):
                report.warnings += formats.write_state(out, placing.get("sync", True))
            return report

    return formats.retry(attempt)


def _layers(plan: Plan, scheme: str | None) -> dict[str, int]:
    """The number of the layer of each variable that a plan leaves, where a scheme tells it."""
    try:
        found = schemes.find(plan.recipient, scheme)
    except UsageError:
        return {}
    names = [result.variable.name for result in plan.results()]
    numbers = {name: found.number(name) for name in names}
    return {name: number for name, number in numbers.items() if number is not None}


def _written(
    plan: Plan,
    out: str,
    format: str | None,
    as_files: bool = False,
    *,
    inputs: Sequence[Checkpoint] = (),
    wait: float = 30.0,
    dry_run: bool = False,
    force: bool = False,
    sync: bool = True,
    anyway: bool = False,
) -> Report:
    """Carry out a plan whose result is a new checkpoint.

    Args:
        plan: what it is to hold.
        out: where.
        format: of it; None: the recipient's.
        as_files: copy the recipient's files, since nothing in them changes.
        inputs: which may not stand at `out`, even with `force`.
        wait: as in `changing.Placing`, like all that follow.
        dry_run: report what would be done, and write nothing.
        force: replace a checkpoint that stands at `out`.
        sync: wait until everything is on the disk.
        anyway: as in `changing.Placing`.
    """
    destination.check_out(out, plan.recipient, format, force, as_files)
    for each in inputs:
        destination.check_not(out, plan.recipient, each)
    report = Report(out, plan)
    report.warnings += formats.check_binding(plan, out, format, anyway)
    if dry_run:
        formats.check(plan, out, format)
    elif as_files:
        report.warnings += formats.copy(plan.recipient, out, force, sync, wait)
    else:
        report.warnings += formats.save(plan, out=out, format=format, force=force, sync=sync, wait=wait)
    return report
