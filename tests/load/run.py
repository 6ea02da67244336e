"""Load the server that runs here with locust, without its page: `make load`.

python -m tests.load.run                                          a minute
python -m tests.load.run --requests 100000                        so many requests
python -m tests.load.run --seconds 600 --swap fingers=1.0,2.0     deployments meanwhile
python -m tests.load.run --ui                                     locust's own page instead

Further arguments are locust's and those of tests/load/locustfile.py, such as --mix single=9,bad=1, --models fingers,
--failures 0.001 and --p95 200. Writes logs/load/report.html, latency.png and history.json; exits with 1 where an answer
was wrong, or more failed or took longer than is allowed.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.host import state
from tests.load import history

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
OUTPUT = Path("logs/load")
SECONDS, USERS = 60, 16


def command(arguments: argparse.Namespace, others: Sequence[str], output: Path) -> list[str]:
    """Return what starts locust."""
    found = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--output", str(output), "--loglevel", "WARNING"]
    found += ["--users", str(arguments.users), "--spawn-rate", str(arguments.users), "--stop-timeout", "30"]
    found += ["--html", str(output / "report.html"), "--requests", str(arguments.requests)]
    if arguments.ui:
        return [*found, "--web-host", "127.0.0.1", *others]
    seconds = arguments.seconds or (0 if arguments.requests else SECONDS)
    return [*found, "--headless", "--only-summary", *(["--run-time", f"{seconds}s"] if seconds else []), *others]


def main(given: Sequence[str] | None = None) -> int:
    """Load it; the exit code is locust's."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.load.run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--requests", type=int, default=0, help="stop after this many requests")
    parser.add_argument("--seconds", type=int, default=0, help=f"stop after this many seconds (default: {SECONDS})")
    parser.add_argument("--users", type=int, default=USERS, help="concurrent users, each with one request at a time")
    parser.add_argument("--ui", action="store_true", help="open locust's own page on http://127.0.0.1:8089")
    arguments, others = parser.parse_known_args(given)
    if state.running(Path.cwd()) is None:
        print("error: no server runs here: start one (make serve)", file=sys.stderr)
        return 1
    OUTPUT.mkdir(parents=True, exist_ok=True)
    written = OUTPUT / "history.json"
    written.unlink(missing_ok=True)
    if arguments.ui:
        print("http://127.0.0.1:8089, until it is interrupted (Ctrl-C)")
    environment = {**os.environ, "PYTHONPATH": str(LOCUSTFILE.parents[2])}
    process = subprocess.Popen(command(arguments, others, OUTPUT), env=environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # locust gets it too, ends a deployment and writes its report
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    if written.is_file():
        history.draw(json.loads(written.read_text()), OUTPUT / "latency.png")
        print(f"{OUTPUT}/report.html, {OUTPUT}/latency.png")
    return code


if __name__ == "__main__":
    sys.exit(main())
