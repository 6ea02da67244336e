"""The prediction log: what a worker writes, what it drops, and how much of the disk it takes."""

import csv
import errno
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers.errors import BadImage
from handlers.observation import log as worker_log
from handlers.observation import mirror, segments, slot
from handlers.observation.counters import Snapshot
from handlers.observation.log import Log, request_id_of
from handlers.observation.segments import Segments
from handlers.observation.slot import UNCOUNTED_HEADER
from handlers.observation.statistics import Statistics
from handlers.requests.labels import Labels, Measured
from handlers.requests.request import RawRequest
from handlers.sampling import Share
from handlers.service import Service
from handlers.settings import Settings
from monitoring import log
from serving.rollout import copies
from tests.unit.banked_network import save_banked
from tests.unit.test_observation import numbers, png, request
from tests.until import until

MEASURED = Measured(Statistics(0.1, 0.2, 0.3), [0.123456, -1.0])
ANSWER = Labels({"bee": 0.75, "ant": 0.25}, 0.5, lambda: MEASURED)


class Written:
    """A log in a folder, and what it dropped."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.dropped: Counter[str] = Counter()
        self.folder = folder / "birds"
        chosen = Settings(**{"log": 1.0, **settings})
        self.log = Log(folder, "birds", "1.0", chosen, lambda reason: self.dropped.update([reason]))

    def add(self, count: int, image: bytes = b"image") -> None:
        for number in range(count):
            self.log.add(f"id-{number}", [ANSWER], [image], None)

    def rows(self) -> list[dict[str, Any]]:
        return [row for row, _ in segments.read(self.folder)]


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[..., Written]]:
    """Return a function that opens a log; its thread ends with the test."""
    logs: list[Written] = []

    def build(**settings: Any) -> Written:
        logs.append(Written(tmp_path, **settings))
        return logs[-1]

    yield build
    for one in logs:
        one.log.close()


def test_a_row_has_what_was_answered(written: Callable[..., Written]) -> None:
    one = written(log_images=True)
    one.log.add("a", [ANSWER, BadImage("broken"), ANSWER], [b"first", b"second", b"third"], 1)
    one.log.close()
    ((first, image), (third, _)) = segments.read(one.folder)
    assert tuple(first) == log.COLUMNS
    assert first["time"].endswith("+00:00") and (first["request_id"], first["image"], third["image"]) == ("a", 0, 2)
    assert (first["label"], first["confidence"], first["labels"]) == ("bee", 0.75, {"bee": 0.75})
    assert (first["familiarity"], first["sharpness"], first["embedding"]) == (0.5, 0.3, [0.1235, -1.0])
    assert image.read_bytes() == b"first" and first["bytes"] == 5 and image.name == first["sha256"]
    assert len(list(image.parent.iterdir())) == 2 and not one.dropped


def test_images_are_written_only_when_asked(written: Callable[..., Written]) -> None:
    one = written()
    one.add(1)
    one.log.close()
    ((_, image),) = segments.read(one.folder)
    assert not image.exists()


def test_a_sample_is_the_same_in_each_worker_and_has_its_share(written: Callable[..., Written]) -> None:
    first, second = written(log=0.1).log, written(log=0.1).log
    ids = [str(number) for number in range(20_000)]
    sample = [one for one in ids if first.has(one)]
    assert sample == [one for one in ids if second.has(one)]
    assert len(sample) == pytest.approx(2000, rel=0.1)
    everything, double = written().log, written(log=0.2).log
    assert all(everything.has(one) for one in ids)
    # A larger share has all of a smaller one.
    assert all(double.has(one) for one in sample)


def test_the_id_is_the_clients_else_the_servers() -> None:
    assert request_id_of(RawRequest({"x-request-id": "mine"}, [], "theirs")) == "mine"
    for text in ("", "two words", "x" * 129, "caf\u00e9"):
        assert request_id_of(RawRequest({"x-request-id": text}, [], "theirs")) == "theirs"
    assert request_id_of(RawRequest({}, [])) != request_id_of(RawRequest({}, []))


def test_a_full_queue_drops_and_never_waits(written: Callable[..., Written], monkeypatch: pytest.MonkeyPatch) -> None:
    go, append = threading.Event(), Segments.append

    def slow(self: Segments, *arguments: Any) -> None:
        assert go.wait(30)
        append(self, *arguments)

    monkeypatch.setattr(Segments, "append", slow)
    one = written()
    one.add(1)
    until(lambda: not one.log._queue, 10)  # the thread has it, and waits for the disk
    one.add(worker_log.MOST_WAITING + 7)
    assert one.dropped == {"queue": 7}
    go.set()
    one.log.close()
    assert len(one.rows()) == worker_log.MOST_WAITING + 1


def test_large_images_that_wait_are_bounded(written: Callable[..., Written], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_log, "MOST_BYTES", 1000)
    one = written()
    one.add(5, b"x" * 300)
    assert one.dropped == {"queue": 2}
    one.log.close()
    assert len(one.rows()) == 3


def test_a_full_disk_costs_rows_one_line_and_no_cut_line(
    written: Callable[..., Written], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, write, full = written(), os.write, True

    def half(handle: int, data: bytes) -> int:
        return write(handle, data[: len(data) // 2] if full and data.startswith(b"{") else data)

    one.add(3)
    until(lambda: len(one.rows()) == 3, 10)
    monkeypatch.setattr(os, "write", half)
    one.add(3)
    until(lambda: one.dropped == {"disk": 3}, 10)
    full = False
    one.add(2)
    one.log.close()
    (segment,) = segments.segments(one.folder)
    assert len([json.loads(line) for line in segment.read_text().splitlines()]) == 5
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"predictions are not logged at present: [Errno {errno.ENOSPC}] No space left on device"]


def test_a_folder_that_was_removed_or_is_a_file_costs_rows_only(
    written: Callable[..., Written], tmp_path: Path
) -> None:
    one = written()
    one.add(1)
    until(one.rows, 10)
    for path in (*segments.segments(one.folder), one.folder):
        path.unlink() if path.is_file() else path.rmdir()
    one.folder.touch()
    one.add(2)
    until(lambda: one.dropped == {"disk": 2}, 10)
    one.folder.unlink()
    one.add(1)
    one.log.close()
    assert len(one.rows()) == 1


def line_of(number: int, size: int) -> bytes:
    return json.dumps({"sha256": f"{number}", "label": "x" * size}).encode() + b"\n"


def test_the_disk_is_bounded_and_the_oldest_rows_are_removed_first(tmp_path: Path) -> None:
    files = Segments(tmp_path, largest=1000, count=3)
    for number in range(40):
        files.append(line_of(number, 100), str(number), b"i" * 150)
    paths = segments.segments(tmp_path)
    assert len(paths) == 3
    sizes = [
        path.stat().st_size + sum(image.stat().st_size for image in segments.images_of(path).iterdir())
        for path in paths
    ]
    assert all(1000 <= size < 1300 for size in sizes[:-1])
    found = [int(row["sha256"]) for row, image in segments.read(tmp_path) if image.is_file()]
    assert found == list(range(found[0], 40)) and len(list(tmp_path.iterdir())) == 6


def test_the_order_is_that_of_writing_whatever_the_clock_says(
    written: Callable[..., Written], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = written()
    one.add(1)
    until(one.rows, 10)
    monkeypatch.setattr(time, "time", lambda: 1e9)
    one.log.add("back", [ANSWER], [b"image"], None)
    one.log.close()
    assert [row["request_id"] for row in one.rows()] == ["id-0", "back"] and one.rows()[-1]["time"].startswith("2001")


def test_workers_have_files_of_their_own_and_the_next_continues_them(tmp_path: Path) -> None:
    first, second = Segments(tmp_path, 10_000, 8), Segments(tmp_path, 10_000, 8)
    first.append(line_of(0, 10), "0", None)
    second.append(line_of(1, 10), "1", None)
    assert len(segments.segments(tmp_path)) == 2
    first.close()
    with open(segments.segments(tmp_path)[0], "ab") as file:
        file.write(b'{"sha256": "cut')  # of a worker that was killed
    third = Segments(tmp_path, 10_000, 8)
    third.append(line_of(2, 10), "2", None)
    assert [row["sha256"] for row, _ in segments.read(tmp_path)] == ["0", "2", "1"]
    second.close()
    third.close()


def test_a_file_that_another_worker_has_is_not_removed(tmp_path: Path) -> None:
    held, files = Segments(tmp_path, 10_000, 2), Segments(tmp_path, 100, 2)
    held.append(line_of(0, 10), "0", None)
    for number in range(1, 9):
        files.append(line_of(number, 100), str(number), None)
    assert [row["sha256"] for row, _ in segments.read(tmp_path)] == ["0", "8"]


def test_an_image_that_another_worker_is_writing_does_not_count(tmp_path: Path) -> None:
    first, second = Segments(tmp_path, 10_000, 8), Segments(tmp_path, 10_000, 8)
    first.append(line_of(0, 10), "0", b"image")
    # As its part file is between the listing of the folder and a look at it.
    (segments.images_of(segments.segments(tmp_path)[0]) / "1.part").symlink_to("renamed")
    second.append(line_of(1, 10), "1", b"image")
    assert [row["sha256"] for row, _ in segments.read(tmp_path)] == ["0", "1"]
    first.close()
    second.close()


@pytest.mark.parametrize("cut", [b"", b"\n", b"[]\n", b"{}\n", b"\xff\n", b'{"sha256": 3}\n', b'{"sha256": "1'])
def test_a_damaged_line_is_passed_over(tmp_path: Path, cut: bytes) -> None:
    (tmp_path / "00000001.jsonl").write_bytes(line_of(1, 3) + cut)
    assert [row["sha256"] for row, _ in segments.read(tmp_path)] == ["1"]


# A service


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Service]]:
    """Return a function that loads a service with the settings of a log."""
    monkeypatch.setenv(slot.VARIABLE, str(tmp_path / "observations"))
    monkeypatch.setenv(segments.VARIABLE, str(tmp_path / "predictions"))
    services: list[Service] = []
    weights, threads = save_banked(tmp_path), torch.get_num_threads()

    def load(**settings: Any) -> Service:
        services.append(Service(weights, {"handler": {"precision": "fp32", **settings}}, version="1.2", name="small"))
        torch.set_num_threads(threads)
        return services[-1]

    yield load
    for service in services:
        if service.observer is not None and service.observer.log is not None:
            service.observer.log.close()


def test_a_service_logs_its_answers_under_the_ids_that_it_returns(
    logged: Callable[..., Service], tmp_path: Path
) -> None:
    service = logged(log=1, log_images=True)
    batch = [
        request(png(0), png(1), **{"x-request-id": "mine", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}),
        request(png(2), traceparent="00-malformed-00f067aa0ba902b7-01"),
        request(b"no image", **{"x-request-id": "bad"}),
        request(png(3), **{UNCOUNTED_HEADER: "1"}),
        request(png(4), describe="True"),
        request(png(5), **{"top-k": "1"}),
    ]
    replies = service.answer(batch)
    ids = [reply.headers.get("x-prediction-id", "") for reply in replies]
    assert ids[0] == "mine" and ids[1] and ids[5] and not any(ids[2:5])
    assert service.observer is not None and service.observer.log is not None
    service.observer.log.close()
    rows = list(segments.read(tmp_path / "predictions" / "small"))
    assert [(row["request_id"], row["image"]) for row, _ in rows] == [
        ("mine", 0),
        ("mine", 1),
        (ids[1], 0),
        (ids[5], 0),
    ]
    assert [row["trace_id"] for row, _ in rows] == [TRACE, TRACE, None, None]
    assert [row["labels"] for row, _ in rows] == [
        *replies[0].document["predictions"], replies[1].document, replies[5].document
    ]  # fmt: skip
    assert [path.read_bytes() for _, path in rows] == [png(0), png(1), png(2), png(5)]
    assert all(row["familiarity"] is not None and row["pixels"] == 600 for row, _ in rows)


def test_a_service_logs_nothing_by_default_and_answers_the_same(logged: Callable[..., Service], tmp_path: Path) -> None:
    batch = [request(png(0), **{"x-request-id": "mine"}), request(b"no image")]
    plain, with_log = logged().answer(batch), logged(log=1).answer(batch)
    assert not (tmp_path / "predictions").exists() or not list((tmp_path / "predictions").rglob("*.images"))
    assert [reply.document for reply in plain] == [reply.document for reply in with_log]
    assert not any("x-prediction-id" in reply.headers for reply in plain)


def test_requests_that_a_trial_asks_for_are_logged_and_copied(
    logged: Callable[..., Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.sampling.PERIOD", 0.0)
    folder = tmp_path / "mirror"
    monkeypatch.setenv(mirror.VARIABLE, str(folder))
    service = logged()

    def ids() -> list[str]:
        batch = [request(png(0), png(1)), request(png(2), **{UNCOUNTED_HEADER: "1"}), request(b"no image")]
        return [reply.headers.get("x-prediction-id", "") for reply in service.answer(batch)]

    assert ids() == ["", "", ""]
    with copies.asked_for(folder, "small", Share("1.3", 1.0)):
        assert ids() == ["", "", ""], "another version"
    with copies.asked_for(folder, "small", Share("1.2", 1.0)) as place:
        first, *others = ids()
        assert first and others == ["", ""]
        until(lambda: len(list(place.glob("*.copy"))) == 2, 10)
        taken = list(copies.take(place, 5))
        assert [(copy.row["request_id"], copy.row["image"]) for copy in taken] == [(first, 0), (first, 1)]
        assert [copy.image for copy in taken] == [png(0), png(1)] and not list(place.iterdir())
        monkeypatch.setattr(mirror, "MOST_WAITING", 1)
        second = ids()[0]
        rows = tmp_path / "predictions" / "small"
        until(lambda: [row["request_id"] for row, _ in segments.read(rows)] == [first] * 2 + [second] * 2, 10)
        assert len(list(place.iterdir())) == 1
    assert not place.exists() and ids() == ["", "", ""]
    assert not list(rows.rglob("*.images")), "only the copies have images"


def test_dropped_images_are_counted(logged: Callable[..., Service], tmp_path: Path) -> None:
    (tmp_path / "predictions").touch()
    service = logged(log=1)
    assert [service.answer([request(png(seed))])[0].code for seed in range(4)] == [200] * 4
    assert service.observer is not None and service.observer.log is not None
    service.observer.log.close()
    service.observer.counters.write()
    (snapshot,) = [Snapshot.read(path) for path in slot.files(tmp_path / "observations", ".counters")]
    assert numbers(snapshot, "sightline_log_dropped_total") == [0, 4]


# A table


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a server with three logged predictions of birds."""
    monkeypatch.chdir(tmp_path)
    one = Written(tmp_path / "logs" / "predictions")
    one.add(3)
    one.log.close()
    return tmp_path


def test_a_table_has_all_rows(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert log.main(["birds", "--out", "birds.csv"]) == 0
    assert capsys.readouterr().out == "birds.csv: 3 predictions\n"
    with open("birds.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["request_id"] for row in rows] == ["id-0", "id-1", "id-2"] and tuple(rows[0]) == log.COLUMNS
    assert json.loads(rows[0]["labels"]) == ANSWER and json.loads(rows[0]["embedding"]) == [0.1235, -1.0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["moths"], 'ARGS="handler.log=0.1"'),
        (["birds", "--out", "birds.xlsx"], "must end with .parquet or .csv"),
        (["birds", "--out", "birds.parquet"], "install it with .venv/bin/uv pip install --require-hashes"),
        (["../birds"], "cannot name a model"),
    ],
)
def test_an_error_is_one_line_with_the_remedy(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr(log, "has_pyarrow", lambda: False)
    assert log.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not list(home.glob("birds.*"))
