"""Ask a running server for predictions, and manage its models: `from serving.client import Client`."""

from serving.client.client import VERSION_HEADER, Client, Prediction
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
    "ModelStatus",
    "NoKey",
    "NotFound",
    "Prediction",
    "RequestRefused",
    "ServerFailed",
    "Unreachable",
    "Worker",
]
