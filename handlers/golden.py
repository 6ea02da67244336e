"""Golden images: a few that travel in the archive with their answers, and are asked about when it is loaded.

What a test on one machine cannot know, another processor, another build of torch, another precision, shows here, before
the first request is answered.
"""

import base64
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from handlers import tolerances
from handlers.errors import RequestError

if TYPE_CHECKING:  # who reads the file asks a server, and need not wait seconds for torch
    from handlers.classifier import Classifier

FILE = "golden.json"


class GoldenError(Exception):
    """A golden image is answered otherwise than when the network was exported."""


@dataclasses.dataclass(frozen=True, slots=True)
class Golden:
    """An encoded image, its name, and the probability of each class in float32, and in int8 where that is offered."""

    name: str
    image: bytes
    probabilities: tuple[float, ...]
    int8: tuple[float, ...] | None = None

    def expected(self, precision: str) -> tuple[float, ...]:
        """Return what a precision is held against."""
        return self.int8 if precision == "int8" and self.int8 is not None else self.probabilities


def write(golden: Sequence[Golden], path: Path) -> None:
    """Write `golden.json`."""
    document = [{**dataclasses.asdict(each), "image": base64.b64encode(each.image).decode()} for each in golden]
    path.write_text(json.dumps(document) + "\n")


def read(path: Path) -> list[Golden]:
    """Return what `write` wrote.

    Raises:
        GoldenError: the file is damaged.
    """
    try:
        return [
            Golden(
                each["name"],
                base64.b64decode(each["image"], validate=True),
                tuple(each["probabilities"]),
                tuple(each["int8"]) if each.get("int8") else None,
            )
            for each in json.loads(path.read_text())
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise GoldenError(f"{path.name} is damaged ({error!r}); build the archive again") from error


def answers(classifier: "Classifier", images: Sequence[bytes]) -> list[tuple[float, ...]]:
    """Return the probabilities of each class for encoded images.

    Raises:
        GoldenError: an image cannot be read.
    """
    decoded = classifier.decode(images)
    for number, image in enumerate(decoded):
        if isinstance(image, RequestError):
            raise GoldenError(f"golden image {number + 1} cannot be read: {image}")
    rows = classifier.predict([image for image in decoded if not isinstance(image, RequestError)])
    return [tuple(row) for row in rows.tolist()]


def check(classifier: "Classifier", golden: Sequence[Golden]) -> float:
    """Return by how much the worst answer differs from what was exported.

    In float32 that is the largest difference of a probability; in bf16 and int8 it is the total variation, half of what
    all probabilities differ by together. int8 is held to what int8 answered at export.

    Raises:
        GoldenError: it is more than `handlers.tolerances` allows; says which image and how much.
    """
    precision = classifier.engine.precision
    largest = 0.0
    for each, found in zip(golden, answers(classifier, [each.image for each in golden]), strict=True):
        expected = each.expected(precision)
        if len(found) != len(expected):
            raise GoldenError(f"golden image {each.name} has {len(expected)} classes, the network {len(found)}")
        apart = [abs(ours - theirs) for ours, theirs in zip(found, expected, strict=True)]
        largest = max(largest, _allowed(each, apart, precision))
    return largest


def compare(kept: Golden, answer: Mapping[str, float], classes: Sequence[str], precision: str) -> float:
    """Return by how much an answer, which has the most likely labels alone, differs at least from what was exported.

    In the same terms as `check`; a label that it leaves out is at most as likely as the last one that it has.

    Raises:
        GoldenError: it is more than is allowed, or the labels are others.
    """
    expected = dict(zip(classes, kept.expected(precision), strict=False))
    if len(classes) != len(kept.probabilities):
        raise GoldenError(f"golden image {kept.name} has {len(kept.probabilities)} classes, the network {len(classes)}")
    if not answer or not set(answer) <= set(expected) or not all(0 <= value <= 1 for value in answer.values()):
        raise GoldenError(f"golden image {kept.name} is answered with what are no probabilities of its classes")
    last = min(answer.values())
    apart = [abs(answer[k] - p) if k in answer else max(0.0, p - last) for k, p in expected.items()]
    return _allowed(kept, apart, precision)


def _allowed(kept: Golden, apart: Sequence[float], precision: str) -> float:
    """Return what differences of probabilities come to, if it is within the tolerance of the precision."""
    tolerance = tolerances.FP32 if precision == "fp32" else tolerances.ROUNDED
    difference = max(apart) if precision == "fp32" else sum(apart) / 2
    if not difference <= tolerance:
        what = "a probability differs" if precision == "fp32" else "probabilities differ"
        remedy = "" if precision == "fp32" else ", or set handler.precision to fp32"
        raise GoldenError(
            f"golden image {kept.name} is answered otherwise than when the network was exported: {what} "
            f"by {difference:.2g}, allowed in {precision} are {tolerance:g}. Export and archive the model again "
            f"with the packages that serve it{remedy}"
        )
    return difference
