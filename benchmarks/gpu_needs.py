"""What `make gpu-report` needs that a machine without a network may lack: packages, a Java runtime, wrk.

    python -m benchmarks.gpu_needs        a line for each thing that is missing, by the name it is carried under

Packages are named with the version of the lock, as `pip download` takes them. Install them into a virtual environment
that sees the machine's own torch (python -m venv --system-site-packages), and run the report with its Python: workers
of TorchServe see no PYTHONPATH. Exits with 1 where something is missing.
"""

import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

SERVER, ALL = Path("requirements-serve.txt"), Path("requirements.txt")
# What the report runs beside a server: training and its configuration,
BESIDE = ("hydra-core", "omegaconf", "antlr4-python3-runtime", "lightning", "torchmetrics", "timm")
# and what those need.
THEIRS = (
    *("click", "hf-xet", "httpcore2", "httpx2", "huggingface-hub", "lightning-utilities", "pytorch-lightning"),
    *("safetensors", "truststore"),
)
# For the other decoder of the CUDA that torch was built for.
EXTRA = ("nvidia-nvimgcodec-cu13",)
PINNED = re.compile(r"^([a-z0-9._-]+)==([^\s;\\]+)(?: ; python_full_version (<|>=) '3\.(\d+)')?", re.MULTILINE)
OWN = re.compile(r"^(?:nvidia-|cuda-|triton)")  # torch brings them


def missing(server: str, everything: str) -> list[str]:
    """Return what is not here: NAME==VERSION of packages as the locks have them, a Java runtime, wrk.

    `server` is the text of the lock of a machine that only serves, with all that its packages need, `everything` that
    of the whole project.
    """
    wanted = {name: version for name, version in _pinned(server).items() if not OWN.match(name)}
    wanted |= {name: version for name, version in _pinned(everything).items() if name in (*BESIDE, *THEIRS)}
    found = [f"{name}=={version}" for name, version in wanted.items() if not _there(name)]
    found += [name for name in EXTRA if not _there(name)]
    if shutil.which("wrk") is None:
        found.append("wrk (a program of the system; its package of that name)")
    return found


def _pinned(lock: str) -> dict[str, str]:
    """Return name and version of what a lock has for this Python."""
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
    """Print what is missing."""
    lines = missing(SERVER.read_text(), ALL.read_text())
    print("\n".join(lines) or "nothing is missing")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
