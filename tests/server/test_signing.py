"""A real server with a public key: it loads what is signed, and nothing else."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving import archive, deploy
from serving import server as server_module
from serving.client import Client
from serving.host import state
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.store import signature
from serving.store.live import Live
from serving.store.model_store import Archive, ArchiveError
from tests.server.conftest import CLASSES, CONFIG, ROOT, export, free_offset

pytest.importorskip("model_signing", reason=signature.INSTALL)
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # of the package's hashing
NAME = "shapes"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server with a version that is live, and another one; neither is signed."""
    root = tmp_path_factory.mktemp("signing")
    shutil.copy(CONFIG, root)
    run = export(root / "runs" / NAME, CLASSES[NAME]).parent
    settings = ["minWorkers=1", "handler.precision=fp32"]
    for version in ("1.0", "1.1"):
        archive.build(NAME, version, run=run, store=root / "model_store", overrides=settings, rehearse=False)
    server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(37_000))
    yield root
    server_module.stop(root=root)


def archive_of(root: Path, version: str) -> Archive:
    return Archive(NAME, version, root / "model_store" / f"{NAME}-{version}.mar")


def go(root: Path, version: str) -> None:
    limits = DeployLimits(watch=0.3)
    deploy.deploy(NAME, version, root=root, limits=limits, verify=False, log=lambda _: None)


def test_a_server_with_a_key_loads_only_what_is_signed(root: Path, tmp_path: Path) -> None:
    key, other = root / "private.key", tmp_path / "other.key"
    signature.create_key(other, tmp_path)
    signature.create_key(key, root)
    before = (root / "model_store" / "live.json").read_bytes()
    with pytest.raises(DeployError, match=r"verify failed: shapes-1\.1\.mar is not signed: sign it"):
        go(root, "1.1")
    signature.sign(archive_of(root, "1.1"), other)
    with pytest.raises(DeployError, match=r"verify failed: shapes-1\.1\.mar is not signed with signing\.pub"):
        go(root, "1.1")
    with Client(root=root) as client:
        assert [status.version for status in client.versions(NAME)] == ["1.0"]
    assert (root / "model_store" / "live.json").read_bytes() == before
    signature.sign(archive_of(root, "1.1"), key)
    go(root, "1.1")
    server_module.stop(root=root)
    started = server_module.start(root=root, offset=free_offset(37_000))
    assert Live.read(root).models[NAME].version == "1.1"
    assert [line for line in started.left_out if "1.0 is not served" in line and "is not signed" in line]
    server_module.stop(root=root)
    signature.path_of(archive_of(root, "1.1")).unlink()
    with pytest.raises(ArchiveError, match=r"nothing of what was live can be served: .*shapes-1\.1\.mar is not signed"):
        server_module.start(root=root, offset=free_offset(37_000))
    assert state.running(root) is None


def test_the_documented_commands_sign(root: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    (section,) = re.findall(r"^### Signed archives\n.*?```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    shutil.copytree(root / "model_store", tmp_path / "model_store")
    lines = [line.partition("   #")[0].replace("birds", NAME).replace("2.0", "1.0") for line in section.splitlines()]
    install, *commands = lines
    assert "requirements-signing.txt" in install  # .ci/run has it
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    for command in commands:
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    signature.check(archive_of(tmp_path, "1.0"), tmp_path)
