"""The fewest training images and the smallest network with which the Fingers data set is still learned.

    python -m benchmarks.fewest RAW_ROOT [any setting of training.frugality]

RAW_ROOT/fingers is in the layout of its public source. Writes benchmarks/results/fewest.json, of which `make readme`
makes a table; the last line is that document.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.real import RunError, step
from benchmarks.result import TRAINING, Origin
from handlers.atomic import write_json

RESULT = Path("benchmarks/results/fewest.json")
NAME = "fingers-fewest"
# Validation chooses: with a third of the training images in it, 99.9 % is more than no mistake by luck.
SETTINGS = ("split.validation=0.3",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Search, and write what was found."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given:
        print("error: name the folder that holds fingers/: python -m benchmarks.fewest RAW_ROOT", file=sys.stderr)
        return 2
    raw = Path(given[0]) / "fingers"
    origin = Origin("fewest", ["RAW_ROOT", *given[1:]], code=TRAINING)
    try:
        step("training.prepare", "dataset=fingers", f"raw={raw}", "name=fingers")
        step("training.frugality", "dataset=fingers", "store=fingers", f"name={NAME}", *SETTINGS, *given[1:])
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    document = json.loads((Path("runs") / NAME / "frugality.json").read_text())
    document |= origin.document()
    write_json(RESULT, document)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
