"""The journal: torn tails at every byte, fallbacks, damage, the lock; and the history that it tells."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waiting import LIMIT

from ckptsurgeon.errors import BusyError, CkptSurgeonError, DamagedError, RefusedError
from ckptsurgeon.ring import journal
from ckptsurgeon.ring.history import History, Measured, Record
from ckptsurgeon.ring.journal import Content, Head, Journal, parse
from ckptsurgeon.ring.lines import Settings
from ckptsurgeon.ring.schedule import Schedule

MODELS = ("a", "b", "c")
SCHEDULE = Schedule(MODELS)
STEPS = len(SCHEDULE.part(1).steps)
HEAD = Head(
    spec={"models": [{"name": name} for name in MODELS]},
    data_sha256="d" * 64,
    env={"numpy": "2"},
    initial={name: name * 64 for name in MODELS},
)


def record(number: int, change: dict[str, float] | None = None, **metrics: Any) -> Record:
    step = SCHEDULE.step(number)
    output = f"{step.model}/model.ckpt-{number}"
    return Record(step, f"{step.model}/model.ckpt-0", output, f"{number:064x}", metrics, Measured(change), 0.25)


def content(numbers: list[int]) -> bytes:
    return HEAD.line() + b"".join(record(number).line() for number in numbers)


def parse_bytes(journal: bytes) -> Content | None:
    return parse(io.BytesIO(journal))


def journal_steps(found: Content | None) -> int:
    """Return the number of steps, whose last record must be that of the last step."""
    assert found is not None
    assert (found.history.last.step.number if found.history.last else 0) == found.history.step
    return found.history.step


def test_a_long_line_is_read_or_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The many variables of a model that joins fit in a line; one that nobody could read is refused whole."""
    spec = {"models": [{"name": name} for name in "abcd"]}
    variables = {"d": {f"{number}" + 100_000 * "x": ("float32", (2,)) for number in range(60)}}
    new = Settings(0, 1, {"new models": "d"}, spec, {"d": "f"}, variables)
    assert len(new.line()) > 4 << 20
    found = parse_bytes(HEAD.line() + new.line())
    assert found is not None
    assert found.history.models == (*MODELS, "d")
    path = tmp_path / "journal.jsonl"
    with Journal.lock(str(path), lambda: None, create=True) as opened:
        opened.start(HEAD)
        monkeypatch.setattr(journal, "LONGEST_LINE", 1 << 20)
        with pytest.raises(RefusedError, match="more variables than a journal can list"):
            opened.append(new, sync=False)
    assert path.read_bytes() == HEAD.line()


def test_a_journal_has_the_lines_of_the_contract(tmp_path: Path) -> None:
    """A head, then a line a step, with the documented keys in their order."""
    with Journal.lock(str(tmp_path / "journal.jsonl"), lambda: None, create=True) as log:
        log.start(HEAD)
        log.append(record(1, loss=0.5), sync=False)
        log.append(record(2), sync=True)
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert lines[0]["v"] == 1
    assert list(lines[0])[:4] == ["v", "spec", "data_sha256", "env"]
    keys = "step round kind model from batch checkpoint sha256 metrics change seconds held_out distance"
    assert list(lines[1]) == list(lines[2]) == keys.split()
    assert lines[1] == {
        "step": 1,
        "round": 1,
        "kind": "train",
        "model": "a",
        "from": "a/model.ckpt-0",
        "batch": 0,
        "checkpoint": "a/model.ckpt-1",
        "sha256": f"{1:064x}",
        "metrics": {"loss": 0.5},
        "change": None,
        "seconds": 0.25,
        "held_out": None,
        "distance": None,
    }
    assert (lines[2]["kind"], lines[2]["model"]) == ("graft", "b")


def test_what_was_written_is_read_back() -> None:
    """All records, with their numbers, NaN and infinities among them."""
    change = {"a": 0.5, "b": math.inf, "c": 0.0}
    written = [record(1, loss=math.nan), *map(record, range(2, 7)), record(7, change, loss=-math.inf)]
    lines = [HEAD.line(), *(one.line() for one in written)]
    found = [parse_bytes(b"".join(lines[: count + 1])) for count in range(1, len(lines))]
    read = [one.history.last for one in found if one is not None and one.history.last is not None]
    assert [one.step for one in read] == [one.step for one in written]
    assert [one.line() for one in read] == lines[1:]
    assert read[0].loss is not None
    assert math.isnan(read[0].loss)
    assert read[6].loss == -math.inf
    assert found[-1] is not None
    assert found[-1].head == HEAD
    assert found[-1].history.change == change


def test_a_journal_cut_off_at_any_byte_holds_the_steps_before() -> None:
    """A torn line is as if it had never been written, even if it reads like a whole one."""
    whole = content(list(range(1, 10)))
    ends = [at + 1 for at, byte in enumerate(whole) if byte == 0x0A]
    for length in range(len(whole) + 1):
        found = parse_bytes(whole[:length])
        lines = sum(end <= length for end in ends)
        if lines == 0:
            assert found is None
        else:
            assert found is not None
            assert journal_steps(found) == lines - 1
            assert found.length == ends[lines - 1]


@given(st.binary(max_size=200), st.integers(0, 12))
def test_any_tail_is_cut(tail: bytes, count: int) -> None:
    """Whatever bytes a power cut leaves behind the last whole round, nothing but them is lost."""
    whole = content(list(range(1, count + 1)))
    try:
        found = parse_bytes(whole + tail)
    except DamagedError:
        assert b'"step"' in tail
        return
    assert found is not None
    assert journal_steps(found) == count
    assert found.length == len(whole)


def test_the_next_writer_cuts_the_tail_off(tmp_path: Path) -> None:
    """New lines follow the last whole one; nobody who only reads changes the file."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content([1, 2, 3])[:-5])
    before = path.read_bytes()
    assert journal_steps(journal.load(str(path))) == 2
    assert path.read_bytes() == before
    with Journal.lock(str(path), lambda: None) as log:
        found = log.read()
        assert journal_steps(found) == 2
        log.append(record(3), sync=False)
    assert path.read_bytes() == content([1, 2, 3])


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1, 2, 3, 3], {"a": 1, "b": 4}),
        ([1, 2, 3, 1], {"a": 4}),
        ([1, 2, 3, 2, 3, 4], {"a": 1, "b": 5, "c": 6}),
        ([*range(1, 11), *range(8, 13)], {"a": 11, "b": 13, "c": 15}),
        ([1, 2, 1, 1, 2], {"a": 4, "b": 5}),
    ],
)
def test_a_step_that_is_not_new_takes_history_back(numbers: list[int], expected: dict[str, int]) -> None:
    """A fallback is recorded by the lines that follow it."""
    records = [replace(record(number), sha256=f"{line}") for line, number in enumerate(numbers, start=1)]
    found = parse_bytes(HEAD.line() + b"".join(one.line() for one in records))
    assert journal_steps(found) == numbers[-1]
    assert found is not None
    past = found.history
    fingerprints = {name: past.fingerprint(name, past.latest(name)) for name in MODELS}
    assert fingerprints == {name: str(expected.get(name, HEAD.initial[name])) for name in MODELS}


def test_no_step_goes_back_beyond_a_whole_round() -> None:
    """No driver does that, since a whole round is on disk; and history need not be remembered for ever."""
    found = parse_bytes(content([*range(1, 9), 7, 8, 9]))
    assert journal_steps(found) == 8
    with pytest.raises(DamagedError, match="line 10 is damaged"):
        parse_bytes(content([*range(1, 9), 1, *range(2, 15)]))


def test_a_line_that_leaves_a_step_out_is_no_record() -> None:
    """What follows it is cut like any torn tail."""
    assert journal_steps(parse_bytes(content([1, 2, 4, 5]))) == 2


def damage(line: int, new: bytes, count: int = 16) -> bytes:
    lines = content(list(range(1, count + 1))).splitlines(keepends=True)
    return b"".join([*lines[:line], new, *lines[line + 1 :]])


@pytest.mark.parametrize("new", [b"\0" * 50 + b"\n", b"\n", b"{}\n", b'{"step": 3}\n', b"[" * 100_000 + b"\n"])
def test_a_damaged_line_before_the_end_of_a_round_is_no_torn_tail(new: bytes) -> None:
    """Rounds are synced to disk as a whole, so that no crash explains it: nothing is cut, the line is named."""
    with pytest.raises(DamagedError, match="line 4 is damaged"):
        parse_bytes(damage(3, new))
    found = parse_bytes(damage(15, new))
    assert found is not None
    assert found.history.step == 14


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", "3"),
        ("step", 0),
        ("step", True),
        ("kind", "average"),
        ("model", "../../etc"),
        ("round", 9),
        ("metrics", []),
        ("sha256", 5),
        ("from", None),
        ("seconds", "long"),
        ("change", {"a": 1}),
    ],
)
def test_a_record_that_no_schedule_explains_is_no_record(key: str, value: object) -> None:
    """A journal is a file like any other, and may hold anything."""
    line = json.loads(record(3).line())
    line[key] = value
    found = parse_bytes(content([1, 2]) + json.dumps(line).encode() + b"\n")
    assert found is not None
    assert found.history.step == 2


@pytest.mark.parametrize("line", [b"{}\n", b"[]\n", b"\n", b"\xff\n", b'{"v": 2, "spec": 1}\n', b"[" * 10**5 + b"\n"])
def test_a_file_that_is_no_journal_is_refused(line: bytes) -> None:
    """Its first line says what it is."""
    with pytest.raises(DamagedError, match="line 1"):
        parse_bytes(line + record(1).line())


@pytest.mark.parametrize("names", [["a"], ["a", "../b"], ["a", "/etc"], ["a", "data"], ["a", 1], ["a", "d"]])
def test_names_of_models_are_checked_since_they_become_paths(names: list[object]) -> None:
    """A journal from somewhere else leads nowhere outside of its folder."""
    head = Head({"models": [{"name": name} for name in names]}, None, {}, dict.fromkeys("abc", "f"))
    with pytest.raises(DamagedError, match="line 1"):
        parse_bytes(head.line())


def test_another_version_is_refused() -> None:
    """A later journal may mean something else."""
    with pytest.raises(DamagedError, match="expected v 1, found v 2"):
        parse_bytes(HEAD.line().replace(b'"v": 1', b'"v": 2'))


# -- history


@given(st.integers(0, 60), st.integers(1, 7))
def test_what_is_kept_follows_from_history(count: int, max_to_keep: int) -> None:
    """The newest checkpoints that each model had after the last whole round, and all since."""
    history = History(SCHEDULE, HEAD.initial)
    for number in range(1, count + 1):
        history.add(record(number))
    whole = count // STEPS * STEPS
    for model in MODELS:
        written = [0] + [n for n in range(1, count + 1) if SCHEDULE.step(n).model == model]
        assert history.latest(model) == written[-1]
        listed = [n for n in written if n <= whole][-max_to_keep:]
        assert history.listed(model, max_to_keep) == listed
        assert history.whole(model) == listed[-1]
        assert history.kept(model, max_to_keep) == {*listed, *(n for n in written if n > whole)}
        assert len(history.kept(model, max_to_keep)) <= max_to_keep + 3
        assert history.fingerprint(model, 0) == model * 64
        for step in {history.latest(model), history.whole(model)} - {0}:
            assert history.fingerprint(model, step) == f"{step:064x}"


def test_a_long_history_takes_no_more_memory_than_a_short_one() -> None:
    """Two rounds are remembered at most."""
    history = History(SCHEDULE, HEAD.initial)
    sizes = []
    for number in range(1, 50 * STEPS):
        history.add(record(number))
        sizes.append(len(pickle.dumps(history)))
    assert max(sizes[:30]) * 1.1 > max(sizes)


@given(st.integers(1, 40), st.data())
def test_going_back_is_as_if_the_rest_had_never_been(count: int, draw: st.DataObject) -> None:
    """All that history tells is the same as after the shorter run."""
    back = draw.draw(st.integers(count // STEPS * STEPS, count))
    long, short = History(SCHEDULE, HEAD.initial), History(SCHEDULE, HEAD.initial)
    for number in range(1, count + 1):
        change = dict.fromkeys(MODELS, float(number)) if number % STEPS == 0 else None
        long.add(record(number, change, loss=number))
        if number <= back:
            short.add(record(number, change, loss=number))
    long.rewind(back)
    for ask in ("step", "round", "change", "last", "whole_step"):
        assert getattr(long, ask) == getattr(short, ask)
    for model in MODELS:
        assert long.kept(model, 4) == short.kept(model, 4)
        assert long.loss(model) == short.loss(model)
        for step in (long.latest(model), long.whole(model)):
            assert long.fingerprint(model, step) == short.fingerprint(model, step)
    with pytest.raises(ValueError, match="before the last whole round"):
        long.rewind(long.whole_step - 1)


def test_the_loss_is_that_of_the_last_train_step() -> None:
    """A graft has none, and a trainer need not tell one."""
    history = History(SCHEDULE, HEAD.initial)
    assert history.loss("a") is None
    for number in range(1, 8):
        history.add(record(number, loss=number) if number != 3 else record(number, loss="low"))
    assert [history.loss(model) for model in MODELS] == [1, None, 5]


# -- the lock

HOLDER = """
import sys, time
from ckptsurgeon.ring.journal import Journal
with Journal.lock(sys.argv[1], lambda: None) as log:
    print("locked", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDER, str(path)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_driver_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    """The lock is free again when the first is gone, however it went."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content([1]))
    first = hold(path)
    try:
        assert journal.is_locked(str(path))
        with pytest.raises(BusyError, match=f"process {first.pid} is driving this run"):
            Journal.lock(str(path), lambda: first.pid)
    finally:
        first.kill()
        first.communicate()
    assert not journal.is_locked(str(path))
    Journal.lock(str(path), lambda: None).close()


def test_the_trainers_of_a_dead_driver_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as one holds the journal the folder is locked; then it is free without further ado."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content([1]))
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    trainer = hold(path)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(journal, "_WAIT_FOR_TRAINERS", 0.2)
            with pytest.raises(BusyError, match="a trainer that it started still runs"):
                Journal.lock(str(path), lambda: dead.pid)
        monkeypatch.setattr(journal, "_WAIT_FOR_TRAINERS", LIMIT)
        asked = []

        def driver() -> int:
            asked.append(trainer.stdin.close() if trainer.stdin and not asked else None)
            return dead.pid

        Journal.lock(str(path), driver).close()
    finally:
        trainer.kill()
        trainer.wait()
    assert asked


def test_a_folder_without_a_run_says_so(tmp_path: Path) -> None:
    """An empty journal is that of a `ring init` that did not get to its end."""
    path = tmp_path / "journal.jsonl"
    path.touch()
    with pytest.raises(CkptSurgeonError, match="not initialised; run: ckptsurgeon ring init"):
        journal.load(str(path))
