"""Deploying and rolling back on a real server: what goes live, what is undone, what callers notice of it."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from benchmarks.traffic import background_load
from serving import archive, deploy
from serving import server as server_module
from serving.client import Client
from serving.host import lock, state
from serving.host.resources import Resources
from serving.lifecycle import drain
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.store.live import Live, LiveModel
from serving.store.model_store import Archive
from tests.server import faulty
from tests.server.conftest import CLASSES, CONFIG, ROOT, RunningServer, export, free_offset, picture, run_cli
from tests.until import until

NAME = "shapes"
QUICK = DeployLimits(watch=0.3, load=60.0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server that serves shapes 1.0, with 2.0 beside it in the store."""
    root = tmp_path_factory.mktemp("deploy")
    (root / CONFIG.name).write_text(f"{CONFIG.read_text()}\ndefault_workers_per_model=2\n")
    for seed, version in enumerate(("1.0", "2.0")):
        build(root, version, seed)
    server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(20_000))
    yield root
    server_module.stop(root=root)


def build(
    root: Path, version: str, seed: int = 0, classes: tuple[str, ...] = CLASSES[NAME], *, workers: int | None = 1
) -> Archive:
    """Build an archive of a network with other weights for each seed; with None it gets the workers of the server."""
    export(root / "runs" / f"{NAME}-{version}", classes, seed)
    overrides = ["handler.precision=fp32", *([f"minWorkers={workers}"] if workers else [])]
    run, store = root / "runs" / f"{NAME}-{version}", root / "model_store"
    return archive.build(NAME, version, run=run, store=store, overrides=overrides, rehearse=False)


@pytest.fixture
def one(home: Path) -> Iterator[Path]:
    """Return the same with 1.0 live and nothing else, as it must be found after a deployment that failed."""
    yield home
    with Client(root=home) as client:
        if client.describe(NAME).version != "1.0":
            deploy.deploy(NAME, "1.0", root=home, keep=False, limits=QUICK, verify=False, log=lambda _: None)
        elif (kept := Live.read(home).models[NAME].previous) is not None:
            client.unregister(NAME, kept)
            Live({NAME: LiveModel("1.0")}).write(home)
        assert [each.version for each in client.versions(NAME)] == ["1.0"]


def go(root: Path, version: str | None = None, *, keep: bool = True, verify: bool = False) -> list[str]:
    """Deploy quickly; return what was said."""
    said: list[str] = []
    deploy.deploy(NAME, version, root=root, keep=keep, limits=QUICK, verify=verify, log=said.append)
    return said


def versions(root: Path) -> tuple[str, list[str]]:
    """Return the default version, and all versions that are READY."""
    with Client(root=root) as client:
        ready = [each.version for each in client.versions(NAME) if each.ready]
        return client.describe(NAME).version, sorted(ready)


def test_a_version_goes_live_and_back(one: Path) -> None:
    deployed = run_cli("serving.deploy", NAME, "--watch", "0.3", root=one)
    assert deployed.returncode == 0, deployed.stderr
    assert "shapes 2.0 is live" in deployed.stdout
    assert versions(one) == ("2.0", ["1.0", "2.0"])
    assert Live.read(one).models[NAME] == LiveModel("2.0", "1.0")
    with Client(root=one) as client:
        assert client.predict(picture(), NAME).version == "2.0"

        began = time.monotonic()
        back = deploy.rollback(NAME, root=one)
        assert time.monotonic() - began < 5
        assert (back.version, back.before) == ("1.0", "2.0")
        assert client.predict(picture(), NAME).version == "1.0"
    assert versions(one) == ("1.0", ["1.0", "2.0"])
    assert Live.read(one).models[NAME] == LiveModel("1.0", "2.0")

    again = run_cli("serving.deploy", NAME, "1.0", root=one)
    assert again.returncode == 1 and again.stderr == "error: shapes 1.0 is live already\n"


def test_without_keep_the_version_before_goes_and_a_worker_that_loads_has_half_of_the_cores(one: Path) -> None:
    known = state.running(one)
    front = known.process() if known else None
    assert front is not None
    before, seen, done = {each.pid for each in front.children()}, set[int](), threading.Event()

    def look() -> None:
        while not done.wait(0.02):
            for each in front.children():
                with contextlib.suppress(OSError, psutil.Error):
                    if each.pid not in before:
                        seen.add(len(os.sched_getaffinity(each.pid)))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        go(one, "2.0", keep=False)
    finally:
        done.set()
        thread.join()
    cores = len(os.sched_getaffinity(0))
    assert max(1, cores // 2) in seen and max(seen) == cores, "and has all of them afterwards"
    assert versions(one) == ("2.0", ["2.0"])
    assert Live.read(one).models[NAME] == LiveModel("2.0")
    with pytest.raises(DeployError, match="no version of shapes is kept to roll back to: deploy"):
        deploy.rollback(NAME, root=one)
    with pytest.raises(DeployError, match="nothing is not served: deploy it"):
        deploy.rollback("nothing", root=one)


def test_a_request_that_one_worker_computes_is_answered_before_its_version_goes(one: Path, tmp_path: Path) -> None:
    """The other worker answers whatever is asked meanwhile: it says nothing of the first."""
    flag = tmp_path / "busy"
    busy = faulty.spoil(build(one, "4.0", seed=2, workers=None), faulty.busy_once(flag, 3.0))
    go(one, "4.0")
    deploy.rollback(NAME, root=one)
    flag.touch()
    with Client(root=one) as client, ThreadPoolExecutor() as pool:
        answer = pool.submit(client.predict, picture(), NAME, "4.0")
        until(lambda: not flag.exists(), 30)
        drain.remove(client, NAME, "4.0", picture())
        assert answer.result().version == "4.0"
    Live({NAME: LiveModel("1.0")}).write(one)
    busy.path.unlink()


def test_a_live_version_that_answers_nothing_can_be_replaced(one: Path, tmp_path: Path) -> None:
    flag = tmp_path / "fail"
    broken = faulty.spoil(build(one, "4.0", seed=2), faulty.raises_in_handle_while(flag))
    go(one, "4.0", keep=False)
    flag.touch()
    broken.path.write_bytes(b"damaged too")
    said = go(one, "2.0", keep=False)
    assert "  unknown: shapes-4.0.mar cannot be read" in "\n".join(said)
    assert "  the live version does not answer these images: latency is not compared" in said
    assert versions(one) == ("2.0", ["2.0"])
    broken.path.unlink()


def test_a_kept_version_without_workers_is_registered_anew(one: Path) -> None:
    go(one, "2.0")
    deploy.rollback(NAME, root=one)
    with Client(root=one) as client:
        client.scale(NAME, "2.0", 0)
        until(lambda: not client.describe(NAME, "2.0").workers, 30)
    with pytest.raises(DeployError, match=r"shapes 2\.0 is not READY: deploy it"):
        deploy.rollback(NAME, root=one)
    assert "  2.0 is registered and not READY: registering it again" in go(one, "2.0")
    assert versions(one) == ("2.0", ["1.0", "2.0"])


INTERRUPTED = """
import os, signal, sys
from serving import deploy
from serving.client import Client
from serving.store.live import Live

def interrupted(work):
    def does(*given):
        os.kill(os.getpid(), signal.SIGINT)
        return work(*given)
    return does

Client.set_default, Live.write = interrupted(Client.set_default), interrupted(Live.write)
sys.exit(deploy.main())
"""


def test_a_rollback_that_cannot_be_recorded_changes_nothing_and_one_that_is_interrupted_is_whole(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(one, "2.0")
    with monkeypatch.context() as patch:
        patch.setattr(Live, "write", Mock(side_effect=OSError(errno.ENOSPC, "no space left on device")))
        with pytest.raises(DeployError, match=r"2\.0 stays live: .*no space left"):
            deploy.rollback(NAME, root=one)
    assert versions(one) == ("2.0", ["1.0", "2.0"]) and Live.read(one).models[NAME] == LiveModel("2.0", "1.0")

    command = [sys.executable, "-c", INTERRUPTED, NAME, "--rollback"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=one, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "1.0 is live" in done.stdout
    assert versions(one) == ("1.0", ["1.0", "2.0"]) and Live.read(one).models[NAME] == LiveModel("1.0", "2.0")


def test_what_changes_is_said(one: Path) -> None:
    build(one, "3.0", seed=4, classes=("circle", "star", "triangle"))
    try:
        said = "\n".join(go(one, "3.0"))
    finally:
        (one / "model_store" / f"{NAME}-3.0.mar").unlink()
    assert "classes added: star" in said and "classes removed: square" in said
    deploy.rollback(NAME, root=one)


def truncated(found: Archive) -> Archive:
    found.path.write_bytes(found.path.read_bytes()[:-2000])
    return found


def no_zip(found: Archive) -> Archive:
    found.path.write_bytes(b"<html>404</html>")
    return found


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda each: faulty.spoil(each, faulty.RAISES), r"load failed: .*the weights are of another network"),
        (lambda each: faulty.expects(each, 1 / 3), r"load failed: .*golden image 7\.jpg is answered otherwise"),
        (lambda each: faulty.spoil(each, faulty.WRONG), r"compare failed: golden image 7\.jpg is answered"),
        (truncated, "is not a complete archive"),
        (no_zip, "is not a complete archive"),
        (lambda each: faulty.without(each, "model.pt"), r"holds no model\.pt"),
        pytest.param(
            lambda each: faulty.spoil(each, faulty.BLACK), r"load failed: .*image 7\.jpg reaches .* other pixels",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda each: faulty.without(each, "handlers/images/decoding.py"), "load failed: .*decoding",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda each: faulty.spoil(each, faulty.SLOW), r"compare failed: it is too slow: \d+ ms per answer",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["raises", "golden", "wrong", "truncated", "no zip", "no weights", "black", "no module", "slow"],
)  # fmt: skip
def test_a_broken_version_costs_the_live_one_nothing(one: Path, spoil: Callable[[Archive], Archive], says: str) -> None:
    broken = spoil(build(one, "4.0", seed=2))
    known = state.running(one)
    assert known is not None
    token = RunningServer(one, known, Client(root=one), 0.0).token()
    url = f"{known.inference}/predictions/{NAME}"
    try:
        with background_load.beside(url, [picture(n) for n in range(4)], token, rate=20, connections=8) as answers:
            with pytest.raises(DeployError, match=says) as caught:
                go(one, "4.0")
            with Client(root=one) as client:  # the load goes on
                assert client.predict(picture(), NAME).version == "1.0"
    finally:
        broken.path.unlink()
        broken.sidecar.unlink()
    assert "\n" not in str(caught.value)
    assert len(answers) >= 5
    assert {(each.status, each.version) for each in answers} == {(200, "1.0")}
    assert versions(one) == ("1.0", ["1.0"]) and Live.read(one).models[NAME] == LiveModel("1.0")


def test_each_worker_answers_before_the_switch(one: Path, tmp_path: Path) -> None:
    broken = faulty.spoil(build(one, "4.0", seed=2, workers=None), faulty.wrong_in_the_second(tmp_path / "first"))
    try:
        with pytest.raises(DeployError, match=r"scale failed: golden image \d\.jpg is answered"):
            go(one, "4.0")
    finally:
        broken.path.unlink()
        broken.sidecar.unlink()
    assert versions(one) == ("1.0", ["1.0"])


def test_a_worker_that_dies_after_the_switch_puts_the_version_before_back(one: Path) -> None:
    def kill(line: str) -> None:
        if line == "watch ...":
            with Client(root=one) as client:
                psutil.Process(client.describe(NAME, "2.0").workers[0].pid).kill()

    limits = DeployLimits(watch=10.0)
    with pytest.raises(DeployError, match=r"watch failed: (a worker died|golden image)"):
        deploy.deploy(NAME, "2.0", root=one, limits=limits, verify=False, log=kill)
    assert versions(one) == ("1.0", ["1.0"]) and Live.read(one).models[NAME] == LiveModel("1.0")


@pytest.mark.slow
def test_the_only_worker_that_dies_after_an_answer_is_seen_before_the_next_request_waits_for_one(
    one: Path, tmp_path: Path
) -> None:
    flag, times = tmp_path / "end", dict[str, float]()
    broken = faulty.spoil(build(one, "4.0", seed=2), faulty.ends_while(flag))

    def log(line: str) -> None:
        times[line.strip()] = time.monotonic()
        if line == "watch ...":
            flag.touch()

    with pytest.raises(DeployError, match="watch failed: a worker died"):
        deploy.deploy(NAME, "4.0", root=one, limits=DeployLimits(watch=30.0), verify=False, log=log)
    assert times["undone: 1.0 is live"] - times["watch ..."] < 10, "a request without a worker waits for 60 s"
    assert versions(one) == ("1.0", ["1.0"]) and Live.read(one).models[NAME] == LiveModel("1.0")
    broken.path.unlink()
    broken.sidecar.unlink()


def test_two_deployments_at_once_are_refused(one: Path) -> None:
    with lock.deploying(one), pytest.raises(lock.Held, match="another deployment runs here"):
        go(one, "2.0")


def test_without_a_server_nothing_is_deployed(one: Path, tmp_path: Path) -> None:
    shutil.copytree(one / "model_store", tmp_path / "model_store")
    done = run_cli("serving.deploy", NAME, root=tmp_path)
    assert (done.returncode, done.stderr) == (1, "error: no server runs here: start one (make serve)\n")


UNREHEARSED = """
import functools, sys
from serving import deploy

deploy.deploy = functools.partial(deploy.deploy, verify=False)
sys.exit(deploy.main())
"""


def started(root: Path, step: str) -> subprocess.Popen[str]:
    """Start a deployment of 2.0, without its rehearsal, and return its process once it is at a step."""
    command = [sys.executable, "-uc", UNREHEARSED, NAME, "2.0", "--watch", "20"]
    process = subprocess.Popen(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # under nohup it would not heed it
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == f"{step} ...":
            return process
    raise AssertionError(process.communicate())


@pytest.mark.parametrize(
    "numbers",
    [(signal.SIGTERM, signal.SIGINT), (signal.SIGHUP,), pytest.param((signal.SIGINT,), marks=pytest.mark.slow)],
    ids=str,
)
def test_an_interrupt_undoes_what_was_begun(one: Path, numbers: tuple[int, ...]) -> None:
    process = started(one, "watch")
    assert versions(one)[0] == "2.0"
    assert process.stdout is not None
    output = ""
    for number in numbers:
        process.send_signal(number)
        while "undone: 1.0 is live" not in output:  # the second comes while the first is obeyed
            output += process.stdout.readline()
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "error: interrupted; the deployment was undone\n")
    assert "undone: 1.0 is live" in output and "undone: 2.0 is removed" in output + rest
    assert versions(one) == ("1.0", ["1.0"])


def test_what_a_killed_deployment_left_behind_is_finished_by_the_next(one: Path) -> None:
    process = started(one, "watch")
    process.kill()
    process.communicate()
    assert versions(one) == ("2.0", ["1.0", "2.0"]) and Live.read(one).models[NAME] == LiveModel("1.0")
    said = go(one, "2.0")
    assert said[0] == "an earlier deployment was interrupted: 1.0 is live again"
    assert versions(one) == ("2.0", ["1.0", "2.0"]) and Live.read(one).models[NAME] == LiveModel("2.0", "1.0")


def test_everything_killed_in_the_middle_comes_back_as_one_of_the_two(one: Path) -> None:
    process = started(one, "switch")
    known = state.running(one)
    assert known is not None
    front = known.process()
    assert front is not None
    tree = [psutil.Process(process.pid), front, *front.children(recursive=True)]
    for each in tree:
        each.kill()
    process.communicate()
    psutil.wait_procs(tree, timeout=10)
    again = server_module.start(root=one, offset=free_offset(20_000))
    assert [(each.version, each.ready) for each in again.models] == [("1.0", True)]
    assert not Path(known.temporary).exists()
    live = json.loads((one / "model_store" / "live.json").read_text())[NAME]
    assert (live["version"], live["before"]) == ("1.0", None)
    with Client(root=one) as client:
        assert client.predict(picture(), NAME).version == "1.0"


@pytest.mark.slow
def test_what_does_not_load_besides_is_left_out_and_what_was_live_comes_back(one: Path) -> None:
    """An archive that was never live, and a kept one that is damaged, keep nothing from coming back."""
    known = state.running(one)
    assert known is not None
    export(one / "runs" / "other", CLASSES[NAME])
    faulty.spoil(
        archive.build("other", "1.0", runs=one / "runs", store=one / "model_store", rehearse=False), faulty.RAISES
    )
    go(one, "2.0")
    deploy.rollback(NAME, root=one)
    kept = one / "model_store" / f"{NAME}-2.0.mar"
    whole = kept.read_bytes()
    server_module.stop(root=one)
    kept.write_bytes(whole[:-2000])
    try:
        again = run_cli("serving.server", "start", "--port-offset", str(known.offset), root=one)
    finally:
        kept.write_bytes(whole)
        for each in (one / "model_store").glob("other-1.0.*"):
            each.unlink()
    assert again.returncode == 0, again.stderr
    assert "other 1.0 is not served: RuntimeError: the weights are of another network" in again.stderr
    assert "shapes 2.0 is not served: " in again.stderr and "is not a complete archive" in again.stderr
    assert versions(one) == ("1.0", ["1.0"]) and Live.read(one).models == {NAME: LiveModel("1.0")}


@pytest.mark.slow
def test_a_live_version_that_does_not_load_gives_way_to_the_one_before_it(one: Path, tmp_path: Path) -> None:
    known = state.running(one)
    assert known is not None
    flag = tmp_path / "fail"
    broken = faulty.spoil(build(one, "4.0", seed=2), faulty.raises_while(flag))
    go(one, "4.0")
    server_module.stop(root=one)
    flag.touch()
    again = run_cli("serving.server", "start", "--port-offset", str(known.offset), root=one)
    assert again.returncode == 0, again.stderr
    assert "warning: shapes 4.0 is not served (1.0 is served instead): RuntimeError: not now" in again.stderr
    assert versions(one) == ("1.0", ["1.0"])
    assert Live.read(one).models == {NAME: LiveModel("4.0", "1.0")}, "the next start tries it again"
    go(one, "1.0")  # what answers in its place is recorded
    assert Live.read(one).models == {NAME: LiveModel("1.0")}
    go(one, "2.0", keep=False)
    assert versions(one) == ("2.0", ["2.0"]) and Live.read(one).models == {NAME: LiveModel("2.0")}
    broken.path.unlink()


@pytest.mark.slow
def test_a_new_model_gets_no_more_than_its_part_of_the_machine(one: Path) -> None:
    export(one / "runs" / "other", CLASSES[NAME])
    archive.build("other", "1.0", runs=one / "runs", store=one / "model_store", rehearse=False)
    try:
        deploy.deploy("other", root=one, limits=QUICK, verify=False, log=lambda _: None)
        with Client(root=one) as client:
            assert len(client.describe("other").workers) == min(2, Resources.of_this_machine(2).workers)
            client.unregister("other", "1.0")
    finally:
        Live({NAME: Live.read(one).models[NAME]}).write(one)
        for each in (one / "model_store").glob("other-1.0.*"):
            each.unlink()
