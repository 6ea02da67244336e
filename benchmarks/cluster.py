"""Ray clusters of several nodes on this machine: the same table, the same losses, and what the death of a node costs.

    python -m benchmarks.cluster [--images 20000] [--deaths 10] [--seeds 3]

Each node has one core; nodes that share fewer cores than they have show that the results are right, not how fast they
would be. Sections:

- score: `make score` of generated JPEG files of 64 x 64 on one node, on two, and on three of which one is killed half
  way; the tables are compared.
- losses: a small transformer without random changes, trained by one process and by two nodes with the same batch size
  over 50 steps, for each seed.
- deaths: the same training on three nodes, of which one is killed (SIGKILL of its raylet) after a random time; a new
  one takes its place for the next run.

Writes benchmarks/results/cluster.json; the last line is one JSON document.
"""

import contextlib
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import console
from benchmarks.prepare import generate
from benchmarks.result import Sections
from benchmarks.score import NAME, write_model
from handlers.run_folder import RUNS, RunFolder
from synthetic import petals
from training.cluster import MEMORY

RESULT = Path("benchmarks/results/cluster.json")
ROOT = Path(__file__).parents[1]
CODE = ("handlers", "pipeline/score.py", "pipeline/scoring", "training")
NODE = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
CLASSES, IMAGES_OF_CLASS, BATCH, EPOCHS = 5, 40, 16, 5  # 160 training images: 10 steps an epoch
SETTINGS = (
    "dataset=class_folders", "dataset.image_size=32", "network=vit", "network.embed_dim=48", "network.depth=3",
    "augmentation=[]", "trainer.mix.p=0", "trainer.precision=fp32", "trainer.train_size=null",
    "trainer.optimizer=adamw", "trainer.lr=1.0e-3", f"trainer.batch_size={BATCH}",
    "split.test=folds", "split.folds=10", "store=pets",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all sections in a temporary folder."""
    parser = console.parser("cluster", __doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--deaths", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    sections = Sections("cluster", RESULT, arguments=arguments, code=CODE)
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        write_model(home)
        generate(home / "photos", options.images)
        sections.write("score", scores(home))
        draw(home / "pets")
        run(home, "training.data.prepare", *SETTINGS, "raw=pets", "name=pets")
        sections.write("losses", [losses(home, seed) for seed in range(options.seeds)])
        sections.write("deaths", deaths(home, options.deaths))
    return sections.publish(failed=False)


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """Run a cluster of so many nodes until the block ends."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(nodes - 1):
            started.add_node(**NODE)
        yield started
    finally:
        started.shutdown()


def folder(home: Path, name: str) -> RunFolder:
    """Return the folder of a run."""
    return RunFolder(home / RUNS / name)


def kill(started: Any) -> None:
    """Kill a node that is not the first."""
    victim = next(node for node in started.list_all_nodes() if not node.head)
    started.remove_node(victim, allow_graceful=False)


def run(home: Path, module: str, *arguments: str) -> str:
    """Run a command in `home`; return its output.

    Raises:
        CalledProcessError: it failed.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=home, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def scores(home: Path) -> dict[str, Any]:
    """Return the seconds of each table, and whether all tables are the same."""
    seconds, tables = {}, []
    for nodes, dies in ((1, False), (2, False), (3, True)):
        name = f"{nodes} nodes, one killed" if dies else f"{nodes} nodes"
        out = home / f"table-{nodes}"
        with cluster(nodes) as started:
            start = time.perf_counter()
            killer = threading.Thread(target=_kill_half_way, args=(started, out))
            if dies:
                killer.start()
            run(home, "pipeline.score", NAME, "photos", "--out", str(out), "--cluster", started.address)
            seconds[name] = round(time.perf_counter() - start, 1)
            if dies:
                killer.join()
        tables.append(_rows(out))
    return {
        "images": len(tables[0]),
        "each_once": all(len({row["image"] for row in table}) == len(table) for table in tables),
        "same": all(table == tables[0] for table in tables),
        "seconds": seconds,
    }


def _kill_half_way(started: Any, out: Path) -> None:
    while len(list(out.glob("part-*.parquet"))) < 32:  # of 64
        time.sleep(0.05)
    kill(started)


def _rows(table: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(table).to_pylist()
    return sorted(rows, key=lambda row: str(row["image"]))


def draw(raw: Path) -> None:
    """Write drawn flowers, a folder for each class."""
    for label, number in enumerate(petals.class_numbers(CLASSES)):
        for index in range(IMAGES_OF_CLASS):
            path = raw / f"class-{label}" / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(petals.image(0, number, 0, index, 64))


def losses(home: Path, seed: int) -> dict[str, Any]:
    """Return the largest difference of the losses of one process and two nodes, and the test top-1 of both."""
    common = [*SETTINGS, f"trainer.epochs={EPOCHS}", f"seed={seed}", "split.seed=0"]
    names = {"alone": f"alone-{seed}", "nodes": f"nodes-{seed}"}
    run(home, "training.train", *common, f"name={names['alone']}")
    with cluster(2) as started:
        run(home, "training.cluster_training", started.address, *common, f"name={names['nodes']}")
    tables, top_1 = {}, {}
    for kind, name in names.items():
        tables[kind] = _metrics(home, name)
        run(home, "training.evaluate", f"name={name}")
        metrics = json.loads(folder(home, name).metrics.read_text())
        top_1[kind] = metrics["top_1"]["value"]
    pairs = list(zip(tables["alone"], tables["nodes"], strict=True))
    steps = EPOCHS * (json.loads(folder(home, names["alone"]).training.read_text())["images"]["train"] // BATCH)
    largest = max(abs(one[key] - other[key]) for one, other in pairs for key in ("train_loss", "validation_loss"))
    return {"seed": seed, "steps": steps, "largest_difference": largest, "top_1": top_1}


def _metrics(home: Path, name: str) -> list[dict[str, float]]:
    with open(folder(home, name).epoch_metrics, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def deaths(home: Path, count: int) -> list[dict[str, Any]]:
    """Return, of each run in which a node died, the epochs and how many of them were trained twice."""
    epochs, rows, random_times = 20, [], random.Random(0)
    with cluster(3) as started:
        for number in range(count):
            name, wait = f"death-{number}", random_times.uniform(0, 10)
            killer = threading.Thread(target=_kill_in_training, args=(started, folder(home, name), wait))
            killer.start()
            overrides = [*SETTINGS, f"trainer.epochs={epochs}", f"name={name}"]
            output = run(home, "training.cluster_training", started.address, *overrides)
            killer.join()
            said = output.count("  validation loss ")
            rows.append({"epochs": len(_metrics(home, name)), "asked": epochs, "repeated": said - epochs})
            started.add_node(**NODE)
    return rows


def _kill_in_training(started: Any, files: RunFolder, wait: float) -> None:
    """Kill a node some seconds after the first epoch."""
    while not files.epoch_metrics.is_file():
        time.sleep(0.05)
    time.sleep(wait)
    kill(started)


if __name__ == "__main__":
    sys.exit(main())
