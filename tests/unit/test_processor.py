"""The processor time of a process and of those that it has started."""

import subprocess
import sys

import psutil

from serving.host import processor
from tests.until import until

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"


def test_what_a_child_computes_counts_for_its_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], start_new_session=True) as parent:
        try:
            until(lambda: processor.seconds(parent.pid) > 0.5, 30)
        finally:
            for child in psutil.Process(parent.pid).children():
                child.kill()
            parent.kill()
    assert processor.seconds(parent.pid) == processor.seconds(-1) == 0
