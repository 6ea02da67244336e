"""Run two of serve, deploy, rollback, up and watch at once, stopped and killed at random steps: is a model lost?

    python -m benchmarks.interleavings                  200 of them, about 40 minutes; goes on where it was ended
    python -m benchmarks.interleavings --count 20 --seed 3 --again

Three small models with two versions each are live. In each interleaving the first command is stopped before a random
step (`benchmarks.stepped`), the second runs, and may be killed before a random step of its own; then the first goes on
or is killed too. The whole server is killed first where a start is one of them, and now and then beside a watcher.
Afterwards model_store/live.json must name each model with a version that a command has said to be live, or, where a
command was killed, one that it might have made live; and once a watcher has looked, each model must answer with the
version that is written there. SIGHTLINE_PORT_OFFSET moves the ports. The last line is one JSON document.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks import stepped
from handlers.atomic import write_json
from pipeline import steps
from serving import model_store, ports, server, state
from serving.client import Client, ClientError
from serving.errors import ServingError
from serving.live import Live
from serving.state import ServerState
from serving.watch import Watch

RESULT, WORK = Path("benchmarks/results/interleavings.json"), Path("runs/bench-interleavings")
ROOT = Path(__file__).resolve().parent.parent
NAMES, VERSIONS = ("ants", "bees", "cats"), ("1.0", "2.0")
# The last step that a command is stopped before: most of them take about that number.
LATEST = {"serve": 24, "deploy": 24, "rollback": 10, "up": 24, "watch": 60}
TURN = 5.0  # seconds that the second command has before the first goes on: it may wait for the first
LONGEST = 150.0  # seconds until a command counts as hanging
SETTLED = 120.0  # seconds until everything that is live has to answer
SAID = re.compile(r"^(\S+) (\S+) is live;", re.M)


@dataclasses.dataclass(slots=True)
class Command:
    """One command of an interleaving: what it is asked for, the step at which it is stopped or killed, and its end."""

    verb: str
    name: str
    version: str
    how: str
    number: int  # 0: never
    log: Path
    process: "subprocess.Popen[str] | None" = None
    killed: bool = False
    output: str = ""

    def begin(self, root: Path) -> None:
        """Start it."""
        self.log.unlink(missing_ok=True)
        words = {
            "serve": ["serving.server", "start", *([] if self.version == VERSIONS[0] else NAMES)],
            "deploy": ["serving.deploy", self.name, self.version, "--watch", "0.2"],
            "rollback": ["serving.deploy", self.name, "--rollback"],
            "up": ["benchmarks.interleavings", "--up", self.name, self.version],
            "watch": ["serving.watch"],
        }[self.verb]
        stepping = ["benchmarks.stepped", self.how, str(self.number), str(self.log)]
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
        """Wait until it ends, is stopped, or the time is over."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and not self.is_stopped() and time.monotonic() < deadline:
            time.sleep(0.02)

    @property
    def says(self) -> str | None:
        """Return the version that it said it has made live."""
        found = [version for name, version in SAID.findall(self.output) if name == self.name]
        return found[-1] if found else None

    def document(self) -> dict[str, Any]:
        """Return it for the result."""
        assert self.process is not None
        done = len(stepped.steps(self.log))
        asked = {"model": self.name, "version": self.version} if self.verb in ("deploy", "up", "rollback") else {}
        return {"verb": self.verb, **asked, "how": self.how, "step": self.number, "steps": done} | {
            "exit": self.process.returncode, "said": self.says,
        }  # fmt: skip


def finish(commands: Sequence[Command], stopped: signal.Signals) -> list[str]:
    """Have commands end, one that is stopped by a signal and a watcher by request; return which of them hang."""
    began, asked, hanging = time.monotonic(), set[str](), []
    processes = {each.verb: (each, each.process) for each in commands if each.process is not None}
    while running := [pair for pair in processes.values() if pair[1].poll() is None]:
        seconds = time.monotonic() - began
        for command, process in running:
            if command.is_stopped():
                process.send_signal(stopped)
            elif command.verb == "watch" and seconds > TURN and "watch" not in asked:
                asked.add("watch")
                process.terminate()
            elif seconds > LONGEST:
                hanging.append(f"{command.verb} hangs")
                process.kill()
                process.wait()
        time.sleep(0.02)
    for command, process in processes.values():
        command.killed = process.returncode == -signal.SIGKILL
        command.output = command.log.with_suffix(".out").read_text()
    return hanging


def allowed(name: str, before: str, commands: Sequence[Command]) -> set[str]:
    """Return the versions of a model that may be live after the commands, by what they said and how they ended."""
    aimed = [each for each in commands if each.name == name and each.verb in ("deploy", "rollback", "up")]
    said = {version for each in aimed if (version := each.says) is not None}
    killed = [VERSIONS if each.verb == "rollback" else (each.version,) for each in aimed if each.killed]
    return said | {version for versions in killed for version in versions} | (set() if said else {before})


def kill_server(root: Path) -> None:
    """Kill the server and all its workers."""
    known = state.running(root)
    front = known.process() if known is not None else None
    if front is not None:
        tree = [front, *front.children(recursive=True)]
        for each in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(tree, timeout=5)


def answers(root: Path) -> str:
    """Return what is wrong with what the server answers, nothing where each model does as live.json says."""
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
    """Have a watcher look until all that is live answers; return what does not."""
    deadline = time.monotonic() + SETTLED
    if ServerState.read(root) is None:  # nobody has a server to watch: a start that failed has ended its own
        server.start(root=root, offset=ports.offset_of_environment(), restore=True)
    with contextlib.closing(Watch(root)) as watch:
        while time.monotonic() < deadline:
            with contextlib.suppress(ServingError, OSError, psutil.Error):
                watch.look()
            if not (wrong := answers(root)):
                return ""
            time.sleep(0.2)
    return wrong


def interleave(number: int, seed: int, root: Path) -> dict[str, Any]:
    """Run one interleaving; return what was done, and what was wrong after it."""
    chance = random.Random(f"{seed}-{number}")
    before = Live.read(root).models
    first, second = (
        Command(
            verb, name := chance.choice(NAMES), chance.choice([*VERSIONS, *5 * _unlike(before[name].version)]),
            how, chance.randint(1, LATEST[verb]) if how == "stop" or chance.random() < 0.5 else 0, root / f"{how}.log",
        )
        for verb, how in zip(chance.sample([*LATEST], 2), ("stop", "kill"), strict=True)
    )  # fmt: skip
    verbs = {first.verb, second.verb}
    down = chance.random() < (0.85 if "serve" in verbs else 0.3 if "watch" in verbs else 0.1)
    kills_first = chance.random() < 0.5
    began = time.monotonic()
    if down:
        kill_server(root)
    first.begin(root)
    first.wait(TURN if first.verb == "watch" else LONGEST)
    second.begin(root)
    second.wait(TURN)
    wrong = finish((first, second), signal.SIGKILL if kills_first else signal.SIGCONT)
    live = Live.read(root).models
    for name, model in before.items():
        may_be = allowed(name, model.version, (first, second))
        version = live[name].version if name in live else "none"
        if version not in may_be:
            wrong.append(f"{name} {version} is recorded, one of {sorted(may_be)} was made live")
    if left := settle(root):
        wrong.append(left)
    return {
        "number": number,
        "server_killed": down,
        "commands": [first.document(), second.document()],
        "live": {name: each.version for name, each in live.items()},
        "seconds": round(time.monotonic() - began, 1),
        "wrong": wrong,
        **({"output": [first.output[-2000:], second.output[-2000:]]} if wrong else {}),
    }


def _unlike(version: str) -> list[str]:
    """Return the other versions, so that most deployments have something to do."""
    return [each for each in VERSIONS if each != version]


def up(name: str, version: str) -> None:
    """Serve an archive as `make up` does at its end, and say so as a deployment does."""
    root = Path.cwd()
    steps.serve(model_store.find(name, version, root / model_store.FOLDER), root)
    print(f"{name} {version} is live;")


def summary(rows: Sequence[dict[str, Any]], seed: int, origin: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of the benchmark; where it was ended and went on, its origin is that of the last part."""
    ends = Counter("killed" if each["exit"] == -signal.SIGKILL else "ended" for row in rows for each in row["commands"])
    return {
        "benchmark": "interleavings",
        **origin,
        "seed": seed,
        "interleavings": len(rows),
        "wrong": sum(bool(row["wrong"]) for row in rows),
        "servers_killed": sum(row["server_killed"] for row in rows),
        "commands": dict(Counter(each["verb"] for row in rows for each in row["commands"])),
        **dict(ends),
        "seconds": round(sum(row["seconds"] for row in rows)),
        "rows": list(rows),
    }


def run(count: int, seed: int, output: Path, *, again: bool = False) -> dict[str, Any]:
    """Run what is missing of `count` interleavings, keep each at once, and return the document."""
    # They import torch, which `up` does not need.
    from benchmarks import small_server
    from benchmarks.result import Origin

    origin = Origin("interleavings", sys.argv[1:], code=("handlers", "pipeline", "serving"))
    about = origin.document()
    kept = json.loads(output.read_text()) if output.is_file() and not again else {}
    # Those of other code say nothing of this one.
    rows = kept["rows"] if (kept.get("seed"), kept.get("code")) == (seed, about["code"]) else []
    root = ROOT / WORK
    small_server.prepare(root, VERSIONS, ["minWorkers=1"], names=NAMES)
    server.start([f"{name}=1.0" for name in NAMES], root=root, offset=ports.offset_of_environment())
    try:
        for number in range(len(rows), count):
            rows.append(row := interleave(number, seed, root))
            verbs = " beside ".join(f"{each['verb']} ({each['step']})" for each in row["commands"])
            print(f"{number + 1:4}  {verbs:34} {row['seconds']:6.1f} s  {row['wrong'] or 'right'}", flush=True)
            write_json(output, summary(rows, seed, about))
    finally:
        server.stop(root=root)
    write_json(output, document := summary(rows, seed, origin.document()))
    return document


def main() -> int:
    """Run, print and keep it; 1 where a model was lost or a record is not true."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interleavings", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="forget what is kept")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--up", nargs=2, metavar=("NAME", "VERSION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.up:
        return steps.guarded(lambda: up(*arguments.up))
    document = run(arguments.count, arguments.seed, arguments.output, again=arguments.again)
    print(json.dumps(document))
    return int(document["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
