"""A ring that is operated on while it trains, and whose processes are killed at random moments.

    scripts/torture surgery                      50 kills
    scripts/torture surgery --kills 500 --seed 7
    scripts/torture surgery --schedule average
    scripts/torture surgery --trainer 'trainer = "net.py:model"' --trainer 'format = "weights.h5"'

Three models train with a learning rate that falls as a cosine; their trunk grows by a stage and is frozen at the end.
Between the rounds, heads are set by hand, an edit is undone, ring.toml gets another learning rate, and a fourth model
joins. Drivers, workers or all of them at once get signal 9. The run must end with the same bytes as one that was
operated on at the same rounds and not disturbed; exit status 1 if it does not, and its folder is kept.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ring_support import drive, history, promised, write_ring
from torture import torment

import ckptsurgeon
from ckptsurgeon import formats, schemes
from ckptsurgeon.ring import start

_RATE = '{ schedule = "cosine", start = 0.2, rounds = 40, end = 0.01 }'


def set_heads(folder: Path) -> None:
    """Set the last variable of a and of c by hand; twice that of a."""
    for name, value in (("a", 0.7), ("c", -0.2), ("a", 0.3)):
        ckptsurgeon.set(_latest(folder, name), _last_variable(folder, name), value)


def set_and_undo(folder: Path) -> None:
    """Set one of b, and undo it; set one of a that stays."""
    for name, value in (("a", 0.1), ("b", 0.5)):
        ckptsurgeon.set(_latest(folder, name), _last_variable(folder, name), value, backup=True)
    ckptsurgeon.undo(_latest(folder, "b"))


def lower_rate(folder: Path) -> None:
    """Write another learning rate into ring.toml."""
    text = (folder / "ring.toml").read_text()
    (folder / "ring.toml").write_text(text.replace(_RATE, '{ schedule = "step", start = 0.05, every = 2 }'))


def add_model(folder: Path) -> None:
    """Let a model d join, with a copy of c's weights."""
    latest = _latest(folder, "c")
    given = folder / f"given{latest.name.partition('.ckpt-')[2].lstrip('0123456789')}"
    ckptsurgeon.cp(latest, given)
    text = (folder / "ring.toml").read_text()
    table = text[text.rindex("[[models]]") :].replace('"c"', '"d"')
    (folder / "ring.toml").write_text(f'{text}{table}init = "{given.name}"\n')


# What is done, in this order, after equal numbers of rounds.
OPERATIONS: Sequence[Callable[[Path], None]] = (set_heads, add_model, set_and_undo, lower_rate)


def make(folder: Path, rounds: int, schedule: str, trainer: Sequence[str] = ()) -> None:
    """Make a ring.

    Args:
        folder: where.
        rounds: how many it is going to have.
        schedule: "ring" or "average".
        trainer: lines of each model in ring.toml, in place of the NumPy trainer.
    """
    write_ring(folder, rounds, schedule=schedule, freeze=rounds - 1, **{name: {"tries": 10} for name in "abc"})
    text = (folder / "ring.toml").read_text()
    stages = f'stages = [{{ rounds = {rounds // 3}, layers = "0" }}]\nlearning_rate = {_RATE}\n'
    if trainer:
        text = re.sub(r"^worker = .*$", "\n".join(trainer).replace("\\", r"\\"), text, flags=re.MULTILINE)
    (folder / "ring.toml").write_text(stages + text)
    start.init(str(folder))


def operate(folder: Path, rounds: int, run: Callable[[Path, int], None], at_once: int = 1) -> None:
    """Run a ring to its end, and operate on it on the way.

    Args:
        folder: the ring.
        rounds: how many it has.
        run: drives it up to a number of rounds.
        at_once: the number of operations between two runs.
    """
    stops = range(0, len(OPERATIONS), at_once)
    for number, first in enumerate(stops, start=1):
        run(folder, rounds * number // (len(stops) + 1))
        for operation in OPERATIONS[first : first + at_once]:
            operation(folder)
    run(folder, rounds)


def undisturbed(folder: Path, rounds: int) -> None:
    """Drive a ring up to a number of rounds."""
    with drive(folder, rounds) as driver:
        _, errors = driver.communicate()
    assert driver.returncode == 0, errors


class Tormented:
    """Drives rings, with processes killed at random.

    Args:
        kills: at most so many from one operation to the next.
        chance: chooses victims and moments.
    """

    def __init__(self, kills: int, chance: random.Random) -> None:
        self._each = kills
        self._chance = chance
        self.kills = Counter[str]()

    def __call__(self, folder: Path, rounds: int) -> None:
        """Drive a ring up to a number of rounds."""
        self.kills += torment(folder, lambda: drive(folder, rounds), self._each, self._chance, every=8)


def _latest(folder: Path, name: str) -> Path:
    return next(
        path.with_suffix("") if path.suffix == ".index" else path
        for path in sorted((folder / name).glob(f"model.ckpt-{history(folder).latest(name)}.*"), reverse=True)
        if ".data-" not in path.name
    )


def _last_variable(folder: Path, name: str) -> str:
    """Return the name of the last float variable that is not a slot."""
    with formats.open(str(_latest(folder, name))) as checkpoint:
        slots = schemes.slots(checkpoint)
        floats = [v.name for v in checkpoint.variables.values() if v.dtype == "float32" and v.shape]
        return sorted(name for name in floats if name not in slots)[-1]


def main(arguments: Sequence[str]) -> None:
    """Torment rings until there were enough kills."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="in all (default: 50)")
    parser.add_argument("--rounds", type=int, default=15, help="of a run (default: 15)")
    parser.add_argument("--schedule", choices=("ring", "average"), default="ring")
    parser.add_argument("--trainer", action="append", default=[], metavar="LINE", help="of each model in ring.toml")
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims (default: 0)")
    args = parser.parse_args(arguments)
    root = Path(tempfile.mkdtemp(prefix="surgery-"))
    fresh, whole = root / "fresh", root / "whole"
    make(fresh, args.rounds, args.schedule, args.trainer)
    shutil.copytree(fresh, whole)
    operate(whole, args.rounds, undisturbed)
    wanted, chance, began = promised(whole), random.Random(args.seed), time.monotonic()
    kills, runs = Counter[str](), 0
    while kills.total() < args.kills:
        ring = root / f"run-{runs}"
        shutil.copytree(fresh, ring)
        tormented = Tormented(min(5, -(-(args.kills - kills.total()) // 5)), chance)
        operate(ring, args.rounds, tormented)
        runs, kills = runs + 1, kills + tormented.kills
        same = promised(ring) == wanted
        told = ", ".join(f"{count} of {who}" for who, count in sorted(kills.items()))
        print(f"run {runs}: {'the same bytes' if same else 'OTHER BYTES'}; kills so far: {told}", flush=True)
        if not same:
            sys.exit(f"{ring} does not end as {whole} does")
        shutil.rmtree(ring)
    shutil.rmtree(root)
    seconds = time.monotonic() - began
    print(f"{kills.total()} kills in {runs} runs of {args.rounds} rounds, {seconds:.0f} s: all the same")
