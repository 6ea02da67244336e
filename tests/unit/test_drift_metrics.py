"""The gauges of drift, from the rings that workers write and the reference that an archive carries."""

import os
import shutil
import time
import zipfile
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from handlers.observation.recent import Recent, Row
from handlers.observation.slot import Slot
from handlers.observation.statistics import Statistics
from handlers.spec import REFERENCE
from monitoring.drift import live
from monitoring.drift.verdict import Images
from monitoring.drift_metrics import GAUGES, RETRY, DriftMetrics
from serving.lifecycle import exporter, launch
from serving.store import model_store
from tests.unit.test_drift import WIDTH, drawn_reference, images
from tests.unit.test_exporter import ROOT, Samples, exporters, free_port, get, record, samples, value
from tests.until import until

KEY = {"model": "birds", "version": "1.0"}
LARGEST_EXPORTER = 150e6  # bytes; torch would add 400 MB


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return a store with the archive of birds 1.0."""
    drawn_reference().write(tmp_path / REFERENCE)
    (tmp_path / "store").mkdir()
    with zipfile.ZipFile(model_store.path_of("birds", "1.0", tmp_path / "store"), "w") as file:
        file.write(tmp_path / REFERENCE, REFERENCE)
    return tmp_path / "store"


def serve(folder: Path, window: Images, version: str = "1.0") -> Slot:
    """Write the ring of a worker that has just answered these images; its slot is released."""
    slot = Slot.take(folder, "birds", version)
    columns = zip(window.embeddings, window.statistics, window.confidences, window.answers, strict=True)
    rows = [
        Row(time.time(), place, confidence, 1.0, *Statistics(*statistics), pixels=100.0, embedding=embedding.tolist())
        for embedding, statistics, confidence, place in columns
    ]
    Recent(slot, "birds", version, WIDTH).add(rows)
    return slot


def scrape(metrics: DriftMetrics) -> Samples:
    registry = CollectorRegistry()
    registry.register(metrics)
    return samples(generate_latest(registry).decode())


def test_drift_of_two_workers_is_exported(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SECONDS", 0.0)
    monkeypatch.setattr(live, "SHARE", float("inf"))
    folder, metrics = tmp_path / "observations", DriftMetrics(lambda: tmp_path / "observations", store)
    folder.mkdir()
    assert scrape(metrics) == {}
    slots = [serve(folder, images(60, 1)), serve(folder, images(60, 2))]
    clean = scrape(metrics)
    assert value(clean, "sightline_drift_reference_images", **KEY) == 300
    assert {name for name, _ in clean} == set(GAUGES)
    window = KEY | {"window": "100"}
    for kind in ("input", "label"):
        assert value(clean, "sightline_drift_detected", **window, kind=kind) == 0
    limits = [value(clean, f"sightline_drift_mmd{end}", **window) for end in ("", "_threshold")]
    assert limits[0] < limits[1]
    low, middle, high = (value(clean, f"sightline_estimated_accuracy{end}", **window) for end in ("_low", "", "_high"))
    assert 0.7 < low < middle < high <= 1
    slots.append(serve(folder, images(100, 3, shift=2.0)))
    moved = scrape(metrics)
    assert value(moved, "sightline_drift_detected", **window, kind="input") == 1
    assert value(moved, "sightline_drift_mmd", **window) > value(moved, "sightline_drift_mmd_threshold", **window)
    distances = {
        column: value(moved, "sightline_drift_jensen_shannon", **window, column=column)
        - value(moved, "sightline_drift_jensen_shannon_threshold", **window, column=column)
        for column in ("brightness", "sharpness")
    }
    assert distances["brightness"] < 0 < distances["sharpness"]
    for slot in slots:
        slot.release()


@pytest.mark.parametrize("content", [None, b"", b"damaged"])
def test_a_version_without_a_readable_reference_has_none(store: Path, tmp_path: Path, content: bytes | None) -> None:
    archive = model_store.path_of("birds", "2.0", store)
    if content is not None:
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(REFERENCE, content)
    serve(tmp_path / "observations", images(120, 1, shift=9.0), "2.0").release()
    exported = scrape(DriftMetrics(lambda: tmp_path / "observations", store))
    assert exported == {
        ("sightline_drift_reference_images", frozenset({"model": "birds", "version": "2.0"}.items())): 0
    }


def test_a_reference_that_could_not_be_read_is_read_again(
    store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seconds, archive = 0.0, model_store.path_of("birds", "1.0", store)
    serve(tmp_path / "observations", images(120, 1)).release()
    metrics = DriftMetrics(lambda: tmp_path / "observations", store, clock=lambda: seconds)

    def reference_images() -> float:
        return value(scrape(metrics), "sightline_drift_reference_images", **KEY)

    content = archive.read_bytes()
    for damage in (None, content[:-50], content[: len(content) // 2]):
        archive.unlink() if damage is None else archive.write_bytes(damage)
        assert reference_images() == 0
        seconds += RETRY
    archive.write_bytes(content)
    seconds -= 1
    assert reference_images() == 0  # a scrape does not read it each time
    seconds += 1
    assert reference_images() == 300
    archive.unlink()
    seconds += RETRY
    assert reference_images() == 300  # it is read once
    assert len(caplog.records) == 1 and "birds 1.0 is not watched for drift at present" in caplog.text


def test_a_ring_that_is_being_written_is_left_out(store: Path, tmp_path: Path) -> None:
    serve(tmp_path / "observations", images(120, 1)).release()
    (tmp_path / "observations/birds/1.0/1.recent").write_bytes(b"{}")
    assert ("sightline_drift_mmd", frozenset((KEY | {"window": "100"}).items())) in scrape(
        DriftMetrics(lambda: tmp_path / "observations", store)
    )


def test_a_running_exporter_has_no_torch_and_little_memory(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "logs").mkdir()
    shutil.copytree(store, tmp_path / model_store.FOLDER)
    record(tmp_path, os.getpid(), free_port())
    serve(launch.observations(str(tmp_path / "temporary")), images(600, 1)).release()
    with exporter.beside(tmp_path):
        until(lambda: get(tmp_path), 30)
        answer = get(tmp_path)
        assert answer and {
            value(answer, "sightline_drift_detected", **KEY, window=window, kind="input") for window in ("100", "500")
        } == {0}
        (process,) = exporters()
        memory = process.memory_info().rss
        libraries = {Path(part.path).name for part in process.memory_maps() if "site-packages" in part.path}
    assert memory < LARGEST_EXPORTER, f"{memory:,} bytes"
    assert any("umath" in name for name in libraries)  # numpy is there
    assert not {name for name in libraries if "torch" in name}
