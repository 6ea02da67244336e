"""The recorded server of a directory: logs/server.json, and its processes.

The file names its directory: a copy of the directory has no server.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

from handlers import atomic
from handlers.process import created as created  # re-exported: a pid with its start time identifies a process
from handlers.process import runs

LOGS = Path("logs")
FILE = "server.json"
STOPPED = "stopped"  # exists from a `make stop` until the next start
FRONT_END, WORKER = "org.pytorch.serve.ModelServer", "model_service_worker.py"
KEY_FILE = "key_file.json"  # TorchServe writes it to the directory it runs in


@dataclasses.dataclass(frozen=True, slots=True)
class ServerState:
    """One started server: its front end's process, its addresses and its options."""

    pid: int  # 0 before the process exists
    created: int  # when that process was started, see `created`: a reused pid has another
    inference: str
    management: str
    metrics: str
    key_file: str
    temporary: str  # the folder it unpacks archives in; removed when it is stopped
    busy: int = 0  # the process that is starting or stopping it, or 0
    workers: int = 1  # of each model whose archive sets no number
    config: str | None = None  # its config.properties, if not that of its directory
    offset: int = 0  # added to its ports
    access_log: bool = False  # whether it logs each request
    busy_created: int = 0  # when the process of `busy` was started, 0 if unknown

    @classmethod
    def read(cls, root: Path) -> Self | None:
        """Return the state written in `root`, or None if it is missing, unreadable or another directory's."""
        try:
            root = root.resolve()
            document = json.loads((root / LOGS / FILE).read_text())
            if not _is_of(root, document.pop("directory", None), document["key_file"]):
                return None
            return cls(**{**document, "key_file": str(root / KEY_FILE)})  # also after the directory was renamed
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, root: Path) -> None:
        """Write it in one step."""
        place = root.stat()
        directory = {"inode": place.st_ino, "device": place.st_dev}
        atomic.write_json(root / LOGS / FILE, {**dataclasses.asdict(self), "directory": directory})

    @staticmethod
    def remove(root: Path) -> None:
        """Forget the server of `root`."""
        (root / LOGS / FILE).unlink(missing_ok=True)

    @staticmethod
    def stay_stopped(root: Path) -> None:
        """Mark the server as stopped on purpose, for a watcher that would restart it."""
        (root / LOGS).mkdir(exist_ok=True)
        (root / LOGS / STOPPED).touch()

    @staticmethod
    def is_to_stay_stopped(root: Path) -> bool:
        """Return whether it was or is being stopped on purpose."""
        return (root / LOGS / STOPPED).exists()

    @staticmethod
    def take_up(root: Path) -> None:
        """Remove the mark of `stay_stopped`."""
        (root / LOGS / STOPPED).unlink(missing_ok=True)

    @property
    def is_starting_or_stopping(self) -> bool:
        """Return whether another process is starting or stopping it."""
        if self.busy in (0, os.getpid()):
            return False
        return runs(self.busy, self.busy_created) if self.busy_created else psutil.pid_exists(self.busy)

    def with_this_process_busy(self) -> Self:
        """Return this state with this process as the one that starts or stops the server."""
        return dataclasses.replace(self, busy=os.getpid(), busy_created=created(os.getpid()))

    def process(self) -> psutil.Process | None:
        """Return the front end's process, or None if it has ended, even if another process has its pid now."""
        try:
            process = psutil.Process(self.pid)
            return process if runs(self.pid, self.created) else None
        except psutil.Error:
            return None


def _is_of(root: Path, directory: dict[str, int] | None, key_file: str) -> bool:
    """Return whether a state was written in `root`: same inode, and same device or path (device numbers can change)."""
    same_path = Path(key_file).parent == root
    if directory is None:  # an older release wrote it
        return same_path
    place = root.stat()
    return directory["inode"] == place.st_ino and (directory["device"] == place.st_dev or same_path)


def running(root: Path) -> ServerState | None:
    """Return the state of the server that runs in `root`, or None."""
    state = ServerState.read(root)
    return state if state is not None and state.process() is not None else None


def owner_of_keys(root: Path) -> Path | None:
    """Return the directory of the running server whose keys were copied to `root`, None if the keys are its own."""
    try:
        document = json.loads((root / LOGS / FILE).read_text())
        recorded = Path(document["key_file"])
        if ServerState.read(root) is not None or not runs(document["pid"], document["created"]):
            return None
        owner = _folder_of(document["pid"]) or recorded.parent
    except (OSError, ValueError, TypeError, KeyError):
        return None
    key, owner_key = _renewing_key(root / KEY_FILE), _renewing_key(owner / KEY_FILE)
    return owner if key is None or owner_key is None or key == owner_key else None


def _folder_of(pid: int) -> Path | None:
    """Return a process's working directory, also after it was renamed."""
    with contextlib.suppress(psutil.Error):
        return Path(psutil.Process(pid).cwd())
    return None


def _renewing_key(key_file: Path) -> str | None:
    """Return the key that stays the same while a server runs."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return str(json.loads(key_file.read_text())["API"]["key"])
    return None


def end_tree(process: psutil.Process, *, timeout: float = 15.0) -> None:
    """End a process and its descendants, each by its own id: first by a signal to the parent, which ends its children.

    Processes that still run after `timeout` seconds are killed.
    """
    try:
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    for process in _wait(tree, timeout):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(tree, timeout)


def end_orphans(server: ServerState) -> None:
    """Kill the orphans of a killed front end: TorchServe's processes that use its temporary folder."""
    for process in psutil.process_iter():
        try:
            if is_part(server, process.cmdline()):
                process.kill()
        except psutil.Error:
            continue


def is_part(server: ServerState, command: Sequence[str]) -> bool:
    """Return whether a command line is that of this server's front end or of one of its workers.

    A user's `curl --unix-socket` of the same folder is not.
    """
    ours = any(word.endswith(WORKER) or word == FRONT_END for word in command)
    return ours and bool(server.temporary) and any(server.temporary in word for word in command)


def _wait(processes: list[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until they have ended; return those that have not."""
    deadline = time.monotonic() + timeout
    while alive := [process for process in processes if not _ended(process)]:
        if time.monotonic() > deadline:
            break
        psutil.wait_procs(alive, timeout=0.1)  # on its own it waits for zombies, which some containers never reap
    return alive


def _ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
