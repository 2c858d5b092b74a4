"""Writes HDF5 and Keras zip files: carries out a plan in place or as a new file.

Everything that the plan does not change is kept: attributes, empty groups, creation properties of datasets, and the
other members of a zip file byte for byte with their times. A file of a set can be replaced in place if it is the only
one that changes and no names change; written as a new file, a set becomes one file.
"""

from __future__ import annotations

import os

from ... import errors
from ...checkpoint import CHUNK
from ...errors import ChangedError, RefusedError, UsageError
from ...plan import Change, Copy, Plan
from ...publish import Lock, overtaken
from ...source import local
from ..files import replacing, zip_writing, zipped
from ..proving import prover
from .archive import KerasZip
from .edits import Edits
from .reading import Hdf5

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ...errors import CkptSurgeonError
    from ..files.replacing import Output


def save_in_place(plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]:
    """Carry out a plan in its recipient, which is locked: a single file, or the only file of a set that changes.

    Returns:
        Warnings.

    Raises:
        RefusedError: several files of a set would change, which no single rename replaces; or the file cannot hold the
            result.
        BusyError: another process saved in the meantime; nothing was changed.
        DamagedError: stored bytes that are to be copied are damaged; the recipient is unharmed.
        StorageError: the operating system refused; the recipient is unharmed.
    """
    edits, recipient = _in_place(plan), plan.recipient
    if isinstance(recipient, KerasZip):
        prove = prover("keras-zip", edits.results, recipient.path)
        return replacing.replace(recipient.main_file, _Zip(edits, recipient).fill, lock, sync, wait, prove)
    assert isinstance(recipient, Hdf5)
    if recipient.main_file in recipient.files:
        fill, prove = _filler(edits, recipient.main_file), prover("hdf5", edits.results, recipient.path)
        return replacing.replace(recipient.main_file, fill, lock, sync, wait, prove)
    number = next(iter(edits.changed))
    file = recipient.files[number]
    with Lock(file, wait) as own:
        own.before_replace = lock.before_replace
        if not os.path.samestat(os.fstat(own.fd), local(recipient.file(file)).status):
            raise ChangedError("was replaced while it was read; try again", path=recipient.path)

        def fill(output: Output) -> None:
            _copy(edits.of_part(number), output)
            if not lock.holds() or recipient.was_replaced():
                raise overtaken(recipient.path)

        held = [each for each in edits.results if recipient.listing.datasets[each.variable.name].part == number]
        return replacing.replace(file, fill, own, sync, wait, prover("hdf5", held, recipient.path))


def save_as(plan: Plan, out: str, format: str, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry out a plan as the new file `out`.

    Args:
        plan: the plan.
        out: path of the new file.
        format: "hdf5", or "keras-zip" if the recipient is a Keras zip file.
        force: replace an existing checkpoint.
        sync: wait until everything is on the disk.
        wait: seconds to wait for another writer.

    Returns:
        Warnings.

    Raises:
        UsageError: the recipient is not such a file, so the layout is unknown; the weights of a Keras zip file can be
            written as HDF5.
        RefusedError: a checkpoint exists at `out`, and `force` is not set.
        UnsupportedError: such a file cannot hold a variable.
        Problems: several such errors.
    """
    edits, recipient = _as_new(plan, format), plan.recipient
    if isinstance(recipient, KerasZip) and format == "keras-zip":
        prove = prover(format, edits.results, out)
        return replacing.save_as(out, _Zip(edits, recipient).fill, force, sync, wait, prove)
    return replacing.save_as(out, _filler(edits, out), force, sync, wait, prover(format, edits.results, out))


def check(plan: Plan, out: str | None, format: str) -> None:
    """Check from the metadata whether `save_in_place`, or `save_as` if `out` is given, can carry out a plan.

    Raises:
        UsageError, UnsupportedError, RefusedError, Problems: as `save_in_place` and `save_as`.
    """
    edits = _in_place(plan) if out is None else _as_new(plan, format)
    if edits.renames:
        edits.arrangement()


def _in_place(plan: Plan) -> Edits:
    """Return the edits to the recipient, if a single rename can replace it."""
    edits, recipient = Edits(plan), plan.recipient
    assert isinstance(recipient, Hdf5)
    if isinstance(recipient, KerasZip):
        _check_zip(edits, recipient)
    elif recipient.main_file not in recipient.files and not plan.changes_nothing:
        if len(edits.changed) != 1 or edits.renames:
            what = f"{len(edits.changed)} files" if not edits.renames else "names or dtypes, and so the index,"
            raise RefusedError(f"{what} of a set cannot be replaced in place", path=recipient.path, hint="use -o OUT")
        if edits.anew:
            what = "compressed values in a set of files cannot be replaced in place"
            raise RefusedError(what, path=recipient.path, hint="use -o OUT")
    return edits


def _as_new(plan: Plan, format: str) -> Edits:
    """Return the edits for a new file, if the recipient determines its layout."""
    recipient = plan.recipient
    if not isinstance(recipient, Hdf5) or (format == "keras-zip" and not isinstance(recipient, KerasZip)):
        hint = "--like TEMPLATE names a Keras file whose layout and names to use"
        raise UsageError("cannot tell how a Keras file should name these variables", path=recipient.path, hint=hint)
    edits = Edits(plan)
    if isinstance(recipient, KerasZip) and format == "keras-zip":
        _check_zip(edits, recipient)
    return edits


def _check_zip(edits: Edits, file: KerasZip) -> None:
    if len(file.parts) > 1 and edits.anew:
        what = "cannot change names or dtypes in a Keras file with several weights files"
        raise RefusedError(what, path=file.path, hint="'convert' its weights to safetensors or npz")


def like(plan: Plan, template: Hdf5) -> tuple[Plan, list[str]]:
    """Make a plan that puts the results of another plan into a copy of a Keras file, the template.

    Args:
        plan: its results have the names of the template.
        template: the Keras file, open.

    Returns:
        The plan, and warnings: how many of the template's optimizer variables keep their values.

    Raises:
        RefusedError, Problems: the variables of the two differ.
    """
    from ... import schemes
    from .. import payload

    optimizers = schemes.optimizer_variables(template)
    problems: list[CkptSurgeonError] = []
    changes: list[Change] = []
    there: set[str] = set()
    for result in plan.results():
        name, target = payload.name_of(result), template.find(payload.name_of(result))
        if target is None:
            problems.append(RefusedError(f"the template has no variable {name}", path=template.path, hint="use --map"))
            continue
        there.add(target.name)
        form = result.variable
        if (target.dtype, target.shape) != (form.dtype, form.shape):
            expected, found = f"{target.dtype} {list(target.shape)}", f"{form.dtype} {list(form.shape)}"
            what = f"{name} has a different dtype or shape than in the template"
            problems.append(RefusedError(what, path=template.path, expected=expected, found=found))
        content = result.content
        if isinstance(content, Copy) and result.kept:
            content = Copy(plan.recipient, content.variable)
        changes.append(Change("grafted", target, content, name))
    left = [name for name in template.variables if name not in there]
    missing = [name for name in left if name not in optimizers]
    problems += [RefusedError(f"no value for {name} of the template", path=template.path) for name in missing]
    errors.check(problems)
    kept = f"{template.path}: {len(left)} optimizer variables keep the template's values"
    return Plan(template, changes), [kept] if left else []


def _filler(edits: Edits, beside: str) -> replacing.Fill:
    """Return the function that writes a plain HDF5 file."""

    def fill(output: Output) -> None:
        if not edits.anew and len(edits.file.parts) == 1:
            _copy(edits.of_part(0), output)
            return
        fd = edits.whole(beside)
        try:
            with errors.files(beside):
                _copy(_chunks(fd), output)
        finally:
            os.close(fd)

    return fill


def _chunks(fd: int) -> Iterator[bytes]:
    at = 0
    while chunk := os.pread(fd, CHUNK, at):
        at += len(chunk)
        yield chunk


def _copy(chunks: Iterator[bytes], output: Output) -> None:
    for chunk in chunks:
        output.write(chunk)


class _Zip:
    """The writer of a Keras zip file."""

    def __init__(self, edits: Edits, file: KerasZip) -> None:
        self.edits = edits
        self.file = file

    def fill(self, output: Output) -> None:
        """Write the file."""
        numbers = {member.text: number for number, member in enumerate(self.file.weights)}
        places: list[tuple[zipped.ZipMember, int]] = []
        for member in self.file.members:
            number = numbers.get(member.text, -1)
            if number in self.edits.changed or (number >= 0 and self.edits.anew):
                member = self._weights(member, number, output)
            else:
                output.write(zip_writing.local_header(member))
                with errors.files(self.file.path):
                    for chunk in zipped.packed(self.file.bytes_at, member):
                        output.write(chunk)
            places.append((member, output.size))
        start, at = output.size, 0
        for member, end in places:
            output.write(zip_writing.entry(member, at))
            at = end
        output.write(zip_writing.end(len(places), start, output.size - start, self.file.comment))

    def _weights(self, old: zipped.ZipMember, number: int, output: Output) -> zipped.ZipMember:
        """Write a weights file, stored as Keras stores it."""
        if not self.edits.anew:
            return self._store(old, self.file.parts[number].size, self.edits.of_part(number), output)
        fd = self.edits.whole(output.path)
        try:
            with errors.files(output.path):
                return self._store(old, os.fstat(fd).st_size, _chunks(fd), output)
        finally:
            os.close(fd)

    def _store(self, old: zipped.ZipMember, size: int, chunks: Iterator[bytes], output: Output) -> zipped.ZipMember:
        member = old.renamed(old.text)
        member.method, member.flags, member.name = zipped.STORED, old.flags, old.name
        return zip_writing.store(output, member, size, chunks)
