"""The result of a benchmark: its figures with their origin (command, commit, time, machine, versions, code, load).

origin = Origin("sweep", arguments)     before anything is measured
return origin.publish({"rows": rows}, RESULT)
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from handlers.atomic import write_json
from serving.store import provenance
from training.run import machine, versions

ROOT = Path(__file__).parents[1]
SERVING, TRAINING = ("handlers", "serving"), ("handlers", "training")
CAMPAIGNS = "tests.campaigns"
BUSY = 0.3  # cores of other programs, above which a rate is not compared with a goal


class Origin:
    """Where the figures of one run come from; made before the first measurement.

    Args:
        benchmark: its module in `benchmarks`.
        arguments: of its command line.
        code: files and folders of this repository whose change outdates the figures, beside the benchmark's file.
        package: of the module.
    """

    def __init__(
        self, benchmark: str, arguments: Sequence[str], *, code: Sequence[str] = SERVING, package: str = "benchmarks"
    ) -> None:
        self.benchmark = benchmark
        self.command = " ".join([f"python -m {package}.{benchmark}", *arguments])
        own = f"{package.replace('.', '/')}/{benchmark}.py"
        self.code = {name: fingerprint(ROOT / name) for name in (*code, own)}
        self.commit = provenance.commit()
        self.time = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.other_cores = busy_cores()

    def run(self) -> dict[str, Any]:
        """Return what differs from run to run: command, commit, UTC time, code, and cores that other programs used."""
        self.other_cores = max(self.other_cores, busy_cores())
        return {
            "command": self.command,
            "commit": self.commit,
            "time": self.time,
            "elsewhere_cores": round(self.other_cores, 2),
            "code": self.code,
        }

    def document(self, device: str = "cpu") -> dict[str, Any]:
        """Return the same with the machine and the versions of packages; call it when no process of the run is left."""
        return {**self.run(), "machine": machine(device), "versions": versions()}

    def publish(self, figures: Mapping[str, Any], path: Path | None, *, failed: bool = False) -> int:
        """Write the figures with their origin to `path`, if given, and print them; return the exit status."""
        return publish({"benchmark": self.benchmark, **self.document(), **figures}, path, failed=failed)


class Sections:
    """A result of several sections: each is written as soon as it is measured, and stays until it is measured again.

    Sections of another machine or of other versions are dropped.
    """

    def __init__(
        self,
        benchmark: str,
        path: Path,
        *,
        arguments: Sequence[str] | None = None,
        code: Sequence[str] = SERVING,
        package: str = "benchmarks",
        **about: Any,
    ) -> None:
        """Read the result at `path`; `about` is common to all sections, the rest is as in `Origin`."""
        command = sys.argv[1:] if arguments is None else arguments
        self.path, self.origin = path, Origin(benchmark, command, code=code, package=package)
        environment = {"machine": machine("cpu"), "versions": versions()}
        before = json.loads(path.read_text()) if path.is_file() else {}
        if any(before.get(name) != value for name, value in environment.items()):
            before = {}
        self.figures: dict[str, Any] = before.get("sections", {})
        self.commands: dict[str, str] = before.get("commands", {})
        self.origins: dict[str, Any] = before.get("origins", {})
        self.about = {"benchmark": benchmark, **about, **environment}

    @property
    def document(self) -> dict[str, Any]:
        """Return the whole result."""
        return {**self.about, "commands": self.commands, "origins": self.origins, "sections": self.figures}

    def write(self, name: str, figures: Any) -> None:
        """Replace one section, and write the result."""
        self.figures[name], self.commands[name], self.origins[name] = figures, self.origin.command, self.origin.run()
        write_json(self.path, self.document)

    def publish(self, *, failed: bool) -> int:
        """Print the document; return the exit status."""
        return publish(self.document, None, failed=failed)


def publish(document: Mapping[str, Any], path: Path | None, *, failed: bool = False) -> int:
    """Write a document to `path`, if given, print it as the last line, and return the exit status."""
    if path is not None:
        write_json(path, document)
    print(json.dumps(document), flush=True)
    return int(failed)


def busy_cores() -> float:
    """Return how many cores are busy, while this program waits."""
    return psutil.cpu_percent(0.5) / 100 * (psutil.cpu_count() or 1)


def fingerprint(path: Path) -> str:
    """Return 12 hexadecimal digits that change with the code and the configuration in a file or folder."""
    paths = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in (".py", ".yaml"))
    digest = hashlib.sha256()
    for file in paths:
        digest.update(f"{file.relative_to(path)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def changed(documents: Iterable[Mapping[str, Any]], root: Path = ROOT) -> list[str]:
    """Return the files and folders whose code is no longer the code that was measured, in order."""
    codes = {item for run in _runs(documents) for item in run["code"].items()}
    return sorted({name for name, digest in codes if _differs(root / name, digest)})


def sentences(documents: Sequence[Mapping[str, Any]], root: Path = ROOT) -> str:
    """Return when and under which load results were measured, and which code has changed since; "" if unknown."""
    runs = _runs(documents)
    if not runs:
        return ""
    commits = ", ".join(dict.fromkeys(f"{(run['commit'] or 'unknown')[:7]} of {run['time'][:10]}" for run in runs))
    loads = [load for run in runs if (load := run["elsewhere_cores"]) is not None]
    load = f"up to {max(loads):.2f} cores" if loads else "not recorded"
    names = changed(documents, root)
    since = f" **Changed since then: {', '.join(names)}.**" if names else ""
    return f"Commit {commits}; used by other programs: {load}.{since}"


def _runs(documents: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    runs = [run for document in documents for run in document.get("origins", {"": document}).values()]
    return [run for run in runs if "code" in run]


def _differs(path: Path, digest: str) -> bool:
    return not path.exists() or fingerprint(path) != digest
