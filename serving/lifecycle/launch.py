"""Run TorchServe's launcher, which leaves the front end running, and record the front end's process."""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from handlers.observation.mirror import VARIABLE as MIRROR
from handlers.observation.segments import VARIABLE as PREDICTIONS
from handlers.observation.slot import VARIABLE as OBSERVATIONS
from serving.errors import ServingError
from serving.host import java, logs, state
from serving.host.ports import Ports
from serving.host.resources import Resources
from serving.host.state import ServerState
from serving.store.model_store import Archive

CONFIG = Path("config.properties")
PID_FILE = ".model_server.pid"  # the launcher's, in its temporary folder
SOCKET = "management.sock"


class LaunchError(ServingError):
    """TorchServe's launcher failed; the message says where to look."""


def launch(
    archives: Sequence[Archive],
    models: int,
    *,
    root: Path,
    config: Path,
    listening: Ports,
    offset: int,
    access_log: bool,
) -> ServerState:
    """Start TorchServe in `root` with these archives; return at once, when its front end's process is known.

    `listening` has been moved by `offset` already; management goes behind a unix socket. Workers, threads and heap that
    `config` does not set follow from the machine and the number of `models` (`serving.host.resources`).

    Raises:
        LaunchError: there is no such process.
        JavaError: there is no Java.
        ServingError: `config` has an invalid value.
    """
    runtime = java.find()
    shares = Resources.of_this_machine(models)
    text = config.read_text()
    workers = shares.workers_of(text)
    # Sockets, unpacked archives and the launcher's pid file need a private folder for this server (mkdtemp), outside
    # `root`: the path of a socket may have about 100 characters.
    temporary = tempfile.mkdtemp(prefix="sightline-")
    listening = listening.with_management_socket(f"{temporary}/{SOCKET}")
    effective = root / logs.FOLDER / CONFIG.name
    effective.write_text(
        f"{text}\n# Moved by {offset}\n{listening.properties()}# This machine\n{shares.properties(text)}"
    )
    environment = {
        key: value for key, value in os.environ.items() if key not in ("JAVA_HOME", "PYTHONPATH", "TS_CONFIG_FILE")
    }
    # Relative to `root`, and in UTF-8: Java reads paths by the locale, and log4j expands a "%" in them.
    environment |= {"TEMP": temporary, "TMPDIR": temporary, "LOG_LOCATION": str(logs.FOLDER), "LC_ALL": "C.UTF-8"}
    environment |= shares.environment() | ({"SIGHTLINE_ACCESS_LOG": "info"} if access_log else {})
    environment |= {OBSERVATIONS: str(observations(temporary)), PREDICTIONS: str(predictions(root))}
    environment |= {MIRROR: str(mirror(temporary))}
    if runtime.home is not None:
        environment["JAVA_HOME"] = str(runtime.home)
    starting = ServerState(
        pid=0,
        created=0,
        inference=listening.inference.url,
        management=listening.management.url,
        metrics=listening.metrics.url,
        key_file=str(root / state.KEY_FILE),
        temporary=temporary,
        workers=workers,
        config=str(config),
        offset=offset,
        access_log=access_log,
    ).with_this_process_busy()
    # Before the process exists: after a killed launch, the next start finds its leftovers by this folder.
    starting.write(root)
    try:
        process = _front_end(archives, root, effective, environment, Path(temporary))
    except (OSError, ValueError, subprocess.CalledProcessError, psutil.Error) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise LaunchError(f"TorchServe did not start ({error}): see {logs.FOLDER}/{logs.CONSOLE}") from error
    started = dataclasses.replace(starting, pid=process.pid, created=state.created(process.pid))
    started.write(root)
    return started


def observations(temporary: str) -> Path:
    """Return the folder of the workers' counters (`handlers.observation`) of the server with this temporary folder."""
    return Path(temporary) / "observations"


def mirror(temporary: str) -> Path:
    """Return the folder of copies for trials (`handlers.observation.mirror`)."""
    return Path(temporary) / "mirror"


def predictions(root: Path) -> Path:
    """Return the folder of the prediction logs of all models (`handlers.observation.log`)."""
    return root / logs.FOLDER / "predictions"


def _front_end(
    archives: Sequence[Archive], root: Path, config: Path, environment: dict[str, str], temporary: Path
) -> psutil.Process:
    # The launcher makes a URL of this path without quoting it, so it must not be that of the checkout.
    log_config = shutil.copy(logs.CONFIG, temporary)
    command = [sys.executable, "-m", "ts.model_server", "--start", "--ncs", "--log-config", log_config]
    command += ["--ts-config", os.path.relpath(config, root)]
    command += ["--model-store", os.path.relpath(archives[0].path.parent, root)]
    command += ["--models", *(f"{archive.name}={archive.path.name}" for archive in archives)]
    with open(root / logs.FOLDER / logs.CONSOLE, "ab") as log:
        # A new session: closing this terminal does not end the server.
        subprocess.run(
            command, cwd=root, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True, check=True,
        )  # fmt: skip
    return psutil.Process(int((temporary / PID_FILE).read_text()))
