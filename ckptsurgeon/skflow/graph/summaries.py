"""Event files for TensorBoard."""

from __future__ import annotations

import os
from datetime import datetime
from types import TracebackType

from ...errors import files
from .quiet_tensorflow import tf, v1


class EventFile:
    """An event file in a new folder named after the time, as in skflow.

    Args:
        logdir: the folder of all runs; created if missing.
        graph: the model's graph.

    Raises:
        CkptSurgeonError: the folder cannot be written.
    """

    def __init__(self, logdir: str | os.PathLike[str], graph: tf.Graph) -> None:
        self.path = os.path.join(os.fspath(logdir), datetime.now().strftime("%Y-%m-%d_%H-%M-%S.%f"))
        with files(self.path):
            os.makedirs(self.path)
        with v1.Graph().as_default():  # FileWriter cannot be created in eager mode
            self._writer = v1.summary.FileWriter(self.path, graph)

    def add(self, summaries: list[bytes], step: int) -> None:
        """Add the serialized summaries of a step."""
        for summary in summaries:
            self._writer.add_summary(summary, step)

    def __enter__(self) -> EventFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
