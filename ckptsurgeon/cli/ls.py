"""The verb `ls`."""

from __future__ import annotations

from .. import formats, schemes
from ..errors import UsageError
from ..names import natural_key
from . import render
from .parser import add_checkpoint, add_json, add_selection, selection_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..checkpoint import Checkpoint, Variable

HELP = """ckptsurgeon ls CKPT [GLOB...] [options]

List the variables of a checkpoint: name, dtype, shape, bytes. Reads no tensor. With --checkpoints CKPT is a folder, all
of whose checkpoints are listed: path, format, bytes of their files, and whether its 'checkpoint' file names it.

  ckptsurgeon ls model.ckpt --tree
  ckptsurgeon ls model.ckpt 'dnn/layer0/**' --no-slots --json
  ckptsurgeon ls model.ckpt --layers 1- --sort size
"""

COLUMNS = ["name", "dtype", "shape", "bytes"]


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `ls`."""
    add_checkpoint(parser)
    parser.add_argument("globs", metavar="GLOB", nargs="*", default=[], help="only these names")
    add_selection(parser)
    parser.add_argument("-l", dest="long", action="store_true", help="also layer, the slot's variable, and full name")
    parser.add_argument("--no-slots", action="store_true", help="leave the optimizer's slots out")
    parser.add_argument("--sort", choices=("name", "size"), default="name", help="size: the largest first")
    parser.add_argument("--sha256", action="store_true", help="also a digest of the values; reads them")
    parser.add_argument("--total", action="store_true", help="one line: variables, parameters, bytes, …")
    parser.add_argument("--tree", action="store_true", help="by folders, with what they hold")
    parser.add_argument("--checkpoints", action="store_true", help="the checkpoints in the folder CKPT")
    add_json(parser)


def run(args: Namespace) -> int:
    """List."""
    _check(args)
    if args.checkpoints:
        rows = sorted(formats.checkpoints(args.checkpoint), key=lambda row: natural_key(str(row["checkpoint"])))
        render.emit(rows, ["checkpoint", "format", "bytes", "latest"], args.json)
        return 0
    if args.tree:
        return _tree(args)

    def attempt() -> list[dict[str, object]]:
        with formats.open(args.checkpoint) as checkpoint:
            selected = selection_of(args, args.globs).variables(checkpoint)
            if args.total:
                left_out = schemes.slots(checkpoint) if args.no_slots else {}
                return [_total(checkpoint, [each for each in selected if each.name not in left_out])]
            return _rows(checkpoint, selected, args)

    if args.total:
        render.emit(
            formats.retry(attempt), ["format", "variables", "parameters", "bytes", "unreferenced", "shards"], args.json
        )
        return 0
    columns = COLUMNS + (["layer", "slot_of", "full_name"] if args.long else []) + (["sha256"] if args.sha256 else [])
    render.emit(formats.retry(attempt), columns, args.json)
    return 0


def _check(args: Namespace) -> None:
    """Whether the options make sense together: none is ignored.

    Raises:
        UsageError: they do not.
    """
    chosen = [name for name in ("total", "tree", "checkpoints") if getattr(args, name)]
    if args.sha256 and chosen:
        chosen.append("sha256")
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} are different listings", expected="one of them")
    if args.tree and args.json:
        raise UsageError("--tree is for people to read", hint="leave --tree or --json out")
    if args.checkpoints and (args.globs or not selection_of(args).is_empty or args.exclude or args.scheme):
        raise UsageError("--checkpoints lists checkpoints, not variables", expected="a folder alone")


def _tree(args: Namespace) -> int:
    from . import tree

    with formats.open(args.checkpoint) as checkpoint:
        slots = schemes.slots(checkpoint) if args.no_slots else {}
        selected = selection_of(args, args.globs).variables(checkpoint)
        for line in tree.lines(checkpoint, [variable for variable in selected if variable.name not in slots]):
            print(line)
    return 0


def _rows(checkpoint: Checkpoint, selected: list[Variable], args: Namespace) -> list[dict[str, object]]:
    detailed = args.json or args.long
    slots = schemes.slots(checkpoint) if detailed or args.no_slots else {}
    scheme = _scheme(checkpoint, args.scheme) if detailed else None
    rows = []
    for variable in selected:
        if args.no_slots and variable.name in slots:
            continue
        row: dict[str, object] = {
            "name": variable.name,
            "dtype": variable.dtype,
            "shape": variable.shape,
            "bytes": checkpoint.nbytes(variable),
        }
        if detailed:
            row["layer"] = scheme.number(variable.name) if scheme else None
            row["slot_of"] = slots.get(variable.name)
            row["full_name"] = checkpoint.full_name(variable.name)
        if args.sha256:
            row["sha256"] = digest(checkpoint, variable)
        rows.append(row)
    if args.sort == "size":
        rows.sort(key=lambda row: -row["bytes"] if isinstance(row["bytes"], int) else 0)
    return rows


def _scheme(checkpoint: Checkpoint, pattern: str | None) -> schemes.Scheme | None:
    try:
        return schemes.find(checkpoint, pattern)
    except UsageError:
        if pattern is not None:
            raise
        return None


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


def _total(checkpoint: Checkpoint, selected: list[Variable]) -> dict[str, object]:
    from ..compare import unreferenced

    slots = schemes.slots(checkpoint)
    sizes = [checkpoint.nbytes(variable) for variable in selected]
    return {
        "format": checkpoint.format,
        "variables": len(selected),
        "parameters": parameters(selected, slots),
        "bytes": None if None in sizes else sum(size or 0 for size in sizes),
        "unreferenced": unreferenced(checkpoint),
        "shards": checkpoint.shards,
    }


def parameters(variables: list[Variable], slots: dict[str, str]) -> int:
    """The number of numeric elements outside slots."""
    return sum(variable.size for variable in variables if variable.is_numeric and variable.name not in slots)
