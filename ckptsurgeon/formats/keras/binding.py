"""What Keras could no longer load after a plan. Pure.

Keras builds a model first, from the config in the file or from a program, and then looks for its weights:

    .keras, .weights.h5   in the group `vars` at the path that the model implies, by number; each layer counts them
    legacy .h5            in the order of `layer_names` and `weight_names`, whatever the names; it counts layers and
                          weights, and compares shapes

So a rename can be made true only in a legacy file, whose lists follow it. An optimizer that finds another number of
variables than it has starts afresh. The ending of a file's name says which of the two layouts Keras expects in it.
Tried on Keras 3.15 and tf_keras 2.21.
"""

from __future__ import annotations

from collections import Counter

from ...errors import RefusedError
from ...names import shown
from .. import payload
from .naming import Arrangement
from .paths import LISTED, OPTIMIZER, TOP, VARS, WEIGHTS, in_config, inside, joined, legacy_root
from .reading import Hdf5

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...plan import Plan
    from .listing import Listing

    Shape = tuple[int, ...]
    Layer = tuple[tuple[str, Shape], ...]  # its weights in order: name before the plan (empty if new), and shape

_HINT = "'extract' or 'convert' to safetensors or npz, where any name is allowed"
_OPAQUE = ("bfloat16", "float8")  # how dtypes begin that HDF5 lacks


class Stored:
    """A variable of a file, before or after a plan.

    Attributes:
        name: its name before the plan; empty if it is new.
        dtype, shape: of its values.
    """

    __slots__ = ("dtype", "name", "shape")

    def __init__(self, name: str, dtype: str, shape: Shape) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape


def binding(plan: Plan, out: str | None, is_zip: bool) -> tuple[RefusedError | None, list[str]]:
    """See `Format.binding`.

    Args:
        plan: the plan.
        out: path of the new file; None: in place.
        is_zip: the result is a .keras file.
    """
    file = plan.recipient
    if not isinstance(file, Hdf5):
        return None, []
    listing = file.listing
    old = {name: Stored(name, each.dtype, each.shape) for name, each in listing.variables.items()}
    new = {
        payload.name_of(each): Stored(
            each.variable.name if each.variable.name in old else "", each.variable.dtype, each.variable.shape
        )
        for each in plan.results()
    }
    is_legacy = legacy_root(listing.groups[0]) is not None
    lost: str | None = None
    warnings: list[str] = []
    hint = _HINT
    if [(name, each.dtype, each.shape) for name, each in old.items()] != [
        (name, each.dtype, each.shape) for name, each in new.items()
    ]:
        lost, warnings = _legacy(listing, old, new, file.path) if is_legacy else _numbered(listing, old, new)
    if lost is None and out is not None and not is_zip and (is_legacy or _groups(old)):
        lost = _misnamed(is_legacy, file.main_file, out)
        hint = f"name it {'OUT.h5' if is_legacy else 'OUT.weights.h5'}"
    if lost is None:
        return None, warnings
    return RefusedError(f"Keras could not load the result: {lost}", path=file.path, hint=hint), warnings


def _misnamed(is_legacy: bool, old: str, out: str) -> str | None:
    """Return a problem if Keras would look for the other layout in a file of this name, but not in the old one."""

    def means_legacy(path: str) -> bool:
        return path.endswith((".h5", ".hdf5")) and not path.endswith(".weights.h5")

    def means_numbered(path: str) -> bool:
        return path.endswith(".weights.h5")

    is_wrong = means_numbered if is_legacy else means_legacy
    if not is_wrong(out) or is_wrong(old):
        return None
    layouts = ("a legacy .h5 file", "a .weights.h5 file")
    one, other = layouts if is_legacy else layouts[::-1]
    return f"it has the layout of {one}, and the name of {other}"


def _made_opaque(old: dict[str, Stored], new: dict[str, Stored]) -> list[str]:
    """Return the variables that get a dtype that HDF5 lacks."""
    return [
        name
        for name, each in new.items()
        if each.dtype.startswith(_OPAQUE) and (each.name not in old or old[each.name].dtype != each.dtype)
    ]


# -- .keras and .weights.h5


def _groups(variables: dict[str, Stored]) -> dict[str, dict[str, Shape]]:
    """Return the groups `vars`, each with the shapes of its numbered datasets."""
    found: dict[str, dict[str, Shape]] = {}
    for name, each in variables.items():
        folder, _, last = name.rpartition("/")
        if folder.rpartition("/")[2] == VARS and last.isdecimal():
            found.setdefault(folder, {})[last] = each.shape
    return found


def _numbered(listing: Listing, old: dict[str, Stored], new: dict[str, Stored]) -> tuple[str | None, list[str]]:
    after, implied = _groups(new), _implied(listing.config)
    lost: list[str] = []
    warnings: list[str] = []
    opaque = _made_opaque(old, new) if _groups(old) else []  # otherwise it is not a file of Keras
    has_names = any(listing.given_name(folder) for folder in _groups(old))
    if opaque and not has_names and not any(each.dtype.startswith(_OPAQUE) for each in old.values()):
        return f"Keras 2, which wrote the file, does not support {new[opaque[0]].dtype} ({shown(opaque)})", warnings
    for folder, shapes in _groups(old).items():
        there = after.get(folder, {})
        top, _, rest = folder.partition("/")
        if there == shapes or (implied and top in LISTED and rest.partition("/")[0] not in implied):
            continue  # as before, or nothing that the model would look for
        if _is_optimizer(folder) and len(there) != len(shapes):
            warnings += [_afresh(folder, len(shapes), len(there))] if there else []
        else:
            lost.append(folder.removesuffix(VARS).rstrip("/") or "the model itself")
    return f"it looks up the weights of {shown(lost)} by path and number" if lost else None, warnings


def _implied(config: object) -> set[str]:
    """Return the names of the groups that a model's config implies for its layers; empty if it does not tell."""
    counts: Counter[str] = Counter()
    found = set()
    for name, _, _ in in_config(config):
        found.add(f"{name}_{counts[name]}" if counts[name] else name)
        counts[name] += 1
    return found


def _is_optimizer(folder: str) -> bool:
    """Return whether a group `vars` belongs to an optimizer, or to one inside another."""
    return any(part.endswith("optimizer") for part in folder.split("/")[:-1])


def _afresh(group: str, expected: int, found: int) -> str:
    return f"Keras will start the optimizer afresh: {group} has {found} of {expected} variables"


# -- legacy .h5


def _legacy(
    listing: Listing, old: dict[str, Stored], new: dict[str, Stored], path: str
) -> tuple[str | None, list[str]]:
    before, after = _Lists(listing, old, path), _Lists(listing, new, path)
    is_short = after.optimizer and len(after.optimizer) != len(before.optimizer)
    warnings = [_afresh(OPTIMIZER, len(before.optimizer), len(after.optimizer))] if is_short else []
    opaque = _made_opaque(old, new)
    if opaque:
        return f"legacy .h5 files cannot hold {new[opaque[0]].dtype} ({shown(opaque)})", warnings
    if after.root != before.root:
        return f"it looks for the layers in {before.root or 'the root group'}", warnings
    if _shapes(after.top) != _shapes(before.top):
        return f"the model needs the weights in {TOP}", warnings
    # A whole model's config says how many layers and weights there are. A file of weights may have fewer layers.
    if before.root == WEIGHTS:
        if list(map(_shapes, after.layers)) != list(map(_shapes, before.layers)):
            lost = [_group(layer) for layer in before.layers if layer not in after.layers]
            return f"its config needs the weights of {shown(lost) or 'no other layers'}", warnings
        return None, warnings
    if len(after.layers) != len(before.layers):
        count = f"{len(after.layers)} of {len(before.layers)} layers are left"
        warnings.append(f"Keras will load the result with by_name=True alone: {count}")
    whole = set(before.layers)
    torn = [_group(layer) for layer in after.layers if _group(layer) and layer not in whole]
    return f"{shown(torn)} would have some of its weights, but not all" if torn else None, warnings


def _shapes(layer: Layer) -> tuple[Shape, ...]:
    return tuple(shape for _, shape in layer)


def _group(layer: Layer) -> str:
    """Return the group of a layer, as it was before the plan."""
    return next((name for name, _ in layer if name), "").rpartition("/")[0]


class _Lists:
    """The layers and weights that a legacy file lists, in order, before or after a plan.

    Args:
        listing: the metadata of the file before the plan.
        variables: of the file, by name.
        path: the path for error messages.

    Attributes:
        root: the group that lists the layers; None if none does.
        layers: those that have weights.
        top, optimizer: the weights of the model itself, and of its optimizer.
    """

    def __init__(self, listing: Listing, variables: dict[str, Stored], path: str) -> None:
        arrangement = Arrangement(listing, [(each.name or None, name) for name, each in variables.items()], path)
        self._variables = variables
        self._changed = arrangement.lists
        self._attributes = {new: listing.groups[0].get(old, {}) for part, old, new in arrangement.groups if part == 0}
        self.root = next((root for root in (WEIGHTS, "") if self._list(root, "layer_names") is not None), None)
        names = self._list(self.root or "", "layer_names") or []
        self.layers = [layer for each in names if (layer := self._layer(inside(self.root or "", each)))]
        self.top = self._layer(inside(self.root or "", TOP))
        self.optimizer = self._layer(OPTIMIZER)

    def _list(self, group: str, name: str) -> list[str] | None:
        changed = self._changed.get(group, {}).get(name)
        return joined(self._attributes.get(group, {}), name) if changed is None else changed

    def _layer(self, group: str) -> Layer:
        names = [inside(group, each) for each in self._list(group, "weight_names") or []]
        found = [self._variables.get(name) for name in names]
        return tuple((each.name, each.shape) if each else ("", ()) for each in found)
