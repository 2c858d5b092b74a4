"""`ring plot`: what is read from the journal, and the picture."""

from __future__ import annotations

import json
import math
import struct
import sys
from pathlib import Path

import pytest
from ring_rounds import NAMES, WINDOW, fresh, loss, measured, play
from ring_support import write_ring

from ckptsurgeon.cli import main
from ckptsurgeon.errors import DamagedError, UsageError
from ckptsurgeon.ring.journal import Head
from ckptsurgeon.ring.reporting import plot
from ckptsurgeon.ring.reporting.plot import Curve
from ckptsurgeon.ring.spec import loading


def write_run(folder: Path, rounds: int, tolerance: float = 0.01) -> Path:
    """Write ring.toml and the journal of a run; return the journal."""
    write_ring(folder, 100, stop={"tolerance": tolerance, "trunk_tolerance": 0.02})
    head = Head(loading.load(str(folder / "ring.toml")).document(), None, {}, dict.fromkeys(NAMES, "x"))
    lines, history = [head.line()], fresh()
    while history.round < rounds:
        list(play(history, 1))
        first = history.schedule.first_step(history.round)
        lines += [history._recent[number].line() for number in range(first, history.step + 1)]
    path = folder / "journal.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def points(path: Path, name: str, tag: str) -> list[tuple[float, float]]:
    x, y = plot.read(str(path)).curves[name, tag].points()
    return list(zip(x, y, strict=True))


def test_curves_hold_what_the_journal_says(tmp_path: Path) -> None:
    """Losses of all rounds, and what was measured where it was."""
    path = write_run(tmp_path, 7)
    found = plot.read(str(path))
    assert (found.models, found.rounds) == (NAMES, 7)
    assert points(path, "b", "loss") == [(n, loss("b", n)) for n in range(1, 8)]
    assert points(path, "b", "distance") == [(n, (measured(n).distance or {})["b"]) for n in (2, 4, 6)]
    assert points(path, "trunk", "change") == [(n, 0.5 / n) for n in (2, 4, 6)]
    assert ("c", "held_out_loss") not in found.curves
    assert len(found.curves) == 3 * 3 + 2 + 1


@pytest.mark.parametrize("count", [0, 1, 1999, 2000, 2001, 4001, 50_000])
def test_a_curve_is_thinned_by_means(count: int) -> None:
    """However many points there are, at most 2,000 are kept, in order, and each is the mean of its share."""
    curve = Curve()
    for number in range(count):
        curve.add(number, 3.0 * number)
    x, y = curve.points()
    assert len(x) == len(y) == math.ceil(count / curve.width) <= plot.POINTS
    shares = [range(first, min(first + curve.width, count)) for first in range(0, count, curve.width)]
    assert x == [sum(share) / len(share) for share in shares]
    assert y == pytest.approx([3.0 * value for value in x])
    assert curve.width == 1 or len(x) > plot.POINTS // 2


def test_steps_that_were_done_again_count_once(tmp_path: Path) -> None:
    """As after a fallback to the last whole round: what was said last holds."""
    path = write_run(tmp_path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    train = json.loads(lines[-7])
    assert (train["kind"], train["model"], train["round"]) == ("train", "a", 3)
    train["metrics"]["loss"] = 99.0
    path.write_bytes(b"".join([*lines[:-7], json.dumps(train).encode() + b"\n", *lines[-7:]]))
    assert points(path, "a", "loss") == [(n, loss("a", n)) for n in (1, 2, 3)]


def test_a_journal_may_end_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """A driver writes it at this moment, or died; only whole rounds are drawn."""
    path = write_run(tmp_path, 3)
    whole = path.read_bytes()
    for cut in (1, 10, 1000):
        path.write_bytes(whole[:-cut])
        assert plot.read(str(path)).rounds == 2
    path.write_bytes(whole + b"\0\0\0")
    assert plot.read(str(path)).rounds == 3


def test_a_damaged_journal_is_refused(tmp_path: Path) -> None:
    """Rather than drawn up to the damage, where whole rounds follow it."""
    path = write_run(tmp_path, 3)
    path.write_bytes(path.read_bytes().replace(b'"step": 5,', b'"step": x,', 1))
    with pytest.raises(DamagedError, match="line 6 is damaged"):
        plot.read(str(path))


def test_a_picture_of_fixed_size_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same journal gives the same bytes, whatever style the user has chosen elsewhere."""
    write_run(tmp_path, 60)
    pictures = []
    for number in range(2):
        plot.plot(str(tmp_path), str(tmp_path / f"{number}.png"))
        pictures.append((tmp_path / f"{number}.png").read_bytes())
        import matplotlib

        monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
        monkeypatch.setitem(matplotlib.rcParams, "savefig.dpi", 300.0)
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert struct.unpack_from(">II", pictures[0], 16) == (1200, 900)
    assert b"tIME" not in pictures[0]
    assert b"Date" not in pictures[0]
    assert matplotlib.rcParams["font.size"] == 30.0


@pytest.mark.parametrize("kind", ["SVG", "pdf"])
def test_other_kinds_of_pictures_have_no_time_stamps_either(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any that matplotlib writes; the environment is left as it was."""
    write_run(tmp_path, 3)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "123456789")
    plot.plot(str(tmp_path), str(tmp_path / f"one.{kind}"))
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    plot.plot(str(tmp_path), str(tmp_path / f"two.{kind}"))
    first, second = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("one", "two"))
    assert first == second
    assert b"1973" not in first


def test_the_picture_names_what_it_shows(tmp_path: Path) -> None:
    """Models, trunk, axes, limits; a panel for which nothing was measured is left out."""
    write_run(tmp_path, WINDOW)
    plot.plot(str(tmp_path), str(tmp_path / "run.svg"))
    text = (tmp_path / "run.svg").read_text()
    words = [*NAMES, "trunk", "round", "loss", "change of the weights", "tolerance", "trunk tolerance"]
    words += ["3 models, 2 rounds", "on mini-batches", "on held-out rows", "from the mean trunk"]
    assert [word for word in words if f"<!-- {word} -->" not in text] == []
    write_run(tmp_path, 1)
    plot.plot(str(tmp_path), str(tmp_path / "run.svg"))
    text = (tmp_path / "run.svg").read_text()
    absent = ["trunk", "change of the weights", "tolerance", "on held-out rows", "from the mean trunk"]
    assert [word for word in absent if f"<!-- {word} -->" in text] == []
    assert "<!-- 3 models, 1 round -->" in text


@pytest.mark.parametrize(("tolerance", "words"), [(1e-9, "↓ tolerance 1e-09"), (50.0, "↑ tolerance 50")])
def test_a_limit_that_is_far_off_is_only_named(tmp_path: Path, tolerance: float, words: str) -> None:
    """It would press the curves flat."""
    write_run(tmp_path, 10, tolerance)
    plot.plot(str(tmp_path), str(tmp_path / "run.svg"))
    text = (tmp_path / "run.svg").read_text()
    assert f"<!-- {words} -->" in text
    assert "<!-- trunk tolerance -->" in text


def test_odd_values_are_drawn_around(tmp_path: Path) -> None:
    """NaN, infinities and zeros, as of a run that diverged, stop no picture."""
    path = write_run(tmp_path, 60)
    text = path.read_text()
    for number, value in ((3, '"NaN"'), (7, '"Infinity"'), (11, "0"), (13, "-5e300"), (17, "5e300")):
        text = text.replace(f'"loss": {loss("a", number)}', f'"loss": {value}')
    path.write_text(text)
    plot.plot(str(tmp_path), str(tmp_path / "run.png"))
    assert (tmp_path / "run.png").stat().st_size > 10_000
    y = [value for _, value in points(path, "a", "loss")]
    assert math.isnan(y[2])
    assert (y[6], y[10], y[12], y[16]) == (math.inf, 0.0, -5e300, 5e300)


def test_a_moving_mean_passes_over_what_is_not_finite() -> None:
    """And is of fewer values at the ends."""
    assert plot._moving_mean([1.0, 2.0, 6.0, math.nan, 4.0], 1) == [1.5, 3.0, 4.0, 5.0, 4.0]
    assert math.isnan(plot._moving_mean([math.inf] * 3, 1)[1])


@pytest.mark.parametrize(
    ("rounds", "out", "words"),
    [
        (0, "run.png", "nothing to plot: no round is finished yet"),
        (3, "run.txt", "run.txt: unsupported picture format; expected "),
        (3, "run", "run: unsupported picture format; expected "),
        (3, "no/run.png", "no/run.png: no such file or directory"),
    ],
)
def test_what_cannot_be_plotted_is_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rounds: int,
    out: str,
    words: str,
) -> None:
    """Exit status 2, and no picture."""
    write_run(tmp_path, rounds)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["ring", "plot", ".", "-o", out]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert words in line
    assert sorted(tmp_path.iterdir()) == before


def test_without_losses_there_is_nothing_to_plot(tmp_path: Path) -> None:
    """As where trainers tell none and no window has ended."""
    path = write_run(tmp_path, 1)
    path.write_text(path.read_text().replace('"loss"', '"speed"'))
    with pytest.raises(UsageError, match="nothing to plot: no trainer reported a loss"):
        plot.plot(str(tmp_path), str(tmp_path / "run.png"))


def test_without_matplotlib_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line."""
    write_run(tmp_path, 1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError) as caught:
        plot.plot(str(tmp_path), str(tmp_path / "run.png"))
    assert str(caught.value) == "ring plot needs matplotlib; pip install 'ckptsurgeon[plot]'"


def test_the_command_draws_quietly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And replaces a picture that is there."""
    write_run(tmp_path, 2)
    (tmp_path / "run.png").write_text("old")
    assert main(["ring", "plot", str(tmp_path), "-o", str(tmp_path / "run.png")]) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
