"""What group and attribute names in Keras HDF5 files mean: layers, and their numbered weights. Pure.

Keras 3 names groups `layers/<class>[_n]`, or in subclassed models `<attribute>` or `<attribute>/<class>[_n]`; each has
a group `vars` with numbered datasets. Legacy files list layers and weights by name. Observed on Keras 3.15
and tf_keras 2.21.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WEIGHTS, OPTIMIZER = "model_weights", "optimizer_weights"
TOP = "top_level_model_weights"
VARS = "vars"
LISTED = (
    "layers",
    "_layer_checkpoint_dependencies",
)  # all members are layers; the second is from TF 2.12
COUNTER = re.compile(r"_[1-9][0-9]{0,8}\Z")

# Class -> the meanings of the numbers in `vars`, for each possible number of weights.
MEANINGS = {
    "dense": (("kernel",), ("kernel", "bias"), ("kernel", "bias", "kernel_scale")),
    "batch_normalization": (("gamma", "beta", "moving_mean", "moving_variance"),),
    "layer_normalization": (("gamma", "beta"),),
    "embedding": (("embeddings",),),
    "depthwise_conv2d": (("depthwise_kernel",), ("depthwise_kernel", "bias")),
    "separable_conv2d": (("depthwise_kernel", "pointwise_kernel"), ("depthwise_kernel", "pointwise_kernel", "bias")),
    "cell": (("kernel", "recurrent_kernel"), ("kernel", "recurrent_kernel", "bias")),  # in LSTM, GRU, SimpleRNN
}
for _same in ("conv1d", "conv2d", "conv3d", "conv1d_transpose", "conv2d_transpose", "conv3d_transpose", "einsum_dense",
              "query_dense", "key_dense", "value_dense", "output_dense"):  # fmt: skip
    MEANINGS[_same] = MEANINGS["dense"][:2]


def joined(attributes: dict[str, object], name: str) -> list[str] | None:
    """Return a list of names, from one attribute or from several numbered ones; None if it is missing."""
    whole = attributes.get(name)
    if isinstance(whole, list):
        return [str(each) for each in whole]
    found: list[str] = []
    number = 0
    while isinstance(piece := attributes.get(f"{name}{number}"), list):
        found += [str(each) for each in piece]
        number += 1
    return found if number else None


def legacy_root(groups: dict[str, dict[str, object]]) -> str | None:
    """Return the group that lists a legacy file's layers: `model_weights` in a whole model, otherwise the root."""
    for root in (WEIGHTS, ""):
        if root in groups and joined(groups[root], "layer_names") is not None:
            return root
    return None


def inside(folder: str, name: str) -> str:
    """Return the path of a member of a group."""
    return f"{folder}/{name}" if folder else name


def owner_of(name: str, groups: Iterable[str]) -> str | None:
    """Return the innermost of the given groups that contains a dataset, or None."""
    known = groups if isinstance(groups, dict | set) else set(groups)
    at = len(name)
    while (at := name.rfind("/", 0, at)) > 0:
        if name[:at] in known:
            return name[:at]
    return None


def is_container(inner: list[str], names_layers: bool) -> bool:
    """Return whether a group is a list of layers, not a layer: it has no group `vars`.

    Recent releases give every layer a group `vars`; in older files, a list is recognised by its numbered members.
    """
    if VARS in inner or not inner:
        return False
    return names_layers or any(COUNTER.sub("", each) in inner for each in inner if COUNTER.search(each))


def class_of(path: str) -> str:
    """Return the class of a layer, or the attribute that holds it, from its group's name."""
    return COUNTER.sub("", path.rpartition("/")[2]).lstrip("_")


def snake_case(name: str) -> str:
    """Convert a class name to the form that Keras uses in paths."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def in_config(config: object) -> list[tuple[str, str, bool]]:
    """Return the layers in a model's config: class name as in group names, layer name, and whether it is trained."""
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    found = []
    for each in layers if isinstance(layers, list) else []:
        if not isinstance(each, dict) or not isinstance(each.get("class_name"), str):
            return []
        own = each.get("config")
        name = own.get("name") if isinstance(own, dict) else each.get("name")
        trained = not isinstance(own, dict) or own.get("trainable", True) is not False
        found.append((snake_case(each["class_name"][:1000]), str(name), trained))
    return found
