"""Replace the server's token every minute behind the gateway: does any request fail?

    python -m benchmarks.gateway.rotation                  10 minutes
    python -m benchmarks.gateway.rotation --minutes 1.2

One node whose tokens live for a minute gets 50 requests/s through the gateway, which renews them. The last line is one
JSON document.
"""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gateway import fleet
from benchmarks.gateway.kills import CODE, DEADLINE, figures
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import Expected
from benchmarks.result import Origin
from benchmarks.traffic import background_load
from serving.client.deadline import Deadline
from serving.lifecycle import launch

RESULT, WORK = Path("benchmarks/results/gateway_rotation.json"), Path("runs/bench-gateway-rotation")
RATE, LOOK = 50.0, 0.5  # requests/s; seconds


def one_minute(node: Path) -> None:
    """Have the tokens of a node live for a minute."""
    path = node / launch.CONFIG
    path.write_text(path.read_text().replace("token_expiration_min=525600", "token_expiration_min=1"))


def measure(root: Path, minutes: float) -> dict[str, Any]:
    """Return the figures of one run."""
    with fleet.running(root, 1, change=one_minute) as running:
        images = small_server.images()
        expected = Expected.of(running.nodes[0], ["1.0"], images)
        client = running.client()
        tokens, ending = set(), threading.Event()
        with background_load.beside(**running.load(bodies=images, rate=RATE, timeout=DEADLINE)) as answers:
            for _ in range(round(60 * minutes / LOOK)):
                ending.wait(LOOK)
                tokens.add(client.tokens.current("inference", Deadline(DEADLINE)).secret)
        repeats = running.counters()["retry"]
        client.close()
    return {"minutes": minutes, "rate": RATE, "tokens": len(tokens), "repeats": repeats, **figures(answers, expected)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 where a request failed, or a token was not renewed."""
    parser = console.parser("rotation", __doc__, "benchmarks.gateway")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = Origin("rotation", command_line, code=CODE, package="benchmarks.gateway")
    row = measure(Path.cwd() / WORK, options.minutes)
    return origin.publish(
        {"goals": {"failed": 0}, **row}, options.output, failed=row["failed"] > 0 or row["tokens"] < row["minutes"]
    )


if __name__ == "__main__":
    sys.exit(main())
