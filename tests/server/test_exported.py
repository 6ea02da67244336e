"""A network compiled ahead of time behind TorchServe: an archive of `model.pt2` answers as the package in process."""

import shutil
from pathlib import Path

import pytest
import torch

from handlers.classifier import Classifier
from handlers.network import aot, torchscript
from serving import archive
from tests.server.conftest import CLASSES, RunningServer, Tiny, picture

pytestmark = [
    pytest.mark.slow,  # tests/unit/test_export.py rehearses such an archive in a stand-in worker
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler: apt-get install g++"),
]
NAME = "compiled"


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the run of `shapes` with its network compiled as well, in one precision: each takes seconds."""
    run = root / "runs" / "shapes"
    monkeypatch.setattr(aot, "PRECISIONS", ("fp32",))
    torch.manual_seed(0)  # as `export` makes it
    aot.save(Tiny(len(CLASSES["shapes"])).eval(), torchscript.load(run / "model.pt").spec, run / "model.pt2")
    return run


def test_a_compiled_network_is_served_and_answers_as_in_process(server: RunningServer, root: Path, run: Path) -> None:
    overrides = ["handler.precision=fp32", "minWorkers=1"]
    built = archive.build(NAME, "1.0", run=run, store=root / "model_store", kind="pt2", overrides=overrides)
    images = [picture(seed) for seed in range(8)]
    with server.also_serving([built]):
        served = [server.client.predict(image, NAME).probabilities for image in images]
    for name in ("model.pt2", "model.pt"):
        for answer, inside in zip(served, Classifier(run / name).classify(images), strict=True):
            assert isinstance(inside, dict) and answer == pytest.approx(inside, abs=1e-5)
