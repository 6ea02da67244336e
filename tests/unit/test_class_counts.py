"""Which classes are named for their few images."""

from training.data.class_counts import FEW, remarks


def test_classes_with_few_images_are_named_and_no_others() -> None:
    assert remarks({"a": FEW, "b": 1000}) == []
    (line,) = remarks({"a": FEW - 1, "b": FEW})
    assert line.startswith(f"fewer than {FEW} images to train on: 1 class, 'a' {FEW - 1}.")
    absent, few = remarks({"none": 0, **{f"c{number}": 1 for number in range(7)}})
    assert absent.endswith("1 class, 'none'") and "7 classes, 'c0' 1, " in few and "and 2 more" in few
