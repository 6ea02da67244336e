"""The JPEG bodies of requests: three sizes, those of a thumbnail, a web page and a camera.

200 x 200 in 5 KB, 640 x 480 in 28 KB and 4000 x 3000 in 1,100 KB, each within 10 %, baseline 4:2:0, photograph-like and
generated, so that they are the same everywhere. Each size has several pictures, so that caches do not distort the
figures.
"""

import base64
import dataclasses
import json
from pathlib import Path

from handlers import atomic
from synthetic.photograph import jpeg_body

BOUNDARY = "sightline-benchmark"


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """Pixels and kilobytes (1,000 bytes) of a picture, and the number of different ones."""

    width: int
    height: int
    kilobytes: float
    count: int

    @property
    def name(self) -> str:
        """Return such as 640x480."""
        return f"{self.width}x{self.height}"


SIZES = (Size(200, 200, 5, 16), Size(640, 480, 28, 16), Size(4000, 3000, 1100, 6))


@dataclasses.dataclass(frozen=True, slots=True)
class Encoding:
    """How a server takes an image: `raw` as the body, in a field of a `form`, or in base64 in a field of `json`."""

    kind: str = "raw"
    field: str = ""

    @property
    def content_type(self) -> str:
        """Return the Content-Type of such a body."""
        types = {"raw": "image/jpeg", "json": "application/json"}
        return types.get(self.kind, f"multipart/form-data; boundary={BOUNDARY}")

    def encode(self, image: bytes) -> bytes:
        """Return the body of a request for one image."""
        if self.kind == "form":
            head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{self.field}"; filename="image.jpg"\r\n'
            return f"{head}Content-Type: image/jpeg\r\n\r\n".encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()
        if self.kind == "json":
            return json.dumps({self.field: base64.b64encode(image).decode()}).encode()
        return image


def draw(size: Size, folder: Path) -> list[Path]:
    """Return the files of all pictures of a size, in a subfolder; missing ones are drawn.

    Files are written atomically. Drawing one of 12 megapixels takes about 10 s.
    """
    subfolder = folder / f"{size.name}-{size.kilobytes:g}"
    subfolder.mkdir(parents=True, exist_ok=True)
    paths = [subfolder / f"{number:02d}.jpg" for number in range(size.count)]
    for number, path in enumerate(paths):
        if not path.is_file():
            with atomic.replacing(path) as part:
                part.write_bytes(jpeg_body(size.width, size.height, size.kilobytes, seed=number))
    return paths


def encode_all(paths: list[Path], encoding: Encoding, folder: Path) -> list[Path]:
    """Return the files of request bodies: the images if they are sent raw, otherwise files written to `folder`."""
    if encoding.kind == "raw":
        return paths
    folder = folder / f"{encoding.kind}-{encoding.field}" / paths[0].parent.name
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / f"{number:02d}.body" for number in range(len(paths))]
    for source, path in zip(paths, written, strict=True):
        path.write_bytes(encoding.encode(source.read_bytes()))
    return written
