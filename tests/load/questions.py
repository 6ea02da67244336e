"""What users of a load test send, and what must come back."""

import base64
import dataclasses
import json
import random
import struct
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.golden import Golden
from serving.client import Client
from serving.lifecycle.golden_check import GoldenCheck, WrongAnswer
from serving.store import model_store
from serving.store.model_store import ArchiveError

MOST = 4  # images in one request
INVALID_KEY = "InvalidKeyException"
BOUNDARY = "an-image-comes"


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """One request, and what it must get: answers to the golden `images` in it, in order, or a refusal.

    `token` stands in place of the server's own; `kind` is the type of the refusal, empty where any will do.
    """

    name: str
    path: str
    body: bytes
    content_type: str = "application/octet-stream"
    images: tuple[Golden, ...] = ()
    code: int = 200
    kind: str = ""
    token: str = ""


Make = Callable[[str, Sequence[Golden]], Question]  # a model and its images


class Exams:
    """The golden images of every version that the server has, from the archives in its model store.

    A version that comes while the load runs is looked up when it first answers. Threads may share it.

    Raises:
        ArchiveError: a version's archive is gone from the store, or has no golden images.
        ClientError: the server does not answer.
    """

    def __init__(self, client: Client, root: Path, models: Sequence[str] = ()) -> None:
        self._client = client
        self._store = root / model_store.FOLDER
        self._exams: dict[tuple[str, str], GoldenCheck] = {}
        self._lock = threading.Lock()
        self.models = list(models) or client.models()
        if not self.models:
            raise ArchiveError("the server serves no model: make serve")
        self._first = {model: client.describe(model).version for model in self.models}
        for model in self.models:
            for each in client.versions(model):
                self.of(model, each.version)

    def of(self, model: str, version: str) -> GoldenCheck:
        """Return what a version is asked, and held to."""
        with self._lock:
            if (model, version) not in self._exams:
                archive = model_store.find(model, version, self._store)
                precision = self._client.description(model, version)["precision"]
                exam = GoldenCheck(archive.golden(), archive.spec()["classes"], precision)
                if not exam.golden:
                    raise ArchiveError(f"{archive.path.name} has no golden images: export and archive it again")
                self._exams[model, version] = exam
            return self._exams[model, version]

    def images(self, model: str) -> Sequence[Golden]:
        """Return the images to ask a model for; every version must have them."""
        return self.of(model, self._first[model]).golden

    def check(self, question: Question, model: str, version: str, document: Any) -> None:
        """Hold an answer to what that version must say.

        Raises:
            WrongAnswer: it says something else; the message says of which version and image.
        """
        exam = self.of(model, version)
        known = {each.image: each for each in exam.golden}
        entries = [document] if len(question.images) == 1 else document["predictions"]
        if len(entries) != len(question.images):
            raise WrongAnswer(f"{model} {version}: {len(entries)} answers to {len(question.images)} images")
        for image, entry in zip(question.images, entries, strict=True):
            if image.image not in known:
                raise WrongAnswer(f"{model} {version} has other golden images: swap versions of one data set")
            try:
                exam.check(known[image.image], entry)
            except (WrongAnswer, TypeError) as error:
                raise WrongAnswer(f"{model} {version}: {error}") from error


def single(model: str, images: Sequence[Golden]) -> Question:
    """Return one image as the body."""
    image = random.choice(images)
    return Question("single", f"/predictions/{model}", image.image, images=(image,))


def several(model: str, images: Sequence[Golden]) -> Question:
    """Return a few images in one request: in the KServe v1 protocol, or as a form."""
    chosen = tuple(random.choices(images, k=random.randint(2, MOST)))
    if random.random() < 0.5:
        document = {"instances": [{"b64": base64.b64encode(each.image).decode()} for each in chosen]}
        path, body = f"/v1/models/{model}:predict", json.dumps(document).encode()
        return Question("several, JSON", path, body, "application/json", chosen)
    parts = b"".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{n}"; filename="{n}"\r\n\r\n'.encode()
        + each.image
        + b"\r\n"
        for n, each in enumerate(chosen)
    )
    body = parts + f"--{BOUNDARY}--\r\n".encode()
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    return Question("several, form", f"/predictions/{model}", body, kind, chosen)


def bad(model: str, images: Sequence[Golden]) -> Question:
    """Return what is no image, half of one, one that is far too large, one that is not served, or broken JSON."""
    image = random.choice(images).image
    code, body = random.choice(
        [
            (400, b"not an image"),
            (400, image[: len(image) // 2]),
            (400, b'{"instances": [{"b64": "!"}]}'),
            (413, _huge_png()),
            (415, b"\0\0\1\0\1\0" + bytes(64)),  # an icon
        ]
    )
    return Question(f"bad, {code}", f"/predictions/{model}", body, code=code)


def wrong_token(model: str, images: Sequence[Golden]) -> Question:
    """Return an image with a token that opens nothing."""
    image = random.choice(images).image
    path = f"/predictions/{model}"
    return Question("wrong token", path, image, code=400, kind=INVALID_KEY, token="wrong123")


def _huge_png(side: int = 60_000) -> bytes:
    """Return the header of a PNG of side x side pixels, with next to nothing in it."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


MAKES: Mapping[str, Make] = {"single": single, "several": several, "bad": bad, "token": wrong_token}


def mix(text: str) -> list[Make]:
    """Return what makes questions, each as often as `single=70,several=20` says.

    Raises:
        ValueError: that names something else, or nothing.
    """
    found: list[Make] = []
    for part in text.split(","):
        name, _, weight = part.partition("=")
        if name not in MAKES or not weight.isdecimal():
            raise ValueError(f"{part!r} is no weight: write {','.join(f'{each}=1' for each in MAKES)}")
        found += [MAKES[name]] * int(weight)
    if not found:
        raise ValueError(f"{text!r} asks for nothing")
    return found
