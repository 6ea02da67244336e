"""What one request holds, and the JSON body of the KServe v1 protocol: `{"instances": [{"b64": "..."}, ...]}`.

An instance may also be the base64 itself, or an object that names its input: `{"data": {"b64": "..."}}`,
`{"image_bytes": {"b64": "..."}}`, `{"data": "..."}`. One instance outside of a list is a request of one image. The
base64 may be in lines, after `data:image/jpeg;base64,`, url-safe, and without its padding.
"""

import base64
import binascii
import dataclasses
import json
import re
from typing import Any

from handlers.errors import BadImage, BadRequest, RequestError, TooLarge

EXAMPLE_BODY = '{"instances": [{"b64": "<base64 of an image>"}, ...]}'
# A byte-order mark of UTF-16 or UTF-32 begins no image either.
JSON_START = re.compile(rb'(?:\xef\xbb\xbf)?[ \t\r\n]*[\[{"]|\xff\xfe|\xfe\xff|\0\0\xfe\xff')
DATA_URL = re.compile(rb"data:[^,]*;base64,", re.IGNORECASE)
STANDARD = bytes.maketrans(b"-_", b"+/")
NAMES = ("data", "image_bytes")  # of an input whose value may be the base64 itself
NOT_AN_INSTANCE = 'an instance must be {"b64": "<base64 of an image>"}'
# Begin of an object, of a list, and of a further value: 25 MB of them take seconds and a gigabyte. Base64 has none.
MARKS = (b"{", b"[", b",")
MOST_MARKS = 10_000

Image = bytes | bytearray | RequestError


@dataclasses.dataclass(frozen=True, slots=True)
class Explained:
    """The label that a client asks to explain, None for the most probable one; `png`: as a picture."""

    label: str | None
    png: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Tensors:
    """The answer is tensors (see `handlers.requests.tensors`): the client's id, and the names of those it asks for."""

    id: str | None
    outputs: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ImageRequest:
    """The encoded images of one request; an image that cannot be read is its error.

    `listed`: the answer is a list of predictions, else that of the one image; `top_k` is the number of
    labels that the client asks for, None for the model's own; `familiarity`: it asks for that in each entry;
    `explained`: it asks for explanations in place of predictions; `tensors`: it came in the Open Inference Protocol.
    """

    images: list[Image]
    listed: bool
    top_k: int | None = None
    familiarity: bool = False
    explained: Explained | None = None
    tensors: Tensors | None = None


def is_json(body: bytes | bytearray) -> bool:
    """Return whether a body is meant as a JSON document: no image of a supported format begins so."""
    return JSON_START.match(body) is not None


def parse(body: bytes | bytearray | str) -> Any:
    """Return the document of a JSON body, in UTF-8, UTF-16 or UTF-32.

    Raises:
        BadRequest: it is not JSON, or of more than `MOST_MARKS` values.
    """
    encoded = body.encode() if isinstance(body, str) else body
    if sum(encoded.count(mark) for mark in MARKS) > MOST_MARKS:
        raise BadRequest(f"the JSON body has more than {MOST_MARKS} values; send {EXAMPLE_BODY}")
    try:
        return json.loads(body, strict=False)  # base64 in lines, pasted between quotes, has real line ends
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON; send an image or {EXAMPLE_BODY}") from error


def request(document: Any, *, max_images: int, max_bytes: int, urlencoded: bool = False) -> ImageRequest:
    """Return the encoded images of a request document in order; an image that cannot be read is its error.

    `urlencoded` says that the document came as a form (curl -d): each "+" of its base64 has become a blank.

    Raises:
        BadRequest: it is not a KServe v1 document, or holds no image.
        BadImage: it is a string that is no image.
        TooLarge: it holds more than `max_images`.
    """
    if isinstance(document, str):
        image = image_of(document, max_bytes, urlencoded)
        if isinstance(image, BadRequest):
            raise BadImage("the body is a JSON string that is not the base64 of an image")
        return ImageRequest([image], listed=False)
    instances = document.get("instances") if isinstance(document, dict) else None
    if instances is None and _text(document) is not None:
        return ImageRequest([image_of(document, max_bytes, urlencoded)], listed=False)
    if not isinstance(instances, list):
        raise BadRequest(f"the JSON body must be {EXAMPLE_BODY}")
    if not instances:
        raise BadRequest("instances is empty; send at least one image")
    if len(instances) > max_images:
        raise TooLarge(f"the request has {len(instances)} images, more than the limit of {max_images}")
    return ImageRequest([image_of(instance, max_bytes, urlencoded) for instance in instances], listed=True)


def _text(instance: Any) -> str | None:
    """Return the base64 of an instance; None if it holds none, or more than one."""
    if isinstance(instance, str):
        return instance
    if not isinstance(instance, dict):
        return None
    texts = [instance["b64"]] if "b64" in instance else []
    for name, value in instance.items():
        if isinstance(value, dict) and "b64" in value:
            texts.append(value["b64"])
        elif name in NAMES and isinstance(value, str):
            texts.append(value)
    return texts[0] if len(texts) == 1 and isinstance(texts[0], str) else None


def image_of(instance: Any, max_bytes: int, urlencoded: bool = False) -> Image:
    """Return the encoded image of an instance, or its error; `urlencoded` as for `request`."""
    text = _text(instance)
    if text is None:
        return BadRequest(NOT_AN_INSTANCE)
    try:
        digits = (text.replace(" ", "+") if urlencoded else text).encode("ascii").translate(None, b" \t\r\n")
        digits = DATA_URL.sub(b"", digits, count=1) if DATA_URL.match(digits) else digits
        if len(digits) // 4 * 3 > max_bytes + 3:
            return TooLarge(f"the image has more bytes than the limit of {max_bytes}")
        return base64.b64decode(digits.translate(STANDARD) + b"=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        return BadRequest("b64 is not valid base64")
