"""Decoding on a device: JPEG files go there together, all else through the CPU, and every answer finds its place.

Without a GPU the same calls run on the CPU, where torchvision decodes with libjpeg in place of nvJPEG.
"""

import io
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from handlers.errors import BadImage, Busy, RequestError, TooLarge
from handlers.images import gpu_decoder, nvjpeg
from handlers.images.decoder import Decoder
from handlers.images.gpu_decoder import DeviceDecoder
from handlers.images.limits import DEFAULT_LIMITS, Limits
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from synthetic import places365
from tests.server.bombs import webp_of_one_colour
from tests.unit.test_classifier import png

SPEC = PreprocessSpec(image_size=64, resize="crop", crop_fraction=0.9)
CLOSE = 3.0  # levels of 255, on average over an image: nvJPEG repeats colours where libjpeg interpolates


def jpeg(seed: int = 0, size: tuple[int, int] = (80, 100), **options: Any) -> bytes:
    pixels = Image.open(io.BytesIO(places365.image(0, seed, 1, 0, 200))).resize(size)
    file = io.BytesIO()
    pixels.convert(options.pop("mode", "RGB")).save(file, "JPEG", **options)
    return file.getvalue()


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(3, exif=exif)


@pytest.fixture(params=["rgb", "grey"])
def decoders(request: pytest.FixtureRequest, device: torch.device) -> tuple[Decoder, DeviceDecoder]:
    """Return the decoder on the CPU, and that on the device beside it."""
    colours: dict[str, Any] = {"mean": (0.5,), "std": (0.25,)} if request.param == "grey" else {}
    spec = PreprocessSpec(image_size=64, resize="crop", crop_fraction=0.9, colour=request.param, **colours)
    cpu = Decoder(Preprocess(spec), Limits(max_pixels=100_000), 2)
    return cpu, DeviceDecoder(cpu, Preprocess(spec).to(device))


IMAGES = {
    "of several sizes": [jpeg(seed, size) for seed, size in enumerate([(80, 100), (80, 100), (300, 90), (64, 64)])],
    "grey": [jpeg(1, mode="L")],
    "progressive": [jpeg(1, progressive=True)],
    "of other colours": [jpeg(1, mode="CMYK")],
    "turned": [turned(number) for number in range(1, 9)],
    "of other formats": [png(1), png(2, (90, 70))],
    "small": [jpeg(1, (5, 4))],
}
WRONG = {
    "truncated": (jpeg()[:-300], BadImage),
    "without an end": (jpeg()[:-2], BadImage),
    "no image": (b"no image", BadImage),
    "empty": (b"", BadImage),
    "too large": (jpeg(0, (400, 300)), TooLarge),
}


@pytest.mark.parametrize("kind", IMAGES)
def test_images_are_those_that_the_cpu_gives(decoders: tuple[Decoder, DeviceDecoder], kind: str) -> None:
    cpu, ours = decoders
    images = IMAGES[kind]
    for mine, theirs in zip(ours.decode(images), cpu.decode(images), strict=True):
        assert isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor)
        assert mine.shape == theirs.shape and mine.dtype == torch.uint8
        assert mine.device == ours.preprocess.mean.device
        assert (mine.cpu().float() - theirs.float()).abs().mean() < CLOSE


def test_every_answer_finds_its_place(decoders: tuple[Decoder, DeviceDecoder]) -> None:
    cpu, ours = decoders
    images = [image for kind in IMAGES.values() for image in kind]
    mixed: list[bytes] = []
    for number, image in enumerate(images):
        mixed += [image, list(WRONG.values())[number % len(WRONG)][0]]
    found = ours.decode(mixed)
    for mine, theirs in zip(found[::2], cpu.decode(images), strict=True):
        assert isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor)
        assert (mine.cpu().float() - theirs.float()).abs().mean() < CLOSE
    for number, wrong in enumerate(found[1::2]):
        assert isinstance(wrong, list(WRONG.values())[number % len(WRONG)][1])


def test_the_cpu_reads_its_images_beside_the_gpu(
    decoders: tuple[Decoder, DeviceDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu, ours = decoders
    calls: list[tuple[str, Sequence[Any]]] = []
    decode = cpu.decode

    def watched(images: Sequence[Any]) -> list[Any]:
        calls.append((threading.current_thread().name, images))
        return decode(images)

    monkeypatch.setattr(cpu, "decode", watched)
    ours.decode([png(1), jpeg(1), png(2)])
    assert calls == [("beside_0", [png(1), png(2)])]


def test_nothing_is_nothing(decoders: tuple[Decoder, DeviceDecoder]) -> None:
    assert decoders[1].decode([]) == []


@pytest.mark.parametrize(
    "error", [nvjpeg.Unreadable("nvjpegDecode failed"), torch.OutOfMemoryError("CUDA out of memory")]
)
def test_what_the_gpu_fails_on_the_cpu_reads(
    decoders: tuple[Decoder, DeviceDecoder], error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> list[torch.Tensor]:
        raise error

    cpu, ours = decoders
    monkeypatch.setattr(nvjpeg, "decode", failing)
    images = [*IMAGES["of several sizes"], jpeg()[:300] + b"\xff\xd9"]
    *found, broken = ours.decode(images)
    assert isinstance(broken, RequestError)
    for mine, theirs in zip(found, cpu.decode(images[:-1]), strict=True):
        assert isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor) and torch.equal(mine.cpu(), theirs)


def test_a_file_that_only_decoding_shows_to_be_broken_costs_the_others_nothing(
    decoders: tuple[Decoder, DeviceDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = jpeg()
    table = data.index(b"\xff\xc4") + 5
    images = [*IMAGES["of several sizes"], data[:table] + b"\xff" * 16 + data[table + 16 :]]  # codes that cannot be
    assert nvjpeg.pixels_of(images[-1], DEFAULT_LIMITS)
    read: list[Sequence[Any]] = []
    decode = decoders[0].decode
    monkeypatch.setattr(decoders[0], "decode", lambda images: (read.append(images), decode(images))[1])  # type: ignore[func-returns-value]
    *found, broken = decoders[1].decode(images)
    assert isinstance(broken, BadImage)
    assert all(isinstance(each, torch.Tensor) for each in found)
    assert read == [images[-1:]]  # the CPU is asked about the broken one alone


def test_an_image_that_does_not_fit_beside_the_others_costs_them_nothing(
    decoders: tuple[Decoder, DeviceDecoder], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cpu, ours = decoders
    gpu_decoder._say.cache_clear()
    resize_all = ours.preprocess.resize_all

    def limited(images: Sequence[torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        if len(images) > 1 and any(image.shape[-1] == 300 for image in images):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return resize_all(images, dtype)

    monkeypatch.setattr(ours.preprocess, "resize_all", limited)
    images = IMAGES["of several sizes"]
    for mine, theirs in zip(ours.decode(images), cpu.decode(images), strict=True):
        assert isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor)
        assert (mine.cpu().float() - theirs.float()).abs().mean() < CLOSE
    assert caplog.text.count("falling back to CPU decoding: GPU out of memory") == 1


@pytest.mark.parametrize(
    ("said", "raised"),
    [
        ("Error while decoding JPEG images: CUDA out of memory. Tried to allocate 2.00 GiB", torch.OutOfMemoryError),
        ("Error while decoding JPEG images: nvjpegDecode failed: 3", nvjpeg.Unreadable),
    ],
)
def test_what_torchvision_says_of_a_full_memory_is_told_apart(
    said: str, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> list[torch.Tensor]:
        raise RuntimeError(said)

    monkeypatch.setattr("torchvision.io.decode_jpeg", failing)
    with pytest.raises(raised):
        nvjpeg.decode([jpeg()], "rgb", torch.device("cpu"))


def test_a_device_that_is_lost_is_not_taken_for_a_bad_image(
    decoders: tuple[Decoder, DeviceDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(decoders[1].preprocess, "resize_all", lost)
    with pytest.raises(RuntimeError, match="CUDA error"):
        decoders[1].decode([jpeg()])


def test_without_torchvision_the_cpu_reads_everything(
    decoders: tuple[Decoder, DeviceDecoder], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cpu, ours = decoders
    monkeypatch.setitem(sys.modules, "torchvision.io", None)
    nvjpeg.fault_of.cache_clear()
    try:
        without = DeviceDecoder(cpu, ours.preprocess)
    finally:
        nvjpeg.fault_of.cache_clear()
    monkeypatch.setattr(nvjpeg, "decode", None)  # is not asked again, batch for batch
    images = [image for kind in IMAGES.values() for image in kind]
    for mine, theirs in zip(without.decode(images), cpu.decode(images), strict=True):
        assert isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor) and torch.equal(mine.cpu(), theirs)
    assert [without.cost(image) for image in images] == [cpu.cost(image) for image in images]
    assert "falling back to CPU decoding of JPEG files: torchvision cannot be imported" in caplog.text


def test_the_gpu_reads_jpeg_files_and_no_others(
    decoders: tuple[Decoder, DeviceDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bytes] = []
    decode = nvjpeg.decode

    def watched(images: Sequence[bytes], *arguments: Any) -> list[torch.Tensor]:
        given.extend(images)
        return decode(images, *arguments)

    monkeypatch.setattr(nvjpeg, "decode", watched)
    decoders[1].decode([image for kind in IMAGES.values() for image in kind] + [wrong for wrong, _ in WRONG.values()])
    assert given == [*IMAGES["of several sizes"], *IMAGES["grey"], *IMAGES["turned"]]


def test_what_is_decoded_together_has_so_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_decoder, "PIXELS", 100)
    parts = gpu_decoder._parts([60, None, 40, 1, 500, None, 30, 70])
    assert list(parts) == [[0, 2], [3], [4], [6, 7]]


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        (lambda data: data, True),
        (lambda data: data + b"\0", False),
        (lambda data: data[:2] + b"\xff\xee\0\x0eAdobe\0d\0\0\0\0\1" + data[2:], True),  # YCbCr
        (lambda data: data[:2] + b"\xff\xee\0\x0eAdobe\0d\0\0\0\0\0" + data[2:], False),  # RGB
        (lambda data: data.replace(b"\xff\xc0", b"\xff\xc2", 1), False),
        (lambda data: data.replace(b"\xff\xc0", b"\xff\xc1", 1), False),
        (lambda data: data.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c", 1), False),  # 12 bits a sample
        (lambda data: data.replace(b"\3\1\x22\0\2\x11\1\3\x11", b"\3R\x22\0G\x11\1B\x11", 1), False),
        (lambda data: b"x" + data, False),
        (bytearray, True),
        (memoryview, True),
    ],
)
def test_the_gpu_takes_what_is_plain(change: Callable[[bytes], bytes], taken: bool) -> None:
    assert nvjpeg.pixels_of(change(jpeg(size=(80, 100))), DEFAULT_LIMITS) == (8000 if taken else None)


@pytest.mark.parametrize(("size", "pixels"), [((16, 16), 256), ((15, 16), None), ((16, 15), None)])
def test_the_gpu_takes_no_image_smaller_than_a_block(size: tuple[int, int], pixels: int | None) -> None:
    assert nvjpeg.pixels_of(jpeg(size=size), DEFAULT_LIMITS) == pixels


def test_what_is_over_a_limit_is_not_taken() -> None:
    data = simplejpeg.encode_jpeg(np.zeros((100, 100, 3), np.uint8))
    assert nvjpeg.pixels_of(data, Limits(max_pixels=9_999)) is None
    assert nvjpeg.pixels_of(data, Limits(max_bytes=len(data) - 1)) is None
    assert nvjpeg.pixels_of(data, Limits(max_pixels=10_000, max_bytes=len(data))) == 10_000


def test_images_that_the_device_decodes_cost_little(decoders: tuple[Decoder, DeviceDecoder]) -> None:
    ours, theirs = decoders
    for image in (jpeg(1), jpeg(1, progressive=True), png(1), webp_of_one_colour(300, 200)):
        there, here = theirs.cost(image), ours.cost(image)
        assert there.pixels == here.pixels
        assert 0 < there.seconds < here.seconds / 5 if image == jpeg(1) else there == here
    for image in (b"no image", png(1, (400, 400))):
        with pytest.raises(RequestError):
            theirs.cost(image)


def test_time_that_is_over_costs_the_images_of_the_processor(decoders: tuple[Decoder, DeviceDecoder]) -> None:
    decoder = decoders[1]
    decoder.allow(0)
    first, second = decoder.decode([jpeg(1), png(1)])
    assert isinstance(first, torch.Tensor) and isinstance(second, Busy)
    decoder.allow(10)
    assert all(isinstance(each, torch.Tensor) for each in decoder.decode([jpeg(1), png(1)]))
