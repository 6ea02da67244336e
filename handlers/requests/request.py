"""What came with one request, and the encoded images in it, in whichever form a client sends them."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from handlers.errors import BadRequest, TooLarge, UnsupportedFormat
from handlers.requests import content_encoding, payload, tensors
from handlers.requests.payload import Explained, ImageRequest
from handlers.settings import Settings

MULTIPART, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
# Parameters of the address or text fields, with the headers that say the same.
TOP_K, FAMILIARITY, LABEL = "top_k", "familiarity", "label"
PARAMETER_HEADERS = {TOP_K: "top-k", FAMILIARITY: "familiarity", LABEL: "label"}
EXPLAIN = "explain"  # the header that TorchServe gives to a request for an explanation, with the value "True"
PICTURES, DOCUMENTS = ("image/png", "image/*"), ("application/json", "*/*")  # media types that a client may accept
ONE_PICTURE = "a PNG explains one image: send one image, or ask for application/json"
SWITCH = {"true": True, "1": True, "false": False, "0": False}
HOW = f"send an image or {payload.EXAMPLE_BODY}"
UNREADABLE = "the form cannot be read: no part of it ends with the boundary that its Content-Type names"
CUT = "the form cannot be read to its end: {} bytes of it are in no part that ends with its boundary"
NO_BOUNDARY = "the body is a form, and its Content-Type names no boundary: let the client's library set that header"
NO_FILE = "the form has no file; send each image as one (curl -F image=@FILE)"
HEADERS_OF_A_PART = 1024  # bytes: those of a part take some 150, and more where its file has a long name
BODY_OF_A_FORM = re.compile(rb"--[^\r\n]*\r?\ncontent-(disposition|type):", re.IGNORECASE)
CONTROLS = re.compile(rb"[\0-\x08\x0b\x0c\x0e-\x1f]")


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A field of a form, a parameter of the address, or a body that is no form (`body` or `data`).

    `is_file`: it has a content type, as the files of a form have and its text fields do not.
    """

    name: str
    value: Any
    is_file: bool = True

    @property
    def is_image(self) -> bool:
        """Return whether it is meant as an image: a file, or bytes that are not text."""
        if self.is_file or not isinstance(self.value, bytes | bytearray):
            return self.is_file
        try:
            self.value.decode()
        except UnicodeDecodeError:
            return True
        return CONTROLS.search(self.value) is not None


@dataclasses.dataclass(frozen=True, slots=True)
class RawRequest:
    """What came with one request: its headers, names in lower case, its fields in order, and the server's id of it."""

    headers: Mapping[str, str]
    fields: Sequence[Field]
    request_id: str = ""


def read(raw: RawRequest, settings: Settings) -> ImageRequest:
    """Return the images of one request.

    Raises:
        RequestError: it holds none, more than the settings allow, or asks for something else.
    """
    headers = raw.headers
    top_k, familiarity, explained = _top_k(raw), _familiarity(raw), _explained(raw)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    coding = content_encoding.coding(headers.get("content-encoding", ""))
    if coding and kind in (MULTIPART, URLENCODED):
        raise UnsupportedFormat(content_encoding.OF_A_FORM)
    names = {*PARAMETER_HEADERS} - ({LABEL} if explained is None else set())
    fields = [field for field in raw.fields if field.name not in names or field.is_file]
    if kind == MULTIPART:
        request = _form(fields, headers, settings)
    elif kind == URLENCODED:
        request = _urlencoded(fields, settings)
    else:
        length = headers.get(tensors.LENGTH_HEADER, "")
        request = _body(_only(fields), settings, coding=coding, json_length=length)
    if explained is not None and explained.png and request.listed:
        raise BadRequest(ONE_PICTURE)
    return dataclasses.replace(request, top_k=top_k, familiarity=familiarity, explained=explained)


def _parameter(raw: RawRequest, name: str) -> str | None:
    values = [field.value for field in raw.fields if field.name == name and not field.is_file]
    value = values[-1] if values else raw.headers.get(PARAMETER_HEADERS[name])
    return value if value is None or isinstance(value, str) else bytes(value).decode(errors="replace")


def _explained(raw: RawRequest) -> Explained | None:
    if raw.headers.get(EXPLAIN) != "True":
        return None
    accepted = [kind.partition(";")[0].strip().lower() for kind in raw.headers.get("accept", "").split(",")]
    first = next((kind for kind in accepted if kind in PICTURES + DOCUMENTS), None)
    return Explained(_parameter(raw, LABEL), first in PICTURES)


def _familiarity(raw: RawRequest) -> bool:
    text = _parameter(raw, FAMILIARITY)
    if text is None:
        return False
    if text.strip().lower() not in SWITCH:
        raise BadRequest("familiarity must be true or false")
    return SWITCH[text.strip().lower()]


def _top_k(raw: RawRequest) -> int | None:
    text = _parameter(raw, TOP_K)
    if text is None:
        return None
    if not re.fullmatch(r"\s*0*[1-9][0-9]{0,8}\s*", text, re.ASCII):
        raise BadRequest("top_k must be a whole number of at least 1")
    return int(text)


def _only(fields: Sequence[Field]) -> Any:
    """Return the one body among the fields: parameters of the address come before it, inputs of gRPC in any order."""
    for name in ("body", "data"):
        for field in reversed(fields):
            if field.name == name:
                return field.value
    if len(fields) > 1:
        raise BadRequest(
            f"the request has {len(fields)} inputs; send one, named data: an image or {payload.EXAMPLE_BODY}"
        )
    return fields[0].value if fields else None


def _body(
    body: Any, settings: Settings, *, coding: str = "", urlencoded: bool = False, json_length: str = ""
) -> ImageRequest:
    # Text that the server decoded was valid UTF-8: encoding it again gives back the very bytes.
    content = body.encode() if isinstance(body, str) else body
    if isinstance(content, bytes | bytearray):
        content = content_encoding.unpack(content, coding, settings)
    if content is None or content == b"":
        raise BadRequest(f"the request has no body; {HOW}")
    binary = b""
    if json_length and isinstance(content, bytes | bytearray):
        content, binary = tensors.split(content, json_length)
    if isinstance(content, bytes | bytearray):
        if BODY_OF_A_FORM.match(content):
            raise BadRequest(NO_BOUNDARY)
        if not payload.is_json(content):
            return ImageRequest([content], listed=False)
        content = payload.parse(content)
    limits = {"max_images": settings.max_images, "max_bytes": settings.max_bytes}
    if isinstance(content, dict) and "inputs" in content and "instances" not in content:
        return tensors.request(content, binary, **limits)
    return payload.request(content, **limits, urlencoded=urlencoded)


def _form(fields: Sequence[Field], headers: Mapping[str, str], settings: Settings) -> ImageRequest:
    """Return the images of a form: its files, and fields that are not text; its one text field may be a document."""
    if not fields:
        raise BadRequest(f"{UNREADABLE}; {HOW}")
    _check_whole(fields, headers)
    images = [field for field in fields if field.is_image]
    if len(images) > settings.max_images:
        raise TooLarge(f"the request has {len(images)} images, more than the limit of {settings.max_images}")
    if len(images) > 1:
        return ImageRequest([_image(field.value) for field in images], listed=True)
    if not images and len(fields) > 1:
        raise BadRequest(NO_FILE)
    return _body((images or fields)[0].value, settings)


def _check_whole(fields: Sequence[Field], headers: Mapping[str, str]) -> None:
    """Raise BadRequest where a form is longer than its fields: the server drops a part that does not end."""
    length = headers.get("content-length", "")
    size = sum(len(field.value) for field in fields if isinstance(field.value, bytes | bytearray))
    uncounted = int(length) - size if length.isdecimal() and len(length) < 16 else 0
    if uncounted > HEADERS_OF_A_PART * len(fields):
        raise BadRequest(CUT.format(uncounted))


def _urlencoded(fields: Sequence[Field], settings: Settings) -> ImageRequest:
    """Return the images of JSON that came as a form, as `curl -d` sends it: cut in two at its first "="."""
    for field in fields:
        if payload.is_json(field.name.encode()):
            value = field.value if isinstance(field.value, str) else bytes(field.value).decode(errors="replace")
            return _body(f"{field.name}={value}" if value else field.name, settings, urlencoded=True)
    raise BadRequest("curl -d sends a form, which an image does not survive: send it with curl -T FILE")


def _image(value: Any) -> payload.Image:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes | bytearray) else BadRequest("a field of several must be an image")
