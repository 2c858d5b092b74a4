"""Writes safetensors: carries a plan out in place, as a new file, or as a stream.

The header needs no values, only sizes, so a checkpoint is written from its first byte to its last, a chunk at a time.
Variables stay in the recipient's order if that aligns every number, as PyTorch requires; otherwise, and if the
recipient has another format, they are sorted as the library sorts them: by dtype, the widest first, then by name.
Metadata are copied unchanged, except that layer numbers follow renamed and dropped variables.
"""

from __future__ import annotations

import json
import os

from ... import errors
from ...checkpoint import CHUNK
from ...errors import ChangedError, CkptSurgeonError, RefusedError, UnsupportedError
from ...plan import Copy, Plan, Result
from ...publish import Lock, overtaken
from ...source import local
from .. import payload
from ..files import replacing
from ..proving import prover
from .reading import BITS, KINDS, LAYERS, MAX_HEADER, METADATA, SafeTensors

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_CODES = {dtype: code for code, (dtype, _) in KINDS.items()}
_RANKS = {dtype: rank for rank, dtype in enumerate(BITS)}
_ALIGNMENT = 8  # of the first value: the library pads its header to this


def save_in_place(plan: Plan, lock: Lock, sync: bool, wait: float) -> list[str]:
    """Carry a plan out in its recipient, which is locked: rewrite its file, or the only file of a set that changes.

    Returns:
        Warnings.

    Raises:
        RefusedError: several files of a set would change, which a single rename cannot replace; or no safetensors file
            can hold the result.
        BusyError: another process saved in the meantime; nothing was changed.
        DamagedError: stored bytes to be copied are damaged; the recipient is unharmed.
        StorageError: the operating system refused; the recipient is unharmed.
    """
    recipient = plan.recipient
    assert isinstance(recipient, SafeTensors)
    file, layout = _in_place(plan, recipient)
    if os.path.realpath(file) == os.path.realpath(lock.path):
        return replacing.replace(file, layout.fill, lock, sync, wait, layout.prove)
    with Lock(file, wait) as own:
        own.before_replace = lock.before_replace
        if not os.path.samestat(os.fstat(own.fd), local(recipient.file(file)).status):
            raise ChangedError("was replaced while it was read; try again", path=recipient.path)

        def fill(output: replacing.Output) -> None:
            layout.fill(output)
            if not lock.holds() or recipient.was_replaced():
                raise overtaken(recipient.path)

        return replacing.replace(file, fill, own, sync, wait, layout.prove)


def _in_place(plan: Plan, recipient: SafeTensors) -> tuple[str, _Layout]:
    """The file to be replaced, and its new content."""
    file = _only_file(plan, recipient)
    results = [result for result in plan.results() if _is_in(result, file, recipient)]
    return file, _Layout(results, _carried_metadata(plan, recipient, file), recipient, file)


def check(plan: Plan, out: str | None) -> None:
    """Check from its metadata whether a plan can be carried out at `out`, or in its recipient if `out` is None.

    Raises:
        RefusedError, UnsupportedError, Problems: the plan cannot be carried out.
    """
    if out is not None:
        _whole(plan, out, None)
    else:
        assert isinstance(plan.recipient, SafeTensors)
        _in_place(plan, plan.recipient)


def save_as(plan: Plan, out: str, force: bool, sync: bool, wait: float) -> list[str]:
    """Carry a plan out as the new file `out`, whatever format its recipient has.

    Returns:
        Warnings.

    Raises:
        RefusedError: a checkpoint already exists, and `force` is not set.
        UnsupportedError: safetensors cannot store a variable.
        Problems: several of these errors.
    """
    layout = _whole(plan, out, None)
    return layout.warnings + replacing.save_as(out, layout.fill, force, sync, wait, layout.prove)


def stream(plan: Plan, write: Callable[[bytes], object], layers: Mapping[str, int] | None = None) -> None:
    """Write the result of a plan sequentially as a safetensors file, for example to a pipe.

    Args:
        plan: what to do.
        write: called with the next bytes; must write all of them.
        layers: name -> number of its layer, kept in the metadata under the key `ckptsurgeon.layers`.

    Raises:
        UnsupportedError, Problems: safetensors cannot store a variable; nothing was sent.
        DamagedError: a donor's bytes are damaged; the sent bytes end before the length in their header, so that no
            reader accepts them as a checkpoint.
    """
    try:
        layout = _whole(plan, plan.recipient.path, layers)
    except CkptSurgeonError as error:
        for problem in getattr(error, "problems", [error]):
            if isinstance(problem, UnsupportedError):
                problem.hint = "use -o FILE"
        raise
    write(layout.head)
    for chunk in layout.values():
        write(chunk)


def _whole(plan: Plan, path: str, layers: Mapping[str, int] | None) -> _Layout:
    recipient = plan.recipient
    metadata, warnings = None, []
    if isinstance(recipient, SafeTensors):
        different = [*dict.fromkeys(text for text in recipient.metadata.values() if text is not None)]
        if len(different) == 1:
            metadata = _carried_metadata(plan, recipient, next(f for f, t in recipient.metadata.items() if t))
        elif different:
            items = recipient.metadata_items()
            metadata = _json(items)
            for key in items:
                if any(json.loads(text).get(key, items[key]) != items[key] for text in different):
                    warnings.append(
                        f"{recipient.path}: its files differ in the metadata key {key}; the first file's value is used"
                    )
    if layers is not None:
        items = {**(json.loads(metadata) if metadata else {}), LAYERS: json.dumps(dict(layers), ensure_ascii=False)}
        metadata = _json(items)
    layout = _Layout(plan.results(), metadata, recipient, path)
    layout.warnings = warnings
    return layout


def _json(items: Mapping[str, str]) -> bytes:
    return json.dumps(items, ensure_ascii=False, separators=(",", ":")).encode()


def _carried_metadata(plan: Plan, recipient: SafeTensors, file: str) -> bytes | None:
    """The unparsed metadata of a file, with the layer numbers updated for renamed and dropped variables."""
    text = recipient.metadata[file]
    table = next(iter(recipient.layer_tables().values()), {})
    gone = [each for each in plan.changes if each.variable.name in table and each.action in ("renamed", "dropped")]
    items = json.loads(text) if text and gone else {}
    if LAYERS not in items:
        return text
    new = {change.variable.name: change.name if change.action == "renamed" else None for change in gone}
    moved = {name: number for old, number in table.items() if (name := new.get(old, old)) is not None}
    return _json({**items, LAYERS: json.dumps(moved, ensure_ascii=False)})


def _only_file(plan: Plan, recipient: SafeTensors) -> str:
    """The only file that a plan changes.

    Raises:
        RefusedError: the plan does not change exactly one file, or the index would have to change too.
    """
    if len(recipient.files) == 1 and recipient.main_file == recipient.files[0]:
        return recipient.files[0]
    changed: dict[str, None] = {}
    names_change = False
    for change in plan.changes:
        names_change |= change.action in ("added", "dropped", "renamed")
        if change.content is not None and change.variable.extents:
            changed[change.variable.extents[0].file] = None
    if len(changed) != 1 or names_change:
        what = f"{len(changed)} files" if not names_change else "names, and so the index,"
        raise RefusedError(f"{what} of a set cannot be replaced in place", path=recipient.path, hint="use -o OUT")
    return next(iter(changed))


def _is_in(result: Result, file: str, recipient: SafeTensors) -> bool:
    """Whether a result is stored in a given file of the recipient."""
    extents = result.variable.extents
    return len(recipient.files) == 1 or (bool(extents) and extents[0].file == file)


class _Layout:
    """A file to be written.

    Args:
        results: the variables that the file holds.
        metadata: text of the metadata, or None.
        recipient: the checkpoint whose order of variables is kept.
        path: of the file, for messages.

    Raises:
        UnsupportedError, RefusedError, Problems: no safetensors file can hold this.

    Attributes:
        head: the bytes before the values.
        warnings: for the user.
    """

    def __init__(self, results: list[Result], metadata: bytes | None, recipient: object, path: str) -> None:
        self.warnings: list[str] = []
        is_own = isinstance(recipient, SafeTensors)
        names = [
            result.key.decode("utf-8", "surrogateescape") if is_own else payload.name_of(result) for result in results
        ]
        _check(results, names, path)
        entries = list(zip(names, results, strict=True))
        if not is_own or not _is_aligned(entries):
            entries.sort(key=lambda entry: (-_RANKS[entry[1].variable.dtype], entry[0]))
        parts = [f'"{METADATA}":'.encode() + metadata] if metadata is not None else []
        at = 0
        for name, result in entries:
            end = at + _size(result)
            place = f'"shape":{_list(result.variable.shape)},"data_offsets":[{at},{end}]'
            entry = f'{json.dumps(name, ensure_ascii=False)}:{{"dtype":"{_CODES[result.variable.dtype]}",{place}}}'
            parts.append(entry.encode())
            at = end
        header = b"{" + b",".join(parts) + b"}"
        header += b" " * (-len(header) % _ALIGNMENT)
        if len(header) > MAX_HEADER:
            what = "too many names for a safetensors header"
            raise RefusedError(what, path=path, expected=f"at most {MAX_HEADER} bytes", found=len(header))
        self.head = len(header).to_bytes(8, "little") + header
        self._results = [result for _, result in entries]
        self._path = path

    def fill(self, output: replacing.Output) -> None:
        """Write the file."""
        output.write(self.head)
        for chunk in self.values():
            output.write(chunk)

    def prove(self, staged: str) -> None:
        """Check the staged file against the plan."""
        prover("safetensors", self._results, self._path)(staged)

    def values(self) -> Iterator[bytes]:
        """All bytes after the header."""
        for result in self._results:
            size = 0
            for chunk in _values(result):
                size += len(chunk)
                yield chunk
            assert size == _size(result), result.variable.name


def _is_aligned(entries: list[tuple[str, Result]]) -> bool:
    """Whether each variable would begin at a multiple of its items' size."""
    at = 0
    for _, result in entries:
        if at % max(BITS[result.variable.dtype] // 8, 1):
            return False
        at += _size(result)
    return True


def _size(result: Result) -> int:
    return result.variable.size * BITS[result.variable.dtype] // 8


def _list(shape: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _check(results: list[Result], names: list[str], path: str) -> None:
    """Raise all problems that prevent the results from being stored."""
    problems: list[CkptSurgeonError] = []
    taken: set[str] = set()
    for name, result in zip(names, results, strict=True):
        dtype = result.variable.dtype
        if dtype not in _CODES:
            hint = "leave it out" if dtype in ("string", "variant") else "cast it"
            problems.append(UnsupportedError(f"{name}: safetensors files cannot store {dtype}", path=path, hint=hint))
        elif BITS[dtype] == 6 and not _is_packed(result):
            what = f"{name}: {dtype} values can only be copied, not created"
            problems.append(UnsupportedError(what, path=path))
        elif result.variable.size * BITS[dtype] % 8:
            what = f"{name}: {result.variable.size} elements of {dtype} do not fill whole bytes"
            problems.append(UnsupportedError(what, path=path))
        if name in taken:
            problems.append(RefusedError(f"two variables would have the name {name}", path=path))
        taken.add(name)
        try:
            fits = bool(name.encode()) and name != METADATA
        except UnicodeEncodeError:
            fits = False
        if not fits:
            what = f"no variable of a safetensors file can have the name '{name}'"
            problems.append(RefusedError(what, path=path, expected="UTF-8"))
    if not results:
        problems.append(RefusedError("a checkpoint needs variables", path=path))
    errors.check(problems)


def _values(result: Result) -> Iterator[bytes]:
    """The values of a variable as bytes in the format's encoding."""
    content = result.content
    if _is_packed(result) and isinstance(content, Copy):
        return content.donor.chunks(content.variable.extents[0])
    found = payload.chunks(content, result.variable)
    return _packed(found) if BITS[result.variable.dtype] == 4 else found


def _is_packed(result: Result) -> bool:
    """Whether a result's values are already stored in the format's encoding."""
    return isinstance(result.content, Copy) and isinstance(result.content.donor, SafeTensors)


def _packed(elements: Iterator[bytes]) -> Iterator[bytes]:
    """Pack elements of four bits, two to a byte, the first in the low bits."""
    rest = b""
    for chunk in elements:
        data = rest + chunk
        even = len(data) & ~1
        rest = data[even:]
        for at in range(0, even, CHUNK):
            part = data[at : min(at + CHUNK, even)]
            yield bytes((low & 15) | (high & 15) << 4 for low, high in zip(part[::2], part[1::2], strict=True))
