"""Errors are one line each, whatever the names in them, and nothing else leaves the library."""

from __future__ import annotations

import pytest

from ckptsurgeon.errors import (
    CkptSurgeonError,
    NotFoundError,
    Problems,
    StorageError,
    check,
    did_you_mean,
    files,
    printable,
)


def test_an_error_says_what_where_expected_found_and_what_to_do() -> None:
    """The parts stand in this order, and those that are missing leave no trace."""
    assert str(CkptSurgeonError("wrong", path="m", expected=1, found=2, hint="mend it")) == (
        "m: wrong; expected 1, found 2; mend it"
    )
    assert str(CkptSurgeonError("wrong", found=2)) == "wrong; found 2"
    assert str(CkptSurgeonError("wrong", path="m")) == "m: wrong"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("é 名", "é 名"),
        ("tab\there\nnew\r", r"tab\there\nnew\r"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\u2028b\u202eb", r"a\u2028b\u202eb"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), r"caf\xe9"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_does_not_print_is_escaped(text: str, shown: str) -> None:
    """No name can break a line or steer a terminal."""
    assert printable(text) == shown
    assert "\n" not in str(CkptSurgeonError(text, path=text, hint=text))
    assert str(CkptSurgeonError(text)).isprintable()


def test_problems_keep_a_line_each() -> None:
    """None is nothing, one is itself, several come together, nested ones too."""
    one, other = CkptSurgeonError("one"), CkptSurgeonError("other")
    check([])
    with pytest.raises(CkptSurgeonError) as caught:
        check([one])
    assert caught.value is one
    with pytest.raises(Problems) as several:
        check([one, Problems([other, one])])
    assert several.value.lines == ["one", "other", "one"]


def test_what_the_system_says_becomes_a_line_with_the_file() -> None:
    """OSErrors and MemoryErrors are translated; an error of ours that names no file gets it; others pass."""
    with pytest.raises(NotFoundError, match=r"^/no/such: no such file or directory$"), files("m"):
        open("/no/such")
    with pytest.raises(StorageError, match=r"^m: not enough memory$"), files("m"):
        raise MemoryError
    with pytest.raises(CkptSurgeonError, match=r"^m: wrong$"), files("m"):
        raise CkptSurgeonError("wrong")
    with pytest.raises(CkptSurgeonError, match=r"^n: wrong$"), files("m"):
        raise CkptSurgeonError("wrong", path="n")
    with pytest.raises(ZeroDivisionError), files("m"):
        raise ZeroDivisionError


def test_a_near_miss_is_offered() -> None:
    """One letter off is offered, another word is not, and a hundred thousand names do not keep one waiting."""
    names = [f"dnn/layer{number}/Linear/Matrix" for number in range(100_000)]
    assert did_you_mean("dnn/layer7/Linear/Matrx", names) == "did you mean dnn/layer7/Linear/Matrix"
    assert did_you_mean("something else", names) is None
