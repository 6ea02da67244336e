"""The fleet of the gateway's nodes: which servers of this machine belong to it, and which versions may answer."""

import socket
from collections.abc import Mapping
from pathlib import Path

from serving.fleet.desired import Desired
from serving.fleet.reports import Reports
from serving.fleet.state import FleetState


class Fleet:
    """The state at the address of a fleet, as it was last read."""

    def __init__(self, url: str) -> None:
        self._state, self._reports = FleetState(url), Reports(url)
        self._desired = Desired()
        self.folders: list[Path] = []

    def look(self) -> None:
        """Read it again.

        Raises:
            ServingError: it cannot be read; the state that was read before stays.
        """
        self._desired = self._state.read()
        reports = self._reports.read().values()
        self.folders = [Path(report.folder) for report in reports if report.host == socket.gethostname()]

    def allows(self, versions: Mapping[str, str]) -> bool:
        """Return whether a node with these default versions may answer."""
        return self._desired.allows(versions)
