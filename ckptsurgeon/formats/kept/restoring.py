"""Brings back the newest kept version of a checkpoint, with one rename as the commit."""

from __future__ import annotations

import os

from ...errors import ChangedError, CkptSurgeonError, NotFoundError, RefusedError
from ...publish import Lock
from .. import locating, table
from .record import identity
from .store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..format import Found
    from .record import Version


def restore(path: str, force: bool, wait: float, dry_run: bool, sync: bool) -> tuple[Found, Version, list[str]]:
    """Bring back the newest kept version of a checkpoint, and keep it no longer.

    The present checkpoint need not be readable.

    Args:
        path: any spelling of the checkpoint's path.
        force: even if the checkpoint or the kept files were changed since.
        wait: seconds to wait for another writer.
        dry_run: only check.
        sync: wait until everything is on the disk.

    Returns:
        The checkpoint, the version, warnings.

    Raises:
        NotFoundError: nothing is kept.
        RefusedError: the checkpoint or the kept files were changed since.
        ChangedError: the checkpoint was replaced in the meantime; start over.
    """
    found = locating.locate(path)
    if dry_run:
        return found, _newest(found, force)[0], []
    with Lock(found.files[0], wait) as lock:
        if locating.locate(path).files != found.files:
            raise ChangedError("was replaced while it was read; try again", path=found.path)
        store = Store(found.files[0])
        store.heal()
        version, below = _newest(found, force)

        def announce(lock: Lock, successor: os.stat_result) -> None:
            """Note, before the commit, what will be there after it: the version itself, and what the one below left."""
            if below is not None and any(each in below.after for each in version.before):
                below.after.append(identity(successor))
                below.write(sync)
            version.before.append(identity(successor))
            version.write(sync)

        lock.before_replace = announce
        place = os.path.join(os.path.dirname(found.files[0]), version.file)
        warnings = table.of(found.format).put_back(place, version.kept_file, lock, sync, wait)
    try:
        with Lock(found.files[0], wait):  # what is there now: its number may be another operation's
            store.heal()
    except CkptSurgeonError as error:  # the result is in place; the next writer removes the version
        warnings.append(f"{found.path}: undone, but not tidied up: {error}")
    return found, version, warnings


def _newest(found: Found, force: bool) -> tuple[Version, Version | None]:
    """The version to be brought back, and the one below it."""
    store = Store(found.files[0])
    versions = store.versions()
    while versions and store.present(versions[-1]) in versions[-1].before:
        versions.pop()  # its operation was not committed, or it was brought back already
    if not versions:
        hint = "only operations with --backup can be undone"
        raise NotFoundError("nothing to undo", path=found.path, hint=hint)
    version, below = versions[-1], versions[-2] if len(versions) > 1 else None
    place = os.path.join(os.path.dirname(found.files[0]), version.file)
    if place not in found.files:
        what = f"{version.file}, which {version.verb} replaced, does not belong to it any more"
        raise RefusedError(what, path=found.path, hint=f"the kept version is {version.folder}")
    if not force and store.present(version) not in version.after:
        what = f"was changed since the {version.verb} of {version.time}"
        raise RefusedError(what, path=found.path, hint="undo --force brings back the version before it anyway")
    version.check(force)
    return version, below


def forget(path: str, wait: float, dry_run: bool) -> int:
    """Remove all kept versions of a checkpoint.

    Args:
        path: any spelling of the checkpoint's path.
        wait: seconds to wait for another writer.
        dry_run: only count.

    Returns:
        How many bytes that gives back.
    """
    main = locating.locate(path).files[0]
    store = Store(main)
    if dry_run:
        return store.size()
    with Lock(main, wait):
        size = store.size()
        store.forget()
        return size
