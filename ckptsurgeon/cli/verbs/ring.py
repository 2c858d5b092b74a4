"""The verb `ring`. It has verbs of its own, each in a module ring_<verb> of the same form."""

from __future__ import annotations

from ...errors import UsageError, did_you_mean
from ..parser import Parser

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..parser import Arguments

VERBS = {
    "init": "write ring.toml, the rows and the initial checkpoints",
    "check": "test each trainer against the contract",
    "run": "train until the models have converged; continue a run that was stopped",
    "status": "show the state of a run",
    "plot": "plot losses, changes of the weights and distances between the trunks",
    "evaluate": "score each model, and all of them together",
    "predict": "predict new rows with all models together",
    "export": "write all models as one Keras model, SavedModel or ONNX file",
}

HELP = f"""ckptsurgeon ring VERB DIR [options]

M models train as independent processes and share their first layers. After every mini-batch each model's
trunk is grafted into the next model, and at the end of the round the last trunk into all others, until the weights have
converged.

{chr(10).join(f"  {verb:10}{text}" for verb, text in VERBS.items())}

  ckptsurgeon ring init R --data iris.csv --target species --models 3 --hidden 10,20,10 --layers 0-1
  ckptsurgeon ring run R
  ckptsurgeon ring evaluate R

'ckptsurgeon ring VERB --help' explains a verb.
"""


def add_arguments(parser: Parser) -> None:
    """Add the arguments of `ring`: a verb, and arguments for the verb's own parser."""
    parser.add_argument("verb", metavar="VERB", nargs="...", help="what to do")


def run(args: Arguments) -> int:
    """Run one of the ring's verbs."""
    verb, *rest = args.verb or [None]
    if verb not in VERBS:
        hint = verb and did_you_mean(verb, VERBS)
        what = f"no verb ring {verb}" if verb else "ring needs a verb"
        raise UsageError(what, hint=hint or f"the verbs are {', '.join(VERBS)}")
    module = __import__(f"ckptsurgeon.cli.ring.{verb}", fromlist=["run"])
    parser = Parser(f"ckptsurgeon ring {verb}", module.HELP)
    module.add_arguments(parser)
    arguments = parser.parse(rest)
    if arguments is None:  # --help
        return 0
    status: int = module.run(arguments)
    return status
