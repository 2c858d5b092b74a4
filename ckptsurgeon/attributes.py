"""Permissions, owner, ACL and extended attributes: what replaces a file gets those of the file that it replaces."""

from __future__ import annotations

import os

from .lean import suppress

PRIVATE = 0o600  # permissions of a temporary file until it has got those of the file that it will replace
_ACL = "system.posix_acl_access"


def keep(old: int | str, fd: int) -> None:
    """Give an open file the owner, the extended attributes (an ACL is one of them) and the permissions of another.

    What this process may not set is left out. If the group or the ACL cannot be kept, neither are the group's
    permissions: the new file is never more readable than the old one.

    Args:
        old: the other file: its path, or a descriptor.
        fd: the file, which has `PRIVATE` permissions so far.

    Raises:
        OSError: the other file cannot be looked at, or the permissions cannot be set.
    """
    status, own = os.stat(old), os.fstat(fd)
    mode = status.st_mode & 0o777
    if (status.st_uid, status.st_gid) != (own.st_uid, own.st_gid):
        try:
            os.fchown(fd, status.st_uid, status.st_gid)
        except OSError:
            try:
                os.fchown(fd, -1, status.st_gid)
            except OSError:
                mode &= ~0o070
    if not _copied_attributes(old, fd):
        mode &= ~0o070
    os.fchmod(fd, mode)


def _copied_attributes(old: int | str, fd: int) -> bool:
    """Copy extended attributes, and remove those that the folder gave; whether the two have the same ACL now."""
    if not hasattr(os, "listxattr"):
        return True
    try:
        wanted, present = os.listxattr(old), os.listxattr(fd)
    except OSError:  # this file system has none
        return True
    same_acl = True
    for name in present:
        if name not in wanted:
            with suppress(OSError):
                os.removexattr(fd, name)
    for name in wanted:
        try:
            os.setxattr(fd, name, os.getxattr(old, name))
        except OSError:  # a label that only the system may set, or another file system
            same_acl = same_acl and name != _ACL
    return same_acl
