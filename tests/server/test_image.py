"""The container image, built for real and asked for a prediction: buildah, on a base that mmdebstrap makes.

It gets the builds of torch that are installed here. Packages are fetched with the CA certificates that
SIGHTLINE_CERTIFICATES names, or those of pip (PIP_CERT).
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from pipeline import image, lock
from tests.server.conftest import CLASSES, ROOT, free_offset, picture

TAG = "localhost/sightline-test"
COPIED = ("handlers", "monitoring", "serving", "config.properties", "Dockerfile", ".dockerignore")


def buildah(*arguments: str) -> str:
    done = subprocess.run(["buildah", *arguments], env=image.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def container(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build the image with the archives of this session's model store in it, and make a container of it."""
    assert shutil.which("buildah"), "install what this test needs: apt-get install buildah mmdebstrap"
    context = tmp_path_factory.mktemp("context")
    for path in (*(ROOT / name for name in COPIED), *ROOT.glob("requirements*.txt")):
        if path.is_dir():
            shutil.copytree(path, context / path.name)
        else:
            shutil.copy(path, context)
    shutil.copytree(root / "model_store", context / "model_store")
    certificates = os.environ.get("SIGHTLINE_CERTIFICATES") or os.environ.get("PIP_CERT")
    device = "gpu" if torch.version.cuda else "cpu"
    base = image.make_debian("buildah")
    image.build(
        context, "buildah", device=device, tag=TAG, base=base, certificates=Path(certificates) if certificates else None
    )
    name = buildah("from", TAG)
    yield name
    buildah("rm", name)
    buildah("rmi", TAG)


@pytest.mark.slow
def test_the_image_serves_a_prediction_as_nobody_special(container: str) -> None:
    mounted = Path(buildah("mount", container)) / "srv" / "sightline"
    offset = free_offset(32000)
    command = ["buildah", "run", "--network", "host", "--env", f"SIGHTLINE_PORT_OFFSET={offset}", container, "--"]
    inspected = json.loads(buildah("inspect", "--type", "image", TAG))["Docker"]["config"]
    assert inspected["User"] == "10001"
    assert inspected["Healthcheck"]["Test"][-1] == "--healthy"
    assert not [each for each in inspected["Env"] if each.startswith("PYTHONPATH=")]
    with subprocess.Popen(
        [*command, *inspected["Entrypoint"], "shapes"], env=image.environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().endswith("shapes 1.0\n")
            token = json.loads((mounted / "key_file.json").read_text())["inference"]["key"]
            assert (mounted / "key_file.json").stat().st_uid == 10001
            answer = httpx.post(
                f"http://127.0.0.1:{8080 + offset}/predictions/shapes",
                content=picture(),
                headers={"Authorization": f"Bearer {token}"},
                trust_env=False,
            )
            assert answer.status_code == 200
            assert set(answer.json()) == set(CLASSES["shapes"])
            assert (
                subprocess.run([*command, *inspected["Healthcheck"]["Test"][1:]], env=image.environment()).returncode
                == 0
            )
        finally:
            # The front end inside: the program of the container ends with it.
            os.kill(json.loads((mounted / "logs" / "server.json").read_text())["pid"], signal.SIGTERM)
            process.wait(timeout=60)
    buildah("umount", container)


@pytest.mark.slow
def test_the_image_lists_its_packages_and_has_no_compiler(container: str) -> None:
    mounted = Path(buildah("mount", container))
    bill = json.loads((mounted / "opt/sightline/sbom.cdx.json").read_text())
    pins = lock.versions(ROOT / "requirements-serve.txt")
    listed = {component["name"].lower().replace("_", "-"): component["version"] for component in bill["components"]}
    assert {"torch", "torchserve", "kornia"} <= set(listed)
    assert set(listed) <= set(pins)
    programs = {
        path.name
        for folder in ("usr/bin", "usr/local/bin", "opt/sightline/bin")
        for path in (mounted / folder).iterdir()
    }
    assert not programs & {"cc", "gcc", "g++", "clang", "ld", "make", "pip", "uv"}
    buildah("umount", container)


def test_the_base_image_is_named_by_its_digest() -> None:
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)


def test_an_unknown_lock_is_named(tmp_path: Path) -> None:
    with pytest.raises(image.ImageError, match=r"no requirements-nosuch\.txt: --extras takes gcp and signing"):
        image.build(tmp_path, "docker", device="cpu", extras="nosuch")


def test_a_machine_without_a_tool_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(image.ImageError, match="apt-get install buildah"):
        image.find_tool()
