"""What a verb says of an argument that it takes."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Argument:
    """An argument that a verb takes.

    Args:
        names: those of an option, such as `--force`; of a positional argument, the attribute that gets its value.
        action: store; append; store_true; yes_no: two options, `--NAME` and `--no-NAME`; help: print the help.
        nargs: of a positional argument: None: one word; "*" or "+": all that are left; "...": these, and whatever looks
            like an option behind the first of them. An argument with several words comes last.
        dest: the attribute that gets the value; None: the name of the option.
        metavar: what stands for the value in the help.
        type: converts the text of an option, or raises ValueError.
        choices: the only texts that are allowed.
        default: the value if the argument is not given.
        required: whether an option must be given. Positional arguments must be, except with "*" and "...".
        help: what it means.
    """

    def __init__(
        self,
        *names: str,
        action: str = "store",
        nargs: str | None = None,
        dest: str | None = None,
        metavar: str | None = None,
        type: Callable[[str], object] = str,
        choices: Sequence[str] | None = None,
        default: object = None,
        required: bool = False,
        help: str = "",
    ) -> None:
        self.options = names if names[0].startswith("-") else ()
        self.dest = dest or names[-1].lstrip("-").replace("-", "_")
        if action == "yes_no":
            self.options += (names[0].replace("--", "--no-"),)
        if action == "store_true":
            default = False
        self.takes_value = action in ("store", "append")
        self.required = required if self.options else nargs in (None, "+")
        self.action, self.nargs, self.metavar, self.help = action, nargs, metavar, help
        self.type, self.choices, self.default = type, choices, default
        self.name = "/".join(self.options) or metavar or self.dest  # in messages
