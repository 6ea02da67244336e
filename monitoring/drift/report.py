"""The report on the drift of one version: a verdict on its newest images, and when the drift began."""

import dataclasses
import zipfile
from collections.abc import Sequence
from pathlib import Path

from handlers.errors import ArtifactError
from handlers.observation import segments
from handlers.observation.reference import LEAST_ROWS, Reference
from monitoring import log
from monitoring.drift import course, sample
from monitoring.drift.course import Window
from monitoring.drift.live import WINDOWS, reference_of
from monitoring.drift.sample import Sample
from monitoring.drift.verdict import Verdict, judge
from serving.errors import ServingError
from serving.lifecycle import launch
from serving.store import model_store
from serving.store.live import Live
from serving.store.model_store import Archive

TIME = "%Y-%m-%d %H:%M:%S UTC"


class ReportError(ServingError):
    """There is nothing to report on; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The `sample` that the `verdict` is on (None: it is too small), and the `windows` of the log that it is from.

    The alarm persists from the window `onset`, None without such an alarm or without a log.
    """

    title: str
    source: str
    sample: Sample
    verdict: Verdict | None
    windows: Sequence[Window]
    onset: Window | None

    @property
    def sentence(self) -> str:
        """Return the verdict in words."""
        if self.verdict is None:
            return (
                f"No verdict: there are {len(self.sample)} images, and a test needs {LEAST_ROWS}. "
                "This page describes them."
            )
        is_log = bool(self.windows)
        return self.verdict.about(f"the {'last ' if is_log else ''}{len(self.sample):,} images")

    @property
    def history(self) -> str:
        """Return when the drift began, in words; empty without a log."""
        if not self.windows:
            return ""
        if self.onset is not None:
            times = f"{self.onset.first:{TIME}} to {self.onset.last:{TIME}}"
            return f"It began in the window from {times}, and persists since then."
        flagged = [window for window in self.windows if window.alarms]
        if flagged:
            return (
                f"{len(flagged)} of {len(self.windows)} windows of {course.WINDOW} images differ, the last of them "
                f"until {flagged[-1].last:{TIME}}, but not the newest one; by chance, one window in 200 does."
            )
        if self.verdict is not None and self.verdict.kind != "none":
            return f"The windows of {course.WINDOW} images are too small to show when it began."
        return f"No window of {course.WINDOW} images since {self.windows[0].first:{TIME}} differs either."


def archive_of(name: str, version: str | None) -> tuple[Archive, Reference]:
    """Return the archive of a version, else of the live or the newest one, and its reference.

    Raises:
        ReportError: it has no reference.
        ArchiveError: there is no such archive, or it is damaged.
    """
    model_store.check_name(name)
    live = Live.read(Path.cwd()).models
    if version is None and name in live:
        version = live[name].version
    archive = model_store.find(name, version)
    archive.check()
    try:
        reference = reference_of(archive.path)
    except (ArtifactError, zipfile.BadZipFile) as error:
        raise ReportError(str(error)) from error
    if reference is None or len(reference) < LEAST_ROWS:
        count = "no" if reference is None else f"only {len(reference)}"
        raise ReportError(
            f"{archive.path} has {count} validation images to compare with: train with {LEAST_ROWS} validation images "
            f"or more, and build another version (make archive NAME={name} VERSION=<version>)"
        )
    return archive, reference


def sample_of(raw: str, archive: Archive, width: int) -> tuple[Sample, bool]:
    """Return the current images, and whether they are from a log; that of the served model if `raw` is empty.

    Raises:
        LogError, SampleError, InputError: there are none.
    """
    root, classes = Path.cwd(), archive.spec()["classes"]
    path = Path(raw) if raw else log.folder_of(root, archive.name).relative_to(root)
    if path.is_dir() and segments.segments(path):
        return sample.of_log(path, archive.version, classes, width), True
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        folder = (launch.predictions(root) / archive.name).relative_to(root)
        raise ReportError(f"{path} {state}: name a folder of images, or that of a log such as {folder}")
    return sample.of_folder(path, archive, classes, width), False


def build(archive: Archive, reference: Reference, whole: Sample, is_log: bool) -> Report:
    """Return the report on current images; of a log on the newest of them, as the exporter tests them."""
    windows = course.windows(reference, whole) if is_log else []
    start = course.onset([window.alarms for window in windows])
    part = whole.newest(max(WINDOWS)) if is_log else whole
    verdict = judge(reference, part.images) if len(part) >= LEAST_ROWS else None
    if verdict is not None and verdict.kind == "none" and start is not None:
        # Drift that has just begun: the smaller window sees it first.
        part, verdict = whole.newest(course.WINDOW), windows[-1].verdict
    return Report(
        f"{archive.name} {archive.version}",
        whole.source,
        part,
        verdict,
        windows,
        windows[start] if start is not None else None,
    )
