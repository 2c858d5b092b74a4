"""The help of a verb, laid out as argparse does it."""

from __future__ import annotations

import textwrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .argument import Argument

_WIDTH = 100  # of all lines, whatever the terminal's is: help in a pipe is the same
_COLUMN = 26  # at which explanations begin at the latest


def text(about: str, arguments: Sequence[Argument]) -> str:
    """The help of a verb.

    Args:
        about: the synopsis (the first line), explanation and examples.
        arguments: those that the verb takes.
    """
    synopsis, _, explanation = about.strip().partition("\n")
    parts = [f"usage: {synopsis}", explanation.strip("\n")]
    column = min(_COLUMN, max(len(_head(each)) for each in arguments) + 4)
    for title, has_names in (("positional arguments", False), ("options", True)):
        lines = [line for each in arguments if bool(each.options) == has_names for line in _lines(each, column)]
        if lines:
            parts.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(filter(None, parts)) + "\n"


def _head(argument: Argument) -> str:
    """How an argument is written: `CKPT`, `-o OUT`, `--backup, --no-backup`."""
    value = f"{{{','.join(argument.choices)}}}" if argument.choices else argument.metavar or ""
    return ", ".join(f"{name} {value}".rstrip() for name in argument.options) or value


def _lines(argument: Argument, column: int) -> Iterator[str]:
    """An argument and its explanation, which begins in a line of its own if the argument is too long."""
    head, lines = f"  {_head(argument)}", textwrap.wrap(argument.help, _WIDTH - column)
    if len(head) > column - 2:
        yield head
        head = ""
    for line in lines:
        yield head.ljust(column) + line
        head = ""
