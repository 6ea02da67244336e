"""How long a version that loads is waited for, and when it never will be READY."""

import datetime as dt
import os
import subprocess
import time
from typing import cast

import pytest

from serving.client import Client, NotFound, Unreachable
from serving.client.model_status import ModelStatus, Worker
from serving.lifecycle import readiness
from serving.lifecycle.readiness import NotReady, wait_ready


class Loading:
    """Describes a version whose worker, this process, loads for some seconds, and may do so for others."""

    def __init__(self, seconds: float, may: float) -> None:
        self.began, self.seconds, self.may = time.monotonic(), seconds, may

    def describe(self, name: str, version: str) -> ModelStatus:
        ready = time.monotonic() - self.began > self.seconds
        process = worker(os.getpid(), "READY" if ready else "UNLOADING")
        return ModelStatus(name, version, 1, 1, 0.0, 60.0, 0, (process,), startup_timeout=self.may)


def worker(pid: int, status: str = "UNLOADING") -> Worker:
    return Worker("9000", status, pid, 0, dt.datetime.now(dt.UTC))


class Described:
    """Describes versions by the workers, or the error, that come next; at the end there must be no other look."""

    def __init__(self, *answers: Worker | Exception) -> None:
        self.answers = list(answers)

    def describe(self, name: str, version: str) -> ModelStatus:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return ModelStatus(name, version, 1, 1, 0.0, 60.0, 0, (answer,), startup_timeout=60.0)


def wait(loading: Loading, **options: float) -> float:
    """Return the seconds until a version is READY."""
    began = time.monotonic()
    wait_ready(cast(Client, loading), [("a", "1.0")], alive=lambda: True, **options)
    return time.monotonic() - began


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "GRACE", 0.0)
    monkeypatch.setattr(readiness, "DESCRIPTION_LIMIT", 0.0)


def test_a_version_is_waited_for_as_long_as_its_own_startup_timeout() -> None:
    assert wait(Loading(0.5, may=5.0)) > 0.5
    with pytest.raises(NotReady, match="not every worker is READY within 0 s"):
        wait(Loading(2.0, may=0.3))


def test_an_operator_may_wait_less_than_that_but_not_more() -> None:
    for limits in ({"timeout": 0.2}, {"timeout": 9.0}):
        with pytest.raises(NotReady):
            wait(Loading(2.0, may=0.3 if limits["timeout"] > 1 else 5.0), **limits)


def test_a_worker_whose_first_process_ends_or_is_replaced_ends_the_wait() -> None:
    def alive() -> bool:  # asked before each look
        if len(described.answers) == 1:
            child.communicate()
        return True

    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        for described in (
            Described(worker(child.pid), worker(-1)),  # it has ended by the second look
            Described(worker(child.pid)),  # by the first
            Described(worker(os.getpid()), worker(os.getppid())),
        ):
            with pytest.raises(NotReady, match=r"a worker of a 1\.0 does not load"):
                wait_ready(cast(Client, described), [("a", "1.0")], alive=alive)


def test_a_front_end_that_ended_or_lacks_a_version_ends_the_wait() -> None:
    with pytest.raises(NotReady, match="TorchServe ended while it started"):
        wait_ready(cast(Client, Described()), [("a", "1.0")], alive=lambda: False)
    missing = Described(NotFound(404, "ModelNotFoundException", "no a"))
    with pytest.raises(NotReady, match=r"TorchServe could not load a 1\.0"):
        wait_ready(cast(Client, missing), [("a", "1.0")], alive=lambda: True)


def test_every_version_must_be_described_and_ready() -> None:
    ready = worker(os.getpid(), "READY")
    described = Described(ready, Unreachable("it starts"), ready, worker(os.getpid()), ready, ready)
    states = wait_ready(cast(Client, described), [("a", "1.0"), ("b", "1.0")], alive=lambda: True)
    assert [status.name for status in states] == ["a", "b"] and not described.answers
