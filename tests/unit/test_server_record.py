"""What a start writes down as live, beside a deployment that is made while it loads the rest."""

import dataclasses
from pathlib import Path

import pytest

from serving import server
from serving.host.state import ServerState, is_part
from serving.store import model_store
from serving.store.live import Live, LiveModel

BEFORE = Live({"a": LiveModel("2.0", "1.0"), "b": LiveModel("1.0")})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / model_store.FOLDER).mkdir()
    BEFORE.write(tmp_path)
    return tmp_path


def test_what_a_start_found_different_is_written_down(root: Path) -> None:
    loaded = Live({"a": LiveModel("2.0"), "b": LiveModel("1.0")})
    server._remember(root, lambda now: now.merged(BEFORE, loaded))
    assert Live.read(root) == loaded


def test_what_was_deployed_meanwhile_stays(root: Path) -> None:
    deployed = LiveModel("3.0", "2.0")
    BEFORE.with_model("a", deployed).with_model("c", LiveModel("1.0")).write(root)
    loaded = Live({"a": LiveModel("2.0"), "b": LiveModel("1.0")})
    server._remember(root, lambda now: now.merged(BEFORE, loaded))
    assert Live.read(root).models == {"a": deployed, "b": LiveModel("1.0"), "c": LiveModel("1.0")}


def test_only_torchserve_s_own_processes_of_a_server_are_ended_with_it() -> None:
    known = ServerState(1, 1, "", "", "", "", "/tmp/sightline-abc")
    worker = ["python", "/somewhere/ts/model_service_worker.py", "--sock-name", "/tmp/sightline-abc/.ts.sock.9000"]
    front = ["java", "-Djava.io.tmpdir=/tmp/sightline-abc", "org.pytorch.serve.ModelServer", "--python", "python"]
    assert is_part(known, worker) and is_part(known, front)
    assert not is_part(
        known, ["curl", "--unix-socket", "/tmp/sightline-abc/management.sock", "http://localhost/models"]
    )
    assert not is_part(known, [*worker[:-1], "/tmp/sightline-xyz/.ts.sock.9000"])
    assert not is_part(dataclasses.replace(known, temporary=""), worker), "every word holds nothing"
