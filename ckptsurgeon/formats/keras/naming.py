"""The groups of an HDF5 file after an operation, and its updated lists of layers and weights. Pure.

Keras finds the layers of a legacy file by the attribute layer_names, and a layer's weights by weight_names, so dropped,
added and renamed variables must change there too. A group moves with its attributes if everything in it moves; a group
that has lost all its variables is removed. So is a layer, from the list too: Keras skips a layer that is not listed
when it loads by name, but not one without its weights.
"""

from __future__ import annotations

from ...errors import CkptSurgeonError, RefusedError, check
from .paths import OPTIMIZER, TOP, inside, joined, legacy_root, owner_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .listing import Listing

    Lists = dict[str, dict[str, list[str]]]


class Arrangement:
    """The groups of a file to be written.

    Args:
        listing: the metadata of the file from which it is made.
        moves: for each variable of the new file, its name in `listing` (None if it is new) and its new name.
        path: the path for error messages.

    Raises:
        RefusedError, Problems: an HDF5 file cannot have these names.

    Attributes:
        groups: [number of the part or -1, path in the part, new path], parents first.
        lists: new path of a group -> those of its lists that have changed.
    """

    def __init__(self, listing: Listing, moves: list[tuple[str | None, str]], path: str) -> None:
        self._listing = listing
        self._path = path
        self._moves = moves
        self._new = {old: new for old, new in moves if old is not None}
        self._parts: dict[str, int] = {}
        for number, each in enumerate(listing.groups):
            for path in each:
                self._parts.setdefault(path, number)
        self._root = legacy_root(listing.groups[0])
        names = self._attributes(self._root).get("layer_names") if self._root is not None else None
        self._layers = [] if names is None else names
        self._mapped = self._map()
        self.groups: list[tuple[int, str, str]] = []
        self._arrange()
        self.lists: Lists = {}
        self._list()

    def _attributes(self, path: str) -> dict[str, list[str]]:
        """Return the lists of layers and weights in a group's attributes."""
        attributes = self._listing.groups[self._parts[path]][path]
        found = {name: joined(attributes, name) for name in ("layer_names", "weight_names")}
        return {name: each for name, each in found.items() if each is not None}

    def _map(self) -> dict[str, str | None]:
        """Return old path -> new path of every group; None for a group that is removed."""
        members: dict[str, list[str]] = {}
        for name in self._listing.variables:
            at = len(name)
            while (at := name.rfind("/", 0, at)) > 0:
                members.setdefault(name[:at], []).append(name)
        mapped: dict[str, str | None] = {"": ""}
        for path in self._parts:
            if not path:
                continue
            folder, _, last = path.rpartition("/")
            above = mapped.get(folder)
            left = [(name, self._new[name]) for name in members.get(path, []) if name in self._new]
            if left:
                mapped[path] = self._moved(path, left)
            elif path not in members:
                mapped[path] = None if above is None else inside(above, last)
            else:
                mapped[path] = None
        return mapped

    def _moved(self, path: str, left: list[tuple[str, str]]) -> str | None:
        name, new = left[0]
        rest = name[len(path) :]
        target = new[: -len(rest)] if new.endswith(rest) else None
        if target and all(new == target + name[len(path) :] for name, new in left):
            return target
        return path if any(new.startswith(f"{path}/") for _, new in left) else None

    def _arrange(self) -> None:
        sources: dict[str, tuple[int, str]] = {}
        for path, new in self._mapped.items():
            if new is not None and (new not in sources or path == new):  # a group that stays keeps its attributes
                sources[new] = (self._parts[path], path)
        names = {new for _, new in self._moves}
        problems: list[CkptSurgeonError] = []
        made: set[str] = set()
        for new in [*sources, *(name.rpartition("/")[0] for name in names)]:
            at = 0
            while at >= 0:  # parents first
                at = new.find("/", at + 1) if new else -1
                path = new[:at] if at >= 0 else new
                if path in made:
                    continue
                made.add(path)
                number, old = sources.get(path, (-1, ""))
                self.groups.append((number, old, path))
                if path in names:
                    what = f"{path} would be both a variable and a group"
                    problems.append(RefusedError(what, path=self._path))
        for name in names:
            parts = name.split("/")
            if "" in parts or "." in parts or "\0" in name:
                what = f"no variable of an HDF5 file can have the name {name!r}"
                problems.append(RefusedError(what, path=self._path))
        check(problems)

    # -- lists

    def _list(self) -> None:
        new_root = self._mapped.get(self._root) if self._root is not None else None
        listed = {path: lists["weight_names"] for path in self._parts if (lists := self._attributes(path)) and
                  "weight_names" in lists}  # fmt: skip
        owners = {new: path for path in listed if (new := self._mapped.get(path)) is not None}
        added: list[str] = []
        if new_root is not None:
            for _, name in self._moves:
                rest = name[len(new_root) + 1 :] if new_root else name
                beside = rest.partition("/")[0]
                is_here = not new_root or name.startswith(f"{new_root}/")
                if is_here and "/" in rest and owner_of(name, owners) is None and beside not in (TOP, OPTIMIZER):
                    added.append(beside)
                    owners[inside(new_root, beside)] = ""
        inner: dict[str, list[str]] = {}
        for _, name in self._moves:
            owner = owner_of(name, owners)
            if owner is not None:
                inner.setdefault(owner, []).append(name[len(owner) + 1 :])
        for new, path in owners.items():
            before = listed.get(path) if path else None
            after = self._weights(path, new, before or [], inner.get(new, []))
            if after != before:
                self.lists.setdefault(new, {})["weight_names"] = after
        if new_root is not None and self._root is not None:
            layers = self._new_layers(self._root, new_root) + added
            if layers != self._layers:
                self.lists.setdefault(new_root, {})["layer_names"] = layers

    def _weights(self, path: str, new: str, before: list[str], inner: list[str]) -> list[str]:
        """Return the weights of a group in their old order, new ones at the end."""
        found = []
        for each in before:
            name = inside(path, each)
            if name not in self._listing.variables:
                found.append(each)
            elif self._new.get(name, "").startswith(f"{new}/"):
                found.append(self._new[name][len(new) + 1 :])
        there = set(found)
        return found + [each for each in inner if each not in there]

    def _new_layers(self, root: str, new_root: str) -> list[str]:
        found = []
        for each in self._layers:
            path = inside(root, each)
            new = self._mapped.get(path, inside(new_root, each))
            if new is not None and (not new_root or new.startswith(f"{new_root}/")):
                found.append(new[len(new_root) + 1 :] if new_root else new)
        return list(dict.fromkeys(found))
