"""A trainer that uses PyTorch, with Adagrad. PyTorch's matrices are [out, in], so the map transposes them.

[[models]]
name = "b"
worker = ["python", "/path/to/pytorch_trainer.py", "4,10,20,10,3"]  # features, hidden units, classes
predict = ["python", "/path/to/pytorch_trainer.py", "4,10,20,10,3", "{checkpoint}", "{data}", "{output}"]
format = "safetensors"
map = ["layers.*.weight=dnn/layer*/Linear/Matrix.T", "layers.*.bias=dnn/layer*/Linear/Bias"]
"""

import json
import sys

import numpy as np
import torch
from safetensors.torch import load_file, save_file

torch.use_deterministic_algorithms(True)
sizes, predict = [int(size) for size in sys.argv[1].split(",")], sys.argv[2:]
for request in map(json.loads, sys.stdin if not predict else ['{"seed": 0}']):
    checkpoint, data, output = predict or (request[key] for key in ("checkpoint", "data", "output"))
    torch.manual_seed(request["seed"])
    layers = torch.nn.ModuleList(map(torch.nn.Linear, sizes, sizes[1:]))
    adagrad = torch.optim.Adagrad(layers.parameters(), lr=0.1)
    values = {f"layers.{name}": value.data for name, value in layers.named_parameters()}
    values |= {f"adagrad.{name}": adagrad.state[value]["sum"] for name, value in layers.named_parameters()}
    for name, value in load_file(checkpoint).items() if checkpoint else ():
        values[name].copy_(value)
    x, rows = None, np.load(data)
    for layer in layers:
        x = layer(torch.from_numpy(rows["X"]) if x is None else x.relu())
    if predict:
        sys.exit(np.save(output, x.softmax(dim=1).detach()))
    loss = torch.nn.functional.cross_entropy(x, torch.from_numpy(rows["y"]))
    if request["op"] == "train":
        loss.backward()
        adagrad.step()
    save_file(values, output)
    print(json.dumps({"step": request["step"], "metrics": {"loss": loss.item()}}), flush=True)
