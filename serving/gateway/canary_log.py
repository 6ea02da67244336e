"""Envoy's log of the requests that a canary has not answered, for the deployment that tries it."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from serving.gateway.nodes import Node

FILE = "canary.log"


class CanaryLog:
    """The file; older lines belong to earlier deployments."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._place = path.stat().st_size if path.is_file() else 0  # bytes

    def report(self, nodes: Sequence[Node]) -> None:
        """Give each new failure to the node that it is of."""
        if not self._path.is_file():
            return
        if self._path.stat().st_size < self._place:  # it was emptied
            self._place = 0
        with open(self._path, "rb") as file:
            file.seek(self._place)
            whole = file.read().rpartition(b"\n")[0]
        if not whole:
            return
        self._place += len(whole) + 1
        for line in whole.splitlines():
            with contextlib.suppress(
                ValueError, KeyError, TypeError, AttributeError
            ):  # a line that a full disk has cut
                failure = json.loads(line)
                address, model, version = failure["failed"].split(" ")
                for node in nodes:
                    if node.address == address:
                        node.add_failure(model, f"{version} did not answer {failure['request_id']}")
