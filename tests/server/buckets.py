"""A bucket of Cloud Storage on this machine, by an emulator, and the variables that lead gcsfs to it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from serving.host.ports import Address, is_free
from tests.until import until

NAME = "bucket"
CONNECTIONS = 4  # further ones wait for seconds: the emulator answers one after the other, and has a queue of five


@contextlib.contextmanager
def emulated(port: int) -> Iterator[dict[str, str]]:
    """Run the emulator with an empty bucket; yield the variables for programs that use it."""
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", "--host", "127.0.0.1", "--port", str(port)]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "--in-memory", "--default-bucket", NAME], **output) as process:  # type: ignore[call-overload]
        try:
            until(lambda: not is_free(Address("127.0.0.1", port)), 20)
            yield {
                "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}",
                # Without credentials gcsfs cannot ask for the kind of a bucket, and warns each time.
                "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
                "FSSPEC_GS": json.dumps({"batch_size": CONNECTIONS}),
            }
        finally:
            process.terminate()


def reach(variables: dict[str, str], patch: pytest.MonkeyPatch) -> Any:
    """Return the file system of the emulator, in this process too."""
    for name, value in variables.items():
        patch.setenv(name, value)
    fsspec.get_filesystem_class("gs").clear_instance_cache()
    return fsspec.filesystem("gs", batch_size=CONNECTIONS)


def put(files: Any, folder: Path, below: str) -> str:
    """Copy the files of a folder into the bucket; return their address."""
    for path in sorted(folder.iterdir()):
        files.put_file(str(path), f"{NAME}/{below}/{path.name}")
    return f"gs://{NAME}/{below}"


def without_cloud() -> dict[str, str]:
    """Return this environment without the variables of a platform, and without the path of this checkout."""
    names = ("AIP_", "K_", "PORT", "PYTHONPATH", "SIGHTLINE_P")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}
