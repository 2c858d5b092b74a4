"""The argument parser of a verb, and the options that several verbs share."""

from __future__ import annotations

import argparse
import os
import re

from ..errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn, TypedDict

    from ..verbs.changing import Placing, Writing

    class Selected(TypedDict):
        """The parts of a selection."""

        layers: str | None
        match: Sequence[str]
        exclude: Sequence[str]
        scheme: str | None


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Help of a fixed width: to ask for the terminal's, argparse would import shutil at every start."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)


class Parser(argparse.ArgumentParser):
    """An argparse parser that raises `UsageError`s, and lets values begin with a minus (`--layers -1`, `set x -1e-3`).

    Args:
        prog: the command, as users type it.
        text: the synopsis (the first line), explanation and examples.
    """

    def __init__(self, prog: str, text: str = "") -> None:
        synopsis, _, description = text.strip().partition("\n")
        super().__init__(
            prog=prog,
            usage=synopsis,
            description=description.strip("\n"),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )
        # Arguments that are negative numbers and not options; argparse's own expression does not match exponents.
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|(?i:inf|infinity|nan)$)")

    def parse(self, argv: list[str]) -> argparse.Namespace:
        """Parse the arguments; a list of names may continue after options, as in `ls CKPT --json GLOB`."""
        has_list = any(action.nargs in ("*", "+") for action in self._get_positional_actions())
        return self.parse_intermixed_args(argv) if has_list else self.parse_args(argv)

    def print_help(self, file: Any = None) -> None:
        """Print the help; argparse itself says nothing if stdout takes nothing."""
        print(self.format_help(), end="")

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print."""
        raise UsageError(message, hint=f"'{self.prog} --help' shows how")


def add_selection(parser: argparse.ArgumentParser) -> None:
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


def selected(args: argparse.Namespace) -> Selected:
    """The options of `add_selection`, as keyword arguments of the verbs."""
    return {"layers": layers_of(args), "match": args.match, "exclude": args.exclude, "scheme": args.scheme}


def layers_of(args: argparse.Namespace) -> str | None:
    """All `--layers` as one range, or None."""
    return ",".join(args.layers) if args.layers else None


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The argument that names the checkpoint."""
    parser.add_argument("checkpoint", metavar="CKPT", help="a prefix, any of its files, or a folder")


def add_slots(parser: argparse.ArgumentParser, whose: str) -> None:
    """The option `--slots` that takes a policy."""
    parser.add_argument(
        "--slots", default="keep", metavar="POLICY", help=f"{whose}: keep, copy, drop or fill=VALUE; default keep"
    )


def add_maps(parser: argparse.ArgumentParser, meaning: str) -> None:
    """The option `--map`."""
    parser.add_argument("--map", dest="maps", metavar="A=B", action="append", default=[], help=meaning)


def add_writing(parser: argparse.ArgumentParser) -> None:
    """The options of all verbs that write a checkpoint."""
    parser.add_argument("-o", dest="out", metavar="OUT", help="write a new checkpoint there and keep the old one")
    parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
    add_replacing(parser)
    add_json(parser)


def add_backup(parser: argparse.ArgumentParser) -> None:
    """The options --backup and --no-backup; without them, the environment decides."""
    parser.add_argument(
        "--backup",
        action=argparse.BooleanOptionalAction,
        help="keep what is replaced for 'undo', by hard links; $CKPTSURGEON_BACKUP=1 is the same",
    )


def writing(args: argparse.Namespace) -> Writing:
    """The options of `add_writing` and `add_backup`, as keyword arguments of the verbs."""
    backup = getattr(args, "backup", False)
    if backup is None:
        from ..publish import BACKUP

        backup = args.out is None and os.environ.get(BACKUP, "") not in ("", "0")
    return {"out": args.out, "backup": backup, **placing(args)}


def placing(args: argparse.Namespace) -> Placing:
    """How the result is published, as keyword arguments of the verbs."""
    return {"wait": args.wait, "dry_run": args.dry_run, "force": args.force, "anyway": args.anyway}


def add_replacing(parser: argparse.ArgumentParser) -> None:
    """The options of verbs that may replace a checkpoint."""
    add_wait(parser)
    parser.add_argument("--force", action="store_true", help="overwrite an existing OUT")
    parser.add_argument(
        "--anyway", action="store_true", help="write a SavedModel or Keras file that its framework cannot load"
    )


def add_wait(parser: argparse.ArgumentParser) -> None:
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


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option `--json`."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
