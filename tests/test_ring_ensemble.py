"""Scores of the models and of the ensemble, checked against a forward pass written out number by number."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from ring_support import MODELS, history, toml, write_ring

from ckptsurgeon import data, formats
from ckptsurgeon.errors import CkptSurgeonError, RefusedError, UsageError
from ckptsurgeon.ring import driver, folder, start
from ckptsurgeon.ring.predicting import ensemble, scores, skflow_net
from ckptsurgeon.ring.spec import loading, records


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ring of classifiers after 40 rounds."""
    folder = tmp_path_factory.mktemp("ensemble") / "ring"
    write_ring(folder, 40)
    start.init(str(folder))
    driver.run(str(folder))
    return folder


def by_hand(prefix: str, row: list[float], head: str) -> list[float]:
    """One row through a net, with neither matrices nor NumPy's functions."""
    with formats.open(prefix) as checkpoint:
        count = sum(name.startswith("dnn/") and name.endswith("Matrix") for name in checkpoint.variables)
        names = [(f"dnn/layer{k}/Linear/Matrix", f"dnn/layer{k}/Linear/Bias") for k in range(count)]
        layers = [[checkpoint.read(n).tolist() for n in pair] for pair in [*names, (f"{head}/weights", f"{head}/bias")]]
    for number, (matrix, bias) in enumerate(layers):
        row = [b + sum(x * line[j] for x, line in zip(row, matrix, strict=True)) for j, b in enumerate(bias)]
        if number < count:
            row = [max(0.0, x) for x in row]
    return row


def specs(ring: Path) -> tuple[records.Spec, records.Data]:
    read = loading.load(str(ring / "ring.toml"))
    assert read.data is not None
    return read, read.data


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def calibration(confidence: list[float], right: list[bool]) -> float:
    """Return the expected calibration error, bin by bin."""
    total = 0.0
    for low in range(15):
        inside = [(c, r) for c, r in zip(confidence, right, strict=True) if low / 15 < c <= (low + 1) / 15]
        total += abs(sum(r for _, r in inside) - sum(c for c, _ in inside))
    return total / len(right)


def test_accuracies_are_those_of_a_forward_pass_by_hand(ring: Path) -> None:
    """On the rows that no batch has held; the ensemble votes by the mean of the probabilities."""
    found = ensemble.evaluate(str(ring))
    assert [line["model"] for line in found] == [*MODELS, "ensemble"]
    table = data.read(str(ring / "points.csv"), "kind")
    held = data.Batches(60, 16, 42, 0.2).held_out().tolist()
    assert len(held) == 12
    past = history(ring)
    chances = {}
    for name in MODELS:
        prefix = str(ring / name / f"model.ckpt-{past.latest(name)}")
        chances[name] = [softmax(by_hand(prefix, table.X[row].tolist(), "logistic_regression")) for row in held]
    chances["ensemble"] = [
        [sum(chances[name][i][k] for name in MODELS) / 3 for k in range(2)] for i in range(len(held))
    ]
    for line in found:
        right = [
            max(range(2), key=lambda k: c[k]) == table.y[r] for c, r in zip(chances[line["model"]], held, strict=True)
        ]
        assert line["accuracy"] == pytest.approx(sum(right) / len(right))
        assert (line["rows"], line["reason"]) == (12, None)
        likely = [c[table.y[r]] for c, r in zip(chances[line["model"]], held, strict=True)]
        assert line["nll"] == pytest.approx(-sum(map(math.log, likely)) / 12)
        assert line["ece"] == pytest.approx(calibration(list(map(max, chances[line["model"]])), right))
    named = [[max(range(2), key=lambda k: chances[name][i][k]) for name in MODELS] for i in range(12)]
    assert found[-1]["disagreement"] == pytest.approx(sum(len(set(each)) > 1 for each in named) / 12)
    best = max(MODELS, key=lambda name: [(row["accuracy"], -row["nll"]) for row in found if row["model"] == name])
    assert found[-1]["best"] == best


def test_probabilities_are_those_of_a_forward_pass_by_hand(ring: Path) -> None:
    """Not only their order: the numbers agree."""
    prefix = str(ring / "a" / f"model.ckpt-{history(ring).latest('a')}")
    X = np.array([[0.5, -1.0], [2.0, 0.25], [900.0, -900.0]], np.float32)
    found = skflow_net.load(prefix).outputs(X)
    for row, chances in zip(X[:2].tolist(), found.tolist(), strict=False):
        assert chances == pytest.approx(softmax(by_hand(prefix, row, "logistic_regression")), rel=1e-9)
    assert np.isfinite(found).all()  # large outputs do not overflow


def test_other_rows_can_be_scored(ring: Path, tmp_path: Path) -> None:
    """A file needs the same columns, and classes that the models know."""
    path = tmp_path / "other.csv"
    path.write_text("x,y,kind\n0,0,in\n3,3,out\n")
    scores = ensemble.evaluate(str(ring), str(path))
    assert [line["rows"] for line in scores] == [2] * 4
    assert scores[-1]["accuracy"] == 1.0
    path.write_text("x,y,kind\n0,0,elsewhere\n")
    with pytest.raises(CkptSurgeonError, match=r"line 2.*unknown class; expected in or out, found 'elsewhere'"):
        ensemble.evaluate(str(ring), str(path))
    path.write_text("kind,y,x\nin,0,2\nout,3,3\n")  # the columns are found by their names
    spec, _ = specs(ring)
    _, (held,) = ensemble._rows(folder.existing(str(ring)), spec, str(path), None)
    assert held.X.tolist() == [[2, 0], [3, 3]]
    path.write_text("x,z,kind\n0,0,in\n")
    with pytest.raises(UsageError, match="does not have the columns that the models were trained on; expected x, y"):
        ensemble.evaluate(str(ring), str(path))
    path.write_text("x,y,z,kind\n0,0,0,in\n")
    with pytest.raises(UsageError, match=r"columns that the models were trained on; expected \[rows,2\]"):
        ensemble.evaluate(str(ring), str(path))


def test_scores_of_known_probabilities() -> None:
    """Certain and right costs nothing; certain and wrong is far off; rows may come in any parts."""
    chances = np.array([[1.0, 0.0], [0.2, 0.8], [0.2, 0.8], [0.0, 1.0]])
    table = data.Table(np.zeros((4, 1), np.float32), np.array([0, 1, 0, 0]), ("a", "b"))
    whole, parts = scores.Score(True), scores.Score(True)
    whole.add(chances, table)
    for rows in (slice(0, 1), slice(1, 4)):
        parts.add(chances[rows], table.take(rows))
    for name, value in {"accuracy": 0.5, "nll": (-math.log(0.8 * 0.2) - math.log(1e-15)) / 4}.items():
        assert whole.values()[name] == pytest.approx(value)
    assert whole.values()["ece"] == pytest.approx((1 + 0.6) / 4)  # bins: two rows at 100 %, one right; two at 80 %
    assert parts.values() == pytest.approx(whole.values())
    assert scores.Score(True).values() == {"accuracy": None, "nll": None, "ece": None}
    assert scores.differing([chances, chances[:, ::-1]]) == 4
    assert scores.differing([chances, np.array([[1.0, 0.0]] * 4)]) == 3


def test_a_ring_without_data_is_scored_on_a_file(tmp_path: Path) -> None:
    """The rows and the target are named on the command line; without them there is nothing to score on."""
    (tmp_path / "rows.csv").write_text("x,y,t\n1,2,0.5\n3,4,1.5\n")
    regressors(tmp_path, "", {}, {}, data=False)
    with pytest.raises(UsageError, match=r"has no \[data\]; name the rows with --data and --target"):
        ensemble.evaluate(str(tmp_path))
    with pytest.raises(UsageError, match="no target was given; name the column to predict"):
        ensemble.evaluate(str(tmp_path), str(tmp_path / "rows.csv"))
    found = ensemble.evaluate(str(tmp_path), str(tmp_path / "rows.csv"), "t")
    expected = [by_hand(str(tmp_path / "first-0"), row, "linear_regression")[0] for row in ([1, 2], [3, 4])]
    assert found[0]["mse"] == pytest.approx(((expected[0] - 0.5) ** 2 + (expected[1] - 1.5) ** 2) / 2, rel=1e-5)
    assert found[-1]["best"] == min(found[:2], key=lambda line: line["mse"])["model"]
    assert "disagreement" not in found[-1]
    with pytest.raises(UsageError, match=r"has no \[data\], which predict needs"):
        next(ensemble.predict(str(tmp_path), str(tmp_path / "rows.csv")))


def test_without_held_out_rows_a_file_is_asked_for(tmp_path: Path) -> None:
    """There is nothing honest to score on."""
    regressors(tmp_path, "x,y,t\n1,2,0.5\n3,4,1.5\n", {}, {}, holdout="0")
    with pytest.raises(UsageError, match="no rows are held out; name a file with --data"):
        ensemble.evaluate(str(tmp_path))
    assert ensemble.evaluate(str(tmp_path), str(tmp_path / "rows.csv"))[0]["rows"] == 2


def test_another_ring_toml_than_the_runs_is_refused(ring: Path, tmp_path: Path) -> None:
    """Another seed or share would score rows that the models were trained on."""
    folder = Path(shutil.copytree(ring, tmp_path / "ring"))
    text = (folder / "ring.toml").read_text().replace("batch_size", "holdout = 0.5\nbatch_size")
    (folder / "ring.toml").write_text(text)
    with pytest.raises(RefusedError, match=r"changed since the run began: data\.holdout"):
        ensemble.evaluate(str(folder))


def write_net(prefix: Path, head: str = "linear_regression", outputs: int = 1, seed: int = 0, units: int = 3) -> None:
    random = np.random.default_rng(seed)
    shapes = {
        "dnn/layer0/Linear/Matrix": (2, units),
        "dnn/layer0/Linear/Bias": (units,),
        f"{head}/weights": (units, outputs),
        f"{head}/bias": (outputs,),
    }
    formats.write(str(prefix), {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})


def regressors(
    folder: Path,
    rows: str,
    *nets: dict[str, object],
    holdout: str = "0.5",
    file: str = "rows.csv",
    target: str = "t",
    data: bool = True,
) -> None:
    """Make a run of commands that never run: all that is scored is their first checkpoints."""
    if rows:
        (folder / file).write_text(rows)
    lines = ['layers = "0"']
    lines += ["[data]", f'file = "{file}"', f'target = "{target}"', f"holdout = {holdout}"] if data else []
    for number, each in enumerate(nets):
        write_net(folder / f"first-{number}", seed=number, **each)  # type: ignore[arg-type]
        model = {"name": f"m{number}", "command": ["{checkpoint}", "{output}"], "init": f"first-{number}"}
        lines += ["[[models]]", *(f"{key} = {toml(value)}" for key, value in model.items())]
    (folder / "ring.toml").write_text("\n".join(lines))
    start.init(str(folder))


def test_regressors_have_r2_and_mean_squared_error(tmp_path: Path) -> None:
    """Of each, and of the mean of all predictions."""
    random = np.random.default_rng(3)
    rows = random.normal(size=(8, 3)).tolist()
    regressors(tmp_path, "x,y,t\n" + "".join(f"{x},{y},{t}\n" for x, y, t in rows), {}, {})
    scores = ensemble.evaluate(str(tmp_path))
    held = data.Batches(8, 32, 42, 0.5).held_out().tolist()
    target = [rows[row][2] for row in held]
    outputs = [
        [by_hand(str(tmp_path / f"first-{k}"), rows[row][:2], "linear_regression")[0] for row in held] for k in (0, 1)
    ]
    outputs.append([(one + other) / 2 for one, other in zip(*outputs, strict=True)])
    center = sum(target) / 4
    for line, values in zip(scores, outputs, strict=True):
        error = sum((value - t) ** 2 for value, t in zip(values, target, strict=True)) / 4
        assert line["mse"] == pytest.approx(error, rel=1e-5)
        assert line["r2"] == pytest.approx(1 - error / (sum((t - center) ** 2 for t in target) / 4), rel=1e-4)
        assert "accuracy" not in line


def test_a_model_that_is_no_such_net_has_no_vote(tmp_path: Path) -> None:
    """It is said of it, and the others are scored; without any vote that is an error."""
    rows = "x,y,t\n1,2,0.5\n3,4,1.5\n5,6,2.5\n7,8,3\n"
    regressors(tmp_path, rows, {}, {"head": "some_other_head"}, {"outputs": 2}, {"head": "logistic_regression"})
    scores = ensemble.evaluate(str(tmp_path))
    assert [line["reason"] for line in scores] == [
        None,
        "no vote: is not a network of dnn/layer{K}/Linear layers and one head",
        "no vote: its network does not have 2 features and 1 outputs",
        "no vote: its network does not have 2 features and 1 outputs",
        None,
    ]
    assert [line["mse"] is None for line in scores] == [False, True, True, True, False]
    assert scores[0]["mse"] == scores[-1]["mse"]
    (tmp_path / "none").mkdir()
    regressors(tmp_path / "none", rows, {"outputs": 3}, {"outputs": 3})
    with pytest.raises(CkptSurgeonError, match="no model has a vote; no vote: its network does not have"):
        ensemble.evaluate(str(tmp_path / "none"))


def test_a_net_whose_layers_do_not_fit_has_no_vote(tmp_path: Path) -> None:
    """Shapes are checked before anything is multiplied."""
    write_net(tmp_path / "good", units=3)
    with formats.open(str(tmp_path / "good")) as checkpoint:
        values = {name: checkpoint.read(name) for name in checkpoint.variables}
    for name, shape in {"linear_regression/weights": (4, 1), "dnn/layer0/Linear/Bias": (2,)}.items():
        formats.write(str(tmp_path / "bad"), {**values, name: np.zeros(shape, np.float32)})
        with pytest.raises(CkptSurgeonError, match="does not fit"):
            skflow_net.load(str(tmp_path / "bad"))
