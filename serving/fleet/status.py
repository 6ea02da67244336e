"""Print the desired versions of a fleet, and those that its nodes serve.

python -m serving.fleet.status gs://bucket/fleet
python -m serving.fleet.status gs://bucket/fleet --forget node-3    of a node that does not come back
"""

import argparse
import sys

from rich.table import Table

from serving.console import table_console
from serving.errors import ServingError
from serving.fleet.desired import Desired, FleetError
from serving.fleet.reports import DEAD_AFTER, NodeReport, Reports
from serving.fleet.state import FleetState, check_exists


def lines(desired: Desired) -> list[str]:
    """Return a line for each model, and one for a deployment under way."""
    text = [
        f"{name} {model.version}" + (f", before {model.previous}" if model.previous is not None else "")
        for name, model in desired.models.items()
    ]
    if (rollout := desired.rollout) is not None:
        way = (
            f"goes back on {rollout.turn} ({rollout.failure})" if rollout.failure else f"is deployed on {rollout.turn}"
        )
        text.append(
            f"{rollout.name} {rollout.version} {way}, {len(rollout.complete)} of {len(rollout.nodes)} nodes have it"
        )
    return text or ["no version yet: make deploy NAME= VERSION= FLEET="]


def row(desired: Desired, report: NodeReport, *, is_alive: bool) -> tuple[str, ...]:
    """Return the cells of a node's row."""
    serves = ", ".join(f"{name} {version}" for name, version in report.serves.items()) or "nothing"
    versions = desired.versions_of(report.name).items()
    is_right = all(version is None or report.serves.get(name) == version for name, version in versions)
    state = (
        f"no report for {DEAD_AFTER:.0f} s"
        if not is_alive
        else report.step or report.reason or ("" if is_right else "is being changed")
    )
    return report.name, f"{report.host}:{report.folder}", serves, state


def main() -> int:
    """Print the status; return 1 on an error."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.fleet.status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address")
    parser.add_argument("--forget", metavar="NODE", help="remove a node from the list")
    arguments = parser.parse_args()
    try:
        reports = Reports(arguments.address)
        alive = reports.alive()
        if arguments.forget in alive:
            raise FleetError(f"{arguments.forget} follows the fleet: end its make watch first")
        if arguments.forget:
            reports.remove(arguments.forget)
        check_exists(arguments.address)
        last, desired = reports.read(), FleetState(arguments.address).read()
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    console = table_console()
    for line in lines(desired):
        console.print(line)
    table = Table()
    for heading in ("node", "server", "serves", "state"):
        table.add_column(heading)
    for report in last.values():
        table.add_row(*row(desired, report, is_alive=report.name in alive))
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
