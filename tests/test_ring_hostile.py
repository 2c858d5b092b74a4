"""Rings and what trainers, ring.toml and damaged files say to them: one line each, and the folder stays usable."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ring_support import history, write_ring

from ckptsurgeon import cli
from ckptsurgeon.errors import CkptSurgeonError, TrainerError
from ckptsurgeon.ring import start
from ckptsurgeon.ring.spec import loading, toml_keys
from ckptsurgeon.ring.trainers.messages import json_object, metrics_of_answer

DIGITS = "1" + "0" * 400
DEEP = '{"a":' * 900 + "1" + "}" * 900
UNUSABLE = {
    "an integer of 400 digits": ('{"loss": ' + DIGITS + "}", "holds an integer of 401 digits, more than 20"),
    "one of 5000 digits": ('{"loss": -%s}' % ("7" * 5000), "holds an integer of 5000 digits, more than 20"),
    "an integer in a list": ('{"a": [1, [' + DIGITS + "]]}", "holds an integer of 401 digits"),
    "objects in objects": (DEEP, "is nested more than 32 levels deep"),
    "lists in lists": ('{"a": %s}' % ("[" * 60 + "]" * 60), "is nested more than 32 levels deep"),
    "more nested than Python can read": (
        '{"a": %s}' % ("[" * 100_000 + "]" * 100_000),
        "is nested more than 32 levels",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_metrics_that_a_run_cannot_keep_are_refused(name: str) -> None:
    """A worker's answer and a command's object are refused in one line that says why."""
    text, words = UNUSABLE[name]
    with pytest.raises(TrainerError, match=f"sent an answer that {words}") as caught:
        metrics_of_answer(b'{"step": 3, "metrics": %s}' % text.encode(), 3)
    assert len(str(caught.value)) < 300
    with pytest.raises(TrainerError, match=f"sent a JSON object that .*{words.removeprefix('is ')}"):
        json_object(text.encode())


@pytest.mark.parametrize(
    "text",
    ['{"loss": 1e400, "a": -1e400}', '{"n": 18446744073709551615}', '{"a": "\\ud800", "\\udfff": [[[[]]]]}', "{}"],
)
def test_other_metrics_are_kept(text: str) -> None:
    """Numbers of 64 bits, infinities, and text that is not Unicode are journalled and read again."""
    metrics = metrics_of_answer(b'{"step": 3, "metrics": %s}' % text.encode(), 3)
    assert metrics == json.loads(text)


def test_metrics_that_grow_in_the_journal_are_refused() -> None:
    """A short text of large numbers is a long line of the journal, which reads no line of more than 4 MiB."""
    text = b'{"step": 3, "metrics": {"a": [%s1]}}' % (b"1e15," * 200_000)
    with pytest.raises(TrainerError, match="sent too many metrics; expected 1048576 bytes of JSON at most"):
        metrics_of_answer(text, 3)


def test_an_error_of_any_kind_is_one_line() -> None:
    """What a worker gives as its error need not be text, or Unicode."""
    for error in ('"\\ud800\\n"', "[1, {}]", '{"a": null}'):
        with pytest.raises(TrainerError, match="said: ") as caught:
            metrics_of_answer(b'{"step": 3, "error": %s}' % error.encode(), 3)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised ring whose second trainer sends an integer of 400 digits once."""
    folder = tmp_path_factory.mktemp("hostile") / "ring"
    wrong = ["--do", "metrics", "--metrics", f'{{"loss": {DIGITS}}}', "--at", "3", "--once", str(folder / "once")]
    write_ring(folder, rounds=1, b={"worker": wrong})
    start.init(str(folder))
    return folder


def test_a_run_goes_on_after_such_metrics(ring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run fails with one line and exit status 2; `ring status` tells the reason, and the next run ends well."""
    folder = tmp_path / "ring"
    shutil.copytree(ring, folder)
    assert cli.main(["ring", "run", str(folder)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "model b, step 3: its trainer sent an answer that holds an integer of 401 digits" in line
    assert cli.main(["ring", "status", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "failed"
    assert "401 digits" in told["reason"]
    assert cli.main(["ring", "run", str(folder)]) == 0
    assert history(folder).round == 1


HARMLESS = [("loss", DIGITS), ("loss", DEEP), ("loss", '"1"'), ("loss", "1e999"), ("other", DIGITS)]


@pytest.mark.parametrize(("key", "value"), HARMLESS)
def test_a_journal_of_an_earlier_version_is_read(
    ring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str
) -> None:
    """A journal that holds such metrics can be read, so that the run goes on."""
    folder = tmp_path / "ring"
    shutil.copytree(ring, folder)
    sha256 = "0" * 64
    line = (
        '{"step": 1, "round": 1, "kind": "train", "model": "a", "from": "a/model.ckpt-0", "batch": 0, '
        f'"checkpoint": "a/model.ckpt-1", "sha256": "{sha256}", "metrics": {{"{key}": {value}}}, "change": null, '
        '"seconds": 0.1}\n'
    )
    with open(folder / "journal.jsonl", "a") as file:
        file.write(line)
    assert cli.main(["ring", "status", str(folder), "--json"]) == 0
    loss = json.loads(capsys.readouterr().out)["models"][0]["loss"]
    assert loss == ("Infinity" if key == "loss" and value in (DIGITS, "1e999") else None)


ODD = ["[]", DIGITS, f'{{"pid": {DIGITS}}}', '{"pid": 99999999999999999999}', '{"state": [], "reason": {"a": 1}}',
       '{"pid": 1, "state": "running", "workers": {"a": [1]}}', DEEP, "\ud800"]  # fmt: skip


@pytest.mark.parametrize("text", ODD)
def test_a_damaged_status_file_is_no_obstacle(
    ring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """status.json only says what the driver did last: whatever it holds, the journal's state is shown."""
    folder = tmp_path / "ring"
    shutil.copytree(ring, folder)
    (folder / "status.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert cli.main(["ring", "status", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["round"], told["state"], told["pid"]) == (0, "stopped", None)


LINES = [f"round {DIGITS}", f"step {DIGITS}", "step 1e999", "change [1]", "metrics 3"]


@pytest.mark.parametrize("text", LINES)
def test_a_damaged_line_is_the_end_of_a_journal(
    ring: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """A last line of the wrong kind counts as incomplete, whatever its numbers are."""
    folder = tmp_path / "ring"
    shutil.copytree(ring, folder)
    key, value = text.split()
    fields = {"step": "1", "round": "1", "kind": '"train"', "model": '"a"', "from": '"a"', "checkpoint": '"a"',
              "sha256": '"0"', "metrics": "{}", "change": "null", "seconds": "1", key: value}  # fmt: skip
    with open(folder / "journal.jsonl", "a") as file:
        file.write("{" + ", ".join(f'"{name}": {each}' for name, each in fields.items()) + "}\n")
    assert cli.main(["ring", "status", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["step"] == 0


VALUES = [
    "0", "-1", "9223372036854775808", DIGITS, "0x" + "f" * 4000, "1e400", "nan", "-inf", "true", '""', '"a"',
    '"\\u0000"', '"\\u2028\\n"', f'"{"x" * 5000}"', "[]", "[[]]", "[1]", '["a", 1]', "{}", "{ a = 1 }", "[{}]",
    "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "[" * 300 + "]" * 300, '"fill=1e999"',
    '"0-99999999999999999"', '["**=**"]', '["a=b.T"]',
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_every_kind_of_value_is_taken_or_refused_in_one_line(value: str) -> None:
    """Valid TOML of any kind at any key of ring.toml gives a spec or lines that name the key."""
    parsed: Any = loading.tomllib.loads(f"a = {value}")["a"]
    for place, keys in (
        ("", toml_keys.RUN), ("stop", toml_keys.STOP), ("data", toml_keys.DATA), ("models", toml_keys.MODEL)
    ):  # fmt: skip
        for key in (*keys, "", "unknown\n"):
            table: dict[str, Any] = {
                "layers": "0-1", "stop": {}, "data": {"file": "f.csv", "target": "t"},
                "models": [{"name": "a", "hidden_units": [3, 4]}, {"name": "b", "worker": ["x"]}],
            }  # fmt: skip
            owner = table[place] if place else table
            (owner[1] if place == "models" else owner)[key] = parsed
            try:
                loading.parse(table)
            except CkptSurgeonError as error:
                for line in error.lines:
                    assert "\n" not in line
                    assert len(line) < 1000 + 2 * len(value) * (key == "name" or place == "")


def test_a_number_longer_than_python_reads_is_one_line(tmp_path: Path) -> None:
    """A decimal number of 5,000 digits is valid TOML, which Python refuses to convert."""
    (tmp_path / "ring.toml").write_text(f"seed = {'1' * 5000}\n")
    if sys.version_info >= (3, 11):
        with pytest.raises(CkptSurgeonError, match="is not TOML: Exceeds the limit"):
            loading.load(str(tmp_path / "ring.toml"))
