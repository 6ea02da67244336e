"""The verdict on one window of served images: its scores and their thresholds, the kind of shift, and a sentence."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from handlers.observation.reference import Reference
from handlers.observation.statistics import Statistics
from monitoring.drift import accuracy, classes, histograms, label_shift, mmd
from monitoring.drift.accuracy import Accuracy
from monitoring.drift.mmd import Floats, Indices, Test

# False alarms in unchanged windows: of the embeddings and of the classes, which raise the alarm; of each other test.
EMBEDDING_LEVEL, CLASSES_LEVEL = 0.003, 0.002
LEVEL = EMBEDDING_LEVEL + CLASSES_LEVEL
# The estimate of the accuracy is not reliable beyond these; see benchmarks/drift.py.
FAR = 0.1  # MMD^2
LARGEST_FALL = 0.2  # of the accuracy
COLUMNS = (*Statistics._fields, "confidence", "class")
Kind = Literal["none", "label shift", "input shift"]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Images:
    """N images: their `embeddings` (N, d) in the directions of the reference, and the columns of `COLUMNS`.

    `statistics` is (N, S), `confidences` (N,) and `answers` (N,) are of the first class.
    """

    embeddings: Floats
    statistics: Floats
    confidences: Floats
    answers: Indices

    def __len__(self) -> int:
        return len(self.answers)

    @classmethod
    def of(cls, reference: Reference) -> "Images":
        """Return the validation images of a reference."""
        arrays = (reference.rows, reference.statistics, reference.confidences)
        embeddings, statistics, confidences = (array.astype(np.float64) for array in arrays)
        return cls(embeddings, statistics, confidences, reference.answers.astype(np.int64))


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """The histogram of one column, against that of the reference."""

    jensen_shannon: Test
    psi: float


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """The tests of one window, of a number of `images`.

    The alarm is `embedding` or `classes`: the embeddings differ, or one class is more frequent. `within` then compares
    the embeddings at equal shares of the answers. The accuracy is not `reliable` for images that are far from those of
    validation.
    """

    images: int
    embedding: Test
    classes: Test
    within: Test | None
    columns: Mapping[str, Column]
    kind: Kind
    accuracy: Accuracy
    reliable: bool

    @property
    def exceeded(self) -> list[str]:
        """Return the columns whose histograms differ from those of the reference."""
        return [name for name, column in self.columns.items() if column.jensen_shannon.exceeded]

    @property
    def sentence(self) -> str:
        """Return the verdict in words."""
        return self.about(f"the last {self.images} images")

    def about(self, images: str) -> str:
        """Return the verdict on `images`, such as "the last 100 images", in words."""
        start = images[0].upper() + images[1:]
        if self.kind == "none":
            return f"{start} are like those of validation."
        names = ", ".join(self.exceeded) or "none of the histograms"
        facts = f"MMD² {self.embedding.value:.3f}, allowed {self.embedding.threshold:.3f}; changed: {names}"
        facts += "; one class is more frequent" if self.classes.exceeded else ""
        if self.kind == "label shift":
            return f"The shares of the classes have changed in {images} ({facts})."
        return f"{start} differ from those of validation ({facts})."


def judge(reference: Reference, window: Images, *, seed: int = 0) -> Verdict:
    """Return the verdict on a window; the same images and seed give the same one."""
    validation, random = Images.of(reference), np.random.default_rng(seed)
    embeddings, statistics, confidences, answers = (
        np.concatenate([getattr(part, field.name) for part in (validation, window)])
        for field in dataclasses.fields(Images)
    )
    inside = np.arange(len(answers)) >= len(validation)
    kernel, one_group = mmd.kernel(embeddings), np.zeros(len(answers), np.int64)
    members = mmd.memberships(inside, one_group, random)
    embedding = Test.of(mmd.discrepancies(kernel, members, one_group), EMBEDDING_LEVEL)
    frequent = Test.of(classes.excesses(embeddings, answers, members), CLASSES_LEVEL)
    kind: Kind = "none"
    within = None
    if embedding.exceeded or frequent.exceeded:
        within = label_shift.within_answers(kernel, inside, answers, random, LEVEL)
        kind = "input shift" if within.exceeded else "label shift"
    columns = _columns(np.column_stack([statistics, confidences]), answers, members, len(validation))
    right = reference.answers == reference.labels
    estimated = accuracy.estimate(validation.confidences, right, window.confidences)
    near = bool(embedding.value <= FAR and estimated.value >= right.mean() - LARGEST_FALL)
    return Verdict(len(window), embedding, frequent, within, columns, kind, estimated, near)


def _columns(values: Floats, answers: Indices, members: npt.NDArray[np.bool_], count: int) -> dict[str, Column]:
    """Return the comparison of each column: of numbers (N, S + 1) in bins, and of the answers (N,).

    The first `count` images are those of validation.
    """
    binned: Sequence[Indices] = [histograms.bins(column[:count], column) for column in values.T]
    pairs = zip(COLUMNS, [*binned, answers], strict=True)
    return {name: Column(*histograms.compare(column, members, LEVEL)) for name, column in pairs}
