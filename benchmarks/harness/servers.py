"""Servers under measurement: start one server at a time, wait until it answers, and end it by its process id."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import psutil

from serving import archive, server
from serving.host import ports
from serving.host.ports import Address, is_free
from serving.host.resources import HUGE_PAGES
from serving.host.state import ServerState, end_tree

ROOT = Path(__file__).parents[2]
MODEL = "bench"  # the name of the model on every TorchServe
START_TIMEOUT = 180.0  # seconds
PROBE_TIMEOUT = 120.0  # seconds, in which the queue of the last load is emptied
TOP_1 = re.compile(rb'\{\s*("(?:[^"\\]|\\.)*")\s*:\s*[0-9.eE+-]+\s*[,}]')


class NotMeasured(Exception):
    """A row cannot be measured; the message is its recorded reason."""


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """A running server: the address and the headers of its requests."""

    url: str
    headers: dict[str, str]

    def ask(self, body: bytes, timeout: float = PROBE_TIMEOUT) -> bytes:
        """Return the answer to one request.

        Raises:
            NotMeasured: it is refused, or no answer arrives.
        """
        try:
            answer = httpx.post(self.url, content=body, headers=self.headers, timeout=timeout)
        except httpx.HTTPError as error:
            raise NotMeasured(f"no answer ({type(error).__name__})") from error
        if answer.status_code != 200:
            raise NotMeasured(f"answered {answer.status_code}: {answer.text[:200]}")
        return answer.content


def top_1(answer: bytes) -> str:
    """Return the first label of an answer, which may be wrapped in an envelope.

    Raises:
        NotMeasured: it has no object of labels and probabilities.
    """
    labels = TOP_1.findall(answer)
    if not labels:
        raise NotMeasured(f"the answer has no probabilities: {answer[:100]!r}")
    return str(json.loads(labels[-1]))  # numbers of the envelope precede them


@contextlib.contextmanager
def peer(
    command: Sequence[str], path: str, headers: Mapping[str, str], body: bytes, *, port: int, root: Path, log: Path
) -> Iterator[Running]:
    """Run a command that serves `path` on `port`; the block starts when it answers `body`.

    Raises:
        NotMeasured: it ended, or does not answer; the reason ends with the last line of its log.
    """
    if not is_free(Address("127.0.0.1", port)):
        raise NotMeasured(f"port {port} is taken")
    log.parent.mkdir(parents=True, exist_ok=True)
    # The memory settings of our server: only the server must differ.
    environment = {**os.environ, "GLIBC_TUNABLES": HUGE_PAGES, "PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1"}
    running = Running(f"http://127.0.0.1:{port}{path}", dict(headers))
    with open(log, "wb") as file:
        process = subprocess.Popen(
            list(command), cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, running, body, log)
        yield running
    finally:
        _end(process)


def _wait(process: subprocess.Popen[bytes], running: Running, body: bytes, log: Path) -> None:
    deadline, reason = time.monotonic() + START_TIMEOUT, ""
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotMeasured(f"it ended while it started: {_last_line(log)}")
        try:
            running.ask(body, timeout=30)
            return
        except NotMeasured as error:
            reason = str(error)
        time.sleep(0.25)
    raise NotMeasured(f"no answer within {START_TIMEOUT:.0f} s ({reason}): {_last_line(log)}")


def _end(started: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(started.pid)
        below = parent.children(recursive=True)
        end_tree(parent)
        for process in below:  # those that outlived their parent
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    started.wait()


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "without output"


def sightline(
    folder: Path, run: Path, overrides: Sequence[str], *, versions: Sequence[str] = ("1.0",), **options: Any
) -> AbstractContextManager[Running]:
    """Archive versions of a run in `folder`, emptied, and serve the first with `options` of `torchserve`."""
    empty(folder)
    for version in versions:
        archive.build(MODEL, version, run=run, store=folder / "model_store", overrides=overrides, rehearse=False)
    return torchserve(folder, **options)


@contextlib.contextmanager
def torchserve(
    folder: Path, *, config: str | None = None, python: Path | None = None, offset: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Running]:  # fmt: skip
    """Run TorchServe in `folder` with the archive of its model_store; the block starts when it is ready.

    `config` is the text of config.properties, by default the project's; `python` is the interpreter of the workers, by
    default this one; `offset` moves the ports, by default as the environment says.

    Raises:
        NotMeasured: it does not start, or a worker does not load.
    """
    (folder / "config.properties").write_text(config or (ROOT / "config.properties").read_text())
    offset = ports.offset_of_environment() if offset is None else offset
    command = [str(python or sys.executable), "-m", "serving.server", "start", f"{MODEL}=1.0"]
    command += ["--port-offset", str(offset), "--timeout", f"{START_TIMEOUT:.0f}"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **(environment or {})}
    try:
        process = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        state = ServerState.read(folder)
        if process.returncode or state is None:
            lines = [line for line in process.stderr.splitlines() if line.strip()] or ["TorchServe did not start"]
            errors = [line for line in lines if re.search(r"Error|error:", line)]
            raise NotMeasured((errors or lines)[-1][:300])
        key = json.loads(Path(state.key_file).read_text())["inference"]["key"]
        headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {key}"}
        yield Running(f"{state.inference}/predictions/{MODEL}", headers)
    finally:
        server.stop(root=folder)


def empty(folder: Path) -> Path:
    """Empty the folder of a server and return it; a server of an earlier run is ended first."""
    if folder.exists():
        server.stop(root=folder)
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder
