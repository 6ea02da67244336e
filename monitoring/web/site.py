"""The addresses of the page: its files, and the parts of the server's API that it needs.

GET  /models                  the served models, and the largest body
GET  /models/<name>           classes and version of the default version
POST /predictions/<name>      the body is an image; ?uncounted=1 leaves it out of the metrics and the log
POST /explanations/<name>     the same; a PNG with the heat map of ?label=, by ?version=
POST /feedback/<name>         {"sha256", "request_id", "label"}: the right class of an answered image
GET  /metrics                 the exporter's figures

The client holds the server's key; a browser gets none.
"""

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

from handlers.requests.labels import LEAST_FAMILIAR
from monitoring import exporter
from monitoring.web import corrections, figures
from monitoring.web.exchange import Refusal, Reply, Request
from serving.client import Client
from serving.errors import ClientError, DeadlinePassed, NoKey, RequestRefused, ServerFailed, ServingError
from serving.host import properties, state
from serving.host.ports import LOOPBACK
from serving.lifecycle import launch
from serving.store import model_store

STATIC = Path(__file__).with_name("static")
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}
INDEX = "index.html"
FRONT_END_LIMIT = 6_553_500  # bytes of a request, of a config.properties that sets none
READING, ANSWERING = 5.0, 15.0  # seconds of a call
ADDRESS = re.compile(r"/(\w+)/([^/]+)")

logger = logging.getLogger(__name__)


class Site:
    """Answers the requests of browsers for the server of a directory.

    Args:
        root: the directory.
        selected: the model that the page shows first, empty for any.
    """

    def __init__(self, root: Path, selected: str = "") -> None:
        self.root, self._selected = root, selected
        self._client: Client | None = None
        self._lock = threading.Lock()
        self._files = {f"/{path.name}": path for path in STATIC.iterdir() if path.suffix in TYPES}
        self._files["/"] = STATIC / INDEX
        self._models: dict[tuple[str, str], Callable[[Request, str], Reply]] = {
            ("GET", "models"): self._describe,
            ("POST", "predictions"): self._predict,
            ("POST", "explanations"): self._explain,
            ("POST", "feedback"): self._correct,
        }

    def answer(self, request: Request) -> Reply:
        """Return the reply to a request, an error as a document."""
        try:
            return self._answer(request)
        except Refusal as refusal:
            return refusal.reply()
        except ServingError as error:
            return _refusal_of(error).reply()
        except OSError as error:
            return Refusal(500, type(error).__name__, f"{error.filename}: {error.strerror}").reply()
        except Exception:
            logger.exception("%s %s failed", request.method, request.path)
            return Refusal(500, "InternalError", "the page's server failed: its terminal shows the error").reply()

    def largest(self) -> int:
        """Return the largest body in bytes: that of the server."""
        server = state.running(self.root)
        try:
            text = Path((server.config if server else None) or self.root / launch.CONFIG).read_text()
            return int(properties.read(text).get("max_request_size", FRONT_END_LIMIT))
        except (OSError, ValueError):
            return FRONT_END_LIMIT

    def close(self) -> None:
        """Close the connections to the server."""
        if self._client is not None:
            self._client.close()

    def _answer(self, request: Request) -> Reply:
        if request.method == "GET" and request.path in self._files:
            path = self._files[request.path]
            return Reply(200, TYPES[path.suffix], path.read_bytes())
        if request.method == "GET" and request.path == "/models":
            return self._list()
        if request.method == "GET" and request.path == "/metrics":
            return Reply.of(figures.read(f"http://{LOOPBACK[0]}:{exporter.port_of(self.root)}/metrics"))
        match = ADDRESS.fullmatch(request.path)
        action = self._models.get((request.method, match[1])) if match is not None else None
        if match is None or action is None:
            raise Refusal(404, "NotFound", "the page has no such address")
        name = unquote(match[2])
        model_store.check_name(name)
        return action(request, name)

    def _server(self) -> Client:
        """Return the client, which finds a server that is started again; NoKey if none was started yet."""
        with self._lock:
            if self._client is None:
                if state.running(self.root) is None:
                    raise NoKey("no server runs in this folder: start one with make serve")
                self._client = Client(root=self.root, deadline=ANSWERING)
            return self._client

    def _list(self) -> Reply:
        names = sorted(self._server().models(deadline=READING))
        return Reply.of({"models": names, "selected": self._selected, "max_bytes": self.largest()})

    def _describe(self, request: Request, name: str) -> Reply:
        description = self._server().description(name, _version(request), deadline=READING)
        return Reply.of({key: description.get(key) for key in ("classes", "version", "precision")})

    def _predict(self, request: Request, name: str) -> Reply:
        start = time.monotonic()
        answer = self._server().predict(request.body, name, counted="uncounted" not in request.query)
        return Reply.of(
            {
                "labels": answer.probabilities,
                "version": answer.version,
                "seconds": time.monotonic() - start,
                "familiarity": answer.familiarity,
                "familiar": answer.familiarity is None or answer.familiarity >= LEAST_FAMILIAR,
                "request_id": answer.prediction_id,
                "sha256": hashlib.sha256(request.body).hexdigest(),
            }
        )

    def _explain(self, request: Request, name: str) -> Reply:
        label = request.query.get("label")
        return Reply(200, "image/png", self._server().explain_png(request.body, name, _version(request), label=label))

    def _correct(self, request: Request, name: str) -> Reply:
        try:
            document = json.loads(request.body)
            request_id, sha256, label = (str(document[key]) for key in ("request_id", "sha256", "label"))
        except (ValueError, KeyError, TypeError):
            raise Refusal(400, "BadRequest", "a label is a document with request_id, sha256 and label") from None
        classes = self._server().description(name, deadline=READING)["classes"]
        if label not in classes:
            raise Refusal(400, "BadRequest", f"{name} has no such class: choose one of its {len(classes)} classes")
        path = corrections.add(launch.predictions(self.root) / name, request_id, sha256, label)
        table = path.relative_to(self.root).as_posix()
        return Reply.of({"logged": bool(request_id), "command": f"make feedback NAME={name} LABELS={table}"})


def _version(request: Request) -> str | None:
    version = request.query.get("version")
    if version is not None:
        model_store.check_version(version)
    return version


def _refusal_of(error: ServingError) -> Refusal:
    """Return the error of the server or of its client as the page's own, in the words of that error."""
    if isinstance(error, RequestRefused | ServerFailed):
        code = error.code if error.code >= 400 else 502
        return Refusal(code, error.kind or "ServerFailed", error.message)
    if isinstance(error, ClientError):
        code = 504 if isinstance(error, DeadlinePassed) else 503
        return Refusal(code, "NoServer", str(error))
    return Refusal(400, "BadRequest", str(error))
