"""What a batch may take: cheap requests are answered whatever comes beside them, and expensive ones in their turn."""

import re
import struct
import time
import zlib
from pathlib import Path

import pytest
import torch

from handlers.budget import CHEAP, RECENT, SLACK, Budget, Image, Turn, _Request
from handlers.classifier import Answer, Classifier
from handlers.errors import BadImage, Busy
from handlers.images import costs, jpeg
from handlers.images.costs import Rate
from handlers.images.limits import DEFAULT_LIMITS
from handlers.service import Service
from handlers.settings import Settings
from serving.store import model_config
from tests.server.bombs import webp_of_one_colour
from tests.unit.small_network import save_small
from tests.unit.test_classifier import png

SECONDS = 0.2  # that a batch may take; 20 ms are cheap
GOOD = png(1)
SMALL = webp_of_one_colour(2000, 2000)  # takes 0.11 s by its header
LARGE = webp_of_one_colour(2850, 2850)  # 0.22 s: more than a batch has
HUGE = webp_of_one_colour(8192, 6144)


class Worker:
    """One worker's budget; `now` are seconds that pass when a test says so."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier, self.now = classifier, 1000.0
        self.budget = Budget(4 * DEFAULT_LIMITS.max_pixels, SECONDS, clock=lambda: self.now)

    def answers(self, *requests: list[Image]) -> list[list[Answer]]:
        return self.budget.classify(self.classifier, requests)

    def ask(self, *requests: list[Image]) -> list[str]:
        """Return of each request that it was answered, or the error that all its images got."""
        return [_summary(answers) for answers in self.answers(*requests)]


def _summary(answers: list[Answer]) -> str:
    kinds = {type(answer).__name__ for answer in answers}
    assert len(kinds) == 1, "a request is answered or refused as a whole"
    return kinds.pop().replace("Labels", "answered")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier(save_small(tmp_path_factory.mktemp("model") / "model.pt"))


@pytest.fixture
def worker(classifier: Classifier) -> Worker:
    return Worker(classifier)


def test_more_pixels_than_a_request_may_have_are_refused_by_their_headers(worker: Worker) -> None:
    began = time.thread_time()
    assert worker.ask([HUGE] * 16, [GOOD], [HUGE] * 5, [GOOD, GOOD]) == ["TooLarge", "answered", "TooLarge", "answered"]
    assert time.thread_time() - began < 0.5, "nothing of a gigapixel was decoded"


def test_a_request_may_have_as_many_pixels_as_its_limit(worker: Worker) -> None:
    worker.budget.request_pixels = 2 * 20 * 30
    assert worker.ask([GOOD, GOOD]) == ["answered"]
    worker.budget.request_pixels -= 1
    assert worker.ask([GOOD, GOOD]) == ["TooLarge"]


def test_images_that_no_batch_has_time_for_go_one_by_one(worker: Worker) -> None:
    assert worker.ask([SMALL] * 3) == worker.ask([SMALL] * 2) == ["TooLarge"]
    assert worker.ask([SMALL]) == worker.ask([LARGE]) == ["answered"]
    assert re.search(r"take about 0\.32 s to decode, .* limit of 0\.2 s: send them", str(worker.answers([SMALL] * 3)))


def test_the_cheap_are_answered_and_of_the_expensive_what_there_is_time_for(worker: Worker) -> None:
    answered, busy = "answered", "Busy"
    assert worker.ask([LARGE], [GOOD], [SMALL], [GOOD], [SMALL]) == [busy, answered, answered, answered, busy]
    assert worker.ask([LARGE], [LARGE]) == [answered, busy], "one of them whatever it takes"


def test_the_expensive_are_put_off_beside_the_cheap_after_one_of_them_was_served(worker: Worker) -> None:
    assert worker.ask([GOOD], [SMALL]) == ["answered", "answered"]
    (busy,), (answer,) = worker.answers([SMALL], [GOOD])
    assert isinstance(busy, Busy) and busy.retry_after == 1 and "send it again after 1 s" in str(busy)
    assert isinstance(answer, dict)
    worker.now += RECENT - 1
    assert worker.ask([SMALL], [GOOD]) == ["Busy", "answered"]
    worker.now += 1
    assert worker.ask([SMALL], [GOOD]) == ["answered", "answered"], "now and then it has to wait for them"


def test_one_worker_at_a_time_serves_the_expensive_while_cheap_ones_come(worker: Worker, tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    worker.budget = Budget(10**9, SECONDS, lock=tmp_path / "lock", clock=lambda: worker.now)
    other = Turn(tmp_path / "lock")
    assert other.take()
    assert worker.ask([SMALL]) == ["answered"], "no cheap one is seen"
    assert worker.ask([GOOD]) == ["answered"] and worker.ask([SMALL]) == ["Busy"]
    worker.now += RECENT
    assert worker.ask([SMALL]) == ["answered"], "nor has been lately"
    assert worker.ask([GOOD]) == ["answered"] and worker.ask([SMALL]) == ["Busy"]
    other.give()
    assert worker.ask([SMALL]) == ["answered"]
    assert other.take(), "it is left to others with the answer"


def test_the_workers_of_one_artifact_take_turns(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    weights = save_small(tmp_path / "model.pt")
    one, other = (Service(weights, {"minWorkers": 64}, version="1").budget._turn for _ in range(2))
    torch.set_num_threads(threads)
    assert one.take() and not other.take()
    one.give()
    assert other.take()


def test_a_worker_without_the_file_of_the_others_is_on_its_own(tmp_path: Path) -> None:
    turns = [Turn(tmp_path / "missing" / "lock"), Turn(None)]
    assert all(turn.take() and turn.take() for turn in turns)
    for turn in turns:
        turn.give()


def test_a_busy_client_waits_as_long_as_the_batch_takes(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(costs.RATES, b"RIFF", Rate(1990, 0))  # just below 8 s for 4 million pixels
    for first in (SMALL, GOOD):
        busy = worker.answers([first], [SMALL])[1][0]
        assert isinstance(busy, Busy) and busy.retry_after == 8


def test_headers_and_cheap_requests_count_in_the_time_of_a_batch(worker: Worker) -> None:
    cheap, expensive = [0.018] * 5, [0.05, 0.07]
    for used, seconds, count in ((0.0, expensive, 2), (0.1, expensive, 1), (0.0, cheap + expensive, 6)):
        requests = [_Request([], seconds=value) for value in seconds]
        worker.budget._expensive = -RECENT
        assert len(worker.budget._admitted(requests, used)) == count
    assert worker.budget._read_headers(worker.classifier, [_Request([in_pieces(b"")])]) > 0.005


def test_decoding_may_take_a_multiple_of_the_estimate(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []
    allow = worker.classifier.decoder.allow

    def record(seconds: float) -> None:
        limits.append(seconds)
        allow(seconds)

    monkeypatch.setattr(worker.classifier.decoder, "allow", record)
    estimate = worker.classifier.decoder.cost(LARGE).seconds
    assert worker.ask([LARGE]) == worker.ask([GOOD]) == ["answered"]
    assert limits == pytest.approx([SLACK * estimate, SLACK * SECONDS]) and estimate > SECONDS


def test_an_expensive_request_that_is_alone_keeps_nobody_waiting(worker: Worker) -> None:
    assert [worker.ask([LARGE]) for _ in range(3)] == [["answered"]] * 3


def test_what_takes_longer_than_its_header_says_is_broken_off(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(costs.RATES, b"RIFF", Rate(0.001, 0))
    long = webp_of_one_colour(3000, 3000)
    found = worker.ask([long] * 16, [GOOD], [png(3)], [png(4)], [long] * 16, [png(2)])
    assert found.count("Busy") >= 1 and found[1:4] == ["answered"] * 3 and found[5] == "answered"


def test_each_image_has_its_own_answer_and_what_is_wrong_with_it(worker: Worker) -> None:
    broken = BadImage("by its request")
    requests: list[list[Image]] = [[b"no image", GOOD, broken], [], [SMALL, png(3)], [png(2)]]
    worker.budget.batch_seconds = 10.0
    first, empty, second, third = worker.answers(*requests)
    assert isinstance(first[0], BadImage) and first[1] == worker.classifier.classify([GOOD])[0] and first[2] is broken
    assert not empty and len(second) == 2
    assert third[0] == pytest.approx(worker.classifier.classify([png(2)])[0], abs=1e-5)


def in_pieces(end: bytes) -> bytes:
    """Return a PNG whose header takes some 40 ms to read, and ends so."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    pieces = chunk(b"tEXt", b"a\0b") * 20_000
    return b"\x89PNG\r\n\x1a\n" + header + pieces + (end or chunk(b"IDAT", zlib.compress(bytes(72))))


def test_headers_that_take_long_cost_their_own_request(worker: Worker) -> None:
    slow = in_pieces(b"")
    requests: list[list[Image]] = [[slow] for _ in range(20)]
    *others, (good,) = worker.answers(*requests, [GOOD])
    refused = [str(error) for (error,) in others if isinstance(error, Busy)]
    assert isinstance(good, dict) and 20 > len(refused) > sum("headers" in reason for reason in refused) > 0


def test_what_is_not_an_image_after_all_is_not_put_off(worker: Worker) -> None:
    assert worker.ask([GOOD], [SMALL], [in_pieces(b"no chunk")]) == ["answered", "answered", "BadImage"]
    assert worker.ask([GOOD], [SMALL], [in_pieces(b"no chunk")]) == ["answered", "Busy", "BadImage"]


def test_photographs_and_screenshots_are_cheap() -> None:
    cheap = CHEAP * Settings().batch_seconds
    assert costs.RATES[jpeg.START].seconds(6000 * 4000, 8 * 10**6) < cheap
    assert costs.RATES[b"\x89PNG"].seconds(3840 * 2160, 10**6) < cheap


def test_a_batch_ends_well_before_the_time_out_of_a_worker() -> None:
    most = Settings().batch_seconds * SLACK * 2
    assert most < model_config.DEFAULTS["responseTimeout"] / 4 and model_config.DEFAULTS["batchSize"] * CHEAP < 1
