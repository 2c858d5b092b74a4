"""Operations that would leave a SavedModel or a Keras file that its framework cannot load: refused, or done --anyway.

`test_loads_tensorflow.py` asks the frameworks themselves.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import hdf5_files
import models
import numpy as np
import pytest

from ckptsurgeon import cli, formats
from ckptsurgeon.errors import BusyError, RefusedError
from ckptsurgeon.formats.bundle import restoring, writing
from ckptsurgeon.formats.tensorflow.wire import bytes_field
from ckptsurgeon.verbs import changing, producing

# -- Keras


def keras_file(path: Path, **how: object) -> str:
    """A .weights.h5 or legacy .h5 file, or a .keras file of two Dense layers."""
    if path.name.endswith(".keras"):
        models.FORMS["keras"].write(path, models.skflow_arrays(0, (4, 3)))
    elif path.name.endswith(".weights.h5"):
        hdf5_files.weights(path)
    else:
        hdf5_files.legacy(path, **how)  # type: ignore[arg-type]
    return str(path)


@pytest.mark.parametrize("ending", [".keras", ".weights.h5"])
@pytest.mark.parametrize("arguments", [
    ["rename", "{}", "layers/dense/=layers/backbone/"],
    ["rename", "{}", "layers/dense/vars/0=layers/dense/vars/7"],
    ["drop", "{}", "layers/dense/vars/1"],
    ["drop", "{}", "layers/dense_1/**"],
    ["extract", "{}", "--layers", "0", "-o", "{out}"],
    ["convert", "{}", "{out}", "--map", "layers/dense/=layers/backbone/"],
])  # fmt: skip
def test_keras_finds_weights_by_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, arguments: list[str]
) -> None:
    """No weight of Keras's files changes its place or goes, unless --anyway says that Keras will not load the file."""
    path, out = keras_file(tmp_path / f"m{ending}"), str(tmp_path / f"out{ending}")
    argv = [each.format(path, out=out) for each in arguments]
    before = models.snapshot(tmp_path)
    for more in ([], ["--dry-run"]):
        assert cli.main([*argv, *more]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"ckptsurgeon: {path}: Keras could not load the result: it looks up the weights of lay")
        assert line.endswith("; 'extract' or 'convert' to safetensors or npz, where any name is allowed, or "
                             "--anyway")  # fmt: skip
        assert models.snapshot(tmp_path) == before
    assert cli.main([*argv, "--anyway"]) == 0
    line, *_ = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ckptsurgeon: warning: {path}: Keras could not load the result: it looks up the weights")
    assert models.snapshot(tmp_path) != before


def test_other_formats_are_free(tmp_path: Path) -> None:
    """What Keras's files may not lose can be extracted, renamed or dropped on the way to another format."""
    path = keras_file(tmp_path / "m.weights.h5")
    producing.extract(path, str(tmp_path / "part.npz"), match=["layers/dense/**"])
    producing.convert(path, str(tmp_path / "all.safetensors"), maps=["layers/dense/=backbone/"])
    assert set(models.read(tmp_path / "part.npz")) == {"layers/dense/vars/0", "layers/dense/vars/1"}
    assert "backbone/vars/0" in models.read(tmp_path / "all.safetensors")


def test_an_optimizer_goes_whole_or_starts_afresh(tmp_path: Path) -> None:
    """Keras loads a file without its optimizer; one that has lost a slot it ignores, which is a warning."""
    path = keras_file(tmp_path / "m.weights.h5")
    report = changing.drop(path, ["optimizer/vars/3"], out=str(tmp_path / "less.weights.h5"))
    assert report.warnings == ["Keras will start the optimizer afresh: optimizer/vars has 13 of 14 variables"]
    with pytest.raises(RefusedError, match="weights of optimizer by path and number"):  # KeyError: '3' in Keras
        changing.rename(path, ["optimizer/vars/3=optimizer/vars/99"])
    assert changing.drop(path, slots=True).warnings == []
    legacy = keras_file(tmp_path / "m.h5")
    report = changing.drop(legacy, ["optimizer_weights/Adam/m/a/kernel:0"], out=str(tmp_path / "less.h5"))
    assert report.warnings == ["Keras will start the optimizer afresh: optimizer_weights has 8 of 9 variables"]
    assert changing.drop(legacy, slots=True).warnings == []


def test_a_rename_can_mend_a_file(tmp_path: Path) -> None:
    """Where the config of a .keras file says that Keras finds no such group, the group may get another name."""
    path = keras_file(tmp_path / "m.keras")
    before = models.read(Path(path))
    changing.rename(path, ["layers/dense/=layers/backbone/"], anyway=True)
    assert changing.rename(path, ["layers/backbone/=layers/dense/"]).warnings == []
    assert models.equal(models.read(Path(path)), before)


def test_shapes_count_too(tmp_path: Path) -> None:
    """Two weights of one shape may change places, two of different shapes may not."""
    path = keras_file(tmp_path / "m.weights.h5")
    changing.rename(path, ["layers/dense/=layers/dense_1/", "layers/dense_1/=layers/dense/"])
    with pytest.raises(RefusedError, match="weights of layers/dense by path"):
        changing.rename(path, ["layers/dense/vars/0=layers/dense/vars/1", "layers/dense/vars/1=layers/dense/vars/0"])
    np.savez(tmp_path / "more.npz", **{"layers/dense/vars/2": np.ones(2, np.float32)})
    with pytest.raises(RefusedError, match="weights of layers/dense by path"):  # Keras counts them
        changing.graft(str(tmp_path / "more.npz"), path, match=["**"], add=True)


@pytest.mark.parametrize(("old", "new", "hint"), [
    ("m.weights.h5", "out.h5", "name it OUT.weights.h5"),
    ("m.keras", "out.h5", "name it OUT.weights.h5"),
    ("m.h5", "out.weights.h5", "name it OUT.h5"),
])  # fmt: skip
def test_the_ending_says_the_layout(tmp_path: Path, old: str, new: str, hint: str) -> None:
    """A result whose name means the other layout to Keras is refused; other names are the user's own affair."""
    path, out = keras_file(tmp_path / old), tmp_path / new
    with pytest.raises(RefusedError, match=f"and the name of a .*; {hint}, or --anyway"):
        producing.convert(path, str(out))
    assert not out.exists()
    producing.convert(path, str(tmp_path / "out"), to="hdf5")
    assert producing.convert(path, str(out), anyway=True).warnings != []
    if old != "m.keras":
        with pytest.raises(RefusedError, match=hint):
            producing.cp(path, str(tmp_path / f"copy.{new}"))


def test_names_in_a_legacy_file_follow(tmp_path: Path) -> None:
    """In a legacy file layers and weights may have any names, as long as each layer keeps its weights in order."""
    path = keras_file(tmp_path / "m.h5")
    changing.rename(path, ["model_weights/a/=model_weights/z/"])
    changing.rename(path, ["model_weights/b/b/bias:0=model_weights/b/other/offset"])
    for renames in (["model_weights/=weights/"], ["model_weights/b/other/offset=model_weights/z/offset"]):
        with pytest.raises(RefusedError, match="Keras could not load the result: it"):
            changing.rename(path, renames)
    with pytest.raises(RefusedError, match="its config needs the weights of model_weights/b/b"):
        changing.drop(path, ["model_weights/b/**"])


def test_a_legacy_file_of_weights(tmp_path: Path) -> None:
    """Which layers it has no config says, so whole layers may go; a layer keeps all its weights."""
    path = keras_file(tmp_path / "m.h5", root="")
    with pytest.raises(RefusedError, match="b/b would have some of its weights, but not all"):
        changing.drop(path, ["b/b/bias:0"])
    changing.drop(path, ["b/**"])
    np.savez(tmp_path / "new.npz", **{"c/c/kernel": np.ones((2, 2), np.float32)})
    changing.graft(str(tmp_path / "new.npz"), path, match=["**"], add=True)
    assert set(models.read(Path(path))) == {"a/a/kernel:0", "a/a/bias:0", "c/c/kernel"}


def test_bfloat16_in_files_of_keras_2(tmp_path: Path) -> None:
    """Keras 3 reads bfloat16 in its own layout; Keras 2, whose groups have no names, and legacy files do not."""
    changing.cast(keras_file(tmp_path / "3.weights.h5"), "bfloat16")
    with pytest.raises(RefusedError, match=r"legacy \.h5 files cannot hold bfloat16"):
        changing.cast(keras_file(tmp_path / "m.h5"), "bfloat16")
    hdf5_files.tree(tmp_path / "2.weights.h5", {"layers/dense/vars/0": np.ones((2, 2), np.float32)}, {})
    with pytest.raises(RefusedError, match="Keras 2, which wrote the file, does not support bfloat16"):
        changing.cast(str(tmp_path / "2.weights.h5"), "bfloat16")


# -- SavedModels


def restore(*names: str, op: bytes = b"RestoreV2") -> bytes:
    """A SavedModel's bytes: one function, which restores these names."""
    text = b"".join(bytes_field(8, name.encode()) for name in names)
    value = bytes_field(1, b"value") + bytes_field(2, bytes_field(8, text))
    nodes = [bytes_field(2, b"Const") + bytes_field(5, value), bytes_field(2, op)]
    function = b"".join(bytes_field(3, node) for node in nodes)
    graph = bytes_field(2, bytes_field(1, function))
    return b"\x08\x01" + bytes_field(2, bytes_field(2, graph))


def saved_model(folder: Path, *names: str) -> str:
    """A folder whose saved_model.pb restores these rows of its variables."""
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(restore(*names))
    models.write(folder / "variables" / "variables", 1)
    return str(folder)


def test_what_a_saved_model_restores() -> None:
    """The names are the string constants of the functions that restore; those of other functions are not."""
    assert restoring.restored(restore("a", "b/c")) == {b"a", b"b/c"}
    assert restoring.restored(restore("a", op=b"SaveV2")) == set()
    assert restoring.restored(b"") == set()


@pytest.mark.parametrize("arguments", [
    ["drop", "{}", "--slots", "-o", "{out}"],
    ["rename", "{}", "dnn/layer0/Linear/Matrix=kernel"],
    ["cast", "{}", "float16", "--match", "dnn/layer0/Linear/Matrix", "-o", "{out}"],
    ["extract", "{}", "--layers", "0", "-o", "{out}"],
    ["graft", "{donor}", "{}", "--layers", "0", "--slots", "drop"],
    ["average", "{}", "{donor}", "--slots", "drop", "-o", "{out}"],
])  # fmt: skip
def test_a_saved_model_keeps_what_it_restores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """No row that saved_model.pb restores goes, gets another name or another dtype."""
    models.write(tmp_path / "donor", 2)
    needed = ["dnn/layer0/Linear/Matrix", "dnn/layer0/Linear/Matrix/Adagrad", "logistic_regression/bias"]
    path, out = saved_model(tmp_path / "sm", *needed), str(tmp_path / "out")
    argv = [each.format(path, out=out, donor=tmp_path / "donor") for each in arguments]
    before = models.snapshot(tmp_path)
    assert cli.main(argv) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"ckptsurgeon: {path}: TensorFlow could not load the result: saved_model.pb restores ")
    assert line.endswith("'convert' it to a bundle, safetensors or npz and edit that, or --anyway")
    assert models.snapshot(tmp_path) == before
    assert cli.main([*argv, "--anyway"]) == 0
    assert "TensorFlow could not load the result" in capsys.readouterr().err


def test_a_saved_model_may_lose_what_it_does_not_restore(tmp_path: Path) -> None:
    """A row that saved_model.pb does not name may go; if the file cannot be read, every row may be needed."""
    path = saved_model(tmp_path / "sm", "dnn/layer0/Linear/Matrix")
    changing.drop(path, ["learning_rate"])
    for content in (b"graph", None):
        (tmp_path / "sm" / "saved_model.pb").unlink()
        if content is not None:
            (tmp_path / "sm" / "saved_model.pb").write_bytes(content)
        else:
            (tmp_path / "sm" / "saved_model.pbtxt").write_text("")
        with pytest.raises(RefusedError, match=r"saved_model\.pb restores global_step"):
            changing.drop(path, ["global_step"])


def foreign(out: Path) -> None:
    """What another program saves at OUT."""
    (out / "variables").mkdir(parents=True)
    (out / "saved_model.pb").write_bytes(b"another's")


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_appears_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool) -> None:
    """A SavedModel saved at OUT while ours is staged is not replaced, even with --force: nobody has seen it."""
    path, out, real = saved_model(tmp_path / "sm"), tmp_path / "out", writing.save_as

    def save_as(*arguments: object) -> object:
        foreign(out)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writing, "save_as", save_as)
    with pytest.raises(BusyError, match="another process saved it in the meantime"):
        changing.set(path, "learning_rate", 3, out=str(out), force=force)
    assert (out / "saved_model.pb").read_bytes() == b"another's"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "sm"]


@pytest.mark.parametrize("held", ["out.ckptsurgeon-tmp", "out", "out/variables/variables.index"])
def test_a_folder_that_somebody_writes(tmp_path: Path, held: str) -> None:
    """Whoever stages the same OUT, or writes in it, is waited for; then nothing is changed."""
    path = saved_model(tmp_path / "sm")
    saved_model(tmp_path / "out")
    (tmp_path / "out.ckptsurgeon-tmp").mkdir()
    (tmp_path / "out.ckptsurgeon-tmp" / "left by a crash").write_text("")
    before = models.read(tmp_path / "out")
    fd = os.open(tmp_path / held, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another process is writing it"):
            changing.set(path, "learning_rate", 3, out=str(tmp_path / "out"), force=True, wait=0.05)
    finally:
        os.close(fd)
    assert models.equal(models.read(tmp_path / "out"), before)
    changing.set(path, "learning_rate", 3, out=str(tmp_path / "out"), force=True)
    assert models.read(tmp_path / "out")["learning_rate"] == 3
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out", "sm"]
    with formats.open(str(tmp_path / "out")) as checkpoint:
        assert checkpoint.container == "saved-model"
