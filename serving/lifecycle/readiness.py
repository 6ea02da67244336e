"""Wait until versions of models answer, and detect early that they never will."""

import math
import time
from collections.abc import Callable, Sequence

from handlers import process
from serving.client import Client, ClientError, ModelStatus, NotFound
from serving.errors import ServingError
from serving.host.resources import gpus

Version = tuple[str, str]  # name and version
UNSEEN = 180.0  # seconds until the server describes what it loads
GRACE = 10.0  # seconds beyond a version's startupTimeout, at which TorchServe ends its worker


class NotReady(ServingError):
    """A version does not become READY; the message says why, as far as visible from outside."""


def wait_ready(
    client: Client, wanted: Sequence[Version], *, alive: Callable[[], bool], timeout: float = math.inf
) -> list[ModelStatus]:
    """Return the states of `wanted` once every worker of each is READY, looking ten times a second.

    Once a second on a machine with GPUs: there TorchServe runs nvidia-smi for each worker that it describes, in a
    thread that answers predictions too.

    `alive` says whether the front end runs. TorchServe restarts a dead worker repeatedly; the first death ends the
    wait. It ends a worker that takes longer to load than its startupTimeout, so `timeout` is needed only for less.

    Raises:
        NotReady: the front end ended, does not have a version, a worker died, or `timeout` seconds are over.
    """
    start_time = time.monotonic()
    pause = 1.0 if gpus() else 0.1
    first: dict[tuple[Version, str], tuple[int, int]] = {}  # the process that each worker had first, with its start
    while True:
        if not alive():
            raise NotReady("TorchServe ended while it started")
        states = [_status(client, *version) for version in wanted]
        models = [status for status in states if status is not None]
        if len(models) == len(wanted) and all(status.ready for status in models):
            return models
        for status in models:
            _see_deaths(status, first)
        limit = min(timeout, max((status.startup_timeout + GRACE for status in models), default=UNSEEN))
        if time.monotonic() - start_time > limit:
            raise NotReady(f"not every worker is READY within {limit:.0f} s")
        time.sleep(pause)


def _see_deaths(status: ModelStatus, first: dict[tuple[Version, str], tuple[int, int]]) -> None:
    dead = f"a worker of {status.name} {status.version} does not load"
    for worker in status.workers:
        key = ((status.name, status.version), worker.id)
        if worker.pid > 0 and key not in first:
            try:
                first[key] = worker.pid, process.created(worker.pid)
            except OSError as error:
                raise NotReady(dead) from error
        replaced = worker.pid > 0 and first[key][0] != worker.pid
        if replaced or (key in first and not process.runs(*first[key])):
            raise NotReady(dead)


def _status(client: Client, name: str, version: str) -> ModelStatus | None:
    """Return the state of one version, or None while the server does not answer yet."""
    try:
        return client.describe(name, version)
    except NotFound as error:  # archives are loaded before it listens, or before a registration is answered
        raise NotReady(f"TorchServe could not load {name} {version}") from error
    except ClientError:
        return None
