"""The page of an inspection: one HTML file with its thumbnails inside, which opens from disk and loads nothing."""

import collections
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.data.splits import Rows
from training.data.store import LEFT_OUT, PreparedDataset
from training.inspection import findings as issues
from training.inspection.findings import ACROSS, Finding, Names
from training.pages import template
from training.pages.thumbnails import Thumbnails

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN = 60  # findings of one issue
EXAMPLES, LEAST_EXAMPLES, MOST_EXAMPLES = 400, 1, 6  # of all classes, and of one
CLASSES_WITH_EXAMPLES = 1000
CONFUSIONS = 20
BAR = 240  # pixels
SIDES = ("train", "validation", "test")

# Title, explanation and unit of the score of each issue, in the order of the page.
ISSUES = {
    issues.LABEL: (
        "Labels that are probably wrong",
        "To a linear head that has not seen the image, another class is as probable as it is for images of that class.",
        "probability of the label",
    ),
    issues.COPY + ACROSS: (
        "Copies across splits",
        "The same picture, encoded again or resized, on two sides of the split: the score on one side is too good.",
        "similarity",
    ),
    issues.MIRRORED + ACROSS: ("Mirrored copies across splits", "The same picture, mirrored.", "similarity"),
    issues.ALIKE + ACROSS: (
        "Near-duplicates across splits",
        "Pictures of the same moment or subject. With many of them, hold out whole groups (split.by=group).",
        "similarity",
    ),
    issues.COPY: ("Copies", "The same picture twice on one side of the split.", "similarity"),
    issues.MIRRORED: ("Mirrored copies", "The same picture, mirrored, on one side of the split.", "similarity"),
    issues.ALIKE: ("Near-duplicates", "Pictures of the same moment or subject on one side of the split.", "similarity"),
    issues.BLURRED: ("Blurred", "Far less sharp than the other images.", "variance of the Laplacian"),
    issues.DARK: ("Dark", "Nothing in it is brighter than a quarter of white.", "brightness of 255"),
    issues.TINY: ("Tiny", "Much smaller than the input of the network.", "pixels of the shorter side"),
    issues.ODD_SHAPE: ("Odd shape", "Much longer or wider than the other images.", "longer side to shorter side"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """A finding as it is shown: thumbnails, what to say about it, and the paths of its images."""

    urls: list[str]
    lines: list[str]
    paths: list[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """All findings of one issue, the first of them as cards."""

    title: str
    note: str
    file: str
    total: int
    cards: list[Card]

    @property
    def anchor(self) -> str:
        """Return the name of its place in the page."""
        return re.sub(r"\W+", "-", self.title.lower())


@dataclasses.dataclass(frozen=True, slots=True)
class ClassRow:
    """A class: its images by side, how many are suspected, the length of its bar in pixels, and examples."""

    name: str
    counts: list[int]
    suspected: int
    width: int
    urls: list[str]


def render(
    data: PreparedDataset,
    names: Names,
    sides: npt.NDArray[np.str_],
    findings: Sequence[Finding],
    remarks: Sequence[str],
) -> str:
    """Return the page of these findings; `sides` (N,) are those of the rows, "" for none."""
    thumbnails = Thumbnails(data.raw, data.colour, data.record)
    by_issue = collections.defaultdict[str, list[Finding]](list)
    for finding in findings:
        by_issue[finding.issue].append(finding)
    suspects = by_issue[issues.LABEL]
    return template.render(
        TEMPLATE,
        name=data.name,
        images=len(data),
        raw=data.raw,
        exclude=f"EXCLUDE=data/inspect/{data.name}/{issues.LABELS}",
        sections=[_section(issue, by_issue[issue], names, thumbnails) for issue in ISSUES],
        left_out=data.document["left_out"],
        left_out_file=data.folder / LEFT_OUT,
        remarks=remarks,
        confusions=_confusions(suspects, names),
        classes=_classes(data, sides, suspects, thumbnails),
    )


def _section(issue: str, findings: Sequence[Finding], names: Names, thumbnails: Thumbnails) -> Section:
    title, note, unit = ISSUES[issue]
    cards = []
    for finding in findings[:SHOWN]:
        rows = [finding.row] if finding.other is None else [finding.row, finding.other]
        label = names.label(finding.row) or "no label"
        lines = [f"{label} → {finding.suggested}?" if finding.suggested else label, f"{unit} {finding.score:.3g}"]
        paths = [": ".join(filter(None, (names.side(row), names.image(row)))) for row in rows]
        cards.append(Card([thumbnails.url(row) for row in rows], lines, paths))
    file = issues.LABELS if issue == issues.LABEL else issues.ISSUES
    return Section(title, note, file, len(findings), cards)


def _confusions(suspects: Sequence[Finding], names: Names) -> list[tuple[str, str, int]]:
    pairs = collections.Counter((names.label(suspect.row), suspect.suggested) for suspect in suspects)
    return [(label, suggested, count) for (label, suggested), count in pairs.most_common(CONFUSIONS)]


def _classes(
    data: PreparedDataset, sides: npt.NDArray[np.str_], suspects: Sequence[Finding], thumbnails: Thumbnails
) -> list[ClassRow]:
    labels = np.asarray(data.labels)
    suspected = np.bincount(labels[[suspect.row for suspect in suspects]], minlength=len(data.classes))
    totals = np.bincount(labels[labels >= 0], minlength=len(data.classes))
    present = np.flatnonzero(totals)
    examples = min(MOST_EXAMPLES, max(LEAST_EXAMPLES, EXAMPLES // len(present))) if len(present) else 0
    rows = []
    for place, number in enumerate(present.tolist()):
        members = np.flatnonzero(labels == number)
        shown = _spread(members, examples) if place < CLASSES_WITH_EXAMPLES else members[:0]
        counts = [int((sides[members] == side).sum()) for side in SIDES]
        width = max(1, round(BAR * int(totals[number]) / int(totals.max())))
        urls = [thumbnails.url(row) for row in shown.tolist()]
        rows.append(ClassRow(data.classes[number], counts, int(suspected[number]), width, urls))
    return rows


def _spread(rows: Rows, count: int) -> Rows:
    """Return at most `count` of the rows, at equal distances."""
    return rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=np.int64))]


def summary(findings: Sequence[Finding]) -> list[str]:
    """Return one line for each issue that was found."""
    counts = collections.Counter(finding.issue for finding in findings)
    return [f"{title.lower()}: {counts[issue]:,}" for issue, (title, *_) in ISSUES.items() if counts[issue]]
