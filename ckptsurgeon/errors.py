"""The exceptions of ckptsurgeon. Nothing but these leaves the library.

    CkptSurgeonError          one line: what, where, expected and found, what to do
    ├── UsageError            the request itself is wrong: a layer that does not exist, a pattern that matches nothing
    ├── NotFoundError         no such file, checkpoint or variable
    ├── DamagedError          the bytes of a file contradict its format or their checksum
    ├── UnsupportedError      a sound file of a kind that this version does not handle
    ├── RefusedError          the operation would lose something, or is not allowed as asked
    │   └── Problems          several of these at once, one line each
    ├── BusyError             another writer holds the checkpoint, or has just saved over it
    ├── ChangedError          a checkpoint was replaced while it was read; read it again
    ├── StorageError          the operating system refused: permissions, full disk, input/output error
    └── TrainerError          a trainer of a ring failed, hung or broke its contract

    CkptSurgeonWarning        a Python warning: the result is right, but perhaps not all that the user expects

This module imports nothing, so that every other one may import it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but importing typing would take longer than this module
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType


class CkptSurgeonError(Exception):
    """An expected failure, described in one line.

    Args:
        what: what is wrong, a short phrase.
        path: the file or checkpoint concerned.
        expected: what should have been there.
        found: what was there instead.
        hint: what the user can do.
    """

    def __init__(
        self,
        what: str,
        *,
        path: str | None = None,
        expected: object = None,
        found: object = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.path = path
        self.expected = expected
        self.found = found
        self.hint = hint

    def __str__(self) -> str:
        line = self.what if self.path is None else f"{self.path}: {self.what}"
        if self.expected is not None:
            line += f"; expected {self.expected}"
        if self.found is not None:
            line += f"{',' if self.expected is not None else ';'} found {self.found}"
        if self.hint is not None:
            line += f"; {self.hint}"
        return printable(line.replace("\n", " "))

    @property
    def lines(self) -> list[str]:
        """The lines shown to the user: one, or one for each of several `Problems`."""
        return [str(self)]


class UsageError(CkptSurgeonError):
    """The request itself is wrong."""


class NotFoundError(CkptSurgeonError):
    """There is no such file, checkpoint or variable."""


class DamagedError(CkptSurgeonError):
    """The bytes of a file contradict its format or their checksum."""


class UnsupportedError(CkptSurgeonError):
    """A sound file of a kind that this version does not handle."""


class RefusedError(CkptSurgeonError):
    """The operation would lose something, or is not allowed as asked."""


class Problems(RefusedError):
    """Several problems at once, so that the user can fix all of them before the next try.

    Args:
        problems: at least one error; each keeps its own line.
    """

    def __init__(self, problems: Iterable[CkptSurgeonError]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def lines(self) -> list[str]:
        """One line for each problem."""
        return [line for problem in self.problems for line in problem.lines]


class BusyError(CkptSurgeonError):
    """Another writer holds the checkpoint, or has just saved over it."""


class ChangedError(CkptSurgeonError):
    """A checkpoint was replaced while it was read."""


class StorageError(CkptSurgeonError):
    """The operating system refused."""


class TrainerError(CkptSurgeonError):
    """A trainer of a ring failed, hung or broke its contract."""


def check(problems: list[CkptSurgeonError]) -> None:
    """Raise the collected problems: a single one as it is, several as `Problems`; return if there are none."""
    different = list({str(problem): problem for problem in problems}.values())
    if len(different) == 1:
        raise different[0]
    if different:
        raise Problems(different)


class CkptSurgeonWarning(UserWarning):
    """Something that a user should know about a result that is right: one line that names the file."""


def warn(path: str, what: str) -> None:
    """Issue a CkptSurgeonWarning, or hand its line to the innermost `warned`."""
    line = f"{printable(path)}: {what}"
    if _open:
        _open[-1].hear(line)
        return
    import warnings

    warnings.warn(line, CkptSurgeonWarning, stacklevel=2)


class warned:
    """A context manager that hands every different warning to a function instead of Python's `warnings`."""

    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show
        self._lines: set[str] = set()  # checkpoints that were replaced are opened again

    def hear(self, line: str) -> None:
        """Show a line that was not shown before."""
        if line not in self._lines:
            self._lines.add(line)
            self._show(line)

    def __enter__(self) -> None:
        _open.append(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _open.remove(self)


_open: list[warned] = []


class files:
    """A context manager for work on the file `path`: every error leaves it as a CkptSurgeonError that names the file.

    An `OSError` becomes a `StorageError` or `NotFoundError`; a CkptSurgeonError that names no file yet gets this one.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, CkptSurgeonError):
            if error.path is None and not isinstance(error, Problems):
                error.path = self.path
        elif isinstance(error, OSError):
            where = error.filename if isinstance(error.filename, str) else self.path
            where = where.partition(".ckptsurgeon-tmp")[0]  # users do not need the temporary name
            reason = (error.strerror or str(error)).lower()
            if isinstance(error, FileNotFoundError):
                raise NotFoundError(reason, path=where) from error
            raise StorageError(reason, path=where) from error
        elif isinstance(error, MemoryError):
            raise StorageError("not enough memory", path=self.path) from error


class allocating:
    """A context manager for making the array of a variable: what NumPy cannot do leaves it as a CkptSurgeonError.

    Args:
        name: of the variable.
        shape: of the variable.
        path: of the checkpoint.
    """

    def __init__(self, name: str, shape: tuple[int, ...], path: str) -> None:
        self.name = name
        self.shape = shape
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, MemoryError):
            what = f"not enough memory for {self.name}"
            raise StorageError(what, path=self.path, found=list(self.shape)) from error
        if isinstance(error, ValueError):
            what = f"{self.name}: no NumPy array can have its shape or values"
            raise UnsupportedError(what, path=self.path, found=list(self.shape)) from error


def one_line(error: BaseException, most: int = 300) -> str:
    """What another library's exception says, in one line of at most `most` characters."""
    return " ".join(str(error).split())[:most]


def shape_text(*sizes: object) -> str:
    """A shape as messages show it: [32,10], [rows,10]."""
    return f"[{','.join(map(str, sizes))}]"


def printable(text: str) -> str:
    r"""Escape text so that it stays on one line and cannot control a terminal: \n, \x1b, \u2028, and so on.

    Bytes of a name that are not UTF-8 (which Python keeps as lone surrogates) become \xHH.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def _escape(character: str) -> str:
    if 0xDC80 <= ord(character) <= 0xDCFF:
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


_MOST_NAMES = 2000  # compared with a misspelt name: each comparison takes about 30 microseconds


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """'did you mean …' for a name that is close to a known one, or None.

    Imports difflib (1 ms and more), so it is called only when an error is reported.
    """
    import difflib

    near = [each for each in known if abs(len(each) - len(name)) <= 3]
    close = difflib.get_close_matches(name, near[:_MOST_NAMES], n=1, cutoff=0.75)
    return f"did you mean {close[0]}" if close else None
