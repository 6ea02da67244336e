"""The reports of the nodes of a fleet, which each writes again and again; a node that writes no new one has died."""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from handlers import atomic
from serving.errors import ServingError
from serving.fleet.shared_document import below, reached

REPORT_INTERVAL, DEAD_AFTER = (
    2.0,
    10.0,
)  # seconds between two reports of a node, and without one until it counts as dead
FOLDER = "nodes"


@dataclasses.dataclass(frozen=True, slots=True)
class NodeReport:
    """One report; `count` differs in each report. `serves` has the versions that answer on the node.

    `reason` is why it does not serve the desired versions, "" if it does; `step` is that of a deployment under way.
    """

    name: str
    host: str
    folder: str  # of its server, on that host
    count: int
    serves: Mapping[str, str]
    reason: str = ""
    step: str = ""


class Reports:
    """The reports at the address of a fleet, and when each of them last changed."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._clock = url, clock
        with reached(url):
            self._files, self._path = fsspec.core.url_to_fs(below(url, FOLDER))
        self._changes: dict[str, tuple[int, float]] = {}  # the last count of each, and when it was first seen
        self._last_read = 0.0
        self._reporting: set[str] = set()  # those whose count has changed since the first look

    def write(self, report: NodeReport) -> None:
        """Write a node's report in the place of its last one.

        Raises:
            AddressError: it cannot be written.
        """
        with reached(self._url):
            path, text = f"{self._path}/{report.name}.json", json.dumps(dataclasses.asdict(report))
            if isinstance(self._files, LocalFileSystem):  # fsspec would show a file that is half written
                atomic.write_text(Path(path), text)
            else:
                self._files.pipe_file(path, text.encode())

    def read(self) -> dict[str, NodeReport]:
        """Return the newest report of each node.

        Raises:
            AddressError: they cannot be read.
        """
        reports = {}
        with reached(self._url):
            self._files.invalidate_cache(self._path)
            if not self._files.exists(self._path):
                return {}
            for path in sorted(self._files.glob(f"{self._path}/*.json")):
                try:
                    report = NodeReport(**json.loads(self._files.cat_file(path)))
                except (FileNotFoundError, ValueError, TypeError):  # is being written, or is none
                    continue
                reports[report.name] = report
        now = self._clock()
        if now - self._last_read > DEAD_AFTER / 2:  # nobody read for a while: count from now
            self._changes = {name: (count, now) for name, (count, _) in self._changes.items()}
        self._last_read = now
        for name, report in reports.items():
            count, _ = self._changes.get(name, (None, 0.0))
            if report.count != count:
                self._reporting |= {name} if count is not None else set()
                self._changes[name] = report.count, now
        return reports

    def dead(self) -> set[str]:
        """Return the nodes that have not said anything new for `DEAD_AFTER` seconds, as far as they were looked at."""
        now = self._clock()
        return {name for name, (_, since) in self._changes.items() if now - since > DEAD_AFTER}

    def alive(self) -> tuple[str, ...]:
        """Return the nodes that say something new within the time of two reports, in the order of their names."""
        deadline, reports = self._clock() + 2.5 * REPORT_INTERVAL, self.read()
        while self._clock() < deadline and not self._reporting.issuperset(reports):
            time.sleep(REPORT_INTERVAL / 4)
            reports = self.read()
        return tuple(sorted(self._reporting - self.dead()))

    def remove(self, name: str) -> None:
        """Forget a node.

        Raises:
            ServingError: there is none of that name.
        """
        with reached(self._url):
            path = f"{self._path}/{name}.json"
            if not self._files.exists(path):
                raise ServingError(f"no node has the name {name}: make status FLEET=<address> lists them")
            self._files.rm_file(path)
