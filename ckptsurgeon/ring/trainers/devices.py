"""The device of each trainer, set by variables of its environment, which every framework reads before it starts.

CUDA_VISIBLE_DEVICES shows a process the one GPU that it may use. If ring.toml names no device, the models get the
visible GPUs in turn; without a GPU, and with "cpu", trainers run on the processor.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping

from ...errors import UsageError
from ..spec.records import Model, Spec

VISIBLE = "CUDA_VISIBLE_DEVICES"
# TensorFlow takes all of a GPU's memory otherwise, so that a second trainer finds none; its kernels, and those of
# cuBLAS under PyTorch, give the same bytes only on request.
ON_GPU = {
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "TF_DETERMINISTIC_OPS": "1",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}


def environment(spec: Spec, model: Model, visible: tuple[str, ...] | None = None) -> dict[str, str]:
    """Return the variables that give a trainer its device.

    Args:
        spec: the run.
        model: one of its models.
        visible: the GPUs that the driver may use; None to look.

    Raises:
        UsageError: there is no such GPU.
    """
    device = model.device or spec.device
    if device == "cpu":
        return {VISIBLE: "-1"}
    gpus = gpus_here(os.environ) if visible is None else visible
    if device is None:
        if not gpus or model.runs_a_program:
            return {}
        number = [each.name for each in spec.models].index(model.name) % len(gpus)
    else:
        number = int(device.partition(":")[2])
        if number >= len(gpus):
            found = f"{len(gpus)} GPUs" if gpus else "no GPU"
            raise UsageError(f"model {model.name}: there is no device {device!r} here", found=found)
    return {VISIBLE: gpus[number], **ON_GPU}


def gpus_here(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs that a process with these variables sees, as CUDA_VISIBLE_DEVICES names them."""
    if VISIBLE in variables:
        names = [name.strip() for name in variables[VISIBLE].split(",")]
        return tuple(names[: names.index("-1")] if "-1" in names else filter(None, names))
    # NVIDIA's driver lists its devices there
    return tuple(map(str, range(len(glob.glob("/proc/driver/nvidia/gpus/*")))))
