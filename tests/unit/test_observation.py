"""What a worker measures and counts, as a reader of its files sees it."""

import errno
import io
import logging
import math
import os
import signal
import subprocess
import sys
import time
from array import array
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from handlers import errors
from handlers.errors import RequestError
from handlers.observation import counters, file, measurements, sampling, slot
from handlers.observation.counters import Counters, Metric, Snapshot
from handlers.observation.file import NumberFile
from handlers.observation.measurements import statistics_of
from handlers.observation.recent import COLUMNS, ROWS, Copy, Recent, Row
from handlers.observation.slot import UNCOUNTED_HEADER, VARIABLE, Slot
from handlers.requests.labels import NOTHING, Labels, Measured
from handlers.requests.request import Field, RawRequest
from handlers.service import Reply, Service
from tests.unit.banked_network import save_banked
from tests.unit.small_network import CLASSES
from tests.until import until

SIDE = 48


def image(values: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> torch.Tensor:
    """Return an image as a decoder makes it: interleaved."""
    return torch.from_numpy(np.ascontiguousarray(values.astype(np.uint8))).permute(2, 0, 1)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def numbers(snapshot: Snapshot, name: str) -> list[float]:
    return next(list(values) for metric, values in snapshot if metric.name == name)


def histogram(snapshot: Snapshot, name: str) -> tuple[int, float]:
    """Return the number of observations and their sum."""
    *buckets, total = numbers(snapshot, name)
    return int(sum(buckets)), total


def snapshots(folder: Path) -> list[Snapshot]:
    return [Snapshot.read(path) for path in slot.files(folder, counters.SUFFIX)]


def row(number: int, width: int = 0) -> Row:
    return Row(1e9 + number, 1, 0.5, 0.25, 0.1, 0.2, 0.3, math.nan, [number / 7] * width)


# Statistics


def test_a_grey_image_has_its_brightness_and_nothing_else() -> None:
    ((brightness, contrast, sharpness),) = statistics_of([image(np.full((SIDE, SIDE, 3), 51))])
    assert brightness == pytest.approx(0.2) and contrast == pytest.approx(0, abs=1e-6) and sharpness == 0


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_those_of_the_whole_image_where_its_texture_is_even(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (225, 225, channels)).astype(float)
    ((brightness, contrast, sharpness),) = statistics_of([image(pixels)])
    inner = pixels[1:-1, 1:-1]
    laplacian = 4 * inner - pixels[:-2, 1:-1] - pixels[2:, 1:-1] - pixels[1:-1, :-2] - pixels[1:-1, 2:]
    assert brightness == pytest.approx(pixels.mean() / 255, rel=0.02)
    assert contrast == pytest.approx(pixels.std() / 255, rel=0.02)
    assert sharpness == pytest.approx(np.abs(laplacian).mean() / 255, rel=0.03)


def test_sharpness_is_exact_where_every_row_is_sampled() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 9, 3)).astype(float)
    middle = pixels[1:2, 1:-1]
    laplacian = 4 * middle - pixels[:1, 1:-1] - pixels[2:, 1:-1] - pixels[1:2, :-2] - pixels[1:2, 2:]
    assert statistics_of([image(pixels)])[0].sharpness == pytest.approx(np.abs(laplacian).mean() / 255, rel=1e-5)


def test_images_of_a_batch_have_the_statistics_that_each_has_without_the_others() -> None:
    images = [image(np.random.default_rng(seed).integers(0, 50 * (seed + 1), (SIDE, SIDE, 3))) for seed in range(4)]
    one_by_one = [row for single in images for row in statistics_of([single])]
    assert statistics_of(images) == one_by_one
    # Planes, as a GPU decodes them, are the same image.
    assert statistics_of([single.contiguous() for single in images]) == one_by_one
    assert statistics_of([]) == []


def test_a_gpu_computes_the_same_statistics(device: torch.device) -> None:
    images = [image(np.random.default_rng(seed).integers(0, 50 * (seed + 1), (SIDE, SIDE, 3))) for seed in range(4)]
    np.testing.assert_allclose(measurements._of_batch(images, device), statistics_of(images), rtol=1e-5)


# Counters


def test_a_histogram_has_its_observations_in_their_buckets(tmp_path: Path) -> None:
    written = Counters(Slot.take(tmp_path, "birds", "1.0"), "birds", "1.0", CLASSES)
    for value in (0.5, 0.95, 0.951, 2.0):
        written.observe("sightline_confidence", value)
    written.observe("sightline_stage_seconds", 0.001, counters.STAGES.index("network"))
    written.add("sightline_predictions_total", 2, place=1)
    written.write()
    (snapshot,) = snapshots(tmp_path)
    assert (snapshot.model, snapshot.version) == ("birds", "1.0")
    *buckets, total = numbers(snapshot, "sightline_confidence")
    upper = dict(zip((*counters.SHARES, math.inf), buckets, strict=True))
    # A bound belongs to its bucket (`le`).
    assert {bound: count for bound, count in upper.items() if count} == {0.5: 1, 0.95: 1, 0.99: 1, math.inf: 1}
    assert total == pytest.approx(4.401)
    assert numbers(snapshot, "sightline_predictions_total") == [0, 2, 0]
    stages = numbers(snapshot, "sightline_stage_seconds")
    width = len(counters.SECONDS) + 2
    assert sum(stages[2 * width : 3 * width - 1]) == 1 and sum(stages) == pytest.approx(1.001)


def test_each_kind_of_error_is_a_reason_and_its_status_a_code() -> None:
    public = {error.__name__ for error in RequestError.__subclasses__() if error.__module__ == errors.__name__}
    assert set(counters.REASONS) == public
    assert set(counters.CODES) == {"200", *(str(error.code) for error in RequestError.__subclasses__())}


COUNT = """
import sys
from pathlib import Path
from handlers.observation.counters import Counters
from handlers.observation.slot import Slot
counters = Counters(Slot.take(Path(sys.argv[1]), "birds", "1.0"), "birds", "1.0", ("ant", "bee"))
for _ in range(int(sys.argv[2])):
    counters.add("sightline_predictions_total")
    counters.write()
print("counted", flush=True)
input()
"""


def test_the_counts_of_killed_workers_stay_and_the_next_ones_continue_their_files(tmp_path: Path) -> None:
    for kills in range(3):
        command = [sys.executable, "-c", COUNT, str(tmp_path), "10"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None and worker.stdout.readline() == "counted\n"
            beside = Counters(own := Slot.take(tmp_path, "birds", "1.0"), "birds", "1.0", ("ant", "bee"))
            beside.add("sightline_predictions_total")
            beside.write()
            worker.send_signal(signal.SIGKILL)
        own.release()
        both = snapshots(tmp_path)
        assert len(both) == 2
        assert sum(numbers(one, "sightline_predictions_total")[0] for one in both) == 11 * (kills + 1)
        assert sum(numbers(one, "sightline_worker_restarts_total")[0] for one in both) == 2 * kills


def test_counters_of_other_metrics_are_not_continued(tmp_path: Path) -> None:
    first = Slot.take(tmp_path, "birds", "1.0")
    Counters(first, "birds", "1.0", ("ant", "bee")).add("sightline_predictions_total")
    first.release()
    other = Counters(Slot.take(tmp_path, "birds", "1.0"), "birds", "1.0", ("ant", "bee", "cat"))
    assert list(other.numbers[1:4]) == [0, 0, 0]


def test_versions_long_past_are_removed_unless_a_worker_has_them(tmp_path: Path) -> None:
    served = Slot.take(tmp_path, "birds", "0.1")
    for number in range(2 * slot.KEPT_VERSIONS):
        Slot.take(tmp_path, "birds", f"1.{number}").release()
        os.utime(tmp_path / "birds" / f"1.{number}", (1e9 + number, 1e9 + number))
    os.utime(served.stem.parent, (1, 1))
    Slot.take(tmp_path, "birds", "2.0")
    versions = {path.name for path in (tmp_path / "birds").iterdir()}
    assert {"0.1", "2.0", f"1.{2 * slot.KEPT_VERSIONS - 1}"} <= versions and "1.0" not in versions
    assert len(versions) == slot.KEPT_VERSIONS + 1


def test_a_file_that_is_being_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = Counters(Slot.take(tmp_path, "birds", "1.0"), "birds", "1.0", CLASSES)
    (path,) = slot.files(tmp_path, counters.SUFFIX)
    about, torn = file.read(path)
    torn[0] += 1
    written.add("sightline_predictions_total")
    written.write()
    whole = file.read(path)
    answers = iter([(about, torn), whole])
    monkeypatch.setattr(file, "read", lambda path: next(answers))
    assert numbers(Snapshot.read(path), "sightline_predictions_total")[0] == 1


def test_a_write_that_fails_is_logged_once_and_caught_up_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written = Counters(Slot.take(tmp_path, "birds", "1.0"), "birds", "1.0", CLASSES)
    write = NumberFile.write

    def fail(self: NumberFile, numbers: "array[float]", place: int = 0) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(NumberFile, "write", fail)
    for _ in range(3):
        written.add("sightline_predictions_total")
        written.write()
    assert [record.getMessage() for record in caplog.records] == [
        "metrics are not written at present: [Errno 28] No space left on device"
    ]
    monkeypatch.setattr(NumberFile, "write", write)
    written.write()
    (snapshot,) = snapshots(tmp_path)
    assert numbers(snapshot, "sightline_predictions_total")[0] == 3


# The newest images


def test_the_newest_rows_come_back_in_order_with_their_embeddings(tmp_path: Path) -> None:
    ring = Recent(Slot.take(tmp_path, "birds", "1.0"), "birds", "1.0", width=4)
    for start in range(0, ROWS + 300, 100):
        ring.add(row(number, 4) for number in range(start, start + 100))
    copy = Copy.read(slot.files(tmp_path, ".recent")[0])
    end = ROWS + 300 - (ROWS + 300) % 100 + 100
    assert copy.numbers.tolist() == list(range(end - ROWS + 1, end + 1))
    assert copy.columns.shape == (ROWS, len(COLUMNS)) and copy.embeddings.shape == (ROWS, 4)
    assert copy.columns[-1, 0] == 1e9 + end - 1 and copy.embeddings[-1].tolist() == [(end - 1) / 7] * 4
    assert np.isnan(copy.columns[:, COLUMNS.index("pixels")]).all()


def test_a_row_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    ring = Recent(Slot.take(tmp_path, "birds", "1.0"), "birds", "1.0")
    ring.add(row(number) for number in range(3))
    ring._file.write(array("d", [4]), 2 * (len(COLUMNS) + 2))
    assert Copy.read(slot.files(tmp_path, ".recent")[0]).numbers.tolist() == [1, 3]


def test_a_worker_continues_the_rows_of_the_one_before(tmp_path: Path) -> None:
    for start in (0, 3):
        own = Slot.take(tmp_path, "birds", "1.0")
        Recent(own, "birds", "1.0").add(row(number) for number in range(start, start + 3))
        own.release()
    assert Copy.read(slot.files(tmp_path, ".recent")[0]).numbers.tolist() == [1, 2, 3, 4, 5, 6]


def test_more_rows_than_the_ring_has_are_the_newest_ones(tmp_path: Path) -> None:
    ring = Recent(Slot.take(tmp_path, "birds", "1.0"), "birds", "1.0")
    ring.add(row(number) for number in range(2 * ROWS + 5))
    assert Copy.read(slot.files(tmp_path, ".recent")[0]).columns[-1, 0] == 1e9 + 2 * ROWS + 4


# A service


def request(*images: bytes, **headers: str) -> RawRequest:
    fields = [Field("body", data) if len(images) == 1 else Field(f"f{n}", data) for n, data in enumerate(images)]
    kind = "image/png" if len(images) == 1 else "multipart/form-data; boundary=x"
    return RawRequest({"content-type": kind, **headers}, fields)


@pytest.fixture
def observed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Service, Path]:
    """Return a service that counts, and the folder of its files."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "observations"))
    monkeypatch.setattr(sampling, "LARGEST_CREDIT", 60.0)  # enough for all images
    threads = torch.get_num_threads()
    service = Service(save_banked(tmp_path), {"handler": {"precision": "fp32"}}, version="1.2", name="small")
    torch.set_num_threads(threads)
    return service, tmp_path / "observations"


def answer(service: Service, *requests: RawRequest) -> list[Reply]:
    """Return the replies to a batch whose observations are written."""
    replies = service.answer(requests)
    assert service.observer is not None
    service.observer.flush()
    return replies


def test_a_service_counts_what_it_answers_and_refuses(observed: tuple[Service, Path]) -> None:
    service, folder = observed
    bodies = [png(seed) for seed in range(5)]
    replies = answer(service, request(*bodies[:3]), request(b"no image"), request(bodies[3], describe="True"))
    replies += answer(service, request(bodies[4]), request(b""))
    assert [reply.code for reply in replies] == [200, 400, 200, 200, 400]
    (snapshot,) = snapshots(folder)
    answers = [*replies[0].document["predictions"], replies[3].document]
    first = [next(iter(answer)) for answer in answers]
    assert numbers(snapshot, "sightline_predictions_total") == [first.count(label) for label in CLASSES]
    confidences = [next(iter(answer.values())) for answer in answers]
    assert sum(numbers(snapshot, "sightline_confidence_sum_total")) == pytest.approx(sum(confidences))
    assert histogram(snapshot, "sightline_confidence") == pytest.approx((4, sum(confidences)))
    refused = dict(zip(counters.REASONS, numbers(snapshot, "sightline_refused_images_total"), strict=False))
    assert {reason: count for reason, count in refused.items() if count} == {"BadImage": 1, "BadRequest": 1}
    codes = dict(zip(counters.CODES, numbers(snapshot, "sightline_requests_total"), strict=False))
    assert {code: count for code, count in codes.items() if count} == {"200": 2, "400": 2}
    assert histogram(snapshot, "sightline_image_pixels") == (4, 4 * 600)
    assert histogram(snapshot, "sightline_image_bytes") == (5, sum(map(len, [*bodies[:3], bodies[4], b"no image"])))
    assert histogram(snapshot, "sightline_batch_requests") == (2, 4)
    assert histogram(snapshot, "sightline_batch_images") == (2, 5)
    for name in ("familiarity", "image_brightness", "image_contrast", "image_sharpness"):
        assert histogram(snapshot, f"sightline_{name}")[0] == 4, name
    stages = numbers(snapshot, "sightline_stage_seconds")
    width = len(counters.SECONDS) + 2
    assert [sum(stages[start : start + width - 1]) for start in range(0, 4 * width, width)] == [2, 2, 2, 2]
    copy = Copy.read(slot.files(folder, ".recent")[0])
    assert [CLASSES[int(place)] for place in copy.columns[:, COLUMNS.index("place")]] == first
    assert copy.columns[:, COLUMNS.index("confidence")].tolist() == pytest.approx(confidences)
    assert not np.isnan(copy.columns).any()


def test_an_explanation_is_a_request_and_no_prediction(observed: tuple[Service, Path]) -> None:
    service, folder = observed
    explained, predicted = request(png(0), explain="True"), request(png(1))
    replies = answer(service, explained, predicted, request(b"no image", explain="True"))
    assert [reply.code for reply in replies] == [200, 200, 400]
    (snapshot,) = snapshots(folder)
    assert sum(numbers(snapshot, "sightline_predictions_total")) == 1
    assert sum(numbers(snapshot, "sightline_requests_total")) == 3
    assert sum(numbers(snapshot, "sightline_refused_images_total")) == 1
    assert len(Copy.read(slot.files(folder, ".recent")[0]).numbers) == 1
    width = len(counters.SECONDS) + 2
    stages = numbers(snapshot, "sightline_stage_seconds")
    assert sum(stages[counters.STAGES.index("explain") * width :][: width - 1]) == 1


def test_requests_of_the_server_itself_are_not_counted(observed: tuple[Service, Path]) -> None:
    service, folder = observed
    golden = {UNCOUNTED_HEADER: "1"}
    replies = answer(service, request(png(0), **golden)) + answer(service, request(png(1)), request(png(2), **golden))
    assert [reply.code for reply in replies] == [200, 200, 200]
    (snapshot,) = snapshots(folder)
    assert sum(numbers(snapshot, "sightline_predictions_total")) == 1
    assert histogram(snapshot, "sightline_batch_requests") == (1, 1)
    assert len(Copy.read(slot.files(folder, ".recent")[0]).numbers) == 1


def test_requests_of_a_batch_that_raises_are_counted_as_failed(
    observed: tuple[Service, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, folder = observed
    monkeypatch.setattr(service.budget, "classify", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        service.answer([request(png(0)), request(png(1)), request(png(2), **{UNCOUNTED_HEADER: "1"})])
    (snapshot,) = snapshots(folder)
    codes = dict(zip(counters.CODES, numbers(snapshot, "sightline_requests_total"), strict=False))
    assert {code: count for code, count in codes.items() if count} == {"503": 2}


def test_a_service_answers_the_same_whether_it_counts_or_not(
    observed: tuple[Service, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, _ = observed
    batch = [request(*[png(seed) for seed in range(4)]), request(png(9)), request(b"no image")]
    counted = service.answer(batch)
    service.classifier.observes, service.observer = False, None
    assert [(reply.document, reply.headers) for reply in service.answer(batch)] == [
        (reply.document, reply.headers) for reply in counted
    ]


def test_a_folder_that_cannot_be_written_costs_one_line_and_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    threads = torch.get_num_threads()
    service = Service(save_banked(tmp_path), {"handler": {"precision": "fp32"}}, version="1.2", name="small")
    torch.set_num_threads(threads)
    assert [reply.code for reply in service.answer([request(png(0))])] == [200]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("small 1.2 is served without metrics: [Errno 20] Not a directory") and "\n" not in line


def test_counters_are_exact_before_histograms_follow(observed: tuple[Service, Path]) -> None:
    service, folder = observed
    service.answer([request(png(0)), request(png(1)), request(b"no image")])
    (snapshot,) = snapshots(folder)
    assert sum(numbers(snapshot, "sightline_predictions_total")) == 2
    assert sum(numbers(snapshot, "sightline_requests_total")) == 3
    assert sum(numbers(snapshot, "sightline_refused_images_total")) == 1

    def followed() -> bool:
        (snapshot,) = snapshots(folder)
        names = ("sightline_confidence", "sightline_image_sharpness")
        return [histogram(snapshot, name)[0] for name in names] == [2, 2]

    until(followed, 10)  # by the thread


@pytest.mark.skipif(not sampling.SCHEDULING.is_file(), reason="the kernel has no statistics of its scheduler")
def test_time_in_which_others_have_the_core_is_not_the_workers_own() -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    competitor = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same core
    try:
        start, own, ran = time.perf_counter(), sampling.own_time(), time.process_time()
        while time.process_time() - ran < 0.3:
            pass
        own, passed = sampling.own_time() - own, time.perf_counter() - start
    finally:
        competitor.kill()
        competitor.wait()
        os.sched_setaffinity(0, cores)
    assert own < 0.8 * passed
    assert own == pytest.approx(0.3, abs=0.1)


def test_images_without_time_to_measure_are_represented_by_others() -> None:
    time, measured = 0.0, list[int]()

    def measure(number: int) -> Measured:
        nonlocal time
        time += 0.001
        measured.append(number)
        return NOTHING

    sample = sampling.Sampling(clock=lambda: time, cost=lambda: time)
    total, images = 0.0, 0
    for _ in range(2000):
        time += 0.2
        for _ in range(50):
            sample.add(Labels({"ant": 1.0}, measure=partial(measure, images)))
            images += 1
        chosen, weight = sample.measure(sample.take())
        total += weight * len(chosen)
    assert 0.9 * sampling.SHARE < len(measured) * 0.001 / time < 1.1 * sampling.SHARE
    assert total == pytest.approx(images, abs=100)  # of the last rounds


def test_an_idle_worker_measures_all_images() -> None:
    time, measured = 0.0, list[int]()

    def measure() -> Measured:
        nonlocal time
        time += 0.0005
        measured.append(1)
        return NOTHING

    sample = sampling.Sampling(clock=lambda: time, cost=lambda: time)
    for _ in range(50):
        time += 1.0
        sample.add(Labels({"ant": 1.0}, measure=measure))
        assert sample.measure(sample.take())[1] == 1
    assert len(measured) == 50


def test_a_fault_in_counting_costs_no_answer(
    observed: tuple[Service, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = observed
    assert service.observer is not None
    monkeypatch.setattr(service.observer, "_predictions", {})
    with caplog.at_level(logging.ERROR):
        assert [reply.code for _ in range(3) for reply in service.answer([request(png(0))])] == [200, 200, 200]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_fault_in_measuring_costs_no_answer(
    observed: tuple[Service, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service, _ = observed
    assert service.observer is not None
    monkeypatch.setattr(service.observer, "_statistics", None)
    with caplog.at_level(logging.ERROR):
        until(lambda: {reply.code for reply in service.answer([request(png(0))])} == {200} and caplog.records, 10)
        assert [reply.code for reply in service.answer([request(png(0))])] == [200]
    assert [record.levelname for record in caplog.records] == ["ERROR"] and service.observer is None


def test_names_follow_the_conventions_of_prometheus() -> None:
    for metric in counters.metrics(CLASSES):
        assert metric.name.startswith("sightline_") and metric.name.islower() and metric.help.endswith(".")
        assert metric.name.endswith("_total") != bool(metric.bounds), metric.name
        assert list(metric.bounds) == sorted(set(metric.bounds))
    assert Metric("a", "A.", bounds=(1.0,)).width == 3
