"""Patterns of names: what each wildcard takes, and that no name keeps one busy."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from steps import growth

import ckptsurgeon
from ckptsurgeon import cli, formats, schemes
from ckptsurgeon.errors import RefusedError
from ckptsurgeon.expression import Expression
from ckptsurgeon.names import Pattern, parsed
from ckptsurgeon.surgeon.maps import Rename
from ckptsurgeon.verbs import changing

EXPRESSIONS = {
    "{K}": "([0-9]{1,18})",
    "{_K}": "((?:_[1-9][0-9]{0,17})?)",
    "**": "(.*)",
    "*": "([^/]*)",
    "?": "([^/])",
}


def expected(pattern: str, name: str) -> list[tuple[int, int]] | None:
    """What a backtracking regular expression says of a short name."""
    wildcards, literals = parsed(pattern)
    parts = [re.escape(literals[0])]
    for wildcard, literal in zip(wildcards, literals[1:], strict=True):
        parts += [EXPRESSIONS[wildcard], re.escape(literal)]
    match = re.fullmatch("".join(parts), name, re.DOTALL)
    return None if match is None else [match.span(1 + at) for at in range(len(wildcards))]


def test_every_wildcard_takes_what_an_expression_would_give_it() -> None:
    """Random patterns on random names agree with regular expressions, in which wildcards are greedy from the left."""
    rng = random.Random(1)
    found = 0
    for _ in range(1500):
        text = "".join(
            rng.choice(("a", "b", "/", "*", "**", "?", "{K}", "{_K}", "1", "_", "0", "^"))
            for _ in range(rng.randrange(7))
        )
        pattern, expression = Pattern(text), Expression(*parsed(text))
        for _ in range(4):
            name = "".join(rng.choice("ab/10_^\n") for _ in range(rng.randrange(9)))
            wanted = expected(text, name)
            for matcher in (pattern, expression):
                spans = matcher.spans(name)
                assert (spans if spans is None else list(spans)) == wanted, (text, name)
                assert matcher.matches(name) == (wanted is not None)
            found += wanted is not None
    assert found > 300


def test_many_names_are_matched_by_an_expression() -> None:
    """Where it takes linear time, and it finds what the automaton found among the first names."""
    for text, is_fast in (("dnn/layer{K}/**", True), ("**/layer{K}/**/Bias", False)):
        pattern = Pattern(text)
        found = [pattern.spans("dnn/layer12/Linear/Bias") for _ in range(2000)]
        assert [list(spans or ()) for spans in found] == [list(found[0] or ())] * 2000
        assert found[0] is not None
        assert (pattern._expression is not None) == is_fast


HOSTILE = {
    "**/layer*/**/Bias": "/layer",
    "*attention*kernel*": "attention",
    "**/encoder/**/attention/**/kernel": "/encoder/attention",
    "**a**a**a**a**b": "a",
    "*{K}*{K}*x": "1",
    "{K}{K}{K}{K}{K}{K}x**": "1",
    "?**?*?**?x": "a",
    "**{_K}**{_K}/": "_1",
}


@pytest.mark.parametrize("pattern", HOSTILE)
def test_no_name_keeps_a_pattern_busy(pattern: str) -> None:
    """A pattern of several wildcards reads a name once, whether it matches in the end or not."""
    part = HOSTILE[pattern]
    ending = parsed(pattern)[1][-1]
    for name in (part, part + ending):
        growth(lambda times, name=name: lambda: Pattern(pattern).matches(name * times + ending[1:]), 300)
        growth(lambda times: lambda: Pattern(pattern).spans(part * times + ending), 300)


def test_many_different_characters_do_not_fill_the_memory() -> None:
    """An automaton forgets its states when names have made it know too many, and still matches."""
    pattern = Pattern("*a*b*c")
    for at in range(6):
        name = "".join(map(chr, range(0x4E00, 0x4E00 + 15_000))) + "xbaxc"[at % 3 :]
        assert not pattern.matches(name)
    assert pattern.matches("".join(map(chr, range(0x4E00, 0x4E00 + 15_000))) + "a-b-c")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint with a name of 60,000 characters."""
    path = str(tmp_path_factory.mktemp("hostile") / "m")
    formats.write(
        path, {"/layer" * 10_000: np.zeros(1, "f4"), "layer0/w": np.zeros(1, "f4"), "layer1/w": np.zeros(1, "f4")}
    )
    return path


def test_verbs_end_whatever_a_name_is_like(hostile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Globs, schemes, renames and maps by patterns of several wildcards end on a name made for them."""
    out = str(tmp_path / "out.npz")
    assert cli.main(["ls", hostile, "--match", "**/layer*/**/Bias"]) == 2
    assert cli.main(["ls", hostile, "--exclude", "**/layer*/**/Bias"]) == 2
    assert cli.main(["layers", hostile, "--scheme", "**/layer*/**/{K}/Bias"]) == 2
    assert cli.main(["convert", hostile, out, "--map", "**/layer*/**/Bias=**/l*/**/b"]) == 2
    assert cli.main(["rename", hostile, "**/layer*/**/Bias=**/l*/**/b"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 5


def test_a_regular_expression_is_not_tried_on_a_long_name(hostile: str) -> None:
    """The cost of a user's own expression is bounded by the length of the names that it is tried on."""
    with pytest.raises(
        RefusedError, match=r"too long for --regex; expected at most 1000 characters, found 60000; use a glob"
    ):
        changing.rename(hostile, [".*layer.*Bias=x"], regex=True)


def test_a_scheme_counts_steps_by_the_characters_of_all_names() -> None:
    """A scheme of several wildcards takes as many steps as there are characters, however they are cut into names."""
    scheme = schemes.PatternScheme("x", "**/a*/**/{K}/**/b")

    def numbers(count: int, length: int) -> object:
        return lambda: [scheme.number("/a1" * length + "b") for _ in range(count)]

    growth(lambda size: numbers(1, size), 300)
    growth(lambda size: numbers(size, 10), 50)


def test_a_rename_by_many_wildcards_fills_them_in_order(tmp_path: Path) -> None:
    """Several wildcards of one kind or of several fill those of the new name one by one."""
    path = str(tmp_path / "m")
    formats.write(path, dict.fromkeys(("x/a/b/layer_3/w", "x//layer_12/w", "x/layer/w"), np.zeros(1, "f4")))
    with ckptsurgeon.open(path) as checkpoint:
        renamed = Rename("x/**/l*r_{K}/?=<**>/<*>{_K}/?").apply(checkpoint)
    assert renamed == {"x/a/b/layer_3/w": "<a/b>/<aye>_3/w", "x//layer_12/w": "<>/<aye>_12/w"}
