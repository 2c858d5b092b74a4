"""Finds the variable each Keras optimizer slot belongs to: by name in legacy files, otherwise by order. Pure.

An optimizer of Keras 3 or tf_keras stores one or two scalars, then the slots: either all slots of the first trained
weight, then of the next, or the first slot of all weights, then the second. Weights are in model order. A layer's own
weights precede those of its sublayers, which follow the order in which the layer's class creates them, not the order of
the file. Observed on Keras 3.15 and tf_keras 2.21.
"""

from __future__ import annotations

from .paths import COUNTER, LISTED, OPTIMIZER, VARS, class_of, in_config, is_container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .listing import Listing

_FOLDER = f"optimizer/{VARS}/"
_MOST_STEPS = 1 << 20

# For each Keras 3 optimizer: the slots stored together for each weight; in _THEN, those stored after all of these.
SLOTS = {
    "adam": ("momentum", "velocity"), "adamw": ("momentum", "velocity"), "nadam": ("momentum", "velocity"),
    "lamb": ("momentum", "velocity"), "adamax": ("momentum", "norm"), "sgd": ("momentum",), "lion": ("momentum",),
    "adagrad": ("accumulator",), "rmsprop": ("velocity",), "rm_sprop": ("velocity",),
    "adadelta": ("accumulated_grad", "accumulated_delta_var"), "ftrl": ("accumulator", "linear"),
}  # fmt: skip
_THEN = {"adam": ("velocity_hat",), "adamw": ("velocity_hat",)}

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
    flat = {told.replace("/", "_"): name for told, name in weights.items()}
    found: dict[str, str] = {}
    steps = _MOST_STEPS
    for name, variable in listing.variables.items():
        if not name.startswith(f"{OPTIMIZER}/"):
            continue
        path = names[name]
        last, owner = path.rpartition("/")[2], None
        at = len(last)
        while owner is None and steps > 0 and (at := last.rfind("_", 0, at)) > 0:
            steps -= 1
            owner = flat.get(last[:at])
        parts = path.split("/")
        for start, end in ((start, end) for start in range(1, len(parts)) for end in (len(parts), len(parts) - 1)):
            steps -= 1
            if owner is not None or steps < 0:
                break
            owner = weights.get("/".join(parts[start:end])) if start < end else None
        if owner is not None and listing.variables[owner].shape == variable.shape:
            found[name] = owner
    return found


def by_order(listing: Listing, table: dict[str, int]) -> dict[str, str]:
    """Match slots by number, if their shapes fit the weights in exactly one way.

    Args:
        listing: the checkpoint's metadata.
        table: name of a weight -> number of its layer.
    """
    shapes: list[tuple[int, ...]] = []
    while (variable := listing.variables.get(f"{_FOLDER}{len(shapes)}")) is not None:
        shapes.append(variable.shape)
    layers = list(_trained(listing, table))
    weights = sum(len(names) for names, _ in layers)
    kinds = SLOTS.get(COUNTER.sub("", listing.given_name(_FOLDER[:-1]) or ""))
    ways = [
        found
        for scalars in (2, 1)
        for numbers in _arrangements(len(shapes) - scalars, weights, len(kinds) if kinds else 0)
        if not any(shapes[:scalars])
        and (found := _fitted(listing, layers, [[at + scalars for at in each] for each in numbers], shapes)) is not None
    ]
    if not ways or any(way != ways[0] for way in ways):
        return {}
    return {f"{_FOLDER}{number}": name for number, name in ways[0].items()}


def _arrangements(slots: int, weights: int, together: int) -> Iterator[list[list[int]]]:
    """Yield the possible layouts of the slots: for each weight, the numbers of its slots.

    Args:
        slots: number of slots.
        weights: number of weights.
        together: number of slots of one weight that are adjacent; 0 if unknown.
    """
    each = slots // weights if weights else 0
    if not 1 <= each <= 4 or slots - each * weights not in (0, 1):  # Nadam has a scalar at its end
        return
    for side in [together] if together else [1, 2]:
        for before in (0, 1):  # averages of weights come first
            if before + side <= each:
                start, end = before * weights, (before + side) * weights
                blocks = [*range(before), *range(before + side, each)]
                yield [
                    [*range(start + at * side, start + (at + 1) * side)]
                    + [(block * weights if block < before else end + (block - before - side) * weights) + at
                       for block in blocks]
                    for at in range(weights)
                ]  # fmt: skip


def _fitted(
    listing: Listing, layers: list[tuple[list[str], bool]], numbers: list[list[int]], shapes: list[tuple[int, ...]]
) -> dict[int, str] | None:
    """Return slot number -> weight for one layout; None if the shapes do not fit."""
    found: dict[int, str] = {}
    at = 0
    for names, is_ordered in layers:
        mine = numbers[at : at + len(names)]
        at += len(names)
        if any(shapes[number] != shapes[each[0]] for each in mine for number in each):
            return None
        wanted = [listing.variables[name].shape for name in names]
        given = [shapes[each[0]] for each in mine]
        if sorted(wanted) != sorted(given) or (is_ordered and wanted != given):
            return None
        for shape, each in zip(given, mine, strict=True):
            if is_ordered:
                found.update(dict.fromkeys(each, names[mine.index(each)]))
            elif given.count(shape) == 1:
                found.update(dict.fromkeys(each, names[wanted.index(shape)]))
    return found


def _trained(listing: Listing, table: dict[str, int]) -> Iterator[tuple[list[str], bool]]:
    """Yield the trained weights of each layer, and whether their order is certain; one group for subclassed models."""
    by_layer: dict[int, list[str]] = {}
    is_list = all(name.startswith(tuple(f"{each}/" for each in LISTED)) for name in table)
    frozen = {name for _, name, trained in in_config(listing.config) if not trained}
    for name, number in table.items():
        by_layer.setdefault(number if is_list else 0, []).append(name)
    for number in sorted(by_layer):
        names, is_ordered = _in_layer(listing, by_layer[number])
        unit = "/".join(names[0].split("/")[:2])
        if not (is_list and listing.given_name(f"{unit}/{VARS}") in frozen):
            yield [name for name in names if _is_trained(listing, name)], is_ordered and is_list


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


def name_of(listing: Listing, name: str, owners: dict[str, str], names: dict[str, str]) -> str | None:
    """Return the name that Keras gives to a numbered slot: `adam/dense_kernel_momentum`; None if unknown."""
    owner = owners.get(name)
    if owner is None or not name.startswith(_FOLDER) or owner not in names:
        return None
    told = listing.given_name(_FOLDER[:-1]) or ""
    optimizer = COUNTER.sub("", told)
    kinds, then = SLOTS.get(optimizer, ()), _THEN.get(optimizer, ())
    each, rest = divmod(len(owners), len(set(owners.values())))
    if not kinds or rest:
        return None
    number, kind = int(name[len(_FOLDER) :]) - 2, None
    if each == len(kinds):
        kind = kinds[number % each]
    elif each == len(kinds) + len(then):
        later = number // ((sum(name.startswith(_FOLDER) for name in listing.variables) - 2) // each)
        kind = kinds[number % len(kinds)] if later < len(kinds) else then[later - len(kinds)]
    return f"{told}/{names[owner].replace('/', '_')}_{kind}" if kind else None
