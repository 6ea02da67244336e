"""Which decoder is fastest, and whose pixels are right? Encoded bytes to uint8 of 3 x 224 x 224, on one core.

    python -m benchmarks.decoders [--rounds 15] [--device cuda]

Each decoder is used as its own documents say. Pillow, kornia-rs and OpenCV resize too; what the others give is resized
by our `Preprocess`. All take turns. Differences are of the resized pixels, in levels of 255, from decoding in full
(libjpeg-turbo with accurate transform and smooth colour; Pillow for what is not JPEG) and our resizing. `--device cuda`
adds nvJPEG. What is not installed is named with the remedy.

Prints a table and, as its last line, one JSON document; writes it to benchmarks/results/decoders.json.
"""

import argparse
import importlib
import io
import json
import os
import statistics
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.result import Origin
from benchmarks.rounds import Work, one_core, take_turns, versions
from handlers.atomic import write_json
from handlers.decoding import decode
from handlers.preprocessing import Preprocess
from handlers.spec import PreprocessSpec
from training.generate.photograph import jpeg_body
from training.train import machine

RESULT = Path("benchmarks/results/decoders.json")
SIDE, TURN, BATCH = 224, 0.02, 32  # pixels, seconds, images that nvJPEG gets at once
# width, height, kilobytes as JPEG, how many pictures
SIZES = {"200 x 200": (200, 200, 5.0, 4), "640 x 480": (640, 480, 28.0, 4), "4000 x 3000": (4000, 3000, 1100.0, 1)}
OTHERS: dict[str, dict[str, int]] = {"PNG": {}, "WEBP": {"quality": 80}}  # not in the largest size
FAITHFUL = 10  # levels of 255 that a pixel may be off for a decoder to be called the best
PACKAGES = ("torch", "torchvision", "torchcodec", "simplejpeg", "pillow", "kornia-rs", "opencv-python-headless")

PREPROCESS = Preprocess(PreprocessSpec(image_size=SIDE))


def sightline(data: bytes) -> torch.Tensor:
    """Decode as the handler does."""
    return PREPROCESS.resize(decode(data, smallest=PREPROCESS.shortest_side))


def simplejpeg_full(data: bytes) -> torch.Tensor:
    """Decode every pixel: what differences are measured from."""
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
    """Decode with torchvision, which tells JPEG, PNG and WebP apart by itself."""
    from torchvision.io import ImageReadMode, decode_image

    return PREPROCESS.resize(decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))


def torchcodec(data: bytes) -> torch.Tensor:
    """Decode with TorchCodec, which torchvision names as its successor."""
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
    """Decode and resize with OpenCV, by the mean of an area, as it recommends where images shrink."""
    library: Any = importlib.import_module("cv2")
    library.setNumThreads(1)
    pixels = library.imdecode(np.frombuffer(data, np.uint8), library.IMREAD_COLOR_RGB)
    resized = library.resize(pixels, (SIDE, SIDE), interpolation=library.INTER_AREA)
    return torch.from_numpy(resized).permute(2, 0, 1)


def nvjpeg(data: Sequence[bytes]) -> torch.Tensor:
    """Decode and resize a batch of JPEGs on the GPU, (B, 3, S, S), and wait for it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    encoded = [torch.frombuffer(bytearray(each), dtype=torch.uint8) for each in data]
    decoded = decode_jpeg(encoded, mode=ImageReadMode.RGB, device="cuda")
    resized = torch.stack([PREPROCESS.resize(each) for each in decoded])
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
# Module and package of what Sightline does not install, or only by way of another package.
NEEDS = {
    "TorchCodec": ("torchcodec.decoders", "torchcodec"),
    "kornia-rs": ("kornia_rs", "kornia-rs"),
    "kornia-rs, our resizing": ("kornia_rs", "kornia-rs"),
    "OpenCV": ("cv2", "opencv-python-headless"),
}


def missing() -> dict[str, str]:
    """Return the decoders that cannot be imported, with what to do."""
    found = {}
    for name, (module, package) in NEEDS.items():
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:  # not there, or without a library that it needs
            there = "not installed" if isinstance(error, ModuleNotFoundError) else "cannot be loaded"
            found[name] = f"{there}: uv pip install {package}"
    return found


def pictures(size: str, kind: str) -> list[bytes]:
    """Return photograph-like pictures of one of `SIZES`; what is not JPEG holds the same pixels as the JPEG."""
    width, height, kilobytes, count = SIZES[size]
    bodies = [jpeg_body(width, height, kilobytes, seed) for seed in range(count)]
    if kind == "JPEG":
        return bodies
    encoded = []
    for body in bodies:
        file = io.BytesIO()
        Image.open(io.BytesIO(body)).save(file, kind, **OTHERS[kind])
        encoded.append(file.getvalue())
    return encoded


def compare(kind: str, size: str, bodies: Sequence[bytes], rounds: int, device: str) -> list[dict[str, Any]]:
    """Return one row a decoder for pictures of one format and size."""
    absent = missing()
    left_out = {*absent, *(JPEG_ONLY if kind != "JPEG" else ())}
    chosen = {name: each for name, each in DECODERS.items() if name not in left_out}
    full = simplejpeg_full if kind == "JPEG" else lambda data: PREPROCESS.resize(decode(data))
    expected = torch.stack([full(body) for body in bodies]).int()
    answers = {name: torch.stack([each(body) for body in bodies]) for name, each in chosen.items()}
    works: dict[str, Work] = {
        name: lambda each=each: [each(body) for body in bodies]  # type: ignore[misc]
        for name, each in chosen.items()
    }
    images = dict.fromkeys(works, len(bodies))
    if device == "cuda" and kind == "JPEG":
        batch = [bodies[number % len(bodies)] for number in range(BATCH)]
        answers["nvJPEG"], works["nvJPEG"], images["nvJPEG"] = nvjpeg(bodies).cpu(), lambda: nvjpeg(batch), BATCH
    rows = []
    for name, seconds in take_turns(works, rounds, TURN).items():
        difference = (answers[name].int() - expected).abs()
        times = [round(1000 * each / images[name], 4) for each in seconds]
        rows.append(
            {
                "format": kind,
                "size": size,
                "bytes": round(statistics.mean(map(len, bodies))),
                "decoder": name,
                "milliseconds": round(statistics.median(times), 4),
                "range": [min(times), max(times)],
                "largest_difference": int(difference.max()),
                "mean_difference": round(float(difference.float().mean()), 3),
                "rounds": times,
            }
        )
    return rows


def best(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return, for each format and size, the fastest decoder with no pixel further off than `FAITHFUL`."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: float(row["milliseconds"])):
        if row["largest_difference"] <= FAITHFUL:
            chosen.setdefault(f"{row['format']} {row['size']}", row)
    return {key: row["decoder"] for key, row in chosen.items()}


def show(document: dict[str, Any]) -> None:
    """Print the table."""
    table = Table("image", "decoder", "ms, median", "range", "largest difference", "mean", title="decode and resize")
    for row in document["rows"]:
        key = f"{row['format']} {row['size']}"
        name = row["decoder"] + (" *" if document["best"].get(key) == row["decoder"] else "")
        spread = "{:.3f} to {:.3f}".format(*row["range"])
        far = str(row["largest_difference"]), f"{row['mean_difference']:.2f}"
        table.add_row(key, name, f"{row['milliseconds']:.3f}", spread, *far)
    console = Console(width=120, markup=False, emoji=False)
    console.print(table)
    for name, why in document["missing"].items():
        console.print(f"{name}: {why}", highlight=False)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="fewer write no result")
    options = parser.parse_args(arguments)
    origin = Origin("decoders", arguments, code=("handlers",))
    if options.device == "cuda" and not torch.cuda.is_available():
        print("error: --device cuda needs a GPU, and torch finds none here", file=sys.stderr)
        return 1
    os.environ.setdefault("RAYON_NUM_THREADS", "1")  # kornia-rs reads it when it first starts threads
    rows = []
    with one_core(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The image decoding and encoding capabilities of TorchVision")
        for kind in ("JPEG", *OTHERS):
            for size in options.sizes:
                if kind == "JPEG" or size != "4000 x 3000":
                    rows += compare(kind, size, pictures(size, kind), options.rounds, options.device)
    document = {
        "benchmark": "decoders",
        **origin.document(options.device),
        "side": SIDE,
        "number_of_rounds": options.rounds,
        "faithful": FAITHFUL,
        "machine": {**machine(options.device), "cores_used": 1},
        "versions": versions(PACKAGES),
        "missing": missing(),
        "best": best(rows),
        "rows": rows,
    }
    show(document)
    if options.sizes == list(SIZES):
        write_json(RESULT, document)
    print(json.dumps(document))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
