"""pipeline/audit.py with the real pip-audit, asking a service on this machine that knows what the test says."""

import datetime as dt
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from pipeline import audit
from pipeline.audit import Acceptance, AuditError, Finding

pytest.importorskip("pip_audit", reason=audit.INSTALL)

TODAY = dt.date(2026, 12, 1)
FINDING = Finding("numpy", "1.0", ("PYSEC-1", "CVE-1"), ("2.0",))


def acceptance(until: str = "2027-01-01", package: str = "numpy", number: str = "CVE-1") -> Acceptance:
    return Acceptance(package, number, dt.date.fromisoformat(until), "not called")


class Osv(BaseHTTPRequestHandler):
    """An OSV service that knows one vulnerability, of numpy 1.0."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_affected = (asked["package"]["name"], asked["version"]) == ("numpy", "1.0")
        events = [{"introduced": "0"}, {"fixed": "2.0"}]
        known: dict[str, Any] = {
            "id": "PYSEC-1",
            "aliases": ["CVE-1"],
            "summary": "a hole",
            "affected": [{"package": asked["package"], "ranges": [{"type": "ECOSYSTEM", "events": events}]}],
        }
        body = json.dumps({"vulns": [known]} if is_affected else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[list[str]]:
    """Options of pip-audit that ask `Osv`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield ["--vulnerability-service", "osv", "--osv-url", f"http://127.0.0.1:{server.server_address[1]}/v1/query"]
        server.shutdown()


def test_a_known_vulnerability_is_found_in_each_pinned_version(service: list[str]) -> None:
    assert audit.look_up([("numpy", "1.0"), ("numpy", "2.4"), ("pillow", "13.0")], service) == [FINDING]


def test_a_service_that_does_not_answer_is_no_pass() -> None:
    nobody = ["--vulnerability-service", "osv", "--osv-url", "http://127.0.0.1:9/v1/query"]
    with pytest.raises(AuditError, match="no pass: run it where its service answers"):
        audit.look_up([("numpy", "1.0")], nobody)


def test_a_package_that_was_skipped_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    # What pip-audit 2.10 writes, with exit status 0, for a package that its service does not know.
    monkeypatch.setattr(audit, "_run", lambda pins, options: [{"name": "numpy", "skip_reason": "not found"}])
    with pytest.raises(AuditError, match=r"1 of 1 packages were not looked up \(numpy\), so this is no pass"):
        audit.look_up([("numpy", "1.0")])
    monkeypatch.setattr(audit, "_run", lambda pins, options: [])
    with pytest.raises(AuditError, match="1 of 1 packages were not looked up"):
        audit.look_up([("numpy", "1.0")])


def test_every_pin_of_every_lock_is_looked_up() -> None:
    pins = audit.pinned(sorted(audit.ROOT.glob("requirements*.txt")))
    versions = {version for name, version in pins if name == "numpy"}
    assert len(versions) > 1  # that of a server, and that of the peers
    parts = audit._without_repeats(pins)
    assert sorted(pin for part in parts for pin in part) == pins
    assert all(len({name for name, _ in part}) == len(part) for part in parts)


@pytest.mark.parametrize(
    ("findings", "acceptances", "expected"),
    [
        ([], [], None),
        ([FINDING], [acceptance()], None),
        ([FINDING], [], "numpy 1.0: PYSEC-1 CVE-1 (fixed in 2.0): take a fixed version"),
        ([FINDING], [acceptance(number="CVE-2")], "take a fixed version"),
        ([FINDING], [acceptance(until="2026-11-30")], "accepted until 2026-11-30: look again"),
        ([], [acceptance()], "numpy CVE-1: no locked package has it: remove it"),
    ],
)
def test_only_accepted_findings_pass(
    findings: list[Finding], acceptances: list[Acceptance], expected: str | None
) -> None:
    lines = audit.faults(findings, acceptances, TODAY)
    assert not lines if expected is None else any(expected in line for line in lines)


def test_the_accepted_findings_have_a_day_and_a_reason(tmp_path: Path) -> None:
    audit.read_acceptances(audit.ACCEPTED)
    path = tmp_path / "accepted.yaml"
    for row in (
        "id: A",
        "package: a, id: A, until: soon, reason: r",
        "package: a, id: A, until: 2027-01-01, reason: ''",
    ):
        path.write_text(f"[{{{row}}}]")
        with pytest.raises(AuditError, match="needs"):
            audit.read_acceptances(path)


def test_the_command_says_what_is_open(
    service: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pins = audit.pinned([audit.ROOT / "requirements-uv.txt"])
    monkeypatch.setattr("sys.argv", ["audit", "--service", "osv", "--osv-url", service[-1]])
    monkeypatch.setattr(audit, "pinned", lambda locks: pins)
    assert audit.main() == 0
    assert capsys.readouterr().out == f"{len(pins)} packages: 0 known vulnerabilities, all accepted\n"
    monkeypatch.setattr(audit, "pinned", lambda locks: [("numpy", "1.0")])
    assert audit.main() == 1
    assert capsys.readouterr().out.startswith(f"{FINDING}: take a fixed version")
