"""Trained networks answer over REST as they were evaluated, in every precision, and large JPEG as decoded in full.

Two small runs are trained by the project's own pipeline: one on generated scenes, coloured JPEG of three classes, and
one (slow) on the hands of the real Fingers set, grey PNG of twelve classes; where a machine has no real images, on
generated grey scenes, cropped.
"""

import functools
import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kornia.enhance
import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image, ImageChops, ImageFilter

from handlers.classifier import Classifier
from handlers.images.decoding import decode
from handlers.network import torchscript
from handlers.settings import PRECISIONS
from pipeline import agreement
from serving import archive
from synthetic import places365
from synthetic.photograph import photograph
from tests.server.conftest import RunningServer
from training import configuration, evaluate, export
from training.data import prepare
from training.predictions import Predictions
from training.temperature import Temperature
from training.train import train

# Of a probability (fp32), of images whose most probable class stays (bf16), of the share that is right (int8).
LARGEST_DIFFERENCE, LEAST_SAME, MOST_LOST = 1e-5, 0.998, 0.005
SERVED = tuple(precision for precision in PRECISIONS if precision not in ("auto", "fp16"))  # that is a GPU's
SMALL = (
    *("network=small_cnn", "network.layers=[{channels: 16, pool: max}, {channels: 32, pool: max}, {channels: 64}]"),
    *("dataset.image_size=32", "augmentation=[]", "processes=1", "trainer.optimizer=adamw", "trainer.lr=0.005"),
    *("trainer.weight_decay=0.05", "trainer.schedule=onecycle", "trainer.batch_size=32", "trainer.ema=0"),
    *("trainer.label_smoothing=0", "trainer.mix={mixup: 0.0, cutmix: 0.0, p: 0.0}", "trainer.train_size=null"),
)
TEMPERATURE = Temperature(1.7, 0, None, None, "temperature 1.7")  # as of a network that is too sure
# With fewer epochs several scenes are near ties, which one level of a pixel decides.
SCENES = ("dataset=places365", "split.test=folds", "split.folds=2", "trainer.epochs=40")
PHOTOS = 500


def make_run(home: Path, name: str, raw: Path, *overrides: str) -> Path:
    """Prepare, train and evaluate in `home`; return the folder of the run."""
    settings = (*SMALL, *overrides, f"name={name}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert prepare.main([*settings, f"raw={raw}"]) == 0
        run = train(configuration.compose(list(settings)))
        assert evaluate.run(run)["top_1"]["value"] > 0.98  # of a network that knows nothing, agreement says nothing
    return home / run


@pytest.fixture(scope="module", params=["generated", pytest.param("real", marks=pytest.mark.slow)])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, real_data: Path | None) -> Path:
    """Return one of the two trained runs, which is its folder's name."""
    home, name = tmp_path_factory.mktemp("trained"), str(request.param)
    if name == "real" and real_data is not None:
        return make_run(home, name, real_data / "fingers", "dataset=fingers", "trainer.epochs=5")
    raw = home / "scenes"
    places365.generate(raw, seed=int(name == "real"), classes=3, images_per_class=300, size=64, workers=1)
    if name == "real":
        return make_run(home, name, raw, *SCENES, "dataset.colour=grey", "dataset.resize=crop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "fit_temperature", lambda logits, labels: TEMPERATURE)
        generated = make_run(home, name, raw, *SCENES, "dataset.interpolation=bicubic")
    spec = torchscript.load(generated / "model.pt").spec
    assert (spec.temperature, spec.preprocess.interpolation) == (1.7, "bicubic")
    return generated


@pytest.fixture(scope="module")
def trained(server: RunningServer, root: Path, run: Path) -> Iterator[RunningServer]:
    """Serve the run in each precision, as `generated-fp32` and so on."""
    archives = [
        archive.build(
            f"{run.name}-{precision}", "1.0", run=run, store=root / "model_store",
            overrides=[f"handler.precision={precision}", "handler.top_k=12", "minWorkers=1"], rehearse=False,
        )
        for precision in SERVED
    ]  # fmt: skip
    with server.also_serving(archives):
        yield server


def evaluation(run: Path) -> Predictions:
    return Predictions.load(run / "evaluation" / "predictions.npz")


@pytest.mark.parametrize("precision", SERVED)
def test_served_answers_are_the_evaluated_ones(trained: RunningServer, run: Path, precision: str) -> None:
    model = f"{run.name}-{precision}"
    assert trained.client.description(model)["precision"] == precision
    evaluated = evaluation(run)
    found = agreement.compare(run, model, None, client=trained.client)
    assert found["images"] == found["labelled"] >= 500 and found["refused"] == 0
    assert found["precision"] == precision and agreement.allowed(found)
    right = (evaluated.probabilities.argmax(axis=1) == evaluated.labels).mean()
    if precision == "fp32":
        assert found["largest_difference"] <= LARGEST_DIFFERENCE and found["agree"] == found["images"]
    elif precision == "bf16":
        assert found["same_top1"] >= LEAST_SAME * found["images"] and found["largest_difference"] > 0
    else:
        assert abs(found["top1"] - right) <= MOST_LOST and found["largest_difference"] > 1e-4


@functools.cache
def detail(width: int, height: int, mode: str) -> Image.Image:
    """Return the edges and grain of a photograph, around 128: an enlarged image has none for a decoder to lose."""
    whole = Image.fromarray(photograph(width, height, np.random.default_rng(0), 2.0))
    # Twice the difference: the contrast of a very sharp photograph.
    found = ImageChops.subtract(whole, whole.filter(ImageFilter.GaussianBlur(width / 200)), 0.5, 128)
    return found.convert(mode)


def enlarged(image: bytes, size: tuple[int, int], mode: str, turn: int) -> bytes:
    """Return an encoded image as a JPEG of `size` (width, height) with the detail of a photograph, moved by `turn`."""
    with Image.open(io.BytesIO(image)) as small:
        large = small.convert(mode).resize(size, Image.Resampling.BICUBIC)
    grain = ImageChops.offset(detail(*size, mode), 37 * turn, 23 * turn)
    pixels = np.asarray(ImageChops.add(large, grain, 1, -128))
    grey = mode == "L"
    body: bytes = simplejpeg.encode_jpeg(pixels[:, :, None] if grey else pixels, 85, "GRAY" if grey else "RGB")
    return body


# For networks of 32 pixels: an eighth with much to spare, then an eighth, a quarter and a half as near as it goes.
@pytest.mark.parametrize(
    ("size", "factor"),
    [pytest.param((1600, 1200), 8, marks=pytest.mark.slow), ((424, 318), 8), ((212, 158), 4), ((106, 79), 2)],
    ids=str,
)
def test_a_large_jpeg_is_answered_as_if_decoded_in_full(
    trained: RunningServer, run: Path, size: tuple[int, int], factor: int
) -> None:
    same = right = 0
    classifier, evaluated = Classifier(run / "model.pt"), evaluation(run)
    mode = "L" if classifier.spec.preprocess.colour == "grey" else "RGB"

    def ask(image: bytes, row: int) -> tuple[bytes, str]:
        body = enlarged(image, size, mode, row)
        return body, trained.client.predict(body, f"{run.name}-fp32").label

    # Spread over all test images: they may be in the order of their classes.
    rows = np.linspace(0, len(evaluated.labels) - 1, PHOTOS).astype(int).tolist()
    images = list(evaluated.images())
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(ask, [images[row] for row in rows], rows)
        for row, (body, label) in zip(rows, answers, strict=True):
            full = in_full(classifier, body)
            same += label == full
            right += full == classifier.spec.classes[evaluated.labels[row]]
    part = decode(body, smallest=classifier.preprocess.shortest_side)
    assert tuple(part.shape[1:]) == (-(-size[1] // factor), -(-size[0] // factor))
    assert right > 0.9 * PHOTOS  # they are still pictures that the network knows
    assert same >= LEAST_SAME * PHOTOS


def in_full(classifier: Classifier, body: bytes) -> str:
    """Return the label of a JPEG whose every pixel is decoded."""
    pixels = decode(body, colour=classifier.spec.preprocess.colour, smallest=None)
    return next(iter(classifier.encode(classifier.predict([classifier.preprocess.resize(pixels)]))[0]))


def test_the_short_cut_on_a_cpu_answers_as_kornia_does(run: Path) -> None:
    """Resized in uint8 and normalised in one pass, against the float reference and Kornia's own normalisation."""
    images = list(evaluation(run).images())
    classifier = Classifier(run / "model.pt")
    preprocess, colour = classifier.preprocess, classifier.spec.preprocess.colour
    fast = classifier.predict([image for image in classifier.decode(images) if isinstance(image, torch.Tensor)])
    pixels = torch.stack([preprocess.reference(decode(image, colour=colour)) for image in images])
    inputs = kornia.enhance.normalize(pixels, preprocess.mean, preprocess.std)
    with torch.inference_mode():
        logits = torchscript.load(run / "model.pt").module(inputs)
        exact = (logits / classifier.spec.temperature).softmax(dim=1)
    assert len(fast) == len(images) >= 500
    assert int((fast.argmax(1) == exact.argmax(1)).sum()) >= LEAST_SAME * len(images)
