"""A PyTorch module with its optimizer as a `Net`; the optimizer's state is in the checkpoint, under `optimizer/`.

The function returns the module, or `(module, optimizer)`, or `(module, optimizer, loss)` with a loss function of
outputs and targets. The defaults are Adam with its own learning rate, and the cross-entropy of logits or the mean
squared error. A module of two classes may have one output, the logit of the second.

An optimizer makes its state at its first step. The checkpoint has it from the beginning, filled with zeros that are
never read: `optimizer/steps` counts the steps, and at 0 the optimizer begins as the function made it.
"""

from __future__ import annotations

import copy
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import formats
from ..errors import RefusedError, UsageError, one_line
from ..formats import table
from ..plan import Change, Values, plan_of
from .net import AT_ONCE, Net, Problem, chances, check_finite

_STEPS = "optimizer/steps"
_Values = dict[str, NDArray[Any]]


def seed(seed: int) -> None:
    """Make what follows depend on the seed alone."""
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def wrap(made: object, problem: Problem) -> Net | None:
    """Return a module, or a tuple that begins with one, as a `Net`; None for anything else."""
    module, *others = made if isinstance(made, tuple) and made else (made,)
    if not isinstance(module, torch.nn.Module):
        return None
    if len(others) > 2 or (others and not isinstance(others[0], torch.optim.Optimizer)):
        expected = "a module, (module, optimizer) or (module, optimizer, loss)"
        raise RefusedError("the trainer's function returns something else beside its module", expected=expected)
    return TorchNet(module, problem, *others)


class TorchNet:
    """A module and its optimizer.

    Args:
        module: the model; it takes one tensor and returns one.
        problem: what it is to learn.
        optimizer: of the module's parameters.
        loss: a function of outputs and targets.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        problem: Problem,
        optimizer: torch.optim.Optimizer | None = None,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._module = module.to(self._device)
        self._optimizer = optimizer or torch.optim.Adam(module.parameters())
        self._problem = problem
        self._loss = loss or _usual_loss(problem)
        self._first = copy.deepcopy(self._optimizer.state_dict())
        names = {id(value): name for name, value in module.named_parameters()}
        parameters = [value for group in self._optimizer.param_groups for value in group["params"]]
        if any(id(value) not in names for value in parameters):
            what = "the optimizer has parameters that are not the module's, so no checkpoint would hold them"
            raise RefusedError(what, hint="make them parts of the module")
        self._names = [names[id(value)] for value in parameters]
        self._slots = self._made_slots()

    def initial(self, output: str) -> None:
        """Write the weights that the model was built with."""
        with tempfile.TemporaryDirectory(prefix="ckptsurgeon-tmp-", dir=os.path.dirname(output)) as scratch:
            first = os.path.join(scratch, "first")
            formats.write(first, self._values(0), sync=False)
            self._save(output, {}, first)

    def train(
        self,
        checkpoint: str,
        output: str,
        X: NDArray[Any],
        y: NDArray[Any],
        seed: int,
        learning_rate: float | None = None,
    ) -> Mapping[str, float]:
        """Read a checkpoint, train it on one mini-batch, write it, and return the metrics."""
        steps = self._load(checkpoint)  # the function's learning rates too
        if learning_rate is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = learning_rate
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        self._module.train()
        self._optimizer.zero_grad()
        outputs = self._forward(X)
        loss = self._loss(outputs, torch.tensor(y, device=self._device))
        metrics = {"loss": loss.item()}
        check_finite(metrics)
        loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
        self._optimizer.step()
        self._save(output, self._values(steps + 1), checkpoint)
        return metrics

    def outputs(self, checkpoint: str, X: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probabilities of the classes, or the values, of each row: [rows, outputs]."""
        self._load(checkpoint)
        self._module.eval()
        with torch.no_grad():
            parts = [self._forward(X[at : at + AT_ONCE]).cpu().numpy() for at in range(0, len(X), AT_ONCE)]
        return chances(np.concatenate(parts), self._problem, logits=True)

    def _forward(self, X: NDArray[Any]) -> torch.Tensor:
        outputs = self._module(torch.tensor(X, device=self._device))
        if not isinstance(outputs, torch.Tensor):
            raise RefusedError("the trainer's module returns no single tensor", found=type(outputs).__name__)
        return outputs

    def _made_slots(self) -> dict[str, Any]:
        """Return the state that the optimizer will have, by its names in a checkpoint, after a step of a copy."""
        module, optimizer = copy.deepcopy((self._module, self._optimizer))
        for value in module.parameters():
            value.grad = torch.zeros_like(value)
        try:
            optimizer.step()
        except Exception as error:
            what = f"{type(optimizer).__name__} cannot be used: {error}"
            raise RefusedError(what, hint="an optimizer's step must need no closure") from error
        return {name: value for name, _, _, value in self._state(optimizer.state_dict())}

    def _state(self, found: dict[str, Any]) -> Iterator[tuple[str, int, str, Any]]:
        """Yield the state of an optimizer: name in a checkpoint, number of the parameter, key, value."""
        for number, slots in found["state"].items():
            for key, value in slots.items():
                if value is not None:
                    yield f"optimizer/{self._names[number]}/{key}", number, key, value

    def _values(self, steps: int) -> _Values:
        values: _Values = {name: value.detach().cpu().numpy() for name, value in self._module.state_dict().items()}
        values |= {name: np.zeros_like(_numpy(value)) for name, value in self._slots.items()}
        values |= {name: _numpy(value) for name, _, _, value in self._state(self._optimizer.state_dict())}
        values[_STEPS] = np.array(steps, np.int64)
        return values

    def _save(self, path: str, values: _Values, like: str) -> None:
        """Write a checkpoint like another one, in the format that its ending selects, with new values."""
        _check_ending(path)
        with formats.open(like) as old:
            changes = [Change("set", old[name], Values(value)) for name, value in values.items()]
            format = table.by_ending(path) or table.DEFAULT
            formats.save(plan_of(old, changes), out=path, format=format, force=True, sync=False)

    def _load(self, path: str) -> int:
        """Read a checkpoint; return the number of steps that it has been trained."""
        with formats.open(path) as checkpoint:
            values = {name: np.array(checkpoint.read(name)) for name in checkpoint.variables}
        own = set(self._module.state_dict())
        wrong = sorted(set(values) ^ (own | {_STEPS, *self._slots}))
        if wrong:
            hint = "the trainer's function must build the same model at each call"
            raise RefusedError("does not fit the trainer's module", path=path, found=", ".join(wrong[:5]), hint=hint)
        try:
            self._module.load_state_dict({name: torch.from_numpy(values[name]) for name in own})
        except RuntimeError as error:
            raise RefusedError(one_line(error), path=path) from error
        steps = int(values[_STEPS])
        state: dict[int, dict[str, Any]] = {}
        for name, number, key, like in self._slotted():
            is_tensor = isinstance(like, torch.Tensor)
            value = torch.from_numpy(values[name]) if is_tensor else type(like)(values[name])
            state.setdefault(number, {})[key] = value
        first = copy.deepcopy(self._first)
        self._optimizer.load_state_dict({**first, "state": state} if steps else first)
        return steps

    def _slotted(self) -> Iterator[tuple[str, int, str, Any]]:
        """Yield every slot: name in a checkpoint, number of its parameter, key, and a value of its kind."""
        for number, name in enumerate(self._names):
            start = f"optimizer/{name}/"
            for slot, value in self._slots.items():
                if slot.startswith(start):
                    yield slot, number, slot[len(start) :], value


def _usual_loss(problem: Problem) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    functional = torch.nn.functional

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if problem.classes is None:
            return functional.mse_loss(outputs.reshape(len(targets), -1), targets.reshape(len(targets), -1))
        if problem.classes == 2 and outputs.numel() == len(targets):
            return functional.binary_cross_entropy_with_logits(outputs.reshape(-1), targets.to(outputs.dtype))
        return functional.cross_entropy(outputs, targets)

    return loss


def _numpy(value: Any) -> NDArray[Any]:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.array(value)


def _check_ending(path: str) -> None:
    """Refuse formats that only Keras writes."""
    if path.endswith((".h5", ".keras")):
        what = f"a PyTorch module cannot be saved as {table.by_ending(path)}"
        raise UsageError(what, path=path, expected='format = "safetensors", "npz" or "bundle"')
