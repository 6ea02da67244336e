"""A run that can be archived and not served: its model.pt holds a spec and nothing else."""

import json
import zipfile
from pathlib import Path


def write_run(runs: Path) -> Path:
    """Write the run `fingers` below `runs`, and return `runs`."""
    run = runs / "fingers"
    (run / "evaluation").mkdir(parents=True)
    with zipfile.ZipFile(run / "model.pt", "w") as file:
        origin = {"fingerprint": "from-spec", "commit": "abc", "versions": {"torch": "2.0"}}
        spec = {"classes": ["0L", "0R"], "network": "small_cnn", "provenance": origin}
        file.writestr(zipfile.ZipInfo("model/extra/spec.json"), json.dumps(spec))
        file.writestr(zipfile.ZipInfo("model/data.pkl"), bytes(100_000))
    (run / "train.json").write_text(json.dumps({"fingerprint": "from-train"}))
    (run / "config.yaml").write_text("name: fingers\nseed: 0\n")
    (run / "evaluation" / "metrics.json").write_text(json.dumps({"top1": 1.0}))
    return runs
