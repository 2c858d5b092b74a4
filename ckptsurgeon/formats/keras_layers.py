"""What Keras's files say of layers: their order, whose slots are whose, and what a numbered weight is. Pure.

    legacy           the attribute layer_names of the group with the weights; of a layer, weight_names
    .keras           config.json, whose layers stand in model order; read as data alone
    .weights.h5      nothing; but Keras writes the layers in model order, so where their datasets' headers stand tells

A layer is what the outermost model calls one: a model inside it is a single layer, as in legacy files. Groups as Keras
3 makes them: `layers/<class>[_n]`, of a model that is a class of its own `<attribute>` or `<attribute>/<class>[_n]`, in
each a group `vars` whose datasets are numbered. Observed on Keras 3.15 and tf_keras 2.21.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .hdf5 import Hdf5

BY_NAMES, BY_CONFIG, BY_PLACE = "layer_names", "config.json", "file-order"  # schemes
WEIGHTS, OPTIMIZER = "model_weights", "optimizer_weights"
TOP = "top_level_model_weights"
_VARS = "vars"
_LISTED = ("layers", "_layer_checkpoint_dependencies")  # groups whose members are all layers; the second of TF 2.12
_BESIDE = ("optimizer", "metrics", _VARS)  # groups at the root that are no layers
_COUNTER = re.compile(r"_[1-9][0-9]{0,8}\Z")
_MOST_STEPS = 1 << 20
_LARGE = 2048  # bytes of values that libhdf5 puts at the end of a file, not together with others

# What an optimizer of Keras 3, by its name, keeps for each weight.
_SLOTS = {"adam": ("momentum", "velocity"), "adamw": ("momentum", "velocity"), "sgd": ("momentum",),
          "adagrad": ("accumulator",), "rmsprop": ("velocity",),
          "rm_sprop": ("velocity",)}  # fmt: skip

# What the numbers in `vars` mean, by class, if a layer has as many weights as stand here.
_MEANINGS = {
    "dense": (("kernel",), ("kernel", "bias"), ("kernel", "bias", "kernel_scale")),
    "batch_normalization": (("gamma", "beta", "moving_mean", "moving_variance"),),
    "layer_normalization": (("gamma", "beta"),),
    "embedding": (("embeddings",),),
    "depthwise_conv2d": (("depthwise_kernel",), ("depthwise_kernel", "bias")),
    "separable_conv2d": (("depthwise_kernel", "pointwise_kernel"), ("depthwise_kernel", "pointwise_kernel", "bias")),
    "cell": (("kernel", "recurrent_kernel"), ("kernel", "recurrent_kernel", "bias")),  # of LSTM, GRU, SimpleRNN
}
for _same in ("conv1d", "conv2d", "conv3d", "conv1d_transpose", "conv2d_transpose", "conv3d_transpose", "einsum_dense",
              "query_dense", "key_dense", "value_dense", "output_dense"):  # fmt: skip
    _MEANINGS[_same] = _MEANINGS["dense"][:2]


def joined(attributes: dict[str, object], name: str) -> list[str] | None:
    """A list of names, be it in one attribute or cut into several with numbers; None if it is not there."""
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
    """The group that lists the layers, in a legacy file: of a whole model one of its own, else the root."""
    for root in (WEIGHTS, ""):
        if root in groups and joined(groups[root], "layer_names") is not None:
            return root
    return None


def inside(folder: str, name: str) -> str:
    """The path of something in a group."""
    return f"{folder}/{name}" if folder else name


def listed(groups: dict[str, dict[str, object]]) -> list[str]:
    """The datasets of a legacy file in the order of its lists; of others none."""
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


def tables(file: Hdf5) -> dict[str, dict[str, int]]:
    """The layers of a file, numbered as far as it tells: scheme's name -> variable's name -> number."""
    root = legacy_root(file.groups[0])
    if root is not None:
        found = _in_order(file, [inside(root, each) for each in joined(file.groups[0][root], "layer_names") or []])
        return {BY_NAMES: found} if found else {}
    units = _units(file)
    if not units:
        return {}
    ordered = _by_config(file, units)
    if ordered is not None:
        return {BY_CONFIG: _in_order(file, ordered)}
    ordered = _by_place(file, units)
    return {BY_PLACE: _in_order(file, ordered)} if ordered is not None else {}


def _place(file: Hdf5, name: str) -> tuple[int, int]:
    dataset = file.datasets[name]
    return dataset.part, dataset.address


def _in_order(file: Hdf5, layers: Iterable[str]) -> dict[str, int]:
    """The variables of groups that are layers, numbered by their rank among those that have some."""
    ranks = {layer: rank for rank, layer in enumerate(dict.fromkeys(layers))}
    owners = {}
    for name in file.variables:
        owner = owner_of(name, ranks)
        if owner is not None:
            owners[name] = ranks[owner]
    numbers = {rank: number for number, rank in enumerate(sorted(set(owners.values())))}
    return {name: numbers[rank] for name, rank in owners.items()}


def owner_of(name: str, groups: Iterable[str]) -> str | None:
    """The innermost of some groups that a dataset is in."""
    known = groups if isinstance(groups, dict | set) else set(groups)
    at = len(name)
    while (at := name.rfind("/", 0, at)) > 0:
        if name[:at] in known:
            return name[:at]
    return None


# -- Keras 3


def _units(file: Hdf5) -> dict[str, list[str]]:
    """The groups that are layers of the outermost model, with the names of their variables."""
    groups = {path: attributes for each in file.groups for path, attributes in each.items()}
    children: dict[str, list[str]] = {}
    for path in groups:
        if path:
            children.setdefault(path.rpartition("/")[0], []).append(path.rpartition("/")[2])
    if not any(path == _VARS or path.endswith(f"/{_VARS}") for path in groups):
        return {}
    names_layers = any("name" in attributes for path, attributes in groups.items() if path.endswith(_VARS))
    units: set[str] = set()
    waiting = [each for each in children.get("", []) if each not in _BESIDE and not each.startswith("_metric")]
    while waiting:
        path = waiting.pop()
        inner = children.get(path, [])
        if path in _LISTED or (path and _is_container(inner, names_layers)):
            waiting += [f"{path}/{each}" for each in inner if path not in _LISTED]
            units.update(f"{path}/{each}" for each in inner if path in _LISTED)
        else:
            units.add(path)
    found: dict[str, list[str]] = {}
    for name in file.variables:
        unit = owner_of(name, units)
        if unit is not None:
            found.setdefault(unit, []).append(name)
    return found


def _is_container(inner: list[str], names_layers: bool) -> bool:
    """Whether a group is a list of layers and no layer: it has no weights of its own, nor a place for them.

    Recent releases give every layer such a place; of older ones a list is told by numbers that it gives its members.
    """
    if _VARS in inner or not inner:
        return False
    return names_layers or any(_COUNTER.sub("", each) in inner for each in inner if _COUNTER.search(each))


def _by_place(file: Hdf5, units: dict[str, list[str]]) -> list[str] | None:
    """The layers in the order in which they were written; None if the file leaves doubts.

    libhdf5 puts headers one behind the other, but for those that it puts into holes that others left, which happens in
    files of very many layers. So the first and the last header of every layer must tell the same order, the numbers in
    the names of one class must rise in it, and so must the places of values that fit into no hole.
    """
    first = {unit: min(_place(file, name) for name in names) for unit, names in units.items()}
    last = {unit: max(_place(file, name) for name in names) for unit, names in units.items()}
    ordered = sorted(units, key=first.__getitem__)
    whole = dict(last)
    for number, addresses in enumerate(file.addresses):
        for path, address in addresses.items():
            unit = path if path in units else owner_of(path, whole)
            if unit is not None:
                whole[unit] = max(whole[unit], (number, address))
    if ordered != sorted(units, key=last.__getitem__) or ordered != sorted(units, key=whole.__getitem__):
        return None
    counts: dict[str, int] = {}
    end = (0, 0)
    for unit in ordered:
        counter = _COUNTER.search(unit)
        kind, count = (unit[: counter.start()], int(counter[0][1:])) if counter else (unit, 0)
        large = [_values_at(file, name) for name in units[unit]]
        begin = min((place for place in large if place is not None), default=end)
        if counts.get(kind, -1) > count or begin < end:
            return None
        counts[kind], end = count, begin
    return ordered


def _values_at(file: Hdf5, name: str) -> tuple[int, int] | None:
    """Where the values of a variable begin, if they are too large for a hole."""
    dataset = file.datasets[name]
    large = dataset.place >= 0 and file.variables[name].size * dataset.item >= _LARGE
    return (dataset.part, dataset.place) if large else None


def _by_config(file: Hdf5, units: dict[str, list[str]]) -> list[str] | None:
    """The layers in the order of the model's config; None if it does not name all of them."""
    listed = _listed(file.config)
    if not listed:
        return None
    groups = {path: attributes for each in file.groups for path, attributes in each.items()}
    root = next((each for each in _LISTED if each in groups), "")
    by_name = {str(groups.get(f"{unit}/{_VARS}", {}).get("name")): unit for unit in units}
    if len(by_name) == len(units) and all(name in by_name for name in by_name):
        ordered = [by_name[name] for _, name in listed if name in by_name]
        if set(ordered) == set(units):
            return ordered
    counts: dict[str, int] = {}
    ordered = []
    for kind, _ in listed:
        count = counts[kind] = counts.get(kind, -1) + 1
        ordered.append(inside(root, f"{kind}_{count}" if count else kind))
    return ordered if set(units) <= set(ordered) else None


def _listed(config: object) -> list[tuple[str, str]]:
    """The layers that a model's config lists: class as Keras names its groups, and name."""
    inner = config.get("config") if isinstance(config, dict) else None
    layers = inner.get("layers") if isinstance(inner, dict) else None
    found = []
    for each in layers if isinstance(layers, list) else []:
        if not isinstance(each, dict) or not isinstance(each.get("class_name"), str):
            return []
        own = each.get("config")
        name = own.get("name") if isinstance(own, dict) else each.get("name")
        found.append((snake_case(each["class_name"][:1000]), str(name)))
    return found


def snake_case(name: str) -> str:
    """A class's name as Keras writes it in paths."""
    name = re.sub(r"\W+", "", name)
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


# -- names and slots


def full_names(file: Hdf5) -> dict[str, str]:
    """The names that a program gave weights: in a legacy file their own, else their layer's and their meaning."""
    found: dict[str, str] = {}
    root = legacy_root(file.groups[0])
    if root is not None:
        layers = {inside(root, each) for each in joined(file.groups[0][root], "layer_names") or []}
        for name in file.variables:
            layer = owner_of(name, layers)
            if layer is not None:
                found[name] = name[len(layer) + 1 :].removesuffix(":0")
            elif name.startswith(f"{OPTIMIZER}/"):
                found[name] = name[len(OPTIMIZER) + 1 :].removesuffix(":0")
        return found
    folders: dict[str, dict[int, str]] = {}
    for name in file.variables:
        folder, _, last = name.rpartition("/")
        if last.isdecimal() and len(last) < 9 and (folder == _VARS or folder.endswith(f"/{_VARS}")):
            folders.setdefault(folder, {})[int(last)] = name
    for folder, names in folders.items():
        owner = folder.rpartition("/")[0]
        told = file.groups[file.datasets[names[min(names)]].part].get(folder, {}).get("name")
        layer = told if isinstance(told, str) and told else owner.rpartition("/")[2]
        kind = _COUNTER.sub("", owner.rpartition("/")[2]).lstrip("_")
        count = len(names)
        meaning = next((each for each in _MEANINGS.get(kind, ()) if len(each) == count), None)
        if meaning is not None and set(names) == set(range(count)):
            found.update((name, f"{layer}/{meaning[number]}") for number, name in names.items())
        elif owner == "optimizer":
            first = ("iteration", "learning_rate")
            found.update((name, f"{layer}/{first[at]}") for at, name in names.items() if at < 2 and layer in _SLOTS)
        elif isinstance(told, str) and told:
            found.update((name, f"{told}/{_VARS}/{number}") for number, name in names.items())
    return found


def slot_name(file: Hdf5, name: str, owners: dict[str, str], names: dict[str, str]) -> str | None:
    """The name of a numbered slot, as Keras gives it: `adam/dense_kernel_momentum`; None where nothing tells it."""
    owner, folder = owners.get(name), f"optimizer/{_VARS}/"
    if owner is None or not name.startswith(folder):
        return None
    told = str(file.groups[file.datasets[name].part].get(folder[:-1], {}).get("name"))
    kinds = _SLOTS.get(told, ())
    each = (len(owners) or 1) // len(set(owners.values()) or {""})
    if len(kinds) != each or owner not in names:
        return None
    return f"{told}/{names[owner].replace('/', '_')}_{kinds[(int(name[len(folder) :]) - 2) % each]}"


def slot_owners(file: Hdf5, names: dict[str, str]) -> dict[str, str]:
    """Slots of optimizers, where names or, of a whole list model, shapes in model order tell whose they are.

    Args:
        file: open.
        names: the full names of its weights.
    """
    return _slots_by_name(file, names) if legacy_root(file.groups[0]) is not None else _slots_by_order(file)


def _slots_by_name(file: Hdf5, names: dict[str, str]) -> dict[str, str]:
    """Keras 3: `adam/<variable with _ for />_momentum`; Keras 2: `Adam/m/<variable>:0`, `Adam/<variable>/m:0`."""
    weights: dict[str, str] = {}
    for name, told in names.items():
        if not name.startswith(f"{OPTIMIZER}/"):
            weights.setdefault(told, name)
    flat = {told.replace("/", "_"): name for told, name in weights.items()}
    found: dict[str, str] = {}
    steps = _MOST_STEPS
    for name, variable in file.variables.items():
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
        if owner is not None and file.variables[owner].shape == variable.shape:
            found[name] = owner
    return found


def _slots_by_order(file: Hdf5) -> dict[str, str]:
    """Keras 3 and tf_keras: after one or two scalars, as many slots for each weight in model order.

    Told only where they come out even for all weights of a model that is a list of layers, shape by shape.
    """
    folder = f"optimizer/{_VARS}/"
    slots: list[str] = []
    while (name := f"{folder}{len(slots)}") in file.variables:
        slots.append(name)
    table = next(iter(file.layer_tables().values()), {})
    weights = sorted(table, key=lambda name: (table[name], _place(file, name)))
    if not weights or any(not name.startswith(tuple(f"{each}/" for each in _LISTED)) for name in weights):
        return {}
    for scalars in (2, 1):
        each, rest = divmod(len(slots) - scalars, len(weights))
        if rest or each < 1 or any(file.variables[name].shape for name in slots[:scalars]):
            continue
        found = {slots[scalars + at * each + n]: name for at, name in enumerate(weights) for n in range(each)}
        if all(file.variables[slot].shape == file.variables[name].shape for slot, name in found.items()):
            return found
    return {}
