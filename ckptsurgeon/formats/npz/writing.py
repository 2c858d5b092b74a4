"""Writes NumPy files: carries a plan out in place, or as a new npz or npy file.

Unchanged members are copied as they are, packed or not, with their times, attributes and comments. New members are
stored as `numpy.savez` stores them, little-endian and in C order, with the earliest time stamp that a zip file can
hold. An array from another NumPy file keeps its own header.
"""

from __future__ import annotations

from ... import errors, plain
from ...errors import CkptSurgeonError, RefusedError, UnsupportedError
from ...plan import Copy, Elements, Plan, Result, Text, Values
from ...publish import Lock
from .. import payload
from ..files import replacing, zip_writing, zipped
from ..proving import prover
from .reading import ENDING, Npy, Npz

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..files.replacing import Output

_LONGEST_NAME = 0xFFFF  # bytes, the limit of the zip format


def save_in_place(plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]:
    """Carry a plan out in its recipient, which is locked.

    Returns:
        Warnings.

    Raises:
        UnsupportedError, RefusedError, Problems: the file cannot hold a variable.
        BusyError: another process saved in the meantime; nothing was changed.
        DamagedError: stored bytes to be copied are damaged; the recipient is unharmed.
        StorageError: the operating system refused; the recipient is unharmed.
    """
    recipient = plan.recipient
    writer = _writer(plan, recipient.path, recipient.format)
    prove = prover(recipient.format, plan.results(), recipient.path, recipient.format == "npz")
    return replacing.replace(recipient.main_file, writer.fill, lock, sync, wait, prove)


def save_as(plan: Plan, out: str, format: str, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry a plan out as the new file `out`, `npz` or `npy`, whatever format its recipient has.

    Returns:
        Warnings.

    Raises:
        RefusedError: a checkpoint already exists, and `force` is not set; and as `save_in_place`.
    """
    prove = prover(format, plan.results(), out, format == "npz")
    return replacing.save_as(out, _writer(plan, out, format).fill, force, sync, wait, prove)


def check(plan: Plan, out: str | None, format: str) -> None:
    """Check from its metadata whether a plan can be carried out at `out`, or in its recipient if `out` is None.

    Raises:
        UnsupportedError, RefusedError, Problems: the plan cannot be carried out.
    """
    _writer(plan, out or plan.recipient.path, format)


def _writer(plan: Plan, path: str, format: str) -> _Npz | _Npy:
    results = plan.results()
    if format == "npz":
        return _Npz(plan, results, path)
    if len(results) != 1:
        what = f"an npy file holds one variable, not {len(results)}"
        raise RefusedError(what, path=path, hint="'convert' to npz")
    if any(change.action == "renamed" for change in plan.changes) and isinstance(plan.recipient, Npy):
        raise RefusedError("the variable in an npy file is named after the file", path=path, hint="rename the file")
    return _Npy(results[0], path)


class _Npy:
    """The writer of an npy file."""

    def __init__(self, result: Result, path: str) -> None:
        errors.check(_problems(result, payload.name_of(result), path))
        self.result = result

    def fill(self, output: Output) -> None:
        """Write the file."""
        for chunk in _array(self.result)[1]:
            output.write(chunk)


class _Npz:
    """The writer of an npz file."""

    def __init__(self, plan: Plan, results: list[Result], path: str) -> None:
        self.comment = plan.recipient.comment if isinstance(plan.recipient, Npz) else b""
        self.entries: list[tuple[str, Result, bool]] = []
        problems: list[CkptSurgeonError] = []
        taken: set[str] = set()
        for result in results:
            name, as_it_is = _member_name(result, plan)
            self.entries.append((name, result, as_it_is))
            if as_it_is and name.endswith(ENDING):
                problems.append(RefusedError(f"{name} is not an array, so its name cannot end in .npy", path=path))
            if name in taken:
                problems.append(RefusedError(f"two variables would have the name {name}", path=path))
            taken.add(name)
            problems += _problems(result, name, path)
        if not results:
            problems.append(RefusedError("a checkpoint needs variables", path=path))
        errors.check(problems)

    def fill(self, output: Output) -> None:
        """Write the file."""
        places: list[tuple[zipped.ZipMember, int]] = []
        for name, result, as_it_is in self.entries:
            carried = _carried(result)
            member = _carry(output, carried, name) if carried else _add(output, result, name, as_it_is)
            places.append((member, output.size))
        start = output.size
        at = 0
        for member, end in places:
            output.write(zip_writing.entry(member, at))
            at = end
        output.write(zip_writing.end(len(places), start, output.size - start, self.comment))


def _member_name(result: Result, plan: Plan) -> tuple[str, bool]:
    """The name of the member that holds a result, and whether the member is its plain bytes instead of an array."""
    recipient, old = plan.recipient, result.variable.name
    if not isinstance(recipient, Npz):
        return payload.name_of(result) + ENDING, False
    key = result.key.decode("utf-8", "surrogateescape")
    as_it_is = old in recipient.forms and recipient.forms[old] is None
    if key == old and old in recipient.members:
        return recipient.members[old].text, as_it_is
    return key if as_it_is else key + ENDING, as_it_is


def _carried(result: Result) -> Copy | None:
    """The recipient's own variable, if its member is copied unchanged."""
    content = result.content
    if result.kept and isinstance(content, Copy) and isinstance(content.donor, Npz):
        return content if content.donor.format == "npz" else None
    return None


def _carry(output: Output, content: Copy, name: str) -> zipped.ZipMember:
    donor = content.donor
    assert isinstance(donor, Npz)
    member = donor.members[content.variable.name]
    if name != member.text:
        member = member.renamed(name)
    output.write(zip_writing.local_header(member))
    with errors.files(donor.path):
        for chunk in zipped.packed(donor.bytes_at, member):
            output.write(chunk)
    return member


def _add(output: Output, result: Result, name: str, as_it_is: bool) -> zipped.ZipMember:
    member = zipped.ZipMember(name)
    size, chunks = _array(result, as_it_is)
    return zip_writing.store(output, member, size, chunks)


def _array(result: Result, as_it_is: bool = False) -> tuple[int, Iterator[bytes]]:
    """Length and bytes of an array file; with `as_it_is`, only the bytes of a scalar string."""
    content, variable = result.content, result.variable
    if isinstance(content, Copy) and isinstance(content.donor, Npz):
        donor, name = content.donor, content.variable.name
        if (donor.forms[name] is None) == as_it_is:
            return donor.members[name].size, donor.content(name)
    if variable.dtype == "string":
        return _strings(result, as_it_is)
    head = plain.header(plain.descr_of(variable.dtype) or "", variable.shape)
    values = payload.chunks(content, variable)
    from ...checkpoint import ITEM_SIZE

    return len(head) + variable.size * ITEM_SIZE[variable.dtype], _joined(head, values)


def _strings(result: Result, as_it_is: bool) -> tuple[int, Iterator[bytes]]:
    """Length and bytes of an array file of strings, each padded with zero bytes to the longest one's length."""
    content, name = result.content, result.variable.name
    if isinstance(content, Text):
        strings = [content.value]
    else:
        from ..bundle.arrays import values_of

        assert isinstance(content, Copy | Values | Elements)
        strings = values_of(content, result.variable).reshape(-1).tolist()
    if as_it_is and len(strings) == 1:
        return len(strings[0]), iter(strings)
    if any(string.endswith(b"\0") for string in strings):
        raise UnsupportedError(f"{name}: a string ends in a zero byte, which NumPy files would lose")
    item = max(map(len, strings), default=1) or 1
    head = plain.header(f"|S{item}", result.variable.shape)
    return len(head) + item * len(strings), _joined(head, (string.ljust(item, b"\0") for string in strings))


def _joined(head: bytes, chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from chunks


def _problems(result: Result, name: str, path: str) -> list[CkptSurgeonError]:
    """The problems that prevent a result from being stored under a name."""
    found: list[CkptSurgeonError] = []
    dtype, content = result.variable.dtype, result.content
    from_same = isinstance(content, Copy) and isinstance(content.donor, Npz)
    if dtype == "object" and not result.kept:
        what = f"{payload.name_of(result)}: pickled Python objects, which are never copied"
        found.append(UnsupportedError(what, path=path))
    elif not from_same and dtype != "string" and plain.descr_of(dtype) is None:
        what = f"{payload.name_of(result)}: NumPy files cannot represent {dtype}"
        found.append(UnsupportedError(what, path=path, hint="cast it, or use safetensors"))
    try:
        problem = zipped.name_problem(name)
        if len(name.encode()) > _LONGEST_NAME:
            problem = "is too long"
    except UnicodeEncodeError:
        problem = "is not valid text"
    if problem:
        found.append(RefusedError(f"invalid name for a zip member: it {problem}", path=path, found=name))
    return found
