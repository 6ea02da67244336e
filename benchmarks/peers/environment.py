"""The environment that the peers run in, `.venv-peers`, apart from ours: their requirements do not fit together.

python -m benchmarks.peers.environment    make it from requirements-peers.txt; under a second where it stands

torch, torchvision and all else that a server of ours needs but NumPy have the versions of our own environment, so that
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
    """Return whether the environment holds what the lock asks for."""
    stamp = root / FOLDER / STAMP
    return python(root).exists() and stamp.is_file() and stamp.read_text() == _fingerprint(root)


def make(root: Path) -> Path:
    """Make the environment unless it stands; return its interpreter.

    Raises:
        SetupError: there is no room for it, or its packages cannot be had; the reason stands above the error.
    """
    if is_current(root):
        return python(root)
    check_space(root, SPACE["full"])
    uv, folder = str(Path(sys.prefix) / "bin" / "uv"), str(root / FOLDER)
    install = [uv, "pip", "install", "--python", str(python(root)), "--require-hashes", "--compile-bytecode"]
    install.append("--no-deps")  # the lock is complete, and overrides what a peer asks of NumPy
    print(f"making {FOLDER} from {LOCK} (some GB, minutes on a slow line)", flush=True)
    for command in ([uv, "venv", "--clear", "--python", sys.executable, folder], [*install, "-r", str(root / LOCK)]):
        if subprocess.run(command, cwd=root, env=uv_environment([sys.executable, "-m", "pip"])).returncode:
            raise SetupError(
                f"uv could not make {FOLDER} (its reason stands above): check the network, or UV_DEFAULT_INDEX"
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
