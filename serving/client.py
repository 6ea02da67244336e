"""A client of the server: it finds the address and the tokens by itself.

    with Client() as client:
        answer = client.predict(Path("photo.jpg").read_bytes(), "fingers")
        print(answer.label, answer.probabilities)

ClientError                  anything that goes wrong
├── Unreachable              no server answers there, or not in time
├── NoKey                    there is no key file, or the server refuses its tokens
├── RequestRefused     4xx   the server says what is wrong with the request
│   └── NotFound       404   no such model or version
└── ServerFailed       5xx   the server could not answer a good request
"""

import base64
import dataclasses
import datetime as dt
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlencode

import httpx

from serving import state
from serving.state import ServerState

VERSION_HEADER = "model-version"
DEFAULT_INFERENCE = "http://127.0.0.1:8080"
DEFAULT_MANAGEMENT = "http://127.0.0.1:8081"
TIMEOUT = httpx.Timeout(60.0, connect=5.0)  # seconds

_Api = Literal["inference", "management"]


class ClientError(Exception):
    """Anything that goes wrong between asking and having the answer."""


class Unreachable(ClientError):
    """No server answers there, or not in time."""


class NoKey(ClientError):
    """There is no key file, or the server refuses its tokens."""


class RequestRefused(ClientError):
    """The server says what is wrong with the request: `code` is the HTTP status, `kind` the type of error."""

    def __init__(self, code: int, kind: str, message: str) -> None:
        super().__init__(f"{code} {kind}: {message}")
        self.code = code
        self.kind = kind
        self.message = message


class NotFound(RequestRefused):
    """No such model or version."""


class ServerFailed(ClientError):
    """The server could not answer a good request: `code` is the HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image: label to probability, best first, and the version of the model that gave it."""

    probabilities: dict[str, float]
    version: str | None

    @property
    def label(self) -> str:
        """Return the most probable label."""
        return next(iter(self.probabilities))


@dataclasses.dataclass(frozen=True, slots=True)
class Worker:
    """One worker process as the management API tells of it; `pid` is -1 while it has none."""

    id: str
    status: str
    pid: int
    memory: int  # bytes
    started: dt.datetime


@dataclasses.dataclass(frozen=True, slots=True)
class ModelStatus:
    """One version of a model as the management API tells of it."""

    name: str
    version: str
    min_workers: int
    batch_size: int
    batch_delay: float  # seconds
    response_timeout: float  # seconds
    pending: int  # requests in its queue
    workers: tuple[Worker, ...]

    @property
    def ready(self) -> bool:
        """Return whether all workers that it should have answer requests."""
        return len(self.workers) >= max(1, self.min_workers) and all(each.status == "READY" for each in self.workers)


class Client:
    """Asks a server that was started in `root` (the current directory).

    Addresses and the key file are those that `serving.server start` wrote down; where that did not start the server,
    TorchServe's default ports and `key_file.json` in `root`. Both can be given. The tokens are read again for each
    request, since a renewed one replaces the old at once. Threads may share a client.
    """

    def __init__(
        self,
        *,
        root: Path | None = None,
        inference: str | None = None,
        management: str | None = None,
        key_file: Path | None = None,
        timeout: httpx.Timeout = TIMEOUT,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        root = root or Path.cwd()
        known = state.running(root)
        self.inference = inference or (known.inference if known else DEFAULT_INFERENCE)
        self.management = management or (known.management if known else DEFAULT_MANAGEMENT)
        self.key_file = key_file or Path(known.key_file if known else root / state.KEY_FILE)
        # A proxy of the environment is not meant for a server on this machine.
        self._http = httpx.Client(timeout=timeout, transport=transport, trust_env=False)
        socket = self.management.removeprefix("unix:") if self.management.startswith("unix:") else None
        if socket is not None:
            transport = transport or httpx.HTTPTransport(uds=socket)
        self._operator = httpx.Client(timeout=timeout, transport=transport, trust_env=False)

    @classmethod
    def of_state(cls, known: ServerState) -> Self:
        """Return a client of a server that is known already."""
        return cls(inference=known.inference, management=known.management, key_file=Path(known.key_file))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()
        self._operator.close()

    def predict(self, image: bytes, model: str, version: str | None = None) -> Prediction:
        """Return the answer for one encoded image, by the default version or by the one named.

        Raises:
            ClientError: see the top of this file.
        """
        path = f"/predictions/{model}" + (f"/{version}" if version else "")
        headers = {"Content-Type": "application/octet-stream"}
        response = self._request("inference", "POST", path, content=image, headers=headers)
        return Prediction(_json(response), response.headers.get(VERSION_HEADER))

    def predict_many(
        self, images: Iterable[bytes], model: str, version: str | None = None, *, concurrency: int = 8
    ) -> Iterator[Prediction | RequestRefused]:
        """Yield one answer an image, in their order, with up to `concurrency` requests under way.

        An image that the server refuses yields the refusal. `images` is read only as far ahead as is needed.

        Raises:
            ClientError: anything else than a refusal.
        """

        def one(image: bytes) -> Prediction | RequestRefused:
            try:
                return self.predict(image, model, version)
            except NotFound:
                raise
            except RequestRefused as refusal:
                return refusal

        waiting = iter(images)
        with ThreadPoolExecutor(concurrency) as pool:
            pending = [pool.submit(one, image) for image in islice(waiting, 2 * concurrency)]
            while pending:
                answer = pending.pop(0).result()
                pending += [pool.submit(one, image) for image in islice(waiting, 1)]
                yield answer

    def predict_instances(self, images: Sequence[bytes], model: str) -> list[dict[str, Any]]:
        """Return the entries that one KServe v1 request with all images gets: an answer or an error each.

        Raises:
            ClientError: see the top of this file.
        """
        document = {"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}
        response = self._request("inference", "POST", f"/v1/models/{model}:predict", json=document)
        predictions: list[dict[str, Any]] = _json(response)["predictions"]
        return predictions

    def models(self) -> list[str]:
        """Return the names of the registered models."""
        names: list[str] = []
        token: str | None = None
        while True:
            page = _json(self._request("management", "GET", "/models" + (f"?next_page_token={token}" if token else "")))
            names += [entry["modelName"] for entry in page["models"]]
            token = page.get("nextPageToken")
            if token is None:
                return names

    def versions(self, model: str) -> list[ModelStatus]:
        """Return the state of every version of a model."""
        return [_status(entry) for entry in _json(self._request("management", "GET", f"/models/{model}/all"))]

    def describe(self, model: str, version: str | None = None) -> ModelStatus:
        """Return the state of the default version, or of the one named."""
        path = f"/models/{model}" + (f"/{version}" if version else "")
        return _status(_json(self._request("management", "GET", path))[0])

    def description(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Return what a model says of itself: its spec, version, top_k and precision. A worker answers this."""
        path = f"/models/{model}" + (f"/{version}" if version else "") + "?customized=true"
        found: dict[str, Any] = _json(self._request("management", "GET", path))[0]["customizedMetadata"]
        return found

    def register(self, file: str, *, workers: int | None = None) -> None:
        """Have the server load an archive of its store, named by its file, as a further version; do not wait for it.

        `workers` is how many it gets, unless its own model-config.yaml says that: as many as each model where None.

        Waiting is `describe` until `ready`: a registration that waits stalls every other request (TorchServe 0.12).
        The first version of a model becomes its default.
        """
        # Parameters, not a JSON body: that sets a batch delay of -10,000 ms where none is named.
        asked = {"url": file, "synchronous": "false"} | ({} if workers is None else {"initial_workers": str(workers)})
        self._request("management", "POST", f"/models?{urlencode(asked)}")

    def unregister(self, model: str, version: str) -> None:
        """Remove a version; requests that wait for it are lost: drain it first. The last one takes the model along."""
        self._request("management", "DELETE", f"/models/{model}/{version}")

    def set_default(self, model: str, version: str) -> None:
        """Send requests that name no version to this one from now on: in one step, even to one without a worker."""
        self._request("management", "PUT", f"/models/{model}/{version}/set-default")

    def scale(self, model: str, version: str, workers: int) -> None:
        """Ask for so many workers of a version; do not wait for them."""
        asked = urlencode({"min_worker": workers, "max_worker": workers, "synchronous": "false"})
        self._request("management", "PUT", f"/models/{model}/{version}?{asked}")

    def _request(self, api: _Api, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self._token(api)}", **options.pop("headers", {})}
        base = self.inference if api == "inference" else self.management
        http = self._http if api == "inference" else self._operator
        address = "http://localhost" if base.startswith("unix:") else base
        if base.startswith("unix:") and not Path(base.removeprefix("unix:")).exists():  # httpcore would leak a socket
            raise Unreachable(f"no server answers at {base}: start one (make serve)")
        try:
            response = http.request(method, address + path, headers=headers, **options)
        except httpx.TimeoutException as error:
            raise Unreachable(f"{base} did not answer in time") from error
        except httpx.TransportError as error:
            raise Unreachable(f"no server answers at {base} ({error}): start one (make serve)") from error
        if response.is_success:
            return response
        raise self._error(response)

    def _token(self, api: _Api) -> str:
        try:
            token: str = json.loads(self.key_file.read_text())[api]["key"]
        except (OSError, ValueError, KeyError) as error:
            raise NoKey(
                f"no server was started here ({self.key_file.name} cannot be read): start one (make serve)"
            ) from error
        return token

    def _error(self, response: httpx.Response) -> ClientError:
        code = response.status_code
        try:
            document = response.json()
            kind, message = str(document["type"]), str(document["message"])
        except (ValueError, KeyError, TypeError):
            kind, message = response.reason_phrase, response.text[:200]
        if kind == "InvalidKeyException":
            return NoKey(
                f"the server refuses the token in {os.path.relpath(self.key_file)}: it is of another server, or expired"
            )
        if code >= 500:
            return ServerFailed(code, message)
        return (NotFound if code == 404 else RequestRefused)(code, kind, message)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise ServerFailed(response.status_code, "the answer is not JSON") from error


def _status(entry: dict[str, Any]) -> ModelStatus:
    workers = (
        Worker(
            each["id"], each["status"], each["pid"], each["memoryUsage"], dt.datetime.fromisoformat(each["startTime"])
        )
        for each in entry["workers"]
    )
    return ModelStatus(
        name=entry["modelName"],
        version=entry["modelVersion"],
        min_workers=entry["minWorkers"],
        batch_size=entry["batchSize"],
        batch_delay=entry["maxBatchDelay"] / 1e3,
        response_timeout=entry["responseTimeout"],
        pending=entry["jobQueueStatus"]["pendingRequests"],
        workers=tuple(workers),
    )
