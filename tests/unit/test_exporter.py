"""The exporter: the sums of workers' files, a server's state, and the process beside a server."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from handlers.observation.counters import Counters, metrics
from handlers.observation.slot import Slot
from monitoring import drift_metrics
from monitoring import exporter as monitoring_exporter
from monitoring.server_metrics import COUNTERS, GAUGES, ServerMetrics
from serving.host import ports
from serving.host.state import ServerState, created
from serving.lifecycle import exporter, launch
from serving.lifecycle.exporter import Exporter
from serving.lifecycle.repairs import KINDS, Repairs
from tests.until import until

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "monitoring.md"
CLASSES = ("ant", 'a "bee"\\')
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """Return the samples of an answer, by name and labels, after a check of its types and help."""
    families = list(text_string_to_metric_families(text))
    assert all(family.type != "unknown" and family.documentation for family in families)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Return the directory of a "server" on free ports, which is another program."""
    (tmp_path / "logs").mkdir()
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        record(tmp_path, process.pid, free_port())
        yield tmp_path
        process.communicate()


def free_port() -> int:
    """Return a free port for an exporter; the one below it, where it asks the server, is free too.

    No server of another test has a port below 7,000, so none takes these before the exporter listens.
    """
    for port in range(2_001 + os.getpid() % 200 * 20, 7_000, 2):
        if all(ports.is_free(ports.Address("127.0.0.1", number)) for number in (port, port - 1)):
            return port
    raise AssertionError("no port is free")


def record(home: Path, pid: int, port: int) -> None:
    metrics_url = f"http://127.0.0.1:{port - 1}"
    temporary = str(home / "temporary")
    ServerState(pid, created(pid), "", "http://127.0.0.1:1", metrics_url, str(home / "key_file.json"), temporary).write(
        home
    )


def worker(home: Path, version: str, predictions: int) -> Counters:
    """Return counters of a worker with predictions of the second class."""
    folder = launch.observations(str(home / "temporary"))
    counters = Counters(Slot.take(folder, "birds", version), "birds", version, CLASSES)
    counters.add("sightline_predictions_total", predictions, place=1)
    for _ in range(predictions):
        counters.observe("sightline_confidence", 0.91)
    counters.write()
    return counters


def scrape(home: Path) -> Samples:
    return samples(generate_latest(monitoring_exporter.registry(home)).decode())


def test_the_workers_of_a_version_are_summed_and_versions_are_apart(home: Path) -> None:
    kept = [worker(home, "1.0", 3), worker(home, "1.0", 4), worker(home, "2.0", 5)]
    found = scrape(home)
    for version, count in (("1.0", 7), ("2.0", 5)):
        labels = {"model": "birds", "version": version}
        assert value(found, "sightline_predictions_total", **labels, **{"class": CLASSES[1]}) == count
        assert value(found, "sightline_predictions_total", **labels, **{"class": CLASSES[0]}) == 0
        assert value(found, "sightline_confidence_count", **labels) == count
        assert value(found, "sightline_confidence_sum", **labels) == pytest.approx(0.91 * count)
        buckets = [value(found, "sightline_confidence_bucket", le=bound, **labels) for bound in ("0.9", "0.95", "+Inf")]
        assert buckets == [0, count, count]
    assert len(kept) == 3


def test_a_worker_that_is_starting_or_of_another_release_costs_no_metric(home: Path) -> None:
    kept = worker(home, "1.0", 3)
    own = launch.observations(str(home / "temporary")) / "birds" / "1.0"
    (own / "7.counters").write_bytes(b'{"model": "birds"')
    (own / "8.counters").write_bytes(b'{"model": "birds", "version": "1.0"}\n' + bytes(16))
    other = {"name": "sightline_confidence", "help": "Old.", "label": "", "values": [""], "bounds": [0.5]}
    about = json.dumps({"model": "birds", "version": "0.9", "metrics": [other]}).encode()
    (own / "9.counters").write_bytes(about + b" " * (-(len(about) + 1) % 8) + b"\n" + bytes(8 * 5))
    found = scrape(home)
    assert value(found, "sightline_confidence_count", model="birds", version="1.0") == 3
    assert value(found, "sightline_confidence_bucket", model="birds", version="0.9", le="0.5") == 0
    assert kept.metrics == metrics(CLASSES)


def test_a_directory_without_a_server_says_so(tmp_path: Path) -> None:
    found = scrape(tmp_path)
    assert value(found, "sightline_up") == 0
    assert value(found, "sightline_disk_free_bytes") <= value(found, "sightline_disk_size_bytes")
    assert {value(found, "sightline_repairs_total", repair=kind) for kind in KINDS} == {0}


def test_a_server_that_does_not_answer_is_down_and_its_workers_counts_stay(home: Path) -> None:
    kept = worker(home, "1.0", 3)
    (home / "key_file.json").write_text("{}")
    found = scrape(home)
    assert value(found, "sightline_up") == 0
    assert 0 <= value(found, "sightline_key_age_seconds") < 60
    assert value(found, "sightline_confidence_count", model="birds", version="1.0") == 3
    assert kept.metrics


def test_the_server_is_asked_at_most_every_five_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, questions = 100.0, list[Path]()

    def read(root: Path) -> None:
        questions.append(root)

    monkeypatch.setattr("serving.status.read", read)
    collector = ServerMetrics(tmp_path, clock=lambda: now)
    for now in (100.0, 101.0, 104.9, 105.0, 109.0):  # noqa: B007
        list(collector.collect())
    assert len(questions) == 2


def test_repairs_are_counted_across_watchers_and_a_damaged_file_starts_again(tmp_path: Path) -> None:
    for kind in ("queue", "queue", "workers"):
        Repairs(tmp_path).add(kind)
    assert Repairs(tmp_path).counts() == {"queue": 2, "workers": 1}
    assert value(scrape(tmp_path), "sightline_repairs_total", repair="queue") == 2
    (tmp_path / "logs" / "repairs.json").write_text("[")
    Repairs(tmp_path).add("queue")
    assert Repairs(tmp_path).counts() == {"queue": 1}
    shutil.rmtree(tmp_path / "logs")
    (tmp_path / "logs").touch()
    Repairs(tmp_path).add("queue")


# The process


def get(home: Path) -> Samples | None:
    server = ServerState.read(home)
    assert server is not None
    address = f"http://127.0.0.1:{ports.exporter_port(server.metrics)}/metrics"
    try:
        with urllib.request.urlopen(address, timeout=20) as response:  # seconds, on a machine with other work
            return samples(response.read().decode())
    except OSError:
        return None


def exporters() -> list[psutil.Process]:
    running = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in running if exporter.MODULE in child.cmdline()]


def test_an_exporter_runs_beside_a_server_and_again_after_it_was_killed(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(exporter, "INTERVAL", 0.1)
    kept = worker(home, "1.0", 3)
    with exporter.beside(home):
        until(lambda: get(home), 30)
        (first,) = exporters()
        first.kill()
        until(lambda: exporters() not in ([first], []), 30)
        until(lambda: get(home), 30)
        found = get(home)
        assert found and value(found, "sightline_confidence_count", model="birds", version="1.0") == 3
    assert exporters() == [] and get(home) is None
    assert [record.getMessage() for record in caplog.records] == [
        "the exporter of metrics has ended (-9, see logs/exporter.log): restarting it"
    ]
    assert kept.metrics


def test_an_exporter_waits_for_a_server_and_moves_with_its_ports(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = ServerState.read(home)
    assert server is not None
    ServerState.remove(home)
    beside = Exporter(home)
    try:
        beside.look()
        assert exporters() == []
        server.write(home)
        beside.look()
        until(lambda: get(home), 30)
        record(home, server.pid, free_port())  # the exporter has the other one
        assert get(home) is None
        beside.look()
        until(lambda: get(home), 30)
        assert len(exporters()) == 1
    finally:
        beside.close()


def test_an_exporter_whose_port_is_taken_says_so_and_is_started_less_and_less_often(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = ServerState.read(home)
    assert server is not None
    now, starts = 0.0, 0
    beside = Exporter(home, clock=lambda: now)
    with socket.create_server(("127.0.0.1", ports.exporter_port(server.metrics))):
        for _ in range(3):
            beside.look()
            starts += len(exporters())
            psutil.wait_procs(exporters(), timeout=30)
            beside.look()
            now += 1.5
    assert starts == 2  # at 0 and 1.5 seconds; the next at 3.5
    assert "error: no metrics are served: " in (home / "logs" / exporter.LOG).read_text()
    assert len(caplog.records) == 1
    beside.close()


WATCHER = """
import sys
from pathlib import Path
from serving.lifecycle import exporter
with exporter.beside(Path(sys.argv[1])):
    input()
"""


def test_an_exporter_ends_with_a_parent_that_was_killed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with subprocess.Popen([sys.executable, "-c", WATCHER, str(home)], stdin=subprocess.PIPE) as parent:
        until(lambda: get(home), 30)
        children = psutil.Process(parent.pid).children()
        parent.kill()
    assert len(children) == 1 and not psutil.wait_procs(children, timeout=10)[1]


# The page


def names_of_code() -> dict[str, tuple[str, str, str]]:
    """Return type, labels and help of each metric."""
    worker = {
        metric.name: ("histogram" if metric.bounds else "counter", ("model", "version", metric.label), metric.help)
        for metric in metrics(CLASSES)
    }
    gauges = GAUGES | drift_metrics.GAUGES
    server = {name: ("gauge", labels, text) for name, (labels, text) in gauges.items()}
    server |= {name: ("counter", labels, text) for name, (labels, text) in COUNTERS.items()}
    return {
        name: (kind, ", ".join(filter(None, labels)), text) for name, (kind, labels, text) in (worker | server).items()
    }


def table() -> str:
    lines = [
        f"| `{name}` | {kind} | {labels} | {text.rstrip('.')} |"
        for name, (kind, labels, text) in names_of_code().items()
    ]
    return "\n".join(["| name | type | labels | meaning |", "|---|---|---|---|", *lines])


def test_the_page_has_every_name_once() -> None:
    section = PAGE.read_text().partition("<!-- names -->\n")[2].partition("<!-- /names -->")[0]
    assert section.strip() == table(), "docs/monitoring.md, section Names, should be:\n" + table()


def test_queries_of_the_page_use_names_of_the_code(home: Path) -> None:
    kept = worker(home, "1.0", 1)
    series = {name for name, _ in scrape(home)} | set(GAUGES) | set(COUNTERS) | set(drift_metrics.GAUGES)
    named = set(re.findall(r"sightline_[a-z_]+", PAGE.read_text().partition("## Questions")[2]))
    assert named and not named - series, named - series
    assert kept.metrics


def test_names_follow_the_conventions_of_prometheus() -> None:
    for name, (kind, _, _) in names_of_code().items():
        assert re.fullmatch(r"sightline_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (kind == "counter"), name
        assert not re.search(r"_(ms|milliseconds|microseconds|mb|percent)\b", name)
