"""A few seconds of the fuzzer over each kind of input; scripts/fuzz runs it for longer."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fuzz_targets
import fuzzing
import guided
import pytest

from ckptsurgeon.errors import DamagedError

THERE = list(fuzz_targets.TARGETS.values())
each_target = pytest.mark.parametrize("target", THERE, ids=[target.name for target in THERE])
HANG = 100.0  # times the seconds that a call may take; no measure of speed, but the end of a case that would never end
CASES = {"v1": 150, "hdf5": 40, "keras": 40}  # else 500


@each_target
def test_what_is_mutated_is_sound_before(target: fuzzing.Target, tmp_path: Path) -> None:
    """Every seed opens, so that mutations begin from where all of the library is reached."""
    for files in target.seeds:
        fuzzing.write_case(files, tmp_path / "case")
        opened, _ = fuzzing.run_case(target, tmp_path / "case")
        assert opened


@each_target
def test_nothing_but_our_errors_leaves_the_library(target: fuzzing.Target, tmp_path: Path) -> None:
    """Mutated files: one line each or a checkpoint, no hang, and memory in bounds."""
    result = fuzzing.run_batch(
        target, tmp_path / "case", 1, 0, CASES.get(target.name, 500), time.monotonic() + 6000, None, HANG
    )
    saved = [fuzzing.save_failure(target, 1, number, tmp_path) for number, _ in result.failures]
    assert not result.failures, f"seed 1: {result.failures}; the files are in {saved}"
    assert result.executions > 10
    assert 0 < result.opened < result.executions


@each_target
def test_the_corpus_is_read(target: fuzzing.Target, tmp_path: Path) -> None:
    """Cases that coverage-guided fuzzing has kept, since each reaches lines that no other does."""
    for path in sorted((guided.CORPUS / target.name).glob("*")):
        files = guided.unpack(path.read_bytes())
        assert files, path
        assert guided.unpack(guided.pack(files)) == files
        fuzzing.write_case(files, tmp_path / "case")
        fuzzing.run_case(target, tmp_path / "case")


def test_a_case_is_packed_as_one_file() -> None:
    """Packed cases are unpacked as they were, and other bytes are not a case, nor a path."""
    for files in ({}, {"m": b""}, {"m.index": b"\x00\xff", "checkpoint": b"x" * 70_000}):
        assert guided.unpack(guided.pack(files)) == files
    for wrong in (b"\x00", guided.pack({"m": b"abc"})[:-1], guided.pack({"../m": b""}), guided.pack({"": b"a"})):
        assert guided.unpack(wrong) is None


@each_target
def test_a_case_can_be_made_again(target: fuzzing.Target) -> None:
    """The same seed and number give the same bytes, another number gives others."""
    cases = [target.case(1, number) for number in range(20)]
    assert cases == [target.case(1, number) for number in range(20)]
    assert any(case != cases[0] for case in cases)


def _fails(call: Callable[[], object]) -> fuzzing.Target:
    """A target whose every case does this, but not the seed."""

    class Failing(fuzzing.Target):
        def calls(self, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
            yield "call", lambda: call() if (folder / "bad").exists() else None

    return Failing("failing", lambda: [{"m": b"good"}], lambda rng, files: {"m": b"good", "bad": rng.randbytes(1)})


def _two_lines() -> None:
    raise _TwoLines("one")


class _TwoLines(DamagedError):
    @property
    def lines(self) -> list[str]:
        return ["one\ntwo"]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: [][0], "IndexError"),
        (_two_lines, "not one line"),
        (lambda: os._exit(9), "the process ended with 9"),
        (os.abort, "the process ended with -6"),
        (lambda: time.sleep(3600), "or hung"),
        pytest.param(
            lambda: b"x" * (80 << 20),
            "MB of memory",
            marks=pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is told by /proc"),
        ),
    ],
)
def test_the_fuzzer_finds(call: Callable[[], object], problem: str, tmp_path: Path) -> None:
    """What must not happen is told with the number of the case when it happens: the watch itself is awake."""
    result = fuzzing.run_batch(
        _fails(call), tmp_path / "case", 1, 5, 1, time.monotonic() + 600, None, 1.0 if problem == "or hung" else HANG
    )
    assert [number for number, _ in result.failures] == [5]
    assert problem in result.failures[0][1]


def test_a_slow_call_is_found(tmp_path: Path) -> None:
    """Where seconds are limited, a call that takes longer twice is a failure."""
    slow = _fails(lambda: time.sleep(0.2))
    result = fuzzing.run_batch(slow, tmp_path / "case", 1, 0, 1, time.monotonic() + 600, 0.1, HANG)
    assert [problem for _, problem in result.failures if "call took" in problem]
