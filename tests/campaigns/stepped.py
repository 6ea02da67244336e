"""Run a program that stops, or is killed, before one of its steps, so that interleavings can be repeated.

    python -m tests.campaigns.stepped stop 3 steps.log serving.deploy birds 2.0    SIGSTOP before the third step
    python -m tests.campaigns.stepped kill 3 steps.log serving.deploy birds 2.0    SIGKILL before it
    python -m tests.campaigns.stepped stop 0 steps.log serving.deploy birds 2.0    only counts

A step is an action that another process may notice: a lock, a read of live.json, the replacement of a file, a change of
the models of the server, the start of a process, a phase of a deployment. Each is logged before it happens.
"""

import functools
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import filelock

from serving.client import Client
from serving.lifecycle.deployment import Deployment
from serving.store.live import Live

SIGNALS = {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}
PATCHED: Mapping[str, tuple[Any, str]] = {
    "acquire": (filelock.FileLock, "acquire"),
    "release": (filelock.FileLock, "release"),
    "look": (Live, "read"),
    "replace": (os, "replace"),
    "change": (Client, "_change"),
    "start": (subprocess.Popen, "__init__"),
    "phase": (Deployment, "_step"),
}


def install(how: str, number: int, log: Path) -> None:
    """Make this process stop or die (`how`) before its step `number`, 0 for never, and write its steps to `log`."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count = 0

    def step(name: str) -> None:
        nonlocal count
        count += 1
        os.write(file, f"{name}\n".encode())
        if count == number:
            os.kill(os.getpid(), SIGNALS[how])

    for name, (owner, function) in PATCHED.items():
        _patch(owner, function, functools.partial(step, name))


def steps(log: Path) -> list[str]:
    """Return the steps of a process so far."""
    return log.read_text().splitlines() if log.is_file() else []


def _patch(owner: Any, name: str, step: Callable[[], None]) -> None:
    work = getattr(owner, name)

    def stepped(*arguments: Any, **options: Any) -> Any:
        step()
        return work(*arguments, **options)

    # A class method is bound to its class already.
    setattr(owner, name, staticmethod(stepped) if isinstance(owner, type) and hasattr(work, "__self__") else stepped)


def main() -> None:
    how, number, log, module, *arguments = sys.argv[1:]
    install(how, int(number), Path(log))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
