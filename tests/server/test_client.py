"""The client beside a server that loses requests, hangs, is killed, and changes its tokens every few seconds."""

import contextlib
import json
import logging
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from serving import archive
from serving import server as server_module
from serving.client import Client, DeadlinePassed
from serving.host.ports import Address, is_free
from serving.server import Started
from tests.server import steady_caller
from tests.server.conftest import CLASSES, CONFIG, RunningServer, export, free_offset, picture
from tests.until import until

LIFE = 6.0  # seconds of a token
DEADLINE = 36.0  # seconds, of which a quarter passes before a request is sent again


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with one archive, and tokens of a few seconds; a server that is left there is ended."""
    (tmp_path / CONFIG.name).write_text(f"{CONFIG.read_text()}\ntoken_expiration_min={LIFE / 60}\n")
    export(tmp_path / "runs" / "shapes", CLASSES["shapes"])
    overrides = ["handler.precision=fp32", "minWorkers=1"]
    archive.build(
        "shapes", "1.0", runs=tmp_path / "runs", store=tmp_path / "model_store", overrides=overrides, rehearse=False
    )
    yield tmp_path
    server_module.stop(root=tmp_path)


@pytest.fixture
def started(home: Path) -> Started:
    """Start the server of `home`."""
    return server_module.start(root=home, offset=free_offset(13_000))


def test_what_dies_with_its_worker_is_answered(server: RunningServer, root: Path) -> None:
    """Killed while its batch is gathered, which is lost then without an answer."""
    right = [server.client.predict(picture(seed), "digits").probabilities for seed in range(3)]
    waiting = ["batchSize=4", "maxBatchDelay=3000", "handler.top_k=3", "handler.precision=fp32", "minWorkers=1"]
    gathers = archive.build(
        *("gathers", "1.0"), run=root / "runs" / "digits", store=root / "model_store", overrides=waiting, rehearse=False
    )
    with server.also_serving([gathers]), ThreadPoolExecutor(3) as pool:
        (pid,) = server.pids("gathers")
        began = time.monotonic()
        asked = [pool.submit(server.client.predict, picture(seed), "gathers", deadline=DEADLINE) for seed in range(3)]
        until(lambda: requested(server, "gathers") == 3, 30)
        os.kill(pid, signal.SIGKILL)
        answers = [each.result() for each in asked]
        seconds = time.monotonic() - began
        for answer, expected in zip(answers, right, strict=True):
            assert answer.probabilities == pytest.approx(expected, abs=1e-5)
        assert server.pids("gathers") != [pid] and seconds > DEADLINE / 4, "they were lost, and asked again"


def requested(server: RunningServer, model: str) -> float:
    """Return how many requests TorchServe has taken for a model."""
    text = httpx.get(f"{server.state.metrics}/metrics", trust_env=False).text
    counts = re.findall(rf'^ts_inference_requests_total\{{.*model_name="{model}".*\}} (\S+)', text, re.M)
    return sum(map(float, counts))


def test_a_worker_that_hangs_costs_no_more_than_the_deadline(server: RunningServer) -> None:
    (pid,) = server.pids("shapes")
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(DeadlinePassed):
            server.client.predict(picture(), "shapes", deadline=1)
        with pytest.raises(DeadlinePassed):
            server.client.description("shapes", deadline=1)
        assert 1.8 < time.monotonic() - began < 10
    finally:
        os.kill(pid, signal.SIGCONT)
    assert server.client.predict(picture(), "shapes").label


def test_tokens_change_under_load_and_are_shown_nowhere(
    started: Started, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: set[str] = set()
    done = threading.Event()
    processes = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))

    def look() -> None:
        with Client(root=home, deadline=30) as client:
            while not done.wait(0.02):
                assert client.models() == ["shapes"] and client.predict(picture(), "shapes").label
                with contextlib.suppress(ValueError):  # it is being written
                    seen.update(entry["key"] for entry in json.loads((home / "key_file.json").read_text()).values())
            shown.append(repr(vars(client)) + repr(vars(client.tokens)))

    shown: list[str] = []
    began = time.monotonic()
    with ThreadPoolExecutor(1) as pool, processes:
        looking = pool.submit(look)
        calls = [processes.submit(steady_caller.errors, home, "shapes", picture(), 130, 10.0) for _ in range(2)]
        errors = [error for call in calls for error in call.result()]
        done.set()
        looking.result()
    seconds = time.monotonic() - began
    assert not errors
    # The one that renews, and of both addresses the first and those that came after three quarters of a life each.
    renewals = (len(seen) - 3) / 2  # by whichever process came first
    assert seconds / LIFE - 1 < renewals < seconds / (0.75 * LIFE) + 1
    shown += [caplog.text, *(each.read_text() for each in (home / "logs").glob("*.log"))]
    assert "HTTP Request" in caplog.text and len(shown) >= 4
    assert not [token for token in seen if any(token in text for text in shown)]


def test_a_server_that_is_killed_and_started_again_goes_on(started: Started, home: Path) -> None:
    with Client(root=home, deadline=60) as client, ThreadPoolExecutor(1) as pool:
        client.predict(picture(), "shapes")
        assert client.models() == ["shapes"]
        before = client.management
        psutil.Process(started.state.pid).kill()
        asked = pool.submit(client.predict, picture(), "shapes")
        port = urlsplit(started.state.inference).port or 0
        # Its first thread ends before those that hold the ports.
        until(lambda: started.state.process() is None and is_free(Address("127.0.0.1", port)), 40)
        again = server_module.start(root=home, offset=started.state.offset)
        assert asked.result().label
        assert client.models() == ["shapes"]
        assert client.management == again.state.management != before
