"""An action that a thread repeats until a block ends."""

import threading

import pytest

from serving.host.repetition import repeated


def test_an_action_runs_at_once_and_again_until_the_block_ends() -> None:
    ran = threading.Semaphore(0)
    with repeated(ran.release, 0.01, "action"):
        for _ in range(3):
            assert ran.acquire(timeout=10)
        assert any(thread.name == "action" for thread in threading.enumerate())
    assert all(thread.name != "action" for thread in threading.enumerate())


def test_the_end_of_a_block_waits_for_an_action_that_runs() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def action() -> None:
        begun.set()
        may_end.wait(10)
        ended.set()

    def leave() -> None:
        with repeated(action, 60, "action"):
            begun.wait(10)

    leaving = threading.Thread(target=leave)
    leaving.start()
    assert begun.wait(10)
    leaving.join(0.05)
    assert leaving.is_alive()
    may_end.set()
    leaving.join(10)
    assert ended.is_set() and not leaving.is_alive()


def test_a_block_that_raises_ends_the_repetition() -> None:
    with pytest.raises(ValueError, match="oh"), repeated(lambda: None, 60, "action"):
        raise ValueError("oh")
    assert all(thread.name != "action" for thread in threading.enumerate())
