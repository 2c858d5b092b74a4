"""The verb `ring export`: the models of a run as one model, written by a separate process."""

from __future__ import annotations

from .. import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments, Parser

HELP = """ckptsurgeon ring export DIR -o OUT [--heads | --model NAME] [--force] [--json]

Write the models of a run, as they were after its last whole round, as one Keras model with one trunk. It takes rows,
as X in 'ring predict', and returns what 'ring predict' does: the mean of the models' probabilities, or values. With
--heads it returns a dict with the outputs of each model. With --model it is one model alone. OUT selects the kind:

  NAME.keras   keras.models.load_model reads it; all layers are Keras's own
  NAME.onnx    ONNX, made by tf2onnx: pip install 'ckptsurgeon[onnx]'
  NAME/        a SavedModel: model = tf.saved_model.load(NAME); model.serve(X)

The models may be networks with skflow's names, or Keras models that a 'trainer' function builds, whose trunk must be
their first layers. Before it is written, the result is compared with the models on rows of the run. Needs TensorFlow:
the extra ckptsurgeon[train].

  ckptsurgeon ring export R -o ensemble.keras
  ckptsurgeon ring export R -o ensemble/ --heads
  ckptsurgeon ring export R -o a.onnx --model a --force
"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `ring export`."""
    add = parser.add_argument
    add("folder", metavar="DIR", help="the folder of the run")
    add("-o", dest="out", metavar="OUT", required=True, help="NAME.keras, NAME.onnx, or NAME/ for a SavedModel")
    add("--heads", action="store_true", help="the outputs of each model, by name, instead of their mean")
    add("--model", metavar="NAME", help="this model alone")
    add("--force", action="store_true", help="replace an existing OUT")
    add("--json", action="store_true", help="print one JSON object")


def run(args: Arguments) -> int:
    """Replace this process by one that may import Keras."""
    given = vars(args)
    folder, out = given.pop("folder"), given.pop("out")
    processes.become("frameworks.export", {"output": out, **given}, "--", folder)
