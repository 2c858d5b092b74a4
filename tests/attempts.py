"""Verbs over formats, to be broken on purpose: where each begins, what it must leave, and what is wrong with that."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import faults
import models
import tracing

from ckptsurgeon.errors import CkptSurgeonError

ARRAYS = {seed: models.skflow_arrays(seed, units=(3, 2), features=2) for seed in (1, 2, 3)}
BIAS, MATRIX = "dnn/layer0/Linear/Bias", "dnn/layer0/Linear/Matrix"
OTHER = "notes.txt"  # somebody's file in the same folder


class SavedModelForm(models.Form):
    """A SavedModel folder around a bundle."""

    def write(self, path: Path, arrays: models.Arrays) -> str:
        """As `Form.write`."""
        (path / "variables").mkdir(parents=True)
        (path / "saved_model.pb").write_bytes(b"\x08\x01")
        models.write_as(path / "variables" / "variables", arrays)
        return str(path)


FORMS: dict[str, models.Form] = {
    **models.FORMS,
    "saved-model": SavedModelForm("saved-model", "bundle"),
}
# Endings that the names of a format need, so that a new one may be called alike.
ENDINGS = {
    "safetensors": ".safetensors",
    "npz": ".npz",
    "h5": ".h5",
    "legacy": ".h5",
    "weights": ".weights.h5",
    "keras": ".keras",
}
SETS = ("safetensors-set", "weights-set")
# What is done: with {a} and {b} two checkpoints of the form, {out} a new one, {old} one that is replaced; and whose
# state it changes.
VERBS = {
    "graft": (("graft", "{a}", "{b}", "--match", "{matrix}", "--slots", "keep"), "b"),
    "set": (("set", "{b}", "{bias}[0]", "7.5"), "b"),
    "rename": (("rename", "{b}", "{matrix}={renamed}", "--anyway"), "b"),
    "drop": (("drop", "{b}", "{dropped}", "--anyway"), "b"),
    "drop compact": (("drop", "{b}", "{dropped}", "--compact", "--anyway"), "b"),
    "cast": (("cast", "{b}", "float16", "--match", "{matrix}"), "b"),
    "graft to a new one": (("graft", "{a}", "{b}", "--match", "{matrix}", "-o", "{out}"), "out"),
    "extract": (("extract", "{a}", "--match", "{matrix}", "-o", "{out}", "--anyway"), "out"),
    "average": (("average", "{a}", "{b}", "-o", "{out}"), "out"),
    "copy": (("cp", "{a}", "{out}"), "out"),
    "copy over an old one": (("cp", "{a}", "{old}", "--force"), "old"),
    "drop over an old one": (("drop", "{a}", "{dropped}", "-o", "{old}", "--force", "--anyway"), "old"),
    "convert": (("convert", "{a}", "{npz}", "--to", "npz"), "npz"),
}
REPEATABLE = ("graft", "set", "cast", "copy over an old one", "drop over an old one")
# What a form refuses by itself: a set of files is not replaced, and some layouts hold no other names or dtypes.
NOT = {
    **{(form, verb): True for form in SETS for verb in ("rename", "drop", "drop compact", "cast", "graft to a new one",
                                                        "extract", "average", "copy over an old one",
                                                        "drop over an old one")},
}  # fmt: skip


class Attempt:
    """A command on checkpoints of a form, in a folder of its own.

    Args:
        home: an empty folder, where the initial state is kept.
        form: the name of the form.
        verb: the name of the verb.

    Attributes:
        command: the arguments.
        old: the values of the result before; None if it does not exist.
        new: its values afterwards.
    """

    def __init__(self, home: Path, form: str, verb: str) -> None:
        self.form, self.verb, self.template, self.folder = FORMS[form], verb, home / "template", home / "work"
        args, self.target = VERBS[verb]
        self.template.mkdir(parents=True)
        ending = ENDINGS.get(form, "")
        names = {name: name + ending for name in ("a", "b", "old", "out")}
        for seed, name in enumerate(("a", "b", "old"), 1):
            self.form.write(self.template / names[name], ARRAYS[seed])
        (self.template / OTHER).write_text("somebody's")
        last = self.form.ending
        self.paths = {name: str(self.folder / f"{each}{last}") for name, each in names.items()}
        self.paths["npz"] = str(self.folder / "out.npz")
        called = self.form.called
        self.command = [
            arg.format(**self.paths, matrix=called(MATRIX), bias=called(BIAS), renamed=called("renamed/M"),
                       dropped=called("learning_rate"))
            for arg in args
        ]  # fmt: skip
        self.result = self.paths[self.target]
        self.restart()
        self.before = faults.files_of(self.folder)
        self.old = self.values()
        with faults.Faults(self.folder) as counted:
            done = faults.run(*self.command)
        self.clean = done.status, done.lines
        self.calls = counted.names
        self.after = faults.files_of(self.folder)
        self.new = self.values()

    def restart(self) -> None:
        """Make the folder as it was at first."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.template, self.folder)

    def values(self) -> models.Arrays | None:
        """The values of the result; None if there is none."""
        path = Path(self.result)
        there = os.path.lexists(path) or os.path.lexists(f"{path}.index")
        return models.read(path) if there else None

    def _is(self, found: models.Arrays | None, wanted: models.Arrays | None) -> bool:
        return found is None and wanted is None if found is None or wanted is None else models.equal(found, wanted)

    def state(self) -> str:
        """Whether the result is the `old` one or the `new` one; otherwise what is wrong."""
        try:
            found = self.values()
        except CkptSurgeonError as error:
            return f"a third state: {error}"
        return "old" if self._is(found, self.old) else "new" if self._is(found, self.new) else "a third state"

    def trouble(self, fault: faults.Faults | tracing.Fault, outcome: faults.Outcome) -> Iterator[str]:
        """Yield what is wrong after a command that met a fault.

        Args:
            fault: what was injected.
            outcome: of the command.
        """
        now = faults.files_of(self.folder)
        inputs = {name for name in self.before if not self._belongs(name)}
        if {name: now.get(name) for name in inputs} != {name: self.before[name] for name in inputs}:
            yield "another file was touched"
        try:
            found = self.values() if now != self.before or self.target in ("b", "old") else None
        except CkptSurgeonError as error:
            yield f"a third state: {error}"
            return
        if outcome.status == 0:
            if not self._is(found, self.new):
                yield "exit status 0, but the result is not the new one"
        elif outcome.status == 2:
            if now != self.before:
                if self._is(found, self.old):
                    left = sorted(set(now) - set(self.before))
                    if not left or not all("ckptsurgeon-" in name for name in left):
                        yield f"left behind: {left}"
                elif self._is(found, self.new):
                    yield "exit status 2, but the new one is in place"
                else:
                    yield "a third state"
            if fault.silent:
                pass  # nobody can be told
            elif len(outcome.lines) != 1:
                yield f"{len(outcome.lines)} lines: {outcome.lines}"
            elif not fault.short and os.strerror(getattr(errno, fault.kind)).lower() not in outcome.lines[0]:
                yield f"the error is not named: {outcome.lines[0]}"
            elif "stdout" in outcome.lines[0]:
                yield f"nothing is wrong with stdout: {outcome.lines[0]}"
        else:
            yield f"exit status {outcome.status}: {outcome.lines[-3:]}"
        again = faults.run(*self.command)
        if again.status == 2 and outcome.status == 0 and self.verb not in REPEATABLE:
            again = faults.run("compact", self.result)  # it is done already: the next command is another one
        if again.status != 0:
            yield f"the next run fails: {again.lines}"
        if not self._is(self.values(), self.new):
            yield "the next run does not give the new one"
        now = faults.files_of(self.folder)
        if len(now) > len(self.after) or any("ckptsurgeon-" in name for name in now):
            yield f"the next run leaves {sorted(set(now) - set(self.after))}"

    def _belongs(self, name: str) -> bool:
        """Whether a file may be changed: it is one of the result, or temporary."""
        base = os.path.relpath(self.result, self.folder).removesuffix(self.form.ending)
        return name.startswith(base) and name != OTHER
