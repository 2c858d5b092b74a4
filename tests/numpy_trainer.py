"""scripts/trainers/numpy_trainer.py for the tests of rings: on TensorFlow's checkpoints, as a worker or as a command.

numpy_trainer.py worker  [--hidden 4,3] [--features 2] [--classes 2]
numpy_trainer.py command CHECKPOINT OUTPUT --data BATCH.npz --step N

Both misbehave on request:
`--do exit|garbage|hang|nothing|dataless|shapes|nan|grow|link|error|chatter|stale --at STEP`; with `--once FILE`
only as long as FILE does not exist, which is then made. `--do metrics --metrics TEXT --at STEP` sends TEXT for metrics.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy is imported: no threads, so that it starts fast
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts" / "trainers"))
from numpy_trainer import first_weights, train

from ckptsurgeon import data, formats

HOARD = []  # what a trainer never gives back


def answer(options, request):
    """Do what is asked for, or what was asked not to be done; return the line to answer with."""
    began = time.perf_counter()
    wrong = options.do if request["step"] == options.at else None
    if wrong and options.once and options.once.exists():
        wrong = None
    if wrong in ("exit", "hang"):
        print("about to misbehave", file=sys.stderr, flush=True)
    if wrong and options.once:
        options.once.touch()
    if wrong in ("exit", "hang"):
        time.sleep(3600 if wrong == "hang" else 0)
        sys.exit(1)
    if wrong in ("garbage", "error"):
        return '{"step": 1, "met' if wrong == "garbage" else json.dumps({"step": request["step"], "error": "no wish"})
    loss = 0.0
    if request["checkpoint"] is None:
        values = first_weights([options.features, *options.hidden, options.classes], request["seed"])
        values["global_step"] = np.zeros((), np.int64)
    else:
        with formats.open(request["checkpoint"]) as checkpoint:
            values = {name: checkpoint.read(name) for name in checkpoint.variables}
        batch = data.load_npz(request["data"])
        flat = batch["X"].reshape(len(batch["X"]), -1)  # a dense net sees images flat
        rate = request.get("learning_rate")
        loss = train(values, flat, batch["y"], 0.1 if rate is None else rate)
        values["global_step"] = values["global_step"] + 1
    if wrong == "shapes":
        values.update({"dnn/layer0/Linear/Bias": np.zeros(9, np.float32), "surplus": values.pop("global_step")})
    if wrong == "nan":
        values["dnn/layer0/Linear/Bias"][1] = np.nan
    if wrong == "grow":
        HOARD.append(np.ones(50_000_000))  # 400 MB
    if wrong == "link":
        Path(request["output"] + ".index").symlink_to(request["checkpoint"] + ".index")
    elif wrong != "nothing":
        formats.write(request["output"], values, sync=False)
    if wrong == "dataless":
        Path(request["output"] + ".data-00000-of-00001").unlink()
    talk = "a line of talk, which is no answer\n" if wrong == "chatter" else ""
    if wrong == "metrics":
        return f'{{"step": {request["step"]}, "metrics": {options.metrics}}}'
    metrics = {"loss": loss, **({"seconds": time.perf_counter() - began} if options.time else {})}
    return talk + json.dumps({"step": request["step"] - (wrong == "stale"), "metrics": metrics})


def parse(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=("worker", "command"))
    for name in ("checkpoint", "output"):
        parser.add_argument(name, nargs="?")
    parser.add_argument("--hidden", type=lambda text: [int(units) for units in text.split(",")], default=[4, 3])
    for name, default in {"--features": 2, "--classes": 2, "--step": 0, "--seed": 0, "--at": -1}.items():
        parser.add_argument(name, type=int, default=default)
    parser.add_argument("--once", type=Path)
    for name in ("--data", "--do", "--metrics"):
        parser.add_argument(name)
    parser.add_argument("--time", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    options = parse(sys.argv[1:])
    if options.mode == "command":
        print(json.dumps(json.loads(answer(options, vars(options)).splitlines()[-1]).get("metrics")))
    for line in sys.stdin if options.mode == "worker" else ():
        print(answer(options, json.loads(line)), flush=True)
