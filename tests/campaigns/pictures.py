"""Compare our decoder with libvips on the test pictures of image libraries: the same pixels, or a correct refusal?

    SIGHTLINE_TEST_PICTURES=<folder> PYTHONPATH=<libvips> python -m tests.campaigns.pictures

FOLDER has one folder of pictures for each source project; of equal files the first counts. Needs libvips, which is no
dependency: uv pip install --target <libvips> pyvips pyvips-binary.

Each picture is decoded in a process with limits of time and memory, by our decoder and by libvips; a mean difference of
more than 8 levels is wrong. Neither side applies colour profiles: pictures that have one are counted separately.

Writes benchmarks/results/pictures.json; the last line is the same JSON document.
"""

import collections
import dataclasses
import hashlib
import importlib.util
import multiprocessing
import os
import re
import resource
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from benchmarks.harness import console
from benchmarks.result import CAMPAIGNS, ROOT, Origin
from handlers.errors import BadImage, RequestError
from handlers.images.decoding import decode
from tests.campaigns import libvips

RESULT = ROOT / "benchmarks" / "results" / "pictures.json"
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".avif"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
}
LEVELS = 8.0  # largest mean difference of pictures that count as the same
SECONDS, MEMORY = 60.0, 8 * 2**30  # of one picture by both decoders
CAPTION = (
    f"A mean difference of up to {LEVELS:g} levels is the same. libvips reports damage in files that it reads in part."
)
OUTCOMES = {
    "same": "the picture of libvips",
    "only ours": "read, and not by libvips",
    "kind": "refused with 413 or 415, which names its kind",
    "damaged": "refused as broken, and damaged or unread for libvips too",
    "not damaged": "refused as broken, and whole for libvips",
    "wrong": "a different picture than that of libvips, without an error",
    "explained": "different, and ours is the right one (see EXPLAINED)",
    "wrong, damaged": "different, of a file that is damaged for libvips",
    "traceback": "an unexpected error, a crash, or past the limits",
}
# Paths -> why libvips, not ours, shows a different picture than a person sees.
EXPLAINED = {
    r"monochrome.*\.avif": "libvips does not stretch the narrow range of a grey AVIF",
    r"(xmp_tags|exif_imagemagick)_orientation": "libvips does not turn by an orientation in XMP or text",
    r"pngtest\.png": "libvips does not turn by an orientation behind the pixels of a PNG",
    r"clop_irot_imor\.avif": "libvips turns the alpha unlike the colours; the turn belongs to the colours only",
    r"extended_pixi\.avif": "of 4 x 4 pixels, with half the colours: libvips repeats colours that libavif blends",
    r"ycbcr_lzw_bt709": "libvips does not convert YCbCr of an uncompressed TIFF",
}
FAULTS = ("not damaged", "wrong", "traceback")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The comparison of one picture: an outcome of `OUTCOMES`, the reason, the mean difference, a profile or not."""

    outcome: str
    reason: str = ""
    levels: float = 0.0
    profile: bool = False


def compare(data: bytes) -> Finding:
    """Compare our pixels of an encoded picture with those of libvips."""
    try:
        reference: libvips.Reference | None = libvips.read(data)
    except libvips.Unread:
        reference = None
    profile = reference is not None and reference.profile
    try:
        ours = decode(data).permute(1, 2, 0).numpy()
    except BadImage as error:
        whole = reference is not None and reference.whole
        return Finding("not damaged" if whole else "damaged", str(error), profile=profile)
    except RequestError as error:
        return Finding("kind", str(error), profile=profile)
    except Exception as error:
        return Finding("traceback", f"{type(error).__name__}: {error}", profile=profile)
    if reference is None:
        return Finding("only ours")
    if ours.shape != reference.pixels.shape:
        return Finding("wrong", f"shape {ours.shape}, of libvips {reference.pixels.shape}", 255.0, profile)
    levels = float(np.abs(ours.astype(np.int16) - reference.pixels).mean())
    outcome = "same" if levels <= LEVELS else "wrong" if reference.whole else "wrong, damaged"
    return Finding(outcome, f"by {levels:.1f} levels" if levels > LEVELS else "", round(levels, 2), profile)


def explained(path: str, finding: Finding) -> Finding:
    """Return the finding of a picture, changed to "explained" if libvips is known to be wrong."""
    reasons = [reason for pattern, reason in EXPLAINED.items() if re.search(pattern, path)]
    if finding.outcome != "wrong" or not reasons:
        return finding
    return dataclasses.replace(finding, outcome="explained", reason=f"{finding.reason}: {reasons[0]}")


def serve(connection: Connection) -> None:
    """Compare pictures by the paths that arrive until an empty one, in a process with limits."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while path := connection.recv():
        try:
            connection.send(compare(Path(path).read_bytes()))
        except MemoryError as error:
            connection.send(Finding("traceback", f"MemoryError: {error}"))


class Worker:
    """A process that compares pictures; it is started again when a picture ends it."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child = context.Pipe()
        self._process = context.Process(target=serve, args=(child,), daemon=True)
        self._process.start()
        child.close()

    def compare(self, path: Path) -> Finding:
        """Return the finding of one picture, even if it ends the process."""
        self._connection.send(str(path))
        try:
            if self._connection.poll(SECONDS):
                finding: Finding = self._connection.recv()
                return finding
            reason = f"more than {SECONDS:g} seconds"
        except EOFError:
            reason = "the process ended"
        self.stop()
        self._start()
        return Finding("traceback", reason)

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()
        self._connection.close()


def pictures(folder: Path) -> Iterator[Path]:
    """Yield the pictures under a folder in order, the first of equal files."""
    digests = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            digest = hashlib.sha256(path.read_bytes()).digest()
            if digest not in digests:
                yield path
            digests.add(digest)


def document(findings: dict[str, Finding]) -> dict[str, Any]:
    """Return counts of outcomes by project, counts of refusals by reason, and faults by path."""
    projects: dict[str, collections.Counter[str]] = {}
    for path, finding in findings.items():
        projects.setdefault(path.partition("/")[0], collections.Counter())[finding.outcome] += 1
    kinds = collections.Counter(_kind(finding.reason) for finding in findings.values() if finding.outcome == "kind")
    return {
        "pictures": len(findings),
        "with_profile": sum(finding.profile for finding in findings.values()),
        "levels": LEVELS,
        "outcomes": dict(collections.Counter(finding.outcome for finding in findings.values())),
        "projects": {name: dict(counts) for name, counts in projects.items()},
        "kinds": dict(kinds.most_common()),
        "faults": {path: f"{finding.outcome}: {finding.reason}" for path, finding in _faults(findings)},
    }


def _faults(findings: dict[str, Finding]) -> list[tuple[str, Finding]]:
    return [(path, finding) for path, finding in findings.items() if finding.outcome in FAULTS]


def _kind(reason: str) -> str:
    return re.split(r" (?:are|is) not served", reason)[0]


def show(result: dict[str, Any]) -> None:
    """Print the outcomes of each project, and the faults."""
    projects = (*result["projects"].items(), ("all", result["outcomes"]))
    rows = [(name, *(counts.get(outcome, 0) for outcome in OUTCOMES)) for name, counts in projects]
    console.print_table("Test pictures against libvips", ("project", *OUTCOMES), rows, CAPTION)
    for path, reason in result["faults"].items():
        print(f"{path}: {reason}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare every picture, print the table and the JSON document, and return 1 if there is a fault."""
    parser = console.parser("pictures", __doc__, CAMPAIGNS)
    parser.parse_args(arguments)
    named = os.environ.get("SIGHTLINE_TEST_PICTURES", "")
    if not named or not Path(named).is_dir():
        parser.error("set SIGHTLINE_TEST_PICTURES to a folder with a folder of pictures for each project")
    if importlib.util.find_spec("pyvips") is None:
        parser.error("libvips is missing: uv pip install --target DIR pyvips pyvips-binary, and set PYTHONPATH=DIR")
    folder = Path(named)
    origin = Origin("pictures", [], package=CAMPAIGNS, code=("handlers", "tests/campaigns/libvips.py"))
    worker = Worker()
    names = [path.relative_to(folder).as_posix() for path in pictures(folder)]
    findings = {
        name: explained(name, worker.compare(folder / name))
        for name in track(names, "Comparing", console=console.progress())
    }
    worker.stop()
    result = document(findings)
    show(result)
    return origin.publish(result, RESULT, failed=bool(result["faults"]))


if __name__ == "__main__":
    sys.exit(main())
