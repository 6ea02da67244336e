"""The record of a server: of which directory it is, and whose processes it names."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers import process
from serving import server
from serving.client import Client, NoKey
from serving.host.state import FILE, KEY_FILE, LOGS, ServerState


@pytest.fixture
def front(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in a directory that runs until it is ended."""
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path / "home") as process:
        yield process
        process.kill()


@pytest.fixture
def home(tmp_path: Path, front: "subprocess.Popen[bytes]") -> Path:
    """A directory whose server is `front`."""
    home = tmp_path / "home"
    (home / "temporary").mkdir()
    (home / KEY_FILE).touch()
    ServerState(
        pid=front.pid, created=process.created(front.pid), inference="", management="", metrics="",
        key_file=str(home / KEY_FILE), temporary=str(home / "temporary"),
    ).write(home)  # fmt: skip
    return home


def older(root: Path) -> None:
    """Have an older release have written the record, which named no directory."""
    path = root / LOGS / FILE
    document = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: each for key, each in document.items() if key not in ("directory", "busy_created")})
    )


@pytest.mark.parametrize("release", ["this", "older"])
def test_a_copy_of_a_directory_has_no_server(home: Path, front: "subprocess.Popen[bytes]", release: str) -> None:
    if release == "older":
        older(home)
    copy = home.with_name("copy")
    shutil.copytree(home, copy)
    assert ServerState.read(copy) is None and not server.stop(root=copy)
    assert front.poll() is None and (home / KEY_FILE).exists() and (home / "temporary").exists()
    assert server.stop(root=home)
    assert front.wait(timeout=10) is not None and not (home / KEY_FILE).exists() and not (home / "temporary").exists()


def write_keys(folder: Path, renewing: str) -> None:
    keys = {name: {"key": f"{name}-{renewing}"} for name in ("inference", "management", "API")}
    (folder / KEY_FILE).write_text(json.dumps(keys))


def test_a_client_in_a_copy_does_not_ask_the_server_of_the_original(
    home: Path, front: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIGHTLINE_PORT_OFFSET", raising=False)
    write_keys(home, "first")
    copy = home.with_name("copy")
    shutil.copytree(home, copy)
    with pytest.raises(NoKey) as refused:
        Client(root=copy)
    assert str(refused.value).startswith(f"no server runs here: key_file.json was copied from {home}, whose server")
    assert "make serve, with SIGHTLINE_PORT_OFFSET=100" in str(refused.value)
    for keys in ({"root": home}, {"root": copy, "key_file": home / KEY_FILE}):
        Client(**keys).close()  # type: ignore[arg-type]
    write_keys(copy, "of a server that TorchServe's own command started there")
    Client(root=copy).close()
    front.kill()
    front.wait()
    shutil.copy(home / KEY_FILE, copy)
    Client(root=copy).close()  # nobody answers it


def test_a_directory_that_was_renamed_keeps_its_server(home: Path, front: "subprocess.Popen[bytes]") -> None:
    renamed = home.rename(home.with_name("renamed"))
    shutil.copytree(renamed, home)  # a copy in its old place
    assert not server.stop(root=home) and front.poll() is None
    assert server.stop(root=renamed)
    assert front.wait(timeout=10) is not None
    assert (home / KEY_FILE).exists() and not (renamed / KEY_FILE).exists()


def test_a_process_of_the_same_id_and_another_start_has_no_server_in_hand(
    home: Path, front: "subprocess.Popen[bytes]"
) -> None:
    known = ServerState.read(home)
    assert known is not None and not known.is_starting_or_stopping
    taken = dataclasses.replace(known, busy=front.pid, busy_created=process.created(front.pid))
    reused = dataclasses.replace(taken, busy_created=taken.busy_created - 1)
    assert [each.is_starting_or_stopping for each in (taken, reused)] == [True, False]
    front.kill()
    os.waitid(os.P_PID, front.pid, os.WEXITED | os.WNOWAIT)  # a zombie from now on
    assert [each.is_starting_or_stopping for each in (taken, reused)] == [False, False] and known.process() is None
    busy = known.with_this_process_busy()
    assert busy.busy_created == process.created(os.getpid()) and not busy.is_starting_or_stopping
