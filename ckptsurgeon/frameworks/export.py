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
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import formats, serving
from ..errors import CkptSurgeonError, RefusedError, UnsupportedError, UsageError, did_you_mean
from ..ring import journal, rows
from ..ring.folder import Folder, existing
from ..ring.predicting import skflow_net
from ..ring.predicting.skflow_net import SkflowNet
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


def export(path: str, out: str, model: str | None = None, heads: bool = False, force: bool = False) -> Exported:
    """Write the models of a run as one model.

    Args:
        path: the folder of the run.
        out: NAME.keras, NAME.onnx, or a folder for a SavedModel.
        model: export only this model.
        heads: keep the outputs of each model apart instead of averaging them.
        force: whether to replace `out`.

    Raises:
        UsageError: there is no such model, or `out` cannot be written.
        RefusedError: the models do not share their first layers, or one of them cannot be exported.
    """
    if model is not None and heads:
        raise UsageError("one model has one head", hint="leave out --heads, or --model")
    model_files.check(out, force)
    folder = existing(path)
    spec = loading.load(folder.spec)
    content = journal.load(folder.journal)
    history = content.history
    fixed.check_spec(folder, spec, history)
    folder = folder.storing(spec.suffixes)
    spec = spec.during(history.schedule.part(max(history.round, 1)))  # the models, and the trunk, of the last round
    # After the last whole round all models have the same trunk; those checkpoints stay while the run goes on.
    checkpoints = {name: folder.checkpoint(name, history.whole(name)) for name in spec.names}
    chosen = _chosen(spec, model, folder)
    nets = {each.name: skflow_net.load(checkpoints[each.name]) for each in chosen if each.trainer is None}
    trunk = 0 if model is not None else _trunk_size(spec, checkpoints)
    table = folder.open_table()
    classes = None if table.classes is None else len(table.classes)
    X = np.ascontiguousarray(rows.examples(folder, table, _ROWS))
    with _quiet():
        merged, votes = _merge(folder, chosen, checkpoints, nets, classes, heads, X)
        if merged.shared < trunk:
            raise RefusedError(
                f"the trunk ({spec.selection}) is not at the beginning of every model, so it cannot be stored once",
                path=folder.spec,
                expected=f"{trunk} parameters in the layers that all models begin with",
                found=merged.shared,
                hint="--model exports one model",
            )
        difference = _difference(merged.model, X, votes, heads)
        size = model_files.write(merged.model, out, force)
    return Exported(out, tuple(votes), merged.parameters, merged.separate - merged.parameters, size, len(X), difference)


def _merge(
    folder: Folder,
    chosen: Sequence[Model],
    checkpoints: Mapping[str, str],
    nets: Mapping[str, SkflowNet],
    classes: int | None,
    heads: bool,
    X: NDArray[Any],
) -> tuple[Merged, dict[str, NDArray[np.float64]]]:
    """Return the models as one, and what each of them predicts for the rows X, as `ring predict` computes it."""
    from . import members, merging

    found, votes = [], {}
    for model in chosen:
        if model.name in nets:
            votes[model.name] = nets[model.name].outputs(X)
            found.append(merging.of_net(nets[model.name], model.name, X.shape[1:]))
        else:
            made = members.keras_net(folder.root, model.name)
            votes[model.name] = made.outputs(checkpoints[model.name], X)
            found.append(merging.Member(model.name, made.model, made.logits))
    return merging.merge(found, classes, heads), votes


def _difference(model: Any, X: NDArray[Any], votes: Mapping[str, NDArray[np.float64]], heads: bool) -> float:
    """Return how much the exported model's predictions differ from the models', relative to the largest of them.

    Raises:
        RefusedError: it is more than rounding explains.
    """
    predicted = model.predict_on_batch(X)
    wanted = dict(votes) if heads else {"": np.mean(list(votes.values()), axis=0)}
    found = predicted if heads else {"": predicted}
    largest = max(float(np.abs(each).max(initial=1e-30)) for each in wanted.values())
    apart = max(
        float(np.abs(np.reshape(found[name], each.shape) - each).max(initial=0)) for name, each in wanted.items()
    )
    difference = apart / max(largest, 1.0)
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
        sys.stdout.flush()
        sys.stderr.flush()
        real = [(number, os.dup(number)) for number in (1, 2)]
        for number, _ in real:
            os.dup2(held.fileno(), number)
        try:
            yield
        except CkptSurgeonError:
            raise
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            held.seek(0)
            os.write(real[1][1], held.read())
            raise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, kept in real:
                os.dup2(kept, number)
                os.close(kept)


def _lines(done: Exported) -> list[str]:
    """Return the report as text."""
    names = ", ".join(done.models)
    lines = [f"{done.output}: {names}; {done.parameters:,} parameters, {done.bytes:,} bytes"]
    if len(done.models) > 1:
        share = done.saved / (done.parameters + done.saved)
        lines.append(f"the trunk is stored once, which saves {done.saved:,} parameters ({share:.0%})")
    what = "predictions differ from those of the models by at most"
    return [*lines, f"{what} {done.difference:.1e}, on {done.rows} rows"]


def main(argv: Sequence[str]) -> None:
    """Export, and print what was done; as `ckptsurgeon ring export --help` says."""
    parser = argparse.ArgumentParser(prog="ckptsurgeon ring export", allow_abbrev=False)
    parser.add_argument("folder")
    parser.add_argument("--output", required=True)
    parser.add_argument("--model")
    for flag in ("--heads", "--force", "--json"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args(argv)
    done = export(args.folder, args.output, args.model, args.heads, args.force)
    print(json.dumps(asdict(done)) if args.json else "\n".join(_lines(done)))


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    status = serving.status_of(lambda: main(sys.argv[1:]))
    sys.stdout.flush()
    serving.leave(status)
