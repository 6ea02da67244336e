"""Share a machine's cores and memory between the workers and TorchServe's front end.

The rule: a core computes for only one worker, so that a worker never waits for another core. Every model gets as many
workers as its share of the cores, and of a third of the memory, since a version kept for a rollback and one that is
being deployed need workers too; the workers' threads share the remaining cores. A GPU gets one worker of each model.
The shares count the models that a server starts with; a version deployed later gets its share of all models served by
then, and the other models keep theirs until the next start. `python -m benchmarks.sweep` compares the rule with others.
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
WORKER_MEMORY = 0.75e9  # bytes; measured: 0.5 GB anonymous with a ResNet-18, plus room for large images
HEAP_SHARE = 8  # Java's heap gets 1/8 of the memory
HEAP_MIN, HEAP_MAX = 256, 2048  # megabytes; the maximum holds full queues of large requests
HEAP = r"-Xmx|-XX:Max(HeapSize|RAMPercentage)="
# Options that choose one of Java's collectors, or may do so in a file. G1, Java's default on most machines, allocates
# every body of a megabyte as a separate object (`python -m benchmarks.sweep` compares the two).
COLLECTOR = r"-XX:\+Use\w+GC\b|-XX:(VMOptionsFile|Flags)=|(^|\s)@"
JAVA_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS")
# On a GPU, TorchServe's collector fails without nvgpu, which needs a web server: `--gpu 0` omits the GPU's metrics.
SYSTEM_METRICS = "system_metrics_cmd=ts/metrics/metric_collector.py --gpu 0"
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # activations between layers take megabytes: 5 to 8 % faster (measured)


@dataclasses.dataclass(frozen=True, slots=True)
class Resources:
    """Workers of each model, torch's threads in each, the front end's heap in megabytes, its compiler and collector.

    `has_gpu`: Java's second compiler takes the workers' cores for half a minute, and pays off only if a GPU lets the
    front end answer thousands of requests a second; with a GPU, Java also chooses its own collector.
    """

    workers: int
    threads: int
    heap: int
    has_gpu: bool = False

    @property
    def per_device(self) -> int:
        """Return the workers of a model on one device: the CPU, or one of the GPUs."""
        return 1 if self.has_gpu else self.workers

    def java(self, present: str = "") -> str:
        """Return the options to add to TorchServe's `vmargs`: none of a kind that the `present` ones have already."""
        options = {HEAP: f"-Xmx{self.heap}m"}
        if not self.has_gpu:
            options |= {"-XX:TieredStopAtLevel=": "-XX:TieredStopAtLevel=1", COLLECTOR: "-XX:+UseParallelGC"}
        return " ".join(option for pattern, option in options.items() if not re.search(pattern, present))

    @classmethod
    def of(cls, models: int, *, cores: int, memory: int, gpus: int = 0) -> "Resources":
        """Return the shares on a machine with these cores, bytes of memory and GPUs."""
        fitting = int(memory / 3 / WORKER_MEMORY)
        workers = gpus or max(1, min(cores, fitting) // models)
        heap = min(HEAP_MAX, max(HEAP_MIN, memory // HEAP_SHARE // 2**20))
        return cls(workers, max(1, cores // (workers * models)), heap, has_gpu=gpus > 0)

    @classmethod
    def of_this_machine(cls, models: int) -> "Resources":
        """Return the shares here."""
        return cls.of(
            models,
            cores=machine.cores(),
            memory=machine.memory(),
            gpus=gpus(),
        )

    def workers_of(self, config: str) -> int:
        """Return the workers of each model: the value of config.properties if it sets one.

        Raises:
            ServingError: the value is not a number.
        """
        text = properties.read(config).get(WORKERS, str(self.workers))
        if not text.isdecimal():
            raise ServingError(f"config.properties: {WORKERS} is {text!r}, write a whole number")
        return int(text)

    def properties(self, config: str) -> str:
        """Return the lines to add to config.properties; it keeps its own settings."""
        settings = properties.read(config)
        lines = []
        if WORKERS not in settings:
            lines.append(f"{WORKERS}={self.workers}")
        vmargs = settings.get("vmargs", "")
        # Two collectors stop Java, wherever they are named.
        if options := self.java(" ".join([vmargs, *(os.environ.get(name, "") for name in JAVA_VARIABLES)])):
            lines.append(f"vmargs={vmargs} {options}")
        if self.has_gpu and "system_metrics_cmd" not in settings:
            lines.append(SYSTEM_METRICS)
        return "\n".join(lines) + "\n"

    def environment(self) -> dict[str, str]:
        """Return the variables for the workers that the environment does not set already."""
        variables = {THREADS_VARIABLE: str(self.threads), "GLIBC_TUNABLES": HUGE_PAGES}
        return {name: value for name, value in variables.items() if name not in os.environ}


def gpus() -> int:
    """Return how many GPUs torch will find, without importing it: none with a CPU build."""
    try:
        cpu_build = importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        cpu_build = True
    devices = 0 if cpu_build else len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return devices
    names = [device for device in visible.split(",") if device.strip() and device.strip() != "-1"]
    return min(devices, len(names))
