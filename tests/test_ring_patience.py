"""Models that rest: one whose own held-out loss stopped falling no longer trains, but still gets the trunk."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy_here import train_here
from ring_support import MODELS, history, promised, records, write_ring

from ckptsurgeon import formats
from ckptsurgeon.errors import Problems, RefusedError
from ckptsurgeon.ring import driver, start
from ckptsurgeon.ring.schedule import Done
from ckptsurgeon.ring.spec import loading

ROUNDS = 30
STOP = {"window": 1, "tolerance": 0.0}
HEAD = "logistic_regression/weights"
TRUNK = "dnn/layer0/Linear/Matrix"


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """Trainers without processes: these tests are about who trains when."""
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        yield


def ring(folder: Path, patience: dict[str, int], rounds: int = ROUNDS, **options: object) -> Path:
    models = {name: {"patience": number} for name, number in patience.items()}
    write_ring(folder, rounds, stop=STOP, max_to_keep=100, **models, **options)
    start.init(str(folder))
    return folder


@pytest.fixture(scope="module")
def rested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ring in which two of three models rest when their loss was not smaller once and twice."""
    folder = ring(tmp_path_factory.mktemp("patience"), {"a": 1, "b": 2})
    driver.run(str(folder))
    return folder


def value(folder: Path, checkpoint: str, name: str) -> np.ndarray:
    with formats.open(str(folder / checkpoint)) as opened:
        return opened.read(name)


def resting(lines: list[dict[str, object]], patience: dict[str, int]) -> dict[tuple[str, int], bool]:
    """Return for each model and round whether it rests, from the losses in the journal."""
    found, idle, best = {}, dict.fromkeys(MODELS, 0), dict.fromkeys(MODELS, float("inf"))
    for number, group in itertools.groupby(lines, key=lambda line: line["round"]):
        found.update({(name, number): idle[name] >= patience.get(name, 10**9) for name in MODELS})
        losses = list(group)[-1]["held_out"]
        for name in MODELS:
            idle[name] = 0 if losses[name] < best[name] else idle[name] + 1
            best[name] = min(best[name], losses[name])
    return found


def test_a_model_rests_while_its_own_loss_does_not_fall(rested: Path) -> None:
    """It trains exactly in the rounds that the losses in the journal allow, and the others go on."""
    lines = records(rested)
    expected = resting(lines, {"a": 1, "b": 2})
    trained = {(line["model"], line["round"]): line["metrics"] == {} for line in lines if line["kind"] == "train"}
    assert trained == expected
    for name in ("a", "b"):
        assert {expected[name, number] for number in range(1, ROUNDS + 1)} == {True, False}
    assert not any(expected["c", number] for number in range(1, ROUNDS + 1))


def test_a_resting_model_keeps_its_head_and_gets_the_trunk(rested: Path) -> None:
    """Its train step carries the checkpoint on, byte for byte; its trunk moves with the others'."""
    steps = [line for line in records(rested) if line["kind"] == "train" and line["metrics"] == {}]
    assert steps
    for line in steps:
        before, after = line["from"], line["checkpoint"]
        assert (rested / f"{before}.index").read_bytes() == (rested / f"{after}.index").read_bytes()
    past = history(rested)
    latest = [f"{name}/model.ckpt-{past.latest(name)}" for name in MODELS]
    trunks = [value(rested, checkpoint, TRUNK) for checkpoint in latest]
    assert all(np.array_equal(trunk, trunks[0]) for trunk in trunks)
    line = steps[-1]
    model = str(line["model"])
    following = f"{model}/model.ckpt-{past.latest(model)}" if line["round"] == ROUNDS else None
    assert following is not None, "the last round should have a resting model"
    assert np.array_equal(value(rested, following, HEAD), value(rested, str(line["from"]), HEAD))


def test_a_resting_run_resumes_to_the_same_bytes(rested: Path, tmp_path: Path) -> None:
    """Who rests follows from the journal, wherever the run was stopped."""
    folder = ring(tmp_path, {"a": 1, "b": 2})
    for rounds in (3, 7, 8, 15):
        driver.run(str(folder), rounds=rounds, tolerance=0.0)
        (folder / "status.json").unlink()
    assert driver.run(str(folder)) == Done("limit", ROUNDS, "rounds")
    assert promised(folder) == promised(rested)


def test_a_run_ends_when_all_models_rest(tmp_path: Path) -> None:
    """And says so; in an average too."""
    for schedule in ("ring", "average"):
        folder = ring(tmp_path / schedule, dict.fromkeys(MODELS, 1), 500, schedule=schedule)
        done = driver.run(str(folder))
        assert (done.reason, done.criterion) == ("converged", "models")
        assert str(done).endswith("rounds: every model's own held-out loss stopped falling")
        assert driver.run(str(folder)) == done  # nothing is left to do


def test_other_limits_do_not_switch_off_what_patience_needs(tmp_path: Path) -> None:
    """With `stop.patience`, a model's program is asked for its loss, also if this run ends elsewhere."""
    said: list[str] = []
    write_ring(
        tmp_path / "ring",
        stop={"window": 1, "patience": 3},
        b={"predict": ["false", "{checkpoint}", "{data}", "{output}"]},
    )
    start.init(str(tmp_path / "ring"))
    driver.run(str(tmp_path / "ring"), rounds=1, warn=said.append)
    assert [line.partition(":")[0] for line in said] == ["cannot compute the held-out loss of b"]


def test_patience_cannot_change_and_needs_held_out_rows(rested: Path, tmp_path: Path) -> None:
    """Another patience would have trained other weights."""
    text = (rested / "ring.toml").read_text()
    (rested / "ring.toml").write_text(text.replace("patience = 2", "patience = 3"))
    with pytest.raises(RefusedError, match=r"models\.b\.patience was 2, is 3"):
        driver.run(str(rested))
    (rested / "ring.toml").write_text(text)
    (tmp_path / "ring.toml").write_text(text.replace("[data]", "[data]\nholdout = 0"))
    with pytest.raises(Problems) as caught:
        loading.load(str(tmp_path / "ring.toml"))
    for line, name in zip(caught.value.lines, "ab", strict=True):
        assert f"models.{name}.patience: needs held-out rows; expected [data] with a holdout above 0" in line
