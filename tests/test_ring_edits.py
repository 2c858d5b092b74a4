"""Surgery on the members of a ring: what was edited between two runs is adopted, and no edit meets a running driver."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import run as shell
from numpy_here import train_here
from ring_support import STEPS, history, interrupt, promised, records, write_ring
from waiting import LIMIT

import ckptsurgeon
from ckptsurgeon import formats
from ckptsurgeon.errors import BusyError, RefusedError
from ckptsurgeon.publish import RUN
from ckptsurgeon.ring import driver, journal, start
from ckptsurgeon.ring.schedule import TRUNK

ROUNDS, BEFORE = 5, 2  # of a run; before the edit
BIAS = "dnn/layer2/Linear/Bias[0]"  # of a head
SHARED = "dnn/layer0/Linear/Bias[0]"  # of the trunk


@pytest.fixture(scope="module", autouse=True)
def here() -> Iterator[None]:
    """Have the trainers work in this process."""
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        yield


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ring after some rounds, which nobody has edited."""
    folder = tmp_path_factory.mktemp("begun") / "ring"
    write_ring(folder, ROUNDS)
    start.init(str(folder))
    driver.run(str(folder), rounds=BEFORE)
    return folder


@pytest.fixture
def ring(begun: Path, tmp_path: Path) -> Path:
    """Return a copy of that ring."""
    return Path(shutil.copytree(begun, tmp_path / "ring"))


@pytest.fixture(scope="module")
def wanted(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return how a ring ends in which the heads of a and c were edited, and which nobody disturbed."""
    folder = Path(shutil.copytree(begun, tmp_path_factory.mktemp("wanted") / "ring"))
    operate(folder)
    run(folder)
    return promised(folder)


def operate(folder: Path) -> None:
    for name in "ac":
        ckptsurgeon.set(folder / name, BIAS, 7.0)


def run(folder: Path, **options: Any) -> list[str]:
    """Drive a ring, and return what it says."""
    said: list[str] = []
    driver.run(str(folder), warn=said.append, **options)
    return [line.replace(f"{folder}/", "") for line in said]


def edits(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("kind") == "edit"]


def damage(folder: Path, place: str) -> None:
    path = next(folder.glob(f"{place}.data-00000-*"))
    content = bytes(byte ^ 255 for byte in path.read_bytes())
    path.unlink()  # other checkpoints share its bytes
    path.write_bytes(content)


# -- adopted


def test_edits_between_two_runs_are_adopted_and_journalled(ring: Path, wanted: dict[str, bytes]) -> None:
    """Two edited models are named, and each gets a line with the old fingerprint and the new one."""
    before = {name: history(ring).fingerprint(name, history(ring).latest(name)) for name in "ac"}
    operate(ring)
    said = run(ring)
    steps = {name: BEFORE * STEPS - {"a": 1, "c": 2}[name] for name in "ac"}
    assert said == [f"{n}/model.ckpt-{step} was edited; model {n} continues from it" for n, step in steps.items()]
    assert [(e["model"], e["step"], e["round"], e["replaces"]) for e in edits(ring)] == [
        (name, BEFORE * STEPS, BEFORE, before[name]) for name in "ac"
    ]
    assert all(e["sha256"] != e["replaces"] for e in edits(ring))
    assert promised(ring) == wanted
    assert run(ring) == []


def test_an_edit_changes_what_the_run_ends_with(begun: Path, wanted: dict[str, bytes], tmp_path: Path) -> None:
    """The same ring without the edit ends with other bytes."""
    folder = Path(shutil.copytree(begun, tmp_path / "ring"))
    run(folder)
    assert promised(folder).keys() == wanted.keys()
    assert promised(folder) != wanted


@pytest.mark.parametrize("lines", [0, 1, 2, 3, STEPS + 1, STEPS + 2, 2 * STEPS])
def test_a_driver_that_dies_at_any_line_adopts_once(ring: Path, wanted: dict[str, bytes], lines: int) -> None:
    """Interrupted before, between or after the lines of two edits, or rounds later, a ring ends the same."""
    operate(ring)
    interrupt(ring, lines)
    run(ring)
    assert promised(ring) == wanted
    assert [line["model"] for line in edits(ring)] == ["a", "c"]


def test_an_edit_that_is_undone_leaves_no_trace(ring: Path, begun: Path, tmp_path: Path) -> None:
    """`undo` before the next run brings back what the journal knows; after a run it is a second edit."""
    for number in (7.0, 8.0):
        ckptsurgeon.set(ring / "a", BIAS, number, backup=True)
    for _ in range(2):
        ckptsurgeon.undo(ring / "a")
    again = Path(shutil.copytree(ring, tmp_path / "again"))
    assert run(ring) == []
    plain = Path(shutil.copytree(begun, tmp_path / "plain"))
    run(plain)
    assert promised(ring) == promised(plain)
    ckptsurgeon.set(again / "a", BIAS, 7.0, backup=True)
    run(again, rounds=BEFORE)
    ckptsurgeon.undo(again / "a")
    assert len(run(again)) == 1
    first, second = edits(again)
    assert (first["replaces"], first["sha256"]) == (second["sha256"], second["replaces"])
    assert promised(again) == promised(plain)


def test_first_weights_may_be_edited_and_copies_lie_beside(tmp_path: Path) -> None:
    """First weights may be edited before the first round; a checkpoint written beside them changes nothing."""
    folder = tmp_path / "ring"
    write_ring(folder, 1)
    start.init(str(folder))
    ckptsurgeon.set(folder / "a", BIAS, 7.0, out=folder / "a" / "other")
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    ckptsurgeon.set(folder / "a", BIAS, 7.0, out=folder / "a" / "model.ckpt-99")
    (line,) = run(folder)
    assert re.search(r"a/model\.ckpt-99\S* is not a checkpoint of this run", line)
    assert (folder / "a" / "other.index").exists()
    assert (folder / "a" / "model.ckpt-99.index").exists()
    ckptsurgeon.set(copy / "a", BIAS, 7.0)
    assert run(copy) == ["a/model.ckpt-0 was edited; model a continues from it"]
    assert promised(copy) != promised(folder)


def test_an_average_takes_edited_trunks_into_the_mean(tmp_path: Path) -> None:
    """Members of an average are edited as in a ring; an edit of the mean has no effect, and a line says so."""
    write_ring(tmp_path / "ring", 3, schedule="average")
    start.init(str(tmp_path / "ring"))
    run(tmp_path / "ring", rounds=1)
    plain = Path(shutil.copytree(tmp_path / "ring", tmp_path / "plain"))
    ckptsurgeon.set(tmp_path / "ring" / "b", SHARED, 9.0)
    ckptsurgeon.set(tmp_path / "plain" / TRUNK, SHARED, 9.0)
    first, second = run(tmp_path / "ring", rounds=2), run(plain, rounds=2)
    assert [line.partition(" was ")[0] for line in first] == ["b/model.ckpt-6"]
    assert [line.partition(", which ")[2] for line in second] == [
        "has no effect: the next round averages the models; edit those"
    ]
    shared = []
    for folder in (tmp_path / "ring", plain):
        with formats.open(str(folder / "a")) as checkpoint:
            shared.append(checkpoint.read("dnn/layer0/Linear/Bias")[0])
    assert shared[0] - shared[1] == pytest.approx(3.0, abs=1.0)


def test_a_frozen_average_runs_on_and_an_edit_of_what_the_freeze_replaces_is_pointed_out(tmp_path: Path) -> None:
    """Once no mean is made any more, an average still resumes; a frozen trunk is edited in the first model."""
    ring = tmp_path / "ring"
    write_ring(ring, 9, schedule="average", freeze=2)
    start.init(str(ring))
    run(ring, rounds=1)
    ckptsurgeon.set(ring / TRUNK, SHARED, 9.0)
    (line,) = run(ring, rounds=2)
    assert line.endswith("has no effect: the trunk stays as it is in the models; edit those")
    assert run(ring, rounds=4) == []
    ckptsurgeon.set(ring / "b", SHARED, 9.0)
    assert run(ring, rounds=4)[1:] == ["the next round replaces the trunk of b by that of a; edit a instead"]


def test_an_edit_of_a_run_that_an_earlier_version_began_is_refused(ring: Path) -> None:
    """Its journal has no variables to compare with: that is said, and `undo` leads on."""
    head, *others = (ring / "journal.jsonl").read_text().splitlines(keepends=True)
    values = json.loads(head)
    del values["variables"]
    values["env"] = {key: value for key, value in values["env"].items() if key not in ("keras", "torch")}
    (ring / "journal.jsonl").write_text("".join([json.dumps(values) + "\n", *others]))
    ckptsurgeon.set(ring / "a", BIAS, 7.0, backup=True)
    with pytest.raises(RefusedError, match="an earlier version began the run") as caught:
        run(ring)
    assert "ckptsurgeon undo" in str(caught.value.hint)
    ckptsurgeon.undo(ring / "a")
    assert run(ring) == []


def test_a_trunk_that_the_next_graft_replaces_is_pointed_out(ring: Path) -> None:
    """Only the first model's trunk goes around the ring; whoever edits another one's is told."""
    ckptsurgeon.set(ring / "b", SHARED, 9.0)
    assert run(ring, rounds=BEFORE)[1:] == ["the next round replaces the trunk of b by that of a; edit a instead"]
    ckptsurgeon.set(ring / "a", SHARED, 9.0)
    assert len(run(ring, rounds=BEFORE)) == 1


def test_a_run_that_had_converged_goes_on_after_an_edit(tmp_path: Path) -> None:
    """What was measured before an edit does not end the run after it."""
    write_ring(tmp_path / "ring", 30, stop={"tolerance": 1e9, "window": 2})
    start.init(str(tmp_path / "ring"))
    assert driver.run(str(tmp_path / "ring")).round == 4
    assert driver.run(str(tmp_path / "ring")).round == 4
    ckptsurgeon.set(tmp_path / "ring" / "a", BIAS, 7.0)
    assert driver.run(str(tmp_path / "ring"), rounds=5).round == 5
    interrupt(tmp_path / "ring", 1)
    assert driver.run(str(tmp_path / "ring")).round == 8  # only windows after the edit are compared


# -- in the middle of a round


def test_an_edit_of_the_last_whole_round_takes_the_run_back_to_it(ring: Path, wanted: dict[str, bytes]) -> None:
    """Within a round the state file names the checkpoint of the round before: what is edited there counts."""
    interrupt(ring, 4)
    operate(ring)
    first, *rest = run(ring)
    step = BEFORE * STEPS
    assert first.endswith(f"was edited; going back from step {step + 4} to round {BEFORE}, step {step}")
    assert len(rest) == 2
    assert promised(ring) == wanted


def test_an_edit_of_a_latest_checkpoint_within_a_round_survives_a_power_cut(ring: Path) -> None:
    """It is adopted there; if later checkpoints of the round are lost, the run goes back to the edit, not beyond."""
    interrupt(ring, 3)
    latest = ring / "b" / f"model.ckpt-{history(ring).latest('b')}"
    ckptsurgeon.set(latest, SHARED, 7.0)
    plain = Path(shutil.copytree(ring, ring.with_name("plain")))
    assert len(run(plain)) == 1
    interrupt(ring, 3)
    step = history(ring).step
    damage(ring, records(ring)[-1]["checkpoint"])
    (line,) = run(ring)
    assert line.endswith(f"going back from step {step} to round {BEFORE}, step {step - 2}")
    assert promised(ring) == promised(plain)


def test_a_fallback_names_the_edits_that_it_loses(ring: Path) -> None:
    """If a member is damaged within a round, an edit of a checkpoint of that round is lost, with a warning."""
    interrupt(ring, 4)
    past = history(ring)
    ckptsurgeon.set(ring / "b" / f"model.ckpt-{past.latest('b')}", SHARED, 7.0)
    damage(ring, f"c/model.ckpt-{past.latest('c')}")
    (line,) = run(ring)
    assert line.endswith(
        f"going back from step {past.step} to round {BEFORE}, step {past.whole_step};"
        f" the edit of b/model.ckpt-{past.latest('b')} is lost"
    )
    assert edits(ring) == []


def test_a_mean_that_is_still_to_be_grafted_is_synced_with_an_edit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an edit within the grafts of an average, the run falls back to the edit, which needs the mean."""
    ring, synced = tmp_path / "ring", list[str]()
    write_ring(ring, 2, schedule="average")
    start.init(str(ring))
    interrupt(ring, 5)
    ckptsurgeon.set(ring / "a" / f"model.ckpt-{history(ring).latest('a')}", BIAS, 7.0)
    sync = formats.sync

    def noted(*paths: str, **options: Any) -> None:
        synced.extend(paths)
        sync(*paths, **options)

    monkeypatch.setattr(formats, "sync", noted)
    interrupt(ring, 1)
    assert [os.path.relpath(path, ring) for path in synced] == [
        "a/model.ckpt-5",
        "b/model.ckpt-2",
        "c/model.ckpt-3",
        "trunk/model.ckpt-4",
    ]


def test_edits_of_both_states_are_refused(ring: Path) -> None:
    """An edit of the last round and one of a later step exclude each other; nothing is lost."""
    interrupt(ring, 2)
    latest = ring / "a" / f"model.ckpt-{history(ring).latest('a')}"
    for path in (ring / "a", latest):
        ckptsurgeon.set(path, BIAS, 7.0, backup=True)
    with pytest.raises(RefusedError, match="only one of them can be adopted"):
        run(ring)
    ckptsurgeon.undo(latest)
    assert len(run(ring)) == 2


# -- refused


@pytest.mark.parametrize("wrong", ["drop", "cast", "nan"])
def test_a_checkpoint_that_the_run_cannot_continue_from_is_refused(ring: Path, wrong: str) -> None:
    """A missing variable, another dtype or NaN is named; nothing is changed, and `undo` lets the run continue."""
    if wrong == "drop":
        ckptsurgeon.drop(ring / "a", ["global_step"], backup=True)
    elif wrong == "cast":
        ckptsurgeon.cast(ring / "a", "float64", match=["logistic_regression/bias"], backup=True)
    else:
        ckptsurgeon.set(ring / "a", BIAS, np.nan, backup=True)
    named = {"drop": "global_step is missing", "cast": "was float32 .2., is float64", "nan": "layer2/Linear/Bias: "}
    before = {path: path.read_bytes() for path in ring.rglob("*") if path.is_file() and path.name != "status.json"}
    for _ in range(2):
        with pytest.raises(RefusedError, match=f"was edited, and the run cannot continue from it: .*{named[wrong]}"):
            run(ring)
    assert before == {p: p.read_bytes() for p in ring.rglob("*") if p.is_file() and p.name != "status.json"}
    ckptsurgeon.undo(ring / "a")
    assert run(ring) == []


def test_no_adopt_refuses(ring: Path, wanted: dict[str, bytes]) -> None:
    """With `adopt` off an edit stops the run, which then can still adopt it."""
    operate(ring)
    with pytest.raises(RefusedError, match="--no-adopt"):
        run(ring, adopt=False)
    assert edits(ring) == []
    run(ring)
    assert promised(ring) == wanted
    assert run(ring, adopt=False) == []


def test_the_command_line_names_what_was_edited(ring: Path) -> None:
    """`ring run` warns in one line for each edited model; with --no-adopt the edit is an error and exit status 2."""
    operate(ring)
    done = shell("ring", "run", ring, "--no-adopt")
    path, hint = ring / "a" / f"model.ckpt-{BEFORE * STEPS - 1}", "bring back what was there"
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ckptsurgeon: {path}: was edited, which --no-adopt refuses; {hint}")
    done = shell("ring", "run", ring, "-q")
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    assert lines[0] == f"ckptsurgeon: warning: a/{path.name} was edited; model a continues from it"
    assert len(lines) == 2


# -- while a run is driven


@contextlib.contextmanager
def driven(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Have another process hold the lock of a run, as its driver would."""
    program = (
        "import sys, time\n"
        "from ckptsurgeon.ring.journal import Journal\n"
        "with Journal.lock(sys.argv[1], lambda: None):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(folder / "journal.jsonl")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process


def test_operations_on_a_run_that_is_driven_are_refused(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verbs that write a model's checkpoints are refused and name the run, unless its trainers call them."""
    ckptsurgeon.set(ring / "a", BIAS, 7.0, backup=True)
    latest = ring / "a" / f"model.ckpt-{history(ring).latest('a')}"
    before = {path: path.read_bytes() for path in (ring / "a").rglob("*") if path.is_file()}
    monkeypatch.chdir(ring / "a")
    with driven(ring):
        for operation in (
            lambda: ckptsurgeon.set(ring / "a", BIAS, 8.0),
            lambda: ckptsurgeon.set(latest.name, BIAS, 8.0),
            lambda: ckptsurgeon.graft(ring / "b", ring / "a", layers="0"),
            lambda: ckptsurgeon.compact(ring / "a"),
            lambda: ckptsurgeon.undo(ring / "a"),
            lambda: ckptsurgeon.set(ring / "c", BIAS, 8.0, out=latest, force=True),
            lambda: ckptsurgeon.convert(ring / "b", ring / "a" / "model.ckpt-99"),
        ):
            with pytest.raises(BusyError) as caught:
                operation()
            (line,) = caught.value.lines
            assert f"belongs to the run in {ring}, which is running; stop the run first" in line
            assert "ckptsurgeon-tmp" not in line
        assert before == {path: path.read_bytes() for path in (ring / "a").rglob("*") if path.is_file()}
        ckptsurgeon.graft(ring / "a", ring / "b", layers="0", out=ring / "elsewhere")
        ckptsurgeon.set(ring / "a", BIAS, 8.0, dry_run=True)
        monkeypatch.setenv(RUN, str(ring / "journal.jsonl"))
        ckptsurgeon.convert(ring / "b", ring / "a" / "model.ckpt-99")
    monkeypatch.delenv(RUN)
    ckptsurgeon.set(ring / "a", BIAS, 8.0)


def test_a_driver_waits_for_an_operation(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that starts while a checkpoint is being written waits until that is done."""
    waits, asked = threading.Event(), journal._is_shared

    def shared(path: str) -> bool:
        waits.set()
        return asked(path)

    monkeypatch.setattr(journal, "_is_shared", shared)
    thread = threading.Thread(target=run, args=(ring,))
    with formats.locked(str(ring / "a"), 1.0):
        thread.start()
        assert waits.wait(LIMIT)
        assert history(ring).round == BEFORE
    thread.join(LIMIT)
    assert history(ring).round == ROUNDS


def test_a_driver_gives_up_on_an_operation_without_end(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says that an operation is going on, not that a dead driver left a trainer."""
    monkeypatch.setattr(journal, "_WAIT_FOR_OPERATION", 0.0)
    with formats.locked(str(ring / "a"), 1.0), pytest.raises(BusyError, match="an operation on a checkpoint"):
        run(ring)
