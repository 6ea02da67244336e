"""How a machine is shared out among the workers that it serves with, and TorchServe's front end.

The rule: a core computes for one worker alone, so that it never waits for another core. Every model gets as many
workers as its part of the cores, and of a third of the memory, since a version that is kept for a rollback and one that
is being deployed have workers besides; cores that are left go to the workers' threads. A GPU gets one worker of each
model. It counts the models that a server is started with; a version that is deployed later gets its part of all that
are served by then, and the others keep theirs until the next start. `python -m benchmarks.sweep` measures the rule
against others.
"""

import dataclasses
import importlib.metadata
import os
import re
from pathlib import Path

from handlers import machine
from handlers.machine import THREADS_VARIABLE
from serving.errors import ServingError
from serving.host import properties

WORKERS = "default_workers_per_model"  # of config.properties
WORKER_MEMORY = 0.75e9  # bytes; measured: 0.5 GB anonymous with a ResNet-18, and room for large images
JAVA_SHARE, JAVA_MOST = 8, 2048  # a part of the memory, and megabytes that hold full queues of large requests
JAVA_LEAST = 256
HEAP = r"-Xmx|-XX:Max(HeapSize|RAMPercentage)="
# Which of Java's collectors somebody chose, or may have chosen in a file. G1, Java's own choice on most machines, makes
# an object of its own of every body of a megabyte (`python -m benchmarks.sweep` holds the two against each other).
COLLECTOR = r"-XX:\+Use\w+GC\b|-XX:(VMOptionsFile|Flags)=|(^|\s)@"
JAVA_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
# For a GPU's own metrics it imports nvgpu, which brings a web server along; without it there would be none at all.
SYSTEM_METRICS = "system_metrics_cmd=ts/metrics/metric_collector.py --gpu 0"
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # what passes between two layers takes megabytes: 5 to 8 % faster (measured)


@dataclasses.dataclass(frozen=True, slots=True)
class Shares:
    """Workers of each model, torch's threads in each, the front end's heap in megabytes, its compiler and collector.

    `thorough`: Java's second compiler takes the cores from the workers for half a minute, and is worth it where a GPU
    lets the front end answer thousands of requests a second; its own choice of a collector stands there too.
    """

    workers: int
    threads: int
    heap: int
    thorough: bool = False

    @property
    def per_device(self) -> int:
        """Return the workers of a model on one device: the CPU, or one of the GPUs."""
        return 1 if self.thorough else self.workers

    def java(self, told: str = "") -> str:
        """Return the options that are added to TorchServe's `vmargs`: of those that `told` has already, none."""
        wanted = {HEAP: f"-Xmx{self.heap}m"}
        if not self.thorough:
            wanted |= {"-XX:TieredStopAtLevel=": "-XX:TieredStopAtLevel=1", COLLECTOR: "-XX:+UseParallelGC"}
        return " ".join(option for pattern, option in wanted.items() if not re.search(pattern, told))

    @classmethod
    def of(cls, models: int, *, cores: int, memory: int, gpus: int = 0) -> "Shares":
        """Return the shares on a machine with so many cores, bytes of memory, and GPUs."""
        fitting = int(memory / 3 / WORKER_MEMORY)
        workers = gpus or max(1, min(cores, fitting) // models)
        heap = min(JAVA_MOST, max(JAVA_LEAST, memory // JAVA_SHARE // 2**20))
        return cls(workers, max(1, cores // (workers * models)), heap, thorough=gpus > 0)

    @classmethod
    def of_this_machine(cls, models: int) -> "Shares":
        """Return the shares here."""
        return cls.of(
            models,
            cores=machine.cores(),
            memory=machine.memory(),
            gpus=gpus(),
        )

    def workers_of(self, config: str) -> int:
        """Return the workers of each model: what config.properties says, where somebody wrote that himself.

        Raises:
            ServingError: that is no number.
        """
        text = properties.read(config).get(WORKERS, str(self.workers))
        if not text.isdecimal():
            raise ServingError(f"config.properties: {WORKERS} is {text!r}, write a whole number")
        return int(text)

    def properties(self, config: str) -> str:
        """Return the lines of config.properties that they mean; a line that somebody wrote himself stays."""
        known = properties.read(config)
        lines = []
        if WORKERS not in known:
            lines.append(f"{WORKERS}={self.workers}")
        told = known.get("vmargs", "")
        # Two collectors stop Java, wherever they are named.
        if more := self.java(" ".join([told, *(os.environ.get(name, "") for name in JAVA_VARIABLES)])):
            lines.append(f"vmargs={told} {more}")
        if self.thorough and "system_metrics_cmd" not in known:
            lines.append(SYSTEM_METRICS)
        return "\n".join(lines) + "\n"

    def environment(self) -> dict[str, str]:
        """Return what workers are told, where the environment does not say it already."""
        wanted = {THREADS_VARIABLE: str(self.threads), "GLIBC_TUNABLES": HUGE_PAGES}
        return {name: value for name, value in wanted.items() if name not in os.environ}


def gpus() -> int:
    """Return how many GPUs torch will find, without importing it: none with a build for CPUs alone."""
    try:
        cpu_build = importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        cpu_build = True
    there = 0 if cpu_build else len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return there
    named = [each for each in visible.split(",") if each.strip() and each.strip() != "-1"]
    return min(there, len(named))
