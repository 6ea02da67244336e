"""The counters of all workers of a server, summed over the workers of each version."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate, chain
from pathlib import Path

from prometheus_client import Metric as Family
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from handlers.observation import slot
from handlers.observation.counters import SUFFIX, Metric, Snapshot

LABELS = ("model", "version")
Sums = dict[tuple[str, str, Metric], "array[float]"]


class WorkerMetrics(Collector):
    """Reads the files of the workers at each scrape.

    Args:
        folder: returns that of the server that runs at present, None without one.
    """

    def __init__(self, folder: Callable[[], Path | None]) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Family]:
        """Yield a family for each metric."""
        folder = self._folder()
        families: dict[str, Family] = {}
        for (model, version, metric), numbers in (_sums(folder) if folder is not None else {}).items():
            if metric.name not in families:
                families[metric.name] = _family(metric)
            _add(families[metric.name], metric, (model, version), numbers)
        yield from families.values()


def _sums(folder: Path) -> Sums:
    """Return the numbers of each metric of each version, summed over its workers, ended ones included."""
    sums: Sums = {}
    for path in slot.files(folder, SUFFIX):
        try:
            snapshot = Snapshot.read(path)
        except (OSError, ValueError, KeyError, TypeError):  # a worker is starting, or its version was removed
            continue
        for metric, numbers in snapshot:
            key = snapshot.model, snapshot.version, metric
            before = sums.get(key)
            sums[key] = numbers if before is None else array("d", map(float.__add__, before, numbers))
    return sums


def _family(metric: Metric) -> Family:
    labels = (*LABELS, metric.label) if metric.label else LABELS
    kind = HistogramMetricFamily if metric.bounds else CounterMetricFamily
    return kind(metric.name, metric.help, labels=labels)


def _add(family: Family, metric: Metric, labels: tuple[str, str], numbers: "array[float]") -> None:
    for place, value in enumerate(metric.values):
        own = numbers[place * metric.width : (place + 1) * metric.width]
        label_values = (*labels, value) if metric.label else labels
        if isinstance(family, HistogramMetricFamily):
            family.add_metric(label_values, list(_buckets(metric.bounds, own)), own[-1])
        elif isinstance(family, CounterMetricFamily):
            family.add_metric(label_values, own[0])


def _buckets(bounds: Iterable[float], numbers: "array[float]") -> Iterator[tuple[str, float]]:
    """Yield each upper bound with the observations up to it."""
    return zip(chain(map(str, bounds), ["+Inf"]), accumulate(numbers[:-1]), strict=True)
