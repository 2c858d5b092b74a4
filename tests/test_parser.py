"""The parser of the command line reads what argparse reads, and writes the help that argparse writes."""

from __future__ import annotations

import argparse
import importlib
import random
import re
from typing import Any, NoReturn

import command_line
import pytest

from ckptsurgeon import cli
from ckptsurgeon.cli.parser import Parser
from ckptsurgeon.cli.verbs.ring import VERBS as RING
from ckptsurgeon.errors import UsageError

VERBS = {verb: cli.module_of(verb) for verb in cli.VERBS} | {
    f"ring {verb}": importlib.import_module(f"ckptsurgeon.cli.ring.{verb}") for verb in RING
}

# Words that a verb may or may not know: options in every spelling, values that look like options, and plain words.
WORDS = [
    "--layers", "--layers=", "--layers=-1", "--match", "--match=**/x", "--exclude", "--scheme", "-o", "-oX", "-o=X",
    "--dry-run", "--wait", "--wait=3", "--wait=x", "--wait=-1", "--force", "--anyway", "--json", "--json=1", "--backup",
    "--no-backup", "--no-backup=1", "--slots", "--no-slots", "-q", "-v", "-l", "-qv", "-qvq", "-lq", "-qx", "-qoX",
    "-q=v", "-q=x", "--sort", "--sort=size", "--sort=other", "--tolerance", "--tolerance=1e-3", "--models",
    "--models=x", "--until", "--data", "--batch", "--map", "--add", "--regex", "--bogus", "--bogus=1", "--lay", "--=x",
    "-=x", "---", "-x", "-1", "-1-", "-1e-3", "-.5", "-inf", "-INF", "-nan", "-infx", "-", "--a b", "", "a", "A=B",
]  # fmt: skip


class Reference(argparse.ArgumentParser):
    """argparse's own parser for the declarations of a verb."""

    def __init__(self, prog: str, text: str) -> None:
        synopsis, _, description = text.strip().partition("\n")
        super().__init__(
            prog=prog,
            usage=synopsis,
            description=description.strip("\n"),
            allow_abbrev=False,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=26, width=100),
        )
        self.register("action", "yes_no", argparse.BooleanOptionalAction)
        self._negative_number_matcher = re.compile(r"^-(\d|\.\d|(?i:inf|infinity|nan)$)")

    def read(self, words: list[str]) -> dict[str, Any]:
        """The values of a command line."""
        several = any(action.nargs in ("*", "+") for action in self._get_positional_actions())
        return vars(self.parse_intermixed_args(words) if several else self.parse_args(words))

    def error(self, message: str) -> NoReturn:
        """Refuse as the program does."""
        raise UsageError(message)


def parsers(verb: str) -> tuple[Parser, Reference]:
    """Both parsers of a verb, told of the same arguments."""
    both = Parser(verb, VERBS[verb].HELP), Reference(verb, VERBS[verb].HELP)
    for parser in both:
        VERBS[verb].add_arguments(parser)
    return both


@pytest.mark.parametrize("verb", VERBS)
def test_command_lines_are_read_as_argparse_reads_them(verb: str) -> None:
    """Random words of all kinds: the same values, or both refuse."""
    rng = random.Random(verb)
    ours, reference = parsers(verb)
    accepted = 0
    known = [word for word in WORDS if ours._split(word)[0] in ours._options]
    required = [word for each in ours.arguments if each.options and each.required for word in (each.options[0], "x")]
    positional = sum(not each.options for each in ours.arguments)
    for _ in range(200):
        words = rng.choices(known or ["a"], k=rng.randrange(4)) + rng.choices(WORDS, k=rng.randrange(4) // 3)
        words += ["a", "b", "c", "-1", "d"][: positional + rng.randrange(3)]
        rng.shuffle(words)
        words[:0] = required if rng.randrange(4) else []
        try:
            expected: dict[str, Any] | None = reference.read(words)
            accepted += 1
        except UsageError:
            expected = None
        try:
            found: dict[str, Any] | None = vars(ours.parse(words))
        except UsageError:
            found = None
        assert found == expected, words
    assert accepted > 10


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_laid_out_as_argparse_does_it(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same text, wherever --help stands, also behind an option that does not exist; COLUMNS changes nothing."""
    ours, reference = parsers(verb)
    for words in (["--help"], ["-h"], ["--bogus", "--help"]):
        assert ours.parse(words) is None
        assert capsys.readouterr().out == reference.format_help()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ls", "the following arguments are required: CKPT"),
        ("graft a", "the following arguments are required: RECIPIENT"),
        ("ring predict R", "the following arguments are required: --data, -o"),
        ("graft a b c --bogus", "unrecognized arguments: c --bogus"),
        ("ls a --lay 0", "unrecognized arguments: --lay"),
        ("ls a --layers", "argument --layers: expected one argument"),
        ("ls a --layers --json", "argument --layers: expected one argument"),
        ("graft a b -o -- c", "argument -o: expected one argument"),
        ("ls a --json=1", "argument --json: ignored explicit argument '1'"),
        ("set a b 1 --no-backup=1", "argument --backup/--no-backup: ignored explicit argument '1'"),
        ("graft a b -qx", "argument -q: ignored explicit argument 'x'"),
        ("ls a --sort big", "argument --sort: invalid choice: 'big' (choose from 'name', 'size')"),
        ("diff a b --tolerance x", "argument --tolerance: invalid float value: 'x'"),
        ("set a b 1 --wait -1", "argument --wait: invalid seconds value: '-1'"),
        ("ring init R --models x", "argument --models: invalid int value: 'x'"),
    ],
)
def test_mistakes_are_named(line: str, message: str) -> None:
    """A line says what is wrong and where the help is; exit status 2."""
    done = command_line.run(*line.split())
    command = " ".join(["ckptsurgeon", *line.split()[: 2 if line.startswith("ring") else 1]]).replace(
        "ckptsurgeon graft", "graft"
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"ckptsurgeon: {message}; '{command} --help' shows how\n"


def test_what_follows_two_minuses_is_no_option() -> None:
    """Only the first -- is taken away."""
    ours, _ = parsers("ls")
    args = ours.parse(["--json", "a", "--", "--long", "--", "-x"])
    assert args is not None
    assert (args.checkpoint, args.globs, args.json) == ("a", ["--long", "--", "-x"], True)
