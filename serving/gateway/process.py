"""A gateway as a process beside the server of a container."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

DRAIN_LIMIT = 60.0  # seconds for its end: requests under way take up to 35


@contextlib.contextmanager
def beside(root: Path, options: Sequence[str]) -> Iterator[list[int]]:
    """Run `python -m serving.gateway` with these options in `root` until the block ends; yield its process."""
    with subprocess.Popen([sys.executable, "-m", "serving.gateway", *options], cwd=root) as process:
        try:
            yield [process.pid]
        finally:
            process.terminate()  # it takes no further requests, and ends those under way
            try:
                process.wait(DRAIN_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
