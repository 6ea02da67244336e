from typing import Any

import pytest
import torch

from training.augmentation import IN_BF16, Augmentation, Mix, operation_names
from training.configuration import CONFIGS, ConfigurationError, compose, plain

HANDS = ("0L", "0R", "1L", "1R")
SWAP = {"0L": "0R", "0R": "0L", "1L": "1R", "1R": "1L"}


def augmentation(*recipe: dict[str, Any], classes: tuple[str, ...] = HANDS, channels: int = 3) -> Augmentation:
    return Augmentation(recipe, classes, channels, 24)


def test_a_mirrored_left_hand_is_a_right_hand(device: torch.device) -> None:
    flip = augmentation({"op": "RandomHorizontalFlip", "p": 0.5, "label_map": SWAP}).to(device)
    images, labels = torch.rand(64, 3, 24, 24, device=device), torch.arange(64, device=device) % 4
    changed, found = flip(images, labels)
    mirrored = (changed == images.flip(-1)).flatten(1).all(dim=1)
    assert 10 < int(mirrored.sum()) < 54
    assert torch.equal(found, torch.where(mirrored, labels ^ 1, labels))


def test_a_flip_without_a_map_keeps_the_labels() -> None:
    images, labels = torch.rand(8, 3, 24, 24), torch.arange(8) % 4
    changed, found = augmentation({"op": "RandomHorizontalFlip", "p": 1.0})(images, labels)
    assert torch.equal(changed, images.flip(-1)) and torch.equal(found, labels)


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "RandomAffine", "degrees": 15, "translate": [0.1, 0.1], "scale": [0.9, 1.1], "p": 1.0},
        {"op": "RandomResizedCrop", "scale": [0.4, 0.6], "p": 1.0},
        {"op": "RandomElasticTransform", "kernel_size": [15, 15], "sigma": [4.0, 4.0], "p": 1.0},
        {"op": "RandomThinPlateSpline", "scale": 0.1, "p": 1.0},
        {"op": "RandomGaussianBlur", "kernel_size": [3, 3], "sigma": [0.5, 1.0], "p": 1.0},
        {"op": "RandomGaussianNoise", "std": 0.5, "p": 1.0},
        {"op": "RandomErasing", "p": 1.0},
        {"op": "ColorJitter", "brightness": 0.5, "contrast": 0.5, "p": 1.0},
        {"op": "RandAugment", "n": 2, "m": 10},
        {"op": "TrivialAugment"},
    ],
    ids=lambda operation: operation["op"],
)
def test_operations_change_images_and_stay_in_range(operation: dict[str, Any], device: torch.device) -> None:
    change = augmentation(operation).to(device)
    images, labels = torch.rand(16, 3, 24, 24, device=device), torch.zeros(16, dtype=torch.int64, device=device)
    changed, found = change(images, labels)
    assert changed.shape == images.shape and changed.device.type == device.type and torch.equal(found, labels)
    assert not torch.equal(changed, images) and changed.min() >= 0 and changed.max() <= 1


OPTIONS: dict[str, dict[str, Any]] = {
    "ColorJitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
    "ColorJiggle": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
    "RandomBrightness": {"brightness": [0.8, 1.2]},
    "RandomContrast": {"contrast": [0.8, 1.2]},
    "RandomSaturation": {"saturation": [0.8, 1.2]},
    "RandomHue": {"hue": [-0.1, 0.1]},
    "RandomGaussianBlur": {"kernel_size": [5, 5], "sigma": [0.1, 2.0]},
}


@pytest.mark.parametrize("name", IN_BF16)
def test_colours_are_changed_in_bf16_as_in_float32(name: str, device: torch.device) -> None:
    (operation,) = augmentation({"op": name, "p": 1.0, **OPTIONS.get(name, {})}).to(device).operations
    change: Any = operation.change
    images = torch.rand(16, 3, 24, 24, generator=torch.Generator().manual_seed(0)).to(device)
    expected = change(images)
    found = change(images.bfloat16(), params=change._params)
    assert found.dtype == torch.bfloat16
    assert float((found.clamp(0, 1).float() - expected.clamp(0, 1)).abs().mean()) < 1 / 255


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "RandomAffine", "degrees": 15, "translate": [0.1, 0.1], "scale": [0.9, 1.1], "p": 1.0},
        {"op": "RandomResizedCrop", "scale": [0.4, 0.6], "p": 1.0},
        {"op": "RandomPerspective", "distortion_scale": 0.3, "p": 1.0},
        {"op": "RandomHorizontalFlip", "p": 1.0},
    ],
    ids=lambda operation: operation["op"],
)
def test_pixels_are_moved_to_the_same_places_in_bf16(operation: dict[str, Any], device: torch.device) -> None:
    change = Augmentation([operation], HANDS, 3, 224).to(device)
    images, labels = torch.rand(4, 3, 224, 224).to(device), torch.zeros(4, dtype=torch.int64, device=device)
    made = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(1)
        changed, _ = change(images.to(dtype), labels)
        assert changed.dtype == dtype
        made.append(changed.float())
    assert float((made[0] - made[1]).abs().max()) < 2.5 / 255, "noise shows each fraction of a pixel"


def test_what_is_drawn_at_random_stays_on_the_cpu_in_float32() -> None:
    changes = augmentation({"op": "RandomAffine", "degrees": 10}, {"op": "ColorJitter", "contrast": 0.2})
    changes.to(torch.float64)  # where Kornia would draw in it, as it would on a GPU
    operations: Any = changes.operations
    assert [operation.change.dtype for operation in operations] == 2 * [torch.float32]


def test_the_same_random_state_gives_the_same_batch() -> None:
    change = augmentation({"op": "RandomAffine", "degrees": 30, "p": 0.5}, {"op": "RandomGaussianNoise", "p": 0.5})
    images, labels = torch.rand(8, 3, 24, 24), torch.zeros(8, dtype=torch.int64)
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(change(images, labels)[0])
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONFIGS / "dataset").glob("*.yaml")))
def test_the_recipe_of_each_data_set_can_be_built(name: str) -> None:
    config = plain(compose([f"dataset={name}"]))
    classes = [f"{count}{hand}" for hand in "LR" for count in range(6)]
    channels = 1 if config["dataset"]["colour"] == "grey" else 3
    change = Augmentation(config["augmentation"], classes, channels, 32)
    assert len(change.operations) == len(config["augmentation"])


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ({"op": "RandomAfine"}, r"augmentation\[0\] names 'RandomAfine'.*near it: RandomAffine"),
        ({"op": "RandomAffine", "degree": 3}, "RandomAffine has no parameter 'degree'; near it: degrees"),
        ({"op": "RandomAffine", "degrees": "many"}, "RandomAffine does not take"),
        ({"op": "RandomHorizontalFlip", "label_map": {"0L": "9R"}}, "'9R', which is not a class"),
        ({"op": "RandomHorizontalFlip", "p_batch": 0.5}, "has no p_batch here: give p"),
        ({"op": "RandomCrop", "size": [8, 8]}, "leave out its size"),
        ({"degrees": 3}, "names ''"),
    ],
)
def test_mistakes_name_what_was_meant(operation: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        augmentation(operation)


def test_colours_of_grey_images_are_refused_before_training() -> None:
    with pytest.raises(ConfigurationError, match="RandomHue cannot take images of 1 x 24"):
        augmentation({"op": "RandomHue", "hue": [0.1, 0.2], "p": 1.0}, channels=1)
    with pytest.raises(ConfigurationError, match="RandomHue cannot take images of 1 x 24"):
        augmentation({"op": "RandomHue", "hue": [0.1, 0.2], "p": 0.001}, channels=1)  # seldom drawn


def test_only_what_keeps_one_image_one_image_is_offered() -> None:
    assert {"RandomAffine", "TrivialAugment", "ColorJitter"} <= set(operation_names())
    assert not any(name.endswith(("3D", "V2")) for name in operation_names())


def test_mixing_makes_soft_labels_that_sum_to_one() -> None:
    images, labels = torch.rand(8, 3, 24, 24), torch.arange(8) % 4
    for alphas in ({"mixup": 1.0}, {"cutmix": 1.0}):
        mixed, targets = Mix(**alphas, p=1.0, classes=4)(images, labels)
        assert mixed.shape == images.shape and targets.shape == (8, 4)
        assert torch.allclose(targets.sum(dim=1), torch.ones(8)) and ((targets > 0) & (targets < 1)).any()
    same, hard = Mix(mixup=1.0, p=0.0, classes=4)(images, labels)
    assert same is images and hard is labels
    with pytest.raises(ConfigurationError, match=r"trainer\.mix"):
        Mix(mixup=-1.0, p=1.0, classes=4)


def test_an_operation_changes_the_part_of_the_images_that_its_probability_says(device: torch.device) -> None:
    images, labels = torch.full((1000, 1, 24, 24), 0.25).to(device), torch.zeros(1000, dtype=torch.int64).to(device)
    values = augmentation({"op": "RandomInvert", "p": 0.3}, channels=1).to(device)(images, labels)[0].amax((1, 2, 3))
    assert set(values.tolist()) == {0.25, 0.75} and 240 < int((values == 0.75).sum()) < 360
    assert float(images.max()) == 0.25, "the images of the caller have changed"
    sides = set()
    flip = augmentation({"op": "RandomHorizontalFlip", "label_map": SWAP, "same_on_batch": True}).to(device)
    ramp = torch.linspace(0, 1, 24, device=device).expand(4, 3, 24, 24)
    for _ in range(20):
        flipped, found = flip(ramp, torch.zeros(4, dtype=torch.int64, device=device))
        sides.add((tuple(found.tolist()), bool(flipped[0, 0, 0, 0] > 0.5), bool((flipped == flipped[0]).all())))
    assert sides == {((0,) * 4, False, True), ((1,) * 4, True, True)}, (
        "all images of a batch, with their labels, or none"
    )
    recipes: list[dict[str, Any]] = [{"op": "RandomInvert", "same_on_batch": True}, {"op": "RandomInvert", "p": 0.0}]
    for recipe in recipes:
        assert len(set(augmentation(recipe, channels=1).to(device)(images, labels)[0].flatten().tolist())) == 1


def test_operations_change_a_single_image_too(device: torch.device) -> None:
    image, labels = torch.rand(1, 3, 24, 24).to(device), torch.zeros(1, dtype=torch.int64).to(device)
    built = 0
    for name in operation_names():
        try:
            change = augmentation({"op": name, **OPTIONS.get(name, {})}).to(device)
        except ConfigurationError:  # some need parameters
            continue
        operation: Any = change.operations[0]
        assert operation.changed(image).shape == operation(image, labels)[0].shape == image.shape, name
        built += 1
    assert built > 25
