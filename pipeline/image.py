"""Build the server's container image: `make image DEVICE=gpu|cpu`.

python -m pipeline.image [--device gpu|cpu] [--base IMAGE | --debian] [--extras "gcp signing"] [--certificates FILE]
                         [--tag sightline]

Uses docker, podman or buildah, whichever works here. `--debian` makes the base image itself with mmdebstrap (Debian 12,
Python 3.11), for machines that reach Debian's archive but no image registry. buildah runs in a chroot with the host's
network, so that it needs no privileges beyond root's own.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TAG = "sightline"
DEBIAN = "localhost/debian-python:bookworm"
TOOLS = ("docker", "podman", "buildah")
GIGABYTE = 1 << 30
# Measured: the gpu image takes 6.2 GB, and buildah's plain storage keeps copies while it builds. cpu is an estimate.
SPACE = {"gpu": 25 * GIGABYTE, "cpu": 8 * GIGABYTE}


class ImageError(Exception):
    """The image cannot be built; the message says what to do."""


def find_tool() -> str:
    """Return the first tool that answers: a docker without its engine does not.

    Raises:
        ImageError: there is none.
    """
    for tool in TOOLS:
        if shutil.which(tool) and subprocess.run([tool, "info"], capture_output=True, check=False).returncode == 0:
            return tool
    raise ImageError(f"none of {', '.join(TOOLS)} works here. Install one: apt-get install buildah")


def environment() -> dict[str, str]:
    """Return the environment for buildah, with defaults that need no privileges."""
    return {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"} | dict(os.environ)


def run(command: Sequence[str | Path], step: str) -> None:
    """Run a tool with its output passed through; raise `ImageError` if it fails."""
    if subprocess.run([str(word) for word in command], env=environment(), check=False).returncode:
        raise ImageError(f"{step} failed (see the output above)")


def make_debian(tool: str, tag: str = DEBIAN) -> str:
    """Make a base image from Debian's own archive and return its name; an existing one is used again.

    Raises:
        ImageError: mmdebstrap is missing, or fails.
    """
    listed = subprocess.run([tool, "images", "-q", tag], env=environment(), capture_output=True, text=True, check=False)
    if listed.returncode == 0 and listed.stdout.strip():
        return tag
    if shutil.which("mmdebstrap") is None:
        raise ImageError("mmdebstrap is missing. Install it (apt-get install mmdebstrap), or name a base: --base IMAGE")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "base.tar"
        packages = "--include=python3,python3-venv,ca-certificates"
        run(["mmdebstrap", "--variant=minbase", packages, "bookworm", archive], "mmdebstrap")
        (Path(folder) / "Dockerfile").write_text("FROM scratch\nADD base.tar /\n")
        run([tool, "build", "--tag", tag, folder], "importing the base image")
    return tag


def build(
    root: Path,
    tool: str,
    *,
    device: str,
    tag: str = TAG,
    base: str | None = None,
    extras: str = "",
    certificates: Path | None = None,
) -> None:
    """Build the image from the Dockerfile of `root`.

    Raises:
        ImageError: too little disk, no such lock, or the tool fails.
    """
    for extra in extras.split():
        if not (root / f"requirements-{extra}.txt").is_file():
            raise ImageError(f"there is no requirements-{extra}.txt: --extras takes gcp and signing")
    free = shutil.disk_usage(root).free
    if free < SPACE[device]:
        raise ImageError(f"{free / GIGABYTE:.0f} GB are free, {SPACE[device] / GIGABYTE:.0f} GB are needed: free some")
    command: list[str | Path] = [
        tool,
        "build",
        "--tag",
        tag,
        "--build-arg",
        f"DEVICE={device}",
        "--build-arg",
        f"EXTRAS={extras}",
    ]
    command += ["--network", "host"]
    if tool == "buildah":
        command += ["--layers=false", "--format", "docker"]  # OCI's format has no health check
    if base:
        command += ["--build-arg", f"BASE={base}"]
    for name in ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"):
        if os.environ.get(name):
            command += ["--build-arg", f"{name}={os.environ[name]}"]
    if certificates:
        command += ["--secret", f"id=certificates,src={certificates}"]
    run([*command, root], f"{tool} build")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipeline.image", description="Build the server's container image.")
    parser.add_argument("--device", choices=sorted(SPACE), default="gpu", help="which build of torch")
    parser.add_argument("--base", help="base image with Python 3.11 or 3.12")
    parser.add_argument("--debian", action="store_true", help="make the base image with mmdebstrap")
    parser.add_argument("--extras", default="", help="further locks, such as gcp: archives in a bucket of Google Cloud")
    parser.add_argument("--certificates", type=Path, help="bundle of CA certificates to fetch packages with")
    parser.add_argument("--tag", default=TAG)
    arguments = parser.parse_args()
    try:
        tool = find_tool()
        base = make_debian(tool) if arguments.debian else arguments.base
        options = {
            "device": arguments.device,
            "tag": arguments.tag,
            "base": base,
            "extras": arguments.extras,
            "certificates": arguments.certificates,
        }
        build(Path(__file__).resolve().parent.parent, tool, **options)
    except ImageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{arguments.tag} is built. Its first lines, in Dockerfile, show how it is started")
    return 0


if __name__ == "__main__":
    sys.exit(main())
