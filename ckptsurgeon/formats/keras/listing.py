"""The metadata of an HDF5 checkpoint: its datasets, its groups and their attributes, the model's config. Pure."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...checkpoint import Variable


class Dataset:
    """How a variable is stored.

    Attributes:
        part: number of the HDF5 file that holds it.
        path: its path in that file.
        order: byte order of its numbers: "<", ">" or "|".
        item: bytes per element; 0 for strings of variable length.
        place: offset of its values in that file if they are stored contiguously and unencoded, otherwise -1.
        stored: bytes that it takes in the file.
        address: offset of its header; one object may have several names. Addresses increase in creation order; data
            offsets do not, because libhdf5 packs small datasets together.
    """

    __slots__ = ("address", "item", "order", "part", "path", "place", "stored")

    def __init__(self, part: int, described: dict[str, Any]) -> None:
        self.part = part
        self.path = str(described["path"])
        self.order = str(described["order"])
        self.item, self.place = int(described["item"]), int(described["place"])
        self.stored, self.address = int(described["stored"]), int(described["address"])


class Listing:
    """The metadata of all HDF5 files of a checkpoint.

    Attributes:
        variables: name -> Variable, in the checkpoint's order.
        datasets: name of a variable -> how it is stored.
        groups: for each file, path of a group -> its attributes that name layers and weights.
        addresses: for each file, path of a group -> offset of its header.
        types: for each file, the paths of its named dtypes.
        blocks: for each file, the size in bytes of its user block.
        config: the model's config as parsed JSON, if the container has one; never more than data.
    """

    __slots__ = ("addresses", "blocks", "config", "datasets", "groups", "types", "variables")

    def __init__(self) -> None:
        self.variables: dict[str, Variable] = {}
        self.datasets: dict[str, Dataset] = {}
        self.groups: list[dict[str, dict[str, Any]]] = []
        self.addresses: list[dict[str, int]] = []
        self.types: list[list[str]] = []
        self.blocks: list[int] = []
        self.config: object = None

    def place_of(self, name: str) -> tuple[int, int]:
        """Return the place of a variable's header: the number of the file, and the offset."""
        dataset = self.datasets[name]
        return dataset.part, dataset.address

    def given_name(self, folder: str) -> str | None:
        """Return the name of the layer or optimizer that owns a group `vars`, if the group's attribute gives it."""
        for each in self.groups:
            name = each.get(folder, {}).get("name")
            if isinstance(name, str) and name:
                return name
        return None
