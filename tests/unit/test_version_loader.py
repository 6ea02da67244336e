"""The thread that loads versions: it tries every one, reports those that fail, and says when it is done."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.host import lock
from serving.host.state import ServerState
from serving.lifecycle.loader import Loader
from serving.lifecycle.readiness import Version
from tests.until import until

WITHOUT_ARCHIVE = [("hands", "1.0"), ("petals", "2.0")]
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def loader(tmp_path: Path) -> Iterator[Loader]:
    (tmp_path / "model_store").mkdir()
    (tmp_path / "logs").mkdir()
    with contextlib.closing(Loader(tmp_path)) as loader:
        yield loader


def load(loader: Loader) -> list[frozenset[Version]]:
    """Load versions without an archive; return the versions that were under way at each call of `ended`."""
    known = ServerState(0, 0, NOWHERE, NOWHERE, NOWHERE, str(loader.root / "key_file.json"), "")
    calls: list[frozenset[Version]] = []
    loader.load(known, WITHOUT_ARCHIVE, lambda: calls.append(loader.versions))
    until(lambda: not loader.versions, 30)
    return calls


def test_every_version_is_tried_and_each_failure_is_logged(loader: Loader, caplog: pytest.LogCaptureFixture) -> None:
    # The watcher begins its next pause in that call: until then the versions are under way.
    assert load(loader) == [frozenset(WITHOUT_ARCHIVE)]
    failures = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert [line.partition(" should be live and still does not load: ")[0] for line in failures] == [
        "hands 1.0",
        "petals 2.0",
    ]


def test_a_deployment_ends_the_attempt_without_a_failure(loader: Loader, caplog: pytest.LogCaptureFixture) -> None:
    with lock.deploying(loader.root):
        assert load(loader) == [frozenset(WITHOUT_ARCHIVE)]
    assert not caplog.records
