"""What one request holds, and the JSON body of the KServe v1 protocol: `{"instances": [{"b64": "..."}, ...]}`."""

import base64
import binascii
import dataclasses
import json
from typing import Any

from handlers.errors import BadRequest, RequestError, TooLarge

FORM = '{"instances": [{"b64": "<base64 of an image>"}, ...]}'
JSON_START = (b"{", b"[")
BLANKS = b" \t\r\n"

Image = bytes | bytearray | RequestError


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """The encoded images of one request, or what is wrong with a single one.

    `listed` tells whether the answer is a list of predictions, or that of the one image alone.
    """

    images: list[Image]
    listed: bool


def is_json(body: bytes | bytearray) -> bool:
    """Tell whether a body is meant as a JSON document: no image that is served begins so."""
    return bytes(body[:64]).lstrip(BLANKS).startswith(JSON_START)


def parse(body: bytes | bytearray | str) -> Any:
    """Return the document of a JSON body.

    Raises:
        BadRequest: it is not JSON.
    """
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the body is not valid JSON; send an image or {FORM}") from error


def images(document: Any, *, max_images: int, max_bytes: int) -> list[Image]:
    """Return the encoded images of a request document in order, or what is wrong with a single one.

    Raises:
        BadRequest: the document is not of the KServe v1 form, or holds no image.
        TooLarge: it holds more than `max_images`.
    """
    instances = document.get("instances") if isinstance(document, dict) else None
    if not isinstance(instances, list):
        raise BadRequest(f"the JSON body must be {FORM}")
    if not instances:
        raise BadRequest("instances is empty; send at least one image")
    if len(instances) > max_images:
        raise TooLarge(f"the request has {len(instances)} images, more than the limit of {max_images}")
    return [_image(instance, max_bytes) for instance in instances]


def _image(instance: Any, max_bytes: int) -> Image:
    text = instance.get("b64") if isinstance(instance, dict) else None
    if not isinstance(text, str):
        return BadRequest('an instance must be {"b64": "<base64 of an image>"}')
    if len(text) // 4 * 3 > max_bytes + 3:
        return TooLarge(f"the image has more bytes than the limit of {max_bytes}")
    try:
        # A blank stands where a "+" was, when the document came as a form (curl -d): base64 itself has no blanks.
        return base64.b64decode(text.replace(" ", "+"), validate=True)
    except (binascii.Error, ValueError):
        return BadRequest("b64 is not valid base64")
