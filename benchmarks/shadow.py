"""Try versions that are equal or 5 points worse in shadows and canaries: which ones go live, and what clients notice.

    python -m benchmarks.shadow                          15 minutes on two cores
    python -m benchmarks.shadow --served 1               shorter
    python -m benchmarks.shadow --served 0               only the drawn streams: a minute

`streams`: 20 trials with an equal and 20 with a worse version, of up to 2,000 requests each, decided as `make deploy`
decides; labels come up to 600 requests late. The answers are those of three networks to 2,400 scenes in random order
(the live one, an equally good one fitted to other images, one that noise makes 5 points worse), or drawn: the errors of
both versions are shared for the most part, or independent. The same trials without any label.

`served`: the three networks on a real server, up to 40 requests/s, 4 of 5 of them in the trial, labels 5 to 15 s late.
Answers of the live version are compared with its artifact's. The last line is one JSON document.
"""

import dataclasses
import itertools
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.harness import console, resnet, servers, small_server
from benchmarks.harness.small_server import MODEL, ROOT, SIDE, TOLERANCE
from benchmarks.result import Sections
from handlers import golden
from handlers.classifier import Classifier
from handlers.images.decoding import decode
from handlers.network import torchscript
from handlers.preprocessing import Preprocess
from handlers.requests.labels import Labels
from handlers.run_folder import RUNS, RunFolder
from monitoring import feedback
from serving import archive, deploy
from serving.client import Client, ClientError, Prediction
from serving.lifecycle import launch
from serving.lifecycle.deployment import DeployError, DeployLimits
from serving.rollout.canary import Canary
from serving.rollout.comparison import Answer, Comparison, Pair
from serving.rollout.decision import criteria
from serving.rollout.live_trial import Length, LiveTrial, Shadow
from synthetic import places365

RESULT, WORK = Path("benchmarks/results/shadow.json"), Path("runs/bench-shadow")
CODE = ("handlers", "monitoring", "serving")
LIVE, EQUAL, WORSE = VERSIONS = ("1.0", "2.0", "3.0")
WORSE_BY, TRAINING, TESTING = 0.05, 100, 200  # points of accuracy; scenes of each class
TRIALS, REQUESTS, LATE, LOOK = 20, 2000, 600, 20  # of the streams, in requests
RATE, SHARE, LATE_S = 40.0, 0.8, (5.0, 15.0)  # of the server
UNLABELLED = 500  # requests of a trial without labels
# Shares of images that only the live version, or only the new one answers right: of the equal and the worse version.
DRAWN = {
    "90 % against 85 %, errors mostly shared": ((0.04, 0.04), (0.08, 0.03)),
    "90 % against 85 %, independent errors": ((0.09, 0.09), (0.135, 0.085)),
    "80 % against 75 %, independent errors": ((0.16, 0.16), (0.20, 0.15)),
}
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, slots=True)
class Scenes:
    """Drawn scenes, their labels, and the first classes of each version's answers with their probabilities."""

    images: Sequence[bytes]
    labels: Sequence[str]
    answers: Mapping[str, Sequence[Mapping[str, float]]]

    def right(self, version: str) -> Bools:
        """Return which answers are right."""
        pairs = zip(self.answers[version], self.labels, strict=True)
        return np.array([next(iter(answer)) == label for answer, label in pairs])


def encoded(names: Sequence[str], side: int, each_class: int) -> tuple[list[bytes], torch.Tensor]:
    """Return drawn scenes, classes mixed, and their labels."""
    numbers = [[name.split("/", 2)[-1] for name in places365.names()].index(name) for name in names]
    places = [(index, label) for index in range(each_class) for label in range(len(names))]
    images = [places365.image(0, numbers[label], side, index, SIDE) for index, label in places]
    return images, torch.tensor([label for _, label in places])


def heads(root: Path) -> Scenes:
    """Write the archives of the three versions into `root`; return the test scenes with their answers."""
    servers.empty(root)
    (root / launch.CONFIG).write_text((ROOT / launch.CONFIG).read_text())
    spec = resnet.spec(side=SIDE)
    network = small_server.network(len(spec.classes), 0)
    preprocess = Preprocess(spec.preprocess)
    (inputs, truth), (images, test_truth) = (encoded(spec.classes, *size) for size in ((0, TRAINING), (1, TESTING)))
    with torch.inference_mode():
        features, test_features = (
            torch.cat([network.embedding(preprocess([decode(body)])) for body in bodies]) for bodies in (inputs, images)
        )
    generator = torch.Generator().manual_seed(0)

    def accuracy(head: torch.Tensor) -> float:
        return float((_logits(test_features, head).argmax(dim=1) == test_truth).float().mean())

    draws = (torch.randint(len(truth), (len(truth),), generator=generator) for _ in range(20))
    fits = [fitted(features[places], truth[places]) for places in draws]
    live, equal = min(itertools.combinations(fits, 2), key=lambda two: abs(accuracy(two[0]) - accuracy(two[1])))
    noise, low, high = torch.randn(live.shape, generator=generator) * live.std(), 0.0, 4.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if accuracy(live + middle * noise) > accuracy(live) - WORSE_BY else (low, middle)
    answers = {}
    for version, head in zip(VERSIONS, (live, equal, live + low * noise), strict=True):
        run = RunFolder(root / RUNS / f"{MODEL}-{version}")
        run.path.mkdir(parents=True)
        with torch.no_grad():
            network.head.weight.copy_(head[:-1].T)
            network.head.bias.copy_(head[-1])
        torchscript.save(network, spec, run.model)
        classifier = Classifier(run.model, top_k=len(spec.classes))
        golden.write(golden.of(classifier, {f"{n}.jpg": image for n, image in enumerate(images[:4])}), run.golden)
        settings = ["handler.precision=fp32", "minWorkers=1"]
        archive.build(MODEL, version, run=run.path, store=root / "model_store", overrides=settings, rehearse=False)
        answers[version] = [answer for answer in classifier.classify(images) if isinstance(answer, Labels)]
    return Scenes(images, [spec.classes[int(number)] for number in test_truth], answers)


def fitted(features: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Return weights and bias (D + 1, K) of a linear head, by ridge regression on standardized features."""
    mean, scale = features.mean(dim=0), features.std(dim=0) + 1e-6
    rows = torch.cat([(features - mean) / scale, torch.ones(len(features), 1)], dim=1)
    target = torch.nn.functional.one_hot(truth).float()
    weights = torch.linalg.solve(rows.T @ rows + 100 * torch.eye(rows.shape[1]), rows.T @ target)
    scaled = weights[:-1] / scale[:, None]
    return 10 * torch.cat([scaled, (weights[-1] - mean @ scaled)[None]])


def _logits(features: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    return features @ head[:-1] + head[-1]


def stream(live: Bools, new: Bools, seed: int, *, labelled: bool) -> dict[str, Any]:
    """Return whether a trial refuses a version, after how many requests, and the share of other answers.

    A request is `LOOK` requests after the last look; its label is up to `LATE` requests late.
    """
    arrival = np.arange(len(live)) + np.random.default_rng(seed).integers(1, LATE, len(live))
    pairs = [
        Pair(str(n), 0, str(n), Answer("right" if was else "wrong", 0.9), Answer("right" if now else "wrong", 0.9))
        for n, (was, now) in enumerate(zip(live, new, strict=True))
    ]
    compared = Comparison()
    for count in range(LOOK, len(pairs) + LATE + 1, LOOK):
        compared.pairs = pairs[:count]
        compared.labels = {str(n): "right" for n in np.flatnonzero(arrival <= count)} if labelled else {}
        if any(criterion.refuses for criterion in criteria(compared, 0, 0, None)):
            return {"refused": True, "requests": min(count, len(pairs)), "differs": None}
    return {"refused": False, "requests": len(pairs), "differs": 1 - compared.agreeing / len(pairs)}


def draw(losses: float, gains: float, seed: int) -> tuple[Bools, Bools]:
    """Return which images both versions answer right."""
    outcome = np.random.default_rng(1000 + seed).random(REQUESTS)
    return outcome >= gains, ~((outcome >= gains) & (outcome < gains + losses))


def streams(scenes: Scenes) -> list[dict[str, Any]]:
    """Return a row for each kind of streams, with and without labels."""

    def of_networks(version: str, seed: int) -> tuple[Bools, Bools]:
        places = np.random.default_rng(seed).permutation(len(scenes.labels))[:REQUESTS]
        return scenes.right(LIVE)[places], scenes.right(version)[places]

    kinds: dict[str, tuple[Callable[[int], tuple[Bools, Bools]], ...]] = {
        "networks": tuple(partial(of_networks, version) for version in (EQUAL, WORSE)),
        **{name: tuple(partial(draw, *shares) for shares in both) for name, both in DRAWN.items()},
    }
    rows = []
    for (name, makers), labelled in itertools.product(kinds.items(), (True, False)):
        equal_trials, worse_trials = (
            [stream(*make(seed), seed, labelled=labelled) for seed in range(TRIALS)] for make in makers
        )
        refused = [trial["requests"] for trial in worse_trials if trial["refused"]]
        rows.append(
            {
                "streams": name,
                "labels": labelled,
                "trials": TRIALS,
                "equal_live": sum(not trial["refused"] for trial in equal_trials),
                "worse_refused": len(refused),
                "requests_until_refused": float(np.median(refused)) if refused else None,
            }
        )
    return rows


class Clients:
    """Callers of the default version at an even rate, whose answers get labels later."""

    def __init__(self, root: Path, scenes: Scenes, *, labelled: bool) -> None:
        self._root, self._scenes, self._labelled = root, scenes, labelled
        self._ending = threading.Event()
        self.answers: list[tuple[float, float, int, Prediction]] = []  # time, latency, scene
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._send, args=(first,)) for first in range(4)]
        self._threads += [threading.Thread(target=self._label)] if labelled else []

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _send(self, first: int) -> None:
        start, callers = time.monotonic(), 4
        with Client(root=self._root, deadline=20.0) as client:
            for number in itertools.count(first, callers):
                if self._ending.wait(max(0.0, start + number / RATE - time.monotonic())):
                    return
                scene, start_time = number % len(self._scenes.images), time.monotonic()
                try:
                    prediction = client.predict(self._scenes.images[scene], MODEL)
                except ClientError as error:
                    self.errors.append(str(error))
                else:
                    self.answers.append((start_time, time.monotonic() - start_time, scene, prediction))

    def _label(self) -> None:
        folder, chance, labelled = launch.predictions(self._root) / MODEL, random.Random(0), set[int]()
        due: dict[int, float] = {}
        while not self._ending.wait(2.0):
            for place, (start_time, *_) in enumerate(self.answers):
                due.setdefault(place, start_time + chance.uniform(*LATE_S))
            ready = [place for place, moment in due.items() if moment <= time.monotonic() and place not in labelled]
            labelled.update(ready)
            rows = [(self.answers[place][3].prediction_id, self.answers[place][2]) for place in ready]
            lines = [{"request_id": name, "label": self._scenes.labels[scene]} for name, scene in rows if name]
            if lines:
                feedback.keep(folder, feedback.join(lines, folder).labels)


def changed(answers: Sequence[tuple[float, float, int, Prediction]], scenes: Scenes) -> int:
    """Return how many answers are not those of the artifact of their version."""
    count = 0
    for _, _, scene, prediction in answers:
        expected = scenes.answers[prediction.version or LIVE][scene]
        got = prediction.probabilities
        count += any(abs(got[label] - expected.get(label, 0.0)) > TOLERANCE for label in got)
    return count


def trial_of(kind: type[LiveTrial], *, labelled: bool) -> LiveTrial:
    """Return a trial that waits for all labels."""
    length = Length(REQUESTS, labels=LATE_S[1] + 15.0) if labelled else Length(UNLABELLED)
    return kind(SHARE, length=length)


def served(root: Path, scenes: Scenes, kind: type[LiveTrial], version: str, *, labelled: bool = True) -> dict[str, Any]:
    """Return what became of one trial on the server of `root`, and of the requests during it."""
    shutil.rmtree(launch.predictions(root) / MODEL, ignore_errors=True)  # with the labels of the trial before
    times: dict[str, float] = {}
    lines_of_log: list[str] = []

    def log(line: str) -> None:
        lines_of_log.append(line)
        if line.endswith(" ..."):
            times[line.removesuffix(" ...")] = time.monotonic()

    with Clients(root, scenes, labelled=labelled) as clients:
        time.sleep(10.0)
        try:
            trials = [trial_of(kind, labelled=labelled)]
            limits = DeployLimits(watch=1.0)
            deploy.deploy(MODEL, version, root=root, keep=False, verify=False, limits=limits, trials=trials, log=log)
            outcome = "live"
        except DeployError as error:
            outcome = str(error)
        end = time.monotonic()
    start, stop = times[kind.name], times.get("switch", end)
    during = [answer for answer in clients.answers if start <= answer[0] < stop - 1.0]
    before = [answer for answer in clients.answers if answer[0] < times["register"]]
    allowed = {LIVE} if kind is Shadow else {LIVE, version}
    return {
        "trial": kind.name,
        "version": {EQUAL: "equal", WORSE: "worse"}[version],
        "labels": labelled,
        "outcome": "live" if outcome == "live" else "refused",
        "reason": outcome,
        "report": next((line for line in reversed(lines_of_log) if "agreement" in line), ""),
        "seconds": round(stop - start, 1),
        "requests": len(clients.answers) + len(clients.errors),
        "failed": len(clients.errors),
        "changed": changed(clients.answers, scenes),
        "of_another_version": sum(prediction.version not in allowed for *_, prediction in during),
        "answered_by_new": sum(prediction.version == version for *_, prediction in during),
        "during": len(during),
        **{f"{name}_ms": quantiles(answers) for name, answers in (("before", before), ("during", during))},
    }


def quantiles(answers: Sequence[tuple[float, float, int, Prediction]]) -> dict[str, float]:
    """Return quantiles of latencies in milliseconds."""
    values = np.array([1e3 * latency for _, latency, *_ in answers])
    return {f"p{q}": round(float(np.percentile(values, q)), 1) for q in (50, 99)} if len(values) else {}


def runs(root: Path, scenes: Scenes, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield a row for each trial on a server; each begins with the live version."""
    plan: list[tuple[type[LiveTrial], str, bool]] = [(Shadow, EQUAL, True), (Shadow, WORSE, True)] * rounds
    plan += [(Shadow, WORSE, False), (Canary, EQUAL, True), (Canary, WORSE, True)]
    with small_server.serving(root, [f"{MODEL}={LIVE}"]), Client(root=root) as client:
        for kind, version, labelled in plan:
            if client.describe(MODEL).version != LIVE:
                deploy.deploy(MODEL, LIVE, root=root, keep=False, verify=False, log=lambda _: None)
            yield served(root, scenes, kind, version, labelled=labelled)


def goals_met(sections: Mapping[str, Any]) -> bool:
    """Return whether worse versions were refused and equal ones live, and no request failed or changed."""
    rows, trials = sections.get("streams", {}).get("rows", []), sections.get("served", {}).get("rows", [])
    networks = [row for row in rows if row["streams"] == "networks"]
    are_separated = all(min(row["equal_live"], row["worse_refused"]) >= 19 for row in networks if row["labels"])
    silent = all(row["worse_refused"] == 0 for row in rows if not row["labels"])
    right = all((row["outcome"] == "refused") == (row["version"] == "worse") for row in trials if row["labels"])
    untouched = not any(row["failed"] + row["changed"] + row["of_another_version"] for row in trials)
    return are_separated and silent and right and untouched


def main() -> int:
    """Measure, print and write the result; 1 if a goal is missed."""
    parser = console.parser("shadow", __doc__)
    parser.add_argument("--served", type=int, default=3, help="trials of each version in shadows; 0: no server")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    root = Path.cwd() / WORK
    sections = Sections("shadow", options.output, code=CODE)
    scenes = heads(root)
    accuracy = {version: float(scenes.right(version).mean()) for version in VERSIONS}
    rows = streams(scenes)
    sections.write("streams", {"scenes": len(scenes.images), "accuracy": accuracy, "requests": REQUESTS, "rows": rows})
    console.print_table("streams", list(rows[0]), [tuple(row.values()) for row in rows])
    if options.served:
        trials = []
        for row in runs(root, scenes, options.served):
            trials.append(row)
            console.progress().print(row)
            sections.write("served", {"rate": RATE, "share": SHARE, "requests": REQUESTS, "rows": trials})
    return sections.publish(failed=not goals_met(sections.figures))


if __name__ == "__main__":
    sys.exit(main())
