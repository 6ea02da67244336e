"""The state of a server for Prometheus: its versions and workers, queues, memory, key, disk and repairs."""

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from serving import status
from serving.errors import ServingError
from serving.host.state import KEY_FILE, ServerState
from serving.lifecycle.repairs import KINDS, Repairs
from serving.status import Status
from serving.store.live import Live

REFRESH = 5.0  # seconds between two questions to the management API
VERSION = ("model", "version")
# Name, labels and help of each.
GAUGES = {
    "sightline_up": ((), "Whether a server runs and its management API answers."),
    "sightline_server_start_time_seconds": ((), "Start of the front end, in seconds since 1970."),
    "sightline_server_memory_bytes": ((), "Resident memory of the front end."),
    "sightline_queue_requests": (VERSION, "Requests that wait for a worker."),
    "sightline_workers": ((*VERSION, "state"), "Workers by TorchServe's state."),
    "sightline_worker_memory_bytes": (VERSION, "Resident memory of all workers."),
    "sightline_default_version": (VERSION, "1 for the version that answers requests without a version."),
    "sightline_live_version": (VERSION, "1 for the version that model_store/live.json records."),
    "sightline_key_age_seconds": ((), "Time since the keys were written."),
    "sightline_disk_free_bytes": ((), "Free space on the disk of the server's directory."),
    "sightline_disk_size_bytes": ((), "Size of the disk of the server's directory."),
}
COUNTERS = {"sightline_repairs_total": (("repair",), "Repairs by make watch.")}


class ServerMetrics(Collector):
    """Asks the server of a directory at a scrape, at most every `REFRESH` seconds.

    Args:
        root: the directory.
        clock: in seconds.
    """

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root, self._clock = root, clock
        self._status: Status | None = None
        self._due = 0.0

    def collect(self) -> Iterator[Family]:
        """Yield a family for each metric."""
        gauges = {name: GaugeMetricFamily(name, text, labels=labels) for name, (labels, text) in GAUGES.items()}
        report = self._read()
        gauges["sightline_up"].add_metric((), float(report is not None))
        if report is not None:
            gauges["sightline_server_start_time_seconds"].add_metric((), time.time() - report.uptime)
            gauges["sightline_server_memory_bytes"].add_metric((), report.memory)
            _add_versions(gauges, report)
        self._add_files(gauges)
        yield from gauges.values()
        ((name, (labels, text)),) = COUNTERS.items()
        repairs = CounterMetricFamily(name, text, labels=labels)
        counts = Repairs(self._root).counts()
        for kind in KINDS:
            repairs.add_metric((kind,), counts.get(kind, 0))
        yield repairs

    def _read(self) -> Status | None:
        if self._clock() >= self._due:
            self._status = None
            with contextlib.suppress(ServingError, OSError, psutil.Error):
                self._status = status.read(self._root)
            self._due = self._clock() + REFRESH
        return self._status

    def _add_files(self, gauges: dict[str, GaugeMetricFamily]) -> None:
        """Add the metrics that need no answer of the server."""
        with contextlib.suppress(ServingError, OSError):
            for name, live in Live.read(self._root).models.items():
                gauges["sightline_live_version"].add_metric((name, live.version), 1)
        with contextlib.suppress(OSError):
            disk = shutil.disk_usage(self._root)
            gauges["sightline_disk_free_bytes"].add_metric((), disk.free)
            gauges["sightline_disk_size_bytes"].add_metric((), disk.total)
            server = ServerState.read(self._root)
            key_file = Path(server.key_file) if server is not None else self._root / KEY_FILE
            gauges["sightline_key_age_seconds"].add_metric((), max(0.0, time.time() - key_file.stat().st_mtime))


def _add_versions(gauges: dict[str, GaugeMetricFamily], report: Status) -> None:
    for version in report.versions:
        labels = version.model.name, version.model.version
        gauges["sightline_queue_requests"].add_metric(labels, version.model.pending)
        gauges["sightline_worker_memory_bytes"].add_metric(labels, version.memory)
        for state, count in Counter(worker.status for worker in version.model.workers).items():
            gauges["sightline_workers"].add_metric((*labels, state), count)
        if version.default:
            gauges["sightline_default_version"].add_metric(labels, 1)
