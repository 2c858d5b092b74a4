"""strace's fault injection on the real command: a system call of a process fails, whoever made it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import faults

CALLS = (
    "openat", "read", "pread64", "preadv", "write", "pwrite64", "ftruncate", "fsync", "close", "stat", "lstat", "fstat",
    "newfstatat", "statfs", "link", "linkat", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir", "flock",
    "getdents64", "mmap", "copy_file_range", "fchmod", "fchown", "fgetxattr", "flistxattr", "fsetxattr",
)  # fmt: skip
KINDS = (*faults.KINDS, "EINTR")
_LINE = re.compile(r"^(\d+)\s+(\w+)\((.*)$")
_PATIENCE = 120.0  # seconds for a command
PROGRAM = [sys.executable, "-m", "ckptsurgeon"]


class Fault:
    """What strace injects; `attempts.Attempt.trouble` looks at these.

    Attributes:
        kind: the name of the error.
        short: no limit.
        silent: whether stderr takes nothing either.
    """

    short = 0

    def __init__(self, kind: str, call: str, forever: bool) -> None:
        self.kind = kind
        self.silent = call == "write" and forever


def available() -> bool:
    """Whether strace is installed, and may trace here."""
    return shutil.which("strace") is not None and _strace(["true"], "-o", "/dev/null")[0] == 0


def _strace(command: list[str], *options: str) -> tuple[int, str, str]:
    try:
        done = subprocess.run(
            ["strace", "-f", "-qq", *options, *command], capture_output=True, text=True, timeout=_PATIENCE
        )
    except subprocess.TimeoutExpired:
        return 124, "", "the command hangs"
    return done.returncode, done.stdout, done.stderr


def calls(command: list[str], folder: Path, log: Path) -> list[tuple[str, int]]:
    """Run a command, and return the calls that concern a folder: name, and the number that `inject` gives it.

    Args:
        command: arguments of the program.
        folder: where its files are.
        log: a file for strace.
    """
    _strace([*PROGRAM, *command], "-y", "-s", "4096", "-o", str(log), "-e", "trace=" + ",".join(f"?{c}" for c in CALLS))
    counted: Counter[tuple[str, str]] = Counter()
    found: dict[tuple[str, int], None] = {}
    for line in log.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match:
            pid, name, rest = match.groups()
            counted[pid, name] += 1
            if str(folder) in rest:
                found[name, counted[pid, name]] = None
    return list(found)


def run(command: list[str], call: str, kind: str, number: int, forever: bool) -> faults.Outcome:
    """Run a command in which a call fails.

    Args:
        command: arguments of the program.
        call: name of the system call.
        kind: name of the error.
        number: which call of this name fails, in each process.
        forever: all later ones fail too.
    """
    when = f"{number}{'+' if forever else ''}"
    inject = f"inject={call}:error={kind}:when={when}"
    return faults.Outcome(*_strace([*PROGRAM, *command], "-o", "/dev/null", "-e", f"trace={call}", "-e", inject))
