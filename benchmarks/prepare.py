"""Does preparing stay linear in time and flat in memory? 1,000, 10,000 and 100,000 generated images.

    python -m benchmarks.prepare [--images 1000 10000 100000] [--processes 2] [--folder <where there is room>]

Each number is prepared by a process of its own from class folders of 64 x 64 JPEG files, no two alike. Time is that of
reading, decoding and finishing; the seconds in which the decoding processes start, the same for any number, are told
apart. Memory is the highest sum, over the process and all below it, of anonymous memory (Pss_Anon: a page that
processes share counts once). Prints a table and, as its last line, one JSON document; writes it to
benchmarks/results/prepare.json. Exit status 1 where the last number costs more than 1.2 times the first.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import simplejpeg
from rich.console import Console
from rich.table import Table

from benchmarks.result import TRAINING, Origin
from handlers.atomic import write_json
from training.prepare import prepare
from training.progress import plain_console
from training.recipe import Recipe

RESULT = Path("benchmarks/results/prepare.json")
LIMIT = 1.2
_CLASSES = 10
_SIDE = 64
_SECONDS_BETWEEN_SAMPLES = 0.1


def generate(raw: Path, images: int, seed: int = 0) -> None:
    """Write so many JPEG files, evenly over the classes: 8 x 8 patches of random colour, different in each."""
    random = np.random.default_rng(seed)
    for label in range(_CLASSES):
        (raw / f"class {label}").mkdir(parents=True)
    for number in range(images):
        patches = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        pixels = np.ascontiguousarray(patches.repeat(_SIDE // 8, 0).repeat(_SIDE // 8, 1))
        path = raw / f"class {number % _CLASSES}" / f"{number:07d}.jpg"
        path.write_bytes(simplejpeg.encode_jpeg(pixels, quality=90))


def anonymous_bytes(process: psutil.Process) -> int:
    """Return the anonymous memory of a process and all below it, in bytes."""
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            lines = Path(f"/proc/{one.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except OSError:  # ended meanwhile
            continue
        total += next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:")), 0)
    return total


def measure(folder: Path, images: int, processes: int) -> dict[str, Any]:
    """Generate, prepare in a process of its own, and watch it."""
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
    working = sum(spent for stage, spent in seconds.items() if stage != "starting")
    return {
        "images": images,
        "seconds": {stage: round(spent, 3) for stage, spent in seconds.items()},
        "milliseconds_per_image": round(1000 * working / images, 4),
        "peak_anonymous_mb": round(peak / 1e6, 1),
    }


def one(raw: Path, processes: int) -> None:
    """Prepare, and print the seconds of each stage as JSON; what `measure` runs."""
    recipe = Recipe(name="bench", reader="class_folders", raw=raw, image_size=_SIDE, store="decoded")
    # `raw` is another folder each time, so nothing is up to date.
    print(json.dumps(prepare(recipe, raw.with_name(f"prepared-{raw.name}"), processes=processes)))


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where images and stores are written for a while")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        one(arguments.one, arguments.processes)
        return 0
    origin = Origin("prepare", sys.argv[1:], code=TRAINING)
    console, runs = plain_console(), []
    for images in arguments.images:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            runs.append(measure(Path(folder), images, arguments.processes))
        console.print(f"{images:,} images: {runs[-1]['milliseconds_per_image']} ms each")
    first, last = runs[0], runs[-1]
    ratios = {name: round(last[name] / first[name], 3) for name in ("milliseconds_per_image", "peak_anonymous_mb")}
    document = {
        "benchmark": "prepare",
        **origin.document(),
        "processes": arguments.processes,
        "runs": runs,
        "ratios": ratios,
        "limit": LIMIT,
    }
    _print_table(runs)
    if len(runs) > 1:
        write_json(RESULT, document)
    print(json.dumps(document))
    return 0 if max(ratios.values()) <= LIMIT else 1


def _print_table(runs: list[dict[str, Any]]) -> None:
    stages = list(runs[0]["seconds"])
    table = Table("images", *(f"{stage} s" for stage in stages), "ms per image", "anonymous MB")
    for run in runs:
        spent = (f"{run['seconds'][stage]:.2f}" for stage in stages)
        table.add_row(
            f"{run['images']:,}", *spent, f"{run['milliseconds_per_image']:.3f}", f"{run['peak_anonymous_mb']:.0f}"
        )
    Console(width=110, markup=False, emoji=False).print(table)


if __name__ == "__main__":
    sys.exit(main())
