"""Closed-loop load: each connection sends its next request when the last one is answered.

`wrk`, a generator in C, sends the requests, so that it takes little of the cores; the result has its share.
"""

import dataclasses
import json
import resource
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

SCRIPT = Path(__file__).with_suffix(".lua")
TIMEOUT = 30  # seconds of an answer; the slowest peer takes ten for 64 large images


class LoadError(Exception):
    """No load was sent; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """The figures of one run: answers a second, latencies in milliseconds, failures, and the cores that wrk used.

    `refused` answers had a status of 400 or more; `broken` requests got no answer. `generator_cores` is the processor
    time that wrk took by the time that passed.
    """

    requests_per_second: float
    p50: float
    p90: float
    p99: float
    longest: float
    requests: int
    refused: int
    broken: int
    generator_cores: float

    @classmethod
    def of_output(cls, text: str, processor_seconds: float) -> Self:
        """Read the last line of the script's output.

        Raises:
            LoadError: it has no figures.
        """
        lines = text.strip().splitlines() or [""]
        try:
            figures: dict[str, Any] = json.loads(lines[-1])
            seconds = figures["microseconds"] / 1e6
            answered = figures["requests"] - figures["refused"]
            return cls(
                requests_per_second=answered / seconds,
                p50=figures["p50"] / 1e3,
                p90=figures["p90"] / 1e3,
                p99=figures["p99"] / 1e3,
                longest=figures["max"] / 1e3,
                requests=figures["requests"],
                refused=figures["refused"],
                broken=figures["broken"] + figures["timeouts"],
                generator_cores=processor_seconds / seconds,
            )
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise LoadError(f"wrk printed no figures: {lines[-1][:200]!r}") from error


def find_wrk() -> str:
    """Return the path of wrk.

    Raises:
        LoadError: it is not installed.
    """
    path = shutil.which("wrk")
    if path is None:
        raise LoadError("wrk is not installed: apt-get install wrk (or your system's package of that name)")
    return path


def run(
    url: str, bodies: Sequence[Path], *, connections: int, seconds: float, headers: Mapping[str, str] | None = None
) -> Load:
    """Send `bodies` in turn to `url` over `connections` connections for `seconds` (whole ones, at least 1).

    Raises:
        LoadError: wrk is not installed, or could not connect.
    """
    command = [find_wrk(), "--threads", "1", "--connections", str(connections), "--timeout", f"{TIMEOUT}s"]
    command += ["--duration", f"{max(1, round(seconds))}s", "--script", str(SCRIPT)]
    for name, value in (headers or {}).items():
        command += ["--header", f"{name}: {value}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.run(
        [*command, url, "--", *map(str, bodies)], capture_output=True, text=True, timeout=seconds + 4 * TIMEOUT
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise LoadError(f"wrk failed: {(process.stderr or process.stdout).strip()[:200]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Load.of_output(process.stdout, spent)
