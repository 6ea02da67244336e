"""A process is known by its id and its start."""

import os
import subprocess
import sys

import pytest

from handlers import process


def test_this_process_runs_since_it_was_started() -> None:
    started = process.created(os.getpid())
    assert process.runs(os.getpid(), started)
    assert not process.runs(os.getpid(), started - 1)


def test_a_process_that_has_ended_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = process.created(child.pid)
        assert started >= process.created(os.getpid()) and process.runs(child.pid, started)
        child.communicate(b"\n")
    assert not process.runs(child.pid, started)
    with pytest.raises(OSError):
        process.created(child.pid)


def test_a_zombie_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = process.created(child.pid)
        assert child.stdin is not None
        child.stdin.write(b"\n")
        child.stdin.flush()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays until it is waited for
        assert process.created(child.pid) == started
        assert not process.runs(child.pid, started)
