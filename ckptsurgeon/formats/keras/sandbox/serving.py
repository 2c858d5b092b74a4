"""The request loop of a libhdf5 child process, the only process that imports this module."""

from __future__ import annotations

import h5py  # type: ignore[import-untyped]

from ....errors import CkptSurgeonError, DamagedError, StorageError
from . import reading, rewriting
from .pipe import grant_seconds, limit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pipe import FileRange, ParentPipe


def serve(parent: ParentPipe, parts: list[FileRange], target: int | None) -> None:
    """Answer requests until the parent ends."""
    limit()
    files: dict[int, h5py.File] = {}
    views = [reading.View(part.fd, part.base, part.size) for part in parts]
    out = reading.View(-1 if target is None else target, 0, 0)

    def file(number: int) -> h5py.File:
        if number not in files:
            files[number] = h5py.File(views[number], "r")
        return files[number]

    while (request := parent.request()) is not None:
        grant_seconds(request["seconds"])
        try:
            if request["do"] == "walk":
                parent.done(reading.walk(file(request["part"]).id, parts[request["part"]].size))
            elif request["do"] == "read":
                parent.done(reading.send_values(parent, file(request["part"]), request["path"]))
            else:
                count = max(1, len(parts))
                parent.done(rewriting.write(parent, [file(number) for number in range(count)], out, request))
        except CkptSurgeonError as error:
            parent.failed(error)
        except MemoryError:
            parent.failed(StorageError("not enough memory for the sizes that the file claims"))
        except Exception as error:  # h5py raises a dozen kinds for damaged files
            refused = next((view.refused for view in [*views, out] if view.refused), None)
            damage = DamagedError("damaged", found=f"{type(error).__name__}: {error}"[:300])
            parent.failed(damage if refused is None else StorageError(refused.lower()))
