"""Finds the variable each Keras optimizer slot belongs to: by name in legacy files, otherwise by order. Pure.

`slot_layouts` has the orders in which optimizers store their slots. Weights are in model order. A layer's own weights
precede those of its sublayers, which follow the order in which the layer's class creates them, not the order of the
file. Observed on Keras 3.15 and tf_keras 2.21.
"""

from __future__ import annotations

from .paths import LISTED, MEANINGS, OPTIMIZER, VARS, class_of, in_config, is_container
from .slot_fitting import Fitting, Layer, TooManyWays
from .slot_layouts import WRAPPED, Optimizer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .listing import Listing

_NUMBERED = "optimizer"
_MOST_STEPS = 1 << 20
_SCALARS_OF_WRAPPER = 4  # iteration, learning rate, step counter, scale
VAGUE = "?"

# Sublayers in the order in which their layer's class creates them; other sublayers are in lists, or the only one.
_PARTS = ("forward_layer", "backward_layer", "query_dense", "key_dense", "value_dense", "output_dense")


def by_name(listing: Listing, names: dict[str, str]) -> dict[str, str]:
    """Match slots by name.

    Keras 3: `adam/<variable with _ for />_momentum`; Keras 2: `Adam/m/<variable>:0`, `Adam/<variable>/m:0`.
    """
    weights: dict[str, str] = {}
    for name, told in names.items():
        if not name.startswith(f"{OPTIMIZER}/"):
            weights.setdefault(told, name)
    flat: dict[str, str | None] = {}
    for told, name in weights.items():
        key = told.replace("/", "_")
        flat[key] = None if key in flat else name  # a/b_c and a_b/c
    found: dict[str, str] = {}
    steps = _MOST_STEPS
    for name, variable in listing.variables.items():
        if not name.startswith(f"{OPTIMIZER}/"):
            continue
        path = names[name]
        last, owner = path.rpartition("/")[2], None
        at = len(last)
        while owner is None and steps > 0 and (at := last.rfind("_", 0, at)) > 0:
            steps -= 1 + at // 64  # what comparing so long a text costs
            if last[:at] in flat:
                owner = flat[last[:at]]
                break
        parts = path.split("/")
        for start, end in ((start, end) for start in range(1, len(parts)) for end in (len(parts), len(parts) - 1)):
            steps -= 1
            if owner is not None or steps < 0:
                break
            owner = weights.get("/".join(parts[start:end])) if start < end else None
        if owner is not None and listing.variables[owner].shape == variable.shape:
            found[name] = owner
    return found


def by_order(listing: Listing, table: dict[str, int]) -> dict[str, tuple[str, str]]:
    """Match slots by number, where all ways in which the shapes fit agree.

    Which layers are trained is known from a model's config. Where the config is missing, or does not fit, any layer may
    be frozen.

    Args:
        listing: the checkpoint's metadata.
        table: name of a weight -> number of its layer.

    Returns:
        Slot -> its weight, and its kind (momentum, average, …): empty if the optimizer's class is unknown, `VAGUE` if
        the slot may be of different kinds.
    """
    config = listing.config.get("compile_config") if isinstance(listing.config, dict) else None
    optimizer = Optimizer(
        listing.given_name(f"{_NUMBERED}/{VARS}"), config.get("optimizer") if isinstance(config, dict) else None
    )
    if any(name.startswith(f"{_NUMBERED}/optimizers/") for name in listing.variables):
        return {}  # several optimizers, each with some of the weights
    if not optimizer.is_wrapper:
        return _matched(listing, table, f"{_NUMBERED}/{VARS}/", optimizer, 0)
    inner = Optimizer(listing.given_name(f"{_NUMBERED}/{WRAPPED}/{VARS}"), optimizer.options.get(WRAPPED))
    found = _matched(listing, table, f"{_NUMBERED}/{VARS}/", inner, _SCALARS_OF_WRAPPER)
    again = _matched(listing, table, f"{_NUMBERED}/{WRAPPED}/{VARS}/", inner, 0)
    return found | again if len(found) == len(again) else {}


def _matched(
    listing: Listing, table: dict[str, int], folder: str, optimizer: Optimizer, skipped: int
) -> dict[str, tuple[str, str]]:
    """Match the numbered variables of one folder, the first of which are not the optimizer's."""
    shapes: list[tuple[int, ...]] = []
    while (variable := listing.variables.get(f"{folder}{len(shapes)}")) is not None:
        shapes.append(variable.shape)
    if any(shapes[:skipped]):
        return {}
    layers = list(_trained(listing, table, optimizer))
    meanings: dict[int, set[tuple[str, str, str]]] = {}
    for as_configured in (True, False) if in_config(listing.config) else (False,):
        fitting = Fitting(shapes[skipped:], layers, as_configured)
        try:
            for layout in optimizer.layouts():
                fitting.add(layout)
        except TooManyWays:
            return {}
        meanings = fitting.meanings
        if meanings:
            break
    found: dict[str, tuple[str, str]] = {}
    for number, each in meanings.items():
        names, kinds, places = ({meaning[at] for meaning in each} for at in range(3))
        if len(names) == 1 and "" not in names:
            kind = VAGUE if len(places) > 1 else ""
            if optimizer.kind:
                kind = VAGUE if len(kinds) > 1 else kinds.pop()
            found[f"{folder}{number + skipped}"] = (names.pop(), kind)
    return found


def _trained(listing: Listing, table: dict[str, int], optimizer: Optimizer) -> Iterator[Layer]:
    """Yield the trained weights of each layer; those of subclassed models as one layer."""
    by_layer: dict[int, list[str]] = {}
    is_list = all(name.startswith(tuple(f"{each}/" for each in LISTED)) for name in table)
    frozen = {name for _, name, trained in in_config(listing.config) if not trained}
    for name, number in table.items():
        by_layer.setdefault(number if is_list else 0, []).append(name)
    for number in sorted(by_layer):
        names, is_ordered = _in_layer(listing, by_layer[number])
        unit = "/".join(names[0].split("/")[:2])
        is_frozen = is_list and listing.given_name(f"{unit}/{VARS}") in frozen
        names = [name for name in names if _is_trained(listing, name)]
        shapes = [listing.variables[name].shape for name in names]
        has_two = [_is_like_adam(listing, name, optimizer) for name in names]
        yield Layer(names, shapes, is_ordered and is_list, is_frozen, has_two)


def _is_like_adam(listing: Listing, name: str, optimizer: Optimizer) -> bool | None:
    """Return whether Muon treats a matrix as Adam does, which depends on the weight's path; None if unknown."""
    options, folder = optimizer.options, name.rpartition("/")[0]
    if not options or options.get("exclude_layers"):
        return None
    parts = folder.split("/")
    told = (listing.given_name("/".join([*parts[:depth], VARS])) for depth in range(len(parts)))
    is_embedding = any("embedding" in each.lower() for each in (*parts, *filter(None, told)))
    if is_embedding:
        return bool(options.get("exclude_embeddings"))
    return False if class_of(folder.rpartition("/")[0]) in MEANINGS else None


def _in_layer(listing: Listing, names: list[str]) -> tuple[list[str], bool]:
    """Return the weights of a layer in the layer's own order, and whether that order is certain."""
    certain = True
    children: dict[str, dict[str, tuple[int, int]]] = {}  # group -> its subgroups, and where each begins
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts) - 1):
            inside = children.setdefault("/".join(parts[:depth]), {})
            place = listing.place_of(name)
            inside[parts[depth]] = min(inside.get(parts[depth], place), place)
    ranks: dict[str, tuple[int, int, int]] = {}
    names_layers = any(listing.given_name(name.rpartition("/")[0]) for name in names)
    for folder, inside in children.items():
        others = [each for each in inside if each != VARS]
        if not (folder.endswith(tuple(LISTED)) or len(others) < 2):
            groups = [*inside, VARS] if _has_place(listing, folder) else [*inside]
            is_list = folder.endswith("/cells") or is_container(groups, names_layers)
            certain &= is_list or all(each.lstrip("_") in _PARTS for each in others)
        for each, place in inside.items():
            bare = each.lstrip("_")
            own = -1 if each == VARS else _PARTS.index(bare) if bare in _PARTS else len(_PARTS)
            ranks[f"{folder}/{each}"] = (own, *place)
    order: dict[str, list[tuple[int, int, int]]] = {}
    for name in names:
        parts = name.split("/")
        steps = [ranks["/".join(parts[:depth])] for depth in range(2, len(parts))]
        order[name] = [*steps, (int(parts[-1]) if parts[-1].isdecimal() and len(parts[-1]) < 10 else 0, 0, 0)]
    return sorted(names, key=order.__getitem__), certain


def _has_place(listing: Listing, folder: str) -> bool:
    """Return whether a group has a place for weights of its own."""
    return any(f"{folder}/{VARS}" in each for each in listing.groups)


def _is_trained(listing: Listing, name: str) -> bool:
    """Return whether an optimizer trains a weight, judging by its layer's class."""
    folder, _, number = name.rpartition("/")
    layer = folder.rpartition("/")[0]
    told = listing.given_name(folder)
    kinds = {class_of(layer), class_of(told) if told else ""}
    if "float" not in listing.variables[name].dtype or kinds & {"normalization", "spectral_normalization"}:
        return False
    if "batch_normalization" in kinds and number.isdecimal():
        count = sum(f"{folder}/{at}" in listing.variables for at in range(4))
        return int(number) < count - 2  # the mean and the variance come last
    return not layer.rpartition("/")[2].startswith("seed_generator")


def name_of(listing: Listing, name: str, owner: tuple[str, str], names: dict[str, str]) -> str | None:
    """Return the name that Keras gives to a numbered slot: `adam/dense_kernel_momentum`; None if unknown.

    Args:
        listing: the checkpoint's metadata.
        name: of the slot.
        owner: its weight, and its kind.
        names: full names of weights.
    """
    weight, kind = owner
    told = listing.given_name(name.rpartition("/")[0])
    if not told or weight not in names or kind in ("", VAGUE):
        return None
    return f"{told}/{names[weight].replace('/', '_')}_{kind}"
