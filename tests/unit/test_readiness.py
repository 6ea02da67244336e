"""How long a version that loads is waited for."""

import datetime as dt
import os
import time
from typing import cast

import pytest

from serving.client import Client
from serving.client.model_status import ModelStatus, Worker
from serving.lifecycle import readiness
from serving.lifecycle.readiness import NotReady, wait_ready


class Loading:
    """Describes a version whose worker, this process, loads for some seconds, and may do so for others."""

    def __init__(self, seconds: float, may: float) -> None:
        self.began, self.seconds, self.may = time.monotonic(), seconds, may

    def describe(self, name: str, version: str) -> ModelStatus:
        ready = time.monotonic() - self.began > self.seconds
        worker = Worker("9000", "READY" if ready else "UNLOADING", os.getpid(), 0, dt.datetime.now(dt.UTC))
        return ModelStatus(name, version, 1, 1, 0.0, 60.0, 0, (worker,), startup_timeout=self.may)


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
