"""Bulk prediction: its rate against the same parts without a table, its memory, and what a kill costs.

    python -m benchmarks.score [--images 20000 200000] [--kills 20] [--rounds 3] [--folder <a disk with space>]

`make score` classifies folders of different generated JPEG files of 64 x 64 with the narrow ResNet-18-D at 64 x 64.

- Rate: the ceiling reads, decodes and classifies the same files in as many processes, and keeps no answer. Both take
  turns on the smaller number of images, then each classifies the larger one once. Both include the start of the
  processes.
- Memory: the highest anonymous memory of all processes (see `benchmarks.prepare`), for both numbers of images.
- Kills: the command on the larger number is killed (SIGKILL) after random times and started again; its table is
  compared with that of the undisturbed run.

Prints the figures and, as its last line, one JSON document; writes it to benchmarks/results/score.json.
"""

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console, resnet, small_server
from benchmarks.prepare import generate, peak_anonymous
from benchmarks.result import Origin
from handlers import golden
from handlers.classifier import Classifier
from handlers.machine import cores
from handlers.network import torchscript
from handlers.run_folder import RUNS, RunFolder
from pipeline import score
from pipeline.scoring import chunk, listing
from pipeline.scoring.chunk import Chunk, Job
from pipeline.scoring.listing import ImageFile
from serving.store import local_model
from training.data.decoders import Pool

RESULT = Path("benchmarks/results/score.json")
ROOT = Path(__file__).parents[1]
NAME, UNDISTURBED = "small", "undisturbed"
CODE = ("handlers", "pipeline/score.py", "pipeline/scoring")
SECONDS_BETWEEN_SAMPLES = 2.0  # more often, the rate would miss what they take
LONGEST_RUN = 8.0  # seconds until a kill
GOALS = {"rate": 0.9, "memory": 1.1}


def write_model(home: Path) -> None:
    """Write the run `small` below `home`, with random weights and golden images."""
    run = RunFolder(home / RUNS / NAME)
    run.path.mkdir(parents=True)
    spec = resnet.spec(side=small_server.SIDE)
    torchscript.save(small_server.network(len(spec.classes), 0), spec, run.model)
    examples = {f"{number}.jpg": image for number, image in enumerate(small_server.images(4))}
    golden.write(golden.of(Classifier(run.model), examples), run.golden)


@contextlib.contextmanager
def command(home: Path, source: str, out: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `make score` in a process and its children; all of them have ended when the block ends."""
    program = "from pathlib import Path; from pipeline import score; "
    program += f"score.score({NAME!r}, {source!r}, out=Path({out!r}))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=home, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def scored(home: Path, source: str, out: str) -> tuple[float, int]:
    """Return the seconds of an undisturbed command, and its highest anonymous memory in bytes.

    Raises:
        RuntimeError: it failed.
    """
    started = time.perf_counter()
    with command(home, source, out) as process:
        peak = peak_anonymous(process, SECONDS_BETWEEN_SAMPLES)
        if process.returncode:
            raise RuntimeError(f"make score failed with exit status {process.returncode}")
    return time.perf_counter() - started, peak


def classify(part: Chunk) -> int:
    """Read and classify the images of a chunk; return their number."""
    classifier, limit = chunk.classifier_of(part.job)
    images = [ImageFile.parse(line) for line in part.lines]
    for first in range(0, len(images), chunk.CPU_BATCH):
        classifier.classify([image.read(limit) for image in images[first : first + chunk.CPU_BATCH]])
    return len(images)


def ceiling(home: Path, source: str) -> float:
    """Return the seconds in which the processes classify all images of a list and keep nothing."""
    listing.write(str(home / source), home / "ceiling.jsonl")
    started = time.perf_counter()
    with contextlib.chdir(home), local_model.opened(NAME) as model:
        job = Job(home, model.weights.absolute(), json.dumps(model.settings), NAME, "", "", False)
        with Pool(cores()) as pool:
            chunks = (Chunk(job, 0, lines) for lines in listing.read(home / "ceiling.jsonl", score.ROWS[1]))
            sum(pool.map(classify, chunks))
    return time.perf_counter() - started


def rates(home: Path, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Return images a second of both, for the smaller number in turns and the larger one once; and the memory."""
    small, large = str(sizes[0]), str(sizes[-1])
    turns, peaks = [], {}
    for number in range(rounds):
        best = ceiling(home, small)
        seconds, peaks[small] = scored(home, small, f"turn-{number}")
        turns.append({"ceiling": sizes[0] / best, "score": sizes[0] / seconds})
        print(f"{sizes[0]:,} images: {turns[-1]}", file=sys.stderr)
    best = ceiling(home, large)
    seconds, peaks[large] = scored(home, large, UNDISTURBED)
    whole = {"ceiling": sizes[-1] / best, "score": sizes[-1] / seconds}
    print(f"{sizes[-1]:,} images: {whole}", file=sys.stderr)
    return {
        "turns": turns,
        "ratio_of_turns": statistics.median(turn["score"] / turn["ceiling"] for turn in turns),
        "large": whole,
        "ratio": whole["score"] / whole["ceiling"],
        "peak_anonymous_mb": {size: round(peak / 1e6, 1) for size, peak in peaks.items()},
        "ratio_of_memory": peaks[large] / peaks[small],
    }


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a table, in the order of their images."""
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(folder).to_pylist()
    return sorted(rows, key=lambda row: str(row["image"]))


def kills(home: Path, source: str, count: int, seed: int) -> dict[str, Any]:
    """Kill the command `count` times after random times, let it finish, and compare the tables."""
    chance, carried_out = random.Random(seed), 0
    for _ in range(count):
        with command(home, source, "killed") as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.5, LONGEST_RUN))
            carried_out += process.poll() is None
    scored(home, source, "killed")
    killed, undisturbed = rows_of(home / "killed"), rows_of(home / UNDISTURBED)
    names = [row["image"] for row in killed]
    return {
        "images": len(undisturbed),
        "kills": carried_out,
        "rows": len(killed),
        "images_in_two_rows": len(names) - len(set(names)),
        "equal": killed == undisturbed,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = console.parser("score", __doc__)
    parser.add_argument("--images", type=int, nargs=2, default=[20_000, 200_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="folder for temporary images and tables")
    options = parser.parse_args(arguments)
    origin = Origin("score", arguments if arguments is not None else sys.argv[1:], code=CODE)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        home = Path(folder)
        write_model(home)
        for size in options.images:
            generate(home / str(size), size)
        figures = {"processes": cores(), "images": options.images, **rates(home, options.images, options.rounds)}
        figures["kills"] = kills(home, str(options.images[-1]), options.kills, options.seed)
    print(f"rate {figures['ratio']:.3f} of the ceiling, memory {figures['ratio_of_memory']:.3f}, {figures['kills']}")
    failed = not figures["kills"]["equal"]
    return origin.publish({**figures, "goals": GOALS}, RESULT, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
