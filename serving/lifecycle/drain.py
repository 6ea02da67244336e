"""Remove a version without losing a request sent to it.

TorchServe removes a version at once and drops its queue; it does not report requests under way. Observable are the
number of waiting requests; the time of a batch, from an image sent to that version after them; and whether its
workers' processes compute.
"""

import contextlib
import time

from serving.client import Client, ClientError, ModelStatus, NotFound
from serving.host import processor
from serving.store.model_store import Archive, ArchiveError

DELIVERY = 0.5  # seconds for an answer to reach its client
QUEUE_LIMIT = 30.0  # seconds until a stalled version is given up


def remove(client: Client, name: str, version: str, image: bytes) -> None:
    """Drain a version that is not the default any more (or never was), and unregister it.

    `image` is one that it can answer; without one, or if it does not answer, only its queue is waited for. After
    `QUEUE_LIMIT` seconds, or the version's responseTimeout if that is longer, it is removed with its queue.

    Raises:
        NotFound: the server has no such version.
        ClientError: the server does not answer.
    """
    start_time = time.monotonic()
    status = client.describe(name, version)
    deadline = start_time + max(QUEUE_LIMIT, status.response_timeout)
    slowest = _slowest_answer(client, status, image, deadline) if image and _answers(status) else 0.0
    while _answers(status) and status.pending and time.monotonic() < deadline:
        time.sleep(0.05)
        status = client.describe(name, version)
    if _answers(status):
        _wait_still(status, max(DELIVERY, 2 * slowest) + status.batch_delay, deadline)
    client.unregister(name, version)


def remove_archive(client: Client, archive: Archive) -> None:
    """Drain and unregister the version of an archive with one of its golden images; nothing if it is not registered.

    Raises:
        ClientError: the server does not answer.
    """
    try:
        image = next((golden.image for golden in archive.golden()), b"")
    except ArchiveError:  # it may be why this version goes
        image = b""
    with contextlib.suppress(NotFound):
        remove(client, archive.name, archive.version, image)


def _slowest_answer(client: Client, status: ModelStatus, image: bytes, deadline: float) -> float:
    """Send `image` once for each worker, so that each finishes its batch; return the longest time in seconds.

    While the first worker computes its batch, the other ones take the queue.
    """
    slowest = 0.0
    for _ in status.workers:
        start_time = time.monotonic()
        try:
            client.predict(image, status.name, status.version, deadline=max(0.1, deadline - start_time), counted=False)
        except NotFound:
            raise
        except ClientError:
            break
        slowest = max(slowest, time.monotonic() - start_time)
    return slowest


def _wait_still(status: ModelStatus, seconds: float, deadline: float) -> None:
    """Wait until no worker has computed for `seconds`: one may be busy while another answers every request."""
    since, before = time.monotonic(), _computed(status)
    while (now := time.monotonic()) - since < seconds and now < deadline:
        time.sleep(0.05)
        if (computed := _computed(status)) != before:
            since, before = time.monotonic(), computed


def _computed(status: ModelStatus) -> list[float]:
    """Return the seconds that each worker's process has computed, 0 for one that has ended."""
    return [processor.seconds(worker.pid) for worker in status.workers]


def _answers(status: ModelStatus) -> bool:
    """Return whether it still has a worker that may answer."""
    return any(worker.status == "READY" for worker in status.workers)
