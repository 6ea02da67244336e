"""Wait until versions of models answer, and detect early that they never will."""

import math
import time
from collections.abc import Callable, Sequence

from handlers import process
from serving.client import Client, ClientError, ModelStatus, NotFound, Worker
from serving.errors import ServingError
from serving.host.resources import gpus

Version = tuple[str, str]  # name and version
# The process that each worker had first, with its start, by model, version and the worker's id.
FirstProcesses = dict[tuple[str, str, str], tuple[int, int]]
DESCRIPTION_LIMIT = 180.0  # seconds until the server describes a version that it loads
GRACE = 10.0  # seconds beyond a version's startupTimeout, at which TorchServe ends its worker


class NotReady(ServingError):
    """A version does not become READY; the message says why, as far as visible from outside."""


def wait_ready(
    client: Client, versions: Sequence[Version], *, alive: Callable[[], bool], timeout: float = math.inf
) -> list[ModelStatus]:
    """Return the states of `versions` once every worker of each is READY, looking ten times a second.

    Once a second on a machine with GPUs: there TorchServe runs nvidia-smi for each worker that it describes, in a
    thread that answers predictions too.

    `alive` says whether the front end runs. TorchServe restarts a dead worker repeatedly; the first death ends the
    wait. It ends a worker that takes longer to load than its startupTimeout, so `timeout` is needed only for less.

    Raises:
        NotReady: the front end ended, does not have a version, a worker died, or `timeout` seconds are over.
    """
    start_time = time.monotonic()
    pause = 1.0 if gpus() else 0.1
    processes: FirstProcesses = {}
    while True:
        if not alive():
            raise NotReady("TorchServe ended while it started")
        models = _described(client, versions)
        if len(models) == len(versions) and all(status.ready for status in models):
            return models
        _check_workers(models, processes)
        if time.monotonic() - start_time > (limit := min(timeout, _longest_load(models))):
            raise NotReady(f"not every worker is READY within {limit:.0f} s")
        time.sleep(pause)


def _longest_load(models: Sequence[ModelStatus]) -> float:
    """Return the seconds after which a version that is not READY has failed to load."""
    return max((status.startup_timeout + GRACE for status in models), default=DESCRIPTION_LIMIT)


def _check_workers(models: Sequence[ModelStatus], processes: FirstProcesses) -> None:
    """Record the first process of each worker, and raise `NotReady` if that process has ended or was replaced."""
    for status in models:
        for worker in status.workers:
            if _has_failed(worker, (status.name, status.version, worker.id), processes):
                raise NotReady(f"a worker of {status.name} {status.version} does not load")


def _has_failed(worker: Worker, key: tuple[str, str, str], processes: FirstProcesses) -> bool:
    if worker.pid > 0 and key not in processes:
        try:
            processes[key] = worker.pid, process.created(worker.pid)
        except OSError:
            return True
    if key not in processes:
        return False
    is_replaced = worker.pid > 0 and worker.pid != processes[key][0]
    return is_replaced or not process.runs(*processes[key])


def _described(client: Client, versions: Sequence[Version]) -> list[ModelStatus]:
    """Return the states of the versions that the server describes by now."""
    states = [_status(client, *version) for version in versions]
    return [status for status in states if status is not None]


def _status(client: Client, name: str, version: str) -> ModelStatus | None:
    """Return the state of one version, or None while the server does not answer yet."""
    try:
        return client.describe(name, version)
    except NotFound as error:  # archives are loaded before it listens, or before a registration is answered
        raise NotReady(f"TorchServe could not load {name} {version}") from error
    except ClientError:
        return None
