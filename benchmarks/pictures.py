"""Are the test pictures of the field's decoders read as libvips reads them, or refused with the right reason?

    SIGHTLINE_TEST_PICTURES=<folder> PYTHONPATH=<libvips> python -m benchmarks.pictures

FOLDER holds a folder of pictures for each project that they come from; of equal files the first counts. Needs libvips,
which is no dependency: uv pip install --target <libvips> pyvips pyvips-binary.

Each picture is decoded in a process with limits of time and memory, by our decoder and by libvips; a mean difference of
more than 8 levels is wrong. Neither side applies colour profiles: pictures that have one are counted apart.

Writes benchmarks/results/pictures.json; the last line is the same JSON document.
"""

import argparse
import collections
import dataclasses
import hashlib
import importlib.util
import json
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
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import libvips
from benchmarks.result import ROOT, Origin
from handlers.atomic import write_json
from handlers.decoding import decode
from handlers.errors import BadImage, RequestError

RESULT = ROOT / "benchmarks" / "results" / "pictures.json"
SUFFIXES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".tif", ".tiff", ".bmp", ".dib", ".webp", ".avif"),
    *(".pbm", ".pgm", ".ppm", ".pnm"),
}
LEVELS = 8.0  # mean difference of a picture that counts as the same
SECONDS, MEMORY = 60.0, 8 * 2**30  # of one picture by both decoders
CAPTION = f"A mean difference of up to {LEVELS:g} levels is the same. libvips finds damage in what it reads in part."
OUTCOMES = {
    "same": "the picture of libvips",
    "only ours": "read, and not by libvips",
    "kind": "refused with 413 or 415, which names its kind",
    "damaged": "refused as broken, and damaged or unread for libvips too",
    "not damaged": "refused as broken, and whole for libvips",
    "wrong": "another picture than that of libvips, without a word",
    "explained": "the same, and ours is the right one (see EXPLAINED)",
    "wrong, damaged": "the same, of a file that is damaged for libvips",
    "traceback": "an error that is not a reason, a crash, or past the limits",
}
# Paths -> why libvips, not ours, is the one that shows another picture than a person sees.
EXPLAINED = {
    r"monochrome.*\.avif": "libvips does not stretch the narrow range of a grey AVIF",
    r"(xmp_tags|exif_imagemagick)_orientation": "libvips does not turn by an orientation in XMP or text",
    r"pngtest\.png": "libvips does not turn by an orientation behind the pixels of a PNG",
    r"clop_irot_imor\.avif": "libvips turns the alpha another way than the colours, to which alone the turn belongs",
    r"extended_pixi\.avif": "of 4 x 4 pixels, with half the colours: libvips repeats colours that libavif blends",
    r"ycbcr_lzw_bt709": "libvips does not convert YCbCr of an uncompressed TIFF",
}
FAULTS = ("not damaged", "wrong", "traceback")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """What became of one picture: an outcome of `OUTCOMES`, the reason, the mean difference, and whether a profile."""

    outcome: str
    reason: str = ""
    levels: float = 0.0
    profile: bool = False


def compare(data: bytes) -> Finding:
    """Return what our decoder makes of an encoded picture, beside what libvips does."""
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
    """Return the finding of a picture, as explained where libvips is known to be at fault."""
    reasons = [reason for pattern, reason in EXPLAINED.items() if re.search(pattern, path)]
    if finding.outcome != "wrong" or not reasons:
        return finding
    return dataclasses.replace(finding, outcome="explained", reason=f"{finding.reason}: {reasons[0]}")


def serve(connection: Connection) -> None:
    """Compare the pictures whose paths come, until none does: in a process with limits."""
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    while path := connection.recv():
        try:
            connection.send(compare(Path(path).read_bytes()))
        except MemoryError as error:
            connection.send(Finding("traceback", f"MemoryError: {error}"))


class Worker:
    """A process that compares pictures, and is begun again when one ends it."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def compare(self, path: Path) -> Finding:
        """Return the finding of one picture, also where it ends the process."""
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
    """Yield the pictures under a folder, in order, of equal files the first."""
    seen = set()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
            digest = hashlib.sha256(path.read_bytes()).digest()
            if digest not in seen:
                yield path
            seen.add(digest)


def document(findings: dict[str, Finding]) -> dict[str, Any]:
    """Return counts of outcomes by project, refusals by reason, and what is a fault, by path."""
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


def print_table(result: dict[str, Any], console: Console) -> None:
    """Print the outcomes of each project, and the faults."""
    table = Table("project", *OUTCOMES, title="Test pictures against libvips", caption=CAPTION)
    for name, counts in (*result["projects"].items(), ("all", result["outcomes"])):
        table.add_row(name, *(str(counts.get(outcome, 0)) for outcome in OUTCOMES))
    console.print(table)
    for path, reason in result["faults"].items():
        console.print(f"{path}: {reason}", soft_wrap=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare every picture, print the tables and the JSON document, and return 1 where there is a fault."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pictures", description=__doc__.splitlines()[0])
    parser.parse_args(arguments)
    named = os.environ.get("SIGHTLINE_TEST_PICTURES", "")
    if not named or not Path(named).is_dir():
        parser.error("set SIGHTLINE_TEST_PICTURES to a folder with a folder of pictures for each project")
    if importlib.util.find_spec("pyvips") is None:
        parser.error("libvips is missing: uv pip install --target DIR pyvips pyvips-binary, and set PYTHONPATH=DIR")
    folder = Path(named)
    origin = Origin("pictures", [], code=("handlers", "benchmarks/libvips.py"))
    worker = Worker()
    paths = list(pictures(folder))
    console = Console(stderr=True, markup=False, emoji=False)
    findings = {
        name: explained(name, worker.compare(folder / name))
        for name in track([path.relative_to(folder).as_posix() for path in paths], "Comparing", console=console)
    }
    worker.stop()
    result = {"benchmark": "pictures", **origin.document(), **document(findings)}
    write_json(RESULT, result)
    print_table(result, Console(markup=False, emoji=False))
    print(json.dumps(result))
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
