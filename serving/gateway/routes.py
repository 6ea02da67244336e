"""The gateway's routes: deploy/gateway/routes.yaml with the clients' keys and rates, and the models' readiness."""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from handlers.requests.tensors import OUTPUTS
from serving.gateway.clients import GatewayClient
from serving.gateway.deployed import FOLDER

KIND = "config.route.v3.RouteConfiguration"
BASIC_AUTH, RATE_LIMIT = "envoy.filters.http.basic_auth", "envoy.filters.http.local_ratelimit"
READY = "ready"


def template() -> dict[str, Any]:
    """Return the routes as they are configured."""
    document: dict[str, Any] = yaml.safe_load((FOLDER / "routes.yaml").read_text())
    return document


def resource(
    configured: Mapping[str, Any],
    clients: Mapping[str, GatewayClient] | None,
    ready: Mapping[str, bool],
    versions: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Return the routes for these clients (None: everybody, without a key), and for models that are ready or not.

    `versions` are those of each model that answer requests without a version.
    """
    routes = copy.deepcopy(dict(configured))
    (host,) = routes["virtual_hosts"]
    filters = host["typed_per_filter_config"]
    (place,) = (number for number, route in enumerate(host["routes"]) if route["name"] == READY)
    if clients is None:
        filters |= host["routes"][place]["typed_per_filter_config"]  # as for readiness: neither key nor rate
    else:
        users = filters[BASIC_AUTH]["users"]
        hashes = [f"{name}:{{SHA}}{client.sha1}" for name, client in clients.items()]
        users["inline_string"] = "\n".join([users["inline_string"], *hashes])
        filters[RATE_LIMIT]["descriptors"] = [_descriptor(name, client.rate) for name, client in clients.items()]
    readiness = host["routes"].pop(place)
    all_ready = bool(ready) and all(ready.values())
    answers = {readiness["match"]["path"]: all_ready, "/v2/health/ready": all_ready}
    for name, is_ready in ready.items():
        answers |= {f"/v2/models/{name}/ready": is_ready, f"/v1/models/{name}": is_ready}
    host["routes"][place:place] = [
        *(_readiness(readiness, path, is_ready) for path, is_ready in answers.items()),
        *(_metadata(name, numbers) for name, numbers in versions.items()),
    ]
    return routes


def _descriptor(name: str, rate: int) -> dict[str, Any]:
    bucket = {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"}
    return {"entries": [{"key": "client", "value": name}], "token_bucket": bucket}


def _readiness(route: dict[str, Any], path: str, is_ready: bool) -> dict[str, Any]:
    if not is_ready:
        return {**route, "match": {"path": path}}
    name = path.removeprefix("/v1/models/").removeprefix("/v2/models/").removesuffix("/ready")
    document = {"ready": True} if name.startswith("/") else {"name": name, "ready": True}
    return {**route, "match": {"path": path}, "direct_response": _answer(document)}


def _answer(document: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": 200, "body": {"inline_string": json.dumps(document)}}


def _metadata(name: str, versions: Sequence[str]) -> dict[str, Any]:
    """Return the route that describes a model in the Open Inference Protocol; it needs a key."""
    image = {"name": "image", "datatype": "BYTES", "shape": [-1]}
    shapes = {"label": [-1, -1], "probability": [-1, -1], "familiarity": [-1]}
    outputs = [{"name": output, "datatype": OUTPUTS[output], "shape": shape} for output, shape in shapes.items()]
    document = {"name": name, "versions": list(versions), "platform": "pytorch_torchserve"}
    answer = _answer({**document, "inputs": [image], "outputs": outputs})
    return {"name": "metadata", "match": {"path": f"/v2/models/{name}"}, "direct_response": answer}
