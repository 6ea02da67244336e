"""Writers of live.json side by side: one is stopped or killed before each of its steps while another runs."""

import dataclasses
import datetime as dt
import itertools
import os
import signal
import subprocess
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

import psutil
import pytest

from serving import server
from serving.client import Client
from serving.client.model_status import ModelStatus, Worker
from serving.host import lock
from serving.host.state import ServerState, created
from serving.lifecycle import deployment
from serving.store import model_store
from serving.store.live import Live, LiveModel
from tests.campaigns import stepped
from tests.until import until

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
BEFORE = Live({"a": LiveModel("2.0", "1.0"), "b": LiveModel("1.0")})
Writer = Callable[[Path], None]


def deploys(root: Path) -> None:
    known = ServerState.read(root)
    assert known is not None
    deployment.record(root, known, lambda live: live.with_model("b", LiveModel("2.0", "1.0")))


def rolls_back(root: Path) -> None:
    known = ServerState.read(root)
    assert known is not None
    deployment.record(root, known, lambda live: live.with_model("a", LiveModel("1.0", "2.0")))


def starts(root: Path) -> None:
    """Write what `server.start` does: what was live at once, a new model once that is READY too."""
    known = Live.update(root, lambda live: live)
    server._remember(root, lambda now: now.merged(known, known))
    server._remember(root, lambda now: now.merged(known, known.with_model("c", LiveModel("1.0"))))


def finishes(root: Path) -> None:
    """Write what a watcher does after a start that was killed."""
    server._remember(root, lambda now: Live({"d": LiveModel("1.0"), **now.models}))


COMMITTED = {
    deploys: {"b": LiveModel("2.0", "1.0")},
    rolls_back: {"a": LiveModel("1.0", "2.0")},
    starts: {"c": LiveModel("1.0")},
    finishes: {"d": LiveModel("1.0")},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder whose server, as far as its record says, is the process of this test."""
    (tmp_path / model_store.FOLDER).mkdir()
    (tmp_path / "logs").mkdir()
    me = os.getpid()
    ServerState(me, created(me), "", "", "", str(tmp_path / "key_file.json"), "").write(tmp_path)
    return tmp_path


def fork(writer: Writer, root: Path, how: str, number: int, log: Path) -> int:
    """Run a writer in a process of its own, which stops or dies before step `number`; return that process."""
    log.unlink(missing_ok=True)
    if pid := os.fork():
        return pid
    try:
        stepped.install(how, number, log)
        writer(root)
        os._exit(0)
    except BaseException:  # nothing returns into pytest here: it would run the other tests in this process too
        traceback.print_exc()
        os._exit(1)


def length(writer: Writer, root: Path) -> int:
    """Return how many steps a writer takes."""
    BEFORE.write(root)
    log = root / "steps.log"
    assert os.waitpid(fork(writer, root, "stop", 0, log), 0)[1] == 0
    return len(stepped.steps(log))


def interleave(first: Writer, second: Writer, how: str, number: int, root: Path) -> dict[Writer, bool]:
    """Stop or kill one writer before a step, run the other, and have the first go on; return which wrote."""
    BEFORE.write(root)
    logs = root / "first.log", root / "second.log"
    one = fork(first, root, how, number, logs[0])
    _, status = os.waitpid(one, os.WUNTRACED)
    held = [each for each in stepped.steps(logs[0])[: number - 1] if each in ("acquire", "release")][-1:] == ["acquire"]
    two = fork(second, root, "stop", 0, logs[1])
    if os.WIFSTOPPED(status):
        if held:
            until(lambda: "acquire" in stepped.steps(logs[1]), 10)
            assert psutil.pid_exists(two), "it waits for the lock"
        else:
            until(lambda: os.waitid(os.P_PID, two, os.WEXITED | os.WNOWAIT | os.WNOHANG), 10)
        os.kill(one, signal.SIGCONT)
        _, status = os.waitpid(one, 0)
    _, other = os.waitpid(two, 0)
    return {first: status == 0, second: other == 0}


# A sample: each pair in one of the two ways.
@pytest.mark.parametrize(
    ("first", "second", "how"),
    [(*pair, how) for pair, how in zip(itertools.permutations(COMMITTED, 2), itertools.cycle(["stop", "kill"]))],
)
def test_what_each_has_written_is_there(first: Writer, second: Writer, how: str, root: Path) -> None:
    for number in range(1, length(first, root) + 1):
        wrote = interleave(first, second, how, number, root)
        assert wrote[second] and wrote[first] == (how == "stop"), f"step {number}"
        models = Live.read(root).models
        for writer, changed in COMMITTED.items():
            for name, model in changed.items():
                may_be = {BEFORE.models.get(name)} if writer not in wrote else {model}
                if writer is first and how == "kill":  # before the file took the other's place, or after
                    may_be |= {BEFORE.models.get(name)}
                assert models.get(name) in may_be, f"{name}, step {number}"
        assert not list((root / model_store.FOLDER).glob(".*")) or how == "kill"


def test_what_is_recorded_of_a_server_that_has_ended_is_refused(root: Path) -> None:
    known = ServerState.read(root)
    assert known is not None
    BEFORE.write(root)
    ServerState.remove(root)
    with pytest.raises(deployment.DeployError, match="the server has ended and will restart"):
        deployment.record(root, known, lambda live: live.with_model("b", LiveModel("2.0")))
    assert Live.read(root) == BEFORE


class Answering:
    """Says that one version of each model is READY."""

    def models(self) -> list[str]:
        return ["a", "new"]

    def describe(self, name: str) -> ModelStatus:
        worker = Worker("9000", "READY", os.getpid(), 0, dt.datetime.now(dt.UTC))
        return ModelStatus(name, "2.0", 1, 1, 0.0, 60.0, 0, (worker,))


def test_a_version_that_a_deployment_has_not_proven_is_not_recorded_after_a_start_that_was_killed(root: Path) -> None:
    BEFORE.write(root)
    ended = subprocess.Popen(["true"])
    ended.wait()
    state = ServerState.read(root)
    assert state is not None
    known = dataclasses.replace(state, busy=ended.pid, busy_created=1)
    known.write(root)
    client = cast(Client, Answering())
    with lock.deploying(root):
        assert server.finish(known, client, root) == [] and Live.read(root) == BEFORE
    assert server.finish(known, client, root) == [("new", "2.0")]
    assert Live.read(root) == BEFORE.with_model("new", LiveModel("2.0"))
