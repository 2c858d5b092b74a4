"""Checks that a result can be written where the user asked, before anything is written."""

from __future__ import annotations

import os

from ..errors import NotFoundError, RefusedError, UsageError
from ..formats import table
from ..plan import Copy, Elements, Plan
from ..source import is_file, is_folder, is_taken, kind_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..checkpoint import Checkpoint

# Endings that mean a format that is not written.
_OTHER_ENDINGS = (".onnx", ".tflite", ".gguf")


def check_out(out: str, like: Checkpoint, format: str | None, force: bool, as_files: bool = False) -> None:
    """Check that a new checkpoint can be written to OUT, or with `as_files`, that its files can be copied there.

    Raises:
        UsageError, NotFoundError, RefusedError: it is not.
    """
    kind = table.of(format or like.container)
    if out == "-":
        raise UsageError("-o - is stdout, which only extract can write to", expected="the name of a file")
    main = kind.main_file(out)
    meant = table.by_ending(out)
    if os.path.splitext(out.rstrip(os.sep))[1] in _OTHER_ENDINGS or meant not in (None, kind.name):
        hint = "use convert" if format is None else "choose another name"
        raise UsageError("the name of another format", path=out, expected=f"one of {format or like.format}", hint=hint)
    if out.endswith(".json") and not (kind.is_tensorflow or as_files):
        raise UsageError("names the index of a set of files", path=out, expected="the name of one file")
    if kind.is_tensorflow and (out.endswith((".index", ".meta")) or ".data-" in os.path.basename(out)):
        raise UsageError(f"-o {out} names one file of a checkpoint", expected="its prefix")
    if is_folder(out) and not kind.is_folder:
        raise UsageError("is a folder", path=out, expected="the prefix of a checkpoint in it")
    if kind_at(out) and not (is_file(out) or is_folder(out)):
        raise RefusedError("is a device or a pipe, which cannot be replaced", path=out, hint="choose another name")
    if not os.path.basename(out.rstrip(os.sep) if kind.is_folder else out):
        raise UsageError(f"-o {out!r} names no checkpoint", expected="a prefix")
    if not is_folder(os.path.dirname(out.rstrip(os.sep)) or "."):
        raise NotFoundError("no such folder", path=os.path.dirname(out))
    if not kind.is_tensorflow and is_taken(out + ".index"):
        raise RefusedError(
            "a TensorFlow V2 checkpoint has this name and takes precedence", path=out, hint="choose another"
        )
    # A V1 file and a V2 checkpoint may have one name.
    if (is_taken(out) or is_taken(main) or is_taken(out + ".index")) and not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")


def check_in_place(checkpoint: Checkpoint) -> None:
    """Check that a checkpoint's format can be written, before a plan may turn out to change nothing.

    Raises:
        RefusedError: the format is only read.
    """
    kind = table.of_checkpoint(checkpoint)
    if not kind.is_written:
        kind.check(Plan(checkpoint, []), None)


def check_not(out: str, like: Checkpoint, donor: Checkpoint) -> None:
    """Check that OUT is not an input, since inputs are never modified.

    Raises:
        RefusedError: OUT names the input.
    """
    main = table.of_checkpoint(like).main_file(out)
    named = (out, out + ".index", main)  # one name may mean files of several formats
    if os.path.realpath(donor.main_file) in map(os.path.realpath, named):
        raise RefusedError("-o names the donor, which is never modified", path=out)


def check_link(plan: Plan, donor: Checkpoint) -> None:
    """Whether all that a plan copies from a donor can be shared with it.

    Raises:
        RefusedError: another format, byte order, or partition.
    """
    recipient = plan.recipient
    if not (table.of_checkpoint(donor).shares_files and table.of_checkpoint(recipient).shares_files):
        what = "--link needs two TensorFlow V2 checkpoints"
        raise RefusedError(what, path=donor.path, found=f"{donor.format} and {recipient.format}")
    if donor.byteorder != recipient.byteorder:
        raise RefusedError("--link cannot change the byte order", path=donor.path, hint="leave --link out")
    for change in plan.changes:
        if isinstance(change.content, Elements):
            what = f"--link cannot share {change.name}, which is cast or transposed"
            raise RefusedError(what, path=donor.path, hint="leave --link out")
        if isinstance(change.content, Copy) and change.variable.slices != change.content.variable.slices:
            what = f"--link cannot share {change.name}, which the recipient partitions differently"
            raise RefusedError(what, path=donor.path, hint="leave --link out")


def check_data(plan: Plan) -> None:
    """Whether the files of all that a plan leaves are there, so that no stream begins that cannot end.

    Raises:
        NotFoundError: one is missing.
    """
    for path in {extent.file for result in plan.results() for extent in result.variable.extents}:
        plan.recipient.file(path)
