"""A report on drift: `make drift NAME=<model> RAW=<log or folder of images>`.

python -m pipeline.drift birds                    the log of the served model
python -m pipeline.drift birds --raw photos/      a folder of images, answered as the server would
python -m pipeline.drift birds --version 1.0      a version other than the live one, or the newest

Writes logs/drift/<name>.html: a verdict, when the drift began, the images that moved most, and the distributions by
Evidently. The page is one file, which opens without a server and without a network.
"""

import argparse
import dataclasses
import datetime as dt
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from handlers import atomic
from handlers.errors import RequestError
from handlers.observation.reference import Reference
from handlers.spec import Colour
from monitoring.drift import course, distributions, moved, report
from monitoring.drift.report import TIME, Report
from monitoring.drift.sample import Row, Sample
from serving.errors import ServingError
from training.pages import template
from training.pages.thumbnails import thumbnail

TEMPLATE = Path(__file__).with_name("drift.html")
FOLDER = Path("logs/drift")
SHOWN = 24  # images that moved most


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """An image that moved: its thumbnail, empty if the image is not at hand, and what to say about it."""

    url: str
    lines: list[str]
    name: str


def render(result: Report, reference: Reference, classes: Sequence[str], colour: Colour) -> str:
    """Return the page of a report."""
    verdict, tests = result.verdict, [window.verdict.embedding for window in result.windows]
    return template.render(
        TEMPLATE,
        result=result,
        verdict=verdict,
        validation=len(reference),
        accuracy=float((reference.answers == reference.labels).mean()),
        largest=max((max(test.value, test.threshold) for test in tests), default=0.0),
        time=lambda moment: f"{moment:{TIME}}",
        window=course.WINDOW,
        cards=_cards(result.sample, reference, classes, colour),
        distributions=distributions.page(reference, result.sample, classes),
        now=f"{dt.datetime.now(dt.UTC):{TIME}}",
    )


def _cards(part: Sample, reference: Reference, classes: Sequence[str], colour: Colour) -> list[Card]:
    images = part.images
    unusual = moved.unusual(reference, images)
    cards = []
    for place in moved.order(reference, images, SHOWN).tolist():
        row = part.rows[place]
        familiarity = [] if math.isnan(row.familiarity) else [f"familiarity {row.familiarity:.3f}"]
        times = [] if row.time is None else [f"{row.time:{TIME}}"]
        lines = [f"{classes[row.place]}, {row.confidence:.1%}", *familiarity, *unusual[place], *times]
        cards.append(Card(_thumbnail(row, colour), lines, row.name))
    return cards


def _thumbnail(row: Row, colour: Colour) -> str:
    try:
        return thumbnail(row.path.read_bytes(), colour)
    except (OSError, RequestError):  # not logged, or removed meanwhile
        return ""


def write(name: str, raw: str, version: str | None, path: Path) -> Report:
    """Write the page of a model's report, and return the report.

    Raises:
        ServingError: there is nothing to report on, or Evidently is missing.
    """
    distributions.check_installed()
    archive, reference = report.archive_of(name, version)
    spec = archive.spec()
    whole, is_log = report.sample_of(raw, archive, len(reference.scale))
    result = report.build(archive, reference, whole, is_log)
    atomic.write_text(path, render(result, reference, spec["classes"], spec["preprocess"]["colour"]))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Write one report; return 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.drift", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="the model")
    parser.add_argument("--raw", default="", help="a folder of images, or that of a log (default: the model's log)")
    parser.add_argument("--version", default="", help="the version (default: the live one, else the newest)")
    parser.add_argument("--out", type=Path, help=f"the page (default: {FOLDER}/<name>.html)")
    options = parser.parse_args(arguments)
    path = options.out or FOLDER / f"{options.name}.html"
    try:
        result = write(options.name, options.raw, options.version or None, path)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    print("\n".join(filter(None, (result.sentence, result.history, f"{path} ({path.stat().st_size / 1e6:.1f} MB)"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
