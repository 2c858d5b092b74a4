"""Breaks every verb over every format on purpose, and counts what was lost: rows of the table in docs/reliability.md.

    scripts/torture breaking faults                let every call of the operating system fail, with every error
    scripts/torture breaking faults --most 20      at most 20 calls of each verb over each format
    scripts/torture breaking strace --most 20      the same on the real commands, with strace
    scripts/torture breaking powercut              make every state that a power cut may leave, and open it
    scripts/torture breaking faults --form npz --verb set

A checkpoint must be the old one or the new one, its donor and other files untouched, an error one line, and the next
command must remove what was left. Exit status 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import attempts
import faults
import powercut
import tracing


def main(argv: Sequence[str]) -> None:
    """Do what was asked for, and print a row of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(WHAT))
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--most", type=int, default=1 << 30, help="calls or states of each verb over each format")
    parser.add_argument("--form", help="only this format or layout")
    parser.add_argument("--verb", help="only this verb, as tests/attempts.py calls it")
    args = parser.parse_args(argv)
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    began = time.monotonic()
    row, troubles = WHAT[args.what](args)
    for trouble in troubles:
        print(trouble)
    lost = "nothing" if not troubles else f"{len(troubles)} troubles"
    print(f"| {row} | {lost} | {(time.monotonic() - began) / 60:.0f} |")
    sys.exit(1 if troubles else 0)


def _attempts(args: argparse.Namespace) -> Iterator[tuple[str, attempts.Attempt]]:
    """Yield each verb over each format: its name, and an attempt in a folder that is removed afterwards."""
    for form in attempts.FORMS:
        for verb in attempts.VERBS:
            if (form, verb) in attempts.NOT or args.form not in (None, form) or args.verb not in (None, verb):
                continue
            home = Path(tempfile.mkdtemp(prefix="torture-"))
            attempt = attempts.Attempt(home, form, verb)
            if attempt.clean[0]:
                sys.exit(f"{form}, {verb}: {attempt.clean[1]}")
            yield f"{form}, {verb}", attempt
            shutil.rmtree(home)


def faulted(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Let each call fail once, with each error, and from then on."""
    tried, pairs, troubles = 0, 0, []
    for name, attempt in _attempts(args):
        pairs += 1
        for turn, at in enumerate(faults.sampled(len(attempt.calls), args.most, args.seed + pairs)):
            for number, kind in enumerate(faults.KINDS if args.most >= 1 << 30 else (faults.KINDS[turn % 5],)):
                fault = faults.Faults(attempt.folder, at, kind, forever=(turn + number) % 2 == 1)
                attempt.restart()
                with fault:
                    outcome = faults.run(*attempt.command)
                where = f"{name}: {kind} at call {at} ({fault.failed}{'…' if fault.forever else ''})"
                troubles += [f"{where}: {each}" for each in attempt.trouble(fault, outcome)]
                tried += 1
    return f"calls that fail, in the process | {tried} faults in {pairs} pairs of verb and format", troubles


def traced(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Let system calls of the real commands fail."""
    if not tracing.available():
        sys.exit("torture: strace is not installed here, or may not trace: this part was skipped")
    tried, pairs, troubles = 0, 0, []
    for name, attempt in _attempts(args):
        pairs += 1
        attempt.restart()
        calls = tracing.calls(attempt.command, attempt.folder, attempt.folder.parent / "strace.log")
        for turn, at in enumerate(faults.sampled(len(calls), args.most, args.seed + pairs)):
            (call, number), kind = calls[at], tracing.KINDS[(turn + pairs) % len(tracing.KINDS)]
            forever = turn % 2 == 1 and kind != "EINTR"  # that is tried again and again
            attempt.restart()
            outcome = tracing.run(attempt.command, call, kind, number, forever)
            where = f"{name}: {kind} at {call} number {number}{'+' if forever else ''}"
            troubles += [f"{where}: {each}" for each in attempt.trouble(tracing.Fault(kind, call, forever), outcome)]
            tried += 1
    return f"system calls that fail, under strace | {tried} faults in {pairs} pairs of verb and format", troubles


def cut(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Make the states that a power cut may leave."""
    tried, pairs, troubles = 0, 0, []
    for name, attempt in _attempts(args):
        pairs += 1
        attempt.restart()
        with powercut.Recorder(attempt.folder) as recorder:
            faults.run(*attempt.command)
        states = list(recorder.states.values())
        for at in faults.sampled(len(states), args.most, args.seed):
            shutil.rmtree(attempt.folder)
            powercut.make(attempt.folder, states[at])
            found = attempt.state()
            tried += 1
            if found not in ("old", "new"):
                troubles.append(f"{name}: state {at}: {found}")
    return f"power cuts | {tried} states of {pairs} pairs of verb and format", troubles


WHAT = {"faults": faulted, "strace": traced, "powercut": cut}
