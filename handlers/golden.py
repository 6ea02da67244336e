"""Golden images: a few that travel in the archive with their pixels and answers, and are checked when it is loaded.

A test on one machine cannot cover another processor, another build of torch or another precision; this check does,
before the first request is answered. It compares the network's input, in levels of 255, with one tolerance in every
precision; and the network's answers. Drawn images take every path through decoding and resizing, whatever the size of
the data set's images; the answers to them count in float32 only.

Older archives have no pixels: they are checked by their answers.
"""

import base64
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers import tolerances
from handlers.errors import RequestError, TooLarge
from handlers.images.limits import Limits

if TYPE_CHECKING:  # who reads the file asks a server, and need not wait seconds for torch
    import torch

    from handlers.classifier import Classifier

FILE = "golden.json"
SAMPLES = 24  # pixels of a side that are compared, the outermost included
SMALLEST_PROBABILITY = 1e-30  # a probability below this counts as this where logarithms are compared


class GoldenError(Exception):
    """The answer to a golden image differs from the exported one."""


@dataclasses.dataclass(frozen=True, slots=True)
class Golden:
    """An encoded image, its name, and the probability of each class in float32, and in int8 if that is offered.

    `pixels` are uint8 (C, n, n), those that `sample` takes of the network's input; `whole` are the same for a JPEG
    that is decoded in full, as a GPU does, rather than at a part of its size. `size` is the image's width and height.
    Archives of older releases have none of these.
    """

    name: str
    image: bytes
    probabilities: tuple[float, ...]
    int8: tuple[float, ...] | None = None
    pixels: bytes | None = None
    whole: bytes | None = None
    size: tuple[int, int] | None = None
    drawn: bool = False

    def expected(self, precision: str) -> tuple[float, ...]:
        """Return the exported probabilities for a precision."""
        return self.int8 if precision == "int8" and self.int8 is not None else self.probabilities

    def judged(self, precision: str) -> bool:
        """Return whether the network's answer is compared: rounding may decide between a drawn image's classes."""
        return precision == "fp32" or not self.drawn

    def within(self, limits: Limits) -> bool:
        """Return whether an archive with these limits answers it; an unknown size passes."""
        try:
            limits.check_bytes(len(self.image))
            limits.check_pixels(*(self.size or (1, 1)))
        except TooLarge:
            return False
        return True


def write(golden: Sequence[Golden], path: Path) -> None:
    """Write `golden.json`."""
    path.write_text(json.dumps([_document(image) for image in golden]) + "\n")


def _document(golden: Golden) -> dict[str, Any]:
    fields = dataclasses.asdict(golden)
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value for name, value in fields.items()
    }


def read(path: Path) -> list[Golden]:
    """Return what `write` wrote.

    Raises:
        GoldenError: the file is damaged.
    """
    try:
        return [_golden(document) for document in json.loads(path.read_text())]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GoldenError(f"{path.name} is damaged ({error!r}); build the archive again") from error


def _golden(document: Mapping[str, Any]) -> Golden:
    def encoded(name: str) -> bytes | None:
        text = document.get(name)
        return base64.b64decode(text, validate=True) if text else None

    width_height = document.get("size")
    return Golden(
        document["name"],
        base64.b64decode(document["image"], validate=True),
        tuple(document["probabilities"]),
        tuple(document["int8"]) if document.get("int8") else None,
        encoded("pixels"),
        encoded("whole"),
        (int(width_height[0]), int(width_height[1])) if width_height else None,
        bool(document.get("drawn")),
    )


def sample(images: "torch.Tensor") -> "torch.Tensor":
    """Return evenly spread pixels of images (B, C, S, S), as (B, C, n, n) with n at most `SAMPLES`."""
    side = images.shape[-1]
    count = min(SAMPLES, side)
    places = [number * (side - 1) // max(1, count - 1) for number in range(count)]
    return images[..., places, :][..., places]


def decoded(classifier: "Classifier", images: Sequence[bytes]) -> "list[torch.Tensor]":
    """Return what `Classifier.decode` gives for golden images.

    Raises:
        GoldenError: an image cannot be read.
    """
    pixels = []
    for number, image in enumerate(classifier.decode(images)):
        if isinstance(image, RequestError):
            raise GoldenError(f"golden image {number + 1} cannot be read: {image}")
        pixels.append(image)
    return pixels


def answers(classifier: "Classifier", images: Sequence[bytes]) -> list[tuple[float, ...]]:
    """Return the probabilities of each class for encoded images.

    Raises:
        GoldenError: an image cannot be read.
    """
    return [tuple(row) for row in classifier.predict(decoded(classifier, images)).tolist()]


def of(
    classifier: "Classifier", images: Mapping[str, bytes], *, int8: "Classifier | None" = None, drawn: bool = False
) -> list[Golden]:
    """Return golden images of encoded ones, with the answers of a classifier in float32 on a CPU, and of int8.

    Raises:
        GoldenError: an image cannot be read.
    """
    from handlers.images.decoding import decode

    pixels = decoded(classifier, list(images.values()))
    rows = classifier.predict(pixels).tolist()
    rounded = int8.predict(pixels).tolist() if int8 else [None] * len(rows)
    golden = []
    for (name, image), scaled, row, int8_row in zip(images.items(), pixels, rows, rounded, strict=True):
        pixels_in_full = decode(image, colour=classifier.spec.preprocess.colour)
        whole = classifier.decoder.preprocess.resize(pixels_in_full)
        kinds = [sample(pixel_set[None]).numpy().tobytes() for pixel_set in (scaled, whole)]
        golden.append(
            Golden(
                name,
                image,
                tuple(row),
                tuple(int8_row) if int8_row else None,
                kinds[0],
                kinds[1] if kinds[1] != kinds[0] else None,
                (pixels_in_full.shape[2], pixels_in_full.shape[1]),
                drawn,
            )
        )
    return golden


def check(classifier: "Classifier", golden: Sequence[Golden], *, batch: int | None = None) -> float:
    """Return the largest difference between an answer and the exported one.

    In fp32 that is the largest difference of a probability; in every other precision it is the total variation, half
    the sum of the differences of all probabilities. int8 is compared with the int8 answers of the export. `batch`
    images form a batch: no more than the network is warmed up for.

    Raises:
        GoldenError: pixels, answers, or how answers vary, differ by more than `handlers.tolerances` allows; says which
            image and how much.
    """
    precision = classifier.engine.precision
    size = batch or len(golden)
    rows: list[tuple[float, ...]] = []
    for start in range(0, len(golden), size):
        part = golden[start : start + size]
        images = decoded(classifier, [image.image for image in part])
        _check_pixels(part, classifier, images)
        rows += [tuple(row) for row in classifier.predict(images).tolist()]
    differences = [_check_answer(*pair, precision) for pair in zip(golden, rows, strict=True)]
    _check_variation(golden, rows, precision)
    return max(differences, default=0.0)


def _check_answer(image: Golden, answer: Sequence[float], precision: str) -> float:
    """Return the difference between an answer and the exported one, 0 if it does not count in this precision."""
    expected = image.expected(precision)
    if len(answer) != len(expected):
        raise GoldenError(f"golden image {image.name} has {len(expected)} classes, the network {len(answer)}")
    if not image.judged(precision):
        return 0.0
    gaps = [abs(ours - theirs) for ours, theirs in zip(answer, expected, strict=True)]
    difference = _allowed(image, gaps, precision)
    _check_best(image, expected, max(range(len(answer)), key=answer.__getitem__))
    return difference


def compare(image: Golden, answer: Mapping[str, float], classes: Sequence[str], precision: str) -> float:
    """Return a lower bound of the difference between an answer, which has the most likely labels only, and the export.

    In the same terms as `check`; a label that it leaves out is at most as likely as the last one that it has.

    Raises:
        GoldenError: it is more than is allowed, or the labels are others.
    """
    expected = dict(zip(classes, image.expected(precision), strict=False))
    if len(classes) != len(image.probabilities):
        raise GoldenError(
            f"golden image {image.name} has {len(image.probabilities)} classes, the network {len(classes)}"
        )
    if not answer or not set(answer) <= set(expected) or not all(0 <= value <= 1 for value in answer.values()):
        raise GoldenError(f"golden image {image.name} is answered with what are no probabilities of its classes")
    if not image.judged(precision):
        return 0.0
    last = min(answer.values())
    gaps = [abs(answer[k] - p) if k in answer else max(0.0, p - last) for k, p in expected.items()]
    difference = _allowed(image, gaps, precision)
    _check_best(image, tuple(expected.values()), list(expected).index(max(answer, key=answer.__getitem__)))
    return difference


def _check_pixels(golden: Sequence[Golden], classifier: "Classifier", images: "Sequence[torch.Tensor]") -> None:
    """Compare the network's input, its normalisation undone, with that of the export."""
    decoder = classifier.decoder
    for image, levels in zip(golden, sample(classifier.levels(images)).flatten(1).tolist(), strict=True):
        references = [pixels for pixels in (image.pixels, image.whole if decoder.whole else None) if pixels]
        if references:
            _check_levels(image.name, levels, references, decoder.tolerance)


def _check_levels(name: str, levels: Sequence[float], references: Sequence[bytes], tolerance: float) -> None:
    """Compare an image's levels with the exported pixels that are nearest to them."""
    if any(len(pixels) != len(levels) for pixels in references):
        raise GoldenError(f"golden image {name} has {len(references[0])} pixels, the network's input {len(levels)}")
    gap = min(sum(map(abs, map(float.__sub__, levels, map(float, pixels)))) / len(levels) for pixels in references)
    if not gap <= tolerance:
        raise GoldenError(
            f"golden image {name} reaches the network with other pixels than when it was exported: they differ by "
            f"{gap:.2g} levels of 255 on average, allowed are {tolerance:g}. Decoding, resizing or normalisation "
            "changed: export and archive the model again with the packages that serve it"
        )


def _check_best(image: Golden, expected: Sequence[float], best: int) -> None:
    """Compare the best class if it is clearly better than the second."""
    order = sorted(range(len(expected)), key=expected.__getitem__, reverse=True)
    clear = len(order) > 1 and expected[order[0]] > expected[order[1]] * math.exp(tolerances.SAME_BEST)
    if clear and best != order[0]:
        raise GoldenError(
            f"golden image {image.name} is answered otherwise than when the network was exported: another class is the "
            "most likely one. Export and archive the model again with the packages that serve it"
        )


def _check_variation(golden: Sequence[Golden], rows: Sequence[Sequence[float]], precision: str) -> None:
    """Compare how log probabilities vary from image to image: a network that answers all alike varies nothing.

    Drawn images count in every precision: what rounding costs is small beside what they differ by.
    """
    if len(golden) < 2:
        return
    expected = [_logarithms(image.expected(precision)) for image in golden]
    answered = [_logarithms(row) for row in rows]
    expected_spread, answer_spread = _centred(expected), _centred(answered)
    error = _root_mean_square(ours - theirs for ours, theirs in zip(answer_spread, expected_spread, strict=True))
    size = _root_mean_square(value for row in expected for value in row)
    allowed = max(tolerances.VARIATION * _root_mean_square(expected_spread), tolerances.RESOLUTION * size)
    if not error <= allowed:
        raise GoldenError(
            "golden images are answered otherwise than when the network was exported: log probabilities vary from "
            f"image to image by {error:.2g} more or less, allowed in {precision} are {allowed:.2g}. Export and archive "
            "the model again with the packages that serve it"
        )


def _logarithms(probabilities: Sequence[float]) -> list[float]:
    return [math.log(max(value, SMALLEST_PROBABILITY)) for value in probabilities]


def _centred(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return all values of rows, less the mean of their column."""
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    return [value - mean for row in rows for value, mean in zip(row, means, strict=True)]


def _root_mean_square(values: Iterable[float]) -> float:
    squares = [value * value for value in values]
    return math.sqrt(sum(squares) / len(squares))


def _allowed(image: Golden, gaps: Sequence[float], precision: str) -> float:
    """Return what differences of probabilities come to, if it is within the tolerance of the precision."""
    tolerance = tolerances.FP32 if precision == "fp32" else tolerances.ROUNDED
    difference = max(gaps) if precision == "fp32" else sum(gaps) / 2
    if not difference <= tolerance:
        subject = "a probability differs" if precision == "fp32" else "probabilities differ"
        remedy = "" if precision == "fp32" else ", or set handler.precision to fp32"
        raise GoldenError(
            f"golden image {image.name} is answered otherwise than when the network was exported: {subject} "
            f"by {difference:.2g}, allowed in {precision} are {tolerance:g}. Export and archive the model again "
            f"with the packages that serve it{remedy}"
        )
    return difference
