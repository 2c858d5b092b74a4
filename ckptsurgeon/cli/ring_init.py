"""The verb `ring init`."""

from __future__ import annotations

import os
import sys

from ..errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from typing import Any

HELP = """ckptsurgeon ring init DIR [--data FILE --target COLUMN --hidden UNITS --layers RANGE [options]] [--force]

Make a run: DIR/ring.toml, the rows in DIR/data, and the first checkpoints. Without --data the ring.toml that is in DIR
already says what to train: write it by hand for models with programs of their own.

  ckptsurgeon ring init R --data iris.csv --target species --models 3 --hidden 10,20,10 --layers 0-1
  ckptsurgeon ring init R --data iris.csv --target species --hidden 10,20,10 --hidden 10,20 --layers 0-1
  ckptsurgeon ring init R
"""

# option -> (table of ring.toml, its key there, metavar, help); "" is the top level, [[models]] go by "models"
_OPTIONS = {
    "--data": ("data", "file", "FILE", "csv with a header, npz or npy"),
    "--target": (
        "data",
        "target",
        "COLUMN",
        "the column to predict: classes, or numbers of which one is no integer",
    ),
    "--layers": ("", "layers", "RANGE", "the trunk, layers that all models share: 0-1"),
    "--schedule": (
        "",
        "schedule",
        "NAME",
        "ring: the trunk goes from model to model; average: their mean goes back; default ring",
    ),
    "--warmup": ("", "warmup", "N", "rounds in which every model trains for itself; default 0"),
    "--slots": (
        "",
        "slots",
        "POLICY",
        "of the trunk's optimizer slots: keep, copy or fill=VALUE; default keep",
    ),
    "--seed": ("", "seed", "N", "all that is random derives from it; default 42"),
    "--durability": (
        "",
        "durability",
        "WHEN",
        "what is synced to disk: each round or each step; default round",
    ),
    "--max-to-keep": ("", "max_to_keep", "N", "checkpoints of each model; default 5"),
    "--batch-size": ("data", "batch_size", "N", "default 32"),
    "--holdout": ("data", "holdout", "SHARE", "of the rows, for 'ring evaluate'; default 0.2"),
    "--tolerance": (
        "stop",
        "tolerance",
        "X",
        "change of the weights at which a model has converged; default 0.01",
    ),
    "--window": ("stop", "window", "N", "rounds over which weights are averaged for that; default 20"),
    "--rounds": ("stop", "rounds", "N", "limit; default 5000"),
    "--trunk-tolerance": ("stop", "trunk_tolerance", "X", "change of the trunk alone at which the run ends"),
    "--patience": ("stop", "patience", "N", "windows without a smaller held-out loss after which the run ends"),
    "--optimizer": ("models", "optimizer", "NAME", "Adagrad, Adam, Momentum or SGD; default Adagrad"),
    "--learning-rate": ("models", "learning_rate", "X", "default 0.1"),
}
_TEXTS = ("file", "target", "layers", "schedule", "slots", "durability", "optimizer")


def add_arguments(parser: ArgumentParser) -> None:
    """The arguments of `ring init`."""
    parser.add_argument("folder", metavar="DIR", help="the folder of the run")
    parser.add_argument("--models", type=int, metavar="M", help="how many; named a, b, c, …")
    parser.add_argument(
        "--hidden",
        action="append",
        metavar="UNITS",
        help="hidden layers of each model, as 10,20,10; given once per model, the nets may differ above the trunk",
    )
    for option, (_, key, metavar, text) in _OPTIONS.items():
        parser.add_argument(option, dest=key, metavar=metavar, help=text)
    parser.add_argument("--force", action="store_true", help="replace a run that is there")


def run(args: Namespace) -> int:
    """Make a run."""
    from ..ring import start
    from ..ring.spec import loading

    table = _table(args)
    parsed = loading.parse(table, os.path.join(args.folder, "ring.toml")) if table else None
    made = start.init(args.folder, parsed, args.force, lambda line: print(f"ckptsurgeon: {line}", file=sys.stderr))
    if sys.stdout.isatty():
        print(f"{args.folder}: models {', '.join(made.names)}; next: ckptsurgeon ring run {args.folder}")
    return 0


def _table(args: Namespace) -> dict[str, Any]:
    """What ring.toml would hold; empty if no option says anything about it.

    Raises:
        UsageError: an option is missing, or there are not as many nets as models.
    """
    given = {option: vars(args)[key] for option, (_, key, _, _) in _OPTIONS.items() if vars(args)[key] is not None}
    given.update({f"--{name}": vars(args)[name] for name in ("models", "hidden") if vars(args)[name] is not None})
    if not given:
        return {}
    if args.target is None and args.file is not None and args.file.endswith(".npz"):
        args.target = given["--target"] = "y"
    missing = [option for option in ("--data", "--target", "--hidden", "--layers") if option not in given]
    if missing:
        hint = "a ring.toml that is there is used without any of them, and changed in an editor"
        raise UsageError(f"ring init: {', '.join(missing)} missing", hint=hint)
    tables: dict[str, Any] = {"": {}, "data": {}, "stop": {}, "models": {}}
    for option, (name, key, _, _) in _OPTIONS.items():
        if option in given:
            tables[name][key] = given[option] if key in _TEXTS else _number(option, given[option])
    tables["data"]["file"] = _relative(args.file, args.folder)
    if args.file.endswith(".npy"):
        tables["data"]["target"] = _relative(args.target, args.folder)
    nets = [[_number("--hidden", unit) for unit in units.split(",")] for units in args.hidden]
    count = args.models if args.models is not None else len(nets)
    if len(nets) not in (1, count):
        raise UsageError("ring init: --hidden is given once, or once per model", expected=count, found=len(nets))
    if count < 2:
        raise UsageError("ring init: a ring needs two models or more", expected="--models 2 or more", found=count)
    models = [
        {"name": _model_name(number), "hidden_units": nets[number % len(nets)], **tables["models"]}
        for number in range(count)
    ]
    return {**tables[""], "data": tables["data"], "stop": tables["stop"], "models": models}


def _number(option: str, text: str) -> int | float:
    """A number as TOML would have it; what range it may have, ring.toml's own check says."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UsageError(f"ring init: {option} is no number", found=repr(text))


def _relative(file: str, folder: str) -> str:
    """A path as ring.toml names it: from its own folder, unless it is absolute."""
    return file if os.path.isabs(file) else os.path.relpath(os.path.abspath(file), os.path.realpath(folder))


def _model_name(number: int) -> str:
    return chr(ord("a") + number) if number < 26 else f"m{number + 1}"
