"""The order in which layers were written, from where their headers stand; files simulated as libhdf5 lays them out."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ckptsurgeon.formats.keras.write_order import Traces, in_time

SIZES = {"a": 900, "b": 1400, "c": 1100}


def traces(kinds: str, hole: tuple[int, int, int] | None = None, large: str = "") -> tuple[Traces, list[str]]:
    """What a file tells whose layers of these classes were written one after the other; and their order.

    Args:
        kinds: the class of each layer.
        hole: after which layer it stands, by which layer it is left, and its bytes: what is written next goes there.
        large: classes whose values stand at the end of the file.
    """
    headers: list[tuple[tuple[int, int], str]] = []
    classes: dict[str, list[str]] = {}
    places: dict[str, tuple[int, int]] = {}
    order: list[str] = []
    end = at = room = start = 0
    for number, kind in enumerate(kinds):
        layer = f"{kind}{len(classes.setdefault(kind, []))}"
        classes[kind].append(layer)
        order.append(layer)
        for header in range(4):
            if hole and (number, header) == (hole[1], 1):  # with the name of its group the names outgrew the place
                at, room = start, hole[2]
            size = SIZES[kind] // 4
            is_in = size <= room
            headers.append(((0, at if is_in else end), layer))
            at, room, end = (at + size, room - size, end) if is_in else (at, room, end + size)
        if kind in large:
            places[layer] = (0, end)
            end += 4096
        if hole and number == hole[0]:
            start, end = end, end + hole[2]
    return Traces(headers, classes.values(), places, 16 * len(kinds) * 4), order


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_an_order_that_is_told_is_the_true_one(data: st.DataObject) -> None:
    """Whatever the classes, and wherever a hole is and is filled: the order, or none."""
    kinds = data.draw(st.text("abc", min_size=2, max_size=60))
    left = data.draw(st.integers(0, len(kinds) - 1))
    filled = data.draw(st.integers(left + 1, len(kinds)))
    size = data.draw(st.integers(0, 16 * 4 * max(filled, 1)))  # of what was there: names, which had to grow
    found, order = traces(kinds, (left, filled, size), data.draw(st.text("abc", max_size=3)))
    assert in_time(found) in (order, None)


def test_without_holes_the_order_is_always_told() -> None:
    """Layers of any classes, one behind the other."""
    for kinds in ("a", "ab", "abcabc", "aabbcc" * 20, "cba" * 50):
        found, order = traces(kinds)
        assert in_time(found) == order


def test_a_layer_in_a_hole_is_found_out() -> None:
    """One class is numbered on past it, so that it cannot be as old as its place says; its neighbours tell its time."""
    found, order = traces("abc" * 40, (20, 80, 2300), large="b")
    alone = order[81]
    headers = [place for place, layer in found.headers if layer == alone]
    assert max(headers) < max(place for place, layer in found.headers if layer == order[30])
    assert in_time(found) == order


def test_what_contradicts_itself_has_no_order() -> None:
    """Numbers of a class that do not rise with places that must."""
    place = [((0, 100 * at), layer) for at, layer in enumerate(["a1", "a0"])]
    assert in_time(Traces(place, [["a0", "a1"]], {"a1": (0, 5000), "a0": (0, 9000)}, 10)) is None
