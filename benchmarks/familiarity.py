"""How well does familiarity separate images of other kinds, and how much time does it take? On real petals and moths.

    python -m benchmarks.familiarity RAW_ROOT
    python -m benchmarks.familiarity RAW_ROOT --pairs 24 --seconds 1

Features are those of the frozen EfficientNet-Lite0. For each seed a data set is split into training (four fifths),
validation and test (a tenth each). The area under the ROC curve (AUROC) is that of test images against images of
others: all of the other data set, or of a fifth of the species, which are in neither training nor validation; each
species is left out in one of five turns. Other banks and distances are compared on the moths. The method was chosen on
species of petals that were left out, and on petals and Places365 against each other.

The cost is the processor time of one request to a worker's service, without TorchServe: a JPEG file of the moths,
decoded, classified and answered, by itself or in a batch of eight. A model with a bank, the same one without it, and a
second copy of the latter take turns.

RAW_ROOT has the folders moths and petals. Runs are those of the project's own commands, below the current folder.
Writes benchmarks/results/familiarity.json; the last line is the same JSON document.
"""

import dataclasses
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score

from benchmarks.harness import console
from benchmarks.interleave import Work, take_turns
from benchmarks.result import Origin
from handlers.network.familiarity import Familiarity
from handlers.requests.labels import LEAST_FAMILIAR
from handlers.requests.request import Field, RawRequest
from handlers.run_folder import RunFolder
from handlers.service import Service
from training.configuration import compose, plain, store_folder
from training.data.progress import plain_console
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.run import input_statistics
from training.transfer import familiarity, stages

RESULT = Path("benchmarks/results/familiarity.json")
NETWORK = "network=efficientnet_lite0"
DATASETS = ("petals", "moths")
SEEDS, TURNS = (0, 1, 2), 5
BATCHES = (1, 8)  # requests
RESAMPLES = 2000
CODE = (
    "handlers/classifier.py",
    "handlers/network",
    "training/transfer/familiarity.py",
)

Floats = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Distances = Callable[[Floats], npt.NDArray[np.float64]]


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """Rows of one split of a data set; `unknown` are those of the classes that are left out."""

    train: Labels
    validation: Labels
    test: Labels
    unknown: Labels


def prepared(name: str, raw: Path) -> str:
    """Prepare a data set for the weights, train a linear head on it, and return the name of store and run."""
    run = f"familiarity-{name}"
    common = (f"dataset={name}", NETWORK, f"store={run}")
    for module, *more in (
        ("training.data.prepare", f"raw={raw / name}"),
        ("training.train", f"name={run}", "transfer.stages=1"),
    ):
        subprocess.run([sys.executable, "-m", module, *common, *more], check=True, stdout=sys.stderr)
    return run


def embedded(name: str, run: str) -> tuple[Floats, Labels]:
    """Return frozen features and labels of all labelled images of a prepared data set."""
    config = compose([f"dataset={name}", NETWORK, f"store={run}"])
    settings = plain(config)
    data = PreparedDataset.open(store_folder(config))
    rows = np.flatnonzero(np.asarray(data.labels) >= 0)
    statistics_of_weights = input_statistics(settings, data, data.split(SplitSpec.from_config(settings["split"])))
    weights = stages.origin(settings, data)
    assert weights is not None
    preprocess = data.preprocess(*statistics_of_weights)
    values = stages.frozen_features(settings, weights, data, rows, preprocess, plain_console())
    return values, np.asarray(data.labels)[rows]


def split(labels: Labels, left_out: Sequence[int], seed: int) -> Parts:
    """Return the rows of a seed: four fifths, a tenth and a tenth of the classes that are not left out."""
    unknown = np.isin(labels, left_out)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(~unknown))
    tenth = len(rows) // 10
    return Parts(rows[2 * tenth :], rows[tenth : 2 * tenth], rows[:tenth], np.flatnonzero(unknown))


def turns(labels: Labels, seed: int) -> Iterator[Labels]:
    """Yield, in each turn, the classes that are left out: each class once."""
    classes = np.random.default_rng(seed).permutation(np.unique(labels))
    for turn in range(TURNS):
        yield classes[turn::TURNS]


def auroc(known: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Return the area under the ROC curve of distances of known images against other ones."""
    return float(roc_auc_score(np.repeat([0, 1], [len(known), len(other)]), np.concatenate([known, other])))


def exported(values: Floats, labels: Labels, validation: Floats) -> Familiarity:
    """Return the bank as training exports it."""
    rows = familiarity.evenly(np.arange(len(labels)), labels, familiarity.BANK)
    return familiarity.bank_of(values[rows], labels[rows], validation)


def against(bank: Familiarity, test: Floats, unknown: Floats) -> dict[str, float]:
    """Return AUROC, and the share of each kind that is called familiar."""
    usual, other = (bank.distances(torch.from_numpy(values)).double().numpy() for values in (test, unknown))
    familiar = [
        float(np.mean([bank.share_beyond(value) >= LEAST_FAMILIAR for value in part])) for part in (usual, other)
    ]
    return {"auroc": auroc(usual, other), "familiar_known": familiar[0], "familiar_other": familiar[1]}


def other_set(sets: Mapping[str, tuple[Floats, Labels]], name: str, other: str) -> dict[str, Any]:
    """Return the scores of one data set against all images of another, of each seed."""
    values, labels = sets[name]
    scores = []
    for seed in SEEDS:
        parts = split(labels, (), seed)
        bank = exported(values[parts.train], labels[parts.train], values[parts.validation])
        scores.append(against(bank, values[parts.test], sets[other][0]))
    return {"known": name, "other": other, **summary(scores)}


def left_out(values: Floats, labels: Labels, name: str) -> dict[str, Any]:
    """Return the scores of classes that are left out in turn, of each seed: a seed's is the mean of its turns."""
    scores = []
    for seed in SEEDS:
        of_turns = []
        for classes in turns(labels, seed):
            parts = split(labels, classes.tolist(), seed)
            bank = exported(values[parts.train], labels[parts.train], values[parts.validation])
            of_turns.append(against(bank, values[parts.test], values[parts.unknown]))
        scores.append({key: statistics.fmean(score[key] for score in of_turns) for key in of_turns[0]})
    return {"known": name, "other": "a fifth of its species, left out", **summary(scores)}


def summary(scores: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return mean and range over the seeds of each score."""
    return {
        key: {"value": statistics.fmean(values), "low": min(values), "high": max(values)}
        for key in scores[0]
        if (values := [score[key] for score in scores])
    }


def k_centres(values: Floats, count: int) -> Labels:
    """Return rows of a greedy k-centre sample (Sener and Savarese 2018, arXiv:1708.00489)."""
    centres = [int(np.linalg.norm(values - values.mean(axis=0), axis=1).argmin())]
    distances = np.full(len(values), np.inf)
    while len(centres) < min(count, len(values)):
        distances = np.minimum(distances, np.linalg.norm(values - values[centres[-1]], axis=1))
        centres.append(int(distances.argmax()))
    return np.array(centres)


def unit(values: Floats) -> Floats:
    """Return rows of length one."""
    return np.asarray(values / np.linalg.norm(values, axis=1, keepdims=True), np.float32)


def nearest(bank: Floats, values: Floats) -> npt.NDArray[np.float64]:
    """Return one minus the largest product of each row of `values` with one of `bank`."""
    return np.asarray(1 - (values @ bank.T).max(axis=1), np.float64)


def other_banks(values: Floats, labels: Labels, petals: Floats) -> list[dict[str, Any]]:
    """Return the AUROC of other banks and distances, and of samples of half the images, for moths.

    Against species that are left out, and against petals.
    """
    scores: dict[str, list[tuple[float, float]]] = {}
    for seed in SEEDS:
        for classes in turns(labels, seed):
            parts = split(labels, classes.tolist(), seed)
            for name, distances in _banks(values[parts.train], labels[parts.train], seed).items():
                test, unknown = distances(values[parts.test]), distances(values[parts.unknown])
                scores.setdefault(name, []).append((auroc(test, unknown), auroc(test, distances(petals))))
    means = {name: np.mean(areas, axis=0).tolist() for name, areas in scores.items()}
    return [{"bank": name, "auroc_species": areas[0], "auroc_petals": areas[1]} for name, areas in means.items()]


def _banks(train: Floats, labels: Labels, seed: int) -> dict[str, Distances]:
    mean = train.mean(axis=0)
    bank = exported(train, labels, train)
    count = len(bank.offset)

    def both(values: Floats) -> Floats:
        return np.asarray(bank.coordinates(torch.from_numpy(values)).numpy(), np.float32)

    def of_rows(rows: Labels, transform: Callable[[Floats], Floats]) -> Distances:
        neighbours = transform(train[rows])
        return lambda values: nearest(neighbours, transform(values))

    spaces: dict[str, Callable[[Floats], Floats]] = {
        "whole embeddings": unit,
        "whole embeddings, mean subtracted": lambda values: unit(values - mean),
        "discriminant directions": lambda values: both(values)[:, :count],
        "principal directions": lambda values: both(values)[:, count:],
        "both, as exported": both,
    }
    half = len(train) // 2
    samples = {
        "random": np.random.default_rng(seed).permutation(len(train))[:half],
        "the same number of each class": familiarity.evenly(np.arange(len(train)), labels, half),
        "k-centre": k_centres(both(train), half),
    }
    banks = {name: of_rows(np.arange(len(train)), space) for name, space in spaces.items()}
    return banks | {f"both, half of the images, {name}": of_rows(rows, both) for name, rows in samples.items()}


def costs(weights: Path, image: bytes, pairs: int, seconds: float, precision: str) -> list[dict[str, Any]]:
    """Return processor milliseconds of a request with and without the bank, and the ratios of interleaved turns."""
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / weights.name
        shutil.copyfile(weights, bare)
        config = {"handler": {"precision": precision}, "minWorkers": 1, "batchSize": max(BATCHES)}
        services = {
            name: Service(path, config, version="1.0")
            for name, path in (("bank", weights), ("none", bare), ("again", bare))
        }
        assert services["bank"].classifier.familiarity and not services["none"].classifier.familiarity
        rows = []
        for batch in BATCHES:
            works = {name: _requests(service, image, batch) for name, service in services.items()}
            times = take_turns(works, pairs, seconds, time.process_time)
            ratios = {name: ratio(times[name], times["none"]) for name in ("bank", "again")}
            milliseconds = {name: 1000 * statistics.median(values) / batch for name, values in times.items()}
            about = {"precision": precision, "batch": batch, "pairs": pairs}
            rows.append({**about, "cpu_milliseconds": milliseconds, "ratio_to_none": ratios})
    return rows


def _requests(service: Service, image: bytes, batch: int) -> Work:
    requests = [RawRequest({"content-type": "image/jpeg"}, [Field("body", image)])] * batch
    return lambda: service.answer(requests)


def ratio(times: Sequence[float], reference: Sequence[float]) -> dict[str, float]:
    """Return the median ratio of pairs, with the 95 % interval of the bootstrap."""
    ratios = np.array(times) / np.array(reference)
    random = np.random.default_rng(0)
    medians = np.median(ratios[random.integers(0, len(ratios), (RESAMPLES, len(ratios)))], axis=1)
    low, high = np.quantile(medians, [0.025, 0.975])
    return {"value": float(np.median(ratios)), "low": float(low), "high": float(high)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the rows, and write the result."""
    parser = console.parser("familiarity", __doc__)
    parser.add_argument("raw_root", type=Path, help="folder with moths/ and petals/")
    parser.add_argument("--pairs", type=int, default=24, help="turns of each model")
    parser.add_argument("--seconds", type=float, default=1.0, help="processor time of a turn")
    options = parser.parse_args(arguments)
    origin = Origin("familiarity", ["RAW_ROOT"], code=CODE)
    raw = options.raw_root.resolve()
    runs = {name: prepared(name, raw) for name in DATASETS}
    torch.set_num_threads(1)  # as in a worker
    sets = {name: embedded(name, run) for name, run in runs.items()}
    rows = [other_set(sets, "petals", "moths"), other_set(sets, "moths", "petals")]
    rows += [left_out(*sets[name], name) for name in ("moths", "petals")]
    banks = other_banks(*sets["moths"], sets["petals"][0])
    run = RunFolder.of(runs["moths"])
    image = next((raw / "moths" / "test").rglob("*.jpg")).read_bytes()
    cost_rows = [
        row for name in ("fp32", "bf16") for row in costs(run.model, image, options.pairs, options.seconds, name)
    ]
    for row in rows:
        print(f"{row['known']} against {row['other']}: AUROC {row['auroc']['value']:.4f}")
    for bank in banks:
        print(f"{bank['bank']}: AUROC {bank['auroc_species']:.4f}, {bank['auroc_petals']:.4f}")
    figures = {"network": "EfficientNet-Lite0", "seeds": len(SEEDS), "rows": rows, "banks": banks, "costs": cost_rows}
    size = run.familiarity.stat().st_size
    return origin.publish({**figures, "bytes": size}, RESULT)


if __name__ == "__main__":
    sys.exit(main())
