"""Trainers that are functions, without a framework: their keys in ring.toml, their devices, what counts as outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ckptsurgeon.errors import CkptSurgeonError, RefusedError, UsageError
from ckptsurgeon.frameworks import function
from ckptsurgeon.frameworks.net import Problem, chances
from ckptsurgeon.ring.folder import Folder
from ckptsurgeon.ring.spec import loading, template
from ckptsurgeon.ring.spec.records import Model, Spec
from ckptsurgeon.ring.trainers import devices

ROWS = {"file": "x.npz", "target": "y"}


def spec(**changes: Any) -> Spec:
    """Return the spec of two models with a trainer."""
    models = [{"name": name, "trainer": "model.py:build", **changes.pop(name, {})} for name in "ab"]
    return loading.parse({"layers": "0-1", "data": ROWS, "models": models, **changes})


def test_a_template_keeps_trainer_match_and_device(tmp_path: Path) -> None:
    """What ring.toml says of functions, trunks by names and devices survives being written and read."""
    models = [{"name": name, "trainer": "model.py:build", "format": "keras", "device": "gpu:1"} for name in "ab"]
    made = loading.parse({"match": ["conv_*/**"], "device": "cpu", "data": ROWS, "models": models})
    assert (made.layers, made.match, made.device, made.models[0].trainer) == (
        None, ("conv_*/**",), "cpu", "model.py:build")  # fmt: skip
    (tmp_path / "ring.toml").write_text(template.render(made))
    assert loading.load(str(tmp_path / "ring.toml")) == made


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"a": {"trainer": "model.py"}}, "models.a.trainer: wrong value; expected \"file.py:function\""),
        ({"a": {"hidden_units": [3]}}, "one of hidden_units, trainer, command and worker is needed"),
        ({"a": {"format": "v1"}}, "models.a.format: no trainer writes it; expected \"bundle\", \"safetensors\""),
        ({"a": {"predict": ["{checkpoint}", "{data}", "{output}"]}}, "models.a.predict: is not valid for a trainer"),
        ({"a": {"optimizer": "Adam"}}, "models.a.optimizer: is only valid for the built-in trainer"),
        ({"match": ["a/**"]}, "layers: give either layers or match"),
        ({"device": "tpu"}, "device: wrong value; expected \"cpu\" or \"gpu:N\", found 'tpu'"),
    ],
)  # fmt: skip
def test_a_wrong_key_is_named(changes: dict[str, Any], error: str) -> None:
    """Keys of a model with a trainer are checked before anything starts."""
    with pytest.raises(CkptSurgeonError) as caught:
        spec(**changes)
    assert error in "\n".join(caught.value.lines)


def test_a_file_is_found_from_the_folder_of_ring_toml(tmp_path: Path) -> None:
    """A path may be relative; a module's name stays as it is."""
    folder = Folder.at(str(tmp_path / "run"))
    assert folder.function("../model.py:build") == f"{tmp_path.resolve() / 'model.py'}:build"
    assert folder.function("package.model:build") == "package.model:build"


def test_models_get_the_visible_gpus_in_turn() -> None:
    """Each trainer sees one GPU, takes memory as it needs it, and computes the same bytes again."""
    made = spec(b={"device": "gpu:0"})
    first, second = made.models
    assert devices.environment(made, first, ("3", "GPU-7f")) == {
        "CUDA_VISIBLE_DEVICES": "3",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "TF_DETERMINISTIC_OPS": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    third = Model("b", trainer="model.py:build")
    assert devices.environment(spec(), third, ("3", "GPU-7f"))["CUDA_VISIBLE_DEVICES"] == "GPU-7f"
    assert devices.environment(made, second, ("3", "GPU-7f"))["CUDA_VISIBLE_DEVICES"] == "3"
    assert devices.environment(spec(device="cpu"), third, ("3",)) == {"CUDA_VISIBLE_DEVICES": "-1"}
    assert devices.environment(spec(), third, ()) == {}
    assert devices.environment(spec(), Model("a", worker=("program",)), ("3",)) == {}
    with pytest.raises(UsageError, match="model b: there is no device 'gpu:0' here; found no GPU"):
        devices.environment(made, second, ())


def test_the_visible_gpus_are_those_that_the_driver_may_use() -> None:
    """CUDA_VISIBLE_DEVICES of the driver limits its trainers; -1 ends the list, as in CUDA."""
    assert devices.gpus_here({"CUDA_VISIBLE_DEVICES": "2, 0"}) == ("2", "0")
    assert devices.gpus_here({"CUDA_VISIBLE_DEVICES": "1,-1,0"}) == ("1",)
    assert devices.gpus_here({"CUDA_VISIBLE_DEVICES": ""}) == ()


def test_outputs_become_probabilities() -> None:
    """Logits, one chance of two, and values; other numbers and shapes are refused."""
    two, three, values = Problem((4,), 2, 2), Problem((4,), 3, 3), Problem((4,), None, 1)
    assert np.allclose(chances(np.array([[0.25]]), two, logits=False), [[0.75, 0.25]])
    assert np.allclose(chances(np.array([0.0]), two, logits=True), [[0.5, 0.5]])
    assert np.allclose(chances(np.log([[1.0, 2.0, 5.0]]), three, logits=True), [[0.125, 0.25, 0.625]])
    assert chances(np.array([7.0]), values, logits=False).tolist() == [[7.0]]
    with pytest.raises(RefusedError, match="not probabilities"):
        chances(np.array([[1.0, 2.0, 5.0]]), three, logits=False)
    with pytest.raises(RefusedError, match=r"wrong shape; expected \[rows,3\], found \[rows,4\]"):
        chances(np.zeros((1, 4)), three, logits=False)


def test_a_function_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Modules, files and functions that are missing, and a file with a mistake, are errors of one line each."""
    file = tmp_path / "model.py"
    file.write_text("import nothing_of_this_name\n")
    for text, error in [
        ("no.such.module:build", "there is no module 'no.such.module'"),
        (f"{tmp_path}/none.py:build", "there is no such file"),
        (f"{file}:build", "model.py raised ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("json:lods", "there is no function 'lods'; did you mean loads"),
    ]:
        with pytest.raises(CkptSurgeonError) as caught:
            function.load(text)
        assert error in str(caught.value)
