"""Does a window of served images show drift, of which kind, and what accuracy does it suggest? On real images.

    python -m benchmarks.drift RAW_ROOT
    python -m benchmarks.drift RAW_ROOT --choose         on other images: those on which the method was chosen

RAW_ROOT has the folders petals, moths and places365. The network is the frozen EfficientNet-Lite0 of a run below the
current folder, on images of 112 x 112 pixels; for each seed a new linear head, temperature and reference
(`training.transfer.reference`) are fitted on other training and validation images. Images of the test side are in
neither. The method was chosen on the test images of fold 0 (`--choose`, then at 224 x 224 pixels): they may train here,
and corruptions are measured on others. For species that are left out and for label shift the method is the same; these
sections use all images.

Corruptions: ten of ImageNet-C's at five strengths (`training.report.corruptions`), on up to 400 images of the test
side. No window has an image twice, but windows share images. The accuracy is estimated in windows of 400 images, or of
all that are tested. Where a class has too few images for label shift (one class ten times as frequent, each class in
turn), the window is smaller, and the result gives its size.

False alarms are counted on 1,000 windows of 100 generated hands, none of them used twice, through a small network that
is trained here on generated hands; their bytes are decoded and answered as in a worker.

Writes benchmarks/results/drift.json; the last line is the same JSON document.
"""

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import console
from benchmarks.result import Sections
from handlers.classifier import Classifier
from handlers.observation.measurements import Projection, statistics_of
from handlers.observation.reference import Reference
from handlers.requests.labels import Labels
from handlers.run_folder import RunFolder
from monitoring.drift.verdict import LEVEL, Images, Verdict, judge
from synthetic import fingers
from training import scores
from training.configuration import compose, store_folder
from training.data.loaders import ordered_images
from training.data.splits import SplitSpec
from training.data.store import PreparedDataset
from training.report.corruptions import CORRUPTIONS, STRENGTHS
from training.temperature import fit_temperature
from training.transfer import head, reference
from training.transfer.head import Head

RESULT = Path("benchmarks/results/drift.json")
CODE = (
    *(
        "handlers/observation/reference.py",
        "handlers/observation/statistics.py",
        "handlers/observation/measurements.py",
    ),
    *(f"monitoring/drift/{name}.py" for name in ("accuracy", "classes", "histograms", "label_shift", "mmd", "verdict")),
    *("training/transfer/reference.py", "training/report/corruptions.py"),
)
SECTIONS = ("left_out", "label_shift", "images", "false_alarms")
DATASETS = ("petals", "moths", "places365")
NETWORK = "network=efficientnet_lite0"
# The test side of fold 0 is that of the choice.
FOLDS = SplitSpec(test="folds", folds=3, validation=0.0)
SIDE = 112  # pixels, so that it takes a quarter of the time
SEEDS, WINDOWS = 2, 2  # windows of each corruption and strength, for each seed
WINDOW, LONG_WINDOW = 100, 400
LEAST_DROP, LARGEST_DROP = 0.03, 0.2  # of top-1
FREQUENT = 10  # times as many images of one class
POOL, IMAGES_OF_A_CLASS = 4000, 80  # images of a data set, at most
STRENGTHS_OF_HEAD = head.STRENGTHS[1:4]
HANDS = 350  # training images of a class
BATCH = 16

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Images of a data set: frozen embeddings (N, D), statistics (N, S), labels (N,), and which were of the choice."""

    embeddings: Floats
    statistics: Floats
    labels: Rows
    of_choice: npt.NDArray[np.bool_]

    def __getitem__(self, rows: Rows) -> "Pool":
        return Pool(self.embeddings[rows], self.statistics[rows], self.labels[rows], self.of_choice[rows])

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A head on frozen embeddings, its temperature, and the reference of its validation images."""

    head: Head
    temperature: float
    reference: Reference

    def answers(self, pool: Pool) -> Images:
        """Return the images of a pool as a worker measures them."""
        best = (self.head.logits(pool.embeddings) / self.temperature).softmax(dim=1).max(dim=1)
        embeddings = Projection(self.reference)(torch.from_numpy(pool.embeddings)).double().numpy()
        return Images(embeddings, pool.statistics, best.values.double().numpy(), best.indices.numpy())


def fitted(train: Pool, validation: Pool, classes: int) -> Model:
    """Return a model of these training and validation images."""
    layer = head.fit(
        train.embeddings, train.labels, classes, (validation.embeddings, validation.labels), strengths=STRENGTHS_OF_HEAD
    )
    logits = layer.logits(validation.embeddings)
    temperature = fit_temperature(logits, torch.from_numpy(validation.labels)).value
    drawn = reference.draw(len(validation))
    rows = validation[drawn]
    scaled = logits[torch.from_numpy(drawn)] / temperature
    return Model(
        layer, temperature, reference.build(train.embeddings, rows.embeddings, rows.statistics, scaled, rows.labels)
    )


class Dataset:
    """A prepared data set, its pool, and the network that embeds its images."""

    def __init__(self, name: str, classifier: Classifier) -> None:
        self.name, self.classifier = name, classifier
        self.data = PreparedDataset.open(store_folder(compose(common(name))))
        self.classes = len(self.data.classes)
        labels = np.asarray(self.data.labels)
        rows = few_of_each(np.flatnonzero(labels >= 0), labels)
        self.rows = rows
        parts = [self._embedded(pixels) for pixels in ordered_images(self.data, rows, BATCH)]
        embeddings, measured = (np.concatenate(part) for part in zip(*parts, strict=True))
        self.pool = Pool(embeddings, measured, labels[rows], np.isin(rows, self.data.split(FOLDS).test))

    def _embedded(self, pixels: torch.Tensor) -> tuple[Floats, Floats]:
        images = list(pixels)
        outputs = self.classifier.outputs(images)[:, len(self.classifier.spec.classes) :].clone().numpy()
        return outputs, np.array(statistics_of(images), np.float32)

    def corrupted(self, places: Rows) -> Iterator[tuple[str, int, Pool]]:
        """Yield each corruption and strength of images of the pool."""
        clean = torch.cat(list(ordered_images(self.data, self.rows[places], BATCH)))
        for number, (name, corruption) in enumerate(CORRUPTIONS.items()):
            for strength in range(1, STRENGTHS + 1):
                parts = []
                for first in range(0, len(clean), BATCH):
                    batch = clean[first : first + BATCH].float() / 255
                    changed = corruption(batch, strength, 1000 * number + first)
                    parts.append(self._embedded((changed * 255).round().byte()))
                embeddings, measured = (np.concatenate(part) for part in zip(*parts, strict=True))
                yield name, strength, dataclasses.replace(self.pool[places], embeddings=embeddings, statistics=measured)


def common(name: str) -> tuple[str, ...]:
    """Return the settings of a data set's prepared images."""
    return f"dataset={name}", NETWORK, f"transfer.image_size={SIDE}", f"store=drift-{name}"


def datasets(raw: Path) -> dict[str, Dataset]:
    """Prepare and embed all data sets, with the frozen network of a run on the first one: all have the same."""
    for name in DATASETS:
        step("training.data.prepare", f"raw={raw / name}", f"name=drift-{name}", *common(name)[:3])
    run = f"drift-{DATASETS[0]}"
    step("training.train", f"name={run}", "transfer.stages=1", *common(DATASETS[0]))
    classifier = Classifier(RunFolder.of(run).model)
    return {name: Dataset(name, classifier) for name in DATASETS}


def step(module: str, *arguments: str) -> None:
    """Run one command of the project."""
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=sys.stderr)


def few_of_each(rows: Rows, labels: Rows) -> Rows:
    """Return up to `IMAGES_OF_A_CLASS` rows of each class, fewer of many classes, drawn from seed 0."""
    order, classes = np.random.default_rng(0).permutation(rows), np.unique(labels[rows])
    count = min(IMAGES_OF_A_CLASS, POOL // len(classes))
    return np.sort(np.concatenate([order[labels[order] == label][:count] for label in classes]))


def sides(pool: Pool, tested: Rows, seed: int) -> tuple[Pool, Pool]:
    """Return training and validation images of a seed: two thirds and one third of those that are not tested."""
    free = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(pool)), tested))
    third = len(free) // 3
    return pool[free[third:]], pool[free[:third]]


def tested_places(pool: Pool, of_choice: bool, count: int) -> Rows:
    """Return the images that are tested: up to `count`."""
    allowed = np.flatnonzero(pool.of_choice == of_choice)
    return np.sort(np.random.default_rng(0).permutation(allowed)[:count])


def part(images: Images, places: Rows) -> Images:
    """Return some of the images."""
    return Images(*(getattr(images, field.name)[places] for field in dataclasses.fields(Images)))


def models_of(dataset: Dataset, tested: Rows) -> list[Model]:
    """Return a model for each seed."""
    return [fitted(*sides(dataset.pool, tested, seed), dataset.classes) for seed in range(SEEDS)]


def corruptions(
    dataset: Dataset, models: Sequence[Model], tested: Rows
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return a row for each seed, corruption and strength, and one for each window whose accuracy is estimated."""
    clean = dataset.pool[tested]
    top_1 = [float((model.answers(clean).answers == clean.labels).mean()) for model in models]
    rows, estimates = [], []
    for name, strength, pool in (("none", 0, clean), *dataset.corrupted(tested)):
        for seed, model in enumerate(models):
            images, random = model.answers(pool), np.random.default_rng(seed)
            right = images.answers == pool.labels
            drop = top_1[seed] - float(right.mean())
            # Of no more images there is one window only.
            windows = WINDOWS if len(pool) > WINDOW else 1
            places = [random.permutation(len(pool))[:WINDOW] for _ in range(windows)]
            verdicts = [judge(model.reference, part(images, window)) for window in places]
            about = {"dataset": dataset.name, "corruption": name, "strength": strength, "seed": seed, "drop": drop}
            rows.append({**about, **counts(verdicts)})
            long_window = random.permutation(len(pool))[:LONG_WINDOW]
            verdict = judge(model.reference, part(images, long_window))
            estimates.append({**about, **estimate(verdict, float(right[long_window].mean()))})
    return rows, estimates


def counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return the number of windows, of those that are flagged, and of those that are named each kind.

    `mmd` are those that the test of the embeddings would flag if all false alarms were for it.
    """
    kinds = [verdict.kind for verdict in verdicts]
    named = {kind.replace(" ", "_"): kinds.count(kind) for kind in ("input shift", "label shift")}
    by_mmd = sum(verdict.embedding.p <= LEVEL for verdict in verdicts)
    return {"windows": len(kinds), "flagged": sum(named.values()), "mmd": by_mmd, **named}


def total(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the sums of such counts, with the share that is flagged."""
    names = ("windows", "flagged", "mmd", "input_shift", "label_shift")
    sums = {name: sum(row[name] for row in rows) for name in names}
    return {**sums, "share": scores.plain(scores.proportion(sums["flagged"], sums["windows"]))}


def estimate(verdict: Verdict, top_1: float) -> dict[str, Any]:
    """Return the estimated accuracy beside the true one."""
    estimated = verdict.accuracy
    return {
        "true": top_1,
        "estimate": estimated.value,
        "inside": estimated.low <= top_1 <= estimated.high,
        "width": estimated.high - estimated.low,
        "reliable": verdict.reliable,
    }


def accuracy_summary(estimates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the errors of the estimates, by data set and by the drop of top-1."""
    summary = []
    for dataset in ("all", *dict.fromkeys(row["dataset"] for row in estimates)):
        of_set = [row for row in estimates if dataset in ("all", row["dataset"])]
        for low, high in ((-1.0, LARGEST_DROP), (LARGEST_DROP, 1.0)):
            rows = [row for row in of_set if low < row["drop"] <= high]
            errors = [row["estimate"] - row["true"] for row in rows]
            summary.append(
                {
                    "dataset": dataset,
                    "drop_above": max(low, 0.0),
                    "windows": len(rows),
                    "mean_absolute_error": statistics.fmean(map(abs, errors)),
                    "mean_error": statistics.fmean(errors),
                    **{name: statistics.fmean(row[name] for row in rows) for name in ("inside", "width", "reliable")},
                }
            )
    return summary


def other_set(name: str, models: Sequence[Model], other: Dataset) -> dict[str, Any]:
    """Return the counts of windows of another data set's images."""
    rows = []
    for seed, model in enumerate(models):
        order = np.random.default_rng(seed).permutation(len(other.pool))
        rows.append(counts(windows_of(model, other.pool, order)))
    return {"known": name, "other": other.name, **total(rows)}


def windows_of(model: Model, pool: Pool, order: Rows) -> list[Verdict]:
    """Return the verdicts on up to `WINDOWS` windows of different images."""
    images = model.answers(pool)
    starts = range(0, min(len(order) - WINDOW + 1, WINDOWS * WINDOW), WINDOW)
    return [judge(model.reference, part(images, order[start : start + WINDOW])) for start in starts]


def left_out(dataset: Dataset) -> dict[str, Any]:
    """Return the counts of windows of a fifth of the classes, which are not trained, in five turns for each seed.

    `known` are those of the classes that are trained, of images that are not. `images` are those of the left-out
    classes after which a window of the newest 100 is flagged, tested every ten images; before them came trained ones.
    """
    foreign, usual, first = [], [], []
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        classes = random.permutation(np.unique(dataset.pool.labels))
        for turn in range(5):
            new = np.isin(dataset.pool.labels, classes[turn::5])
            order = random.permutation(np.flatnonzero(~new))
            train, validation, test = np.split(order, [len(order) // 2, 4 * len(order) // 5])
            model = fitted(dataset.pool[train], dataset.pool[validation], dataset.classes)
            unknown = random.permutation(np.flatnonzero(new))
            foreign.append(counts(windows_of(model, dataset.pool, unknown)))
            usual.append(counts(windows_of(model, dataset.pool, test)))
            first.append(images_until_flagged(model, dataset.pool, np.concatenate([test[:WINDOW], unknown])))
    return {"known": total(usual), "left_out": total(foreign), "images": first}


def images_until_flagged(model: Model, pool: Pool, order: Rows) -> int | None:
    """Return the number of images after the first `WINDOW` at which the newest `WINDOW` are flagged."""
    images = model.answers(pool)
    for end in range(WINDOW + 10, len(order) + 1, 10):
        if judge(model.reference, part(images, order[end - WINDOW : end])).kind != "none":
            return end - WINDOW
    return None


def label_shift(dataset: Dataset) -> list[dict[str, Any]]:
    """Return the counts of windows in which one class is ten times as frequent, of 100 and of 200 images."""
    rows: dict[int, list[dict[str, int]]] = {WINDOW: [], 2 * WINDOW: []}
    sizes: dict[int, list[int]] = {size: [] for size in rows}
    for seed in range(SEEDS):
        random = np.random.default_rng(seed)
        train, validation, test = np.split(
            random.permutation(len(dataset.pool)), [3 * len(dataset.pool) // 10, 5 * len(dataset.pool) // 10]
        )
        model = fitted(dataset.pool[train], dataset.pool[validation], dataset.classes)
        pool = dataset.pool[test]
        images = model.answers(pool)
        for label in random.permutation(np.unique(pool.labels))[:20]:
            for size in rows:
                places = shifted(pool.labels, int(label), size, random)
                rows[size].append(counts([judge(model.reference, part(images, places))]))
                sizes[size].append(len(places))
    return [
        {"dataset": dataset.name, "size": size, "images": statistics.fmean(sizes[size]), **total(rows[size])}
        for size in rows
    ]


def shifted(labels: Rows, frequent: int, size: int, random: np.random.Generator) -> Rows:
    """Return places of different images, up to `size`: class `frequent` has ten times its share."""
    of_class, remaining = np.flatnonzero(labels == frequent), np.flatnonzero(labels != frequent)
    share = FREQUENT * len(of_class) / (FREQUENT * len(of_class) + len(remaining))
    size = min(size, int(len(of_class) / share))
    count = round(size * share)
    return np.concatenate([random.permutation(of_class)[:count], random.permutation(remaining)[: size - count]])


def false_alarms(windows: int) -> dict[str, Any]:
    """Return the counts of windows of fresh generated hands, and the time that a verdict takes."""
    raw, name = Path("data/raw/drift-fingers"), "drift-fingers"
    step("synthetic", "fingers", str(raw), "--images-per-class", str(HANDS), "--size", "64", "--seed", "0")
    settings = ("dataset=fingers", f"store={name}", "network=small_cnn")
    step("training.data.prepare", *settings, f"raw={raw}", f"name={name}")
    step("training.train", *settings, f"name={name}", "trainer.epochs=5", "split.validation=0.25")
    run = RunFolder.of(name)
    classifier, validation = Classifier(run.model), Reference.read(run.reference)
    classifier.observes = True
    random, verdicts, seconds, right = np.random.default_rng(0), [], [], 0
    for window in range(windows):
        labels = random.integers(0, len(fingers.CLASSES), WINDOW).tolist()
        encoded = [fingers.image(1, label, 1, window * WINDOW + index, 64) for index, label in enumerate(labels)]
        answers = [answer for answer in classifier.classify(encoded) if isinstance(answer, Labels)]
        images = served(classifier, answers)
        right += sum(
            fingers.CLASSES[label] == next(iter(answer)) for label, answer in zip(labels, answers, strict=True)
        )
        start = time.process_time()
        verdicts.append(judge(validation, images))
        seconds.append(time.process_time() - start)
    return {
        **counts(verdicts),
        "top_1": right / (windows * WINDOW),
        "level": LEVEL,
        **{name: sum(getattr(verdict, name).exceeded for verdict in verdicts) for name in ("embedding", "classes")},
        "columns": {name: sum(name in verdict.exceeded for verdict in verdicts) for name in verdicts[0].columns},
        "seconds": statistics.median(seconds),
        "reference_bytes": run.reference.stat().st_size,
        "reference_images": len(validation),
    }


def served(classifier: Classifier, answers: Sequence[Labels]) -> Images:
    """Return the images of answers, as the ring of a worker has them."""
    places = {label: place for place, label in enumerate(classifier.spec.classes)}
    best = [next(iter(answer.items())) for answer in answers]
    return Images(
        np.array([answer.embedding for answer in answers]),
        np.array([answer.statistics for answer in answers], np.float64),
        np.array([confidence for _, confidence in best]),
        np.array([places[label] for label, _ in best]),
    )


def of_images(sets: Mapping[str, Dataset], of_choice: bool, count: int) -> dict[str, Any]:
    """Return the figures of up to `count` images of each data set, corrupted or not."""
    tested = {name: tested_places(sets[name].pool, of_choice, count) for name in DATASETS}
    rows: list[dict[str, Any]] = []
    estimates: list[dict[str, Any]] = []
    models = {name: models_of(sets[name], tested[name]) for name in DATASETS}
    for name in DATASETS:
        of_set, of_accuracy = corruptions(sets[name], models[name], tested[name])
        rows, estimates = rows + of_set, estimates + of_accuracy
    costly = [row for row in rows if row["drop"] >= LEAST_DROP]
    return {
        "images": {name: len(places) for name, places in tested.items()},
        "corrupted": {name: total([row for row in costly if row["dataset"] == name]) for name in DATASETS},
        "missed": [row for row in costly if row["flagged"] < row["windows"]],
        "mild": total([row for row in rows if row["drop"] < LEAST_DROP and row["strength"]]),
        "clean": total([row for row in rows if not row["strength"]]),
        "other_sets": [other_set(a, models[a], sets[b]) for a in DATASETS for b in DATASETS if a != b],
        "accuracy": accuracy_summary(estimates),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the sections, and write the result after each of them."""
    parser = console.parser("drift", __doc__)
    parser.add_argument("raw_root", type=Path, help="folder with petals/, moths/ and places365/")
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--windows", type=int, default=1000, help="windows of generated images")
    parser.add_argument("--images", type=int, default=400, help="images of each data set that are corrupted")
    parser.add_argument("--choose", action="store_true", help="test the images of the choice, and write no result")
    options = parser.parse_args(arguments)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no section is called {', '.join(sorted(unknown))}: choose of {', '.join(SECTIONS)}")
    result = Sections(
        "drift", RESULT, arguments=["RAW_ROOT", *options.sections, f"--images={options.images}"], code=CODE
    )
    torch.set_num_threads(1)
    names = options.sections or SECTIONS
    sets = datasets(options.raw_root.resolve()) if set(names) - {"false_alarms"} else {}
    measures: dict[str, Callable[[], Any]] = {
        "images": lambda: of_images(sets, options.choose, options.images),
        "left_out": lambda: left_out(sets["moths"]),
        "label_shift": lambda: [row for dataset in sets.values() for row in label_shift(dataset)],
        "false_alarms": lambda: false_alarms(options.windows),
    }
    for name in names:
        figures = measures[name]()
        print(f"{name}: {figures}", file=sys.stderr, flush=True)
        if not options.choose:
            result.write(name, figures)
    return result.publish(failed=False)


if __name__ == "__main__":
    sys.exit(main())
