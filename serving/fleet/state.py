"""The desired state at the address of a fleet."""

import functools
from collections.abc import Callable, Collection

from serving.fleet.desired import Desired, FleetError
from serving.fleet.reports import Reports
from serving.fleet.shared_document import SharedDocument, below

FOLDER = "desired"


def exists(url: str) -> bool:
    """Return whether a server has followed this address, or a version was deployed to it.

    Raises:
        AddressError: the address cannot be used.
    """
    return FleetState(url).exists() or bool(Reports(url).read())


def check_exists(url: str) -> None:
    """Refuse an address without a fleet.

    Raises:
        FleetError: there is none.
        AddressError: the address cannot be used.
    """
    if not exists(url):
        raise FleetError(f"no fleet is at {url}: make watch FLEET={url} begins one")


class FleetState:
    """Reads and changes it.

    Raises:
        AddressError: the address cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._document = SharedDocument(below(url, FOLDER))

    def read(self) -> Desired:
        """Return it.

        Raises:
            AddressError: it cannot be read.
            FleetError: it is damaged.
        """
        return Desired.of_document(self._document.read().document)

    def exists(self) -> bool:
        """Return whether there is any."""
        return self._document.read().number > 0

    def update(self, change: Callable[[Desired], Desired]) -> None:
        """Change it; `change` is called again with what others have made of it meanwhile.

        Raises:
            AddressError: it cannot be read or written.
            FleetError: it is damaged, or `change` refuses.
        """
        self._document.update(lambda document: change(Desired.of_document(document)).document())

    def leave_out(self, nodes: Collection[str]) -> None:
        """Take nodes out of the deployment under way, if they are in it."""
        rollout = self.read().rollout
        if rollout is None:
            return
        for node in set(nodes) & set(rollout.nodes):
            self.update(functools.partial(Desired.without, id_=rollout.id, node=node))
