"""`ring export`: one model with one trunk, for Keras, TensorFlow and ONNX, that predicts what the ring does."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_here import train_here
from ring_support import HIDDEN, MODELS, write_ring

from ckptsurgeon import folders
from ckptsurgeon.errors import CkptSurgeonError, RefusedError
from ckptsurgeon.frameworks import function, model_files
from ckptsurgeon.frameworks.export import _difference, _quiet, export, main
from ckptsurgeon.frameworks.net import Problem, chances
from ckptsurgeon.ring import driver, start
from ckptsurgeon.ring.predicting import ensemble

pytestmark = pytest.mark.tensorflow

X = np.random.default_rng(1).normal(size=(40, 2)).astype(np.float32)
SIZES = {name: [2, *map(int, HIDDEN[name].split(",")), 2] for name in MODELS}


def parameters(sizes: list[int]) -> int:
    return sum((one + 1) * two for one, two in pairwise(sizes))


TRUNK = parameters([2, 4, 3])  # layers 0-1 of each model


def trained(folder: Path, rounds: bool = True) -> None:
    """Initialize a ring of NumPy nets, and run it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        train_here(monkeypatch)
        start.init(str(folder))
        if rounds:
            driver.run(str(folder))


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ring after two rounds, which no test changes."""
    folder = tmp_path_factory.mktemp("export") / "ring"
    write_ring(folder, 2)
    trained(folder)
    return str(folder)


def predicted(ring: str, folder: Path) -> Any:
    """Return what `ring predict` says of X: [rows, classes]."""
    np.save(folder / "rows.npy", X)
    _, *parts = ensemble.predict(ring, str(folder / "rows.npy"))
    return np.array([row[1:] for part in parts for row in part])


def test_a_keras_file_predicts_what_the_ring_does_and_holds_the_trunk_once(
    ring: str, tmp_path: Path, keras: Any
) -> None:
    """Keras loads it without this package, all layers are Keras's; its parameters and predictions are the ring's."""
    out = tmp_path / "ensemble.keras"
    done = export(ring, str(out))
    model = keras.models.load_model(out)
    np.testing.assert_allclose(model.predict_on_batch(X), predicted(ring, tmp_path), atol=1e-6)
    total = sum(map(parameters, SIZES.values()))
    assert done.parameters == model.count_params() == total - 2 * TRUNK
    assert (done.saved, done.models, done.bytes) == (2 * TRUNK, MODELS, out.stat().st_size)
    assert 0 <= done.difference < 1e-6
    with zipfile.ZipFile(out) as file:
        assert b"ckptsurgeon" not in file.read("config.json")
    names = [layer.name for layer in model.layers]
    assert names[:3] == ["X", "layer0", "layer1"]
    assert {"a_head", "b_head", "c_head", "ensemble"} < set(names)
    export(ring, str(tmp_path / "again.keras"))
    assert (tmp_path / "again.keras").read_bytes() == out.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.keras", "ensemble.keras", "rows.npy"]


def test_heads_are_kept_apart_and_one_model_goes_alone(ring: str, tmp_path: Path, keras: Any) -> None:
    """With heads each model's outputs have its name, and their mean is the prediction; a model alone is one of them."""
    export(ring, str(tmp_path / "heads.keras"), heads=True)
    outputs = keras.models.load_model(tmp_path / "heads.keras").predict_on_batch(X)
    assert set(outputs) == set(MODELS)
    np.testing.assert_allclose(np.mean(list(outputs.values()), axis=0), predicted(ring, tmp_path), atol=1e-6)
    done = export(ring, str(tmp_path / "b.keras"), model="b")
    alone = keras.models.load_model(tmp_path / "b.keras")
    assert (done.models, done.saved, alone.count_params()) == (("b",), 0, parameters(SIZES["b"]))
    np.testing.assert_allclose(alone.predict_on_batch(X), outputs["b"], atol=1e-6)


def test_a_saved_model_is_replaced_as_a_whole(ring: str, tmp_path: Path, tf: Any) -> None:
    """TensorFlow serves it; --force replaces a SavedModel and nothing else; no name is left behind."""
    out = tmp_path / "ensemble"
    export(ring, f"{out}/")
    loaded = tf.saved_model.load(str(out))
    np.testing.assert_allclose(loaded.serve(X), predicted(ring, tmp_path), atol=1e-6)
    (out / "old").touch()
    with pytest.raises(CkptSurgeonError, match="exists already; --force replaces it"):
        export(ring, str(out))
    done = export(ring, str(out), model="a", force=True)
    assert done.bytes == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert not (out / "old").exists()
    (tmp_path / "other").mkdir()
    with pytest.raises(CkptSurgeonError, match="is not a SavedModel, so it is not replaced"):
        export(ring, str(tmp_path / "other"), force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ensemble", "other", "rows.npy"]


def test_onnx_is_written_where_its_converter_is_installed(ring: str, tmp_path: Path) -> None:
    """ONNX's own runtime predicts what the ring does; without tf2onnx the refusal names it."""
    out = tmp_path / "ensemble.onnx"
    try:
        import tf2onnx  # noqa: F401
    except ImportError:
        with pytest.raises(CkptSurgeonError, match=r"needs the package tf2onnx.*; pip install 'ckptsurgeon\[onnx\]'"):
            export(ring, str(out))
        return
    export(ring, str(out))
    session = pytest.importorskip("onnxruntime").InferenceSession(out)
    np.testing.assert_allclose(session.run(None, {"X": X})[0], predicted(ring, tmp_path), atol=1e-6)


@pytest.mark.parametrize(
    ("out", "options", "error"),
    [
        ("x.h5", {}, "x.h5: cannot export this kind of model; expected NAME.keras, NAME.onnx, or a folder"),
        ("no/x.keras", {}, "no: no such folder"),
        ("ring.toml.keras", {}, "ring.toml.keras: exists already; --force replaces it"),
        ("folder.keras", {"force": True}, "folder.keras: is a folder"),
        ("ring.toml.keras/", {"force": True}, "ring.toml.keras/: is a file; expected the name of a folder"),
        (".keras", {}, ".keras: cannot export this kind of model; expected NAME.keras, NAME.onnx, or a folder"),
        ("x.keras", {"model": "d"}, "there is no model 'd'; the models are a, b, c"),
        ("x.keras", {"model": "a", "heads": True}, "one model has one head; leave out --heads, or --model"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    out: str, options: dict[str, Any], error: str, ring: str, tmp_path: Path
) -> None:
    """One line, and nothing is written."""
    (tmp_path / "ring.toml.keras").write_bytes(b"mine")
    (tmp_path / "folder.keras").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CkptSurgeonError) as caught:
        export(ring, f"{tmp_path}/{out}", **options)
    assert error in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_exported_among_the_files_of_the_run(ring: str, tmp_path: Path) -> None:
    """The run removes what it does not know; neither another name for the folder nor a deeper one helps."""
    (tmp_path / "link").symlink_to(ring)
    for out in (f"{ring}/a/x.keras", f"{ring}/data/x/", f"{tmp_path}/link/b/x.onnx"):
        with pytest.raises(CkptSurgeonError, match=r"belongs to the run; choose another folder|needs the package"):
            export(ring, out)
    assert not [path for path in Path(ring).rglob("x*") if path.name[:2] in ("x", "x.")]


def test_a_ring_without_a_common_beginning_is_refused(tmp_path: Path, keras: Any) -> None:
    """Before the first round, with a trunk that is not at the input, or with a program that predicts: one line."""
    write_ring(tmp_path / "fresh", 2)
    trained(tmp_path / "fresh", rounds=False)
    out = str(tmp_path / "x.keras")
    with pytest.raises(CkptSurgeonError, match=r"the trunk \(layers 0-1\) yet; found trunks that differ: a, b"):
        export(str(tmp_path / "fresh"), out)
    middle = tmp_path / "middle"
    write_ring(middle, 2)
    (middle / "ring.toml").write_text((middle / "ring.toml").read_text().replace('layers = "0-1"', 'layers = "1"'))
    trained(middle)
    wanted = rf"the trunk \(layers 1\) is not at the beginning .* expected {parameters([4, 3])} parameters .* found 0"
    with pytest.raises(CkptSurgeonError, match=wanted):
        export(str(middle), out)
    assert export(str(middle), out, model="c").models == ("c",)


def test_the_trunk_is_that_of_the_last_round(tmp_path: Path, keras: Any) -> None:
    """In a stage that shares layer 0 alone, layer 0 is what is stored once, though later stages share more."""
    write_ring(tmp_path, 2)
    text = (tmp_path / "ring.toml").read_text()
    stages = 'stages = [{ rounds = 2, layers = "0" }, { rounds = 9, layers = "0-1" }]'
    (tmp_path / "ring.toml").write_text(text.replace('layers = "0-1"', stages, 1))
    trained(tmp_path)
    assert export(str(tmp_path), str(tmp_path / "x.keras")).saved == 2 * parameters([2, 4])


def test_what_a_crash_left_goes_and_a_second_writer_waits_for_nobody(ring: str, tmp_path: Path) -> None:
    """The staging folder of a dead process is emptied; that of a living one is locked."""
    scratch = tmp_path / "x.keras.ckptsurgeon-tmp"
    (scratch / "deep").mkdir(parents=True)
    (scratch / "model.keras").write_bytes(b"half")
    lock = os.open(scratch, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(CkptSurgeonError, match="another process is writing this model"):
        export(ring, str(tmp_path / "x.keras"))
    os.close(lock)
    assert (scratch / "model.keras").read_bytes() == b"half"
    export(ring, str(tmp_path / "x.keras"))
    assert [path.name for path in tmp_path.iterdir()] == ["x.keras"]


def written(place: Path, force: bool, meanwhile: Callable[[], object] = lambda: None) -> int:
    """Publish a file, or a folder with what makes it a SavedModel; something else happens while it is made."""

    def save(model: Any, path: str, kind: str) -> None:
        if kind:
            Path(path).write_bytes(b"new")
        else:
            Path(path).mkdir()
            Path(path, "saved_model.pb").write_bytes(b"new")
        meanwhile()

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(model_files, "_save", save)
        monkeypatch.setattr(model_files, "_check_loadable", lambda model, out: None)
        model_files.check(str(place), force)
        return model_files.write(None, str(place), force, [])


def test_a_planted_link_leads_nowhere_and_the_staging_folder_is_private(tmp_path: Path) -> None:
    """What has the name of the staging folder goes, not what it leads to; nobody else may enter the folder."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "file").touch()
    scratch = tmp_path / "x.keras.ckptsurgeon-tmp"
    scratch.symlink_to(tmp_path / "theirs")
    modes = []
    assert written(tmp_path / "x.keras", False, lambda: modes.append(scratch.lstat().st_mode)) == 3
    assert modes == [0o40700]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["theirs", "x.keras"]
    assert (tmp_path / "theirs" / "file").exists()


def test_a_replaced_model_keeps_its_permissions(tmp_path: Path) -> None:
    """A file, and the folder and the files of a SavedModel: who could not read the old one cannot read the new one."""
    (tmp_path / "x.keras").touch(0o600)
    written(tmp_path / "x.keras", True)
    (tmp_path / "saved").mkdir(0o750)
    (tmp_path / "saved" / "saved_model.pb").touch(0o640)
    written(tmp_path / "saved", True)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"x.keras": 0o600, "saved": 0o750, "saved_model.pb": 0o640}
    assert (tmp_path / "x.keras").read_bytes() == (tmp_path / "saved" / "saved_model.pb").read_bytes() == b"new"


@pytest.mark.parametrize("exchange", [True, False])
def test_a_saved_model_is_replaced_where_folders_cannot_be_exchanged(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two renames then; nothing is left of the old one."""
    if not exchange:
        monkeypatch.setattr(folders, "_renamed", lambda one, other, how: False)
    written(tmp_path / "saved", False)
    (tmp_path / "saved" / "old").touch()
    written(tmp_path / "saved", True)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "saved",
        "saved/saved_model.pb",
    ]


@pytest.mark.parametrize(
    ("name", "force", "error"),
    [("saved", True, "is not a SavedModel"), ("saved", False, "is not a SavedModel"), ("x.keras", True, "is a folder")],
)
def test_what_has_taken_the_place_meanwhile_stays(name: str, force: bool, error: str, tmp_path: Path) -> None:
    """Whatever was checked at the start, and empty or not: the folder that somebody has put there is not removed."""
    place = tmp_path / name
    if force:
        written(place, False)

    def meanwhile() -> None:
        if force:
            place.rename(tmp_path / "moved")
        place.mkdir()

    with pytest.raises(CkptSurgeonError, match=error):
        written(place, force, meanwhile)
    assert place.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, *(["moved"] if force else [])])


def test_only_a_failure_of_the_users_function_shows_what_was_printed(capfd: Any) -> None:
    """Its traceback is shown once; a refusal of ours and Ctrl-C need none of what a framework printed."""

    def broken(shape: object, classes: object, seed: object) -> None:
        raise ValueError("mine")

    with pytest.raises(CkptSurgeonError, match="raised ValueError: mine"), _quiet():
        function.build(broken, (2,), 2, 1)
    assert capfd.readouterr().err.count("Traceback") == 1

    def noisy(error: BaseException) -> None:
        os.write(1, b"noise")
        raise error

    for error in (RefusedError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)), _quiet():
            noisy(error)
        assert capfd.readouterr() == ("", "")


def test_a_full_stdout_is_one_line(ring: str, tmp_path: Path) -> None:
    """The model is there, and the exit status says that the report is not; as of any other verb."""
    command = [sys.executable, "-m", "ckptsurgeon", "ring", "export", ring, "-o", "x.keras"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "ckptsurgeon: stdout: no space left on device\n")
    assert [path.name for path in tmp_path.iterdir()] == ["x.keras"]


def test_the_verb_refuses_before_keras_is_imported(ring: str, tmp_path: Path) -> None:
    """As a process: exit status 2, one line, and no framework was loaded for it."""
    command = [sys.executable, "-X", "importtime", "-m", "ckptsurgeon.frameworks.export", ring, "--output=x.h5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1)
    assert lines[0].startswith("ckptsurgeon: x.h5: cannot export")
    assert not [line for line in done.stderr.splitlines() if line.endswith((" keras", " tensorflow"))]
    through = [sys.executable, "-m", "ckptsurgeon", "ring", "export", ring, "-o", "x.h5", "--heads", "--json"]
    again = subprocess.run(through, cwd=tmp_path, capture_output=True, text=True)
    assert (again.returncode, again.stdout, again.stderr) == (2, "", lines[0] + "\n")


def test_the_report_says_what_the_common_trunk_saves(ring: str, tmp_path: Path, capfd: Any) -> None:
    """Three lines, or one JSON object; nothing else that Keras or TensorFlow might print."""
    out = str(tmp_path / "x.keras")
    main([ring, f"--output={out}"])
    first, second, third = capfd.readouterr().out.splitlines()
    size, total = os.path.getsize(out), sum(map(parameters, SIZES.values()))
    assert first == f"{out}: a, b, c; {total - 2 * TRUNK} parameters, {size:,} bytes"
    share = round(100 * 2 * TRUNK / total)
    assert second == f"the trunk is stored once, which saves {2 * TRUNK} parameters ({share}%)"
    assert third.startswith("predictions differ from those of the models by at most ")
    assert third.endswith(", on 60 rows")
    main([ring, f"--output={tmp_path}/saved/", "--model=a", "--json"])
    found = json.loads(capfd.readouterr().out)
    assert (found["models"], found["parameters"], found["saved"]) == (["a"], parameters(SIZES["a"]), 0)
    assert set(found) == {"output", "models", "parameters", "saved", "bytes", "rows", "difference"}


# -- models of Keras


def image_net(keras: Any, seed: int, logits: bool, outputs: int = 3) -> Any:
    """Return a net with convolutions, a branch, an operation, and layers that draw random numbers from `seed`."""
    layers = keras.layers
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 1))
    trunk = layers.RandomTranslation(0.1, 0.1, seed=seed)(inputs)
    trunk = layers.Conv2D(3, 3)(trunk)
    trunk = layers.Activation("relu")(layers.BatchNormalization()(trunk))
    trunk = layers.Dropout(0.5, seed=seed)(trunk)
    pooled, flat = layers.GlobalAveragePooling2D()(trunk), layers.Flatten()(trunk)
    joined = layers.Concatenate()([layers.Dense(4, activation="tanh")(flat), pooled * 2.0])
    activation = None if logits else "sigmoid" if outputs == 1 else "softmax"
    return keras.Model(inputs, layers.Dense(outputs, activation=activation)(joined))


def common_trunk(models: list[Any]) -> list[Any]:
    """Give all models the convolution and the statistics of the first, as a ring does after a round."""
    for model in models:
        for layer, first in zip(model.layers[:5], models[0].layers[:5], strict=True):
            layer.set_weights(
                [value + 0.5 for value in first.get_weights()] if model is models[0] else first.get_weights()
            )
    return models


@pytest.mark.parametrize(("classes", "outputs", "logits"), [(3, 3, True), (2, 1, True), (2, 1, False), (None, 1, True)])
def test_any_graph_of_layers_is_merged(classes: int | None, outputs: int, logits: bool, keras: Any) -> None:
    """Convolution and statistics are stored once, branches stay, and probabilities are those that the ring counts."""
    from ckptsurgeon.frameworks.merging import Member, merge

    models = common_trunk([image_net(keras, seed, logits, outputs) for seed in (1, 2, 3)])
    rows = np.random.default_rng(2).normal(size=(9, 6, 6, 1)).astype(np.float32)
    problem = Problem((6, 6, 1), classes, classes or outputs)
    wanted = [chances(model.predict_on_batch(rows), problem, logits) for model in models]
    total = sum(model.count_params() for model in models)
    shared = sum(layer.count_params() for layer in models[0].layers[:5])
    assert shared == 30 + 12
    merged = merge([Member(f"m{number}", model, logits) for number, model in enumerate(models)], classes, False)
    assert (merged.shared, merged.separate, merged.parameters) == (shared, total, total - 2 * shared)
    np.testing.assert_allclose(merged.model.predict_on_batch(rows), np.mean(wanted, axis=0), atol=1e-6)
    assert len([layer for layer in merged.model.layers if isinstance(layer, keras.layers.Conv2D)]) == 1


def test_layers_that_compute_differently_are_not_the_same(keras: Any) -> None:
    """Neither a dtype policy nor the middle of a large constant is overlooked; the names of layers do not matter."""
    from ckptsurgeon.frameworks.merging import Member, merge

    def net(policy: str, constant: Any, name: str) -> Any:
        inputs = keras.Input((2000,))
        added = keras.ops.add(inputs, constant)
        layer = keras.layers.Dense(1, dtype=policy, kernel_initializer="ones", name=name)
        return keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(layer(added)))

    def shared(policy: str, constant: Any) -> int:
        first = net("float32", np.zeros(2000, np.float32), "one")
        return merge([Member("a", first), Member("b", net(policy, constant, "two"))], None, False).shared

    other = np.zeros(2000, np.float32)
    assert shared("float32", other) == 2001
    assert shared("mixed_float16", other) == 0
    other[1000] = 1
    assert shared("float32", other) == 0


def test_names_of_merged_layers_never_collide(keras: Any) -> None:
    """Layer b_head of model a, layer head of model a_b, and layers named like what merging adds."""
    from ckptsurgeon.frameworks.merging import Member, merge

    def net(seed: int, trunk: str, head: str) -> Any:
        inputs = keras.Input((2,), name="in")
        values = keras.layers.Dense(3, kernel_initializer="ones", name=trunk)(inputs)
        start = keras.initializers.RandomNormal(seed=seed)
        return keras.Model(inputs, keras.layers.Dense(2, kernel_initializer=start, name=head)(values))

    models = [net(1, "ensemble", "b_head"), net(2, "X", "head"), net(3, "t", "softmax")]
    merged = merge([Member(name, net, True) for name, net in zip(("a", "a_b", "c"), models, strict=True)], 2, False)
    names = [layer.name for layer in merged.model.layers]
    assert len(set(names)) == len(names)
    assert {"X", "ensemble_2", "a_b_head", "a_b_head_2", "c_softmax", "c_softmax_2", "ensemble"} <= set(names)


def test_one_head_that_is_not_a_number_is_refused(keras: Any) -> None:
    """Wherever it stands among the heads."""
    inputs = keras.Input((2,))
    model = keras.Model(inputs, {name: keras.layers.Dense(1, name=name)(inputs) for name in "abc"})
    votes = {name: np.asarray(values, np.float64) for name, values in model.predict_on_batch(X).items()}
    assert _difference(model, X, votes, True) == 0
    for name in "abc":
        with pytest.raises(CkptSurgeonError, match=r"expected a difference of 0\.0001 at most, found nan"):
            _difference(model, X, {**votes, name: votes[name] * np.nan}, True)


def test_what_plain_keras_cannot_load_is_refused(tmp_path: Path, keras: Any) -> None:
    """A subclass of Model has no graph; a layer of one's own, and code in a Lambda, need the program that has them."""
    from ckptsurgeon.frameworks.merging import Member, merge

    def own(rows: Any) -> Any:
        return rows

    class Own(keras.layers.Layer):  # type: ignore[misc]
        def call(self, rows: Any) -> Any:
            return rows * 2.0

        def compute_output_shape(self, input_shape: Any) -> Any:
            return input_shape

    class Sub(keras.Model):  # type: ignore[misc]
        def call(self, rows: Any) -> Any:
            return rows

    with pytest.raises(CkptSurgeonError, match=r"model a is a subclass of keras\.Model, whose layers are unknown"):
        merge([Member("a", Sub())], None, False)
    layers = keras.layers
    inputs = keras.Input((2, 3))
    code = layers.Lambda(lambda rows: rows + 1.0)
    for layer, found in [
        (Own(), "Own"),
        (code, "a lambda"),
        (keras.Sequential([keras.Input((2, 3)), keras.Sequential([keras.Input((2, 3)), code])]), "a lambda"),
        (layers.TimeDistributed(Own()), "Own"),
        (layers.Dense(2, activation=own), "the function own"),
        (layers.Dense(2, activation=lambda rows: rows), "a lambda"),
    ]:
        model = keras.Model(inputs, layer(inputs))
        wanted = rf"needs the program that defines it.* found .*{found}.*; export a SavedModel: "
        with pytest.raises(CkptSurgeonError, match=wanted):
            model_files.write(model, str(tmp_path / "x.keras"), False, [])
    assert not list(tmp_path.iterdir())


def test_a_ring_of_keras_trainers_is_exported(tmp_path: Path, keras: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function of ring.toml builds the models; checkpoints may have any format, and go while Keras starts."""
    from ckptsurgeon.frameworks import keras_files, members

    (tmp_path / "nets.py").write_text(
        "import keras\nfrom keras import layers\n"
        "def make(input_shape, classes, seed):\n"
        "    model = keras.Sequential([keras.Input(input_shape), layers.Dense(4), layers.BatchNormalization(),\n"
        "        layers.Dropout(0.3, seed=seed), layers.Dense(5, activation='relu'), layers.Dense(classes)])\n"
        "    model.compile('adam', keras.losses.SparseCategoricalCrossentropy(from_logits=True))\n"
        "    return model\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import nets
    finally:
        sys.path.pop(0)
    endings = {"a": ("first.keras", "keras"), "b": ("first.weights.h5", "weights.h5"), "c": ("first", "bundle")}
    made = [nets.make((2,), 2, seed) for seed in (1, 2, 3)]
    text = 'layers = "0-1"\n[data]\nfile = "points.csv"\ntarget = "kind"\n'
    for model, (name, (file, format)) in zip(made, endings.items(), strict=True):
        for layer, first in zip(model.layers[:2], made[0].layers[:2], strict=True):
            layer.set_weights(first.get_weights())
        model.optimizer.build(model.trainable_variables)
        keras_files.save(model, str(tmp_path / file))
        text += f'[[models]]\nname = "{name}"\ntrainer = "nets.py:make"\nformat = "{format}"\ninit = "{file}"\n'
    write_ring(tmp_path, 2)
    (tmp_path / "ring.toml").write_text(text)
    start.init(str(tmp_path))
    build = members.keras_net

    def built(folder: str, name: str) -> Any:  # as a driver removes what it has replaced
        for old in (tmp_path / name).glob("model.ckpt*"):
            old.unlink()
        return build(folder, name)

    monkeypatch.setattr(members, "keras_net", built)
    done = export(str(tmp_path), str(tmp_path / "ensemble.keras"))
    trunk = (2 * 4 + 4) + 4 * 4
    assert (done.parameters, done.saved) == (trunk + 3 * (4 * 5 + 5 + 5 * 2 + 2), 2 * trunk)
    logits = [model.predict_on_batch(X).astype(np.float64) for model in made]
    wanted = np.mean([chances(each, Problem((2,), 2, 2), True) for each in logits], axis=0)
    loaded = keras.models.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_allclose(loaded.predict_on_batch(X), wanted, atol=1e-6)
