from pathlib import Path

import pytest
from omegaconf import OmegaConf

from serving.store import model_store
from serving.store.model_store import ArchiveError
from training.configuration import (
    CONFIGS,
    ConfigurationError,
    compose,
    load,
    plain,
    quoted,
    run_folder,
    store_folder,
    unquoted,
)
from training.data.prepare import recipe_from
from training.evaluate import settings

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
    with pytest.raises(ConfigurationError, match=r"config\.yaml does not exist: train first"):
        load(tmp_path / "nothing")


LOOKS_TYPED = (
    *("1.10", "2024_01", "1e3", "null", "true", "007", "on", "0x1f", "1_000", "no", "inf", "nan", "0o7", "0b1"),
    *("None", "False", "1e-3", "12", "0", "y", "N", "off", "3.0.0", "1E5", "2024-01-01", "a.b", "a-b", "A_", "x" * 64),
)
NOT_A_NAME = (
    *(
        "",
        "..",
        ".",
        "a/b",
        "../a",
        "/a",
        "-a",
        "a-",
        "a.",
        "1.",
        ".5",
        "a b",
        "a:b",
        "12:30",
        "~",
        "ä",
        "x" * 65,
        "a\nb",
    ),
    *("{a}", "[a]", "a,b", "a=b", "${seed}", "'a", "a'b", "#a", "a\x00b", "token", "tokens", "a\\b", "*"),
)


@pytest.mark.parametrize("name", LOOKS_TYPED)
def test_a_name_is_text_whatever_it_looks_like(name: str, tmp_path: Path) -> None:
    config = compose([f"name={name}", "dataset=petals"])
    assert (config.name, config.store) == (name, name)
    assert (run_folder(config), store_folder(config)) == (Path("runs") / name, Path("data/processed") / name)
    assert compose([f"store={name}"]).store == name and compose([f"raw={name}"]).raw == name
    assert compose([f"++name={name}"]).name == name
    OmegaConf.save(OmegaConf.create(plain(config)), tmp_path / "config.yaml")
    kept = load(tmp_path)
    assert (kept.name, kept.store, run_folder(kept)) == (name, name, Path("runs") / name)
    assert settings([f"name={name}"], {"name": ""}) == {"name": name}
    assert (
        settings([quoted("name", name)], {"name": ""}) == {"name": name}
        and compose([quoted("name", name)]).name == name
    )
    model_store.check_name(name)
    assert recipe_from(config).name == name


@pytest.mark.parametrize("name", NOT_A_NAME)
def test_what_cannot_be_a_name_is_one_line_in_every_verb(name: str) -> None:
    with pytest.raises(ArchiveError, match="cannot name a model") as refused:
        model_store.check_name(name)
    assert "\n" not in str(refused.value)
    for parse in (lambda: compose([f"name={name}"]), lambda: settings([f"name={name}"], {"name": ""})):
        with pytest.raises(ConfigurationError) as caught:
            parse()
        assert "\n" not in str(caught.value)


def test_a_fold_is_a_run_of_its_own() -> None:
    assert run_folder(compose(["name=1.10/fold-3"])) == Path("runs/1.10/fold-3")
    assert settings(["name=a/fold-12"], {"name": ""})["name"] == "a/fold-12"
    for name in ("a/b", "a/fold-", "a/fold-1/b", "../fold-1"):
        with pytest.raises(ConfigurationError, match="cannot name a model"):
            compose([f"name={name}"])


@pytest.mark.parametrize(
    "text", ["a", "it's", '"a"b', "\\'", "a\\", "${a}", "a\\${b}", "'a'b", "{a}, [b]", " a ", "a\\\n"]
)
def test_quoting_can_be_undone(text: str) -> None:
    assert unquoted(quoted("raw", text).partition("=")[2]) == text
    assert compose([quoted("raw", text)]).raw == text
