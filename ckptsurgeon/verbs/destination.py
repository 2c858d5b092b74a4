"""Whether the place that a user named for a result can take it; asked before anything is written."""

from __future__ import annotations

import os

from .. import formats
from ..errors import NotFoundError, RefusedError, UsageError
from ..plan import Copy, Elements

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..plan import Plan

# Endings that mean a format that is not written.
_OTHER_ENDINGS = (".pt", ".pth", ".onnx", ".tflite", ".gguf")


def check_out(out: str, like: Checkpoint, format: str | None, force: bool) -> None:
    """Whether OUT is a place where a new checkpoint can stand.

    Raises:
        UsageError, NotFoundError, RefusedError: it is not.
    """
    kind = format or like.format
    if out == "-":
        raise UsageError("-o - is stdout, to which extract alone writes a checkpoint", expected="the name of a file")
    main = formats.main_file(out, like, format)
    is_folder = format is None and formats.is_saved_model(like)
    meant = formats.format_of(out)
    is_other = kind != "torch" and os.path.splitext(out.rstrip(os.sep))[1] in _OTHER_ENDINGS
    if is_other or meant not in (None, kind):
        hint = "use convert" if format is None else "choose another name"
        raise UsageError("the name of another format", path=out, expected=f"one of {kind}", hint=hint)
    if kind.startswith("tf-") and (out.endswith((".index", ".meta")) or ".data-" in os.path.basename(out)):
        raise UsageError(f"-o {out} names one file of a checkpoint", expected="its prefix")
    if os.path.isdir(out) and not is_folder:
        raise UsageError("is a folder", path=out, expected="the prefix of a checkpoint in it")
    if os.path.exists(out) and not (os.path.isfile(out) or os.path.isdir(out)):
        raise RefusedError("is a device or a pipe, which no file replaces", path=out, hint="choose another name")
    if not os.path.basename(out.rstrip(os.sep) if is_folder else out):
        raise UsageError(f"-o {out!r} names no checkpoint", expected="a prefix")
    if not os.path.isdir(os.path.dirname(out.rstrip(os.sep)) or "."):
        raise NotFoundError("no such folder", path=os.path.dirname(out))
    if not kind.startswith("tf-") and os.path.lexists(out + ".index"):
        raise RefusedError("a TensorFlow V2 checkpoint has this name, and would win", path=out, hint="choose another")
    # A V1 file and a V2 checkpoint may have one name.
    if (os.path.lexists(out) or os.path.lexists(main) or os.path.lexists(out + ".index")) and not force:
        raise RefusedError("exists already", path=out, hint="--force replaces it")


def check_not(out: str, like: Checkpoint, donor: Checkpoint) -> None:
    """Whether OUT is no input, which is never modified.

    Raises:
        RefusedError: it is.
    """
    named = (out, out + ".index", formats.main_file(out, like))  # one name may mean files of several formats
    if os.path.realpath(donor.main_file) in map(os.path.realpath, named):
        raise RefusedError("-o names the donor, which is never modified", path=out)


def check_link(plan: Plan, donor: Checkpoint) -> None:
    """Whether all that a plan copies from a donor can be shared with it.

    Raises:
        RefusedError: another format, byte order, or partition.
    """
    recipient = plan.recipient
    if donor.format != "tf-v2" or recipient.format != "tf-v2":
        what = "--link is for TensorFlow V2 checkpoints alone"
        raise RefusedError(what, path=donor.path, found=f"{donor.format} and {recipient.format}")
    if donor.byteorder != recipient.byteorder:
        raise RefusedError("--link cannot change the byte order", path=donor.path, hint="leave --link out")
    for change in plan.changes:
        if isinstance(change.content, Elements):
            what = f"--link cannot share {change.name}, which is cast or transposed"
            raise RefusedError(what, path=donor.path, hint="leave --link out")
        if isinstance(change.content, Copy) and change.variable.slices != change.content.variable.slices:
            what = f"--link cannot share {change.name}, which the recipient partitions in another way"
            raise RefusedError(what, path=donor.path, hint="leave --link out")


def check_data(plan: Plan) -> None:
    """Whether the files of all that a plan leaves are there, so that no stream begins that cannot end.

    Raises:
        NotFoundError: one is missing.
    """
    for path in {extent.file for result in plan.results() for extent in result.variable.extents}:
        plan.recipient.file(path)
