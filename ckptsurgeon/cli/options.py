"""The options that several verbs share, and what they mean to the library."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypedDict

    from ..verbs.changing import Placing, Writing
    from .parser import Arguments, Parser

    class Selected(TypedDict):
        """The parts of a selection."""

        layers: str | None
        match: Sequence[str]
        exclude: Sequence[str]
        scheme: str | None


def add_selection(parser: Parser) -> None:
    """The options that select variables."""
    parser.add_argument(
        "--layers",
        metavar="RANGE",
        action="append",
        help="layers, inclusive: 0-2, 3, 5-, -1 (the last), all; with commas",
    )
    parser.add_argument(
        "--match", metavar="GLOB", action="append", default=[], help="select by name: * within a component, ** across /"
    )
    parser.add_argument("--exclude", metavar="GLOB", action="append", default=[], help="names to leave out")
    parser.add_argument(
        "--scheme", metavar="PATTERN", help="how layers are named: a pattern ('tower/{K}/**') or a scheme's name"
    )


def selected(args: Arguments) -> Selected:
    """The options of `add_selection`, as keyword arguments of the verbs."""
    return {"layers": layers_of(args), "match": args.match, "exclude": args.exclude, "scheme": args.scheme}


def layers_of(args: Arguments) -> str | None:
    """All `--layers` as one range, or None."""
    return ",".join(args.layers) if args.layers else None


def add_checkpoint(parser: Parser) -> None:
    """The argument that names the checkpoint."""
    parser.add_argument("checkpoint", metavar="CKPT", help="a prefix, any of its files, or a folder")


def add_slots(parser: Parser, whose: str) -> None:
    """The option `--slots` that takes a policy."""
    parser.add_argument(
        "--slots", default="keep", metavar="POLICY", help=f"{whose}: keep, copy, drop or fill=VALUE; default keep"
    )


def add_maps(parser: Parser, meaning: str) -> None:
    """The option `--map`."""
    parser.add_argument("--map", dest="maps", metavar="A=B", action="append", default=[], help=meaning)


def add_writing(parser: Parser) -> None:
    """The options of all verbs that write a checkpoint."""
    parser.add_argument("-o", dest="out", metavar="OUT", help="write a new checkpoint there and keep the old one")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    add_replacing(parser)
    add_json(parser)


def add_backup(parser: Parser) -> None:
    """The options --backup and --no-backup; without them, the environment decides."""
    parser.add_argument(
        "--backup",
        action="yes_no",
        help="keep what is replaced for 'undo', by hard links; $CKPTSURGEON_BACKUP=1 is the same",
    )


def writing(args: Arguments) -> Writing:
    """The options of `add_writing` and `add_backup`, as keyword arguments of the verbs."""
    backup = getattr(args, "backup", False)
    if backup is None:
        from ..publish import BACKUP

        backup = args.out is None and os.environ.get(BACKUP, "") not in ("", "0")
    return {"out": args.out, "backup": backup, **placing(args)}


def placing(args: Arguments) -> Placing:
    """How the result is published, as keyword arguments of the verbs."""
    return {"wait": args.wait, "dry_run": args.dry_run, "force": args.force, "anyway": args.anyway}


def add_replacing(parser: Parser) -> None:
    """The options of verbs that may replace a checkpoint."""
    add_wait(parser)
    parser.add_argument("--force", action="store_true", help="overwrite an existing OUT")
    parser.add_argument(
        "--anyway", action="store_true", help="write a SavedModel or Keras file that its framework cannot load"
    )


def add_wait(parser: Parser) -> None:
    """The option `--wait`."""
    parser.add_argument(
        "--wait", type=seconds, default=30.0, metavar="SECONDS", help="time to wait for another writer; default 30"
    )


def seconds(text: str) -> float:
    """Parse a number of seconds.

    Raises:
        ValueError: not a number, or a negative one.
    """
    time = float(text)
    if not time >= 0:
        raise ValueError
    return time


def add_json(parser: Parser) -> None:
    """The option `--json`."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def add_mini_batches(parser: Parser) -> None:
    """The options that say which rows a mini-batch has; the trainer checks their values."""
    add = parser.add_argument
    add("--batch-size", metavar="N", help="rows of a mini-batch; default 32, or the ring's")
    add("--holdout", metavar="SHARE", help="share of the rows to leave out of all batches; default 0, or the ring's")
    add("--seed", metavar="N", help="seed of the order of the rows; default 0, or the ring's")
