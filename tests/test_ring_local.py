"""Trainers as real processes: the contract kept, and broken in every way."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ring_support import TIMEOUT
from waiting import LIMIT, pass_time_when, wait_until

import ckptsurgeon
from ckptsurgeon import data, formats
from ckptsurgeon.errors import TrainerError
from ckptsurgeon.ring.folder import Folder
from ckptsurgeon.ring.journal import is_alive
from ckptsurgeon.ring.spec.records import Model
from ckptsurgeon.ring.trainers import builtin
from ckptsurgeon.ring.trainers.attempts import attempt
from ckptsurgeon.ring.trainers.local import CommandTrainer, WorkerTrainer
from ckptsurgeon.ring.trainers.stopping import stop
from ckptsurgeon.ring.trainers.trainer import Request, Trainer

PROGRAM = (sys.executable, str(Path(__file__).with_name("numpy_trainer.py")))
COMMAND = (*PROGRAM, "command", "{checkpoint}", "{output}", "--data", "{data}", "--step", "{step}")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Return a run's folder with one model, its first checkpoint and a batch."""
    made = Folder.at(str(tmp_path_factory.mktemp("template"))).storing({"a": ""})
    os.makedirs(made.model("a"))
    os.makedirs(made.rows)
    random = np.random.default_rng(1)
    X = random.normal(size=(12, 2)).astype(np.float32)
    data.write_batch(made.batch, X, (X[:, 0] > 0).astype(np.int64))
    worker = WorkerTrainer(Model("a"), (*PROGRAM, "worker"), made, ())
    worker.start(Request("init", 0, 0, 0, 3, None, made.checkpoint("a", 0), made.batch))
    worker.finish()
    stop([worker], 5.0, 1.0)
    return made


@pytest.fixture
def folder(template: Folder, tmp_path: Path) -> Folder:
    """Return a copy of that folder."""
    return Folder.at(str(shutil.copytree(template.root, tmp_path / "run"))).storing({"a": ""})


def request(folder: Folder, step: int, start: int = 0) -> Request:
    checkpoint, output = folder.checkpoint("a", start), folder.checkpoint("a", step)
    return Request("train", step, 1, 0, 17, checkpoint, output, folder.batch)


@contextlib.contextmanager
def running(folder: Folder, kind: str, *options: str, **settings: Any) -> Iterator[tuple[Model, Trainer]]:
    """Give a worker or a command, and end it."""
    model = Model("a", command=(*COMMAND, *options), **{"timeout": TIMEOUT, "tries": 1, **settings})
    trainer: Trainer = CommandTrainer(model, folder, ())
    if kind == "worker":
        trainer = WorkerTrainer(model, (*PROGRAM, "worker", *options), folder, ())
    try:
        yield model, trainer
    finally:
        stop([trainer], 0.0, 0.5)


def signature(prefix: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    with formats.open(prefix) as checkpoint:
        return {one.name: (one.dtype, one.shape) for one in checkpoint.variables.values()}


def try_it(folder: Folder, kind: str, *options: str, **settings: Any) -> list[str]:
    """Have step 3 done; return what a person is told of tries that failed."""
    told: list[str] = []
    with running(folder, kind, *options, **settings) as (model, trainer):
        like = signature(folder.checkpoint("a", 0))
        attempt(trainer, request(folder, 3), model, folder, like, told.append)
    return told


KINDS = pytest.mark.parametrize("kind", ["worker", "command"])


@KINDS
def test_a_step_gives_a_checkpoint_and_metrics(folder: Folder, kind: str) -> None:
    """The fingerprint is that of the new checkpoint; the old one is as it was."""
    before = Path(folder.checkpoint("a", 0) + ".index").read_bytes()
    with running(folder, kind) as (model, trainer):
        result = attempt(trainer, request(folder, 1), model, folder, None, pytest.fail)
    assert 0 < result.metrics["loss"] < 5
    assert result.signature == signature(folder.checkpoint("a", 0))
    with formats.open(folder.checkpoint("a", 1)) as checkpoint:
        assert checkpoint.fingerprint() == result.sha256
        assert checkpoint.read("global_step") == 1
    assert Path(folder.checkpoint("a", 0) + ".index").read_bytes() == before


def test_a_worker_is_kept_running_and_reads_its_checkpoint_anew(folder: Folder) -> None:
    """One process does many steps, and a command ends with the same bytes as the worker."""
    with running(folder, "worker") as (model, worker):
        pids = set()
        for step, start in ((1, 0), (2, 1), (3, 1), (4, 0)):
            attempt(worker, request(folder, step, start), model, folder, None, pytest.fail)
            pids.add(worker.pid)
        assert len(pids) == 1
        assert None not in pids
    with running(folder, "command") as (model, command):
        attempt(command, request(folder, 5, 1), model, folder, None, pytest.fail)
        assert command.pid is None

    def contents(step: int) -> list[bytes]:
        return [path.read_bytes() for path in sorted(Path(folder.model("a")).glob(f"model.ckpt-{step}.*"))]

    assert contents(2) == contents(3) == contents(5)
    assert contents(1) == contents(4) != contents(2)


def test_talk_goes_to_the_log(folder: Folder) -> None:
    """A line that does not begin with a brace is no answer."""
    assert try_it(folder, "worker", "--do", "chatter", "--at", "3") == []
    assert Path(folder.log("a")).read_text() == "a line of talk, which is no answer\n"


@pytest.mark.parametrize(
    ("kind", "wrong", "words"),
    [
        ("worker", "exit", ["exited with status 1", "last lines of its log: about to misbehave"]),
        ("command", "exit", ["exited with status 1", "last lines of its log: about to misbehave"]),
        ("worker", "garbage", ['sent an answer that is not JSON; found {"step": 1, "met']),
        ("worker", "stale", ["answered for another step; expected 3, found 2"]),
        ("worker", "error", ["its trainer said: no wish"]),
        ("worker", "nothing", ["wrote no readable checkpoint", "model.ckpt-3"]),
        ("command", "nothing", ["wrote no readable checkpoint", "model.ckpt-3"]),
        ("worker", "dataless", ["wrote no readable checkpoint", "model.ckpt-3.data-00000-of-00001: no such file"]),
        (
            "worker",
            "shapes",
            [
                "wrote variables that differ from those it was given",
                "global_step is missing",
                "dnn/layer0/Linear/Bias was float32 [4], is float32 [9]",
                "surplus is new",
            ],
        ),
        ("command", "shapes", ["wrote variables that differ", "global_step is missing", "surplus is new"]),
    ],
)
def test_a_trainer_that_breaks_the_contract_is_one_clear_line(
    folder: Folder, kind: str, wrong: str, words: list[str]
) -> None:
    """The model, the step, what happened and the trainer's last words; nothing half-made is left."""
    with pytest.raises(TrainerError) as caught:
        try_it(folder, kind, "--do", wrong, "--at", "3")
    message = str(caught.value)
    assert "\n" not in message
    for word in ["trainer.log", "model a, step 3", *words]:
        assert word in message
    assert not list(Path(folder.model("a")).glob("model.ckpt-3*"))


@KINDS
def test_a_trainer_that_hangs_is_killed(
    folder: Folder, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its timeout, with all that it started; the log still tells what it said."""
    mark = tmp_path / "hangs"
    pass_time_when(mark, monkeypatch)
    with (
        running(folder, kind, "--do", "hang", "--at", "3", "--once", str(mark)) as (model, trainer),
        pytest.raises(TrainerError, match=rf"within {TIMEOUT} s; last lines of its log: about to misbehave"),
    ):
        attempt(trainer, request(folder, 3), model, folder, None, pytest.fail)
    assert trainer.pid is None


@KINDS
@pytest.mark.parametrize("wrong", ["exit", "shapes"])
def test_a_step_that_failed_is_tried_again(folder: Folder, tmp_path: Path, kind: str, wrong: str) -> None:
    """A trainer that fails once costs a line, and no more."""
    once = str(tmp_path / "once")
    told = try_it(folder, kind, "--do", wrong, "--at", "3", "--once", once, tries=2)
    assert len(told) == 1
    assert "model a, step 3" in told[0]
    assert told[0].endswith("; trying again")
    assert signature(folder.checkpoint("a", 3)) == signature(folder.checkpoint("a", 0))


def test_the_number_of_tries_is_kept(folder: Folder) -> None:
    """The last failure is the error; those before it are told."""
    told: list[str] = []
    with (
        running(folder, "command", "--do", "exit", "--at", "3", tries=3) as (model, trainer),
        pytest.raises(TrainerError, match=r"\(3 tries\)"),
    ):
        attempt(trainer, request(folder, 3), model, folder, None, told.append)
    assert len(told) == 2


@pytest.mark.parametrize("program", ["/no/such/program", "no-such-program", "/"])
def test_a_program_that_cannot_be_started_is_one_clear_line(folder: Folder, program: str) -> None:
    """It is named, and so is the reason."""
    model = Model("a", tries=1, command=(program, "{checkpoint}", "{output}"))
    for trainer in (WorkerTrainer(model, (program,), folder, ()), CommandTrainer(model, folder, ())):
        with pytest.raises(TrainerError, match=f"cannot start {program}: (no such file|permission denied)"):
            attempt(trainer, request(folder, 3), model, folder, None, pytest.fail)


def script(folder: Folder, text: str, *arguments: str, **settings: Any) -> CommandTrainer:
    """Return a command that runs a Python script instead of training."""
    program = (sys.executable, "-c", text, *arguments)
    return CommandTrainer(Model("a", command=program, **{"timeout": TIMEOUT, **settings}), folder, ())


def test_placeholders_are_replaced_once_and_no_shell_sees_them(folder: Folder) -> None:
    """A value that looks like a placeholder or like a shell's syntax arrives as it is; others stay."""
    odd = Folder.at(os.path.join(folder.root, "{step}; exit 1 #")).storing({"a": ""})
    os.makedirs(odd.model("a"))
    dump = "import json, sys; print(json.dumps({'arguments': sys.argv[1:]}))"
    names = ["checkpoint", "output", "batch", "data", "metrics", "seed", "step"]
    command = script(odd, dump, *(f"{{{name}}}" for name in names), "--x={step}/{other}", "$HOME `id`")
    command.start(Request("train", 9, 2, 1, 5, odd.checkpoint("a", 4), odd.checkpoint("a", 9), None))
    with open(odd.metrics("a"), "w") as file:  # as the command itself would
        file.write("{")
    with pytest.raises(TrainerError, match="metrics that are not a JSON object"):
        command.finish()
    command.start(Request("train", 9, 2, 1, 5, odd.checkpoint("a", 4), odd.checkpoint("a", 9), None))
    assert command.finish()["arguments"] == [
        odd.checkpoint("a", 4),
        odd.checkpoint("a", 9),
        "1",
        "",
        odd.metrics("a"),
        "5",
        "9",
        "--x=9/{other}",
        "$HOME `id`",
    ]


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("print('{\"loss\": 1}'); print('done')", {"loss": 1}),
        ("print('{\"loss\": 1}\\n{\"loss\": 2}', end='')", {"loss": 2}),
        ("print('{\"loss\": 1}\\n{not json')", {"loss": 1}),
        ("print('[1]')", {}),
        ("open(__import__('sys').argv[1], 'w').write('{\"loss\": 3}'); print('{\"loss\": 1}')", {"loss": 3}),
        ("import sys; sys.stderr.write('{\"loss\": 9}\\n')", {}),
    ],
)
def test_metrics_are_a_file_or_the_last_line_that_is_an_object(
    folder: Folder, text: str, metrics: dict[str, int]
) -> None:
    """And a command that tells none is fine as well; metrics of an earlier step are never taken for its own."""
    Path(folder.metrics("a")).write_text('{"loss": 77}')
    command = script(folder, text, "{metrics}")
    command.start(request(folder, 1))
    assert command.finish() == metrics


def test_a_line_without_end_does_not_fill_the_memory(folder: Folder) -> None:
    """A trainer gone wild is stopped at a mebibyte."""
    command = script(folder, "while True: print('x' * 65536, end='')")
    command.start(request(folder, 1))
    with pytest.raises(TrainerError, match="a line of more than 1 MiB"):
        command.finish()
    stop([command], 0.0, 2.0)


def test_what_a_command_leaves_behind_is_ended_with_it(folder: Folder) -> None:
    """A background process could go on writing: it is killed, and not waited for."""
    text = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(3600)'])\n"
        "print('{\"pid\": %d}' % child.pid)"
    )
    command = script(folder, text)
    command.start(request(folder, 1))
    pid = command.finish()["pid"]
    wait_for_end(pid)


def wait_for_end(pid: int) -> None:
    """Wait until a process that is nobody's child any more is gone; a zombie in a container counts as gone."""

    def is_gone() -> bool:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        return not is_alive(pid)

    wait_until(is_gone)


def test_a_trainer_that_ignores_sigterm_is_killed(folder: Folder) -> None:
    """All are asked first, and none is waited for longer than its grace."""
    text = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(3600)"
    command = script(folder, text)
    command.start(request(folder, 1))
    assert command.process is not None
    assert command.process.line(time.monotonic() + LIMIT) == b"1"
    pid = command.pid
    assert pid is not None
    stop([command], 0.0, 0.1)
    assert not is_alive(pid)


def test_a_worker_may_end_by_itself_at_the_end_of_its_input(folder: Folder) -> None:
    """It is neither terminated nor killed if it does so in time."""
    text = "import sys; print('ready', flush=True); sys.stdin.read(); open(sys.argv[1], 'w').close()"
    mark = os.path.join(folder.root, "ended")
    worker = WorkerTrainer(Model("a"), (sys.executable, "-c", text, mark), folder, ())
    worker.open()
    assert worker.process is not None
    assert worker.process.line(time.monotonic() + LIMIT) == b"ready"
    stop([worker], LIMIT, 0.0)
    assert os.path.exists(mark)


DRIVER = """
import sys, time
from ckptsurgeon.ring.trainers.program import RunningProgram
child = RunningProgram([sys.executable, "-c", "import time; time.sleep(3600)"], ".", sys.argv[1], [int(sys.argv[2])])
print(child.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends a trainer with its driver on Linux alone")
def test_a_trainer_dies_with_its_driver_and_holds_the_lock_until_then(tmp_path: Path) -> None:
    """Even a driver that was killed leaves nobody behind who writes."""
    lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "log"), str(lock)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, pass_fds=[lock])
    assert driver.stdout is not None
    pid = int(driver.stdout.readline())
    assert os.path.samestat(os.stat(f"/proc/{pid}/fd/{lock}"), os.fstat(lock))
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    os.close(lock)
    wait_for_end(pid)


def test_the_built_in_trainer_finds_this_package_from_anywhere(tmp_path: Path) -> None:
    """Its import path begins with the folder that holds the package."""
    environment = {**os.environ, **builtin.environment()}
    command = [sys.executable, "-c", "import ckptsurgeon; print(ckptsurgeon.__file__)"]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.stdout.strip() == ckptsurgeon.__file__
    assert environment["PYTHONPATH"].split(os.pathsep)[0] == str(Path(ckptsurgeon.__file__).parents[1])
