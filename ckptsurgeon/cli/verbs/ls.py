"""The verb `ls`."""

from __future__ import annotations

from ...errors import UsageError
from ...verbs import listing
from .. import render
from ..options import add_checkpoint, add_json, add_selection, selected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...verbs.listing import Selecting
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon ls CKPT [GLOB...] [options]

List the variables of a checkpoint: name, dtype, shape, bytes. Reads no tensor. With --checkpoints, CKPT is a
folder, and all its checkpoints are listed: path, format, bytes of their files, and whether the 'checkpoint' file names
them.

  ckptsurgeon ls model.ckpt --tree
  ckptsurgeon ls model.ckpt 'dnn/layer0/**' --no-slots --json
  ckptsurgeon ls model.ckpt --layers 1- --sort size
"""

COLUMNS = ["name", "dtype", "shape", "bytes"]
DETAILS = ["layer", "slot_of", "full_name"]
TOTAL = ["format", "variables", "parameters", "bytes", "unreferenced", "shards"]
CHECKPOINTS = ["checkpoint", "format", "bytes", "latest"]


def add_arguments(parser: Parser) -> None:
    """The arguments of `ls`."""
    add_checkpoint(parser)
    parser.add_argument("globs", metavar="GLOB", nargs="*", default=[], help="only these names")
    add_selection(parser)
    parser.add_argument("-l", dest="long", action="store_true", help="also layer, the slot's variable, and full name")
    parser.add_argument("--no-slots", action="store_true", help="leave out the optimizer's slots")
    parser.add_argument("--sort", choices=("name", "size"), default="name", help="size: the largest first")
    parser.add_argument("--sha256", action="store_true", help="also print a digest of the values, which reads them")
    parser.add_argument("--total", action="store_true", help="one line: variables, parameters, bytes, …")
    parser.add_argument("--tree", action="store_true", help="as a tree of folders with their sizes")
    parser.add_argument("--checkpoints", action="store_true", help="the checkpoints in the folder CKPT")
    add_json(parser)


def run(args: Arguments) -> int:
    """List."""
    _check(args)
    if args.checkpoints:
        render.emit(listing.checkpoints(args.checkpoint), CHECKPOINTS, args.json)
        return 0
    wanted: Selecting = {**selected(args), "match": [*args.globs, *args.match], "slots": not args.no_slots}
    if args.tree:
        from .. import tree

        for line in tree.lines(listing.tree(args.checkpoint, **wanted)):
            print(line)
    elif args.total:
        render.emit([listing.total(args.checkpoint, **wanted)], TOTAL, args.json)
    else:
        detailed = args.json or args.long
        rows = listing.ls(args.checkpoint, details=detailed, sort=args.sort, sha256=args.sha256, **wanted)
        columns = COLUMNS + (DETAILS if args.long else []) + (["sha256"] if args.sha256 else [])
        render.emit(rows, columns, args.json)
    return 0


def _check(args: Arguments) -> None:
    """Refuse options that contradict each other, so that none is ignored.

    Raises:
        UsageError: two of them do.
    """
    chosen = [name for name in ("total", "tree", "checkpoints") if getattr(args, name)]
    if args.sha256 and chosen:
        chosen.append("sha256")
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} are different listings", expected="only one of them")
    if args.tree and args.json:
        raise UsageError("--tree is for people to read", hint="leave out --tree or --json")
    if args.checkpoints and (args.globs or args.layers or args.match or args.exclude or args.scheme):
        raise UsageError("--checkpoints lists checkpoints, not variables", expected="a folder and no selection")
