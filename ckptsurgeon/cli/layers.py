"""The verb `layers`."""

from __future__ import annotations

from .. import formats, schemes
from . import render
from .ls import parameters
from .parser import add_checkpoint, add_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..checkpoint import Checkpoint, Variable

HELP = """ckptsurgeon layers CKPT [--scheme PATTERN] [--json]

List the layers of a checkpoint, by every scheme that fits its names; the rest comes last, as layer -. Where no known
scheme fits, the schemes are those that the names suggest; each is called by its pattern, which --scheme takes.

  ckptsurgeon layers model.ckpt
  ckptsurgeon layers model.ckpt --json
  ckptsurgeon layers model.ckpt --scheme 'dnn/layer{K}/Linear/*'
"""


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `layers`."""
    add_checkpoint(parser)
    parser.add_argument("--scheme", metavar="PATTERN", help="how layers are named: 'tower/{K}/**', or a scheme's name")
    add_json(parser)


def run(args: Namespace) -> int:
    """List layers."""
    with formats.open(args.checkpoint) as checkpoint:
        if args.scheme:
            fit = [schemes.find(checkpoint, args.scheme)]
        else:
            fit = schemes.fitting(checkpoint) or schemes.inferred(checkpoint)
        rows = _rows(checkpoint, fit)
    render.emit(rows, ["layer", "scheme", "variables", "parameters", "bytes"], args.json)
    return 0


def _rows(checkpoint: Checkpoint, fit: list[schemes.Scheme]) -> list[dict[str, object]]:
    slots = schemes.slots(checkpoint)
    rest = dict(checkpoint.variables)
    rows = []
    for scheme in fit:
        for number, variables in scheme.layers(checkpoint).items():
            rows.append(_row(checkpoint, number, scheme.name, variables, slots))
            for variable in variables:
                rest.pop(variable.name, None)
    if rest:
        rows.append(_row(checkpoint, None, None, list(rest.values()), slots))
    return rows


def _row(
    checkpoint: Checkpoint, number: int | None, scheme: str | None, variables: list[Variable], slots: dict[str, str]
) -> dict[str, object]:
    sizes = [checkpoint.nbytes(variable) for variable in variables]
    return {
        "layer": number,
        "scheme": scheme,
        "variables": len(variables),
        "parameters": parameters(variables, slots),
        "bytes": None if None in sizes else sum(size or 0 for size in sizes),
    }
