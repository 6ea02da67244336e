"""`make predict` of a folder: what is asked, how far it is, and its end by Ctrl-C."""

import contextlib
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving import predict
from tests.unit.archived_run import write_servable
from tests.unit.test_classifier import png

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "serving.predict", *arguments]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of three images, in one where predictions are asked for."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(png(seed))
    return folder


def test_a_terminal_shows_how_many_images_are_answered(folder: Path) -> None:
    write_servable(folder.parent / "runs" / "small")
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    done = subprocess.run(
        command("small", "photos", "--offline"), cwd=folder.parent, env=environment,
        stdout=subprocess.PIPE, stderr=theirs, text=True, timeout=60,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # at its end
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)
    assert done.returncode == 0, shown.decode()
    assert b"3 of 3 images answered" in shown and "images answered" not in done.stdout


def test_an_interrupt_is_one_line(folder: Path) -> None:
    keys = {name: {"key": f"key-of-{name}"} for name in ("inference", "management")}
    (folder.parent / "key_file.json").write_text(json.dumps(keys))
    with socket.create_server(("127.0.0.1", 0)) as server:  # it never answers
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment["SIGHTLINE_PORT_OFFSET"] = str(server.getsockname()[1] - 8080)
        with subprocess.Popen(
            command("small", "photos"), cwd=folder.parent, env=environment, stderr=subprocess.PIPE, text=True
        ) as process:
            server.settimeout(60)
            connection, _ = server.accept()
            process.send_signal(signal.SIGINT)
            server.close()
            connection.close()
            _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
    ("start", "is_image"),
    [
        (b"\xff\x0a" + bytes(30), True),
        (b"\0\0\0\x0cJXL \r\n\x87\n", True),
        (b"FLIF" + bytes(30), True),
        (bytes(128) + b"DICM", True),
        (b"<?xml version='1.0'?><!-- a drawing --><svg xmlns='x'/>", True),
        (b"%PDF-1.7\n", False),
        (b"PK\3\4" + bytes(30), False),
        (b"\x93NUMPY" + bytes(30), False),
        (b"<html><svg></svg></html>", False),
        (b"notes", False),
    ],
)
def test_images_of_formats_that_are_not_served_are_asked_for_too(folder: Path, start: bytes, is_image: bool) -> None:
    other = folder / "other"
    other.write_bytes(start)
    images, others = predict.images_in(folder)
    assert (other in images, other in others) == (is_image, not is_image)
