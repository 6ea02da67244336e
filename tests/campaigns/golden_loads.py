"""Load artifacts as a worker does, with copies of `handlers`; `tests.campaigns.golden` runs it as a separate process.

    python tests/campaigns/golden_loads.py LOADS.json > REPORTS.json

LOADS.json is a list of {"handlers": folder of the package, "weights": file, "config": model-config.yaml}; a report is
{"refused": message or null, "digest": of pixels and answers, "own": only of those of the data set's images}.
"""

import contextlib
import hashlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any


def use(folder: str) -> None:
    """Import `handlers` from the copy in a folder."""
    if sys.path[0] == folder:
        return
    for name in [name for name in sys.modules if name.partition(".")[0] == "handlers"]:
        del sys.modules[name]
    sys.path[0] = folder
    importlib.invalidate_caches()


def load(weights: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Load one artifact, and return the report."""
    from handlers.golden import GoldenError
    from handlers.service import Service

    refused = None
    try:
        Service(weights, config, version="1.0")
    except GoldenError as error:
        refused = str(error)
    return {"refused": refused, **digests(weights, config["handler"]["precision"])}


def digests(weights: Path, precision: str) -> dict[str, str]:
    """Return digests that change with any pixel or answer."""
    from handlers import golden
    from handlers.classifier import Classifier

    classifier = Classifier(weights, precision=precision)
    own, everything = hashlib.sha256(), hashlib.sha256()
    for image in golden.read(weights.with_name(golden.FILE)):
        (pixels,) = golden.decoded(classifier, [image.image])
        inputs, answer = classifier.levels([pixels]), classifier.predict([pixels])
        content = b"".join(tensor.contiguous().numpy().tobytes() for tensor in (pixels, inputs, answer))
        everything.update(content)
        if not image.drawn:
            own.update(content)
    return {"digest": everything.hexdigest(), "own": own.hexdigest()}


def main() -> None:
    """Write the reports of all loads."""
    reports = []
    with contextlib.redirect_stdout(sys.stderr):
        for case in json.loads(Path(sys.argv[1]).read_text()):
            use(str(Path(case["handlers"]).parent))
            reports.append(load(Path(case["weights"]), case["config"]))
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
