"""The cores of a Ray cluster, for functions that read and write files. Ray is an extra, imported here only.

All nodes have this code with its .venv, the current folder of the command, and the files that it reads at the same
paths.
"""

import contextlib
import itertools
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self, TypeVar

from handlers.machine import cores

INSTALL = "install it with .venv/bin/uv pip install --require-hashes -r requirements-cluster.txt"
CODE = Path(__file__).resolve().parents[1]
LOCAL = "local"  # a Ray that the command starts and ends
CONNECT = 5.0  # seconds
MEMORY = 100 << 20  # bytes of the object store: results are small, but for decoded images under way
AHEAD = 2  # tasks for each core, so that none waits for the next one
RETRIES = 20  # of a task whose process or node has ended

Task = TypeVar("Task")
Result = TypeVar("Result")


class ClusterError(RuntimeError):
    """The cluster cannot be used; the message says what to do."""


def check(address: str) -> None:
    """Check that there can be a cluster.

    Raises:
        ClusterError: Ray is missing, or nothing listens there.
    """
    if find_spec("ray") is None:
        raise ClusterError(f"Ray is missing: {INSTALL}")
    if address == LOCAL:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"{address!r} is no cluster: give local, or host:port as ray start prints it")
    try:
        with contextlib.closing(socket.create_connection((host, int(port)), CONNECT)):
            pass
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"no cluster at {address} ({error}): start one with ray start --head, or give CLUSTER=local"
        ) from error


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Belong to a cluster while the block runs.

    Args:
        address: `local`, or host:port of a cluster to which this machine belongs (`ray start` prints it).

    Raises:
        ClusterError: Ray is missing, or no cluster answers.
    """
    check(address)
    # Ray reports its use to its makers by default.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    own: dict[str, Any] = {}
    if address == LOCAL:
        own = {"num_cpus": cores(), "object_store_memory": MEMORY, "include_dashboard": False}
        own["_node_ip_address"] = "127.0.0.1"
    path = os.pathsep.join(filter(None, [str(CODE), os.environ.get("PYTHONPATH")]))
    environment = {"env_vars": {"PYTHONPATH": path}}
    try:
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"no cluster at {address}: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_nodes(needs: Sequence[Path]) -> None:
    """Check that all nodes of the connected cluster have some files and folders.

    Raises:
        ClusterError: a node lacks one.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    paths = [str(path.absolute()) for path in (Path.cwd(), *needs)]
    there = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes() if node["Alive"]]
    missing = ray.remote(num_cpus=0)(_missing)
    for line in ray.get([missing.options(scheduling_strategy=place).remote(paths) for place in there]):
        if line:
            raise ClusterError(line)


class ClusterPool:
    """The cores of a cluster, with the interface of `training.data.decoders.Pool`.

    Args:
        address: as of `connected`.
        needs: files and folders that each node needs.
        gpus: of each task; with one, a task takes a GPU and no core.

    Raises:
        ClusterError: Ray is missing, or no cluster answers.
    """

    def __init__(self, address: str, needs: Sequence[Path] = (), gpus: int = 0) -> None:
        check(address)
        self._gpus = gpus
        self._needs = [Path.cwd(), *(path.absolute() for path in needs)]
        self._connection = connected(address)

    def __enter__(self) -> Self:
        self._connection.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.__exit__(None, None, None)

    @property
    def size(self) -> int:
        """Return the number of tasks that can run at a time; nodes come and go."""
        import ray

        return max(1, int(ray.cluster_resources().get("GPU" if self._gpus else "CPU", 1)))

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results in order; a task whose node has ended runs again on another one.

        Raises:
            ClusterError: a node lacks the files, or too many processes have ended. Errors of `function` are passed on.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        needs = [str(path) for path in self._needs]

        def on_node(task: Task) -> Result:
            return _run(function, needs, task)

        remote = ray.remote(num_cpus=0 if self._gpus else 1, num_gpus=self._gpus, max_retries=RETRIES)(on_node)
        waiting: deque[Any] = deque()
        tasks = iter(tasks)
        try:
            while True:
                room = max(0, AHEAD * self.size - len(waiting))  # fewer than before once a node has gone
                waiting.extend(remote.remote(task) for task in itertools.islice(tasks, room))
                if not waiting:
                    return
                yield ray.get(waiting.popleft())
        except RayError as error:
            cause = error.cause if isinstance(error, RayTaskError) else error
            if not isinstance(cause, RayError):
                raise cause from error
            raise ClusterError(
                f"the nodes cannot do the work ({str(cause).splitlines()[0]}): all need this code and its .venv at "
                f"{CODE}; their logs are in /tmp/ray/session_latest/logs. The same command continues"
            ) from error


def _run(function: Callable[[Task], Result], needs: Sequence[str], task: Task) -> Result:
    """Run a task on a node, in the folder of the command."""
    if line := _missing(needs):
        raise ClusterError(line)
    os.chdir(needs[0])
    return function(task)


def _missing(paths: Sequence[str]) -> str:
    """Return a line about the first path that this machine lacks, empty if it has all."""
    for path in paths:
        if not os.path.exists(path):
            return (
                f"{socket.gethostname()}, a node of the cluster, has no {path}: have all nodes share that folder, "
                "or name images by an address (gs://...)"
            )
    return ""
