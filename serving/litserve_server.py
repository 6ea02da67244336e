"""Serve an archive behind LitServe in place of TorchServe: the same `handlers`, the same answers, on the loopback.
python -m serving.litserve_server birds[=1.0] --port 8000
POST or PUT /predictions/birds[/1.0] and /v1/models/birds:predict; GET /ping, and /v1/models/birds: ready or not"""

import argparse
import logging
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from litserve import LitAPI, LitServer
from starlette.exceptions import HTTPException

from handlers.requests.request import RawRequest
from handlers.service import Reply, Service
from serving import foreground, litserve_addresses
from serving.asgi_request import read
from serving.host.resources import Resources
from serving.store import model_store


async def refuse(_: Request, error: Any) -> Response:
    document = {"code": error.status_code, "type": "Refused", "message": error.detail}
    return Response(Reply(document).body, error.status_code, media_type="application/json")


class SightlineAPI(LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.service: Service = self.load(device=device)

    def decode_request(self, request: Annotated[RawRequest, Depends(read)]) -> RawRequest:
        return request

    def predict(self, batch: list[RawRequest]) -> list[Response]:
        return [Response(r.body, r.code, self.service.headers | r.headers) for r in self.service.answer(batch)]


def serve(model: str, port: int) -> None:
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of a broken form; the client gets 400
    (archive,) = model_store.select([model])
    with archive.unpacked() as weights:
        config = {"minWorkers": Resources.of_this_machine(1).per_device} | archive.model_config()
        size, delay = max(2, config["batchSize"]), max(1, config["maxBatchDelay"]) / 1000  # 1 and 0 work otherwise
        api = SightlineAPI(size, delay, f"/predictions/{archive.name}")
        api.load = partial(Service, weights, config, version=archive.version)
        limits = {"timeout": config["responseTimeout"], "max_payload_size": 25 << 20}
        lit = LitServer(api, "auto", 1, config["minWorkers"], **limits, disable_openapi_url=True)
        lit.app.add_exception_handler(HTTPException, refuse)
        litserve_addresses.add(lit.app, api.api_path, archive.name, archive.version)
        lit.run("127.0.0.1", port, 1, "warning", generate_client_file=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="NAME[=VERSION]")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    raise SystemExit(foreground.run(partial(serve, options.model, options.port), options.port, health="/health"))
