"""The models of all five data sets, from raw files to served answers, in one server at once."""

import importlib
import shutil
from pathlib import Path

import pytest

from pipeline import agreement
from serving import archive
from serving import server as server_module
from serving.client import Client
from serving.host.resources import Resources
from tests.server.conftest import CONFIG, free_offset
from tests.unit.test_generate import SCALES
from training import configuration, evaluate
from training.data import prepare
from training.train import train

QUICK = (
    *("network=small_cnn", "network.layers=[{channels: 8, pool: max}, {channels: 16, pool: max}]", "processes=1"),
    *("dataset.image_size=32", "augmentation=[]", "trainer.epochs=1", "trainer.batch_size=8", "trainer.ema=0"),
    *("trainer.mix={mixup: 0.0, cutmix: 0.0, p: 0.0}", "trainer.train_size=null", "split.test=folds", "split.folds=2"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a trained, evaluated and archived network of each data set."""
    home = tmp_path_factory.mktemp("five")
    shutil.copy(CONFIG, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name, scale in SCALES.items():
            generate = importlib.import_module(f"synthetic.{name}").generate
            generate(home / "raw" / name, workers=1, **{**scale, "images_per_class": 6})
            settings = [*QUICK, f"dataset={name}", f"name={name}"]
            assert prepare.main([*settings, f"raw=raw/{name}"]) == 0
            evaluate.run(train(configuration.compose(settings)))
            archive.build(name, "1.0", overrides=["handler.precision=fp32"], rehearse=False)
    return home


@pytest.mark.slow
def test_five_models_share_one_server_and_each_answers_as_it_was_evaluated(home: Path) -> None:
    started = server_module.start(root=home, offset=free_offset(24_000))
    try:
        assert {(each.name, each.version, each.ready) for each in started.models} == {
            (name, "1.0", True) for name in SCALES
        }
        workers = Resources.of_this_machine(len(SCALES)).workers
        assert {len(each.workers) for each in started.models} == {workers}
        with Client(root=home) as client:
            for name in SCALES:
                found = agreement.compare(home / "runs" / name, name, None, client=client)
                assert found["images"] > 0 and found["refused"] == 0 and agreement.allowed(found), (name, found)
    finally:
        server_module.stop(root=home)
