"""Which decoder is fastest, and which pixels are right? Encoded bytes to uint8 of 3 x 224 x 224, on one core.

    python -m benchmarks.decoders [--rounds 15] [--device cuda]

Each decoder is used as documented. Pillow, kornia-rs and OpenCV resize too; our `Preprocess` resizes the pixels of the
other decoders. All take turns. Differences are those of the resized pixels, in levels of 255, from full decoding
(libjpeg-turbo with accurate transform and smooth colour; Pillow for other formats) with our resizing. `--device cuda`
adds nvJPEG. The result names decoders that are not installed, with the remedy.

Prints a table and, as its last line, one JSON document; writes it to benchmarks/results/decoders.json.
"""

import importlib
import io
import itertools
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image

from benchmarks.harness import console
from benchmarks.interleave import Work, one_core, take_turns, versions
from benchmarks.result import Origin
from handlers.images.decoding import decode
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from synthetic.photograph import jpeg_body
from training.run import machine

RESULT = Path("benchmarks/results/decoders.json")
SIDE, TURN, BATCH = 224, 0.02, 32  # pixels, seconds, images in a batch of nvJPEG
# width, height, kilobytes as JPEG, number of pictures
SIZES = {"200 x 200": (200, 200, 5.0, 4), "640 x 480": (640, 480, 28.0, 4), "4000 x 3000": (4000, 3000, 1100.0, 1)}
OTHERS: dict[str, dict[str, int]] = {"PNG": {}, "WEBP": {"quality": 80}}  # not in the largest size
FAITHFUL = 10  # largest difference, in levels of 255, of a decoder that may count as the best
PACKAGES = ("torch", "torchvision", "torchcodec", "simplejpeg", "pillow", "kornia-rs", "opencv-python-headless")

PREPROCESS = Preprocess(PreprocessSpec(image_size=SIDE))


def sightline(data: bytes) -> torch.Tensor:
    """Decode as the handler does."""
    return PREPROCESS.resize(decode(data, smallest=PREPROCESS.shortest_side))


def simplejpeg_full(data: bytes) -> torch.Tensor:
    """Decode every pixel: the reference of differences."""
    return _resized(simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False))


def simplejpeg_scaled(data: bytes) -> torch.Tensor:
    """Decode at the smallest of libjpeg's scales, in eighths, that is no smaller than the result."""
    return _resized(simplejpeg.decode_jpeg(data, "RGB", min_height=SIDE, min_width=SIDE))


def pillow(data: bytes, *, draft: bool = False) -> torch.Tensor:
    """Decode and resize with Pillow; `draft`: at a half, a quarter or an eighth, no smaller than the result."""
    image = Image.open(io.BytesIO(data))
    if draft:
        image.draft("RGB", (SIDE, SIDE))
    resized = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def torchvision_io(data: bytes) -> torch.Tensor:
    """Decode with torchvision, which detects JPEG, PNG and WebP."""
    from torchvision.io import ImageReadMode, decode_image

    return PREPROCESS.resize(decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))


def torchcodec(data: bytes) -> torch.Tensor:
    """Decode with TorchCodec, the successor that torchvision names."""
    library: Any = importlib.import_module("torchcodec.decoders")
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return PREPROCESS.resize(library.decode_image(encoded, mode=library.ImageReadMode.RGB))


def kornia_rs(data: bytes, *, ours: bool = False) -> torch.Tensor:
    """Decode and resize with kornia-rs, whose bilinear form has no antialiasing; `ours`: with our resizing."""
    library: Any = importlib.import_module("kornia_rs")
    if data.startswith(b"\xff\xd8"):
        pixels = library.io.ImageDecoder().decode(data)
    else:
        pixels = library.image.Image.decode(data).to_numpy()
    if ours:
        return _resized(pixels)
    return torch.from_numpy(library.imgproc.resize(pixels, (SIDE, SIDE), "bilinear")).permute(2, 0, 1)


def opencv(data: bytes) -> torch.Tensor:
    """Decode and resize with OpenCV, by the mean of an area, as it recommends for downscaling."""
    library: Any = importlib.import_module("cv2")
    library.setNumThreads(1)
    pixels = library.imdecode(np.frombuffer(data, np.uint8), library.IMREAD_COLOR_RGB)
    resized = library.resize(pixels, (SIDE, SIDE), interpolation=library.INTER_AREA)
    return torch.from_numpy(resized).permute(2, 0, 1)


def nvjpeg(data: Sequence[bytes]) -> torch.Tensor:
    """Decode and resize a batch of JPEGs on the GPU, (B, 3, S, S), and wait for it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(body), dtype=torch.uint8) for body in data]
    decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device="cuda")
    resized = torch.stack([PREPROCESS.resize(image) for image in decoded])
    torch.cuda.synchronize()
    return resized


def _resized(pixels: Any) -> torch.Tensor:
    return PREPROCESS.resize(torch.from_numpy(pixels).permute(2, 0, 1))


DECODERS: dict[str, Callable[[bytes], torch.Tensor]] = {
    "sightline": sightline,
    "simplejpeg": simplejpeg_full,
    "simplejpeg, scaled": simplejpeg_scaled,
    "Pillow": pillow,
    "Pillow, draft": lambda data: pillow(data, draft=True),
    "torchvision": torchvision_io,
    "TorchCodec": torchcodec,
    "kornia-rs": kornia_rs,
    "kornia-rs, our resizing": lambda data: kornia_rs(data, ours=True),
    "OpenCV": opencv,
}
JPEG_ONLY = ("simplejpeg", "simplejpeg, scaled", "Pillow, draft")
# Modules and packages that Sightline does not install, or only as dependencies of other packages.
NEEDS = {
    "TorchCodec": ("torchcodec.decoders", "torchcodec"),
    "kornia-rs": ("kornia_rs", "kornia-rs"),
    "kornia-rs, our resizing": ("kornia_rs", "kornia-rs"),
    "OpenCV": ("cv2", "opencv-python-headless"),
}


def missing() -> dict[str, str]:
    """Return the decoders that cannot be imported, each with a remedy."""
    remedies = {}
    for name, (module, package) in NEEDS.items():
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:  # not installed, or a library that it needs is missing
            state = "not installed" if isinstance(error, ModuleNotFoundError) else "cannot be loaded"
            remedies[name] = f"{state}: uv pip install {package}"
    return remedies


def pictures(size: str, kind: str) -> list[bytes]:
    """Return photograph-like pictures of one of `SIZES`; other formats have the pixels of the JPEG."""
    width, height, kilobytes, count = SIZES[size]
    bodies = [jpeg_body(width, height, kilobytes, seed) for seed in range(count)]
    return bodies if kind == "JPEG" else [_converted(body, kind) for body in bodies]


def _converted(body: bytes, kind: str) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(body)).save(file, kind, **OTHERS[kind])
    return file.getvalue()


def compare(kind: str, size: str, bodies: Sequence[bytes], rounds: int, device: str) -> list[dict[str, Any]]:
    """Return one row a decoder for pictures of one format and size."""
    excluded = {*missing(), *(JPEG_ONLY if kind != "JPEG" else ())}
    decoders = {name: decoder for name, decoder in DECODERS.items() if name not in excluded}
    full = simplejpeg_full if kind == "JPEG" else lambda data: PREPROCESS.resize(decode(data))
    expected = torch.stack([full(body) for body in bodies]).int()
    answers = {name: torch.stack([decoder(body) for body in bodies]) for name, decoder in decoders.items()}
    works: dict[str, Work] = {name: partial(_decode_all, decoder, bodies) for name, decoder in decoders.items()}
    images = dict.fromkeys(works, len(bodies))
    if device == "cuda" and kind == "JPEG":
        batch = [bodies[number % len(bodies)] for number in range(BATCH)]
        answers["nvJPEG"], works["nvJPEG"], images["nvJPEG"] = nvjpeg(bodies).cpu(), partial(nvjpeg, batch), BATCH
    about = {"format": kind, "size": size, "bytes": round(statistics.mean(map(len, bodies)))}
    return [
        {**about, "decoder": name, **_figures([time / images[name] for time in seconds], answers[name] - expected)}
        for name, seconds in take_turns(works, rounds, TURN).items()
    ]


def _decode_all(decoder: Callable[[bytes], torch.Tensor], bodies: Sequence[bytes]) -> None:
    for body in bodies:
        decoder(body)


def _figures(seconds: Sequence[float], difference: torch.Tensor) -> dict[str, Any]:
    times = [round(1000 * time, 4) for time in seconds]
    return {
        "milliseconds": round(statistics.median(times), 4),
        "range": [min(times), max(times)],
        "largest_difference": int(difference.abs().max()),
        "mean_difference": round(float(difference.abs().float().mean()), 3),
        "rounds": times,
    }


def best(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return, for each format and size, the fastest decoder with no pixel further off than `FAITHFUL`."""
    fastest: dict[str, str] = {}
    for row in sorted(rows, key=lambda row: float(row["milliseconds"])):
        if row["largest_difference"] <= FAITHFUL:
            fastest.setdefault(f"{row['format']} {row['size']}", row["decoder"])
    return fastest


def show(document: dict[str, Any]) -> None:
    """Print the table."""
    rows = []
    for row in document["rows"]:
        key = f"{row['format']} {row['size']}"
        name = row["decoder"] + (" *" if document["best"].get(key) == row["decoder"] else "")
        times = f"{row['milliseconds']:.3f}", "{:.3f} to {:.3f}".format(*row["range"])
        rows.append((key, name, *times, row["largest_difference"], f"{row['mean_difference']:.2f}"))
    head = ("image", "decoder", "ms, median", "range", "largest difference", "mean")
    console.print_table("decode and resize", head, rows)
    for name, remedy in document["missing"].items():
        print(f"{name}: {remedy}")


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = console.parser("decoders", __doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(arguments)
    origin = Origin("decoders", arguments, code=("handlers",))
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda needs a GPU, and torch finds none here", file=sys.stderr)
        return 1
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # kornia-rs reads it when it first starts threads
    rows = []
    with one_core(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities of TorchVision")
        for kind, size in itertools.product(("JPEG", *OTHERS), SIZES):
            if kind == "JPEG" or size != "4000 x 3000":
                rows += compare(kind, size, pictures(size, kind), options.rounds, options.device)
    figures = {
        "side": SIDE,
        "number_of_rounds": options.rounds,
        "faithful": FAITHFUL,
        "machine": {**machine(options.device), "cores_used": 1},
        "versions": versions(PACKAGES),
        "missing": missing(),
        "best": best(rows),
        "rows": rows,
    }
    show(figures)
    return origin.publish(figures, RESULT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
