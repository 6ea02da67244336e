"""A client of the server: it finds the addresses and the tokens in the folder of the server.

    from serving.client import Client, ClientError

    with Client() as client:
        answer = client.predict(Path("photo.jpg").read_bytes(), "fingers", deadline=5)
        print(answer.label, answer.probabilities)

Every call ends within its deadline, and raises a `ClientError` (see `serving.errors`) if it has no answer by then.
Requests that only read are repeated if the server loses them; requests that change something never are.
"""

import base64
import dataclasses
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import httpx

from handlers.lookahead import map_ahead
from handlers.observation.slot import UNCOUNTED_HEADER
from handlers.sampling import CANARY, REQUEST_ID_HEADER, is_selected
from serving.client.attempts import Repeat
from serving.client.canary import Canary
from serving.client.connection import Connection
from serving.client.deadline import Deadline
from serving.client.endpoint import Answer
from serving.client.model_status import ModelStatus
from serving.client.tokens import Tokens
from serving.errors import ClientError, NoKey, NotFound, RequestRefused, ServerFailed
from serving.host import state
from serving.host.ports import Address, PortError, Ports, offset_of_environment, other_offset
from serving.host.state import ServerState

VERSION_HEADER, COMMIT_HEADER = "model-version", "model-commit"
FAMILIARITY_HEADER, ID_HEADER = "x-image-familiarity", "x-prediction-id"
DEADLINE = 60.0  # seconds


@dataclasses.dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one image: label to probability, best first, and the version of the model that gave it.

    `familiarity` is the share of validation images that are at least as far from the training images; below 0.05 the
    image is unlike those. None from a model without a bank of training images. `prediction_id` names the answer in
    labels for `make feedback`; None if it is not logged. `commit` is that of the code which built the model's archive;
    None if it is unknown.
    """

    probabilities: dict[str, float]
    version: str | None
    familiarity: float | None = None
    prediction_id: str | None = None
    commit: str | None = None

    @property
    def label(self) -> str:
        """Return the most probable label."""
        return next(iter(self.probabilities))


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """Where in an image the model sees `label`: rows of numbers from 0 to 1 over the square that the network gets.

    `method` is "cam" (class activation mapping) or "occlusion"; `version` is that of the model.
    """

    label: str
    probability: float
    method: str
    heat: list[list[float]]
    version: str | None


class Client:
    """Asks a server that was started in `root` (the current directory).

    Addresses and key file come from the record of `serving.server start`, also after a restart; without a record they
    are TorchServe's default ports, moved by SIGHTLINE_PORT_OFFSET, and `key_file.json` in `root`. Arguments override
    them; `management` may be `unix:/path/of/a.socket`. A call takes at most `deadline` seconds, which a call can
    override. Threads may share a client.

    Raises:
        NoKey: the keys in `root` are copies of those of another directory's server.
        ClientError: an address cannot be one.
    """

    def __init__(
        self,
        *,
        root: Path | None = None,
        inference: str | None = None,
        management: str | None = None,
        key_file: Path | None = None,
        deadline: float = DEADLINE,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        root = (root or Path.cwd()).resolve()

        def current_addresses() -> tuple[str, str] | None:
            server = state.running(root)
            return (inference or server.inference, management or server.management) if server else None

        server = state.running(root)
        if server is None and key_file is None:
            _refuse_copied_keys(root)
        addresses = current_addresses() or (inference or _default("inference"), management or _default("management"))
        key_file = key_file or Path(server.key_file if server else root / state.KEY_FILE)
        self._connection = Connection(addresses, key_file, find=current_addresses, transport=transport)
        self._canary = Canary(key_file.parent / state.LOGS)
        self.deadline = deadline

    @classmethod
    def of_state(cls, server: ServerState, *, deadline: float = DEADLINE) -> Self:
        """Return a client of the server that this state describes."""
        key_file = Path(server.key_file)
        return cls(inference=server.inference, management=server.management, key_file=key_file, deadline=deadline)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._connection.close()

    @property
    def inference(self) -> str:
        """Return the address that answers predictions."""
        return self._connection.address("inference")

    @property
    def management(self) -> str:
        """Return the address of the management API."""
        return self._connection.address("management")

    @property
    def tokens(self) -> Tokens:
        """Return the tokens, for a program that sends its requests itself."""
        return self._connection.tokens

    @property
    def key_file(self) -> Path:
        """Return the path of the file with the tokens."""
        return self.tokens.path

    def predict(
        self,
        image: bytes,
        model: str,
        version: str | None = None,
        *,
        deadline: float | None = None,
        counted: bool = True,
        request_id: str | None = None,
    ) -> Prediction:
        """Return the answer for one encoded image, by the default version or by the one named.

        The metrics of the model leave out an image that is not `counted`, such as a golden image. `request_id` is the
        caller's name of the request in the prediction log. While a version is deployed as a canary, it answers its
        share of the requests that name no version; the default version answers those that it fails to answer.

        Raises:
            ClientError: see `serving.errors`.
        """
        within, headers = self._within(deadline), {} if counted else {UNCOUNTED_HEADER: "1"}
        share = self._canary.share(model) if version is None and counted else None
        if share is not None:
            request_id = request_id or uuid.uuid4().hex
        if request_id is not None:
            headers[REQUEST_ID_HEADER] = request_id
        if share is None or request_id is None or not is_selected(request_id, share.share, CANARY):
            return self._predict(image, model, version, within, headers)
        try:
            return self._predict(image, model, share.version, within.at_most(within.seconds / 2), headers)
        except ClientError as error:
            prediction = self._predict(image, model, None, within, headers)
            self._canary.add_failure(model, str(error))
            return prediction

    def _predict(
        self, image: bytes, model: str, version: str | None, deadline: Deadline, headers: Mapping[str, str]
    ) -> Prediction:
        path = f"/predictions/{model}" + (f"/{version}" if version else "")
        headers = {"Content-Type": "application/octet-stream", **headers}
        answer = self._infer(path, deadline, content=image, headers=headers)
        text = answer.headers.get(FAMILIARITY_HEADER)
        familiarity = None if text is None else float(text.partition(";")[0])
        version, id_, commit = map(answer.headers.get, (VERSION_HEADER, ID_HEADER, COMMIT_HEADER))
        return Prediction(answer.json(), version, familiarity, id_, commit)

    def explain(
        self,
        image: bytes,
        model: str,
        version: str | None = None,
        *,
        label: str | None = None,
        deadline: float | None = None,
    ) -> Explanation:
        """Return where the model sees `label` in an encoded image (None: the most probable label).

        Raises:
            ClientError: see `serving.errors`.
        """
        answer = self._explanation("application/json", image, model, version, label, deadline)
        document = answer.json()
        heat = document["map"]
        version = answer.headers.get(VERSION_HEADER)
        return Explanation(document["label"], document["probability"], document["method"], heat, version)

    def explain_png(
        self,
        image: bytes,
        model: str,
        version: str | None = None,
        *,
        label: str | None = None,
        deadline: float | None = None,
    ) -> bytes:
        """Return the same as a PNG: the image as the network gets it, with the map laid over it."""
        return self._explanation("image/png", image, model, version, label, deadline).body

    def _explanation(
        self, accept: str, image: bytes, model: str, version: str | None, label: str | None, deadline: float | None
    ) -> Answer:
        path = f"/explanations/{model}" + (f"/{version}" if version else "")
        # The front end drops parameters of this address; a header takes only some alphabets.
        form = {"files": {"image": ("image", image, "application/octet-stream")}, "data": {"label": label}}
        body: dict[str, Any] = {"content": image} if label is None else form
        return self._infer(path, self._within(deadline), headers={"Accept": accept}, **body)

    def predict_many(
        self,
        images: Iterable[bytes],
        model: str,
        version: str | None = None,
        *,
        concurrency: int = 8,
        deadline: float | None = None,
    ) -> Iterator[Prediction | RequestRefused]:
        """Yield one answer an image, in their order, with up to `concurrency` requests under way.

        An image that the server refuses yields the refusal. `images` is read only as far ahead as needed. The deadline
        applies to each image.

        Raises:
            ClientError: anything else than a refusal.
        """

        def one(image: bytes) -> Prediction | RequestRefused:
            try:
                return self.predict(image, model, version, deadline=deadline)
            except NotFound:
                raise
            except RequestRefused as refusal:
                return refusal

        with ThreadPoolExecutor(concurrency) as pool:
            yield from map_ahead(pool, one, images, 2 * concurrency)

    def predict_instances(
        self, images: Sequence[bytes], model: str, *, deadline: float | None = None
    ) -> list[dict[str, Any]]:
        """Return the entries that one KServe v1 request with all images gets: an answer or an error each.

        Raises:
            ClientError: see `serving.errors`.
        """
        document = {"instances": [{"b64": base64.b64encode(image).decode()} for image in images]}
        answer = self._infer(f"/v1/models/{model}:predict", self._within(deadline), json=document)
        predictions: list[dict[str, Any]] = answer.json()["predictions"]
        return predictions

    def ping(self, *, deadline: float | None = None) -> None:
        """Return if the front end answers; its models may not be ready."""
        self._connection.request("inference", "GET", "/ping", deadline=self._within(deadline), repeat=Repeat.READING)

    def models(self, *, deadline: float | None = None) -> list[str]:
        """Return the names of the registered models."""
        names: list[str] = []
        token: str | None = None
        within = self._within(deadline)
        while True:
            page = self._read("/models" + (f"?next_page_token={token}" if token else ""), within)
            names += [entry["modelName"] for entry in page["models"]]
            token = page.get("nextPageToken")
            if token is None:
                return names

    def versions(self, model: str, *, deadline: float | None = None) -> list[ModelStatus]:
        """Return the state of every version of a model."""
        return [ModelStatus.of_entry(entry) for entry in self._read(f"/models/{model}/all", self._within(deadline))]

    def describe(self, model: str, version: str | None = None, *, deadline: float | None = None) -> ModelStatus:
        """Return the state of the default version, or of the one named."""
        path = f"/models/{model}" + (f"/{version}" if version else "")
        return ModelStatus.of_entry(self._read(path, self._within(deadline))[0])

    def description(self, model: str, version: str | None = None, *, deadline: float | None = None) -> dict[str, Any]:
        """Return the classes, preprocessing, version, top_k and precision of a model, as a worker reports them.

        `describe` returns the state of the version and its workers, and needs no worker.
        """
        path = f"/models/{model}" + (f"/{version}" if version else "") + "?customized=true"
        try:
            document: dict[str, Any] = self._read(path, self._within(deadline))[0]["customizedMetadata"]
            document["precision"], document["classes"]
        except (KeyError, TypeError, IndexError):
            raise ServerFailed(200, f"{model} does not describe itself: is it a Sightline archive?") from None
        return document

    def register(self, file: str, *, workers: int | None = None, deadline: float | None = None) -> None:
        """Have the server load an archive of its store, named by its file, as a further version; do not wait for it.

        `workers` is its number of workers unless its model-config.yaml sets one; None: the server's default.

        Waiting is `describe` until `ready`: a registration that waits stalls every other request (TorchServe 0.12).
        The first version of a model becomes its default.
        """
        # Parameters, not a JSON body: that sets a batch delay of -10,000 ms unless one is named.
        query = {"url": file, "synchronous": "false"} | ({} if workers is None else {"initial_workers": str(workers)})
        self._change("POST", f"/models?{urlencode(query)}", deadline)

    def unregister(self, model: str, version: str, *, deadline: float | None = None) -> None:
        """Remove a version, with the model if it is the last one. Drain it first: its waiting requests are lost."""
        self._change("DELETE", f"/models/{model}/{version}", deadline)

    def set_default(self, model: str, version: str, *, deadline: float | None = None) -> None:
        """Make this the version of requests that name none, at once, even if it has no ready worker."""
        self._change("PUT", f"/models/{model}/{version}/set-default", deadline)

    def scale(
        self, model: str, version: str, workers: int, *, max_workers: int | None = None, deadline: float | None = None
    ) -> None:
        """Ask for this number of workers of a version, or for a number up to `max_workers`; do not wait for them."""
        query = urlencode({"min_worker": workers, "max_worker": max_workers or workers, "synchronous": "false"})
        self._change("PUT", f"/models/{model}/{version}?{query}", deadline)

    def _within(self, deadline: float | None) -> Deadline:
        return Deadline(self.deadline if deadline is None else deadline)

    def _infer(self, path: str, deadline: Deadline, **options: Any) -> Answer:
        return self._connection.request("inference", "POST", path, deadline=deadline, repeat=Repeat.WAITING, **options)

    def _read(self, path: str, deadline: Deadline) -> Any:
        return self._connection.request("management", "GET", path, deadline=deadline, repeat=Repeat.READING).json()

    def _change(self, method: str, path: str, deadline: float | None) -> None:
        self._connection.request("management", method, path, deadline=self._within(deadline))


def _refuse_copied_keys(root: Path) -> None:
    if (owner := state.owner_of_keys(root)) is not None:
        raise NoKey(
            f"no server runs here: {state.KEY_FILE} was copied from {owner}, whose server has those keys. Start one "
            f"here (make serve, with {other_offset()} before each command while the other runs), or use that one"
        )


def _default(api: str) -> str:
    """Return the default address of an API: TorchServe's, moved by SIGHTLINE_PORT_OFFSET."""
    try:
        address: Address = getattr(Ports.of_config("").moved(offset_of_environment()), api)
    except PortError as error:
        raise ClientError(str(error)) from error
    return address.url
