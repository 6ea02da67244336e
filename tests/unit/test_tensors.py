"""The Open Inference Protocol: what is read, what is refused, and what an answer has."""

import base64
import json
import struct
from typing import Any

import pytest

from handlers.errors import BadRequest, RequestError, TooLarge
from handlers.requests import tensors
from handlers.requests.labels import Labels
from handlers.requests.payload import ImageRequest
from handlers.requests.request import Field, RawRequest, read
from handlers.settings import Settings

IMAGES = [b"\xff\xd8 one", b"\xff\xd8 two", b"\xff\xd8 three"]
SETTINGS = Settings(max_images=3, max_bytes=50)


def tensor(**changes: Any) -> dict[str, Any]:
    data = [base64.b64encode(image).decode() for image in IMAGES]
    return {"name": "image", "shape": [3], "datatype": "BYTES", "data": data, **changes}


def sent(document: Any, binary: bytes = b"", **headers: str) -> ImageRequest:
    return read(RawRequest(headers, [Field("body", json.dumps(document).encode() + binary)]), SETTINGS)


def behind(images: list[bytes], document: dict[str, Any], length: str | None = None) -> ImageRequest:
    """Send images behind the JSON."""
    binary = b"".join(struct.pack("<I", len(image)) + image for image in images)
    document["inputs"][0].pop("data", None)
    document["inputs"][0].setdefault("parameters", {"binary_data_size": len(binary)})
    size = str(len(json.dumps(document))) if length is None else length
    return sent(document, binary, **{tensors.LENGTH_HEADER: size})


@pytest.mark.parametrize("shape", [[3], [3, 1], [1, 3]])
def test_images_are_a_tensor_in_any_nesting(shape: list[int]) -> None:
    data = tensor()["data"]
    nested = {1: data, 2: [[text] for text in data] if shape[-1] == 1 else [data]}[len(shape)]
    request = sent({"id": "7", "inputs": [tensor(shape=shape, data=nested)]})
    assert request.images == IMAGES and request.listed
    assert request.tensors is not None and request.tensors.id == "7"


def test_images_may_come_behind_the_json() -> None:
    assert behind(IMAGES, {"inputs": [tensor()]}).images == IMAGES


def test_an_image_that_cannot_be_read_is_its_error() -> None:
    first, second, _ = sent({"inputs": [tensor(data=["!", base64.b64encode(bytes(60)).decode(), "AAAA"])]}).images
    assert isinstance(first, BadRequest) and isinstance(second, TooLarge)
    (large,) = behind([bytes(60)], {"inputs": [tensor(shape=[1])]}).images
    assert isinstance(large, TooLarge)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"inputs": []}, "one tensor"),
        ({"inputs": [tensor(), tensor()]}, "one tensor"),
        ({"inputs": ["image"]}, "one tensor"),
        ({"inputs": [tensor(datatype="UINT8")]}, "BYTES"),
        ({"inputs": [tensor(data="AAAA")]}, "data is missing or wrong"),
        ({"inputs": [tensor(shape=[2])]}, "3 images"),
        ({"inputs": [tensor(shape=[-1, -3])]}, "3 images"),
        ({"inputs": [tensor(shape=[3.0])]}, "3 images"),
        ({"inputs": [tensor(shape=None)]}, "shape is missing"),
        ({"inputs": [tensor(shape=[0], data=[])]}, "not be empty"),
        ({"inputs": [tensor(shape=[4], data=["AAAA"] * 4)]}, "4 images, more than the limit of 3"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, "no output 'logits'"),
        ({"inputs": [tensor()], "outputs": ["label"]}, "name is missing"),
    ],
)
def test_what_cannot_be_is_named(document: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as refused:
        sent(document)
    body = refused.value.body()
    assert body["error"] == body["message"], "the field that the protocol has for errors"


@pytest.mark.parametrize(
    ("parameters", "length", "reason"),
    [
        ({"binary_data_size": 3}, None, "bytes behind the JSON"),
        ({}, None, "binary_data_size is missing"),
        (None, "9" * 13, "number of bytes"),
        (None, "-1", "number of bytes"),
        (None, "10000", "number of bytes"),
        (None, "5", "not valid JSON"),
    ],
)
def test_lengths_that_do_not_agree_are_named(parameters: Any, length: str | None, reason: str) -> None:
    changes = {} if parameters is None else {"parameters": parameters}
    with pytest.raises(BadRequest, match=reason):
        behind(IMAGES, {"inputs": [tensor(**changes)]}, length)


@pytest.mark.parametrize("binary", [b"\x01\0", b"\x05\0\0\0abcd"])
def test_bytes_that_end_too_early_are_named(binary: bytes) -> None:
    document = {"inputs": [{**tensor(), "parameters": {"binary_data_size": len(binary)}}]}
    del document["inputs"][0]["data"]
    with pytest.raises(BadRequest, match="end within an image"):
        sent(document, binary, **{tensors.LENGTH_HEADER: str(len(json.dumps(document)))})


def test_the_protocol_v1_still_counts_where_both_are_named() -> None:
    both = {"instances": [{"b64": base64.b64encode(IMAGES[0]).decode()}], "inputs": []}
    assert sent(both).tensors is None


def test_an_answer_has_the_tensors_that_the_client_asks_for() -> None:
    answers = [Labels({"cat": 0.9, "dog": 0.1}, 0.25), Labels({"dog": 0.8, "cat": 0.2}, 0.5)]
    document = {"id": "a", "inputs": [tensor(shape=[2], data=["AAAA", "AAAA"])]}
    answer = tensors.response(sent(document), answers, model="pets", version="1.0")
    label, probability = answer.pop("outputs")
    assert answer == {"model_name": "pets", "model_version": "1.0", "id": "a"}
    assert label == {"name": "label", "datatype": "BYTES", "shape": [2, 2], "data": ["cat", "dog", "dog", "cat"]}
    assert probability["data"] == [0.9, 0.1, 0.8, 0.2] and probability["datatype"] == "FP32"
    first = tensors.response(sent(document, b"", **{"top-k": "1"}), answers, model="pets", version="1.0")
    assert first["outputs"][0]["shape"] == [2, 1] and first["outputs"][0]["data"] == ["cat", "dog"]
    document["outputs"] = [{"name": "familiarity"}]
    (familiarity,) = tensors.response(sent(document), answers, model="pets", version="1.0")["outputs"]
    assert familiarity == {"name": "familiarity", "datatype": "FP32", "shape": [2], "data": [0.25, 0.5]}


def test_outputs_that_are_no_list_are_refused() -> None:
    for outputs in (7, 1.5, True, "label"):
        with pytest.raises(BadRequest, match="outputs must be a list"):
            tensors.request({"outputs": outputs}, b"", max_images=2, max_bytes=100)
