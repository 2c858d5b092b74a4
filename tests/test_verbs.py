"""Operations from paths to report, over random checkpoints: what was asked for changes, and nothing else."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path

import models
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptsurgeon import formats
from ckptsurgeon.cli.parser import Parser
from ckptsurgeon.errors import CkptSurgeonError, NotFoundError, RefusedError, UsageError
from ckptsurgeon.surgeon import options
from ckptsurgeon.verbs import changing, listing, looking

graft_verb = importlib.import_module("ckptsurgeon.cli.verbs.graft")  # `cli.graft` is the program


@pytest.fixture
def pair(tmp_path: Path) -> tuple[str, str]:
    """A donor and a recipient of the same shapes."""
    models.write(tmp_path / "a", 1)
    models.write(tmp_path / "b", 2)
    return str(tmp_path / "a"), str(tmp_path / "b")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_history_of_grafts_gives_just_what_was_asked_for(tmp_path: Path, data: st.DataObject) -> None:
    """After any sequence of grafts: donors unchanged, grafted variables the donors', all others the recipient's."""
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    units = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    donors = [models.write(tmp_path / f"donor{seed}", seed, units=units) for seed in range(2)]
    expected = models.write(tmp_path / "b", 9, units=units)
    for _ in range(data.draw(st.integers(1, 5))):
        which = data.draw(st.integers(0, 1))
        layers = data.draw(st.lists(st.integers(0, len(units) - 1), min_size=1, unique=True))
        before = models.snapshot(tmp_path)
        report = changing.graft(
            str(tmp_path / f"donor{which}"),
            str(tmp_path / "b"),
            layers=",".join(map(str, layers)),
            link=data.draw(st.booleans()),
            sync=False,
        )
        expected = models.grafted(expected, donors[which], tuple(layers))
        assert models.equal(models.read(tmp_path / "b"), expected)
        assert len(report.changed) == 2 * len(layers)
        after = models.snapshot(tmp_path)
        assert {k: v for k, v in after.items() if k.startswith("donor")} == {
            k: v for k, v in before.items() if k.startswith("donor")
        }
    assert all(finding.ok for finding in looking.verify(str(tmp_path / "b")))


def test_slots_are_kept_copied_dropped_or_filled(tmp_path: Path) -> None:
    """Each policy gives what its name says, and touches the slots of no other variable."""
    donor = models.write(tmp_path / "a", 1)
    slots = [f"dnn/layer1/Linear/{role}/Adagrad" for role in ("Matrix", "Bias")]
    for policy in ("keep", "copy", "drop", "fill=0.25"):
        old = models.write(tmp_path / "b", 2)
        changing.graft(str(tmp_path / "a"), str(tmp_path / "b"), layers="1", slots=policy)
        expected = models.grafted(old, donor, (1,))
        for slot in slots:
            if policy == "copy":
                expected[slot] = donor[slot]
            elif policy == "drop":
                del expected[slot]
            elif policy == "fill=0.25":
                expected[slot] = np.full_like(old[slot], 0.25)
        assert models.equal(models.read(tmp_path / "b"), expected)


def test_a_dry_run_reports_the_same_and_writes_nothing(pair: tuple[str, str], tmp_path: Path) -> None:
    """What --dry-run reports is what then happens."""
    before = models.snapshot(tmp_path)
    planned = changing.graft(*pair, layers="0-1", slots="drop", dry_run=True)
    assert models.snapshot(tmp_path) == before
    done = changing.graft(*pair, layers="0-1", slots="drop")
    assert planned.rows == done.rows
    assert sum(row["bytes"] for row in done.rows) == 4 * (16 + 4 + 20 + 5)  # type: ignore[misc]


def test_an_output_holds_live_bytes_alone_in_one_shard(pair: tuple[str, str], tmp_path: Path) -> None:
    """With -o the recipient stays, and OUT has no byte that no variable refers to."""
    donor, old = models.read(tmp_path / "a"), models.read(tmp_path / "b")
    changing.graft(*pair, layers="0", link=True)  # b now has two shards and dead bytes
    out = tmp_path / "out"
    changing.graft(*pair, layers="1", out=str(out))
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.data-00000-of-00001", "out.index"]
    assert models.equal(models.read(out), models.grafted(old, donor, (0, 1)))
    assert models.equal(models.read(tmp_path / "b"), models.grafted(old, donor, (0,)))
    size = out.with_name("out.data-00000-of-00001").stat().st_size
    assert size == sum(values.nbytes for values in old.values())


def test_an_existing_output_is_refused_without_force(pair: tuple[str, str], tmp_path: Path) -> None:
    """OUT is never overwritten unasked, and with --force ends up under its usual names, several shards or damaged."""
    donor, old = models.read(tmp_path / "a"), models.read(tmp_path / "b")
    models.write(tmp_path / "out", 5)
    before = models.snapshot(tmp_path)
    with pytest.raises(RefusedError, match=r"out: exists already; --force replaces it"):
        changing.graft(*pair, layers="0", out=str(tmp_path / "out"))
    assert models.snapshot(tmp_path) == before
    changing.graft(pair[0], str(tmp_path / "out"), layers="0")
    changing.graft(*pair, layers="0", out=str(tmp_path / "out"), force=True)
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.data-00000-of-00001", "out.index"]
    (tmp_path / "out.index").write_bytes(b"garbage")
    changing.graft(*pair, layers="0", out=str(tmp_path / "out"), force=True)
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.data-00000-of-00001", "out.index"]
    assert models.equal(models.read(tmp_path / "out"), models.grafted(old, donor, (0,)))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a", "never modified"),
        ("./a", "never modified"),
        ("x.h5", "another format.*use convert"),
        ("x.safetensors", "another format.*use convert"),
        ("x.index", "names one file"),
        ("nowhere/x", "no such folder"),
        (".", "is a folder"),
    ],
)
def test_a_bad_output_is_refused(
    pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    """OUT may not be the donor, a folder, or the name of another format."""
    monkeypatch.chdir(tmp_path)
    before = models.snapshot(tmp_path)
    with pytest.raises(CkptSurgeonError, match=message):
        changing.graft("a", "b", layers="0", out=out, force=True)
    assert models.snapshot(tmp_path) == before


def test_a_graft_onto_itself_is_refused(pair: tuple[str, str]) -> None:
    """Donor and recipient must be two, whatever the spelling."""
    with pytest.raises(UsageError, match="donor and recipient are one checkpoint"):
        changing.graft(pair[0], pair[0] + ".index", layers="0")
    with pytest.raises(UsageError, match="nothing is selected"):
        changing.graft(*pair)


def test_big_endian_and_little_endian_graft_into_each_other(tmp_path: Path) -> None:
    """Bytes are swapped where donor and recipient differ in byte order; only --link cannot do that."""
    import strategies

    rng = np.random.default_rng(0)
    arrays = {
        "dnn/layer0/f": rng.normal(size=(3, 2)).astype(np.float32),
        "dnn/layer0/d": rng.normal(size=70_000),
        "dnn/layer0/c": (rng.normal(size=2) + 1j).astype(np.complex64),
        "dnn/layer0/i": np.arange(3, dtype=np.int16),
        "dnn/layer0/b": np.array([True, False]),
    }
    zeros = {name: np.zeros_like(values) for name, values in arrays.items()}
    strategies.write_bundle(tmp_path / "big", arrays, byteorder="big")
    formats.write(str(tmp_path / "little"), zeros)
    changing.graft(str(tmp_path / "big"), str(tmp_path / "little"), layers="0")
    assert models.equal(models.read(tmp_path / "little"), arrays)
    strategies.write_bundle(tmp_path / "big", zeros, byteorder="big")
    with pytest.raises(RefusedError, match="--link cannot change the byte order"):
        changing.graft(str(tmp_path / "little"), str(tmp_path / "big"), layers="0", link=True)
    changing.graft(str(tmp_path / "little"), str(tmp_path / "big"), layers="0")
    assert models.equal(models.read(tmp_path / "big"), arrays)


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        ("x[3]", "2", [0, 1, 2, 2]),
        ("x[-1]", "-1e-3", [0, 1, 2, np.float32(-1e-3)]),
        ("x[0:2]", "7", [7, 7, 2, 3]),
        ("x[1:3]", "[8, 9]", [0, 8, 9, 3]),
        ("x", "[4, 3, 2, 1]", [4, 3, 2, 1]),
        ("x", "nan", [np.nan] * 4),
        ("x:0", "inf", [np.inf] * 4),
    ],
)
def test_set_changes_what_was_named(tmp_path: Path, target: str, value: str, expected: list[float]) -> None:
    """A name, with or without an index in NumPy's way, is set to a number or a list; all else stays."""
    formats.write(str(tmp_path / "m"), {"x": np.arange(4, dtype=np.float32), "y": np.ones(2)})
    changing.set(str(tmp_path / "m"), target, value)
    found = models.read(tmp_path / "m")
    assert np.array_equal(found["x"], np.asarray(expected, np.float32), equal_nan=True)
    assert np.array_equal(found["y"], np.ones(2))


@pytest.mark.parametrize(
    ("target", "value", "message"),
    [
        ("i[0]", "300", "i.0. is int8: the value 300 does not fit"),
        ("i", "0.5", "does not fit"),
        ("x", "[1, 2]", r"different shape; expected \[4\], found \[2\]"),
        ("x[9]", "1", "out of bounds"),
        ("x[a]", "1", r"invalid index \[a\]"),
        ("x", "two", "cannot parse value 'two'"),
        ("x", "1e300", "does not fit"),
        ("z", "1", "no variable z"),
        ("b", "2", "does not fit"),
    ],
)
def test_set_refuses_what_does_not_fit(tmp_path: Path, target: str, value: str, message: str) -> None:
    """A value that the dtype or shape cannot hold is refused, and nothing is written."""
    arrays = {"x": np.zeros(4, np.float32), "i": np.zeros(2, np.int8), "b": np.zeros(2, bool)}
    formats.write(str(tmp_path / "m"), arrays)
    before = models.snapshot(tmp_path)
    with pytest.raises(CkptSurgeonError, match=message):
        changing.set(str(tmp_path / "m"), target, value)
    assert models.snapshot(tmp_path) == before


def test_a_name_with_brackets_wins_over_a_slice(tmp_path: Path) -> None:
    """`x[0]` means the variable of that name where there is one."""
    formats.write(str(tmp_path / "m"), {"x": np.zeros(2, np.float32), "x[0]": np.zeros((), np.float32)})
    changing.set(str(tmp_path / "m"), "x[0]", "5")
    found = models.read(tmp_path / "m")
    assert found["x[0]"] == 5
    assert not found["x"].any()
    assert looking.get(str(tmp_path / "m"), "x[0]") == 5


def test_small_floats_strings_and_integers_are_set_and_got(tmp_path: Path) -> None:
    """bfloat16, int4, bool and a scalar string take values by hand."""
    import ml_dtypes

    arrays = {
        "bf": np.zeros(2, ml_dtypes.bfloat16),
        "i4": np.zeros(2, ml_dtypes.int4),
        "flag": np.zeros((), bool),
        "text": np.asarray(b"old", object),
    }
    formats.write(str(tmp_path / "m"), arrays)
    for target, value in (("bf[1]", "1.5"), ("i4[0]", "-8"), ("flag", "true"), ("text", "néw")):
        changing.set(str(tmp_path / "m"), target, value)
    assert looking.get(str(tmp_path / "m"), "bf").tolist() == [0, 1.5]
    assert looking.get(str(tmp_path / "m"), "i4").tolist() == [-8, 0]
    assert looking.get(str(tmp_path / "m"), "flag")
    assert looking.get(str(tmp_path / "m"), "text").item() == "néw".encode()
    with pytest.raises(CkptSurgeonError, match="9 does not fit"):
        changing.set(str(tmp_path / "m"), "i4[0]", "9")


def test_a_recipient_on_a_folder_without_write_permission_is_refused(pair: tuple[str, str], tmp_path: Path) -> None:
    """A read-only folder: one line, and nothing changes (tried as a user who is not root)."""
    folder = tmp_path / "locked"
    folder.mkdir()
    models.write(folder / "b", 2)
    before = models.snapshot(tmp_path)
    folder.chmod(0o555)
    child = os.fork()
    if child == 0:
        status = 9
        try:
            if os.getuid() == 0:
                for path in (tmp_path, *tmp_path.parents):
                    if path != Path("/tmp") and path != Path("/"):
                        path.chmod(path.stat().st_mode | 0o055)
                folder.chmod(0o555)
                os.setuid(65534)
            changing.graft(pair[0], str(folder / "b"), layers="0")
        except CkptSurgeonError as error:
            status = 0 if "permission denied" in str(error) and len(error.lines) == 1 else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    folder.chmod(0o755)
    assert models.snapshot(tmp_path) == before


def test_a_missing_donor_or_recipient_is_named(pair: tuple[str, str], tmp_path: Path) -> None:
    """A checkpoint that is not there is named, and the near miss is offered."""
    models.write(tmp_path / "recipient", 3)
    with pytest.raises(NotFoundError, match=r"recipent: no such checkpoint; did you mean recipient"):
        changing.graft(pair[0], str(tmp_path / "recipent"), layers="0")
    with pytest.raises(NotFoundError, match="no such checkpoint"):
        changing.graft(str(tmp_path / "nothing"), pair[1], layers="0")


@pytest.mark.parametrize(
    "names", [[], [""], ["\0x"], ["\ud800"], ["\u00e9", b"\xc3\xa9".decode("ascii", "surrogateescape")]]
)
def test_names_that_cannot_be_stored_are_refused(tmp_path: Path, names: list[str]) -> None:
    """No variable, a name that is empty, begins with a zero byte or is no text, or two names that are stored alike."""
    with pytest.raises(RefusedError):
        formats.write(str(tmp_path / "m"), {name: np.zeros(1) for name in names})
    with pytest.raises(RefusedError, match="no checkpoint can have this name"):
        formats.write(f"{tmp_path}/", {"x": np.zeros(1)})
    with pytest.raises(RefusedError, match="x: a string is stored as bytes"):
        formats.write(str(tmp_path / "m"), {"x": np.array(["text"], object)})
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_in_the_place_of_a_data_file_does_not_block(pair: tuple[str, str], tmp_path: Path) -> None:
    """A data file that is a pipe is refused at once; a read would wait for ever."""
    data = tmp_path / "a.data-00000-of-00001"
    data.unlink()
    os.mkfifo(data)
    with pytest.raises(CkptSurgeonError, match="not a regular file"):
        looking.get(pair[0], "dnn/layer0/Linear/Bias")


def test_paths_may_be_path_objects(tmp_path: Path) -> None:
    """Every function of the API takes what os.fspath takes."""
    import ckptsurgeon

    a, b = tmp_path / "a", tmp_path / "b"
    models.write(a, 1)
    models.write(b, 2)
    ckptsurgeon.graft(a, b, layers="0", out=tmp_path / "c")
    ckptsurgeon.set(b, "dnn/layer0/Linear/Bias", 1)
    ckptsurgeon.rename(b, ["learning_rate=rate"], out=tmp_path / "d")
    ckptsurgeon.drop(b, ["dnn/layer1/**"], out=tmp_path / "e")
    ckptsurgeon.cast(b, "float16", out=tmp_path / "f")
    ckptsurgeon.compact(b, out=tmp_path / "g")
    ckptsurgeon.average([a, b], tmp_path / "h")
    ckptsurgeon.extract(b, tmp_path / "i.npz", layers="1")
    ckptsurgeon.convert(b, tmp_path / "j.safetensors")
    ckptsurgeon.cp(b, tmp_path / "k")
    assert ckptsurgeon.get(b, "dnn/layer0/Linear/Bias[0]") == 1
    assert all(finding.ok for finding in ckptsurgeon.verify(tmp_path / "k"))
    assert {found.status for found in ckptsurgeon.diff(b, tmp_path / "k")} == {"same"}
    with ckptsurgeon.open(tmp_path / "c") as checkpoint:
        assert len(checkpoint) > 0


def test_listing_gives_the_rows_that_ls_prints(pair: tuple[str, str]) -> None:
    """ls: the keys of --json in their order; selections, slots, sort order and digests as on the command line."""
    path = pair[0]
    rows = listing.ls(path, layers="0", sha256=True)
    assert list(rows[0]) == ["name", "dtype", "shape", "bytes", "layer", "slot_of", "full_name", "sha256"]
    assert {row["layer"] for row in rows} == {0}
    names = [row["name"] for row in listing.ls(path, layers="0", slots=False, details=False)]
    assert names == ["dnn/layer0/Linear/Bias", "dnn/layer0/Linear/Matrix"]
    sizes = [row["bytes"] for row in listing.ls(Path(path), sort="size")]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(UsageError, match="invalid sort order 'age'; expected name or size"):
        listing.ls(path, sort="age")
    with pytest.raises(UsageError, match="nothing matches nonsense"):
        listing.ls(path, match=["nonsense"])


def test_totals_layers_and_trees_count_the_same(pair: tuple[str, str]) -> None:
    """The numbers of total, of the layers with their rest, and of a tree's folders agree."""
    path = pair[0]
    total = listing.total(path)
    assert list(total) == ["format", "variables", "parameters", "bytes", "unreferenced", "shards"]
    layers = listing.layers(path)
    assert list(layers[0]) == ["layer", "scheme", "variables", "parameters", "bytes"]
    assert [row["layer"] for row in layers][-1] is None
    tree = listing.tree(path)
    assert list(tree[0]) == ["level", "name", "dtype", "shape", "parameters", "bytes"]
    variables = [row for row in tree if row["dtype"] is not None]
    for key in ("parameters", "bytes"):
        assert total[key] == sum(row[key] for row in layers) == sum(row[key] for row in variables)
        assert total[key] == sum(row[key] for row in tree if row["level"] == 0)
    assert len(variables) == total["variables"]
    with pytest.raises(UsageError):
        listing.layers(path, "tower/{K}/**")


def test_a_tree_shares_rows_and_may_be_empty(tmp_path: Path) -> None:
    """A folder that holds only another one shares its row; a selection of slots alone, without slots, is no tree."""
    formats.write(str(tmp_path / "m"), {"a/b/c/x": np.zeros(2, np.float32), "a/b/c/x/Adagrad": np.ones(2, np.float32)})
    rows = [(row["level"], row["name"]) for row in listing.tree(tmp_path / "m", slots=False)]
    assert rows == [(0, "a/b/c/"), (1, "x")]
    assert listing.tree(tmp_path / "m", match=["**/Adagrad"], slots=False) == []


def test_checkpoints_of_a_folder(pair: tuple[str, str], tmp_path: Path) -> None:
    """Every checkpoint of a folder, in natural order."""
    rows = listing.checkpoints(tmp_path)
    assert [row["checkpoint"] for row in rows] == list(pair)
    assert list(rows[0]) == ["checkpoint", "format", "bytes", "latest"]


def test_show_gives_the_statistics(tmp_path: Path) -> None:
    """The keys of --json; the first elements of strings only where they are asked for."""
    arrays = {"s": np.asarray([b"a", b"b", b"c"], object), "w": np.asarray([1, 2, np.nan], np.float32)}
    formats.write(str(tmp_path / "m"), arrays)
    (row,) = looking.show(tmp_path / "m", ["w"])
    assert list(row)[:5] == ["name", "dtype", "shape", "min", "max"]
    assert (row["shape"], row["min"], row["max"], row["mean"], row["nan"]) == ((3,), 1, 2, 1.5, 1)
    assert [each["strings"] for each in looking.show(tmp_path / "m", strings=2)] == [[b"a", b"b"], None]


def test_a_grafts_options_are_those_of_one_class(pair: tuple[str, str]) -> None:
    """The keywords of graft, and the parser's options, are the fields of GraftOptions; another keyword is an error."""
    parser = Parser("graft", graft_verb.HELP)
    graft_verb.add_arguments(parser)
    args = vars(parser.parse(["a", "b", "--layers", "0"]) or ())
    keywords = options.graft_keywords(args)
    assert list(keywords) == [
        "slots", "layers", "match", "exclude", "scheme", "donor_scheme", "recipient_scheme", "maps", "on_mismatch",
        "cast", "add", "link",
    ]  # fmt: skip
    with pytest.raises(TypeError, match="layer"):
        changing.graft(*pair, layer="0")  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="--scheme applies to both checkpoints; expected either"):
        changing.graft(*pair, layers="0", scheme="tower/{K}/**", donor_scheme="net/{K}/**")
