from pathlib import Path

import numpy as np
import pytest

from handlers.run_folder import RunFolder
from pipeline.choice import Choice


def written(run: Path, right: int, sure: float, images: int = 100) -> Path:
    """Write the answers of a network that is right on the first `right` of `images`, each with probability `sure`."""
    run.mkdir()
    labels = np.zeros(images, np.int64)
    wrong = np.arange(images) >= right
    probabilities = np.full((images, 2), [sure, 1 - sure], np.float32)
    probabilities[wrong] = [1 - sure, sure]
    np.savez(RunFolder(run).validation, probabilities=probabilities, labels=labels)
    return RunFolder(run).validation


@pytest.mark.parametrize(
    ("first", "second", "deploys"),
    [
        ((90, 0.9), (95, 0.9), True),  # more are right
        ((90, 0.97), (90, 0.9), True),  # as many are right, and the log-loss of the mistakes is lower
        ((90, 0.9), (90, 0.9), False),
        ((90, 0.9), (89, 0.9), False),
        ((90, 0.97), (89, 0.9), True),  # one less is right, which is chance, and the log-loss is lower
        ((90, 0.99), (83, 0.9), False),  # the log-loss is lower, but seven less are no chance
        ((83, 0.8), (90, 0.999), True),  # more are right, though the log-loss is higher
    ],
)
def test_the_better_network_on_validation_is_deployed(
    tmp_path: Path, first: tuple[int, float], second: tuple[int, float], deploys: bool
) -> None:
    choice = Choice.of(written(tmp_path / "first", *first), written(tmp_path / "second", *second))
    assert choice.deploys is deploys
    assert choice.top_1 == (first[0] / 100, second[0] / 100)
    assert ("better than the served network. " in choice.line()) is deploys


def test_the_line_gives_the_figures_of_both_networks(tmp_path: Path) -> None:
    choice = Choice.of(written(tmp_path / "first", 90, 0.9), written(tmp_path / "second", 80, 0.8))
    assert choice.line() == (
        "fine-tuned: not better than the served network, which stays. Of 100 validation images: top-1 90.0% before, "
        "80.0% now; log-loss 0.325 and 0.500; McNemar's p 0.002 (0 gained, 10 lost)"
    )


def test_a_probability_of_0_for_the_true_class_has_a_finite_loss(tmp_path: Path) -> None:
    choice = Choice.of(written(tmp_path / "first", 99, 1.0), written(tmp_path / "second", 99, 0.9))
    assert choice.log_loss[0] == pytest.approx(-np.log(1e-12) / 100) and choice.deploys


def test_p_is_that_of_the_exact_test(tmp_path: Path) -> None:
    choice = Choice.of(written(tmp_path / "first", 90, 0.9), written(tmp_path / "second", 95, 0.9))
    assert (choice.losses, choice.gains) == (0, 5)
    assert choice.p == pytest.approx(2 * 0.5**5)


def test_without_validation_images_the_served_one_stays(tmp_path: Path) -> None:
    choice = Choice.of(written(tmp_path / "first", 0, 0.9, 0), written(tmp_path / "second", 0, 0.9, 0))
    assert not choice.deploys and "no validation images" in choice.line()
