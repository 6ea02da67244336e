"""Write the locks from `pyproject.toml`: every package at one version, with the hashes of its files.

requirements.txt            everything; a GPU machine's builds of torch, which run on a CPU too
requirements-serve.txt      the packages of a server (`[project.dependencies]`), at the same versions
requirements-cpu.txt        everything but torch, torchvision and CUDA, at the same versions
requirements-serve-cpu.txt  the packages of a server, but torch, torchvision and CUDA
requirements-cpu-torch.txt  torch and torchvision at the same versions, without hashes: they are in another registry
requirements-weights.txt    the pretrained weights of larger networks, for who wants them
requirements-log.txt        what writes the prediction log as Parquet, for who wants that
requirements-drift.txt      what draws distributions in the report on drift, for who wants that
requirements-search.txt     what searches for better settings, for who wants that
requirements-cluster.txt    what runs on several machines, for who wants that
requirements-dvc.txt        what runs the pipeline of dvc.yaml, for who wants that
requirements-gateway.txt    what runs in front of servers, for who wants that
requirements-signing.txt    what signs archives, for who wants that
requirements-audit.txt      what looks for known vulnerabilities and writes bills of materials, for who wants that
requirements-gcp.txt        what reads and writes buckets of Google Cloud, for who wants that
requirements-schemas.txt    schemas that check files of deploy/ and .github, for who wants that
requirements-kubernetes.txt what builds and checks deploy/kubernetes, for who wants that
requirements-uv.txt         uv itself
requirements-peers.txt      the packages of a server, at the same versions, and the servers that it is compared with
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from rich.console import Console

COMMAND = "make lock"
EXTRAS = ("--extra", "train", "--extra", "dev")
OPTIONAL = (
    "weights",
    "log",
    "drift",
    "search",
    "cluster",
    "dvc",
    "gateway",
    "signing",
    "audit",
    "gcp",
    "schemas",
    "kubernetes",
)  # extras, each with a separate lock
TORCH = ("torch", "torchvision")
# Triton's part in Python reads every array wrong with NumPy 2, which it does not ask for; our own code runs with both.
PEERS_NUMPY = "numpy<2"
CUDA = re.compile(r"^(?:nvidia-|cuda-|triton)")


def versions(lock: Path) -> dict[str, str]:
    """Return the versions that a lock pins, by package (the last one if they differ by Python's version)."""
    return dict(re.findall(r"^([a-z0-9][\w.-]*)==(\S+)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE))


def compile_lock(root: Path, output: str, *arguments: str) -> None:
    """Resolve `pyproject.toml`, or the .in files among `arguments`, into the lock `output`."""
    uv = [str(Path(sys.prefix) / "bin" / "uv"), "pip", "compile", "--quiet", "--generate-hashes", "--universal"]
    uv += ["--python-version", "3.11", "--custom-compile-command", COMMAND, "--output-file", output]
    sources = () if any(argument.endswith(".in") for argument in arguments) else ("pyproject.toml",)
    subprocess.run([*uv, *sources, *arguments], cwd=root, check=True, stdout=subprocess.DEVNULL)


def write_locks(root: Path) -> None:
    """Write all locks; the full one first, since the others take their versions from it."""
    console = Console(markup=False, emoji=False)
    full = root / "requirements.txt"
    console.print(full.name)
    compile_lock(root, full.name, *EXTRAS)
    pinned = versions(full)
    same = ("--constraints", full.name)
    console.print("requirements-serve.txt")
    compile_lock(root, "requirements-serve.txt", *same)
    with tempfile.TemporaryDirectory() as folder:
        excludes = Path(folder) / "excludes.txt"
        excludes.write_text("\n".join(name for name in pinned if CUDA.match(name)), encoding="utf-8")
        plain = [*same, "--excludes", str(excludes)]
        for name in TORCH:
            plain += ["--no-emit-package", name]
        for name, extras in (("requirements-cpu.txt", EXTRAS), ("requirements-serve-cpu.txt", ())):
            console.print(name)
            compile_lock(root, name, *extras, *plain)
        extra = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        for name in OPTIONAL:
            console.print(f"requirements-{name}.txt")
            source = Path(folder) / f"{name}.in"
            source.write_text("\n".join(extra[name]), encoding="utf-8")
            compile_lock(root, f"requirements-{name}.txt", str(source), *same, "--no-annotate")
        console.print("requirements-uv.txt")
        source = Path(folder) / "uv.in"
        source.write_text("uv\n", encoding="utf-8")
        compile_lock(root, "requirements-uv.txt", str(source), "--no-annotate")
        console.print("requirements-peers.txt")
        override, server = Path(folder) / "override.txt", Path(folder) / "server.txt"
        override.write_text(f"{PEERS_NUMPY}\n", encoding="utf-8")
        # The server's versions, not those of training: its own extras pin what some peers cannot have.
        pins = re.findall(
            r"^(?!numpy)[a-z0-9].*?==.*?(?= \\|$)", (root / "requirements-serve.txt").read_text(), re.MULTILINE
        )
        server.write_text("\n".join(pins), encoding="utf-8")
        peers = ("--extra", "peers", "--constraints", str(server), "--override", str(override))
        compile_lock(root, "requirements-peers.txt", *peers, "--no-annotate")
    text = [f"# Written by: {COMMAND}", *(f"{name}=={pinned[name]}" for name in TORCH)]
    (root / "requirements-cpu-torch.txt").write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_locks(Path(__file__).resolve().parent.parent)
