"""`make size` on real servers: each setting is served and loaded, and better settings become the next archive."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import size
from serving import archive
from serving.host.state import ServerState
from serving.store import model_store
from tests.server.conftest import CLASSES, CONFIG, export, free_offset, picture


@pytest.mark.slow
def test_a_setting_that_serves_more_is_archived_as_the_next_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIGHTLINE_PORT_OFFSET", str(free_offset(3000)))
    shutil.copy(CONFIG, tmp_path)
    export(Path("runs/shapes"), CLASSES["shapes"])
    Path("images").mkdir()
    for number in range(4):
        (Path("images") / f"{number}.jpg").write_bytes(picture(number))
    # A request that waits 1.5 s for others cannot be answered within 0.7 s.
    archive.build("shapes", "1.0", overrides=["maxBatchDelay=1500", "handler.top_k=2"])
    monkeypatch.setattr(size, "choices", lambda precisions, workers: iter([["maxBatchDelay=0"]]))
    monkeypatch.setattr(size, "TURNS", 1)
    assert size.main(["shapes", "--p99", "0.7s", "--images", "images", "--seconds", "0.5"]) == 0
    document = json.loads(Path("runs/shapes/size.json").read_text())
    assert document["present"] == ["maxBatchDelay=1500", "handler.top_k=2"]
    assert document["best"] == ["handler.top_k=2", "maxBatchDelay=0"] and document["version"] == "2.0"
    best, worst = document["rows"]
    assert best["rate"] > 5 and best["latencies"]["p99"] <= 700 and worst["rate"] == 0
    (_, built) = model_store.archives(model_store.FOLDER)
    assert built.version == "2.0" and built.model_config()["maxBatchDelay"] == 0
    assert "make deploy NAME=shapes VERSION=2.0" in capsys.readouterr().out
    for place in ("0", "1"):
        assert ServerState.read(size.WORK / place) is None
