"""Locks of one directory, between threads of one process as between processes."""

import threading
from pathlib import Path

import pytest

from serving.host import lock
from tests.until import until


def test_a_second_make_up_of_one_model_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    said: list[str] = []
    done = threading.Event()

    def second() -> None:
        with lock.training(tmp_path, "birds", said.append):
            done.set()

    thread = threading.Thread(target=second)
    with lock.training(tmp_path, "birds", said.append), lock.training(tmp_path, "moths", said.append):
        assert not said
        thread.start()
        until(lambda: said, 10)
        assert said == ["another make up of birds runs here: waiting for its end"] and not done.is_set()
    assert done.wait(10)
    thread.join()


def test_who_changes_what_is_live_waits_and_gives_up_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RECORDING", 0.2)
    with (
        lock.recording(tmp_path),
        pytest.raises(lock.Held, match=r"logs/live\.lock") as caught,
        lock.recording(tmp_path),
    ):
        raise AssertionError
    assert "\n" not in str(caught.value)
