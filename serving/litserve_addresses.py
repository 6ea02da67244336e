"""The addresses of a model behind LitServe: those of TorchServe's inference port."""

from collections.abc import Callable
from typing import Any

from fastapi import Response
from starlette.requests import Request

from handlers.service import CONTENT_TYPE, Reply

VERBS = ("predictions", "explanations")


def add(app: Any, predict: str, name: str, version: str) -> None:
    """Answer at every address of a model as at `predict`, and report at others whether it is ready.

    Args:
        app: the server's, which has `/health` and the path `predict`.
        predict: the path that LitServe answers predictions at.
        name: of the model.
        version: its only one.
    """
    endpoints = {route.path: route.endpoint for route in app.routes if hasattr(route, "endpoint")}
    v1 = f"/v1/models/{name}"
    paths = [f"/{verb}/{name}{end}" for verb in VERBS for end in ("", f"/{version}")]
    for path in (*paths, f"{v1}:predict", f"{v1}:explain"):
        app.add_api_route(path, endpoints[predict], methods=["GET", "POST", "PUT"])
    health = endpoints["/health"]
    app.add_api_route("/ping", _readiness(health, {"status": "Healthy"}, {"status": "Unhealthy"}, 500))
    app.add_api_route(v1, _readiness(health, {"name": name, "ready": True}, {"name": name, "ready": False}, 503))


def _readiness(health: Any, ready: dict[str, Any], otherwise: dict[str, Any], code: int) -> Callable[..., Any]:
    async def readiness(request: Request) -> Response:
        if (await health(request)).status_code == 200:
            return Response(Reply(ready).body, media_type=CONTENT_TYPE)
        return Response(Reply(otherwise).body, code, media_type=CONTENT_TYPE)

    return readiness
