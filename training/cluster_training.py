"""Train on the nodes of a Ray cluster: a process on each node, or on each GPU.

    python -m training.cluster_training local dataset=moths              a Ray that the command starts and ends
    python -m training.cluster_training 10.0.0.1:6379 dataset=moths      a cluster to which this machine belongs

If a node dies, training resumes after the last epoch, on the other nodes or on a new one.
"""

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from handlers.atomic import write_text
from training.cluster import RETRIES, ClusterError, check, check_nodes, connected
from training.configuration import ConfigurationError, TrainingError, compose, run_folder, store_folder
from training.console import message_of
from training.data.records import DatasetError
from training.data.store import PreparedDataset
from training.ranks import BACKENDS, PATIENCE
from training.train import train as train_one

STATE = "ray"  # folder in that of the run
FAILURE, LINES = "error.txt", "lines.txt"  # in it: an error that no attempt can avoid; the lines of the first process
LOOK = 0.5  # seconds


def train(overrides: Sequence[str], address: str, say: Callable[[str], None] = print) -> Path:
    """Train what `overrides` configure on a cluster, as `training.train` does, and return the folder of the run.

    Raises:
        ClusterError: the cluster cannot be used, or its processes end again and again.
        ConfigurationError: a setting is impossible.
        DatasetError: there is no such prepared data set.
        TrainingError: a process met one of these errors, or the loss is not finite.
    """
    check(address)
    config = compose(overrides)
    run = run_folder(config)
    PreparedDataset.open(store_folder(config))  # an unprepared one is not a node's fault
    state = run.absolute() / STATE
    state.mkdir(parents=True, exist_ok=True)
    for name in (FAILURE, LINES):
        (state / name).unlink(missing_ok=True)
    with connected(address), _shown(state / LINES, say):
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        check_nodes([store_folder(config), state])
        processes, resources = _processes(config.trainer.device)
        say(f"{processes} processes, each with {', '.join(f'{count:g} {name}' for name, count in resources.items())}")
        job = {"overrides": list(overrides), "folder": str(Path.cwd()), "state": str(state)}
        trainer = TorchTrainer(
            _train,
            train_loop_config=job,
            scaling_config=ScalingConfig(
                num_workers=(1, processes),
                use_gpu="GPU" in resources,
                resources_per_worker=resources,
                placement_strategy="SPREAD",
            ),
            torch_config=TorchConfig(
                BACKENDS["cuda" if "GPU" in resources else "cpu"], timeout_s=int(PATIENCE.total_seconds())
            ),
            run_config=RunConfig(
                name=STATE, storage_path=str(run.absolute()), failure_config=FailureConfig(max_failures=RETRIES)
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            reasons = [str(reason).strip() for reason in getattr(error, "worker_failures", {}).values()] or [str(error)]
            raise ClusterError(f"the nodes cannot train: {reasons[0].splitlines()[-1]}") from error
    if (state / FAILURE).is_file():
        raise TrainingError((state / FAILURE).read_text(encoding="utf-8"))
    shutil.rmtree(state, ignore_errors=True)
    return run


def _processes(device: str) -> tuple[int, dict[str, float]]:
    """Return the number of processes, and the resources of each: a GPU, or the cores of the smallest node."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if gpus and device != "cpu":
        return gpus, {"CPU": 1, "GPU": 1}
    cores = [node["CPU"] for node in nodes if node.get("CPU")]
    return len(cores), {"CPU": min(cores)}


def _train(job: Mapping[str, Any]) -> None:
    """Train in one of the processes; nothing to do after an error that another attempt would meet again."""
    os.chdir(job["folder"])
    failure, lines = Path(job["state"]) / FAILURE, Path(job["state"]) / LINES
    if failure.is_file():
        return

    def say(line: str) -> None:
        with open(lines, "a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    try:
        train_one(compose(job["overrides"]), say)
    except (ConfigurationError, DatasetError, TrainingError) as error:
        write_text(failure, str(error))
        raise


@contextlib.contextmanager
def _shown(lines: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Pass on the lines that a file gets while the block runs."""
    ended = threading.Event()

    def show() -> None:
        count = 0
        while True:
            is_last = ended.wait(LOOK)
            text = lines.read_text(encoding="utf-8") if lines.is_file() else ""
            whole = text[: text.rfind("\n") + 1].splitlines()
            for line in whole[count:]:
                say(line)
            count = len(whole)
            if is_last:
                return

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    address, *overrides = arguments
    try:
        train(overrides, address, lambda line: print(line, flush=True))
    except (ConfigurationError, DatasetError, TrainingError, ClusterError, OSError) as error:
        print(f"error: {message_of(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
