"""The command line, run in this process: its start takes longer than what most tests are about.

What starts, signals, pipes and terminals have to do with is tested in processes.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from ckptsurgeon import cli


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run `ckptsurgeon ARGUMENTS`; what it prints goes to real files."""
    before = signal.getsignal(signal.SIGTERM)
    streams = sys.stdin, sys.stdout, sys.stderr
    with contextlib.ExitStack() as stack:
        nothing = stack.enter_context(open(os.devnull))
        out, err = (stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", newline="")) for _ in range(2))
        stack.callback(os.chdir, Path.cwd())
        os.chdir(cwd or Path.cwd())
        try:
            sys.stdin, sys.stdout, sys.stderr = nothing, out, err
            status = cli.main([str(argument) for argument in arguments])
        finally:
            sys.stdin, sys.stdout, sys.stderr = streams
            signal.signal(signal.SIGTERM, before)
        printed = []
        for stream in (out, err):
            stream.flush()
            stream.seek(0)
            printed.append(stream.read())
    return subprocess.CompletedProcess(["ckptsurgeon", *map(str, arguments)], status, *printed)
