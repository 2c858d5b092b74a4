"""Layers in Keras files: which groups are layers, in what order, and what each numbered weight means. Pure.

    legacy           attribute layer_names of the group with the weights; each layer has weight_names
    .keras           config.json lists the layers in model order; it is read as data only
    .weights.h5      no list; but Keras writes layers in model order, so the places of their headers give the order

Layers are those of the outermost model: a nested model is a single layer, as in legacy files. In a subclassed model,
layers are sorted by attribute name in natural order: block_2 before block_10.
"""

from __future__ import annotations

from ...names import natural_key
from . import slots
from .paths import (
    COUNTER,
    LISTED,
    MEANINGS,
    OPTIMIZER,
    TOP,
    VARS,
    class_of,
    in_config,
    inside,
    is_container,
    joined,
    legacy_root,
    owner_of,
)
from .slot_layouts import Optimizer
from .write_order import Traces, in_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .listing import Listing

BY_NAMES, BY_CONFIG, BY_PLACE = "layer_names", "config.json", "file-order"  # schemes
_BESIDE = ("optimizer", "metrics", VARS)  # groups at the root that are not layers
_LARGE = 2048  # bytes; values this large are appended to the file, never packed with others


def listed(groups: dict[str, dict[str, object]]) -> list[str]:
    """Return the datasets of a legacy file in the order of its lists; empty for other files."""
    root = legacy_root(groups)
    if root is None:
        return []
    folders = [inside(root, each) for each in [*(joined(groups[root], "layer_names") or []), TOP]] + [OPTIMIZER]
    return [
        inside(folder, each)
        for folder in dict.fromkeys(folders)
        if folder in groups
        for each in joined(groups[folder], "weight_names") or []
    ]


def tables(listing: Listing) -> dict[str, dict[str, int]]:
    """Return scheme's name -> variable's name -> layer number, for schemes that the file determines."""
    root = legacy_root(listing.groups[0])
    if root is not None:
        found = _in_order(
            listing, [inside(root, each) for each in joined(listing.groups[0][root], "layer_names") or []]
        )
        return {BY_NAMES: found} if found else {}
    units = _units(listing)
    if not units:
        return {}
    ordered = _by_config(listing, units)
    if ordered is not None:
        return {BY_CONFIG: _in_order(listing, ordered)}
    ordered = _by_place(listing, units)
    return {BY_PLACE: _in_order(listing, ordered)} if ordered is not None else {}


def _in_order(listing: Listing, layers: Iterable[str]) -> dict[str, int]:
    """Return variable's name -> number of its layer, counting only layers that have variables."""
    ranks = {layer: rank for rank, layer in enumerate(dict.fromkeys(layers))}
    owners = {}
    for name in listing.variables:
        owner = owner_of(name, ranks)
        if owner is not None:
            owners[name] = ranks[owner]
    numbers = {rank: number for number, rank in enumerate(sorted(set(owners.values())))}
    return {name: numbers[rank] for name, rank in owners.items()}


# -- Keras 3


def _units(listing: Listing) -> dict[str, list[str]]:
    """Return the groups that are layers of the outermost model, with the names of their variables."""
    groups = {path: attributes for each in listing.groups for path, attributes in each.items()}
    children: dict[str, list[str]] = {}
    for path in groups:
        if path:
            children.setdefault(path.rpartition("/")[0], []).append(path.rpartition("/")[2])
    if not any(path == VARS or path.endswith(f"/{VARS}") for path in groups):
        return {}
    names_layers = any("name" in attributes for path, attributes in groups.items() if path.endswith(VARS))
    units: set[str] = set()
    waiting = [each for each in children.get("", []) if each not in _BESIDE and not each.startswith("_metric")]
    while waiting:
        path = waiting.pop()
        inner = children.get(path, [])
        if path in LISTED or (path and is_container(inner, names_layers)):
            waiting += [f"{path}/{each}" for each in inner if path not in LISTED]
            units.update(f"{path}/{each}" for each in inner if path in LISTED)
        else:
            units.add(path)
    found: dict[str, list[str]] = {}
    for name in listing.variables:
        unit = owner_of(name, units)
        if unit is not None:
            found.setdefault(unit, []).append(name)
    return found


def _by_place(listing: Listing, units: dict[str, list[str]]) -> list[str] | None:
    """Return the layers in the order they were written, attributes sorted by name; None if that is not certain."""
    heads: dict[str, list[str]] = {}
    for unit in units:
        heads.setdefault(unit.partition("/")[0], []).append(unit)
    ordered: list[str] = []
    for head in sorted(heads, key=natural_key):
        found = in_time(_traces(listing, {unit: units[unit] for unit in heads[head]}))
        if found is None:
            return None
        ordered += found
    return ordered


def _traces(listing: Listing, units: dict[str, list[str]]) -> Traces:
    """Collect the evidence of when layers were written."""
    headers = [(listing.place_of(name), unit) for unit, names in units.items() for name in names]
    groups = [
        ((number, address), unit)
        for number, addresses in enumerate(listing.addresses)
        for path, address in addresses.items()
        if (unit := path if path in units else owner_of(path, units)) is not None
    ]
    end = max(groups, default=((-1, 0), ""))[0]
    if 2 * sum(max(listing.place_of(name) for name in names) > end for names in units.values()) < len(units):
        headers += groups  # Keras creates groups layer by layer; ckptsurgeon creates all of them first
    classes: dict[str, list[tuple[int, str]]] = {}
    large: dict[str, tuple[int, int]] = {}
    for unit, names in units.items():
        counter = COUNTER.search(unit)
        kind, count = (unit[: counter.start()], int(counter[0][1:])) if counter else (unit, 0)
        classes.setdefault(kind, []).append((count, unit))
        places = [place for name in names if (place := _values_at(listing, name)) is not None]
        if places:
            large[unit] = min(places)
    folders = {unit.rpartition("/")[0] for unit in units}
    beside = {path for each in listing.addresses for path in each if path.rpartition("/")[0] in folders}
    length = sum(len(path.rpartition("/")[2]) + 8 for path in beside)
    return Traces(headers, [[unit for _, unit in sorted(each)] for each in classes.values()], large, length)


def _values_at(listing: Listing, name: str) -> tuple[int, int] | None:
    """Return where the values of a variable begin; None if they might fit into a hole."""
    dataset = listing.datasets[name]
    large = dataset.place >= 0 and listing.variables[name].size * dataset.item >= _LARGE
    return (dataset.part, dataset.place) if large else None


def _by_config(listing: Listing, units: dict[str, list[str]]) -> list[str] | None:
    """Return the layers in the order of the model's config; None if the config does not name all of them."""
    listed = in_config(listing.config)
    if not listed:
        return None
    groups = {path: attributes for each in listing.groups for path, attributes in each.items()}
    root = next((each for each in LISTED if each in groups), "")
    by_name = {str(groups.get(f"{unit}/{VARS}", {}).get("name")): unit for unit in units}
    if len(by_name) == len(units):
        ordered = [by_name[name] for _, name, _ in listed if name in by_name]
        if set(ordered) == set(units):
            return ordered
    counts: dict[str, int] = {}
    ordered = []
    for kind, _, _ in listed:
        count = counts[kind] = counts.get(kind, -1) + 1
        ordered.append(inside(root, f"{kind}_{count}" if count else kind))
    return ordered if set(units) <= set(ordered) else None


# -- names and slots


def full_names(listing: Listing) -> dict[str, str]:
    """Return the names that weights have in the program: stored in legacy files, otherwise layer name plus role."""
    found: dict[str, str] = {}
    root = legacy_root(listing.groups[0])
    if root is not None:
        layers = {inside(root, each) for each in joined(listing.groups[0][root], "layer_names") or []}
        for name in listing.variables:
            layer = owner_of(name, layers)
            if layer is not None:
                found[name] = name[len(layer) + 1 :].removesuffix(":0")
            elif name.startswith(f"{OPTIMIZER}/"):
                found[name] = name[len(OPTIMIZER) + 1 :].removesuffix(":0")
        return found
    folders: dict[str, dict[int, str]] = {}
    for name in listing.variables:
        folder, _, last = name.rpartition("/")
        if last.isdecimal() and len(last) < 9 and (folder == VARS or folder.endswith(f"/{VARS}")):
            folders.setdefault(folder, {})[int(last)] = name
    for folder, names in folders.items():
        owner = folder.rpartition("/")[0]
        told = listing.given_name(folder)
        layer, kind, count = told or owner.rpartition("/")[2], class_of(owner), len(names)
        meaning = next((each for each in MEANINGS.get(kind, ()) if len(each) == count), None)
        if meaning is not None and set(names) == set(range(count)):
            found.update((name, f"{layer}/{meaning[number]}") for number, name in names.items())
        elif owner == "optimizer":
            first = ("iteration", "learning_rate")
            is_known = Optimizer(told).kind is not None
            scalars = [(at, name) for at, name in names.items() if at < 2 and not listing.variables[name].shape]
            found.update((name, f"{layer}/{first[at]}") for at, name in scalars if is_known)
        elif told and not owner.startswith("optimizer/"):
            found.update((name, f"{told}/{VARS}/{number}") for number, name in names.items())
    return found


def slot_owners(listing: Listing, names: dict[str, str], layers: dict[str, int]) -> dict[str, tuple[str, str]]:
    """Return optimizer slot -> its variable and its kind, matched by name or by the order of the weights.

    Args:
        listing: the checkpoint's metadata.
        names: the full names of its weights.
        layers: name of a variable -> number of its layer.
    """
    if legacy_root(listing.groups[0]) is not None:
        return {slot: (owner, "") for slot, owner in slots.by_name(listing, names).items()}
    return slots.by_order(listing, layers)
