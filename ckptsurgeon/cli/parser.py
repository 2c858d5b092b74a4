"""The argument parser of a verb.

It is told of arguments in argparse's words, reads command lines as argparse does, and complains in the same words; but
argparse brings gettext, locale, enum and re, which took a third of the time of `ls`. What no verb uses is left out:
abbreviated options, groups, sub-parsers, options with several values.
"""

from __future__ import annotations

from ..errors import UsageError
from .argument import Argument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn


class Arguments:
    """What a command line says: an attribute for each argument of the verb."""

    def __init__(self, values: dict[str, object]) -> None:
        self.__dict__ = values

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The value of any argument."""


class Parser:
    """The parser of a verb. Values may begin with a minus (`--layers -1`, `set x -1e-3`).

    Args:
        prog: the command, as users type it.
        text: the synopsis (the first line), explanation and examples.
    """

    def __init__(self, prog: str, text: str = "") -> None:
        self._prog, self._text = prog, text
        self.arguments: list[Argument] = []
        self._options: dict[str, Argument] = {}
        self.add_argument("-h", "--help", action="help", help="show this help message and exit")

    def add_argument(self, *names: str, **declared: Any) -> None:
        """Declare an argument; see `Argument`."""
        argument = Argument(*names, **declared)
        self.arguments.append(argument)
        self._options.update(dict.fromkeys(argument.options, argument))

    def parse(self, argv: Sequence[str]) -> Arguments | None:
        """Parse the words behind the verb. Options may stand anywhere before `--`.

        Returns:
            The values; None if the words ask for help, which was printed.

        Raises:
            UsageError: the words do not fit the arguments that were declared.
        """
        positional = [argument for argument in self.arguments if not argument.options]
        several = positional[-1].nargs if positional else None
        given: dict[str, Any] = {}
        words: list[str] = []
        unknown: list[str] = []
        only_words = False
        left = iter(argv)
        for word in left:
            if word == "--" and not only_words:
                only_words = True
            elif only_words or not self._is_option(word):
                (words if several or len(words) < len(positional) else unknown).append(word)
                only_words = only_words or several == "..."
            elif self._split(word)[0] not in self._options:
                unknown.append(word)
            else:
                for argument, option, text in self._options_in(word):
                    if argument.action == "help":
                        from . import usage

                        print(usage.text(self._text, self.arguments), end="")
                        return None
                    if argument.takes_value and text is None:
                        text = next(left, "--")
                        if text == "--" or self._is_option(text):
                            self._fail(f"argument {argument.name}: expected one argument")
                    value = option == argument.options[0] if text is None else self._value(argument, text)
                    if argument.action == "append":
                        value = [*given.get(argument.dest, ()), value]
                    given[argument.dest] = value
        for argument in positional:
            taken = words if argument.nargs else words[:1]
            words = words[len(taken) :]
            if taken:
                given[argument.dest] = taken if argument.nargs else taken[0]
        missing = [each.name for each in self.arguments if each.required and each.dest not in given]
        if missing:
            self._fail(f"the following arguments are required: {', '.join(missing)}")
        if unknown:
            self._fail(f"unrecognized arguments: {' '.join(unknown)}")
        defaults = {each.dest: each.default for each in self.arguments if each.action != "help"}
        return Arguments(defaults | given)

    def _split(self, word: str) -> tuple[str, str | None]:
        """What may be an option's name, and the text attached to it: `--NAME=TEXT`, `-oTEXT`, `-o=TEXT`."""
        name, equals, text = word.partition("=")
        if name in self._options or word[1:2] == "-" or word[:2] not in self._options:
            return name, text if equals else None
        return word[:2], word[2:]

    def _is_option(self, word: str) -> bool:
        """Whether a word is an option, declared or not; otherwise it is a value, though it may begin with a minus."""
        if word[:1] != "-" or word == "-":
            return False
        return self._split(word)[0] in self._options or not (" " in word or _is_number(word))

    def _options_in(self, word: str) -> Iterator[tuple[Argument, str, str | None]]:
        """The options of a word, with their names and the text attached to them; several if they are short: `-qv`."""
        name, text = self._split(word)
        argument = self._options[name]
        while text is not None and not argument.takes_value:
            yield argument, name, None
            short = f"-{text[:1]}"
            if name.startswith("--") or short not in self._options:
                self._fail(f"argument {argument.name}: ignored explicit argument {text!r}")
            name, argument, text = short, self._options[short], text[1:] or None
        yield argument, name, text

    def _value(self, argument: Argument, text: str) -> object:
        try:
            value = argument.type(text)
        except ValueError:
            self._fail(f"argument {argument.name}: invalid {argument.type.__name__} value: {text!r}")
        if argument.choices is not None and value not in argument.choices:
            choices = ", ".join(map(repr, argument.choices))
            self._fail(f"argument {argument.name}: invalid choice: {text!r} (choose from {choices})")
        return value

    def _fail(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"'{self._prog} --help' shows how")


def _is_number(word: str) -> bool:
    """Whether a word that begins with a minus may be a negative number, or a range of them."""
    return word[1].isdecimal() or (word[1] == "." and word[2:3].isdecimal()) or word.lower() in _NEGATIVE


_NEGATIVE = ("-inf", "-infinity", "-nan")
