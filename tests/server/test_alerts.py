"""The alerts that tests/server/test_monitor.py leaves out, each by its fault in a real server, with a real Prometheus.

The rules are those of deploy/prometheus with the minutes of `for:` as seconds. The server's directory is a small disk.
"""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import psutil
import pytest

from monitoring import monitor
from serving import archive, deploy
from serving import server as server_module
from serving.client import Client, ClientError
from serving.host import logs, ports
from serving.lifecycle import exporter
from serving.lifecycle.deployment import DeployLimits
from serving.rollout.guard import Guard
from serving.store import model_store
from serving.store.live import Live
from tests.server import faulty
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset, picture
from tests.server.test_drift import NAME as WATCHED
from tests.server.test_drift import save_watched
from tests.server.test_metrics import samples, state
from tests.server.test_monitor import firing
from tests.unit.test_alerts import needs_prometheus
from tests.until import until

pytestmark = [pytest.mark.slow, needs_prometheus]
NAME, WAITING = "shapes", 70  # requests that wait: more than the alert's 50
DISK = 100_000_000  # bytes
HISTORY = (-4200, -2400)  # seconds from now
SECONDS = 60.0  # for an alert to fire or to end
LOADING = 180.0  # seconds for workers to take the place of others
as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]


def troubled_while(fails: Path, is_slow: Path, hangs: Path) -> str:
    """Return code whose network fails, takes more than a second, or does not answer while a file is there."""
    return f"""
import os, time
from handlers.classifier import Classifier
_outputs = Classifier.outputs
def _troubled(self, images):
    if os.path.exists({str(fails)!r}):
        raise RuntimeError("not now")
    if os.path.exists({str(is_slow)!r}):
        time.sleep(1.2)
    while os.path.exists({str(hangs)!r}):
        time.sleep(0.05)
    return _outputs(self, images)
Classifier.outputs = _troubled
"""


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of a small file system in memory."""
    folder = tmp_path_factory.mktemp("disk")
    options = f"size={DISK},mode=700,uid={os.getuid()},gid={os.getgid()}"
    subprocess.run([*as_root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run([*as_root, "umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def home(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server with two versions of shapes, and a model with a reference for drift."""
    shutil.copy(CONFIG, disk)
    (disk / logs.FOLDER).mkdir()
    (disk / monitor.FOLDER).symlink_to(tmp_path_factory.mktemp("monitor"))  # Prometheus reserves more than the disk has
    store, settings = disk / "model_store", ["handler.precision=fp32", "batchSize=1"]
    for seed, (version, workers) in enumerate({"1.0": 1, "2.0": 2}.items()):
        run = export(disk / "runs" / version, CLASSES[NAME], seed).parent
        overrides = [*settings, f"minWorkers={workers}", f"maxWorkers={workers}"]
        archive.build(NAME, version, run=run, store=store, overrides=overrides, rehearse=False)
    code = troubled_while(disk / "fail", disk / "slow", disk / "hang")
    faulty.spoil(model_store.find(NAME, "2.0", store), code)
    run = save_watched(disk / "runs" / WATCHED).parent
    archive.build(WATCHED, "1.0", run=run, store=store, overrides=[*settings, "minWorkers=1"], rehearse=False)
    server_module.start([f"{NAME}=1.0", f"{WATCHED}=1.0"], root=disk, offset=free_offset(29_000))
    deploy.deploy(NAME, "2.0", root=disk, limits=DeployLimits(watch=0.1), verify=False, log=lambda _: None)
    yield disk
    server_module.stop(root=disk)


@pytest.fixture(scope="module")
def metrics(home: Path) -> Iterator[contextlib.ExitStack]:
    """Run the exporter until the stack is closed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("PYTHONPATH", str(ROOT))
        stack.enter_context(exporter.beside(home))
        until(lambda: samples(home), SECONDS)
        yield stack


@pytest.fixture(scope="module")
def alertmanager(home: Path, metrics: contextlib.ExitStack) -> Iterator[str]:
    """Return the address of an Alertmanager; its Prometheus knows requests to the watched model of an hour ago."""
    with pytest.MonkeyPatch.context() as patch:
        before = requests_to_watched(home)
        send(home, WATCHED, 120)
        until(lambda: requests_to_watched(home) == before + 120, SECONDS)
        remember(home, before, before + 120)
        folder = home / "deploy"
        shutil.copytree(monitor.DEPLOY, folder)
        for name, pattern, value in (
            ("alerts.yml", r"for: (\d+)m", r"for: \1s"),
            ("prometheus.yml", r"_interval: \w+", "_interval: 1s"),
            ("alertmanager.yml", r"group_wait: \w+", "group_wait: 0s"),
        ):
            changed, number = re.subn(pattern, value, (folder / name).read_text())
            assert number
            (folder / name).write_text(changed)
        patch.setattr(monitor, "DEPLOY", folder)
        patch.setenv("SIGHTLINE_PORT_OFFSET", str(free_offset(31_000)))
        with monitor.monitor(home) as (_, address):
            yield address


def requests_to_watched(home: Path) -> float:
    key = frozenset({"model": WATCHED, "version": "1.0", "code": "200"}.items())
    return samples(home).get(("sightline_requests_total", key), 0.0)


def remember(home: Path, first: float, last: float) -> None:
    """Write a counter of the exporter into the data of a Prometheus that starts later, dated an hour back."""
    labels = {"model": WATCHED, "version": "1.0", "code": "200", "job": "sightline"}
    labels["instance"] = f"127.0.0.1:{ports.exporter_port(state(home).metrics)}"
    series = ",".join(f'{name}="{value}"' for name, value in labels.items())
    now, (start, end), name = time.time(), HISTORY, "sightline_requests"
    values = ((second, last if second > start else first) for second in range(start, end, 60))
    lines = [f"{name}_total{{{series}}} {value} {now + second:.3f}" for second, value in values]
    path = home / "history.txt"
    path.write_text("\n".join([f"# TYPE {name} counter", *lines, "# EOF", ""]))
    folder = home / monitor.FOLDER / "data"
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", str(path), str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def send(home: Path, model: str, images: int, size: tuple[int, int] = (48, 40), first: int = 1000) -> None:
    """Send images one by one, without an interest in the answers."""
    with Client(root=home) as client:
        for _ in client.predict_many((picture(seed, size=size) for seed in range(first, first + images)), model):
            pass


def fires(
    alertmanager: str, name: str, meanwhile: Callable[[], object] = lambda: None, seconds: float = SECONDS
) -> None:
    """Wait until an alert has reached its receiver; call something again and again meanwhile."""

    def reached() -> bool:
        meanwhile()
        return name in firing(alertmanager)

    until(reached, seconds)
    receiver = {"critical": "at-once", "warning": "next-working-day"}
    alert = firing(alertmanager)[name]
    assert alert["receivers"] == [{"name": receiver[alert["labels"]["severity"]]}]


def ends(alertmanager: str, name: str) -> None:
    """Wait until an alert fires no longer."""
    until(lambda: name not in firing(alertmanager), SECONDS)


def ask(home: Path) -> None:
    """Send one request; it may fail."""
    with Client(root=home, deadline=10.0) as client, contextlib.suppress(ClientError):
        client.predict(picture(), NAME)


@contextlib.contextmanager
def flag(home: Path, name: str) -> Iterator[None]:
    """Have the network of shapes 2.0 in trouble while the block runs."""
    (home / name).touch()
    try:
        yield
    finally:
        (home / name).unlink()


def test_silence_and_then_images_of_another_kind(home: Path, alertmanager: str) -> None:
    fires(alertmanager, "SightlineSilent")
    seeds = count(2000, 100)
    fires(alertmanager, "SightlineDrift", lambda: send(home, WATCHED, 100, (9, 7), next(seeds)))  # blurred
    assert firing(alertmanager)["SightlineDrift"]["labels"]["kind"] == "input"
    ends(alertmanager, "SightlineSilent")


def test_requests_that_fail(home: Path, alertmanager: str) -> None:
    ask(home)
    with flag(home, "fail"):
        fires(alertmanager, "SightlineErrors", lambda: ask(home))


def test_a_slow_network(home: Path, alertmanager: str) -> None:
    with flag(home, "slow"):
        fires(alertmanager, "SightlineSlow", lambda: ask(home))


def test_a_full_queue(home: Path, alertmanager: str) -> None:
    with ThreadPoolExecutor(WAITING) as pool:
        with flag(home, "hang"):
            requests = [pool.submit(ask, home) for _ in range(WAITING)]
            fires(alertmanager, "SightlineQueue")
        for request in requests:
            request.result()
    ends(alertmanager, "SightlineQueue")


def test_workers_that_end(home: Path, alertmanager: str) -> None:
    killed = set[int]()
    with Client(root=home) as client:

        def workers() -> set[int]:
            """Return the processes of READY workers that were not killed here."""
            return {worker.pid for worker in client.describe(NAME).workers if worker.status == "READY"} - killed

        while len(killed) < 3:
            until(workers, LOADING)
            pid = workers().pop()
            killed.add(pid)
            psutil.Process(pid).kill()
    fires(alertmanager, "SightlineWorkerRestarts", seconds=LOADING)


def test_the_same_repair_again_and_again(home: Path, alertmanager: str) -> None:
    command = [sys.executable, "-m", "serving.watch"]
    with Client(root=home) as client:
        until(lambda: client.describe(NAME).ready, LOADING)
        with subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL) as watcher:
            try:
                for _ in range(3):
                    client.set_default(NAME, "1.0")
                    until(lambda: client.describe(NAME).version == "2.0", SECONDS)
            finally:
                watcher.terminate()
    fires(alertmanager, "SightlineRepairs")


def test_a_version_that_is_rolled_back(home: Path, alertmanager: str) -> None:
    guard, flag = Guard(home), home / "fail"

    def is_seen() -> bool:
        guard.look()
        return bool(guard._first)

    until(is_seen, SECONDS)
    flag.touch()
    with Client(root=home) as client:
        for seed in range(5):
            with pytest.raises(ClientError):
                client.predict(picture(seed), NAME)
    flag.unlink()

    def is_back() -> bool:
        guard.look()
        return Live.read(home).models[NAME].version == "1.0"

    until(is_back, SECONDS)
    fires(alertmanager, "SightlineRollback")


def test_a_disk_that_is_nearly_full(home: Path, alertmanager: str) -> None:
    with open(home / "filling", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(home).free - DISK // 20)
    fires(alertmanager, "SightlineDisk")
    (home / "filling").unlink()
    ends(alertmanager, "SightlineDisk")


def test_an_exporter_that_is_stopped(home: Path, alertmanager: str, metrics: contextlib.ExitStack) -> None:
    metrics.close()
    fires(alertmanager, "SightlineExporterDown")
    metrics.enter_context(exporter.beside(home))
    ends(alertmanager, "SightlineExporterDown")
