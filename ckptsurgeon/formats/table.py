"""The table of formats, one line each, in the order in which a path is tested against them."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..checkpoint import Checkpoint
    from .format import Format

# Each row: the name in listings, the name for `--to` (None: not written by `convert`), the file name endings that
# select the format, and the module of this package whose attribute FORMAT fulfils the contract of format.py. Modules
# are imported on demand, so that a listing imports only the format that it needs.
ROWS = (
    ("tf-v2", "bundle", (), "bundle.format"),
    ("saved-model", None, (), "bundle.saved_model"),
    ("tf-v1", "v1", (), "v1.format"),
    ("safetensors", "safetensors", (".safetensors",), "safetensors.format"),
    ("npz", "npz", (".npz",), "npz.format"),
    ("npy", "npy", (".npy",), "npz.npy_format"),
    ("hdf5", "hdf5", (".h5", ".hdf5"), "keras.format"),
    ("keras-zip", "keras", (".keras",), "keras.zip_format"),
    ("torch", None, (".pt", ".pth"), "torch.format"),
)

DEFAULT = "tf-v2"  # the format of names without an ending, like TensorFlow's
STREAMED = "safetensors"  # the format of checkpoints in pipes

_MODULES = {name: module for name, _, _, module in ROWS}
_loaded: dict[str, Format] = {}


def of(name: str) -> Format:
    """The format with this name in the table."""
    found = _loaded.get(name)
    if found is None:
        module = __import__(f"{__package__}.{_MODULES[name]}", fromlist=["FORMAT"])  # importlib takes longer
        found = _loaded[name] = module.FORMAT
    return found


def of_checkpoint(checkpoint: Checkpoint) -> Format:
    """The format of an open checkpoint."""
    return of(checkpoint.container)


def in_order() -> Iterator[Format]:
    """All formats, in the order in which a path is tested against them."""
    return (of(name) for name in _MODULES)


def written() -> dict[str, str]:
    """The formats that `convert` writes: name for `--to` -> name in the table."""
    return {to: name for name, to, _, _ in ROWS if to is not None}


def by_ending(path: str) -> str | None:
    """The name of the format that the ending of a path selects; None if the ending belongs to no format."""
    ending = os.path.splitext(path)[1]
    return next((name for name, _, endings, _ in ROWS if ending in endings), None)
