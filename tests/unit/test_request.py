"""What a client may send: each form of a body, and what a worker reads in it."""

import base64
import contextlib
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from handlers.errors import BadImage, BadRequest, RequestError, TooLarge, UnsupportedFormat
from handlers.requests import content_encoding, payload
from handlers.requests.payload import Explained, ImageRequest
from handlers.requests.request import HEADERS_OF_A_PART, MULTIPART, Field, RawRequest, read
from handlers.settings import Settings

IMAGE = bytes(range(256)) * 3  # every digit of base64, "+" and "/" among them
OTHER = b"\xff\xd8 another"
TEXT = base64.b64encode(IMAGE).decode()
SETTINGS = Settings(max_bytes=5000, max_images=3)
FORM = {"content-type": f"{MULTIPART}; boundary=x"}


def sent(body: bytes, **headers: str) -> ImageRequest:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read(RawRequest(named, [Field("body", body, is_file=False)]), SETTINGS)


def form(fields: Sequence[Field], headers: Mapping[str, str] = FORM) -> ImageRequest:
    return read(RawRequest(headers, fields), SETTINGS)


def text(name: str, value: bytes) -> Field:
    return Field(name, value, is_file=False)


def document(*instances: Any) -> bytes:
    return json.dumps({"instances": instances}).encode()


@pytest.mark.parametrize("names", ["ff", "ffg", "gff", "fgf"])
def test_every_file_of_a_form_is_an_image_whatever_its_name(names: str) -> None:
    images: list[payload.Image] = list((IMAGE, OTHER, IMAGE + OTHER)[: len(names)])
    assert form([Field(*field) for field in zip(names, images, strict=True)]) == ImageRequest(images, listed=True)


def test_files_of_one_name_count_against_the_limit() -> None:
    with pytest.raises(TooLarge, match="4 images, more than the limit of 3"):
        form([Field("f", IMAGE)] * 4)


@pytest.mark.parametrize("note", [b"hello", "größe".encode(), b'{"camera": 7}', b"", b"a\r\n\tb"])
def test_text_beside_an_image_is_no_image(note: bytes) -> None:
    for fields in ([text("note", note), Field("f", IMAGE)], [Field("f", IMAGE), text("note", note)]):
        assert form(fields) == ImageRequest([IMAGE], listed=False)
    files = [Field("f", IMAGE), text("note", note), Field("f", OTHER)]
    assert form(files) == ImageRequest([IMAGE, OTHER], listed=True)


def test_an_image_may_come_as_a_text_field() -> None:
    assert form([text("f", IMAGE), text("f", OTHER)]) == ImageRequest([IMAGE, OTHER], listed=True)
    assert form([text("f", document({"b64": TEXT}))]) == ImageRequest([IMAGE], listed=True)
    gif = b"GIF87a\0"  # which UTF-8 can read
    assert form([text("f", gif), text("note", b"hello"), text("f", gif)]) == ImageRequest([gif, gif], listed=True)
    with pytest.raises(BadRequest, match="the form has no file; send each image as one"):
        form([text("a", b"hello"), text("b", b"world")])


def test_a_field_that_is_no_image_costs_the_others_nothing() -> None:
    first, wrong, text_image = form([Field("f", IMAGE), Field("f", {"a": 1}), Field("f", "text")]).images
    assert (first, text_image) == (IMAGE, b"text")
    assert isinstance(wrong, BadRequest) and str(wrong) == "a field of several must be an image"


def test_a_form_that_cannot_be_read_is_called_so() -> None:
    with pytest.raises(BadRequest, match="the form cannot be read: no part of it ends with the boundary"):
        form([])
    whole = {**FORM, "content-length": str(len(IMAGE) + HEADERS_OF_A_PART)}
    assert form([Field("f", IMAGE)], whole) == ImageRequest([IMAGE], listed=False)
    cut = {**FORM, "content-length": str(len(IMAGE) + HEADERS_OF_A_PART + 1)}
    with pytest.raises(BadRequest, match="cannot be read to its end: 1025 bytes of it"):
        form([Field("f", IMAGE)], cut)
    two = {**FORM, "content-length": str(2 * len(IMAGE) + 2 * HEADERS_OF_A_PART)}
    assert form([Field("f", IMAGE)] * 2, two).images == [IMAGE] * 2
    assert form([Field("f", IMAGE)], {**FORM, "content-length": "9" * 17}).images == [IMAGE], "no real length"
    for kind in (MULTIPART, "image/jpeg"):
        for start in ("Content-Disposition", "content-type"):
            with pytest.raises(BadRequest, match="its Content-Type names no boundary"):
                sent(f"--x\r\n{start}: form-data".encode(), content_type=kind)


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("gzip", gzip.compress(IMAGE)),
        (" X-GZIP ", gzip.compress(IMAGE)),
        ("gzip, identity", gzip.compress(IMAGE)),
        ("deflate", zlib.compress(IMAGE)),
        ("deflate", zlib.compress(IMAGE, wbits=-15)),
        ("identity", IMAGE),
        ("", IMAGE),
    ],
)
def test_a_packed_body_is_unpacked(name: str, packed: bytes) -> None:
    assert sent(packed, content_encoding=name) == ImageRequest([IMAGE], listed=False)


@pytest.mark.parametrize("name", ["br", "zstd", "utf-8", "gzip, gzip", "deflate, gzip"])
def test_another_coding_is_named(name: str) -> None:
    with pytest.raises(UnsupportedFormat, match="Content-Encoding must be gzip or deflate"):
        sent(gzip.compress(IMAGE), content_encoding=name)


def test_a_packed_form_is_refused() -> None:
    for kind in (FORM["content-type"], "application/x-www-form-urlencoded"):
        with pytest.raises(UnsupportedFormat, match="without Content-Encoding"):
            form([], {"content-type": kind, "content-encoding": "gzip"})


@pytest.mark.parametrize(
    "packed", [IMAGE, gzip.compress(IMAGE)[:-9], gzip.compress(IMAGE) + b"x", gzip.compress(IMAGE) * 2, b"\x1f"]
)
def test_a_damaged_packing_is_a_bad_request(packed: bytes) -> None:
    with pytest.raises(BadRequest, match="Content-Encoding"):
        sent(packed, content_encoding="gzip")


def test_what_a_body_unpacks_to_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = SETTINGS.max_bytes
    assert sent(gzip.compress(b"\xff" * limit), content_encoding="gzip").images == [b"\xff" * limit]
    with pytest.raises(TooLarge, match="more than the limit of 5000 bytes"):
        sent(gzip.compress(b"\xff" * (limit + 1)), content_encoding="gzip")
    images = [b"\xff" * limit] * SETTINGS.max_images
    packed = gzip.compress(document(*({"b64": base64.b64encode(image).decode()} for image in images)))
    assert sent(packed, content_encoding="gzip").images == images
    most = 3 * (limit * 4 // 3 + 256)
    with pytest.raises(TooLarge, match=f"more than the limit of {most} bytes"):
        sent(gzip.compress(b"[" + b" " * (most + 1)), content_encoding="gzip")
    monkeypatch.setattr(content_encoding, "MAX_DOCUMENT", limit + 1)
    with pytest.raises(TooLarge, match="more than the limit of 5001 bytes"):
        sent(packed, content_encoding="gzip")


def test_no_more_is_unpacked_than_the_limit() -> None:
    bomb = gzip.compress(bytes(2**26))
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge):
            sent(bomb, content_encoding="gzip")
        assert tracemalloc.get_traced_memory()[1] < 2**20  # bytes, at the peak
    finally:
        tracemalloc.stop()


MARKED = {
    "UTF-8 with a mark": document(TEXT).decode().encode("utf-8-sig"),
    "UTF-16": document(TEXT).decode().encode("utf-16"),
    "UTF-16, big end first": b"\xfe\xff" + document(TEXT).decode().encode("utf-16-be"),
    "UTF-32": document(TEXT).decode().encode("utf-32"),
    "UTF-32, big end first": b"\0\0\xfe\xff" + document(TEXT).decode().encode("utf-32-be"),
    "blanks": b" \r\n\t" * 1000 + document(TEXT),
    "a mark and blanks": b"\xef\xbb\xbf" + b" " * 64 + document(TEXT),
}


@pytest.mark.parametrize("case", MARKED)
def test_json_is_read_in_each_encoding(case: str) -> None:
    assert sent(MARKED[case]) == ImageRequest([IMAGE], listed=True)
    with pytest.raises(BadRequest, match="not valid JSON"):
        sent(MARKED[case][:-9])


INSTANCES: list[Any] = [
    {"b64": TEXT},
    TEXT,
    {"data": {"b64": TEXT}},
    {"image_bytes": {"b64": TEXT}},
    {"input_1": {"b64": TEXT}},
    {"data": TEXT},
    {"image_bytes": TEXT},
    {"b64": TEXT, "key": "7"},
    {"b64": base64.encodebytes(IMAGE).decode()},
    {"b64": base64.encodebytes(IMAGE).decode().replace("\n", "\r\n")},
    {"b64": " \t" + TEXT + "\n"},
    {"b64": "data:image/jpeg;base64," + TEXT},
    "DATA:image/png;name=a-b_c.png;base64," + TEXT,
    {"b64": base64.urlsafe_b64encode(IMAGE).decode()},
]


@pytest.mark.parametrize("instance", INSTANCES)
def test_the_image_of_an_instance_is_read(instance: Any) -> None:
    assert sent(document(instance, instance)) == ImageRequest([IMAGE, IMAGE], listed=True)
    assert sent(json.dumps(instance).encode()) == ImageRequest([IMAGE], listed=False)


@pytest.mark.parametrize("length", range(3, 9))
def test_padding_may_be_left_out(length: int) -> None:
    image = IMAGE[-length:]
    for digits in (base64.b64encode(image), base64.urlsafe_b64encode(image)):
        assert sent(document(digits.decode().rstrip("="))).images == [image]


def test_base64_pasted_with_its_line_ends_is_read() -> None:
    body = b'{"instances": [{"b64": "' + base64.encodebytes(IMAGE) + b'"}]}'
    assert sent(body).images == [IMAGE]


@pytest.mark.parametrize(
    "instance",
    [{"a": {"b64": TEXT}, "b": {"b64": TEXT}}, {"b64": TEXT, "data": TEXT}, {"image": TEXT}, {"b64": [TEXT]}, [TEXT],
     {"data": {"b64": 1}}, {"b64": "data:image/png," + TEXT}, "a=bc", "abcde", None,
     {"b64": "data:a;base64," * 2 + TEXT}, f"!{TEXT}", TEXT[:8] + "~" + TEXT[8:], {"b64": {"b64": TEXT}}],
)  # fmt: skip
def test_another_instance_is_a_bad_request(instance: Any) -> None:
    (image,) = sent(document(instance)).images
    assert isinstance(image, BadRequest)


def test_blanks_of_a_url_encoded_document_were_plus_signs() -> None:
    name, _, rest = document({"b64": TEXT}).decode().replace("+", " ").partition("=")
    fields = [text(name, rest.encode())]
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert "+" in TEXT and form(fields, kind) == ImageRequest([IMAGE], listed=True)


def test_a_string_that_is_no_image_is_a_bad_image() -> None:
    with pytest.raises(BadImage, match="a JSON string that is not the base64 of an image"):
        sent(b'"hello, world!"')


def test_lines_do_not_count_against_the_limit() -> None:
    image = b"\xff" * SETTINGS.max_bytes
    assert sent(document(base64.encodebytes(image).decode())).images == [image]
    (refused,) = sent(document(base64.b64encode(image + b"\xff" * 9).decode())).images
    assert isinstance(refused, TooLarge)
    assert str(refused) == f"the image has more bytes than the limit of {SETTINGS.max_bytes}"


@pytest.mark.parametrize(("size", "taken"), [(27, True), (30, True), (31, True), (33, True), (34, False), (36, False)])
def test_base64_is_not_read_where_it_is_longer_than_any_image_within_the_limit(size: int, taken: bool) -> None:
    """Up to three bytes too many are read: the decoder counts the bytes themselves."""
    instance = base64.b64encode(b"\xff" * size).decode()
    (image,) = payload.request({"instances": [instance]}, max_images=1, max_bytes=30).images
    assert (image == b"\xff" * size) is taken and isinstance(image, TooLarge) is not taken


def test_what_is_wrong_with_a_document_is_said() -> None:
    for wrong, message in (
        ({"instances": []}, "instances is empty; send at least one image"),
        ({"images": [TEXT]}, f"the JSON body must be {payload.EXAMPLE_BODY}"),
        ([TEXT], f"the JSON body must be {payload.EXAMPLE_BODY}"),
        ({"instances": [TEXT] * 4}, "the request has 4 images, more than the limit of 3"),
    ):
        with pytest.raises(RequestError) as caught:
            sent(json.dumps(wrong).encode())
        assert str(caught.value) == message
    blank = TEXT.replace("+", " ")
    (image,) = payload.request({"instances": [blank]}, max_images=1, max_bytes=5000).images
    assert image != IMAGE, "a blank is a plus sign in a form alone"


@pytest.mark.parametrize(("value", "top_k"), [("1", 1), (" 2 ", 2), ("007", 7), ("1000000000", None)])
def test_fewer_labels_may_be_asked_for(value: str, top_k: int | None) -> None:
    body = Field("body", IMAGE, is_file=False)
    asked = [
        RawRequest({"top-k": value}, [body]),
        RawRequest({}, [text("top_k", value.encode()), body]),
        RawRequest({"top-k": "9"}, [text("top_k", b"8"), text("top_k", value.encode()), body]),
        RawRequest(FORM, [Field("f", IMAGE), text("top_k", value.encode())]),
    ]
    for each in asked:
        if top_k is None:
            with pytest.raises(BadRequest, match="top_k must be a whole number of at least 1"):
                read(each, SETTINGS)
        else:
            assert read(each, SETTINGS) == ImageRequest([IMAGE], listed=False, top_k=top_k)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "", "two", "\u0664", "1e1", "0x1", "1 2"])
def test_a_top_k_that_is_no_number_of_labels_is_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="top_k must be a whole number of at least 1"):
        sent(IMAGE, top_k=value)


@pytest.mark.parametrize(
    ("value", "wanted"), [("true", True), (" True ", True), ("1", True), ("false", False), ("0", False)]
)
def test_familiarity_may_be_asked_for(value: str, wanted: bool) -> None:
    body = Field("body", IMAGE)
    assert read(RawRequest({}, [body]), Settings()).familiarity is False
    for raw in (
        RawRequest({"familiarity": value}, [body]),
        RawRequest({}, [text("familiarity", value.encode()), body]),
        RawRequest({}, [Field("picture", IMAGE), text("familiarity", value.encode())]),  # gRPC
        RawRequest(FORM, [Field("f", IMAGE), text("familiarity", value.encode())]),
    ):
        request = read(raw, Settings())
        assert request.familiarity is wanted and request.images == [IMAGE] and request.top_k is None


@pytest.mark.parametrize("value", ["", "yes", "2"])
def test_another_word_for_familiarity_is_refused(value: str) -> None:
    with pytest.raises(BadRequest, match="familiarity must be true or false"):
        read(RawRequest({"familiarity": value}, [Field("body", IMAGE)]), Settings())


def test_a_file_named_top_k_is_an_image() -> None:
    assert form([Field("top_k", IMAGE)]) == ImageRequest([IMAGE], listed=False)


def test_a_request_for_an_explanation_names_its_label_and_its_form() -> None:
    assert sent(IMAGE, explain="True").explained == Explained(None, png=False)
    assert sent(IMAGE, explain="False").explained is None
    assert sent(IMAGE, explain="True", label="bee").explained == Explained("bee", png=False)
    named = read(RawRequest({"explain": "True"}, [text("label", "bée".encode()), Field("body", IMAGE)]), SETTINGS)
    assert named == ImageRequest([IMAGE], listed=False, explained=Explained("bée", png=False))


@pytest.mark.parametrize(
    ("accept", "png"),
    [
        ("image/png", True),
        ("image/avif,image/webp,image/svg+xml,image/*;q=0.8,*/*;q=0.5", True),
        ("application/json, image/png", False),
        ("IMAGE/PNG;q=0.9, application/json", True),
        ("*/*", False),
        ("text/html", False),
    ],
)
def test_the_first_accepted_form_of_an_explanation_is_sent(accept: str, png: bool) -> None:
    explained = sent(IMAGE, explain="True", accept=accept).explained
    assert explained is not None and explained.png == png
    assert sent(IMAGE, accept=accept).explained is None


def test_a_picture_explains_one_image() -> None:
    document = json.dumps({"instances": [{"b64": TEXT}, {"b64": TEXT}]}).encode()
    assert len(sent(document, explain="True").images) == 2
    with pytest.raises(BadRequest, match="send one image, or ask for application/json"):
        sent(document, explain="True", accept="image/png")


def test_a_field_named_label_of_a_prediction_stays_an_input() -> None:
    assert read(RawRequest({}, [text("label", IMAGE)]), SETTINGS).images == [IMAGE]


def test_parameters_of_the_address_are_not_the_body() -> None:
    for name in ("body", "data", "trace"):
        assert read(RawRequest({}, [text(name, b"x"), Field("body", IMAGE)]), SETTINGS).images == [IMAGE]


def test_the_one_input_of_grpc_may_have_any_name() -> None:
    for name in ("data", "body", "image"):
        assert read(RawRequest({}, [text("top_k", b"2"), text(name, IMAGE)]), SETTINGS).images == [IMAGE]
    assert read(RawRequest({}, [text("data", IMAGE), text("a", OTHER)]), SETTINGS).images == [IMAGE]
    with pytest.raises(BadRequest, match="the request has 2 inputs; send one, named data"):
        read(RawRequest({}, [text("a", IMAGE), text("b", IMAGE)]), SETTINGS)
    with pytest.raises(BadRequest, match="no body"):
        read(RawRequest({}, []), SETTINGS)


def test_what_is_wrong_is_always_a_request_error() -> None:
    """Bodies that are cut anywhere, in each coding and kind, raise nothing else."""
    bodies = [
        *MARKED.values(),
        document(INSTANCES[0]),
        gzip.compress(document(TEXT)),
        zlib.compress(IMAGE),
        b'"',
        b"--",
    ]
    for body in bodies:
        for cut in range(0, len(body), 1 + len(body) // 40):
            for coding in ("", "gzip", "deflate"):
                with contextlib.suppress(RequestError):
                    sent(body[:cut], content_encoding=coding)


def test_blanks_before_an_image_are_no_json() -> None:
    assert not payload.is_json(b" " * 2**20 + b"x")
