"""Look at a prepared data set before training: labels that are probably wrong, copies, and images of poor quality.

    python -m training.inspection dataset=class_folders name=birds [any setting of training.train]

Writes data/inspect/<store>/: index.html, one page with thumbnails that opens from disk, and labels.csv and issues.csv,
one row a finding. It changes nothing: delete the rows of images that you want to keep, and give the file as `exclude=`
to training.data.prepare, which leaves the other images out.

Features of the pretrained network take the time, about 20 ms an image and core; they are cached, and `make up` uses the
same. Heads learn from 20,000 images at most. Comparing grows with the square of the number of images: 50,000 take three
minutes on two busy cores, and 2 GB of memory.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from handlers import atomic
from training.configuration import ConfigurationError, compose, plain, store_folder
from training.data.progress import plain_console
from training.data.records import DatasetError
from training.data.splits import Rows, Split, SplitSpec
from training.data.store import PreparedDataset
from training.inspection import findings as issues
from training.inspection.findings import Finding, Names

if TYPE_CHECKING:
    from training.inspection.copies import Pair

FOLDER = Path("data/inspect")
PAGE = "index.html"
PRETRAINED = "efficientnet_lite0"  # for the features, if the configured network starts from nothing
SIDES = ("test", "validation", "train", "")  # of two copies, the one on an earlier side stays


def inspect(overrides: Sequence[str], console: Console) -> Path:
    """Inspect the prepared data set of a configuration, and return its page.

    Raises:
        ConfigurationError: a setting is impossible, or there are no pretrained weights.
        DatasetError: nothing is prepared, or the raw images are gone.
    """
    config = compose(overrides)
    data = PreparedDataset.open(store_folder(config))
    settings = plain(config)
    sides, remarks = _sides(data, SplitSpec.from_config(config.split))
    names = _names(data, sides)
    labels, images = _findings(settings, data, sides, console)
    folder = FOLDER / data.name
    issues.write(labels, names, folder / issues.LABELS)
    issues.write(images, names, folder / issues.ISSUES)
    from training.inspection import page

    text = page.render(data, names, sides, [*labels, *images], remarks)
    atomic.write_text(folder / PAGE, text)
    for line in [*remarks, *(page.summary([*labels, *images]) or ["no suspect label or image"])]:
        console.print(f"  {line}")
    return folder / PAGE


def _sides(data: PreparedDataset, spec: SplitSpec) -> tuple[npt.NDArray[np.str_], list[str]]:
    """Return the side of each row, and remarks; if the images are too few for the split, the sides of the layout."""
    sides = np.full(len(data), "", dtype="U10")
    try:
        split = data.split(spec)
    except ValueError as error:
        sides[:] = np.where(data.on_test_side, "test", "train")
        return sides, [f"the split of the settings does not fit, so that of the folders is shown: {error}"]
    sides[split.train], sides[split.validation], sides[split.test] = "train", "validation", "test"
    return sides, []


def _names(data: PreparedDataset, sides: npt.NDArray[np.str_]) -> Names:
    labels = np.asarray(data.labels)
    return Names(
        image=lambda row: data.record(row).id,
        side=lambda row: str(sides[row]),
        label=lambda row: data.classes[labels[row]] if labels[row] >= 0 else "",
    )


def _findings(
    settings: dict[str, Any], data: PreparedDataset, sides: npt.NDArray[np.str_], console: Console
) -> tuple[list[Finding], list[Finding]]:
    """Return the findings about labels, and those about images."""
    from training.inspection import copies, measures, quality
    from training.precision import use_all_cores

    use_all_cores()
    rows = np.arange(len(data))
    sizes = measures.sizes(data, rows, console)
    values = measures.measure(data, rows, console)
    features = _features(settings, data, console)
    ranks = np.array([SIDES.index(side) for side in sides])
    pairs = copies.pairs(values.signatures, features, ranks, console)
    groups = copies.groups(pairs, len(data))
    images = _repeated(pairs, data, sides) + quality.findings(values, sizes, data.image_size)
    return _suspected(features, data, groups, console), images


def _features(settings: dict[str, Any], data: PreparedDataset, console: Console) -> npt.NDArray[np.float32]:
    """Return the features of all rows, by the pretrained network of the settings or a small one."""
    from training.run import input_statistics
    from training.transfer import stages

    if not settings["network"].get("pretrained"):
        settings = {**settings, "network": plain(compose([f"network={PRETRAINED}"]))["network"]}
    weights = stages.origin(settings, data)
    assert weights is not None
    rows = np.arange(len(data))
    preprocess = data.preprocess(*input_statistics(settings, data, Split(rows, rows[:0], rows[:0])))
    return stages.frozen_features(settings, weights, data, rows, preprocess, console)


def _repeated(pairs: "list[Pair]", data: PreparedDataset, sides: npt.NDArray[np.str_]) -> list[Finding]:
    """Return pairs as findings: those across splits first, then those of two classes, the most similar first."""
    labels = np.asarray(data.labels)
    findings = []
    for pair in pairs:
        is_across = sides[pair.row] and sides[pair.other] and sides[pair.row] != sides[pair.other]
        first, second = int(labels[pair.row]), int(labels[pair.other])
        suggested = data.classes[second] if second >= 0 and first not in (-1, second) else ""
        issue = f"{pair.kind}{issues.ACROSS if is_across else ''}"
        findings.append(Finding(pair.row, issue, pair.similarity, suggested, pair.other))
    findings.sort(key=lambda finding: (issues.ACROSS not in finding.issue, not finding.suggested, -finding.score))
    return findings


def _suspected(
    features: npt.NDArray[np.float32], data: PreparedDataset, groups: Rows, console: Console
) -> list[Finding]:
    """Return the labels that are probably wrong, the most suspicious first; classes without an image play no part."""
    from training.inspection import labels as confident

    rows = np.flatnonzero(np.asarray(data.labels) >= 0)
    classes, labels = np.unique(np.asarray(data.labels)[rows], return_inverse=True)
    if len(classes) < 2:
        return []
    probabilities = confident.out_of_fold(features[rows], labels, groups[rows], len(classes), console)
    suspects = confident.suspects(probabilities, labels)
    triples = zip(suspects.rows, suspects.confidences, suspects.suggested, strict=True)
    return [
        Finding(int(rows[row]), issues.LABEL, float(confidence), data.classes[classes[suggested]])
        for row, confidence, suggested in triples
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    console = plain_console()
    try:
        page = inspect(arguments, console)
    except (ConfigurationError, DatasetError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted. Features so far are kept: give the same command again", file=sys.stderr)
        return 130
    print(f"{page} ({page.stat().st_size / 1e6:.1f} MB), {issues.LABELS} and {issues.ISSUES} beside it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
