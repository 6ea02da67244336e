"""Swap in another version of a model on every node of a fleet, one after the other, or on none.

    python -m serving.fleet.deploy gs://bucket/fleet fingers 2.0
    python -m serving.fleet.deploy gs://bucket/fleet fingers                 the newest version of this folder's store
    python -m serving.fleet.deploy gs://bucket/fleet fingers --rollback      the version before

The archive is copied to the fleet's address, from which each node takes it. In its turn a node deploys it as
`make deploy` does (`serving.deploy`). If one fails, the nodes before it go back; after Ctrl-C they all do.
"""

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console

from serving.errors import ServingError
from serving.fleet.deployment import LIMITS, FleetDeployment
from serving.lifecycle.deployment import INTERRUPTS, DeployLimits


def main() -> int:
    """Deploy or roll back; return 0 on success, 1 on an error, 130 after an interrupt before the first turn."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.fleet.deploy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", help="of the fleet")
    parser.add_argument("name", help="the model")
    parser.add_argument("version", nargs="?", help="the version to deploy (default: the newest in the store)")
    parser.add_argument("--rollback", action="store_true", help="make the previous version live again")
    add = parser.add_argument
    add("--watch", type=float, default=LIMITS.watch, metavar="SECONDS", help="watch it this long after each switch")
    add("--slower", type=float, default=LIMITS.slower, metavar="TIMES", help="allowed latency, in times the live one's")
    for option in ("--replay", "--agreement", "--shadow", "--canary"):
        add(option, help=argparse.SUPPRESS)
    add("--no-keep", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.replay or arguments.agreement or arguments.shadow or arguments.canary or arguments.no_keep:
        parser.error("trials and KEEP=0 are for one server: leave them out with FLEET=")
    for number in INTERRUPTS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # by nohup, or a shell that started this with &
            signal.signal(number, signal.default_int_handler)
    console = Console(soft_wrap=True, highlight=False, markup=False, emoji=False)
    limits = DeployLimits(slower=arguments.slower, watch=arguments.watch)
    try:
        fleet = FleetDeployment(arguments.address, console.print)
        if arguments.rollback:
            version = fleet.rollback(arguments.name)
        else:
            version = fleet.deploy(arguments.name, arguments.version or None, Path.cwd(), limits=limits)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; make status FLEET=... shows whether the nodes are changing", file=sys.stderr)
        return 130
    ended = fleet.desired().ended
    also = f" but {', '.join(ended.left_out)}, which gets it once it is back" if ended and ended.left_out else ""
    console.print(f"{arguments.name} {version} is live on every node{also}.")
    if arguments.rollback:
        console.print(f"make rollback again returns to {fleet.desired().models[arguments.name].previous}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
