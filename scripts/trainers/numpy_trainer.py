"""A trainer that needs only NumPy: relu layers, a softmax, Adagrad. It is also the shortest example of the contract.

[[models]]
name = "a"
worker = ["python", "/path/to/numpy_trainer.py", "4,10,20,10,3"]  # features, hidden units, classes
format = "npz"

Each line on stdin is a request. "init" asks for initial weights, which depend only on `seed`. "train" asks for one step
on X and y of `data`, from the weights in `checkpoint`, which must be read each time because grafts change them.
`output` must hold the same names, shapes and dtypes, and the same request must give the same bytes. `learning_rate` is
null where ring.toml has none. The answer is one line on stdout. The trainer exits at the end of stdin.

It can also be started once per step, with initial weights from a file:

command = ["python", "/path/to/numpy_trainer.py", "{checkpoint}", "{output}", "{data}"]
init = "/path/to/first.npz"
"""

import json
import sys

import numpy as np


def first_weights(sizes, seed):
    """Return initial weights, under the names of skflow of 2016: `ring predict` evaluates such nets by itself."""
    random, values = np.random.default_rng(seed), {}
    names = [f"dnn/layer{k}/Linear/Matrix" for k in range(len(sizes) - 2)] + ["logistic_regression/weights"]
    for matrix, rows, columns in zip(names, sizes, sizes[1:], strict=False):
        values[matrix] = random.uniform(-1, 1, (rows, columns)).astype(np.float32)
        values[bias_of(matrix)] = np.zeros(columns, np.float32)
    return {**values, **{f"{name}/Adagrad": np.full_like(value, 0.1) for name, value in values.items()}}


def bias_of(matrix):
    """Return the name of the bias that belongs to a matrix."""
    return matrix.replace("Matrix", "Bias").replace("weights", "bias")


def train(values, X, y, rate=0.1):
    """Train `values` for one step, in place, and return the loss before it."""
    names = [name for name in values if name.endswith(("Matrix", "weights"))]
    names.sort(key=lambda name: (len(name), name))  # layer2 before layer10, the head last
    inputs, outputs = [], X
    for matrix in names:
        inputs.append(np.maximum(outputs, 0) if inputs else X)
        outputs = inputs[-1] @ values[matrix] + values[bias_of(matrix)]
    chances = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    slope = (chances - np.eye(chances.shape[1], dtype=np.float32)[y]) / len(y)
    for matrix, x in zip(names[::-1], inputs[::-1], strict=True):
        gradients = {matrix: x.T @ slope, bias_of(matrix): slope.sum(axis=0)}
        slope = (slope @ values[matrix].T) * (x > 0)
        for name, gradient in gradients.items():
            values[f"{name}/Adagrad"] = values[f"{name}/Adagrad"] + gradient**2
            values[name] = values[name] - rate * gradient / np.sqrt(values[f"{name}/Adagrad"])
    return float(-np.log(chances[range(len(y)), y] + 1e-9).mean())


def step(checkpoint, output, data, rate=None):
    """Train the weights in `checkpoint` on a mini-batch, write them to `output`, and return the metrics."""
    values, rows = dict(np.load(checkpoint)), np.load(data)
    loss = train(values, rows["X"].reshape(len(rows["X"]), -1), rows["y"], 0.1 if rate is None else rate)
    np.savez(output, **values)
    return {"loss": loss}


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(json.dumps(step(*sys.argv[1:])))
    for line in sys.stdin if len(sys.argv) == 2 else ():
        request, metrics = json.loads(line), {}
        if request["op"] == "init":
            sizes = [int(size) for size in sys.argv[1].split(",")]
            np.savez(request["output"], **first_weights(sizes, request["seed"]))
        else:
            metrics = step(request["checkpoint"], request["output"], request["data"], request.get("learning_rate"))
        print(json.dumps({"step": request["step"], "metrics": metrics}), flush=True)
