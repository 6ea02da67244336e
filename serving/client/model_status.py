"""One version of a model, and its workers, as the management API reports them."""

import dataclasses
import datetime as dt
from typing import Any, Self


@dataclasses.dataclass(frozen=True, slots=True)
class Worker:
    """One worker process; `pid` is -1 while it has none."""

    id: str
    status: str
    pid: int
    memory: int  # bytes
    started: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of a model."""

    name: str
    version: str
    min_workers: int
    batch_size: int
    batch_delay: float  # seconds
    response_timeout: float  # seconds
    pending: int  # requests in its queue
    workers: tuple[Worker, ...]
    startup_timeout: float = 120.0  # seconds that a worker may take to load

    @property
    def ready(self) -> bool:
        """Return whether as many workers as it should have answer requests; TorchServe lists also those it gave up."""
        return sum(worker.status == "READY" for worker in self.workers) >= max(1, self.min_workers)

    @classmethod
    def of_entry(cls, entry: dict[str, Any]) -> Self:
        """Return the status in an entry of the API's answer."""
        return cls(
            name=entry["modelName"],
            version=entry["modelVersion"],
            min_workers=entry["minWorkers"],
            batch_size=entry["batchSize"],
            batch_delay=entry["maxBatchDelay"] / 1e3,
            response_timeout=entry["responseTimeout"],
            pending=entry["jobQueueStatus"]["pendingRequests"],
            workers=tuple(_worker(worker) for worker in entry["workers"]),
            startup_timeout=entry["startupTimeout"],
        )


def _worker(entry: dict[str, Any]) -> Worker:
    started = dt.datetime.fromisoformat(entry["startTime"])
    return Worker(entry["id"], entry["status"], entry["pid"], entry["memoryUsage"], started)
