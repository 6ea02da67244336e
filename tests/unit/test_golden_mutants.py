"""Golden images refuse each of ten broken copies of `handlers`, in every precision, and none that is whole.

`tests/campaigns/golden.py` does so on four data sets.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from handlers import golden
from handlers.classifier import Classifier
from handlers.network import torchscript
from serving import archive
from serving.store import package
from serving.store.model_store import ArchiveError
from serving.verify import verify
from tests.campaigns import golden_loads, mutants
from tests.campaigns.mutants import MUTANTS
from tests.unit.small_network import SmallNetwork, small_spec
from tests.unit.test_classifier import png
from training.cards import cards
from training.quantization import quantize

PRECISIONS = ("fp32", "bf16", "int8")
SIDE = 32
Reports = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run whose own images are smaller than what the network takes: only drawn ones are shrunk."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    torch.manual_seed(0)
    network, spec = SmallNetwork().eval(), small_spec(size=SIDE, resize="crop")
    torchscript.save(network, spec, folder / "model.pt")
    batch = torch.randn(16, *spec.preprocess.shape, generator=torch.Generator().manual_seed(0))
    torchscript.save_quantized(quantize(network, [batch]), spec, folder / "model.pt")
    exact, rounded = (Classifier(folder / "model.pt", precision=precision) for precision in ("fp32", "int8"))
    own = golden.of(exact, {f"{seed}.png": png(seed) for seed in range(6)}, int8=rounded)
    golden.write([*own, *golden.of(exact, cards(SIDE), int8=rounded, drawn=True)], folder / golden.FILE)
    return folder


@pytest.fixture(scope="module")
def reports(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Reports:
    """Return what loading gave, for each mutant ("": none) and precision."""
    scratch = tmp_path_factory.mktemp("mutants")
    keys = [(name, precision) for name in ("", *MUTANTS) for precision in PRECISIONS]
    copies = {name: mutants.write(MUTANTS.get(name), scratch / (name or "whole")) for name in ("", *MUTANTS)}
    loads = [
        {
            "handlers": str(copies[name]),
            "weights": str(run / "model.pt"),
            "config": {"batchSize": 4, "minWorkers": 64, "handler": {"precision": precision}},
        }
        for name, precision in keys
    ]
    (scratch / "loads.json").write_text(json.dumps(loads))
    command = [sys.executable, golden_loads.__file__, str(scratch / "loads.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(zip(keys, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("name", MUTANTS)
def test_a_worker_refuses_a_mutant_in_every_precision(reports: Reports, name: str) -> None:
    for precision in PRECISIONS:
        report = reports[name, precision]
        assert report["digest"] != reports["", precision]["digest"], "the mutant changes nothing here"
        assert report["refused"] is not None, precision
        what = "answered otherwise" if name == "constant answer" else "with other pixels than when it was exported"
        assert what in report["refused"]


def test_a_worker_takes_what_is_whole_in_every_precision(reports: Reports) -> None:
    assert [reports["", precision]["refused"] for precision in PRECISIONS] == [None] * 3


def test_the_images_of_the_data_set_itself_show_less(reports: Reports) -> None:
    """Smaller than what the network takes, they are never decoded at a part of their size."""
    whole = reports["", "fp32"]["own"]
    unseen = [name for name in MUTANTS if reports[name, "fp32"]["own"] == whole]
    assert {"EXIF ignored", "decoded in full", "decoded too small"} <= set(unseen)


@pytest.mark.parametrize(("name", "precision"), [("black", "fp32"), ("constant answer", "bf16")])
def test_archive_and_verify_refuse_a_mutant(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    monkeypatch.setattr(package, "HANDLERS", mutants.write(MUTANTS[name], tmp_path))
    settings, store = [f"handler.precision={precision}"], tmp_path / "store"
    with pytest.raises(ArchiveError, match=r"small 1\.0 cannot be served: GoldenError: golden images? "):
        archive.build("small", "1.0", run=run, store=store, overrides=settings)
    assert list(store.iterdir()) == []
    built = archive.build("small", "1.0", run=run, store=store, overrides=settings, rehearse=False)
    with pytest.raises(ArchiveError, match=r"small 1\.0 cannot be served: GoldenError: golden images? "):
        verify(built)


def test_an_edit_that_does_not_fit_any_more_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"engine\.py has 'no such line' 0 times"):
        mutants.write(mutants.Mutant("network/engine.py", "no such line", ""), tmp_path)
