"""The search over images and widths, and what a run of the grid is told."""

import numpy as np
import pytest

from benchmarks import data_efficiency
from training import configuration
from training.data.splits import SplitSpec, split


@pytest.mark.parametrize(
    ("frontier", "expected"),
    [
        ({4: 80, 8: 20, 16: 5}, [(4, 80), (8, 20), (16, 5)]),
        ({4: None, 8: 160, 16: 40}, [(8, 160), (16, 40)]),
        ({4: 10, 8: 10, 16: 10}, [(4, 10)]),
        ({4: None, 8: None, 16: None}, []),
        ({4: 5, 8: 5, 16: 5}, [(4, 5)]),
    ],
)
def test_search_finds_the_frontier(frontier: dict[int, int | None], expected: list[tuple[int, int]]) -> None:
    asked: list[tuple[int, int]] = []

    def reaches(width: int, images: int) -> bool:
        asked.append((width, images))
        least = frontier[width]
        return least is not None and images >= least

    assert data_efficiency.search([16, 4, 8], [5, 10, 20, 40, 80, 160], reaches) == expected
    assert len(asked) == len(set(asked)) < 18


def test_a_run_of_the_grid() -> None:
    config = configuration.compose(
        ["dataset=fingers", "network=small_cnn", "name=small", "trainer.epochs=8", "trainer.batch_size=64"]
    )
    before = [layer.channels for layer in config.network.layers]
    one = data_efficiency.narrowed(config, 8, 10, rows=3240, classes=12)
    assert [layer.channels * before[0] for layer in one.network.layers] == [8 * channels for channels in before]
    assert one.split.images_per_class == 10
    assert one.name == "small/w8-n10"
    # 3240 images are 50 batches an epoch, 120 images are one: eight epochs of the one are 400 of the other.
    assert one.trainer.epochs == 400
    assert data_efficiency.narrowed(config, 32, 270, rows=3240, classes=12).trainer.epochs == 8
    assert [layer.channels for layer in config.network.layers] == before


def test_a_network_without_layers_is_refused() -> None:
    config = configuration.compose(["dataset=fingers", "network=resnet18"])
    with pytest.raises(configuration.ConfigurationError, match="network=small_cnn"):
        data_efficiency.narrowed(config, 8, 10, rows=100, classes=12)


@pytest.mark.parametrize("argument", ["images=5", "target=high", "widths=4"])
def test_a_setting_of_the_wrong_type_is_named(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_efficiency.main(["raw", "dataset=fingers", "name=small", argument]) == 1
    assert argument.partition("=")[0] in capsys.readouterr().err


def test_fewer_images_are_among_the_more_and_validation_stays() -> None:
    labels = np.arange(300) % 3
    sides, none = np.zeros(300, bool), np.full(300, -1)
    content = np.arange(300, dtype=np.uint64)
    whole, forty, four = (
        split(SplitSpec(test="folds", folds=5, images_per_class=images), labels, sides, content, none, none)
        for images in (None, 40, 4)
    )
    assert np.bincount(labels[forty.train]).tolist() == [40, 40, 40]
    assert np.bincount(labels[four.train]).tolist() == [4, 4, 4]
    assert set(four.train) < set(forty.train) < set(whole.train)
    for few in (forty, four):
        assert few.validation.tolist() == whole.validation.tolist()
        assert few.test.tolist() == whole.test.tolist()
    with pytest.raises(ValueError, match="images_per_class is 0"):
        SplitSpec(images_per_class=0)
