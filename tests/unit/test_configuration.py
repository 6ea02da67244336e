from pathlib import Path

import pytest
from omegaconf import OmegaConf

from training.configuration import CONFIGS, ConfigurationError, compose, load, plain, run_folder, store_folder

DATASETS = sorted(path.stem for path in (CONFIGS / "dataset").glob("*.yaml"))
NETWORKS = sorted(path.stem for path in (CONFIGS / "network").glob("*.yaml"))


@pytest.mark.parametrize("name", DATASETS)
def test_each_data_set_composes(name: str) -> None:
    config = compose([f"dataset={name}"])
    assert config.dataset.name == name == config.name and config.dataset.image_size > 0
    assert plain(config)["augmentation"], "a recipe without any augmentation overfits"


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_can_be_chosen_for_each_data_set(name: str) -> None:
    kind = OmegaConf.select(OmegaConf.load(CONFIGS / "network" / f"{name}.yaml"), "kind")
    for dataset in DATASETS:
        config = compose([f"dataset={dataset}", f"network={name}"])
        assert config.network.kind == kind


def test_overrides_beat_the_recipe() -> None:
    config = compose(["dataset=petals", "trainer.epochs=3", "name=mine"])
    assert config.trainer.epochs == 3
    assert (run_folder(config), store_folder(config)) == (Path("runs/mine"), Path("data/processed/mine"))
    assert store_folder(compose(["name=mine", "store=petals"])) == Path("data/processed/petals")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.epoch=3", "no setting 'trainer.epoch'; near it: trainer.epochs"),
        ("networks=vgg16", "no setting 'networks'; near it: network"),
        ("dataset=petal", "'dataset/petal'.*petals"),
        ("nonsense", "nonsense"),
        ("trainer.epochs=[", "no viable alternative"),
        ("name=${nothing}", "nothing"),
    ],
)
def test_what_does_not_fit_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        compose([override])
    assert "\n" not in str(caught.value)


def test_a_run_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"config\.yaml is not there: train first"):
        load(tmp_path / "nothing")
