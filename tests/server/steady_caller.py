"""A caller that sends predictions at an even rate: run in processes of their own, several share one key file."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from serving.client import Client, ClientError


def errors(root: Path, model: str, image: bytes, requests: int, rate: float) -> list[str]:
    """Send `requests` predictions, `rate` a second, each with a deadline of 5 s; return the errors."""
    clock, start = threading.Event(), time.monotonic()
    with Client(root=root, deadline=5.0) as client, ThreadPoolExecutor(32) as pool:

        def predict() -> str:
            try:
                client.predict(image, model)
            except ClientError as error:
                return f"{type(error).__name__}: {error}"
            return ""

        answers = []
        for number in range(requests):
            clock.wait(max(0.0, start + number / rate - time.monotonic()))
            answers.append(pool.submit(predict))
        return [error for answer in answers if (error := answer.result())]
