"""Does preparing stay linear in time and constant in memory? 1,000, 10,000 and 100,000 generated images.

    python -m benchmarks.prepare [--images 1000 10000 100000] [--processes 2] [--folder <a disk with space>]

A separate process prepares each number of images from class folders of different 64 x 64 JPEG files. Time is that of
reading, decoding and finishing; the seconds in which the decoding processes start, the same for any number, are
separate. Memory is the highest sum, over the process and all its descendants, of anonymous memory (Pss_Anon: a page
that processes share counts once). Prints a table and, as its last line, one JSON document; writes it to
benchmarks/results/prepare.json. Exit status 1 where the last number costs more than 1.2 times the first.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import simplejpeg

from benchmarks.harness import console
from benchmarks.result import TRAINING, Origin
from training.data.prepare import prepare
from training.data.recipe import Recipe

RESULT = Path("benchmarks/results/prepare.json")
LIMIT = 1.2
_CLASSES = 10
_SIDE = 64
_SECONDS_BETWEEN_SAMPLES = 0.1


def generate(raw: Path, images: int, seed: int = 0) -> None:
    """Write different JPEG files of 8 x 8 patches of random colour, evenly over the classes."""
    random = np.random.default_rng(seed)
    for label in range(_CLASSES):
        (raw / f"class {label}").mkdir(parents=True)
    for number in range(images):
        patches = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pixels = np.ascontiguousarray(patches.repeat(_SIDE // 8, 0).repeat(_SIDE // 8, 1))
        path = raw / f"class {number % _CLASSES}" / f"{number:07d}.jpg"
        path.write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))


def anonymous_bytes(process: psutil.Process) -> int:
    """Return the anonymous memory of a process and all its descendants, in bytes."""
    total = 0
    for member in (process, *process.children(recursive=True)):
        try:
            lines = Path(f"/proc/{member.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:  # ended meanwhile
            continue
        total += next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:")), 0)
    return total


def peak_anonymous(process: "subprocess.Popen[Any]", seconds: float) -> int:
    """Wait for a process; return the highest anonymous memory of it and its descendants, in bytes.

    It is sampled every `seconds`; a sample takes some 50 ms of a core.
    """
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous_bytes(psutil.Process(process.pid)))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
    return peak


def measure(folder: Path, images: int, processes: int) -> dict[str, Any]:
    """Generate images, prepare them in a child process, and sample its memory."""
    raw = folder / f"raw-{images}"
    generate(raw, images)
    command = [sys.executable, "-m", "benchmarks.prepare", "--one", str(raw), "--processes", str(processes)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, process = 0, psutil.Process(child.pid)
    while True:
        try:
            output, _ = child.communicate(timeout=_SECONDS_BETWEEN_SAMPLES)
            break
        except subprocess.TimeoutExpired:
            peak = max(peak, anonymous_bytes(process))
    if child.returncode:
        raise RuntimeError(f"preparing {images} images failed with exit status {child.returncode}")
    seconds: dict[str, float] = json.loads(output.splitlines()[-1])
    working = sum(time for phase, time in seconds.items() if phase != "starting")
    return {
        "images": images,
        "seconds": {phase: round(time, 3) for phase, time in seconds.items()},
        "milliseconds_per_image": round(1000 * working / images, 4),
        "peak_anonymous_mb": round(peak / 1e6, 1),
    }


def one(raw: Path, processes: int) -> None:
    """Prepare, and print the seconds of each phase as JSON; the command that `measure` runs."""
    recipe = Recipe(name="bench", reader="class_folders", raw=raw, image_size=_SIDE, store="decoded")
    # `raw` is a new folder each time, so that no step is skipped as up to date.
    print(json.dumps(prepare(recipe, raw.with_name(f"prepared-{raw.name}"), processes=processes)))


def show(runs: list[dict[str, Any]]) -> None:
    """Print the table."""
    phases = list(runs[0]["seconds"])
    rows = []
    for run in runs:
        times = (f"{run['seconds'][phase]:.2f}" for phase in phases)
        per_image, memory = f"{run['milliseconds_per_image']:.3f}", f"{run['peak_anonymous_mb']:.0f}"
        rows.append((f"{run['images']:,}", *times, per_image, memory))
    head = ("images", *(f"{phase} s" for phase in phases), "ms per image", "anonymous MB")
    console.print_table("prepare", head, rows)


def main() -> int:
    """Run the command line; return its exit status."""
    parser = console.parser("prepare", __doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="folder for temporary images and stores")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        one(options.one, options.processes)
        return 0
    origin = Origin("prepare", sys.argv[1:], code=TRAINING)
    runs = []
    for images in options.images:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            runs.append(measure(Path(folder), images, options.processes))
        print(f"{images:,} images: {runs[-1]['milliseconds_per_image']} ms each", file=sys.stderr)
    first, last = runs[0], runs[-1]
    ratios = {name: round(last[name] / first[name], 3) for name in ("milliseconds_per_image", "peak_anonymous_mb")}
    show(runs)
    figures = {"processes": options.processes, "runs": runs, "ratios": ratios, "limit": LIMIT}
    return origin.publish(figures, RESULT if len(runs) > 1 else None, failed=max(ratios.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
