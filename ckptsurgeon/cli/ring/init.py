"""The verb `ring init`."""

from __future__ import annotations

import os
import sys

from ...errors import UsageError
from .. import render
from ..streams import complain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..parser import Arguments, Parser

HELP = """ckptsurgeon ring init DIR [--data FILE --target COLUMN --hidden UNITS --layers RANGE [options]] [--force]

Create a run: DIR/ring.toml, the rows in DIR/data, and the initial checkpoints. Without --data, the existing
DIR/ring.toml is used: write it by hand if models have trainers of their own.

  ckptsurgeon ring init R --data iris.csv --target species --models 3 --hidden 10,20,10 --layers 0-1
  ckptsurgeon ring init R --data iris.csv --target species --hidden 10,20,10 --hidden 10,20 --layers 0-1
  ckptsurgeon ring init R --data digits.npz --trainer model.py:build --models 5 --layers 0-3
  ckptsurgeon ring init R --data batches.py:batches --classes 10 --models 3 --hidden 32,16 --layers 0
  ckptsurgeon ring init R
"""

# option -> (table of ring.toml, its key there, metavar, help); "" is the top level, [[models]] go by "models"
_OPTIONS = {
    "--data": (
        "data",
        "file",
        "FILE",
        "csv with a header, parquet, npz, npy, a folder with one subfolder of images per class, or file.py:function",
    ),
    "--target": (
        "data",
        "target",
        "COLUMN",
        "the column to predict: numbers that are not all integers, or else classes; not for images",
    ),
    "--layers": ("", "layers", "RANGE", "the trunk: the layers that all models share, such as 0-1"),
    "--device": ("", "device", "DEVICE", "cpu or gpu:N; default: the models get the visible GPUs in turn"),
    "--schedule": (
        "",
        "schedule",
        "NAME",
        "ring: graft the trunk from model to model; average: graft the mean of all trunks; default ring",
    ),
    "--warmup": ("", "warmup", "N", "rounds of training before the models share the trunk; default 0"),
    "--slots": (
        "",
        "slots",
        "POLICY",
        "what to do with the trunk's optimizer slots: keep, copy or fill=VALUE; default keep",
    ),
    "--seed": ("", "seed", "N", "seed of everything random; default 42"),
    "--durability": (
        "",
        "durability",
        "WHEN",
        "sync to disk after each round or each step; default round",
    ),
    "--max-to-keep": ("", "max_to_keep", "N", "checkpoints to keep of each model; default 5"),
    "--batch-size": ("data", "batch_size", "N", "rows of a mini-batch; default 32"),
    "--holdout": ("data", "holdout", "SHARE", "share of the rows to hold out for 'ring evaluate'; default 0.2"),
    "--classes": ("data", "classes", "N", "number of classes that a Python function returns; default: y holds values"),
    "--held-out": (
        "data",
        "held_out",
        "FUNCTION",
        "the function in the same file that returns rows for 'ring evaluate'",
    ),
    "--tolerance": (
        "stop",
        "tolerance",
        "X",
        "a model has converged when its weights change by at most this; default 0.01",
    ),
    "--window": ("stop", "window", "N", "rounds over which weights are averaged to measure the change; default 20"),
    "--rounds": ("stop", "rounds", "N", "maximum number of rounds; default 5000"),
    "--trunk-tolerance": ("stop", "trunk_tolerance", "X", "end the run when the trunk changes by at most this"),
    "--patience": ("stop", "patience", "N", "end the run after this many windows without a smaller held-out loss"),
    "--format": ("models", "format", "NAME", "checkpoints of a --trainer: bundle, weights.h5, keras; default bundle"),
    "--optimizer": ("models", "optimizer", "NAME", "Adagrad, Adam, Momentum or SGD; default Adagrad"),
    "--learning-rate": ("models", "learning_rate", "X", "default 0.1"),
}
_TEXTS = ("file", "target", "held_out", "layers", "schedule", "slots", "durability", "optimizer", "format", "device")


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `ring init`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    parser.add_argument("--models", type=int, metavar="M", help="number of models; named a, b, c, …")
    parser.add_argument(
        "--hidden",
        action="append",
        metavar="UNITS",
        help="hidden layers of all models, such as 10,20,10; or once per model, if they differ above the trunk",
    )
    parser.add_argument(
        "--trainer",
        action="append",
        metavar="FILE.py:FUNCTION",
        help="the function that builds a Keras model, instead of --hidden; once, or once per model",
    )
    parser.add_argument(
        "--match",
        action="append",
        metavar="GLOB",
        help="the trunk by names of variables, instead of --layers; may be repeated",
    )
    for option, (_, key, metavar, text) in _OPTIONS.items():
        parser.add_argument(option, dest=key, metavar=metavar, help=text)
    parser.add_argument("--force", action="store_true", help="replace an existing run")


def run(args: Arguments) -> int:
    """Create a run."""
    from ...ring import start
    from ...ring.spec import loading

    table = _table(args)
    parsed = loading.parse(table, os.path.join(args.folder, "ring.toml")) if table else None
    made = start.init(args.folder, parsed, args.force, complain)
    if sys.stdout.isatty():
        folder = render.text(args.folder)
        print(f"{folder}: models {', '.join(made.names)}; next: ckptsurgeon ring run {folder}")
    return 0


def _table(args: Arguments) -> dict[str, Any]:
    """Return the contents of ring.toml; empty if no option sets any of its keys.

    Raises:
        UsageError: an option is missing, or the number of --hidden does not match the number of models.
    """
    given = {option: vars(args)[key] for option, (_, key, _, _) in _OPTIONS.items() if vars(args)[key] is not None}
    others = ("models", "hidden", "trainer", "match")
    given.update({f"--{name}": vars(args)[name] for name in others if vars(args)[name] is not None})
    if not given:
        return {}
    from ...ring.spec import toml_keys

    target = args.target
    if target is None and args.file is not None and args.file.endswith(".npz"):
        target = given["--target"] = "y"
    # images have their class in their path, and a Python function returns the target
    without = args.file is not None and (os.path.isdir(args.file) or toml_keys.SOURCE.fullmatch(args.file))
    needed = (("--data",), *(() if without else (("--target",),)), ("--hidden", "--trainer"), ("--layers", "--match"))
    missing = [" or ".join(options) for options in needed if not given.keys() & set(options)]
    if missing:
        hint = "to use an existing ring.toml, give none of these options"
        raise UsageError(f"ring init: {', '.join(missing)} missing", hint=hint)
    tables: dict[str, Any] = {"": {}, "data": {}, "stop": {}, "models": {}}
    for option, (name, key, _, _) in _OPTIONS.items():
        if option in given:
            tables[name][key] = given[option] if key in _TEXTS else _number(option, given[option])
    tables["data"]["file"] = _relative(args.file, args.folder)
    if target is not None and args.file.endswith(".npy"):
        tables["data"]["target"] = _relative(target, args.folder)
    if args.hidden and args.trainer:
        raise UsageError("ring init: give either --hidden or --trainer", hint="ring.toml may have models of both kinds")
    nets: list[dict[str, Any]] = [
        *({"hidden_units": [_number("--hidden", unit) for unit in units.split(",")]} for units in args.hidden or ()),
        *({"trainer": _function(text, args.folder)} for text in args.trainer or ()),
    ]
    if args.match:
        tables[""]["match"] = args.match
    count = args.models if args.models is not None else len(nets)
    if len(nets) not in (1, count):
        option = "--hidden" if args.hidden else "--trainer"
        raise UsageError(f"ring init: give {option} once, or once per model", expected=count, found=len(nets))
    if count < 2:
        raise UsageError("ring init: a ring needs at least two models", expected="--models 2 or more", found=count)
    models = [{"name": _model_name(number), **nets[number % len(nets)], **tables["models"]} for number in range(count)]
    return {**tables[""], "data": tables["data"], "stop": tables["stop"], "models": models}


def _number(option: str, text: str) -> int | float:
    """Return a number as TOML would read it; the check of ring.toml checks its range."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UsageError(f"ring init: {option} is not a number", found=repr(text))


def _relative(file: str, folder: str) -> str:
    """Return a path relative to the folder of ring.toml, unless it is absolute."""
    return file if os.path.isabs(file) else os.path.relpath(os.path.abspath(file), os.path.realpath(folder))


def _function(text: str, folder: str) -> str:
    """Return a function with the path of its file relative to the folder of ring.toml."""
    place, colon, name = text.rpartition(":")
    return f"{_relative(place, folder)}{colon}{name}" if place.endswith(".py") else text


def _model_name(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"m{number + 1}"
