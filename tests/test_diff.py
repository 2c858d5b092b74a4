"""Diff lists exactly what differs, in whatever way two checkpoints store it, and reads no more than it must."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import handmade
import ml_dtypes
import models
import numpy as np
import pytest
import strategies
from handmade import HandMade
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ckptsurgeon
from ckptsurgeon import cli, formats, schemes
from ckptsurgeon.cli.verbs import diff as diff_verb
from ckptsurgeon.compare import differences
from ckptsurgeon.errors import DamagedError, NotFoundError, UsageError
from ckptsurgeon.formats.safetensors.reading import SafeTensors
from ckptsurgeon.formats.tensorflow.tensors import NUMBERS
from ckptsurgeon.formats.v1 import writing as v1_writing
from ckptsurgeon.plan import Plan
from ckptsurgeon.surgeon.selection import Selection
from ckptsurgeon.verbs import looking

Arrays = dict[str, Any]
EVERY_WAY: list[dict[str, Any]] = [{}, {"exact": True}, {"values": True}, {"values": True, "exact": True}]


def _diff(a: Path, b: Path, **options: Any) -> dict[str, str]:
    """Name -> status, of what differs."""
    found = looking.diff(str(a), str(b), **options)
    assert [each.name_b for each in found] == [None if each.status == "removed" else each.name for each in found]
    return {each.name: each.status for each in found if each.status != "same"}


def _measured(a: Path, b: Path, **options: Any) -> dict[str, tuple[float | None, float | None]]:
    """Name -> max_abs and rel_l2."""
    return {each.name: (each.max_abs, each.rel_l2) for each in looking.diff(str(a), str(b), values=True, **options)}


def _two(folder: Path, a: Arrays, b: Arrays) -> tuple[Path, Path]:
    formats.write(str(folder / "a"), a, sync=False)
    formats.write(str(folder / "b"), b, sync=False)
    return folder / "a", folder / "b"


def _data(path: Path) -> Path:
    return path.with_name(path.name + ".data-00000-of-00001")


def _as_v1(path: Path) -> Path:
    """The same checkpoint in TensorFlow's older format."""
    out = path.with_name(path.name + "-v1")
    with formats.open(str(path)) as checkpoint:
        v1_writing.save_as(Plan(checkpoint, []), str(out), False, False, 0.0)
    return out


def _one_of_each() -> tuple[Arrays, Arrays]:
    a = {
        "layer2/w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "layer10/w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "kind": np.zeros(3, np.float32),
        "both": np.zeros((2, 2), np.float32),
        "form": np.zeros((2, 3), np.int64),
        "gone": np.ones(2),
        "text": handmade.strings(b"one", b"two"),
        "step": np.asarray(7, np.int64),
        "none": np.zeros((0, 4), np.float32),
    }
    b = {
        **{name: values for name, values in a.items() if name != "gone"},
        "layer10/w": np.arange(1, 7, dtype=np.float32).reshape(2, 3),
        "kind": np.zeros(3, ml_dtypes.bfloat16),
        "both": np.zeros(4, np.float64),
        "form": np.zeros((3, 2), np.int64),
        "new": np.ones(2),
        "text": handmade.strings(b"on", b"etwo"),
        "step": np.asarray(8, np.int64),
    }
    return a, b


DIFFERENT = {
    "both": "dtype",
    "form": "shape",
    "gone": "removed",
    "kind": "dtype",
    "layer10/w": "changed",
    "new": "added",
    "step": "changed",
    "text": "changed",
}


# -- what differs


@pytest.mark.parametrize("options", EVERY_WAY)
def test_every_status(tmp_path: Path, options: dict[str, Any]) -> None:
    """Each status in natural order, dtype before shape, in whichever way values are compared; and none with itself."""
    a, b = _two(tmp_path, *_one_of_each())
    assert _diff(a, b, **options) == DIFFERENT
    assert [each.name for each in looking.diff(str(a), str(b), **options)] == [
        "both", "form", "gone", "kind", "layer2/w", "layer10/w", "new", "none", "step", "text"
    ]  # fmt: skip
    assert _diff(a, a, **options) == {}


@pytest.mark.parametrize("options", EVERY_WAY)
@pytest.mark.parametrize("sides", [(True, True), (False, True), (True, False)])
def test_v1_and_v2_hold_the_same(tmp_path: Path, sides: tuple[bool, bool], options: dict[str, Any]) -> None:
    """The container counts for nothing: a conversion is no difference, and differences are found across."""
    arrays = _one_of_each()
    for content in arrays:
        content.pop("kind")
    paths = []
    for path, is_v1 in zip(_two(tmp_path, *arrays), sides, strict=True):
        paths.append(_as_v1(path) if is_v1 else path)
        assert _diff(path, paths[-1], **options) == {}
    assert _diff(*paths, **options) == {name: status for name, status in DIFFERENT.items() if name != "kind"}


@pytest.mark.parametrize("options", EVERY_WAY)
def test_byte_order_and_shards_count_for_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    """The same values big-endian, in three shards, are the same; others are not."""
    a, b = _one_of_each()
    _two(tmp_path, a, b)
    strategies.write_bundle(tmp_path / "big", a, shards=3, byteorder="big")
    assert _diff(tmp_path / "a", tmp_path / "big", **options) == {}
    assert _diff(tmp_path / "big", tmp_path / "b", **options) == DIFFERENT


ROWS = (((0, 2), (0, -1)), ((2, 4), (0, -1)))
PARTITIONS: list[tuple[handmade.Extents, ...]] = [
    (((0, -1), (0, -1)),),
    ROWS,
    ROWS[::-1],
    (((0, 2), (0, 4)), ((2, 4), (0, 4))),
    (((0, 1), (0, -1)), ((1, 3), (0, -1)), ((4, 2), (0, -1))),
    (((0, -1), (0, 1)), ((0, -1), (1, 3))),
    (((0, 3), (0, 2)), ((3, 3), (0, 2)), ((0, -1), (2, 2))),
]


@pytest.mark.parametrize("options", EVERY_WAY)
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("one", PARTITIONS)
def test_partitions_count_for_nothing(
    tmp_path: Path, one: tuple[handmade.Extents, ...], text: bool, options: dict[str, Any]
) -> None:
    """A partitioned variable is compared by its values, however its counterpart is partitioned, or if it is whole."""
    numbers = np.arange(24).reshape(6, 4)
    values = np.vectorize(lambda number: b"%d" % number, otypes=[object])(numbers) if text else numbers
    other_values = values.copy()
    other_values[5, 3] = b"x" if text else -1
    made = HandMade(2)
    made.add_sliced("w", values, one)
    a = made.write(tmp_path / "a")
    for at, other in enumerate([None, *PARTITIONS]):
        for content, expected in ((values, {}), (other_values, {"w": "changed"})):
            made = HandMade(2)
            if other is None:
                made.add("w", content)
            else:
                made.add_sliced("w", content, other)
            assert _diff(a, made.write(tmp_path / f"b{at}"), **options) == expected


def test_variants_are_compared_as_they_are_stored(tmp_path: Path) -> None:
    """Variants by their checksums, and with --exact by their bytes, also where byte orders differ."""
    paths = {}
    for name, proto, big in (
        ("a", b"one", False),
        ("same", b"one", False),
        ("b", b"two", False),
        ("big", b"two", True),
    ):
        made = HandMade(big=big)
        stream, crc = handmade.variant_stream([proto])
        made.rows[b"v"] = handmade.entry(NUMBERS["variant"], (), **{**made.place(stream), "crc": crc})
        paths[name] = made.write(tmp_path / name)
    for options in EVERY_WAY:
        assert _diff(paths["a"], paths["same"], **options) == {}
        assert _diff(paths["a"], paths["b"], **options) == {"v": "changed"}
        assert _diff(paths["a"], paths["big"], **options) == {"v": "changed"}
        assert _diff(paths["b"], paths["big"], **options) == {}
    assert _measured(paths["a"], paths["b"]) == {"v": (None, None)}


def test_safetensors_and_bundles_hold_the_same(tmp_path: Path) -> None:
    """Values that both store bare are compared without decoding; packed ones by value."""
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "q": np.asarray([1, 6], ml_dtypes.float4_e2m1fn)}
    changed = {"w": arrays["w"] + np.eye(2, 3, dtype=np.float32), "q": np.asarray([1, 4], ml_dtypes.float4_e2m1fn)}

    def write(name: str, w: Any, q: bytes) -> str:
        header = {
            "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "q": {"dtype": "F4", "shape": [2], "data_offsets": [24, 25]},
        }
        text = json.dumps(header).encode()
        (tmp_path / name).write_bytes(len(text).to_bytes(8, "little") + text + w.tobytes() + q)
        return str(tmp_path / name)

    packed = bytes([arrays["q"].view(np.uint8)[0] | arrays["q"].view(np.uint8)[1] << 4])
    path, other = write("s", arrays["w"], packed), write("t", changed["w"], packed)
    a, b = _two(tmp_path, arrays, changed)
    with SafeTensors(path, [path]) as stored, SafeTensors(other, [other]) as second:
        with formats.open(str(a)) as one:
            assert {each.status for each in differences.diff(stored, one)} == {"same"}
            assert {each.status for each in differences.diff(one, stored, exact=True)} == {"same"}
        with formats.open(str(b)) as one:
            assert {each.status for each in differences.diff(stored, one)} == {"changed"}
        assert [each.status for each in differences.diff(stored, stored)] == ["same", "same"]
        assert [each.status for each in differences.diff(stored, second)] == ["same", "changed"]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_exactly_the_changed_names_are_listed(tmp_path: Path, data: st.DataObject) -> None:
    """After random changes to a random checkpoint diff lists what was changed, and nothing else."""
    a = data.draw(strategies.checkpoints())
    b: Arrays = {}
    for name, values in a.items():
        change = data.draw(st.sampled_from(("same", "same", "value", "removed", "other")))
        if change == "same":
            b[name] = values
        elif change == "other":
            b[name] = data.draw(strategies.arrays())
        elif change == "value":
            b[name] = _changed(values, data)
    b |= {name: values for name, values in data.draw(strategies.checkpoints(max_size=2)).items() if name not in b}
    for path, arrays in ((tmp_path / "a", a), (tmp_path / "b", b)):
        order = data.draw(st.sampled_from(("little", "little", "big")))
        strategies.write_bundle(path, arrays, data.draw(st.integers(1, 3)), order)
    ours, theirs = models.read(tmp_path / "a"), models.read(tmp_path / "b")
    expected = {name: "removed" for name in ours if name not in theirs}
    expected |= {name: "added" for name in theirs if name not in ours}
    for name in ours.keys() & theirs.keys():
        x, y = ours[name], theirs[name]
        if not strategies.same(x, y):
            expected[name] = "dtype" if x.dtype != y.dtype else "shape" if x.shape != y.shape else "changed"
    for options in EVERY_WAY:
        assert _diff(tmp_path / "a", tmp_path / "b", **options) == expected


def _changed(values: Any, data: st.DataObject) -> Any:
    """The same values but for one element, where there is one."""
    values = values.copy()
    flat = values.reshape(-1)
    if flat.size:
        at = data.draw(st.integers(0, flat.size - 1))
        if values.dtype.kind == "O":
            flat[at] += b"x"
        else:
            flat.view(np.uint8)[at * values.itemsize] ^= 1
    return values


# -- what is selected


def test_a_selection_is_counted_on_a(tmp_path: Path) -> None:
    """Layers by A's numbers; what B alone has there is added; the rest is left out."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 1, units=(4, 6, 3, 2))
    a, b = tmp_path / "a", tmp_path / "b"
    layer = "dnn/layer{}/Linear/{}"
    assert set(_diff(a, b, layers="-1")) == {"dnn/layer2/Linear/Matrix", "dnn/layer2/Linear/Matrix/Adagrad",
                                             "dnn/layer2/Linear/Bias", "dnn/layer2/Linear/Bias/Adagrad"}  # fmt: skip
    assert set(_diff(b, a, layers="3", exclude=["**/Adagrad"])) == {layer.format(3, "Bias"), layer.format(3, "Matrix")}
    assert set(_diff(b, a, layers="3", exclude=["**/Adagrad"]).values()) == {"removed"}
    assert _diff(a, b, match=["dnn/*/*/Bias"]) == {
        layer.format(1, "Bias"): "shape",
        layer.format(2, "Bias"): "changed",
        layer.format(3, "Bias"): "added",
    }
    assert _diff(a, b, match=["dnn/*/*/Bias"], exclude=["dnn/layer3/**", "dnn/layer1/**"]) == {
        layer.format(2, "Bias"): "changed"
    }
    assert _diff(a, b, match=["dnn/layer3/*/Bias"]) == {layer.format(3, "Bias"): "added"}
    assert _diff(a, b, layers="0", scheme="dnn/layer{K}/**", match=["global_step"], exclude=["**/Adagrad"]) == {}
    every = _diff(a, b)
    assert _diff(a, b, exclude=["dnn/layer3/**", "dnn/layer2/**"]) == {
        name: status for name, status in every.items() if not name.startswith(("dnn/layer3/", "dnn/layer2/"))
    }
    for wrong in ({"match": ["nope"]}, {"layers": "3"}, {"exclude": ["nope"]}, {"layers": "0", "match": ["nope"]}):
        with pytest.raises(UsageError):
            looking.diff(str(a), str(b), **wrong)


def test_layers_of_a_differently_named_b_are_added(tmp_path: Path) -> None:
    """Each side's layers by its own scheme, unless they are as many, so that they pair; A's may fit nothing in B."""
    zeros = np.zeros(2, np.float32)
    a, b = _two(
        tmp_path,
        {"dnn/layer0/w": zeros, "dnn/layer1/w": zeros},
        {f"dnn/hiddenlayer_{number}/w": zeros for number in range(3)},
    )
    assert _diff(a, b, layers="0") == {"dnn/layer0/w": "removed", "dnn/hiddenlayer_0/w": "added"}
    formats.write(str(tmp_path / "c"), {"head": zeros}, sync=False)
    assert _diff(a, tmp_path / "c", layers="1") == {"dnn/layer1/w": "removed"}


# -- one model in two layouts


def _named(a: Path, b: Path, **options: Any) -> dict[str, tuple[str, str | None]]:
    """Name -> status and name in the second one."""
    return {each.name: (each.status, each.name_b) for each in looking.diff(str(a), str(b), **options)}


def test_two_layouts_of_keras_hold_the_same(samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model's legacy file and its .keras are equal in either order: every weight, slot and counter pairs."""
    old, new = samples / "keras-pair" / "model.h5", samples / "keras-pair" / "model.keras"
    for a, b in ((old, new), (new, old)):
        assert cli.main(["diff", str(a), str(b), "--all", "--json"]) == 0
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        names = {row["name"]: row["name_b"] for row in rows}
        assert {row["status"] for row in rows} == {"same"}
        assert [len(names), len(set(names.values()))] == [20, 20]
        names |= {name_b: name for name, name_b in names.items()}
        assert names["model_weights/dense_7/sequential_2/dense_7/bias"] == "layers/dense_1/vars/1"
        assert names["optimizer_weights/adam/learning_rate"] == "optimizer/vars/1"
        assert names["optimizer_weights/adam/sequential_2_dense_8_kernel_velocity"] == "optimizer/vars/11"
        assert cli.main(["diff", str(a), str(b), "--all"]) == 0
        lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
        assert lines == [["same", f"{row['name']}={row['name_b']}"] for row in rows]


def _layouts(folder: Path, shared: str = "", **changed: Any) -> tuple[Path, Path]:
    """One model by skflow's names and by tf.estimator's, with those shared, but for what is changed in the second."""
    values = np.random.default_rng(1)
    a: Arrays = {name: np.asarray(3) for name in ["global_step", *shared]}
    b = dict(a)
    for number in range(3):
        for old, new, shape in (("Matrix", "kernel", (3, 2)), ("Bias", "bias", (2,))):
            for slot in ("", "/Adam", "/Adam_1"):
                array = values.random(shape)
                a[f"dnn/layer{number}/Linear/{old}{slot}"] = b[f"dnn/hiddenlayer_{number}/{new}{slot}"] = array
    return _two(folder, a, b | changed)


def test_schemes_pair_two_layouts(tmp_path: Path) -> None:
    """Layers that names alone number pair too, by roles, and slots with their variables; what differs is listed."""
    assert {status for status, _ in _named(*_layouts(tmp_path)).values()} == {"same"}
    changed = {"dnn/hiddenlayer_1/kernel": np.zeros((3, 2)), "dnn/hiddenlayer_2/bias/Adam_1": np.zeros(3), "new": 1}
    found = _named(*_layouts(tmp_path, **{name: np.asarray(each) for name, each in changed.items()}))
    assert {name: each for name, each in found.items() if each[0] != "same"} == {
        "dnn/layer1/Linear/Matrix": ("changed", "dnn/hiddenlayer_1/kernel"),
        "dnn/hiddenlayer_2/bias/Adam_1": ("added", "dnn/hiddenlayer_2/bias/Adam_1"),
        "dnn/layer2/Linear/Bias/Adam_1": ("removed", None),
        "new": ("added", "new"),
    }
    assert found["global_step"] == ("same", "global_step")


def test_a_selection_means_either_name(tmp_path: Path) -> None:
    """Whichever of its two names is selected or excluded, a pair is, as one."""
    a, b = _layouts(tmp_path)
    pair = {"dnn/layer1/Linear/Bias": ("same", "dnn/hiddenlayer_1/bias")}
    assert _named(a, b, match=["dnn/layer1/Linear/Bias"]) == pair
    assert _named(a, b, match=["dnn/hiddenlayer_1/bias"]) == pair
    assert _named(a, b, layers="1", exclude=["**/Adam*", "**/kernel"]) == pair
    assert _named(a, b, layers="1", exclude=["**/Adam*", "**/Matrix"]) == pair
    assert _named(b, a, layers="1", exclude=["**/Adam*", "**/Matrix"]) == {
        "dnn/hiddenlayer_1/bias": ("same", "dnn/layer1/Linear/Bias")
    }


def test_names_in_common_keep_others_from_pairing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints that share a quarter of their names are of one layout: layers are not even looked for."""
    assert _named(*_layouts(tmp_path, shared="abcd"))["dnn/layer2/Linear/Bias"] == ("same", "dnn/hiddenlayer_2/bias")
    monkeypatch.setattr(schemes, "find", None)
    assert _named(*_layouts(tmp_path, shared="abcde"))["dnn/layer2/Linear/Bias"] == ("removed", None)
    a, _ = _layouts(tmp_path)
    assert {status for status, _ in _named(a, a).values()} == {"same"}


# -- how far numbers are apart


def test_distances(tmp_path: Path) -> None:
    """max_abs and rel_l2 in float64; null of strings and of what is not on both sides; 0 of what is the same."""
    a, b = _two(
        tmp_path,
        {
            "f": np.asarray([3, 4], np.float32), "z": np.zeros(2), "h": np.asarray([1, -1], ml_dtypes.bfloat16),
            "c": np.asarray([3 + 4j]), "t": np.asarray([True, False]), "n": np.asarray([-(2**63), 5]),
            "u": np.asarray([0, 2**63], np.uint64), "i": np.asarray([-128, 2], np.int8), "s": handmade.strings(b"x"),
            "x": np.zeros(1), "same": np.ones(2), "e": np.zeros(0), "tiny": np.asarray([3e-200, 4e-200]),
            "huge": np.asarray([3e200, 4e200]), "q": np.asarray([1, -8], ml_dtypes.int4), "scalar": np.asarray(2.0),
        },
        {
            "f": np.asarray([3, 1], np.float32), "z": np.ones(2), "h": np.asarray([1, 1], ml_dtypes.bfloat16),
            "c": np.asarray([0j]), "t": np.asarray([True, True]), "n": np.asarray([2**63 - 1, 5]),
            "u": np.asarray([1, 2**63 + 1], np.uint64), "i": np.asarray([127, 2], np.int8), "s": handmade.strings(b"y"),
            "y": np.zeros(1), "same": np.ones(2), "e": np.zeros(0), "tiny": np.asarray([3e-200, 1e-200]),
            "huge": np.asarray([3e200, 1e200]), "q": np.asarray([-8, 7], ml_dtypes.int4), "scalar": np.asarray(3.0),
        },
    )  # fmt: skip
    for options in ({}, {"exact": True}):
        found = _measured(a, b, **options)
        assert (found["s"], found["x"], found["y"]) == ((None, None),) * 3
        numbers = {name: pytest.approx(pair, rel=1e-12) for name, pair in found.items() if name not in "sxy"}
        assert numbers == {
            "f": (3, 0.6), "z": (1, math.inf), "h": (2, math.sqrt(2)), "c": (5, 1), "t": (1, 1),
            "n": (2.0**64 - 1, 2), "u": (1, math.sqrt(2) / 2**63), "i": (255, 255 / math.hypot(128, 2)),
            "same": (0, 0), "e": (0, 0), "tiny": (3e-200, 0.6), "huge": (3e200, 0.6),
            "q": (15, math.hypot(9, 15) / math.hypot(1, 8)), "scalar": (1, 0.5),
        }  # fmt: skip


def test_nan_and_infinities(tmp_path: Path) -> None:
    """NaN or an infinity in both places is no difference; NaN in one makes both numbers NaN."""
    nan, inf = math.nan, math.inf
    a, b = _two(
        tmp_path,
        {"both": np.asarray([nan, inf, 3, 4]), "one": np.asarray([nan, inf, 1]), "inf": np.asarray([1.0, 2]),
         "sign": np.asarray([inf]), "c": np.asarray([complex(nan, 1), 2])},
        {"both": np.asarray([nan, inf, 3, 1]), "one": np.asarray([1, 1.0, 1]), "inf": np.asarray([1, -inf]),
         "sign": np.asarray([-inf]), "c": np.asarray([complex(1, nan), 2])},
    )  # fmt: skip
    found = _measured(a, b)
    assert found["both"] == pytest.approx((3, 0.6))
    assert found["inf"] == (inf, inf)
    assert found["sign"][0] == inf
    assert found["c"] == (0, 0)
    for number in (*found["one"], found["sign"][1]):
        assert number is not None
        assert math.isnan(number)


def test_a_large_variable_is_measured_over_all_its_chunks(tmp_path: Path) -> None:
    """Distances of values that come in many chunks are those that NumPy computes over all."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 300_001)).astype(np.float32)
    a, b = _two(tmp_path, {"w": x}, {"w": y})
    one_chunk = _as_v1(b)
    x, y = x.astype(np.float64), y.astype(np.float64)
    expected = (np.abs(x - y).max(), np.linalg.norm(x - y) / np.linalg.norm(x))
    assert _measured(a, b)["w"] == pytest.approx(expected, rel=1e-12)
    assert _measured(a, one_chunk)["w"] == pytest.approx(expected, rel=1e-12)


def test_tolerance(tmp_path: Path) -> None:
    """Numbers are the same up to the tolerance, NaN beside a number never; strings only if they are equal."""
    a, b = _two(
        tmp_path,
        {"f": np.zeros(3), "z": np.zeros(1), "n": np.asarray([0.0, math.nan]), "m": np.asarray([math.nan]),
         "i": np.asarray([2**60]), "s": handmade.strings(b"x"), "t": handmade.strings(b"x")},
        {"f": np.asarray([0, 0.5, -0.25]), "z": -np.zeros(1), "n": np.zeros(2),
         "m": np.asarray([-math.nan]), "i": np.asarray([2**60 + 1]), "s": handmade.strings(b"x"),
         "t": handmade.strings(b"y")},
    )  # fmt: skip
    assert set(_diff(a, b)) == {"f", "z", "n", "m", "i", "t"}
    assert set(_diff(a, b, tolerance=0)) == {"f", "n", "i", "t"}
    assert set(_diff(a, b, tolerance=0.5)) == {"n", "i", "t"}
    assert set(_diff(a, b, tolerance=math.inf, values=True)) == {"n", "t"}
    for wrong in ({"tolerance": -1.0}, {"tolerance": math.nan}, {"tolerance": 1.0, "exact": True}):
        with pytest.raises(UsageError):
            looking.diff(str(a), str(b), **wrong)


# -- what is read


def test_checksums_answer_without_data(tmp_path: Path) -> None:
    """Two bundles without their data files are compared; what needs the data names the file that is missing."""
    a, b = _two(tmp_path, *_one_of_each())
    _data(a).unlink()
    expected = _diff(a, b)
    _data(b).rename(tmp_path / "away")
    assert _diff(a, b) == expected == DIFFERENT
    (tmp_path / "away").rename(_data(b))
    for options in ({"exact": True}, {"values": True}, {"tolerance": 1.0}):
        with pytest.raises(NotFoundError) as caught:
            looking.diff(str(a), str(b), **options)
        assert caught.value.path == str(_data(a))
    with pytest.raises(NotFoundError):
        looking.diff(str(tmp_path / "nothing"), str(b))


def test_exact_finds_what_checksums_hide(tmp_path: Path) -> None:
    """A bit that flipped under an unchanged checksum is a difference to --exact alone, wherever it is."""
    arrays = {"w": np.arange(200_000, dtype=np.float32), "v": np.arange(7, dtype=np.int8)}
    a, b = _two(tmp_path, arrays, arrays)
    content = bytearray(_data(b).read_bytes())
    with formats.open(str(b)) as checkpoint:
        [extent] = checkpoint["w"].extents
    for at in (0, 262_143, 262_144, 799_999):
        broken = bytearray(content)
        broken[extent.offset + at] ^= 1
        _data(b).write_bytes(broken)
        assert _diff(a, b) == {}
        assert _diff(a, b, exact=True) == {"w": "changed"}
    broken = bytearray(content)
    broken[extent.offset] ^= 1
    _data(b).write_bytes(broken)
    with pytest.raises(DamagedError, match="wrong checksum"):
        looking.diff(str(a), str(b), exact=True, values=True)
    _data(b).write_bytes(content[:-1])
    with pytest.raises(DamagedError, match="cut short"):
        looking.diff(str(a), str(b), exact=True)


def test_one_place_of_one_file_is_equal_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two checkpoints that link one data file are equal to --exact, and no tensor is read; a copy is read."""
    models.write(tmp_path / "a", 1)
    for suffix in (".index", ".data-00000-of-00001"):
        os.link(tmp_path / f"a{suffix}", tmp_path / f"b{suffix}")
        shutil.copy(tmp_path / f"a{suffix}", tmp_path / f"c{suffix}")
    read: list[int] = []
    pread = os.pread

    def counting(fd: int, length: int, offset: int) -> bytes:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("-of-00001"):
            read.append(length)
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    assert _diff(tmp_path / "a", tmp_path / "b", exact=True) == {}
    assert read == []
    assert _diff(tmp_path / "a", tmp_path / "c", exact=True) == {}
    assert len(read) == 2 * len(models.skflow_arrays(1))


@pytest.mark.parametrize("options", [[], ["--exact"], ["--all", "--json", "--layers", "0-1"]])
def test_bundles_are_compared_without_numpy(tmp_path: Path, options: list[str]) -> None:
    """Neither checksums nor bytes need NumPy."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    code = (
        "import sys\nfrom ckptsurgeon.cli import main\n"
        f"status = main(['diff', 'a', 'b', *{options!r}])\n"
        "sys.exit('NumPy' if 'numpy' in sys.modules else status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")


def test_memory_does_not_grow_with_the_size(tmp_path: Path) -> None:
    """Variables of 24 MB each are compared, and verified, in 20 MB more than NumPy itself takes."""
    rng = np.random.default_rng(0)
    arrays = {name: rng.normal(size=6_000_000).astype(np.float32) for name in ("v", "w")}
    a, b = _two(tmp_path, arrays, {**arrays, "v": -arrays["v"]})
    for command in (["diff", str(a), str(b), "--exact", "--values"], ["verify", str(a), "--finite"]):
        code = (
            "import sys, resource\nfrom ckptsurgeon.cli import main\nimport numpy, ml_dtypes\n"
            "private = lambda: int(open('/proc/self/statm').read().split()[5]) * resource.getpagesize()\n"
            "before = private()\n"
            "resource.setrlimit(resource.RLIMIT_DATA, (before + (20 << 20), -1))\n"
            f"sys.exit(main({command!r}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stderr == ""
        assert done.returncode == (1 if command[0] == "diff" else 0)


# -- the verb


def test_the_verb_prints_and_tells_by_its_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain columns status and name, with --values the distances; exit status 0, 1 or 2."""
    paths = [str(path) for path in _two(tmp_path, *_one_of_each())]
    assert cli.main(["diff", *paths]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [f"{status}\t{name}" for name, status in DIFFERENT.items()]
    assert cli.main(["diff", *paths, "--all"]) == 1
    assert {"same\tlayer2/w", "same\tnone"} < set(capsys.readouterr().out.splitlines())
    assert cli.main(["diff", *paths, "step", "text", "--values", "--match", "layer*/w", "--exclude", "layer2/*"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "changed\tlayer10/w\t1\t0.330289",
        "changed\tstep\t1\t0.142857",
        "changed\ttext\t-\t-",
    ]
    assert cli.main(["diff", paths[0], paths[0]]) == 0
    assert capsys.readouterr().out == ""
    assert cli.main(["diff", *paths, "--match", "step", "--tolerance", "1"]) == 0
    for command, message in (
        ([*paths, "--tolerance", "-1"], "invalid --tolerance -1.0"),
        ([*paths, "--tolerance", "x"], "invalid float value"),
        ([*paths, "nothing"], "nothing matches nothing"),
        ([paths[0], "nowhere"], "nowhere: no such checkpoint"),
        ([paths[0]], "the following arguments are required: B"),
    ):
        assert cli.main(["diff", *command]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err
    _data(Path(paths[1])).unlink()
    assert cli.main(["diff", *paths, "--exact"]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"ckptsurgeon: {paths[1]}.data-00000-of-00001: no such file or directory\n")


def test_json_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """status, name, name_b, with --values max_abs and rel_l2; NaN as text, null where there is none."""
    nan = np.asarray([math.nan])
    a, b = map(str, _two(tmp_path, {"n": np.zeros(1), "x": np.zeros(1)}, {"n": nan, "y": np.zeros(1)}))
    assert cli.main(["diff", a, b, "--json"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(row) for row in rows] == [["status", "name", "name_b"]] * 3
    assert [list(row.values()) for row in rows] == [["changed", "n", "n"], ["removed", "x", None], ["added", "y", "y"]]
    assert cli.main(["diff", a, b, "--json", "--values"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(row) for row in rows] == [["status", "name", "name_b", "max_abs", "rel_l2"]] * 3
    assert (rows[0]["max_abs"], rows[0]["rel_l2"], rows[1]["max_abs"]) == ("NaN", "NaN", None)


def test_a_terminal_is_told_that_nothing_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing to list is said, on a terminal."""
    models.write(tmp_path / "a", 1)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert cli.main(["diff", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == "no difference\n"


def test_the_examples_of_the_help_run(tmp_path: Path) -> None:
    """The examples that --help shows work as they stand."""
    for name in ("model.ckpt", "src.ckpt", "dst.ckpt", "a.ckpt", "b.ckpt"):
        models.write(tmp_path / name, 1 if name in ("src.ckpt", "a.ckpt") else 2)
    examples = [line for line in diff_verb.HELP.splitlines() if line.startswith("  ")]
    assert len(examples) == 3
    for line in examples:
        shell = f'set -e -o pipefail; ckptsurgeon() {{ {shlex.quote(sys.executable)} -m ckptsurgeon "$@"; }}; {line}'
        done = subprocess.run(["bash", "-c", shell], cwd=tmp_path, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


def test_the_api(tmp_path: Path) -> None:
    """`ckptsurgeon.diff` is the function, also after it was called."""
    a, b = map(str, _two(tmp_path, *_one_of_each()))
    for _ in range(2):
        [step] = ckptsurgeon.diff(a, b, match=["step"], values=True)
        assert (step.status, step.name, step.name_b, step.max_abs) == ("changed", "step", "step", 1)


def test_the_comparison_takes_open_checkpoints(tmp_path: Path) -> None:
    """Without the verb: two open checkpoints and a selection."""
    a, b = map(str, _two(tmp_path, *_one_of_each()))
    with formats.open(a) as one, formats.open(b) as other:
        found = differences.diff(one, other, Selection(match=["layer*/w"]))
    assert [(each.status, each.name) for each in found] == [("same", "layer2/w"), ("changed", "layer10/w")]
