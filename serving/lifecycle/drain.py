"""Remove a version without losing a request that it was given.

TorchServe removes a version at once and drops what waits for it; it does not say what is being computed. What can be
known: how many requests wait; from an image sent to that version after them, how long a batch takes; and from its
workers' processes, whether they compute.
"""

import time

from serving.client import Client, ClientError, ModelStatus, NotFound
from serving.host import processor

LEAST = 0.5  # seconds that an answer is given to reach whoever asked
MOST = 30.0  # seconds until a version that moves no more is given up, or its responseTimeout where that is longer


def remove(client: Client, name: str, version: str, image: bytes, *, timeout: float | None = None) -> None:
    """Drain a version that is not the default any more (or never was), and unregister it.

    `image` is one that it can answer; without one, or where it does not answer, only its queue is waited for. After
    `timeout` seconds (None: 30, or the version's own responseTimeout where that is longer) it goes with all it holds.

    Raises:
        NotFound: the server has no such version.
        ClientError: the server does not answer.
    """
    began = time.monotonic()
    status = client.describe(name, version)
    deadline = began + (max(MOST, status.response_timeout) if timeout is None else timeout)
    slowest = 0.0
    if image and _answers(status):
        # One for each worker: while the first is held by its batch, the others take what waits.
        for _ in status.workers:
            began = time.monotonic()
            try:
                client.predict(image, name, version, deadline=max(0.1, deadline - began))
            except NotFound:
                raise
            except ClientError:
                break
            slowest = max(slowest, time.monotonic() - began)
    while _answers(status) and status.pending and time.monotonic() < deadline:
        time.sleep(0.05)
        status = client.describe(name, version)
    if _answers(status):
        _wait_still(status, max(LEAST, 2 * slowest) + status.batch_delay, deadline)
    client.unregister(name, version)


def _wait_still(status: ModelStatus, seconds: float, deadline: float) -> None:
    """Wait until no worker has computed for so long: one may be busy while another answers whatever is asked."""
    since, before = time.monotonic(), _computed(status)
    while (now := time.monotonic()) - since < seconds and now < deadline:
        time.sleep(0.05)
        if (computed := _computed(status)) != before:
            since, before = time.monotonic(), computed


def _computed(status: ModelStatus) -> list[float]:
    """Return the seconds that each worker's process has computed, 0 for one that has ended."""
    return [processor.seconds(each.pid) for each in status.workers]


def _answers(status: ModelStatus) -> bool:
    """Return whether it has a worker left that may be answering."""
    return any(each.status == "READY" for each in status.workers)
