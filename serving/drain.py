"""Remove a version without losing a request that it was given.

TorchServe removes a version at once and drops what waits for it; it does not say what is being computed. What can be
known: how many requests wait, and, from an image sent to that version after them, when all that were sent before it
have at least been begun, and how long a batch takes.
"""

import time

from serving.client import Client, ClientError, ModelStatus, NotFound

LEAST = 0.5  # seconds that an answer is given to reach whoever asked
MOST = 30.0  # seconds until a version that moves no more is given up


def remove(client: Client, name: str, version: str, image: bytes, *, timeout: float = MOST) -> None:
    """Drain a version that is not the default any more (or never was), and unregister it.

    `image` is one that it can answer; without one, or where it does not answer, only its queue is waited for. After
    `timeout` seconds it goes with whatever it holds.

    Raises:
        NotFound: the server has no such version.
        ClientError: the server does not answer.
    """
    deadline = time.monotonic() + timeout
    status = client.describe(name, version)
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
        time.sleep(max(LEAST, min(2 * slowest, deadline - time.monotonic())) + status.batch_delay)
    client.unregister(name, version)


def _answers(status: ModelStatus) -> bool:
    """Return whether it has a worker left that may be answering."""
    return any(each.status == "READY" for each in status.workers)
