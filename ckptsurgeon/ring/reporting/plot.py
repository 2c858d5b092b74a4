"""Plots a run: losses, changes of the weights, and distances between the models' trunks.

The journal is read once, line by line, and every curve is thinned as it grows, so memory does not depend on the length
of the run. The same journal gives the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import UsageError, files
from ...publish import write_file
from .. import journal
from ..folder import existing
from ..history import History
from ..replaying import replay
from ..schedule import TRUNK
from ..spec import loading
from .events import scalars

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 2000  # maximum number of points per curve
_SMOOTHED = 50  # a longer curve is smoothed: each point is the mean of the nearest fiftieth of all points on each side
_NAMED = 30  # maximum number of models in the legend
_FAR = 30.0  # a limit is not drawn if it is this many times smaller or larger than all changes
_SIZE, _DPI = (12.0, 9.0), 100  # inches; the picture is 1200 by 900
_STYLE = {"font.size": 10, "svg.hashsalt": "ring", "lines.linewidth": 1.4, "axes.spines.top": False,
          "axes.spines.right": False}  # fmt: skip

# The panels, from top to bottom: tags of `scalars`, and the label of the axis.
_PANELS = (
    (("loss", "held_out_loss"), "loss"),
    (("change",), "change of the weights"),
    (("distance",), "distance of the trunk\nfrom the mean trunk"),
)


class Curve:
    """Points in the order of their rounds, thinned: `width` consecutive points are drawn as their mean.

    Attributes:
        width: the number of points that are drawn as one
    """

    def __init__(self) -> None:
        self.width = 1
        self._x: list[float] = []  # sums of `width` points each; the last sum may have fewer
        self._y: list[float] = []
        self._count = 0  # number of points in the last sum

    def add(self, x: float, y: float) -> None:
        """Add a point."""
        if self._x and self._count < self.width:
            self._x[-1] += x
            self._y[-1] += y
            self._count += 1
            return
        if len(self._x) == POINTS:
            self._x, self._y = ([a + b for a, b in zip(v[::2], v[1::2], strict=True)] for v in (self._x, self._y))
            self.width *= 2
        self._x.append(x)
        self._y.append(y)
        self._count = 1

    def points(self) -> tuple[list[float], list[float]]:
        """Return the means of rounds and values."""
        counts = [self.width] * (len(self._x) - 1) + [self._count] * bool(self._x)
        x, y = ([total / count for total, count in zip(v, counts, strict=True)] for v in (self._x, self._y))
        return x, y


@dataclass(frozen=True)
class Curves:
    """All curves of a run.

    Attributes:
        models: the names of the models, in the order of the ring.
        rounds: the number of complete rounds.
        curves: by name (of a model or of the trunk) and tag, as in `scalars`.
    """

    models: tuple[str, ...]
    rounds: int
    curves: Mapping[tuple[str, str], Curve]


def read(path: str) -> Curves:
    """Read the curves of a journal, in memory that does not depend on its length.

    Raises:
        CkptSurgeonError: the run is not initialised, or the journal is damaged.
    """
    curves: dict[tuple[str, str], Curve] = {}
    history = None
    for history in _rounds(path):
        for name, values in scalars(history).items():
            for tag, value in values.items():
                curves.setdefault((name, tag), Curve()).add(history.round, value)
    return Curves(history.models if history else (), history.round if history else 0, curves)


def _rounds(path: str) -> Iterator[History]:
    """Yield the history after each complete round of a journal."""
    with files(path), open(path, "rb") as file:
        content = journal.parse(io.BytesIO(file.readline(journal.LONGEST_LINE)))
        if content is None:
            raise journal.not_initialised(os.path.dirname(path))
        history = content.history
        while line := file.readline(journal.LONGEST_LINE):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError
                ended = replay(line, history)
            except journal.UNREADABLE:
                journal.load(path)  # raises if this is damage, not the remains of a crash or an unfinished write
                return
            if ended:
                yield history


def plot(folder: str, out: str) -> Curves:
    """Plot a run.

    Args:
        folder: the run's folder; the run may be active.
        out: the picture file; its suffix selects the format. An existing file is replaced.

    Returns:
        The curves that were drawn.

    Raises:
        UsageError: matplotlib is missing, it does not support the format, or there is nothing to plot.
        CkptSurgeonError: there is no such run, or its journal is damaged.
    """
    run = existing(folder)
    kind = os.path.splitext(out)[1][1:].lower()
    with _matplotlib() as figure:
        kinds = figure.canvas.get_supported_filetypes()
        if kind not in kinds:
            raise UsageError("unsupported picture format", path=out, expected=" ".join(sorted(kinds)))
        stop, curves = loading.load(run.spec).stop, read(run.journal)
        if not curves.curves:
            what = "no trainer reported a loss" if curves.rounds else "no round is finished yet"
            raise UsageError(f"nothing to plot: {what}", path=folder)
        _draw(figure, curves, {"tolerance": stop.tolerance, "trunk tolerance": stop.trunk_tolerance})
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind)
    write_file(out, buffer.getvalue())
    return curves


@contextlib.contextmanager
def _matplotlib() -> Iterator[Figure]:
    """Yield an empty figure, with the user's own style disabled and without time stamps or random names in files."""
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError(f"ring plot needs {error.name}", hint="pip install 'ckptsurgeon[plot]'") from error
    before = os.environ.get("SOURCE_DATE_EPOCH")
    os.environ["SOURCE_DATE_EPOCH"] = "0"  # matplotlib writes this date to pdf, ps and svg files
    try:
        with matplotlib.style.context(["default", _STYLE], after_reset=True):
            yield Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    finally:
        if before is None:
            del os.environ["SOURCE_DATE_EPOCH"]
        else:
            os.environ["SOURCE_DATE_EPOCH"] = before


def _draw(figure: Figure, curves: Curves, limits: Mapping[str, float | None]) -> None:
    """Draw the panels that have data."""
    colours = _colours(curves.models)
    panels = [panel for panel in _PANELS if any(tag in panel[0] for _, tag in curves.curves)]
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for axis, (tags, label) in zip(axes, panels, strict=True):
        axis.set_ylabel(label)
        for (name, tag), curve in curves.curves.items():
            if tag in tags:
                _add(axis, curve, tag, colours[name], name == TRUNK)
        if tags == ("change",):
            _add_limits(axis, limits)
        _scale(axis)
    _name_lines(axes[0], {tag for _, tag in curves.curves})
    axes[-1].set_xlabel("round")
    axes[-1].set_xlim(0, curves.rounds * 1.01)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    figure.align_ylabels()
    figure.suptitle(f"{len(curves.models)} models, {curves.rounds:,} round{'s' * (curves.rounds != 1)}")
    _name_models(figure, curves, colours)


def _add(axis: Axes, curve: Curve, tag: str, colour: Any, is_trunk: bool) -> None:
    """Draw a curve; draw the loss of mini-batches faintly, under its moving mean."""
    x, y = curve.points()
    if tag == "loss":
        if len(y) > _SMOOTHED:
            axis.plot(x, y, color=colour, linewidth=0.6, alpha=0.25, zorder=1)
            y = _moving_mean(y, len(y) // _SMOOTHED)
        axis.plot(x, y, color=colour, **_marker(y))
    elif tag == "held_out_loss":
        axis.plot(x, y, color=colour, linestyle="--", **_marker(y))
    else:
        axis.plot(x, y, color=colour, linewidth=2.2 if is_trunk else 1.4, **_marker(y))


def _marker(y: Sequence[float]) -> dict[str, Any]:
    """Return options that mark the points of a line with few of them: a single point would be invisible."""
    return {"marker": "o", "markersize": 3.5} if len(y) <= 40 else {}


def _add_limits(axis: Axes, limits: Mapping[str, float | None]) -> None:
    """Draw the limits at which a run ends; a limit far from all changes would flatten them, so it is only written."""
    values = [y for y in _values(axis) if y > 0]
    for place, (what, value) in enumerate(limits.items()):
        if value and values and min(values) / _FAR <= value <= max(values) * _FAR:
            axis.axhline(value, color="grey", linestyle=":", linewidth=1)
            axis.annotate(what, (0, value), (3, 3), ("axes fraction", "data"), "offset points", color="grey")
        elif value:
            below = bool(values) and value < min(values)
            text, end = (f"↓ {what} {value:g}", 0) if below else (f"↑ {what} {value:g}", 1)
            offset = (3, 3 + 14 * place if below else -12 - 14 * place)
            axis.annotate(text, (0, end), offset, "axes fraction", "offset points", color="grey")


def _values(axis: Axes) -> list[float]:
    """Return all finite values that are drawn."""
    drawn = [float(y) for line in axis.lines for y in np.asarray(line.get_ydata(), dtype=float)]
    return [y for y in drawn if math.isfinite(y)]


def _moving_mean(values: Sequence[float], reach: int) -> list[float]:
    """Return for each value the mean of the finite values among it and up to `reach` neighbours on either side."""
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value if math.isfinite(value) else 0.0))
        counts.append(counts[-1] + math.isfinite(value))
    means = []
    for at in range(len(values)):
        first, end = max(0, at - reach), min(len(values), at + reach + 1)
        count = counts[end] - counts[first]
        means.append((sums[end] - sums[first]) / count if count else math.nan)
    return means


def _scale(axis: Axes) -> None:
    """Use a logarithmic scale if the values span more than a power of ten."""
    values = _values(axis)
    positive = [y for y in values if y > 0]
    if positive and min(values) >= 0 and max(positive) > 10 * min(positive):
        axis.set_yscale("log", nonpositive="mask")
        named = "235" if max(positive) < 100 * min(positive) else ""  # first digits of labels between powers of ten
        axis.yaxis.set_major_formatter(lambda y, place: f"{y:g}")
        axis.yaxis.set_minor_formatter(lambda y, place: f"{y:g}" if f"{y:.0e}"[0] in named else "")
        axis.grid(which="minor", axis="y", alpha=0.15)
    axis.grid(alpha=0.4)


def _colours(models: Sequence[str]) -> dict[str, Any]:
    """Return a colour for each model, and black for the trunk."""
    import matplotlib

    if len(models) <= 10:
        table = matplotlib.colormaps["tab10"]
        found = {name: table(place) for place, name in enumerate(models)}
    else:
        table = matplotlib.colormaps["turbo"]
        found = {name: table(place / (len(models) - 1)) for place, name in enumerate(models)}
    return {**found, TRUNK: "black"}


def _name_lines(axis: Axes, tags: set[str]) -> None:
    """Explain the kinds of lines, if there are two."""
    from matplotlib.lines import Line2D

    if {"loss", "held_out_loss"} <= tags:
        lines = [Line2D([], [], color="grey"), Line2D([], [], color="grey", linestyle="--")]
        axis.legend(lines, ["on mini-batches", "on held-out rows"], loc="upper right")


def _name_models(figure: Figure, curves: Curves, colours: Mapping[str, Any]) -> None:
    """Add a legend of the models' colours next to the panels."""
    from matplotlib.lines import Line2D

    names = [*curves.models, *([TRUNK] if (TRUNK, "change") in curves.curves else [])]
    lines = {name: Line2D([], [], color=colours[name], linewidth=2.2) for name in names[:_NAMED]}
    if len(names) > _NAMED:
        lines[f"… {len(names) - _NAMED} more"] = Line2D([], [], linestyle="none")
    figure.legend(lines.values(), lines.keys(), loc="outside right upper", frameon=False)
