"""The alarms of a new version, from what the exporter shows of the counters that workers write."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from handlers.observation import counters
from handlers.observation.counters import Counters
from handlers.observation.slot import Slot
from monitoring.worker_metrics import WorkerMetrics
from serving.rollout import alarms
from serving.rollout.alarms import Figures
from serving.store.live import Live, LiveModel

NAME, CLASSES = "birds", ("wren", "robin")
NO_DRIFT: Mapping[str, bool] = {}


def write(
    folder: Path, version: str, images: int, *, failed: int = 0, confidence: float = 0.9, seconds: float = 0.01,
    robins: float = 0.5, size: int = 5000, ended: int = 0,
) -> None:  # fmt: skip
    """Count as a worker of a version does."""
    slot = Slot.take(folder, NAME, version)
    worker = Counters(slot, NAME, version, CLASSES)
    worker.add("sightline_requests_total", images, counters.CODES.index("200"))
    worker.add("sightline_requests_total", failed, counters.CODES.index("503"))
    worker.add("sightline_worker_restarts_total", ended)
    for number in range(images):
        worker.add("sightline_predictions_total", place=int(number < robins * images))
        worker.observe("sightline_confidence", confidence)
        worker.observe("sightline_image_bytes", size)
        worker.observe("sightline_stage_seconds", seconds)
        worker.observe("sightline_batch_images", 1)
    worker.write()
    slot.release()


def figures(folder: Path, version: str) -> Figures:
    registry = CollectorRegistry()
    registry.register(WorkerMetrics(lambda: folder))
    return alarms.figures_of(generate_latest(registry).decode(), NAME, version)


def alarm(folder: Path, **new: Any) -> list[str]:
    """Return the alarms of a version that answered 400 images as given, after one that answered 400 as usual."""
    write(folder, "1.0", 400)
    write(folder, "2.0", **({"images": 400} | new))
    now, old = figures(folder, "2.0"), figures(folder, "1.0")
    return [text for text in (alarms.errors(now, old), alarms.latency(now, old), alarms.shift(now, old)) if text]


def test_figures_are_those_that_were_counted(tmp_path: Path) -> None:
    write(tmp_path, "1.0", 10, failed=3)
    first = figures(tmp_path, "1.0")
    assert first.counts["errors"] == 3 and first.counts["sightline_requests_total"] == 13
    assert first.classes == {"wren": 5, "robin": 5} and sum(first.bytes.values()) == 10 == first.bytes["10000.0"]
    write(tmp_path, "1.0", 4, robins=1.0)
    later = figures(tmp_path, "1.0").since(first)
    assert later.counts["errors"] == 0 and later.classes == {"wren": 0, "robin": 4} and sum(later.bytes.values()) == 4
    assert first.since(None) is first and not alarms.is_own_drift(first, first)


def test_a_version_like_the_one_before_raises_no_alarm(tmp_path: Path) -> None:
    assert alarm(tmp_path, failed=2, confidence=0.85, seconds=0.025, robins=0.6) == []


@pytest.mark.parametrize(
    ("new", "text"),
    [
        ({"failed": 30}, "30 of 430 requests failed, 0 of 400 of the previous version"),
        ({"images": 0, "failed": 12}, "12 of 12 requests failed"),
        ({"ended": 3}, "3 of its workers have ended"),
        ({"seconds": 0.1}, "100 ms an image, 10 ms of the previous version"),
        ({"confidence": 0.7}, "the mean confidence is 0.70, 0.90 of the previous version"),
        ({"robins": 1.0}, "50% of the answers are of other classes than before"),
    ],
)
def test_each_change_raises_its_alarm(tmp_path: Path, new: dict[str, Any], text: str) -> None:
    (line,) = alarm(tmp_path, **new)
    assert text in line


def test_other_requests_explain_a_shift(tmp_path: Path) -> None:
    assert alarm(tmp_path, confidence=0.5, robins=1.0, size=500_000) == []


def test_drift_is_the_version_s_own_if_the_previous_one_saw_none(tmp_path: Path) -> None:
    write(tmp_path, "1.0", 400)
    plain = figures(tmp_path, "1.0")
    clean, some = plain._replace(drift={"100": False}), plain._replace(drift={"100": True, "500": False})
    drifting = plain._replace(drift={"100": True, "500": True})
    assert alarms.is_own_drift(drifting, clean)
    assert not any(alarms.is_own_drift(*pair) for pair in [(drifting, some), (drifting, plain), (some, clean)])
    write(tmp_path, "2.0", 400, size=500_000)
    assert not alarms.is_own_drift(figures(tmp_path, "2.0")._replace(drift=drifting.drift), clean)


def test_labels_raise_an_alarm_if_they_show_a_worse_version() -> None:
    deployed = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)

    def rows(version: str, right: int, wrong: int, minutes: int = 5) -> list[dict[str, str]]:
        answers = ["wren"] * right + ["robin"] * wrong
        time = (deployed + dt.timedelta(minutes=minutes)).isoformat(timespec="milliseconds")
        return [{"version": version, "label": "wren", "answer": answer, "time": time} for answer in answers]

    def alarm_of(*parts: list[dict[str, str]]) -> str:
        return alarms.accuracy([row for part in parts for row in part], "2.0", "1.0", deployed.timestamp())

    before, worse = rows("1.0", 180, 20, -60), rows("2.0", 60, 40)
    assert "60.0% of 100 labelled answers are right, 90.0% of 200 of the previous" in alarm_of(before, worse)
    assert alarm_of(before, rows("2.0", 86, 14)) == alarm_of(worse) == alarm_of(before) == ""
    assert alarm_of(before, rows("2.0", 60, 40, -5)) == "", "of an earlier deployment"


def test_the_time_of_a_deployment_is_in_the_record_and_is_kept(tmp_path: Path) -> None:
    (tmp_path / "model_store").mkdir()
    (tmp_path / "model_store" / f"{NAME}-2.0.mar").touch()
    Live({NAME: LiveModel("2.0", "1.0", 5.0)}).write(tmp_path)
    live = Live.read(tmp_path)
    assert live.models[NAME].deployed == 5.0 and live.models[NAME] == LiveModel("2.0", "1.0")
    assert live.select([], tmp_path / "model_store")[0].models[NAME].deployed == 5.0
    Live({NAME: LiveModel("1.0", "2.0")}).write(tmp_path)
    assert Live.read(tmp_path).models[NAME].deployed is None
