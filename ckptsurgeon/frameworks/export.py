"""Exports the models of a ring as one Keras model: `ckptsurgeon ring export` runs it as a process.

    python -m ckptsurgeon.frameworks.export DIR --output ensemble.keras [--model NAME] [--heads] [--force] [--json]

Everything that the run's files tell is checked before Keras is imported.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import cli, formats, serving
from ..cli import streams
from ..errors import (
    CkptSurgeonError,
    RefusedError,
    UnsupportedError,
    UsageError,
    did_you_mean,
)
from ..publish import write_all
from ..ring import journal, rows
from ..ring.folder import Folder, existing
from ..ring.predicting import skflow_net, voting
from ..ring.predicting.skflow_net import SkflowNet
from ..ring.schedule import TRUNK
from ..ring.spec import fixed, loading
from ..ring.spec.records import Model, Spec
from ..ring.weights.trunk import Trunk
from . import model_files

if TYPE_CHECKING:
    from .merging import Merged

_ROWS = 256  # rows on which the exported model is compared with the members
_CLOSE = 1e-4  # the largest difference that rounding to float32 explains, relative to the largest output


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        output: its path.
        models: the names of the models in it.
        parameters: the number of its parameters.
        saved: the parameters that as many separate models would have more.
        bytes: the size of the file, or of all files in the folder.
        rows: the number of rows on which its predictions were compared with those of the models.
        difference: the largest difference, relative to the largest prediction.
    """

    output: str
    models: tuple[str, ...]
    parameters: int
    saved: int
    bytes: int
    rows: int
    difference: float


def export(
    path: str,
    out: str,
    model: str | None = None,
    heads: bool = False,
    force: bool = False,
    warn: Callable[[str], None] = lambda line: None,
) -> Exported:
    """Write the models of a run as one model.

    Args:
        path: the folder of the run.
        out: NAME.keras, NAME.onnx, or a folder for a SavedModel.
        model: export only this model.
        heads: keep the outputs of each model apart instead of averaging them.
        force: whether to replace `out`.
        warn: is called with a line if `out` was written, but its name may not survive a power cut.

    Raises:
        UsageError: there is no such model, or `out` cannot be written.
        BusyError: another process is writing `out`.
        RefusedError: `out` is among the run's own files, the models do not share their first layers, or one of them
            cannot be exported.
    """
    if model is not None and heads:
        raise UsageError("one model has one head", hint="leave out --heads, or --model")
    model_files.check(out, force)
    folder = existing(path)
    with tempfile.TemporaryDirectory(prefix="ckptsurgeon-") as scratch:
        found = voting.despite_a_driver(lambda: _found(folder, model, scratch))
        _check_outside(found.folder, found.spec, out)
        return _export(found, out, heads, force, warn)


@dataclass(frozen=True)
class _Found:
    """What is exported.

    Attributes:
        folder: of the run.
        spec: as it was in the last whole round.
        models: the models to export.
        nets: those that need no framework.
        checkpoints: all others' checkpoints, which the run does not remove.
        trunk: the number of parameters that the models must share.
    """

    folder: Folder
    spec: Spec
    models: Sequence[Model]
    nets: Mapping[str, SkflowNet]
    checkpoints: Mapping[str, str]
    trunk: int


def _found(folder: Folder, name: str | None, scratch: str) -> _Found:
    """Return the models as the last whole round left them.

    Args:
        folder: of the run.
        name: the model to export; None: all.
        scratch: gets links to checkpoints, or copies: a running driver may remove them before TensorFlow has started.

    Raises:
        NotFoundError, ChangedError: a running driver has removed one; try again.
    """
    spec = loading.load(folder.spec)
    history = journal.load(folder.journal).history
    fixed.check_spec(folder, spec, history)
    folder = folder.storing(spec.suffixes)
    spec = spec.during(history.schedule.part(max(history.round, 1)))  # the models, and the trunk, of the last round
    # After the last whole round all models have the same trunk.
    checkpoints = {each: folder.checkpoint(each, history.whole(each)) for each in spec.names}
    chosen = _chosen(spec, name, folder)
    nets = {each.name: skflow_net.load(checkpoints[each.name]) for each in chosen if each.trainer is None}
    trunk = 0 if name is not None else _trunk_size(spec, checkpoints)
    kept = {}
    for each in chosen:
        if each.name not in nets:
            place = tempfile.mkdtemp(dir=scratch)
            kept[each.name] = voting.duplicate(checkpoints[each.name], place, link=True)
    return _Found(folder, spec, chosen, nets, kept, trunk)


def _check_outside(folder: Folder, spec: Spec, out: str) -> None:
    """Refuse a place among the files that the run makes and removes."""
    place = os.path.join(os.path.realpath(os.path.dirname(os.path.abspath(out))), "")
    for own in (*map(folder.model, (*spec.names, TRUNK)), folder.rows, folder.events):
        if place.startswith(os.path.join(os.path.realpath(own), "")):
            raise RefusedError("is in a folder that belongs to the run", path=out, hint="choose another folder")


def _export(found: _Found, out: str, heads: bool, force: bool, warn: Callable[[str], None]) -> Exported:
    folder, warnings = found.folder, list[str]()
    table = folder.open_table()
    X = np.ascontiguousarray(rows.examples(folder, table, _ROWS))
    with _quiet():
        merged, votes = _merge(found, table.n_classes, heads, X)
        if merged.shared < found.trunk:
            where = f"the trunk ({found.spec.selection})"
            raise RefusedError(
                f"{where} is not at the beginning of every model, so it cannot be stored once",
                path=folder.spec,
                expected=f"{found.trunk} parameters in the layers that all models begin with",
                found=merged.shared,
                hint="--model exports one model",
            )
        difference = _difference(merged.model, X, votes, heads)
        size = model_files.write(merged.model, out, force, warnings)
    for line in warnings:
        warn(line)
    return Exported(out, tuple(votes), merged.parameters, merged.separate - merged.parameters, size, len(X), difference)


def _merge(
    found: _Found, classes: int | None, heads: bool, X: NDArray[Any]
) -> tuple[Merged, dict[str, NDArray[np.float64]]]:
    """Return the models as one, and what each of them predicts for the rows X, as `ring predict` computes it."""
    from . import members, merging

    parts, votes = [], {}
    for model in found.models:
        net = found.nets.get(model.name)
        if net is not None:
            votes[model.name] = net.outputs(X)
            parts.append(merging.of_net(net, model.name, X.shape[1:]))
        else:
            made = members.keras_net(found.folder.root, model.name)
            votes[model.name] = made.outputs(found.checkpoints[model.name], X)
            parts.append(merging.Member(model.name, made.model, made.logits))
    return merging.merge(parts, classes, heads), votes


def _difference(model: Any, X: NDArray[Any], votes: Mapping[str, NDArray[np.float64]], heads: bool) -> float:
    """Return how much the exported model's predictions differ from the models', relative to the largest of them.

    Raises:
        RefusedError: it is more than rounding explains.
    """
    predicted = model.predict_on_batch(X)
    wanted = dict(votes) if heads else {"": np.mean(list(votes.values()), axis=0)}
    found = predicted if heads else {"": predicted}
    with np.errstate(invalid="ignore"):  # NumPy's max, unlike Python's, is NaN if anything is
        largest = np.max([np.abs(each).max(initial=1.0) for each in wanted.values()])
        apart = np.max(
            [np.abs(np.reshape(found[name], each.shape) - each).max(initial=0) for name, each in wanted.items()]
        )
        difference = float(apart / largest)
    if not difference <= _CLOSE:
        what = "the merged model does not predict what the models do"
        raise RefusedError(what, expected=f"a difference of {_CLOSE:g} at most", found=f"{difference:.2g}")
    return difference


def _chosen(spec: Spec, name: str | None, folder: Folder) -> list[Model]:
    """Return the models to export."""
    models = {each.name: each for each in spec.models}
    if name is not None and name not in models:
        hint = did_you_mean(name, models) or f"the models are {', '.join(models)}"
        raise UsageError(f"there is no model {name!r}", path=folder.spec, hint=hint)
    chosen = list(models.values()) if name is None else [models[name]]
    for each in chosen:
        if each.predict is not None:
            what = f"model {each.name} predicts by a program, so its layers are unknown"
            raise UnsupportedError(what, path=folder.spec, hint="--model exports one of the others")
    return chosen


def _trunk_size(spec: Spec, checkpoints: Mapping[str, str]) -> int:
    """Return the number of parameters of the trunk, after checking that all models have the same."""
    trunk = Trunk(spec, checkpoints)
    apart = {name: distance for name, distance in trunk.distances(checkpoints).items() if distance > 0}
    if apart:
        what = f"the models do not share the trunk ({spec.selection}) yet"
        raise RefusedError(what, found=f"trunks that differ: {', '.join(apart)}", hint="ring run ends a round")
    first = spec.names[0]
    with formats.open(checkpoints[first]) as checkpoint:
        variables = [checkpoint[member.own] for member in trunk.members[first]]
        return sum(variable.size for variable in variables if "float" in variable.dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Show what a framework or a trainer's function prints only if it fails, and never on stdout."""
    with tempfile.TemporaryFile() as held:
        _flush()
        real = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in real:
            os.dup2(held.fileno(), number)
        shown = False
        try:
            yield
        except KeyboardInterrupt:
            raise
        except Exception as error:
            # Others than ours are bugs; one that has a cause was raised by the user's function, whose traceback is held
            shown = not isinstance(error, CkptSurgeonError) or (
                isinstance(error, RefusedError) and error.__cause__ is not None
            )
            raise
        finally:
            _flush()
            for number, kept in real:
                os.dup2(kept, number)
                os.close(kept)
            if shown:
                held.seek(0)
                with contextlib.suppress(OSError):
                    write_all(2, held.read())


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()


def _lines(done: Exported) -> list[str]:
    """Return the report as text."""
    names = ", ".join(done.models)
    lines = [f"{done.output}: {names}; {done.parameters:,} parameters, {done.bytes:,} bytes"]
    if len(done.models) > 1:
        share = done.saved / (done.parameters + done.saved)
        lines.append(f"the trunk is stored once, which saves {done.saved:,} parameters ({share:.0%})")
    what = "predictions differ from those of the models by at most"
    return [*lines, f"{what} {done.difference:.1e}, on {done.rows} rows"]


def main(argv: Sequence[str]) -> int:
    """Export, and print what was done, as `ckptsurgeon ring export --help` says; return the exit status."""
    parser = argparse.ArgumentParser(prog="ckptsurgeon ring export", allow_abbrev=False)
    parser.add_argument("folder")
    parser.add_argument("--output", required=True)
    parser.add_argument("--model")
    for flag in ("--heads", "--force", "--json"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args(argv)
    done = export(args.folder, args.output, args.model, args.heads, args.force, _warn)
    print(json.dumps(asdict(done)) if args.json else "\n".join(_lines(done)))
    return cli.DONE


def _warn(line: str) -> None:
    streams.complain(f"warning: {line}")


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments = sys.argv[1:]
    serving.leave(cli.carry_out(lambda: main(arguments), arguments))
