"""Look for known vulnerabilities of the packages in all locks: `python -m pipeline.audit`.

pip-audit asks a service about each version. `pipeline/accepted_findings.yaml` lists accepted findings with their ends.
Exit status 0: every package was looked up, and nothing is open. pip-audit itself also ends with 0 if its service does
not know a package; here that is a failure.

    .venv/bin/uv pip install --require-hashes -r requirements-audit.txt     once
    .venv/bin/python -m pipeline.audit --service osv
"""

import argparse
import datetime as dt
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
ACCEPTED = Path(__file__).with_name("accepted_findings.yaml")
INSTALL = "pip-audit is missing: .venv/bin/uv pip install --require-hashes -r requirements-audit.txt"
PIN = re.compile(r"^([a-z0-9][\w.-]*)==([^\s;]+)", re.MULTILINE)
SHOWN = 3  # names in a message


class AuditError(Exception):
    """The audit could not be made; the message says what to do."""


@dataclass(frozen=True)
class Finding:
    """A known vulnerability of a locked package, with every number that it is known by."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        remedy = f"fixed in {', '.join(self.fixed)}" if self.fixed else "no version fixes it"
        return f"{self.package} {self.version}: {' '.join(self.ids)} ({remedy})"


@dataclass(frozen=True)
class Acceptance:
    """A finding that does no harm here, and the last day of that judgement."""

    package: str
    id: str
    until: dt.date
    reason: str

    def covers(self, finding: Finding) -> bool:
        return finding.package == self.package and self.id in finding.ids


def read_acceptances(path: Path) -> list[Acceptance]:
    """Return the accepted findings of a file.

    Raises:
        AuditError: a row lacks a package, id, day or reason.
    """
    try:
        rows = [Acceptance(**row) for row in yaml.safe_load(path.read_text(encoding="utf-8"))]
    except (TypeError, yaml.YAMLError) as error:
        raise AuditError(f"{path}: {error}: each row needs package, id, until and reason") from error
    for row in rows:
        if type(row.until) is not dt.date or not str(row.reason or "").strip():
            raise AuditError(f"{path}: {row.id} needs a reason, and a day such as until: 2027-03-01")
    return rows


def pinned(locks: Sequence[Path]) -> list[tuple[str, str]]:
    """Return every package and version that one of the locks pins."""
    return sorted({pin for lock in locks for pin in PIN.findall(lock.read_text(encoding="utf-8"))})


def look_up(pins: Sequence[tuple[str, str]], options: Sequence[str] = ()) -> list[Finding]:
    """Return the known vulnerabilities of packages; `options` are those of pip-audit.

    Raises:
        AuditError: pip-audit is missing or fails, or a package could not be looked up.
    """
    answers = [answer for part in _without_repeats(pins) for answer in _run(part, options)]
    unknown = [answer["name"] for answer in answers if "skip_reason" in answer]
    if unknown or len(answers) < len(pins):
        names = ", ".join(unknown[:SHOWN]) + (", ..." if len(unknown) > SHOWN else "")
        missing = len(unknown) + len(pins) - len(answers)
        raise AuditError(
            f"{missing} of {len(pins)} packages were not looked up ({names}), so this is no pass: "
            "run it where the service answers, or name another (--service osv)"
        )
    return [
        Finding(answer["name"], answer["version"], (row["id"], *row["aliases"]), tuple(row["fix_versions"]))
        for answer in answers
        for row in answer["vulns"]
    ]


def _without_repeats(pins: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Return the pins in parts that name each package once: pip-audit refuses two versions."""
    parts: list[list[tuple[str, str]]] = []
    last_part: dict[str, int] = {}
    for name, version in pins:
        index = last_part[name] = last_part.get(name, -1) + 1
        if index == len(parts):
            parts.append([])
        parts[index].append((name, version))
    return parts


def _run(pins: Sequence[tuple[str, str]], options: Sequence[str]) -> list[dict[str, Any]]:
    """Return pip-audit's answer for each package."""
    with tempfile.TemporaryDirectory() as folder:
        requirements, output = Path(folder) / "requirements.txt", Path(folder) / "audit.json"
        requirements.write_text("".join(f"{name}=={version}\n" for name, version in pins), encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(requirements), "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--output", str(output), "--progress-spinner", "off", *options]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if "No module named pip_audit" in process.stderr:
            raise AuditError(INSTALL)
        if not output.is_file():  # with findings it ends with 1 too
            reason = (process.stderr.strip().splitlines() or ["without a word"])[-1]
            raise AuditError(f"pip-audit failed, so this is no pass: run it where its service answers ({reason})")
        answers: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))["dependencies"]
    return answers


def faults(findings: Sequence[Finding], acceptances: Sequence[Acceptance], today: dt.date) -> list[str]:
    """Return a line for each finding that is not accepted and each acceptance that has ended or covers no finding."""
    lines = []
    for finding in findings:
        covering = [row for row in acceptances if row.covers(finding)]
        if not covering:
            lines.append(f"{finding}: take a fixed version (make lock), or accept it in {ACCEPTED.name}")
        elif all(row.until < today for row in covering):
            lines.append(f"{finding}: accepted until {covering[0].until}: look again whether it does harm")
    unused = [row for row in acceptances if not any(row.covers(finding) for finding in findings)]
    lines += [f"{row.package} {row.id}: no locked package has it: remove it from {ACCEPTED.name}" for row in unused]
    return lines


def main() -> int:
    """Audit the locks; return 1 if something is open, or was not looked up."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.audit", description=__doc__.splitlines()[0])
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi", help="whom to ask (default: %(default)s)")
    parser.add_argument("--osv-url", help="another address of the osv service")
    arguments = parser.parse_args()
    options = ["--vulnerability-service", arguments.service]
    options += ["--osv-url", arguments.osv_url] if arguments.osv_url else []
    pins = pinned(sorted(ROOT.glob("requirements*.txt")))
    try:
        acceptances = read_acceptances(ACCEPTED)
        with Console(stderr=True, markup=False, emoji=False).status(f"Asking about {len(pins)} packages ..."):
            findings = look_up(pins, options)
    except AuditError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    lines = faults(findings, acceptances, dt.date.today())
    print("\n".join(lines) or f"{len(pins)} packages: {len(findings)} known vulnerabilities, all accepted")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
