"""The server as the only program of a container: it stays in the foreground and ends with it.

python -m serving.container                  the models of live.json, and the newest version of every other model
python -m serving.container fingers=1.0      these models
python -m serving.container --healthy        whether every worker answers: the image's health check

Inside a container the inference address is open to the container's network, behind the same token as everywhere; the
management and metrics addresses stay on the loopback, and so does that of the exporter (`monitoring.exporter`). The
token is in key_file.json of the working directory.
"""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from serving import server, status
from serving.errors import ServingError
from serving.host import logs, ports, reaper
from serving.host.ports import Ports
from serving.lifecycle import exporter
from serving.lifecycle.launch import CONFIG

STOPS = (signal.SIGTERM, signal.SIGINT)


def healthy(root: Path) -> bool:
    """Return whether the server of `root` runs with at least one model, every worker of each READY."""
    try:
        report = status.read(root)
    except ServingError:
        return False
    return report is not None and report.healthy


def config_of(root: Path) -> Path:
    """Write config.properties with the inference address opened; return where."""
    text = (root / CONFIG).read_text()
    path = root / logs.FOLDER / "container.properties"
    path.parent.mkdir(exist_ok=True)
    opened = f"inference_address=http://0.0.0.0:{Ports.of_config(text).inference.port}"
    # Clients outside reach no address that renews a token, so it lasts for a year.
    path.write_text(f"{text}\n{opened}\ntoken_expiration_min=525600\n")
    return path


def serve(selection: Sequence[str], root: Path) -> int:
    """Start the server and stay until it ends (1) or the container is to stop (0)."""

    def end(number: int, frame: FrameType | None) -> None:
        for number in STOPS:  # a second one does not interrupt the end
            signal.signal(number, signal.SIG_IGN)
        raise SystemExit(0)

    for stop in STOPS:
        signal.signal(stop, end)
    reaper.adopt_orphans()
    # If another server runs here, this raises and leaves that server running.
    started = server.start(selection, root=root, config=config_of(root), offset=ports.offset_of_environment())
    try:
        models = ", ".join(f"{model.name} {model.version}" for model in started.models)
        print(f"Ready after {started.seconds:.1f} s: {models}", flush=True)
        for warning in started.left_out:
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        # TorchServe writes its warnings to files; `docker logs` shows them too.
        log = [str(root / logs.FOLDER / name) for name in ("ts_log.log", "console.log")]
        with exporter.beside(root), subprocess.Popen(["tail", "--quiet", "-n", "0", "-F", *log]) as tail:
            try:
                code = reaper.wait(started.state.pid)
            finally:
                tail.terminate()
        ending = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        print(f"error: TorchServe has ended ({ending}): start the container again", file=sys.stderr, flush=True)
        return 1
    finally:
        server.stop(root=root)


def main() -> int:
    """Serve, or check a server's health."""
    root = Path.cwd()
    if sys.argv[1:] == ["--healthy"]:
        return 0 if healthy(root) else 1
    try:
        return serve(sys.argv[1:], root)
    except (ServingError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
