"""A real server's exporter sees drift in the images that its two workers answer."""

import itertools
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from handlers.classifier import Classifier
from handlers.observation.measurements import statistics_of
from handlers.spec import REFERENCE
from serving import archive
from serving import server as server_module
from serving.client import Client, Prediction
from serving.lifecycle import exporter
from tests.server.conftest import CONFIG, ROOT, free_offset, picture
from tests.server.test_metrics import samples
from tests.unit.banked_network import save_banked
from tests.until import until
from training.transfer import reference

NAME, WINDOW = "watched", 100


def save_watched(folder: Path, size: tuple[int, int] = (48, 40)) -> Path:
    """Write an artifact with a bank, and the reference of 150 pictures of some size beside it."""
    weights = save_banked(folder)
    classifier = Classifier(weights)
    decoded = classifier.decode([picture(seed, size) for seed in range(300)])
    images = [image for image in decoded if isinstance(image, torch.Tensor)]
    outputs, classes = classifier.outputs(images), len(classifier.spec.classes)
    logits, embeddings = outputs[:, :classes], outputs[:, classes:]
    built = reference.build(
        embeddings[:150].numpy(),
        embeddings[150:].numpy(),
        np.array(statistics_of(images[150:])),
        logits[150:] / classifier.spec.temperature,
        logits[150:].argmax(dim=1).numpy(),
    )
    built.write(weights.with_name(REFERENCE))
    return weights


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the directory of a server of one model, with an exporter beside it."""
    root = tmp_path_factory.mktemp("drift")
    shutil.copy(CONFIG, root)
    run = save_watched(root / "runs" / NAME).parent
    settings = ["handler.precision=fp32", "minWorkers=2", "maxWorkers=2"]
    archive.build(NAME, "1.0", run=run, store=root / "model_store", overrides=settings, rehearse=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        server_module.start([f"{NAME}=1.0"], root=root, offset=free_offset(27_000))
        try:
            with exporter.beside(root):
                yield root
        finally:
            server_module.stop(root=root)


def send(home: Path, images: Iterable[bytes]) -> None:
    with Client(root=home) as client:
        assert all(isinstance(answer, Prediction) for answer in client.predict_many(images, NAME))


def drift(home: Path, name: str, **labels: str) -> float | None:
    """Return one gauge of the window of 100 images."""
    key = frozenset({"model": NAME, "version": "1.0", "window": str(WINDOW), **labels}.items())
    return samples(home).get((f"sightline_{name}", key))


@pytest.mark.slow
def test_drift_is_seen_while_the_server_answers(home: Path) -> None:
    seeds = itertools.count(1000)

    def detected(size: tuple[int, int]) -> float | None:
        """Send images, of which busy workers measure some; return whether drift is seen."""
        send(home, (picture(seed, size=size) for seed in itertools.islice(seeds, WINDOW)))
        return drift(home, "drift_detected", kind="input")

    until(lambda: detected((48, 40)) == 0, 60)
    mmd, threshold = drift(home, "drift_mmd"), drift(home, "drift_mmd_threshold")
    assert mmd is not None and threshold is not None and mmd < threshold
    until(lambda: detected((9, 7)) == 1, 60)  # blurred
    assert drift(home, "drift_detected", kind="label") == 0
    assert drift(home, "estimated_accuracy") is not None
