"""The object graph of an object-based checkpoint: its bytes, and what edits make of hand-made ones."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from handmade import HandMade, strings
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptsurgeon import formats
from ckptsurgeon.cli import main
from ckptsurgeon.errors import CkptSurgeonError, CkptSurgeonWarning, DamagedError, RefusedError
from ckptsurgeon.formats.bundle.graph.graph import Graph
from ckptsurgeon.formats.bundle.graph.nodes import ATTRIBUTE, EDGE, HAS_VALUES, SLOT_VARIABLE, new_part
from ckptsurgeon.formats.bundle.graph.paths import escape, path_of, unescape
from ckptsurgeon.formats.tensorflow.wire import bytes_field, fields, varint_field
from ckptsurgeon.names import VALUE_SUFFIX as VALUE
from ckptsurgeon.plan import Change, Text
from ckptsurgeon.verbs import listing

TRUE, FALSE = bytes_field(5, varint_field(1, 1)), bytes_field(5, b"")
UNKNOWN = bytes_field(9, b"from the future")


def node(**edges: int) -> bytes:
    """An object with edges to others."""
    return b"".join(new_part(EDGE, number, name) for name, number in edges.items())


def row(key: str, full_name: str = "", unknown: bytes = b"") -> bytes:
    """The attribute of a variable."""
    return new_part(ATTRIBUTE, "VARIABLE_VALUE", full_name, key + VALUE, unknown=unknown)


def graph(*nodes: bytes) -> Graph:
    """A graph of the bytes of its nodes."""
    return Graph(b"".join(bytes_field(1, each) for each in nodes))


def keras_2() -> Graph:
    """Two layers with both their edges, a slot of an old optimizer, and fields that nobody knows."""
    return graph(
        node(model=1, optimizer=6) + TRUE + UNKNOWN,
        node(**{"layer_with_weights-0": 2, "layer-0": 2, "layer_with_weights-1": 3, "layer-1": 3}) + TRUE,
        UNKNOWN + node(kernel=4) + TRUE,
        node(kernel=5) + TRUE,
        row("model/layer_with_weights-0/kernel", "a/kernel", UNKNOWN) + TRUE,
        row("model/layer_with_weights-1/kernel", "b/kernel") + TRUE,
        node() + new_part(SLOT_VARIABLE, 4, "m", 7) + TRUE,
        row("model/layer_with_weights-0/kernel/.OPTIMIZER_SLOT/optimizer/m") + TRUE,
    )


def flags(found: Graph) -> list[bytes]:
    """The has_checkpoint_values of each object, all of which have one."""
    nodes = [fields(message) for number, _, message, _ in fields(found.encode()) if number == 1]
    return [next(raw for field, _, _, raw in node if field == HAS_VALUES) for node in nodes]


def tree(found: Graph, start: int = 0, depth: int = 4) -> dict[str, str]:
    """The path of edges to each key, as far as `depth`, to the key itself."""
    objects = found.objects
    paths = {"": start}
    keys: dict[str, str] = {}
    for _ in range(depth):
        keys |= {
            path: objects.keys[each].removesuffix(VALUE)
            for path, at in paths.items()
            for each in objects.attributes_of(at)
        }
        paths = {f"{path}/{name}": child for path, at in paths.items() for name, child in objects.edges(at)}
    return keys


@given(st.text(alphabet="ab./S", max_size=12))
def test_names_come_back_from_keys(name: str) -> None:
    """What an edge's name is escaped to in a key says the name, and no slash."""
    assert unescape(escape(name)) == name
    assert "/" not in escape(name)
    assert path_of(f"model/{escape(name)}{VALUE}") == ("model", name)


def long(value: int, spare: int) -> bytes:
    """A varint that is longer than it has to be."""
    digits = [value >> 7 * at & 0x7F for at in range(max(1, -(-value.bit_length() // 7)) + spare)]
    return bytes(digit | 0x80 for digit in digits[:-1]) + bytes(digits[-1:])


numbers = st.sampled_from([0, 1, 5, 127, 128, 200, 16383, 16384, 20_000])
spare = st.integers(0, 2)
inner = st.one_of(  # fields of an edge, an attribute or a slot, known and unknown ones
    st.builds(
        lambda field, value, more: varint_field(field, 1)[:1] + long(value, more), st.integers(1, 4), numbers, spare
    ),
    st.builds(
        lambda field, value, more: bytes_field(field, b"")[:1] + long(len(value), more) + value,
        st.integers(1, 4),
        st.sampled_from([b"", b"name", b"VARIABLE_VALUE", b"x" * 130, b"\xff"]),
        spare,
    ),
    st.sampled_from([b"\x25four", b"\x21eight..."[:9]]),
)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.lists(inner, max_size=4), spare), max_size=6))
def test_every_spelling_is_read(parts: list[tuple[int, list[bytes], int]]) -> None:
    """Numbers of any length, fields in any order, again and again, and unknown ones: read as protobuf means them."""
    message = b""
    edges: list[tuple[str, int]] = []
    attributes: list[tuple[str, str, str]] = []
    slots: list[tuple[int, int]] = []
    for field, each, more in parts:
        body = b"".join(each)
        message += bytes_field(field, b"")[:1] + long(len(body), more) + body
        said = {(number, kind): value for number, kind, value, _ in fields(body)}
        texts = [said.get((number, 2), b"").decode("utf-8", "surrogateescape") for number in (1, 2, 3)]
        if field == EDGE:
            edges.append((texts[1], said.get((1, 0), 0)))
        elif field == ATTRIBUTE:
            attributes.append((texts[0], texts[1], texts[2]))
        elif field == SLOT_VARIABLE:
            slots.append((said.get((1, 0), 0), said.get((3, 0), 0)))
    data = bytes_field(1, message) + bytes_field(1, b"") * 20_000
    objects = Graph(data).objects
    assert list(objects.edges(0)) == edges
    full_names = [name.decode("utf-8", "surrogateescape") for name in objects.full_names()]
    assert list(zip(objects.attributes, full_names, objects.keys, strict=True)) == attributes
    assert list(zip(objects.originals, objects.slots, strict=True)) == slots


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_graph_or_damaged(data: bytes) -> None:
    """Whatever stands there, it is carried byte for byte, or refused as damaged."""
    with suppress(DamagedError):
        assert Graph(data).encode() == data


def test_every_flipped_bit_is_survived() -> None:
    """A graph with a wrong bit is damaged, or its layers are found and its edits made or refused; nothing else."""
    data = keras_2().encode()
    damaged = 0
    for bit in range(8 * len(data)):
        wrong = bytearray(data)
        wrong[bit // 8] ^= 1 << bit % 8
        try:
            found = Graph(bytes(wrong))
        except DamagedError:
            damaged += 1
            continue
        assert found.encode() == bytes(wrong)
        keys = list(found.keys())
        found.layers(keys)
        found.slot_owners({})
        for edit in (
            lambda found=found: found.rename({f"model/layer_with_weights-0/kernel{VALUE}": f"x/y{VALUE}"}),
            lambda found=found, keys=keys: found.drop(keys[:1]),
            lambda found=found: found.add({f"model/new/w{VALUE}": "w"}),
        ):
            try:
                edit()
            except CkptSurgeonError:
                continue
            assert Graph(found.encode()).encode() == found.encode()
    assert 0 < damaged < 8 * len(data)


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [node(child=1)],
        [new_part(EDGE, -1, "child")],
        [new_part(SLOT_VARIABLE, 1, "m", 0)],
        [new_part(SLOT_VARIABLE, 0, "m", 1)],
        [new_part(EDGE, 1 << 40, "child")],
        [varint_field(1, 1)],
    ],
)
def test_references_to_nothing_are_damaged(nodes: list[bytes]) -> None:
    """A child or slot variable outside the nodes, or a graph without any, is refused."""
    with pytest.raises(DamagedError, match="object graph"):
        graph(*nodes)


def test_impossibly_many_nodes_are_damaged() -> None:
    """A graph of a million empty nodes and more is refused."""
    with pytest.raises(DamagedError, match="impossibly many"):
        Graph(bytes_field(1, b"") * ((1 << 20) + 1))


@pytest.fixture
def sample(samples: Path) -> tuple[bytes, dict[str, tuple[int, ...]]]:
    """The graph of a checkpoint by an early Keras 2, and the shapes of its rows."""
    with formats.open(str(samples / "object-based-two-shards" / "model.ckpt")) as checkpoint:
        shapes = {each.key.decode(): each.shape for each in checkpoint.variables.values()}
        data: bytes = checkpoint.read("_CHECKPOINTABLE_OBJECT_GRAPH").item()
    return data, shapes


def test_a_damaged_graph_is_in_nobody_s_way(tmp_path: Path) -> None:
    """Who asks for layers, slots or names is told of a damaged graph; changes that do not concern it go through."""
    made = HandMade()
    made.add("a" + VALUE, np.zeros(2, np.float32))
    made.add("_CHECKPOINTABLE_OBJECT_GRAPH", strings(node(child=1)).reshape(()))
    with formats.open(str(made.write(tmp_path / "m"))) as checkpoint:
        variable = checkpoint.variables["a"]
        for ask in (checkpoint.layer_tables, checkpoint.slot_owners, lambda: checkpoint.full_name("a")):
            with pytest.raises(DamagedError, match="object graph") as raised:
                ask()
            assert str(raised.value).startswith(str(tmp_path / "m"))
        assert checkpoint.consequences([Change("grafted", variable, Text(b""))]) == {}
        with pytest.raises(DamagedError, match="object graph"):
            checkpoint.consequences([Change("dropped", variable, None)])


def test_without_the_data_metadata_alone_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Listings of an index whose data file is absent say what it tells, with one warning; an edit is still refused."""
    made = HandMade()
    for key in ("model/layer_with_weights-0/kernel", "model/layer_with_weights-1/kernel"):
        made.add(key + VALUE, np.zeros((2, 3), np.float32))
    made.add("model/layer_with_weights-0/kernel/.OPTIMIZER_SLOT/optimizer/m" + VALUE, np.zeros((2, 3), np.float32))
    made.add("_CHECKPOINTABLE_OBJECT_GRAPH", strings(keras_2().encode()).reshape(()))
    path = str(made.write(tmp_path / "m"))
    assert main(["ls", path, "--json"]) == 0
    whole = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["layer"] for row in whole] == [None, 0, 0, 1]
    assert [row["full_name"] for row in whole] == [None, "a/kernel", None, "b/kernel"]
    os.unlink(f"{path}.data-00000-of-00001")
    assert main(["ls", path, "--json"]) == 0
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    stored = ("name", "dtype", "shape", "bytes")
    assert [[row[key] for key in stored] for row in rows] == [[row[key] for key in stored] for row in whole]
    assert all(row["full_name"] is None for row in rows)
    assert [row["layer"] for row in rows] == [None, 0, 0, 1]  # as the names say
    assert said.err.startswith(f"ckptsurgeon: warning: {path}: m.data-00000-of-00001 is missing, so ")
    assert said.err.count("\n") == 1
    for verb in (["ls", "-l"], ["layers"], ["ls", "--total"], ["ls", "--no-slots"], ["ls", "--tree"]):
        assert main([verb[0], path, *verb[1:]]) == 0
        assert capsys.readouterr().out
    with pytest.warns(CkptSurgeonWarning, match="is missing"):
        assert len(listing.ls(path, details=True)) == 4
    before = Path(f"{path}.index").read_bytes()
    assert main(["drop", path, "--slots"]) == 2
    assert main(["rename", path, "model/layer_with_weights-1/=model/layer_with_weights-2/"]) == 2
    assert Path(f"{path}.index").read_bytes() == before


def test_an_early_keras_2_is_understood(sample: tuple[bytes, dict[str, tuple[int, ...]]]) -> None:
    """Layers that have but one kind of edge, and slots without flags, are found, and all comes back byte for byte."""
    data, shapes = sample
    found = Graph(data)
    assert found.encode() == data
    assert set(found.keys()) == set(shapes) - {"_CHECKPOINTABLE_OBJECT_GRAPH"}
    owners = found.slot_owners(shapes)
    assert owners == {key: key.split("/.OPT")[0] + VALUE for key in shapes if "/.OPT" in key}
    layer = {"layer-1": 0, "layer-2": 1}
    ranks = {key: layer[key.split("/")[0]] for key in shapes if key.startswith("layer-")}
    assert found.layers(shapes) == {"keras-2": ranks}


def test_a_real_graph_with_a_wrong_bit_is_survived(sample: tuple[bytes, dict[str, tuple[int, ...]]]) -> None:
    """A bit of each byte is turned: the graph is damaged, or comes back as it stands."""
    data, shapes = sample
    for at in range(len(data)):
        wrong = bytearray(data)
        wrong[at] ^= 1 << at % 8
        with suppress(DamagedError):
            found = Graph(bytes(wrong))
            assert found.encode() == bytes(wrong)
            if at % 16 == 0:
                found.layers(shapes)


def test_a_moved_edge_takes_all_below_along() -> None:
    """A layer that is renamed whole is the same object, its unknown fields and its slot as they were."""
    found = keras_2()
    old = f"model/layer_with_weights-0/kernel{VALUE}"
    found.rename({old: f"net/deep/kernel{VALUE}"})
    assert found.at(("net", "deep")) == 2
    assert tree(found) == {
        "/net/deep/kernel": "net/deep/kernel",
        "/model/layer_with_weights-1/kernel": "model/layer_with_weights-1/kernel",
        "/model/layer-1/kernel": "model/layer_with_weights-1/kernel",
    }
    assert found.encode().count(UNKNOWN) == 3
    assert found.slot_owners() == {
        f"model/layer_with_weights-0/kernel/.OPTIMIZER_SLOT/optimizer/m{VALUE}": f"net/deep/kernel{VALUE}"
    }
    assert found.full_names()[f"net/deep/kernel{VALUE}"] == "a/kernel"


def test_exchanged_layers_take_both_edges() -> None:
    """Where two layers of Keras 2 change places, so do their second edges."""
    found = keras_2()
    names = [f"model/layer_with_weights-{number}/kernel" for number in (0, 1)]
    found.rename({names[0] + VALUE: names[1] + VALUE, names[1] + VALUE: names[0] + VALUE})
    assert [found.at(("model", f"layer{kind}-{k}")) for kind in ("", "_with_weights") for k in (0, 1)] == [3, 2, 3, 2]
    assert found.layers([name + VALUE for name in names]) == {"keras-2": {names[0] + VALUE: 0, names[1] + VALUE: 1}}


def test_a_part_of_an_object_moves_alone() -> None:
    """Where others stay below an edge, the row's own edge moves; other names of its object follow."""
    found = graph(node(a=1, alias=1), node(w=2, v=3), row("a/w"), row("a/v"))
    found.rename({"a/w" + VALUE: "b/w" + VALUE})
    assert tree(found) == {"/a/v": "a/v", "/alias/v": "a/v", "/b/w": "b/w"}


def test_a_place_that_is_left_is_taken() -> None:
    """An object moves where another one was, part by part or whole, while that one keeps all that it has."""
    found = graph(node(a=1, c=4), node(w=2, v=3), row("a/w"), row("a/v"), node(w=5), row("c/w"))
    changes = {"a/w": "b/w", "a/v": "b/v", "c/w": "a/v"}
    found.rename({old + VALUE: new + VALUE for old, new in changes.items()})
    assert tree(found) == {"/b/w": "b/w", "/b/v": "b/v", "/a/v": "a/v"}
    assert found.at(("b",)) == 1
    found = graph(node(a=1, c=3, d=4), node(w=2, k=4), row("a/w"), row("c"), row("d"))
    before = found.encode()
    with pytest.raises(RefusedError, match="b/k: another object has this path"):
        found.rename({"a/w" + VALUE: "b/w" + VALUE, "c" + VALUE: "b/k" + VALUE})
    assert found.encode() == before


@pytest.mark.parametrize("stays", [False, True])
def test_two_objects_come_to_one_place(stays: bool) -> None:
    """Where the rows of two objects get one path, at any depth, the object there has all of them, none is lost."""
    nodes = [node(a=1, b=2), node(x=3, u=4), node(x=5, y=6), node(w=7), row("a/u"), node(v=8), row("b/y")]
    nodes += [row("a/x/w"), row("b/x/v"), row("a/z") if stays else b""]
    nodes[1] += node(z=9) if stays else b""
    for first, second in ("ab", "ba"):
        found = graph(*nodes)
        keys = [
            key
            for each in (first, second)
            for key in list(found.keys())
            if key.startswith(each) and key != "a/z" + VALUE
        ]
        found.rename({key: f"c{key[1:]}" for key in keys})
        reached = {f"/{key}": key for key in ("c/u", "c/y", "c/x/w", "c/x/v")}
        assert tree(found).items() >= reached.items()
        assert found.at(("a", "z")) == (9 if stays else None)


def test_edits_follow_each_other() -> None:
    """A graph can be edited again and again, by itself or as a copy, and a copy's edits are not its own."""
    found = keras_2()
    before = found.encode()
    other = found.copy()
    first, second, slot = list(other.keys())
    other.drop([first, slot])
    other.rename({second: f"net/w{VALUE}"})
    other.add({f"net/v{VALUE}": "v"})
    assert other.keys().keys() == {f"net/w{VALUE}", f"net/v{VALUE}"}
    assert tree(other).keys() == {"/net/w", "/net/v"}
    assert found.encode() == before
    assert tree(found).keys() == tree(keras_2()).keys()


def test_a_row_whose_key_is_no_path_gets_one() -> None:
    """A key that led nowhere leads to its object once it is renamed, and what had its path stays."""
    found = graph(node(a=1, b=2), row("somewhere/else"), row("b"))
    found.rename({"somewhere/else" + VALUE: "c" + VALUE})
    assert tree(found) == {"/a": "c", "/b": "b", "/c": "c"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a/w" + VALUE: "a/w"}, "a/w/.ATTRIBUTES/VARIABLE_VALUE cannot become a/w; expected a path before /.ATTR"),
        ({"a/w" + VALUE: "a/w/.ATTRIBUTES/OTHER"}, "expected a path before"),
        ({"a/w" + VALUE: "a/v" + VALUE}, "a/v/.ATTRIBUTES/VARIABLE_VALUE cannot be the name of two variables"),
        ({"a/w" + VALUE: "c" + VALUE, "a/v" + VALUE: "c" + VALUE}, "cannot be the name of two"),
        ({"a/w" + VALUE: "a" + VALUE}, "another object has its path"),
        ({"a/w" + VALUE: "x/.OPTIMIZER_SLOT/o/m" + VALUE}, "cannot become"),
        ({"a/w" + VALUE: "odd" + VALUE}, "another object has its path"),
    ],
)
def test_refused_names_change_nothing(changes: dict[str, str], message: str) -> None:
    """A name that would lose its end, or is another's, is refused, and the graph is as it was."""
    found = graph(node(a=1, odd=4), node(w=2, v=3), row("a/w"), row("a/v"), row("keyed/elsewhere"))
    before = found.encode()
    with pytest.raises(RefusedError, match=message.replace("(", r"\(")):
        found.rename(changes)
    assert found.encode() == before


def test_rows_beside_the_graph_are_passed_over() -> None:
    """TensorFlow ignores rows that no object has, and so does every edit."""
    found = keras_2()
    before = found.encode()
    found.rename({"global_step": "step", "x" + VALUE: "y" + VALUE})
    found.drop(["global_step"])
    assert found.encode() == before


def test_a_dropped_variable_leaves_no_edge() -> None:
    """Row, edges, slot and the word that there are values go together, up to the root."""
    found = keras_2()
    first, second, slot = list(found.keys())
    with pytest.raises(RefusedError, match=r"OPTIMIZER_SLOT.* is a slot of a dropped variable"):
        found.drop([first])
    found.drop([first, slot])
    assert tree(found).keys() == {"/model/layer_with_weights-1/kernel", "/model/layer-1/kernel"}
    assert flags(found) == [TRUE, TRUE, FALSE, TRUE, FALSE, TRUE, FALSE, FALSE]
    assert not found.objects.slots
    found.drop([second])
    assert set(flags(found)) == {FALSE}


def test_added_variables_make_their_path() -> None:
    """Objects along a path are made once, those that are there are used, and flags say that there are values."""
    found = keras_2()
    found.drop(list(found.keys()))
    count = len(found.objects)
    found.add({f"model/new/w{VALUE}": "new/w", f"model/new/b{VALUE}": "", f"model/layer-0/x.Sy{VALUE}": ""})
    assert len(found.objects) == count + 4
    assert found.at(("model", "layer_with_weights-0", "x/y")) == found.at(("model", "layer-0", "x/y")) == count + 3
    assert found.full_names() == {f"model/new/w{VALUE}": "new/w"}
    assert [flag == TRUE for flag in flags(found)] == [
        *(number in (0, 1, 2) for number in range(count)), *[True] * 4
    ]  # fmt: skip


@pytest.mark.parametrize(
    "key",
    ["a/w" + VALUE, "odd" + VALUE, "plain", "t/.ATTRIBUTES/table-keys", VALUE, "q/.OPTIMIZER_SLOT/o/m" + VALUE],
)
def test_what_cannot_be_added_changes_nothing(key: str) -> None:
    """A path of another object, a key that is no variable's, and a slot of nothing are refused."""
    found = graph(node(a=1, odd=3), node(w=2), row("a/w"), row("keyed/elsewhere"))
    before = found.encode()
    with pytest.raises(RefusedError):
        found.add({"fine/w" + VALUE: "", key: ""})
    assert found.encode() == before


def test_cycles_end() -> None:
    """Objects that refer to each other and to themselves have layers and can be edited."""
    found = graph(node(root=0, net=1), node(me=1, parent=0, dense=2), node(w=3, up=1), row("net/dense/w"))
    assert found.layers(["net/dense/w" + VALUE]) == {"attributes": {"net/dense/w" + VALUE: 0}}
    found.rename({"net/dense/w" + VALUE: "net/other/w" + VALUE})
    assert found.at(("net", "me", "parent", "net", "other", "w")) == 3
    found.drop(["net/other/w" + VALUE])
    assert found.layers([]) == {}


def test_many_variables_are_edited_in_one_pass() -> None:
    """Twenty thousand rows of one list move, one by one, each to its own name."""
    count = 20_000
    names = {str(at): at + 2 for at in range(count)}
    found = graph(node(o=1), node(**names), *(row(f"o/{at}") for at in range(count)))
    found.rename({f"o/{at}{VALUE}": f"net/w{at}{VALUE}" for at in range(count)})
    assert [found.at(("net", f"w{at}")) for at in (0, count - 1)] == [2, count + 1]
    assert found.at(("o", "0")) is None
