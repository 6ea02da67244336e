"""The environment of the peers, `.venv-peers`, separate from ours because their requirements conflict.

python -m benchmarks.peers.environment    build it from requirements-peers.txt, if it is missing or outdated

torch, torchvision and all other packages of our server except NumPy have the versions of our environment, so that
weights, kernels and preprocessing are the same.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

from pipeline.setup import SPACE, SetupError, check_space, uv_environment

FOLDER = Path(".venv-peers")
LOCK = "requirements-peers.txt"
STAMP = "sightline.stamp"


def python(root: Path) -> Path:
    """Return the interpreter of the peers."""
    return root / FOLDER / "bin" / "python"


def is_current(root: Path) -> bool:
    """Return whether the environment matches the lock."""
    stamp = root / FOLDER / STAMP
    return python(root).exists() and stamp.is_file() and stamp.read_text() == _fingerprint(root)


def make(root: Path) -> Path:
    """Build the environment if it is missing or outdated; return its interpreter.

    Raises:
        SetupError: the disk is full, or packages cannot be downloaded; the reason is printed above the error.
    """
    if is_current(root):
        return python(root)
    check_space(root, SPACE["full"])
    uv, folder = str(Path(sys.prefix) / "bin" / "uv"), str(root / FOLDER)
    install = [uv, "pip", "install", "--python", str(python(root)), "--require-hashes", "--compile-bytecode"]
    install.append("--no-deps")  # the lock is complete, and overrides a peer's requirement of NumPy
    print(f"making {FOLDER} from {LOCK} (some GB, minutes on a slow line)", flush=True)
    for command in ([uv, "venv", "--clear", "--python", sys.executable, folder], [*install, "-r", str(root / LOCK)]):
        if subprocess.run(command, cwd=root, env=uv_environment([sys.executable, "-m", "pip"])).returncode:
            raise SetupError(
                f"uv could not make {FOLDER} (its reason is printed above): check the network, or UV_DEFAULT_INDEX"
            )
    (root / FOLDER / STAMP).write_text(_fingerprint(root))
    return python(root)


def _fingerprint(root: Path) -> str:
    return hashlib.sha256((root / LOCK).read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        print(make(Path.cwd()))
    except SetupError as error:
        sys.exit(f"error: {error}")
