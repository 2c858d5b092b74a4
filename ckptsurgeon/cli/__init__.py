"""The command line: parse, dispatch, and the one place where exceptions become exit codes.

A verb is a module of its own, with `HELP` (its synopsis, a few lines and three examples), `add_arguments(parser)` and
`run(args)`, which calls the library, prints, and returns the exit status. Only the module of the verb that was named
is imported, and only its parser is built: a command starts in little more than the time Python takes.
"""

from __future__ import annotations

import gc
import sys

from ..errors import CkptSurgeonError, UsageError, did_you_mean, printable, warned
from ..lean import signal, suppress
from . import streams
from .parser import Parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

# Verbs return DIFFERENT themselves: diff found a difference, verify damage.
DONE, DIFFERENT, FAILED, BUG, INTERRUPTED = 0, 1, 2, 3, 130

VERBS = {
    "ls": "list the variables of a checkpoint",
    "layers": "list its layers, and the schemes that name them",
    "show": "statistics and a histogram of the values",
    "get": "print one variable, or write it as .npy",
    "diff": "list what differs between two checkpoints",
    "verify": "check every checksum and bound",
    "graft": "replace layers of one checkpoint with those of another",
    "set": "set values of one variable",
    "rename": "rename variables",
    "drop": "remove variables, or the optimizer's slots",
    "cast": "convert variables to another dtype",
    "average": "average checkpoints",
    "extract": "write some variables to a checkpoint of their own, or stream them",
    "convert": "write a checkpoint in another format",
    "cp": "copy a whole checkpoint",
    "compact": "reclaim bytes that no variable refers to",
    "undo": "bring back what an operation with --backup replaced",
    "log": "list the operations that can be undone",
    "train": "train a checkpoint on one mini-batch",
    "worker": "train checkpoints on request, with TensorFlow started once",
    "ring": "train models as independent processes that share their first layers",
}

_ROOMS = {"undo": "history", "log": "history"}  # the folder of a verb's module, unless it is `verbs`


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; None: those of this process, which ends with the command.

    Returns:
        The exit status: 0 done, 1 difference or damage found, 2 refused, 3 our bug, 130 interrupted.
    """
    if argv is None:
        return _last(sys.argv[1:])
    # Opening a large checkpoint makes many long-lived objects, which frequent collections would scan for nothing.
    gc.set_threshold(100_000)
    return carry_out(lambda: _dispatch(argv), argv)


def carry_out(command: Callable[[], int], argv: list[str]) -> int:
    """Run a command, with stdout and stderr as they may be, and every exception as one line.

    Args:
        command: prints, and returns the exit status.
        argv: its arguments, for the report of a bug.

    Returns:
        The exit status, as of `main`.
    """
    streams.prepare()
    status = _run(command, argv)
    error = streams.failure()
    if error is None or isinstance(error, BrokenPipeError):  # the reader closed the pipe, as `head` does
        return status
    if status in (DONE, DIFFERENT):
        streams.complain(f"stdout: {(error.strerror or str(error)).lower()}")
        return FAILED
    return status


def _run(command: Callable[[], int], argv: list[str]) -> int:
    """Run one command and return the exit status; what it printed may still be on its way."""
    try:
        _turn_sigterm_into_interrupt()
        with warned(lambda line: streams.complain(f"warning: {line}")):
            return command()
    except CkptSurgeonError as error:
        for line in error.lines:
            streams.complain(line)
        return FAILED
    except KeyboardInterrupt:
        streams.complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        return DONE
    except OSError as error:
        where = printable(str(error.filename or "stdout"))  # errors of checkpoint files have become StorageErrors
        streams.complain(f"{where}: {(error.strerror or str(error)).lower()}")
        return FAILED
    except Exception:
        _report_bug(argv)
        return BUG


def graft() -> int:
    """Run the program `graft`: the same as `ckptsurgeon graft`."""
    return _last(sys.argv[1:] if sys.argv[1:] == ["--version"] else ["graft", *sys.argv[1:]])


def _last(argv: list[str]) -> int:
    """Run the command with which the process ends. Python then looks for garbage again, which takes milliseconds."""
    status = main(argv)
    gc.freeze()
    return status


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return DONE if argv else FAILED
    verb, *rest = argv
    if verb == "--version":
        from .. import __version__

        print(f"ckptsurgeon {__version__}")
        return DONE
    if verb not in VERBS:
        hint = did_you_mean(verb, VERBS) or "'ckptsurgeon --help' lists the verbs"
        raise UsageError(f"no verb {verb}", hint=hint)
    module = module_of(verb)
    parser = Parser("graft" if verb == "graft" else f"ckptsurgeon {verb}", module.HELP)
    module.add_arguments(parser)
    args = parser.parse(rest)
    if args is None:  # --help
        return DONE
    status: int = module.run(args)
    return status


def module_of(verb: str) -> Any:
    """Import the module of a verb."""
    return __import__(f"{__name__}.{_ROOMS.get(verb, 'verbs')}.{verb}", fromlist=["run"])  # importlib takes longer


def _overview() -> str:
    lines = [
        "usage: ckptsurgeon VERB ...",
        "",
        "Inspect and edit model checkpoints without a deep-learning framework.",
        "",
    ]
    lines += [f"  {verb:8}{text}" for verb, text in VERBS.items()]
    lines += ["", "'ckptsurgeon VERB --help' explains a verb; 'graft' is short for 'ckptsurgeon graft'."]
    return "\n".join(lines)


def _turn_sigterm_into_interrupt() -> None:
    """Make `kill` end a command as Ctrl-C does: staged files are removed, the recipient is unchanged."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def _report_bug(argv: list[str]) -> None:
    import platform
    import traceback

    from .. import __version__

    with suppress(OSError):
        traceback.print_exc()
        print(
            "ckptsurgeon: this is a bug in ckptsurgeon. Please report the lines above together with these:\n"
            f"  ckptsurgeon {__version__}, Python {platform.python_version()}, {platform.platform()}\n"
            f"  arguments: {argv}",
            file=sys.stderr,
        )
