"""The `checkpoint` state file: all spellings that TensorFlow has used are read, and what is written is read back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptsurgeon.errors import DamagedError, RefusedError
from ckptsurgeon.formats import state

KEPT = 'all_model_checkpoint_paths: "m-1"\nall_model_checkpoint_paths: "m-2"\n'


def read(folder: Path, text: str | bytes) -> state.State:
    """What a folder's state file with this text says."""
    (folder / "checkpoint").write_bytes(text if isinstance(text, bytes) else text.encode())
    found = state.read(str(folder))
    assert found is not None
    return found


def test_a_saver_s_file(tmp_path: Path) -> None:
    """The latest, and all that are kept, joined to the folder."""
    found = read(tmp_path, f'model_checkpoint_path: "m-2"\n{KEPT}')
    assert found.latest == str(tmp_path / "m-2")
    assert found.all == [str(tmp_path / "m-1"), str(tmp_path / "m-2")]


def test_a_manager_s_file(tmp_path: Path) -> None:
    """Timestamps are passed over."""
    times = "all_model_checkpoint_timestamps: 1690000000.25\nlast_preserved_timestamp: -1.5e+09\n"
    found = read(tmp_path, f'model_checkpoint_path: "m-2"\n{KEPT}{times}')
    assert found.latest == str(tmp_path / "m-2")
    assert len(found.all) == 2


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('model_checkpoint_path: "m"', "m"),
        ("model_checkpoint_path:'m'", "m"),
        ('  model_checkpoint_path  :  "m"  ', "m"),
        ('# said by hand: "x"\nmodel_checkpoint_path: "m" # and so on', "m"),
        ('model_checkpoint_path: "m";', "m"),
        ('model_checkpoint_path: "a" \'b\'\n"c"', "abc"),
        (r'model_checkpoint_path: "a\"b\\c\'d"', "a\"b\\c'd"),
        (r'model_checkpoint_path: "\303\251\xc3\xA9\x41\101\1015"', "ééAAA5"),
        (r'model_checkpoint_path: "\n\t\r\a\b\f\v"', "\n\t\r\a\b\f\v"),
        (r'model_checkpoint_path: "\8\9\q\?"', "89q?"),
        (r'model_checkpoint_path: "\377"', "\udcff"),
        ('model_checkpoint_path: "ü 層"', "ü 層"),
        (b'model_checkpoint_path: "\xff"', "\udcff"),
        ('model_checkpoint_path: "old"\nmodel_checkpoint_path: "new"', "new"),
        ('model_checkpoint_path: "a/b/m"', "a/b/m"),
        ('model_checkpoint_path: "m-?????-of-00003"', "m-?????-of-00003"),
        ('model_checkpoint_path: "m"\r\n', "m"),
    ],
)
def test_spellings(tmp_path: Path, text: str | bytes, path: str) -> None:
    """Quotes, escapes, comments, strings in several parts: the path that is meant."""
    assert read(tmp_path, text).latest == os.path.join(str(tmp_path), path)


def test_a_folder_that_was_moved(tmp_path: Path) -> None:
    """A path that leads nowhere is looked for by its last part inside the folder; one that leads somewhere is kept."""
    (tmp_path / "m-2.index").touch()
    found = read(tmp_path, 'model_checkpoint_path: "/was/here/m-2"\nall_model_checkpoint_paths: "/was/here/m-1"')
    assert found.latest == str(tmp_path / "m-2")
    assert found.all == ["/was/here/m-1"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "m-2.index").touch()
    assert read(tmp_path, f'model_checkpoint_path: "{tmp_path}/other/m-2"').latest == str(tmp_path / "other" / "m-2")
    (tmp_path / "v1").touch()
    assert read(tmp_path, 'model_checkpoint_path: "/was/here/v1"').latest == str(tmp_path / "v1")
    (tmp_path / "v1-00000-of-00003").touch()
    moved = read(tmp_path, 'model_checkpoint_path: "/was/here/v1-?????-of-00003"')
    assert moved.latest == str(tmp_path / "v1-?????-of-00003")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (r"C:\\Users\\me\\run\\m-2", "m-2"),
        ("C:/Users/me/run/m-2", "m-2"),
        (r"run\\m-2", "m-2"),
        (r"below\\m-3", "below/m-3"),
        (r"\\\\server\\share\\m-?????-of-00003", "m-?????-of-00003"),
        (r"odd\\name", r"odd\name"),
    ],
)
def test_paths_that_windows_wrote(tmp_path: Path, path: str, name: str) -> None:
    """Drive letters and backslashes: a relative path is followed, an absolute one is its last part in the folder."""
    (tmp_path / "below").mkdir()
    for each in ("m-2.index", "below/m-3.index", "m-00000-of-00003", r"odd\name.index", "name.index"):
        (tmp_path / each).touch()
    assert read(tmp_path, f'model_checkpoint_path: "{path}"').latest == str(tmp_path / name)


def test_a_path_of_windows_does_not_lead_out(tmp_path: Path) -> None:
    """Backslashes do not reach a checkpoint outside the folder either."""
    run, _ = outside(tmp_path)
    with pytest.raises(RefusedError, match="outside its folder"):
        _ = read(run, r'model_checkpoint_path: "..\\other\\m-2"').latest


def outside(root: Path) -> tuple[Path, Path]:
    """A folder `run` with a link `elsewhere` to its sister `other`, in which the checkpoint m-2 stands."""
    (root / "run").mkdir()
    (root / "other" / "deeper").mkdir(parents=True)
    (root / "other" / "m-2.index").touch()
    (root / "other" / "m-00000-of-00001").touch()
    (root / "run" / "elsewhere").symlink_to(root / "other")
    return root / "run", root / "other"


@pytest.mark.parametrize(
    "path",
    [
        "{other}/m-2",
        "../other/m-2",
        "elsewhere/m-2",
        "./elsewhere/deeper/../m-2",
        "{run}/../other/m-2",
        "../other/m-00000-of-00001",
        "../other/m-?????-of-00001",
        "{run}2/m-2",
    ],
)
def test_a_state_file_does_not_lead_out_of_its_folder(tmp_path: Path, path: str) -> None:
    """A checkpoint elsewhere that exists is refused in one line, also where its namesake stands in the folder."""
    run, other = outside(tmp_path)
    (tmp_path / "run2").symlink_to(other)
    (run / "m-2.index").touch()
    found = read(run, f'model_checkpoint_path: "{path.format(run=run, other=other)}"\n{KEPT}')
    assert found.all == [str(run / "m-1"), str(run / "m-2")]
    with pytest.raises(RefusedError, match=r"outside its folder; found .*; if that is meant, name that") as raised:
        _ = found.latest
    assert str(raised.value).startswith(f"{run / 'checkpoint'}: ")
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "path", ["../m-3", "../other/m", "elsewhere/m", "/m-3", "/" * 99 + "m-3", "/a" * 2000 + "/m-3", "../a\\000b/m-3"]
)
def test_a_path_that_leads_nowhere_is_not_looked_for_elsewhere(tmp_path: Path, path: str) -> None:
    """What is not there is a name in the folder, whatever folder it had."""
    run, _ = outside(tmp_path)
    assert read(run, f'model_checkpoint_path: "{path}"').latest == str(run / path.rpartition("/")[2])


def test_a_path_into_the_folder_itself(tmp_path: Path) -> None:
    """Absolute paths into the folder or below it are followed, through whatever link the folder is spelt."""
    (tmp_path / "run" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for name in ("m-2", "below/m-3"):
        (tmp_path / "run" / f"{name}.index").touch()
        for one in ("run", "link"):
            for other in ("run", "link"):
                path = tmp_path / other / name
                assert read(tmp_path / one, f'model_checkpoint_path: "{path}"').latest == str(path)
        path = tmp_path / "run" / ".." / "link" / name
        assert read(tmp_path / "link", f'model_checkpoint_path: "{path}"').latest == str(path)


def test_no_state_file(tmp_path: Path) -> None:
    """None, whether the folder is empty, missing or a file, or what has the name is a folder or a pipe."""
    assert state.read(str(tmp_path)) is None
    assert state.read(str(tmp_path / "nowhere")) is None
    (tmp_path / "file").touch()
    assert state.read(str(tmp_path / "file")) is None
    (tmp_path / "checkpoint").mkdir()
    assert state.read(str(tmp_path)) is None
    (tmp_path / "checkpoint").rmdir()
    os.mkfifo(tmp_path / "checkpoint")
    assert state.read(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "names no checkpoint"),
        ('model_checkpoint_path: ""', "names no checkpoint"),
        (KEPT, "names no checkpoint"),
        (f'model_checkpoint_path: "{"a/" * 5000}m"', "names no checkpoint; expected a path, found 10001 characters"),
        ("model_checkpoint_path", r"not a checkpoint state file \(line 1\)"),
        (f'{KEPT}\nmodel_checkpoint_path: "m', r"not a checkpoint state file \(line 4\)"),
        ('model_checkpoint_path: "m\nn"', "not a checkpoint state file"),
        ('model_checkpoint_path: "m\\', "not a checkpoint state file"),
        ('model_checkpoint_path = "m"', "not a checkpoint state file"),
        (b"\x89HDF\r\n\x1a\n", "not a checkpoint state file"),
        (b"\x00" * 100, "not a checkpoint state file"),
        ('model_checkpoint_path: "m"\n' + "#" * state.MAX_SIZE, "too large"),
    ],
)
def test_what_is_no_state_file(tmp_path: Path, text: str | bytes, problem: str) -> None:
    """One line that names the file and, where that helps, the line."""
    with pytest.raises(DamagedError, match=problem) as raised:
        read(tmp_path, text)
    assert str(raised.value).startswith(f"{tmp_path / 'checkpoint'}: ")
    assert len(str(raised.value).splitlines()) == 1


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=60), st.text("a:\"'\\x8 \n#", max_size=30).map(str.encode)))
def test_any_bytes_are_a_state_file_or_damaged(tmp_path: Path, noise: bytes) -> None:
    """Noise in the place of a path, or of the whole file, never ends in another exception."""
    for text in (noise, b'model_checkpoint_path: "' + noise + b'"'):
        try:
            found = read(tmp_path, text)
        except DamagedError:
            continue
        assert found.latest


names = st.text(st.characters(exclude_characters="\x00/", exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(latest=names, kept=st.lists(names, max_size=3))
def test_what_is_written_is_read(tmp_path: Path, latest: str, kept: list[str]) -> None:
    """Any file names come back: quotes, backslashes, line breaks, every alphabet."""
    prefixes = [str(tmp_path / name) for name in kept]
    state.write(str(tmp_path), str(tmp_path / latest), prefixes, sync=False)
    found = state.read(str(tmp_path))
    assert found is not None
    assert (found.latest, found.all) == (str(tmp_path / latest), prefixes)


def test_written_paths_are_relative(tmp_path: Path) -> None:
    """A folder that we wrote can be moved, checkpoints in a sister folder included."""
    (tmp_path / "run").mkdir()
    state.write(str(tmp_path / "run"), str(tmp_path / "run" / "m-2"), [str(tmp_path / "old" / "m-1")])
    assert (tmp_path / "run" / "checkpoint").read_text() == (
        'model_checkpoint_path: "m-2"\nall_model_checkpoint_paths: "../old/m-1"\n'
    )
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint"]


SLOW = {
    "a name": b"a",
    "spaces": b" ",
    "a name, then spaces": b"a ",
    "open strings": b'"',
    "empty strings": b'""',
    "two kinds of strings": b"\"\" '' ",
    "escapes": b"\\x",
    "strings with spaces": b'""   ',
    "comments": b"#\n",
    "numbers": b"a:1\n",
    "names": b"a\n",
    "nothing": b"\x00",
}
TRY = """
import sys
from ckptsurgeon.errors import DamagedError, RefusedError
from ckptsurgeon.formats import state
for folder in sys.argv[1:]:
    try:
        state.read(folder)
    except DamagedError:
        pass
"""


def test_no_text_makes_the_parser_hang(tmp_path: Path) -> None:
    """Long files that repeat what a pattern could be tried on again and again are judged soon."""
    folders = []
    for name, part in SLOW.items():
        for start in (b"", b"model_checkpoint_path:", b'model_checkpoint_path: "m'):
            folders.append(tmp_path / f"{name} {len(start)}")
            folders[-1].mkdir()
            (folders[-1] / "checkpoint").write_bytes(start + part * (state.MAX_SIZE // 4 // len(part)) + b"@")
    done = subprocess.run([sys.executable, "-c", TRY, *map(str, folders)], timeout=600, check=False)
    assert done.returncode == 0
