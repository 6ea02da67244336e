"""The gateway's routes: deploy/gateway/routes.yaml with the clients' keys and rates, and the models' readiness."""

import copy
from collections.abc import Mapping
from typing import Any

import yaml

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
    configured: Mapping[str, Any], clients: Mapping[str, GatewayClient] | None, ready: Mapping[str, bool]
) -> dict[str, Any]:
    """Return the routes for these clients (None: everybody, without a key), and for models that are ready or not."""
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
    answers = {readiness["match"]["path"]: bool(ready) and all(ready.values())}
    answers |= {f"/v2/models/{name}/ready": is_ready for name, is_ready in ready.items()}
    host["routes"][place:place] = [_readiness(readiness, path, is_ready) for path, is_ready in answers.items()]
    return routes


def _descriptor(name: str, rate: int) -> dict[str, Any]:
    bucket = {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"}
    return {"entries": [{"key": "client", "value": name}], "token_bucket": bucket}


def _readiness(route: dict[str, Any], path: str, is_ready: bool) -> dict[str, Any]:
    if not is_ready:
        return {**route, "match": {"path": path}}
    return {**route, "match": {"path": path}, "direct_response": {"status": 200, "body": {"inline_string": "ready"}}}
