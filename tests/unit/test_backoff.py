"""When a watcher tries again what failed."""

from serving.lifecycle.backoff import Backoff


def test_a_pause_doubles_with_each_failure_and_a_success_ends_it() -> None:
    now = 0.0
    backoff = Backoff(1.0, 3.0, lambda: now)
    assert backoff.is_due() and not backoff.is_failing()
    pauses: list[float] = []
    for _ in range(4):
        backoff.fail()
        assert backoff.is_failing() and not backoff.is_due()
        began = now
        while not backoff.is_due():
            now += 0.5
        pauses.append(now - began)
    assert pauses == [1.0, 2.0, 3.0, 3.0]
    backoff.reset()
    assert backoff.is_due() and not backoff.is_failing()
