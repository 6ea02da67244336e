"""From images in a bucket to served predictions: a job that is killed, its second start, and a container."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest

from tests.server import buckets
from tests.server.conftest import ROOT, free_offset, picture
from tests.server.test_cloud import container, image_folder
from tests.until import until

EPOCHS = 4
SETTINGS = (
    "network=small_cnn",
    "dataset.image_size=32",
    "trainer.batch_size=16",
    "split.validation=0.3",
    "trainer.ema=0",
)
COMMAND = (sys.executable, "-m", "pipeline.cloud_training", "fingers", "hands", f"gs://{buckets.NAME}/hands/raw", "1.0")


def start(folder: Path, variables: dict[str, str]) -> "subprocess.Popen[str]":
    """Start the job on a machine that has nothing but the project."""
    folder.mkdir()
    environment = {**buckets.without_cloud(), **variables, "PYTHONPATH": str(ROOT), "SIGHTLINE_COPY_SECONDS": "0"}
    command = [*COMMAND, f"trainer.epochs={EPOCHS}", "tracking=tensorboard", *SETTINGS]
    output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **output)


def copied(files: Any) -> dict[str, Any]:
    place = f"{buckets.NAME}/hands/checkpoints/newest.json"
    document: dict[str, Any] = json.loads(files.cat_file(place)) if files.exists(place) else {"number": -1}
    return document


@pytest.mark.slow
def test_a_preempted_job_ends_with_an_archive_that_a_container_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = tmp_path / "raw"
    draw = [sys.executable, "-m", "synthetic", "fingers", str(raw), "--images-per-class", "10"]
    subprocess.run(draw, cwd=ROOT, check=True, capture_output=True)
    port = 8080 + free_offset(16000)
    with buckets.emulated(port + 9) as bucket:
        files = buckets.reach(bucket, monkeypatch)
        files.put(f"{raw}/", f"{buckets.NAME}/hands/raw/", recursive=True)
        places = {"AIP_MODEL_DIR": "model", "AIP_CHECKPOINT_DIR": "checkpoints", "AIP_TENSORBOARD_LOG_DIR": "logs"}
        variables = {name: f"gs://{buckets.NAME}/hands/{place}/" for name, place in places.items()} | bucket

        with start(tmp_path / "first", variables) as process:
            try:
                until(lambda: process.poll() is not None or copied(files)["number"] >= 1, 120)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        assert f"epoch   2/{EPOCHS}" in output and f"epoch   {EPOCHS}/{EPOCHS}" not in output
        assert not files.exists(f"{buckets.NAME}/hands/model")

        with start(tmp_path / "second", variables) as process:
            output, _ = process.communicate()
        assert process.returncode == 0, output
        assert "runs/hands: resuming after its last whole epoch" in output and "copied after epoch 1\n" not in output
        rows = list(csv.DictReader((tmp_path / "second" / "runs" / "hands" / "metrics.csv").read_text().splitlines()))
        assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
        names = {Path(name).name for name in files.find(f"{buckets.NAME}/hands/model")}
        assert names == {"hands-1.0.mar", "hands-1.0.json"}
        assert any("tfevents" in name for name in files.find(f"{buckets.NAME}/hands/logs"))
        sidecar = json.loads(files.cat_file(f"{buckets.NAME}/hands/model/hands-1.0.json"))
        assert sidecar["metrics"] is not None, "the archive says how good it is"

        serving = {**bucket, "AIP_STORAGE_URI": f"gs://{buckets.NAME}/hands/model", "AIP_HTTP_PORT": str(port)}
        serving |= {"AIP_HEALTH_ROUTE": "/ping", "AIP_PREDICT_ROUTE": "/predictions/hands"}
        with container(image_folder(tmp_path / "image"), port, "/ping", serving) as running:
            until(lambda: running.health() == 200, 60)
            answer = running.client.post("/predictions/hands", content=picture())
            assert answer.status_code == 200 and len(answer.json()) == 5
            running.stop()
    fsspec.get_filesystem_class("gs").clear_instance_cache()
