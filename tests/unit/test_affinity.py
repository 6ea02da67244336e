"""Processes that load are kept on half of the cores, and given all of them afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import psutil

from serving.host import affinity
from serving.host.state import ServerState, created
from tests.until import until


def test_what_starts_meanwhile_is_kept_on_the_last_cores(tmp_path: Path) -> None:
    me = psutil.Process()
    known = ServerState(
        pid=me.pid, created=created(me.pid), inference="", management="", metrics="",
        key_file=str(tmp_path), temporary=str(tmp_path),
    )  # fmt: skip
    cores = os.sched_getaffinity(0)
    command = [sys.executable, "-c", "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"]
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(subprocess.Popen(command))
        with affinity.loading(known) as keep:
            started.append(subprocess.Popen(command))
            older, newer = (each.pid for each in started)
            keep()
            keep()
            assert os.sched_getaffinity(newer) == set(sorted(cores)[-(len(cores) // 2) :])
            assert os.sched_getaffinity(older) == cores
            until(lambda: psutil.Process(newer).num_threads() == 2, 60)
        assert {tuple(os.sched_getaffinity(each.id)) for each in psutil.Process(newer).threads()} == {tuple(cores)}
    finally:
        for each in started:
            each.kill()
            each.wait()
    assert os.sched_getaffinity(0) == cores


def test_a_server_that_is_gone_keeps_nothing() -> None:
    with affinity.loading(None) as keep:
        keep()
