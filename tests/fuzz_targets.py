"""All targets of the fuzzer: the checkpoints of `fuzzing`, and the texts of a ring.

A text is a file of a run, or what a trainer says. Besides what holds for every target, what is let in must be kept: the
metrics that a trainer's answer gave are read again from the line of the journal that they are written to.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fuzzing
from fuzzing import Files, Target, mutate_bytes
from ring_support import FULL

from ckptsurgeon.errors import DamagedError, TrainerError
from ckptsurgeon.names import Pattern
from ckptsurgeon.ring import history, journal, lines, replaying
from ckptsurgeon.ring.folder import Folder
from ckptsurgeon.ring.reporting import status
from ckptsurgeon.ring.schedule import Schedule
from ckptsurgeon.ring.spec import loading, template
from ckptsurgeon.ring.trainers.messages import json_object, metrics_of_answer

MODELS = ("a", "b")
STEPS = Schedule(MODELS)
TOKENS = (
    b"1" + b"0" * 400, b"0x" + b"f" * 5000, b"[" * 900, b'{"a":' * 900, b"1e999", b"-1e999", b"NaN", b"Infinity",
    b"null", b'"\\ud800"', b"[]", b"{}", b"-1", b"true", b'""', b"1979-05-27", b"[[models]]\n",
    b"9223372036854775808", b"\xff", b"\n",
)  # fmt: skip

HEAD = journal.Head({"models": [{"name": name} for name in MODELS]}, "d", {"numpy": "2"}, dict.fromkeys(MODELS, "0"))


class Text(Target):
    """A target of texts.

    Args:
        name: its name, and that of its file.
        seeds: sound texts.
        use: what is done with one.
    """

    def __init__(self, name: str, seeds: list[bytes], use: Callable[[bytes], object]) -> None:
        super().__init__(name, lambda: [{name: text} for text in seeds], self._changed, path=name)
        self._use = use

    def _changed(self, rng: random.Random, files: Files) -> Files:
        text = files[self.name]
        if rng.random() < 0.3:
            at = rng.randrange(len(text) + 1)
            return {self.name: text[:at] + rng.choice(TOKENS) + text[at + rng.choice((0, 0, 1, 4)) :]}
        return {self.name: mutate_bytes(rng, text, rng.choice(TOKENS))}

    def calls(self, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
        """What is done with a text."""
        path = folder / self.path
        yield self.name, lambda: self._use(path.read_bytes() if path.exists() else b"")


def record(number: int, metrics: dict[str, Any]) -> lines.Record:
    """A finished step."""
    step = STEPS.step(number)
    change = dict.fromkeys(MODELS, 0.5) if step.last else None
    checkpoint = f"{step.model}/model.ckpt-{number}"
    return lines.Record(step, "a/model.ckpt-0", checkpoint, "0", metrics, lines.Measured(change), 1)


def _spec(text: bytes) -> None:
    """Any ring.toml is a spec, which is written and read back as it is, or lines that name its mistakes."""
    try:
        table = loading.tomllib.loads(text.decode())
    except (ValueError, RecursionError):
        raise DamagedError("not TOML") from None
    spec = loading.parse(table)
    if spec.data is not None:
        assert loading.parse(loading.tomllib.loads(template.render(spec))) == spec, "it is not what was written"


def _journal(text: bytes) -> None:
    found = journal.parse(io.BytesIO(text))
    if found is None:
        raise DamagedError("no head")
    assert found.length <= len(text), "more was read than there is"
    for name in found.history.models:
        found.history.loss(name)
        found.history.kept(name, 5)
        found.history.learning_rate(name, found.history.round + 1)
    assert found.suffixes.keys() > {*found.history.models}
    again = journal.parse(io.BytesIO(text[: found.length]))
    assert again is not None
    assert again.history.step == found.history.step, "whole lines are not read alike"


def _answer(text: bytes) -> None:
    """What is let in can be journalled, and read again."""
    if not text.startswith(b"{"):
        raise TrainerError("talk")
    metrics = metrics_of_answer(text.partition(b"\n")[0], 1)
    line = record(1, metrics).line()
    past = history.History(STEPS, dict.fromkeys(MODELS, "0"))
    replaying.replay(line, past)
    past.loss("a")
    assert line.count(b"\n") == 1, "not one line of a journal"
    assert len(line) < 4 << 20, "too long for a line of a journal"


def _metrics(text: bytes) -> None:
    metrics = json_object(text)
    if metrics is None:
        raise TrainerError("not an object")
    record(1, metrics).line()


class _Status(Text):
    def calls(self, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
        def look() -> None:
            (folder / "journal.jsonl").write_bytes(HEAD.line())
            report = status.report(Folder.at(str(folder)))
            assert report["pid"] is None or report["pid"] > 0
            assert isinstance(report["state"], str)
            if not status.read(Folder.at(str(folder))):
                raise DamagedError("nothing of it was used")

        yield self.name, look


def _patterns(text: bytes) -> None:
    """A pattern and names: a pattern either matches and gives as many spans as it has wildcards, or it does not."""
    pattern, *names = text.decode(errors="surrogateescape").split("\n")
    made = Pattern(pattern[:200])
    matched = False
    for name in names:
        spans = made.spans(name)
        assert bool(made.matches(name)) == (spans is not None), "it matches, or has no spans"
        if spans is not None:
            matched = True
            ends = [at for span in spans for at in span]
            assert ends == sorted(ends), "spans overlap"
            assert len(spans) == len(made.tokens), "a wildcard has no span"
    if not matched:
        raise DamagedError("nothing matches")


RECORDS = HEAD.line() + b"".join(record(number, {"loss": 0.5}).line() for number in range(1, 9))
SPEC = {
    "models": [
        {"name": "a"},
        {"name": "b", "learning_rate": {"schedule": "cosine", "start": 1, "rounds": 9, "end": 0}},
        {"name": "c"},
    ],
    "stages": [{"rounds": 2, "layers": "0"}],
    "freeze": 5,
}
CHANGED = (
    RECORDS
    + lines.Edit(8, 2, "a", "a/model.ckpt-8", "1", "0").line()
    + lines.Settings(8, 3, {"freeze": "was null, is 5"}, SPEC, {"c": "0"}, {"c": {"w": ("float32", (2,))}}).line()
)
RING = (
    Text("ring.toml", [FULL.encode()], _spec),
    Text("journal", [RECORDS, CHANGED, HEAD.line()], _journal),
    Text("answer", [b'{"step": 1, "metrics": {"loss": 0.5, "a": [1, {"b": "c"}]}}\n'], _answer),
    Text("metrics", [b'{"loss": 0.5, "accuracy": [1, null]}'], _metrics),
    _Status("status.json", [b'{"pid": 77, "state": "failed", "reason": "x", "workers": {"a": 1}}'], lambda text: None),
    Text("patterns", [b"**/a*/{K}/**\nx/ab/12/c\ny\n", b"*a*b?\naabbb\n\n//\n", b"**\na"], _patterns),
)
TARGETS = {**fuzzing.TARGETS, **{target.name: target for target in RING}}
