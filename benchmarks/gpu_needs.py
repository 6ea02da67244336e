"""List the packages and programs of `make gpu-report` that this machine lacks, for a machine without a network.

    python -m benchmarks.gpu_needs        a line for each missing package or program

Packages have the version of the lock, as `pip download` takes them. Install them into a virtual environment that sees
the torch of the machine (python -m venv --system-site-packages), and run the report with its Python: workers of
TorchServe see no PYTHONPATH. Exits with 1 if something is missing.
"""

import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

SERVER, ALL = Path("requirements-serve.txt"), Path("requirements.txt")
# Packages of training and its configuration, which the report runs besides a server,
EXTRA_PACKAGES = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "lightning", "torchmetrics", "timm")
# and their dependencies.
THEIRS = (
    *("click", "hf-xet", "httpcore2", "httpx2", "huggingface-hub", "lightning-utilities", "pytorch-lightning"),
    *("safetensors", "truststore"),
)
# For the other decoder of the CUDA that torch was built for.
EXTRA = ("nvidia-nvimgcodec-cu13",)
PINNED = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)(?: ; python_full_version (<|>=) '3\.(\d+)')?", re.MULTILINE)
OWN = re.compile(r"^(?:nvidia-|cuda-|triton)")  # torch brings them


def missing(server: str, everything: str) -> list[str]:
    """Return the missing packages as NAME==VERSION of the locks, and wrk.

    `server` is the text of the complete lock of a machine that only serves, `everything` that of the whole project.
    """
    versions = {name: version for name, version in _pinned(server).items() if not OWN.match(name)}
    versions |= {name: version for name, version in _pinned(everything).items() if name in (*EXTRA_PACKAGES, *THEIRS)}
    lines = [f"{name}=={version}" for name, version in versions.items() if not _there(name)]
    lines += [name for name in EXTRA if not _there(name)]
    if shutil.which("wrk") is None:
        lines.append("wrk (a program of the system; its package of that name)")
    return lines


def _pinned(lock: str) -> dict[str, str]:
    """Return the names and versions of the packages of a lock for this Python."""
    return {
        name: version
        for name, version, sign, minor in PINNED.findall(lock)
        if not sign or (sys.version_info < (3, int(minor))) == (sign == "<")
    }


def _there(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> int:
    """Print a line for each missing package or program."""
    lines = missing(SERVER.read_text(), ALL.read_text())
    print("\n".join(lines) or "nothing is missing")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
