"""Does a heat map point at the object, and how much time does it take? On generated images.

    python -m benchmarks.explanations [--images 12] [--pairs 24]

Pointing game (Zhang et al. 2016, arXiv:1608.00507): a hit is a map whose largest value is on the object or within 15
pixels of it, of 224. `on_object` counts only the object's own pixels. The objects are small and anywhere, so the centre
of an image hits few of them (`synthetic.placed`). Images that the network gets wrong are left out.

Networks: a linear head on EfficientNet-Lite0, our own convolutional network, and one with a hidden layer behind its
mean, each trained by the commands of the project in the current folder, unless its run exists. Methods: a worker's own,
enlarged by `overlay.enlarged`; the same enlarged bilinearly, as is usual for Grad-CAM; occlusion; and integrated
gradients (captum, 16 steps from the mean colour), summed over the channels, positive, as they are and smoothed.

The cost is the processor time of a batch to a worker's service, without TorchServe, in float32 on one core. Batches of
one prediction, one explanation, eight predictions, and eight predictions beside one explanation take turns.

Writes benchmarks/results/explanations.json; the last line is the same JSON document.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from captum.attr import IntegratedGradients
from torch import nn
from torch.nn import functional

from benchmarks.harness import console
from benchmarks.interleave import Work, one_core, take_turns
from benchmarks.result import Origin
from handlers.classifier import Classifier
from handlers.explanation import occlusion, overlay
from handlers.explanation.explainer import OCCLUSION, Explainer
from handlers.network import torchscript
from handlers.requests.request import Field, RawRequest
from handlers.run_folder import RunFolder
from handlers.service import Service
from synthetic import placed
from synthetic.encoding import png

RESULT = Path("benchmarks/results/explanations.json")
CODE = ("handlers/explanation", "handlers/network/torchscript.py", "synthetic")
TOLERANCE, SIDE = 15, 224  # pixels, of this side
GOAL = 0.9  # hits of the worker's own method
SOLID = 0.2  # opacity of the object
STEPS, SMOOTHING = 16, 8  # of integrated gradients; smoothed over a square of this part of the side
BATCH, TURN = 8, 0.25  # predictions beside an explanation; seconds
CENTRE = "centre of the image"


class Recipe(NamedTuple):
    """A network, and the generated images that it learns: `classes` of the data set's `labels`."""

    title: str

    dataset: str
    labels: int
    classes: int
    images_per_class: int
    size: int
    overrides: tuple[str, ...]


SMALL = ("network=small_cnn", "dataset.image_size=96", "trainer.epochs=16", "trainer.batch_size=32")
LITE0 = "EfficientNet-Lite0, linear head"
HEAD = ("transfer.stages=1", "split.images_per_class=100")
RUNS = {
    "explained-lite0-moths": Recipe(LITE0, "moths", 50, 8, 200, 224, HEAD),
    "explained-lite0-petals": Recipe(LITE0, "petals", 104, 8, 200, 224, HEAD),
    "explained-cnn-fingers": Recipe("small_cnn", "fingers", 12, 6, 250, 128, (*SMALL, "dataset.colour=grey")),
    "explained-hidden-petals": Recipe(
        "small_cnn with a hidden layer", "petals", 104, 8, 200, 224, (*SMALL, "network.hidden=[64]")
    ),
}


class Sample(NamedTuple):
    """A decoded image, its class, the object's pixels, and these with the tolerance."""

    image: torch.Tensor
    place: int
    on_object: torch.Tensor
    near: torch.Tensor


def train(name: str, recipe: Recipe) -> Path:
    """Return the artifact of a run; draw its images and train it unless it exists."""
    model = RunFolder.of(name).model
    if model.is_file():
        return model
    raw = Path("data/raw") / f"explained-{recipe.dataset}"
    for number in range(recipe.classes):
        folder = raw / "train" / f"c{number:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        label = number * recipe.labels // recipe.classes
        for index in range(recipe.images_per_class):
            picture, _ = placed.image(recipe.dataset, 0, label, 0, index, recipe.size)
            (folder / f"{index:04d}.png").write_bytes(png(picture))
    common = ("dataset=class_folders", f"name={name}", "split.test=folds", *recipe.overrides)
    for module, *overrides in (("training.data.prepare", f"raw={raw}"), ("training.train",)):
        subprocess.run([sys.executable, "-m", module, *common, *overrides], check=True, stdout=sys.stderr)
    return model


def samples(classifier: Classifier, recipe: Recipe, images: int) -> Iterator[Sample]:
    """Yield the test images that a classifier gets right."""
    size = classifier.spec.preprocess.image_size
    reach = round(TOLERANCE * size / SIDE)
    for number in range(recipe.classes):
        label = number * recipe.labels // recipe.classes
        for index in range(images):
            picture, cover = placed.image(recipe.dataset, 0, label, 1, index, recipe.size)
            (image,) = classifier.decode([png(picture)])
            assert isinstance(image, torch.Tensor)
            if int(classifier.predict([image]).argmax()) == number:
                solid = functional.interpolate(torch.from_numpy(cover)[None, None], (size, size)) > SOLID
                near = functional.max_pool2d(solid.float(), 2 * reach + 1, 1, reach)
                yield Sample(image, number, solid[0, 0], near[0, 0] > 0)


def maps(sample: Sample, classifier: Classifier, explainer: Explainer, module: nn.Module) -> dict[str, torch.Tensor]:
    """Return the map (S, S) of each method by its name, the worker's own first."""
    size, place = sample.image.shape[-1], sample.place
    explanation = explainer.explain_image(sample.image, classifier.spec.classes[place])
    usual = functional.interpolate(explanation.heat[None, None], (size, size), mode="bilinear")[0, 0]
    heat = {explanation.method: overlay.enlarged(explanation.heat, size), f"{explanation.method}, bilinear": usual}
    if explanation.method != OCCLUSION:
        fill = (255 * classifier.preprocess.mean).round().to(torch.uint8)
        falls = occlusion.falls(sample.image, lambda images: classifier.outputs(images)[:, place], fill)
        heat[OCCLUSION] = overlay.enlarged(falls.clamp(min=0), size)
    inputs = classifier.preprocess.normalize(sample.image[None])
    with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        (attributions,) = IntegratedGradients(module).attribute(
            inputs, torch.zeros_like(inputs), place, n_steps=STEPS, internal_batch_size=STEPS
        )
    positive, kernel = attributions.sum(dim=0).clamp(min=0).float(), size // SMOOTHING // 2 * 2 + 1
    smooth = functional.avg_pool2d(positive[None, None], kernel, 1, kernel // 2)[0, 0]
    return {**heat, "integrated gradients": positive, "integrated gradients, smoothed": smooth}


def pointing(name: str, path: Path, recipe: Recipe, images: int) -> dict[str, Any]:
    """Return the hits of each method on the same images."""
    classifier = Classifier(path, threads=1)
    explainer, module = Explainer(classifier, path), torchscript.load(path).module
    right = list(samples(classifier, recipe, images))
    peaks: dict[str, list[tuple[int, int]]] = {}
    for sample in right:
        size = sample.image.shape[-1]
        for method, heat in maps(sample, classifier, explainer, module).items():
            peaks.setdefault(method, []).append(divmod(int(heat.argmax()), size))
        peaks.setdefault(CENTRE, []).append((size // 2, size // 2))
    hits = {method: rates(right, places) for method, places in peaks.items()}
    area = statistics.fmean(float(sample.near.float().mean()) for sample in right)
    about = {"run": name, "network": recipe.title, "dataset": recipe.dataset, "method": next(iter(hits))}
    return {**about, "images": recipe.classes * images, "right": len(right), "hits": hits, "random": area}


def rates(samples: Sequence[Sample], peaks: Sequence[tuple[int, int]]) -> dict[str, float]:
    """Return the parts of images whose peak is near the object, and on it."""
    pairs = list(zip(samples, peaks, strict=True))
    return {
        "near": statistics.fmean(bool(sample.near[peak]) for sample, peak in pairs),
        "on_object": statistics.fmean(bool(sample.on_object[peak]) for sample, peak in pairs),
    }


def costs(path: Path, recipe: Recipe, pairs: int) -> dict[str, Any]:
    """Return processor milliseconds of batches with and without an explanation."""
    body = png(placed.image(recipe.dataset, 0, 0, 1, 0, recipe.size)[0])
    service = Service(path, {"handler": {"precision": "fp32"}, "minWorkers": 1, "batchSize": BATCH + 1}, version="1.0")
    prediction, explanation = (
        RawRequest({"explain": str(explain)}, [Field("body", body)]) for explain in (False, True)
    )
    batches = {
        "prediction": [prediction],
        "explanation": [explanation],
        "predictions": [prediction] * BATCH,
        "predictions beside an explanation": [prediction] * BATCH + [explanation],
    }
    works: dict[str, Work] = {batch: partial(service.answer, requests) for batch, requests in batches.items()}
    with one_core():
        times = take_turns(works, pairs, TURN, time.process_time)
    milliseconds = {batch: 1000 * statistics.median(values) for batch, values in times.items()}
    added = milliseconds["predictions beside an explanation"] - milliseconds["predictions"]
    return {
        "network": recipe.title,
        "dataset": recipe.dataset,
        "pairs": pairs,
        "cpu_milliseconds": milliseconds,
        "added": added,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the rows, and write the result."""
    parser = console.parser("explanations", __doc__)
    parser.add_argument("--images", type=int, default=12, help="test images of each class")
    parser.add_argument("--pairs", type=int, default=24, help="turns of each batch")
    options = parser.parse_args(arguments)
    origin = Origin("explanations", sys.argv[1:] if arguments is None else arguments, code=CODE)
    models = {name: train(name, recipe) for name, recipe in RUNS.items()}
    torch.set_num_threads(1)  # as in a worker
    rows = [pointing(name, path, RUNS[name], options.images) for name, path in models.items()]
    cells = [
        (
            f"{row['network']}, {row['dataset']}: {method}",
            row["right"],
            f"{hits['near']:.1%}",
            f"{hits['on_object']:.1%}",
        )
        for row in rows
        for method, hits in row["hits"].items()
    ]
    console.print_table("pointing game", ("network: method", "hits", "on the object"), cells)
    cost_rows = [costs(path, RUNS[name], options.pairs) for name, path in models.items()]
    below_goal = [row["run"] for row in rows if row["hits"][row["method"]]["near"] < GOAL]
    return origin.publish({"rows": rows, "costs": cost_rows, "below_goal": below_goal}, RESULT, failed=bool(below_goal))


if __name__ == "__main__":
    sys.exit(main())
