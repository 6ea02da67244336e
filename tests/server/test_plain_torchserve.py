"""The plain `torchserve` command, `curl` and the management API, as a reader of the README uses them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving import archive
from serving.host import java
from serving.host.ports import Ports
from serving.host.state import end_tree
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset, picture


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[tuple[Path, Ports]]:
    """Start `torchserve` as the README does, in a directory like the repository's root; return it and its ports."""
    base = Ports.of_config(CONFIG.read_text())
    ports = base.moved(free_offset(22_000))
    (tmp_path / "config.properties").write_text(CONFIG.read_text() + "\n" + ports.properties())
    (tmp_path / "serving").mkdir()
    shutil.copy(ROOT / "serving" / "log4j2.xml", tmp_path / "serving")
    for name in CLASSES:
        export(tmp_path / "runs" / name, CLASSES[name])
        archive.build(name, "1.0", runs=tmp_path / "runs", store=tmp_path / "model_store", rehearse=False)
    shutil.copy(ROOT / "tests" / "server" / "conftest.py", tmp_path)  # anything that is no archive harms nothing
    temporary = tempfile.mkdtemp(prefix="plain-")
    home = java.find().home
    environment = {**os.environ, "TEMP": temporary, "TMPDIR": temporary, **({"JAVA_HOME": str(home)} if home else {})}
    command = [
        str(Path(sys.executable).with_name("torchserve")), "--start", "--ncs", "--ts-config", "config.properties",
        "--model-store", "model_store", "--models", "shapes=shapes-1.0.mar",
    ]  # fmt: skip
    with open(tmp_path / "console.log", "wb") as log:
        subprocess.run(command, cwd=tmp_path, env=environment, stdout=log, stderr=log, check=True, timeout=60)
    front = psutil.Process(int((Path(temporary) / ".model_server.pid").read_text()))
    try:
        yield tmp_path, ports
    finally:
        end_tree(front)
        shutil.rmtree(temporary)


def curl(*arguments: str | Path) -> dict[str, object]:
    """Return the JSON that curl got; it asks again until the server listens."""
    command = ["curl", "-sS", "--retry", "60", "--retry-delay", "1", "--retry-connrefused", *arguments]
    done = subprocess.run(command, capture_output=True, check=True, timeout=120)
    answer = json.loads(done.stdout)
    return answer[0] if isinstance(answer, list) else answer  # type: ignore[no-any-return]


def test_the_readme_s_commands_work(plain: tuple[Path, Ports], tmp_path: Path) -> None:
    home, ports = plain
    management, inference = ports.management.url, ports.inference.url
    # The first request waits for the server; without a token it is refused, so the key file is there from then on.
    assert curl(f"{management}/models")["code"] == 400
    keys = json.loads((home / "key_file.json").read_text())
    token = {api: ("-H", f"Authorization: Bearer {keys[api]['key']}") for api in ("management", "inference")}

    # Another model is registered, by file name and not from the network, and waited for.
    register = ("-X", "POST", *token["management"])
    answer = curl(*register, f"{management}/models?url=digits-1.0.mar&initial_workers=1&synchronous=true")
    assert "digits" in str(answer["status"]) and "registered" in str(answer["status"])
    elsewhere = shutil.copy(home / "model_store" / "digits-1.0.mar", tmp_path / "elsewhere.mar")
    for url in ("http://127.0.0.1:9/digits-1.0.mar", f"file://{elsewhere}"):
        refused = curl(*register, f"{management}/models?url={url}")
        assert refused["code"] in (400, 404) and "allowed" in str(refused["message"])
    assert not (home / "model_store" / "elsewhere.mar").exists()
    described = curl(*token["management"], f"{management}/models/digits")
    assert [worker["status"] for worker in described["workers"]] == ["READY"]  # type: ignore[attr-defined]

    photo = tmp_path / "photo.png"
    photo.write_bytes(picture(1, image_format="PNG"))
    for model in ("digits", "shapes"):
        answer = curl(*token["inference"], f"{inference}/predictions/{model}", "-T", photo)
        assert set(answer) <= set(CLASSES[model])
    curl("-X", "DELETE", *token["management"], f"{management}/models/digits")
    assert curl(*token["inference"], f"{inference}/predictions/digits", "-T", photo)["code"] == 404
    assert (home / "model_store" / "digits-1.0.mar").exists()

    # Logs stay small: starting is told, requests are not.
    assert "Torch worker started" in (home / "logs" / "model_log.log").read_text()
    assert "Backend received inference" not in (home / "logs" / "model_log.log").read_text()
    assert not (home / "logs" / "access_log.log").exists()
