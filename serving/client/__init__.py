"""Ask a running server for predictions, and manage its models: `from serving.client import Client`."""

from serving.client.client import VERSION_HEADER, Client, Explanation, Prediction
from serving.client.model_status import ModelStatus, Worker
from serving.errors import (
    ClientError,
    DeadlinePassed,
    NoKey,
    NotFound,
    RequestRefused,
    ServerFailed,
    Unreachable,
)

__all__ = [
    "VERSION_HEADER",
    "Client",
    "ClientError",
    "DeadlinePassed",
    "Explanation",
    "ModelStatus",
    "NoKey",
    "NotFound",
    "Prediction",
    "RequestRefused",
    "ServerFailed",
    "Unreachable",
    "Worker",
]
