"""ring.toml: defaults, every mistake at once, and what may change in the middle of a run."""

from __future__ import annotations

import contextlib
import copy
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring_support import FULL

from ckptsurgeon.errors import CkptSurgeonError, Problems
from ckptsurgeon.ring.schedule import TRUNK, Schedule
from ckptsurgeon.ring.spec import changes, loading, template
from ckptsurgeon.ring.spec.records import Data, Model, Spec, Stop

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MINIMAL: dict[str, Any] = {
    "layers": "0-1",
    "data": {"file": "iris.csv", "target": "species"},
    "models": [{"name": "a", "hidden_units": [10, 20, 10]}, {"name": "b", "hidden_units": [10, 20]}],
}


def changed(**values: Any) -> dict[str, Any]:
    return {**copy.deepcopy(MINIMAL), **values}


def model(**values: Any) -> dict[str, Any]:
    return changed(models=[MINIMAL["models"][0], {"name": "b", **values}])


def messages(table: dict[str, Any]) -> list[str]:
    with pytest.raises(CkptSurgeonError) as caught:
        loading.parse(table, "R/ring.toml")
    return caught.value.lines


def test_all_but_the_models_has_a_default() -> None:
    """The defaults are the documented ones."""
    spec = loading.parse(MINIMAL)
    assert spec == Spec(
        layers="0-1",
        slots="keep",
        seed=42,
        durability="round",
        max_to_keep=5,
        stop=Stop(tolerance=1e-2, window=20, rounds=5000),
        data=Data("iris.csv", "species", batch_size=32, holdout=0.2),
        models=(
            Model("a", hidden_units=(10, 20, 10), optimizer="Adagrad", learning_rate=0.1, timeout=600, tries=3),
            Model("b", hidden_units=(10, 20), optimizer="Adagrad", learning_rate=0.1, timeout=600, tries=3),
        ),
    )


def test_every_key_is_read(tmp_path: Path) -> None:
    """A file with all keys becomes a spec with all values."""
    path = tmp_path / "ring.toml"
    path.write_text(FULL)
    spec = loading.load(str(path))
    assert (spec.slots, spec.seed, spec.durability, spec.max_to_keep) == ("fill=0.1", 7, "step", 3)
    assert (spec.schedule, spec.order, spec.warmup) == ("ring", ("c", "a", "b"), 2)
    assert spec.stop == Stop(1e-3, 10, 100, trunk_tolerance=1e-4, patience=3)
    assert spec.data == Data("iris.csv", "species", 16, 0.1)
    assert spec.names == ("c", "a", "b")
    assert spec.steps == Schedule(("c", "a", "b"), "ring", 2, "0-1", ((5, "0"),), 50)
    assert spec.suffixes == {"a": "", "b": ".safetensors", "c": "", TRUNK: ""}
    assert spec.models[0] == Model("a", hidden_units=(10, 20, 10), optimizer="SGD", learning_rate=1.0)
    command = ("python", "train.py", "{checkpoint}", "{output}", "--data", "{data}")
    assert spec.models[1] == Model(
        "b",
        command=command,
        init="first.ckpt",
        format="safetensors",
        scheme="layers.{K}.**",
        map=("layers.*.weight=dnn/layer*/Linear/Matrix.T", "layers.*.bias=dnn/layer*/Linear/Bias"),
        predict=("python", "predict.py", "{checkpoint}", "{data}", "{output}"),
        memory=2000.0,
        timeout=5.0,
        tries=1,
        learning_rate=({"rounds": 5, "rate": 0.1}, {"rounds": 1, "rate": 0.01}),
    )
    rate = {"schedule": "step", "start": 0.1, "every": 50, "factor": 0.5}
    assert spec.models[2] == Model("c", worker=("./my-worker",), learning_rate=rate)


def test_a_spec_that_was_written_is_read_back(tmp_path: Path) -> None:
    """What `ring init` writes, with its comments, is what it means."""
    for table in (MINIMAL, tomllib.loads(FULL), changed(data={"file": 'a"b\\ü\x7f\n.csv', "target": "'"})):
        path = tmp_path / "ring.toml"
        path.write_text(template.render(loading.parse(table)))
        assert loading.load(str(path)) == loading.parse(table)
        assert "# the trunk" in path.read_text()


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({}, ["layers: missing", "models: missing"]),
        (changed(layer="0"), ["layer: unknown key; did you mean layers"]),
        (changed(schedules="ring"), ["schedules: unknown key; did you mean schedule"]),
        (changed(schedule="star"), ['schedule: wrong value; expected "ring" or "average"']),
        (changed(warmup=-1), ["warmup: wrong value"]),
        (changed(order=["a"]), ["order: must name each model once; expected a b, found a"]),
        (changed(order=["a", "b", "a"]), ["order: must name each model once"]),
        (changed(order=["b", "a"], schedule="average"), ["order: is only valid for a ring"]),
        (changed(slots="copy", schedule="average"), ["slots: an average has no slots to copy"]),
        (changed(stop={"trunk_tolerance": -1}), ["stop.trunk_tolerance: wrong value"]),
        (changed(stop={"patience": 0}), ["stop.patience: wrong value"]),
        (
            changed(stop={"patience": 2}, data={"file": "f", "target": "t", "holdout": 0}),
            ["stop.patience: needs held-out rows"],
        ),
        (changed(layers=1), ["layers: wrong value; expected a layer range"]),
        (changed(layers="0:1"), ["layers: of model a: invalid --layers 0:1; did you mean 0"]),
        (changed(layers="0-2"), ["layers: of model b: no layer 2; expected layers 0-1"]),
        (changed(slots="drop"), ['slots: wrong value; expected "keep", "copy" or "fill=VALUE"']),
        (changed(slots="fill=x"), ["slots: wrong value"]),
        (changed(slots="fill=nan"), ["slots: wrong value"]),
        (changed(seed=-1), ["seed: wrong value"]),
        (changed(seed=True), ["seed: wrong value"]),
        (changed(seed=2**70), ["seed: wrong value"]),
        (changed(durability="never"), ['durability: wrong value; expected "round" or "step"']),
        (changed(max_to_keep=0), ["max_to_keep: wrong value"]),
        (changed(stop=5), ["stop: wrong value; expected a table"]),
        (changed(stop={"tolerence": 1.0}), ["stop.tolerence: unknown key; did you mean tolerance"]),
        (changed(stop={"tolerance": float("nan")}), ["stop.tolerance: wrong value"]),
        (changed(stop={"tolerance": 10**400}), ["stop.tolerance: wrong value"]),
        (changed(stop={"window": 0}), ["stop.window: wrong value"]),
        (changed(stop={"rounds": 1.5}), ["stop.rounds: wrong value"]),
        (changed(data=[]), ["data: wrong value", "data.file: missing"]),
        (changed(data={"file": "f", "target": "t", "holdout": 1}), ["data.holdout: wrong value"]),
        (changed(data={"file": "", "target": "t"}), ["data.file: wrong value"]),
        (changed(models=[]), ["models: a ring needs two or more; found 0"]),
        (changed(models=MINIMAL["models"][:1]), ["models: a ring needs two or more; found 1"]),
        (changed(models={"a": {}}), ["models: wrong value"]),
        (changed(models=[MINIMAL["models"][0]] * 2), ["models: 2 of them are named 'a'"]),
        (changed(models=[MINIMAL["models"][0], {"name": "A", "worker": ["w"]}]), ["2 of them are named 'a'"]),
        (model(), ["models.b: one of hidden_units, trainer, command and worker is needed; found none"]),
        (model(hidden_units=[1], worker=["w"]), ["found hidden_units and worker"]),
        (model(hidden_units=[]), ["models.b.hidden_units: wrong value"]),
        (model(hidden_units=[10, 0]), ["models.b.hidden_units: wrong value"]),
        (model(hidden_units=[10, 20], optimizer="Adgrad"), ["models.b.optimizer: wrong value"]),
        (model(hidden_units=[10, 20], learning_rate=0), ["models.b.learning_rate: wrong value"]),
        (model(worker=["w"], optimizer="SGD"), ["models.b.optimizer: is only valid for the built-in trainer"]),
        (changed(stages=[]), ["stages: wrong value"]),
        (changed(stages=[{"rounds": 5}]), ["stages: wrong value"]),
        (changed(stages=[{"rounds": 5, "layers": "0-2"}]), ["stages: of model b: no layer 2"]),
        (changed(stages=[{"rounds": 1, "layers": "0"}] * 1001), ["stages: wrong value"]),
        (changed(warmup=5, freeze=5), ["freeze: the trunk is not shared yet; expected more than 5, found 5"]),
        (model(worker="w"), ["models.b.worker: wrong value"]),
        (model(worker=["w"], format="pickle"), ['models.b.format: wrong value; expected "bundle" or "v1"']),
        (model(hidden_units=[10, 20], format="npz"), ["models.b.format: is not valid for the built-in"]),
        (model(worker=["w"], map=["x"]), ["models.b.map: invalid rename 'x'; expected NAME=COMMON NAME"]),
        (model(worker=["w"], memory=0), ["models.b.memory: wrong value"]),
        (model(worker=["w"], predict=["p", "{checkpoint}"]), ["models.b.predict: {checkpoint}, {data} and {output}"]),
        (
            model(worker=["w"], predict=["{checkpoint}{data}{output}", "{outputs}"]),
            ["models.b.predict: unknown placeholder {outputs}; did you mean output"],
        ),
        (model(command=["w", "{checkpoint}", "{output}"]), ["models.b.init: missing"]),
        (model(command=["w"], init="i"), ["models.b.command: {checkpoint} and {output} must occur in it"]),
        (model(worker=["w"], timeout=0), ["models.b.timeout: wrong value"]),
        (model(worker=["w"], tries=0), ["models.b.tries: wrong value"]),
        (changed(data=None), ["data: wrong value"]),
        (model(hidden_units=[10, 30]), ["the trunks (layers 0-1) of a and b differ", "layer1 [10,30]"]),
        (model(hidden_units=[11, 20]), ["the trunks (layers 0-1) of a and b differ", "layer0 [features,11]"]),
    ],
)
def test_every_mistake_names_its_key(table: dict[str, Any], expected: list[str]) -> None:
    """Each is one line that begins with the file."""
    found = messages(table)
    assert all(line.startswith("R/ring.toml: ") and "\n" not in line for line in found)
    for words in expected:
        assert any(words in line for line in found), found


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a b", "-a", "data", "Events", "ensemble", "trunk", "ä", "x" * 65, 3]
)
def test_names_that_cannot_be_folders_are_refused(name: object) -> None:
    """A model's name is its folder's, beside the run's own files."""
    table = changed(models=[MINIMAL["models"][0], {"name": name, "hidden_units": [10, 20]}])
    assert any("name: wrong value" in line for line in messages(table))


def test_without_data_nothing_may_need_it() -> None:
    """The built-in trainer and a command with {data} do."""
    table = copy.deepcopy(MINIMAL)
    del table["data"]
    table["models"].append({"name": "c", "command": ["{checkpoint}", "{output}", "{data}"], "init": "i"})
    assert [line.split(": ")[1] for line in messages(table)] == [
        "models.a.hidden_units",
        "models.b.hidden_units",
        "models.c.command",
    ]


def test_all_mistakes_are_told_at_once() -> None:
    """A person mends all of them in one go."""
    table = changed(layers=0, sead=1, stop={"rounds": 0}, models=[{"name": "a"}, {"nam": "b", "worker": ["w"]}])
    with pytest.raises(Problems) as caught:
        loading.parse(table)
    keys = sorted(line.split(": ")[1] for line in caught.value.lines)
    assert keys == ["layers", "models.a", "models[2].nam", "models[2].name", "sead", "stop.rounds"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"layers = ", "is not TOML"), (b"a\xff = 1", "is not UTF-8"), (b"a = 1\na = 2\n", "is not TOML")],
)
def test_a_file_that_is_no_toml_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    """The parser's own words are kept."""
    path = tmp_path / "ring.toml"
    path.write_bytes(content)
    with pytest.raises(CkptSurgeonError, match=words) as caught:
        loading.load(str(path))
    assert len(caught.value.lines) == 1


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["layers", "models", "stop", "data", "name", "worker"]), inner, max_size=4
            )
        ),
        max_leaves=12,
    )
)
def test_any_table_is_a_spec_or_an_error(value: Any) -> None:
    """Whatever a TOML parser may return, nothing but a CkptSurgeonError leaves."""
    table = value if isinstance(value, dict) else {"models": value, "layers": value}
    with contextlib.suppress(CkptSurgeonError):
        assert len(loading.parse(table).models) > 1


# -- what may change in the middle of a run


def test_a_document_survives_json_and_differs_from_itself_in_nothing() -> None:
    """The head of a journal holds it."""
    import json

    document = loading.parse(tomllib.loads(FULL)).document()
    assert changes.differences(json.loads(json.dumps(document)), document) == {}


@pytest.mark.parametrize(
    ("old", "new", "keys"),
    [
        ("seed = 7", "seed = 8", ["seed"]),
        ("holdout = 0.1", "holdout = 0.2", ["data.holdout"]),
        ("[10, 20, 10]", "[10, 20, 11]", ["models.a.hidden_units"]),
        ('init = "first.ckpt"', 'init = "other.ckpt"', ["models.b.init"]),
        ('["c", "a", "b"]', '["a", "c", "b"]', ["order"]),
        ("warmup = 2", "warmup = 3", ["warmup"]),
        (".T", "", ["models.b.map"]),
        ('"safetensors"', '"npz"', ["models.b.format"]),
        ("memory = 2000", "memory = 3000", []),
        ("patience = 3", "patience = 4", []),
        ("predict.py", "other.py", []),
        ("rounds = 100", "rounds = 200", []),
        ("learning_rate = 1", "learning_rate = 0.1", []),
        ("every = 50", "every = 60", []),
        ("freeze = 50", "freeze = 60", []),
        ("rounds = 5, layers", "rounds = 6, layers", []),
        ('layers = "0-1"', 'layers = "0"', []),
        ("window = 10", "window = 11", []),
        ("max_to_keep = 3", "max_to_keep = 9", []),
        ("timeout = 5\ntries = 1", "timeout = 50\ntries = 2", []),
    ],
)
def test_what_may_not_change_in_the_middle_of_a_run_is_named(old: str, new: str, keys: list[str]) -> None:
    """Limits and patience may change; what the weights depend on may not."""
    before = loading.parse(tomllib.loads(FULL)).document()
    after = loading.parse(tomllib.loads(FULL.replace(old, new))).document()
    assert list(changes.differences(before, after)) == keys


def test_other_models_are_one_change() -> None:
    """What each one holds no longer matters then."""
    before, after = loading.parse(MINIMAL), loading.parse(model(hidden_units=[10, 20]) | {"seed": 43})
    other = loading.parse(changed(models=[MINIMAL["models"][0], {"name": "c", "hidden_units": [10, 20, 5]}]))
    assert list(changes.differences(before.document(), after.document())) == ["seed"]
    assert changes.differences(before.document(), other.document()) == {"models": 'was ["a", "b"], is ["a", "c"]'}


def test_a_change_is_told_with_what_it_was() -> None:
    """One reads what to change back."""
    before = loading.parse(tomllib.loads(FULL)).document()
    after = loading.parse(tomllib.loads(FULL.replace("[10, 20, 10]", "[10, 20, 11]"))).document()
    assert changes.differences(before, after) == {"models.a.hidden_units": "was [10, 20, 10], is [10, 20, 11]"}
