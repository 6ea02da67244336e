"""The current images of a version: the newest of its prediction log, or those of a folder."""

import collections
import dataclasses
import datetime as dt
import heapq
import math
import operator
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from handlers.observation import segments
from handlers.observation.statistics import Statistics
from handlers.requests.labels import Labels
from monitoring.drift.mmd import Floats
from monitoring.drift.verdict import Images
from serving import predict
from serving.errors import ServingError
from serving.store.model_store import Archive

MOST_LOGGED, MOST_FILES = 20_000, 2_000  # images: the newest of a log, and those drawn from a folder


class SampleError(ServingError):
    """No current image can be compared; the message says what to do."""


class Row(NamedTuple):
    """One image; `name` is the id of its request or its file, `path` is its encoded image, which may not exist."""

    name: str
    path: Path
    embedding: Sequence[float]
    statistics: Statistics
    confidence: float
    place: int
    familiarity: float
    time: dt.datetime | None


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """N images, the oldest first if they have times; their `familiarities` (N,) are NaN without a bank."""

    source: str
    rows: Sequence[Row]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def images(self) -> Images:
        """Return the columns that the tests compare."""
        return Images(
            np.array([row.embedding for row in self.rows], np.float64),
            np.array([row.statistics for row in self.rows], np.float64),
            np.array([row.confidence for row in self.rows]),
            np.array([row.place for row in self.rows], np.int64),
        )

    @property
    def familiarities(self) -> Floats:
        """Return the familiarity of each image."""
        return np.array([row.familiarity for row in self.rows])

    def newest(self, count: int) -> "Sample":
        """Return the last images."""
        return dataclasses.replace(self, rows=self.rows[-count:])


def of_log(folder: Path, version: str, classes: Sequence[str], width: int) -> Sample:
    """Return the newest images that a version logged, with embeddings of that width.

    Raises:
        SampleError: it logged none.
    """
    places = {label: place for place, label in enumerate(classes)}
    versions: collections.Counter[str] = collections.Counter()

    def rows() -> Iterator[Row]:
        for entry, path in segments.read(folder):
            versions[str(entry.get("version"))] += 1
            row = _logged(entry, path, places, width) if entry.get("version") == version else None
            if row is not None:
                yield row

    newest = heapq.nlargest(MOST_LOGGED, rows(), key=operator.attrgetter("time"))[::-1]
    if newest:
        return Sample(f"{len(newest):,} images in {folder}", newest)
    if versions[version]:
        raise SampleError(
            f"the {versions[version]:,} images of version {version} in {folder} have no embeddings to compare: "
            "build a version that answers in another precision than int8, with its own reference, and deploy it"
        )
    names = ", ".join(f"VERSION={name} ({count:,})" for name, count in versions.most_common())
    raise SampleError(f"{folder} has no image of version {version}: {f'choose {names}' if names else 'it is empty'}")


def _logged(entry: dict[str, Any], path: Path, places: dict[str, int], width: int) -> Row | None:
    """Return an entry of a log as a row; None if it is damaged or has no embedding of that width."""
    try:
        embedding = [float(value) for value in entry["embedding"]]
        numbers = [float(entry[name]) for name in (*Statistics._fields, "confidence")]
        familiarity = entry["familiarity"]
        row = Row(
            name=str(entry["request_id"]),
            path=path,
            embedding=embedding,
            statistics=Statistics(*numbers[:-1]),
            confidence=numbers[-1],
            place=places[entry["label"]],
            familiarity=math.nan if familiarity is None else float(familiarity),
            time=dt.datetime.fromisoformat(entry["time"]).astimezone(dt.UTC),
        )
    except (KeyError, TypeError, ValueError):
        return None
    return row if len(embedding) == width and all(map(math.isfinite, (*embedding, *numbers))) else None


def of_folder(folder: Path, archive: Archive, classes: Sequence[str], width: int) -> Sample:
    """Return the images of a folder as the worker of an archive answers them; of many, `MOST_FILES` drawn by a seed.

    Raises:
        SampleError: no image has an answer, or the answers have no embeddings of that width.
        InputError: there is no image.
        ArchiveError: the archive cannot be read.
    """
    files, _ = predict.images_in(folder)
    drawn = files if len(files) <= MOST_FILES else sorted(random.Random(0).sample(files, MOST_FILES))
    places = {label: place for place, label in enumerate(classes)}
    rows, error = [], ""
    with archive.unpacked() as weights:
        answers = predict.offline(weights, drawn, archive.model_config().get("handler"), observes=True)
        with predict.counted(drawn, answers) as answered:
            for path, answer in answered:
                if isinstance(answer, Labels):
                    rows.append(_answered(path, answer, places))
                else:
                    error = f"{path}: {answer}"
    if not rows:
        raise SampleError(f"no image of {folder} has an answer ({error}): name a folder of other images")
    if len(rows[0].embedding) != width:
        raise SampleError(
            f"{archive.name} {archive.version} answers without embeddings, as int8 and .pt2 do: build a version of "
            "another precision (handler.precision=auto)"
        )
    source = f"{len(rows):,} images in {folder}"
    if len(drawn) < len(files):
        source += f", drawn from {len(files):,}"
    if len(rows) < len(drawn):
        source += f"; {len(drawn) - len(rows):,} have no answer"
    return Sample(source, rows)


def _answered(path: Path, answer: Labels, places: dict[str, int]) -> Row:
    assert answer.statistics is not None
    label, confidence = next(iter(answer.items()))
    familiarity = math.nan if answer.familiarity is None else answer.familiarity
    return Row(str(path), path, answer.embedding, answer.statistics, confidence, places[label], familiarity, time=None)
