"""The Open Inference Protocol (KServe v2): images as a tensor of BYTES, their labels and probabilities as tensors.

A client sends, and gets:

    {"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": ["<base64 of an image>", ...]}]}
    {"model_name": "birds", "model_version": "1.0", "outputs": [
        {"name": "label", "datatype": "BYTES", "shape": [2, 5], "data": ["sparrow", ...]},
        {"name": "probability", "datatype": "FP32", "shape": [2, 5], "data": [0.93, ...]}]}

`id` comes back. `outputs` may name some of these, and `familiarity`. With the header `inference-header-content-length`
the images are behind the JSON, each after its length (the protocol's extension for binary tensors); answers are always
JSON. A tensor has no place for an error: one image that cannot be read fails its request.
"""

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from handlers.errors import BadRequest, RequestError, TooLarge
from handlers.requests.labels import Labels, shown
from handlers.requests.payload import Image, ImageRequest, Tensors, image_of

LENGTH_HEADER = "inference-header-content-length"
EXAMPLE = '{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["<base64 of an image>"]}]}'
OUTPUTS = {"label": "BYTES", "probability": "FP32", "familiarity": "FP32"}
SIZE = struct.Struct("<I")


def split(body: bytes | bytearray, length: str) -> tuple[bytes, bytes]:
    """Return the JSON of a body, and the bytes behind it.

    Raises:
        BadRequest: `length`, that of the JSON, cannot be.
    """
    if not length.isascii() or not length.isdecimal() or len(length) > 12 or int(length) > len(body):
        raise BadRequest(f"the header {LENGTH_HEADER} must be the number of bytes of the JSON in the body")
    return bytes(body[: int(length)]), bytes(body[int(length) :])


def request(document: Mapping[str, Any], binary: bytes, *, max_images: int, max_bytes: int) -> ImageRequest:
    """Return the encoded images of a request in order; an image that cannot be read is its error.

    Raises:
        BadRequest: the document is not of this protocol, or holds no image.
        TooLarge: it holds more than `max_images`.
    """
    try:
        requested = document.get("outputs") or []
        if not isinstance(requested, list):
            raise BadRequest(f"outputs must be a list: {EXAMPLE}")
        names = [_of(output, "name", str) for output in requested]
        if unknown := [name for name in names if name not in OUTPUTS]:
            raise BadRequest(f"there is no output {unknown[0]!r}: ask for {', '.join(OUTPUTS)}")
        inputs = document["inputs"]
        if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
            raise BadRequest(f"inputs must be one tensor of images: {EXAMPLE}")
        images = _images(inputs[0], binary, max_images=max_images, max_bytes=max_bytes)
    except RequestError as error:
        error.has_tensors = True
        raise
    id_ = document.get("id")
    return ImageRequest(images, listed=True, tensors=Tensors(id_ if isinstance(id_, str) else None, tuple(names)))


def _of(item: Any, name: str, kind: type) -> Any:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadRequest(f"{name} is missing or wrong: {EXAMPLE}")
    return value


def _images(tensor: Mapping[str, Any], binary: bytes, *, max_images: int, max_bytes: int) -> list[Image]:
    if tensor.get("datatype") != "BYTES":
        raise BadRequest(f"datatype must be BYTES, encoded images: {EXAMPLE}")
    parameters = tensor.get("parameters") or {}
    elements: Sequence[Any]
    if "data" in tensor:
        elements = _flat(_of(tensor, "data", list))
    elif _of(parameters, "binary_data_size", int) != len(binary):
        raise BadRequest(f"binary_data_size must be the {len(binary)} bytes behind the JSON")
    else:
        elements = _elements(binary, max_images)
    if len(elements) > max_images:
        raise TooLarge(f"the request has {len(elements)} images, more than the limit of {max_images}")
    shape = _of(tensor, "shape", list)
    if (
        not elements
        or not all(type(size) is int and 0 < size <= max_images for size in shape)
        or math.prod(shape) != len(elements)
    ):
        raise BadRequest(f"shape and data must agree, and not be empty: the tensor has {len(elements)} images")
    return [image_of(part, max_bytes) if "data" in tensor else _checked(part, max_bytes) for part in elements]


def _flat(data: Sequence[Any]) -> list[Any]:
    """Return the elements of a tensor, which may be nested as its shape is."""
    waiting, elements = list(reversed(data)), []
    while waiting:
        element = waiting.pop()
        if isinstance(element, list):
            waiting.extend(reversed(element))
        else:
            elements.append(element)
    return elements


def _elements(binary: bytes, max_images: int) -> list[bytes]:
    elements, place = list[bytes](), 0
    while place < len(binary) and len(elements) <= max_images:
        if place + SIZE.size > len(binary):
            raise BadRequest("the bytes behind the JSON end within an image's length")
        (size,) = SIZE.unpack_from(binary, place)
        place += SIZE.size
        if place + size > len(binary):
            raise BadRequest("the bytes behind the JSON end within an image")
        elements.append(binary[place : place + size])
        place += size
    return elements


def _checked(image: bytes, max_bytes: int) -> Image:
    return image if len(image) <= max_bytes else TooLarge(f"the image has more bytes than the limit of {max_bytes}")


def response(request: ImageRequest, answers: Sequence[Labels], *, model: str, version: str) -> dict[str, Any]:
    """Return the document of an answer; `familiarity` only if it is asked for and each image has one."""
    assert request.tensors is not None
    rows = [dict(islice(answer.items(), request.top_k)) for answer in answers]
    shape = [len(rows), len(rows[0])]
    values = {
        "label": [label for row in rows for label in row],
        "probability": [p for row in rows for p in row.values()],
    }
    names = request.tensors.outputs or ("label", "probability", *(["familiarity"] if request.familiarity else []))
    familiarity = [answer.familiarity for answer in answers if answer.familiarity is not None]
    outputs = [
        {"name": name, "datatype": OUTPUTS[name], "shape": shape, "data": values[name]}
        for name in names
        if name in values
    ]
    if "familiarity" in names and len(familiarity) == len(answers):
        data = [shown(value) for value in familiarity]
        outputs.append({"name": "familiarity", "datatype": "FP32", "shape": [len(data)], "data": data})
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    return document if request.tensors.id is None else {**document, "id": request.tensors.id}
