"""Replay: the images of a prediction log are sent to the new version, and its answers compared with the logged ones."""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

from handlers.lookahead import map_ahead
from handlers.observation import segments
from serving.lifecycle import launch
from serving.rollout import comparison, labels
from serving.rollout.comparison import Answer, Comparison, Pair
from serving.rollout.trial import Candidate, TrialError

OWN = "1"  # the model's own log
IMAGES = 2000  # the newest ones
TIMED = 64  # of these, one after the other, by both versions
CALLERS = 4
AGREEMENT = 0.95


@dataclasses.dataclass(frozen=True, slots=True)
class Logged:
    """The logged answer to an image."""

    request_id: str
    image: int
    sha256: str
    answer: Answer
    path: Path

    @classmethod
    def of(cls, row: Mapping[str, Any], path: Path) -> "Logged":
        """Return that of a row."""
        return cls(row["request_id"], row["image"], row["sha256"], Answer(row["label"], row["confidence"]), path)


class Replay:
    """The trial.

    Args:
        log: the folder of a model's log, or `OWN`.
        agreement: share of images that must get the logged class again.
    """

    name = "replay"

    def __init__(self, log: str = OWN, agreement: float = AGREEMENT, *, images: int = IMAGES) -> None:
        self._log, self.agreement, self._images = log, agreement, images

    def check(self, root: Path, name: str, live: str | None) -> None:
        """Refuse a log without images of the model."""
        logged(self._folder(root, name), name, live, self._images)

    def _folder(self, root: Path, name: str) -> Path:
        return launch.predictions(root) / name if self._log == OWN else root / self._log

    def run(self, candidate: Candidate) -> None:
        """Send the images; refuse a version that answers too few of them as logged, or too slowly."""
        folder = self._folder(candidate.root, candidate.name)
        rows = logged(folder, candidate.name, candidate.live, self._images)
        compared = Comparison(classes=candidate.classes)
        compared.labels = labels.by_image(folder)
        allowed = (1 - self.agreement) * len(rows)
        for pair in _pairs(candidate, rows):
            compared.pairs.append(pair)
            if pair.new is None and compared.unanswered > allowed:
                break
        table = candidate.table(self.name)
        compared.write_csv(table)
        for line in [*compared.lines(), f"all answers: {table.relative_to(candidate.root)}"]:
            candidate.log(f"  {line}")
        if compared.unanswered > allowed:
            errors = ", ".join({pair.error for pair in compared.pairs if pair.new is None})
            raise TrialError(f"it does not answer {compared.unanswered} of {len(compared.pairs):,} images ({errors})")
        self._judge(candidate, compared, table)

    def _judge(self, candidate: Candidate, compared: Comparison, table: Path) -> None:
        same, count = compared.agreeing, len(compared.pairs)
        if not count:
            raise TrialError("the log has removed its images meanwhile: try again")
        if same < self.agreement * count:
            raise TrialError(
                f"agreement {comparison.share(same, count)} is below {self.agreement:.1%}: see "
                f"{table.relative_to(candidate.root)}, or accept it with AGREEMENT={int(1000 * same / count) / 1000:g}"
            )
        times = compared.timed()
        live, new = (statistics.median(side) for side in zip(*times, strict=True)) if times else (0.0, 0.0)
        if candidate.is_slow(live, new):
            raise TrialError(f"it is too slow: {new * 1e3:.0f} ms per image, the live version {live * 1e3:.0f} ms")


def _pairs(candidate: Candidate, rows: list[Logged]) -> Iterator[Pair]:
    """Yield the answers to the images: to the first ones with latencies, then of several callers at a time.

    Images that the log has lost meanwhile are passed over.
    """

    def send(row: Logged, *, timed: bool = False) -> Pair | None:
        try:
            image = row.path.read_bytes()
        except FileNotFoundError:
            return None
        new, error = candidate.ask(image, candidate.version)
        live = candidate.ask(image, candidate.live)[0] if timed and candidate.live is not None else None
        before = row.answer._replace(seconds=live.seconds) if live is not None else row.answer
        return Pair(row.request_id, row.image, row.sha256, before, new, error)

    with ThreadPoolExecutor(CALLERS) as pool:
        first = (send(row, timed=True) for row in rows[:TIMED])
        yield from filter(None, chain(first, map_ahead(pool, send, rows[TIMED:], 2 * CALLERS)))


def logged(folder: Path, name: str, live: str | None, count: int) -> list[Logged]:
    """Return the newest answers of a log to `count` different images, those of the live version if it has some.

    Raises:
        TrialError: it has no images of the model.
    """
    newest: dict[bool, dict[str, tuple[Mapping[str, Any], Path]]] = {True: {}, False: {}}
    rows = 0
    for row, path in segments.read(folder):
        if row.get("model") != name:
            continue
        rows += 1
        answers = newest[row["version"] == live]
        answers.pop(row["sha256"], None)
        few = {key: row[key] for key in ("request_id", "image", "sha256", "label", "confidence")}
        answers[row["sha256"]] = few, path
    for answers in newest.values():
        images = (Logged.of(row, path) for row, path in reversed(answers.values()) if path.is_file())
        if rows_with_image := list(islice(images, count)):
            return rows_with_image
    lack = f"no images of {name}" if rows else f"no predictions of {name}"
    raise TrialError(
        f"{folder} has {lack}: build the live version with "
        f'ARGS="handler.log=0.1 handler.log_images=true", deploy it, and wait for requests'
    )
