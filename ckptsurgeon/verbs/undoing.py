"""The operations that look back at what operations with `backup` replaced: undo, log; and how these keep it."""

from __future__ import annotations

import os
import time

from .. import errors, formats
from ..formats import locating
from ..formats.kept import restoring
from ..formats.kept.record import Version
from ..formats.kept.store import Keeping, Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..checkpoint import Checkpoint
    from ..plan import Report


class Undone:
    """What `undo` did, or with `dry_run` would do.

    Attributes:
        path: the checkpoint.
        row: the operation that was undone, as a row of `log`.
        warnings: further messages for the user.
    """

    __slots__ = ("path", "row", "warnings")

    def __init__(self, path: str, row: dict[str, Any], warnings: list[str]) -> None:
        self.path = path
        self.row = row
        self.warnings = warnings


def undo(
    path: str | os.PathLike[str], *, force: bool = False, wait: float = 30.0, dry_run: bool = False, sync: bool = True
) -> Undone:
    """Bring back, atomically, what the last operation with `backup` replaced; called again, what the one before did.

    Args:
        path: any spelling of a checkpoint's path; it need not be readable.
        force: even if the checkpoint was changed since: what was saved since is lost.
        wait: seconds to wait for another writer.
        dry_run: check, and change nothing.
        sync: wait until everything is on the disk.

    Raises:
        NotFoundError: nothing is kept.
        RefusedError: the checkpoint, or the kept version, was changed since; nothing was changed.
    """
    name = os.fspath(path)
    found, version, warnings = formats.retry(lambda: restoring.restore(name, force, wait, dry_run, sync))
    return Undone(found.path, _row(version, found.files[0]), warnings)


def log(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The operations with `backup` that can be undone, the last one first.

    Args:
        path: any spelling of a checkpoint's path.

    Returns:
        Dicts with the keys time (UTC, ISO 8601), verb, donor (its path, or None), sha256 (the donor's fingerprint, or
        None), changes (dicts with the keys action, name, from), kept (path of the version that was replaced) and
        present (whether the operation's result is still there, unchanged).

    Raises:
        NotFoundError: there is no such checkpoint.
        DamagedError: a record is invalid.
    """
    found = locating.locate(os.fspath(path))
    store = Store(found.files[0])
    rows: list[dict[str, Any]] = []
    with errors.files(store.folder):
        versions = store.versions()
    for version in reversed(versions):
        present = store.present(version)
        if rows or present not in version.before:  # otherwise it was not committed, or is undone already
            rows.append(_row(version, found.files[0]) | {"present": not rows and present in version.after})
    return rows


def keeping(held: formats.locked, report: Report, verb: str, donor: Checkpoint | None, sync: bool) -> Keeping:
    """Keep the version that an operation is about to replace.

    Args:
        held: the checkpoint, locked.
        report: of the operation.
        verb: its name.
        donor: the open donor, if there is one.
        sync: wait until everything is on the disk.

    Raises:
        RefusedError: it cannot be kept; nothing was changed.
    """
    changes = [(str(row["action"]), str(row["name"]), str(row["from"] or "") or None) for row in report.changed]
    fingerprint = None if donor is None else donor.fingerprint()
    origin = None if donor is None else donor.path if donor.path == "stdin" else os.path.abspath(donor.path)
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    store = Store(held.checkpoint.main_file)
    version = Version(store.new_folder(), moment, verb, origin, fingerprint, changes)
    return Keeping(store, held.files, held.lock, version, sync)


def _row(version: Version, main_file: str) -> dict[str, Any]:
    """A row of `log`."""
    keys = ("action", "name", "from")
    return {
        "time": version.time,
        "verb": version.verb,
        "donor": version.donor,
        "sha256": version.sha256,
        "changes": [dict(zip(keys, change, strict=True)) for change in version.changes],
        "kept": os.path.join(version.folder, os.path.basename(main_file)),
    }
