"""ckptsurgeon: inspect and edit model checkpoints without a deep-learning framework.

    with ckptsurgeon.open("model.ckpt") as checkpoint:
        checkpoint.read("dnn/layer0/Linear/Bias")
    ckptsurgeon.graft("src.ckpt", "dst.ckpt", layers="0-2")

Each name is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

__version__ = "0.1.0"

_HOMES = {
    "CkptSurgeonError": "errors",
    "CkptSurgeonWarning": "errors",
    "Checkpoint": "checkpoint",
    "GraftOptions": "surgeon.options",
    "Variable": "checkpoint",
    "average": "verbs.producing",
    "cast": "verbs.changing",
    "checkpoints": "verbs.listing",
    "compact": "verbs.reclaiming",
    "convert": "verbs.producing",
    "cp": "verbs.producing",
    "diff": "verbs.looking",
    "drop": "verbs.changing",
    "extract": "verbs.producing",
    "forget": "verbs.reclaiming",
    "get": "verbs.looking",
    "graft": "verbs.changing",
    "layers": "verbs.listing",
    "log": "verbs.undoing",
    "ls": "verbs.listing",
    "open": "formats",
    "rename": "verbs.changing",
    "set": "verbs.changing",
    "show": "verbs.looking",
    "skflow": "",
    "total": "verbs.listing",
    "tree": "verbs.listing",
    "undo": "verbs.undoing",
    "verify": "verbs.looking",
}

__all__ = [
    "Checkpoint",
    "CkptSurgeonError",
    "CkptSurgeonWarning",
    "GraftOptions",
    "Variable",
    "average",
    "cast",
    "checkpoints",
    "compact",
    "convert",
    "cp",
    "diff",
    "drop",
    "extract",
    "forget",
    "get",
    "graft",
    "layers",
    "log",
    "ls",
    "open",
    "rename",
    "set",
    "show",
    "skflow",
    "total",
    "tree",
    "undo",
    "verify",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if not _HOMES[name]:
        return import_module(f"{__name__}.{name}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
