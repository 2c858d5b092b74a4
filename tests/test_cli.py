"""The command line: columns, JSON keys, exit statuses, one clear line for every mistake, and quiet pipes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import command_line
import models
import numpy as np
import pytest

from ckptsurgeon import cli, formats
from ckptsurgeon.formats import state
from ckptsurgeon.publish import Lock

PROGRAM = [sys.executable, "-m", "ckptsurgeon"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the checkpoints a and b, as a user's would be."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args: str) -> tuple[int, str, str]:
    """Run the program: exit status, stdout, stderr."""
    done = command_line.run(*args)
    return done.returncode, done.stdout, done.stderr


def apart(*args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run the program as its own process: exit status, stdout, stderr."""
    done = subprocess.run([*PROGRAM, *args], input=stdin, capture_output=True, env={**os.environ, **(env or {})})
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def on_terminal(*args: str, env: dict[str, str] | None = None) -> str:
    """What the program shows on a terminal."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [*PROGRAM, *args], stdin=follower, stdout=follower, stderr=follower, env={**os.environ, **(env or {})}
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 4096):
            shown += chunk
    except OSError:  # Linux says EIO when the other end has closed
        pass
    os.close(leader)
    assert child.wait() == 0
    return shown.decode()


def lines(text: str) -> list[list[str]]:
    """Plain output as rows of columns."""
    return [line.split("\t") for line in text.splitlines()]


# -- looking


def test_ls_prints_plain_columns_in_natural_order() -> None:
    """name, dtype, shape, bytes, tab-separated, without header or total."""
    formats.write("n", {f"layer{k}/w": np.zeros((2, k + 1), np.float32) for k in (10, 2, 0)})
    status, out, err = run("ls", "n")
    assert (status, err) == (0, "")
    assert lines(out) == [
        ["layer0/w", "float32", "[2,1]", "8"],
        ["layer2/w", "float32", "[2,3]", "24"],
        ["layer10/w", "float32", "[2,11]", "88"],
    ]


def test_ls_json_has_the_contracts_keys_in_order() -> None:
    """One object a line, keys as documented, null where there is nothing."""
    rows = [json.loads(line) for line in run("ls", "a", "--json")[1].splitlines()]
    assert all(list(row) == ["name", "dtype", "shape", "bytes", "layer", "slot_of", "full_name"] for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert by_name["global_step"] == {
        "name": "global_step", "dtype": "int32", "shape": [], "bytes": 4, "layer": None, "slot_of": None,
        "full_name": None,
    }  # fmt: skip
    slot = by_name["dnn/layer1/Linear/Bias/Adagrad"]
    assert (slot["layer"], slot["slot_of"]) == (1, "dnn/layer1/Linear/Bias")


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("ls a dnn/layer0/*/Bias", ["dnn/layer0/Linear/Bias"]),
        ("ls a --layers 2 --no-slots", ["dnn/layer2/Linear/Bias", "dnn/layer2/Linear/Matrix"]),
        ("ls a --match **/Bias --exclude dnn/layer[01]/**", None),
        ("ls a --layers -1 --match global_step --no-slots",
         ["dnn/layer2/Linear/Bias", "dnn/layer2/Linear/Matrix", "global_step"]),
        ("ls a dnn/** --no-slots --sort size",
         ["dnn/layer1/Linear/Matrix", "dnn/layer0/Linear/Matrix", "dnn/layer2/Linear/Matrix", "dnn/layer1/Linear/Bias",
          "dnn/layer0/Linear/Bias", "dnn/layer2/Linear/Bias"]),
    ],
)  # fmt: skip
def test_ls_selects_and_sorts(arguments: str, names: list[str] | None) -> None:
    """Globs, layers, excludes and --sort; a bracket is literal, so the third one excludes nothing and is refused."""
    status, out, err = run(*shlex.split(arguments))
    if names is None:
        assert status == 2
        assert "matches nothing in the selection" in err
    else:
        assert [row[0] for row in lines(out)] == names


def test_ls_total_and_sha256() -> None:
    """--total is one line; parameters leave slots out; digests are of the little-endian bytes."""
    import hashlib

    arrays = models.read(Path("a"))
    status, out, _ = run("ls", "a", "--total")
    parameters = sum(values.size for name, values in arrays.items() if not name.endswith("/Adagrad"))
    size = sum(values.nbytes for values in arrays.values())
    assert (status, lines(out)) == (0, [["tf-v2", str(len(arrays)), str(parameters), str(size), "0", "1"]])
    rows = [json.loads(line) for line in run("ls", "a", "--sha256", "--json")[1].splitlines()]
    assert {row["name"]: row["sha256"] for row in rows} == {
        name: hashlib.sha256(values.tobytes()).hexdigest() for name, values in arrays.items()
    }


def test_layers_lists_layers_and_the_rest() -> None:
    """Each layer with its scheme and counts, slots among the variables and not among the parameters; then the rest."""
    assert lines(run("layers", "a")[1]) == [
        ["0", "skflow", "4", "20", "160"],
        ["1", "skflow", "4", "25", "200"],
        ["2", "skflow", "4", "18", "144"],
        ["-", "-", "6", "14", "104"],
    ]
    rows = [json.loads(line) for line in run("layers", "a", "--json")[1].splitlines()]
    assert list(rows[0]) == ["layer", "scheme", "variables", "parameters", "bytes"]
    assert rows[-1]["layer"] is None


def test_get_writes_npy_text_and_json(folder: Path) -> None:
    """To a pipe or a file as .npy, to a terminal as text, with --json nested lists; indexes in NumPy's way."""
    import io

    expected = models.read(folder / "a")["dnn/layer0/Linear/Matrix"]
    done = subprocess.run([*PROGRAM, "get", "a", "dnn/layer0/Linear/Matrix"], capture_output=True)
    assert np.array_equal(np.load(io.BytesIO(done.stdout)), expected)
    assert run("get", "a", "dnn/layer0/Linear/Matrix[1:3,:]", "-o", "part.npy")[0] == 0
    assert np.array_equal(np.load("part.npy"), expected[1:3])
    assert json.loads(run("get", "a", "dnn/layer0/Linear/Matrix[0]", "--json")[1]) == expected[0].tolist()
    assert json.loads(run("get", "a", "global_step:0", "--json")[1]) == 1
    assert on_terminal("get", "a", "global_step").strip() == "1"
    formats.write("n", {"nan": np.array([np.nan, -np.inf]), "text": np.asarray(b"raw \xff", object)})
    assert json.loads(run("get", "n", "nan", "--json")[1]) == ["NaN", "-Infinity"]
    assert subprocess.run([*PROGRAM, "get", "n", "text"], capture_output=True).stdout == b"raw \xff"


def test_get_pipes_into_set(folder: Path) -> None:
    """`get A x | set B x -` copies a variable; text and pickles on stdin are refused."""
    done = subprocess.run([*PROGRAM, "get", "a", "dnn/layer0/Linear/Bias"], capture_output=True)
    status, out, err = apart("set", "b", "dnn/layer0/Linear/Bias", "-", stdin=done.stdout)
    assert (status, err) == (0, "")
    assert lines(out) == [["set", "dnn/layer0/Linear/Bias", "float32", "[4]", "16"]]
    a, b = models.read(folder / "a"), models.read(folder / "b")
    assert np.array_equal(a["dnn/layer0/Linear/Bias"], b["dnn/layer0/Linear/Bias"])
    for stdin in (b"", b"1 2 3", b"\x80\x04]q\x00."):
        status, _, err = apart("set", "b", "dnn/layer0/Linear/Bias", "-", stdin=stdin)
        assert (status, err.count("\n")) == (2, 1)
        assert "stdin: not an array in .npy format" in err


def test_set_by_hand_as_in_the_question(folder: Path) -> None:
    """`set m.ckpt 'dnn/layer1/Linear/Bias[3]' 2` does what one did by hand, also with a minus and an exponent."""
    assert run("set", "a", "dnn/layer1/Linear/Bias[3]", "2")[0] == 0
    assert models.read(folder / "a")["dnn/layer1/Linear/Bias"][3] == 2
    assert run("set", "a", "dnn/layer1/Linear/Bias[3]", "-1e-3")[0] == 0
    assert models.read(folder / "a")["dnn/layer1/Linear/Bias"][3] == np.float32(-1e-3)


# -- grafting


def test_graft_prints_what_it_did(folder: Path) -> None:
    """Plain lines, JSON with the contract's keys, nothing with -q, the kept ones with -v; --dry-run says the same."""
    before = models.snapshot(folder)
    planned = run("graft", "a", "b", "--layers", "0-1", "--dry-run")
    assert models.snapshot(folder) == before
    done = run("graft", "a", "b", "--layers", "0-1")
    assert planned == done
    assert lines(done[1])[0] == ["grafted", "dnn/layer0/Linear/Bias", "float32", "[4]", "16"]
    rows = [json.loads(line) for line in run("graft", "a", "b", "--layers", "2", "--json", "-v")[1].splitlines()]
    assert [list(row) for row in rows] == [
        ["name", "action", "from", "dtype", "shape", "bytes", "cast_from", "reason"]
    ] * len(models.read(folder / "b"))
    assert sorted({row["action"] for row in rows}) == ["grafted", "kept"]
    assert run("graft", "a", "b", "--layers", "all", "-q") == (0, "", "")


def test_graft_and_ckptsurgeon_graft_are_installed() -> None:
    """The two programs that an install gives do the same."""
    programs = Path(sys.executable).parent
    for command in ([programs / "graft"], [programs / "ckptsurgeon", "graft"]):
        done = subprocess.run([*command, "a", "b", "--layers", "0", "--dry-run"], capture_output=True, text=True)
        assert done.returncode == 0
        assert len(done.stdout.splitlines()) == 2


def test_any_spelling_of_a_checkpoint_works(folder: Path) -> None:
    """Prefix, index, data file, meta, folder with a state file, SavedModel folder."""
    (folder / "a.meta").write_bytes(b"graph")
    (folder / "run").mkdir()
    models.write(folder / "run" / "model.ckpt-3", 3)
    state.write("run", "run/model.ckpt-3", ["run/model.ckpt-3"])
    (folder / "saved" / "variables").mkdir(parents=True)
    models.write(folder / "saved" / "variables" / "variables", 4)
    expected = run("ls", "a")[1]
    for spelling in ("a.index", "a.data-00000-of-00001", "a.meta", "./a", "run", "saved"):
        assert run("ls", spelling)[1] == expected


# -- mistakes

MISTAKES = [
    ("ls nothing", "nothing: no such checkpoint"),
    ("ls empty", "empty: a folder without a checkpoint"),
    ("ls a.idnex", "a.idnex: no such checkpoint"),
    ("ls truncated", "truncated.index: not a table, or cut short"),
    ("ls flipped", "flipped.index: damaged: wrong checksum"),
    ("ls text.txt", "text.txt: not a checkpoint of a known format"),
    ("ls a --nonsense", "unrecognized arguments: --nonsense"),
    ("ls a --tre", "unrecognized arguments: --tre"),
    ("ls", "the following arguments are required: CKPT"),
    ("list a", "no verb list"),
    ("grft a b", "no verb grft; did you mean graft"),
    ("graft a b", "nothing is selected; expected --layers, --match or --map"),
    ("graft a b --layers 7", "a: no layer 7; expected layers 0-2"),
    ("graft a b --layers 0:2", "did you mean 0-1 (inclusive)"),
    ("graft a b --match nope", "a: nothing matches nope"),
    ("graft a wide --layers 0", "wide: dnn/layer0/Linear/Matrix has a different shape than the donor's; "
                                "expected [4, 4], found [6, 4]; --exclude leaves it out, --on-mismatch skip passes"),
    ("graft a b --layers 0 --slots kep", "invalid --slots 'kep'; expected keep, copy, drop or fill=NUMBER"),
    ("graft a b --layers 0 --on-mismatch ignore", "invalid --on-mismatch 'ignore'; expected error or skip"),
    ("graft a b --map nope=x", "a: --map nope=x is never used"),
    ("graft a b --layers 0 --spread", "unrecognized arguments: --spread"),
    ("graft a a --layers 0", "donor and recipient are one checkpoint"),
    ("graft damaged b --layers 0", "damaged.data-00000-of-00001: damaged: wrong checksum"),
    ("graft short b --layers 2", "short.data-00000-of-00001: cut short, of dnn/layer2/Linear/Bias; expected at least"),
    ("graft noshard b --layers 2", "noshard.data-00000-of-00001: no such file or directory"),
    ("graft a truncated --layers 0", "truncated.index: not a table, or cut short"),
    ("graft a b --layers 0 -o c.h5", "use convert"),
    ("graft a b --layers 0 -o wide", "wide: exists already; --force replaces it"),
    ("get a dnn/layer0/Linear/Bia", "a: no variable dnn/layer0/Linear/Bia; did you mean dnn/layer0/Linear/Bias"),
    ("get a dnn/layer0/Linear/Bias[9]", "out of bounds"),
    ("set a dnn/layer0/Linear/Bias[1] two", "cannot parse value 'two'"),
    ("set a dnn/layer0/Linear/Bias @no.npy", "no.npy: no such file or directory"),
    ("set a global_step 0.5", "global_step is int32: the value 0.5 does not fit"),
]  # fmt: skip


@pytest.fixture
def damaged(folder: Path) -> None:
    """Checkpoints with every kind of damage."""
    models.write(folder / "wide", 3, features=6)
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("hello")
    for name in ("truncated", "flipped", "damaged", "short", "noshard"):
        models.write(folder / name, 4)
    index = folder / "truncated.index"
    index.write_bytes(index.read_bytes()[:100])
    for name, at in (("flipped.index", 40), ("damaged.data-00000-of-00001", 5)):
        content = bytearray((folder / name).read_bytes())
        content[at] ^= 4
        (folder / name).write_bytes(content)
    data = folder / "short.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:200])
    (folder / "noshard.data-00000-of-00001").unlink()


@pytest.mark.usefixtures("damaged")
@pytest.mark.parametrize(("command", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str, message: str
) -> None:
    """Every mistake: exit status 2, one line on stderr that names it, nothing on stdout, no file touched."""
    before = models.snapshot(folder)
    assert cli.main(command.split(" ")) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ckptsurgeon: ")
    assert err.count("\n") == 1
    assert message in err
    assert models.snapshot(folder) == before


@pytest.mark.usefixtures("damaged")
@pytest.mark.parametrize(
    ("name", "status", "problem"),
    [
        ("a", 0, None),
        ("truncated", 1, "cut short"),
        ("flipped", 1, "wrong checksum"),
        ("damaged", 1, "wrong checksum"),
        ("short", 1, "cut short"),
        ("noshard", 1, "missing"),
        ("nothing", 2, None),
        ("empty", 2, None),
    ],
)
def test_verify_tells_by_its_status(name: str, status: int, problem: str | None) -> None:
    """0 sound, 1 damaged with what and where, 2 no checkpoint."""
    found, out, err = run("verify", name)
    assert found == status
    if problem:
        assert all(len(row) == 3 and row[0].startswith(name) for row in lines(out))
        assert any(problem in row[2] for row in lines(out))
    else:
        assert out == ""
    assert bool(err) == (status == 2)
    if status == 0:
        rows = [json.loads(line) for line in run("verify", name, "--all", "--json")[1].splitlines()]
        assert list(rows[0]) == ["file", "name", "problem", "ok"]
        assert all(row["ok"] for row in rows)


def test_several_problems_are_several_lines() -> None:
    """All at once, each with the program's name before it."""
    status, _, err = run("graft", "a", "b", "--layers", "9", "--match", "nope")
    assert status == 2
    assert [line.split(": ")[0] for line in err.splitlines()] == ["ckptsurgeon", "ckptsurgeon"]


def test_a_busy_recipient_is_waited_for_and_then_refused() -> None:
    """--wait bounds the time; the message says what to do."""
    with Lock("b.index", 0):
        status, _, err = run("graft", "a", "b", "--layers", "0", "--wait", "0.1")
    assert status == 2
    assert "b.index: another process is writing it, waited 0.1 s; try again, or --wait longer" in err


# -- manners


def test_a_terminal_gets_a_table_with_a_header() -> None:
    """Aligned columns, the header in bold unless NO_COLOR is set."""
    shown = on_terminal("ls", "a", "dnn/layer0/*/*", env={"TERM": "xterm"})
    assert shown.startswith("\x1b[1mname")
    plain = on_terminal("ls", "a", "dnn/layer0/*/*", env={"NO_COLOR": "1"}).splitlines()
    assert re.fullmatch(r"name +dtype +shape +bytes", plain[0])
    assert re.fullmatch(r"dnn/layer0/Linear/Matrix +float32 +\[4,4\] +64", plain[2])
    assert "sound" in on_terminal("verify", "a")
    assert "2 variables of b; 0 B written" in on_terminal("graft", "a", "b", "--layers", "0", "--link")


def test_a_closed_pipe_ends_quietly() -> None:
    """`ls | head -1` prints one line, and no complaint."""
    formats.write("many", {f"v{number}": np.zeros(1, np.float32) for number in range(5000)})
    command = f"{shlex.join(PROGRAM)} ls many | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "v0\tfloat32\t[1]\t4\n", "")


def test_names_that_are_no_utf8_are_escaped(folder: Path) -> None:
    """Bytes that are no UTF-8 come escaped, also in JSON; tabs and line breaks too, where they would end a column."""
    formats.write("odd", {"tab\there\nnew": np.zeros(1), b"caf\xe9".decode("utf-8", "surrogateescape"): np.zeros(1)})
    status, out, _ = apart("ls", "odd", env={"LC_ALL": "C"})
    assert status == 0
    assert [row[0] for row in lines(out)] == ["caf\\xe9", "tab\\there\\nnew"]
    names = [json.loads(line)["name"] for line in run("ls", "odd", "--json")[1].splitlines()]
    assert names == ["caf\\xe9", "tab\there\nnew"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_gives_130(folder: Path, number: signal.Signals) -> None:
    """Ctrl-C and kill end a waiting graft with one line and status 130, and the recipient is the old one."""
    before = models.snapshot(folder)
    with Lock("b.index", 0):
        child = subprocess.Popen(
            [*PROGRAM, "graft", "a", "b", "--layers", "0"],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
        )
        while child.poll() is None and not _has_opened(child.pid, "b.index"):
            time.sleep(0.01)
        child.send_signal(number)
        assert child.wait() == 130
        assert child.stderr is not None
        assert child.stderr.read() == "ckptsurgeon: interrupted\n"
    assert models.snapshot(folder) == before


def _has_opened(pid: int, name: str) -> bool:
    opened = []
    with contextlib.suppress(FileNotFoundError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                opened.append(os.readlink(fd))
    return any(path.endswith(name) for path in opened)


def test_our_own_bugs_come_with_a_report(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An unexpected exception: status 3, a traceback, and what to report."""

    def broken(path: str) -> None:
        raise ZeroDivisionError("our bug")

    monkeypatch.setattr(formats, "open", broken)
    assert cli.main(["ls", "a"]) == 3
    err = capsys.readouterr().err
    assert "ZeroDivisionError: our bug" in err
    assert "this is a bug in ckptsurgeon" in err
    assert "arguments: ['ls', 'a']" in err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_help_fits_a_screen_and_has_three_examples(verb: str) -> None:
    """--help of each verb: at most 40 lines, three examples."""
    status, out, _ = run(verb, "--help")
    assert status == 0
    assert out.count("\n") <= 40
    assert all(len(line) <= 120 for line in out.splitlines())
    examples = [
        line for line in out.splitlines() if line.startswith("  ") and re.match(r"  (graft|ckptsurgeon) ", line)
    ]
    assert len(examples) >= 3


def test_the_examples_of_the_surgeons_help_run(folder: Path) -> None:
    """The examples that --help shows work as they stand."""
    mine = [verb for verb in cli.VERBS if verb not in ("train", "worker", "ring")]
    for verb in mine:
        text = cli.module_of(verb).HELP
        examples = [line for line in text.splitlines() if line[:2] == "  "]
        assert len(examples) == 3, verb
        for number, line in enumerate(examples):
            place = folder / f"{verb}{number}"
            place.mkdir()
            for name in ("model.ckpt", "src.ckpt", "dst.ckpt", "a.ckpt", "b.ckpt"):
                models.write(place / name, 1 if name in ("src.ckpt", "a.ckpt") else 2)
            words = shlex.split(line)
            if not {"|", "||", "&&", "<", ">"} & set(words):  # no shell is needed
                done = command_line.run(*(words if words[0] == "graft" else words[1:]), cwd=place)
            else:
                programs = [f'{name}() {{ {shlex.join([*PROGRAM, *more])} "$@"; }};'
                            for name, *more in (("graft", "graft"), ("ckptsurgeon",))]  # fmt: skip
                script = f"cd {place}; set -e -o pipefail; {' '.join(programs)} {line}"
                done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
            differs = verb == "diff" and done.returncode == 1
            assert done.returncode == 0 or (differs and not done.stderr), (line, done.stderr)


def test_version_and_overview() -> None:
    """--version gives the number, --help the verbs; no verb at all is a mistake."""
    from ckptsurgeon import __version__

    assert run("--version")[1] == f"ckptsurgeon {__version__}\n"
    status, out, _ = run("--help")
    assert status == 0
    assert all(verb in out for verb in cli.VERBS)
    assert run()[0] == 2


def test_repeated_layers_add_up() -> None:
    """--layers given twice selects both, as --match does."""
    out = run("graft", "a", "b", "--layers", "0", "--layers", "2", "--dry-run")[1]
    assert {row[1].split("/")[1] for row in lines(out)} == {"layer0", "layer2"}
    assert {row[0].split("/")[1] for row in lines(run("ls", "a", "--layers", "0", "--layers", "-1")[1])} == {
        "layer0",
        "layer2",
    }


def test_a_closed_stdout_is_no_bug_of_ours(folder: Path) -> None:
    """With stdout closed a command does its work; that nothing could be printed is one line and exit status 2."""
    for command, words in (("ls a", "stdout: "), ("graft a b --layers 0", "the operation is complete")):
        shell = f"{shlex.join(PROGRAM)} {command} >&-"
        done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        [line] = done.stderr.splitlines()
        assert words in line
    assert models.equal(
        models.read(folder / "b"), models.grafted(models.read(folder / "b"), models.read(folder / "a"), (0,))
    )


def test_errors_name_no_temporary_files(folder: Path) -> None:
    """A result that cannot be written is told by its own name."""
    (folder / "taken").mkdir()
    for arguments in (["get", "a", "global_step", "-o", "taken"], ["get", "a", "global_step", "-o", "no/where.npy"]):
        status, _, err = run(*arguments)
        assert status == 2
        assert err.startswith(f"ckptsurgeon: {arguments[-1]}: ")
        assert "tmp" not in err
