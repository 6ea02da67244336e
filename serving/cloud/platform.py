"""The contract of the platform that runs the container, as the variables say that it sets.

Vertex AI ("Custom container requirements for prediction" in its documentation)
    AIP_HTTP_PORT        the port that it sends requests to; this variable says that it is Vertex AI
    AIP_HEALTH_ROUTE     the path of its health checks: GET, 200 once the model answers
    AIP_PREDICT_ROUTE    the path of its predictions: POST {"instances": [...], "parameters": ...}
    AIP_STORAGE_URI      the folder in a bucket with the archives; empty if they are in the image
Cloud Run ("Container runtime contract" in its documentation)
    SIGHTLINE_PLATFORM   cloud-run, as the service's own description says: Knative elsewhere sets the same variables
    PORT                 the port that it sends requests to
    AIP_STORAGE_URI      as above, from the service's own description

Both check who asks before a request reaches the container, and send no token of ours.
"""

import dataclasses
import re
from collections.abc import Collection, Mapping
from typing import Self

from serving.errors import ServingError

VARIABLE, CLOUD_RUN = "SIGHTLINE_PLATFORM", "cloud-run"
PING = "/ping"
ROUTE = re.compile(r"/[A-Za-z0-9_.:/-]*")
# Paths of TorchServe that clients may use: predictions and explanations, as `deploy/gateway/routes.yaml` has them.
FORWARDED = re.compile(
    r"/(?:predictions|explanations)/(?P<model>[A-Za-z0-9_.-]+)(?:/[A-Za-z0-9_.-]+)?"
    r"|/v1/models/(?P<kserve>[A-Za-z0-9_.-]+):(?:predict|explain)"
)


class PlatformError(ServingError):
    """The platform's variables ask for something impossible; the message says what to change."""


@dataclasses.dataclass(frozen=True, slots=True)
class Platform:
    """Where the container runs, with the port and the paths that it must answer."""

    name: str
    port: int
    health: str = PING  # path
    predict: str | None = None  # path of predictions besides those of TorchServe
    storage: str | None = None  # address of a folder with archives

    @classmethod
    def of_environment(cls, environment: Mapping[str, str]) -> Self | None:
        """Return the platform that has set its variables, None for any other place.

        Raises:
            PlatformError: a variable is not what its contract says.
        """
        storage = environment.get("AIP_STORAGE_URI") or None
        if (name := environment.get(VARIABLE, CLOUD_RUN)) != CLOUD_RUN:
            raise PlatformError(f"{VARIABLE} is {name!r}: set {CLOUD_RUN}, or unset it")
        if "AIP_HTTP_PORT" in environment:
            health = _route(environment, "AIP_HEALTH_ROUTE", PING)
            predict = _route(environment, "AIP_PREDICT_ROUTE", None)
            if health == predict or (health and FORWARDED.fullmatch(health)):
                raise PlatformError(
                    f"AIP_HEALTH_ROUTE is {health}, a path of predictions: upload the model with {PING}"
                )
            return cls("Vertex AI", _port(environment, "AIP_HTTP_PORT"), health or PING, predict, storage)
        if VARIABLE in environment:
            return cls("Cloud Run", _port(environment, "PORT"), storage=storage)
        return None

    def is_open(self, path: str) -> bool:
        """Return whether clients may use a path."""
        return path == self.predict or FORWARDED.fullmatch(path) is not None

    def target(self, path: str, models: Collection[str]) -> str:
        """Return the path of TorchServe that answers requests to an open path, once it has `models`."""
        return path if FORWARDED.fullmatch(path) else f"/predictions/{next(iter(models))}"

    def check(self, models: Collection[str]) -> None:
        """Check that the path of predictions leads to one of the served models.

        Raises:
            PlatformError: it does not.
        """
        match = FORWARDED.fullmatch(self.predict or "")
        model = match and (match["model"] or match["kserve"])
        if self.predict is None or model in models or (match is None and len(models) == 1):
            return
        names = ", ".join(sorted(models))
        raise PlatformError(
            f"AIP_PREDICT_ROUTE is {self.predict}, which names none of the served models ({names}): "
            f"upload the model with /predictions/<one of them>"
        )


def _port(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name, "8080")
    if not (text.isdecimal() and 0 < int(text) < 65536):
        raise PlatformError(f"{name} is {text!r}: set a port from 1 to 65535")
    return int(text)


def _route(environment: Mapping[str, str], name: str, default: str | None) -> str | None:
    route = environment.get(name) or default
    if route is not None and not ROUTE.fullmatch(route):
        raise PlatformError(
            f"{name} is {route!r}: upload the model with a path, such as {default or '/predictions/birds'}"
        )
    return route
