"""What a ring predicts: by its nets and by programs, from all kinds of rows, into a csv."""

from __future__ import annotations

import csv
import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from ring_support import MODELS, TIMEOUT, history, write_ring
from test_ring_ensemble import by_hand, regressors, softmax, specs

from ckptsurgeon import cli, data
from ckptsurgeon.errors import CkptSurgeonError, RefusedError, TrainerError, UsageError
from ckptsurgeon.ring import driver, folder, start
from ckptsurgeon.ring.predicting import ensemble, voting

ROWS = [[0.5, -1.0], [0.1, 0.1], [2.0, 0.25], [-3.0, 3.0]]


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ring of classifiers after two rounds."""
    folder = tmp_path_factory.mktemp("predict") / "ring"
    write_ring(folder, 2)
    start.init(str(folder))
    driver.run(str(folder))
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """Return four rows without a target."""
    return write(tmp_path / "rows.csv", "x,y\n" + "".join(f"{x},{y}\n" for x, y in ROWS))


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def predict(ring: Path, file: str) -> tuple[list[list[object]], list[str]]:
    """Return the header and all rows, and what a person was told."""
    told: list[str] = []
    return [row for part in ensemble.predict(str(ring), file, told.append) for row in part], told


def test_probabilities_are_the_mean_of_all_models_by_hand(ring: Path, rows: str) -> None:
    """The prediction is the class with the greatest; rows keep their order."""
    (header, *found), told = predict(ring, rows)
    assert (header, told) == (["prediction", "in", "out"], [])
    past = history(ring)
    for row, (name, *chances) in zip(ROWS, found, strict=True):
        each = [
            softmax(by_hand(str(ring / m / f"model.ckpt-{past.latest(m)}"), row, "logistic_regression")) for m in MODELS
        ]
        mean = [sum(chance[k] for chance in each) / len(MODELS) for k in range(2)]
        assert chances == pytest.approx(mean, rel=1e-5)
        assert name == ("in" if mean[0] >= mean[1] else "out")


def test_columns_are_found_by_their_names(ring: Path, rows: str, tmp_path: Path) -> None:
    """In another order, with the target, with columns that the run does not know: those are said."""
    expected, _ = predict(ring, rows)
    text = "y,id,kind,x\n" + "".join(f"{y},7,whatever,{x}\n" for x, y in ROWS)
    found, told = predict(ring, write(tmp_path / "other.csv", text))
    assert found == expected
    assert told == [f"{tmp_path / 'other.csv'}: ignored columns: id"]


def test_arrays_are_rows_too(ring: Path, rows: str, tmp_path: Path) -> None:
    """An npz with X, and npy; whole numbers too."""
    expected, _ = predict(ring, rows)
    np.save(tmp_path / "rows.npy", np.array(ROWS))
    np.savez(tmp_path / "rows.npz", X=np.array(ROWS, np.float32), other=np.zeros(3))
    assert predict(ring, str(tmp_path / "rows.npy"))[0] == predict(ring, str(tmp_path / "rows.npz"))[0] == expected
    np.save(tmp_path / "rows.npy", np.array([[1, 2]]))
    assert predict(ring, str(tmp_path / "rows.npy"))[0] == predict(ring, write(tmp_path / "b.csv", "x,y\n1,2\n"))[0]


@pytest.mark.parametrize("ending", ["csv", "npy", "npz"])
def test_parts_make_no_difference(ring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Ten rows at once, or three at a time."""
    values, path = np.random.default_rng(1).normal(size=(10, 2)), tmp_path / f"rows.{ending}"
    if ending == "csv":
        np.savetxt(path, values, delimiter=",", header="x,y", comments="")
    else:
        np.save(path, values) if ending == "npy" else np.savez(path, X=values)
    expected, _ = predict(ring, str(path))
    monkeypatch.setattr(ensemble, "rows_at_once", lambda spec: 3)
    parts = list(ensemble.predict(str(ring), str(path)))
    assert [len(part) for part in parts] == [1, 3, 3, 3, 1]
    assert [row[0] for part in parts for row in part] == [row[0] for row in expected]
    assert np.allclose([r[1:] for p in parts[1:] for r in p], [r[1:] for r in expected[1:]], rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", RefusedError, "is empty; expected a header line"),
        ("x,y\n", RefusedError, "has no rows"),
        ("x,z\n1,2\n", UsageError, "there is no column 'y'; the columns are x, z"),
        ("1,2\n", UsageError, "there is no 2 columns, such as 'x'"),
        ("x,y,x\n1,2,3\n", RefusedError, "two columns are named 'x'"),
        (
            "x,y\n1,2\n\n3\n",
            RefusedError,
            "line 4 has a different number of fields than the header; expected 2, found 1",
        ),
        ("x,y\n1,2\n1,two\n", RefusedError, "line 3, column 'y' is not a number; found 'two'"),
        ("x,y\n1_0,2\n", RefusedError, "line 2, column 'x' is not a number; found '1_0'"),
        ("x,y\n1,\n", RefusedError, "line 2, column 'y' is empty"),
        ("x,y\nnan,2\n", RefusedError, "line 2, column 'x' is not finite as float32; found nan"),
        ("x,y\n1,1e39\n", RefusedError, "line 2, column 'y' is not finite as float32"),
    ],
)
def test_what_is_wrong_with_rows_is_said(
    ring: Path, tmp_path: Path, text: str, error: type[CkptSurgeonError], message: str
) -> None:
    """With the line and the column."""
    with pytest.raises(error, match=message) as caught:
        predict(ring, write(tmp_path / "bad.csv", text))
    assert caught.value.path == str(tmp_path / "bad.csv")


def test_what_is_wrong_with_arrays_is_said(ring: Path, tmp_path: Path) -> None:
    """Another number of features, none at all, text, and what is not finite."""
    for values in (np.zeros((3, 5)), np.zeros(3), np.zeros((0, 2)), np.array([["a", "b"]])):
        np.save(tmp_path / "bad.npy", values)
        with pytest.raises(RefusedError, match=r"does not have the features .* expected numbers \[rows,2\]"):
            predict(ring, str(tmp_path / "bad.npy"))
    np.save(tmp_path / "bad.npy", np.array([[1, 2], [3, np.inf]]))
    with pytest.raises(RefusedError, match="row 1 is not finite"):
        predict(ring, str(tmp_path / "bad.npy"))
    np.savez(tmp_path / "bad.npz", Y=np.zeros((2, 2)))
    with pytest.raises(UsageError, match="has no array 'X'"):
        predict(ring, str(tmp_path / "bad.npz"))


def test_values_of_regressors_are_averaged(tmp_path: Path) -> None:
    """A column for each output, numbered where there are several."""
    regressors(tmp_path, "x,y,t\n1,2,0.5\n3,4,1.5\n", {}, {})
    file = write(tmp_path / "new.csv", "x,y\n0.5,-1\n")
    expected = sum(by_hand(str(tmp_path / f"first-{k}"), [0.5, -1], "linear_regression")[0] for k in (0, 1)) / 2
    found, _ = predict(tmp_path, file)
    assert found[0] == ["prediction"]
    assert found[1] == [pytest.approx(expected, rel=1e-6)]

    several = tmp_path / "several"
    several.mkdir()
    np.savez(several / "rows.npz", X=np.zeros((4, 2), np.float32), y=np.zeros((4, 3), np.float32))
    regressors(several, "", {"outputs": 3}, {"outputs": 3}, file="rows.npz", target="y")
    found, _ = predict(several, str(several / "rows.npz"))
    assert found[0] == ["prediction_0", "prediction_1", "prediction_2"]
    assert [len(row) for row in found[1:]] == [3] * 4


# What a `predict` program may do: the right thing in each container, and wrong things.
PROGRAM = """
import os, sys, time, numpy as np
how, checkpoint, data, output = sys.argv[1:]
X = np.load(data)["X"]
chances = np.stack([X[:, 0] > 0, X[:, 0] <= 0], axis=1) * 0.5 + 0.25
assert os.path.exists(checkpoint + ".index"), checkpoint
print("asked about", len(X), "rows", file=sys.stderr)
if how == "npy": np.save(output, chances)
if how == "npz": np.savez(output, chances=chances)
if how == "csv": np.savetxt(output, chances, delimiter=",")
if how == "shape": np.save(output, chances[:-1])
if how == "logits": np.save(output, chances * 9 - 5)
if how == "nan": np.save(output, chances * np.nan)
if how == "text": open(output, "w").write("in,out\\n")
if how == "long": open(output, "w").write("0.123456789," * 1000)
if how == "objects": np.save(output, np.array([{}]), allow_pickle=True)
if how == "hang": time.sleep(3600)
if how == "status": sys.exit("no idea")
"""


def program(ring: Path, tmp_path: Path, how: str, **options: object) -> Path:
    """Copy a ring, and have its second model asked through a program: ring.toml may say so at any time."""
    copy = Path(shutil.copytree(ring, tmp_path / "ring"))
    (tmp_path / "predict.py").write_text(PROGRAM)
    arguments = [sys.executable, str(tmp_path / "predict.py"), how, "{checkpoint}", "{data}", "{output}"]
    write_ring(copy, 2, b={"predict": arguments, **options})
    return copy


@pytest.mark.parametrize("how", ["npy", "npz", "csv"])
def test_a_program_gives_a_model_its_vote(ring: Path, tmp_path: Path, rows: str, how: str) -> None:
    """In `ring predict` and in `ring evaluate`; what it writes counts in place of the net that its checkpoint holds."""
    ring = program(ring, tmp_path, how)
    found, told = predict(ring, rows)
    assert told == []
    nets = [net_of(ring, name) for name in ("a", "c")]
    for row, (_, *chances) in zip(ROWS, found[1:], strict=True):
        mine = [0.75, 0.25] if row[0] > 0 else [0.25, 0.75]
        each = [mine, *(softmax(by_hand(net, row, "logistic_regression")) for net in nets)]
        assert chances == pytest.approx([sum(chance[k] for chance in each) / 3 for k in range(2)], rel=1e-5)
    scores = {line["model"]: line for line in ensemble.evaluate(str(ring))}
    table = folder.existing(str(ring)).open_table()
    held = table.take(data.Batches(60, 16, 42, 0.2).held_out())
    assert scores["b"]["accuracy"] == pytest.approx(np.mean((held.X[:, 0] <= 0) == held.y))
    assert scores["b"]["reason"] is None


def net_of(ring: Path, name: str) -> str:
    return str(ring / name / f"model.ckpt-{history(ring).latest(name)}")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nothing", "did not write {output}"),
        ("shape", r"wrote an {output} of the wrong shape; expected \[4,2\], found \[3,2\]"),
        ("logits", "does not hold probabilities; expected rows that add up to 1"),
        ("nan", "is not finite"),
        ("text", "cannot be read: could not convert string to float"),
        ("long", r"cannot be read: it has 12000 bytes for 8 numbers"),
        ("objects", "cannot be read"),
        ("hang", "did not end within 1 s"),
        ("status", "exited with status 1; last lines of its log: asked about 4 rows | no idea"),
    ],
)
def test_a_program_that_fails_is_an_error(ring: Path, tmp_path: Path, rows: str, how: str, message: str) -> None:
    """A vote is never left out in silence; the model is named."""
    ring = program(ring, tmp_path, how, timeout=1 if how == "hang" else TIMEOUT)
    with pytest.raises(TrainerError, match="model b: its predict program .*" + message.replace("|", r"\|")):
        predict(ring, rows)


def test_a_model_without_a_vote_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On the command line a warning; the others vote."""
    regressors(tmp_path, "x,y,t\n1,2,0.5\n3,4,1.5\n", {}, {"head": "some_other_head"})
    file = write(tmp_path / "new.csv", "x,y\n0.5,-1\n")
    assert cli.main(["ring", "predict", str(tmp_path), "--data", file, "-o", str(tmp_path / "out.csv")]) == 0
    expected = by_hand(str(tmp_path / "first-0"), [0.5, -1], "linear_regression")[0]
    header, value = (tmp_path / "out.csv").read_text().splitlines()
    assert header == "prediction"
    assert float(value) == pytest.approx(expected, rel=1e-6)
    warning = "ckptsurgeon: warning: model m1: no vote: is not a network of dnn/layer{K}/Linear layers and one head\n"
    assert capsys.readouterr().err == warning


def test_the_csv_is_quoted_and_stays_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of classes may hold anything; an OUT is replaced with --force alone, and by a whole one alone."""
    write_ring(tmp_path / "ring")
    points = tmp_path / "ring" / "points.csv"
    points.write_text(points.read_text().replace(",in\n", ',"in, ""well"""\n'))
    start.init(str(tmp_path / "ring"))
    out, file = tmp_path / "out.csv", write(tmp_path / "new.csv", "x,y\n0.1,0.2\n4,5\n")
    call = ["ring", "predict", str(tmp_path / "ring"), "--data", file, "-o"]
    assert cli.main([*call, str(out)]) == 0
    with open(out, newline="") as written:
        table = list(csv.reader(written))
    assert table[0] == ["prediction", 'in, "well"', "out"]
    assert len(table) == 3
    assert all(row[0] in table[0][1:] for row in table[1:])

    assert cli.main([*call, str(out)]) == 2
    assert "exists already; --force" in capsys.readouterr().err
    assert cli.main([*call, file, "--force"]) == 2
    assert "is the file with the rows" in capsys.readouterr().err
    before = out.read_bytes()
    write(tmp_path / "new.csv", "x,y\n0.1,0.2\n4,five\n")
    assert cli.main([*call, str(out), "--force"]) == 2
    assert out.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.csv", "out.csv", "ring"]


def test_a_dash_means_stdout(ring: Path, rows: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes as in a file."""
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    for target in ("-", str(tmp_path / "out.csv")):
        assert cli.main(["ring", "predict", str(ring), "--data", rows, "-o", target]) == 0
    assert out.buffer.getvalue() == (tmp_path / "out.csv").read_bytes()  # type: ignore[attr-defined]


def test_a_loss_is_the_mean_over_the_rows() -> None:
    """Cross-entropy of probabilities, finite even where one is 0; squared errors of values."""
    chances = np.array([[0.5, 0.5], [0.25, 0.75]])
    assert voting.loss(chances, np.array([0, 1]), ("a", "b")) == pytest.approx(-(np.log(0.5) + np.log(0.75)) / 2)
    assert 10 < voting.loss(np.array([[1.0, 0.0]]), np.array([1]), ("a", "b")) < 100
    assert voting.loss(np.array([[1.0], [3.0]]), np.array([2.0, 5.0], np.float32), None) == 2.5
    assert voting.loss(np.array([[1.0, 3.0]]), np.array([[2.0, 5.0]], np.float32), None) == 2.5


def test_a_vote_on_many_rows_is_asked_for_in_parts(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the driver asks for it; the answer is the same."""
    X = np.random.default_rng(2).normal(size=(7, 2)).astype(np.float32)
    where = folder.existing(str(ring)).storing(specs(ring)[0].suffixes)
    asked = [specs(ring)[0], where, "a", net_of(ring, "a"), X]
    whole = voting.outputs(*asked, {})
    monkeypatch.setattr(voting, "_AT_ONCE", 2)
    parts = voting.outputs(*asked, {})
    assert whole.shape == (7, 2)
    assert whole.dtype == np.float64
    assert np.allclose(whole, parts, rtol=1e-12)
    assert os.listdir(ring / "data").count("rows.npz") == 0
