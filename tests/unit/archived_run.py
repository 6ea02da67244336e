"""Runs to build archives of."""

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handlers import golden
from handlers.classifier import Classifier
from tests.unit.small_network import save_small
from tests.unit.test_classifier import png


def write_run(runs: Path, **fields: Any) -> Path:
    """Write the run `fingers` below `runs`, which cannot be served: its model.pt holds a spec and nothing else.

    `fields` are those of the spec, besides or in place of the usual ones.
    """
    run = runs / "fingers"
    (run / "evaluation").mkdir(parents=True)
    with zipfile.ZipFile(run / "model.pt", "w") as file:
        origin = {"fingerprint": "from-spec", "commit": "abc", "versions": {"torch": "2.0"}}
        spec = {"classes": ["0L", "0R"], "network": "small_cnn", "provenance": origin, **fields}
        file.writestr(zipfile.ZipInfo("model/extra/spec.json"), json.dumps(spec))
        file.writestr(zipfile.ZipInfo("model/data.pkl"), bytes(100_000))
    (run / "train.json").write_text(json.dumps({"fingerprint": "from-train"}))
    (run / "config.yaml").write_text("name: fingers\nseed: 0\n")
    (run / "evaluation" / "metrics.json").write_text(json.dumps({"top1": 1.0}))
    return runs


def write_servable(folder: Path, images: Sequence[bytes] = ()) -> Path:
    """Write a run with the weights of a small network and golden images, three drawn ones where none are given."""
    folder.mkdir(parents=True)
    weights = save_small(folder / "model.pt")
    encoded = images or [png(seed) for seed in range(3)]
    named = {f"{number}.png": image for number, image in enumerate(encoded)}
    golden.write(golden.of(Classifier(weights), named), folder / golden.FILE)
    return folder
