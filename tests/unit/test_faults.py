"""Faults of repeated work: logged once, and again after the work has succeeded."""

import logging

import pytest

from serving.errors import ServingError
from serving.host.faults import Faults


def test_a_fault_is_logged_once_until_it_has_gone_or_is_another(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults(logging.getLogger("work"), "it stays as it was: %s")
    for error in (ServingError("no disk"), ServingError("no disk"), KeyError("x"), None, KeyError("x")):
        with faults.logged():
            if error is not None:
                raise error
    assert [record.getMessage() for record in caplog.records] == [
        "it stays as it was: no disk",
        "it stays as it was: KeyError('x')",
        "it stays as it was: KeyError('x')",
    ]


def test_an_interrupt_is_not_held_back() -> None:
    with pytest.raises(KeyboardInterrupt), Faults(logging.getLogger("work"), "%s").logged():
        raise KeyboardInterrupt
