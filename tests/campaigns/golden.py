"""Ten broken copies of `handlers` and 200 good archives: which of them golden images refuse.

    python -m tests.campaigns.golden               drawn data sets, and real ones from SIGHTLINE_REAL_DATA; 30 minutes
    python -m tests.campaigns.golden --only gates     one section

Fingers (grey), letters of ASL, moths (cropped) and petals are prepared, and a small network is trained on each for six
epochs. `loads`: the code of a worker loads each artifact with each broken copy (`mutants.py`), in fp32, bf16 and int8.
A mutant counts where it changes a pixel or an answer of the golden images; `own` says whether it changes one of those
from the data set. `gates`: each mutant passes through `make archive`, `make verify`, a worker of TorchServe and `make
deploy` once. `good`: archives of trained networks, and of small ones with random weights, are built and rehearsed in
all precisions, with batches of 1 to 16 and one or two threads. The last line is one JSON document.
"""

import dataclasses
import importlib
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.harness import console, small_server
from benchmarks.real import step
from benchmarks.result import CAMPAIGNS, Sections
from handlers import golden
from handlers.classifier import Classifier
from handlers.network import torchscript
from handlers.spec import PreprocessSpec, Spec
from serving import archive, deploy
from serving.errors import ServingError
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.store import package
from serving.verify import verify
from synthetic import places365
from tests.campaigns import golden_loads, mutants
from tests.campaigns.mutants import MUTANTS
from training.cards import cards
from training.quantization import quantize

RESULT, WORK = Path("benchmarks/results/golden.json"), Path("runs/bench-golden")
PRECISIONS = ("fp32", "bf16", "int8")
SECTIONS = ("loads", "gates", "good")
GATES = ("archive", "verify", "worker", "deploy")
FAULTS = (  # counts that must be 0
    *("counted and not refused", "whole copies refused", "good archives refused"),
    *(f"not refused by {gate}" for gate in GATES),
)
BATCHES, THREADS = (1, 4, 8, 16), (1, 2)
RANDOM_SIDE, RANDOM_CLASSES = 48, 10
SETS: Mapping[str, Sequence[str]] = {
    "fingers": ("network=small_cnn", "trainer.epochs=6", "split.images_per_class=60"),
    "asl_alphabet": ("network=small_cnn", "trainer.epochs=6", "split.images_per_class=30"),
    "moths": (
        *("dataset.image_size=64", "dataset.resize=crop", "dataset.crop_fraction=0.9"),
        *("trainer.epochs=6", "trainer.train_size=null", "split.images_per_class=20"),
    ),
    "petals": ("dataset.image_size=64", "trainer.epochs=6", "trainer.train_size=null", "split.images_per_class=20"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One load: a run, and settings of its model-config.yaml."""

    run: Path
    precision: str
    batch: int = 8
    threads: int = 1

    @property
    def settings(self) -> list[str]:
        """Return the settings as `make archive` takes them."""
        return [f"handler.precision={self.precision}", f"batchSize={self.batch}"]

    def load(self, handlers: Path) -> dict[str, Any]:
        """Return the load as `golden_loads` takes it."""
        config = {"batchSize": self.batch, "handler": {"precision": self.precision}}
        return {"handlers": str(handlers), "weights": str(self.run.resolve() / "model.pt"), "config": config}


def train(kind: str, name: str, raw: Path) -> Path:
    """Prepare a data set, train a small network on it, and return its run."""
    settings = SETS[name]
    prepared = [setting for setting in settings if setting.startswith(("dataset.", "network="))]
    names = [f"dataset={name}", f"name={kind}-{name}", f"raw={raw.resolve()}"]
    step("training.data.prepare", *names, *prepared)
    step("training.train", *names, *settings)
    return Path("runs") / f"{kind}-{name}"


def runs(real: Path | None) -> Iterator[Path]:
    """Yield trained runs of generated data sets, and of real ones if `real` is their folder."""
    for name in SETS:
        raw = WORK / "raw" / name
        importlib.import_module(f"synthetic.{name}").generate(raw, images_per_class=24)
        yield train("drawn", name, raw)
    for name in SETS if real else ():
        assert real is not None
        yield train("real", name, real / name)


def random_run(seed: int) -> Path:
    """Return a run whose network has seeded random weights, with golden images as export makes them."""
    folder = WORK / "random" / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = PreprocessSpec(image_size=RANDOM_SIDE, resize="crop" if seed % 2 else "squash", crop_fraction=0.9)
    spec = Spec(
        preprocess=preprocess, classes=tuple(f"c{number}" for number in range(RANDOM_CLASSES)), network="random"
    )
    network = small_server.network(RANDOM_CLASSES, seed)
    torchscript.save(network, spec, folder / "model.pt")
    noise = torch.randn(16, *preprocess.shape, generator=torch.Generator().manual_seed(seed))
    torchscript.save_quantized(quantize(network, [noise]), spec, folder / "model.pt")
    exact, rounded = (Classifier(folder / "model.pt", precision=precision) for precision in ("fp32", "int8"))
    own = {f"image-{number}": places365.image(number, seed, 1, 0, 100) for number in range(8)}
    drawn = golden.of(exact, cards(exact.preprocess.shortest_side), int8=rounded, drawn=True)
    golden.write([*golden.of(exact, own, int8=rounded), *drawn], folder / golden.FILE)
    return folder


def reports(loads: Sequence[Mapping[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Run `golden_loads` in a separate process."""
    (folder / "loads.json").write_text(json.dumps(loads))
    command = [sys.executable, golden_loads.__file__, str(folder / "loads.json")]
    process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    reports: list[dict[str, Any]] = json.loads(process.stdout)
    return reports


def broken(cases: Sequence[Case], folder: Path) -> list[dict[str, Any]]:
    """Return, for each mutant and case, whether it counts and whether a worker refuses it."""
    copies = {name: mutants.write(MUTANTS.get(name), folder / (name or "whole")) for name in ("", *MUTANTS)}
    keys = [(name, case) for name in copies for case in cases]
    results = dict(zip(keys, reports([case.load(copies[name]) for name, case in keys], folder), strict=True))
    rows = []
    for name, case in keys[len(cases) :]:
        whole, report = results["", case], results[name, case]
        rows.append(
            {
                "mutant": name,
                "run": case.run.name,
                "precision": case.precision,
                "counts": report["digest"] != whole["digest"],
                "own": report["own"] != whole["own"],
                "refused": report["refused"],
                "whole_refused": whole["refused"],
            }
        )
    return rows


def refusal(work: Callable[[], object], error: type[ServingError]) -> str | None:
    """Return the message with which a step fails, or None if it does not."""
    try:
        work()
    except error as refused:
        return str(refused)
    return None


def gates(cases: Sequence[tuple[str, Case]], folder: Path) -> list[dict[str, Any]]:
    """Return whether archive, verify, a worker of TorchServe and deploy refuse each mutant in its case."""
    root = folder / "server"
    small_server.prepare(root, versions=("1.0",))
    rows = []
    with small_server.serving(root, (f"{small_server.MODEL}=1.0",)):
        for number, (name, case) in enumerate(cases):
            copy = mutants.write(MUTANTS[name], folder / f"gate-{number}")
            row: dict[str, Any] = {"mutant": name, "run": case.run.name, "precision": case.precision}
            rows.append(row | _gates(f"m{number}", case, copy, root))
            print(f"{name}, {case.run.name} in {case.precision}: {_marks(rows[-1])}", file=sys.stderr, flush=True)
    return rows


def _gates(model: str, case: Case, handlers: Path, root: Path) -> dict[str, str | None]:
    """Return the refusal of each gate of one archive with these handlers, None where it passes."""
    build = partial(archive.build, model, "1.0", run=case.run, store=root / "model_store", overrides=case.settings)
    # Without `verify` a deployment gets as far as the worker.
    swap = partial(deploy.deploy, model, "1.0", root=root, limits=DeployLimits(watch=0.5), log=lambda _: None)
    with mock.patch.object(package, "HANDLERS", handlers):
        refused = refusal(build, ServingError)
        packed = build(rehearse=False)
    return {
        "archive": refused,
        "verify": refusal(partial(verify, packed), ServingError),
        "worker": refusal(partial(swap, verify=False), DeployError),
        "deploy": refusal(partial(swap, verify=True), DeployError),
    }


def _marks(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{gate} {'refuses' if _golden(row[gate]) else 'PASSES'}" for gate in GATES)


def _golden(message: str | None) -> bool:
    return message is not None and "golden image" in message


def good(count: int, trained: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """Build and rehearse good archives; return those that are refused and what was built."""
    grid = list(itertools.product(trained, PRECISIONS, BATCHES, THREADS))
    cases = [Case(*values) for values in grid[:: max(1, len(grid) * 5 // (4 * count))]]
    seeds = itertools.count()
    while len(cases) < count:
        run = random_run(next(seeds))
        cases += [Case(run, precision, BATCHES[len(cases) % 4]) for precision in PRECISIONS]
    rows = []
    for number, case in enumerate(cases[:count]):
        store = folder / "good" / str(number)
        build = partial(archive.build, f"g{number}", "1.0", run=case.run, store=store, overrides=case.settings)
        with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": str(case.threads)}):
            refused = refusal(build, ServingError)
        shutil.rmtree(store, ignore_errors=True)
        rows.append({**dataclasses.asdict(case), "run": f"{case.run.parent.name}/{case.run.name}", "refused": refused})
        if refused or number % 20 == 0:
            print(f"{number + 1} good archives: {refused or 'taken'}", file=sys.stderr, flush=True)
    return rows


def summary(sections: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, int]:
    """Return the counts of all sections."""
    loads, gates, archives = (sections.get(name, []) for name in SECTIONS)
    counted = [row for row in loads if row["counts"]]
    whole = {(row["run"], row["precision"]): row["whole_refused"] for row in loads}
    return {
        "mutants loaded": len(loads),
        "of these counted": len(counted),
        "counted and not refused": sum(not _golden(row["refused"]) for row in counted),
        "seen on the set's own images": sum(row["own"] for row in loads),
        "whole copies loaded": len(whole),
        "whole copies refused": sum(refused is not None for refused in whole.values()),
        "mutants at the gates": len(gates),
        **{f"not refused by {gate}": sum(not _golden(row[gate]) for row in gates) for gate in GATES},
        "good archives": len(archives),
        "of these with random weights": sum(row["run"].startswith("random/") for row in archives),
        "good archives refused": sum(row["refused"] is not None for row in archives),
    }


def show(loads: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> None:
    """Print a line for each mutant, and the counts."""
    rows = []
    for name in MUTANTS:
        mine = [row for row in loads if row["mutant"] == name]
        counted = [row for row in mine if row["counts"]]
        rows.append((name, len(counted), sum(_golden(row["refused"]) for row in counted), sum(r["own"] for r in mine)))
    console.print_table("golden images", ("mutant", "counts", "refused", "changes the set's images"), rows)
    for name, value in counts.items():
        print(f"{name}: {value}")


def spread(loads: Sequence[Mapping[str, Any]], cases: Mapping[tuple[str, str], Case]) -> list[tuple[str, Case]]:
    """Return each mutant with a case in which it counts, in another run and precision each."""
    pairs = []
    for place, name in enumerate(MUTANTS):
        rows = [row for row in loads if row["mutant"] == name and row["counts"]]
        if rows:
            row = rows[5 * place % len(rows)]
            pairs.append((name, cases[row["run"], row["precision"]]))
    return pairs


def main() -> int:
    """Measure the sections of the command line; 1 where a count that must be 0 is not."""
    parser = console.parser("golden", __doc__, CAMPAIGNS)
    parser.add_argument("--archives", type=int, default=200, help="number of good archives to build and rehearse")
    parser.add_argument("--only", choices=SECTIONS, help="one section; gates needs the loads of an earlier run")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    sections = Sections("golden", options.output, package=CAMPAIGNS)
    real = os.environ.get("SIGHTLINE_REAL_DATA")
    trained = list(runs(Path(real) if real else None))
    cases = {(run.name, precision): Case(run, precision) for run in trained for precision in PRECISIONS}
    with tempfile.TemporaryDirectory(prefix="sightline-") as scratch:
        folder = Path(scratch)
        if options.only in (None, "loads"):
            sections.write("loads", broken(list(cases.values()), folder))
        if options.only in (None, "good"):
            sections.write("good", good(options.archives, trained, folder))
        if options.only in (None, "gates"):
            sections.write("gates", gates(spread(sections.figures["loads"], cases), folder))
    counts = summary(sections.figures)
    show(sections.figures.get("loads", []), counts)
    return sections.publish(failed=any(counts[name] for name in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
