"""The verb `graft`."""

from __future__ import annotations

from ...surgeon.options import graft_keywords
from ...verbs import changing
from .. import render
from ..options import add_backup, add_maps, add_selection, add_slots, add_writing, selected, writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """graft DONOR RECIPIENT (--layers RANGE | --match GLOB | --map A=B)... [options]

Replace layers or variables of RECIPIENT with those of DONOR: all of them, or none. DONOR is never modified; the rest of
RECIPIENT is kept byte for byte. DONOR may be - for stdin: without a selection, all of it is grafted. With --link the
two share a data file, so a later 'rsync --inplace' onto DONOR would change RECIPIENT too.

  graft src.ckpt dst.ckpt --layers 0-2
  graft src.ckpt dst.ckpt --map 'dnn/layer0/=dnn/layer1/' --on-mismatch skip --dry-run
  graft src.ckpt dst.ckpt --layers all --slots copy -o new.ckpt
"""


def add_arguments(parser: Parser) -> None:
    """The arguments of `graft`."""
    parser.add_argument("donor", metavar="DONOR", help="a prefix, any of its files, or a folder")
    parser.add_argument(
        "recipient",
        metavar="RECIPIENT",
        help="a prefix, any of its files, or a folder; replaced atomically unless -o is given",
    )
    add_selection(parser)
    add_slots(parser, "of grafted variables")
    parser.add_argument("--donor-scheme", metavar="PATTERN", help="how DONOR names its layers, if the two differ")
    parser.add_argument("--recipient-scheme", metavar="PATTERN", help="how RECIPIENT names them")
    add_maps(parser, "DONOR's A (name, glob, prefix/) goes onto B; B.T transposes")
    parser.add_argument(
        "--on-mismatch",
        default="error",
        metavar="WHAT",
        help="missing, or shape or dtype differs: error (default) or skip",
    )
    parser.add_argument("--cast", action="store_true", help="convert values to RECIPIENT's dtype")
    parser.add_argument("--add", action="store_true", help="add variables that RECIPIENT lacks")
    parser.add_argument("--link", action="store_true", help="share DONOR's data file instead of copying from it")
    add_writing(parser)
    add_backup(parser)
    parser.add_argument("-q", dest="quiet", action="store_true", help="print nothing but errors")
    parser.add_argument("-v", dest="verbose", action="store_true", help="also print what is kept")


def run(args: Arguments) -> int:
    """Graft."""
    options = graft_keywords({**vars(args), **selected(args)})
    report = changing.graft(args.donor, args.recipient, **options, **writing(args))
    render.report(report, args.dry_run, args.json, args.quiet, args.verbose)
    return 0
