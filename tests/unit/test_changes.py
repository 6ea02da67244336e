"""What two archives differ in is said before they are swapped."""

import json
from pathlib import Path

from serving import archive
from serving.store.changes import changes
from serving.store.model_store import Archive
from tests.unit.archived_run import write_servable


def test_scores_are_said_as_evaluation_writes_them(tmp_path: Path) -> None:
    run = write_servable(tmp_path / "runs" / "small")
    (run / "evaluation").mkdir()

    def built(version: str, score: float | None) -> Archive:
        metrics = run / "evaluation" / "metrics.json"
        metrics.unlink(missing_ok=True)
        if score is not None:
            metrics.write_text(json.dumps({"top_1": {"value": score, "low": 0.5, "high": 1.0}}))
        return archive.build("small", version, run=run, store=tmp_path / "store", rehearse=False)

    first, second, third = built("1.0", 0.91), built("2.0", 0.925), built("3.0", None)
    assert changes(first, second) == ["test top-1: 91.00% -> 92.50%"]
    assert changes(second, third) == ["test top-1: 92.50% -> not evaluated"]
    assert changes(third, third) == []
