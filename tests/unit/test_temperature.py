"""A temperature is found again from logits that were multiplied by it, and few images do not decide one."""

import pytest
import torch

from training.temperature import HIGH, LEAST_IMAGES, LOW, fit_temperature


def answers(images: int, seed: int = 0, classes: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (N, K) and labels (N,) of a network that is exactly as sure as it is right."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, classes, generator=generator)
    return logits, logits.softmax(dim=1).multinomial(1, generator=generator)[:, 0]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7, 8.0])
def test_the_temperature_of_a_network_that_is_too_sure_or_not_sure_enough_is_found(temperature: float) -> None:
    logits, labels = answers(20_000)
    found = fit_temperature(temperature * logits, labels)
    assert found.value == pytest.approx(temperature, rel=0.03)
    assert found.log_loss is not None and found.log_loss_unscaled is not None
    assert found.log_loss <= found.log_loss_unscaled + 1e-6
    loss = torch.nn.functional.cross_entropy(logits * temperature / found.value, labels)
    assert found.log_loss == pytest.approx(float(loss), abs=1e-4)
    assert found.says.startswith(f"temperature {found.value:g}: log-loss ") and "20000 validation images" in found.says


def test_the_temperature_has_the_least_log_loss_of_all_there_are() -> None:
    logits, labels = answers(3000, seed=1)
    logits = logits * 1.7
    found = fit_temperature(logits, labels)

    def loss(temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / temperature, labels))

    grid = torch.linspace(LOW, HIGH, 2000).tolist()
    assert loss(found.value) <= min(map(loss, grid)) + 1e-6


def test_few_images_leave_the_probabilities_as_they_are() -> None:
    logits, labels = answers(LEAST_IMAGES)
    for images in (0, 1, LEAST_IMAGES - 1):
        found = fit_temperature(3 * logits[:images], labels[:images])
        assert found.value == 1 and found.log_loss is None
        assert found.says == f"temperature 1: fewer than 50 validation images ({images}) to fit it on"
    assert fit_temperature(3 * logits, labels).value > 1.5


@pytest.mark.parametrize("images", [50, 5000])
def test_images_that_are_all_right_count_as_if_one_were_not(images: int) -> None:
    labels = torch.arange(images) % 4
    logits = torch.nn.functional.one_hot(labels, 4) * 3.0  # 0.87 sure
    found = fit_temperature(logits, labels)
    sure = float((logits[0] / found.value).softmax(0).max())
    assert LOW < found.value < 1 and sure == pytest.approx((images + 1) / (images + 2), rel=1e-3)
    assert found.says.endswith(f"{images} validation images, all right: fitted as if one more were wrong")


@pytest.mark.parametrize("logits", [torch.zeros(60, 3), torch.ones(60, 1)])
def test_a_network_that_answers_all_images_alike_keeps_a_temperature_of_1(logits: torch.Tensor) -> None:
    assert fit_temperature(logits, torch.zeros(60, dtype=torch.int64)).value == 1


def test_a_network_that_is_worse_than_chance_is_made_unsure() -> None:
    logits, labels = answers(500)
    assert fit_temperature(-logits, labels).value > 0.98 * HIGH
