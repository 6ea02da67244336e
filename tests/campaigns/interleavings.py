"""Run two of serve, deploy, rollback, up and watch at once, stopped and killed at random steps: is a model lost?

    python -m tests.campaigns.interleavings                  200 of them, about 40 minutes; an ended run is continued
    python -m tests.campaigns.interleavings --count 20 --seed 3 --again

Three small models with two versions each are live. In each interleaving the first command is stopped before a random
step (`stepped.py`), the second runs, and may be killed before a random step; then the first continues or is killed too.
The whole server is killed before most starts, and before some of the other commands. Afterwards model_store/live.json
must name each model with a version that a command has reported as live, or one that a killed command might have made
live; after a look of a watcher, each model must answer with that version. SIGHTLINE_PORT_OFFSET moves the ports. The
last line is one JSON document.
"""

import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import console, small_server
from benchmarks.result import CAMPAIGNS, Origin, publish
from handlers.atomic import write_json
from serving import server
from serving.client import Client, ClientError
from serving.errors import ServingError
from serving.host import ports
from serving.host.state import ServerState
from serving.store.live import Live, LiveModel
from serving.watch import Watch
from tests.campaigns import stepped

RESULT, WORK = Path("benchmarks/results/interleavings.json"), Path("runs/bench-interleavings")
ROOT = Path(__file__).resolve().parents[2]
NAMES, VERSIONS = ("ants", "bees", "cats"), ("1.0", "2.0")
# The last step before which a command is stopped: most commands take about as many.
LATEST = {"serve": 24, "deploy": 24, "rollback": 10, "up": 24, "watch": 60}
TURN = 5.0  # seconds until the first command continues, for which the second may be waiting
HANGING = 150.0  # seconds until a command counts as hanging
CHANGES = ("deploy", "rollback", "up")
SETTLED = 120.0  # seconds until all live models must answer
LIVE = re.compile(r"^(\S+) (\S+) is live;", re.M)


@dataclasses.dataclass(slots=True)
class Command:
    """One command of an interleaving: its arguments, the step at which it is stopped or killed, and its end."""

    verb: str
    name: str
    version: str
    how: str
    number: int  # 0: never
    log: Path
    process: "subprocess.Popen[str] | None" = None
    killed: bool = False
    output: str = ""

    def start(self, root: Path) -> None:
        self.log.unlink(missing_ok=True)
        words = {
            "serve": ["serving.server", "start", *([] if self.version == VERSIONS[0] else NAMES)],
            "deploy": ["serving.deploy", self.name, self.version, "--watch", "0.2"],
            "rollback": ["serving.deploy", self.name, "--rollback"],
            "up": ["tests.campaigns.reported_up", self.name, self.version],
            "watch": ["serving.watch"],
        }[self.verb]
        stepping = ["tests.campaigns.stepped", self.how, str(self.number), str(self.log)]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with open(self.log.with_suffix(".out"), "w") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-u", "-m", *stepping, *words], cwd=root, env=variables, text=True,
                stdout=sink, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def is_stopped(self) -> bool:
        """Return whether it is stopped at its step."""
        assert self.process is not None
        with contextlib.suppress(psutil.Error):
            return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED
        return False

    def wait(self, seconds: float) -> None:
        """Wait until it ends or is stopped, for some seconds at most."""
        assert self.process is not None
        waiter = threading.Thread(target=_wait_for_end_or_stop, args=(self.process.pid,), daemon=True)
        waiter.start()
        waiter.join(seconds)

    @property
    def reported(self) -> str | None:
        """Return the version that it reported as live."""
        versions = [version for name, version in LIVE.findall(self.output) if name == self.name]
        return versions[-1] if versions else None

    def document(self) -> dict[str, Any]:
        """Return its entry in the result."""
        assert self.process is not None
        steps = len(stepped.steps(self.log))
        model = {"model": self.name, "version": self.version} if self.verb in ("deploy", "up", "rollback") else {}
        return {"verb": self.verb, **model, "how": self.how, "step": self.number, "steps": steps} | {
            "exit": self.process.returncode, "said": self.reported,
        }  # fmt: skip


def _wait_for_end_or_stop(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # its end was collected first
        os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)


def finish(commands: Sequence[Command], stopped: signal.Signals) -> list[str]:
    """End commands, stopped ones by a signal and a watcher by SIGTERM; return those that hang."""
    start, terminated, hanging = time.monotonic(), False, []
    processes = {command.verb: (command, command.process) for command in commands if command.process is not None}
    while running := [pair for pair in processes.values() if pair[1].poll() is None]:
        seconds = time.monotonic() - start
        for command, process in running:
            if command.is_stopped():
                process.send_signal(stopped)
            elif command.verb == "watch" and seconds > TURN and not terminated:
                terminated = True
                process.terminate()
            elif seconds > HANGING:
                hanging.append(f"{command.verb} hangs")
                process.kill()
                process.wait()
        time.sleep(0.02)  # a poll: either process may stop or end first, or its time may run out
    for command, process in processes.values():
        command.killed = process.returncode == -signal.SIGKILL
        command.output = command.log.with_suffix(".out").read_text()
    return hanging


def allowed(name: str, before: str, commands: Sequence[Command]) -> set[str]:
    """Return the versions of a model that may be live after the commands, by their reports and ends."""
    changes = [command for command in commands if command.name == name and command.verb in CHANGES]
    reported = {version for command in changes if (version := command.reported) is not None}
    killed = [VERSIONS if command.verb == "rollback" else (command.version,) for command in changes if command.killed]
    return reported | {version for versions in killed for version in versions} | (set() if reported else {before})


def answers(root: Path) -> str:
    """Return a difference between the server and live.json, or ""."""
    live = Live.read(root).models
    try:
        with Client(root=root, deadline=5.0) as client:
            for name in NAMES:
                if name not in live:
                    return f"{name} is not in live.json"
                model = client.describe(name)
                if (model.version, model.ready) != (live[name].version, True):
                    return f"{name} {live[name].version} is live, {model.version} the default (ready: {model.ready})"
    except ClientError as error:
        return str(error)
    return ""


def settle(root: Path) -> str:
    """Let a watcher look until all live models answer; return a remaining difference, or ""."""
    deadline = time.monotonic() + SETTLED
    if ServerState.read(root) is None:  # without a server the watcher does nothing: a failed start has ended its server
        server.start(root=root, offset=ports.offset_of_environment(), restore=True)
    with contextlib.closing(Watch(root)) as watch:
        while time.monotonic() < deadline:
            with contextlib.suppress(ServingError, OSError, psutil.Error):
                watch.look()
            if not (wrong := answers(root)):
                return ""
            time.sleep(0.2)  # a poll, as a watcher does: TorchServe reports no event
    return wrong


def draw(chance: random.Random, before: Mapping[str, LiveModel], root: Path) -> tuple[Command, Command]:
    """Return two random commands: the first is stopped at a random step, the second may be killed at one."""
    commands = []
    for verb, how in zip(chance.sample([*LATEST], 2), ("stop", "kill"), strict=True):
        name = chance.choice(NAMES)
        others = [version for version in VERSIONS if version != before[name].version]
        version = chance.choice([*VERSIONS, *5 * others])  # most deployments change something
        number = chance.randint(1, LATEST[verb]) if how == "stop" or chance.random() < 0.5 else 0
        commands.append(Command(verb, name, version, how, number, root / f"{how}.log"))
    return commands[0], commands[1]


def interleave(number: int, seed: int, root: Path) -> dict[str, Any]:
    """Run one interleaving; return its commands, and the faults after it."""
    chance = random.Random(f"{seed}-{number}")
    before = Live.read(root).models
    first, second = draw(chance, before, root)
    verbs = {first.verb, second.verb}
    down = chance.random() < (0.85 if "serve" in verbs else 0.3 if "watch" in verbs else 0.1)
    end = signal.SIGKILL if chance.random() < 0.5 else signal.SIGCONT
    start = time.monotonic()
    if down:
        small_server.kill(root)
    first.start(root)
    first.wait(TURN if first.verb == "watch" else HANGING)
    second.start(root)
    second.wait(TURN)
    wrong = finish((first, second), end)
    live = Live.read(root).models
    for name, model in before.items():
        expected = allowed(name, model.version, (first, second))
        version = live[name].version if name in live else "none"
        if version not in expected:
            wrong.append(f"{name} {version} is recorded, one of {sorted(expected)} was made live")
    wrong += filter(None, [settle(root)])
    return {
        "number": number,
        "server_killed": down,
        "commands": [first.document(), second.document()],
        "live": {name: model.version for name, model in live.items()},
        "seconds": round(time.monotonic() - start, 1),
        "wrong": wrong,
        **({"output": [first.output[-2000:], second.output[-2000:]]} if wrong else {}),
    }


def summary(rows: Sequence[dict[str, Any]], seed: int, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of the benchmark; the origin of a continued run is that of its last part."""
    ends = Counter("killed" if end["exit"] == -signal.SIGKILL else "ended" for row in rows for end in row["commands"])
    return {
        "benchmark": "interleavings",
        **origin,
        "seed": seed,
        "interleavings": len(rows),
        "wrong": sum(bool(row["wrong"]) for row in rows),
        "servers_killed": sum(row["server_killed"] for row in rows),
        "commands": dict(Counter(command["verb"] for row in rows for command in row["commands"])),
        **dict(ends),
        "seconds": round(sum(row["seconds"] for row in rows)),
        "rows": list(rows),
    }


def run(count: int, seed: int, output: Path, *, again: bool = False) -> dict[str, Any]:
    """Run the missing interleavings of `count`, write the result after each, and return the document."""
    origin = Origin("interleavings", sys.argv[1:], package=CAMPAIGNS, code=("handlers", "pipeline", "serving"))
    about = origin.document()
    before = json.loads(output.read_text()) if output.is_file() and not again else {}
    # Rows of other code do not count for this one.
    rows = before["rows"] if (before.get("seed"), before.get("code")) == (seed, about["code"]) else []
    root = ROOT / WORK
    small_server.prepare(root, VERSIONS, ["minWorkers=1"], names=NAMES)
    server.start([f"{name}=1.0" for name in NAMES], root=root, offset=ports.offset_of_environment())
    try:
        for number in range(len(rows), count):
            rows.append(row := interleave(number, seed, root))
            verbs = " beside ".join(f"{command['verb']} ({command['step']})" for command in row["commands"])
            print(f"{number + 1:4}  {verbs:34} {row['seconds']:6.1f} s  {row['wrong'] or 'right'}", flush=True)
            write_json(output, summary(rows, seed, about))
    finally:
        server.stop(root=root)
    return summary(rows, seed, origin.document())


def main() -> int:
    """Run, print and write the result; 1 where a model was lost or a record is wrong."""
    parser = console.parser("interleavings", __doc__, CAMPAIGNS)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="start again without the rows of the result file")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    document = run(options.count, options.seed, options.output, again=options.again)
    return publish(document, options.output, failed=document["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
