"""TensorFlow, imported without its start-up messages.

Every module of this package imports TensorFlow from here: `from .quiet_tensorflow import tf, v1`.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

# Messages that TensorFlow 2.21 prints during import, before absl reads TF_CPP_MIN_LOG_LEVEL.
_NOISE = re.compile(rb"WARNING: All log messages before absl|[IW]\d{4} \d\d:\d\d:[\d.]+ ")


@contextmanager
def _without_noise() -> Iterator[None]:
    """Collect what is written to file descriptor 2, then print it without TensorFlow's start-up messages."""
    try:
        real = os.dup(2)
    except OSError:  # started without standard error: nothing to filter
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held:
                if not _NOISE.match(line):
                    os.write(2, line)


os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
with _without_noise():
    import tensorflow as tf
    from tensorflow.core.protobuf.config_pb2 import CallableOptions

v1 = tf.compat.v1

__all__ = ["CallableOptions", "quiet", "tf", "v1"]


@contextmanager
def quiet() -> Iterator[None]:
    """Log only errors of TensorFlow's Python code inside the block, to hide deprecation notes the user cannot act on.

    The previous level is restored afterwards.
    """
    level = v1.logging.get_verbosity()
    v1.logging.set_verbosity(v1.logging.ERROR)
    try:
        yield
    finally:
        v1.logging.set_verbosity(level)
