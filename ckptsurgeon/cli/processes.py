"""Verbs whose work is done by a module that imports a framework: this process becomes that one."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn


def become(module: str, options: Mapping[str, object], *words: str) -> NoReturn:
    """Replace this process by a module of this package.

    Args:
        module: its name in the package.
        options: attribute of the parsed arguments -> value; None and False are left out, True is an option alone.
        words: what follows the options.
    """
    command = [sys.executable, "-m", f"ckptsurgeon.{module}"]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            command.append(option)
        elif value is not None and value is not False:
            command.append(f"{option}={value}")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [*command, *words])
