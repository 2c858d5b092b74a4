"""The command line, statement by statement: naming checkpoints and variables, grafting, looking, operating."""

from __future__ import annotations

import io
import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path

import models
import numpy as np
import pytest
from ml_dtypes import bfloat16

from ckptsurgeon import cli, formats

PROGRAM = [sys.executable, "-m", "ckptsurgeon"]
BIAS, MATRIX = "dnn/layer0/Linear/Bias", "dnn/layer0/Linear/Matrix"
FULL = "/.ATTRIBUTES/VARIABLE_VALUE"
ODD = "odd/\udcff\udcfe"


class Shell:
    """The program, run in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *args: str) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        self._capture.readouterr()
        status = cli.main(list(args))
        return status, *self._capture.readouterr()

    def done(self, *args: str) -> str:
        """What a command prints that must succeed."""
        status, out, err = self(*args)
        assert (status, err) == (0, "")
        return out

    def rows(self, *args: str) -> list[dict[str, object]]:
        """The JSON lines of a command that must succeed."""
        return [json.loads(line) for line in self.done(*args, "--json").splitlines()]

    def refused(self, *args: str) -> str:
        """The one line on stderr of a command that must be refused, without its beginning."""
        status, out, err = self(*args)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("ckptsurgeon: ")
        return err[len("ckptsurgeon: ") : -1]


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The program, in a folder with the checkpoints a and b."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    monkeypatch.chdir(tmp_path)
    return Shell(capfd)


def piped(data: bytes, *args: str) -> tuple[int, bytes, str]:
    """Run the program as its own process with these bytes on stdin: exit status, stdout, stderr."""
    done = subprocess.run([*PROGRAM, *args], input=data, capture_output=True)
    return done.returncode, done.stdout, done.stderr.decode()


def stream(name: str) -> bytes:
    """A checkpoint of the working folder as safetensors."""
    assert cli.main(["convert", name, f"{name}.safetensors", "--force"]) == 0
    return Path(f"{name}.safetensors").read_bytes()


def object_based(samples: Path) -> str:
    """The object-based checkpoint among the samples."""
    return str(samples / "object-based-two-shards" / "model.ckpt")


# -- naming a checkpoint


def test_stdin_is_called_stdin(shell: Shell) -> None:
    """What is said of a checkpoint on stdin never names the file that keeps its bytes."""
    data = stream("a")
    status, out, _ = piped(data, "verify", "-", "--all")
    assert status == 0
    assert {line.split(b"\t")[0] for line in out.splitlines()} == {b"stdin"}
    status, _, err = piped(data[:-1], "show", "-")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith("ckptsurgeon: stdin: cut short")


@pytest.mark.parametrize("verb", [["cast", "-", "float16"], ["set", "-", BIAS, "0"], ["compact", "-"]])
def test_stdin_cannot_be_replaced(shell: Shell, verb: list[str]) -> None:
    """An operation on stdin needs -o, and says so."""
    assert piped(stream("a"), *verb) == (2, b"", "ckptsurgeon: - is stdin, which cannot be replaced; expected -o OUT\n")


def test_a_state_file_names_its_folder(shell: Shell) -> None:
    """Who names a `checkpoint` file is told to name the folder."""
    os.mkdir("d")
    shell.done("cp", "a", "d/a")
    assert shell.refused("ls", "d/checkpoint").endswith("name the folder")
    Path("checkpoint").write_text("hello")
    assert "not a checkpoint" in shell.refused("ls", "checkpoint")


@pytest.mark.parametrize("out", ["m.safetensors.index.json", "m.weights.json"])
def test_one_file_never_gets_the_name_of_an_index(shell: Shell, out: str) -> None:
    """It could not be opened by that name."""
    assert shell.refused("convert", "a", out, "--to", "safetensors") == (
        f"{out}: names the index of a set of files; expected the name of one file"
    )


def test_a_folder_without_a_state_file_tells_what_it_holds(shell: Shell) -> None:
    """Checkpoints of any format are offered by name."""
    os.mkdir("d")
    shell.done("convert", "a", "d/a.npz")
    shell.done("convert", "a", "d/old", "--to", "v1")
    assert shell.refused("ls", "d").endswith("name one: a.npz, old")


@pytest.mark.parametrize(
    "verb",
    [
        ["set", "a", BIAS, "0", "-o"],
        ["graft", "a", "b", "--layers", "0", "-o"],
        ["average", "a", "b", "-o"],
        ["convert", "a"],
        ["cp", "a"],
    ],
)
def test_only_extract_writes_to_stdout(shell: Shell, verb: list[str]) -> None:
    """A place called - is refused, and no checkpoint of that name appears."""
    assert shell.refused(*verb, "-").startswith("-o - is stdout")
    assert not [name for name in os.listdir() if name.startswith("-")]


def test_the_ending_of_a_saved_model_counts(shell: Shell, samples: Path) -> None:
    """A folder for a SavedModel is not given the name of another format either."""
    assert shell.refused("set", str(samples / "savedmodel"), "a", "3", "-o", "x.npz").endswith("use convert")
    assert not os.path.exists("x.npz")


def test_an_ending_against_to_says_what_to_do(shell: Shell) -> None:
    """`convert --to` does not send people to convert."""
    assert shell.refused("convert", "a", "y.npz", "--to", "safetensors").endswith("choose another name")


# -- naming variables


def test_names_are_accepted_as_they_are_printed(shell: Shell) -> None:
    """Bytes that are no UTF-8 may be typed as listings show them, by every verb."""
    formats.write("m", {ODD: np.arange(3, dtype=np.float32), "x": np.ones(3, np.float32)})
    (shown,) = [line.split("\t")[0] for line in shell.done("ls", "m").splitlines() if line.startswith("odd")]
    assert shown == r"odd/\xff\xfe"
    assert shell.rows("ls", "m", shown)[0]["name"] == shown
    assert json.loads(shell.done("get", "m", f"{shown}[1]", "--json")) == 1
    shell.done("set", "m", f"{shown}[1]", "7")
    shell.done("graft", "m", "m", "--map", f"{shown}=x")
    shell.done("rename", "m", f"{shown}=plain")
    assert models.read(Path("m"))["plain"].tolist() == models.read(Path("m"))["x"].tolist() == [0, 7, 2]


def test_a_full_key_may_end_in_0(shell: Shell, samples: Path) -> None:
    """The full key of an object-based variable takes a trailing :0 like any name."""
    name = object_based(samples)
    assert shell.done("get", name, f"layer-1/bias{FULL}:0[0:2]", "--json") == shell.done(
        "get", name, "layer-1/bias[0:2]", "--json"
    )


def test_a_rename_by_full_keys(shell: Shell, samples: Path) -> None:
    """Full keys on both sides of a rename mean the short names, for the slots too."""
    name = object_based(samples)
    shell.done("rename", name, "layer-1/bias=layer-1/b", "-o", "short")
    rows = shell.rows("rename", name, f"layer-1/bias{FULL}=layer-1/b{FULL}", "-o", "full")
    assert "layer-1/b/.OPTIMIZER_SLOT/optimizer/m" in [row["name"] for row in rows]
    assert shell.done("diff", "short", "full") == ""


def test_excludes_may_overlap(shell: Shell) -> None:
    """A variable that two patterns take away is no mistake, in either order."""
    for patterns in (["**/Bias", "dnn/layer0/**"], ["dnn/layer0/**", "**/Bias"]):
        out = shell.done("ls", "a", "dnn/*/Linear/*", *(part for each in patterns for part in ("--exclude", each)))
        assert [line.split("\t")[0] for line in out.splitlines()] == [
            "dnn/layer1/Linear/Matrix",
            "dnn/layer2/Linear/Matrix",
        ]
    assert "matches nothing in the selection" in shell.refused("ls", "a", "--exclude", "x*")


@pytest.mark.parametrize(
    "verb", [["ls", "a"], ["ls", "a", "--total"], ["diff", "a", "b"], ["cast", "a", "float16", "--dry-run"]]
)
def test_a_scheme_that_fits_nothing_is_an_error(shell: Shell, verb: list[str]) -> None:
    """--scheme is looked at even where no layers are asked for."""
    assert "no variable fits" in shell.refused(*verb, "--scheme", "tower/{K}/**")


@pytest.mark.parametrize("value", ["-inf", "-Infinity", "-INFINITY"])
def test_minus_infinity_is_a_value(shell: Shell, value: str) -> None:
    """All spellings that begin with a minus work."""
    shell.done("set", "a", BIAS, value)
    assert json.loads(shell.done("get", "a", BIAS, "--json")) == ["-Infinity"] * 4


# -- graft


def test_exclude_takes_from_maps_too(shell: Shell) -> None:
    """A map without another selection selects, and --exclude takes away from that."""
    maps = ["--map", "dnn/layer*/Linear/Bias=dnn/layer*/Linear/Bias"]
    rows = shell.rows("graft", "a", "b", *maps, "--exclude", "dnn/layer0/**", "--dry-run")
    assert [row["name"] for row in rows] == ["dnn/layer1/Linear/Bias", "dnn/layer2/Linear/Bias"]
    assert "matches nothing in the selection" in shell.refused(
        "graft", "a", "b", *maps, "--exclude", "logistic_regression/*"
    )
    assert "--exclude removes the whole selection" in shell.refused("graft", "a", "b", *maps, "--exclude", "dnn/**")


def test_a_map_of_what_is_not_selected_says_so(shell: Shell) -> None:
    """The hint does not suggest the very name that was given."""
    problem = shell.refused("graft", "a", "b", "--layers", "1", "--map", f"{BIAS}={BIAS}")
    assert problem.endswith("is never used; the variables it names are not selected")


def test_dotted_names_pair_by_role(shell: Shell) -> None:
    """Where a map sends each dotted weight, the biases of the layer pair by their role."""
    arrays = {f"layers.{layer}.weight": np.full((4, 4), layer, np.float32) for layer in range(2)}
    formats.write("torch", arrays | {f"layers.{layer}.bias": np.full(4, layer, np.float32) for layer in range(2)})
    arrays = {f"dnn/hiddenlayer_{layer}/kernel": np.full((4, 4), 9, np.float32) for layer in range(2)}
    formats.write("est", arrays | {f"dnn/hiddenlayer_{layer}/bias": np.full(4, 9, np.float32) for layer in range(2)})
    shell.done("graft", "torch", "est", "--layers", "1", "--map", "layers.{K}.weight=dnn/hiddenlayer_{K}/kernel.T")
    found = models.read(Path("est"))
    assert found["dnn/hiddenlayer_1/bias"].tolist() == [1] * 4
    assert found["dnn/hiddenlayer_0/bias"].tolist() == [9] * 4


def test_equal_values_of_another_dtype_are_cast_all_the_same(shell: Shell) -> None:
    """`cast_from` names the donor's dtype, whether the recipient holds the values already or not."""
    formats.write("p", {"x": np.arange(3)})
    formats.write("q", {"x": np.zeros(3, np.int32)})
    for written in (12, 0):
        (row,) = shell.rows("graft", "p", "q", "--match", "x", "--cast")
        assert (row["cast_from"], row["bytes"]) == ("int64", written)


@pytest.mark.parametrize("time", ["nan", "-1", "soon"])
def test_wait_takes_seconds(shell: Shell, time: str) -> None:
    """What is no time is refused, rather than waited for."""
    assert "--wait" in shell.refused("graft", "a", "b", "--layers", "0", "--wait", time)


def test_graft_tells_its_version(shell: Shell) -> None:
    """`graft --version` says what `ckptsurgeon --version` says."""
    program = [sys.executable, "-c", "import sys; from ckptsurgeon.cli import graft; sys.exit(graft())", "--version"]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout == shell.done("--version")


# -- looking


def test_no_slots_counts_in_a_total(shell: Shell) -> None:
    """`ls --total --no-slots` is the total of what `ls --no-slots` lists."""
    listed = shell.rows("ls", "a", "--no-slots")
    (total,) = shell.rows("ls", "a", "--total", "--no-slots")
    assert total["variables"] == len(listed) == 10
    assert total["bytes"] == sum(int(str(row["bytes"])) for row in listed)


@pytest.mark.parametrize(
    "options",
    [
        ["--total", "--tree"],
        ["--total", "--checkpoints"],
        ["--tree", "--sha256"],
        ["--total", "--sha256"],
        ["--tree", "--json"],
        ["--checkpoints", "--match", "x"],
        ["--checkpoints", "x"],
    ],
)
def test_listings_that_exclude_each_other(shell: Shell, options: list[str]) -> None:
    """No option of ls is silently left aside."""
    assert shell.refused("ls", ".", *options)


def test_get_overwrites_nothing_of_its_checkpoint(shell: Shell) -> None:
    """A FILE that is one of the checkpoint's own is refused, under whatever name."""
    before = models.snapshot(Path("."))
    os.symlink("a.index", "link")
    for name in ("a.index", "a.data-00000-of-00001", "./a.index", "link"):
        assert "belongs to the checkpoint" in shell.refused("get", "a", BIAS, "-o", name)
    os.unlink("link")
    assert models.snapshot(Path(".")) == before


def test_get_writes_json_to_a_file_and_a_dash_is_stdout(shell: Shell) -> None:
    """-o holds for --json too, and -o - is as good as none."""
    shell.done("get", "a", "global_step", "--json", "-o", "step.json")
    assert Path("step.json").read_text() == "1\n"
    status, out, _ = piped(b"", "get", "a", BIAS, "-o", "-")
    assert status == 0
    assert np.load(io.BytesIO(out)).shape == (4,)
    assert not os.path.exists("-")


# -- operating


def test_set_takes_what_get_gives(shell: Shell) -> None:
    """Every dtype goes through `get | set -` and comes back, scalar strings raw and arrays of strings as .npy."""
    strings = np.array([[b"a", b"bc"], [b"", b"\xff"]], object)
    arrays = {"s": np.array(b"raw\n\0", object), "ss": strings, "h": np.array([1.5, 3], bfloat16)}
    formats.write("m", arrays)
    empty = {name: np.zeros_like(array) for name, array in arrays.items()}
    empty["s"], empty["ss"] = np.array(b"", object), np.full((2, 2), b"", object)
    formats.write("n", empty)
    for name in arrays:
        _, data, _ = piped(b"", "get", "m", name)
        assert piped(data, "set", "n", name, "-")[0] == 0
    assert shell.done("diff", "m", "n", "--exact") == ""


def test_set_refuses_strings_for_numbers_and_back(shell: Shell) -> None:
    """Raw bytes are no numbers, and numbers no strings."""
    formats.write("m", {"s": np.array(b"x", object), "x": np.zeros(2)})
    np.save("n.npy", np.zeros(2))
    Path("raw").write_bytes(b"hello")
    assert shell.refused("set", "m", "x", "@raw").startswith("raw: not an array in .npy format; found first bytes")
    assert shell.refused("set", "m", "s", "@n.npy").endswith("no such value can be set; found float64")


def test_set_does_not_wait_for_a_terminal(shell: Shell) -> None:
    """Where nothing is piped into it, - is refused."""
    leader, follower = pty.openpty()
    done = subprocess.run([*PROGRAM, "set", "a", BIAS, "-"], stdin=follower, capture_output=True, timeout=600)
    os.close(leader)
    os.close(follower)
    assert (done.returncode, done.stderr) == (2, b"ckptsurgeon: - reads stdin, but nothing is piped into it\n")


def test_set_takes_the_json_of_get(shell: Shell) -> None:
    """NaN and infinities come in as the strings that they go out as."""
    values = '["NaN", "Infinity", "-Infinity", 1.0]'
    shell.done("set", "a", BIAS, values)
    assert shell.done("get", "a", BIAS, "--json") == values + "\n"
    assert "cannot parse value" in shell.refused("set", "a", BIAS, '["nan", 1, 2, 3]')


def test_drop_slots_where_there_are_none(shell: Shell) -> None:
    """The message does not ask for the option that was given."""
    shell.done("drop", "a", "--slots", "-o", "bare")
    assert shell.refused("drop", "bare", "--slots") == "bare: there are no slots and no optimizer variables"
    assert shell.refused("drop", "bare").endswith("expected a glob of names, or --slots")


def test_extract_of_slots_alone_names_its_own_option(shell: Shell) -> None:
    """--slots of extract takes no policy, so none is suggested."""
    assert shell.refused("extract", "a", "--match", "**/Adagrad", "-o", "x").endswith(
        "select their variables, and --slots"
    )


def test_an_average_of_integers_alone_is_refused(shell: Shell) -> None:
    """A selection of which nothing is averaged is an error, not a copy of the first."""
    problem = shell.refused("average", "a", "b", "--match", "global_step", "-o", "m")
    assert problem == "a: the selection holds nothing to average; expected floats, found int32"
    assert not os.path.exists("m.index")


def test_a_transposed_variable_is_said_to_be_so(shell: Shell) -> None:
    """`convert --map X=X.T` reports what it does."""
    rows = shell.rows("convert", "a", "x.npz", "--map", f"{MATRIX}={MATRIX}.T")
    assert [(row["name"], row["action"]) for row in rows] == [
        (MATRIX, "transposed"),
        (f"{MATRIX}/Adagrad", "transposed"),
    ]
    assert np.array_equal(np.load("x.npz")[MATRIX], models.read(Path("a"))[MATRIX].T)


@pytest.mark.parametrize(("options", "hint"), [(["--to", "v1"], "'rename' it"), ([], "expected UTF-8")])
def test_what_a_format_cannot_hold_is_named_as_listings_name_it(shell: Shell, options: list[str], hint: str) -> None:
    r"""A name that is not UTF-8 stands in an error as \xHH, and the error says what is expected."""
    formats.write("m", {ODD: np.zeros(1, np.float32)})
    problem = shell.refused("convert", "m", "out" if options else "out.safetensors", *options)
    assert r"odd/\xff\xfe" in problem
    assert hint in problem


def test_a_v1_checkpoint_says_what_to_do_with_other_dtypes(shell: Shell) -> None:
    """Each variable that a V1 checkpoint cannot hold comes with a way out."""
    formats.write("m", {"h": np.zeros(1, bfloat16)})
    assert shell.refused("convert", "m", "old", "--to", "v1") == "old: h: a V1 checkpoint cannot hold bfloat16; cast it"


@pytest.mark.parametrize(
    "command",
    [("get", "a", BIAS, "-o"), ("extract", "a", "--match", BIAS, "--to", "npz", "-o"), ("convert", "a", "--to", "npz")],
)
def test_nothing_takes_the_place_of_a_pipe(shell: Shell, tmp_path: Path, command: tuple[str, ...]) -> None:
    """A device or a pipe is not renamed over, even by force: it is no file."""
    os.mkfifo(tmp_path / "pipe")
    words = [*command[:2], "pipe", *command[2:]] if command[0] == "convert" else [*command, "pipe"]
    status, out, err = shell(*words, "--force")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir() if "tmp" in path.name) == []


def test_get_replaces_a_file_by_force_alone(shell: Shell, tmp_path: Path) -> None:
    """As every verb that writes."""
    (tmp_path / "keep.npy").write_text("important")
    status, _, err = shell("get", "a", BIAS, "-o", "keep.npy")
    assert (status, err) == (2, "ckptsurgeon: keep.npy: exists already; --force overwrites it\n")
    assert (tmp_path / "keep.npy").read_text() == "important"
    shell.done("get", "a", BIAS, "-o", "keep.npy", "--force")
    assert np.load(tmp_path / "keep.npy").size
