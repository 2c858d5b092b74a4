"""The whole loop with real processes: order, trunks, crashes, resume, bounds on the disk, and misbehaving trainers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from crash import Failing
from numpy_here import train_here
from ring_support import (
    COMMAND,
    HIDDEN,
    MODELS,
    PROGRAM,
    SCHEDULE,
    STEPS,
    TIMEOUT,
    checkpoints,
    drive,
    history,
    kill,
    latest_by_state_file,
    promised,
    records,
    steps,
    trunk,
    write_ring,
)
from waiting import LIMIT, pass_time_when, wait_until

from ckptsurgeon import formats
from ckptsurgeon.errors import BusyError, CkptSurgeonError, DamagedError, RefusedError, TrainerError
from ckptsurgeon.ring import driver, environment, journal, start
from ckptsurgeon.ring.folder import Folder
from ckptsurgeon.ring.reporting import status
from ckptsurgeon.ring.schedule import Done
from ckptsurgeon.ring.spec import loading

ROUNDS = 6


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an initialised ring that nobody has run."""
    folder = tmp_path_factory.mktemp("fresh") / "ring"
    write_ring(folder, ROUNDS)
    start.init(str(folder))
    return folder


@pytest.fixture(scope="module")
def whole(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same ring, run without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "ring"
    shutil.copytree(fresh, folder)
    assert driver.run(str(folder)) == Done("limit", ROUNDS, "rounds")
    return folder


@pytest.fixture
def ring(fresh: Path, tmp_path: Path) -> Path:
    """Return a copy of the initialised ring."""
    return Path(shutil.copytree(fresh, tmp_path / "ring"))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trainers work in this process, in tests of what is kept between two runs; the others start them."""
    train_here(monkeypatch)


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "ring.toml").read_text()
    assert old in text
    (folder / "ring.toml").write_text(text.replace(old, new))


def state_of(folder: Path) -> dict[str, Any]:
    return status.report(Folder.at(str(folder)))


# -- the beginning


def test_first_weights_come_from_the_seed_and_the_name(fresh: Path, tmp_path: Path) -> None:
    """The same ring begins with the same bytes; equal nets of other names, or another seed, with others."""
    for name, options in {"again": {}, "seed": {"seed": 43}, "equal": {}}.items():
        write_ring(tmp_path / name, **options)
        if name == "equal":
            edit(tmp_path / name, f'"{HIDDEN["a"]}"', f'"{HIDDEN["b"]}"')
        start.init(str(tmp_path / name))
    assert promised(tmp_path / "again") == promised(fresh)
    other, equal = promised(tmp_path / "seed"), promised(tmp_path / "equal")
    data = "model.ckpt-0.data-00000-of-00001"
    assert all(other[f"{name}/{data}"] != promised(fresh)[f"{name}/{data}"] for name in MODELS)
    assert equal[f"a/{data}"] != equal[f"b/{data}"]
    assert len(equal[f"a/{data}"]) == len(equal[f"b/{data}"])


def test_init_is_done_once_and_afresh_only_by_force(ring: Path, fresh: Path) -> None:
    """A run is never overwritten by mistake; --force leaves nothing of the old one."""
    with pytest.raises(RefusedError, match="already holds a run"):
        start.init(str(ring))
    edit(ring, f"rounds = {ROUNDS}", "rounds = 1")
    driver.run(str(ring))
    edit(ring, "rounds = 1", f"rounds = {ROUNDS}")
    start.init(str(ring), force=True)

    def everything(folder: Path) -> dict[str, bytes]:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): path.read_bytes() for path in paths}

    assert everything(ring) == everything(fresh)


def test_an_init_that_was_interrupted_can_be_repeated(tmp_path: Path, fresh: Path) -> None:
    """Until the journal has its head there is no run, and `run` says what to do."""
    folder = tmp_path / "ring"
    write_ring(folder, ROUNDS, b={"worker": ["--do", "exit", "--at", "0"]})
    with pytest.raises(TrainerError, match="model b, initial weights: its trainer exited with status 1"):
        start.init(str(folder))
    with pytest.raises(CkptSurgeonError, match="not initialised; run: ckptsurgeon ring init"):
        driver.run(str(folder))
    write_ring(folder, ROUNDS)
    start.init(str(folder))
    assert promised(folder) == promised(fresh)


def test_checkpoints_of_something_else_are_not_swept_away(tmp_path: Path) -> None:
    """A folder that happens to have a model's name may hold somebody's work."""
    write_ring(tmp_path)
    (tmp_path / "b").mkdir()
    precious = tmp_path / "b" / "model.ckpt-100.index"
    precious.touch()
    with pytest.raises(
        RefusedError, match=r"model\.ckpt-100\.index: contains checkpoints that do not belong to this run"
    ):
        start.init(str(tmp_path))
    assert precious.exists()


def test_models_that_cannot_share_a_trunk_are_found_before_the_run(tmp_path: Path) -> None:
    """What is wrong is told for each variable of each model."""
    write_ring(tmp_path)
    edit(tmp_path, f'"{HIDDEN["b"]}"', '"4,7"')
    edit(tmp_path, f'"{HIDDEN["c"]}"', '"4"')
    with pytest.raises(CkptSurgeonError) as caught:
        start.init(str(tmp_path))
    lines = [line.removeprefix(f"{tmp_path}/ring.toml: layers 0-1 of ") for line in caught.value.lines]
    assert any(line.startswith("b do not match those of a: dnn/layer1/Linear/Bias has a different") for line in lines)
    assert any(line.startswith("b do not match those of a: dnn/layer1/Linear/Matrix has") for line in lines)
    assert any(line.startswith("c do not match those of a: no variable dnn/layer1/Linear/Bias") for line in lines)
    assert (tmp_path / "journal.jsonl").stat().st_size == 0


def test_a_command_begins_with_a_given_checkpoint(tmp_path: Path, fresh: Path) -> None:
    """`init` names it, relative to ring.toml; a run of commands ends like one of workers."""
    for name in MODELS:
        for path in (fresh / name).glob("model.ckpt-0.*"):
            (tmp_path / "first").mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / "first" / path.name.replace("model.ckpt-0", name))
    ring = tmp_path / "ring"
    given = {name: {"command": COMMAND, "init": f"../first/{name}"} for name in ("a", "c")}
    write_ring(ring, 2, **given)
    start.init(str(ring))
    assert promised(ring) == promised(fresh)
    driver.run(str(ring))
    other = tmp_path / "other"
    write_ring(other, 2)
    start.init(str(other))
    driver.run(str(other))
    assert promised(ring) == promised(other)


# -- a run


def test_the_journal_holds_the_steps_of_the_schedule(whole: Path) -> None:
    """Every line names what the step started from, and the fingerprint of what it wrote."""
    lines = [json.loads(line) for line in (whole / "journal.jsonl").read_text().splitlines()][1:]
    assert len(lines) == ROUNDS * STEPS
    latest = dict.fromkeys(MODELS, "")
    latest = {name: f"{name}/model.ckpt-0" for name in MODELS}
    for number, line in enumerate(lines, start=1):
        step = SCHEDULE.step(number)
        assert (line["step"], line["kind"], line["model"], line["batch"]) == (
            number,
            step.kind,
            step.model,
            step.batch,
        )
        assert line["from"] == latest[step.donor or step.model]
        latest[step.model] = line["checkpoint"]
        assert ("loss" in line["metrics"]) == (step.kind == "train")
        assert (line["change"] is not None) == (step.last and step.round % 2 == 0 and step.round > 2)
    for name in MODELS:
        with formats.open(str(whole / latest[name])) as checkpoint:
            past = history(whole)
            assert checkpoint.fingerprint() == past.fingerprint(name, past.latest(name))


@pytest.mark.usefixtures("here")
def test_after_every_round_all_models_hold_the_same_trunk(ring: Path) -> None:
    """And their state files name just these checkpoints."""
    seen = []

    def look(past: journal.History) -> None:
        trunks = [trunk(ring, name, past.latest(name)) for name in MODELS]
        assert trunks[0] == trunks[1] == trunks[2]
        seen.append(trunks[0])
        for name in MODELS:
            assert latest_by_state_file(ring, name) == str(ring / name / f"model.ckpt-{past.latest(name)}")

    driver.run(str(ring), rounds=4, on_round=look)
    assert len(seen) == 4
    assert all(one != other for one, other in itertools.pairwise(seen))


def test_heads_and_upper_layers_stay_each_models_own(whole: Path) -> None:
    """Only the trunk is shared."""
    past = history(whole)
    biases = []
    for name in MODELS:
        with formats.open(str(whole / name / f"model.ckpt-{past.latest(name)}")) as checkpoint:
            biases.append(checkpoint.read("logistic_regression/bias").tobytes())
            assert checkpoint.read("global_step") == ROUNDS
    assert len(set(biases)) == 3


@pytest.mark.usefixtures("here")
def test_a_run_ends_when_all_models_have_converged(ring: Path) -> None:
    """With a tolerance that anything meets: at the end of the second block of two rounds."""
    assert driver.run(str(ring), tolerance=1e9) == Done("converged", 4, "weights")
    assert state_of(ring)["state"] == "converged"
    assert driver.run(str(ring), tolerance=1e9) == Done("converged", 4, "weights")
    assert driver.run(str(ring), rounds=5) == Done("limit", 5, "rounds")
    assert steps(ring) == 5 * STEPS


@pytest.mark.usefixtures("here")
def test_until_extends_a_finished_run(ring: Path, tmp_path: Path) -> None:
    """It goes on to just what is asked for, whatever ring.toml says: another limit, another tolerance, or both."""
    edit(ring, "tolerance = 1e-09", "tolerance = 1e9, trunk_tolerance = 1e9")
    assert driver.run(str(ring)) == Done("converged", 4, "weights")
    assert driver.run(str(ring), rounds=7) == Done("limit", 7, "rounds")
    assert driver.run(str(ring), tolerance=1e8) == Done("converged", 7, "weights")
    assert driver.run(str(ring), tolerance=0, rounds=9) == Done("limit", 9, "rounds")
    edit(ring, "{ tolerance = 1e9", "{ tolerance = 0")
    assert driver.run(str(ring)) == Done("converged", 9, "trunk")


@pytest.mark.usefixtures("here")
def test_a_run_ends_when_the_held_out_loss_no_longer_falls(ring: Path) -> None:
    """It is measured with every block of rounds, of models that the built-in forward pass fits."""
    edit(ring, "rounds = 6", "rounds = 400, patience = 2")
    start.init(str(ring), force=True)
    done = driver.run(str(ring))
    assert (done.reason, done.criterion) == ("converged", "held-out loss")
    measured = [line["held_out"] for line in records(ring) if line["held_out"] is not None]
    assert len(measured) == done.round // 2
    means = [sum(losses.values()) / 3 for losses in measured]
    assert min(means) == means[-3]
    assert all(later >= means[-3] for later in means[-2:])


def test_the_distance_of_each_trunk_to_their_mean_is_measured(whole: Path) -> None:
    """As the train steps of the round left them, before the last one went into all."""
    lines = [line for line in records(whole) if line["distance"] is not None]
    assert [line["round"] for line in lines] == [2, 4, 6]
    last, trunks = records(whole)[-STEPS:], {}
    for line in last:
        if line["kind"] == "train":
            with formats.open(str(whole / line["checkpoint"])) as checkpoint:
                names = [n for n in sorted(checkpoint.variables) if n.startswith(("dnn/layer0/", "dnn/layer1/"))]
                parts = [checkpoint.read(n).ravel().astype(float) for n in names if not n.endswith("Adagrad")]
                trunks[line["model"]] = np.concatenate(parts)
    mean = sum(trunks.values()) / 3
    for name in MODELS:
        expected = np.linalg.norm(trunks[name] - mean) / np.linalg.norm(mean)
        assert lines[-1]["distance"][name] == pytest.approx(expected)
        assert lines[-1]["distance"][name] > 0


# -- other schedules


@pytest.fixture(scope="module", params=["average", "ring with warmup", "average with warmup", "ring in another order"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ring with another schedule, run without interruption; a copy of its beginning lies beside it."""
    folder = tmp_path_factory.mktemp("other") / "ring"
    options: dict[str, Any] = {"schedule": request.param.split()[0]}
    options |= {"warmup": 2} if "warmup" in request.param else {}
    options |= {"order": ["c", "a", "b"]} if "order" in request.param else {}
    write_ring(folder, ROUNDS, **options)
    start.init(str(folder))
    shutil.copytree(folder, folder.parent / "fresh")
    assert driver.run(str(folder)) == Done("limit", ROUNDS, "rounds")
    return folder


def test_another_schedule_is_followed(other: Path) -> None:
    """Every step starts from what the schedule says; after a round that shares it, the trunk is the same in all."""
    schedule = loading.load(str(other / "ring.toml")).steps
    lines, latest = records(other), {name: f"{name}/model.ckpt-0" for name in MODELS}
    assert len(lines) == schedule.first_step(ROUNDS + 1) - 1
    for number, line in enumerate(lines, start=1):
        step = schedule.step(number)
        assert (line["kind"], line["model"], line["round"]) == (step.kind, step.model, step.round)
        sources = [latest[name] for name in MODELS]
        assert line["from"] == (sources if step.kind == "average" else latest[step.donor or step.model])
        latest[step.model] = line["checkpoint"]
    past = history(other)
    trunks = [trunk(other, name, past.latest(name)) for name in MODELS]
    assert trunks[0] == trunks[1] == trunks[2]
    assert [line["round"] for line in lines if line["change"]] == ([6] if schedule.warmup else [4, 6])


def test_an_average_is_the_mean_in_float64(other: Path) -> None:
    """In the order of ring.toml, cast back to the models' dtype; slots are left alone."""
    lines = records(other)
    average = [line for line in lines if line["kind"] == "average"]
    if not average:
        assert "ring" in (other / "ring.toml").read_text()
        return
    with formats.open(str(other / average[-1]["checkpoint"])) as checkpoint:
        means = {name: checkpoint.read(name) for name in checkpoint}
    assert sorted(means) == [f"dnn/layer{k}/Linear/{part}" for k in (0, 1) for part in ("Bias", "Matrix")]
    for name, mean in means.items():
        total = np.zeros(mean.shape)
        for source in average[-1]["from"]:
            with formats.open(str(other / source)) as checkpoint:
                total += checkpoint.read(name)
        assert mean.tobytes() == (total / 3).astype(np.float32).tobytes()
    slots = []
    for name in MODELS:
        with formats.open(str(other / name / f"model.ckpt-{history(other).latest(name)}")) as checkpoint:
            slots.append(checkpoint.read("dnn/layer0/Linear/Bias/Adagrad").tobytes())
    assert len(set(slots)) == 3


@pytest.mark.usefixtures("here")
def test_another_schedule_is_resumed_to_the_same_bytes(other: Path, tmp_path: Path) -> None:
    """Interrupted at every other step of the first rounds: after it, or before the journal knows of it."""
    ring = Path(shutil.copytree(other.parent / "fresh", tmp_path / "ring"))
    schedule = loading.load(str(ring / "ring.toml")).steps
    for number in range(2, schedule.first_step(4), 2):
        journalled = number % 4 == 0
        interrupt_after(ring, number, journalled)
        assert history(ring).step == number - (not journalled)
    driver.run(str(ring))
    assert promised(ring) == promised(other)
    for one, whole in zip(records(ring), records(other), strict=True):
        assert {**one, "seconds": 0} == {**whole, "seconds": 0}


@pytest.mark.usefixtures("here")
def test_an_average_that_was_lost_costs_the_round(tmp_path: Path) -> None:
    """It is part of the round like every model's checkpoint."""
    ring, whole = tmp_path / "ring", tmp_path / "whole"
    write_ring(ring, 4, schedule="average")
    start.init(str(ring))
    shutil.copytree(ring, whole)
    driver.run(str(whole))
    interrupt_after(ring, 7 + 5)  # the first graft of the second round
    lose(ring, "trunk", 7 + 4, "missing")
    told: list[str] = []
    driver.run(str(ring), warn=told.append)
    assert ["going back from step 12 to round 1, step 7" in line for line in told] == [True]
    assert promised(ring) == promised(whole)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("max_to_keep", [1, 5])
def test_the_disk_does_not_fill(ring: Path, max_to_keep: int) -> None:
    """A model has `max_to_keep` checkpoints and those of one more round at most, and no other files pile up."""
    edit(ring, 'layers = "0-1"', f'layers = "0-1"\nmax_to_keep = {max_to_keep}')
    start.init(str(ring), force=True)
    most = dict.fromkeys(MODELS, 0)
    sizes = []

    def look(past: journal.History) -> None:
        for name in MODELS:
            most[name] = max(most[name], len(checkpoints(ring, name)))

    for rounds in (5, 7, 10):
        driver.run(str(ring), rounds=rounds, on_round=look)
        logs = {ring / "journal.jsonl", *(ring / "events").rglob("*")}
        files = [path for path in ring.rglob("*") if path.is_file() and path not in logs]
        sizes.append((len(files), sum(path.stat().st_size for path in files)))
    assert max(most.values()) <= max_to_keep + 3 + 1  # those of a round, and the next step may be under way
    for name in MODELS:
        assert len(checkpoints(ring, name)) == max_to_keep
        text = (ring / name / "checkpoint").read_text()
        listed = [int(number) for number in re.findall(r'all_model_checkpoint_paths: "model\.ckpt-(\d+)"', text)]
        assert listed == sorted(checkpoints(ring, name))
    counts, totals = zip(*sizes, strict=True)
    assert len(set(counts)) == 1
    assert max(totals) - min(totals) < 100


def test_grafts_add_no_bytes(whole: Path) -> None:
    """A graft's checkpoint is an index; its data are the files of recipient and donor, linked."""
    past = history(whole)
    donor, grafted = past.latest("c"), past.latest("a")
    files = sorted((whole / "a").glob(f"model.ckpt-{grafted}.data-*"))
    inodes = {path.stat().st_ino for path in files}
    source = (whole / "c").glob(f"model.ckpt-{donor}.data-*")
    assert inodes & {path.stat().st_ino for path in source}
    assert all(path.stat().st_nlink > 1 for path in files)


@pytest.mark.usefixtures("here")
def test_a_rounds_grafts_add_nothing_to_the_blocks_of_distinct_files(ring: Path) -> None:
    """What all data files of a run take on the disk is what the train steps wrote, each once."""
    edit(ring, 'layers = "0-1"', 'layers = "0-1"\nmax_to_keep = 100')
    driver.run(str(ring), rounds=3)
    blocks = {path.stat().st_ino: path.stat().st_blocks for path in ring.glob("*/model.ckpt-*.data-*")}
    trained = [0, *(line["step"] for line in records(ring) if line["kind"] == "train")]
    written = [path for step in trained for path in ring.glob(f"*/model.ckpt-{step}.data-00000-of-00001")]
    assert len(written) == 3 + 3 * 3
    assert sum(blocks.values()) == sum(path.stat().st_blocks for path in written) > 0


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("durability", ["round", "step"])
def test_durability_changes_what_is_synced_not_what_is_written(
    ring: Path, whole: Path, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a round every model's latest checkpoint is synced before the journal; with "step" each one is."""
    if durability == "step":
        edit(ring, 'layers = "0-1"', 'layers = "0-1"\ndurability = "step"')
        start.init(str(ring), force=True)
    events: list[tuple[str, object]] = []
    sync, append = formats.sync, journal.Journal.append

    def watch_sync(*prefixes: str, also: Sequence[str] = ()) -> None:
        events.extend(("sync", os.path.relpath(path, ring)) for path in (*prefixes, *also))
        sync(*prefixes, also=also)

    def watch_append(self: journal.Journal, record: journal.Record, sync: bool) -> None:
        events.append(("journal, synced" if sync else "journal", record.step.number))
        append(self, record, sync)

    monkeypatch.setattr(formats, "sync", watch_sync)
    monkeypatch.setattr(journal.Journal, "append", watch_append)
    driver.run(str(ring), rounds=2)
    monkeypatch.undo()
    driver.run(str(ring))
    assert promised(ring) == promised(whole)
    for round in (0, STEPS):
        if durability == "round":
            ends = ["a/model.ckpt-6", "b/model.ckpt-7", "c/model.ckpt-5"]
            names = [f"{end[:-1]}{int(end[-1]) + round}" for end in ends]
            at = events.index(("journal, synced", round + STEPS))
            means = f"blocks-{(round // STEPS + 1) % 2}.npz"
            assert {name for kind, name in events[at - 4 : at] if kind == "sync"} == {*names, means}
        else:
            for number in range(round + 1, round + STEPS + 1):
                at = events.index(("journal, synced", number))
                model = SCHEDULE.step(number).model
                assert ("sync", f"{model}/model.ckpt-{number}") in events[:at]


# -- crashes


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_random_moments_and_run_again_it_ends_with_the_same_bytes(ring: Path, whole: Path, seed: int) -> None:
    """The driver dies by kill -9 again and again, in the middle of whatever it does."""
    chance = random.Random(seed)
    for _ in range(3):
        process = drive(ring)
        goal = min(steps(ring) + chance.randrange(0, 18), ROUNDS * STEPS)
        wait_until(lambda goal=goal, process=process: steps(ring) >= goal or process.poll() is not None, every=0.0005)
        time.sleep(chance.random() * 0.004)
        kill(process)
        wait_until(lambda: not journal.is_locked(str(ring / "journal.jsonl")))  # its trainers die with it
        assert state_of(ring)["state"] in ("stopped", "limit")
    assert driver.run(str(ring)) == Done("limit", ROUNDS, "rounds")
    assert promised(ring) == promised(whole)
    for one, other in zip(records(ring), records(whole), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert {name: checkpoints(ring, name) for name in MODELS} == {name: checkpoints(whole, name) for name in MODELS}


@pytest.mark.usefixtures("here")
def test_killed_before_every_write_it_goes_on_to_the_same_bytes(ring: Path, whole: Path) -> None:
    """A run that begins anew after each single step is the same run: nothing lives in memory alone."""
    for number in range(1, 2 * STEPS + 2):
        log = (ring / "journal.jsonl").read_bytes()
        interrupt_after(ring, number)
        assert steps(ring) == number
        assert (ring / "journal.jsonl").read_bytes().startswith(log)
    driver.run(str(ring))
    assert promised(ring) == promised(whole)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("number", [1, 2, STEPS, 2 * STEPS, 4 * STEPS])
def test_killed_between_checkpoint_and_journal_it_goes_on_to_the_same_bytes(
    ring: Path, whole: Path, number: int
) -> None:
    """What was published but not journalled, at the end of a round also the new means, is done once more."""
    interrupt_after(ring, number, journalled=False)
    assert steps(ring) == number - 1
    driver.run(str(ring))
    assert promised(ring) == promised(whole)
    for one, other in zip(records(ring), records(whole), strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


@pytest.mark.parametrize("calls", [2, 45, 111, 172, 263, 331])
def test_on_a_full_disk_it_stops_and_goes_on_to_the_same_bytes(ring: Path, whole: Path, calls: int) -> None:
    """Whatever call of the driver fails: one line says so, and once there is room the run goes on."""
    with Failing(calls) as disk, contextlib.suppress(CkptSurgeonError):
        driver.run(str(ring))
    assert disk.reached
    driver.run(str(ring))
    assert promised(ring) == promised(whole)


def interrupt_after(folder: Path, number: int, journalled: bool = True) -> None:
    """Run up to and with a step, then raise as Ctrl-C does, after or just before its line in the journal."""
    append = journal.Journal.append

    def stop(self: journal.Journal, record: journal.Record, sync: bool) -> None:
        if record.step.number == number and not journalled:
            raise KeyboardInterrupt
        append(self, record, sync)
        if record.step.number == number:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.Journal, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            driver.run(str(folder))


def lose(folder: Path, name: str, step: int, how: str) -> None:
    """Do to a checkpoint what a power cut does to files that were not synced."""
    for path in sorted((folder / name).glob(f"model.ckpt-{step}.*")):
        if how == "missing":
            path.unlink()
        elif how == "empty":
            os.replace(shutil.copy(path, path.with_name("copy")), path)  # its links keep their bytes
            os.truncate(path, 0)
        elif path.suffix != ".index" and path.stat().st_nlink == 1:
            content = bytearray(path.read_bytes())
            content[5] ^= 1
            path.write_bytes(content)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("how", ["missing", "empty", "flipped"])
def test_unsynced_files_that_were_lost_cost_the_round(ring: Path, whole: Path, how: str) -> None:
    """History goes back to the last whole round, says so, and ends with the same bytes."""
    interrupt_after(ring, 2 * STEPS + 3)  # step 3 trains b
    lose(ring, "b", 2 * STEPS + 3, how)
    told: list[str] = []
    driver.run(str(ring), warn=told.append)
    assert len(told) == 1
    assert f"b/model.ckpt-{2 * STEPS + 3}" in told[0]
    assert f"going back from step {2 * STEPS + 3} to round 2, step {2 * STEPS}" in told[0]
    assert promised(ring) == promised(whole)
    assert history(ring).step == ROUNDS * STEPS
    assert steps(ring) == ROUNDS * STEPS + 3  # the lost steps still stand in the journal


@pytest.mark.usefixtures("here")
def test_a_fallback_survives_another_crash(ring: Path, whole: Path) -> None:
    """Killed again before, just after and long after the first new line."""
    interrupt_after(ring, 2 * STEPS + 5)
    lose(ring, "c", 2 * STEPS + 5, "missing")
    for number in (2 * STEPS + 1, 2 * STEPS + 2, 2 * STEPS + 6):
        interrupt_after(ring, number)
        assert history(ring).step == number
    driver.run(str(ring))
    assert promised(ring) == promised(whole)


@pytest.mark.usefixtures("here")
def test_a_loss_without_a_way_back_is_one_clear_line(ring: Path) -> None:
    """Nothing is changed then, not even swept."""
    interrupt_after(ring, 2 * STEPS)
    lose(ring, "b", 2 * STEPS, "missing")
    before = sorted(path for path in ring.rglob("*"))
    with pytest.raises(DamagedError, match=r"cannot continue: .*model\.ckpt-14.*start over with"):
        driver.run(str(ring))
    assert sorted(path for path in ring.rglob("*")) == before


@pytest.mark.usefixtures("here")
def test_the_first_round_can_fall_back_to_the_first_weights(ring: Path, whole: Path) -> None:
    """Before the first whole round there is still the beginning."""
    interrupt_after(ring, 3)
    lose(ring, "b", 3, "missing")
    driver.run(str(ring))
    assert promised(ring) == promised(whole)


@pytest.mark.usefixtures("here")
def test_leftovers_of_a_crash_are_removed(ring: Path, whole: Path) -> None:
    """Checkpoints that the journal does not know, and files that were never finished."""
    interrupt_after(ring, 9)
    for name in (
        "model.ckpt-10.index",
        "model.ckpt-9.ckptsurgeon-tmp.data",
        "model.ckpt-20.data-00000-of-00001",
    ):
        (ring / "b" / name).touch()
    (ring / "c" / "model.ckpt-10_temp").mkdir()
    (ring / "c" / "model.ckpt-10_temp" / "part-00000-of-00001.index").touch()
    (ring / "c" / "notes.txt").write_text("mine")
    driver.run(str(ring))
    assert promised(ring) == promised(whole)
    assert (ring / "c" / "notes.txt").read_text() == "mine"
    for name in MODELS:
        assert checkpoints(ring, name) == checkpoints(whole, name)
        assert not [path for path in (ring / name).iterdir() if "tmp" in path.name or "temp" in path.name]


@pytest.mark.usefixtures("here")
def test_lost_means_begin_anew_and_are_told(ring: Path) -> None:
    """Convergence is then measured from whole blocks alone, which takes two more of them."""
    interrupt_after(ring, 2 * STEPS)
    (ring / "blocks-0.npz").unlink()
    told: list[str] = []
    driver.run(str(ring), warn=told.append)
    assert len(told) == 1
    assert told[0].endswith("convergence is measured from the start again")
    assert [line["step"] for line in records(ring) if line["change"] is not None] == [6 * STEPS]


# -- what may and may not change


def test_another_ring_toml_is_refused_with_the_keys_named(ring: Path) -> None:
    """But for the limits, what is kept, and patience."""
    edit(ring, f"rounds = {ROUNDS}", "rounds = 1")
    edit(ring, f"timeout = {TIMEOUT}", f"timeout = {TIMEOUT + 1}")
    assert driver.run(str(ring)) == Done("limit", 1, "rounds")
    edit(ring, "batch_size = 16", "batch_size = 17\nholdout = 0.5")
    with pytest.raises(RefusedError, match=r"began: data\.batch_size was 16, is 17, data\.holdout was 0\.2, is 0\.5"):
        driver.run(str(ring))


def test_other_rows_are_refused(ring: Path) -> None:
    """Every batch would hold something else."""
    with open(ring / "data" / "y.npy", "r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\1")
    with pytest.raises(RefusedError, match="the rows changed since the run began"):
        driver.run(str(ring))


@pytest.mark.usefixtures("here")
def test_another_environment_is_refused_unless_asked_for(ring: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named, since bytes may differ there."""
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    with pytest.raises(RefusedError, match=r"TF_ENABLE_ONEDNN_OPTS was None, is 0; --anyway"):
        driver.run(str(ring), rounds=1)
    monkeypatch.setattr(environment, "_cpu", lambda: "abacus")
    with pytest.raises(RefusedError, match=r"cpu was .*, is abacus"):
        driver.run(str(ring), rounds=1)
    assert driver.run(str(ring), rounds=1, anyway=True) == Done("limit", 1, "rounds")


# -- interruptions and company


def test_ctrl_c_stops_the_run_and_leaves_nobody_behind(ring: Path) -> None:
    """Even with a trainer in the middle of a step, which would go on for an hour."""
    mark = ring / "hangs"
    edit(ring, f'"{HIDDEN["b"]}"', f'"{HIDDEN["b"]}", "--do", "hang", "--at", "10", "--once", "{mark}"')
    start.init(str(ring), force=True)
    process = drive(ring)
    wait_until(mark.exists)
    assert state_of(ring)["state"] == "running"
    workers = [model["pid"] for model in state_of(ring)["models"]]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert "KeyboardInterrupt" in errors
    assert not any(journal.is_alive(pid) for pid in workers)
    report = state_of(ring)
    assert (report["state"], report["reason"], report["pid"]) == ("stopped", "interrupted", None)
    assert steps(ring) == 9


def test_a_second_driver_is_refused(ring: Path) -> None:
    """It names the first, changes nothing, and the first goes on."""
    edit(ring, f"rounds = {ROUNDS}", "rounds = 100000")
    process = drive(ring)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        with pytest.raises(BusyError, match=f"process {process.pid} is driving this run"):
            driver.run(str(ring))
        with pytest.raises(BusyError, match=f"process {process.pid} is driving this run"):
            start.init(str(ring), force=True)
        report = state_of(ring)
        assert (report["state"], report["pid"]) == ("running", process.pid)
        assert all(journal.is_alive(model["pid"]) for model in report["models"])
        assert process.stdout.readline() == "2\n"
        if sys.platform == "linux":  # the lock is the trainers', too
            for model in report["models"]:
                opened = [os.readlink(fd) for fd in Path(f"/proc/{model['pid']}/fd").iterdir()]
                assert str(ring / "journal.jsonl") in opened
    finally:
        kill(process)
    assert state_of(ring)["state"] == "stopped"


def test_the_status_of_a_run_has_the_keys_of_the_contract(whole: Path, fresh: Path) -> None:
    """In their order, before the first step and after the last."""
    report = state_of(whole)
    assert list(report) == ["round", "state", "reason", "pid", "change", "models"]
    assert (report["round"], report["state"], report["pid"]) == (ROUNDS, "limit", None)
    assert list(report["change"]) == [*MODELS, "trunk"]
    for name, model in zip(MODELS, report["models"], strict=True):
        assert list(model) == ["name", "step", "checkpoint", "loss", "pid"]
        assert model["checkpoint"] == f"{name}/model.ckpt-{model['step']}"
        assert 0 < model["loss"] < 5
    report = state_of(fresh)
    assert (report["round"], report["state"], report["change"]) == (0, "stopped", None)
    assert [model["loss"] for model in report["models"]] == [None] * 3


# -- trainers that misbehave


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("exit", "exited with status 1"),
        ("hang", f"did not answer within {TIMEOUT} s"),
        ("shapes", "wrote variables that differ from those it was given"),
        ("nan", "wrote a checkpoint with dnn/layer0/Linear/Bias: 1 NaN"),
        ("link", "wrote a link instead of a checkpoint"),
        ("grow", "MB of memory; expected 300 MB or less, as ring.toml says"),
    ],
)
def test_a_trainer_that_fails_stops_the_run_which_can_be_resumed(
    tmp_path: Path, whole: Path, wrong: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line names the model and the step; the run goes on from there once the trainer is mended."""
    ring, once = tmp_path / "ring", tmp_path / "once"
    bad = {
        "worker": ["--do", wrong, "--at", "10", "--once", str(once)],
        "memory": 300,
    }
    if wrong == "hang":
        pass_time_when(once, monkeypatch)
    write_ring(ring, ROUNDS, b=bad)
    start.init(str(ring))
    with pytest.raises(TrainerError, match=words) as caught:
        driver.run(str(ring))
    assert "model b, step 10" in str(caught.value)
    assert len(caught.value.lines) == 1
    report = state_of(ring)
    assert report["state"] == "failed"
    assert words in report["reason"]
    assert steps(ring) == 9
    assert driver.run(str(ring)) == Done("limit", ROUNDS, "rounds")
    assert promised(ring) == promised(whole)


def test_a_step_that_fails_once_is_tried_again_and_the_run_goes_on(tmp_path: Path, whole: Path) -> None:
    """A person is told, and the worker is started anew."""
    ring = tmp_path / "ring"
    bad = {"worker": ["--do", "exit", "--at", "10", "--once", str(tmp_path / "once")], "tries": 2}
    write_ring(ring, ROUNDS, b=bad)
    start.init(str(ring))
    told: list[str] = []
    assert driver.run(str(ring), warn=told.append) == Done("limit", ROUNDS, "rounds")
    assert len(told) == 1
    assert told[0].endswith("trying again")
    assert promised(ring) == promised(whole)


@pytest.mark.usefixtures("here")
def test_a_graft_that_fails_stops_the_run_which_can_be_resumed(ring: Path, whole: Path) -> None:
    """As on a full disk: the state says so."""
    folder = ring / "b"
    interrupt_after(ring, 1)
    (folder / "model.ckpt-2.ckptsurgeon-tmp.index").mkdir()  # swept before the run
    mode = folder.stat().st_mode
    (ring / "c" / "model.ckpt-4.index").mkdir()  # swept before the run, too
    driver.run(str(ring), rounds=1)
    (ring / "data" / "batch.npz").unlink()
    (ring / "data" / "batch.npz").mkdir()
    with pytest.raises(CkptSurgeonError, match=r"batch\.npz"):
        driver.run(str(ring))
    assert state_of(ring)["state"] == "failed"
    (ring / "data" / "batch.npz").rmdir()
    driver.run(str(ring))
    assert folder.stat().st_mode == mode
    assert promised(ring) == promised(whole)


def test_the_programs_of_the_tests_are_this_python() -> None:
    """What the trainers import is what is tested."""
    assert PROGRAM[0] == sys.executable
