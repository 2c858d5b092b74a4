"""The software, processor and settings that the bytes of a checkpoint may depend on."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata
from typing import Any

from .. import __version__

# oneDNN's kernels round differently from Eigen's; this variable makes TensorFlow choose.
_SETTINGS = ("TF_ENABLE_ONEDNN_OPTS",)


def describe() -> dict[str, Any]:
    """Return the current environment, as stored in the head of a journal."""
    versions = {name: _version(name) for name in ("numpy", "tensorflow", "keras", "torch")}
    return {"ckptsurgeon": __version__, **versions, "cpu": _cpu(), **{name: os.environ.get(name) for name in _SETTINGS}}


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe the differences between two environments, in what the old one tells: earlier versions told less."""
    names = [name for name in old if old.get(name) != new.get(name)]
    return [f"{name} was {old.get(name)}, is {new.get(name)}" for name in names]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """Return the machine type and, if known, a digest of the processor's features."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            flags = next((line for line in file if line.lower().startswith(("flags", "features"))), "")
    except OSError:
        flags = ""
    words = " ".join(sorted(flags.partition(":")[2].split()))
    return platform.machine() + (" " + sha256(words.encode()).hexdigest()[:16] if words else "")
