"""The operations that change a checkpoint, from paths to report: open, lock, plan, save.

What the command line and the Python API both call. `producing` has those whose result is a new checkpoint, `looking`
those that change nothing. Each verb imports in its function what
only it needs, so that the others start faster.
"""

from __future__ import annotations

import os

from .. import formats
from ..errors import RefusedError, UsageError
from ..lean import nullcontext
from ..plan import Plan, Report
from ..surgeon.selection import Selection
from . import destination, unchanged

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypedDict

    from numpy.typing import ArrayLike
    from typing_extensions import Unpack

    from ..checkpoint import Checkpoint
    from ..surgeon.options import GraftKeywords

    class Placing(TypedDict, total=False):
        """How the result is published: the keyword arguments of all operations that write a checkpoint.

        Attributes:
            wait: seconds to wait for another writer; default 30.
            dry_run: report what would be done, and write nothing.
            force: replace a checkpoint that stands at `out`.
            sync: wait until everything is on the disk, the default. Without it, the result survives a
                killed process but perhaps not a power cut.
            anyway: write a SavedModel or a Keras file that its framework can no longer load; a warning says why.
        """

        wait: float
        dry_run: bool
        force: bool
        sync: bool
        anyway: bool

    class Writing(Placing, total=False):
        """The keyword arguments of operations that change a checkpoint.

        Attributes:
            out: write the result there, and leave the checkpoint as it is; without it, it is replaced atomically.
            backup: keep what is replaced, by hard links, for `undo`.
        """

        out: str | os.PathLike[str] | None
        backup: bool


def graft(
    donor: str | os.PathLike[str],
    recipient: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    wait: float = 30.0,
    dry_run: bool = False,
    force: bool = False,
    sync: bool = True,
    backup: bool = False,
    anyway: bool = False,
    **keywords: Unpack[GraftKeywords],
) -> Report:
    """Rewrite chosen variables of the recipient with those of the donor: all of them, or none.

    Args:
        donor: any spelling of a checkpoint's path, or "-" for stdin; it is never modified.
        recipient: any spelling of a checkpoint's path; the donor's own only with `maps`.
        out: write the result there and leave the recipient unchanged; None: replace it atomically.
        wait: seconds to wait for another writer.
        dry_run: report what would be done, and write nothing.
        force: replace a checkpoint that stands at `out`.
        sync: wait until everything is on the disk.
        backup: keep what is replaced, by hard links, for `undo`.
        anyway: see `Placing`.
        keywords: `layers`, `match`, `exclude`, `scheme`, `donor_scheme`, `recipient_scheme`, `maps`, `slots`,
            `on_mismatch`, `cast`, `add` and `link`: each is explained in `ckptsurgeon.GraftOptions`.

    Returns:
        What was done, variable by variable.

    Raises:
        CkptSurgeonError: nothing was written; `lines` gives one line for each problem.
    """
    from ..surgeon import grafting
    from ..surgeon.options import GraftOptions

    options = GraftOptions(**keywords)
    if options.selection.is_empty and not options.maps and donor != "-":
        raise UsageError("nothing is selected", expected="--layers, --match or --map")

    def make(target: Checkpoint) -> Plan:
        source = formats.open(donor)
        opened.append(source)
        if not options.maps and os.path.realpath(source.main_file) == os.path.realpath(target.main_file):
            hint = "--map A=B grafts within one checkpoint"
            raise UsageError("donor and recipient are one checkpoint", path=source.path, hint=hint)
        if out is not None:
            destination.check_not(os.fspath(out), target, source)
        plan = grafting.graft(source, target, options)
        if options.link:
            destination.check_link(plan, source)
        unchanged.leave(plan, options.link)
        return plan

    opened: list[Checkpoint] = []
    donor, recipient = os.fspath(donor), os.fspath(recipient)
    if donor == "-":
        formats.spool_beside(recipient)  # before the recipient is locked: a stream may take its time
    placing: Placing = {"wait": wait, "dry_run": dry_run, "force": force, "sync": sync, "anyway": anyway}
    try:
        return operate(
            "graft", recipient, make, options.link, donor=lambda: opened[-1], out=out, backup=backup, **placing
        )
    finally:
        for source in opened:
            source.close()


def set(
    path: str | os.PathLike[str],
    target: str,
    value: ArrayLike | str,
    **writing: Unpack[Writing],
) -> Report:
    """Set values of one variable by hand.

    Args:
        path: any spelling of a checkpoint's path.
        target: a name, or a name and an index as in `dnn/layer1/Linear/Bias[3]`.
        value: an array with the shape of the part that is set, or one number for all of it; a str is parsed as on the
            command line; bytes are the value of a string variable.
        writing: see `Writing`.

    Raises:
        CkptSurgeonError: no such variable, or a value that does not fit it; nothing was written.
    """
    from .. import plain
    from ..plan import Change, Packed
    from .looking import split_index

    def make(checkpoint: Checkpoint) -> Plan:
        name, index = split_index(checkpoint, target)
        variable = checkpoint[name]
        if isinstance(value, str) and (old := plain.numbers_of(checkpoint, variable)):
            numbers = old.with_number(index, value)
            if numbers is not None:
                plan = Plan(checkpoint, [Change("set", variable, Packed(numbers))])
                if numbers.data == old.data:
                    unchanged.mark(plan)
                return plan
        from .. import numeric
        from ..surgeon import editing

        values = checkpoint.read(variable.name)
        part = numeric.at_index(values, index, name)
        wanted = numeric.listed(value, variable.dtype, part.shape) if isinstance(value, str) else value
        new = numeric.from_user(wanted, variable.dtype, target)
        if new.ndim and new.shape != part.shape:
            raise RefusedError(
                f"the value for {target} has a different shape",
                path=checkpoint.path,
                expected=list(part.shape),
                found=list(new.shape),
            )
        before = values.tobytes() if variable.is_numeric else values.tolist()
        part[...] = new
        plan = editing.assign(checkpoint, variable.name, values)
        if before == (values.tobytes() if variable.is_numeric else values.tolist()):
            unchanged.mark(plan)
        return plan

    return operate("set", path, make, **writing)


def rename(
    path: str | os.PathLike[str],
    renames: Sequence[str],
    *,
    regex: bool = False,
    **writing: Unpack[Writing],
) -> Report:
    """Rename variables and their slots; an object graph is updated.

    Args:
        path: any spelling of a checkpoint's path.
        renames: `A=B` each, where A is a name, a prefix that ends in `/`, a glob, or with `regex` an expression.
        regex: A is a regular expression, B its replacement.
        writing: see `Writing`.

    Raises:
        CkptSurgeonError: nothing matches, or two variables would get one name; nothing was written.
    """
    from ..surgeon import editing
    from ..surgeon.maps import Rename

    wanted = [Rename(text, regex) for text in renames]
    return operate("rename", path, lambda checkpoint: editing.rename(checkpoint, wanted), **writing)


def drop(
    path: str | os.PathLike[str],
    globs: Sequence[str] = (),
    *,
    slots: bool = False,
    compact: bool = False,
    **writing: Unpack[Writing],
) -> Report:
    """Remove variables and their slots; an object graph is updated.

    Args:
        path: any spelling of a checkpoint's path.
        globs: of names.
        slots: remove all slots and the optimizer's own variables.
        compact: rewrite the data without the dropped bytes, which otherwise stay in the file.
        writing: see `Writing`.

    Raises:
        CkptSurgeonError: a glob that matches nothing, or nothing would be left; nothing was written.
    """
    from ..surgeon import editing

    def make(checkpoint: Checkpoint) -> Plan:
        return editing.drop(checkpoint, globs, slots)

    return operate("drop", path, make, compact=lambda: compact, **writing)


def cast(
    path: str | os.PathLike[str],
    dtype: str,
    *,
    layers: str | None = None,
    match: Sequence[str] = (),
    exclude: Sequence[str] = (),
    scheme: str | None = None,
    slots: str = "keep",
    **writing: Unpack[Writing],
) -> Report:
    """Give variables another dtype: floats are rounded; any other loss is refused.

    Args:
        path: any spelling of a checkpoint's path.
        dtype: the new one, by its name.
        layers: as in `GraftOptions`, like the three that follow; if nothing is selected, all floats are.
        match: globs of names.
        exclude: globs of names that are removed from the selection.
        scheme: how layers are named.
        slots: of the variables that are cast: "keep" their dtype, "copy" (cast them too), "drop" or "fill=NUMBER".
        writing: see `Writing`.

    Raises:
        CkptSurgeonError: no such dtype, or a value that it cannot hold; nothing was written.
    """
    from ..surgeon import editing

    selection = Selection(layers, match, exclude, scheme)
    return operate("cast", path, lambda checkpoint: editing.cast(checkpoint, dtype, selection, slots), **writing)


def operate(
    verb: str,
    path: str | os.PathLike[str],
    make: Callable[[Checkpoint], Plan],
    link: bool = False,
    *,
    compact: Callable[[], bool] = lambda: False,
    compacts: bool = False,
    donor: Callable[[], Checkpoint | None] = lambda: None,
    out: str | os.PathLike[str] | None = None,
    wait: float = 30.0,
    dry_run: bool = False,
    force: bool = False,
    sync: bool = True,
    backup: bool = False,
    anyway: bool = False,
) -> Report:
    """Open and lock, plan, save; start over if a checkpoint was replaced in between.

    Args:
        verb: the name of the operation, for `log`.
        path: any spelling of a checkpoint's path.
        make: gives the plan.
        link: share the donor's data files.
        compact: called after planning: whether to rewrite all live bytes instead of saving the plan.
        compacts: with nothing to write, finish what a killed `compact` had begun.
        donor: called after planning: the open donor, if there is one.
        out: as in `Writing`, like all that follow.
        wait: seconds to wait for another writer.
        dry_run: report what would be done, and write nothing.
        force: replace a checkpoint that stands at `out`.
        sync: wait until everything is on the disk.
        backup: as in `Writing`.
        anyway: write it even if its framework could not load it any more.
    """
    path = os.fspath(path)
    out = None if out is None else os.fspath(out)
    if backup:
        from . import undoing

        if out is not None:
            raise UsageError("--backup has no effect with -o, which replaces nothing", hint="leave one of them out")

    def attempt() -> Report:
        if out is None and not dry_run:
            with formats.locked(path, wait) as held:
                destination.check_in_place(held.checkpoint)
                plan = make(held.checkpoint)
                report = Report(held.checkpoint.path, plan, link)
                report.warnings += formats.check_binding(plan, None, None, anyway)
                keeps = backup and not plan.changes_nothing
                with undoing.keeping(held, report, verb, donor(), sync) if keeps else nullcontext():
                    if compact():
                        report.warnings += formats.compact(plan, held.lock, sync, wait)
                    elif not plan.changes_nothing:
                        report.warnings += formats.save(plan, lock=held.lock, link=link, sync=sync, wait=wait)
                    else:
                        report.warnings += formats.heal(held.checkpoint, held.lock, sync, wait, compacts)
                return report
        with formats.open(path) as checkpoint:
            if out is not None:
                destination.check_out(out, checkpoint, None, force)
            plan = make(checkpoint)
            report = Report(out or checkpoint.path, plan, link)
            report.warnings += formats.check_binding(plan, out, None, anyway)
            if dry_run:
                formats.check(plan, out, None)
            else:
                report.warnings += formats.save(plan, out=out, link=link, force=force, sync=sync, wait=wait)
            return report

    return formats.retry(attempt)
