"""The bodies of the serving benchmark: as large as they say, the same everywhere, and as each server takes them."""

import base64
import email.parser
import email.policy
import json
from pathlib import Path

import simplejpeg

from benchmarks.traffic import bodies
from benchmarks.traffic.bodies import Encoding, Size

SMALL = Size(200, 200, 5, 3)
BASELINE = b"\xff\xc0"


def test_pictures_have_their_size_and_differ(tmp_path: Path) -> None:
    paths = bodies.draw(SMALL, tmp_path / "one")
    images = [path.read_bytes() for path in paths]
    assert len(set(images)) == SMALL.count
    for image in images:
        assert abs(len(image) - 1000 * SMALL.kilobytes) <= 100 * SMALL.kilobytes
        height, width, colours, sampling = simplejpeg.decode_jpeg_header(image)
        assert (width, height, colours, sampling) == (200, 200, "YCbCr", "420") and BASELINE in image
    again = bodies.draw(SMALL, tmp_path / "other")
    assert [path.read_bytes() for path in again] == images


def test_what_is_drawn_stays(tmp_path: Path) -> None:
    first = bodies.draw(SMALL, tmp_path)[0]
    first.write_bytes(b"kept")
    assert bodies.draw(SMALL, tmp_path)[0].read_bytes() == b"kept"
    assert not list(tmp_path.rglob(".*"))


def test_the_three_sizes_are_those_of_the_web_a_page_and_a_camera() -> None:
    assert [(size.name, size.kilobytes) for size in bodies.SIZES] == [
        ("200x200", 5),
        ("640x480", 28),
        ("4000x3000", 1100),
    ]
    assert all(size.count > 1 for size in bodies.SIZES)


def test_a_form_holds_the_image_in_its_field() -> None:
    encoding, image = Encoding("form", "image"), b"\xff\xd8\r\n--not the end\r\n\x00"
    head = f"Content-Type: {encoding.content_type}\r\n\r\n".encode()
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + encoding.encode(image))
    (part,) = form.iter_parts()
    assert part.get_param("name", header="content-disposition") == "image"
    assert part.get_payload(decode=True) == image


def test_json_holds_the_image_in_base64() -> None:
    encoding = Encoding("json", "image_data")
    assert encoding.content_type == "application/json"
    assert base64.b64decode(json.loads(encoding.encode(b"\xff\xd8"))["image_data"]) == b"\xff\xd8"
    assert Encoding().encode(b"\xff\xd8") == b"\xff\xd8"


def test_bodies_are_written_only_where_the_image_itself_will_not_do(tmp_path: Path) -> None:
    paths = bodies.draw(SMALL, tmp_path / "drawn")
    assert bodies.encode_all(paths, Encoding(), tmp_path / "encoded") == paths
    written = bodies.encode_all(paths, Encoding("json", "image"), tmp_path / "encoded")
    assert json.loads(written[2].read_text())["image"] == base64.b64encode(paths[2].read_bytes()).decode()
