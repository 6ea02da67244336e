"""The handler as a worker drives it: TorchServe's own Service and wire format, without its Java side."""

import base64
import gzip
import io
import json
import socket
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from handlers import service, sightline_handler
from handlers.classifier import Classifier
from handlers.requests.labels import Labels, familiarity_header, shown
from handlers.sightline_handler import ImageHandler
from tests.server.bombs import webp_of_one_colour
from tests.unit.banked_network import save_banked
from tests.unit.small_network import CLASSES, save_small

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"unclosed file .*version\.txt")  # the package leaves it open
    import ts
from ts.protocol.otf_message_handler import retrieve_msg
from ts.service import Service
from ts.utils.util import list_classes_from_module

JSON_TYPE = "application/json"
Fields = list[tuple[str, str, bytes]]


class Metrics:
    """Takes what the Service notes of each batch."""

    request_ids: dict[int, str]

    def add_time(self, name: str, value: float) -> None:
        assert name == "PredictionTime" and value >= 0


class Reply:
    """One request's part of the answer that goes over the worker's socket."""

    def __init__(self, status: int, phrase: str, headers: dict[str, str], body: bytes) -> None:
        self.status, self.phrase, self.headers, self.body = status, phrase, headers, body
        self.json = json.loads(body)


class Worker:
    """A handler behind TorchServe's Service, spoken to in the bytes that the Java side sends."""

    def __init__(self, folder: Path, config: dict[str, Any] | None = None) -> None:
        manifest = {"model": {"modelName": "small", "modelVersion": "1.2", "serializedFile": "model.pt"}}
        handler = ImageHandler()
        self.service = Service("small", str(folder), manifest, handler.handle, None, 8, metrics_cache=Metrics())
        self.service.context.model_yaml_config = config or {}
        self.service.set_cl_socket(None)
        handler.initialize(self.service.context)

    def send(self, *requests: tuple[dict[str, str], Fields]) -> list[Reply]:
        here, there = socket.socketpair()
        with here, there:
            message = b"I" + b"".join(_request(*request) for request in requests) + struct.pack("!i", -1)
            here.setblocking(True)
            there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**22)
            there.sendall(message)
            _, batch = retrieve_msg(here)
        return _replies(self.service.predict(batch), len(requests))


def _packed(*values: bytes) -> bytes:
    return b"".join(struct.pack("!i", len(value)) + value for value in values)


def _request(headers: dict[str, str], fields: Fields) -> bytes:
    end = struct.pack("!i", -1)
    sent = b"".join(_packed(name.encode(), value.encode()) for name, value in headers.items())
    parts = b"".join(_packed(name.encode(), kind.encode(), value) for name, kind, value in fields)
    return _packed(b"id") + sent + end + parts + end


def _replies(message: bytes, count: int) -> list[Reply]:
    file = io.BytesIO(message)

    def number() -> int:
        return int(struct.unpack("!i", file.read(4))[0])

    def text() -> str:
        return file.read(number()).decode()

    assert (number(), text()) == (200, "Prediction success")
    replies = []
    for _ in range(count):
        assert text() == "id"
        kind, status, phrase = text(), number(), text()
        headers = {text(): text() for _ in range(number())}
        assert kind == headers["content-type"]
        replies.append(Reply(status, phrase, headers, file.read(number())))
    assert number() == -1
    return replies


def png(seed: int, size: tuple[int, int] = (20, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def raw(data: bytes, kind: str = "image/png", name: str = "body") -> tuple[dict[str, str], Fields]:
    return {"Content-Type": kind, "Host": "x"}, [(name, kind, data)]


def kserve(*images: bytes) -> tuple[dict[str, str], Fields]:
    document = {"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}
    return raw(json.dumps(document).encode(), JSON_TYPE)


def form(*images: bytes, kind: str = "image/png") -> tuple[dict[str, str], Fields]:
    fields = [(f"file{index}", kind, image) for index, image in enumerate(images)]
    return {"content-type": "multipart/form-data; boundary=x"}, fields


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("model") / "model.pt").parent


@pytest.fixture(scope="module")
def worker(folder: Path) -> Worker:
    threads = torch.get_num_threads()
    worker = Worker(folder)
    torch.set_num_threads(threads)
    return worker


@pytest.fixture(scope="module")
def expected(folder: Path) -> Callable[[bytes], Any]:
    classifier = Classifier(folder / "model.pt")

    def answer(image: bytes) -> Any:
        (found,) = classifier.classify([image])
        assert isinstance(found, dict)
        return pytest.approx(found, abs=1e-5)

    return answer


Expected = Callable[[bytes], Any]
KINDS = ["image/png", "application/octet-stream", "", JSON_TYPE, "text/plain", "multipart/weird", "IMAGE/JPEG; a=b"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["body", "data"])
def test_a_raw_image_is_answered_whatever_its_content_type(
    worker: Worker, expected: Expected, kind: str, name: str
) -> None:
    (reply,) = worker.send(raw(png(0), kind, name))
    assert reply.status == 200
    assert reply.json == expected(png(0))
    assert list(reply.json.values()) == sorted(reply.json.values(), reverse=True)
    assert reply.headers == {"content-type": JSON_TYPE, "model-version": "1.2"}


@pytest.mark.parametrize("commit", ["0a1b2c3" + "d" * 33 + "+", "0a1b2c3\r\nx: y", None])
def test_the_commit_of_the_archive_is_in_a_header_if_it_can_be_one(tmp_path: Path, commit: str | None) -> None:
    save_small(tmp_path / "model.pt")
    (tmp_path / "provenance.json").write_text(json.dumps({"commit": commit}))
    threads = torch.get_num_threads()
    good, bad = Worker(tmp_path).send(raw(png(0)), raw(b"no image"))
    torch.set_num_threads(threads)
    expected = commit if commit and commit.endswith("+") else None
    assert (good.headers.get("model-commit"), bad.headers.get("model-commit")) == (expected, expected)


def test_an_image_that_is_valid_text_survives_text_plain(worker: Worker, expected: Expected) -> None:
    pgm = b"P2 2 2 9\n0 3\n6 9\n"
    (reply,) = worker.send(raw(pgm, "text/plain"))
    assert reply.json == expected(pgm)


def test_parameters_of_the_address_are_not_the_image(worker: Worker, expected: Expected) -> None:
    (reply,) = worker.send(({}, [("trace", "text/plain", b"7"), *raw(png(0))[1]]))
    assert reply.json == expected(png(0))


@pytest.mark.parametrize("kind", [JSON_TYPE, "application/octet-stream", "text/json"])
def test_kserve_json_gives_predictions_in_order(worker: Worker, expected: Expected, kind: str) -> None:
    images = [png(seed) for seed in range(3)]
    (reply,) = worker.send(raw(kserve(*images)[1][0][2], kind))
    assert reply.json == {"predictions": [expected(image) for image in images]}
    (reply,) = worker.send(kserve(png(5)))
    assert reply.json == {"predictions": [expected(png(5))]}


def test_forms(worker: Worker, expected: Expected) -> None:
    one, several, document = worker.send(form(png(0)), form(png(1), png(2)), form(kserve(png(3))[1][0][2]))
    assert one.json == expected(png(0))
    assert several.json == {"predictions": [expected(png(1)), expected(png(2))]}
    assert document.json == {"predictions": [expected(png(3))]}


@pytest.mark.parametrize("names", ["ff", "ffg", "fgf", "aA"])
def test_files_of_one_name_are_an_entry_each_in_the_order_sent(worker: Worker, expected: Expected, names: str) -> None:
    images = [png(seed) for seed in range(len(names))]
    fields = [(name, "image/png", image) for name, image in zip(names, images, strict=True)]
    (reply,) = worker.send((form()[0], fields))
    assert reply.json == {"predictions": [expected(image) for image in images]}


def test_text_beside_the_image_of_a_form_is_no_image(worker: Worker, expected: Expected) -> None:
    fields = [("note", "", b"hello"), ("photo", "image/png", png(0)), ("content-type", "", b"x")]
    (reply,) = worker.send((form()[0], fields))
    assert reply.json == expected(png(0))
    assert len(reply.json) > 1
    (reply,) = worker.send((form()[0], [*fields, ("top_k", "", b"1")]))
    assert list(reply.json) == list(expected(png(0)).expected)[:1]


def test_a_form_without_a_field_that_can_be_read_is_called_so(worker: Worker) -> None:
    (reply,) = worker.send(form())
    assert reply.status == 400 and "the form cannot be read" in reply.json["message"]


def test_a_packed_body_is_unpacked_or_refused_by_the_name_of_its_header(worker: Worker, expected: Expected) -> None:
    headers, fields = kserve(png(1), png(2))
    packed = [(name, kind, gzip.compress(value)) for name, kind, value in fields]
    several, one, other = worker.send(
        ({**headers, "Content-Encoding": "gzip"}, packed),
        ({"Content-Encoding": "gzip"}, [("body", "", gzip.compress(png(0)))]),
        ({"Content-Encoding": "br"}, [("body", "", b"anything")]),
    )
    assert several.json == {"predictions": [expected(png(1)), expected(png(2))]}
    assert one.json == expected(png(0))
    assert (other.status, other.phrase) == (415, "Unsupported Media Type")
    assert "Content-Encoding" in other.json["message"]


def test_json_is_json_in_each_encoding(worker: Worker, expected: Expected) -> None:
    text = kserve(png(0))[1][0][2].decode()
    for body in (text.encode("utf-8-sig"), text.encode("utf-16"), (" " * 65 + text).encode()):
        (reply,) = worker.send(raw(body, JSON_TYPE))
        assert reply.json == {"predictions": [expected(png(0))]}


def test_an_instance_may_name_its_input_and_be_in_lines(worker: Worker, expected: Expected) -> None:
    lines = base64.encodebytes(png(0)).decode()
    url = "data:image/png;base64," + base64.urlsafe_b64encode(png(0)).decode().rstrip("=")
    (reply,) = worker.send(instances([{"data": {"b64": lines}}, {"image_bytes": {"b64": url}}, lines]))
    assert reply.json == {"predictions": [expected(png(0))] * 3}


def test_grpc_may_name_its_one_input_as_it_likes_and_its_stream_ends(worker: Worker, expected: Expected) -> None:
    (reply,) = worker.send(({}, [("image", "", png(0))]))
    assert reply.json == expected(png(0))
    assert reply.headers["ts_stream_next"] == "false"  # without it TorchServe ends the worker of a stream
    (reply,) = worker.send(({}, []))
    assert reply.status == 400 and reply.headers["ts_stream_next"] == "false"
    (reply,) = worker.send(raw(png(0)))
    assert "ts_stream_next" not in reply.headers  # HTTP would wait for more


def test_a_batch_of_no_request_has_no_answer(worker: Worker) -> None:
    assert worker.send() == []


def test_json_that_curl_sends_as_a_form_is_recovered(worker: Worker, expected: Expected) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for seed in range(6):  # base64 that ends in none, one and two "="
        text = kserve(png(seed, (5, 5 + seed)))[1][0][2].decode()
        name, _, value = text.replace("+", " ").partition("=")
        (reply,) = worker.send((headers, [(name, "", value.encode())]))
        assert reply.json == {"predictions": [expected(png(seed, (5, 5 + seed)))]}


def test_an_image_that_curl_sends_as_a_form_gets_the_remedy(worker: Worker) -> None:
    (reply,) = worker.send(({"content-type": "application/x-www-form-urlencoded"}, [("\ufffdPNG", "", b"x")]))
    assert (reply.status, reply.json["type"]) == (400, "BadRequest")
    assert "curl -T" in reply.json["message"]


def test_a_bad_image_inside_a_request_costs_its_own_entry(worker: Worker, expected: Expected) -> None:
    for request in (kserve, form):
        (reply,) = worker.send(request(png(0), b"no image", png(1)))
        assert reply.status == 200
        first, error, last = reply.json["predictions"]
        assert (first, last) == (expected(png(0)), expected(png(1)))
        assert error["error"]["code"] == 400
        assert error["error"]["type"] == "BadImage"
        assert "not an image" in error["error"]["message"]


def test_a_request_of_bad_images_only_fails(worker: Worker) -> None:
    jpeg2000 = b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 50
    replies = worker.send(raw(b"no image"), kserve(jpeg2000), kserve(jpeg2000, b"x"), form(jpeg2000, b"x"))
    assert [(reply.status, reply.phrase, reply.json["type"]) for reply in replies] == [
        (400, "Bad Request", "BadImage"),
        *[(415, "Unsupported Media Type", "UnsupportedFormat")] * 3,
    ]
    for reply in replies:
        assert set(reply.json) == {"code", "type", "message"}
        assert reply.headers == {"content-type": JSON_TYPE, "model-version": "1.2"}


def instances(value: Any) -> tuple[dict[str, str], Fields]:
    return raw(json.dumps({"instances": value}).encode(), JSON_TYPE)


BAD_REQUESTS = {
    "no body": ({}, []),
    "empty body": raw(b""),
    "empty form": form(),
    "empty text": raw(b"", "text/plain"),
    "broken JSON": raw(b'{"instances": [', JSON_TYPE),
    "deep JSON": raw(b'{"a":' * 100_000, JSON_TYPE),
    "JSON list": raw(b" [1]", JSON_TYPE),
    "other JSON": raw(b'{"image": 3}', JSON_TYPE),
    "no instances": instances([]),
    "instances is text": instances("x"),
    "instance is text": instances(["x"]),
    "instance without b64": instances([{"data": "x"}]),
    "b64 is a number": instances([{"b64": 1}]),
    "b64 is not base64": instances([{"b64": "\u00e9!!"}]),
    "b64 is cut": instances([{"b64": "abcde"}]),
    "image as form": ({"Content-Type": "application/x-www-form-urlencoded"}, [("a", "", b"b")]),
}


@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request_gets_400_and_a_reason(worker: Worker, case: str) -> None:
    (reply,) = worker.send(BAD_REQUESTS[case])
    assert (reply.status, reply.phrase) == (400, "Bad Request")
    assert reply.json["type"] == "BadRequest"
    assert reply.json["message"]


@pytest.mark.parametrize("body", [b"1", b"null", b'"x"'])
def test_json_that_holds_nothing_is_no_image_either(worker: Worker, body: bytes) -> None:
    (reply,) = worker.send(raw(body, JSON_TYPE))
    assert (reply.status, reply.json["type"]) == (400, "BadImage")


def test_nothing_of_a_batch_changes_its_neighbours(
    worker: Worker, expected: Expected, real_data: Path | None, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [file for file in sorted((real_data / "odd_images").rglob("*.*")) if file.is_file()] if real_data else []
    odd = [raw(file.read_bytes()) for file in files] or [raw(png(9)[:cut]) for cut in range(0, 100, 7)]
    hostile = [*BAD_REQUESTS.values(), *odd, raw(b"{\r\nHTTP/1.1 200\r\n"), raw(b"[METRICS] Torch worker started.\n")]
    good = [raw(png(0)), kserve(png(1), png(2)), form(png(3))]
    wanted = [expected(png(0)), {"predictions": [expected(png(1)), expected(png(2))]}, expected(png(3))]
    for bad in hostile:
        first, second, odd_one, third = worker.send(good[0], good[1], bad, good[2])
        assert [reply.json for reply in (first, second, third)] == wanted
        assert odd_one.status in (200, 400, 413, 415)
        assert odd_one.phrase in ("", "Bad Request", "Payload Too Large", "Unsupported Media Type")
    assert capfd.readouterr().out == ""


def test_all_images_of_a_batch_go_through_the_network_together(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    outputs = Classifier.outputs

    def counted(self: Classifier, images: Any) -> torch.Tensor:
        sizes.append(len(images))
        return outputs(self, images)

    monkeypatch.setattr(Classifier, "outputs", counted)
    Worker(folder, {"minWorkers": 64}).send(
        raw(png(0)), kserve(png(1), b"bad", png(2)), raw(b"bad"), form(png(3), png(4))
    )
    assert sizes == [5]


def test_a_worker_is_warm_for_as_many_images_as_a_batch_may_hold(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    warm_up = Classifier.warm_up

    def noted(self: Classifier, largest: int) -> None:
        asked.append(largest)
        warm_up(self, largest)

    monkeypatch.setattr(Classifier, "warm_up", noted)
    for config in ({}, {"batchSize": 4}, {"batchSize": 4, "handler": {"max_images": 3}}):
        Worker(folder, {**config, "minWorkers": 64})
    assert asked == [16, 64, 12]


def test_limits_come_from_the_configuration(folder: Path, expected: Expected) -> None:
    settings = {"top_k": 2, "max_bytes": 3000, "max_pixels": 700, "max_images": 2}
    worker = Worker(folder, {"handler": settings, "minWorkers": 64})
    good, pixels, size, encoded, images, fields = worker.send(
        raw(png(0)),
        raw(png(0, (20, 36))),
        raw(png(0) + b"\0" * 3000),
        kserve(png(0) + b"\0" * 3000),
        kserve(*[png(0)] * 3),
        form(*[png(0)] * 3),
    )
    assert len(good.json) == 2
    for reply, reason in (
        (pixels, "36 x 20 pixels"),
        (size, "bytes, more than the limit of 3000"),
        (encoded, "more bytes than the limit of 3000"),
        (images, "3 images, more than the limit of 2"),
        (fields, "3 images, more than the limit of 2"),
    ):
        assert (reply.status, reply.phrase, reply.json["type"]) == (413, "Payload Too Large", "TooLarge")
        assert reason in reply.json["message"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"topk": 3}, "unknown setting 'topk'; known are top_k, max_bytes, max_pixels, max_images"),
        ({"top_k": 0}, "top_k is 0, must be a whole number"),
        ({"max_bytes": "3"}, "max_bytes is '3'"),
        ({"max_images": True}, "max_images is True"),
        ({"max_request_pixels": 0}, "max_request_pixels is 0, must be a whole number"),
        ({"batch_seconds": 0.5}, r"batch_seconds is 0\.5, must be a whole number"),
        ([1], "must be a mapping"),
    ],
)
def test_a_wrong_setting_refuses_to_load(folder: Path, section: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Worker(folder, {"handler": section})


def test_one_request_has_pixels_of_its_own_limit(folder: Path, expected: Expected) -> None:
    settings = {"max_pixels": 700, "max_request_pixels": 1300, "max_images": 4}  # an image has 600
    worker = Worker(folder, {"handler": settings, "minWorkers": 64})
    two, three, fields = worker.send(kserve(png(0), png(1)), kserve(png(0), png(1), png(2)), form(*[png(0)] * 3))
    assert two.json == {"predictions": [expected(png(0)), expected(png(1))]}
    for reply in (three, fields):
        assert (reply.status, reply.phrase, reply.json["type"]) == (413, "Payload Too Large", "TooLarge")
        assert "1800 pixels together, more than the limit of 1300" in reply.json["message"]
    (one,) = Worker(folder, {"handler": {"max_request_pixels": 1}, "minWorkers": 64}).send(kserve(png(0), png(1)))
    assert one.status == 200, "one image of the largest size is always within the limit"


def test_expensive_requests_are_put_off_and_cost_a_neighbour_nothing(worker: Worker, expected: Expected) -> None:
    image = webp_of_one_colour(6500, 6500)  # takes 1.1 s by its header: one has a place in a batch
    replies = worker.send(*[raw(image)] * 2, raw(png(0)), *[raw(image)] * 2, kserve(*[image] * 16), kserve(png(1)))
    assert replies[2].json == expected(png(0)) and replies[6].json == {"predictions": [expected(png(1))]}
    assert (replies[5].status, replies[5].json["type"]) == (413, "TooLarge")
    answered, *others = sorted((replies[place] for place in (0, 1, 3, 4)), key=lambda reply: reply.status)
    assert answered.status == 200 and "retry-after" not in answered.headers
    for reply in others:
        assert (reply.status, reply.phrase, reply.json["type"]) == (503, "Service Unavailable", "Busy")
        assert 1 <= int(reply.headers["retry-after"]) <= 3
    (alone,) = worker.send(raw(image))
    assert alone.status == 200


def test_json_of_too_many_values_is_not_read(worker: Worker) -> None:
    (reply,) = worker.send(raw(b'{"instances": [' + b'{"a":{}},' * 10_000 + b"0]}", JSON_TYPE))
    assert (reply.status, reply.json["type"]) == (400, "BadRequest") and "more than 10000 values" in reply.json[
        "message"
    ]


def test_describe_answers_its_own_request_alone(worker: Worker, expected: Expected) -> None:
    asked: tuple[dict[str, str], Fields] = ({"describe": "True"}, [])
    first, described, last = worker.send(raw(png(0)), asked, raw(png(1)))
    assert (first.json, last.json) == (expected(png(0)), expected(png(1)))
    assert described.json["classes"] == list(CLASSES)
    assert described.json["preprocess"]["image_size"] == 16
    assert described.json["version"] == "1.2"
    assert set(described.json) == {
        "classes",
        "preprocess",
        "version",
        "top_k",
        "precision",
    }  # the rest is the operator's
    assert set(described.json["preprocess"]) == {"image_size"}


def test_workers_times_threads_is_no_more_than_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [service.threads(workers) for workers in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
    assert service.threads(None) == 1
    monkeypatch.setenv("SIGHTLINE_THREADS", "3")  # what the server worked out; an archive knows better
    assert service.threads(None) == 3 and service.threads(2) == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "5")  # and an operator best
    assert service.threads(1) == service.threads(None) == 5


def test_a_worker_has_the_threads_that_the_workers_of_its_archive_leave_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("SIGHTLINE_THREADS", raising=False)
    threads = torch.get_num_threads()
    try:
        service.Service(folder / "model.pt", {"minWorkers": 2}, version="1")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


def test_the_module_defines_one_class_as_torchserve_wants() -> None:
    assert list_classes_from_module(sightline_handler) == [ImageHandler]
    assert ts.__version__.startswith("0.12")


def test_each_request_has_the_familiarity_of_its_own_images_in_a_header(tmp_path: Path) -> None:
    weights = save_banked(tmp_path)
    black = io.BytesIO()
    Image.new("RGB", (20, 30)).save(black, "PNG")
    images = [png(35), black.getvalue(), png(41)]
    values = [answer.familiarity for answer in Classifier(weights).classify(images) if isinstance(answer, Labels)]
    expected = [familiarity_header([value]) for value in values]
    assert expected[1] == "0.000;unfamiliar" and len({*expected}) == 3
    requests = [({"content-type": "image/png"}, [("body", "", image)]) for image in images]
    broken = ({"content-type": "image/png"}, [("body", "", b"no image")])
    headers = {"content-type": "application/json", "familiarity": "true"}
    instances = [{"b64": base64.b64encode(image).decode()} for image in (*images, b"no image")]
    listed = (headers, [("body", "", json.dumps({"instances": instances}).encode())])
    replies = Worker(tmp_path, {"handler": {"precision": "fp32"}}).send(*requests, broken, listed)
    names = [reply.headers.get(service.FAMILIARITY_HEADER) for reply in replies]
    assert names == [*expected, None, f"{', '.join(expected)}, none"]
    entries = replies[-1].json["predictions"]
    assert [entry.get("familiarity") for entry in entries] == [
        *(shown(value) for value in values if value is not None),
        None,
    ]
    assert [entry.get("labels") for entry in entries[:3]] == [reply.json for reply in replies[:3]]
    assert set(entries[3]) == {"error"}


def test_an_archive_without_a_bank_has_no_header_and_no_value(folder: Path) -> None:
    worker = Worker(folder)
    plain, asked = worker.send(*(({"familiarity": word}, [("body", "", png(1))]) for word in ("false", "true")))
    assert service.FAMILIARITY_HEADER not in {**plain.headers, **asked.headers}
    assert asked.json == {"labels": plain.json, "familiarity": None}
