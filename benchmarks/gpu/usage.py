"""The utilisation and memory of a GPU over a period, from nvidia-smi."""

import contextlib
import dataclasses
import os
import shutil
import statistics
import subprocess
import threading
from collections.abc import Iterator, Sequence

COMMAND = ("nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "-lms", "200")
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclasses.dataclass(slots=True)
class Usage:
    """The samples of one watch: percent of the time that a kernel ran, and megabytes (2^20 bytes) in use."""

    utilization: list[float] = dataclasses.field(default_factory=list)
    memory: list[float] = dataclasses.field(default_factory=list)

    def add(self, line: str) -> None:
        """Add one line of nvidia-smi, if it is a pair of numbers and not "[N/A]"."""
        with contextlib.suppress(ValueError):
            utilization, memory = map(float, line.split(","))
            self.utilization.append(utilization)
            self.memory.append(memory)

    def summary(self) -> dict[str, float]:
        """Return the median utilisation, and memory at its first, most and last; nothing without a sample."""
        if not self.memory:
            return {}
        return {
            "utilization_percent": statistics.median(self.utilization),
            "memory_first_mb": self.memory[0],
            "memory_most_mb": max(self.memory),
            "memory_last_mb": self.memory[-1],
        }


@contextlib.contextmanager
def watched(command: Sequence[str] | None = None) -> Iterator[Usage]:
    """Watch the first GPU that may be used while the block runs; without nvidia-smi there are no samples."""
    usage = Usage()
    command = command or (*COMMAND, "-i", os.environ.get(VISIBLE, "").partition(",")[0] or "0")
    if shutil.which(command[0]) is None:
        yield usage
        return
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None

    def read() -> None:
        for line in process.stdout or ():
            usage.add(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield usage
    finally:
        process.terminate()
        process.wait()
        reader.join()
        process.stdout.close()
