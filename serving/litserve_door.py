"""Serve an archive behind LitServe in place of TorchServe: the same `handlers`, the same answers, on the loopback.
python -m serving.litserve_door birds[=1.0] --port 8000     POST or PUT /predictions/birds, /v1/models/birds:predict"""

import argparse
from functools import partial
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from litserve import LitAPI, LitServer
from starlette.exceptions import HTTPException

from handlers.service import Asked, Reply, Service
from serving import foreground, model_store
from serving.shares import Shares


async def read(request: Request) -> Asked:
    """Return a request as TorchServe hands it on: a form's fields by their names, anything else as one body."""
    if not any(mark in request.headers.get("content-type", "") for mark in ("boundary=", "-urlencoded")):
        return Asked(dict(request.headers), {"body": await request.body()})
    form = await request.form(max_part_size=2**30)
    return Asked(dict(request.headers), {k: v if isinstance(v, str) else await v.read() for k, v in form.items()})


async def refuse(_: Request, error: Any) -> Response:
    document = {"code": error.status_code, "type": "Refused", "message": error.detail}
    return Response(Reply(document).body, error.status_code, media_type="application/json")


class Door(LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        self.service: Service = self.load(device=device)

    def decode_request(self, request: Annotated[Asked, Depends(read)]) -> Asked:
        return request

    def predict(self, batch: list[Asked]) -> list[Response]:
        return [Response(reply.body, reply.code, self.service.headers) for reply in self.service.answer(batch)]


def serve(model: str, port: int) -> None:
    (archive,) = model_store.select([model])
    with archive.unpacked() as weights:
        config = {"minWorkers": Shares.of_this_machine(1).per_device} | archive.model_config()
        size, delay = max(2, config["batchSize"]), max(1, config["maxBatchDelay"]) / 1000  # 1 and 0 work otherwise
        door = Door(size, delay, f"/predictions/{archive.name}")
        door.load = partial(Service, weights, config, version=archive.version)
        lit = LitServer(door, "auto", 1, config["minWorkers"], max_payload_size=25 << 20, disable_openapi_url=True)
        lit.app.add_exception_handler(HTTPException, refuse)
        for path in (door.api_path, f"/v1/models/{archive.name}:predict"):
            lit.app.add_api_route(path, lit.app.routes[-1].endpoint, methods=["POST", "PUT"])
        lit.run("127.0.0.1", port, 1, "warning", generate_client_file=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="NAME[=VERSION]")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    raise SystemExit(foreground.run(partial(serve, options.model, options.port), options.port, health="/health"))
