"""Compares the checkpoints that a run continues from with its journal, and adopts those that somebody edited.

    as the journal has it                the run continues from it
    changed, but sound and of the same   adopted: a line of kind "edit" gives the journal its new fingerprint, so that
    variables, dtypes and shapes         from then on the run depends on it as on any input
    damaged or missing                   history goes back to the last step after which everything was synced: that of
                                         the last whole round, or of an edit since

In the middle of a round the state files still name the checkpoints of the last whole round, so that an edit of
RING/<model> changes one of those. History then goes back to that round.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Literal

from ... import compare, formats
from ...checkpoint import Checkpoint
from ...errors import CkptSurgeonError, DamagedError, RefusedError
from ..folder import Folder
from ..history import History
from ..journal import Journal
from ..lines import Edit, Variables
from ..schedule import TRUNK
from ..spec.records import Spec
from ..trainers.attempts import differences
from ..weights.trunk import Trunk

# What is wrong with an edited checkpoint whose variables the journal does not list.
_UNKNOWN = "an earlier version began the run, so that an edit cannot be checked"


@dataclass(frozen=True)
class _Found:
    """A checkpoint as it is on disk.

    Attributes:
        model: whose it is.
        step: that wrote it.
        path: the checkpoint.
        state: what became of it since; a 'foreign' one can be read, but the run cannot continue from it.
        problem: what is wrong with it.
        sha256: its fingerprint, if it was edited.
    """

    model: str
    step: int
    path: str
    state: Literal["same", "edited", "foreign", "damaged"]
    problem: str = ""
    sha256: str = ""


class Adoption:
    """Settles which checkpoints a run continues from.

    Args:
        folder: the run.
        spec: ring.toml.
        journal: the locked journal.
        history: the steps done so far; it may go back, and takes in what is adopted.
        warn: is called with lines for the user.
    """

    def __init__(
        self,
        folder: Folder,
        spec: Spec,
        journal: Journal,
        history: History,
        warn: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._spec = spec
        self._journal = journal
        self._history = history
        self._warn = warn

    def settle(self, adopt: bool) -> None:
        """Go back where checkpoints are damaged, then adopt those that were edited.

        Args:
            adopt: whether the run may continue from edited checkpoints.

        Raises:
            DamagedError: checkpoints are missing or damaged, and no whole round is left.
            RefusedError: a checkpoint was edited, and it cannot be adopted or must not be.
        """
        history = self._history
        found = self._intact()
        edited, behind = _edited(found), _edited(self._behind())
        if (edited or behind) and not adopt:
            raise _refusal((edited or behind)[0], "which --no-adopt refuses")
        if behind:
            since = next((each for each in edited if each.step > history.whole_step), None)
            if since is not None:
                raise _refusal(behind[0], f"and so was the later {since.path}; only one of them can be adopted")
            self._go_back(history.whole_step, f"{behind[0].path} was edited")
            edited = _edited(self._found(name, history.latest(name)) for name in history.models)
        if edited:
            self._adopt(edited)
        mean = history.latest(TRUNK)
        if history.step == history.whole_step and mean >= history.schedule.first_step(max(1, history.round)):
            self._check_mean(mean)  # which the last round made; of older steps nothing is remembered

    def _intact(self) -> list[_Found]:
        """Return the latest checkpoints, none of them damaged, after history has gone back if necessary."""
        history, reason, edited = self._history, "", set[tuple[str, int]]()
        for step in dict.fromkeys((history.step, history.safe_step, history.whole_step)):
            found = [self._found(name, history.latest(name, step)) for name in self._read(step)]
            broken = [each.problem for each in found if each.state == "damaged"]
            if not broken:
                if reason:
                    self._go_back(step, reason, edited)
                return found
            reason = reason or broken[0]
            edited |= {(each.model, each.step) for each in found if each.state in ("edited", "foreign")}
        hint = f"start over with: ckptsurgeon ring init {shlex.quote(self._folder.root)} --force"
        raise DamagedError(f"cannot continue: {broken[0]}", path=self._folder.root, hint=hint)

    def _read(self, step: int) -> list[str]:
        """Return whose checkpoints the run reads after a step: the models', and a mean that is still to be grafted."""
        history = self._history
        return [*history.models, *([TRUNK] if history.latest(TRUNK, step) > history.whole_step else [])]

    def _behind(self) -> list[_Found]:
        """Return the changed checkpoints of the last whole round that are no longer the latest ones."""
        history = self._history
        older = [(name, history.whole(name)) for name in history.models if history.whole(name) != history.latest(name)]
        return [self._found(name, step) for name, step in older if not self._is_same(name, step)]

    def _is_same(self, model: str, step: int) -> bool:
        """Return whether a checkpoint has the fingerprint that the journal gives; its values are not read."""
        try:
            with formats.open(self._folder.checkpoint(model, step)) as checkpoint:
                return checkpoint.fingerprint() == self._history.fingerprint(model, step)
        except CkptSurgeonError:
            return False

    def _found(self, model: str, step: int) -> _Found:
        """Compare one checkpoint with the journal, and its bytes with its own checksums."""
        path, known = self._folder.checkpoint(model, step), self._history.variables.get(model)
        try:
            with formats.open(path) as checkpoint:
                sha256 = checkpoint.fingerprint()
                damage = next((each for each in compare.verify(checkpoint) if not each.ok), None)
                if damage is not None:
                    return _Found(model, step, path, "damaged", f"{path}: {damage.problem}")
                if sha256 == self._history.fingerprint(model, step):
                    return _Found(model, step, path, "same")
                if model == TRUNK:  # a mean is made again rather than edited
                    return _Found(model, step, path, "damaged", f"{path}: does not match the journal")
                problem = _UNKNOWN if known is None else _difference(known, checkpoint) or _not_finite(checkpoint)
        except CkptSurgeonError as error:
            return _Found(model, step, path, "damaged", str(error))
        return _Found(model, step, path, "foreign" if problem else "edited", problem, sha256)

    def _go_back(self, step: int, reason: str, edited: Set[tuple[str, int]] = frozenset()) -> None:
        """Take history back, and say what that costs.

        Args:
            step: the last one that remains.
            reason: why.
            edited: checkpoints that were edited and not adopted yet, by model and step.
        """
        history = self._history
        lost = sorted(each for each in {*history.edited, *edited} if each[1] > step)
        edits = "".join(f"; the edit of {self._folder.relative(*each)} is lost" for each in lost)
        self._warn(f"{reason}; going back from step {history.step} to round {history.round}, step {step}{edits}")
        history.rewind(step)

    def _adopt(self, edited: Sequence[_Found]) -> None:
        """Make edited checkpoints part of history; all latest ones are on the disk before the journal depends on it."""
        history, folder = self._history, self._folder
        formats.sync(*(folder.checkpoint(name, history.latest(name)) for name in self._read(history.step)))
        for each in edited:
            place = folder.relative(each.model, each.step)
            before = history.fingerprint(each.model, each.step)
            edit = Edit(history.step, history.round, each.model, place, each.sha256, before)
            self._journal.append(edit, sync=True)
            history.edit(edit)
            self._warn(f"{place} was edited; model {each.model} continues from it")
        self._tell_what_is_overwritten([each.model for each in edited])

    def _tell_what_is_overwritten(self, edited: Sequence[str]) -> None:
        """Warn of edited trunks that the next round replaces: in a ring, only the first model's goes to the others."""
        history, part = self._history, self._history.schedule.part(self._history.round + 1)
        names, edited = part.models, [name for name in edited if name in part.models]
        if history.step != history.whole_step or not any(donor in names for _, _, donor in part.steps):
            return
        latest = {name: self._folder.checkpoint(name, history.latest(name)) for name in names}
        trunk = Trunk(self._spec.during(part), latest)
        vectors = {}
        for name in {names[0], *edited}:
            with formats.open(latest[name]) as checkpoint:
                vectors[name] = trunk.vector(name, checkpoint).tobytes()
        for name in edited:
            if vectors[name] != vectors[names[0]]:
                self._warn(
                    f"the next round replaces the trunk of {name} by that of {names[0]}; edit {names[0]} instead"
                )

    def _check_mean(self, step: int) -> None:
        """Warn if the last mean of all trunks was edited, which no model reads any more."""
        if step and not self._is_same(TRUNK, step):
            path = self._folder.checkpoint(TRUNK, step)
            averages = any(
                kind == "average" for kind, _, _ in self._history.schedule.part(self._history.round + 1).steps
            )
            why = "the next round averages the models" if averages else "the trunk stays as it is in the models"
            self._warn(f"{path} was changed, which has no effect: {why}; edit those")


def _edited(found: Iterable[_Found]) -> list[_Found]:
    """Return the edited ones; RefusedError if the run cannot continue from one of them."""
    edited = [each for each in found if each.state in ("edited", "foreign")]
    for each in edited:
        if each.state == "foreign":
            raise _refusal(each, f"and the run cannot continue from it: {each.problem}")
    return edited


def _refusal(found: _Found, what: str) -> RefusedError:
    hint = "bring back what was there (ckptsurgeon undo does, after an edit with --backup)"
    return RefusedError(f"was edited, {what}", path=found.path, hint=hint)


def _difference(known: Variables, checkpoint: Checkpoint) -> str:
    """Return how the variables of a checkpoint differ from those of its model; empty if they do not."""
    wanted = {name: (dtype, tuple(shape)) for name, (dtype, shape) in known.items()}
    there = {variable.name: (variable.dtype, tuple(variable.shape)) for variable in checkpoint.variables.values()}
    return differences(wanted, there) if wanted != there else ""


def _not_finite(checkpoint: Checkpoint) -> str:
    wrong = next((each for each in compare.verify(checkpoint, finite=True) if not each.ok), None)
    return "" if wrong is None else f"{wrong.name}: {wrong.problem}"
