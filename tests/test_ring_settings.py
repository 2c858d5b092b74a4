"""Settings that change during a run: learning rates, stages of the trunk, a frozen trunk, and models that join."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_here import TRAINER, train_here
from ring_support import MODELS, history, interrupt, promised, records, write_ring

import ckptsurgeon
from ckptsurgeon import formats
from ckptsurgeon.cli import main
from ckptsurgeon.errors import CkptSurgeonError, RefusedError, UsageError
from ckptsurgeon.ring import driver, journal, learning_rate, start
from ckptsurgeon.ring.predicting import ensemble
from ckptsurgeon.ring.resuming import settings
from ckptsurgeon.ring.schedule import TRUNK, Schedule
from ckptsurgeon.ring.spec import changes, loading

STEP = {"schedule": "step", "start": 0.4, "every": 2, "factor": 0.5}
STAGES = '[{ rounds = 2, layers = "0" }, { rounds = 2, layers = "0-1" }]'


@pytest.fixture
def asked() -> list[dict[str, Any]]:
    """Return the requests that trainers get."""
    return []


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]]) -> None:
    """Have the trainers work in this process, and note what they are asked."""
    train_here(monkeypatch)
    answer = TRAINER.answer

    def noted(options: Any, request: dict[str, Any]) -> str:
        asked.append(request)
        return str(answer(options, request))

    monkeypatch.setattr(TRAINER, "answer", noted)


def made(folder: Path, rounds: int = 6, **options: Any) -> Path:
    """Return a new ring whose ring.toml may have raw lines of its own as `head`."""
    head = options.pop("head", "")
    write_ring(folder, rounds, **options)
    change(folder, "layers =", f"{head}\nlayers =")
    start.init(str(folder))
    return folder


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a ring after two rounds."""
    with pytest.MonkeyPatch.context() as patch:
        train_here(patch)
        folder = made(tmp_path_factory.mktemp("begun") / "ring")
        run(folder, rounds=2)
    return folder


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / "ring.toml").read_text()
    assert old in text
    (folder / "ring.toml").write_text(text.replace(old, new, 1))


def run(folder: Path, **options: Any) -> list[str]:
    """Drive a ring, and return what it says."""
    said: list[str] = []
    driver.run(str(folder), warn=said.append, **options)
    return said


def lines(folder: Path) -> list[dict[str, Any]]:
    every = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()[1:]]
    return [line for line in every if line["kind"] == "settings"]


def layer(folder: Path, name: str, number: int) -> bytes:
    with formats.open(str(folder / name / f"model.ckpt-{history(folder).latest(name)}")) as checkpoint:
        return bytes(checkpoint.read(f"dnn/layer{number}/Linear/Matrix").tobytes())


def layers_shared(folder: Path) -> list[bool]:
    return [len({layer(folder, name, number) for name in MODELS}) == 1 for number in (0, 1)]


# -- the learning rate


@pytest.mark.parametrize(
    ("rate", "values"),
    [
        (0.3, [0.3, 0.3, 0.3, 0.3, 0.3]),
        ({"schedule": "constant", "start": 0.3}, [0.3, 0.3, 0.3, 0.3, 0.3]),
        (STEP, [0.4, 0.4, 0.2, 0.2, 0.1]),
        ({"schedule": "cosine", "start": 0.4, "rounds": 3, "end": 0.1}, [0.4, 0.25, 0.1, 0.1, 0.1]),
        ({"schedule": "cosine", "start": 0.4, "rounds": 3}, [0.4, 0.2, 0.0, 0.0, 0.0]),
        ([{"rounds": 2, "rate": 0.4}, {"rounds": 1, "rate": 0.1}], [0.4, 0.4, 0.1, 0.1, 0.1]),
    ],
)
def test_a_learning_rate_is_a_function_of_the_round(rate: Any, values: list[float]) -> None:
    """Each kind of schedule gives these values in the first five rounds."""
    taken = learning_rate.take(rate)
    assert [learning_rate.at(taken, round) for round in range(1, 6)] == pytest.approx(values)
    assert [learning_rate.at(json.loads(json.dumps(taken)), round) for round in range(1, 6)] == pytest.approx(values)


@pytest.mark.parametrize(
    "rate",
    [
        0,
        -1,
        True,
        "0.1",
        float("inf"),
        [],
        [0.1],
        [{"rounds": 0, "rate": 0.1}],
        [{"rounds": 1}],
        {},
        {"schedule": "linear", "start": 0.1},
        {"schedule": "step", "start": 0.1},
        {"schedule": "step", "start": 0.1, "every": 2.5},
        {"schedule": "cosine", "start": 0.1, "rounds": 5, "end": -1},
        {"schedule": "constant", "start": 0.1, "every": 5},
        {"schedule": "step", "start": 0.1, "every": 1, "factor": 1.01},
    ],
)
def test_a_learning_rate_that_is_none_is_refused(rate: Any) -> None:
    """A wrong value, an unknown schedule, and missing or surplus keys are mistakes in ring.toml."""
    table = {"layers": "0", "learning_rate": rate, "models": [{"name": name, "worker": ["w"]} for name in "ab"]}
    with pytest.raises(UsageError, match=r"^ring\.toml: learning_rate: wrong value; expected a number above 0, or "):
        loading.parse(table)


def test_a_schedule_reaches_the_trainers_and_survives_interruptions(
    tmp_path: Path, asked: list[dict[str, Any]]
) -> None:
    """Every request has the rate of its round, also after a run that was interrupted; the bytes are the same."""
    whole = made(tmp_path / "whole", learning_rate=STEP, a={"learning_rate": 0.7})
    again = Path(shutil.copytree(whole, tmp_path / "again"))
    asked.clear()
    run(whole)
    rates = {(each["step"], each["learning_rate"]) for each in asked}
    steps = {line["step"]: line for line in records(whole) if line["kind"] == "train"}
    wanted = {"a": [0.7] * 6, "b": [0.4, 0.4, 0.2, 0.2, 0.1, 0.1]}
    wanted["c"] = wanted["b"]
    assert rates == {(number, wanted[line["model"]][line["round"] - 1]) for number, line in steps.items()}
    for after in (10, 9, 8):
        interrupt(again, after)
    run(again)
    assert promised(again) == promised(whole)
    plain = made(tmp_path / "plain")
    run(plain)
    assert promised(plain) != promised(whole)


def test_a_changed_learning_rate_counts_from_the_next_round_on(tmp_path: Path, asked: list[dict[str, Any]]) -> None:
    """It is journalled and named; a round that had begun is finished, and repeated, with the old rate."""
    whole = made(tmp_path / "whole", learning_rate=0.3)
    run(whole, rounds=2)
    again = Path(shutil.copytree(whole, tmp_path / "again"))
    within = Path(shutil.copytree(whole, tmp_path / "within"))
    change(whole, "learning_rate = 0.3", "learning_rate = 0.05")
    (line,) = run(whole)
    assert line.startswith("ring.toml changed, which counts from round 3 on: models.a.learning_rate was 0.3, is 0.05; ")
    assert [(each["round"], each["step"]) for each in lines(whole)] == [(3, 14)]
    assert run(whole) == []
    change(again, "learning_rate = 0.3", "learning_rate = 0.05")
    for after in (0, 1, 3, 9):
        interrupt(again, after)
    run(again)
    assert len(lines(again)) == 1
    assert promised(again) == promised(whole)
    interrupt(within, 3)
    change(within, "learning_rate = 0.3", "learning_rate = 0.05")
    asked.clear()
    assert "from round 4 on" in run(within)[0]
    assert {(each["round"], each["learning_rate"]) for each in asked} == {
        (round, 0.3 if round == 3 else 0.05) for round in (3, 4, 5, 6)
    }


def test_a_fallback_repeats_a_round_with_the_settings_that_it_had(tmp_path: Path) -> None:
    """A lost round in which ring.toml was changed is repeated with the old rate, and the next has the new one."""
    whole = made(tmp_path / "whole", 4, learning_rate=0.3)
    run(whole, rounds=2)
    interrupt(whole, 3)
    change(whole, "learning_rate = 0.3", "learning_rate = 0.05")
    lost = Path(shutil.copytree(whole, tmp_path / "lost"))
    run(whole)
    interrupt(lost, 2)
    for path in (lost / "b").glob(f"model.ckpt-{history(lost).latest('b')}.*"):
        path.unlink()
    assert "going back" in run(lost)[0]
    assert promised(lost) == promised(whole)


def test_the_built_in_trainer_keeps_a_number_that_never_changed() -> None:
    """It stands in the checkpoint, where it may be edited; a schedule, or a number once changed, is sent."""
    table: dict[str, Any] = {"layers": "0", "data": {"file": "f", "target": "t"}}
    document = loading.parse(
        {
            **table,
            "models": [{"name": "a", "hidden_units": [3]}, {"name": "b", "hidden_units": [3], "learning_rate": STEP}],
        }
    ).document()
    past = journal.History(Schedule.of(document), {}, document)
    assert [past.learning_rate(name, 3) for name in "ab"] == [None, 0.2]
    changed = json.loads(json.dumps(document))
    changed["models"][0]["learning_rate"] = 0.5
    past.change_settings(journal.Settings(0, 4, {}, changed, {}, {}))
    past.change_settings(journal.Settings(0, 6, {}, document, {}, {}))
    assert [past.learning_rate("a", round) for round in (3, 4, 5, 6)] == [None, 0.5, 0.5, 0.1]
    early = journal.History(Schedule.of(document), {}, document)
    early.change_settings(journal.Settings(0, 1, {}, changed, {}, {}))
    assert early.learning_rate("a", 1) == 0.5  # the first weights were made with another one


# -- the trunk


def test_the_trunk_grows_by_stages(tmp_path: Path) -> None:
    """For two rounds the models share layer 0, then layers 0-1; interruptions change nothing."""
    whole = made(tmp_path / "whole", 4, head=f"stages = {STAGES}", stop={"window": 1, "tolerance": 1e9})
    again = Path(shutil.copytree(whole, tmp_path / "again"))
    run(whole, rounds=2)
    assert layers_shared(whole) == [True, False]
    run(whole)
    assert layers_shared(whole) == [True, True]
    assert history(whole).round == 4  # a run converges in the last stage only
    for after in (3, 9, 6):
        interrupt(again, after)
    run(again)
    assert promised(again) == promised(whole)


@pytest.mark.parametrize("schedule", ["ring", "average"])
def test_a_frozen_trunk_stays_as_it_is(tmp_path: Path, schedule: str) -> None:
    """From that round on models keep the trunk and train their heads; interruptions change nothing."""
    whole = made(tmp_path / "whole", 5, schedule=schedule, freeze=4)
    again = Path(shutil.copytree(whole, tmp_path / "again"))
    run(whole, rounds=2)
    first = layer(whole, "a", 0), layer(whole, "a", 1)
    run(whole, rounds=3)
    frozen = layer(whole, "a", 0), layer(whole, "a", 1)
    assert first[0] != frozen[0]
    run(whole)
    assert layers_shared(whole) == [True, True]
    assert (layer(whole, "c", 0), layer(whole, "c", 1)) == frozen
    assert {line["kind"] for line in records(whole) if line["round"] > 3} == {"train", "freeze"}
    for after in (20, 8, 3):
        interrupt(again, after)
    run(again)
    assert promised(again) == promised(whole)


def test_a_trunk_that_is_frozen_later_and_released_again(tmp_path: Path) -> None:
    """`freeze` may be set and removed between runs; each change begins a new part of the schedule."""
    folder = made(tmp_path / "ring", 6)
    run(folder, rounds=2)
    change(folder, "layers =", "freeze = 1\nlayers =")
    assert run(folder, rounds=4) == ["ring.toml changed, which counts from round 3 on: freeze was null, is 1"]
    change(folder, "freeze = 1\n", "")
    change(folder, '"0-1"', '"0"')
    run(folder)
    kinds = {round: {line["kind"] for line in records(folder) if line["round"] == round} for round in range(1, 7)}
    shared, frozen = {"train", "graft"}, {"train", "freeze"}
    assert kinds == {1: shared, 2: shared, 3: frozen, 4: frozen, 5: shared, 6: shared}
    assert layers_shared(folder) == [True, False]
    assert [line["changed"].keys() for line in lines(folder)] == [{"freeze"}, {"freeze", "layers"}]


# -- models that join


@pytest.mark.parametrize("schedule", ["ring", "average"])
@pytest.mark.parametrize("within", [False, True])
def test_a_model_joins_with_a_checkpoint_of_its_own(tmp_path: Path, schedule: str, within: bool) -> None:
    """It takes part from the next round on, shares the trunk, has a vote; interruptions change nothing."""
    whole = made(tmp_path / "whole", 5, schedule=schedule)
    run(whole, rounds=2)
    if within:
        interrupt(whole, 3)
    shutil.copytree(whole / "c", whole / "given")
    joining(whole, 'init = "given"')
    again = Path(shutil.copytree(whole, tmp_path / "again"))
    (line,) = run(whole)
    assert line == f"ring.toml changed, which counts from round {3 + within} on: new models d"
    last = [each["model"] for each in records(whole) if each["kind"] == "train" and each["round"] == 5]
    assert last == ["a", "b", "c", "d"]
    assert {each["round"] for each in records(whole) if each["model"] == "d"} == {*range(3 + within, 6)}
    assert layer(whole, "d", 1) == layer(whole, "a", 1)
    assert [score["model"] for score in ensemble.evaluate(str(whole))][:4] == ["a", "b", "c", "d"]
    for after in (0, 1, 6, 10):
        interrupt(again, after)
    run(again)
    assert promised(again) == promised(whole)
    assert (again / "d" / "checkpoint").read_bytes() == (whole / "d" / "checkpoint").read_bytes()
    assert run(again) == []


def joining(folder: Path, *keys: str) -> None:
    text = (folder / "ring.toml").read_text()
    table = text[text.rindex("[[models]]") :].replace('"c"', '"d"')
    (folder / "ring.toml").write_text(text + "\n".join([table, *keys, ""]))


def test_a_model_that_cannot_join_is_refused(tmp_path: Path) -> None:
    """Without `init`, or with another trunk, nothing is journalled, and the old ring.toml still works."""
    folder = made(tmp_path / "ring", 3)
    run(folder, rounds=1)
    before = (folder / "ring.toml").read_text()
    joining(folder)
    with pytest.raises(UsageError, match=r"models\.d: joins a run that has begun, and has no init; expected the path"):
        run(folder)
    values = TRAINER.first_weights([2, 5, 3, 2], 1)
    formats.write(str(folder / "other"), {**values, "global_step": np.zeros((), np.int64)})
    (folder / "ring.toml").write_text(before)
    joining(folder, 'init = "other"')
    with pytest.raises(CkptSurgeonError, match="layers 0-1 of d do not match those of a"):
        run(folder)
    assert lines(folder) == []
    (folder / "ring.toml").write_text(before)
    assert run(folder) == []


def test_a_model_that_joins_is_listed_after_the_others(
    begun: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the first one it would replace the trained trunk; an edit of it before it begins concerns nobody else."""
    folder = Path(shutil.copytree(begun, tmp_path / "ring"))
    before = (folder / "ring.toml").read_text()
    place = before.index("[[models]]")
    shutil.copytree(folder / "c", folder / "given")
    joining(folder, 'init = "given"')
    table = (folder / "ring.toml").read_text()[len(before) :]
    (folder / "ring.toml").write_text(before[:place] + table + before[place:])
    with pytest.raises(UsageError, match=r"models\.d: joins as the first model, .*; list it after the others"):
        run(folder)
    assert lines(folder) == []
    assert not (folder / "d").exists()
    (folder / "ring.toml").write_text(before)
    run(folder, rounds=3)
    interrupt(folder, 3)
    joining(folder, 'init = "given"')
    interrupt(folder, 1)
    assert main(["ring", "run", str(folder), "--until", "rounds=4"]) == 0
    round, *_, change_of_weights = capsys.readouterr().out.splitlines()[0].split("\t")
    measured = records(folder)[-1]["change"]
    assert (round, float(change_of_weights)) == ("4", pytest.approx(max(measured[name] for name in MODELS), rel=1e-3))


def test_a_model_that_has_joined_may_be_edited_before_it_begins(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is on the disk before the journal names it; back at a round without it, its edit is adopted."""
    folder = Path(shutil.copytree(begun, tmp_path / "ring"))
    shutil.copytree(folder / "c", folder / "given")
    interrupt(folder, 3)
    joining(folder, 'init = "given"')
    synced = list[str]()
    monkeypatch.setattr(settings, "fsync", synced.append)
    interrupt(folder, 0)
    assert synced == [str(folder)]
    interrupt(folder, 1)
    for path in (folder / "b").glob(f"model.ckpt-{history(folder).latest('b')}.*"):
        path.unlink()
    ckptsurgeon.set(folder / "d" / "model.ckpt-0", "dnn/layer2/Linear/Bias[0]", 7.0)
    back, adopted = run(folder, rounds=2)
    assert "going back" in back
    assert adopted == "d/model.ckpt-0 was edited; model d continues from it"


def test_another_program_is_shown_beside_other_changes(tmp_path: Path) -> None:
    """With `anyway`, a changed program stands in the journal together with the learning rate that changed too."""
    folder = made(tmp_path / "ring", 3, learning_rate=0.3)
    run(folder, rounds=1)
    change(folder, "learning_rate = 0.3", "learning_rate = 0.2")
    change(folder, '"--hidden"', '"--time", "--hidden"')
    (line,) = run(folder, anyway=True)
    assert "; models.a.worker was [" in line
    assert {"models.a.worker", "models.b.learning_rate"} < lines(folder)[0]["changed"].keys()


def test_a_model_may_have_the_name_of_a_key(begun: Path, tmp_path: Path) -> None:
    """Another batch size is refused even if a model named `batch_size` joins."""
    old = loading.load(str(begun / "ring.toml")).document()
    new = json.loads(json.dumps(old))
    new["models"].append({**new["models"][2], "name": "batch_size"})
    new["data"]["batch_size"] = 5
    assert changes.differences(old, new) == {"data.batch_size": "was 16, is 5"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "settings", "round": 5},
        {"kind": "edit", "model": "x"},
        {"kind": "edit", "step": 13},
        {"kind": "edit", "step": 15},
        {"kind": "edit", "sha256": 5},
        {"kind": "settings", "round": 2},
        {"kind": "settings", "spec": {"models": [{"name": "a"}]}},
        {"kind": "settings", "spec": {"models": [{"name": n, "learning_rate": {}} for n in "abc"]}},
        {"kind": "settings", "spec": {"models": [{"name": n, "format": "x"} for n in "abc"]}},
        {"kind": "settings", "spec": {"models": [{"name": n} for n in ("a", "b", "c", "../d")]}},
        {"kind": "settings", "spec": {"models": [{"name": n} for n in "abcd"]}},
        {
            "kind": "settings",
            "spec": {"models": [{"name": n} for n in "abc"], "stages": [{"rounds": "1", "layers": ""}]},
        },
        {"kind": "settings", "variables": {"a": {"x": 5}}},
        {"kind": "settings", "spec": None},
        {"kind": "other"},
    ],
)
def test_a_line_that_no_run_wrote_is_damage(begun: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Edits and settings that cannot follow are no part of history; the next driver cuts them off, as a torn line."""
    content = (begun / "journal.jsonl").read_bytes()
    spec = {"models": [{"name": name} for name in MODELS]}
    edit = {"step": 14, "round": 2, "model": "a", "checkpoint": "a/model.ckpt-13", "sha256": "s", "replaces": "r"}
    settings = {"step": 14, "round": 3, "changed": {}, "spec": spec, "initial": {}, "variables": {}}
    for good in (edit | {"kind": "edit"}, settings | {"kind": "settings"}):
        found = journal.parse(io.BytesIO(content + json.dumps(good).encode() + b"\n"))
        assert found is not None
        assert found.length > len(content)
    line = {**(edit if wrong["kind"] == "edit" else settings), **wrong}
    found = journal.parse(io.BytesIO(content + json.dumps(line).encode() + b"\n"))
    assert found is not None
    assert (found.length, found.history.step) == (len(content), 14)


def test_what_may_not_change_is_still_refused(tmp_path: Path) -> None:
    """A model that is missing, another order or another warmup is named, beside what may change."""
    folder = made(tmp_path / "ring", 3, learning_rate=0.3)
    run(folder, rounds=1)
    change(folder, "learning_rate = 0.3", "learning_rate = 0.2\nwarmup = 2")
    with pytest.raises(RefusedError, match="changed since the run began: warmup was 0, is 2; change it back"):
        run(folder)
    change(folder, "warmup = 2\n", 'order = ["b", "a", "c"]\n')
    with pytest.raises(RefusedError, match="changed since the run began: order was null"):
        run(folder)
    assert lines(folder) == []


def test_a_mean_that_is_no_longer_made_is_kept(tmp_path: Path) -> None:
    """When the trunk of an average is frozen, the last mean stays, and the run still ends where it should."""
    folder = made(tmp_path / "ring", 8, schedule="average", freeze=2, max_to_keep=1)
    run(folder)
    assert history(folder).latest(TRUNK) == 4
    assert (folder / TRUNK / "model.ckpt-4.index").exists()
