"""Closed-loop load: so many connections, each sending its next request when the last one is answered.

`wrk`, a generator in C, is what sends, so that little of the cores goes to it; how much it is stands beside the rate.
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
TIMEOUT = 30  # seconds in which wrk counts an answer as one; the slowest peer takes ten for 64 large images


class LoadError(Exception):
    """No load could be made; the message says what to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What came of one run: answers a second, latencies in milliseconds, failures, and the generator's share of cores.

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
        """Read what the script printed last.

        Raises:
            LoadError: it printed nothing of the kind.
        """
        lines = text.strip().splitlines() or [""]
        try:
            found: dict[str, Any] = json.loads(lines[-1])
            seconds = found["microseconds"] / 1e6
            answered = found["requests"] - found["refused"]
            return cls(
                requests_per_second=answered / seconds,
                p50=found["p50"] / 1e3,
                p90=found["p90"] / 1e3,
                p99=found["p99"] / 1e3,
                longest=found["max"] / 1e3,
                requests=found["requests"],
                refused=found["refused"],
                broken=found["broken"] + found["timeouts"],
                generator_cores=processor_seconds / seconds,
            )
        except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise LoadError(f"wrk said nothing that can be read: {lines[-1][:200]!r}") from error


def find_wrk() -> str:
    """Return where wrk is.

    Raises:
        LoadError: it is not installed.
    """
    found = shutil.which("wrk")
    if found is None:
        raise LoadError("wrk is not installed: apt-get install wrk (or your system's package of that name)")
    return found


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
    done = subprocess.run(
        [*command, url, "--", *map(str, bodies)], capture_output=True, text=True, timeout=seconds + 4 * TIMEOUT
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise LoadError(f"wrk failed: {(done.stderr or done.stdout).strip()[:200]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Load.of_output(done.stdout, spent)
