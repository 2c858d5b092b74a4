"""`ckptsurgeon ring …`: output, exit statuses, and, as a process, signals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import command_line
import pytest
from numpy_here import train_here
from ring_support import HIDDEN, MODELS, STEPS, promised, steps, write_ring
from waiting import wait_until

from ckptsurgeon.cli.verbs.ring import VERBS
from ckptsurgeon.ring import start
from ckptsurgeon.ring.spec import records


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ckptsurgeon", "ring", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def ring(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a verb of the ring to its end."""
    return command_line.run("ring", *arguments, cwd=cwd)


def refused(*arguments: object, cwd: Path | None = None) -> list[str]:
    """Run a verb that must fail; return its lines on stderr."""
    done = ring(*arguments, cwd=cwd)
    assert (done.returncode, done.stdout) == (2, ""), done
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("ckptsurgeon: ") for line in lines)
    return lines


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers without processes, where a test is about what is printed."""
    train_here(monkeypatch)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an initialised ring that nobody has run."""
    folder = tmp_path_factory.mktemp("cli") / "ring"
    write_ring(folder, 4)
    start.init(str(folder))
    return folder


@pytest.fixture
def folder(fresh: Path, tmp_path: Path) -> Path:
    """Return a copy of the initialised ring."""
    return Path(shutil.copytree(fresh, tmp_path / "ring"))


MOVED = "converged after 4 rounds: weights moved by at most 1e+11 % between two windows of 2 rounds"


@pytest.mark.usefixtures("here")
def test_a_run_prints_a_line_a_round_and_how_it_ended(folder: Path) -> None:
    """Tab-separated: the round, each model's loss, and the change where it was measured."""
    done = ring("run", folder)
    assert (done.returncode, done.stderr) == (0, "")
    *rounds, end = [line.split("\t") for line in done.stdout.splitlines()]
    assert end == ["limit of 4 rounds reached"]
    assert [row[0] for row in rounds] == ["1", "2", "3", "4"]
    assert all(0 < float(loss) < 5 for row in rounds for loss in row[1:4])
    assert [row[4] == "-" for row in rounds] == [True, True, True, False]
    done = ring("run", folder, "--until", "tolerance=1e9")
    assert (done.returncode, done.stdout) == (0, f"{MOVED}\n")


@pytest.mark.usefixtures("here")
def test_a_run_in_json_has_a_line_a_round(folder: Path) -> None:
    """And a last one that says how it ended; -q prints nothing."""
    done = ring("run", folder, "--json", "--until", "rounds=2")
    *rounds, end = [json.loads(line) for line in done.stdout.splitlines()]
    assert [list(row) for row in rounds] == [["round", "loss", "change", "held_out"]] * 2
    assert list(rounds[0]["loss"]) == list(MODELS)
    assert (rounds[0]["change"], rounds[0]["held_out"]) == (None, None)
    assert end == {"state": "limit", "round": 2, "criterion": "rounds"}
    done = ring("run", folder, "--json", "--until", "tolerance=1e9", "--until", "rounds=9")
    *rounds, end = [json.loads(line) for line in done.stdout.splitlines()]
    assert list(rounds[-1]["change"]) == [*MODELS, "trunk"]
    assert list(rounds[-1]["held_out"]) == list(MODELS)
    assert end == {"state": "converged", "round": 4, "criterion": "weights"}
    done = ring("run", folder, "-q", "--until", "rounds=5")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert steps(folder) == 5 * STEPS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_exits_130_and_can_be_resumed(tmp_path: Path, number: int) -> None:
    """Ctrl-C and `kill` mean the same, and cost nothing."""
    folder, mark = tmp_path / "ring", tmp_path / "hangs"
    write_ring(folder, 4, b={"worker": ["--do", "hang", "--at", "10", "--once", str(mark)]})
    start.init(str(folder))
    fresh = shutil.copytree(folder, tmp_path / "whole")
    with subprocess.Popen(command("run", folder), stdout=subprocess.PIPE, text=True, env=environment()) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("1\t")
        wait_until(mark.exists)  # from now on the run would take an hour
        run.send_signal(number)
        assert run.stdout.read() == ""
    assert run.returncode == 130
    assert steps(folder) == 9
    assert json.loads(ring("status", folder, "--json").stdout)["state"] == "stopped"
    assert ring("status", folder).stderr == f"ckptsurgeon: {folder}: stopped: interrupted\n"
    assert ring("run", folder).returncode == 0
    assert ring("run", fresh).returncode == 0
    assert promised(folder) == promised(Path(fresh))


def test_a_closed_pipe_stops_the_run_quietly(folder: Path) -> None:
    """As in `ring run R | head -1`; it can be resumed like any other."""
    with subprocess.Popen(
        command("run", folder, "--until", "rounds=100000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.readline()
        run.stdout.close()
        assert run.stderr.read() == ""
    assert run.returncode == 0
    assert json.loads(ring("status", folder, "--json").stdout)["state"] == "stopped"
    assert ring("run", folder).returncode == 0


@pytest.mark.usefixtures("here")
def test_status_has_the_keys_of_the_contract(folder: Path) -> None:
    """One object in JSON; in a pipe a line a model."""
    report = json.loads(ring("status", folder, "--json").stdout)
    assert list(report) == ["round", "state", "reason", "pid", "change", "models"]
    assert list(report["models"][0]) == ["name", "step", "checkpoint", "loss", "pid"]
    assert (report["round"], report["state"], report["reason"], report["change"]) == (0, "stopped", None, None)
    ring("run", folder, "-q", "--until", "rounds=2")
    done = ring("status", folder)
    assert done.stderr == ""
    assert [line.split("\t")[:5] for line in done.stdout.splitlines()] == [
        ["2", "limit", "a", "13", "a/model.ckpt-13"],
        ["2", "limit", "b", "14", "b/model.ckpt-14"],
        ["2", "limit", "c", "12", "c/model.ckpt-12"],
    ]
    assert all(float(line.split("\t")[5]) > 0 for line in done.stdout.splitlines())
    assert [line.split("\t")[6:] for line in done.stdout.splitlines()] == [["-", "-"]] * 3


@pytest.mark.usefixtures("here")
def test_status_after_a_run_that_converged(folder: Path) -> None:
    """It says by what, and how much each model's weights and the trunk changed."""
    ring("run", folder, "-q", "--until", "tolerance=1e9")
    report = json.loads(ring("status", folder, "--json").stdout)
    assert (report["round"], report["state"], report["pid"]) == (4, "converged", None)
    assert report["reason"] == MOVED
    assert list(report["change"]) == [*MODELS, "trunk"]
    lines = [line.split("\t") for line in ring("status", folder).stdout.splitlines()]
    assert [line[6] for line in lines] == [f"{report['change'][name]:.6g}" for name in MODELS]


def test_evaluate_scores_each_model_and_the_ensemble(folder: Path, tmp_path: Path) -> None:
    """Plain lines for a pipe, keys that stay for scripts."""
    lines = [line.split("\t") for line in ring("evaluate", folder).stdout.splitlines()]
    assert [line[:2] for line in lines] == [["a", "12"], ["b", "12"], ["c", "12"], ["ensemble", "12"]]
    assert all(0 <= float(line[2]) <= 1 for line in lines)
    rows = [json.loads(line) for line in ring("evaluate", folder, "--json").stdout.splitlines()]
    keys = ["model", "checkpoint", "rows", "accuracy", "nll", "ece", "reason"]
    assert [list(row) for row in rows] == [*[keys] * 3, [*keys, "best", "disagreement"]]
    (tmp_path / "other.csv").write_text("x,y,kind\n0,0,in\n")
    assert ring("evaluate", folder, "--data", "other.csv", cwd=tmp_path).stdout.splitlines()[0].startswith("a\t1\t")


def test_a_trainer_that_fails_is_one_line_and_status_2(tmp_path: Path) -> None:
    """With its last words; the status says so too."""
    write_ring(tmp_path, 4, c={"worker": ["--do", "exit", "--at", "5"]})
    assert ring("init", tmp_path).returncode == 0
    lines = ring("run", tmp_path).stderr.splitlines()
    assert len(lines) == 1
    assert "model c, step 5: its trainer exited with status 1; last lines of its log: about to misbehave" in lines[0]
    report = json.loads(ring("status", tmp_path, "--json").stdout)
    assert report["state"] == "failed"
    assert lines[0].endswith(report["reason"])
    done = ring("status", tmp_path)
    assert done.stderr == f"ckptsurgeon: {tmp_path}: failed: {report['reason']}\n"
    assert [line.split("\t")[1] for line in done.stdout.splitlines()] == ["failed"] * 3


def test_a_program_that_was_wrong_can_be_mended(tmp_path: Path) -> None:
    """Another command is refused, with the way on; --anyway goes on where the run failed."""
    write_ring(tmp_path, 2, c={"worker": ["--do", "exit", "--at", "5"]})
    assert ring("init", tmp_path).returncode == 0
    assert ring("run", tmp_path).returncode == 2
    text = (tmp_path / "ring.toml").read_text()
    (tmp_path / "ring.toml").write_text(text.replace(', "--do", "exit", "--at", "5"', ""))
    [line] = refused("run", tmp_path)
    assert "changed since the run began: models.c.worker" in line
    assert "; --anyway continues with the other program" in line
    assert ring("run", tmp_path, "--anyway").returncode == 0
    (tmp_path / "ring.toml").write_text(f"seed = 3\n{text}")
    assert "seed" in refused("run", tmp_path, "--anyway")[0]


def test_a_misspelt_placeholder_is_offered_its_name(tmp_path: Path) -> None:
    """Other words in braces are the program's own."""
    command = ["sh", "-c", "awk '{print}' ${HOME} {checkpoint} {output} {bacth}"]
    write_ring(tmp_path, 2, c={"command": command, "init": "first.ckpt"})
    [line] = refused("init", tmp_path)
    assert "models.c.command: unknown placeholder {bacth}; did you mean batch" in line


def test_mistakes_in_ring_toml_are_told_all_at_once(tmp_path: Path) -> None:
    """A line each, with the file and the key."""
    write_ring(tmp_path, sead=1, slots="none")
    (tmp_path / "ring.toml").write_text((tmp_path / "ring.toml").read_text().replace("tries = 1", "tires = 1", 1))
    assert refused("init", tmp_path) == [
        f"ckptsurgeon: {tmp_path}/ring.toml: sead: unknown key; did you mean seed",
        f"ckptsurgeon: {tmp_path}/ring.toml: slots: wrong value; "
        'expected "keep", "copy" or "fill=VALUE", found \'none\'',
        f"ckptsurgeon: {tmp_path}/ring.toml: models.a.tires: unknown key; did you mean tries",
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "ring needs a verb; the verbs are init, check, run, status, plot, evaluate, predict"),
        (["statsu"], "no verb ring statsu; did you mean status"),
        (["run"], "the following arguments are required: DIR"),
        (["run", "."], ".: there is no ring.toml here; make one with: ckptsurgeon ring init ."),
        (["status", "nowhere"], "nowhere: there is no ring.toml here"),
        (["evaluate", "."], ".: there is no ring.toml here"),
        (["plot", ".", "-o", "run.png"], ".: there is no ring.toml here"),
        (["plot", "."], "the following arguments are required: -o"),
        (["init", "R"], "R: there is no ring.toml here; write one, or give the options"),
        (["init", "R", "--data", "points.csv"], "--target, --hidden or --trainer, --layers or --match missing"),
        (["init", "R", "--rounds", "5"], "--data, --target, --hidden or --trainer, --layers or --match missing"),
        (["run", ".", "--until", "5"], "--until 5; expected rounds=N or tolerance=X"),
        (["run", ".", "--until", "rounds=x"], "--until rounds=x; expected rounds=N or tolerance=X"),
        (["run", ".", "--until", "rounds=0"], "expected 1 round or more"),
        (["run", ".", "--until", "tolerance=nan"], "a tolerance of 0 or more"),
    ],
)
def test_a_wrong_request_is_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    """Exit status 2, and nothing was made."""
    [line] = refused(*arguments, cwd=tmp_path)
    assert words in line
    assert not list(tmp_path.iterdir())


BUILT_IN = {"--data": "points.csv", "--target": "kind", "--hidden": "4,3", "--layers": "0-1"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"--models": "1"}, "a ring needs at least two models; expected --models 2 or more, found 1"),
        ({"--models": "2", "--hidden": "4,x"}, "--hidden is not a number; found 'x'"),
        ({"--models": "2", "--hidden": "4"}, "layers: of model a: no layer 1; expected layers 0"),
        ({"--models": "2", "--layers": "0:2"}, "did you mean 0-1 (inclusive)"),
        ({"--models": "2", "--target": "knid"}, "no column 'knid'; did you mean kind"),
        ({"--models": "2", "--data": "none.csv"}, "none.csv: no such file"),
        ({"--models": "2", "--holdout": "2"}, "data.holdout: wrong value"),
        ({"--models": "2", "--seed": "1.5"}, "seed: wrong value"),
        ({"--models": "2", "--optimizer": "adam"}, "models.a.optimizer: wrong value"),
        ({"--models": "2", "--learning-rate": "fast"}, "--learning-rate is not a number; found 'fast'"),
    ],
)
def test_a_wrong_option_of_init_makes_nothing(tmp_path: Path, changes: dict[str, str], words: str) -> None:
    """Before the folder of the run is made, all that can be checked is."""
    write_ring(tmp_path)
    options = [part for pair in {**BUILT_IN, **changes}.items() for part in pair]
    assert any(words in line for line in refused("init", "R", *options, cwd=tmp_path))
    assert not (tmp_path / "R").exists()


def test_as_many_nets_as_models_are_needed(tmp_path: Path) -> None:
    """One for all, or one each; their trunks must agree, which is told in one line."""
    write_ring(tmp_path)
    options = [part for pair in BUILT_IN.items() for part in pair]
    [line] = refused("init", "R", *options, "--hidden", "4,3,2", "--models", "3", cwd=tmp_path)
    assert "give --hidden once, or once per model; expected 3, found 2" in line
    [line] = refused("init", "R", *options, "--hidden", "4,5", cwd=tmp_path)
    assert "the trunks (layers 0-1) of a and b differ; expected" in line
    assert "layer1 [4,3], found" in line
    assert line.endswith("layer1 [4,5]")


def test_options_of_init_become_a_ring_toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every option stands in it, and the file's path leads there from the run's folder."""
    from ckptsurgeon.cli import main

    seen: list[Any] = []
    monkeypatch.setattr(start, "init", lambda path, parsed, force, tell: seen.append((path, parsed, force)) or parsed)
    monkeypatch.chdir(tmp_path)
    numbers = {"--seed": 7, "--max-to-keep": 3, "--batch-size": 8, "--holdout": 0.5, "--tolerance": 1e-3}
    numbers |= {"--window": 5, "--rounds": 9, "--learning-rate": 1, "--warmup": 2}
    numbers |= {"--trunk-tolerance": 1e-4, "--patience": 6}
    texts = {**BUILT_IN, "--slots": "fill=0.5", "--durability": "step", "--optimizer": "SGD", "--models": 28}
    texts |= {"--schedule": "average"}
    options = [str(part) for pair in {**texts, **numbers}.items() for part in pair]
    assert main(["ring", "init", "deep/R", *options, "--force"]) == 0
    [(path, made, force)] = seen
    assert (path, force) == ("deep/R", True)
    assert made == records.Spec(
        layers="0-1",
        slots="fill=0.5",
        seed=7,
        durability="step",
        max_to_keep=3,
        schedule="average",
        warmup=2,
        stop=records.Stop(1e-3, 5, 9, 1e-4, 6),
        data=records.Data("../../points.csv", "kind", 8, 0.5),
        models=tuple(
            records.Model(name, hidden_units=(4, 3), optimizer="SGD", learning_rate=1.0)
            for name in [*"abcdefghijklmnopqrstuvwxyz", "m27", "m28"]
        ),
    )


@pytest.mark.usefixtures("here")
def test_init_and_run_work_from_any_folder(tmp_path: Path) -> None:
    """Paths in ring.toml start at its own folder, also behind a symbolic link."""
    write_ring(tmp_path / "real" / "ring", 1)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "ring")
    (tmp_path / "else").mkdir()
    for verb in ("init", "run", "evaluate"):
        done = ring(verb, "../link", cwd=tmp_path / "else")
        assert (done.returncode, done.stderr) == (0, "")
    assert steps(tmp_path / "real" / "ring") == STEPS
    assert not list((tmp_path / "else").iterdir())


def test_help_is_there_for_every_verb() -> None:
    """With examples, and exit status 0."""
    for verb in ([], *([verb] for verb in VERBS)):
        done = ring(*verb, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count(" ckptsurgeon ring") >= 3


def test_a_killed_driver_shows_as_stopped(folder: Path) -> None:
    """And a running one as running, with its process and those of its trainers."""
    with subprocess.Popen(
        command("run", folder, "--until", "rounds=100000"), stdout=subprocess.PIPE, text=True, env=environment()
    ) as run:
        assert run.stdout is not None
        run.stdout.readline()
        report = json.loads(ring("status", folder, "--json").stdout)
        assert (report["state"], report["pid"]) == ("running", run.pid)
        assert all(model["pid"] for model in report["models"])
        run.kill()
        run.stdout.read()
    report = json.loads(ring("status", folder, "--json").stdout)
    assert (report["state"], report["reason"], report["pid"]) == ("stopped", "the driver was killed", None)
    assert HIDDEN.keys() == {model["name"] for model in report["models"]}
