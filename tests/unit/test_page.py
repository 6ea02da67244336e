"""The page's server: whose requests it answers, within which limits, and what it says without a TorchServe."""

import http.client
import json
import re
import shutil
import socket
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from monitoring import feedback, page
from monitoring.web import corrections, figures
from monitoring.web.exchange import Refusal
from monitoring.web.server import PageServer
from monitoring.web.site import STATIC, Site

ROOT = Path(__file__).parents[2]
LIMIT = 1000  # bytes of a body
SHA256 = "0" * 64
FILES = sorted(path.name for path in STATIC.iterdir())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder without a server, whose key file has a secret."""
    config = (ROOT / "config.properties").read_text()
    (tmp_path / "config.properties").write_text(f"{config}\nmax_request_size={LIMIT}\n")
    (tmp_path / "key_file.json").write_text('{"inference": {"key": "secret"}}')
    return tmp_path


@pytest.fixture
def server(home: Path) -> Iterator[PageServer]:
    with PageServer(0, Site(home, "birds")) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Response:
    """A response of the page's server; every one has the headers that protect it, and no secret."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.code, self.headers, self.body = response.status, response.headers, response.read()
        text = str(self.headers) + self.body.decode()
        assert "secret" not in text and "access-control" not in text.lower() and "Python" not in text
        assert "default-src 'none'" in self.headers["Content-Security-Policy"]
        assert self.headers["X-Content-Type-Options"] == "nosniff" and self.headers["Cache-Control"] == "no-store"

    @property
    def error(self) -> dict[str, Any]:
        """Return the document of an error."""
        document: dict[str, Any] = json.loads(self.body)
        assert document["code"] == self.code >= 400
        return document


def ask(server: PageServer, method: str, path: str, body: bytes | None = None, **headers: str | None) -> Response:
    """Return the response to a request as the page's own; a header of None is left out."""
    host = f"127.0.0.1:{server.server_address[1]}"
    names: dict[str, str | None] = {"Host": host, "Content-Length": str(len(body or b""))}
    names |= {"Origin": f"http://{host}"} if method == "POST" else {}
    names |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection(host, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in names.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    try:
        return Response(connection.getresponse())
    finally:
        connection.close()


@pytest.mark.parametrize("name", ["", *FILES])
def test_the_files_of_the_page_are_served(server: PageServer, name: str) -> None:
    response = ask(server, "GET", f"/{name}")
    assert response.code == 200 and response.body == (STATIC / (name or "index.html")).read_bytes()
    assert response.headers["Content-Type"].endswith("; charset=utf-8")


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/key_file.json",
            "/../key_file.json",
            "/%2e%2e/key_file.json",
            "/static/../../key_file.json",
            "//key_file.json",
        ),
        *("/logs/server.json", "/site.py", "/token", "/ping", "/models/a/b", "/api-description", "/explanations/birds"),
        *("/feedback/birds", "/v1/models/birds:predict"),
    ],
)
def test_no_other_address_is_answered(server: PageServer, path: str) -> None:
    response = ask(server, "GET", path)
    assert response.code == 404 and response.error["type"] == "NotFound"


@pytest.mark.parametrize("name", ["..", "a%2Fb", "%2e%2e%2fmodels", "a%0d%0ab", "token", "-a"])
def test_no_name_leads_to_another_address_of_the_server(server: PageServer, name: str) -> None:
    response = ask(server, "POST", f"/predictions/{name}", b"image")
    assert response.code == 400 and "cannot name a model" in response.error["message"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_other_methods_are_refused(server: PageServer, method: str) -> None:
    assert ask(server, method, "/models").error["code"] == 501


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:{port}", "10.0.0.1:{port}", "", "[::1", None]
)
def test_another_name_of_this_address_is_refused(server: PageServer, host: str | None) -> None:
    name = host and host.format(port=server.server_address[1])
    for method, origin in (("GET", None), ("POST", f"http://{name}")):
        response = ask(server, method, "/models", Host=name, Origin=origin)
        assert response.code == 403 and response.error["type"] == "ForeignHost"


@pytest.mark.parametrize("host", ["localhost:{port}", "[::1]:{port}", "localhost:9000"])
def test_the_names_of_the_loopback_are_taken_also_through_a_tunnel(server: PageServer, host: str) -> None:
    name = host.format(port=server.server_address[1])
    assert ask(server, "GET", "/", Host=name).code == 200
    assert ask(server, "POST", "/feedback/birds", b"{}", Host=name, Origin=f"http://{name}").code == 400


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", "http://127.0.0.1", "http://localhost:{port}", "https://127.0.0.1:{port}"],
)
def test_another_site_s_requests_are_refused(server: PageServer, origin: str) -> None:
    name = origin.format(port=server.server_address[1])
    for method, path in (("GET", "/models"), ("POST", "/predictions/birds"), ("POST", "/feedback/birds")):
        response = ask(server, method, path, Origin=name)
        assert response.code == 403 and response.error["type"] == "ForeignOrigin"


def test_a_request_with_a_body_needs_an_origin(server: PageServer) -> None:
    assert ask(server, "POST", "/predictions/birds", b"image", Origin=None).error["type"] == "ForeignOrigin"
    assert ask(server, "POST", "/predictions/birds", b"image").error["type"] == "NoServer"


def test_a_body_is_limited_as_the_server_s(server: PageServer) -> None:
    response = ask(server, "POST", "/predictions/birds", bytes(LIMIT + 1))
    assert response.code == 413 and "more than 1,000 bytes" in response.error["message"]
    assert ask(server, "POST", "/predictions/birds", bytes(LIMIT)).error["type"] == "NoServer"


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": "-1"},
        {"Content_Length": "1e3"},
        {"Content_Length": "9" * 20},
        {"Transfer_Encoding": "chunked"},
    ],
)
def test_a_body_needs_a_length(server: PageServer, headers: dict[str, str]) -> None:
    assert ask(server, "POST", "/predictions/birds", None, **headers).error["code"] == 411


def test_a_get_has_no_body(server: PageServer) -> None:
    assert ask(server, "GET", "/models", b"body").code == 400


def test_without_a_server_or_an_exporter_the_reply_says_what_to_start(server: PageServer) -> None:
    for method, path in (("GET", "/models"), ("GET", "/models/birds"), ("POST", "/explanations/birds?label=wren")):
        response = ask(server, method, path)
        assert response.code == 503 and "start one with make serve" in response.error["message"]
    response = ask(server, "GET", "/metrics")
    assert response.code == 503 and "make watch" in response.error["message"]


def test_a_fault_of_ours_is_a_reply_and_a_line_of_the_log(
    server: PageServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(figures, "read", lambda url: 1 / 0)
    assert ask(server, "GET", "/metrics").error["type"] == "InternalError"
    assert "GET /metrics failed" in caplog.text


def test_an_unreadable_request_is_a_document(server: PageServer) -> None:
    with socket.create_connection(("127.0.0.1", server.server_address[1])) as connection:
        connection.sendall(b"GET / HTTP/9.9\r\n\r\n")
        assert b'"type": "BadRequest"' in connection.makefile("rb").read()


def test_labels_become_a_table_that_make_feedback_reads(tmp_path: Path) -> None:
    folder = tmp_path / "birds"
    for label in ("wren", 'a "b", c', "=1+1", "ä"):
        path = corrections.add(folder, "id-1", SHA256, label)
    corrections.add(folder, "", SHA256, "robin")
    assert feedback.read_csv(path) == [
        *({"request_id": "id-1", "label": label} for label in ("wren", 'a "b", c', "=1+1", "ä")),
        {"sha256": SHA256, "label": "robin"},
    ]


@pytest.mark.parametrize(
    ("request_id", "sha256"), [("a b", SHA256), ("x" * 129, SHA256), ("a\nb", SHA256), ("", "0" * 63), ("", "g" * 64)]
)
def test_ids_that_no_answer_has_are_refused(tmp_path: Path, request_id: str, sha256: str) -> None:
    with pytest.raises(Refusal, match="sha256"):
        corrections.add(tmp_path / "birds", request_id, sha256, "wren")
    assert not (tmp_path / "birds").exists()


METRICS = """
# TYPE sightline_up gauge
sightline_up 1
# TYPE sightline_requests_total counter
sightline_requests_total{model="birds",version="1.0",code="200"} 7
sightline_requests_total{model="birds",version="1.0",code="503"} 1
# TYPE sightline_predictions_total counter
sightline_predictions_total{model="birds",version="1.0",class="wren \\"a\\""} 7
# TYPE sightline_confidence histogram
sightline_confidence_bucket{model="birds",version="1.0",le="+Inf"} 7
sightline_confidence_sum{model="birds",version="1.0"} 3.5
sightline_confidence_count{model="birds",version="1.0"} 7
# TYPE sightline_familiarity histogram
sightline_familiarity_bucket{model="birds",version="1.0",le="0.05"} 2
sightline_familiarity_count{model="birds",version="1.0"} 7
# TYPE sightline_default_version gauge
sightline_default_version{model="birds",version="1.0"} 1
# TYPE sightline_drift_mmd gauge
sightline_drift_mmd{model="birds",version="1.0",window="500"} 0.01
sightline_drift_mmd{model="birds",version="1.0",window="100"} 0.03
# TYPE sightline_drift_mmd_threshold gauge
sightline_drift_mmd_threshold{model="birds",version="1.0",window="100"} 0.02
# TYPE sightline_drift_class_excess gauge
sightline_drift_class_excess{model="birds",version="1.0",window="100"} 0.5
sightline_drift_class_excess{model="birds",version="1.0",window="500"} 0.1
# TYPE sightline_drift_class_excess_threshold gauge
sightline_drift_class_excess_threshold{model="birds",version="1.0",window="100"} 0.4
sightline_drift_class_excess_threshold{model="birds",version="1.0",window="500"} 0.4
# TYPE sightline_drift_detected gauge
sightline_drift_detected{model="birds",version="1.0",window="100",kind="input"} 1
sightline_drift_detected{model="birds",version="1.0",window="100",kind="label"} 0
# TYPE sightline_drift_jensen_shannon gauge
sightline_drift_jensen_shannon{model="birds",version="1.0",window="100",column="contrast"} 0.3
sightline_drift_jensen_shannon{model="birds",version="1.0",window="100",column="sharpness"} NaN
# TYPE sightline_drift_jensen_shannon_threshold gauge
sightline_drift_jensen_shannon_threshold{model="birds",version="1.0",window="100",column="contrast"} 0.2
# TYPE sightline_estimated_accuracy gauge
sightline_estimated_accuracy{model="birds",version="1.0",window="100"} 0.8
# TYPE sightline_estimated_accuracy_low gauge
sightline_estimated_accuracy_low{model="birds",version="1.0",window="100"} NaN
"""


def test_metrics_become_an_entry_for_each_version() -> None:
    samples = [sample for family in text_string_to_metric_families(METRICS) for sample in family.samples]
    document = json.loads(json.dumps(figures.document(samples), allow_nan=False))
    (entry,) = document["versions"]
    assert document["up"] and entry["model"] == "birds" and entry["default"] and not entry["live"]
    assert entry["requests"] == {"200": 7, "503": 1} and entry["classes"] == {'wren "a"': 7}
    assert entry["confidence"] == {"sum": 3.5, "images": 7} and (entry["unfamiliar"], entry["familiarity"]) == (2, 7)
    assert [window["images"] for window in entry["windows"]] == [100, 500] and entry["reference"] is None
    window = entry["windows"][0]
    changed = ["contrast", "one class is more frequent"]
    assert (window["kind"], window["changed"], window["accuracy"]["value"]) == ("input", changed, 0.8)
    assert entry["windows"][1]["kind"] == "" and not entry["windows"][1]["changed"] and not window["reliable"]


class Markup(HTMLParser):
    """Collects the elements of a document, and its text inside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))


def test_the_document_has_no_script_style_or_address_of_another_place() -> None:
    markup = Markup()
    markup.feed((STATIC / "index.html").read_text())
    loaded = {attributes.get("src") or attributes.get("href") for _, attributes in markup.elements} - {None, "data:,"}
    assert loaded == {"page.css", "page.js"} <= set(FILES)
    attributes = {name for _, attributes in markup.elements for name in attributes}
    assert "style" not in attributes and not any(name.startswith("on") for name in attributes)
    assert not any(tag == "style" for tag, _ in markup.elements)


@pytest.mark.parametrize("name", [name for name in FILES if name != "index.html"])
def test_scripts_and_styles_name_no_other_place_and_make_no_markup(name: str) -> None:
    text = (STATIC / name).read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|setTimeout\(\"", text)
    assert re.findall(r"https?://\S+", text) in ([], ['http://www.w3.org/2000/svg";'])
    assert set(re.findall(r'from "\./(.+?)"', text)) <= set(FILES)


def test_a_taken_port_and_a_wrong_name_are_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for arguments, message in (
            (["--port", str(port)], f"port {port} is taken: choose another with PORT="),
            (["--port", "70000"], "70000 is no port"),
            (["--name", "a/b"], "'a/b' cannot name a model"),
        ):
            assert page.main(arguments) == 1
            error = capsys.readouterr().err
            assert error.startswith("error: ") and message in error and error.count("\n") == 1
    shutil.copy(ROOT / "config.properties", home)
    monkeypatch.setenv("SIGHTLINE_PORT_OFFSET", "100")
    assert page.port_of(home) == 8184
