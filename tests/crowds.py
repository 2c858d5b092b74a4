"""Crowds on one checkpoint: many writers and readers at once, TensorFlow among them; deleted and replaced recipients.

    scripts/torture crowds                  every scene, two minutes in all
    scripts/torture crowds --seconds 600 --writers 8 --readers 4 edits

Every version that anybody writes has one value in all its variables, and every writer counts in a variable of its own.
So a mixture of two versions, and an update that was lost, are told from the values. What must hold:

- a reader gets one whole version, or one error of ours (TensorFlow: of TensorFlow), never two versions in one;
- of writers of one new OUT, one wins, the others are refused, and OUT is the winner's;
- where only we write, no update is lost: at the end each writer's own variable holds the last that it was told is done;
- at the end nothing is left but one whole checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ckptsurgeon import formats
from ckptsurgeon.errors import CkptSurgeonError
from ckptsurgeon.verbs import changing, looking, producing

SIZES = (1, 7, 300, 5000)  # elements of the variables that have one value
PATIENT = 600.0  # seconds to wait for other writers
STALE = 1.0  # seconds for which attributes of a name are kept on a simulated NFS; 3 and more by default on a real one
Wait = Callable[[], bool]
Counts = Counter[str]


def arrays(value: float, writers: int = 0) -> dict[str, Any]:
    """A version: one value everywhere, and a counter for each writer."""
    made: dict[str, Any] = {f"all/w{at}": np.full(size, value, np.float32) for at, size in enumerate(SIZES)}
    return made | {f"own/c{at}": np.zeros((), np.int64) for at in range(writers)}


def make(path: str, values: dict[str, Any]) -> None:
    """Write a checkpoint in the format that its ending says."""
    if os.path.splitext(path)[1]:
        formats.write(f"{path}-raw", values, sync=False)
        producing.convert(f"{path}-raw", path, force=True)
    else:
        formats.write(path, values, sync=False)


def value_of(read: Callable[[str], Any]) -> float:
    """The one value of a version.

    Raises:
        AssertionError: there are several, so that it is a mixture.
    """
    found = {float(each) for at in range(len(SIZES)) for each in np.unique(read(f"all/w{at}"))}
    assert len(found) == 1, f"a mixture of the versions {sorted(found)}"
    return found.pop()


def ours(path: str) -> float:
    """Read a version, as our library reads it."""
    with formats.open(path) as checkpoint:
        return value_of(checkpoint.read)


# -- what the members of a crowd do, each in a process of its own: (path, number, seconds left) -> what it came to


def edit(path: str, number: int, goes_on: Wait) -> Counts:
    """Set a counter of one's own again and again; none of the updates may be lost to other writers."""
    told: Counts = Counter()
    while goes_on():
        try:
            changing.set(path, f"own/c{number}", str(told["done"] + 1), wait=PATIENT)
            told["done"] += 1
        except CkptSurgeonError:  # somebody put a checkpoint without this variable there, or saved without a lock
            told["refused"] += 1
    return told


def donor_of(path: str, number: int, version: int = 0) -> str:
    """Make a version that one writer has for the others; the first one stays where the file system has no locks."""
    folder, name = os.path.split(path)
    donor = f"{folder}/donor-{number}{os.path.splitext(name)[1]}"
    with contextlib.suppress(CkptSurgeonError):
        make(donor, arrays(100 * number + version % 100))
    return donor


def graft(path: str, number: int, goes_on: Wait) -> Counts:
    """Graft a version of one's own onto the recipient, in place."""
    told: Counts = Counter()
    while goes_on():
        donor = donor_of(path, number, told.total())
        try:
            changing.graft(donor, path, match=["all/**"], wait=PATIENT, link=bool(told.total() % 2))
            told["done"] += 1
        except CkptSurgeonError:  # replaced, deleted, or locked by somebody else
            told["refused"] += 1
    return told


def copy(path: str, number: int, goes_on: Wait) -> Counts:
    """Copy a version of one's own over the recipient."""
    told: Counts = Counter()
    while goes_on():
        donor = donor_of(path, number, told.total())
        try:
            producing.cp(donor, path, force=True, wait=PATIENT)
            told["done"] += 1
        except CkptSurgeonError:
            told["refused"] += 1
    return told


def create(path: str, number: int, goes_on: Wait) -> Counts:
    """Make a new OUT, once, at the same moment as all others."""
    donor = donor_of(path, number)
    goes_on()
    try:
        producing.cp(donor, path, wait=PATIENT)
    except CkptSurgeonError:
        return Counter(refused=1)
    return Counter({"done": 1, f"winner {number}": 1})


def read(path: str, number: int, goes_on: Wait) -> Counts:
    """Read whole versions."""
    told: Counts = Counter()
    while goes_on():
        try:
            ours(path)
            told["read"] += 1
        except CkptSurgeonError:
            told["told why not"] += 1
    return told


def read_by_tensorflow(path: str, number: int, goes_on: Wait) -> Counts:
    """Read whole versions with TensorFlow."""
    import tensorflow as tf

    told: Counts = Counter()
    while goes_on():
        try:
            reader = tf.train.load_checkpoint(path)
            value_of(reader.get_tensor)
            told["read"] += 1
        except AssertionError:
            raise
        except Exception:  # TensorFlow raises a dozen kinds
            told["told why not"] += 1
    return told


def save_by_tensorflow(path: str, number: int, goes_on: Wait) -> Counts:
    """Save versions over the recipient with TensorFlow, which takes no lock."""
    import tensorflow as tf

    told: Counts = Counter()
    while goes_on():
        version = arrays(1e6 + told.total(), 1)
        tf.raw_ops.SaveV2(prefix=path, tensor_names=[*version], shape_and_slices=[""] * len(version),
                          tensors=[tf.constant(each) for each in version.values()])  # fmt: skip
        told["saved"] += 1
        time.sleep(0.01)
    return told


def replace(path: str, number: int, goes_on: Wait) -> Counts:
    """Delete the recipient and put another version there, as a script would: file by file."""
    told: Counts = Counter()
    folder, name = os.path.split(path)
    while goes_on():
        formats.write(f"{path}-new", arrays(1e6 + told.total()), sync=False)
        for each in os.listdir(folder):
            if each.startswith((f"{name}.index", f"{name}.data")):
                try:
                    os.unlink(os.path.join(folder, each))
                except FileNotFoundError:
                    continue
        for each in sorted(os.listdir(folder)):  # the data first
            if each.startswith((f"{name}-new.data", f"{name}-new.index")):
                os.replace(os.path.join(folder, each), os.path.join(folder, each.replace("-new", "")))
        told["replaced"] += 1
        time.sleep(0.01)
    return told


ROLES = {
    role.__name__: role for role in (edit, graft, copy, create, read, read_by_tensorflow, save_by_tensorflow, replace)
}


# -- other file systems, simulated in a member's process


def without_links() -> None:
    """No hard links, as on exFAT and some network file systems."""

    def link(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    os.link = link  # type: ignore[assignment]


def without_locks() -> None:
    """No locks, as on some network file systems."""

    def flock(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = flock  # type: ignore[assignment]


def with_stale_names() -> None:
    """What others do to a name is seen late, as on NFS: attributes are kept for a while, unless the file is opened.

    An open asks the server (close-to-open), and so does everything that changes a name.
    """
    kept: dict[str, tuple[float, os.stat_result]] = {}

    def stale(original: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def look(path: Any, *rest: Any, **more: Any) -> os.stat_result:
            if not isinstance(path, str) or rest or more:
                return original(path, *rest, **more)
            now = time.monotonic()
            if path not in kept or kept[path][0] < now - STALE:
                kept[path] = now, original(path)
            return kept[path][1]

        return look

    def fresh(original: Callable[..., Any]) -> Callable[..., Any]:
        def act(path: Any, *rest: Any, **more: Any) -> Any:
            for each in (path, *rest):
                kept.pop(each, None) if isinstance(each, str) else None
            return original(path, *rest, **more)

        return act

    for name in ("stat", "lstat"):
        setattr(os, name, stale(getattr(os, name)))
    for name in ("open", "link", "rename", "replace", "unlink"):
        setattr(os, name, fresh(getattr(os, name)))


SYSTEMS: dict[str, Callable[[], None]] = {
    "": lambda: None,
    "no links": without_links,
    "no locks": without_locks,
    "stale names": with_stale_names,
}


# -- scenes


class Scene:
    """Who does what to one path, and what must be there in the end.

    Args:
        writers: a role, or several that the writers take in turn.
        readers: their roles, in turn.
        others: a role each for one more member.
        ending: of the path's name, which decides the format.
        starts: whether there is a recipient at first.
        system: the file system of all members, one of `SYSTEMS`.
    """

    def __init__(
        self,
        writers: tuple[str, ...],
        readers: tuple[str, ...] = ("read",),
        others: tuple[str, ...] = (),
        ending: str = "",
        starts: bool = True,
        system: str = "",
    ) -> None:
        self.writers = writers
        self.readers = readers
        self.others = others
        self.ending = ending
        self.starts = starts
        self.system = system


BOTH = ("read", "read_by_tensorflow")
SCENES = {
    "edits": Scene(("edit", "graft"), BOTH),
    "copies": Scene(("copy", "copy", "graft", "edit"), BOTH),
    "copies of npz": Scene(("copy",), ending=".npz"),
    "copies of safetensors": Scene(("copy",), ending=".safetensors"),
    "new": Scene(("create",), BOTH, starts=False),
    "new npz": Scene(("create",), ending=".npz", starts=False),
    "new safetensors": Scene(("create",), ending=".safetensors", starts=False),
    "tensorflow saves": Scene(("edit", "graft", "copy"), BOTH, ("save_by_tensorflow",)),
    "replaced": Scene(("graft", "edit"), BOTH, ("replace",)),
    "no links": Scene(("edit", "graft"), system="no links"),
    "no locks": Scene(("edit", "graft", "copy"), system="no locks"),
    "stale names": Scene(("edit", "graft"), system="stale names"),
    "stale names, npz": Scene(("copy", "edit"), ending=".npz", system="stale names"),
}


def play(name: str, folder: Path, seconds: float, writers: int = 8, readers: int = 4, rounds: int = 0) -> Counts:
    """Play a scene.

    Args:
        name: which.
        folder: an empty one.
        seconds: for how long.
        writers: how many.
        readers: how many.
        rounds: end once every member has done so much, however long it takes; 0: `seconds` decide.

    Returns:
        How often what happened, in all members.

    Raises:
        AssertionError: something does not hold.
    """
    scene = SCENES[name]
    path = str(folder / f"m{scene.ending}")
    if scene.starts:
        make(path, arrays(0, writers))
    for at in range(writers):
        donor_of(path, at)
    cast = [scene.writers[at % len(scene.writers)] for at in range(writers)]
    cast += [scene.readers[at % len(scene.readers)] for at in range(readers)]
    cast += scene.others
    members = [Member(role, path, at, seconds, rounds, scene.system) for at, role in enumerate(cast)]
    for each in members:
        each.out.readline()  # it is ready: TensorFlow takes seconds to be loaded
    Path(f"{path}-go").touch()
    told = [each.out.read() for each in members]
    for role, each in zip(cast, members, strict=True):
        assert each.status() == 0, f"{name}: {role} has failed, see above"
    results = [Counter(json.loads(text)) for text in told]
    os.unlink(f"{path}-go")
    check(name, path, cast, results)
    return sum(results, Counter())


def check(name: str, path: str, cast: list[str], results: list[Counts]) -> None:
    """What must hold in the end; AssertionError if it does not."""
    scene = SCENES[name]
    before = ours(path)
    if "create" in cast:
        winners = [at for at, each in enumerate(results) if each["done"]]
        assert winners == [int(before) // 100], f"{name}: {winners} were told that they have won, and {before} is there"
    elif not scene.others:
        with formats.open(path) as checkpoint:
            for at, role in enumerate(cast):
                if role == "edit" and "copy" not in cast:
                    there = int(checkpoint.read(f"own/c{at}"))
                    assert there == results[at]["done"], f"{name}: writer {at} made {results[at]}, and {there} is there"
    done = sum(each["done"] for each in results)
    assert bool(done) != (scene.system == "no locks"), f"{name}: {done} operations were done"
    make(f"{path}-last{scene.ending}", arrays(7))
    producing.cp(f"{path}-last{scene.ending}", path, force=True, wait=PATIENT)  # removes what is left of others
    assert ours(path) == 7
    assert all(finding.ok for finding in looking.verify(path))
    left = [each for each in os.listdir(os.path.dirname(path)) if "ckptsurgeon-tmp" in each]
    assert not left, f"{name}: {left} are left"


class Member:
    """One of a crowd, in a process of its own, which is forked unless it needs TensorFlow: that has threads.

    Attributes:
        out: gets a line when the member is ready, and in the end what came of it.
    """

    def __init__(self, role: str, *arguments: Any) -> None:
        reading, writing = os.pipe()
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        if role.endswith("tensorflow"):
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(map(str, sys.path))}
            program = [sys.executable, __file__, "--member", json.dumps([role, *arguments])]
            self._process = subprocess.Popen(program, stdout=writing, env=environment)
        else:
            sys.stdout.flush()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which hold no lock here
                self._pid = os.fork()
            if not self._pid:
                status = 1
                try:
                    os.close(reading)
                    os.dup2(writing, 1)
                    sys.stdout = os.fdopen(1, "w", closefd=False)
                    member(role, *arguments)
                    sys.stdout.flush()
                    status = 0
                except BaseException:
                    traceback.print_exc(file=sys.__stderr__)
                finally:
                    os._exit(status)
        os.close(writing)
        self.out = os.fdopen(reading)

    def status(self) -> int:
        """Wait for its end, and return its exit status."""
        self.out.close()
        return self._process.wait() if self._process else os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def member(role: str, path: str, number: int, seconds: float, rounds: int, system: str) -> None:
    """Play a part, and print what came of it."""
    SYSTEMS[system]()
    if role.endswith("tensorflow"):
        import tensorflow  # noqa: F401 -- before it is ready
    calls, end = 0, 0.0

    def goes_on() -> bool:
        nonlocal calls, end
        if not calls:
            print(flush=True)
            while not os.path.exists(f"{path}-go"):
                time.sleep(0.001)
            end = time.monotonic() + seconds
        calls += 1
        time.sleep(random.random() * 0.002)
        return calls <= rounds if rounds else time.monotonic() < end

    print(json.dumps(ROLES[role](path, number, goes_on)))


def main(arguments: list[str]) -> None:
    """Play scenes for a while, and print how often what happened."""
    parser = argparse.ArgumentParser(
        prog="scripts/torture crowds", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", metavar="SCENE", nargs="*", help=f"default: all of {', '.join(SCENES)}")
    parser.add_argument("--seconds", type=float, default=120, help="in all (default: 120)")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--readers", type=int, default=4)
    args = parser.parse_args(arguments)
    unknown = set(args.scenes) - SCENES.keys()
    if unknown:
        parser.error(f"no scene {', '.join(sorted(unknown))}; there are {', '.join(SCENES)}")
    names = args.scenes or [*SCENES]
    total: Counts = Counter()
    for name in names:
        share = args.seconds / len(names)
        counts: Counts = Counter()
        for folder in _folders(share, once=SCENES[name].starts):
            counts += play(name, folder, share, args.writers, args.readers)
        total += counts
        print(f"{name:22} {', '.join(f'{count} {what}' for what, count in _sorted(counts))}", flush=True)
    print(f"{total.total()} operations of {args.writers} writers and {args.readers} readers: nothing lost or mixed")


def _sorted(counts: Counts) -> list[tuple[str, int]]:
    return sorted((what, count) for what, count in counts.items() if not what.startswith("winner"))


def _folders(seconds: float, once: bool) -> Iterator[Path]:
    """Empty folders, one after the other, for so long; one alone if the play itself takes that long."""
    end = time.monotonic() + seconds
    while True:
        with tempfile.TemporaryDirectory(prefix="crowd-") as folder:
            yield Path(folder)
        if once or time.monotonic() > end:
            return


if __name__ == "__main__":
    if sys.argv[1:2] == ["--member"]:
        member(*json.loads(sys.argv[2]))
    else:
        main(sys.argv[1:])
