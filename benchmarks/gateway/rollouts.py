"""Deploy versions over the nodes of a fleet under load: does a request fail, or another version answer afterwards?

    python -m benchmarks.gateway.rollouts                        3 nodes, 20 deployments; about 15 minutes
    python -m benchmarks.gateway.rollouts --deployments 3

Every version has other weights, so that an answer shows which version gave it. One version breaks on the last node
only, so that it is live on the others before it is undone; in the turn of the second node of another deployment, that
node is killed. A request fails without the answer of a version within 5 seconds. The last line is one JSON document.
"""

import dataclasses
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.crashes import until
from benchmarks.gateway import fleet
from benchmarks.gateway.fleet import Fleet
from benchmarks.gateway.kills import DEADLINE, READY_LIMIT, SHARE, capacity
from benchmarks.harness import console, small_server
from benchmarks.harness.small_server import MODEL, Expected
from benchmarks.result import Origin
from benchmarks.traffic import background_load, closed_loop
from benchmarks.traffic.open_loop import TimedAnswer
from serving.client import Client
from serving.errors import ServingError
from serving.fleet.deployment import FleetDeployment
from serving.fleet.reports import Reports
from serving.lifecycle.deployment import DeployLimits
from serving.store.live import Live

RESULT, WORK = Path("benchmarks/results/gateway_rollouts.json"), Path("runs/bench-gateway-rollouts")
CODE = ("serving", "deploy/gateway", "handlers")
NODES, WATCH, BETWEEN = 3, 2.0, 3.0  # of the fleet; seconds of each turn's last step, and between two deployments


@dataclasses.dataclass(frozen=True, slots=True)
class Deployment:
    """One deployment: the version that is live after it, when it ended, and how long it took in seconds."""

    version: str
    live: str
    ended: float
    seconds: float
    failure: str | None = None


def aside(node: Path, source: Path) -> None:
    """Move all archives but the first version's from a node to a store that no node reads."""
    (source / "model_store").mkdir(parents=True)
    for path in (node / "model_store").iterdir():
        if path.stem != f"{MODEL}-1.0":
            shutil.move(path, source / "model_store")
    shutil.copytree(node / "model_store", source / "model_store", dirs_exist_ok=True)


def live(running: Fleet) -> set[str]:
    """Return the versions that the nodes record and answer by default."""
    versions = set()
    for node in running.nodes:
        with Client(root=node) as client:
            versions |= {client.describe(MODEL).version, Live.read(node).models[MODEL].version}
    return versions


def kill_in_turn(running: Fleet, version: str) -> None:
    """Kill the second node once the first one has a version."""
    until(lambda: Live.read(running.nodes[0]).models[MODEL].version == version, READY_LIMIT)
    threading.Event().wait(WATCH)  # by then it has begun
    small_server.kill(running.nodes[1])


def deploy(running: Fleet, url: str, source: Path, version: str, *, kills: bool) -> Deployment:
    """Deploy a version, and kill a node in its turn if asked for; return what became of it."""
    killer = threading.Thread(target=kill_in_turn, args=(running, version)) if kills else None
    failure, start = None, time.perf_counter()
    if killer is not None:
        killer.start()
    try:
        # An archive that was just built: its answers are checked on each node.
        FleetDeployment(url, lambda _: None).deploy(
            MODEL, version, source, limits=DeployLimits(watch=WATCH), verify=False
        )
    except ServingError as error:
        failure = str(error)
    ended = time.perf_counter()
    if killer is not None:
        killer.join()
    versions = live(running)
    return Deployment(version, "/".join(sorted(versions)), ended, ended - start, failure)


def mixed(
    answers: Sequence[TimedAnswer], expected: Expected, deployments: Sequence[Deployment], starts: Sequence[float]
) -> int:
    """Return the requests between two deployments that another version than the live one answered."""
    return sum(
        expected.version_of(answer.number, answer.body) != deployment.live
        for deployment, next_start in zip(deployments, starts, strict=True)
        for answer in answers
        if deployment.ended < answer.sent and answer.received < next_start and answer.status == 200
    )


def measure(root: Path, count: int, progress: Console) -> dict[str, Any]:
    """Return the figures of one run."""
    versions = [f"{number}.0" for number in range(1, count + 2)]
    source, url = root / "source", str(root / "desired")
    broken, killed = versions[1 + count // 3], versions[1 + 2 * count // 3]

    def prepare(node: Path) -> None:
        aside(node, source)
        code = small_server.raises_on(root / f"node-{NODES - 1}")
        small_server.rebuild(source / "model_store" / f"{MODEL}-{broken}.mar", code)

    with fleet.running(root, NODES, versions=versions, watched=True, change=prepare, desired=url) as running:
        images = small_server.images()
        expected = Expected.of(running.nodes[0], versions, images)
        until(lambda: len(Reports(url).read()) == NODES, READY_LIMIT)
        FleetDeployment(url, lambda _: None).deploy(MODEL, "1.0", source, verify=False)  # which they serve already
        rate = SHARE * capacity(running)
        special = {"broken": broken, "killed": killed}
        deployments, starts = list[Deployment](), list[float]()
        with background_load.beside(**running.load(bodies=images, rate=rate, timeout=DEADLINE)) as answers:
            with progress.status("") as status:
                for number, version in enumerate(versions[1:]):
                    status.update(f"{number} of {count} deployments")
                    starts.append(time.perf_counter())
                    deployments.append(deploy(running, url, source, version, kills=version == killed))
                    threading.Event().wait(BETWEEN)
            threading.Event().wait(DEADLINE)
    return figures(answers, expected, deployments, [*starts[1:], float("inf")], rate, special)


def figures(
    answers: Sequence[TimedAnswer], expected: Expected, deployments: Sequence[Deployment], starts: Sequence[float],
    rate: float, special: dict[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Return the figures; the live version of each deployment must be that of all nodes."""
    right = [answer for answer in answers if answer.status == 200 and expected.version_of(answer.number, answer.body)]
    before = ["1.0", *(deployment.live for deployment in deployments)]
    return {
        "nodes": NODES,
        "rate": round(rate, 1),
        "requests": len(answers),
        "failed": len(answers) - len(right),
        "slowest": round(max(answer.latency for answer in right), 3),
        "live": sum(one.failure is None and one.live == one.version for one in deployments),
        "undone": sum(
            one.failure is not None and one.live == last for one, last in zip(deployments, before, strict=False)
        ),
        "mixed": mixed(answers, expected, deployments, starts),
        "seconds": {
            "median": round(statistics.median(one.seconds for one in deployments), 1),
            "slowest": round(max(one.seconds for one in deployments), 1),
        },
        "deployments": [
            {"version": one.version, "live": one.live, "seconds": round(one.seconds, 1), "failure": one.failure}
            for one in deployments
        ],
        **special,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the result; 1 where a request failed, or another version is live than should be."""
    parser = console.parser("rollouts", __doc__, "benchmarks.gateway")
    parser.add_argument("--deployments", type=int, default=20, help="at least 3")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    if options.deployments < 3:
        parser.error("name at least 3 --deployments: one breaks, and in one a node is killed")
    closed_loop.find_wrk()
    command_line = sys.argv[1:] if arguments is None else arguments
    origin = Origin("rollouts", command_line, code=CODE, package="benchmarks.gateway")
    row = measure(Path.cwd() / WORK, options.deployments, console.progress())
    goals = {"failed": 0, "mixed": 0, "live": options.deployments - 1, "undone": 1}
    failed = any(row[name] != goal for name, goal in goals.items())
    return origin.publish({"goals": goals, **row}, options.output, failed=failed)


if __name__ == "__main__":
    sys.exit(main())
