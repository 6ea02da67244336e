"""The server as the only program of a container: it stays in the foreground and ends with it.

python -m serving.container                  the models of live.json, and the newest version of every other model
python -m serving.container fingers=1.0      these models
python -m serving.container --gateway --host 0.0.0.0 --port 8000 --plain
                                             a gateway in front, with the options of `serving.gateway`
python -m serving.container --healthy        whether every worker answers: the image's health check

Inside a container the inference address is open to the container's network, behind the same token as everywhere; the
management and metrics addresses stay on the loopback, and so does that of the exporter (`monitoring.exporter`). The
token is in key_file.json of the working directory. With --gateway only the gateway is open.

SIGHTLINE_MODELS="birds=2.0 moths" serves these, if no argument names others
SIGHTLINE_STORE=<folder>           serves the archives there; model_store/ gets links to them
SIGHTLINE_METRICS_HOST=0.0.0.0     opens the exporter to the container's network

On a platform that checks who asks (Vertex AI, Cloud Run: `serving.cloud.platform`) the inference address stays on the
loopback too, and `serving.cloud.front` listens in front of it. There only the temporary folder must be writable.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType

from serving import server, status
from serving.bucket import MODELS
from serving.cloud.front import Front
from serving.cloud.platform import Platform
from serving.errors import ServingError
from serving.fleet import archives
from serving.gateway import process
from serving.host import logs, ports, properties, reaper
from serving.host.ports import LOOPBACK, Ports
from serving.host.state import ServerState
from serving.lifecycle import exporter
from serving.lifecycle.launch import CONFIG
from serving.store import model_store, signature

STOPS = (signal.SIGTERM, signal.SIGINT)
IMAGE = Path(__file__).parents[1]
GATEWAY = "--gateway"
STORE, METRICS_HOST = "SIGHTLINE_STORE", "SIGHTLINE_METRICS_HOST"
LASTING = "token_expiration_min=525600\n"  # a year: clients outside reach no address that renews a token


def healthy(root: Path) -> bool:
    """Return whether the server of `root` runs with at least one model, every worker of each READY."""
    try:
        report = status.read(root)
    except ServingError:
        return False
    return report is not None and report.healthy


def config_of(root: Path, *, gateway: bool) -> Path:
    """Write the config.properties of `root`, or else the image's, with the inference address opened; return where."""
    file = root / CONFIG if (root / CONFIG).is_file() else IMAGE / CONFIG
    text = file.read_text()
    path = root / logs.FOLDER / "container.properties"
    path.parent.mkdir(exist_ok=True)
    host = LOOPBACK[0] if gateway else "0.0.0.0"
    opened = f"inference_address=http://{host}:{Ports.of_config(text).inference.port}"
    path.write_text(f"{text}\n{opened}\n{LASTING}")
    return path


def link_key(root: Path, image: Path = IMAGE) -> None:
    """Have a server in another working directory than the image's check signatures with the image's key."""
    if os.path.lexists(image / signature.PUBLIC_KEY) and not os.path.lexists(root / signature.PUBLIC_KEY):
        (root / signature.PUBLIC_KEY).symlink_to(image / signature.PUBLIC_KEY)


def link_store(store: Path, root: Path) -> None:
    """Have the model store of `root`, in which live.json is written, link to the archives of a read-only folder."""
    folder = root / model_store.FOLDER
    folder.mkdir(exist_ok=True)
    for link in folder.iterdir():
        if link.is_symlink() and not link.exists():  # to an archive that was removed since the last start
            link.unlink()
    for file in sorted(store.iterdir()):
        link = folder / file.name
        if file.is_file() and file.suffix in (".mar", ".json", ".sig") and not link.exists():
            link.symlink_to(file)


def serve(selection: Sequence[str], root: Path, gateway: Sequence[str] | None = None) -> int:
    """Start the server and stay until it ends (1) or the container is to stop (0)."""

    def end(number: int, frame: FrameType | None) -> None:
        for number in STOPS:  # a second one does not interrupt the end
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(0)

    for stop in STOPS:
        signal.signal(stop, end)
    reaper.adopt_orphans()
    platform = Platform.of_environment(os.environ) if gateway is None else None
    if platform is None:
        link_key(root)
        if store := os.environ.get(STORE):
            link_store(Path(store), root)
        config, offset = config_of(root, gateway=gateway is not None), ports.offset_of_environment()
        front = nullcontext() if gateway is None else process.beside(root, gateway)
        return _stay(selection, root, config, offset, lambda state: front)
    return _serve_on(platform, selection, root)


def _serve_on(platform: Platform, selection: Sequence[str], root: Path) -> int:
    """Serve behind the front of a platform, from a temporary folder."""
    text = (root / CONFIG).read_text()
    max_bytes = int(properties.read(text)["max_request_size"])
    with tempfile.TemporaryDirectory(prefix="sightline-") as folder:
        home = Path(folder)
        with Front(platform, lambda: healthy(home), max_bytes=max_bytes) as front:
            print(f"{platform.name}: listening at port {platform.port}, health at {platform.health}", flush=True)
            models = furnish(home, root, selection, platform.storage)
            platform.check(models)
            # The front has the platform's port, which may be TorchServe's own.
            offset = ports.offset_of_environment() or ports.free_offset(Ports.of_config(text), 1_000)
            return _stay(selection, home, home / CONFIG, offset, lambda state: front.opened(state, models))


def furnish(home: Path, root: Path, selection: Sequence[str], storage: str | None) -> list[str]:
    """Fill the folder `home` of a server: settings, key and archives; return the names of the models.

    The archives are those at the address `storage`, else those of `root`.

    Raises:
        ArchiveError: an archive is missing or damaged.
        AddressError: the address cannot be read.
    """
    text = (root / CONFIG).read_text()
    (home / CONFIG).write_text(f"{text}\n{LASTING}")
    if os.path.lexists(root / signature.PUBLIC_KEY):
        (home / signature.PUBLIC_KEY).symlink_to(root / signature.PUBLIC_KEY)
    store = home / model_store.FOLDER
    if storage is None:
        store.symlink_to(root / model_store.FOLDER)
    else:
        store.mkdir()
        archives.fetch_newest(storage, store)
    return [archive.name for archive in model_store.select(selection, store)]


def _stay(
    selection: Sequence[str],
    root: Path,
    config: Path,
    offset: int,
    reached: Callable[[ServerState], AbstractContextManager[Sequence[int] | None]],
) -> int:
    """Serve from `root`, `reached` by others while it is ready, until it ends (1) or this process is to stop.

    It also ends with one of the processes that `reached` yields.
    """
    # If another server runs here, this raises and leaves that server running.
    started = server.start(selection, root=root, config=config, offset=offset)
    try:
        # TorchServe writes its warnings to files; `docker logs` shows them too.
        log = [str(root / logs.FOLDER / name) for name in ("ts_log.log", "console.log")]
        host = os.environ.get(METRICS_HOST, LOOPBACK[0])
        with exporter.beside(root, host), subprocess.Popen(["tail", "--quiet", "-n", "0", "-F", *log]) as tail:
            try:
                with reached(started.state) as processes:
                    models = ", ".join(f"{model.name} {model.version}" for model in started.models)
                    print(f"Ready after {started.seconds:.1f} s: {models}", flush=True)
                    for warning in started.left_out:
                        print(f"warning: {warning}", file=sys.stderr, flush=True)
                    ended, code = reaper.wait(started.state.pid, *(processes or ()))
            finally:
                tail.terminate()
        ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        name = "TorchServe" if ended == started.state.pid else "the gateway"
        print(f"error: {name} has ended ({ending}): start the container again", file=sys.stderr, flush=True)
        return 1
    finally:
        server.stop(root=root)


def main() -> int:
    """Serve, or check a server's health."""
    root, words = Path.cwd(), sys.argv[1:]
    if words == ["--healthy"]:
        return 0 if healthy(root) else 1
    place = words.index(GATEWAY) if GATEWAY in words else len(words)
    selection = words[:place] or os.environ.get(MODELS, "").split()
    try:
        return serve(selection, root, words[place + 1 :] if GATEWAY in words else None)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
